"""Grade accidents that honest students have: each is mended, or the record says what happened.

One class is graded once. Each student has right answers to all tasks of `09_sums` (9 points of the
checks) and one accident.
"""

import functools
import json
import re
from itertools import zip_longest

import pytest

from tests import assignment, sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT
from workshop.grading import classroom
from workshop.grading.records import GRADED, PERSON, UNGRADABLE

pytestmark = [
    needed,
    pytest.mark.full,
    # SQLAlchemy warns about objects that nbgrader's autograding adds later.
    pytest.mark.filterwarnings("ignore:Object of type <Submitted"),
    pytest.mark.xdist_group("accidents"),
]

ALL, WITHOUT_ONE = 9, 6
ADD, SQUARES = RIGHT["sum-all"], RIGHT["sum-squares"]
NO_SEABORN = "ModuleNotFoundError: No module named 'seaborn_of_sums'"
ACCIDENTS = {}


def accident(points, state=GRADED, name="", repairs=(), reasons=(), incidents=(), messages=()):
    """Register an accident, which changes a submission in `submitted/STUDENT/09_sums`.

    Args:
        points: The points of the checks that the student must get.
        name: The accident's name; default: the name of the function.
        state: The state, as if the question that a person grades were graded.
        repairs: One pattern for each line of the record's repairs.
        reasons: One pattern for each of the reasons.
        incidents: One pattern for each of the incidents.
        messages: One pattern for each message of a failed check.
    """

    def register(function):
        expected = {"repairs": repairs, "reasons": reasons, "incidents": incidents}
        ACCIDENTS[name or function.__name__] = (function, points, state, expected, messages)
        return function

    return register


class Work:
    """The submission of one student, with right answers to all tasks."""

    def __init__(self, course, student):
        self.path = sums.hand_in(course, student, RIGHT)
        self.notebook = json.loads(self.path.read_text(encoding="utf-8"))
        self.release = (course / "exercises" / NAME / f"{NAME}.ipynb").read_bytes()

    def __getitem__(self, name):
        return next(cell for cell in self.notebook["cells"] if cell["id"] == name)

    def answer(self, name, source):
        self[name]["source"] = source
        self.save()

    def empty(self, name):
        """Replace an answer by the release's."""
        release = json.loads(self.release)["cells"]
        self[name]["source"] = next(cell["source"] for cell in release if cell["id"] == name)

    def add(self, source, after, kind="code"):
        cell = assignment.cell("mine", "", kind=kind) | {"source": source}
        cells = self.notebook["cells"]
        cells.insert(cells.index(self[after]) + 1, cell)
        self.save()

    def save(self, name=f"{NAME}.ipynb"):
        path = self.path.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.notebook), encoding="utf-8")

    def rename(self, name):
        """Hand in the work under another name, without the file of the usual name."""
        self.save(name)
        self.path.unlink()


# --- answers in the wrong cells -------------------------------------------------------------------


DEFINED = "the answer {} does not define {}, but the answer {} does"


@accident(
    WITHOUT_ONE,
    PERSON,
    reasons=[
        DEFINED.format("sum-all", "add", "sum-squares"),
        DEFINED.format("sum-squares", "squares", "sum-all"),
    ],
    messages=2 * ["'add' is not defined .the cell sum-squares defines it, but is below this check"],
)
def two_answers_swapped(work):
    work.answer("sum-all", SQUARES)
    work.answer("sum-squares", ADD)


@accident(
    WITHOUT_ONE,
    PERSON,
    reasons=[DEFINED.format("sum-all", "add", "sum-squares")],
    messages=2 * ["NameError: name 'add' is not defined .the cell sum-squares .* below this check"],
)
def swapped_with_an_answer_that_is_missing(work):
    """Nobody can tell which of two cells is the answer."""
    work.answer("sum-all", "# see below")
    work.answer("sum-squares", f"{ADD}\n{SQUARES}")


@accident(
    WITHOUT_ONE,
    PERSON,
    reasons=["^the answer sum-all is empty: another cell may contain it"],
    messages=2 * ["not written yet"],
)
def in_a_text_cell_below_the_empty_answer(work):
    work.empty("sum-all")
    work.add(ADD, "sum-all", "markdown")
    work.save()


def beside_the_empty_question(name, change):
    def hand_in(work):
        work.empty("sum-why")
        change(work)
        work.save()

    hand_in.__name__ = f"answer to the question {name}"
    reasons = ["^the answer sum-why is empty: another cell may contain it"]
    accident(ALL, PERSON, reasons=reasons)(hand_in)


beside_the_empty_question("below", lambda work: work.add("For shops.", "sum-why", "markdown"))
beside_the_empty_question("above", lambda work: work.add("# For shops.", "sum-why-prompt"))
beside_the_empty_question(
    "in the prompt", lambda work: work["sum-why-prompt"]["source"].append("!")
)


# --- answers with statements that fail ------------------------------------------------------------

SKIPPED = rf"sum-all: .* without `import seaborn_of_sums as sns`, which failed: {NO_SEABORN}"
IN_A_BLOCK = "from contextlib import nullcontext\nwith nullcontext():\n    import seaborn_of_sums"


def answered(name, source, points, *own_cell, saved_with="3.11.2", **expected):
    """Register the accident that the answer `sum-all` has this source, beside an own cell."""

    def hand_in(work):
        work.notebook["metadata"]["language_info"] = {"name": "python", "version": saved_with}
        if own_cell:
            work.add(*own_cell)
        work.answer("sum-all", source)

    accident(points, name=name, **expected)(hand_in)


answered("import that fails", f"import seaborn_of_sums as sns\n\n{ADD}", ALL, incidents=[SKIPPED])
for name, source, shown, error in (
    ("import in a block", IN_A_BLOCK, r"`with nullcontext\(\):`", "ModuleNotFound"),
    ("unknown magic", "%magic_of_sums 3", "`%magic_of_sums 3`", "UsageError"),
    ("file", "text = open('/content/drive/sums.txt').read()", "`text = open.*`", "FileNotFound"),
    ("question", "name = input('Your name?')", r"`name = input\('Your name\?'\)`", "EOF"),
):
    skipped = f"sum-all: .* without {shown}, which failed: {error}"
    answered(f"statement that fails: {name}", f"{source}\n{ADD}", ALL, incidents=[skipped])
answered(
    "import that fails and is needed",
    "import seaborn_of_sums as sns\ndef add(n):\n    return sns.total(n)\n",
    WITHOUT_ONE,
    incidents=[SKIPPED],
    messages=2
    * [f"name 'sns' is not defined .`import seaborn_of_sums as sns` failed: {NO_SEABORN}"],
)
answered(
    "import that is withheld",
    "from course_utils.lora import parameters as add\nright = True",
    WITHOUT_ONE,
    messages=2 * [".* is not available while .* contains solutions.*"],
)
answered(
    "another error still ends the cell",
    f"1 / 0\n{ADD}",
    WITHOUT_ONE,
    messages=2 * ["'add' is not defined .the cell sum-all should .* failed: ZeroDivisionError.*"],
)
# The hidden tests import `random`. A cause in the message would reveal that.
answered(
    "asking what tests import",
    "def add(n):\n    raise NameError(\"name 'random' is not defined\")",
    WITHOUT_ONE,
    messages=2 * [r"raised NameError: name 'random' is not defined in add, line 2"],
)


# --- names that another cell should define --------------------------------------------------------

FAILED = (
    "name 'helper' is not defined .the cell that begins with `1 / 0` should define it, "
    "but failed: ZeroDivisionError: division by zero"
)
USES_HELPER = ADD.replace("sum(numbers)", "helper(numbers)")
HELPER = "def helper(numbers):\n    return sum(numbers)\n"
BEGINS = "the cell that begins with `def helper.*"
for name, message, *own_cell in (
    ("that fails", FAILED, f"\n1 / 0\n{HELPER}", "imports"),
    ("below the check", f"{BEGINS}, but is below this", HELPER, "sum-why"),
    ("of text", f"{BEGINS}not a code cell", HELPER, "imports", "markdown"),
):
    messages = 2 * [message]
    answered(f"helper in a cell {name}", USES_HELPER, WITHOUT_ONE, *own_cell, messages=messages)
answered(
    "syntax error",
    "def add(numbers):\n    return sum((numbers)",
    WITHOUT_ONE,
    messages=2 * [r"the cell sum-all should define it, but failed: SyntaxError: .* line 2"],
)


# --- another Python -------------------------------------------------------------------------------

answered(
    "newer Python",
    'def add(numbers: list) -> int:\n    return sum(f"{numbers[)"all"]}")\n',
    WITHOUT_ONE,
    saved_with="3.99.1",
    state=PERSON,
    reasons=[
        r"^sum-all: Python 3\.\d+, .*, can't read this cell, but Python 3\.99\.1, with which it "
        "was written, may: SyntaxError: "
    ],
    messages=2 * ["SyntaxError"],
)


# --- file names -----------------------------------------------------------------------------------

UNANSWERED = r"answers are missing \({}\), but these were handed in, too: {}"
EVERY = "sum-all, sum-squares, sum-largest, sum-why"


def beside_the_untouched_one(name):
    def hand_in(work):
        work.save(name)
        work.path.write_bytes(work.release)

    reasons = [UNANSWERED.format(EVERY, re.escape(repr(name)))]
    lost = {"reasons": reasons, "messages": 6 * ["not written yet"]}
    accident(0, PERSON, f"beside {name}".replace("/", "-"), **lost)(hand_in)


for other in (f"{NAME}-Copy1.ipynb", f"{NAME}.IPYNB", f"again/{NAME}.ipynb", f"{NAME}.py"):
    beside_the_untouched_one(other)


@accident(
    None,
    UNGRADABLE,
    reasons=["the file is incomplete: .*; also handed in: 'a.ipynb', 'b.ipynb'"],
)
def upload_cut_off_beside_copies(work):
    work.save("a.ipynb")
    work.answer("sum-all", "def add(numbers):\n    return 0")
    work.save("b.ipynb")
    work.path.write_text('{"cells": [', encoding="utf-8")


@accident(
    WITHOUT_ONE,
    PERSON,
    reasons=[UNANSWERED.format("sum-all", "'Untitled.ipynb'")],
    messages=2 * ["not written yet"],
)
def each_notebook_has_a_part(work):
    work.save("Untitled.ipynb")
    work.empty("sum-all")
    work.save()


@accident(ALL)
def beside_an_equal_copy(work):
    work.save("Copy of it.ipynb")
    work.save()


for other in ("09_SUMS.ipynb", f"{NAME}.ipynb.txt", f"{NAME}.json", NAME, "x.IPYNB"):
    repairs = [f"the notebook's file name was {re.escape(repr(other))}"]
    rename = functools.partial(Work.rename, name=other)
    accident(ALL, name=f"named {other}", repairs=repairs)(rename)


@accident(ALL, repairs=[f"the notebook's file name was 'work/{NAME}.ipynb'"])
def in_a_folder_with_a_module_and_a_table(work):
    text = 'NONE = int(open("data/none.txt").read())\nfrom helper import add as plus\n'
    work.answer("sum-all", f"{text}def add(numbers):\n    return plus(numbers) + NONE\n")
    work.rename(f"work/{NAME}.ipynb")
    (work.path.parent / "work" / "helper.py").write_text(ADD, encoding="utf-8")
    (work.path.parent / "work" / "data").mkdir()
    (work.path.parent / "work" / "data" / "none.txt").write_text("0", encoding="utf-8")


@accident(ALL, PERSON, reasons=[UNANSWERED.format("sum-why", "'Why.PDF'")])
def a_text_in_a_document(work):
    work.empty("sum-why")
    (work.path.parent / "Why.PDF").write_bytes(b"%PDF-1.7")
    work.save()


@accident(None, UNGRADABLE, reasons=[f"there is no {NAME}.ipynb: .* was handed in"])
def two_files_that_may_be_the_notebook(work):
    work.save(f"{NAME}.txt")
    work.rename(f"{NAME}.json")


# --- attacks on these mends ---------------------------------------------------------------------


FORGED = """
outputs = get_ipython().outputs
for fields in ({}, {"statement": [1], "reason": {"a": 1}}, {"name": 3}):
    outputs.send("skipped", b"", **fields)
for _ in range(99):
    outputs.send("skipped", b"x", statement="<script>\\x1b[2J" * 99, reason="=1+1" * 99)
def add(numbers):
    outputs.send("skipped", b"y", statement="z", reason="")
    return numbers
"""


answered(
    "forged skips",
    FORGED,
    WITHOUT_ONE,
    incidents=[
        "sum-all: .* without `None`, which failed: None",
        r"sum-all: .* without `\[1\]`, which failed: {'a': 1}",
        "sum-all: .* without `None`, which failed: None",
        *17 * [r"sum-all: .* without `(<script>\x1b\[2J){10}`, which failed: (=1\+1){30}$"],
    ],
    messages=2 * ["Not right yet"],
)


# --- grading --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graded(request, tmp_path_factory):
    """The records of the selected accidents by name, and the report."""
    course = sums.course(tmp_path_factory.mktemp("accidents") / "course")
    chosen = {
        item.callspec.params["name"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_an_accident_is_mended_or_named"
    }
    for name in chosen:
        ACCIDENTS[name][0](Work(course, name))
    result = classroom.grade(course, NAME, workers=2, limits=QUICK)
    classroom.write_results(course, result)
    return {record.student: record for record in result.records}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_an_accident_is_mended_or_named(graded, name):
    _, points, state, expected, messages = ACCIDENTS[name]
    record = graded[name]
    reasons = [record.problem] if record.problem else record.doubts
    lines = {**vars(record), "reasons": reasons}
    for field, patterns in expected.items():
        assert matched(lines[field], patterns) == [], (field, lines[field])
    texts = [re.sub(r"\s+", " ", message) for message in record.messages.values()]
    assert matched(texts, messages) == [], texts
    # A check guesses the cause of a NameError only if grading doesn't know it.
    assert not [text for text in texts if "not defined (" in text and "no cell that" in text]
    assert sum(value or 0 for value in record.points.values()) == (points or 0)
    # Every submission waits for a person who grades the question.
    assert state == (record.state if reasons else GRADED)


def matched(lines, patterns):
    """Return the pairs of a line and a pattern that don't match, also if one of them is missing."""
    pairs = zip_longest(lines, patterns, fillvalue="(no partner)")
    return [(line, pattern) for line, pattern in pairs if not re.search(pattern, line)]
