"""Draw the constants of double quantization: their tree, levels, cost and bytes (lecture 05)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.figures.base import (
    Picture,
    Style,
    add_title,
    hide_frame,
    note,
    one_panel,
)
from course_utils.figures.canvas import NOTE, TEXT, Canvas, text_width
from course_utils.machine.validation import positive, whole_number
from course_utils.palette import CONSTANTS, GREY, INK, PAPER, QUANTITIES, WEIGHTS, text_on

# The colour, dash and marker of the two lines of a frontier, which are both about weights.
LINES = ((GREY, "--", "s"), (WEIGHTS, "-", "o"))


def constant_tree(block_size: int = 64, nested_block_size: int = 256, title: str = "") -> Picture:
    """Draw what double quantization stores as a tree, with the bytes of each node.

    From top to bottom: the mean of the constants, a nested constant, the constants that share it,
    and the blocks of weights, each of which has one of these constants.

    Args:
        block_size: the number of weights that share a constant.
        nested_block_size: the number of constants that share a nested constant.
    """
    if positive("block_size", block_size) % 2:
        raise ValueError(f"block_size must be even, so that blocks fill bytes; got {block_size}")
    last = whole_number("nested_block_size", nested_block_size, least=3)
    count, size, half = f"{last:,}", f"{block_size:,}", f"{block_size // 2:,}"
    # Name of the row → what its numbers are, their format, and their bytes.
    rows = {
        "mean": ("mean of all\nconstants", "float32", "4 B for the whole matrix"),
        "nested constant": (
            f"largest of {count}\n|c − mean|",
            "float32",
            f"4 B for {count} constants",
        ),
        "constants": (f"largest |weight|\nof {size}", "8 bits each", f"1 B for {size} weights"),
        "codes": (f"NF4 codes of\n{size} weights", "4 bits each", f"{half} B for {size} weights"),
    }
    canvas = Canvas(540, 246, title)
    tops, middle, wide, high = (4.0, 72.0, 140.0, 208.0), 276.0, 66.0, 34.0
    constant: Style = {"face": CONSTANTS, "edge": "none", "weight": "bold"}
    for (what, form, stored), top in zip(rows.values(), tops, strict=True):
        canvas.text((2, top + 9), f"{form}:", ha="left")
        canvas.text((2, top + 25), stored, ha="left", weight="bold")
        canvas.text((446, top + high / 2), what, ha="left")
    canvas.box((middle - 52, tops[0]), (104, high), "mean", **constant)
    canvas.box((middle - 52, tops[1]), (104, high), "nested constant", **constant)
    canvas.line([(middle, tops[0] + high), (middle, tops[1])])
    canvas.line([(middle, tops[0] + high), (414, tops[1] + 12)], GREY, dashed=True)
    # The places of the first two blocks and of the last block.
    for left, index in ((154.0, 1), (228.0, 2), (334.0, last)):
        centre = left + wide / 2
        canvas.line([(middle, tops[1] + high), (centre, tops[2])])
        canvas.line([(centre, tops[2] + high), (centre, tops[3])])
        lowered = str(index).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
        canvas.box((left, tops[2]), (wide, high), f"c{lowered}", **constant)
        canvas.box((left, tops[3]), (wide, high), f"{size} codes", **constant | {"face": WEIGHTS})
    for top in tops[2:]:
        canvas.text((314, top + high / 2), "…")
    for top in tops[1:]:
        canvas.text((420, top + high / 2), "…", colour=GREY)
    described = "; ".join(f"{name}, {form}, {stored}" for name, (_, form, stored) in rows.items())
    return canvas.picture(
        "A tree. At the top is the mean of all constants of a matrix. Below the mean are the "
        f"nested constants. Each nested constant belongs to {count} constants, and each constant "
        f"belongs to the codes of {size} weights. What is stored: {described}."
    )


def level_strips(
    samples: Mapping[str, Sequence[float]],
    codebooks: Mapping[str, Sequence[float]],
    inner: float = 0.1,
    title: str = "",
) -> Picture:
    """Draw a histogram of each sample and, below, the levels of each codebook, on one x axis.

    Two dashed lines at ±`inner` divide the picture into three parts. The picture says which share
    of the numbers and how many of the levels are in each part.

    Args:
        samples: label → numbers in [-1, 1], such as constants divided by the largest absolute value
            of their block.
        codebooks: name of the codebook → its levels.
        inner: numbers in the interval [-inner, inner] are counted apart; between 0 and 1.
    """
    heights = [1.5] * len(samples) + [0.7] * len(codebooks)
    figure = Figure(figsize=(7.5, 0.6 + sum(heights)), layout="constrained")
    add_title(figure, title)
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    descriptions = []
    for axes, (name, values) in zip(panels, samples.items(), strict=False):
        counts, edges = np.histogram(values, bins=100, range=(-1, 1))
        axes.stairs(counts, edges, fill=True, color=CONSTANTS)
        axes.set(ylabel="how many", xlim=(-1.01, 1.01), ylim=(0, 1.35 * counts.max()))
        axes.set_title(name, fontsize="medium", loc="left")
        hide_frame(axes)
        parts = _parts(values, inner)
        shares = [f"{part / sum(parts):.0%}" for part in parts]
        _write_parts(axes, shares, inner, 1.2 * counts.max(), "of the constants")
        descriptions.append(f"{name}, {', '.join(shares)} of {len(values):,} constants")
    for axes, (name, levels) in zip(panels[len(samples) :], codebooks.items(), strict=True):
        # One path with gaps is much smaller than a path for each level.
        places = np.repeat(np.asarray(levels, dtype=float), 3)
        axes.plot(places, np.tile([0.42, 1, np.nan], len(levels)), color=INK, linewidth=0.7)
        axes.set(ylim=(0, 1), yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
        axes.tick_params(bottom=axes is panels[-1])
        numbers = _parts(levels, inner)
        _write_parts(axes, numbers, inner, 0.17, "levels")
        descriptions.append(f"{name}, {', '.join(map(str, numbers))} levels")
    panels[-1].set_xlabel("scaled constant; a vertical line is a level")
    alt = f"Histograms above levels, in three parts: below -{inner:g}, up to {inner:g}, and above."
    return Picture(figure, f"{alt} {'; '.join(descriptions)}.")


def _parts(values: Sequence[float], inner: float) -> list[int]:
    """Return how many of the values are below -inner, from -inner to inner, and above inner."""
    array = np.asarray(values, dtype=float)
    below, above = int((array < -inner).sum()), int((array > inner).sum())
    return [below, len(array) - below - above, above]


def _write_parts(
    axes: Axes, values: Sequence[object], inner: float, height: float, noun: str
) -> None:
    """Write a value into each of the three parts, and draw the borders between the parts."""
    for border in (-inner, inner):
        axes.axvline(border, color=INK, linestyle=(0, (3, 2)), linewidth=0.8)
    middles, nouns = (-(1 + inner) / 2, 0, (1 + inner) / 2), (f" {noun}", "", f" {noun}")
    for x, value, words in zip(middles, values, nouns, strict=True):
        axes.text(x, height, f"{value}{words}", ha="center", va="center")


def frontier(
    points: Mapping[str, Mapping[int, tuple[float, float]]],
    chosen: tuple[str, int],
    title: str = "",
) -> Picture:
    """Plot the error over the bits per weight for several block sizes, and mark one point.

    Both quantities are better if they are smaller, as two arrows say. A line connects the points of
    a series, and the name of the series is at its end with the most bits. Each point has its block
    size below it.

    Args:
        points: name of the series → block size → (bits per weight, error in percent), for two
            series.
        chosen: the series and the block size of the point that is marked with a ring and a text.
    """
    figure, axes = one_panel(7, 4, title)
    descriptions = []
    for (name, sizes), (colour, dash, marker) in zip(points.items(), LINES, strict=True):
        axes.plot(*zip(*sorted(sizes.values()), strict=True), dash, color=colour, marker=marker)
        for size, point in sizes.items():
            note(axes, f"{size:,}", point, (-5, -6), ha="right", va="top")
        note(axes, name, max(sizes.values()), (9, 2))
        found = ", ".join(
            f"blocks of {size:,} with {bits:.5g} bits and error {error:.3g}%"
            for size, (bits, error) in sizes.items()
        )
        descriptions.append(f"{name}: {found}")
    name, size = chosen
    bits, error = points[name][size]
    axes.plot(bits, error, "o", markersize=14, mfc="none", mec=INK)
    words = f"QLoRA:\n{bits:.3f} bits"
    note(axes, words, (bits, error), (13, 0), weight="bold", va="center")
    axes.set(xlabel="←  better      bits per weight", ylabel="←  better      squared error (%)")
    axes.margins(0.12)
    axes.set_title("numbers at points: block size", loc="right", fontsize="medium")
    alt = (
        f"Dots of squared error over bits per weight; smaller is better. {'; '.join(descriptions)}."
    )
    return Picture(figure, f"{alt} Marked: {name}, blocks of {size:,}.")


def byte_layout(fields: Mapping[str, int], title: str = "") -> Picture:
    """Draw the bytes of a stored tensor's fields as one bar, with the small fields magnified below.

    A field's name and size are in its part of the bar, or, if there is no room, below the bar.

    Args:
        fields: name of the field → size in bytes (B), for at least two fields. Every field except
            the largest is magnified.
    """
    by_size = sorted(fields, key=fields.__getitem__, reverse=True)
    total, rest = sum(fields.values()), sum(fields[name] for name in by_size[1:])
    if rest <= 0:
        raise ValueError(f"at least two fields must have bytes, got {dict(fields)}")
    left, width, high = 2.0, 536.0, 30.0
    tops = {0: 24.0, 1: 106.0}
    canvas = Canvas(540, tops[1] + high + 18 * len(fields) - 14, title)
    canvas.text((left, 12), f"all: {total:,} B", weight="bold", ha="left")
    words = f"the rest, {rest:,} B, magnified {total / rest:.0f} times"
    canvas.text((left + width, 94), words, weight="bold", ha="right")
    low = tops[1] + high
    below: list[tuple[float, str]] = []
    for row, (names, whole) in enumerate(((by_size, total), (by_size[1:], rest))):
        sides = np.cumsum([0, *(fields[name] for name in names)]) / whole * width + left
        for name, (start, end) in zip(names, pairwise(sides), strict=True):
            colour = QUANTITIES.get(name, GREY)
            canvas.rectangle((start, tops[row]), (end - start, high), colour)
            canvas.line([(start, tops[row]), (start, tops[row] + high)], PAPER, 0.6)
            text, middle = f"{name}: {fields[name]:,} B", (start + end) / 2
            if text_width(text, TEXT) < end - start - 8:
                canvas.text((middle, tops[row] + high / 2), text, colour=text_on(colour))
            elif row:
                below.append((middle, text))
    for n, (x, text) in enumerate(below):
        y = low + 14 + 18 * n
        canvas.line([(x, low), (x, y), (x - 6, y)], width=0.8)
        canvas.text((x - 9, y), text, ha="right", size=NOTE + 0.5)
    # The part of the upper bar that the lower bar magnifies.
    for above, under in ((left + width * (1 - rest / total), left), (left + width, left + width)):
        canvas.line([(above, tops[0] + high), (under, tops[1])], GREY, 0.8, dashed=True)
    sizes = ", ".join(f"{name} {fields[name]:,} B" for name in fields)
    return canvas.picture(f"Bars of {total:,} B: {sizes}.")
