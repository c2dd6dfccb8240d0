"""What is graded, and with what: plain data, which can go to another machine.

GradingSpec    an assignment: its release, its tests, the limits
Submission     what a student handed in
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from course_utils.grading.assignments import Cell, top_level
from course_utils.grading.sandbox.limits import Limits

Files = dict[str, bytes]  # contents by path, relative to the notebook

Notebook = dict[str, Any]

MAX_NOTEBOOK = 300_000_000  # B; outputs that a student forgot to clear are in it


@dataclass(frozen=True)
class ExpectedNames:
    """The names that a student is to define, by what they are for the judge."""

    functions: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @staticmethod
    def of(cells: list[Cell]) -> ExpectedNames:
        """The names that the answer cells of a released notebook define."""
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]

        def found(kind: type[ast.AST]) -> tuple[str, ...]:
            return tuple(sorted({name for source in sources for name in top_level(source, kind)}))

        return ExpectedNames(found(ast.FunctionDef), found(ast.ClassDef))


@dataclass(frozen=True)
class GradingSpec:
    """What the submissions of an assignment are graded with.

    Attributes:
        name: The assignment's name, such as "03_lora".
        names: What a student is to define.
        limits: What a submission may use.
        files: The files beside the assignment's notebook, such as data.
        release: The released notebook, as JSON.
        tests: The full source of each test cell, hidden tests included, by grade id.
        withheld: The modules of the course that a student's process can't import.
        imports: Statements for the warm servers, by role: "student", "judge".
        key: A hash that changes if anything of this does.
    """

    name: str
    names: ExpectedNames
    limits: Limits
    files: Files = field(default_factory=dict)
    release: bytes = b""
    tests: dict[str, str] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    imports: dict[str, str] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True)
class Submission:
    """What a student handed in.

    Attributes:
        student: The student's name.
        notebook: The notebook's bytes; None if there is no notebook that can be read.
        files: The other files.
        exchange: The texts of the files that nbgrader's exchange has added, by name.
        notes: What was noticed while the files were read, one line each.
        fault: Why there is no notebook, or "".
    """

    student: str
    notebook: bytes | None
    files: Files = field(default_factory=dict)
    exchange: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fault: str = ""

    @property
    def key(self) -> str:
        """A hash that changes if anything does that was handed in."""
        files = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        notebook = hashlib.sha256(self.notebook or b"").hexdigest()
        return digest(self.student, notebook, files, self.exchange, self.notes, self.fault)


def digest(*parts: Any) -> str:
    """A hash of values that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
