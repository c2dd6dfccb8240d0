"""Test `nbgrader autograde`, which formgrader also uses, with this course's settings."""

import shutil
from pathlib import Path

import pytest
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory

from course_utils.grading import autograde, classroom, release
from tests import sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, WRONG

pytestmark = [
    needed,
    # SQLAlchemy warns about objects that nbgrader's own autograding adds later.
    pytest.mark.filterwarnings("ignore:Object of type <Submitted"),
    pytest.mark.xdist_group("plugins"),
]

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
    autograde.close_servers()


def run_autograde(course):
    """Do what the command `nbgrader autograde` does."""
    config = release.settings(course)
    directory = CourseDirectory(config=config, assignment_id=NAME, student_id="*")
    converter = Autograde(coursedir=directory, config=config)
    converter.log = release.error_log()
    converter.start()


@pytest.mark.full
def test_it_gives_the_same_points_as_course_grade(course):
    for student, answers in {"right": RIGHT, "wrong": WRONG, "forged": FORGED, "none": {}}.items():
        sums.hand_in(course, student, answers)
    other = Path(shutil.copytree(course, course.parent / "other"))
    run_autograde(course)
    classroom.grade(other, NAME, limits=QUICK)
    assert sums.grades(course) == sums.grades(other)
    assert sums.grades(course)["forged", "sum-squares-values"][0] == 0


@pytest.mark.full
def test_an_ungradable_submission_is_an_error_but_the_others_are_graded(course):
    sums.hand_in(course, "a").write_text('{"cells": 5}', encoding="utf-8")
    sums.hand_in(course, "b", RIGHT)
    with pytest.raises(NbGraderException):
        run_autograde(course)
    assert (course / "autograded" / "b" / NAME / f"{NAME}.ipynb").exists()
    assert not list((course / "autograded").glob("a/**/*.ipynb"))


@pytest.mark.full
def test_files_to_which_links_lead_are_not_copied(course, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("canary", encoding="utf-8")
    path = sums.hand_in(course, "a", RIGHT)
    (path.parent / "data.txt").write_text("mine", encoding="utf-8")
    (path.parent / "link.txt").symlink_to(secret)
    run_autograde(course)
    kept = {file.name for file in (course / "autograded" / "a" / NAME).iterdir()}
    assert kept == {f"{NAME}.ipynb", "data.txt"}


def test_a_notebook_without_metadata_is_repaired_and_gets_all_points(course):
    import nbformat

    path = sums.hand_in(course, "a", RIGHT)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, path)
    run_autograde(course)
    points = {cell: auto for (_, cell), (auto, _, _) in sums.grades(course).items()}
    assert sum(value or 0 for value in points.values()) == 9
