"""Ways for tests/test_turns.py, which `benchmarks.worker` runs."""

import os


def counts(turn):
    print("noise on the standard output")
    for number in range(100):
        turn.begin()
        turn.end(number=number)


def tells(turn):
    while True:
        turn.begin()
        turn.end(threads=os.environ["OMP_NUM_THREADS"])


def fails(turn):
    turn.begin()
    raise ValueError("no more coffee")


def way(name):
    return {"one": counts, "other": counts, "tells": tells, "fails": fails}[name]
