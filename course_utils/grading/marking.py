"""Mark one submission: repair its notebook, run the cells and tests, and return a record.

    grading_spec         reads the course ──► GradingSpec, what an assignment is graded with
    intake.submissions   reads a folder   ──► Submission, what a student handed in
    mark                 both of them     ──► a record, and the notebook with its outputs

`mark` neither reads nor writes a file of the course, so it can run on another machine.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.checks import HIDDEN
from course_utils.grading.assignments import (
    grade_id,
    is_answer,
    tests_of,
    withheld,
)
from course_utils.grading.intake.repair import Ungradable
from course_utils.grading.results import records
from course_utils.grading.results.records import Record
from course_utils.grading.sandbox.bubblewrap import NoSandbox, SandboxError
from course_utils.grading.sandbox.limits import Limits
from course_utils.grading.sandbox.server import Server, reserved_core
from course_utils.grading.session import GradingSession, Servers
from course_utils.grading.spec import ExpectedNames, GradingSpec, Notebook, Submission, digest
from course_utils.notebooks import load
from course_utils.validation import CourseError


def grading_spec(folder: Path, name: str, limits: Limits) -> GradingSpec:
    """Read the course and return what an assignment is graded with.

    Args:
        folder: The course's folder.
        name: The assignment's name, such as "03_lora".
        limits: The resources that a submission may use.

    Raises:
        CourseError: The solution or the release is no notebook, or the solution and the release
            have different tests.
    """
    solution = load(folder / "solutions" / name / f"{name}.ipynb")
    path = folder / "exercises" / name / f"{name}.ipynb"
    release = load(path)
    tests = tests_of(solution)
    if tests.keys() != tests_of(release).keys():
        raise CourseError(f"exercises/{name} has other tests than its solution: run `make release`")
    imports = {"student": _imports(release["cells"]), "test": _imports(solution["cells"])}
    imports["test"] += "\nfrom course_utils.grading.intake import isolated"
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


def _imports(cells: list[dict[str, Any]]) -> str:
    """Return the import statements of some cells, one per line, without duplicates."""
    found: dict[str, None] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            found |= dict.fromkeys(imports_of(cell["source"]).splitlines())
    return "\n".join(found)


@functools.cache
def imports_of(source: str) -> str:
    """Return the import statements of a cell, one per line, without the cell's other lines."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return ""
    return "\n".join(ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom))


# --- marking --------------------------------------------------------------------------------------


def key(spec: GradingSpec, given: Submission) -> str:
    """Return a hash that changes if the submission or the GradingSpec changes."""
    return digest(spec.key, given.key)


def mark(spec: GradingSpec, given: Submission) -> tuple[Record, Notebook]:
    """Mark a submission and return its record and notebook.

    Nothing that a student hands in raises an error.

    Returns:
        The record, still without points, and the notebook with outputs.

    Raises:
        SandboxError: The sandbox fails.
        NoSandbox: No sandbox can be made.
    """
    if given.notebook is None:
        return failed(spec, given, given.fault)
    started = time.monotonic()
    with reserved_core() as core, GradingSession(servers(spec), spec, given, core) as session:
        try:
            repaired = session.repair(given.notebook, spec.release)
        except Ungradable as error:
            return failed(spec, given, str(error), time.monotonic() - started)
        notebook = repaired["notebook"]
        run(notebook, spec, session)
    record = Record(
        assignment=spec.name,
        student=given.student,
        key=key(spec, given),
        state=records.GRADED,
        reasons=tuple(repaired["doubts"]),
        repairs=(*given.notes, *repaired["notes"]),
        incidents=tuple(session.incidents),
        seconds=time.monotonic() - started,
        memory=session.memory,
    )
    return record, notebook


def failed(
    spec: GradingSpec, given: Submission, reason: str, seconds: float = 0.0, *, final: bool = True
) -> tuple[Record, Notebook]:
    """Return the record and the notebook of a submission that can't be graded.

    Args:
        spec: What the submission should have been graded with.
        given: The submission.
        reason: Why the submission can't be graded, in one sentence.
        seconds: Seconds that were spent on the submission until it failed.
        final: Whether the submission itself caused the failure. If the submission did not cause
            the failure, the next run grades the submission again.

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


def run(notebook: Notebook, spec: GradingSpec, session: GradingSession) -> None:
    """Put the original tests into the test cells, run all code cells, and add their outputs."""
    for place, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        name = grade_id(cell)
        test = spec.tests.get(name)
        if test is not None:
            cell["source"] = test
            # In a student's notebook, later cells can use what a test cell imports. So the visible
            # imports of a test cell also run in the student process.
            if imports := imports_of(test.partition(HIDDEN)[0]):
                session.run(imports, name)
            cell["outputs"] = session.check(test, name)
        elif cell["source"].strip():
            cell["outputs"] = session.run(cell["source"], name or f"cell {place}")


# --- servers of this process ----------------------------------------------------------------------

# The running servers, by the key of their GradingSpec. The dictionary has at most one entry.
_servers: dict[str, Servers] = {}
_starting = threading.RLock()


@functools.cache
def _keeper() -> ThreadPoolExecutor:
    """Return an executor with the one thread that starts all sandboxes of this process.

    A sandbox ends when the thread that started it ends, so this thread runs as long as the process.
    """
    return ThreadPoolExecutor(1, "sandboxes")


def servers(spec: GradingSpec) -> Servers:
    """Return the warm servers for an assignment.

    A process has the servers of only one assignment at a time. The servers of any other assignment
    are closed first.

    Raises:
        NoSandbox: No sandbox can be made.
    """
    with _starting:
        running = _servers.get(spec.key)
        if running is None or not all(server.alive for server in running):
            close_servers()
            student = _keeper().submit(Server, spec.imports["student"], spec.withheld)
            test = _keeper().submit(Server, spec.imports["test"])
            try:
                _servers[spec.key] = Servers(student.result(), test.result())
            except SandboxError as error:
                raise NoSandbox(str(error)) from None
        return _servers[spec.key]


def close_servers() -> None:
    """End all sandboxes of this process."""
    with _starting:
        for running in _servers.values():
            for server in running:
                server.close()
        _servers.clear()
