"""Draw lecture 08: how the evidence was collected, and what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.patches import Rectangle

from course_utils.figures.base import (
    HALO,
    Picture,
    Style,
    label_ends,
    name_rows,
    note,
    one_panel,
    with_strokes,
)
from course_utils.figures.canvas import Canvas
from course_utils.figures.charts import log_scale
from course_utils.palette import BLUE, GREEN, GREY, INK, ORANGE, PAPER, RED

Interval = tuple[float, float, float]


def experiment(splits: Mapping[str, int], rates: int, seeds: int, title: str = "") -> Picture:
    """Draw which stories train a model, which choose its learning rate, and which judge it.

    Args:
        splits: name of the split → number of its stories, in the order train, validation, test.
        rates: number of learning rates that are tried.
        seeds: number of seeds that train with the chosen rate.
    """
    canvas = Canvas(560, 196, title)
    total, left, top, height = sum(splits.values()), 8.0, 26.0, 34.0
    middles = []
    for (name, count), colour in zip(splits.items(), (BLUE, ORANGE, GREEN), strict=True):
        # Even the smallest split needs room for its number.
        width = 40 + (544 - 3 * 40) * count / total
        style: Style = {"face": colour, "edge": colour, "text_size": 12}
        canvas.box((left, top), (width - 4, height), str(count), **style)
        middles.append(left + width / 2 - 2)
        canvas.text((middles[-1], top - 10), name, weight="bold")
        left += width
    steps = (
        (8.0, 168.0, f"{rates} learning rates,\n1 seed each"),
        (214.0, 150.0, f"the best rate,\n{seeds} seeds"),
        (402.0, 150.0, "scores of each story,\nintervals, tests"),
    )
    for x, width, text in steps:
        canvas.box((x, 128), (width, 46), text)
    canvas.arrow([(179, 151), (211, 151)])
    canvas.arrow([(367, 151), (399, 151)])
    bottom = top + height + 3
    canvas.arrow([(middles[0] - 100, bottom), (middles[0] - 100, 125)], BLUE)
    canvas.arrow([(middles[1], bottom), (middles[1], 112), (289, 112), (289, 125)], ORANGE)
    canvas.arrow([(middles[2], bottom), (middles[2], 125)], GREEN)
    canvas.text((middles[0] - 90, 94), "train the models", ha="left")
    canvas.text((middles[1] - 8, 94), "choose the learning rate", ha="right")
    canvas.text((middles[2] + 8, 94), "judge them", ha="left")
    described = ", ".join(f"{count} {name}" for name, count in splits.items())
    return canvas.picture(
        f"How the models are compared: the stories are split into {described}. The training "
        f"stories train the models, with {rates} learning rates. The validation stories choose the "
        f"best rate, with which {seeds} seeds train. The test stories are used only to "
        "judge the models story by story."
    )


def differences(
    rows: Mapping[str, Interval],
    bound: float,
    *,
    xlabel: str,
    conclusions: Mapping[str, str],
    title: str = "",
) -> Picture:
    """Draw mean differences with their intervals, and the band of differences that count as equal.

    Args:
        rows: name of the row → (mean, low, high) of the difference. The first row is on top.
        bound: differences that are smaller than the bound count as equal. The band is from -bound
            to bound.
        xlabel: what is subtracted from what, and the unit.
        conclusions: name of the row → a word at its right end, such as "equal".
    """
    figure, axes = one_panel(height=1.4 + 0.42 * len(rows), title=title)
    axes.axvspan(-bound, bound, color=GREEN, alpha=0.15, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=0)
    style: Style = {"va": "center", **HALO}
    described = []
    for row, (name, (mean, low, high)) in enumerate(rows.items()):
        axes.plot([low, high], [row, row], color=BLUE, linewidth=2.5, solid_capstyle="round")
        axes.plot([mean], [row], "o", color=BLUE, markersize=8, mec=PAPER)
        word = conclusions[name]
        note(axes, word, (high, row), (8, 0), weight="bold", **style)
        described.append(f"{name} {mean:+.3g}, from {low:+.3g} to {high:+.3g}: {word}")
    name_rows(axes, list(rows))
    axes.set_xlabel(xlabel, loc="right")  # so that a long label begins below the names of the rows
    axes.set_ylim(len(rows) - 0.4, -0.9)
    note(axes, "counts as equal", (0, -0.9), (0, -9), ha="center", color=GREEN, **style)
    axes.margins(x=0.12)
    return Picture(
        figure,
        f"{xlabel}: mean differences with 95% intervals, and a band from {-bound:g} to {bound:g} "
        f"that counts as equal. {'; '.join(described)}.",
    )


# Each argument is a separate property of the chart.
def seed_lines(  # noqa: PLR0913
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    log: str = "",
    levels: Mapping[str, float] | None = None,
    title: str = "",
) -> Picture:
    """Draw a line through the means of several seeds, and a small dot for each seed.

    Args:
        series: name → {x: values of the seeds}.
        log: the axes that have a log scale: "", "x", "y" or "xy".
        levels: name → y of a horizontal line.
    """
    figure, axes = one_panel(height=3.4, title=title)
    ends, described = {}, []
    for name, points, (colour, dash, marker) in with_strokes(series):
        xs = sorted(points)
        means = [fmean(points[x]) for x in xs]
        axes.plot(xs, means, color=colour, linestyle=dash, marker=marker, markersize=7, mec=PAPER)
        for x in xs:
            axes.plot([x] * len(points[x]), points[x], ".", color=colour, alpha=0.5, zorder=3)
        ends[name] = means[-1], colour
        listed = ", ".join(f"{mean:.3g} at {x:g}" for x, mean in zip(xs, means, strict=True))
        described.append(f"{name} {listed}")
    for name, level in (levels or {}).items():
        axes.axhline(level, color=GREY, linewidth=1.2, zorder=0)
        ends[name] = level, GREY
        described.append(f"a line at {name}, {level:.3g}")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for axis in log:
        log_scale(axes, axis, sorted({x for points in series.values() for x in points}))
    label_ends(axes, ends)
    return Picture(figure, f"Means of {ylabel} over {xlabel}: {'; '.join(described)}.")


# Each argument is a separate property of the table.
def heat_map(  # noqa: PLR0913
    values: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str,
    ylabel: str,
    unit: str,
    mark: Mapping[tuple[str, str], str] | None = None,
    title: str = "",
) -> Picture:
    """Draw a table of numbers as coloured cells, with a frame around the lowest number of each row.

    Args:
        values: row → {column: number}; lower is better. A row may lack columns. Rows and columns
            are numbers, written as texts, and are drawn in ascending order.
        xlabel: what the columns are.
        ylabel: what the rows are.
        unit: what the numbers are, with their unit.
        mark: (row, column) → words that are written into this cell, such as "yours".
    """
    import pandas as pd

    def as_numbers(names: pd.Index) -> pd.Index:
        return names.astype(float)

    table = pd.DataFrame.from_dict(values, orient="index")
    table = table.sort_index(key=as_numbers).sort_index(axis=1, key=as_numbers)
    figure, axes = one_panel(6.5, 1.1 + 0.43 * len(table), title)
    shades = LinearSegmentedColormap.from_list("shades", [to_rgba(BLUE, 0.6), to_rgba(BLUE, 0)])
    # The worst tenth has the lightest shade. Otherwise one bad cell would make all others dark.
    best, worst = np.nanquantile(table, [0, 0.9], method="nearest")
    style: Style = {"vmin": best, "vmax": worst, "edgecolor": PAPER, "linewidth": 2}
    axes.pcolormesh(table, cmap=shades, **style)
    for (m, n), number in np.ndenumerate(table):
        if np.isfinite(number):
            word = (mark or {}).get((table.index[m], table.columns[n]), "")
            text = f"{number:.3f}\n{word}".strip()
            place: Style = {"ha": "center", "va": "center", "size": 8.6 if word else 10}
            axes.text(n + 0.5, m + 0.5, text, **place)
    for row, column in enumerate(np.nanargmin(table, axis=1)):
        corner = column + 0.02, row + 0.03
        axes.add_patch(
            Rectangle(corner, 0.96, 0.94, facecolor="none", edgecolor=RED, linewidth=1.2)
        )
    axes.set_xticks(np.arange(len(table.columns)) + 0.5, table.columns, weight="bold")
    axes.set_yticks(np.arange(len(table)) + 0.5, table.index, weight="bold")
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    described = "; ".join(
        f"{name}: " + ", ".join(f"{number:.3f} at {column}" for column, number in row.items())
        for name, row in ((name, values[name]) for name in table.index)
    )
    return Picture(figure, f"{unit}, by {ylabel} and {xlabel}. {described}.")
