"""Ways for tests/test_turns.py: `python -m tests.turning --worker WAY`."""

import os
import sys

from benchmarks.turns import work


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


if __name__ == "__main__":
    work({"one": counts, "other": counts, "tells": tells, "fails": fails}[sys.argv[-1]])
