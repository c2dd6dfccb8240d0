"""docs/adding-a-lesson.md, followed: a lesson is written in five places, and its checks pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import lesson

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/adding-a-lesson.md").read_text(encoding="utf-8")
PLACES = re.findall(r"^\| `(\S+)` \|", PAGE, re.MULTILINE)
COMMANDS = re.findall(r"^(?:make|\.venv/bin/course) (\w[^#\n]*?) *(?:#.*)?$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy of the course under git, to which the lesson was added as the page says."""
    folder = tmp_path_factory.mktemp("copy") / "course"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "the course"]):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    lesson.write(folder)
    for command in COMMANDS[:2]:
        run(folder, "course_utils.cli", *command.split())
    return folder


def run(folder, module, *arguments):
    """Run a module in the copy, with the copy's own package; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTEST_ADDOPTS": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
    return done.stdout


def changed(folder):
    """The files of the copy that are new or have changed, by git."""
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    lines = subprocess.run(status, cwd=folder, capture_output=True, text=True, check=True).stdout
    return {line[3:] for line in lines.splitlines()}


def test_the_page_names_five_places_and_the_commands():
    assert len(PLACES) == 5
    assert COMMANDS[:2] == ["release", "notebooks fix"]


def test_what_is_written_is_in_the_five_places_and_the_rest_is_generated(course):
    generated = {"README.md", "docs/index.md", "lectures/00_setup.ipynb", "exercises/README.md"}
    rest = {name for name in changed(course) if not name.startswith(tuple(PLACES))}
    assert rest == generated | {"exercises/08_sums/08_sums.ipynb"}


def test_the_tables_name_the_lesson(course):
    for page in ("README.md", "docs/index.md", "lectures/00_setup.ipynb"):
        assert "What is 1 + 2 + 3?" in (course / page).read_text(encoding="utf-8"), page


@pytest.mark.parametrize(
    "command",
    [
        ["course_utils.cli", "notebooks", "check"],
        ["course_utils.cli", "release", "--check"],
        ["course_utils.cli", "lint"],
    ],
    ids=" ".join,
)
def test_the_linters_pass(course, command):
    run(course, *command)


def test_the_tests_pass(course):
    """Those of the new files, and those that look at every lecture, assignment or module."""
    files = ["sums", "exercises", "lectures", "readme", "packaging", "instructor_guide"]
    chosen = "test_sums or 08_sums or there_are or there_is or names_of or exercises_are or table"
    paths = [f"tests/test_{name}.py" for name in files]
    report = run(course, "pytest", "-q", "-m", "not slow", "-k", chosen, *paths)
    assert re.search(r"\d\d passed", report), report


def test_a_wrong_number_in_the_lesson_breaks_the_lesson_alone(course):
    """The sum is quoted by the lecture's own assertion, and by nothing else in the course."""
    path = course / "lectures/08_sums.ipynb"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("add([1, 2, 3])", "add([1, 2, 4])"), encoding="utf-8")
    try:
        with pytest.raises(AssertionError, match="cell add"):
            run(course, "pytest", "-q", "-k", "08_sums", "tests/test_lectures.py")
        run(course, "course_utils.cli", "notebooks", "check")
    finally:
        path.write_text(text, encoding="utf-8")
