"""Test the students' version of the course: it works, and contains no solution or hidden test."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from course_utils.machine import notebooks
from course_utils.machine.validation import CourseError
from tests import assignment
from workshop.grading import assignments, student_repo
from workshop.publishing import addresses, notebook_check

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

pytestmark = pytest.mark.xdist_group("student_repo")

ROOT = Path(__file__).resolve().parents[1]
CACHES = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")

# A line of the small assignment's solution, a line of its hidden tests, and its answer in words.
ANSWER = 'raise ValueError("no numbers")'
TEST = "numbers = [draw.randint(-9, 9) for _ in range(draw.randint(1, 9))]"
WORDS = "A sum represents many numbers, but doesn't reveal any of them."


def git(folder, *arguments):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def commit(folder):
    """Commit all files of a folder, in a git repository in this folder."""
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "state")


def copy_course(target):
    """Copy this course without its assignments."""
    for name in (*student_repo.FOLDERS, "docs"):
        shutil.copytree(ROOT / name, target / name, ignore=CACHES)
    for name in student_repo.FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a course with one small assignment, in git."""
    folder = copy_course(tmp_path_factory.mktemp("small") / "course")
    content = assignment.notebook()
    assignment.change(content, "sum-why", "Adding is useful.", WORDS)
    assignment.write(folder, content)
    student_repo.release.release(folder, gradebook=False)
    commit(folder)
    return folder


@pytest.fixture
def course(small, tmp_path):
    """Return a copy of the small course, which a test may change."""
    return Path(shutil.copytree(small, tmp_path / "course"))


@pytest.fixture
def no_release(monkeypatch):
    """Skip the release by nbgrader, which the course contains already, to save a second."""
    monkeypatch.setattr(student_repo.release, "release", lambda *_, **__: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a folder with the students' version of the whole course."""
    folder = copy_course(tmp_path_factory.mktemp("whole") / "course")
    shutil.copytree(ROOT / "solutions", folder / "solutions", ignore=CACHES)
    commit(folder)
    tree = folder.parent / "students"
    assert student_repo.write(folder, tree) == []
    return tree


def files(tree):
    return {p.relative_to(tree).as_posix(): p for p in tree.rglob("*") if p.is_file()}


# --- this course ----------------------------------------------------------------------------------


@pytest.mark.full
def test_the_students_version_contains_what_students_need(whole):
    names = files(whole).keys()
    tops = {"README.md", "docs", "exercises", *student_repo.FOLDERS}
    tops |= {name.partition("/")[0] for name in student_repo.FILES}
    assert {name.partition("/")[0] for name in names} == tops
    assert not any(name.startswith("workshop/benchmarks/") for name in names)
    exercises = {name for name in names if name.startswith("exercises/")}
    released = {f"exercises/{path.stem}/{path.name}" for path in assignments.sources(ROOT)}
    assert exercises == {"exercises/README.md"} | released
    lectures = {name for name in names if name.startswith("lectures/")}
    paths = (*notebooks.lectures(ROOT), ROOT / "lectures" / "finetune_plain.py")
    assert lectures == {path.relative_to(ROOT).as_posix() for path in paths}
    assert {"course_utils/data/news_briefs.jsonl", "binder/postBuild"} <= names
    assert os.access(whole / "binder/postBuild", os.X_OK)


@pytest.mark.full
def test_the_package_works_in_the_students_version(whole):
    """The second command fails if a notebook is not clean."""
    environment = {**os.environ, "PYTHONPATH": str(whole), "PYTHONDONTWRITEBYTECODE": "1"}
    location = ("-c", "import course_utils; print(course_utils.__file__)")
    for command in location, ("-m", "workshop.cli", "notebooks", "check"):
        command = [sys.executable, *command]
        done = subprocess.run(command, cwd=whole, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if location[1] in command:
            assert done.stdout == f"{whole / 'course_utils/__init__.py'}\n"


# --- solutions and hidden tests that must be found ------------------------------------------------


def put(course, name, text):
    (course / name).parent.mkdir(parents=True, exist_ok=True)
    (course / name).write_text(text, encoding="utf-8")


PIECES = [ANSWER[start : start + 9] for start in range(0, len(ANSWER), 9)]
# nbconvert writes each word of code in its own tag.
COLOURED = " ".join(f'<span class="n">{html.escape(word)}</span>' for word in TEST.split())
TWO_LINES = f"{TEST}\ncheck(squares, numbers).gives(sum(n * n for n in numbers))\n"
# A file, its content, and why it must not be given to students.
LEAKS = [
    ("lectures/a.md", "### BEGIN SOLUTION", "contains the line '### BEGIN SOLUTION'"),
    ("binder/a.ipynb", json.dumps([{"source": PIECES}]), "contains the solution of sum-all in"),
    ("lectures/a.html", f"<pre>{COLOURED}</pre>", "contains a hidden test of sum-all-values in"),
    ("lectures/a.md", f"By the way: {WORDS}", "contains the solution of sum-why in"),
    ("course_utils/a.py", TWO_LINES, "contains a hidden test of sum-squares-values in"),
    ("lectures/a.zip", b"PK\x03\x04\xff", "is not text, a picture or safetensors, so it can't be"),
    (
        "lectures/a.safetensors",
        save({"A": np.full(9, np.pi)}, {"note": ANSWER}),
        "contains the solution of sum-all in",
    ),
]


@pytest.mark.full
@pytest.mark.parametrize(("name", "content", "reason"), LEAKS)
def test_nothing_is_written_if_a_solution_or_a_hidden_test_is_found(
    course, no_release, tmp_path, name, content, reason
):
    (course / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    commit(course)
    with pytest.raises(CourseError) as caught:
        student_repo.write(course, tmp_path / "students")
    assert str(caught.value).startswith(f"nothing was written, because {name} {reason}")
    assert not (tmp_path / "students").exists()


@pytest.mark.full
@pytest.mark.parametrize("module", ["course_utils/lora.py", "course_utils/lora/deep/part.py"])
def test_lines_of_withheld_modules_and_of_releases_are_allowed(
    course, no_release, tmp_path, module
):
    known = course / "course_utils/lora.py"
    put(course, module, f"{known.read_text(encoding='utf-8')}\n# {ANSWER}\n")
    put(course, "lectures/notes.md", f"{ANSWER}, and check(add, [3, 4, 5]).gives(12, likely=")
    commit(course)
    student_repo.write(course, tmp_path / "students")
    assert (tmp_path / "students/lectures/notes.md").is_file()


@pytest.mark.full
def test_each_solution_and_hidden_test_of_this_course_has_an_identifying_line():
    secrets = student_repo.secrets(ROOT)
    assert len(secrets) > 90 and all(secrets.values())


# --- files that git tracks ------------------------------------------------------------------------


@pytest.mark.full
def test_untracked_files_are_left_out(course, no_release, tmp_path):
    put(course, "lectures/whom-to-ask.txt", "private")
    for kind in ("solutions", "exercises"):
        put(course, f"{kind}/09_sums/marks.csv", "student01,3")
    put(course, "submitted/student01/09_sums/09_sums.ipynb", "{}")
    put(course, "gradebook.db", "marks")
    put(course, "lectures/__pycache__/x.pyc", "x")
    left_out = student_repo.write(course, tmp_path / "students")
    assert left_out == [
        "lectures/whom-to-ask.txt",
        "solutions/09_sums/marks.csv",
    ]
    names = files(tmp_path / "students").keys()
    assert not [n for n in names if re.search("whom|marks|submitted|gradebook.db|pycache", n)]
    assert "exercises/09_sums/09_sums.ipynb" in names


def test_an_untracked_assignment_is_an_error(course, tmp_path):
    assignment.write(course, name="10_draft")
    with pytest.raises(CourseError) as caught:
        student_repo.write(course, tmp_path / "students")
    assert str(caught.value) == (
        "solutions/10_draft/10_draft.ipynb is not in git: commit it, or move it out of solutions/"
    )


# --- the target -----------------------------------------------------------------------------------


@pytest.mark.full
def test_a_git_work_tree_is_updated(course, no_release, tmp_path):
    target = tmp_path / "students"
    target.mkdir()
    student_repo.write(course, target)
    put(target, "syllabus.md", "Mondays, at nine.")
    put(target, ".github/workflows/ci.yml", "on: push")
    commit(target)
    put(target, ".venv/kept", "ignored by git")
    head = git(target, "rev-parse", "HEAD")
    git(course, "mv", "lectures/06_paged_optimizers.ipynb", "lectures/08_paging.ipynb")
    put(course, "LICENSE", "another one")
    commit(course)
    student_repo.write(course, target)
    # The command changes files, but commits nothing.
    assert git(target, "rev-parse", "HEAD") == head
    assert sorted(git(target, "status", "--porcelain").splitlines()) == [
        " D lectures/06_paged_optimizers.ipynb",
        " M LICENSE",
        " M README.md",
        " M lectures/00_setup.ipynb",
        "?? lectures/08_paging.ipynb",
    ]
    kept = ("syllabus.md", ".github/workflows/ci.yml", ".venv/kept")
    assert all((target / name).exists() for name in kept)


def dirty(target):
    git(target, "init", "-q")
    return "{target} has uncommitted changes: commit or remove them"


def with_solutions(target):
    put(target, "solutions/README.md", "x")
    commit(target)
    return "{target} contains solutions/, which students must not get"


def other_files(target):
    return "{target} exists, but is neither empty nor a git work tree: choose another folder"


def broken_git(target):
    put(target, ".git/HEAD", "x")
    return "git can't read {target}: fatal: not a git repository"


@pytest.mark.parametrize("prepare", [dirty, with_solutions, other_files, broken_git])
def test_an_unsuitable_target_is_not_changed(course, tmp_path, prepare):
    target = tmp_path / "students"
    put(target, "thesis.md", "mine")
    message = prepare(target)
    before = {name: path.read_bytes() for name, path in files(target).items()}
    before_release = (course / "exercises/README.md").stat().st_mtime_ns
    with pytest.raises(CourseError) as caught:
        student_repo.write(course, target)
    assert str(caught.value).startswith(message.format(target=target))
    assert {name: path.read_bytes() for name, path in files(target).items()} == before
    assert before_release == (course / "exercises/README.md").stat().st_mtime_ns


@pytest.mark.full
def test_files_that_stay_in_the_work_tree_are_searched_too(course, no_release, tmp_path):
    target = tmp_path / "students"
    student_repo.write(course, target)
    put(target, "hints/week-1.md", ANSWER)
    commit(target)
    with pytest.raises(CourseError, match=r"hints/week-1\.md contains the solution of sum-all"):
        student_repo.write(course, target)


# --- addresses ------------------------------------------------------------------------------------

INSTRUCTORS, STUDENTS = "https://github.com/example/course", "https://github.com/example/class"


@pytest.mark.full
@pytest.mark.parametrize("students", [STUDENTS, ""])
def test_addresses_are_those_of_the_students_repository(course, no_release, tmp_path, students):
    if students:
        text = (course / "pyproject.toml").read_text(encoding="utf-8")
        urls = f'[project.urls]\nStudents = "{students}"\n\n[project.scripts]'
        put(course, "pyproject.toml", text.replace("[project.scripts]", urls, 1))
    addresses.write(course, INSTRUCTORS)
    notebook_check.fix_course(course)
    commit(course)
    tree = tmp_path / "students"
    student_repo.write(course, tree)
    assert addresses.read(tree) == addresses.Addresses(students, students)
    for name in ("README.md", "lectures/03_lora.ipynb", "exercises/09_sums/09_sums.ipynb"):
        text = (tree / name).read_text(encoding="utf-8")
        link = "colab.research.google.com/github/example/class/blob/"
        assert (link in text) == bool(students)
    # No link leads to the solutions.
    assert not any(b"example/course" in path.read_bytes() for path in files(tree).values())
    assert [notebook_check.check(path) for path in notebooks.all_notebooks(tree)] == [[]] * 11
