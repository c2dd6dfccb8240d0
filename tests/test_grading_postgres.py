"""A class graded with nbgrader's gradebook in PostgreSQL, on a server that the tests start."""

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

pytestmark = [needed, postgres.needed]

DATABASES = itertools.count()
OTHER = "10_more_sums"  # a second assignment of the same course
CLASS = {"right": RIGHT, "wrong": WRONG, "untouched": {}}


@pytest.fixture(scope="module")
def server():
    with postgres.server() as running:
        yield running


@pytest.fixture(scope="module")
def released(server, tmp_path_factory):
    """A course whose two assignments are released into a database called "released"."""
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
    """A copy of the course and of its database."""
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
    """A copy of the course, with what was handed in, that has the gradebook it has by default."""
    folder = Path(shutil.copytree(course, course.parent / "sqlite"))
    shutil.copy(ROOT / release.SETTINGS, folder)
    release.release(folder)
    return folder


@pytest.fixture(autouse=True)
def where_the_settings_say(monkeypatch):
    monkeypatch.setattr(sums, "gradebook", gradebook)


def gradebook(course):
    return Gradebook(CourseDirectory(config=release.settings(course)).db_url, "qlora")


def grade(course, **options):
    return classroom.grade(course, NAME, workers=2, limits=QUICK, **options)


def hand_in_all(course):
    for student, answers in CLASS.items():
        sums.hand_in(course, student, answers)
    sums.hand_in(course, "broken").write_text('{"cells": [', encoding="utf-8")


def seen(records):
    return {record.student: (record.state, record.points, record.messages) for record in records}


# --- the same as with SQLite ----------------------------------------------------------------------


def answers(course):
    """What formgrader's pages ask nbgrader for, without ids and the order that these give."""
    api = NbGraderAPI(config=release.settings(course))
    found = [api.get_assignments(), api.get_submissions(NAME), api.get_notebooks(NAME)]
    found += [api.get_notebook_submissions(NAME, NAME), api.get_students()]
    for student in ("right", "broken"):
        found += [api.get_student_submissions(student)]
        found += [api.get_student_notebook_submissions(student, NAME)]
    return [plain(rows) for rows in found]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in ("id", "index")}
    if isinstance(value, list):
        return sorted((plain(inner) for inner in value), key=str)
    return round(value, 9) if isinstance(value, float) else value


def test_a_class_gets_the_same_grades_and_formgrader_shows_the_same(course):
    hand_in_all(course)
    other = with_sqlite(course)
    ours, theirs = grade(course), grade(other)
    assert seen(ours.records) == seen(theirs.records)
    assert {record.state for record in ours.records} == {GRADED, PERSON, UNGRADABLE}
    assert sums.grades(course) == sums.grades(other)
    assert not (course / "gradebook.db").exists() and (other / "gradebook.db").exists()
    for place in (course, other):
        sums.give(place, "right", "sum-why", 2.5)
    assert answers(course) == answers(other)
    assert sorted(row["score"] for row in answers(course)[1]) == [0.0, 0.0, 6.0, 11.5]


def test_points_by_hand_stay_when_a_mended_test_is_graded_again(course):
    hand_in_all(course)
    grade(course)
    sums.give(course, "right", "sum-why", 2.5)
    solution = course / "solutions" / NAME / f"{NAME}.ipynb"
    text = solution.read_text(encoding="utf-8")
    assert "gives(max(numbers))" in text
    solution.write_text(text.replace("gives(max(numbers))", "gives(min(numbers))"), "utf-8")
    result = grade(course)
    assert result.graded == len(CLASS) + 1
    found = sums.grades(course)
    assert found["right", "sum-why"] == (None, 2.5, False)
    assert found["right", "sum-largest-values"] == (0, None, False)
    assert "right: sum-largest-values 2 → 0" in classroom.publish(course, result)
    assert grade(course).graded == 0


def test_late_ones_are_late(course):
    with gradebook(course) as book:
        book.update_or_create_assignment(NAME, duedate="2026-03-01 12:00:00 UTC")
    path = sums.hand_in(course, "late", RIGHT)
    (path.parent / "timestamp.txt").write_text("2026-03-01 13:00:00 UTC", encoding="utf-8")
    grade(course)
    with gradebook(course) as book:
        assert book.find_submission(NAME, "late").total_seconds_late == 3600


# --- more than one run ----------------------------------------------------------------------------

RUN = """
    import sys
    from pathlib import Path

    from course_utils.grading import classroom
    from tests.sandboxes import QUICK

    done = lambda *_: print("graded", flush=True)
    classroom.grade(Path(sys.argv[1]), sys.argv[2], workers=1, limits=QUICK, progress=done)
    """


def start(course, name=NAME):
    """`course grade` in a process of its own, which prints a line for each submission."""
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
        _, said = run.communicate(timeout=240)
        assert run.returncode == 0, said
    with gradebook(course) as book:
        scores = {
            name: {s.student_id: s.score for s in book.assignment_submissions(name)}
            for name in (NAME, OTHER)
        }
    assert scores[NAME] == scores[OTHER] == {"s0": 6, "s1": 9, "s2": 6, "s3": 9}


def test_another_run_may_make_the_same_student_at_the_same_time(course, monkeypatch):
    """Between nbgrader's look for a student and its making one, another run makes it."""
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


def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_hadn_t_been(server, released, tmp_path):
    killed, whole = (copy(server, released, tmp_path / name) for name in ("killed", "whole"))
    slow = {**RIGHT, "sum-all": f"import time\ntime.sleep(0.5)\n{RIGHT['sum-all']}"}
    for place, n in itertools.product((killed, whole), range(5)):
        sums.hand_in(place, f"s{n}", slow if n % 2 else WRONG)
    run = start(killed)
    assert [run.stdout.readline() for _ in range(2)] == ["graded\n"] * 2
    run.send_signal(signal.SIGKILL)
    run.communicate()
    done = len(list(killed.glob("grading/*/*/*/record.json")))
    assert 2 <= done < 5 and grade(killed).graded == 5 - done
    grade(whole)
    assert sums.grades(killed) == sums.grades(whole)


# --- what a database may refuse -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["s" * 129, os.fsdecode(b"stud\xffent"), "Zoë O'Hara", 'a"b;--', "%s"]
)
def test_no_name_of_a_student_stops_the_others(course, name):
    for student in ("aa", name, "zz"):
        sums.hand_in(course, student, RIGHT)
    found = {record.student: record.state for record in grade(course).records}
    kept = len(name) <= 128 and name.isprintable()
    assert found == {"aa": PERSON, name: PERSON if kept else UNGRADABLE, "zz": PERSON}
    with gradebook(course) as book:
        names = {student.id for student in book.students}
    assert names == found.keys() - (set() if kept else {name})
