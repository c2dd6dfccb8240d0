"""`nbgrader zip_collect` for archives of strangers: a bad file is refused, the rest is collected.

nbgrader_config.py puts these two into the places of nbgrader's own plugins:

    SafeExtractor    unpacks .zip, .gz and .tar.gz; nothing is written outside its folder
    SafeCollector    of several files of a student for one notebook, takes the newest

A member is refused if its name leads elsewhere or can't be a file's, if it is a link, a device,
encrypted, or the second of its name; an archive, if it is damaged or too much comes out of it.
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

TOTAL, NESTED = 500_000_000, 100_000_000  # B out of an archive, and out of one inside another
MEMBERS = 10_000  # out of one archive, with those inside it
DEPTH = 2  # archives inside each other: a class's, a student's
RATIO, SMALL = 200, 1_000_000  # how many times smaller a file may have become; B of one that may
NAME, PATH = 255, 1_000  # B of a name, and of a path
DIRECTORY = 10_000_000  # B of a zip's list of members
CHUNK = 1_000_000  # B that are read at once

UNREADABLE = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"  # controls, directions
ORDINARY = (0, stat.S_IFREG, stat.S_IFDIR)  # kinds of files; 0 where the archive doesn't tell
COMPRESSED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Refused(Exception):
    """An archive, or a member of one, that isn't unpacked; the text says why."""


# What else a damaged or forged archive makes Python's modules raise.
FAULTS = (OSError, EOFError, ValueError, ArithmeticError, RuntimeError, LookupError)
FAULTS += (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@dataclass
class Room:
    """What may still come out of an archive: B and members."""

    size: int = TOTAL
    members: int = MEMBERS

    def take(self, *sizes: int) -> None:
        """Count members. Raises Refused if there is no room for them."""
        self.size -= sum(sizes)
        self.members -= len(sizes)
        if self.members < 0:
            raise Refused("it has too many members")
        if self.size < 0 or min(sizes, default=0) < 0:
            raise Refused("too much comes out of it")


@dataclass(frozen=True)
class Member:
    """A file in an archive. fault: why it isn't unpacked, or "". time: in s since 1970."""

    name: str
    size: int
    time: float
    fault: str
    open: Callable[[], IO[bytes] | None]


# --- nbgrader's plugins ---------------------------------------------------------------------------


class SafeExtractor(ExtractorPlugin):
    """Unpacks the archives in a folder, and copies its other files, into another folder."""

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """nbgrader's call: all files below `archive_path`, with their folders."""
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
        """Unpack an archive, and those in it, into a new folder; none is left if it is refused."""
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
        """The members of an archive that are files, into a folder."""
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
        """Tell the instructor of what is refused, and go on."""
        try:
            yield
        except Refused as fault:
            self.log.error("Refused %s: %s", _shown(what), _shown(fault))
        except FAULTS as fault:
            self.log.error("Refused %s: it can't be read (%s)", _shown(what), _shown(fault))

    def _is_archive(self, path: Path) -> bool:
        return path.suffix.lower() in self.zip_ext and path.is_file()


class SafeCollector(FileNameCollectorPlugin):
    """Takes the newest of several files that a student handed in for one notebook.

    nbgrader itself would stop, and collect nothing from anybody. Of two files of the same time, the
    last in alphabetical order is taken.
    """

    _newest: dict[tuple[str, str], str] | None = None

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """nbgrader's call: student and notebook, by a file's name; None for one to be skipped."""
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
        """The newest file of each student and notebook, among all that are there."""
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
    """The files in a zip or a tar archive.

    Raises:
        Refused: the archive isn't unpacked any further.
        FAULTS: the archive is damaged.
    """
    yield from (_zipped if path.suffix.lower() == ".zip" else _tarred)(path)


def _zipped(path: Path) -> Iterator[Member]:
    with path.open("rb") as stream:
        end = zipfile._EndRecData(stream)  # as ZipFile finds it, which then reads the whole list
    if end and end[zipfile._ECD_SIZE] > DIRECTORY:
        raise Refused("it has too many members")
    with zipfile.ZipFile(path) as archive:
        Room().take(*(info.file_size for info in archive.infolist()))  # before any is written
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
    """A zip's time of a file; 0 if there is no such moment."""
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
    """A stream of which no more than `most` B are read: tarfile trusts the sizes in an archive."""

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
    """The folders and the file that a member's name stands for; adds it to those that are taken.

    Raises Refused for a name that leads elsewhere, can't be a file's, or is taken.
    """
    if re.search(f"[{UNREADABLE}]", name):
        raise Refused("its name holds control characters")
    name = name.replace("\\", "/")  # as some programs on Windows write it
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
    """Write a member to a new file, with its time."""
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
    with suppress(ValueError, OverflowError, OSError):  # no time of a file
        os.utime(path, (member.time, member.time))


def _free(path: Path) -> Path:
    """This path, or one with a number, if it is taken."""
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name} {number + 1}")
    return free


def _shown(text: Any) -> str:
    """A text of a stranger's in one line of the log, where it can do nothing."""
    line = "".join(c if c.isprintable() else "?" for c in str(text))
    return line if len(line) <= 400 else f"{line[:400]} …"
