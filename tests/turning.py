"""The ways that tests/test_turns.py compares; `benchmarks.worker` runs them."""

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


def fails(turn):
    turn.begin()
    raise ValueError("no more coffee")


def way(name):
    return {"one": counts, "other": counts, "threads": threads, "fails": fails}[name]
