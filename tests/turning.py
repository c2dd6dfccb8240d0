"""The ways that tests/test_turns.py compares; `benchmarks.worker` runs them."""

import os
import sys
from types import SimpleNamespace


def counts(turn):
    print("This is no answer.")
    for number in range(100):
        turn.begin()
        turn.end(number=number)


def threads(turn):
    while True:
        turn.begin()
        turn.end(threads=os.environ["OMP_NUM_THREADS"])


def own(turn):
    """Measure the duration of the turns itself."""
    while True:
        turn.begin()
        turn.end(seconds=0.125)


def gpu(turn):
    """Imitate a torch that sees a GPU, on which one byte is allocated."""
    cuda = SimpleNamespace(is_available=lambda: True, max_memory_allocated=lambda _: 1)
    torch = SimpleNamespace(cuda=cuda, device=lambda kind: SimpleNamespace(type=kind))
    sys.modules["torch"] = torch
    turn.begin()
    turn.end()
    turn.begin()


def fails(turn):
    turn.begin()
    raise ValueError("no more coffee")


def way(name):
    ways = {"one": counts, "other": counts, "threads": threads, "own": own}
    return (ways | {"gpu": gpu, "fails": fails})[name]
