"""Compare the speed of `course grade` with nbgrader's, on a class of submissions.

The benchmark creates courses in temporary folders and grades each course in a separate process. The
memory of this process and of its child processes is sampled from outside as PSS (proportional set
size), which counts memory that several processes share only once.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

from course_utils.machine.units import format_bytes
from course_utils.machine.validation import CourseError
from tests import assignment
from tests.assignment import NAME
from workshop.benchmarks.runner import ROOT, Benchmark, Report, measured_here, table
from workshop.grading import classroom, records, release
from workshop.grading.sandbox.limits import Limits

# The number of submissions.
COUNT = 40
# Time between two samples of the memory, in seconds.
SAMPLE = 0.5

# --- the course and its submissions ---------------------------------------------------------------

# The function of each graded answer, and the body of a right answer, by cell.
SUMS = {place[0]: (place[1], place[3]) for place in assignment.TASKS}
ANSWER = """\
def {function}(numbers):
    if not numbers:
        raise ValueError("no numbers")
    {body}"""


def course(folder: Path, count: int) -> None:
    """Create a course in a new folder, with one released assignment and its submissions.

    The assignment imports torch and transformers, and has three functions. About every fourth
    answer is wrong.
    """
    (folder / "exercises").mkdir(parents=True)
    shutil.copy(ROOT / release.SETTINGS, folder)
    content = assignment.notebook()
    content["cells"] = [c for c in content["cells"] if not c["id"].startswith("sum-why")]
    assignment.change(content, "imports", "import math", "import torch\nimport transformers")
    assignment.write(folder, content)
    release.release(folder, NAME)
    path = folder / "exercises" / NAME / f"{NAME}.ipynb"
    draw = random.Random(0)
    for number in range(count):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for place in notebook["cells"]:
            if place["id"] in SUMS:
                function, right = SUMS[place["id"]]
                body = "return 0" if draw.random() < 0.25 else f"return {right}"
                place["source"] = ANSWER.format(function=function, body=body)
        target = folder / "submitted" / f"student{number:04}" / NAME / f"{NAME}.ipynb"
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps(notebook), encoding="utf-8")


# --- monitoring a run from outside ----------------------------------------------------------------


@dataclass
class Run:
    """Measurements of a grading process from outside.

    Attributes:
        done: the time since its start at which each submission was graded, in seconds.
        peak: the maximum memory of the process and all its descendants together, in bytes (B).
    """

    seconds: float = 0.0
    done: list[float] = field(default_factory=list)
    peak: int = 0


def monitored(command: list[str], folder: Path) -> Run:
    """Run a command in a course's folder and return its measurements.

    The command runs in this folder because nbgrader reads the settings of its working directory. A
    line of its output that begins with "done" means that a submission was graded.

    Raises:
        CourseError: the command failed; the message contains the end of its output.
    """
    run, begun = Run(), time.monotonic()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | variables,
        )
        sampler = threading.Thread(target=_sample, args=(process, run))
        sampler.start()
        try:
            for line in process.stdout:
                if line.startswith("done"):
                    run.done.append(time.monotonic() - begun)
            status = process.wait()
        # If the benchmark is interrupted, the command must not continue.
        finally:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            sampler.join()
        run.seconds = time.monotonic() - begun
        errors.seek(0)
        if status:
            raise CourseError(f"`{' '.join(command)}` failed: {errors.read()[-2000:]}")
    return run


def _sample(process: psutil.Popen, run: Run) -> None:
    while process.poll() is None:
        with suppress(psutil.Error):
            total = sum(map(_pss, [process, *process.children(recursive=True)]))
            run.peak = max(run.peak, total)
        time.sleep(SAMPLE)


def _pss(process: psutil.Process) -> int:
    """Return a process's PSS in bytes (B), which divides a page among all processes that use it."""
    try:
        return process.memory_full_info().pss
    # The process has ended.
    except psutil.Error:
        return 0


# The command that grades like `course grade` and prints its progress.
COURSE_GRADE = [sys.executable, "-m", "workshop.benchmarks.grading"]


def grade() -> None:
    """Grade and publish in this process, which COURSE_GRADE starts."""

    def print_progress(record: records.Record, *_: int) -> None:
        print("done", record.student, flush=True)

    result = classroom.grade(Path.cwd(), NAME, limits=Limits(), progress=print_progress)
    classroom.write_results(Path.cwd(), result)


NBGRADER_CONFIG = """\
c = get_config()
c.CourseDirectory.course_id = "qlora"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
# No cell of this assignment may fail because it is slow.
c.Execute.timeout = 300
"""


def scores(folder: Path) -> dict[str, dict[str, float]]:
    """Return the automatic points in a gradebook, by student and graded cell."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "qlora") as book:
        return {
            submission.student_id: {
                grade.name: grade.auto_score
                for notebook in submission.notebooks
                for grade in notebook.grades
            }
            for submission in book.assignment_submissions(NAME)
        }


# --- what is measured -----------------------------------------------------------------------------


def compare_with_nbgrader(count: int) -> dict[str, Any]:
    """Compare nbgrader with `course grade` on copies of one course, and check for equal scores.

    nbgrader runs between two runs of `course grade`, so that a machine that becomes slower or
    faster affects both graders.

    Raises:
        CourseError: the scores differ.
    """
    with tempfile.TemporaryDirectory() as aside:
        first = Path(aside, "course")
        course(first, count)
        runs, found = {}, {}
        for side in ("ours", "nbgrader", "ours again"):
            folder = Path(shutil.copytree(first, Path(aside, side)))
            command = COURSE_GRADE
            if side == "nbgrader":
                (folder / release.SETTINGS).write_text(NBGRADER_CONFIG, encoding="utf-8")
                program = str(Path(sys.executable).with_name("nbgrader"))
                command = [program, "autograde", NAME, "--course-dir", str(folder)]
            runs[side] = monitored(command, folder)
            found[side] = scores(folder)
    if not found["ours"] == found["nbgrader"] == found["ours again"]:
        raise CourseError("nbgrader and this course give different scores")
    both = [runs["ours"], runs["ours again"]]
    return {
        "submissions": count,
        "cells compared": sum(map(len, found["ours"].values())),
        "ours": {
            "seconds": [run.seconds for run in both],
            "first": [run.done[0] for run in both],
            "peak": max(run.peak for run in both),
        },
        "nbgrader": {"seconds": runs["nbgrader"].seconds, "peak": runs["nbgrader"].peak},
    }


# --- the report -----------------------------------------------------------------------------------


def peer_table(sides: dict[str, Any]) -> str:
    """Return a table that compares nbgrader with this course, and a paragraph on start-up."""
    count, ours, nbgrader = sides["submissions"], sides["ours"], sides["nbgrader"]
    took, first, nbgrader_took = mean(ours["seconds"]), mean(ours["first"]), nbgrader["seconds"]
    rows = [
        (name, f"{seconds:.1f}", f"{seconds / count:.2f}", format_bytes(peak))
        for name, seconds, peak in (
            ("`nbgrader autograde`, with its default settings", nbgrader_took, nbgrader["peak"]),
            ("`course grade`", took, ours["peak"]),
        )
    ]
    twice = " and ".join(f"{seconds:.1f}" for seconds in ours["seconds"])
    return (
        f"{table(('', 'seconds', 'seconds a submission', 'peak memory'), rows)}\n\n"
        f"{count} submissions; both graders gave the same points in all "
        f"{sides['cells compared']} graded cells. `course grade` is {nbgrader_took / took:.1f} "
        f"times as fast. The first submission is graded after {first:.1f} s, and each further "
        f"submission needs {(took - first) / (count - 1):.2f} s. `course grade` ran once before "
        f"and once after nbgrader, for {twice} s; the table shows the mean."
    )


def measure(count: int = COUNT) -> Iterator[Report]:
    """Measure both graders."""
    yield measured_here("nbgrader") | {"peers": compare_with_nbgrader(count)}


BENCHMARK = Benchmark(
    measure,
    {"peers": lambda report: peer_table(report["peers"])},
    conditions=lambda _: (
        f"Memory is the sum over all processes, sampled every {SAMPLE} s; memory that several "
        "processes share counts once."
    ),
)


if __name__ == "__main__":
    grade()
