"""Sandboxes: warm servers in bubblewrap, and the processes that they fork.

    worker ──► bwrap: system and libraries read-only, no network, none of the course's files
                 └─ server: has imported torch, transformers … once   (`grading.inside`)
                      ├─ process of one submission: namespaces, /tmp and limits of its own
                      └─ process of another

What a sandbox holds: the system's programs, this Python with its packages, and a copy of
course_utils in which the modules that an assignment withholds are a sentence. What it doesn't: any
other file, environment variable, process or network of this machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import course_utils
from course_utils.grading.sandbox import limits
from course_utils.grading.sandbox.messages import Channel
from course_utils.validation import CourseError

COURSE = "/course"  # in the sandbox
PYTHON = "/python"  # there, too: where a Python of /tmp is mounted
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/fonts")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types")
ID = "1000"  # of user and group, as they are seen in the sandbox
NOBODY = "nobody"  # who it is outside, if root grades
START = 300  # seconds until a server must be ready
WITHHELD = """\
raise ImportError(
    "{name} is not available while this assignment is graded, because it contains solutions."
)
"""
INSTALL = "install bubblewrap (Debian, Ubuntu: `apt install bubblewrap`)"


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    memory: of all its processes together, in B, above what its server has; files: in its /tmp, in
    B. cell, call, notebook: seconds for a cell, for one call by a check, and for the whole.
    """

    memory: int = 2_000_000_000
    files: int = 500_000_000
    processes: int = 128
    cell: float = 60
    call: float = 30
    notebook: float = 900


class SandboxError(CourseError):
    """A sandbox can't be made or has failed; the text says why, and what to do."""


class NoSandbox(SandboxError):
    """No sandbox can be made on this machine, for whatever submission."""


# --- the command ----------------------------------------------------------------------------------


def command(package: Path, hidden: list[str]) -> list[str]:
    """The bubblewrap command, to be followed by the program to run in the sandbox.

    package: the folder that becomes `course_utils`. hidden: folders to show empty.

    If root grades, a first bubblewrap mounts the files, which may lie where only root can read, and
    a second one, started as nobody, is the sandbox: whatever gets out of it isn't root.
    """
    if not shutil.which("bwrap"):
        raise SandboxError(f"there is no bubblewrap: {INSTALL}")
    files = [*_files(package), *(word for path in hidden for word in ("--tmpfs", path))]
    separate = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    separate += ["--uid", ID, "--gid", ID, "--hostname", "sandbox", "--cap-drop", "ALL"]
    places = ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--tmpfs", "/tmp"]
    variables = [word for item in _environment().items() for word in ("--setenv", *item)]
    if os.geteuid() != 0:
        closed = ["--remount-ro", "/"]
        return ["bwrap", *separate, *files, *places, *closed, *variables, "--chdir", "/tmp", "--"]
    import pwd  # isn't there on Windows, where `course check --grading` says so

    nobody = pwd.getpwnam(NOBODY)
    # With the worker, the first one dies; with it, whatever is in its PID namespace.
    outer = [
        "--unshare-pid",
        "--die-with-parent",
        *files,
        "--bind",
        "/proc",
        "/proc",
        "--dev",
        "/dev",
    ]
    drop = ["setpriv", "--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid)]
    inner = [*separate, "--ro-bind", "/", "/", *places, *variables, "--chdir", "/tmp"]
    return ["bwrap", *outer, "--dir", "/tmp", "--", *drop, "--clear-groups", "bwrap", *inner, "--"]


def _files(package: Path) -> list[str]:
    """Options that mount what can be read, at the places where it is on this machine."""
    shown = [path for path in (*SYSTEM, *SYSTEM_FILES) if os.path.exists(path)]
    python = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix)}
    options: list[str] = []
    made: set[str] = set()
    for path in [*shown, *sorted(p for p in python if not p.startswith("/usr/"))]:
        place = _place(path)
        options += _parents(place, made)
        link = os.path.islink(path)  # /bin and /lib are links into /usr on most systems
        options += ["--symlink", os.readlink(path), place] if link else ["--ro-bind", path, place]
    options += [*_parents(f"{COURSE}/course_utils", made)]
    return [*options, "--ro-bind", str(package), f"{COURSE}/course_utils"]


def _place(path: str) -> str:
    """Where a path is in the sandbox: where it is on this machine, but for a Python in /tmp.

    Raises SandboxError if a virtual environment's own Python lies in /tmp: it can't be moved.
    """
    if not path.startswith("/tmp/"):
        return path
    prefix = os.path.realpath(sys.prefix)
    if not Path(path).is_relative_to(prefix):
        raise SandboxError(f"Python is in {path}, but a sandbox has a /tmp of its own: move Python")
    return str(Path(PYTHON, Path(path).relative_to(prefix)))


def _parents(path: str, made: set[str]) -> list[str]:
    """Options that make the folders above a path, readable for everybody."""
    folders = [str(folder) for folder in reversed(Path(path).parents) if str(folder) != "/"]
    new = [folder for folder in folders if folder not in made]
    made.update(new)
    return [word for folder in new for word in ("--perms", "0755", "--dir", folder)]


def _environment() -> dict[str, str]:
    """The variables in a sandbox: nothing of the grader's own."""
    return {
        "PATH": f"{os.path.dirname(_python())}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "student",
        "LANG": "C.UTF-8",
        "PYTHONPATH": COURSE,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": "/tmp/.hub",
        "QLORA_COURSE_CACHE": "/tmp/.cache",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NBGRADER_EXECUTION": "autograde",
    }


def _python() -> str:
    """This Python's program in the sandbox: links in the path to it are resolved."""
    folder = os.path.relpath(os.path.dirname(sys.executable), sys.prefix)
    prefix = _place(os.path.realpath(sys.prefix))
    return os.path.join(prefix, folder, os.path.basename(sys.executable))


def copied_package(target: Path, withheld: tuple[str, ...] = ()) -> Path:
    """A copy of course_utils, in which modules that are withheld say so when they are imported."""
    source = Path(course_utils.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    package = Path(shutil.copytree(source, target / "course_utils", ignore=ignored))
    for name in withheld:
        path = package.joinpath(*name.split(".")[1:])
        if path.is_dir():
            shutil.rmtree(path)
        path.with_suffix(".py").write_text(WITHHELD.format(name=name), encoding="utf-8")
    for path in (package, *package.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    package.parent.chmod(0o755)
    return package


def _hidden() -> list[str]:
    """Where else in the sandbox course_utils would be: among the packages of this Python."""
    package = Path(course_utils.__file__).resolve().parent
    inside = any(package.is_relative_to(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix))
    return [_place(str(package))] if inside else []


# --- servers and their processes ------------------------------------------------------------------


class Server:
    """A sandbox with a warm server in it, which forks processes that have its imports.

    imports: import statements, one a line, that are carried out once for all of its processes.
    withheld: modules of the course that can't be imported. warm: whether processes are forked;
    otherwise each gets a sandbox of its own, which takes seconds.

    Raises SandboxError if it can't be started. Servers end with the thread that started them.
    """

    def __init__(self, imports: str = "", withheld: tuple[str, ...] = (), warm: bool = True):
        self._imports = imports
        self._folder = tempfile.TemporaryDirectory(prefix="grading-")
        os.chmod(self._folder.name, 0o711)
        self._package = copied_package(Path(self._folder.name), withheld)
        self._bubble = _Bubble(imports, self._package)
        self.warm = warm and not self._bubble.fault
        self.fault = self._bubble.fault  # why processes can't be forked, or ""

    def start(self, role: str, allowed: Limits, core: int | None = None) -> Sandboxed:
        """A new process: "student" or "judge". core: the only one that it may run on."""
        if self.warm:
            return Sandboxed(self._bubble, role, allowed, core, "fork")
        bubble, self._bubble = self._bubble, None
        return Sandboxed(bubble or _Bubble(self._imports, self._package), role, allowed, core)

    @property
    def alive(self) -> bool:
        """Whether it can start processes."""
        return self._bubble is None or self._bubble.alive

    def close(self) -> None:
        """End the server and all of its processes."""
        if self._bubble:
            self._bubble.close()
        self._folder.cleanup()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Bubble:
    """One bubblewrap with a server in it, and the socket over which it takes requests."""

    def __init__(self, imports: str, package: Path):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._lock = threading.Lock()  # one request at a time
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = [_python(), "-m", "course_utils.grading.sandbox.inside", str(theirs.fileno())]
        self._program = subprocess.Popen(
            [*command(package, _hidden()), *program],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the worker
        )
        theirs.close()
        self._control.settimeout(START)
        self.fault = self.ask(imports=imports)["namespaces"]

    def ask(self, given: socket.socket | None = None, **request: Any) -> dict[str, Any]:
        """Send a request, with a socket if the server is to have one; returns its answer."""
        data = json.dumps(request).encode()
        try:
            with self._lock:
                socket.send_fds(self._control, [data], [given.fileno()] if given else [])
                answer = self._control.recv(1 << 16)
        except OSError:
            answer = b""
        if not answer:
            raise SandboxError(f"the sandbox doesn't work here: {self._said()}")
        return json.loads(answer)

    @property
    def alive(self) -> bool:
        return self._program.poll() is None

    def close(self) -> None:
        self._control.close()
        self._program.kill()
        self._program.wait()
        self._log.close()

    def _said(self) -> str:
        if self._log.closed:
            return "it was ended"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(5)
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


class Sandboxed:
    """A process in a sandbox: the channel to it, and the means to stop it.

    cage: what it and its children use together. The process waits for its first message.
    """

    def __init__(
        self,
        bubble: _Bubble,
        role: str,
        allowed: Limits,
        core: int | None = None,
        how: str = "become",
    ):
        self._bubble, self._own = bubble, how == "become"
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.channel = Channel(ours)
        with theirs:
            bounds = {"memory": allowed.memory, "processes": allowed.processes}
            bounds |= {"files": allowed.files, "seconds": int(allowed.notebook)}
            self._pid = bubble.ask(theirs, do=how, role=role, **bounds)["pid"]
        self._outside = _sender(ours)
        self.cage = limits.cage(allowed.memory, allowed.processes)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.cage)
            self.cage.add(self._outside)
            if core is not None:
                os.sched_setaffinity(self._outside, {core})
            stack.pop_all()  # all is well: the cage stays until `end`

    def interrupt(self) -> None:
        """Interrupt what it does, as Jupyter's button does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._outside, signal.SIGINT)

    def end(self) -> str:
        """End it and all that it started; returns how it had ended, if it had: "" or a sentence."""
        self.channel.close()
        status = 0
        try:
            if self._own:
                self._bubble.close()
            else:
                status = self._bubble.ask(do="end", pid=self._pid)["status"]
        finally:
            exceeded = self.cage.exceeded
            self.cage.__exit__(None, None, None)
        if exceeded:
            return exceeded
        return f"it was ended by signal {-status}" if status < 0 and status != -9 else ""


def _sender(connection: socket.socket) -> int:
    """The process, as this machine numbers it, that sent the first byte over a connection."""
    space = socket.CMSG_SPACE(struct.calcsize("3i"))
    connection.settimeout(START)
    data, extra, _, _ = connection.recvmsg(1, space)
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    for level, kind, found in extra if data else ():
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return struct.unpack("3i", found)[0]
    raise SandboxError("a process in the sandbox ended before it began")


_busy: Counter[int] = Counter()
_choosing = threading.Lock()


@contextlib.contextmanager
def a_core() -> Iterator[int]:
    """The core that fewest submissions are graded on, for one more: a hog slows itself alone."""
    with _choosing:
        core = min(sorted(os.sched_getaffinity(0)), key=_busy.__getitem__)
        _busy[core] += 1
    try:
        yield core
    finally:
        with _choosing:
            _busy[core] -= 1


@functools.cache
def fault() -> str:
    """Why no sandbox can be made on this machine; "" if one can."""
    try:
        Server().close()
    except SandboxError as reason:
        return str(reason)
    return ""
