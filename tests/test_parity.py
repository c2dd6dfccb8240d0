"""Test the divergence of two models from each other."""

import math

import pytest
import torch

from course_utils.parity import divergences, kl_divergence, of_model, probabilities


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


def test_probabilities_of_a_model_are_those_before_each_token_of_the_answer(model):
    prompts, answers = [[1, 5, 9], [7, 8]], [[4, 2], [3]]
    with torch.no_grad():
        rows = [
            model(torch.tensor([[*p, *a]])).logits[0] for p, a in zip(prompts, answers, strict=True)
        ]
    every = probabilities(of_model(model), prompts, answers)
    for found, row, prompt in zip(every, rows, prompts, strict=True):
        torch.testing.assert_close(found, row[len(prompt) - 1 : -1].softmax(-1))
    first = probabilities(of_model(model), prompts)[1]
    torch.testing.assert_close(first, rows[1][1].softmax(-1))


def test_tokens_that_are_not_reported_count_as_one():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.4, 0.6, 0.0]])
    as_one = 0.5 * math.log(0.5 / 0.4) + 0.25 * math.log(0.25 / 0.6) + 0.25 * math.log(0.25 / 1e-12)
    assert divergences([p], [q]).item() == pytest.approx(as_one)
    q = torch.tensor([[0.4, 0.0, 0.0]])  # The other two tokens have 0.5 in p and 0.6 in q.
    as_one = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6)
    assert divergences([p, p], [q, p]).tolist() == pytest.approx([as_one, 0])
