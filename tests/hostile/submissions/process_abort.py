# tries: to abort the process in the answer
# must: no point; graded or needs a person
# %% answer sum-all
import os


def add(numbers):
    os.abort()
