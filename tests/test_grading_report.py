"""Test results.report: the page and the table of a class, and texts of students in both."""

import csv
import html.parser
import io
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from course_utils.checks import CheckFailed, check
from course_utils.grading.assignments import grading, read
from course_utils.grading.results import pages, report
from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE, Record, by_hand
from tests import assignment as small
from tests.time_limit import time_limit

LORA = read(Path(__file__).resolve().parents[1] / "exercises/03_lora/03_lora.ipynb")
REASONS = ("the file is empty: hand it in again", "broken JSON in line 17: hand it in again")
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


def random_message(draw):
    """Return the message of one of four mistakes, with random numbers."""
    n = draw.randint(10, 99)
    return draw.choice(
        [
            lambda: message_of(lambda: check(sum_all, [n, 1]).gives(n, likely="a number too many")),
            lambda: message_of(lambda: check(sum_all, [n, 2]).like([0])),
            lambda: message_of(lambda: check(sum_all, [n, "a"]).like(0)),
            lambda: "NameError: name 'total' is not defined",
        ]
    )()


def classroom(assignment, size, seed=0):
    """Return random records in random order: one in ten is ungradable, one in ten is doubtful."""
    draw = random.Random(seed)
    full = {c["id"]: grading(c)["points"] for task in assignment.tasks for c in task.graded}
    hand = [task.id for task in assignment.tasks if task.by_hand]
    records = []
    for number in range(1, size + 1):
        fields = {"assignment": assignment.name, "student": f"student{number:02}"}
        fields |= {"seconds": draw.lognormvariate(-1, 0.8), "memory": draw.randint(60, 600) * 10**6}
        if draw.random() < 0.1:
            records.append(Record(**fields, state=UNGRADABLE, reasons=(draw.choice(REASONS),)))
            continue
        skill = draw.random() ** 0.4
        points = {cell: value * (draw.random() < skill) for cell, value in full.items()}
        messages = {cell: random_message(draw) for cell in points if not points[cell]}
        by_person = {cell: draw.choice([None, 0.5 * full[cell], full[cell]]) for cell in hand}
        reasons = [by_hand(cell) for cell in hand if by_person[cell] is None]
        if draw.random() < 0.1:
            reasons.insert(0, "lora-layer has 2 different answers: the last one counts")
        records.append(
            Record(
                **fields,
                state=PERSON if reasons else GRADED,
                reasons=tuple(reasons),
                repairs=("restored missing tests: lora-merge-values",) * (draw.random() < 0.2),
                points=points | by_person,
                messages=messages,
            )
        )
    draw.shuffle(records)
    return records


class Page(html.parser.HTMLParser):
    """The content of a page: its elements, the text below each h2, and the rows of its tables."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.alts, self.rows, self.summaries, self.examples = [], [], [], [], []
        self.open, self.parts = [], [["", ""]]
        self.feed(self.source)
        self.sections = dict(map(tuple, self.parts))
        self.rows = [[cell.strip() for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.alts += [value for name, value in attrs if name == "aria-label"]
        self.open += [] if tag == "meta" else [tag]
        new = {"tr": (self.rows, []), "h2": (self.parts, ["", ""])}
        new |= {"summary": (self.summaries, ""), "pre": (self.examples, "")}
        if tag in new:
            list.append(*new[tag])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        tag = self.open[-1] if self.open else ""
        if tag != "style":
            self.parts[-1][tag != "h2"] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        for name, texts in (("summary", self.summaries), ("pre", self.examples)):
            if tag == name:
                texts[-1] += data


@pytest.fixture
def page_of(tmp_path):
    def page(assignment, records, previous=()):
        report.write_report(tmp_path / "report.html", assignment, records, previous)
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


def test_a_submission_with_all_points_is_graded():
    waiting = record(state=PERSON, reasons=(by_hand("sum-why"),), points=OPEN)
    (after,) = report.merged([waiting], {"student01": {"sum-why": 2.5}})
    assert after == record(points=FULL | {"sum-why": 2.5})
    assert waiting.points["sum-why"] is None, "the argument is not changed"


@pytest.mark.parametrize("scores", [{}, {"sum-why": None}, {"sum-all-form": 0.0}])
def test_a_submission_with_missing_points_needs_a_person(scores):
    waiting = record(state=PERSON, reasons=(by_hand("sum-why"),), points=OPEN)
    (after,) = report.merged([waiting], {"student01": scores, "student02": {"sum-why": 1.0}})
    assert (after.state, after.reasons) == (PERSON, (by_hand("sum-why"),))
    assert after.points == OPEN | scores


def test_points_of_one_cell_do_not_settle_another_cell():
    both = (by_hand("sum-why"), by_hand("sum-all-form"))
    waiting = record(state=PERSON, reasons=both, points=OPEN | {"sum-all-form": None})
    (after,) = report.merged([waiting], {"student01": {"sum-all-form": 0.0}})
    assert (after.state, after.reasons) == (PERSON, (by_hand("sum-why"),))


def test_other_reasons_are_kept():
    reasons = ("two answers to sum-all", by_hand("sum-why"), by_hand("sum-why") + ", and more")
    waiting = record(state=PERSON, reasons=reasons, points=OPEN)
    (after,) = report.merged([waiting], {"student01": {"sum-why": 1.0}})
    assert (after.state, after.reasons) == (PERSON, (reasons[0], reasons[2]))


def test_the_state_is_kept_if_there_is_no_reason():
    assert report.merged([record(state=PERSON, points=FULL)], {})[0].state == PERSON


def test_removed_points_need_a_person():
    (after,) = report.merged([record(points=FULL)], {"student01": {"sum-why": None}})
    assert (after.state, after.reasons) == (PERSON, (by_hand("sum-why"),))


def test_an_ungradable_submission_gets_no_points_of_an_earlier_one():
    empty = record(state=UNGRADABLE, reasons=("the file is empty",))
    assert report.merged([empty], {"student01": FULL}) == [empty]


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
    assert table.decode("utf-8-sig").split("\r\n") == [
        HEADER,
        "student02,needs a person,a person gives the points of sum-why,,12,3,3,3,",
        'student03,ungradable,"no, empty; a ""zip""",,12,,,,',
        "student04,needs a person,cut off,,12,3,3,,3",
        "student05,graded,,0,12,0,0,0,0",
        "student10,graded,,7.3,12,1,3,3,0.3",
        "",
    ]


def test_csv_begins_with_a_byte_order_mark_and_has_crlf_line_ends(sums, table_of):
    table = table_of(sums, [record("Zoë", points=FULL, reasons=()), record("李", points=FULL)])
    assert table.startswith(b"\xef\xbb\xbfstudent,")
    assert table.count(b"\r\n") == 3 and table.endswith(b"\r\n")
    assert b"\n" not in table.replace(b"\r\n", b"")
    assert [row["student"] for row in read_back(table)] == ["Zoë", "李"]


def test_students_are_sorted_naturally(sums, table_of):
    names = ["student9", "Student10", "student100", "\u00c9mile", "b", "A", "2", "010"]
    rows = read_back(table_of(sums, [record(name, points=FULL) for name in names]))
    assert [row["student"] for row in rows] == [
        *("2", "010", "A", "b", "student9", "Student10", "student100", "\u00c9mile")
    ]


@pytest.mark.parametrize("write", [report.write_csv, report.write_report])
def test_a_missing_folder_is_created_and_an_old_file_replaced(sums, tmp_path, write):
    path = tmp_path / "grading" / "file"
    for records in ([], [record(points=FULL)]):
        write(path, sums, records)
    assert "student01" in path.read_text(encoding="utf-8") and len(list(path.parent.iterdir())) == 1


def test_csv_without_records_has_only_a_header(sums, table_of):
    assert table_of(sums, []).decode("utf-8-sig") == HEADER + "\r\n"


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
        *("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1+1", " =1"),
        *("a;=1+1", "a; ;\t-1", "\x00=1", "\x1b[0m=1", "\u202e=1", "\uff1d1+1", "\ud800=1"),
        *('"=1"', 'a","=1', "a\r\n=1+1,2", 'x";=1+1', "\x85=1", "\u2028=1", "\ufeff=1"),
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


def test_negative_points_are_numbers_and_no_formulas(sums, table_of):
    late = record(points=FULL | {"sum-all-form": -1.5})
    assert read_back(table_of(sums, [late]))[0]["sum-all"] == "0.5"
    worse = record(points=FULL | {"sum-all-form": -4.5})
    assert read_back(table_of(sums, [worse]))[0]["sum-all"] == "-2.5"


@pytest.mark.parametrize("write", [report.write_csv, report.write_report])
def test_a_record_of_another_assignment_raises_an_error(sums, tmp_path, write):
    path = tmp_path / "out"
    with pytest.raises(ValueError, match="report of 09_sums must not contain a record of 03_lora"):
        write(path, sums, [record(), record(name="03_lora")])
    assert not list(tmp_path.iterdir())


# --- the page: states and points ------------------------------------------------------------------


def test_submissions_that_need_attention_are_listed_first(sums, page_of):
    page = page_of(
        sums,
        [
            record("student11", state=UNGRADABLE, reasons=("the file is empty",)),
            record("Student09", state=UNGRADABLE, reasons=("a zip", "not a notebook")),
            record("student12", state=PERSON, points=OPEN, reasons=("cut off", by_hand("sum-why"))),
            record("student04", state=PERSON, points=OPEN, reasons=(by_hand("sum-why"),)),
            record("student05", state=PERSON, points=FULL),
            record("student01", points=FULL),
        ],
    )
    assert list(page.sections)[1:4] == ["Ungradable", "Needs a person", "Points"]
    assert re.findall(r"(\d+)(graded|needs a person|ungradable)", page.sections[""]) == [
        ("1", "graded"),
        ("3", "needs a person"),
        ("2", "ungradable"),
    ]
    assert page.rows[:6] == [
        ["student", "reason"],
        ["Student09", "a zip; not a notebook"],
        ["student11", "the file is empty"],
        ["student", "reason"],
        ["student05", "no reason is recorded"],
        ["student12", "cut off"],
    ]
    waiting = page.sections["Needs a person"]
    assert "give points to 2 students: 9.4 The point of it (sum-why)" in waiting
    assert "student04, student12" in waiting


def test_a_cell_without_points_is_listed_even_without_a_reason_in_the_record(sums, page_of):
    page = page_of(sums, [record(points=OPEN)])
    assert "A person has to give points to 1 student" in page.sections["Needs a person"]


def test_a_completely_graded_class_needs_no_person(sums, page_of):
    page = page_of(sums, [record(points=FULL)])
    assert "no submission needs a person" in page.sections[""]
    assert {"Ungradable", "Needs a person"}.isdisjoint(page.sections)
    assert "1 student, 12 points." in page.sections[""]


def test_a_page_without_records_has_no_sections(sums, page_of):
    page = page_of(sums, [])
    assert "0 students" in page.sections[""] and "No submission" in page.sections[""]
    assert list(page.sections) == [""] and not page.rows


def test_a_page_with_only_ungradable_submissions_has_no_points(sums, page_of):
    page = page_of(sums, [record(state=UNGRADABLE, reasons=("empty",), seconds=0.1)])
    assert list(page.sections) == ["", "Ungradable", "Time and memory"]


def test_the_table_of_tasks_has_medians_and_shares(sums, page_of):
    def points(form, values, why):
        return FULL | {"sum-all-form": form, "sum-all-values": values, "sum-why": why}

    page = page_of(
        sums,
        [
            record("a", points=points(1, 2, 3)),
            record("b", points=points(1, 0, 0)),
            record("c", points=points(0, 0, 1.5)),
            record("d", points=points(1, 2, None)),
            record("e", state=UNGRADABLE, points=points(0, 0, 0)),
        ],
    )
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["task"] == ["median", "full", "some", "none", "missing"]
    assert rows["9.1 The sum"] == ["2 of 3", "50%", "25%", "25%", "0%"]
    assert rows["9.2 The sum of squares"] == ["3 of 3", "100%", "0%", "0%", "0%"]
    assert rows["9.4 The point of it"] == ["1.5 of 3", "25%", "25%", "25%", "25%"]
    assert "Students by points: full 50%, some 25%, none 25%, missing 0%" in page.alts


def test_a_task_without_points_has_no_median(sums, page_of):
    page = page_of(sums, [record(points=OPEN)])
    assert ["9.4 The point of it", "– of 3", "0%", "0%", "0%", "100%"] in page.rows


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 9, "0%"), (1, 999, "<1%"), (5, 10, "50%"), (998, 999, ">99%"), (9, 9, "100%")],
)
def test_shares_are_not_rounded_to_0_or_100_percent(part, whole, shown):
    assert report._share(part, whole) == shown


def test_the_histogram_counts_incomplete_points_separately(sums, page_of):
    page = page_of(
        sums,
        [
            record("a", points=FULL),
            record("b", points=FULL | {"sum-why": 2.5}),
            record("c", points=OPEN),
            # Extra points are counted in the last bar.
            record("d", points=FULL | {"sum-why": 9.0}),
            record("e", points=dict.fromkeys(FULL, 0.0)),
            record("f", state=PERSON, reasons=("cut off",)),
            record("g", state=UNGRADABLE, points=FULL),
        ],
    )
    assert (
        "Histogram of points, from 0 to 12. Students: 1 at 0, 1 at 9, 1 at 11, 2 at 12. "
        "For 1 of them, a person still has to give points." in page.alts
    )
    assert "Not shown: 1 student without any points." in page.sections["Points"]
    picture = page.source[page.source.index("Histogram of points") :].partition("</figure>")[0]
    assert (picture.count('class="full"'), picture.count('class="missing"')) == (3, 1)


def test_the_histogram_of_many_points_has_wide_bars(sums, page_of):
    tasks = [replace(task, points=100 * task.points) for task in sums.tasks]
    page = page_of(replace(sums, tasks=tuple(tasks)), [record(points=FULL)])
    alt = "Histogram of points, in steps of 50, from 0 to 1200. Students: 1 at 0."
    assert alt in page.alts


def test_the_height_of_a_bar_is_proportional_to_its_number(sums, page_of):
    """Incomplete points are stacked on final points; the tallest bar has a height of 8 rem."""
    half = FULL | {"sum-all-form": 0.0, "sum-why": 0.0}
    students = [record(f"a{n}", points=half) for n in range(3)] + [record("b", points=FULL)]
    page = page_of(sums, [*students, record("c", points=half | {"sum-why": None})])
    picture = page.source[page.source.index("Histogram of points") :].partition("</figure>")[0]
    found = re.findall(r'<i class="(\w+)" style="height: ([\d.]+)rem">', picture)
    assert found == [("missing", "2.00"), ("full", "6.00"), ("full", "2.00")]
    assert re.findall(r"<b>(\d+)</b>.*?<small>(\d+)</small>", picture) == [("4", "8"), ("1", "12")]


def test_a_tiny_time_or_memory_does_not_stop_the_report(sums, page_of):
    page = page_of(sums, [record(points=FULL, seconds=5e-324)])
    assert "Grading time: 0.0 s in total" in page.sections["Time and memory"]


@pytest.mark.parametrize(
    ("value", "above"),
    [(1, 1), (1.1, 2), (2.5, 5), (5.01, 10), (0.03, 0.05), (0.1, 0.1), (70, 100)],
)
def test_values_are_rounded_up_to_1_2_or_5_times_a_power_of_ten(value, above):
    assert report._round_up(value) == pytest.approx(above)


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


@pytest.mark.parametrize(
    ("message", "shared"),
    [
        (message_of(lambda: check(sum_all, [12, -3, 4.5e-07]).like([])), "sum_all([…, …, …])"),
        (
            message_of(lambda: check(sum_all, [16_000, "a1"]).like(0)),
            "TypeError: unsupported operand",
        ),
        ("Not right yet, in a check that grading adds: f(12)\n  returned  3", "f(…)"),
        ("NameError: name 'nf4' is not defined in 3", "NameError: name 'nf4' is not defined in …"),
        ("f(1)\n  returned  1\n  likely    a\n            b 2\n", "a b 2"),
        ("f(1)\n  returned  'x'\n  likely    forged\n  likely    own", "own"),
        ("\x1b[31mf(1)\x1b[0m\n  \x1b[1mlikely\x1b[0m    red", "red"),
        ("", "no message"),
        ("\n \n", "no message"),
    ],
)
def test_messages_about_the_same_mistake_share_a_text(message, shared):
    assert report._mistake(message).startswith(shared)


def test_rare_mistakes_are_only_counted(sums, page_of):
    students = [losing(f"student{n:02}", f"KeyError: '{chr(97 + n)}'") for n in range(11)]
    page = page_of(sums, [*students, losing("z", "KeyError: 'k'")])
    assert page.summaries[0] == "2 × KeyError: 'k'" and len(page.summaries) == 8
    assert "Not shown: 3 smaller groups with 3 students." in page.sections["Failed checks"]


def test_repairs_and_incidents_are_grouped(sums, page_of):
    page = page_of(
        sums,
        [
            record("b", points=FULL, repairs=("put back sum-all-form", "cell 12 dropped")),
            record("a", points=FULL, repairs=("cell 7 dropped", "cell 9 dropped")),
            record("c", points=FULL, incidents=("sum_all took more than 10 s",)),
        ],
    )
    assert page.summaries == [
        "2 × cell … dropped",
        "1 × put back sum-all-form",
        "1 × sum_all took more than … s",
    ]
    assert "a, b" in page.sections["Repairs before grading"]
    assert "sum_all" in page.sections["Incidents during grading"]


# --- the page: changes, time and memory -----------------------------------------------------------


def test_changes_have_one_row_for_each_student(sums, page_of):
    before = [record("a", points=OPEN), record("b", points=FULL), record("c", points=FULL)]
    after = [
        record("a", points=FULL | {"sum-all-form": 0.0}),
        record("b", points=FULL),
        record("c", state=UNGRADABLE, reasons=("x",)),
    ]
    page = page_of(sums, after, before)
    text = page.sections["Changes since the previous grading"]
    assert "The points or the state of 2 students changed." in text
    rows = {row[0]: row[1] for row in page.rows if "→" in row[1]}
    assert rows["a"] == "state: needs a person → graded; sum-all-form: 1 → 0; sum-why: none → 3"
    assert rows["c"].startswith("state: graded → ungradable; sum-all-form: 1 → none")
    assert list(rows) == ["student", "a", "c"]
    unchanged = page_of(sums, before, before)
    assert "of 0 students changed" in unchanged.sections["Changes since the previous grading"]
    assert "Changes since the previous grading" not in page_of(sums, after).sections


def test_time_and_memory_are_summarized(sums, page_of):
    seconds = [0.04, 0.3, 0.4, 3.0, 7.0, 3600.0]
    page = page_of(
        sums,
        [
            record(f"s{n}", points=FULL, seconds=value, memory=int(100e6 * n))
            for n, value in enumerate(seconds)
        ],
    )
    text = page.sections["Time and memory"]
    assert "Grading time: 1 h 0 min in total, median 1.7 s per submission." in text
    # The memory of one submission was not measured.
    assert "median 300.00 MB, maximum 500.00 MB" in text
    assert page.rows[-6:] == [
        ["student", "state", "time", "memory"],
        ["s5", "graded", "1 h 0 min", "500.00 MB"],
        ["s4", "graded", "7.0 s", "400.00 MB"],
        ["s3", "graded", "3.0 s", "300.00 MB"],
        ["s2", "graded", "0.4 s", "200.00 MB"],
        ["s1", "graded", "0.3 s", "100.00 MB"],
    ]
    labels = re.findall(r"<small>≤ ([\d.,]+)</small>", page.source)
    assert labels[-3:] == ["100", "200", "500"] and labels[0] == "0.05"
    assert (
        "Histogram of seconds per submission. Students: 1 up to 0.05, 2 up to 0.5, 1 up to 5, "
        "1 up to 10, 1 up to 5,000." in page.alts
    )
    assert (
        "Histogram of MB per submission. Students: 1 up to 100, 1 up to 200, 3 up to 500."
        in page.alts
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7300, "2 h 1 min"),
    ],
)
def test_times_have_units(seconds, shown):
    assert report._time(seconds) == shown


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
    assert all(word in wild.sections[list(wild.sections)[1]] for word in visible)


def test_unprintable_characters_in_names_are_escaped(sums, page_of, table_of):
    """If they were removed, the names of two students could look the same."""
    names = ["anna", "anna\u200b", "anna\n", "\x1b[1manna", "an\u202ena", "Zo\u00eb", "\U0001f600"]
    shown = ["anna", "anna\\x200b", "anna\\x0a", "\\x1b[1manna", "an\\x202ena", *names[-2:]]
    records = [record(name, UNGRADABLE, reasons=("x",)) for name in names]
    assert {row["student"] for row in read_back(table_of(sums, records))} == set(shown)
    assert {row[0] for row in page_of(sums, records).rows} >= set(shown)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\tb\r\nc\x0bd\x85e\u2028f", "a b c d e f"),
        ("\x1b[1;31mred\x1b[0m \x9b1mbold", "red bold"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "link"),
        ("\x1b]unfinished", ""),
        ("a\x00b\x08c\x7fd", "abcd"),
        ("x" * 300, "x" * 200 + " …"),
        ("é 李 ½ — ok", "é 李 ½ — ok"),
    ],
)
def test_lines_lose_escape_sequences_and_line_breaks(text, line):
    assert pages.one_line(text) == line


def test_blocks_keep_line_breaks_and_are_cut():
    assert pages.block("\n  a\r\n\n\tb  \x1b[0m\n") == "a\n\n    b"
    assert pages.block("x\n" * 50) == "\n".join("x" * 20) + " …"
    assert pages.block("y" * 10**7) == "y" * 1_500 + " …"


def test_long_texts_are_cleaned_in_linear_time():
    for text in ("\x1b]" * 10**6, "\x1b[" + "0" * 10**6, " likely " * 10**6, "1_" * 10**6):
        with time_limit(120):
            report._mistake(text), pages.block(text), report._cell(text)


def test_only_the_first_reasons_are_shown(sums, page_of, table_of):
    many = record(state=UNGRADABLE, reasons=tuple(f"reason {n}" for n in range(10_000)))
    assert page_of(sums, [many]).rows[1][1].endswith("reason 4; and 9995 more")
    assert read_back(table_of(sums, [many]))[0]["reasons"].endswith("reason 4; and 9995 more")


def test_the_page_of_a_thousand_students_is_small(page_of):
    page = page_of(LORA, classroom(LORA, 1_000))
    assert "1,000 students" in page.sections[""] and len(page.source) < 1.5e6


def test_the_page_of_a_thousand_students_with_long_texts_is_small(sums, page_of):
    draw = random.Random(0)
    texts = [f"{draw.random()} {HOSTILE} " + "<" * 2_000 for _ in range(1_000)]
    records = [replace(everywhere(text, state=PERSON), student=text[:8]) for text in texts]
    assert len(page_of(sums, records).source) < 1.5e6


def test_the_order_of_the_records_does_not_matter(tmp_path):
    pages = set()
    for seed in range(3):
        records = classroom(LORA, 40)
        random.Random(seed).shuffle(records)
        for write in (report.write_report, report.write_csv):
            write(tmp_path / write.__name__, LORA, records)
            pages.add((tmp_path / write.__name__).read_bytes())
    assert len(pages) == 2


def test_the_table_agrees_with_the_page(page_of, table_of):
    records = classroom(LORA, 200)
    rows, page = read_back(table_of(LORA, records)), page_of(LORA, records)
    assert Counter(row["state"] for row in rows) == Counter(r.state for r in records)
    for task in LORA.tasks:
        points = [row[task.id] for row in rows if row["state"] != UNGRADABLE]
        full = report._share(points.count(str(task.points)), len(points))
        cells = next(row for row in page.rows if row[0] == f"{task.number} {task.title}")
        assert cells[2] == full and cells[5] == report._share(points.count(""), len(points))


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_runs_no_script_loads_no_file_and_fits_the_window(
    browser, tmp_path, scheme, width
):
    path = tmp_path / "report.html"
    lists = {name: tuple(HARMFUL) for name in ("reasons", "repairs", "incidents")}
    cells = [cell["id"] for task in LORA.tasks for cell in task.graded]
    lost = {"points": dict.fromkeys(cells, 0.0)}
    lost |= {"messages": dict.fromkeys(cells, "w" * 900 + HOSTILE)}
    records = [
        *classroom(LORA, 60),
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
