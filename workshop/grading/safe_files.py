"""Read files and create folders safely in folders to which students can write."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from course_utils.machine.units import format_bytes

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind(path: Path | str) -> str:
    """Return the kind of entry at a path, such as "a folder" or "a link"."""
    return KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "something else")


def read_bytes(path: Path | str, max_size: int, *, owner: int | None = None) -> bytes:
    """Return the content of a regular file that is not too large.

    Links are not followed, and opening a FIFO doesn't wait for a writer.

    Args:
        max_size: The maximum size of the file, in bytes (B).
        owner: The id of the user to whom the file must belong; default: any user.

    Raises:
        OSError: The file is larger than `max_size`, is not a regular file, belongs to another user,
            or can't be read; `strerror` says why.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", os.fspath(path)) from None
        raise
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        if owner not in (None, status.st_uid):
            raise OSError(errno.EPERM, "it belongs to another account", os.fspath(path))
        if status.st_size > max_size:
            size = f"it is too large ({format_bytes(status.st_size, digits=0)})"
            raise OSError(errno.EFBIG, size, os.fspath(path))
        return stream.read(max_size)


def make_folders(root: Path, *names: str) -> Path:
    """Create the folder root/NAME/NAME… and its missing parents, and return the folder's path.

    Only `root` itself may be a link. Any other link is an error, even if it leads to a folder,
    because files that are written through the link could end up anywhere.
    """
    path = root
    for name in ("", *names):
        path = path / name
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=path == root)
        if not path.is_dir() or (path != root and path.is_symlink()):
            problem = f"it is {kind(path)}, but grading needs a folder of this name: rename it"
            raise NotADirectoryError(errno.ENOTDIR, problem, os.fspath(path))
    return path


def escape_unprintable(text: str) -> str:
    r"""Return the text with unprintable characters replaced by escapes, such as `\x1b`."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
