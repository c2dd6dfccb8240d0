"""Grades a class: every submission of an assignment, in parallel, into nbgrader's gradebook.

    submitted/STUDENT/03_lora/  ─► mark, by several workers ─► gradebook.db, autograded/
                                                            └► grading/03_lora/STUDENT/record.json

nbgrader's own steps write the gradebook, so that formgrader, manual grading and feedback go on from
there. A submission whose record has the same key, that of its files and of the tests, is left as it
is: a run that was cut off goes on, and one that was complete does nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.grading import cluster, marking, readiness, records, report
from course_utils.grading.assignments import Assignment, read, sources
from course_utils.grading.gradebook import Book
from course_utils.grading.marking import Notebook, Paper, Submission
from course_utils.grading.records import Record
from course_utils.grading.sandbox import Limits, NoSandbox
from course_utils.runtime import CourseError

GLANCE = 0.2  # seconds between two looks whether to stop
AHEAD = 2  # submissions for each worker that are in memory at a time

Progress = Callable[[Record, int, int], None]  # a record; how many are done, and of how many


@dataclass(frozen=True)
class Result:
    """A run. assignment: what was graded. records: of all submissions, by student, with the points
    that people gave since. previous: those before the run. graded: how many were graded in it.
    """

    assignment: Assignment
    records: list[Record]
    previous: list[Record]
    graded: int


def grade(
    folder: Path,
    name: str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    limits: Limits | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Grade all submissions of an assignment of the course in `folder`.

    name: of the assignment, or its number. workers: submissions at a time; default: as many as fit
    this machine. scheduler: of a Dask cluster, which then does the work. again: grade those as well
    whose files and tests are as they were. progress: told of each record.

    Raises CourseError if there is no such assignment, no submission of it, no sandbox, no cluster.
    """
    (source,) = sources(folder, name)
    name = source.stem
    places = sorted(folder.glob(f"submitted/*/{name}"))
    if not places:
        raise CourseError(f"nothing was handed in: there is no submitted/STUDENT/{name}")
    with Book(folder, name) as book:
        book.learn(source)
        paper = marking.paper(folder, name, limits or Limits())
        before = {record.student: record for record in records.read_all(book.records)}
        previous = report.merged(before.values(), book.scores())
        known = {} if again else {s: before[s] for s in before.keys() & book.students()}
        kept = [record for place in places if (record := _kept(place, paper, known))]
        todo = [place for place in places if place.parent.name not in {r.student for r in kept}]
        done = list(kept)
        if todo:
            with _pool(paper, scheduler, workers) as (pool, at_once), _stoppable() as stop:
                given = (marking.submission(place, name) for place in todo)
                for submission, marked in _marked(pool, paper, given, at_once * AHEAD, stop):
                    done.append(book.save(*marked, submission))
                    if progress:
                        progress(done[-1], len(done) - len(kept), len(todo))
        current = report.merged(done, book.scores())
    ordered = sorted(current, key=lambda record: record.student)
    return Result(read(source), ordered, previous, len(todo))


def _kept(place: Path, paper: Paper, known: dict[str, Record]) -> Record | None:
    """The record of a submission that needn't be graded again; None if it must be."""
    old = known.get(place.parent.name)
    if old and old.key == marking.key(paper, marking.submission(place, paper.name)):
        return old
    return None


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that nothing is written by halves; a second one interrupts."""
    stop = threading.Event()

    def on_interrupt(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _pool(
    paper: Paper, scheduler: str | None, workers: int | None
) -> Iterator[tuple[Executor, int]]:
    """What marks submissions, and how many at a time: a cluster, or threads of this process."""
    if scheduler:
        with cluster.connected(scheduler) as found:
            yield found
        return
    workers = workers or readiness.workers()
    threads = ThreadPoolExecutor(workers)
    try:
        marking.servers(paper)  # if no sandbox can be made, this says so at once
        yield threads, workers
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # what waits doesn't begin any more
        marking.close_servers()  # so that what is running ends at once
        threads.shutdown()


def _marked(
    pool: Executor,
    paper: Paper,
    submissions: Iterable[Submission],
    ahead: int,
    stop: threading.Event,
) -> Iterator[tuple[Submission, tuple[Record, Notebook]]]:
    """Submissions with what came of them, as they are done; few are in memory at a time.

    Those for which the sandbox failed are tried again at the end, one by one, so that none suffers
    from another's doing; what fails then can't be graded. Raises as `_finished` does.
    """
    failed = []
    for given, future in _finished(pool, paper, submissions, ahead, stop):
        if future.exception():
            failed.append(given)
        else:
            yield given, future.result()
    for given, future in _finished(pool, paper, failed, 1, stop):
        if fault := future.exception():
            yield given, marking.failed(paper, given, f"grading failed: {fault}")
        else:
            yield given, future.result()


def _finished(
    pool: Executor,
    paper: Paper,
    submissions: Iterable[Submission],
    ahead: int,
    stop: threading.Event,
) -> Iterator[tuple[Submission, Future[Any]]]:
    """Mark submissions, `ahead` at a time; each with its future, once that is done.

    Raises KeyboardInterrupt once `stop` is set, NoSandbox where no sandbox can be made.
    """
    running: dict[Future[Any], Submission] = {}
    waiting = iter(submissions)
    while True:
        for given in itertools.islice(waiting, ahead - len(running)):
            running[pool.submit(marking.mark, paper, given)] = given
        if not running:
            return
        finished, _ = wait(running, timeout=GLANCE, return_when=FIRST_COMPLETED)
        for future in finished:
            if isinstance(fault := future.exception(), NoSandbox):
                raise fault
            yield running.pop(future), future
            if stop.is_set():
                break
        if stop.is_set():
            raise KeyboardInterrupt


def publish(folder: Path, result: Result) -> str:
    """Write the report and the table of points of a run; returns a summary of it, as text."""
    place = folder / "grading" / result.assignment.name
    page, table = place / "report.html", place / "points.csv"
    report.write_report(page, result.assignment, result.records, result.previous)
    report.write_csv(table, result.assignment, result.records)
    counts = Counter(record.state for record in result.records)
    states = ", ".join(f"{counts[state]} {state}" for state in records.STATES if counts[state])
    lines = [f"{result.assignment.name}: {result.graded} graded now; in all, {states}"]
    lines += [
        f"  {_shown(record.student)}: ungradable, {_shown(record.reasons[0])}"
        for record in result.records
        if record.state == records.UNGRADABLE
    ]
    changed = report.changes(result.previous, result.records)
    if changed:
        lines.append("changed since the last time:")
        lines += [
            f"  {_shown(c.student)}: {c.what} {_shown(c.before)} → {_shown(c.after)}"
            for c in changed
        ]
    return "\n".join(
        [*lines, f"report: {page.relative_to(folder)}", f"points: {table.relative_to(folder)}"]
    )


def _shown(value: float | str | None) -> str:
    """For a terminal, on which nothing that a student wrote may act."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in value)
    return "none" if value is None else f"{value:g}"
