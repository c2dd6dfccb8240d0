"""Build the wheel and the source distribution, and begin the course from nothing but the wheel."""

import errno
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from click.testing import CliRunner

from course_utils import __version__
from course_utils.machine.validation import CourseError
from tests.cells import LECTURES, ROOT
from workshop import cli, starter

MATERIAL = "course_utils/material/"
LECTURE = "lectures/00_setup.ipynb"


# --- course start ---------------------------------------------------------------------------------


def start(folder, *options):
    return CliRunner().invoke(cli.main, ["start", str(folder), *options])


def test_start_copies_all_lectures_and_exercises(tmp_path):
    result = start(tmp_path / "my course")
    assert result.exit_code == 0 and "Next: cd " in result.output
    copied = {p.relative_to(tmp_path / "my course").as_posix() for p in files_in(tmp_path)}
    assert copied == set(starter.files_of(ROOT))
    for path in LECTURES:
        copy = tmp_path / "my course" / "lectures" / path.name
        assert copy.read_bytes() == starter.content(path)
    stems = {PurePosixPath(name).stem for name in copied}
    assert {path.stem for path in ROOT.glob("solutions/*/*.ipynb")} < stems
    assert not any("solutions" in name for name in copied)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_start_keeps_answers_and_adds_missing_files(tmp_path):
    start(tmp_path)
    answers = tmp_path / "exercises/03_lora/03_lora.ipynb"
    answers.write_text("my answers", encoding="utf-8")
    (tmp_path / "lectures/00_setup.ipynb").unlink()
    result = start(tmp_path)
    assert "1 files are new" in result.output or "1 file is new" in result.output
    assert "differs from the course's file: exercises/03_lora/03_lora.ipynb" in result.output
    assert answers.read_text(encoding="utf-8") == "my answers"
    assert (tmp_path / "lectures/00_setup.ipynb").is_file()


def test_links_of_the_copied_files_have_targets(tmp_path):
    start(tmp_path)
    for path in files_in(tmp_path):
        text = path.read_text(encoding="utf-8") if path.suffix in (".ipynb", ".md") else ""
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_start_leaves_no_part_of_a_file_and_can_be_repeated(tmp_path, monkeypatch):
    write = starter.write_atomically

    def on_a_full_disk(path, data):
        if path.name.startswith("01"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(starter, "write_atomically", on_a_full_disk)
    result = start(tmp_path)
    assert result.exit_code == 1 and "No space left on device" in result.output
    assert [path.name for path in files_in(tmp_path)] == ["00_setup.ipynb"]
    monkeypatch.undo()
    assert "Kept as it is" not in start(tmp_path).output


def test_start_needs_a_name_and_quotes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = start("")
    assert result.exit_code == 2 and "the name of the folder is empty" in result.output
    assert not files_in(tmp_path)
    assert "Next: cd 'mein Kurs', then course lab" in start("mein Kurs").output


def test_start_refuses_the_clone_itself_and_a_file(tmp_path):
    with pytest.raises(CourseError, match="is the course's own folder: name another folder"):
        starter.start(ROOT)
    (tmp_path / "file").touch()
    result = start(tmp_path / "file")
    assert result.exit_code == 1 and "can't be written" in result.output


@pytest.mark.parametrize("name", ["release", "site", "badges", "notebooks", "lint", "test"])
def test_commands_that_need_a_clone_say_so(tmp_path, monkeypatch, name):
    start(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "IS_WHEEL", True)
    arguments = ["check"] if name == "notebooks" else []
    result = CliRunner().invoke(cli.main, [name, *arguments])
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert f"`course {name}` needs files that are only in the course's repository" in result.output


def test_a_package_installed_from_a_wheel_works_in_a_clone(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli, "IS_WHEEL", True)
    assert CliRunner().invoke(cli.main, ["notebooks", "check", LECTURE]).exit_code == 0


def test_an_installation_without_lectures_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(starter, "__file__", str(tmp_path / "workshop" / "starter.py"))
    with pytest.raises(CourseError, match="has no lectures: install it again with pip"):
        starter.material()


# --- the wheel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build both distributions with the libraries of this environment."""
    folder = tmp_path_factory.mktemp("distributions")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.full
def test_the_wheel_has_the_files_that_start_copies_and_no_solution(distributions):
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    material = {name.removeprefix(MATERIAL) for name in names if name.startswith(MATERIAL)}
    assert material == set(starter.files_of(ROOT))
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"course_utils", "workshop", f"qlora_course-{__version__}.dist-info"}
    assert not any("solutions" in name for name in names)


@pytest.mark.full
def test_the_source_distribution_has_the_whole_course(distributions):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"solutions/03_lora/03_lora.ipynb", "docs/index.md", "tests/test_wheel.py"} <= names


@pytest.mark.full
def test_the_course_begins_from_the_wheel_alone(distributions, tmp_path):
    """Install the wheel into an empty environment, whose libraries come from this environment.

    So the test needs no network, and still fails if the wheel lacks a file.
    """
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True, symlinks=os.name != "nt")
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    (wheel,) = distributions.glob("*.whl")

    def run(*command, cwd=tmp_path):
        return subprocess.run(command, capture_output=True, text=True, env=clean, cwd=cwd)

    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # nbconvert's templates belong to the libraries.
    clean["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")
    done = run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    (packages,) = environment.glob("lib/python3*/site-packages")
    libraries = Path(pytest.__file__).parents[1]
    # The libraries follow the wheel's own package. The course itself must not be found there.
    (packages / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
    course = environment / "bin" / "course"
    done = run(python, "-c", "import course_utils; print(course_utils.__file__)")
    assert done.stdout.startswith(str(environment)), done
    done = run(course, "start", "my")
    assert done.returncode == 0, done.stderr
    done = run(course, "--fetch", "run", "--only", "00")
    assert done.returncode == 1 and "make one with `course start FOLDER`" in done.stderr
    folder = tmp_path / "my"
    done = run(course, "--fetch", "run", "--only", "00", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "build/lectures/00_setup.html").is_file()
    exercise = folder / "exercises/03_lora/03_lora.ipynb"
    command = (python, "-m", "nbgrader", "validate", exercise)
    done = run(*command, cwd=folder)
    assert "VALIDATION FAILED ON" in done.stdout, done.stderr
    exercise.write_bytes((ROOT / "solutions/03_lora/03_lora.ipynb").read_bytes())
    done = run(*command, cwd=folder)
    assert "Success! Your notebook passes all the tests." in done.stdout, done.stdout + done.stderr
