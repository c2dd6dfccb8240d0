"""grading.student_repo: the students' side works by itself; no answer, no hidden test is in it."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course_utils import notebooks
from course_utils.grading import student_repo
from course_utils.publishing import addresses, notebook_check
from course_utils.validation import CourseError
from tests import assignment

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

ROOT = Path(__file__).resolve().parents[1]
CACHES = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
REGION = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)### END \1", re.S)

ANSWER = 'raise ValueError("no numbers")'  # a line of the small assignment's solutions
TEST = "numbers = [draw.randint(-9, 9) for _ in range(draw.randint(1, 9))]"  # and of its tests
WORDS = "A sum stands for many numbers, and keeps none."  # and what its question is answered by


def git(folder, *arguments):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def commit(folder):
    """All files of a folder into a repository of its own."""
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "state")


def copied(target):
    """The course as it is here, without its assignments, in a folder of its own."""
    for name in (*student_repo.FOLDERS, "tests/mutants", "docs"):
        shutil.copytree(ROOT / name, target / name, ignore=CACHES)
    for name in student_repo.FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A course with one small assignment, in git."""
    folder = copied(tmp_path_factory.mktemp("small") / "course")
    content = assignment.notebook()
    assignment.change(content, "sum-why", "Adding is useful.", WORDS)
    assignment.write(folder, content)
    student_repo.release.release(folder, gradebook=False)
    commit(folder)
    return folder


@pytest.fixture
def course(small, tmp_path):
    """A copy of the small course, to change."""
    return Path(shutil.copytree(small, tmp_path / "course"))


@pytest.fixture
def released(monkeypatch):
    """The release, which takes nbgrader a second, is left out: it lies in the course."""
    monkeypatch.setattr(student_repo.release, "release", lambda *_, **__: None)


def write(course, target):
    return student_repo.write(course, target, gradebook=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """This course with its assignments, in git; a folder of its students, and a zip."""
    folder = copied(tmp_path_factory.mktemp("whole") / "course")
    shutil.copytree(ROOT / "solutions", folder / "solutions", ignore=CACHES)
    commit(folder)
    tree, archive = folder.parent / "students", folder.parent / "students.zip"
    assert write(folder, tree) == []
    with pytest.MonkeyPatch.context() as once:
        once.setattr(student_repo.release, "release", lambda *_, **__: None)  # it has been done
        write(folder, archive)
    return folder, tree, archive


def files(tree):
    return {p.relative_to(tree).as_posix(): p for p in tree.rglob("*") if p.is_file()}


# --- this course ----------------------------------------------------------------------------------


def test_the_tree_holds_what_students_need(whole):
    _, tree, _ = whole
    names = files(tree).keys()
    assert {name.partition("/")[0] for name in names} == {
        ".config",
        ".gitattributes",
        ".gitignore",
        "CITATION.cff",
        "LICENSE",
        "LICENSES",
        "Makefile",
        "README.md",
        "binder",
        "constraints.txt",
        "course_utils",
        "environment.yml",
        "exercises",
        "lectures",
        "my_assignments",
        "nbgrader_config.py",
        "pyproject.toml",
    }
    assert [name for name in sorted(names) if name.startswith("exercises/")] == [
        "exercises/01_supervised_fine_tuning/01_supervised_fine_tuning.ipynb",
        "exercises/02_memory/02_memory.ipynb",
        "exercises/03_lora/03_lora.ipynb",
        "exercises/04_nf4/04_nf4.ipynb",
        "exercises/05_double_quantization/05_double_quantization.ipynb",
        "exercises/06_paged_optimizers/06_paged_optimizers.ipynb",
        "exercises/07_qlora/07_qlora.ipynb",
        "exercises/README.md",
    ]
    assert len([name for name in names if name.startswith("lectures/")]) == 8
    assert {"course_utils/data/news_briefs.jsonl", "binder/postBuild"} <= names
    assert os.access(tree / "binder/postBuild", os.X_OK)


def text_of(data):
    """All text in JSON; the lines of a cell are one text."""
    if isinstance(data, dict):
        return "\n".join(f"{key}\n{text_of(value)}" for key, value in data.items())
    if isinstance(data, list):
        return ("" if all(isinstance(part, str) for part in data) else "\n").join(
            map(text_of, data)
        )
    return str(data)


def readable(path):
    """A file's text, as it is and as JSON means it, without the spaces that don't matter."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text += text_of(json.loads(text))
    return " ".join(text.split())


def cells(folder, kind):
    """Name and source of the cells of every assignment in solutions/ or exercises/."""
    for path in sorted((folder / kind).glob("*/*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            yield f"{path.stem}: {cell['id']}", "".join(cell["source"])


def test_no_line_of_a_solution_or_a_hidden_test_is_in_the_tree(whole):
    """Not those that a release shows as well, nor those that the package has for itself."""
    course, tree, _ = whole
    shown = " ".join(" ".join(source.split()) for _, source in cells(ROOT, "exercises"))
    package = " ".join(readable(path) for path in (tree / "course_utils").rglob("*.py"))
    texts = {name: readable(path) for name, path in files(tree).items()}
    everyday = ("import ", "from ", "for ", "if ", "with ", "else", "elif ", "def ", "class ")
    looked_for = 0
    for name, source in cells(course, "solutions"):
        for _, region in REGION.findall(source):
            for line in (" ".join(line.split()) for line in region.splitlines()):
                known = line in shown or line in package
                if len(line) <= 25 or line.startswith(everyday) or known:
                    continue
                looked_for += 1
                assert [file for file, text in texts.items() if line in text] == [], (name, line)
    assert looked_for > 900


def test_no_mark_of_a_solution_or_a_hidden_test_is_in_the_tree(whole):
    """But in the modules that say what these marks are."""
    _, tree, _ = whole
    marked = re.compile("BEGIN SOLUTION|END SOLUTION|BEGIN HIDDEN|END HIDDEN")
    assert [name for name, path in files(tree).items() if marked.search(readable(path))] == [
        name
        for name in files(tree)
        if name
        in (
            "course_utils/checks.py",
            "course_utils/grading/assignments.py",
        )
    ]


def test_no_answer_of_the_mutants_is_in_the_tree(whole):
    course, tree, _ = whole
    answers = {
        " ".join(path.read_text(encoding="utf-8").split())
        for path in (course / "tests/mutants").rglob("*.py")
    }
    assert len(answers) > 30
    assert not any(readable(path) in answers for path in files(tree).values())


def test_the_zip_holds_the_same(whole, tmp_path):
    _, tree, archive = whole
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
        modes = {info.filename: info.external_attr >> 16 for info in opened.infolist()}
    unpacked = files(tmp_path / "students")
    assert [path.name for path in tmp_path.iterdir()] == ["students"]
    assert unpacked.keys() == files(tree).keys()
    assert all(p.read_bytes() == (tree / name).read_bytes() for name, p in unpacked.items())
    assert modes["students/binder/postBuild"] & 0o111


def test_notebooks_of_the_tree_are_clean(whole):
    _, tree, _ = whole
    found = notebooks.all_notebooks(tree)
    assert len(found) == 15
    assert {path.name: notebook_check.check(path) for path in found} == {p.name: [] for p in found}


def test_exercises_are_those_of_the_course(whole):
    _, tree, _ = whole
    assert list(cells(tree, "exercises")) == list(cells(ROOT, "exercises"))


def test_links_of_the_tree_lead_somewhere(whole):
    _, tree, _ = whole
    followed = 0
    for name, path in files(tree).items():
        if path.suffix not in (".md", ".ipynb"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = text_of([c["source"] for c in json.loads(text)["cells"]])
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            followed += 1
            assert (path.parent / link).exists(), f"{name} links to {link}"
    assert followed > 40


def test_the_first_page_names_every_lecture(whole):
    _, tree, _ = whole
    text = (tree / "README.md").read_text(encoding="utf-8")
    for path in notebooks.lectures(tree):
        assert f"](lectures/{path.name})" in text
    assert "solutions" not in text and "docs/" not in text
    assert "solutions" not in (tree / "exercises/README.md").read_text(encoding="utf-8")


def test_commands_of_the_tree(whole):
    _, tree, _ = whole
    # These tests may have been started by make themselves, which then says so in its output.
    apart = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    run = {"cwd": tree, "env": apart, "capture_output": True, "text": True, "check": True}
    done = subprocess.run(["make"], **run)
    targets = [line.split()[0] for line in done.stdout.splitlines()]
    assert targets == ["setup", "lab", "run", "check", "fetch-model", "clean"]
    (tree / "build").mkdir()
    subprocess.run(["make", "clean"], **run)
    assert not (tree / "build").exists()


def in_tree(tree, *command):
    """Run Python in the tree, with the tree's own package."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_of_the_tree_works_there(whole):
    _, tree, _ = whole
    where = "import course_utils; print(course_utils.__file__)"
    assert in_tree(tree, "-c", where) == f"{tree / 'course_utils/__init__.py'}\n"
    assert (
        in_tree(tree, "-m", "course_utils.cli", "notebooks", "check") == "15 notebooks are clean\n"
    )
    assert "Run the QLoRA course" in in_tree(tree, "-m", "course_utils.cli", "--help")


@pytest.mark.slow
def test_a_lecture_runs_in_the_tree(whole):
    _, tree, _ = whole
    output = in_tree(tree, "-m", "course_utils.cli", "run", "--only", "00")
    assert "269,030,016 B = 269.03 MB" in output
    assert (tree / "build/lectures/00_setup.html").exists()


# --- what must not leave --------------------------------------------------------------------------


def solution(course):
    return json.loads((course / "solutions/09_sums/09_sums.ipynb").read_text(encoding="utf-8"))


def put(course, name, text):
    (course / name).parent.mkdir(parents=True, exist_ok=True)
    (course / name).write_text(text, encoding="utf-8")


def copied_solution(course):
    shutil.copy(course / "solutions/09_sums/09_sums.ipynb", course / "lectures/08_sums.ipynb")


def without_marks(course):
    """A cell of the solution in a lecture, its source one string, in ASCII."""
    path = course / "lectures/03_lora.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    source = f"# Übung\ndef add(numbers):\n    if not numbers:\n        {ANSWER}"
    notebook["cells"][4] |= {"cell_type": "markdown", "source": source}
    path.write_text(json.dumps(notebook), encoding="utf-8")


def in_pieces(course):
    """JSON with a line of the solution in pieces, as a notebook may hold it."""
    pieces = [ANSWER[start : start + 9] for start in range(0, len(ANSWER), 9)]
    put(course, "binder/try.ipynb", json.dumps({"cells": [{"id": "try", "source": pieces}]}))


def page(course):
    """A web page of a solved notebook, with colours, as nbconvert makes one."""
    words = (f'<span class="n">{html.escape(word)}</span>' for word in TEST.split())
    put(course, "lectures/sums.html", f"<html><pre>{' '.join(words)}</pre></html>")


def zipped(course):
    with zipfile.ZipFile(course / "lectures/more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(course / "solutions/09_sums/09_sums.ipynb", "09_sums.ipynb")


LEAKS = {
    "a solution beside the lectures": (
        copied_solution,
        "lectures/08_sums.ipynb, cell sum-all, holds the line '### BEGIN SOLUTION'",
    ),
    "an answer in a lecture": (
        without_marks,
        "lectures/03_lora.ipynb, cell ",
    ),
    "an answer in pieces": (
        in_pieces,
        "binder/try.ipynb, cell try, holds the solution of sum-all in 09_sums.ipynb",
    ),
    "a hidden test in a text": (
        lambda course: put(course, "lectures/notes.md", f"> Checked by\n> `{TEST}`\n"),
        "lectures/notes.md holds a hidden test of sum-all-values in 09_sums.ipynb",
    ),
    "a hidden test over two lines": (
        lambda course: put(course, "lectures/notes.md", TEST.replace(" for", "\n  for")),
        "lectures/notes.md holds a hidden test of sum-all-values in 09_sums.ipynb",
    ),
    "a hidden test on a page": (
        page,
        "lectures/sums.html holds a hidden test of sum-all-values in 09_sums.ipynb",
    ),
    "words that answer a question": (
        lambda course: put(course, "lectures/notes.md", f"By the way: {WORDS}"),
        "lectures/notes.md holds the solution of sum-why in 09_sums.ipynb",
    ),
    "hidden tests in the package": (
        lambda course: put(
            course, "course_utils/sums.py", f"draw = random.Random(0)\n{TEST}\ncheck(squares, "
            "numbers).gives(sum(n * n for n in numbers))\n"
        ),
        "course_utils/sums.py holds a hidden test of sum-squares-values in 09_sums.ipynb",
    ),
    "marks in the package": (
        lambda course: put(course, "course_utils/sums.py", "def f():\n    ### BEGIN SOLUTION\n"),
        "course_utils/sums.py holds the line '### BEGIN SOLUTION'",
    ),
    "notes beside an assignment": (
        lambda course: put(course, "exercises/09_sums/hints.txt", f"to teachers: {ANSWER}"),
        "exercises/09_sums/hints.txt holds the solution of sum-all in 09_sums.ipynb",
    ),
    "an archive": (
        zipped,
        "lectures/more.zip is neither text nor a picture, so it can't be looked through",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEAKS)
def test_nothing_is_written_where_something_would_leak(course, released, tmp_path, kind):
    plant, sentence = LEAKS[kind]
    plant(course)
    commit(course)
    target = tmp_path / ("students.zip" if kind == "an archive" else "students")
    with pytest.raises(CourseError) as caught:
        write(course, target)
    assert str(caught.value).startswith(f"nothing was written, for {sentence}")
    assert not target.exists()


def test_a_leak_names_the_cell_that_it_is_in(course, released, tmp_path):
    without_marks(course)
    (course / "lectures/03_lora.ipynb").rename(course / "lectures/08_more.ipynb")
    commit(course)
    place = json.loads((course / "lectures/08_more.ipynb").read_text())["cells"][4]["id"]
    with pytest.raises(CourseError) as caught:
        write(course, tmp_path / "students")
    assert str(caught.value) == (
        f"nothing was written, for lectures/08_more.ipynb, cell {place}, holds the solution of "
        "sum-all in 09_sums.ipynb, and 2 more like it"
    )


def test_hidden_tests_left_in_a_release(course, released, tmp_path):
    """As by another version of nbgrader, or other settings of it."""
    shutil.copy(course / "solutions/09_sums/09_sums.ipynb", course / "exercises/09_sums")
    with pytest.raises(CourseError, match=r"exercises/09_sums/09_sums\.ipynb, cell sum-all, holds"):
        write(course, tmp_path / "students")


@pytest.mark.parametrize("module", ["course_utils/lora.py", "course_utils/lora/deep/part.py"])
def test_what_the_course_itself_says_twice_is_no_leak(course, released, tmp_path, module):
    """A line of a module or a package that the assignment withholds, and one of the release."""
    known = course / "course_utils/lora.py"
    put(course, module, f"{known.read_text(encoding='utf-8')}\n# {ANSWER}\n")
    put(course, "lectures/notes.md", f"{ANSWER}, and check(add, [3, 4, 5]).gives(12, likely=")
    commit(course)
    write(course, tmp_path / "students")
    assert (tmp_path / "students/lectures/notes.md").exists()


def test_every_secret_of_this_course_has_a_line_by_which_it_is_known():
    """Some are in several places of a cell, and one of these may be short."""
    found = student_repo.secrets(ROOT)
    assert len({secret.what for secret in found}) > 90
    assert {secret.what for secret in found} == {secret.what for secret in found if secret.lines}


# --- what git holds -------------------------------------------------------------------------------


def test_what_git_does_not_hold_stays_behind(course, released, tmp_path):
    put(course, "lectures/whom-to-ask.txt", "private")
    for kind in ("solutions", "exercises"):
        put(course, f"{kind}/09_sums/marks.csv", "student01,3")
    put(course, "submitted/student01/09_sums/09_sums.ipynb", "{}")
    put(course, "gradebook.db", "marks")
    put(course, "lectures/__pycache__/x.pyc", "x")
    left_out = write(course, tmp_path / "students")
    assert left_out == [
        "exercises/09_sums/marks.csv",
        "lectures/whom-to-ask.txt",
        "solutions/09_sums/marks.csv",
    ]
    names = files(tmp_path / "students").keys()
    assert not [n for n in names if re.search("whom|marks|submitted|gradebook.db|pycache", n)]
    assert "exercises/09_sums/09_sums.ipynb" in names


def test_files_beside_an_assignment_go_along_if_git_holds_them(course, tmp_path):
    put(course, "solutions/09_sums/config.json", '{"vocab_size": 49152}')
    commit(course)
    assert write(course, tmp_path / "students") == []
    assert write(course, tmp_path / "again") == [], (
        "what was released isn't in git yet, and goes along"
    )
    path = tmp_path / "students/exercises/09_sums/config.json"
    assert path.read_text(encoding="utf-8") == '{"vocab_size": 49152}'


def test_a_draft_that_git_does_not_hold(course, tmp_path):
    assignment.write(course, name="10_draft")
    with pytest.raises(CourseError) as caught:
        write(course, tmp_path / "students")
    assert str(caught.value) == (
        "solutions/10_draft/10_draft.ipynb isn't in git: commit it, or move it out of solutions/"
    )


def test_without_git_the_course_is_known_by_name(course, released, tmp_path):
    write(course, tmp_path / "with-git")
    shutil.rmtree(course / ".git")
    put(course, "lectures/whom-to-ask.txt", "private")
    put(course, "exercises/09_sums/marks.csv", "student01,3")
    assert write(course, tmp_path / "students") == []
    assert files(tmp_path / "students").keys() == files(tmp_path / "with-git").keys()


# --- where it goes --------------------------------------------------------------------------------


def test_a_git_work_tree_is_brought_up_to_date(course, released, tmp_path):
    target = tmp_path / "students"
    target.mkdir()
    write(course, target)  # an empty folder
    put(target, "syllabus.md", "Mondays, at nine.")
    put(target, ".github/workflows/ci.yml", "on: push")
    commit(target)
    put(target, ".venv/kept", "ignored by git")
    head = git(target, "rev-parse", "HEAD")
    git(course, "mv", "lectures/06_paged_optimizers.ipynb", "lectures/08_paging.ipynb")
    put(course, "LICENSE", "another one")
    commit(course)
    write(course, target)
    assert git(target, "rev-parse", "HEAD") == head, "what is committed is for people to say"
    assert sorted(git(target, "status", "--porcelain").splitlines()) == [
        " D lectures/06_paged_optimizers.ipynb",
        " M LICENSE",
        " M README.md",
        "?? lectures/08_paging.ipynb",
    ]
    kept = ("syllabus.md", ".github/workflows/ci.yml", ".venv/kept")
    assert all((target / name).exists() for name in kept)


def test_the_same_release_twice_changes_nothing(course, released, tmp_path):
    write(course, tmp_path / "students")
    commit(tmp_path / "students")
    write(course, tmp_path / "students")
    assert git(tmp_path / "students", "status", "--porcelain") == ""


def dirty(target):
    git(target, "init", "-q")
    return "has changes that aren't committed: commit or remove them"


def with_solutions(target):
    put(target, "solutions/README.md", "x")
    commit(target)
    return "holds solutions/: students must not be given that folder"


def other_files(target):
    return "is neither new nor empty, and no git work tree: choose another folder"


def broken_git(target):
    put(target, ".git/HEAD", "x")
    return "can't be read by git"


@pytest.mark.parametrize("spoil", [dirty, with_solutions, other_files, broken_git])
def test_targets_that_are_refused(course, tmp_path, spoil):
    target = tmp_path / "students"
    put(target, "thesis.md", "mine")
    sentence = spoil(target)
    before = {name: path.read_bytes() for name, path in files(target).items()}
    before_release = (course / "exercises/README.md").stat().st_mtime_ns
    with pytest.raises(CourseError) as caught:
        write(course, target)
    assert str(caught.value) == f"{target} {sentence}"
    assert {name: path.read_bytes() for name, path in files(target).items()} == before
    assert before_release == (course / "exercises/README.md").stat().st_mtime_ns


def test_a_zip_that_is_there_is_refused(course, tmp_path):
    target = tmp_path / "students.zip"
    target.write_text("mine")
    with pytest.raises(CourseError, match="is there already: remove it, or choose another name"):
        write(course, target)
    assert target.read_text() == "mine"


def test_what_stays_in_a_work_tree_is_looked_through_too(course, released, tmp_path):
    target = tmp_path / "students"
    write(course, target)
    put(target, "hints/week-1.md", ANSWER)
    commit(target)
    with pytest.raises(CourseError, match=r"for hints/week-1\.md holds the solution of sum-all"):
        write(course, target)


def test_a_place_that_cannot_be_written_to(course, released, tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("students", "students.zip"):
        with pytest.raises(CourseError, match=f"file/{name} can't be written: "):
            write(course, tmp_path / "file" / name)


# --- addresses ------------------------------------------------------------------------------------

INSTRUCTORS, STUDENTS = "https://github.com/example/course", "https://github.com/example/class"


def published(course, **where):
    text = addresses.updated_project(course, addresses.Addresses(**where))
    put(course, "pyproject.toml", text)
    for path in notebooks.all_notebooks(course):
        notebook_check.fix(path)
    commit(course)


def test_the_tree_leads_to_itself(course, released, tmp_path):
    published(course, repository=INSTRUCTORS, students=STUDENTS)
    tree = tmp_path / "students"
    write(course, tree)
    assert addresses.read(tree) == addresses.Addresses(STUDENTS, STUDENTS)
    for name in ("README.md", "lectures/03_lora.ipynb", "exercises/09_sums/09_sums.ipynb"):
        text = (tree / name).read_text(encoding="utf-8")
        assert "colab.research.google.com/github/example/class/blob/" in text
    assert [n for n, path in files(tree).items() if "example/course" in readable(path)] == []
    assert [notebook_check.check(path) for path in notebooks.all_notebooks(tree)] == [[]] * 9


def test_without_a_students_address_nothing_leads_to_the_solutions(course, released, tmp_path):
    published(course, repository=INSTRUCTORS)
    tree = tmp_path / "students"
    write(course, tree)
    assert addresses.read(tree) == addresses.Addresses()
    assert [n for n, path in files(tree).items() if "example/course" in readable(path)] == []
    assert "[![" not in (tree / "README.md").read_text(encoding="utf-8")
