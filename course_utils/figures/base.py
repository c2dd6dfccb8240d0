"""Define the parts that all pictures share: the class `Picture`, axes, line styles and bars.

The figures are made without pyplot. So Matplotlib keeps no global list of figures, no figure has to
be closed, and no display backend is needed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from course_utils.palette import BLUE, GREEN, INK, ORANGE, PAPER, PURPLE, QUANTITIES, RED, colours

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
Place = tuple[Any, Any]
# Keyword arguments of a method of Matplotlib.
Style = dict[str, Any]
# An outline in the colour of the page, which keeps text legible on top of lines and areas.
HALO: Style = {"path_effects": [withStroke(linewidth=3, foreground=PAPER)]}
# An inch of a figure has 72 points, and is shown on a page as this number of CSS pixels.
POINTS, PIXELS = 72, 110
# On a narrow page, such as a phone's, a figure is not made narrower than this number of CSS pixels,
# so that its text stays legible. Instead, the reader moves the figure sideways.
NARROWEST = 480
# The variable --paper is the background colour of the page in VS Code, Colab, the website or
# JupyterLab, or else white. JupyterLab is last, because ipywidgets also defines its variables on
# Colab, for light pages only. The last two properties are Matplotlib's defaults for lines.
STYLE = (
    "--paper:var(--vscode-editor-background,var(--colab-primary-surface-color,"
    "var(--pst-color-background,var(--jp-layout-color0,white))));"
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
    """
    file = StringIO()
    # An equal salt makes the ids of equal clip paths and hatches equal.
    with rc_context({"svg.hashsalt": "course", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    content = svg[svg.index("</metadata>") + len("</metadata>") : svg.rindex("</svg>")]
    for pattern, replacement in SMALLER.items():
        content = re.sub(pattern, replacement, content)
    # Four digits are as many as can be seen.
    content = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.4g}", content)
    content = _with_unique_ids(content)
    content = content.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    width, height = figure.get_size_inches()
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" width="{width * PIXELS:.0f}" '
        f'viewBox="0 0 {width * POINTS:g} {height * POINTS:g}" preserveAspectRatio="xMinYMin" '
        f'fill="currentColor" style="{STYLE}">{content.strip()}</svg>'
    )


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
    figure, (axes,) = panels_in_a_row(1, height, title, width)
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
    count: int, height: float = 2.8, title: str = "", width: float = 7.5, sharey: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of `width` × `height` inches, and the axes of its panels, side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, sharey=sharey)[0]
    hide_frame(*panels)
    add_title(figure, title)
    return figure, panels


def panel_above_strips(names: Sequence[str], title: str) -> tuple[Axes, Sequence[Axes]]:
    """Return the axes of a panel, and of a low strip below it for each name, all with one x axis.

    The y axis of a strip is from 0 to 1, and the name is to its left.
    """
    figure = Figure(figsize=(7.5, 2 + 0.7 * len(names)), layout="constrained")
    add_title(figure, title)
    heights = [2] + [0.7] * len(names)
    top, *strips = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    hide_frame(top)
    for axes, name in zip(strips, names, strict=True):
        axes.set(ylim=(0, 1), yticks=[])
        axes.set_ylabel(fill(name, 17), rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
        axes.tick_params(bottom=axes is strips[-1])
    return top, strips


def hide_frame(*panels: Axes) -> None:
    """Draw only the left and the bottom side of each panel's frame."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)


def name_rows(axes: Axes, names: Sequence[str], **style: Any) -> None:
    """Write the name of each row, whose y is 0, 1, 2, …, to the left of the axes, without ticks."""
    axes.set_yticks(range(len(names)), names, **style)
    axes.tick_params(axis="y", length=0)


def legend_above(axes: Axes, columns: int, middle: float = 0.5) -> None:
    """Put the legend above the axes, centred at `middle` (0 is the left end, 1 the right end)."""
    axes.legend(frameon=False, ncols=columns, loc="lower center", bbox_to_anchor=(middle, 1))


def note(axes: Axes, words: str, at: Place, offset: Place, **style: Any) -> Annotation:
    """Write words near a point: `offset` is the distance in points, to the right and up."""
    return axes.annotate(words, at, offset, textcoords="offset points", **style)


def mark_x(axes: Axes, x: float, words: str, offset: Place = (0, 3), **style: Any) -> None:
    """Draw a dashed vertical line at x, and write words at its upper end."""
    axes.axvline(x, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    note(axes, words, (x, 1), offset, xycoords=("data", "axes fraction"), **style)


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write a label to the right of the axes for each line, at the height at which the line ends.

    Labels that would overlap are moved apart. A dot in the colour of the line is before the label.

    Args:
        axes: the axes, whose scales must be final.
        ends: label → (y of the line's end, colour of the line).
    """
    # Drawing decides how high the axes are.
    axes.figure.draw_without_rendering()
    middle = sum(axes.get_xlim()) / 2
    pixels = {label: axes.transData.transform((middle, y))[1] for label, (y, _) in ends.items()}
    heights = {label: POINTS * height / axes.figure.dpi for label, height in pixels.items()}
    style: Style = {"xycoords": ("axes fraction", "data"), "va": "center"}
    # A line of text has 14 points.
    for label, height in apart(heights, 14).items():
        y, colour = ends[label]
        shift = height - heights[label]
        note(axes, "●", (1, y), (4, shift), color=colour, fontsize=7, **style)
        note(axes, label, (1, y), (14, shift), parse_math=False, **style)


def apart(heights: Mapping[str, float], distance: float) -> dict[str, float]:
    """Return the places of labels on an axis, moved so that two differ by at least `distance`.

    The sum of the squared moves is the smallest possible.
    """
    from scipy.optimize import isotonic_regression

    labels = sorted(heights, key=heights.__getitem__)
    steps = distance * np.arange(len(labels))
    wanted = np.array([heights[label] for label in labels]) - steps
    return dict(zip(labels, (isotonic_regression(wanted).x + steps).tolist(), strict=True))


def with_strokes(series: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, str, str]]]:
    """Yield the name, the points and the (colour, dash, marker) of each series.

    There are five combinations, so the sixth series looks like the first. A series that has the
    name of a quantity has the colour of this quantity.
    """
    for (name, points), (colour, dash, marker) in zip(series.items(), cycle(STROKES), strict=False):
        yield name, points, (QUANTITIES.get(name, colour), dash, marker)


def grouped_bars(
    axes: Axes, series: Mapping[str, Sequence[float]], first: int = 0
) -> dict[str, list[float]]:
    """Draw vertical bars in groups: group k contains bar k of every series.

    Args:
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
