"""Create a small assignment that follows all rules and that tests can change."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from course_utils.machine import notebooks
from workshop.publishing import lecture, notebook_check

NAME = "09_sums"

ANSWER = '''\
def {function}(numbers: list[int]) -> int:
    """The {what} of some numbers.

    Raises ValueError for an empty list.
    """
    ### BEGIN SOLUTION
    if not numbers:
        raise ValueError("no numbers")
    return {expression}
    ### END SOLUTION
'''
FORM = """\
from course_utils.exercise.checks import check

check({function}, [1, 2]).like(0)
check({function}, []).raises(ValueError)
### BEGIN HIDDEN TESTS
import random

from course_utils.exercise.checks import seed

draw = random.Random(seed(1))
check({function}, [draw.randint(-9, 9) for _ in range(4)]).like(0)
### END HIDDEN TESTS
"""
VALUES = """\
from course_utils.exercise.checks import check

check({function}, [3, 4, 5]).gives({expected}, likely="one number was left out")
### BEGIN HIDDEN TESTS
import random

from course_utils.exercise.checks import seed

draw = random.Random(seed(2))
for _ in range(5):
    numbers = [draw.randint(-9, 9) for _ in range(draw.randint(1, 9))]
    check({function}, numbers).gives({reference})
### END HIDDEN TESTS
"""
TASKS = [
    ("sum-all", "add", "sum", "sum(numbers)", 12),
    ("sum-squares", "squares", "sum of squares", "sum(n * n for n in numbers)", 50),
    ("sum-largest", "largest", "largest", "max(numbers)", 5),
]
PROMPT = "## 9.{number} The {what}\n●●○ · 6 min · {points}\n\nReturn the {what}.\n"
PROMPT += "\nIn the lecture: [adding](../../lectures/09_sums.ipynb#add)\n"


def cell(
    name: str, source: str, points: int | None = None, answer: bool = False, kind: str = "code"
) -> dict[str, Any]:
    """Return a cell, with nbgrader's metadata if the cell has points or is an answer."""
    new: dict[str, Any] = {"cell_type": kind, "id": name, "metadata": {}, "source": source.strip()}
    if kind == "code":
        new |= {"execution_count": None, "outputs": []}
    if points is None and not answer:
        return new
    data = {"grade": points is not None, "grade_id": name, "locked": not answer}
    new["metadata"]["nbgrader"] = data | {"schema_version": 3, "solution": answer, "task": False}
    worth = ""
    if points is not None:
        new["metadata"]["nbgrader"]["points"] = points
        worth = f" ({points} point{'s' * (points != 1)})"
    comment = f"# grade_id: {name}{worth}" if kind == "code" else f"<!-- grade_id: {name} -->"
    new["source"] = f"{comment}\n{new['source']}"
    return new


def task(
    number: int, name: str, function: str, what: str, expression: str, expected: int
) -> list[dict[str, Any]]:
    """Return the five cells of one task, which has 3 points."""
    fields = {"function": function, "what": what, "expression": expression}
    fields |= {"expected": str(expected), "reference": expression}
    prompt = PROMPT.format(number=number, what=what, points="3 points")
    return [
        cell(f"{name}-prompt", prompt, kind="markdown"),
        cell(name, ANSWER.format(**fields), answer=True),
        cell(f"{name}-try", f"{function}([1, 2, 3])"),
        cell(f"{name}-expected", f"The {what} of 1, 2 and 3.", kind="markdown"),
        check_cell(f"{name}-form", FORM.format(**fields), 1, f"Check 9.{number}, part 1 of 2"),
        check_cell(f"{name}-values", VALUES.format(**fields), 2, f"Check 9.{number}, part 2 of 2"),
    ]


def check_cell(name: str, source: str, points: int, title: str) -> dict[str, Any]:
    """Return a graded cell with a title and a hidden source."""
    new = cell(name, source, points=points)
    new["source"] = f"# @title {title} ({points} point{'s' * (points != 1)})\n{new['source']}"
    return hidden(new)


def hidden(new: dict[str, Any]) -> dict[str, Any]:
    """Return a cell with a hidden source."""
    new["metadata"]["tags"] = [lecture.HIDDEN]
    return new | {"metadata": lecture.with_view(new)}


def notebook() -> dict[str, Any]:
    """Return the whole assignment: three functions and a question, with 12 points."""
    question = PROMPT.format(number=4, what="point of it", points="3 points, graded by hand")
    answer = "### BEGIN SOLUTION\nAdding is useful.\n### END SOLUTION"
    tasks = [task(number, *fields) for number, fields in enumerate(TASKS, 1)]
    cells = [
        cell("opening", "# Exercise 09: Sums", kind="markdown"),
        hidden(cell("setup", notebook_check.SETUP_CELL)),
        cell("imports", "import math"),
        *itertools.chain.from_iterable(tasks),
        cell("sum-why-prompt", f"{question}\n**Rubric:** a point for each use.", kind="markdown"),
        cell("sum-why", answer, points=3, answer=True, kind="markdown"),
    ]
    return document(cells, qlora_course={"withheld": ["course_utils.lora"]})


def document(cells: list[dict[str, Any]], **metadata: Any) -> dict[str, Any]:
    """Return a notebook with these cells."""
    metadata |= {"kernelspec": notebooks.KERNEL, "language_info": notebooks.LANGUAGE}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write(folder: Path, content: dict[str, Any] | None = None, name: str = NAME) -> Path:
    """Write the assignment, or `content`, to solutions/ of the course in `folder`."""
    path = folder / "solutions" / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebooks.dump(content or notebook()), encoding="utf-8")
    return path


def change(content: dict[str, Any], name: str, old: str, new: str) -> None:
    """Replace text in the JSON of one cell, which includes the cell's metadata.

    Args:
        content: The notebook.
        name: The cell's id.
        old: The text to replace, which must exist. A line break means a line break in a source.
        new: The new text.
    """
    index = next(i for i, each in enumerate(content["cells"]) if each["id"] == name)
    text = json.dumps(content["cells"][index], ensure_ascii=False)
    old, new = (part.replace("\n", "\\n") for part in (old, new))
    assert old in text, f"{old!r} is not in cell {name}"
    content["cells"][index] = json.loads(text.replace(old, new))
