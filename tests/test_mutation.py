"""mutation: the gates on a small assignment, sound and with each gate's fault put in on purpose."""

import shutil

import pytest

from course_utils.grading import release
from course_utils.grading.assignments import read
from tests import assignment, mutation

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
    """The small assignment, with answers to its first task, in place of the repository's."""
    shutil.copy(mutation.ROOT / release.SETTINGS, tmp_path)
    assignment.write(tmp_path)
    answers = tmp_path / "mutants" / assignment.NAME / f"{TASK}.py"
    answers.parent.mkdir(parents=True)
    answers.write_text(ANSWERS)
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    monkeypatch.setattr(mutation, "MUTANTS", tmp_path / "mutants")
    return tmp_path


def sound(course):
    return read(course / "solutions" / assignment.NAME / f"{assignment.NAME}.ipynb")


def full_points(of):
    """All points of an assignment that checks give, by cell."""
    checks = [cell for task in of.tasks for cell in task.checks]
    return {cell["id"]: cell["metadata"]["nbgrader"]["points"] for cell in checks}


def test_answers_are_read_from_their_file(course):
    found = mutation.mutants(assignment.NAME, TASK)
    assert [(m.kind, m.name) for m in found] == [
        ("right", "loop"),
        ("right", "recursion"),
        ("wrong", "no-first"),
        ("wrong", "visible-only"),
    ]
    assert found[2].says == "leaves the first number out"
    assert found[2].source.endswith("return sum(numbers[1:])")


@pytest.mark.parametrize("stock", [False, True], ids=["course grade", "nbgrader"])
def test_right_is_told_from_wrong(course, stock):
    found = {m.name: m for m in mutation.mutants(assignment.NAME, TASK)}
    untouched = {task.id: None for task in sound(course).tasks}
    submissions = mutation.answers({name: [m] for name, m in found.items()})
    submissions |= {"solution": {}, "release": untouched}
    points = mutation.autograde(assignment.NAME, submissions, stock=stock)
    scored = {name: mutation.by_task(sound(course), given) for name, given in points.items()}
    neighbours = {"sum-squares": 3, "sum-largest": 3}
    assert scored["solution"] == scored["loop"] == scored["recursion"] == {TASK: 3} | neighbours
    assert not any(points["release"].values()) and points["release"]["sum-why"] == 0
    assert scored["no-first"] == scored["visible-only"] == {TASK: 1} | neighbours

    def complaints(name):
        return mutation.complaints(sound(course), points[name], [found[name]])

    for name in ("loop", "recursion", "no-first", "visible-only"):
        assert complaints(name) == []


def test_each_kind_of_failure_is_a_complaint(course):
    right, _, wrong, _ = mutation.mutants(assignment.NAME, TASK)
    full = full_points(sound(course))
    assert mutation.complaints(sound(course), full, [right]) == []
    assert mutation.complaints(sound(course), full, [wrong]) == [
        "sum-all: no-first (leaves the first number out) lost no point"
    ]
    less = full | {"sum-all-values": 0}
    assert mutation.complaints(sound(course), less, [wrong]) == []
    assert mutation.complaints(sound(course), less, [right]) == [
        "sum-all: 1 of 3 points for a right answer"
    ]
    neighbour = less | {"sum-squares-form": 0}
    assert mutation.complaints(sound(course), neighbour, [wrong]) == [
        "sum-squares: 2 of 3 points for a right answer"
    ]


def test_a_wrong_solution_loses_points(course):
    content = assignment.notebook()
    assignment.change(content, TASK, "return sum(numbers)", "return 1 + sum(numbers)")
    assignment.write(course, content)
    points = mutation.autograde(assignment.NAME, {"solution": {}})["solution"]
    assert mutation.by_task(sound(course), points)[TASK] == 1


def test_without_hidden_tests_the_visible_answer_is_enough(course):
    content = assignment.notebook()
    assignment.change(content, f"{TASK}-values", "for _ in range(5)", "for _ in range(0)")
    assignment.write(course, content)
    found = [m for m in mutation.mutants(assignment.NAME, TASK) if m.name == "visible-only"]
    points = mutation.graded(sound(course), {"x": found})["x"]
    assert "lost no point" in mutation.complaints(sound(course), points, found)[0]


def test_a_check_that_passes_in_a_release_is_found(course):
    from nbgrader.validator import Validator

    content = assignment.notebook()
    assignment.change(content, f"{TASK}-form", "check(add, [1, 2]).like(0)", "add")
    assignment.change(content, f"{TASK}-form", "check(add, []).raises(ValueError)", "pass")
    assignment.write(course, content)
    (released,) = release.release(course, gradebook=False)
    with mutation.offline():
        result = Validator(invert=True).validate(str(released))
    assert [cell["source"].splitlines()[0] for cell in result["passed"]] == [
        "# grade_id: sum-all-form (1 point)"
    ]


def test_the_report_shows_lost_points_in_bold(course):
    given = mutation.mutants(assignment.NAME, TASK)[:3:2]
    submissions = {mutant.name: [mutant] for mutant in given}
    full = full_points(sound(course))
    points = {"loop": full, "no-first": full | {"sum-all-values": 0}}
    done = mutation.Trial(sound(course), submissions, (points, points), (1.0, 9.0))
    assert done.matrix.splitlines() == [
        "| answer | kind | 9.1 (3) | 9.2 (3) | 9.3 (3) |",
        "|---|---|---|---|---|",
        "| 9.1 adds one by one | right | 3 | 3 | 3 |",
        "| 9.1 leaves the first number out | wrong | **1** | 3 | 3 |",
    ]
    assert done.complaints == []
    other = mutation.Trial(sound(course), submissions, (points, points | {"loop": {}}), (1.0, 9.0))
    assert other.complaints == ["loop: graders differ"]
