"""Draw diagrams: boxes, arrows and texts at given places of a figure without axes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from course_utils.figures.base import POINTS, Picture, Style
from course_utils.palette import ADAPTERS, GREY, INK, WEIGHTS, text_on

# The font sizes of a diagram in points: titles, texts, and notes next to a text.
TITLE, TEXT, NOTE = 11.5, 9.5, 8.5
# The height of a line of a title in points.
TITLE_LINE = 17
# A matrix is drawn at least this thick, in points, so that it can be seen.
THINNEST = 2.0
# The distance between W and its A and B in points.
GAP = 3.0
# The dashes of a dashed line.
DASHES = (0, (3, 2))
Point = tuple[float, float]


@cache
def text_width(
    text: str, size: float = TEXT, weight: str = "normal", family: str = "sans-serif"
) -> float:
    """Return the width of a text in points; 0 for blank text. A $ does not begin a formula."""
    if not text.strip():
        return 0.0
    font = FontProperties(family=family, weight=weight)
    path = TextPath((0, 0), text.replace("$", r"\$"), size=size, prop=font)
    return float(path.get_extents().width)


class Canvas:
    """A figure on which places and sizes are in points (1/72 inch).

    The origin (0, 0) is the upper left corner below the title. The y axis points down.

    Attributes:
        width: the width of the figure.
        axes: axes without ticks and frame that fill the figure.
    """

    def __init__(self, width: float, height: float, title: str = ""):
        """Create a figure of `width` × `height` points, plus the height of the title."""
        # A character of the title is about 7.5 points wide.
        lines = wrap(title, int(width / 7.5)) if title else []
        above = TITLE_LINE * len(lines) + (8 if lines else 0)
        self.width = width
        self.figure = Figure(figsize=(width / POINTS, (height + above) / POINTS))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, -above))
        self.axes.set_axis_off()
        for n, line in enumerate(lines):
            self.text((2, -above + 12 + TITLE_LINE * n), line, size=TITLE, weight="bold", ha="left")

    def text(
        self,
        at: Point,
        text: str,
        *,
        size: float = TEXT,
        colour: str = INK,
        ha: str = "center",
        **style: Any,
    ) -> None:
        """Write a text, by default centred at a point. A $ does not begin a formula."""
        if "\n" in text:
            style |= {"va": "center", "linespacing": 1.25}
        else:
            # Texts of one line are centred at the middle of a small letter, so that a full stop
            # stays on the line.
            at = at[0], at[1] + 0.36 * size
        self.axes.text(*at, text, size=size, color=colour, ha=ha, parse_math=False, **style)

    def box(  # noqa: PLR0913 - each argument is a property of the box
        self,
        at: Point,
        size: Point,
        text: str = "",
        *,
        face: str = "none",
        edge: str = INK,
        dashed: bool = False,
        text_size: float = TEXT,
        **style: Any,
    ) -> None:
        """Draw a rounded box with its upper left corner at a point, and a text in its middle."""
        width, height = size
        shape = FancyBboxPatch(
            at,
            width,
            height,
            boxstyle=f"round,pad=0,rounding_size={min(5, width / 2, height / 2)}",
            facecolor=face,
            edgecolor=edge,
            linewidth=1,
            linestyle=DASHES if dashed else "-",
        )
        self.axes.add_patch(shape)
        colour = INK if face == "none" else text_on(face)
        middle = (at[0] + width / 2, at[1] + height / 2)
        self.text(middle, text, size=text_size, colour=colour, **style)

    def named_box(
        self,
        at: Point,
        size: Point,
        lines: tuple[str, str],
        face: str = "none",
        sizes: Point = (TEXT, NOTE),
    ) -> None:
        """Draw a box with a name in bold type and a second line below it; a filled one has no edge.

        `lines` are the two texts, and `sizes` are the sizes of their type.
        """
        edge, ink = (INK, INK) if face == "none" else ("none", text_on(face))
        self.box(at, size, face=face, edge=edge)
        x, y = at[0] + size[0] / 2, at[1] + size[1] / 2
        self.text((x, y - 8), lines[0], colour=ink, size=sizes[0], weight="bold")
        self.text((x, y + 9), lines[1], colour=ink, size=sizes[1])

    def rectangle(self, at: Point, size: Point, face: str, alpha: float = 1) -> None:
        """Draw a filled rectangle with its upper left corner at a point."""
        self.axes.add_patch(Rectangle(at, *size, facecolor=face, alpha=alpha, linewidth=0))

    def line(
        self, points: list[Point], colour: str = INK, width: float = 1.2, dashed: bool = False
    ) -> None:
        """Draw a line through points."""
        # In the order in which they are drawn, lines cover boxes and boxes cover lines.
        style: Style = {"linewidth": width, "linestyle": DASHES if dashed else "-", "zorder": 1}
        self.axes.plot(*zip(*points, strict=True), color=colour, **style)

    def arrow(
        self, points: list[Point], colour: str = INK, width: float = 1.2, dashed: bool = False
    ) -> None:
        """Draw a line through points with an arrow head at the last point."""
        arrow = FancyArrowPatch(
            path=Path(points),
            arrowstyle="-|>,head_length=4,head_width=2.2",
            mutation_scale=1,
            color=colour,
            linewidth=width,
            linestyle=DASHES if dashed else "-",
        )
        self.axes.add_patch(arrow)

    def image(self, at: Point, size: Point, pixels: NDArray) -> None:
        """Draw an image, given as an array of RGBA values, in a frame."""
        (x, y), (width, height) = at, size
        extent = (x, x + width, y + height, y)
        self.axes.imshow(pixels, extent=extent, interpolation="none", aspect="auto", zorder=2)
        self.axes.add_patch(Rectangle(at, *size, facecolor="none", edgecolor=GREY, linewidth=0.6))

    def weight(self, at: Point, size: Point, thick: float) -> Point:
        """Draw a weight with its adapter: A to the left of W and as high, B above W and as wide.

        Args:
            at: the upper left corner of W.
            size: the width and the height of W in points, which are d_out and d_in.
            thick: the width of A and the height of B in points, of which at least THINNEST are
                drawn.

        Returns:
            The upper left corner of the weight and its adapter together.
        """
        (x, y), (width, height) = at, size
        self.rectangle(at, size, WEIGHTS)
        thick = max(thick, THINNEST)
        left, top = x - GAP - thick, y - GAP - thick
        self.rectangle((left, y), (thick, height), ADAPTERS)
        self.rectangle((x, top), (width, thick), ADAPTERS)
        return left, top

    def legend(self, at: Point, colours: Mapping[str, str], side: float, size: float) -> None:
        """Draw a legend in a row: text of `size` → colour of the square of `side` before it."""
        x, y = at
        for text, colour in colours.items():
            self.rectangle((x, y), (side, side), colour)
            self.text((x + side + 4, y + side / 2), text, size=size, ha="left")
            x += text_width(text, size) + 30

    def picture(self, alt: str) -> Picture:
        """Return the figure as a picture."""
        return Picture(self.figure, alt)
