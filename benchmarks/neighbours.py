"""Speed of training, generation and the NF4 codec, with and without busy neighbours.

A neighbour is a program that keeps one core busy. Each combination of a setting and a kind of work
has a process of its own. The processes take turns: first without neighbours, then beside one
neighbour, then beside two neighbours, then without neighbours again. There is a pause before each
turn, so that a process doesn't count the process that worked before it among its neighbours.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

import torch

from benchmarks import decoding, training
from benchmarks.runner import Benchmark, Report, Save, measured_here
from benchmarks.turns import (
    Pieces,
    Turn,
    Variables,
    all_cores,
    conditions,
    in_words,
    ratios,
    take_turns,
)
from course_utils.quantization import quantize_nf4

NEIGHBOURS = (0, 1, 2)
ROUNDS = 4  # for each number of neighbours
REST = 1.5  # seconds before each measurement; `course_utils.threads` averages over one second
QUIET, BESIDE_ONE = 0.97, 0.5  # targets, as shares of the speed with all cores and no neighbours
# It ends by itself if the benchmark is killed.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"

BEFORE, COURSE = "a thread for each core", "the course"
SETTINGS: dict[str, Variables] = {
    BEFORE: all_cores(),
    COURSE: {},
    "always one thread": {"OMP_NUM_THREADS": "1"},
    "GOMP_SPINCOUNT=1000": all_cores() | {"GOMP_SPINCOUNT": "1000"},
}


def codec(turn: Turn) -> None:
    """Lecture 04's codec: convert 2 million weights to NF4 and back, 40 times a turn."""
    weights = torch.randn(2_000_000)
    while True:
        turn.begin()
        for _ in range(40):
            quantize_nf4(weights, double_quant=True).dequantize()
        turn.end(weights=40 * weights.numel())


WORK = {
    "training": (partial(training.course, checkpointing=True), training.rate, "tokens/s"),
    "answering": (partial(decoding.course, kind="few-shot"), decoding.rate, "answers/s"),
    "codec": (codec, lambda piece: piece["weights"] / piece["seconds"] / 1e6, "million weights/s"),
}


# --- measuring ------------------------------------------------------------------------------------


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` programs, each of which keeps a core busy."""
    with ExitStack() as stack:
        for _ in range(count):
            program = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(program.kill)
        yield


def way(name: str) -> Callable[[Turn], None]:
    """The work of a worker process; its setting is in its environment variables."""
    return WORK[name.rpartition(", ")[2]][0]


def measure(save: Save) -> Report:
    """Every setting and kind of work, with each number of neighbours."""
    return {
        **measured_here(),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "ways": take_turns(
            "benchmarks.neighbours",
            [f"{setting}, {name}" for name in WORK for setting in SETTINGS],
            rounds=ROUNDS * len(NEIGHBOURS),
            warm_up=2,
            variables=lambda way: SETTINGS[way.rpartition(", ")[0]],
            around=lambda number: busy(NEIGHBOURS[number % len(NEIGHBOURS)] if number >= 0 else 0),
            pause=REST,
        ),
    }


# --- the report -----------------------------------------------------------------------------------


def pieces(report: dict, setting: str, name: str, neighbours: int) -> Pieces:
    """The measurements of this kind of work, with this setting and this number of neighbours."""
    every = report["ways"][f"{setting}, {name}"]["pieces"]
    return every[NEIGHBOURS.index(neighbours) :: len(NEIGHBOURS)]


def share(report: dict, setting: str, name: str, neighbours: int) -> float:
    """The speed with a setting, divided by the speed with a thread for each core and no neighbours.

    It is the median over the rounds. Measurements of the same round are compared, because only
    minutes lie between them.
    """
    quiet = pieces(report, BEFORE, name, 0)
    return median(ratios(pieces(report, setting, name, neighbours), quiet, WORK[name][1]))


def table(report: dict) -> str:
    """Speeds and shares, one line for each kind of work and setting."""
    heads = ["no neighbour", "one neighbour", "two neighbours"]
    lines = [f"| | | {' | '.join(heads)} |", "|---|---|--:|--:|--:|"]
    for name, (_, rate, unit) in WORK.items():
        for setting in SETTINGS:
            cells = []
            for count in NEIGHBOURS:
                speed = in_words(map(rate, pieces(report, setting, name, count)), digits=1)
                cells.append(f"{speed}: {share(report, setting, name, count):.0%}")
            what = f"{name}, {unit}" if setting == BEFORE else ""
            lines.append(f"| {what} | {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def problems(report: Report) -> list[str]:
    """Kinds of work for which the course misses its targets."""
    found = []
    for count, target in ((0, QUIET), (1, BESIDE_ONE)):
        for name in WORK:
            reached = share(report, COURSE, name, count)
            if reached < target:
                found.append(f"{name}, {count} neighbours: {reached:.0%}, not {target:.0%}")
    return found


BENCHMARK = Benchmark(
    measure,
    {"table": table},
    conditions=lambda report: conditions(report, f"{report['rounds']} turns each"),
    problems=problems,
)
