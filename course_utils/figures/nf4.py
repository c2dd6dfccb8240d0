"""Draw NF4: its levels, a quantized block of weights, and a layer that uses it (lecture 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from course_utils.figures.base import Picture, Style
from course_utils.figures.canvas import NOTE, TEXT, Canvas, Point, text_width
from course_utils.formats import normal_float, normal_float_quantiles
from course_utils.palette import ADAPTERS, CONSTANTS, GRADIENTS, GREY, INK, WEIGHTS, text_on

# In the picture of quantiles: the x of zero, points per standard deviation, the y of the curve's
# foot and its height.
ZERO, SIGMA, FOOT, HEIGHT = 290.0, 92.0, 112.0, 104.0
# The largest distance from zero at which the curve is drawn, in standard deviations.
REACH = 2.75


def quantile_levels(title: str = "") -> Picture:
    """Draw how NF4 gets its levels: a bell curve is cut into slices of equal probability.

    Each cut is a level. The slices above zero have one probability, and the slices below zero,
    which are one fewer, another one. The levels are then divided by the largest level.
    """
    cuts, levels = normal_float_quantiles(4), normal_float(4)
    canvas = Canvas(556, 222, title)
    _bell(canvas, [-REACH, *cuts, REACH])
    shares = [NormalDist().cdf(cut) for cut in cuts]
    below, above = len(cuts) // 2 - 1, len(cuts) // 2
    low, high = shares[1] - shares[0], shares[-1] - shares[-2]
    # Numbers beyond the outermost cut, on each side.
    tail = shares[0]
    for side, count, share in ((-1, below, low), (1, above, high)):
        x = ZERO + side * 0.9 * SIGMA
        words = f"{count} slices, {share:.1%} each"
        canvas.text((x, 14), words, weight="bold", ha="left" if side > 0 else "right")
        canvas.text((ZERO + side * 2.25 * SIGMA, FOOT - 24), f"{tail:.1%}", size=NOTE)
    rows = {"cut (σ)": 130.0, "level": 176.0, "code": 204.0}
    for name, y in rows.items():
        canvas.text((2, y), name, ha="left", weight="bold")
    canvas.text((2, 153), f"÷ {cuts[-1]:.3f} σ", ha="left")
    canvas.line([(ZERO - REACH * SIGMA, FOOT), (ZERO + REACH * SIGMA, FOOT)])
    canvas.line([(ZERO + cuts[0] * SIGMA, 162), (ZERO + cuts[-1] * SIGMA, 162)])
    places = [ZERO + cut * SIGMA for cut in cuts]
    for n, x in enumerate(places):
        canvas.line([(x, 138), (x, 166)], GREY if levels[n] else INK, 0.8 if levels[n] else 1.6)
        canvas.text((x, rows["code"]), str(n), size=NOTE, weight="normal" if levels[n] else "bold")
    for n in _with_room(places, 27):
        canvas.text((places[n], rows["cut (σ)"]), _signed(cuts[n]), size=NOTE)
        canvas.text((places[n], rows["level"]), _signed(levels[n]), size=NOTE)
    largest = f"{cuts[-1]:.3f}"
    return canvas.picture(
        f"A bell curve, cut into slices of equal probability: {below} slices of {low:.1%} below "
        f"zero and {above} slices of {high:.1%} above zero, with {tail:.1%} beyond the last cut on "
        f"each side. The {len(cuts)} cuts, from −{largest} to {largest} standard deviations, are "
        f"divided by {largest}. They become the {len(levels)} levels: "
        f"{', '.join(_signed(level) for level in levels)}."
    )


def _bell(canvas: Canvas, edges: Sequence[float]) -> None:
    """Draw the density of N(0, 1) in slices, alternately light and dark; the two tails are grey."""
    last = len(edges) - 2
    for n, (left, right) in enumerate(pairwise(edges)):
        z = np.linspace(left, right, 24)
        curve = FOOT - HEIGHT * np.exp(-(z**2) / 2)
        colour, alpha = (GREY, 0.3) if n in (0, last) else (WEIGHTS, (0.35, 0.7)[n % 2])
        x = ZERO + SIGMA * z
        canvas.axes.fill_between(x, curve, FOOT, color=colour, alpha=alpha, linewidth=0)
        canvas.line(list(zip(x, curve, strict=True)))
        if n != last:
            canvas.line([(x[-1], curve[-1]), (x[-1], FOOT)])


def _with_room(places: Sequence[float], distance: float, order: Sequence[int] = ()) -> list[int]:
    """Choose places at least `distance` apart: zero first, then both ends, then `order`."""
    last = len(places) - 1
    chosen: list[int] = []
    for n in (last // 2, 0, last, *(order or range(last))):
        if all(abs(places[n] - places[other]) >= distance for other in chosen):
            chosen.append(n)
    return chosen


def _signed(number: float) -> str:
    """Write a number with two decimals and a minus sign, such as −0.70; zero as 0."""
    return f"{number:.2f}".replace("-", "−") if number else "0"


def block_steps(block: Sequence[float], title: str = "") -> Picture:
    """Draw how a block of weights becomes codes of NF4 in bytes, and one constant.

    The picture shows the first four weights, and the pair that contains the weight with the
    largest absolute value.

    Args:
        block: the weights, an even number of at least 8.
    """
    import torch

    from course_utils.quantization import quantize_nf4

    count = len(block)
    if count < 8 or count % 2:
        raise ValueError(f"a block must have an even number of at least 8 weights, got {count}")
    weights = torch.as_tensor(block, dtype=torch.float32)
    if not weights.any():
        raise ValueError("a block must have a weight that is not zero")
    stored = quantize_nf4(weights, count)
    constant = stored.absmax.item()
    largest = int(weights.abs().argmax())
    pair = max(4, largest - largest % 2) if largest >= 4 else count - 2
    shown = [0, 1, 2, 3, pair, pair + 1]
    canvas = Canvas(556, 274, title)
    columns = [112.0, 176.0, 240.0, 304.0, 412.0, 476.0]
    levels = stored.codebook[stored.codes.int()]
    rows = {
        f"{count} weights": [_signed(weights[n].item()) for n in shown],
        "÷ absmax": [_signed(weights[n].item() / constant) for n in shown],
        "nearest level": [_signed(levels[n].item()) for n in shown],
        "code": [str(stored.codes[n].item()) for n in shown],
    }
    for row, (name, texts) in enumerate(rows.items()):
        y = 4 + 48.0 * row
        canvas.text((2, y + 13), name, ha="left", weight="bold")
        for n, x, text in zip(shown, columns, texts, strict=True):
            marked = row == 0 and n == largest
            face = CONSTANTS if marked else "none"
            canvas.box((x, y), (56, 26), text, face=face, edge=INK)
            if row:
                canvas.arrow([(x + 28, y - 20), (x + 28, y - 2)])
        canvas.text((386, y + 13), "…")
    # Each byte is below its pair of codes, with its two nibbles side by side.
    y = 4 + 48.0 * len(rows)
    canvas.text((2, y + 13), "byte", ha="left", weight="bold")
    for n, x in zip(shown[::2], columns[::2], strict=True):
        canvas.box((x, y), (120, 26), face=WEIGHTS, edge="none")
        bits = f"{stored.packed[n // 2].item():08b}"
        style: Style = {"colour": text_on(WEIGHTS), "family": "monospace", "size": TEXT + 1}
        for middle, nibble in ((x + 28, bits[:4]), (x + 92, bits[4:])):
            canvas.text((middle, y + 13), nibble, **style)
            canvas.arrow([(middle, y - 20), (middle, y - 2)])
    canvas.text((386, y + 13), "…")
    sizes = stored.sizes
    total = sizes["codes"] + sizes["constants"]
    canvas.text((2, 263), "stored", ha="left", weight="bold")
    parts = (
        (f"{sizes['codes']} bytes of codes", WEIGHTS),
        (f"absmax {constant:.4f}: {sizes['constants']} bytes", CONSTANTS),
    )
    x = columns[0]
    for text, colour in parts:
        width = text_width(text) + 16
        canvas.box((x, 250), (width, 24), text, face=colour, edge="none")
        x += width + 6
    canvas.text((x + 4, 262), f"in bfloat16: {2 * count} bytes", ha="left")
    described = "; ".join(
        f"weight {weight} becomes {scaled}, level {level}, code {code}"
        for weight, scaled, level, code in zip(*rows.values(), strict=True)
    )
    return canvas.picture(
        f"A block of {count} weights is divided by its absmax {constant:.4f}, and each number is "
        f"replaced by the code of the nearest level of NF4. {described}. Two codes of 4 bits share "
        f"a byte. Stored: {sizes['codes']} bytes of codes and {sizes['constants']} bytes for the "
        f"absmax, together {total} bytes instead of {2 * count} in bfloat16."
    )


def number_lines(formats: Mapping[str, Sequence[float]], title: str = "") -> Picture:
    """Draw the levels of number formats, each on a line that ends at the format's largest level.

    Args:
        formats: name of the format → its levels, which are written below the line where they fit.
    """
    canvas = Canvas(556, 46.0 * len(formats), title)
    middle, reach = 330.0, 212.0
    for row, (name, levels) in enumerate(formats.items()):
        y = 14 + 46.0 * row
        canvas.text((2, y), name, ha="left", weight="bold")
        canvas.line([(middle - reach, y), (middle + reach, y)], GREY)
        places = [middle + reach * level / max(levels) for level in levels]
        for x in places:
            canvas.line([(x, y - 8), (x, y + 8)], WEIGHTS, 2)
        for n in _with_room(places, 30, sorted(range(len(levels)), key=lambda n: abs(levels[n]))):
            text = f"{levels[n]:.2f}".rstrip("0").rstrip(".").replace("-", "−")
            canvas.text((places[n], y + 17), text, size=NOTE)
    rows = (f"{name}: {', '.join(f'{n:.3g}' for n in levels)}" for name, levels in formats.items())
    return canvas.picture(f"Number lines with the levels of formats. {'; '.join(rows)}.")


def layer_passes(title: str = "") -> Picture:
    """Draw the forward and the backward pass of a frozen linear layer in NF4 with an adapter."""
    canvas = Canvas(556, 262, title)
    arrows: Sequence[Sequence[Point]] = (
        *([(35, 150), (74, 150)], [(162, 150), (176, 150)], [(206, 150), (222, 150)]),
        *([(17, 164), (17, 218), (68, 218)], [(110, 218), (134, 218)]),
        [(176, 218), (192, 218), (192, 166)],
    )
    for left, name, product in ((0.0, "forward pass", "x Wᵀ"), (296.0, "backward pass", "times W")):
        back = left > 0
        canvas.text((left + 2, 8), name, ha="left", weight="bold")
        boxes = ((1, 34, "x"), (76, 86, product), (178, 28, "+"), (224, 34, "y"))
        for x, width, text in boxes:
            canvas.box((left + x, 136), (width, 28), text, weight="bold")
        filled = ((56, 22, 62, "codes", WEIGHTS), (120, 22, 70, "constants", CONSTANTS))
        adapter = ((70, 204, 40, "A", ADAPTERS), (136, 204, 40, "B", ADAPTERS))
        for x, y, width, text, face in filled + adapter:
            canvas.box((left + x, y), (width, 27), text, face=face, edge="none")
        canvas.box((left + 56, 76), (134, 26), "W in 16 bits, then freed", dashed=True)
        for top, end in ((49, 74), (102, 134)):
            canvas.arrow([(left + 119, top), (left + 119, end)])
        canvas.text((left + 126, 61), "dequantize" + " again" * back, ha="left", size=NOTE)
        for path in arrows:
            moved = [(left + x, y) for x, y in path]
            canvas.arrow(*((moved[::-1], GRADIENTS, 1.8) if back else (moved,)))
    canvas.text((424, 119), "no gradient for W", ha="left", size=NOTE, colour=GRADIENTS)
    canvas.text((366, 248), "gradient of A: 0 while B is 0", ha="left", size=NOTE)
    canvas.text((297, 120), "to the layer\nbelow", ha="left", size=NOTE)
    return canvas.picture(
        "Forward pass: W is dequantized from codes and constants to 16 bits, multiplied with x, "
        "and freed; x A B is added, which gives y. Backward pass: W is dequantized again, and the "
        "gradient of y times W is the gradient of x for the layer below. The gradient also reaches "
        "B and A; the gradient of A is 0 while B is 0. W gets no gradient."
    )
