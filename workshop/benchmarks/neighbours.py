"""Measure the speed of training and answering beside busy neighbours.

A neighbour is a program that keeps one core busy. Each combination of a setting and a kind of work
runs in its own process. The processes take turns: first without neighbours, then beside one
neighbour, then beside two neighbours, then without neighbours again. A pause before each turn
ensures that a process doesn't count the previous process among its neighbours.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from workshop.benchmarks import decoding, training
from workshop.benchmarks.runner import Benchmark, Report, measured_here, table
from workshop.benchmarks.turns import (
    Pieces,
    Schedule,
    Turn,
    Variables,
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
# The minimum speed by number of neighbours, as a share of the speed with a thread for each core and
# no neighbours.
TARGETS = {0: 0.97, 1: 0.5}
# The program of a neighbour, which also ends if the benchmark is killed.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"

BEFORE, COURSE = "a thread for each core", "the course"
SETTINGS: dict[str, Variables] = {
    BEFORE: all_cores(),
    COURSE: {},
    "always one thread": {"OMP_NUM_THREADS": "1"},
}


class Work(NamedTuple):
    """What a worker process runs, the function from a measurement to a speed, and its unit."""

    run: Callable[[Turn], None]
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


def way(name: str) -> Callable[[Turn], None]:
    """Return the work of a worker process, whose environment variables contain the setting."""
    return WORK[name.rpartition(", ")[2]].run


def _setting_of(way: str) -> Variables:
    return SETTINGS[way.rpartition(", ")[0]]


def _neighbours_in(number: int) -> AbstractContextManager:
    """Return a context manager that runs the neighbours of a round; warm-up rounds have none."""
    return busy(NEIGHBOURS[number % len(NEIGHBOURS)] if number >= 0 else 0)


def measure() -> Iterator[Report]:
    """Measure each setting and kind of work with each number of neighbours."""
    schedule = Schedule(ROUNDS * len(NEIGHBOURS), warm_up=2, around=_neighbours_in, pause=PAUSE)
    yield {
        **measured_here(),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "ways": take_turns(
            "workshop.benchmarks.neighbours",
            [f"{setting}, {name}" for name in WORK for setting in SETTINGS],
            schedule,
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


def problems(report: Report) -> list[str]:
    """Return the kinds of work for which the course misses its targets, one sentence each."""
    found = []
    for count, target in TARGETS.items():
        for name in WORK:
            reached = share(report, COURSE, name, count)
            if reached < target:
                found.append(f"{name}, neighbours: {count}: {reached:.0%}, below {target:.0%}")
    return found


BENCHMARK = Benchmark(
    measure,
    {"table": speeds},
    conditions=lambda report: conditions(report, f"{report['rounds']} turns for each setting"),
    problems=problems,
)
