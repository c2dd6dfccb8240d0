"""Test report: the page and the table of a class, and texts of students in both."""

import csv
import io
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from course_utils.exercise.checks import CheckFailed, check
from tests import assignment as small
from tests.time_limit import time_limit
from workshop.grading import pages, report
from workshop.grading.assignments import read
from workshop.grading.records import GRADED, PERSON, UNGRADABLE, Record, by_hand

LORA = read(Path(__file__).resolve().parents[1] / "exercises/03_lora/03_lora.ipynb")
HOSTILE = "<script>window.hacked = 1</script><img src=https://example.org/x onerror='hacked = 1'>"


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """The small assignment: three functions with 1 + 2 points, and a question with 3 points."""
    return read(small.write(tmp_path_factory.mktemp("course")))


def sum_all(numbers):
    return sum(numbers)


def message_of(call):
    """Return the message of a failed check, as a notebook shows it."""
    with pytest.raises(CheckFailed) as caught:
        call()
    return "\n".join(caught.value._render_traceback_())


class Page:
    """The content of a page: its elements, the text below each h2, and the rows of its tables."""

    def __init__(self, path):
        self.source = path.read_text(encoding="utf-8")
        soup = BeautifulSoup(self.source, "html.parser")

        def texts(name, root=soup):
            return [tag.get_text().strip() for tag in root.find_all(name)]

        self.tags = [(tag.name, *tag.attrs) for tag in soup.find_all()]
        self.rows = [texts(["td", "th"], row) for row in soup.find_all("tr")]
        self.summaries, self.examples = texts("summary"), texts("pre")
        self.sections = {h2.get_text(): h2.parent.get_text() for h2 in soup.find_all("h2")}


@pytest.fixture
def page_of(tmp_path):
    def page(assignment, records):
        report.write_report(tmp_path / "report.html", assignment, records)
        return Page(tmp_path / "report.html")

    return page


@pytest.fixture
def table_of(tmp_path):
    def table(assignment, records):
        report.write_csv(tmp_path / "class.csv", assignment, records)
        return (tmp_path / "class.csv").read_bytes()

    return table


def record(student="student01", state=GRADED, name="09_sums", **fields):
    return Record(name, student, state, **fields)


FULL = {
    f"sum-{task}-{check}": points
    for task in ("all", "squares", "largest")
    for check, points in (("form", 1.0), ("values", 2.0))
} | {"sum-why": 3.0}
OPEN = FULL | {"sum-why": None}


# --- points ---------------------------------------------------------------------------------------


WHY, DOUBT = by_hand("sum-why"), "two answers to sum-all"


@pytest.mark.parametrize(
    ("before", "scores", "state", "reasons"),
    [
        ((PERSON, OPEN, WHY), {"sum-why": 2.5}, GRADED, ()),
        ((PERSON, OPEN, WHY), {}, PERSON, (WHY,)),
        ((PERSON, OPEN, WHY), {"sum-why": None}, PERSON, (WHY,)),
        ((PERSON, OPEN, WHY), {"sum-all-form": 0.0}, PERSON, (WHY,)),
        ((PERSON, OPEN, DOUBT, WHY), {"sum-why": 1.0}, PERSON, (DOUBT,)),
        ((PERSON, OPEN, DOUBT), {}, PERSON, (DOUBT, WHY)),
        ((PERSON, FULL), {}, PERSON, ()),
        ((GRADED, FULL), {"sum-why": None}, PERSON, (WHY,)),
        # The gradebook may have the points of an earlier submission.
        ((UNGRADABLE, {}, "the file is empty"), FULL, UNGRADABLE, ("the file is empty",)),
    ],
)
def test_the_state_follows_from_the_points_and_the_reasons(before, scores, state, reasons):
    old = record(state=before[0], points=before[1], reasons=before[2:])
    (after,) = report.merged([old], {"student01": scores, "student02": FULL})
    assert (after.state, after.reasons) == (state, reasons)
    assert after.points == (old.points if state == UNGRADABLE else old.points | scores)


def test_changes_are_listed_for_students_graded_twice():
    before = [record("b", points=FULL), record("a", points=OPEN), record("gone", points=FULL)]
    after = [
        record("b", points=FULL | {"sum-all-form": 0.5}),
        record("a", state=UNGRADABLE, points={"sum-why": 1.0}),
        record("new", points=FULL),
    ]
    found = report.changes(before, after)
    # The points of sum-why were None before and after.
    assert [(c.student, c.what) for c in found] == [
        ("a", "state"),
        *(("a", cell) for cell in FULL if cell != "sum-why"),
        ("b", "sum-all-form"),
    ]
    assert found[0] == report.Change("a", "state", GRADED, UNGRADABLE)
    assert found[1] == report.Change("a", "sum-all-form", 1.0, None)
    assert found[-1] == report.Change("b", "sum-all-form", 1.0, 0.5)
    assert report.changes(before, before) == []


# --- the table ------------------------------------------------------------------------------------

HEADER = "student,state,reasons,points,max points,sum-all,sum-squares,sum-largest,sum-why"


def test_csv_has_an_empty_cell_for_missing_points(sums, table_of):
    half = FULL | {"sum-all-values": 0.0, "sum-why": 0.1 + 0.2}
    unfinished = {cell: value for cell, value in FULL.items() if cell != "sum-largest-values"}
    table = table_of(
        sums,
        [
            record("student10", points=half),
            record("student02", state=PERSON, reasons=(by_hand("sum-why"),), points=OPEN),
            record("student03", state=UNGRADABLE, reasons=("no, empty", 'a "zip"'), points=FULL),
            record("student04", state=PERSON, reasons=("cut off",), points=unfinished),
            record("student05", points=dict.fromkeys(FULL, 0.0)),
        ],
    )
    # Excel needs the byte order mark to read UTF-8.
    assert table.startswith(b"\xef\xbb\xbfstudent,")
    assert table.decode("utf-8-sig").split("\r\n") == [
        HEADER,
        "student02,needs a person,a person gives the points of sum-why,,12,3,3,3,",
        'student03,ungradable,"no, empty; a ""zip""",,12,,,,',
        "student04,needs a person,cut off,,12,3,3,,3",
        "student05,graded,,0,12,0,0,0,0",
        "student10,graded,,7.3,12,1,3,3,0.3",
        "",
    ]


def read_back(table):
    return list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""), strict=True))


def cells_of(text, separator):
    """Return the cells of a table as a spreadsheet reads them, with any separator."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    return [cell for row in rows for cell in row]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    [
        *("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\n=1+1"),
        *("a;=1+1", "a; ;\t-1", "\x00=1", "\x1b[0m=1", "\u202e=1", "\uff1d1+1", "\ud800=1"),
        *('"=1"', 'a","=1', "a\r\n=1+1,2", "\u2028=1"),
    ],
)
def test_no_text_becomes_a_formula_or_a_new_cell(sums, table_of, text, separator):
    rows = [
        record(text, points=FULL),
        record("z", state=UNGRADABLE, reasons=("first", text, text + text)),
    ]
    table = table_of(sums, rows).decode("utf-8-sig")
    assert not [c for c in cells_of(table, separator) if c.lstrip()[:1] in tuple("=+-@\uff1d")]
    assert len(read_back(table.encode("utf-8-sig"))) == 2
    assert set(map(len, csv.reader(io.StringIO(table, newline=""), strict=True))) == {9}


# --- the page: failed checks ----------------------------------------------------------------------


def losing(student, message, cell="sum-all-values", points=0.0):
    messages = {} if message is None else {cell: message}
    return record(student, points=FULL | {cell: points}, messages=messages)


def test_failed_checks_are_grouped_by_the_likely_mistake(sums, page_of):
    def likely(n, words):
        return message_of(lambda: check(sum_all, [n, 1]).gives(n, likely=words))

    long = "one number was left out, as happens to those who begin to count at one instead of zero"
    page = page_of(
        sums,
        [
            losing("a", likely(5, long + " 1")),
            losing("b", likely(6, "signs differ")),
            losing("c", likely(777, long + " 1")),
            losing("d", likely(8, "signs differ")),
            losing("e", likely(9, "signs differ")),
            losing("f", None),
            losing("g", "a person gave the points", points=2.0),
            losing("h", "half", points=0.5),
            losing("i", likely(1, "by hand"), cell="sum-why"),
            record("j", state=UNGRADABLE, messages={"sum-all-values": "not counted"}),
        ],
    )
    assert page.summaries == [
        "3 × signs differ",
        f"2 × {long} 1",
        "1 × half",
        "1 × no message",
    ]
    text = page.sections["Failed checks"]
    assert "9.1 The sum" in text and "9.2" not in text and "9.4" not in text
    assert "sum-all-values: 7 students of 9 lost points" in text
    assert "sum-all-form" not in text
    # The example is the message of the first student of the group.
    assert page.examples[0].splitlines()[0] == "Not right yet: sum_all([6, 1])"
    assert "likely    signs differ" in page.examples[0]
    assert "For example b:" in text and "For example d:" not in text


# --- texts of students ----------------------------------------------------------------------------

HARMFUL = [
    HOSTILE,
    "</td></table></pre></details><h2>0 ungradable</h2>",
    "]]><svg onload=hacked=1>",
    "\x1b[2J\x1b]0;title\x07\x9b31m\x00\x08\u202egnp\u2066\ud800\ufeff",
    "&lt;script&gt;",
    "\"' onmouseover='hacked=1' x=\"",
]


def everywhere(text, student="student01", **fields):
    """Return a record that contains a text in every field."""
    texts = {name: (text,) for name in ("reasons", "repairs", "incidents")}
    messages, points = dict.fromkeys(FULL, text), dict.fromkeys(FULL, 0.0)
    fields = {"messages": messages, "points": points} | texts | fields
    return record(student + text, seconds=1.0, **fields)


@pytest.mark.parametrize("text", HARMFUL)
@pytest.mark.parametrize("state", [PERSON, UNGRADABLE])
def test_texts_add_no_elements_and_no_attributes(sums, page_of, text, state):
    tame = page_of(sums, [everywhere("tame", state=state)])
    wild = page_of(sums, [everywhere(text, state=state)])
    assert wild.tags == tame.tags and list(wild.sections) == list(tame.sections)
    unseen = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
    assert not re.search(unseen, wild.source)
    visible = [word for word in ("<script>", "0 ungradable", "&lt;script") if word in text]
    assert all(word in next(iter(wild.sections.values())) for word in visible)


def test_unprintable_characters_in_names_are_escaped(sums, page_of, table_of):
    """If they were removed, the names of two students could look the same."""
    names = ["anna", "anna\u200b", "anna\n", "\x1b[1manna", "an\u202ena", "Zo\u00eb", "\U0001f600"]
    shown = ["anna", "anna\\x200b", "anna\\x0a", "\\x1b[1manna", "an\\x202ena", *names[-2:]]
    records = [record(name, UNGRADABLE, reasons=("x",)) for name in names]
    assert {row["student"] for row in read_back(table_of(sums, records))} == set(shown)
    assert {row[0] for row in page_of(sums, records).rows} >= set(shown)


def test_long_texts_are_cleaned_in_linear_time():
    for text in ("\x1b]" * 10**6, "\x1b[" + "0" * 10**6, " likely " * 10**6, "1_" * 10**6):
        with time_limit(120):
            report._mistake(text), pages.block(text), report._cell(text)


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_the_page_runs_no_script_loads_no_file_and_fits_the_window(
    browser, tmp_path, scheme, width
):
    path = tmp_path / "report.html"
    lists = {name: tuple(HARMFUL) for name in ("reasons", "repairs", "incidents")}
    cells = [cell["id"] for task in LORA.tasks for cell in task.graded]
    lost = {"points": dict.fromkeys(cells, 0.0)}
    lost |= {"messages": dict.fromkeys(cells, "w" * 900 + HOSTILE)}
    records = [
        *(record(f"s{n}", name=LORA.name, points=dict.fromkeys(cells, 1.0)) for n in range(60)),
        record("n" * 200, UNGRADABLE, LORA.name, **lists),
        record("z" + HOSTILE, PERSON, LORA.name, **lists, **lost),
    ]
    report.write_report(path, LORA, records)
    window = {"width": width, "height": 800}
    with browser.new_context(viewport=window, color_scheme=scheme) as context:
        page, requests, messages = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.goto(path.as_uri())
        page.locator("summary").first.click()
        assert page.evaluate("window.hacked") is None
        assert requests == [path.as_uri()] and messages == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background, text = (
            page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("backgroundColor", "color")
        )
        bright = [sum(map(int, re.findall(r"\d+", color))) for color in (background, text)]
        assert (bright[0] > bright[1]) == (scheme == "light")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
