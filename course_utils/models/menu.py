"""Predict the memory that QLoRA needs for each base model, before anything is downloaded.

The predictions are those of the course's calculator, `course_utils.memory`, for the training run of
lecture 07: adapters of rank 8 on all linear layers, and 8 examples per step. The course computes
logits only for tokens whose next token belongs to an answer. The number of these tokens depends on
the texts. So on a GPU, the prediction counts the logits of all tokens, which is an upper bound.
Python and its libraries are not counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from course_utils.machine import runtime
from course_utils.machine.units import format_bytes
from course_utils.machine.validation import CourseError, one_of
from course_utils.memory import ModelShape
from course_utils.memory.fit import predict
from course_utils.models.fetch import BASE_MODELS, SMALL_MODEL, known_model
from course_utils.models.supported import QUANTIZATIONS

# The longest training example of lecture 07 has 191 tokens of SmolLM2's tokenizer.
LONGEST = 192


def menu(device: torch.device | str | None = None, free: int | None = None) -> list[dict[str, Any]]:
    """List the base models, with the memory that each of them needs in lecture 07.

    Returns:
        One row for each key of BASE_MODELS. The keys of a row are "model" (the name), "parameters"
        (their number), "download" (2 B per parameter, because the models are published in
        bfloat16), "learning rate", "rate from" (where the learning rate is from), "predicted peak"
        (of training, in bytes) and "fits" (whether the peak is at most the free memory).
    """
    device = runtime.known_device(device)
    free = _free(device) if free is None else free
    rows = []
    for name, model in BASE_MODELS.items():
        needed = predicted_bytes(name, device)
        rows.append(
            {
                "model": name,
                "parameters": _shape(name).parameters,
                "download": predicted_bytes(name, device, quantization=None),
                "learning rate": model.learning_rate,
                "rate from": model.rate_from,
                "predicted peak": needed,
                "fits": needed <= free,
            }
        )
    return rows


def check_fits(
    name: str,
    device: torch.device | str | None = None,
    *,
    quantization: str | None = "nf4",
) -> None:
    """Raise an error if a base model needs more memory than is free.

    SMALL_MODEL is never refused: every machine can train it.
    """
    known_model(name)
    one_of("quantization", quantization, QUANTIZATIONS)
    if name == SMALL_MODEL:
        return
    device = runtime.known_device(device)
    free = _free(device)
    if predicted_bytes(name, device, quantization) <= free:
        return
    needs = {n: predicted_bytes(n, device, quantization) for n in BASE_MODELS}
    instead = "none of the course's models would fit"
    # The last model that fits is the largest one, because BASE_MODELS is sorted by size.
    if fitting := [other for other, needed in needs.items() if needed <= free]:
        instead = f"{fitting[-1]} would fit, with {format_bytes(needs[fitting[-1]])}"
    purpose = "train with QLoRA" if quantization else "load in 16 bits"
    raise CourseError(
        f"{name} needs about {format_bytes(needs[name])} to {purpose}, but only "
        f"{format_bytes(free)} are free on {device}; {instead}. To load it anyway, pass "
        "check_memory=False to load_base."
    )


def predicted_bytes(name: str, device: torch.device, quantization: str | None = "nf4") -> int:
    """Return the memory that a base model needs on a device, in bytes (B).

    Args:
        quantization: "nf4" for the peak of training as in lecture 07, or None for the model's
            weights in 16 bits alone.
    """
    shape = _shape(name)
    return predicted_peak(shape, device) if quantization else 2 * shape.parameters


def predicted_peak(model: ModelShape | Path, device: torch.device, **changes: Any) -> int:
    """Return the peak memory of QLoRA training as in lecture 07, in bytes (B).

    Args:
        model: the shape of a model, or a folder with its config.
        changes: options of `memory.estimate` whose values differ from lecture 07's.
    """
    return predict(model, "qlora", **_options(device) | changes).total


def _shape(name: str) -> ModelShape:
    return ModelShape.preset(BASE_MODELS[name].shape or name)


def _options(device: torch.device) -> dict[str, Any]:
    """Return the options of `memory.estimate` for lecture 07's training on a device."""
    options = {
        "trainer": "course",
        "batch_size": 8,
        "sequence_length": LONGEST,
        "rank": 8,
        "targets": "all-linear",
        "double_quant": True,
        "device": device.type,
    }
    # On a GPU, autocast computes in 16 bits (float16 and bfloat16 need the same memory), and the
    # optimizer has 8-bit states. On a CPU, the course's step computes without autocast.
    if device.type == "cuda":
        return options | {"optimizer": "paged_adamw8bit"}
    dtype = str(runtime.compute_dtype(device)).removeprefix("torch.")
    return options | {"recipe": "fp32", "compute_dtype": dtype}


def _free(device: torch.device) -> int:
    runtime.check_available(device)
    return runtime.free_memory(device)
