"""Is a difference more than chance? Intervals, paired tests, power and equivalence (lecture 08).

    scores of two models on the same stories ──> differences ──┬─> mcnemar, sign_flip    p-value
                                                               └─> bootstrap             interval
    scores of several seeds: (seeds, stories) each ──────────────> difference            interval

A p-value says how easily chance alone makes a difference as large as the observed one. If it isn't
small, the models may still differ: `power` says how likely a test would have noticed a difference,
and `conclusion` calls two models equal only if the interval of their difference is narrow enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from course_utils.machine.validation import whole_number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# A difference with a smaller p-value counts as more than chance.
SIGNIFICANT = 0.05


class Interval(NamedTuple):
    """A mean with the ends of its 95% confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.0%} ({100 * self.low:.0f}–{100 * self.high:.0f})"


# -- intervals ---------------------------------------------------------------------------------


def wilson(successes: float, trials: int) -> Interval:
    """Return Wilson's 95% score interval of a rate.

    Source: Wilson (1927), Journal of the American Statistical Association 22.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            "trials must be at least 1, and successes must be from 0 to the number of trials: got "
            f"{successes} successes of {trials} trials"
        )
    from scipy.stats import binomtest

    ends = binomtest(round(successes), trials).proportion_ci(method="wilson")
    return Interval(successes / trials, *ends)


def bootstrap(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the 95% percentile bootstrap interval of a mean.

    Source: Efron (1979), The Annals of Statistics 7. The same seed gives the same interval.
    """
    sample = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(sample), size=(resamples, len(sample)))
    low, high = np.quantile(sample[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(sample.mean()), float(low), float(high))


def difference(before: ArrayLike, after: ArrayLike) -> Interval:
    """Return the mean difference of two ways of training, with its 95% confidence interval.

    With other stories, or with other seeds of either way, the means would be different. The story
    differences and the seed means of both ways show how much. But a model's luck with a single
    story, the *noise*, is in both, so the noise of each way is subtracted once:

        Var = Var(story differences) / J + Σ Var(seed means) / I − Σ Var(noise) / (I · J)

    for J stories and I seeds, where Σ adds the two ways. Without the subtraction, the intervals
    would be too wide. By chance, this estimate can be far too small, or even negative, so it is at
    least half of the noise. The interval uses Student's t distribution, because few seeds give
    uncertain variances. Its degrees of freedom are Satterthwaite's, but at least those of the seeds
    alone. In simulations with effects of several sizes, 94% to 96% of the intervals of five seeds
    contain the true difference.

    Source: Satterthwaite (1946), Biometrics Bulletin 2.

    Args:
        before: scores of the first way, of shape (seeds, stories).
        after: scores of the second way, of shape (seeds, stories). The number of seeds may differ.
    """
    from scipy.stats import t

    ways = [np.asarray(scores, dtype=float) for scores in (before, after)]
    shapes = [scores.shape for scores in ways]
    if any(len(shape) != 2 or min(shape) < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "before and after must be tables of shape (seeds, stories) with the same stories, at "
            f"least two, and at least two seeds: got the shapes {shapes[0]} and {shapes[1]}"
        )
    if any(np.isnan(scores).any() for scores in ways):
        raise ValueError("a score is missing: before and after must not contain NaN")
    by_story = ways[1].mean(axis=0) - ways[0].mean(axis=0)
    seeds = [_variance(scores.mean(axis=1), len(scores) - 1) for scores in ways]
    noise = []
    for scores in ways:
        luck = scores - scores.mean(axis=0)
        luck -= luck.mean(axis=1, keepdims=True)
        noise.append(_variance(luck, (len(luck) - 1) * (len(by_story) - 1)))
    stories = _variance(by_story, len(by_story) - 1)
    variance, freedom = _total([stories, *seeds, *((-v, f) for v, f in noise)])
    freedom = max(freedom, _total(seeds)[1])
    variance, freedom = max((variance, freedom), (sum(v for v, _ in noise) / 2, stories[1]))
    half = float(t.ppf(0.975, freedom or 1) * math.sqrt(variance))
    mean = float(by_story.mean())
    return Interval(mean, mean - half, mean + half)


def _variance(values: np.ndarray, freedom: int) -> tuple[float, float]:
    """Return the estimated variance of the mean of some values, and its degrees of freedom."""
    return float(np.square(values - values.mean()).sum() / freedom / values.size), freedom


def _total(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Add variances, and return their sum and its degrees of freedom by Satterthwaite."""
    total = sum(variance for variance, _ in variances)
    return total, total**2 / (sum(v**2 / freedom for v, freedom in variances) or 1)


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Only stories that one model alone got right count. If the models were equally good, each of
    these n = gained + lost stories would be a fair coin toss. The p-value is the probability of a
    result that is at least as uneven, in either direction:

        gained 9, lost 1:  p = 2 · (C(10, 0) + C(10, 1)) / 2^10 = 22 / 1024 = 0.021

    Source: McNemar (1947), Psychometrika 12, with the exact distribution instead of chi-squared.
    """
    gained, lost = whole_number("gained", gained, least=0), whole_number("lost", lost, least=0)
    n = gained + lost
    uneven = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * uneven / 2**n)


def sign_flip(differences: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of the paired permutation test.

    If the models were equally good, each difference could as well have the opposite sign. The test
    gives all differences random signs, many times, and counts how often their sum is at least as
    far from 0 as the observed sum.

    Source: Fisher (1935), The Design of Experiments, section 21. The observed signs count as one of
    the resamples, so p is never 0. The same seed gives the same p-value.
    """
    observed = np.asarray(differences, dtype=float)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, len(observed)))
    # The tolerance counts sums as equal that differ only by rounding.
    extreme = np.abs(signs @ observed) >= abs(observed.sum()) - 1e-9
    return float((1 + extreme.sum()) / (1 + resamples))


def p_text(p: float, name: str = "") -> str:
    """Return a p-value as text: "0.012", or "< 0.001" if it is less than that.

    With a name such as "p", the text is "p = 0.012" or "p < 0.001".
    """
    if p < 0.001:
        return f"{name} < 0.001".lstrip()
    return f"{name} = {p:.3f}" if name else f"{p:.3f}"


# -- what a test can find --------------------------------------------------------------------------


def power(stories: int, gained: float, lost: float) -> float:
    """Return the probability that McNemar's test finds a difference between two models.

    The power is exact: it adds the probabilities of all results with p < 0.05.

    Returns:
        A probability. If gained equals lost, the models are equally good, and the result is the
        probability of a false alarm.
    """
    n = whole_number("stories", stories, least=1)
    if min(gained, lost) < 0 or gained + lost > 1:
        raise ValueError(
            "gained and lost are shares: they must be at least 0 and at most 1 together, got "
            f"{gained!r} and {lost!r}"
        )
    if gained + lost == 0:
        return 0.0
    from scipy.stats import binom

    count = np.arange(n + 1)  # the number of stories on which the models differ
    # With at most this many stories on the smaller side, p is below 0.05.
    edge = binom.ppf(SIGNIFICANT / 2, count, 0.5) - 1
    share = gained / (gained + lost)
    found = binom.cdf(edge, count, share) + binom.sf(count - edge - 1, count, share)
    return float(binom.pmf(count, n, gained + lost) @ found)


def conclusion(interval: Interval, bound: float) -> str:
    """Say what the 95% interval of a difference shows, given a bound for "equally good".

    Args:
        bound: differences that are smaller than the bound count as equally good. It must be chosen
            before the measurement.

    Returns:
        "equal" if the whole interval is within the bound, "different" if it excludes 0 and is not
        within the bound, and otherwise "open": more stories or seeds could decide.
    """
    if not bound > 0:
        raise ValueError(f"bound must be above 0, got {bound!r}")
    if -bound < interval.low and interval.high < bound:
        return "equal"
    return "different" if interval.low > 0 or interval.high < 0 else "open"
