"""Test grading with random folders of submissions: no submission stops the batch.

A tree is a course with two honest students and several odd ones. Each odd student has an odd name,
an entry of submitted/ that is no folder, a notebook that can't be read, or an obstacle in the place
of a file that grading writes. In each tree every student gets a state and a reason, the honest
students get their points, and the report and the table of the class are written.

Only a few trees run the answers. In all others, `QuickSession` replaces the grading session and
looks the answers up. Everything else is real: reading, repairing, nbgrader's gradebook, records,
report and table.
"""

import contextlib
import csv
import json
import os
import random
import re
import resource
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markupsafe import escape
from nbgrader.api import Gradebook, InvalidEntry

from course_utils.machine import files
from course_utils.machine.validation import CourseError
from tests import sums
from tests.sandboxes import QUICK, needed
from tests.sums import CELLS, NAME, RIGHT, WRONG
from tests.time_limit import time_limit
from workshop.grading import autograde, classroom, read, records, repair, safe_files, save
from workshop.grading.records import GRADED, PERSON, UNGRADABLE, Record
from workshop.grading.sandbox.bubblewrap import SandboxError
from workshop.grading.save import Book
from workshop.grading.spec import Submission

# SQLAlchemy warns about objects that nbgrader's autograding will add later.
pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted")

# The first and the last student in the order of grading.
HONEST = {"honest": RIGHT, "zz honest": WRONG}
FULL = {cell: 2.0 if cell.endswith("values") else 1.0 for cell in CELLS}
LOST = {"sum-squares-form": 0.0, "sum-squares-values": 0.0}
POINTS = {"honest": FULL, "zz honest": FULL | LOST}
# The tests are much faster in memory than on a disk.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
# The user who grades if the tests run as root, because root can read every folder.
UNPRIVILEGED = 65534


# --- entries of a folder --------------------------------------------------------------------------

ENTRIES = ("file", "fifo", "socket", "device", "unreadable")
ENTRIES += ("dangling link", "link to itself", "link to folder", "link to file", "link to device")


def create(path, kind, canary):
    """Create an entry of a folder; links lead to the folder `canary`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    links = {
        "dangling link": canary / "nothing",
        "link to itself": path.name,
        "link to folder": canary / "student" if path.parent.name == "submitted" else canary,
        "link to file": canary / "file.ipynb",
        "link to device": "/dev/zero",
    }
    if kind in links:
        path.symlink_to(links[kind])
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "device":
        create_device(path)
    elif kind == "unreadable":
        path.mkdir()
        shutil.copy(canary / "file.ipynb", path / f"{NAME}.ipynb")
        (path / NAME).mkdir()
        path.chmod(0)
    elif kind == "unwritable":
        path.mkdir(mode=0o500)
    elif kind == "folder":
        (path / "folder").mkdir(parents=True)
    else:
        path.write_text("a file", encoding="utf-8")


def create_device(path):
    """Create a copy of /dev/zero as root, or a socket as another user."""
    try:
        with user(os.getuid()):
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        os.mknod(path, stat.S_IFSOCK | 0o600)


@contextlib.contextmanager
def user(number):
    """Run the `with` block as another user, which only root can do."""
    before = os.geteuid()
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(before)


# --- trees ----------------------------------------------------------------------------------------


@dataclass
class Tree:
    """A course with submissions.

    Attributes:
        course: the course's folder.
        canary: a folder outside of the course, which must not change.
        full: the students who get all points.
        lost: the students whose submissions are ungradable.
        blocked: the students who are ungradable because their results can't be saved.
        racing: functions that change a folder while it is read, by folder.
        kinds: descriptions of what is odd in the tree.
    """

    course: Path
    canary: Path
    full: set = field(default_factory=set)
    lost: set = field(default_factory=set)
    blocked: set = field(default_factory=set)
    racing: dict = field(default_factory=dict)
    kinds: list = field(default_factory=list)

    def folder(self, student):
        return self.course / "submitted" / student / NAME

    def hand_in(self, student):
        """Hand in right answers, and return the submission's folder."""
        folder = self.folder(student)
        folder.mkdir(parents=True)
        shutil.copy(self.canary / "file.ipynb", folder / f"{NAME}.ipynb")
        return folder

    @property
    def students(self):
        return self.full | self.lost | self.blocked | set(HONEST)


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
# Entries that belong to no student.
HIDDEN, CHECKPOINTS = (".DS_Store", ".git", "..data"), ".ipynb_checkpoints"


def student_is(kind):
    def make(tree, student, draw):
        create(tree.course / "submitted" / student, kind, tree.canary)
        # Hidden entries are ignored unless they contain a submission.
        if not student.startswith(".") or kind == "link to folder":
            tree.lost.add(student)

    return make


def assignment_is(kind):
    def make(tree, student, draw):
        create(tree.folder(student), kind, tree.canary)
        tree.lost.add(student)

    return make


def notebook_is(kind):
    def make(tree, student, draw):
        path = tree.folder(student) / f"{NAME}.ipynb"
        create(path, kind, tree.canary)
        tree.lost.add(student)

    return make


def notebook_contains(data):
    def make(tree, student, draw):
        tree.folder(student).mkdir(parents=True)
        (tree.folder(student) / f"{NAME}.ipynb").write_bytes(data)
        tree.lost.add(student)

    return make


def beside(kind):
    """Create an entry beside a right notebook, at a random depth."""

    def make(tree, student, draw):
        folder = tree.hand_in(student)
        for _ in range(draw.randrange(3)):
            folder = folder / "folder"
        name = draw.choice(["data.bin", "other.ipynb", os.fsdecode(b"\xff")])
        create(folder / name, kind, tree.canary)
        tree.full.add(student)

    return make


def nested_folders(name, depth):
    """Create folders inside folders beside a right notebook."""

    def make(tree, student, draw):
        folder = os.open(tree.hand_in(student), os.O_DIRECTORY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=folder)
            outer, folder = folder, os.open(name, os.O_DIRECTORY, dir_fd=folder)
            os.close(outer)
        os.close(folder)
        tree.full.add(student)

    return make


def crowded(tree, student, draw):
    """Create more files than are read, most of which sort before the notebook."""
    folder = tree.hand_in(student)
    for n in range(1_100):
        (folder / f"00{n}{draw.choice(['', '.ipynb'])}").touch()
    tree.full.add(student)


def odd_time(tree, student, draw):
    """Hand in an invalid timestamp, or one whose time zone is the path of a file."""
    texts = ["", "\0", "soon", "9" * 900]
    texts += ["0001-01-01 00:00:00 +9999", "2026-03-01 12:00:00 /proc/kmsg"]
    (tree.hand_in(student) / "timestamp.txt").write_text(draw.choice(texts), encoding="utf-8")
    tree.full.add(student)


def vanishes(tree, student, draw):
    """Remove or replace the notebook after its folder was listed."""
    tree.racing[tree.hand_in(student)] = draw.choice([Path.unlink, replace_by_fifo])
    tree.lost.add(student)


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def hidden(tree, student, draw):
    """Create entries of submitted/ that belong to no student."""
    for name in HIDDEN:
        path = tree.course / "submitted" / name
        if not os.path.lexists(path):
            # Root can read an unreadable folder and would find the submission in it.
            unreadable = "folder" if os.geteuid() == 0 else "unreadable"
            kind = draw.choice(["file", "fifo", "dangling link", unreadable, "folder"])
            create(path, kind, tree.canary)
    if not os.path.lexists(tree.course / "submitted" / CHECKPOINTS):
        tree.hand_in(CHECKPOINTS)


def absent(tree, student, draw):
    """Hand in another assignment only."""
    tree.hand_in(student).rename(tree.folder(student).with_name("08_other"))


def honest(tree, student, draw):
    """Hand in right answers; only the student's name may be odd."""
    tree.hand_in(student)
    tree.full.add(student)


BROKEN = {
    "empty": b"",
    "cut off": b'{"cells": [',
    "not UTF-8": b"\xff\xfe\x00",
    "nested": b"[" * 100_000,
    "a number": b"1",
    "cells that are no cells": b'{"cells": [1, null]}',
}
SUBMISSIONS = {
    **{f"student is {kind}": student_is(kind) for kind in ENTRIES},
    **{f"assignment is {kind}": assignment_is(kind) for kind in ENTRIES},
    **{f"notebook is {kind}": notebook_is(kind) for kind in (*ENTRIES, "folder")},
    **{f"notebook contains {name}": notebook_contains(data) for name, data in BROKEN.items()},
    **{f"beside is {kind}": beside(kind) for kind in ENTRIES},
    "more nested folders than are read": nested_folders("d", 40),
    "a path that is too long for the system": nested_folders("d" * 250, 18),
    "crowded": crowded,
    "odd time": odd_time,
    "vanishes": vanishes,
    "hidden": hidden,
    "absent": absent,
}

# The entries that may be in the place of a file or folder that grading writes for a student, by
# relative path, and those of them that block the result.
ANY = ("file", "fifo", "socket", "dangling link", "link to folder", "unwritable")
FILES = ("folder", "fifo", "dangling link", "link to file", "file")
TARGETS = {
    "autograded/{student}": (ANY, ANY),
    f"autograded/{{student}}/{NAME}": (ANY, ANY),
    f"autograded/{{student}}/{NAME}/{NAME}.ipynb": (FILES, ("folder",)),
    f"autograded/{{student}}/{NAME}/{NAME}.ipynb.part": (FILES, ()),
    f"autograded/{{student}}/{NAME}/timestamp.txt": (FILES, ("folder",)),
    f"grading/{NAME}/records/{{student}}": (ANY, ANY),
    f"grading/{NAME}/records/{{student}}/record.json": (FILES, ("folder",)),
    f"grading/{NAME}/records/{{student}}/record.json.part": (FILES, ()),
}
RECORDS = (
    "{}",
    "[" * 100_000,
    '{"student": 1}',
    json.dumps({"state": GRADED, **vars(Record(NAME, "honest", points={"sum-all-form": 99.0}))}),
    json.dumps({"state": GRADED, **vars(Record("08_other", "honest"))}),
    '{"seconds": NaN}',
)


def obstacle(path, kind):
    """Create an entry in the place of a file that grading writes for a student."""

    def make(tree, student, draw):
        folder = tree.hand_in(student)
        (folder / "timestamp.txt").write_text("2026-03-01 12:00:00 UTC", encoding="utf-8")
        target = tree.course / path.format(student=student)
        create(target, kind, tree.canary)
        if kind == "file" and target.name == "record.json":
            target.write_text(draw.choice(RECORDS), encoding="utf-8")
        (tree.blocked if kind in TARGETS[path][1] else tree.full).add(student)

    return make


OBSTACLES = {
    f"{kind} in the place of {path}": obstacle(path, kind)
    for path, (kinds, _) in TARGETS.items()
    for kind in kinds
}


def create_canary(folder, released):
    """Create a folder outside of the course, to which links lead."""
    folder.mkdir()
    notebook = released / "right.ipynb"
    shutil.copy(notebook, folder / "file.ipynb")
    for path in (folder, folder / "student" / NAME):
        path.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebook, path / f"{NAME}.ipynb")
    return folder


def honest_tree(folder, released):
    """Create a tree in which only the honest students have handed in."""
    course = Path(shutil.copytree(released / "course", folder / "course"))
    for student in HONEST:
        path = course / "submitted" / student / NAME
        path.mkdir(parents=True)
        shutil.copy(released / f"{student}.ipynb", path / f"{NAME}.ipynb")
    return Tree(course, create_canary(folder / "canary", released))


def random_tree(folder, released, seed, without="no kind"):
    """Create a random tree with three to eight odd students.

    Args:
        folder: the tree's folder.
        released: the folder of the fixture `released`.
        seed: the seed of the random numbers.
        without: a regular expression of kinds that the tree must not contain.
    """
    draw, tree = random.Random(seed), honest_tree(folder, released)
    count = draw.randint(3, 8)
    names = draw.sample(NAMES, count) + draw.sample(UNNAMED, 1)
    for n in range(count):
        student = names[n] if draw.random() < 0.5 else f"s{n}"
        kinds = {**SUBMISSIONS, **OBSTACLES, "name": honest}
        kind = draw.choice([kind for kind in kinds if not re.search(without, kind)])
        kinds[kind](tree, student, draw)
        tree.kinds += [kind, *([f"name {student!r}"] if student == names[n] else [])]
    if draw.random() < 0.3:
        tree.hand_in(names[-1])
        tree.lost.add(names[-1])
        tree.kinds.append(f"name {names[-1]!r}")
    return tree


# --- grading without running answers --------------------------------------------------------------


class QuickSession:
    """Replaces the grading session: an answer is right if it is the one in `RIGHT`."""

    def __init__(self, *_):
        self.incidents, self.memory, self._ran = [], 0, ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def repair(self, data, release):
        return repair.repair(repair.load(data), json.loads(release))

    def run(self, source, what=""):
        self._ran += source
        return []

    def check(self, source, what=""):
        if RIGHT[what.rpartition("-")[0]].strip() in self._ran:
            return []
        error = {"ename": "CheckFailed", "evalue": "", "traceback": ["Not right yet"]}
        return [{"output_type": "error", **error}]


@pytest.fixture
def quick():
    """Grade without a sandbox."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograde, "GradingSession", QuickSession)
        patch.setattr(autograde, "servers", lambda paper: (None, None))
        patch.setattr(autograde, "reserved_core", contextlib.nullcontext)
        yield


@pytest.fixture(scope="module")
def released():
    """A folder with the course and the honest notebooks, which the unprivileged user can read."""
    folder = Path(tempfile.mkdtemp(prefix="trees-", dir=MEMORY))
    course = sums.course(folder / "course")
    for student, answers in {**HONEST, "right": RIGHT}.items():
        path = sums.hand_in(course, student, answers)
        path.rename(folder / f"{student}.ipynb")
        shutil.rmtree(course / "submitted")
    if os.geteuid() == 0:
        import_all(folder)
        subprocess.run(["chown", "-R", str(UNPRIVILEGED), str(folder)], check=True)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def import_all(released):
    """Grade once as root to import all modules, because other users may not read root's Python."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            autograde, "grade", lambda *arguments: autograde.ungradable(*arguments, "a reason")
        )
        patch.setattr(autograde, "servers", lambda paper: (None, None))
        run(honest_tree(Path(folder), released))


@pytest.fixture
def folder(released):
    """An empty folder; the test runs as a user who isn't root."""
    with user(UNPRIVILEGED if os.geteuid() == 0 else os.geteuid()):
        path = Path(tempfile.mkdtemp(dir=released))
        yield path
    # Unlike shutil.rmtree, rm can remove deeply nested folders.
    subprocess.run(["rm", "-rf", str(path)], check=True)


@contextlib.contextmanager
def changing_folders(tree):
    """Change the entries of `tree.racing` as soon as their folder was listed."""
    real = os.listdir

    def listdir(path="."):
        names = real(path)
        if change := tree.racing.pop(Path(os.fsdecode(path)), None):
            change(Path(os.fsdecode(path)) / f"{NAME}.ipynb")
        return names

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        yield


def run(tree):
    """Grade and publish a tree; return the result of `classroom.grade`, and the summary."""
    # Reading a FIFO would never end.
    with changing_folders(tree), time_limit(300):
        result = classroom.grade(tree.course, NAME, workers=1, limits=QUICK)
        return result, classroom.write_results(tree.course, result)


# --- problems of a result -------------------------------------------------------------------------


def problems(tree):
    """Grade a tree twice and return all problems, one line each."""
    racing = {path.parent.name for path in tree.racing}
    outside = contents(tree.canary)
    result, summary = run(tree)
    lines = [*result_problems(tree, result), *published_problems(tree, summary)]
    stable = tree.blocked | racing
    saved = {path: path.lstat().st_mtime_ns for path in saved_files(tree, stable)}
    points = sums.grades(tree.course)
    again, _ = run(tree)
    if not len(tree.blocked) <= again.graded <= len(stable):
        lines.append(f"the second run grades {again.graded}, not {len(tree.blocked)}")
    if comparable(again.records, racing) != comparable(result.records, racing):
        lines.append("the second run changes records")
    if sums.grades(tree.course) != points:
        lines.append("the second run changes the gradebook")
    if {path: path.lstat().st_mtime_ns for path in saved} != saved:
        lines.append("the second run writes files again")
    if contents(tree.canary) != outside:
        lines.append("a file outside of the course changed")
    return lines


def result_problems(tree, result):
    """Yield the problems of the records of a run."""
    records = {record.student: record for record in result.records}
    if len(records) < len(result.records) or records.keys() != tree.students:
        yield f"the records belong to {sorted(r.student for r in result.records)}"
    for student, record in records.items():
        expected = UNGRADABLE if student in tree.lost | tree.blocked else PERSON
        is_explained = record.reasons and all(map(is_sentence, record.reasons))
        if record.state != expected or not is_explained:
            yield f"{student!r} is {record.state}: {record.reasons}"
    for student, points in {**dict.fromkeys(tree.full, FULL), **POINTS}.items():
        if student in records and records[student].points != points | {"sum-why": None}:
            yield f"{student!r} has {records[student].points}"


def is_sentence(reason):
    """Return whether a reason has several words, and no Python names of exceptions."""
    words = re.findall(r"[a-z']{2,}", reason)
    return len(words) >= 4 and not re.search(r"Error\b|Traceback|Errno|\n", reason)


def published_problems(tree, summary):
    """Yield the problems of the class's two files and of the summary."""
    folder = tree.course / "grading" / NAME
    for name in ("report.html", "points.csv"):
        if not stat.S_ISREG((folder / name).lstat().st_mode):
            yield f"{name} is not a regular file"
    page = (folder / "report.html").read_text(encoding="utf-8")
    with (folder / "points.csv").open(encoding="utf-8-sig", newline="") as table:
        rows = [row["student"] for row in csv.DictReader(table)]
    names = [" ".join(escaped(student).split()) for student in tree.students]
    formula = ("=", "+", "-", "@")
    if sorted(rows) != sorted(f"'{name}" if name.startswith(formula) else name for name in names):
        yield f"points.csv has the rows {rows}"
    yield from (f"report.html lacks {n!r}" for n in names if escape(n[:190]) not in page)
    for student in tree.lost | tree.blocked:
        if f"  {escaped(student)}: ungradable, " not in summary:
            yield f"the summary lacks {student!r}"


def escaped(name):
    """Return a name with escape sequences for unprintable characters."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


def contents(folder):
    """Return the modes, times and bytes of all files in a folder, by path."""
    files = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        files[path] = (info.st_mode, info.st_mtime_ns, data)
    return files


def saved_files(tree, without):
    """Yield the files that grading has written for all students but some."""
    patterns = (f"autograded/*/{NAME}/{NAME}.ipynb", "grading/*/**/record.json")
    for path in (path for pattern in patterns for path in tree.course.glob(pattern)):
        if not without & set(path.parts):
            yield path


def comparable(records, without):
    """Return the fields of records that are the same in each run."""
    return [
        {**vars(record), "seconds": 0, "memory": 0}
        for record in records
        if record.student not in without
    ]


# --- trees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(1), id="0"),
        pytest.param(range(1, 16), id="1-15", marks=pytest.mark.full),
        *(
            pytest.param(range(n, n + 96), id=f"{n}-{n + 95}", marks=pytest.mark.slow)
            for n in range(16, 976, 96)
        ),
    ],
)
def test_no_random_tree_stops_the_batch(folder, released, quick, seeds):
    for seed in seeds:
        path = folder / str(seed)
        path.mkdir()
        tree = random_tree(path, released, seed)
        assert problems(tree) == [], (seed, tree.kinds)


@needed
@pytest.mark.full
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_no_random_tree_stops_the_batch_in_the_sandbox(released, tmp_path, seed):
    """The sandbox runs as the user who runs the tests, and root can read and write everything."""
    assert autograde.GradingSession is not QuickSession
    root = os.getuid() == 0
    tree = random_tree(tmp_path, released, seed, "unreadable|unwritable" if root else "no kind")
    try:
        assert problems(tree) == [], tree.kinds
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


# --- errors that concern one submission -----------------------------------------------------------

# A student who is graded between the two honest students.
ODD = "odd one"


@pytest.fixture
def tree(folder, released, quick):
    """A tree with two honest students, and between them another one with right answers."""
    created = honest_tree(folder, released)
    timestamp = created.hand_in(ODD) / "timestamp.txt"
    timestamp.write_text("2026-03-01 12:00:00 UTC", encoding="utf-8")
    created.full.add(ODD)
    return created


def fail_for_one(patch, owner, name, error):
    """Make a function raise an error for one student."""
    real = getattr(owner, name)

    def failing(*arguments, **named):
        known = [each for each in arguments if isinstance(each, str | Path | Submission)]
        if any(ODD in str(getattr(each, "student", each)) for each in known):
            raise error
        return real(*arguments, **named)

    patch.setattr(owner, name, failing)


def store_invalid_score(patch):
    """Make the database refuse the points of one student, in the middle of a transaction."""
    real = save._enter_score

    def enter_score(grade, cell, unchanged):
        real(grade, cell, unchanged)
        if cell is not None and grade.notebook.student.id == ODD:
            grade.auto_score = object()

    patch.setattr(save, "_enter_score", enter_score)


DENIED = PermissionError(13, "Permission denied", "autograded")
ERRORS = {
    "listing": (read, "_list_files", OSError(5, "Input/output error")),
    "reading": (read, "_read_folder", RuntimeError("an error in the course")),
    "grading": (autograde, "grade", RecursionError("too deep")),
    "sandbox": (autograde, "grade", SandboxError("the sandbox is gone")),
    "nbgrader": (Gradebook, "update_or_create_submission", InvalidEntry("not unique")),
    "database": (),
    "full disk": (files, "write_atomically", OSError(28, "No space left on device")),
    "folder": (safe_files, "make_folders", DENIED),
    "late policy": (Book, "_subtract_late_penalty", ZeroDivisionError("division by zero")),
}


# The errors of each kind that are also tested at every commit.
SAMPLE = ("reading", "grading", "full disk", "no submitted", "no memory to save")


def sampled(kinds):
    """Return parameters of which only those in `SAMPLE` belong to the quick tests."""
    return [pytest.param(k, marks=[] if k in SAMPLE else pytest.mark.full) for k in kinds]


@pytest.mark.full
@pytest.mark.parametrize("kind", sampled(ERRORS))
def test_an_error_concerns_one_submission_and_the_next_run_grades_it(tree, kind):
    with pytest.MonkeyPatch.context() as patch:
        if kind == "database":
            store_invalid_score(patch)
        else:
            fail_for_one(patch, *ERRORS[kind])
        result, summary = run(tree)
    records = {record.student: record for record in result.records}
    assert records[ODD].state == UNGRADABLE and f"{ODD}: ungradable, " in summary
    (reason,) = records[ODD].reasons
    assert len(reason.split()) > 3 and "\n" not in reason and str(tree.course) not in reason
    for student, points in POINTS.items():
        assert records[student].points == points | {"sum-why": None}
    assert list(published_problems(tree, summary)) == []
    assert {auto for (s, _), (auto, _, _) in sums.grades(tree.course).items() if s == ODD} <= {None}
    again, _ = run(tree)
    assert again.graded == 1
    assert {r.student: r.points for r in again.records}[ODD] == FULL | {"sum-why": None}


def test_an_error_keeps_points_given_by_hand(tree):
    run(tree)
    sums.give(tree.course, ODD, "sum-why", 3)
    (tree.folder(ODD) / "new.txt").touch()
    with pytest.MonkeyPatch.context() as patch:
        fail_for_one(patch, files, "write_atomically", OSError(28, "No space left on device"))
        run(tree)
    assert sums.grades(tree.course)[ODD, "sum-why"] == (None, 3, True)
    run(tree)
    assert sums.grades(tree.course)[ODD, "sum-why"][1] == 3


# --- errors that concern all submissions ----------------------------------------------------------


@contextlib.contextmanager
def full_disk(tree):
    """Let every write fail."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def replaced(name, kind):
    """Return a context manager that replaces a file or a folder of the course."""

    @contextlib.contextmanager
    def replace(tree):
        path = tree.course / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if kind:
            create(path, kind, tree.canary)
        yield

    return replace


def raising(owner, name, error):
    """Return a context manager that makes a function raise an error."""

    @contextlib.contextmanager
    def patched(tree):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, fail)
            yield

    def fail(*_, **__):
        raise error

    return patched


NO_MEMORY = "there is not enough memory to grade"
UNUSABLE = "the gradebook .* can't be used: "
CLASS_ERRORS = {
    "full disk": (full_disk, "results can't be saved in .*: File too large"),
    "no submitted": (replaced("submitted", ""), "nothing was handed in"),
    "submitted is unreadable": (replaced("submitted", "unreadable"), "Permission denied"),
    "autograded is a file": (replaced("autograded", "file"), "autograded: it is a file"),
    "grading is a FIFO": (replaced("grading", "fifo"), "grading: it is a FIFO"),
    "assignment is a link": (replaced(f"grading/{NAME}", "link to folder"), "it is a link"),
    "records is unwritable": (replaced(f"grading/{NAME}/records", "unwritable"), "denied"),
    "report is a folder": (replaced(f"grading/{NAME}/report.html", "folder"), "has this name"),
    "gradebook is no database": (replaced("gradebook.db", "file"), UNUSABLE),
    "no memory to grade": (raising(autograde, "grade", MemoryError()), NO_MEMORY),
    "no memory to save": (raising(Book, "_enter_points", MemoryError()), NO_MEMORY),
}


@pytest.mark.parametrize("kind", sampled(CLASS_ERRORS))
def test_an_error_that_concerns_all_submissions_has_one_line(tree, kind):
    cause, message = CLASS_ERRORS[kind]
    with cause(tree), pytest.raises(CourseError, match=message) as caught:
        run(tree)
    assert "\n" not in str(caught.value) and str(tree.course) not in str(caught.value)


@pytest.mark.full
def test_results_that_were_saved_before_the_disk_was_full_are_kept(tree):
    with contextlib.ExitStack() as stack:

        def progress(*_):
            stack.enter_context(full_disk(tree))

        with pytest.raises(CourseError, match=r"results can't be saved in .*: File too large"):
            classroom.grade(tree.course, NAME, workers=1, limits=QUICK, progress=progress)
    assert run(tree)[0].graded == 2


# --- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"student": "honest"},
        {"points": {"sum-all-form": "1"}},
        {"points": [1]},
        {"points": {"sum-all-form": 1e308}},
        {"seconds": float("nan")},
        {"memory": 10**400},
        {"seconds": -1},
        {"messages": {"sum-all-form": None}},
        {"doubts": [1]},
        {"more": 1},
    ],
    ids=str,
)
def test_an_invalid_record_is_ignored(tmp_path, changes):
    record = Record(NAME, ODD, doubts=("a reason",), points={"sum-all-form": 1.0})
    record.write(tmp_path)
    assert records.read_all(tmp_path) == [record]
    path = tmp_path / "records" / ODD / "record.json"
    content = {"state": record.state, **vars(record), **changes}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert records.read_all(tmp_path) == []
