"""A cross-entropy loss that needs little memory: it converts few logits at a time to float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from course_utils.sft import IGNORE

# Number of logits that are converted to float32 at a time. In float32 these logits need 4 MB, so
# they stay in the processor's cache.
CHUNK = 2**20


class _CrossEntropy(Function):
    """Compute the sum of log Σ exp z − z[target] over all rows z of logits that have a target.

    The gradient of a row is softmax(z) − one-hot(target).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.rows = max(1, CHUNK // logits.shape[-1])
        log_sums = torch.cat([z.float().logsumexp(-1) for z in logits.split(ctx.rows)])
        ctx.save_for_backward(logits, targets, log_sums)
        picked = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
        return (log_sums - picked)[targets != IGNORE].sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        tensors = ctx.saved_tensors
        parts = (tensor.split(ctx.rows) for tensor in tensors)
        for z, target, log_sum in zip(*parts, strict=True):
            p = (z.float() - log_sum[:, None]).exp_()
            counts = target != IGNORE
            p[counts.nonzero().squeeze(1), target[counts]] -= 1
            z.copy_(p.mul_((counts * g)[:, None]))
        return tensors[0], None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy in nats, summed over the rows whose target is not -100.

    Up to rounding, the result equals the result of torch's `cross_entropy` for `logits.float()`
    with reduction="sum". But the forward and backward passes convert only a few rows to float32 at
    a time. The gradient overwrites the logits in memory, so torch refuses a second backward pass.
    The logits, (rows, vocabulary), may have any dtype; the targets, (rows,), are int64.
    """
    return _CrossEntropy.apply(logits, targets)
