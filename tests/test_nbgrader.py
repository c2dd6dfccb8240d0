"""Test the repository as an nbgrader course, from the release of an assignment to the feedback.

The instructor uses the functions that formgrader's buttons call. The students use those that the
Assignment List calls. Each person has a copy of the course.
"""

import csv
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from nbgrader.apps.api import NbGraderAPI
from nbgrader.apps.baseapp import NbGrader
from nbgrader.server_extensions.assignment_list.handlers import AssignmentList
from traitlets.config.loader import PyFileConfigLoader

from tests.classroom import (
    ASSIGNMENT,
    MESSAGE,
    NOTEBOOK,
    ONLY_A,
    RIGHT,
    answer,
    course,
)
from workshop.grading.intake.submissions import LEFT_OUT, NOBODY

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange needs POSIX"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Object of type <Submitted"),
]

COMMENT = "Name the latency, too."


class Person:
    """A person with a copy of the course and with separate settings, on the class's machine."""

    def __init__(self, folder, exchange, monkeypatch, name=None):
        self.folder, self.monkeypatch = course(folder), monkeypatch
        self.environment = {
            "QLORA_COURSE_EXCHANGE": str(exchange),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
        }
        (folder / "config").mkdir()
        # nbgrader would use the name of the system's user, which is the same for all persons here.
        if name:
            settings = folder / "config" / "nbgrader_config.py"
            settings.write_text(f"get_config().CourseDirectory.student_id = {name!r}\n")

    def log_in(self):
        """Set the environment and the current folder of this person."""
        for name, value in self.environment.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.chdir(self.folder)

    def nbgrader(self, *arguments):
        """Run a command of nbgrader, and return its log."""
        command = [sys.executable, "-m", "nbgrader", *arguments]
        environment = os.environ | self.environment
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr


class Instructor(Person):
    def do(self, action, *arguments):
        """Do what one of formgrader's buttons does, and return nbgrader's log."""
        result = getattr(self.api(), action)(ASSIGNMENT, *arguments)
        assert result["success"], result.get("error") or result.get("log")
        return result.get("log", "")

    def api(self):
        self.log_in()
        app = NbGrader()
        app.initialize([])
        return NbGraderAPI(app.coursedir, parent=app)

    def grade_by_hand(self, student, score, comment):
        """Store a score and a comment, as formgrader does."""
        with self.api().gradebook as gradebook:
            key = ("why-merge", ASSIGNMENT, ASSIGNMENT, student)
            grade = gradebook.find_grade(*key)
            assert grade.needs_manual_grade
            grade.manual_score, grade.needs_manual_grade = score, False
            gradebook.find_comment(*key).manual_comment = comment
            gradebook.db.commit()

    def export(self):
        """Return the rows of the file that `nbgrader export` writes, by student."""
        self.nbgrader("export")
        with (self.folder / "grades.csv").open(newline="") as file:
            return {row["student_id"]: row for row in csv.DictReader(file)}


class Student(Person):
    def do(self, action, *arguments):
        """Do what a button of the Assignment List does, and return what the list then shows."""
        self.log_in()
        extension = AssignmentList()
        extension.root_dir = str(self.folder)
        result = getattr(extension, action)(*arguments)
        assert result["success"], result["value"]
        return result.get("value")

    def listed(self):
        return self.do("list_assignments", "qlora")

    def notebook(self):
        return self.folder / "my_assignments" / NOTEBOOK


@pytest.fixture
def exchange(tmp_path):
    return tmp_path / "exchange"


@pytest.fixture
def instructor(tmp_path, exchange, monkeypatch):
    # nbgrader adds the course to this list.
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Instructor(tmp_path / "instructor", exchange, monkeypatch)


@pytest.fixture
def students(tmp_path, exchange, monkeypatch):
    names = ("student01", "student02")
    return [Student(tmp_path / name, exchange, monkeypatch, name) for name in names]


# --- a whole cycle --------------------------------------------------------------------------------


@pytest.mark.full
def test_an_assignment_is_released_submitted_graded_and_returned(instructor, students):
    instructor.do("generate_assignment")
    released = (instructor.folder / "exercises" / NOTEBOOK).read_text(encoding="utf-8")
    assert "NotImplementedError" in released and "rank * (d_in + d_out)" not in released
    instructor.do("release_assignment")

    for student, code in zip(students, (RIGHT, ONLY_A), strict=True):
        assert [listed["status"] for listed in student.listed()] == ["released"]
        student.do("fetch_assignment", "qlora", ASSIGNMENT)
        (listed,) = student.listed()
        assert (listed["assignment_id"], listed["status"]) == (ASSIGNMENT, "fetched")
        assert listed["notebooks"][0]["path"] == f"my_assignments/{NOTEBOOK}"
        assert student.notebook().read_text(encoding="utf-8") == released
        answer(student.notebook(), code, "No added latency.")
        student.do("submit_assignment", "qlora", ASSIGNMENT)

    instructor.do("collect")
    grade(instructor)
    instructor.do("release_feedback")
    pages = [feedback_of(student) for student in students]
    assert COMMENT in pages[0] and MESSAGE not in pages[0]
    assert MESSAGE in pages[1] and COMMENT not in pages[1]
    assert "likely mistake" in pages[1] and "Traceback (most recent" not in pages[1]


@pytest.mark.full
def test_files_from_a_learning_management_system_are_collected_and_graded(instructor, tmp_path):
    """The files have the names that Colab, browsers and Canvas create; some are in an archive."""
    instructor.do("generate_assignment")
    archive = instructor.folder / "downloaded" / ASSIGNMENT / "archive"
    right, wrong = (tmp_path / name for name in ("right.ipynb", "wrong.ipynb"))
    for path, code in ((right, RIGHT), (wrong, ONLY_A)):
        shutil.copy(instructor.folder / "exercises" / NOTEBOOK, path)
        answer(path, code, "No added latency.")
    archive.mkdir(parents=True)
    with zipfile.ZipFile(archive / "class.zip", "w") as file:
        file.write(right, "student01_12345_67890_03_lora.ipynb")
        file.write(wrong, "student02_Copy of 03_lora.ipynb")
        file.write(right, "student05_04_nf4.ipynb")
    shutil.copy(right, archive / "student03_03_lora.ipynb")
    shutil.copy(right, archive / "student04_03_lora (1).ipynb")
    shutil.copy(right, archive / "report.ipynb")

    instructor.nbgrader("zip_collect", ASSIGNMENT)
    submitted = instructor.folder / "submitted"
    stored = sorted(submitted.glob("*/*/*.ipynb"))
    names = [str(path.relative_to(submitted)) for path in stored]
    assert names == [f"student0{number}/{NOTEBOOK}" for number in range(1, 5)]
    notes = (submitted / NOBODY / ASSIGNMENT / LEFT_OUT).read_text(encoding="utf-8").splitlines()
    assert [line.split("'")[1] for line in notes] == [
        "class.zip/student05_04_nf4.ipynb",
        "report.ipynb",
    ]

    grade(instructor)
    page = instructor.folder / "feedback" / "student02" / ASSIGNMENT / f"{ASSIGNMENT}.html"
    assert MESSAGE in page.read_text(encoding="utf-8")


def grade(instructor):
    """Grade two submissions, also by hand, check their scores, and write the feedback."""
    names = ("student01", "student02")
    for name in names:
        instructor.do("autograde", name)
    assert scores(instructor, names) == [2, 0]
    instructor.grade_by_hand("student01", 2.5, COMMENT)
    instructor.grade_by_hand("student02", 3, "")
    assert scores(instructor, names) == [4.5, 3]
    instructor.do("generate_feedback")


def scores(instructor, names):
    """Return the scores in the exported file; the maximum is 5 points."""
    rows = instructor.export()
    assert rows.keys() == set(names) and {float(row["max_score"]) for row in rows.values()} == {5}
    return [float(rows[name]["score"]) for name in names]


def feedback_of(student):
    """Return the page with feedback that a student gets."""
    student.do("fetch_feedback", "qlora", ASSIGNMENT)
    (submitted,) = [listed for listed in student.listed() if listed["status"] == "submitted"]
    (submission,) = submitted["submissions"]
    folder = student.folder / submission["local_feedback_path"]
    return (folder / f"{ASSIGNMENT}.html").read_text(encoding="utf-8")


# --- the settings ---------------------------------------------------------------------------------


def settings(folder):
    """Return the settings in a folder, as nbgrader reads them."""
    return PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Return a copy of the course on a machine without an exchange."""
    monkeypatch.delenv("QLORA_COURSE_EXCHANGE", raising=False)
    return course(tmp_path / "course")


@pytest.mark.parametrize("folder", [".", "my_assignments"])
def test_both_settings_files_give_the_same_folders(copy, folder, monkeypatch):
    monkeypatch.chdir("/")
    config = settings(copy / folder)
    assert config.CourseDirectory.root == str(copy)
    assert config.CourseDirectory.source_directory == "solutions"
    assert config.CourseDirectory.release_directory == "exercises"
    assert config.Exchange.root == str(copy / "exchange")
    assert config.Exchange.assignment_dir == str(copy / "my_assignments")


def test_everybody_can_write_to_the_exchange_but_remove_only_own_files(copy):
    settings(copy)
    assert stat.S_IMODE((copy / "exchange").stat().st_mode) == 0o1777


def test_a_class_can_choose_its_exchange(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_COURSE_EXCHANGE", str(tmp_path / "for" / "all"))
    assert settings(copy).Exchange.root == str(tmp_path / "for" / "all")
    assert (tmp_path / "for" / "all").is_dir() and not (copy / "exchange").exists()


def test_alembic_is_found_without_an_activated_environment(copy, monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    assert not shutil.which("alembic")
    settings(copy)
    assert Path(shutil.which("alembic")).parent == Path(sys.executable).parent
