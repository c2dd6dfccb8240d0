"""Grade every submission of an assignment in parallel, and save the points in the gradebook.

    submitted/STUDENT/03_lora/  ─► mark, by several workers ─► gradebook.db, autograded/,
                                                               grading/03_lora/records/

nbgrader's own steps write the gradebook, so formgrader, manual grading and feedback work as usual
afterwards. A submission keeps its record as long as neither its files nor the tests change.
Therefore, if a run was interrupted, the next run grades only the remaining submissions. If a
run was completed and nothing has changed, the next run grades nothing.

A single submission never ends the run. If a submission can't be read, marked or saved, it is
ungradable, its record says why, and all other submissions are graded. Only an error that concerns
every submission ends the run: there is no sandbox, no gradebook, no folder to write to, or not
enough memory.
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

from course_utils.grading import cluster, marking, readiness, safe_files
from course_utils.grading.assignments import Assignment, read, sources
from course_utils.grading.intake import submissions
from course_utils.grading.marking import Notebook
from course_utils.grading.results import records, report
from course_utils.grading.results.gradebook import Book
from course_utils.grading.results.records import Record
from course_utils.grading.sandbox.bubblewrap import NoSandbox
from course_utils.grading.sandbox.limits import Limits
from course_utils.grading.spec import GradingSpec, Submission
from course_utils.validation import CourseError

# Seconds between two checks whether the user wants to stop the run.
GLANCE = 0.2
# Jupyter makes a folder of this name in every folder that it opens.
CHECKPOINTS = ".ipynb_checkpoints"
# Maximum number of submissions in memory at a time, for each worker.
AHEAD = 2

# Arguments: the new record, the number of submissions graded so far, the number to grade in all.
Progress = Callable[[Record, int, int], None]


@dataclass(frozen=True)
class Result:
    """The result of a grading run.

    Attributes:
        assignment: The assignment that was graded.
        records: The records of all submissions, sorted by student, including points given by hand.
        previous: The records as they were before the run.
        graded: How many submissions the run graded.
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
    """Grade all submissions of an assignment and return the result of the run.

    Args:
        folder: The course's folder.
        name: The assignment's name, or its number.
        workers: How many submissions are graded at the same time; default: one for each core of
            this machine, or fewer if memory is short (`readiness.workers`).
        scheduler: The address of a Dask scheduler. If it is given, the workers of that cluster
            grade the submissions; default: this machine grades them.
        limits: The resources that a submission may use; default: `Limits()`.
        again: Whether to grade a submission even if its files and the tests haven't changed.
        progress: Called after each submission with its record, the number of submissions graded
            so far, and the number of submissions to grade in this run.

    Raises:
        CourseError: There is no such assignment, no submission of the assignment, no sandbox or no
            cluster, or the results can't be saved.
    """
    (source,) = sources(folder, name)
    name = source.stem
    places = handed_in(folder, name)
    if not places:
        raise CourseError(f"nothing was handed in: there is no submitted/STUDENT/{name}")
    with _enough_memory(), Book(folder, name) as book:
        book.release_if_changed(source)
        spec = marking.grading_spec(folder, name, limits or Limits())
        records.move_old_records(book.records)
        before = {r.student: r for r in records.read_all(book.records) if r.assignment == name}
        previous = report.merged(before.values(), book.scores())
        kept = {} if again else _unchanged(places, spec, _saved(before, book))
        todo = [place for place in places if place.parent.name not in kept]
        graded = _grade(book, spec, todo, scheduler, workers, progress) if todo else []
        current = report.merged([*kept.values(), *graded], book.scores())
    ordered = sorted(current, key=lambda record: record.student)
    return Result(read(source), ordered, previous, len(graded))


def _grade(
    book: Book,
    spec: GradingSpec,
    places: list[Path],
    scheduler: str | None,
    workers: int | None,
    progress: Progress | None,
) -> list[Record]:
    """Grade the submissions in `places`, save each result at once, and return the records."""
    done: list[Record] = []
    with _pool(spec, scheduler, workers) as (pool, at_once), _stoppable() as stop:
        book.check()
        handed_in = (submissions.read(place, spec.name) for place in places)
        for submission, marked in _marked(pool, spec, handed_in, at_once * AHEAD, stop):
            done.append(book.save(*marked, submission))
            if progress:
                progress(done[-1], len(done), len(places))
    return done


def handed_in(folder: Path, name: str) -> list[Path]:
    """Return the paths submitted/STUDENT/NAME at which something was handed in, sorted by student.

    If STUDENT is not a folder, or can't be read, the path is included, so that no student is
    forgotten. The exception is a STUDENT that begins with a dot, such as .DS_Store, because
    programs make such entries more often than students do.

    Args:
        folder: The course's folder.
        name: The assignment's name, such as "03_lora".

    Raises:
        CourseError: The folder submitted/ can't be read.
    """
    try:
        names = sorted(os.listdir(folder / "submitted"))
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise CourseError(
            f"submissions can't be read: {submissions.describe(fault, folder)}"
        ) from fault
    places = [folder / "submitted" / student / name for student in names if student != CHECKPOINTS]
    return [place for place in places if _is_taken(place)]


def _is_taken(place: Path) -> bool:
    """Return whether submitted/STUDENT/NAME exists, or might exist although it can't be read."""
    try:
        os.lstat(place)
    # Either NAME doesn't exist, or STUDENT is a link whose target doesn't exist.
    except FileNotFoundError:
        return not (os.path.isdir(place.parent) or place.parent.name.startswith("."))
    except OSError:
        return not place.parent.name.startswith(".")
    return True


def _saved(before: dict[str, Record], book: Book) -> dict[str, Record]:
    """Return the complete records, by student.

    A record is complete if the gradebook contains the student's submission of the assignment, or if
    the gradebook should not contain the student (`submissions.in_gradebook`).
    """
    students, submitted = book.students(), book.folder / "submitted"
    return {
        student: record
        for student, record in before.items()
        if student in students or not submissions.in_gradebook(submitted, student)
    }


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Replace a MemoryError, which would end the run with a traceback, with a CourseError."""
    try:
        yield
    except MemoryError as fault:
        raise CourseError(
            "there is not enough memory to grade: close other programs, or grade fewer submissions "
            "at a time, with --workers"
        ) from fault


def _unchanged(
    places: list[Path], spec: GradingSpec, known: dict[str, Record]
) -> dict[str, Record]:
    """Return the records of the submissions that needn't be graded again, by student."""
    kept = {}
    for place in places:
        record = known.get(place.parent.name)
        if record and record.key == marking.key(spec, submissions.read(place, spec.name)):
            kept[record.student] = record
    return kept


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that no file is left half written.

    A second Ctrl-C raises KeyboardInterrupt at once.
    """
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
    spec: GradingSpec, scheduler: str | None, workers: int | None
) -> Iterator[tuple[Executor, int]]:
    """Yield the executor that marks submissions, and how many submissions it marks at a time.

    The executor uses the workers of a cluster if a scheduler is given, and threads of this process
    otherwise.
    """
    if scheduler:
        with cluster.connected(scheduler) as found:
            yield found
        return
    workers = workers or readiness.workers()
    threads = ThreadPoolExecutor(workers)
    try:
        # If no sandbox can be made, this call raises the error before any submission is read.
        marking.servers(spec)
        yield threads, workers
    finally:
        # Cancel the submissions that are waiting. Closing the servers ends the running ones.
        threads.shutdown(wait=False, cancel_futures=True)
        marking.close_servers()
        threads.shutdown()


def _marked(
    pool: Executor,
    spec: GradingSpec,
    handed_in: Iterable[Submission],
    ahead: int,
    stop: threading.Event,
) -> Iterator[tuple[Submission, tuple[Record, Notebook]]]:
    """Mark submissions; yield each with its record and its notebook as soon as it is marked.

    If marking raised an error, the submission is marked again at the end, while no other submission
    is being marked, because another submission may have caused the failure. A submission that fails
    again can't be graded in this run.

    Args:
        pool: The executor that marks submissions.
        spec: What the submissions are graded with.
        handed_in: The submissions.
        ahead: The maximum number of submissions in memory at a time.
        stop: An event that ends the run when it is set.

    Raises:
        KeyboardInterrupt: `stop` was set.
        MemoryError: There is not enough memory to mark a single submission.
        NoSandbox: No sandbox can be made.
    """
    failed = []
    for given, future in _finished(pool, spec, handed_in, ahead, stop):
        if future.exception():
            failed.append(given)
        else:
            yield given, future.result()
    for given, future in _finished(pool, spec, failed, 1, stop):
        # There is not enough memory even if only one submission is marked at a time.
        if isinstance(fault := future.exception(), MemoryError):
            raise fault
        if fault:
            reason = f"grading failed: {submissions.describe(fault, Path())}"
            yield given, marking.failed(spec, given, reason, final=False)
        else:
            yield given, future.result()


def _finished(
    pool: Executor,
    spec: GradingSpec,
    handed_in: Iterable[Submission],
    ahead: int,
    stop: threading.Event,
) -> Iterator[tuple[Submission, Future[Any]]]:
    """Mark submissions, at most `ahead` at a time; yield each with its finished future.

    Raises:
        KeyboardInterrupt: `stop` was set.
        NoSandbox: No sandbox can be made.
    """
    running: dict[Future[Any], Submission] = {}
    waiting = iter(handed_in)
    while True:
        for given in itertools.islice(waiting, ahead - len(running)):
            running[pool.submit(marking.mark, spec, given)] = given
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
    """Write the report and the table of points of a run, and return a summary of the run.

    Returns:
        A summary of the run, as text.

    Raises:
        CourseError: The files can't be written.
    """
    try:
        place = safe_files.inside(folder / "grading", result.assignment.name)
        page, table = place / "report.html", place / "points.csv"
        report.write_csv(table, result.assignment, result.records)
        report.write_report(page, result.assignment, result.records, result.previous)
    except OSError as fault:
        why = submissions.describe(fault, folder)
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
    """Return a value as text for a terminal.

    Unprintable characters are escaped, so that a student's text can't send control sequences to the
    terminal.
    """
    if isinstance(value, str):
        return safe_files.visible(value)
    return "none" if value is None else f"{value:g}"
