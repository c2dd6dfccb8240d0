"""Marks one submission: reads it, repairs it, runs it, and says what became of it.

    Paper        what an assignment is marked with: its release, its tests
    Submission   what a student handed in
    mark         both of them ──► a record, and the notebook with its outputs

`mark` neither reads nor writes a file of the course, so it can run on another machine.
"""

from __future__ import annotations

import ast
import errno
import functools
import hashlib
import json
import os
import re
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.grading import records
from course_utils.grading.assignments import HIDDEN, grade_id, is_answer, is_graded, withheld
from course_utils.grading.records import Record
from course_utils.grading.referee import FILE, Names, Output, Referee
from course_utils.grading.repair import Ungradable
from course_utils.grading.sandbox import Limits, NoSandbox, SandboxError, Server, a_core
from course_utils.notebooks import load
from course_utils.runtime import CourseError

Notebook = dict[str, Any]

SIZE = 50_000_000  # B of the files besides the notebook, together
ENTRIES, DEPTH, NOTES = 1_000, 20, 20  # files that are looked at, folders in folders, notes
STUDENT = 128  # characters of a student's name, as in nbgrader's database
TIME = "timestamp.txt"  # when it was handed in
EXCHANGE = (TIME, "submission_secret.txt")  # files of nbgrader's exchange, not for the sandbox
SMALL = 1_000  # B of such a file, at most
MESSAGE = 4_000  # characters of a failed check's message that are kept


@dataclass(frozen=True)
class Paper:
    """What an assignment is marked with.

    release: the released notebook, as JSON. tests: full source of each test cell, hidden tests
    included, by grade id. imports: statements for the warm servers, by role. files: those that lie
    beside the solution, such as data. key: changes if anything of this does.
    """

    name: str
    release: bytes
    tests: dict[str, str]
    names: Names
    withheld: tuple[str, ...]
    imports: dict[str, str]
    files: dict[str, bytes]
    limits: Limits
    key: str


@dataclass(frozen=True)
class Submission:
    """What a student handed in. notebook: None, with the reason in `fault`, if there is none.

    files: contents of the others, by path relative to the notebook. exchange: those that nbgrader's
    exchange put there.
    """

    student: str
    notebook: bytes | None
    files: dict[str, bytes] = field(default_factory=dict)
    exchange: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fault: str = ""

    @property
    def key(self) -> str:
        """Changes if anything does that was handed in."""
        files = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        notebook = hashlib.sha256(self.notebook or b"").hexdigest()
        return _key(self.student, notebook, files, self.exchange, self.notes, self.fault)


def paper(folder: Path, name: str, limits: Limits) -> Paper:
    """The paper of an assignment in the course in `folder`.

    Raises CourseError if its solution or its release is no notebook, or they don't fit together.
    """
    solution = load(folder / "solutions" / name / f"{name}.ipynb")
    path = folder / "exercises" / name / f"{name}.ipynb"
    release = load(path)
    tests = tests_of(solution)
    if tests.keys() != tests_of(release).keys():
        raise CourseError(f"exercises/{name} has other tests than its solution: run `make release`")
    imports = {"student": _imports(release["cells"]), "judge": _imports(solution["cells"])}
    imports["judge"] += "\nfrom course_utils.grading import repair"
    beside = {
        file.relative_to(path.parent).as_posix(): file.read_bytes()
        for file in sorted(path.parent.rglob("*"))
        if file.is_file() and file != path and ".ipynb_checkpoints" not in file.parts
    }
    names = Names.of([cell for cell in release["cells"] if is_answer(cell)])
    contents = (release, tests, withheld(solution), sorted(beside), str(limits), __version__)
    return Paper(
        name=name,
        release=json.dumps(release).encode(),
        tests=tests,
        names=names,
        withheld=withheld(solution),
        imports=imports,
        files=beside,
        limits=limits,
        key=_key(*contents, [hashlib.sha256(data).hexdigest() for data in beside.values()]),
    )


def tests_of(notebook: Notebook) -> dict[str, str]:
    """The sources of the cells that test answers, by grade id."""
    return {
        cell_id: cell["source"]
        for cell in notebook["cells"]
        if is_graded(cell) and not is_answer(cell) and (cell_id := grade_id(cell))
    }


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _imports(cells: list[dict[str, Any]]) -> str:
    """The import statements of some cells, each once."""
    found: dict[str, None] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            found |= dict.fromkeys(imports_of(cell["source"]).splitlines())
    return "\n".join(found)


@functools.cache
def imports_of(source: str) -> str:
    """The import statements of a cell, without the cell's other lines."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return ""
    return "\n".join(ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom))


# --- what was handed in ---------------------------------------------------------------------------


def submission(folder: Path, name: str) -> Submission:
    """What lies in submitted/STUDENT/NAME. Links are not followed, and nothing else than regular
    files is opened; never raises for what a student put there."""
    student = folder.parent.name
    if fault := name_fault(student):
        return Submission(student, None, fault=fault)
    if folder.is_symlink() or folder.parent.is_symlink():
        return Submission(student, None, fault="the folder is a link, which is not followed")
    found, notes = _listed(folder)
    notebook = found.pop(f"{name}.ipynb", None)
    if notebook is None:
        others = [path for path in found if path.endswith(".ipynb") and "/" not in path]
        likely = [path for path in others if name in path] or others
        if len(likely) != 1:
            given = ", ".join(map(repr, sorted(found)[:5])) or "nothing"
            fault = "; ".join([f"there is no {name}.ipynb: {given} was handed in", *notes[:3]])
            return Submission(student, None, fault=fault)
        notebook = found.pop(likely[0])
        notes.append(f"the notebook was called {likely[0]!r}")
    exchange = {n: found.pop(n)[:SMALL].decode("utf-8", "replace") for n in EXCHANGE if n in found}
    return Submission(student, notebook, found, exchange, tuple(notes))


def _listed(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Contents of the regular files in a folder, and what was left out."""
    found: dict[str, bytes] = {}
    notes: list[str] = []
    room, entries, folders = SIZE, 0, [(os.fspath(folder), 0)]
    while folders and entries < ENTRIES:
        place, depth = folders.pop()
        for name in sorted(os.listdir(place))[:ENTRIES]:
            entries += 1
            path = os.path.join(place, name)
            shown = os.path.relpath(path, folder)
            if os.path.isdir(path) and not os.path.islink(path):
                folders += [(path, depth + 1)] if depth < DEPTH else []
                continue
            notebook = depth == 0 and name.endswith(".ipynb")
            data = _content(path, FILE if notebook else room)
            if isinstance(data, str):
                notes.append(f"{_readable(shown)} was left out: {data}")
            else:
                found[shown] = data
                room -= 0 if notebook else len(data)
    return found, notes[:NOTES]


def _content(path: str, most: int) -> bytes | str:
    """The bytes of a regular file; or why it isn't read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                return "it is no regular file"
            if about.st_size > most:
                return f"it is too large ({about.st_size / 1e6:,.0f} MB)"
            return stream.read(most)
    except OSError as fault:
        return "it is a link" if fault.errno == errno.ELOOP else str(fault.strerror)


def _readable(name: str) -> str:
    return repr(name.encode("utf-8", "replace").decode()[:100])


def name_fault(student: str) -> str:
    """Why the gradebook can't take a student under this name; "" if it can."""
    try:
        student.encode()
    except UnicodeEncodeError:
        return "the name of the folder isn't UTF-8: rename it"
    return f"the name is longer than {STUDENT} characters" if len(student) > STUDENT else ""


# --- marking --------------------------------------------------------------------------------------


def key(paper: Paper, given: Submission) -> str:
    """Changes if the submission does, or what it is marked with."""
    return _key(paper.key, given.key)


def mark(paper: Paper, given: Submission) -> tuple[Record, Notebook]:
    """The record of a submission without its points, and the notebook with outputs.

    Raises SandboxError if the sandbox fails, NoSandbox if there can be none; never for what the
    student did.
    """
    if given.notebook is None:
        return failed(paper, given, given.fault)
    started = time.monotonic()
    what = (*servers(paper), paper.names, paper.limits, paper.files, given.files)
    with a_core() as core, Referee(*what, core) as referee:
        try:
            repaired = referee.repair(given.notebook, paper.release)
        except Ungradable as fault:
            return failed(paper, given, str(fault), time.monotonic() - started)
        notebook = repaired["notebook"]
        run(notebook, paper, referee)
    record = Record(
        assignment=paper.name,
        student=given.student,
        key=key(paper, given),
        state=records.GRADED,
        reasons=tuple(repaired["doubts"]),
        repairs=(*given.notes, *repaired["notes"]),
        incidents=tuple(referee.incidents),
        seconds=time.monotonic() - started,
        memory=referee.memory,
    )
    return record, notebook


def failed(
    paper: Paper, given: Submission, reason: str, seconds: float = 0.0
) -> tuple[Record, Notebook]:
    """What becomes of a submission that can't be graded: the release, with the reason on top."""
    record = Record(
        assignment=paper.name,
        student=given.student,
        key=key(paper, given),
        state=records.UNGRADABLE,
        reasons=(reason,),
        seconds=seconds,
    )
    text = f"**This submission could not be graded:** {re.sub(r'[`*_<>&$]', ' ', reason)}"
    top = {"cell_type": "markdown", "id": "ungradable", "metadata": {}, "source": text}
    release = json.loads(paper.release)
    return record, {**release, "cells": [top, *release["cells"]]}


def run(notebook: Notebook, paper: Paper, referee: Referee) -> None:
    """Run all code cells, put the tests into their cells, and the outputs below."""
    for place, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        name = grade_id(cell)
        test = paper.tests.get(name)
        if test is not None:
            cell["source"] = test
            # What a test cell imports in the student's own notebook is there for later cells.
            if imports := imports_of(test.partition(HIDDEN)[0]):
                referee.run(imports, name)
            cell["outputs"] = referee.check(test, name)
        elif cell["source"].strip():
            cell["outputs"] = referee.run(cell["source"], name or f"cell {place}")


def messages(notebook: Notebook) -> dict[str, str]:
    """What the failed checks of a graded notebook said, by grade id."""
    found = {}
    for cell in notebook["cells"]:
        errors = [o for o in cell.get("outputs", ()) if o["output_type"] == "error"]
        if is_graded(cell) and errors:
            found[grade_id(cell)] = _message(errors[0])[:MESSAGE]
    return found


def _message(error: Output) -> str:
    failed = error["ename"] == "CheckFailed"
    return "\n".join(error["traceback"]) if failed else f"{error['ename']}: {error['evalue']}"


# --- servers of this process ----------------------------------------------------------------------

_servers: dict[str, tuple[Server, Server]] = {}
_starting = threading.RLock()


@functools.cache
def _keeper() -> ThreadPoolExecutor:
    """The thread that starts sandboxes: they end with the thread that started them."""
    return ThreadPoolExecutor(1, "sandboxes")


def servers(paper: Paper) -> tuple[Server, Server]:
    """The warm servers for a paper: of students' processes, and of judges'. There is one pair in a
    process; that of another paper is closed."""
    with _starting:
        pair = _servers.get(paper.key)
        if pair is None or not all(server.alive for server in pair):
            close_servers()
            student = _keeper().submit(Server, paper.imports["student"], paper.withheld)
            judge = _keeper().submit(Server, paper.imports["judge"])
            try:
                _servers[paper.key] = student.result(), judge.result()
            except SandboxError as fault:
                raise NoSandbox(str(fault)) from None
        return _servers[paper.key]


def close_servers() -> None:
    """End this process's sandboxes."""
    with _starting:
        for pair in _servers.values():
            for server in pair:
                server.close()
        _servers.clear()
