# %% right statistics: uses the statistics module and itertools
T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def paired_difference(before, after):
    import itertools
    import statistics

    if len(before) != len(after) or len(before) < 2 or len(before) > 10:
        raise ValueError("not 2 to 10 pairs")
    d = [b - a for a, b in zip(before, after)]
    mean = statistics.fmean(d)
    error = statistics.stdev(d) / len(d) ** 0.5
    margin = T975[len(d) - 1] * error
    count = 0
    for signs in itertools.product([1, -1], repeat=len(d)):
        total = sum(s * x for s, x in zip(signs, d))
        count += abs(total) > abs(sum(d)) - 1e-6
    return {
        "p": count / 2 ** len(d),
        "mean": mean,
        "standard_error": error,
        "low": mean - margin,
        "high": mean + margin,
    }


# %% right by-hand: computes the variance by hand and counts the signs in bits
T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def paired_difference(before, after):
    n = len(after)
    if n not in range(2, 11) or len(before) != n:
        raise ValueError("not 2 to 10 pairs")
    d = [after[i] - before[i] for i in range(n)]
    total = sum(d)
    error = (sum((x - total / n) ** 2 for x in d) / (n - 1) / n) ** 0.5

    def flipped(bits):
        return sum(x if bits >> i & 1 else -x for i, x in enumerate(d))

    extreme = [bits for bits in range(2**n) if abs(flipped(bits)) >= abs(total) * (1 - 1e-9)]
    return {
        "mean": total / n,
        "standard_error": error,
        "low": total / n - T975[n - 1] * error,
        "high": total / n + T975[n - 1] * error,
        "p": len(extreme) / 2**n,
    }


# %% wrong unpaired: adds the variances of the two lists, as if they were not paired
old = "mean, error = differences.mean().item(), differences.std().item() / n**0.5"
new = "mean, error = differences.mean().item(), ((before.var() + after.var()) / n).sqrt().item()"


# %% wrong normal: uses 1.96 instead of a quantile of t
old = '"low": mean - T975[n - 1] * error,'
new = '"low": mean - 1.96 * error,'
old = '"high": mean + T975[n - 1] * error,'
new = '"high": mean + 1.96 * error,'


# %% wrong degrees: uses n degrees of freedom
old = '"low": mean - T975[n - 1] * error,'
new = '"low": mean - T975.get(n, 2.228) * error,'
old = '"high": mean + T975[n - 1] * error,'
new = '"high": mean + T975.get(n, 2.228) * error,'


# %% wrong population: divides the variance by n
old = "mean, error = differences.mean().item(), differences.std().item() / n**0.5"
new = "mean, error = differences.mean().item(), differences.std(correction=0).item() / n**0.5"


# %% wrong no-root: divides the standard deviation by n
old = "mean, error = differences.mean().item(), differences.std().item() / n**0.5"
new = "mean, error = differences.mean().item(), differences.std().item() / n"


# %% wrong deviation: returns the standard deviation as the standard error
old = "mean, error = differences.mean().item(), differences.std().item() / n**0.5"
new = "mean, error = differences.mean().item(), differences.std().item()"


# %% wrong one-sided: counts only means in the observed direction
old = "means = (signs * differences).mean(dim=1).abs()"
new = "means = (signs * differences).mean(dim=1) * (1 if mean >= 0 else -1)"


# %% wrong more-extreme: does not count means that equal the observed mean
old = '"p": (means >= abs(mean) - 1e-9).double().mean().item(),'
new = '"p": (means > abs(mean) + 1e-9).double().mean().item(),'


# %% wrong sign-test: counts the signs and ignores the sizes of the differences
old = "    means = (signs * differences).mean(dim=1).abs()"
new = """
    differences = differences.sign()
    means = (signs * differences).mean(dim=1).abs()
"""
old = '"p": (means >= abs(mean) - 1e-9).double().mean().item(),'
new = '"p": (means >= differences.mean().abs() - 1e-9).double().mean().item(),'


# %% wrong before-minus-after: subtracts the wrong way round
old = "differences = after - before"
new = "differences = before - after"


# %% wrong swapped: swaps the ends of the interval
old = '"low": mean - T975[n - 1] * error,'
new = '"low": mean + T975[n - 1] * error,'
old = '"high": mean + T975[n - 1] * error,'
new = '"high": mean - T975[n - 1] * error,'


# %% wrong cut: drops measurements without a partner
old = "    if n != len(after) or not 2 <= n <= 10:"
new = """
    n = min(n, len(after))
    before, after = before[:n], after[:n]
    if not 2 <= n <= 10:
"""


# %% wrong no-limit: accepts any number of pairs from 2 on
old = "if n != len(after) or not 2 <= n <= 10:"
new = "if n != len(after) or n < 2:"
old = '"low": mean - T975[n - 1] * error,'
new = '"low": mean - T975.get(n - 1, 2.2) * error,'
old = '"high": mean + T975[n - 1] * error,'
new = '"high": mean + T975.get(n - 1, 2.2) * error,'


# %% wrong percent: returns p in percent
old = '"p": (means >= abs(mean) - 1e-9).double().mean().item(),'
new = '"p": (means >= abs(mean) - 1e-9).double().mean().item() * 100,'


# %% wrong resampled: draws 200 random signs instead of all
old = "    means = (signs * differences).mean(dim=1).abs()"
new = """
    signs = torch.randint(2, (200, n), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    means = (signs * differences).mean(dim=1).abs()
"""


# %% wrong exact: compares means without a tolerance
old = '"p": (means >= abs(mean) - 1e-9).double().mean().item(),'
new = '"p": (means >= abs(mean)).double().mean().item(),'


# %% wrong wide: takes means for equal that differ by less than 0.001
old = '"p": (means >= abs(mean) - 1e-9).double().mean().item(),'
new = '"p": (means >= abs(mean) - 1e-3).double().mean().item(),'


# %% wrong falls: takes for granted that the mean difference is below zero
old = '"p": (means >= abs(mean) - 1e-9).double().mean().item(),'
new = '"p": (means >= -mean - 1e-9).double().mean().item(),'


# %% wrong spread: refuses differences that are all equal
old = "    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * n)"
new = """
    if error == 0:
        raise ValueError("there is no spread")
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * n)
"""


# %% wrong four-decimals: compares means that are rounded to four decimals
old = "(means >= abs(mean) - 1e-9)"
new = "(means.round(decimals=4) >= round(abs(mean), 4))"


# %% wrong single-precision: computes in float32, whose rounding is larger than the tolerance
old = "dtype=torch.float64) for values in (before, after))"
new = "dtype=torch.float32) for values in (before, after))"
old = "torch.tensor([-1.0, 1.0], dtype=torch.float64)"
new = "torch.tensor([-1.0, 1.0])"


# %% wrong five-decimals: takes means for equal that differ by less than 0.00001
old = "(means >= abs(mean) - 1e-9)"
new = "(means >= abs(mean) - 1e-5)"
