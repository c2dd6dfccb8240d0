"""Create a small lesson, 90_sums, in a copy of the course, as docs/adding-a-lesson.md explains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from course_utils.machine import notebooks
from tests import assignment

NAME = "90_sums"

MODULE = '''\
"""Add numbers, for a lesson that tests the tooling."""

from __future__ import annotations


def add(numbers: list[int]) -> int:
    """Return the sum of some numbers."""
    return sum(numbers)
'''
TESTS = """\
from course_utils.sums import add


def test_the_sum_of_three_numbers():
    assert add([1, 2, 3]) == 6
"""
OPENING = """\
# 90 Sums: what do numbers add up to?

- **Slides:** Introduction
- **Question:** What is 1 + 2 + 3?
- **You will be able to:** add numbers
- **Run time:** 1 minute on CPU, 1.2 GB of memory
- **You need to know first:** what a number is
"""
QUESTION = """\
## What is 1 + 2 + 3?

A sum is computed with the same [seed](../docs/glossary.md#seed) or with another one.
"""
CODE = """\
from course_utils.figures import measurements
from course_utils.sums import add

total = add([1, 2, 3])
print(f"1 + 2 + 3 = {total}")
measurements({"sum": [total]}, xlabel="1 + 2 + 3")
"""
CHECK = "assert total == 6"
CLOSING = f"""\
## What you have seen

A sum. **Next:** [exercise 90](../exercises/{NAME}/{NAME}.ipynb).
"""

# Wrong answers to each task, as expressions that use `numbers`.
WRONG = {"count": "len(numbers)", "first": "numbers[0]", "nothing": "0", "minus": "-numbers[0]"}
ANSWER = """\
# %% {kind} {name}: {expression}
def {function}(numbers):
    if not numbers:
        raise ValueError("no numbers")
    return {expression}
"""


def lecture() -> dict[str, Any]:
    """Return the lecture without what `course notebooks fix` adds, such as its set-up cell."""
    cells = [
        assignment.cell("opening", OPENING, kind="markdown"),
        assignment.cell("words", "", kind="markdown"),
        assignment.cell("question", QUESTION, kind="markdown"),
        assignment.cell("add", CODE),
        assignment.cell("check", CHECK),
        assignment.cell("closing", CLOSING, kind="markdown"),
    ]
    for cell in cells:
        kind = "skip" if cell["id"] in ("words", "check") else "slide"
        cell["metadata"]["slideshow"] = {"slide_type": kind}
    cells[3]["metadata"]["tags"] = ["summary"]
    cells[4]["metadata"]["tags"] = ["hide-input"]
    return assignment.document(cells)


def solution() -> dict[str, Any]:
    """Return the assignment of tests/assignment.py with this lesson's number and links."""
    text = json.dumps(assignment.notebook()).replace("09", "90").replace("## 9.", "## 90.")
    content = json.loads(text.replace("course_utils.lora", "course_utils.sums"))
    link = f"[lecture 90](../../lectures/{NAME}.ipynb)"
    content["cells"] = [cell for cell in content["cells"] if cell["id"] != "imports"]
    content["cells"][0]["source"] += f"\n\nIt belongs to {link}."
    content["cells"].append(assignment.cell("closing", f"Back to {link}.", kind="markdown"))
    for name, function, _, expression, _ in assignment.TASKS:
        # The hidden check must refuse an answer that returns the same number for all inputs. The
        # numbers are so large that their sum, for example, is hardly ever this number.
        numbers = "[draw.randint(-(10**6), 10**6) for _ in range(4)]"
        check = f"numbers = {numbers}\ncheck({function}, numbers).gives({expression})"
        old = f"check({function}, [draw.randint(-9, 9) for _ in range(4)]).like(0)"
        assignment.change(content, f"{name}-form", old, check)
    return content


def answers(function: str, expression: str) -> str:
    """Return right and wrong answers to one task, in the format of tests/mutants."""
    rows = [("right", "written-as-a-sum", f"0 + {expression}")]
    rows += [("right", "written-as-a-difference", f"{expression} - 0")]
    rows += [("wrong", name, expression) for name, expression in WRONG.items()]
    pieces = [
        ANSWER.format(kind=kind, name=name, expression=expression, function=function)
        for kind, name, expression in rows
    ]
    return "\n\n".join(pieces)


def write(course: Path) -> None:
    """Write the files of the lesson that docs/adding-a-lesson.md lists into a course."""
    (course / "course_utils/sums.py").write_text(MODULE, encoding="utf-8")
    (course / "tests/test_sums.py").write_text(TESTS, encoding="utf-8")
    path = course / "lectures" / f"{NAME}.ipynb"
    path.write_text(notebooks.dump(lecture()), encoding="utf-8")
    assignment.write(course, solution(), NAME)
    mutants = course / "tests" / "mutants" / NAME
    mutants.mkdir()
    for name, function, _, expression, _ in assignment.TASKS:
        (mutants / f"{name}.py").write_text(answers(function, expression), encoding="utf-8")
