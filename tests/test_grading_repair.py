"""Test repair: a notebook can be graded after any accident, and each repair is noted."""

import copy
import functools
import io
import itertools
import json
import re
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_utils.machine.validation import CourseError
from tests import assignment, sums
from tests.time_limit import time_limit
from workshop.grading import repair
from workshop.grading.assignments import grading, is_answer, read
from workshop.grading.repair import Ungradable

ROOT = Path(__file__).resolve().parents[1]
SMALL = assignment.NAME


@pytest.fixture(scope="module")
def small_course(tmp_path_factory):
    """A course with the small assignment, which is released and in nbgrader's gradebook."""
    return sums.course(tmp_path_factory.mktemp("repair") / "course")


@functools.cache
def originals(course, name):
    """Return the release as JSON, with sources that are strings, and the solution."""
    release = json.loads((course / f"exercises/{name}/{name}.ipynb").read_bytes())
    for cell in release["cells"]:
        cell["source"] = "".join(cell["source"])
    return json.dumps(release), read(course / f"solutions/{name}/{name}.ipynb")


class Work:
    """A release, and a submission with the solution's answers, which a test damages.

    Attributes:
        answer, other: the ids of the first two answers in code.
        test: the id of the first test of `answer`.
        function: a name that `answer` defines.
        question: the id of an answer that a person grades.
        expected: the sources that the answers must have after the repair, by id.
    """

    def __init__(self, course, name):
        text, solution = originals(course, name)
        self.release, self.notebook = json.loads(text), json.loads(text)
        for task in solution.tasks:
            self[task.id]["source"] = task.answer["source"]
        code = [task for task in solution.tasks if not task.by_hand]
        self.answer, self.other = code[0].id, code[1].id
        self.test = code[0].checks[0]["id"]
        self.question = next(task.id for task in solution.tasks if task.by_hand)
        self.function = re.search(r"^(?:def|class) (\w+)", self[self.answer]["source"], re.M)[1]
        self.marked = [cell["id"] for cell in self.release["cells"] if grading(cell)]
        self.expected = {cell["id"]: cell["source"] for cell in self.cells if is_answer(cell)}

    @property
    def cells(self):
        return self.notebook["cells"]

    def __getitem__(self, name):
        return next(cell for cell in self.cells if cell["id"] == name)

    def stub(self, name):
        return next(cell["source"] for cell in self.release["cells"] if cell["id"] == name)

    def position(self, name):
        return self.cells.index(self[name])

    def remove(self, name):
        return self.cells.pop(self.position(name))

    def add(self, source, after=None, kind="code", name="mine", **metadata):
        """Insert one of the student's own cells, after another cell or at the end."""
        cell = {"cell_type": kind, "id": name, "metadata": metadata, "source": source}
        cell |= {"execution_count": 3, "outputs": []} if kind == "code" else {}
        self.cells.insert(self.position(after) + 1 if after else len(self.cells), cell)
        return cell

    def paste(self, name, after=None, source=None):
        """Copy a cell as Ctrl-C and Ctrl-V do: text and metadata stay the same, the id is new."""
        original = self[name]
        return self.add(
            source or original["source"],
            after,
            original["cell_type"],
            "pasted",
            **original["metadata"],
        )

    def repaired(self):
        return repair.repair(repair.load(json.dumps(self.notebook).encode()), self.release)


@pytest.fixture(
    params=[
        SMALL,
        "03_lora",
    ]
)
def work(request, small_course):
    return Work(small_course if request.param == SMALL else ROOT, request.param)


@pytest.fixture
def small(small_course):
    return Work(small_course, SMALL)


def by_id(result):
    return {cell["id"]: cell for cell in result.notebook["cells"]}


def order(result):
    return [cell["id"] for cell in result.notebook["cells"]]


@functools.cache
def accepted_by_nbgrader(cells):
    """Validate the types and the metadata of cells with nbgrader, once for equal cells."""
    import nbformat
    from nbgrader.nbgraderformat import MetadataValidator

    cells = [{**cell, "source": ""} for cell in json.loads(cells)]
    MetadataValidator().validate_nb(nbformat.from_dict({"cells": cells}))


def validate(notebook, release):
    """Fail unless a notebook is valid and contains the release's graded cells."""
    import nbformat

    nbformat.validate(notebook)
    bare = [{key: cell[key] for key in ("cell_type", "metadata")} for cell in notebook["cells"]]
    accepted_by_nbgrader(json.dumps(bare))
    json.dumps(notebook, ensure_ascii=False).encode("utf-8")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    marked = [cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    released = [cell for cell in release["cells"] if grading(cell)]
    assert [c["id"] for c in marked] == [c["id"] for c in released]
    for cell, original in zip(marked, released, strict=True):
        assert cell["metadata"] == original["metadata"]
        assert cell["cell_type"] == original["cell_type"]
        if not is_answer(original):
            assert cell["source"] == original["source"]
    own = [
        cell for cell in notebook["cells"] if cell["id"] not in {c["id"] for c in release["cells"]}
    ]
    assert all(cell["metadata"] == {} for cell in own)
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    assert notebook["metadata"] == release["metadata"]


# --- accidents ------------------------------------------------------------------------------------

ACCIDENTS = {}
LOST = "restored nbgrader's missing or changed metadata \\(number of cells: {}\\)"
LOST_ONE, LOST_ALL = LOST.format(1), LOST.format("MARKED")
FORGED_ONE = "removed nbgrader's metadata from the student's own cells \\(number of cells: 1\\)"


def accident(notes=(), doubts=()):
    """Register an accident, which changes `work.expected` if the repair can't restore an answer.

    Args:
        notes: one pattern for each expected note, in order. In a pattern, ANSWER, OTHER, TEST,
            QUESTION and FUNCTION are replaced by the attributes of `Work`.
        doubts: one pattern for each expected doubt.
    """

    def register(function):
        ACCIDENTS[function.__name__] = (function, notes, doubts)
        return function

    return register


@accident()
def untouched(work):
    work.cells[1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "hello"}]
    work.cells[1]["execution_count"] = 7


@accident(notes=[LOST_ALL])
def colab(work):
    for place, cell in enumerate(work.cells):
        cell["id"] = f"Xy_{place}"
        cell["metadata"] = {"id": f"Xy_{place}", "outputId": "abc", "colab": {"base_uri": "x"}}
    work.notebook["metadata"] = {"colab": {"provenance": []}, "kernelspec": {"name": "python3"}}


@accident(notes=[LOST_ALL])
def colab_without_ids(work):
    for cell in work.cells:
        del cell["id"]
        cell["metadata"] = {}
    work.notebook["nbformat_minor"] = 0


@accident(notes=[LOST_ONE])
def a_magic_on_top(work):
    source = "%%time\n\n# my answer\nimport math\n" + work[work.answer]["source"]
    work[work.answer].update({"source": source, "metadata": {}, "id": "new"})
    work.expected[work.answer] = source


@accident(notes=["restored the type of cells: ANSWER"])
def answer_changed_to_markdown(work):
    work[work.answer]["cell_type"] = "markdown"


@accident(notes=["restored changed tests: TEST", "restored the type of cells: TEST"])
def a_test_disabled(work):
    work[work.test].update(
        {"cell_type": "raw", "source": "%%script false\n" + work[work.test]["source"][:-20]}
    )


@accident(notes=[FORGED_ONE])
def answer_split(work):
    """JupyterLab gives the metadata to both parts; the last part keeps the id."""
    work[work.answer]["source"] += "\n\nHELP = 1"
    top, _, bottom = work[work.answer]["source"].rpartition("\n\n")
    work.paste(work.answer, source=bottom)
    work.cells.insert(work.position(work.answer) + 1, work.cells.pop())
    work[work.answer]["source"] = work.expected[work.answer] = top
    work[work.answer]["id"], work["pasted"]["id"] = "first", work.answer


@accident(notes=["split a merged cell, which contained: ANSWER, TEST", LOST_ONE])
def answer_and_test_merged(work):
    for name in [c["id"] for c in work.cells if c["id"] == f"{work.answer}-expected"]:
        work.remove(name)
    below = [work.remove(name)["source"] for name in (f"{work.answer}-try", work.test)]
    work.expected[work.answer] = "\n\n".join([work[work.answer]["source"], below[0]])
    work[work.answer]["source"] = "\n\n".join([work[work.answer]["source"], *below])


@accident(
    notes=[
        "split a merged cell, which contained: ANSWER, OTHER",
        "restored the order of the cells",
        LOST_ONE,
    ]
)
def two_answers_merged(work):
    """JupyterLab keeps the metadata of the cell that was active, here the lower one."""
    first = work.remove(work.answer)["source"]
    work[work.other]["source"] = f"{first}\n\n{work[work.other]['source']}"
    work[work.other]["id"] = "merged"


@accident(notes=["restored the order of the cells"])
def cells_in_reverse_order(work):
    work.cells.reverse()


@accident(notes=["restored missing tests: TEST"])
def a_test_deleted(work):
    work.remove(work.test)


@accident(notes=["restored missing answer cells: ANSWER"])
def answer_deleted(work):
    work.remove(work.answer)
    work.expected[work.answer] = work.stub(work.answer)


@accident(notes=["restored missing set-up cells: imports"])
def imports_deleted(work):
    work.remove("imports")


@accident()
def own_cells_added(work):
    work.add("first = 1", work.cells[0]["id"])
    work.add("x = 1", work.answer, name="setup")
    work.add("Notes", work.test, "markdown", name="")
    work.add("raw", None, "raw", name="with blanks")


@accident(notes=["restored changed tests: TEST"])
def a_test_edited(work):
    work[work.test]["source"] = work[work.test]["source"].replace("check", "print", 2)


@accident(notes=["split a merged cell, which contained: TEST", "dropped copies of cells: TEST"])
def a_test_copied(work):
    work.paste(work.test, source=work[work.test]["source"] + "\nprint('tried')")
    work.paste(work.test, after=work.answer)["id"] = "again"


@accident(notes=["dropped copies of cells: ANSWER"])
def answer_copied(work):
    work.paste(work.answer)


@accident(doubts=["ANSWER has 2 different answers: the last one counts"])
def answered_twice(work):
    later = work[work.answer]["source"] + "\n# better"
    work.paste(work.answer, work.answer, later)
    work.expected[work.answer] = later


MISSING = "the answer {} is missing: another cell of the notebook may contain it"


@accident(notes=["restored missing answer cells: ANSWER"], doubts=[MISSING.format("ANSWER")])
def answer_without_id_and_metadata(work):
    """The restored stub doesn't define the function, which would replace the student's function."""
    source = work.remove(work.answer)["source"].partition("\n")[2] + "\n"
    work.add(source, f"{work.answer}-prompt")
    work.expected[work.answer] = f"# grade_id: {work.answer}"


@accident()
def answer_below_its_stub(work):
    source = work[work.answer]["source"].partition("\n")[2]
    work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
    work.add(source, work.answer)


@accident(doubts=["the answer ANSWER is the unchanged stub, but another cell defines .*FUNCTION.*"])
def answer_far_from_its_stub(work):
    source = work[work.answer]["source"].partition("\n")[2]
    work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
    work.add(source)


@accident(
    notes=["restored changed tests: TEST"],
    doubts=["the changed test TEST defined .*FUNCTION.*, which belongs to the answer ANSWER: .*"],
)
def answer_in_the_test(work):
    source = work[work.answer]["source"].partition("\n")[2]
    work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
    title, comment, rest = work[work.test]["source"].split("\n", 2)
    work[work.test]["source"] = "\n".join([title, comment, source, rest])


@accident(
    notes=[
        "a cell was marked as ANSWER and OTHER: only ANSWER fits its text",
        "a cell was marked as OTHER and ANSWER: only OTHER fits its text",
        "restored nbgrader's missing or changed metadata \\(number of cells: 2\\)",
    ]
)
def metadata_swapped(work):
    one, other = work[work.answer], work[work.other]
    for key in ("id", "metadata"):
        one[key], other[key] = other[key], one[key]


def exchange_bodies(work):
    """Exchange the first two answers, but not the first lines of their cells."""
    cells = work[work.answer], work[work.other]
    lines = [cell["source"].partition("\n") for cell in cells]
    for cell, (first, _, _), (_, _, body) in zip(cells, lines, reversed(lines), strict=True):
        cell["source"] = f"{first}\n{body}"


@accident(notes=["moved answers that were in each other's cells: ANSWER, OTHER"])
def answers_exchanged(work):
    exchange_bodies(work)


@accident()
def line_ends_of_other_operating_systems(work):
    for cell, end in zip(work.cells, itertools.cycle(["\r\n", "\r"]), strict=False):
        cell["source"] = cell["source"].replace("\n", end).splitlines(keepends=True)


@accident(notes=["restored nbgrader's missing or changed metadata \\(number of cells: 3\\)"])
def metadata_forged(work):
    data = [work[name]["metadata"]["nbgrader"] for name in (work.answer, work.test, work.question)]
    data[0] |= {"grade": True, "points": 10**9, "locked": True}
    data[1] |= {"schema_version": 99, "points": 1e9}
    data[2] |= {"task": True, "solution": "no"}


def with_names(pattern, work):
    names = {"ANSWER": work.answer, "OTHER": work.other, "TEST": work.test}
    names |= {"QUESTION": work.question, "FUNCTION": work.function, "MARKED": str(len(work.marked))}
    return re.sub("|".join(names), lambda match: names[match[0]], pattern)


@pytest.mark.parametrize("name", ACCIDENTS)
def test_accidents_are_repaired(work, name):
    damage, notes, doubts = ACCIDENTS[name]
    damage(work)
    result = work.repaired()
    validate(result.notebook, work.release)
    cells = by_id(result)
    assert {name: cells[name]["source"] for name in work.expected} == work.expected
    for lines, patterns in ((result.notes, notes), (result.doubts, doubts)):
        assert len(lines) == len(patterns), lines
        for line, pattern in zip(lines, patterns, strict=True):
            assert re.fullmatch(with_names(pattern, work), line), line


# --- the position of own cells --------------------------------------------------------------------


def test_own_cells_follow_the_same_cell_as_before(small):
    own_cells_added(small)
    ids = order(small.repaired())
    assert len(ids) == len(small.release["cells"]) + 4
    assert ids[:2] == ["opening", "mine"]
    assert ids[ids.index("sum-all") + 1] == "own-1", "the id belongs to the release"
    assert ids[ids.index("sum-all-form") + 1] == "given-11", "there was no id"
    assert ids[-1] == f"given-{len(ids)}", "no valid id"


def test_a_notebook_saved_by_colab_keeps_all_cells(work):
    """Cells that aren't graded are recognized by their text."""
    before = work.repaired().notebook
    colab(work)
    assert work.repaired().notebook == before


def test_a_notebook_of_another_assignment_is_ungradable(small):
    other = Work(ROOT, "03_lora")
    with pytest.raises(Ungradable, match="none of this assignment's graded cells: hand in"):
        repair.repair(other.notebook, small.release)


def test_repairing_again_changes_nothing(work):
    metadata_swapped(work)
    own_cells_added(work)
    once = work.repaired()
    again = repair.repair(copy.deepcopy(once.notebook), work.release)
    assert again.notebook == once.notebook
    assert (again.notes, again.doubts) == ((), ())


# --- bytes ----------------------------------------------------------------------------------------


def archive():
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("09_sums.ipynb", "{}")
    return target.getvalue()


CELL = '{"cell_type": "code", "id": "a", "metadata": {}, "source": %s}'
BOOK = '{"cells": [%s], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'

NO_NOTEBOOK = "the file is not a notebook .*: hand in the file that ends in .ipynb"
BROKEN = {
    "empty": (b"", "the file is empty"),
    "zip": (archive(), NO_NOTEBOOK),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", NO_NOTEBOOK),
    "python": (b"import torch\nprint(1)\n", NO_NOTEBOOK),
    "cut off": ((BOOK % CELL)[:40].encode(), "is incomplete and ends in line 1: .* cut off"),
    "conflict": (
        b'{\n<<<<<<< HEAD\n "a": 1\n=======\n>>>>>>> b\n}',
        "not valid JSON from line 2 on",
    ),
    "list": (b"[]", "not a notebook"),
    "no cells": (b'{"cells": {"a": 1}, "nbformat": 4}', "no list of cells"),
    "old": (b'{"worksheets": [{"cells": []}], "nbformat": 3}', "isn't in format 4"),
    "huge number": (b'{"cells": [], "nbformat": %s}' % (b"4" * 5_000), "isn't in format 4"),
    "deep": (b'{"cells": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "twice": (b'{"cells": [], "cells": [], "nbformat": 4}', "the key 'cells' twice"),
    "source twice": ((BOOK % CELL % '"a", "source": "b"').encode(), "the key 'source' twice"),
    "number for source": (
        (BOOK % CELL % "3").encode(),
        "source of cell 1 of the notebook is not a text",
    ),
    "many cells": ((BOOK % ",".join(["{}"] * 2_001)).encode(), "2,001 cells, but at most 2,000"),
    "much text": ((BOOK % CELL % f'"{"x" * 10_000_001}"').encode(), "10.0 million characters"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_notebook_is_ungradable_for_one_reason(kind):
    data, sentence = BROKEN[kind]
    with pytest.raises(Ungradable, match=sentence) as caught:
        repair.load(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_file_that_is_too_large_is_ungradable(monkeypatch):
    monkeypatch.setattr(repair, "MAX_NOTEBOOK", 1_999_999)
    with pytest.raises(
        Ungradable, match="has 2 MB, but at most 2 MB are allowed: clear all outputs"
    ):
        repair.load(b" " * 2_000_000)


ENCODINGS = {
    "utf-8": "",
    "utf-8-sig": "",
    "utf-16": "converted the file from UTF-16 to UTF-8",
    "utf-32-be": "converted the file from UTF-32-BE to UTF-8",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_other_encodings_are_converted(small, encoding):
    small["sum-why"]["source"] += "\nGrüße: 3 €"
    text = json.dumps(small.notebook, ensure_ascii=False).replace("●", "*").replace("○", "*")
    loaded = repair.load(text.encode(encoding))
    assert [cell["source"][-10:] for cell in loaded["cells"]][-1] == "Grüße: 3 €"
    result = repair.repair(loaded, small.release)
    assert result.notes == ((ENCODINGS[encoding],) if ENCODINGS[encoding] else ())
    assert result.doubts == ()


def test_only_undecodable_bytes_are_replaced(small):
    small["sum-why"]["source"] += "\nGrüße"
    data = json.dumps(small.notebook, ensure_ascii=False).encode().replace("ß".encode(), b"\xff")
    result = repair.repair(repair.load(data), small.release)
    assert by_id(result)["sum-why"]["source"].endswith("Grü�e")
    assert by_id(result)["sum-all-prompt"]["source"].count("●●○") == 1
    assert result.notes == ("replaced undecodable characters with � (number: 1)",)


def test_answers_without_work_are_found(small):
    for name in ("sum-all", "sum-why"):
        small[name]["source"] = small.stub(name)
    small["sum-squares"]["source"] = "# grade_id: sum-squares\n"
    assert small.repaired().unanswered == ("sum-all", "sum-squares", "sum-why")
    small.add("def add(numbers):\n    return sum(numbers)", "sum-all")
    assert small.repaired().unanswered == ("sum-squares", "sum-why")


def test_outputs_are_not_kept_in_memory(small):
    for cell in small.cells:
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 500_000}]
    data = json.dumps(small.notebook).encode()
    tracemalloc.start()
    try:
        repair.load(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(data), "at most the text and the outputs of one cell"


# --- hostile notebooks ----------------------------------------------------------------------------


def test_own_cells_lose_metadata_that_nbgrader_would_grade(small):
    forged = {"grade": True, "grade_id": "mine", "points": 1000, "locked": False, "task": False}
    forged |= {"schema_version": 3, "solution": False}
    for number in range(500):
        small.add("1000", None, name=f"x{number}", nbgrader=forged | {"grade_id": f"x{number}"})
    result = small.repaired()
    validate(result.notebook, small.release)
    assert result.notes == (
        "removed nbgrader's metadata from the student's own cells (number of cells: 500)",
    )


ODD = [None, True, 3, 1e400, "text", [], [[]], {}, {"nbgrader": 3}, {"nbgrader": {"grade_id": []}}]


@pytest.mark.parametrize("key", ["metadata", "id", "cell_type", "attachments", "outputs"])
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_in_cells_are_repaired(small, key, value):
    for cell in small.cells:
        cell[key] = value
    validate(small.repaired().notebook, small.release)


# Large texts for which searching in quadratic time would take hours.
LARGE = {
    "many comments": "# grade_id: sum-all\n" * 50_000,
    "annotation": "a:" + " " * 3_000_000,
    "carriage returns": "\r" * 1_000_000,
    "brackets": "(" * 3_000_000,
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_cell_is_repaired_in_linear_time(small, kind):
    source = LARGE[kind].replace("STUB", small.stub("sum-all"))
    small["sum-all-form"].update(metadata={}, id="x", source=source)
    small.remove("sum-squares")
    with time_limit(120):
        attempt(json.dumps(small.notebook).encode(), small.release)


def test_repair_imports_only_the_standard_library_and_the_course():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "import workshop.grading.repair; "
        "names = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names); "
        "print(*sorted(name for name in names if not name.startswith('_')))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "course_utils workshop\n"


# --- random bytes, JSON and changes ---------------------------------------------------------------

EXAMPLES = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KEYS = "cells|metadata|nbformat|nbformat_minor|cell_type|id|source|nbgrader|grade_id|worksheets"
VALUES = "heading|html|level|input|attachments|points|sum-all|sum-all-form|sum-why|code|markdown"
NAMES = st.sampled_from(f"{KEYS}|{VALUES}".split("|"))
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | NAMES | st.text(max_size=9)
ANY = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5)
)


def attempt(data, release):
    """Repair a notebook; fail unless the result is valid or `Ungradable` is raised."""
    try:
        result = repair.repair(repair.load(data), release)
    except Ungradable as error:
        assert str(error)
    else:
        validate(result.notebook, release)


@EXAMPLES
@given(content=ANY, cells=st.lists(ANY, max_size=6))
def test_random_json_is_repaired_or_ungradable(small, content, cells):
    attempt(json.dumps(content).encode(), small.release)
    attempt(json.dumps({"cells": cells, "nbformat": 4}).encode(), small.release)
    kept = {"cells": [*cells, *small.cells], "metadata": content, "nbformat": 4}
    attempt(json.dumps(kept).encode(), small.release)


@EXAMPLES
@given(data=st.data())
def test_randomly_changed_notebooks_are_repaired_or_ungradable(small_course, data):
    """Cells are dropped, copied, moved or changed, and bytes are overwritten at the end."""
    work = Work(small_course, SMALL)
    for _ in range(data.draw(st.integers(1, 5))):
        cells, index = work.cells, data.draw(st.integers(0, 15))
        cell = cells[index % len(cells)] if cells else {"source": "x"}
        match data.draw(st.sampled_from(["drop", "copy", "change", "metadata", "text", "merge"])):
            case "drop":
                cells.remove(cell) if cells else None
            case "copy":
                cells.insert(data.draw(st.integers(0, 20)), copy.deepcopy(cell))
            case "change":
                cell[data.draw(NAMES)] = data.draw(ANY)
            case "metadata":
                cell["metadata"] = {"nbgrader": data.draw(ANY)}
            case "text":
                cell["source"] = data.draw(st.text(max_size=40))
            case "merge":
                cell["source"] = f"{cell['source']}\n{cells[0]['source'] if cells else ''}"
    text = bytearray(json.dumps(work.notebook).encode())
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(text) - 1))
        text[start : start + 3] = data.draw(st.binary(max_size=5))
    attempt(bytes(text), work.release)


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def handed_in(small_course, tmp_path):
    """A function that writes a submission, perhaps with accidents, into a file of any name."""

    def write(name, *accidents):
        work = Work(small_course, SMALL)
        for damage in accidents:
            damage(work)
        path = tmp_path / name
        path.write_text(json.dumps(work.notebook), encoding="utf-8")
        return path

    return write


@pytest.fixture
def released(small_course):
    return repair.find_release("09_sums.ipynb", folder=small_course)


@pytest.mark.parametrize(
    "name", ["Copy of 09_sums.ipynb", "09_sums (1).ipynb", "student01_LATE_1_09_sums-2.ipynb"]
)
def test_the_assignment_is_found_in_the_file_name(small_course, name):
    release = small_course / "exercises/09_sums/09_sums.ipynb"
    assert repair.find_release(name, folder=small_course) == release


@pytest.mark.parametrize(
    "name", ["109_sums.ipynb", "09_sums2.ipynb", "sums.ipynb", "homework.ipynb"]
)
def test_a_file_name_without_an_assignment_needs_the_argument(small_course, name):
    with pytest.raises(CourseError, match="name it with --assignment, one of: 09_sums"):
        repair.find_release(name, folder=small_course)
    for assignment_name in ("9", "09", "09_sums"):
        assert repair.find_release(name, assignment_name, small_course).name == "09_sums.ipynb"
    with pytest.raises(CourseError, match="there is no assignment 08; choose one of: 09_sums"):
        repair.find_release(name, "08", small_course)


def test_a_file_is_repaired_into_a_new_file(released, handed_in):
    path = handed_in("09_sums.ipynb", a_test_deleted)
    before = path.read_bytes()
    target, result = repair.repair_file(path, released)
    assert target == path.with_name("09_sums-repaired.ipynb")
    assert path.read_bytes() == before
    assert result.notes == ("restored missing tests: sum-all-form",)
    cells = {cell["id"] for cell in json.loads(target.read_bytes())["cells"]}
    assert "sum-all-form" in cells


def test_a_file_is_repaired_in_place_and_the_old_one_is_kept(released, handed_in):
    path = handed_in("09_sums.ipynb", a_test_deleted)
    before = path.read_bytes()
    assert repair.repair_file(path, released, in_place=True)[0] == path
    assert path.with_name("09_sums.ipynb.bak").read_bytes() == before
    after = path.read_bytes()
    assert after != before
    repair.repair_file(path, released, in_place=True)
    assert path.with_name("09_sums.ipynb.bak").read_bytes() == before, "the first copy is kept"
    assert path.with_name("09_sums.ipynb.bak 2").read_bytes() == after


def test_existing_files_are_not_overwritten(released, handed_in, tmp_path):
    path = handed_in("09_sums.ipynb")
    for name in ("09_sums-repaired.ipynb", "other.ipynb"):
        (tmp_path / name).write_text("mine")
    for output in (None, tmp_path / "other.ipynb", path):
        with pytest.raises(CourseError, match="already exists: choose another file with --output"):
            repair.repair_file(path, released, output=output)
    assert (tmp_path / "other.ipynb").read_text() == "mine"
    target, _ = repair.repair_file(path, released, output=tmp_path / "new" / "one.ipynb")
    assert target.exists()


def test_doubts_prevent_a_repair_unless_guess_is_set(released, handed_in):
    path = handed_in("09_sums.ipynb", answered_twice)
    with pytest.raises(CourseError, match=r"was not repaired.*2 different.*--guess") as caught:
        repair.repair_file(path, released)
    assert "\n" not in str(caught.value)
    assert not path.with_name("09_sums-repaired.ipynb").exists()
    _, result = repair.repair_file(path, released, guess=True)
    assert len(result.doubts) == 1


def test_a_file_that_cannot_be_repaired_raises_an_error(released, handed_in, tmp_path):
    with pytest.raises(CourseError, match="can't be read: No such file"):
        repair.repair_file(tmp_path / "09_sums.ipynb", released)
    path = handed_in("09_sums.ipynb")
    with pytest.raises(CourseError, match="choose one of --output and --in-place"):
        repair.repair_file(path, released, in_place=True, output="c.ipynb")
    path.write_bytes(b"")
    with pytest.raises(Ungradable, match="the file is empty"):
        repair.repair_file(path, released)
