"""Test the list of the points that the checks in a notebook have given so far."""

import subprocess
import sys

import pytest

from course_utils.exercise import points
from tests import assignment, rules
from workshop.grading import layout
from workshop.grading.assignments import read

NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("from course_utils.exercise.points import points_so_far, watch_checks")
shell.run_cell("watch_checks()")
for cell in (
    "# @title Check 3.1, part 1 of 2 (1 point)\\n# grade_id: a-form (1 point)\\n1 / 0",
    "# @title Check 3.1, part 1 of 2 (1 point)\\n# grade_id: a-form (1 point)\\n",
    "# @title Check 3.1, part 2 of 2 (2 points)\\n# grade_id: a-values (2 points)\\n1 / 0",
    "# @title Check 3.4, part 1 of 1 (4 bonus points)\\n# grade_id: d-form (4 bonus points)\\n",
    "print('# grade_id: b-form (1 point)')",
):
    shell.run_cell(cell)
print("HERE")
shell.run_cell(
    "points_so_far([('3.1 One adapter', 3, ''), ('3.2 All', 2, ''), ('3.3 Why', 4, 'by hand'), "
    "('3.4 More', 4, 'bonus'), ('3.5 Plan', 6, 'bonus by hand')])"
)
"""


def test_the_last_result_of_each_check_counts():
    printed = subprocess.check_output([sys.executable, "-c", NOTEBOOK], text=True)
    assert printed.partition("HERE\n")[2].splitlines() == [
        "3.1 One adapter  1 of 3 points",
        "3.2 All          2 points, not checked yet",
        "3.3 Why          4 points, given by a person",
        "3.4 More         4 of 4 bonus points",
        "3.5 Plan         6 bonus points, given by a person",
        "",
        "Your checks give 1 of 5 points so far.",
        "Grading runs the same checks with further inputs.",
    ]


def test_outside_of_ipython_nothing_is_watched(capsys):
    points.watch_checks()
    points.points_so_far([("3.1 One adapter", 3, "")])
    assert "3 points, not checked yet" in capsys.readouterr().out


# --- the arrangement of an assignment's cells ---


@pytest.fixture
def path(tmp_path):
    content = assignment.notebook()
    content["cells"].append(assignment.cell("closing", "## The end", kind="markdown"))
    return assignment.write(tmp_path, content)


def test_fixing_adds_the_list_of_points_before_the_closing_cell(path):
    assert any("a cell shows the points" in violation for violation in rules.violations(path))
    assert layout.fix(path)
    assert rules.violations(path) == []
    *_, so_far, closing = read(path).cells
    assert (so_far["id"], closing["id"]) == (layout.SO_FAR, "closing")
    assert '("9.1 The sum", 3, ""),' in so_far["source"]
    assert '("9.4 The point of it", 3, "by hand"),' in so_far["source"]
    assert not layout.fix(path)
