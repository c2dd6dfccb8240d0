"""Define the sandbox's policy, and build the bubblewrap command that enforces the policy.

A sandbox contains the system's programs, this Python with its packages, and a copy of the course
(`sandbox.package`). A program in the sandbox can access no other file, no environment variable, no
process and no network of this machine.

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
from course_utils.machine.validation import CourseError

# The folder in the sandbox that contains course_utils.
COURSE = "/course"
# The folder in the sandbox where Python is mounted if it is in /tmp on this machine.
PYTHON = "/python"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/fonts")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types")
# The user's number and the group's number in the sandbox.
ID = "1000"
# If root grades, the sandbox's processes belong to this user on this machine.
NOBODY = "nobody"
INSTALL = "install bubblewrap (Debian, Ubuntu: `apt install bubblewrap`)"


class SandboxError(CourseError):
    """Raised if a sandbox can't be started or has failed; the message says why."""


class NoSandbox(SandboxError):
    """Raised if no sandbox can be started on this machine, for any submission."""


class Mount(NamedTuple):
    """A file or folder of this machine that is mounted in the sandbox."""

    source: str
    target: str


@dataclass(frozen=True)
class Policy:
    """The guarantees that bubblewrap gives about a program; each field is one guarantee.

    The default of each field guarantees nothing, so a policy must state every guarantee that it
    needs. In all cases, the program sees only the files that are mounted for it, a /proc, and a
    /dev with harmless devices.

    Attributes:
        unshare: The namespaces that the program doesn't share with other processes: "all", or names
            such as "pid" and "net".
        die_with_parent: Whether the program ends when the process that started it ends.
        new_session: Whether the program has no access to the terminal of the process that started
            it.
        user: The number that the program sees as its user and as its group.
        hostname: The name that the program sees as the machine's name.
        drop_capabilities: Whether the program has no capabilities, even if root starts it.
        read_only: The files and folders that the program can read but not change.
        hidden: Folders that appear empty to the program, although the program can read the folders
            that contain them. What is mounted inside a hidden folder stays readable.
        own_proc: Whether /proc describes the program's PID namespace rather than the PID namespace
            of the process that started the program.
        read_only_devices: Whether the program can't add files to /dev.
        tmpfs: Folders that are empty when the program starts, to which the program can write, and
            that are deleted when the program ends.
        folders: Empty folders on which a second sandbox can mount a file system.
        read_only_root: Whether the program can't add files to the root folder.
        environment: All environment variables of the program; None means the variables of the
            process that started it.
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
        """Return the command line, to which the program and its arguments must be added."""
        variables = (self.environment or {}).items()
        return [
            "bwrap",
            *(f"--unshare-{namespace}" for namespace in self.unshare),
            *_option(self.die_with_parent, "--die-with-parent"),
            *_option(self.new_session, "--new-session"),
            *_option(self.environment is not None, "--clearenv"),
            *_option(self.user, "--uid", self.user, "--gid", self.user),
            *_option(self.hostname, "--hostname", self.hostname),
            *_option(self.drop_capabilities, "--cap-drop", "ALL"),
            *_mount_options(self.read_only, self.hidden),
            *(("--proc", "/proc") if self.own_proc else ("--bind", "/proc", "/proc")),
            *("--dev", "/dev"),
            *_option(self.read_only_devices, "--remount-ro", "/dev"),
            *(word for path in self.tmpfs for word in ("--tmpfs", path)),
            *(word for path in self.folders for word in ("--dir", path)),
            *_option(self.read_only_root, "--remount-ro", "/"),
            *(word for name, value in variables for word in ("--setenv", name, value)),
            *_option(self.working_folder, "--chdir", self.working_folder),
            "--",
        ]


def sandbox_policy(package: Path, private: Iterable[str] = ()) -> Policy:
    """Return the guarantees of a sandbox, which are the same for root and for other users."""
    mounts = tuple(_readable_mounts(package))
    hidden = tuple(_hidden(private, mounts))
    folders = tuple(_path_in_sandbox(path) for path in hidden if os.path.isdir(path))
    files = tuple(
        Mount("/dev/null", _path_in_sandbox(path)) for path in hidden if not os.path.isdir(path)
    )
    return Policy(
        unshare=("all",),
        die_with_parent=True,
        new_session=True,
        user=ID,
        hostname="sandbox",
        drop_capabilities=True,
        read_only=(*mounts, *files),
        hidden=(*_other_copies(), *folders),
        own_proc=True,
        read_only_devices=True,
        tmpfs=("/tmp",),
        read_only_root=True,
        environment=environment(),
        working_folder="/tmp",
    )


def command(package: Path, private: Iterable[str] = ()) -> list[str]:
    """Return the command that starts a sandbox, to which the program to run must be added.

    If root grades, the command starts bubblewrap twice. The first bubblewrap runs as root and
    mounts the files, because some files may be readable only for root. The second bubblewrap runs
    as the user nobody and is the sandbox. So a program that escapes from the sandbox isn't root.

    Raises:
        SandboxError: Bubblewrap is missing, Python is in a folder that can't be mounted, or a
            private folder can't be hidden.
    """
    if not shutil.which("bwrap"):
        raise SandboxError(f"there is no bubblewrap: {INSTALL}")
    sandbox = sandbox_policy(package, private)
    if os.geteuid() != 0:
        return sandbox.argv()
    files = Policy(
        # When the worker ends, this bubblewrap ends, and so do all processes in its PID namespace.
        unshare=("pid",),
        die_with_parent=True,
        read_only=sandbox.read_only,
        hidden=sandbox.hidden,
        folders=sandbox.tmpfs,
        # Other processes of the user `nobody` can read the second bubblewrap's environment.
        environment=sandbox.environment,
    )
    root = (Mount("/", "/"),)
    sandbox = replace(sandbox, read_only=root, hidden=(), read_only_root=False)
    return [*files.argv(), *_as_nobody(), *sandbox.argv()]


def python() -> str:
    """Return the path of this Python in the sandbox, with links in the prefix resolved."""
    folder = os.path.relpath(os.path.dirname(sys.executable), sys.prefix)
    prefix = _path_in_sandbox(os.path.realpath(sys.prefix))
    return os.path.join(prefix, folder, os.path.basename(sys.executable))


def environment() -> dict[str, str]:
    """Return the environment variables of a sandbox; it inherits no variable of this process."""
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
        # Without a network, pip would try again and again, for ten seconds.
        "PIP_NO_INDEX": "1",
        "QLORA_COURSE_CACHE": "/tmp/.cache",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NBGRADER_EXECUTION": "autograde",
    }


def _as_nobody() -> list[str]:
    """Return a command that runs another command as the user nobody.

    The other command must be added at the end.
    """
    # On Windows, the module pwd doesn't exist. Importing it here rather than at the top of the file
    # keeps `course check --grading` usable on Windows.
    import pwd

    nobody = pwd.getpwnam(NOBODY)
    user, group = str(nobody.pw_uid), str(nobody.pw_gid)
    return ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]


def _readable_mounts(package: Path) -> Iterator[Mount]:
    """Yield the mounts that a program in the sandbox can read."""
    python = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix)}
    system = (path for path in (*SYSTEM, *SYSTEM_FILES) if os.path.exists(path))
    for path in (*system, *sorted(python.difference(SYSTEM))):
        yield Mount(path, _path_in_sandbox(path))
    yield Mount(str(package), COURSE)


def _path_in_sandbox(path: str) -> str:
    """Return the path in the sandbox of a file or folder of this machine.

    Both paths are equal, except for a Python in /tmp, because a sandbox has a different /tmp.
    """
    if not path.startswith("/tmp/"):
        return path
    prefix = os.path.realpath(sys.prefix)
    if not Path(path).is_relative_to(prefix):
        raise SandboxError(
            f"Python is in {path}, which a sandbox can't see because it has its own /tmp: install "
            "Python outside /tmp, and create the virtual environment again"
        )
    return str(Path(PYTHON, Path(path).relative_to(prefix)))


def _other_copies() -> tuple[str, ...]:
    """Return the paths in the sandbox at which this Python's packages contain the course.

    These folders are hidden, so that no withheld module can be imported from them. The tuple is
    empty if the course isn't among the packages of this Python.
    """
    package = Path(course_utils.__file__).resolve().parent
    prefixes = (Path(path).resolve() for path in (sys.prefix, sys.base_prefix))
    inside = any(package.is_relative_to(prefix) for prefix in prefixes)
    copies = (package, package.parent / "workshop") if inside else ()
    return tuple(_path_in_sandbox(str(copy)) for copy in copies)


def _hidden(private: Iterable[str], mounts: Iterable[Mount]) -> Iterator[str]:
    """Yield the private paths that would be readable because they are inside a mounted folder."""
    python = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix)}
    for path in sorted({os.path.realpath(each) for each in private if os.path.exists(each)}):
        needed = [each for each, _ in mounts if Path(each).is_relative_to(path)]
        if path in python or not set(needed).isdisjoint((*SYSTEM, *SYSTEM_FILES)):
            raise NoSandbox(
                f"{path} must be hidden from submissions, but it also contains {needed[0]}, which "
                "they need: move the course, its exchange or Python's environment to another folder"
            )
        if any(Path(path).is_relative_to(each) for each, _ in mounts):
            yield path


def _mount_options(mounts: Iterable[Mount], hidden: Iterable[str]) -> Iterator[str]:
    """Yield the options that mount files and folders read-only, and hide folders.

    A link becomes a link in the sandbox. For example, /bin and /lib are links into /usr on most
    systems. An outer folder comes before its inner folders, because it would cover them
    otherwise.
    """
    created: set[str] = set()
    places = [*mounts, *(Mount("", path) for path in hidden)]
    for source, target in sorted(places, key=lambda mount: mount.target.count("/")):
        yield from _parent_options(target, created)
        if not source:
            yield from ("--tmpfs", target)
        elif os.path.islink(source):
            yield from ("--symlink", os.readlink(source), target)
        else:
            yield from ("--ro-bind", source, target)
    for path in hidden:
        yield from ("--remount-ro", path)


def _parent_options(path: str, created: set[str]) -> Iterator[str]:
    """Yield the options that create the missing folders above a path, readable for all users.

    Args:
        path: A path in the sandbox.
        created: The folders that earlier options create. The new folders are added to this set.
    """
    for folder in map(str, reversed(Path(path).parents)):
        if folder != "/" and folder not in created:
            created.add(folder)
            yield from ("--perms", "0755", "--dir", folder)


def _option(wanted: Any, *options: str) -> tuple[str, ...]:
    return options if wanted else ()
