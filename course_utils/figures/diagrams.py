"""Draw the mechanisms of the lectures as diagrams: what happens, in what order, and how large."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.figures.base import HALO, POINTS, Picture, Style, add_title, apart, hide_frame
from course_utils.figures.canvas import NOTE, TEXT, Canvas, Point, text_width
from course_utils.figures.lora import GAP, THINNEST, draw_adapted
from course_utils.palette import (
    ACTIVATIONS,
    ADAPTERS,
    BLUE,
    CONSTANTS,
    GRADIENTS,
    GREY,
    INK,
    OPTIMIZER,
    PAPER,
    WEIGHTS,
    colours,
    text_on,
)
from course_utils.units import GB, format_bytes

if TYPE_CHECKING:
    from course_utils.memory import ModelShape, StepPhase

# --- a transformer block with LoRA ----------------------------------------------------------------

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
# The font size in the diagram of a block, and the x of the residual stream, in points.
SMALL, STREAM = 10.6, 18.0
# An adapter's A and B may be this thick, in points; the rows of layers have no more room.
THICKEST = 9


def transformer_block(
    shape: ModelShape | None = None,
    rank: int = 8,
    targets: Collection[str] = (*ATTENTION, *MLP),
    title: str = "",
) -> Picture:
    """Draw a transformer block: its seven linear layers to scale, each with an adapter of LoRA.

    The weights are blue, and as wide as d_out and as high as d_in. To the left of each adapted
    weight is A and above it is B, both orange. A side thinner than 2 points is drawn 2 points
    thick. The residual stream runs down the left side.

    Args:
        shape: the model, by default SmolLM2-135M.
        rank: the rank r of the adapters. A and B may be at most 9 points thick.
        targets: the names of the linear layers that have adapters.
        title: a sentence that says what the picture shows.

    Raises:
        ValueError: the model's block does not have these seven linear layers, a target is not one
            of them, or the rank is less than 1 or too large for the picture.
    """
    from course_utils.memory import ModelShape

    shape = shape or ModelShape.preset("smollm2-135m")
    layers = shape.linear_layers()
    if set(layers) != {*ATTENTION, *MLP}:
        raise ValueError(f"{shape.name} must have the layers {', '.join((*ATTENTION, *MLP))}")
    if unknown := set(targets) - set(layers):
        raise ValueError(f"targets must be among {', '.join(layers)}, got {sorted(unknown)}")
    # Points for each row or column of a weight.
    scale = 100 / max(side for sides in layers.values() for side in sides)
    most = int(THICKEST / scale)
    if not 1 <= rank <= most:
        raise ValueError(
            f"the rank must be from 1 to {most}, so that the picture has room for A and B, "
            f"got {rank}"
        )
    canvas = Canvas(556, 346, title)

    def place(name: str, x: float, y: float, end: float) -> float:
        """Draw a layer in row y with its left side at x, and a line from it to the x `end`.

        The name is above the line and the shape below it. Returns the x of the layer's left side.
        """
        d_in, d_out = layers[name]
        width, height = d_out * scale, d_in * scale
        thick = max(rank * scale, THINNEST) if name in targets else 0.0
        draw_adapted(canvas, (x, y - height / 2), (width, height), thick)
        canvas.line([(x + width + 2, y), (end, y)])
        canvas.text((x + width + 8, y - 9), name, size=SMALL, ha="left")
        canvas.text((x + width + 8, y + 9), f"{d_in:,} × {d_out:,}", size=SMALL, ha="left")
        return x - (thick + GAP if thick else 0) - 2

    def fork(y: float, rows: Sequence[float], lefts: Sequence[float]) -> None:
        """Draw the lines from the stream through the norm at height y to several layers."""
        canvas.arrow([(STREAM + 4, y), (50, y)])
        canvas.box((50, y - 11), (40, 22), "norm", text_size=SMALL)
        canvas.line([(90, y), (104, y)])
        canvas.line([(104, rows[0]), (104, rows[-1])])
        for row, left in zip(rows, lefts, strict=True):
            canvas.arrow([(104, row), (left, row)])

    canvas.line([(STREAM, 22), (STREAM, 338)], GREY, 5)
    canvas.text(
        (STREAM - 9, 9),
        f"residual stream: {shape.hidden:,} numbers per token",
        size=SMALL,
        ha="left",
    )
    _legend(canvas, rank)
    rows: tuple[float, ...] = 52.0, 102.0, 152.0
    canvas.text((34, 36), "Attention", size=11, weight="bold", ha="left")
    names = ("q_proj", "k_proj", "v_proj")
    lefts = [place(name, 124, y, 256) for name, y in zip(names, rows, strict=True)]
    fork(102, rows, lefts)
    for y in rows:
        canvas.arrow([(250, y), (262, y)])
    canvas.box((264, 32), (86, 140), "each token\nreads the\nearlier\ntokens", text_size=SMALL)
    canvas.arrow([(350, 102), (place("o_proj", 386, 102, 546), 102)])
    _back_to_stream(canvas, 102, 190)
    rows = 234.0, 290.0
    canvas.text((34, 214), "MLP", size=11, weight="bold", ha="left")
    lefts = [place(name, 124, y, 326) for name, y in zip(MLP, rows, strict=False)]
    fork(262, rows, lefts)
    for y in rows:
        canvas.arrow([(320, y), (332, y)])
    canvas.box((334, 216), (56, 92), "SiLU\n(gate)\n× up", text_size=SMALL)
    canvas.arrow([(390, 262), (place("down_proj", 412, 262, 546), 262)])
    _back_to_stream(canvas, 262, 332)
    adapted = [name for name in layers if name in targets]
    sizes = ", ".join(f"{name} {d_in:,} × {d_out:,}" for name, (d_in, d_out) in layers.items())
    return canvas.picture(
        f"A transformer block of {shape.name}. The residual stream of {shape.hidden:,} numbers per "
        f"token passes two branches, and each branch adds its result to the stream. Attention: "
        f"norm, q_proj, k_proj and v_proj, attention over earlier tokens, o_proj. MLP: norm, "
        f"gate_proj and up_proj, SiLU(gate) × up, down_proj. Weights to scale, d_in × d_out: "
        f"{sizes}. Beside each of {', '.join(adapted) or 'no layer'} is an adapter: A, d_in × "
        f"{rank}, and B, {rank} × d_out."
    )


def _back_to_stream(canvas: Canvas, middle: float, y: float) -> None:
    """Draw the line from a branch back to the stream, and the plus sign where it is added."""
    canvas.arrow([(546, middle), (546, y), (STREAM + 10, y)])
    canvas.box((STREAM - 9, y - 9), (18, 18), "+", face=PAPER, weight="bold", text_size=11)


def _legend(canvas: Canvas, rank: int) -> None:
    x = 276.0
    for colour, text in ((WEIGHTS, "W, frozen"), (ADAPTERS, f"A and B, trained (rank {rank})")):
        canvas.rectangle((x, 4), (10, 10), colour)
        canvas.text((x + 14, 9), text, size=SMALL, ha="left")
        x += text_width(text, SMALL) + 30


# --- shift by one ---------------------------------------------------------------------------------


def shift_by_one(
    tokens: Sequence[str],
    graded: Sequence[bool] | None = None,
    title: str = "",
    excerpt: bool = False,
) -> Picture:
    """Draw which label each prediction of a model is compared with: that of the next token.

    Thin lines show the tokens that each prediction depends on: its own token and all earlier ones.

    Args:
        tokens: the texts of three to nine tokens. They are the inputs and also the labels.
        graded: for each token, whether its label counts. The labels of the other tokens are −100.
        title: a sentence that says what the picture shows.
        excerpt: whether the text has more tokens before and after these ones.

    Raises:
        ValueError: there are fewer than three tokens or more than nine, or `graded` has another
            length than `tokens`.
    """
    count = len(tokens)
    if not 3 <= count <= 9:
        raise ValueError(f"there must be from three to nine tokens, got {count}")
    marks = [True] * count if graded is None else list(graded)
    if len(marks) != count:
        raise ValueError(f"graded must have {count} items, one for each token, got {len(marks)}")
    canvas = Canvas(504, 186, title)
    left, right = (102, 490) if excerpt else (90, 506)
    step = (right - left) / count
    width, rows = step - 10, {"inputs": 20.0, "predictions": 84.0, "labels": 148.0}
    middles = [left + n * step + width / 2 for n in range(count)]
    for name, y in rows.items():
        canvas.text((2, y + 13), name, weight="bold", ha="left")
        if excerpt:
            canvas.text((left - 10, y + 13), "…")
            canvas.text((right, y + 13), "…")
    for n, (token, mark, x) in enumerate(zip(tokens, marks, middles, strict=True)):
        at = {name: (x - width / 2, y) for name, y in rows.items()}
        unused = n == count - 1 and not excerpt
        wide = text_width(token, TEXT, family="monospace")
        size = TEXT * min(1, 0.9 * width / max(wide, 1))
        style: Style = {"family": "monospace", "text_size": size}
        canvas.box(at["inputs"], (width, 26), token, **style)
        for earlier in [left - 10] * excerpt + middles[:n]:
            canvas.line([(earlier, 47), (x, 82)], GREY, 0.5)
        canvas.arrow([(x, 47), (x, 82)], GREY if unused else INK)
        if unused:
            canvas.box(
                at["predictions"], (width, 26), "unused", edge=GREY, dashed=True, text_size=NOTE
            )
        else:
            canvas.box(at["predictions"], (width, 26))
            _draw_distribution(canvas, x, rows["predictions"] + 22)
        if n < count - 1:
            counts = marks[n + 1]
            line: list[Point] = [(x, 111), (middles[n + 1], 146)]
            canvas.arrow(line, ACTIVATIONS if counts else GREY, 1.8, dashed=not counts)
        if mark and (n or excerpt):
            canvas.box(at["labels"], (width, 26), token, edge=ACTIVATIONS, weight="bold", **style)
        else:
            text = "−100" if not mark else "unused"
            canvas.box(at["labels"], (width, 26), text, edge=GREY, dashed=True, text_size=NOTE)
    pairs = [
        f"the prediction after “{a}” is compared with “{b}”"
        if mark
        else f"the prediction after “{a}” is not graded"
        for a, b, mark in zip(tokens, tokens[1:], marks[1:], strict=False)
    ]
    end = (
        "The text has more tokens before and after these ones."
        if excerpt
        else f"The prediction after the last token, “{tokens[-1]}”, has no label."
    )
    return canvas.picture(
        f"Inputs, predictions and labels of {count} tokens. Each prediction depends on its own "
        f"token and on all earlier ones. In detail, {'; '.join(pairs)}. {end}"
    )


def _draw_distribution(canvas: Canvas, middle: float, bottom: float) -> None:
    """Draw five bars, the sign of a probability distribution."""
    for n, height in enumerate((4, 9, 18, 7, 3)):
        canvas.rectangle((middle - 12 + 5 * n, bottom - height), (4, height), ACTIVATIONS)


# --- number formats -------------------------------------------------------------------------------


class NumberFormat(NamedTuple):
    """A floating-point format with a sign bit, as IEEE 754 defines such formats.

    Attributes:
        name: the name of the format.
        exponent: the number of bits of the exponent.
        mantissa: the number of bits of the mantissa.
    """

    name: str
    exponent: int
    mantissa: int

    @property
    def bias(self) -> int:
        """The number that is subtracted from the stored exponent."""
        return 2 ** (self.exponent - 1) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return (2 - 2.0**-self.mantissa) * 2.0**self.bias

    @property
    def smallest(self) -> float:
        """The smallest positive number with full precision (the smallest normal number)."""
        return 2.0 ** (1 - self.bias)

    def bits(self, value: float) -> str:
        """Return the bits of the number of this format that is nearest to `value`.

        Of two numbers that are equally near, the number whose last bit is 0 is chosen. Numbers
        beyond the largest number become infinite.
        """
        sign = "1" if math.copysign(1, value) < 0 else "0"
        ones = "1" * self.exponent
        if math.isnan(value):
            return sign + ones + "1" + "0" * (self.mantissa - 1)
        size = abs(value)
        lowest = 1 - self.bias
        power = max(math.frexp(size)[1] - 1, lowest) if 0 < size < math.inf else lowest
        # The number of steps between 0 and the value; Python rounds half to even.
        steps = round(size / 2.0 ** (power - self.mantissa)) if size < math.inf else 0
        # Adjacent numbers of the format have adjacent codes, also where the exponent changes.
        code = (power - lowest) * 2**self.mantissa + steps
        if size == math.inf or code >= (2**self.exponent - 1) * 2**self.mantissa:
            return sign + ones + "0" * self.mantissa
        return sign + f"{code:0{self.exponent + self.mantissa}b}"

    def value(self, bits: str) -> float:
        """Return the number that has these bits."""
        exponent, mantissa = int(bits[1 : 1 + self.exponent], 2), int(bits[1 + self.exponent :], 2)
        sign = -1 if bits[0] == "1" else 1
        if exponent == 2**self.exponent - 1:
            return math.nan if mantissa else sign * math.inf
        # The smallest exponent has no hidden bit.
        hidden = 2**self.mantissa if exponent else 0
        steps = mantissa + hidden
        return sign * steps * 2.0 ** (max(exponent, 1) - self.bias - self.mantissa)


FORMATS = (
    NumberFormat("float32", 8, 23),
    NumberFormat("bfloat16", 8, 7),
    NumberFormat("float16", 5, 10),
)
# The colours of the sign, the exponent and the mantissa. The exponent scales the mantissa, as the
# constants of quantized weights scale the codes.
SIGN, EXPONENT, MANTISSA = GREY, CONSTANTS, WEIGHTS


def number_formats(value: float, title: str = "") -> Picture:
    """Draw the bits of a number in float32, bfloat16 and float16, and the number that is stored.

    Args:
        value: the number.
        title: a sentence that says what the picture shows.
    """
    canvas = Canvas(504, 208, title)
    side, left = 13.3, 72.0
    descriptions = []
    labels = (
        ("sign", SIGN),
        ("exponent: how large", EXPONENT),
        ("mantissa: which digits", MANTISSA),
    )
    x = left
    for text, colour in labels:
        canvas.rectangle((x, 4), (9, 9), colour)
        canvas.text((x + 13, 8.5), text, size=NOTE, ha="left")
        x += text_width(text, NOTE) + 30
    for n, form in enumerate(FORMATS):
        y = 26.0 + 62 * n
        bits = form.bits(value)
        stored = form.value(bits)
        canvas.text((2, y + side / 2 + 2), form.name, weight="bold", ha="left")
        for k, bit in enumerate(bits):
            colour = SIGN if not k else EXPONENT if k <= form.exponent else MANTISSA
            canvas.box(
                (left + k * side, y), (side - 1.3, 17), bit, face=colour, edge="none", text_size=8.5
            )
        shown = f"stores {_in_powers(stored, 10)}"
        if math.isfinite(stored) and value and stored != value:
            shown += f", relative error {_in_powers(abs(stored / value - 1), 2)}"
        canvas.text((left, y + 27), shown, ha="left", weight="bold")
        extent = f"range {_in_powers(form.smallest)} to {_in_powers(form.largest)}"
        canvas.text(
            (left, y + 42),
            f"exponent {form.exponent} bits, mantissa {form.mantissa} bits; {extent}",
            size=NOTE,
            ha="left",
        )
        parts = bits[0], bits[1 : 1 + form.exponent], bits[1 + form.exponent :]
        descriptions.append(
            f"{form.name}: sign {parts[0]}, exponent {parts[1]}, mantissa {parts[2]}, {shown}; "
            + extent
        )
    return canvas.picture(f"The bits of {value:,.10g}. {'. '.join(descriptions)}.")


def _in_powers(number: float, digits: int = 2) -> str:
    """Write a number with `digits` digits, and with a power of ten if it is extreme."""
    plain = f"{number:,.{digits}g}"
    if "e" not in plain:
        return plain
    if abs(number) >= 1 and abs(number) < 1e6:
        return f"{number:,.0f}"
    factor, power = plain.split("e")
    exponent = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{factor} × 10{exponent}"


# --- memory over a training step ------------------------------------------------------------------


def step_timeline(
    ways: Mapping[str, Sequence[StepPhase]],
    gpu: tuple[str, float] | None = None,
    title: str = "",
) -> Picture:
    """Draw the memory over one training step, side by side for several ways of training.

    The parts are stacked areas in the colours of `palette`. Three numbers mark the moments at which
    memory can peak: 1 the loss, 2 the largest backward pass of a layer, 3 the update. The number
    of the highest moment is in a filled circle. Each panel has a scale of its own.

    Args:
        ways: name of the way → all phases of the step, as `memory.timeline` returns them.
        gpu: the name of a GPU and the number of bytes that tensors may use on it, for a dashed
            line. A panel has no line if the line would be far above its areas.
        title: a sentence that says what the picture shows.
    """
    from course_utils.memory import GROUPS

    figure = Figure(figsize=(504 / POINTS, 3.6), layout="constrained")
    panels = figure.subplots(1, len(ways), squeeze=False)[0]
    hide_frame(*panels)
    add_title(figure, title)
    parts = colours(GROUPS)
    descriptions = []
    seen: dict[str, Any] = {}
    for axes, (name, every) in zip(panels, ways.items(), strict=True):
        phases = _drawn_phases(every)
        wide = max(1, len(phases) // 8)
        widths = (wide if phase.kind in ("loss", "update") else 1 for phase in phases)
        edges = list(accumulate(widths, initial=0))
        seen |= _stack(axes, [phase.groups for phase in phases], edges, parts)
        axes.set(xlim=(0, edges[-1]), ylim=(0, 1.25 * max(p.total for p in phases) / GB), xticks=[])
        axes.set_xlabel("forward  →  ① loss  →\n② backward  →  ③ update", fontsize=NOTE)
        peak, words = _mark_moments(axes, phases, edges)
        axes.set_title(f"{name}: {peak}", fontsize=TEXT, fontweight="bold", loc="left")
        descriptions.append(f"{name}: {words}")
        if gpu:
            _draw_gpu(axes, *gpu)
    panels[0].set_ylabel("memory (GB)", fontsize=TEXT)
    names = [part for part in parts if part in seen][::-1]
    handles = [seen[part] for part in names]
    style: Style = {"frameon": False, "fontsize": NOTE, "handlelength": 1, "handleheight": 1}
    figure.legend(handles, names, loc="outside lower center", ncols=4, **style)
    alt = f"Areas of memory over a training step, with its moments. {'; '.join(descriptions)}."
    line = f" A line marks {gpu[0]} at {format_bytes(gpu[1])}." if gpu else ""
    return Picture(figure, alt + line)


def _drawn_phases(phases: Sequence[StepPhase]) -> list[StepPhase]:
    """Return the phases that are drawn: the moments at which memory can peak, and 30 others.

    The moments between the backward passes of two layers are left out. Memory is lower for these
    moments, so that they would be drawn as stripes.
    """
    layers = [phase for phase in phases if phase.kind != "between"]
    peaks = _moments(layers).values()
    step = 1 + len(layers) // 30
    return [phase for n, phase in enumerate(layers) if n % step == 0 or n in peaks]


def _moments(phases: Sequence[StepPhase]) -> dict[str, int]:
    """Return where the loss, the largest backward pass and the update are in a list of phases."""
    places = {}
    for kind in ("loss", "backward", "update"):
        numbers = (n for n, phase in enumerate(phases) if phase.kind == kind)
        places[kind] = max(numbers, key=lambda n: phases[n].total)
    return places


def _stack(
    axes: Axes,
    moments: Sequence[Mapping[str, int]],
    edges: Sequence[float],
    parts: Mapping[str, str],
) -> dict[str, Any]:
    """Draw each part that isn't empty as an area on top of the areas below; return the areas."""
    areas: dict[str, Any] = {}
    below = [0.0] * len(moments)
    for part, colour in parts.items():
        top = [low + sizes[part] / GB for low, sizes in zip(below, moments, strict=True)]
        if top != below:
            style: Style = {"color": colour, "linewidth": 0, "fill": True, "baseline": below}
            areas[part] = axes.stairs(top, edges, **style)
        below = top
    return areas


def _mark_moments(
    axes: Axes, phases: Sequence[StepPhase], edges: Sequence[float]
) -> tuple[str, str]:
    """Mark the loss, the largest backward pass and the update.

    Returns:
        The memory at the highest of the three moments, and all three moments in words.
    """
    sizes = [phase.total for phase in phases]
    moments = _moments(phases)
    peak = max(moments, key=lambda name: sizes[moments[name]])
    middles = {name: (edges[n] + edges[n + 1]) / 2 for name, n in moments.items()}
    height = 1.16 * max(sizes) / GB
    places = apart({name: x / edges[-1] for name, x in middles.items()}, 0.13)
    # Spreading must not move a number beyond the end of the axis.
    excess = max(0.0, max(places.values()) - 0.95)
    for number, (name, x) in enumerate(middles.items(), 1):
        face, colour = (INK, PAPER) if name == peak else (PAPER, INK)
        place = (places[name] - excess) * edges[-1]
        axes.plot([x, place], [sizes[moments[name]] / GB, height], color=INK, linewidth=0.8)
        style: Style = {"markersize": 14, "mfc": face, "mec": INK, "clip_on": False}
        axes.plot(place, height, "o", **style)
        style = {"color": colour, "fontsize": NOTE, "weight": "bold", "zorder": 5}
        axes.text(place, height, str(number), ha="center", va="center_baseline", **style)
    listed = [f"{name} {format_bytes(sizes[n])}" for name, n in moments.items()]
    highest = format_bytes(sizes[moments[peak]], digits=1)
    return highest, f"{', '.join(listed)}, highest at the {peak}"


def _draw_gpu(axes: Axes, name: str, limit: float) -> None:
    """Draw a line at the memory limit of a GPU, unless it is far above the areas."""
    top = axes.get_ylim()[1]
    if limit / GB > 1.5 * top:
        return
    axes.set_ylim(0, max(top, 1.1 * limit / GB))
    axes.axhline(limit / GB, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.annotate(f" {name}", (0, limit / GB), va="bottom", fontsize=NOTE, **HALO)


# --- the data flow of QLoRA -----------------------------------------------------------------------


def qlora_layer(title: str = "") -> Picture:
    """Draw a linear layer of QLoRA: what is stored, what is computed, and where gradients flow.

    Solid arrows are the forward pass, from left to right. Dashed arrows are the backward pass: the
    gradient passes through the frozen weight to the layers below, and changes only A and B.

    Args:
        title: a sentence that says what the picture shows.
    """
    canvas = Canvas(532, 330, title)
    style: Style = {"text_size": SMALL}

    def stored(at: Point, size: Point, colour: str, name: str, form: str) -> None:
        canvas.box(at, size, face=colour, edge="none")
        x, y = at[0] + size[0] / 2, at[1] + size[1] / 2
        canvas.text((x, y - 8), name, colour=text_on(colour), size=SMALL, weight="bold")
        canvas.text((x, y + 8), form, colour=text_on(colour), size=SMALL)

    canvas.text((2, 12), "stored, frozen", size=SMALL, ha="left", weight="bold")
    stored((96, 22), (112, 42), WEIGHTS, "codes of W", "NF4, 4 bits")
    stored((218, 22), (112, 42), CONSTANTS, "constants", "8 bits + float32")
    decoded = "decoded W: only while it is used"
    canvas.box((96, 92), (234, 34), decoded, dashed=True, **style)
    canvas.arrow([(152, 66), (152, 90)])
    canvas.arrow([(274, 66), (274, 90)])
    canvas.box((2, 158), (50, 34), "x", weight="bold", **style)
    canvas.box((166, 158), (94, 34), "x W", weight="bold", **style)
    canvas.box((396, 158), (34, 34), "+", weight="bold", **style)
    canvas.box((478, 158), (50, 34), "y", weight="bold", **style)
    canvas.arrow([(213, 128), (213, 156)])
    canvas.arrow([(54, 170), (164, 170)])
    canvas.arrow([(262, 170), (394, 170)])
    canvas.arrow([(432, 170), (476, 170)])
    canvas.text((2, 318), "stored, trained", size=SMALL, ha="left", weight="bold")
    stored((120, 240), (92, 42), ADAPTERS, "A", "float32")
    stored((264, 240), (92, 42), ADAPTERS, "B", "float32")
    canvas.arrow([(20, 194), (20, 254), (118, 254)])
    canvas.arrow([(214, 254), (262, 254)])
    canvas.arrow([(358, 254), (406, 254), (406, 194)])
    canvas.text((382, 242), "× α/r", size=SMALL)
    gradient: Style = {"colour": GRADIENTS, "width": 1.6, "dashed": True}
    canvas.arrow([(476, 182), (432, 182)], **gradient)
    canvas.arrow([(394, 182), (262, 182)], **gradient)
    canvas.arrow([(164, 182), (54, 182)], **gradient)
    canvas.arrow([(420, 194), (420, 268), (358, 268)], **gradient)
    canvas.arrow([(262, 268), (214, 268)], **gradient)
    canvas.arrow([(118, 268), (34, 268), (34, 194)], **gradient)
    stored((166, 300), (144, 28), OPTIMIZER, "", "")
    canvas.text((238, 314), "Adam, may be paged", size=SMALL, colour=text_on(OPTIMIZER))
    for x in (166, 310):
        canvas.arrow([(x, 284), (x, 298)], **gradient)
    canvas.line([(444, 12), (470, 12)], INK, 1.2)
    canvas.text((476, 12), "forward", size=SMALL, ha="left")
    canvas.line([(444, 30), (470, 30)], GRADIENTS, 1.6, dashed=True)
    canvas.text((476, 30), "gradient", size=SMALL, ha="left")
    return canvas.picture(
        "The data flow of a linear layer of QLoRA. Stored and frozen: the codes of W in NF4, 4 "
        "bits each, and their constants, in 8 bits with float32 constants of their own. In each "
        "pass, W is decoded, multiplied by x, and discarded. Stored and trained: A and "
        "B in float32. Their product x A B, scaled by α/r, is added to x W, which gives y. The "
        "gradient of y passes back through x W to x without changing W, and through B and A, which "
        "Adam updates; Adam's states may be paged."
    )


# --- maps of the course and of a lecture ----------------------------------------------------------


def course_map(title: str = "") -> Picture:
    """Draw the lectures and how they depend on each other: a need, four ideas, and their use.

    Each idea has the colour of the quantity that it makes smaller or, for LoRA, that it adds.

    Args:
        title: a sentence that says what the picture shows.
    """
    canvas = Canvas(540, 214, title)
    width, height = 158.0, 42.0

    def lecture(at: Point, name: str, words: str, face: str = "none") -> None:
        canvas.box(at, (width, height), face=face, edge=INK if face == "none" else "none")
        ink = INK if face == "none" else text_on(face)
        x, y = at[0] + width / 2, at[1] + height / 2
        canvas.text((x, y - 8), name, colour=ink, weight="bold")
        canvas.text((x, y + 9), words, colour=ink, size=NOTE)

    needs = {
        "00 Set-up": "a real model on your computer",
        "01 Supervised fine-tuning": "what training changes",
        "02 Memory": "why it does not fit",
    }
    ideas = {
        "03 LoRA": ("train few numbers", ADAPTERS),
        "04 NF4": ("4 bits for each weight", WEIGHTS),
        "05 Double quantization": ("smaller constants", CONSTANTS),
        "06 Paged optimizers": ("room for the peak", OPTIMIZER),
    }
    uses = {
        "07 QLoRA": "all four, on a real task",
        "08 Evidence": "is QLoRA as good?",
        "09 Take it with you": "export, serve, your own data",
    }
    middle, right = 190.0, 380.0
    for n, (name, words) in enumerate(needs.items()):
        lecture((1, 29 + 56 * n), name, words)
        if n:
            canvas.arrow([(1 + width / 2, 56 * n + 16), (1 + width / 2, 56 * n + 28)])
    canvas.line([(1 + width, 162), (middle - 15, 162)])
    canvas.line([(middle - 15, 22), (middle - 15, 190)])
    for n, (name, (words, colour)) in enumerate(ideas.items()):
        y = 1 + 56.0 * n
        lecture((middle, y), name, words, colour)
        canvas.arrow([(middle - 15, y + height / 2), (middle - 1, y + height / 2)])
        canvas.line([(middle + width, y + height / 2), (middle + width + 16, y + height / 2)])
    canvas.line([(middle + width + 16, 22), (middle + width + 16, 190)])
    canvas.arrow([(middle + width + 16, 50), (right - 1, 50)])
    for n, (name, words) in enumerate(uses.items()):
        lecture((right, 29 + 56 * n), name, words)
        if n:
            canvas.arrow([(right + width / 2, 56 * n + 16), (right + width / 2, 56 * n + 28)])
    described = (
        "; ".join(f"{name}: {words}" for name, words in needs.items()),
        "; ".join(f"{name}: {words}" for name, (words, _) in ideas.items()),
        "; ".join(f"{name}: {words}" for name, words in uses.items()),
    )
    return canvas.picture(
        f"The lectures in three columns. First, one after the other, {described[0]}. Then four "
        f"ideas that save memory, {described[1]}. The four ideas lead to what you do with them, "
        f"one after the other, {described[2]}."
    )


def you_are_here(steps: Sequence[str], here: str) -> Picture:
    """Draw the steps of a course or of a lecture in a row, and mark the current step.

    Args:
        steps: short names of the steps in order.
        here: the current step. The steps before it are drawn as done.

    Raises:
        ValueError: `here` is not one of the steps.
    """
    if here not in steps:
        raise ValueError(f"here must be one of {', '.join(steps)}, got {here}")
    at = list(steps).index(here)
    places, x, row = [], 0.0, 0
    for step in steps:
        width = text_width(step, NOTE, "bold") + 18
        if x + width > 540:
            x, row = 0.0, row + 1
        places.append((x, 30.0 * row, width))
        x += width + 16
    canvas = Canvas(540, 26 + 30 * row)
    for n, (step, (x, y, width)) in enumerate(zip(steps, places, strict=True)):
        style: Style = {"text_size": NOTE, "edge": GREY, "dashed": n > at}
        if n == at:
            style = {"text_size": NOTE, "face": BLUE, "edge": BLUE, "weight": "bold"}
        canvas.box((x + 1, y + 2), (width - 2, 21), step, **style)
        if n + 1 < len(steps) and places[n + 1][1] == y:
            canvas.line([(x + width, y + 12.5), (x + width + 16, y + 12.5)], GREY)
    before, after = ", ".join(steps[:at]), ", ".join(steps[at + 1 :])
    alt = f"Map: step {at + 1} of {len(steps)}, {here}."
    alt += f" Done: {before}." * bool(before) + f" Next: {after}." * bool(after)
    return canvas.picture(alt)
