"""Estimate the memory that a training step needs, at the peak or in every phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from course_utils.machine.units import format_bytes
from course_utils.memory.gpus import usable_bytes
from course_utils.memory.plan import Plan
from course_utils.memory.settings import Settings
from course_utils.memory.shapes import ModelShape
from course_utils.memory.step import Step, StepPhase
from course_utils.memory.terms import PARTS, MemoryTerm, grouped, total_bytes


@dataclass(frozen=True)
class Estimate:
    """An estimate of memory in bytes (B), in six parts that add up to `total`.

    With several GPUs, all numbers are the bytes on one GPU.

    Attributes:
        weights: Bytes of the model as it is stored, with 32, 16 or 4 bits per parameter, including
            the constants of quantization.
        adapters: Bytes of LoRA's matrices A and B.
        gradients: Bytes of the gradients, one number for each trainable parameter.
        optimizer: Bytes of the optimizer's states and of a float32 master copy.
        activations: Bytes of the tensors that autograd stores for the backward pass.
        transient: Bytes of all other tensors at the peak, minus the bytes of the five parts above
            that are not in memory then, such as the gradients at the loss. It may be negative.
        peak: Name of the phase in which memory peaks.
        live_bytes: A pair of name and bytes for each item in memory at the peak.
        paged: Bytes of optimizer states that a paged optimizer may move to CPU memory. `optimizer`
            and `total` include them, but torch.cuda.max_memory_allocated does not.
        terms: The terms of the sum `total`, each with its formula and source.
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
    live_bytes: tuple[tuple[str, int], ...]
    paged: int = 0
    terms: tuple[MemoryTerm, ...] = field(default=(), repr=False)

    @property
    def parts(self) -> dict[str, int]:
        """The bytes of each of the six parts, in the order of `PARTS`."""
        return {part: getattr(self, part) for part in PARTS}

    @property
    def total(self) -> int:
        """The bytes at the peak, which are the sum of the six parts."""
        return sum(self.parts.values())

    @property
    def at_peak(self) -> Mapping[str, int]:
        """The items in memory at the peak: name → bytes."""
        return MappingProxyType(dict(self.live_bytes))

    @property
    def groups(self) -> dict[str, int]:
        """The bytes at the peak in each group of `GROUPS`, 0 for an empty group."""
        return grouped(self.terms)

    def fits(self, gpu: str | int) -> bool:
        """Return whether a GPU has enough memory for the peak and for the `RESERVE` of CUDA.

        `gpu` is a name from `GPUS`, or the memory of a GPU in bytes.
        """
        return self.total <= usable_bytes(gpu)

    def __str__(self) -> str:
        """Return the memory at the peak as a table: each group and the total in B, GB and GiB."""
        rows = [(name, size) for name, size in self.groups.items() if size]
        lines = [
            f"{name:24}{size:>16,} B{format_bytes(size):>11}{format_bytes(size, binary=True):>13}"
            for name, size in (*rows, ("total", self.total))
        ]
        return "\n".join([f"{self.shape.name}, {self.settings.method}: at {self.peak}", *lines])

    def explain(self) -> str:
        """Return every term of the sum `total` as text, with its bytes, formula and source."""
        text = []
        for part in PARTS:
            text.append(f"{part}: {format_bytes(getattr(self, part))}")
            text += [
                f"  {term.size:>18,} B  {term.name} = {term.formula}  [{term.source}]"
                for term in self.terms
                if term.part == part
            ]
        if self.shape.dropout:
            text.append(f"dropout of {self.shape.dropout:g} in the config is assumed to be off")
        text.append(f"total: {self.total:,} B = {format_bytes(self.total)}, at {self.peak}")
        return "\n".join(text)


def estimate(
    model: ModelShape | str | Path | Mapping[str, Any], method: str = "full", **options: Any
) -> Estimate:
    """Return an estimate of the bytes on each GPU at the peak of one training step.

    The estimate assumes that dropout is off. If only the model's number of parameters is known,
    `total` is the sum of weights, gradients and optimizer states, without activations.

    Args:
        model: A `ModelShape`, the name of a preset, or a Hugging Face config (its dict, its path,
            or its name on the hub).
        method: "full" (every weight is trained), "lora" (adapters on a 16-bit base) or "qlora"
            (adapters on a base in NF4).
        trainer: None, "trl", "transformers" or "course". `TRAINERS` lists their defaults.
        loss: "logits" (all logits exist at once), "tiled" (as in TRL's SFTTrainer: the logits of up
            to 4,096 tokens and 32,768 vocabulary tokens at a time) or "answers" (as in the course:
            logits only for tokens whose next token belongs to an answer).
        answer_share: Fraction of a sequence's tokens that belong to answers, for "answers".
        batch_size: Number of sequences in one micro-batch.
        sequence_length: Number of tokens in each sequence.
        accumulation: Number of micro-batches per update. With 2 or more, gradients exist during the
            entire step.
        targets: The linear layers that get adapters: "all-linear", or names of layers.
        compute_dtype: "float16", "bfloat16" or "float32", in which the base of adapters computes.
            With "full", the 16-bit format of the recipe, except "bf16", which is always bfloat16.
        recipe: A name from `RECIPES`, which sets the formats of the trainable parameters. The
            default depends on the trainer and the method (see `TRAINERS`).
        optimizer: A name from `OPTIMIZERS`.
        attention: "sdpa" (memory-efficient kernels) or "eager" (stores all attention scores).
        gradient_checkpointing: Whether the forward pass stores only each layer's input, and the
            backward pass recomputes the layer's other activations. With "some", which only the
            trainer "course" knows, its step by hand on a CPU in 16 bits also stores the outputs of
            q, k, v, gate and up, which take longest to recompute. Elsewhere, it has the same effect
            as True.
        block_size: Number of weights in one block of NF4.
        double_quant: Whether the constants of the blocks are quantized too.
        unquantized: Names of linear layers that are not stored in NF4. The head is never stored in
            NF4.
        upcast: Whether peft's `prepare_model_for_kbit_training` converts all weights that are not
            in NF4 (embedding, head, norms), and so the residual stream, from 16 bits to float32.
        keep_output: Whether the model's output, which contains the logits, stays in memory during
            the backward pass, as after `output = model(...)`. transformers' Trainer keeps only the
            loss. With the losses "tiled" and "answers", this option has no effect.
        sharding: None (each GPU stores everything), "zero1", "zero2", "zero3" or "fsdp" (ZeRO,
            section 5). "fsdp" shards the same parts as "zero3".
        device: "cpu" counts only tensors. "cuda" also counts the other memory that PyTorch
            allocates on a GPU.
        options: All arguments after `method`, which must be given as keyword arguments.

    Raises:
        ValueError: An option is unknown, or a value is not allowed.
    """
    return _estimate(Plan.of(model, method, options))


@lru_cache(maxsize=4096)
def _estimate(plan: Plan) -> Estimate:
    step = Step(plan)
    return at_peak(plan.shape, plan.settings, step.terms, step.candidates())


def at_peak(
    shape: ModelShape,
    settings: Settings,
    terms: Sequence[MemoryTerm],
    phases: Iterable[StepPhase],
) -> Estimate:
    """Return the estimate of a step's memory in the phase that needs the most."""
    size = dict.fromkeys(PARTS, 0)
    for term in terms:
        size[term.part] += term.size
    peak = max(phases, key=lambda phase: phase.total)
    transient = (*peak.transients, *_absent(peak, size))
    return Estimate(
        shape=shape,
        settings=settings,
        **size | {"transient": total_bytes(transient)},
        peak=peak.name,
        live_bytes=tuple(peak.live_bytes.items()),
        paged=peak.paged,
        terms=(*terms, *transient),
    )


def _absent(peak: StepPhase, size: Mapping[str, int]) -> Iterator[MemoryTerm]:
    """Yield a negative term for each part that is not completely in memory at the peak."""
    for part, present in peak.parts.items():
        if present != size[part]:
            formula, source = "bytes not in memory", f"at {peak.name}"
            missing = present - size[part]
            yield MemoryTerm("transient", f"less {part}", missing, formula, source, group=part)


def timeline(
    model: ModelShape | str | Path | Mapping[str, Any],
    method: str = "full",
    *,
    first_step: bool = False,
    **options: Any,
) -> tuple[StepPhase, ...]:
    """Return every phase of one training step in order, layer by layer.

    The largest `total` of all phases equals the `total` of `estimate`, which has the same
    arguments. For the forward pass of a layer, only the tensors that are stored for the backward
    pass are counted, except in the last layer. Memory can't peak in the forward pass of an earlier
    layer.

    Args:
        first_step: Whether this is the first step of a run, in which the optimizer's states don't
            exist before the update.
    """
    plan = Plan.of(model, method, options)
    if not plan.shape.known:
        name = plan.shape.name
        raise ValueError(f"only the number of parameters of {name} is known, not its layers")
    return tuple(Step(plan, first_step).phases())
