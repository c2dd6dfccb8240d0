"""What an assignment consists of.

    solutions/03_lora/03_lora.ipynb

    ## 3.2 Parameters of a LoRA adapter        lora-parameters-prompt    what to build
    ●●○ · 5 min · 2 points
    def lora_parameters(…): …                  lora-parameters           the answer
    lora_parameters(1000, 1000, rank=8)        lora-parameters-try       try it
    check(…).like(…)                           lora-parameters-form      graded, 1 point
    check(…).gives(…)                          lora-parameters-values    1 point, partly hidden

`read` finds the tasks; `course_utils.grading.rules` has the rules that an assignment keeps to.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.notebooks import course_folder, load
from course_utils.validation import CourseError

Cell = dict[str, Any]

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HIDDEN, HIDDEN_END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
HEADER = re.compile(
    r"\A## (?P<number>\d+\.\d+) (?P<title>.+)\n"
    r"(?P<stars>●●●|●●○|●○○) · (?P<minutes>\d+) min · "
    r"(?P<points>\d+) points?(?P<by_hand>, graded by hand)?\n\n"
)


@dataclass(frozen=True)
class Task:
    """One task: the cell to fill in, the cells that grade it, and what its prompt says."""

    id: str
    number: str
    title: str
    stars: str
    minutes: int
    points: int
    by_hand: bool
    prompt: Cell
    answer: Cell
    checks: tuple[Cell, ...]

    @property
    def graded(self) -> tuple[Cell, ...]:
        """The cells that carry points."""
        return (self.answer,) if self.by_hand else self.checks


@dataclass(frozen=True)
class Assignment:
    """One assignment. withheld: modules of the course that hold its answers."""

    path: Path
    title: str
    withheld: tuple[str, ...]
    tasks: tuple[Task, ...]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The assignment's name, which is its file's: "03_lora"."""
        return self.path.stem

    @property
    def points(self) -> int:
        """All points, those given by hand among them."""
        return sum(task.points for task in self.tasks)


def sources(folder: Path | None = None, only: str | None = None) -> list[Path]:
    """The notebooks in solutions/, in order, or the one `only` names: "03", "3" or "03_lora".

    Raises:
        CourseError: there is no such notebook; the message names those that are there.
    """
    folder = folder or course_folder()
    found = sorted((folder / "solutions").glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))
    chosen = [p for p in found if only in (None, p.stem, p.stem[:2], p.stem[:2].lstrip("0"))]
    if not chosen:
        have = ", ".join(path.stem for path in found) or "none at all"
        raise CourseError(f"there is no assignment {only}; choose one of: {have}")
    return chosen


def read(path: Path | str) -> Assignment:
    """An assignment, from its solution or its release.

    Raises:
        CourseError: the file is no notebook, or a task lacks its prompt or its answer.
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
    """The sources of the cells that test answers, by grade id."""
    return {
        cell_id: cell["source"]
        for cell in notebook["cells"]
        if is_graded(cell) and not is_answer(cell) and (cell_id := grade_id(cell))
    }


def withheld(notebook: dict[str, Any]) -> tuple[str, ...]:
    """The modules of the course that hold the answers to a notebook's tasks."""
    return tuple(notebook["metadata"].get("qlora_course", {}).get("withheld", []))


def grading(cell: Cell) -> dict[str, Any]:
    """nbgrader's metadata of a cell; empty for a cell that it has nothing to do with."""
    return cell.get("metadata", {}).get("nbgrader", {})


def grade_id(cell: Cell) -> str | None:
    """The name by which nbgrader knows a cell; None for a cell that it has nothing to do with."""
    return grading(cell).get("grade_id")


def is_answer(cell: Cell) -> bool:
    """Whether the student writes here."""
    return grading(cell).get("solution", False)


def is_graded(cell: Cell) -> bool:
    """Whether this cell carries points."""
    return grading(cell).get("grade", False)


def _task(answer: Cell, cells: tuple[Cell, ...], path: Path) -> Task:
    name = answer.get("id", "")
    prompt = next((cell for cell in cells if cell.get("id") == f"{name}-prompt"), None)
    header = HEADER.match(prompt["source"] + "\n\n") if prompt else None
    if prompt is None or header is None:
        raise CourseError(
            f"{path}: task {name} needs a cell {name}-prompt that begins with "
            "'## 3.2 Title' and '●●○ · 5 min · 2 points'"
        )
    return Task(
        id=name,
        number=header["number"],
        title=header["title"],
        stars=header["stars"],
        minutes=int(header["minutes"]),
        points=int(header["points"]),
        by_hand=bool(header["by_hand"]),
        prompt=prompt,
        answer=answer,
        checks=tuple(c for c in cells if not is_answer(c) and _task_id(c, cells) == name),
    )


def _task_id(check: Cell, cells: tuple[Cell, ...]) -> str | None:
    """The task that a graded cell belongs to: the longest id that its own begins with."""
    ids = [cell["id"] for cell in cells if is_answer(cell)]
    fitting = [name for name in ids if check.get("id", "").startswith(f"{name}-")]
    return max(fitting, key=len) if fitting and is_graded(check) else None


def syntax_tree(source: str) -> ast.Module:
    """The syntax tree of a cell; an empty one if the cell isn't Python only, as with a magic."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def top_level(source: str, *kinds: type[ast.AST]) -> set[str]:
    """Names of the functions (ast.FunctionDef) or classes (ast.ClassDef) that a cell defines."""
    return {node.name for node in syntax_tree(source).body if isinstance(node, kinds)}
