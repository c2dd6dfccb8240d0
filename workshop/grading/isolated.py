"""Repair a submission inside the sandbox; request and response are sent as bytes.

    worker                                      test process, in the sandbox
      request(data, release)    ── bytes ──►      run: load and repair the notebook
      result: the notebook      ◄── bytes ──      the notebook, or the reason why it is ungradable
      or Ungradable

A submission is read in the sandbox, because a malicious file may fill the memory of the process
that reads it.
"""

from __future__ import annotations

import json

from workshop.grading import repair
from workshop.grading.sandbox.shell import clean, utf8

# The function that the test process calls for each request.
FUNCTION = f"{__name__}:run"


def request(data: bytes, release: bytes) -> bytes:
    """Return the argument of `run`: the release and the submission as bytes."""
    return len(release).to_bytes(8, "big") + release + data


def run(request: bytes) -> bytes:
    """Read and repair the submission in a request; return the response that `result` reads."""
    end = 8 + int.from_bytes(request[:8], "big")
    try:
        repaired = repair.repair(repair.load(request[end:]), json.loads(request[8:end]))
    except repair.Ungradable as error:
        return utf8(json.dumps({"ungradable": clean(error)}))
    return utf8(json.dumps(vars(repaired)))


def result(response: bytes) -> repair.Repaired:
    """Return the repaired notebook in a response.

    Raises:
        Ungradable: The submission can't be graded; the message says why.
    """
    content = json.loads(response)
    if "ungradable" in content:
        raise repair.Ungradable(content["ungradable"])
    lists = {name: tuple(content[name]) for name in ("notes", "doubts", "unanswered")}
    return repair.Repaired(**content | lists)
