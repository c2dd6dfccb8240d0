"""Grade every submission of an assignment in parallel, and save the points in the gradebook.

    submitted/STUDENT/03_lora/  ─► autograde, by several workers ─► gradebook.db, autograded/,
                                                                    grading/03_lora/records/

nbgrader's own steps write the gradebook, so formgrader, manual grading and feedback work as usual
afterwards. A submission is graded again only if its files or the tests have changed. So a run that
was interrupted can be continued.

A submission that can't be read, graded or saved is ungradable, and its record says why. Only an
error that affects every submission ends the run, such as a missing sandbox or a full disk.
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
from typing import TYPE_CHECKING, Any

from course_utils.machine.validation import CourseError
from workshop.grading import (
    answers,
    assignments,
    autograde,
    cluster,
    copies,
    read,
    readiness,
    records,
    report,
    safe_files,
    seeds,
    talk,
)
from workshop.grading.assignments import Assignment, sources
from workshop.grading.records import Record
from workshop.grading.sandbox.bubblewrap import NoSandbox
from workshop.grading.sandbox.limits import Limits
from workshop.grading.save import Book
from workshop.grading.spec import GradingSpec, Notebook, Submission

if TYPE_CHECKING:
    from workshop.grading.copies import Comparison
    from workshop.grading.save import Book

# Seconds between two checks whether the user has pressed Ctrl-C.
STOP_INTERVAL = 0.2
# Jupyter creates a folder of this name in every folder that it opens.
CHECKPOINTS = ".ipynb_checkpoints"
# Maximum number of submissions in memory at a time, for each worker.
SUBMISSIONS_PER_WORKER = 2

# Arguments: the new record, the number of submissions graded so far, the total number to grade.
Progress = Callable[[Record, int, int], None]
# An executor that grades submissions, and how many submissions it grades at a time.
Pool = tuple[Executor, int]
# A submission with its record and its notebook.
Graded = tuple[Submission, Record, Notebook]


@dataclass(frozen=True)
class Result:
    """The result of a grading run.

    Attributes:
        records: The records of all submissions, sorted by student, including points given by hand.
        previous: The records as they were before the run.
    """

    assignment: Assignment
    records: list[Record]
    previous: list[Record]
    graded: int


# The keyword arguments are the options of the command `course grade`.
def grade(  # noqa: PLR0913
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
        workers: How many submissions are graded at the same time; default: one for each core of
            this machine, or fewer if memory is short (`readiness.workers`).
        scheduler: The address of a Dask scheduler, whose workers grade the submissions; default:
            this machine grades them.
        progress: Called after each submission with its record, the number of submissions graded
            so far, and the number of submissions to grade in this run.

    Raises:
        CourseError: The assignment, its submissions, the sandbox or the cluster are missing, or
            the results can't be saved.
    """
    (source,) = sources(folder, name)
    name = source.stem
    paths = submission_paths(folder, name)
    if not paths:
        raise CourseError(f"nothing was handed in: there is no submitted/STUDENT/{name}")
    limits, workers = limits or Limits(), workers or readiness.workers()
    with _explained_memory_error():
        before = _records(folder, name)
        is_new = again or any(path.parent.name not in before for path in paths)
        early = is_new and not scheduler
        with _early_servers(folder, name, limits, early), _book(folder, name) as book:
            book.release_if_changed(source)
            spec = autograde.grading_spec(folder, name, limits)
            previous = report.merged(before.values(), book.scores())
            kept = {} if again else _unchanged(paths, spec, _complete_records(before, book))
            changed = [path for path in paths if path.parent.name not in kept]
            pool = _pool(spec, scheduler, workers)
            graded = _grade(book, spec, changed, pool, progress) if changed else []
            current = report.merged([*kept.values(), *graded], book.scores())
    ordered = sorted(current, key=lambda record: record.student)
    return Result(assignments.read(source), ordered, previous, len(graded))


def _records(folder: Path, name: str) -> dict[str, Record]:
    """Return the records of earlier runs of an assignment, by student."""
    saved = records.read_all(folder / "grading" / name)
    return {record.student: record for record in saved if record.assignment == name}


@contextlib.contextmanager
def _early_servers(folder: Path, name: str, limits: Limits, wanted: bool) -> Iterator[None]:
    """Begin to start the servers now if they are wanted; close all servers after the block.

    Starting the servers and opening the gradebook take seconds each, so both happen at the same
    time. If the release is missing or out of date, `Book.release_if_changed` generates it later,
    and then `_pool` starts other servers.
    """
    try:
        with contextlib.suppress(CourseError):
            if wanted:
                autograde.start_servers(autograde.grading_spec(folder, name, limits))
        yield
    finally:
        autograde.close_servers()


def _book(folder: Path, name: str) -> Book:
    """Return the gradebook of an assignment.

    Importing nbgrader takes seconds. It is imported here, rather than at the top of the file, so
    that the servers start at the same time.
    """
    return Book(folder, name)


def _grade(
    book: Book,
    spec: GradingSpec,
    paths: list[Path],
    pool: contextlib.AbstractContextManager[Pool],
    progress: Progress | None,
) -> list[Record]:
    """Grade the submissions at `paths`, save each result immediately, and return the records."""
    saved: list[Record] = []
    with pool as (executor, at_a_time), _stoppable() as stop:
        book.check()
        found = (read.read(path, spec.name) for path in paths)
        queue = (seeds.with_seed(submission, book.folder, spec.name) for submission in found)
        ahead = at_a_time * SUBMISSIONS_PER_WORKER
        for submission, record, notebook in _graded(executor, spec, queue, ahead, stop):
            saved.append(book.save(record, notebook, submission))
            if progress:
                progress(saved[-1], len(saved), len(paths))
    return saved


def submission_paths(folder: Path, name: str) -> list[Path]:
    """Return the paths submitted/STUDENT/NAME at which something was handed in, sorted by student.

    If STUDENT is not a folder, or can't be read, the path is included, so that no student is
    forgotten. The exception is a STUDENT that begins with a dot, such as .DS_Store, because such
    entries usually come from programs and not from students.
    """
    try:
        names = sorted(os.listdir(folder / "submitted"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CourseError(f"submissions can't be read: {read.describe(error, folder)}") from error
    paths = [folder / "submitted" / student / name for student in names if student != CHECKPOINTS]
    return [path for path in paths if _may_exist(path)]


def _may_exist(path: Path) -> bool:
    """Return whether submitted/STUDENT/NAME exists, or might exist although it can't be read."""
    try:
        os.lstat(path)
    # Either NAME doesn't exist, or STUDENT is a link whose target doesn't exist.
    except FileNotFoundError:
        return not (os.path.isdir(path.parent) or path.parent.name.startswith("."))
    except OSError:
        return not path.parent.name.startswith(".")
    return True


def _complete_records(before: dict[str, Record], book: Book) -> dict[str, Record]:
    """Return the complete records, by student.

    A record is complete if the gradebook contains the student's submission of the assignment, or if
    the gradebook should not contain the student (`read.in_gradebook`).
    """
    students, submitted = book.students(), book.folder / "submitted"
    return {
        student: record
        for student, record in before.items()
        if student in students or not read.in_gradebook(submitted, student)
    }


@contextlib.contextmanager
def _explained_memory_error() -> Iterator[None]:
    """Replace a MemoryError, which would end the run with a traceback, with a CourseError."""
    try:
        yield
    except MemoryError as error:
        raise CourseError(
            "there is not enough memory to grade: close other programs, or grade fewer submissions "
            "at a time, with --workers"
        ) from error


def _unchanged(
    paths: list[Path], spec: GradingSpec, before: dict[str, Record]
) -> dict[str, Record]:
    """Return the records of the submissions that needn't be graded again, by student."""
    unchanged = {}
    for path in paths:
        record = before.get(path.parent.name)
        if not record:
            continue
        if record.key == autograde.record_key(spec, read.read(path, spec.name)):
            unchanged[record.student] = record
    return unchanged


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets. The run ends later, when no file is incomplete.

    A second Ctrl-C raises KeyboardInterrupt immediately.
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
def _pool(spec: GradingSpec, scheduler: str | None, workers: int) -> Iterator[Pool]:
    """Yield an executor, which uses a cluster if a scheduler is given, and threads otherwise."""
    if scheduler:
        with cluster.connected(scheduler) as pool:
            yield pool
        return
    threads = ThreadPoolExecutor(workers)
    try:
        # If no sandbox can be created, this call raises an error before any submission is read.
        autograde.servers(spec)
        yield threads, workers
    finally:
        # Cancel the submissions that are waiting. Closing the servers ends the submissions that are
        # running.
        threads.shutdown(wait=False, cancel_futures=True)
        autograde.close_servers()
        threads.shutdown()


def _graded(
    executor: Executor,
    spec: GradingSpec,
    queue: Iterable[Submission],
    ahead: int,
    stop: threading.Event,
) -> Iterator[Graded]:
    """Grade submissions; yield each with its record and its notebook as soon as it is graded.

    If an error is raised for a submission, another submission may have caused the error. Therefore
    the submission is graded again at the end, while no other submission is being graded. If an
    error is raised again, the submission is ungradable in this run.
    """
    failed = []
    for submission, future in _finished(executor, spec, queue, ahead, stop):
        if future.exception():
            failed.append(submission)
        else:
            yield submission, *future.result()
    for submission, future in _finished(executor, spec, failed, 1, stop):
        # There is not enough memory even if only one submission is graded at a time.
        if isinstance(error := future.exception(), MemoryError):
            raise error
        if error:
            reason = f"grading failed: {read.describe(error, Path())}"
            yield submission, *autograde.ungradable(spec, submission, reason, final=False)
        else:
            yield submission, *future.result()


def _finished(
    executor: Executor,
    spec: GradingSpec,
    queue: Iterable[Submission],
    ahead: int,
    stop: threading.Event,
) -> Iterator[tuple[Submission, Future[tuple[Record, Notebook]]]]:
    """Grade submissions, at most `ahead` at a time; yield each with its finished future."""
    running: dict[Future[tuple[Record, Notebook]], Submission] = {}
    waiting = iter(queue)
    while True:
        for submission in itertools.islice(waiting, ahead - len(running)):
            running[executor.submit(autograde.grade, spec, submission)] = submission
        if not running:
            return
        finished, _ = wait(running, timeout=STOP_INTERVAL, return_when=FIRST_COMPLETED)
        for future in finished:
            if isinstance(error := future.exception(), NoSandbox):
                raise error
            yield running.pop(future), future
            if stop.is_set():
                break
        if stop.is_set():
            raise KeyboardInterrupt


def write_results(folder: Path, result: Result) -> str:
    """Write the report, the questions for talks and the table of points; return a summary."""
    try:
        target = safe_files.make_folders(folder / "grading", result.assignment.name)
        page, table, questions = (target / n for n in ("report.html", "points.csv", "talk.html"))
        report.write_csv(table, result.assignment, result.records)
        comparison = _write_talk(folder, questions, result)
        report.write_report(page, result.assignment, result.records, result.previous, comparison)
    except OSError as error:
        reason = read.describe(error, folder)
        raise CourseError(f"the report and the points can't be written: {reason}") from error
    counts = Counter(record.state for record in result.records)
    states = ", ".join(f"{counts[state]} {state}" for state in records.STATES if counts[state])
    lines = [f"{result.assignment.name}: {result.graded} graded in this run. In total: {states}"]
    lines += [
        f"  {_terminal_text(record.student)}: ungradable, {_terminal_text(record.reasons[0])}"
        for record in result.records
        if record.state == records.UNGRADABLE
    ]
    changes = report.changes(result.previous, result.records)
    if changes:
        lines.append("changed since the last run:")
        lines += [
            f"  {_terminal_text(change.student)}: {change.what} "
            f"{_terminal_text(change.before)} → {_terminal_text(change.after)}"
            for change in changes
        ]
    if pairs := len(comparison.pairs):
        lines.append(f"pairs of students with answers that are alike: {pairs}, see the report")
    files = {"report": page, "points": table, "questions for talks": questions}
    return "\n".join(
        [*lines, *(f"{what}: {path.relative_to(folder)}" for what, path in files.items())]
    )


def _write_talk(folder: Path, path: Path, result: Result) -> Comparison:
    """Compare the answers of the class, write the questions for talks, and return the comparison.

    Students with answers that are alike are asked about these answers first.
    """
    # This module imports NumPy, which grading itself doesn't need.

    name = result.assignment.name
    released = assignments.read(folder / "exercises" / name / f"{name}.ipynb")
    gradable = [record for record in result.records if record.state != records.UNGRADABLE]
    written = answers.read_answers(folder, released, [record.student for record in gradable])
    comparison = copies.compare(released, written)
    first: dict[str, set[str]] = {}
    for pair in comparison.pairs:
        for student in pair.students:
            first.setdefault(student, set()).update(alike.task.id for alike in pair.tasks)
    talk.write_page(path, released, written, gradable, first)
    return comparison


def _terminal_text(value: float | str | None) -> str:
    """Return a value as text for a terminal.

    Unprintable characters are escaped, so that a student's text can't send control sequences to the
    terminal.
    """
    if isinstance(value, str):
        return safe_files.escape_unprintable(value)
    return "none" if value is None else f"{value:g}"
