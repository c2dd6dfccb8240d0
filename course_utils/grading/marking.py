"""Marks one submission: reads it, repairs it, runs it, and says what became of it.

    Paper        what an assignment is marked with: its release, its tests
    Submission   what a student handed in
    mark         both of them ──► a record, and the notebook with its outputs

`mark` neither reads nor writes a file of the course, so it can run on another machine.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.grading.assignments import HIDDEN, grade_id, is_answer, is_graded, withheld
from course_utils.grading.intake.repair import Ungradable
from course_utils.grading.referee import FILE, Names, Output, Referee
from course_utils.grading.results import records
from course_utils.grading.results.records import Record
from course_utils.grading.sandbox.bubblewrap import Limits, NoSandbox, SandboxError, Server, a_core
from course_utils.notebooks import load
from course_utils.validation import CourseError

Notebook = dict[str, Any]

SIZE = 50_000_000  # B of the files besides the notebook, together
ENTRIES, DEPTH, NOTES = 1_000, 20, 20  # files that are looked at, folders in folders, notes
STUDENT = 128  # characters of a student's name, as in nbgrader's database
TIME = "timestamp.txt"  # when it was handed in
EXCHANGE = (TIME, "submission_secret.txt")  # files of nbgrader's exchange, not for the sandbox
SMALL = 1_000  # B of such a file, at most
MESSAGE = 4_000  # characters of a failed check's message that are kept
LINE = 300  # characters of an exception's message


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
    imports["judge"] += "\nfrom course_utils.grading.intake import repair"
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
    """Read submitted/STUDENT/NAME, the folder of one submission.

    Links are not followed, and only regular files are opened. Nothing that a student may
    have put there raises an error: the `fault` of a submission says why it can't be read.
    """
    student = folder.parent.name
    try:
        fault = name_fault(student) or _place_fault(folder)
        return Submission(student, None, fault=fault) if fault else _read(folder, name)
    except MemoryError:
        raise
    except Exception as fault:
        why = words(fault, folder.parent.parent.parent)
        return Submission(student, None, fault=f"the submission can't be read: {why}")


def _place_fault(folder: Path) -> str:
    """Why the submission at this path isn't read; "" if it and its parent are folders."""
    for place in (folder.parent, folder):
        what = records.kind(place)
        if what == "a link":
            return "the folder is a link, which is not followed"
        if what != "a folder":
            where = records.visible("/".join(place.parts[-2:]))
            return f"{where} is {what}, not a folder that holds a notebook"
    return ""


def _read(folder: Path, name: str) -> Submission:
    """Read a folder's notebook, whatever the notebook is called, and the folder's other files."""
    student, wanted = folder.parent.name, f"{name}.ipynb"
    paths, notes = _listed(folder, {wanted, *EXCHANGE})
    likely = _notebook(folder, paths, name)
    found: dict[str, bytes] = {}
    room = SIZE
    for path in paths:
        try:
            found[path] = records.content(folder / path, FILE if path == likely else room)
            room -= 0 if path == likely else len(found[path])
        except OSError as fault:
            notes.append(f"{_readable(path)} was left out: {fault.strerror}")
    notebook = found.pop(likely, None)
    if notebook is None:
        given = ", ".join(map(repr, sorted(found)[:5])) or "nothing"
        fault = "; ".join([f"there is no {wanted}: {given} was handed in", *notes[:3]])
        return Submission(student, None, fault=fault)
    if likely != wanted:
        notes.append(f"the notebook was called {likely!r}")
    exchange = {n: found.pop(n)[:SMALL].decode("utf-8", "replace") for n in EXCHANGE if n in found}
    return Submission(student, notebook, found, exchange, tuple(notes[:NOTES]))


def _listed(folder: Path, first: set[str]) -> tuple[list[str], list[str]]:
    """The relative paths of all files in a folder, and notes on what was left out.

    first: names that are listed first, so that they aren't left out if there is too much.
    """
    paths: list[str] = []
    notes: list[str] = []
    entries, folders = 0, [("", 0)]
    while folders and entries < ENTRIES:
        place, depth = folders.pop()
        try:
            names = sorted(os.listdir(folder / place), key=lambda name: (name not in first, name))
        except OSError as fault:
            if not place:
                raise
            notes.append(f"{_readable(place)} was left out: {fault.strerror}")
            continue
        if len(names) > ENTRIES:
            notes.append(f"of {len(names):,} files, only the first {ENTRIES:,} were looked at")
        for name in names[:ENTRIES]:
            entries += 1
            path = os.path.join(place, name)
            if not os.path.isdir(folder / path) or os.path.islink(folder / path):
                paths.append(path)
            elif path in first:
                notes.append(f"{_readable(path)} was left out: it is a folder")
            elif depth < DEPTH:
                folders.append((path, depth + 1))
            else:
                notes.append(f"{_readable(path)} was left out: it is {depth} folders deep")
    if folders:
        notes.append(f"further folders were left out: there are more than {ENTRIES:,} files")
    return paths, notes


def _notebook(folder: Path, paths: list[str], name: str) -> str:
    """The path of the notebook that has the assignment's name, or of the only notebook; else ""."""
    notebooks = [path for path in paths if path.endswith(".ipynb") and "/" not in path]
    files = [path for path in notebooks if records.kind(folder / path) == "a file"]
    if f"{name}.ipynb" in files:
        return f"{name}.ipynb"
    likely = [path for path in files if name in path] or files
    return likely[0] if len(likely) == 1 else ""


def _readable(name: str) -> str:
    return repr(name.encode("utf-8", "replace").decode()[:100])


def name_fault(student: str) -> str:
    """Why the gradebook can't take a student under this name; "" if it can."""
    try:
        student.encode()
    except UnicodeEncodeError:
        return "the name of the folder isn't UTF-8: rename it"
    return f"the name is longer than {STUDENT} characters" if len(student) > STUDENT else ""


def in_gradebook(submitted: Path, student: str) -> bool:
    """Whether the gradebook should have a student: a folder of a name that it can store.

    submitted: the folder of all students. A stray file in it gets a record, so that nobody is
    forgotten, but nbgrader would keep it as a student for good.
    """
    return not name_fault(student) and os.path.isdir(submitted / student)


def words(fault: BaseException, folder: Path) -> str:
    """An exception's message in one line, with paths relative to the course's `folder`."""
    if isinstance(fault, OSError) and fault.strerror:
        where = os.fsdecode(fault.filename) if isinstance(fault.filename, str | bytes) else ""
        where = records.visible(where.removeprefix(f"{folder}{os.sep}"))
        return f"{where}: {fault.strerror}" if where else fault.strerror
    line = records.visible(str(fault).strip().partition("\n")[0][:LINE])
    return line if line and isinstance(fault, CourseError) else f"{type(fault).__name__}: {line}"


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
    paper: Paper, given: Submission, reason: str, seconds: float = 0.0, *, final: bool = True
) -> tuple[Record, Notebook]:
    """The record and the notebook of a submission that can't be graded.

    The notebook is the released one, with the reason at the top. final: whether the submission
    itself caused the failure. If it did not, the next run grades the submission again.
    """
    record = Record(
        assignment=paper.name,
        student=given.student,
        key=key(paper, given) if final else "",
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
