"""A small lesson, 08_sums, for a copy of the course: what docs/adding-a-lesson.md asks to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from course_utils import notebooks
from tests import assignment

NAME = "08_sums"

MODULE = '''\
"""Sums, which a lesson for the tests is about."""

from __future__ import annotations


def add(numbers: list[int]) -> int:
    """The sum of some numbers."""
    return sum(numbers)
'''
TESTS = """\
from course_utils.sums import add


def test_a_sum():
    assert add([1, 2, 3]) == 6
"""
OPENING = """\
# 08 Sums: what do numbers add up to?

- **Slides:** Introduction
- **Question:** What is 1 + 2 + 3?
- **You will be able to:** add numbers
- **Takes:** 1 minute on CPU, 1.2 GB of memory
"""
CODE = """\
from course_utils.figures import measurements
from course_utils.sums import add

total = add([1, 2, 3])
assert total == 6
print(f"1 + 2 + 3 = {total}")
measurements({"sum": [total]}, xlabel="1 + 2 + 3")
"""
CLOSING = f"""\
## What you have seen

A sum. **Next:** [exercise 08](../exercises/{NAME}/{NAME}.ipynb).
"""

# Answers to each task: right ones and wrong ones as expressions of `numbers`. A wrong one that is
# None forgets the error for an empty list.
ANSWERS = {
    "sum-all": ("add", ["sum(sorted(numbers))", "-sum(-n for n in numbers)"], {
        "without-last": "sum(numbers[:-1])",
        "without-first": "sum(numbers[1:])",
        "without-signs": "sum(abs(n) for n in numbers)",
        "count": "len(numbers)",
    }),
    "sum-squares": ("squares", ["sum(n**2 for n in numbers)", "sum([n * n for n in numbers])"], {
        "of-the-sum": "sum(numbers) ** 2",
        "not-squared": "sum(numbers)",
        "doubled": "sum(2 * n for n in numbers)",
        "without-last": "sum(n * n for n in numbers[:-1])",
    }),
    "sum-largest": ("largest", ["sorted(numbers)[-1]", "-min(-n for n in numbers)"], {
        "smallest": "min(numbers)",
        "without-signs": "max(numbers, key=abs)",
        "first": "numbers[0]",
        "all": "sum(numbers)",
    }),
}  # fmt: skip
ANSWER = """\
# %% {kind} {name}: {expression}
def {function}(numbers):
    if not numbers:
        raise ValueError("no numbers")
    return {expression}
"""


def lecture() -> dict[str, Any]:
    """The lecture, without the set-up cell, which `course notebooks fix` adds."""
    cells = [
        assignment.cell("opening", OPENING, kind="markdown"),
        assignment.cell("add", CODE),
        assignment.cell("closing", CLOSING, kind="markdown"),
    ]
    for cell in cells:
        cell["metadata"]["slideshow"] = {"slide_type": "slide"}
    cells[1]["metadata"]["tags"] = ["summary"]
    return assignment.document(cells)


def solution() -> dict[str, Any]:
    """The assignment of tests/assignment.py under this lesson's number, linked to the lecture."""
    text = json.dumps(assignment.notebook()).replace("09", "08").replace("## 9.", "## 8.")
    found = json.loads(text.replace("course_utils.lora", "course_utils.sums"))
    link = f"[lecture 08](../../lectures/{NAME}.ipynb)"
    found["cells"] = [cell for cell in found["cells"] if cell["id"] != "imports"]
    found["cells"][0]["source"] += f"\n\nIt belongs to {link}."
    found["cells"].append(assignment.cell("closing", f"Back to {link}.", kind="markdown"))
    return found


def answers(task: str) -> str:
    """The right and wrong answers to one task, as tests/mutants holds them."""
    function, right, wrong = ANSWERS[task]
    rows = [("right", f"way-{number}", expression) for number, expression in enumerate(right, 1)]
    rows += [("wrong", name, expression) for name, expression in wrong.items()]
    pieces = [
        ANSWER.format(kind=kind, name=name, expression=expression, function=function)
        for kind, name, expression in rows
    ]
    return "\n\n".join(pieces)


def write(course: Path) -> None:
    """Write the lesson into a course, in the five places of docs/adding-a-lesson.md."""
    (course / "course_utils/sums.py").write_text(MODULE, encoding="utf-8")
    (course / "tests/test_sums.py").write_text(TESTS, encoding="utf-8")
    path = course / "lectures" / f"{NAME}.ipynb"
    path.write_text(notebooks.dump(lecture()), encoding="utf-8")
    assignment.write(course, solution(), NAME)
    mutants = course / "tests" / "mutants" / NAME
    mutants.mkdir()
    for task in ANSWERS:
        (mutants / f"{task}.py").write_text(answers(task), encoding="utf-8")
