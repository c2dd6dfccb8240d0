"""Draw charts of any numbers as lines, dots or bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from course_utils.figures.base import (
    HALO,
    Picture,
    Style,
    label_ends,
    mark_x,
    name_rows,
    note,
    one_panel,
    with_strokes,
)
from course_utils.palette import BLUE, GREY, INK, PAPER, RED

# A line with more points than MOST_MARKERS has no markers. A log axis with more values of x than
# MOST_TICKS has its ticks at round numbers.
MOST_MARKERS, MOST_TICKS = 20, 10


# Each argument is a separate property of the chart.
def curves(  # noqa: PLR0913
    series: Mapping[str, Mapping[float, float]],
    *,
    xlabel: str,
    ylabel: str,
    log: str = "",
    title: str = "",
    mark: Mapping[float, str] | None = None,
    levels: Mapping[str, float] | None = None,
) -> Picture:
    """Draw a line for each series, with the name of the series at the end of its line.

    The lines differ in colour and dash. A line that has the name of a quantity of the palette has
    the colour of this quantity. A line of up to 20 points also has its own marker.

    Args:
        series: name → {x: y}, in any order of x.
        log: the axes that have a log scale: "", "x", "y" or "xy". If there are at most 10 values of
            x, the ticks of a log scale of x are at these values.
        mark: x → the words about this x, which are written above a vertical line. Points at x have
            a ring.
        levels: name → y of a horizontal line.
    """
    figure, axes = one_panel(height=3.2, title=title)
    descriptions, ends = [], {}
    for name, points, (colour, dash, marker) in with_strokes(series):
        xs, ys = zip(*sorted(points.items()), strict=True)
        symbol = marker if len(points) <= MOST_MARKERS else None
        axes.plot(xs, ys, color=colour, linestyle=dash, marker=symbol, label=name)
        ends[name] = ys[-1], colour
        first, last = min(points), max(points)
        lowest = min(points, key=points.get)
        descriptions.append(
            f"{name} from {points[first]:.3g} at {first:g} to {points[last]:.3g} at {last:g}, "
            f"lowest {points[lowest]:.3g} at {lowest:g}"
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for axis in log:
        log_scale(axes, axis, sorted({x for points in series.values() for x in points}))
    lines = axes.get_lines()
    for name, level in (levels or {}).items():
        axes.axhline(level, color=GREY, linewidth=1.2, zorder=0)
        ends[name] = level, GREY
        descriptions.append(f"a line at {name}, {level:.4g}")
    for x, words in (mark or {}).items():
        for point in (point for line in lines for point in line.get_xydata() if point[0] == x):
            axes.plot(*point, "o", markersize=10, mfc="none", mec=INK)
        mark_x(axes, x, words, ha="center")
        descriptions.append(f"marked at {x:g}: {words}")
    label_ends(axes, ends)
    return Picture(figure, f"Lines of {ylabel} over {xlabel}: " + "; ".join(descriptions) + ".")


def log_scale(axes: Axes, name: str, values_of_x: Sequence[float]) -> None:
    """Give the axis "x" or "y" a log scale with ticks such as 0.5 instead of 5 × 10⁻¹.

    An axis that extends below 0.001 has powers of ten as its ticks instead.
    """
    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_minor_locator(NullLocator())
    if name == "x" and len(values_of_x) <= MOST_TICKS:
        axis.set_major_locator(FixedLocator(values_of_x))
    elif min(axis.get_view_interval()) < 1e-3:
        return
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")


# Each argument is a separate property of the chart.
def measurements(  # noqa: PLR0913
    samples: Mapping[str, Sequence[float]],
    xlabel: str,
    zero: bool = True,
    log: bool = False,
    middle: Callable[[Sequence[float]], float] = median,
    title: str = "",
) -> Picture:
    """Draw each measurement as a dot, in one row for each sample, and write the sample's middle.

    Equal measurements are drawn one above the other.

    Args:
        samples: name of the row → measurements. The first row is on top.
        xlabel: the measured quantity and its unit.
        zero: whether the axis begins at zero, so that readers can compare lengths as ratios.
        log: whether the axis has a log scale. Then `zero` is ignored, because a log scale has no
            zero.
        middle: what the line and the number of each row are: `statistics.median` or `fmean`.
    """
    figure, axes = one_panel(height=1.1 + 0.55 * len(samples), title=title)
    names = list(samples)[::-1]
    for row, name in enumerate(names):
        values, centre = list(samples[name]), middle(samples[name])
        heights = [row + 0.12 * values[:n].count(value) for n, value in enumerate(values)]
        axes.plot(values, heights, "o", color=BLUE, alpha=0.5)
        axes.plot([centre] * 2, [row - 0.3, row + 0.3], color=RED, linewidth=2)
        note(axes, f"{centre:.3g}", (centre, row + 0.3), (0, 3), ha="center")
    axes.set_yticks(range(len(names)), names)
    kind = "median" if middle is median else "mean"
    # A long label ends where the axis ends, and begins below the names of the rows.
    axes.set_xlabel(f"{xlabel}; a line is a {kind}", loc="right")
    axes.set_ylim(-0.5, len(names) - 0.2)
    axes.margins(x=0.1)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
    else:
        # Ticks with many digits would overlap, so there are few.
        axes.locator_params(axis="x", nbins=6)
        if zero:
            axes.set_xlim(left=0)
    descriptions = [
        f"{name} {middle(values):.4g}, from {min(values):.4g} to {max(values):.4g}"
        for name, values in samples.items()
    ]
    return Picture(figure, f"Dots of {xlabel}, with {kind}s: {'; '.join(descriptions)}.")


def relative_bars(values: Mapping[str, float], xlabel: str, title: str = "") -> Picture:
    """Draw values as bars from zero, and how much each of them differs from the first in percent.

    Args:
        values: name of the bar → value. The first bar is on top, and the others are compared to it.
        xlabel: the quantity and its unit.
    """
    figure, axes = one_panel(height=1.0 + 0.5 * len(values), title=title)
    first, *_ = values.values()
    descriptions = []
    for row, (name, value) in enumerate(values.items()):
        axes.barh(row, min(value, first), 0.62, color=BLUE)
        axes.barh(row, value - first, 0.62, left=first, color=RED if value > first else "none")
        change = f"{value / first - 1:+z.0%}" if row else ""
        end = max(value, first if row else 0), row
        label = note(axes, f"{value:.4g}", end, (6, 0), va="center")
        style: Style = {"xycoords": label, "va": "center", "weight": "bold", "fontsize": 13}
        note(axes, change, (1, 0.5), (8, 0), **style)
        descriptions.append(f"{name} {value:.4g}" + (f" ({change})" if row else ""))
    axes.axvline(first, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    name_rows(axes, list(values))
    axes.set(xlabel=xlabel, xlim=(0, 1.05 * max(values.values())), ylim=(len(values) - 0.5, -0.5))
    return Picture(figure, f"Bars of {xlabel}: {'; '.join(descriptions)}.")


def pareto(
    runs: Mapping[str, Sequence[tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    paths: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Picture:
    """Plot two losses of each training run against each other, with one colour for each way.

    Both losses are better if they are smaller, as two arrows say. A line connects each dot with the
    medians of its way. The name of the way is written next to the medians, or at the end of its
    path.

    Args:
        runs: name of the way → (x, y) of each of its runs.
        paths: name of the way → points that a line connects, such as the medians at each learning
            rate.
    """
    figure, axes = one_panel(height=4, title=title)
    descriptions, labels = [], []
    for name, points, (colour, _, marker) in with_strokes(runs):
        xs, ys = zip(*points, strict=True)
        x, y = median(xs), median(ys)
        for point in points:
            axes.plot([x, point[0]], [y, point[1]], color=colour, linewidth=1, alpha=0.5)
        axes.plot(xs, ys, marker, color=colour, markersize=8, mec=PAPER)
        path = (paths or {}).get(name, [(x, y)])
        described = f"{name} at {x:.4g} and {y:.4g}"
        if len(path) > 1:
            axes.plot(*zip(*path, strict=True), f"{marker}-", color=colour, markersize=4, zorder=1)
            described += ", with a line through "
            described += ", ".join(f"{x:.4g} and {y:.4g}" for x, y in path)
        labels.append(note(axes, name, path[-1], (9, 7), weight="bold", zorder=5, **HALO))
        descriptions.append(described)
    axes.set(xlabel=f"←  better      {xlabel}", ylabel=f"←  better      {ylabel}")
    axes.margins(0.18)
    axes.grid(alpha=0.15, color=INK)
    # Drawing decides the limits of the axes, and so the places of the labels.
    figure.draw_without_rendering()
    _move_apart(labels)
    alt = f"Dots of {ylabel} over {xlabel}; smaller is better. Medians: "
    return Picture(figure, alt + "; ".join(descriptions) + ".")


def _move_apart(labels: Sequence[Annotation]) -> None:
    """Move labels up until none of them overlaps another one. The lowest label stays."""
    done: list[Annotation] = []
    for label in sorted(labels, key=lambda label: label.get_window_extent().y0):
        while any(label.get_window_extent().overlaps(other.get_window_extent()) for other in done):
            label.xyann = (label.xyann[0], label.xyann[1] + 2)
        done.append(label)
