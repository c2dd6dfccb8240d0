"""Read, name and make files and folders where a student may have put anything."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

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
    """The kind of entry at a path, such as "a folder" or "a link"; OSError if there is none."""
    return KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "something else")


def content(path: Path | str, most: int) -> bytes:
    """The content of a regular file, unless it has more than `most` B.

    Links are not followed, and opening a FIFO doesn't wait for a writer.

    Raises:
        OSError: the file isn't read; `strerror` says why.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as fault:
        if fault.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", os.fspath(path)) from None
        raise
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        if about.st_size > most:
            size = f"it is too large ({about.st_size / 1e6:,.0f} MB)"
            raise OSError(errno.EFBIG, size, os.fspath(path))
        return stream.read(most)


def inside(root: Path, *names: str) -> Path:
    """Return the folder root/NAME/NAME…; folders that are missing are made.

    Raises:
        OSError: something else has one of these names. A link to a folder is an error, too, because
            what is written through it could end up anywhere; only `root` itself may be a link.
    """
    path = root
    for name in ("", *names):
        path = path / name
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=path == root)
        if not path.is_dir() or (path != root and path.is_symlink()):
            what = f"it is {kind(path)}, and grading needs a folder of this name: move it away"
            raise NotADirectoryError(errno.ENOTDIR, what, os.fspath(path))
    return path


def visible(text: str) -> str:
    """The text with unprintable characters replaced by escape sequences, such as `\\x1b`."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
