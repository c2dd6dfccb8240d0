"""A small course for nbgrader, with this repository's settings and one assignment.

The assignment is a short 03_lora: a function with a visible and a hidden test, and a question that
a person grades. `course` makes a copy of it all; `answer` does a student's work.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat

from tests.assignment import cell, document, write

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("nbgrader_config.py", "my_assignments/nbgrader_config.py")
ASSIGNMENT = "03_lora"
NOTEBOOK = f"{ASSIGNMENT}/{ASSIGNMENT}.ipynb"

RIGHT = "def lora_parameters(d_in, d_out, rank):\n    return rank * (d_in + d_out)\n"
ONLY_A = "def lora_parameters(d_in, d_out, rank):\n    return rank * d_in\n"  # forgets matrix B
MESSAGE = "8_000"  # what came; it stands in the message of the failed check alone

SOLUTION = """\
def lora_parameters(d_in: int, d_out: int, rank: int) -> int:
    ### BEGIN SOLUTION
    return rank * (d_in + d_out)
    ### END SOLUTION
"""
TEST = """\
from course_utils.checks import check

check(lora_parameters, 1000, 1000, rank=8).gives(
    16_000, mistakes=[(8 * 1000, "only one of A and B was counted")]
)
### BEGIN HIDDEN TESTS
check(lora_parameters, 3, 5, rank=2).gives(16)
### END HIDDEN TESTS
"""
QUESTION = "Why does one merge an adapter into its layer? Answer here."


def assignment() -> dict[str, Any]:
    """The instructor's version: 2 points by tests, 3 by a person."""
    return document(
        [
            cell("lora-parameters", SOLUTION, answer=True),
            cell("lora-parameters-slide", TEST, points=2),
            cell("why-merge", QUESTION, points=3, answer=True, kind="markdown"),
        ]
    )


def course(folder: Path) -> Path:
    """A copy of the course in a folder: nbgrader's settings and the one assignment."""
    for name in SETTINGS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write(folder, assignment(), ASSIGNMENT)
    return folder


def answer(notebook: Path, code: str, text: str) -> None:
    """Write a function and a text into a released notebook, as its student would."""
    filled = nbformat.read(notebook, as_version=4)
    answers = {"lora-parameters": code, "why-merge": text}
    for place in filled.cells:
        place.source = answers.get(place.id, place.source)
    nbformat.write(filled, notebook)
