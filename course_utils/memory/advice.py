"""Find changes to the settings that make a training step fit a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, cast

from course_utils.memory.estimates import Estimate, estimate
from course_utils.memory.families import PRESETS
from course_utils.memory.fit import predict
from course_utils.memory.gpus import usable_bytes
from course_utils.memory.search import largest
from course_utils.memory.settings import OPTIMIZERS, Settings
from course_utils.memory.shapes import ModelShape

# Smaller values are not proposed, because such short texts and such small ranks are rarely useful.
LEAST = {"sequence_length": 32, "rank": 4}
SHARDING_WORDS = {"zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3 or FSDP"}
# The numbers of GPUs that are proposed.
GPU_COUNTS = (2, 4, 8)


@dataclass(frozen=True)
class Alternative:
    """Settings with which a training step fits a GPU.

    Attributes:
        words: What is different, such as "gradient checkpointing".
        changes: The arguments of `estimate` that are different, with their new values. They
            may include "model" and "method".
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
    """Return changes to the settings that would make a training step fit a GPU; empty if none does.

    The first alternatives keep the model, the texts, the method and the hardware, and change only
    how the step is computed, such as gradient checkpointing. Each of them makes one change. If none
    of them is enough, the next alternative makes all of these changes together. The last
    alternatives are shorter texts, a smaller rank, a method that needs less memory, more GPUs, and
    a smaller model. If all of the first changes together are not enough, and such a change alone is
    not enough either, they are combined.

    `gpu` is a name from `GPUS`, or the memory of a GPU in bytes; the other arguments are those of
    `estimate`.
    """
    budget = usable_bytes(gpu)
    settings = Settings.of(method, options)
    given = {"model": ModelShape.of(model), "method": method, **options}
    found: list[Alternative] = []

    def changed(changes: dict[str, Any]) -> Estimate | None:
        """Return the new estimate, or None if the model doesn't support the changes."""
        with suppress(ValueError):
            return estimate(**given | changes)
        return None

    def propose_first_that_fits(candidates: Iterable[Change]) -> bool:
        for words, changes in candidates:
            new = changed(changes)
            if new and new.total <= budget:
                found.append(Alternative(words, changes, new))
                return True
        return False

    # Some models don't support some settings: fused attention and texts as long as the window.
    small = [change for change in _small_changes(settings) if changed(change[1])]
    batches = list(_smaller_batches(settings))
    for change in small:
        propose_first_that_fits([change])
    propose_first_that_fits(batches)
    more = [] if found else [*small, *batches[-1:]]
    if len(more) > 1 and propose_first_that_fits([_together(more)]):
        more = []
    changed_more = given | {name: value for _, changes in more for name, value in changes.items()}
    for alone, combined in zip(
        _larger_changes(settings, given, gpu),
        _larger_changes(settings, changed_more, gpu),
        strict=True,
    ):
        if not propose_first_that_fits(alone) and more:
            propose_first_that_fits(
                _together([change, *_others(more, change)]) for change in combined
            )
    return found


def traced_alternatives(
    model: str | Path | Mapping[str, Any],
    method: str = "full",
    *,
    gpu: str | int,
    progress: Callable[[list[Change]], Iterable[Change]] = list,
    **options: Any,
) -> list[Alternative]:
    """Return changes that would make a step fit a GPU, for a model that the formula doesn't know.

    Each trace takes seconds, so only a few changes are tried. If no single change is enough, all
    changes are tried together. `progress` gets the changes and yields each of them, so it can show
    a progress bar.
    """
    budget, settings = usable_bytes(gpu), Settings.of(method, options)
    changes = [*_small_changes(settings), *list(_smaller_batches(settings))[-1:]]
    changes += _other_methods(settings, options)
    if (half := settings.sequence_length // 2) >= LEAST["sequence_length"]:
        changes.append((f"texts of at most {half:,} tokens", {"sequence_length": half}))
    found: list[Alternative] = []

    def try_each(changes: list[Change]) -> None:
        for words, new in progress(changes):
            with suppress(ValueError):
                changed = predict(**{"model": model, "method": method, **options} | new)
                if changed.total <= budget:
                    found.append(Alternative(words, new, changed))

    try_each(changes)
    if not found and len(changes) > 1:
        try_each([_together(changes)])
    return found


def _larger_changes(
    settings: Settings, given: Mapping[str, Any], gpu: str | int
) -> Iterator[Iterable[Change]]:
    """Yield groups of changes to `settings`. From each group, the first that fits is proposed.

    `given` are the arguments of `estimate`, which may contain other changes already.
    """
    length, rank = settings.sequence_length, settings.rank
    yield _smaller("sequence_length", "texts of at most {:,} tokens", length, given, gpu)
    yield _smaller("rank", "a rank of at most {:,}", rank, given, gpu)
    for change in _other_methods(settings, given):
        yield [change]
    yield _sharding(settings)
    yield _more_gpus(settings)
    yield _smaller_models(given["model"])


def _small_changes(settings: Settings) -> Iterator[Change]:
    """Yield changes that leave the model, the batch, the method and the hardware as they are."""
    if not settings.gradient_checkpointing:
        yield "gradient checkpointing", {"gradient_checkpointing": True}
    if settings.method == "lora" and settings.compute_dtype == "float32":
        yield "a base model in 16 bits", {"compute_dtype": "float16"}
    if settings.attention != "sdpa":
        yield "fused attention (SDPA)", {"attention": "sdpa"}
    if settings.loss == "logits":
        yield "a loss in tiles, as in TRL", {"loss": "tiled"}
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


def _others(changes: Iterable[Change], chosen: Change) -> list[Change]:
    """Return the changes of arguments that the chosen change doesn't set."""
    return [change for change in changes if not change[1].keys() <= chosen[1].keys()]


def _together(changes: Iterable[Change]) -> Change:
    joined: dict[str, Any] = {}
    words = []
    for each, values in changes:
        words.append(each)
        joined |= values
    *first, last = words
    return f"all of these: {', '.join(first)} and {last}", joined


def _smaller(
    name: str, words: str, chosen: int, given: Mapping[str, Any], gpu: str | int
) -> Iterator[Change]:
    """Yield the largest length or rank that fits, if it is smaller than the chosen one."""
    # Full fine-tuning has no rank, and the layers of some models are unknown.
    with suppress(ValueError):
        most = cast(int, largest(name, gpu, **given))
        if LEAST[name] <= most < chosen:
            yield words.format(most), {name: most}


def _other_methods(settings: Settings, given: Mapping[str, Any]) -> Iterator[Change]:
    """Yield methods that need less memory than the chosen method, each with its usual recipe."""
    trainer = {"trainer": given["trainer"]} if "trainer" in given else {}
    usual: dict[str, Any] = {}
    in_float16 = ""
    if settings.compute_dtype == "float32":
        usual["compute_dtype"], in_float16 = "float16", " in float16"
    if settings.method == "full":
        usual["targets"] = "all-linear"
        recipe = Settings.of("lora", trainer).recipe
        yield "LoRA on a 16-bit base", {"method": "lora", "recipe": recipe, **usual}
    if settings.method != "qlora":
        recipe = Settings.of("qlora", trainer).recipe
        smallest = {"recipe": recipe, "double_quant": True, "upcast": False}
        yield f"QLoRA{in_float16} on an NF4 base", {"method": "qlora", **usual, **smallest}


def _sharding(settings: Settings) -> Iterator[Change]:
    """Yield stronger kinds of sharding for the chosen GPUs, starting with the weakest."""
    names = list(SHARDING_WORDS)
    stronger = names[names.index(settings.sharding) + 1 :] if settings.sharding in names else names
    if settings.gpus > 1 and settings.sharding != "fsdp":
        for name in stronger:
            words = f"{SHARDING_WORDS[name]} on these {settings.gpus:,} GPUs"
            yield words, {"sharding": name}


def _more_gpus(settings: Settings) -> Iterator[Change]:
    for count in GPU_COUNTS:
        if count > settings.gpus:
            words = f"{count} GPUs with {SHARDING_WORDS['zero3']}"
            yield words, {"gpus": count, "sharding": "zero3"}


def _smaller_models(model: ModelShape) -> Iterator[Change]:
    shapes = [ModelShape.preset(name) for name in PRESETS]
    smaller = [shape for shape in shapes if shape.parameters < model.parameters]
    for shape in sorted(smaller, key=lambda shape: -shape.parameters):
        yield f"the smaller model {shape.name}", {"model": shape.name}
