"""Wrong and right answers, graded: do the checks tell them apart, and both graders agree?

    python -m tests.mutation              every answer of every assignment; writes docs/graders.md
    python -m tests.mutation 03_lora      one assignment

Both print the points of each answer at each task, as a matrix.

tests/mutants/ASSIGNMENT/TASK.py holds the answers of one task, each a whole answer cell:

    # %% right other-order: adds before it multiplies
    # %% wrong only-a: counts A and forgets B

A submission is the release with the reference's answers, some of them replaced by these.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import nbformat

from course_utils.grading import classroom, release
from course_utils.grading.assignments import Assignment, Task, read, sources
from course_utils.publishing.execute import execute
from course_utils.units import format_bytes
from tests.machine import machine

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = ROOT / "tests" / "mutants"
REPORT = ROOT / "docs" / "graders.md"
PIECE = re.compile(r"^# %% (right|wrong) ([a-z0-9-]+): (.+)\n", re.M)

Answers = dict[str, str | None]  # source of answer cells by task; None for the stub
Points = dict[str, float]  # points by graded cell


@dataclass(frozen=True)
class Mutant:
    """Another answer to one task. kind: "right" or "wrong"; says: what is special about it."""

    task: str
    kind: str
    name: str
    says: str
    source: str


def mutants(assignment: str, task: str) -> list[Mutant]:
    """The answers to a task, in the order in which they are written."""
    text = (MUTANTS / assignment / f"{task}.py").read_text(encoding="utf-8")
    pieces = PIECE.split(text)[1:]
    rows = zip(pieces[::4], pieces[1::4], pieces[2::4], pieces[3::4], strict=True)
    return [Mutant(task, kind, name, says, body.strip()) for kind, name, says, body in rows]


def code_tasks(assignment: Assignment) -> list[Task]:
    """The tasks that are graded by checks."""
    return [task for task in assignment.tasks if not task.by_hand]


# --- submissions, graded --------------------------------------------------------------------------


def autograde(
    name: str, submissions: dict[str, Answers], workers: int = 1, stock: bool = False
) -> dict[str, Points]:
    """Points of each submission, in temporary courses.

    submissions: by name; of each, the answers that differ from the reference, as source of the
    cells; an answer of None leaves the stub as it is released. stock: whether nbgrader's own
    autograding gives the points; else `course grade` does.
    """
    if workers == 1 or not stock:
        return _graded(name, submissions, stock, workers)
    names = list(submissions)
    shares = [{n: submissions[n] for n in names[w::workers]} for w in range(workers)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        results = pool.map(_graded, [name] * workers, shares, [stock] * workers)
        return {student: points for result in results for student, points in result.items()}


def _graded(
    name: str, submissions: dict[str, Answers], stock: bool, workers: int = 1
) -> dict[str, Points]:
    with tempfile.TemporaryDirectory() as aside, offline():
        course = release.copied_course(ROOT, Path(aside), only=name)
        release.release(course)
        for student, given in submissions.items():
            submit(course, name, student, given)
        if stock:
            autograde_as_nbgrader_does(course, name)
        else:
            classroom.grade(course, name, workers=workers)
        return {student: _points(course, name, student) for student in submissions}


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Kernels without a model or a hub, and with one thread each: they share two cores."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as empty:
        os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": empty, "QLORA_COURSE_CACHE": empty}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def submit(course: Path, name: str, student: str, given: Answers) -> None:
    """Hand in the release with the reference's answers and, in their place, these."""
    solution = read(course / "solutions" / name / f"{name}.ipynb")
    filled = {task.id: task.answer["source"] for task in solution.tasks} | given
    notebook = nbformat.read(course / "exercises" / name / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if filled.get(cell.id) is not None:
            cell.source = filled[cell.id]
    target = course / "submitted" / student / name / f"{name}.ipynb"
    target.parent.mkdir(parents=True)
    nbformat.write(notebook, target)


def autograde_as_nbgrader_does(course: Path, name: str) -> None:
    """Grade all submissions of an assignment with nbgrader as it is: kernels, one at a time."""
    from nbgrader.converters import Autograde
    from nbgrader.coursedir import CourseDirectory

    config = release.settings(course)
    config.pop("Autograde", None)  # this course's own steps
    directory = CourseDirectory(config=config, assignment_id=name, student_id="*")
    converter = Autograde(coursedir=directory, config=config, force=True)
    converter.log = release.errors_alone()
    with warnings.catch_warnings():  # SQLAlchemy's, about objects that nbgrader adds later
        warnings.filterwarnings("ignore", "Object of type <Submitted")
        converter.start()


def _points(course: Path, name: str, student: str) -> Points:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "qlora") as book:
        grades = book.find_submission_notebook(name, name, student).grades
        return {grade.name: grade.auto_score for grade in grades if grade.auto_score is not None}


# --- verdicts -------------------------------------------------------------------------------------


def by_task(assignment: Assignment, points: Points) -> dict[str, float]:
    """Points of each task that checks grade, summed over its cells."""
    tasks = code_tasks(assignment)
    return {task.id: sum(points[cell["id"]] for cell in task.checks) for task in tasks}


def complaints(assignment: Assignment, points: Points, replaced: Iterable[Mutant]) -> list[str]:
    """What is wrong with the points of a submission whose only other answers are `replaced`."""
    wrong = {mutant.task: mutant for mutant in replaced if mutant.kind == "wrong"}
    scored, found = by_task(assignment, points), []
    for task in code_tasks(assignment):
        full = scored[task.id] == task.points
        if task.id in wrong and full:
            found.append(f"{task.id}: {wrong[task.id].name} ({wrong[task.id].says}) lost no point")
        if task.id not in wrong and not full:
            found.append(
                f"{task.id}: {scored[task.id]:g} of {task.points} points for a right answer"
            )
    return found


def crossed(assignment: Assignment) -> dict[str, list[Mutant]]:
    """Two submissions in which each task has its first wrong answer once, and its first right one.

    Wrong and right answers take turns: a wrong one must not cost its neighbours anything.
    """
    submissions: dict[str, list[Mutant]] = {"crossed-1": [], "crossed-2": []}
    for place, task in enumerate(code_tasks(assignment)):
        found = mutants(assignment.name, task.id)
        for turn, replaced in enumerate(submissions.values()):
            kind = ("wrong", "right")[(place + turn) % 2]
            replaced.append(next(mutant for mutant in found if mutant.kind == kind))
    return submissions


def alone(assignment: Assignment) -> dict[str, list[Mutant]]:
    """A submission for each answer, in which it is the only one that isn't the reference's."""
    found = [m for task in code_tasks(assignment) for m in mutants(assignment.name, task.id)]
    return {f"{m.task}.{m.name}": [m] for m in found}


def answers(submissions: dict[str, list[Mutant]]) -> dict[str, Answers]:
    """What `autograde` takes for submissions that are given by the answers which they replace."""
    return {name: {m.task: m.source for m in found} for name, found in submissions.items()}


def graded(
    assignment: Assignment,
    submissions: dict[str, list[Mutant]],
    workers: int = 1,
    stock: bool = False,
) -> dict[str, Points]:
    """Points of submissions that are given by the answers which they replace."""
    return autograde(assignment.name, answers(submissions), workers, stock)


# --- the report -----------------------------------------------------------------------------------

PAGE = """\
# The graders, graded

This page is for instructors who want to know how reliable the checks are. The checks recognized
every wrong and every right answer in `tests/mutants/`. Each answer is graded twice: by `course
grade` and by nbgrader's own autograding. All other answers of the same submission are right. The
two graders give the same points in every cell. A wrong answer loses points at its own task and at
no other task. A right answer that is written differently loses no points. Questions that a person
grades have no checks. `python -m tests.mutation 03_lora` prints the points of each answer at each
task of one assignment.

The table also shows how much time and memory grading needs. *Seconds* and *peak memory* were
measured while the solution was executed once in a separate kernel, and include the start of the
kernel. The last two columns are the seconds that each grader needs for one submission on average,
with {workers} submissions graded at a time.

{costs}

Made by `python -m tests.mutation` on {date}: {machine}.
"""


@dataclass(frozen=True)
class Trial:
    """All answers of one assignment, graded.

    points and seconds of a submission on the average: by `course grade`, then by nbgrader.
    """

    assignment: Assignment
    submissions: dict[str, list[Mutant]]
    points: tuple[dict[str, Points], dict[str, Points]]
    seconds: tuple[float, float]

    @property
    def complaints(self) -> list[str]:
        """What the checks got wrong, and where the two graders differ."""
        ours, stock = self.points
        found = [
            f"{name}: graders differ" for name in self.submissions if ours[name] != stock[name]
        ]
        for name, replaced in self.submissions.items():
            found += complaints(self.assignment, ours[name], replaced)
        return found

    @property
    def matrix(self) -> str:
        """A markdown table: a row for each answer, a column for the points of each task."""
        tasks = code_tasks(self.assignment)
        numbers = {task.id: task.number for task in tasks}
        lines = [f"| answer | kind | {' | '.join(f'{t.number} ({t.points})' for t in tasks)} |"]
        lines.append("|---|---|" + "---|" * len(tasks))
        for name, (mutant,) in self.submissions.items():
            scored = by_task(self.assignment, self.points[0][name])
            cells = " | ".join(_in_bold(scored[task.id], task.points) for task in tasks)
            lines.append(f"| {numbers[mutant.task]} {mutant.says} | {mutant.kind} | {cells} |")
        return "\n".join(lines)


def _in_bold(points: float, full: int) -> str:
    return f"{points:g}" if points == full else f"**{points:g}**"


def trial(path: Path, workers: int) -> Trial:
    """Grade each answer of one assignment by itself, twice."""
    assignment = read(path)
    submissions = alone(assignment)

    def timed(stock: bool) -> tuple[dict[str, Points], float]:
        started = time.monotonic()
        points = graded(assignment, submissions, workers, stock)
        return points, (time.monotonic() - started) / len(submissions)

    (ours, our_time), (theirs, their_time) = timed(stock=False), timed(stock=True)
    return Trial(assignment, submissions, (ours, theirs), (our_time, their_time))


def costs(trials: list[Trial]) -> str:
    """A markdown table: answers of each assignment, and what a submission takes, measured now."""
    columns = ("assignment", "wrong answers", "right answers", "seconds", "peak memory")
    lines = [f"| {' | '.join((*columns, 'nbgrader (s)', '`course grade` (s)'))} |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for done in trials:
        name = done.assignment.name
        with tempfile.TemporaryDirectory() as pages, offline():
            run = execute(ROOT / "solutions" / name / f"{name}.ipynb", pages, progress=False)
        kinds = Counter(mutant.kind for (mutant,) in done.submissions.values())
        ours, stock = done.seconds
        took = f"{run.seconds:.1f} | {format_bytes(run.peak_memory)} | {stock:.2f} | {ours:.2f}"
        lines.append(f"| {done.assignment.title} | {kinds['wrong']} | {kinds['right']} | {took} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("assignment", nargs="?", help="03, or 03_lora; default: all, and a report")
    parser.add_argument("--workers", type=int, default=2, help="submissions graded at a time")
    options = parser.parse_args()
    trials = []
    for path in sources(ROOT, options.assignment):
        trials.append(trial(path, options.workers))
        print(f"{trials[-1].assignment.title}\n\n{trials[-1].matrix}\n", flush=True)
    if options.assignment is None:
        text = PAGE.format(
            date=date.today().isoformat(),
            machine=machine(),
            workers=options.workers,
            costs=costs(trials),
        )
        REPORT.write_text(text, encoding="utf-8")
    found = [complaint for done in trials for complaint in done.complaints]
    print("\n".join(found) or "every wrong answer loses points at its own task, and only there")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
