"""Test the tables for Canvas and Moodle, on files of the form that the two systems export."""

import csv
import io

import pytest

from course_utils.machine.validation import CourseError
from tests import assignment, sums
from workshop.grading import classroom, lms
from workshop.grading.assignments import read
from workshop.grading.records import GRADED, PERSON, UNGRADABLE, Record

NAME = assignment.NAME
POINTS = {"sum-all-form": 1, "sum-all-values": 2, "sum-squares-form": 1, "sum-squares-values": 0}
POINTS |= {"sum-largest-form": 1, "sum-largest-values": 2, "sum-why": 2.5}

CANVAS = """\
Student,ID,SIS User ID,SIS Login ID,Section,Exercise 08 (11),Exercise 09: Sums (12),Current Score
,,,,,Manual Posting,,
    Points Possible,,,,,10,12,(read only)
"Lovelace, Ada",101,S1,ada@uni.example,Mon,7,,70
"Byron, =Bob",102,S2,bob,Mon,5,3,50
"Zöe, Émile",103,S3,zoe,Tue,,,
"Doe, Jane",104,S4,jdoe1,Tue,,,
"Doe, Jane",105,S5,jdoe2,Tue,,,
"""
MOODLE = """\
Identifier,Full name,ID number,Email address,Status,Grade,Maximum Grade,Feedback comments\r
Participant 101,Ada Lovelace,S1,ada@uni.example,Submitted for grading,,"12,00",\r
Participant 102,=Bob Byron,S2,bob@uni.example,Submitted,3.00,"12,00","=cmd|'/c calc'!A0"\r
Participant 103,Émile Zöe,S3,zoe@uni.example,No submission,,"12,00",\r
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return read(assignment.write(tmp_path_factory.mktemp("lms")))


def record(student, state=GRADED, points=POINTS, reasons=("why",)):
    reasons = () if state == GRADED else reasons
    return Record(NAME, student, state, reasons=reasons, points=points)


def filled(found, kind, text, *records, **options):
    """Return the filled table as a list of dicts, and all that `fill` returns."""
    data = text if isinstance(text, bytes) else text.encode()
    result = lms.fill(kind, data, found, records, **options)
    content = result.data.decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(content, newline=""))), result


COLUMN = "Exercise 09: Sums (12)"


@pytest.mark.parametrize("student", ["ada", "ada@uni.example", "S1", "101", "lovelaceada"])
def test_canvas_students_are_found_by_each_of_their_names(found, student):
    rows, result = filled(found, "canvas", CANVAS, record(student))
    assert rows[2][COLUMN] == "9.5" and result.students == [student]
    assert rows[2]["Exercise 08 (11)"] == "7"
    assert result.without == ["Byron, =Bob", "Zöe, Émile", "Doe, Jane", "Doe, Jane"]


@pytest.mark.parametrize(
    "student",
    ["ada", "Ada Lovelace", "adalovelace", "S1", "Participant 101", "Participant_101"],
)
def test_moodle_students_are_found_by_each_of_their_names(found, student):
    rows, result = filled(found, "moodle", MOODLE, record(student))
    assert rows[0]["Grade"] == "9.5" and result.students == [student]
    assert result.without == ["=Bob Byron", "Émile Zöe"]


def test_points_that_are_not_final_leave_the_cell_as_it_is(found):
    waiting = record("bob", PERSON, POINTS | {"sum-why": None})
    rows, result = filled(found, "canvas", CANVAS, waiting, record("zoe", UNGRADABLE))
    assert [rows[3][COLUMN], rows[4][COLUMN]] == ["3", ""]
    assert result.not_final == [("bob", PERSON), ("zoe", UNGRADABLE)]
    assert result.students == []


def test_points_of_a_doubtful_submission_are_not_filled_in(found):
    doubtful = record("ada", PERSON, reasons=("two notebooks contain answers",))
    rows, result = filled(found, "canvas", CANVAS, doubtful)
    assert rows[2][COLUMN] == ""
    assert (result.students, result.not_final) == ([], [("ada", PERSON)])


def test_excused_students_stay_excused(found):
    text = CANVAS.replace("ada@uni.example,Mon,7,", "ada@uni.example,Mon,7,EX")
    rows, result = filled(found, "canvas", text, record("ada"))
    assert rows[2][COLUMN] == "EX" and result.not_final == [("ada", "excused in Canvas")]


def test_points_that_moodle_would_ignore_are_named(found):
    rows, result = filled(found, "moodle", MOODLE, record("ada", points=POINTS | {"sum-why": 6}))
    assert rows[0]["Grade"] == "" and result.students == []
    assert result.unknown == [("ada", "Moodle ignores 13 points, because the maximum is 12")]


def test_nobody_is_lost(found):
    students = [record("ada"), record("eve"), record("Doe, Jane")]
    _, result = filled(found, "canvas", CANVAS, *students)
    assert result.students == ["ada"]
    assert result.unknown == [
        ("eve", "no row fits this name"),
        ("Doe, Jane", "several rows fit this name"),
    ]


def test_students_of_one_name_are_told_apart_by_the_number_in_the_files_of_the_lms(found):
    rows, result = filled(found, "canvas", CANVAS, record("doejane_105"))
    assert (rows[6][COLUMN], result.students) == ("9.5", ["doejane_105"])
    text = MOODLE.replace("=Bob Byron", "Ada Lovelace")
    rows, result = filled(found, "moodle", text, record("Ada Lovelace_102"))
    assert (rows[1]["Grade"], result.students) == ("9.5", ["Ada Lovelace_102"])


def test_two_students_never_share_a_row(found):
    _, result = filled(found, "canvas", CANVAS, record("ada"), record("S1"))
    assert result.students == ["ada"]
    assert result.unknown == [("S1", "this row belongs to ada")]


@pytest.mark.parametrize(("kind", "text"), [("canvas", CANVAS), ("moodle", MOODLE)])
def test_only_the_points_change_and_no_cell_is_a_formula(found, kind, text):
    _, result = filled(found, kind, text, record("ada"))
    before = list(csv.reader(io.StringIO(text, newline="")))
    after = list(csv.reader(io.StringIO(result.data.decode(), newline="")))
    changed = [
        (old, new)
        for row, new_row in zip(before, after, strict=True)
        for old, new in zip(row, new_row, strict=True)
        if old != new
    ]
    harmless = [new for old, new in changed if old.startswith("=")]
    assert all(new.startswith("'=") for new in harmless)
    assert ("", "9.5") in changed and len(changed) == len(harmless) + 1
    assert result.data.endswith(text[-2:].encode())


def test_another_maximum_is_an_error_or_converts_the_points(found):
    text = CANVAS.replace(",10,12,", ",10,100,")
    with pytest.raises(
        CourseError, match="the maximum is 100 in the LMS, but the assignment has 12"
    ):
        filled(found, "canvas", text, record("ada"))
    rows, _ = filled(found, "canvas", text, record("ada"), scale=True)
    assert rows[2][COLUMN] == "79.1667"


def test_the_column_can_be_named(found):
    text = CANVAS.replace("Exercise 09: Sums (12)", "Homework (12)")
    with pytest.raises(CourseError, match=r"--column: Exercise 08 \(11\), Homework \(12\)"):
        filled(found, "canvas", text, record("ada"))
    rows, _ = filled(found, "canvas", text, record("ada"), column="homework")
    assert rows[2]["Homework (12)"] == "9.5"
    with pytest.raises(CourseError, match="several columns contain 'e'"):
        filled(found, "canvas", text, record("ada"), column="e")
    rows, _ = filled(found, "moodle", MOODLE, record("ada"), column="Grade")
    assert rows[0]["Grade"] == "9.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column Student and no column ID: in Canvas, choose Grades, Export"),
        ("a,b\n", "no column Student"),
        ("Student,ID\n", "no column contains"),
        (b"\xff\xfe\x00", "isn't a text in UTF-8"),
    ],
)
def test_a_file_that_is_no_table_of_the_lms_is_one_clear_error(found, text, message):
    with pytest.raises(CourseError, match=message):
        filled(found, "canvas", text, record("ada"))


@pytest.mark.full
def test_a_graded_class_is_exported(tmp_path):
    folder = sums.course(tmp_path / "course")
    sums.hand_in(folder, "ada", sums.RIGHT)
    table = tmp_path / "exported.csv"
    table.write_text(CANVAS, encoding="utf-8")
    with pytest.raises(CourseError, match="09_sums was not graded yet"):
        lms.export(folder, "9", "canvas", table)
    classroom.grade(folder, NAME)
    summary = lms.export(folder, "9", "canvas", table)
    assert summary.splitlines()[:3] == [
        "grading/09_sums/canvas.csv:",
        "  0 filled in",
        "  1 not final, left as they were: ada (needs a person)",
    ]
    with sums.gradebook(folder) as book:
        grade = book.find_grade("sum-why", NAME, NAME, "ada")
        grade.manual_score, grade.needs_manual_grade = 3, False
        book.db.commit()
    assert "  1 filled in" in lms.export(folder, "9", "canvas", table)
    assert ",7,12,70" in (folder / "grading" / NAME / "canvas.csv").read_text("utf-8")
