"""Find changes to the settings that make a training step fit a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, cast

from course_utils.memory.estimates import Estimate, estimate
from course_utils.memory.gpus import usable_bytes
from course_utils.memory.search import largest
from course_utils.memory.settings import OPTIMIZERS, Settings
from course_utils.memory.shapes import ModelShape

# Texts of fewer tokens are not proposed, because they are too short to train on.
LEAST_LENGTH = 32
# The numbers of GPUs that are proposed.
GPU_COUNTS = (2, 4, 8)


@dataclass(frozen=True)
class Alternative:
    """Settings with which a training step fits a GPU.

    Attributes:
        words: What is different, such as "gradient checkpointing".
        changes: The arguments of `estimate` that are different, with their new values. The key
            "model" or "method" stands for the argument of this name.
        estimate: The estimate for the changed settings.
    """

    words: str
    changes: Mapping[str, Any]
    estimate: Estimate


Change = tuple[str, dict[str, Any]]


def alternatives(
    model: ModelShape | str | Path | Mapping[str, Any],
    method: str = "full",
    *,
    gpu: str | int,
    **options: Any,
) -> list[Alternative]:
    """Return changes to the settings that would make a training step fit a GPU.

    Each alternative makes one change. The first alternatives keep the model, the texts, the method
    and the hardware, and change only how the step is computed, such as gradient checkpointing. If
    none of them is enough, the next alternative makes all of these changes together. The last
    alternatives are shorter texts, a method that needs less memory, more GPUs, and a smaller model.

    Args:
        model: As in `estimate`.
        method: As in `estimate`.
        gpu: A name from `GPUS`, or the memory of a GPU in bytes.
        options: As in `estimate`.

    Returns:
        The alternatives that fit; empty if no change is enough.

    Raises:
        ValueError: As in `estimate`, or the GPU is unknown.
    """
    budget = usable_bytes(gpu)
    settings = Settings.of(method, options)
    given = {"model": ModelShape.of(model), "method": method, **options}
    found: list[Alternative] = []

    def propose_first_that_fits(candidates: Iterable[Change]) -> None:
        for words, changes in candidates:
            # Some models don't support some settings: Gemma 2 needs eager attention.
            with suppress(ValueError):
                changed = estimate(**given | changes)
                if changed.total <= budget:
                    found.append(Alternative(words, changes, changed))
                    return

    small, batches = list(_small_changes(settings)), list(_smaller_batches(settings))
    for change in small:
        propose_first_that_fits([change])
    propose_first_that_fits(batches)
    if not found:
        propose_first_that_fits([_together([*small, *batches[-1:]])])
    propose_first_that_fits(_shorter_texts(settings, given, gpu))
    for change in _other_methods(settings):
        propose_first_that_fits([change])
    propose_first_that_fits(_more_gpus(settings))
    propose_first_that_fits(_smaller_models(given, gpu))
    return found


def _small_changes(settings: Settings) -> Iterator[Change]:
    """Yield the changes that keep the model, the batch, the method and the hardware."""
    if not settings.gradient_checkpointing:
        yield "gradient checkpointing", {"gradient_checkpointing": True}
    if settings.attention != "sdpa":
        yield "fused attention (SDPA)", {"attention": "sdpa"}
    if settings.keep_output:
        yield "a loop that keeps only the loss", {"keep_output": False}
    optimizer = OPTIMIZERS[settings.optimizer]
    if optimizer.states == 2 and not optimizer.eight_bit:
        paged = "paged_" if optimizer.paged else ""
        yield "8-bit Adam", {"optimizer": f"{paged}adamw8bit"}
    if settings.method == "qlora" and not settings.double_quant:
        yield "double quantization", {"double_quant": True}
    if settings.method == "qlora" and settings.upcast:
        yield "unquantized weights in 16 bits", {"upcast": False}


def _smaller_batches(settings: Settings) -> Iterator[Change]:
    """Yield changes to smaller micro-batches, starting with the largest micro-batch.

    An update is split into more micro-batches, so it still uses the same number of texts.
    """
    size = settings.batch_size
    small = [n for n in range(1, isqrt(size) + 1) if size % n == 0]
    divisors = {*small, *(size // n for n in small)} - {size}
    for micro in sorted(divisors, reverse=True):
        count = settings.accumulation * size // micro
        texts = "1 text" if micro == 1 else f"{micro:,} texts"
        words = f"{count:,} micro-batches of {texts} for each update"
        yield words, {"batch_size": micro, "accumulation": count}


def _together(changes: Iterable[Change]) -> Change:
    """Combine several changes into one."""
    joined: dict[str, Any] = {}
    words = []
    for each, values in changes:
        words.append(each)
        joined |= values
    return f"all of these: {', '.join(words)}", joined


def _shorter_texts(
    settings: Settings, given: Mapping[str, Any], gpu: str | int
) -> Iterator[Change]:
    if given["model"].known:
        length = cast(int, largest("sequence_length", gpu, **given))
        if LEAST_LENGTH <= length < settings.sequence_length:
            yield f"texts of at most {length:,} tokens", {"sequence_length": length}


def _other_methods(settings: Settings) -> Iterator[Change]:
    """Yield the methods that need less memory than the chosen one."""
    usual: dict[str, Any] = {"recipe": "autocast"}
    if settings.method == "full":
        usual["targets"] = "all-linear"
        yield "LoRA on a 16-bit base", {"method": "lora", **usual}
    if settings.method != "qlora":
        smallest = {"double_quant": True, "upcast": False}
        yield "QLoRA on an NF4 base", {"method": "qlora", **usual, **smallest}


def _more_gpus(settings: Settings) -> Iterator[Change]:
    for count in GPU_COUNTS:
        if count > settings.gpus:
            yield f"{count} GPUs with ZeRO-3 or FSDP", {"gpus": count, "sharding": "zero3"}


def _smaller_models(given: Mapping[str, Any], gpu: str | int) -> Iterator[Change]:
    options = {name: value for name, value in given.items() if name != "model"}
    # No preset may support the options, such as a target that only the given model has.
    with suppress(ValueError):
        if name := largest("model", gpu, **options):
            yield f"{name}, the largest of the listed models that fits", {"model": name}
