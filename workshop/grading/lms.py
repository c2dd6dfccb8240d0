"""Write points.csv, and fill points into tables of learning management systems (LMS).

    Canvas    Grades, Export: a CSV file with a column for each assignment, "Exercise 03 (4711)"
    Moodle    an assignment's *Download grading worksheet*: a CSV file with a column "Grade"

The LMS imports the filled table. Missing points are never replaced by 0. A spreadsheet must not run
a formula in a student's name or text, so no cell begins with a formula.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from pathlib import Path

from course_utils.machine.files import write_text
from course_utils.machine.validation import CourseError
from workshop.grading.assignments import Assignment, Task, read, sources
from workshop.grading.records import Record, read_all
from workshop.grading.safe_files import escape_unprintable

# The columns that identify a person. The first of these columns in a table contains the name.
IDENTITY = ["Student", "Full name", "Identifier", "Username", "Email address", "ID number", "ID"]
IDENTITY += ["SIS User ID", "SIS Login ID"]
# Matches each place at which a spreadsheet would find a formula: the start of a cell, and any
# separator of cells or rows in the cell, because the spreadsheet may use another separator.
FORMULA = re.compile(r"((?:^|[;\t\r\n])[\s\0]*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
NUMBER = re.compile(r"\s*-?\d+([.,]\d+)?\s*")

# A filled table, and a list of all people in the class or in the table. For each person, the list
# contains the name, and the reason why no points were filled in; "" if points were filled in.
Filled = tuple[str, list[tuple[str, str]]]


def total(record: Record, tasks: list[Task]) -> float | None:
    """Return the sum of a submission's points for some tasks; None if any points are missing."""
    cells = [cell["id"] for task in tasks for cell in task.graded]
    known = [points for cell in cells if (points := record.points.get(cell)) is not None]
    return sum(known) if len(known) == len(cells) and not record.problem else None


def number_text(value: float | None) -> str:
    """Return points as text; "" if they are unknown."""
    return "" if value is None else f"{round(value, 4):.10g}"


def write_csv(path: Path, assignment: Assignment, graded: list[Record]) -> None:
    """Write a row for each student: the state, the reasons, the sum, and the points of each task.

    If any points of a task are missing, the task's points and their sum are empty, because an LMS
    would treat an incomplete sum as final. The sum doesn't include bonus points.
    """
    regular, bonus = ([t for t in assignment.tasks if t.bonus is kind] for kind in (False, True))
    table = [["student", "state", "reasons", "points", "max points", "bonus points"]]
    table[0] += [task.id for task in assignment.tasks]
    for record in graded:
        points = [total(record, regular), assignment.points, total(record, bonus)]
        points += [total(record, [task]) for task in assignment.tasks]
        texts = [record.student, record.state, "; ".join(record.reasons)]
        table.append([*map(escape_unprintable, texts), *map(number_text, points)])
    write_text(path, _text(table))


def _text(table: list[list[str]], separator: str = ",") -> str:
    """Return a table as CSV text, with an apostrophe before each formula."""
    text = io.StringIO(newline="")
    safe = [[c if NUMBER.fullmatch(c) else FORMULA.sub(r"\1'", c) for c in row] for row in table]
    csv.writer(text, delimiter=separator).writerows(safe)
    # Excel needs the byte order mark to read UTF-8 correctly.
    return "\ufeff" + text.getvalue()


def export(folder: Path, name: str, lms: str, data: bytes, column: str | None = None) -> str:
    """Fill the points of a class into a table, write the table to grading/, and return a summary.

    Args:
        lms: "canvas" or "moodle".
        data: The content of the file that the LMS has exported.
        column: The name of the column for the points, or a part of this name; default: the
            assignment's title in Canvas, and "Grade" in Moodle.

    Raises:
        CourseError: The assignment has not been graded, the table can't be used, or the filled
            table can't be written.
    """
    # Importing nbgrader takes seconds, so it is imported here and not at the top of the file. The
    # module `report`, which imports this module, doesn't need nbgrader.
    from workshop.grading.save import Book

    (source,) = sources(folder, name)
    with Book(folder, source.stem) as book:
        graded = book.with_points(read_all(book.records))
    if not graded:
        raise CourseError(f"{source.stem} was not graded yet: run `course grade {source.stem}`")
    assignment = read(source)
    column = column or {"canvas": assignment.title, "moodle": "Grade"}[lms]
    table, done = fill(data, assignment, graded, column)
    target = folder / "grading" / source.stem / f"{lms}.csv"
    write_text(target, table)
    others = [f"  {escape_unprintable(name)}: {problem}" for name, problem in done if problem]
    counted = f"{len(done) - len(others)} filled in, {len(others)} not filled in"
    return "\n".join([f"{target.relative_to(folder)}: {counted}", *others])


def fill(data: bytes, assignment: Assignment, graded: list[Record], column: str) -> Filled:
    """Fill the final points of an assignment into a table; all other cells stay unchanged.

    Raises:
        CourseError: A column is missing, or the maximum in the LMS differs from the points of the
            assignment.
    """
    text = data.decode("utf-8-sig", errors="replace")
    separator = max(",;\t", key=text.partition("\n")[0].count)
    csv.field_size_limit(10**9)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header, *rows = [row for row in lines if row] or [[]]
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    place = _place(header, column)
    _check_maximum(header, rows, place, assignment.points)
    people = [row for row in rows if row[0].strip().casefold() not in ("", "points possible")]
    identity = [header.index(name) for name in IDENTITY if name in header]
    keys = [_keys([row[number].strip() for number in identity]) for row in people]
    names = [_simple(record.student) for record in graded]
    found = [[number for number, key in enumerate(keys) if name in key] for name in names]
    owners = Counter(number for numbers in found for number in numbers)
    done = []
    for record, numbers in zip(graded, found, strict=True):
        points = number_text(total(record, [task for task in assignment.tasks if not task.bonus]))
        row, problem = people[numbers[0]] if numbers else [], ""
        if len(numbers) != 1:
            problem = "several rows fit this name" if numbers else "no row fits this name"
        elif owners[numbers[0]] > 1:
            problem = "another student fits the same row"
        elif not points or record.doubts:
            problem = record.state
        elif row[place].strip().upper() == "EX":
            problem = "excused in Canvas"
        elif float(points) > assignment.points:
            problem = f"{points} points exceed the maximum, so Moodle would ignore them"
        else:
            row[place] = points
        done.append((record.student, problem))
    without = [", ".join(row[:2]) for number, row in enumerate(people) if number not in owners]
    done += [(name, "there is no graded submission of this name") for name in without]
    return _text([header, *rows], separator), done


def _place(header: list[str], wanted: str) -> int:
    """Return the number of the column for the points."""
    found = [name for name in header if name == wanted]
    found = found or [name for name in header if wanted.casefold() in name.casefold()]
    if len(found) != 1:
        raise CourseError(f"{len(found)} columns contain {wanted!r}: choose a --column of {header}")
    return header.index(found[0])


def _check_maximum(header: list[str], rows: list[list[str]], place: int, points: int) -> None:
    """Raise CourseError if the maximum points in the LMS's table differ from `points`."""
    texts = [row[place] for row in rows if row[0].strip().casefold() == "points possible"]
    columns = [number for number, name in enumerate(header) if name.casefold() == "maximum grade"]
    texts += [row[number] for number in columns for row in rows]
    for text in filter(NUMBER.fullmatch, texts):
        if float(text.replace(",", ".")) != points:
            problem = f"the maximum is {text} in the LMS, but the assignment has {points} points"
            raise CourseError(f"{problem}: change it in the LMS, and export the table again")


def _keys(texts: list[str]) -> set[str]:
    """Return the names that the student of a table's row may have, simplified by `_simple`."""
    # If several students have the same name, `nbgrader zip_collect` adds the LMS's numbers.
    numbers = [text.removeprefix("Participant ") for text in texts]
    names = [texts[0] + number for number in numbers if number.isdecimal()]
    addresses = [text.partition("@")[0] for text in texts]
    return {_simple(text) for text in [*texts, *names, *addresses]} - {""}


def _simple(name: str) -> str:
    """Return a name as Canvas writes it into file names: "Smith, Jane" becomes "smithjane"."""
    # The file systems of macOS store "é" as two characters.
    return "".join(c for c in unicodedata.normalize("NFC", name).casefold() if c.isalnum())
