"""Test grading with a gradebook in PostgreSQL, on a server that the tests start."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps.api import NbGraderAPI
from nbgrader.coursedir import CourseDirectory

from course_utils.grading import classroom, release
from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE
from tests import assignment, postgres, sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, ROOT, WRONG

pytestmark = [
    needed,
    postgres.needed,
    pytest.mark.full,
    pytest.mark.xdist_group("postgres"),
]

DATABASES = itertools.count()
# A second assignment of the same course.
OTHER = "10_more_sums"
CLASS = {"right": RIGHT, "wrong": WRONG, "untouched": {}}


@pytest.fixture(scope="module")
def server():
    with postgres.server() as running:
        yield running


@pytest.fixture(scope="module")
def released(server, tmp_path_factory):
    """Return a course whose two assignments are released into the database "released"."""
    folder = sums.course(tmp_path_factory.mktemp("released") / "course")
    (folder / "gradebook.db").unlink()
    settings = folder / release.SETTINGS
    line = f'\nc.CourseDirectory.db_url = "{server.make("released")}"\n'
    settings.write_text(settings.read_text(encoding="utf-8") + line, encoding="utf-8")
    assignment.write(folder, name=OTHER)
    release.release(folder)
    return folder


@pytest.fixture
def course(server, released, tmp_path):
    """Return a copy of the course with a copy of its database."""
    return copy(server, released, tmp_path / "course")


def copy(server, released, target):
    name = f"course{next(DATABASES)}"
    url = server.make(name, template="released")
    folder = Path(shutil.copytree(released, target))
    settings = folder / release.SETTINGS
    text = settings.read_text(encoding="utf-8").replace(server.url("released"), url)
    settings.write_text(text, encoding="utf-8")
    return folder


def with_sqlite(course):
    """Return a copy of the course and its submissions, with a gradebook in SQLite."""
    folder = Path(shutil.copytree(course, course.parent / "sqlite"))
    shutil.copy(ROOT / release.SETTINGS, folder)
    release.release(folder)
    return folder


@pytest.fixture(autouse=True)
def helpers_use_postgres(monkeypatch):
    monkeypatch.setattr(sums, "gradebook", gradebook)


def gradebook(course):
    return Gradebook(CourseDirectory(config=release.settings(course)).db_url, "qlora")


def grade(course, **options):
    return classroom.grade(course, NAME, workers=2, limits=QUICK, **options)


def hand_in_all(course):
    for student, answers in CLASS.items():
        sums.hand_in(course, student, answers)
    sums.hand_in(course, "broken").write_text('{"cells": [', encoding="utf-8")


def results(records):
    return {record.student: (record.state, record.points, record.messages) for record in records}


# --- the same as with SQLite ----------------------------------------------------------------------


def formgrader_tables(course):
    """Return what formgrader's pages request from nbgrader, without ids and sorted by content."""
    api = NbGraderAPI(config=release.settings(course))
    tables = [api.get_assignments(), api.get_submissions(NAME), api.get_notebooks(NAME)]
    tables += [api.get_notebook_submissions(NAME, NAME), api.get_students()]
    for student in ("right", "broken"):
        tables += [api.get_student_submissions(student)]
        tables += [api.get_student_notebook_submissions(student, NAME)]
    return [without_ids(rows) for rows in tables]


def without_ids(value):
    if isinstance(value, dict):
        keys = value.keys() - {"id", "index"}
        return {key: without_ids(inner) for key, inner in value.items() if key in keys}
    if isinstance(value, list):
        return sorted((without_ids(inner) for inner in value), key=str)
    return round(value, 9) if isinstance(value, float) else value


def test_grades_and_formgrader_s_tables_equal_those_with_sqlite(course):
    hand_in_all(course)
    other = with_sqlite(course)
    ours, theirs = grade(course), grade(other)
    assert results(ours.records) == results(theirs.records)
    assert {record.state for record in ours.records} == {GRADED, PERSON, UNGRADABLE}
    assert sums.grades(course) == sums.grades(other)
    assert not (course / "gradebook.db").exists() and (other / "gradebook.db").exists()
    for place in (course, other):
        sums.give(place, "right", "sum-why", 2.5)
    assert formgrader_tables(course) == formgrader_tables(other)
    assert sorted(row["score"] for row in formgrader_tables(course)[1]) == [0.0, 0.0, 6.0, 11.5]


def test_points_by_hand_are_kept_when_a_test_has_changed(course):
    hand_in_all(course)
    grade(course)
    sums.give(course, "right", "sum-why", 2.5)
    solution = course / "solutions" / NAME / f"{NAME}.ipynb"
    text = solution.read_text(encoding="utf-8")
    assert "gives(max(numbers))" in text
    solution.write_text(text.replace("gives(max(numbers))", "gives(min(numbers))"), "utf-8")
    result = grade(course)
    assert result.graded == len(CLASS) + 1
    grades = sums.grades(course)
    assert grades["right", "sum-why"] == (None, 2.5, False)
    assert grades["right", "sum-largest-values"] == (0, None, False)
    assert "right: sum-largest-values 2 → 0" in classroom.write_results(course, result)
    assert grade(course).graded == 0


def test_the_gradebook_stores_how_late_a_submission_is(course):
    with gradebook(course) as book:
        book.update_or_create_assignment(NAME, duedate="2026-03-01 12:00:00 UTC")
    path = sums.hand_in(course, "late", RIGHT)
    (path.parent / "timestamp.txt").write_text("2026-03-01 13:00:00 UTC", encoding="utf-8")
    grade(course)
    with gradebook(course) as book:
        assert book.find_submission(NAME, "late").total_seconds_late == 3600


# --- several runs ---------------------------------------------------------------------------------

RUN = """
    import sys
    from pathlib import Path

    from course_utils.grading import classroom

    done = lambda *_: print("graded", flush=True)
    classroom.grade(Path(sys.argv[1]), sys.argv[2], workers=1, progress=done)
    """


def start(course, name=NAME):
    """Start a grading run in another process, which prints a line for each submission."""
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(course), name]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def test_two_assignments_can_be_graded_at_the_same_time(course):
    for n in range(4):
        path = sums.hand_in(course, f"s{n}", RIGHT if n % 2 else WRONG)
        folder = course / "submitted" / f"s{n}" / OTHER
        folder.mkdir()
        shutil.copy(path, folder / f"{OTHER}.ipynb")
    runs = [start(course, name) for name in (NAME, OTHER)]
    for run in runs:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors
    with gradebook(course) as book:
        scores = {
            name: {s.student_id: s.score for s in book.assignment_submissions(name)}
            for name in (NAME, OTHER)
        }
    assert scores[NAME] == scores[OTHER] == {"s0": 6, "s1": 9, "s2": 6, "s3": 9}


def test_another_run_may_add_the_same_student_at_the_same_time(course, monkeypatch):
    """Another run adds the student after nbgrader has found that there is no such student."""
    real, missed = Gradebook.find_student, []

    def find_student(book, student):
        if not missed:
            missed.append(student)
            with gradebook(course) as other:
                other.add_student(student)
            raise MissingEntry(student)
        return real(book, student)

    sums.hand_in(course, "new", RIGHT)
    monkeypatch.setattr(Gradebook, "find_student", find_student)
    (record,) = grade(course).records
    assert missed == ["new"] and record.state == PERSON
    assert sums.grades(course)["new", "sum-all-values"] == (2, None, False)


def test_after_a_killed_run_the_next_run_grades_the_rest(server, released, tmp_path):
    killed, whole = (copy(server, released, tmp_path / name) for name in ("killed", "whole"))
    for folder, n in itertools.product((killed, whole), range(5)):
        sums.hand_in(folder, f"s{n}", RIGHT if n % 2 else WRONG)
    # The run is still busy with the third submission when it is killed.
    slow = RIGHT | {"sum-all": f"import time\ntime.sleep(50)\n{RIGHT['sum-all']}"}
    sums.hand_in(killed, "s2", slow)
    run = start(killed)
    assert [run.stdout.readline() for _ in range(2)] == ["graded\n"] * 2
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert len(list(killed.glob("grading/*/*/*/record.json"))) == 2
    sums.hand_in(killed, "s2", WRONG)
    assert classroom.grade(killed, NAME).graded == 3
    assert classroom.grade(whole, NAME).graded == 5
    assert sums.grades(killed) == sums.grades(whole)


# --- names that a database can't store ------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["s" * 129, os.fsdecode(b"stud\xffent"), "Zoë O'Hara", 'a"b;--', "%s"]
)
def test_an_unusual_name_does_not_affect_other_students(course, name):
    for student in ("aa", name, "zz"):
        sums.hand_in(course, student, RIGHT)
    states = {record.student: record.state for record in grade(course).records}
    storable = len(name) <= 128 and name.isprintable()
    assert states == {"aa": PERSON, name: PERSON if storable else UNGRADABLE, "zz": PERSON}
    with gradebook(course) as book:
        names = {student.id for student in book.students}
    assert names == states.keys() - (set() if storable else {name})
