"""Define the parts that all pictures share: the class `Picture`, axes, line styles and bars.

The figures are made without pyplot. So Matplotlib keeps no global list of figures, no figure has to
be closed, and no display backend is needed.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from course_utils.palette import BLUE, GREEN, ORANGE, RED, SERIES, SKY

# The colour, dash and marker of the first line, the second line, and so on.
STROKES = (
    *((ORANGE, "-", "o"), (SKY, "--", "s"), (BLUE, "-.", "D"), (GREEN, ":", "^"), (RED, "-", "v")),
)
# Hatch patterns by which readers can tell the parts of a bar apart in greyscale.
HATCHES = ("", "////", "....", "xxxx")
# Keyword arguments of a method of Matplotlib.
Style = dict[str, Any]
# A white outline that keeps text legible on top of lines and areas.
HALO: Style = {"path_effects": [withStroke(linewidth=3, foreground="white")]}


@dataclass(frozen=True)
class Picture:
    """A figure with a text alternative for screen readers.

    A notebook shows the figure as `<img alt=…>`, and every notebook front end keeps the text
    alternative.

    Attributes:
        figure: the Matplotlib figure.
        alt: a description of the figure in words and numbers.
    """

    figure: Figure
    alt: str

    def _repr_html_(self) -> str:
        png = BytesIO()
        self.figure.savefig(png, format="png", dpi=110)
        data = b64encode(png.getvalue()).decode()
        alt = html.escape(self.alt, quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{data}" style="max-width:100%">'

    def __str__(self) -> str:
        return self.alt


def one_panel(width: float = 7.5, height: float = 3.2) -> tuple[Figure, Axes]:
    """Return a figure of `width` × `height` inches, and the axes of its only panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    hide_frame(axes)
    return figure, axes


def panels_in_a_row(count: int, **shared: Any) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with `count` panels side by side, and the axes of these panels.

    `shared` contains keyword arguments for `Figure.subplots`.
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, **shared)[0]
    hide_frame(*panels)
    return figure, panels


def hide_frame(*panels: Axes) -> None:
    """Draw only the left and the bottom side of each panel's frame."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)


def legend_above(axes: Axes, columns: int, middle: float = 0.5) -> None:
    """Put the legend above the axes, centred at `middle` (0 is the left end, 1 the right end)."""
    axes.legend(frameon=False, ncols=columns, loc="lower center", bbox_to_anchor=(middle, 1))


def legend_beside(axes: Axes, *entries: Sequence[Any]) -> None:
    """Put the legend to the right of the axes.

    `entries` are the legend's handles and labels. Without `entries`, the legend lists the handles
    and labels of the axes.
    """
    axes.legend(*entries, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def with_strokes(series: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, str, str]]]:
    """Yield the name, the points and the (colour, dash, marker) of each series.

    There are five combinations, so the sixth series looks like the first.
    """
    for (name, points), stroke in zip(series.items(), cycle(STROKES), strict=False):
        yield name, points, stroke


def stacked_bars(
    axes: Axes, rows: Mapping[str, Mapping[str, float]], styles: Iterable[Style]
) -> dict[str, float]:
    """Draw a stacked horizontal bar for each row, with the first row on top.

    Args:
        axes: the axes in which the bars are drawn.
        rows: name of the row → name of the part → length of the part.
        styles: keyword arguments of `Axes.barh` for each part. After the last style, the first
            style is used again.

    Returns:
        Name of the row → length of its bar, from the bottom row to the top row.
    """
    parts = dict.fromkeys(part for row in rows.values() for part in row)
    names = list(rows)[::-1]
    ends = dict.fromkeys(names, 0.0)
    for part, style in zip(parts, cycle(styles), strict=False):
        sizes = [rows[name].get(part, 0) for name in names]
        axes.barh(names, sizes, left=list(ends.values()), label=part, edgecolor="white", **style)
        ends = {name: ends[name] + size for name, size in zip(names, sizes, strict=True)}
    return ends


def grouped_bars(
    axes: Axes, series: Mapping[str, Sequence[float]], first: int = 0
) -> dict[str, list[float]]:
    """Draw vertical bars in groups: group k contains bar k of every series.

    Args:
        axes: the axes in which the bars are drawn.
        series: name of the series → heights of its bars.
        first: x of the first group's middle. The middles of the next groups are first + 1, first +
            2, ….

    Returns:
        Name of the series → x of the middle of each of its bars.
    """
    width = 0.8 / len(series)
    middles = {}
    for n, ((name, heights), colour) in enumerate(zip(series.items(), cycle(SERIES), strict=False)):
        offset = (n - (len(series) - 1) / 2) * width
        middles[name] = [first + group + offset for group in range(len(heights))]
        axes.bar(middles[name], heights, 0.94 * width, color=colour, label=name)
    return middles
