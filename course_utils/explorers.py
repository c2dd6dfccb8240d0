"""Controls to play with: each explorer is a box of widgets in front of a pure function.

`explorer` asks `answer` for a picture and a text whenever a control changes, and shows both as
HTML, the picture with its alt text: the same in JupyterLab, Notebook, Colab (ipywidgets 7.7), VS
Code and Voila. A ValueError of `answer` is shown in their place, as a sentence; the next good value
brings them back. Number fields and menus can be used from the keyboard alone.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import ipywidgets as widgets

from course_utils import figures
from course_utils.figures import Picture
from course_utils.lora import count_lora_parameters
from course_utils.memory import (
    GPUS,
    OPTIMIZERS,
    PRESETS,
    RECIPES,
    SMALLEST_PAGED,
    ModelShape,
    estimate,
    largest,
    usable_bytes,
)
from course_utils.memory.settings import BLOCK_SIZES
from course_utils.paging import PCIE, Run, longest_text, paged_tensors, simulate
from course_utils.units import format_bytes

NUMBERS_LOOK = "font-family: monospace; line-height: 1.3"  # Voila spreads the lines otherwise


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
            numbers = f'<pre style="{NUMBERS_LOOK}">{html.escape(text)}</pre>'
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


def menu(
    description: str, options: Iterable[Any] | Mapping[str, str], value: Any = None
) -> widgets.Dropdown:
    """A menu of values, or of the words for values: {value: words}. The first is chosen if none."""
    if isinstance(options, Mapping):
        options = [(words, key) for key, words in options.items()]
    chosen = {} if value is None else {"value": value}
    return widgets.Dropdown(options=list(options), description=description, **chosen)


def tick(description: str, value: bool, width: str = "210px") -> widgets.Checkbox:
    """A box to tick."""
    return widgets.Checkbox(value, description=description, indent=False, layout={"width": width})


def number(description: str, value: int) -> widgets.IntText:
    """A field for a whole number: typed, or stepped with the arrow keys."""
    return widgets.IntText(
        value, description=description, continuous_update=False, layout={"width": "180px"}
    )


def switch_off(fields: Iterable[widgets.Widget], by: widgets.Widget, when: Callable) -> None:
    """Keep fields disabled while `when` holds for the value of the control `by`."""

    def follow(_=None) -> None:
        for field in fields:
            field.disabled = when(by.value)

    by.observe(follow, names="value")
    follow()


def check_numbers(given: Mapping[str, int], most: Mapping[str, int], least: int = 1) -> None:
    """Raise ValueError, for the reader, for a number that isn't from `least` to its `most`."""
    for name, value in given.items():
        if not least <= value <= most[name]:
            allowed = f"from {least} to {most[name]:,}"
            raise ValueError(f"{name} must be {allowed} here, but is {value:,}.")


def check_choices(given: Mapping[str, tuple[Any, Iterable]]) -> None:
    """Raise ValueError, for the reader, for a value that isn't allowed.

    given: name → the value, and those that are.
    """
    for name, (value, allowed) in given.items():
        if value not in allowed:
            choices = ", ".join(map(str, allowed))
            raise ValueError(f"{name} must be one of {choices} here, but is {value}.")


def method_options(
    method: str, rank: int, recipe: str, double_quant: bool, upcast: bool
) -> dict[str, Any]:
    """Those options of an estimate that its method has; adapters go to all linear layers."""
    if method == "full":
        return {"recipe": recipe}
    nf4 = {"double_quant": double_quant, "upcast": upcast} if method == "qlora" else {}
    return {"rank": rank, "targets": "all-linear"} | nf4


def listed(lines: Mapping[str, str], width: int) -> str:
    """A line for each name and what is said of it, in two columns, the first so wide."""
    return "\n".join(f"{name:<{width}} {said}" for name, said in lines.items())


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
        "model": menu("model", [FREE, *LORA_MODELS]),
        "d_in": number("d_in", 1000),
        "d_out": number("d_out", 1000),
        "layers": number("layers", 1),
        "rank": number("rank r", 8),
    }
    for name in MODULES:
        ticked = name in ("q_proj", "k_proj", "v_proj")
        controls[name] = tick(name, ticked, "110px")

    def follow_model(change) -> None:
        free = change.new == FREE
        controls["layers"].value = 1 if free else ModelShape.preset(change.new).layers

    shape = controls["d_in"], controls["d_out"]
    switch_off(shape, by=controls["model"], when=lambda model: model != FREE)
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
    most = largest | {"rank r": min(map(min, matrices))}
    check_numbers({name: given[name] for name in most}, most)
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
    return figures.lora_parameters(per_rank, full, rank), listed(lines, 38)


# --- bins -----------------------------------------------------------------------------------------

FORMATS = {
    "int": "int: equal steps",
    "nf": "NormalFloat",
    "fp4": "FP4, bitsandbytes",
    "ocp": "FP4, OCP (E2M1)",
    "lloyd": "least error (Lloyd)",
}
FOUR_BITS = ("fp4", "ocp")  # whatever bits are chosen
NUMBERS = 2**16  # of a distribution
SIZES = [2**n for n in range(4, 17)]  # of blocks; the last is one block for all
REAL = "model.layers.15.mlp.up_proj.weight"
REAL_LAYER = "a real layer"
DISTRIBUTIONS = ("normal", "uniform", "heavy tails", REAL_LAYER)


def bins_explorer() -> widgets.VBox:
    """Where the levels of a format lie, and what becomes of numbers of some distribution."""
    controls = {
        "form": menu("format", FORMATS),
        "bits": number("bits", 4),
        "block_size": menu("block size", SIZES, 64),
        "distribution": menu("numbers", DISTRIBUTIONS),
    }
    switch_off([controls["bits"]], by=controls["form"], when=FOUR_BITS.__contains__)
    return explorer(controls, bins_answer)


def bins_answer(form: str, bits: int, block_size: int, distribution: str) -> tuple[Picture, str]:
    """What `bins_explorer` shows: levels and bins under the numbers, and error and use as text.

    form: a key of FORMATS. bits: 2 to 8; FP4 has 4 whatever they are. block_size: one of SIZES.
    distribution: one of DISTRIBUTIONS; the real layer is REAL of the course's model.
    Raises ValueError for a value out of range.
    """
    from course_utils import quantization

    check_numbers({"bits": bits}, {"bits": 8}, least=2)
    check_choices({"format": (form, FORMATS), "numbers": (distribution, DISTRIBUTIONS)})
    x = _numbers(distribution)
    bits = 4 if form in FOUR_BITS else bits
    levels = {
        "int": lambda: quantization.linear_codebook(bits),
        "nf": lambda: quantization.normal_float(bits),
        "fp4": quantization.fp4_codebook,
        "ocp": lambda: quantization.fp4_codebook("ocp"),
        "lloyd": lambda: quantization.lloyd_max_codebook(x, bits, block_size),
    }[form]()
    q = quantization.quantize(x, levels, block_size)
    scaled = x / q.absmax.repeat_interleave(block_size)[:NUMBERS]
    share = q.codes.int().bincount(minlength=len(levels)) / NUMBERS
    used = share[share > 0]
    widths = quantization.bin_edges(levels).diff()
    error = (q.dequantize() - x).square().mean() / x.square().mean()
    overhead = quantization.overhead_bits(block_size)
    lines = {
        "squared error": f"{error:.3%} of the squared numbers",
        "bits a number": f"{bits} + {overhead:g} = {bits + overhead:g}",
        "levels": f"{len(levels)} of {2**bits} codes",
        "bins": f"from {widths.min():.4f} to {widths.max():.4f} wide",
        "use of a code": f"from {share.min():.1%} to {share.max():.1%} of the numbers",
        "even use": f"{1 / len(levels):.1%}",
        "information": f"{-(used * used.log2()).sum():.3f} of {bits} bits",
        "mean absmax": f"{q.absmax.mean() / x.std():.2f} standard deviations",
    }
    if distribution == REAL_LAYER:
        lines["beware"] = "these weights were in 4 bits once before: the error is biased"
    picture = figures.bins(scaled.tolist(), {f"{FORMATS[form]}, {bits} bits": levels.tolist()})
    return picture, listed(lines, 15)


@lru_cache(maxsize=len(DISTRIBUTIONS))
def _numbers(distribution: str):
    """NUMBERS numbers, the same each time: a float32 tensor (NUMBERS,)."""
    import torch

    from course_utils.models import stored_weights

    if distribution == REAL_LAYER:
        ((_, weights),) = stored_weights(part=REAL)
        return weights.float().flatten()[:NUMBERS]
    g = torch.Generator().manual_seed(0)
    if distribution == "uniform":
        return 2 * torch.rand(NUMBERS, generator=g) - 1
    x = torch.randn(NUMBERS, generator=g)
    if distribution == "heavy tails":  # Student's t of 4 degrees of freedom
        x /= torch.randn(4, NUMBERS, generator=g).square().mean(0).sqrt()
    return x


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
    controls = {
        "model": menu("model", [SLIDE, *PRESETS]),
        "method": menu("method", METHODS),
        "recipe": menu("recipe", RECIPES.keys(), "mixed"),
        "optimizer": menu("optimizer", OPTIMIZERS.keys()),
        "attention": menu("attention", ["sdpa", "eager"]),
        "gpu": menu("GPU", GPUS.keys()),
        "batch_size": number("batch size", 1),
        "sequence_length": number("tokens", 1024),
        "rank": number("rank r", 16),
        "gradient_checkpointing": tick(CHECKPOINTING, True),
        "double_quant": tick(DOUBLE, True),
        "upcast": tick(UPCAST, False),
    }

    method, nf4 = controls["method"], (controls["double_quant"], controls["upcast"])
    switch_off([controls["recipe"]], by=method, when=lambda chosen: chosen != "full")
    switch_off([controls["rank"]], by=method, when=lambda chosen: chosen == "full")
    switch_off(nf4, by=method, when=lambda chosen: chosen != "qlora")
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
    check_numbers(given, MOST)
    options = {
        "optimizer": optimizer,
        "attention": attention,
        "sequence_length": sequence_length,
        "gradient_checkpointing": gradient_checkpointing,
    }
    options |= method_options(method, rank, recipe, double_quant, upcast)
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
    picture = figures.memory_bars({METHODS[method]: found.groups}, room, reach=room[gpu])
    return picture, f"{found.table()}\n\n{listed(lines, 25)}"


# --- overhead of block constants ------------------------------------------------------------------

BARE = {"7b": 7 * 10**9, "65b": 65 * 10**9}  # all weights counted, as the slides and papers do
CODE_BITS = 4
SMALL_BLOCKS = (16, *BLOCK_SIZES)  # one smaller than those of bitsandbytes, to compare with
CONSTANTS = {"absmax bits": 64, "nested bits": 16, "nested size": 2**20}  # the most of each


def overhead_explorer() -> widgets.VBox:
    """What the constants of blocks cost in bits and GB, with and without double quantization."""
    controls = {
        "model": menu("model", [*BARE, *PRESETS]),
        "block_size": menu("block size", SMALL_BLOCKS, 64),
        "constant_bits": number("absmax bits", 32),
        "nested_bits": number("nested bits", 8),
        "nested_block_size": number("nested size", 256),
        "double_quant": tick(DOUBLE, True),
    }

    nested = controls["nested_bits"], controls["nested_block_size"]
    switch_off(nested, by=controls["double_quant"], when=lambda ticked: not ticked)
    return explorer(controls, overhead_answer)


def overhead_answer(
    model: str,
    block_size: int,
    constant_bits: int,
    nested_bits: int,
    nested_block_size: int,
    double_quant: bool,
) -> tuple[Picture, str]:
    """What `overhead_explorer` shows: bits per weight for each block size, and GB as text.

    model: a key of BARE, or a preset, of which the linear layers count: they alone are quantized.
    block_size: one of SMALL_BLOCKS. The others as those of `quantization.overhead_bits`, up to
    CONSTANTS; the nested ones count with double quantization only. Code books are left out.
    Raises ValueError for a value out of range.
    """
    from course_utils.quantization import overhead_bits

    check_choices({"block size": (block_size, SMALL_BLOCKS)})
    given = {"absmax bits": constant_bits}
    if double_quant:
        given |= {"nested bits": nested_bits, "nested size": nested_block_size}
    check_numbers(given, CONSTANTS)

    def parts(size: int) -> dict[str, float]:
        plain = {"codes": CODE_BITS, "constants": overhead_bits(size, False, constant_bits)}
        if not double_quant:
            return plain
        nested = overhead_bits(size * nested_block_size, False, constant_bits)
        return plain | {"constants": nested_bits / size, "constants of constants": nested}

    weights = BARE.get(model) or ModelShape.preset(model).linear_parameters
    bits = parts(block_size)
    total = sum(bits.values())
    plain = CODE_BITS + overhead_bits(block_size, False, constant_bits)

    def written(own: float) -> str:
        return f"{own:<12.10g} {format_bytes(weights * own / 8)}"

    lines = {
        "weights in 4 bits": f"{weights:,}",
        "bits per weight": f"{total:.10g}",
        **{name: written(own) for name, own in bits.items()},
        "all of it": format_bytes(weights * total / 8),
        "without double quantization": written(plain),
        "saved" if total <= plain else "costs": written(abs(plain - total)),
    }
    rows = {f"blocks of {size:,}": parts(size) for size in SMALL_BLOCKS}
    return figures.bits_per_weight(rows, f"blocks of {block_size:,}"), listed(lines, 28)


# --- paging ---------------------------------------------------------------------------------------

STATES = {"adamw": "32-bit Adam", "adamw8bit": "8-bit Adam"}
PAGING = "paged states"


def paging_explorer() -> widgets.VBox:
    """Four training steps, the third with a long mini-batch: does memory run out?"""
    controls = {
        "model": menu("model", PRESETS.keys(), "llama-3.1-8b"),
        "method": menu("method", METHODS, "qlora"),
        "optimizer": menu("optimizer", STATES),
        "gpu": menu("GPU", GPUS.keys()),
        "batch_size": number("batch size", 1),
        "sequence_length": number("tokens", 1024),
        "longest": number("long: tokens", 4096),
        "rank": number("rank r", 64),
        "gradient_checkpointing": tick(CHECKPOINTING, True),
        "paged": tick(PAGING, False),
    }

    switch_off([controls["rank"]], by=controls["method"], when=lambda chosen: chosen == "full")
    return explorer(controls, paging_answer)


def paging_answer(
    model: str,
    method: str,
    optimizer: str,
    gpu: str,
    batch_size: int,
    sequence_length: int,
    longest: int,
    rank: int,
    gradient_checkpointing: bool,
    paged: bool,
) -> tuple[Picture, str]:
    """What `paging_explorer` shows: a timeline of four steps, and what becomes of the run as text.

    method: as in `memory.estimate`; full fine-tuning is in float32, adapters go to all linear
    layers. optimizer: a key of STATES. sequence_length: tokens of a text in steps 1, 2 and 4;
    longest: in step 3. paged: whether optimizer states may page.
    Raises ValueError for a value out of range.
    """
    given = {"batch size": batch_size, "tokens": sequence_length, "long: tokens": longest}
    given |= {} if method == "full" else {"rank r": rank}
    check_numbers(given, MOST | {"long: tokens": MOST["tokens"]})
    options = {"batch_size": batch_size, "gradient_checkpointing": gradient_checkpointing}
    options |= method_options(method, rank, "fp32", double_quant=True, upcast=False)
    lengths = (sequence_length, sequence_length, longest, sequence_length)
    names = {True: f"paged_{optimizer}", False: optimizer}
    runs = {
        on: simulate(model, method, gpu=gpu, lengths=lengths, optimizer=name, **options)
        for on, name in names.items()
    }
    tensors = paged_tensors(model, method, optimizer=names[True], **options)
    pages = sum(tensor.paged for tensor in tensors)
    fits = {
        on: longest_text(gpu, model, method, optimizer=name, **options)
        for on, name in names.items()
    }
    paging = sum(tensor.count for tensor in tensors if tensor.paged)
    count = sum(tensor.count for tensor in tensors)
    states = format_bytes(sum(tensor.size for tensor in tensors))
    words = {True: "paging on", False: "paging off"}
    lines = {
        f"{words[paged]} (shown)": _outcome(runs[paged]),
        words[not paged]: _outcome(runs[not paged]),
        f"room on {gpu}": format_bytes(runs[paged].budget),
        "bus": f"PCIe {PCIE[gpu]}.0 ×16, nominally {format_bytes(runs[paged].bandwidth)}/s",
        "optimizer states": f"{states}, of which {format_bytes(pages)} can page",
        "tensors that page": f"{paging:,} of {count:,}: from {SMALLEST_PAGED:,} elements on",
        "longest text": f"{_tokens(fits[False])}, with paging {_tokens(fits[True])}",
    }
    return figures.memory_timeline(runs[paged]), listed(lines, 19)


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count else "none"


def _outcome(run: Run) -> str:
    if failed := run.out_of_memory:
        return f"out of memory in step {failed.step}: {format_bytes(failed.total)}"
    if run.moved:
        return f"runs; {format_bytes(run.moved)} moved in {run.seconds:.2f} s"
    return f"runs, up to {format_bytes(run.peak)}; nothing moves"
