"""What became of each submission: its state, the reasons for it, its points, and its costs.

A record is a JSON file, `grading/ASSIGNMENT/records/STUDENT/record.json`. It is written after the
gradebook, so a run that was interrupted goes on with the submissions that have no record. The
folder `records` keeps students' names apart from the class's files: a student may be called
`report.html`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

from course_utils.files import PART, write_atomically

GRADED, PERSON, UNGRADABLE = "graded", "needs a person", "ungradable"
FOLDER, NAME = "records", "record.json"
STATES = (GRADED, PERSON, UNGRADABLE)
LARGEST = 50_000_000  # maximum size of a record's file, in B
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Record:
    """One graded submission.

    Attributes:
        assignment: the assignment's name.
        student: the student's name.
        state: one of STATES.
        reasons: why a person is needed, or why it can't be graded, one line each.
        repairs: what was mended before grading, one line each.
        incidents: what happened in the run, such as an answer that took too long, one line each.
        points: points by grade id; None where a person still has to give them.
        messages: what the failed checks said, by grade id.
        seconds: the time that grading took, in s.
        memory: the largest memory of the student's processes together, in B.
        key: a digest of the submission and of the tests that it was graded with.
    """

    assignment: str
    student: str
    state: str
    reasons: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()
    points: dict[str, float | None] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    memory: int = 0
    key: str = ""

    def write(self, folder: Path) -> None:
        """Write the record into the assignment's folder, atomically.

        Raises:
            OSError: the record can't be written, or something else is in its place.
        """
        place = inside(folder, FOLDER, self.student)
        write_atomically(place / NAME, json.dumps(asdict(self), indent=1).encode())


def by_hand(cell: str) -> str:
    """The reason of a submission in which a graded cell waits for a person's points."""
    return f"a person gives the points of {cell}"


def visible(text: str) -> str:
    """The text with unprintable characters replaced by escape sequences, such as `\\x1b`."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def read(path: Path) -> Record | None:
    """The record in STUDENT/record.json; None if there is none, or if it can't be used.

    A submission without a record is graded again. So nothing is lost if somebody has changed or
    damaged the file, or copied it from another student.
    """
    try:
        fields = json.loads(content(path, LARGEST))
        lists = {name: tuple(fields[name]) for name in ("reasons", "repairs", "incidents")}
        record = Record(**fields | lists)
        return record if record.student == path.parent.name and _sound(record) else None
    except (OSError, ArithmeticError, AttributeError, LookupError, RecursionError):
        return None
    except (TypeError, ValueError):
        return None


def _sound(record: Record) -> bool:
    """Whether every field has the type and the range that the report and the table need."""
    texts = [record.assignment, record.student, record.key, *record.messages.values()]
    texts += [*record.reasons, *record.repairs, *record.incidents]
    costs, points = [record.seconds, record.memory], record.points.values()
    numbers = [*costs, *(value for value in points if value is not None)]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        and min(costs) >= 0
        and record.state in STATES
        and (record.state == GRADED or any(record.reasons))
    )


def read_all(folder: Path) -> list[Record]:
    """The records below an assignment's folder, by student."""
    students = [path for path in _entries(folder / FOLDER) if not path.is_symlink()]
    return [record for path in students if (record := read(path / NAME))]


def adopt(folder: Path) -> None:
    """Move the records of earlier versions, STUDENT/record.json, into the records folder.

    Without that folder, the folder of a student called `report.html` would have the path of the
    report. A record that can't be moved stays where it is, and its submission is graded again.
    """
    for old in _entries(folder):
        with contextlib.suppress(OSError):
            names = os.listdir(old)
            known = set(names) <= {NAME, NAME + PART} and not old.is_symlink()
            if known and all(kind(old / name) != "a folder" for name in names):
                old.rename(inside(folder, FOLDER) / old.name)


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted; an empty list if it isn't a folder or can't be read."""
    try:
        return sorted(folder / name for name in os.listdir(folder))
    except OSError:
        return []


# --- files ----------------------------------------------------------------------------------------


def kind(path: Path | str) -> str:
    """The kind of entry at a path, such as "a folder" or "a link"; OSError if there is none."""
    return KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "something else")


def content(path: Path | str, most: int) -> bytes:
    """The content of a regular file, unless it has more than `most` B.

    Links are not followed, and opening a FIFO doesn't wait for a writer.

    Raises:
        OSError: the file isn't read; `strerror` says why.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as fault:
        if fault.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", os.fspath(path)) from None
        raise
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        if about.st_size > most:
            size = f"it is too large ({about.st_size / 1e6:,.0f} MB)"
            raise OSError(errno.EFBIG, size, os.fspath(path))
        return stream.read(most)


def inside(root: Path, *names: str) -> Path:
    """Return the folder root/NAME/NAME…; folders that are missing are made.

    Raises:
        OSError: something else has one of these names. A link to a folder is an error, too, because
            what is written through it could end up anywhere; only `root` itself may be a link.
    """
    path = root
    for name in ("", *names):
        path = path / name
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=path == root)
        if not path.is_dir() or (path != root and path.is_symlink()):
            what = f"it is {kind(path)}, and grading needs a folder of this name: move it away"
            raise NotADirectoryError(errno.ENOTDIR, what, os.fspath(path))
    return path
