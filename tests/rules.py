"""The rules that every assignment must follow; tests/test_exercises.py applies them.

`violations` returns every violation in a solution notebook. Each group of rules yields pairs: what
the rule demands in one sentence, and what violates it ("" if nothing does).
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from course_utils.exercise.checks import HIDDEN
from course_utils.machine.validation import CourseError
from workshop.grading import layout
from workshop.grading.assignments import (
    BEGIN,
    END,
    HIDDEN_END,
    LECTURE,
    Assignment,
    Cell,
    Task,
    bonus_points,
    grade_id,
    grading,
    is_answer,
    is_graded,
    read,
    syntax_tree,
    top_level,
)

# The allowed numbers of tasks and of minutes for an assignment, without tasks for bonus points.
TASKS, MINUTES = range(4, 8), range(20, 91)
# The number of folded hints that a task of the highest difficulty must have.
HINTS = 2
# A random number generator with a fixed seed, whose numbers would be the same for every student.
FIXED_SEED = re.compile(r"(?:Random|manual_seed|default_rng)\(\d*\)")
# The names that tests must not use.
FORBIDDEN = {"isinstance", "type", "print", "eval", "exec", "open", "globals", "locals", "warn"}

Rules = Iterator[tuple[str, str]]


def violations(path: Path | str) -> list[str]:
    """Return lines such as "cell imports: Only tests may import … (course_utils.lora)"."""
    try:
        assignment = read(path)
    except CourseError as error:
        return [str(error)]
    return [
        f"{where}{sentence} ({violation})"
        for where, rules in _groups(assignment)
        for sentence, violation in rules
        if violation
    ]


def _groups(assignment: Assignment) -> Iterator[tuple[str, Rules]]:
    """Yield the name of each part of an assignment, and the rules for this part."""
    yield "", _of_assignment(assignment)
    for cell in assignment.cells:
        yield f"cell {cell.get('id')}: ", _of_cell(cell, assignment)
        if grading(cell):
            yield f"cell {cell.get('id')}: ", _of_nbgrader_cell(cell)
    for task in assignment.tasks:
        yield f"task {task.id}: ", _of_task(task, assignment)
        for test in () if task.by_hand else task.checks:
            yield f"cell {test.get('id')}: ", _of_test(test["source"], task.answer["source"])


def _of_assignment(assignment: Assignment) -> Rules:
    name, tasks = assignment.name, assignment.tasks
    count = sum(not task.bonus for task in tasks)
    yield (
        f"An assignment must have {TASKS[0]} to {TASKS[-1]} tasks without bonus points.",
        f"it has {count} tasks" if count not in TASKS else "",
    )
    allowed = f"{MINUTES[0]} to {MINUTES[-1]} minutes"
    yield (
        f"The tasks without bonus points must take {allowed} together.",
        f"they take {assignment.minutes} minutes" if assignment.minutes not in MINUTES else "",
    )
    numbers = [task.number for task in tasks]
    expected = [f"{int(name[:2])}.{number}" for number in range(1, len(tasks) + 1)]
    yield (
        "The tasks of lecture 3 must be numbered 3.1, 3.2 and so on.",
        f"they are {_joined(numbers)} instead of {_joined(expected)}"
        if numbers != expected
        else "",
    )
    cells = {cell.get("id"): cell for cell in assignment.cells}
    arranged = {cell.get("id") or "": cell for cell in layout.arranged(assignment)}
    wrong = [cell_id for cell_id, cell in arranged.items() if cells.get(cell_id) != cell]
    yield (
        "Checks must have titles and hidden sources, and a cell shows the points.",
        f"{_joined(wrong)}: run `course notebooks fix`" if wrong else "",
    )
    yield (
        "The metadata must name the modules that contain solutions.",
        "" if assignment.withheld else "qlora_course.withheld is missing or empty",
    )
    unknown = [module for module in assignment.withheld if importlib.util.find_spec(module) is None]
    yield (
        "Each withheld module must exist.",
        f"there is no {_joined(unknown)}" if unknown else "",
    )


def _of_cell(cell: Cell, assignment: Assignment) -> Rules:
    graded = [c.get("id") for task in assignment.tasks for c in task.graded]
    yield (
        "A graded cell must belong to a task: its id must begin with the task's id.",
        "it belongs to no task" if is_graded(cell) and cell.get("id") not in graded else "",
    )
    withheld = tuple(f"{module}." for module in assignment.withheld)
    imported = set() if is_graded(cell) else _imports(cell)
    yield (
        "Only tests may import a withheld module.",
        _joined(sorted(name for name in imported if f"{name}.".startswith(withheld))),
    )
    yield (
        "Only nbgrader's cells may contain markers of solutions and hidden tests.",
        "" if grading(cell) else _joined(sorted(_markers(cell))),
    )


def _of_nbgrader_cell(cell: Cell) -> Rules:
    data, points, bonus = grading(cell), grading(cell).get("points", 0), bonus_points(cell)
    yield (
        "The grade_id must be the cell's id.",
        f"it is {grade_id(cell)!r}" if grade_id(cell) != cell.get("id") else "",
    )
    is_valid = not is_graded(cell) or (type(points) is int and (points > 0) != (bonus > 0))
    yield (
        "A graded cell must have a whole number of points, or of bonus points.",
        "" if is_valid else f"it has {points!r} points and {bonus} bonus points",
    )
    is_locked = data.get("locked")
    yield (
        "A test must be locked, and an answer must not be locked.",
        f"the value of locked is {is_locked!r}" if is_locked is not (not is_answer(cell)) else "",
    )
    comment = _grade_comment(cell)
    yield (
        "The first line after the title must state the grade_id and any points.",
        ""
        if layout.without_title(cell["source"]).startswith(comment)
        else f"expected {comment.strip()!r}",
    )
    markers = _markers(cell)
    allowed = [{BEGIN, END}] if is_answer(cell) else [set(), {HIDDEN, HIDDEN_END}]
    yield (
        "An answer must have the markers of a solution; a test has both or none.",
        f"its markers: {_joined(sorted(markers)) or 'none'}" if markers not in allowed else "",
    )


def _of_task(task: Task, assignment: Assignment) -> Rules:
    text, kind = task.prompt["source"], " bonus" * task.bonus
    ordinary = sum(grading(cell).get("points", 0) for cell in task.graded)
    bonus = sum(map(bonus_points, task.graded))
    stated = (0, task.points) if task.bonus else (task.points, 0)
    yield (
        "The points in a task's text must be the sum of the points of its cells.",
        f"the text states {task.points}{kind} points, and the cells have {ordinary} points and "
        f"{bonus} bonus points"
        if (ordinary, bonus) != stated
        else "",
    )
    yield (
        "A task must link to a code cell: (../../lectures/03_lora.ipynb#cell).",
        "" if LECTURE.search(text) else "there is no such link",
    )
    if task.by_hand:
        yield (
            "The text of a task that is graded by hand must contain a rubric.",
            "" if "rubric" in text.lower() else "the word 'rubric' is missing",
        )
        return
    count = len(task.checks)
    yield (
        "One graded cell tests the form of the result, another its values.",
        f"the number of its graded cells is {count}" if count < 2 else "",
    )
    hints = text.count("<details>")
    yield (
        "A task of the highest difficulty must have two folded hints (<details>).",
        f"the number of its hints is {hints}" if task.stars == "●●●" and hints < HINTS else "",
    )
    ids = [cell.get("id") for cell in assignment.cells]
    missing = {f"{task.id}-try", f"{task.id}-expected"}.difference(ids)
    yield (
        "A task must have a cell that tries the answer, and a cell with its output.",
        f"there is no cell {' and no cell '.join(sorted(missing))}" if missing else "",
    )
    imports = next((c["source"] for c in assignment.cells if c.get("id") == "imports"), "")
    answer = task.answer["source"]
    yield (
        "An answer may use only names of its own and of the imports cell.",
        _joined(sorted(_used(answer) - _defined(answer) - _defined(imports))),
    )


def _of_test(source: str, answer: str) -> Rules:
    """Yield the rules for the source of a test cell and the answer that it tests."""
    names = top_level(answer, ast.FunctionDef, ast.ClassDef)
    visible = re.sub(rf"{HIDDEN}.*?{HIDDEN_END}", "", source, flags=re.S)
    yield (
        "Each test must have a visible check that uses the answer.",
        "" if names & _used(visible) else "the test would pass in a release",
    )
    yield (
        "A test may use only names that it defines or that the answer defines.",
        _joined(sorted(_used(source) - _defined(source) - names)),
    )
    hidden = "".join(re.findall(rf"{HIDDEN}(.*?){HIDDEN_END}", source, re.S))
    yield (
        "Hidden tests must draw inputs with seed(…), not with a fixed seed.",
        _joined(match[0] for match in FIXED_SEED.finditer(hidden)),
    )
    yield (
        f"A test must not use {_joined(sorted(FORBIDDEN))}.",
        _joined(sorted(_used(source, builtins_too=True) & FORBIDDEN)),
    )
    last = syntax_tree(source).body[-1:]
    values = [n.value for n in last if isinstance(n, ast.Expr) and not _is_check_result(n.value)]
    yield (
        "A test must not end with a value, which nbgrader takes as partial credit.",
        _joined(map(ast.unparse, values)),
    )
    calls = [node for node in ast.walk(syntax_tree(source)) if isinstance(node, ast.Call)]
    called = {getattr(node.func, "id", "") for node in calls}
    yield (
        "A test must call the answer only through check(…).",
        _joined(sorted(called & top_level(answer, ast.FunctionDef))),
    )


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)


def _markers(cell: Cell) -> set[str]:
    return {marker for marker in (BEGIN, END, HIDDEN, HIDDEN_END) if marker in cell["source"]}


def _grade_comment(cell: Cell) -> str:
    """Return the line that identifies an nbgrader cell even if the cell's metadata is lost."""
    name, bonus = cell.get("id"), bonus_points(cell)
    points = bonus or grading(cell).get("points")
    if cell.get("cell_type") == "markdown":
        return f"<!-- grade_id: {name} -->\n"
    if not is_graded(cell):
        return f"# grade_id: {name}\n"
    return f"# grade_id: {name} ({points}{' bonus' * bool(bonus)} point{'s' * (points != 1)})\n"


def _is_check_result(node: ast.expr) -> bool:
    """Return whether an expression is a call such as check(…).gives(…), which returns nothing."""
    methods = {"gives", "like", "raises", "that"}
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") in methods


def _imports(cell: Cell) -> set[str]:
    """Return the modules that a code cell imports; for `from a import b`, both a and a.b."""
    modules: set[str] = set()
    for node in ast.walk(syntax_tree(cell["source"] if cell.get("cell_type") == "code" else "")):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def _defined(source: str) -> set[str]:
    """Return all names that a cell binds, such as imports, variables, arguments and functions."""
    names: set[str] = set()
    for node in ast.walk(syntax_tree(source)):
        match node:
            case ast.Import() | ast.ImportFrom():
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.ExceptHandler(name=str(name)):
                names.add(name)
    return names


def _used(source: str, builtins_too: bool = False) -> set[str]:
    """Return the names that a cell reads, without Python's built-in names by default."""
    loads = (n for n in ast.walk(syntax_tree(source)) if isinstance(n, ast.Name))
    names = {node.id for node in loads if isinstance(node.ctx, ast.Load)}
    return names if builtins_too else names - set(vars(builtins))
