"""The table notebook × environment: what is kept of a run, how it is shown, what bounds hold."""

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
STEMS = ["00_setup", "01_tuning"]


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Results go to a temporary folder; returns their path there."""
    path = tmp_path / "kept.json"
    monkeypatch.setattr(environments, "JSON", path)
    monkeypatch.setattr(environments, "BENCHMARK", replace(environments.BENCHMARK, data=path))
    monkeypatch.setattr(runner, "publish", lambda *arguments: None)
    return path


def run(*arguments):
    """The exit status of the benchmark with these arguments."""
    return runner.run("environments", list(arguments))


def lecture(folder, *sources):
    """A notebook with these code cells, whose ids are first, second, …"""
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


def test_an_unknown_environment_is_refused_with_those_there_are(capsys):
    assert run("colab", "moon") == 1
    assert capsys.readouterr().err == (
        "there is no environment moon; choose from: python3.11, python3.12, python3.13, colab, "
        "binder, jupyterlab, notebook7, voila\n"
    )


def test_an_unknown_lecture_is_refused_with_those_there_are(capsys):
    assert run("colab", "--only", "77") == 1
    assert capsys.readouterr().err.startswith("there is no lecture 77; choose one of: 00_setup, ")


def test_without_names_all_environments_are_meant():
    assert environments.chosen([]) == list(environments.ENVIRONMENTS)
    assert environments.chosen(["voila", "colab"]) == ["voila", "colab"]


# --- what is kept ---------------------------------------------------------------------------------


def test_a_new_result_replaces_its_own_place_and_leaves_the_others():
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


def made_by(monkeypatch, **prepare):
    """Let environments be made by these functions."""
    made = {name: (name.title(), function) for name, function in prepare.items()}
    monkeypatch.setattr(environments, "ENVIRONMENTS", made)


def result_of(path):
    """What a runner returns of a lecture: all but what `measure` adds."""
    return {key: PASSED[key] for key in ("passed", "error", "seconds", "peak_memory", "versions")}


def test_an_interrupted_run_keeps_the_lectures_that_were_done(monkeypatch, kept, capsys):
    def execute(path):
        if path.stem.startswith("01"):
            raise KeyboardInterrupt
        return result_of(path)

    made_by(monkeypatch, moon=lambda: execute)
    assert run() == 1
    assert "Interrupted: what was saved before is kept.\n" in capsys.readouterr().err
    report = json.loads(kept.read_text(encoding="utf-8"))
    assert list(report) == ["moon"] and list(report["moon"]) == ["00_setup"]
    assert report["moon"]["00_setup"].keys() == PASSED.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["moon"]["00_setup"]["date"])
    assert report["moon"]["00_setup"]["machine"].keys() == MACHINE.keys()


def test_an_environment_that_cant_be_made_is_told_and_the_next_one_runs(monkeypatch, kept, capsys):
    def missing():
        raise CourseError("there is no Python 3.99 here")

    made_by(monkeypatch, moon=missing, mars=lambda: result_of)
    assert run("--only", "03", "--only", "00") == 1
    out, err = capsys.readouterr()
    assert err == "moon was not run: there is no Python 3.99 here\n"
    assert "mars: 03_lora: ✓ 14 s, 0.91 GB\n" in out
    assert list(environments.load()) == ["mars"]
    assert list(environments.load()["mars"]) == ["00_setup", "03_lora"]


def test_a_failed_lecture_is_the_exit_status(monkeypatch, kept, capsys):
    where = f"{environments.ROOT}/course_utils/sft.py, {Path.home()}/.cache"
    fails = {"passed": False, "error": f"cell train\n{where}"}
    made_by(monkeypatch, moon=lambda: lambda path: result_of(path) | fails)
    assert run("--only", "00") == 1
    error = "cell train\ncourse_utils/sft.py, ~/.cache"
    assert capsys.readouterr().err == f"moon: 00_setup failed: {error}\n"
    assert environments.load()["moon"]["00_setup"]["error"] == error
    made_by(monkeypatch, moon=lambda: result_of)
    assert run("--only", "00") == 0


# --- the page -------------------------------------------------------------------------------------


def test_a_result_in_a_few_words():
    assert environments.cell(None) == "–"
    assert environments.cell(PASSED) == "✓ 14 s, 0.91 GB"
    assert environments.cell(PASSED | {"seconds": 1234.5}) == "✓ 1,234 s, 0.91 GB"
    assert environments.cell(FAILED) == "✗ cell train"
    assert environments.cell(FAILED | {"error": "no cell, a|b"}) == "✗ no cell, a\\|b"


@pytest.fixture
def stems(monkeypatch):
    """Two lectures in the place of all."""
    monkeypatch.setattr(environments, "stems", lambda: STEMS)


def test_the_table_has_a_row_a_lecture_and_a_column_an_environment(monkeypatch, stems):
    made_by(monkeypatch, moon=None, mars=None)
    report = {"moon": {"00_setup": PASSED, "01_tuning": FAILED, "02_gone": PASSED}}
    assert environments.table(report).splitlines() == [
        "| lecture | Moon | Mars |",
        "|---|---|---|",
        "| 00_setup | ✓ 14 s, 0.91 GB | – |",
        "| 01_tuning | ✗ cell train | – |",
    ]


def test_runs_say_when_and_where_and_what_failed(stems):
    report = {"moon": {"00_setup": PASSED | {"setup_seconds": 41.2}, "01_tuning": FAILED}}
    assert environments.runs(report, "moon") == (
        """\
All lectures: `make environments ARGS=moon` on 2026-11-26, Slow CPU, 2 cores, 8.00 GB of memory; \
python 3.13.1, torch 2.11.0.

The set-up cell of 00_setup, which found no course, took 41 s.

01_tuning failed:

    cell train
    NameError: a|b"""
    )
    assert environments.runs(report, "mars") == "Not run yet: `make environments ARGS=mars`."


def test_lectures_that_ran_elsewhere_or_later_are_told_apart(stems):
    other = PASSED | {"date": "2027-01-02", "machine": MACHINE | {"cores": 1}}
    report = {"moon": {"00_setup": PASSED, "01_tuning": other, "02_gone": PASSED}}
    first, second = environments.runs(report, "moon").split("\n\n")
    assert first.startswith("00_setup: `make environments ARGS=moon` on 2026-11-26, Slow CPU, 2 c")
    assert second.startswith("01_tuning: `make environments ARGS=moon` on 2027-01-02, Slow CPU, 1")


def test_the_page_in_docs_is_what_the_results_give():
    text = (runner.DOCS / "environments.md").read_text(encoding="utf-8")
    quotes = runner.quoted("environments", environments.BENCHMARK, environments.load())
    assert set(quotes) - {"environments made"} == {
        f"environments {key}" for key in ("table", *environments.ENVIRONMENTS)
    }
    assert runner.renew(text, quotes) == text


# --- running a notebook ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="bounds of memory are Linux's")
def test_binders_bound_lets_one_gigabyte_through_and_ends_who_takes_three(monkeypatch, tmp_path):
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


def test_a_run_that_ends_without_a_result_is_a_failure(tmp_path):
    python, gone = Path(sys.executable), tmp_path / "09_gone.ipynb"
    result = environments.executed(python, gone, tmp_path / "out", {})
    assert not result["passed"]
    assert result["error"] == "no cell, for the run ended with status 1"


def test_the_projects_own_python_runs_the_lectures_themselves(monkeypatch):
    monkeypatch.setattr(environments, "executed", lambda *given: {"given": given})
    own = "{}.{}".format(*sys.version_info)
    path = environments.ROOT / "lectures" / "00_setup.ipynb"
    result = environments.python_environment(own)(path)
    assert result["given"][:2] == (Path(sys.executable), path)
    assert result["versions"]["python"].startswith(f"{own}.")


def test_another_python_is_set_up_in_a_copy_of_the_course(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "interpreter", lambda version: f"/python{version}")
    monkeypatch.setattr(environments, "course_copy", lambda target: target)
    monkeypatch.setattr(environments, "call", lambda command, **given: calls.append(command))
    monkeypatch.setattr(environments, "executed", lambda *given: {"given": given})
    monkeypatch.setattr(environments, "versions", lambda python: {"python": str(python)})
    run = environments.python_environment("3.99")
    assert calls == [["/python3.99", "course_utils/bootstrap.py", "setup"]]
    result = run(Path("lectures/00_setup.ipynb"))
    python = tmp_path / "python3.99" / ".venv" / "bin" / "python"
    notebook = tmp_path / "python3.99" / "lectures" / "00_setup.ipynb"
    assert result["given"][:3] == (python, notebook, tmp_path / "executed" / "python3.99")
    assert result["versions"] == {"python": str(python)}


def program(folder, name, *lines):
    """A shell script on a path of its own."""
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)


def test_a_python_is_looked_for_where_pyenv_waits_for_a_choice_too(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("PYENV_VERSION", raising=False)
    chosen = '[ "$PYENV_VERSION" = 3.98 ] || exit 127'
    program(tmp_path, "python3.98", chosen, "echo /pyenv/python3.98")
    program(tmp_path, "python3.97", "echo /usr/bin/python3.97")
    assert environments.interpreter("3.98") == "/pyenv/python3.98"
    assert environments.interpreter("3.97") == "/usr/bin/python3.97"


def test_a_python_that_is_missing_is_one_sentence():
    with pytest.raises(CourseError) as fault:
        environments.interpreter("3.99")
    assert str(fault.value) == ("there is no Python 3.99 here: install it so that python3.99 runs")


def git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def test_a_copy_of_the_course_has_what_git_would_hold(monkeypatch, tmp_path):
    here, target = tmp_path / "here", tmp_path / "copy"
    (here / "lectures").mkdir(parents=True)
    git(here, "init")
    (here / ".gitignore").write_text("/build/\n")
    for name in ("lectures/00.ipynb", "gone.txt", "build"):
        (here / name).write_text(name)
    git(here, "add", "--all")
    (here / "gone.txt").unlink()
    (here / "new.txt").write_text("new")
    (target / ".venv").mkdir(parents=True)
    (target / "old").mkdir()
    (target / "old" / "file.txt").write_text("old")
    monkeypatch.setattr(environments, "ROOT", here)
    assert environments.course_copy(target) == target
    held = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert held == [".gitignore", ".venv", "build", "lectures", "lectures/00.ipynb", "new.txt"]


def test_a_folder_that_is_no_clone_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(CourseError, match="git can't list the files of .*: is it a clone?"):
        environments.course_copy(tmp_path / "copy")


# --- Colab ----------------------------------------------------------------------------------------


def pins():
    """Names and versions of colab.txt, whose lines are pins and comments."""
    lines = environments.COLAB_PACKAGES.read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    for requirement in requirements:
        assert re.fullmatch(r"==[\d.]+(post\d+)?", str(requirement.specifier)), requirement
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}


def test_colabs_packages_are_those_of_its_image_and_within_the_courses_floors():
    found = pins()
    assert {name: found[name] for name in ("ipython", "ipywidgets", "ipykernel", "torch")} == {
        "ipython": "7.34.0",
        "ipywidgets": "7.7.1",
        "ipykernel": "6.17.1",
        "torch": "2.11.0",
    }
    assert (found["transformers"], found["peft"], found["datasets"]) == (
        "5.15.0",
        "0.20.0",
        "4.0.0",
    )
    project = tomllib.loads((environments.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [Requirement(line) for line in project["project"]["dependencies"]]
    missing = {r.name for r in needed if r.name not in found}
    assert missing == {"bitsandbytes", "gguf"}  # what the set-up cell has to bring
    assert all(found[r.name] in r.specifier for r in needed if r.name in found)


@pytest.fixture(scope="module")
def with_stand_ins(tmp_path_factory):
    """Python of an environment that holds the stand-ins alone."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    wheels = [environments.stand_in(folder, *name) for name in environments.STAND_INS]
    pip(python, "install", "--no-index", "--no-deps", *wheels)
    return python


def pip(python, *words):
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", *words]
    subprocess.run(command, check=True)


def test_a_kernel_has_imported_google_colab_when_it_starts(with_stand_ins, tmp_path):
    (tmp_path / "ipykernel").mkdir()
    (tmp_path / "ipykernel" / "__init__.py").touch()
    (tmp_path / "ipykernel" / "kernelapp.py").write_text(
        "import sys\n"
        "def launch_new_instance():\n"
        "    print('google.colab' in sys.modules, sys.modules['__main__'].__spec__.name)\n"
    )
    done = subprocess.run(
        [with_stand_ins, "-m", "colab_kernel_launcher"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True colab_kernel_launcher\n"


def test_pip_takes_torchao_for_a_package_and_can_remove_it(with_stand_ins):
    found = environments.answer(with_stand_ins, environments.INSTALLED)
    assert found == {"torchao": "0.10.0", "google-colab": "1.0.0"}
    pip(with_stand_ins, "uninstall", "--yes", "torchao")
    found = environments.answer(with_stand_ins, environments.INSTALLED)
    assert found == {"google-colab": "1.0.0"}


BEFORE = {"ipython": "7.34.0", "ipywidgets": "7.7.1", "numpy": "2.1.3", "torch": "2.11.0"}
GOOD = BEFORE | {"bitsandbytes": "0.50.2"}
LOOK = {"course": "/venv/lib/course_utils/__init__.py", "installed in": "/venv", "failed": []}


@pytest.mark.parametrize(
    ("after", "look", "faults"),
    [
        (GOOD, LOOK, []),
        (GOOD | {"numpy": "2.4.6"}, LOOK, ["numpy was 2.1.3 and is 2.4.6"]),
        (
            {**BEFORE, "torchao": "0.10.0"},
            LOOK,
            ["torchao is still there", "bitsandbytes is missing"],
        ),
        (
            GOOD,
            LOOK | {"course": "/here/course_utils"},
            ["course_utils comes from /here/course_utils"],
        ),
        (GOOD, LOOK | {"failed": ["peft: 0.1 is too old"]}, ["peft: 0.1 is too old"]),
    ],
    ids=["good", "numpy", "torchao", "elsewhere", "check"],
)
def test_what_a_set_up_cell_did_wrong_is_told(after, look, faults):
    before = BEFORE | {"torchao": "0.10.0"}
    assert environments.setup_faults(before, after, look) == faults


def test_the_set_up_cells_time_is_the_kernels(tmp_path):
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


def browser(monkeypatch, run_whole):
    monkeypatch.setitem(sys.modules, "tests.browser", types.SimpleNamespace(run_whole=run_whole))


def test_a_front_ends_result_has_its_version(monkeypatch):
    given = []

    def run_whole(*arguments):
        given.append(arguments)
        return {"passed": True, "error": None, "seconds": 1.0, "peak_memory": 2}

    browser(monkeypatch, run_whole)
    path = Path("lectures/00_setup.ipynb")
    result = environments.front_end("notebook7")(path)
    assert given == [("notebook7", path, 3600)]
    assert result["seconds"] == 1.0
    assert re.match(r"7\.\d", result["versions"]["notebook"])
    assert "jupyterlab" not in result["versions"]


def test_without_a_browser_a_front_end_is_not_run(monkeypatch):
    browser(monkeypatch, lambda *given: pytest.skip("no browser: install Chromium"))
    run, raised = environments.front_end("voila"), None
    try:
        run(Path("lectures/00_setup.ipynb"))
    except BaseException as fault:  # `pytest.raises` would let a skip through, and skip this test
        raised = fault
    assert isinstance(raised, CourseError) and str(raised) == "no browser: install Chromium"
