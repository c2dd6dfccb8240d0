"""Test how assignments are read, and break each rule for assignments once."""

import pytest

from course_utils.machine.validation import CourseError
from tests import assignment, rules
from workshop.grading import assignments
from workshop.publishing import notebook_check


def test_a_correct_assignment_violates_no_rule(tmp_path):
    path = assignment.write(tmp_path)
    assert notebook_check.check(path) == []
    assert rules.violations(path) == []


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
        assert len(rules.violations(path)) == 1


VALUES = "sum-all-values"
# Changes that break a rule, by names that begin with the rule's id.
BROKEN = {
    "points: none": (VALUES, '"points": 2', '"points": 0'),
    "points: half": (VALUES, '"points": 2', '"points": 1.5'),
    "lecture": ("sum-all-prompt", "09_sums.ipynb#add", "09_sums.ipynb"),
    "fixed-seed": (VALUES, "random.Random(seed(2))", "random.Random(seed(2) + random.Random(3))"),
    "layout": (VALUES, "part 2 of 2", "part 2 of 3"),
    "hints": ("sum-all-prompt", "●●○", "●●●"),
    "sum": ("sum-all-prompt", "3 points", "4 points"),
    "comment: points": (VALUES, "(2 points)", "(1 point)"),
    "comment: none": ("sum-all", "# grade_id: sum-all\n", ""),
    "comment: none in Markdown": ("sum-why", "<!-- grade_id: sum-why -->", ""),
    "schema": (VALUES, '"schema_version": 3', '"schema_version": 2'),
    "grade-id": (VALUES, '"grade_id": "sum', '"grade_id": "my'),
    "lock: test": (VALUES, '"locked": true', '"locked": false'),
    "lock: answer": ("sum-all", '"locked": false', '"locked": true'),
    "lock: unknown": (VALUES, '"locked": true', '"locked": null'),
    "regions: no solution": ("sum-all", "### BEGIN SOLUTION", ""),
    "regions: endless solution": ("sum-all", "### END SOLUTION", ""),
    "regions: endless hidden tests": (VALUES, "### END HIDDEN TESTS", ""),
    "hidden": (VALUES, "HIDDEN TESTS", "TESTS"),
    "marker": ("imports", "import math", "### BEGIN SOLUTION"),
    "rubric": ("sum-why-prompt", "Rubric", "Hint"),
    "numbers: task": ("sum-all-prompt", "9.1", "9.7"),
    "numbers: lecture": ("sum-all-prompt", "9.1", "8.1"),
    "minutes": ("sum-all-prompt", "6 min", "80 min"),
    "try": ("sum-all-try", '"id": "sum-all-try"', '"id": "x"'),
    "stray": (VALUES, "sum-all-values", "other-values"),
    "two-tests": (VALUES, '"grade": true', '"grade": false'),
    "import: imports": ("imports", "import math", "from course_utils import lora"),
    "import: answer": ("sum-all", "    return sum", "    import course_utils.lora\n    return sum"),
    "import: submodule": ("imports", "import math", "from course_utils.lora.parts import x"),
    "answer-names": ("sum-squares", "sum(n * n", "add(n * n"),
    "test-names: helper": (VALUES, "randint(-9", "randint(low"),
    "test-names: other answer": (VALUES, "check(add, numbers)", "check(largest, numbers)"),
    "visible": (VALUES, "check(add, [3, 4, 5])", "check(len, [3, 4, 5])"),
    "forbidden: isinstance": (VALUES, "sum(numbers)", "isinstance(numbers, list)"),
    "forbidden: print": (VALUES, "draw = random", "print(1)\ndraw = random"),
    "syntax": (VALUES, "draw = random", "%matplotlib inline\ndraw = random"),
    "value": (VALUES, "### END HIDDEN", "numbers\n### END HIDDEN"),
    "direct": (VALUES, "check(add, [3, 4, 5])", "check(add, [add([3]), 4, 5])"),
}


def broken_rules(violations):
    """Return the ids of the rules that some violations name."""
    return {violation.rpartition("[")[2].rstrip("]") for violation in violations}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_rule_is_reported(tmp_path, kind):
    cell, old, new = BROKEN[kind]
    content = assignment.notebook()
    assignment.change(content, cell, old, new)
    assert kind.partition(":")[0] in broken_rules(
        rules.violations(assignment.write(tmp_path, content))
    )


def with_another_name(content, tmp_path):
    path = assignment.write(tmp_path, content)
    return path.rename(path.with_name("09_other.ipynb"))


def without_a_task(content, tmp_path):
    content["cells"] = [c for c in content["cells"] if "squares" not in c["id"]]
    return assignment.write(tmp_path, content)


def withholding(*modules):
    def change(content, tmp_path):
        content["metadata"]["qlora_course"] = {"withheld": modules}
        return assignment.write(tmp_path, content)

    return change


WHOLE = {
    "folder": (with_another_name, "it is in the folder 09_sums"),
    "tasks": (without_a_task, "it has 3 tasks"),
    "withheld": (withholding(), "qlora_course.withheld is missing or empty"),
    "modules": (withholding("course_utils.nothing"), "there is no course_utils.nothing"),
}


@pytest.mark.parametrize("rule", WHOLE)
def test_each_broken_rule_for_the_whole_notebook_is_reported(tmp_path, rule):
    change, description = WHOLE[rule]
    violations = rules.violations(change(assignment.notebook(), tmp_path))
    assert any(line.endswith(f"({description}) [{rule}]") for line in violations), violations


def test_a_test_cell_without_code_or_id_is_reported(tmp_path):
    content = assignment.notebook()
    cells = {cell["id"]: cell for cell in content["cells"]}
    cells["sum-all-values"]["source"] = "# grade_id: sum-all-values (2 points)\n"
    del cells["sum-squares-values"]["id"]
    violations = rules.violations(assignment.write(tmp_path, content))
    assert {"visible", "stray", "grade-id"} <= broken_rules(violations)


@pytest.mark.parametrize(("old", "new"), [("●●○", "**"), ('"id": "sum-all-prompt"', '"id": "x"')])
def test_a_task_without_a_prompt_is_the_only_violation(tmp_path, old, new):
    content = assignment.notebook()
    assignment.change(content, "sum-all-prompt", old, new)
    (violation,) = rules.violations(assignment.write(tmp_path, content))
    assert "needs a cell sum-all-prompt that begins with" in violation
