"""Test the exports of a tiny tuned model, with and without mistakes."""

from itertools import product
from statistics import fmean

import pytest
import torch

from course_utils.models import TINY_EXPORT_FORMATS, TINY_MISTAKES, tiny_exports
from course_utils.models.exports import _divergences
from course_utils.parity import kl_divergence

PRECISE = ("F16", "Q8_0")
# Hidden checks draw their seeds, so the promises of the exercise must hold for all of them.
SEEDS = [
    0,
    pytest.param(1, marks=pytest.mark.full),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20)),
]


def ratios(seed, forms):
    """Return the mean divergence of each export, divided by that of its control."""
    found = tiny_exports(seed, forms)
    return [
        fmean(export["divergences"]) / fmean(found["controls"][export["format"]])
        for export in found["exports"]
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_right_exports_are_about_as_far_from_the_reference_as_their_controls(seed):
    forms = [(stored_as, None) for stored_as in TINY_EXPORT_FORMATS]
    assert all(0.4 < ratio < 1.8 for ratio in ratios(seed, forms))


@pytest.mark.full
@pytest.mark.parametrize("seed", SEEDS)
def test_mistakes_make_the_divergence_several_times_as_large(seed):
    assert min(ratios(seed, [*product(PRECISE, TINY_MISTAKES)])) > 5
    assert min(ratios(seed, [("Q4_0", "absent")])) > 4


def test_rounding_to_four_bits_hides_a_small_mistake():
    assert max(ratios(3, [("Q4_0", "order"), ("Q4_0", "cut")])) < 3


def test_a_broken_export_can_have_the_score_of_a_right_one():
    right, broken, coarse = tiny_exports(3, [("F16", None), ("F16", "order"), ("Q4_0", None)])[
        "exports"
    ]
    assert broken["score"] == right["score"] > coarse["score"]
    assert broken["equal"] > coarse["equal"]
    assert fmean(broken["divergences"]) < fmean(coarse["divergences"])


def test_only_long_prompts_change_if_the_context_is_too_small():
    found = tiny_exports(1, [("F16", "cut")])["exports"][0]["divergences"]
    assert sum(value < 1e-4 for value in found) > 24 and max(found) > 0.1


def test_divergences_are_those_of_parity():
    p, q = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0)).double()
    found = _divergences(p.log_softmax(-1), q.log_softmax(-1))
    assert found == pytest.approx(kl_divergence(p.softmax(-1), q.softmax(-1)).tolist())


@pytest.mark.parametrize("form", [("Q5_0", None), ("F16", "forgotten")])
def test_unknown_formats_and_mistakes_are_refused(form):
    with pytest.raises(ValueError, match=r"Q8_0|order"):
        tiny_exports(0, [form])
