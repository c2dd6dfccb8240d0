"""The repository as an nbgrader course: an assignment's whole way through a class and back.

The instructor works with the API behind formgrader's buttons, a student with the one behind the
Assignment List, each in a copy of the course of their own.
"""

import csv
import os
import re
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
from nbgrader.plugins import FileNameCollectorPlugin
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

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange needs POSIX"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Object of type <Submitted"),
]

COMMENT = "Name the latency, too."


class Person:
    """Somebody with a copy of the course and settings of their own, on the class's machine."""

    def __init__(self, folder, exchange, monkeypatch, name=None):
        self.folder, self.monkeypatch = course(folder), monkeypatch
        self.environment = {
            "QLORA_COURSE_EXCHANGE": str(exchange),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
        }
        (folder / "config").mkdir()
        if name:  # nbgrader asks the system for it, and here everybody is the same user
            settings = folder / "config" / "nbgrader_config.py"
            settings.write_text(f"get_config().CourseDirectory.student_id = {name!r}\n")

    def sit_down(self):
        """Be the one at the keyboard from here on."""
        for name, value in self.environment.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.chdir(self.folder)

    def nbgrader(self, *arguments):
        """Run a command of nbgrader; returns what it logged."""
        command = [sys.executable, "-m", "nbgrader", *arguments]
        environment = os.environ | self.environment
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr


class Instructor(Person):
    def do(self, action, *arguments):
        """Press one of formgrader's buttons; returns what nbgrader logged."""
        result = getattr(self.api(), action)(ASSIGNMENT, *arguments)
        assert result["success"], result.get("error") or result.get("log")
        return result.get("log", "")

    def api(self):
        self.sit_down()
        app = NbGrader()
        app.initialize([])
        return NbGraderAPI(app.coursedir, parent=app)

    def grade_by_hand(self, student, score, comment):
        """What formgrader stores for a score and a comment in its form."""
        with self.api().gradebook as gradebook:
            place = ("why-merge", ASSIGNMENT, ASSIGNMENT, student)
            grade = gradebook.find_grade(*place)
            assert grade.needs_manual_grade
            grade.manual_score, grade.needs_manual_grade = score, False
            gradebook.find_comment(*place).manual_comment = comment
            gradebook.db.commit()

    def export(self):
        """The marks as a CSV file has them: student → row."""
        self.nbgrader("export")
        with (self.folder / "grades.csv").open(newline="") as file:
            return {row["student_id"]: row for row in csv.DictReader(file)}


class Student(Person):
    def do(self, action, *arguments):
        """Use the Assignment List; returns what it then shows, in order."""
        self.sit_down()
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
    monkeypatch.setattr(sys, "path", [*sys.path])  # nbgrader puts the course there
    return Instructor(tmp_path / "instructor", exchange, monkeypatch)


@pytest.fixture
def students(tmp_path, exchange, monkeypatch):
    names = ("student01", "student02")
    return [Student(tmp_path / name, exchange, monkeypatch, name) for name in names]


# --- the whole way -------------------------------------------------------------------------------


def test_an_assignment_goes_through_the_exchange_and_comes_back(instructor, students):
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
    assert "Not right yet" in pages[1] and "Traceback (most recent" not in pages[1]


def test_files_from_a_learning_management_system_are_graded_alike(instructor, tmp_path):
    """Names as Colab, a browser and Canvas make them; a zip archive beside loose files."""
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

    log = instructor.nbgrader("zip_collect", ASSIGNMENT)
    stored = sorted((instructor.folder / "submitted").glob("*/*/*.ipynb"))
    names = [str(path.relative_to(instructor.folder / "submitted")) for path in stored]
    assert names == [f"student0{number}/{NOTEBOOK}" for number in range(1, 5)]
    assert "4 files collected, 2 files skipped" in log
    assert "Skipped notebook with invalid name '04_nf4.ipynb'" in log
    assert re.search("Skipped submission with no match information provided: .*report.ipynb", log)

    grade(instructor)
    page = instructor.folder / "feedback" / "student02" / ASSIGNMENT / f"{ASSIGNMENT}.html"
    assert MESSAGE in page.read_text(encoding="utf-8")


def grade(instructor):
    """Run two submissions, mark their texts, write the feedback; checks the scores on the way."""
    names = ("student01", "student02")
    for name in names:
        instructor.do("autograde", name)
    assert scores(instructor, names) == [2, 0]
    instructor.grade_by_hand("student01", 2.5, COMMENT)
    instructor.grade_by_hand("student02", 3, "")
    assert scores(instructor, names) == [4.5, 3]
    instructor.do("generate_feedback")


def scores(instructor, names):
    """The scores in the exported file, of 5 points each."""
    rows = instructor.export()
    assert rows.keys() == set(names) and {float(row["max_score"]) for row in rows.values()} == {5}
    return [float(rows[name]["score"]) for name in names]


def feedback_of(student):
    """The page that a student gets back."""
    student.do("fetch_feedback", "qlora", ASSIGNMENT)
    (submitted,) = [listed for listed in student.listed() if listed["status"] == "submitted"]
    (submission,) = submitted["submissions"]
    folder = student.folder / submission["local_feedback_path"]
    return (folder / f"{ASSIGNMENT}.html").read_text(encoding="utf-8")


# --- the settings --------------------------------------------------------------------------------


def settings(folder):
    """The configuration in a folder, as nbgrader reads it."""
    return PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the course on a machine that sets nothing up for a class."""
    monkeypatch.delenv("QLORA_COURSE_EXCHANGE", raising=False)
    return course(tmp_path / "course")


@pytest.mark.parametrize("folder", [".", "my_assignments"])
def test_settings_hold_wherever_nbgrader_reads_them(copy, folder, monkeypatch):
    monkeypatch.chdir("/")
    found = settings(copy / folder)
    assert found.CourseDirectory.root == str(copy)
    assert found.CourseDirectory.source_directory == "solutions"
    assert found.CourseDirectory.release_directory == "exercises"
    assert found.Exchange.root == str(copy / "exchange")
    assert found.Exchange.assignment_dir == str(copy / "my_assignments")


def test_everybody_may_write_to_the_exchange_and_remove_only_what_is_theirs(copy):
    settings(copy)
    assert stat.S_IMODE((copy / "exchange").stat().st_mode) == 0o1777


def test_an_exchange_that_is_there_is_left_as_it_is(copy):
    (copy / "exchange").mkdir(mode=0o700)
    settings(copy)
    assert stat.S_IMODE((copy / "exchange").stat().st_mode) == 0o700


def test_a_class_names_its_own_exchange(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_COURSE_EXCHANGE", str(tmp_path / "for" / "all"))
    assert settings(copy).Exchange.root == str(tmp_path / "for" / "all")
    assert (tmp_path / "for" / "all").is_dir() and not (copy / "exchange").exists()


def test_an_exchange_that_cannot_be_made_stops_nobody(copy, monkeypatch):
    (copy / "a-file").touch()
    monkeypatch.setenv("QLORA_COURSE_EXCHANGE", "a-file/exchange")
    assert settings(copy).CourseDirectory.course_id == "qlora"


def test_alembic_is_found_without_an_activated_environment(copy, monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    assert not shutil.which("alembic")
    settings(copy)
    assert Path(shutil.which("alembic")).parent == Path(sys.executable).parent


@pytest.mark.parametrize(
    ("name", "student", "notebook"),
    [
        ("student01_03_lora", "student01", "03_lora"),
        ("student01_12345_67890_03_lora", "student01", "03_lora"),
        ("student01_LATE_12345_67890_03_lora-1", "student01", "03_lora"),
        ("student01_03_lora (1)", "student01", "03_lora"),
        ("student01_04_nf4(2)", "student01", "04_nf4"),
        ("student01_04_nf4-Copy1", "student01", "04_nf4"),
        ("student01_Copy of 03_lora", "student01", "03_lora"),
        ("student01_Copy of Copy of 04_nf4 (12)", "student01", "04_nf4"),
        ("student01_Copy_of_03_lora", "student01", "03_lora"),
        ("student_01_06_paged_optimizers", "student_01", "06_paged_optimizers"),
        ("1234567_01_supervised_fine_tuning", "1234567", "01_supervised_fine_tuning"),
        ("student.01@example.org_07_qlora", "student.01@example.org", "07_qlora"),
        ("Student One_1234567_assignsubmission_file_02_memory", "Student One", "02_memory"),
    ],
)
def test_names_of_files_tell_student_and_notebook(copy, name, student, notebook):
    found = FileNameCollectorPlugin(config=settings(copy)).collect(f"/downloaded/{name}.ipynb")
    assert found == {"student_id": student, "file_id": notebook}


@pytest.mark.parametrize("name", ["03_lora", "student01_report", "student01", ".._03_lora"])
def test_names_without_a_student_or_a_notebook_are_refused(copy, name):
    collector = FileNameCollectorPlugin(config=settings(copy))
    assert collector.collect(f"/student01_03_lora.ipynb/{name}.ipynb") is None
