"""Grades a class: every submission of an assignment, in parallel, into nbgrader's gradebook.

    submitted/STUDENT/03_lora/  ─► mark, by several workers ─► gradebook.db, autograded/
                                                            └► grading/03_lora/STUDENT/record.json

nbgrader's own steps write the gradebook, so that formgrader, manual grading and feedback go on from
there. A submission whose record has the same key, that of its files and of the tests, is left as it
is: a run that was cut off goes on, and one that was complete does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.grading import marking, records
from course_utils.grading.assignments import sources
from course_utils.grading.gradebook import Book
from course_utils.grading.marking import Notebook, Paper, Submission
from course_utils.grading.records import Record
from course_utils.grading.sandbox import Limits
from course_utils.runtime import CourseError

AHEAD = 2  # submissions for each worker that are in memory at a time

Points = float | None
Progress = Callable[[Record, int, int], None]  # a record; how many are done, and of how many


@dataclass(frozen=True)
class Result:
    """A run. records: of all submissions, by student. graded: how many were graded in it.

    changed: points that are others than before, by student and graded cell: (before, now).
    """

    records: list[Record]
    graded: int
    changed: dict[tuple[str, str], tuple[Points, Points]]


def grade(
    folder: Path,
    name: str,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    limits: Limits | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Grade all submissions of an assignment of the course in `folder`.

    name: of the assignment, or its number. workers: submissions at a time; default: one for each
    processor. executor: carries them out instead of threads of this process, on a cluster for
    instance. again: grade those as well whose files and tests are as they were.

    Raises CourseError if there is no such assignment, no submission of it, or no sandbox.
    """
    (source,) = sources(folder, name)
    name = source.stem
    places = sorted(folder.glob(f"submitted/*/{name}"))
    if not places:
        raise CourseError(f"nothing was handed in: there is no submitted/STUDENT/{name}")
    book = Book(folder, name)
    book.learn(source)
    paper = marking.paper(folder, name, limits or Limits())
    before = {record.student: record for record in records.read_all(book.records)}
    known = book.students()
    done: dict[str, Record] = {}
    changed: dict[tuple[str, str], tuple[Points, Points]] = {}
    graded = 0

    def to_grade() -> Iterator[Submission]:
        for place in places:
            given = marking.submission(place, name)
            old = before.get(given.student)
            same = old is not None and old.key == marking.key(paper, given)
            if same and given.student in known and not again:
                done[given.student] = old
            else:
                yield given

    workers = workers or len(os.sched_getaffinity(0))
    pool = executor or ThreadPoolExecutor(workers)
    try:
        for given, marked in _marked(pool, paper, to_grade(), workers * AHEAD):
            record = book.save(*marked, given)
            done[record.student] = record
            graded += 1
            changed |= _changes(before.get(record.student), record)
            if progress:
                progress(record, len(done), len(places))
    finally:
        if executor is None:
            marking.close_servers()  # so that what is running ends at once
            pool.shutdown(cancel_futures=True)
    return Result([done[student] for student in sorted(done)], graded, changed)


def _marked(
    pool: Executor, paper: Paper, submissions: Iterator[Submission], ahead: int
) -> Iterator[tuple[Submission, tuple[Record, Notebook]]]:
    """Submissions with what came of them, as they are done; few are in memory at a time.

    One that brings its sandbox down is tried once more, and then can't be graded.
    """
    running: dict[Future[Any], Submission] = {}
    failed: set[str] = set()

    def done() -> Iterator[tuple[Submission, tuple[Record, Notebook]]]:
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            given = running.pop(future)
            if (fault := future.exception()) is None:
                yield given, future.result()
            elif given.student in failed:
                yield given, marking.failed(paper, given, f"grading failed: {fault}")
            else:
                failed.add(given.student)
                running[pool.submit(marking.mark, paper, given)] = given

    for given in submissions:
        running[pool.submit(marking.mark, paper, given)] = given
        if len(running) >= ahead:
            yield from done()
    while running:
        yield from done()


def _changes(before: Record | None, now: Record) -> dict[tuple[str, str], tuple[Points, Points]]:
    """Points of a student that are others than before."""
    if before is None:
        return {}
    old = before.points
    return {
        (now.student, cell): (old.get(cell), points)
        for cell, points in now.points.items()
        if old.get(cell) != points
    }
