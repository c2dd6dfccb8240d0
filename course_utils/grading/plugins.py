"""Make nbgrader's own autograding as safe as `course grade`.

Instructors start this autograding with the command `nbgrader autograde` or with formgrader's
button. nbgrader_config.py replaces three of nbgrader's preprocessors with the following ones:

    RepairNotebook      replaces DeduplicateIds: it repairs the notebook by means of its release
    ExecuteInSandbox    replaces Execute: it runs cells in the sandbox and tests in the test
                        process
    SaveGrades          replaces SaveAutoGrades: it also saves bonus points

`course grade` does the same, but grades all submissions of a class in parallel.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.preprocessors import NbGraderPreprocessor, SaveAutoGrades

from course_utils.grading import autograde, seeds
from course_utils.grading.intake import repair, submissions
from course_utils.grading.results import gradebook
from course_utils.grading.sandbox.limits import Limits
from course_utils.grading.session import GradingSession
from course_utils.notebooks import load

# Seconds after which the warm servers are closed if no other notebook is graded.
IDLE_SECONDS = 60

# The timer that closes the warm servers. The list is empty before the first notebook.
_closing_timers: list[threading.Timer] = []


class _Preprocessor(NbGraderPreprocessor):
    """A preprocessor that knows the course's folders."""

    def _folders(self, resources: Any) -> tuple[str, Path, Path, Path]:
        """Return the assignment's name and three folders.

        Returns:
            The assignment's name, the course's folder, the folder of the submission, and the folder
            for the graded notebook.
        """
        about, course = resources["nbgrader"], self.parent.parent.coursedir
        name, student = about["notebook"], about["student"]
        submitted = course.format_path(course.submitted_directory, student, about["assignment"])
        graded = course.format_path(course.autograded_directory, student, about["assignment"])
        return name, Path(course.root), Path(submitted), Path(graded)


class RepairNotebook(_Preprocessor):
    """Repairs a submitted notebook by means of its release.

    Raises Ungradable if the notebook can't be graded, or if its folder is a link.
    """

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return the released notebook with the student's answers, and the unchanged resources."""
        name, folder, submitted, graded = self._folders(resources)
        submission = submissions.read(submitted, name)
        if submission.problem:
            raise repair.Ungradable(submission.problem)
        # nbgrader follows links and copies the files to which the links lead. Remove the copies.
        for file in graded.rglob("*"):
            path = file.relative_to(graded).as_posix()
            if file.is_file() and path not in submission.files | submission.exchange:
                file.unlink()
        release = load(folder / "exercises" / name / f"{name}.ipynb")
        repaired = repair.repair(json.loads(nbformat.writes(nb)), release)
        for line in (*submission.notes, *repaired.notes, *repaired.doubts):
            self.log.warning("%s: %s", resources["nbgrader"]["student"], line)
        return nbformat.from_dict(repaired.notebook), resources


class ExecuteInSandbox(_Preprocessor):
    """Runs a notebook's cells in the sandbox, and its tests in the test process."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return the notebook with the outputs of its cells, and the unchanged resources."""
        name, folder, submitted, _ = self._folders(resources)
        spec = autograde.grading_spec(folder, name, Limits())
        submission = submissions.read(submitted, name)
        submission = seeds.with_seed(submission, folder, name)
        for timer in _closing_timers:
            timer.cancel()
        try:
            with GradingSession(autograde.servers(spec), spec, submission) as session:
                autograde.run_cells(nb, spec, session)
        finally:
            _closing_timers[:] = [threading.Timer(IDLE_SECONDS, autograde.close_servers)]
            _closing_timers[0].daemon = True
            _closing_timers[0].start()
        for line in session.incidents:
            self.log.warning("%s: %s", resources["nbgrader"]["student"], line)
        return nbformat.from_dict(nb), resources


class SaveGrades(SaveAutoGrades):
    """Saves the points of a notebook in the gradebook, and bonus points as extra credit."""

    def _add_score(self, cell: Any, resources: Any) -> None:
        super()._add_score(cell, resources)
        names = (self.notebook_id, self.assignment_id, self.student_id)
        gradebook.enter_bonus(
            self.gradebook.find_grade(cell.metadata.nbgrader.grade_id, *names), cell
        )
        self.gradebook.db.commit()
