"""Repair a submission inside the sandbox: the request goes there as bytes, and so does the answer.

    worker                                      judge's process, in the sandbox
      request(data, release)    ── bytes ──►      run: load, repair
      result: the notebook,     ◄── bytes ──      or why there is none
      or Ungradable

A submission is read in the sandbox because it may be made to fill the memory of whoever reads it.
"""

from __future__ import annotations

import json
from typing import Any

from course_utils.grading.intake import repair
from course_utils.grading.sandbox.shell import clean, utf8

FUNCTION = f"{__name__}:run"  # what the judge's process is asked to call


def request(data: bytes, release: bytes) -> bytes:
    """What `run` is called with.

    Args:
        data: What a student handed in.
        release: The released notebook, as JSON.
    """
    return len(release).to_bytes(8, "big") + release + data


def run(request: bytes) -> bytes:
    """Read and repair a submission; returns what `result` reads."""
    end = 8 + int.from_bytes(request[:8], "big")
    try:
        repaired = repair.repair(repair.load(request[end:]), json.loads(request[8:end]))
    except repair.Ungradable as error:
        return utf8(json.dumps({"ungradable": clean(error)}))
    return utf8(json.dumps(vars(repaired)))


def result(answer: bytes) -> dict[str, Any]:
    """The repaired notebook, with "notes" and "doubts" (`repair.Repaired`).

    Raises:
        Ungradable: The submission can't be graded; the text says why.
    """
    found = json.loads(answer)
    if "ungradable" in found:
        raise repair.Ungradable(found["ungradable"])
    return found
