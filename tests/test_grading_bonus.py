"""Test bonus points: they are extra credit in the gradebook and never count as ordinary points."""

import csv
import re

import pytest

from tests import assignment, mutation, sums
from workshop.grading import classroom, records, release
from workshop.grading.assignments import read

pytestmark = [
    pytest.mark.full,
    # SQLAlchemy warns about objects that nbgrader will add later.
    pytest.mark.filterwarnings("ignore:Object of type <Submitted"),
]


def with_bonus():
    """Return the assignment in which the third task gives bonus points."""
    content = assignment.notebook()
    for cell in content["cells"]:
        if cell["id"].startswith("sum-largest") and "points" in cell["metadata"].get(
            "nbgrader", {}
        ):
            points = cell["metadata"]["nbgrader"]["points"]
            cell["metadata"]["nbgrader"]["points"] = 0
            cell["metadata"]["qlora_course"] = {"bonus": points}
        if cell["id"].startswith("sum-largest-"):
            cell["source"] = re.sub(r"(\d) point", r"\1 bonus point", cell["source"])
    return content


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = sums.course(tmp_path_factory.mktemp("bonus") / "course")
    assignment.write(folder, with_bonus())
    release.release(folder)
    sums.hand_in(folder, "all", sums.RIGHT)
    sums.hand_in(
        folder, "none", sums.RIGHT | {"sum-largest": "def largest(numbers):\n    return 0\n"}
    )
    classroom.write_results(folder, classroom.grade(folder, sums.NAME))
    return folder


def extra_credit(course):
    with sums.gradebook(course) as book:
        return {
            (submission.student_id, grade.name): (grade.auto_score, grade.extra_credit)
            for submission in book.assignment_submissions(sums.NAME)
            for notebook in submission.notebooks
            for grade in notebook.grades
            if grade.name.startswith("sum-largest")
        }


EXPECTED = {
    ("all", "sum-largest-form"): (0, 1),
    ("all", "sum-largest-values"): (0, 2),
    ("none", "sum-largest-form"): (0, 0),
    ("none", "sum-largest-values"): (0, 0),
}


def test_bonus_points_are_no_ordinary_points(course):
    path = course / "solutions" / sums.NAME / f"{sums.NAME}.ipynb"
    found = read(path)
    assert (found.points, found.bonus_points) == (9, 3)


def test_bonus_points_are_extra_credit_in_the_gradebook(course):
    assert extra_credit(course) == EXPECTED


def test_the_table_and_the_records_show_bonus_points_separately(course):
    with (course / "grading" / sums.NAME / "points.csv").open(encoding="utf-8-sig") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert [rows[s]["bonus points"] for s in ("all", "none")] == ["3", "0"]
    assert [rows[s]["max points"] for s in ("all", "none")] == ["9", "9"]
    (record, _) = records.read_all(course / "grading" / sums.NAME)
    assert record.points["sum-largest-values"] == 2


def test_nbgraders_own_autograding_gives_the_same_bonus_points(course):
    with sums.gradebook(course) as book:
        for student in ("all", "none"):
            book.remove_submission(sums.NAME, student)
    mutation.autograde(course, sums.NAME)
    assert extra_credit(course) == EXPECTED


def test_a_person_can_give_bonus_points_for_an_answer_without_checks(course):
    """Grading again keeps extra credit that was typed into formgrader."""
    with sums.gradebook(course) as book:
        grade = book.find_grade("sum-why", sums.NAME, sums.NAME, "all")
        grade.manual_score, grade.extra_credit, grade.needs_manual_grade = 0, 2, False
        book.db.commit()
    classroom.grade(course, sums.NAME, again=True)
    with sums.gradebook(course) as book:
        assert book.find_grade("sum-why", sums.NAME, sums.NAME, "all").extra_credit == 2
