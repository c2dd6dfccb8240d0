"""Grade all submissions of an assignment in parallel.

    release ──► collect ──► read ──► grade ──► save ──► report

The release must match the solution. For each submission, `read` reads the files, `grade` runs and
tests the notebook, `save` saves the points in nbgrader's gradebook, and `records` stores all other
results. Then `write_results` writes the report. Only new submissions, and submissions whose files
or tests have changed, are graded. So after an interruption, the next run continues.

A submission that can't be read, graded or saved is ungradable, and its record says why. Only an
error that affects every submission ends the run, such as a missing sandbox or a full disk.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.machine.validation import CourseError
from workshop.grading import (
    assignments,
    compare,
    lms,
    read,
    readiness,
    records,
    release,
    report,
    safe_files,
    seeds,
)
from workshop.grading.assignments import Assignment
from workshop.grading.grade import grade as grade_one
from workshop.grading.grade import ungradable
from workshop.grading.records import Record
from workshop.grading.sandbox.bubblewrap import NoSandbox
from workshop.grading.sandbox.limits import Limits
from workshop.grading.session import Servers
from workshop.grading.spec import GradingSpec, Notebook, Submission

if TYPE_CHECKING:
    from workshop.grading.save import Book

# Jupyter creates a folder of this name in every folder that it opens.
CHECKPOINTS = ".ipynb_checkpoints"
# Maximum number of submissions in memory at a time, for each worker.
SUBMISSIONS_PER_WORKER = 2

# A function that shows the progress. Its arguments are the new record, the number of submissions
# graded so far in this run, and the number of submissions chosen for this run.
Progress = Callable[[Record, int, int], None]
# A submission that is being graded.
Grading = Future[tuple[Record, Notebook]]


@dataclass(frozen=True)
class Result:
    """The result of a grading run.

    Attributes:
        records: The records of all submissions, sorted by student, including points given by hand.
        previous: The records as they were before the run.
        graded: How many submissions were graded in this run.
    """

    assignment: Assignment
    records: list[Record]
    previous: list[Record]
    graded: int


# Ruff warns about many arguments (PLR0913), but `course grade`, nbgrader's plugin and the course's
# tests together need all of these arguments.
def grade(  # noqa: PLR0913
    folder: Path,
    name: str,
    *,
    students: str = "*",
    left_out: Collection[str] = (),
    workers: int | None = None,
    limits: Limits | None = None,
    again: bool = False,
    progress: Progress | None = None,
    servers: Callable[[GradingSpec], contextlib.AbstractContextManager[Servers]] = Servers,
) -> Result:
    """Grade all submissions of an assignment and return the result of the run.

    Args:
        students: A pattern such as "student1*" for the names of the students to grade. All other
            students keep their results.
        left_out: The names of students who are not graded, even if the pattern matches them.
        workers: How many submissions are graded at the same time; default: one for each core of
            this machine, or fewer if there is too little memory (`readiness.workers`).
        again: Whether unchanged submissions are graded again.
        progress: A function that is called each time a submission has been graded.
        servers: A function that creates the `Servers` of an assignment.

    Raises:
        CourseError: The release doesn't match the solution, there are no submissions, the sandbox
            can't be started, or the results can't be saved.
    """
    (source,) = assignments.sources(folder, name)
    name, workers = source.stem, workers or readiness.workers()
    paths = submission_paths(folder, name)
    fitting = [path for path in paths if fnmatch.fnmatchcase(path.parent.name, students)]
    chosen = [path for path in fitting if path.parent.name not in left_out]
    if not chosen:
        raise CourseError(f"nothing was handed in: there is no submitted/STUDENT/{name}")
    spec = release.read_spec(folder, name, limits or Limits())
    found = {record.student: record for record in records.read_all(folder / "grading" / name)}
    before = {path.parent.name: found.get(path.parent.name) for path in paths}
    with _explained_memory_error(), servers(spec) as opened:
        # Starting the servers and importing nbgrader each take seconds, so do both in parallel.
        if again or not all(before[path.parent.name] for path in chosen):
            opened.start()
        with _book(folder, name) as book, _pool(workers, opened) as pool:
            book.check_release()
            book.check()
            previous = book.with_points(before.values())
            queue = _changed(chosen, spec, book, before, again)
            graded: dict[str, Record] = {}
            for submission, record, notebook in _graded(pool, spec, opened, queue, workers):
                graded[record.student] = book.save(record, notebook, submission)
                if progress:
                    progress(graded[record.student], len(graded), len(chosen))
            current = book.with_points({**before, **graded}.values())
    ordered = sorted(current, key=lambda record: record.student)
    return Result(assignments.read(source), ordered, previous, len(graded))


def _book(folder: Path, name: str) -> Book:
    # Importing nbgrader takes seconds. Because nbgrader is imported here and not at the top of the
    # file, the servers start at the same time.
    from workshop.grading.save import Book

    return Book(folder, name)


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


@contextlib.contextmanager
def _pool(workers: int, servers: Servers) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads for grading. An error or Ctrl-C ends the threads and sandboxes."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        servers.close()
        raise
    finally:
        pool.shutdown()


def _changed(
    paths: Iterable[Path],
    spec: GradingSpec,
    book: Book,
    before: Mapping[str, Record | None],
    again: bool,
) -> Iterator[Submission]:
    """Read submissions, and yield each submission that must be graded.

    A submission must be graded if it is new, if its files or the tests have changed since it was
    graded, or if its student is missing in the gradebook (unless `read.in_gradebook` is false).
    """
    key, saved = seeds.class_key(book.folder), book.students()
    for path in paths:
        submission, record = read.read(path, spec.name), before.get(path.parent.name)
        student = submission.student
        is_saved = student in saved or not read.in_gradebook(book.folder / "submitted", student)
        is_graded = record and is_saved and record.key == submission.key(spec)
        if again or not is_graded:
            seed = seeds.seed(key, spec.name, submission, record)
            yield replace(submission, seed=seed)


def _graded(
    pool: ThreadPoolExecutor,
    spec: GradingSpec,
    servers: Servers,
    queue: Iterable[Submission],
    workers: int,
) -> Iterator[tuple[Submission, Record, Notebook]]:
    """Grade submissions; yield each with its record and its notebook as soon as it is graded.

    If an error is raised for a submission, another submission may have caused the error. Therefore
    the submission is graded again at the end, while no other submission is being graded. If an
    error is raised again, the submission is ungradable in this run.
    """

    def start(submission: Submission) -> Grading:
        return pool.submit(grade_one, spec, servers, submission)

    failed = []
    for submission, graded in _finished(start, queue, workers * SUBMISSIONS_PER_WORKER):
        if graded.exception():
            failed.append(submission)
        else:
            yield submission, *graded.result()
    for submission, graded in _finished(start, failed, 1):
        error = graded.exception()
        # There is not enough memory even if only one submission is graded at a time.
        if isinstance(error, MemoryError):
            raise error
        if error:
            problem = f"grading failed: {read.describe(error, Path())}"
            yield submission, *ungradable(spec, submission, problem, final=False)
        else:
            yield submission, *graded.result()


def _finished(
    start: Callable[[Submission], Grading], queue: Iterable[Submission], most: int
) -> Iterator[tuple[Submission, Grading]]:
    """Grade at most `most` submissions at a time; yield each submission when it is graded."""
    running: dict[Grading, Submission] = {}
    waiting = iter(queue)
    while True:
        for submission in itertools.islice(waiting, most - len(running)):
            running[start(submission)] = submission
        if not running:
            return
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for graded in finished:
            if isinstance(error := graded.exception(), NoSandbox):
                raise error
            yield running.pop(graded), graded


def write_results(
    folder: Path, result: Result, *, answers: bool = True, compared: bool = False
) -> str:
    """Write the report, the table of points and the students' answers; return a summary.

    Args:
        answers: Whether the answers are written. That takes seconds for a large class, because the
            graded notebooks of all students are read.
        compared: Whether compare50 compares the written answers with each other.
    """
    name = result.assignment.name
    gradable = [r.student for r in result.records if r.state != records.UNGRADABLE]
    try:
        target = safe_files.make_folders(folder / "grading", name)
        files = {"report": target / "report.html", "points": target / "points.csv"}
        lms.write_csv(files["points"], result.assignment, result.records)
        left_out = []
        if answers:
            released = assignments.read(folder / "exercises" / name / f"{name}.ipynb")
            left_out = compare.write_answers(folder, released, gradable)
            files["answers"] = target / "answers"
        try:
            if compared:
                files["compared answers"] = compare.compare(folder, name)
        # Write the report after the comparison, because the report links to the comparison's page.
        # Write the report even if the comparison failed.
        finally:
            report.write_report(files["report"], result.assignment, result.records, result.previous)
    except OSError as error:
        reason = read.describe(error, folder)
        raise CourseError(f"the results can't be written: {reason}") from error
    counts = Counter(record.state for record in result.records)
    states = ", ".join(f"{counts[state]} {state}" for state in records.STATES if counts[state])
    lines = [f"{result.assignment.name}: {result.graded} graded in this run. In total: {states}"]
    lines += [f"  {r.student}: ungradable, {r.problem}" for r in result.records if r.problem]
    changes = report.changes(result.previous, result.records)
    lines += ["changed since the last run:"] * bool(changes)
    lines += [f"  {student}: {'; '.join(changed)}" for student, changed in changes.items()]
    lines += [f"answers that can't be compared: {', '.join(left_out)}"] * bool(left_out)
    lines += [f"{what}: {path.relative_to(folder)}" for what, path in files.items()]
    # A student's text must not send control sequences to the terminal.
    return "\n".join(map(safe_files.escape_unprintable, lines))
