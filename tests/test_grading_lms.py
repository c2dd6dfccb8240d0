"""Test lms: points.csv, and tables of the form that Canvas and Moodle export."""

import csv
import io

import pytest

from course_utils.machine.validation import CourseError
from tests import assignment, sums
from workshop.grading import classroom, lms
from workshop.grading.assignments import read
from workshop.grading.records import Record

NAME = assignment.NAME
POINTS = {"sum-all-form": 1, "sum-all-values": 2, "sum-squares-form": 1, "sum-squares-values": 0}
POINTS |= {"sum-largest-form": 1, "sum-largest-values": 2, "sum-why": 2.5}
OPEN = POINTS | {"sum-why": None}

CANVAS = """\
Student,ID,SIS User ID,SIS Login ID,Section,Exercise 08 (11),Exercise 09: Sums (12),Current Score
,,,,,Manual Posting,,
    Points Possible,,,,,10,12,(read only)
"Lovelace, Ada",101,S1,ada@uni.example,Mon,7,,70
"Byron, =Bob",102,S2,bob,Mon,5,3,50
"Zöe, Émile",103,S3,zoe,Tue,,EX,
"Doe, Jane",104,S4,jdoe1,Tue,,,
"Doe, Jane",105,S5,jdoe2,Tue
"""
MOODLE = """\
Identifier,Full name,ID number,Email address,Status,Grade,Maximum Grade,Feedback comments\r
Participant 101,Ada Lovelace,S1,ada@uni.example,Submitted for grading,,"12,00",\r
Participant 102,=Bob Byron,S2,bob@uni.example,Submitted,3.00,"12,00","=cmd|'/c calc'!A0"\r
Participant 103,Émile Zöe,S3,zoe@uni.example,No submission,,"12,00","Fine\n=1+1"\r
"""
COLUMN = "Exercise 09: Sums (12)"
NO_SUBMISSION = "there is no graded submission of this name"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return read(assignment.write(tmp_path_factory.mktemp("lms")))


def record(student, points=POINTS, **fields):
    return Record(NAME, student, points=points, **fields)


def filled(found, text, *records, column="Exercise 09"):
    """Return the rows of the filled table, and what happened to the points of each person."""
    table, done = lms.fill(text.encode(errors="surrogateescape"), found, records, column)
    return list(csv.DictReader(io.StringIO(table[1:], newline=""))), dict(done)


# --- points.csv -----------------------------------------------------------------------------------


def table_of(found, path, *records):
    lms.write_csv(path / "points.csv", found, records)
    return (path / "points.csv").read_bytes().decode()


def test_points_csv_has_an_empty_cell_for_missing_points(found, tmp_path):
    table = table_of(
        found,
        tmp_path,
        record("student02", OPEN),
        record("student03", problem='no "zip", empty'),
        record("student04", {"sum-why": 3.0}, doubts=("cut off",)),
        record("student05", dict.fromkeys(POINTS, 0.0)),
        record("student10", POINTS | {"sum-why": 0.1 + 0.2}),
    )
    # Excel needs the byte order mark to read UTF-8.
    assert table.split("\r\n") == [
        "\ufeffstudent,state,reasons,points,max points,bonus points,"
        "sum-all,sum-squares,sum-largest,sum-why",
        "student02,needs a person,a person gives the points of sum-why,,12,0,3,1,3,",
        'student03,ungradable,"no ""zip"", empty",,12,,,,,',
        "student04,needs a person,cut off,,12,0,,,,3",
        "student05,graded,,0,12,0,0,0,0,0",
        "student10,graded,,7.3,12,0,3,1,3,0.3",
        "",
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    [
        *("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\n=1+1", "a\t=1", "a\n =1"),
        *("a;=1+1", "a; ;\t-1", "\x00=1", "\x1b[0m=1", "\u202e=1", "\uff1d1+1", "\ud800=1"),
        *('"=1"', 'a","=1', "a\r\n=1+1,2", "\u2028=1", "a;\n=1", "a\n\t=1", "\n\n=1"),
    ],
)
def test_no_text_becomes_a_formula_or_a_new_row(found, tmp_path, text, separator):
    """Spreadsheets may expect another separator, and take a line in a cell for a row."""
    students = [record(text), record("z", doubts=("first", text, text + text))]
    table = table_of(found, tmp_path, *students)
    assert len(list(csv.DictReader(io.StringIO(table, newline=""), strict=True))) == 2
    row = io.StringIO(newline="")
    csv.writer(row).writerow(["Participant 1", text, ""])
    data = f"Identifier,Full name,Grade\n{row.getvalue()}".encode(errors="replace")
    worksheet, _ = lms.fill(data, found, [], "Grade")
    for content in (table, worksheet):
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        lines = [line for row in rows for cell in row for line in cell.splitlines()]
        assert not [line for line in lines if line.lstrip("\0 \t")[:1] in tuple("=+-@\uff1d")]


# --- tables of an LMS -----------------------------------------------------------------------------


def test_students_are_found_by_each_of_their_names(found):
    for student in "ada", "ada@uni.example", "S1", "101", "lovelaceada":
        rows, done = filled(found, CANVAS, record(student))
        assert rows[2][COLUMN] == "9.5" and rows[2]["Exercise 08 (11)"] == "7"
        others = ["Byron, =Bob, 102", "Zöe, Émile, 103", "Doe, Jane, 104", "Doe, Jane, 105"]
        assert done == {student: ""} | dict.fromkeys(others, NO_SUBMISSION)
    for student in "ada", "Ada Lovelace", "adalovelace", "S1", "Participant 101":
        rows, done = filled(found, MOODLE, record(student), column="Grade")
        assert rows[0]["Grade"] == "9.5" and len(done) == 3 and done[student] == ""


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        (record("bob", OPEN), "needs a person"),
        (record("bob", problem="the file is empty"), "ungradable"),
        (record("bob", doubts=("two notebooks contain answers",)), "needs a person"),
        (record("bob", {}), "graded"),
        (record("bob", POINTS | {"sum-why": 6}), "13 points exceed the maximum"),
        (record("zoe"), "excused in Canvas"),
        (record("eve"), "no row fits this name"),
        (record("Doe, Jane"), "several rows fit this name"),
    ],
)
def test_points_that_are_not_filled_in_stay_as_they_were_with_a_reason(found, student, problem):
    rows, done = filled(found, CANVAS, record("ada"), student)
    assert [row[COLUMN] for row in rows[2:]] == ["9.5", "3", "EX", "", ""]
    assert done[student.student].startswith(problem)


def test_students_who_fit_one_row_or_two_are_left_out_and_all_named(found):
    students = ["ada", "S1", "Doe, Jane", "jdoe1", "bob"]
    rows, done = filled(found, CANVAS, *map(record, students))
    assert [row[COLUMN] for row in rows[2:]] == ["", "9.5", "EX", "", ""]
    assert done["ada"] == done["S1"] == done["jdoe1"] == "another student fits the same row"
    assert done["Doe, Jane"] == "several rows fit this name"


def test_students_of_one_name_are_told_apart_by_the_number_in_the_files_of_the_lms(found):
    rows, done = filled(found, CANVAS, record("doejane_105"))
    assert (rows[6][COLUMN], done["doejane_105"]) == ("9.5", "")
    text = MOODLE.replace("=Bob Byron", "Ada Lovelace")
    rows, done = filled(found, text, record("Ada Lovelace_102"), column="Grade")
    assert (rows[1]["Grade"], done["Ada Lovelace_102"]) == ("9.5", "")


@pytest.mark.parametrize(("text", "column"), [(CANVAS, COLUMN), (MOODLE, "Grade")])
@pytest.mark.parametrize("separator", [",", ";"])
def test_only_the_points_change_and_no_cell_is_a_formula(found, text, column, separator):
    before = list(csv.reader(io.StringIO(text, newline="")))
    given = io.StringIO(newline="")
    csv.writer(given, delimiter=separator).writerows(before)
    table, _ = lms.fill(given.getvalue().encode("utf-8-sig"), found, [record("ada")], column)
    after = csv.reader(io.StringIO(table[1:], newline=""), delimiter=separator)
    pairs = [
        (old, new.replace("'=", "="))
        for row, filled_row in zip(before, after, strict=True)
        for old, new in zip(row, filled_row, strict=False)
    ]
    assert [pair for pair in pairs if pair[0] != pair[1]] == [("", "9.5")]


@pytest.mark.parametrize(("text", "column"), [(CANVAS, COLUMN), (MOODLE, "Grade")])
def test_another_maximum_is_an_error(found, text, column):
    text = text.replace(",10,12,", ",10,100,").replace('"12,00"', '"100,00"')
    with pytest.raises(CourseError, match=r"the maximum is 100.* but the assignment has 12 points"):
        filled(found, text, record("ada"), column=column)


def test_the_column_can_be_named_by_a_part_and_must_be_unique(found):
    rows, _ = filled(found, CANVAS, record("ada"), column="09: sums")
    assert rows[2][COLUMN] == "9.5"
    for text, column in (CANVAS, "e"), (CANVAS, "Homework"), ("", "Grade"), ("\udcff\udcfe\0", "x"):
        with pytest.raises(CourseError, match=r"columns contain .*: choose a --column of"):
            filled(found, text, record("ada"), column=column)


@pytest.mark.full
def test_a_graded_class_is_exported(tmp_path):
    folder = sums.course(tmp_path / "course")
    sums.hand_in(folder, "ada", sums.RIGHT)
    with pytest.raises(CourseError, match="09_sums was not graded yet"):
        lms.export(folder, "9", "canvas", CANVAS.encode())
    classroom.grade(folder, NAME)
    summary = lms.export(folder, "9", "canvas", CANVAS.encode())
    first = "grading/09_sums/canvas.csv: 0 filled in, 5 not filled in\n  ada: needs a person\n"
    assert summary.startswith(first)
    sums.give(folder, "ada", "sum-why", 3)
    assert ": 1 filled in, 4" in lms.export(folder, "9", "canvas", CANVAS.encode())
    assert ",7,12,70" in (folder / "grading" / NAME / "canvas.csv").read_text("utf-8")
