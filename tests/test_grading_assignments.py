"""Test how assignments are read."""

import pytest

from course_utils.machine.validation import CourseError
from tests import assignment
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


@pytest.mark.parametrize(("old", "new"), [("●●○", "**"), ('"id": "sum-all-prompt"', '"id": "x"')])
def test_a_task_without_a_prompt_is_an_error(tmp_path, old, new):
    content = assignment.notebook()
    assignment.change(content, "sum-all-prompt", old, new)
    with pytest.raises(CourseError, match="needs a cell sum-all-prompt that begins with"):
        assignments.read(assignment.write(tmp_path, content))
