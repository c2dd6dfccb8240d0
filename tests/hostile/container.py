"""Run stock nbgrader in a container, so that a hostile notebook can't harm this machine.

    root ──► the limits of the sandbox of `course grade`, for memory and processes
       └─ bwrap: separate PID, network, IPC, UTS and cgroup namespaces; all files are read-only,
            │    except in folders of limited size, which are deleted at the end
            └─ harness (keeps six capabilities): prepares the course, and reports the results
                 └─ nbgrader, as a user without privileges, and the notebooks that it runs

The container needs root, bubblewrap and setpriv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from workshop.grading.sandbox.limits import enforce

ROOT = Path(__file__).resolve().parents[2]
# The home folder in the container.
HOME = Path("/home/grader")
# The number of the user who runs nbgrader. No user of this machine should have this number.
USER = 64_321
# Maximum memory of all processes and files in the container together, in bytes (B).
MEMORY = 3_000_000_000
PROCESSES = 400
# The writable folders, and their maximum sizes in MB.
WRITABLE = {"/tmp": 300, str(HOME): 600, "/dev/shm": 100, "/run": 10, "/var/tmp": 10}
CAPABILITIES = ("SETUID", "SETGID", "KILL", "CHOWN", "DAC_READ_SEARCH", "FOWNER")


def missing() -> str:
    """Return why this machine can't run the container; "" if it can."""
    if os.geteuid() != 0:
        return "the container needs root"
    absent = [name for name in ("bwrap", "setpriv") if not shutil.which(name)]
    return f"{absent[0]} is missing" if absent else ""


def run(
    arguments: list[str], stdin: str, template: Path, shadow: str, timeout: float
) -> str | None:
    """Run `python` with these arguments as the harness of a new container.

    Args:
        arguments: The arguments of `python`.
        stdin: The text for the harness's standard input.
        template: A folder of this machine, which is mounted at /template in the container.
        shadow: The content of /etc/shadow in the container.
        timeout: Seconds after which the container is ended.

    Returns:
        The text that the harness printed; None if the harness was ended or failed.
    """
    with (
        enforce(MEMORY, PROCESSES) as limits,
        tempfile.NamedTemporaryFile("w", encoding="utf-8") as file,
    ):
        file.write(shadow)
        file.flush()
        os.chmod(file.name, 0o644)
        # The shell waits for a line until the limits apply to it.
        script = 'ulimit -c 0; ulimit -n 4096; read -r line; exec nice -n 5 "$@"'
        command = ["sh", "-c", script, "container", *_command(template, Path(file.name)), "--"]
        process = subprocess.Popen(
            [*command, sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        limits.add(process.pid)
        try:
            output, errors = process.communicate(f"\n{stdin}", timeout=timeout)
        except subprocess.TimeoutExpired:
            # Because of --die-with-parent, this also ends all processes in the container.
            process.kill()
            process.communicate()
            return None
        if process.returncode:
            print(errors[-2000:], file=sys.stderr)
        return output if process.returncode == 0 else None


def _command(template: Path, shadow: Path) -> list[str]:
    """Return the bubblewrap command, to which the program must be added."""
    unshared = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command = ["bwrap", *unshared, "--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    command += ["--clearenv", "--setenv", "PATH", f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"]
    command += ["--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONPATH", str(ROOT)]
    command += ["--setenv", "OMP_NUM_THREADS", "1", "--setenv", "PYTHONDONTWRITEBYTECODE", "1"]
    command += ["--cap-drop", "ALL"]
    command += [word for name in CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]
    for folder in ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    command += ["--ro-bind", str(shadow), "/etc/shadow", "--proc", "/proc", "--dev", "/dev"]
    for path, size in WRITABLE.items():
        command += [*_parents(path), "--size", str(size * 10**6), "--perms", "1777"]
        command += ["--tmpfs", path]
    folders = ("course_utils", "workshop", "tests", "qlora_course.egg-info")
    readable = [Path(sys.base_prefix), Path(sys.prefix), ROOT / "nbgrader_config.py"]
    for path in (*readable, *(ROOT / name for name in folders)):
        if path.exists() and not path.is_relative_to("/usr"):
            command += [*_parents(str(path)), "--ro-bind", str(path), str(path)]
    command += ["--ro-bind", str(template), "/template"]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp"]


def _parents(path: str) -> list[str]:
    """Return the options that create the folders above a path, readable for all users."""
    folders = reversed(Path(path).parents[:-1])
    return [word for f in folders for word in ("--perms", "0755", "--dir", str(f))]
