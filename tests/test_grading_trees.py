"""Test grading with unusual folders: no submission stops the batch.

A tree is a course with two honest students and others, of whom each has one oddity: a name, an
entry of submitted/ that is no folder, a notebook that can't be read, or an obstacle in the place of
a file that grading writes. Every student must get a state and a reason, the honest students must
get their points, and the report and the table of the class must be written.

`QuickSession` replaces the grading session and looks the answers up. Everything else is real:
reading, repairing, nbgrader's gradebook, records, report and table.
"""

import contextlib
import csv
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from markupsafe import escape
from nbgrader.api import Gradebook, InvalidEntry

from course_utils.machine import files
from course_utils.machine.validation import CourseError
from tests import sums
from tests.sandboxes import QUICK
from tests.sums import CELLS, NAME, RIGHT, WRONG
from tests.time_limit import time_limit
from workshop.grading import classroom, grade, read, records, repair, safe_files, save
from workshop.grading.records import GRADED, PERSON, UNGRADABLE, Record
from workshop.grading.sandbox.bubblewrap import SandboxError
from workshop.grading.save import Book

# SQLAlchemy warns about objects that nbgrader's autograding will add later.
pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted")

NOTEBOOK = f"{NAME}.ipynb"
# The first and the last student in the order of grading, with their answers and points.
HONEST = {"honest": RIGHT, "zz honest": WRONG}
FULL = {cell: 2.0 if cell.endswith("values") else 1.0 for cell in CELLS} | {"sum-why": None}
POINTS = {"honest": FULL, "zz honest": FULL | {"sum-squares-form": 0.0, "sum-squares-values": 0.0}}
# What else may happen to a student: the submission can't be read, or the result can't be saved.
LOST, BLOCKED = "lost", "blocked"
# The tests are much faster in memory than on a disk.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
# The user who grades if the tests run as root, because root can read every folder.
UNPRIVILEGED = 65534 if os.geteuid() == 0 else os.geteuid()


# --- entries of a folder --------------------------------------------------------------------------


@contextlib.contextmanager
def user(number):
    """Run the `with` block as another user, which only root can do."""
    before = os.geteuid()
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(before)


def device(path, canary):
    """Create a copy of /dev/zero as root, or a socket as another user."""
    with user(os.getuid()):
        kind = stat.S_IFCHR if os.geteuid() == 0 else stat.S_IFSOCK
        os.mknod(path, kind | 0o666, os.makedev(1, 5))


def nested(path, name, depth):
    with contextlib.chdir(path.parent):
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)


def unreadable(path, canary):
    (path / NAME).mkdir(parents=True)
    shutil.copy(canary / "file.ipynb", path / NOTEBOOK)
    path.chmod(0)


def crowded(path, canary):
    """Create more files than are read, most of which sort before the notebook."""
    for n in range(1_100):
        (path.parent / f"00{n}{'.ipynb' * (n % 2)}").touch()


# Functions that create an entry of a folder. Links lead to the folder `canary`.
CREATE = {
    "file": lambda path, canary: path.write_text("a file", encoding="utf-8"),
    "fifo": lambda path, canary: os.mkfifo(path),
    "socket": lambda path, canary: os.mknod(path, stat.S_IFSOCK | 0o600),
    "device": device,
    "unreadable": unreadable,
    "unwritable": lambda path, canary: path.mkdir(mode=0o500),
    "folder": lambda path, canary: (path / "folder").mkdir(parents=True),
    "dangling link": lambda path, canary: path.symlink_to(canary / "nothing"),
    "link to itself": lambda path, canary: path.symlink_to(path.name),
    "link to folder": lambda path, canary: path.symlink_to(
        canary / "student" if path.parent.name == "submitted" else canary
    ),
    "link to file": lambda path, canary: path.symlink_to(canary / "file.ipynb"),
    "link to device": lambda path, canary: path.symlink_to("/dev/zero"),
    "more nested folders than are read": lambda path, canary: nested(path, "d", 40),
    "a path that is too long for the system": lambda path, canary: nested(path, "d" * 250, 18),
    "crowded": crowded,
}


def create(path, kind, canary):
    """Create an entry of a kind, or a file with these bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(kind) if isinstance(kind, bytes) else CREATE[kind](path, canary)


# --- trees ----------------------------------------------------------------------------------------


@dataclass
class Tree:
    """A course with submissions.

    Attributes:
        course: The course's folder.
        canary: A folder outside of the course, which must not change.
        expected: The points of each student, or LOST, or BLOCKED.
        racing: Functions that change a notebook after its folder was listed, by folder.
    """

    course: Path
    canary: Path
    expected: dict = field(default_factory=lambda: dict(POINTS))
    racing: dict = field(default_factory=dict)

    def hand_in(self, student):
        """Hand in right answers, and return the submission's folder."""
        folder = self.course / "submitted" / student / NAME
        folder.mkdir(parents=True)
        shutil.copy(self.canary / "file.ipynb", folder / NOTEBOOK)
        (folder / "timestamp.txt").write_text("2026-03-01 12:00:00 UTC", encoding="utf-8")
        return folder


# Names of files of grading, options of programs, patterns, devices and unusual characters.
NAMES = (
    *("report.html", "points.csv", "record.json", "records", NAME, "gradebook.db", "timestamp.txt"),
    *("report.html.part", "con", "nul.txt", ".name", "...", "-rf", "*", "[a]", "%s", "{0}", "~"),
    *("$HOME", "a;b", "a|b", "=1+1", "@sum", "'", '"', "<b>", "&amp;", "back\\slash", "a,b"),
    *("n" * 128, "line\nbreak", "tab\tname", " space ", "\x1b[2Jname", "a\u202eb", "\u200b"),
    *("Zoe\u0308", "Zo\u00eb", "\u5f20\u4e09", "a\u2215b", "\U0001f600"),
)
# Names that the gradebook can't store.
UNNAMED = ("n" * 129, "x" * 255, os.fsdecode(b"M\xfcller"), "\udcff")


# Paths relative to the course, in which s stands for the student.
SUBMITTED = f"submitted/s/{NAME}"
AUTOGRADED, RECORDED = f"autograded/s/{NAME}", f"grading/{NAME}/records/s"
ODD_ENTRIES = ("file", "fifo", "socket", "device", "unreadable")
ODD_ENTRIES += tuple(kind for kind in CREATE if "link" in kind)
INSIDE = ("data.bin", "folder/other.ipynb", os.fsdecode(b"folder/folder/\xff"))
BROKEN = (b"", b'{"cells": [', b"\xff\xfe\x00", b"[" * 100_000, b"1", b'{"cells": [1, null]}')
TIMES = (b"", b"\0", b"soon", b"9" * 900, b"0001-01-01 00:00:00 +9999", b"2026-03-01 /proc/kmsg")
ANY = ("file", "fifo", "socket", "dangling link", "link to folder", "unwritable")
FILES = ("fifo", "dangling link", "link to file", "file")
BEST = {"state": GRADED, **vars(Record(NAME, "honest", points={"sum-all-form": 99.0}))}
RECORDS = ("{}", "[" * 100_000, '{"student": 1}', '{"seconds": NaN}', json.dumps(BEST))

# In place of a submission: a path and what is created there.
REPLACED = [
    *((path, kind) for path in ("submitted/s", SUBMITTED) for kind in ODD_ENTRIES),
    *((f"{SUBMITTED}/{NOTEBOOK}", kind) for kind in (*ODD_ENTRIES, "folder", *BROKEN)),
]
# Beside a right notebook or in the place of a file that grading writes, without any effect.
BESIDE = [
    *((f"{SUBMITTED}/{path}", kind) for path in INSIDE for kind in ODD_ENTRIES),
    *((f"{SUBMITTED}/d", kind) for kind in [*CREATE][-3:]),
    *((f"{SUBMITTED}/timestamp.txt", time) for time in TIMES),
    *((f"{AUTOGRADED}/{NOTEBOOK}", kind) for kind in FILES),
    *((f"{AUTOGRADED}/{NOTEBOOK}.part", kind) for kind in (*FILES, "folder")),
    *((f"{AUTOGRADED}/timestamp.txt", kind) for kind in FILES),
    *((f"{RECORDED}/record.json", kind) for kind in (*FILES, *map(str.encode, RECORDS))),
    *((f"{RECORDED}/record.json.part", kind) for kind in (*FILES, "folder")),
]
# In the place of a folder or a file that grading writes, so that the result can't be saved.
OBSTACLES = [
    *((path, kind) for path in ("autograded/s", AUTOGRADED, RECORDED) for kind in ANY),
    *((f"{AUTOGRADED}/{name}", "folder") for name in (NOTEBOOK, "timestamp.txt")),
    (f"{RECORDED}/record.json", "folder"),
]


def honest_tree(folder, released):
    """Create a tree in which only the honest students have handed in."""
    tree = Tree(Path(shutil.copytree(released / "course", folder / "course")), folder / "canary")
    for path in ("file.ipynb", NOTEBOOK, f"student/{NAME}/{NOTEBOOK}"):
        (tree.canary / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(released / "honest.ipynb", tree.canary / path)
    for student in HONEST:
        shutil.copy(released / f"{student}.ipynb", tree.hand_in(student) / NOTEBOOK)
    return tree


def odd_tree(folder, released):
    """Create a tree with one student for each odd entry, and one for each odd name."""
    tree = honest_tree(folder, released)
    for outcome, entries in ((LOST, REPLACED), (FULL, BESIDE), (BLOCKED, OBSTACLES)):
        for path, kind in entries:
            student = f"student {len(tree.expected)}"
            tree.expected[student] = outcome
            if outcome != LOST:
                tree.hand_in(student)
            create(tree.course / re.sub(r"/s\b", f"/{student}", path), kind, tree.canary)
    for name in (*NAMES, *UNNAMED):
        tree.hand_in(name)
        tree.expected[name] = LOST if name in UNNAMED else FULL
    tree.racing = {tree.hand_in("gone"): Path.unlink, tree.hand_in("fifo"): replace_by_fifo}
    tree.expected |= {"gone": LOST, "fifo": LOST}
    # These entries belong to no student: there is no record.
    tree.hand_in(".ipynb_checkpoints")
    tree.hand_in("absent").rename(tree.course / "submitted" / "absent" / "08_other")
    for name, kind in ((".DS_Store", "file"), (".git", "folder"), ("..data", "dangling link")):
        create(tree.course / "submitted" / name, kind, tree.canary)
    return tree


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


# --- grading without running answers --------------------------------------------------------------


class NoServers(contextlib.nullcontext):
    start = close = lambda self: None

    def __enter__(self):
        return self


class QuickSession(contextlib.nullcontext):
    """Replaces the grading session: an answer is right if it is the one in `RIGHT`."""

    def __init__(self, servers, spec, submission, core):
        self.enter_result, self.incidents, self.memory, self._ran = self, [], 0, ""
        self.repair = lambda: repair.repair(submission.notebook, json.loads(spec.release))

    def run(self, source, what=""):
        self._ran += source
        return []

    def check(self, source, what=""):
        error = {"ename": "CheckFailed", "evalue": "", "traceback": ["Not right yet"]}
        is_right = RIGHT[what.rpartition("-")[0]].strip() in self._ran
        return [] if is_right else [{"output_type": "error", **error}]


@pytest.fixture(scope="module")
def released():
    """A folder with the course and the honest notebooks; no test needs the sandbox."""
    folder = Path(tempfile.mkdtemp(prefix="trees-", dir=MEMORY))
    course = sums.course(folder / "course")
    for student, answers in HONEST.items():
        sums.hand_in(course, student, answers).rename(folder / f"{student}.ipynb")
    shutil.rmtree(course / "submitted")
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "GradingSession", QuickSession)
        patch.setattr(grade, "reserved_core", contextlib.nullcontext)
        # Grade once as root to import all modules: other users may not read root's Python.
        run(honest_tree(Path(temporary), folder))
        subprocess.run(["chown", "-R", str(UNPRIVILEGED), str(folder)], check=True)
        yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.fixture
def folder(released):
    """An empty folder; the test runs as a user who isn't root."""
    with user(UNPRIVILEGED):
        path = Path(tempfile.mkdtemp(dir=released))
        yield path
    # Unlike shutil.rmtree, rm can remove deeply nested folders.
    subprocess.run(["rm", "-rf", str(path)], check=True)


def run(tree, **options):
    """Grade and publish a tree; return the result of `classroom.grade`, and the summary."""
    real = os.listdir

    def listdir(path="."):
        names = real(path)
        if change := tree.racing.pop(Path(os.fsdecode(path)), None):
            change(Path(os.fsdecode(path)) / NOTEBOOK)
        return names

    # Reading a FIFO would never end.
    with pytest.MonkeyPatch.context() as patch, time_limit(300):
        patch.setattr(os, "listdir", listdir)
        options |= {"workers": 1, "limits": QUICK, "servers": NoServers}
        result = classroom.grade(tree.course, NAME, **options)
        return result, classroom.write_results(tree.course, result)


def graded(tree):
    """Grade a tree, and fail unless all results are as expected; return how many were graded."""
    result, summary = run(tree)
    found = {record.student: record for record in result.records}
    assert len(found) == len(result.records) and found.keys() == tree.expected.keys()
    folder = tree.course / "grading" / NAME
    assert all(stat.S_ISREG((folder / n).lstat().st_mode) for n in ("report.html", "points.csv"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    # The user of these tests may be unable to read the files of Python's codec "utf-8-sig".
    with (folder / "points.csv").open(encoding="utf-8", newline="") as table:
        assert table.read(1) == "\ufeff"
        rows = {row["student"].removeprefix("'") for row in csv.DictReader(table)}
    for student, outcome in tree.expected.items():
        record, shown = found[student], safe_files.escape_unprintable(student)
        name = " ".join(shown.split())
        assert record.reasons and escape(name[:190]) in page and shown.removeprefix("'") in rows
        if outcome in (LOST, BLOCKED):
            assert record.state == UNGRADABLE and f"  {shown}: ungradable, " in summary, student
        else:
            assert (record.state, record.points) == (PERSON, outcome), student
    return result.graded, [reason for record in result.records for reason in record.reasons]


def is_sentence(reason):
    """Return whether a reason has several words, and no Python names of exceptions."""
    words = re.findall(r"[a-z']{2,}", reason)
    return len(words) >= 4 and not re.search(r"Error\b|Traceback|Errno|\n", reason)


def contents(*folders, without=frozenset()):
    """Return the time and the bytes of all files that don't belong to some students, by path."""
    paths = [
        path for folder in folders for path in folder.rglob("*") if not without & {*path.parts}
    ]
    files = [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]
    return {path: (path.lstat().st_mtime_ns, path.read_bytes()) for path in files}


# --- trees ----------------------------------------------------------------------------------------


@pytest.mark.full
def test_no_folder_stops_the_batch_and_a_second_run_changes_nothing(folder, released):
    tree = odd_tree(folder, released)
    racing, outside = {path.parent.name for path in tree.racing}, contents(tree.canary)
    blocked = {student for student, outcome in tree.expected.items() if outcome == BLOCKED}
    written = tree.course / "autograded", tree.course / f"grading/{NAME}/records"
    assert [reason for reason in graded(tree)[1] if not is_sentence(reason)] == []
    before = sums.grades(tree.course), contents(*written, without=blocked | racing)
    assert len(blocked) <= graded(tree)[0] <= len(blocked | racing)
    assert (sums.grades(tree.course), contents(*written, without=blocked | racing)) == before
    assert contents(tree.canary) == outside, "a file outside of the course changed"


# --- errors that concern one submission -----------------------------------------------------------

# A student who is graded between the two honest students.
ODD = "odd one"


@pytest.fixture
def tree(folder, released):
    """A tree with two honest students, and between them another one with right answers."""
    created = honest_tree(folder, released)
    created.hand_in(ODD)
    created.expected[ODD] = FULL
    return created


def fail_for_one(patch, owner, name, error):
    """Make a function raise an error for one student."""
    real = getattr(owner, name)

    def failing(*arguments, **named):
        # The table of points contains the names of all students, but is no file of this student.
        about = (each for each in arguments if not isinstance(each, bytes))
        if any(ODD in str(getattr(each, "student", each)) for each in about):
            raise error
        return real(*arguments, **named)

    patch.setattr(owner, name, failing)


DENIED = PermissionError(13, "Permission denied", "autograded")
ERRORS = {
    "listing": (read, "list_files", OSError(5, "Input/output error")),
    "reading": (read, "_read_folder", RuntimeError("an error in the course")),
    "grading": (classroom, "grade_one", RecursionError("too deep")),
    "sandbox": (classroom, "grade_one", SandboxError("the sandbox is gone")),
    "nbgrader": (Gradebook, "update_or_create_submission", InvalidEntry("not unique")),
    "database": (save, "_enter_score", TypeError("unsupported type")),
    "full disk": (files, "write_atomically", OSError(28, "No space left on device")),
    "folder": (safe_files, "make_folders", DENIED),
    "late policy": (Book, "_subtract_late_penalty", ZeroDivisionError("division by zero")),
}


@pytest.mark.full
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_concerns_one_submission_and_the_next_run_grades_it(tree, kind):
    with pytest.MonkeyPatch.context() as patch:
        fail_for_one(patch, *ERRORS[kind])
        _, reasons = graded(replace(tree, expected={**POINTS, ODD: LOST}))
    assert not [text for text in reasons if "\n" in text or str(tree.course) in text]
    assert {auto for (s, _), (auto, _, _) in sums.grades(tree.course).items() if s == ODD} <= {None}
    assert graded(tree)[0] == 1


def test_an_error_keeps_points_given_by_hand(tree):
    run(tree)
    sums.give(tree.course, ODD, "sum-why", 3)
    (tree.course / "submitted" / ODD / NAME / "new.txt").touch()
    with pytest.MonkeyPatch.context() as patch:
        fail_for_one(patch, files, "write_atomically", OSError(28, "No space left on device"))
        run(tree)
    assert sums.grades(tree.course)[ODD, "sum-why"] == (None, 3, True)
    run(tree)
    assert sums.grades(tree.course)[ODD, "sum-why"][1] == 3


# --- errors that concern all submissions ----------------------------------------------------------


NO_MEMORY = "there is not enough memory to grade"
UNUSABLE = "the gradebook .* can't be used: "
CLASS_ERRORS = {
    "no submitted": (("submitted", ""), "nothing was handed in"),
    "submitted is unreadable": (("submitted", "unreadable"), "Permission denied"),
    "autograded is a file": (("autograded", "file"), "autograded: it is a file"),
    "grading is a FIFO": (("grading", "fifo"), "grading: it is a FIFO"),
    "assignment is a link": ((f"grading/{NAME}", "link to folder"), "it is a link"),
    "records is unwritable": ((f"grading/{NAME}/records", "unwritable"), "denied"),
    "report is a folder": ((f"grading/{NAME}/report.html", "folder"), "has this name"),
    "gradebook is no database": (("gradebook.db", "file"), UNUSABLE),
    "no memory to grade": ((classroom, "grade_one"), NO_MEMORY),
    "no memory to save": ((Book, "_enter_points"), NO_MEMORY),
}


@pytest.mark.full
@pytest.mark.parametrize("kind", CLASS_ERRORS)
def test_an_error_that_concerns_all_submissions_has_one_line(tree, kind, monkeypatch):
    (owner, name), message = CLASS_ERRORS[kind]
    if isinstance(owner, str):
        path = tree.course / owner
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if name:
            create(path, name, tree.canary)
    else:
        monkeypatch.setattr(owner, name, no_memory)
    with pytest.raises(CourseError, match=message) as caught:
        run(tree)
    assert "\n" not in str(caught.value) and str(tree.course) not in str(caught.value)


def no_memory(*_, **__):
    raise MemoryError


@pytest.mark.full
def test_results_that_were_saved_before_the_disk_was_full_are_kept(tree):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(*_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))

    with pytest.raises(
        CourseError, match=r"results can't be saved in .*: File too large"
    ) as caught:
        try:
            run(tree, progress=fill_disk)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert run(tree)[0].graded == 2


# --- records --------------------------------------------------------------------------------------


CHANGES = [{"student": "honest"}, {"points": {"sum-all-form": "1"}}, {"points": [1]}]
CHANGES += [{"points": {"sum-all-form": 1e308}}, {"messages": {"sum-all-form": None}}, {"more": 1}]
CHANGES += [{"seconds": float("nan")}, {"seconds": -1}, {"memory": 10**400}, {"doubts": [1]}]
# A field that another version doesn't write. In place of a missing seed, everybody would get one.
CHANGES += [{"seed": ...}, {"points": ...}]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_an_invalid_record_is_ignored(tmp_path, changes):
    record = Record(NAME, ODD, doubts=("a reason",), points={"sum-all-form": 1.0})
    record.write(tmp_path)
    assert records.read_all(tmp_path) == [record]
    path = tmp_path / "records" / ODD / "record.json"
    content = {"state": record.state, **vars(record), **changes}
    written = {name: value for name, value in content.items() if value is not ...}
    path.write_text(json.dumps(written), encoding="utf-8")
    assert records.read_all(tmp_path) == []
