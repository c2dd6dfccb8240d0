"""Build the bubblewrap command that starts a sandbox.

A sandbox contains folders of this machine (`Folders.read_only`), this Python with its packages, and
a copy of the course (`sandbox.package`). A program in the sandbox can't access any other file, and
can't access this machine's environment variables, processes and network.

Source: bubblewrap's manual page bwrap(1).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import course_utils
from course_utils.machine.validation import CourseError

# The folder in the sandbox that contains course_utils.
COURSE = "/course"
# The folders and files of this machine that a submission can read, unless nbgrader_config.py lists
# others: programs, libraries and fonts.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/fonts"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types"),
)
# If root grades, the sandbox's processes belong to this user on this machine.
NOBODY = "nobody"

# The options that separate a program from the rest of the machine, even if root starts it.
SEPARATION = (
    *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
    *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
)
# The options for the sandbox's own folders, which are mounted last, and for the working folder.
OWN_FILES = (
    *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--tmpfs", "/tmp"),
    *("--remount-ro", "/", "--chdir", "/tmp", "--"),
)


class SandboxError(CourseError):
    """Raised if a sandbox can't be started or has failed; the message says why."""


class NoSandbox(SandboxError):
    """Raised if no sandbox can be started on this machine, for any submission."""


class Folders(NamedTuple):
    """The folders and files of this machine that a submission can read or must not read.

    Attributes:
        read_only: The paths that a submission can read, in addition to this Python.
        private: The paths of the class's data, which are hidden if a readable folder contains them.
    """

    read_only: tuple[str, ...] = SYSTEM
    private: tuple[str, ...] = ()


ONLY_SYSTEM = Folders()


def command(package: Path, folders: Folders) -> list[str]:
    """Return the command that starts a sandbox, to which the program to run must be added.

    If root grades, the command starts bubblewrap twice. The first bubblewrap runs as root and
    mounts the files, because some files may be readable only for root. The second bubblewrap runs
    as the user nobody and is the sandbox. So a program that escapes from the sandbox isn't root.

    Raises:
        NoSandbox: Bubblewrap is missing, a folder can't be mounted, or a private folder can't be
            hidden.
    """
    if not (bwrap := shutil.which("bwrap")):
        raise NoSandbox(
            "there is no bubblewrap: grade on Linux (on Windows, in WSL 2), and install it there "
            "(Debian, Ubuntu: `apt install bubblewrap`)"
        )
    files = list(_file_options(package, folders))
    if os.geteuid() != 0:
        return [bwrap, *SEPARATION, *files, *OWN_FILES]
    # When the grader ends, the first bubblewrap ends, and so do all processes in its PID namespace.
    outside = [bwrap, "--unshare-pid", "--die-with-parent", *files]
    outside += ["--bind", "/proc", "/proc", "--dev", "/dev", "--dir", "/tmp", "--"]
    return [*outside, *_as_nobody(), bwrap, *SEPARATION, "--ro-bind", "/", "/", *OWN_FILES]


def python_folders() -> set[str]:
    """Return the folders of this Python and of its virtual environment."""
    return {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix)}


def python() -> str:
    """Return the path of this Python in the sandbox, with links in the prefix resolved."""
    inner = os.path.relpath(sys.executable, sys.prefix)
    return os.path.join(os.path.realpath(sys.prefix), inner)


def environment() -> dict[str, str]:
    """Return the environment variables of a sandbox and of the programs that start it.

    The variables contain no secrets: if root grades, processes of the user nobody can read them.
    """
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


def hidden(folders: Folders) -> list[str]:
    """Return the private paths that are inside a readable folder and therefore must be hidden.

    Raises:
        NoSandbox: A private folder can't be hidden, because submissions need files in it.
    """
    found = []
    mounts = readable(folders)
    for path in sorted({os.path.realpath(each) for each in folders.private}):
        inside = [each for each in mounts if Path(each).is_relative_to(path)]
        # The course's folder may contain this Python's virtual environment, which stays readable.
        if path in inside or not python_folders().issuperset(inside):
            raise NoSandbox(
                f"{path} must be hidden from submissions, but it contains {inside[0]}, which they "
                "can read: move the course, its exchange or Python's environment to another "
                "folder, or list other folders in c.Sandbox.read_only of nbgrader_config.py"
            )
        if os.path.exists(path) and any(Path(path).is_relative_to(each) for each in mounts):
            found.append(path)
    return found


def readable(folders: Folders) -> list[str]:
    """Return the paths on this machine that a submission can read."""
    listed = filter(os.path.exists, folders.read_only)
    # A link stays a link. For any other path, use the real path, because `hidden` compares it with
    # the real paths of private folders.
    real = {path if os.path.islink(path) else os.path.realpath(path) for path in listed}
    paths = sorted(real | python_folders())
    for path in paths:
        if Path(path).is_relative_to("/tmp"):
            raise NoSandbox(
                f"submissions can't read {path}, because each one has its own /tmp: move Python's "
                "environment, or what c.Sandbox.read_only lists, to another folder"
            )
    return paths


def _file_options(package: Path, folders: Folders) -> Iterator[str]:
    """Yield the options that mount files and folders read-only, and hide private ones.

    A link becomes a link in the sandbox: /bin and /lib, for example, are links on most systems.
    """
    # If the course is installed in Python's folder, hide this copy of the course, because the copy
    # contains modules that are withheld.
    course = Path(course_utils.__file__).resolve().parent
    copies = (str(course), str(course.parent / "workshop"))
    private = hidden(folders._replace(private=(*folders.private, *copies)))
    yield from ("--ro-bind", str(package), COURSE)
    # Mount outer folders first. Otherwise, an outer folder would cover its inner folders.
    for path in sorted([*readable(folders), *private], key=lambda path: path.count("/")):
        # Without these options, only root could enter the parent folders of a mounted folder.
        for folder in reversed(Path(path).parents[:-1]):
            yield from ("--perms", "0755", "--dir", str(folder))
        if path not in private and os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif path not in private:
            yield from ("--ro-bind", path, path)
        elif os.path.isdir(path):
            yield from ("--tmpfs", path)
        else:
            yield from ("--ro-bind", "/dev/null", path)
    for path in filter(os.path.isdir, private):
        yield from ("--remount-ro", path)


def _as_nobody() -> list[str]:
    """Return the beginning of a command line that runs the rest of the line as the user nobody."""
    # On Windows, the module pwd doesn't exist. Importing it here rather than at the top of the file
    # keeps `course check --grading` usable on Windows.
    import pwd

    nobody = pwd.getpwnam(NOBODY)
    user, group = str(nobody.pw_uid), str(nobody.pw_gid)
    return ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
