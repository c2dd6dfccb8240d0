"""Compute the bytes of weights, adapters, gradients and optimizer states on each GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from course_utils.machine.validation import positive
from course_utils.memory.allocator import CachingAllocator
from course_utils.memory.plan import MLP_LAYERS, Plan
from course_utils.memory.settings import BLOCK_SIZES, DTYPE_BYTES, OPTIMIZERS, Settings
from course_utils.memory.shapes import ModelShape
from course_utils.memory.terms import MemoryTerm, product

# For a tensor with fewer elements than this number, an 8-bit optimizer stores float32 states
# (bitsandbytes: min_8bit_size).
SMALLEST_8BIT = 4096
# For a tensor with fewer elements than this number, a paged optimizer doesn't page the states
# (bitsandbytes: get_state_buffer).
SMALLEST_PAGED = 100_000


def on_one_gpu(term: MemoryTerm, settings: Settings, part: str) -> MemoryTerm:
    """Return a term with the bytes on one GPU."""
    if not settings.shards(part):
        return term
    formula = f"({term.formula}) / {settings.gpus} GPUs"
    return replace(term, size=math.ceil(term.size / settings.gpus), formula=formula)


# --- weights --------------------------------------------------------------------------------------


def nf4_bytes(parameters: int, block_size: int = 64, double_quant: bool = True) -> dict[str, int]:
    """Return the bytes that bitsandbytes stores for one NF4 tensor.

    Without double quantization, each block has one float32 constant. With double quantization, the
    constants are 8-bit numbers in blocks of 256, and each block of constants has one float32
    constant. A second code book of 256 float32 values and an offset are also stored (QLoRA,
    section 3).

    Returns:
        The number of bytes for each of "codes", "constants" and "code books".
    """
    positive("parameters", parameters)
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size must be one of {BLOCK_SIZES}, got {block_size!r}")
    blocks = math.ceil(parameters / block_size)
    constants = blocks + 4 * math.ceil(blocks / 256) if double_quant else 4 * blocks
    books = 16 * 4 + (256 * 4 + 4 if double_quant else 0)
    return {"codes": math.ceil(parameters / 2), "constants": constants, "code books": books}


def weight_terms(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield a term for each kind of weight in the model itself, without the adapters."""
    shape, settings = plan.shape, plan.settings
    if settings.method == "qlora":
        yield from _nf4_weights(plan)
    else:
        source = settings.precision.source if settings.trains_weights else "the frozen base"
        yield _weights(plan, "parameters", shape.parameters, settings.base_bytes, source)
    if shape.known:
        tables, half = 2 * shape.rotations(shape.layers), shape.head_dim // 2
        source = "four float32 tables" if tables == 4 else "two float32 tables"
        yield product("weights", "rotary tables", source, tables, half, 4)
    if shape.gemma:
        # peft's upcast converts parameters, but this number is a buffer.
        each = 2 if settings.method == "qlora" else settings.base_bytes
        yield product("weights", "embedding scale", "one number", 1, each)


def _weights(plan: Plan, name: str, count: int, each: int, source: str) -> MemoryTerm:
    term = product("weights", name, source, count, each)
    return on_one_gpu(term, plan.settings, "weights")


def _nf4_weights(plan: Plan) -> Iterator[MemoryTerm]:
    shape, settings = plan.shape, plan.settings
    if not shape.known:
        # This call raises a ValueError, because only the model's number of parameters is known.
        shape.target_layers("all-linear")
    yield from _nf4_terms(plan)
    biases = shape.layers * sum(plan.layers[n][1] for n in shape.biases & plan.quantized.keys())
    rest = shape.parameters - shape.layers * sum(plan.quantized.values()) - biases
    why = "float32 by peft's upcast" if settings.upcast else "16 bits"
    yield _weights(plan, "not quantized", rest, settings.base_bytes, why)
    # In the first forward pass, bitsandbytes converts the biases to the compute dtype.
    if biases:
        narrow = DTYPE_BYTES[settings.compute_dtype]
        yield _weights(plan, "biases", biases, narrow, "bitsandbytes")


def _nf4_terms(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the terms for the codes, constants and code books.

    Sharding divides only the codes among the GPUs.
    """
    settings, layers, matrices = plan.settings, plan.shape.layers, plan.quantized.values()
    double = settings.double_quant
    stored = [nf4_bytes(n, settings.block_size, double) for n in matrices]
    blocks = layers * sum(math.ceil(n / settings.block_size) for n in matrices)
    tables = "16 × 4 + 256 × 4 + 4" if double else "16 × 4"
    # Each matrix has groups of 256 blocks, the last of which may be incomplete.
    groups = layers * sum(math.ceil(math.ceil(n / settings.block_size) / 256) for n in matrices)
    formulas = {
        "codes": f"{layers * sum(matrices):,} × ½",
        "constants": f"{blocks:,} blocks × " + (f"1 + {groups:,} groups × 4" if double else "4"),
        "code books": f"{layers * len(matrices):,} matrices × ({tables})",
    }
    for name, formula in formulas.items():
        size = layers * sum(matrix[name] for matrix in stored)
        term = MemoryTerm("weights", f"NF4 {name}", size, formula, "QLoRA, section 3")
        yield on_one_gpu(term, settings, "weights") if name == "codes" else term


def unsplit_remainders(plan: Plan) -> int:
    """Return the allocated bytes that no tensor uses after a model was loaded in NF4 on a GPU."""
    settings = plan.settings
    kept = frozenset(plan.layers).difference(plan.quantized)
    return _unsplit_remainders(
        plan.shape, kept, settings.block_size, settings.double_quant, settings.upcast
    )


@lru_cache(maxsize=256)
def _unsplit_remainders(
    shape: ModelShape, kept: frozenset[str], block_size: int, double_quant: bool, upcast: bool
) -> int:
    """Return the allocated bytes that no tensor uses, by simulating how a model is loaded.

    `kept` names the layers that stay in 16 bits. transformers first allocates and frees one large
    region, and then loads the 16-bit matrices into it by name. For each matrix, bitsandbytes
    allocates constants and codes, and the 16-bit matrix is freed. A real loader with several
    threads uses another order, so its bytes differ by some MiB.
    """
    gpu, layers = CachingAllocator(), shape.linear_layers()
    ordered = sorted(layers, key=_name_in_checkpoint)
    matrices = [(layers[name][0] * layers[name][1], name in kept) for name in ordered]
    tables = [shape.vocab * shape.hidden] * (1 if shape.tied else 2)
    narrow = sum(tables) + shape.layers * sum(n for n, is_kept in matrices if is_kept)
    coded = shape.layers * sum(n for n, is_kept in matrices if not is_kept)
    gpu.release(gpu.allocate(2 * narrow + coded // 2))
    loaded = [(n, gpu.allocate(2 * n)) for n in tables]
    stored = {n: nf4_bytes(n, block_size, double_quant) for n, _ in matrices}
    for n, is_kept in matrices * shape.layers:
        matrix = gpu.allocate(2 * n)
        if is_kept:
            loaded.append((n, matrix))
            continue
        for part in ("constants", "codes", "code books"):
            gpu.allocate(stored[n][part])
        gpu.release(matrix)
    for n, table in loaded if upcast else ():
        gpu.allocate(4 * n)
        gpu.release(table)
    return gpu.allocated - gpu.requested


def _name_in_checkpoint(layer: str) -> str:
    """Return a layer's name as in a checkpoint, where "self_attn" is sorted after "mlp"."""
    return f"{'mlp' if layer in MLP_LAYERS else 'self_attn'}.{layer}"


# --- adapters, gradients and optimizer states -----------------------------------------------------


def trainable_terms(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the terms for adapters, gradients and the optimizer."""
    settings, count, precision = plan.settings, plan.trained, plan.settings.precision

    def each(part: str, name: str, size: int, source: str) -> MemoryTerm:
        term = product(part, name, source, count, size)
        return on_one_gpu(term, settings, "weights" if part == "adapters" else part)

    if not settings.trains_weights:
        yield each("adapters", "A and B", precision.weight, "LoRA, section 4.1")
    yield each("gradients", "gradients", precision.gradient, precision.source)
    if precision.master:
        yield each("optimizer", "float32 master copy", precision.master, precision.source)
    yield from state_terms(plan)


def state_terms(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield a term for the states that the optimizer creates at the first update."""
    settings, optimizer = plan.settings, OPTIMIZERS[plan.settings.optimizer]
    if not optimizer.states:
        return
    one = sum(t.count * state_bytes(t.elements, settings) for t in plan.trainable)
    size, source = optimizer.states * one, "torch.optim"
    formula = f"{plan.trained:,} × {optimizer.states} × {settings.precision.state}"
    if optimizer.eight_bit:
        # bitsandbytes stores one map of 256 float32 values for each state.
        size += 256 * 4 * optimizer.states
        formula = "each state: 1 B, and 4 B per block of 256; float32 below 4,096 elements"
        source = "bitsandbytes"
    term = MemoryTerm("optimizer", f"states of {settings.optimizer}", size, formula, source)
    yield on_one_gpu(term, settings, "optimizer")


def state_bytes(elements: int, settings: Settings) -> int:
    """Return the bytes of one state of a trainable tensor, including constants of 8-bit states."""
    if not OPTIMIZERS[settings.optimizer].eight_bit:
        return elements * settings.precision.state
    if elements < SMALLEST_8BIT:
        return 4 * elements
    return elements + 4 * math.ceil(elements / 256)


def paged_bytes(elements: int, settings: Settings) -> int:
    """Return how many bytes of one state of a trainable tensor may move to CPU memory.

    The constants of 8-bit states and the states of small tensors never move.
    """
    if not OPTIMIZERS[settings.optimizer].paged or elements < SMALLEST_PAGED:
        return 0
    return elements * (1 if OPTIMIZERS[settings.optimizer].eight_bit else settings.precision.state)


def paged_states(plan: Plan) -> int:
    """Return the bytes of all optimizer states on one GPU that may move to CPU memory."""
    settings, states = plan.settings, OPTIMIZERS[plan.settings.optimizer].states
    one = sum(t.count * paged_bytes(t.elements, settings) for t in plan.trainable)
    return math.ceil(states * one / (settings.gpus if settings.shards("optimizer") else 1))
