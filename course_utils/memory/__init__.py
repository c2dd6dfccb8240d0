"""How many bytes fine-tuning takes, part by part, before anything is loaded. Pure arithmetic.

    weights       the model as it lies in memory: 32, 16 or 4 bits a parameter, constants included
    adapters      LoRA's A and B
    gradients     one for each trainable parameter
    optimizer     Adam's two moments, and the float32 master copy where there is one
    activations   the tensors that autograd saves for the backward pass
    transient     what else lives at the moment of the peak
    ───────────
    total         what torch.cuda.max_memory_allocated reports

A training step has three moments at which the peak can lie. `estimate` adds up what is alive at
each of them and takes the largest:

    the loss            logits, their softmax and two gradients of them: wide vocabularies
    a layer's backward  one layer's recomputed activations and their gradients: long sequences
    the update          all gradients beside the optimizer states: full fine-tuning

`timeline` lists every moment of the step, layer by layer.

Every byte below is derived from the code that allocates it (transformers' model classes, peft's
LoRA layers, bitsandbytes' 4-bit layers, PyTorch's kernels and its caching allocator), and compared
in the tests with bytes measured on a CPU and on a Tesla T4.

Sources: ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054); LoRA (Hu et al. 2021, arXiv 2106.09685);
QLoRA (Dettmers et al. 2023, arXiv 2305.14314); selective recomputation (Korthikanti et al. 2022,
arXiv 2205.05198); checkpointing (Chen et al. 2016, arXiv 1604.06174).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from course_utils.memory.activations import (
    RESIDUAL,
    causal_mask,
    layer_backward,
    layer_saved,
    layers_saved,
    saved_lines,
    saved_mask,
)
from course_utils.memory.allocator import CachingAllocator, fresh_block
from course_utils.memory.settings import (
    BLOCK_SIZES,
    DTYPE_BYTES,
    OPTIMIZERS,
    RECIPES,
    Line,
    Settings,
)
from course_utils.memory.shapes import PRESETS, ModelShape
from course_utils.units import GiB, format_bytes
from course_utils.validation import positive

__all__ = [
    "GPUS",
    "OPTIMIZERS",
    "PRESETS",
    "RECIPES",
    "Estimate",
    "ModelShape",
    "Moment",
    "Settings",
    "Trainable",
    "estimate",
    "kv_cache_bytes",
    "largest",
    "nf4_bytes",
    "paged_bytes",
    "state_bytes",
    "timeline",
    "trainable_tensors",
    "usable_bytes",
]

STAGES = ("zero1", "zero2", "zero3", "fsdp")  # states, then gradients, then weights are shared
PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "transient")
LOGITS, WORK, REST = "logits and loss", "a layer at work", "CUDA and the rest"
GROUPS = (*PARTS[:-1], LOGITS, WORK, REST)  # of what is alive at the peak
LOSS, UPDATE = "the loss", "the update"  # moments of a step
SMALLEST_8BIT = 4096  # smaller tensors keep float32 states (bitsandbytes: min_8bit_size)
SMALLEST_PAGED = 100_000  # smaller tensors never page (bitsandbytes: get_state_buffer)
MOST = 2**24  # no batch, sequence or rank is looked for beyond
CUBLAS_WORKSPACE = 2 * 4096 * 1024 + 8 * 16 * 1024  # B; PyTorch's default below Hopper

# Bytes of a card as PyTorch states them in its out-of-memory errors, which is less than the number
# on the box; where drivers differ, by up to 0.2 GiB, the least.
GPUS = {
    "T4": int(14.56 * GiB),
    "RTX 4090": int(23.64 * GiB),
    "A100-40": int(39.39 * GiB),
    "A100-80": int(79.15 * GiB),
    "H100": int(79.10 * GiB),
}
RESERVE = GiB // 2  # B of a card that the CUDA context and the driver take, about


@dataclass(frozen=True)
class Moment:
    """What is alive at one moment of a training step, in bytes (B).

    parts: weights, adapters, optimizer, gradients and activations, as far as they are there yet, or
        still. others: a line for each thing besides. paged: of `optimizer`, what a paged optimizer
        lets move to CPU memory.
    """

    name: str
    parts: Mapping[str, int]
    others: tuple[Line, ...] = ()
    paged: int = 0

    @property
    def total(self) -> int:
        """Bytes of all that is alive."""
        return sum(self.parts.values()) + sum(line.size for line in self.others)

    @property
    def alive(self) -> dict[str, int]:
        """What → bytes, zeros left out; a layer at work is one thing."""
        sizes = Counter(self.parts)
        for line in self.others:
            sizes[line.what.partition(":")[0]] += line.size
        return {what: size for what, size in sizes.items() if size}

    @property
    def groups(self) -> dict[str, int]:
        """`alive` in the few groups of `GROUPS`, zeros included: name → bytes, for a picture."""
        return _grouped(self.alive)


def _grouped(alive: Mapping[str, int]) -> dict[str, int]:
    sizes = dict.fromkeys(GROUPS, 0)
    for what, size in alive.items():
        sizes[LOGITS if "logits" in what else what if what in GROUPS else REST] += size
    return sizes


@dataclass(frozen=True)
class Estimate:
    """A breakdown in bytes (B) whose six parts add up to `total`.

    transient: what lives at the peak beside the other parts, less what of them does not: the
        gradients are not there yet when the loss is computed, and the activations are gone when
        weights are updated. So it can be negative.
    peak: the moment of the peak. alive: what is alive then, as pairs of what and bytes; these add
        up to `total` too. at_peak: the same as a mapping.
    paged: optimizer states, in B, that a paged optimizer lets move to CPU memory. `optimizer` and
        `total` count them, though torch.cuda.max_memory_allocated doesn't.
    lines: every term, with its formula and source. For several GPUs: bytes on each of them.
    """

    shape: ModelShape
    settings: Settings
    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    transient: int
    peak: str
    alive: tuple[tuple[str, int], ...]
    paged: int = 0
    lines: tuple[Line, ...] = field(default=(), repr=False)

    @property
    def parts(self) -> dict[str, int]:
        """Part → bytes, in the order of the class."""
        return {part: getattr(self, part) for part in PARTS}

    @property
    def total(self) -> int:
        """Bytes at the peak: the sum of the parts."""
        return sum(self.parts.values())

    @property
    def at_peak(self) -> Mapping[str, int]:
        """What is alive at the peak → bytes."""
        return MappingProxyType(dict(self.alive))

    @property
    def groups(self) -> dict[str, int]:
        """`at_peak` in the few groups of `GROUPS`, zeros included: name → bytes, for a picture."""
        return _grouped(self.at_peak)

    def table(self) -> str:
        """What is alive at the peak as plain text: each group in GB and GiB, and the total."""
        rows = [(name, size) for name, size in self.groups.items() if size]
        lines = [
            f"{name:20}{format_bytes(size):>12}{format_bytes(size, binary=True):>14}"
            for name, size in (*rows, ("total", self.total))
        ]
        return "\n".join([f"{self.shape.name}, {self.settings.method}: at {self.peak}", *lines])

    def fits(self, gpu: str | int) -> bool:
        """Whether the peak fits a GPU by name (of `GPUS`) or by its bytes, CUDA's own included."""
        return self.total <= usable_bytes(gpu)

    def __str__(self) -> str:
        rows = [*self.parts.items(), ("total", self.total)]
        head = f"{self.shape.name}, {self.settings.method}: peak at {self.peak}"
        body = [
            f"{name:12}{size:>19,} B{format_bytes(size):>12}{format_bytes(size, binary=True):>13}"
            for name, size in rows
        ]
        return "\n".join([head, *body])

    def explain(self) -> str:
        """Every line of the arithmetic as plain text: bytes, formula, source."""
        text = []
        for part in PARTS:
            text.append(f"{part}: {format_bytes(getattr(self, part))}")
            text += [
                f"  {line.size:>18,} B  {line.what} = {line.formula}  [{line.source}]"
                for line in self.lines
                if line.part == part
            ]
        if self.shape.dropout:
            text.append(f"dropout of {self.shape.dropout:g} in the config is taken to be off")
        text.append(f"total: {self.total:,} B = {format_bytes(self.total)}, at {self.peak}")
        return "\n".join(text)


def usable_bytes(gpu: str | int) -> int:
    """Bytes of a GPU left for tensors: what PyTorch reports less what CUDA takes for itself.

    gpu: a name of `GPUS`, or the card's bytes. Raises ValueError for anything else.
    """
    if isinstance(gpu, str) and gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; choose one of {', '.join(GPUS)}, or give its bytes")
    size = GPUS[gpu] if isinstance(gpu, str) else positive("the bytes of a GPU", gpu)
    return max(0, size - RESERVE)


# --- the public sum -------------------------------------------------------------------------------


def estimate(
    model: ModelShape | str | Path | Mapping[str, Any], method: str = "full", **options: Any
) -> Estimate:
    """Bytes of one training step at its peak, on each GPU.

    model: a `ModelShape`, the name of a preset, or a Hugging Face config (dict, path, hub name).
    method: "full" (every weight is trained), "lora" (adapters on a 16-bit base) or "qlora" (on a
        base in NF4).
    batch_size, sequence_length: of one micro-batch. accumulation: micro-batches an update; from 2
        on, gradients are there all the time.
    rank, targets: of the adapters; targets is "all-linear" or names of layers.
    compute_dtype: "float16", "bfloat16" or "float32": what the base of lora and qlora computes in,
        and in full fine-tuning which 16-bit format a recipe means that has one.
    recipe: a name of `RECIPES`, for the trainable parameters; the default is "mixed" for full and
        "fp32" for adapters.
    optimizer: a name of `OPTIMIZERS`.
    attention: "sdpa" (memory-efficient kernels) or "eager" (all scores are stored).
    gradient_checkpointing: store each layer's input only, and recompute the rest.
    block_size, double_quant: of NF4. unquantized: linear layers that are not stored in NF4, besides
        the head, which never is.
    upcast: peft's `prepare_model_for_kbit_training` turns all that is not in NF4 into float32
        (embedding, head and norms), and with them the residual stream; False leaves it in 16 bits.
    keep_output: whether the model's output, logits and all, is kept through the backward pass, as
        by `output = model(...)`; the Trainer of transformers keeps only the loss.
    gpus, sharding: None (each GPU holds all), "zero1", "zero2", "zero3" or "fsdp" (ZeRO, section 5;
        "fsdp" shards what "zero3" does).
    device: "cuda" adds what PyTorch allocates there besides tensors; "cpu" leaves it out.

    Dropout is taken to be off. For a bare number of parameters activations are not known, and
    adapters neither: `total` is then weights, gradients and optimizer states.
    Raises ValueError for options that are unknown, or can't be right.
    """
    shape = _as_shape(model)
    return _estimate(shape, _settings(shape, method, options))


def timeline(
    model: ModelShape | str | Path | Mapping[str, Any],
    method: str = "full",
    *,
    first_step: bool = False,
    **options: Any,
) -> tuple[Moment, ...]:
    """Every moment of one training step in order: the largest `total` is that of `estimate`.

        forward of layer 1 … L      what is saved for the backward pass grows
        the loss                    logits and their gradients
        layer L … 1's backward      one layer at work, with checkpointing recomputed first: a spike;
                                    between two layers what is left of it is one gradient
        the update

    model, method, options: as in `estimate`. first_step: the optimizer's states are not there
        before the first update of a run.
    Of a layer's forward pass only what it saves is counted; what it needs while it is at work is
    less than its backward pass needs.
    Raises ValueError as `estimate` does, and for a bare number of parameters.
    """
    shape = _as_shape(model)
    run = _settings(shape, method, options)
    if not shape.known:
        raise ValueError(f"{shape.name} is a bare number of parameters: its layers are not known")
    return tuple(_Step(shape, run, _sizes(_lines(shape, run)), first_step).moments())


def _settings(shape: ModelShape, method: str, options: Mapping[str, Any]) -> Settings:
    options = {"recipe": "mixed" if method == "full" else "fp32"} | dict(options)
    try:
        settings = Settings(method=method, **options)
    except TypeError as error:
        allowed = ", ".join(Settings.__dataclass_fields__)
        raise ValueError(f"{str(error).split(') ')[-1]}; options are {allowed}") from None
    _within_positions(shape, settings.sequence_length)
    return settings


def _within_positions(shape: ModelShape, tokens: int) -> None:
    if shape.positions and tokens > shape.positions:
        raise ValueError(
            f"{shape.name} has a table of {shape.positions:,} positions: "
            f"sequence_length can't be {tokens:,}"
        )


def _as_shape(model: ModelShape | str | Path | Mapping[str, Any]) -> ModelShape:
    if isinstance(model, ModelShape):
        return model
    if isinstance(model, str) and "/" not in model and not Path(model).exists():
        return ModelShape.preset(model)
    return ModelShape.from_config(model)


@lru_cache(maxsize=4096)
def _estimate(shape: ModelShape, run: Settings) -> Estimate:
    lines = _lines(shape, run)
    size = _sizes(lines)
    peak = max(_Step(shape, run, size).candidates(), key=lambda moment: moment.total)
    absent = [
        Line("transient", f"less {part}", there - size[part], "not all alive", f"at {peak.name}")
        for part, there in peak.parts.items()
        if there != size[part]
    ]
    transient = [*peak.others, *absent]
    return Estimate(
        shape=shape,
        settings=run,
        **size | {"transient": sum(line.size for line in transient)},
        peak=peak.name,
        alive=tuple(peak.alive.items()),
        paged=peak.paged,
        lines=(*lines, *transient),
    )


def _lines(shape: ModelShape, run: Settings) -> list[Line]:
    """Every term of the parts, but what is transient."""
    lines = [*_weights(shape, run), *_trainable(shape, run)]
    return lines + (list(saved_lines(shape, run)) if shape.known else [])


def _sizes(lines: list[Line]) -> dict[str, int]:
    return {part: sum(line.size for line in lines if line.part == part) for part in PARTS}


# --- weights, gradients, optimizer ----------------------------------------------------------------


def nf4_bytes(parameters: int, block_size: int = 64, double_quant: bool = True) -> dict[str, int]:
    """Bytes that bitsandbytes stores for one NF4 tensor: codes, constants, code books.

    Without double quantization a block has one float32 constant. With it the constants are 8 bits,
    in blocks of 256 that have a float32 constant each, and there are a second code book of 256
    float32 values and an offset (QLoRA, section 3).
    """
    positive("parameters", parameters)
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size must be one of {BLOCK_SIZES}, got {block_size!r}")
    blocks = math.ceil(parameters / block_size)
    constants = blocks + 4 * math.ceil(blocks / 256) if double_quant else 4 * blocks
    books = 16 * 4 + (256 * 4 + 4 if double_quant else 0)
    return {"codes": math.ceil(parameters / 2), "constants": constants, "code books": books}


def _quantized(shape: ModelShape, run: Settings) -> dict[str, int]:
    """The matrices of one layer that are stored in NF4: name → numbers. The head never is."""
    layers = shape.linear_layers()
    named = [name for name in run.unquantized if name != "lm_head"]
    kept = shape.target_layers(named) if named else {}
    return {name: i * o for name, (i, o) in layers.items() if name not in kept}


def _weights(shape: ModelShape, run: Settings) -> Iterator[Line]:
    if run.method == "qlora":
        yield from _nf4_weights(shape, run)
    else:
        size = shape.parameters * run.base_bytes
        formula = f"{shape.parameters:,} × {run.base_bytes}"
        source = RECIPES[run.recipe].source if run.trains_weights else "the base, frozen"
        yield _shared(Line("weights", "parameters", size, formula, source), run, *STAGES[2:])
    if shape.known and not shape.positions:
        formula, size = f"2 × {shape.head_dim // 2} × 4", 8 * (shape.head_dim // 2)
        yield Line("weights", "rotary tables", size, formula, "transformers: two, of float32")


def _nf4_weights(shape: ModelShape, run: Settings) -> Iterator[Line]:
    if not shape.known:
        shape.target_layers("all-linear")  # says why a bare count is not enough
    matrices = list(_quantized(shape, run).values())
    parts = [nf4_bytes(n, run.block_size, run.double_quant) for n in matrices]
    names = ("codes", "constants", "code books")
    size = {name: shape.layers * sum(part[name] for part in parts) for name in names}
    count = shape.layers * sum(matrices)
    blocks = shape.layers * sum(math.ceil(n / run.block_size) for n in matrices)
    each = "1, and × 4 / 256" if run.double_quant else "4"
    tables = "16 × 4" + (" + 256 × 4 + 4" if run.double_quant else "")

    def stored(what: str, size: int, formula: str) -> Line:
        return Line("weights", f"NF4 {what}", size, formula, "QLoRA, section 3")

    yield _shared(stored("codes", size["codes"], f"{count:,} × ½"), run, *STAGES[2:])
    yield stored("constants", size["constants"], f"{blocks:,} blocks × {each}")
    books = f"{shape.layers * len(matrices):,} matrices × ({tables})"
    yield stored("code books", size["code books"], books)
    biases = shape.layers * shape.bias_parameters
    rest = shape.parameters - count - biases
    why = "float32 by peft's upcast" if run.upcast else "16 bits"
    formula = f"{rest:,} × {run.base_bytes}"
    line = Line("weights", "not quantized", rest * run.base_bytes, formula, why)
    yield _shared(line, run, *STAGES[2:])
    if biases:  # the first forward pass turns them into the compute dtype
        narrow = DTYPE_BYTES[run.compute_dtype]
        line = Line("weights", "biases", biases * narrow, f"{biases:,} × {narrow}", "bitsandbytes")
        yield _shared(line, run, *STAGES[2:])


def _shared(line: Line, run: Settings, *stages: str) -> Line:
    """A line on one GPU: its share from these stages of ZeRO on, rounded up."""
    if run.sharding not in stages or run.gpus == 1:
        return line
    formula = f"({line.formula}) / {run.gpus} GPUs"
    return replace(line, size=math.ceil(line.size / run.gpus), formula=formula)


@dataclass(frozen=True)
class Trainable:
    """A kind of trainable tensor: elements of one, and the count of them in the model.

    in_layers: whether these are spread evenly over the layers.
    """

    name: str
    elements: int
    count: int
    in_layers: bool = True


def trainable_tensors(shape: ModelShape, run: Settings) -> list[Trainable]:
    """The kinds of trainable tensors, in the order of the model."""
    if not run.trains_weights:
        layers = shape.target_layers(run.targets).items()
        return [
            Trainable(f"{name}.{matrix}", run.rank * width, shape.layers)
            for name, widths in layers
            for matrix, width in zip(("lora_A", "lora_B"), widths, strict=True)
        ]
    if not shape.known:
        return [Trainable("all parameters", shape.parameters, 1, in_layers=False)]
    return [*_tables(shape), *_in_layers(shape), *_above_layers(shape)]


def _tables(shape: ModelShape) -> Iterator[Trainable]:
    yield Trainable("embedding", shape.vocab * shape.hidden, 1, in_layers=False)
    if shape.positions:
        yield Trainable("positions", shape.positions * shape.hidden, 1, in_layers=False)


def _in_layers(shape: ModelShape) -> Iterator[Trainable]:
    for name, (d_in, d_out) in shape.linear_layers().items():
        yield Trainable(name, d_in * d_out, shape.layers)
        if name in shape.biases:
            yield Trainable(f"{name}.bias", d_out, shape.layers)
    yield Trainable("norm", shape.hidden, 2 * shape.norm_tensors * shape.layers)
    if shape.qk_norm:
        yield Trainable("norm of queries or keys", shape.head_dim, 2 * shape.layers)


def _above_layers(shape: ModelShape) -> Iterator[Trainable]:
    yield Trainable("last norm", shape.hidden, shape.norm_tensors, in_layers=False)
    if not shape.tied:
        yield Trainable("head", shape.vocab * shape.hidden, 1, in_layers=False)


def _trainable(shape: ModelShape, run: Settings) -> Iterator[Line]:
    recipe = RECIPES[run.recipe]
    count = _trained(shape, run)

    def each(part: str, what: str, size: int, source: str) -> Line:
        return Line(part, what, count * size, f"{count:,} × {size}", source)

    if not run.trains_weights:
        adapters = each("adapters", "A and B", recipe.weight, "LoRA, section 4.1")
        yield _shared(adapters, run, *STAGES[2:])
    gradients = each("gradients", "gradients", recipe.gradient, recipe.source)
    yield _shared(gradients, run, *STAGES[1:])
    if recipe.master:
        copy = each("optimizer", "float32 master copy", recipe.master, recipe.source)
        yield _shared(copy, run, *STAGES)
    yield from _state_lines(shape, run)


def _trained(shape: ModelShape, run: Settings) -> int:
    return sum(tensor.elements * tensor.count for tensor in trainable_tensors(shape, run))


def _state_lines(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """What the optimizer makes at the first update; one line, none for an optimizer without."""
    if OPTIMIZERS[run.optimizer].states:
        size, formula = _states(shape, run)
        source = "bitsandbytes" if OPTIMIZERS[run.optimizer].eight_bit else "torch.optim"
        states = Line("optimizer", f"states of {run.optimizer}", size, formula, source)
        yield _shared(states, run, *STAGES)


def _states(shape: ModelShape, run: Settings) -> tuple[int, str]:
    optimizer, tensors = OPTIMIZERS[run.optimizer], trainable_tensors(shape, run)
    size = sum(t.count * state_bytes(t.elements, run) for t in tensors) * optimizer.states
    if not optimizer.eight_bit:
        return size, f"{_trained(shape, run):,} × {optimizer.states} × {RECIPES[run.recipe].state}"
    tables = 256 * 4 * optimizer.states  # one map of 256 float32 values a state, shared
    return size + tables, "1 B and 4 B a block of 256, each state; float32 below 4,096 numbers"


def state_bytes(elements: int, run: Settings) -> int:
    """Bytes of one state of a trainable tensor; of 8-bit ones with their constants."""
    if not OPTIMIZERS[run.optimizer].eight_bit:
        return elements * RECIPES[run.recipe].state
    if elements < SMALLEST_8BIT:
        return 4 * elements
    return elements + 4 * math.ceil(elements / 256)


def paged_bytes(elements: int, run: Settings) -> int:
    """Of `state_bytes`, what may move to CPU memory: not the constants, nor small tensors.

    Source: get_state_buffer of bitsandbytes, which pages from 100,000 elements on.
    """
    if not OPTIMIZERS[run.optimizer].paged or elements < SMALLEST_PAGED:
        return 0
    return elements * (1 if OPTIMIZERS[run.optimizer].eight_bit else RECIPES[run.recipe].state)


# --- the moments of a step ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """The moments of a training step. size: bytes of each part; first: of a run."""

    shape: ModelShape
    run: Settings
    size: Mapping[str, int]
    first: bool = False

    def candidates(self) -> Iterator[Moment]:
        """The moments at which the peak can lie: layers' backwards lie between first and last."""
        if self.shape.known:
            yield self.loss()
            yield self.backward(self.shape.layers - 1)
            yield self.backward(0)
        yield self.update()

    def moments(self) -> Iterator[Moment]:
        """All of them, in order."""
        layers = range(self.shape.layers)
        yield from map(self.forward, layers)
        yield self.loss()
        for layer in reversed(layers):
            yield self.backward(layer)
            if layer:
                yield self.between(layer)
        yield self.update()

    @cached_property
    def held(self) -> dict[str, int]:
        """Bytes of the parts that are there throughout the step."""
        held = {part: self.size[part] for part in ("weights", "adapters", "optimizer")}
        if self.first:
            held["optimizer"] -= sum(line.size for line in _state_lines(self.shape, self.run))
        gradients = self.size["gradients"] if self.run.accumulation > 1 else 0
        return held | {"gradients": gradients, "activations": 0}

    @cached_property
    def paged(self) -> int:
        run, tensors = self.run, trainable_tensors(self.shape, self.run)
        one = sum(tensor.count * paged_bytes(tensor.elements, run) for tensor in tensors)
        states = OPTIMIZERS[run.optimizer].states * one
        return math.ceil(states / (run.gpus if run.sharding else 1))

    @cached_property
    def standing(self) -> list[Line]:
        return list(_standing(self.shape, self.run)) if self.shape.known else []

    @cached_property
    def output(self) -> list[Line]:
        kept = self.shape.known and self.run.keep_output
        return [_logits(self.shape, self.run)] if kept else []

    @cached_property
    def work(self) -> list[Line]:
        return [
            replace(line, part="transient", what=f"{WORK}: {line.what}")
            for line in layer_backward(self.shape, self.run)
        ]

    def moment(self, name: str, others: list[Line], **parts: int) -> Moment:
        alive = self.held | parts
        paged = self.paged if alive["optimizer"] == self.size["optimizer"] else 0
        return Moment(name, alive, (*self.standing, *others), paged)

    def forward(self, layer: int) -> Moment:
        saved = layers_saved(self.shape, self.run, layer + 1)
        return self.moment(f"forward of layer {layer + 1}", [], activations=saved)

    def loss(self) -> Moment:
        others = [*self.output, _loss_copies(self.shape, self.run)]
        return self.moment(LOSS, others, activations=self.size["activations"])

    def backward(self, layer: int) -> Moment:
        """A layer at work; those above it are done."""
        still = layer + 1 if self.run.gradient_checkpointing else layer  # else its own are work
        parts = {"activations": self.stored(still), "gradients": self.gradients(layer)}
        name = f"{self.called(layer)}'s backward"
        return self.moment(name, [*self.output, *self.work], **parts)

    def between(self, layer: int) -> Moment:
        """This layer is done, the one below it has not begun."""
        stream = [line for line in self.work if line.what.endswith(RESIDUAL)]
        parts = {"activations": self.stored(layer), "gradients": self.gradients(layer - 1)}
        name = f"after {self.called(layer)}'s backward"
        return self.moment(name, [*self.output, *stream], **parts)

    def update(self) -> Moment:
        scratch = _update_scratch(self.shape, self.run) if self.shape.known else ()
        parts = {part: self.size[part] for part in ("optimizer", "gradients")}
        return self.moment(UPDATE, [*self.output, *scratch], **parts)

    def stored(self, layers: int) -> int:
        """What so many layers have saved that the backward pass has not come to."""
        if self.run.gradient_checkpointing:
            return layers_saved(self.shape, self.run, layers)
        return layers * layer_saved(self.shape, self.run)

    def gradients(self, layer: int) -> int:
        above = _gradients_above(self.shape, self.run, self.size["gradients"], layer)
        return max(self.held["gradients"], above)

    def called(self, layer: int) -> str:
        if layer == self.shape.layers - 1:
            return "the last layer"
        return f"layer {layer + 1}" if layer else "the first layer"


def _other(what: str, size: int, formula: str, source: str) -> Line:
    return Line("transient", what, size, formula, source)


def _standing(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """What is alive throughout a step besides the parts: masks, tables, and CUDA's own."""
    s, stream = run.sequence_length, run.stream_bytes
    eager = run.attention == "eager" and not saved_mask(shape, run)
    if run.gradient_checkpointing and eager:
        formula = f"{run.batch_size} × {s} × {s} × {stream}"
        yield _other("causal mask", causal_mask(run), formula, "kept for the recomputation")
    if run.gradient_checkpointing and not shape.positions:
        formula = f"2 × {s} tokens × {shape.head_dim} × {stream}"
        size = 2 * s * shape.head_dim * stream
        yield _other("cos and sin", size, formula, "rotary positions")
    if run.gradient_checkpointing and shape.positions and not run.trains_weights:
        size = run.tokens * shape.hidden * stream
        formula = f"{run.tokens} tokens × {shape.hidden} × {stream}"
        yield _other("token embeddings", size, formula, "peft: a leaf that needs a gradient")
    if run.sharding in STAGES[2:] and run.gpus > 1:
        coded = sum(_quantized(shape, run).values()) if run.method == "qlora" else 0
        whole = shape.linear_parameters // shape.layers - coded
        formula = f"2 × ({whole:,} × {run.base_bytes} + {coded:,} × ½)"
        size = 2 * whole * run.base_bytes + coded
        yield _other("gathered layers", size, formula, "the one at work and the next; ZeRO, 5.3")
    if run.device == "cuda":
        formula = f"2 threads × {CUBLAS_WORKSPACE:,}"
        yield _other("cuBLAS workspaces", 2 * CUBLAS_WORKSPACE, formula, "PyTorch's default")
        if run.method == "qlora":
            rests = _unsplit_rests(shape, run)
            yield _other("unsplit rests of blocks", rests, "see allocator", "CUDACachingAllocator")


def _logits(shape: ModelShape, run: Settings) -> Line:
    """The logits, which the model's output holds until the next step."""
    each = 2 if run.autocast else run.stream_bytes
    formula = f"{run.tokens} tokens × {shape.vocab} words × {each}"
    formula += _blocks(run)
    size = _block(run, run.tokens * shape.vocab * each)
    return _other("logits", size, formula, "the model's output")


def _loss_copies(shape: ModelShape, run: Settings) -> Line:
    """The gradients of the loss and of the softmax; the softmax itself counts as saved."""
    full = 4 * run.tokens * shape.vocab
    size = 3 * _block(run, full) - full  # what the saved one takes beyond its bytes, too
    formula = f"2 × {run.tokens} tokens × {shape.vocab} words × 4{_blocks(run)}"
    return _other("gradients of logits", size, formula, "cross entropy")


def _blocks(run: Settings) -> str:
    return ", in whole blocks" if run.device == "cuda" else ""


def _block(run: Settings, size: int) -> int:
    return fresh_block(size) if run.device == "cuda" else size


def _gradients_above(shape: ModelShape, run: Settings, total: int, layer: int) -> int:
    """Gradients that exist once the layers above `layer` are done."""
    above = shape.layers - 1 - layer
    if not run.trains_weights:
        return total * above // shape.layers
    head = shape.vocab * shape.hidden
    one = shape.linear_parameters // shape.layers + shape.bias_parameters + shape.norm_parameters
    return total * (head + one * above) // shape.parameters


def _update_scratch(shape: ModelShape, run: Settings) -> Iterator[Line]:
    """What lives while, or just before, the weights are updated."""
    recipe, trained = RECIPES[run.recipe], _trained(shape, run)
    if scratch := OPTIMIZERS[run.optimizer].scratch * trained * recipe.state:
        formula = f"{trained:,} × {recipe.state}"
        line = _other("scratch of the optimizer", scratch, formula, "torch.optim, foreach")
        yield _shared(line, run, *STAGES)
    elif run.trains_weights and shape.tied:
        size = 2 * shape.vocab * shape.hidden * recipe.gradient
        formula = f"2 × {shape.vocab} × {shape.hidden} × {recipe.gradient}"
        yield _other("two gradients of the embedding", size, formula, "autograd, before their sum")


@lru_cache(maxsize=256)
def _unsplit_rests(shape: ModelShape, run: Settings) -> int:
    """Bytes of blocks that are counted but not used after loading in NF4, matrix by matrix.

    transformers loads one 16-bit matrix after the other, in the order of their names, into a region
    that it has warmed up; bitsandbytes allocates constants and codes; the 16-bit matrix goes.
    Loading from several threads changes the order, and with it this number by some MiB.
    """
    gpu, coded = CachingAllocator(), _quantized(shape, run)
    layers = shape.linear_layers().items()
    ordered = sorted(layers, key=lambda layer: _name_in_checkpoint(layer[0]))
    matrices = [(i * o, name not in coded) for name, (i, o) in ordered]
    tables = [shape.vocab * shape.hidden] * (1 if shape.tied else 2)
    narrow = sum(tables) + shape.layers * sum(n for n, is_kept in matrices if is_kept)
    gpu.release(gpu.allocate(2 * narrow + shape.layers * sum(coded.values()) // 2))
    loaded = [(n, gpu.allocate(2 * n)) for n in tables]
    for n, is_kept in matrices * shape.layers:
        matrix = gpu.allocate(2 * n)
        if is_kept:
            loaded.append((n, matrix))
            continue
        stored = nf4_bytes(n, run.block_size, run.double_quant)
        for size in (stored["constants"], stored["codes"], stored["code books"]):
            gpu.allocate(size)
        gpu.release(matrix)
    for n, table in loaded if run.upcast else ():
        gpu.allocate(4 * n)
        gpu.release(table)
    return gpu.allocated - gpu.requested


def _name_in_checkpoint(layer: str) -> str:
    """A name that sorts as a checkpoint's does: attention (self_attn) after the MLP."""
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    return layer if "." in layer else f"{'self_attn' if layer in attention else 'mlp'}.{layer}"


# --- inference and limits -------------------------------------------------------------------------


def kv_cache_bytes(
    model: ModelShape | str | Mapping[str, Any],
    sequence_length: int,
    batch_size: int = 1,
    dtype: str = "float16",
) -> int:
    """Bytes of keys and values that generation keeps: 2 · layers · kv_heads · head_dim · tokens.

    model: as in `estimate`. dtype: of the cache. Raises ValueError for a bare number of parameters,
    and for more tokens than the model has positions for.
    """
    shape = _as_shape(model)
    if not shape.known:
        raise ValueError(f"{shape.name} is a bare number of parameters: its cache is not known")
    if dtype not in tuple(DTYPE_BYTES):
        raise ValueError(f"dtype must be one of {', '.join(DTYPE_BYTES)}; got {dtype!r}")
    tokens = positive("sequence_length", sequence_length) * positive("batch_size", batch_size)
    _within_positions(shape, sequence_length)
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * DTYPE_BYTES[dtype] * tokens


def largest(
    what: str,
    gpu: str | int,
    model: ModelShape | str | Mapping[str, Any] | None = None,
    method: str = "full",
    **options: Any,
) -> int | str | None:
    """The largest batch, sequence, rank or model that fits a GPU with these options.

    what: "batch_size", "sequence_length" or "rank" (returns a number, 0 if not even 1 fits), or
        "model" (takes none; returns the name of the largest preset that fits, or None; targets are
        then "all-linear" unless told).
    gpu: a name of `GPUS`, or its bytes. Raises ValueError for anything else, and for a number that
    changes nothing: a batch of what is a bare number of parameters, a rank in full fine-tuning.
    """
    room = usable_bytes(gpu)
    if what == "model":
        return _largest_model(room, model, method, {"targets": "all-linear"} | options)
    if what not in ("batch_size", "sequence_length", "rank"):
        raise ValueError(f"what must be batch_size, sequence_length, rank or model; got {what!r}")
    if model is None:
        raise ValueError(f"the largest {what} needs a model")
    shape = _as_shape(model)
    if not shape.known or (what == "rank" and method == "full"):
        raise ValueError(f"{what} doesn't change what {method} fine-tuning of {shape.name} takes")

    def fits(value: int) -> bool:
        return estimate(shape, method, **options | {what: value}).total <= room

    positions = shape.positions if what == "sequence_length" else 0
    return largest_number(fits, positions or MOST)


def _largest_model(room: int, model: Any, method: str, options: dict[str, Any]) -> str | None:
    if model is not None:
        raise ValueError(f"the largest model is what is asked for; got {model!r} as a model too")
    targets = options["targets"]
    shapes = [ModelShape.preset(name) for name in PRESETS]
    able = [shape for shape in shapes if method == "full" or _has_targets(shape, targets)]
    able = able or shapes  # then `estimate` says which layers there are
    fitting = [shape for shape in able if estimate(shape, method, **options).total <= room]
    return max(fitting, key=lambda shape: shape.parameters).name if fitting else None


def _has_targets(shape: ModelShape, targets: Any) -> bool:
    try:
        return bool(shape.target_layers(targets))
    except ValueError:
        return False


def largest_number(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` for which `fits` holds, if it holds below some number."""
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
