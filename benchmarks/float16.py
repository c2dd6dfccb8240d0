"""Train a model in float16 and in float32, and compare the losses (a part of `make gpu-check`).

Cards without instructions for bfloat16, such as a T4, compute in float16. PyTorch computes in
float16 on a CPU, too, so the tests run the same comparison without a card.

A float16 number has 11 significant bits and at most the value 65,504. So float16 changes a training
run in two ways. Each result is rounded, and a gradient can overflow to infinity. The gradient
scaler must then skip the step and halve the scale by which it multiplies the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from course_utils.models import linear4bit_layers
from course_utils.sft import Features
from course_utils.training import Recipe, attach_adapters
from course_utils.training.loop import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Maximum relative error of one rounding to float16.
ROUNDING = 2.0**-11
# Maximum relative difference of the losses in float16 and float32. The first loss is the mean over
# many tokens of equal models, so most of the rounding errors cancel. In later steps the weights
# differ, too. In bfloat16, a rounding error is 8 times as large, and the losses of SmolLM2-135M
# with two stories per step exceed both limits.
FIRST, LATER = ROUNDING, 8 * ROUNDING
# A first scale at which no step overflows, so that no step is skipped. At the scaler's own first
# scale, 65,536, a step of SmolLM2-135M overflows if it has only one story.
SMALL_SCALE = 2.0**10
# A scale at which the first step must overflow. The gradient of a logit is at most the scale
# divided by the number of answer tokens of the step, so a few answer tokens are needed here.
LARGE_SCALE = 2.0**24


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Features],
    recipe: Recipe,
) -> dict:
    """Train new adapters in float32, in float16, and in float16 with a scale that is too large.

    Returns:
        The losses of each step as float32, float16 and overflow. The number of skipped steps is
        skipped, and the last scale is scale.
    """
    exact, _ = train(model, tokenizer, features, replace(recipe, compute_dtype=torch.float32))
    half = replace(recipe, compute_dtype=torch.float16)
    rounded, _ = train(model, tokenizer, features, half, scale=SMALL_SCALE)
    overflow, scale = train(model, tokenizer, features, half, scale=LARGE_SCALE)
    losses = {"float32": exact, "float16": rounded, "overflow": overflow}
    return {name: [record["loss"] for record in history] for name, history in losses.items()} | {
        "skipped": sum(not math.isfinite(record["grad_norm"]) for record in overflow),
        "scale": scale,
    }


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Features],
    recipe: Recipe,
    scale: float | None = None,
) -> tuple[list[dict], float]:
    """Train new adapters with all computations in the recipe's compute_dtype, and remove them.

    Args:
        model: A base model, whose dtype is changed to the recipe's compute_dtype (None: float32).
        tokenizer: The tokenizer of the model.
        features: Tokenized conversations to train on.
        recipe: The recipe of the run.
        scale: The first scale of the gradient scaler. Default: the scaler's own.

    Returns:
        The history of the run, and the scale after the last step (1 without a scaler).
    """
    compute_in(model, recipe.compute_dtype or torch.float32)
    tuned = attach_adapters(model, recipe).train()
    trainer = Trainer(tuned, tokenizer, features, (), recipe)
    scaler = trainer.accelerator.scaler
    if scale is not None:
        scaler.load_state_dict(scaler.state_dict() | {"scale": scale})
    history = [trainer.step(number) for number in range(1, trainer.steps + 1)]
    trainer.accelerator.free_memory()
    tuned.unload()
    return history, 1.0 if scaler is None else scaler.get_scale()


def compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Convert all weights that are not quantized to `dtype`, and compute all products in it."""
    for layer in linear4bit_layers(model).values():
        layer.compute_dtype = layer.weight.quant_state.dtype = dtype
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def problems(result: dict) -> list[str]:
    """Return what is wrong with the result of `compare`, one sentence each."""
    found = []
    pairs = zip(result["float16"], result["float32"], strict=True)
    for number, (rounded, exact) in enumerate(pairs, start=1):
        error, limit = rounded / exact - 1, FIRST if number == 1 else LATER
        # A loss that is not a number (NaN) is not within the limit, either.
        if not abs(error) <= limit:
            found.append(f"float16: the loss of step {number} differs by {error:+.2%} from float32")
    if not 0 < result["skipped"] < len(result["overflow"]):
        found.append(
            f"float16: with a scale of {LARGE_SCALE:.0f}, {result['skipped']} of "
            f"{len(result['overflow'])} steps were skipped, not at least one and not all"
        )
    elif result["scale"] != LARGE_SCALE / 2 ** result["skipped"]:
        found.append(
            f"float16: the last scale is {result['scale']}, but each skipped step must halve it"
        )
    return found
