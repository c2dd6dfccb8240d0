"""A class graded: points, states, gradebook; again, after a change, after an interruption."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from course_utils.grading import classroom, marking, release
from course_utils.grading.intake import submissions
from course_utils.grading.results import records
from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE
from course_utils.grading.sandbox import bubblewrap
from course_utils.validation import CourseError
from tests import mutation, sums
from tests.sandboxes import QUICK, needed
from tests.sums import CELLS, NAME, RIGHT, ROOT, WRONG

# SQLAlchemy's, about objects that nbgrader's own autograding adds later
pytestmark = [needed, pytest.mark.filterwarnings("ignore:Object of type <Submitted")]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The course before anything was handed in."""
    return sums.course(tmp_path_factory.mktemp("released") / "course")


@pytest.fixture
def course(released, tmp_path):
    return Path(shutil.copytree(released, tmp_path / "course"))


def grade(course, **options):
    return classroom.grade(course, NAME, workers=2, limits=QUICK, **options)


def by_student(result):
    return {record.student: record for record in result.records}


# --- points and states ----------------------------------------------------------------------------


def test_a_class_is_graded(course):
    sums.hand_in(course, "right", RIGHT)
    sums.hand_in(course, "wrong", WRONG)
    sums.hand_in(course, "untouched")
    sums.hand_in(course, "broken").write_text('{"cells": [', encoding="utf-8")
    told = []
    result = grade(course, progress=lambda *step: told.append(step))
    found = by_student(result)
    assert {student: record.state for student, record in found.items()} == {
        "right": PERSON,
        "wrong": PERSON,
        "untouched": GRADED,
        "broken": UNGRADABLE,
    }
    assert [(done, total) for _, done, total in told] == [(n, 4) for n in range(1, 5)]
    full = dict.fromkeys(CELLS, 1.0) | {cell: 2.0 for cell in CELLS if cell.endswith("values")}
    assert found["right"].points == full | {"sum-why": None}
    lost = {"sum-squares-form": 0.0, "sum-squares-values": 0.0}
    assert found["wrong"].points == full | lost | {"sum-why": None}
    assert set(found["untouched"].points.values()) == {0.0}
    assert set(found["broken"].points.values()) == {None}
    assert "the file is incomplete" in found["broken"].reasons[0]
    assert (
        found["wrong"]
        .messages["sum-squares-values"]
        .startswith("Not right yet: squares([3, 4, 5])")
    )
    assert set(found["wrong"].messages) == set(lost)
    assert found["right"].reasons == (records.by_hand("sum-why"),)


def test_the_gradebook_is_nbgrader_s_own(course):
    """The same grades, comments and marks as nbgrader's autograding writes."""
    for student, answers in {"right": RIGHT, "wrong": WRONG, "untouched": {}}.items():
        sums.hand_in(course, student, answers)
    stock = Path(shutil.copytree(course, course.parent / "stock"))
    grade(course)
    mutation.autograde_as_nbgrader_does(stock, NAME)
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


def test_what_is_ungradable_shows_why_and_has_no_points_of_before(course):
    path = sums.hand_in(course, "one", RIGHT)
    grade(course)
    path.write_bytes(b"PK\x03\x04 a zip")
    record = by_student(grade(course))["one"]
    assert record.state == UNGRADABLE
    assert {(auto, look) for auto, _, look in sums.grades(course).values()} == {(None, True)}
    page = (course / "autograded" / "one" / NAME / f"{NAME}.ipynb").read_text(encoding="utf-8")
    assert "This submission could not be graded" in page


def test_the_report_and_the_table_are_written(course):
    sums.hand_in(course, "right", RIGHT)
    sums.hand_in(course, "broken").write_text("x", encoding="utf-8")
    said = classroom.publish(course, grade(course))
    assert "2 graded now; in all, 1 needs a person, 1 ungradable" in said
    assert "broken: ungradable, " in said
    assert "right" in (course / "grading" / NAME / "points.csv").read_text(encoding="utf-8")
    assert "<html" in (course / "grading" / NAME / "report.html").read_text(encoding="utf-8")


def test_a_name_doesn_t_act_on_the_terminal(course):
    sums.hand_in(course, "\x1b]0;title\x07\u202ename").write_text("x", encoding="utf-8")
    said = classroom.publish(course, grade(course))
    assert "\\x1b]0;title\\x07\\x202ename: ungradable" in said and "\x1b" not in said


def test_a_name_doesn_t_act_where_changes_are_listed(course):
    sums.hand_in(course, "\x1b[2Jname", RIGHT)
    grade(course)
    sums.hand_in(course, "\x1b[2Jname", WRONG)
    said = classroom.publish(course, grade(course))
    assert "\\x1b[2Jname: sum-squares-values 2 → 0" in said and "\x1b" not in said


def test_what_can_t_be_graded_at_all_is_one_sentence(course):
    with pytest.raises(CourseError, match="there is no assignment 12; choose one of: 09_sums"):
        classroom.grade(course, "12")
    with pytest.raises(CourseError, match="nothing was handed in: .*submitted/STUDENT/09_sums"):
        classroom.grade(course, "09")


# --- again, and after a change --------------------------------------------------------------------


def stamps(course):
    files = [*course.glob("autograded/**/*.ipynb"), *course.glob("grading/**/record.json")]
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_second_run_changes_nothing(course):
    sums.hand_in(course, "right", RIGHT)
    sums.hand_in(course, "broken").write_text("x", encoding="utf-8")
    first = grade(course)
    before = stamps(course)
    second = grade(course)
    assert (first.graded, second.graded) == (2, 0) and second.records == first.records
    assert stamps(course) == before and len(before) == 4
    assert grade(course, again=True).graded == 2


def test_only_what_is_new_or_changed_is_graded(course):
    sums.hand_in(course, "one", RIGHT)
    sums.hand_in(course, "two", RIGHT)
    grade(course)
    sums.hand_in(course, "two", WRONG)
    sums.hand_in(course, "three", RIGHT)
    assert grade(course).graded == 2


def test_a_lost_gradebook_or_record_is_made_again(course):
    sums.hand_in(course, "one", RIGHT)
    grade(course)
    kept = sums.grades(course)
    (course / "gradebook.db").unlink()
    assert grade(course).graded == 1 and sums.grades(course) == kept
    (course / "grading" / NAME / "records" / "one" / "record.json").write_text(
        "{", encoding="utf-8"
    )
    assert grade(course).graded == 1 and sums.grades(course) == kept


def mend_a_hidden_test(course):
    """From now on the largest of some numbers is asked for by absolute value."""
    path = course / "solutions" / NAME / f"{NAME}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert text.count("gives(max(numbers))") == 1
    text = text.replace("gives(max(numbers))", "gives(max(numbers, key=abs))")
    path.write_text(text.replace("return max(numbers)", "return max(numbers, key=abs)"), "utf-8")


def test_a_mended_test_is_graded_again_with_manual_points_kept_and_changes_listed(course):
    sums.hand_in(course, "one", RIGHT)
    sums.hand_in(course, "two", {**RIGHT, "sum-largest": "def largest(n):\n    return 1\n"})
    grade(course)
    sums.give(course, "one", "sum-why", 3)
    assert by_student(grade(course))["one"].state == GRADED
    mend_a_hidden_test(course)
    result = grade(course)
    assert result.graded == 2
    assert sums.grades(course)["one", "sum-why"] == (None, 3, False)
    assert by_student(result)["one"].points["sum-why"] == 3
    assert by_student(result)["one"].state == GRADED
    said = classroom.publish(course, result)
    assert "one: sum-largest-values 2 → 0" in said and "two:" not in said


def test_an_answer_that_changed_is_looked_at_again_and_its_points_stay(course):
    sums.hand_in(course, "one", RIGHT)
    grade(course)
    sums.give(course, "one", "sum-why", 3)
    sums.hand_in(course, "one", {**RIGHT, "sum-why": "Something else."})
    record = by_student(grade(course))["one"]
    assert sums.grades(course)["one", "sum-why"] == (None, 3, True)
    assert record.state == PERSON and record.points["sum-why"] is None


def test_points_by_hand_over_a_check_s_stay_unless_the_check_s_change(course):
    sums.hand_in(course, "one", {**RIGHT, "sum-largest": "def largest(n):\n    return 1\n"})
    grade(course)
    sums.give(course, "one", "sum-largest-values", 1)
    grade(course, again=True)
    assert sums.grades(course)["one", "sum-largest-values"] == (0, 1, False)
    sums.hand_in(course, "one", RIGHT)
    grade(course)
    assert sums.grades(course)["one", "sum-largest-values"] == (2, 1, True)


# --- late submissions -----------------------------------------------------------------------------

PLUGIN = """
from nbgrader.plugins import BasePlugin


class OnePoint(BasePlugin):
    def late_submission_penalty(self, student_id, score, total_seconds_late):
        return 1.0 if total_seconds_late else None
"""


def test_a_late_policy_is_nbgrader_s_plugin(course, monkeypatch):
    (course / "late_policy.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(course))
    settings = course / release.SETTINGS
    extra = '\nc.AssignLatePenalties.plugin_class = "late_policy.OnePoint"\n'
    settings.write_text(settings.read_text(encoding="utf-8") + extra, encoding="utf-8")
    with sums.gradebook(course) as book:
        book.update_or_create_assignment(NAME, duedate="2026-03-01 12:00:00 UTC")
    for student, time_ in {
        "early": "2026-03-01 11:00:00 UTC",
        "late": "2026-03-01 13:00:00 UTC",
    }.items():
        path = sums.hand_in(course, student, RIGHT)
        (path.parent / "timestamp.txt").write_text(time_, encoding="utf-8")
    grade(course)
    with sums.gradebook(course) as book:
        penalties = {
            student: book.find_submission(NAME, student).late_submission_penalty
            for student in ("early", "late")
        }
    assert penalties == {"early": 0, "late": 1}


def test_a_late_policy_that_can_t_be_loaded_ends_the_run(course):
    sums.hand_in(course, "one", RIGHT)
    settings = course / release.SETTINGS
    extra = '\nc.AssignLatePenalties.plugin_class = "no_policy.OnePoint"\n'
    settings.write_text(settings.read_text(encoding="utf-8") + extra, encoding="utf-8")
    with pytest.raises(CourseError, match="the late policy .* can't be used: .*no_policy.OnePoint"):
        grade(course)


# --- interrupted ----------------------------------------------------------------------------------

SLOW = {**RIGHT, "sum-all": "import time\ntime.sleep(0.4)\n" + RIGHT["sum-all"]}
RUN = f"""
    import sys
    from course_utils.grading import classroom
    from pathlib import Path

    def progress(*_):
        print(1, flush=True)

    classroom.grade(Path(sys.argv[1]), "{NAME}", workers=1, progress=progress)
    """


def start(course):
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(course)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_hadn_t_been(course):
    for n in range(5):
        sums.hand_in(course, f"s{n}", SLOW if n % 2 else WRONG)
    other = Path(shutil.copytree(course, course.parent / "other"))
    run = start(course)
    assert run.stdout.readline() == "1\n" and run.stdout.readline() == "1\n"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    done = len(list(course.glob("grading/*/*/*/record.json")))
    assert 2 <= done < 5
    assert classroom.grade(course, NAME).graded == 5 - done
    classroom.grade(other, NAME)
    assert sums.grades(course) == sums.grades(other)
    assert {p.name for p in course.rglob("*.part")} == set()


def test_ctrl_c_saves_what_is_done_says_so_and_leaves_nothing(course):
    for n in range(5):
        sums.hand_in(course, f"s{n}", SLOW)
    command = [sys.executable, "-m", "course_utils.cli", "grade", "09", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        command,
        cwd=course,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ends = time.monotonic() + 60
    while not list(course.glob("grading/*/*/*/record.json")) and time.monotonic() < ends:
        time.sleep(0.05)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=30)
    assert (run.returncode, "the same command goes on from there" in said) == (130, True), said
    assert "Traceback" not in said
    assert len(children) >= 4 and psutil.wait_procs(children, timeout=5)[1] == []
    done = len(list(course.glob("grading/*/*/*/record.json")))
    assert 1 <= done < 5 and classroom.grade(course, NAME).graded == 5 - done


@pytest.mark.parametrize("before", [[], [bubblewrap.SandboxError]], ids=["at once", "again"])
def test_where_no_sandbox_can_be_made_any_more_the_run_ends(course, monkeypatch, before):
    sums.hand_in(course, "one", RIGHT)
    faults = iter([*before, bubblewrap.NoSandbox])

    def mark(spec, given):
        raise next(faults)("no namespaces any more")

    monkeypatch.setattr(marking, "mark", mark)
    with pytest.raises(bubblewrap.NoSandbox, match="no namespaces any more"):
        classroom.grade(course, NAME, workers=1, limits=QUICK)
    assert next(faults, None) is None and not list(course.glob("grading/*/*/*/record.json"))


def test_one_that_brings_the_sandbox_down_is_tried_once_more_and_then_reported(course, monkeypatch):
    for student in ("always", "never", "once"):
        sums.hand_in(course, student, RIGHT)
    tried, real = [], marking.mark

    def mark(spec, given):
        tried.append(given.student)
        if given.student == "always" or tried.count("once") == 1 and given.student == "once":
            raise bubblewrap.SandboxError("the sandbox is gone")
        return real(spec, given)

    monkeypatch.setattr(marking, "mark", mark)
    found = by_student(classroom.grade(course, NAME, workers=1, limits=QUICK))
    assert sorted(tried) == ["always", "always", "never", "once", "once"]
    assert found["never"].state == found["once"].state == PERSON
    assert found["always"].state == UNGRADABLE
    assert found["always"].reasons == ("grading failed: the sandbox is gone",)


def test_where_no_sandbox_can_be_made_the_run_ends_with_the_reason(course, monkeypatch):
    sums.hand_in(course, "one", RIGHT)

    def refuse(*_, **__):
        raise bubblewrap.SandboxError("no namespaces here")

    monkeypatch.setattr(marking, "Server", refuse)
    with pytest.raises(CourseError, match="no namespaces here"):
        grade(course)
    assert not list(course.glob("grading/*/*/*/record.json"))


def test_a_server_that_died_is_replaced(course):
    for n in range(3):
        sums.hand_in(course, f"s{n}", RIGHT)

    def progress(record, done, total):
        if done == 1:
            for servers in list(marking._servers.values()):
                for server in servers:
                    server.close()

    result = classroom.grade(course, NAME, workers=1, limits=QUICK, progress=progress)
    assert [record.state for record in result.records] == [PERSON] * 3


def test_one_that_takes_all_processors_doesn_t_slow_its_neighbour(course):
    spin = "import os, time\nfor _ in range(30):\n    if os.fork() == 0:\n        os.setsid()\n"
    spin += "        while True: pass\ntime.sleep(4)\n"
    slow = "import time\ndef burn():\n    end = time.process_time() + 0.1\n"
    slow += "    while time.process_time() < end: pass\n"
    work = RIGHT["sum-all"].replace("    return", "    burn()\n    return")
    sums.hand_in(course, "hog", {"sum-all": spin + RIGHT["sum-all"]})
    sums.hand_in(course, "slow", RIGHT | {"sum-all": slow + work})
    found = by_student(grade(course))
    assert not found["slow"].incidents, found["slow"]
    assert found["slow"].points["sum-all-values"] == 2, found["slow"].messages


# --- what was handed in ---------------------------------------------------------------------------


def given(tmp_path, **files):
    folder = tmp_path / "submitted" / "s" / NAME
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_notebook_under_another_name_is_found(tmp_path):
    folder = given(tmp_path, **{"Copy of 09_sums (1).ipynb": b"{}", "notes.ipynb": b"x"})
    found = submissions.read(folder, NAME)
    assert found.notebook == b"{}" and found.files == {"notes.ipynb": b"x"}
    assert found.notes == ("the notebook's file name was 'Copy of 09_sums (1).ipynb'",)


def test_without_a_notebook_it_says_what_was_there(tmp_path):
    found = submissions.read(given(tmp_path, **{"answers.pdf": b"%PDF"}), NAME)
    assert found.notebook is None
    assert found.fault == "there is no 09_sums.ipynb: 'answers.pdf' was handed in"


def test_two_notebooks_of_which_neither_has_the_name_aren_t_chosen_from(tmp_path):
    found = submissions.read(given(tmp_path, **{"a.ipynb": b"{}", "b.ipynb": b"{}"}), NAME)
    assert found.notebook is None and "'a.ipynb', 'b.ipynb'" in found.fault


def test_links_and_odd_files_are_left_out(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("canary", encoding="utf-8")
    folder = given(tmp_path, **{"09_sums.ipynb": b"{}"})
    (folder / "soft.txt").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    found = submissions.read(folder, NAME)
    assert found.notebook == b"{}" and found.files == {}
    assert found.notes == (
        "'folder' was left out: it is a link",
        "'pipe' was left out: it is no regular file",
        "'soft.txt' was left out: it is a link",
    )


def test_a_hard_link_is_a_file_like_others(tmp_path):
    folder = given(tmp_path, **{"09_sums.ipynb": b"{}"})
    os.link(folder / "09_sums.ipynb", tmp_path / "backup.ipynb")
    assert submissions.read(folder, NAME).notebook == b"{}"


def test_folders_in_folders_end_somewhere(tmp_path):
    place = given(tmp_path, **{"09_sums.ipynb": b"{}"})
    try:
        with contextlib.chdir(place):
            for _ in range(1_500):
                os.mkdir("d")
                os.chdir("d")
            (Path() / "deep.txt").write_text("x", encoding="utf-8")
        found = submissions.read(place, NAME)
    finally:
        subprocess.run(["rm", "-r", str(place)], check=True)  # Python's rmtree can't, nor pytest's
    assert found.notebook == b"{}" and found.files == {}


def test_very_many_files_are_not_all_read(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "MAX_FILES", 10)
    names = {f"{n:03}.txt": b"x" for n in range(50)}
    assert len(submissions.read(given(tmp_path, **names, **{"0.ipynb": b"{}"}), NAME).files) < 10


def test_the_notebook_is_found_among_very_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "MAX_FILES", 10)
    names = {f"0{n}.ipynb": b"x" for n in range(50)}
    found = submissions.read(given(tmp_path, **names, **{"09_sums.ipynb": b"{}"}), NAME)
    assert found.notebook == b"{}" and len(found.files) == 9
    assert found.notes == ("only the first 10 of 51 files were read",)


def test_other_notebooks_are_files_like_others_and_take_no_memory(tmp_path):
    folder = given(tmp_path, **{"09_sums.ipynb": b"{}"})
    for n in range(20):
        with (folder / f"{n}.ipynb").open("wb") as file:
            file.truncate(30_000_000)  # which take no room on the disk
    found = submissions.read(folder, NAME)
    assert found.notebook == b"{}" and sum(map(len, found.files.values())) <= submissions.MAX_SIZE


def test_a_folder_in_place_of_the_notebook_is_named(tmp_path):
    folder = given(tmp_path)
    (folder / "09_sums.ipynb").mkdir()
    (folder / "09_sums.ipynb" / "inner.txt").touch()
    assert submissions.read(folder, NAME).fault == (
        "there is no 09_sums.ipynb: nothing was handed in; "
        "'09_sums.ipynb' was left out: it is a folder"
    )


@pytest.mark.parametrize(
    ("student", "why"), [("M\udcfcller", "isn't valid UTF-8"), ("s" * 129, "longer than 128")]
)
def test_a_name_that_the_gradebook_can_t_take_is_reported(course, student, why):
    sums.hand_in(course, student, RIGHT)
    sums.hand_in(course, "one", RIGHT)
    result = grade(course)
    found = by_student(result)
    assert found["one"].state == PERSON
    assert found[student].state == UNGRADABLE and why in found[student].reasons[0]
    assert classroom.publish(course, result).encode()
    assert {name for name, _ in sums.grades(course)} == {"one"}


@pytest.mark.parametrize("what", ["notebook", "folder", "student"])
def test_a_link_in_place_of_the_work_is_refused(tmp_path, what):
    real = given(tmp_path / "real", **{"09_sums.ipynb": b"{}"})
    folder = tmp_path / "submitted" / "s" / NAME
    places = {"notebook": folder / "09_sums.ipynb", "folder": folder, "student": folder.parent}
    targets = {"notebook": real / "09_sums.ipynb", "folder": real, "student": real.parent}
    places[what].parent.mkdir(parents=True)
    places[what].symlink_to(targets[what])
    found = submissions.read(folder, NAME)
    assert found.notebook is None and "link" in found.fault


def test_files_that_are_too_large_together_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "MAX_SIZE", 20)
    files = {"a.bin": b"x" * 11, "b.bin": b"x" * 11, "09_sums.ipynb": b"{}" * 100}
    found = submissions.read(given(tmp_path, **files), NAME)
    assert found.notebook == b"{}" * 100 and set(found.files) == {"a.bin"}
    assert found.notes == ("'b.bin' was left out: it is too large (11 B)",)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = records.Record(
        "09_sums", "s\udcff", GRADED, ("\ud800",), points={"a": None, "b": 1.5}, memory=3
    )
    record.write(tmp_path)
    assert records.read_all(tmp_path) == [record]
    other = tmp_path / "records" / "other" / "record.json"
    other.parent.mkdir()
    other.write_text(json.dumps({"student": 1}), encoding="utf-8")
    assert records.read_all(tmp_path) == [record]
