"""Collect the archives of a learning management system (LMS) with `nbgrader zip_collect`.

    downloaded/03_lora/archive/submissions.zip       the archive of the class
        jane_12345_67890_03_lora.ipynb               Canvas: Jane's notebook
        Sam Doe_99_assignsubmission_file_work.zip    Moodle: Sam's archive
            03_lora.ipynb, helper.py                 files of Sam, whatever their names are

The LMS begins the name of each entry in its archive with the student's name. Only this beginning
decides to which student the entry belongs. A student's archive is unpacked for this student only,
whatever names it contains. Single notebooks STUDENT_03_lora.ipynb may be beside the
class's archive.

nbgrader_config.py names the two classes as nbgrader's plugins:

    Archives     unpacks everything, and writes a folder for each student
    ByStudent    tells nbgrader to which student a file in these folders belongs
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import stat
import time
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from nbgrader.plugins import ExtractorPlugin, FileNameCollectorPlugin

from workshop.grading.collect.files import (
    STUDENT,
    TOO_LARGE,
    TOO_MANY,
    Collected,
    Refused,
    content,
    is_junk,
    name_problem,
    untrusted,
)
from workshop.grading.read import NOBODY
from workshop.grading.spec import NOTEBOOK, is_notebook

# The first bytes of each entry in the list of files at the end of a zip archive.
LISTED = b"PK\x01\x02"
# The maximum number of these entries; an archive with more of them is not opened.
MAX_LISTED = 20_000
# The flag of a name that is written in UTF-8.
UTF8_FLAG = 0x800
# What Moodle writes after a student's name and number, before the kind of the submission.
MOODLE = "_assignsubmission_"
# File types that are unpacked; 0 means that the archive doesn't state the type.
REGULAR_TYPES = (0, stat.S_IFREG)
# The name that Moodle gives to all students if an assignment is graded anonymously.
ANONYMOUS = "Participant"
NOT_REGULAR = "it is a link or a device"
UNCLEAR = (
    "it may be the class's archive or a student's: give the class's archive a name without {}, or "
    "unpack the student's archive"
)
NO_STUDENT = "its name doesn't begin with a student's name: rename it to STUDENT_{}.ipynb"


@dataclass(frozen=True)
class Entry:
    """A file that was handed in.

    Attributes:
        name: The path in the archive, or below the folder of the archives.
        time: Year, month, day, hour, minute and second of the last change.
        read: Returns the beginning of the content, with the given size in bytes (B).
        problem: The reason why the file must not be unpacked; "" if there is none.
        source: The archive or folder that contains the file; "" for a file beside the archives.
        size: The size that an archive states, in bytes (B).
        age: The newest time in the archive, and when the archive was stored here.
    """

    name: str
    time: tuple[int, ...] = (0,)
    read: Callable[[int], bytes] = lambda _: b""
    problem: str = ""
    source: str = ""
    size: int = 0
    age: tuple[Any, ...] = ()


class Owner(NamedTuple):
    """The student, the LMS's number (or "") and the file's name, as an entry's name states them."""

    student: str
    number: str
    file: str


# The files that a student handed in: the name of each file, and its entry.
HandedIn = list[tuple[str, Entry]]


class Archives(ExtractorPlugin):
    """Writes the files of each student into a folder with the student's name.

    If several students have the same name, the number that the LMS gave each of them is
    added to the name.
    """

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """Unpack or copy everything in `archive_path` into folders in `extracted_path`."""
        course, target = self.parent.coursedir, Path(extracted_path)
        name, nobody = course.assignment_id, Collected(target / NOBODY)
        old = course.format_path(course.submitted_directory, NOBODY, name)
        shutil.rmtree(old, ignore_errors=True)
        found: dict[str, dict[str, HandedIn]] = defaultdict(lambda: defaultdict(list))
        with contextlib.ExitStack() as opened:
            for entry in _entries(Path(archive_path), name, nobody, opened):
                problem = name_problem(entry.name)
                if owner := None if problem else owner_of(entry.name, name):
                    found[owner.student][owner.number].append((owner.file, entry))
                else:
                    shown = f"{entry.source}/{entry.name}" if entry.source else entry.name
                    reason = entry.problem or problem or NO_STUDENT.format(name)
                    nobody.leave_out(shown, reason)
            for folder, group in _folders(found).items():
                self.log.info("Unpacking what %s handed in", folder)
                _write(Collected(target / folder), group, name)
        if nobody.left_out:
            nobody.finish()


def _folders(found: dict[str, dict[str, HandedIn]]) -> dict[str, HandedIn]:
    """Return what was handed in, grouped by the student's folder."""
    folders: dict[str, HandedIn] = defaultdict(list)
    for student, numbers in found.items():
        # If only one student has this name, a file without a number belongs to this student.
        is_unclear = len(numbers.keys() - {""}) > 1 or student == ANONYMOUS
        for number, group in numbers.items():
            folders[f"{student}_{number}" if number and is_unclear else student] += group
    return folders


class ByStudent(FileNameCollectorPlugin):
    """Tells nbgrader the student and the path of each file that `Archives` has written."""

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """Return the student and the file's path below the student's folder."""
        root = self.parent._format_collect_path(self.parent.extracted_directory)
        student, *parts = Path(submitted_file).relative_to(root).parts
        return {"student_id": student, "file_id": "/".join(parts)}


# --- whose a file is ------------------------------------------------------------------------------


def owner_of(path: str, assignment: str) -> Owner | None:
    """Return the owner that an entry's path names; None if that is unclear.

    Only the first part of the path is considered: the name of a file, or of a student's folder. The
    first numbers in this part come from the LMS. The student chooses only what follows them.
    """
    # If a text or a link was entered instead of a file, Canvas writes only one number.
    entered = r"(?=(?:text|link)\.html$)"
    canvas = rf"(?:LATE_)?(?P<user>\d+)_(?:(?!{assignment})\d+_|{entered})"
    moodle = rf"(?P<participant>\d+){MOODLE}[a-z]+(?:_|$)"
    forms = (
        rf"(?P<student>{STUDENT})_(?:{canvas}|{moodle})(?P<file>.*)",
        rf"(?P<student>{STUDENT})_(?P<file>{_copy_of(assignment)}(?:\.[\w.]+)?)",
    )
    first, *rest = path.split("/")
    for form in forms:
        if match := re.fullmatch(form, first, re.IGNORECASE):
            texts = match.groupdict()
            number = texts.get("user") or texts.get("participant") or ""
            return Owner(texts["student"], number, "/".join(filter(None, [texts["file"], *rest])))
    return None


def _copy_of(assignment: str) -> str:
    """Return a pattern for the name of an assignment's notebook and of copies, without the ending.

    Colab adds "Copy of ", people add words, and browsers and a second upload add a number, such as
    " (1)", "(1)", "-1" or "-Copy1".
    """
    return rf"(?:Copy_of_)*(?:[^_/]*[ +])?{assignment}(?: ?\(\d+\)|-(?:Copy)?\d+)*"


# --- what was handed in ---------------------------------------------------------------------------


def _entries(
    folder: Path, assignment: str, nobody: Collected, opened: contextlib.ExitStack
) -> Iterator[Entry]:
    """Yield all files that were handed in: those in the class's archives, and those beside them.

    If the name of an archive or a folder begins with a student's name, all files in it belong to
    this student. Every other archive or folder is the class's.
    """
    for path in sorted(folder.iterdir()):
        name = _clean(path.name)
        owner, is_zip = owner_of(name, assignment), path.suffix.lower() == ".zip"
        if is_junk(name):
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield Entry(name, problem=NOT_REGULAR)
        elif is_zip and owner and not owner.number and owner.file.startswith(assignment):
            nobody.leave_out(name, UNCLEAR.format(assignment))
        elif is_zip and not (owner and owner.number):
            try:
                with untrusted():
                    archive = opened.enter_context(zipfile.ZipFile(path))
                    entries = _members(archive, name)
            except Refused as error:
                nobody.leave_out(name, str(error))
            else:
                yield from _inside(entries, assignment, path.stat().st_mtime)
        elif path.is_dir() and not owner and MOODLE not in name:
            yield from _inside(_files(path, path, name), assignment, path.stat().st_mtime)
        else:
            yield from _files(path, folder, "")


def _files(path: Path, root: Path, source: str) -> list[Entry]:
    """Return a file that lies beside the archives, or all files in a folder."""
    entries = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = _clean(file.relative_to(root).as_posix())
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            entries.append(Entry(name, problem=NOT_REGULAR, source=source))
        elif file.is_file() and not is_junk(name):
            changed = tuple(time.localtime(file.stat().st_mtime)[:6])
            opener = functools.partial(file.open, "rb")
            read = functools.partial(_beginning, opener)
            entries.append(Entry(name, changed, read, source=source))
    return entries


def _members(archive: zipfile.ZipFile, source: str) -> list[Entry]:
    return [
        Entry(
            _clean(_decoded(info)),
            info.date_time,
            functools.partial(_beginning, functools.partial(archive.open, info)),
            _problem(info),
            source,
            info.file_size,
        )
        for info in archive.infolist()
        if not info.orig_filename.endswith("/") and not is_junk(info.orig_filename)
    ]


def _inside(entries: list[Entry], assignment: str = "", stored: float = 0.0) -> list[Entry]:
    """Return the entries of an archive without the leading folders that all of them share.

    Args:
        assignment: The assignment's name, if the archive is the class's. In that case,
            a student's folder is not removed.
        stored: When the archive was stored here, in seconds since 1970.
    """
    names = [each.name for each in entries if not name_problem(each.name)]
    common = os.path.commonpath([f"/{os.path.dirname(name)}" for name in names] or ["/"])
    around = common.strip("/")
    if assignment and (owner_of(around, assignment) or MOODLE in around):
        around = ""
    skipped = len(around) + 1 if around else 0
    age = (max((each.time for each in entries), default=()), stored)
    return [
        replace(each, age=age, name=each.name[0 if name_problem(each.name) else skipped :])
        for each in entries
    ]


def _clean(name: str) -> str:
    """Return a name in Unicode's normal form NFC, without zero-width joiners and non-joiners."""
    return unicodedata.normalize("NFC", name).replace("\u200c", "").replace("\u200d", "")


def _decoded(info: zipfile.ZipInfo) -> str:
    """Return the name of a file in an archive; some programs write UTF-8 without saying so."""
    if not info.flag_bits & UTF8_FLAG:
        with contextlib.suppress(UnicodeError):
            return info.orig_filename.encode("cp437").decode()
    return info.orig_filename


def _problem(info: zipfile.ZipInfo) -> str:
    """Return the reason why a file in an archive must not be unpacked, or ""."""
    if stat.S_IFMT(info.external_attr >> 16) not in REGULAR_TYPES:
        return NOT_REGULAR
    if info.flag_bits & 1:
        return "it is encrypted"
    # The other methods may need gigabytes of memory for a small file.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "its compression method is neither stored nor deflated"
    return ""


def _beginning(opener: Callable[[], Any], size: int) -> bytes:
    with opener() as stream:
        return stream.read(size)


# --- the folder of one student --------------------------------------------------------------------


def _write(student: Collected, group: HandedIn, assignment: str) -> None:
    """Write a student's files: those in the newest archive, and those beside the archives."""
    ages = {entry.source: entry.age for _, entry in group if entry.source}
    newest = max(ages, key=ages.__getitem__, default="")
    for file, entry in sorted(group, key=_newest_first):
        if entry.source not in (newest, ""):
            continue
        if file.lower().endswith(".zip"):
            _unpack(student, file, entry, assignment)
        else:
            student.add(_plain_name(file, assignment), entry.read, entry.problem)
    student.finish()


def _newest_first(item: tuple[str, Entry]) -> tuple[bool, tuple[int, ...]]:
    """Return a key for sorting: notebooks before other files, and new files before old ones."""
    file, entry = item
    return not is_notebook(file), tuple(-number for number in entry.time)


def _unpack(student: Collected, file: str, entry: Entry, assignment: str) -> None:
    """Write the files of an archive that a student handed in, without the folder around them."""
    try:
        data = content(entry.read, student.free, entry.problem)
        # Opening an archive reads its list of files, which may need much memory.
        if data.count(LISTED) > MAX_LISTED:
            raise Refused(TOO_MANY)
        with untrusted():
            members = _members(zipfile.ZipFile(io.BytesIO(data)), file)
    except Refused as error:
        student.leave_out(file, str(error))
        return
    if not members:
        student.leave_out(file, "there is no file in it")
    free = student.free
    for each in sorted(_inside(members), key=lambda each: _newest_first((each.name, each))):
        # Count files that can't be read, too: an archive may list one damaged file many times.
        free -= each.size
        problem = each.problem or TOO_LARGE * (free < 0)
        if each.name.lower().endswith(".zip"):
            problem = problem or "it is an archive inside an archive"
        student.add(_plain_name(each.name, assignment), each.read, problem)


def _plain_name(file: str, assignment: str) -> str:
    """Return the name under which a file is collected: copies of the notebook get its name."""
    is_copy = re.fullmatch(_copy_of(assignment) + re.escape(NOTEBOOK), file, re.IGNORECASE)
    return f"{assignment}{NOTEBOOK}" if is_copy else file
