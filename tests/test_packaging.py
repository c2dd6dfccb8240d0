"""Tests of the repository as a package: dependencies, versions, commands, imports, scripts."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import course_utils
from course_utils import bootstrap
from tests.cells import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Packages whose name on conda-forge differs from the name on PyPI.
FROM_CONDA = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def read_yaml(*parts):
    return yaml.safe_load(ROOT.joinpath(*parts).read_text(encoding="utf-8"))


def floors(lines):
    """Convert requirements to a dict from name to minimum version, such as {"torch": ">=2.11"}.

    The extras of the course (`qlora-course[docs]`) are replaced by their requirements. If a package
    has several minimum versions, the dict contains the highest.
    """
    found = {}
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            inner = floors(line for extra in requirement.extras for line in EXTRAS[extra])
        else:
            inner = {name: str(requirement.specifier)}
        for name, specifier in inner.items():
            found[name] = max(found.get(name, ""), specifier, key=version_of)
    return found


def version_of(specifier):
    return Version(specifier.removeprefix(">=") or "0")


CORE = floors(PROJECT["dependencies"])
STUDENT = floors(
    [*PROJECT["dependencies"], *(line for extra in bootstrap.STUDENT for line in EXTRAS[extra])]
)
ALL = floors([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])


# --- dependencies --------------------------------------------------------------------------------


def test_every_dependency_is_a_range_with_a_floor_and_no_pin():
    for name, specifier in ALL.items():
        assert re.fullmatch(r">=\d+(\.\d+)*", specifier), f"{name}{specifier}"


def test_the_core_is_light_enough_for_colab():
    """Colab has IPython 7 and ipywidgets 7.7.1. Newer versions crash Colab's running kernel."""
    heavy = {"jupyterlab", "notebook", "nbgrader", "ipykernel", "ipython", "nbconvert"}
    assert not heavy & CORE.keys()
    assert version_of(CORE["ipywidgets"]) <= Version("7.7.1")


def test_commands_need_extras_that_exist():
    assert set().union(*(extras for extras, _ in bootstrap.registry().values())) <= EXTRAS.keys()


def conda_floors(path):
    """Return the minimum versions in a file of conda, by their names on PyPI."""
    entries = read_yaml(*path.split("/"))["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    plain = [entry for entry in entries if isinstance(entry, str)]
    lines = [*plain, *(line for line in pip if not line.startswith("-"))]
    found = dict(re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in lines)
    return {canonicalize_name(FROM_CONDA.get(name, name)): floor for name, floor in found.items()}


@pytest.mark.parametrize("path", ["environment.yml", "binder/environment.yml"])
def test_environment_files_list_what_make_lab_installs(path):
    found = conda_floors(path)
    assert found.pop("python") == "=3.11"  # repo2docker builds 3.10 for ">=3.11"
    assert found.pop("pip") == ""
    assert found == STUDENT


def test_constraints_pin_every_direct_dependency_within_its_range():
    pins = {}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for requirement in map(Requirement, filter(None, (line.partition("#")[0] for line in lines))):
        (pin,) = requirement.specifier
        exact = pin.operator == "==" and "+" not in pin.version
        assert exact, f"{requirement} is not an exact version"
        pins[canonicalize_name(requirement.name)] = Version(pin.version)
    for name, floor in ALL.items():
        assert name in pins, f"constraints.txt does not pin {name}"
        assert pins[name] >= version_of(floor), f"{name}: {pins[name]} is below {floor}"


# --- imports -------------------------------------------------------------------------------------


def modules_after(statement):
    """Return the names of the modules that a new Python process has loaded after a statement."""
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(subprocess.check_output([sys.executable, "-c", code])))


@pytest.mark.parametrize(
    ("statement", "light"),
    [("import course_utils", set()), ("import workshop.cli", {"click", "workshop"})],
)
def test_importing_the_package_loads_nothing_heavy(statement, light):
    """Only modules of the standard library are loaded: not torch, numpy or matplotlib."""
    added = {name.partition(".")[0] for name in modules_after(statement) - modules_after("pass")}
    assert added - sys.stdlib_module_names == {"course_utils"} | light


def bootstrap_source():
    return (ROOT / "course_utils" / "bootstrap.py").read_text(encoding="utf-8")


def test_the_bootstrap_uses_only_the_syntax_of_python_3_6():
    tree = ast.parse(bootstrap_source(), feature_version=(3, 6))
    named = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.returns]
    future = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    assert not named, "an annotation such as list[str] is evaluated, and fails before 3.9"
    assert "__future__" not in {node.module for node in future}, "annotations came with 3.7"


def test_the_bootstrap_imports_only_the_standard_library():
    nodes = list(ast.walk(ast.parse(bootstrap_source())))
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


# --- versions and metadata -----------------------------------------------------------------------


def test_versions_agree():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changes, re.M).group(1)
    citation = read_yaml("CITATION.cff")
    assert newest == citation["version"] == course_utils.__version__


# --- set-up and CI -------------------------------------------------------------------------------


def test_make_offers_every_command_with_its_help():
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    lines = dict(line.split(maxsplit=1) for line in make("help").splitlines())
    commands = bootstrap.registry()
    assert lines == {name: about for name, (_, about) in commands.items()}
    for name in commands:
        assert f" course_utils/bootstrap.py {name}" in plan("PYTHON=python", name)


def plan(*words, first_on_path=None):
    """Return the commands that make would run."""
    return make("--dry-run", *words, first_on_path=first_on_path)


def make(*words, first_on_path=None):
    """Return what make prints. Variables of a make that runs these tests are removed."""
    inherited = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "PYTHON", "ARGS", "ONLY")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    if first_on_path:
        environment["PATH"] = os.pathsep.join([str(first_on_path), environment["PATH"]])
    return subprocess.check_output(["make", *words], cwd=ROOT, env=environment, text=True)


@pytest.mark.skipif(os.name == "nt", reason="the course needs no make on Windows")
@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["run", "ONLY=07"], "run --only 07"),
        (["run"], "run"),
        (["lab", "ARGS=--no-browser"], "lab --no-browser"),
        (["test"], "test"),
    ],
)
def test_make_passes_its_arguments_on(words, command):
    planned = plan("PYTHON=python", *words)
    assert planned.split("python course_utils/bootstrap.py ")[1].split() == command.split()


@pytest.mark.skipif(os.name == "nt", reason="the course needs no make on Windows")
def test_make_skips_pythons_that_do_not_run(tmp_path):
    """pyenv installs such programs: they exist, but fail."""
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        works = f'exec "{sys.executable}" "$@"' if name == "python3.12" else "exit 127"
        (tmp_path / name).write_text(f"#!/bin/sh\n{works}\n")
        (tmp_path / name).chmod(0o755)
    planned = plan("setup", first_on_path=tmp_path)
    assert "python3.12 course_utils/bootstrap.py setup" in planned


LEFT_BEHIND = """\
.venv/bin/python
build/lectures/a.html
a.pyc
submitted/student01/03_lora/03_lora.ipynb
gradebook.db
exchange/qlora/inbound/a
my_assignments/03_lora/03_lora.ipynb
"""


def test_git_ignores_what_runs_leave_behind():
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, cwd=ROOT, input=LEFT_BEHIND, capture_output=True, text=True)
    if done.returncode > 1:
        pytest.skip("this copy of the course is not a git repository")
    assert done.stdout == LEFT_BEHIND


@pytest.mark.full
def test_importing_modules_prints_nothing():
    code = "import course_utils.training, course_utils.lora, course_utils.notebook.explorers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
