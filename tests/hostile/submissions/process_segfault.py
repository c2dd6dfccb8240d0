# tries: a segmentation fault in the answer
# must: no point; graded or needs a person
# %% answer sum-all
import ctypes


def add(numbers):
    return ctypes.string_at(0)
