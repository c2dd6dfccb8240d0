# tries: tensors without data, sparse, quantized, nested, complex or in 8 bits, one at each call
# must: no point; graded
# assignment: 08_tensors
# %% answer tensors-scale
kinds = [
    lambda x: torch.empty(x.shape, device="meta"),
    lambda x: x.to_sparse(),
    lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    lambda x: torch.nested.nested_tensor([x]),
    lambda x: x.to(torch.complex64),
    lambda x: x.to(torch.float8_e4m3fn),
    lambda x: torch.conj(x.to(torch.complex64)),
    lambda x: torch._neg_view(x),
]


# %% answer tensors-even
def count_even(numbers):
    return kinds[len(numbers) % 3](torch.ones(2))


# %% answer tensors-rank
def rank_even(d_in, d_out):
    return kinds[3 + d_in % 5](torch.ones(2, 2))
