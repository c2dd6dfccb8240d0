"""A container in which stock nbgrader may meet a hostile notebook without harm to this machine.

    root ──► cgroups: memory and number of processes
       └─ bwrap: own pid, network, IPC, host and cgroup namespaces; everything read-only;
            │    what can be written lies in sized tmpfs and is gone at the end
            └─ harness (keeps five capabilities): prepares, watches, looks what came of it
                 └─ nbgrader, as a user without rights, and the notebooks it runs

Needs root, bubblewrap and setpriv. The cgroups are those of version 1, where they can be written;
elsewhere limits for each process have to do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path("/home/grader")  # in the container
USER = 64_321  # who runs nbgrader there; nobody on this machine
MEMORY = 3_000_000_000  # B, of all processes and files in the container together
PROCESSES = 400
WRITABLE = {"/tmp": 300, str(HOME): 600, "/dev/shm": 100, "/run": 10, "/var/tmp": 10}  # MB
CAPABILITIES = ("SETUID", "SETGID", "KILL", "CHOWN", "DAC_READ_SEARCH", "FOWNER")
COUNTER = itertools.count()


def missing() -> str:
    """What keeps this machine from making containers; "" if nothing does."""
    if os.geteuid() != 0:
        return "it takes root to make the container"
    absent = [name for name in ("bwrap", "setpriv") if not shutil.which(name)]
    return f"{absent[0]} is missing" if absent else ""


def run(module: str, arguments: list[str], given: str, template: Path, shadow: str, limit: float):
    """Run `python -m module arguments` as the harness of a new container.

    given: its standard input. template: a folder of this machine, there at /template. shadow: what
    /etc/shadow says in the container. limit: seconds until it is ended.
    Returns what it printed, or None if it had to be ended or was killed.
    """
    with _cgroups() as groups, tempfile.NamedTemporaryFile("w+") as fake:
        fake.write(shadow)
        fake.flush()
        os.chmod(fake.name, 0o644)
        command = _command(template, Path(fake.name))
        enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
        enter += "ulimit -c 0; ulimit -n 4096; "
        shell = ["sh", "-c", f'{enter}exec nice -n 5 "$@"', "box", *command]
        process = subprocess.Popen(
            [*shell, "--", sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            printed, said = process.communicate(given, timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()  # and with it, by --die-with-parent, all that is in the container
            process.communicate()
            return None
        if process.returncode:
            print(said[-2000:], file=sys.stderr)
        return printed if process.returncode == 0 else None


def _command(template: Path, shadow: Path) -> list[str]:
    """The bubblewrap command, to be followed by a program."""
    unshared = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command = ["bwrap", *unshared, "--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    command += ["--clearenv", "--setenv", "PATH", f"{ROOT}/.venv/bin:/usr/local/bin:/usr/bin:/bin"]
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
    shown = [Path(sys.base_prefix), Path(sys.prefix), ROOT / "nbgrader_config.py"]
    shown += [
        ROOT / name for name in ("course_utils", "tests", "benchmarks", "qlora_course.egg-info")
    ]
    for path in shown:
        if path.exists() and not path.is_relative_to("/usr"):
            command += [*_parents(str(path)), "--ro-bind", str(path), str(path)]
    command += ["--ro-bind", str(template), "/template"]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp"]


def _parents(path: str) -> list[str]:
    """Options that make the folders above a path, open to everybody."""
    folders = reversed(Path(path).parents[:-1])
    return [word for f in folders for word in ("--perms", "0755", "--dir", str(f))]


@contextlib.contextmanager
def _cgroups() -> Iterator[list[Path]]:
    """Control groups that bound memory and processes; none where they can't be made."""
    groups = []
    limits = {"memory": ("memory.limit_in_bytes", MEMORY), "pids": ("pids.max", PROCESSES)}
    for kind, (file, most) in limits.items():
        group = Path(f"/sys/fs/cgroup/{kind}/hostile-{os.getpid()}-{next(COUNTER)}")
        with contextlib.suppress(OSError):
            group.mkdir()
            groups.append(group)
            (group / file).write_text(str(most))
    try:
        yield groups
    finally:
        for group in groups:
            _remove(group)


def _remove(group: Path) -> None:
    """Kill what is left in a control group, and remove it."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            for member in (group / "cgroup.procs").read_text().split():
                os.kill(int(member), signal.SIGKILL)
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)
