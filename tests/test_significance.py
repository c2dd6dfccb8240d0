"""Test intervals, paired tests, power and equivalence, also against SciPy."""

import numpy as np
import pytest
from scipy import stats

from course_utils.significance import (
    Interval,
    bootstrap,
    conclusion,
    difference,
    mcnemar,
    p_text,
    power,
    sign_flip,
    wilson,
)

# -- intervals


def test_the_seed_determines_the_bootstrap_and_equal_values_have_no_interval():
    values = np.linspace(0, 1, 30) ** 2
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values) != bootstrap(values, seed=1)
    assert bootstrap([0.5] * 8) == Interval(0.5, 0.5, 0.5)


# -- tests of one pair of models


def test_sign_flips_never_give_zero_and_equal_scores_give_one():
    assert sign_flip([0.2] * 96) == 1 / 10_001
    assert sign_flip([0.0] * 96) == 1


@pytest.mark.parametrize(
    ("p", "text"), [(1, "1.000"), (0.0124, "0.012"), (0.001, "0.001"), (0.0009, "< 0.001")]
)
def test_small_p_values_are_not_shown_as_zero(p, text):
    assert p_text(p) == text
    assert p_text(p, "p") == (f"p {text}" if text.startswith("<") else f"p = {text}")


# -- against SciPy


@pytest.mark.parametrize("n", [1, 2, 7, 96, 1_000])
def test_mcnemar_is_scipys_binomial_test(n):
    for gained in {0, n // 3, n // 2, n}:
        assert mcnemar(gained, n - gained) == pytest.approx(stats.binomtest(gained, n).pvalue)


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (5, 12), (81, 96), (96, 96)])
def test_wilson_is_the_score_interval_of_1927(successes, trials):
    rate, z2 = successes / trials, stats.norm.ppf(0.975) ** 2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = (rate * (1 - rate) * z2 / trials + (z2 / trials / 2) ** 2) ** 0.5 / (1 + z2 / trials)
    assert wilson(successes, trials) == pytest.approx((rate, middle - half, middle + half))


def test_bootstrap_is_scipys_percentile_interval():
    values = np.random.default_rng(5).exponential(size=96)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap(values, resamples=20_000)
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_sign_flip_is_scipys_permutation_test():
    differences = np.random.default_rng(6).normal(0.15, 1, size=60)
    theirs = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", rng=np.random.default_rng(2)
    )
    assert sign_flip(differences) == pytest.approx(theirs.pvalue, abs=0.015)


# -- several seeds


def experiment(generator, seeds, seed_effect, story_effect, stories=96):
    """Return the scores, 0 or 1, of two ways that are equally good on average over all stories.

    The effects are standard deviations of log odds: of a way's seeds, and of how much better one
    way is at a story.
    """
    easy = generator.normal(1.8, 2, stories)
    tables = []
    for _ in range(2):
        odds = easy + generator.normal(0, story_effect, stories)
        odds = odds + generator.normal(0, seed_effect, (seeds, 1))
        tables.append((odds + generator.logistic(size=(seeds, stories)) > 0).astype(float))
    return tables


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_effect", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("story_effect", [0.0, 0.7])
def test_95_percent_of_the_intervals_contain_the_true_difference(seeds, seed_effect, story_effect):
    generator = np.random.default_rng(10)
    found = []
    for _ in range(4000):
        interval = difference(*experiment(generator, seeds, seed_effect, story_effect))
        found.append(interval.low <= 0 <= interval.high)
    # The standard error of the share is 0.0034.
    assert 0.94 < np.mean(found) < 0.96


def test_the_interval_of_seeds_alone_is_that_of_welch():
    """All stories are equal, so only the seeds differ."""
    before, after = np.array([0.1, 0.2, 0.4]), np.array([0.5, 0.7, 0.65, 0.9, 0.8])
    interval = difference(np.tile(before[:, None], 10), np.tile(after[:, None], 10))
    theirs = stats.ttest_ind(after, before, equal_var=False).confidence_interval()
    assert interval == pytest.approx((after.mean() - before.mean(), theirs.low, theirs.high))


# -- power and equivalence


def test_more_stories_and_larger_differences_have_more_power():
    by_stories = [power(n, 0.15, 0.05) for n in (24, 48, 96, 192, 384)]
    by_difference = [power(96, 0.05 + d, 0.05) for d in (0, 0.05, 0.1, 0.2)]
    assert by_stories == sorted(by_stories) and by_stories[-1] > 0.95
    assert by_difference == sorted(by_difference) and by_difference[0] < 0.05
    assert power(10, 0, 0) == 0 and power(1_000, 0.3, 0.2) > 0.99
    assert 0.85 < power(5_000, 0.11, 0.09) < 0.9


def test_power_adds_the_probabilities_of_all_results_with_a_small_p_value():
    n, gained, lost = 25, 0.3, 0.1
    exact = sum(
        stats.multinomial.pmf([g, b, n - g - b], n, [gained, lost, 1 - gained - lost])
        for g in range(n + 1)
        for b in range(n + 1 - g)
        if mcnemar(g, b) < 0.05
    )
    assert power(n, gained, lost) == pytest.approx(exact)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.04, 0.04, "equal"),
        (0.01, 0.04, "equal"),
        (-0.05, 0.04, "open"),
        (-0.04, 0.06, "open"),
        (0.01, 0.06, "different"),
        (-0.2, -0.01, "different"),
        (0.0, 0.2, "open"),
    ],
)
def test_the_conclusion_depends_on_the_whole_interval(low, high, expected):
    assert conclusion(Interval((low + high) / 2, low, high), 0.05) == expected


# -- bad input

SHAPES = r"of shape \(seeds, stories\) with the same stories"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (lambda n=n: wilson(*n), "successes must be from 0 to the number of trials")
            for n in ((1, 0), (-1, 5), (6, 5))
        ),
        (lambda: mcnemar(3, -1), "lost must be a whole number of at least 0, got -1"),
        (lambda: mcnemar(3, 1.0), "lost must be a whole number of at least 0, got 1.0"),
        *(
            (lambda s=s: difference(np.zeros((3, 10)), np.zeros(s)), SHAPES)
            for s in ((3, 9), 10, (0, 10), (1, 10))
        ),
        (lambda: difference(np.zeros((2, 2)), np.full((2, 2), np.nan)), "must not contain NaN"),
        (lambda: power(10, -0.1, 0.2), "at least 0 and at most 1 together"),
        (lambda: power(10, 0.6, 0.5), "at least 0 and at most 1 together"),
        (lambda: conclusion(Interval(0, 0, 0), 0), "bound must be above 0, got 0"),
    ],
)
def test_impossible_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
