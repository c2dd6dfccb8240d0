"""`run_whole`, by which lectures are tried in front ends, tells what goes wrong; and so its parts.

Its own Playwright can't be started beside another: hence no module-wide browser here.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from course_utils import notebooks
from tests.browser import FRONT_ENDS, JUPYTERLAB, Server, is_progress, run_whole

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def notebook(tmp_path):
    """Sources of cells → a notebook with them, below a text."""

    def write(*sources):
        cells = [nbformat.v4.new_markdown_cell("# Cells")]
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        path = tmp_path / "cells.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
        return path

    return write


@pytest.mark.parametrize(
    "kind", ["jupyterlab", pytest.param("notebook7", marks=pytest.mark.slow), "voila"]
)
def test_a_cell_that_fails_is_told_with_the_memory_of_its_kernel(notebook, kind):
    result = run_whole(kind, notebook("x = b'x' * 200_000_000", "1 / 0", "2"), 60)
    assert not result["passed"]
    assert "ZeroDivisionError: division by zero" in result["error"]
    assert 200e6 < result["peak_memory"] < 600e6


def test_a_notebook_without_a_fault_passes(notebook):
    bar = "from tqdm import tqdm\nfor _ in tqdm(range(3)): pass"
    result = run_whole(
        "jupyterlab", notebook("print('all')", bar, "import time; time.sleep(2)"), 60
    )
    assert result["passed"] and result["error"] is None
    assert 2 < result["seconds"] < 60 and 20e6 < result["peak_memory"] < 600e6


@pytest.mark.slow
@pytest.mark.parametrize("kind", FRONT_ENDS)
@pytest.mark.parametrize(
    "source, words",
    {
        "import sys; print('beware', file=sys.stderr)": "beware",
        "import os; os._exit(1)": "died",
        "import time; time.sleep(60)": "10",  # s, of patience
    }.items(),
    ids=["stderr", "died", "slow"],
)
def test_what_else_goes_wrong_is_told(notebook, kind, source, words):
    result = run_whole(kind, notebook(source), 10)
    assert not result["passed"] and words in result["error"]


def test_a_progress_bar_is_no_fault():
    assert is_progress("\r  0%|          | 0/42 [00:00<?, ?step/s]\n100%|██████████| 42/42\n")
    assert is_progress("")
    assert not is_progress("100%|██████████| 42/42\nUserWarning: 100%")


def test_a_server_that_does_not_start_says_why(tmp_path):
    wrong = dataclasses.replace(JUPYTERLAB, command=("course", "labs"))
    with pytest.raises(RuntimeError, match="No such command"), Server(tmp_path, [], wrong):
        pass


def test_every_notebook_names_the_kernel_that_is_there():
    """It is called as Colab's."""
    command = [sys.executable, "-m", "jupyter_client.kernelspecapp", "list", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    spec = json.loads(answer.stdout)["kernelspecs"]["python3"]["spec"]
    assert spec["language"] == "python" and "ipykernel_launcher" in spec["argv"]
    for path in notebooks.all_notebooks(ROOT):
        said = json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"]
        assert said == "python3", path
