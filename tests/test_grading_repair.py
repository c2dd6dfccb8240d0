"""grading.repair: after any accident a notebook can be graded, and what was mended is said."""

import copy
import functools
import io
import itertools
import json
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_utils.grading import release as releasing
from course_utils.grading.assignments import grading, is_answer, read, sources
from course_utils.grading.intake import repair
from course_utils.grading.intake.repair import Ungradable
from course_utils.validation import CourseError
from tests import assignment, mutation

ROOT = Path(__file__).resolve().parents[1]
SMALL = assignment.NAME
REAL = [path.stem for path in sources(ROOT)]


@pytest.fixture(scope="module")
def small_course(tmp_path_factory):
    """A course with the small assignment, released; nbgrader's gradebook knows it."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "exercises").mkdir()
    (folder / releasing.SETTINGS).write_bytes((ROOT / releasing.SETTINGS).read_bytes())
    assignment.write(folder)
    releasing.release(folder)
    return folder


@functools.cache
def originals(course, name):
    """The release as JSON, its sources as strings, and the solution."""
    release = json.loads((course / f"exercises/{name}/{name}.ipynb").read_bytes())
    for cell in release["cells"]:
        cell["source"] = "".join(cell["source"])
    return json.dumps(release), read(course / f"solutions/{name}/{name}.ipynb")


class Work:
    """A release, and a submission with the solution's answers for an accident to happen to.

    answer, other: the first two answers in code. test: the first test of `answer`. function: a name
    that `answer` defines. question: the answer that a person reads.
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

    def place(self, name):
        return self.cells.index(self[name])

    def take(self, name):
        return self.cells.pop(self.place(name))

    def add(self, source, after=None, kind="code", name="mine", **metadata):
        """Insert a cell of the student's own, behind another one or at the end."""
        made = {"cell_type": kind, "id": name, "metadata": metadata, "source": source}
        made |= {"execution_count": 3, "outputs": []} if kind == "code" else {}
        self.cells.insert(self.place(after) + 1 if after else len(self.cells), made)
        return made

    def paste(self, name, after=None, source=None):
        """What Ctrl-C, Ctrl-V does: text and metadata stay, the id is new."""
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


def _often(name):
    """The small assignment and one of the course's run each time; the others are slow."""
    marks = () if name in (SMALL, "03_lora") else pytest.mark.slow
    return pytest.param(name, marks=marks)


@pytest.fixture(params=[_often(name) for name in (SMALL, *REAL)])
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
    """nbgrader's own check, which looks at types and metadata: once for each set of them."""
    import nbformat
    from nbgrader.nbgraderformat import MetadataValidator

    cells = [{**cell, "source": ""} for cell in json.loads(cells)]
    MetadataValidator().validate_nb(nbformat.from_dict({"cells": cells}))


def validate(notebook, release):
    """What every result must be: valid for Jupyter and nbgrader, its graded cells the release's."""
    import nbformat

    nbformat.validate(notebook)
    bare = [{key: cell[key] for key in ("cell_type", "metadata")} for cell in notebook["cells"]]
    accepted_by_nbgrader(json.dumps(bare))
    json.dumps(notebook, ensure_ascii=False).encode("utf-8")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    marked = [cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    asked = [cell for cell in release["cells"] if grading(cell)]
    assert [c["id"] for c in marked] == [c["id"] for c in asked]
    for cell, wanted in zip(marked, asked, strict=True):
        assert cell["metadata"] == wanted["metadata"] and cell["cell_type"] == wanted["cell_type"]
        if not is_answer(wanted):
            assert cell["source"] == wanted["source"]
    own = [
        cell for cell in notebook["cells"] if cell["id"] not in {c["id"] for c in release["cells"]}
    ]
    assert all(cell["metadata"] == {} for cell in own)
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    assert notebook["metadata"] == release["metadata"]


# --- accidents ------------------------------------------------------------------------------------

ACCIDENTS = {}


def accident(notes=(), doubts=()):
    """Register an accident; notes, doubts: one pattern for each line that must come, in order.

    In a pattern, ANSWER, OTHER, TEST, QUESTION and FUNCTION stand for those of the assignment. The
    accident changes `work.expected` where the answers aren't what they were.
    """

    def register(function):
        ACCIDENTS[function.__name__] = (function, notes, doubts)
        return function

    return register


@accident()
def untouched(work):
    work.cells[1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "hello"}]
    work.cells[1]["execution_count"] = 7


@accident(notes=["nbgrader's metadata was missing or changed: MARKED cells"])
def colab(work):
    for place, cell in enumerate(work.cells):
        cell["id"] = f"Xy_{place}"
        cell["metadata"] = {"id": f"Xy_{place}", "outputId": "abc", "colab": {"base_uri": "x"}}
    work.notebook["metadata"] = {"colab": {"provenance": []}, "kernelspec": {"name": "python3"}}


@accident(notes=["nbgrader's metadata was missing or changed: MARKED cells"])
def colab_without_ids(work):
    for cell in work.cells:
        del cell["id"]
        cell["metadata"] = {}
    work.notebook["nbformat_minor"] = 0


@accident()
def another_minor_of_the_format(work):
    work.notebook["nbformat_minor"] = 99


@accident()
def comments_deleted(work):
    for name in work.expected:
        work[name]["source"] = work.expected[name] = work[name]["source"].partition("\n")[2]


@accident(notes=["nbgrader's metadata was missing or changed: 1 cells"])
def a_magic_on_top(work):
    source = "%%time\n\n# my answer\nimport math\n" + work[work.answer]["source"]
    work[work.answer].update({"source": source, "metadata": {}, "id": "new"})
    work.expected[work.answer] = source


@accident()
def many_imports_on_top(work):
    source = "import math\n" * 20 + work[work.answer]["source"]
    work[work.answer]["source"] = work.expected[work.answer] = source


@accident(notes=["the type of a cell was changed: ANSWER"])
def answer_turned_into_text(work):
    work[work.answer]["cell_type"] = "markdown"


@accident(notes=["tests were changed: TEST", "the type of a cell was changed: TEST"])
def a_test_switched_off(work):
    work[work.test].update(
        {"cell_type": "raw", "source": "%%script false\n" + work[work.test]["source"][:-20]}
    )


@accident(notes=["the type of a cell was changed: QUESTION"])
def question_turned_into_code(work):
    work[work.question]["cell_type"] = "code"


@accident(notes=["nbgrader's metadata was taken off the student's own cells: 1"])
def answer_split(work):
    """JupyterLab gives both parts the metadata; the last one keeps the id."""
    work[work.answer]["source"] += "\n\nHELP = 1"
    top, _, bottom = work[work.answer]["source"].rpartition("\n\n")
    work.paste(work.answer, source=bottom)
    work.cells.insert(work.place(work.answer) + 1, work.cells.pop())
    work[work.answer]["source"] = work.expected[work.answer] = top
    work[work.answer]["id"], work["pasted"]["id"] = "first", work.answer


@accident(notes=["nbgrader's metadata was taken off the student's own cells: 1"])
def text_split(work):
    """The second part stays below the first, where the person who grades it reads it."""
    work.paste(work.question, after=work.question, source="And more.")


@accident(
    notes=[
        "a cell that held ANSWER, TEST and more was taken apart",
        "nbgrader's metadata was missing or changed: 1 cells",
    ]
)
def answer_and_test_merged(work):
    below = [work.take(name)["source"] for name in (f"{work.answer}-try", work.test)]
    work.expected[work.answer] = "\n\n".join([work[work.answer]["source"], below[0]])
    work[work.answer]["source"] = "\n\n".join([work[work.answer]["source"], *below])


@accident(
    notes=[
        "a cell that held TEST and more was taken apart",
        "nbgrader's metadata was missing or changed: 1 cells",
    ]
)
def a_test_and_own_code_merged(work):
    test = work[work.test]
    test |= {"source": f"a = 1\n\n{test['source']}\n\nb = 2", "metadata": {}, "id": "new"}


@accident(
    notes=[
        "a cell that held ANSWER, OTHER and more was taken apart",
        "cells were out of order.*",
        "nbgrader's metadata was missing or changed: 1 cells",
    ]
)
def two_answers_merged(work):
    """JupyterLab keeps the metadata of the cell that was active, here the lower one."""
    first = work.take(work.answer)["source"]
    work[work.other]["source"] = f"{first}\n\n{work[work.other]['source']}"
    work[work.other]["id"] = "merged"


@accident(notes=["cells were out of order: put back into their order"])
def turned_upside_down(work):
    work.cells.reverse()


@accident(notes=["tests were missing: TEST"])
def a_test_deleted(work):
    work.take(work.test)


@accident(notes=["answer cells were missing: ANSWER"])
def answer_deleted(work):
    work.take(work.answer)
    work.expected[work.answer] = work.stub(work.answer)


@accident(
    notes=["cells were out of order.*", "nbgrader's metadata was missing or changed: 1 cells"]
)
def answer_moved_into_a_cell_of_another_id(work):
    work[work.cells[-2]["id"] if grading(work.cells[-1]) else work.cells[-1]["id"]].update(
        cell_type="code", source=work.take(work.answer)["source"]
    )


@accident(notes=["answer cells were missing: QUESTION"])
def question_deleted(work):
    work.take(work.question)
    work.expected[work.question] = work.stub(work.question)


@accident(notes=["cells that the answers rely on were missing: imports"])
def imports_deleted(work):
    work.take("imports")


@accident()
def prompts_and_tries_deleted(work):
    work.notebook["cells"] = [
        c for c in work.cells if grading(c) or c["cell_type"] == "code" and c["id"][-4:] != "-try"
    ]


@accident()
def imports_changed(work):
    work["imports"]["source"] += "\nimport random"


@accident()
def own_cells_added(work):
    work.add("first = 1", work.cells[0]["id"])
    work.add("x = 1", work.answer, name="setup")
    work.add("Notes", work.test, "markdown", name="")
    work.add("raw", None, "raw", name="with blanks")


@accident(notes=["tests were changed: TEST"])
def a_test_edited(work):
    work[work.test]["source"] = work[work.test]["source"].replace("check", "print", 2)


@accident(
    notes=["a cell that held TEST and more was taken apart", "copies of cells were dropped: TEST"]
)
def a_test_copied(work):
    work.paste(work.test, source=work[work.test]["source"] + "\nprint('tried')")
    work.paste(work.test, after=work.answer)["id"] = "again"


@accident(notes=["nbgrader's metadata was taken off the student's own cells: 1"])
def a_test_copied_and_typed_over(work):
    work.paste(work.test, source="mine = 1\n" * 40)


@accident(notes=["copies of cells were dropped: ANSWER"])
def answer_copied(work):
    work.paste(work.answer)


@accident(notes=["copies of cells were dropped: .*ANSWER, .*TEST.*", "cells were out of order.*"])
def everything_pasted_again(work):
    for cell in copy.deepcopy(work.cells):
        cell["id"] += "-pasted"
        work.cells.append(cell)
    for name in work.expected:
        work[name]["source"] = work.stub(name)


@accident(doubts=["ANSWER was answered 2 times, each time differently: the last answer counts"])
def answered_twice(work):
    later = work[work.answer]["source"] + "\n# better"
    work.paste(work.answer, work.answer, later)
    work.expected[work.answer] = later


@accident(
    notes=["copies of cells were dropped: ANSWER", "cells were out of order.*"],
    doubts=["ANSWER was answered 2 times, each time differently: the last answer counts"],
)
def answered_and_answered_back(work):
    work.paste(work.answer, source=work[work.answer]["source"] + "\n# worse")
    work.paste(work.answer)["id"] = "again"


@accident(notes=["copies of cells were dropped: ANSWER"])
def stub_below_the_answer(work):
    work.paste(work.answer, source=work.stub(work.answer))


@accident(notes=["nbgrader's metadata was taken off the student's own cells: 1"])
def earlier_answer_parked(work):
    """An answer that was turned into raw text doesn't run."""
    work.paste(work.answer, after=work.answer, source=work[work.answer]["source"] + "\n# worse")
    work["pasted"]["cell_type"] = "raw"


@accident(notes=["nbgrader's metadata was taken off the student's own cells: 1"])
def answer_pasted_for_something_else(work):
    work.paste(work.answer, source=f"{work.function}.__doc__")


MISSING = "the answer {} is missing: another cell of the notebook may hold it"


@accident(notes=["answer cells were missing: ANSWER"], doubts=[MISSING.format("ANSWER")])
def answer_without_marks(work):
    """The stub comes back without its function, which would undo the student's."""
    source = work.take(work.answer)["source"].partition("\n")[2] + "\n"
    work.add(source, f"{work.answer}-prompt")
    work.expected[work.answer] = f"# grade_id: {work.answer}"


@accident(notes=["answer cells were missing: ANSWER"], doubts=[MISSING.format("ANSWER")])
def answer_without_marks_under_another_name(work):
    source = work.take(work.answer)["source"].partition("\n")[2]
    work.add(re.sub(r"^(def|class) \w+", r"\1 another", source, flags=re.M), work.test)
    work.expected[work.answer] = work.stub(work.answer)


@accident(notes=["answer cells were missing: QUESTION"], doubts=[MISSING.format("QUESTION")])
def question_without_marks(work):
    work.take(work.question)
    work.add("My answer.", f"{work.question}-prompt", "markdown")
    work.expected[work.question] = work.stub(work.question)


@accident()
def answer_below_its_stub(work):
    source = work[work.answer]["source"].partition("\n")[2]
    work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
    work.add(source, work.answer)


@accident(doubts=["the answer ANSWER is as released, but another cell defines .*FUNCTION.*"])
def answer_far_from_its_stub(work):
    source = work[work.answer]["source"].partition("\n")[2]
    work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
    work.add(source)


@accident(
    notes=["answer cells were missing: ANSWER"],
    doubts=[MISSING.format("ANSWER")],
)
def answer_in_the_imports(work):
    """The stub comes back without its function, which would undo the student's."""
    work["imports"]["source"] += "\n" + work.take(work.answer)["source"].partition("\n")[2]
    work.expected[work.answer] = f"# grade_id: {work.answer}"


@accident(
    notes=["tests were changed: TEST"],
    doubts=[
        "the changed test TEST defined .*FUNCTION.*, which belongs to ANSWER: it isn't run",
    ],
)
def answer_in_the_test(work):
    source = work[work.answer]["source"].partition("\n")[2]
    work[work.answer]["source"] = work.expected[work.answer] = work.stub(work.answer)
    work[work.test]["source"] = work[work.test]["source"].replace("\n", f"\n{source}\n", 1)


@accident(
    notes=[
        "the cell ANSWER was also marked as OTHER",
        "the cell OTHER was also marked as ANSWER",
        "nbgrader's metadata was missing or changed: 2 cells",
    ]
)
def metadata_swapped(work):
    one, other = work[work.answer], work[work.other]
    for key in ("id", "metadata"):
        one[key], other[key] = other[key], one[key]


@accident(
    notes=["answer cells were missing: QUESTION"],
    doubts=["a cell is ANSWER by its metadata and QUESTION by its first lines: .*for ANSWER"],
)
def marks_that_disagree(work):
    source = f"# grade_id: {work.question}\n# nothing"
    work.take(work.question)
    work[work.answer]["source"] = work.expected[work.answer] = source
    work.expected[work.question] = work.stub(work.question)


@accident()
def line_ends_of_other_systems(work):
    for cell, end in zip(work.cells, itertools.cycle(["\r\n", "\r"]), strict=False):
        cell["source"] = cell["source"].replace("\n", end).splitlines(keepends=True)


@accident()
def pictures_pasted(work):
    acting = {"image/svg+xml": "<svg onload='x'>", "text/html": "<b>"}
    work[work.question]["attachments"] = {
        "a.png": {"image/png": "iVBORw0="},
        "b.svg": acting,
        "c.png": 3,
        "d.png": {"image/png": "é"},
    }


@accident(notes=["nbgrader's metadata was missing or changed: 3 cells"])
def metadata_forged(work):
    data = [work[name]["metadata"]["nbgrader"] for name in (work.answer, work.test, work.question)]
    data[0] |= {"grade": True, "points": 10**9, "locked": True}
    data[1] |= {"schema_version": 99, "points": 1e9}
    data[2] |= {"task": True, "solution": "no"}


def in_words(pattern, work):
    words = {"ANSWER": work.answer, "OTHER": work.other, "TEST": work.test}
    words |= {"QUESTION": work.question, "FUNCTION": work.function, "MARKED": str(len(work.marked))}
    return re.sub("|".join(words), lambda found: words[found[0]], pattern)


@pytest.mark.parametrize("name", ACCIDENTS)
def test_accidents(work, name):
    happen, notes, doubts = ACCIDENTS[name]
    happen(work)
    result = work.repaired()
    validate(result.notebook, work.release)
    found = by_id(result)
    assert {name: found[name]["source"] for name in work.expected} == work.expected
    for lines, patterns in ((result.notes, notes), (result.doubts, doubts)):
        assert len(lines) == len(patterns), lines
        for line, pattern in zip(lines, patterns, strict=True):
            assert re.fullmatch(in_words(pattern, work), line), line


# --- where own cells go ---------------------------------------------------------------------------


def test_own_cells_stay_behind_the_cell_that_they_followed(small):
    own_cells_added(small)
    ids = order(small.repaired())
    assert len(ids) == len(small.release["cells"]) + 4
    assert ids[:2] == ["opening", "mine"]
    assert ids[ids.index("sum-all") + 1] == "own-1", "the id was the release's"
    assert ids[ids.index("sum-all-form") + 1] == "given-10", "there was no id"
    assert ids[-1] == f"given-{len(ids)}", "no valid id"


def test_all_cells_come_back_from_colab(work):
    """Those that nbgrader knows nothing of as well: by their text."""
    before = work.repaired().notebook
    colab(work)
    assert work.repaired().notebook == before


def test_a_text_that_was_split_stays_together(small):
    text_split(small)
    ids, found = order(small.repaired()), by_id(small.repaired())
    assert found[ids[ids.index("sum-why") + 1]]["source"] == "And more."


def test_own_cells_follow_a_cell_that_is_put_back_into_order(small):
    cell = small.take("sum-squares")
    small.cells.insert(0, cell)
    small.add("follows = 1", "sum-squares", name="follows")
    small.add("leads = 1", "sum-all-values", name="leads")
    ids = order(small.repaired())
    assert ids[ids.index("sum-squares") + 1] == "follows"
    assert ids[ids.index("sum-all-values") + 1] == "leads"


def test_own_cells_stay_where_a_test_was_deleted(small):
    small.add("x = 1", "sum-all-form", name="own")
    small.take("sum-all-form")
    ids = order(small.repaired())
    assert ids.index("sum-all-try") < ids.index("own") < ids.index("sum-all-values")


def test_earlier_answers_run_before_the_one_that_counts(small):
    """Also where the notebook was turned round, and they stood below."""
    first = small.paste("sum-all", source=small["sum-all"]["source"] + "\n# first", after="opening")
    second = small.paste("sum-all", source=small["sum-all"]["source"] + "\n# second")
    first["id"], second["id"] = "first", "second"
    result = small.repaired()
    ids = order(result)
    place = ids.index("sum-all")
    assert by_id(result)["sum-all"]["source"].endswith("# second")
    assert ids[place - 3 : place] == ["sum-all-prompt", "first", "own-1"]
    assert by_id(result)["own-1"]["source"] == small.expected["sum-all"]


def test_what_a_student_changed_in_other_cells_stays(small):
    small["sum-all-try"]["source"] = "add([7])"
    small["opening"]["source"] += "\n\nMy notes."
    result = small.repaired()
    assert (result.notes, result.doubts) == ((), ())
    assert by_id(result)["sum-all-try"]["source"] == "add([7])"
    assert by_id(result)["opening"]["source"].endswith("My notes.")


def test_imports_that_were_changed_and_lost_their_id_run_beside_the_released_ones(small):
    colab(small)
    cell = next(cell for cell in small.cells if cell["source"] == "import math")
    cell["source"] = "import math, random"
    result = small.repaired()
    assert result.notes[-1] == "cells that the answers rely on were missing: imports"
    sources = [cell["source"] for cell in result.notebook["cells"]]
    assert {"import math", "import math, random"} <= set(sources[:5]) and not result.doubts


def test_only_pictures_that_cannot_act_are_kept(small):
    pictures_pasted(small)
    cell = by_id(small.repaired())["sum-why"]
    assert cell["attachments"] == {"a.png": {"image/png": "iVBORw0="}}


def test_a_notebook_of_another_assignment_gets_no_silent_zero(small):
    other = Work(ROOT, "03_lora")
    with pytest.raises(Ungradable, match="none of this assignment's graded cells"):
        repair.repair(other.notebook, small.release)


def test_repairing_again_changes_nothing(work):
    metadata_swapped(work)
    own_cells_added(work)
    once = work.repaired()
    again = repair.repair(copy.deepcopy(once.notebook), work.release)
    assert again.notebook == once.notebook
    assert (again.notes, again.doubts) == ((), ())


def test_neither_notebook_is_changed(small):
    metadata_swapped(small)
    before = copy.deepcopy((small.notebook, small.release))
    result = repair.repair(small.notebook, small.release)
    result.notebook["cells"][0]["metadata"]["x"] = 1
    result.notebook["metadata"]["x"] = 1
    assert (small.notebook, small.release) == before


# --- bytes ----------------------------------------------------------------------------------------


def archive():
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("09_sums.ipynb", "{}")
    return target.getvalue()


CELL = '{"cell_type": "code", "id": "a", "metadata": {}, "source": %s}'
BOOK = '{"cells": [%s], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'

NO_NOTEBOOK = "the file is no notebook .*: hand in the file that ends in .ipynb"
BROKEN = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n\0\0\0" * 9, "the file is empty"),
    "only a mark": (b"\xef\xbb\xbf", "the file is empty"),
    "zip": (archive(), NO_NOTEBOOK),
    "gzip": (b"\x1f\x8b\x08\0", NO_NOTEBOOK),
    "pdf": (b"%PDF-1.7\n", NO_NOTEBOOK),
    "picture": (b"\x89PNG\r\n", NO_NOTEBOOK),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", NO_NOTEBOOK),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", NO_NOTEBOOK),
    "python": (b"import torch\nprint(1)\n", NO_NOTEBOOK),
    "text": (b"Dear Sir or Madam", NO_NOTEBOOK),
    "noise": (bytes(range(128, 256)), NO_NOTEBOOK),
    "cut off": ((BOOK % CELL)[:40].encode(), "ends in the middle, in line 1: .* cut off"),
    "conflict": (b'{\n<<<<<<< HEAD\n "a": 1\n=======\n>>>>>>> b\n}', "broken from line 2 on"),
    "conflict at once": (b"<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> b\n", NO_NOTEBOOK),
    "broken": (b'{\n "cells": [],\n "metadata" {}\n}', "broken from line 3 on"),
    "list": (b"[]", "no notebook"),
    "number": (b"3", "no notebook"),
    "object": (b"{}", "no list of cells"),
    "no cells": (b'{"cells": {"a": 1}, "nbformat": 4}', "no list of cells"),
    "old": (b'{"worksheets": [{"cells": []}], "nbformat": 3}', "isn't in format 4"),
    "future": (b'{"cells": [], "nbformat": 5}', "isn't in format 4"),
    "no format": (b'{"cells": [], "nbformat": "4"}', "isn't in format 4"),
    "true": (b'{"cells": [], "nbformat": true}', "isn't in format 4"),
    "huge number": (b'{"cells": [], "nbformat": %s}' % (b"4" * 5_000), "isn't in format 4"),
    "deep": (b'{"cells": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
    "twice": (b'{"cells": [], "cells": [], "nbformat": 4}', "says 'cells' twice"),
    "source twice": ((BOOK % CELL % '"a", "source": "b"').encode(), "says 'source' twice"),
    "number for source": ((BOOK % CELL % "3").encode(), "cell 1 of the notebook holds no text"),
    "NaN for source": ((BOOK % CELL % "NaN").encode(), "cell 1 of the notebook holds no text"),
    "mixed source": ((BOOK % CELL % '["a", 3]').encode(), "cell 1 of the notebook holds no text"),
    "many cells": ((BOOK % ",".join(["{}"] * 2_001)).encode(), "2,001 cells, more than 2,000"),
    "much text": ((BOOK % CELL % f'"{"x" * 10_000_001}"').encode(), "10 million characters"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_notebook_gets_one_sentence(kind):
    data, sentence = BROKEN[kind]
    with pytest.raises(Ungradable, match=sentence) as caught:
        repair.load(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_file_that_is_too_large(monkeypatch):
    monkeypatch.setattr(repair, "MAX_FILE", 1_999_999)
    with pytest.raises(Ungradable, match="has 2 MB, more than 2 MB: clear all outputs"):
        repair.load(b" " * 2_000_000)


def test_a_file_that_takes_too_much_memory(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(json, "loads", full)
    with pytest.raises(Ungradable, match="needs more memory than there is"):
        repair.load(b"{}")


ENCODINGS = {
    "utf-8": "",
    "utf-8-sig": "",
    "utf-16": "the file was in UTF-16, not in UTF-8",
    "utf-16-le": "the file was in UTF-16-LE, not in UTF-8",
    "utf-32-be": "the file was in UTF-32-BE, not in UTF-8",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings(small, encoding):
    small["sum-why"]["source"] += "\nGrüße: 3 €"
    text = json.dumps(small.notebook, ensure_ascii=False).replace("●", "*").replace("○", "*")
    loaded = repair.load(text.encode(encoding))
    assert [cell["source"][-10:] for cell in loaded["cells"]][-1] == "Grüße: 3 €"
    result = repair.repair(loaded, small.release)
    assert result.notes == ((ENCODINGS[encoding],) if ENCODINGS[encoding] else ())
    assert result.doubts == ()


def test_single_broken_bytes_leave_the_rest_as_it_is(small):
    small["sum-why"]["source"] += "\nGrüße"
    data = json.dumps(small.notebook, ensure_ascii=False).encode().replace("ß".encode(), b"\xff")
    result = repair.repair(repair.load(data), small.release)
    assert by_id(result)["sum-why"]["source"].endswith("Grü�e")
    assert by_id(result)["sum-all-prompt"]["source"].count("●●○") == 1
    assert result.notes == ("1 characters of the file were broken: they are now �",)


def test_halves_of_characters_become_a_sign_that_can_be_written(small):
    small["sum-all"]["source"] += "\n# \ud800"
    source = by_id(small.repaired())["sum-all"]["source"]
    assert source.endswith("\n# �")


def test_what_stands_in_outputs_harms_nothing(small):
    small["sum-all"]["outputs"] = ["odd"]
    odd = f'{{"a": NaN, "a": -Infinity, "a": {"9" * 5000}}}'
    text = json.dumps(small.notebook).replace('"odd"', odd)
    assert odd in text
    result = repair.repair(repair.load(text.encode()), small.release)
    assert (result.notes, result.doubts) == ((), ())


def test_outputs_that_were_read_take_no_memory(small):
    for cell in small.cells:
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 500_000}]
    data = json.dumps(small.notebook).encode()
    tracemalloc.start()
    try:
        repair.load(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(data), "the text, and the outputs of one cell"


# --- hostile --------------------------------------------------------------------------------------


def test_no_own_cell_has_metadata_that_nbgrader_would_grade(small):
    forged = {"grade": True, "grade_id": "mine", "points": 1000, "locked": False, "task": False}
    forged |= {"schema_version": 3, "solution": False}
    for place in range(500):
        small.add("1000", None, name=f"x{place}", nbgrader=forged | {"grade_id": f"x{place}"})
    result = small.repaired()
    validate(result.notebook, small.release)
    assert result.notes == ("nbgrader's metadata was taken off the student's own cells: 500",)


ODD = [None, True, 3, 1e400, "text", [], [[]], {}, {"nbgrader": 3}, {"nbgrader": {"grade_id": []}}]


@pytest.mark.parametrize("key", ["metadata", "id", "cell_type", "attachments", "outputs"])
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_in_cells(small, key, value):
    for cell in small.cells:
        cell[key] = value
    validate(small.repaired().notebook, small.release)


def test_odd_cells_are_dropped(small):
    small.cells[3:3] = [3, None, "cell", []]
    result = small.repaired()
    validate(result.notebook, small.release)
    assert result.notes == ("4 entries among the cells were none: dropped",)


def slow_cells(small):
    """Texts that make careless searching quadratic, each a whole cell."""
    stub = small.stub("sum-all")
    yield "# grade_id: sum-all\n" * 150_000
    yield "".join(f"# grade_id: {name}\n" for name in ("sum-all", "sum-why")) * 70_000
    yield "a:" + " " * 3_000_000
    yield "a" * 3_000_000
    yield "def" + " " * 3_000_000
    yield "#" + " " * 3_000_000 + "grade_id"
    yield "check(add)\n" * 300_000
    yield (stub + "\n") * 9_000
    yield "\r" * 3_000_000
    yield "(" * 3_000_000


@pytest.mark.parametrize("place", range(10))
def test_a_large_cell_takes_seconds_at_most(small, place):
    source = next(itertools.islice(slow_cells(small), place, None))
    small["sum-all-form"].update(metadata={}, id="x", source=source)
    small.take("sum-squares")
    data = json.dumps(small.notebook).encode()
    started = time.process_time()
    try:
        result = repair.repair(repair.load(data), small.release)
    except Ungradable as fault:
        assert "more than 2,000 cells" in str(fault)
    else:
        validate(result.notebook, small.release)
    assert time.process_time() - started < 5


def test_many_cells_take_seconds_at_most(small):
    stub = small.stub("sum-all").replace("# grade_id: sum-all\n", "").replace("add", "plus")
    small.take("sum-all")
    small.take("sum-why")
    for cell in small.cells:
        cell["metadata"] = {}
        cell["id"] = "same"
    small.notebook["cells"] += [
        {"cell_type": "code", "source": stub + f"\n{n}" * 800, "id": "same"} for n in range(1_900)
    ]
    started = time.process_time()
    validate(small.repaired().notebook, small.release)
    assert time.process_time() - started < 10


def test_nothing_but_the_standard_library_is_needed():
    code = (
        "import sys; import course_utils.grading.intake.repair; "
        "third = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names); "
        "print(sorted(name for name in third if not name.startswith('_')))"
    )
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]; {code}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "['course_utils']\n"


# --- any bytes, any JSON, any change --------------------------------------------------------------

FEW = settings(
    max_examples=60,
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
    """Either a sound result or Ungradable: nothing else may come."""
    try:
        result = repair.repair(repair.load(data), release)
    except Ungradable as fault:
        assert str(fault)
    else:
        validate(result.notebook, release)


@FEW
@given(data=st.binary() | st.text().map(str.encode) | st.binary().map(b'{"cells": ['.__add__))
def test_any_bytes(small, data):
    attempt(data, small.release)


@FEW
@given(content=ANY, cells=st.lists(ANY, max_size=6))
def test_any_json(small, content, cells):
    attempt(json.dumps(content).encode(), small.release)
    attempt(json.dumps({"cells": cells, "nbformat": 4}).encode(), small.release)
    kept = {"cells": [*cells, *small.cells], "metadata": content, "nbformat": 4}
    attempt(json.dumps(kept).encode(), small.release)


@FEW
@given(data=st.data())
def test_any_change_of_a_submission(small_course, data):
    """Cells dropped, copied, moved, with other values in them; bytes overwritten at the end."""
    work = Work(small_course, SMALL)
    for _ in range(data.draw(st.integers(1, 5))):
        cells, place = work.cells, data.draw(st.integers(0, 15))
        cell = cells[place % len(cells)] if cells else {"source": "x"}
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
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + 3] = data.draw(st.binary(max_size=5))
    attempt(bytes(text), work.release)


# --- nbgrader takes it ----------------------------------------------------------------------------


def test_nbgrader_grades_what_it_could_not(small_course):
    """A copied answer, a cell of a wrong schema, tests edited and gone: 9 of 9 points."""
    from nbgrader.converters.base import NbGraderException

    work = Work(small_course, SMALL)
    work.paste("sum-all")
    work["sum-all-form"]["metadata"]["nbgrader"]["schema_version"] = 99
    work["sum-squares-values"]["source"] = "pass"
    work.take("sum-largest-form")
    with mutation.offline():
        with pytest.raises(NbGraderException, match=r"version\s+of the nbgrader metadata format"):
            hand_in(small_course, "student01", work.notebook)
        hand_in(small_course, "student02", work.repaired().notebook)
    points = mutation._points(small_course, SMALL, "student02")
    assert points == {
        "sum-all-form": 1,
        "sum-all-values": 2,
        "sum-squares-form": 1,
        "sum-squares-values": 2,
        "sum-largest-form": 1,
        "sum-largest-values": 2,
    }


def hand_in(course, student, notebook):
    target = course / "submitted" / student / SMALL / f"{SMALL}.ipynb"
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(notebook), encoding="utf-8")
    try:
        mutation.autograde_as_nbgrader_does(course, SMALL)
    finally:
        target.rename(target.with_suffix(".done"))


# --- a file ---------------------------------------------------------------------------------------


@pytest.fixture
def handed_in(small_course, tmp_path):
    """A function that writes a submission into a file of some name."""

    def write(name, *accidents):
        work = Work(small_course, SMALL)
        for happen in accidents:
            happen(work)
        path = tmp_path / name
        path.write_text(json.dumps(work.notebook), encoding="utf-8")
        return path

    return write


def file(small_course, path, **options):
    return repair.repair_file(path, folder=small_course, **options)


NAMED = [
    "09_sums.ipynb",
    "Copy of 09_sums.ipynb",
    "09_sums (1).ipynb",
    "09_sums-Copy1.ipynb",
    "student01_LATE_12345_09_sums-2.ipynb",
    "09_sums-repaired.ipynb",
]


@pytest.mark.parametrize("name", NAMED)
def test_a_file_is_repaired_beside_itself(small_course, handed_in, name):
    path = handed_in(name, a_test_deleted)
    before = path.read_bytes()
    target, result = file(small_course, path)
    assert target == path.with_name(f"{path.stem}-repaired.ipynb")
    assert path.read_bytes() == before
    assert result.notes == ("tests were missing: sum-all-form",)
    written = json.loads(target.read_bytes())
    validate(
        repair.load(target.read_bytes()) | {"metadata": written["metadata"]},
        Work(small_course, SMALL).release,
    )


def test_in_place_a_copy_is_kept(small_course, handed_in):
    path = handed_in("09_sums.ipynb", a_test_deleted)
    before = path.read_bytes()
    assert file(small_course, path, in_place=True)[0] == path
    assert path.with_name("09_sums.ipynb.bak").read_bytes() == before
    after = path.read_bytes()
    assert after != before
    file(small_course, path, in_place=True)
    assert path.with_name("09_sums.ipynb.bak").read_bytes() == before, "never overwritten"
    assert path.with_name("09_sums.ipynb.bak2").read_bytes() == after


def test_nothing_is_overwritten(small_course, handed_in, tmp_path):
    path = handed_in("09_sums.ipynb")
    for name in ("09_sums-repaired.ipynb", "other.ipynb"):
        (tmp_path / name).write_text("mine")
    for options in ({}, {"output": tmp_path / "other.ipynb"}, {"output": path}):
        with pytest.raises(CourseError, match="is there already: name another file"):
            file(small_course, path, **options)
    assert (tmp_path / "other.ipynb").read_text() == "mine"
    target, _ = file(small_course, path, output=tmp_path / "new" / "one.ipynb")
    assert target.exists()


def test_doubts_stop_it_unless_a_guess_will_do(small_course, handed_in):
    path = handed_in("09_sums.ipynb", answered_twice)
    with pytest.raises(CourseError, match=r"isn't repaired.*answered 2 times.*--guess") as caught:
        file(small_course, path)
    assert "\n" not in str(caught.value)
    assert not path.with_name("09_sums-repaired.ipynb").exists()
    _, result = file(small_course, path, guess=True)
    assert len(result.doubts) == 1


@pytest.mark.parametrize("name", ["9", "09", "09_sums"])
def test_the_assignment_can_be_said(small_course, handed_in, name):
    path = handed_in("homework.ipynb")
    with pytest.raises(CourseError, match="names no assignment: say --assignment, one of: 09_sums"):
        file(small_course, path)
    assert file(small_course, path, assignment=name)[0].exists()


@pytest.mark.parametrize("name", ["109_sums.ipynb", "09_sums2.ipynb", "sums.ipynb"])
def test_names_of_something_else(small_course, handed_in, name):
    with pytest.raises(CourseError, match="names no assignment"):
        file(small_course, handed_in(name))


def test_mistakes_with_files(small_course, handed_in, tmp_path):
    with pytest.raises(CourseError, match="there is no assignment 08; choose one of: 09_sums"):
        file(small_course, handed_in("a.ipynb"), assignment="08")
    with pytest.raises(CourseError, match="can't be read: No such file"):
        file(small_course, tmp_path / "09_sums.ipynb")
    with pytest.raises(CourseError, match="choose one of --output and --in-place"):
        file(small_course, handed_in("b.ipynb"), in_place=True, output="c.ipynb")
    path = handed_in("09_sums.ipynb")
    path.write_bytes(b"")
    with pytest.raises(Ungradable, match="the file is empty"):
        file(small_course, path)
