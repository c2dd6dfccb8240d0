"""What became of each submission: its state, the reasons for it, its points, and its costs.

A record is a JSON file, `grading/ASSIGNMENT/records/STUDENT/record.json`. It is written after the
gradebook, so a run that was interrupted goes on with the submissions that have no record. The
folder `records` keeps students' names apart from the class's files: a student may be called
`report.html`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from course_utils.files import PART, write_atomically
from course_utils.grading.safe_files import content, inside, kind

GRADED, PERSON, UNGRADABLE = "graded", "needs a person", "ungradable"
FOLDER, NAME = "records", "record.json"
STATES = (GRADED, PERSON, UNGRADABLE)
LARGEST = 50_000_000  # maximum size of a record's file, in B


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
