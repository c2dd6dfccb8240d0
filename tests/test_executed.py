"""Test executed: lectures are run, or their last run is used if it had the same code."""

import json

import pytest

from course_utils.machine.validation import CourseError
from tests.cells import code_cell, notebook, text_cell, write_notebook
from workshop.publishing.executed import executed

CELLS = [
    text_cell("opening", "# 01 Sums"),
    code_cell("setup", "# Does nothing"),
    code_cell("sum", "6 * 7"),
    code_cell("empty", ""),
]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def outputs(path):
    return [cell.get("outputs") for cell in read(path)["cells"]]


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a course with one lecture."""
    write_notebook(tmp_path / "lectures" / "01_sums.ipynb", notebook(*CELLS))
    return tmp_path


def executed_cells(cells=CELLS, **changes):
    """Return cells with the results of a run, and with `changes` in the cell "sum"."""
    done = [dict(cell) for cell in cells]
    for count, cell in enumerate(done):
        if cell["cell_type"] == "code" and cell["source"]:
            cell |= {"execution_count": count, "outputs": []}
    result = {"output_type": "execute_result", "execution_count": 2, "metadata": {}}
    done[2] |= {"outputs": [result | {"data": {"text/plain": "42"}}]} | changes
    return done


@pytest.fixture
def last(folder):
    """Write the notebook of the lecture's last run, which had no error, and return its path."""
    path = folder / "build" / "lectures" / "01_sums.ipynb"
    write_notebook(path, notebook(*executed_cells(), widgets={"state": "kept"}))
    return path


ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}


def error_of(folder, only=None):
    """Return the message of the error for a last run that can't be used."""
    with pytest.raises(CourseError) as error:
        executed(folder, only, run=False)
    return str(error.value)


# --- run now ---


def test_lectures_are_run_and_their_last_run_can_be_used(folder, capfd):
    (path,) = executed(folder)
    assert path == folder / "build" / "lectures" / "01_sums.ipynb"
    assert read(path)["cells"][2]["outputs"][0]["data"] == {"text/plain": "42"}
    assert "01_sums 100%" in capfd.readouterr().err
    before = outputs(path)
    assert executed(folder, run=False) == [path]
    assert outputs(path) == before


@pytest.mark.full
def test_a_cell_that_fails_is_named(folder):
    cells = [*CELLS[:2], code_cell("sum", "6 / 0")]
    write_notebook(folder / "lectures" / "01_sums.ipynb", notebook(*cells))
    with pytest.raises(CourseError, match=r"(?s)^01_sums failed in cell sum\n.*ZeroDivisionError"):
        executed(folder)


def test_one_lecture_can_be_chosen(folder, last):
    write_notebook(folder / "lectures" / "02_never.ipynb", notebook(*[code_cell("sum", "1")]))
    assert executed(folder, "1", run=False) == [last]
    assert error_of(folder) == "02_never has not been executed: run `course run --only 02`"
    assert error_of(folder, "3").startswith("there is no lecture 3; choose one of: 01_sums")


# --- the last run ---


def test_texts_and_cell_metadata_are_updated_in_the_last_run(folder, last):
    cells = [dict(cell) for cell in CELLS]
    cells[0]["source"], cells[1]["source"] = "# 01 Products", "# Does even less"
    cells[2]["metadata"] = {"slideshow": {"slide_type": "subslide"}}
    cells.insert(3, text_cell("conclusion", "It is 42."))
    write_notebook(folder / "lectures" / "01_sums.ipynb", notebook(*cells, title="Sums"))
    assert executed(folder, run=False) == [last]
    now = read(last)
    ids = [cell["id"] for cell in now["cells"]]
    assert ids == ["opening", "setup", "sum", "conclusion", "empty"]
    assert now["cells"][0]["source"] == ["# 01 Products"]
    assert now["cells"][2]["metadata"] == {"slideshow": {"slide_type": "subslide"}}
    assert now["cells"][2]["outputs"][0]["data"] == {"text/plain": "42"}
    assert now["cells"][2]["execution_count"] == 2
    assert now["metadata"]["title"] == "Sums" and now["metadata"]["widgets"] == {"state": "kept"}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (executed_cells(source="6 * 8"), "the code of cell sum has changed"),
        (executed_cells(id="product"), "the code cells have other ids now"),
        (executed_cells(execution_count=None, outputs=[]), "it ended before cell sum"),
        (executed_cells(outputs=[ERROR]), "it failed in cell sum"),
    ],
    ids=["code", "other cell", "ended early", "failed"],
)
def test_a_last_run_of_other_code_or_with_an_error_is_not_used(folder, last, cells, reason):
    write_notebook(last, notebook(*cells))
    before = last.read_bytes()
    assert error_of(folder) == (
        f"the last run of 01_sums can't be used, because {reason}: run `course run --only 01`"
    )
    assert last.read_bytes() == before
