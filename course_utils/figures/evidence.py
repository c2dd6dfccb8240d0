"""Draw lecture 08: how the evidence was collected, and what it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from course_utils.figures.base import (
    HALO,
    Picture,
    Style,
    label_ends,
    one_panel,
    with_strokes,
)
from course_utils.figures.canvas import Canvas
from course_utils.figures.charts import log_scale
from course_utils.palette import BLUE, GREEN, GREY, INK, ORANGE, PAPER, RED, text_on

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
    jobs = ("train the models", "choose the learning rate", "judge them")
    middles = []
    for (name, count), colour in zip(splits.items(), (BLUE, ORANGE, GREEN), strict=True):
        # Even the smallest split needs room for its number.
        width = 40 + (544 - 3 * 40) * count / total
        canvas.box((left, top), (width - 4, height), face=colour, edge=colour)
        middles.append(left + width / 2 - 2)
        canvas.text((middles[-1], top + height / 2), str(count), colour=text_on(colour), size=12)
        canvas.text((middles[-1], top - 10), name, weight="bold")
        left += width
    steps = (
        (8.0, 168.0, f"{rates} learning rates,\n1 seed each"),
        (214.0, 150.0, f"the best rate,\n{seeds} seeds"),
        (402.0, 150.0, "scores of each story,\nintervals, tests"),
    )
    for x, width, text in steps:
        canvas.box((x, 128), (width, 46), text)
    for (x, width, _), (after, _, _) in pairwise(steps):
        canvas.arrow([(x + width + 3, 151), (after - 3, 151)])
    bottom = top + height + 3
    canvas.arrow([(middles[0] - 100, bottom), (middles[0] - 100, 125)], BLUE)
    canvas.arrow([(middles[1], bottom), (middles[1], 112), (289, 112), (289, 125)], ORANGE)
    canvas.arrow([(middles[2], bottom), (middles[2], 125)], GREEN)
    canvas.text((middles[0] - 90, 94), jobs[0], ha="left")
    canvas.text((middles[1] - 8, 94), jobs[1], ha="right")
    canvas.text((middles[2] + 8, 94), jobs[2], ha="left")
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
    conclusions: Mapping[str, str] | None = None,
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
    style: Style = {"textcoords": "offset points", "va": "center"}
    described = []
    for row, (name, (mean, low, high)) in enumerate(rows.items()):
        axes.plot([low, high], [row, row], color=BLUE, linewidth=2.5, solid_capstyle="round")
        axes.plot([mean], [row], "o", color=BLUE, markersize=8, mec=PAPER)
        word = (conclusions or {}).get(name, "")
        axes.annotate(word, (high, row), (8, 0), weight="bold", **style, **HALO)
        described.append(
            f"{name} {mean:+.3g}, from {low:+.3g} to {high:+.3g}" + (f": {word}" if word else "")
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=xlabel, ylim=(len(rows) - 0.4, -0.9))
    axes.annotate("counts as equal", (0, -0.9), (0, -9), ha="center", color=GREEN, **style, **HALO)
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
        xlabel: the label of the x axis.
        ylabel: the label of the y axis.
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


def ascending(names: Iterable[str]) -> list[str]:
    """Return names in ascending order if all of them are numbers, or else in their own order."""
    listed = list(names)
    try:
        return sorted(listed, key=float)
    except ValueError:
        return listed


# Each argument is a separate property of the table.
def heat_map(  # noqa: PLR0913
    values: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str,
    ylabel: str,
    unit: str,
    digits: int = 3,
    lower_is_better: bool = True,
    mark: Mapping[tuple[str, str], str] | None = None,
    title: str = "",
) -> Picture:
    """Draw a table of numbers as coloured cells, with a frame around the best cell of each row.

    Args:
        values: name of the row → {name of the column: number}. A row may lack columns. Names that
            are numbers are sorted.
        xlabel: what the columns are.
        ylabel: what the rows are.
        unit: what the numbers are, with their unit.
        digits: number of digits after the point.
        lower_is_better: whether the best number of a row is its smallest.
        mark: (row, column) → words that are written into this cell, such as "yours".
    """
    values = {name: values[name] for name in ascending(values)}
    columns = ascending(dict.fromkeys(column for row in values.values() for column in row))
    numbers = sorted(
        (number for row in values.values() for number in row.values()), reverse=not lower_is_better
    )
    # The worst tenth has the lightest shade. Otherwise one bad cell would make all others dark.
    best, worst = numbers[0], numbers[round(0.9 * (len(numbers) - 1))]
    cell, left, top = (60.0, 30.0), 92.0, 46.0
    width = left + cell[0] * len(columns) + 10
    canvas = Canvas(max(width, 470), top + cell[1] * len(values) + 8, title)
    canvas.text((left + cell[0] * len(columns) / 2, 10), xlabel)
    canvas.text((left - 12, 32), ylabel, ha="right")
    for n, column in enumerate(columns):
        canvas.text((left + cell[0] * (n + 0.5), 32), column, weight="bold")
    for m, (name, row) in enumerate(values.items()):
        y = top + cell[1] * m
        canvas.text((left - 12, y + cell[1] / 2), name, ha="right", weight="bold")
        chosen = (min if lower_is_better else max)(row, key=row.__getitem__)
        for n, column in enumerate(columns):
            if column not in row:
                continue
            x, number = left + cell[0] * n, row[column]
            share = max(0.0, (worst - number) / (worst - best)) if worst != best else 1.0
            canvas.rectangle((x + 1, y + 1), (cell[0] - 2, cell[1] - 2), BLUE, 0.6 * share)
            word = (mark or {}).get((name, column), "")
            text = f"{number:.{digits}f}" + (f"\n{word}" if word else "")
            canvas.text((x + cell[0] / 2, y + cell[1] / 2), text, size=8.6 if word else 10)
            if column == chosen:
                canvas.box((x + 1, y + 1), (cell[0] - 2, cell[1] - 2), edge=RED)
    described = "; ".join(
        f"{name}: "
        + ", ".join(f"{number:.{digits}f} at {column}" for column, number in row.items())
        for name, row in values.items()
    )
    return canvas.picture(f"{unit}, by {ylabel} and {xlabel}. {described}.")
