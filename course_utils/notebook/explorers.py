"""Build explorers: boxes of widgets that show the result of a pure function.

    controls ──► `used`: checked values ──► answer(**values) ──► picture and text, as HTML

Whenever a control changes, the answer is computed again. If it raises a ValueError, the explorer
shows the error's message until the controls have allowed values again. The result looks the same in
JupyterLab, Notebook, Colab (ipywidgets 7.7), VS Code and Voila; the picture has an alt text, and
the keyboard alone is enough.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets as widgets
from IPython.display import HTML

from course_utils import evaluation, figures, formats, memory, news, paging
from course_utils.lora import count_lora_parameters
from course_utils.machine.units import counted, format_bytes
from course_utils.memory import GPUS, OPTIMIZERS, PRESETS, RECIPES, ModelShape
from course_utils.models import stored_weights
from course_utils.notebook.controls import ADAPTERS, METHODS, QLORA, Condition, Control, same, used
from course_utils.quantization import lloyd_max_codebook, overhead_bits

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from traitlets import Bunch
    from transformers import PreTrainedTokenizerBase

    from course_utils.figures import Picture
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
    more: Iterable[str] = (),
) -> widgets.VBox:
    """Return a box with widgets and, below them, the result of `answer(**values)`.

    Args:
        controls: Widgets that have a value, by the names of the arguments of `answer`.
        answer: A pure function that returns a picture and the picture's numbers as text, or raises
            ValueError with a sentence for the reader.
        button: The words on a button below the controls. The value of a text field changes when the
            reader leaves the field, so the reader needs something else to press.
        waiting: A sentence that is shown above the last result while `answer` runs.
        more: The names of the controls that are folded until the reader ticks "More settings".
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

    for control in controls.values():
        control.observe(update, names="value")
    buttons = [widgets.Button(description=button, layout={"width": "auto"})] if button else []
    for each in buttons:
        each.on_click(update)
    update()
    folded = [controls[name] for name in more]
    rows = _rows([control for control in controls.values() if control not in folded])
    return widgets.VBox([*rows, *_fold(folded), *map(_row, filter(None, [buttons])), output])


def _row(boxes: list[widgets.Widget]) -> widgets.HBox:
    return widgets.HBox(boxes, layout={"flex_flow": "row wrap"})


def _rows(boxes: list[widgets.Widget]) -> list[widgets.HBox]:
    """Return a row with the fields and a row with the checkboxes, but no empty row."""
    checkboxes = [box for box in boxes if isinstance(box, widgets.Checkbox)]
    fields = [box for box in boxes if box not in checkboxes]
    return [_row(row) for row in (fields, checkboxes) if row]


def _fold(boxes: list[widgets.Widget]) -> list[widgets.Widget]:
    """Return a checkbox, and the rows of these boxes, which it shows and hides.

    An accordion would do the same, but its titles can't be used with the keyboard.
    """
    if not boxes:
        return []
    switch = widgets.Checkbox(False, description="More settings", indent=False)
    rows = widgets.VBox(_rows(boxes), layout={"display": "none"})

    def show(change: Bunch) -> None:
        rows.layout.display = None if change.new else "none"

    switch.observe(show, names="value")
    return [switch, rows]


def with_controls(
    controls: Mapping[str, Control], answer: Callable[..., tuple[HasHtml, str]]
) -> widgets.VBox:
    """Return an explorer with a widget for each control; a control that is not used is disabled.

    The arguments of `answer` are the values of the controls that are used.
    """
    boxes = {name: _widget(control) for name, control in controls.items()}

    def disable(_: Bunch | None = None) -> None:
        values = {name: box.value for name, box in boxes.items()}
        for name, control in controls.items():
            boxes[name].disabled = not control.is_used(values)

    for box in boxes.values():
        box.observe(disable, names="value")
    disable()
    more = [name for name, control in controls.items() if control.more]
    return explorer(boxes, lambda **values: answer(**used(controls, values)), more=more)


def _widget(control: Control) -> widgets.Widget:
    match control.kind:
        case "menu":
            options = [(words, value) for value, words in control.options.items()]
            return widgets.Dropdown(options=options, value=control.value, description=control.label)
        case "checkbox":
            return widgets.Checkbox(
                control.value,
                description=control.label,
                indent=False,
                layout={"width": f"{len(control.label) + 7}ch"},
            )
        case _:
            return widgets.IntText(
                control.value,
                description=control.label,
                continuous_update=False,
                layout={"width": "180px"},
            )


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
# Bytes per trainable parameter. Weight, gradient and optimizer need 4 + 4 + 8 bytes for adapters,
# and 2 + 2 + 12 bytes for full fine-tuning in mixed precision.
BYTES = 16


def lora_explorer() -> widgets.VBox:
    """Return an explorer of the number of parameters that LoRA trains."""
    custom, widest = Condition("model", (CUSTOM,)), 1_000_000
    controls = {
        "model": Control("model", CUSTOM, same([CUSTOM, *LORA_MODELS])),
        "d_in": Control("d_in", 1000, most=widest, only_if=custom),
        "d_out": Control("d_out", 1000, most=widest, only_if=custom),
        "layers": Control("layers", 1, most=1000, only_if=custom),
        "rank": Control("rank r", 8, most=widest),
    }
    ticked = ("q_proj", "k_proj", "v_proj")
    controls |= {name: Control(name, name in ticked) for name in MODULES}
    return with_controls(controls, lora_answer)


def lora_answer(
    model: str, rank: int, d_in: int = 0, d_out: int = 0, layers: int = 0, **modules: bool
) -> tuple[Picture, str]:
    """Return the matrices of one layer as rectangles to scale, and text about the chosen rank.

    Args:
        model: One of LORA_MODELS, or CUSTOM for a shape of the reader: the next three arguments.
        modules: For each name in MODULES, whether the module gets an adapter.
    """
    shape = None if model == CUSTOM else ModelShape.preset(model)
    widths = shape.linear_layers() if shape else dict.fromkeys(MODULES, (d_in, d_out))
    layers = shape.layers if shape else layers
    matrices = {name: widths[name] for name, ticked in modules.items() if ticked}
    if not matrices:
        raise ValueError("Tick at least one module: LoRA trains only the adapters.")
    if rank > (most := min(map(min, matrices.values()))):
        raise ValueError(f"rank r must be from 1 to {most:,} here, but is {rank:,}.")
    trained = layers * sum(count_lora_parameters(i, o, rank) for i, o in matrices.values())
    full = layers * sum(i * o for i, o in matrices.values())
    lines = {
        "adapters": f"{layers * len(matrices):,}, in {counted(layers, 'layer')}",
        "LoRA trains": f"{trained:,} parameters",
        "full fine-tuning of the same matrices": f"{full:,} parameters",
        "ratio": f"{trained / full:.2%}",
        "break-even rank": f"{rank * full / trained:,.1f}",
        f"LoRA with Adam, {BYTES} B each": format_bytes(BYTES * trained),
        f"full with Adam, {BYTES} B each": format_bytes(BYTES * full),
        "file of the adapters, float32": format_bytes(4 * trained),
    }
    if shape:
        whole = shape.parameters
        lines["share of the whole model"] = f"{trained / whole:.2%} of {whole:,} parameters"
    return figures.lora_rectangles(matrices, rank, layers), aligned(lines, 38)


# --- bins -----------------------------------------------------------------------------------------

# The explorer quantizes this many numbers of a distribution.
SAMPLE_SIZE = 2**16
REAL_TENSOR = "model.layers.15.mlp.up_proj.weight"
REAL_LAYER = "a real layer"
DISTRIBUTIONS = ("normal", "uniform", "heavy tails", REAL_LAYER)


def bins_explorer() -> widgets.VBox:
    """Return an explorer of the levels of a number format, and of the format's rounding error."""
    names = formats.NAMES | {"lloyd": "least error (Lloyd)"}
    any_bits = tuple(name for name in names if name not in formats.FOUR_BITS)
    controls = {
        "form": Control("format", "int", names),
        "bits": Control("bits", 4, least=2, most=8, only_if=Condition("form", any_bits)),
        # With the largest size, all numbers are in one block.
        "block_size": Control("block size", 64, same(2**n for n in range(4, 17))),
        "distribution": Control("numbers", "normal", same(DISTRIBUTIONS)),
    }
    return with_controls(controls, bins_answer)


def bins_answer(
    form: str, block_size: int, distribution: str, bits: int = 4
) -> tuple[Picture, str]:
    """Return a plot of numbers, levels and bins, and text about errors and the use of codes.

    `form` is a key of `formats.NAMES`, or "lloyd" for the levels with the least error.
    """
    x = _numbers(distribution)
    if form == "lloyd":
        name, levels = "least error (Lloyd)", lloyd_max_codebook(x, bits, block_size).tolist()
    else:
        name, levels = formats.NAMES[form], formats.levels_of(form, bits)
    found = formats.rounded(x.tolist(), levels, block_size)
    lines = found.lines(bits)
    if distribution == REAL_LAYER:
        lines["caution"] = "these weights were once quantized to 4 bits: the error is biased"
    picture = figures.bins({distribution: found.scaled}, {f"{name}, {bits} bits": levels})
    return picture, aligned(lines, 16)


@lru_cache(maxsize=len(DISTRIBUTIONS))
def _numbers(distribution: str) -> Tensor:
    """Return the same float32 numbers of a distribution, (SAMPLE_SIZE,), at every call."""
    import torch

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
TRAINERS = {"trl": "TRL: logits in tiles", "transformers": "transformers: all logits"}
STATES = {"adamw": "32-bit Adam", "adamw8bit": "8-bit Adam"}
MAX_SEQUENCES, MAX_TOKENS, MAX_RANK = 1024, 131_072, 1024


def memory_explorer() -> widgets.VBox:
    """Return an explorer of the memory for a training step, and of the GPUs with enough memory."""
    full = Condition("method", ("full",))
    controls = {
        "model": Control("model", "llama-7b", same([SLIDE, *PRESETS])),
        "method": Control("method", "qlora", METHODS),
        "gpu": Control("GPU", "T4", same(GPUS)),
        "sequence_length": Control("tokens", 1024, most=MAX_TOKENS),
        "batch_size": Control("batch size", 1, most=MAX_SEQUENCES),
        "trainer": Control("trainer", "trl", TRAINERS, more=True),
        "rank": Control("rank r", 16, most=MAX_RANK, only_if=ADAPTERS, more=True),
        "optimizer": Control("optimizer", "adamw", same(OPTIMIZERS), more=True),
        "attention": Control("attention", "sdpa", same(["sdpa", "eager"]), more=True),
        "recipe": Control("recipe", "mixed", same(RECIPES), only_if=full, more=True),
        "gradient_checkpointing": Control("gradient checkpointing", True, more=True),
        "double_quant": Control("double quantization", True, only_if=QLORA, more=True),
    }
    return with_controls(controls, memory_answer)


def memory_answer(model: str, method: str, gpu: str, **options: Any) -> tuple[Picture, str]:
    """Return a bar of the memory at the peak of a training step, and the numbers as text.

    The options are those of `memory.estimate`. Adapters are on all linear layers.
    """
    shape = memory.ModelShape.preset(model)
    estimate = memory.estimate(shape, method, **options)
    usable = {name: memory.usable_bytes(name) for name in memory.GPUS}
    lines = {
        "per parameter": f"{estimate.total / shape.parameters:.2f} B",
        "fits on": ", ".join(filter(estimate.fits, memory.GPUS)) or "none of these GPUs",
        "largest batch": "unknown; choose a model with known layers",
    }
    if shape.known:
        batch = memory.largest("batch_size", gpu, shape, method, **options)
        lines["largest batch"] = f"{batch:,} × {options['sequence_length']:,} tokens on {gpu}"
    missing = estimate.total - usable[gpu]
    verdict = f"needs {format_bytes(missing)} more than" if missing > 0 else "fits on"
    title = f"{shape.name}, {METHODS[method]}: {verdict} one {gpu}"
    bars = {METHODS[method].replace(" on ", "\non "): estimate.groups}
    picture = figures.memory_bars(bars, usable, reach=usable[gpu], title=title)
    return picture, f"{estimate}\n{aligned(lines, 15)}"


def paging_explorer() -> widgets.VBox:
    """Return an explorer that shows whether memory runs out in four training steps."""
    controls = {
        "model": Control("model", "llama-3.1-8b", same(PRESETS)),
        "method": Control("method", "qlora", METHODS),
        "optimizer": Control("optimizer", "adamw", STATES),
        "gpu": Control("GPU", "T4", same(GPUS)),
        "batch_size": Control("batch size", 1, most=MAX_SEQUENCES),
        "sequence_length": Control("tokens", 1024, most=MAX_TOKENS),
        "longest": Control("long: tokens", 4096, most=MAX_TOKENS),
        "rank": Control("rank r", 64, most=MAX_RANK, only_if=ADAPTERS),
        "gradient_checkpointing": Control("gradient checkpointing", True),
        "paged": Control("paged states", False),
    }
    return with_controls(controls, paging_answer)


def paging_answer(
    model: str, method: str, gpu: str, paged: bool, **options: Any
) -> tuple[Picture, str]:
    """Return a timeline of the four steps, and text about the run with and without paging.

    The options are those of `memory.estimate`, and `longest`: the number of tokens per text in step
    3, where the other steps have `sequence_length`. The trained parameters are float32 numbers, and
    all logits are in memory at once. `paged` decides which of the two runs is drawn.
    """
    usual, longest = options.pop("sequence_length"), options.pop("longest")
    options |= {"recipe": "fp32", "loss": "logits", "keep_output": True}
    ways = {pages: dict(options) for pages in (True, False)}
    ways[True]["optimizer"] = f"paged_{options['optimizer']}"
    runs = {
        pages: paging.simulate(
            model, method, gpu=gpu, lengths=(usual, usual, longest, usual), **way
        )
        for pages, way in ways.items()
    }
    fits = {pages: paging.longest_text(gpu, model, method, **way) for pages, way in ways.items()}
    tensors = paging.paged_tensors(model, method, **ways[True])
    states = format_bytes(sum(tensor.size for tensor in tensors))
    can_page = format_bytes(sum(tensor.paged for tensor in tensors))
    count = sum(tensor.count for tensor in tensors)
    paging_count = sum(tensor.count for tensor in tensors if tensor.paged)
    labels = {True: "paging on", False: "paging off"}
    shown = runs[paged]
    speed = f"{format_bytes(shown.bandwidth)}/s"
    large = f"those of at least {memory.SMALLEST_PAGED:,} elements"
    lines = {
        f"{labels[paged]} (shown)": _outcome(shown),
        labels[not paged]: _outcome(runs[not paged]),
        f"memory of {gpu}": format_bytes(shown.budget),
        "bus": f"PCIe {memory.GPUS[gpu].pcie}.0 ×16, nominally {speed}",
        "optimizer states": f"{states}, of which {can_page} can page",
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
# The block sizes of bitsandbytes, and 16 for comparison.
SMALL_BLOCKS = tuple(2**n for n in range(4, 13))
CODE_BITS = 4


def overhead_explorer() -> widgets.VBox:
    """Return an explorer of the memory that the constants of quantization need."""
    double = Condition("double_quant", (True,))
    controls = {
        "model": Control("model", "7b", same([*WEIGHT_COUNTS, *PRESETS])),
        "block_size": Control("block size", 64, same(SMALL_BLOCKS)),
        "constant_bits": Control("absmax bits", 32, most=64),
        "nested_bits": Control("nested bits", 8, most=16, only_if=double),
        "nested_block_size": Control("nested size", 256, most=2**20, only_if=double),
        "double_quant": Control("double quantization", True),
    }
    return with_controls(controls, overhead_answer)


def overhead_answer(
    model: str, block_size: int, constant_bits: int, double_quant: bool, **nested: int
) -> tuple[Picture, str]:
    """Return a chart of the bits per weight for each block size, and the model's bytes as text.

    Only the weights of the linear layers of a model are quantized. The code books are not counted.
    With double quantization, a constant has `nested_bits`, and `nested_block_size` constants share
    a number with `constant_bits`.
    """
    weights = WEIGHT_COUNTS.get(model) or ModelShape.preset(model).linear_parameters

    def parts(size: int) -> dict[str, float]:
        """Return the bits per weight of each part of the format, for blocks of `size`."""
        if not double_quant:
            plain = overhead_bits(size, constant_bits=constant_bits)
            return {"codes": CODE_BITS, "constants": plain}
        groups = size * nested["nested_block_size"]
        return {
            "codes": CODE_BITS,
            "constants": overhead_bits(size, constant_bits=nested["nested_bits"]),
            "nested constants": overhead_bits(groups, constant_bits=constant_bits),
        }

    def bits_and_bytes(each: float) -> str:
        return f"{each:<12.10g} {format_bytes(weights * each / 8)}"

    bits = parts(block_size)
    total = sum(bits.values())
    plain = CODE_BITS + overhead_bits(block_size, constant_bits=constant_bits)
    lines = {
        "weights in 4 bits": f"{weights:,}",
        "bits per weight": f"{total:.10g}",
        **{name: bits_and_bytes(each) for name, each in bits.items()},
        "total": format_bytes(weights * total / 8),
        "without double quantization": bits_and_bytes(plain),
        "saved" if total <= plain else "costs": bits_and_bytes(abs(plain - total)),
    }
    rows = {f"blocks of {size:,}": parts(size) for size in SMALL_BLOCKS}
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
    """Return in words what a program finds in a model's answer: form, section and house style."""
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


def answer_cards(answers: Mapping[str, str], story: str) -> HTML:
    """Return answers to one story side by side, each with its verdicts; on a phone one by one."""
    cards = ""
    for name, answer in answers.items():
        found = "".join(
            f"<div><b>{key}:</b> {html.escape(words)}</div>"
            for key, words in verdict(answer, story).items()
        )
        text = html.escape(answer) or "(an empty answer)"
        cards += (
            f'<div style="{CARD}"><b>{html.escape(name)}</b>'
            f'<div style="{ANSWER}; margin: 0.4em 0">{text}</div>{found}</div>'
        )
    return HTML(f'<div style="display: flex; flex-wrap: wrap; gap: 0.8em">{cards}</div>')


def story_explorer(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, story: str
) -> widgets.VBox:
    """Return an explorer in which readers enter a story, and compare prompting with fine-tuning.

    Without its adapter, the fine-tuned model answers a few-shot prompt. `story` is answered first.
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
) -> tuple[HTML, str]:
    """Return both answers to a story, and text about their prompts and times."""
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
    return answer_cards(answers, example["story"]), aligned(lines, 9)


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
# The strengths whose answers are shown at the beginning. The last one is chosen.
FIRST_STRENGTHS = (0.0, 0.5, 1.0)


def strength_table(answers: Mapping[float, str], chosen: float, story: str) -> HTML:
    """Return the answers to one story at several strengths, with the chosen strength marked."""
    head = "".join(f'<th style="{CELL}">{name}</th>' for name in ("strength", "answer", "form"))
    rows = ""
    for strength, answer in sorted(answers.items()):
        form = verdict(answer, story)["form"].removesuffix(" with section and headline")
        mark, weight = ("▶ ", "bold") if strength == chosen else ("", "normal")
        rows += (
            f'<tr><th scope="row" style="{CELL}; font-weight: {weight}; white-space: nowrap">'
            f'{mark}{strength:g}</th><td style="{CELL}; {ANSWER}">{html.escape(answer)}</td>'
            f'<td style="{CELL}">{form}</td></tr>'
        )
    return HTML(f"<table><tr>{head}</tr>{rows}</table>")


def strength_explorer(answer_at: Callable[[float], str], story: str) -> widgets.VBox:
    """Return an explorer of the answer to one story as the adapter's strength changes.

    Each answer is computed only once. All answers so far are shown in a table.

    Args:
        answer_at: A function from the strength of the adapter to the model's answer to the story.
            At 0 the adapter is off, and at 1 it is as it was trained.
        story: The story, for the verdict on the answer.
    """
    answers = {strength: answer_at(strength) for strength in FIRST_STRENGTHS}
    slider = widgets.FloatSlider(
        FIRST_STRENGTHS[-1],
        min=0,
        max=STRONGEST,
        step=STRENGTH_STEP,
        description="strength",
        continuous_update=False,
        layout={"max_width": "98%", "width": "420px"},
    )

    def answer(strength: float) -> tuple[HTML, str]:
        if strength not in answers:
            answers[strength] = answer_at(strength)
        lines = verdict(answers[strength], story)
        text = f"strength {strength:g}\n{aligned(lines, 11)}"
        return strength_table(answers, strength, story), text

    return explorer({"strength": slider}, answer, waiting="The model is answering …")
