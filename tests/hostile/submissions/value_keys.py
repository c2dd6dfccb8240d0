# tries: dicts with NaN, surrogates, tuples of tuples and arrays as keys
# must: no point; graded
# %% answer sum-all
import numpy


def add(numbers):
    nan = float("nan")
    return {nan: 1, float("nan"): 2, "\ud800": 3, (1, (2, (nan,))): 4, numpy.float32(1): 5}
