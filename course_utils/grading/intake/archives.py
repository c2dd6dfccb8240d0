"""Collect untrusted archives with `nbgrader zip_collect`: refuse bad files and keep the others.

nbgrader_config.py replaces two of nbgrader's plugins by these classes:

    SafeExtractor    unpacks .zip, .gz and .tar.gz files and writes only into the target folder
    SafeCollector    collects the newest file if a student handed in one notebook several times

A member of an archive is refused if its name leads out of the target folder or can't be a file
name, if the member is a link, a device or encrypted, or if an earlier member has the same name. An
archive is refused if it is damaged, or if its members exceed the maximum number or size below.
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
from typing import IO, Any

from nbgrader.plugins import ExtractorPlugin, FileNameCollectorPlugin

# Maximum size in bytes (B) of all files from an archive, and of all files from an archive inside
# another archive.
TOTAL, NESTED = 500_000_000, 100_000_000
# Maximum number of members of an archive, including the members of the archives inside it.
MEMBERS = 10_000
# Maximum number of archives inside each other. The archive of a class may contain the archives of
# students.
DEPTH = 2
# Maximum compression ratio of a file, and the size in bytes (B) up to which any ratio is allowed.
RATIO, SMALL = 200, 1_000_000
# Maximum length of a file name and of a path, in bytes (B).
NAME, PATH = 255, 1_000
# Maximum size of a zip archive's list of members, in bytes (B).
DIRECTORY = 10_000_000
# Bytes (B) that are read at once.
CHUNK = 1_000_000

# Control characters, characters that change the direction of writing, and lone surrogates.
UNREADABLE = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# File types that are unpacked; 0 means that the archive doesn't state the type.
ORDINARY = (0, stat.S_IFREG, stat.S_IFDIR)
COMPRESSED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Refused(Exception):
    """Raised for an archive or a member that must not be unpacked; the message says why."""


# The exceptions that Python's modules raise for a damaged or forged archive.
FAULTS = (OSError, EOFError, ValueError, ArithmeticError, RuntimeError, LookupError)
FAULTS += (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@dataclass
class Room:
    """The size in bytes (B) and the number of members that may still be unpacked."""

    size: int = TOTAL
    members: int = MEMBERS

    def take(self, *sizes: int) -> None:
        """Subtract the number and sizes (B) of members. Raises Refused if a limit is exceeded."""
        self.size -= sum(sizes)
        self.members -= len(sizes)
        if self.members < 0:
            raise Refused("it has too many members")
        if self.size < 0 or min(sizes, default=0) < 0:
            raise Refused("too much comes out of it")


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: The file's path in the archive.
        size: The unpacked size that the archive states, in bytes (B).
        time: The time of the file's last change, in seconds since 1970.
        fault: The reason why the file must not be unpacked, or "".
        open: A function that opens the file for reading.
    """

    name: str
    size: int
    time: float
    fault: str
    open: Callable[[], IO[bytes] | None]


# --- nbgrader's plugins ---------------------------------------------------------------------------


class SafeExtractor(ExtractorPlugin):
    """Unpacks the archives of a folder into another folder and copies all other files there."""

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """Unpack or copy all files of `archive_path` and its folders into `extracted_path`."""
        for place, folders, names in os.walk(archive_path):
            folders.sort()
            folder = Path(extracted_path, os.path.relpath(place, archive_path))
            folder.mkdir(parents=True, exist_ok=True)
            for path in (Path(place, name) for name in sorted(names)):
                with self._refusing(path):
                    self._take(path, folder)

    def _take(self, path: Path, folder: Path) -> None:
        if path.is_symlink() or not path.is_file():
            raise Refused("it is no regular file")
        if self._is_archive(path):
            self._unpack(path, folder, Room(), DEPTH)
        else:
            self.log.info("Copying %s to %s", path, folder)
            shutil.copy2(path, folder / path.name)

    def _unpack(self, path: Path, folder: Path, room: Room, depth: int) -> None:
        """Unpack an archive, and the archives in it, into a new folder.

        The new folder is removed if the archive is refused.
        """
        if depth == 0:
            raise Refused(f"more than {DEPTH} archives are inside each other")
        target = _free(folder / path.name.removesuffix(path.suffix).removesuffix(".tar"))
        self.log.info("Extracting %s to %s", path, target)
        target.mkdir()
        try:
            self._write(path, target, room)
        except (Refused, *FAULTS):
            shutil.rmtree(target)
            raise
        for inner in sorted(filter(self._is_archive, target.rglob("*"))):
            with self._refusing(inner):
                most = min(NESTED, room.size)
                own = Room(most, room.members)
                self._unpack(inner, inner.parent, own, depth - 1)
                room.size, room.members = room.size - (most - own.size), own.members
            inner.unlink()

    def _write(self, path: Path, target: Path, room: Room) -> None:
        """Write the files of an archive into a folder."""
        taken: set[str] = set()
        for member in members(path):
            room.take(member.size)
            with self._refusing(f"{path}: {member.name}"):
                parts = _parts(member.name, taken)
                if member.fault:
                    raise Refused(member.fault)
                _store(member, target.joinpath(*parts))

    @contextmanager
    def _refusing(self, what: Any) -> Iterator[None]:
        """Log what is refused, for the instructor, and continue after the `with` block."""
        try:
            yield
        except Refused as fault:
            self.log.error("Refused %s: %s", _shown(what), _shown(fault))
        except FAULTS as fault:
            self.log.error("Refused %s: it can't be read (%s)", _shown(what), _shown(fault))

    def _is_archive(self, path: Path) -> bool:
        return path.suffix.lower() in self.zip_ext and path.is_file()


class SafeCollector(FileNameCollectorPlugin):
    """Collects the newest of several files that a student handed in for one notebook.

    nbgrader's own collector would stop at such files and collect no student's work. If two files
    have the same time, the last file in alphabetical order is collected.
    """

    _newest: dict[tuple[str, str], str] | None = None

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """Return the student and the notebook in a file's name; None if the file is left out."""
        found = super().collect(submitted_file)
        if not found or self.parent is None:
            return found
        if self._newest is None:
            self._newest = self._all()
        newest = self._newest.get((found["student_id"], found["file_id"]), submitted_file)
        if newest == submitted_file:
            return found
        self.log.warning("%s is left out: %s is newer", _shown(submitted_file), _shown(newest))
        return None

    def _all(self) -> dict[tuple[str, str], str]:
        """Return the newest unpacked file for each pair of a student and a notebook."""
        folder = self.parent._format_collect_path(self.parent.extracted_directory)
        files = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
        named = re.compile(self.named_regexp)
        newest = {}
        for file in sorted(files, key=lambda file: (os.path.getmtime(file), file)):
            if file.endswith(tuple(self.valid_ext)) and (found := named.match(file)):
                newest[found["student_id"], found["file_id"]] = file
        return newest


# --- what is in an archive ------------------------------------------------------------------------


def members(path: Path) -> Iterator[Member]:
    """Yield the files in a zip or a tar archive.

    Raises:
        Refused: The archive exceeds a limit, so no further file may be unpacked.
        FAULTS: The archive is damaged.
    """
    yield from (_zipped if path.suffix.lower() == ".zip" else _tarred)(path)


def _zipped(path: Path) -> Iterator[Member]:
    with path.open("rb") as stream:
        # ZipFile would read the whole list of members, so check the size of the list before.
        end = zipfile._EndRecData(stream)
    if end and end[zipfile._ECD_SIZE] > DIRECTORY:
        raise Refused("it has too many members")
    with zipfile.ZipFile(path) as archive:
        # The limits are checked before the first file is written.
        Room().take(*(info.file_size for info in archive.infolist()))
        for info in archive.infolist():
            if not info.is_dir():
                opened = functools.partial(archive.open, info)
                name, fault = info.orig_filename, _zip_fault(info)
                yield Member(name, info.file_size, _time(info.date_time), fault, opened)


def _zip_fault(info: zipfile.ZipInfo) -> str:
    if stat.S_IFMT(info.external_attr >> 16) not in ORDINARY:
        return "it is a link or a device"
    if info.flag_bits & 1:
        return "it is encrypted"
    if info.compress_type not in COMPRESSED:
        return "its compression is none of zip's usual ones"
    if info.file_size > max(SMALL, RATIO * info.compress_size):
        return f"it is more than {RATIO} times as large as it is in the archive"
    return ""


def _time(moment: tuple[int, ...]) -> float:
    """Return a file's time in a zip archive as seconds since 1970; 0 if the time is invalid."""
    with suppress(ValueError, OverflowError):
        return time.mktime((*moment, 0, 0, -1))
    return 0.0


def _tarred(path: Path) -> Iterator[Member]:
    most = min(TOTAL, max(SMALL, RATIO * path.stat().st_size))
    with gzip.open(path) as stream, tarfile.open(fileobj=_Bounded(stream, most), mode="r:") as tar:
        for info in tar:
            if not info.isdir():
                opened = functools.partial(tar.extractfile, info)
                fault = "" if info.isreg() and not info.issparse() else "it is a link or a device"
                yield Member(info.name, info.size, float(info.mtime), fault, opened)


class _Bounded:
    """A stream that refuses to read more than about `most` bytes (B).

    tarfile trusts the sizes that an archive states, so tarfile alone would read any amount.
    """

    def __init__(self, stream: IO[bytes], most: int):
        self._stream, self._most = stream, most
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size > CHUNK or self.tell() + size > self._most + CHUNK:
            raise Refused("too much comes out of it")
        return self._stream.read(size)

    def seek(self, place: int) -> int:
        if place > self._most:
            raise Refused("too much comes out of it")
        return self._stream.seek(place)


# --- files ----------------------------------------------------------------------------------------


def _parts(name: str, taken: set[str]) -> tuple[str, ...]:
    """Return the folders and the file name in a member's name, and add the name to `taken`.

    Raises Refused if the name leads out of the folder, can't be a file name, or is in `taken`.
    """
    if re.search(f"[{UNREADABLE}]", name):
        raise Refused("its name holds control characters")
    name = name.replace("\\", "/")  # some programs on Windows write backslashes
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise Refused("its name is an absolute path")
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts:
        raise Refused("its name leads out of the folder" if parts else "it has no name")
    if len(name.encode()) > PATH or max(len(part.encode()) for part in parts) > NAME:
        raise Refused("its name is too long")
    known = unicodedata.normalize("NFC", "/".join(parts)).casefold()
    if known in taken:
        raise Refused("there is another file of this name in the archive")
    taken.add(known)
    return parts


def _store(member: Member, path: Path) -> None:
    """Write a member to a new file and set the file's time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        try:
            with member.open() as source:
                while chunk := source.read(CHUNK):
                    if target.tell() + len(chunk) > member.size:
                        raise Refused("it is larger than the archive says")
                    target.write(chunk)
        except BaseException:
            path.unlink()
            raise
    # The time that the archive states may be invalid for a file.
    with suppress(ValueError, OverflowError, OSError):
        os.utime(path, (member.time, member.time))


def _free(path: Path) -> Path:
    """Return a path that doesn't exist: this path, or else this path with a number appended."""
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name} {number + 1}")
    return free


def _shown(text: Any) -> str:
    """Return an untrusted text as one harmless line of the log, without unprintable characters."""
    line = "".join(c if c.isprintable() else "?" for c in str(text))
    return line if len(line) <= 400 else f"{line[:400]} …"
