"""What an assignment consists of, and the rules it keeps to.

    solutions/03_lora/03_lora.ipynb

    ## 3.2 Parameters of a LoRA adapter        lora-parameters-prompt    what to build
    ●●○ · 5 min · 2 points
    def lora_parameters(…): …                  lora-parameters           the answer
    lora_parameters(1000, 1000, rank=8)        lora-parameters-try       try it
    check(…).like(…)                           lora-parameters-form      graded, 1 point
    check(…).gives(…)                          lora-parameters-values    1 point, partly hidden

`read` finds the tasks, `faults` names every breach of the rules. That a release scores nothing and
a solution everything is nbgrader's to say (tests/test_exercises.py).
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Iterator
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
GRADED_TASKS, MINUTES = range(4, 8), range(20, 46)
FORBIDDEN = {"isinstance", "type", "print", "eval", "exec", "open", "globals", "locals", "warn"}


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

    name: str
    title: str
    withheld: tuple[str, ...]
    tasks: tuple[Task, ...]
    cells: tuple[Cell, ...]

    @property
    def points(self) -> int:
        """All points, those given by hand among them."""
        return sum(task.points for task in self.tasks)


def sources(folder: Path | None = None, only: str | None = None) -> list[Path]:
    """The notebooks in solutions/, in order, or the one `only` names: "03", "3" or "03_lora".

    Raises CourseError for one that is not there, and names those that are.
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

    Raises CourseError if the file is no notebook or a task lacks its prompt or its answer.
    """
    path = Path(path)
    notebook = load(path)
    cells = tuple(notebook["cells"])
    heading = re.match(r"# (.+)", cells[0]["source"]) if cells else None
    return Assignment(
        name=path.stem,
        title=heading[1] if heading else path.stem,
        withheld=withheld(notebook),
        tasks=tuple(_task(cell, cells, path) for cell in cells if is_answer(cell)),
        cells=cells,
    )


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


# --- the rules ------------------------------------------------------------------------------------


def faults(path: Path | str) -> list[str]:
    """Every breach of the rules in a solution notebook, one line each; none is good."""
    path = Path(path)
    try:
        assignment = read(path)
    except CourseError as fault:
        return [str(fault)]
    found = [*_assignment_faults(path, assignment)]
    for cell in assignment.cells:
        found += [f"cell {cell.get('id')}: {fault}" for fault in _metadata_faults(cell)]
    for task in assignment.tasks:
        found += [f"task {task.id}: {fault}" for fault in _task_faults(task, assignment)]
    return found


def _assignment_faults(path: Path, assignment: Assignment) -> Iterator[str]:
    tasks = assignment.tasks
    if path.parent.name != path.stem:
        yield f"{path.name} must lie in a folder of its own name"
    if len(tasks) not in GRADED_TASKS:
        yield f"{len(tasks)} tasks; 4 to 7 are asked for"
    if (minutes := sum(task.minutes for task in tasks)) not in MINUTES:
        yield f"{minutes} minutes; 20 to 45 are asked for"
    numbers = [f"{int(assignment.name[:2])}.{place}" for place in range(1, len(tasks) + 1)]
    if [task.number for task in tasks] != numbers:
        yield f"the tasks must be numbered {', '.join(numbers)}"
    if not assignment.withheld:
        yield "the metadata must say which modules are withheld: qlora_course.withheld"
    for module in assignment.withheld:
        if importlib.util.find_spec(module) is None:
            yield f"{module} is to be withheld, but there is no such module"
    graded = {cell["id"] for task in tasks for cell in task.graded}
    for cell in assignment.cells:
        if is_graded(cell) and cell["id"] not in graded:
            yield f"cell {cell['id']} is graded, but belongs to no task"
        if not is_graded(cell) and _imports(cell) & set(assignment.withheld):
            yield f"cell {cell['id']} imports a module that is withheld"


def _metadata_faults(cell: Cell) -> Iterator[str]:
    data, name = grading(cell), cell.get("id")
    marks = [mark for mark in (BEGIN, END, HIDDEN, HIDDEN_END) if mark in cell["source"]]
    if not data:
        if marks:
            yield f"holds {marks[0]!r}, but is no cell of nbgrader's"
        return
    if data.get("schema_version") != 3:
        yield "nbgrader's schema_version must be 3"
    if data.get("grade_id") != name:
        yield f"the grade_id {data.get('grade_id')!r} must be the cell's id"
    points = data.get("points", 0)
    if data.get("grade") and not (type(points) is int and points > 0):
        yield f"a graded cell has a whole number of points above 0, not {points!r}"
    if data.get("locked") is not (not data.get("solution")):
        yield "test cells are locked, answers are not"
    if not cell["source"].startswith(_grade_comment(cell)):
        yield f"must begin with {_grade_comment(cell).strip()!r}"
    wanted = {BEGIN, END} if data.get("solution") else {HIDDEN, HIDDEN_END} & set(marks)
    if set(marks) != wanted or len({HIDDEN, HIDDEN_END} & set(marks)) == 1:
        yield "an answer holds a solution, a test cell may hold hidden tests: begun and ended"


def _grade_comment(cell: Cell) -> str:
    """The first line of an nbgrader cell, which outlives the loss of its metadata."""
    name, points = cell.get("id"), grading(cell).get("points")
    if cell.get("cell_type") == "markdown":
        return f"<!-- grade_id: {name} -->\n"
    if not is_graded(cell):
        return f"# grade_id: {name}\n"
    return f"# grade_id: {name} ({points} point{'s' * (points != 1)})\n"


def _task_faults(task: Task, assignment: Assignment) -> Iterator[str]:
    points = sum(grading(cell).get("points", 0) for cell in task.graded)
    if task.points != points:
        yield f"its prompt says {task.points} points, its cells carry {points}"
    if task.by_hand:
        if "rubric" not in task.prompt["source"].lower():
            yield "a task that is graded by hand needs a rubric in its prompt"
        return
    if len(task.checks) < 2:
        yield "needs two graded cells: the form, then the values"
    if not any(HIDDEN in cell["source"] for cell in task.checks):
        yield "has no hidden tests"
    if f"{task.id}-try" not in [cell.get("id") for cell in assignment.cells]:
        yield f"has no cell to try it: {task.id}-try"
    imports = next((c["source"] for c in assignment.cells if c.get("id") == "imports"), "")
    answer = task.answer["source"]
    if foreign := _used(answer) - _defined(answer) - _defined(imports):
        yield f"its answer uses what other cells define: {', '.join(sorted(foreign))}"
    for cell in task.checks:
        yield from (f"{cell['id']}: {fault}" for fault in _check_faults(cell["source"], answer))


def _check_faults(source: str, answer: str) -> Iterator[str]:
    """Breaches in one test cell of a task whose answer cell holds `answer`."""
    functions, classes = top_level(answer, ast.FunctionDef), top_level(answer, ast.ClassDef)
    visible = re.sub(rf"{HIDDEN}.*?{HIDDEN_END}", "", source, flags=re.S)
    if not (functions | classes) & _used(visible):
        yield "has no visible check that calls the answer, so it would pass in a release"
    if foreign := _used(source) - _defined(source) - functions - classes:
        yield f"uses what other cells define: {', '.join(sorted(foreign))}"
    if banned := _used(source, builtins_too=True) & FORBIDDEN:
        yield f"must not use {', '.join(sorted(banned))}"
    tree = ast.parse(source)
    if isinstance(tree.body[-1], ast.Expr) and not _is_verdict(tree.body[-1].value):
        yield "ends with a value, which nbgrader could take for partial credit"
    called = {getattr(n.func, "id", "") for n in ast.walk(tree) if isinstance(n, ast.Call)}
    if direct := called & functions:
        yield f"calls {', '.join(sorted(direct))} itself: let check(…) do that"


def _is_verdict(node: ast.expr) -> bool:
    """A call such as check(…).gives(…), which returns nothing."""
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return called and node.func.attr in ("gives", "like", "raises", "that")


# --- names in code --------------------------------------------------------------------------------


def _imports(cell: Cell) -> set[str]:
    """The modules that a code cell imports, with the packages they are in."""
    if cell.get("cell_type") != "code":
        return set()
    found: set[str] = set()
    for node in ast.walk(_parsed(cell["source"])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _parsed(source: str) -> ast.Module:
    """The syntax tree of a cell; of nothing where it isn't Python alone, as with a magic."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def top_level(source: str, *kinds: type[ast.AST]) -> set[str]:
    """Names of the functions (ast.FunctionDef) or classes (ast.ClassDef) that a cell defines."""
    return {node.name for node in _parsed(source).body if isinstance(node, kinds)}


def _defined(source: str) -> set[str]:
    """Names that a cell binds anywhere: imports, assignments, arguments, functions, classes."""
    found: set[str] = set()
    for node in ast.walk(_parsed(source)):
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
    """Names that a cell reads; without those that Python itself has."""
    loads = (n for n in ast.walk(_parsed(source)) if isinstance(n, ast.Name))
    names = {node.id for node in loads if isinstance(node.ctx, ast.Load)}
    return names if builtins_too else names - set(vars(builtins))
