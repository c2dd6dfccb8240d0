"""Test tests.browser: `run_whole` runs a notebook in a front end and reports what went wrong.

`run_whole` starts Playwright, which can't run twice in a process. So these tests use no browser of
the module.
"""

import dataclasses

import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from tests.browser import FRONT_ENDS, JUPYTERLAB, Server, is_progress, run_whole, write_notebook

# The time limit of a run in seconds, for tests in which the limit does not matter.
TIMEOUT = 300


@pytest.fixture
def notebook(tmp_path):
    """Return a function that writes a notebook with a text and code cells."""
    return lambda *sources: write_notebook(tmp_path / "cells.ipynb", "Cells", sources)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.full if kind == "jupyterlab" else pytest.mark.slow)
        for kind in FRONT_ENDS
    ],
)
def test_the_error_of_a_cell_and_the_memory_of_the_kernel_are_reported(notebook, kind):
    result = run_whole(kind, notebook("x = b'x' * 200_000_000", "1 / 0", "2"), TIMEOUT)
    assert not result["passed"]
    assert "ZeroDivisionError: division by zero" in result["error"]
    assert 200e6 < result["peak_memory"] < 600e6


@pytest.mark.full
def test_a_notebook_without_errors_passes(notebook):
    bar = "from tqdm import tqdm\nfor _ in tqdm(range(3)): pass"
    cells = notebook("print('all')", bar, "import time; time.sleep(2)")
    result = run_whole("jupyterlab", cells, TIMEOUT)
    assert result["passed"] and result["error"] is None
    assert result["seconds"] > 2 and 20e6 < result["peak_memory"] < 600e6


@pytest.mark.slow
@pytest.mark.parametrize("kind", FRONT_ENDS)
@pytest.mark.parametrize(
    ("source", "timeout", "message"),
    [
        ("import sys; print('warning', file=sys.stderr)", TIMEOUT, "warning"),
        ("import os; os._exit(1)", TIMEOUT, "died"),
        ("import time; time.sleep(600)", 10, "10"),
    ],
    ids=["stderr", "died", "timeout"],
)
def test_other_failures_are_reported(notebook, kind, source, timeout, message):
    result = run_whole(kind, notebook(source), timeout)
    assert not result["passed"] and message in result["error"]


def test_progress_bars_are_recognized():
    assert is_progress("\r  0%|          | 0/42 [00:00<?, ?step/s]\n100%|██████████| 42/42\n")
    assert is_progress("")
    assert not is_progress("100%|██████████| 42/42\nUserWarning: 100%")


def test_the_error_of_a_server_that_does_not_start_contains_its_log(tmp_path):
    wrong = dataclasses.replace(JUPYTERLAB, command=("course", "labs"))
    with pytest.raises(RuntimeError, match="No such command"), Server(tmp_path, [], wrong):
        pass
