"""Test how assignments are read, and that the rules for assignments find what breaks them."""

import pytest

from course_utils.machine.validation import CourseError
from tests import assignment, rules
from workshop.grading import assignments


def test_an_assignment_is_read_with_its_tasks(tmp_path):
    found = assignments.read(assignment.write(tmp_path))
    assert (found.name, found.title) == ("09_sums", "Exercise 09: Sums")
    assert found.withheld == ("course_utils.lora",) and found.points == 12
    first, *_, last = found.tasks
    assert (first.id, first.number, first.title) == ("sum-all", "9.1", "The sum")
    assert (first.stars, first.minutes, first.points, first.by_hand) == ("●●○", 6, 3, False)
    assert [cell["id"] for cell in first.graded] == ["sum-all-form", "sum-all-values"]
    assert last.by_hand and last.graded == (last.answer,)


def test_a_task_whose_id_begins_like_another_s_keeps_its_cells(tmp_path):
    content = assignment.notebook()
    for name in [cell["id"] for cell in content["cells"] if "squares" in cell["id"]]:
        assignment.change(content, name, "sum-squares", "sum-all-squares")
    found = assignments.read(assignment.write(tmp_path, content))
    assert [len(task.checks) for task in found.tasks] == [2, 2, 2, 0]


def test_an_assignment_is_chosen_by_number_or_name(tmp_path):
    paths = [assignment.write(tmp_path, name=name) for name in ("09_sums", "10_more")]
    assert assignments.sources(tmp_path) == paths
    for only in ("9", "09", "09_sums"):
        assert assignments.sources(tmp_path, only) == paths[:1]
    with pytest.raises(CourseError, match="no assignment 11; choose one of: 09_sums, 10_more"):
        assignments.sources(tmp_path, "11")


def test_a_course_without_assignments_is_an_error(tmp_path):
    with pytest.raises(CourseError, match=r"there are no assignments in .*solutions"):
        assignments.sources(tmp_path)


def test_a_file_that_is_no_notebook_is_an_error(tmp_path):
    path = tmp_path / "x.ipynb"
    for text in ("", "[]", '{"cells": [1]}'):
        path.write_text(text)
        with pytest.raises(CourseError, match="is not a notebook"):
            assignments.read(path)


VALUES = "sum-all-values"
# Changes that give points in error or show a solution, and a word of the rule that they break.
BROKEN = [
    ("imports", "import math", "from course_utils import lora", "withheld module"),
    ("sum-all", "### END SOLUTION", "", "markers of a solution"),
    (VALUES, "### END HIDDEN TESTS", "", "a test has both or none"),
    (VALUES, "random.Random(seed(2))", "random.Random(3)", "not with a fixed seed"),
    (VALUES, "check(add, [3, 4, 5])", "check(len, [3, 4, 5])", "visible check"),
    (VALUES, "sum(numbers)", "isinstance(numbers, list)", "must not use"),
    (VALUES, "### END HIDDEN", "numbers\n### END HIDDEN", "partial credit"),
    (VALUES, "check(add, [3, 4, 5])", "check(add, [add([3]), 4, 5])", "only through check"),
]


@pytest.mark.parametrize(("cell", "old", "new", "words"), BROKEN)
def test_a_broken_rule_is_reported(tmp_path, cell, old, new, words):
    content = assignment.notebook()
    assert rules.violations(assignment.write(tmp_path, content)) == []
    assignment.change(content, cell, old, new)
    violations = rules.violations(assignment.write(tmp_path, content))
    assert any(words in violation for violation in violations), violations


@pytest.mark.parametrize(("old", "new"), [("●●○", "**"), ('"id": "sum-all-prompt"', '"id": "x"')])
def test_a_task_without_a_prompt_is_an_error(tmp_path, old, new):
    content = assignment.notebook()
    assignment.change(content, "sum-all-prompt", old, new)
    with pytest.raises(CourseError, match="needs a cell sum-all-prompt that begins with"):
        assignments.read(assignment.write(tmp_path, content))
