# tries: to change the argument in place, so that the reference is computed from zeros
# must: at most 1 point; graded
# assignment: 08_tensors
# %% answer tensors-scale
def scale_rows(x):
    return x.zero_()
