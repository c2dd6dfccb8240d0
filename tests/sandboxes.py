"""Shared by the tests of grading: a pair of warm servers, and functions that run cells in them."""

from __future__ import annotations

import functools
import shutil

import pytest

from workshop.grading.sandbox.limits import Limits
from workshop.grading.session import GradingSession, Output, Servers
from workshop.grading.spec import ExpectedNames, Files, GradingSpec, Submission

needed = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
QUICK = Limits(memory=600_000_000, files=50_000_000, processes=40, cell=6, call=2, notebook=60)


@functools.cache
def servers() -> Servers:
    """Return a server for student processes, without course_utils.lora, and one for tests."""
    return Servers(GradingSpec("test", ExpectedNames(), QUICK, withheld=("course_utils.lora",)))


def session(
    answer: str = "",
    limits: Limits = QUICK,
    assignment_files: Files | None = None,
    submitted_files: Files | None = None,
) -> GradingSession:
    """Return a session in which the functions and classes of an answer are expected.

    Args:
        answer: The source of the answer, which is not run.
        limits: The resources that the submission may use.
        assignment_files: The assignment's files.
        submitted_files: The student's files.
    """
    names = ExpectedNames.of([{"cell_type": "code", "source": answer}])
    spec = GradingSpec("test", names, limits, assignment_files or {})
    return GradingSession(servers(), spec, Submission("student", None, submitted_files or {}))


def run_cell(source: str, limits: Limits = QUICK) -> list[Output]:
    """Run a cell in a new student process, and return its outputs."""
    with session(limits=limits) as new:
        return new.run(source)


def printed(source: str, limits: Limits = QUICK) -> str:
    """Run a cell in a new student process, and return its outputs as text."""
    return text_of(run_cell(source, limits))


def check_answer(answer: str, test: str, limits: Limits = QUICK) -> list[Output]:
    """Run an answer and then a test cell, and return the test cell's outputs."""
    with session(answer, limits) as new:
        new.run(answer)
        return new.check(test)


def text_of(outputs: list[Output]) -> str:
    """Return the text, the tracebacks and the values of outputs."""
    texts = [output.get("text", "") for output in outputs]
    texts += ["\n".join(o["traceback"]) for o in outputs if o["output_type"] == "error"]
    texts += [o["data"].get("text/plain", "") for o in outputs if "data" in o]
    return "".join(texts)


def passed(outputs: list[Output]) -> bool:
    """Return whether nbgrader gives full points for a test cell with these outputs."""
    from nbformat import from_dict
    from nbgrader.utils import determine_grade

    cell = {"cell_type": "code", "source": "", "outputs": outputs}
    cell["metadata"] = {"nbgrader": {"grade": True, "solution": False, "points": 1}}
    return determine_grade(from_dict(cell)) == (1, 1)
