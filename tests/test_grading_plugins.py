"""`nbgrader autograde`, which is also formgrader's button, with this course's settings."""

import shutil
from pathlib import Path

import pytest
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory

from course_utils.grading import classroom, marking, release
from tests import sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, WRONG

# SQLAlchemy's, about objects that nbgrader's own autograding adds later
pytestmark = [needed, pytest.mark.filterwarnings("ignore:Object of type <Submitted")]

FORGED = RIGHT | {
    "sum-squares": "class Yes(int):\n    def __eq__(self, other): return True\n"
    "    def __format__(self, spec): return '50'\n"
    "def squares(numbers):\n    return Yes(1)\n"
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return sums.course(tmp_path_factory.mktemp("released") / "course")


@pytest.fixture
def course(released, tmp_path):
    yield Path(shutil.copytree(released, tmp_path / "course"))
    marking.close_servers()


def autograde(course):
    """What `nbgrader autograde` does in this course."""
    config = release.settings(course)
    directory = CourseDirectory(config=config, assignment_id=NAME, student_id="*")
    converter = Autograde(coursedir=directory, config=config)
    converter.log = release.errors_alone()
    converter.start()


def test_it_gives_the_points_that_course_grade_gives(course):
    for student, answers in {"right": RIGHT, "wrong": WRONG, "forged": FORGED, "none": {}}.items():
        sums.hand_in(course, student, answers)
    other = Path(shutil.copytree(course, course.parent / "other"))
    autograde(course)
    classroom.grade(other, NAME, limits=QUICK)
    assert sums.grades(course) == sums.grades(other)
    assert sums.grades(course)["forged", "sum-squares-values"][0] == 0


def test_what_can_t_be_graded_is_an_error_that_doesn_t_stop_the_others(course, caplog):
    sums.hand_in(course, "a").write_text('{"cells": 5}', encoding="utf-8")
    sums.hand_in(course, "b", RIGHT)
    with pytest.raises(NbGraderException):
        autograde(course)
    assert (course / "autograded" / "b" / NAME / f"{NAME}.ipynb").exists()
    assert not (course / "autograded" / "a").exists() or not list(
        (course / "autograded" / "a").rglob("*.ipynb")
    )


def test_what_a_link_leads_to_is_not_kept(course, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("canary", encoding="utf-8")
    path = sums.hand_in(course, "a", RIGHT)
    (path.parent / "data.txt").write_text("mine", encoding="utf-8")
    (path.parent / "link.txt").symlink_to(secret)
    autograde(course)
    kept = {file.name for file in (course / "autograded" / "a" / NAME).iterdir()}
    assert kept == {f"{NAME}.ipynb", "data.txt"}


def test_a_notebook_without_its_metadata_is_mended(course):
    import nbformat

    path = sums.hand_in(course, "a", RIGHT)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, path)
    autograde(course)
    points = {cell: auto for (_, cell), (auto, _, _) in sums.grades(course).items()}
    assert sum(value or 0 for value in points.values()) == 9
