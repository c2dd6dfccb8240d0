"""Store the result of each submission: state, reasons, points, and the time and memory for grading.

A record is a JSON file, `grading/ASSIGNMENT/records/STUDENT/record.json`. The record is written
after the gradebook. So if a run is interrupted, the next run continues with the submissions that
have no record. The folder `records` separates the students' folders from the files of the class,
because a student's name may be `report.html`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from course_utils.machine.files import write_atomically
from workshop.grading.safe_files import make_folders, read_bytes

GRADED, PERSON, UNGRADABLE = "graded", "needs a person", "ungradable"
FOLDER, NAME = "records", "record.json"
STATES = (GRADED, PERSON, UNGRADABLE)
# Maximum size of a record's file, in bytes (B).
MAX_SIZE = 50_000_000
# Maximum of points, seconds and bytes in a record. The sum of larger numbers could be infinite.
MAX_NUMBER = 1e15

# Points by the id of a graded cell; None if a person still has to give them.
Points = Mapping[str, float | None]


@dataclass(frozen=True)
class Record:
    """The result of grading one submission.

    Attributes:
        reasons: the reasons why a person is needed, or why the submission can't be graded, one
            line each.
        repairs: the repairs of the notebook before grading, one line each.
        incidents: unusual events during grading, such as an answer that exceeded its time limit,
            one line each.
        points: points by grade id; None if a person still has to give them.
        seconds: the time that grading needed, in seconds.
        memory: the maximum memory of the student's processes together, in bytes (B).
        key: a digest of the submission and of the tests with which it was graded.
        attempt: a digest of the files that were graded.
        seed: the seed of the hidden tests' inputs. If the same notebook is graded again, it is
            tested with the same inputs.
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
    attempt: str = ""
    seed: int = 0

    def write(self, folder: Path) -> None:
        """Write the record into the assignment's folder, atomically."""
        target = make_folders(folder, FOLDER, self.student)
        write_atomically(target / NAME, json.dumps(asdict(self), indent=1).encode(), alone=True)


def by_hand(cell: str) -> str:
    """Return the reason why a submission needs a person: somebody has to give a cell's points."""
    return f"a person gives the points of {cell}"


def with_points(record: Record, points: Points) -> Record:
    """Return the record with these points, and with the state that follows from all of its points.

    A submission needs a person if points are missing, or if there is another reason. An ungradable
    submission isn't changed, because the gradebook may contain the points of an earlier submission.
    """
    if record.state == UNGRADABLE:
        return record
    points = {**record.points, **points}
    for_points = {by_hand(cell) for cell in points}
    reasons = [reason for reason in record.reasons if reason not in for_points]
    reasons += [by_hand(cell) for cell, value in points.items() if value is None]
    # A submission that needed a person only because of missing points is graded now.
    state = PERSON if reasons else GRADED if record.reasons else record.state
    return replace(record, points=points, reasons=tuple(reasons), state=state)


def read(path: Path) -> Record | None:
    """Return the record in STUDENT/record.json; None if it is missing or invalid.

    A submission without a record is graded again. So no result is lost if somebody has changed or
    damaged the file of a record, or has copied the file from another student's folder.
    """
    try:
        fields = json.loads(read_bytes(path, MAX_SIZE))
        lists = {name: tuple(fields[name]) for name in ("reasons", "repairs", "incidents")}
        record = Record(**fields | lists)
        return record if record.student == path.parent.name and _is_valid(record) else None
    except (
        OSError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ):
        return None


def _is_valid(record: Record) -> bool:
    """Return whether each field has the type and the range that the report and the table need."""
    texts = [record.assignment, record.student, record.key, record.attempt]
    texts += record.messages.values()
    texts += [*record.reasons, *record.repairs, *record.incidents]
    costs, points = [record.seconds, record.memory], record.points.values()
    numbers = [*costs, *(value for value in points if value is not None)]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(n, int | float) and abs(n) <= MAX_NUMBER for n in numbers)
        and min(costs) >= 0
        and type(record.seed) is int
        and record.state in STATES
        and (record.state == GRADED or any(record.reasons))
    )


def read_one(folder: Path, student: str) -> Record | None:
    """Return a student's record in an assignment's folder; None if it is missing or invalid."""
    return read(folder / FOLDER / student / NAME)


def read_all(folder: Path) -> list[Record]:
    """Return the records in an assignment's folder, sorted by student."""
    try:
        students = sorted(folder / FOLDER / name for name in os.listdir(folder / FOLDER))
    except OSError:
        return []
    read_records = (read(path / NAME) for path in students if not path.is_symlink())
    return [record for record in read_records if record]
