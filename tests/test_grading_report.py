"""Test report: the page of a class, texts of students on it, and changes between two gradings."""

import re
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup

from course_utils.exercise.checks import CheckFailed, check
from tests import assignment as small
from tests.time_limit import time_limit
from workshop.grading import pages, report
from workshop.grading.assignments import read
from workshop.grading.records import Record

HOSTILE = "<script>window.hacked = 1</script><img src=https://example.org/x onerror='hacked = 1'>"
FULL = {
    f"sum-{task}-{check}": points
    for task in ("all", "squares", "largest")
    for check, points in (("form", 1.0), ("values", 2.0))
} | {"sum-why": 3.0}
OPEN = FULL | {"sum-why": None}


def record(student="student01", name="09_sums", **fields):
    return Record(name, student, **{"points": FULL} | fields)


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


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """The small assignment: three functions with 1 + 2 points, and a question with 3 points."""
    return read(small.write(tmp_path_factory.mktemp("course")))


@pytest.fixture
def page_of(sums, tmp_path):
    def page(*records, previous=()):
        report.write_report(tmp_path / "report.html", sums, records, previous)
        return Page(tmp_path / "report.html")

    return page


# --- the class ------------------------------------------------------------------------------------


def test_changes_are_listed_for_students_graded_twice(page_of):
    before = [record("b"), record("a", points=OPEN), record("gone"), record("same")]
    after = [
        record("b", points=FULL | {"sum-all-form": 0.5}),
        record("a", problem="the file is empty", points={"sum-why": 1.0}),
        record("new"),
        record("same"),
    ]
    found = report.changes(before, after)
    assert list(found) == ["a", "b"] and found["b"] == ["sum-all-form: 1 → 0.5"]
    assert found["a"][:2] == ["state: needs a person → ungradable", "sum-all-form: 1 → none"]
    # The points of sum-why were None before and after.
    assert len(found["a"]) == 7
    page = page_of(*after, previous=before)
    assert ["b", "sum-all-form: 1 → 0.5"] in page.rows
    assert "Changes since the previous grading" not in page_of(*after).sections


def test_the_page_shows_who_is_ungradable_and_who_needs_a_person_and_why(page_of):
    page = page_of(
        record("s10", problem="the file is empty"),
        record("s9", problem="no notebook"),
        record("b", points=OPEN, doubts=("two notebooks", "cut off")),
        record("c", points=OPEN, seconds=61.0, memory=300_000_000),
        record("d", repairs=("restored 2 cells",)),
        record("e", repairs=("restored 7 cells",), incidents=("a statement was skipped",)),
    )
    order = [": ".join(row) for row in page.rows if row[0] in ("s9", "s10", "b")]
    assert order == ["s9: no notebook", "s10: the file is empty", "b: two notebooks; cut off"]
    assert "A person has to give points to 2 students: 9.4" in page.summaries[0]
    assert page.summaries[1:] == ["2 × restored … cells", "1 × a statement was skipped"]
    costs = page.sections["Time and memory"]
    assert "1 min 1 s in total" in costs and "at most 1 min 1 s (c) and 300 MB" in costs


def test_points_of_the_class_and_of_the_tasks_count_nothing_as_zero(page_of):
    half = FULL | {"sum-all-values": 0.0}
    page = page_of(
        record("a"), record("b", points=half), record("c", points=OPEN), record("d", problem="x")
    )
    assert "Students by points: 1 at 9, 1 at 10, 1 at 12. 1 of them wait for points." in page.source
    rows = {row[0][:3]: row[1:] for row in page.rows}
    assert rows["9.1"] == ["3 of 3", "67%", "33%", "0%", "0%"]
    assert rows["9.4"] == ["3 of 3", "67%", "0%", "0%", "33%"]


def test_a_class_without_the_points_of_the_assignment_has_a_page(page_of):
    assert "class report" in page_of().source
    for fields in {"problem": "x"}, {"points": {}}, {"points": {"an-earlier-cell": None}}:
        assert "class report" in page_of(record(**fields)).source


def test_the_page_links_to_the_comparison_of_answers_if_there_is_one(page_of, tmp_path):
    assert "compare/index.html" not in page_of(record()).source
    (tmp_path / "compare").mkdir()
    (tmp_path / "compare" / "index.html").touch()
    assert 'href="compare/index.html"' in page_of(record()).source


# --- failed checks --------------------------------------------------------------------------------


def sum_all(numbers):
    return sum(numbers)


def likely(n, words):
    """Return the message of a failed check, as a notebook shows it."""
    with pytest.raises(CheckFailed) as caught:
        check(sum_all, [n, 1]).gives(n, likely=words)
    return "\n".join(caught.value._render_traceback_())


def losing(student, message, cell="sum-all-values", points=0.0):
    messages = {} if message is None else {cell: message}
    return record(student, points=FULL | {cell: points}, messages=messages)


def test_failed_checks_are_grouped_by_the_likely_mistake(page_of):
    long = "one number was left out, as happens to those who begin to count at one instead of zero"
    page = page_of(
        losing("a", likely(5, long + " 1")),
        *(losing(name, likely(n, "signs differ")) for n, name in enumerate("bde", start=6)),
        losing("c", likely(777, long + " 1")),
        losing("f", None),
        losing("g", "a person gave the points", points=2.0),
        losing("h", "half", points=0.5),
        losing("i", likely(1, "by hand"), cell="sum-why"),
        record("j", problem="x", messages={"sum-all-values": "not counted"}),
    )
    assert page.summaries == ["3 × signs differ", f"2 × {long} 1", "1 × half", "1 × no message"]
    text = page.sections["Failed checks"]
    assert "9.1 The sum" in text and "9.2" not in text and "9.4" not in text
    assert "sum-all-values: 7 students of 9 lost points" in text and "sum-all-form" not in text
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


def everywhere(text, **fields):
    """Return a record that contains a text in every field."""
    texts = {name: (text,) for name in ("doubts", "repairs", "incidents")}
    messages, points = dict.fromkeys(FULL, text), dict.fromkeys(FULL, 0.0)
    return record("student01" + text, messages=messages, points=points, **texts | fields)


@pytest.mark.parametrize("text", HARMFUL)
@pytest.mark.parametrize("ungradable", [False, True])
def test_texts_add_no_elements_and_no_attributes(page_of, text, ungradable):
    tame = page_of(everywhere("tame", problem="tame" * ungradable))
    wild = page_of(everywhere(text, problem=text * ungradable))
    assert wild.tags == tame.tags and list(wild.sections) == list(tame.sections)
    unseen = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
    assert not re.search(unseen, wild.source)
    visible = [word for word in ("<script>", "0 ungradable", "&lt;script") if word in text]
    assert all(word in next(iter(wild.sections.values())) for word in visible)


def test_unprintable_characters_in_names_are_escaped(page_of):
    """If they were removed, the names of two students could look the same."""
    names = ["anna", "anna\u200b", "anna\n", "\x1b[1manna", "an\u202ena", "Zo\u00eb", "\U0001f600"]
    shown = ["anna", "anna\\x200b", "anna\\x0a", "\\x1b[1manna", "an\\x202ena", *names[-2:]]
    page = page_of(*(record(name, problem="x") for name in names))
    assert {row[0] for row in page.rows} >= set(shown)


def test_long_texts_are_cleaned_in_linear_time():
    for text in ("\x1b]" * 10**6, "\x1b[" + "0" * 10**6, " likely " * 10**6, "1_" * 10**6):
        with time_limit(120):
            report._mistake(text), pages.block(text)


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_the_page_runs_no_script_loads_no_file_and_fits_the_window(
    browser, sums, tmp_path, scheme, width
):
    students = [everywhere("n" * 200, problem=HOSTILE), *map(everywhere, [*HARMFUL, "w" * 900])]
    # With 36 points, the histogram has as many bars as possible.
    report.write_report(tmp_path / "report.html", replace(sums, tasks=sums.tasks * 3), students)
    path = (tmp_path / "report.html").as_uri()
    with browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme
    ) as context:
        page, requests, messages = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.goto(path)
        page.locator("summary").first.click()
        assert page.evaluate("window.hacked") is None
        assert requests == [path] and messages == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        color, white = "getComputedStyle(document.body).backgroundColor", "rgb(255, 255, 255)"
        assert (page.evaluate(color) == white) == (scheme == "light")
        page.emulate_media(media="print")
        assert page.evaluate(color) == white
