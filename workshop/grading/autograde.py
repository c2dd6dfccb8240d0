"""Grade one submission: repair its notebook, run the cells and tests, and return a record.

    grading_spec         reads the course ──► GradingSpec, what an assignment is graded with
    read                 reads a folder   ──► Submission, what a student handed in
    grade                uses both        ──► a record, and the notebook with its outputs

`grade` neither reads nor writes a file of the course, so it can run on another machine.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.exercise.checks import HIDDEN
from course_utils.machine.notebooks import load
from course_utils.machine.validation import CourseError
from workshop.grading.assignments import grade_id, is_answer, tests_of, withheld
from workshop.grading.choice import choose
from workshop.grading.failures import Failures
from workshop.grading.records import Record
from workshop.grading.release import private_paths
from workshop.grading.repair import Ungradable
from workshop.grading.sandbox.bubblewrap import NoSandbox, SandboxError
from workshop.grading.sandbox.limits import Limits
from workshop.grading.sandbox.server import Server, reserved_core
from workshop.grading.session import GradingSession, Servers
from workshop.grading.spec import ExpectedNames, GradingSpec, Notebook, Submission, digest


def grading_spec(folder: Path, name: str, limits: Limits) -> GradingSpec:
    """Read the course and return what an assignment is graded with.

    Raises:
        CourseError: The solution or the release is not a notebook, or the solution and the release
            have different tests.
    """
    solution = load(folder / "solutions" / name / f"{name}.ipynb")
    path = folder / "exercises" / name / f"{name}.ipynb"
    release = load(path)
    tests = tests_of(solution)
    if tests.keys() != tests_of(release).keys():
        raise CourseError(
            f"exercises/{name} and solutions/{name} have different tests: run `make release`"
        )
    imports = {"student": _imports(release["cells"]), "test": _imports(solution["cells"])}
    imports["test"] += "\nfrom workshop.grading import isolated"
    other_files = {
        file.relative_to(path.parent).as_posix(): file.read_bytes()
        for file in sorted(path.parent.rglob("*"))
        if file.is_file() and file != path and ".ipynb_checkpoints" not in file.parts
    }
    names = ExpectedNames.of([cell for cell in release["cells"] if is_answer(cell)])
    contents = (release, tests, withheld(solution), sorted(other_files), str(limits), __version__)
    return GradingSpec(
        name=name,
        release=json.dumps(release).encode(),
        tests=tests,
        names=names,
        withheld=withheld(solution),
        imports=imports,
        private=private_paths(folder),
        files=other_files,
        limits=limits,
        key=digest(*contents, [hashlib.sha256(data).hexdigest() for data in other_files.values()]),
    )


def _imports(cells: list[dict[str, Any]]) -> str:
    """Return the import statements of some cells, one per line, without duplicates."""
    lines: dict[str, None] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            lines |= dict.fromkeys(imports_of(cell["source"]).splitlines())
    return "\n".join(lines)


@functools.cache
def imports_of(source: str) -> str:
    """Return the import statements of a cell, one per line, without the cell's other lines."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return ""
    return "\n".join(ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom))


# --- grading --------------------------------------------------------------------------------------


def record_key(spec: GradingSpec, submission: Submission) -> str:
    """Return a hash that changes if the submission or the GradingSpec changes."""
    return digest(spec.key, submission.key)


def grade(spec: GradingSpec, submission: Submission) -> tuple[Record, Notebook]:
    """Run a submission's notebook with the original tests, and return a record and the notebook.

    Even a broken submission doesn't make this function raise an error.

    Returns:
        The record, which does not contain the points yet, and the notebook with its outputs.
        nbgrader computes the points from the outputs (`save`).

    Raises:
        NoSandbox: No sandbox can be created.
    """
    if submission.notebook is None:
        return ungradable(spec, submission, submission.problem)
    started = time.monotonic()
    with reserved_core() as core, GradingSession(servers(spec), spec, submission, core) as session:
        try:
            repaired = choose(
                submission, spec.files, lambda data: session.repair(data, spec.release)
            )
        except Ungradable as error:
            return ungradable(spec, submission, str(error), time.monotonic() - started)
        notebook = repaired.notebook
        run_cells(notebook, spec, session)
    doubts, incidents = session.failures.syntax_errors(repaired.python)
    record = Record(
        assignment=spec.name,
        student=submission.student,
        key=record_key(spec, submission),
        doubts=(*submission.doubts, *repaired.doubts, *doubts),
        repairs=(*submission.notes, *repaired.notes),
        incidents=(*session.incidents, *incidents),
        seconds=time.monotonic() - started,
        memory=session.memory,
        attempt=submission.attempt,
        seed=submission.seed,
    )
    return record, notebook


def ungradable(
    spec: GradingSpec,
    submission: Submission,
    reason: str,
    seconds: float = 0.0,
    *,
    final: bool = True,
) -> tuple[Record, Notebook]:
    """Return the record of a submission that can't be graded, and the release with the reason.

    Args:
        final: Whether the submission itself caused the failure. If not, the next run grades the
            submission again.
    """
    record = Record(
        assignment=spec.name,
        student=submission.student,
        key=record_key(spec, submission) if final else "",
        problem=reason,
        seconds=seconds,
        attempt=submission.attempt,
        seed=submission.seed,
    )
    text = f"**This submission could not be graded:** {re.sub(r'[`*_<>&$]', ' ', reason)}"
    top = {"cell_type": "markdown", "id": "ungradable", "metadata": {}, "source": text}
    release = json.loads(spec.release)
    return record, {**release, "cells": [top, *release["cells"]]}


def run_cells(notebook: Notebook, spec: GradingSpec, session: GradingSession) -> None:
    """Put the original tests into the test cells, run all code cells, and add their outputs."""
    named = {grade_id(cell) or f"cell {n}": cell for n, cell in enumerate(notebook["cells"], 1)}
    session.failures = Failures({n: cell for n, cell in named.items() if n not in spec.tests})
    for name, cell in named.items():
        if cell["cell_type"] != "code":
            continue
        if (test := spec.tests.get(name)) is not None:
            cell["source"] = test
            # In a student's notebook, later cells can use what a test cell imports. So the visible
            # imports of a test cell also run in the student process.
            if imports := imports_of(test.partition(HIDDEN)[0]):
                session.run(imports, name)
            cell["outputs"] = session.check(test, name)
        elif cell["source"].strip():
            cell["outputs"] = session.run(cell["source"], name)


# --- servers of this process ----------------------------------------------------------------------

# The servers that are starting or running: one for students and one for tests. They are stored
# under the GradingSpec's key and its private paths. The dictionary has at most one entry.
_servers: dict[tuple[str, tuple[str, ...]], tuple[Future[Server], Future[Server]]] = {}
_servers_lock = threading.RLock()


@functools.cache
def _starters() -> ThreadPoolExecutor:
    """Return an executor with two threads, which start all sandboxes of this process.

    With two threads, the two servers of an assignment import their libraries at the same time.
    Linux ends a sandbox together with the thread that started it. So these threads must run as long
    as the process.
    """
    return ThreadPoolExecutor(2, "sandboxes")


def start_servers(spec: GradingSpec) -> None:
    """Begin to start the warm servers for an assignment, and return without waiting for them.

    If the servers are starting or running already, nothing happens. A process has the servers of
    only one assignment at a time. The servers of any other assignment are closed first.
    """
    with _servers_lock:
        key = (spec.key, spec.private)
        if key not in _servers or any(map(_has_ended, _servers[key])):
            close_servers()
            start = _starters().submit
            _servers[key] = (
                start(Server, spec.imports["student"], spec.withheld, spec.private),
                start(Server, spec.imports["test"], (), spec.private),
            )


def servers(spec: GradingSpec) -> Servers:
    """Return the warm servers for an assignment; start them first if necessary.

    Raises:
        NoSandbox: No sandbox can be created.
    """
    with _servers_lock:
        start_servers(spec)
        student, test = _servers[spec.key, spec.private]
        try:
            return Servers(student.result(), test.result())
        except SandboxError as error:
            raise NoSandbox(str(error)) from None


def _has_ended(server: Future[Server]) -> bool:
    return server.done() and bool(server.exception() or not server.result().alive)


def close_servers() -> None:
    """End all sandboxes of this process; wait for those that are starting."""
    with _servers_lock:
        for pair in _servers.values():
            for server in pair:
                if not server.exception():
                    server.result().close()
        _servers.clear()
