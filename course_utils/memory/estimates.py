"""The estimate itself: the bytes of a training step at its peak, or moment by moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from course_utils.memory.gpus import usable_bytes
from course_utils.memory.lines import Line, total_bytes
from course_utils.memory.plan import Plan
from course_utils.memory.settings import Settings
from course_utils.memory.shapes import ModelShape
from course_utils.memory.step import PARTS, Moment, Step, grouped
from course_utils.units import format_bytes


@dataclass(frozen=True)
class Estimate:
    """A breakdown in bytes (B) whose six parts add up to `total`.

    With several GPUs these are the bytes on each of them.

    Attributes:
        shape: The model.
        settings: How it is fine-tuned.
        weights: The model as it is stored: 32, 16 or 4 bits a parameter, constants included.
        adapters: LoRA's A and B.
        gradients: One number for each trainable parameter.
        optimizer: The states of the optimizer, and the float32 master copy where there is one.
        activations: The tensors that autograd saves for the backward pass.
        transient: What is alive at the peak besides the other parts, less what of them is not
            alive then: the gradients don't exist yet when the loss is computed, and the activations
            are gone when the weights are updated. So it can be negative.
        peak: The moment of the peak.
        alive: What is alive at the peak, as pairs of what and bytes; these add up to `total` too.
        paged: Bytes of optimizer states that a paged optimizer may move to CPU memory. `optimizer`
            and `total` include them, though torch.cuda.max_memory_allocated does not.
        lines: Every term, with its formula and source.
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
        return grouped(self.at_peak)

    def table(self) -> str:
        """Write what is alive at the peak as plain text: each group and the total in GB and GiB."""
        rows = [(name, size) for name, size in self.groups.items() if size]
        lines = [
            f"{name:20}{format_bytes(size):>12}{format_bytes(size, binary=True):>14}"
            for name, size in (*rows, ("total", self.total))
        ]
        return "\n".join([f"{self.shape.name}, {self.settings.method}: at {self.peak}", *lines])

    def fits(self, gpu: str | int) -> bool:
        """Return whether the peak fits a GPU beside what CUDA needs.

        Args:
            gpu: A name of `GPUS`, or the card's bytes.
        """
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
        """Write every line of the arithmetic as plain text: bytes, formula, source."""
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


def estimate(
    model: ModelShape | str | Path | Mapping[str, Any], method: str = "full", **options: Any
) -> Estimate:
    """Estimate the bytes of one training step at its peak, on each GPU.

    Dropout counts as off. For a bare number of parameters neither activations nor adapters are
    known; `total` is then the sum of weights, gradients and optimizer states.

    Args:
        model: A `ModelShape`, the name of a preset, or a Hugging Face config (dict, path, hub
            name).
        method: "full" (every weight is trained), "lora" (adapters on a 16-bit base) or "qlora"
            (adapters on a base in NF4).
        batch_size: Sequences in one micro-batch.
        sequence_length: Tokens of each sequence.
        accumulation: Micro-batches an update. From 2 on, gradients exist during the whole step.
        rank: Rank of the adapters.
        targets: The layers that get adapters: "all-linear", or names of layers.
        compute_dtype: "float16", "bfloat16" or "float32". The base of lora and qlora computes in
            this format; in full fine-tuning it is the 16-bit format of a 16-bit recipe.
        recipe: A name of `RECIPES`, for the trainable parameters. The default is "mixed" for full
            and "fp32" for adapters.
        optimizer: A name of `OPTIMIZERS`.
        attention: "sdpa" (memory-efficient kernels) or "eager" (all scores are stored).
        gradient_checkpointing: Store only the input of each layer, and recompute the rest.
        block_size: Weights in one block of NF4.
        double_quant: Whether the constants of the blocks are quantized too.
        unquantized: Linear layers that are not stored in NF4; the head never is.
        upcast: Whether peft's `prepare_model_for_kbit_training` turns all weights that are not in
            NF4 into float32 (embedding, head and norms), and with them the residual stream. False
            leaves them in 16 bits.
        keep_output: Whether the model's output, with its logits, is kept through the backward pass,
            as by `output = model(...)`. The Trainer of transformers keeps only the loss.
        gpus: Number of GPUs.
        sharding: None (each GPU stores everything), "zero1", "zero2", "zero3" or "fsdp" (ZeRO,
            section 5; "fsdp" shards what "zero3" does).
        device: "cuda" adds what PyTorch allocates there besides tensors; "cpu" leaves it out.

    Raises:
        ValueError: An option is unknown, or its value can't be right.
    """
    return _estimate(Plan.of(model, method, options))


@lru_cache(maxsize=4096)
def _estimate(plan: Plan) -> Estimate:
    step = Step(plan)
    peak = max(step.candidates(), key=lambda moment: moment.total)
    transient = (*peak.others, *_absent(peak, step.size))
    return Estimate(
        shape=plan.shape,
        settings=plan.settings,
        **step.size | {"transient": total_bytes(transient)},
        peak=peak.name,
        alive=tuple(peak.alive.items()),
        paged=peak.paged,
        lines=(*step.lines, *transient),
    )


def _absent(peak: Moment, size: Mapping[str, int]) -> Iterator[Line]:
    """Subtract the bytes of the parts that are not alive at the peak."""
    for part, alive in peak.parts.items():
        if alive != size[part]:
            formula, source = "not all alive", f"at {peak.name}"
            yield Line("transient", f"less {part}", alive - size[part], formula, source)


def timeline(
    model: ModelShape | str | Path | Mapping[str, Any],
    method: str = "full",
    *,
    first_step: bool = False,
    **options: Any,
) -> tuple[Moment, ...]:
    """List every moment of one training step in order, layer by layer.

    The largest `total` is the total of `estimate`. For the forward pass of a layer only what it
    saves is counted; the rest of what it needs is less than what its backward pass needs.

    Args:
        model: As in `estimate`.
        method: As in `estimate`.
        first_step: Whether this is the first step of a run, in which the optimizer's states don't
            exist before the update.
        options: As in `estimate`.

    Raises:
        ValueError: As in `estimate`, and for a bare number of parameters.
    """
    plan = Plan.of(model, method, options)
    if not plan.shape.known:
        name = plan.shape.name
        raise ValueError(f"{name} is a bare number of parameters: its layers are not known")
    return tuple(Step(plan, first_step).moments())
