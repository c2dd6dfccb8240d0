"""environments: saved results, and the limits of the environments."""

import json
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_utils.machine.validation import CourseError
from tests.cells import code_cell, notebook, write_notebook
from workshop.benchmarks import environments, runner

PASSED = {"passed": True, "error": None, "seconds": 13.7, "peak_memory": 912_000_000}


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


def replace_environments(monkeypatch, **functions):
    """Replace the environments by those that these functions create."""
    replaced = {name: (name.title(), function) for name, function in functions.items()}
    monkeypatch.setattr(environments, "ENVIRONMENTS", replaced)


def passing(path):
    """Return a result as a runner returns it."""
    return PASSED | {"versions": "python 3.13.1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["colab", "moon"], "there is no environment moon; choose from: python3.11, python3.12, "),
        (["colab", "--only", "77"], "there is no lecture 77; choose one of: 00_setup, "),
    ],
)
def test_unknown_names_are_reported_with_the_allowed_names(arguments, message, capsys):
    assert run(*arguments) == 1
    assert capsys.readouterr().err.startswith(message)


def test_new_result_replaces_only_the_older_result_of_its_lecture(monkeypatch, results):
    replace_environments(monkeypatch, moon=lambda: passing, mars=lambda: passing)
    old = PASSED | {"ran": "on 2001-02-03"}
    report = {"mars": {"00_setup": old}, "moon": {"00_setup": old, "03_lora": old}}
    results.write_text(json.dumps(report))
    assert run("moon", "--only", "03") == 0
    saved = json.loads(results.read_text(encoding="utf-8"))
    assert saved["mars"] == report["mars"] and saved["moon"]["00_setup"] == old
    ran = saved["moon"]["03_lora"]["ran"]
    assert re.fullmatch(r"on \d{4}-\d\d-\d\d, .* cores, .* of memory; python 3.13.1", ran)


def test_failures_are_reported_and_do_not_stop_the_next_environment(monkeypatch, results, capsys):
    def missing():
        raise CourseError("Python 3.99 is missing")

    where = f"{environments.ROOT}/course_utils/sft.py, {Path.home()}/.cache"
    fails = {"passed": False, "error": f"cell train\n{where}"}
    failing = lambda: lambda path: passing(path) | fails  # noqa: E731
    replace_environments(monkeypatch, moon=missing, mars=failing)
    assert run("--only", "03", "--only", "00") == 1
    moon, *mars = capsys.readouterr().err.split("\nmars: ")
    assert moon == "moon was not run: Python 3.99 is missing"
    error = "cell train\ncourse_utils/sft.py, ~/.cache"
    assert mars == [f"03_lora failed: {error}", f"00_setup failed: {error}\n"]
    saved = json.loads(results.read_text())["mars"]
    assert list(saved) == ["00_setup", "03_lora"] and saved["00_setup"]["error"] == error
    assert environments.cell(saved["00_setup"]) == "✗ cell train"


# --- running a notebook ---------------------------------------------------------------------------


def lecture(folder, *sources):
    """Write a notebook with these code cells, whose ids are first, second and third."""
    cells = map(code_cell, ("first", "second", "third"), sources)
    return write_notebook(folder / "09_made.ipynb", notebook(*cells))


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
    assert result["versions"].startswith("python 3.") and ", torch 2." in result["versions"]
    assert (tmp_path / "build" / "executed" / "binder" / "09_made.ipynb").exists()


@pytest.mark.full
def test_process_that_fails_is_a_failed_lecture(tmp_path):
    python, missing = Path(sys.executable), tmp_path / "09_missing.ipynb"
    result = environments.run_lecture(python, missing, tmp_path / "out", {})
    assert not result["passed"]
    assert result["error"] == "the run ended with status 1"


def test_missing_python_is_reported():
    with pytest.raises(CourseError, match=r"Python 3\.99 is missing: install it, so that python3"):
        environments.interpreter("3.99")


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
