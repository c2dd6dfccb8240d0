"""Define the rules that every assignment must follow, each with a name and one sentence.

    violations(path)    every violation in a solution notebook, with the rule's name
    RULES               the rules for an assignment, its cells, its tasks and their tests

tests/test_exercises.py also grades each assignment. It tests that the release gets no points and
that the solution gets all points.
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
from course_utils.grading import layout
from course_utils.grading.assignments import (
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
from course_utils.validation import CourseError

# The allowed numbers of tasks and of minutes for an assignment, without tasks for bonus points.
TASKS, MINUTES = range(4, 8), range(20, 91)
# The number of folded hints that a task of the highest difficulty must have.
HINTS = 2
# A random number generator with a fixed seed, whose numbers would be the same for every student.
FIXED_SEED = re.compile(r"(?:Random|manual_seed|default_rng)\(\d*\)")
# The names that tests must not use.
FORBIDDEN = {"isinstance", "type", "print", "eval", "exec", "open", "globals", "locals", "warn"}


@dataclass(frozen=True)
class Rule:
    """A rule that every assignment must follow.

    Attributes:
        id: The name that error messages use for the rule.
        sentence: What the rule demands.
        violation: A function that checks the rule, for example for one cell. It returns a short
            description of what violates the rule, or "" if nothing does.
    """

    id: str
    sentence: str
    violation: Callable[..., str]


def violations(path: Path | str) -> list[str]:
    """Return every violation of the rules in a solution notebook, one line each.

    Returns:
        Lines such as "cell imports: Only tests may import a withheld module. (course_utils.lora)
        [import]": the cell or task, the rule, the violation and the rule's id. The list is empty if
        the notebook follows all rules.
    """
    try:
        assignment = read(path)
    except CourseError as error:
        return [str(error)]
    return [
        f"{where}{rule.sentence} ({violation}) [{rule.id}]"
        for where, rules, subject in _subjects(assignment)
        for rule in rules
        if (violation := rule.violation(*subject))
    ]


def _subjects(assignment: Assignment) -> Iterator[tuple[str, tuple[Rule, ...], tuple[Any, ...]]]:
    """Yield each part of an assignment that must follow rules.

    Yields:
        The name of the part, with which an error message begins; the rules for the part; and the
        arguments for `Rule.violation`.
    """
    yield "", ASSIGNMENT_RULES, (assignment,)
    for cell in assignment.cells:
        yield f"cell {cell.get('id')}: ", CELL_RULES, (cell, assignment)
        if grading(cell):
            yield f"cell {cell.get('id')}: ", NBGRADER_CELL_RULES, (cell,)
    for task in assignment.tasks:
        rules = TASK_RULES + (HAND_RULES if task.by_hand else CODE_RULES)
        yield f"task {task.id}: ", rules, (task, assignment)
        for test in () if task.by_hand else task.checks:
            yield f"cell {test.get('id')}: ", TEST_RULES, (test["source"], task.answer["source"])


# --- rules for an assignment ----------------------------------------------------------------------


def _wrong_folder(assignment: Assignment) -> str:
    folder = assignment.path.parent.name
    return "" if folder == assignment.name else f"it is in the folder {folder}"


def _wrong_number_of_tasks(assignment: Assignment) -> str:
    count = sum(not task.bonus for task in assignment.tasks)
    return "" if count in TASKS else f"it has {count} tasks"


def _wrong_minutes(assignment: Assignment) -> str:
    minutes = assignment.minutes
    return "" if minutes in MINUTES else f"they take {minutes} minutes"


def _wrong_numbers(assignment: Assignment) -> str:
    lecture, count = int(assignment.name[:2]), len(assignment.tasks)
    expected = [f"{lecture}.{number}" for number in range(1, count + 1)]
    actual = [task.number for task in assignment.tasks]
    if actual == expected:
        return ""
    return f"they are {', '.join(actual)} instead of {', '.join(expected)}"


def _wrong_layout(assignment: Assignment) -> str:
    wanted = {cell.get("id"): cell for cell in layout.arranged(assignment)}
    cells = {cell.get("id"): cell for cell in assignment.cells}
    wrong = [name or "" for name in wanted if cells.get(name) != wanted[name]]
    return f"{', '.join(wrong)}: run `course notebooks fix`" if wrong else ""


def _no_withheld_modules(assignment: Assignment) -> str:
    return "" if assignment.withheld else "qlora_course.withheld is missing or empty"


def _unknown_modules(assignment: Assignment) -> str:
    unknown = [name for name in assignment.withheld if importlib.util.find_spec(name) is None]
    return f"there is no {', '.join(unknown)}" if unknown else ""


ASSIGNMENT_RULES = (
    Rule("folder", "The notebook must be in a folder that has the notebook's name.", _wrong_folder),
    Rule(
        "tasks",
        f"An assignment must have {TASKS[0]} to {TASKS[-1]} tasks without bonus points.",
        _wrong_number_of_tasks,
    ),
    Rule(
        "minutes",
        f"The tasks without bonus points must take {MINUTES[0]} to {MINUTES[-1]} minutes together.",
        _wrong_minutes,
    ),
    Rule(
        "numbers",
        "The tasks of lecture 3 must be numbered 3.1, 3.2 and so on.",
        _wrong_numbers,
    ),
    Rule(
        "layout",
        "Checks must have titles and hidden sources, and a cell must show the points so far.",
        _wrong_layout,
    ),
    Rule(
        "withheld",
        "The metadata must name the modules that contain solutions.",
        _no_withheld_modules,
    ),
    Rule("modules", "Each withheld module must exist.", _unknown_modules),
)


# --- rules for a cell -----------------------------------------------------------------------------


def _no_task(cell: Cell, assignment: Assignment) -> str:
    graded = [c.get("id") for task in assignment.tasks for c in task.graded]
    return "it belongs to no task" if is_graded(cell) and cell.get("id") not in graded else ""


def _forbidden_import(cell: Cell, assignment: Assignment) -> str:
    imported = set() if is_graded(cell) else _imports(cell)
    withheld = tuple(f"{module}." for module in assignment.withheld)
    return ", ".join(sorted(name for name in imported if f"{name}.".startswith(withheld)))


def _markers(cell: Cell) -> set[str]:
    return {marker for marker in (BEGIN, END, HIDDEN, HIDDEN_END) if marker in cell["source"]}


def _misplaced_markers(cell: Cell, _: Assignment) -> str:
    return "" if grading(cell) else ", ".join(sorted(_markers(cell)))


CELL_RULES = (
    Rule(
        "stray",
        "A graded cell must belong to a task: its id must begin with the task's id.",
        _no_task,
    ),
    Rule("import", "Only tests may import a withheld module.", _forbidden_import),
    Rule(
        "marker",
        "Only nbgrader's cells may contain the markers of solutions and of hidden tests.",
        _misplaced_markers,
    ),
)


def _wrong_schema(cell: Cell) -> str:
    version = grading(cell).get("schema_version")
    return "" if version == 3 else f"it is {version!r}"


def _wrong_grade_id(cell: Cell) -> str:
    return "" if grade_id(cell) == cell.get("id") else f"it is {grade_id(cell)!r}"


def _wrong_points(cell: Cell) -> str:
    points, bonus = grading(cell).get("points", 0), bonus_points(cell)
    valid = not is_graded(cell) or (type(points) is int and (points > 0) != (bonus > 0))
    return "" if valid else f"it has {points!r} points and {bonus} bonus points"


def _wrong_lock(cell: Cell) -> str:
    locked = grading(cell).get("locked")
    return "" if locked is (not is_answer(cell)) else f"the value of locked is {locked!r}"


def _no_comment(cell: Cell) -> str:
    comment, source = _grade_comment(cell), layout.without_title(cell["source"])
    return "" if source.startswith(comment) else f"expected {comment.strip()!r}"


def _grade_comment(cell: Cell) -> str:
    """Return the first line that an nbgrader cell must have.

    The line identifies the cell even if the cell's metadata is lost.
    """
    name, bonus = cell.get("id"), bonus_points(cell)
    points = bonus or grading(cell).get("points")
    if cell.get("cell_type") == "markdown":
        return f"<!-- grade_id: {name} -->\n"
    if not is_graded(cell):
        return f"# grade_id: {name}\n"
    return f"# grade_id: {name} ({points}{' bonus' * bool(bonus)} point{'s' * (points != 1)})\n"


def _wrong_regions(cell: Cell) -> str:
    markers = _markers(cell)
    allowed = [{BEGIN, END}] if is_answer(cell) else [set(), {HIDDEN, HIDDEN_END}]
    return "" if markers in allowed else f"its markers: {', '.join(sorted(markers)) or 'none'}"


NBGRADER_CELL_RULES = (
    Rule("schema", "nbgrader's schema_version must be 3.", _wrong_schema),
    Rule("grade-id", "The grade_id must be the cell's id.", _wrong_grade_id),
    Rule(
        "points",
        "A graded cell must have a whole number of points, or of bonus points, above 0.",
        _wrong_points,
    ),
    Rule("lock", "A test must be locked, and an answer must not be locked.", _wrong_lock),
    Rule(
        "comment",
        "The first line after the title must be a comment with the grade_id. "
        "In a graded code cell, the comment must also state the points.",
        _no_comment,
    ),
    Rule(
        "regions",
        "An answer must have both markers of a solution. "
        "A test must have either both markers of hidden tests or no marker.",
        _wrong_regions,
    ),
)


# --- rules for a task -----------------------------------------------------------------------------


def _wrong_sum(task: Task, _: Assignment) -> str:
    ordinary = sum(grading(cell).get("points", 0) for cell in task.graded)
    bonus = sum(map(bonus_points, task.graded))
    if (ordinary, bonus) == ((0, task.points) if task.bonus else (task.points, 0)):
        return ""
    kind = " bonus" * task.bonus
    return (
        f"the text states {task.points}{kind} points, and the cells have {ordinary} points and "
        f"{bonus} bonus points"
    )


def _no_lecture(task: Task, _: Assignment) -> str:
    return "" if LECTURE.search(task.prompt["source"]) else "there is no such link"


def _no_rubric(task: Task, _: Assignment) -> str:
    return "" if "rubric" in task.prompt["source"].lower() else "the word 'rubric' is missing"


def _few_tests(task: Task, _: Assignment) -> str:
    return "" if len(task.checks) >= 2 else f"the number of its graded cells is {len(task.checks)}"


def _few_hints(task: Task, _: Assignment) -> str:
    count = task.prompt["source"].count("<details>")
    few = task.stars == "●●●" and count < HINTS
    return f"the number of its hints is {count}" if few else ""


def _no_try_cell(task: Task, assignment: Assignment) -> str:
    ids = [cell.get("id") for cell in assignment.cells]
    missing = {f"{task.id}-try", f"{task.id}-expected"}.difference(ids)
    return f"there is no cell {' and no cell '.join(sorted(missing))}" if missing else ""


def _undefined_names_in_answer(task: Task, assignment: Assignment) -> str:
    imports = next((c["source"] for c in assignment.cells if c.get("id") == "imports"), "")
    answer = task.answer["source"]
    return ", ".join(sorted(_used(answer) - _defined(answer) - _defined(imports)))


TASK_RULES = (
    Rule(
        "sum",
        "The points in the text of a task must be the sum of the points of the task's cells.",
        _wrong_sum,
    ),
    Rule(
        "lecture",
        "The text of a task must link to a code cell of a lecture: "
        "(../../lectures/03_lora.ipynb#cell).",
        _no_lecture,
    ),
)
HAND_RULES = (
    Rule("rubric", "The text of a task that is graded by hand must contain a rubric.", _no_rubric),
)
CODE_RULES = (
    Rule(
        "two-tests",
        "A task must have at least two graded cells: one tests the form of the result, one its "
        "values.",
        _few_tests,
    ),
    Rule(
        "hints",
        "The text of a task of the highest difficulty must contain two folded hints (<details>).",
        _few_hints,
    ),
    Rule(
        "try",
        "A task must have a cell in which students try their answer, and a cell with its output.",
        _no_try_cell,
    ),
    Rule(
        "answer-names",
        "An answer may use only names that it defines or that the imports cell defines.",
        _undefined_names_in_answer,
    ),
)


# --- rules for a test cell, given its source and the source of the answer that it tests -----------


def _no_visible_check(source: str, answer: str) -> str:
    visible = re.sub(rf"{HIDDEN}.*?{HIDDEN_END}", "", source, flags=re.S)
    names = top_level(answer, ast.FunctionDef, ast.ClassDef)
    return "" if names & _used(visible) else "the test would pass in a release"


def _no_hidden_tests(source: str, _: str) -> str:
    return "" if {"check", "seed"} <= _used(_hidden(source)) else "there are none"


def _fixed_seeds(source: str, _: str) -> str:
    return ", ".join(match[0] for match in FIXED_SEED.finditer(_hidden(source)))


def _hidden(source: str) -> str:
    """Return the hidden tests of a cell."""
    return "".join(re.findall(rf"{HIDDEN}(.*?){HIDDEN_END}", source, re.S))


def _undefined_names_in_test(source: str, answer: str) -> str:
    known = _defined(source) | top_level(answer, ast.FunctionDef, ast.ClassDef)
    return ", ".join(sorted(_used(source) - known))


def _forbidden_names(source: str, _: str) -> str:
    return ", ".join(sorted(_used(source, builtins_too=True) & FORBIDDEN))


def _invalid_syntax(source: str, _: str) -> str:
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    return ""


def _value_at_end(source: str, _: str) -> str:
    last = syntax_tree(source).body[-1:]
    values = [n.value for n in last if isinstance(n, ast.Expr) and not _is_check_result(n.value)]
    return "".join(map(ast.unparse, values))


def _direct_calls(source: str, answer: str) -> str:
    calls = [node for node in ast.walk(syntax_tree(source)) if isinstance(node, ast.Call)]
    called = {getattr(node.func, "id", "") for node in calls}
    return ", ".join(sorted(called & top_level(answer, ast.FunctionDef)))


TEST_RULES = (
    Rule("syntax", "A test must be valid Python.", _invalid_syntax),
    Rule("visible", "Each test must have a visible check that uses the answer.", _no_visible_check),
    Rule(
        "test-names",
        "A test may use only names that it defines or that the answer defines.",
        _undefined_names_in_test,
    ),
    Rule(
        "hidden",
        "Each test must have hidden checks with inputs that are drawn for each submission.",
        _no_hidden_tests,
    ),
    Rule(
        "fixed-seed",
        "Hidden tests must draw inputs with seed(…) of course_utils.checks, not with a fixed seed.",
        _fixed_seeds,
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
    *NBGRADER_CELL_RULES,
    *TASK_RULES,
    *HAND_RULES,
    *CODE_RULES,
    *TEST_RULES,
)


def _is_check_result(node: ast.expr) -> bool:
    """Return whether an expression is a call such as check(…).gives(…), which returns nothing."""
    match node:
        case ast.Call(func=ast.Attribute(attr="gives" | "like" | "raises" | "that")):
            return True
    return False


# --- names in code --------------------------------------------------------------------------------


def _imports(cell: Cell) -> set[str]:
    """Return the names of the modules that a code cell imports.

    For `from package import name`, both "package" and "package.name" are returned, because the name
    may be a module.
    """
    if cell.get("cell_type") != "code":
        return set()
    modules: set[str] = set()
    for node in ast.walk(syntax_tree(cell["source"])):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def _defined(source: str) -> set[str]:
    """Return all names that a cell binds, such as imports, variables, arguments and functions."""
    names: set[str] = set()
    for node in ast.walk(syntax_tree(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def _used(source: str, builtins_too: bool = False) -> set[str]:
    """Return the names that a cell reads, without Python's built-in names by default.

    Args:
        source: The cell's source.
        builtins_too: Whether to include Python's built-in names, such as print.
    """
    loads = (n for n in ast.walk(syntax_tree(source)) if isinstance(n, ast.Name))
    names = {node.id for node in loads if isinstance(node.ctx, ast.Load)}
    return names if builtins_too else names - set(vars(builtins))
