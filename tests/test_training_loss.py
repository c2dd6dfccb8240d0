"""Test that the cross-entropy computed in chunks equals that of torch."""

import pytest
import torch
from torch.nn import functional as F

from course_utils.sft import IGNORE
from course_utils.training import loss
from course_utils.training.loss import cross_entropy

pytestmark = pytest.mark.usefixtures("frozen_imports")


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_equals_that_of_torch(monkeypatch, chunk, dtype):
    monkeypatch.setattr(loss, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 50, generator=generator)).to(dtype).requires_grad_()
    targets = torch.tensor([3, IGNORE, 0, 49, 7, IGNORE, 12])
    theirs = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")
    (expected,) = torch.autograd.grad(theirs * 0.25, logits)
    ours = cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad(ours * 0.25, logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, expected)
    assert gradient.dtype == dtype and gradient[1].eq(0).all()


def test_cross_entropy_raises_an_error_in_a_second_backward_pass():
    logits = torch.zeros(2, 5, requires_grad=True)
    total = cross_entropy(logits * 1, torch.tensor([3, 0]))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
