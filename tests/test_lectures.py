"""Tests of every lecture: clean in git, complete, runs on a CPU without a network."""

import ast
import inspect
import json
import os
import re

import pytest
import torch

from course_utils.machine import notebooks, runtime
from course_utils.machine.execution import execute
from course_utils.models import load_base
from tests.cells import LECTURES, ROOT, write_notebook
from workshop.publishing import claims
from workshop.publishing.html import write_page

# The most GB of memory that a lecture may state, for CPUs with and without bfloat16 instructions.
# Binder has 2 GB for a kernel and Jupyter's server.
MAX_MEMORY = {"bfloat16": 1.5, "float32": 1.6}
# Lectures that state more minutes are slow.
MAX_MINUTES = 1

# The kernel imports this module first. It refuses connections to other machines, and writes the
# addresses to a file, whose first line says that the module was imported.
NO_NETWORK = """
import pathlib, socket

def note(address):
    pathlib.Path({log!r}).open("a").write(f"{{address}}\\n")
    raise OSError(f"no network in this test, but {{address}} was asked for")

def connect(self, address, _connect=socket.socket.connect):
    local = self.family == getattr(socket, "AF_UNIX", None) or address[0] in ("127.0.0.1", "::1")
    return _connect(self, address) if local else note(address)

def getaddrinfo(host, *rest, _getaddrinfo=socket.getaddrinfo, **options):
    local = host in (None, "localhost", "127.0.0.1", "::1")
    return _getaddrinfo(host, *rest, **options) if local else note(host)

socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
pathlib.Path({log!r}).open("a").write("no network\\n")
"""


def name_of(path):
    return path.stem


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def minutes(path):
    """Return the minutes on a CPU that the first cell of a lecture states."""
    return int(re.search(r"\*\*Run time:\*\* (\d+) minutes? on CPU", source(cells(path)[0]))[1])


def memory(path, dtype):
    """Return the GB of memory that the first cell of a lecture states for a CPU with this dtype."""
    pattern = r"on CPU, (\S+) GB of memory(?: \((\S+) GB on a CPU without bfloat16\))?$"
    usual, in_float32 = re.search(pattern, source(cells(path)[0]), re.MULTILINE).groups()
    return float(in_float32 or usual if dtype == "float32" else usual)


@pytest.mark.parametrize("dtype", MAX_MEMORY)
@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_states_less_memory_than_binder_has(path, dtype):
    assert memory(path, dtype) <= MAX_MEMORY[dtype]


@pytest.mark.full
def test_lecture_07_loads_its_model_as_load_base_does(monkeypatch):
    monkeypatch.setattr(runtime, "compute_dtype", lambda _device=None: torch.float16)
    (path,) = (path for path in LECTURES if path.stem.startswith("07"))
    sources = {cell["id"]: source(cell) for cell in cells(path)}
    names = {}
    for cell in ("load-config", "load-model"):
        exec(sources[cell], names)
    base, _ = load_base(names["NAME"], quantization="nf4")
    expected, found = base.state_dict(), names["model"].state_dict()
    assert list(found) == list(expected)
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_the_names_of_the_course_in_a_lecture_exist(path):
    """This finds a renamed function in the lectures that are too long to run each time."""
    sources = [source(cell) for cell in cells(path) if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join(re.sub(r"(?m)^%.*", "", text) for text in sources))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {}
    exec(compile(ast.Module(imports, []), path.name, "exec"), names)
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in used:
        module = names.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if getattr(module, "__name__", "").startswith("course_utils") and inspect.ismodule(module):
            assert hasattr(module, node.attr), f"{module.__name__} has no {node.attr}"
    assert imports and used


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_can_be_shown_as_slides(path):
    kinds = {"slide", "subslide", "fragment", "skip", "notes", "-"}
    for cell in cells(path):
        if cell["id"] != "setup":
            assert cell["metadata"].get("slideshow", {}).get("slide_type") in kinds, cell["id"]


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Cut kernels off the network; return the file with the addresses that they asked for."""
    log = tmp_path / "asked-for"
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return log


# The cells of the lectures before this one can be run again.
ONCE = "07"
# The student's lines in a cell, and a solution in the folded text below the check.
SOLUTION = re.compile(r"```python\n(.+?)\n```", re.DOTALL)
# What differs between two runs of a cell: addresses, and the names of widgets and styled tables.
RANDOM = re.compile(r"0x[0-9a-f]+|[0-9a-f]{32}|T_[0-9a-f]{5}")


def with_a_second_run(path):
    """Return a lecture in which all code cells follow once more, from the last to the first.

    In the second run, the solution replaces the student's lines, and the check runs after it.
    """
    notebook = notebooks.load(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    turns = [cell for cell in code if "your-turn" in cell["metadata"].get("tags", [])]
    again = [cell for cell in reversed(code) if cell["id"] != "setup" and cell not in turns]
    for turn in turns:
        below = notebook["cells"][notebook["cells"].index(turn) :]
        checks = (cell for cell in below if "with your_turn()" in cell["source"])
        texts = (cell["source"] for cell in below if cell["cell_type"] == "markdown")
        place = again.index(next(checks))
        again.insert(place, {**turn, "source": SOLUTION.search(next(texts))[1]})
    notebook["cells"] += [{**cell, "id": f"{cell['id']}-again"} for cell in again]
    return notebook


def shown(cell):
    """Return the outputs of a cell, without what differs between two runs."""
    parts = [output.get("data", output.get("text", "")) for output in cell["outputs"]]
    for data in (part for part in parts if isinstance(part, dict)):
        data.pop(notebooks.WIDGET_VIEW, None)
    return RANDOM.sub("", json.dumps(parts))


def differences(executed):
    """Return the cells of an executed lecture whose second run shows something else."""
    done = {cell["id"]: cell for cell in notebooks.load(executed)["cells"]}
    wrong = []
    for name, cell in done.items():
        if (second := done.get(f"{name}-again")) and "timed" not in cell["metadata"].get(
            "tags", []
        ):
            is_check = "with your_turn()" in cell["source"]
            same = shown(cell) == shown(second)
            right = "Not right yet" in shown(cell) and "**Right.**" in shown(second)
            wrong += [] if (right if is_check else same) else [name]
    return wrong


def unexplained(executed):
    """Return the wrong choices of an executed lecture's predictions that have no explanation."""
    outputs = [out for cell in notebooks.load(executed)["cells"] for out in cell.get("outputs", [])]
    forms = [output.get("metadata", {}).get(notebooks.METADATA, {}) for output in outputs]
    asked, shown = (
        {form[kind]["key"]: form[kind] for form in forms if kind in form}
        for kind in ("predict", "reveal")
    )
    assert asked.keys() == shown.keys()
    return [
        (key, choice)
        for key, question in asked.items()
        for choice in question["choices"]
        if choice != shown[key]["right"] and choice not in shown[key]["why"]
    ]


def tier(path):
    """Return the marker of a lecture's test."""
    return pytest.mark.slow if minutes(path) > MAX_MINUTES else pytest.mark.full


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem, marks=tier(p)) for p in LECTURES])
def test_runs_on_a_cpu_without_network(path, no_network, tmp_path, monkeypatch):
    """Cells of the lecture assert its numbers. Quotes in docs/ are compared with its outputs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    twice = path.stem < ONCE
    runs = with_a_second_run(path) if twice else notebooks.load(path)
    copy = write_notebook(tmp_path / "lectures" / path.name, runs)
    result = execute(copy, tmp_path)
    assert result.error is None, result.error
    assert list(copy.parent.iterdir()) == [copy], "writes files among the lectures"
    assert differences(result.executed) == [], "these cells can't be run again"
    assert not twice or unexplained(result.executed) == []
    asked = set(no_network.read_text().splitlines())
    assert asked == {"no network"}, f"asked the network for {asked}"
    dtype = "bfloat16" if runtime.cpu_has_bf16() else "float32"
    # While a cell loads a model again, the old one is still there.
    assert result.peak_memory <= memory(path, dtype) * 1e9 * (1.05 if twice else 1)
    assert "".join(result.summaries).strip()
    page = write_page(result.executed, path.parent).read_text(encoding="utf-8")
    pictures = re.findall(r'<img [^>]*>|<svg [^>]*role="img"[^>]*>', page)
    assert pictures
    assert all(re.search(r"""(alt|aria-label)=(["'])(?!\2)""", picture) for picture in pictures)
    unsupported = claims.unsupported(ROOT, [tmp_path / path.name])
    assert [line for line in unsupported if f" of {path.stem} " in line] == []
