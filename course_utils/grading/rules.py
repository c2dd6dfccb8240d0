"""Define the rules that every assignment must follow, each with a name and one sentence.

    faults(path)    every breach in a solution notebook, with the rule's name
    RULES           the rules for an assignment, its cells, its tasks and their tests

tests/test_exercises.py grades each assignment with nbgrader, to test that a release gets no points
and that a solution gets all points.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.checks import HIDDEN
from course_utils.grading.assignments import (
    BEGIN,
    END,
    HIDDEN_END,
    Assignment,
    Cell,
    Task,
    grade_id,
    grading,
    is_answer,
    is_graded,
    read,
    syntax_tree,
    top_level,
)
from course_utils.validation import CourseError

GRADED_TASKS, MINUTES = range(4, 8), range(20, 46)
FORBIDDEN = {"isinstance", "type", "print", "eval", "exec", "open", "globals", "locals", "warn"}


@dataclass(frozen=True)
class Rule:
    """A rule that every assignment must follow.

    Attributes:
        id: The name by which a fault refers to the rule.
        sentence: What the rule demands.
        breach: A function that checks the rule, for example for one cell. The function returns what
            breaks the rule, or "" if nothing does.
    """

    id: str
    sentence: str
    breach: Callable[..., str]


def faults(path: Path | str) -> list[str]:
    """Return every breach of the rules in a solution notebook, one line each.

    Returns:
        Lines such as "cell imports: An nbgrader cell … (what was found) [the rule's id]". The list
        is empty if the notebook follows all rules.
    """
    try:
        assignment = read(path)
    except CourseError as fault:
        return [str(fault)]
    return [
        f"{where}{rule.sentence} ({breach}) [{rule.id}]"
        for where, rules, subject in _subjects(assignment)
        for rule in rules
        if (breach := rule.breach(*subject))
    ]


def _subjects(assignment: Assignment) -> Iterator[tuple[str, tuple[Rule, ...], tuple[Any, ...]]]:
    """Yield each part of an assignment that must follow rules.

    Yields:
        The name of the part as the beginning of an error message, the rules for the part, and the
        arguments for `Rule.breach`.
    """
    yield "", ASSIGNMENT_RULES, (assignment,)
    for cell in assignment.cells:
        yield f"cell {cell.get('id')}: ", CELL_RULES, (cell, assignment)
        if grading(cell):
            yield f"cell {cell.get('id')}: ", MARKED_CELL_RULES, (cell,)
    for task in assignment.tasks:
        rules = TASK_RULES + (HAND_RULES if task.by_hand else CODE_RULES)
        yield f"task {task.id}: ", rules, (task, assignment)
        for test in () if task.by_hand else task.checks:
            yield f"cell {test['id']}: ", TEST_RULES, (test["source"], task.answer["source"])


# --- rules for an assignment ----------------------------------------------------------------------


def _wrong_folder(assignment: Assignment) -> str:
    folder = assignment.path.parent.name
    return "" if folder == assignment.name else f"it is in {folder}"


def _wrong_number_of_tasks(assignment: Assignment) -> str:
    count = len(assignment.tasks)
    return "" if count in GRADED_TASKS else f"it has {count}"


def _wrong_minutes(assignment: Assignment) -> str:
    minutes = sum(task.minutes for task in assignment.tasks)
    return "" if minutes in MINUTES else f"they take {minutes}"


def _wrong_numbers(assignment: Assignment) -> str:
    places = range(1, len(assignment.tasks) + 1)
    wanted = [f"{int(assignment.name[:2])}.{place}" for place in places]
    given = [task.number for task in assignment.tasks]
    return "" if given == wanted else f"{', '.join(given)} instead of {', '.join(wanted)}"


def _nothing_withheld(assignment: Assignment) -> str:
    return "" if assignment.withheld else "qlora_course.withheld is missing or empty"


def _unknown_modules(assignment: Assignment) -> str:
    unknown = [name for name in assignment.withheld if importlib.util.find_spec(name) is None]
    return f"there is no {', '.join(unknown)}" if unknown else ""


ASSIGNMENT_RULES = (
    Rule("folder", "The notebook must be in a folder that has the notebook's name.", _wrong_folder),
    Rule("tasks", "An assignment must have 4 to 7 tasks.", _wrong_number_of_tasks),
    Rule("minutes", "The tasks must take 20 to 45 minutes together.", _wrong_minutes),
    Rule(
        "numbers",
        "The tasks must be numbered by lecture and place, such as 3.1 and 3.2.",
        _wrong_numbers,
    ),
    Rule(
        "withheld", "The metadata must name the modules that contain solutions.", _nothing_withheld
    ),
    Rule("modules", "Each withheld module must exist.", _unknown_modules),
)


# --- rules for a cell -----------------------------------------------------------------------------


def _stray(cell: Cell, assignment: Assignment) -> str:
    graded = [c["id"] for task in assignment.tasks for c in task.graded]
    return "it belongs to none" if is_graded(cell) and cell["id"] not in graded else ""


def _forbidden_import(cell: Cell, assignment: Assignment) -> str:
    imported = set() if is_graded(cell) else _imports(cell)
    inside = tuple(f"{module}." for module in assignment.withheld)
    return ", ".join(sorted(name for name in imported if f"{name}.".startswith(inside)))


def _marks(cell: Cell) -> set[str]:
    return {mark for mark in (BEGIN, END, HIDDEN, HIDDEN_END) if mark in cell["source"]}


def _stray_mark(cell: Cell, _: Assignment) -> str:
    return "" if grading(cell) else ", ".join(sorted(_marks(cell)))


CELL_RULES = (
    Rule(
        "stray",
        "A graded cell must belong to a task: its id must begin with the task's id.",
        _stray,
    ),
    Rule("import", "Only tests may import a withheld module.", _forbidden_import),
    Rule(
        "mark",
        "Only nbgrader's cells may contain marks of solutions and of hidden tests.",
        _stray_mark,
    ),
)


def _wrong_schema(cell: Cell) -> str:
    version = grading(cell).get("schema_version")
    return "" if version == 3 else f"it is {version!r}"


def _wrong_grade_id(cell: Cell) -> str:
    return "" if grade_id(cell) == cell.get("id") else f"it is {grade_id(cell)!r}"


def _wrong_points(cell: Cell) -> str:
    points = grading(cell).get("points", 0)
    sound = not is_graded(cell) or (type(points) is int and points > 0)
    return "" if sound else f"it has {points!r}"


def _wrong_lock(cell: Cell) -> str:
    locked = grading(cell).get("locked")
    return "" if locked is (not is_answer(cell)) else f"its locked is {locked!r}"


def _no_comment(cell: Cell) -> str:
    comment = _grade_comment(cell)
    return "" if cell["source"].startswith(comment) else f"expected {comment.strip()!r}"


def _grade_comment(cell: Cell) -> str:
    """Return the first line that an nbgrader cell must have.

    The line identifies the cell even if the cell's metadata are lost.
    """
    name, points = cell.get("id"), grading(cell).get("points")
    if cell.get("cell_type") == "markdown":
        return f"<!-- grade_id: {name} -->\n"
    if not is_graded(cell):
        return f"# grade_id: {name}\n"
    return f"# grade_id: {name} ({points} point{'s' * (points != 1)})\n"


def _wrong_regions(cell: Cell) -> str:
    marks = _marks(cell)
    wanted = [{BEGIN, END}] if is_answer(cell) else [set(), {HIDDEN, HIDDEN_END}]
    return "" if marks in wanted else f"its marks: {', '.join(sorted(marks)) or 'none'}"


MARKED_CELL_RULES = (
    Rule("schema", "nbgrader's schema_version must be 3.", _wrong_schema),
    Rule("grade-id", "The grade_id must be the cell's id.", _wrong_grade_id),
    Rule("points", "A graded cell must have a whole number of points above 0.", _wrong_points),
    Rule("lock", "A test must be locked, and an answer must not be locked.", _wrong_lock),
    Rule(
        "comment",
        "The first line must be a comment with the grade_id. "
        "In a graded code cell, the comment must also state the points.",
        _no_comment,
    ),
    Rule(
        "regions",
        "An answer must have both marks of a solution. "
        "A test must have either both marks of hidden tests or no mark.",
        _wrong_regions,
    ),
)


# --- rules for a task -----------------------------------------------------------------------------


def _wrong_sum(task: Task, _: Assignment) -> str:
    points = sum(grading(cell).get("points", 0) for cell in task.graded)
    return "" if points == task.points else f"{task.points} and {points}"


def _no_rubric(task: Task, _: Assignment) -> str:
    return "" if "rubric" in task.prompt["source"].lower() else "there is no word 'rubric'"


def _few_tests(task: Task, _: Assignment) -> str:
    return "" if len(task.checks) >= 2 else f"it has {len(task.checks)}"


def _nothing_hidden(task: Task, _: Assignment) -> str:
    return "" if any(HIDDEN in cell["source"] for cell in task.checks) else "it has none"


def _no_try(task: Task, assignment: Assignment) -> str:
    name = f"{task.id}-try"
    return "" if any(cell.get("id") == name for cell in assignment.cells) else f"no cell {name}"


def _foreign_names(task: Task, assignment: Assignment) -> str:
    imports = next((c["source"] for c in assignment.cells if c.get("id") == "imports"), "")
    answer = task.answer["source"]
    return ", ".join(sorted(_used(answer) - _defined(answer) - _defined(imports)))


TASK_RULES = (
    Rule(
        "sum", "The prompt's points must be the sum of the points of the task's cells.", _wrong_sum
    ),
)
HAND_RULES = (
    Rule(
        "rubric", "The prompt of a task that is graded by hand must contain a rubric.", _no_rubric
    ),
)
CODE_RULES = (
    Rule(
        "two-tests",
        "A task must have at least two graded cells: one for the form, one for the values.",
        _few_tests,
    ),
    Rule("hidden", "A task must have hidden tests.", _nothing_hidden),
    Rule("try", "A task must have a cell in which students try their answer.", _no_try),
    Rule(
        "answer-names",
        "An answer may use only names that it defines or that the imports cell defines.",
        _foreign_names,
    ),
)


# --- rules for a test cell, given its source and the source of the answer that it tests -----------


def _nothing_visible(source: str, answer: str) -> str:
    visible = re.sub(rf"{HIDDEN}.*?{HIDDEN_END}", "", source, flags=re.S)
    wanted = top_level(answer, ast.FunctionDef, ast.ClassDef)
    return "" if wanted & _used(visible) else "it would pass in a release"


def _foreign_names_in_test(source: str, answer: str) -> str:
    known = _defined(source) | top_level(answer, ast.FunctionDef, ast.ClassDef)
    return ", ".join(sorted(_used(source) - known))


def _forbidden_names(source: str, _: str) -> str:
    return ", ".join(sorted(_used(source, builtins_too=True) & FORBIDDEN))


def _value_at_end(source: str, _: str) -> str:
    last = ast.parse(source).body[-1]
    ends = isinstance(last, ast.Expr) and not _is_verdict(last.value)
    return ast.unparse(last) if ends else ""


def _direct_calls(source: str, answer: str) -> str:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    called = {getattr(node.func, "id", "") for node in calls}
    return ", ".join(sorted(called & top_level(answer, ast.FunctionDef)))


TEST_RULES = (
    Rule("visible", "Each test must have a visible check that uses the answer.", _nothing_visible),
    Rule(
        "test-names",
        "A test may use only names that it defines or that the answer defines.",
        _foreign_names_in_test,
    ),
    Rule("forbidden", f"A test must not use {', '.join(sorted(FORBIDDEN))}.", _forbidden_names),
    Rule(
        "value",
        "A test must not end with a value, which nbgrader could interpret as partial credit.",
        _value_at_end,
    ),
    Rule("direct", "A test must call the answer only through check(…).", _direct_calls),
)
RULES = (
    *ASSIGNMENT_RULES,
    *CELL_RULES,
    *MARKED_CELL_RULES,
    *TASK_RULES,
    *HAND_RULES,
    *CODE_RULES,
    *TEST_RULES,
)


def _is_verdict(node: ast.expr) -> bool:
    """Return whether an expression is a call such as check(…).gives(…), which returns nothing."""
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return called and node.func.attr in ("gives", "like", "raises", "that")


# --- names in code --------------------------------------------------------------------------------


def _imports(cell: Cell) -> set[str]:
    """Return the names of the modules that a code cell imports.

    For `from package import name`, both "package" and "package.name" are returned, because the name
    may be a module.
    """
    if cell.get("cell_type") != "code":
        return set()
    found: set[str] = set()
    for node in ast.walk(syntax_tree(cell["source"])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _defined(source: str) -> set[str]:
    """Return all names that a cell binds, such as imports, variables, arguments and functions."""
    found: set[str] = set()
    for node in ast.walk(syntax_tree(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def _used(source: str, builtins_too: bool = False) -> set[str]:
    """Return the names that a cell reads, without Python's built-in names by default.

    Args:
        source: The cell's source.
        builtins_too: Whether to include Python's built-in names, such as print.
    """
    loads = (n for n in ast.walk(syntax_tree(source)) if isinstance(n, ast.Name))
    names = {node.id for node in loads if isinstance(node.ctx, ast.Load)}
    return names if builtins_too else names - set(vars(builtins))
