# tries: NaN, infinities and negative zero in the place of numbers
# must: at most 1 point; graded
# assignment: 08_tensors
# %% answer tensors-rank
def rank_even(d_in, d_out):
    return [float("nan"), float("inf"), -0.0, float("-inf")][d_in % 4]


# %% answer tensors-even
def count_even(numbers):
    return float("nan")
