"""Marks one submission: reads it, repairs it, runs it, and records what became of it.

    grading_spec   reads the course ──► GradingSpec, what an assignment is graded with
    submission     reads a folder   ──► Submission, what a student handed in
    mark           both of them     ──► a record, and the notebook with its outputs

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
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.grading.assignments import HIDDEN, grade_id, is_answer, is_graded, withheld
from course_utils.grading.intake.repair import Ungradable
from course_utils.grading.referee import FILE, Output, Referee, Servers
from course_utils.grading.results import records
from course_utils.grading.results.records import Record
from course_utils.grading.sandbox.bubblewrap import NoSandbox, SandboxError
from course_utils.grading.sandbox.limits import Limits
from course_utils.grading.sandbox.server import Server, reserved_core
from course_utils.grading.spec import ExpectedNames, GradingSpec, Submission, digest
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


def grading_spec(folder: Path, name: str, limits: Limits) -> GradingSpec:
    """What an assignment is graded with.

    Args:
        folder: The course's folder.
        name: The assignment's name, such as "03_lora".
        limits: What a submission may use.

    Raises:
        CourseError: The solution or the release is no notebook, or they have different tests.
    """
    solution = load(folder / "solutions" / name / f"{name}.ipynb")
    path = folder / "exercises" / name / f"{name}.ipynb"
    release = load(path)
    tests = tests_of(solution)
    if tests.keys() != tests_of(release).keys():
        raise CourseError(f"exercises/{name} has other tests than its solution: run `make release`")
    imports = {"student": _imports(release["cells"]), "judge": _imports(solution["cells"])}
    imports["judge"] += "\nfrom course_utils.grading.intake import isolated"
    beside = {
        file.relative_to(path.parent).as_posix(): file.read_bytes()
        for file in sorted(path.parent.rglob("*"))
        if file.is_file() and file != path and ".ipynb_checkpoints" not in file.parts
    }
    names = ExpectedNames.of([cell for cell in release["cells"] if is_answer(cell)])
    contents = (release, tests, withheld(solution), sorted(beside), str(limits), __version__)
    return GradingSpec(
        name=name,
        release=json.dumps(release).encode(),
        tests=tests,
        names=names,
        withheld=withheld(solution),
        imports=imports,
        files=beside,
        limits=limits,
        key=digest(*contents, [hashlib.sha256(data).hexdigest() for data in beside.values()]),
    )


def tests_of(notebook: Notebook) -> dict[str, str]:
    """The sources of the cells that test answers, by grade id."""
    return {
        cell_id: cell["source"]
        for cell in notebook["cells"]
        if is_graded(cell) and not is_answer(cell) and (cell_id := grade_id(cell))
    }


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

    Args:
        folder: The submission's folder.
        name: The assignment's name.
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

    Args:
        folder: The folder.
        first: Names that are listed first, so that they aren't left out if there is too much.
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

    A stray file gets a record, so that nobody is forgotten, but nbgrader would keep it as a student
    for good.

    Args:
        submitted: The folder of all students.
        student: A name in this folder.
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


def key(spec: GradingSpec, given: Submission) -> str:
    """A hash that changes if the submission does, or what it is graded with."""
    return digest(spec.key, given.key)


def mark(spec: GradingSpec, given: Submission) -> tuple[Record, Notebook]:
    """Mark a submission.

    Returns:
        The record, without points, and the notebook with outputs.

    Raises:
        SandboxError: The sandbox fails. Nothing that the student did raises an error.
        NoSandbox: No sandbox can be made.
    """
    if given.notebook is None:
        return failed(spec, given, given.fault)
    started = time.monotonic()
    with reserved_core() as core, Referee(servers(spec), spec, given, core) as referee:
        try:
            repaired = referee.repair(given.notebook, spec.release)
        except Ungradable as error:
            return failed(spec, given, str(error), time.monotonic() - started)
        notebook = repaired["notebook"]
        run(notebook, spec, referee)
    record = Record(
        assignment=spec.name,
        student=given.student,
        key=key(spec, given),
        state=records.GRADED,
        reasons=tuple(repaired["doubts"]),
        repairs=(*given.notes, *repaired["notes"]),
        incidents=tuple(referee.incidents),
        seconds=time.monotonic() - started,
        memory=referee.memory,
    )
    return record, notebook


def failed(
    spec: GradingSpec, given: Submission, reason: str, seconds: float = 0.0, *, final: bool = True
) -> tuple[Record, Notebook]:
    """The record and the notebook of a submission that can't be graded.

    Args:
        spec: What the submission should have been graded with.
        given: The submission.
        reason: Why it can't be graded, in one sentence.
        seconds: How long it took to find out.
        final: Whether the submission itself caused the failure. If it did not, the next run grades
            the submission again.

    Returns:
        The record, and the released notebook with the reason at the top.
    """
    record = Record(
        assignment=spec.name,
        student=given.student,
        key=key(spec, given) if final else "",
        state=records.UNGRADABLE,
        reasons=(reason,),
        seconds=seconds,
    )
    text = f"**This submission could not be graded:** {re.sub(r'[`*_<>&$]', ' ', reason)}"
    top = {"cell_type": "markdown", "id": "ungradable", "metadata": {}, "source": text}
    release = json.loads(spec.release)
    return record, {**release, "cells": [top, *release["cells"]]}


def run(notebook: Notebook, spec: GradingSpec, referee: Referee) -> None:
    """Put the tests into their cells, run all code cells, and add their outputs."""
    for place, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        name = grade_id(cell)
        test = spec.tests.get(name)
        if test is not None:
            cell["source"] = test
            # In the student's own notebook, later cells can use what a test cell imports.
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

_servers: dict[str, Servers] = {}  # by the key of a GradingSpec; at most one
_starting = threading.RLock()


@functools.cache
def _keeper() -> ThreadPoolExecutor:
    """The thread that starts sandboxes. A sandbox ends with the thread that started it."""
    return ThreadPoolExecutor(1, "sandboxes")


def servers(spec: GradingSpec) -> Servers:
    """The warm servers for an assignment.

    A process has the servers of one assignment at a time: those of another one are closed.

    Raises:
        NoSandbox: No sandbox can be made.
    """
    with _starting:
        running = _servers.get(spec.key)
        if running is None or not all(server.alive for server in running):
            close_servers()
            student = _keeper().submit(Server, spec.imports["student"], spec.withheld)
            judge = _keeper().submit(Server, spec.imports["judge"])
            try:
                _servers[spec.key] = Servers(student.result(), judge.result())
            except SandboxError as error:
                raise NoSandbox(str(error)) from None
        return _servers[spec.key]


def close_servers() -> None:
    """End this process's sandboxes."""
    with _starting:
        for running in _servers.values():
            for server in running:
                server.close()
        _servers.clear()
