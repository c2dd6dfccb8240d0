# tries: to fork in the answer, so that two copies answer every call from then on
# must: no point; graded or needs a person
# %% answer sum-all
import os


def add(numbers):
    return 0 if os.fork() else 12


# %% answer sum-squares
def squares(numbers):
    return 50 if os.fork() == 0 else 0
