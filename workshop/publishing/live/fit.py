"""Answer "Will it fit?": compare the memory of a training step with the memory of GPUs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast

from course_utils import memory
from course_utils.machine.units import format_bytes
from course_utils.memory import GPUS, Alternative, Estimate, ModelShape, usable_bytes
from course_utils.notebook.controls import (
    ADAPTERS,
    METHODS,
    MOST_DIGITS,
    QLORA,
    Condition,
    Control,
    same,
    used,
    values_of,
)
from course_utils.palette import colours
from workshop.publishing.live.markup import (
    alert,
    figure,
    legend,
    marks,
    stacked_bar,
    table,
    text,
    with_article,
)

# The key of the entry "your own config.json" in the menu of models.
OWN = "config"
TARGETS = {
    "all-linear": "all linear layers",
    "q_proj,k_proj,v_proj,o_proj": "attention: q, k, v, o",
    "q_proj,v_proj": "q and v",
}
# A config with more brackets, longer numbers or more layers is refused before it is evaluated,
# because it could occupy the browser for minutes.
MOST_BRACKETS, MOST_LAYERS = 1000, 1000
LAYERS = ("num_hidden_layers", "n_layer")
# If the calculator doesn't support the settings, these changes are tried.
REPAIRS: tuple[dict[str, Any], ...] = (
    {"attention": "eager"},
    {"targets": "all-linear"},
    {"compute_dtype": "float16"},
    {"recipe": "fp32"},
    {"method": "full"},
)
# Full fine-tuning uses the recipe of the slides. Adapters use the recipe of transformers' Trainer.
USUAL = {"full": "mixed", "lora": "autocast", "qlora": "autocast"}
OPTIMIZERS = {
    "adamw": "AdamW",
    "adamw_foreach": "AdamW, foreach variant",
    "adamw8bit": "8-bit AdamW",
    "paged_adamw": "paged AdamW",
    "paged_adamw8bit": "paged 8-bit AdamW",
    "sgd": "SGD",
    "sgd_momentum": "SGD with momentum",
}
SHARDINGS = {
    None: "nothing",
    "zero1": "ZeRO-1: states",
    "zero2": "ZeRO-2: also gradients",
    "zero3": "ZeRO-3: also weights",
    "fsdp": "FSDP: as ZeRO-3",
}

CONTROLS = {
    "model": Control(
        "Model",
        "llama-3.1-8b",
        {"7b": "7B, as on the slides"} | same(memory.PRESETS) | {OWN: "your own config.json"},
    ),
    "config": Control(
        "config.json of your model", "", most=100_000, only_if=Condition("model", (OWN,))
    ),
    "method": Control("Method", "qlora", METHODS),
    "gpu": Control("GPU", "T4", same(GPUS)),
    "batch_size": Control("Texts in a batch", 1, most=1024),
    "sequence_length": Control("Tokens in a text", 1024, most=1_048_576),
    "rank": Control("Rank r", 16, most=4096, only_if=ADAPTERS),
    "targets": Control("Adapters on", "all-linear", TARGETS, only_if=ADAPTERS),
    "optimizer": Control("Optimizer", "adamw", OPTIMIZERS),
    "attention": Control("Attention", "sdpa", {"sdpa": "fused (SDPA)", "eager": "eager"}),
    "gpus": Control("Number of GPUs", 1, most=4096),
    "sharding": Control("Divided among GPUs", None, SHARDINGS),
    "gradient_checkpointing": Control("Gradient checkpointing", True),
    "double_quant": Control("Double quantization", True, only_if=QLORA),
    "accumulation": Control(
        "Batches for each update",
        1,
        most=1_000_000,
        help="With two or more (gradient accumulation), gradients stay in memory.",
        more=True,
    ),
    "recipe": Control(
        "Recipe",
        "usual",
        {"usual": "usual for the method"} | same(memory.RECIPES),
        help="The number formats of trained weights, gradients and states.",
        more=True,
    ),
    "compute_dtype": Control("Compute in", "float16", same(memory.DTYPE_BYTES), more=True),
    "block_size": Control(
        "Weights in a block of NF4", 64, same(memory.BLOCK_SIZES), only_if=QLORA, more=True
    ),
    "upcast": Control(
        "Unquantized weights in float32",
        False,
        only_if=QLORA,
        help="peft's prepare_model_for_kbit_training converts them.",
        more=True,
    ),
    "keep_output": Control(
        "The loop keeps the logits", False, help="transformers' Trainer doesn't.", more=True
    ),
}


def answer(values: Mapping[str, Any]) -> str:
    """Return the answer as HTML: yes or no, a bar, what would fit, every term, and Python code."""
    model, method, options = arguments(values)
    try:
        found = memory.estimate(model, method, **options)
    except ValueError as error:
        return alert(error) + _repairs(values, model)
    gpu = values["gpu"]
    return "".join(
        [
            _verdict(found, gpu),
            _bar(found, gpu),
            _other_settings(found, gpu, options),
            _cards(found),
            _terms(found),
            _python(values, method, options),
        ]
    )


def methods(model: str) -> str:
    """Return the memory that each method needs for a preset, as bars in HTML."""
    first = values_of(CONTROLS, {}) | {"model": model}
    gpu = first["gpu"]
    found = {}
    for method in METHODS:
        shape, _, options = arguments(first | {"method": method})
        found[method] = memory.estimate(shape, method, **options)
    end = 1.06 * max(each.total for each in found.values())
    rows = "".join(
        f"<div><b>{text(METHODS[method])}: {format_bytes(each.total, digits=1)}</b> "
        f"{'✓ fits' if each.fits(gpu) else '✗ does not fit'}"
        f"{stacked_bar({name: size for name, size in each.groups.items() if size > 0}, end)}</div>"
        for method, each in found.items()
    )
    words = ", ".join(f"{METHODS[m]} {format_bytes(each.total)}" for m, each in found.items())
    return figure(f"Bars of the memory of a training step: {words}.", rows, "methods")


def arguments(values: Mapping[str, Any]) -> tuple[ModelShape, str, dict[str, Any]]:
    """Convert the values of the controls to arguments of `memory.estimate`."""
    method, options = values["method"], used(CONTROLS, values)
    for name in ("model", "config", "method", "gpu"):
        options.pop(name, None)
    if options["recipe"] == "usual":
        options["recipe"] = USUAL[method]
    if "," in options.get("targets", ""):
        options["targets"] = tuple(options["targets"].split(","))
    return _model(values), method, options


def _model(values: Mapping[str, Any]) -> ModelShape:
    if values["model"] != OWN:
        return ModelShape.preset(values["model"])
    if not values["config"].strip():
        raise ValueError("Please paste the config.json of your model, or choose its file.")
    # Some editors put a byte order mark at the beginning of a file.
    written = values["config"].removeprefix("\ufeff")
    if written.count("[") + written.count("{") > MOST_BRACKETS:
        raise ValueError(f"The config has more than {MOST_BRACKETS:,} brackets [ and {{.")
    try:
        config = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The config is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError("The config must be a JSON object, which begins with { and ends with }.")
    for name, value in config.items():
        if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
            raise ValueError(f"The config's {name!r} has more than {MOST_DIGITS} digits.")
        if isinstance(value, int) and name in LAYERS and value > MOST_LAYERS:
            raise ValueError(f"The config has {value:,} layers; at most {MOST_LAYERS:,} work.")
    return ModelShape.from_config(config)


def _repairs(values: Mapping[str, Any], model: ModelShape) -> str:
    """Return single changes that make the settings ones that the calculator supports, as HTML."""
    longest = model.longest(values["attention"]) if model.known else None
    shorter = [{"sequence_length": longest}] if longest else []
    buttons = []
    for change in (*shorter, *REPAIRS):
        changed, method, options = arguments({**values, **change})
        with suppress(ValueError):
            memory.estimate(changed, method, **options)
            ((name, value),) = change.items()
            control = CONTROLS[name]
            words = control.options[value] if control.options else f"{value:,}"
            buttons.append(_button(f"{control.label}: {words}", change))
    return _list("What would work instead?", buttons) if buttons else ""


def _verdict(found: Estimate, gpu: str) -> str:
    budget = usable_bytes(gpu)
    rest, has = format_bytes(abs(budget - found.total)), format_bytes(budget)
    if found.total <= budget:
        first, end = f"Yes, it fits on {with_article(gpu)}.", f"so {rest} stay free"
    else:
        first, end = f"No, it does not fit on {with_article(gpu)}.", f"so {rest} are missing"
    who = "Each GPU" if found.settings.gpus > 1 else "A training step"
    more = (
        f"{who} needs {format_bytes(found.total)} at its peak, which is at {found.peak}. Tensors "
        f"can use {has} of {with_article(gpu)}, {end}."
    )
    if not found.shape.known:
        more += (
            f" Of {found.shape.name}, only the number of parameters is known, so activations are "
            "not counted."
        )
    return f'<p class="live-verdict" data-say><strong>{text(first)}</strong> {text(more)}</p>'


def _bar(found: Estimate, gpu: str) -> str:
    """Return the bytes at the peak as one bar, with marks at the limits of GPUs."""
    parts = {name: size for name, size in found.groups.items() if size > 0}
    limits = {name: usable_bytes(name) for name in GPUS}
    end = 1.06 * max(found.total, limits[gpu])
    chosen = colours(parts)
    labels = {f"{name} {format_bytes(parts[name])}": chosen[name] for name in parts}
    places = {name: size / end for name, size in limits.items()}
    at = ", ".join(f"{name} at {format_bytes(size)}" for name, size in limits.items())
    alt = f"A bar of {format_bytes(found.total)}: {', '.join(labels)}. Marks: {at}."
    return figure(alt, marks(places) + stacked_bar(parts, end) + legend(labels), "memory")


def _other_settings(found: Estimate, gpu: str, options: Mapping[str, Any]) -> str:
    """Return advice as HTML.

    If the step doesn't fit, the advice lists changes that would make it fit. If it fits, the advice
    says how much larger the step could be.
    """
    model, method = found.shape, found.settings.method
    if found.fits(gpu):
        return _room(model, method, gpu, options) if model.known else ""
    found_others = memory.alternatives(model, method, gpu=gpu, **options)
    others = [other for other in found_others if _allowed(other)]
    if not others:
        return f"<p>The course knows no change with which it fits on {with_article(gpu)}.</p>"
    rows = (
        f"<span>{format_bytes(other.estimate.total)}</span> "
        + _button(other.words, _complete(other))
        for other in others
    )
    return _list(f"What would fit on {with_article(gpu)} instead?", rows)


def _allowed(other: Alternative) -> bool:
    """Return whether the form accepts all values of an alternative."""
    return all(
        value <= CONTROLS[name].most for name, value in other.changes.items() if type(value) is int
    )


def _complete(other: Alternative) -> dict[str, Any]:
    """Return the changes of an alternative, and the values of fields that were hidden until now.

    The form shows some fields only for some methods. If the alternative has another method, the
    hidden fields may contain other values than the estimate of the alternative.
    """
    changes, settings = other.changes, other.estimate.settings
    revealed = {
        name: getattr(settings, name)
        for name, control in CONTROLS.items()
        if "method" in changes and control.only_if in (ADAPTERS, QLORA) and control.is_used(changes)
    }
    return revealed | dict(changes)


def _room(model: ModelShape, method: str, gpu: str, options: Mapping[str, Any]) -> str:
    sizes = {
        "batch_size": "texts in a batch",
        "sequence_length": "tokens in a text",
        "rank": "as the rank",
    }
    buttons = []
    for name, words in sizes.items():
        if name in options:
            limit = CONTROLS[name].most
            most = cast(int, memory.largest(name, gpu, model, method, **options))
            up_to = f"{most:,} {words}" if most <= limit else f"more than {limit:,} {words}"
            buttons.append(_button(up_to, {name: min(most, limit)}))
    return _list(f"How much larger could it be on {with_article(gpu)}?", buttons)


def _list(title: str, rows: Iterable[str]) -> str:
    items = "".join(f"<li>{row}</li>" for row in rows)
    return f'<h2>{title}</h2><ul class="live-list">{items}</ul>'


def _button(words: str, changes: Mapping[str, Any]) -> str:
    """Return a button that sets controls to these values."""
    texts = {
        name: CONTROLS[name].write(",".join(value) if isinstance(value, tuple) else value)
        for name, value in changes.items()
    }
    return f'<button type="button" data-set="{text(json.dumps(texts))}">{text(words)}</button>'


def _cards(found: Estimate) -> str:
    rows = []
    for name in GPUS:
        budget = usable_bytes(name)
        rest = format_bytes(abs(budget - found.total))
        result = f"✓ fits, {rest} free" if found.fits(name) else f"✗ {rest} missing"
        rows.append((text(name), format_bytes(budget), result))
    return table(("GPU", "for tensors", "this step"), rows)


def _terms(found: Estimate) -> str:
    rows = [
        (text(term.name), f"{term.size:,}", text(term.formula), text(term.source))
        for part in memory.PARTS
        for term in found.terms
        if term.part == part
    ]
    rows.append(("total", f"{found.total:,}", f"at {text(found.peak)}", ""))
    shown = table(("what", "bytes", "formula", "source"), rows)
    return f"<details><summary>Every term of the sum</summary>{shown}</details>"


def _python(values: Mapping[str, Any], method: str, options: Mapping[str, Any]) -> str:
    """Return Python code that calls `memory.estimate`. Default values of options are left out."""
    defaults = vars(memory.Settings.of(method, {}))
    model = "config.json" if values["model"] == OWN else values["model"]
    chosen = [f"{name}={value!r}" for name, value in options.items() if value != defaults[name]]
    lines = [repr(model), repr(method), *chosen]
    call = "".join(f"    {line},\n" for line in lines)
    code = (
        "from course_utils.memory import estimate\n\n"
        f"e = estimate(\n{call})\nprint(e.explain())\nprint(e.fits({values['gpu']!r}))"
    )
    return (
        "<details><summary>The same in Python</summary>"
        f'<pre class="live-code" tabindex="0">{text(code)}</pre>'
        '<button type="button" data-copy="code">Copy the code</button></details>'
    )
