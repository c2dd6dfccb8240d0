"""Store the result of each submission: points, reasons, and the time and memory that were needed.

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
from typing import Any

from course_utils.machine.files import write_atomically
from workshop.grading.safe_files import make_folders, read_bytes

GRADED, PERSON, UNGRADABLE = "graded", "needs a person", "ungradable"
STATES = (GRADED, PERSON, UNGRADABLE)
FOLDER, NAME = "records", "record.json"
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
        problem: Why the submission can't be graded; "" if it was graded.
        doubts: Why a person must look at the submission, apart from missing points, one line each.
        repairs: The repairs of the notebook before grading, one line each.
        incidents: Unusual events during grading, such as an answer that exceeded its time limit,
            one line each.
        points: Points by grade id; None if a person still has to give them.
        messages: The messages of the failed checks, by grade id.
        seconds: The time that grading needed, in seconds.
        memory: The maximum memory of the student's processes together, in bytes (B).
        key: A digest of the submission and of the tests with which it was graded.
        attempt: A digest of the files that were graded.
        seed: The seed of the hidden tests' inputs. If the same files are graded again, they are
            tested with the same inputs.
    """

    assignment: str
    student: str
    problem: str = ""
    doubts: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()
    points: dict[str, float | None] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    memory: int = 0
    key: str = ""
    attempt: str = ""
    seed: int = 0

    @property
    def state(self) -> str:
        """Return the submission's state, which is one of the three `STATES`."""
        if self.problem:
            return UNGRADABLE
        return PERSON if self.doubts or self.waiting else GRADED

    @property
    def waiting(self) -> list[str]:
        """Return the ids of the cells to which a person still has to give points."""
        return [cell for cell, points in self.points.items() if points is None]

    @property
    def reasons(self) -> list[str]:
        """Return the reasons why the submission isn't completely graded, one line each."""
        by_hand = [f"a person gives the points of {cell}" for cell in self.waiting]
        return [self.problem] if self.problem else [*self.doubts, *by_hand]

    def with_points(self, points: Points) -> Record:
        """Return the record with the gradebook's points, which a person may have changed.

        An ungradable submission gets no points, even if the gradebook has earlier points.
        """
        return self if self.problem else replace(self, points={**self.points, **points})

    def write(self, folder: Path) -> None:
        """Write the record into the assignment's folder, atomically."""
        target = make_folders(folder, FOLDER, self.student)
        content = {"state": self.state, **asdict(self)}
        write_atomically(target / NAME, json.dumps(content, indent=1).encode(), alone=True)


def read(path: Path) -> Record | None:
    """Return the record in STUDENT/record.json; None if it is missing or invalid.

    A submission without a record is graded again. So no result is lost if somebody has changed or
    damaged the file of a record, or has copied the file from another student's folder.
    """
    try:
        fields = json.loads(read_bytes(path, MAX_SIZE))
        del fields["state"]
        lists = {name: tuple(fields[name]) for name in ("doubts", "repairs", "incidents")}
        record = Record(**fields | lists)
        # A record with a missing field is invalid. For example, if the seed were missing, the
        # default seed 0 would be used for every student.
        if len(fields) != len(vars(record)):
            return None
        return record if record.student == path.parent.name and _is_valid(record) else None
    except MemoryError:
        raise
    # Reading a damaged or forged file may raise many kinds of errors.
    except Exception:
        return None


def _is_valid(record: Record) -> bool:
    """Return whether each field has the type and the range that the report and the table need."""
    texts: list[Any] = [record.assignment, record.student, record.problem, record.key]
    texts += [record.attempt, *record.messages.values()]
    texts += [*record.doubts, *record.repairs, *record.incidents]
    numbers: list[Any] = [value for value in record.points.values() if value is not None]
    costs = [record.seconds, record.memory]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(n, int | float) and abs(n) <= MAX_NUMBER for n in [*numbers, *costs])
        and min(costs) >= 0
        and type(record.seed) is int
    )


def read_all(folder: Path) -> list[Record]:
    """Return the records in an assignment's folder, sorted by student."""
    try:
        students = sorted(folder / FOLDER / name for name in os.listdir(folder / FOLDER))
    except OSError:
        return []
    read_records = (read(path / NAME) for path in students if not path.is_symlink())
    return [record for record in read_records if record]
