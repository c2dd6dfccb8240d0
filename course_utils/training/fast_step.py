"""Speed up a training step on CPUs by reading and writing less memory (lecture 07).

When a small model is trained on a CPU, the large matrix products need less time than the other
operations of a step (docs/performance.md shows the profile). Three functions avoid some of these
other operations. The functions change results only by rounding:

    lora_linear         A 4-bit linear layer with its adapter. All of its products are computed in
                        the compute dtype, and its backward pass is written by hand. peft's own
                        layer converts its input to the adapter's float32, converts the result
                        back, and stores the converted copies.
    packed_attention    Attention over sequences that `sft.pack` joins without padding between
                        them. So the other layers of the model compute with less padding.
    cross_entropy       A loss that converts only a part of the logits to float32 at a time.

Inside a `with fast_path(model)` block, the model uses `lora_linear` and `packed_attention`.

References: LoRA (Hu et al. 2021, section 4.1), QLoRA (Dettmers et al. 2023, section 3, equation 5).
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, PreTrainedModel

from course_utils.models import dequantized, linear4bit_layers
from course_utils.sft import IGNORE

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState
    from peft.tuners.lora import LoraLayer

# The width of each `Grid` is a multiple of this number. So there are only a few different widths,
# and kernels are built for only a few different shapes.
GRID_WIDTH = 32
# Number of logits that are converted to float32 at a time. In float32 these logits need 4 MB, so
# they stay in the processor's cache.
CHUNK = 2**20
# Name under which transformers registers `packed_attention` as an attention implementation.
PACKED = "course_packed"


# -- a linear layer with its adapter ---------------------------------------------------------------


class _LoRALinear(Function):
    """Compute `lora_linear` for inputs of shape (tokens, in), with a handwritten backward pass.

    The weight W of shape (out, in) is frozen and gets no gradient. The adapter's matrices
    A of shape (r, in) and B of shape (out, r) are float32, and are cast to x's dtype before they
    are multiplied. The forward pass stores x, d = x Aᵀ and the cast matrices for the backward pass.
    """

    # Autograd returns gradients only for arguments, so x, A and B must be separate arguments.
    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, packed: Tensor, state: QuantState, scale: float
    ) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        down = x @ a.T  # (tokens, r)
        y = x @ dequantized(packed, state, x.dtype).T  # (tokens, out)
        ctx.save_for_backward(x, a, b, down)
        ctx.base = packed, state, scale
        return y.addmm_(down, b.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        x, a, b, down = ctx.saved_tensors
        packed, state, scale = ctx.base
        h = (g @ b).mul_(scale)  # (tokens, r)
        grad_a, grad_b = h.T @ x, (g.T @ down).mul_(scale)  # (r, in), (out, r)
        grad_x = None
        # In the first layer, x is computed from frozen embeddings and needs no gradient.
        if ctx.needs_input_grad[0]:
            grad_x = (g @ dequantized(packed, state, g.dtype)).addmm_(h, a)
        return grad_x, grad_a.float(), grad_b.float(), None, None, None


def lora_linear(layer: LoraLayer, x: Tensor) -> Tensor:
    """Compute the output y = x Wᵀ + s (x Aᵀ) Bᵀ of a LoRA layer of peft with a 4-bit weight W.

        forward                          backward, from g = ∂L/∂y
        d = x Aᵀ        (tokens, r)      h = s g B       (tokens, r)
        y = x Wᵀ + s d Bᵀ                ∂B = s gᵀ d     ∂A = hᵀ x     ∂x = g W + h A

    Here s is the scale of the adapter, and L is the loss. Both passes dequantize W.

    Args:
        layer: A LoRA layer of peft with one active adapter.
        x: Input of shape (…, in), in any dtype. The products are computed in the compute dtype of
            the 4-bit layer.

    Returns:
        y of shape (…, out), in x's dtype.
    """
    (name,) = layer.active_adapters
    weight = layer.base_layer.weight
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    rows = x.reshape(-1, x.shape[-1]).to(layer.base_layer.compute_dtype)
    y = _LoRALinear.apply(rows, a, b, weight.data, weight.quant_state, layer.scaling[name])
    return y.view(*x.shape[:-1], -1).to(x.dtype)


# -- attention without padding ---------------------------------------------------------------------


class Selection(NamedTuple):
    """The rows that `_Permute` selects from a tensor.

    Attributes:
        rows: For each row of the result, the number of the row of the tensor.
        zeros: The numbers of the rows of the result that are set to zero.
    """

    rows: Tensor
    zeros: Tensor


class Grid(NamedTuple):
    """A mapping between packed tokens and a rectangle in which each sequence has a padded row.

        packed tokens    a a a b b b b b c c
        rectangle        a a a . .   b b b b b   c c . . .

    In each row, the padding follows the tokens. So with causal attention, no token attends to the
    padding.

    Attributes:
        shape: Shape of the rectangle: number of sequences, and width in tokens.
        pad: For each place of the rectangle, selects the token at this place, or zeros for padding.
        unpad: For each packed token, selects the place of this token in the rectangle.
        mask: Tensor of shape (width, width): 0 where a token may attend, -inf where it may not.
    """

    shape: tuple[int, int]
    pad: Selection
    unpad: Selection
    mask: Tensor


# The grid is cached, because all layers of a step need the same grid.
@lru_cache(maxsize=2)
def _grid(lengths: tuple[int, ...], dtype: torch.dtype) -> Grid:
    width = -(-max(lengths) // GRID_WIDTH) * GRID_WIDTH
    sizes, column = torch.tensor(lengths)[:, None], torch.arange(width)
    padding = (column >= sizes).flatten()
    tokens = (sizes.cumsum(0) - sizes + column).flatten().masked_fill(padding, 0)
    places = (~padding).nonzero().squeeze(1)
    return Grid(
        shape=(len(lengths), width),
        pad=Selection(tokens, zeros=padding.nonzero().squeeze(1)),
        unpad=Selection(places, zeros=places[:0]),
        mask=torch.full((width, width), -torch.inf, dtype=dtype).triu_(1),
    )


class _Permute(Function):
    """Select rows of x, and select rows of the gradient by the inverse selection.

    Selecting rows is cheaper than autograd's backward pass of `index_select`, which must add
    gradients because a row can be selected more than once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, selection: Selection, inverse: Selection) -> Tensor:
        ctx.inverse = inverse
        return x.index_select(0, selection.rows).index_fill_(0, selection.zeros, 0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        rows, zeros = ctx.inverse
        return g.index_select(0, rows).index_fill_(0, zeros, 0), None, None


# transformers prescribes these arguments.
def packed_attention(  # noqa: PLR0913
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    scaling: float,
    lengths: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each packed sequence, with transformers' interface.

    The matrix products are written out, because the backward pass of torch's fused kernel is slow
    on CPUs. The attention scores of a layer have sequences × heads × width² elements.

    Args:
        module: The attention layer, which is not used here.
        query: Queries of shape (1, heads, tokens, d).
        key: Keys of shape (1, kv heads, tokens, d).
        value: Values of shape (1, kv heads, tokens, d).
        attention_mask: Not used, because `lengths` determines which tokens may attend.
        scaling: Factor by which the scores are multiplied.
        lengths: Number of tokens of each sequence. Padding tokens after the last sequence are
            counted as part of that sequence.

    Returns:
        The output of shape (1, tokens, heads, d), and None instead of the attention weights.

    Raises:
        ValueError: `lengths` is missing.
    """
    if lengths is None:
        raise ValueError("packed attention needs `lengths`: make the batch with sft.pack")
    first = lengths[:-1].tolist()
    grid = _grid((*first, key.shape[2] - sum(first)), query.dtype)
    rows, width = grid.shape
    kv_heads, d = key.shape[1], key.shape[-1]

    # (1, heads, tokens, d) -> (rows · kv heads, heads / kv heads · width, d)
    def to_grid(x: Tensor) -> Tensor:
        x = x[0].transpose(0, 1)  # (tokens, heads, d)
        x = _Permute.apply(x, grid.pad, grid.unpad)
        return x.view(rows, width, -1, d).transpose(1, 2).reshape(rows * kv_heads, -1, d)

    q, k, v = to_grid(query * scaling), to_grid(key), to_grid(value)
    # The query heads of a key-value head are stacked, so the mask is repeated for each query head.
    mask = grid.mask.repeat(q.shape[1] // width, 1)
    weights = torch.baddbmm(mask, q, k.transpose(1, 2)).softmax(dim=-1)
    out = (weights @ v).view(rows, -1, width, d).transpose(1, 2)  # (rows, width, heads, d)
    out = _Permute.apply(out.flatten(0, 1), grid.unpad, grid.pad)
    return out[None], None


AttentionInterface.register(PACKED, packed_attention)


# -- the loss --------------------------------------------------------------------------------------


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

    Args:
        logits: Logits of shape (rows, vocabulary), in any dtype.
        targets: Token ids of shape (rows,), int64.
    """
    return _CrossEntropy.apply(logits, targets)


# -- a model that uses these functions -------------------------------------------------------------


def supports_fast_path(model: nn.Module) -> bool:
    """Return whether `fast_path` supports a model, which must be a 4-bit Llama with LoRA on a CPU.

    SmolLM2 has the architecture of Llama. Other model types are not supported, because their
    attention may have sliding windows or soft caps.
    """
    return _base(model).config.model_type == "llama" and any(True for _ in _lora_layers(model))


def _base(model: nn.Module) -> PreTrainedModel:
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def _lora_layers(model: nn.Module) -> Iterator[LoraLayer]:
    """Yield the LoRA layers of peft that `lora_linear` can replace."""
    from peft.tuners.lora import LoraLayer

    bases = set(linear4bit_layers(model).values())
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and layer.base_layer in bases and _is_plain(layer):
            yield layer


def _is_plain(layer: LoraLayer) -> bool:
    """Return whether a layer's only active adapter computes plain LoRA in bfloat16 or float32."""
    base, names = layer.base_layer, layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or names[0] not in layer.lora_A:
        return False
    return (
        base.weight.device.type == "cpu"
        and base.compute_dtype in (torch.float32, torch.bfloat16)
        and base.bias is None
        and layer.lora_B[names[0]].bias is None
        # DoRA and other variants of LoRA compute a different product.
        and names[0] not in layer.lora_variant
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
    )


@contextmanager
def fast_path(model: nn.Module) -> Iterator[None]:
    """Let the model compute with `lora_linear` and `packed_attention` inside the with block.

    Inside the block, batches must be made by `sft.pack`. The backward pass must also run inside the
    block, because gradient checkpointing repeats the forward pass during the backward pass. Layers
    that `lora_linear` cannot replace, for example layers with dropout, keep peft's forward pass.
    """
    base, layers = _base(model), list(_lora_layers(model))
    before = base.config._attn_implementation
    base.set_attn_implementation(PACKED)
    for layer in layers:
        layer.forward = types.MethodType(lora_linear, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
        base.set_attn_implementation(before)
