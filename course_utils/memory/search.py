"""Find the largest batch, sequence, rank or model for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from course_utils.memory.estimates import Estimate, estimate
from course_utils.memory.families import PRESETS
from course_utils.memory.gpus import usable_bytes
from course_utils.memory.settings import Settings
from course_utils.memory.shapes import ModelShape

# The largest batch size, sequence length or rank that the search can return.
SEARCH_LIMIT = 2**24


def largest(
    what: str,
    gpu: str | int,
    model: ModelShape | str | Mapping[str, Any] | None = None,
    method: str = "full",
    **options: Any,
) -> int | str | None:
    """Return the largest batch size, sequence length, rank or model that fits a GPU.

    Args:
        what: "batch_size", "sequence_length", "rank" or "model". The search doesn't go beyond the
            models and lengths that `estimate` supports.
        gpu: A name from `GPUS`, or the memory of a GPU in bytes.
        model: As in `estimate`; None to search for the largest model.
        options: As in `estimate`. In a search for the largest model, `targets` defaults to
            "all-linear".

    Returns:
        The largest number, or 0 if not even 1 fits. For "model", the name of the largest preset
        that fits, or None.
    """
    budget = usable_bytes(gpu)
    if what == "model":
        return _largest_model(budget, model, method, {"targets": "all-linear"} | options)
    if what not in ("batch_size", "sequence_length", "rank"):
        raise ValueError(f"what must be batch_size, sequence_length, rank or model; got {what!r}")
    if model is None:
        raise ValueError(f"the search for the largest {what} needs a model, such as 'llama-7b'")
    shape = ModelShape.of(model)
    if not shape.known:
        raise ValueError(
            f"the largest {what} of {shape.name} is unknown: only its number of parameters is known"
        )
    if what == "rank" and method == "full":
        raise ValueError("full fine-tuning has no adapters, so its memory doesn't depend on a rank")

    def fits(value: int) -> bool:
        return estimate(shape, method, **options | {what: value}).total <= budget

    attention = Settings.of(method, options).attention
    limit = shape.longest(attention) if what == "sequence_length" else None
    return largest_number(fits, limit or SEARCH_LIMIT)


def _largest_model(budget: int, model: Any, method: str, options: dict[str, Any]) -> str | None:
    if model is not None:
        raise ValueError(f"the search for the largest model needs no model: leave out {model!r}")
    shapes = [ModelShape.preset(name) for name in PRESETS]
    estimates = [found for shape in shapes if (found := _supported(shape, method, options))]
    if not estimates:
        # This call raises the ValueError that says what is wrong with the options.
        estimate(shapes[0], method, **options)
    fitting = [found.shape for found in estimates if found.total <= budget]
    return max(fitting, key=lambda shape: shape.parameters).name if fitting else None


def _supported(shape: ModelShape, method: str, options: dict[str, Any]) -> Estimate | None:
    """Return the estimate, or None if the model lacks a target layer or allows no such length."""
    try:
        return estimate(shape, method, **options)
    except ValueError:
        return None


def largest_number(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest number up to `limit` for which `fits` returns True, or 0.

    `fits` must return True for every number up to the answer, and False for larger ones.
    """
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
