"""Set up the course in `.venv` and run its commands, from nothing but Python and this folder.

    python3 course_utils/bootstrap.py setup         make .venv, install the course, fetch the model
    python3 course_utils/bootstrap.py lab           the same, then open JupyterLab
    python3 course_utils/bootstrap.py run           the same, then execute the lectures
    python3 course_utils/bootstrap.py test          the same, then linters and the fast tests
    python3 course_utils/bootstrap.py help          all commands

Whatever follows the command is passed on: `run --only 07`, `test -k lora`.

A file `.venv/setup.json` keeps what was installed, and for which pyproject.toml, constraints and
Python. While it fits, a second set-up costs milliseconds. Set QLORA_CONSTRAINTS to the path of a
constraints file to install exactly those versions.

This file runs before anything is installed, so it uses the standard library alone, and keeps to
the syntax of Python 3.6, so that a Python too old for the course can say so.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON, FIRST_UNTESTED_PYTHON = (3, 11), (3, 14)

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_PATIENCE = 2.0  # seconds that PyTorch's index has to answer
RETRIES = 3  # of a download that fails

# What .venv (measured on Linux: 1.9 GB, with CUDA 6.0 GB), pip's cache of what it downloaded
# (0.6 GB, 3.4 GB) and the model take together, with room to work.
CPU_BYTES, CUDA_BYTES = 4_000_000_000, 12_000_000_000

# Extras of pyproject.toml. Students, too, use nbgrader: they fetch, validate and submit with it.
STUDENT = ("lab", "instructor")
PUBLISHER = (*STUDENT, "site")
DEVELOPER = (*STUDENT, "test")
MEASURER = (*DEVELOPER, "bench", "trl")

COMMANDS = {
    "setup": "make .venv, install the course, fetch the model",
    "lab": "open JupyterLab on the first lecture",
    "run": "execute the lectures and write them as HTML (one: --only 07)",
    "check": "say whether this machine can run the course",
    "fetch-model": "download the model, where it isn't yet",
    "release": "generate exercises/ from solutions/ (compare: --check)",
    "grade": "grade what students handed in (grade 03_lora)",
    "site": "build the course's site in build/site from the executed lectures",
    "slides": "turn the lectures into slides in build/slides (one: --only 07)",
    "bench": "measure the course beside what people use now (bench training)",
    "gpu-check": "measure on a CUDA card what a CPU can't show",
    "environments": "run the lectures where readers open them; write docs/environments.md",
    "test-colab": "run them with Google Colab's packages alone",
    "lint": "check style and notebooks",
    "test": "lint, then run the fast tests",
    "test-all": "lint, then run every test",
}


class SetupError(Exception):
    """A fault that one sentence explains: what was wrong, and what to do."""


# --- where things are ----------------------------------------------------------------------------


def in_venv(*parts):
    """Path of something inside `.venv`."""
    return ROOT.joinpath(".venv", *parts)


def venv_program(name):
    """Path of a program that `.venv` holds, such as "python" or "course"."""
    return in_venv("Scripts", name + ".exe") if os.name == "nt" else in_venv("bin", name)


def say(text):
    """Print a line at once, so that it stands before what a child process prints."""
    print(text, flush=True)


# --- what this machine has -----------------------------------------------------------------------


def check_python(version=None, executable=None):
    """Raise SetupError unless this Python is one that the course supports."""
    version = tuple(version or sys.version_info)[:3]
    if not OLDEST_PYTHON <= version[:2] < FIRST_UNTESTED_PYTHON:
        raise SetupError(
            "The course needs Python 3.11, 3.12 or 3.13, but {} is Python {}. Install one of them, "
            "or name the one to use: make PYTHON=python3.12 lab.".format(
                executable or sys.executable, ".".join(map(str, version))
            )
        )


def check_venv_module():
    """Raise SetupError where Python came without what makes environments (Debian, Ubuntu)."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        raise SetupError(
            f"This Python has no venv module. Install it (Debian, Ubuntu: sudo apt install "
            f"{package}), then run the same command again."
        ) from None


def has_nvidia_gpu():
    """True where an NVIDIA driver is installed."""
    return bool(shutil.which("nvidia-smi")) or os.path.exists("/proc/driver/nvidia")


def folder_bytes(folder):
    """Bytes of all files below a folder; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(str(folder)):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def check_disk(cpu_torch):
    """Raise SetupError where the disk can't hold what is still to be installed.

    cpu_torch: whether PyTorch comes without CUDA although this is Linux.
    """
    cuda = platform.system() == "Linux" and not cpu_torch
    needed = (CUDA_BYTES if cuda else CPU_BYTES) - folder_bytes(in_venv())
    free = shutil.disk_usage(str(ROOT)).free
    if free < needed:
        raise SetupError(
            f"Not enough disk space: the set-up still needs about {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free in {ROOT}. Free some, then run the same command again."
        )


def answers(url, patience=INDEX_PATIENCE):
    """True if the server sends a good answer within `patience` seconds, name look-up included."""
    good = []

    def ask():
        # urllib raises OSError and http.client's errors alike for a server that is none.
        with contextlib.suppress(Exception), urllib.request.urlopen(url, timeout=patience) as reply:
            good.append(reply.status == 200)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    return good == [True]


def wants_cpu_torch(index=TORCH_CPU_INDEX):
    """True where PyTorch's 3 GB of CUDA libraries would be of no use and can be avoided.

    Elsewhere (macOS, Windows, or the index out of reach) the plain package is right, or all there
    is.
    """
    return platform.system() == "Linux" and not has_nvidia_gpu() and answers(index + "/torch/")


# --- what has been set up already ----------------------------------------------------------------


def constraints():
    """Path of the constraints file that QLORA_CONSTRAINTS names, or None."""
    name = os.environ.get("QLORA_CONSTRAINTS")
    if not name:
        return None
    path = (ROOT / name).resolve()
    if not path.is_file():
        raise SetupError(f"QLORA_CONSTRAINTS names {path}, but there is no such file.")
    return path


def venv_python_version():
    """The version `.venv` was made with, such as "3.11.7"; "" where there is none."""
    with contextlib.suppress(OSError):
        text = in_venv("pyvenv.cfg").read_text(encoding="utf-8")
        found = re.search(r"^version(?:_info)?\s*=\s*(\S+)", text, re.M)
        return found.group(1) if found else ""
    return ""


def setup_key():
    """A hash of all that decides what an installation holds, extras aside."""
    key = hashlib.sha256(os.fsencode(f"{ROOT}\n{venv_python_version()}\n"))
    for path in filter(None, (ROOT / "pyproject.toml", constraints())):
        key.update(path.read_bytes())
    return key.hexdigest()


def read_stamp():
    """What earlier set-ups noted, as a dict; empty where nothing valid was noted."""
    try:
        stamp = json.loads(in_venv("setup.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fits = isinstance(stamp, dict) and stamp.get("key") == setup_key()
    return stamp if fits and venv_program("python").exists() else {}


def write_stamp(**changes):
    """Note what has been set up; whole or not at all."""
    stamp = dict(read_stamp(), key=setup_key(), **changes)
    aside = in_venv(f"setup.json.{os.getpid()}")
    aside.write_text(json.dumps(stamp, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(str(aside), str(in_venv("setup.json")))


def is_installed(extras):
    """True if `.venv` holds the course with at least these extras."""
    installed = read_stamp().get("extras")
    return installed is not None and set(extras) <= set(installed)


# --- one set-up at a time ------------------------------------------------------------------------


def try_lock(file):
    """Take the lock on an open file; False if another process holds it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def one_at_a_time():
    """Wait until no other process sets up this folder, and keep others waiting meanwhile.

    The system gives the lock back when its holder ends, however it ends.
    """
    try:
        file = open(str(ROOT / ".venv.lock"), "a")  # noqa: SIM115
    except OSError as error:
        raise SetupError(f"{ROOT} can't be written to ({error.strerror}).") from None
    with file:
        if not try_lock(file):
            say("Another set-up is running in this folder: waiting for it.")
            while not try_lock(file):
                time.sleep(0.2)
        yield file


# --- running pip ---------------------------------------------------------------------------------


class Progress:
    """One line that says what a silent child is doing: redrawn on a terminal, rare elsewhere."""

    def __init__(self, title, stream=None, every=20.0):
        self.title, self.stream, self.every = title, stream or sys.stdout, every
        self.start = time.monotonic()
        self.last_shown = self.start
        self.redraws = self.stream.isatty()

    def seconds(self):
        return time.monotonic() - self.start

    def show(self, detail):
        """Say what is going on now."""
        line = f"{self.title} ({self.seconds():.0f} s): {detail}"
        if self.redraws:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r" + line[:width].ljust(width))
        elif time.monotonic() - self.last_shown >= self.every:
            self.last_shown = time.monotonic()
            self.stream.write(line + "\n")
        self.stream.flush()

    def done(self):
        """Clear the line."""
        if self.redraws:
            self.stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self.stream.flush()


def doing(log, size=20_000):
    """What pip is doing, as a few words, from the end of its log."""
    with open(str(log), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        lines = file.read().decode("utf-8", "replace").split("\n")
    for line in map(str.strip, reversed(lines)):
        if line.startswith("Installing collected packages:"):
            return "unpacking {} packages".format(line.count(",") + 1)
        if line.startswith(("Collecting", "Downloading", "Building", "Preparing")):
            return line
    return "starting"


FAULTS = [
    (
        r"No space left on device|not enough space on the disk|Disk quota exceeded",
        "The disk is full: free some space (or point TMPDIR at a bigger disk), then run the same "
        "command again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError",
        "The package index showed a certificate that isn't trusted here, as happens behind a "
        "company's proxy: set PIP_CERT to the proxy's certificate file, then run the same command "
        "again.",
    ),
    (
        r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|Read timed "
        r"out|ProxyError|ProtocolError|Connection(Reset|Aborted|Refused|Timeout)?Error|"
        r"Max retries exceeded|Temporary failure in name resolution|Network is unreachable",
        "No network: pip can't reach the package index. Connect this machine to the internet "
        "(behind a proxy: set HTTPS_PROXY), then run the same command again; it goes on from here.",
    ),
    (
        r"No matching distribution found for (?P<what>[^\s;]+)",
        "There is no build of {what} for this system ({system}): the course runs on 64-bit Linux, "
        "Windows, and macOS 14 or later on Apple silicon.",
    ),
    (
        r"\[Errno 13\] Permission denied|\[WinError 5\]",
        "Something in .venv can't be written to: close what uses it, or delete the folder .venv, "
        "then run the same command again.",
    ),
]


def explain(output):
    """The sentence that tells a person why pip failed, and what to do.

    A download that failed and was tried again is no reason; its last retry (total=0) may be.
    """
    output = re.sub(r"(?m)^.*Retrying \(Retry\(total=[1-9].*$\n?", "", output)
    for pattern, sentence in FAULTS:
        found = re.search(pattern, output)
        if found:
            system = f"{platform.platform()}, Python {platform.python_version()}"
            return sentence.format(system=system, **found.groupdict())
    tail = "\n".join("  " + line for line in output.rstrip().split("\n")[-15:])
    return f"pip failed, and all it said is in {in_venv('setup.log')}. Its last lines:\n{tail}"


def child_environment():
    """This process's environment without what would lead pip or Python out of `.venv`."""
    gone = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    return dict(kept, PYTHONUNBUFFERED="1", PYTHONUTF8="1", PIP_DISABLE_PIP_VERSION_CHECK="1")


def watch(command, title, log, lock):
    """Run a command with its output in a log and one progress line; return its exit status.

    The child keeps the lock's file open: should this process be killed, the next set-up still
    waits until the child has ended.
    """
    progress = Progress(title)
    keep_open = {} if os.name == "nt" else {"pass_fds": (lock.fileno(),)}
    child = subprocess.Popen(
        command, stdout=log, stderr=log, cwd=str(ROOT), env=child_environment(), **keep_open
    )
    try:
        while child.poll() is None:
            progress.show(doing(log.name))
            time.sleep(0.1)
    except BaseException:
        child.terminate()
        child.wait()
        raise
    finally:
        progress.done()
    return child.returncode


def pip_install(arguments, title, lock):
    """`pip install` in `.venv`; raises SetupError with one sentence where it fails."""
    command = [str(venv_program("python")), "-m", "pip", "install", "--no-input"]
    command += ["--progress-bar", "off", "--retries", str(RETRIES), *arguments]
    if constraints():
        command += ["--constraint", str(constraints())]
    with open(str(in_venv("setup.log")), "ab") as log:
        begin = log.tell()
        failed = watch(command, title, log, lock)
    if failed:
        output = in_venv("setup.log").read_bytes()[begin:].decode("utf-8", "replace")
        raise SetupError(explain(output))


# --- the steps of a set-up -----------------------------------------------------------------------


PROBE = """
import sys
print(*sys.version_info[:3], flush=True)
import pip._internal.cli.main
"""


def quietly(command):
    """Run a command without the terminal; returns its exit status and all that it printed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": child_environment()}
    try:
        done = subprocess.run(list(map(str, command)), **pipes)
    except OSError as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def venv_state():
    """What `.venv` is: "missing", "broken" (no working Python), "without pip", or "works".

    Raises SetupError if its Python is one that the course doesn't support.
    """
    if not in_venv().exists():
        return "missing"
    status, output = quietly([venv_program("python"), "-c", PROBE])
    version = re.match(r"(\d+) (\d+) (\d+)", output)
    if not version:
        return "broken"
    check_python(map(int, version.groups()), "the one in .venv (delete that folder)")
    return "without pip" if status else "works"


def ensure_venv():
    """Make `.venv`; mend it where it lacks pip, make it anew where it is half made."""
    state = venv_state()
    if state == "without pip":
        quietly([venv_program("python"), "-m", "ensurepip"])
        state = "works" if venv_state() == "works" else "broken"
    if state == "works":
        return
    check_venv_module()
    say("Making .venv" if state == "missing" else "Making .venv anew: it was incomplete")
    python = getattr(sys, "_base_executable", None) or sys.executable
    status, output = quietly([python, "-m", "venv", "--clear", in_venv()])
    if status:
        raise SetupError(explain(output))


def site_packages():
    """The folders of `.venv` that hold installed packages."""
    return [*in_venv().glob("lib/python*/site-packages"), *in_venv().glob("Lib/site-packages")]


def forget_half_installed():
    """Let pip install anew what an interrupted pip had only half written.

    pip unpacks a package first and lists its own INSTALLER file in RECORD last. A package without
    that would count as installed.
    """
    for site in site_packages():
        for info in site.glob("*.dist-info"):
            record = info / "RECORD"
            text = record.read_text(encoding="utf-8") if record.exists() else ""
            if f"{info.name}/INSTALLER" not in text:
                shutil.rmtree(str(info))


def has_torch():
    """True if `.venv` holds some build of PyTorch already."""
    return any(any(site.glob("torch-*.dist-info")) for site in site_packages())


def install_cpu_torch(lock):
    """PyTorch without CUDA; only itself from PyTorch's index, its dependencies come from PyPI."""
    wanted = re.search(r'"(torch>=[\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = ["--index-url", TORCH_CPU_INDEX, "--no-deps"]
    pip_install([wanted.group(1), *source], "Installing PyTorch for CPU", lock)


def install(extras, cpu_torch, lock):
    """Install the course, editable, with these extras into `.venv`."""
    unfinished = in_venv("unfinished")
    if unfinished.exists():
        forget_half_installed()
    unfinished.touch()
    if cpu_torch and not has_torch():
        install_cpu_torch(lock)
    pip_install(["--editable", f".[{','.join(sorted(extras))}]"], "Installing the course", lock)
    unfinished.unlink()


def ensure_installed(extras):
    """Set up `.venv` with at least these extras, unless that has been done."""
    if is_installed(extras):
        return
    with one_at_a_time() as lock:
        if is_installed(extras):
            return
        start = time.monotonic()
        say("Setting up the course; the first time takes some minutes.")
        cpu_torch = wants_cpu_torch()
        check_disk(cpu_torch)
        ensure_venv()
        extras = set(extras) | set(read_stamp().get("extras", []))
        install(extras, cpu_torch, lock)
        write_stamp(extras=sorted(extras))
        say(f"Installed in {time.monotonic() - start:.0f} s.")


# --- commands ------------------------------------------------------------------------------------


def foreground(program, *arguments):
    """Run a program of `.venv` with this terminal; return its exit status.

    Ctrl-C is the child's to handle: JupyterLab asks before it stops. SIGTERM, which `kill` and the
    end of a container send to this process alone, is handed on to the child.
    """
    child = subprocess.Popen([str(venv_program(program)), *arguments])
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


# Two modules of tests at a time; slow tests run alone, for some are held to a time.
FAST_TESTS = ("-m", "not slow", "-n", "2", "--dist", "loadfile")
CHECKS = ("lint", "test", "test-all", "environments", "test-colab")
LINTERS = (
    ("ruff", "check", "--output-format", "concise"),
    ("ruff", "format", "--check"),
    ("codespell_lib",),
    ("course_utils.cli", "notebooks", "check"),
)


def lint():
    """Style, spelling and notebooks; the first failing linter's exit status, else 0."""
    for linter in LINTERS:
        status = foreground("python", "-m", *linter)
        if status:
            return status
    return 0


def usage():
    """The commands, one a line."""
    lines = [f"  {name:12} {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: bootstrap.py COMMAND [ARGUMENTS]", "", *lines])


def model_is_noted():
    """True if an earlier set-up fetched the model into today's cache and it is still there."""
    noted = read_stamp().get("model", {})
    return noted.get("cache") == model_cache() and os.path.isdir(noted.get("folder", ""))


def model_cache():
    """What decides where models are kept, as far as this process can tell."""
    return [os.environ.get(name, "") for name in ("QLORA_COURSE_CACHE", "HF_HOME", "HF_HUB_CACHE")]


def ensure_model():
    """Fetch the model unless that has been done; returns `course fetch-model`'s exit status."""
    if model_is_noted():
        return 0
    status = foreground("course", "fetch-model")
    if status == 0:
        with contextlib.suppress(OSError):  # .venv belongs to another user
            write_stamp(model={"cache": model_cache(), "folder": model_folder()})
    return status


def model_folder():
    """Where the model of a machine without a GPU lies; "" if it can't be told."""
    ask = "from course_utils import cli, models; print(models.fetch_base(cli.SMALL_MODEL))"
    status, output = quietly([venv_program("python"), "-c", ask])
    return "" if status else output.strip().split("\n")[-1]


def ready(extras, needs_model):
    """Set up what a command needs; returns a status that is 0 where it can go on."""
    if not (ROOT / "pyproject.toml").is_file():
        raise SetupError(f"{ROOT} isn't a copy of the course: it has no pyproject.toml.")
    ensure_installed(extras)
    return ensure_model() if needs_model else 0


def extras_for(command):
    """The extras of pyproject.toml that a command uses."""
    if command in CHECKS:
        return DEVELOPER
    if command == "bench":
        return MEASURER
    return PUBLISHER if command in ("site", "slides") else STUDENT


def carry_out(command, arguments):
    """Run one of COMMANDS with what it needs; returns an exit status."""
    needs_model = command not in ("lint", "fetch-model", "gpu-check", "release", "grade")
    status = ready(extras_for(command), needs_model)
    if status == 0 and command == "setup":
        say("Ready. Next: make lab (or: python course_utils/bootstrap.py lab).")
    if status or command == "setup":
        return status
    if command == "gpu-check":  # fetches the model itself, if there is a card
        os.chdir(str(ROOT))
        return foreground("python", "-m", "benchmarks", "gpu_check", *arguments)
    if command not in CHECKS:
        return foreground("course", command, *arguments)
    os.chdir(str(ROOT))
    if command in ("environments", "test-colab"):
        names = ("colab",) if command == "test-colab" else ()
        return foreground("python", "-m", "benchmarks", "environments", *names, *arguments)
    status = lint()
    if status or command == "lint":
        return status
    some = FAST_TESTS if command == "test" else ()
    return foreground("python", "-m", "pytest", *some, *arguments)


def main(arguments=None):
    """Carry out a command line; returns its exit status, never a traceback for a user's fault."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["help"]
    if command in ("help", "-h", "--help"):
        say(usage())
        return 0
    if command not in COMMANDS:
        print(f"There is no command {command!r}.\n{usage()}", file=sys.stderr)
        return 2
    if rest and command in ("setup", "lint"):
        print(f"{command} takes no arguments, got {' '.join(rest)}.", file=sys.stderr)
        return 2
    try:
        check_python()
        return carry_out(command, rest)
    except SetupError as fault:
        print(fault, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
