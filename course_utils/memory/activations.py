"""Compute the bytes of activations, tensor by tensor, in the forward and the backward pass.

The drawing shows one layer of the Llama family with LoRA adapters. The row of labels below the
graph names the tensors that autograd stores for the backward pass:

    x ── norm ──┬─ q ─ rotary ─┐                     x ── norm ──┬─ gate ─ SiLU ─┐
    │           ├─ k ─ rotary ─┼─ attention ─ o ─ +  │           │               × ─ down ─ +
    │           └─ v ──────────┘                     │           └─ up ──────────┘
    x, 1/rms    input of A     q, k, v, result       x, 1/rms    gate, SiLU, up    input of A
    └────────────── attention half ──────────────┘   └─────────────── MLP half ──────────────┘

In the formulas, t is the number of tokens in one micro-batch, h is the width of the residual
stream, `wide` is the width of the MLP, and v is the size of one stored number in bytes.

The formulas follow the code of transformers 5, peft, bitsandbytes and PyTorch 2. The tests compare
the formulas with the bytes that these libraries store. Korthikanti et al. 2022 (arXiv 2205.05198)
describe how to count the bytes of activations in this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from course_utils.memory.plan import Plan
from course_utils.memory.settings import DTYPE_BYTES
from course_utils.memory.terms import MemoryTerm, total_bytes

# The sources that several terms cite for their formulas.
CROSS_ENTROPY, WEIGHTS, AUTOGRAD = "cross entropy", "gradients of weights", "autograd"
PEFT, AUTOCAST = "peft's LoRA layer", "torch.autocast"

# The name of the only gradient of an activation that exists between the backward passes of two
# layers.
RESIDUAL = "gradient of the residual stream"
# The places where the inputs of linear layers are computed, in the order of the forward pass.
SOURCES = ("first norm", "attention", "second norm", "MLP")


def saved_terms(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield a term for each kind of tensor stored for the backward pass of one micro-batch."""
    settings, t, h, vocab = plan.settings, plan.tokens, plan.shape.hidden, plan.shape.vocab
    if settings.gradient_checkpointing:
        yield from _checkpoints(plan)
    else:
        yield from _saved_by_layers(plan, plan.shape.layers)
    yield _norm(plan, "last norm")
    if settings.trains_weights:
        width = 2 if settings.autocast else settings.stream_bytes
        yield _term("input of the head", t * h * width, f"{t} × {h} × {width}", WEIGHTS)
        yield _term("token ids", 8 * t, f"{t} × 8", "backward of the embedding")
    formula = f"{t} tokens × {vocab} logits × 4"
    yield _term("softmax of logits", 4 * t * vocab, formula, CROSS_ENTROPY)
    yield _term("labels", 8 * t, f"{t} × 8", CROSS_ENTROPY)
    if cast := _cast_weights(plan):
        yield _term("16-bit copies of weights", 2 * cast, f"{cast:,} × 2", AUTOCAST)


def layers_saved(plan: Plan, layers: int) -> int:
    """Return the bytes that the first `layers` layers store for the backward pass."""
    if plan.settings.gradient_checkpointing:
        return _layer_inputs(plan, layers) + saved_mask(plan)
    return total_bytes(_saved_by_layers(plan, layers))


def layer_saved(plan: Plan) -> int:
    """Return the bytes that one layer stores for its backward pass."""
    return total_bytes(_attention_half(plan)) + total_bytes(_mlp_half(plan))


def saved_mask(plan: Plan) -> int:
    """Return the bytes of the causal mask that checkpointing stores.

    The number is 0 unless the model is GPT-2 with eager attention.
    """
    eager = plan.settings.attention == "eager"
    return causal_mask(plan) if plan.shape.family == "gpt2" and eager else 0


def causal_mask(plan: Plan) -> int:
    """Return the bytes of the causal mask of eager attention.

    The mask has batch × 1 × tokens × tokens numbers, where `tokens` is the length of a sequence.
    """
    return plan.tokens * plan.settings.sequence_length * plan.settings.stream_bytes


def _term(name: str, size: int, formula: str, source: str) -> MemoryTerm:
    return MemoryTerm("activations", name, size, formula, source)


def _checkpoints(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield a term for each kind of tensor that gradient checkpointing stores."""
    shape, settings, t = plan.shape, plan.settings, plan.tokens
    formula = f"{shape.layers} layers × {t} tokens × {shape.hidden} × {settings.stream_bytes}"
    yield _term("inputs of layers", _layer_inputs(plan, shape.layers), formula, "Chen et al. 2016")
    if size := saved_mask(plan):
        formula = f"{t} × {settings.sequence_length} × {settings.stream_bytes}"
        yield _term("causal mask", size, formula, "an input of GPT-2's layers")


def _layer_inputs(plan: Plan, layers: int) -> int:
    return layers * plan.tokens * plan.shape.hidden * plan.settings.stream_bytes


def _saved_by_layers(plan: Plan, layers: int) -> Iterator[MemoryTerm]:
    shape, settings = plan.shape, plan.settings
    for term in (*_attention_half(plan), *_mlp_half(plan)):
        yield replace(term, size=layers * term.size, formula=f"{layers} layers × {term.formula}")
    if not settings.trains_weights:
        unsaved = _unsaved(plan)
        yield _term("less: before the first adapter", -unsaved, "in one layer", "needs no gradient")
    if not shape.positions:
        s, each = settings.sequence_length, settings.stream_bytes
        formula = f"2 × {s} tokens × {shape.head_dim} × {each}"
        yield _term("cos and sin", 2 * s * shape.head_dim * each, formula, "rotary positions")


def _cast_weights(plan: Plan) -> int:
    """Return the number of weights of which autograd stores a 16-bit copy made by autocast."""
    settings, shape = plan.settings, plan.shape
    if not settings.autocast:
        return 0
    head = shape.vocab * shape.hidden if settings.stream_bytes == 4 else 0
    if settings.gradient_checkpointing:
        return head
    if settings.trains_weights:
        return head + shape.layers * plan.layer_weights
    # The first adapters of the first layer read a tensor that needs no gradient. Therefore autograd
    # doesn't store the 16-bit copies of these adapters' matrices A.
    first = next(filter(None, map(plan.adapter_inputs, SOURCES)))
    return head + shape.layers * plan.adapter_weights - settings.rank * sum(first)


# --- what one layer stores for its backward pass --------------------------------------------------


def _attention_half(plan: Plan) -> list[MemoryTerm]:
    return [*_attention_inner(plan), *_inputs(plan, "attention")]


def _attention_inner(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the attention half stores, except the output projection's input."""
    yield _norm(plan, "first norm")
    yield from _inputs(plan, "first norm")
    if plan.shape.qk_norm:
        yield _qk_norm(plan)
    yield from _attention(plan)


def _mlp_half(plan: Plan) -> list[MemoryTerm]:
    return [*_mlp_inner(plan), *_inputs(plan, "MLP")]


def _mlp_inner(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the MLP half stores, except the input of the last linear layer."""
    yield _norm(plan, "second norm")
    yield from _inputs(plan, "second norm")
    times, names = _activation(plan)
    t, wide, v = plan.tokens, plan.shape.intermediate, plan.settings.value_bytes
    yield _term(names, times * t * wide * v, f"{times} × {t} × {wide} × {v}", "their derivatives")


def _activation(plan: Plan) -> tuple[int, str]:
    """Return the number and names of the MLP-wide tensors stored for the activation function."""
    function = plan.shape.activation
    if plan.shape.gated:
        return 3, f"gate, its {function} and up"
    return (4, "GELU in four steps") if function == "gelu_new" else (1, "input of GELU")


def _norm(plan: Plan, name: str) -> MemoryTerm:
    """Return the term for the tensors that a normalization layer stores for its backward pass.

    LayerNorm stores its input, and the mean and inverse standard deviation of each token. RMSNorm
    stores a float32 copy of its input, and 1/rms of each token, where rms is the root mean square.
    If the weight of RMSNorm is trained, RMSNorm also stores the normalized input.
    """
    settings, t, h = plan.settings, plan.tokens, plan.shape.hidden
    stream = settings.stream_bytes
    if plan.shape.norm == "layer":
        # The mean and the inverse standard deviation have 16 bits each if the residual stream has
        # 16 bits and the device is a CPU. Otherwise these two numbers have 32 bits each.
        two = 4 if stream == 2 and settings.device == "cpu" else 8
        formula = f"{t} × ({h} × {stream} + {two} for mean and deviation)"
        return _term(name, t * (h * stream + two), formula, "LayerNorm")
    each = 4 + (stream if settings.trains_weights else 0)
    return _term(name, t * (h * each + 4), f"{t} × ({h} × {each} + 4 for 1/rms)", "RMSNorm")


def _qk_norm(plan: Plan) -> MemoryTerm:
    shape, settings, t = plan.shape, plan.settings, plan.tokens
    heads = shape.heads + shape.kv_heads
    each = 4 + (settings.value_bytes if settings.trains_weights else 0)
    formula = f"{t} × {heads} heads × ({shape.head_dim} × {each} + 4 for 1/rms)"
    size = t * heads * (shape.head_dim * each + 4)
    return _term("norms of queries and keys", size, formula, "RMSNorm")


def _attention(plan: Plan) -> Iterator[MemoryTerm]:
    shape, settings, t = plan.shape, plan.settings, plan.tokens
    query, key, v = shape.query_width, shape.key_width, settings.attention_bytes
    if settings.attention == "sdpa":
        formula = f"{t} × (2 × {query} + 2 × {key}) × {v}"
        size, kernel = 2 * t * (query + key) * v, "fused attention"
        yield _term("queries, keys, values, result", size, formula, kernel)
        yield _term("log-sum-exp", 4 * t * shape.heads, f"4 × {t} × {shape.heads} heads", kernel)
        return
    formula = f"3 × {t} × {query} × {v}"
    yield _term("queries, keys, values", 3 * t * query * v, formula, "eager attention")
    widened = settings.stream_bytes == 4 or (settings.autocast and settings.device == "cuda")
    # GPT-2 in 16 bits stores only a 16-bit softmax, unless its scores are converted to float32.
    # Other models in 16 bits store the float32 softmax and a 16-bit copy of this softmax.
    narrow = shape.family == "gpt2" and not widened
    each = v if v == 4 or narrow else 4 + v
    formula = f"{t} × {settings.sequence_length} × {shape.heads} heads × {each}"
    yield _term("attention scores", plan.scores * each, formula, "eager attention")


def _inputs(plan: Plan, source: str) -> Iterator[MemoryTerm]:
    """Yield the inputs that autograd stores for the linear layers that read `source`.

    Full fine-tuning needs the inputs for the gradients of the weights. LoRA needs the inputs for
    the gradients of A and B.
    """
    if plan.settings.trains_weights:
        yield from _weight_inputs(plan, source)
    elif widths := plan.adapter_inputs(source):
        yield from _adapter_inputs(plan, source, widths)


def _weight_inputs(plan: Plan, source: str) -> Iterator[MemoryTerm]:
    settings, t, names = plan.settings, plan.tokens, plan.readers[source]
    if source == "attention" and settings.attention == "sdpa":
        # The input is the result of attention, which fused attention has already stored.
        return
    width, each, copies = plan.layers[names[0]][0], settings.value_bytes, 1
    # Under autocast, each linear layer makes a separate 16-bit copy of a normalized input.
    if source.endswith("norm"):
        each, copies = (2, len(names)) if settings.autocast else (settings.stream_bytes, 1)
    formula = f"{copies} × {t} × {width} × {each}"
    yield _term(f"input from {source}", copies * t * width * each, formula, WEIGHTS)


def _adapter_inputs(plan: Plan, source: str, widths: list[int]) -> Iterator[MemoryTerm]:
    """Yield the inputs of A and B that autograd stores for the adapters that read `source`.

    Each matrix A reads a separate copy of the input, in A's number format. If the input already has
    this format, all matrices A read the same tensor, unless `adapters_copy_input` is true.
    """
    settings, t, pairs = plan.settings, plan.tokens, len(widths)
    rank, each = settings.rank, settings.adapter_bytes
    stored = settings.attention_bytes if source == "attention" else settings.value_bytes
    if stored == each and not settings.adapters_copy_input:
        saved_already = source == "attention" and settings.attention == "sdpa"
        widths = [] if saved_already else widths[:1]
    formula = f"{t} × {sum(widths)} × {each}"
    yield _term(f"inputs of A from {source}", t * sum(widths) * each, formula, PEFT)
    formula = f"{t} × rank {rank} × {pairs} × {each}"
    yield _term(f"inputs of B from {source}", t * rank * pairs * each, formula, PEFT)


# --- what the first layer does not store ----------------------------------------------------------


def _unsaved(plan: Plan) -> int:
    """Return the bytes of the tensors that later layers store, but the first layer doesn't.

    In the first layer autograd doesn't store these tensors, because no tensor before the first
    adapter of the model needs a gradient.
    """
    shape, t = plan.shape, plan.tokens
    unsaved = _norm(plan, "first norm").size + _unsaved_attention(plan)
    if shape.qk_norm:
        q, k = (name not in plan.adapted for name in ("q_proj", "k_proj"))
        unsaved += t * (shape.heads * q + shape.kv_heads * k) * (4 * shape.head_dim + 4)
    if plan.adapter_inputs("first norm") or plan.adapter_inputs("attention"):
        return unsaved
    mlp = _unsaved_mlp_tensors(plan) * t * shape.intermediate * plan.settings.value_bytes
    return unsaved + _norm(plan, "second norm").size + mlp


def _unsaved_mlp_tensors(plan: Plan) -> int:
    """Return the number of MLP-wide tensors that the first layer doesn't store."""
    trained = [name in plan.adapted for name in plan.readers["second norm"]]
    # Autograd stores a factor of a product only if the other factor needs a gradient.
    if plan.shape.gated:
        gate, up = trained
        return 2 * (not gate) + (not up)
    return 0 if all(trained) else _activation(plan)[0]


def _unsaved_attention(plan: Plan) -> int:
    """Return the bytes that attention doesn't store because some inputs need no gradient."""
    shape, settings = plan.shape, plan.settings
    trained = [name in plan.adapted for name in plan.readers["first norm"]]
    if not any(trained):
        return total_bytes(_attention(plan))
    if settings.attention == "sdpa" or all(trained):
        return 0
    # Autograd stores a factor of a matrix product only if the other factor needs a gradient.
    q, k, v = trained
    copy = plan.tokens * shape.query_width * settings.attention_bytes
    unsaved = copy * ((not q) + (not k) + (not q and not k))
    if settings.attention_bytes == 4:
        return unsaved
    # Each attention score has 2 B in the 16-bit copy and 4 B in the float32 softmax.
    scores = 2 * (not v) + 4 * (not q and not k)
    return unsaved + scores * plan.scores


# --- the backward pass of one layer ---------------------------------------------------------------


def layer_backward(plan: Plan) -> list[MemoryTerm]:
    """Return the tensors in memory when the backward pass of one layer needs the most memory.

    The backward pass needs the tensors that the layer stored in the forward pass, and their
    gradients. With checkpointing, the forward pass stores only the input of the layer, and the
    other tensors are recomputed first. In this case the input is not counted here, because
    `layers_saved` counts the input.
    """
    saved = [*_attention_half(plan), *_mlp_inner(plan)]
    candidates = [
        [*saved, *_mlp_backward(plan)],
        list(_attention_backward(plan)),
    ]
    if plan.settings.gradient_checkpointing:
        candidates.append([*saved, *_mlp_forward(plan)])
    return [*max(candidates, key=total_bytes), *_during_backward(plan)]


def _during_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that exist during the entire backward pass of a layer."""
    settings, t, h = plan.settings, plan.tokens, plan.shape.hidden
    stream = settings.stream_bytes
    size, formula = t * h * stream, f"{t} × {h} × {stream}"
    yield _term(RESIDUAL, size, formula, AUTOGRAD)
    if not settings.gradient_checkpointing:
        return
    if settings.autocast and not settings.trains_weights:
        adapters = plan.adapter_weights
        copies = f"{adapters:,} × 2"
        yield _term("16-bit copies of its adapters", 2 * adapters, copies, AUTOCAST)
    # `layers_saved` counts the layer's input, which checkpointing stores. A LayerNorm uses this
    # tensor itself in its backward pass, not a float32 copy. So does an RMSNorm if the residual
    # stream is float32. In these two cases the terms of the layer count the input a second time, so
    # the input is subtracted here.
    if plan.shape.norm == "layer" or stream == 4:
        yield _term("less: the stored input", -size, formula, "what the first norm saves")


def _mlp_forward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the MLP's recomputation needs in addition to the stored tensors.

    The recomputation needs the most memory when the last of the adapters that read the second
    normalization layer's result has computed its output.
    """
    settings, t, h, wide = plan.settings, plan.tokens, plan.shape.hidden, plan.shape.intermediate
    if plan.adapter_inputs("second norm"):
        each = settings.adapter_bytes
        formula = f"2 × {t} × {wide} × {each}"
        yield _term("B's result, and the same scaled", 2 * t * wide * each, formula, PEFT)
    # Autograd stores float32 copies of the residual stream and of the normalization layer's result.
    # The 16-bit originals of these two tensors need additional memory.
    if settings.stream_bytes == 2:
        yield _term("residual and norm", 4 * t * h, f"2 × {t} × {h} × 2", "RMSNorm")


def _mlp_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the backward pass of the MLP half adds to the stored tensors.

    The backward pass of a layer begins with the MLP half. So all tensors that the layer stored
    still exist, except the input of the last linear layer.
    """
    shape, settings, t = plan.shape, plan.settings, plan.tokens
    wide, v = shape.intermediate, settings.value_bytes
    if settings.trains_weights:
        last = shape.hidden * wide
        yield from _weight_gradients(plan, [last])
        yield from _recast(plan, plan.layer_weights - last)
    product = shape.gated or shape.activation == "gelu_new"
    # The gradient of a product exists at the same time as the gradients of its two factors.
    inner = 3 if product else 2
    formula = f"{inner} × {t} × {wide} × {v}"
    gradients = [_term("gradients in the MLP", inner * t * wide * v, formula, AUTOGRAD)]
    dequantized = list(_dequantized(plan)) if settings.method == "qlora" else []
    yield from max(gradients, dequantized, key=total_bytes)


def _dequantized(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors needed for the gradient of the input of the last linear layer in QLoRA.

    bitsandbytes dequantizes the layer's matrix to compute this gradient. The layer's adapter reads
    the same input and computes a second gradient, which autograd adds to the first.
    """
    settings, t, h, wide = plan.settings, plan.tokens, plan.shape.hidden, plan.shape.intermediate
    narrow, v = DTYPE_BYTES[settings.compute_dtype], settings.value_bytes
    formula = f"{h} × {wide} × {narrow}"
    yield _term("a dequantized weight", h * wide * narrow, formula, "bitsandbytes")
    widths, name = (wide, "gradient of its input") if v == 2 else (wide + h, "gradients around it")
    yield _term(name, t * widths * narrow, f"{t} × {widths} × {narrow}", "bitsandbytes")
    if plan.adapter_inputs("MLP"):
        yield _term("the adapter's gradient", t * wide * v, f"{t} × {wide} × {v}", PEFT)


def _attention_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors of attention's backward pass, after the MLP half's tensors are freed."""
    settings = plan.settings
    if settings.trains_weights:
        sizes = list(plan.sizes.values())
        # The gradients of the weights of q_proj, k_proj and v_proj are computed later.
        first = len(plan.readers["first norm"])
        yield from _weight_gradients(plan, sizes[first:])
        yield from _recast(plan, sum(sizes[:first]))
    if settings.attention == "eager":
        yield from _eager_backward(plan)
        return
    yield from _attention_half(plan)
    t, query, key = plan.tokens, plan.shape.query_width, plan.shape.key_width
    v, name = settings.attention_bytes, "gradients of queries, keys, values, result"
    formula = f"{t} × (2 × {query} + 2 × {key}) × {v}"
    yield _term(name, 2 * t * (query + key) * v, formula, "fused attention")


def _eager_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors in memory during the backward pass of eager attention's softmax.

    The backward pass of the output projection has already finished.
    """
    settings, scores, v = plan.settings, plan.scores, plan.settings.attention_bytes
    yield from _attention_inner(plan)
    pairs = f"{plan.tokens} × {settings.sequence_length} × {plan.shape.heads} heads"
    # The 16-bit scores are freed when the gradient of the values has been computed.
    if v == 2:
        yield _term("less: 16-bit scores", -2 * scores, f"{pairs} × 2", AUTOGRAD)
    fused = settings.device == "cuda" and settings.product_dtype == "float16"
    # On CUDA, the softmax reads and returns float16 directly, and the softmax's backward pass also
    # allocates the product of the gradient and the softmax.
    each = 4 + (2 if v == 2 and fused else 4) + (4 if settings.device == "cuda" else 0)
    yield _term("gradients of scores", scores * each, f"{pairs} × {each}", "eager attention")


def _weight_gradients(plan: Plan, sizes: Iterable[int]) -> Iterator[MemoryTerm]:
    """Yield the gradients of weight matrices of the current layer, given the matrices' sizes."""
    count, each = sum(sizes), plan.settings.precision.gradient
    yield _term("gradients of its weights", count * each, f"{count:,} × {each}", WEIGHTS)


def _recast(plan: Plan, weights: int) -> Iterator[MemoryTerm]:
    """Yield the 16-bit copies of `weights` weights that autocast makes in a recomputation."""
    if plan.settings.autocast and plan.settings.gradient_checkpointing:
        formula = f"{weights:,} × 2"
        yield _term("16-bit copies of its weights", 2 * weights, formula, AUTOCAST)
