"""Every lecture: fit for git, complete, runs on a CPU without network, within its memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import notebooks
from course_utils.publishing import addresses, claims, notebook_check
from course_utils.publishing.execute import execute

ROOT = Path(__file__).resolve().parents[1]
LECTURES = notebooks.lectures(ROOT)
MEMORY = 1_200_000_000  # bytes that a lecture's kernel may hold
QUICK = 2  # minutes; lectures that state more are marked slow

# Goes first on the kernel's path: refuses connections beyond this machine, and logs their address.
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
"""


def name_of(path):
    return path.stem


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def minutes(path):
    """How long a lecture runs on a CPU, as its first cell states."""
    return int(re.search(r"\*\*Takes:\*\* (\d+) minutes? on CPU", source(cells(path)[0]))[1])


def test_there_are_lectures():
    assert LECTURES


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_has_a_summary(path):
    assert any("summary" in cell["metadata"].get("tags", []) for cell in cells(path))


@pytest.mark.parametrize("path", notebooks.all_notebooks(ROOT), ids=name_of)
def test_fit_for_git(path):
    assert notebook_check.check(path) == []


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_same_setup_cell(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert source(code[0]) == notebook_check.setup_cell(addresses.read(ROOT).repository)


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_links_lead_somewhere(path):
    text = "\n".join(source(cell) for cell in cells(path) if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_can_be_shown_as_slides(path):
    kinds = {"slide", "subslide", "fragment", "skip", "notes", "-"}
    for cell in cells(path):
        if cell["id"] != "setup":
            assert cell["metadata"].get("slideshow", {}).get("slide_type") in kinds, cell["id"]


# Executes cells as a notebook does, up to the first whose last line is a picture.
TO_THE_FIRST_PICTURE = """
import ast, json, sys
space = {}
for source in json.load(sys.stdin):
    *most, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        most, last = [*most, last], None
    exec(compile(ast.Module(most, []), "cell", "exec"), space)
    shown = last and eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    if hasattr(shown, "_repr_html_") and "<img" in shown._repr_html_():
        print(json.dumps([name for name in ("torch", "transformers") if name in sys.modules]))
        break
"""


def test_the_memory_lecture_shows_a_picture_before_it_needs_torch():
    """Importing torch and taking a first step with it takes seconds: a picture comes sooner."""
    (path,) = (path for path in LECTURES if path.stem.endswith("memory_calculator"))
    sources = [source(cell) for cell in cells(path) if cell["cell_type"] == "code"]
    command = [sys.executable, "-c", TO_THE_FIRST_PICTURE]
    asked = json.dumps(sources)
    done = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=path.parent)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Kernels can't reach beyond this machine; returns the file that notes who tried."""
    log = tmp_path / "asked-for"
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return log


def test_the_network_is_really_off(no_network, tmp_path):
    ask = "import socket\nsocket.create_connection(('example.org', 80))"
    content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    cell = {"cell_type": "code", "id": "ask", "metadata": {}, "source": ask, "outputs": []}
    content["cells"] = [cell | {"execution_count": None}]
    path = tmp_path / "asks.ipynb"
    path.write_text(json.dumps(content))
    result = execute(path, tmp_path / "pages", progress=False)
    assert "no network in this test, but example.org" in result.error
    assert no_network.read_text() == "example.org\n"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (minutes(path) > QUICK))
        for path in LECTURES
    ],
)
def test_runs_on_a_cpu_without_network(path, no_network, tmp_path, monkeypatch):
    """Its own cells assert its numbers; what the claims about the slides quote is shown."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = execute(path, tmp_path, progress=False)
    assert result.error is None, result.error
    assert not no_network.exists(), f"asked the network for {no_network.read_text()}"
    assert result.peak_memory <= MEMORY
    assert "".join(result.summaries).strip()
    pictures = re.findall("<img [^>]*>", result.page.read_text(encoding="utf-8"))
    assert pictures and all(re.search(r"""alt=(["'])(?!\1)""", picture) for picture in pictures)
    unsupported = claims.unsupported(ROOT, [tmp_path / path.name])
    assert [line for line in unsupported if f": {path.stem}, cell " in line] == []
