"""nbgrader's gradebook and folders, as far as grading a class writes them.

The gradebook is the one that nbgrader_config.py names: SQLite in the course's folder, or another
database by `c.CourseDirectory.db_url`.

If one submission can't be saved, its record says why, and the others are saved. A fault that
concerns all submissions, such as a full disk, raises a CourseError.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.api import Assignment, Gradebook, InvalidEntry, MissingEntry
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties
from nbgrader.utils import compute_checksum, determine_grade, parse_utc
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from course_utils import files
from course_utils.grading import release, safe_files
from course_utils.grading.assignments import grade_id, grading, is_answer, is_graded, tests_of
from course_utils.grading.intake.submissions import TIME, in_gradebook, words
from course_utils.grading.results import records
from course_utils.grading.results.records import PERSON, UNGRADABLE, Record, by_hand
from course_utils.grading.spec import MAX_NOTEBOOK, Notebook, Submission
from course_utils.notebooks import load
from course_utils.validation import CourseError

Marks = dict[str, float | None]  # points by grade id; None while a person has to give them

ZONE = re.compile(r"[A-Za-z][\w+-]*(/[\w+-]+)*|[+-]?\d+", re.ASCII)  # UTC, Europe/Rome, +3600

MESSAGE = 4_000  # characters of a failed check's message that are kept


class Book:
    """The gradebook of one assignment of the course in `folder`; a context manager.

    Attributes:
        records: the assignment's folder in grading/, below which its records are.

    Raises:
        CourseError: the database failed within the context.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.config = release.settings(folder)
        course = CourseDirectory(config=self.config, assignment_id=name)
        self.records = folder / "grading" / name
        self._url = course.db_url
        try:
            self._book = Gradebook(course.db_url, course.course_id)
        except SQLAlchemyError as fault:
            raise self._fault(fault) from fault
        # Else the assignment's cells would be read again for each student.
        self._book.db().expire_on_commit = False

    def __enter__(self) -> Book:
        return self

    def __exit__(self, _: Any, fault: BaseException | None, __: Any) -> None:
        self._book.close()
        if isinstance(fault, SQLAlchemyError):
            raise self._fault(fault) from fault

    def _fault(self, fault: Exception) -> CourseError:
        why = words(fault, self.folder)
        return CourseError(f"the gradebook that {release.SETTINGS} names can't be used: {why}")

    def check(self) -> None:
        """Raise CourseError if results can't be saved for any submission at all."""
        self._penalties()
        for top, *names in ("grading", self.name, records.FOLDER), ("autograded",):
            try:
                with tempfile.TemporaryFile(
                    dir=safe_files.inside(self.folder / top, *names)
                ) as probe:
                    probe.write(b"x")
            except OSError as fault:
                where, why = "/".join((top, *names)), words(fault, self.folder)
                raise CourseError(f"results can't be saved in {where}: {why}") from fault
        own = update(Assignment).where(Assignment.name == self.name).values(name=self.name)
        try:
            self._book.db.execute(own)  # writes what is there already
            self._book.db.commit()
        except SQLAlchemyError as fault:
            raise self._fault(fault) from fault

    def learn(self, solution: Path) -> bool:
        """Release the assignment anew if the gradebook has other tests than the solution.

        Returns:
            Whether the assignment was released.
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
        gives other points than before, or its answer changed. A student who isn't meant to be in
        the gradebook (`submissions.in_gradebook`) only has a record. A submission that can't be
        saved is ungradable, and its record says why.

        Raises:
            CourseError: no submission can be saved any more.
        """
        try:
            return self._saved(record, notebook, given)
        except MemoryError:
            raise
        except Exception as fault:  # from nbgrader, SQLAlchemy, a late policy or the file system
            with contextlib.suppress(SQLAlchemyError):
                self._book.db.rollback()  # otherwise saving the next student would fail as well
            self.check()
            return self._not_saved(record, fault)

    def _saved(self, record: Record, notebook: Notebook, given: Submission) -> Record:
        """Do what `save` promises, if nothing goes wrong."""
        if in_gradebook(self.folder / "submitted", record.student):
            graded = nbformat.from_dict(notebook)
            is_gradable = record.state != UNGRADABLE
            timestamp = self._register(record.student, given)
            marks = self._enter_marks(record.student, graded.cells if is_gradable else [])
            if timestamp and is_gradable:
                self._late(record.student, graded)
            record = replace(settle(record, marks), messages=_messages(notebook))
            self._write_files(record.student, graded, given.exchange)
        record.write(self.records)
        return record

    def _register(self, student: str, given: Submission) -> Any:
        """Put the student and the submission into the gradebook; returns its timestamp, if any."""
        timestamp = _timestamp(given.exchange.get(TIME, ""))
        with warnings.catch_warnings():  # SQLAlchemy's, about objects that nbgrader adds later
            warnings.filterwarnings("ignore", "Object of type <")
            with contextlib.suppress(InvalidEntry):  # another run has made the student just now
                self._book.update_or_create_student(student)
            self._book.update_or_create_submission(self.name, student, timestamp=timestamp)
        return timestamp

    def _enter_marks(self, student: str, graded: Iterable[Any]) -> Marks:
        """Take the points from the cells' outputs and write them into the gradebook.

        Args:
            student: the student's name.
            graded: the cells with their outputs; none for a submission that can't be graded, which
                then has no points.

        Returns:
            The points that the gradebook holds now, those given by hand included.
        """
        cells = {grade_id(cell): cell for cell in graded}
        unchanged = self._unchanged(student, cells)
        entry = self._book.find_submission_notebook(self.name, self.name, student)
        marks = {}
        with self._book.db.no_autoflush:
            for grade in entry.grades:
                _mark(grade, cells.get(grade.name), grade.name in unchanged)
                marks[grade.name] = score(grade)
            for comment in entry.comments:
                comment.auto_comment = _comment(cells.get(comment.name))
        self._book.db.commit()
        return marks

    def _not_saved(self, record: Record, fault: Exception) -> Record:
        """The record of a submission whose result couldn't be saved.

        The record and the gradebook say so, if they can be written. The record has no key, so the
        next run grades the submission again.
        """
        reason = f"its result can't be saved: {words(fault, self.folder)}"
        costs = {"seconds": record.seconds, "memory": record.memory}
        record = Record(self.name, record.student, UNGRADABLE, (reason,), **costs)
        with contextlib.suppress(Exception):  # it may fail again, or the student may be unknown
            self._enter_marks(record.student, [])
        with contextlib.suppress(SQLAlchemyError):
            self._book.db.rollback()
        with contextlib.suppress(OSError):
            record.write(self.records)
        return record

    def _unchanged(self, student: str, cells: Mapping[str | None, Any]) -> set[str | None]:
        """Graded cells whose answer is as it was when they were graded last, by grade id."""
        try:
            path = self.folder / "autograded" / student / self.name / f"{self.name}.ipynb"
            old = json.loads(safe_files.content(path, MAX_NOTEBOOK))["cells"]
            sources = {grade_id(cell): "".join(cell["source"]) for cell in old}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return set()
        return {
            name
            for name, cell in cells.items()
            if not is_answer(cell) or sources.get(name) == cell["source"]
        }

    def _penalties(self) -> AssignLatePenalties:
        """nbgrader's step that penalizes late work, with the configured policy."""
        try:
            return AssignLatePenalties(config=self.config)
        except Exception as fault:  # the policy is the instructor's own code
            why = words(fault, self.folder)
            said = f"the late policy that {release.SETTINGS} names can't be used: {why}"
            raise CourseError(said) from fault

    def _late(self, student: str, graded: Any) -> None:
        """Subtract the penalty for late work, by nbgrader's own step."""
        about = {"student": student, "assignment": self.name, "notebook": self.name}
        step = self._penalties()
        step.log = release.errors_alone()
        step.preprocess(graded, {"nbgrader": {**about, "db_url": self._url}})

    def _write_files(self, student: str, graded: Any, exchange: dict[str, str]) -> None:
        """Write the notebook with its outputs where formgrader and feedback look for it."""
        folder = safe_files.inside(self.folder / "autograded", student, self.name)
        notebook = nbformat.writes(graded).encode()
        files.write_atomically(folder / f"{self.name}.ipynb", notebook, 0o444)
        for name, text in exchange.items():
            if name != TIME or _timestamp(text):  # nbgrader stops the class at one that is no time
                files.write_atomically(folder / name, text.encode())


def settle(record: Record, marks: Marks) -> Record:
    """The record with its points, and with the state that follows from them.

    A submission in which a person still has to give points needs a person. One that is ungradable
    stays ungradable.
    """
    if record.state == UNGRADABLE:
        return replace(record, points=marks)
    reasons = [*record.reasons, *(by_hand(cell) for cell, value in marks.items() if value is None)]
    state = PERSON if reasons else record.state
    return replace(record, state=state, reasons=tuple(reasons), points=marks)


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
    """The submission's timestamp, as nbgrader expects it; None if the text isn't a valid one.

    A student may have written the text. dateutil accepts a path as the name of a time zone, so it
    would open any file that the text names. For that reason only names and offsets are allowed.
    """
    date, _, zone = text.strip().rpartition(" ")
    if date.count(" ") == 1 and not ZONE.fullmatch(zone):
        return None
    try:
        return parse_utc(text.strip()) if text.strip() else None
    except Exception:  # dateutil raises more kinds of exceptions than it documents
        return None


def _messages(notebook: Notebook) -> dict[str, str]:
    """What the failed checks of a graded notebook said, by grade id."""
    found = {}
    for cell in notebook["cells"]:
        errors = [o for o in cell.get("outputs", ()) if o["output_type"] == "error"]
        if is_graded(cell) and errors:
            found[grade_id(cell)] = _message(errors[0])[:MESSAGE]
    return found


def _message(error: dict[str, Any]) -> str:
    failed = error["ename"] == "CheckFailed"
    return "\n".join(error["traceback"]) if failed else f"{error['ename']}: {error['evalue']}"
