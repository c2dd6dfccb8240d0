"""Grade right and wrong answers, to test that checks distinguish them and that graders agree.

    python -m tests.mutation                     all assignments; writes docs/graders.md
    python -m tests.mutation 03_lora             one assignment
    python -m tests.mutation 03_lora --seeds 10  all answers with ten sets of hidden inputs

The first two commands print a table with the points of each answer at each task. The third command
prints the cells whose points depend on the inputs.

The file tests/mutants/ASSIGNMENT/TASK.py contains the answers to one task. Below its header, an
answer is either the whole source of an answer cell, or changes of another source:

    # %% right other-order: adds before it multiplies
    def lora_parameters(d_in, d_out, rank): ...

    # %% wrong only-a: counts A and forgets B
    old = "count = rank * (d_in + d_out)"
    new = "count = rank * d_in"

docs/exercises.md explains the second form.

A submission contains the answers of the solution, except for some that are replaced by answers from
these files.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
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
from itertools import zip_longest
from pathlib import Path

from course_utils.machine.execution import execute
from course_utils.machine.units import format_bytes
from tests import sums
from tests.machine import machine
from workshop.grading import classroom, release
from workshop.grading.assignments import Assignment, Task, read, sources

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = ROOT / "tests" / "mutants"
REPORT = ROOT / "docs" / "graders.md"
PIECE = re.compile(r"^# %% (right|wrong|base) ([a-z0-9-]+): (.+)\n", re.M)
# Docstrings, and lines that contain only a comment.
EXPLANATION = re.compile(r'^ *(?:""".*?"""|#[^\n]*)(?:\n|\Z)', re.M | re.S)

# The sources of answer cells, by task. None means that the stub of the release stays.
Answers = dict[str, str | None]
# The points of graded cells, by grade id.
Points = dict[str, float]


@dataclass(frozen=True)
class Mutant:
    """An answer to one task that differs from the solution.

    Attributes:
        task: The task's id.
        kind: "right" or "wrong".
        name: A short name, which is unique for the task.
        description: What is special about the answer, in one clause.
        source: The source of the answer cell.
    """

    task: str
    kind: str
    name: str
    description: str
    source: str


def mutants(assignment: str, task: str) -> list[Mutant]:
    """Return the answers to a task, in the order of their file.

    Raises:
        ValueError: The changes of an answer can't be applied to its base.
    """
    path = MUTANTS / assignment / f"{task}.py"
    pieces = PIECE.split(path.read_text(encoding="utf-8"))[1:]
    found: list[Mutant] = []
    for kind, name, what, text in zip(*(pieces[part::4] for part in range(4)), strict=True):
        source = text.strip()
        if source.startswith(("base = ", "old = ")):
            try:
                source = _changed(source, found, assignment, task)
            except ValueError as error:
                raise ValueError(f"{path}, answer {name}: {error}") from error
        found.append(Mutant(task, kind, name, what, source))
    return [mutant for mutant in found if mutant.kind != "base"]


def _changed(changes: str, earlier: list[Mutant], assignment: str, task: str) -> str:
    """Return the source of an answer that is written as changes of another source."""
    lines = ast.parse(changes).body
    names = [ast.unparse(line).partition(" = ")[0] for line in lines]
    texts = [ast.literal_eval(getattr(line, "value", None)).strip("\n") for line in lines]
    named = "default" if any(answer.name == "default" for answer in earlier) else "solution"
    if names[0] == "base":
        named, names, texts = texts[0], names[1:], texts[1:]
    bases = [answer.source for answer in earlier if answer.name == named]
    if named == "solution":
        path = ROOT / "solutions" / assignment / f"{assignment}.ipynb"
        bases = [EXPLANATION.sub("", _solution(path)[task]).strip()]
    if not bases or names != ["old", "new"] * (len(names) // 2):
        raise ValueError(f"expected the name of an earlier answer, and pairs of texts:\n{changes}")
    pairs = dict(zip(texts[::2], texts[1::2], strict=True))
    for old, new in pairs.items():
        if old == new or bases[0].count(old) != 1:
            reason = "is not changed" if old == new else "doesn't occur exactly once"
            raise ValueError(f"this text {reason}:\n{old}")
    # Without a new text, whole lines are removed.
    pairs = {old if new else f"{old}\n": new for old, new in pairs.items()}
    pattern = "|".join(map(re.escape, pairs))
    source, number = re.subn(pattern, lambda match: pairs[match[0]], bases[0])
    if number != len(names) // 2:
        raise ValueError(f"two changes overlap:\n{changes}")
    return source


@functools.cache
def _solution(path: Path) -> dict[str, str]:
    """Return the sources of a solution's cells, by the cell's id."""
    return {cell["id"]: cell["source"] for cell in read(path).cells}


def code_tasks(assignment: Assignment) -> list[Task]:
    """Return the tasks that are graded by checks."""
    return [task for task in assignment.tasks if not task.by_hand]


# --- grading submissions --------------------------------------------------------------------------


def grade(
    name: str, submissions: dict[str, Answers], workers: int = 1, stock: bool = False
) -> dict[str, Points]:
    """Grade submissions in temporary courses, and return the points of each submission.

    Args:
        name: The assignment's name.
        submissions: The answers that differ from the solution, by the submission's name.
        workers: How many submissions are graded at a time.
        stock: Whether nbgrader's own autograding grades them, instead of `course grade`.
    """
    if workers == 1 or not stock:
        return _grade(name, submissions, stock, workers)
    names = list(submissions)
    shares = [{n: submissions[n] for n in names[w::workers]} for w in range(workers)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        results = pool.map(_grade, [name] * workers, shares, [stock] * workers)
        return {student: points for result in results for student, points in result.items()}


def _grade(
    name: str, submissions: dict[str, Answers], stock: bool, workers: int = 1
) -> dict[str, Points]:
    with tempfile.TemporaryDirectory() as temporary, offline():
        course = hand_in(name, submissions, Path(temporary))
        if stock:
            autograde(course, name, stock=True)
        else:
            classroom.grade(course, name, workers=workers)
        return {student: _points(course, name, student, stock) for student in submissions}


def hand_in(name: str, submissions: dict[str, Answers], folder: Path) -> Path:
    """Create a course with submissions of one assignment in a folder, and return the course."""
    course = release.copy_course(ROOT, folder, only=name)
    release.release(course)
    for student, answers in submissions.items():
        submit(course, name, student, answers)
    return course


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Start processes without a model, without access to the hub, and with one thread each."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as empty:
        os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": empty, "QLORA_COURSE_CACHE": empty}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def submit(course: Path, name: str, student: str, answers: Answers) -> None:
    """Submit the release with `answers`, and with the solution's answers to all other tasks."""
    solution = read(course / "solutions" / name / f"{name}.ipynb")
    sources = {task.id: task.answer["source"] for task in solution.tasks} | answers
    changed = {task: source for task, source in sources.items() if source is not None}
    sums.hand_in(course, student, changed, name)


def autograde(course: Path, name: str, stock: bool = False) -> None:
    """Grade all submissions of an assignment as the command `nbgrader autograde` does.

    Args:
        course: The course.
        name: The assignment's name.
        stock: Whether only nbgrader's own steps are used, and not those of this course.
    """
    from nbgrader.converters import Autograde
    from nbgrader.coursedir import CourseDirectory

    config = release.settings(course)
    if stock:
        config.pop("Autograde", None)
    directory = CourseDirectory(config=config, assignment_id=name, student_id="*", root=str(course))
    converter = Autograde(coursedir=directory, config=config, force=True)
    converter.log = release.error_log()
    with warnings.catch_warnings():
        # SQLAlchemy warns about objects that nbgrader adds later.
        warnings.filterwarnings("ignore", "Object of type <Submitted")
        converter.start()


def _points(course: Path, name: str, student: str, stock: bool) -> Points:
    with sums.gradebook(course) as book:
        grades = book.find_submission_notebook(name, name, student).grades
        return {
            grade.name: grade.auto_score + (grade.extra_credit or 0)
            for grade in grades
            # nbgrader itself knows no bonus points: its cells with bonus points have 0 points.
            if grade.auto_score is not None and not (stock and grade.max_score == 0)
        }


# --- right and wrong points -----------------------------------------------------------------------


def by_task(assignment: Assignment, points: Points) -> dict[str, float]:
    """Return the points of each task that is graded by checks, summed over the task's cells."""
    tasks = code_tasks(assignment)
    return {task.id: sum(points[cell["id"]] for cell in task.checks) for task in tasks}


def agree(assignment: Assignment, ours: Points, stock: Points) -> bool:
    """Return whether `course grade` gives the points that nbgrader gives, which knows no bonus."""
    bonus = {cell["id"] for task in assignment.tasks if task.bonus for cell in task.checks}
    return stock == {cell: points for cell, points in ours.items() if cell not in bonus}


def problems(assignment: Assignment, points: Points, replaced: Iterable[Mutant]) -> list[str]:
    """Return what is wrong with the points of a submission.

    Args:
        assignment: The assignment.
        points: The points of the submission.
        replaced: The answers of the submission that differ from the solution.

    Returns:
        One line for each wrong answer that lost no points, and for each right answer that lost
        points.
    """
    wrong = {mutant.task: mutant for mutant in replaced if mutant.kind == "wrong"}
    scores, lines = by_task(assignment, points), []
    for task in code_tasks(assignment):
        score, mutant = scores[task.id], wrong.get(task.id)
        if mutant and score == task.points:
            lines.append(f"{task.id}: {mutant.name} ({mutant.description}) lost no points")
        if not mutant and score != task.points:
            lines.append(f"{task.id}: {score:g} of {task.points} points for a right answer")
    return lines


def crossed(assignment: Assignment) -> dict[str, list[Mutant]]:
    """Return two submissions with alternating right and wrong answers.

    Each task has its first right answer in one submission and its first wrong answer in the other.
    The neighbours of a wrong answer are right and must not lose points.
    """
    submissions: dict[str, list[Mutant]] = {"crossed-1": [], "crossed-2": []}
    for number, task in enumerate(code_tasks(assignment)):
        candidates = mutants(assignment.name, task.id)
        for offset, replaced in enumerate(submissions.values()):
            kind = ("wrong", "right")[(number + offset) % 2]
            replaced.append(next(mutant for mutant in candidates if mutant.kind == kind))
    return submissions


def one_by_one(assignment: Assignment) -> dict[str, list[Mutant]]:
    """Return one submission for each answer, in which only this answer differs."""
    found = [m for task in code_tasks(assignment) for m in mutants(assignment.name, task.id)]
    return {f"{m.task}.{m.name}": [m] for m in found}


def in_rows(assignment: Assignment) -> dict[str, list[Mutant]]:
    """Return few submissions that contain all answers: the k-th answers to all tasks."""
    columns = [mutants(assignment.name, task.id) for task in code_tasks(assignment)]
    rows = enumerate(zip_longest(*columns), 1)
    return {f"row-{number}": [mutant for mutant in row if mutant] for number, row in rows}


def answers_of(submissions: dict[str, list[Mutant]]) -> dict[str, Answers]:
    """Return the answers of each submission, in the form that `grade` expects."""
    return {name: {m.task: m.source for m in found} for name, found in submissions.items()}


# --- the report -----------------------------------------------------------------------------------

PAGE = """\
# The graders, graded

This page is for instructors who want to know how reliable the checks are. `tests/mutants/` contains
wrong answers, and right answers that are written differently from the solution. With `course
grade`, a wrong answer loses points at its task and at no other task, and a right answer loses no
points. nbgrader's own autograding gives the same points, except in cells for bonus points, which
nbgrader doesn't have. Hidden inputs are [different for each
submission](grading.md#inputs-of-hidden-tests), but the points of these answers don't depend on the
inputs. To test this, `python -m tests.mutation 03_lora --seeds 10` grades all answers with ten sets
of inputs. Questions that a person grades have no checks, so they are not included.

The columns *seconds* and *peak memory* were measured while the solution ran once in a separate
kernel, and include the kernel's start. The last two columns are the average seconds that each
grader needs for one submission with several of these answers. Each grader graded {workers}
submissions at the same time.

{costs}

The times were measured by `python -m tests.mutation` on {date}: {machine}.
"""


@dataclass(frozen=True)
class Trial:
    """The results of grading all answers of one assignment.

    Attributes:
        assignment: The assignment.
        submissions: The answers that differ from the solution, by the submission's name. Each
            submission has one such answer.
        points: The points of these submissions by `course grade`.
        rows: The same for submissions with several answers.
        row_points: The points of these submissions by `course grade` and by nbgrader.
        seconds: The average seconds for one of these submissions, by `course grade` and by
            nbgrader.
    """

    assignment: Assignment
    submissions: dict[str, list[Mutant]]
    points: dict[str, Points]
    rows: dict[str, list[Mutant]]
    row_points: tuple[dict[str, Points], dict[str, Points]]
    seconds: tuple[float, float]

    @property
    def problems(self) -> list[str]:
        """Return a line for each wrong result, and for each difference between the graders."""
        ours, stock = self.row_points
        differ = [name for name in self.rows if not agree(self.assignment, ours[name], stock[name])]
        lines = [f"{name}: the graders give different points" for name in differ]
        points = self.points | ours
        for name, replaced in (self.submissions | self.rows).items():
            lines += problems(self.assignment, points[name], replaced)
        return lines

    @property
    def table(self) -> str:
        """Return a Markdown table with the points of each answer at each task."""
        tasks = code_tasks(self.assignment)
        numbers = {task.id: task.number for task in tasks}
        lines = [f"| answer | kind | {' | '.join(f'{t.number} ({t.points})' for t in tasks)} |"]
        lines.append("|---|---|" + "---|" * len(tasks))
        for name, (mutant,) in self.submissions.items():
            scores = by_task(self.assignment, self.points[name])
            cells = " | ".join(_table_cell(scores[task.id], task.points) for task in tasks)
            answer = f"{numbers[mutant.task]} {mutant.description}"
            lines.append(f"| {answer} | {mutant.kind} | {cells} |")
        return "\n".join(lines)


def _table_cell(points: float, full: int) -> str:
    return f"{points:g}" if points == full else f"**{points:g}**"


def trial(path: Path, workers: int) -> Trial:
    """Grade each answer of one assignment separately, and several together with both graders."""
    assignment = read(path)
    submissions, rows = one_by_one(assignment), in_rows(assignment)
    points = grade(path.stem, answers_of(submissions), workers)

    def timed(stock: bool) -> tuple[dict[str, Points], float]:
        started = time.monotonic()
        found = grade(path.stem, answers_of(rows), workers, stock)
        return found, (time.monotonic() - started) / len(rows)

    (ours, our_time), (theirs, their_time) = timed(stock=False), timed(stock=True)
    return Trial(assignment, submissions, points, rows, (ours, theirs), (our_time, their_time))


def with_seeds(path: Path, number: int, workers: int) -> list[str]:
    """Grade all answers of an assignment several times, each time in a new class with its own key.

    Returns:
        A line for each wrong result, and for each cell whose points are not always the same.
    """
    assignment = read(path)
    rows, lines, first = in_rows(assignment), [], {}
    for _ in range(number):
        points = grade(path.stem, answers_of(rows), workers)
        first = first or points
        for name, replaced in rows.items():
            lines += problems(assignment, points[name], replaced)
            lines += [
                f"{name}, {cell}: {value:g} and {points[name][cell]:g} points"
                for cell, value in first[name].items()
                if points[name][cell] != value
            ]
    return lines


def costs(trials: list[Trial]) -> str:
    """A markdown table: answers of each assignment, and what a submission takes, measured now."""
    columns = ("assignment", "wrong answers", "right answers", "seconds", "peak memory")
    lines = [f"| {' | '.join((*columns, 'nbgrader (s)', '`course grade` (s)'))} |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for done in trials:
        name = done.assignment.name
        with tempfile.TemporaryDirectory() as pages, offline():
            run = execute(ROOT / "solutions" / name / f"{name}.ipynb", pages)
        kinds = Counter(mutant.kind for (mutant,) in done.submissions.values())
        ours, stock = done.seconds
        cost = f"{run.seconds:.1f} | {format_bytes(run.peak_memory)} | {stock:.2f} | {ours:.2f}"
        lines.append(f"| {done.assignment.title} | {kinds['wrong']} | {kinds['right']} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("assignment", nargs="?", help="03, or 03_lora; default: all, and a report")
    parser.add_argument("--workers", type=int, default=2, help="submissions graded at a time")
    parser.add_argument("--seeds", type=int, help="grade all answers with this many sets of inputs")
    options = parser.parse_args()
    if options.seeds:
        lines = []
        for path in sources(ROOT, options.assignment):
            found = with_seeds(path, options.seeds, options.workers)
            print(f"{path.stem}, {options.seeds} sets of inputs: {len(found)} problems", flush=True)
            lines += found
        print("\n".join(lines))
        sys.exit(1 if lines else 0)
    trials = []
    for path in sources(ROOT, options.assignment):
        trials.append(trial(path, options.workers))
        print(f"{trials[-1].assignment.title}\n\n{trials[-1].table}\n", flush=True)
    if options.assignment is None:
        text = PAGE.format(
            date=date.today().isoformat(),
            machine=machine(),
            workers=options.workers,
            costs=costs(trials),
        )
        REPORT.write_text(text, encoding="utf-8")
    lines = [line for done in trials for line in done.problems]
    print("\n".join(lines) or "each wrong answer loses points at its own task and at no other task")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
