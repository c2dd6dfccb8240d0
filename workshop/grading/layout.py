"""Arrange the cells of an assignment that can be computed from its other cells.

    lora-parameters-form     a title for Google Colab, and a hidden source: it would spoil the task
    points-so-far            the list of tasks in the cell that shows the student's points so far

`course notebooks fix` writes these cells into the notebooks in solutions/, and the rule "layout" of
tests/rules.py demands them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

from course_utils.machine.files import write_text
from course_utils.machine.notebooks import dump, load
from workshop.grading.assignments import Assignment, Cell, Task, bonus_points, points, read

SO_FAR, CLOSING = "points-so-far", "closing"
SO_FAR_SOURCE = """\
# @title Your points so far: run this cell after the checks
from course_utils.exercise.points import points_so_far

points_so_far(
    [
{}
    ]
)"""
# The tag of a cell whose source is hidden.
HIDDEN = "hide-input"


def fix(path: Path) -> bool:
    """Arrange the cells of a solution notebook, and return whether the file was changed."""
    assignment = read(path)
    cells = arranged(assignment)
    if cells == list(assignment.cells):
        return False
    write_text(path, dump(load(path) | {"cells": cells}))
    return True


def arranged(assignment: Assignment) -> list[Cell]:
    """Return the cells of an assignment in the right arrangement."""
    titles = {}
    for task in assignment.tasks:
        for part, cell in enumerate(task.checks, 1):
            place = f"Check {task.number}, part {part} of {len(task.checks)}"
            titles[cell.get("id")] = f"# @title {place} ({_worth(cell)})"
    cells = []
    for cell in assignment.cells:
        if cell.get("id") == CLOSING:
            cells.append(_so_far(assignment))
        if cell.get("id") in titles:
            cell = _hidden(cell, titles[cell.get("id")])
        if cell.get("id") != SO_FAR:
            cells.append(cell)
    return cells


def _worth(cell: Cell) -> str:
    """Return the points of a check in words: "2 bonus points"."""
    number, bonus = points(cell), bonus_points(cell)
    return f"{number}{' bonus' * bool(bonus)} point{'s' * (number != 1)}"


def without_title(source: str) -> str:
    """Return the source of a check without the title in its first line."""
    return source.partition("\n")[2] if source.startswith("# @title ") else source


def _hidden(cell: Cell, title: str) -> Cell:
    """Return a check with a title in its first line and with the tag that hides its source.

    In place of a hidden source, JupyterLab shows the first line, and Colab shows the title.
    """
    cell = copy.deepcopy(cell)
    cell["source"] = f"{title}\n{without_title(cell['source'])}"
    tags = cell["metadata"].setdefault("tags", [])
    if HIDDEN not in tags:
        tags.append(HIDDEN)
    return cell


def _so_far(assignment: Assignment) -> Cell:
    titles = [_quoted(f"{task.number} {task.title}") for task in assignment.tasks]
    rows = zip(titles, assignment.tasks, strict=True)
    lines = [f'        ({title}, {task.points}, "{_kind(task)}"),' for title, task in rows]
    view = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": [HIDDEN]}
    code: Cell = {"cell_type": "code", "execution_count": None, "outputs": []}
    return {
        **code,
        "id": SO_FAR,
        "metadata": view,
        "source": SO_FAR_SOURCE.format("\n".join(lines)),
    }


def _quoted(text: str) -> str:
    """Return a text as Ruff writes it in code: in double quotes, unless the text contains some."""
    return repr(text) if '"' in text else json.dumps(text, ensure_ascii=False)


def _kind(task: Task) -> str:
    return " ".join(["bonus"] * task.bonus + ["by hand"] * task.by_hand)
