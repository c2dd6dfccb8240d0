"""Predict the memory and the time of a fine-tuning run, and choose a batch size that fits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from typing import TYPE_CHECKING

import torch

from course_utils.machine import runtime
from course_utils.machine.units import format_bytes
from course_utils.machine.validation import CourseError
from course_utils.memory import largest_number
from course_utils.models.menu import menu, predicted_peak
from course_utils.sft import IGNORE

if TYPE_CHECKING:
    from course_utils.sft import Features
    from course_utils.training import Recipe
    from course_utils.tuning.base import Base

# For each token, every weight takes part in one multiplication and one addition when the forward
# pass is computed, again when the forward pass is recomputed (gradient checkpointing), and again
# when the gradient of the layer's input is computed. Together, these are 6 floating-point
# operations. The gradient of the weight itself is not computed, because the weight is frozen.
OPERATIONS_PER_WEIGHT = 6
# Training reaches this share of the floating-point operations per second that a large matrix
# multiplication reaches. In three runs with SmolLM2-135M on two cores, it was from 0.68 to 0.81.
EFFICIENCY = 0.75
# If only texts with fewer tokens than this would fit, the error message doesn't propose them,
# because they are too short to be worth training on.
LEAST_LENGTH = 32


@dataclass(frozen=True)
class Forecast:
    """The predicted memory and time of a run, computed before the weights are downloaded.

    Attributes:
        memory: predicted peak memory of the training in bytes (B), in addition to `in_use`. The
            command `course fit --trainer course` predicts this peak in the same way.
        in_use: memory in bytes (B) that the process uses before the model is loaded, for Python and
            its libraries.
        free: free memory of the device in bytes (B).
        seconds: predicted duration of the training in seconds. It can be wrong by a factor of two.
    """

    recipe: Recipe
    longest: int
    tokens: int
    steps: int
    memory: int
    in_use: int
    free: int
    seconds: float
    device: str

    def __str__(self) -> str:
        size = self.recipe.micro_batch_size
        batch = "1 example" if size == 1 else f"{size} examples"
        if self.recipe.accumulation > 1:
            batch = f"{self.recipe.accumulation} × {batch}"
        return (
            f"Training needs about {format_bytes(self.memory)} of memory on {self.device}, where "
            f"{format_bytes(self.free)} are free, and about {duration(self.seconds)}: "
            f"{self.steps} steps, each with {batch} of at most {self.longest} tokens."
        )


def forecast(base: Base, examples: Sequence[Features], recipe: Recipe) -> Forecast:
    """Predict the memory and the time of a run, and choose a micro-batch size that fits.

    If a batch doesn't fit into memory, all activations are recomputed. If it still doesn't fit, it
    is divided into equal micro-batches whose gradients are added. Up to rounding, this doesn't
    change the result of the training.
    """
    device = runtime.known_device()
    free = runtime.free_memory(device)
    lengths = [len(example["input_ids"]) for example in examples]
    longest = max(lengths)
    # From the first answer on, any position may need logits: a batch needs those of all its rows.
    answer = max(len(list(dropwhile(IGNORE.__eq__, row["labels"]))) for row in examples)
    for fitted in _equal_recipes(recipe):
        if (memory := _peak(base, fitted, longest, answer)) <= free:
            break
    else:
        needed = (
            f"{base.name} needs about {format_bytes(memory)} of memory to train on one text of "
            f"{longest} tokens at a time, but only {format_bytes(free)} are free on {device}"
        )
        raise CourseError(f"{needed}. {_what_fits(base, fitted, longest, answer, free)}")
    tokens = round(
        recipe.steps(len(examples)) / recipe.steps_per_epoch(len(examples)) * sum(lengths)
    )
    work = OPERATIONS_PER_WEIGHT * base.shape.parameters * tokens
    seconds = work / (EFFICIENCY * operations_per_second(device))
    steps = recipe.steps(len(examples))
    in_use = runtime.current_memory(device)
    return Forecast(fitted, longest, tokens, steps, memory, in_use, free, seconds, device.type)


def _equal_recipes(recipe: Recipe) -> Iterator[Recipe]:
    """Yield recipes with the same result, from the fastest to the one that needs least memory."""
    most = recipe.micro_batch_size
    for size in [n for n in range(most, 0, -1) if most % n == 0]:
        for checkpointing in dict.fromkeys((recipe.gradient_checkpointing, True)):
            yield replace(
                recipe,
                micro_batch_size=size,
                accumulation=recipe.accumulation * most // size,
                gradient_checkpointing=checkpointing,
            )


def _peak(base: Base, recipe: Recipe, length: int, answer: int) -> int:
    """Predict the peak memory of training in bytes (B), for answers of at most `answer` tokens."""
    try:
        return predicted_peak(
            base.folder,
            runtime.known_device(),
            batch_size=recipe.micro_batch_size,
            sequence_length=length,
            rank=recipe.rank,
            answer_share=min(1, answer / max(1, length - 1)),
            gradient_checkpointing=recipe.gradient_checkpointing,
        )
    except ValueError as error:
        raise CourseError(f"the memory that this run needs can't be predicted: {error}") from error


def _what_fits(base: Base, recipe: Recipe, longest: int, answer: int, free: int) -> str:
    """Return a sentence that proposes shorter texts and another model, if these would fit."""
    fits = []
    shorter = largest_number(lambda n: _peak(base, recipe, n, answer) <= free, longest)
    if shorter >= LEAST_LENGTH:
        fits.append(f"texts of at most {shorter} tokens (--max-length {shorter})")
    if models := [row["model"] for row in menu(free=free) if row["fits"]]:
        fits.append(f"the model {models[-1]} (--model {models[-1]})")
    if not fits:
        return "None of the models of the course would fit."
    return f"What would fit: {' or '.join(fits)}."


def operations_per_second(device: torch.device, seconds: float = 0.3) -> float:
    """Measure how many floating-point operations per second a matrix multiplication reaches."""
    dtype, size = runtime.compute_dtype(device), 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b  # The first multiplication isn't timed, because it also includes the choice of a kernel.
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        a @ b
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return count * 2 * size**3 / passed


def duration(seconds: float) -> str:
    """Return a duration as text, such as "40 s", "3 min" or "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
