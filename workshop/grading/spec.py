"""Define the data that grading needs: about the assignment, and about a submission."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workshop.grading.assignments import Cell, Definition, top_level
from workshop.grading.sandbox.bubblewrap import ONLY_SYSTEM, Folders

if TYPE_CHECKING:
    from workshop.grading.sandbox.limits import Limits

# The contents of files, by their paths relative to the notebook's folder.
Files = dict[str, bytes]

Notebook = dict[str, Any]

# Maximum size of a notebook file in bytes (B), including outputs that a student forgot to clear.
MAX_NOTEBOOK = 250_000_000


@dataclass(frozen=True)
class ExpectedNames:
    """The names of the functions and the classes that a student has to define."""

    functions: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @staticmethod
    def of(cells: Iterable[Cell]) -> ExpectedNames:
        """Return the names that the answer cells of a released notebook define."""
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]

        def defined(kind: Definition) -> tuple[str, ...]:
            return tuple(sorted({name for source in sources for name in top_level(source, kind)}))

        return ExpectedNames(defined(ast.FunctionDef), defined(ast.ClassDef))


@dataclass(frozen=True)
class GradingSpec:
    """All data that are needed to grade the submissions of an assignment.

    Attributes:
        files: The other files in the folder of the released notebook, such as data.
        release: The released notebook, as JSON.
        tests: The full source of each test cell, including hidden tests, by grade id.
        imports: The import statements that the warm servers run, by role: "student" or "test".
        folders: What a submission can read on this machine, and what is hidden.
        key: A hash that changes if the release, a test, a file, a withheld module, a limit or the
            course's version changes.
    """

    name: str
    names: ExpectedNames
    limits: Limits
    files: Files = field(default_factory=dict)
    release: bytes = b""
    tests: dict[str, str] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    imports: dict[str, str] = field(default_factory=dict)
    folders: Folders = ONLY_SYSTEM
    key: str = ""


@dataclass(frozen=True)
class Submission:
    """What a student handed in.

    Attributes:
        notebook: The notebook's bytes; None if no notebook could be read.
        files: The other files that the student handed in.
        exchange: The texts of the files that nbgrader's exchange has added, by file name.
        notes: Messages about the files, for example that one was left out; one line each.
        doubts: What was left out when the files were collected; one line each.
        problem: Why no notebook could be read; "" if a notebook was read.
        seed: The seed on which the inputs of the hidden tests depend (`grading.seeds`).
    """

    student: str
    notebook: bytes | None
    files: Files = field(default_factory=dict)
    exchange: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    problem: str = ""
    seed: int = 0

    @functools.cached_property
    def attempt(self) -> str:
        """Return a hash of all files, which identifies one attempt of the student.

        The answers may be in a module or a table that was handed in beside the notebook.
        """
        files = [(path, sha256(self.files[path])) for path in sorted(self.files)]
        return digest(sha256(self.notebook or b""), files)

    def key(self, spec: GradingSpec) -> str:
        """Return a hash that changes if the spec or the submission changes."""
        texts = (self.exchange, self.notes, self.doubts, self.problem)
        return digest(spec.key, self.student, self.attempt, texts)


def is_notebook(path: str) -> bool:
    """Return whether a file is a notebook according to its name; ".IPYNB" is possible, too."""
    return path.casefold().endswith(".ipynb")


def digest(*parts: Any) -> str:
    """Return the SHA-256 hash of values that can be written as JSON, as hexadecimal digits."""
    return sha256(json.dumps(parts, sort_keys=True).encode())


def sha256(data: bytes) -> str:
    """Return the SHA-256 hash of some bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
