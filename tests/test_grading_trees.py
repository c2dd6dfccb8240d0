"""Nothing stops the batch: trees of submissions, made at random, with all that can be in a folder.

A tree is a course in which two honest students and several others have handed in. Of the others,
each is odd in one or more ways: a name, an entry of submitted/ that is no folder, a notebook that
can't be read, something in the way of what grading writes. Whatever they are, everybody has a state
and a reason, the honest students have their points, and the class's report and table are written.

Answers aren't run here but for a few trees: a stand-in for the session looks them up (`Quick`). All
else is real: reading, repairing, nbgrader's gradebook, records, report and table.
"""

import contextlib
import csv
import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markupsafe import escape
from nbgrader.api import Gradebook, InvalidEntry

from course_utils import files
from course_utils.grading import autograde, classroom, safe_files
from course_utils.grading.intake import repair, submissions
from course_utils.grading.results import gradebook, records
from course_utils.grading.results.gradebook import Book
from course_utils.grading.results.records import GRADED, PERSON, STATES, UNGRADABLE, Record
from course_utils.grading.sandbox.bubblewrap import SandboxError
from course_utils.grading.spec import Submission
from course_utils.validation import CourseError
from tests import sums
from tests.sandboxes import QUICK, needed
from tests.sums import CELLS, NAME, RIGHT, WRONG

# SQLAlchemy's, about objects that nbgrader's own autograding adds later
pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted")

HONEST = {"honest": RIGHT, "zz honest": WRONG}  # the first and the last in the order of grading
FULL = {cell: 2.0 if cell.endswith("values") else 1.0 for cell in CELLS}
LOST = {"sum-squares-form": 0.0, "sum-squares-values": 0.0}
POINTS = {"honest": FULL, "zz honest": FULL | LOST}
PATIENCE = 60  # seconds in which a tree must be graded: reading a FIFO would never end
FEW, SOME, MANY = 3, 40, 1_000  # trees: in the sandbox, each time, and of the slow test
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a thousand databases are slow on disks
UNPRIVILEGED = 65534  # who grades if the tests run as root, for whom no folder is unreadable


# --- what may be in a folder ----------------------------------------------------------------------

ENTRIES = ("file", "fifo", "socket", "device", "unreadable")
ENTRIES += ("dangling link", "link to itself", "link to folder", "link to file", "link to device")


def put(path, what, canary):
    """Make an entry of a folder; `canary` is a folder that links may lead to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    links = {
        "dangling link": canary / "nothing",
        "link to itself": path.name,
        "link to folder": canary / "student" if path.parent.name == "submitted" else canary,
        "link to file": canary / "file.ipynb",
        "link to device": "/dev/zero",
    }
    if what in links:
        path.symlink_to(links[what])
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif what == "device":
        device(path)
    elif what == "unreadable":
        path.mkdir()
        shutil.copy(canary / "file.ipynb", path / f"{NAME}.ipynb")
        (path / NAME).mkdir()
        path.chmod(0)
    elif what == "unwritable":
        path.mkdir(mode=0o500)
    elif what == "folder":
        (path / "folder").mkdir(parents=True)
    else:
        path.write_text("a file", encoding="utf-8")


def device(path):
    """Make /dev/zero once more, which root alone can; a socket for others."""
    try:
        with user(os.getuid()):
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        os.mknod(path, stat.S_IFSOCK | 0o600)


@contextlib.contextmanager
def user(number):
    """Be another user for a while, as root can; files that root may read, others may not."""
    before = os.geteuid()
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(before)


# --- trees ----------------------------------------------------------------------------------------


@dataclass
class Tree:
    """A course with submissions. full: students who get all points. lost: who can't be graded.

    blocked: who can't be graded for something in the way of their results. racing: folders that
    change while they are read. kinds: what makes the tree odd.
    """

    course: Path
    canary: Path
    full: set = field(default_factory=set)
    lost: set = field(default_factory=set)
    blocked: set = field(default_factory=set)
    racing: dict = field(default_factory=dict)
    kinds: list = field(default_factory=list)

    def place(self, student):
        return self.course / "submitted" / student / NAME

    def hand_in(self, student):
        """A submission with right answers."""
        self.place(student).mkdir(parents=True)
        shutil.copy(self.canary / "file.ipynb", self.place(student) / f"{NAME}.ipynb")
        return self.place(student)

    @property
    def students(self):
        return self.full | self.lost | self.blocked | set(HONEST)


# Names of the grader's own files, options of programs, patterns, devices of other systems.
NAMES = (
    *("report.html", "points.csv", "record.json", "records", NAME, f"{NAME}.ipynb", "gradebook.db"),
    *("report.html.part", "points.csv.part", "record.json.part", "Report.HTML", "timestamp.txt"),
    *(
        "con",
        "nul.txt",
        ".name",
        "...",
        "-rf",
        "--again",
        "*",
        "?",
        "[a]",
        "%s",
        "{0}",
        "~",
        "$HOME",
        "a;b",
        "a|b",
    ),
    *("=1+1", "@sum", "'", '"', "<b>", "&amp;", "back\\slash", "a,b", "name.", "name.."),
    *("n" * 128, "line\nbreak", "tab\tname", " space "),
    *("\x1b[2Jname", "\x7f", "a\u202eb", "\u200b"),
    *("Zoe\u0308", "Zo\u00eb", "\u5f20\u4e09", "a\u2215b", "\u2024\u2024", "\U0001f600", "\u0130"),
)
UNNAMED = ("n" * 129, "x" * 255, os.fsdecode(b"M\xfcller"), "\udcff")  # not for the gradebook
HIDDEN, CHECKPOINTS = (".DS_Store", ".git", "..data"), ".ipynb_checkpoints"  # no students


def student_is(what):
    def make(tree, student, draw):
        put(tree.course / "submitted" / student, what, tree.canary)
        if not student.startswith(".") or what == "link to folder":  # in which there is something
            tree.lost.add(student)

    return make


def assignment_is(what):
    def make(tree, student, draw):
        put(tree.place(student), what, tree.canary)
        tree.lost.add(student)

    return make


def notebook_is(what):
    def make(tree, student, draw):
        path = tree.place(student) / f"{NAME}.ipynb"
        put(path, what, tree.canary)
        tree.lost.add(student)

    return make


def notebook_holds(data):
    def make(tree, student, draw):
        tree.place(student).mkdir(parents=True)
        (tree.place(student) / f"{NAME}.ipynb").write_bytes(data)
        tree.lost.add(student)

    return make


def beside(what):
    """An entry beside a right notebook, at a random depth."""

    def make(tree, student, draw):
        place = tree.hand_in(student)
        for _ in range(draw.randrange(3)):
            place = place / "folder"
        name = draw.choice(["data.bin", "other.ipynb", os.fsdecode(b"\xff")])
        put(place / name, what, tree.canary)
        tree.full.add(student)

    return make


def deep(name, depth):
    """Folders in folders beside a right notebook."""

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
    """More files than are looked at, most of them before the notebook in alphabetical order."""
    place = tree.hand_in(student)
    for n in range(1_100):
        (place / f"00{n}{draw.choice(['', '.ipynb'])}").touch()
    tree.full.add(student)


def sparse(tree, student, draw):
    """Notebooks and other files of 250 MB, which take no room on the disk."""
    place = tree.hand_in(student)
    for n in range(40):
        with (place / f"{n}{draw.choice(['.ipynb', '.bin'])}").open("wb") as file:
            file.truncate(250_000_000)
    tree.full.add(student)


def odd_time(tree, student, draw):
    """A time of handing in that is none, or whose time zone is a file."""
    texts = ["", "\0", "soon", "9" * 900]
    texts += ["0001-01-01 00:00:00 +9999", "2026-03-01 12:00:00 /proc/kmsg"]
    (tree.hand_in(student) / "timestamp.txt").write_text(draw.choice(texts), encoding="utf-8")
    tree.full.add(student)


def vanishes(tree, student, draw):
    """What is removed, or becomes something else, after its folder was listed."""
    place = tree.hand_in(student)
    tree.racing[place] = draw.choice([Path.unlink, replace_by_fifo])
    tree.lost.add(student)


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def hidden(tree, student, draw):
    """Entries of submitted/ that are no student's."""
    for name in HIDDEN:
        path = tree.course / "submitted" / name
        if not os.path.lexists(path):
            closed = "folder" if os.geteuid() == 0 else "unreadable"  # root would see what is in it
            what = draw.choice(["file", "fifo", "dangling link", closed, "folder"])
            put(path, what, tree.canary)
    if not os.path.lexists(tree.course / "submitted" / CHECKPOINTS):
        tree.hand_in(CHECKPOINTS)


def absent(tree, student, draw):
    """A student who has handed in something else."""
    tree.hand_in(student).rename(tree.place(student).with_name("08_other"))


def honest(tree, student, draw):
    """Nothing odd but, perhaps, the name."""
    tree.hand_in(student)
    tree.full.add(student)


BROKEN = {
    "empty": b"",
    "cut off": b'{"cells": [',
    "not UTF-8": b"\xff\xfe\x00",
    "nested": b"[" * 100_000,
    "a number": b"1",
    "cells of nothing": b'{"cells": [1, null]}',
}
WAYS = {
    **{f"student is {what}": student_is(what) for what in ENTRIES},
    **{f"assignment is {what}": assignment_is(what) for what in ENTRIES},
    **{f"notebook is {what}": notebook_is(what) for what in (*ENTRIES, "folder")},
    **{f"notebook holds {what}": notebook_holds(data) for what, data in BROKEN.items()},
    **{f"beside is {what}": beside(what) for what in ENTRIES},
    "more folders than are looked at": deep("d", 40),
    "a path longer than a path may be": deep("d" * 250, 18),
    "crowded": crowded,
    "sparse": sparse,
    "odd time": odd_time,
    "vanishes": vanishes,
    "hidden": hidden,
    "absent": absent,
}

# What may be in the place of what grading writes for a student, by relative path, and what of it
# can't be overwritten.
ANY = ("file", "fifo", "socket", "dangling link", "link to folder", "unwritable")
FILES = ("folder", "fifo", "dangling link", "link to file", "file")
FORMER = f"grading/{NAME}/{{student}}/record.json"  # where records were
BEFORE = {
    "autograded/{student}": (ANY, ANY),
    f"autograded/{{student}}/{NAME}": (ANY, ANY),
    f"autograded/{{student}}/{NAME}/{NAME}.ipynb": (FILES, ("folder",)),
    f"autograded/{{student}}/{NAME}/{NAME}.ipynb.part": (FILES, ()),
    f"autograded/{{student}}/{NAME}/timestamp.txt": (FILES, ("folder",)),
    f"grading/{NAME}/records/{{student}}": (ANY, ANY),
    f"grading/{NAME}/records/{{student}}/record.json": (FILES, ("folder",)),
    f"grading/{NAME}/records/{{student}}/record.json.part": (FILES, ()),
    FORMER: (FILES, ()),
}
RECORDS = (
    "{}",
    "[" * 100_000,
    '{"student": 1}',
    json.dumps(vars(Record(NAME, "honest", GRADED, points={"sum-all-form": 99.0}))),
    json.dumps(vars(Record("08_other", "honest", GRADED))),
    '{"seconds": NaN}',
)


def obstacle(path, what):
    """Something in the way of what grading writes for a student who has answered everything."""

    def make(tree, student, draw):
        place = tree.hand_in(student)
        (place / "timestamp.txt").write_text("2026-03-01 12:00:00 UTC", encoding="utf-8")
        target = tree.course / path.format(student=student)
        put(target, what, tree.canary)
        if what == "file" and target.name == "record.json":
            target.write_text(draw.choice(RECORDS), encoding="utf-8")
        (tree.blocked if what in BEFORE[path][1] else tree.full).add(student)

    return make


OBSTACLES = {
    f"{what} in the place of {path}": obstacle(path, what)
    for path, (kinds_found, _) in BEFORE.items()
    for what in kinds_found
}


def of_class(tree, draw):
    """Something in the place of the class's own files, which is replaced or moved."""
    place = tree.course / "grading" / NAME
    name = draw.choice(["report.html", "points.csv", "report.html.part"])
    if draw.random() < 0.5 or os.path.lexists(place / "records" / name):
        put(
            place / name,
            draw.choice(["file", "fifo", "link to file", "dangling link"]),
            tree.canary,
        )
    else:  # as earlier versions left it, for a student of this name
        put(place / name / "record.json", "file", tree.canary)


def canary(folder, released):
    """A folder outside of the course that links lead to."""
    folder.mkdir()
    notebook = released / "right.ipynb"
    shutil.copy(notebook, folder / "file.ipynb")
    for place in (folder, folder / "student" / NAME):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebook, place / f"{NAME}.ipynb")
    return folder


def bare(folder, released):
    """A course in which nobody but the honest students has handed in."""
    course = Path(shutil.copytree(released / "course", folder / "course"))
    for student in HONEST:
        place = course / "submitted" / student / NAME
        place.mkdir(parents=True)
        shutil.copy(released / f"{student}.ipynb", place / f"{NAME}.ipynb")
    return Tree(course, canary(folder / "canary", released))


def planted(folder, released, seed, without="no kind"):
    """A tree of this seed: three to eight others beside the honest students.

    without: kinds that it shall not have, as a regular expression.
    """
    draw, tree = random.Random(seed), bare(folder, released)
    count = draw.randint(3, 8)
    names = draw.sample(NAMES, count) + draw.sample(UNNAMED, 1)
    for n in range(count):
        student = names[n] if draw.random() < 0.5 else f"s{n}"
        kinds = {**WAYS, **OBSTACLES, "name": honest}
        kind = draw.choice([kind for kind in kinds if not re.search(without, kind)])
        if kind == f"folder in the place of {FORMER}":  # no version has made that: if it is called
            student = f"s{n}"  # report.html, there is no report until somebody has moved it away
        kinds[kind](tree, student, draw)
        tree.kinds += [kind, *([f"name {student!r}"] if student == names[n] else [])]
    if draw.random() < 0.3:
        tree.hand_in(names[-1])
        tree.lost.add(names[-1])
        tree.kinds.append(f"name {names[-1]!r}")
    if draw.random() < 0.3:
        of_class(tree, draw)
        tree.kinds.append("class")
    return tree


# --- grading without running anything -------------------------------------------------------------


class Quick:
    """Stands in for a grading session: an answer is right if it is the one of `RIGHT`."""

    def __init__(self, *_):
        self.incidents, self.memory, self._ran = [], 0, ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def repair(self, data, release):
        mended = repair.repair(repair.load(data), json.loads(release))
        return {"notebook": mended.notebook, "notes": mended.notes, "doubts": mended.doubts}

    def run(self, source, what=""):
        self._ran += source
        return []

    def check(self, source, what=""):
        if RIGHT[what.rpartition("-")[0]].strip() in self._ran:
            return []
        fault = {"ename": "CheckFailed", "evalue": "", "traceback": ["Not right yet"]}
        return [{"output_type": "error", **fault}]


@pytest.fixture
def quick():
    """Mark without a sandbox."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograde, "GradingSession", Quick)
        patch.setattr(autograde, "servers", lambda paper: (None, None))
        patch.setattr(autograde, "reserved_core", contextlib.nullcontext)
        yield


@pytest.fixture(scope="module")
def released():
    """A folder that whoever grades can reach, with the course and the honest notebooks."""
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
    """Grade once as root: an ordinary user may not be able to read root's Python any more."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            autograde, "grade", lambda paper, given: autograde.ungradable(paper, given, "a reason")
        )
        patch.setattr(autograde, "servers", lambda paper: (None, None))
        run(bare(Path(folder), released))


@pytest.fixture
def folder(released):
    """An empty folder in which an ordinary user, who isn't root, makes and grades a tree."""
    with user(UNPRIVILEGED if os.geteuid() == 0 else os.geteuid()):
        made = Path(tempfile.mkdtemp(dir=released))
        yield made
    subprocess.run(["rm", "-rf", str(made)], check=True)  # Python's can't remove deep folders


@contextlib.contextmanager
def watched(tree):
    """Entries of `tree.racing` change once their folder was listed; what hangs is interrupted."""
    listed = os.listdir

    def listdir(path="."):
        names = listed(path)
        if change := tree.racing.pop(Path(os.fsdecode(path)), None):
            change(Path(os.fsdecode(path)) / f"{NAME}.ipynb")
        return names

    def hangs(*_):
        pytest.fail(f"nothing came of it in {PATIENCE} s")  # no Exception, which might be caught

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(PATIENCE)
    os.listdir = listdir
    try:
        yield
    finally:
        os.listdir = listed
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(tree):
    """Grade and publish a tree; the result of `classroom.grade`, and what is told."""
    with watched(tree):
        result = classroom.grade(tree.course, NAME, workers=1, limits=QUICK)
        return result, classroom.write_results(tree.course, result)


# --- what must hold -------------------------------------------------------------------------------


def complaints(tree):
    """Grade a tree twice; what isn't as it must be, a line each."""
    racing = {path.parent.name for path in tree.racing}
    outside = contents(tree.canary)
    result, told = run(tree)
    found = {record.student: record for record in result.records}
    faults = [
        f"two records of {s!r}"
        for s, n in Counter(r.student for r in result.records).items()
        if n > 1
    ]
    faults += [f"{s!r} is forgotten" for s in sorted(tree.students - found.keys())]
    faults += [f"{s!r} is no student" for s in sorted(found.keys() - tree.students)]
    for student, record in found.items():
        faults += [f"{student!r}: {fault}" for fault in odd(record)]
        wanted = UNGRADABLE if student in tree.lost | tree.blocked else PERSON
        if record.state != wanted:
            faults.append(f"{student!r} is {record.state}: {record.reasons}")
    for student, points in {**dict.fromkeys(tree.full, FULL), **POINTS}.items():
        if student in found and found[student].points != points | {"sum-why": None}:
            faults.append(f"{student!r} has {found[student].points}")
    faults += published(tree, told)
    faults += [f"changed outside: {path}" for path in differing(outside, contents(tree.canary))]
    saved = {path: path.lstat().st_mtime_ns for path in written(tree, set(tree.blocked) | racing)}
    points = sums.grades(tree.course)
    again, _ = run(tree)
    if not len(tree.blocked) <= again.graded <= len(tree.blocked | racing):
        faults.append(f"the second run grades {again.graded}, not {len(tree.blocked)}")
    if [plain(r) for r in again.records if r.student not in racing] != [
        plain(r) for r in result.records if r.student not in racing
    ]:
        faults.append("the second run changes records")
    if sums.grades(tree.course) != points:
        faults.append("the second run changes the gradebook")
    if {path: path.lstat().st_mtime_ns for path in saved} != saved:
        faults.append("the second run writes what is there already")
    return faults + [
        f"changed outside: {path}" for path in differing(outside, contents(tree.canary))
    ]


def odd(record):
    """What is wrong with a record's state and its reasons."""
    if record.state not in STATES:
        yield f"its state is {record.state!r}"
    if record.state != GRADED and not (record.reasons and all(map(is_sentence, record.reasons))):
        yield f"its reasons are {record.reasons}"


def is_sentence(reason):
    """Whether a reason reads as words: several of them, without Python's names for errors."""
    words = re.findall(r"[a-z']{2,}", reason)
    return len(words) >= 4 and not re.search(r"Error\b|Traceback|Errno|\n", reason)


def published(tree, told):
    """What is wrong with the class's two files and with the summary."""
    place = tree.course / "grading" / NAME
    for name in ("report.html", "points.csv"):
        if not stat.S_ISREG((place / name).lstat().st_mode):
            yield f"{name} is no regular file"
    page = (place / "report.html").read_text(encoding="utf-8")
    with (place / "points.csv").open(encoding="utf-8-sig", newline="") as table:
        rows = [row["student"] for row in csv.DictReader(table)]
    names = [" ".join(shown(student).split()) for student in tree.students]
    formula = ("=", "+", "-", "@")
    if sorted(rows) != sorted(f"'{name}" if name.startswith(formula) else name for name in names):
        yield f"points.csv has the rows {rows}"
    yield from (f"report.html lacks {n!r}" for n in names if escape(n[:190]) not in page)
    for student in tree.lost | tree.blocked:
        if f"  {shown(student)}: ungradable, " not in told:
            yield f"the summary lacks {student!r}"


def shown(name):
    """A name as it is shown: what isn't seen is its number."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


def contents(folder):
    """All that is in a folder, with the bytes and times of its files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        found[path] = (about.st_mode, about.st_mtime_ns, data)
    return found


def differing(before, after):
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


def written(tree, without):
    """What grading has written for students but these."""
    for top, pattern in {
        "autograded": f"*/{NAME}/{NAME}.ipynb",
        "grading": "*/**/record.json",
    }.items():
        for path in (tree.course / top).glob(pattern):
            if not without & set(path.parts):
                yield path


def plain(record):
    """A record without what differs from run to run."""
    return {**vars(record), "seconds": 0, "memory": 0}


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(SOME))
def test_no_tree_stops_the_batch(folder, released, quick, seed):
    tree = planted(folder, released, seed)
    assert complaints(tree) == [], tree.kinds


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(MANY // 100))
def test_none_of_a_thousand_trees_stops_the_batch(folder, released, quick, hundred):
    for seed in range(100 * hundred, 100 * hundred + 100):
        place = folder / str(seed)
        place.mkdir()
        tree = planted(place, released, seed)
        assert complaints(tree) == [], (seed, tree.kinds)


def alone(folder, released, kind):
    """A tree with one odd student."""
    tree, draw = bare(folder, released), random.Random(0)
    student = kind if kind in (*NAMES, *UNNAMED) else "odd"
    ({**WAYS, **OBSTACLES}.get(kind, honest))(tree, student, draw)
    if kind in UNNAMED:
        tree.full, tree.lost = set(), {kind}
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*WAYS, *OBSTACLES, *NAMES, *UNNAMED], ids=ascii)
def test_each_kind_alone_stops_nothing(folder, released, quick, kind):
    assert complaints(alone(folder, released, kind)) == []


@needed
@pytest.mark.parametrize("seed", range(FEW))
def test_in_the_sandbox_neither(released, tmp_path, seed):
    """Sandboxes are started by who runs the tests: for root, everything can be read and written."""
    assert autograde.GradingSession is not Quick
    root = os.getuid() == 0
    tree = planted(tmp_path, released, seed, "unreadable|unwritable" if root else "no kind")
    try:
        assert complaints(tree) == [], tree.kinds
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


# --- what goes wrong with one submission ----------------------------------------------------------

ODD = "odd one"  # in the order of grading, between the honest students


@pytest.fixture
def tree(folder, released, quick):
    """Two honest students, and between them another one with right answers."""
    made = bare(folder, released)
    (made.hand_in(ODD) / "timestamp.txt").write_text("2026-03-01 12:00:00 UTC", encoding="utf-8")
    made.full.add(ODD)
    return made


def refuse(patch, place, name, fault):
    """Let a function fail for one student."""
    real = getattr(place, name)

    def failing(*arguments, **named):
        known = [each for each in arguments if isinstance(each, str | Path | Submission)]
        if any(ODD in str(getattr(each, "student", each)) for each in known):
            raise fault
        return real(*arguments, **named)

    patch.setattr(place, name, failing)


def spoil(patch):
    """Let the database refuse the marks of one student, in the middle of a transaction."""
    real = gradebook._mark

    def mark(grade, cell, unchanged):
        real(grade, cell, unchanged)
        if cell is not None and grade.notebook.student.id == ODD:
            grade.auto_score = object()

    patch.setattr(gradebook, "_mark", mark)


FAULTS = {
    "the listing": (refuse, submissions, "_listed", OSError(5, "Input/output error")),
    "the reading": (refuse, submissions, "_read_folder", RuntimeError("a fault of ours")),
    "grading": (refuse, autograde, "grade", RecursionError("too deep")),
    "the sandbox": (refuse, autograde, "grade", SandboxError("the sandbox is gone")),
    "nbgrader": (refuse, Gradebook, "update_or_create_submission", InvalidEntry("not unique")),
    "the database": (spoil,),
    "a full disk": (refuse, files, "write_atomically", OSError(28, "No space left on device")),
    "a folder": (
        refuse,
        safe_files,
        "make_folders",
        PermissionError(13, "Permission denied", "autograded"),
    ),
    "a late policy": (refuse, Book, "_late", ZeroDivisionError("division by zero")),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_with_one_submission_is_its_own_and_the_next_run_tries_again(tree, what):
    with pytest.MonkeyPatch.context() as patch:
        make, *arguments = FAULTS[what]
        make(patch, *arguments)
        result, told = run(tree)
    found = {record.student: record for record in result.records}
    assert found[ODD].state == UNGRADABLE and f"{ODD}: ungradable, " in told
    (reason,) = found[ODD].reasons
    assert len(reason.split()) > 3 and "\n" not in reason and str(tree.course) not in reason
    for student, points in POINTS.items():
        assert found[student].points == points | {"sum-why": None}
    assert list(published(tree, told)) == []
    assert {auto for (s, _), (auto, _, _) in sums.grades(tree.course).items() if s == ODD} <= {None}
    again, _ = run(tree)
    assert again.graded == 1
    assert {r.student: r.points for r in again.records}[ODD] == FULL | {"sum-why": None}


def test_points_by_hand_outlast_a_fault(tree):
    run(tree)
    sums.give(tree.course, ODD, "sum-why", 3)
    (tree.place(ODD) / "new.txt").touch()
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, files, "write_atomically", OSError(28, "No space left on device"))
        run(tree)
    assert sums.grades(tree.course)[ODD, "sum-why"] == (None, 3, True)
    run(tree)
    assert sums.grades(tree.course)[ODD, "sum-why"][1] == 3


def test_a_submission_that_vanishes_before_it_is_read_has_a_reason(tree, monkeypatch):
    real = submissions.read

    def submission(place, name):
        if place.parent.name == ODD:
            shutil.rmtree(place.parent)
        return real(place, name)

    monkeypatch.setattr(submissions, "read", submission)
    found = {record.student: record for record in run(tree)[0].records}
    assert found[ODD].reasons == (
        f"the submission can't be read: submitted/{ODD}: No such file or directory",
    )


# --- what goes wrong with all of them -------------------------------------------------------------


def full(patch, tree):
    """No byte can be written any more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def in_place_of(name, what):
    def make(patch, tree):
        path = tree.course / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        put(path, what, tree.canary)

    return make


def locked(patch, tree):
    """Another program holds the gradebook."""
    other = sqlite3.connect(tree.course / "gradebook.db")
    other.execute("BEGIN EXCLUSIVE")
    patch.setattr("sqlalchemy.pool.impl.QueuePool._timeout", 1, raising=False)
    return other.close


def forgetful(patch, tree):
    patch.setattr(autograde, "grade", raising(MemoryError()))


def forgetful_at_the_end(patch, tree):
    patch.setattr(Book, "_enter_marks", raising(MemoryError()))


def raising(fault):
    def fail(*_, **__):
        raise fault

    return fail


CLASS_FAULTS = {
    "full disk": (full, "results can't be saved in .*: File too large"),
    "no submitted": (
        lambda _, tree: shutil.rmtree(tree.course / "submitted"),
        "nothing was handed",
    ),
    "submitted": (
        in_place_of("submitted", "file"),
        "submissions can't be read: submitted: Not a d",
    ),
    "submitted closed": (in_place_of("submitted", "unreadable"), "submitted: Permission denied"),
    "autograded": (
        in_place_of("autograded", "file"),
        "autograded: it is a file, and grading needs",
    ),
    "grading": (
        in_place_of("grading", "fifo"),
        "grading: it is a FIFO, and grading needs a folder",
    ),
    "assignment": (
        in_place_of(f"grading/{NAME}", "link to folder"),
        f"grading/{NAME}: it is a link",
    ),
    "records": (
        in_place_of(f"grading/{NAME}/records", "unwritable"),
        "saved in .*/records: .*Permission denied",
    ),
    "report": (
        in_place_of(f"grading/{NAME}/report.html", "folder"),
        "report.html: a folder is in the place",
    ),
    "no gradebook": (in_place_of("gradebook.db", "folder"), "the gradebook .* can't be used: "),
    "no database": (in_place_of("gradebook.db", "file"), "the gradebook .* can't be used: .*"),
    "locked": (locked, "the gradebook .* can't be used: .*locked"),
    "no memory": (forgetful, "there is not enough memory to grade"),
    "no memory later": (forgetful_at_the_end, "there is not enough memory to grade"),
}


@pytest.mark.parametrize("what", CLASS_FAULTS)
def test_a_fault_that_concerns_everybody_is_one_sentence(tree, monkeypatch, what):
    make, said = CLASS_FAULTS[what]
    mend = make(monkeypatch, tree)
    try:
        with pytest.raises(CourseError, match=said) as caught:
            run(tree)
    finally:
        if callable(mend):
            mend()
    assert "\n" not in str(caught.value) and str(tree.course) not in str(caught.value)


def test_a_disk_that_is_full_meanwhile_ends_the_run_and_what_is_saved_stays(tree, monkeypatch):
    mends = []

    def progress(*_):
        mends.append(full(monkeypatch, tree))

    try:
        with pytest.raises(CourseError, match="results can't be saved in .*: File too large"):
            classroom.grade(tree.course, NAME, workers=1, limits=QUICK, progress=progress)
    finally:
        mends[0]()
    assert len(mends) == 1 and run(tree)[0].graded == 2


def test_a_run_is_interrupted_also_while_it_saves(tree, monkeypatch):
    monkeypatch.setattr(Book, "_enter_marks", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(tree)


# --- records --------------------------------------------------------------------------------------


def test_records_of_earlier_versions_are_found_and_moved(tree):
    tree.hand_in("report.html")
    first, _ = run(tree)
    place = tree.course / "grading" / NAME
    for record in list((place / "records").iterdir()):
        record.rename(place / record.name) if record.name != "report.html" else None
    (place / "report.html").unlink()
    (place / "records" / "report.html").rename(place / "report.html")
    (place / "records").rmdir()
    again, _ = run(tree)
    assert again.graded == 0 and again.records == again.previous == first.records
    assert (place / "report.html").is_file() and not (place / ODD).exists()


def test_a_record_of_a_student_called_as_the_folder_is_graded_again(tree):
    """What an earlier version has written for this student is where the folder of all others is."""
    tree.hand_in("records")
    old = tree.course / "grading" / NAME / "records" / "record.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}", encoding="utf-8")
    assert run(tree)[0].graded == 4 and run(tree)[0].graded == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"student": "honest"},
        {"state": "finished"},
        {"state": PERSON, "reasons": []},
        {"points": {"sum-all-form": "1"}},
        {"points": [1]},
        {"seconds": float("nan")},
        {"memory": 10**400},
        {"seconds": -1},
        {"messages": {"sum-all-form": None}},
        {"reasons": [1]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_record_that_somebody_has_changed_is_none(tmp_path, changes):
    record = Record(NAME, ODD, PERSON, ("a reason",), points={"sum-all-form": 1.0})
    record.write(tmp_path)
    assert records.read_all(tmp_path) == [record]
    path = tmp_path / "records" / ODD / "record.json"
    path.write_text(json.dumps({**vars(record), **changes}), encoding="utf-8")
    assert records.read_all(tmp_path) == []


def test_an_assignment_s_record_isn_t_taken_for_another_s(tree):
    run(tree)
    path = tree.course / "grading" / NAME / "records" / ODD / "record.json"
    path.write_text(path.read_text("utf-8").replace(NAME, "08_other"), encoding="utf-8")
    assert run(tree)[0].graded == 1


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-03-01 12:00:00 UTC", "2026-03-01 12:00:00"),
        ("2026-03-01 12:00:00.5 America/Port-au-Prince", "2026-03-01 17:00:00.500000"),
        ("2026-03-01T12:00:00Z\n", "2026-03-01 12:00:00"),
        ("2026-03-01 12:00:00 {zone}", "None"),
        ("2026-03-01 12:00:00 :{zone}", "None"),
        ("2026-03-01 12:00:00 ../../../../../../../../{zone}", "None"),
        ("", "None"),
        ("soon", "None"),
        ("9" * 5_000, "None"),
    ],
)
def test_no_file_is_opened_for_a_time_zone(tmp_path, text, time):
    zone = tmp_path / "zone"
    shutil.copy("/usr/share/zoneinfo/Asia/Tokyo", zone)
    assert str(gradebook._timestamp(text.format(zone=zone))) == time
