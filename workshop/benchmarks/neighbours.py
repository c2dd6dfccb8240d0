"""Measure the speed of training and answering beside busy neighbours.

A neighbour is a program that keeps one core busy. Each combination of a setting and a kind of work
runs in its own process. The processes take turns: first without neighbours, then beside one
neighbour, then beside two neighbours, then without neighbours again. A pause before each turn
ensures that a process doesn't count the previous process among its neighbours.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from workshop.benchmarks import decoding, training
from workshop.benchmarks.runner import Benchmark, Report, measured_here, table
from workshop.benchmarks.turns import (
    Pieces,
    Variables,
    Way,
    all_cores,
    conditions,
    in_words,
    ratios,
    take_turns,
)

NEIGHBOURS = (0, 1, 2)
# Number of rounds for each number of neighbours.
ROUNDS = 4
# Pause before each measurement, in seconds. The pause is longer than one second, because
# `course_utils.machine.threads` averages the number of busy cores over one second.
PAUSE = 1.5
# The program of a neighbour, which also ends if the benchmark is killed.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"

BEFORE = "a thread for each core"
SETTINGS: dict[str, Variables] = {
    BEFORE: all_cores(),
    "the course": {},
    "always one thread": {"OMP_NUM_THREADS": "1"},
}


class Work(NamedTuple):
    """What a worker process runs, the function from a measurement to a speed, and its unit."""

    run: Way
    rate: Callable[[dict], float]
    unit: str


WORK = {
    "training": Work(partial(training.course, checkpointing=True), training.rate, "tokens/s"),
    "answering": Work(partial(decoding.course, kind="few-shot"), decoding.rate, "answers/s"),
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


def _setting_of(way: str) -> Variables:
    return SETTINGS[way.rpartition(", ")[0]]


@contextmanager
def _neighbours_in(number: int) -> Iterator[None]:
    """Run the neighbours of a round, and wait for PAUSE; warm-up rounds have no neighbours."""
    with busy(NEIGHBOURS[number % len(NEIGHBOURS)] if number >= 0 else 0):
        time.sleep(PAUSE)
        yield


def measure() -> Iterator[Report]:
    """Measure each setting and kind of work with each number of neighbours."""
    yield {
        **measured_here(),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "ways": take_turns(
            {f"{setting}, {name}": work.run for name, work in WORK.items() for setting in SETTINGS},
            ROUNDS * len(NEIGHBOURS),
            warm_up=2,
            around=_neighbours_in,
            variables=_setting_of,
        ),
    }


# --- the report -----------------------------------------------------------------------------------


def pieces(report: dict, setting: str, name: str, neighbours: int) -> Pieces:
    """Return the measurements of a kind of work with a setting and a number of neighbours."""
    every = report["ways"][f"{setting}, {name}"]["pieces"]
    return every[NEIGHBOURS.index(neighbours) :: len(NEIGHBOURS)]


def share(report: dict, setting: str, name: str, neighbours: int) -> float:
    """Return a speed as a share of the speed with a thread for each core and no neighbours.

    The share is the median over all rounds. In each round, two measurements of the same round are
    compared, because the machine's own speed hardly changes within minutes.
    """
    quiet = pieces(report, BEFORE, name, 0)
    return median(ratios(pieces(report, setting, name, neighbours), quiet, WORK[name].rate))


def speeds(report: dict) -> str:
    """Return a table of speeds and shares with a row for each kind of work and setting."""
    rows = []
    for name, work in WORK.items():
        for setting in SETTINGS:
            cells = []
            for count in NEIGHBOURS:
                speed = in_words(map(work.rate, pieces(report, setting, name, count)), digits=1)
                cells.append(f"{speed}: {share(report, setting, name, count):.0%}")
            rows.append((f"{name}, {work.unit}: {setting}", *cells))
    return table(("", "no neighbour", "one neighbour", "two neighbours"), rows)


BENCHMARK = Benchmark(
    measure,
    {"table": speeds},
    conditions=lambda report: conditions(report, f"{report['rounds']} turns for each setting"),
)
