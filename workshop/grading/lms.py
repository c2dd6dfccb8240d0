"""Fill the points of a class into a table that a learning management system (LMS) has exported.

    Canvas    Grades, Export: a CSV file with a column for each assignment, "Exercise 03 (4711)"
    Moodle    an assignment's *Download grading worksheet*: a CSV file with a column "Grade"

The LMS imports the filled table. Rows, columns and their order stay the same, and only the points
of one assignment are filled in. A cell stays as it is if the points are not final.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_atomically
from course_utils.machine.validation import CourseError
from workshop.grading import records, report, safe_files
from workshop.grading.assignments import Assignment, read, sources
from workshop.grading.read import describe
from workshop.grading.records import Record
from workshop.grading.report import number_text, safe_cell, total
from workshop.grading.safe_files import escape_unprintable
from workshop.grading.save import Book

# Maximum size of an exported table, in bytes (B).
MAX_SIZE = 50_000_000
# The columns that identify a person, by LMS. A student's name in the gradebook may be any of these.
IDENTITY = {
    "canvas": ("Student", "ID", "SIS User ID", "SIS Login ID"),
    "moodle": ("Identifier", "Full name", "ID number", "Email address", "Username"),
}
# The columns that contain a person's name. A setting of Canvas writes the name into two columns.
NAMES = (("Student",), ("LastName", "FirstName"), ("Full name",), ("Identifier",))
# The columns that a table of the LMS must have.
NEEDED = {"canvas": ("Student", "ID"), "moodle": ("Identifier", "Grade")}
NEEDED_OF_SPLIT_NAMES = ("LastName", "FirstName", "ID")
# How an instructor gets the table.
SOURCE = {
    "canvas": "in Canvas, choose Grades, Export, Export Entire Gradebook",
    "moodle": "switch Moodle to English, and choose Download grading worksheet in the assignment",
}
# The LMS's number of a person: "123", or "Participant 123".
NUMBER = re.compile(r"(?:Participant )?(\d+)")
# Canvas adds the number of the assignment to the name of its column.
CANVAS_ASSIGNMENT = re.compile(r".+ \(\d+\)")
POSSIBLE = "Points Possible"
# What Canvas writes in place of points if a person has excused the student from the assignment.
EXCUSED = "EX"


@dataclass
class Filled:
    """A filled table.

    Attributes:
        students: the students whose points were filled in.
        not_final: the students whose points are not final, with their state.
        unknown: the students who are not in the table, or who fit several rows, with the reason.
        without: the names of the people in the table who have no graded submission.
    """

    data: bytes = b""
    students: list[str] = field(default_factory=list)
    not_final: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


class _Table:
    """A table that an LMS has exported."""

    def __init__(self, data: bytes, lms: str):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise CourseError(
                "the table isn't a text in UTF-8: use the file as the LMS exported it, not a file "
                "that a spreadsheet saved"
            ) from None
        first = text.partition("\n")[0]
        self._separator = max(",;\t", key=first.count)
        self._mark = data.startswith(b"\xef\xbb\xbf")
        # Canvas ends lines with a line feed, and Moodle with a carriage return and a line feed.
        self._end = "\r\n" if first.endswith("\r") else "\n"
        # A worksheet of Moodle may contain long texts of students.
        csv.field_size_limit(MAX_SIZE)
        lines = io.StringIO(text, newline="")
        rows = [row for row in csv.reader(lines, delimiter=self._separator) if row]
        self.header = [name.strip() for name in rows[0]] if rows else []
        needed = NEEDED_OF_SPLIT_NAMES if "LastName" in self.header else NEEDED[lms]
        if missing := [name for name in needed if name not in self.header]:
            raise CourseError(
                f"the table has no column {' and no column '.join(missing)}: {SOURCE[lms]}"
            )
        self.rows = [row + [""] * (len(self.header) - len(row)) for row in rows[1:]]

    def bytes(self) -> bytes:
        """Return the table as a file for the LMS, in which no cell begins with a formula."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=self._separator, lineterminator=self._end)
        # Moodle imports feedback, too, so a text such as "Good; -1 for style" must stay as it is.
        feedback = [n for n, name in enumerate(self.header) if name.startswith("Feedback")]
        for row in (self.header, *self.rows):
            cells = list(map(safe_cell, row))
            for n in feedback:
                start, semicolon, rest = row[n].partition(";")
                cells[n] = safe_cell(start) + semicolon + rest
            writer.writerow(cells)
        return text.getvalue().encode("utf-8-sig" if self._mark else "utf-8")


def export(folder: Path, name: str, lms: str, path: Path, **options: Any) -> str:
    """Fill the points of a class into a table, write the table to grading/, and return a summary.

    Args:
        path: the table that the LMS has exported.

    Raises:
        CourseError: the assignment was not graded yet, the table can't be used, or the filled table
            can't be written.
    """
    (source,) = sources(folder, name)
    name = source.stem
    with Book(folder, name) as book:
        graded = report.merged(records.read_all(book.records), book.scores())
    if not graded:
        raise CourseError(f"{name} was not graded yet: run `course grade {name}`")
    try:
        data = safe_files.read_bytes(path, MAX_SIZE)
        filled = fill(lms, data, read(source), graded, **options)
        target = safe_files.make_folders(folder / "grading", name) / f"{lms}.csv"
        write_atomically(target, filled.data, alone=True)
    except OSError as error:
        reason = describe(error, folder)
        raise CourseError(f"the table can't be read or written: {reason}") from error
    return "\n".join([f"{target.relative_to(folder)}:", *_summary(filled)])


def _summary(filled: Filled) -> list[str]:
    """Return a line for each group of people, so that nobody is lost."""
    groups = {
        "not final, left as they were": [f"{s} ({state})" for s, state in filled.not_final],
        "not filled in": [f"{s} ({problem})" for s, problem in filled.unknown],
        "in the table, but without a graded submission": filled.without,
    }
    lines = [
        f"  {len(names)} {title}: {', '.join(map(escape_unprintable, names))}"
        for title, names in groups.items()
        if names
    ]
    return [f"  {len(filled.students)} filled in", *lines]


def fill(  # noqa: PLR0913
    lms: str,
    data: bytes,
    assignment: Assignment,
    graded: Iterable[Record],
    *,
    column: str | None = None,
    bonus: bool = False,
    scale: bool = False,
) -> Filled:
    """Fill the points of an assignment into a table.

    Args:
        column: the name of the column for the points, or a part of it; default: in Canvas the
            only column that contains the assignment's title, name or "Exercise 03", and in Moodle
            the column "Grade".
        scale: whether to convert the points to the maximum that the LMS has for the assignment.

    Raises:
        CourseError: the table is not such a table, the column can't be found, or the LMS has
            another maximum for the assignment.
    """
    table = _Table(data, lms)
    place = _column(table.header, lms, assignment, column)
    people = [row for row in table.rows if not _is_information(row, lms)]
    maximum = _maximum(table, place, lms)
    factor = _factor(maximum, assignment, scale)
    rows, filled = _Rows(table.header, people, lms), Filled()
    # The student to whom a row belongs, by the row's identity: two equal rows are different.
    owners: dict[int, str] = {}
    for record in graded:
        row, problem = rows.find(record.student)
        if row is not None and id(row) in owners:
            row, problem = None, f"this row belongs to {owners[id(row)]}"
        if row is None:
            filled.unknown.append((record.student, problem))
            continue
        owners[id(row)] = record.student
        points = total(record, assignment)
        extra = total(record, assignment, bonus=True) if bonus else 0
        if points is None or extra is None or record.doubts:
            filled.not_final.append((record.student, record.state))
            continue
        if lms == "canvas" and row[place].strip().upper() == EXCUSED:
            filled.not_final.append((record.student, "excused in Canvas"))
            continue
        text = number_text(factor * (points + extra))
        if lms == "moodle" and maximum is not None and float(text) > maximum:
            problem = f"Moodle ignores {text} points, because the maximum is {number_text(maximum)}"
            filled.unknown.append((record.student, problem))
            continue
        row[place] = text
        filled.students.append(record.student)
    filled.without = [rows.name(row) for row in people if id(row) not in owners]
    filled.data = table.bytes()
    return filled


def _is_information(row: list[str], lms: str) -> bool:
    """Return whether a row describes the columns, not a person. Canvas has up to two such rows."""
    first = row[0].strip()
    return lms == "canvas" and (first == POSSIBLE or not any(cell.strip() for cell in row[:3]))


def _column(header: list[str], lms: str, assignment: Assignment, column: str | None) -> int:
    """Return the number of the column for the points."""
    if lms == "moodle" and column is None:
        return header.index("Grade")
    allowed = [name for name in header if lms == "moodle" or CANVAS_ASSIGNMENT.fullmatch(name)]
    number = assignment.name[:2]
    wanted = [column] if column else [assignment.title, assignment.name, f"Exercise {number}"]
    for text in wanted:
        found = [name for name in allowed if name == text]
        found = found or [name for name in allowed if text.casefold() in name.casefold()]
        if len(found) == 1:
            return header.index(found[0])
        if found:
            break
    names = ", ".join(allowed) or "none"
    problem = "several columns contain" if found else "no column contains"
    raise CourseError(
        f"{problem} {' or '.join(map(repr, wanted))}: name one of them with --column: {names}"
    )


def _maximum(table: _Table, place: int, lms: str) -> float | None:
    """Return the maximum points in the LMS; None if the table doesn't contain it."""
    texts = []
    if lms == "canvas":
        texts = [row[place] for row in table.rows if row[0].strip() == POSSIBLE]
    else:
        names = [n for n, name in enumerate(table.header) if name.casefold() == "maximum grade"]
        texts = [row[n] for n in names for row in table.rows[:1]]
    try:
        return float(texts[0].replace(",", ".")) if texts else None
    except ValueError:
        return None


def _factor(maximum: float | None, assignment: Assignment, scale: bool) -> float:
    """Return the factor between the points of the assignment and those in the LMS."""
    if maximum is None or maximum == assignment.points:
        return 1.0
    if not scale:
        raise CourseError(
            f"the maximum is {number_text(maximum)} in the LMS, but the assignment has "
            f"{assignment.points} points: change the maximum there and export the table again, or "
            "convert the points with --scale"
        )
    return maximum / assignment.points


class _Rows:
    """Finds the rows of people by everything that identifies them.

    The part of an e-mail address before the @ identifies a person, too. A name that is written
    exactly as in the table is preferred to a name whose simple form is in the table.
    """

    def __init__(self, header: list[str], people: list[list[str]], lms: str):
        self._exact: dict[str, list[list[str]]] = defaultdict(list)
        self._simple: dict[str, list[list[str]]] = defaultdict(list)
        places = [place for place, name in enumerate(header) if name in IDENTITY[lms]]
        names = next(columns for columns in NAMES if columns[0] in header)
        self._names = [header.index(name) for name in names]
        for row in people:
            texts = {row[place].strip() for place in places} | {self.name(row)}
            # Collecting adds the LMS's number to a name that several students have.
            numbers = [*filter(None, map(NUMBER.fullmatch, texts))]
            texts |= {f"{self.name(row)}_{number[1]}" for number in numbers}
            texts |= {text.partition("@")[0] for text in texts if "@" in text}
            for rows, keys in (self._exact, texts), (self._simple, set(map(_simple, texts))):
                for key in keys - {""}:
                    rows[key].append(row)

    def name(self, row: list[str]) -> str:
        return ", ".join(row[column].strip() for column in self._names)

    def find(self, student: str) -> tuple[list[str] | None, str]:
        found = self._exact.get(student) or self._simple.get(_simple(student), [])
        if len(found) == 1:
            return found[0], ""
        return None, "several rows fit this name" if found else "no row fits this name"


def _simple(name: str) -> str:
    """Return a name as Canvas writes it into file names: "Smith, Jane" becomes "smithjane"."""
    # The file systems of macOS store "é" as two characters.
    composed = unicodedata.normalize("NFC", name)
    return "".join(character for character in composed.casefold() if character.isalnum())
