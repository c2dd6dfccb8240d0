"""Collect untrusted archives with `nbgrader zip_collect`: refuse bad files and keep the others.

nbgrader_config.py replaces two of nbgrader's plugins by these classes:

    SafeExtractor    unpacks .zip, .gz and .tar.gz files and writes only into the target folder
    SafeCollector    collects the newest file if a student handed in one notebook several times

A member of an archive is refused if its name leads out of the target folder or can't be a file
name, if the member is a link, a device or encrypted, or if an earlier member has the same name. An
archive is refused if it is damaged, or if the number or the size of its members exceeds the maximum
below.
"""

from __future__ import annotations

import functools
import gzip
import os
import re
import shutil
import stat
import struct
import tarfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from nbgrader.plugins import ExtractorPlugin, FileNameCollectorPlugin

from course_utils.files import unused_path

# Maximum size in bytes (B) of all files from an archive, and of all files from an archive inside
# another archive.
MAX_TOTAL, MAX_NESTED = 500_000_000, 100_000_000
# Maximum number of members of an archive, including the members of the archives inside it.
MAX_MEMBERS = 10_000
# Maximum number of levels of archives. The archive of a class may contain the archives of students,
# which must not contain further archives.
MAX_DEPTH = 2
# Maximum compression ratio of a file, and the size in bytes (B) up to which any ratio is allowed.
MAX_RATIO, ANY_RATIO = 200, 1_000_000
# Maximum length of a file name and of a path, in bytes (B).
MAX_NAME, MAX_PATH = 255, 1_000
# Maximum size of a zip archive's list of members, in bytes (B).
MAX_DIRECTORY = 10_000_000
# Number of bytes (B) that are read at a time.
CHUNK = 1_000_000

# Control characters, characters that change the direction of writing, and lone surrogates.
UNREADABLE = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# File types that are unpacked; 0 means that the archive doesn't state the type.
REGULAR_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)
COMPRESSION_TYPES = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# Reasons for a refusal.
TOO_MANY = f"it contains more than {MAX_MEMBERS:,} files"
LONG_DIRECTORY = f"its list of files is longer than {MAX_DIRECTORY / 1e6:.0f} MB"
TOO_LARGE = "its unpacked files would exceed the maximum size"
NOT_REGULAR = "it is a link or a device"


class Refused(Exception):
    """Raised for an archive or a member that must not be unpacked; the message says why."""


# The exceptions that Python's modules raise for a damaged or forged archive.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    RuntimeError,
    LookupError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


@dataclass
class Quota:
    """The total size in bytes (B) and the number of members that may still be unpacked."""

    size: int = MAX_TOTAL
    members: int = MAX_MEMBERS

    def subtract(self, *sizes: int) -> None:
        """Subtract members and their sizes (B). Raises Refused if the quota is exceeded."""
        self.size -= sum(sizes)
        self.members -= len(sizes)
        if self.members < 0:
            raise Refused(TOO_MANY)
        if self.size < 0 or min(sizes, default=0) < 0:
            raise Refused(TOO_LARGE)


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: The file's path in the archive.
        size: The unpacked size that the archive states, in bytes (B).
        time: The time of the file's last change, in seconds since 1970.
        problem: The reason why the file must not be unpacked, or "".
        open: A function that opens the file for reading; it returns None for a member that is no
            file.
    """

    name: str
    size: int
    time: float
    problem: str
    open: Callable[[], IO[bytes] | None]


# --- nbgrader's plugins ---------------------------------------------------------------------------


class SafeExtractor(ExtractorPlugin):
    """Unpacks the archives of a folder into another folder and copies all other files there."""

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """Unpack or copy all files of `archive_path` and its folders into `extracted_path`."""
        for source, folders, names in os.walk(archive_path):
            folders.sort()
            target = Path(extracted_path, os.path.relpath(source, archive_path))
            target.mkdir(parents=True, exist_ok=True)
            for path in (Path(source, name) for name in sorted(names)):
                with self._logging_refusals(path):
                    self._unpack_or_copy(path, target)

    def _unpack_or_copy(self, path: Path, folder: Path) -> None:
        if path.is_symlink() or not path.is_file():
            raise Refused("it is not a regular file")
        if self._is_archive(path):
            self._unpack(path, folder, Quota(), MAX_DEPTH)
        else:
            self.log.info("Copying %s to %s", path, folder)
            shutil.copy2(path, folder / path.name)

    def _unpack(self, path: Path, folder: Path, quota: Quota, depth: int) -> None:
        """Unpack an archive, and the archives in it, into a new folder.

        The new folder is removed if the archive is refused.
        """
        if depth == 0:
            raise Refused(
                f"only {MAX_DEPTH} levels of archives are unpacked: "
                "unpack the outermost archive by hand, and collect again"
            )
        target = unused_path(folder / path.name.removesuffix(path.suffix).removesuffix(".tar"))
        self.log.info("Extracting %s to %s", path, target)
        target.mkdir()
        try:
            self._write_members(path, target, quota)
        except (Refused, *READ_ERRORS):
            shutil.rmtree(target)
            raise
        for inner in sorted(filter(self._is_archive, target.rglob("*"))):
            with self._logging_refusals(inner):
                size = min(MAX_NESTED, quota.size)
                inner_quota = Quota(size, quota.members)
                self._unpack(inner, inner.parent, inner_quota, depth - 1)
                quota.size -= size - inner_quota.size
                quota.members = inner_quota.members
            inner.unlink()

    def _write_members(self, path: Path, target: Path, quota: Quota) -> None:
        """Write the files of an archive into a folder."""
        used: set[str] = set()
        for member in members(path):
            quota.subtract(member.size)
            with self._logging_refusals(f"{path}: {member.name}"):
                parts = _safe_parts(member.name, used)
                if member.problem:
                    raise Refused(member.problem)
                _write(member, target.joinpath(*parts))

    @contextmanager
    def _logging_refusals(self, file: Path | str) -> Iterator[None]:
        """Log a refused file for the instructor, and continue after the `with` block."""
        try:
            yield
        except Refused as error:
            self.log.error("Refused %s: %s", _printable(file), _printable(error))
        except READ_ERRORS as error:
            self.log.error("Refused %s: it can't be read (%s)", _printable(file), _printable(error))

    def _is_archive(self, path: Path) -> bool:
        return path.suffix.lower() in self.zip_ext and path.is_file()


class SafeCollector(FileNameCollectorPlugin):
    """Collects the newest of several files that a student handed in for one notebook.

    If a student handed in several files, nbgrader's default collector would stop and collect no
    student's work. If two files have the same time, the last file in alphabetical order is
    collected.
    """

    _newest: dict[tuple[str, str], str] | None = None

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """Return the student and the notebook in a file's name; None to skip the file."""
        parts = super().collect(_with_small_ending(submitted_file))
        if not parts or self.parent is None:
            return parts
        if self._newest is None:
            self._newest = self._newest_files()
        newest = self._newest.get((parts["student_id"], parts["file_id"]), submitted_file)
        if newest == submitted_file:
            return parts
        self.log.warning(
            "Skipped %s, because %s is newer", _printable(submitted_file), _printable(newest)
        )
        return None

    def _newest_files(self) -> dict[tuple[str, str], str]:
        """Return the newest unpacked file for each pair of a student and a notebook."""
        root = self.parent._format_collect_path(self.parent.extracted_directory)
        files = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
        pattern = re.compile(self.named_regexp)
        newest = {}
        for file in sorted(files, key=lambda file: (os.path.getmtime(file), file)):
            name = _with_small_ending(file)
            if name.endswith(tuple(self.valid_ext)) and (match := pattern.match(name)):
                newest[match["student_id"], match["file_id"]] = file
        return newest


def _with_small_ending(file: str) -> str:
    """Return a file's path with a lowercase ending; some programs on Windows write .IPYNB."""
    path, ending = os.path.splitext(file)
    return path + ending.lower()


# --- the members of an archive --------------------------------------------------------------------


def members(path: Path) -> Iterator[Member]:
    """Yield the files in a zip or a tar archive.

    Raises:
        Refused: The archive exceeds a limit, so no further file may be unpacked.
        READ_ERRORS: The archive is damaged.
    """
    yield from (_zip_members if path.suffix.lower() == ".zip" else _tar_members)(path)


def _zip_members(path: Path) -> Iterator[Member]:
    with path.open("rb") as stream:
        # ZipFile would read the whole list of members, so check the size of the list first. The
        # type checker ignores the two private names, because zipfile's type stubs don't contain
        # them.
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
    if end and end[zipfile._ECD_SIZE] > MAX_DIRECTORY:  # type: ignore[attr-defined]
        raise Refused(LONG_DIRECTORY)
    with zipfile.ZipFile(path) as archive:
        # Check the limits before the first file is written.
        Quota().subtract(*(info.file_size for info in archive.infolist()))
        for info in archive.infolist():
            if not info.is_dir():
                opener = functools.partial(archive.open, info)
                name, problem = info.orig_filename, _zip_problem(info)
                yield Member(name, info.file_size, _zip_time(info), problem, opener)


def _zip_problem(info: zipfile.ZipInfo) -> str:
    """Return the reason why a member of a zip archive must not be unpacked, or ""."""
    if stat.S_IFMT(info.external_attr >> 16) not in REGULAR_TYPES:
        return NOT_REGULAR
    if info.flag_bits & 1:
        return "it is encrypted"
    if info.compress_type not in COMPRESSION_TYPES:
        return "its compression method is neither stored nor deflated"
    if info.file_size > max(ANY_RATIO, MAX_RATIO * info.compress_size):
        return f"its unpacked size is more than {MAX_RATIO} times its size in the archive"
    return ""


def _zip_time(info: zipfile.ZipInfo) -> float:
    """Return the time of a file in a zip archive in seconds since 1970; 0 if it is invalid."""
    with suppress(ValueError, OverflowError):
        return time.mktime((*info.date_time, 0, 0, -1))
    return 0.0


def _tar_members(path: Path) -> Iterator[Member]:
    max_size = min(MAX_TOTAL, max(ANY_RATIO, MAX_RATIO * path.stat().st_size))
    with gzip.open(path) as stream:
        limited = _LimitedStream(stream, max_size)
        # tarfile only reads here, but its type annotations require a stream that can also write.
        with tarfile.open(fileobj=limited, mode="r:") as archive:  # type: ignore[call-overload]
            for info in archive:
                if not info.isdir():
                    opener = functools.partial(archive.extractfile, info)
                    problem = "" if info.isreg() and not info.issparse() else NOT_REGULAR
                    yield Member(info.name, info.size, float(info.mtime), problem, opener)


class _LimitedStream:
    """A stream that refuses to read more than about `max_size` bytes (B).

    tarfile trusts the sizes that an archive states, so tarfile alone would read any amount.
    """

    def __init__(self, stream: gzip.GzipFile, max_size: int):
        self._stream, self._max_size = stream, max_size
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size > CHUNK or self.tell() + size > self._max_size + CHUNK:
            raise Refused(TOO_LARGE)
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > self._max_size:
            raise Refused(TOO_LARGE)
        return self._stream.seek(position)


# --- files ----------------------------------------------------------------------------------------


def _safe_parts(name: str, used: set[str]) -> tuple[str, ...]:
    """Return the folders and the file name in a member's name, and add the name to `used`.

    Raises Refused if the name leads out of the folder, can't be a file name, or is in `used`.
    """
    if re.search(f"[{UNREADABLE}]", name):
        raise Refused("its name contains control characters")
    # Some programs on Windows write backslashes.
    name = name.replace("\\", "/")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise Refused("its name is an absolute path")
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts:
        raise Refused("its name leads out of the folder" if parts else "it has no name")
    if len(name.encode()) > MAX_PATH or max(len(part.encode()) for part in parts) > MAX_NAME:
        raise Refused("its name is too long")
    # Some file systems don't distinguish upper and lower case, or different encodings of the same
    # letter.
    key = unicodedata.normalize("NFC", "/".join(parts)).casefold()
    if key in used:
        raise Refused("another file in the archive has the same name")
    used.add(key)
    return parts


def _write(member: Member, path: Path) -> None:
    """Write a member to a new file and set the file's time."""
    if (source := member.open()) is None:
        raise Refused(NOT_REGULAR)
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("xb") as target:
        try:
            while chunk := source.read(CHUNK):
                if target.tell() + len(chunk) > member.size:
                    raise Refused("it is larger than the archive states")
                target.write(chunk)
        except BaseException:
            path.unlink()
            raise
    # The time that the archive states may be invalid for a file.
    with suppress(ValueError, OverflowError, OSError):
        os.utime(path, (member.time, member.time))


def _printable(text: Path | str | Exception) -> str:
    """Return an untrusted text as one line for the log, with "?" for unprintable characters."""
    line = "".join(c if c.isprintable() else "?" for c in str(text))
    return line if len(line) <= 400 else f"{line[:400]} …"
