"""Measure how fast the ways of `evidence` train, and how much memory they need, in turns.

Each way trains SmolLM2-135M in its own process, one step in each turn. All ways compute their
gradients with autograd and without checkpointing, so they differ only in what is trained and how
the frozen weights are stored. LoRA and QLoRA also train by hand (`training.by_hand`), which is how
`finetune` trains them on a CPU. All processes are in memory at the same time and need about 20 GB.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from course_utils.training import attach_adapters
from workshop.benchmarks.evidence.plan import ALL, WAYS
from workshop.benchmarks.evidence.smollm2 import encoded_stories, load, make_recipe
from workshop.benchmarks.runner import measured_here
from workshop.benchmarks.training import step_in_turns
from workshop.benchmarks.turns import Turn, take_turns

ROUNDS, WARM_UP = 10, 2
BY_HAND = ", by hand"
NAMES = (
    *(name for name in WAYS if name not in ("full-16", "int4")),
    f"lora{BY_HAND}",
    f"nf4-dq{BY_HAND}",
)


def train(turn: Turn, name: str) -> None:
    """Train in one of the ways NAMES, one step in each turn of this process."""
    settings, by_hand = WAYS[name.removesuffix(BY_HAND)], name.endswith(BY_HAND)
    model, tokenizer = load(settings)
    recipe = replace(
        make_recipe(settings, settings.rates[0], seed=0),
        max_steps=ROUNDS + WARM_UP + 1,
        fast=by_hand,
        compute_dtype=None if by_hand else torch.bfloat16,
    )
    if settings.adapters:
        model = attach_adapters(model, recipe)
    rows = encoded_stories(tokenizer, ALL, seed=0)
    step_in_turns(turn, model, tokenizer, rows, recipe)


def measure() -> dict[str, Any]:
    """Return the speed of each round in tokens/s and the peak memory in bytes, by the way's name.

    The peak memory is that of the whole process, with Python and its libraries.
    """
    ways = {name: partial(train, name=name) for name in NAMES}
    results = take_turns(ways, ROUNDS, WARM_UP)
    return {
        **measured_here(),
        "threads": torch.get_num_threads(),
        "ways": {
            name: {
                "tokens_per_s": [round(p["tokens"] / p["seconds"], 1) for p in result["pieces"]],
                "peak_bytes": result["peak"],
            }
            for name, result in results.items()
        },
    }
