"""The sandbox's policy, and the bubblewrap command that enforces it.

A sandbox contains the system's programs, this Python with its packages, and a copy of course_utils
(`sandbox.package`). It contains no other file, environment variable, process or network of this
machine.

Source: bubblewrap's manual page bwrap(1).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import course_utils
from course_utils.validation import CourseError

COURSE = "/course"  # the folder in the sandbox that holds course_utils
PYTHON = "/python"  # the folder in the sandbox where a Python of /tmp is mounted
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/fonts")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types")
ID = "1000"  # of user and group, as they are seen in the sandbox
NOBODY = "nobody"  # the user outside of the sandbox, if root grades
INSTALL = "install bubblewrap (Debian, Ubuntu: `apt install bubblewrap`)"


class SandboxError(CourseError):
    """A sandbox can't be made or has failed; the text says why, and what to do."""


class NoSandbox(SandboxError):
    """No sandbox can be made on this machine, for whatever submission."""


class Mount(NamedTuple):
    """A file or folder of this machine, and where it is in the sandbox."""

    source: str
    target: str


@dataclass(frozen=True)
class Bubble:
    """How bubblewrap starts a program. Each field is one guarantee about that program.

    By default a field guarantees nothing, so a policy spells out all that it relies on. A program
    always sees only the files that are mounted for it, a /proc, and a /dev with harmless devices.

    Attributes:
        unshare: It has namespaces of its own: "all", or names such as "pid" and "net".
        die_with_parent: It ends when the process that started it ends.
        new_session: It has no access to the terminal of the process that started it.
        user: It sees this number as its user and its group.
        hostname: It sees this name of the machine.
        drop_capabilities: It has no capability, whoever starts it.
        read_only: It can read these files and folders, and change none of them.
        hidden: It sees these folders empty, although a folder around them can be read.
        own_proc: /proc describes its own PID namespace, and not the one around it.
        read_only_devices: It can't add files to /dev.
        tmpfs: It can write to these folders, which are empty at first and gone afterwards.
        folders: It sees these empty folders, on which a further sandbox can mount something.
        read_only_root: It can't add files to the root folder.
        environment: It has exactly these variables; None: those of the process that started it.
        working_folder: It starts in this folder.
    """

    unshare: tuple[str, ...] = ()
    die_with_parent: bool = False
    new_session: bool = False
    user: str = ""
    hostname: str = ""
    drop_capabilities: bool = False
    read_only: tuple[Mount, ...] = ()
    hidden: tuple[str, ...] = ()
    own_proc: bool = False
    read_only_devices: bool = False
    tmpfs: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    read_only_root: bool = False
    environment: Mapping[str, str] | None = None
    working_folder: str = ""

    def argv(self) -> list[str]:
        """The command line, to be followed by the program and its arguments."""
        variables = (self.environment or {}).items()
        return [
            "bwrap",
            *(f"--unshare-{namespace}" for namespace in self.unshare),
            *_if(self.die_with_parent, "--die-with-parent"),
            *_if(self.new_session, "--new-session"),
            *_if(self.environment is not None, "--clearenv"),
            *_if(self.user, "--uid", self.user, "--gid", self.user),
            *_if(self.hostname, "--hostname", self.hostname),
            *_if(self.drop_capabilities, "--cap-drop", "ALL"),
            *_mounts(self.read_only),
            *(word for path in self.hidden for word in ("--tmpfs", path)),
            *(("--proc", "/proc") if self.own_proc else ("--bind", "/proc", "/proc")),
            *("--dev", "/dev"),
            *_if(self.read_only_devices, "--remount-ro", "/dev"),
            *(word for path in self.tmpfs for word in ("--tmpfs", path)),
            *(word for path in self.folders for word in ("--dir", path)),
            *_if(self.read_only_root, "--remount-ro", "/"),
            *(word for name, value in variables for word in ("--setenv", name, value)),
            *_if(self.working_folder, "--chdir", self.working_folder),
            "--",
        ]


def policy(package: Path) -> Bubble:
    """What a sandbox guarantees, whoever grades.

    Args:
        package: The folder that becomes `course_utils`.
    """
    return Bubble(
        unshare=("all",),
        die_with_parent=True,
        new_session=True,
        user=ID,
        hostname="sandbox",
        drop_capabilities=True,
        read_only=tuple(_readable(package)),
        hidden=_other_copies(),
        own_proc=True,
        read_only_devices=True,
        tmpfs=("/tmp",),
        read_only_root=True,
        environment=environment(),
        working_folder="/tmp",
    )


def command(package: Path) -> list[str]:
    """The command that starts a sandbox, to be followed by the program to run in it.

    If root grades, a first bubblewrap mounts the files, which may be where only root can read. The
    second one, started as the user nobody, is the sandbox, so a program that gets out of it isn't
    root.

    Args:
        package: The folder that becomes `course_utils`.

    Raises:
        SandboxError: There is no bubblewrap, or Python is in a place where it can't be mounted.
    """
    if not shutil.which("bwrap"):
        raise SandboxError(f"there is no bubblewrap: {INSTALL}")
    sandbox = policy(package)
    if os.geteuid() != 0:
        return sandbox.argv()
    files = Bubble(
        # When the worker ends, this bubblewrap ends, and with it all that is in its PID namespace.
        unshare=("pid",),
        die_with_parent=True,
        read_only=sandbox.read_only,
        hidden=sandbox.hidden,
        folders=sandbox.tmpfs,
    )
    root = (Mount("/", "/"),)
    sandbox = replace(sandbox, read_only=root, hidden=(), read_only_root=False)
    return [*files.argv(), *_as_nobody(), *sandbox.argv()]


def python() -> str:
    """This Python's program in the sandbox: links in the path to it are resolved."""
    folder = os.path.relpath(os.path.dirname(sys.executable), sys.prefix)
    prefix = _target(os.path.realpath(sys.prefix))
    return os.path.join(prefix, folder, os.path.basename(sys.executable))


def environment() -> dict[str, str]:
    """The variables in a sandbox: none of the grader's own."""
    return {
        "PATH": f"{os.path.dirname(python())}:/usr/local/bin:/usr/bin:/bin",
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


def _as_nobody() -> list[str]:
    """The command, to be followed by another one, that gives up root."""
    import pwd  # isn't there on Windows, where `course check --grading` says so

    nobody = pwd.getpwnam(NOBODY)
    user, group = str(nobody.pw_uid), str(nobody.pw_gid)
    return ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]


def _readable(package: Path) -> Iterator[Mount]:
    """What a program in the sandbox can read: the system, this Python and the course's package."""
    python = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix)}
    system = (path for path in (*SYSTEM, *SYSTEM_FILES) if os.path.exists(path))
    for path in (*system, *sorted(p for p in python if not p.startswith("/usr/"))):
        yield Mount(path, _target(path))
    yield Mount(str(package), f"{COURSE}/course_utils")


def _target(path: str) -> str:
    """Where a path is in the sandbox: where it is on this machine, except for a Python in /tmp.

    Raises SandboxError if a virtual environment's own Python is in /tmp: it can't be moved.
    """
    if not path.startswith("/tmp/"):
        return path
    prefix = os.path.realpath(sys.prefix)
    if not Path(path).is_relative_to(prefix):
        raise SandboxError(f"Python is in {path}, but a sandbox has a /tmp of its own: move Python")
    return str(Path(PYTHON, Path(path).relative_to(prefix)))


def _other_copies() -> tuple[str, ...]:
    """Where else in the sandbox course_utils would be: among the packages of this Python."""
    package = Path(course_utils.__file__).resolve().parent
    prefixes = (Path(path).resolve() for path in (sys.prefix, sys.base_prefix))
    inside = any(package.is_relative_to(prefix) for prefix in prefixes)
    return (_target(str(package)),) if inside else ()


def _mounts(mounts: Iterable[Mount]) -> Iterator[str]:
    """Options that mount files read-only; /bin and /lib are links into /usr on most systems."""
    made: set[str] = set()
    for source, target in mounts:
        yield from _parents(target, made)
        if os.path.islink(source):
            yield from ("--symlink", os.readlink(source), target)
        else:
            yield from ("--ro-bind", source, target)


def _parents(path: str, made: set[str]) -> Iterator[str]:
    """Options that make the folders above a path, readable for everybody, unless they are made."""
    for folder in map(str, reversed(Path(path).parents)):
        if folder != "/" and folder not in made:
            made.add(folder)
            yield from ("--perms", "0755", "--dir", folder)


def _if(wanted: Any, *options: str) -> tuple[str, ...]:
    return options if wanted else ()
