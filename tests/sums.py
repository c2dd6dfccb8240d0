"""Create a course with one small assignment, `09_sums`, and submissions."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.api import Gradebook
from nbgrader.apps.api import NbGraderAPI
from nbgrader.apps.baseapp import NbGrader
from nbgrader.coursedir import CourseDirectory

from tests import assignment
from workshop.grading import release

ROOT = Path(__file__).resolve().parents[1]
NAME = assignment.NAME

RIGHT = {
    "sum-all": "def add(numbers):\n    if not numbers: raise ValueError('no numbers')\n"
    "    return sum(numbers)\n",
    "sum-squares": "def squares(numbers):\n    if not numbers: raise ValueError('no numbers')\n"
    "    return sum(n * n for n in numbers)\n",
    "sum-largest": "def largest(numbers):\n    if not numbers: raise ValueError('no numbers')\n"
    "    return max(numbers)\n",
    "sum-why": "Adding is useful.",
}
WRONG = RIGHT | {"sum-squares": "def squares(numbers):\n    return sum(numbers) ** 2\n"}
CELLS = [f"{task}-{kind}" for task, *_ in assignment.TASKS for kind in ("form", "values")]


def course(folder: Path) -> Path:
    """Create a course in a new folder: nbgrader's settings, the assignment and its release."""
    return Path(shutil.copytree(_released(), folder))


@functools.cache
def _released() -> Path:
    """Create the course once for all tests of this process, because nbgrader needs seconds."""
    temporary = tempfile.TemporaryDirectory()
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name)
    (folder / "exercises").mkdir()
    shutil.copy(ROOT / release.SETTINGS, folder)
    assignment.write(folder)
    release.release(folder)
    return folder


def hand_in(
    course: Path, student: str, answers: dict[str, str] | None = None, name: str = NAME
) -> Path:
    """Submit the release with these answers, and return the path of the submitted notebook."""
    notebook = nbformat.read(course / "exercises" / name / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = (answers or {}).get(cell.id, cell.source)
    path = course / "submitted" / student / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def submit(course: Path, exchange: Path, student: str, answers: dict[str, str], time: str) -> Path:
    """Hand in through an exchange, as nbgrader does, and return the folder in the exchange."""
    folder = exchange / "qlora" / "inbound" / f"{student}+{NAME}+{time}+abc"
    notebook = hand_in(course, "scratch", answers)
    folder.parent.mkdir(parents=True, exist_ok=True)
    notebook.parent.rename(folder)
    notebook.parents[1].rmdir()
    return folder


def formgrader() -> NbGraderAPI:
    """Return what formgrader's buttons call, for the course in the current folder."""
    app = NbGrader()
    app.initialize([])
    return NbGraderAPI(app.coursedir, parent=app)


def gradebook(course: Path) -> Any:
    """Open nbgrader's gradebook of the course."""
    return Gradebook(CourseDirectory(config=release.settings(course)).db_url, "qlora")


def grades(course: Path) -> dict[tuple[str, str], tuple[float | None, float | None, bool]]:
    """Return automatic points, points by hand and "needs a person", by student and cell."""
    with gradebook(course) as book:
        return {
            (submission.student_id, grade.name): (
                grade.auto_score,
                grade.manual_score,
                grade.needs_manual_grade,
            )
            for submission in book.assignment_submissions(NAME)
            for notebook in submission.notebooks
            for grade in notebook.grades
        }


def give(course: Path, student: str, cell: str, points: float) -> None:
    """Store points by hand, as formgrader does."""
    with gradebook(course) as book:
        grade = book.find_grade(cell, NAME, NAME, student)
        grade.manual_score, grade.needs_manual_grade = points, False
        book.db.commit()
