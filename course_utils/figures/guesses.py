"""Draw guesses: those of one student beside the answers, and those of a class for one question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from course_utils.figures.base import HALO, Picture, one_panel
from course_utils.guesses import with_unit
from course_utils.palette import BLUE, GREEN, INK, ORANGE, RED

# The marks of a right and of a wrong choice, which differ in shape and colour.
MARKS = {True: ("o", GREEN), False: ("X", RED)}
# The largest factor between a guess and the answer that the axis shows.
MOST = 1e4
# The largest distance from the answer on a linear scale, in median distances.
FAR = 20
# The factors that the axis marks, by the largest factor that fits.
TICKS = {2: (2,), 5: (5,), 10: (10,), 100: (100,), 1_000: (1_000,), 10_000: (10_000,)}


@dataclass(frozen=True)
class GuessRow:
    """One question in the picture of a student's guesses.

    Attributes:
        label: a short name of the question.
        text: how far the guess was off, or what was chosen.
        ratio: the guess divided by the answer, if both are positive numbers.
        is_right: whether the choice was right, if there were choices.
    """

    label: str
    text: str
    ratio: float | None = None
    is_right: bool | None = None


def guesses_and_answers(rows: Sequence[GuessRow]) -> Picture:
    """Draw how far each guess of a student was off.

    A number is a dot on a log scale, to the left of the answer if the guess was too low. A choice
    is a circle and "right", or a cross and "wrong".
    """
    figure, axes = one_panel(height=1.1 + 0.42 * len(rows))
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        _draw_row(axes, place, row)
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.set_yticks(list(places), [row.label for row in rows], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _scale_around_the_answer(axes, [row.ratio for row in rows if row.ratio])
    said = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return Picture(figure, f"Your guesses compared with the answers. {said}.")


def _draw_row(axes: Axes, place: float, row: GuessRow) -> None:
    """Draw one question at the height `place`."""
    if row.ratio:
        x = min(max(row.ratio, 1 / MOST), MOST)
        axes.plot([1, x], [place, place], color=BLUE, linewidth=2)
        axes.plot(x, place, "o", color=BLUE, markersize=9)
        offset, align = ((10, "left"), (-10, "right"))[x < 1]
        at = {"xy": (x, place), "xytext": (offset, 0), "textcoords": "offset points", "ha": align}
        axes.annotate(row.text, va="center", parse_math=False, **at, **HALO)
        return
    beside = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    if row.is_right is not None:
        shape, colour = MARKS[row.is_right]
        axes.plot(0.012, place, shape, color=colour, markersize=10, **beside)
    axes.text(0.035, place, row.text, va="center", parse_math=False, **beside, **HALO)


def _scale_around_the_answer(axes: Axes, ratios: Sequence[float]) -> None:
    """Give x a log scale with the answer at 1 in the middle, and room for texts on both sides."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if not ratios:
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return
    reach = min(MOST, max(2.0, *(max(ratio, 1 / ratio) for ratio in ratios)))
    # Logarithms make room: the texts need as much of the axis as the dots.
    axes.set_xlim(reach**-2.2, reach**2.2)
    axes.axvline(1, color=INK, linestyle="--", linewidth=1, zorder=0)
    ticks = TICKS[max(largest for largest in TICKS if largest <= reach)]
    labels = {float(tick): f"{tick:,} times\ntoo high" for tick in ticks}
    labels |= {1 / tick: f"{tick:,} times\ntoo low" for tick in ticks}
    axes.set_xticks([1, *labels], ["the answer", *labels.values()])


def guess_histogram(guesses: Sequence[float], truth: float | None, unit: str = "") -> Picture:
    """Draw a histogram of the numbers that a class guessed, with the answer as a dashed line.

    The scale is logarithmic if the answer is positive. Guesses that are very far off are counted at
    the ends of the scale.

    Args:
        guesses: the numbers, at least one.
        truth: the answer; None if nobody knows it yet.
        unit: the unit of the numbers.
    """
    figure, axes = one_panel(width=9, height=3.6)
    middle = float(np.median(guesses)) if truth is None else truth
    if middle > 0:
        ends = middle / MOST, middle * MOST
    else:
        reach = FAR * (float(np.median(np.abs(np.subtract(guesses, middle)))) or 1)
        ends = middle - reach, middle + reach
    values = np.clip(guesses, *ends)
    edges = _edges(np.append(values, middle), middle > 0)
    counts, _, _ = axes.hist(values, bins=edges, color=BLUE, edgecolor="white")
    if middle > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(edges[:: math.ceil(len(edges) / 8)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda x, _: _edge(x))
    label = f"guess in {unit}" if unit else "guess"
    if (values != guesses).any():
        label += " (guesses beyond the scale are counted at its ends)"
    axes.set_xlabel(label, parse_math=False)
    axes.set_ylabel("how many students")
    axes.set_ylim(0, 1.18 * max(counts))
    axes.yaxis.get_major_locator().set_params(integer=True)
    if truth is not None:
        axes.axvline(truth, color=ORANGE, linewidth=3)
        text = f" the answer: {with_unit(truth, unit)}"
        high = {"transform": axes.get_xaxis_transform(), "va": "top", "parse_math": False}
        axes.text(truth, 0.99, text, ha="left", weight="bold", **high, **HALO)
    listed = ", ".join(
        f"{count:.0f} from {_edge(low)} to {_edge(high)}"
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
        if count
    )
    answer = "" if truth is None else f" The answer is {with_unit(truth, unit)}."
    return Picture(figure, f"Histogram of {len(guesses)} guesses: {listed}.{answer}")


def _edge(value: float) -> str:
    """Write the edge of a bin, such as 0.05 or 5,000 or 5e+09."""
    return f"{value:,.10g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.3g}"


def _edges(values: np.ndarray, positive: bool) -> np.ndarray:
    """Return the edges of bins that contain all values: 1, 2, 5, 10, … or ten equal bins."""
    low, high = float(values.min()), float(values.max())
    if not positive:
        return np.linspace(low, high if high > low else low + 1, 11)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    steps = np.array([f * 10.0**power for power in range(first, last + 1) for f in (1, 2, 5)])
    begin = np.searchsorted(steps, low, side="right") - 1
    end = np.searchsorted(steps, high, side="right")
    return steps[begin : end + 1]
