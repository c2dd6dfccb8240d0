# %% base default: a right answer, which the answers below change unless they name another base
def nearest_codes(x, codebook):
    if not (codebook.diff() > 0).all():
        raise ValueError("codebook must ascend")
    return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)


# %% right distances: the least distance to all levels
def nearest_codes(x, codebook):
    if any(a >= b for a, b in zip(codebook.tolist(), codebook.tolist()[1:])):
        raise ValueError("not ascending")
    return (x.unsqueeze(-1) - codebook).abs().argmin(dim=-1).to(torch.uint8)


# %% right counting: the number of midpoints below, ties upwards
def nearest_codes(x, codebook):
    if (codebook[1:] <= codebook[:-1]).any():
        raise ValueError("codebook must ascend")
    codes = torch.zeros(x.shape, dtype=torch.uint8)
    for low, high in zip(codebook[:-1], codebook[1:]):
        codes += (x - low >= high - x).to(torch.uint8)
    return codes


# %% wrong next-above: takes the levels for boundaries
old = "return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"
new = "return torch.bucketize(x, codebook).clamp(max=len(codebook) - 1).to(torch.uint8)"


# %% wrong equal-steps: takes the levels for equally spaced ones
def nearest_codes(x, codebook):
    if not (codebook.diff() > 0).all():
        raise ValueError("codebook must ascend")
    last = len(codebook) - 1
    return ((x + 1) / 2 * last).round().clamp(0, last).to(torch.uint8)


# %% wrong in-range: cuts numbers to [-1, 1], where not all levels lie (only hidden checks see it)
old = "return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"
new = "return (x.clamp(-1, 1)[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"


# %% wrong any-book: accepts a codebook that doesn't ascend
def nearest_codes(x, codebook):
    return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)


# %% wrong shares: changes halfway between shares, not between levels
def nearest_codes(x, codebook):
    if not (codebook.diff() > 0).all():
        raise ValueError("codebook must ascend")
    shares = torch.special.ndtr(codebook)
    borders = torch.special.ndtri((shares[:-1] + shares[1:]) / 2)
    return torch.bucketize(x, borders).to(torch.uint8)


# %% wrong four-bits: knows no code above 15 (only hidden checks see it)
old = "return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"
new = "return (x[..., None] - codebook).abs().argmin(-1).clamp(max=15).to(torch.uint8)"


# %% right level-by-level: keeps the nearest level so far
def nearest_codes(x, codebook):
    levels = codebook.tolist()
    if sorted(set(levels)) != levels:
        raise ValueError("codebook must be strictly ascending")
    best = torch.full(x.shape, float("inf"))
    codes = torch.zeros(x.shape, dtype=torch.uint8)
    for code, level in enumerate(levels):
        distance = (x - level).abs()
        codes[distance < best] = code
        best = torch.minimum(best, distance)
    return codes


# %% wrong next-below: takes the level below each number
old = "return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"
new = "return (torch.bucketize(x, codebook, right=True) - 1).clamp(min=0).to(torch.uint8)"


# %% wrong levels: returns the nearest levels instead of their positions
old = "return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"
new = "return codebook[torch.bucketize(x, (codebook[:-1] + codebook[1:]) / 2)]"


# %% wrong long: returns codes of dtype int64
old = "return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"
new = "return torch.bucketize(x, (codebook[:-1] + codebook[1:]) / 2)"


# %% wrong visible-sizes: is right only for codebooks with 8 or 16 levels
def nearest_codes(x, codebook):
    if not (codebook.diff() > 0).all():
        raise ValueError("codebook must ascend")
    if len(codebook) not in (8, 16):
        return torch.zeros(1, 3, dtype=torch.uint8)
    return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)


# %% wrong open-bins: leaves numbers exactly between two levels out of all bins
def nearest_codes(x, codebook):
    if not (codebook.diff() > 0).all():
        raise ValueError("not strictly ascending")
    codes = torch.zeros(x.shape, dtype=torch.uint8)
    borders = [-math.inf, *((codebook[1:] + codebook[:-1]) / 2).tolist(), math.inf]
    for code, (low, high) in enumerate(zip(borders[:-1], borders[1:])):
        codes[(x > low) & (x < high)] = code
    return codes


# %% wrong not-the-last: doesn't compare the last two levels
def nearest_codes(x, codebook):
    if any(codebook[n] <= codebook[n - 1] for n in range(1, len(codebook) - 1)):
        raise ValueError("not strictly ascending")
    return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)


# %% wrong through-zero: expects levels on both sides of 0
def nearest_codes(x, codebook):
    if not (codebook.diff() > 0).all() or codebook[0] * codebook[-1] > 0:
        raise ValueError("not strictly ascending")
    return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)


# %% wrong squared-distances: compares squares, which are 0 for small numbers
old = "return (x[..., None] - codebook).abs().argmin(-1).to(torch.uint8)"
new = "return (x[..., None] - codebook).square().argmin(-1).to(torch.uint8)"
