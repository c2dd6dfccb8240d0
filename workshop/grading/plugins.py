"""Let `nbgrader autograde` and formgrader's button *Autograde* grade as `course grade` does.

nbgrader reads a submitted notebook with an exporter, writes it into autograded/, and reads it from
there once more. nbgrader_config.py names `Grade` as this exporter. It reads the submission without
following links, and grades it in the sandbox. This process never parses the student's notebook.
"""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

from nbconvert.exporters import NotebookExporter

from workshop.grading import autograde, read, seeds
from workshop.grading.records import Record
from workshop.grading.sandbox.limits import Limits
from workshop.grading.save import Book
from workshop.grading.spec import Notebook, Submission

# Seconds after which the warm servers are closed if no other submission is graded.
IDLE_SECONDS = 60

# The timer that closes the warm servers. The list is empty before the first submission.
_closing_timers: list[threading.Timer] = []


class Grade(NotebookExporter):
    """Grades a submission when nbgrader first reads it, and saves the result at the second reading.

    A submission that can't be graded is saved as well: the notebook in autograded/ begins with the
    reason.
    """

    def from_filename(
        self, filename: str, resources: Any = None, **_: Any
    ) -> tuple[str, dict[str, Any]]:
        """Return the graded notebook as JSON, and the resources."""
        about, course = resources["nbgrader"], self.parent.coursedir
        student, name, folder = about["student"], about["assignment"], Path(course.root)
        graded = Path(course.format_path(course.autograded_directory, student, name))
        if Path(filename).parent != graded:
            submitted = Path(course.format_path(course.submitted_directory, student, name))
            self._result = _grade(read.read(submitted, name), folder, name)
        else:
            with Book(folder, name) as book:
                record = book.save(*self._result)
            for line in (*record.reasons, *record.repairs, *record.incidents):
                self.log.warning("%s, %s: %s", record.student, record.state, line)
            # nbgrader overwrites this file with the same content, and makes it read-only again.
            with contextlib.suppress(FileNotFoundError):
                Path(filename).chmod(0o644)
        return json.dumps(self._result[1]), {**resources, "output_extension": ".ipynb"}


def _grade(submission: Submission, folder: Path, name: str) -> tuple[Record, Notebook, Submission]:
    """Grade a submission in the sandbox, whose servers stay warm for the next one."""
    submission = seeds.with_seed(submission, folder, name)
    for timer in _closing_timers:
        timer.cancel()
    try:
        spec = autograde.grading_spec(folder, name, Limits())
        return (*autograde.grade(spec, submission), submission)
    finally:
        _closing_timers[:] = [threading.Timer(IDLE_SECONDS, autograde.close_servers)]
        _closing_timers[0].daemon = True
        _closing_timers[0].start()
