"""Compare several ways of doing the same work, which run in separate processes and take turns.

All processes are loaded at the same time, but only one of them works at any moment. So a busy
machine slows down all ways alike, and the ratio of two speeds stays valid. A worker process is
`python -m workshop.benchmarks.turns MODULE WAY`. It runs the function `MODULE.way(WAY)`, which
calls `turn.begin()` before each piece of its work and `turn.end()` after it. This module measures
the time between these two calls.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

from course_utils.machine import runtime
from course_utils.machine.units import format_bytes
from workshop.benchmarks.runner import ROOT, table

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

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        # Everything that libraries print goes to stderr, so stdout contains only the turns'
        # reports.
        os.dup2(2, 1)

    def begin(self) -> None:
        """Wait for the next turn. Raises Finished if there are no more turns."""
        if sys.stdin.readline().strip() != "go":
            raise Finished

    def end(self, **facts: Any) -> None:
        """End the turn and send facts about its work, as JSON.

        The duration of a turn is added to the facts as "seconds". A way may send "seconds" itself,
        if only a part of its work in the turn counts.
        """
        print(json.dumps(facts), file=self._answers, flush=True)


def work(way: Callable[[Turn], None]) -> None:
    """Run a way's work in a worker process until there are no more turns; report the peak memory.

    The peak memory is the maximum resident memory of the process since its start, in bytes (B).
    """
    turn = Turn()
    try:
        way(turn)
    except Finished:
        turn.end(peak=runtime.process_peak(os.getpid()))


def all_cores() -> Variables:
    """Return environment variables that give a worker one thread per core, even on busy cores."""
    return {"OMP_NUM_THREADS": str(runtime.usable_cores())}


def _no_context(_: int) -> AbstractContextManager:
    return nullcontext()


@dataclass(frozen=True)
class Schedule:
    """The rounds in which the workers take turns.

    Attributes:
        rounds: the number of measured rounds.
        warm_up: the number of rounds before the measured rounds.
        around: function from a round's number to a context manager in which the round runs.
            Measured rounds are numbered from 0; the numbers of warm-up rounds are negative.
        pause: the length of the pause before each turn, in seconds.
    """

    rounds: int
    warm_up: int
    around: Callable[[int], AbstractContextManager] = _no_context
    pause: float = 0.0


def take_turns(
    module: str,
    ways: Iterable[str],
    schedule: Schedule,
    variables: Callable[[str], Variables] | None = None,
) -> dict[str, Result]:
    """Start a worker process for each way of a module, and give each process one turn per round.

    Args:
        module: the module whose function `way` returns the work of a way.
        ways: the names of the ways.
        schedule: the rounds.
        variables: function from a way to the additional environment variables of its process;
            default: the variables of `all_cores`.

    Returns:
        The result of each way.

    Raises:
        RuntimeError: a worker has failed; the message contains the end of its output.
    """
    with ExitStack() as stack:
        workers = {
            way: stack.enter_context(
                _Worker(module, way, variables(way) if variables else all_cores())
            )
            for way in ways
        }
        pieces: dict[str, Pieces] = {way: [] for way in workers}
        for number in range(-schedule.warm_up, schedule.rounds):
            print(f"round {number + 1} of {schedule.rounds}", flush=True)
            with schedule.around(number):
                for way, worker in workers.items():
                    time.sleep(schedule.pause)
                    pieces[way].append(worker.turn())
        return {
            way: {"pieces": pieces[way][schedule.warm_up :], "peak": worker.ask("\n")["peak"]}
            for way, worker in workers.items()
        }


class _Worker:
    """A worker process, which is killed at the end of the with block if it is still running."""

    def __init__(self, module: str, way: str, variables: Variables) -> None:
        self.way = way
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `__exit__` closes it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workshop.benchmarks.turns", module, way],
            cwd=ROOT,
            env={**os.environ, **variables},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def turn(self) -> dict:
        begun = time.perf_counter()
        answer = self.ask("go\n")
        return {"seconds": time.perf_counter() - begun} | answer

    def ask(self, line: str) -> dict:
        requests, answers = self.process.stdin, self.process.stdout
        assert requests and answers
        try:
            requests.write(line)
            requests.flush()
            return json.loads(answers.readline())
        except (OSError, json.JSONDecodeError):
            self.log.seek(0)
            output = self.log.read()[-2000:]
            raise RuntimeError(f"the way {self.way!r} has failed:\n{output}") from None


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
        digits: the number of decimal places of the rates.
    """
    rows = []
    for way, result in ways.items():
        who, faster = _course_against(ways, way, rate)
        cell = "" if who == "course" else in_words(faster, 1)
        speed = in_words(map(rate, result["pieces"]), digits)
        rows.append((way, speed, cell, format_bytes(result["peak"])))
    return table(("", unit, "the course is … times as fast", "peak memory"), rows)


def _course_against(
    ways: dict[str, Result], way: str, rate: Callable[[dict], float]
) -> tuple[str, list[float]]:
    """Return WHO of a way, and in each round the course's rate divided by the way's rate."""
    who, comma, setting = way.rpartition(", ")
    ours = ways[f"course{comma}{setting}" if comma else "course"]
    return who if comma else way, ratios(ours["pieces"], ways[way]["pieces"], rate)


def conditions(report: dict, what: str) -> str:
    """Return sentences on how a report was measured; what: the number of pieces of each way."""
    cells = "Cells are medians, with minimum and maximum in brackets"
    return f"{what}. {cells}; {report['threads']} threads."


def missed_targets(
    report: dict, rate: Callable[[dict], float], targets: Mapping[str, float]
) -> list[str]:
    """Return the ways of peers against which the course misses its target, one sentence each.

    Args:
        report: the report, whose "ways" are named as in `compare_with_course`.
        rate: function from a piece to its rate.
        targets: for the first part of the names (WHO) of the ways, the minimum ratio of the
            course's rate to the way's rate, as a median over all rounds.
    """
    found = []
    for way in report["ways"]:
        who, by_round = _course_against(report["ways"], way, rate)
        faster, target = median(by_round), targets.get(who, 0)
        if faster < target:
            found.append(f"{way}: the course is {faster:.1f} times as fast, below {target:g}")
    return found


if __name__ == "__main__":
    module, name = sys.argv[1:]
    work(importlib.import_module(module).way(name))
