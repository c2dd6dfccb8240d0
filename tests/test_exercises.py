"""Test each assignment: its rules, its release, and the points of right and wrong answers."""

import ast
import contextlib
import functools
import linecache
import re
import sys
import textwrap

import pytest

from course_utils.exercise import checks, values
from course_utils.machine import notebooks
from course_utils.machine.execution import execute
from course_utils.machine.threads import one_thread
from tests import expected, mutation, rules, tables
from workshop.grading import assignments, release
from workshop.publishing import notebook_check

ROOT = mutation.ROOT
PATHS = assignments.sources(ROOT)
NAMES = [path.stem for path in PATHS]
# All tests of an assignment run in the same process, which grades the assignment only once.
every = pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group(path.stem)) for path in PATHS],
)


@functools.cache
def read(path):
    return assignments.read(path)


@functools.cache
def released(path):
    return assignments.read(ROOT / "exercises" / path.stem / path.name)


# --- rules and releases ---------------------------------------------------------------------------


def test_there_is_an_assignment_for_each_lecture_from_01():
    lectures = [path.stem[:2] for path in notebooks.lectures(ROOT)]
    assert [name[:2] for name in NAMES] == lectures[1:]


@every
def test_the_solution_violates_no_rule(path):
    assert notebook_check.check(path) == []
    assert rules.violations(path) == []


def test_ids_of_tasks_are_unique():
    tasks = [task.id for path in PATHS for task in read(path).tasks]
    assert len(set(tasks)) == len(tasks)


def test_exercises_are_generated_from_solutions():
    assert release.differences(ROOT) == []


@every
def test_a_release_is_the_solution_without_answers_and_hidden_tests(path):
    for cell, release_cell in zip(read(path).cells, released(path).cells, strict=True):
        expected = without_regions(cell).rstrip("\n")
        assert release_cell["source"].rstrip("\n") == expected, cell["id"]


def without_regions(cell):
    """Return the source of a cell with a stub for its solution and without hidden tests."""
    code = cell["cell_type"] == "code"
    stub = "# YOUR CODE HERE\nraise NotImplementedError()" if code else "YOUR ANSWER HERE"
    solution = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", re.S | re.M)
    hidden = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS\n?", re.S | re.M)
    source = solution.sub(lambda match: textwrap.indent(stub, match[1]), cell["source"])
    return hidden.sub("", source)


@every
def test_the_first_and_the_last_cell_link_to_a_lecture(path):
    cells = read(path).cells
    assert all("(../../lectures/" in cell["source"] for cell in (cells[0], cells[-1]))


# --- points ---------------------------------------------------------------------------------------


@functools.cache
def points(path):
    """Return the points of the solution, of the release, and of mixed right and wrong answers."""
    assignment = read(path)
    untouched = {task.id: None for task in assignment.tasks}
    mixed = mutation.answers_of(mutation.crossed(assignment))
    return mutation.grade(path.stem, {"solution": {}, "release": untouched} | mixed, workers=2)


@pytest.mark.full
@every
def test_the_solution_gets_all_points(path):
    scored = mutation.by_task(read(path), points(path)["solution"])
    assert scored == {task.id: task.points for task in mutation.code_tasks(read(path))}


@pytest.mark.full
@every
def test_the_release_gets_no_points(path):
    assert not any(points(path)["release"].values())


@pytest.mark.full
@every
def test_each_graded_cell_of_the_release_fails(path):
    """A student who presses Validate before answering sees only failed checks."""
    from nbgrader.validator import Validator

    with mutation.offline():
        result = Validator(invert=True).validate(str(ROOT / "exercises" / path.stem / path.name))
    # For nbgrader, a cell for bonus points passes with 0 of 0 points.
    bonus = {cell["source"] for t in released(path).tasks if t.bonus for cell in t.graded}
    passed = {cell["source"] for cell in result.get("passed", [])}
    assert passed - bonus == set()


@pytest.mark.full
@every
def test_expected_outputs_are_what_the_solution_prints(path):
    cells = {cell["id"]: cell["source"] for cell in read(path).cells}
    texts = expected.expected(path)
    assert texts == {name: cells.get(name) for name in texts}


@pytest.mark.full
@every
@pytest.mark.parametrize("fallback", tables.FALLBACKS)
def test_a_table_of_the_visible_answers_gets_no_points(path, fallback):
    assignment = read(path)
    table = tables.answers(assignment, tables.known_calls(assignment), fallback)
    points = mutation.grade(path.stem, {"table": table})["table"]
    assert {cell: value for cell, value in points.items() if value} == {}


@pytest.mark.full
@every
def test_a_table_of_another_submission_gets_no_points(path):
    """Not even all inputs and answers of a submission help another one."""
    assignment = read(path)
    table = tables.answers(assignment, tables.known_calls(assignment, seed=1), "raise")
    points = mutation.grade(path.stem, {"table": table})["table"]
    assert {cell: value for cell, value in points.items() if value} == {}


@pytest.mark.full
@every
def test_each_hidden_check_has_a_hint_or_can_be_tried_again(path, monkeypatch):
    """A student who fails a hidden check learns the likely mistake, or the call with its inputs."""
    unexplained = set()

    def explained(method):
        def checked(check, *args, **kwargs):
            frame = sys._getframe(1)
            cell, line = frame.f_code.co_filename, frame.f_lineno
            has_hint = kwargs.get("likely") or check._code
            if not has_hint and checks._is_hidden_line(cell, line):
                unexplained.add((cell, linecache.getline(cell, line).strip()))
            return method(check, *args, **kwargs)

        return checked

    for name in ("gives", "like", "raises", "that"):
        monkeypatch.setattr(checks.Check, name, explained(getattr(checks.Check, name)))
    namespace = tables.solved(read(path))
    for task in mutation.code_tasks(read(path)):
        for cell in task.checks:
            # `checks` recognizes the code of a cell by the name of its file.
            file, lines = f"ipykernel/{cell['id']}", cell["source"].splitlines(keepends=True)
            monkeypatch.setitem(linecache.cache, file, (len(cell["source"]), None, lines, file))
            exec(compile(cell["source"], file, "exec"), dict(namespace))
    assert unexplained == set()


@pytest.mark.full
@every
def test_a_wrong_answer_loses_points_only_at_its_own_task(path):
    assignment = read(path)
    for name, replaced in mutation.crossed(assignment).items():
        assert mutation.problems(assignment, points(path)[name], replaced) == []


@every
def test_each_task_has_right_and_wrong_answers(path):
    tasks = [task.id for task in mutation.code_tasks(read(path))]
    files = (mutation.MUTANTS / path.stem).iterdir()
    assert sorted(file.stem for file in files if file.suffix) == sorted(tasks)
    for task in tasks:
        found = mutation.mutants(path.stem, task)
        kinds = [mutant.kind for mutant in found]
        assert kinds.count("right") >= 2 and kinds.count("wrong") >= 4, task
        for attribute in ("name", "description", "source"):
            values = [getattr(mutant, attribute) for mutant in found]
            assert len(set(values)) == len(values), f"{task}: two answers have the same {attribute}"


@pytest.mark.slow
@every
def test_both_graders_give_all_points_to_right_answers_and_not_to_wrong_ones(path):
    assert mutation.trial(path, workers=2).problems == []


@pytest.mark.slow
@every
def test_a_solution_runs_in_less_than_a_gigabyte(path, tmp_path):
    with mutation.offline():
        run = execute(path, tmp_path, progress=False)
    assert run.error is None and run.peak_memory < 1e9


# --- answers in another process -------------------------------------------------------------------


class Remote:
    """A function or an object of a student whose calls send and return encoded values only.

    Grading calls answers in another process. This class does the same within one process.
    """

    def __init__(self, target, withheld):
        self._target, self._withheld = target, withheld
        self.__name__ = getattr(target, "__name__", "object")

    def __call__(self, *args, **kwargs):
        assert callable(self._target), "only a method can be used from another process"
        args, kwargs = values.decode(values.encode((args, kwargs)))
        with without(self._withheld):
            result = self._target(*args, **kwargs)
        if isinstance(self._target, type):
            return Remote(result, self._withheld)
        return values.decode(values.encode(result))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(getattr(self._target, name), self._withheld)


@contextlib.contextmanager
def without(modules):
    """Make importing these modules fail, as in a student's process while grading."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(dict.fromkeys(modules))
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


@pytest.mark.parametrize(
    "path",
    # The solution of exercise 07 trains models, which needs several seconds.
    [pytest.param(p, marks=[pytest.mark.full] * (p.stem == "07_qlora")) for p in PATHS],
    ids=NAMES,
)
def test_the_solution_passes_its_checks_from_another_process(path, monkeypatch):
    """The answers run without the withheld modules, and checks call them through `Remote`."""
    monkeypatch.chdir(path.parent)
    # Operations on tiny tensors are slower with more threads.
    with one_thread():
        run_as_two_processes(read(path))


def run_as_two_processes(assignment):
    """Run the student's cells in one namespace, and the graded cells in another one."""
    student, tester = {"__name__": "student"}, {"__name__": "test"}
    for cell in assignment.cells:
        if cell["cell_type"] != "code":
            continue
        if not assignments.is_graded(cell):
            with without(assignment.withheld):
                exec(compile(cell["source"], cell["id"], "exec"), student)
        else:
            task = next(task for task in assignment.tasks if cell in task.checks)
            for name in assignments.top_level(task.answer["source"], ast.FunctionDef, ast.ClassDef):
                tester[name] = Remote(student[name], assignment.withheld)
            exec(compile(cell["source"], cell["id"], "exec"), tester)
