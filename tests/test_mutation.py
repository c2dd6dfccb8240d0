"""Test that tests/mutation.py finds wrong checks, with a small assignment and broken copies."""

import shutil

import pytest

from tests import assignment, mutation
from workshop.grading import release
from workshop.grading.assignments import read

TASK = "sum-all"
HEAD = "def add(numbers):\n    if not numbers:\n        raise ValueError\n"
ANSWERS = f"""\
# %% right loop: adds one by one
{HEAD}    total = 0
    for number in numbers:
        total += number
    return total

# %% right recursion: adds the first to the rest
{HEAD}    return numbers[0] + (add(numbers[1:]) if numbers[1:] else 0)

# %% wrong no-first: leaves the first number out
{HEAD}    return sum(numbers[1:])

# %% wrong visible-only: knows the visible input and nothing else
{HEAD}    return 12
"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Replace this course by the small assignment, with answers to its first task."""
    shutil.copy(mutation.ROOT / release.SETTINGS, tmp_path)
    assignment.write(tmp_path)
    answers = tmp_path / "mutants" / assignment.NAME / f"{TASK}.py"
    answers.parent.mkdir(parents=True)
    answers.write_text(ANSWERS)
    for name in ("sum-squares", "sum-largest"):
        answers.with_stem(name).write_text("")
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    monkeypatch.setattr(mutation, "MUTANTS", tmp_path / "mutants")
    return tmp_path


def solution(course):
    return read(course / "solutions" / assignment.NAME / f"{assignment.NAME}.ipynb")


def full_points(assignment):
    """Return the points of all checks of an assignment, by cell."""
    checks = [cell for task in assignment.tasks for cell in task.checks]
    return {cell["id"]: cell["metadata"]["nbgrader"]["points"] for cell in checks}


CHANGES = """\
# %% wrong one-more: adds 1
old = "return sum(numbers)"
new = "return sum(numbers) + 1"

# %% base default: has a variable
def add(numbers):
    if not numbers:
        raise ValueError
    total = sum(numbers)
    return total

# %% wrong unchecked: doesn't look for an empty list
old = '''
    if not numbers:
        raise ValueError
'''
new = ""

# %% wrong both: returns a backslash for an empty list, and a sum without its sign
old = "        raise ValueError"
new = r'''
        text = "\\"
        return text
'''
old = "return total"
new = "return abs(total)"

# %% wrong doubled: adds the numbers twice
base = "unchecked"
old = "total = sum(numbers)"
new = "total = sum(numbers * 2)"

# %% wrong one-less: subtracts 1
base = "solution"
old = "return sum(numbers)"
new = "return sum(numbers) - 1"
"""
SOLUTION = f"""\
# grade_id: {TASK}
def add(numbers):
    '''Add numbers.

    Returns:
        The sum.
    '''
    ### BEGIN SOLUTION
    return sum(numbers)
    ### END SOLUTION
"""


def write_answers(course, text):
    (course / "mutants" / assignment.NAME / f"{TASK}.py").write_text(text)


def test_an_answer_may_be_written_as_changes_of_another(course):
    content = assignment.notebook()
    cell = next(cell for cell in content["cells"] if cell["id"] == TASK)
    cell["source"] = SOLUTION.replace("'''", '"""')
    assignment.write(course, content)
    write_answers(course, CHANGES)
    define = "def add(numbers):\n"
    assert {m.name: m.source for m in mutation.mutants(assignment.NAME, TASK)} == {
        "one-more": f"{define}    return sum(numbers) + 1",
        "unchecked": f"{define}    total = sum(numbers)\n    return total",
        "both": f'{define}    if not numbers:\n        text = "\\"\n        return text\n'
        "    total = sum(numbers)\n    return abs(total)",
        "doubled": f"{define}    total = sum(numbers * 2)\n    return total",
        "one-less": f"{define}    return sum(numbers) - 1",
    }


@pytest.mark.full
@pytest.mark.parametrize("stock", [False, True], ids=["course grade", "nbgrader"])
def test_right_answers_get_all_points_and_wrong_answers_lose_some(course, stock):
    mutants = {m.name: m for m in mutation.mutants(assignment.NAME, TASK)}
    untouched = {task.id: None for task in solution(course).tasks}
    submissions = mutation.answers_of({name: [m] for name, m in mutants.items()})
    submissions |= {"solution": {}, "release": untouched}
    points = mutation.grade(assignment.NAME, submissions, stock=stock)
    scores = {name: mutation.by_task(solution(course), cells) for name, cells in points.items()}
    neighbours = {"sum-squares": 3, "sum-largest": 3}
    assert scores["solution"] == scores["loop"] == scores["recursion"] == {TASK: 3} | neighbours
    assert not any(points["release"].values()) and points["release"]["sum-why"] == 0
    assert scores["no-first"] == scores["visible-only"] == {TASK: 1} | neighbours
    for name, mutant in mutants.items():
        assert mutation.problems(solution(course), points[name], [mutant]) == []


def test_each_kind_of_wrong_result_is_reported(course):
    right, _, wrong, _ = mutation.mutants(assignment.NAME, TASK)
    full = full_points(solution(course))
    assert mutation.problems(solution(course), full, [right]) == []
    assert mutation.problems(solution(course), full, [wrong]) == [
        "sum-all: no-first (leaves the first number out) lost no points"
    ]
    less = full | {"sum-all-values": 0}
    assert mutation.problems(solution(course), less, [wrong]) == []
    assert mutation.problems(solution(course), less, [right]) == [
        "sum-all: 1 of 3 points for a right answer"
    ]
    neighbour = less | {"sum-squares-form": 0}
    assert mutation.problems(solution(course), neighbour, [wrong]) == [
        "sum-squares: 2 of 3 points for a right answer"
    ]
