"""Answer "Will it fit?": compare the memory of a training step with the memory of GPUs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

from course_utils import memory
from course_utils.machine.units import format_bytes
from course_utils.memory import Alternative, Estimate, ModelShape, Settings, usable_bytes
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

# The keys of the entries "your own config.json", "another size" and "trainer's choice".
OWN, SIZE, AUTO = "config", "size", "auto"
TARGETS = {
    "all-linear": "all linear layers",
    "q_proj,k_proj,v_proj,o_proj": "attention: q, k, v, o",
    "q_proj,v_proj": "q and v",
}
# A config with more brackets or longer numbers is refused before it is evaluated,
# because it could occupy the browser for minutes.
MOST_BRACKETS = 1000
# If the calculator doesn't support the settings, these changes are tried.
REPAIRS: tuple[dict[str, Any], ...] = (
    {"attention": "eager"},
    {"compute_dtype": "bfloat16"},
    {"recipe": "fp32"},
    {"method": "full"},
)
USUAL = Settings.of("qlora", {})
TRAINERS = {
    "trl": "TRL's SFTTrainer",
    "transformers": "transformers' Trainer",
    "course": "this course's loop",
}
AS_TRAINER = {AUTO: "trainer's choice"}
LOSSES = {"logits": "all logits", "tiled": "in tiles", "answers": "only answer tokens"}
# The options of the command `course fit`.
FLAGS = {
    name: name for name in ("method", "gpu", "trainer", "rank", "targets", "attention", "loss")
}
FLAGS |= {
    "sequence_length": "tokens",
    "batch_size": "batch",
    "compute_dtype": "dtype",
    "gradient_checkpointing": "checkpointing",
    "answer_share": "answers",
    "optimizer": "optimizer",
}
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
    "method": Control("Method", USUAL.method, METHODS),
    "trainer": Control(
        "Trainer", USUAL.trainer, TRAINERS | {None: "none: a plain loop"}, only_if=ADAPTERS
    ),
    "full_trainer": Control(
        "Trainer",
        Settings.of("full", {}).trainer,
        {None: "none: the slide's recipe"} | TRAINERS,
        only_if=Condition("method", ("full",)),
    ),
    "gpu": Control("GPU", "T4", same(memory.USABLE) | {SIZE: "another size"}),
    "size": Control("Its memory in GB", 16, most=10_000, only_if=Condition("gpu", (SIZE,))),
    "batch_size": Control("Texts in a batch", USUAL.batch_size, most=1024),
    "sequence_length": Control("Tokens in a text", USUAL.sequence_length, most=1_048_576),
    "rank": Control("Rank r", USUAL.rank, most=4096, only_if=ADAPTERS),
    "targets": Control("Adapters on", "all-linear", TARGETS, only_if=ADAPTERS),
    "optimizer": Control("Optimizer", AUTO, AS_TRAINER | OPTIMIZERS),
    "loss": Control("Loss", AUTO, AS_TRAINER | LOSSES),
    "answer_share": Control(
        "% of tokens in answers", 100, most=100, only_if=Condition("loss", ("answers",))
    ),
    "gradient_checkpointing": Control(
        "Gradient checkpointing", AUTO, AS_TRAINER | {True: "on", False: "off"}
    ),
    "attention": Control(
        "Attention", USUAL.attention, {"sdpa": "fused (SDPA)", "eager": "eager"}, more=True
    ),
    "gpus": Control("Number of GPUs", 1, most=4096, more=True),
    "sharding": Control("Divided among GPUs", None, SHARDINGS, more=True),
    "accumulation": Control(
        "Batches for each update",
        1,
        most=1_000_000,
        help="With two or more (gradient accumulation), gradients stay in memory.",
        more=True,
    ),
    "recipe": Control(
        "Recipe",
        AUTO,
        AS_TRAINER | same(memory.RECIPES),
        help="The number formats of trained weights, gradients and states.",
        more=True,
    ),
    "compute_dtype": Control(
        "Compute in", USUAL.compute_dtype, same(memory.DTYPE_BYTES), more=True
    ),
    "block_size": Control(
        "Block size of NF4", USUAL.block_size, same(memory.BLOCK_SIZES), only_if=QLORA, more=True
    ),
    "double_quant": Control("Double quantization", USUAL.double_quant, only_if=QLORA, more=True),
    "upcast": Control(
        "Unquantized weights in float32",
        USUAL.upcast,
        only_if=QLORA,
        help="As after peft's preparation for k-bit training.",
        more=True,
    ),
    "keep_output": Control(
        "The loop keeps the logits", USUAL.keep_output, help="Trainers don't.", more=True
    ),
}


def answer(values: Mapping[str, Any]) -> str:
    """Return the answer as HTML: yes or no, a bar, what would fit, every term, and Python code."""
    gpu = f"{values['size']} GB" if values["gpu"] == SIZE else values["gpu"]
    try:
        model, method, options = arguments(values)
    except ValueError as error:
        return _problem(str(error), gpu, values)
    try:
        found = memory.estimate(model, method, **options)
    except ValueError as error:
        return alert(error) + _repairs(values, model)
    return "".join(
        [
            _verdict(found, gpu),
            _decided(found, values),
            _bar(found, gpu),
            _other_settings(found, gpu, options),
            _cards(found),
            _terms(found),
            _python(values, gpu, options),
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
    """Convert the values of the controls to arguments of `memory.estimate`.

    An argument is usually left out if its value is the default.
    """
    model, options = _model(values), _options(values)
    if model.longest("eager"):  # Otherwise `estimate` would shorten the default length.
        options["sequence_length"] = values["sequence_length"]
    return model, values["method"], options


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    method, options = values["method"], used(CONTROLS, values)
    if method == "full":
        options["trainer"] = options["full_trainer"]
    if "answer_share" in options:
        options["answer_share"] /= 100
    if "," in options.get("targets", ""):
        options["targets"] = tuple(options["targets"].split(","))
    # The method sets the default trainer, and the trainer sets the defaults of other options.
    defaults = vars(Settings.of(method, {"trainer": options["trainer"]}))
    defaults = {**defaults, "trainer": Settings.of(method, {}).trainer}
    trainers = [name for name, control in CONTROLS.items() if control.value == AUTO]
    return {
        name: options[name]
        for name, default in defaults.items()
        if name in options
        and options[name] != AUTO
        and (name in trainers or options[name] != default)
    }


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


def _problem(problem: str, gpu: str, values: Mapping[str, Any]) -> str:
    """Return, as HTML, what is wrong with the config.

    If `course fit` can trace the model, also return the command that does this.
    """
    if memory.TRACED not in problem:
        return alert(problem)
    command, missing = ["course", "fit", "config.json"], []
    for name, value in {"method": values["method"], "gpu": gpu, **_options(values)}.items():
        if name not in FLAGS or value is None:
            missing.append(name)
        elif isinstance(value, bool):
            command.append(f"--{'' if value else 'no-'}{FLAGS[name]}")
        else:
            written = ",".join(value) if isinstance(value, tuple) else str(value)
            command += [f"--{FLAGS[name]}", written]
    words = "On your computer, the course computes such a model from its config alone"
    if missing:
        words += f", but its command has no option for {', '.join(missing)}"
    if "experts" in problem:
        words = (
            "All experts are in memory, although each token uses few of them, and bitsandbytes "
            f"leaves experts that share a tensor in 16 bits. {words}"
        )
    problem = problem.removesuffix(f"; {memory.TRACED}")
    return f"{alert(f'{problem}.')}<p>{text(words)}:</p>{_code(shlex.join(command), 'command')}"


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


def _decided(found: Estimate, values: Mapping[str, Any]) -> str:
    """Return the settings that the trainer chooses, as HTML."""
    decided = [
        f"{control.label.lower()} ({control.options[getattr(found.settings, name)]})"
        for name, control in CONTROLS.items()
        if values[name] == AUTO
    ]
    words = f"The trainer's choices: {', '.join(decided)}."
    return f"<p><small>{text(words)}</small></p>" if decided else ""


def _bar(found: Estimate, gpu: str) -> str:
    """Return the bytes at the peak as one bar, with marks at the limits of up to three GPUs."""
    # A part with very few bytes can't be seen in the bar, and would make the legend longer.
    parts = {name: size for name, size in found.groups.items() if size > found.total / 10_000}
    # The chosen GPU, the largest that has too little memory, and the smallest that has enough.
    small = [name for name, size in memory.USABLE.items() if size < found.total]
    enough = [name for name, size in memory.USABLE.items() if size >= found.total]
    limits = {name: usable_bytes(name) for name in (gpu, *small[-1:], *enough[:1])}
    end = 1.06 * max(found.total, *limits.values())
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
    rows = [
        f"<span>{format_bytes(other.estimate.total)}</span> "
        + _button(other.words, _complete(other))
        for other in found_others
        if _allowed(other)
    ]
    if larger := next(filter(found.fits, memory.USABLE), None):
        button = _button(with_article(larger), {"gpu": larger})
        rows.append(f"<span>{format_bytes(found.total)}</span> {button}")
    if not rows:
        return f"<p>The course knows no change with which it fits on {with_article(gpu)}.</p>"
    return _list("What would fit instead?", rows)


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
    usual = vars(Settings.of(settings.method, {"trainer": settings.trainer}))
    return {
        name: AUTO if CONTROLS[name].value == AUTO and value == usual[name] else value
        for name, value in {**revealed, **changes}.items()
    }


def _room(model: ModelShape, method: str, gpu: str, options: Mapping[str, Any]) -> str:
    sizes = {
        "batch_size": "texts in a batch",
        "sequence_length": "tokens in a text",
        "rank": "as the rank",
    }
    buttons = []
    for name, words in sizes.items():
        if name != "rank" or method != "full":
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
    for budget, names in groupby(memory.USABLE.items(), key=itemgetter(1)):
        rest = format_bytes(abs(budget - found.total))
        result = f"✓ fits, {rest} free" if budget >= found.total else f"✗ {rest} missing"
        rows.append((text(", ".join(name for name, _ in names)), format_bytes(budget), result))
    shown = table(("GPU", "for tensors", "this step"), rows)
    return f"<details><summary>All GPUs</summary>{shown}</details>"


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


def _python(values: Mapping[str, Any], gpu: str, options: Mapping[str, Any]) -> str:
    """Return Python code that calls `memory.estimate`, as HTML."""
    model = "config.json" if values["model"] == OWN else values["model"]
    chosen = [f"{name}={value!r}" for name, value in options.items()]
    call = "".join(f"    {line},\n" for line in (repr(model), repr(values["method"]), *chosen))
    code = (
        "from course_utils.memory import estimate\n\n"
        f"e = estimate(\n{call})\nprint(e.explain())\nprint(e.fits({gpu!r}))"
    )
    return f"<details><summary>The same in Python</summary>{_code(code, 'code')}</details>"


def _code(code: str, kind: str) -> str:
    """Return HTML with code and the button "Copy the code" or "Copy the command" (`kind`)."""
    return (
        f'<pre class="live-code" tabindex="0">{text(code)}</pre>'
        f'<button type="button" data-copy="code">Copy the {kind}</button>'
    )
