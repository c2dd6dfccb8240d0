"""Test addresses and badges: pyproject.toml contains addresses, and notebooks link to them."""

import shutil
from pathlib import Path

import pytest

from course_utils import __version__
from course_utils.machine.validation import CourseError
from tests.cells import LECTURES, ROOT
from workshop.grading.assignments import sources
from workshop.publishing import addresses, notebook_check
from workshop.publishing.addresses import Addresses, badges, github

COURSE = "https://github.com/example/qlora-course"
STUDENTS = "https://github.com/example/qlora-exercises"
BOTH = Addresses(COURSE, STUDENTS)

PROJECT = """\
# The course.
[project]
name = "qlora-course"  # with a hyphen

# What a student needs.
[project.optional-dependencies]
lab = ["jupyterlab>=4.6"]
"""
URLS = f'[project.urls]\nRepository = "{COURSE}"\nStudents = "{STUDENTS}"\n'


def project(folder, text=PROJECT):
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


# --- addresses ---


@pytest.mark.parametrize("end", ["", "/", ".git", ".git/"])
def test_a_final_slash_or_git_suffix_is_removed(end):
    assert github(COURSE + end) == COURSE


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://github.com/example/course",
        "git@github.com:example/course.git",
        "https://gitlab.com/example/course",
        "https://github.com.example.org/example/course",
        "https://github.com/example",
        "https://github.com/example/course/tree/main",
        "https://github.com/ex--ample/course",
        "https://github.com/example/course\n",
    ],
)
def test_other_addresses_raise_an_error(address):
    with pytest.raises(CourseError, match=r"is not of the form https://github\.com/") as error:
        github(address)
    assert "\n" not in str(error.value)


# --- pyproject.toml ---


@pytest.mark.parametrize("text", [None, "", PROJECT, '[project.urls]\nHomepage = "x"\n'])
def test_missing_addresses_are_empty(tmp_path, text):
    if text is not None:
        project(tmp_path, text)
    assert addresses.read(tmp_path) == Addresses("", "")


def test_addresses_are_read(tmp_path):
    assert addresses.read(project(tmp_path, f"{PROJECT}\n{URLS}")) == BOTH
    text = f'project.urls = {{Repository = "{COURSE}.git", Students = ""}}\n'
    assert addresses.read(project(tmp_path, text)) == Addresses(COURSE, "")


def test_errors_in_pyproject_are_reported(tmp_path):
    with pytest.raises(CourseError, match=r"pyproject\.toml can't be read: No such file"):
        addresses.write(tmp_path, COURSE)
    for act in (addresses.read, lambda folder: addresses.write(folder, COURSE)):
        with pytest.raises(CourseError, match=r"pyproject\.toml is not TOML: "):
            act(project(tmp_path, "[project\n"))
    with pytest.raises(CourseError, match=r"'https://example\.org/x' is not of the form"):
        addresses.read(project(tmp_path, '[project.urls]\nStudents = "https://example.org/x"\n'))


@pytest.mark.parametrize("urls", ["", f'[project.urls]\n# Ours.\nStudents = "{STUDENTS}"\n'])
def test_only_the_line_of_the_address_changes(tmp_path, urls):
    project(tmp_path, PROJECT + urls)
    students = addresses.read(tmp_path).students
    addresses.write(tmp_path, COURSE)
    assert addresses.read(tmp_path) == Addresses(COURSE, students)
    addresses.write(tmp_path, "")
    text = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    assert text.startswith(PROJECT) and urls in text and COURSE not in text


# --- badges ---

LECTURE = Path("lectures/02_memory_calculator.ipynb")
SOURCE, RELEASE = (Path(f"{name}/03_lora/03_lora.ipynb") for name in ("solutions", "exercises"))


def test_the_badges_of_a_lecture():
    colab = "https://colab.research.google.com"
    tag = f"v{__version__}"
    assert badges(LECTURE, BOTH) == (
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
        f"({colab}/github/example/qlora-course/blob/{tag}/lectures/02_memory_calculator.ipynb) "
        "[![Open in Binder](https://mybinder.org/badge_logo.svg)]"
        f"(https://mybinder.org/v2/gh/example/qlora-course/{tag}"
        "?urlpath=lab%2Ftree%2Flectures%2F02_memory_calculator.ipynb)"
    )


def test_the_badges_of_an_assignment_open_the_students_repository():
    line = badges(SOURCE, BOTH)
    assert line == badges(RELEASE, BOTH)
    assert "?urlpath=lab%2Ftree%2Fexercises%2F03_lora%2F03_lora.ipynb)" in line
    assert "solutions" not in line and "qlora-course" not in line


def test_a_notebook_without_an_address_has_no_badges():
    assert badges(LECTURE, Addresses("", STUDENTS)) == ""
    assert badges(SOURCE, Addresses(COURSE, "")) == badges(RELEASE, Addresses(COURSE, "")) == ""


# --- all files of a course ---

FIRST, SECOND = (f"lectures/{path.name}" for path in LECTURES[:2])
NAME = sources(ROOT)[0].stem
FILES = [f"exercises/{NAME}/{NAME}.ipynb", FIRST, SECOND, f"solutions/{NAME}/{NAME}.ipynb"]
FILES += ["README.md"]


@pytest.fixture
def course(tmp_path):
    """Return the folder of a course with two lectures and an assignment, but without addresses."""
    for name in (*FILES[:-1], "docs/glossary.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "README.md").write_text("# The course\n\nText.\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    # The copied notebooks contain badges if this repository has an address.
    notebook_check.fix_course(tmp_path)
    return tmp_path


def fixed(folder):
    return [path.relative_to(folder).as_posix() for path in notebook_check.fix_course(folder)]


def text_of(folder, name):
    return (folder / name).read_text(encoding="utf-8")


def test_addresses_are_added_to_all_files_and_removed_again(course):
    before = {name: text_of(course, name) for name in FILES}
    assert not any("badge.svg" in text or "mybinder" in text for text in before.values())
    project(course, f'[project]\nname = "x"\n\n{URLS}')
    assert fixed(course) == FILES
    for name in FILES:
        repository = "qlora-exercises" if f"/{NAME}/" in name else "qlora-course"
        address = f"github/example/{repository}/blob/v{__version__}/"
        text = text_of(course, name)
        assert text.count("colab-badge.svg") == text.count(address) == 1, name
    assert text_of(course, "README.md").splitlines()[2] == badges(course / FIRST, BOTH)
    assert [notebook_check.check(course / name) for name in FILES[:-1]] == [[]] * 4
    project(course, "")
    assert fixed(course) == FILES
    assert {name: text_of(course, name) for name in FILES} == before


def test_without_a_students_repository_assignments_never_lead_to_the_solutions(course):
    addresses.write(course, COURSE)
    assert fixed(course) == [FIRST, SECOND, "README.md"]
    for name in FILES[::3]:
        text = text_of(course, name)
        assert "github.com" not in text and "Run `%env COURSE_REPOSITORY=" in text


@pytest.mark.parametrize("name", FILES)
def test_outdated_badges_are_found_in_each_file(course, name):
    project(course, f'[project]\nname = "x"\n\n{URLS}')
    notebook_check.fix_course(course)
    text = text_of(course, name)
    (course / name).write_text(text.replace(f"blob/v{__version__}", "blob/v0.0.9"), "utf-8")
    if name.endswith(".ipynb"):
        assert any("is out of date" in problem for problem in notebook_check.check(course / name))
    assert fixed(course) == [name]
    assert text_of(course, name) == text
