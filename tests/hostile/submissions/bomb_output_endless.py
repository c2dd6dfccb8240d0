# tries: to print without end, in small pieces, to both streams and to their descriptors
# must: no point; graded or needs a person
# %% answer sum-all
import os
import sys


def add(numbers):
    while True:
        print("x" * 1000)
        print("y", file=sys.stderr)
        os.write(1, b"z" * 1000)
        os.write(2, b"z" * 1000)
