# tries: recursion without a limit, until the stack of the process is full
# must: no point; graded or needs a person
# %% answer sum-all
import sys
import threading

sys.setrecursionlimit(10**9)
threading.stack_size(2**26)


class Endless:
    def __getattr__(self, name):
        return getattr(self, name)


def add(numbers):
    return add([Endless().value, *numbers])
