"""Measure `course grade`: its speed compared with nbgrader, and a class of 1,000 submissions.

    python -m workshop.benchmarks grading                 measure both parts
    python -m workshop.benchmarks grading --only class    measure only one part again

Each part is saved as soon as it is measured. The benchmark creates courses in temporary folders and
grades each course in a separate process. The memory of this process and of its child processes is
sampled from outside as PSS (proportional set size), which counts memory that several processes
share only once.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil

from course_utils.machine.units import format_bytes
from course_utils.machine.validation import CourseError
from tests import assignment
from tests.assignment import NAME
from workshop.benchmarks.runner import (
    RESULTS,
    ROOT,
    Benchmark,
    Report,
    load_report,
    measured_here,
    table,
)
from workshop.grading import classroom, release
from workshop.grading.results import records
from workshop.grading.sandbox.limits import Limits

# The number of submissions in each part.
SIZES = {"peers": 40, "class": 1000}
# Time between two samples of the memory, in seconds.
SAMPLE = 0.5
# Low limits, so that infinite loops and bombs end soon.
SHORT = Limits(memory=400_000_000, files=50_000_000, processes=40, cell=10, call=3, notebook=60)
# The course must be at least this many times as fast as nbgrader with nbgrader's default settings.
TARGET = 15

Notebook = dict[str, Any]
# For each student, the kind of the submission and the expected points. The kind of an honest
# submission is "". The points of a broken or hostile submission are the maximum that it may get.
Expected = dict[str, tuple[str, float]]
# The measurements of one part of the benchmark.
Part = dict[str, Any]

# --- the course and its submissions ---------------------------------------------------------------


def course(folder: Path, imports: str, count: int, hostile: bool) -> Expected:
    """Create a course with one released assignment and its submissions.

    The assignment has three functions and 9 points. Every fourth answer of an honest submission is
    wrong.

    Args:
        folder: the course's folder, which must not exist.
        imports: the cell that imports the libraries of the assignment.
        count: the number of submissions.
        hostile: whether every tenth submission is broken or hostile.
    """
    (folder / "exercises").mkdir(parents=True)
    shutil.copy(ROOT / release.SETTINGS, folder)
    content = assignment.notebook()
    content["cells"] = [c for c in content["cells"] if not c["id"].startswith("sum-why")]
    assignment.change(content, "imports", "import math", imports)
    assignment.write(folder, content)
    release.release(folder, NAME)
    path = folder / "exercises" / NAME / f"{NAME}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    draw, kinds, expected = random.Random(0), list(KINDS), Expected()
    for number in range(count):
        student = f"student{number:04}"
        if hostile and number % 10 == 9:
            kind = kinds[number // 10 % len(kinds)]
            _submit(folder, student, *_hostile(notebook, kind))
            expected[student] = kind, KINDS[kind][1]
        else:
            wrong = {task: "return 0" for task in SUMS if draw.random() < 0.25}
            _submit(folder, student, json.dumps(_answered(notebook, wrong)).encode())
            expected[student] = "", 9.0 - 2 * len(wrong)
    return expected


SUMS = {place[0]: (place[1], place[3]) for place in assignment.TASKS}
ANSWER = """\
def {function}(numbers):
    if not numbers:
        raise ValueError("no numbers")
    {body}"""
FORGED = """\
class Equal(int):
        def __eq__(self, other): return True
        def __hash__(self): return 0
    return Equal(7)"""

# The body of the first answer in each kind of hostile or broken submission, and the maximum points.
# The other two answers are right. Any number passes a check that only tests the form of the result.
KINDS = {
    "infinite loop": ("while True: pass", 6.0),
    "os._exit": ("__import__('os')._exit(0)", 6.0),
    "memory bomb": ("return [bytearray(10**7) for _ in range(10**6)]", 6.0),
    "fork bomb": ("import os\n    while True: os.fork()", 6.0),
    "50 MB of output": ("print('x' * 50_000_000)\n    return 0", 7.0),
    "forged equality": (FORGED, 7.0),
    "deleted checks": ("return 7", 7.0),
    "unfinished": ("raise NotImplementedError", 6.0),
    "broken JSON": ("return 7", 0.0),
    "wrong file name": ("return 7", 7.0),
}


def _answered(notebook: Notebook, bodies: dict[str, str]) -> Notebook:
    """Return a copy with answers, which are right unless `bodies` contains another body."""
    made = copy.deepcopy(notebook)
    for place in made["cells"]:
        if place["id"] in SUMS:
            function, right = SUMS[place["id"]]
            body = bodies.get(place["id"], f"return {right}")
            place["source"] = ANSWER.format(function=function, body=body)
    return made


def _hostile(notebook: Notebook, kind: str) -> tuple[bytes, str]:
    """Return a notebook of a broken or hostile kind, and its file name."""
    made = _answered(notebook, {"sum-all": KINDS[kind][0]})
    if kind == "deleted checks":
        made["cells"] = [c for c in made["cells"] if not c["id"].startswith("sum-all-")]
    data = json.dumps(made).encode()
    return (
        data[: len(data) // 2] if kind == "broken JSON" else data,
        f"Copy of {NAME}.ipynb" if kind == "wrong file name" else f"{NAME}.ipynb",
    )


def _submit(folder: Path, student: str, content: bytes, file: str = f"{NAME}.ipynb") -> None:
    path = folder / "submitted" / student / NAME / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


# --- monitoring a run from outside ----------------------------------------------------------------


@dataclass
class Run:
    """Measurements of a grading process from outside.

    Attributes:
        seconds: the time that the process took.
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
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    # The process has ended.
    except OSError:
        return 0
    sizes = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
    return 1024 * int(sizes[0]) if sizes else 0


def course_command(limits: str = "default") -> list[str]:
    """Return the command that grades like `course grade` and prints its progress.

    `limits` are "default", or "short" for the limits SHORT.
    """
    return [sys.executable, "-m", "workshop.benchmarks.grading", limits]


def grade(limits: str) -> None:
    """Grade and publish in this process, as `course_command` says."""

    def print_progress(record: records.Record, *_: int) -> None:
        print("done", record.student, flush=True)

    chosen = SHORT if limits == "short" else Limits()
    result = classroom.grade(Path.cwd(), NAME, limits=chosen, progress=print_progress)
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


def compare_with_nbgrader(count: int) -> Part:
    """Compare nbgrader with `course grade` on copies of one course, and check for equal scores.

    nbgrader runs between two runs of `course grade`, so that a machine that becomes slower or
    faster affects both graders.

    Raises:
        CourseError: the scores differ.
    """
    with tempfile.TemporaryDirectory() as aside:
        first = Path(aside, "course")
        course(first, "import torch\nimport transformers", count, hostile=False)
        runs, found = {}, {}
        for side in ("ours", "nbgrader", "ours again"):
            folder = Path(shutil.copytree(first, Path(aside, side)))
            command = course_command()
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


def whole_class(count: int) -> Part:
    """Grade a class of small submissions, of which every tenth is broken or hostile.

    Raises:
        CourseError: a submission has unexpected points.
    """
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside, "course")
        expected = course(folder, "import math", count, hostile=True)
        run = monitored(course_command("short"), folder)
        found = {r.student: r for r in records.read_all(folder / "grading" / NAME)}
    points = {s: sum(p or 0 for p in record.points.values()) for s, record in found.items()}
    if wrong := unexpected(expected, points):
        raise CourseError(f"unexpected points: {'; '.join(wrong)}")
    kinds = {student: kind for student, (kind, _) in expected.items()}
    return {
        "submissions": count,
        "states": Counter(record.state for record in found.values()),
        "kinds": {
            kind: [f"{points[s]:g}" for s, k in kinds.items() if k == kind] for kind in KINDS
        },
        "seconds": run.seconds,
        "honest seconds": median(found[s].seconds for s, kind in kinds.items() if not kind),
        "peak": run.peak,
    }


def unexpected(expected: Expected, points: Mapping[str, float]) -> list[str]:
    """Return the submissions with unexpected points or without a record, one line each.

    An honest submission must get exactly the expected points. The points of a broken or hostile
    submission may depend on timing, but must not exceed the maximum.
    """
    found = []
    for student, (kind, most) in expected.items():
        got, name = points.get(student), f"{student} ({kind or 'honest'})"
        if got is None:
            found.append(f"{name}: no record")
        elif got > most or (not kind and got < most):
            found.append(f"{name}: {got:g} instead of {'at most ' if kind else ''}{most:g}")
    return found


# --- the report -----------------------------------------------------------------------------------


def peer_table(sides: Part) -> str:
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


def class_table(graded: Part) -> str:
    """Return a table of the broken and hostile submissions in a large class."""
    head = ("broken or hostile", "submissions", "points (of 9)", "points allowed")
    rows = [
        (kind, str(len(points)), ", ".join(sorted(set(points))), f"{KINDS[kind][1]:g}")
        for kind, points in graded["kinds"].items()
        if points
    ]
    states = ", ".join(f"{number} {state}" for state, number in graded["states"].items())
    return (
        f"{table(head, rows)}\n\n"
        f"{graded['submissions']:,} submissions: {states}. Every honest submission got exactly "
        f"the points that it deserves. The median time to grade an honest submission was "
        f"{graded['honest seconds']:.2f} s. The whole class took {graded['seconds']:.0f} s, which "
        f"includes the time limits that hostile submissions reach ({SHORT.cell:g} s for a cell, "
        f"{SHORT.call:g} s for a call). All processes together needed at most "
        f"{format_bytes(graded['peak'])}."
    )


PARTS = {"peers": compare_with_nbgrader, "class": whole_class}
TABLES = {"peers": peer_table, "class": class_table}


def conditions(report: Report) -> str:
    """Return sentences on how memory is counted, and on parts that this report doesn't date."""
    sentences = [
        f"Memory is the sum over all processes, sampled every {SAMPLE} s; memory that several "
        "processes share counts once."
    ]
    for name in PARTS:
        part = report.get(name)
        if part is None:
            sentences.append(f"The part `{name}` is not in this report.")
        elif (part["date"], part["machine"]) != (report["date"], report["machine"]):
            sentences.append(f"The part `{name}` is from {part['date']}: {part['machine']}.")
    return " ".join(sentences)


def problems(report: Report) -> list[str]:
    """Return a sentence if the course misses its target for speed."""
    if sides := report.get("peers"):
        ratio = sides["nbgrader"]["seconds"] / max(sides["ours"]["seconds"])
        if ratio < TARGET:
            return [f"{ratio:.1f} times as fast as nbgrader, below {TARGET}"]
    return []


def measure(only: str | None = None, sizes: Mapping[str, int] = SIZES) -> Iterator[Report]:
    """Measure one part or all parts, and after each part yield all that is measured so far."""
    report = load_report(RESULTS / "grading.json", {})
    report = {name: part for name, part in report.items() if name in PARTS}
    for name in [only] if only else PARTS:
        here = measured_here("nbgrader")
        report |= here | {name: here | PARTS[name](sizes[name])}
        yield json.loads(json.dumps(report))
        print(f"{name}: done", flush=True)


def _table_of(report: Report, name: str) -> str | None:
    return TABLES[name](report[name]) if name in report else None


BENCHMARK = Benchmark(
    measure,
    {name: partial(_table_of, name=name) for name in TABLES},
    conditions=conditions,
    problems=problems,
    add_options=lambda parser: parser.add_argument("--only", choices=PARTS, help="default: both"),
)


if __name__ == "__main__":
    # The command that `course_command` returns and `monitored` runs.
    grade(sys.argv[1])
