"""grading.assignments: tasks are found, and each rule is broken once on purpose."""

import pytest

from course_utils.grading import assignments
from course_utils.publishing import notebook_check
from course_utils.validation import CourseError
from tests import assignment


def test_a_sound_assignment_has_no_fault(tmp_path):
    path = assignment.write(tmp_path)
    assert notebook_check.check(path) == []
    assert assignments.faults(path) == []


def test_reading_an_assignment(tmp_path):
    found = assignments.read(assignment.write(tmp_path))
    assert (found.name, found.title) == ("09_sums", "Exercise 09: Sums")
    assert found.withheld == ("course_utils.lora",) and found.points == 12
    first, *_, last = found.tasks
    assert (first.id, first.number, first.title) == ("sum-all", "9.1", "The sum")
    assert (first.stars, first.minutes, first.points, first.by_hand) == ("●●○", 6, 3, False)
    assert [cell["id"] for cell in first.graded] == ["sum-all-form", "sum-all-values"]
    assert last.by_hand and last.graded == (last.answer,)


def test_a_task_whose_name_begins_like_anothers_keeps_its_cells(tmp_path):
    content = assignment.notebook()
    for name in [cell["id"] for cell in content["cells"] if "squares" in cell["id"]]:
        assignment.change(content, name, "sum-squares", "sum-all-squares")
    found = assignments.read(assignment.write(tmp_path, content))
    assert [len(task.checks) for task in found.tasks] == [2, 2, 2, 0]


def test_choosing_assignments(tmp_path):
    paths = [assignment.write(tmp_path, name=name) for name in ("09_sums", "10_more")]
    assert assignments.sources(tmp_path) == paths
    for only in ("9", "09", "09_sums"):
        assert assignments.sources(tmp_path, only) == paths[:1]
    with pytest.raises(CourseError, match="no assignment 11; choose one of: 09_sums, 10_more"):
        assignments.sources(tmp_path, "11")


def test_what_is_no_assignment(tmp_path):
    path = tmp_path / "x.ipynb"
    for text in ("", "[]", '{"cells": [1]}'):
        path.write_text(text)
        with pytest.raises(CourseError, match="is not a notebook"):
            assignments.read(path)
        assert len(assignments.faults(path)) == 1


VALUES = "sum-all-values"
BROKEN = {
    "no points": (VALUES, '"points": 2', '"points": 0', "a whole number of points above 0"),
    "half points": (VALUES, '"points": 2', '"points": 1.5', "a whole number of points above 0"),
    "points of the prompt": ("sum-all-prompt", "3 points", "4 points", "says 4 points, its cells"),
    "points of the comment": (VALUES, "(2 points)", "(1 point)", "must begin with '# grade_id"),
    "schema": (VALUES, '"schema_version": 3', '"schema_version": 2', "schema_version must be 3"),
    "other grade id": (VALUES, '"grade_id": "sum', '"grade_id": "my', "must be the cell's id"),
    "unlocked test": (VALUES, '"locked": true', '"locked": false', "test cells are locked"),
    "locked answer": ("sum-all", '"locked": false', '"locked": true', "answers are not"),
    "no comment": ("sum-all", "# grade_id: sum-all\n", "", "must begin with '# grade_id: sum-all'"),
    "no comment in text": ("sum-why", "<!-- grade_id: sum-why -->", "", "must begin with '<!--"),
    "no solution": ("sum-all", "### BEGIN SOLUTION", "", "an answer holds a solution"),
    "endless solution": ("sum-all", "### END SOLUTION", "", "an answer holds a solution"),
    "endless hidden": (VALUES, "### END HIDDEN TESTS", "", "a test cell may hold hidden tests"),
    "no hidden tests": (VALUES, "HIDDEN TESTS", "TESTS", "has no hidden tests"),
    "solution elsewhere": ("imports", "import math", "### BEGIN SOLUTION", "is no cell of nb"),
    "no rubric": ("sum-why-prompt", "Rubric", "Hint", "needs a rubric in its prompt"),
    "number": ("sum-all-prompt", "9.1", "9.7", "must be numbered 9.1, 9.2, 9.3, 9.4"),
    "number of the lecture": ("sum-all-prompt", "9.1", "8.1", "must be numbered 9.1"),
    "minutes": ("sum-all-prompt", "6 min", "60 min", "78 minutes; 20 to 45"),
    "no header": ("sum-all-prompt", "●●○", "**", "needs a cell sum-all-prompt that begins with"),
    "no prompt": ("sum-all-prompt", '"id": "sum-all-prompt"', '"id": "x"', "needs a cell sum-all-"),
    "no try-it cell": ("sum-all-try", '"id": "sum-all-try"', '"id": "x"', "has no cell to try it"),
    "stray test": (VALUES, "sum-all-values", "other-values", "is graded, but belongs to no task"),
    "one test": (VALUES, '"grade": true', '"grade": false', "needs two graded cells"),
    "import of the answer": (
        "imports", "import math", "from course_utils import lora", "a module that is withheld"
    ),
    "import in the answer": (
        "sum-all", "    return sum", "    import course_utils.lora\n    return sum", "is withheld"
    ),
    "answer of another task": ("sum-squares", "sum(n * n", "add(n * n", "other cells define: add"),
    "helper elsewhere": (VALUES, "randint(-9", "randint(low", "uses what other cells define: low"),
    "test of another task": (
        VALUES, "check(add, numbers)", "check(largest, numbers)", "other cells define: largest"
    ),
    "nothing visible": (
        VALUES, "check(add, [3, 4, 5])", "check(len, [3, 4, 5])", "no visible check that calls"
    ),
    "isinstance": (VALUES, "sum(numbers)", "isinstance(numbers, list)", "must not use isinstance"),
    "print": (VALUES, "draw = random", "print(1)\ndraw = random", "must not use print"),
    "partial credit": (VALUES, "### END HIDDEN", "numbers\n### END HIDDEN", "ends with a value"),
    "direct call": (
        VALUES, "check(add, [3, 4, 5])", "check(add, [add([3]), 4, 5])", "calls add itself"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_rule_is_named(tmp_path, kind):
    name, old, new, expected = BROKEN[kind]
    content = assignment.notebook()
    assignment.change(content, name, old, new)
    faults = assignments.faults(assignment.write(tmp_path, content))
    assert any(expected in fault for fault in faults), faults


def test_rules_for_the_whole_notebook(tmp_path):
    content = assignment.notebook()
    content["metadata"]["qlora_course"] = {"withheld": ["course_utils.nothing"]}
    assert "no such module" in assignments.faults(assignment.write(tmp_path, content))[0]
    del content["metadata"]["qlora_course"]
    assert "must say which modules" in assignments.faults(assignment.write(tmp_path, content))[0]
    content = assignment.notebook()
    content["cells"] = [c for c in content["cells"] if "squares" not in c["id"]]
    assert "3 tasks; 4 to 7" in assignments.faults(assignment.write(tmp_path, content))[0]
    path = assignment.write(tmp_path)
    moved = path.rename(path.with_name("09_other.ipynb"))
    assert "a folder of its own name" in assignments.faults(moved)[0]
