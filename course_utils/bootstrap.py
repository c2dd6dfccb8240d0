"""Set up the course in `.venv` and hand over to its command line, from nothing but Python.

    python3 course_utils/bootstrap.py lab       install the course, fetch the model, open JupyterLab
    python3 course_utils/bootstrap.py help      list the commands, which `cli.py` registers

`.venv/setup.json` notes what was installed, and for which pyproject.toml, constraints and Python.
While the note is true, a set-up costs milliseconds. QLORA_CONSTRAINTS names a file of constraints,
to install exactly those versions.

pip installs the packages. uv would be faster, but it ignores pip's configuration: where only that
configuration leads to a CPU build of PyTorch, uv downloads 3 GB of CUDA libraries.

This file runs before anything is installed, so it needs the standard library alone. It keeps to the
syntax of Python 3.6, so that a Python that is too old for the course can say so.
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
# Room for .venv (1.9 GB, with CUDA 6.0 GB), pip's cache (0.6 GB, 3.4 GB), the model, and work.
CPU_BYTES, CUDA_BYTES = 4_000_000_000, 12_000_000_000
STUDENT = ("instructor", "lab")  # extras for everybody: students hand in with nbgrader, too
REASONS = {  # what pip prints on standard error, and what it means
    r"No space left on device|not enough space on the disk|Disk quota exceeded": "The disk is full:"
    " free some space (or point TMPDIR at a bigger disk), then run the same command again.",
    r"Retry\(total=0|[Tt]imed out|ConnectionError|ProtocolError|ProxyError|SSLError": "No network: "
    "pip can't reach the package index. Connect this machine to the internet (behind a proxy, set "
    "HTTPS_PROXY, and PIP_CERT to its certificate), then run the same command again.",
}


class SetupError(Exception):
    """A problem that one sentence explains: what was wrong, and what to do."""


def in_venv(*parts):
    """Path of something inside `.venv`."""
    return ROOT.joinpath(".venv", *parts)


def venv_program(name):
    """Path of a program in `.venv`, such as "python" or "course"."""
    return in_venv("Scripts", name + ".exe") if os.name == "nt" else in_venv("bin", name)


def registry():
    """Return the commands of cli.py, each with its extras and the first line of its help."""
    commands = {}
    # The file is parsed and not imported, because Click is not installed yet.
    source = (ROOT / "course_utils" / "cli.py").read_text(encoding="utf-8")
    for function in ast.parse(source).body:
        for call in getattr(function, "decorator_list", ()):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "command":
                given = [word.value.value for word in call.keywords if word.arg == "extras"]
                extras = {*STUDENT, *"".join(given).split()}
                commands[call.args[0].value] = extras, ast.get_docstring(function).split("\n")[0]
    return commands


def check_python():
    """Raise SetupError unless this Python is one that the course supports."""
    if not OLDEST_PYTHON <= sys.version_info[:2] < FIRST_UNTESTED_PYTHON:
        raise SetupError(
            f"The course needs Python 3.11, 3.12 or 3.13, but {sys.executable} is Python "
            f"{platform.python_version()}. Install one, or name it: make PYTHON=python3.12 lab."
        )


def wants_cpu_torch():
    """Whether to take PyTorch from its own index, whose CPU builds have no CUDA libraries.

    That is on Linux without an NVIDIA GPU, if the index answers; else pip chooses the build.
    """
    from urllib.request import urlopen

    has_gpu = shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")
    if has_gpu or platform.system() != "Linux":
        return False
    # urllib raises errors of many kinds for a server that is none.
    with contextlib.suppress(Exception), urlopen(TORCH_CPU_INDEX + "/torch/", timeout=3) as page:
        return page.status == 200
    return False


def check_disk(cpu_torch):
    """Raise SetupError if the disk is too small for a first set-up."""
    needed = CUDA_BYTES if platform.system() == "Linux" and not cpu_torch else CPU_BYTES
    free = shutil.disk_usage(str(ROOT)).free
    if free < needed:
        sizes = f"{free / 1e9:.1f} of about {needed / 1e9:.1f} GB"
        raise SetupError(f"Not enough disk space: {ROOT} has {sizes}. Free some, then try again.")


def constraints():
    """Return a list of the constraints file that QLORA_CONSTRAINTS names, if it names one."""
    name = os.environ.get("QLORA_CONSTRAINTS")
    return [ROOT / name] if name else []


def setup_key():
    """A hash of everything but the extras that decides what an installation contains."""
    key = hashlib.sha256(os.fsencode(str(ROOT)))
    for path in (ROOT / "pyproject.toml", in_venv("pyvenv.cfg"), *constraints()):
        key.update(path.read_bytes() if path.exists() else b"")
    return key.hexdigest()


def read_stamp():
    """Return the note of earlier set-ups as a dict; empty unless it is still true."""
    stamp = {}
    with contextlib.suppress(OSError, ValueError):
        stamp = json.loads(in_venv("setup.json").read_text(encoding="utf-8"))
    return stamp if stamp.get("key") == setup_key() and venv_program("python").exists() else {}


def write_stamp(**changes):
    """Note what has been set up; the file is replaced as a whole."""
    stamp = dict(read_stamp(), key=setup_key(), **changes)
    aside = in_venv(f"setup.json.{os.getpid()}")
    aside.write_text(json.dumps(stamp, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(str(aside), str(in_venv("setup.json")))


def lock(file):
    """Wait for the lock of an open file, which the system releases when its holder ends."""
    with contextlib.suppress(ImportError):  # Windows goes without
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def child_environment():
    """This process's environment without what would lead pip or Python out of `.venv`."""
    gone = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    return dict(kept, PYTHONUTF8="1", PIP_DISABLE_PIP_VERSION_CHECK="1")


def ensure_venv():
    """Make `.venv`; make it anew if its Python or pip doesn't work, or if pip was interrupted."""
    probe = "import pip._internal.cli.main, sys; exit(not (3, 11) <= sys.version_info < (3, 14))"
    command = [str(venv_program("python")), "-I", "-c", probe]
    with contextlib.suppress(OSError):
        works = subprocess.call(command, stderr=subprocess.DEVNULL) == 0
        if works and not in_venv("unfinished").exists():
            return
    if not importlib.util.find_spec("ensurepip"):
        package = "python{}.{}-venv".format(*sys.version_info)
        raise SetupError(f"This Python can't make environments: sudo apt install {package}")
    venv.create(str(in_venv()), clear=True, with_pip=True, symlinks=os.name != "nt")


def pip_install(arguments, lock_file):
    """Run `pip install` in `.venv`; raises SetupError with the reason if it fails."""
    command = [str(venv_program("python")), "-m", "pip", "install", *arguments]
    command += map("--constraint={}".format, constraints())
    options = {"stderr": subprocess.PIPE, "cwd": str(ROOT), "env": child_environment()}
    # pip holds the lock, too: if this process is killed, the next set-up waits for that pip.
    files = [lock_file.fileno()] if os.name != "nt" else ()
    errors, unfinished = [], in_venv("unfinished")
    unfinished.touch()
    with subprocess.Popen(command, pass_fds=files, **options) as pip:
        for line in pip.stderr:
            errors.append(line.decode("utf-8", "replace"))
            sys.stderr.write(errors[-1])
    if pip.returncode >= 0:  # else a signal ended pip, perhaps in the middle of a package
        unfinished.unlink()
    if pip.returncode:
        found = [sentence for sign, sentence in REASONS.items() if re.search(sign, "".join(errors))]
        raise SetupError([*found, "pip failed, for the reason that it gives above."][0])


def ensure_installed(extras):
    """Install the course with at least these extras into `.venv`, unless that has been done."""
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
            check_disk(cpu_torch)
        ensure_venv()
        if cpu_torch and not any(in_venv().glob("lib/python3*/site-packages/torch-*.dist-info")):
            torch = re.search(r'"(torch>=[\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
            pip_install([torch, "--index-url", TORCH_CPU_INDEX, "--no-deps"], file)
        pip_install(["--editable", ".[{}]".format(",".join(sorted(extras | installed)))], file)
        write_stamp(extras=sorted(extras | installed))


def clean():
    """Remove what runs leave behind: builds and caches, but neither `.venv` nor the model."""
    for pattern in ("build", ".pytest_cache", ".ruff_cache", "[a-z]*/**/__pycache__"):
        for folder in list(ROOT.glob(pattern)):
            shutil.rmtree(str(folder), ignore_errors=True)


def hand_over(command):
    """Replace this process by a program; on Windows, wait for the program and return its status."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the program, too
    return subprocess.call(command)


def main(arguments=None):
    """Set up what a command needs and hand over to it; returns an exit status, None for success."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["help"]
    try:
        check_python()
        commands = registry()
        if command in ("help", "-h", "--help"):
            print("\n".join(f"{name:13} {commands[name][1]}" for name in rest or commands))
        elif command == "clean":
            clean()
        elif command in commands:
            ensure_installed(commands[command][0])
            return hand_over([str(venv_program("course")), "--fetch", command, *rest])
        else:
            raise SetupError(f"There is no command {command!r}: `help` lists all of them.")
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
