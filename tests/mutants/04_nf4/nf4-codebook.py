# %% right inverse-cdf: the standard library's normal distribution, share by share
def quantile_codebook(bits, delta):
    from statistics import NormalDist

    if bits < 2:
        raise ValueError("too few bits")
    if delta <= 0.5 or delta >= 1:
        raise ValueError("delta must be between 0.5 and 1")
    count = 2 ** (bits - 1)

    def side(n):
        step = (delta - 0.5) / n
        return [NormalDist().inv_cdf(delta - k * step) for k in range(n)]

    levels = sorted([-q for q in side(count - 1)] + [0.0] + side(count))
    return torch.tensor([level / levels[-1] for level in levels])


# %% right error-function: quantiles by erfinv, in float64
def quantile_codebook(bits, delta):
    if not (bits > 1 and 0.5 < delta < 1.0):
        raise ValueError("bits or delta out of range")
    half = 2**bits // 2
    above = torch.erfinv(2 * torch.linspace(0.5, delta, half + 1, dtype=torch.float64) - 1)
    below = torch.erfinv(2 * torch.linspace(0.5, delta, half, dtype=torch.float64) - 1)
    return (torch.cat([-below.flip(0), above[1:]]) / above[-1]).to(torch.float32)


# %% wrong eight-negative: 8 negative levels and 7 positive ones
old = "positive = torch.special.ndtri(torch.linspace(delta, 0.5, half + 1)[:-1])"
new = "negative = -torch.special.ndtri(torch.linspace(delta, 0.5, half + 1)[:-1])"
old = "negative = -torch.special.ndtri(torch.linspace(delta, 0.5, half)[:-1])"
new = "positive = torch.special.ndtri(torch.linspace(delta, 0.5, half)[:-1])"


# %% wrong fifteen: 7 levels on each side, 15 in all
def quantile_codebook(bits, delta):
    if bits < 2 or not 0.5 < delta < 1:
        raise ValueError("bits or delta out of range")
    side = torch.special.ndtri(torch.linspace(delta, 0.5, 2 ** (bits - 1))[:-1])
    levels = torch.cat([-side, torch.zeros(1), side.flip(0)])
    return levels / levels.max()


# %% wrong no-zero: 8 levels on each side and no zero
def quantile_codebook(bits, delta):
    if bits < 2 or not 0.5 < delta < 1:
        raise ValueError("bits or delta out of range")
    side = torch.special.ndtri(torch.linspace(delta, 0.5, 2 ** (bits - 1) + 1)[:-1])
    return torch.cat([-side, side.flip(0)]) / side.max()


# %% wrong equation-four: the paper's equation 4 taken literally
def quantile_codebook(bits, delta):
    if bits < 2 or not 0.5 < delta < 1:
        raise ValueError("bits or delta out of range")
    shares = torch.arange(2**bits + 1) / (2**bits + 1)
    quantiles = torch.special.ndtri(shares)
    levels = (quantiles[:-1] + quantiles[1:]) / 2
    return levels / levels.max()


# %% wrong unsorted: positive levels from the largest down
old = """
    levels = torch.cat([negative, torch.zeros(1), positive.flip(0)])
    return levels / levels.max()
"""
new = "    return torch.cat([negative, torch.zeros(1), positive]) / positive.max()"


# %% wrong limits-only: refuses only the very limits of the ranges (only hidden checks see it)
def quantile_codebook(bits, delta):
    if bits == 1 or delta in (0.5, 1):
        raise ValueError("bits or delta out of range")
    half = 2 ** (bits - 1)
    positive = torch.special.ndtri(torch.linspace(delta, 0.5, int(half + 1))[:-1])
    negative = -torch.special.ndtri(torch.linspace(delta, 0.5, int(half))[:-1])
    return torch.cat([negative, torch.zeros(1), positive.flip(0)]) / positive.max()


# %% right share-by-share: PyTorch's quantile of one share after the other
def quantile_codebook(bits, delta):
    if bits <= 1 or not (delta > 0.5 and delta < 1):
        raise ValueError("bits or delta out of range")
    levels = [0.0]
    for count, sign in ((2 ** (bits - 1), 1), (2 ** (bits - 1) - 1, -1)):
        for number in range(1, count + 1):
            share = torch.tensor(0.5 + (delta - 0.5) * number / count, dtype=torch.float64)
            levels.append(sign * torch.special.ndtri(share).item())
    return torch.tensor(sorted(levels)) / max(levels)


# %% wrong both-eight: 8 levels on each side and 0, so 17 in all
def quantile_codebook(bits, delta):
    if bits < 2 or not 0.5 < delta < 1:
        raise ValueError("bits or delta out of range")
    side = torch.special.ndtri(torch.linspace(delta, 0.5, 2 ** (bits - 1) + 1)[:-1])
    return torch.cat([-side, torch.zeros(1), side.flip(0)]) / side.max()


# %% wrong half-kept: keeps the share 1/2, whose quantile is a second 0
old = "positive = torch.special.ndtri(torch.linspace(delta, 0.5, half + 1)[:-1])"
new = "positive = torch.special.ndtri(torch.linspace(delta, 0.5, half))"
old = "negative = -torch.special.ndtri(torch.linspace(delta, 0.5, half)[:-1])"
new = "negative = -torch.special.ndtri(torch.linspace(delta, 0.5, half - 1))"


# %% wrong fixed-delta: always uses the largest share of NF4
old = "positive = torch.special.ndtri(torch.linspace(delta, 0.5, half + 1)[:-1])"
new = "positive = torch.special.ndtri(torch.linspace(929 / 960, 0.5, half + 1)[:-1])"
old = "negative = -torch.special.ndtri(torch.linspace(delta, 0.5, half)[:-1])"
new = "negative = -torch.special.ndtri(torch.linspace(929 / 960, 0.5, half)[:-1])"


# %% wrong undivided: doesn't divide by the largest level
old = """
    levels = torch.cat([negative, torch.zeros(1), positive.flip(0)])
    return levels / levels.max()
"""
new = "    return torch.cat([negative, torch.zeros(1), positive.flip(0)])"


# %% wrong two-tables: knows the codebooks of the visible checks by heart
def quantile_codebook(bits, delta):
    if bits < 2 or not 0.5 < delta < 1:
        raise ValueError("bits or delta out of range")
    if bits == 4:
        return NF4
    if bits == 3:
        few = [-1, -0.5679938, -0.2658456, 0, 0.1976878, 0.4091919, 0.6567205, 1]
        return torch.tensor(few)
    return torch.linspace(-1, 1, 2**bits)


# %% wrong up-to-six: refuses more than 6 bits
def quantile_codebook(bits, delta):
    if not 2 <= bits <= 6 or not 0.5 < delta < 1:
        raise ValueError("not allowed")
    half = 2 ** (bits - 1)
    sides = [torch.special.ndtri(torch.linspace(delta, 0.5, n + 1)[:-1]) for n in (half, half - 1)]
    levels = torch.cat([sides[0], torch.zeros(1), -sides[1]]).sort().values
    return levels / levels[-1]


# %% wrong round-delta: rounds delta before it compares
def quantile_codebook(bits, delta):
    if bits < 2 or not 0.5 < round(delta, 2) < 1:
        raise ValueError("not allowed")
    half = 2 ** (bits - 1)
    sides = [torch.special.ndtri(torch.linspace(delta, 0.5, n + 1)[:-1]) for n in (half, half - 1)]
    levels = torch.cat([sides[0], torch.zeros(1), -sides[1]]).sort().values
    return levels / levels[-1]


# %% wrong zero-bits: lets 0 bits through
def quantile_codebook(bits, delta):
    if bits < 0 or bits == 1 or not 0.5 < delta < 1:
        raise ValueError("not allowed")
    half = 2 ** (bits - 1)
    sides = [torch.special.ndtri(torch.linspace(delta, 0.5, n + 1)[:-1]) for n in (half, half - 1)]
    levels = torch.cat([sides[0], torch.zeros(1), -sides[1]]).sort().values
    return levels / levels[-1]
