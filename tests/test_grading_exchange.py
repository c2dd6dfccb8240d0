"""Test collect.exchange: `nbgrader collect` follows no link, and one bad entry stops no other."""

import os
import shutil
from datetime import datetime

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from nbgrader.apps.zipcollectapp import ZipCollectApp

from tests import sums
from tests.classroom import zipped
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, WRONG
from workshop.grading import classroom
from workshop.grading.collect import exchange
from workshop.grading.collect.exchange import parse_time
from workshop.grading.read import LEFT_OUT, NOBODY, SECRET, TIMESTAMP
from workshop.grading.records import UNGRADABLE

pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted")

NOON, ONE = "2026-11-30 12:00:00.000000 UTC", "2026-11-30 13:00:00.000000 UTC"
# Numbers of accounts that don't exist on this machine.
ALICE, BOB = 61_001, 61_002

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course with an exchange, in which each account number has a name, as on a real machine."""
    folder = sums.course(tmp_path / "course")
    (folder / "exchange" / "qlora" / "inbound").mkdir(parents=True)
    (folder / "exchange").chmod(0o777)
    monkeypatch.setenv("QLORA_COURSE_EXCHANGE", "exchange")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    names = {0: "root", ALICE: "alice", BOB: "bob", os.geteuid(): "me"}
    monkeypatch.setattr(exchange, "_account", names.__getitem__)
    monkeypatch.chdir(folder)
    return folder


def submit(course, student, answers=RIGHT, time=NOON, owner=None):
    """Hand in as nbgrader does, and return the folder in the exchange."""
    folder = sums.submit(course, course / "exchange", student, answers, time)
    (folder / TIMESTAMP).write_text("what the student likes")
    (folder / SECRET).write_text(student)
    for path in (folder, *folder.iterdir()):
        if owner:
            os.chown(path, owner, owner)
    return folder


def collect(course, **options):
    """Do what formgrader's button *Collect* does; return the notes on what was left out."""
    result = sums.formgrader().collect(NAME, **options)
    assert result["success"], result
    paths = (course / "submitted").glob(f"*/{NAME}/{LEFT_OUT}")
    return {path.parts[-3]: path.read_text().splitlines() for path in paths}


def collected(course, student):
    """Return the texts of the files that were collected, by path."""
    folder = course / "submitted" / student / NAME
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_an_honest_submission_is_collected_with_the_time_of_its_entry(course):
    folder = submit(course, "me")
    (folder / f"{NAME}.ipynb").rename(folder / f"{NAME} (1).ipynb")
    (folder / "data").mkdir()
    for name in ("data/a.csv", "nbgrader_config.py", ".ipynb_checkpoints", "._a.csv"):
        (folder / name).write_text("x")
    assert collect(course) == {}
    files = collected(course, "me")
    assert "n * n" in files.pop(f"{NAME}.ipynb")
    assert files == {"data/a.csv": "x", SECRET: "me", TIMESTAMP: "2026-11-30 12:00:00 UTC"}


LINKS = {
    "notebook": (f"{NAME}.ipynb", "solutions/09_sums/09_sums.ipynb"),
    "folder": ("folder", "solutions"),
    "secret": (SECRET, "grading/inputs.key"),
    "time": (TIMESTAMP, "/dev/zero"),
}


@pytest.mark.parametrize(("name", "target"), LINKS.values(), ids=LINKS)
def test_no_link_is_followed(course, name, target):
    (course / "grading").mkdir()
    (course / "grading" / "inputs.key").write_text("marker")
    folder = submit(course, "me")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(course / target)
    notes = collect(course)
    texts = collected(course, "me").values()
    assert not any("marker" in text or "BEGIN SOLUTION" in text for text in texts)
    is_noted = name not in (SECRET, TIMESTAMP)
    assert notes == ({"me": [f"'{name}' was left out: it is a link"]} if is_noted else {})


@root_only
def test_files_of_another_account_are_not_collected(course):
    """A hard link to another student's notebook, or a file that somebody put into the folder."""
    other = submit(course, "bob", owner=BOB)
    folder = submit(course, "alice", WRONG, owner=ALICE)
    (folder / f"{NAME}.ipynb").unlink()
    os.link(other / f"{NAME}.ipynb", folder / f"{NAME}.ipynb")
    line = f"'{NAME}.ipynb' was left out: it belongs to another account"
    assert collect(course) == {"alice": [line]}
    assert collected(course, "alice").keys() == {LEFT_OUT, SECRET, TIMESTAMP}


@root_only
def test_nobody_can_hand_in_for_another_account(course):
    """Nor replace what was handed in before, for example through a learning management system."""
    mine = sums.hand_in(course, "me", RIGHT)
    submit(course, "me", WRONG, ONE, BOB)
    submit(course, "alice", RIGHT, NOON, ALICE)
    os.mkfifo(submit(course, "alice", WRONG, ONE, BOB).parent / f"alice+{NAME}+{NOON}+x")
    foreign = f"+{NAME}+{ONE}+abc' was left out: the account 'bob' handed it in"
    for _ in range(2):
        notes = collect(course)
        assert "n * n" in mine.read_text()
        assert "n * n" in collected(course, "alice")[f"{NAME}.ipynb"]
        assert notes["me"] == [f"'me{foreign}"]
        assert len(notes["alice"]) == 2 and f"'alice{foreign}" in notes["alice"]


def test_one_bad_entry_stops_no_other(course, monkeypatch):
    monkeypatch.setattr(exchange.SafeCollect, "check_owner", False)
    inbound = submit(course, "blocked").parent
    submit(course, "me")
    (inbound / f"a+{NAME}+{NOON}+x").symlink_to("nothing")
    (inbound / f"b+{NAME}+{NOON}+x").symlink_to(f"me+{NAME}+{NOON}+abc")
    os.mkfifo(inbound / f"c+{NAME}+{NOON}+x")
    (inbound / f"d+{NAME}+never+x").mkdir()
    (inbound / f"[x]+{NAME}+{NOON}+x").mkdir()
    (course / "submitted" / "blocked").write_text("a file")
    notes = collect(course)
    assert "n * n" in collected(course, "me")[f"{NAME}.ipynb"] and len(notes.pop(NOBODY)) == 2
    reasons = dict.fromkeys("ab", "it is a link, not a folder")
    reasons |= {"c": "it is a FIFO, not a folder", "d": "its time can't be read"}
    assert {name: lines[0].split(": ")[1] for name, lines in notes.items()} == reasons


def test_only_a_newer_submission_replaces_an_older_one(course):
    submit(course, "me", WRONG)
    collect(course)
    submit(course, "me", RIGHT, ONE)
    notebook = course / "submitted" / "me" / NAME / f"{NAME}.ipynb"
    assert collect(course, update=False) == {} and "** 2" in notebook.read_text()
    assert collect(course) == {} and "n * n" in notebook.read_text()


@needed
@pytest.mark.full
def test_each_honest_student_of_a_class_has_their_own_work_and_points(course, monkeypatch):
    """The class uses both roads, and attacks on them are in it."""
    monkeypatch.setattr(exchange.SafeCollect, "check_owner", False)
    honest = {
        f"{road}{n}": (RIGHT, WRONG)[n] for road in ("exc", "canvas", "moodle") for n in (0, 1)
    }
    entries = {f"{NAME}.ipynb": b"{}", "lazy_1_9_work.rar": b"Rar!"}
    for student, answers in honest.items():
        folder = submit(course, student, answers | {"sum-why": f"I am {student}."})
        data = (folder / f"{NAME}.ipynb").read_bytes()
        work = zipped((f"work/Copy of {NAME}.ipynb", data), ("work/b.py", b"x = 1"))
        if student.startswith("canvas"):
            entries[f"{student}_1_9_{NAME}.ipynb"] = data
        elif student.startswith("moodle"):
            entries[f"{student}_2_assignsubmission_file_/w.zip"] = work
        if not student.startswith("exc"):
            shutil.rmtree(folder)
    entries["eve_1_2_work.zip"] = zipped(*entries.items())
    archive = course / "downloaded" / NAME / "archive" / "submissions.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(zipped(*entries.items()))
    app = ZipCollectApp()
    app.initialize([NAME])
    app.start()
    collect(course)
    records = {r.student: r for r in classroom.grade(course, NAME, limits=QUICK).records}
    points = {name: sum(p or 0 for p in record.points.values()) for name, record in records.items()}
    for student, answers in honest.items():
        assert points[student] == points["exc0"] - (0 if answers is RIGHT else 3), student
        path = course / "autograded" / student / NAME / f"{NAME}.ipynb"
        assert f"I am {student}." in path.read_text(encoding="utf-8")
    others = {"eve", "lazy", NOBODY}
    assert {name for name in records if records[name].state == UNGRADABLE} == others
    assert records.keys() == honest.keys() | others and all(records[n].reasons for n in others)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (NOON, datetime(2026, 11, 30, 12)),
        ("2026-11-30 12:00:00 +3600", datetime(2026, 11, 30, 11)),
        ("2026-11-30 12:00:00.5 America/Port-au-Prince", datetime(2026, 11, 30, 17, 0, 0, 500_000)),
        ("2026-11-30 12:00:00 :{zone}", None),
        ("2026-11-30 12:00:00 ../../../../../../../../{zone}", None),
        ("", None),
        ("9" * 5_000, None),
    ],
)
def test_a_time_is_read_without_opening_a_file(tmp_path, text, time):
    zone = shutil.copy("/usr/share/zoneinfo/Asia/Tokyo", tmp_path / "zone")
    assert parse_time(text.format(zone=zone)) == time
