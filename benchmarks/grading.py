"""Measure `course grade`: its speed compared with nbgrader, 1,000 submissions, and a killed run.

    python -m benchmarks grading            measure all three parts: about ten minutes
    python -m benchmarks grading killed     measure only one part again

Each part is saved as soon as it is measured. The benchmark creates courses in temporary folders and
grades each course in a separate process. The memory of this process and of its child processes is
sampled from outside as PSS (proportional set size), which counts memory that several processes
share only once.
"""

from __future__ import annotations

import argparse
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
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil

from benchmarks import runner
from benchmarks.runner import Benchmark, Report, measured_here, paragraph
from course_utils.grading import release
from course_utils.grading.results import records
from course_utils.grading.sandbox.limits import Limits
from course_utils.publishing import notebook_check
from course_utils.units import format_bytes
from course_utils.validation import CourseError
from tests import assignment
from tests.assignment import cell, document

ROOT = Path(__file__).resolve().parents[1]
# The number of submissions in each part.
SIZES = {"peers": 40, "class": 1000, "killed": 60}
# Time between two samples of the memory, in seconds.
SAMPLE = 0.5
# Maximum number of points of a line in the picture.
POINTS = 250
# Low limits, so that infinite loops and bombs end soon.
SHORT = Limits(memory=400_000_000, files=50_000_000, processes=40, cell=10, call=3, notebook=60)
# Maximum growth of the memory over the second half of a run, as a share of that half's median.
DRIFT = 0.1
# The course must be at least this many times as fast as nbgrader with nbgrader's default settings.
TARGET = 15

Notebook = dict[str, Any]
# Points or other results by student and cell.
Scores = dict[str, dict[str, Any]]
# For each student, the kind of the submission and the expected points. The kind of an honest
# submission is "". The points of a broken or hostile submission are the maximum that it may get.
Expected = dict[str, tuple[str, float]]
# The measurements of one part of the benchmark.
Part = dict[str, Any]

# --- an assignment that needs torch and transformers ----------------------------------------------

TENSORS = "08_tensors"
IMPORTS = """\
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM"""
FORM = """\
import torch

from course_utils.checks import check

{check}"""
VALUES = """\
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.checks import check

{visible}
### BEGIN HIDDEN TESTS
{hidden}
### END HIDDEN TESTS"""
LORA = """\
draw = torch.Generator().manual_seed({seed})
x, weight, a, b = (torch.randn(*s, generator=draw) for s in ((3, 8), (5, 8), (2, 8), (5, 2)))
check(lora, x, weight, a, b, 0.5).gives(x @ (weight + 0.5 * b @ a).T, rel=1e-4, abs=1e-5)"""
LOSS = """\
draw = torch.Generator().manual_seed({seed})
logits, labels = torch.randn(6, 7, generator=draw), torch.tensor([-100, 2, -100, 0, 6, 1])
check(loss, logits, labels).gives(F.cross_entropy(logits, labels).item(), rel=1e-4)"""
SIZE = """\
size = {{"vocab_size": 64, "hidden_size": {hidden}, "intermediate_size": 32}}
size |= {{"num_hidden_layers": {layers}, "num_attention_heads": 2, "num_key_value_heads": 2}}
model = LlamaForCausalLM(LlamaConfig(**size))
check(parameters, size).gives(sum(p.numel() for p in model.parameters()))"""
SMALL = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


@dataclass(frozen=True)
class Task:
    """A task: a function that students write.

    Attributes:
        name: the function's name.
        signature: the function's signature.
        form: a check of the form of the result.
        tests: checks of the values of the result; all except the first are hidden.
        right: expressions that right answers return.
        wrong: expressions that wrong answers return.
    """

    name: str
    signature: str
    form: str
    tests: list[str]
    right: list[str]
    wrong: list[str]

    def answer(self, result: str) -> str:
        """Return an answer cell's text in which the function returns the expression `result`."""
        return f"def {self.signature}:\n    return {result}"

    def cells(self, number: int) -> list[Notebook]:
        """Return the five cells of the task, which give 3 points."""
        prompt = f"## 8.{number} {self.name}\n●●○ · 6 min · 3 points\n\nReturn it."
        source = self.answer(self.right[0]).replace("\n", "\n    ### BEGIN SOLUTION\n")
        values = VALUES.format(visible=self.tests[0], hidden="\n".join(self.tests[1:]))
        return [
            cell(f"{self.name}-prompt", prompt, kind="markdown"),
            cell(self.name, f"{source}\n    ### END SOLUTION", answer=True),
            cell(f"{self.name}-try", f"print({self.name}.__name__)"),
            cell(f"{self.name}-form", FORM.format(check=self.form), points=1),
            cell(f"{self.name}-values", values, points=2),
        ]


TASKS = [
    Task(
        "lora",
        "lora(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor",
        "ones = [torch.ones(*size) for size in ((2, 4), (3, 4), (1, 4), (3, 1))]\n"
        "check(lora, *ones, 1.0).like(torch.zeros(2, 3))",
        [LORA.format(seed=seed) for seed in range(4)],
        ["x @ weight.T + scale * (x @ a.T) @ b.T", "F.linear(x, weight + scale * b @ a)"],
        ["x @ weight.T + (x @ a.T) @ b.T", "x @ weight.T", "x @ a"],
    ),
    Task(
        "loss",
        "loss(logits: Tensor, labels: Tensor) -> float",
        "check(loss, torch.zeros(2, 3), torch.tensor([0, 1])).like(0.0)",
        [LOSS.format(seed=seed) for seed in range(4)],
        [
            "F.cross_entropy(logits, labels).item()",
            "F.nll_loss(logits.log_softmax(-1), labels).item()",
        ],
        ["F.cross_entropy(logits, labels.clamp(min=0)).item()", "1 / 0", "logits.sum()"],
    ),
    Task(
        "parameters",
        "parameters(size: dict[str, int]) -> int",
        f'check(parameters, {SMALL} | {{"num_attention_heads": 2}}).like(0)',
        [SIZE.format(hidden=16 + 8 * layers, layers=layers) for layers in range(1, 4)],
        [
            "sum(p.numel() for p in LlamaForCausalLM(LlamaConfig(**size)).parameters())",
            "LlamaForCausalLM(LlamaConfig(**size)).num_parameters()",
        ],
        ["size['vocab_size'] * size['hidden_size']", "LlamaConfig(**size).hidden_size"],
    ),
]


def tensors() -> Notebook:
    """Return the assignment with TASKS: three functions and 9 points."""
    opening = cell("opening", "# Exercise 08: Tensors", kind="markdown")
    tasks = [made for number, task in enumerate(TASKS, 1) for made in task.cells(number)]
    return document(
        [opening, cell("setup", notebook_check.SETUP_CELL), cell("imports", IMPORTS), *tasks]
    )


# --- submissions ----------------------------------------------------------------------------------


def course(folder: Path, name: str, content: Notebook) -> Path:
    """Create a course with one released assignment, and return its folder."""
    (folder / "exercises").mkdir(parents=True)
    shutil.copy(ROOT / release.SETTINGS, folder)
    assignment.write(folder, content, name)
    release.release(folder, name)
    return folder


def released(folder: Path, name: str) -> Notebook:
    """Return the released notebook of an assignment, which students get."""
    path = folder / "exercises" / name / f"{name}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def with_answers(notebook: Notebook, answers: dict[str, str]) -> Notebook:
    """Return a copy of a released notebook with answers, which are given by cell id."""
    made = copy.deepcopy(notebook)
    for place in made["cells"]:
        place["source"] = answers.get(place["id"], place["source"])
    return made


def submit(folder: Path, student: str, name: str, content: bytes, file: str = "") -> None:
    """Write a student's notebook into submitted/."""
    path = folder / "submitted" / student / name / (file or f"{name}.ipynb")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def submit_tensors(folder: Path, count: int) -> None:
    """Write submissions of the assignment with tensors, with right, wrong and missing answers."""
    draw, notebook = random.Random(0), released(folder, TENSORS)
    for number in range(count):
        answers = {}
        for task in TASKS:
            result = draw.choice([*task.right * 3, *task.wrong, ""])
            if result:
                answers[task.name] = task.answer(result)
        content = json.dumps(with_answers(notebook, answers)).encode()
        submit(folder, f"student{number:04}", TENSORS, content)


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

# The body of the first answer in each kind of hostile or broken submission. The other two answers
# are right.
BODIES = {
    "infinite loop": "while True: pass",
    "os._exit": "__import__('os')._exit(0)",
    "memory bomb": "return [bytearray(10**7) for _ in range(10**6)]",
    "fork bomb": "import os\n    while True: os.fork()",
    "50 MB of output": "print('x' * 50_000_000)\n    return 0",
    "forged equality": FORGED,
    "deleted checks": "return 7",
    "unfinished": "raise NotImplementedError",
    "broken JSON": "return 7",
    "wrong file name": "return 7",
}
# Maximum points of each kind. Any number passes a check that only tests the form of the result.
MAXIMUM = dict.fromkeys(BODIES, 7.0)
MAXIMUM |= dict.fromkeys(
    ("infinite loop", "os._exit", "memory bomb", "fork bomb", "unfinished"), 6.0
)
MAXIMUM["broken JSON"] = 0.0


def answers(bodies: dict[str, str]) -> dict[str, str]:
    """Return answers to 09_sums, which are right unless `bodies` contains another body."""
    return {
        task: ANSWER.format(function=function, body=bodies.get(task, f"return {right}"))
        for task, (function, right) in SUMS.items()
    }


def submit_sums(folder: Path, count: int) -> Expected:
    """Write submissions of 09_sums; every tenth submission is broken or hostile."""
    draw, notebook = random.Random(0), released(folder, assignment.NAME)
    kinds, expected = list(BODIES), Expected()
    for number in range(count):
        student = f"student{number:04}"
        if number % 10 == 9:
            kind = kinds[number // 10 % len(kinds)]
            submit(folder, student, assignment.NAME, *_hostile(notebook, kind))
            expected[student] = kind, MAXIMUM[kind]
        else:
            wrong = {task: "return 0" for task in SUMS if draw.random() < 0.25}
            made = with_answers(notebook, answers(wrong))
            submit(folder, student, assignment.NAME, json.dumps(made).encode())
            expected[student] = "", 9.0 - 2 * len(wrong)
    return expected


def _hostile(notebook: Notebook, kind: str) -> tuple[bytes, str]:
    """Return a notebook of a broken or hostile kind, and its file name if the name is wrong."""
    made = with_answers(notebook, answers({"sum-all": BODIES[kind]}))
    if kind == "deleted checks":
        made["cells"] = [c for c in made["cells"] if not c["id"].startswith("sum-all-")]
    data = json.dumps(made).encode()
    return (
        data[: len(data) // 2] if kind == "broken JSON" else data,
        f"Copy of {assignment.NAME}.ipynb" if kind == "wrong file name" else "",
    )


# --- monitoring a run from outside ----------------------------------------------------------------


@dataclass
class Run:
    """Measurements of a grading process from outside. Times are in seconds since its start.

    Attributes:
        seconds: the time at which the process ended.
        done: the time at which each submission was graded.
        samples: tuples of a time, the memory of the process itself, and the memory of the process
            and all its descendants, in bytes (B).
    """

    seconds: float = 0.0
    done: list[float] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """The maximum memory of all processes together, in bytes (B)."""
        return max(total for _, _, total in self.samples)


def monitored(command: list[str], folder: Path, until: Callable[[Run], bool] | None = None) -> Run:
    """Run a command in a course's folder and return its measurements.

    The command runs in this folder because nbgrader reads the settings of its working directory.

    Args:
        command: the command. A line of its output that begins with "done" means that a submission
            was graded.
        folder: the course's folder.
        until: an optional function that is called after each submission. If the function returns
            True, the command is killed (SIGKILL).

    Raises:
        CourseError: the command failed; the message contains the end of its output.
    """
    run, begun = Run(), time.monotonic()
    stopped = False
    with tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(),
        )
        sampler = threading.Thread(target=_sample, args=(process, run, begun))
        sampler.start()
        try:
            for line in process.stdout:
                if line.startswith("done"):
                    run.done.append(time.monotonic() - begun)
                    if until and until(run):
                        stopped = True
                        _kill(process)
        # If the benchmark is interrupted, the command must not continue.
        except BaseException:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            raise
        status = process.wait()
        run.seconds = time.monotonic() - begun
        sampler.join()
        errors.seek(0)
        if status and not stopped:
            raise CourseError(f"`{' '.join(command)}` failed: {errors.read()[-2000:]}")
    return run


def _kill(process: psutil.Popen) -> None:
    """Kill a process (SIGKILL).

    Raises:
        CourseError: one of its descendants keeps running.
    """
    started = process.children(recursive=True)
    process.kill()
    _, left = psutil.wait_procs(started, 10)
    if alive := [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        raise CourseError(f"these child processes survived the killed run: {alive}")


def _environment() -> dict[str, str]:
    """Return environment variables for a process that imports this repository's packages."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _sample(process: psutil.Popen, run: Run, begun: float) -> None:
    while process.poll() is None:
        with suppress(psutil.Error):
            own = process.memory_info().rss
            started = process.children(recursive=True)
            run.samples.append((time.monotonic() - begun, own, sum(map(_pss, [process, *started]))))
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


def course_command(folder: Path, name: str, limits: str = "default", workers: int = 0) -> list[str]:
    """Return the command that grades like `course grade` and prints its progress.

    Args:
        folder: the course's folder.
        name: the assignment's name.
        limits: "default", or "short" for the limits SHORT.
        workers: the number of submissions that are graded at the same time; 0 means as many as fit
            this machine.
    """
    grade = [sys.executable, "-m", "benchmarks.grading"]
    return [*grade, str(folder), name, limits, str(workers)]


def grade(folder: Path, name: str, limits: str, workers: int) -> None:
    """Grade and publish in this process. The arguments are explained at `course_command`."""
    from course_utils.grading import classroom

    chosen = SHORT if limits == "short" else Limits()

    def print_progress(record: records.Record, *_: int) -> None:
        print("done", record.student, flush=True)

    result = classroom.grade(
        folder, name, limits=chosen, workers=workers or None, progress=print_progress
    )
    classroom.write_results(folder, result)


NBGRADER_CONFIG = """\
c = get_config()
c.CourseDirectory.course_id = "qlora"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
# No cell of this assignment may fail because it is slow.
c.Execute.timeout = 300
"""


def nbgrader_command(folder: Path, name: str) -> list[str]:
    """Return nbgrader's own command and replace the course's settings by nbgrader's defaults."""
    (folder / release.SETTINGS).write_text(NBGRADER_CONFIG, encoding="utf-8")
    program = Path(sys.executable).with_name("nbgrader")
    return [str(program), "autograde", name, "--course-dir", str(folder)]


def scores(folder: Path, name: str) -> Scores:
    """Return the automatic points in a gradebook, by student and graded cell."""
    return {
        student: {cell: grade[0] for cell, grade in grades.items()}
        for student, grades in contents(folder, name).items()
    }


def contents(folder: Path, name: str) -> Scores:
    """Return all grades in a gradebook without ids and times, by student and graded cell."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "qlora") as book:
        return {
            submission.student_id: {
                grade.name: [
                    grade.auto_score,
                    grade.manual_score,
                    grade.extra_credit,
                    grade.needs_manual_grade,
                ]
                for notebook in submission.notebooks
                for grade in notebook.grades
            }
            for submission in book.assignment_submissions(name)
        }


# --- what is measured -----------------------------------------------------------------------------


@contextmanager
def released_course(name: str, content: Notebook) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """Create a released course; yield its folder and a function that makes a fresh copy of it."""
    with tempfile.TemporaryDirectory() as aside:
        first, count = course(Path(aside, "course"), name, content), iter(range(100))
        yield first, lambda: Path(shutil.copytree(first, Path(aside, f"copy{next(count)}")))


def compare_with_nbgrader(count: int) -> Part:
    """Compare nbgrader with `course grade` on copies of one course, and check for equal scores.

    nbgrader runs between two runs of `course grade`, so that a machine that becomes slower or
    faster affects both graders.

    Raises:
        CourseError: the scores differ.
    """
    with released_course(TENSORS, tensors()) as (first, fresh):
        submit_tensors(first, count)
        runs, found = {}, {}
        for side in ("ours", "nbgrader", "ours again"):
            folder = fresh()
            make_command = nbgrader_command if side == "nbgrader" else course_command
            runs[side] = monitored(make_command(folder, TENSORS), folder)
            found[side] = scores(folder, TENSORS)
    if not found["ours"] == found["nbgrader"] == found["ours again"]:
        raise CourseError("nbgrader and this course give different scores")
    points = [sum(cells.values()) for cells in found["ours"].values()]
    both = [runs["ours"], runs["ours again"]]
    return {
        "submissions": count,
        "cells compared": sum(map(len, found["ours"].values())),
        "points": dict(sorted(Counter(points).items())),
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
    with released_course(assignment.NAME, assignment.notebook()) as (folder, _):
        expected = submit_sums(folder, count)
        run = monitored(course_command(folder, assignment.NAME, "short"), folder)
        found = checked_records(folder, expected)
    return {
        "submissions": count,
        "records": len(found),
        "states": Counter(record.state for record in found.values()),
        "kinds": {
            kind: [f"{total_points(found[s]):g}" for s, (k, _) in expected.items() if k == kind]
            for kind in BODIES
        },
        "seconds": run.seconds,
        "honest seconds": median(found[student].seconds for student in honest(expected)),
        "peak": run.peak,
        "drift": drifts(run),
        "series": series(run),
    }


def killed(count: int) -> Part:
    """Kill a run, complete it by a second run, and compare it with a run that was not killed.

    Raises:
        CourseError: the results of honest submissions differ, a submission has unexpected points,
            or the second run didn't grade exactly the submissions that the first run had left.
    """
    with released_course(assignment.NAME, assignment.notebook()) as (first, fresh):
        expected = submit_sums(first, count)
        undisturbed, disturbed = fresh(), fresh()
        monitored(course_command(undisturbed, assignment.NAME, "short"), undisturbed)
        command = course_command(disturbed, assignment.NAME, "short")
        cut = monitored(command, disturbed, until=lambda run: len(run.done) >= count // 2)
        saved = len(list((disturbed / "grading").glob("*/*/*/record.json")))
        rest = monitored(command, disturbed)
        results = [honest_results(folder, expected) for folder in (undisturbed, disturbed)]
    if results[0] != results[1]:
        raise CourseError("a killed and continued run gives honest submissions other results")
    if not count // 2 <= saved < count or len(rest.done) != count - saved:
        raise CourseError(
            f"{saved} records were saved before the kill, and {len(rest.done)} were graded after it"
        )
    return {
        "submissions": count,
        "killed after": cut.seconds,
        "saved": saved,
        "graded after": len(rest.done),
        "cells compared": sum(len(grades) for grades, _ in results[0].values()),
    }


def checked_records(folder: Path, expected: Expected) -> dict[str, records.Record]:
    """Return the records of a graded class by student.

    Raises:
        CourseError: a submission has unexpected points.
    """
    found = {r.student: r for r in records.read_all(folder / "grading" / assignment.NAME)}
    if wrong := unexpected(expected, {s: total_points(r) for s, r in found.items()}):
        raise CourseError(f"unexpected points: {'; '.join(wrong)}")
    return found


def honest_results(folder: Path, expected: Expected) -> dict[str, tuple[dict[str, Any], str]]:
    """Return the grades and the state of each honest submission of a graded class, by student.

    Raises:
        CourseError: a submission has unexpected points.
    """
    found, grades = checked_records(folder, expected), contents(folder, assignment.NAME)
    return {student: (grades[student], found[student].state) for student in honest(expected)}


def total_points(record: records.Record) -> float:
    """Return the points of a record; cells that wait for a person's points count 0."""
    return sum(points or 0 for points in record.points.values())


def honest(expected: Expected) -> list[str]:
    """Return the students whose submission is neither broken nor hostile."""
    return [student for student, (kind, _) in expected.items() if not kind]


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


def drift(times: list[float], values: list[float]) -> float:
    """Return the growth of a series over its second half, as a share of that half's median.

    The growth is computed with the Theil–Sen estimator, the median slope of all pairs of points,
    because a few memory bombs don't change this median.
    """
    start = (times[0] + times[-1]) / 2
    half = [(t, v) for t, v in zip(times, values, strict=True) if t >= start]
    slopes = [(v - u) / (t - s) for (s, u), (t, v) in combinations(half, 2)]
    gained = median(slopes) * (half[-1][0] - half[0][0]) if slopes else 0.0
    return gained / median(v for _, v in half)


def drifts(run: Run) -> dict[str, float]:
    """Return the memory growth of the worker and of all processes in the second half of a run.

    Only the samples between the first and the last graded submission are used.
    """
    kept = [sample for sample in run.samples if run.done[0] <= sample[0] <= run.done[-1]]
    times = [sample[0] for sample in kept]
    return {
        name: drift(times, [sample[place] for sample in kept])
        for place, name in ((1, "worker"), (2, "all"))
    }


def series(run: Run) -> list[list[float]]:
    """Return at most POINTS samples, each with the maximum memory in a part of the run.

    Each sample consists of the time in seconds, the number of graded submissions, and the memory of
    the worker and of all processes, in MB.
    """
    size = -(-len(run.samples) // POINTS)
    parts = [run.samples[start : start + size] for start in range(0, len(run.samples), size)]
    peaks = [max(part, key=lambda sample: sample[2]) for part in parts]
    return [
        [round(at, 1), bisect_right(run.done, at), round(own / 1e6, 1), round(total / 1e6, 1)]
        for at, own, total in peaks
    ]


# --- the report -----------------------------------------------------------------------------------


def picture(graded: Part) -> Any:
    """Return a picture of graded submissions and of memory over time."""
    from matplotlib.figure import Figure

    from course_utils.figures import Picture
    from course_utils.palette import BLUE, GREEN, ORANGE

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    times, done, worker, total = zip(*graded["series"], strict=True)
    upper.plot(times, done, color=BLUE)
    upper.set(ylabel="submissions graded", ylim=(0, None))
    lower.plot(times, total, label="all processes (PSS)", color=ORANGE)
    lower.plot(times, worker, "--", label="the worker alone (RSS)", color=GREEN)
    lower.set(xlabel="seconds", ylabel="memory (MB)", xlim=(0, graded["seconds"]), ylim=(0, None))
    lower.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    found = graded["drift"]
    alt = (
        f"{graded['submissions']:,} submissions graded in {graded['seconds']:,.0f} seconds. All "
        f"processes together need at most {format_bytes(graded['peak'])}. In the second half of "
        f"the run, their memory changes by {found['all']:+.1%} and the memory of the worker by "
        f"{found['worker']:+.1%}."
    )
    return Picture(figure, alt)


def peer_table(sides: Part) -> str:
    """Return a table that compares nbgrader with this course, and a paragraph on start-up."""
    count, both, stock_run = sides["submissions"], sides["ours"], sides["nbgrader"]
    took, first, stock_took = mean(both["seconds"]), mean(both["first"]), stock_run["seconds"]
    rows = {
        "`nbgrader autograde`, with its default settings": (stock_took, stock_run["peak"]),
        "`course grade`": (took, both["peak"]),
    }
    lines = ["| | seconds | seconds a submission | peak memory |", "|---|--:|--:|--:|"]
    for name, (seconds, peak) in rows.items():
        lines.append(f"| {name} | {seconds:.1f} | {seconds / count:.2f} | {format_bytes(peak)} |")
    twice = " and ".join(f"{seconds:.1f}" for seconds in both["seconds"])
    words = f"""{count} submissions; both graders gave the same points in all
        {sides["cells compared"]} graded cells. `course grade` is {stock_took / took:.1f} times
        as fast. The first submission is graded after {first:.1f} s, and each further submission
        needs {(took - first) / (count - 1):.2f} s. `course grade` ran once before and once after
        nbgrader, for {twice} s; the table shows the mean."""
    return "\n".join([*lines, "", paragraph(words)])


def class_table(graded: Part) -> str:
    """Return a table of the broken and hostile submissions in a large class."""
    lines = [
        "| broken or hostile | submissions | points (of 9) | points allowed |",
        "|---|--:|---|--:|",
    ]
    for kind, points in graded["kinds"].items():
        if points:
            lines.append(f"| {kind} | {len(points)} | {_counted(points)} | {MAXIMUM[kind]:g} |")
    states = ", ".join(f"{number} {state}" for state, number in graded["states"].items())
    words = f"""{graded["records"]:,} records of {graded["submissions"]:,} submissions: {states}.
        Every honest submission got exactly the points that it deserves. The median time to grade
        an honest submission was {graded["honest seconds"]:.2f} s. The whole class took
        {graded["seconds"]:.0f} s, which includes the time limits that hostile submissions reach
        ({SHORT.cell:g} s for a cell, {SHORT.call:g} s for a call)."""
    return "\n".join([*lines, "", paragraph(words)])


def killed_run(killed: Part) -> str:
    """Return a paragraph on a killed run and on the run that completed it."""
    return paragraph(
        f"""A run of {killed["submissions"]} submissions was killed (SIGKILL) after
        {killed["killed after"]:.1f} s, when {killed["saved"]} results were saved. The next run
        graded the other {killed["graded after"]} submissions. The scores of all
        {killed["cells compared"]} cells of honest submissions are equal to those of a run that was
        not killed."""
    )


def _counted(points: list[str]) -> str:
    """Return points and their frequency, such as "6", or "6 (3 times), 7 (2 times)"."""
    counts = Counter(points)
    if len(counts) == 1:
        return points[0]
    return ", ".join(f"{value} ({number} times)" for value, number in sorted(counts.items()))


PARTS = {"peers": compare_with_nbgrader, "class": whole_class, "killed": killed}
TABLES = {"peers": peer_table, "class": class_table, "killed": killed_run}


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
    """Return the missed targets for speed and for the growth of memory, one sentence each."""
    found = []
    if sides := report.get("peers"):
        ratio = sides["nbgrader"]["seconds"] / max(sides["ours"]["seconds"])
        if ratio < TARGET:
            found.append(f"{ratio:.1f} times as fast as nbgrader, below {TARGET}")
    grown = report["class"]["drift"] if "class" in report else {}
    return found + [
        f"memory ({name}) grows by {share:+.1%} in the second half of the run"
        for name, share in grown.items()
        if share > DRIFT
    ]


def saved_report() -> Report:
    """Return the report of earlier runs; it is empty before the first run."""
    path = runner.RESULTS / "grading.json"
    return runner.load_report(path) if path.is_file() else {}


def measure(parts: Sequence[str] = (), sizes: Mapping[str, int] = SIZES) -> Iterator[Report]:
    """Measure some parts, and after each of them yield the report with all parts measured so far.

    Args:
        parts: the names of the parts; default: all parts.
        sizes: the number of submissions in each part.

    Raises:
        CourseError: there is no such part, or a part fails.
    """
    if unknown := [name for name in parts if name not in PARTS]:
        raise CourseError(f"there is no part {unknown[0]}; choose from: {', '.join(PARTS)}")
    report = {name: part for name, part in saved_report().items() if name in PARTS}
    for name in parts or PARTS:
        here = measured_here()
        report |= here | {name: here | PARTS[name](sizes[name])}
        yield json.loads(json.dumps(report))
        print(f"{name}: done", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the parts."""
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; default: all of them"
    )


def _of_part(name: str, make: Callable[[Part], Any]) -> Callable[[Report], Any]:
    """Return a function from a report to a table or picture of a part; None if it is missing."""
    return lambda report: make(report[name]) if name in report else None


BENCHMARK = Benchmark(
    measure,
    {name: _of_part(name, table) for name, table in TABLES.items()},
    {"class": _of_part("class", picture)},
    conditions=conditions,
    problems=problems,
    add_options=add_options,
)


if __name__ == "__main__":
    # The command that `course_command` returns and `monitored` runs.
    folder, name, limits, workers = sys.argv[1:]
    grade(Path(folder), name, limits, int(workers))
