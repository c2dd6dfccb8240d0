"""Draw charts of any numbers as lines, histograms or dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from course_utils.figures.base import (
    Picture,
    legend_beside,
    one_panel,
    panels_in_a_row,
    with_strokes,
)
from course_utils.palette import BLACK, BLUE, RED

# A line with more points than MOST_MARKERS has no markers. A log axis with more values of x than
# MOST_TICKS has its ticks at round numbers.
MOST_MARKERS, MOST_TICKS = 20, 10


def curves(
    series: Mapping[str, Mapping[float, float]], *, xlabel: str, ylabel: str, log: str = ""
) -> Picture:
    """Draw a line for each series.

    The lines differ in colour and dash. A line of up to 20 points also has its own marker.

    Args:
        series: name → {x: y}, in any order of x.
        xlabel: the label of the x axis.
        ylabel: the label of the y axis.
        log: the axes that have a log scale: "", "x", "y" or "xy". If there are at most 10 values of
            x, the ticks of a log scale of x are at these values.
    """
    figure, axes = one_panel()
    descriptions = []
    for name, points, (colour, dash, marker) in with_strokes(series):
        xs, ys = zip(*sorted(points.items()), strict=True)
        symbol = marker if len(points) <= MOST_MARKERS else None
        axes.plot(xs, ys, color=colour, linestyle=dash, marker=symbol, label=name)
        first, last = min(points), max(points)
        lowest = min(points, key=points.get)
        descriptions.append(
            f"{name} from {points[first]:.3g} at {first:g} to {points[last]:.3g} at {last:g}, "
            f"lowest {points[lowest]:.3g} at {lowest:g}"
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for axis in log:
        _log_scale(axes, axis, sorted({x for points in series.values() for x in points}))
    legend_beside(axes)
    return Picture(figure, f"Lines of {ylabel} over {xlabel}: " + "; ".join(descriptions) + ".")


def _log_scale(axes: Axes, name: str, values_of_x: Sequence[float]) -> None:
    """Give the axis "x" or "y" a log scale with ticks such as 0.5 instead of 5 × 10⁻¹."""
    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    at_values = name == "x" and len(values_of_x) <= MOST_TICKS
    axis.set_major_locator(FixedLocator(values_of_x) if at_values else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def histograms(
    samples: Mapping[str, Sequence[float]], xlabels: Sequence[str], log: bool = False
) -> Picture:
    """Draw a histogram of each sample in a separate panel, with a dashed line at zero.

    Args:
        samples: title of the panel → numbers of the sample.
        xlabels: the labels of the x axes, one for each sample.
        log: whether the counts have a log scale, on which a count of 1 is visible next to counts of
            thousands.
    """
    figure, panels = panels_in_a_row(len(samples))
    descriptions = []
    for axes, (name, sample), xlabel in zip(panels, samples.items(), xlabels, strict=True):
        values = np.asarray(sample, dtype=float)
        axes.hist(values, bins=80, color=BLUE, log=log)
        axes.axvline(0, color=BLACK, linestyle="--", linewidth=1)
        axes.set(title=name, xlabel=xlabel)
        if log:
            # A bar of height 1 would be invisible if the axis began at 1.
            axes.set_ylim(bottom=0.5)
            axes.yaxis.set_major_formatter("{x:,.0f}")
        below = (values < 0).mean()
        extent = f"from {values.min():.3g} to {values.max():.3g}, {below:.0%} of them below zero"
        descriptions.append(f"{name}, {xlabel}: {extent}")
    panels[0].set_ylabel("how many (log scale)" if log else "how many")
    return Picture(figure, f"Histograms. {'; '.join(descriptions)}.")


def measurements(
    samples: Mapping[str, Sequence[float]], xlabel: str, zero: bool = True, log: bool = False
) -> Picture:
    """Draw each measurement as a dot, in one row for each sample, and mark the sample's median.

    Args:
        samples: name of the row → measurements. The first row is on top.
        xlabel: the measured quantity and its unit.
        zero: whether the axis begins at zero, so that readers can compare lengths as ratios.
        log: whether the axis has a log scale. Then `zero` is ignored, because a log scale has no
            zero.
    """
    figure, axes = one_panel(height=1 + 0.6 * len(samples))
    names = list(samples)[::-1]
    for row, name in enumerate(names):
        values = list(samples[name])
        axes.plot(values, [row] * len(values), "o", color=BLUE, alpha=0.5)
        axes.plot([median(values)] * 2, [row - 0.3, row + 0.3], color=RED, linewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=xlabel, ylim=(-0.5, len(names) - 0.5))
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    elif zero:
        axes.set_xlim(left=0)
    descriptions = [
        f"{name} {median(values):.4g}, from {min(values):.4g} to {max(values):.4g}"
        for name, values in samples.items()
    ]
    return Picture(figure, f"Dots of {xlabel}, with medians: {'; '.join(descriptions)}.")
