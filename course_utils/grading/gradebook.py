"""nbgrader's gradebook and folders, as far as grading a class writes them.

The gradebook is the one that nbgrader_config.py names: SQLite in the course's folder, or another
database by `c.CourseDirectory.db_url`.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.api import Gradebook, InvalidEntry, MissingEntry
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties
from nbgrader.utils import compute_checksum, determine_grade, parse_utc

from course_utils.grading import records, release
from course_utils.grading.assignments import grade_id, grading, is_answer
from course_utils.grading.marking import TIME, Notebook, Submission, messages, name_fault, tests_of
from course_utils.grading.records import Record
from course_utils.notebooks import load


class Book:
    """The gradebook of one assignment of the course in `folder`; a context manager.

    records: the folder of the assignment's records.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.config = release.settings(folder)
        course = CourseDirectory(config=self.config, assignment_id=name)
        self.records = folder / "grading" / name
        self._url = course.db_url
        self._book = Gradebook(course.db_url, course.course_id)
        # Else the assignment's cells would be read again for each student.
        self._book.db().expire_on_commit = False

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: Any) -> None:
        self._book.close()

    def learn(self, solution: Path) -> bool:
        """Release the assignment anew if the gradebook has other tests than the solution.

        Returns whether it did.
        """
        notebook = load(solution)
        tests = tests_of(notebook)
        points = {grade_id(c): float(grading(c).get("points", 0)) for c in notebook["cells"]}
        wanted = {name: (source, points[name]) for name, source in tests.items()}
        known = {}
        with contextlib.suppress(MissingEntry):
            entry = self._book.find_notebook(self.name, self.name)
            scores = {cell.name: cell.max_score for cell in entry.grade_cells}
            known = {c.name: (c.source, scores.get(c.name)) for c in entry.source_cells}
        if all(known.get(name) == test for name, test in wanted.items()):
            return False
        self._book.db.rollback()  # ends the reading, for nbgrader to write
        release.release(self.folder, self.name)
        return True

    def students(self) -> set[str]:
        """Those who have a submission of the assignment in the gradebook."""
        return {s.student_id for s in self._book.assignment_submissions(self.name)}

    def scores(self) -> dict[str, dict[str, float | None]]:
        """Points in the gradebook by student and graded cell, as `score` has them."""
        self._book.db.expire_all()  # formgrader may have written meanwhile
        return {
            submission.student_id: {
                grade.name: score(grade) for book in submission.notebooks for grade in book.grades
            }
            for submission in self._book.assignment_submissions(self.name)
        }

    def save(self, record: Record, notebook: Notebook, given: Submission) -> Record:
        """Write points, notebook and record; returns the record with its points and state.

        Points given by hand stay. A cell that has some is marked for another look only if its check
        gives other points than before, or its answer changed. A student whose name the gradebook
        can't take has a record alone.
        """
        if name_fault(record.student):
            record.write(self.records)
            return record
        graded = nbformat.from_dict(notebook)
        with warnings.catch_warnings():  # SQLAlchemy's, about objects that nbgrader adds later
            warnings.filterwarnings("ignore", "Object of type <")
            with contextlib.suppress(InvalidEntry):  # another run has made the student just now
                self._book.update_or_create_student(record.student)
            timestamp = _timestamp(given.exchange.get(TIME, ""))
            self._book.update_or_create_submission(self.name, record.student, timestamp=timestamp)
        marks = self._book.find_submission_notebook(self.name, self.name, record.student)
        ungradable = record.state == records.UNGRADABLE
        reasons, points = list(record.reasons), {}
        same = self._unchanged(record.student, notebook)
        cells = {grade_id(cell): cell for cell in graded.cells if not ungradable}
        with self._book.db.no_autoflush:
            for grade in marks.grades:
                _mark(grade, cells.get(grade.name), grade.name in same)
                points[grade.name] = score(grade)
                if points[grade.name] is None and not ungradable:
                    reasons.append(records.by_hand(grade.name))
            for comment in marks.comments:
                comment.auto_comment = _comment(cells.get(comment.name))
        self._book.db.commit()
        if timestamp and not ungradable:
            self._late(record.student, graded)
        state = records.PERSON if reasons and not ungradable else record.state
        told = {"state": state, "reasons": tuple(reasons), "points": points}
        record = replace(record, messages=messages(notebook), **told)
        self._write(record.student, graded, given.exchange)
        record.write(self.records)
        return record

    def _unchanged(self, student: str, notebook: Notebook) -> set[str]:
        """Graded cells whose answer is as it was when they were graded last."""
        try:
            old = json.loads(self._autograded(student).read_text("utf-8"))["cells"]
            sources = {grade_id(cell): "".join(cell["source"]) for cell in old}
        except (OSError, ValueError, KeyError, TypeError):
            return set()
        return {
            name
            for cell in notebook["cells"]
            if (name := grade_id(cell))
            and (not is_answer(cell) or sources.get(name) == cell["source"])
        }

    def _late(self, student: str, graded: Any) -> None:
        """The penalty for being late, by the plugin that nbgrader is configured with."""
        about = {"student": student, "assignment": self.name, "notebook": self.name}
        step = AssignLatePenalties(config=self.config)
        step.log = release.errors_alone()
        step.preprocess(graded, {"nbgrader": {**about, "db_url": self._url}})

    def _autograded(self, student: str) -> Path:
        return self.folder / "autograded" / student / self.name / f"{self.name}.ipynb"

    def _write(self, student: str, graded: Any, exchange: dict[str, str]) -> None:
        """The notebook with its outputs, where formgrader and feedback look for it."""
        path = self._autograded(student)
        records.write_whole(path, nbformat.writes(graded).encode(), 0o444)
        for name, text in exchange.items():
            if name != TIME or _timestamp(text):  # nbgrader stops the class at one that is no time
                (path.parent / name).write_text(text, encoding="utf-8")


def _mark(grade: Any, cell: Any, unchanged: bool) -> None:
    """Enter what a cell's outputs say into its grade, as nbgrader's SaveAutoGrades does.

    cell: None if the submission can't be graded. Unlike there, a cell that a person has dealt with
    isn't marked for another look if nothing has changed.
    """
    before = grade.auto_score
    grade.auto_score = None if cell is None else determine_grade(cell, release.errors_alone())[0]
    dealt_with = grade.manual_score is not None and not grade.needs_manual_grade
    if not (dealt_with and unchanged and grade.auto_score == before):
        grade.needs_manual_grade = grade.manual_score is not None or grade.auto_score is None


def _comment(cell: Any) -> str | None:
    """nbgrader's own comment on an answer: "No response." on one that is as released."""
    released = cell is not None and cell.metadata.nbgrader.get("checksum")
    return "No response." if released and released == compute_checksum(cell) else None


def score(grade: Any) -> float | None:
    """Points of a cell: those by hand, else the check's; None while a person has to look."""
    if grade.needs_manual_grade:
        return None
    given = grade.auto_score if grade.manual_score is None else grade.manual_score
    return given + (grade.extra_credit or 0)


def _timestamp(text: str) -> Any:
    """When it was handed in, for nbgrader; None where that isn't said or isn't a time."""
    try:
        return parse_utc(text.strip()) if text.strip() else None
    except (ValueError, OverflowError):
        return None
