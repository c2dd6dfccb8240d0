"""Test repair: a notebook can be graded after any accident, and each repair is noted."""

import copy
import functools
import json
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_utils.machine.validation import CourseError
from tests import assignment, sums
from tests.time_limit import time_limit
from workshop.grading import repair
from workshop.grading.assignments import grading, is_answer, read
from workshop.grading.repair import Ungradable
from workshop.grading.repair_file import find_release
from workshop.grading.sandbox.messages import Message
from workshop.grading.session import GradingSession

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
        self.expected = {cell["id"]: cell["source"] for cell in self.cells if is_answer(cell)}

    @property
    def cells(self):
        return self.notebook["cells"]

    def __getitem__(self, name):
        return next(cell for cell in self.cells if cell["id"] == name)

    def stub(self, name):
        return next(cell["source"] for cell in self.release["cells"] if cell["id"] == name)

    def remove(self, name):
        return self.cells.pop(self.cells.index(self[name]))

    def add(self, source, after=None, kind="code", name="mine", **metadata):
        """Insert one of the student's own cells, after another cell or at the end."""
        cell = {"cell_type": kind, "id": name, "metadata": metadata, "source": source}
        cell |= {"execution_count": 3, "outputs": []} if kind == "code" else {}
        self.cells.insert(self.cells.index(self[after]) + 1 if after else len(self.cells), cell)
        return cell

    def paste(self, name, after=None, source=None):
        """Copy a cell as Ctrl-C and Ctrl-V do: text and metadata stay the same, the id is new."""
        cell = self[name]
        source = source or cell["source"]
        return self.add(source, after, cell["cell_type"], "pasted", **cell["metadata"])

    def repaired(self):
        return repair.repair(json.dumps(self.notebook).encode(), self.release)


@pytest.fixture(params=[SMALL, "03_lora"])
def work(request, small_course):
    return Work(small_course if request.param == SMALL else ROOT, request.param)


@pytest.fixture
def small(small_course):
    return Work(small_course, SMALL)


def by_id(result):
    return {cell["id"]: cell for cell in result.notebook["cells"]}


def validate(notebook, release):
    """Fail unless a notebook is valid and contains the release's graded cells."""
    nbformat.validate(notebook)
    json.dumps(notebook, ensure_ascii=False).encode("utf-8")
    assert notebook["metadata"] == release["metadata"]
    cells = {cell["id"]: cell for cell in notebook["cells"]}
    assert len(cells) == len(notebook["cells"])
    originals = {cell["id"]: cell for cell in release["cells"]}
    assert [i for i in cells if grading(cells[i])] == [
        i for i in originals if grading(originals[i])
    ]
    for name, cell in cells.items():
        original = originals.get(name, {"metadata": {}})
        assert cell["metadata"] == original["metadata"]
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        if grading(original):
            assert cell["cell_type"] == original["cell_type"]
            assert is_answer(original) or cell["source"] == original["source"]


# --- accidents ------------------------------------------------------------------------------------

LOST = "restored the type or nbgrader's metadata: "
MISSING = "restored missing cells: "
ELSEWHERE = "the answer ANSWER does not define .*FUNCTION.*, but another cell does"


def magic_on_top(work):
    source = "%%time\n\n# my answer\nimport math\n" + work[work.answer]["source"]
    work[work.answer].update({"source": source, "metadata": {}, "id": "new"})
    work.expected[work.answer] = source


def split(work):
    """JupyterLab gives the metadata to both parts; the last part keeps the id."""
    work.paste(work.answer, work.answer, "HELP = 1")
    work[work.answer]["id"], work["pasted"]["id"] = "first", work.answer


def merged_with_its_test(work):
    for name in [c["id"] for c in work.cells if c["id"] == f"{work.answer}-expected"]:
        work.remove(name)
    below = [work.remove(name)["source"] for name in (f"{work.answer}-try", work.test)]
    work.expected[work.answer] = "\n\n".join([work[work.answer]["source"], below[0]])
    work[work.answer]["source"] = "\n\n".join([work[work.answer]["source"], *below])


def merged_with_another_answer(work):
    """JupyterLab keeps the metadata of the cell that was active, here the lower one."""
    first = work.remove(work.answer)["source"]
    work[work.other].update(source=f"{first}\n\n{work[work.other]['source']}", id="merged")


def own_cells(work):
    work.add("first = 1", work.cells[0]["id"])
    work.add("x = 1", work.answer, name="setup")
    work.add("Notes", work.test, "markdown", name="")
    work.add("raw", None, "raw", name="with blanks")


def copied_test(work):
    work.paste(work.test, source=work[work.test]["source"] + "\nprint('tried')")
    work.paste(work.test, after=work.answer)["id"] = "again"


def answered_twice(work):
    later = work[work.answer]["source"] + "\n# better"
    work.paste(work.answer, work.answer, later)
    work.expected[work.answer] = later


def written_elsewhere(after):
    """Move the answer without its comment below another cell; the stub stays."""

    def damage(work):
        source = work[work.answer]["source"].partition("\n")[2]
        work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
        work.add(source, vars(work).get(after))

    return damage


def only_elsewhere(name, kept):
    """Move an answer without its comment, id and metadata to the end."""

    def damage(work):
        answer = work.remove(getattr(work, name))
        work.add(answer["source"].partition("\n")[2] + "\n", None, answer["cell_type"])
        stub = work.stub(answer["id"])
        work.expected[answer["id"]] = stub if kept else stub.partition("\n")[0]

    return damage


def written_in_the_test(work):
    """The changed test becomes one of the student's own cells, so that the function exists."""
    source = work[work.answer]["source"].partition("\n")[2]
    work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
    title, comment, rest = work[work.test]["source"].split("\n", 2)
    work[work.test]["source"] = "\n".join([title, comment, source, rest])


def helpers_in_the_test(work):
    """The changed test becomes one of the student's own cells, so that the helpers exist."""
    work[work.test]["source"] += "\nprint(1)\nimport json as helper\n"
    title, comment, rest = work[work.test]["source"].split("\n", 2)
    work[work.test]["source"] = "\n".join([title, comment, "# changed", rest])


def metadata_swapped(work):
    one, other = work[work.answer], work[work.other]
    for key in ("id", "metadata"):
        one[key], other[key] = other[key], one[key]


def answer_deleted(work):
    work.expected[work.remove(work.answer)["id"]] = work.stub(work.answer)


def disabled_test(work):
    work[work.test].update({"cell_type": "raw", "source": work[work.test]["source"][:-20]})


# Each accident with a pattern for each expected note and doubt. In a pattern, ANSWER, OTHER, TEST,
# QUESTION and FUNCTION are replaced by the attributes of `Work`. An accident changes
# `work.expected` if the repair can't restore an answer.
WORDS = ("ANSWER", "OTHER", "TEST", "QUESTION", "FUNCTION")
ACCIDENTS = [
    (magic_on_top, [LOST + "ANSWER"], []),
    (lambda w: w[w.answer].update(cell_type="markdown"), [LOST + "ANSWER"], []),
    (lambda w: w.cells.reverse(), [], []),
    (lambda w: w.remove(w.test), [MISSING + "TEST"], []),
    (lambda w: w.remove("imports"), [MISSING + "imports"], []),
    (lambda w: w.paste(w.answer), ["dropped copies of cells: ANSWER"], []),
    (disabled_test, ["restored changed tests: TEST", LOST + "TEST"], []),
    (split, [], []),
    (merged_with_its_test, ["split merged cells: ANSWER, TEST", LOST + "TEST"], []),
    (merged_with_another_answer, ["split merged cells: ANSWER, OTHER", LOST + "ANSWER"], []),
    (answer_deleted, [MISSING + "ANSWER"], []),
    (own_cells, [], []),
    (copied_test, ["split merged cells: TEST", "dropped copies of cells: TEST"], []),
    (answered_twice, [], ["ANSWER has 2 different answers: the last one counts"]),
    (written_elsewhere("answer"), [], []),
    (written_elsewhere("the end"), [], [ELSEWHERE]),
    (only_elsewhere("answer", kept=False), [MISSING + "ANSWER"], [ELSEWHERE]),
    (
        only_elsewhere("question", kept=True),
        [MISSING + "QUESTION"],
        ["the answer QUESTION is missing: another cell may contain it"],
    ),
    (written_in_the_test, [MISSING + "TEST"], []),
    (helpers_in_the_test, [MISSING + "TEST"], []),
    (metadata_swapped, [LOST + "ANSWER, OTHER"], []),
]


@pytest.mark.parametrize(("damage", "notes", "doubts"), ACCIDENTS)
def test_accidents_are_repaired(work, damage, notes, doubts):
    damage(work)
    result = work.repaired()
    validate(result.notebook, work.release)
    cells = by_id(result)
    assert {name: cells[name]["source"] for name in work.expected} == work.expected
    words = {word: getattr(work, word.lower()) for word in WORDS}
    for lines, patterns in ((result.notes, notes), (result.doubts, doubts)):
        assert len(lines) == len(patterns), lines
        for line, pattern in zip(lines, patterns, strict=True):
            named = re.sub("|".join(WORDS), lambda match: words[match[0]], pattern)
            assert re.fullmatch(named, line), line


# --- the position of own cells --------------------------------------------------------------------


def test_own_cells_follow_the_same_cell_as_before(small):
    own_cells(small)
    ids = [cell["id"] for cell in small.repaired().notebook["cells"]]
    assert len(ids) == len(small.release["cells"]) + 4
    assert ids[:2] == ["opening", "own-cell-2"] and ids[-1] == f"own-cell-{len(ids)}"
    for name in ("sum-all", "sum-all-form"):
        assert ids[ids.index(name) + 1].startswith("own-cell-")


def test_a_notebook_of_another_assignment_is_ungradable(small):
    small.notebook = Work(ROOT, "03_lora").notebook
    with pytest.raises(Ungradable, match="no graded cell of this assignment: hand in"):
        small.repaired()


def test_repairing_again_changes_nothing(work):
    metadata_swapped(work)
    own_cells(work)
    once = work.repaired()
    work.notebook = once.notebook
    assert work.repaired() == replace(once, notes=[])


def test_answers_without_work_are_found(small):
    for name in ("sum-all", "sum-why"):
        small[name]["source"] = small.stub(name)
    small["sum-squares"]["source"] = "# grade_id: sum-squares\n"
    assert small.repaired().unanswered == ["sum-all", "sum-squares", "sum-why"]
    small.add("def add(numbers):\n    return sum(numbers)", "sum-all")
    assert small.repaired().unanswered == ["sum-squares", "sum-why"]


# --- bytes ----------------------------------------------------------------------------------------

CELL = '{"cell_type": "code", "id": "a", "metadata": {}, "source": %s}'
BOOK = '{"cells": [%s], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
PICTURE = '"", "attachments": {"a": {"image/png": "%s"}}'

NO_NOTEBOOK = "no notebook .*: hand in the file that ends in .ipynb"
NO_CELLS = "not a notebook in format 4 with a list of cells"
MUCH = "more than 2,000 cells, 10 MB of text and 100 MB of pictures: clear all"
BROKEN = {
    "empty": (b"", "the file is empty"),
    "only zeros": (bytes(100), "the file is empty"),
    "zip": (b"PK\x03\x04", NO_NOTEBOOK),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", NO_NOTEBOOK),
    "list": (b"[]", NO_NOTEBOOK),
    "cut off": ((BOOK % CELL)[:40].encode(), "is incomplete: the upload was cut off"),
    "conflict": (b'{\n<<<<<<< HEAD\n "a": 1\n=======\n>>>>>>> b\n}', "not valid JSON from line 2"),
    "no cells": (b'{"cells": {"a": 1}, "nbformat": 4}', NO_CELLS),
    "old": (b'{"worksheets": [{"cells": []}], "nbformat": 3}', NO_CELLS),
    "huge number": (b'{"cells": [], "nbformat": %s}' % (b"4" * 5_000), NO_CELLS),
    "deep": (b'{"cells": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "many cells": ((BOOK % ",".join(["{}"] * 2_001)).encode(), MUCH),
    "much text": ((BOOK % CELL % f'"{"x" * 11_000_000}"').encode(), MUCH),
    "large pictures": ((BOOK % CELL % PICTURE % ("x" * 100_000_001)).encode(), MUCH),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_notebook_is_ungradable_for_one_reason(small, kind):
    data, sentence = BROKEN[kind]
    with pytest.raises(Ungradable, match=sentence) as caught:
        repair.repair(data, small.release)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_file_that_needs_too_much_is_ungradable(small, monkeypatch):
    monkeypatch.setattr(repair, "MAX_NOTEBOOK", 1_999_999)
    with pytest.raises(Ungradable, match="has more than 2 MB: clear all"):
        repair.repair(b" " * 2_000_000, small.release)

    def full(_):
        raise MemoryError

    monkeypatch.setattr(repair, "_cells", full)
    with pytest.raises(Ungradable, match="too large"):
        small.repaired()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_other_encodings_are_converted(small, encoding):
    small["sum-why"]["source"] += "\nGrüße: 3 €"
    data = json.dumps(small.notebook, ensure_ascii=False).encode(encoding)
    result = repair.repair(data, small.release)
    assert by_id(result)["sum-why"]["source"].endswith("Grüße: 3 €") and not result.notes
    result = repair.repair(data.replace("ß".encode(), b"\xff"), small.release)
    if encoding == "utf-8":
        assert by_id(result)["sum-why"]["source"].endswith("Grü�e: 3 €")


def test_of_a_text_cell_only_pictures_are_kept(small):
    svg = {"image/svg+xml": "<svg/>", "image/png": "iVBORw0="}
    small["sum-why"]["attachments"] = {"a.png": svg, "b": {"text/html": "x"}, "c": 3}
    cell = by_id(small.repaired())["sum-why"]
    assert cell["attachments"] == {"a.png": {"image/png": "iVBORw0="}}


def test_outputs_are_not_kept_in_memory(small):
    for cell in small.cells:
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 500_000}]
    data = json.dumps(small.notebook).encode()
    tracemalloc.start()
    try:
        repair.repair(data, small.release)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(data), "at most the text and the outputs of one cell"


# --- across the sandbox ---------------------------------------------------------------------------


def test_a_notebook_crosses_the_border_of_the_sandbox(small):
    answered_twice(small)
    small["sum-why"]["source"] += "\n\ud800 \0 €"
    release = json.dumps(small.release).encode()
    sent = repair.request(json.dumps(small.notebook).encode(), release)
    assert repair.result(repair.run(sent)) == small.repaired()
    with pytest.raises(Ungradable, match="the file is empty"):
        repair.result(repair.run(repair.request(b"", release)))


@pytest.mark.parametrize(
    "response", ["[]", "{}", '{"ungradable": 3}', '{"notebook": {"cells": {}}, "notes": []}']
)
def test_a_malformed_response_is_ungradable(response):
    with pytest.raises(Ungradable, match="malformed"):
        repair.result(response.encode())


def test_a_reply_of_another_kind_is_ungradable(monkeypatch):
    reply = Message("value", {}, b'{"ungradable": "forged"}')
    channel = SimpleNamespace(send=lambda *_, **__: None, receive=lambda *_: reply)
    process = SimpleNamespace(channel=channel)
    monkeypatch.setattr(GradingSession, "_test_process", lambda _: process)
    spec = SimpleNamespace(limits=SimpleNamespace(notebook=60), release=b"")
    with pytest.raises(Ungradable, match="too much time or memory"):
        GradingSession(None, spec, SimpleNamespace(notebook=b"")).repair()


# --- hostile notebooks ----------------------------------------------------------------------------

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
    small["sum-all-form"].update(metadata={}, id="x", source=LARGE[kind])
    small.remove("sum-squares")
    with time_limit(120):
        attempt(json.dumps(small.notebook).encode(), small.release)


def test_repair_imports_only_the_standard_library_and_the_course():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import workshop.grading.repair; "
        "names = {m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names; "
        "assert {n for n in names if n[0] != '_'} == {'course_utils', 'workshop'}, names"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


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
        result = repair.repair(data, release)
    except Ungradable as error:
        assert str(error)
    else:
        validate(result.notebook, release)


@EXAMPLES
@given(content=ANY, cells=st.lists(ANY, max_size=6))
def test_random_json_is_repaired_or_ungradable(small, content, cells):
    some, more = ({"cells": each, "nbformat": 4} for each in (cells, [*cells, *small.cells]))
    for each in (content, some, more | {"metadata": content}):
        attempt(json.dumps(each).encode(), small.release)


@EXAMPLES
@given(data=st.data())
def test_randomly_changed_notebooks_are_repaired_or_ungradable(small_course, data):
    """Cells are dropped, copied, merged or changed, and bytes are overwritten at the end."""
    work = Work(small_course, SMALL)
    for _ in range(data.draw(st.integers(1, 5))):
        cell = work.cells[data.draw(st.integers(0, len(work.cells) - 1))]
        match data.draw(st.sampled_from(["drop", "copy", "change", "metadata", "text", "merge"])):
            case "drop":
                work.cells.remove(cell)
            case "copy":
                work.cells.insert(data.draw(st.integers(0, 20)), copy.deepcopy(cell))
            case "change":
                cell[data.draw(NAMES)] = data.draw(ANY)
            case "metadata":
                cell["metadata"] = {"nbgrader": data.draw(ANY)}
            case "text":
                cell["source"] = data.draw(st.text(max_size=40))
            case "merge":
                cell["source"] = f"{cell['source']}\n{work.cells[0]['source']}"
    text = bytearray(json.dumps(work.notebook).encode())
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(text) - 1))
        text[start : start + 3] = data.draw(st.binary(max_size=5))
    attempt(bytes(text), work.release)


# --- files ----------------------------------------------------------------------------------------


def test_the_assignment_is_found_in_the_file_name(small_course):
    for name in ("Copy of 09_sums.ipynb", "09_sums (1).ipynb", "jo_LATE_1_09_sums-2.ipynb"):
        assert find_release(Path(name), folder=small_course).name == "09_sums.ipynb"
    for name in ("109_sums.ipynb", "09_sums2.ipynb", "sums.ipynb"):
        with pytest.raises(CourseError, match=f"name the assignment of {name}, such as --assign"):
            find_release(Path(name), folder=small_course)
    assert find_release(Path("a.ipynb"), "9", small_course).name == "09_sums.ipynb"
