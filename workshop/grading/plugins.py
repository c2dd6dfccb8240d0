"""Make `nbgrader autograde` and formgrader's button *Autograde* call `classroom.grade`.

nbgrader_config.py names `Grade` as the exporter that nbgrader uses for autograding. nbgrader
creates the exporter before it reads any notebook. At that time, `Grade` replaces the nbgrader
method that converts notebooks.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbconvert.exporters import NotebookExporter
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException

from course_utils.machine.validation import CourseError
from workshop.grading import classroom
from workshop.grading.session import Servers
from workshop.grading.spec import GradingSpec

# Seconds after which the warm servers are closed if no other submission is graded.
IDLE_SECONDS = 60


class Grade(NotebookExporter):
    """Calls `classroom.grade` instead of nbgrader's own conversion of notebooks."""

    def __init__(self, parent: Autograde, **options: Any):
        super().__init__(parent=parent, **options)
        parent.convert_notebooks = lambda: _grade(parent)


def _grade(converter: Autograde) -> None:
    """Grade the students that were chosen in nbgrader, and log a summary."""
    course = converter.coursedir
    folder, name, students = Path(course.root), course.assignment_id, course.student_id
    left_out = course.student_id_exclude.split(",")
    try:
        result = classroom.grade(
            folder,
            name,
            students=students,
            left_out=left_out,
            again=converter.force,
            servers=_warm,
        )
        # Formgrader calls this function for each student, so the answers of the class are not
        # written each time. `course grade` writes them.
        converter.log.info(classroom.write_results(folder, result, answers=False))
    except CourseError as error:
        converter.log.error(str(error))
        raise NbGraderException(str(error)) from error


# The warm servers, by their spec's key, and the timer that closes them. The servers stay warm after
# a call, because formgrader calls `_grade` separately for each student.
_servers: dict[str, Servers] = {}
_timers: list[threading.Timer] = []


@contextlib.contextmanager
def _warm(spec: GradingSpec) -> Iterator[Servers]:
    """Yield warm servers, and close them if they are not used again within `IDLE_SECONDS`."""
    while _timers:
        _timers.pop().cancel()
    if spec.key not in _servers:
        close_servers()
        _servers[spec.key] = Servers(spec)
    try:
        yield _servers[spec.key]
    except BaseException:
        close_servers()
        raise
    _timers.append(threading.Timer(IDLE_SECONDS, close_servers))
    _timers[0].daemon = True
    _timers[0].start()


def close_servers() -> None:
    """Close all warm servers now."""
    while _servers:
        _servers.popitem()[1].close()
