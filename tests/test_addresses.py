"""Test addresses: they are read from and written to pyproject.toml, and links contain them."""

import subprocess
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from course_utils import __version__
from course_utils.publishing import addresses
from course_utils.publishing.addresses import Addresses, badges, github, with_badges
from course_utils.validation import CourseError

COURSE = "https://github.com/example/qlora-course"
STUDENTS = "https://github.com/example/qlora-exercises"
BOTH = Addresses(COURSE, STUDENTS)

PROJECT = """\
# The course.
[build-system]
requires = ["hatchling>=1.27"]

[project]
name = "qlora-course"  # with a hyphen
keywords = ["QLoRA"]

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
        "https://github.com/example/.github",
        "https://github.com/a-1/b.c_d-e",
        f"https://github.com/{'a' * 39}/{'b' * 100}",
    ],
)
def test_valid_addresses_are_accepted(address):
    assert github(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "example/course",
        "http://github.com/example/course",
        "git@github.com:example/course.git",
        "https://gitlab.com/example/course",
        "https://github.com.example.org/example/course",
        "https://github.com/example",
        "https://github.com/example/",
        "https://github.com/example/..",
        "https://github.com/example/../",
        "https://github.com/example/.git",
        "https://github.com/example/course/tree/main",
        "https://github.com/example/course?x=1",
        "https://github.com/example/course#x",
        "https://github.com/-example/course",
        "https://github.com/ex--ample/course",
        f"https://github.com/{'a' * 40}/course",
        f"https://github.com/example/{'b' * 101}",
        "https://github.com/example/a b",
        'https://github.com/example/a"b',
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
    with pytest.raises(CourseError, match=r"pyproject\.toml is not TOML: "):
        addresses.read(project(tmp_path, "[project\n"))
    with pytest.raises(CourseError, match=r"'https://example\.org/x' is not of the form"):
        addresses.read(project(tmp_path, '[project.urls]\nStudents = "https://example.org/x"\n'))


def test_new_addresses_get_a_new_table_and_nothing_else_changes(tmp_path):
    new = addresses.updated_project(project(tmp_path), BOTH)
    assert new.replace(f"\n{URLS}", "") == PROJECT
    assert addresses.read(project(tmp_path, new)) == BOTH
    assert addresses.updated_project(tmp_path, BOTH) == new
    assert addresses.updated_project(tmp_path, Addresses()) == PROJECT


def test_a_new_table_has_blank_lines_around_it(tmp_path):
    tool = "\n[tool.x]\n"
    new = addresses.updated_project(project(tmp_path, PROJECT + tool), BOTH)
    assert new == f"{PROJECT}\n{URLS}{tool}"
    assert addresses.updated_project(project(tmp_path, new), Addresses()) == PROJECT + tool


def test_an_existing_table_keeps_its_other_lines(tmp_path):
    others = '# Where to find us.\nHomepage = "https://example.org"\n'
    text = PROJECT.replace("[project.opt", f"[project.urls]\n{others}\n[project.opt", 1)
    new = addresses.updated_project(project(tmp_path, text), BOTH)
    assert addresses.read(project(tmp_path, new)) == BOTH and others in new
    only = addresses.updated_project(tmp_path, Addresses(COURSE))
    assert only == new.replace(f'Students = "{STUDENTS}"\n', "")
    assert addresses.updated_project(tmp_path, Addresses()) == text


def test_a_comment_below_the_addresses_is_kept(tmp_path):
    text = PROJECT.replace("[project.opt", f"{URLS}\n# Or less.\n[project.opt", 1)
    assert "# Or less.\n[project.opt" in addresses.updated_project(
        project(tmp_path, text), Addresses()
    )


@pytest.mark.parametrize("notation", ['urls = {Homepage = "x"}', 'urls.Homepage = "x"'])
def test_addresses_are_added_to_inline_tables_and_dotted_keys(tmp_path, notation):
    project(tmp_path, PROJECT.replace("keywords", f"{notation}\nkeywords"))
    new = addresses.updated_project(tmp_path, BOTH)
    assert addresses.read(project(tmp_path, new)) == BOTH
    assert tomllib.loads(new)["project"]["urls"]["Homepage"] == "x"


def test_a_missing_or_invalid_pyproject_cannot_be_updated(tmp_path):
    with pytest.raises(CourseError, match=r"pyproject\.toml can't be read: No such file"):
        addresses.updated_project(tmp_path, BOTH)
    with pytest.raises(CourseError, match=r"pyproject\.toml is not TOML: "):
        addresses.updated_project(project(tmp_path, "[project\n"), BOTH)


# --- links ---

LECTURE = Path("lectures/02_memory_calculator.ipynb")
SOURCE, RELEASE = (Path(f"{name}/03_lora/03_lora.ipynb") for name in ("solutions", "exercises"))


def test_the_badges_of_a_lecture():
    colab = "https://colab.research.google.com"
    tag = f"v{__version__}"
    assert badges(LECTURE, BOTH) == (
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
        f"({colab}/github/example/qlora-course/blob/{tag}/lectures/02_memory_calculator.ipynb) "
        "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src={COURSE}/blob/v{__version__}/lectures/"
        "02_memory_calculator.ipynb) "
        "[![Open in Binder](https://mybinder.org/badge_logo.svg)]"
        f"(https://mybinder.org/v2/gh/example/qlora-course/{tag}"
        "?urlpath=lab%2Ftree%2Flectures%2F02_memory_calculator.ipynb)"
    )


def test_the_badges_of_an_assignment_open_the_students_repository():
    line = badges(SOURCE, BOTH)
    assert line == badges(RELEASE, BOTH)
    assert f"example/qlora-exercises/blob/v{__version__}/exercises/03_lora/03_lora.ipynb)" in line
    assert "?urlpath=lab%2Ftree%2Fexercises%2F03_lora%2F03_lora.ipynb)" in line
    assert "solutions" not in line and "qlora-course" not in line


def test_the_badges_of_a_translation_open_the_translation():
    line = badges(LECTURE.parent / "de" / LECTURE.name, BOTH)
    assert f"/example/qlora-course/blob/v{__version__}/lectures/de/{LECTURE.name}" in line


def test_a_notebook_without_an_address_has_no_badges():
    assert badges(LECTURE, Addresses("", STUDENTS)) == ""
    assert badges(SOURCE, Addresses(COURSE, "")) == badges(RELEASE, Addresses(COURSE, "")) == ""


@pytest.mark.parametrize("opening", ["# Title", "# Title\n\n- **Slides:** x\n\nText.\n", ""])
def test_badges_are_added_and_removed(opening):
    line = badges(LECTURE, BOTH)
    once = with_badges(opening, line)
    assert once.split("\n\n")[1] == line
    assert with_badges(once, line) == once
    assert with_badges(once, "") == opening


def test_other_pictures_are_kept():
    opening = "# Title\n\n[![A figure](figure.png)](page.html)\n\nText."
    assert with_badges(opening, "") == opening


# --- the package and a JupyterHub ---


@pytest.mark.parametrize(
    ("entry", "package"),
    [("published = true", "qlora-course"), ("published = false", ""), ('published = "yes"', "")],
)
def test_the_package_is_used_only_if_it_is_published(tmp_path, entry, package):
    text = f"{PROJECT}\n[tool.qlora-course]\n{entry}\n"
    assert addresses.read(project(tmp_path, text)).package == package


@pytest.mark.parametrize(
    "end", ["", "/", "/hub", "/hub/", "/hub/home", "/hub/spawn", "/user/me/lab"]
)
def test_a_link_for_a_hub_opens_the_first_lecture(end):
    link = addresses.pull_link(f"https://hub.example.org:8000/base{end}", STUDENTS)
    parts = urlsplit(link)
    assert link.startswith("https://hub.example.org:8000/base/hub/user-redirect/git-pull?")
    assert parse_qs(parts.query) == {
        "repo": [STUDENTS],
        "branch": ["main"],
        "urlpath": ["lab/tree/qlora-exercises/lectures/00_setup.ipynb"],
    }


@pytest.mark.full
def test_a_hub_pulls_the_students_repository_again(tmp_path):
    """nbgitpuller, which opens the link, updates the folder and keeps the student's changes."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=published, check=True)

    def release(name):
        (published / name).write_text("new\n", encoding="utf-8")
        git("add", "--all")
        git("commit", "--quiet", "--message", "Release")
        git("tag", f"of-{name}")

    def pull():
        (branch,) = parse_qs(urlsplit(addresses.pull_link("http://localhost", STUDENTS)).query)[
            "branch"
        ]
        puller = GitPuller(published.as_uri(), str(tmp_path / "home"), branch=branch)
        assert list(puller.pull())

    GitPuller = pytest.importorskip("nbgitpuller.pull").GitPuller
    published = tmp_path / "published"
    published.mkdir()
    git("init", "--quiet", "--initial-branch", addresses.BRANCH)
    release("first")
    pull()
    (tmp_path / "home/first").write_text("an answer\n", encoding="utf-8")
    release("second")
    pull()
    assert (tmp_path / "home/second").is_file()
    assert (tmp_path / "home/first").read_text(encoding="utf-8") == "an answer\n"


NO_HUBS = ["", "hub.example.org", "ftp://a", "https://", "https://[::1", "https://[bad]"]
NO_HUBS += ["https://a b", " https://a", "https://a:b", "https://a?b", "https://a#", "https://a\n"]


@pytest.mark.parametrize("hub", NO_HUBS)
def test_an_address_that_is_no_hub_is_refused(hub):
    with pytest.raises(CourseError, match="is not the address of a hub"):
        addresses.pull_link(hub, STUDENTS)
