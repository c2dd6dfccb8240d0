"""Compute with 16-bit weights in float32, on CPUs that have no instructions for bfloat16.

Without such instructions, PyTorch may multiply bfloat16 matrices one number at a time. On a CPU
with AVX2 and without AVX-512, the forward and backward pass of SmolLM2-135M over 190 tokens took
50 s on one core, and 3.5 s with the layers of this module. They convert each weight to float32
before its product, and keep no converted copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _FrozenProduct(torch.autograd.Function):
    """Compute x Wᵀ + bias in float32, with a frozen 16-bit W that is converted in each pass.

    Autograd would keep the float32 copy of W from the forward pass for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.float(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ ctx.weight.float(), None, None


class Float32Linear(nn.Linear):
    """A linear layer with a 16-bit weight whose inputs, products and outputs are float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in float32: (…, d_in) → (…, d_out)."""
        x, bias = x.float(), None if self.bias is None else self.bias.float()
        if self.weight.requires_grad or (bias is not None and bias.requires_grad):
            return F.linear(x, self.weight.float(), bias)
        return _FrozenProduct.apply(x, self.weight, bias)


def multiply_in_float32(model: PreTrainedModel) -> None:
    """Let a model with bfloat16 weights compute in float32; the weights keep their dtype.

    The embedding's outputs become float32, so all activations are float32, too. 4-bit layers
    compute in their own `compute_dtype`.

    Args:
        model: a model that has just been loaded.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.__class__ = Float32Linear
    model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.float())
