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
from workshop.grading.sandbox.server import Server

pytestmark = pytest.mark.xdist_group("sandbox")

ROOT = Path(__file__).resolve().parents[1]
SOURCES = assignments.sources(ROOT)
WITHHELD = {path.stem: assignments.read(path).withheld for path in SOURCES}
# A statement that uses a name of a withheld module.
USE = "from {0} import anything; anything()"
IMPORTS = "import torch, transformers, accelerate, bitsandbytes, matplotlib.pyplot, ipywidgets"
# Runs statements, and prints the errors of those that fail.
CODE = """
import json
errors = {{}}
for statement in {}:
    try:
        exec(statement, {{}})
    except BaseException as error:
        errors[statement] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(errors))
"""


def modules(package):
    """Yield the names of all modules and packages in a package."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__")


@needed
@pytest.mark.parametrize(
    "assignment",
    [
        pytest.param(name, marks=pytest.mark.full if name[:2] == "05" else pytest.mark.slow)
        for name in WITHHELD
    ],
)
def test_all_modules_can_be_imported_and_withheld_ones_cannot_be_used(assignment):
    withheld = WITHHELD[assignment]
    statements = [f"import {module}" for module in modules(Path(course_utils.__file__).parent)]
    with Server(IMPORTS, withheld) as server:
        process = server.start("student", Limits())
        code = CODE.format([*statements, *map(USE.format, withheld)])
        process.channel.send("run", code.encode(), n=1)
        errors = json.loads(process.channel.receive().text)
    # A module that needs a library can't be tested on a machine that lacks the library.
    missing = "ModuleNotFoundError: No module named "
    found = {
        statement: message
        for statement, message in errors.items()
        if not (message.startswith(missing) and "course_utils" not in message)
    }
    assert found == {
        USE.format(module): f"ImportError: {module} is not available while this assignment is "
        "graded, because it contains solutions."
        for module in withheld
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
