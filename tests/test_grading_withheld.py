"""While an assignment is graded, modules with its solutions can be imported, but not used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import course_utils
from tests.sandboxes import needed, printed, session, text_of
from workshop.grading import assignments
from workshop.grading.sandbox.limits import Limits
from workshop.grading.sandbox.package import copy_package

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows can't fork"),
    pytest.mark.xdist_group("sandbox"),
]

ROOT = Path(__file__).resolve().parents[1]
SOURCES = assignments.sources(ROOT)
WITHHELD = {path.stem: assignments.read(path).withheld for path in SOURCES}
# These assignments together withhold each module that any assignment withholds.
SAMPLE = [name for name in WITHHELD if name[:2] in ("01", "05", "06", "08", "09")]
# A statement that uses a name of a withheld module.
USE = "from {0} import anything; anything()"
LIBRARIES = ["torch", "transformers", "accelerate", "bitsandbytes", "matplotlib.pyplot"]
LIBRARIES += ["ipywidgets", "jupyterlab.commands", "nbgrader.api", "nbconvert"]

# A program that runs import statements in a fork for each copy of the course, and prints the errors
# of those that fail. Libraries that are slow to import are imported once, before the forks.
SCRIPT = """
import contextlib, importlib, json, os, sys
for library in sys.argv[1:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(library)
assert not any(name.startswith("course_utils") for name in sys.modules)

def failures(folder, statements):
    sys.path.insert(0, folder)
    errors = {}
    for statement in statements:
        try:
            exec(statement, {})
        except BaseException as error:
            errors[statement] = f"{type(error).__name__}: {error}"
    package = os.path.dirname(sys.modules["course_utils"].__file__)
    assert package == os.path.join(folder, "course_utils"), package
    return errors

results = {}
for name, (folder, statements) in json.load(sys.stdin).items():
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            json.dump(failures(folder, statements), stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        results[name] = json.load(stream)
    os.wait()
print(json.dumps(results))
"""


def modules(package):
    """Yield the names of all modules and packages in a package."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__")


@pytest.fixture(scope="module")
def failures(request, tmp_path_factory):
    """The errors of the statements that fail, for the copy of each selected assignment."""
    test = test_all_modules_can_be_imported_and_withheld_ones_cannot_be_used.__name__
    items = [i for i in request.session.items if getattr(i, "originalname", "") == test]
    copies = {}
    for name in [item.callspec.params["assignment"] for item in items]:
        withheld, folder = WITHHELD[name], tmp_path_factory.mktemp(name)
        copy_package(folder, withheld)
        statements = [f"import {module}" for module in modules(folder / "course_utils")]
        copies[name] = str(folder), [*statements, *map(USE.format, withheld)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *LIBRARIES],
        input=json.dumps(copies),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "assignment",
    [
        pytest.param(name, marks=pytest.mark.full if name in SAMPLE else pytest.mark.slow)
        for name in WITHHELD
    ],
)
def test_all_modules_can_be_imported_and_withheld_ones_cannot_be_used(failures, assignment):
    # A module that needs a library can't be tested on a machine that lacks the library.
    missing = "ModuleNotFoundError: No module named "
    found = {
        statement: message
        for statement, message in failures[assignment].items()
        if not (message.startswith(missing) and "course_utils" not in message)
    }
    assert found == {
        USE.format(module): f"ImportError: {module} is not available while this assignment is "
        "graded, because it contains solutions."
        for module in WITHHELD[assignment]
    }


@pytest.mark.parametrize(
    "use",
    [
        "GPUS['T4']",
        "list(GPUS)",
        "len(GPUS)",
        "'T4' in GPUS",
        "GPUS.items()",
        "isinstance(1, GPUS)",
    ],
)
def test_a_withheld_name_cannot_be_used_in_any_way(tmp_path, use):
    copy_package(tmp_path, ("course_utils.memory",))
    code = f"from course_utils.memory.gpus import GPUS\n{use}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ImportError: course_utils.memory.gpus is not available while" in done.stderr


@needed
def test_only_the_test_process_has_the_withheld_modules():
    source = "from importlib.util import find_spec\n"
    source += "print('class LoRALinear' in open(find_spec('course_utils.lora').origin).read())"
    with session() as running:
        assert text_of(running.check(source)) == "True\n"
        assert text_of(running.run(source)) == "False\n"
        reason = "not available while this assignment is graded, because it contains solutions"
        assert reason in text_of(running.run("from course_utils.lora import LoRALinear as L; L(1)"))


@needed
@pytest.mark.full
def test_the_sandbox_contains_no_copy_of_a_withheld_module():
    code = """
import pathlib, sys
copies = []
for top in ("/course", "/tmp", sys.prefix, sys.base_prefix, "/etc"):
    for path in pathlib.Path(top).rglob("*"):
        if path.suffix in (".py", ".pyc") and "lora" in path.name.lower():
            if b"class LoRALinear" in path.read_bytes() and "peft" not in path.parts:
                copies.append(str(path))
print(copies, [name for name in sys.modules if "course_utils.lora" in name])
"""
    assert printed(code, Limits(cell=60)) == "[] []\n"


def test_the_sandbox_imports_no_module_that_an_assignment_withholds():
    code = "import sys, workshop.grading.sandbox.forkserver\n"
    code += "print(*(name for name in sys.modules if name.startswith('course_utils')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(set(names).isdisjoint(done.stdout.split()) for names in WITHHELD.values())


def test_the_copy_of_the_package_differs_only_in_the_withheld_modules(tmp_path):
    copy_package(tmp_path, ("course_utils.lora", "course_utils.memory"))
    package = tmp_path / "course_utils"
    source = Path(course_utils.__file__).parent
    copied = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    originals = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert copied == {path for path in originals if "__pycache__" not in path.parts}
    for path in copied:
        copy, text = (package / path).read_bytes(), (source / path).read_bytes()
        stub = path == Path("lora.py") or path.parts[0] == "memory"
        assert (len(copy) < 900 and b"raise ImportError" in copy) if stub else copy == text, path
