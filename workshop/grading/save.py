"""Save the results of grading in nbgrader's gradebook and folders.

The gradebook is an SQLite database in the course's folder, unless `c.CourseDirectory.db_url` in
nbgrader_config.py names another database.

If one submission can't be saved, its record says why, and the other submissions are saved. An error
that concerns all submissions, such as a full disk, raises a CourseError.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.api import Assignment, Gradebook, InvalidEntry, MissingEntry
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties
from nbgrader.utils import compute_checksum, determine_grade
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from course_utils.machine import files
from course_utils.machine.notebooks import load
from course_utils.machine.validation import CourseError
from workshop.grading import records, release, safe_files
from workshop.grading.assignments import bonus_points, grade_id, grading, is_answer, is_graded
from workshop.grading.collect.exchange import parse_time
from workshop.grading.read import TIMESTAMP, describe, in_gradebook
from workshop.grading.records import Points, Record
from workshop.grading.spec import MAX_NOTEBOOK, Notebook, Submission


class Book:
    """The gradebook of one assignment of the course in `folder`; a context manager."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.config = release.settings(folder)
        course = CourseDirectory(config=self.config, assignment_id=name)
        self.records = folder / "grading" / name
        self._url = course.db_url
        try:
            self._book = Gradebook(course.db_url, course.course_id)
        except SQLAlchemyError as error:
            raise self._database_error(error) from error
        # Otherwise the assignment's cells would be read from the database again for each student.
        self._book.db().expire_on_commit = False

    def __enter__(self) -> Book:
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self._book.close()
        if isinstance(error, SQLAlchemyError):
            raise self._database_error(error) from error

    def _database_error(self, error: Exception) -> CourseError:
        reason = describe(error, self.folder)
        return CourseError(f"the gradebook that {release.SETTINGS} names can't be used: {reason}")

    def check(self) -> None:
        """Raise CourseError if submissions can't be graded or their results can't be saved."""
        self._late_penalties()
        for top, *names in ("grading", self.name, records.FOLDER), ("autograded",):
            try:
                folder = safe_files.make_folders(self.folder / top, *names)
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(b"x")
            except OSError as error:
                shown, reason = "/".join((top, *names)), describe(error, self.folder)
                raise CourseError(f"results can't be saved in {shown}: {reason}") from error
        # Test whether the database can be written: overwrite the assignment's name with the same
        # name.
        statement = update(Assignment).where(Assignment.name == self.name).values(name=self.name)
        try:
            self._book.db.execute(statement)
            self._book.db.commit()
        except SQLAlchemyError as error:
            raise self._database_error(error) from error

    def check_release(self) -> None:
        """Raise CourseError unless exercises/ and the gradebook match the solution.

        Otherwise, answers would be graded with different tests from those in students' notebooks.
        """
        cells = load(self.folder / "solutions" / self.name / f"{self.name}.ipynb")["cells"]
        points = {grade_id(c): float(grading(c)["points"]) for c in cells if is_graded(c)}
        stored = {}
        with contextlib.suppress(MissingEntry):
            entry = self._book.find_notebook(self.name, self.name)
            stored = {cell.name: cell.max_score for cell in entry.grade_cells}
        differences = release.differences(self.folder, self.name)
        if stored != points:
            differences.append(f"the gradebook doesn't have the points of {self.name}")
        if differences:
            raise CourseError(f"{differences[0]}: run `course release {self.name}`")

    def due_date(self) -> datetime | None:
        """Return when the assignment is due, in UTC; None if the gradebook has no date."""
        try:
            date = self._book.find_assignment(self.name).duedate
        except MissingEntry:
            return None
        return date and date.replace(tzinfo=UTC)

    def students(self) -> set[str]:
        """Return the students who have a submission of the assignment in the gradebook."""
        return {s.student_id for s in self._book.assignment_submissions(self.name)}

    def with_points(self, found: Iterable[Record | None]) -> list[Record]:
        """Return the records with the gradebook's points, which a person may have changed."""
        # Formgrader may have changed the database meanwhile.
        self._book.db.expire_all()
        points = {
            submission.student_id: {
                grade.name: score(grade) for book in submission.notebooks for grade in book.grades
            }
            for submission in self._book.assignment_submissions(self.name)
        }
        return [record.with_points(points.get(record.student, {})) for record in found if record]

    def save(self, record: Record, notebook: Notebook, submission: Submission) -> Record:
        """Save points, notebook and record; return the record with its points and state.

        Points given by hand are kept. A cell with such points is marked for a new review only if
        the check gives different points than before, or if the answer has changed. If the gradebook
        must not contain the student (`read.in_gradebook`), only the record is saved. If saving
        fails, the submission is ungradable, and its record says why.
        """
        try:
            return self._save_all(record, notebook, submission)
        except MemoryError:
            raise
        # nbgrader, SQLAlchemy, the late policy or the file system may raise any exception.
        except Exception as error:
            with contextlib.suppress(SQLAlchemyError):
                # Without a rollback, saving the next student would fail as well.
                self._book.db.rollback()
            self.check()
            return self._save_failure(record, error)

    def _save_all(self, record: Record, notebook: Notebook, submission: Submission) -> Record:
        """Save points, notebook and record as `save` does, without handling exceptions."""
        # If the record has no key, the next run grades the submission again. Until then, the
        # gradebook keeps the points of earlier runs.
        if record.key and in_gradebook(self.folder / "submitted", record.student):
            graded = nbformat.from_dict(notebook)
            timestamp = self._register(record.student, submission)
            points = self._enter_points(record.student, [] if record.problem else graded.cells)
            if timestamp and not record.problem:
                self._subtract_late_penalty(record.student, graded)
            record = record.with_points(points)
            self._write_files(record.student, graded, submission.exchange)
        record.write(self.records)
        return record

    def _register(self, student: str, submission: Submission) -> Any:
        """Add a submission to the gradebook; return the time of submission, or None if unknown."""
        timestamp = parse_time(submission.exchange.get(TIMESTAMP, ""))
        # SQLAlchemy warns about objects that nbgrader will add to the session later.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Object of type <")
            # Another run may have added the same student at the same time.
            with contextlib.suppress(InvalidEntry):
                self._book.update_or_create_student(student)
            self._book.update_or_create_submission(self.name, student, timestamp=timestamp)
        return timestamp

    def _enter_points(self, student: str, graded: Iterable[Any]) -> Points:
        """Compute the points from the cells' outputs and write them into the gradebook.

        Returns:
            All points that the gradebook contains now, including points given by hand.
        """
        cells = {grade_id(cell): cell for cell in graded}
        unchanged = self._unchanged(student, cells)
        entry = self._book.find_submission_notebook(self.name, self.name, student)
        points = {}
        with self._book.db.no_autoflush:
            for grade in entry.grades:
                _enter_score(grade, cells.get(grade.name), grade.name in unchanged)
                points[grade.name] = score(grade)
            for comment in entry.comments:
                comment.auto_comment = _comment(cells.get(comment.name))
        self._book.db.commit()
        return points

    def _save_failure(self, record: Record, error: Exception) -> Record:
        """Return the record of a submission whose result couldn't be saved.

        If possible, the points of the checks are removed from the gradebook, and the record is
        written. The record has no key, so the next run grades the submission again.
        """
        record = Record(
            self.name,
            record.student,
            problem=f"the result can't be saved: {describe(error, self.folder)}",
            seconds=record.seconds,
            memory=record.memory,
        )
        # Saving may fail again, or the gradebook may not contain the student.
        with contextlib.suppress(Exception):
            self._enter_points(record.student, [])
        with contextlib.suppress(SQLAlchemyError):
            self._book.db.rollback()
        with contextlib.suppress(OSError):
            record.write(self.records)
        return record

    def _unchanged(self, student: str, cells: Mapping[str | None, Any]) -> set[str | None]:
        """Return the grade ids of the cells whose answer hasn't changed since the last grading.

        The answer to a test is the last answer above the test.
        """
        try:
            path = self.folder / "autograded" / student / self.name / f"{self.name}.ipynb"
            old = json.loads(safe_files.read_bytes(path, MAX_NOTEBOOK))["cells"]
            sources = {grade_id(cell): "".join(cell["source"]) for cell in old}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return set()
        unchanged, same = set(), True
        for name, cell in cells.items():
            same = sources.get(name) == cell["source"] if is_answer(cell) else same
            unchanged |= {name} if same else set()
        return unchanged

    def _late_penalties(self) -> AssignLatePenalties:
        """Return nbgrader's preprocessor that penalizes late work by the configured policy."""
        try:
            return AssignLatePenalties(config=self.config)
        # The late policy is the instructor's own code, which may raise any exception.
        except Exception as error:
            raise CourseError(
                f"the late policy that {release.SETTINGS} names can't be used: "
                f"{describe(error, self.folder)}"
            ) from error

    def _subtract_late_penalty(self, student: str, graded: Any) -> None:
        """Subtract the penalty for late work with nbgrader's own preprocessor."""
        names = {"student": student, "assignment": self.name, "notebook": self.name}
        preprocessor = self._late_penalties()
        preprocessor.log = release.error_log()
        preprocessor.preprocess(graded, {"nbgrader": {**names, "db_url": self._url}})

    def _write_files(self, student: str, graded: Any, exchange: dict[str, str]) -> None:
        """Write the graded notebook into autograded/, where formgrader and feedback read it."""
        folder = safe_files.make_folders(self.folder / "autograded", student, self.name)
        notebook = nbformat.writes(graded).encode()
        files.write_atomically(folder / f"{self.name}.ipynb", notebook, 0o444, alone=True)
        for name, text in exchange.items():
            # An invalid timestamp would stop nbgrader for the whole class.
            if name != TIMESTAMP or parse_time(text):
                files.write_atomically(folder / name, text.encode(), alone=True)


def _enter_score(grade: Any, cell: Any, unchanged: bool) -> None:
    """Enter the points from a cell's outputs in the gradebook, as nbgrader's SaveAutoGrades does.

    Unlike SaveAutoGrades, this function doesn't mark a cell for a new review if a person has
    already given points by hand, and neither the answer nor the check's points have changed.
    """
    before = grade.auto_score
    grade.auto_score = None if cell is None else determine_grade(cell, release.error_log())[0]
    enter_bonus(grade, cell)
    is_reviewed = grade.manual_score is not None and not grade.needs_manual_grade
    if not (is_reviewed and unchanged and grade.auto_score == before):
        grade.needs_manual_grade = grade.manual_score is not None or grade.auto_score is None


def enter_bonus(grade: Any, cell: Any) -> None:
    """Enter the bonus points of a check as extra credit.

    A person enters the bonus points of an answer without checks, so those are never changed.
    """
    if cell is not None and (bonus := bonus_points(cell)) and not is_answer(cell):
        worth = copy.deepcopy(cell)
        worth.metadata.nbgrader.points = bonus
        grade.extra_credit = determine_grade(worth, release.error_log())[0]


def _comment(cell: Any) -> str | None:
    """Return nbgrader's comment "No response." for an unchanged released answer; else None."""
    released = cell is not None and cell.metadata.nbgrader.get("checksum")
    return "No response." if released and released == compute_checksum(cell) else None


def score(grade: Any) -> float | None:
    """Return a cell's points with extra credit; None if a person still has to review the cell.

    Points given by hand replace the points of the check.
    """
    if grade.needs_manual_grade:
        return None
    points = grade.auto_score if grade.manual_score is None else grade.manual_score
    return points + (grade.extra_credit or 0)
