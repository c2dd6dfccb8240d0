"""Train a model in float16 or float32 on a CPU, step by step.

A float16 number has 11 significant bits and at most the value 65,504. So float16 changes a training
run in two ways. Each result is rounded, and a gradient can overflow to infinity. The gradient
scaler must then skip the step and halve the scale by which it multiplies the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Features],
    recipe: Recipe,
    scale: float | None = None,
) -> tuple[list[dict], float]:
    """Train new adapters with all computations in the recipe's compute_dtype, and remove them.

    Args:
        model: a base model, whose dtype is changed to the recipe's compute_dtype (None: float32).
        tokenizer: the tokenizer of the model.
        features: tokenized conversations to train on.
        recipe: the recipe of the run.
        scale: the first scale of the gradient scaler; default: the scaler's own.

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
