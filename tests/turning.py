"""Ways for tests/test_turns.py: `python -m tests.turning --worker WAY`."""

import sys

from benchmarks.turns import work


def counts(turn):
    print("noise on the standard output")
    for number in range(100):
        turn.begin()
        turn.end(number=number)


def fails(turn):
    turn.begin()
    raise ValueError("no more coffee")


if __name__ == "__main__":
    work({"one": counts, "other": counts, "fails": fails}[sys.argv[-1]])
