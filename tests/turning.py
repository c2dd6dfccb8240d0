"""The ways that tests/test_turns.py compares; `benchmarks.turns` runs them."""

import os


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


def fails(turn):
    turn.begin()
    raise ValueError("no more coffee")


def way(name):
    ways = {"one": counts, "other": counts, "threads": threads, "own": own, "fails": fails}
    return ways[name]
