# %% base default: a right answer, which the answers below change unless they name another base
def bootstrap_interval(before, after, draws):
    if len(before) != len(after):
        raise ValueError("different lengths")
    means = (after - before)[draws].mean(dim=1)
    return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()


# %% right numpy: uses NumPy, and subtracts the means of the two models
def bootstrap_interval(before, after, draws):
    before, after, draws = before.numpy(), after.numpy(), draws.numpy()
    if before.shape != after.shape:
        raise ValueError("each story needs two scores")
    means = after[draws].mean(axis=1) - before[draws].mean(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]))


# %% right counted: counts how often each story is drawn, and multiplies
def bootstrap_interval(before, after, draws):
    if after.numel() != before.numel():
        raise ValueError("each story needs two scores")
    often = torch.stack([torch.bincount(row, minlength=len(before)) for row in draws]).double()
    means = often @ (after - before) / often.sum(dim=1)
    ends = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype))
    return tuple(ends.tolist())


# %% right by-hand: sorts the means in a list, and interpolates by hand
def bootstrap_interval(before, after, draws):
    differences = [b - a for a, b in zip(before.tolist(), after.tolist(), strict=True)]
    means = sorted(sum(differences[k] for k in row) / len(row) for row in draws.tolist())

    def quantile(share):
        place = share * (len(means) - 1)
        k = min(int(place), len(means) - 2)
        return means[k] + (place - k) * (means[k + 1] - means[k])

    return [quantile(0.025), quantile(0.975)]


# %% wrong unpaired: draws other stories for the first model than for the second
old = "means = (after - before)[draws].mean(dim=1)"
new = "means = after[draws].mean(dim=1) - before[draws.flip(0)].mean(dim=1)"


# %% wrong singles: computes the quantiles of single differences
old = "means = (after - before)[draws].mean(dim=1)"
new = "means = after - before"


# %% wrong one-sided: cuts off 5% of the means on each side
old = "return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()"
new = "return torch.quantile(means, 0.05).item(), torch.quantile(means, 0.95).item()"


# %% wrong before-minus-after: subtracts the second model from the first
old = "means = (after - before)[draws].mean(dim=1)"
new = "means = (before - after)[draws].mean(dim=1)"


# %% wrong columns: averages over the resamples instead of over the stories
old = "means = (after - before)[draws].mean(dim=1)"
new = "means = (after - before)[draws].mean(dim=0)"


# %% wrong separate: subtracts the quantiles of the two models
def bootstrap_interval(before, after, draws):
    if len(before) != len(after):
        raise ValueError("different lengths")
    ends = []
    for share in (0.025, 0.975):
        first, second = (torch.quantile(s[draws].mean(dim=1), share) for s in (before, after))
        ends.append((second - first).item())
    return tuple(ends)


# %% wrong normal: assumes a normal distribution of the means
old = "    return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()"
new = """
    middle, spread = (after - before).mean().item(), 1.96 * means.std().item()
    return middle - spread, middle + spread
"""


# %% wrong after-only: resamples only the second model
old = "means = (after - before)[draws].mean(dim=1)"
new = "means = after[draws].mean(dim=1) - before.mean()"


# %% wrong extremes: returns the smallest and the largest mean
old = "return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()"
new = "return means.min().item(), means.max().item()"


# %% wrong sums: adds up the differences of each resample
old = "means = (after - before)[draws].mean(dim=1)"
new = "means = (after - before)[draws].sum(dim=1)"


# %% wrong reversed: returns the upper end first
old = "return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()"
new = "return torch.quantile(means, 0.975).item(), torch.quantile(means, 0.025).item()"


# %% wrong own-draws: draws its own resamples instead of the given ones
old = "    means = (after - before)[draws].mean(dim=1)"
new = """
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(before), (1_000, len(before)), generator=generator)
    means = (after - before)[draws].mean(dim=1)
"""


# %% wrong cut: ignores the extra scores of the longer model
old = "if len(before) != len(after):"
new = "least = min(len(before), len(after))"
old = '        raise ValueError("different lengths")'
new = "    before, after, draws = before[:least], after[:least], draws % least"


# %% wrong nearest: returns the nearest mean instead of interpolating
old = "    return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()"
new = """
    low, high = (torch.quantile(means, share, interpolation="nearest") for share in (0.025, 0.975))
    return low.item(), high.item()
"""


# %% right float32-shares: has the two shares in float32
old = "if len(before) != len(after):"
new = "if before.shape != after.shape:"
old = "return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()"
new = "return tuple(torch.quantile(means, torch.tensor([0.025, 0.975]).double()))"
