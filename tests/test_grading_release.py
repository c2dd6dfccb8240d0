"""Test that exercises/ contains what nbgrader generates from solutions/, and nothing else."""

import shutil
from pathlib import Path

import pytest

from course_utils.machine.validation import CourseError
from tests import assignment
from workshop.grading import release
from workshop.grading.assignments import read
from workshop.publishing import notebook_check

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def course(tmp_path):
    """Return a course with one assignment."""
    shutil.copy(ROOT / release.SETTINGS, tmp_path)
    assignment.write(tmp_path)
    (tmp_path / "exercises").mkdir()
    return tmp_path


def released(course, only=None):
    """Release without a gradebook, which would need seconds, and return the notebooks."""
    return release.release(course, only, gradebook=False)


def test_a_release_contains_the_tasks_without_answers_and_hidden_tests(course):
    (path,) = released(course)
    assert path == course / "exercises/09_sums/09_sums.ipynb"
    assert notebook_check.check(path) == []
    text = path.read_text(encoding="utf-8")
    for secret in ("SOLUTION", "HIDDEN", "sum(numbers)", "randint", "Adding is useful"):
        assert secret not in text
    before, after = read(assignment.write(course)), read(path)
    assert [cell["id"] for cell in after.cells] == [cell["id"] for cell in before.cells]
    assert after.tasks[0].answer["source"].endswith("raise NotImplementedError()")
    assert "YOUR ANSWER HERE" in after.tasks[-1].answer["source"]
    assert "check(add, [3, 4, 5])" in after.tasks[0].checks[1]["source"]


def change_source(course):
    content = assignment.notebook()
    assignment.change(content, "sum-all", "The sum of", "The total of")
    assignment.write(course, content)


def change_release(course):
    path = course / "exercises/09_sums/09_sums.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("[3, 4, 5]", "[3, 4]"))


DIFFERENT = {
    "changed source": (change_source, "09_sums/09_sums.ipynb differs from what solutions/"),
    "changed release": (change_release, "09_sums/09_sums.ipynb differs from what solutions/"),
    "changed readme": (
        lambda course: (course / "exercises/README.md").write_text("x"),
        "README.md differs from what",
    ),
    "missing": (lambda course: shutil.rmtree(course / "exercises/09_sums"), "ipynb is missing"),
    "unknown file": (
        lambda course: (course / "exercises/09_sums/notes.txt").write_text("x"),
        "09_sums/notes.txt is not generated from any file",
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_each_difference_is_reported(course, kind):
    change, expected = DIFFERENT[kind]
    released(course)
    change(course)
    (line,) = release.differences(course)
    assert line.startswith("exercises/") and expected in line
    assert release.differences(course, "9") == [line] * (kind != "changed readme")


def test_only_the_named_assignment_is_compared(course):
    released(course)
    assignment.write(course, name="10_more")
    assert release.differences(course, "9") == []
    assert release.differences(course, "10") == ["exercises/10_more/10_more.ipynb is missing"]


def test_other_files_of_an_assignment_are_released(course):
    (course / "solutions/09_sums/config.json").write_text("{}")
    released(course)
    assert (course / "exercises/09_sums/config.json").read_text() == "{}"
    assert release.differences(course) == []


def test_a_notebook_that_nbgrader_rejects_is_an_error(course):
    content = assignment.notebook()
    assignment.change(content, "sum-all", "### END SOLUTION", "")
    assignment.write(course, content)
    with pytest.raises(CourseError, match="nbgrader can't release 09_sums"):
        released(course)


@pytest.mark.full
def test_a_release_adds_the_assignment_to_the_gradebook(course):
    from nbgrader.api import Gradebook

    (with_gradebook,) = [path.read_bytes() for path in release.release(course)]
    (without,) = [path.read_bytes() for path in released(course)]
    assert with_gradebook == without
    with Gradebook(f"sqlite:///{course}/gradebook.db", "qlora") as book:
        assert book.find_assignment("09_sums").max_score == 12
