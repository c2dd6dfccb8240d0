"""Test badges: all badges get the addresses in pyproject.toml, or no file changes."""

import shutil
from pathlib import Path

import pytest

from course_utils import __version__, files, notebooks
from course_utils.grading.assignments import sources
from course_utils.publishing import addresses, badges, notebook_check
from course_utils.publishing.addresses import Addresses
from course_utils.validation import CourseError

ROOT = Path(__file__).resolve().parents[1]
BOTH = Addresses("https://github.com/example/course", "https://github.com/example/exercises")
README = "# The course\n\n<!-- badges: begin -->\n<!-- badges: end -->\n\nText.\n"
FIRST, LECTURE = (f"lectures/{path.name}" for path in notebooks.lectures(ROOT)[:2])
NAME = sources(ROOT)[0].stem
RELEASE, SOURCE = (f"{place}/{NAME}/{NAME}.ipynb" for place in ("exercises", "solutions"))
FILES = ["README.md", RELEASE, FIRST, LECTURE, SOURCE]


@pytest.fixture
def course(tmp_path):
    """Return the folder of a course with two lectures and an assignment, but without addresses."""
    for name in FILES[1:]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    # The copied notebooks contain badges if this repository has an address.
    badges.renew(tmp_path)
    return tmp_path


def texts(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def names(folder, paths):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_the_badges_of_this_repository_are_up_to_date():
    assert badges.outdated(ROOT) == []


def test_a_course_without_addresses_has_no_badges(course):
    assert badges.outdated(course) == []
    assert not any("badge.svg" in text or "mybinder" in text for text in texts(course).values())


def test_addresses_are_added_to_all_files_and_removed_again(course):
    before = texts(course)
    changed = badges.renew(course, BOTH)
    assert names(course, changed) == [*FILES, "pyproject.toml"]
    assert addresses.read(course) == BOTH
    after = texts(course)
    repositories = ("course", "exercises", "course", "course", "exercises")
    for name, repository in zip(FILES, repositories, strict=True):
        address = f"github/example/{repository}/blob/v{__version__}/"
        assert after[name].count("colab-badge.svg") == after[name].count(address) == 1, name
    assert badges.outdated(course) == badges.renew(course) == []
    # This course lacks the other lectures and the glossary, which the notebooks refer to.
    problems = [p for name in FILES[1:] for p in notebook_check.check(course / name)]
    assert not any("badges" in problem or "set-up" in problem for problem in problems)
    badges.renew(course, Addresses())
    assert texts(course) == before


def test_the_badges_of_the_readme_open_the_first_lecture(course):
    badges.renew(course, BOTH)
    _, _, begin, row, end, *rest = texts(course)["README.md"].splitlines()
    assert (begin, end, rest) == (badges.BEGIN, badges.END, ["", "Text."])
    assert row == addresses.badges(course / FIRST, BOTH)


def test_a_readme_without_markers_or_a_missing_readme_is_not_changed(course):
    (course / "README.md").write_text("# Another\n", encoding="utf-8")
    assert "README.md" not in names(course, badges.renew(course, BOTH))
    (course / "README.md").unlink()
    assert names(course, badges.renew(course, Addresses())) == [*FILES[1:], "pyproject.toml"]


def test_assignments_ask_for_the_address_if_there_is_no_students_repository(course):
    badges.renew(course, Addresses(BOTH.repository))
    for name in (SOURCE, RELEASE):
        text = texts(course)[name]
        assert "github.com" not in text and "Run `%env COURSE_REPOSITORY=" in text


@pytest.mark.parametrize("name", FILES)
def test_outdated_badges_are_found_in_each_file(course, name):
    badges.renew(course, BOTH)
    text = (course / name).read_text(encoding="utf-8")
    (course / name).write_text(text.replace(f"blob/v{__version__}", "blob/v0.0.9"), "utf-8")
    assert names(course, badges.outdated(course)) == [name]
    assert names(course, badges.renew(course)) == [name]
    assert texts(course)[name] == text


def test_renewing_keeps_the_outputs_of_a_notebook(course):
    path = course / LECTURE
    text = path.read_text(encoding="utf-8").replace('"outputs": []', '"outputs": [{}]')
    path.write_text(text, encoding="utf-8")
    badges.renew(course, BOTH)
    assert path.read_text(encoding="utf-8").count('"outputs": [\n    {}\n') == text.count("[{}]")


def test_no_file_changes_if_a_notebook_is_invalid(course):
    (course / SOURCE).write_text("{", encoding="utf-8")
    before = texts(course)
    with pytest.raises(CourseError, match=rf"{NAME}\.ipynb is not a notebook"):
        badges.renew(course, BOTH)
    assert texts(course) == before


@pytest.mark.parametrize("last", FILES)
def test_all_files_get_their_old_text_if_one_cannot_be_written(course, monkeypatch, last):
    before, write = texts(course), files.write_text

    def write_until_full(path, text):
        if path == course / last and text != before[last]:
            raise CourseError("no space")
        write(path, text)

    monkeypatch.setattr(files, "write_text", write_until_full)
    with pytest.raises(CourseError, match=r"^no space$"):
        badges.renew(course, BOTH)
    assert texts(course) == before
