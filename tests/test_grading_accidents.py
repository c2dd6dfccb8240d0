"""Grade accidents that honest students have: each is mended, or the record says what happened.

One class is graded once. Each student has right answers to all tasks of `09_sums` (9 points of the
checks) and one accident.
"""

import json
import re

import pytest

from tests import sums
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
ADD, SQUARES, LARGEST = (RIGHT[name] for name in ("sum-all", "sum-squares", "sum-largest"))
NO_SEABORN = "ModuleNotFoundError: No module named 'seaborn_of_sums'"
ACCIDENTS = {}


def accident(points, state=GRADED, repairs=(), reasons=(), incidents=(), messages=()):
    """Register an accident, which changes a submission in `submitted/STUDENT/09_sums`.

    Args:
        points: The points of the checks that the student must get.
        state: The state, as if the question that a person grades were graded.
        repairs: One pattern for each line of the record's repairs.
        reasons: One pattern for each of the reasons.
        incidents: One pattern for each of the incidents.
        messages: One pattern for each message of a failed check.
    """

    def register(function):
        expected = {"repairs": repairs, "reasons": reasons, "incidents": incidents}
        ACCIDENTS[function.__name__] = (function, points, state, expected, messages)
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

    def add(self, source, after, kind="code"):
        cell = {"cell_type": kind, "id": "mine", "metadata": {}, "source": source}
        cell |= {"execution_count": None, "outputs": []} if kind == "code" else {}
        cells = self.notebook["cells"]
        cells.insert(cells.index(self[after]) + 1, cell)

    def saved_with(self, version):
        self.notebook["metadata"]["language_info"] = {"name": "python", "version": version}

    def save(self, name=f"{NAME}.ipynb"):
        path = self.path.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.notebook), encoding="utf-8")

    def rename(self, name):
        """Hand in the work under another name, without the file of the usual name."""
        self.save(name)
        self.path.unlink()

    def untouched(self):
        """Replace the file of the usual name by the release."""
        self.path.write_bytes(self.release)


# --- answers in the wrong cells -------------------------------------------------------------------


@accident(ALL, repairs=["moved answers .* each other's cells: sum-all, sum-squares"])
def two_answers_swapped(work):
    work.answer("sum-all", SQUARES)
    work.answer("sum-squares", ADD)
    work.save()


@accident(
    WITHOUT_ONE,
    PERSON,
    reasons=["the answer sum-all does not define add, but another cell does"],
    messages=2 * ["NameError: name 'add' is not defined .the cell sum-squares .* below this check"],
)
def swapped_with_an_answer_that_is_missing(work):
    """Nobody can tell which of two cells is the answer."""
    work.answer("sum-all", "# see below")
    work.answer("sum-squares", f"{ADD}\n{SQUARES}")
    work.save()


# --- imports that fail ----------------------------------------------------------------------------

SKIPPED = r"went on without `import seaborn_of_sums as sns`, which failed: " + NO_SEABORN


@accident(ALL, incidents=[f"sum-all: .*{SKIPPED}"])
def import_that_fails(work):
    work.answer("sum-all", f"import seaborn_of_sums as sns\n\n{ADD}")
    work.save()


STATEMENTS = {
    "import in a block": (
        "from contextlib import nullcontext\nwith nullcontext():\n    import seaborn_of_sums",
        r"`with nullcontext\(\):`",
        "ModuleNotFound",
    ),
    "unknown magic": ("%magic_of_sums 3", "`%magic_of_sums 3`", "UsageError"),
    "file": ("text = open('/content/drive/sums.txt').read()", "`text = open.*`", "FileNotFound"),
    "question": ("name = input('Your name?')", r"`name = input\('Your name\?'\)`", "EOF"),
}


def statement_that_fails(name, source, shown, error):
    def hand_in(work):
        work.answer("sum-all", f"{source}\n{ADD}")
        work.save()

    hand_in.__name__ = f"statement that fails: {name}"
    accident(ALL, incidents=[f"sum-all: .* without {shown}, which failed: {error}"])(hand_in)


for name, parts in STATEMENTS.items():
    statement_that_fails(name, *parts)


@accident(
    WITHOUT_ONE,
    incidents=[f"sum-all: .*{SKIPPED}"],
    messages=2
    * [f"name 'sns' is not defined .`import seaborn_of_sums as sns` failed: {NO_SEABORN}"],
)
def import_that_fails_and_is_needed(work):
    work.answer("sum-all", "import seaborn_of_sums as sns\ndef add(n):\n    return sns.total(n)\n")
    work.save()


@accident(WITHOUT_ONE, messages=2 * [".* is not available while .* contains solutions.*"])
def import_that_is_withheld(work):
    work.answer("sum-all", "from course_utils.lora import parameters as add\nright = True")
    work.save()


@accident(
    WITHOUT_ONE,
    messages=2 * ["'add' is not defined .the cell sum-all should .* failed: ZeroDivisionError.*"],
)
def another_error_still_ends_the_cell(work):
    work.answer("sum-all", f"1 / 0\n{ADD}")
    work.save()


# --- names that another cell should define --------------------------------------------------------

USES_HELPER = ADD.replace("sum(numbers)", "helper(numbers)")
HELPER = "def helper(numbers):\n    return sum(numbers)\n"
UNDEFINED = r"name 'helper' is not defined .the cell that begins with `{}` {}"


@accident(
    WITHOUT_ONE,
    messages=2
    * [
        UNDEFINED.format(
            "1 / 0", "should define it, but failed: ZeroDivisionError: division by zero"
        )
    ],
)
def helper_in_a_cell_that_fails(work):
    work.add(f"\n1 / 0\n{HELPER}", "imports")
    work.answer("sum-all", USES_HELPER)
    work.save()


@accident(
    WITHOUT_ONE,
    messages=2 * [r"the cell sum-all should define it, but failed: SyntaxError in line 2"],
)
def syntax_error_in_an_answer(work):
    work.answer("sum-all", "def add(numbers):\n    return sum((numbers)")
    work.saved_with("3.11.2")
    work.save()


# --- another Python -------------------------------------------------------------------------------

NEWER = 'def add(numbers: list) -> int:\n    return sum(f"{numbers["all"]}")\n'
GRADER = r"Python 3\.\d+"


@accident(
    WITHOUT_ONE,
    PERSON,
    reasons=[
        rf"^sum-all: {GRADER}, .*, can't read this cell, but Python 3\.99\.1, with which it was "
        "written, may: SyntaxError in line 2: "
    ],
    messages=2 * ["SyntaxError"],
)
def newer_python(work):
    work.answer("sum-all", NEWER.replace("numbers[", "numbers[)"))
    work.saved_with("3.99.1")
    work.save()


# --- file names -----------------------------------------------------------------------------------

CHOSEN = rf"'{NAME}.ipynb' contains no answers, so {{}} was graded"


def beside_the_untouched_one(name):
    def hand_in(work):
        work.save(name)
        work.untouched()

    hand_in.__name__ = f"beside {name}"
    accident(ALL, repairs=[CHOSEN.format(re.escape(repr(name)))])(hand_in)


for other in (f"{NAME}-Copy1.ipynb", "Untitled.ipynb", f"{NAME}.IPYNB", f"again/{NAME}.ipynb"):
    beside_the_untouched_one(other)


@accident(
    0,
    PERSON,
    reasons=[
        f"there are answers in 'a.ipynb', 'b.ipynb' that are missing in '{NAME}.ipynb': "
        "sum-all, sum-largest, sum-squares, sum-why"
    ],
    messages=6 * ["not written yet"],
)
def two_different_copies(work):
    work.save("a.ipynb")
    work.answer("sum-all", "def add(numbers):\n    return 0")
    work.save("b.ipynb")
    work.untouched()


@accident(
    0,
    PERSON,
    reasons=[f"'{NAME}.py' defines add, largest, squares, without an answer in '{NAME}.ipynb'"],
    messages=6 * ["not written yet"],
)
def downloaded_as_python(work):
    (work.path.parent / f"{NAME}.py").write_text(f"# In[1]:\n\n\n{ADD}\n{SQUARES}\n{LARGEST}")
    work.untouched()


@accident(
    ALL,
    PERSON,
    reasons=[
        f"'a.ipynb' was graded, because '{NAME}.ipynb' can't be graded: the file is incomplete"
    ],
)
def upload_cut_off_beside_a_copy(work):
    work.save("a.ipynb")
    work.path.write_text('{"cells": [', encoding="utf-8")


@accident(
    WITHOUT_ONE,
    PERSON,
    reasons=[f"answers in 'Untitled.ipynb' that are missing in '{NAME}.ipynb': sum-all"],
    messages=2 * ["not written yet"],
)
def each_notebook_has_a_part(work):
    work.save("Untitled.ipynb")
    release = json.loads(work.release)["cells"]
    work["sum-all"]["source"] = next(c["source"] for c in release if c["id"] == "sum-all")
    work.save()


def named(name):
    def hand_in(work):
        work.rename(name)

    hand_in.__name__ = f"named {name}"
    accident(ALL, repairs=[f"the notebook's file name was {re.escape(repr(name))}"])(hand_in)


for other in ("09_SUMS.ipynb", f"{NAME}.ipynb.txt", f"{NAME}.json", NAME, "x.IPYNB"):
    named(other)


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


@accident(
    WITHOUT_ONE,
    incidents=[
        "sum-all: .* without `None`, which failed: None",
        r"sum-all: .* without `\[1\]`, which failed: {'a': 1}",
        "sum-all: .* without `None`, which failed: None",
        *17 * [r"sum-all: .* without `(<script>\x1b\[2J){10}`, which failed: (=1\+1){30}$"],
    ],
    messages=2 * ["Not right yet"],
)
def forged_skips(work):
    work.answer("sum-all", FORGED)
    work.save()


@accident(
    WITHOUT_ONE, messages=2 * [r"raised NameError: name 'random' is not defined in add, line 2"]
)
def asking_what_tests_import(work):
    """The hidden tests import `random`. A cause in the message would reveal that."""
    source = "def add(n):\n    raise NameError(\"name 'random' is not defined\")"
    work.answer("sum-all", source)
    work.save()


@accident(0, messages=6 * ["not written yet"])
def many_notebooks_that_are_hard_to_read(work):
    work.untouched()
    for number in range(12):
        data = b'{"cells": ' + (b"[" * 100_000 if number % 2 else b"[{}," * 1_000_000)
        work.path.with_name(f"{number}.ipynb").write_bytes(data)


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
        ACCIDENTS[name][0](Work(course, student(name)))
    result = classroom.grade(course, NAME, workers=2, limits=QUICK)
    classroom.write_results(course, result)
    return {record.student: record for record in result.records}


def student(name):
    return name.replace("/", "-")


@pytest.mark.parametrize("name", ACCIDENTS)
def test_an_accident_is_mended_or_named(graded, name):
    _, points, state, expected, messages = ACCIDENTS[name]
    record = graded[student(name)]
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
    """Return the pairs of a line and a pattern that don't match; a missing one is "…"."""
    lines, patterns = list(lines), list(patterns)
    size = max(len(lines), len(patterns))
    lines += ["(no line)"] * (size - len(lines))
    patterns += ["(no pattern)"] * (size - len(patterns))
    pairs = zip(lines, patterns, strict=True)
    return [(line, pattern) for line, pattern in pairs if not re.search(pattern, line)]
