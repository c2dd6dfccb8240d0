"""Ways of doing the same work, each in a process of its own, taking turns.

All are loaded at the same time and only one of them works at any moment, so that a busy machine
slows down all alike and a ratio of two holds. A worker is `python -m benchmarks.worker MODULE WAY`;
its work is `MODULE.way(WAY)`, any loop that calls `turn.begin()`
before a piece of it and `turn.end()` behind, from a callback if need be; the time of a piece is
taken here, between the two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from course_utils import runtime
from course_utils.units import format_bytes

ROOT = Path(__file__).parents[1]

Variables = Mapping[str, str]  # environment variables
Pieces = list[dict]  # what each turn of a way reported, with its "seconds"


class Finished(Exception):
    """There are no more turns."""


class Turn:
    """A worker's end of the line: `begin` waits for the go, `end` says what was done."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints is no answer

    def begin(self) -> None:
        """Wait for the next turn; raises Finished if there is none."""
        if sys.stdin.readline().strip() != "go":
            raise Finished

    def end(self, **facts) -> None:
        """Report a piece of work, or anything else, as JSON."""
        print(json.dumps(facts), file=self._answers, flush=True)


def work(way: Callable[[Turn], None]) -> None:
    """What a worker process does: its way's work until there are no more turns, then its peak.

    The peak is the most resident bytes (B) that the process has had since its start.
    """
    turn = Turn()
    try:
        way(turn)
    except Finished:
        turn.end(peak=runtime.peak_memory())


def all_cores() -> Variables:
    """Environment variables that give a worker one thread per core, even if others are busy."""
    return {"OMP_NUM_THREADS": str(runtime.usable_cores())}


def take_turns(
    module: str,
    ways: Iterable[str],
    rounds: int,
    warm_up: int,
    variables: Callable[[str], Variables] = lambda way: all_cores(),
    around: Callable[[int], AbstractContextManager] = lambda number: nullcontext(),
    pause: float = 0.0,
) -> dict[str, dict[str, Pieces | int]]:
    """Start a worker process for each way of a module and give each its turn, round by round.

    Args:
        module: the module whose function `way` returns the work of a way.
        ways: names of the ways.
        rounds, warm_up: how many rounds are measured, and how many come before them.
        variables: the environment variables that a way's process has besides those of this one.
        around: what surrounds a round; rounds are numbered from 0, those of warm-up are negative.
        pause: seconds before each turn, in which none of the ways works.

    Returns:
        For each way its pieces, one a measured round, and its peak in B.

    Raises:
        RuntimeError: a worker has failed; the text holds what it said last.
    """
    with ExitStack() as stack:
        workers = {way: stack.enter_context(_worker(module, way, variables(way))) for way in ways}
        pieces: dict[str, Pieces] = {way: [] for way in workers}
        for number in range(-warm_up, rounds):
            with around(number):
                for way, worker in workers.items():
                    time.sleep(pause)
                    pieces[way].append(worker.turn())
        return {
            way: {"pieces": pieces[way][warm_up:], "peak": worker.finish()}
            for way, worker in workers.items()
        }


@contextmanager
def _worker(module: str, way: str, variables: Variables) -> Iterator[_Worker]:
    """A worker process, which is killed if it is still there in the end."""
    command = [sys.executable, "-m", "benchmarks.worker", module, way]
    environment = os.environ | variables
    with tempfile.TemporaryFile("w+") as log:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
            try:
                yield _Worker(way, process, log)
            finally:
                process.kill()


@dataclass
class _Worker:
    way: str
    process: subprocess.Popen
    log: IO[str]

    def turn(self) -> dict:
        begun = time.perf_counter()
        answer = self._ask("go\n")
        return answer | {"seconds": time.perf_counter() - begun}

    def finish(self) -> int:
        return self._ask("\n")["peak"]

    def _ask(self, line: str) -> dict:
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, json.JSONDecodeError):
            self.log.seek(0)
            said = self.log.read()[-2000:]
            raise RuntimeError(f"the way {self.way!r} has failed:\n{said}") from None


def ratios(pieces: Pieces, others: Pieces, rate: Callable[[dict], float]) -> list[float]:
    """Of each round, how many times the other way's rate this one's is."""
    return [rate(one) / rate(other) for one, other in zip(pieces, others, strict=True)]


def in_words(values: Iterable[float], digits: int = 0) -> str:
    """Median and, in brackets, least and most."""
    values = list(values)
    middle, least, most = median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"


def beside_the_course(
    ways: dict[str, dict], unit: str, rate: Callable[[dict], float], digits: int = 0
) -> str:
    """A Markdown table of ways, each against the course in the same setting.

    A way's name is "WHO" or "WHO, SETTING". rate: what a piece reaches, in `unit`.
    """
    head = f"| | {unit} | the course is … times as fast | peak memory |"
    lines = [head, "|---|--:|--:|--:|"]
    for way, result in ways.items():
        _, comma, setting = way.rpartition(", ")
        ours = ways[f"course{comma}{setting}" if comma else "course"]
        faster = ratios(ours["pieces"], result["pieces"], rate)
        cell = "" if result is ours else in_words(faster, 1)
        speed = in_words(map(rate, result["pieces"]), digits)
        lines.append(f"| {way} | {speed} | {cell} | {format_bytes(result['peak'])} |")
    return "\n".join(lines)


def conditions(report: dict, what: str) -> str:
    """How the ways of a report were measured; what: the pieces of each way."""
    return f"{what}: medians, with the least and the most in brackets; {report['threads']} threads."


def slower_than(
    report: dict, target: float, rate: Callable[[dict], float], peers: Iterable[str]
) -> list[str]:
    """A sentence for each peer's way against which the course misses the target.

    Args:
        report: its "ways" are named as in `beside_the_course`.
        target: how many times as fast the course must be, in the median of the rounds.
        rate: what a piece reaches.
        peers: begin the names of the ways to compare with.
    """
    found = []
    for way, result in report["ways"].items():
        who, comma, setting = way.rpartition(", ")
        if (who if comma else way) in peers:
            ours = report["ways"][f"course{comma}{setting}" if comma else "course"]
            faster = median(ratios(ours["pieces"], result["pieces"], rate))
            if faster < target:
                found.append(f"{way}: the course is {faster:.1f} times as fast, not {target:g}")
    return found
