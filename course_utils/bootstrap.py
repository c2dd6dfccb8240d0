"""Set up the course in `.venv` and run its command line; only Python has to be installed.

    python3 course_utils/bootstrap.py lab       install the course, fetch the model, open JupyterLab
    python3 course_utils/bootstrap.py help      list the commands, which `cli.py` registers

While `.venv/setup.json` is up to date, a set-up needs only milliseconds. The environment variable
QLORA_CONSTRAINTS can name a file of constraints, which fixes the versions of the packages.

This file runs before anything is installed, so it imports only the standard library. It uses only
the syntax of Python 3.6, so that a Python that is too old for the course can report this problem.
"""

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON, FIRST_UNTESTED_PYTHON = (3, 11), (3, 14)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The disk space in bytes (B) that a set-up needs at least, for .venv (1.9 GB, or 6.0 GB with CUDA),
# pip's cache, the model and later files. PyTorch's build for CUDA needs 12 GB.
NEEDED_BYTES = 4_000_000_000
# Extras that every set-up installs. The extra "instructor" contains nbgrader, which students need
# to submit their answers.
STUDENT = ("instructor", "lab")
# Patterns in pip's error output, and the explanation that the user sees for each pattern.
REASONS = {
    r"No space left on device|not enough space on the disk|Disk quota exceeded": "The disk is full:"
    " free some space (or point TMPDIR at a bigger disk), then run the same command again.",
    r"Retry\(total=0|[Tt]imed out|ConnectionError|ProtocolError|ProxyError|SSLError": "No network: "
    "pip can't reach the package index. Connect this machine to the internet (behind a proxy, set "
    "HTTPS_PROXY, and PIP_CERT to its certificate), then run the same command again.",
}


class SetupError(Exception):
    """An error whose message says what is wrong and what to do."""


def in_venv(*parts):
    """Return the path of a file or folder inside `.venv`."""
    return ROOT.joinpath(".venv", *parts)


def venv_program(name):
    """Return the path of a program in `.venv`, such as "python" or "course"."""
    return in_venv("Scripts", name + ".exe") if os.name == "nt" else in_venv("bin", name)


def registry():
    """Parse cli.py, and return a dict: command name → its extras, the first line of its help."""
    commands = {}
    source = (ROOT / "workshop" / "cli.py").read_text(encoding="utf-8")
    for function in ast.parse(source).body:
        for call in getattr(function, "decorator_list", ()):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "command":
                names = [word.value.value for word in call.keywords if word.arg == "extras"]
                extras = {*STUDENT, *"".join(names).split()}
                commands[call.args[0].value] = extras, ast.get_docstring(function).split("\n")[0]
    return commands


def wants_cpu_torch():
    """Return whether this is Linux without an NVIDIA GPU, and PyTorch's CPU index responds."""
    has_gpu = shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")
    if has_gpu or platform.system() != "Linux":
        return False
    # A separate process sends the request, because urllib's timeout does not limit name look-ups.
    request = "from urllib.request import urlopen; urlopen('{}/torch/', timeout=3)"
    command = [sys.executable, "-c", request.format(TORCH_CPU_INDEX)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.call(command, stderr=subprocess.DEVNULL, timeout=5) == 0
    return False


def check_disk():
    """Raise SetupError if the disk is too full for a first set-up."""
    free = shutil.disk_usage(str(ROOT)).free
    if free < NEEDED_BYTES:
        raise SetupError(
            f"{ROOT} has {free / 1e9:.1f} GB of disk space free, but the course needs about "
            f"{NEEDED_BYTES / 1e9:.1f} GB. Free some, then run the same command again."
        )


def constraints():
    """Return a list with the path that QLORA_CONSTRAINTS names; empty if it names none."""
    name = os.environ.get("QLORA_CONSTRAINTS")
    return [ROOT / name] if name else []


def setup_key():
    """Return a hash of everything that determines an installation, except for the extras."""
    key = hashlib.sha256(os.fsencode(str(ROOT)))
    for path in (ROOT / "pyproject.toml", in_venv("pyvenv.cfg"), *constraints()):
        # A missing file of constraints also changes the key, so that pip runs and reports it.
        key.update(path.read_bytes() if path.exists() else os.fsencode(str(path)))
    return key.hexdigest()


def read_stamp():
    """Return the record of earlier set-ups as a dict; empty if the record is missing or old."""
    stamp = {}
    with contextlib.suppress(OSError, ValueError):
        stamp = json.loads(in_venv("setup.json").read_text(encoding="utf-8"))
    return stamp if stamp.get("key") == setup_key() and venv_program("python").exists() else {}


def write_stamp(**changes):
    """Add `changes` to the record of set-ups, and atomically replace the record's file."""
    stamp = dict(read_stamp(), key=setup_key(), **changes)
    temporary = in_venv(f"setup.json.{os.getpid()}")
    temporary.write_text(json.dumps(stamp, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(str(temporary), str(in_venv("setup.json")))


def lock(file):
    """Wait until no other process locks an open file, then lock it until this process ends."""
    if os.name == "nt":
        import msvcrt

        # Windows waits for ten seconds, then raises OSError.
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def child_environment():
    """Return the environment variables that don't make pip or Python use files outside `.venv`."""
    removed = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    return dict(kept, PYTHONUTF8="1", PIP_DISABLE_PIP_VERSION_CHECK="1")


def ensure_venv():
    """Create `.venv`, or replace it if its Python or pip doesn't work or pip was interrupted."""
    probe = "import pip._internal.cli.main, sys; exit(3 * (not 11 <= sys.version_info[1] <= 13))"
    command = [str(venv_program("python")), "-I", "-c", probe]
    with contextlib.suppress(OSError):
        status = subprocess.call(command, stderr=subprocess.DEVNULL)
        if status == 3:
            raise SetupError("The Python in .venv is too old or too new: delete the folder .venv.")
        if status == 0 and not in_venv("unfinished").exists():
            return
    if not importlib.util.find_spec("ensurepip"):
        package = "python{}.{}-venv".format(*sys.version_info)
        raise SetupError(
            f"This Python can't create environments: run `sudo apt install {package}`."
        )
    venv.create(str(in_venv()), clear=True, with_pip=True, symlinks=os.name != "nt")


def pip_install(arguments, lock_file):
    """Run `pip install` in `.venv`, and raise SetupError with the reason if pip fails."""
    command = [str(venv_program("python")), "-m", "pip", "install", *arguments]
    command += map("--constraint={}".format, constraints())
    options = {"stderr": subprocess.PIPE, "cwd": str(ROOT), "env": child_environment()}
    # pip inherits the lock. If this process is killed, the next set-up waits until pip ends.
    files = [lock_file.fileno()] if os.name != "nt" else ()
    errors, unfinished = [], in_venv("unfinished")
    unfinished.touch()
    with subprocess.Popen(command, pass_fds=files, **options) as pip:
        for line in pip.stderr:
            errors.append(line.decode("utf-8", "replace"))
            sys.stderr.write(errors[-1])
    # A negative status means that a signal ended pip, perhaps while pip was installing a package.
    if pip.returncode >= 0:
        unfinished.unlink()
    if pip.returncode:
        output = "".join(errors)
        reasons = [reason for pattern, reason in REASONS.items() if re.search(pattern, output)]
        raise SetupError([*reasons, "pip failed. Its messages above give the reason."][0])


def ensure_installed(extras):
    """Install the course with at least these extras into `.venv`, unless they are installed."""
    if extras <= set(read_stamp().get("extras", ())):
        return
    with open(str(ROOT / ".venv.lock"), "a") as file:
        lock(file)
        installed = set(read_stamp().get("extras", ()))
        if extras <= installed:
            return
        print("Setting up the course; the first time takes some minutes.", flush=True)
        cpu_torch = wants_cpu_torch()
        if not in_venv().exists():
            check_disk()
        ensure_venv()
        if cpu_torch and not any(in_venv().glob("lib/python3*/site-packages/torch-*.dist-info")):
            torch = re.search(r'"(torch>=[\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
            pip_install([torch, "--index-url", TORCH_CPU_INDEX, "--no-deps"], file)
        pip_install(["--editable", ".[{}]".format(",".join(sorted(extras | installed)))], file)
        write_stamp(extras=sorted(extras | installed))


def replace_process(command):
    """Replace this process by a program; on Windows, run the program and return its status."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    # Ctrl-C reaches the program, too, so this process ignores Ctrl-C and waits for the program.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call(command)


def main(arguments=None):
    """Set up what a command needs, and run the command; return an exit status, None for success."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["help"]
    try:
        if not OLDEST_PYTHON <= sys.version_info[:2] < FIRST_UNTESTED_PYTHON:
            raise SetupError(
                f"The course needs Python 3.11, 3.12 or 3.13, but {sys.executable} is Python "
                f"{platform.python_version()}. Install such a Python, then run, for example, "
                "`make PYTHON=python3.12 lab`."
            )
        commands = registry()
        if command in ("help", "-h", "--help"):
            for name in [name for name in commands if not rest or name in rest]:
                print(f"{name:13} {commands[name][1]}")
        elif command in commands:
            ensure_installed(commands[command][0])
            return replace_process([str(venv_program("course")), "--fetch", command, *rest])
        else:
            raise SetupError(
                f"There is no command {command!r}. To list all commands, run "
                "`python course_utils/bootstrap.py help`."
            )
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to continue.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
