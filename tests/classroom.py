"""Create a small course for nbgrader, with this repository's settings and one assignment.

The assignment is a short version of 03_lora. It has a function with a visible and a hidden test,
and a question that a person grades. `course` creates the course, and `answer` fills in a notebook.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nbformat

from tests.assignment import cell, document, write

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("nbgrader_config.py", "my_assignments/nbgrader_config.py")
ASSIGNMENT = "03_lora"
NOTEBOOK = f"{ASSIGNMENT}/{ASSIGNMENT}.ipynb"

RIGHT = "def lora_parameters(d_in, d_out, rank):\n    return rank * (d_in + d_out)\n"
# This answer forgets matrix B.
ONLY_A = "def lora_parameters(d_in, d_out, rank):\n    return rank * d_in\n"
# The result of the wrong answer. Only the message of the failed check contains it.
MESSAGE = "8_000"

SOLUTION = """\
def lora_parameters(d_in: int, d_out: int, rank: int) -> int:
    ### BEGIN SOLUTION
    return rank * (d_in + d_out)
    ### END SOLUTION
"""
TEST = """\
from course_utils.exercise.checks import check

check(lora_parameters, 1000, 1000, rank=8).gives(
    16_000, mistakes=[(8 * 1000, "only one of A and B was counted")]
)
### BEGIN HIDDEN TESTS
check(lora_parameters, 3, 5, rank=2).gives(16)
### END HIDDEN TESTS
"""
PROMPT = "## 3.{}\n●○○ · 5 min · {} points{}"
QUESTION = "Why does one merge an adapter into its layer? Answer here."


def assignment() -> dict[str, Any]:
    """Return the solution notebook: tests give 2 points, and a person gives 3 points."""
    return document(
        [
            cell("lora-parameters-prompt", PROMPT.format("1 Count", 2, ""), kind="markdown"),
            cell("lora-parameters", SOLUTION, answer=True),
            cell("lora-parameters-slide", TEST, points=2),
            cell(
                "why-merge-prompt",
                PROMPT.format("2 Explain", 3, ", graded by hand"),
                kind="markdown",
            ),
            cell("why-merge", QUESTION, points=3, answer=True, kind="markdown"),
        ]
    )


def course(folder: Path) -> Path:
    """Create the course in a folder: nbgrader's settings and the assignment."""
    for name in SETTINGS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write(folder, assignment(), ASSIGNMENT)
    return folder


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """Return a zip archive of members: a name or a ZipInfo, and the content."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            info = member
            if isinstance(member, str):
                info = zipfile.ZipInfo(member, (2026, 11, 1, 9, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return target.getvalue()


def answer(notebook: Path, code: str, text: str) -> None:
    """Write a student's function and text into a released notebook."""
    content = nbformat.read(notebook, as_version=4)
    answers = {"lora-parameters": code, "why-merge": text}
    for each in content.cells:
        each.source = answers.get(each.id, each.source)
    nbformat.write(content, notebook)
