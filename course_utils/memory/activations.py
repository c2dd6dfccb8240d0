"""Activations, tensor by tensor: what a forward pass saves, and what its backward pass adds.

One layer of the Llama family, and under it what autograd saves for the backward pass:

    x ── norm ──┬─ q ─ rotary ─┐                     x ── norm ──┬─ gate ─ SiLU ─┐
    │           ├─ k ─ rotary ─┼─ attention ─ o ─ +  │           │               × ─ down ─ +
    │           └─ v ──────────┘                     │           └─ up ──────────┘
    x, 1/rms    input of A     q, k, v, result       x, 1/rms    gate, SiLU, up    input of A
    └────────────── attention half ──────────────┘   └─────────────── MLP half ──────────────┘

Formulas follow the code of transformers 5, peft, bitsandbytes and PyTorch 2; the tests compare them
with the bytes that these save. Method: Korthikanti et al. 2022 (arXiv 2205.05198).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from course_utils.memory.settings import DTYPE_BYTES, RECIPES, Line, Settings
from course_utils.memory.shapes import ModelShape

# Sources that several lines share.
LOSS, WEIGHTS, BACKWARD, PEFT, AUTOCAST = (
    *("cross entropy", "gradients of weights", "autograd", "peft's LoRA layer", "torch.autocast"),
)
RESIDUAL = "gradient of the residual stream"  # all that lives between two layers' backward passes


def saved_lines(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """Every tensor saved for the backward pass of one micro-batch, with its bytes."""
    t, h = run.tokens, shape.hidden
    if run.gradient_checkpointing:
        size = _inputs_of_layers(shape, run, shape.layers)
        formula = f"{shape.layers} layers × {t} tokens × {h} × {run.stream_bytes}"
        yield _line("inputs of layers", size, formula, "Chen et al. 2016")
        if size := saved_mask(shape, run):
            formula = f"{t} × {run.sequence_length} × {run.stream_bytes}"
            yield _line("causal mask", size, formula, "an input of GPT-2's layers")
    else:
        yield from _saved_by_layers(shape, run, shape.layers)
    yield from _norm(shape, run, "last norm")
    if run.trains_weights:
        width = 2 if run.autocast else run.stream_bytes
        yield _line("input of the head", t * h * width, f"{t} × {h} × {width}", WEIGHTS)
        yield _line("token numbers", 8 * t, f"{t} × 8", "backward of the embedding")
    formula = f"{t} tokens × {shape.vocab} words × 4"
    yield _line("softmax of logits", 4 * t * shape.vocab, formula, LOSS)
    yield _line("labels", 8 * t, f"{t} × 8", LOSS)
    if cast := _cast_weights(shape, run):
        yield _line("16-bit copies of weights", 2 * cast, f"{cast:,} × 2", AUTOCAST)


def layers_saved(shape: ModelShape, run: Settings, layers: int) -> int:
    """Bytes saved once so many layers have been through the forward pass."""
    if run.gradient_checkpointing:
        return _inputs_of_layers(shape, run, layers) + saved_mask(shape, run)
    return _sum(_saved_by_layers(shape, run, layers))


def _inputs_of_layers(shape: ModelShape, run: Settings, layers: int) -> int:
    return layers * run.tokens * shape.hidden * run.stream_bytes


def _cast_weights(shape: ModelShape, run: Settings) -> int:
    """Float32 weights that autocast has copied to 16 bits, and whose copies are saved."""
    if not run.autocast:
        return 0
    head = shape.vocab * shape.hidden if run.stream_bytes == 4 else 0
    if run.gradient_checkpointing:
        return head
    if run.trains_weights:
        return head + shape.linear_parameters
    sources = ("first norm", "attention", "second norm", "MLP")
    first = next(filter(None, (_adapted(shape, run, source) for source in sources)))
    # … whose As need no gradient of what they read, in the first layer
    return head + shape.adapter_parameters(run.rank, run.targets) - run.rank * sum(first)


def saved_mask(shape: ModelShape, run: Settings) -> int:
    """Bytes of the mask where checkpointing saves it: as an input that GPT-2's layers are given."""
    return causal_mask(run) if shape.family == "gpt2" and run.attention == "eager" else 0


def causal_mask(run: Settings) -> int:
    """Bytes of the mask that eager attention adds: batch × 1 × tokens × tokens."""
    return run.tokens * run.sequence_length * run.stream_bytes


def _line(what: str, size: int, formula: str, source: str) -> Line:
    return Line("activations", what, size, formula, source)


def _sum(lines: Iterable[Line]) -> int:
    return sum(line.size for line in lines)


def _saved_by_layers(shape: ModelShape, run: Settings, layers: int) -> Iterator[Line]:
    for line in (*_attention_half(shape, run), *_mlp_half(shape, run)):
        yield replace(line, size=layers * line.size, formula=f"{layers} layers × {line.formula}")
    if not run.trains_weights:
        unsaved = _unsaved(shape, run)
        yield _line("less: before the first adapter", -unsaved, "one layer's", "needs no gradient")
    if not shape.positions:
        size = 2 * run.sequence_length * shape.head_dim * run.stream_bytes
        formula = f"2 × {run.sequence_length} tokens × {shape.head_dim} × {run.stream_bytes}"
        yield _line("cos and sin", size, formula, "rotary positions")


# --- what one layer saves -------------------------------------------------------------------------


def _attention_half(shape: ModelShape, run: Settings) -> Iterator[Line]:
    yield from _attention_inner(shape, run)
    yield from _inputs(shape, run, "attention")


def _attention_inner(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """The attention half without the input of its last layer."""
    yield from _norm(shape, run, "first norm")
    yield from _inputs(shape, run, "first norm")
    if shape.qk_norm:
        yield from _qk_norm(shape, run)
    yield from _attention(shape, run)


def _mlp_half(shape: ModelShape, run: Settings) -> Iterator[Line]:
    yield from _mlp_inner(shape, run)
    yield from _inputs(shape, run, "MLP")


def _mlp_inner(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """The MLP half without the input of its last layer."""
    yield from _norm(shape, run, "second norm")
    yield from _inputs(shape, run, "second norm")
    times, what = _activation(shape)
    t, wide, v = run.tokens, shape.intermediate, run.value_bytes
    yield _line(what, times * t * wide * v, f"{times} × {t} × {wide} × {v}", "their derivatives")


def _activation(shape: ModelShape) -> tuple[int, str]:
    """How many tensors of the MLP's width its activation function saves, and which."""
    if shape.gated:
        return 3, f"gate, its {shape.activation} and up"
    return (4, "GELU in four steps") if shape.activation == "gelu_new" else (1, "input of GELU")


def _norm(shape: ModelShape, run: Settings, what: str) -> Iterator[Line]:
    """LayerNorm saves its input. RMSNorm saves a float32 copy, and the result if it is trained."""
    t, h, stream = run.tokens, shape.hidden, run.stream_bytes
    if shape.norm == "layer":
        two = 4 if stream == 2 and run.device == "cpu" else 8  # kept in 16 bits there
        formula = f"{t} × ({h} × {stream} + mean and deviation)"
        yield _line(what, t * (h * stream + two), formula, "LayerNorm")
        return
    each = 4 + (stream if run.trains_weights else 0)
    yield _line(what, t * (h * each + 4), f"{t} × ({h} × {each} + 1/rms)", "RMSNorm")


def _qk_norm(shape: ModelShape, run: Settings) -> Iterator[Line]:
    heads, each = shape.heads + shape.kv_heads, 4 + (run.value_bytes if run.trains_weights else 0)
    size = run.tokens * heads * (shape.head_dim * each + 4)
    formula = f"{run.tokens} × {heads} heads × ({shape.head_dim} × {each} + 1/rms)"
    yield _line("norms of queries and keys", size, formula, "RMSNorm")


def _attention(shape: ModelShape, run: Settings) -> Iterator[Line]:
    t, v = run.tokens, run.attention_bytes
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if run.attention == "sdpa":
        formula = f"{t} × (2 × {query} + 2 × {key}) × {v}"
        size, kernel = 2 * t * (query + key) * v, "fused attention"
        yield _line("queries, keys, values, result", size, formula, kernel)
        yield _line("log-sum-exp", 4 * t * shape.heads, f"4 × {t} × {shape.heads} heads", kernel)
        return
    formula = f"3 × {t} × {query} × {v}"
    yield _line("queries, keys, values", 3 * t * query * v, formula, "eager attention")
    widened = run.stream_bytes == 4 or (run.autocast and run.device == "cuda")
    narrow = shape.family == "gpt2" and not widened  # then its softmax stays in 16 bits
    each = v if v == 4 or narrow else 4 + v  # in float32, and a 16-bit copy
    formula = f"{t} × {run.sequence_length} × {shape.heads} heads × {each}"
    yield _line("attention scores", _scores(shape, run) * each, formula, "eager attention")


def _unsaved(shape: ModelShape, run: Settings) -> int:
    """What the first layer doesn't save: nothing needs a gradient before its first adapter."""
    unsaved = _sum(_norm(shape, run, "first norm")) + _unsaved_attention(shape, run)
    targets = shape.target_layers(run.targets)
    if shape.qk_norm:
        q, k = (name not in targets for name in ("q_proj", "k_proj"))
        heads = shape.heads * q + shape.kv_heads * k
        unsaved += run.tokens * heads * (4 * shape.head_dim + 4)
    if _adapted(shape, run, "first norm") or _adapted(shape, run, "attention"):
        return unsaved
    one = run.tokens * shape.intermediate * run.value_bytes
    trained = [name in targets for name in _readers(shape, "second norm")]
    if shape.gated:  # a product saves each factor for the other's gradient
        gate, up = trained
        count = 2 * (not gate) + (not up)
    else:
        count = 0 if all(trained) else _activation(shape)[0]
    return unsaved + _sum(_norm(shape, run, "second norm")) + count * one


def _unsaved_attention(shape: ModelShape, run: Settings) -> int:
    """What the first layer's attention doesn't save, since some of its inputs need no gradient."""
    targets = shape.target_layers(run.targets)
    trained = [name in targets for name in _readers(shape, "first norm")]
    if not any(trained):
        return _sum(_attention(shape, run))
    if run.attention == "sdpa" or all(trained):
        return 0
    q, k, v = trained  # each product of two saves one factor for the other's gradient
    copy = run.tokens * shape.heads * shape.head_dim * run.attention_bytes
    unsaved = copy * ((not q) + (not k) + (not q and not k))
    if run.attention_bytes == 4:
        return unsaved
    scores = 2 * (not v) + 4 * (not q and not k)  # 16-bit copy, float32 softmax
    return unsaved + scores * _scores(shape, run)


def _scores(shape: ModelShape, run: Settings) -> int:
    return run.tokens * run.sequence_length * shape.heads


def _readers(shape: ModelShape, source: str) -> tuple[str, ...]:
    """The linear layers that read this tensor: q, k and v all read the first norm."""
    names = tuple(shape.linear_layers())
    first = 1 if shape.family == "gpt2" else 3
    return {
        "first norm": names[:first],
        "attention": names[first : first + 1],
        "second norm": names[first + 1 : -1],
        "MLP": names[-1:],
    }[source]


def _adapted(shape: ModelShape, run: Settings, source: str) -> list[int]:
    """Widths of the inputs of those readers that have an adapter."""
    targets = {} if run.trains_weights else shape.target_layers(run.targets)
    return [targets[name][0] for name in _readers(shape, source) if name in targets]


def _inputs(shape: ModelShape, run: Settings, source: str) -> Iterator[Line]:
    """Inputs of linear layers, for the gradients of their weights, or of the adapters' A and B."""
    if run.trains_weights:
        yield from _weight_inputs(shape, run, source)
        return
    adapted = _adapted(shape, run, source)
    if not adapted:
        return
    t, each = run.tokens, run.adapter_bytes
    there = run.attention_bytes if source == "attention" else run.value_bytes
    widths = adapted  # every A reads a copy of its own, in its format …
    if there == each and run.reads_as_is:  # … or what is there, which sdpa has saved
        widths = [] if (source, run.attention) == ("attention", "sdpa") else adapted[:1]
    formula = f"{t} × {sum(widths)} × {each}"
    yield _line(f"inputs of A from {source}", t * sum(widths) * each, formula, PEFT)
    formula = f"{t} × rank {run.rank} × {len(adapted)} × {each}"
    yield _line(f"inputs of B from {source}", t * run.rank * len(adapted) * each, formula, PEFT)


def _weight_inputs(shape: ModelShape, run: Settings, source: str) -> Iterator[Line]:
    t, names = run.tokens, _readers(shape, source)
    if source == "attention" and run.attention == "sdpa":
        return  # saved with queries, keys and values
    width, each, copies = shape.linear_layers()[names[0]][0], run.value_bytes, 1
    if source.endswith("norm"):  # under autocast each reader casts it anew
        each, copies = (2, len(names)) if run.autocast else (run.stream_bytes, 1)
    formula = f"{copies} × {t} × {width} × {each}"
    yield _line(f"input from {source}", copies * t * width * each, formula, WEIGHTS)


# --- the backward pass of one layer ---------------------------------------------------------------


def layer_backward(shape: ModelShape, run: Settings) -> list[Line]:
    """One layer at the widest point of its backward pass: what it saved, and gradients, in bytes.

    With checkpointing the layer is first recomputed; its stored input is not counted here.
    """
    moments = [list(_mlp_backward(shape, run)), list(_attention_backward(shape, run))]
    if run.gradient_checkpointing:
        moments.append(list(_mlp_forward(shape, run)))
    size = run.tokens * shape.hidden * run.stream_bytes
    formula = f"{run.tokens} × {shape.hidden} × {run.stream_bytes}"
    lines = [_line(RESIDUAL, size, formula, BACKWARD)]
    if run.gradient_checkpointing and run.autocast and not run.trains_weights:
        adapters = shape.adapter_parameters(run.rank, run.targets) // shape.layers
        formula = f"{adapters:,} × 2"
        lines.append(_line("16-bit copies of its adapters", 2 * adapters, formula, AUTOCAST))
    saves_itself = shape.norm == "layer" or run.stream_bytes == 4  # else a float32 copy
    if run.gradient_checkpointing and saves_itself:
        lines.append(_line("less: the stored input", -size, formula, "what the first norm saves"))
    return [*max(moments, key=_sum), *lines]


def layer_saved(shape: ModelShape, run: Settings) -> int:
    """Bytes that one layer saves for its backward pass."""
    return _sum(_attention_half(shape, run)) + _sum(_mlp_half(shape, run))


def _mlp_forward(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """In the recomputation, when the last A and B before the MLP's product have been multiplied."""
    t, h, wide = run.tokens, shape.hidden, shape.intermediate
    yield from _attention_half(shape, run)
    yield from _mlp_inner(shape, run)
    if _adapted(shape, run, "second norm"):
        size, formula = 2 * t * wide * run.adapter_bytes, f"2 × {t} × {wide} × {run.adapter_bytes}"
        yield _line("B's result, and the same scaled", size, formula, PEFT)
    if run.stream_bytes == 2:  # autograd saves a float32 copy of them
        yield _line("residual and norm", 4 * t * h, f"2 × {t} × {h} × 2", "RMSNorm")


def _mlp_backward(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """The MLP's turn comes first: all that the layer saved is there, but the last input."""
    yield from _attention_half(shape, run)
    yield from _mlp_inner(shape, run)
    t, h, wide, v = run.tokens, shape.hidden, shape.intermediate, run.value_bytes
    product = shape.gated or shape.activation == "gelu_new"
    inner = 3 if product else 2  # the gradient of a product beside those of its factors
    formula = f"{inner} × {t} × {wide} × {v}"
    gradients = [_line("gradients in the MLP", inner * t * wide * v, formula, BACKWARD)]
    if run.trains_weights:
        yield from _weight_gradients(run, [h * wide])
        yield from _recast(run, shape.linear_parameters // shape.layers - h * wide)
    dequantized = list(_dequantized(shape, run)) if run.method == "qlora" else []
    yield from max(gradients, dequantized, key=_sum)


def _dequantized(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """The last matrix is dequantized for the gradient of its input, which joins the adapter's."""
    t, h, wide, v = run.tokens, shape.hidden, shape.intermediate, run.value_bytes
    narrow = DTYPE_BYTES[run.compute_dtype]
    formula = f"{h} × {wide} × {narrow}"
    yield _line("a dequantized weight", h * wide * narrow, formula, "bitsandbytes")
    widths, what = (wide, "gradient of its input") if v == 2 else (wide + h, "gradients around it")
    yield _line(what, t * widths * narrow, f"{t} × {widths} × {narrow}", "bitsandbytes")
    if _adapted(shape, run, "MLP"):
        yield _line("the adapter's gradient", t * wide * v, f"{t} × {wide} × {v}", PEFT)


def _attention_backward(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """Attention's turn: the MLP half is gone."""
    t, v, scores = run.tokens, run.attention_bytes, _scores(shape, run)
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if run.trains_weights:
        sizes = [i * o for i, o in shape.linear_layers().values()]
        first = len(_readers(shape, "first norm"))  # queries, keys and values are yet to come
        yield from _weight_gradients(run, sizes[first:])
        yield from _recast(run, sum(sizes[:first]))
    if run.attention == "sdpa":
        yield from _attention_half(shape, run)
        formula = f"{t} × (2 × {query} + 2 × {key}) × {v}"
        what = "gradients of queries, keys, values, result"
        yield _line(what, 2 * t * (query + key) * v, formula, "fused attention")
        return
    yield from _attention_inner(shape, run)  # the output projection is done
    pairs = f"{t} × {run.sequence_length} × {shape.heads} heads"
    if v == 2:  # v has made room for its gradient
        yield _line("less: 16-bit scores", -2 * scores, f"{pairs} × 2", BACKWARD)
    fused = run.device == "cuda" and run.product_dtype == "float16"
    each = 4 + (2 if v == 2 and fused else 4)  # CUDA's softmax takes float16 in and out, and its
    each += 4 if run.device == "cuda" else 0  # backward makes gradient × softmax
    yield _line("gradients of scores", scores * each, f"{pairs} × {each}", "eager attention")


def _weight_gradients(run: Settings, sizes: list[int]) -> Iterator[Line]:
    """Gradients of these matrices of the layer at work."""
    each = RECIPES[run.recipe].gradient
    formula = f"{sum(sizes):,} × {each}"
    yield _line("gradients of its weights", sum(sizes) * each, formula, WEIGHTS)


def _recast(run: Settings, weights: int) -> Iterator[Line]:
    """16-bit copies that autocast makes of these weights in a recomputation."""
    if run.autocast and run.gradient_checkpointing:
        formula = f"{weights:,} × 2"
        yield _line("16-bit copies of its weights", 2 * weights, formula, AUTOCAST)
