"""What the tests of grading share: one pair of warm servers, and a notebook as a list of cells."""

from __future__ import annotations

import functools
import shutil

import pytest

from course_utils.grading.referee import Output, Referee, Servers
from course_utils.grading.sandbox.limits import Limits
from course_utils.grading.sandbox.server import Server
from course_utils.grading.spec import ExpectedNames, Files, GradingSpec, Submission

needed = pytest.mark.skipif(not shutil.which("bwrap"), reason="there is no bubblewrap")
QUICK = Limits(memory=600_000_000, files=50_000_000, processes=40, cell=6, call=2, notebook=60)


@functools.cache
def servers() -> Servers:
    """A server for students, who lack course_utils.lora, and one for judges."""
    return Servers(Server(withheld=("course_utils.lora",)), Server())


def close() -> None:
    """End the servers that the tests have started."""
    if servers.cache_info().currsize:
        for server in servers():
            server.close()
        servers.cache_clear()


def referee(
    answer: str = "",
    limits: Limits = QUICK,
    ours: Files | None = None,
    theirs: Files | None = None,
) -> Referee:
    """A referee for the functions and classes that the answer defines.

    Args:
        answer: The source of an answer.
        limits: What the submission may use.
        ours: The assignment's files.
        theirs: The student's files.
    """
    names = ExpectedNames.of([{"cell_type": "code", "source": answer}])
    spec = GradingSpec("test", names, limits, ours or {})
    return Referee(servers(), spec, Submission("student", None, theirs or {}))


def ran(source: str, limits: Limits = QUICK) -> list[Output]:
    """The outputs of a cell of the student's."""
    with referee(limits=limits) as judge:
        return judge.run(source)


def printed(source: str, limits: Limits = QUICK) -> str:
    """What a cell of the student's printed, and its errors' names and messages."""
    return said(ran(source, limits))


def checked(answer: str, test: str, limits: Limits = QUICK) -> list[Output]:
    """The outputs of a test cell after an answer."""
    with referee(answer, limits) as judge:
        judge.run(answer)
        return judge.check(test)


def said(outputs: list[Output]) -> str:
    """All that outputs say, as text."""
    texts = [output.get("text", "") for output in outputs]
    texts += ["\n".join(o["traceback"]) for o in outputs if o["output_type"] == "error"]
    texts += [o["data"].get("text/plain", "") for o in outputs if "data" in o]
    return "".join(texts)


def passed(outputs: list[Output]) -> bool:
    """Whether nbgrader gives full points for a test cell with these outputs."""
    from nbformat import from_dict
    from nbgrader.utils import determine_grade

    cell = {"cell_type": "code", "source": "", "outputs": outputs}
    cell["metadata"] = {"nbgrader": {"grade": True, "solution": False, "points": 1}}
    return determine_grade(from_dict(cell)) == (1, 1)
