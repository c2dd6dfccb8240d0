"""Estimate the memory that 7B to 70B models need on several GPUs, with the course's calculator.

The tables of docs/bigger-machines.md are computed by this module; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.runner import Benchmark, Report, measured_here
from course_utils.memory import GPUS, Estimate, ModelShape, estimate, usable_bytes
from course_utils.units import GiB, format_bytes

COUNTS = (1, 2, 4, 8)
# The names of the calculator's cards, from the smallest memory to the largest.
BY_MEMORY = sorted(GPUS, key=lambda name: GPUS[name])
# From the model's config.json: Llama 2 (Touvron et al. 2023, arXiv 2307.09288).
LLAMA_2_70B = {
    "model_type": "llama",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
MODELS = (
    *(ModelShape.preset(name) for name in ("llama-7b", "llama-13b", "llama-33b")),
    ModelShape.from_config(LLAMA_2_70B, name="llama-2-70b"),
)
ADAPTERS = {"recipe": "autocast", "targets": "all-linear", "rank": 16}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "QLoRA": ("qlora", ADAPTERS | {"double_quant": True, "upcast": False}),
    "LoRA, 16 bits": ("lora", ADAPTERS),
    "full": ("full", {"recipe": "mixed"}),
}
STEP = {
    "batch_size": 1,
    "sequence_length": 1024,
    "compute_dtype": "bfloat16",
    "optimizer": "adamw",
    # The training loop keeps only the loss of the model's output.
    "keep_output": False,
}


def estimate_on_each(shape: ModelShape, method: str, gpus: int) -> Estimate:
    """Return the calculator's estimate for each of `gpus` GPUs that share the model by FSDP."""
    kind, options = METHODS[method]
    sharding = "fsdp" if gpus > 1 else None
    return estimate(shape, kind, **STEP, **options, gpus=gpus, sharding=sharding)


def outside_layers(shape: ModelShape, run: Estimate) -> int:
    """Return the bytes (B) of embedding and head on each GPU beyond its share, during a step.

    Embedding and head belong to FSDP's root unit, which is gathered for the forward pass and freed
    only after the backward pass (torch's FSDP ignores reshard_after_forward for the root).
    `estimate` counts only the GPU's share.
    """
    tables = shape.vocab * shape.hidden * (1 if shape.tied else 2) * run.settings.base_bytes
    return tables - tables // run.settings.gpus


def peak_on_each(shape: ModelShape, method: str, gpus: int) -> int:
    """Return the peak memory of each GPU in bytes (B)."""
    run = estimate_on_each(shape, method, gpus)
    return run.total + outside_layers(shape, run)


def smallest_card(size: int) -> str:
    """Return the smallest of the calculator's cards with room for `size` bytes; "–" if none has."""
    return next((name for name in BY_MEMORY if size <= usable_bytes(name)), "–")


def cell(size: int) -> str:
    """Return a table cell: the size in GiB, and the smallest card that has room for it."""
    card = smallest_card(size)
    return f"{size / GiB:.1f}, **{card}**" if card != "–" else f"{size / GiB:.1f}, –"


def peak_table(_: Report) -> str:
    """Return a table of memory by model and method (rows) and by number of GPUs (columns)."""
    head = " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in COUNTS)
    lines = [f"| model | method | {head} |", "|---|---|" + "--:|" * len(COUNTS)]
    for shape in MODELS:
        for method in METHODS:
            cells = " | ".join(cell(peak_on_each(shape, method, gpus)) for gpus in COUNTS)
            billions = f"{shape.name}, {shape.parameters / 1e9:.1f}B"
            lines.append(f"| {billions} | {method} | {cells} |")
    return "\n".join(lines)


def part_table(_: Report) -> str:
    """Return a table of the parts of QLoRA's memory per GPU, on the largest number of GPUs."""
    gpus = COUNTS[-1]
    lines = [
        "| model | share of the weights | all constants | gathered layers | embedding and head |",
        "|---|--:|--:|--:|--:|",
    ]
    for shape in MODELS:
        run = estimate_on_each(shape, "QLoRA", gpus)
        whole = sum(
            term.size for term in run.terms if term.name in ("NF4 constants", "NF4 code books")
        )
        gathered = sum(term.size for term in run.terms if term.name == "gathered layers")
        sizes = (run.weights - whole, whole, gathered, outside_layers(shape, run))
        lines.append(f"| {shape.name} | " + " | ".join(f"{s / GiB:.2f}" for s in sizes) + " |")
    return "\n".join(lines)


def loading_table(_: Report) -> str:
    """Return a table of the CPU memory of all processes together while they load the base model.

    Each process loads the whole base model in 4 bits into CPU memory.
    """
    lines = ["| model | " + " | ".join(map(str, COUNTS[1:])) + " |", "|---|" + "--:|" * 3]
    for shape in MODELS:
        one = estimate_on_each(shape, "QLoRA", 1).weights
        cells = " | ".join(f"{gpus * one / GiB:.0f}" for gpus in COUNTS[1:])
        lines.append(f"| {shape.name} | {cells} |")
    return "\n".join(lines)


def card_sizes(_: Report) -> str:
    """Return a sentence on the memory of each card that the calculator assumes for tensors."""
    sizes = (f"{name} {usable_bytes(name) / GiB:.1f}" for name in BY_MEMORY)
    return "Memory for tensors on each card, in GiB: " + ", ".join(sizes) + "."


# Memory in use on each of 2 GPUs without offloading, in bytes (B), from peft's guide on FSDP.
GUIDE_BYTES = 35.6e9


def guide_comparison(_: Report) -> str:
    """Return a comparison of the calculator with the QLoRA run in peft's guide on FSDP."""
    shape, run = MODELS[-1], STEP | {"batch_size": 2, "sequence_length": 2048, "recipe": "bf16"}
    own = {"rank": 8, "targets": "all-linear", "double_quant": True, "upcast": False}
    ours = estimate(shape, "qlora", **run, **own, gpus=2, sharding="fsdp")
    size = ours.total + outside_layers(shape, ours)
    return (
        f"The calculator's tensors for the run in peft's guide (Llama-2-70B, 2 GPUs, 2 × 2,048 "
        f"tokens, rank 8, all in 16 bits) are {format_bytes(size)} on each GPU; the guide reports "
        f"{format_bytes(GUIDE_BYTES)} of memory in use, {GUIDE_BYTES / size - 1:.0%} more."
    )


def measure() -> Iterator[Report]:
    """Yield only the date and the machine, because the tables are computed without a report."""
    yield measured_here()


BENCHMARK = Benchmark(
    measure,
    {
        "needs": peak_table,
        "cards": card_sizes,
        "guide": guide_comparison,
        "parts": part_table,
        "loading": loading_table,
    },
)
