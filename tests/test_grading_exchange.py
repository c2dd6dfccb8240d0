"""Test collect.exchange: `nbgrader collect` follows no link, and one bad entry stops no other."""

import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from nbgrader.apps.api import NbGraderAPI
from nbgrader.apps.baseapp import NbGrader
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


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return sums.course(tmp_path_factory.mktemp("released") / "course")


@pytest.fixture
def course(released, tmp_path, monkeypatch):
    """A course with an exchange, in which each account number has a name, as on a real machine."""
    folder = Path(shutil.copytree(released, tmp_path / "course"))
    (folder / "exchange" / "qlora" / "inbound").mkdir(parents=True)
    (folder / "exchange").chmod(0o777)
    monkeypatch.setenv("QLORA_COURSE_EXCHANGE", "exchange")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    names = {ALICE: "alice", BOB: "bob", os.geteuid(): "me"}
    monkeypatch.setattr(exchange, "_account", names.__getitem__)
    monkeypatch.chdir(folder)
    return folder


def submit(course, student, answers=RIGHT, time=NOON, owner=None):
    """Hand in as nbgrader does, and return the folder in the exchange."""
    notebook = sums.hand_in(course, "scratch", answers)
    folder = course / "exchange" / "qlora" / "inbound" / f"{student}+{NAME}+{time}+abc"
    folder.mkdir()
    shutil.move(notebook, folder / notebook.name)
    shutil.rmtree(course / "submitted")
    (folder / TIMESTAMP).write_text("what the student likes")
    (folder / SECRET).write_text(student)
    for path in (folder, *folder.iterdir()):
        if owner:
            os.chown(path, owner, owner)
    return folder


def collect(course, **options):
    """Do what formgrader's button *Collect* does; return the notes on what was left out."""
    app = NbGrader()
    app.initialize([])
    result = NbGraderAPI(app.coursedir, parent=app).collect(NAME, **options)
    assert result["success"], result
    return {
        path.name: lines.splitlines()
        for path in sorted((course / "submitted").iterdir())
        if (lines := _text(path / NAME / LEFT_OUT))
    }


def _text(path):
    return path.read_text() if path.exists() else ""


def kept(course, student):
    return sorted(
        path.relative_to(course / "submitted" / student / NAME).as_posix()
        for path in (course / "submitted" / student / NAME).rglob("*")
        if path.is_file()
    )


@pytest.mark.full
def test_an_honest_submission_is_collected_with_the_time_of_its_entry(course):
    folder = submit(course, "me")
    (folder / "data").mkdir()
    for name in ("data/a.csv", "nbgrader_config.py", ".ipynb_checkpoints"):
        (folder / name).write_text("x")
    assert collect(course) == {}
    assert kept(course, "me") == [f"{NAME}.ipynb", "data/a.csv", SECRET, TIMESTAMP]
    assert _text(course / "submitted" / "me" / NAME / TIMESTAMP) == NOON
    assert _text(course / "submitted" / "me" / NAME / SECRET) == "me"


LINKS = {
    "notebook": (f"{NAME}.ipynb", "solutions/09_sums/09_sums.ipynb"),
    "file": ("notes.txt", "grading/inputs.key"),
    "folder": ("folder", "solutions"),
    "dangling": ("dangling", "nothing"),
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
    assert not any(path.is_symlink() for path in (course / "submitted").rglob("*"))
    texts = [p.read_bytes() for p in (course / "submitted").rglob("*") if p.is_file()]
    assert not any(b"marker" in text or b"BEGIN SOLUTION" in text for text in texts)
    expected = (
        {} if name in (SECRET, TIMESTAMP) else {"me": [f"'{name}' was left out: it is a link"]}
    )
    assert notes == expected


@root_only
def test_files_of_another_account_are_not_collected(course):
    """A hard link to another student's notebook, or a file that somebody put into the folder."""
    other = submit(course, "bob", owner=BOB)
    folder = submit(course, "alice", WRONG, owner=ALICE)
    os.link(other / f"{NAME}.ipynb", folder / "better.ipynb")
    (folder / f"{NAME}.ipynb").unlink()
    os.link(other / f"{NAME}.ipynb", folder / f"{NAME}.ipynb")
    notes = collect(course)["alice"]
    assert kept(course, "alice") == [LEFT_OUT, SECRET, TIMESTAMP]
    assert len(notes) == 2 and all("it belongs to another account" in line for line in notes)


@root_only
def test_nobody_can_hand_in_for_another_account(course):
    submit(course, "alice", RIGHT, NOON, ALICE)
    submit(course, "alice", WRONG, ONE, BOB)
    submit(course, "me", WRONG, NOON, BOB)
    notes = collect(course)
    assert "sum(n * n" in _text(course / "submitted" / "alice" / NAME / f"{NAME}.ipynb")
    assert notes == {
        "alice": [f"'alice+{NAME}+{ONE}' was left out: the account 'bob' handed it in"],
        "me": [f"'me+{NAME}+{NOON}' may be another student's: the account 'bob' handed it in"],
    }


@needed
@pytest.mark.full
def test_in_a_class_of_forty_each_honest_student_has_their_own_work_and_points(course):
    """The class uses both roads, and every attack on them is in it."""
    honest = {f"{road}{n:02}": (RIGHT, WRONG)[n % 2] for road in ("lms", "exc") for n in range(20)}
    entries = {}
    for student, answers in honest.items():
        own = answers | {"sum-why": f"I am {student}."}
        if student.startswith("exc"):
            submit(course, student, own)
            continue
        data = sums.hand_in(course, "scratch", own).read_bytes()
        if student < "lms10":
            entries[f"{student}_{student[3:]}1_9_{NAME}.ipynb"] = data
        else:
            entry = f"{student}_{student[3:]}_assignsubmission_file_/work.zip"
            entries[entry] = zipped((f"work/Copy of {NAME}.ipynb", data), ("work/b.py", b"x = 1"))
    stolen = sums.hand_in(course, "scratch", RIGHT | {"sum-why": "evil"}).read_bytes()
    shutil.rmtree(course / "submitted")
    victims = {f"{name.partition('/')[0]}{NAME}.ipynb": stolen for name in entries}
    evil = {f"made-up{n}_1_{n}_{NAME}.ipynb": stolen for n in range(50)}
    evil |= {f"../{name}": stolen for name in entries} | {"x\\" + name: stolen for name in entries}
    entries["eve_1_2_work.zip"] = zipped(*(entries | victims | evil).items())
    entries |= {f"two_{n}_9_{NAME}.ipynb": stolen for n in (1, 2)}
    entries |= {"lazy_1_9_work.rar": b"Rar!", f"{NAME}.ipynb": stolen}
    archive = course / "downloaded" / NAME / "archive"
    archive.mkdir(parents=True)
    (archive / "submissions.zip").write_bytes(zipped(*entries.items()))
    inbound = course / "exchange" / "qlora" / "inbound"
    (inbound / f"dangling+{NAME}+{NOON}+x").symlink_to("nothing")
    (inbound / f"thief+{NAME}+{NOON}+x").symlink_to(inbound / f"exc00+{NAME}+{NOON}+abc")
    os.mkfifo(inbound / f"aaa+{NAME}+{NOON}+x")
    (inbound / f"zzz+{NAME}+never+x").mkdir()
    app = ZipCollectApp()
    app.initialize([NAME])
    app.start()
    collect(course)
    records = {r.student: r for r in classroom.grade(course, NAME, limits=QUICK).records}
    full = sum(value or 0 for value in records["lms00"].points.values())
    for student, answers in honest.items():
        points = sum(value or 0 for value in records[student].points.values())
        assert points == (full if answers is RIGHT else full - 3), student
        path = course / "autograded" / student / NAME / f"{NAME}.ipynb"
        assert f"I am {student}." in path.read_text(encoding="utf-8")
    others = {"eve", "two_1", "two_2", "lazy", "dangling", "thief", "aaa", "zzz", NOBODY}
    assert records.keys() == {*honest, *others}
    graded = {"two_1", "two_2"}
    assert {s for s in others if records[s].state == UNGRADABLE} == others - graded
    assert all(records[student].reasons for student in others)


def test_only_a_newer_submission_replaces_an_older_one(course):
    submit(course, "me", WRONG)
    collect(course)
    notebook = course / "submitted" / "me" / NAME / f"{NAME}.ipynb"
    newer = submit_again(course, ONE)
    assert collect(course, update=False) == {} and "** 2" in _text(notebook)
    assert collect(course, update=True) == {} and "n * n" in _text(notebook)
    # A bad entry that comes later is noted, and replaces nothing.
    os.mkfifo(newer.parent / f"me+{NAME}+2026-12-01 12:00:00 UTC+x")
    assert list(collect(course, update=True)) == ["me"] and "n * n" in _text(notebook)
    assert len(collect(course, update=True)["me"]) == 1


@root_only
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_an_entry_of_another_account_replaces_nothing_that_was_collected(course, kind):
    """For example what was handed in through a learning management system."""
    mine = sums.hand_in(course, "me", RIGHT)
    kept = shutil.copytree(course / "submitted", course / "kept")
    inbound = submit(course, "me", WRONG, ONE, BOB).parent
    kept.rename(course / "submitted")
    if kind == "fifo":
        shutil.rmtree(inbound / f"me+{NAME}+{ONE}+abc")
        os.mkfifo(inbound / f"me+{NAME}+{ONE}+abc")
    for _ in range(2):
        (line,) = collect(course, update=True)["me"]
        assert line.startswith(f"'me+{NAME}+{ONE}' was left out: ") and "n * n" in _text(mine)


def submit_again(course, time):
    kept = shutil.move(course / "submitted", course / "kept")
    folder = submit(course, "me", RIGHT, time)
    shutil.move(kept, course / "submitted")
    return folder


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (NOON, datetime(2026, 11, 30, 12)),
        ("2026-11-30T12:00:00Z\n", datetime(2026, 11, 30, 12)),
        ("2026-11-30 12:00:00 +3600", datetime(2026, 11, 30, 11)),
        ("2026-11-30 12:00:00.5 America/Port-au-Prince", datetime(2026, 11, 30, 17, 0, 0, 500_000)),
        ("2026-11-30 12:00:00 {zone}", None),
        ("2026-11-30 12:00:00 :{zone}", None),
        ("2026-11-30 12:00:00 ../../../../../../../../{zone}", None),
        ("soon", None),
        ("", None),
        ("9" * 5_000, None),
    ],
)
def test_a_time_is_read_without_opening_a_file(tmp_path, text, time):
    zone = shutil.copy("/usr/share/zoneinfo/Asia/Tokyo", tmp_path / "zone")
    assert parse_time(text.format(zone=zone)) == time
