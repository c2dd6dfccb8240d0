"""Grade attacks and honest students in one run of `course grade`, and collect the results."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import psutil

from course_utils.machine.runtime import process_peak
from tests.hostile import canaries, corpus
from workshop.grading import classroom, records, release
from workshop.grading.records import Record
from workshop.grading.sandbox.limits import Limits

# Low limits, so that a submission that exceeds them ends soon.
LIMITS = Limits(memory=1_500_000_000, files=60_000_000, processes=64, cell=8, call=3, notebook=60)
# Files and folders that grading itself writes to a course.
GRADING_FILES = (
    *("autograded", "grading", "feedback", "exercises"),
    *("gradebook.db", "gradebook.db-journal", ".nbgrader.log"),
)


@dataclass(frozen=True)
class Run:
    """The results of a run with attacks on one assignment.

    Attributes:
        records: The records of the attacks, by student.
        honest: The records of the honest students.
        outputs: The outputs and messages of each attack as text, by student.
        active: The elements of the feedback page by which an attack would affect the page, by
            student.
        terminal: The text that `course grade` prints.
        report: The class's report page.
        table: The table of points.
        escapes: Files that were changed or left outside of the sandboxes.
        survivors: Processes that are still running.
        reached: Listeners that were reached.
        seconds: The duration of the run, in seconds.
        memory_before: Memory of the grader's process before the run, in bytes (B).
        memory: Peak memory of the grader's process during the run, in bytes (B).
        secrets: The canaries, by place.
    """

    records: dict[str, Record]
    honest: list[Record]
    outputs: dict[str, str]
    active: dict[str, list[str]]
    terminal: str
    report: str
    table: str
    escapes: list[str]
    survivors: list[str]
    reached: set[str]
    seconds: float
    memory_before: int
    memory: int
    secrets: dict[str, str] = field(repr=False)


def student(attack: corpus.Attack) -> str:
    """Return the student of an attack: the attack's name, unless the attack is a student's name."""
    return attack.name if attack.student == corpus.STUDENT else attack.student


def run(attacks: list[corpus.Attack], folder: Path, workers: int = 2) -> Run:
    """Grade attacks on one assignment and honest students in a new course in `folder`."""
    (name,) = {attack.assignment for attack in attacks}
    secrets = canaries.canaries()
    # Only root can read this file.
    with contextlib.suppress(OSError, IndexError):
        secrets["shadow"] = Path("/etc/shadow").read_text().splitlines()[0]
    course = corpus.course(folder / "course", name, secrets)
    for attack in attacks:
        corpus.write(attack, course, student(attack))
    canaries.plant(folder / "home", secrets)
    # Reset the peak memory of this process.
    Path("/proc/self/clear_refs").write_text("5")
    memory_before = psutil.Process().memory_info().rss
    before, started = canaries.files(course, GRADING_FILES), time.monotonic()
    environment = {"HOME": str(folder / "home"), canaries.TOKEN: secrets["environment"]}
    listeners = canaries.Listeners()
    with contextlib.closing(listeners), mock.patch.dict(os.environ, environment):
        graded = classroom.grade(course, name, workers=workers, limits=LIMITS)
        terminal = classroom.write_results(course, graded)
    seconds = time.monotonic() - started
    memory = process_peak(os.getpid())
    by_student = {record.student: record for record in graded.records}
    honest = [by_student.pop(name) for name in corpus.HONEST if name in by_student]
    return Run(
        records=by_student,
        honest=honest,
        outputs={name: _outputs(course, record) for name, record in by_student.items()},
        terminal=terminal,
        report=(course / "grading" / name / "report.html").read_text(encoding="utf-8"),
        table=(course / "grading" / name / "points.csv").read_text(encoding="utf-8-sig"),
        active={student(a): _active(course, a) for a in attacks if a.name.startswith("page")},
        escapes=[
            *canaries.changed(before, canaries.files(course, GRADING_FILES)),
            *canaries.escaped("/dev/shm", "/var/tmp", "/run", str(folder)),
            *map(str, Path("/tmp").glob(f"{canaries.FILE}*")),
        ],
        survivors=canaries.survivors(),
        reached=listeners.reached,
        seconds=seconds,
        memory_before=memory_before,
        memory=memory,
        secrets=secrets,
    )


def _outputs(course: Path, record: Record) -> str:
    name = record.assignment
    graded = course / "autograded" / record.student / name / f"{name}.ipynb"
    return canaries.outputs(graded) + json.dumps(_messages(record))


def _messages(record: Record) -> list[str]:
    return [*record.reasons, *record.repairs, *record.incidents, *record.messages.values()]


def _active(course: Path, attack: corpus.Attack) -> list[str]:
    """Return by which elements an attack would affect its feedback page."""
    from nbgrader.converters import GenerateFeedback
    from nbgrader.coursedir import CourseDirectory

    name, config = attack.assignment, release.settings(course)
    directory = CourseDirectory(
        config=config, assignment_id=name, student_id=student(attack), root=str(course)
    )
    converter = GenerateFeedback(coursedir=directory, config=config, force=True)
    converter.log = release.error_log()
    converter.start()
    page = course / "feedback" / student(attack) / name / f"{name}.html"
    return canaries.active(page.read_text(encoding="utf-8"))


# --- expectations ---------------------------------------------------------------------------------


def points(record: Record) -> float:
    """Return the sum of a record's points; a question that a person must grade counts as 0."""
    return sum(value or 0 for value in record.points.values())


def state(record: Record) -> str:
    """Return the state of a record, as if the question that a person must grade were graded."""
    if record.state == records.PERSON and not record.doubts and record.waiting == ["sum-why"]:
        return records.GRADED
    return record.state


def problems(attack: corpus.Attack, record: Record | None, run: Run) -> list[str]:
    """Return in which points a record differs from what must happen; empty if in none."""
    if record is None:
        return ["there is no record"]
    texts = []
    if not attack.least <= points(record) <= attack.most:
        texts.append(f"{points(record):g} points")
    if state(record) not in attack.states:
        texts.append(f"{state(record)}: {'; '.join(record.reasons) or 'without a reason'}")
    if attack.says and not re.search(attack.says, "\n".join(_messages(record))):
        texts.append(f"no message matches {attack.says!r}")
    if stolen := canaries.seen(run.secrets, run.outputs[record.student]):
        texts.append(f"the outputs contain secrets: {', '.join(stolen)}")
    if active := run.active.get(record.student):
        texts.append(f"active in the feedback page: {', '.join(active)}")
    return texts
