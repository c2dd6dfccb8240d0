"""Read the answers of a class, to compare them and to ask questions about them.

The answers come from autograded/, which contains the repaired notebook of every graded submission,
no matter in which run and on which machine it was graded.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterable
from pathlib import Path

from workshop.grading.assignments import Assignment, grade_id
from workshop.grading.safe_files import read_bytes
from workshop.grading.spec import MAX_NOTEBOOK

# Maximum length of an answer, in characters. A longer answer is treated as if it was missing,
# because parsing the longest answers of a whole class would take too long.
MAX_ANSWER = 10_000

# The sources of a student's answers, by task.
Answers = dict[str, str]


def read_answers(folder: Path, release: Assignment, students: Iterable[str]) -> dict[str, Answers]:
    """Return the answers that students wrote, by student; a task without an answer is missing."""
    given = {task.id: task.answer["source"].strip() for task in release.tasks}
    answers = {}
    for student in students:
        path = folder / "autograded" / student / release.name / f"{release.name}.ipynb"
        sources = _sources(path)
        answers[student] = {
            task: sources[task]
            for task, stub in given.items()
            if sources.get(task, stub).strip() != stub and len(sources[task]) <= MAX_ANSWER
        }
    return answers


def _sources(path: Path) -> dict[str | None, str]:
    """Return the sources of a notebook's cells, by grade id; none if it can't be read."""
    try:
        cells = json.loads(read_bytes(path, MAX_NOTEBOOK))["cells"]
        return {grade_id(cell): "".join(cell["source"]) for cell in cells}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def parsed(source: str) -> ast.Module | None:
    """Return the syntax tree of an answer; None if it isn't valid Python, or nested too deeply."""
    try:
        with warnings.catch_warnings():
            # The instructor can't mend an invalid escape sequence, so don't show a warning.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    # These errors occur if the source contains NUL characters or is nested too deeply.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def numbered(source: str, given: str) -> list[tuple[int, str]]:
    """Return an answer's lines with their numbers, without the docstrings that were given."""
    tree = parsed(source)
    left_out: set[int] = set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            first = node.body[0]
            if (ast.get_source_segment(source, first) or source) in given:
                left_out.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = enumerate(source.split("\n"), 1)
    return [(number, line) for number, line in lines if number not in left_out]
