"""environments: saved results, their tables, and the limits of the environments."""

import json
import os
import re
import subprocess
import sys
import tomllib
import types
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import environments, runner
from course_utils import notebooks
from course_utils.validation import CourseError

MACHINE = {"cpu": "Slow CPU", "cores": 2, "memory": 8_000_000_000}
PASSED = {
    "passed": True,
    "error": None,
    "seconds": 13.7,
    "peak_memory": 912_000_000,
    "versions": {"python": "3.13.1", "torch": "2.11.0"},
    "date": "2026-11-26",
    "machine": MACHINE,
}
FAILED = PASSED | {"passed": False, "error": "cell train\nNameError: a|b", "seconds": 3.0}


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Save results in a temporary folder; returns the path of their file."""
    path = tmp_path / "results.json"
    monkeypatch.setattr(environments, "JSON", path)
    monkeypatch.setattr(environments, "BENCHMARK", replace(environments.BENCHMARK, data=path))
    monkeypatch.setattr(runner, "publish", lambda *arguments: None)
    return path


def run(*arguments):
    """Run the benchmark with these arguments, and return its exit status."""
    return runner.run("environments", list(arguments))


def lecture(folder, *sources):
    """Write a notebook with these code cells, whose ids are first, second and third."""
    names = ("first", "second", "third")
    cells = [
        {
            "cell_type": "code",
            "id": name,
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for name, source in zip(names, sources, strict=False)
    ]
    metadata = {"kernelspec": notebooks.KERNEL, "language_info": notebooks.LANGUAGE}
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}
    path = folder / "09_made.ipynb"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- arguments ------------------------------------------------------------------------------------


def test_unknown_environment_is_reported_with_the_allowed_names(capsys):
    assert run("colab", "moon") == 1
    assert capsys.readouterr().err == (
        "there is no environment moon; choose from: python3.11, python3.12, python3.13, colab, "
        "binder, jupyterlab, notebook7, voila\n"
    )


def test_unknown_lecture_is_reported_with_the_allowed_names(capsys):
    assert run("colab", "--only", "77") == 1
    assert capsys.readouterr().err.startswith("there is no lecture 77; choose one of: 00_setup, ")


def test_all_environments_are_chosen_by_default():
    assert environments.chosen([]) == list(environments.ENVIRONMENTS)
    assert environments.chosen(["voila", "colab"]) == ["voila", "colab"]


# --- saved results --------------------------------------------------------------------------------


def test_new_result_replaces_only_the_older_result_of_its_lecture():
    report = {"voila": {"00_setup": FAILED}, "colab": {"01_tuning": PASSED, "02_memory": FAILED}}
    report = environments.merged(report, "colab", "02_memory", PASSED)
    report = environments.merged(report, "colab", "00_setup", FAILED)
    report = environments.merged(report, "python3.11", "00_setup", PASSED)
    assert list(report.items()) == [
        ("python3.11", {"00_setup": PASSED}),
        ("colab", {"00_setup": FAILED, "01_tuning": PASSED, "02_memory": PASSED}),
        ("voila", {"00_setup": FAILED}),
    ]
    assert list(report["colab"]) == ["00_setup", "01_tuning", "02_memory"]


def replace_environments(monkeypatch, **functions):
    """Replace the environments by those that these functions create."""
    replaced = {name: (name.title(), function) for name, function in functions.items()}
    monkeypatch.setattr(environments, "ENVIRONMENTS", replaced)


def passing(path):
    """Return a result as a runner returns it, without the entries that `measure` adds."""
    return {key: PASSED[key] for key in ("passed", "error", "seconds", "peak_memory", "versions")}


def test_interrupted_run_keeps_its_results(monkeypatch, results, capsys):
    def execute(path):
        if path.stem.startswith("01"):
            raise KeyboardInterrupt
        return passing(path)

    replace_environments(monkeypatch, moon=lambda: execute)
    assert run() == 1
    assert capsys.readouterr().err.startswith("Interrupted.")
    report = json.loads(results.read_text(encoding="utf-8"))
    assert list(report) == ["moon"] and list(report["moon"]) == ["00_setup"]
    assert report["moon"]["00_setup"].keys() == PASSED.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["moon"]["00_setup"]["date"])
    assert report["moon"]["00_setup"]["machine"].keys() == MACHINE.keys()


def test_environment_that_cannot_be_created_does_not_stop_the_next(monkeypatch, results, capsys):
    def missing():
        raise CourseError("Python 3.99 is missing")

    replace_environments(monkeypatch, moon=missing, mars=lambda: passing)
    assert run("--only", "03", "--only", "00") == 1
    out, err = capsys.readouterr()
    assert err == "moon was not run: Python 3.99 is missing\n"
    assert "mars: 03_lora: ✓ 14 s, 0.91 GB\n" in out
    assert list(environments.load()) == ["mars"]
    assert list(environments.load()["mars"]) == ["00_setup", "03_lora"]


def test_failed_lecture_gives_exit_status_1(monkeypatch, results, capsys):
    where = f"{environments.ROOT}/course_utils/sft.py, {Path.home()}/.cache"
    fails = {"passed": False, "error": f"cell train\n{where}"}
    replace_environments(monkeypatch, moon=lambda: lambda path: passing(path) | fails)
    assert run("--only", "00") == 1
    error = "cell train\ncourse_utils/sft.py, ~/.cache"
    assert capsys.readouterr().err == f"moon: 00_setup failed: {error}\n"
    assert environments.load()["moon"]["00_setup"]["error"] == error
    replace_environments(monkeypatch, moon=lambda: passing)
    assert run("--only", "00") == 0


# --- tables ---------------------------------------------------------------------------------------


def test_cell_shows_time_and_memory_or_the_error():
    assert environments.cell(None) == "–"
    assert environments.cell(PASSED) == "✓ 14 s, 0.91 GB"
    assert environments.cell(PASSED | {"seconds": 1234.5}) == "✓ 1,234 s, 0.91 GB"
    assert environments.cell(FAILED) == "✗ cell train"
    assert environments.cell(FAILED | {"error": "a|b"}) == "✗ a\\|b"


@pytest.fixture
def two_lectures(monkeypatch):
    """Replace the lectures by two."""
    monkeypatch.setattr(environments, "lecture_names", lambda: ["00_setup", "01_tuning"])


def test_table_has_a_row_per_lecture_and_a_column_per_environment(monkeypatch, two_lectures):
    replace_environments(monkeypatch, moon=None, mars=None)
    report = {"moon": {"00_setup": PASSED, "01_tuning": FAILED, "02_gone": PASSED}}
    assert environments.table(report).splitlines() == [
        "| lecture | Moon | Mars |",
        "|---|---|---|",
        "| 00_setup | ✓ 14 s, 0.91 GB | – |",
        "| 01_tuning | ✗ cell train | – |",
    ]


def test_runs_are_described_with_date_machine_and_errors(two_lectures):
    report = {"moon": {"00_setup": PASSED | {"setup_seconds": 41.2}, "01_tuning": FAILED}}
    assert environments.runs(report, "moon") == (
        """\
All lectures: `make environments ARGS=moon` on 2026-11-26, Slow CPU, 2 cores, 8.00 GB of memory; \
python 3.13.1, torch 2.11.0.

The set-up cell of 00_setup, which installed the course, took 41 s.

01_tuning failed:

    cell train
    NameError: a|b"""
    )
    assert environments.runs(report, "mars") == "Not run yet: `make environments ARGS=mars`."


def test_runs_are_grouped_by_date_and_machine(two_lectures):
    other = PASSED | {"date": "2027-01-02", "machine": MACHINE | {"cores": 1}}
    report = {"moon": {"00_setup": PASSED, "01_tuning": other, "02_gone": PASSED}}
    first, second = environments.runs(report, "moon").split("\n\n")
    assert first.startswith("00_setup: `make environments ARGS=moon` on 2026-11-26, Slow CPU, 2 c")
    assert second.startswith("01_tuning: `make environments ARGS=moon` on 2027-01-02, Slow CPU, 1")


# --- running a notebook ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs Linux")
@pytest.mark.full
def test_binder_has_a_memory_limit_of_2_gb(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "build")
    run = environments.binder()
    counts = (
        "import os\nassert len(os.sched_getaffinity(0)) == 1 == int(os.environ['OMP_NUM_THREADS'])"
    )
    path = lecture(tmp_path, counts, "held = b'1' * 1_000_000_000", "more = b'1' * 2_000_000_000")
    result = run(path)
    assert not result["passed"]
    assert result["error"].endswith("its processes used more than 2.00 GB of memory")
    assert "cell first" not in result["error"] and "cell second" not in result["error"]
    path = lecture(tmp_path, counts, "held = b'1' * 1_000_000_000")
    result = run(path)
    assert result["passed"] and result["error"] is None
    assert 1_000_000_000 < result["peak_memory"] < 2_000_000_000
    assert {"python", "torch", "ipykernel"} <= result["versions"].keys()
    assert (tmp_path / "build" / "executed" / "binder" / "09_made.ipynb").exists()


def test_process_that_fails_is_a_failed_lecture(tmp_path):
    python, missing = Path(sys.executable), tmp_path / "09_missing.ipynb"
    result = environments.run_lecture(python, missing, tmp_path / "out", {})
    assert not result["passed"]
    assert result["error"] == "the run ended with status 1"


def test_current_python_runs_the_lectures_in_the_current_environment(monkeypatch):
    monkeypatch.setattr(environments, "run_lecture", lambda *arguments: {"arguments": arguments})
    own = "{}.{}".format(*sys.version_info)
    path = environments.ROOT / "lectures" / "00_setup.ipynb"
    result = environments.python_environment(own)(path)
    assert result["arguments"][:2] == (Path(sys.executable), path)
    assert result["versions"]["python"].startswith(f"{own}.")


def test_another_python_is_set_up_in_a_copy_of_the_course(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "interpreter", lambda version: f"/python{version}")
    monkeypatch.setattr(environments, "course_copy", lambda target: target)
    monkeypatch.setattr(environments, "call", lambda command, **_: calls.append(command))
    monkeypatch.setattr(environments, "run_lecture", lambda *arguments: {"arguments": arguments})
    monkeypatch.setattr(environments, "versions", lambda python: {"python": str(python)})
    run = environments.python_environment("3.99")
    assert calls == [["/python3.99", "course_utils/bootstrap.py", "setup"]]
    result = run(Path("lectures/00_setup.ipynb"))
    python = tmp_path / "python3.99" / ".venv" / "bin" / "python"
    notebook = tmp_path / "python3.99" / "lectures" / "00_setup.ipynb"
    assert result["arguments"][:3] == (python, notebook, tmp_path / "executed" / "python3.99")
    assert result["versions"] == {"python": str(python)}


def write_program(folder, name, *lines):
    """Write a shell script that can be executed."""
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)


def test_python_is_also_found_where_pyenv_requires_a_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("PYENV_VERSION", raising=False)
    chosen = '[ "$PYENV_VERSION" = 3.98 ] || exit 127'
    write_program(tmp_path, "python3.98", chosen, "echo /pyenv/python3.98")
    write_program(tmp_path, "python3.97", "echo /usr/bin/python3.97")
    assert environments.interpreter("3.98") == "/pyenv/python3.98"
    assert environments.interpreter("3.97") == "/usr/bin/python3.97"


def test_missing_python_is_reported():
    with pytest.raises(CourseError, match=r"Python 3\.99 is missing: install it, so that python3"):
        environments.interpreter("3.99")


def git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def test_copy_of_the_course_has_the_files_that_git_tracks_or_would_track(monkeypatch, tmp_path):
    here, target = tmp_path / "here", tmp_path / "copy"
    (here / "lectures").mkdir(parents=True)
    git(here, "init")
    (here / ".gitignore").write_text("/build/\n")
    for name in ("lectures/00.ipynb", "deleted.txt", "build"):
        (here / name).write_text(name)
    git(here, "add", "--all")
    (here / "deleted.txt").unlink()
    (here / "new.txt").write_text("new")
    (target / ".venv").mkdir(parents=True)
    (target / "old").mkdir()
    (target / "old" / "file.txt").write_text("old")
    monkeypatch.setattr(environments, "ROOT", here)
    assert environments.course_copy(target) == target
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert copied == [".gitignore", ".venv", "build", "lectures", "lectures/00.ipynb", "new.txt"]


def test_folder_that_is_not_a_clone_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(
        CourseError, match=r"git can't list the files of .*: clone the course with git"
    ):
        environments.course_copy(tmp_path / "copy")


# --- Colab ----------------------------------------------------------------------------------------


def colab_versions():
    """Return the versions in colab.txt by name; each line is a pinned version or a comment."""
    lines = environments.COLAB_PACKAGES.read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    for requirement in requirements:
        assert re.fullmatch(r"==[\d.]+(post\d+)?", str(requirement.specifier)), requirement
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}


def test_colabs_packages_meet_the_courses_requirements():
    found = colab_versions()
    project = tomllib.loads((environments.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [Requirement(line) for line in project["project"]["dependencies"]]
    missing = {r.name for r in needed if r.name not in found}
    # The set-up cell installs these two packages.
    assert missing == {"bitsandbytes", "gguf"}
    assert all(found[r.name] in r.specifier for r in needed if r.name in found)


@pytest.fixture(scope="module")
def python_with_stubs(tmp_path_factory):
    """The Python of an environment that contains only the stubs of Colab's packages."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    wheels = [environments.stub_wheel(folder, *name) for name in environments.STUBS]
    pip(python, "install", "--no-index", "--no-deps", *wheels)
    return python


def pip(python, *words):
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", *words]
    subprocess.run(command, check=True)


@pytest.mark.full
def test_kernel_has_imported_google_colab(python_with_stubs, tmp_path):
    (tmp_path / "ipykernel").mkdir()
    (tmp_path / "ipykernel" / "__init__.py").touch()
    (tmp_path / "ipykernel" / "kernelapp.py").write_text(
        "import sys\n"
        "def launch_new_instance():\n"
        "    print('google.colab' in sys.modules, sys.modules['__main__'].__spec__.name)\n"
    )
    done = subprocess.run(
        [python_with_stubs, "-m", "colab_kernel_launcher"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True colab_kernel_launcher\n"


@pytest.mark.full
def test_pip_can_remove_the_stub_of_torchao(python_with_stubs):
    found = environments.run_code(python_with_stubs, environments.LIST_PACKAGES)
    assert found == {"torchao": "0.10.0", "google-colab": "1.0.0"}
    pip(python_with_stubs, "uninstall", "--yes", "torchao")
    found = environments.run_code(python_with_stubs, environments.LIST_PACKAGES)
    assert found == {"google-colab": "1.0.0"}


BEFORE = {"ipython": "7.34.0", "ipywidgets": "7.7.1", "numpy": "2.1.3", "torch": "2.11.0"}
GOOD = BEFORE | {"bitsandbytes": "0.50.2"}
COURSE = {"course": "/venv/lib/course_utils/__init__.py", "installed in": "/venv", "failed": []}


@pytest.mark.parametrize(
    ("after", "course", "problems"),
    [
        (GOOD, COURSE, []),
        (GOOD | {"numpy": "2.4.6"}, COURSE, ["numpy was 2.1.3 and is 2.4.6"]),
        (
            {**BEFORE, "torchao": "0.10.0"},
            COURSE,
            ["torchao is still installed", "bitsandbytes is missing"],
        ),
        (
            GOOD,
            COURSE | {"course": "/here/course_utils"},
            ["course_utils was imported from /here/course_utils"],
        ),
        (GOOD, COURSE | {"failed": ["peft: 0.1 is too old"]}, ["peft: 0.1 is too old"]),
    ],
    ids=["good", "numpy", "torchao", "elsewhere", "check"],
)
def test_problems_after_a_set_up_cell_are_listed(after, course, problems):
    before = BEFORE | {"torchao": "0.10.0"}
    assert environments.setup_problems(before, after, course) == problems


def test_time_of_the_set_up_cell_is_read_from_the_notebook(tmp_path):
    times = {
        "iopub.execute_input": "2026-11-26T08:00:00.250000Z",
        "shell.execute_reply": "2026-11-26T08:00:41.500000Z",
    }
    cells = [
        {"id": "opening", "metadata": {}, "source": ""},
        {"id": "setup", "metadata": {"execution": times}, "source": ""},
    ]
    path = tmp_path / "00_setup.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}}), encoding="utf-8")
    assert environments.setup_seconds(path) == 41.25
    del times["shell.execute_reply"]
    path.write_text(json.dumps({"cells": cells, "metadata": {}}), encoding="utf-8")
    assert environments.setup_seconds(path) is None


# --- front ends -----------------------------------------------------------------------------------


def replace_browser(monkeypatch, run_whole):
    monkeypatch.setitem(sys.modules, "tests.browser", types.SimpleNamespace(run_whole=run_whole))


def test_result_of_a_front_end_has_its_version(monkeypatch):
    calls = []

    def run_whole(*arguments):
        calls.append(arguments)
        return {"passed": True, "error": None, "seconds": 1.0, "peak_memory": 2}

    replace_browser(monkeypatch, run_whole)
    path = Path("lectures/00_setup.ipynb")
    result = environments.front_end("notebook7")(path)
    assert calls == [("notebook7", path, environments.TIMEOUT)]
    assert result["seconds"] == 1.0
    assert re.match(r"7\.\d", result["versions"]["notebook"])
    assert "jupyterlab" not in result["versions"]


def test_missing_browser_is_reported(monkeypatch):
    replace_browser(monkeypatch, lambda *_: pytest.skip("no browser: install Chromium"))
    run, raised = environments.front_end("voila"), None
    # `pytest.raises` would not catch a skip, and this test would be skipped.
    try:
        run(Path("lectures/00_setup.ipynb"))
    except BaseException as error:
        raised = error
    assert isinstance(raised, CourseError) and str(raised) == "no browser: install Chromium"
