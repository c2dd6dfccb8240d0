"""Test model solutions for students: they contain no hidden test, and come after the due date."""

from datetime import UTC, datetime

import pytest

from course_utils.machine.validation import CourseError
from tests import sums
from workshop.grading import model_solution

NOW = datetime(2026, 12, 1, 18, 0, tzinfo=UTC)


@pytest.fixture
def course(tmp_path):
    return sums.course(tmp_path / "course")


def set_due_date(course, date):
    with sums.gradebook(course) as book:
        book.update_or_create_assignment(sums.NAME, duedate=date)


def test_before_the_due_date_nothing_is_written(course):
    set_due_date(course, "2026-12-01 18:00:01 UTC")
    with pytest.raises(CourseError, match="until 2026-12-01 18:00 UTC: publish its solution after"):
        model_solution.write(course, "9", NOW)
    assert not (course / model_solution.FOLDER).exists()


def test_without_a_due_date_nothing_is_written(course):
    with pytest.raises(CourseError, match="09_sums has no due date"):
        model_solution.write(course, "9", NOW)
    assert not (course / model_solution.FOLDER).exists()


@pytest.mark.parametrize("line", ["{}", "{}  ", "    {}", "# {}"])
def test_hidden_tests_are_removed_wherever_nbgrader_finds_their_markers(line):
    begin, end = line.format("### BEGIN HIDDEN TESTS"), line.format("### END HIDDEN TESTS")
    source = f"check(f, 1)\n{begin}\nsecret()\n{end}\ncheck(f, 2)\n{begin}\nsecret()\n"
    assert model_solution.HIDDEN_TESTS.sub("", source) == "check(f, 1)\ncheck(f, 2)\n"


@pytest.mark.parametrize("date", ["2026-12-01 18:00:00 UTC", "2026-12-01 19:00:00 +3600"])
def test_the_model_solution_has_answers_and_no_hidden_tests(course, date):
    set_due_date(course, date)
    path = model_solution.write(course, "9", NOW)
    text = path.read_text("utf-8")
    assert path == course / model_solution.FOLDER / f"{sums.NAME}.ipynb"
    assert "sum(n * n for n in numbers)" in text and "Adding is useful." in text
    assert "check(add, [3, 4, 5])" in text
    assert not any(word in text for word in ("HIDDEN", "seed", "randint", "SOLUTION"))
