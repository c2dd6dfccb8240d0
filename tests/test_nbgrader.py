"""Test the repository as an nbgrader course, from the release of an assignment to the feedback.

The instructor uses the functions that formgrader's buttons call. The students' files come from a
learning management system. test_nbgrader_browser.py tests the exchange in JupyterLab.
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
from workshop.grading.read import LEFT_OUT, NOBODY

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange needs POSIX"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Object of type <Submitted"),
]

COMMENT = "Name the latency, too."


class Instructor:
    """A person with a copy of the course and with separate settings, on the class's machine."""

    def __init__(self, folder, exchange, monkeypatch):
        self.folder, self.monkeypatch = course(folder), monkeypatch
        self.environment = {
            "QLORA_COURSE_EXCHANGE": str(exchange),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
        }
        (folder / "config").mkdir()

    def nbgrader(self, *arguments):
        """Run a command of nbgrader, and return its log."""
        command = [sys.executable, "-m", "nbgrader", *arguments]
        environment = os.environ | self.environment
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def do(self, action, *arguments):
        """Do what one of formgrader's buttons does, and return nbgrader's log."""
        result = getattr(self.api(), action)(ASSIGNMENT, *arguments)
        assert result["success"], result.get("error") or result.get("log")
        return result.get("log", "")

    def api(self):
        for name, value in self.environment.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.chdir(self.folder)
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


@pytest.fixture
def instructor(tmp_path, monkeypatch):
    # nbgrader adds the course to this list.
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Instructor(tmp_path / "instructor", tmp_path / "exchange", monkeypatch)


# --- a whole cycle --------------------------------------------------------------------------------


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
    assert [line.split("'")[1] for line in notes] == ["report.ipynb", "student05_04_nf4.ipynb"]

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
