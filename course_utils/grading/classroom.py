"""Grades a class: every submission of an assignment, in parallel, into nbgrader's gradebook.

    submitted/STUDENT/03_lora/  ─► mark, by several workers ─► gradebook.db, autograded/,
                                                               grading/03_lora/records/

nbgrader's own steps write the gradebook, so that formgrader, manual grading and feedback go on from
there. A submission whose record has the same key, that of its files and of the tests, is left as it
is: a run that was cut off goes on, and one that was complete does nothing.

A single submission never ends the run. If it can't be read, marked or saved, it is ungradable, its
record says why, and all other submissions are graded. Only a fault that concerns every submission
ends the run: no sandbox, no gradebook, no folder to write to, or no memory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.grading import cluster, marking, readiness
from course_utils.grading.assignments import Assignment, read, sources
from course_utils.grading.marking import Notebook, Paper, Submission
from course_utils.grading.results import records, report
from course_utils.grading.results.gradebook import Book
from course_utils.grading.results.records import Record
from course_utils.grading.sandbox.bubblewrap import Limits, NoSandbox
from course_utils.validation import CourseError

GLANCE = 0.2  # seconds between two looks whether to stop
CHECKPOINTS = ".ipynb_checkpoints"  # Jupyter makes this folder in every folder that it opens
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

    Raises CourseError if there is no such assignment, no submission of it, no sandbox, no cluster,
    or nothing can be saved.
    """
    (source,) = sources(folder, name)
    name = source.stem
    places = handed_in(folder, name)
    if not places:
        raise CourseError(f"nothing was handed in: there is no submitted/STUDENT/{name}")
    with _enough_memory(), Book(folder, name) as book:
        book.learn(source)
        paper = marking.paper(folder, name, limits or Limits())
        records.adopt(book.records)
        before = {r.student: r for r in records.read_all(book.records) if r.assignment == name}
        previous = report.merged(before.values(), book.scores())
        known = {} if again else _saved(before, book)
        kept = [record for place in places if (record := _kept(place, paper, known))]
        unchanged = {record.student for record in kept}
        todo = [place for place in places if place.parent.name not in unchanged]
        done = list(kept)
        if todo:
            with _pool(paper, scheduler, workers) as (pool, at_once), _stoppable() as stop:
                book.check()
                given = (marking.submission(place, name) for place in todo)
                for submission, marked in _marked(pool, paper, given, at_once * AHEAD, stop):
                    done.append(book.save(*marked, submission))
                    if progress:
                        progress(done[-1], len(done) - len(kept), len(todo))
        current = report.merged(done, book.scores())
    ordered = sorted(current, key=lambda record: record.student)
    return Result(read(source), ordered, previous, len(todo))


def handed_in(folder: Path, name: str) -> list[Path]:
    """The paths submitted/STUDENT/NAME at which something was handed in, sorted by student.

    If STUDENT is not a folder, or can't be read, the path is included, so that no student is
    forgotten. The exception is a STUDENT that begins with a dot, such as .DS_Store: programs make
    such entries more often than students do. Raises CourseError if submitted/ can't be read.
    """
    try:
        names = sorted(os.listdir(folder / "submitted"))
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise CourseError(f"submissions can't be read: {marking.words(fault, folder)}") from fault
    places = [folder / "submitted" / student / name for student in names if student != CHECKPOINTS]
    return [place for place in places if _is_taken(place)]


def _is_taken(place: Path) -> bool:
    """Whether submitted/STUDENT/NAME exists, or might exist but can't be seen."""
    try:
        os.lstat(place)
    except FileNotFoundError:  # NAME doesn't exist, or STUDENT is a dangling link
        return not (os.path.isdir(place.parent) or place.parent.name.startswith("."))
    except OSError:
        return not place.parent.name.startswith(".")
    return True


def _saved(before: dict[str, Record], book: Book) -> dict[str, Record]:
    """The complete records: those whose points are in the gradebook, or don't belong there."""
    students, submitted = book.students(), book.folder / "submitted"
    return {
        student: record
        for student, record in before.items()
        if student in students or not marking.in_gradebook(submitted, student)
    }


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Turn a MemoryError, which would end the run with a traceback, into a CourseError."""
    try:
        yield
    except MemoryError as fault:
        raise CourseError(
            "there is not enough memory to grade: close other programs, or grade fewer submissions "
            "at a time, with --workers"
        ) from fault


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
    from another's doing; what fails then can't be graded in this run. Raises as `_finished` does.
    """
    failed = []
    for given, future in _finished(pool, paper, submissions, ahead, stop):
        if future.exception():
            failed.append(given)
        else:
            yield given, future.result()
    for given, future in _finished(pool, paper, failed, 1, stop):
        if isinstance(fault := future.exception(), MemoryError):
            raise fault  # one submission alone, and not enough memory
        if fault:
            reason = f"grading failed: {marking.words(fault, Path())}"
            yield given, marking.failed(paper, given, reason, final=False)
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
    """Write the report and the table of points of a run; returns a summary of it, as text.

    Raises CourseError if they can't be written.
    """
    try:
        place = records.inside(folder / "grading", result.assignment.name)
        page, table = place / "report.html", place / "points.csv"
        report.write_csv(table, result.assignment, result.records)
        report.write_report(page, result.assignment, result.records, result.previous)
    except OSError as fault:
        why = marking.words(fault, folder)
        raise CourseError(f"the report and the points can't be written: {why}") from fault
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
        return records.visible(value)
    return "none" if value is None else f"{value:g}"
