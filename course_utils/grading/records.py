"""What became of each submission: its state, why, its points, and what it took.

A record is a JSON file, `grading/ASSIGNMENT/STUDENT/record.json`. It is written after the
gradebook, so that a run that was cut off goes on with the submissions that have none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

GRADED, PERSON, UNGRADABLE = "graded", "needs a person", "ungradable"
NAME = "record.json"
STATES = (GRADED, PERSON, UNGRADABLE)


@dataclass(frozen=True)
class Record:
    """One graded submission.

    state: one of STATES. reasons: why a person is needed, or why it can't be graded, one line each.
    repairs: what was mended before grading, one line each.
    incidents: what happened in the run, such as an answer that took too long, one line each.
    points: by the id of a graded cell; None where a person gives them and hasn't yet.
    messages: by the id of a graded cell that lost points, what its check said.
    seconds: that grading took. memory: largest of the student's processes together, in B.
    key: names the submission and the tests that it was graded with.
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
        """Put the record below the assignment's folder, whole or not at all."""
        write_whole(folder / self.student / NAME, json.dumps(asdict(self), indent=1).encode())


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file, whole or not at all; what a run that was killed has left is written over.

    mode: its permissions, if they are to be others than usual.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.write_bytes(data)
    if mode is not None:
        part.chmod(mode)
    part.replace(path)


def by_hand(cell: str) -> str:
    """The reason of a submission in which a graded cell waits for a person's points."""
    return f"a person gives the points of {cell}"


def read(path: Path) -> Record | None:
    """A record; None where there is none, or one that can't be read: then it is graded again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(content[name]) for name in ("reasons", "repairs", "incidents")}
        return Record(**content | lists)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_all(folder: Path) -> list[Record]:
    """The records below an assignment's folder, by student."""
    return [record for path in sorted(folder.glob(f"*/{NAME}")) if (record := read(path))]
