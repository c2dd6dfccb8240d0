"""Test the divergence of two models from each other."""

import math

import pytest
import torch

from course_utils.parity import kl_divergence, of_model, probabilities


def test_the_divergence_is_that_of_torch():
    p, q = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0)).softmax(-1)
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(p, q).float(), expected)


def test_equal_probabilities_have_no_divergence():
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert kl_divergence(p, p).tolist() == [0, 0]


def test_a_probability_of_zero_gives_a_large_but_finite_divergence():
    found = kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item()
    assert found == pytest.approx(-math.log(1e-12))


def test_probabilities_of_a_model(model):
    prompts = [[1, 5, 9], [7, 8]]
    found = probabilities(of_model(model), prompts)
    with torch.no_grad():
        expected = [model(torch.tensor([p])).logits[0, -1].softmax(-1) for p in prompts]
    torch.testing.assert_close(found, torch.stack(expected))
