"""Build explorers: boxes of widgets that show the result of a pure function.

Whenever a control changes, `explorer` calls the function `answer` and shows the returned picture
and text as HTML. The picture has an alt text. The result looks the same in JupyterLab, Notebook,
Colab (ipywidgets 7.7), VS Code and Voila. If `answer` raises a ValueError, the explorer shows the
error's message until the controls have allowed values again. Readers can use the number fields and
menus with the keyboard alone.

Each explorer has a class of choices with one field for each control. The class checks the values
of the controls, so that the answer function can rely on these values:

    controls ──► LoraChoices(model=…, rank=…) ──► lora_answer(choices) ──► picture, text

Functions import the modules of lessons when they run, so that this module can be imported while an
assignment makes one of those modules unavailable.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets as widgets

from course_utils.units import format_bytes

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from traitlets import Bunch
    from transformers import PreTrainedTokenizerBase

    from course_utils.figures import Picture
    from course_utils.memory import ModelShape
    from course_utils.paging import Run

# Without an explicit line height, Voila adds space between the lines.
TEXT_STYLE = "font-family: monospace; line-height: 1.3"


class HasHtml(Protocol):
    """An object that a notebook shows as HTML, such as a `Picture`."""

    def _repr_html_(self) -> str: ...


def explorer(
    controls: Mapping[str, widgets.Widget],
    answer: Callable[..., tuple[HasHtml, str]],
    *,
    button: str = "",
    waiting: str = "",
) -> widgets.VBox:
    """Return a box with the controls and, below the controls, the result of `answer(**values)`.

    Args:
        controls: Widgets that have a value. The keys are the names of the arguments of `answer`.
            Checkboxes are placed in a separate row.
        answer: A pure function of the controls' values. It returns a picture and the picture's
            numbers as text, or raises ValueError with a sentence for the reader.
        button: The words on a button below the controls. The value of a text field changes when the
            reader leaves the field, so the reader needs something else to press. A press without a
            changed value does nothing.
        waiting: A sentence that is shown while `answer` runs, above the last result. It is needed
            if `answer` needs more than a moment.
    """
    output = widgets.HTML()
    shown: dict[str, Any] = {}

    # JupyterLab lets the kernel handle messages of widgets in other threads.
    lock = threading.RLock()

    def update(_: Bunch | widgets.Button | None = None) -> None:
        with lock:
            values = {name: control.value for name, control in controls.items()}
            # A press of the button and the changed value are two messages, which may arrive in any
            # order, and a double click is two presses.
            if values != shown:
                output.value = result(values)

    def result(values: dict[str, Any]) -> str:
        shown.clear()
        before = output.value
        if waiting:
            status = f'<p role="status" style="margin: 0.3em 0"><b>{html.escape(waiting)}</b></p>'
            output.value = f'{status}<div style="opacity: 0.5">{before}</div>'
        try:
            picture, text = answer(**values)
        except ValueError as error:
            return f'<p role="alert"><b>{html.escape(str(error))}</b></p>'
        except BaseException:
            output.value = before
            raise
        shown.update(values)
        return f'{picture._repr_html_()}<pre style="{TEXT_STYLE}">{html.escape(text)}</pre>'

    checkboxes = [control for control in controls.values() if isinstance(control, widgets.Checkbox)]
    fields = [control for control in controls.values() if control not in checkboxes]
    for control in controls.values():
        control.observe(update, names="value")
    buttons = [widgets.Button(description=button, layout={"width": "auto"})] if button else []
    for each in buttons:
        each.on_click(update)
    update()
    rows = [
        widgets.HBox(row, layout={"flex_flow": "row wrap"})
        for row in (fields, checkboxes, buttons)
        if row
    ]
    return widgets.VBox([*rows, output])


def menu(
    description: str, options: Iterable[Any] | Mapping[str, str], value: Any = None
) -> widgets.Dropdown:
    """Return a menu from which the reader chooses one of several values.

    Args:
        description: The label of the menu.
        options: The values, or a mapping from each value to the words that the menu shows.
        value: The initially selected value. The default is the first value.
    """
    if isinstance(options, Mapping):
        options = [(words, key) for key, words in options.items()]
    chosen = {} if value is None else {"value": value}
    return widgets.Dropdown(options=list(options), description=description, **chosen)


def checkbox(description: str, value: bool, width: str = "210px") -> widgets.Checkbox:
    """Return a checkbox with a label. `width` is the width of the checkbox in CSS units."""
    return widgets.Checkbox(value, description=description, indent=False, layout={"width": width})


def number(description: str, value: int) -> widgets.IntText:
    """Return a field for a whole number, which can be typed or changed with the arrow keys."""
    return widgets.IntText(
        value, description=description, continuous_update=False, layout={"width": "180px"}
    )


def disable_while(
    fields: Iterable[widgets.Widget], control: widgets.Widget, when: Callable[[Any], bool]
) -> None:
    """Disable fields while `when` returns True for the value of a control."""

    def update(_: Bunch | None = None) -> None:
        for field in fields:
            field.disabled = when(control.value)

    control.observe(update, names="value")
    update()


def check_number(name: str, value: int, maximum: int, minimum: int = 1) -> None:
    """Raise ValueError with a message for the reader if a number is not in the allowed range."""
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be from {minimum} to {maximum:,} here, but is {value:,}.")


def check_choice(name: str, value: Any, allowed: Iterable) -> None:
    """Raise ValueError with a message for the reader if a value is not allowed."""
    if value not in allowed:
        choices = ", ".join(map(str, allowed))
        raise ValueError(f"{name} must be one of {choices} here, but is {value}.")


def aligned(lines: Mapping[str, str], width: int) -> str:
    """Return a line for each name: the name, padded to `width` characters, and the text."""
    return "\n".join(f"{name:<{width}} {text}" for name, text in lines.items())


# --- LoRA -----------------------------------------------------------------------------------------

CUSTOM = "one shape: d_in × d_out"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_MODELS = (
    *("smollm2-135m", "smollm2-1.7b", "qwen2.5-7b", "llama-7b", "mistral-7b", "llama-3.1-8b"),
    *("llama-13b", "llama-33b", "llama-65b"),
)
# The largest width and number of layers that a reader may choose for a custom shape.
MAX_WIDTH, MAX_LAYERS = 1_000_000, 1000
# Bytes per trainable parameter. Weight, gradient and optimizer need 4 + 4 + 8 bytes for adapters,
# and 2 + 2 + 12 bytes for full fine-tuning in mixed precision.
BYTES = 16


@dataclass(frozen=True)
class LoraChoices:
    """The values that a reader chooses in `lora_explorer`.

    Attributes:
        model: CUSTOM for a shape that the reader chooses, or one of LORA_MODELS.
        d_in: Input width of each ticked module, used only if `model` is CUSTOM.
        d_out: Output width of each ticked module, used only if `model` is CUSTOM.
        layers: Number of layers that get adapters.
        rank: Rank of the adapters.
        q_proj: Whether the module q_proj gets an adapter. Each other module in MODULES has a field
            with the same meaning.

    Raises:
        ValueError: A value is out of range, or no module is ticked.
    """

    model: str
    d_in: int
    d_out: int
    layers: int
    rank: int
    q_proj: bool = False
    k_proj: bool = False
    v_proj: bool = False
    o_proj: bool = False
    gate_proj: bool = False
    up_proj: bool = False
    down_proj: bool = False

    def __post_init__(self) -> None:
        if not any(getattr(self, name) for name in MODULES):
            raise ValueError("Tick at least one module: LoRA trains only the adapters.")
        if self.model == CUSTOM:
            check_number("d_in", self.d_in, MAX_WIDTH)
            check_number("d_out", self.d_out, MAX_WIDTH)
        check_number("layers", self.layers, self.shape.layers if self.shape else MAX_LAYERS)
        check_number("rank r", self.rank, min(map(min, self.matrices.values())))

    @property
    def shape(self) -> ModelShape | None:
        """The shape of the model, None if `model` is CUSTOM."""
        from course_utils.memory import ModelShape

        return None if self.model == CUSTOM else ModelShape.preset(self.model)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer that get adapters: ticked module → (d_in, d_out)."""
        custom = dict.fromkeys(MODULES, (self.d_in, self.d_out))
        widths = self.shape.linear_layers() if self.shape else custom
        return {name: widths[name] for name in MODULES if getattr(self, name)}


def lora_explorer() -> widgets.VBox:
    """Return an explorer of the number of parameters that LoRA trains.

    The reader chooses either one shape for all matrices, or a model that determines the shapes.
    """
    from course_utils.memory import ModelShape

    controls = {
        "model": menu("model", [CUSTOM, *LORA_MODELS]),
        "d_in": number("d_in", 1000),
        "d_out": number("d_out", 1000),
        "layers": number("layers", 1),
        "rank": number("rank r", 8),
    }
    for name in MODULES:
        ticked = name in ("q_proj", "k_proj", "v_proj")
        controls[name] = checkbox(name, ticked, "110px")

    def set_layers(change: Bunch) -> None:
        custom = change.new == CUSTOM
        controls["layers"].value = 1 if custom else ModelShape.preset(change.new).layers

    shape = controls["d_in"], controls["d_out"]
    disable_while(shape, control=controls["model"], when=lambda model: model != CUSTOM)
    # This observer is registered before the observer of `explorer`, so that the answer uses the new
    # number of layers.
    controls["model"].observe(set_layers, names="value")
    return explorer(controls, lambda **values: lora_answer(LoraChoices(**values)))


def lora_answer(choices: LoraChoices) -> tuple[Picture, str]:
    """Return the matrices of one layer as rectangles to scale, and text about the chosen rank."""
    from course_utils import figures
    from course_utils.lora import count_lora_parameters

    layers, rank, matrices = choices.layers, choices.rank, choices.matrices.values()
    per_rank = layers * sum(count_lora_parameters(*matrix, rank=1) for matrix in matrices)
    full = layers * sum(d_in * d_out for d_in, d_out in matrices)
    trained = rank * per_rank
    lines = {
        "adapters": f"{layers * len(matrices):,}, in {layers:,} layer{'s' * (layers > 1)}",
        "LoRA trains": f"{trained:,} parameters",
        "full fine-tuning of the same matrices": f"{full:,} parameters",
        "ratio": f"{trained / full:.2%}",
        "break-even rank": f"{full / per_rank:,.1f}",
        f"LoRA with Adam, {BYTES} B each": format_bytes(BYTES * trained),
        f"full with Adam, {BYTES} B each": format_bytes(BYTES * full),
        "file of the adapters, float32": format_bytes(4 * trained),
    }
    if choices.shape:
        whole = choices.shape.parameters
        lines["share of the whole model"] = f"{trained / whole:.2%} of {whole:,} parameters"
    return figures.lora_rectangles(choices.matrices, rank, layers), aligned(lines, 38)


# --- bins -----------------------------------------------------------------------------------------

FORMATS = {
    "int": "int: equal steps",
    "nf": "NormalFloat",
    "fp4": "FP4, bitsandbytes",
    "ocp": "FP4, OCP (E2M1)",
    "lloyd": "least error (Lloyd)",
}
# These formats always have 4 bits, so they ignore the number of bits that the reader chooses.
FOUR_BITS = ("fp4", "ocp")
# The explorer quantizes this many numbers of a distribution.
SAMPLE_SIZE = 2**16
# The block sizes that a reader may choose. With the largest size, all numbers are in one block.
BLOCK_CHOICES = [2**n for n in range(4, 17)]
REAL_TENSOR = "model.layers.15.mlp.up_proj.weight"
REAL_LAYER = "a real layer"
DISTRIBUTIONS = ("normal", "uniform", "heavy tails", REAL_LAYER)


@dataclass(frozen=True)
class BinsChoices:
    """The values that a reader chooses in `bins_explorer`.

    Attributes:
        form: A key of FORMATS.
        bits: Number of bits, from 2 to 8. The formats of FOUR_BITS always have 4 bits.
        block_size: One of BLOCK_CHOICES.
        distribution: One of DISTRIBUTIONS. With REAL_LAYER, the numbers are the weights REAL_TENSOR
            of the course's model.

    Raises:
        ValueError: A value is out of range.
    """

    form: str
    bits: int
    block_size: int
    distribution: str

    def __post_init__(self) -> None:
        check_number("bits", self.bits, maximum=8, minimum=2)
        check_choice("format", self.form, FORMATS)
        check_choice("numbers", self.distribution, DISTRIBUTIONS)


def bins_explorer() -> widgets.VBox:
    """Return an explorer of the levels of a number format, and of the format's rounding error."""
    controls = {
        "form": menu("format", FORMATS),
        "bits": number("bits", 4),
        "block_size": menu("block size", BLOCK_CHOICES, 64),
        "distribution": menu("numbers", DISTRIBUTIONS),
    }
    disable_while([controls["bits"]], control=controls["form"], when=FOUR_BITS.__contains__)
    return explorer(controls, lambda **values: bins_answer(BinsChoices(**values)))


def bins_answer(choices: BinsChoices) -> tuple[Picture, str]:
    """Return a plot of numbers, levels and bins, and text about errors and the use of codes."""
    from course_utils import figures, quantization

    form, block_size = choices.form, choices.block_size
    x = _numbers(choices.distribution)
    bits = 4 if form in FOUR_BITS else choices.bits
    levels = _levels(form, bits, x, block_size)
    q = quantization.quantize(x, levels, block_size)
    scaled = x / q.absmax.repeat_interleave(block_size)[:SAMPLE_SIZE]
    share = q.codes.int().bincount(minlength=len(levels)) / SAMPLE_SIZE
    used = share[share > 0]
    widths = quantization.bin_edges(levels).diff()
    error = (q.dequantize() - x).square().mean() / x.square().mean()
    overhead = quantization.overhead_bits(block_size)
    lines = {
        "squared error": f"{error:.3%} of the squared numbers",
        "bits per number": f"{bits} + {overhead:g} = {bits + overhead:g}",
        "levels": f"{len(levels)} of {2**bits} codes",
        "bins": f"from {widths.min():.4f} to {widths.max():.4f} wide",
        "use of each code": f"from {share.min():.1%} to {share.max():.1%} of the numbers",
        "even use": f"{1 / len(levels):.1%}",
        "entropy": f"{-(used * used.log2()).sum():.3f} of {bits} bits",
        "mean absmax": f"{q.absmax.mean() / x.std():.2f} standard deviations",
    }
    if choices.distribution == REAL_LAYER:
        lines["caution"] = "these weights were once quantized to 4 bits: the error is biased"
    books = {f"{FORMATS[form]}, {bits} bits": levels.tolist()}
    picture = figures.bins({choices.distribution: scaled.tolist()}, books)
    return picture, aligned(lines, 16)


def _levels(form: str, bits: int, x: Tensor, block_size: int) -> Tensor:
    """Return the levels of a format, ascending in [-1, 1], as a float32 tensor."""
    from course_utils import quantization

    match form:
        case "int":
            return quantization.linear_codebook(bits)
        case "nf":
            return quantization.normal_float(bits)
        case "fp4":
            return quantization.fp4_codebook()
        case "ocp":
            return quantization.fp4_codebook("ocp")
        case _:
            return quantization.lloyd_max_codebook(x, bits, block_size)


@lru_cache(maxsize=len(DISTRIBUTIONS))
def _numbers(distribution: str) -> Tensor:
    """Return numbers of a distribution as a float32 tensor of shape (SAMPLE_SIZE,).

    The numbers are the same at every call.
    """
    import torch

    from course_utils.models import stored_weights

    if distribution == REAL_LAYER:
        ((_, weights),) = stored_weights(part=REAL_TENSOR)
        return weights.float().flatten()[:SAMPLE_SIZE]
    g = torch.Generator().manual_seed(0)
    if distribution == "uniform":
        return 2 * torch.rand(SAMPLE_SIZE, generator=g) - 1
    x = torch.randn(SAMPLE_SIZE, generator=g)
    # Student's t distribution with 4 degrees of freedom has heavy tails.
    if distribution == "heavy tails":
        x /= torch.randn(4, SAMPLE_SIZE, generator=g).square().mean(0).sqrt()
    return x


# --- a training step: memory and paging -----------------------------------------------------------

# The model of the slides, of which only the number of parameters, seven billion, is known.
SLIDE = "7b"
METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA on a 16-bit base",
    "qlora": "QLoRA on an NF4 base",
}
MAX_SEQUENCES, MAX_TOKENS, MAX_RANK = 1024, 131_072, 1024
CHECKPOINTING, DOUBLE, UPCAST = "gradient checkpointing", "double quantization", "float32 upcast"


@dataclass(frozen=True, kw_only=True)
class StepChoices:
    """The values chosen for a training step in `memory_explorer` and `paging_explorer`.

    Attributes:
        model: SLIDE, or a name from `memory.PRESETS`.
        method: A key of METHODS. "lora" and "qlora" put float32 adapters on all linear layers.
        optimizer: As in `memory.estimate`.
        gpu: A name from `memory.GPUS`.
        batch_size: Number of sequences in one batch.
        sequence_length: Number of tokens in each sequence.
        rank: Rank of the adapters; ignored in full fine-tuning.
        gradient_checkpointing: As in `memory.estimate`.
        recipe: As in `memory.estimate`; used only for full fine-tuning.
        double_quant: As in `memory.estimate`; used only for QLoRA.
        upcast: As in `memory.estimate`; used only for QLoRA.

    Raises:
        ValueError: A value is out of range.
    """

    model: str
    method: str
    optimizer: str
    gpu: str
    batch_size: int
    sequence_length: int
    rank: int
    gradient_checkpointing: bool
    recipe: str = "fp32"
    double_quant: bool = True
    upcast: bool = False

    def __post_init__(self) -> None:
        check_number("batch size", self.batch_size, MAX_SEQUENCES)
        check_number("tokens", self.sequence_length, MAX_TOKENS)
        if self.method != "full":
            check_number("rank r", self.rank, MAX_RANK)

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of `memory.estimate` that depend on the chosen method."""
        if self.method == "full":
            return {"recipe": self.recipe}
        adapters = {"rank": self.rank, "targets": "all-linear"}
        if self.method == "lora":
            return adapters
        return adapters | {"double_quant": self.double_quant, "upcast": self.upcast}


@dataclass(frozen=True, kw_only=True)
class MemoryChoices(StepChoices):
    """The values that a reader chooses in `memory_explorer`.

    Attributes:
        attention: As in `memory.estimate`.
    """

    attention: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of `memory.estimate` for these choices, except the batch size."""
        return self.method_options | {
            "optimizer": self.optimizer,
            "attention": self.attention,
            "sequence_length": self.sequence_length,
            "gradient_checkpointing": self.gradient_checkpointing,
        }


def memory_explorer() -> widgets.VBox:
    """Return an explorer of the memory for a training step, and of the GPUs with enough memory.

    It first shows QLoRA of LLaMA-7B on a T4.
    """
    from course_utils.memory import GPUS, OPTIMIZERS, PRESETS, RECIPES

    controls = {
        "model": menu("model", [SLIDE, *PRESETS], "llama-7b"),
        "method": menu("method", METHODS, "qlora"),
        "recipe": menu("recipe", RECIPES.keys(), "mixed"),
        "optimizer": menu("optimizer", OPTIMIZERS.keys()),
        "attention": menu("attention", ["sdpa", "eager"]),
        "gpu": menu("GPU", GPUS.keys()),
        "batch_size": number("batch size", 1),
        "sequence_length": number("tokens", 1024),
        "rank": number("rank r", 16),
        "gradient_checkpointing": checkbox(CHECKPOINTING, True),
        "double_quant": checkbox(DOUBLE, True),
        "upcast": checkbox(UPCAST, False),
    }

    method, nf4 = controls["method"], (controls["double_quant"], controls["upcast"])
    disable_while([controls["recipe"]], control=method, when=lambda chosen: chosen != "full")
    disable_while([controls["rank"]], control=method, when=lambda chosen: chosen == "full")
    disable_while(nf4, control=method, when=lambda chosen: chosen != "qlora")
    return explorer(controls, lambda **values: memory_answer(MemoryChoices(**values)))


def memory_answer(choices: MemoryChoices) -> tuple[Picture, str]:
    """Return a bar of the memory at the peak of a training step, and the numbers as text.

    Raises:
        ValueError: The method has adapters but only the model's number of parameters is known, or
            the sequence is longer than the model's table of positions.
    """
    from course_utils import figures, memory

    shape, gpu, options = memory.ModelShape.preset(choices.model), choices.gpu, choices.options
    estimate = memory.estimate(shape, choices.method, batch_size=choices.batch_size, **options)
    usable = {name: memory.usable_bytes(name) for name in memory.GPUS}
    lines = {
        "per parameter": f"{estimate.total / shape.parameters:.2f} B",
        "fits on": ", ".join(filter(estimate.fits, memory.GPUS)) or "none of these GPUs",
        "largest batch": "unknown; choose a model with known layers",
    }
    if shape.known:
        batch = memory.largest("batch_size", gpu, shape, choices.method, **options)
        lines["largest batch"] = f"{batch:,} × {choices.sequence_length:,} tokens on {gpu}"
    bars = {METHODS[choices.method]: estimate.groups}
    picture = figures.memory_bars(bars, usable, reach=usable[gpu])
    return picture, f"{estimate.table()}\n{aligned(lines, 15)}"


STATES = {"adamw": "32-bit Adam", "adamw8bit": "8-bit Adam"}
PAGING = "paged states"


@dataclass(frozen=True, kw_only=True)
class PagingChoices(StepChoices):
    """The values that a reader chooses in `paging_explorer`.

    Full fine-tuning uses the recipe "fp32". The field `optimizer` is a key of STATES.

    Attributes:
        longest: Number of tokens per text in step 3. Steps 1, 2 and 4 use `sequence_length`.
        paged: Whether optimizer states may move to CPU memory in the run that is shown.
    """

    longest: int
    paged: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("long: tokens", self.longest, MAX_TOKENS)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens per text in each of the four steps."""
        return (self.sequence_length, self.sequence_length, self.longest, self.sequence_length)

    def options(self, paged: bool) -> dict[str, Any]:
        """Return the options of `paging.simulate` for these choices, with or without paging."""
        return self.method_options | {
            "optimizer": f"paged_{self.optimizer}" if paged else self.optimizer,
            "batch_size": self.batch_size,
            "gradient_checkpointing": self.gradient_checkpointing,
        }


def paging_explorer() -> widgets.VBox:
    """Return an explorer that shows whether memory runs out in four training steps.

    The third step has a mini-batch of long texts.
    """
    from course_utils.memory import GPUS, PRESETS

    controls = {
        "model": menu("model", PRESETS.keys(), "llama-3.1-8b"),
        "method": menu("method", METHODS, "qlora"),
        "optimizer": menu("optimizer", STATES),
        "gpu": menu("GPU", GPUS.keys()),
        "batch_size": number("batch size", 1),
        "sequence_length": number("tokens", 1024),
        "longest": number("long: tokens", 4096),
        "rank": number("rank r", 64),
        "gradient_checkpointing": checkbox(CHECKPOINTING, True),
        "paged": checkbox(PAGING, False),
    }

    disable_while(
        [controls["rank"]], control=controls["method"], when=lambda chosen: chosen == "full"
    )
    return explorer(controls, lambda **values: paging_answer(PagingChoices(**values)))


def paging_answer(choices: PagingChoices) -> tuple[Picture, str]:
    """Return a timeline of the four steps, and text about the run with and without paging.

    Raises:
        ValueError: A sequence is longer than the model's table of positions.
    """
    from course_utils import figures, memory, paging

    model, method, gpu, paged = choices.model, choices.method, choices.gpu, choices.paged
    runs, fits = {}, {}
    for may_page in (True, False):
        options = choices.options(paged=may_page)
        runs[may_page] = paging.simulate(model, method, gpu=gpu, lengths=choices.lengths, **options)
        fits[may_page] = paging.longest_text(gpu, model, method, **options)
    tensors = paging.paged_tensors(model, method, **choices.options(paged=True))
    pages = format_bytes(sum(tensor.paged for tensor in tensors))
    states = format_bytes(sum(tensor.size for tensor in tensors))
    count = sum(tensor.count for tensor in tensors)
    paging_count = sum(tensor.count for tensor in tensors if tensor.paged)
    labels = {True: "paging on", False: "paging off"}
    shown = runs[paged]
    large = f"those of at least {memory.SMALLEST_PAGED:,} elements"
    bus = f"PCIe {paging.PCIE[gpu]}.0 ×16, nominally {format_bytes(shown.bandwidth)}/s"
    lines = {
        f"{labels[paged]} (shown)": _outcome(shown),
        labels[not paged]: _outcome(runs[not paged]),
        f"memory of {gpu}": format_bytes(shown.budget),
        "bus": bus,
        "optimizer states": f"{states}, of which {pages} can page",
        "tensors that page": f"{paging_count:,} of {count:,}, {large}",
        "longest text": f"{_tokens(fits[False])}, with paging {_tokens(fits[True])}",
    }
    return figures.memory_timeline(shown), aligned(lines, 19)


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count else "none"


def _outcome(run: Run) -> str:
    if failed := run.out_of_memory:
        return f"out of memory in step {failed.step}: {format_bytes(failed.total)} needed"
    if run.moved:
        return f"runs; {format_bytes(run.moved)} moved in {run.seconds:.2f} s"
    return f"runs, up to {format_bytes(run.peak)}; nothing moves"


# --- overhead of block constants ------------------------------------------------------------------

# In these models, all weights count as quantized, as in the slides and the papers.
WEIGHT_COUNTS = {"7b": 7 * 10**9, "65b": 65 * 10**9}
CODE_BITS = 4
# The block sizes of bitsandbytes, and 16 for comparison.
SMALL_BLOCKS = tuple(2**n for n in range(4, 13))
MAX_CONSTANT_BITS, MAX_NESTED_BITS, MAX_NESTED_SIZE = 64, 16, 2**20


@dataclass(frozen=True)
class OverheadChoices:
    """The values that a reader chooses in `overhead_explorer`.

    Attributes:
        model: A key of WEIGHT_COUNTS, or a name from `memory.PRESETS`. For a preset, only the
            weights of the linear layers count, because only these weights are quantized.
        block_size: One of SMALL_BLOCKS.
        constant_bits: Number of bits of a constant that is not quantized.
        nested_bits: Number of bits of a quantized constant; ignored without double quantization.
        nested_block_size: Number of constants in each block of double quantization; ignored without
            double quantization.
        double_quant: Whether the constants are quantized too.

    Raises:
        ValueError: A value is out of range.
    """

    model: str
    block_size: int
    constant_bits: int
    nested_bits: int
    nested_block_size: int
    double_quant: bool

    def __post_init__(self) -> None:
        check_choice("block size", self.block_size, SMALL_BLOCKS)
        check_number("absmax bits", self.constant_bits, MAX_CONSTANT_BITS)
        if self.double_quant:
            check_number("nested bits", self.nested_bits, MAX_NESTED_BITS)
            check_number("nested size", self.nested_block_size, MAX_NESTED_SIZE)

    @property
    def weights(self) -> int:
        """The number of quantized weights."""
        from course_utils.memory import ModelShape

        return WEIGHT_COUNTS.get(self.model) or ModelShape.preset(self.model).linear_parameters

    def bits(self, block_size: int) -> dict[str, float]:
        """Return the bits per weight of each part of the format, for blocks of `block_size`."""
        from course_utils.quantization import overhead_bits

        if not self.double_quant:
            constants = overhead_bits(block_size, False, self.constant_bits)
            return {"codes": CODE_BITS, "constants": constants}
        whole = block_size * self.nested_block_size
        return {
            "codes": CODE_BITS,
            "constants": self.nested_bits / block_size,
            "nested constants": overhead_bits(whole, False, self.constant_bits),
        }


def overhead_explorer() -> widgets.VBox:
    """Return an explorer of the memory that the constants of quantization need."""
    from course_utils.memory import PRESETS

    controls = {
        "model": menu("model", [*WEIGHT_COUNTS, *PRESETS]),
        "block_size": menu("block size", SMALL_BLOCKS, 64),
        "constant_bits": number("absmax bits", 32),
        "nested_bits": number("nested bits", 8),
        "nested_block_size": number("nested size", 256),
        "double_quant": checkbox(DOUBLE, True),
    }

    nested = controls["nested_bits"], controls["nested_block_size"]
    disable_while(nested, control=controls["double_quant"], when=lambda ticked: not ticked)
    return explorer(controls, lambda **values: overhead_answer(OverheadChoices(**values)))


def overhead_answer(choices: OverheadChoices) -> tuple[Picture, str]:
    """Return a chart of the bits per weight for each block size, and the model's bytes as text.

    The code books are not counted.
    """
    from course_utils import figures
    from course_utils.quantization import overhead_bits

    weights, block_size = choices.weights, choices.block_size
    bits = choices.bits(block_size)
    total = sum(bits.values())
    plain = CODE_BITS + overhead_bits(block_size, False, choices.constant_bits)

    def bits_and_bytes(each: float) -> str:
        return f"{each:<12.10g} {format_bytes(weights * each / 8)}"

    lines = {
        "weights in 4 bits": f"{weights:,}",
        "bits per weight": f"{total:.10g}",
        **{name: bits_and_bytes(each) for name, each in bits.items()},
        "total": format_bytes(weights * total / 8),
        "without double quantization": bits_and_bytes(plain),
        "saved" if total <= plain else "costs": bits_and_bytes(abs(plain - total)),
    }
    rows = {f"blocks of {size:,}": choices.bits(size) for size in SMALL_BLOCKS}
    return figures.bits_per_weight(rows, f"blocks of {block_size:,}"), aligned(lines, 28)


# --- answers of the fine-tuned model --------------------------------------------------------------

# The longest story that a reader may enter, in tokens. The stories of the course have 60 to 160.
MAX_STORY = 400
CARD = (
    "border: 1px solid #999999; border-radius: 4px; box-sizing: border-box; flex: 1 1 18em;"
    "line-height: 1.4; min-width: 0; padding: 0.5em 0.8em"
)
ANSWER = f"{TEXT_STYLE}; overflow-wrap: anywhere; white-space: pre-wrap"
CELL = "line-height: 1.3; padding: 0.3em 0.6em; text-align: left; vertical-align: top"


def verdict(answer: str, story: str) -> dict[str, str]:
    """Return in words what a program finds in a model's answer to a story.

    The keys are "form", "section" and "house style". An answer counts only if it is one JSON
    object, as in `evaluation.parse_answer`.
    """
    from course_utils import evaluation, news

    parsed = evaluation.parse_answer(answer)
    if parsed is None:
        return {"form": "✗ not one JSON object with section and headline"}
    section, errors = parsed["section"], news.house_style_errors(parsed["headline"], story)
    known = section in news.SECTIONS
    kept = f"✓ follows all {len(news.HOUSE_RULES)} rules"
    return {
        "form": "✓ valid JSON",
        "section": f"✓ {section}" if known else f"✗ “{section}” is no section",
        "house style": f"✗ {'; '.join(errors)}" if errors else kept,
    }


@dataclass(frozen=True)
class AnswerCards:
    """Answers to one story side by side, each with its verdicts; below each other on a phone."""

    story: str
    answers: Mapping[str, str]

    def _repr_html_(self) -> str:
        cards = "".join(self._card(name, answer) for name, answer in self.answers.items())
        return f'<div style="display: flex; flex-wrap: wrap; gap: 0.8em">{cards}</div>'

    def _card(self, name: str, answer: str) -> str:
        found = "".join(
            f"<div><b>{key}:</b> {html.escape(words)}</div>"
            for key, words in verdict(answer, self.story).items()
        )
        text = html.escape(answer) or "(an empty answer)"
        return (
            f'<div style="{CARD}"><b>{html.escape(name)}</b>'
            f'<div style="{ANSWER}; margin: 0.4em 0">{text}</div>{found}</div>'
        )


def story_explorer(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, story: str
) -> widgets.VBox:
    """Return an explorer in which readers enter a story, and compare prompting with fine-tuning.

    Args:
        model: The fine-tuned model, whose active adapter answers. Without the adapter, the model
            answers a few-shot prompt.
        tokenizer: The tokenizer of the model.
        story: The story that is answered first.
    """
    field = widgets.Textarea(
        story,
        description="story",
        continuous_update=False,
        layout={"height": "9em", "max_width": "98%", "width": "660px"},
    )
    return explorer(
        {"story": field},
        lambda story: story_answer(story, model, tokenizer),
        button="Ask both models",
        waiting="Both models are answering. This takes a few seconds …",
    )


def story_answer(
    story: str, model: PeftModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[AnswerCards, str]:
    """Return both answers to a story, and text about their prompts and times.

    Raises:
        ValueError: The story is empty, too long or one of the worked examples of the few-shot
            prompt, or the model has no adapters any more.
    """
    from course_utils import evaluation, news

    _check_story(story, model, tokenizer)
    example = {"story": story.strip()}
    prompts = {
        "few-shot prompt, without the adapter": news.messages(example, news.shots()),
        "short prompt, with the adapter": news.tuned_messages(example, answered=False),
    }
    answers, lines = {}, {}
    for name, prompt in prompts.items():
        off = "without" in name
        started = time.perf_counter()
        with model.disable_adapter() if off else nullcontext():
            (answers[name],) = evaluation.generate(model, tokenizer, [prompt], progress=False)
        seconds = time.perf_counter() - started
        tokens = evaluation.mean_prompt_tokens([prompt], tokenizer)
        lines["few-shot" if off else "tuned"] = f"{tokens:,.0f} prompt tokens, {seconds:.1f} s"
    return AnswerCards(example["story"], answers), aligned(lines, 9)


def _check_story(story: str, model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if not story.strip():
        raise ValueError("Please enter a story: a few sentences of news.")
    tokens = len(tokenizer(story)["input_ids"])
    if tokens > MAX_STORY:
        raise ValueError(
            f"The story has {tokens:,} tokens, but at most {MAX_STORY} are allowed here: please "
            "shorten it."
        )
    if not any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError(
            "The adapters were removed from this model: run the notebook again up to this cell."
        )


# The strengths that a reader can choose. At 0 the adapter is off, and it was trained at 1.
STRONGEST, STRENGTH_STEP = 1.5, 0.25


@dataclass(frozen=True)
class StrengthTable:
    """The answers to one story at several strengths of the adapter, with the chosen one marked."""

    answers: Mapping[float, str]
    chosen: float
    story: str

    def _repr_html_(self) -> str:
        rows = "".join(self._row(strength) for strength in sorted(self.answers))
        head = "".join(f'<th style="{CELL}">{name}</th>' for name in ("strength", "answer", "form"))
        return f"<table><tr>{head}</tr>{rows}</table>"

    def _row(self, strength: float) -> str:
        answer, is_chosen = self.answers[strength], strength == self.chosen
        form = verdict(answer, self.story)["form"].removesuffix(" with section and headline")
        mark = "▶ " if is_chosen else ""
        weight = "bold" if is_chosen else "normal"
        return (
            f'<tr><th scope="row" style="{CELL}; font-weight: {weight}; white-space: nowrap">'
            f'{mark}{strength:g}</th><td style="{CELL}; {ANSWER}">{html.escape(answer)}</td>'
            f'<td style="{CELL}">{form}</td></tr>'
        )


def strength_explorer(
    answer_at: Callable[[float], str], story: str, first: Iterable[float] = (0, 0.5, 1)
) -> widgets.VBox:
    """Return an explorer of the answer to one story as the adapter's strength changes.

    Each answer is computed only once. All answers so far are shown in a table.

    Args:
        answer_at: A function from the strength of the adapter to the model's answer to the story.
            At 0 the adapter is off, and at 1 it is as it was trained.
        story: The story, for the verdict on the answer.
        first: The strengths whose answers are shown at the beginning. The last one is chosen.

    Raises:
        ValueError: There are no strengths, or one is not from 0 to 1.5.
    """
    strengths = [float(strength) for strength in first]
    if not strengths or not all(0 <= strength <= STRONGEST for strength in strengths):
        raise ValueError(
            f"first must be one or more strengths from 0 to {STRONGEST}, got {strengths}"
        )
    answers = {strength: answer_at(strength) for strength in dict.fromkeys(strengths)}
    slider = widgets.FloatSlider(
        strengths[-1],
        min=0,
        max=STRONGEST,
        step=STRENGTH_STEP,
        description="strength",
        continuous_update=False,
        layout={"max_width": "98%", "width": "420px"},
    )

    def answer(strength: float) -> tuple[StrengthTable, str]:
        if strength not in answers:
            answers[strength] = answer_at(strength)
        lines = verdict(answers[strength], story)
        text = f"strength {strength:g}\n{aligned(lines, 11)}"
        return StrengthTable(dict(answers), strength, story), text

    return explorer({"strength": slider}, answer, waiting="The model is answering …")
