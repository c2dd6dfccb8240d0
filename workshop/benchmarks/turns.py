"""Compare several ways of doing the same work, which run in separate processes and take turns.

All processes are loaded at the same time, but only one of them works at any moment. So a busy
machine slows down all ways alike, and the ratio of two speeds stays valid. A way is a function that
runs in a worker process: it calls `turn.begin()` before each piece of its work and `turn.end()`
after it. This module measures the time between these two calls.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import Any
from unittest.mock import patch

from course_utils.machine import runtime
from course_utils.machine.units import format_bytes
from workshop.benchmarks.runner import table

# Environment variables of a worker process.
Variables = Mapping[str, str]
# The reports of all turns of a way, each with its "seconds".
Pieces = list[dict]
# The "pieces" of a way's measured rounds, and the "peak" memory of its process in bytes (B).
Result = dict[str, Any]


class Finished(Exception):
    """Raised in a worker process if there are no more turns."""


class Turn:
    """The turns of a worker process: `begin` waits for the next turn, `end` reports its result."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def begin(self) -> None:
        """Wait for the next turn. Raises Finished if there are no more turns."""
        if not self._connection.recv():
            raise Finished

    def end(self, **facts: Any) -> None:
        """End the turn and send facts about its work."""
        self._connection.send(facts)


Way = Callable[[Turn], None]


def work(way: Way, connection: Connection) -> None:
    """Run a way's work in a worker process until there are no more turns; report the peak memory.

    The peak memory is the maximum resident memory of the process since its start, in bytes (B).
    """
    turn = Turn(connection)
    try:
        way(turn)
    except Finished:
        turn.end(peak=runtime.process_peak(os.getpid()))
    except ModuleNotFoundError as error:
        connection.send(error)


def all_cores(_: str = "") -> Variables:
    """Return environment variables that give a worker one thread per core, even on busy cores."""
    return {"OMP_NUM_THREADS": str(runtime.usable_cores())}


def take_turns(
    ways: Mapping[str, Way],
    rounds: int,
    warm_up: int,
    *,
    around: Callable[[int], AbstractContextManager] = nullcontext,
    variables: Callable[[str], Variables] = all_cores,
) -> dict[str, Result]:
    """Start a worker process for each way, and give each process one turn per round.

    Args:
        ways: the functions that do the work, by name; a worker process must be able to import them.
        warm_up: the number of rounds before the measured rounds.
        around: function from a round's number to a context manager in which each turn of the round
            runs. Measured rounds are numbered from 0; the numbers of warm-up rounds are negative.
        variables: function from a way's name to the additional environment variables of its
            process.

    Raises:
        ModuleNotFoundError: a worker lacks a package.
        RuntimeError: a worker has failed; its process has printed the reason.
    """
    context = get_context("spawn")
    with ExitStack() as stack:
        workers: dict[str, Connection] = {}
        for name, way in ways.items():
            workers[name], theirs = context.Pipe()
            process = context.Process(target=work, args=(way, theirs), daemon=True)
            with patch.dict(os.environ, variables(name)):
                process.start()
            # If this end stayed open, a worker that has failed would not end the connection.
            theirs.close()
            stack.callback(process.join)
            stack.callback(process.kill)
        pieces: dict[str, Pieces] = {name: [] for name in workers}
        for number in range(-warm_up, rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for name, worker in workers.items():
                with around(number):
                    begun = time.perf_counter()
                    facts = _ask(name, worker, more=True)
                    pieces[name].append({"seconds": time.perf_counter() - begun} | facts)
        return {
            name: {"pieces": pieces[name][warm_up:]} | _ask(name, worker, more=False)
            for name, worker in workers.items()
        }


def _ask(name: str, worker: Connection, more: bool) -> dict:
    try:
        worker.send(more)
        facts = worker.recv()
    except (OSError, EOFError):
        raise RuntimeError(f"the way {name!r} has failed: its error is printed above") from None
    if isinstance(facts, ModuleNotFoundError):
        raise facts
    return facts


def ratios(pieces: Pieces, others: Pieces, rate: Callable[[dict], float]) -> list[float]:
    """Return for each round the rate of one way divided by the rate of another way."""
    return [rate(one) / rate(other) for one, other in zip(pieces, others, strict=True)]


def in_words(values: Iterable[float], digits: int = 0) -> str:
    """Return the median and, in brackets, minimum and maximum of the values as text."""
    values = list(values)
    middle, least, most = median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"


def compare_with_course(
    ways: dict[str, Result], unit: str, rate: Callable[[dict], float], digits: int = 0
) -> str:
    """Return a Markdown table that compares each way with the course in the same setting.

    Args:
        ways: the results of `take_turns`. A way's name is "WHO" or "WHO, SETTING".
        unit: the unit of the rates, such as "tokens/s".
        rate: function from a piece to its rate.
    """
    rows = []
    for way, result in ways.items():
        _, comma, setting = way.rpartition(", ")
        course = f"course{comma}{setting}" if comma else "course"
        faster = ratios(ways[course]["pieces"], result["pieces"], rate)
        cell = "" if way == course else in_words(faster, 1)
        speed = in_words(map(rate, result["pieces"]), digits)
        rows.append((way, speed, cell, format_bytes(result["peak"])))
    return table(("", unit, "the course is … times as fast", "peak memory"), rows)


def conditions(report: dict, what: str) -> str:
    """Return sentences on how a report was measured; what: the number of pieces of each way."""
    cells = "Cells are medians, with minimum and maximum in brackets"
    return f"{what}. {cells}; {report['threads']} threads."
