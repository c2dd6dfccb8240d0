"""Multiply 16-bit weights in float32, on CPUs that have no instructions for bfloat16.

Without such instructions, PyTorch may multiply bfloat16 matrices one number at a time. On a CPU
with AVX2 and without AVX-512, the forward and backward pass of SmolLM2-135M over 190 tokens took
50 s on one core, and 3.7 s with the layers of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A product converts about this many weights to float32 at a time. They need only 4 MB, so even the
# output layer of a model with a large vocabulary needs hardly more memory than in bfloat16.
CHUNK = 2**20


class _Product(torch.autograd.Function):
    """Compute x Wᵀ in float32, where x and W have 16 bits, and round the result to 16 bits.

    For the backward pass, the tensors are kept in 16 bits, as PyTorch's own product keeps them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        y, wide = x.new_empty(*x.shape[:-1], len(weight)), x.float()
        for rows in _chunks(weight):
            y[..., rows] = F.linear(wide, weight[rows].float())
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            wide = gradient.new_zeros(*gradient.shape[:-1], weight.shape[1], dtype=torch.float32)
            for rows in _chunks(weight):
                wide += gradient[..., rows].float() @ weight[rows].float()
            of_x = wide.to(gradient.dtype)
        if ctx.needs_input_grad[1]:
            of_weight, wide = torch.empty_like(weight), x.float().flatten(0, -2)
            for rows in _chunks(weight):
                of_weight[rows] = gradient[..., rows].float().flatten(0, -2).T @ wide
        return of_x, of_weight


def _chunks(weight: Tensor) -> list[slice]:
    """Divide the rows of a weight into chunks of about `CHUNK` weights."""
    step = max(1, CHUNK // weight.shape[1])
    return [slice(start, start + step) for start in range(0, len(weight), step)]


class Float32Linear(nn.Linear):
    """A linear layer that multiplies bfloat16 inputs and weights in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute x Wᵀ + bias: (…, d_in) → (…, d_out)."""
        # Autocast converts the tensors itself, and the weights may have been converted to float32.
        if torch.is_autocast_enabled("cpu") or {x.dtype, self.weight.dtype} != {torch.bfloat16}:
            return super().forward(x)
        y = _Product.apply(x, self.weight)
        return y if self.bias is None else y + self.bias


def multiply_in_float32(model: PreTrainedModel) -> None:
    """Let the linear layers of a model with bfloat16 weights multiply in float32.

    4-bit layers are not changed, because they compute in their own `compute_dtype`.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.__class__ = Float32Linear
