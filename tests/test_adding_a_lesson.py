"""Test docs/adding-a-lesson.md: add a small lesson to a copy of the course as the page explains."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests import lesson
from tests.cells import ROOT

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("adding_a_lesson")]

# docs/adding-a-lesson.md lists these places and these commands.
PLACES = ("lectures/90_sums.ipynb", "course_utils/sums.py", "tests/test_sums.py")
PLACES += ("solutions/90_sums/90_sums.ipynb", "tests/mutants/90_sums/")
COMMANDS = (
    ("tests.expected", "90_sums"),
    ("workshop.cli", "notebooks", "fix"),
    ("workshop.cli", "release"),
    ("workshop.cli", "notebooks", "check"),
)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Return a copy of the course in git, to which the lesson was added as the page explains."""
    folder = tmp_path_factory.mktemp("copy") / "course"
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "the course"]):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    lesson.write(folder)
    for command in COMMANDS:
        run(folder, *command)
    return folder


def run(folder, module, *arguments):
    """Run a module in the copy, with the package in the copy, and return its output."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTEST_ADDOPTS": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_only_files_in_five_places_are_written_by_hand(course):
    generated = {"README.md", "docs/index.md"}
    generated |= {"lectures/00_setup.ipynb", "exercises/README.md"}
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    changed = subprocess.check_output(status, cwd=course, text=True).splitlines()
    others = {line[3:] for line in changed if not line[3:].startswith(PLACES)}
    assert others == generated | {"exercises/90_sums/90_sums.ipynb"}
    for page in ("README.md", "docs/index.md", "lectures/00_setup.ipynb"):
        text = (course / page).read_text(encoding="utf-8")
        assert "[90 Sums: what do numbers add up to?](" in text, page


@pytest.mark.slow
def test_tests_of_the_lesson_and_of_all_lectures_and_assignments_pass(course):
    files = ["sums", "exercises", "lectures", "links", "readme", "packaging"]
    chosen = "test_sums or 90_sums or there_is or ids_of_tasks or exercises_are or table"
    paths = [f"tests/test_{name}.py" for name in files]
    report = run(course, "pytest", "-q", "-m", "not slow", "-k", chosen, *paths)
    assert re.search(r"\d\d passed", report), report
