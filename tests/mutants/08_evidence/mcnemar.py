# %% base default: a right answer, which the answers below change unless they name another base
def count_changes(before, after):
    if len(before) != len(after):
        raise ValueError("different lengths")
    if any(score not in (0, 1) for score in [*before, *after]):
        raise ValueError("each score must be 0 or 1")
    pairs = list(zip(before, after, strict=True))
    return pairs.count((0, 1)), pairs.count((1, 0))


def mcnemar(gained, lost):
    n = gained + lost
    ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * ways / 2**n)


# %% right differences: subtracts the scores, and adds up the results at least as uneven
def count_changes(before, after):
    changes = {1: 0, 0: 0, -1: 0}
    for first, second in zip(before, after, strict=True):
        if not {first, second} <= {0, 1}:
            raise ValueError(f"scores {first} and {second}")
        changes[second - first] += 1
    return changes[1], changes[-1]


def mcnemar(gained, lost):
    n, apart = gained + lost, abs(gained - lost)
    return sum(math.comb(n, k) for k in range(n + 1) if abs(n - 2 * k) >= apart) / 2**n


# %% right tensors: counts with tensors, and multiplies probabilities as floats
def count_changes(before, after):
    a, b = torch.tensor(before), torch.tensor(after)
    if a.shape != b.shape:
        raise ValueError("not the same stories")
    for scores in (a, b):
        if ((scores != 0) & (scores != 1)).any():
            raise ValueError("only 0 and 1 are allowed")
    return int((b > a).sum()), int((a > b).sum())


def mcnemar(gained, lost):
    n, k = gained + lost, min(gained, lost)
    if gained == lost:
        return 1.0
    probability = total = 0.5**n
    for i in range(k):
        probability *= (n - i) / (i + 1)
        total += probability
    return 2 * total


# %% right fractions: counts in a loop, and uses exact fractions and Pascal's triangle
def count_changes(before, after):
    from collections import Counter

    if len(after) != len(before) or set(before) | set(after) | {0, 1} != {0, 1}:
        raise ValueError("scores of 0 and 1 for the same stories, please")
    counts = Counter(zip(before, after))
    return [counts[0, 1], counts[1, 0]]


def mcnemar(gained, lost):
    from fractions import Fraction

    row = [1]
    for _ in range(gained + lost):
        row = [a + b for a, b in zip([0, *row], [*row, 0])]
    uneven = [ways for k, ways in enumerate(row) if ways <= row[gained]]
    return float(Fraction(sum(uneven), sum(row)))


# %% wrong swapped: returns lost before gained
old = "return pairs.count((0, 1)), pairs.count((1, 0))"
new = "return pairs.count((1, 0)), pairs.count((0, 1))"


# %% wrong one-sided: adds up only one end of the distribution
old = "return min(1.0, 2 * ways / 2**n)"
new = "return ways / 2**n"


# %% wrong above-one: doubles one end without a limit, so p may be above 1
old = "return min(1.0, 2 * ways / 2**n)"
new = "return 2 * ways / 2**n"


# %% wrong exactly-this: returns the probability of exactly this result, in both directions
old = "ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))"
new = "ways = math.comb(n, gained)"


# %% wrong more-uneven: leaves out the observed result
old = "ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))"
new = "ways = sum(math.comb(n, k) for k in range(min(gained, lost)))"


# %% wrong chi-squared: uses McNemar's approximation by a chi-squared distribution
def count_changes(before, after):
    if len(before) != len(after):
        raise ValueError("different lengths")
    if any(score not in (0, 1) for score in [*before, *after]):
        raise ValueError("each score must be 0 or 1")
    pairs = list(zip(before, after, strict=True))
    return pairs.count((0, 1)), pairs.count((1, 0))


def mcnemar(gained, lost):
    if gained + lost == 0:
        return 1.0
    chi = (gained - lost) ** 2 / (gained + lost)
    return math.erfc(math.sqrt(chi / 2))


# %% wrong corrected: uses the chi-squared approximation with a correction for continuity
def count_changes(before, after):
    if len(before) != len(after):
        raise ValueError("different lengths")
    if any(score not in (0, 1) for score in [*before, *after]):
        raise ValueError("each score must be 0 or 1")
    pairs = list(zip(before, after, strict=True))
    return pairs.count((0, 1)), pairs.count((1, 0))


def mcnemar(gained, lost):
    if gained == lost:
        return 1.0
    chi = (abs(gained - lost) - 1) ** 2 / (gained + lost)
    return math.erfc(math.sqrt(chi / 2))


# %% wrong lower-end: always adds up the results with few gained stories
old = "ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))"
new = "ways = sum(math.comb(n, k) for k in range(gained + 1))"


# %% wrong nothing-changed: returns 0 if nothing is gained and nothing is lost
old = "    ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))"
new = """
    if n == 0:
        return 0.0
    ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
"""


# %% wrong rounded: rounds the p-value to two digits
old = "return min(1.0, 2 * ways / 2**n)"
new = "return round(min(1.0, 2 * ways / 2**n), 2)"


# %% wrong all-right: counts all right answers of each model
old = "return pairs.count((0, 1)), pairs.count((1, 0))"
new = "return sum(after), sum(before)"


# %% wrong agreement: counts the stories on which the models agree
old = "return pairs.count((0, 1)), pairs.count((1, 0))"
new = "return pairs.count((1, 1)), pairs.count((0, 0))"


# %% wrong net: counts only how many stories more are gained than lost
old = "    return pairs.count((0, 1)), pairs.count((1, 0))"
new = """
    more = sum(after) - sum(before)
    return max(0, more), max(0, -more)
"""


# %% wrong truncated: ignores the extra scores of the longer list
old = """
    if len(before) != len(after):
        raise ValueError("different lengths")
"""
new = ""
old = "pairs = list(zip(before, after, strict=True))"
new = "pairs = list(zip(before, after, strict=False))"


# %% wrong above-one-score: accepts negative and fractional scores
old = "if any(score not in (0, 1) for score in [*before, *after]):"
new = "if any(score > 1 for score in [*before, *after]):"


# %% wrong first-only: checks the scores of the first model only
old = "if any(score not in (0, 1) for score in [*before, *after]):"
new = "if any(score not in (0, 1) for score in before):"


# %% wrong both-scores: demands that both scores occur
def count_changes(before, after):
    if len(before) != len(after) or set(before) | set(after) != {0, 1}:
        raise ValueError("not allowed")
    pairs = list(zip(before, after))
    return pairs.count((0, 1)), pairs.count((1, 0))


def mcnemar(gained, lost):
    n = gained + lost
    ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * ways / 2**n)


# %% wrong int64: builds Pascal's triangle of int64, which overflows
def count_changes(before, after):
    if len(before) != len(after) or not set(before) | set(after) <= {0, 1}:
        raise ValueError("not allowed")
    pairs = list(zip(before, after))
    return pairs.count((0, 1)), pairs.count((1, 0))


def mcnemar(gained, lost):
    row = np.ones(1, dtype=np.int64)
    for _ in range(gained + lost):
        row = np.convolve(row, [1, 1])
    return min(1.0, 2 * row[: min(gained, lost) + 1].sum() / 2 ** (gained + lost))
