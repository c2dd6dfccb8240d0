"""Measure and plot how training, memory and grading scale with the size of the work.

The first part measures the speed of lecture 07's loop by examples per step, with one thread and
with two threads, which take turns. The second part measures the peak memory of a QLoRA step by
sequence length, tensor by tensor, and compares the peak with `memory.estimate`. The third part
measures the speed of `course grade` by the number of submissions and of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from matplotlib.figure import Figure

from benchmarks import calculators, grading, training
from benchmarks.runner import Benchmark, Report, measured_here
from benchmarks.turns import Schedule, Turn, in_words, take_turns
from course_utils.figures import Picture, curves
from course_utils.memory import estimate
from course_utils.palette import BLUE, ORANGE
from course_utils.units import GB, format_bytes

BATCHES, THREADS = (1, 2, 4, 8, 16, 32), (1, 2)
# For each number of examples per step: the number of steps before the measurement, and the minimum
# numbers of measured steps and of measured examples.
WARM_UP, STEPS, EXAMPLES = 2, 4, 24
# Lengths of the sequences, in tokens.
LENGTHS = (64, 128, 256, 512, 1024)
# The setting with which the course loads its base model.
SETTING = "QLoRA, 16-bit rest"
# The columns of bytes in the memory table.
KINDS = ("measured", "estimated")
CLASSES, WORKERS = (5, 10, 20, 40, 80, 160), (1, 2, 4)


# --- measuring ------------------------------------------------------------------------------------


def train(turn: Turn, batch: int, threads: int) -> None:
    """Train with lecture 07's loop, with `batch` examples per step and `threads` threads."""
    torch.set_num_threads(threads)
    training.course(turn, checkpointing=True, batch=batch)


def way_name(batch: int, threads: int) -> str:
    """Return the name of the way with this number of examples per step and threads."""
    return f"{batch} × {threads}"


WAYS = {way_name(b, t): partial(train, batch=b, threads=t) for b in BATCHES for t in THREADS}


def trained() -> list[dict]:
    """Return the tokens/s of all steps for each number of examples per step and of threads."""
    rows = []
    for batch in BATCHES:
        ways = {way_name(batch, threads): threads for threads in THREADS}
        schedule = Schedule(max(STEPS, EXAMPLES // batch), WARM_UP)
        for way, found in take_turns("benchmarks.scaling", ways, schedule).items():
            rates = [training.rate(piece) for piece in found["pieces"]]
            rows.append({"examples": batch, "threads": ways[way], "tokens/s": rates})
    return rows


def peaks() -> list[dict]:
    """Return the measured and estimated peaks of a step in bytes (B), by sequence length."""
    setting = {SETTING: calculators.SETTINGS[SETTING]}
    return [
        {
            "tokens": case["options"]["sequence_length"],
            "checkpointing": case["options"]["gradient_checkpointing"],
            "measured": case["measured"],
            "estimated": estimate("smollm2-135m", case["method"], **case["options"]).total,
        }
        for case in calculators.step_cases(setting, LENGTHS)
    ]


def graded() -> list[dict]:
    """Return the seconds, the seconds until the first record, and the peak memory of each run."""
    rows = []
    for size in CLASSES:
        with grading.released_course(grading.TENSORS, grading.tensors()) as (first, fresh):
            grading.submit_tensors(first, size)
            for workers in WORKERS:
                folder = fresh()
                command = grading.course_command(folder, grading.TENSORS, workers=workers)
                run = grading.monitored(command, folder)
                took = {"seconds": run.seconds, "first": run.done[0], "peak": run.peak}
                rows.append({"submissions": size, "workers": workers, **took})
    return rows


def way(name: str) -> Callable[[Turn], None]:
    """Return the function that a worker process runs for a way."""
    return WAYS[name]


def measure() -> Iterator[Report]:
    """Measure the three parts and yield their report."""
    yield {
        **measured_here(),
        "training": trained(),
        "memory": peaks(),
        "grading": graded(),
    }


# --- the texts ------------------------------------------------------------------------------------


def grouped(rows: list[dict], by: str) -> dict[int, list[dict]]:
    """Return the rows grouped by the values of a column, in their order."""
    values = dict.fromkeys(row[by] for row in rows)
    return {value: [row for row in rows if row[by] == value] for value in values}


def storage(row: dict) -> str:
    """Return "checkpointing" or "all stored": the way in which a step treats its activations."""
    return "checkpointing" if row["checkpointing"] else "all stored"


def per_minute(row: dict) -> float:
    """Return the submissions per minute of a run, including its start-up."""
    return 60 * row["submissions"] / row["seconds"]


def training_picture(report: dict) -> Picture:
    """Draw tokens/s by examples per step, with a line for each number of threads."""
    lines = {
        f"threads: {threads}": {row["examples"]: median(row["tokens/s"]) for row in rows}
        for threads, rows in grouped(report["training"], "threads").items()
    }
    return from_zero(curves(lines, xlabel="examples a step", ylabel="tokens/s", log="x"))


def memory_picture(report: dict) -> Picture:
    """Return a picture of measured and estimated peaks by tokens and by checkpointing."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    ranges = []
    ways = grouped(report["memory"], "checkpointing").values()
    for rows, colour in zip(ways, (ORANGE, BLUE), strict=True):
        tokens = [row["tokens"] for row in rows]
        dots, line = ([row[kind] / GB for row in rows] for kind in KINDS)
        axes.plot(tokens, dots, "o", color=colour, label=f"{storage(rows[0])}, measured")
        axes.plot(tokens, line, color=colour, linewidth=1, label="estimated")
        ranges.append(f"{storage(rows[0])} from {dots[0]:.2f} to {dots[-1]:.2f} GB")
    axes.set(xlabel="tokens of a sequence", ylabel="GB at the peak", ylim=(0, None))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    apart = max(abs(row["measured"] - row["estimated"]) for row in report["memory"])
    alt = (
        f"Peaks of a step over {tokens[0]} to {tokens[-1]:,} tokens: {', '.join(ranges)}. "
        f"Dots are measured and lines are estimated; the largest difference is {apart:,} B."
    )
    return Picture(figure, alt)


def grading_picture(report: dict) -> Picture:
    """Draw submissions per minute by submissions, with a line for each number of workers."""
    lines = {
        f"workers: {workers}": {row["submissions"]: per_minute(row) for row in rows}
        for workers, rows in grouped(report["grading"], "workers").items()
    }
    return from_zero(curves(lines, xlabel="submissions", ylabel="submissions a minute", log="x"))


def from_zero(picture: Picture) -> Picture:
    """Return the picture with a vertical axis that begins at zero."""
    picture.figure.axes[0].set_ylim(bottom=0)
    return picture


def training_table(report: dict) -> str:
    """Return a table of tokens/s by examples per step and threads."""
    by_threads = grouped(report["training"], "threads")
    head = " | ".join(f"threads: {threads}" for threads in by_threads)
    lines = [f"| examples a step | {head} |", "|--:|" + "--:|" * len(by_threads)]
    for examples, rows in grouped(report["training"], "examples").items():
        cells = " | ".join(in_words(row["tokens/s"]) for row in rows)
        lines.append(f"| {examples} | {cells} |")
    return "\n".join(lines)


def memory_table(report: dict) -> str:
    """Return a table of measured and estimated peaks by tokens of a sequence."""
    lines = ["| | tokens | measured, B | estimated, B |", "|---|--:|--:|--:|"]
    for row in report["memory"]:
        sizes = " | ".join(f"{row[kind]:,}" for kind in KINDS)
        lines.append(f"| {storage(row)} | {row['tokens']} | {sizes} |")
    return "\n".join(lines)


def grading_table(report: dict) -> str:
    """Return a table of seconds, submissions per minute and peak memory of each grading run."""
    lines = [
        "| submissions | workers | seconds | to the first | submissions a minute | peak memory |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["grading"]:
        times = f"{row['seconds']:.1f} | {row['first']:.1f} | {per_minute(row):.0f}"
        lines.append(
            f"| {row['submissions']} | {row['workers']} | {times} | {format_bytes(row['peak'])} |"
        )
    return "\n".join(lines)


BENCHMARK = Benchmark(
    measure,
    {"training": training_table, "memory": memory_table, "grading": grading_table},
    {"training": training_picture, "memory": memory_picture, "grading": grading_picture},
)
