"""Define the parts that all pictures share: the class `Picture`, axes, line styles and bars.

The figures are made without pyplot. So Matplotlib keeps no global list of figures, no figure has to
be closed, and no display backend is needed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from itertools import cycle
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from course_utils.palette import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    QUANTITIES,
    RED,
    colours,
)

# The colour, dash and marker of the first line, the second line, and so on.
STROKES = (
    (BLUE, "-", "o"),
    (ORANGE, "--", "s"),
    (GREEN, "-.", "D"),
    (RED, ":", "^"),
    (PURPLE, "-", "v"),
)
# Hatch patterns by which readers can tell the parts of a bar apart in greyscale.
HATCHES = ("", "////", "\\\\\\\\", "xx")
# Keyword arguments of a method of Matplotlib.
Style = dict[str, Any]
# An outline in the colour of the page, which keeps text legible on top of lines and areas.
HALO: Style = {"path_effects": [withStroke(linewidth=3, foreground=PAPER)]}
# An inch of a figure has 72 points, and is shown on a page as this number of CSS pixels.
POINTS, PIXELS = 72, 110
# The names that different front ends give to the background colour of a page. The variables of
# JupyterLab are last, because ipywidgets also defines them on Colab, for light pages only.
BACKGROUNDS = (
    *("--vscode-editor-background", "--colab-primary-surface-color"),
    *("--pst-color-background", "--jp-layout-color0"),
)
# On a narrow page, such as a phone's, a figure is not made narrower than this number of CSS pixels,
# so that its text stays legible. Instead, the reader moves the figure sideways.
NARROWEST = 480
# The variable --paper is the background colour of the page, or white on a page without a name for
# it. The last two properties are Matplotlib's defaults for lines.
STYLE = (
    f"--paper:{''.join(f'var({name},' for name in BACKGROUNDS)}white{')' * len(BACKGROUNDS)};"
    f"max-width:max(100%,{NARROWEST}px);height:auto;stroke-linejoin:round;stroke-linecap:butt"
)
# Regular expressions for parts of Matplotlib's SVG, and the shorter texts that replace them.
SMALLER = {
    # This style would apply to the whole page.
    r"<style.*?</style>": "",
    # A comment for each text.
    r"(?s)<!--.*?-->": "",
    r"xlink:href": "href",
    r"base64,\s+": "base64,",
    r"\s+": " ",
    r"> <": "><",
    r"(?<=[a-z0-9)])(:|;) (?=[a-z])": r"\1",
    r"(?<=[a-z]): (?=[#0-9])": ":",
    r" ?([MLQCz]) ": r"\1",
    r"<defs></defs>": "",
    # An area without a colour.
    r'<path d="[^"]*"(?: clip-path="[^"]*")? style="fill:none"/>': "",
}


@dataclass(frozen=True)
class Picture:
    """A figure with a text alternative for screen readers.

    A notebook shows the figure as an inline `<svg>` that is sharp at any size. Black lines and
    texts (`palette.INK`) have the text colour of the page, and white areas (`palette.PAPER`) have
    its background colour. The figure itself has no background.

    Attributes:
        figure: the Matplotlib figure.
        alt: a description of the figure in words and numbers.
    """

    figure: Figure
    alt: str

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{inline_svg(self.figure, self.alt)}</div>'

    def __str__(self) -> str:
        return self.alt


def inline_svg(figure: Figure, alt: str) -> str:
    """Return a figure as one `<svg role="img">` for a page in HTML, as small as possible.

    Equal figures give equal texts. The ids in different figures are different, because all figures
    of a page share one set of ids.

    Args:
        figure: the figure. Black becomes the text colour of the page, and white its background.
        alt: the text alternative, which screen readers read instead of the figure.
    """
    file = StringIO()
    # An equal salt makes the ids of equal clip paths and hatches equal.
    with rc_context({"svg.hashsalt": "course", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    content = svg[svg.index("</metadata>") + len("</metadata>") : svg.rindex("</svg>")]
    for pattern, replacement in SMALLER.items():
        content = re.sub(pattern, replacement, content)
    content = _with_unique_ids(re.sub(r"\d+\.\d{3,}", _rounded, content))
    content = content.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    width, height = figure.get_size_inches()
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" width="{width * PIXELS:.0f}" '
        f'viewBox="0 0 {width * POINTS:g} {height * POINTS:g}" preserveAspectRatio="xMinYMin" '
        f'fill="currentColor" style="{STYLE}">{content.strip()}</svg>'
    )


def _rounded(number: re.Match[str]) -> str:
    """Write a number with as many digits as can be seen."""
    value = float(number[0])
    if value < 1:
        return f"{value:.4g}"
    return f"{value:.{1 if value >= 20 else 2}f}".rstrip("0").rstrip(".")


def _with_unique_ids(content: str) -> str:
    """Rename the ids that are used, with a prefix computed from the content; remove the others."""
    used = list(dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', content)))
    prefix = "p" + sha256(content.encode()).hexdigest()[:8]
    names = {name: f"{prefix}-{n}" for n, name in enumerate(used)}

    def renamed(mention: re.Match[str]) -> str:
        return f' id="{names[mention[1]]}"' if mention[1] in names else ""

    content = re.sub(r' id="([^"]+)"', renamed, content)
    return re.sub(r'(href="|url\()#([^")]+)', lambda m: f"{m[1]}#{names[m[2]]}", content)


def one_panel(width: float = 6.5, height: float = 3, title: str = "") -> tuple[Figure, Axes]:
    """Return a figure of `width` × `height` inches, and the axes of its only panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    hide_frame(axes)
    add_title(figure, title)
    return figure, axes


def add_title(figure: Figure, title: str) -> None:
    """Write a title, which states what the figure shows, in bold type above a figure."""
    if title:
        lines = fill(title, line_length(figure.get_figwidth()))
        style: Style = {"x": 0.01, "ha": "left", "fontsize": 11.5, "fontweight": "bold"}
        figure.suptitle(lines, **style, parse_math=False)


def line_length(width: float) -> int:
    """Return the number of a title's characters that fit in one line of a figure, in inches."""
    # An inch has about 9 characters of this type.
    return int(9 * width)


def panels_in_a_row(
    count: int, height: float = 2.8, title: str = "", **shared: Any
) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with `count` panels side by side, and the axes of these panels.

    `height` is the height of the figure in inches. `shared` contains keyword arguments for
    `Figure.subplots`.
    """
    figure = Figure(figsize=(7.5, height), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, **shared)[0]
    hide_frame(*panels)
    add_title(figure, title)
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


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write a label to the right of the axes for each line, at the height at which the line ends.

    Labels that would overlap are moved apart. A dot in the colour of the line is before the label.

    Args:
        axes: the axes, whose scales must be final.
        ends: label → (y of the line's end, colour of the line).
    """
    to_share = axes.transData + axes.transAxes.inverted()
    middle = sum(axes.get_xlim()) / 2
    heights = {label: to_share.transform((middle, y))[1] for label, (y, _) in ends.items()}
    # The axes are about three quarters as high as the figure. A line of text has 14 points.
    points = 0.75 * POINTS * axes.figure.get_figheight()
    style: Style = {"textcoords": "offset points", "va": "center"}
    style["xycoords"] = ("axes fraction", "data")
    for label, height in apart(heights, 14 / points).items():
        y, colour = ends[label]
        shift = (height - heights[label]) * points
        axes.annotate("●", (1, y), xytext=(4, shift), color=colour, fontsize=7, **style)
        axes.annotate(label, (1, y), xytext=(14, shift), parse_math=False, **style)


def apart(heights: Mapping[str, float], distance: float) -> dict[str, float]:
    """Return the places of labels on an axis, moved so that two differ by at least `distance`."""
    labels = sorted(heights, key=heights.__getitem__)
    moved: list[list[float]] = []
    # Labels that are too close form a group, which is centred at the mean of their heights.
    for label in labels:
        moved.append([heights[label]])
        while len(moved) > 1 and _top(moved[-2], distance) + distance > _bottom(
            moved[-1], distance
        ):
            last = moved.pop()
            moved[-1] += last
    places = [_bottom(group, distance) + n * distance for group in moved for n in range(len(group))]
    return dict(zip(labels, places, strict=True))


def _bottom(group: Sequence[float], distance: float) -> float:
    return sum(group) / len(group) - distance * (len(group) - 1) / 2


def _top(group: Sequence[float], distance: float) -> float:
    return sum(group) / len(group) + distance * (len(group) - 1) / 2


def with_strokes(series: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, str, str]]]:
    """Yield the name, the points and the (colour, dash, marker) of each series.

    There are five combinations, so the sixth series looks like the first. A series that has the
    name of a quantity has the colour of this quantity.
    """
    for (name, points), (colour, dash, marker) in zip(series.items(), cycle(STROKES), strict=False):
        yield name, points, (QUANTITIES.get(name, colour), dash, marker)


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
        axes.barh(names, sizes, left=list(ends.values()), label=part, edgecolor=PAPER, **style)
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
    chosen = colours(series)
    for n, (name, heights) in enumerate(series.items()):
        offset = (n - (len(series) - 1) / 2) * width
        middles[name] = [first + group + offset for group in range(len(heights))]
        axes.bar(middles[name], heights, 0.94 * width, color=chosen[name], label=name)
    return middles
