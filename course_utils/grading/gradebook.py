"""nbgrader's gradebook and folders, as far as grading a class writes them.

The gradebook is the one that nbgrader_config.py names: SQLite in the course's folder, or another
database by `c.CourseDirectory.db_url`.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from course_utils.grading import records, release
from course_utils.grading.assignments import is_answer, is_graded, read
from course_utils.grading.marking import Notebook, Submission, messages
from course_utils.grading.records import Record
from course_utils.runtime import CourseError

BY_HAND = "a person gives the points for {cell}"
CHANGED = "{cell} has points by hand, and its check now gives others"


class Book:
    """The gradebook of one assignment of the course in `folder`.

    Raises CourseError if nbgrader is missing.
    """

    def __init__(self, folder: Path, name: str):
        try:
            from nbgrader.coursedir import CourseDirectory
        except ImportError:
            raise CourseError("nbgrader is missing: run `pip install nbgrader`") from None
        self.folder, self.name = folder, name
        self.config = release.settings(folder)
        self.course = CourseDirectory(config=self.config, assignment_id=name)
        self.records = folder / "grading" / name

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        from nbgrader.api import Gradebook

        with warnings.catch_warnings():  # SQLAlchemy's, about objects that nbgrader adds later
            warnings.filterwarnings("ignore", "Object of type <")
            with Gradebook(self.course.db_url, self.course.course_id) as book:
                yield book

    def learn(self, solution: Path) -> bool:
        """Release the assignment anew if the gradebook has other tests than the solution.

        Returns whether it did.
        """
        from nbgrader.api import MissingEntry

        wanted = {
            cell["id"]: (cell["source"], float(cell["metadata"]["nbgrader"]["points"]))
            for cell in read(solution).cells
            if is_graded(cell) and not is_answer(cell)
        }
        known = {}
        with self._open() as book, contextlib.suppress(MissingEntry):
            notebook = book.find_notebook(self.name, self.name)
            points = {cell.name: cell.max_score for cell in notebook.grade_cells}
            known = {
                cell.name: (cell.source, points.get(cell.name)) for cell in notebook.source_cells
            }
        if all(known.get(name) == test for name, test in wanted.items()):
            return False
        release.release(self.folder, self.name)
        return True

    def students(self) -> set[str]:
        """Those who have a submission of the assignment in the gradebook."""
        with self._open() as book:
            return {s.student_id for s in book.assignment_submissions(self.name)}

    def scores(self) -> dict[str, dict[str, float | None]]:
        """Points in the gradebook by student and graded cell, those by hand first; None if open."""
        with self._open() as book:
            found = {}
            for submission in book.assignment_submissions(self.name):
                grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
                found[submission.student_id] = {grade.name: _score(grade) for grade in grades}
            return found

    def save(self, record: Record, notebook: Notebook, given: Submission) -> Record:
        """Write points, notebook and record; returns the record with its points and state.

        Points given by hand stay. A cell that has some is marked for another look only if its check
        gives other points than before, or its answer changed.
        """
        import nbformat

        graded = nbformat.from_dict(notebook)
        kept = self._by_hand(record.student, notebook)
        with self._open() as book:
            book.update_or_create_student(record.student)
            book.update_or_create_submission(
                self.name, record.student, timestamp=_timestamp(given.timestamp)
            )
        if record.state == records.UNGRADABLE:
            self._clear(record.student)
        else:
            self._enter(record.student, graded)
        record = replace(record, messages=messages(notebook), **self._result(record, kept))
        self._write(record.student, graded, given.timestamp)
        record.write(self.records)
        return record

    def _by_hand(self, student: str, notebook: Notebook) -> dict[str, float | None]:
        """Cells that a person has dealt with and whose answer is as it was: automatic points."""
        from nbgrader.api import MissingEntry

        path = self._autograded(student)
        try:
            old = {c.get("id"): c["source"] for c in json.loads(path.read_text("utf-8"))["cells"]}
            with self._open() as book:
                grades = book.find_submission_notebook(self.name, self.name, student).grades
                dealt = {
                    grade.name: grade.auto_score
                    for grade in grades
                    if grade.manual_score is not None and not grade.needs_manual_grade
                }
        except (OSError, ValueError, KeyError, TypeError, MissingEntry):
            return {}
        now = {cell["id"]: cell["source"] for cell in notebook["cells"]}
        answers = {cell["id"] for cell in notebook["cells"] if is_answer(cell)}
        same = {name for name in now if name not in answers or old.get(name) == now[name]}
        return {name: score for name, score in dealt.items() if name in same}

    def _enter(self, student: str, graded: Any) -> None:
        """What nbgrader's autograding does with a notebook that has been run."""
        from nbgrader.preprocessors import AssignLatePenalties, SaveAutoGrades

        about = {"student": student, "assignment": self.name, "notebook": self.name}
        resources = {"nbgrader": {**about, "db_url": self.course.db_url}}
        for step in (SaveAutoGrades, AssignLatePenalties):
            preprocessor = step(config=self.config, parent=None)
            preprocessor.log = release.errors_alone()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Object of type <")
                preprocessor.preprocess(graded, resources)

    def _clear(self, student: str) -> None:
        """No points at all, not even 0: a person has to look."""
        with self._open() as book:
            notebook = book.find_submission_notebook(self.name, self.name, student)
            for grade in notebook.grades:
                grade.auto_score, grade.needs_manual_grade = None, True
            book.db.commit()

    def _result(self, record: Record, kept: dict[str, float | None]) -> dict[str, Any]:
        """Points, state and reasons of a record, from the gradebook; clears what `kept` allows."""
        points, reasons = {}, list(record.reasons)
        with self._open() as book:
            notebook = book.find_submission_notebook(self.name, self.name, record.student)
            for grade in notebook.grades:
                if grade.name in kept and kept[grade.name] == grade.auto_score:
                    grade.needs_manual_grade = False
                points[grade.name] = _score(grade)
                if record.state != records.UNGRADABLE and grade.needs_manual_grade:
                    text = BY_HAND if grade.manual_score is None else CHANGED
                    reasons.append(text.format(cell=grade.name))
            book.db.commit()
        state = records.PERSON if reasons and record.state == records.GRADED else record.state
        return {"points": points, "reasons": tuple(reasons), "state": state}

    def _autograded(self, student: str) -> Path:
        return self.folder / "autograded" / student / self.name / f"{self.name}.ipynb"

    def _write(self, student: str, graded: Any, timestamp: str) -> None:
        """The notebook with its outputs, where formgrader and feedback look for it."""
        import nbformat

        path = self._autograded(student)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(nbformat.writes(graded), encoding="utf-8")
        os.chmod(part, 0o444)
        part.replace(path)
        if timestamp:
            (path.parent / "timestamp.txt").write_text(timestamp, encoding="utf-8")


def _score(grade: Any) -> float | None:
    """Points of a cell: those by hand, else the check's; None if neither are there."""
    given = grade.auto_score if grade.manual_score is None else grade.manual_score
    return None if given is None else given + (grade.extra_credit or 0)


def _timestamp(text: str) -> Any:
    """When it was handed in, for nbgrader; None where that isn't said or isn't a time."""
    from nbgrader.utils import parse_utc

    try:
        return parse_utc(text) if text else None
    except (ValueError, OverflowError):
        return None
