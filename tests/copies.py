"""Measure how well results.copies tells copies from answers that are alike by nature.

    python -m tests.copies                     classes of all assignments; prints a table
    python -m tests.copies 04_nf4 --seeds 1    classes of one assignment

A class is made up. Each student draws an answer to each task from the solution and tests/mutants: a
right one or a wrong one, depending on how good the student is. Then the student's habits, which are
the same in all tasks, decide how the answer is rewritten (tests/restyle.py). Half of the students
leave out a bonus task. One student in ten copies the answers of another one and disguises them. All
code tasks count; there are no texts.
"""

import argparse
import functools
import random
from collections import Counter
from dataclasses import dataclass

from course_utils.grading.assignments import read, sources
from course_utils.grading.results import copies
from tests import mutation, restyle

SIZES = (10, 30, 100)
# The number of different honest students of an assignment, of whom classes are made.
STUDENTS = 200
# There are more classes in which nobody copies, because wrong accusations are rare.
HONEST = 4
# The functions that somebody applies to a copied answer, one after the other.
DISGUISES = {
    "none": [],
    "other names": [restyle.renamed],
    "other comments and messages": [restyle.renamed, restyle.reworded],
    "other order": [restyle.renamed, restyle.rearranged],
    "loops for comprehensions": [restyle.renamed, restyle.relooped],
    "all of these": [restyle.relooped, restyle.rearranged, restyle.reworded, restyle.renamed],
}
ALL = "all of these"
REWRITTEN = "rewritten line by line"
RING = "a ring of three, other names"
# The names of disguises in which only some tasks are copied, and the number of these tasks.
PARTS = {"only 3 tasks, other names": 3, "only 2 tasks, other names": 2}
KINDS = (*DISGUISES, REWRITTEN, RING, *PARTS)


@dataclass(frozen=True)
class Class:
    """A made-up class: the answers of its students, and the pairs of students with copies."""

    answers: dict[str, dict[str, str]]
    copied: frozenset[frozenset[str]]


@functools.cache
def assignment(name):
    return read(mutation.ROOT / "solutions" / name / f"{name}.ipynb")


@functools.cache
def release(name):
    return read(mutation.ROOT / "exercises" / name / f"{name}.ipynb")


@functools.cache
def choices(name):
    """Return the right and the wrong answers to each task."""
    found = {}
    for task in mutation.code_tasks(assignment(name)):
        mutants = mutation.mutants(name, task.id)
        right = [mutant.source for mutant in mutants if mutant.kind == "right"]
        wrong = [mutant.source for mutant in mutants if mutant.kind == "wrong"]
        found[task.id] = [task.answer["source"], *right], wrong
    return found


@functools.cache
def honest(name, number):
    """Return the answers of a student who works alone."""
    draw = random.Random(f"{name} {number}")
    skill, habits = draw.betavariate(2, 2), restyle.habits(draw)
    left_out = {task.id for task in assignment(name).tasks if task.bonus and draw.random() < 0.5}
    return {
        task: restyle.edited(draw.choice(right if draw.random() < skill else wrong), draw, habits)
        for task, (right, wrong) in choices(name).items()
        if task not in left_out
    }


def copied(kind, answers, own, draw):
    """Return the answers of a student who copies, of whom `own` are the honest answers."""
    if kind == REWRITTEN:
        habits = restyle.habits(draw)
        return {task: restyle.edited(source, draw, habits) for task, source in answers.items()}
    taken = draw.sample(sorted(answers), PARTS.get(kind, len(answers)))
    disguise = DISGUISES.get(kind, [restyle.renamed])
    return own | {task: _applied(disguise, answers[task], draw) for task in taken}


def _applied(functions, source, draw):
    return functools.reduce(lambda text, function: function(text, draw), functions, source)


def made_up(name, size, seed, kind=None):
    """Return a class in which one student in ten copies, or nobody if `kind` is None."""
    draw = random.Random(f"{name} {size} {seed} {kind}")
    names = [f"s{number:03}" for number in range(1, size + 1)]
    numbers = draw.sample(range(STUDENTS), size)
    answers = {
        student: honest(name, number) for student, number in zip(names, numbers, strict=True)
    }
    free, pairs = draw.sample(names, size), set()
    for _ in range(max(1, size // 10) if kind else 0):
        group = [free.pop() for _ in range(3 if kind == RING else 2)]
        for student in group[1:]:
            answers[student] = copied(kind, answers[group[0]], answers[student], draw)
        pairs |= {frozenset((one, other)) for one in group for other in group if one != other}
    return Class(answers, frozenset(pairs))


def named(name, answers):
    """Return the pairs that the comparison names."""
    return {frozenset(pair.students) for pair in copies.compare(release(name), answers).pairs}


def counts(names, size, seeds, kind=None):
    """Count the pairs in classes of one size: copied, found, and named without being copied.

    The key "accused" counts the classes in which a pair is named that is not copied.
    """
    total = Counter()
    for name in names:
        for seed in range(seeds):
            made = made_up(name, size, seed, kind)
            pairs = named(name, made.answers)
            wrong = len(pairs - made.copied)
            total.update(classes=1, copied=len(made.copied), found=len(pairs & made.copied))
            total.update(wrong=wrong, accused=wrong > 0)
    return total


def rows(names, sizes, seeds):
    """Yield the rows of a Markdown table: recall and precision by disguise and class size."""
    yield f"| disguise | {' | '.join(f'{size} students' for size in sizes)} |"
    yield "|---|" + "--:|" * len(sizes)
    for kind in KINDS:
        cells = []
        for size in sizes:
            found = counts(names, size, seeds, kind)
            everybody = found["found"] + found["wrong"]
            precision = f"{found['found'] / everybody:.1%} right" if everybody else "nobody named"
            cells.append(f"{found['found'] / found['copied']:.1%} found, {precision}")
        yield f"| {kind} | {' | '.join(cells)} |"
    cells = []
    for size in sizes:
        found = counts(names, size, HONEST * seeds)
        cells.append(f"a pair named in {found['accused']} of {found['classes']} classes")
    yield f"| (nobody copies) | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("assignment", nargs="?", help="03, or 03_lora; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="classes of each kind and assignment")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="students in a class")
    options = parser.parse_args()
    names = [path.stem for path in sources(mutation.ROOT, options.assignment)]
    for row in rows(names, options.sizes, options.seeds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
