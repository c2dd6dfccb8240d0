"""Collect the archive of a learning management system (LMS) with `nbgrader zip_collect`.

    downloaded/03_lora/archive/submissions.zip       the archive of the class
        jane_12345_67890_03_lora.ipynb               Canvas: Jane's notebook
        Sam Doe_99_assignsubmission_file_work.zip    Moodle: Sam's archive
            03_lora.ipynb, helper.py                 Sam's files
    downloaded/03_lora/archive/kim_03_lora.ipynb     Kim's notebook, for example from an e-mail

In the archive of the LMS, the name of each file begins with the student's name. This name alone
decides who handed in the file. All files in a student's own archive belong to this student.
nbgrader_config.py names two classes as nbgrader's plugins:

    Archives     unpacks all archives, and writes a folder for each student
    ByStudent    tells nbgrader to which student each file in these folders belongs
"""

from __future__ import annotations

import io
import math
import posixpath
import re
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unicodedata import normalize

from nbgrader.plugins import ExtractorPlugin, FileNameCollectorPlugin

from workshop.grading.collect import files as collected
from workshop.grading.collect.files import File, Refused, attempt
from workshop.grading.read import NOBODY, quoted
from workshop.grading.safe_files import read_bytes

# A zip archive ends with a list of its files. Each entry of the list begins with the bytes LISTED.
# A student's archive may have at most MAX_LISTED entries.
LISTED, MAX_LISTED = b"PK\x01\x02", 20_000
# Matches the paths of folders, and of files that macOS adds to folders and archives.
JUNK = re.compile(r"/$|(^|/)(__MACOSX/|\._|\.DS_Store$)")
NO_STUDENT = "it is not a file whose name begins with a student's name"


class Archives(ExtractorPlugin):
    """Writes the files of each student into a folder with the student's name."""

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """Unpack the class's archive, and copy the other files in the archive's folder."""
        course, name = self.parent.coursedir, self.parent.coursedir.assignment_id
        students: dict[str, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
        nobody = []
        for path, read in self._entries(Path(archive_path), name):
            if owner := owner_of(path, name):
                student, number, file = owner
                students[student][number].append((file, read))
            else:
                nobody.append(f"{quoted(path)} was left out: {NO_STUDENT}")
        old = course.format_path(course.submitted_directory, NOBODY, name)
        shutil.rmtree(old, ignore_errors=True)
        collected.note(Path(extracted_path, NOBODY), nobody)
        for student, numbers in students.items():
            # The LMS has given one number to each student with this name. If there is only one
            # number, the files without a number belong to the same student.
            if len(numbers.keys() - {""}) < 2:
                numbers = {"": [file for files in numbers.values() for file in files]}
            for number, files in numbers.items():
                folder = Path(extracted_path, f"{student}_{number}" if number else student)
                notes: list[str] = []
                collected.store(folder, name, _unpacked(files, notes), notes)

    def _entries(self, folder: Path, name: str) -> list[File]:
        """Return the files next to the class's archive, and then the files in the archive."""
        archives = sorted(folder.glob("*.[zZ][iI][pP]"))
        others = sorted({*folder.iterdir()}.difference(archives))
        files = [(p.name, partial(read_bytes, p)) for p in others if not JUNK.search(p.name)]
        try:
            if archives[1:] or any(owner_of(path.name, name) for path in archives):
                raise Refused("only one is allowed, the class's: name it submissions.zip")
            return files + [file for path in archives for file in attempt(_members, path)]
        except Refused as error:
            found = ", ".join(quoted(path.name) for path in archives)
            self.parent.fail(f"{folder} has the archive {found}: {error}")
            raise


class ByStudent(FileNameCollectorPlugin):
    """Tells nbgrader the student and the path of each file that `Archives` has written."""

    def collect(self, submitted_file: str) -> dict[str, str] | None:
        """Return the student's name, and the file's path in the student's folder."""
        root = self.parent._format_collect_path(self.parent.extracted_directory)
        student, *parts = Path(submitted_file).relative_to(root).parts
        return {"student_id": student, "file_id": "/".join(parts)}


def owner_of(path: str, assignment: str) -> tuple[str, str, str] | None:
    """Split a path in an archive into the student's name, the LMS's number, and the student's path.

    The name and the number come from the LMS; the number is "" if there is none. The student can
    choose only the rest of the path. Returns None if the path doesn't begin with a student's name.
    """
    path, name = re.sub("[\u200c\u200d]", "", normalize("NFC", path)), re.escape(assignment)
    # Canvas writes two numbers after the name, or one number if the student entered a text or a
    # link instead of a file. In Moodle, the name itself may end with a number, as in "Jane_12".
    canvas = rf"(?!{name})\d+_(?!assignsubmission_)|(?=(?:text|link)\.html$)"
    lms = rf"(?:LATE_)?(\d+)_(?:{canvas}|assignsubmission_[a-z]+(?:_/?|/))"
    # This pattern is for files that no LMS has named. Colab and people add words to a file's name.
    plain = rf"()(?=(?:Copy_of_)*(?:[^_/]* )?{name})"
    for form in (lms, plain):
        match = re.fullmatch(rf"({collected.STUDENT})_{form}(.+)", path, re.IGNORECASE)
        if match and collected.is_student(match[1]):
            return match[1], match[2], match[3]
    return None


def _unpacked(files: list[File], notes: list[str]) -> Iterator[File]:
    """Yield a student's files; for each archive, yield the files in it instead."""
    for name, read in files:
        if not name.lower().endswith(".zip"):
            yield name, read
            continue
        try:
            yield from attempt(_unpack, read)
        except Refused as error:
            notes.append(f"{quoted(name)} was left out: {error}")


def _unpack(read: Callable[[int], bytes]) -> list[File]:
    """Return the files in a student's archive; if one folder contains all, omit its name."""
    data = read(collected.MAX_BYTES)
    # Opening an archive reads its list of files. A very long list would need too much memory.
    if data.count(LISTED) > MAX_LISTED:
        raise Refused(collected.TOO_MANY)
    files = _members(io.BytesIO(data), collected.MAX_BYTES)
    folders = [posixpath.dirname(name) for name, _ in files if not collected.name_problem(name)]
    around = posixpath.commonpath(folders or [""])
    return [(name.removeprefix(around and f"{around}/"), read) for name, read in files]


def _members(file: Path | io.BytesIO, most: float = math.inf) -> list[File]:
    """Return the files in an archive; raise Refused if they exceed `most` bytes (B) together."""
    try:
        # Some programs store file names as UTF-8 but don't mark them as UTF-8. Other programs use
        # an older encoding.
        archive = zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        archive = zipfile.ZipFile(file)
    # An archive may list the same large file many times. Reading all entries would take too long.
    if sum(info.file_size for info in archive.infolist()) > most:
        raise Refused(collected.TOO_LARGE)
    members = [i for i in archive.infolist() if not JUNK.search(i.orig_filename)]
    if not members:
        raise Refused("there is no file in it")
    return [(info.orig_filename, partial(_read, archive, info)) for info in members]


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Return the content of a file in an archive."""
    # Other compression methods may need gigabytes of memory to decompress a small file.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused("its compression method is neither stored nor deflated")
    if info.file_size > limit:
        raise Refused(collected.TOO_LARGE)
    with archive.open(info) as stream:
        return stream.read(info.file_size + 1)
