# tries: a tensor of 10**12 numbers that takes four bytes, by strides of zero
# must: no point; graded
# assignment: 08_tensors
# %% answer tensors-scale
def scale_rows(x):
    return torch.zeros(1).expand(10**12)
