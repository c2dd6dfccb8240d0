"""Controls to play with: each explorer is a box of widgets in front of a pure function.

`explorer` asks `answer` for a picture and a text whenever a control changes, and shows both as
HTML, the picture with its alt text: the same in JupyterLab, Notebook, Colab (ipywidgets 7.7), VS
Code and Voila. A ValueError of `answer` is shown in their place, as a sentence; the next good value
brings them back. Number fields and menus can be used from the keyboard alone.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping

import ipywidgets as widgets

from course_utils import figures
from course_utils.figures import Picture
from course_utils.memory import (
    GPUS,
    OPTIMIZERS,
    PRESETS,
    RECIPES,
    ModelShape,
    count_lora_parameters,
    estimate,
    largest,
    usable_bytes,
)
from course_utils.units import format_bytes


def explorer(
    controls: Mapping[str, widgets.Widget], answer: Callable[..., tuple[Picture, str]]
) -> widgets.VBox:
    """A box with the controls and, below them, what `answer(**values)` returns.

    controls: name → widget with a value, checkboxes in a row of their own. answer: a pure function
        of these values that returns a picture and its numbers as text, or raises ValueError with a
        sentence for the reader.
    """
    shown = widgets.HTML()

    def update(_=None) -> None:
        try:
            picture, text = answer(**{name: control.value for name, control in controls.items()})
            numbers = f'<pre style="font-family: monospace">{html.escape(text)}</pre>'
            shown.value = picture._repr_html_() + numbers
        except ValueError as error:
            shown.value = f'<p role="alert"><b>{html.escape(str(error))}</b></p>'

    for control in controls.values():
        control.observe(update, names="value")
    update()
    ticks = [control for control in controls.values() if isinstance(control, widgets.Checkbox)]
    fields = [control for control in controls.values() if control not in ticks]
    rows = [widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in (fields, ticks) if row]
    return widgets.VBox([*rows, shown])


def number(description: str, value: int) -> widgets.IntText:
    """A field for a whole number: typed, or stepped with the arrow keys."""
    return widgets.IntText(
        value, description=description, continuous_update=False, layout={"width": "180px"}
    )


# --- LoRA -----------------------------------------------------------------------------------------

FREE = "one shape: d_in × d_out"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_MODELS = (
    *("smollm2-135m", "smollm2-1.7b", "qwen2.5-7b", "llama-7b", "mistral-7b", "llama-3.1-8b"),
    *("llama-13b", "llama-33b", "llama-65b"),
)
LARGEST = {"d_in": 1_000_000, "d_out": 1_000_000, "layers": 1000}
BYTES = 16  # of a trainable parameter: adapters 4 + 4 + 8, full in mixed precision 2 + 2 + 12


def lora_explorer() -> widgets.VBox:
    """How many parameters LoRA trains: for one shape of matrix, or for a model's own matrices."""
    controls = {
        "model": widgets.Dropdown(options=[FREE, *LORA_MODELS], description="model"),
        "d_in": number("d_in", 1000),
        "d_out": number("d_out", 1000),
        "layers": number("layers", 1),
        "rank": number("rank r", 8),
    }
    for name in MODULES:
        ticked = name in ("q_proj", "k_proj", "v_proj")
        controls[name] = widgets.Checkbox(
            ticked, description=name, indent=False, layout={"width": "110px"}
        )

    def follow_model(change) -> None:
        free = change.new == FREE
        controls["d_in"].disabled = controls["d_out"].disabled = not free
        controls["layers"].value = 1 if free else ModelShape.preset(change.new).layers

    controls["model"].observe(follow_model, names="value")  # first, so that the answer fits it
    return explorer(controls, lora_answer)


def lora_answer(
    model: str, d_in: int, d_out: int, layers: int, rank: int, **ticked: bool
) -> tuple[Picture, str]:
    """What `lora_explorer` shows: parameters over rank, and the numbers at this rank as text.

    model: FREE, where each module ticked is a matrix of d_in × d_out, or one of LORA_MODELS, which
    brings its own shapes. layers: how many layers get adapters. ticked: module name → bool.
    Raises ValueError for a value out of range or if no module is ticked.
    """
    chosen = [name for name in MODULES if ticked.get(name)]
    if not chosen:
        raise ValueError("Tick at least one module: without an adapter nothing is trained.")
    if model == FREE:
        shape, widths, largest = None, dict.fromkeys(MODULES, (d_in, d_out)), LARGEST
    else:
        shape = ModelShape.preset(model)
        widths, largest = shape.linear_layers(), {"layers": shape.layers}
    matrices = [widths[name] for name in chosen]
    given = {"d_in": d_in, "d_out": d_out, "layers": layers, "rank r": rank}
    for name, most in (largest | {"rank r": min(map(min, matrices))}).items():
        if not 1 <= given[name] <= most:
            raise ValueError(f"{name} must be from 1 to {most:,} here, but is {given[name]:,}.")
    per_rank = layers * sum(count_lora_parameters(*matrix, rank=1) for matrix in matrices)
    full = layers * sum(d_in * d_out for d_in, d_out in matrices)
    trained = rank * per_rank
    lines = {
        "adapters": f"{layers * len(chosen):,}, in {layers:,} layer{'s' * (layers > 1)}",
        "LoRA trains": f"{trained:,} parameters",
        "full fine-tuning of the same matrices": f"{full:,} parameters",
        "share": f"{trained / full:.2%}",
        "break-even rank": f"{full / per_rank:,.1f}",
        f"LoRA with Adam, {BYTES} B each": format_bytes(BYTES * trained),
        f"full with Adam, {BYTES} B each": format_bytes(BYTES * full),
        "file of the adapters, float32": format_bytes(4 * trained),
    }
    if shape:
        whole = shape.parameters
        lines["share of the whole model"] = f"{trained / whole:.2%} of {whole:,} parameters"
    text = "\n".join(f"{name:<38} {value}" for name, value in lines.items())
    return figures.lora_parameters(per_rank, full, rank), text


# --- memory ---------------------------------------------------------------------------------------

SLIDE = "7b"  # seven billion parameters and no more known, as the slide has it
METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA on a 16-bit base",
    "qlora": "QLoRA on an NF4 base",
}
MOST = {"batch size": 1024, "tokens": 131_072, "rank r": 1024}
CHECKPOINTING, DOUBLE, UPCAST = "gradient checkpointing", "double quantization", "float32 upcast"


def memory_explorer() -> widgets.VBox:
    """How much memory a training step takes, and which GPU it fits."""

    def menu(description: str, options, value: str) -> widgets.Dropdown:
        return widgets.Dropdown(options=options, value=value, description=description)

    def tick(description: str, value: bool) -> widgets.Checkbox:
        look = {"indent": False, "layout": {"width": "210px"}}
        return widgets.Checkbox(value, description=description, **look)

    controls = {
        "model": menu("model", [SLIDE, *PRESETS], SLIDE),
        "method": menu("method", [(text, name) for name, text in METHODS.items()], "full"),
        "recipe": menu("recipe", list(RECIPES), "mixed"),
        "optimizer": menu("optimizer", list(OPTIMIZERS), "adamw"),
        "attention": menu("attention", ["sdpa", "eager"], "sdpa"),
        "gpu": menu("GPU", list(GPUS), "T4"),
        "batch_size": number("batch size", 1),
        "sequence_length": number("tokens", 1024),
        "rank": number("rank r", 16),
        "gradient_checkpointing": tick(CHECKPOINTING, True),
        "double_quant": tick(DOUBLE, True),
        "upcast": tick(UPCAST, False),
    }

    def follow_method(_=None) -> None:
        method = controls["method"].value
        controls["recipe"].disabled = method != "full"
        controls["rank"].disabled = method == "full"
        controls["double_quant"].disabled = controls["upcast"].disabled = method != "qlora"

    controls["method"].observe(follow_method, names="value")
    follow_method()
    return explorer(controls, memory_answer)


def memory_answer(
    model: str,
    method: str,
    recipe: str,
    optimizer: str,
    attention: str,
    gpu: str,
    batch_size: int,
    sequence_length: int,
    rank: int,
    gradient_checkpointing: bool,
    double_quant: bool,
    upcast: bool,
) -> tuple[Picture, str]:
    """What `memory_explorer` shows: what is alive at the peak of a step, as a bar and as text.

    Options as those of `memory.estimate`; adapters go to all linear layers and are float32.
    `recipe` counts for full fine-tuning only, `rank` for the others, `double_quant` and `upcast`
    for QLoRA.
    Raises ValueError for a value out of range, and for adapters on a bare number of parameters.
    """
    shape = ModelShape.preset(model)
    given = {"batch size": batch_size, "tokens": sequence_length}
    given |= {} if method == "full" else {"rank r": rank}
    for name, value in given.items():
        if not 1 <= value <= MOST[name]:
            raise ValueError(f"{name} must be from 1 to {MOST[name]:,} here, but is {value:,}.")
    options = {
        "optimizer": optimizer,
        "attention": attention,
        "sequence_length": sequence_length,
        "gradient_checkpointing": gradient_checkpointing,
    }
    if method == "full":
        options |= {"recipe": recipe}
    else:
        options |= {"rank": rank, "targets": "all-linear"}
    if method == "qlora":
        options |= {"double_quant": double_quant, "upcast": upcast}
    found = estimate(shape, method, batch_size=batch_size, **options)
    room = {name: usable_bytes(name) for name in GPUS}
    lines = {
        "a parameter of the model": f"{found.total / shape.parameters:.2f} B",
        "fits": ", ".join(filter(found.fits, GPUS)) or "none of these GPUs",
        "largest batch": "needs a shape: choose another model",
    }
    if shape.known:
        batch = largest("batch_size", gpu, shape, method, **options)
        lines["largest batch"] = f"{batch:,} × {sequence_length:,} tokens on {gpu}"
    text = "\n".join(f"{name:<24}  {value}" for name, value in lines.items())
    picture = figures.memory_bars({METHODS[method]: found.groups}, room, reach=room[gpu])
    return picture, f"{found.table()}\n\n{text}"
