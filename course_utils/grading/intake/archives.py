"""Collect the archives of a learning management system (LMS) with `nbgrader zip_collect`.

    downloaded/03_lora/archive/submissions.zip       the archive of the class
        jane_12345_67890_03_lora.ipynb               Canvas: Jane's notebook
        Sam Doe_99_assignsubmission_file_work.zip    Moodle: Sam's archive
            03_lora.ipynb, helper.py                 files of Sam, whatever their names are

The LMS begins the name of each entry in its archive with the student's name. This beginning alone
decides whose the entry is. An archive of a student is unpacked for this student only, and nothing
in it can name somebody else. Single notebooks STUDENT_03_lora.ipynb may lie beside the archive.

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from nbgrader.plugins import ExtractorPlugin, FileNameCollectorPlugin

from course_utils.grading.intake.collected import (
    JUNK,
    STUDENT,
    TOO_MANY,
    Collected,
    Refused,
    content,
    name_problem,
    untrusted,
)
from course_utils.grading.intake.submissions import MAX_FILES, NOBODY
from course_utils.grading.spec import NOTEBOOK

# The beginning of each line in the list of files at the end of a zip archive.
LISTED = b"PK\x01\x02"
# File types that are unpacked; 0 means that the archive doesn't state the type.
REGULAR_TYPES = (0, stat.S_IFREG)
# Moodle calls all students so if an assignment is graded anonymously.
ANONYMOUS = "Participant"
NOT_REGULAR = "it is a link or a device"
NO_STUDENT = "its name doesn't begin with a student: rename it to STUDENT_{}.ipynb"


@dataclass(frozen=True)
class Entry:
    """A file that was handed in.

    Attributes:
        name: The path in the archive, or below the folder of the archives.
        time: Year, month, day, hour, minute and second of the last change.
        read: Returns the beginning of the content, with the given size in bytes (B).
        problem: The reason why the file must not be unpacked; "" if there is none.
        source: The archive that contains the file; "" for a file beside the archives.
    """

    name: str
    time: tuple[int, ...] = (0,)
    read: Callable[[int], bytes] = bytes
    problem: str = ""
    source: str = ""


class Owner(NamedTuple):
    """What the name of an entry says: the student, the LMS's number or "", and the file's name."""

    student: str
    number: str
    file: str


# What a student has handed in: the names of the files, and the entries.
HandedIn = list[tuple[str, Entry]]


class Archives(ExtractorPlugin):
    """Writes the files of each student into a folder with the student's name.

    If several students have the same name, the number of the LMS is added to their names.
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
                problem, owner = name_problem(entry.name), None
                if problem or not (owner := owner_of(entry.name, name)):
                    shown = f"{entry.source}/{entry.name}" if entry.source else entry.name
                    nobody.leave_out(shown, entry.problem or problem or NO_STUDENT.format(name))
                else:
                    found[owner.student][owner.number].append((owner.file, entry))
            for student, numbers in found.items():
                # A file without a number belongs to the only student with this name.
                if len(numbers) == 2 and "" in numbers:
                    numbers = {"": [each for group in numbers.values() for each in group]}
                is_unclear = len(numbers) > 1 or student == ANONYMOUS
                for number, group in numbers.items():
                    folder = f"{student}_{number}" if number and is_unclear else student
                    self.log.info("Unpacking what %s handed in", folder)
                    _write(Collected(target / folder), group, name)
        nobody.finish()


class ByStudent(FileNameCollectorPlugin):
    """Tells nbgrader the student and the path of each file that `Archives` has written."""

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """Return the student and the file's path below the student's folder."""
        root = self.parent._format_collect_path(self.parent.extracted_directory)
        student, *parts = Path(submitted_file).relative_to(root).parts
        return {"student_id": student, "file_id": "/".join(parts)}


# --- whose a file is ------------------------------------------------------------------------------


def owner_of(path: str, assignment: str) -> Owner | None:
    """Return whose an entry is; None if its name says no student.

    The first part of the path that begins with a student's name decides. It may be a file, or the
    folder of a student. The first numbers in it are the LMS's, because the student chooses the rest
    of the name.

    Args:
        path: The path of the entry.
        assignment: The assignment's name, such as "03_lora".
    """
    canvas = rf"(?:LATE_)?(?P<user>\d+)_(?!{assignment})\d+_"
    moodle = r"(?P<participant>\d+)_assignsubmission_[a-z]+_"
    forms = (
        rf"(?P<student>{STUDENT})_(?:{canvas}|{moodle})(?P<file>.*)",
        rf"(?P<student>{STUDENT})_(?P<file>{_copy_of(assignment)}(?:\.[\w.]+)?)",
    )
    parts = unicodedata.normalize("NFC", path).split("/")
    for place, part in enumerate(parts):
        for form in forms:
            if match := re.fullmatch(form, part, re.IGNORECASE):
                texts = {"user": None, "participant": None, **match.groupdict()}
                file = "/".join(filter(None, [texts["file"], *parts[place + 1 :]]))
                return Owner(texts["student"], texts["user"] or texts["participant"] or "", file)
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
    """Yield everything that was handed in: the files in the class's archives, and beside them.

    An archive whose own name says a student is this student's; every other one is the class's.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield Entry(name, problem=NOT_REGULAR)
        elif path.is_file() and path.suffix.lower() == ".zip" and not owner_of(name, assignment):
            try:
                with untrusted():
                    entries = _members(opened.enter_context(zipfile.ZipFile(path)), name)
            except Refused as error:
                nobody.leave_out(name, str(error))
            else:
                yield from entries
        elif path.is_file() and not JUNK.fullmatch(name):
            changed = time.localtime(path.stat().st_mtime)[:6]
            opener = functools.partial(path.open, "rb")
            yield Entry(name, changed, functools.partial(_beginning, opener))


def _members(archive: zipfile.ZipFile, source: str) -> list[Entry]:
    """Return the files in an archive, the newest first."""
    entries = [
        Entry(
            info.orig_filename,
            info.date_time,
            functools.partial(_beginning, functools.partial(archive.open, info)),
            _problem(info),
            source,
        )
        for info in archive.infolist()
        if not info.is_dir() and not JUNK.fullmatch(info.orig_filename)
    ]
    return sorted(entries, key=lambda entry: entry.time, reverse=True)


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


def _beginning(opener: Callable[[], IO[bytes]], size: int) -> bytes:
    with opener() as stream:
        return stream.read(size)


# --- the folder of one student --------------------------------------------------------------------


def _write(student: Collected, group: HandedIn, assignment: str) -> None:
    """Write the files from the newest archive in which a student has files."""
    newest = max((entry.time, entry.source) for _, entry in group)[1]
    for file, entry in sorted(group, key=lambda each: each[1].time, reverse=True):
        if entry.source != newest:
            continue
        if file.lower().endswith(".zip"):
            _unpack(student, file, entry, assignment)
        else:
            student.add(_plain_name(file, assignment), entry.read, entry.problem)
    student.finish()


def _unpack(student: Collected, file: str, entry: Entry, assignment: str) -> None:
    """Write the files of an archive that a student handed in, without the folder around them."""
    try:
        data = content(entry.read, student.free, entry.problem)
        # Opening an archive reads its list of files, which may need much memory.
        if data.count(LISTED) > MAX_FILES:
            raise Refused(TOO_MANY)
        with untrusted():
            members = _members(zipfile.ZipFile(io.BytesIO(data)), file)
    except Refused as error:
        student.leave_out(file, str(error))
        return
    names = [each.name for each in members if not name_problem(each.name)]
    around = os.path.commonpath([f"/{os.path.dirname(name)}" for name in names] or ["/"])
    for each in members:
        problem = each.problem or name_problem(each.name)
        if each.name.lower().endswith(".zip"):
            problem = problem or "it is an archive inside an archive"
        name = each.name if problem else f"/{each.name}"[len(around) :].lstrip("/")
        student.add(_plain_name(name, assignment), each.read, problem)


def _plain_name(file: str, assignment: str) -> str:
    """Return the name under which a file is collected: copies of the notebook get its name."""
    is_copy = re.fullmatch(_copy_of(assignment) + re.escape(NOTEBOOK), file, re.IGNORECASE)
    return f"{assignment}{NOTEBOOK}" if is_copy else file
