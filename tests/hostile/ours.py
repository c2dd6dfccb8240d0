"""The whole corpus in one run of `course grade`, honest students among it; and what came of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from course_utils.grading import classroom, release
from course_utils.grading.results import records
from course_utils.grading.results.records import Record
from course_utils.grading.sandbox.limits import Limits
from course_utils.runtime import process_peak
from tests.hostile import canaries, corpus
from tests.mutation import ROOT

# Small, so that what exceeds them ends soon.
LIMITS = Limits(memory=1_500_000_000, files=60_000_000, processes=64, cell=8, call=3, notebook=60)
# What grading itself writes in a course.
GRADERS = (
    *("autograded", "grading", "feedback", "exercises"),
    *("gradebook.db", "gradebook.db-journal", ".nbgrader.log"),
)
BY_HAND = records.by_hand("sum-why")


@dataclass(frozen=True)
class Run:
    """One run over some attacks on one assignment.

    records, loot: by student, what became of them, and all that could be seen of their outputs.
    active: by student, what of the notebook would act in the feedback page.
    told: what the grader's terminal shows. report, table: the class's page and table of points.
    honest: records of the honest students. escapes, survivors, reached: as in `stock.Result`.
    held, memory: what the grader's own process held before, and at most meanwhile, in B.
    """

    records: dict[str, Record]
    honest: list[Record]
    loot: dict[str, str]
    active: dict[str, list[str]]
    told: str
    report: str
    table: str
    escapes: list[str]
    survivors: list[str]
    reached: set[str]
    seconds: float
    held: int
    memory: int
    secrets: dict[str, str] = field(repr=False)


def student(attack: corpus.Attack) -> str:
    """In whose name an attack is handed in: its own, but for those that are about a name."""
    return attack.name if attack.student == corpus.STUDENT else attack.student


def run(attacks: list[corpus.Attack], folder: Path, workers: int = 2) -> Run:
    """Grade attacks on one assignment, and honest students, in a course made in `folder`."""
    (name,) = {attack.assignment for attack in attacks}
    secrets = canaries.canaries()
    with contextlib.suppress(OSError, IndexError):  # nobody but root can read it
        secrets["shadow"] = Path("/etc/shadow").read_text().splitlines()[0]
    course = corpus.course(ROOT, folder / "course", name, secrets)
    corpus.hide_in_gradebook(course, secrets)
    for attack in attacks:
        corpus.write(attack, course, student(attack))
    canaries.plant(folder / "home", secrets)
    Path("/proc/self/clear_refs").write_text("5")  # the process's peak is what it holds now
    held = psutil.Process().memory_info().rss
    before, started = canaries.files(course, GRADERS), time.monotonic()
    with listening() as listeners, _grader(folder / "home", secrets):
        graded = classroom.grade(course, name, workers=workers, limits=LIMITS)
        told = classroom.write_results(course, graded)
    seconds = time.monotonic() - started
    memory = process_peak(os.getpid())
    found = {record.student: record for record in graded.records}
    pages = _pages(course, name, [attack for attack in attacks if attack.name.startswith("page")])
    return Run(
        records=found,
        honest=[found.pop(student) for student in corpus.HONEST if student in found],
        loot={name: _loot(course, record) for name, record in found.items()},
        told=told,
        report=(course / "grading" / name / "report.html").read_text(encoding="utf-8"),
        table=(course / "grading" / name / "points.csv").read_text(encoding="utf-8-sig"),
        active={name: canaries.active(page) for name, page in pages.items()},
        escapes=[
            *canaries.changed(before, canaries.files(course, GRADERS)),
            *canaries.escaped("/dev/shm", "/var/tmp", "/run", str(folder)),
            *map(str, Path("/tmp").glob(f"{canaries.FILE}*")),
        ],
        survivors=canaries.survivors(),
        reached=listeners.heard,
        seconds=seconds,
        held=held,
        memory=memory,
        secrets=secrets,
    )


@contextlib.contextmanager
def listening() -> Iterator[canaries.Listeners]:
    """Listeners on this machine, which note who connects."""
    listeners = canaries.Listeners()
    try:
        yield listeners
    finally:
        listeners.close()


@contextlib.contextmanager
def _grader(home: Path, secrets: dict[str, str]) -> Iterator[None]:
    """The environment of a person who grades: a home and a token."""
    before = dict(os.environ)
    os.environ |= {"HOME": str(home), canaries.TOKEN: secrets["environment"]}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _loot(course: Path, record: Record) -> str:
    name = record.assignment
    graded = course / "autograded" / record.student / name / f"{name}.ipynb"
    told = [*record.reasons, *record.repairs, *record.incidents, *record.messages.values()]
    return canaries.put_out(graded) + json.dumps(told)


def _pages(course: Path, name: str, attacks: list[corpus.Attack]) -> dict[str, str]:
    """Feedback pages by student, made as the course makes them."""
    from nbgrader.converters import GenerateFeedback
    from nbgrader.coursedir import CourseDirectory

    config, pages = release.settings(course), {}
    for attack in attacks:
        directory = CourseDirectory(
            config=config, assignment_id=name, student_id=student(attack), root=str(course)
        )
        converter = GenerateFeedback(coursedir=directory, config=config, force=True)
        converter.log = release.error_log()
        converter.start()
        page = course / "feedback" / student(attack) / name / f"{name}.html"
        pages[student(attack)] = page.read_text(encoding="utf-8")
    return pages


# --- verdicts -------------------------------------------------------------------------------------


def points(record: Record) -> float:
    """All points of a record; a question that waits for a person counts nothing."""
    return sum(value or 0 for value in record.points.values())


def state(record: Record) -> str:
    """The state, the question that waits for a person aside."""
    if record.state == records.PERSON and set(record.reasons) <= {BY_HAND}:
        return records.GRADED
    return record.state


def complaints(attack: corpus.Attack, record: Record | None, run: Run) -> list[str]:
    """What of `must` doesn't hold."""
    if record is None:
        return ["there is no record"]
    found = []
    if not attack.least <= points(record) <= attack.most:
        found.append(f"{points(record):g} points")
    if state(record) not in attack.states:
        found.append(f"{state(record)}: {'; '.join(record.reasons) or 'without a reason'}")
    said = "\n".join(
        (*record.reasons, *record.repairs, *record.incidents, *record.messages.values())
    )
    if attack.says and not re.search(attack.says, said):
        found.append(f"nothing says {attack.says!r}")
    if stolen := canaries.seen(run.secrets, run.loot[record.student]):
        found.append(f"it has read: {', '.join(stolen)}")
    if active := run.active.get(record.student):
        found.append(f"acts in the page: {', '.join(active)}")
    return found
