"""Grade one submission: repair its notebook, run the cells and tests, and return a record.

`grade` reads and writes no file of the course. `session` runs the cells and the tests in the
sandbox. Later, `save` lets nbgrader compute the points from the tests' outputs.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from course_utils.exercise.checks import HIDDEN, joined_lines
from workshop.grading.assignments import grade_id, imports_of, is_graded
from workshop.grading.failures import Failures
from workshop.grading.read import others
from workshop.grading.records import Record
from workshop.grading.repair import Ungradable
from workshop.grading.sandbox.server import reserved_core
from workshop.grading.session import GradingSession, Servers
from workshop.grading.spec import GradingSpec, Notebook, Submission

# Maximum length of a failed check's message, in characters. Longer messages are cut.
MAX_MESSAGE = 4_000


def grade(spec: GradingSpec, servers: Servers, submission: Submission) -> tuple[Record, Notebook]:
    """Run a submission's notebook with the original tests, and return a record and the notebook.

    If a submission is broken, no error is raised: the record says why it can't be graded.

    Returns:
        The record, which does not contain the points yet, and the notebook with its outputs.

    Raises:
        NoSandbox: No sandbox can be created.
    """
    if submission.notebook is None:
        return ungradable(spec, submission, submission.problem)
    started, beside = time.monotonic(), others(submission, spec.files)
    with reserved_core() as core, GradingSession(servers, spec, submission, core) as session:
        try:
            repaired = session.repair()
        except Ungradable as error:
            problem = f"{error}; also handed in: {beside}" if beside else str(error)
            return ungradable(spec, submission, problem, time.monotonic() - started)
        _run_cells(repaired.notebook, spec, session)
    doubts = session.failures.syntax_errors(repaired.python)
    if repaired.unanswered and beside:
        missing = ", ".join(repaired.unanswered)
        doubts.append(f"answers are missing ({missing}), but these were handed in, too: {beside}")
    record = Record(
        assignment=spec.name,
        student=submission.student,
        doubts=(*submission.doubts, *repaired.doubts, *doubts),
        repairs=(*submission.notes, *repaired.notes),
        incidents=tuple(session.incidents),
        seconds=time.monotonic() - started,
        messages=_messages(repaired.notebook),
        memory=session.memory,
        key=submission.key(spec),
        attempt=submission.attempt,
        seed=submission.seed,
    )
    return record, repaired.notebook


def ungradable(
    spec: GradingSpec,
    submission: Submission,
    problem: str,
    seconds: float = 0.0,
    *,
    final: bool = True,
) -> tuple[Record, Notebook]:
    """Return the record of a submission that can't be graded, and a notebook that says why.

    Args:
        final: Whether the submission itself caused the problem. If not, the next run grades the
            submission again.
    """
    record = Record(
        assignment=spec.name,
        student=submission.student,
        problem=problem,
        seconds=seconds,
        key=submission.key(spec) if final else "",
        attempt=submission.attempt,
        seed=submission.seed,
    )
    text = f"**This submission could not be graded:** {re.sub(r'[`*_<>&$]', ' ', problem)}"
    top = {"cell_type": "markdown", "id": "ungradable", "metadata": {}, "source": text}
    release = json.loads(spec.release)
    return record, {**release, "cells": [top, *release["cells"]]}


def _run_cells(notebook: Notebook, spec: GradingSpec, session: GradingSession) -> None:
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


def _messages(notebook: Notebook) -> dict[str, str]:
    """Return the messages of the failed checks in a graded notebook, by grade id."""
    messages = {}
    for cell in notebook["cells"]:
        errors = [o for o in cell.get("outputs", ()) if o["output_type"] == "error"]
        if errors and is_graded(cell) and (name := grade_id(cell)):
            messages[name] = _message(errors[0])[:MAX_MESSAGE]
    return messages


def _message(error: dict[str, Any]) -> str:
    if error["ename"] == "CheckFailed":
        return "\n".join(error["traceback"])
    return joined_lines(f"{error['ename']}: {error['evalue']}")
