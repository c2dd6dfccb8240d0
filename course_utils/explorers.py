"""Build explorers: boxes of widgets that show the result of a pure function.

Whenever a control changes, `explorer` calls the function `answer` and shows the returned picture
and text as HTML. The picture has an alt text. The result looks the same in JupyterLab, Notebook,
Colab (ipywidgets 7.7), VS Code and Voila. If `answer` raises a ValueError, the explorer shows the
error's message until the controls have allowed values again. Readers can use the number fields and
menus with the keyboard alone.

Each explorer has a class of choices with one field for each control. The class checks the values
of the controls, so that the answer function can rely on these values. Most of these classes are in
`course_utils.live`, because the tools of the website check the same values and show the same
numbers:

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

from course_utils.validation import check_choice, check_number

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from traitlets import Bunch
    from transformers import PreTrainedTokenizerBase

    from course_utils.figures import Picture
    from course_utils.live.lora import LoraChoices
    from course_utils.live.overhead import OverheadChoices
    from course_utils.live.paging import PagingChoices
    from course_utils.live.steps import MemoryChoices

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


def aligned(lines: Mapping[str, str], width: int) -> str:
    """Return a line for each name: the name, padded to `width` characters, and the text."""
    return "\n".join(f"{name:<{width}} {text}" for name, text in lines.items())


# --- LoRA -----------------------------------------------------------------------------------------


def lora_explorer() -> widgets.VBox:
    """Return an explorer of the number of parameters that LoRA trains.

    The reader chooses either one shape for all matrices, or a model that determines the shapes.
    """
    from course_utils.live.lora import CUSTOM, LORA_MODELS, MODULES, LoraChoices
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

    picture = figures.lora_rectangles(choices.matrices, choices.rank, choices.layers)
    return picture, aligned(choices.lines(), 38)


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


def memory_explorer() -> widgets.VBox:
    """Return an explorer of the memory for a training step, and of the GPUs with enough memory.

    It first shows QLoRA of LLaMA-7B on a T4.
    """
    from course_utils.live.steps import (
        CHECKPOINTING,
        DOUBLE,
        METHODS,
        SLIDE,
        UPCAST,
        MemoryChoices,
    )
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
    from course_utils.live.steps import METHODS

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


def paging_explorer() -> widgets.VBox:
    """Return an explorer that shows whether memory runs out in four training steps.

    The third step has a mini-batch of long texts.
    """
    from course_utils.live.paging import PAGING, STATES, PagingChoices
    from course_utils.live.steps import CHECKPOINTING, METHODS
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
    from course_utils import figures

    runs = choices.runs()
    return figures.memory_timeline(runs[choices.paged]), aligned(choices.lines(runs), 19)


# --- overhead of block constants ------------------------------------------------------------------


def overhead_explorer() -> widgets.VBox:
    """Return an explorer of the memory that the constants of quantization need."""
    from course_utils.live.overhead import SMALL_BLOCKS, WEIGHT_COUNTS, OverheadChoices
    from course_utils.live.steps import DOUBLE
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
    from course_utils.live.overhead import SMALL_BLOCKS

    rows = {f"blocks of {size:,}": choices.bits(size) for size in SMALL_BLOCKS}
    picture = figures.bits_per_weight(rows, f"blocks of {choices.block_size:,}")
    return picture, aligned(choices.lines(), 28)


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
