"""Test `course grade` on small classes: points, states, repeated and interrupted runs."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from course_utils.machine.validation import CourseError
from tests import interruptible, mutation, sums
from tests.sandboxes import QUICK, needed
from tests.sums import CELLS, NAME, RIGHT, ROOT, WRONG
from tests.waiting import wait_until
from workshop.grading import classroom, read, release, session
from workshop.grading.records import GRADED, PERSON, UNGRADABLE
from workshop.grading.sandbox import bubblewrap

pytestmark = [
    needed,
    # SQLAlchemy warns about objects that nbgrader's own autograding adds later.
    pytest.mark.filterwarnings("ignore:Object of type <Submitted"),
    pytest.mark.xdist_group("classroom"),
]


@pytest.fixture
def course(tmp_path):
    """A course without submissions."""
    return sums.course(tmp_path / "course")


def grade(course, **options):
    return classroom.grade(course, NAME, workers=2, limits=QUICK, **options)


def by_student(result):
    return {record.student: record for record in result.records}


# --- points and states ----------------------------------------------------------------------------


@pytest.mark.full
def test_each_submission_gets_its_state_and_points(course):
    sums.hand_in(course, "right", RIGHT)
    sums.hand_in(course, "wrong", WRONG)
    sums.hand_in(course, "untouched")
    sums.hand_in(course, "broken").write_text('{"cells": [', encoding="utf-8")
    steps = []
    result = grade(course, progress=lambda *step: steps.append(step))
    graded = by_student(result)
    assert {student: record.state for student, record in graded.items()} == {
        "right": PERSON,
        "wrong": PERSON,
        "untouched": GRADED,
        "broken": UNGRADABLE,
    }
    assert [(done, total) for _, done, total in steps] == [(n, 4) for n in range(1, 5)]
    full = dict.fromkeys(CELLS, 1.0) | {cell: 2.0 for cell in CELLS if cell.endswith("values")}
    assert graded["right"].points == full | {"sum-why": None}
    lost = {"sum-squares-form": 0.0, "sum-squares-values": 0.0}
    assert graded["wrong"].points == full | lost | {"sum-why": None}
    assert set(graded["untouched"].points.values()) == {0.0}
    assert graded["broken"].points == {}
    assert len(graded["broken"].reasons) == 1
    message = graded["wrong"].messages["sum-squares-values"]
    assert message.startswith("Not right yet: squares([3, 4, 5])")
    assert set(graded["wrong"].messages) == set(lost)
    assert graded["right"].waiting == ["sum-why"]
    summary = classroom.write_results(course, result)
    assert "4 graded in this run. In total: 1 graded, 2 needs a person, 1 ungradable" in summary
    assert "broken: ungradable, " in summary
    assert "right" in (course / "grading" / NAME / "points.csv").read_text(encoding="utf-8")
    assert "<html" in (course / "grading" / NAME / "report.html").read_text(encoding="utf-8")


@pytest.mark.full
def test_the_gradebook_contains_what_nbgrader_would_write(course):
    for student, answers in {"right": RIGHT, "wrong": WRONG, "untouched": {}}.items():
        sums.hand_in(course, student, answers)
    stock = Path(shutil.copytree(course, course.parent / "stock"))
    grade(course)
    mutation.autograde(stock, NAME, stock=True)
    assert sums.grades(course) == sums.grades(stock)
    assert comments(course) == comments(stock)


def comments(course):
    with sums.gradebook(course) as book:
        return {
            (submission.student_id, comment.name): comment.auto_comment
            for submission in book.assignment_submissions(NAME)
            for notebook in submission.notebooks
            for comment in notebook.comments
        }


@pytest.mark.full
def test_a_release_that_does_not_match_the_solution_is_one_error_and_is_never_written(course):
    sums.hand_in(course, "one", RIGHT)
    path = course / "exercises" / NAME / f"{NAME}.ipynb"
    released = path.read_bytes()
    changed = released.replace(b"Adding", b"Subtracting") + b" "
    for content, problem in (
        (changed, rf"exercises/{NAME}/{NAME}.ipynb differs from what solutions/ generates"),
        (None, f"{NAME} has no release in exercises/"),
    ):
        path.unlink()
        if content:
            path.write_bytes(content)
        with pytest.raises(CourseError, match=f"^{problem}: run `course release {NAME}`$"):
            grade(course)
        assert path.exists() == bool(content)
        path.write_bytes(released)
    assert grade(course).graded == 1


# --- repeated runs --------------------------------------------------------------------------------


@pytest.mark.full
def test_what_was_lost_is_written_again_and_ungradable_submissions_lose_their_points(course):
    path = sums.hand_in(course, "one", RIGHT)
    grade(course)
    kept = sums.grades(course)
    (course / "gradebook.db").unlink()
    with pytest.raises(
        CourseError, match=r"gradebook doesn't have .*: run `course release 09_sums`"
    ):
        grade(course)
    release.release(course, NAME)
    assert grade(course).graded == 1 and sums.grades(course) == kept
    record = course / "grading" / NAME / "records" / "one" / "record.json"
    record.write_text("{", encoding="utf-8")
    assert grade(course).graded == 1 and sums.grades(course) == kept
    path.write_bytes(b"PK\x03\x04 a zip")
    assert by_student(grade(course))["one"].state == UNGRADABLE
    assert {(auto, look) for auto, _, look in sums.grades(course).values()} == {(None, True)}
    page = (course / "autograded" / "one" / NAME / f"{NAME}.ipynb").read_text(encoding="utf-8")
    assert "This submission could not be graded" in page


def change_a_hidden_test(course):
    """Change the test and the solution of sum-largest: now they compare absolute values.

    Of numbers from -9 to 9 and -10, the last has the largest absolute value whatever the seed is.
    """
    path = course / "solutions" / NAME / f"{NAME}.ipynb"
    text = path.read_text(encoding="utf-8")
    before = "check(largest, numbers).gives(max(numbers))"
    assert text.count(before) == 1
    text = text.replace(before, "check(largest, [*numbers, -10]).gives(-10)")
    path.write_text(text.replace("return max(numbers)", "return max(numbers, key=abs)"), "utf-8")


@pytest.mark.full
def test_changes_are_graded_again_and_points_by_hand_are_kept(course):
    wrong = {**RIGHT, "sum-largest": "def largest(n):\n    return 1\n"}
    for student, answers in {"one": RIGHT, "two": wrong, "three": RIGHT}.items():
        sums.hand_in(course, student, answers)
    grade(course)
    for student in ("one", "three"):
        sums.give(course, student, "sum-why", 3)
    sums.give(course, "two", "sum-largest-values", 1)
    sums.hand_in(course, "four", RIGHT)
    result = grade(course)
    assert result.graded == 1 and by_student(result)["one"].state == GRADED
    assert sums.grades(course)["two", "sum-largest-values"] == (0, 1, False)
    # A person has to look again at a changed answer, and at points by hand for another result.
    sums.hand_in(course, "one", {**RIGHT, "sum-why": "Something else."})
    sums.hand_in(course, "two", RIGHT)
    result = grade(course)
    assert result.graded == 2
    assert sums.grades(course)["one", "sum-why"] == (None, 3, True)
    assert by_student(result)["one"].state == PERSON
    assert by_student(result)["one"].points["sum-why"] is None
    assert sums.grades(course)["two", "sum-largest-values"] == (2, 1, True)
    sums.give(course, "two", "sum-largest-values", 1)
    sums.hand_in(course, "two", RIGHT | {"sum-largest": f"{RIGHT['sum-largest']}# better"})
    assert grade(course).graded == 1
    assert sums.grades(course)["two", "sum-largest-values"] == (2, 1, True)
    # After a changed test, everything is graded again.
    change_a_hidden_test(course)
    release.release(course, NAME)
    result = grade(course)
    assert result.graded == 4
    assert sums.grades(course)["three", "sum-why"] == (None, 3, False)
    assert by_student(result)["three"].points["sum-why"] == 3
    assert by_student(result)["three"].state == GRADED
    summary = classroom.write_results(course, result)
    assert "three: sum-largest-values: 2 → 0" in summary


# --- late submissions -----------------------------------------------------------------------------

PLUGIN = """
from nbgrader.plugins import BasePlugin


class OnePoint(BasePlugin):
    def late_submission_penalty(self, student_id, score, total_seconds_late):
        return 1.0 if total_seconds_late else None
"""


@pytest.mark.full
def test_late_submissions_get_the_penalty_of_nbgrader_s_plugin(course, monkeypatch):
    (course / "late_policy.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(course))
    settings = course / release.SETTINGS
    extra = '\nc.AssignLatePenalties.plugin_class = "late_policy.OnePoint"\n'
    settings.write_text(settings.read_text(encoding="utf-8") + extra, encoding="utf-8")
    with sums.gradebook(course) as book:
        book.update_or_create_assignment(NAME, duedate="2026-03-01 12:00:00 UTC")
    for student, hour in {"early": 11, "late": 13}.items():
        path = sums.hand_in(course, student, RIGHT)
        (path.parent / "timestamp.txt").write_text(f"2026-03-01 {hour}:00:00 UTC", encoding="utf-8")
    grade(course)
    with sums.gradebook(course) as book:
        penalties = {
            student: book.find_submission(NAME, student).late_submission_penalty
            for student in ("early", "late")
        }
    assert penalties == {"early": 0, "late": 1}


# --- interrupted and failing runs -----------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_killed_or_stopped_run_the_next_run_grades_the_rest(course, number):
    """A run with one worker is still busy with s2 when it is ended."""
    slow = RIGHT | {"sum-all": f"import time\ntime.sleep(50)\n{RIGHT['sum-all']}"}
    for n in range(5):
        sums.hand_in(course, f"s{n}", slow if n == 2 else WRONG)
    other = Path(shutil.copytree(course, course.parent / "other"))
    run = subprocess.Popen(
        interruptible.python(interruptible.COURSE, "grade", "09", "--workers", "1"),
        cwd=course,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert wait_until(lambda: len(list(course.glob("grading/*/*/*/record.json"))) >= 2)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    output, _ = run.communicate(timeout=120)
    if number == signal.SIGINT:
        assert (run.returncode, "Stopped" in output) == (130, True), output
        assert "Traceback" not in output
    assert len(children) >= 4 and psutil.wait_procs(children, timeout=60)[1] == []
    for folder, left in (course, 3), (other, 5):
        sums.hand_in(folder, "s2", WRONG)
        assert classroom.grade(folder, NAME).graded == left
    assert sums.grades(course) == sums.grades(other)
    assert {p.name for p in course.rglob("*.part")} == set()


@pytest.mark.full
def test_a_submission_that_ends_the_sandbox_is_graded_once_more_and_then_ungradable(
    course, monkeypatch
):
    for student in ("always", "never", "once"):
        sums.hand_in(course, student, RIGHT)
    classroom.grade(course, NAME, workers=1, limits=QUICK)
    sums.give(course, "always", "sum-why", 3)
    calls, real = [], classroom.grade_one

    def grade_one(spec, servers, submission):
        calls.append(submission.student)
        if submission.student == "always" or (
            submission.student == "once" and calls.count("once") == 1
        ):
            raise bubblewrap.SandboxError("the sandbox has ended")
        return real(spec, servers, submission)

    monkeypatch.setattr(classroom, "grade_one", grade_one)
    graded = by_student(classroom.grade(course, NAME, workers=1, limits=QUICK, again=True))
    assert sorted(calls) == ["always", "always", "never", "once", "once"]
    assert graded["never"].state == graded["once"].state == PERSON
    assert graded["always"].state == UNGRADABLE
    assert graded["always"].reasons == ["grading failed: the sandbox has ended"]
    # The next run restores the result, and nobody has to give points again.
    monkeypatch.undo()
    record = by_student(classroom.grade(course, NAME, workers=1, limits=QUICK))["always"]
    assert record.state == GRADED and record.points["sum-why"] == 3


def test_the_run_ends_with_the_reason_if_no_sandbox_can_be_created(course, monkeypatch):
    sums.hand_in(course, "one", RIGHT)

    def no_server(*_, **__):
        raise bubblewrap.SandboxError("no namespaces here")

    monkeypatch.setattr(session, "Server", no_server)
    with pytest.raises(CourseError, match="no namespaces here"):
        grade(course)
    assert not list(course.glob("grading/*/*/*/record.json"))


# --- reading submissions --------------------------------------------------------------------------


def test_files_that_exceed_the_total_limit_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_SIZE", 20)
    for name, content in {
        "a.bin": b"x" * 11,
        "b.bin": b"x" * 11,
        f"{NAME}.ipynb": b"{}" * 100,
    }.items():
        (tmp_path / name).write_bytes(content)
    found = read.read(tmp_path, NAME)
    assert found.notebook == b"{}" * 100 and set(found.files) == {"a.bin"}
    assert found.notes == ("'b.bin' was left out: it is too large (11 B)",)
