"""The training step with fewer passes over memory: what makes lecture 07 fast on a CPU.

In a small model's step on a CPU, what surrounds the large matrix products takes longer than they do
(docs/performance.md has the profile). Three parts leave that out and change no result but by
rounding:

    lora_linear     A product in 4 bits with its adapter, and its backward pass by hand: three thin
                    products and one large one each way, all in the compute dtype. peft's own layer
                    copies x to the adapter's float32 and back, and keeps those copies.
    attend          Attention over rows without padding (`sft.pack`): all else in the model then
                    computes with real tokens alone.
    cross_entropy   A loss that never copies all logits to float32.

`fused(model)` puts the first two in the place of a model's own code for a while.

References: LoRA (Hu et al. 2021, section 4.1), QLoRA (Dettmers et al. 2023, section 3, equation 5).
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
from bitsandbytes.functional import dequantize_4bit
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, PreTrainedModel

from course_utils.models import linear4bit_layers
from course_utils.sft import IGNORE

GRID_WIDTH = 32  # widths of attention's rectangles are multiples: few shapes, few kernels to build
CHUNK = 2**20  # logits that are float32 at a time, 4 MB: they stay in the processor's cache
PACKED = "course_packed"  # the name of `attend` among transformers' attention implementations


# -- a linear layer with its adapter ---------------------------------------------------------------


class _LoRALinear(Function):
    """`lora_linear` on rows, with its backward pass by hand.

    x: (tokens, in); A: (r, in) and B: (out, r), float32, computed with in x's dtype; W: (out, in),
    which gets no gradient. Kept for the backward pass: x, d, and copies of A and B in that dtype.
    """

    @staticmethod
    def forward(ctx, x, a, b, packed, state, scale):
        a, b = a.to(x.dtype), b.to(x.dtype)
        down = x @ a.T  # (tokens, r)
        y = x @ _dequantized(packed, state, x.dtype).T  # (tokens, out)
        ctx.save_for_backward(x, a, b, down)
        ctx.base = packed, state, scale
        return y.addmm_(down, b.T, alpha=scale)

    @staticmethod
    def backward(ctx, g):
        x, a, b, down = ctx.saved_tensors
        packed, state, scale = ctx.base
        h = (g @ b).mul_(scale)  # (tokens, r)
        grad_a, grad_b = h.T @ x, (g.T @ down).mul_(scale)  # (r, in), (out, r)
        grad_x = None
        if ctx.needs_input_grad[0]:  # the first layer's x is an embedding, and frozen
            grad_x = (g @ _dequantized(packed, state, g.dtype)).addmm_(h, a)
        return grad_x, grad_a.float(), grad_b.float(), None, None, None


def _dequantized(packed: Tensor, state, dtype: torch.dtype) -> Tensor:
    """W in this dtype; bitsandbytes' own way there is by the dtype that was quantized."""
    state = copy.copy(state)
    state.dtype = dtype
    return dequantize_4bit(packed, state)


def lora_linear(layer, x: Tensor) -> Tensor:
    """y = x Wᵀ + s (x Aᵀ) Bᵀ: peft's LoRA layer on a 4-bit base, dequantized on demand.

        forward                          backward, from g = ∂L/∂y
        d = x Aᵀ        (tokens, r)      h = s g B       (tokens, r)
        y = x Wᵀ + s d Bᵀ                ∂B = s gᵀ d     ∂A = hᵀ x     ∂x = g W + h A

    x: (…, in), of any dtype; computed in the base's compute dtype. Returns (…, out) in x's dtype.
    """
    (name,) = layer.active_adapters
    weight = layer.base_layer.weight
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    rows = x.reshape(-1, x.shape[-1]).to(layer.base_layer.compute_dtype)
    y = _LoRALinear.apply(rows, a, b, weight.data, weight.quant_state, layer.scaling[name])
    return y.view(*x.shape[:-1], -1).to(x.dtype)


# -- attention without padding ---------------------------------------------------------------------


class Grid(NamedTuple):
    """Where the tokens of packed sequences stand in a rectangle of (sequences, width) places.

        row of tokens    a a a b b b b b c c
        rectangle        a a a . .   b b b b b   c c . . .

    places: for each place its token's number, or 0 where it is empty. empty: the numbers of those
    places. tokens: for each token its place's number. mask: (width, width), 0 where a token may
    look and -inf where it may not. An empty place stands behind its sequence, so causal attention
    never lets a token look at it.
    """

    shape: tuple[int, int]
    places: Tensor
    empty: Tensor
    tokens: Tensor
    mask: Tensor


@lru_cache(maxsize=2)  # all layers of a step ask for the same one
def _grid(lengths: tuple[int, ...], dtype: torch.dtype) -> Grid:
    width = -(-max(lengths) // GRID_WIDTH) * GRID_WIDTH
    sizes, column = torch.tensor(lengths)[:, None], torch.arange(width)
    empty = (column >= sizes).flatten()
    places = (sizes.cumsum(0) - sizes + column).flatten().masked_fill(empty, 0)
    mask = torch.full((width, width), -torch.inf, dtype=dtype).triu_(1)
    shape = (len(lengths), width)
    return Grid(shape, places, empty.nonzero().squeeze(1), (~empty).nonzero().squeeze(1), mask)


class _Move(Function):
    """Rows of x in another order: rows `index`, with zeros in the rows `zero`.

    Its gradient moves back by `inverse`, with zeros in `inverse_zero`: cheaper than autograd's own,
    which has to expect that a row is taken more than once.
    """

    @staticmethod
    def forward(ctx, x, index, zero, inverse, inverse_zero):
        ctx.back = inverse, inverse_zero
        return x.index_select(0, index).index_fill_(0, zero, 0)

    @staticmethod
    def backward(ctx, g):
        inverse, zero = ctx.back
        return g.index_select(0, inverse).index_fill_(0, zero, 0), None, None, None, None


def attend(module, query, key, value, attention_mask, scaling, lengths=None, **_):
    """Causal attention of packed sequences, each to itself: transformers' attention interface.

    query: (1, heads, tokens, d); key, value: (1, kv heads, tokens, d). lengths: of the sequences;
    tokens behind them belong to the last one. Written out, not by torch's fused kernel, whose
    backward pass is slow on CPUs. A layer's scores take sequences × heads × width² elements.

    Returns (1, tokens, heads, d) and None. Raises ValueError without lengths.
    """
    if lengths is None:
        raise ValueError("attention over packed rows needs `lengths`: make the batch by sft.pack")
    first = lengths[:-1].tolist()
    grid = _grid((*first, key.shape[2] - sum(first)), query.dtype)
    (rows, width), nothing = grid.shape, grid.tokens[:0]
    kv_heads, d = key.shape[1], key.shape[-1]

    def to_grid(x):  # (1, heads, tokens, d) -> (rows · kv heads, heads / kv heads · width, d)
        x = x[0].transpose(0, 1)  # (tokens, heads, d)
        x = _Move.apply(x, grid.places, grid.empty, grid.tokens, nothing)
        return x.view(rows, width, -1, d).transpose(1, 2).reshape(rows * kv_heads, -1, d)

    q, k, v = to_grid(query * scaling), to_grid(key), to_grid(value)
    mask = grid.mask.repeat(q.shape[1] // width, 1)  # heads that share a key stand below each other
    weights = torch.baddbmm(mask, q, k.transpose(1, 2)).softmax(dim=-1)
    out = (weights @ v).view(rows, -1, width, d).transpose(1, 2)  # (rows, width, heads, d)
    out = _Move.apply(out.flatten(0, 1), grid.tokens, nothing, grid.places, grid.empty)
    return out[None], None


AttentionInterface.register(PACKED, attend)


# -- the loss --------------------------------------------------------------------------------------


class _CrossEntropy(Function):
    """Σ (log Σ exp z − z[target]) over the rows that have a target; gradient: softmax − one-hot."""

    @staticmethod
    def forward(ctx, logits, targets):
        ctx.rows = max(1, CHUNK // logits.shape[-1])
        log_sums = torch.cat([z.float().logsumexp(-1) for z in logits.split(ctx.rows)])
        ctx.save_for_backward(logits, targets, log_sums)
        picked = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
        return (log_sums - picked)[targets != IGNORE].sum()

    @staticmethod
    def backward(ctx, g):
        tensors = ctx.saved_tensors
        parts = (tensor.split(ctx.rows) for tensor in tensors)
        for z, target, log_sum in zip(*parts, strict=True):
            p = (z.float() - log_sum[:, None]).exp_()
            counts = target != IGNORE
            p[counts.nonzero().squeeze(1), target[counts]] -= 1
            z.copy_(p.mul_((counts * g)[:, None]))
        return tensors[0], None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over rows whose target isn't -100.

    As torch's of `logits.float()` with reduction="sum", without that copy: float32 is a few rows'
    at a time, forward and backward. The gradient takes the logits' place in memory: torch refuses a
    second backward pass. logits: (rows, words) of any dtype; targets: (rows,) int64.
    """
    return _CrossEntropy.apply(logits, targets)


# -- a model that uses them ------------------------------------------------------------------------


def fits(model: nn.Module) -> bool:
    """Whether `fused` can make this model's training faster: a Llama in 4 bits with LoRA, on a CPU.

    SmolLM2 is a Llama; other kinds may have windows or caps in their attention.
    """
    return _base(model).config.model_type == "llama" and any(True for _ in _lora_layers(model))


def _base(model: nn.Module) -> PreTrainedModel:
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def _lora_layers(model: nn.Module) -> Iterator[nn.Module]:
    """peft's LoRA layers that `lora_linear` can stand in for."""
    from peft.tuners.lora import LoraLayer

    bases = set(linear4bit_layers(model).values())
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and layer.base_layer in bases and _is_plain(layer):
            yield layer


def _is_plain(layer) -> bool:
    """One adapter, switched on, and nothing but the LoRA paper's product in 16 or 32 bits."""
    base, names = layer.base_layer, layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or names[0] not in layer.lora_A:
        return False
    fine = base.compute_dtype in (torch.float32, torch.bfloat16) and base.bias is None
    fine &= base.weight.device.type == "cpu" and layer.lora_B[names[0]].bias is None
    fine &= names[0] not in layer.lora_variant  # DoRA and other kinds
    return fine and isinstance(layer.lora_dropout[names[0]], nn.Identity)


@contextmanager
def fused(model: nn.Module) -> Iterator[None]:
    """Let a model compute with `lora_linear` and `attend` inside, then as before.

    Inside, its batches are `sft.pack`'s, and the backward pass belongs inside too: gradient
    checkpointing computes forward again. Layers that `lora_linear` can't stand in for (with
    dropout, for one) keep their own code.
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
