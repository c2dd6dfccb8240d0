"""The fast training step: fewer passes over memory, which makes lecture 07 fast on a CPU.

In a small model's step on a CPU, the large matrix products take less time than the operations
around them (docs/performance.md has the profile). Three functions leave out such operations, and
change results only by rounding:

    lora_linear         A product in 4 bits with its adapter, and a backward pass written by hand:
                        three thin products and one large one each way, all in the compute dtype.
                        peft's own layer copies x to the adapter's float32 and back, and stores
                        those copies.
    packed_attention    Attention over rows without padding (`sft.pack`), so that the rest of the
                        model computes with real tokens only.
    cross_entropy       A loss that never copies all logits to float32.

`fast_path(model)` replaces a model's own code by the first two for a while.

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

# The widths of attention's rectangles are multiples of this, so that few kernels are built.
GRID_WIDTH = 32
# Number of logits that are float32 at a time. They take 4 MB and stay in the processor's cache.
CHUNK = 2**20
# The name of `packed_attention` among the attention implementations of transformers.
PACKED = "course_packed"


# -- a linear layer with its adapter ---------------------------------------------------------------


class _LoRALinear(Function):
    """`lora_linear` on rows, with a backward pass written by hand.

    x is (tokens, in), W is (out, in) and gets no gradient. A (r, in) and B (out, r) are float32;
    they are cast to x's dtype to compute. The backward pass needs x, d, and these casts.
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
        # The x of the first layer is a frozen embedding and needs no gradient.
        if ctx.needs_input_grad[0]:
            grad_x = (g @ _dequantized(packed, state, g.dtype)).addmm_(h, a)
        return grad_x, grad_a.float(), grad_b.float(), None, None, None


def _dequantized(packed: Tensor, state, dtype: torch.dtype) -> Tensor:
    """W in this dtype; bitsandbytes would first dequantize to the dtype before quantization."""
    state = copy.copy(state)
    state.dtype = dtype
    return dequantize_4bit(packed, state)


def lora_linear(layer, x: Tensor) -> Tensor:
    """Compute y = x Wᵀ + s (x Aᵀ) Bᵀ: peft's LoRA layer on a 4-bit base, dequantized on demand.

        forward                          backward, from g = ∂L/∂y
        d = x Aᵀ        (tokens, r)      h = s g B       (tokens, r)
        y = x Wᵀ + s d Bᵀ                ∂B = s gᵀ d     ∂A = hᵀ x     ∂x = g W + h A

    Args:
        layer: A LoRA layer of peft with one active adapter.
        x: Input of shape (…, in), of any dtype. The products use the base's compute dtype.

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


class Grid(NamedTuple):
    """The places of packed sequences' tokens in a rectangle of (sequences, width) places.

        row of tokens    a a a b b b b b c c
        rectangle        a a a . .   b b b b b   c c . . .

    Empty places follow their sequence, so causal attention never lets a token see one.

    Attributes:
        shape: (sequences, width).
        places: For each place the number of its token, or 0 if it is empty.
        empty: The numbers of the empty places.
        tokens: For each token the number of its place.
        mask: (width, width), 0 where a token may look and -inf where it may not.
    """

    shape: tuple[int, int]
    places: Tensor
    empty: Tensor
    tokens: Tensor
    mask: Tensor


# All layers of a step need the same grid.
@lru_cache(maxsize=2)
def _grid(lengths: tuple[int, ...], dtype: torch.dtype) -> Grid:
    width = -(-max(lengths) // GRID_WIDTH) * GRID_WIDTH
    sizes, column = torch.tensor(lengths)[:, None], torch.arange(width)
    empty = (column >= sizes).flatten()
    places = (sizes.cumsum(0) - sizes + column).flatten().masked_fill(empty, 0)
    mask = torch.full((width, width), -torch.inf, dtype=dtype).triu_(1)
    shape = (len(lengths), width)
    return Grid(shape, places, empty.nonzero().squeeze(1), (~empty).nonzero().squeeze(1), mask)


class _Permute(Function):
    """The rows `index` of x, with zeros in the rows `zero`.

    The gradient is moved back by `inverse`, with zeros in `inverse_zero`. That is cheaper than
    autograd's own backward pass, which must allow for a row that is used more than once.
    """

    @staticmethod
    def forward(ctx, x, index, zero, inverse, inverse_zero):
        ctx.back = inverse, inverse_zero
        return x.index_select(0, index).index_fill_(0, zero, 0)

    @staticmethod
    def backward(ctx, g):
        inverse, zero = ctx.back
        return g.index_select(0, inverse).index_fill_(0, zero, 0), None, None, None, None


def packed_attention(module, query, key, value, attention_mask, scaling, lengths=None, **_):
    """Causal attention within each packed sequence, for transformers' attention interface.

    The products are written out because the backward pass of torch's fused kernel is slow on CPUs.
    The scores of a layer have sequences × heads × width² elements.

    Args:
        module: Unused, like attention_mask; both belong to the interface.
        query: (1, heads, tokens, d).
        key: (1, kv heads, tokens, d).
        value: (1, kv heads, tokens, d).
        attention_mask: Unused.
        scaling: Factor of the scores.
        lengths: Lengths of the sequences. Trailing tokens (padding to a multiple) are attributed to
            the last sequence.

    Returns:
        The output, (1, tokens, heads, d), and None in place of the attention weights.

    Raises:
        ValueError: lengths is missing.
    """
    if lengths is None:
        raise ValueError("attention over packed rows needs `lengths`: make the batch by sft.pack")
    first = lengths[:-1].tolist()
    grid = _grid((*first, key.shape[2] - sum(first)), query.dtype)
    (rows, width), nothing = grid.shape, grid.tokens[:0]
    kv_heads, d = key.shape[1], key.shape[-1]

    # (1, heads, tokens, d) -> (rows · kv heads, heads / kv heads · width, d)
    def to_grid(x):
        x = x[0].transpose(0, 1)  # (tokens, heads, d)
        x = _Permute.apply(x, grid.places, grid.empty, grid.tokens, nothing)
        return x.view(rows, width, -1, d).transpose(1, 2).reshape(rows * kv_heads, -1, d)

    q, k, v = to_grid(query * scaling), to_grid(key), to_grid(value)
    # Heads that share a key are stacked, so the mask is repeated for each of them.
    mask = grid.mask.repeat(q.shape[1] // width, 1)
    weights = torch.baddbmm(mask, q, k.transpose(1, 2)).softmax(dim=-1)
    out = (weights @ v).view(rows, -1, width, d).transpose(1, 2)  # (rows, width, heads, d)
    out = _Permute.apply(out.flatten(0, 1), grid.tokens, nothing, grid.places, grid.empty)
    return out[None], None


AttentionInterface.register(PACKED, packed_attention)


# -- the loss --------------------------------------------------------------------------------------


class _CrossEntropy(Function):
    """Σ (log Σ exp z − z[target]) over rows with a target; its gradient is softmax − one-hot."""

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
    """Cross-entropy in nats, summed over the rows whose target is not -100.

    The result is torch's for `logits.float()` with reduction="sum", but only a few rows are float32
    at a time, forward and backward. The gradient overwrites the logits in memory, so torch refuses
    a second backward pass.

    Args:
        logits: (rows, vocabulary), of any dtype.
        targets: (rows,), int64.
    """
    return _CrossEntropy.apply(logits, targets)


# -- a model that uses them ------------------------------------------------------------------------


def supports_fast_path(model: nn.Module) -> bool:
    """Whether `fast_path` makes this model train faster: a Llama in 4 bits with LoRA on a CPU.

    SmolLM2 is a Llama. Other kinds may have windows or soft caps in their attention.
    """
    return _base(model).config.model_type == "llama" and any(True for _ in _lora_layers(model))


def _base(model: nn.Module) -> PreTrainedModel:
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def _lora_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The LoRA layers of peft that `lora_linear` can replace."""
    from peft.tuners.lora import LoraLayer

    bases = set(linear4bit_layers(model).values())
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and layer.base_layer in bases and _is_plain(layer):
            yield layer


def _is_plain(layer) -> bool:
    """Whether one adapter is on and computes the LoRA paper's product in bfloat16 or float32."""
    base, names = layer.base_layer, layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or names[0] not in layer.lora_A:
        return False
    fine = base.compute_dtype in (torch.float32, torch.bfloat16) and base.bias is None
    fine &= base.weight.device.type == "cpu" and layer.lora_B[names[0]].bias is None
    # DoRA and other kinds compute something else.
    fine &= names[0] not in layer.lora_variant
    return fine and isinstance(layer.lora_dropout[names[0]], nn.Identity)


@contextmanager
def fast_path(model: nn.Module) -> Iterator[None]:
    """Let the model compute with `lora_linear` and `packed_attention` inside the with block.

    Inside, batches must come from `sft.pack`. The backward pass belongs inside too, because
    gradient checkpointing repeats the forward pass. Layers that `lora_linear` cannot replace, for
    example those with dropout, keep their own code.
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
