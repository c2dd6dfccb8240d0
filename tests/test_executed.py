"""executed: lectures are run, or taken as they ran last; a run that isn't theirs is refused."""

import json

import pytest

from course_utils import notebooks
from course_utils.publishing.executed import executed
from course_utils.validation import CourseError


def text_cell(name, source):
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def code_cell(name, source, **metadata):
    cell = {"cell_type": "code", "id": name, "metadata": metadata, "source": source}
    return cell | {"execution_count": None, "outputs": []}


CELLS = [
    text_cell("opening", "# 01 Sums"),
    code_cell("setup", "# Does nothing"),
    code_cell("sum", "6 * 7"),
    code_cell("empty", ""),
]


def write(path, cells, **metadata):
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebooks.dump(content), encoding="utf-8")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def outputs(path):
    return [cell.get("outputs") for cell in read(path)["cells"]]


@pytest.fixture
def folder(tmp_path):
    """A course of one lecture."""
    write(tmp_path / "lectures" / "01_sums.ipynb", CELLS)
    return tmp_path


def change(folder, number, **changes):
    """Edit one cell of the lecture."""
    cells = [dict(cell) for cell in CELLS]
    cells[number] |= changes
    write(folder / "lectures" / "01_sums.ipynb", cells)


def ran(cells=CELLS, **changes):
    """Cells with what a run leaves, but for `changes` in the cell "sum"."""
    done = [dict(cell) for cell in cells]
    for count, cell in enumerate(done):
        if cell["cell_type"] == "code" and cell["source"]:
            cell |= {"execution_count": count, "outputs": []}
    result = {"output_type": "execute_result", "execution_count": 2, "metadata": {}}
    done[2] |= {"outputs": [result | {"data": {"text/plain": "42"}}]} | changes
    return done


@pytest.fixture
def last(folder):
    """The place of the lecture's last run, which went well."""
    path = folder / "build" / "lectures" / "01_sums.ipynb"
    write(path, ran(), widgets={"state": "kept"})
    return path


def refused(folder, only=None):
    with pytest.raises(CourseError) as refusal:
        executed(folder, only, run=False)
    return str(refusal.value)


# --- run now ---


def test_lectures_are_run_and_again_without_running(folder, capfd):
    write(folder / "lectures" / "02_more.ipynb", [code_cell("setup", ""), code_cell("say", "1")])
    paths = executed(folder)
    assert [path.name for path in paths] == ["01_sums.ipynb", "02_more.ipynb"]
    assert {path.parent for path in paths} == {folder / "build" / "lectures"}
    assert read(paths[0])["cells"][2]["outputs"][0]["data"] == {"text/plain": "42"}
    assert "01_sums 100%" in capfd.readouterr().err, "a bar shows that work goes on"
    before = [outputs(path) for path in paths]
    assert executed(folder, run=False) == paths
    assert [outputs(path) for path in paths] == before


def test_a_cell_that_fails_is_named(folder):
    change(folder, 2, source="6 / 0")
    with pytest.raises(CourseError, match=r"(?s)^01_sums failed in cell sum\n.*ZeroDivisionError"):
        executed(folder)
    assert refused(folder) == (
        "01_sums: its last run failed in cell sum: run `course run --only 01`"
    )


def test_one_lecture_is_enough(folder, last):
    write(folder / "lectures" / "02_never.ipynb", [code_cell("sum", "1")])
    assert executed(folder, "1", run=False) == [last]
    assert refused(folder) == "02_never has not been executed: run `course run --only 02`"
    assert refused(folder, "3").startswith("there is no lecture 3; choose one of: 01_sums")


def test_a_course_without_lectures(tmp_path):
    assert refused(tmp_path) == f"there are no lectures in {tmp_path / 'lectures'}"


# --- the last run ---


def test_texts_and_metadata_are_those_of_the_lecture_now(folder, last):
    cells = [dict(cell) for cell in CELLS]
    cells[0]["source"], cells[1]["source"] = "# 01 Products", "# Does even less"
    cells[2]["metadata"] = {"slideshow": {"slide_type": "subslide"}}
    cells.insert(3, text_cell("conclusion", "It is 42."))
    write(folder / "lectures" / "01_sums.ipynb", cells, title="Sums")
    assert executed(folder, run=False) == [last]
    now = read(last)
    ids = [cell["id"] for cell in now["cells"]]
    assert ids == ["opening", "setup", "sum", "conclusion", "empty"]
    assert now["cells"][0]["source"] == ["# 01 Products"]
    assert now["cells"][2]["metadata"] == {"slideshow": {"slide_type": "subslide"}}
    assert now["cells"][2]["outputs"][0]["data"] == {"text/plain": "42"}
    assert now["cells"][2]["execution_count"] == 2
    assert now["metadata"] == {"title": "Sums", "widgets": {"state": "kept"}}


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (ran(source="6 * 8"), "the code of cell sum has changed since its last run"),
        (ran()[:3], "its cells are not those of its last run"),
        (ran(id="product"), "its cells are not those of its last run"),
        (ran(execution_count=None, outputs=[]), "its last run ended before cell sum"),
        (
            ran(outputs=[{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]),
            "its last run failed in cell sum",
        ),
    ],
    ids=["code", "fewer cells", "other cell", "ended early", "failed"],
)
def test_a_run_that_is_not_of_this_lecture_is_refused(folder, last, cells, why):
    write(last, cells)
    before = last.read_bytes()
    assert refused(folder) == f"01_sums: {why}: run `course run --only 01`"
    assert last.read_bytes() == before


def test_what_is_no_notebook_is_named(folder, last):
    last.write_text("[]", encoding="utf-8")
    assert refused(folder).startswith(f"{last} is not a notebook: ")
    last.write_text("{", encoding="utf-8")
    assert refused(folder).startswith(f"{last} is not a notebook: ")
