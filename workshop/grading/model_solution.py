"""Write the model solution of an assignment for students, but not before its due date.

The model solution is the notebook in solutions/ without hidden tests. The due date is the one in
nbgrader's gradebook.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from course_utils.exercise.checks import HIDDEN
from course_utils.machine.files import write_text
from course_utils.machine.notebooks import dump, load
from course_utils.machine.validation import CourseError
from workshop.grading.assignments import BEGIN, END, HIDDEN_END, sources
from workshop.grading.save import Book

FOLDER = "model_solutions"
# Like nbgrader, this expression finds a marker anywhere in a line.
HIDDEN_TESTS = re.compile(rf"^[^\n]*{HIDDEN}.*?(?:{HIDDEN_END}[^\n]*\n?|\Z)", re.S | re.M)
MARKER = re.compile(rf"^ *(?:{BEGIN}|{END})\n?", re.M)


def write(folder: Path, name: str, now: datetime | None = None) -> Path:
    """Write the model solution of an assignment, and return the path of the notebook.

    Raises:
        CourseError: There is no such assignment, the gradebook has no due date for it, or students
            may still hand in the assignment.
    """
    (source,) = sources(folder, name)
    _check_due_date(folder, source.stem, now or datetime.now(UTC))
    notebook = load(source)
    for cell in notebook["cells"]:
        cell["source"] = MARKER.sub("", HIDDEN_TESTS.sub("", cell["source"])).rstrip("\n")
    path = folder / FOLDER / source.name
    write_text(path, dump(notebook))
    return path


def _check_due_date(folder: Path, name: str, now: datetime) -> None:
    """Raise CourseError unless the due date of an assignment is over."""
    with Book(folder, name) as book:
        due = book.due_date()
    if due is None:
        raise CourseError(
            f"{name} has no due date, so it isn't certain that its solution may be published: set "
            f'the date with `nbgrader db assignment add {name} --duedate="2026-12-01 18:00 UTC"`'
        )
    if now < due:
        raise CourseError(
            f"students may hand in {name} until {due:%Y-%m-%d %H:%M} UTC: publish its solution "
            "after that, or change the date in the gradebook"
        )
