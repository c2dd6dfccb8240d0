"""Define what a submission is graded with, and what a student handed in."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.machine.notebooks import load
from course_utils.machine.validation import CourseError
from workshop.grading import release
from workshop.grading.assignments import (
    Cell,
    Definition,
    is_answer,
    syntax_tree,
    tests_of,
    top_level,
    withheld,
)
from workshop.grading.sandbox.bubblewrap import ONLY_SYSTEM, Folders
from workshop.grading.sandbox.limits import Limits

# The contents of files, by their paths relative to the notebook's folder.
Files = dict[str, bytes]

Notebook = dict[str, Any]

# The ending of a notebook's file name.
NOTEBOOK = ".ipynb"
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
    """What the submissions of an assignment are graded with.

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
    path: str = ""

    @functools.cached_property
    def attempt(self) -> str:
        """Return a hash of all files, which identifies one attempt of the student.

        The answers may be in a module or a table that was handed in beside the notebook.
        """
        files = [(path, _sha256(self.files[path])) for path in sorted(self.files)]
        return digest(_sha256(self.notebook or b""), files)

    def key(self, spec: GradingSpec) -> str:
        """Return a hash that changes if the spec or anything that was handed in changes."""
        texts = (self.exchange, self.notes, self.doubts, self.problem)
        return digest(spec.key, self.student, self.attempt, texts)


def read(folder: Path, name: str, limits: Limits) -> GradingSpec:
    """Read the course and return what an assignment is graded with.

    Raises:
        CourseError: The solution or the release is missing or is not a notebook.
    """
    path = folder / "exercises" / name / f"{name}.ipynb"
    if not path.is_file():
        raise CourseError(f"{name} has no release in exercises/: run `course release {name}`")
    solution, released = load(folder / "solutions" / name / f"{name}.ipynb"), load(path)
    imports = {"student": _imports(released["cells"]), "test": _imports(solution["cells"])}
    imports["test"] += "\nfrom workshop.grading import repair"
    other_files = {
        file.relative_to(path.parent).as_posix(): file.read_bytes()
        for file in sorted(path.parent.rglob("*"))
        if file.is_file() and file != path and ".ipynb_checkpoints" not in file.parts
    }
    tests, hidden = tests_of(solution), withheld(solution)
    contents = {name: _sha256(data) for name, data in other_files.items()}
    return GradingSpec(
        name=name,
        release=json.dumps(released).encode(),
        tests=tests,
        names=ExpectedNames.of(filter(is_answer, released["cells"])),
        withheld=hidden,
        imports=imports,
        folders=release.sandbox_folders(folder),
        files=other_files,
        limits=limits,
        key=digest(released, tests, hidden, contents, str(limits), __version__),
    )


def _imports(cells: list[Cell]) -> str:
    """Return the import statements of some cells, one per line, without duplicates."""
    sources = (cell["source"] for cell in cells if cell["cell_type"] == "code")
    return "\n".join(
        dict.fromkeys(line for source in sources for line in imports_of(source).split("\n"))
    )


@functools.cache
def imports_of(source: str) -> str:
    """Return the import statements of a cell, one per line, without the cell's other lines."""
    imports = [n for n in syntax_tree(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, imports))


def is_notebook(path: str) -> bool:
    """Return whether a file is a notebook according to its name; ".IPYNB" is possible, too."""
    return path.casefold().endswith(NOTEBOOK)


def digest(*parts: Any) -> str:
    """Return the SHA-256 hash of values that can be written as JSON, as hexadecimal digits."""
    return _sha256(json.dumps(parts, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
