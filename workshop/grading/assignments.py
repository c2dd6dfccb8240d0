"""Read an assignment's notebook and return its tasks.

    solutions/03_lora/03_lora.ipynb

    ## 3.2 Parameters of a LoRA adapter        lora-parameters-prompt    what to build
    ●●○ · 5 min · 2 points
    def lora_parameters(…): …                  lora-parameters           the answer
    lora_parameters(1000, 1000, rank=8)        lora-parameters-try       try it
    check(…).like(…)                           lora-parameters-form      graded, 1 point
    check(…).gives(…)                          lora-parameters-values    1 point, partly hidden

`read` finds the tasks. tests/rules.py defines the rules that an assignment must follow.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.machine.notebooks import chosen, course_folder, load
from course_utils.machine.validation import CourseError

Cell = dict[str, Any]
# The type of a node in a syntax tree that defines a function or a class.
Definition = type[ast.FunctionDef] | type[ast.ClassDef]

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HIDDEN_END = "### END HIDDEN TESTS"
HEADER = re.compile(
    r"\A## (?P<number>\d+\.\d+) (?P<title>.+)\n"
    r"(?P<stars>●●●|●●○|●○○) · (?P<minutes>\d+) min · "
    r"(?P<points>\d+) (?P<bonus>bonus )?points?(?P<by_hand>, graded by hand)?\n\n"
)
# A link in a task's text to the cell of a lecture that explains it: text, file and cell.
LECTURE = re.compile(r"\[([^\]\n]+)\]\((?:\.\./)*lectures/(\d\d_\w+\.ipynb)#([\w-]+)\)")


@dataclass(frozen=True)
class Task:
    """One task of an assignment.

    Attributes:
        id: The id of the answer cell, such as "lora-parameters".
        number: The number of the lecture and of the task in the assignment, such as "3.2".
        stars: The difficulty, such as "●●○".
        bonus: Whether these are bonus points, which the assignment's points don't include.
    """

    id: str
    number: str
    title: str
    stars: str
    minutes: int
    points: int
    bonus: bool
    by_hand: bool
    prompt: Cell
    answer: Cell
    checks: tuple[Cell, ...]

    @property
    def graded(self) -> tuple[Cell, ...]:
        """Return the cells for which a student gets points."""
        return (self.answer,) if self.by_hand else self.checks


@dataclass(frozen=True)
class Assignment:
    """One assignment.

    Attributes:
        withheld: The modules of the course that contain solutions of the assignment.
    """

    path: Path
    title: str
    withheld: tuple[str, ...]
    tasks: tuple[Task, ...]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Return the assignment's name, which is the file's name without .ipynb: "03_lora"."""
        return self.path.stem

    @property
    def points(self) -> int:
        """Return the sum of all points, including points given by hand, without bonus points."""
        return sum(task.points for task in self.tasks if not task.bonus)

    @property
    def bonus_points(self) -> int:
        """Return the sum of all bonus points."""
        return sum(task.points for task in self.tasks if task.bonus)

    @property
    def minutes(self) -> int:
        """Return the minutes that all tasks without bonus points should need."""
        return sum(task.minutes for task in self.tasks if not task.bonus)


def sources(folder: Path | None = None, only: str | None = None) -> list[Path]:
    """Return the paths of the notebooks in solutions/, sorted by number.

    Args:
        only: The assignment's number or name, such as "3", "03" or "03_lora"; default: all
            assignments.
    """
    folder = folder or course_folder()
    paths = sorted((folder / "solutions").glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))
    if not paths:
        raise CourseError(f"there are no assignments in {folder / 'solutions'}")
    return paths if only is None else chosen(paths, only, "assignment", folder / "solutions")


def read(path: Path | str) -> Assignment:
    """Return the assignment in a notebook, which may be a solution or a release.

    Raises:
        CourseError: The file is not a notebook, or the text of a task is missing or has no valid
            header.
    """
    path = Path(path)
    notebook = load(path)
    cells = tuple(notebook["cells"])
    heading = re.match(r"# (.+)", cells[0]["source"]) if cells else None
    return Assignment(
        path=path,
        title=heading[1] if heading else path.stem,
        withheld=withheld(notebook),
        tasks=tuple(_task(cell, cells, path) for cell in cells if is_answer(cell)),
        cells=cells,
    )


def tests_of(notebook: dict[str, Any]) -> dict[str, str]:
    """Return the sources of the cells that test answers, by grade id."""
    return {
        cell_id: cell["source"]
        for cell in notebook["cells"]
        if is_test(cell) and (cell_id := grade_id(cell))
    }


def withheld(notebook: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the course's modules that contain solutions of a notebook's tasks."""
    return tuple(notebook["metadata"].get("qlora_course", {}).get("withheld", []))


def grading(cell: Cell) -> dict[str, Any]:
    """Return nbgrader's metadata of a cell; the dictionary is empty if the cell has none."""
    return cell.get("metadata", {}).get("nbgrader", {})


def grade_id(cell: Cell) -> str | None:
    """Return the id by which nbgrader identifies a cell, or None if the cell has no such id."""
    return grading(cell).get("grade_id")


def bonus_points(cell: Cell) -> int:
    """Return the bonus points of a graded cell; 0 if it has ordinary points.

    nbgrader knows no bonus points. For nbgrader, such a cell has 0 points, and what a student earns
    is saved as extra credit.
    """
    return int(cell.get("metadata", {}).get("qlora_course", {}).get("bonus", 0))


def points(cell: Cell) -> float:
    """Return the points or the bonus points of a graded cell."""
    return bonus_points(cell) or grading(cell)["points"]


def is_answer(cell: Cell) -> bool:
    """Return whether a cell is one that the student fills in."""
    return grading(cell).get("solution", False)


def is_graded(cell: Cell) -> bool:
    """Return whether a student gets points for a cell."""
    return grading(cell).get("grade", False)


def is_test(cell: Cell) -> bool:
    """Return whether a cell tests an answer."""
    return is_graded(cell) and not is_answer(cell)


def _task(answer: Cell, cells: tuple[Cell, ...], path: Path) -> Task:
    name = answer.get("id", "")
    prompt = next((cell for cell in cells if cell.get("id") == f"{name}-prompt"), None)
    header = HEADER.match(prompt["source"] + "\n\n") if prompt else None
    if prompt is None or header is None:
        raise CourseError(
            f"{path}: task {name} needs a cell {name}-prompt that begins with a heading such as "
            "'## 3.2 Title' and a line such as '●●○ · 5 min · 2 points'"
        )
    return Task(
        id=name,
        number=header["number"],
        title=header["title"],
        stars=header["stars"],
        minutes=int(header["minutes"]),
        points=int(header["points"]),
        bonus=bool(header["bonus"]),
        by_hand=bool(header["by_hand"]),
        prompt=prompt,
        answer=answer,
        checks=tuple(c for c in cells if not is_answer(c) and _task_id(c, cells) == name),
    )


def _task_id(check: Cell, cells: tuple[Cell, ...]) -> str | None:
    """Return the id of the task that a graded cell belongs to, or None if it belongs to no task.

    The cell's id must begin with the task's id. If that is true for several tasks, the cell belongs
    to the task with the longest id.
    """
    ids = [cell.get("id", "") for cell in cells if is_answer(cell)]
    prefixes = [name for name in ids if check.get("id", "").startswith(f"{name}-")]
    return max(prefixes, key=len) if prefixes and is_graded(check) else None


def syntax_tree(source: str) -> ast.Module:
    """Return the syntax tree of a cell.

    The tree is empty if the cell is not valid Python, for example because it contains an IPython
    magic.
    """
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def top_level(source: str, *kinds: Definition) -> set[str]:
    """Return the names of the functions or classes that a cell defines at its top level."""
    return {node.name for node in syntax_tree(source).body if isinstance(node, kinds)}


@functools.cache
def imports_of(source: str) -> str:
    """Return the import statements of a cell, one per line, without the cell's other lines."""
    imports = [n for n in syntax_tree(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, imports))
