"""Compute the bytes of activations, tensor by tensor, in the forward and the backward pass.

One layer of the Llama family with LoRA, and below it what autograd stores for the backward pass:

    x ── norm ──┬─ q ─ rotary ─┐                     x ── norm ──┬─ gate ─ SiLU ─┐
    │           ├─ k ─ rotary ─┼─ attention ─ o ─ +  │           │               × ─ down ─ +
    │           └─ v ──────────┘                     │           └─ up ──────────┘
    x, 1/rms    input of A     q, k, v, result       x, 1/rms    gate, SiLU, up    input of A
    └────────────── attention half ──────────────┘   └─────────────── MLP half ──────────────┘

Gemma 3 normalizes the results of `o` and `down`, too. In the formulas, t is the number of tokens in
one micro-batch, h the width of the residual stream, `wide` that of the MLP, and v the bytes of one
stored number.

The formulas follow the code of transformers 5, peft, bitsandbytes and PyTorch 2, and the tests
compare them with what these libraries store. Korthikanti et al. 2022 (arXiv 2205.05198) count
activations in this way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial

from course_utils.memory.plan import AFTER_ATTENTION, MLP_LAYERS, READERS, Plan
from course_utils.memory.settings import DTYPE_BYTES, Settings
from course_utils.memory.terms import MemoryTerm, added, of, product, total_bytes

# The sources that several terms cite for their formulas.
WEIGHTS, AUTOGRAD = "gradients of weights", "autograd"
PEFT, AUTOCAST, NO_GRADIENT = "peft's LoRA layer", "torch.autocast", "needs no gradient"
FUSED, EAGER, BITSANDBYTES = "fused attention", "eager attention", "bitsandbytes"

_term = partial(product, "activations")


def saved_terms(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield a term for each kind of tensor that the layers store for the backward pass."""
    if plan.settings.gradient_checkpointing:
        yield from _kept_by_layers(plan, plan.shape.layers)
    else:
        yield from _saved_by_layers(plan, plan.shape.layers, plan.shape.layers)
    if cast := saved_copies(plan, plan.shape.layers):
        yield _term("16-bit copies of weights", AUTOCAST, cast, 2)


def layers_saved(plan: Plan, layers: int, rotated: int = 0) -> int:
    """Return the bytes that the first `layers` layers store for the backward pass.

    The cosines and sines that rotate queries and keys are counted for the first `rotated` layers,
    if `rotated` is larger than `layers`.
    """
    if plan.settings.gradient_checkpointing:
        return total_bytes(_kept_by_layers(plan, layers))
    terms = _saved_by_layers(plan, layers, max(layers, rotated))
    return total_bytes(terms) + 2 * saved_copies(plan, layers)


def causal_mask(plan: Plan, layers: int) -> MemoryTerm:
    """Return the term of the masks that eager attention needs in the lowest `layers` layers.

    Layers with a sliding window have another mask than the other layers.
    """
    s, kinds = plan.settings.sequence_length, plan.shape.attention_kinds(layers)
    factors = kinds, plan.settings.batch_size, s, s, plan.settings.stream_bytes
    return product("transient", "causal mask", EAGER, *factors)


def cos_and_sin(plan: Plan, part: str, layers: int) -> MemoryTerm:
    """Return the term of the tables by which the lowest `layers` layers rotate queries and keys."""
    tables, s = 2 * plan.shape.rotations(layers), of(plan.settings.sequence_length, "tokens")
    factors = tables, s, plan.shape.head_dim, plan.settings.stream_bytes
    return product(part, "cos and sin", "rotary positions", *factors)


def _kept_by_layers(plan: Plan, layers: int) -> Iterator[MemoryTerm]:
    """Yield the terms of what the first `layers` layers store in spite of checkpointing."""
    count, tokens = of(layers, "layers"), of(plan.tokens, "tokens")
    sizes = tokens, plan.shape.hidden, plan.settings.stream_bytes
    yield _term("inputs of layers", "Chen et al. 2016", count, *sizes)
    if plan.settings.keeps_products:
        names = (*READERS["first norm"], *READERS["second norm"])
        width = of(sum(plan.layers[name][1] for name in names), "numbers")
        each = DTYPE_BYTES[plan.settings.compute_dtype]
        yield _term(
            "results of q, k, v, gate and up", "training.by_hand", count, tokens, width, each
        )


def _saved_by_layers(plan: Plan, layers: int, rotated: int) -> Iterator[MemoryTerm]:
    for term in (*_attention_half(plan), *_mlp_half(plan)):
        yield replace(term, size=layers * term.size, formula=f"{layers} layers × {term.formula}")
    if layers and not plan.settings.trains_weights:
        yield -_term("before the first adapter", NO_GRADIENT, (_unsaved(plan), "in one layer"))
    yield cos_and_sin(plan, "activations", rotated)


def saved_copies(plan: Plan, layers: int) -> int:
    """Return the number of 16-bit copies of weights that autograd stores in the first layers."""
    if plan.settings.gradient_checkpointing or not layers:
        return 0
    return layers * converted_weights(plan) - _unsaved_copies(plan)


def freed_copies(plan: Plan) -> int:
    """Return the number of weights whose 16-bit copies exist only during the forward pass."""
    shape, checkpointing = plan.shape, plan.settings.gradient_checkpointing
    if not plan.settings.autocast:
        return 0
    if not plan.settings.trains_weights:
        return shape.layers * _cast_adapters(plan) if checkpointing else _first_matrices(plan)
    # Without checkpointing, autograd stores the copies of the matrices, but not of the biases.
    matrices = plan.layer_weights if checkpointing else 0
    return shape.layers * (matrices + shape.bias_parameters)


def converted_weights(plan: Plan) -> int:
    """Return the number of weights in one layer that autocast converts to 16 bits.

    Autocast converts the trained weights, and the weights that peft's upcast has converted to
    float32.
    """
    if plan.settings.trains_weights:
        return plan.layer_weights if plan.settings.autocast else 0
    return _cast_adapters(plan) + sum(_widened_weights(plan).values())


def _widened_weights(plan: Plan) -> dict[str, int]:
    """Return the layers that peft's upcast converted to float32: name → number of weights."""
    settings = plan.settings
    if not (settings.method == "qlora" and settings.upcast and settings.autocast):
        return {}
    return {name: n for name, n in plan.sizes.items() if name not in plan.quantized}


def _cast_adapters(plan: Plan) -> int:
    """Return the number of one layer's adapter weights that autocast converts to 16 bits."""
    converts = plan.settings.autocast and plan.settings.precision.weight == 4
    return plan.adapter_weights if converts else 0


def _unsaved_copies(plan: Plan) -> int:
    """Return the number of the first layer's weights of which autograd stores no 16-bit copy.

    Autograd stores such a copy to compute the gradient of the input that the weights multiply. But
    before the model's first adapter, no input needs a gradient.
    """
    if plan.settings.trains_weights:
        return 0
    count, widened = _first_matrices(plan), _widened_weights(plan)
    for source, names in READERS.items():
        count += sum(widened.get(name, 0) for name in names)
        if plan.adapter_inputs(source):
            break
    return count


def _first_matrices(plan: Plan) -> int:
    """Return the number of weights in the matrices A of the first adapters in the model."""
    if not _cast_adapters(plan):
        return 0
    return plan.settings.rank * sum(next(filter(None, map(plan.adapter_inputs, READERS))))


# --- what one layer stores for its backward pass --------------------------------------------------


def _attention_half(plan: Plan) -> list[MemoryTerm]:
    post_norm = [norm(plan, "norm of attention's result")] if plan.shape.gemma else []
    return [*_attention_inner(plan), *_inputs(plan, "attention"), *post_norm]


def _attention_inner(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the attention half stores, except the output projection's input."""
    yield norm(plan, "first norm")
    yield from _inputs(plan, "first norm")
    if plan.shape.qk_norm:
        yield from _qk_norm(plan)
    yield from _attention(plan)


def _mlp_half(plan: Plan) -> list[MemoryTerm]:
    post_norm = [norm(plan, "norm of the MLP's result")] if plan.shape.gemma else []
    return [*_mlp_inner(plan), *_inputs(plan, "MLP"), *post_norm]


def _mlp_inner(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the MLP half stores, except the input of the last linear layer."""
    yield norm(plan, "second norm")
    yield from _inputs(plan, "second norm")
    t, wide = plan.tokens, plan.shape.intermediate
    gate, up = _result_bytes(plan)
    each = added(gate, gate, up)
    yield _term("gate, its activation and up", "their derivatives", t, wide, each)


def _result_bytes(plan: Plan) -> tuple[int, int]:
    """Return how many bytes each number has in the result of gate_proj, and in that of up_proj.

    Under autocast, a layer computes in 16 bits, even if peft's upcast has converted its weights to
    float32.
    """
    widened, v = _widened_weights(plan), plan.settings.value_bytes
    gate, up = (2 if name in widened else v for name in READERS["second norm"])
    return gate, up


def norm(plan: Plan, name: str) -> MemoryTerm:
    """Return the term for the tensors that a normalization layer stores for its backward pass."""
    found = _rms_norm(plan, plan.tokens, plan.shape.hidden, plan.settings.stream_bytes)
    return _term(name, "RMSNorm", found)


def norm_backward(plan: Plan, last: bool = False) -> MemoryTerm:
    """Return the term for a normalization layer's input and the gradients in its backward pass.

    RMSNorm multiplies x by 1/rms, and 1/rms also depends on x. So the gradient of x has two parts:
    one through the product, one through 1/rms. The second part needs three more tensors: x, 2x, and
    2x times the gradient. Autograd adds both parts to the gradient of the residual stream, which
    exists already. If this gradient is float32, autograd adds the first part as soon as the part is
    computed. In the last norm, this gradient doesn't exist yet.
    """
    count = 6 if last or plan.settings.stream_bytes == 2 else 5
    sizes = count, plan.tokens, plan.shape.hidden, 4
    return _term("a norm's input and gradients", "RMSNorm", *sizes)


def _rms_norm(plan: Plan, vectors: int, width: int, narrow: int) -> tuple[int, str]:
    """Return the bytes that RMSNorm stores for a number of vectors, and their formula.

    RMSNorm stores a float32 copy of its input, and 1/rms of each vector, where rms is the root mean
    square. If the weight of RMSNorm is trained, RMSNorm also stores the normalized input, each
    number of which has `narrow` bytes. Gemma's RMSNorm stores float32 numbers here, and the scale
    that it computes from the weight.
    """
    gemma = plan.shape.gemma
    each = 4 + ((4 if gemma else narrow) if plan.settings.trains_weights else 0)
    formula = f"{vectors:,} × ({width:,} × {each} + 4 for 1/rms)"
    size = vectors * (width * each + 4)
    if gemma:
        return size + 4 * width, f"{formula} + {width:,} × 4 for 1 + weight"
    return size, formula


def _qk_norm(plan: Plan) -> Iterator[MemoryTerm]:
    shape, each = plan.shape, plan.settings.value_bytes
    for name, heads in (("queries", shape.heads), ("keys", shape.kv_heads)):
        found = _rms_norm(plan, plan.tokens * heads, shape.head_dim, each)
        yield _term(f"norm of {name}", "RMSNorm", found)


def _attention(plan: Plan) -> Iterator[MemoryTerm]:
    shape, settings, t = plan.shape, plan.settings, plan.tokens
    query, key, v = shape.query_width, shape.key_width, settings.attention_bytes
    heads = of(shape.heads, "heads")
    if settings.attention == "sdpa":
        widths = added(query, key, key, query)
        yield _term("queries, keys, values, result", FUSED, t, widths, v)
        yield _term("log-sum-exp", FUSED, 4, t, heads)
        return
    yield _term("queries, keys, values", EAGER, t, added(query, *_key_and_value_width(plan)), v)
    # In 16 bits, the float32 softmax and a 16-bit copy of it are stored.
    each = v if v == 4 else 4 + v
    yield _term("attention scores", EAGER, t, settings.sequence_length, heads, each)


def _key_and_value_width(plan: Plan) -> tuple[int, int]:
    """Return the widths of the keys and of the values that eager attention stores.

    Eager attention copies keys and values for each of the heads that share them. There is no copy
    if the batch is a single sequence and all heads share the same keys and values. But even then,
    autocast copies float32 keys or values to 16 bits.
    """
    settings, query = plan.settings, plan.shape.query_width
    key = plan.shape.key_width if plan.shape.kv_heads == settings.batch_size == 1 else query
    v = settings.attention_bytes
    return key if settings.stream_bytes == v else query, key if settings.value_bytes == v else query


def _reads_result(plan: Plan, source: str) -> bool:
    """Return whether fused attention has stored the tensor that the layers after `source` read."""
    return source == "attention" and plan.settings.attention == "sdpa"


def _reads_original(settings: Settings, each: int) -> bool:
    """Return whether A reads an input with `each` bytes per number without copying it first."""
    return each == settings.adapter_bytes and not settings.adapters_copy_input


def _inputs(plan: Plan, source: str) -> Iterator[MemoryTerm]:
    """Yield the inputs that autograd stores for the linear layers that read `source`."""
    if plan.settings.trains_weights:
        yield from _weight_inputs(plan, source)
    elif widths := plan.adapter_inputs(source):
        yield from _adapter_inputs(plan, source, widths)


def _weight_inputs(plan: Plan, source: str) -> Iterator[MemoryTerm]:
    settings, t, names = plan.settings, plan.tokens, READERS[source]
    if _reads_result(plan, source):
        return
    width, each, copies = plan.layers[names[0]][0], settings.value_bytes, 1
    # Under autocast, each linear layer makes a separate 16-bit copy of a normalized input.
    if source.endswith("norm"):
        each, copies = (2, len(names)) if settings.autocast else (settings.stream_bytes, 1)
    yield _term(f"input from {source}", WEIGHTS, copies, t, width, each)


def _adapter_inputs(plan: Plan, source: str, widths: list[int]) -> Iterator[MemoryTerm]:
    """Yield the inputs of A and B that autograd stores for the adapters that read `source`.

    Each matrix A reads a separate copy of the input, in A's number format. If the input already has
    this format, all matrices A read the same tensor, unless `adapters_copy_input` is true.
    """
    settings, t, pairs = plan.settings, plan.tokens, len(widths)
    each = settings.adapter_bytes
    stored = settings.attention_bytes if source == "attention" else settings.value_bytes
    if _reads_original(settings, stored):
        widths = [] if _reads_result(plan, source) else widths[:1]
    yield _term(f"inputs of A from {source}", PEFT, t, sum(widths), each)
    yield _term(f"inputs of B from {source}", PEFT, t, settings.rank, pairs, each)


# --- what the first layer does not store ----------------------------------------------------------


def _unsaved(plan: Plan) -> int:
    """Return the bytes of the tensors that later layers store, but the first layer doesn't.

    No tensor before the first adapter of the model needs a gradient.
    """
    shape, t = plan.shape, plan.tokens
    unsaved = norm(plan, "first norm").size + _unsaved_attention(plan)
    if shape.qk_norm:
        norms = zip(("q_proj", "k_proj"), _qk_norm(plan), strict=True)
        unsaved += sum(term.size for name, term in norms if name not in plan.adapted)
    if plan.adapter_inputs("first norm") or plan.adapter_inputs("attention"):
        return unsaved
    if shape.gemma:
        unsaved += norm(plan, "norm of attention's result").size
    # Autograd stores a factor of a product only if the other factor needs a gradient.
    gate, up = _result_bytes(plan)
    each = (gate + up) * ("gate_proj" not in plan.adapted) + gate * ("up_proj" not in plan.adapted)
    return unsaved + norm(plan, "second norm").size + each * t * shape.intermediate


def _unsaved_attention(plan: Plan) -> int:
    """Return the bytes that attention doesn't store because some inputs need no gradient."""
    shape, settings = plan.shape, plan.settings
    trained = [name in plan.adapted for name in READERS["first norm"]]
    if not any(trained):
        unsaved, v = total_bytes(_attention(plan)), settings.attention_bytes
        # Autograd stores the result of fused attention if the output projection's adapter reads it.
        if settings.attention == "sdpa" and "o_proj" in plan.adapted:
            kept = _reads_original(settings, v)
            unsaved -= plan.tokens * shape.query_width * v * kept
        return unsaved
    if settings.attention == "sdpa" or all(trained):
        return 0
    # Autograd stores a factor of a matrix product only if the other factor needs a gradient.
    q, k, v = trained
    keys, values = _key_and_value_width(plan)
    widths = keys * (not q) + shape.query_width * (not k) + values * (not q and not k)
    unsaved = plan.tokens * widths * settings.attention_bytes
    if settings.attention_bytes == 4:
        return unsaved
    # Each attention score has 2 B in the 16-bit copy and 4 B in the float32 softmax.
    scores = 2 * (not v) + 4 * (not q and not k)
    return unsaved + scores * plan.scores


# --- the backward pass of one layer ---------------------------------------------------------------


def layer_backward(plan: Plan, first: bool = False) -> list[MemoryTerm]:
    """Return the tensors in memory when the backward pass of one layer needs the most memory.

    It needs the tensors that the layer stored, and their gradients. With checkpointing, the tensors
    are recomputed first, and the layer's input is counted by `layers_saved` instead.
    """
    attention, mlp = _attention_half(plan), list(_mlp_inner(plan))
    candidates = [
        [*attention, *mlp, *_mlp_backward(plan)],
        [*attention, *_second_norm_backward(plan)],
        list(_attention_backward(plan)),
    ]
    if _last_before_recomputation(plan):
        candidates.append(list(_last_dequantized(plan)))
    if plan.settings.trains_weights:
        candidates.append([*attention, *_last_in_half(plan, "second norm")])
        ends = list(_last_in_half(plan, "first norm")), list(_first_norm_backward(plan))
        # In the first layer, nothing needs the cosines and sines any more.
        freed = first and not plan.settings.gradient_checkpointing
        tables = [-cos_and_sin(plan, "activations", 1)] if freed else []
        candidates += [[*end, *tables] for end in ends]
    elif not first:
        candidates.append(list(_first_norm_backward(plan)))
    if "up_proj" in plan.quantized:
        candidates.append([*attention, *mlp, *_up_dequantized(plan)])
    if "gate_proj" in plan.quantized:
        candidates.append([*attention, *_gate_dequantized(plan)])
    if plan.shape.gemma:
        candidates.append([*attention, *_mlp_half(plan), *_post_norm_backward(plan)])
    if plan.settings.gradient_checkpointing:
        candidates.append([*attention, *mlp, *_mlp_forward(plan)])
    unsaved = _unsaved_in_first(plan) if first else ()
    return [*max(candidates, key=total_bytes), *_during_backward(plan), *unsaved]


def layer_forward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the last layer's forward pass needs, but doesn't store.

    This function supports only the training of adapters without gradient checkpointing.
    """
    settings, layers = plan.settings, plan.shape.layers
    yield from _mlp_forward(plan)
    later = total_bytes(_mlp_half(plan)) - total_bytes(_mlp_inner(plan))
    yield -_term("not stored yet", PEFT, (later, "inputs of the MLP's last adapter"))
    # The embeddings, and a 16-bit input of the layer, which autograd stores as a float32 copy.
    count = 2 if settings.stream_bytes == 2 and layers > 1 else 1
    sizes = count, plan.tokens, plan.shape.hidden, settings.stream_bytes
    yield _term("embeddings and input", "transformers' loop", *sizes)
    # The model and its caller keep the numbers of the positions, and the places of the answers.
    answers = settings.loss_tokens // settings.batch_size if settings.loss == "answers" else 0
    ids = settings.sequence_length + answers
    yield _term("position ids and places", "transformers' loop", ids, 8)
    if settings.attention == "eager":
        yield causal_mask(plan, layers)


def _unsaved_in_first(plan: Plan) -> Iterator[MemoryTerm]:
    """Without checkpointing, yield a negative term: the first layer stores less than the others."""
    if not plan.settings.gradient_checkpointing and not plan.settings.trains_weights:
        size = _unsaved(plan) + 2 * _unsaved_copies(plan)
        yield -_term("before the first adapter", NO_GRADIENT, (size, "in one layer"))


def residual_gradient(plan: Plan) -> MemoryTerm:
    """Return the term for the gradient of the residual stream.

    No other gradient of an activation exists between the backward passes of two layers.
    """
    sizes = plan.tokens, plan.shape.hidden, plan.settings.stream_bytes
    return _term("gradient of the residual stream", AUTOGRAD, *sizes)


def _during_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that exist during the entire backward pass of a layer."""
    settings = plan.settings
    yield residual_gradient(plan)
    if not settings.trains_weights:
        yield from _recast(plan, converted_weights(plan))
    if not settings.gradient_checkpointing:
        return
    # `layers_saved` counts the layer's input, which checkpointing stores. If the residual stream is
    # float32, an RMSNorm uses this tensor itself in its backward pass, not a float32 copy. So the
    # terms of the layer count the input a second time, and the input is subtracted here.
    if settings.stream_bytes == 4:
        sizes = plan.tokens, plan.shape.hidden, 4
        yield -_term("the stored input", "what the first norm saves", *sizes)


def _mlp_forward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield what the MLP's forward pass or its recomputation needs besides the stored tensors.

    It needs the most memory when an adapter of the MLP computes its output, or when the input of
    the MLP's last adapter is converted.
    """
    settings, t, h = plan.settings, plan.tokens, plan.shape.hidden
    yield from max(list(_adapter_result(plan)), list(_converted_input(plan)), key=total_bytes)
    if settings.gradient_checkpointing:
        yield from _gradient_before(plan)
    # Autograd stores a float32 copy of a 16-bit residual stream, and the adapters that read the
    # normalization layer's result may store converted copies. Then the originals need memory, too.
    each = settings.stream_bytes
    stored = _reads_original(settings, each) and bool(plan.adapter_inputs("second norm"))
    count = (1 if each == 4 else 2) - stored
    yield _term("residual, norm", "RMSNorm", count, t, h, each)


def _gradient_before(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the gradients that are computed before autograd needs a tensor that the layer stores.

    Autograd recomputes the layer when it needs the first of these tensors.
    """
    settings, t, width, each = plan.settings, plan.tokens, plan.shape.hidden, 0
    if plan.shape.gemma:
        # Gemma's RMSNorm converts its float32 result to the format of the residual stream.
        each = 4 if settings.stream_bytes == 2 else 0
    elif "down_proj" in plan.adapted:
        each = settings.adapter_bytes
        # Without 4-bit weights, peft adds the results of base and adapter in float32.
        if settings.method == "lora" and each > settings.value_bytes:
            each += settings.value_bytes
    elif _last_before_recomputation(plan):
        width, each = plan.shape.intermediate, settings.value_bytes
    if each:
        yield _term("first gradients", AUTOGRAD, t, width, each)


def _last_before_recomputation(plan: Plan) -> bool:
    """Return whether down_proj's backward pass runs before the transformer layer is recomputed.

    bitsandbytes, not autograd, stores the weights for the backward pass. So without an adapter, the
    gradient of this linear layer's input needs no tensor that autograd stored.
    """
    first_needed = plan.shape.gemma or "down_proj" in plan.adapted
    recomputes = plan.settings.gradient_checkpointing and not first_needed
    return recomputes and "down_proj" in plan.quantized


def _adapter_result(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the results of the last adapter that reads the second normalization layer's result.

    At first, B's result and the scaled result are in memory. Then the scaled result is converted to
    the format of the base layer's result, and the two are added.
    """
    settings, t, wide = plan.settings, plan.tokens, plan.shape.intermediate
    adapted = [name for name in READERS["second norm"] if name in plan.adapted]
    if not adapted:
        return
    name, narrow, v = adapted[-1], settings.adapter_bytes, settings.value_bytes
    # peft's 4-bit layers convert the scaled result to the base's format, except under autocast.
    converts = settings.method == "qlora" and not settings.autocast
    second = v if converts or settings.adapters_copy_input else narrow
    each = max(2 * narrow, v + second)
    yield _term("results of B", PEFT, t, wide, each)
    if settings.adapters_copy_input and v == 2:
        yield _term("float32 copy of A's input", PEFT, t, plan.shape.hidden, 4)
    # The terms of the MLP also count what is computed after the gate: its activation and up.
    if name == "gate_proj":
        yield -_term("not computed yet", "the MLP's order", t, wide, sum(_result_bytes(plan)))


def _converted_input(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors in memory when the input of the MLP's last adapter has been converted.

    peft converts the input, the product of the MLP, to A's float32, and autocast converts this copy
    back to 16 bits.
    """
    settings, t = plan.settings, plan.tokens
    h, wide, v = plan.shape.hidden, plan.shape.intermediate, settings.value_bytes
    if "down_proj" not in plan.adapted:
        return
    each, copies = v, settings.adapters_copy_input
    if v == 2 and settings.precision.weight == 4 and (copies or not settings.autocast):
        each += 4
    if (v == 4 and settings.adapter_bytes == 2) or (settings.autocast and copies):
        each += 2
    yield _term("the MLP's product and copies", PEFT, t, wide, each)
    yield _term("input of B from MLP", PEFT, t, settings.rank, settings.adapter_bytes)
    # Base and adapter each compute a result, and the adapter's is scaled and converted. But a
    # recomputation ends with the last tensor that autograd stores, which comes earlier, except if
    # the MLP's result is normalized.
    ends = settings.gradient_checkpointing and not plan.shape.gemma
    each = v if ends else v + 2 * max(v, settings.adapter_bytes)
    yield _term("results of the last layer", PEFT, t, h, each)


def _mlp_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the backward pass of the MLP half adds to the stored tensors.

    It is the first half, so all tensors that the layer stored still exist, except the input of the
    last linear layer.
    """
    shape, settings, t = plan.shape, plan.settings, plan.tokens
    h, wide, v = shape.hidden, shape.intermediate, settings.value_bytes
    result = _term("gradient of the result", AUTOGRAD, t, h, v)
    # The gradient of a product exists at the same time as the gradients of its two factors, and the
    # sum of the gradients from base and adapter at the same time as these two gradients.
    candidates = [[_term("gradients in the MLP", AUTOGRAD, 3, t, wide, v)]]
    if settings.trains_weights:
        last, bias = plan.sizes["down_proj"], h * ("down_proj" in shape.biases)
        candidates[0] += _weight_gradients(plan, last + bias)
        # A recomputed input is freed before the gradient of the biases is computed.
        stored = 0 if settings.gradient_checkpointing else bias
        candidates.append(list(_last_gradients(plan, last, stored)))
        if settings.autocast:
            candidates.append(
                [
                    _term("gradients of its weights", AUTOCAST, last, added(2, 4)),
                    _term("gradient of its input", AUTOGRAD, t, wide, v),
                ]
            )
        elif shape.gemma:
            candidates[1].append(result)
        yield from _recast(plan, plan.layer_weights - last)
        if shape.gemma:  # The norm of the MLP's result comes first.
            yield from _weight_gradients(plan, shape.hidden)
    else:
        yield from _finished_adapters(plan, ["down_proj"])
    if not _last_before_recomputation(plan):
        candidates.append(list(_dequantized(plan, "down_proj", "down_proj" in plan.adapted)))
        if shape.gemma and v == 2 and candidates[-1]:  # The last norm has computed this gradient.
            candidates[-1].append(result)
    if "down_proj" in plan.adapted and not settings.autocast and settings.adapter_bytes > v:
        candidates.append(list(_last_adapter(plan)))
    yield from max(candidates, key=total_bytes)


def _last_gradients(plan: Plan, weights: int, bias: int) -> Iterator[MemoryTerm]:
    """Yield the tensors that exist when the gradients of the last linear layer have been computed.

    They are the layer's input, the gradient of this input, and the gradient of the weights. Under
    autocast, 16-bit copies of the weights and of the result's gradient are also in memory.
    """
    settings, t, wide = plan.settings, plan.tokens, plan.shape.intermediate
    v = settings.value_bytes
    each = 2 if settings.autocast else settings.precision.gradient
    yield _term("MLP's product and gradient", WEIGHTS, 2, t, wide, v)
    yield _term("gradients of its weights", WEIGHTS, weights + bias, each)
    if settings.autocast:
        yield _term("16-bit copies of factors", AUTOCAST, weights + t * plan.shape.hidden, 2)


def _last_adapter(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the backward pass of the MLP's last adapter needs in float32."""
    settings, t, h, wide = plan.settings, plan.tokens, plan.shape.hidden, plan.shape.intermediate
    yield _term("A's input and gradients", PEFT, t, added(wide, wide, settings.rank), 4)
    if settings.accumulation > 1:
        yield _term("A's new gradient", PEFT, settings.rank, wide, 4)
    if settings.method == "lora":
        yield _term("gradient of the base", PEFT, t, h, 2)


def _finished(plan: Plan, names: Collection[str], norms: int) -> Iterator[MemoryTerm]:
    """Yield the gradients in memory when all gradients of the linear layers `names` are computed.

    The gradients of normalization layers are included; `norms` is their number. Under autocast, the
    16-bit copies of the other layers' weights exist, too.
    """
    if not plan.settings.trains_weights:
        yield from _finished_adapters(plan, names)
        return
    weights = sum(plan.sizes[name] for name in names)
    biases = sum(plan.layers[name][1] for name in names if name in plan.shape.biases)
    yield from _weight_gradients(plan, weights + biases + norms)
    yield from _recast(plan, plan.layer_weights - weights)


def _finished_adapters(plan: Plan, names: Collection[str]) -> Iterator[MemoryTerm]:
    """Yield the gradients of adapters in the layers `names`.

    By the time these gradients exist, autocast's 16-bit copies of the adapters have been freed. So
    the bytes of the copies are subtracted.
    """
    count = plan.settings.rank * sum(sum(plan.adapted.get(name, ())) for name in names)
    yield from _weight_gradients(plan, count)
    if _cast_adapters(plan):
        yield -_term("copies of adapters", AUTOCAST, count, 2)


def _dequantized(plan: Plan, name: str, second: bool) -> Iterator[MemoryTerm]:
    """Yield the tensors that QLoRA needs to compute the gradient of a linear layer's input.

    For this gradient, bitsandbytes dequantizes the layer's matrix. With double quantization, it
    dequantizes the matrix's constants first. `second` says whether another module, such as the
    layer's adapter, computes a gradient of the same input. Autograd adds the two gradients.
    """
    if name not in plan.quantized:
        return
    settings, t, (d_in, d_out) = plan.settings, plan.tokens, plan.layers[name]
    narrow, v = DTYPE_BYTES[settings.compute_dtype], settings.value_bytes
    yield _term("a dequantized weight", BITSANDBYTES, d_out, d_in, narrow)
    before, after = (0, d_in) if v == 2 else (d_out, d_in + d_out)
    blocks = math.ceil(d_in * d_out / settings.block_size) if settings.double_quant else 0
    early, late = 4 * blocks + t * before * narrow, t * after * narrow
    if early > late:
        formula = f"{blocks:,} × 4 + {t:,} × {before:,} × {narrow}"
        yield _term("constants and gradient", BITSANDBYTES, (early, formula))
    else:
        yield _term("gradients around it", BITSANDBYTES, t, after, narrow)
    if second:
        yield _term("a second gradient", AUTOGRAD, t, d_in, v)


def _up_dequantized(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield what up_proj's backward pass needs when it dequantizes its matrix.

    At this moment, the results of the activation function and of up_proj are freed, and their
    gradients exist instead.
    """
    t, wide, v = plan.tokens, plan.shape.intermediate, plan.settings.value_bytes
    yield from _dequantized(plan, "up_proj", "up_proj" in plan.adapted)
    yield from _finished_adapters(plan, ["up_proj", "down_proj"])
    if v == 4:  # The float32 gradient of up has been converted to 16 bits.
        yield -_term("up's gradient", AUTOGRAD, t, wide, v)
    if "up_proj" in plan.adapted:
        widths = plan.adapter_inputs("second norm")
        before, after = (
            total_bytes(_adapter_inputs(plan, "second norm", w)) for w in (widths, widths[1:])
        )
        yield -_term("inputs of up's adapter", PEFT, (before - after, "freed"))


def _gate_dequantized(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that exist when gate_proj's matrix is dequantized for the backward pass."""
    t, wide = plan.tokens, plan.shape.intermediate
    yield norm(plan, "second norm")
    yield from _dequantized(plan, "gate_proj", True)
    yield from _finished_adapters(plan, MLP_LAYERS)
    if plan.settings.value_bytes == 2:  # Otherwise, `_dequantized` counts a 16-bit copy.
        yield _term("the gate's gradient", AUTOGRAD, t, wide, 2)


def _last_dequantized(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield what the last linear layer's backward pass needs before the recomputation."""
    yield from _dequantized(plan, "down_proj", False)
    # `_during_backward` subtracts the layer's input, and adds copies, neither of which exists yet.
    if plan.settings.stream_bytes == 4:
        yield replace(residual_gradient(plan), name="the layer's input")
    if converted := converted_weights(plan):
        yield -_term("copies", AUTOCAST, converted, 2)


def _post_norm_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the backward pass of the layer's last normalization adds.

    It is the first, so all stored tensors still exist, except the normalized input. The others are
    the parts of the input's gradient, through the product with 1/rms and through 1/rms itself.
    """
    t, h = plan.tokens, plan.shape.hidden
    yield -_term("1/rms and 1 + weight", AUTOGRAD, added(t, h), 4)
    if plan.settings.trains_weights:
        yield -_term("normalized input", AUTOGRAD, t, h, 4)
        yield from _weight_gradients(plan, h)
        yield from _recast(plan, plan.layer_weights)
    yield _term("gradients in the norm", "RMSNorm", 5, t, h, 4)


def _second_norm_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors of the second norm's backward pass, and all gradients of the MLP."""
    yield norm_backward(plan)
    yield from _finished(plan, MLP_LAYERS, plan.shape.norm_layers // 2 * plan.shape.hidden)


def _last_in_half(plan: Plan, source: str) -> Iterator[MemoryTerm]:
    """Yield the tensors that exist when one half of a layer computes its last weight gradient.

    The half is the attention half or the MLP half; it begins with the norm `source`. The last
    weight gradient is that of q_proj or gate_proj, the first linear layer after the norm.
    """
    settings, t, h, v = plan.settings, plan.tokens, plan.shape.hidden, plan.settings.value_bytes
    name, names = READERS[source][0], MLP_LAYERS if source == "second norm" else plan.layers
    (_, width), count = plan.layers[name], plan.sizes[name]
    # The gradients of the layer's own bias and of the norm `source` are computed later.
    bias = width if name in plan.shape.biases else 0
    norms = (plan.shape.norm_layers // 2 - 1) * h
    if source == "first norm":
        norms = plan.shape.norm_parameters - h
    yield norm(plan, source)
    yield from _finished(plan, names, norms - bias)
    each = settings.precision.gradient
    if settings.accumulation > 1:
        yield _term("its new gradient", WEIGHTS, count, each)
    if settings.autocast:
        yield _term("its 16-bit gradient", AUTOCAST, count + bias, 2)
        yield _term("gradient of the norm", AUTOGRAD, t, h, 4)
        return
    yield from _inputs(plan, source)
    yield _term("gradients around it", AUTOGRAD, t, added(width, h, h), v)


def _first_norm_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors of the first norm's backward pass, and all gradients of the layer."""
    yield norm_backward(plan)
    yield from _finished(plan, plan.layers, plan.shape.norm_parameters)


def _attention_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors of attention's backward pass, after the MLP half's tensors are freed."""
    # The gradients of q_proj, k_proj, v_proj and the first norm are computed later.
    norms = (plan.shape.norm_layers - 1) * plan.shape.hidden
    yield from _finished(plan, AFTER_ATTENTION, norms)
    if plan.settings.attention == "eager":
        yield from _eager_backward(plan)
        return
    yield from (*_attention_inner(plan), *_inputs(plan, "attention"))
    t, query, key = plan.tokens, plan.shape.query_width, plan.shape.key_width
    sizes = t, added(query, key, key, query), plan.settings.attention_bytes
    yield _term("gradients of queries, keys, values, result", FUSED, *sizes)


def _eager_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors in memory during the backward pass of eager attention's softmax."""
    settings, v = plan.settings, plan.settings.attention_bytes
    yield from _attention_inner(plan)
    scores = plan.tokens, settings.sequence_length, of(plan.shape.heads, "heads")
    # The values of attention have been freed, and their gradient exists instead.
    if (wider := settings.value_bytes - v) > 0:
        sizes = plan.tokens, plan.shape.query_width, wider
        yield _term("more: gradient of values", AUTOCAST, *sizes)
    # The 16-bit scores are freed when the gradient of the values has been computed.
    if v == 2:
        yield -_term("16-bit scores", AUTOGRAD, *scores, 2)
    fused = settings.device == "cuda" and settings.product_dtype == "float16"
    # On CUDA, the softmax reads and returns float16 directly, and the softmax's backward pass also
    # allocates the product of the gradient and the softmax.
    each = 4 + (2 if v == 2 and fused else 4) + (4 if settings.device == "cuda" else 0)
    yield _term("gradients of scores", EAGER, *scores, each)


def _weight_gradients(plan: Plan, count: int) -> Iterator[MemoryTerm]:
    """Yield the gradients of `count` parameters of the current layer."""
    each = plan.settings.precision.gradient
    # With several micro-batches, autograd adds each gradient to a sum that exists already.
    if plan.settings.accumulation == 1:
        yield _term("gradients of its weights", WEIGHTS, count, each)


def _recast(plan: Plan, weights: int) -> Iterator[MemoryTerm]:
    """Yield the 16-bit copies that autocast makes of `weights` weights."""
    if plan.settings.autocast and weights:
        yield _term("16-bit copies of its weights", AUTOCAST, weights, 2)
