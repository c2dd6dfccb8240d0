"""Write a file so that a reader sees its old content or its new content, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from course_utils.validation import CourseError

# The end of the name of a file that is still being written.
PART = ".part"


def write_atomically(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file beside its place, then move it there, so that readers never see a part of it.

    A file that an interrupted run has left beside the place is overwritten. A symbolic link in the
    file's place is replaced, never followed.

    Args:
        path: the file; its folder is made if it is missing.
        data: the whole content.
        mode: the file's permissions, if not the usual ones.

    Raises:
        OSError: the file can't be written, or a folder is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    for place in (path, part):
        if place.is_dir() and not place.is_symlink():
            what = "a folder is in the place of this file: move the folder away"
            raise IsADirectoryError(errno.EISDIR, what, os.fspath(place))
    part.unlink(missing_ok=True)
    try:
        # "x" refuses to write through a link.
        with part.open("xb") as stream:
            stream.write(data)
        if mode is not None:
            part.chmod(mode)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with `write_atomically`.

    Raises:
        CourseError: the file can't be written; the message says why.
    """
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise CourseError(f"{path} can't be written: {error.strerror}") from error
