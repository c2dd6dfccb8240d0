"""A small course for nbgrader, with this repository's settings and one assignment.

The assignment is a short 03_lora: a function with a visible and a hidden test, and a question that
a person grades. `course` makes a copy of it all; `answer` does a student's work.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode, v4

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


def graded(cell: NotebookNode, grade_id: str, solution: bool, points: int | None) -> NotebookNode:
    """The cell with nbgrader's metadata: an answer to write, a test (with points), or both."""
    cell.id, grade = grade_id, points is not None
    cell.metadata["nbgrader"] = {
        "grade_id": grade_id,
        "grade": grade,
        "solution": solution,
        "locked": grade and not solution,
        "task": False,
        "schema_version": 3,
    } | ({"points": points} if grade else {})
    return cell


def assignment() -> NotebookNode:
    """The instructor's version: 2 points by tests, 3 by a person."""
    cells = [
        graded(v4.new_code_cell(SOLUTION), "lora-parameters", solution=True, points=None),
        graded(v4.new_code_cell(TEST), "lora-parameters-slide", solution=False, points=2),
        graded(v4.new_markdown_cell(QUESTION), "why-merge", solution=True, points=3),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def course(folder: Path) -> Path:
    """A copy of the course in a folder: nbgrader's settings and the one assignment."""
    for name in SETTINGS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    notebook = folder / "solutions" / NOTEBOOK
    notebook.parent.mkdir(parents=True)
    nbformat.write(assignment(), notebook)
    return folder


def answer(notebook: Path, code: str, text: str) -> None:
    """Write a function and a text into a released notebook, as its student would."""
    filled = nbformat.read(notebook, as_version=4)
    answers = {"lora-parameters": code, "why-merge": text}
    for cell in filled.cells:
        cell.source = answers.get(cell.id, cell.source)
    nbformat.write(filled, notebook)
