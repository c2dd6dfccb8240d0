"""Write files and folders so that a reader never sees an incomplete one."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from course_utils.machine.validation import CourseError

# The suffix of a file that is still being written.
PART = ".part"


def write_atomically(
    path: Path, data: bytes, mode: int | None = None, *, alone: bool = False
) -> None:
    """Write a temporary file, then rename it, so that readers never see a part of the data.

    The temporary file is in the folder of the final file, and its name contains the process's id.
    So several processes may write the same file at the same time. If `path` is a symbolic link, the
    link is replaced and its target stays unchanged. A missing folder is created.

    Args:
        mode: the file's permissions. By default the file has the usual permissions of a new file.
        alone: whether no other process writes this file. If so, temporary files of other processes
            must be left from interrupted runs, so they are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    for place in (path, part):
        if place.is_dir() and not place.is_symlink():
            problem = "a folder has this name: move or rename the folder"
            raise IsADirectoryError(errno.EISDIR, problem, os.fspath(place))
    part.unlink(missing_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{PART}") if alone else ():
        with contextlib.suppress(OSError):
            left.unlink()
    try:
        # Mode "x" refuses to write through a symbolic link.
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
    """Write text as UTF-8 with `write_atomically`; a CourseError says why this is impossible."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise CourseError(f"{path} can't be written: {error.strerror}") from error


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path next to `path`, where a file or a folder is written before it gets its name.

    At the end of the with block, the file or folder is renamed to `path`. If the block raises an
    error, what was written is removed, and `path` stays as it was. A file replaces an older file. A
    folder only replaces an empty folder, so that no results are lost.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        if path.is_dir() and any(path.iterdir()):
            raise CourseError(
                f"{path} is a folder that is not empty: choose another name, or remove the folder"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if part.is_dir() and path.is_file():
            raise CourseError(f"{path} is a file: choose another name for the folder")
        if path.is_dir():
            path.rmdir()
        part.replace(path)
    except OSError as error:
        raise CourseError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
