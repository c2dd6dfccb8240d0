"""Charts for any numbers: lines, histograms and dots."""

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

# Lines with more points have no markers; an axis with more values of x has round ticks.
MOST_MARKERS, MOST_TICKS = 20, 10


def curves(
    series: Mapping[str, Mapping[float, float]], *, xlabel: str, ylabel: str, log: str = ""
) -> Picture:
    """A line for each series; lines differ in colour, dash and, up to 20 points, marker.

    Args:
        series: name → {x: y}, in any order of x.
        xlabel: what x is.
        ylabel: what y is.
        log: the axes that have a log scale: "", "x", "y" or "xy". A log scale of x has its ticks
            at the values of x if there are at most 10.
    """
    figure, axes = one_panel()
    descriptions = []
    for name, points, (colour, dash, marker) in with_strokes(series):
        look = {"color": colour, "linestyle": dash}
        look["marker"] = marker if len(points) <= MOST_MARKERS else None
        axes.plot(*zip(*sorted(points.items()), strict=True), **look, label=name)
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
    """A histogram of each sample in a panel of its own, with a dashed line at zero.

    Args:
        samples: title of the panel → numbers.
        xlabels: what the numbers of each sample are, one label a sample.
        log: whether counts have a log scale, on which one number is visible beside thousands.
    """
    figure, panels = panels_in_a_row(len(samples))
    descriptions = []
    for axes, (name, sample), xlabel in zip(panels, samples.items(), xlabels, strict=True):
        values = np.asarray(sample, dtype=float)
        axes.hist(values, bins=80, color=BLUE, log=log)
        axes.axvline(0, color=BLACK, linestyle="--", linewidth=1)
        axes.set(title=name, xlabel=xlabel)
        if log:
            # A bar of height 1 would have no length if the axis began at 1.
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
    """Every measurement as a dot, in one row for each sample, with a bar at the median.

    Args:
        samples: name of the row → measurements; the first row is on top.
        xlabel: what was measured, with its unit.
        zero: whether the axis begins at zero, so that lengths can be compared as ratios.
        log: whether the axis has a log scale, which has no zero.
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
