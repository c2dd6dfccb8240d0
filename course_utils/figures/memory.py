"""Draw memory: its parts, the limits of GPUs, and predictions against measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.figures.base import (
    POINTS,
    Picture,
    Style,
    add_title,
    hide_frame,
    line_length,
    name_rows,
    note,
    one_panel,
)
from course_utils.figures.canvas import NOTE, TEXT, TITLE_LINE, text_width
from course_utils.machine.units import GB, MB, format_bytes
from course_utils.palette import BLUE, GREY, INK, PAPER, RED, colours, text_on

# The width of the figure, and the heights of a bar with the room around it, of a row of labels
# above the bars, and of the axis, in points.
WIDTH, ROW, LABEL_ROW, AXIS = 504, 44, 15, 42
# The units of the axis in bytes, and their names. An axis shorter than 0.01 GB is in MB.
UNITS = {GB: "GB (10⁹ bytes)", MB: "MB (10⁶ bytes)"}
# Two GPUs get a common dashed line and a common label if their limits differ by less than this
# share of the axis's length.
NEAR = 0.01
# A part that is narrower than this, in points, is hidden by the edges of its neighbours.
VISIBLE = 1


def memory_bars(
    columns: Mapping[str, Mapping[str, float]],
    gpus: Mapping[str, float] | None = None,
    reach: float = 0,
    title: str = "",
) -> Picture:
    """Draw memory as horizontal stacked bars, with the totals in a column to the right.

    The parts have the colours of `palette`. A part is labelled in the bar if there is room, and
    otherwise in a legend; a part too narrow to be visible is only in the alt text. A labelled
    dashed line marks each GPU's memory limit; neither a label nor a total is on a line. The axis is
    long enough for the longest bar, and is in GB, or in MB if it is shorter than 0.01 GB. A GPU
    whose limit is beyond the axis is left out.

    Args:
        columns: name of the bar → name of the part → size in bytes, such as {"full": {"weights":
            14e9}, "QLoRA": {"weights": 4e9}}. The first bar is on top.
        gpus: name of the GPU → number of bytes that tensors may use on this GPU.
        reach: the number of bytes up to which the axis must extend.
    """
    longest = max(reach, 1, *(sum(column.values()) for column in columns.values()))
    unit = GB if longest >= 0.01 * GB else MB
    rows = {
        name: {part: size / unit for part, size in column.items()}
        for name, column in columns.items()
    }
    end = 1.12 * longest / unit
    shown = {name: size / unit for name, size in (gpus or {}).items() if size / unit <= end}
    bars = _Bars(rows, end, _joined(shown, NEAR * end), title, unit)
    bars.draw()
    descriptions = []
    for name, column in columns.items():
        parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in column.items() if size)
        descriptions.append(f"{name} {format_bytes(sum(column.values()))} ({parts})")
    alt = f"Stacked bars of memory: {'; '.join(descriptions)}."
    if shown:
        lines = ", ".join(f"{name} at {format_bytes(x * unit)}" for name, x in shown.items())
        alt += f" Lines at the memory limits of GPUs: {lines}."
    return Picture(bars.figure, alt)


def _joined(gpus: Mapping[str, float], near: float) -> dict[float, str]:
    """Return a dict from the x of each line to the line's label, ordered from left to right.

    A GPU less than `near` to the right of another GPU's line shares this line and its label.
    """
    names: dict[float, list[str]] = {}
    for name, x in sorted(gpus.items(), key=lambda item: item[1]):
        line = next((line for line in names if x - line < near), x)
        names.setdefault(line, []).append(name)
    return {x: ", ".join(together) for x, together in names.items()}


class _Bars:
    """The picture of `memory_bars`, whose layout is computed from the widths of its texts."""

    def __init__(
        self,
        rows: Mapping[str, Mapping[str, float]],
        end: float,
        limits: Mapping[float, str],
        title: str,
        unit: int,
    ):
        """Lay out the bars `rows`, on an axis from 0 to `end`, with lines at `limits`.

        All sizes are multiples of `unit`, which is a number of bytes.
        """
        self.rows, self.end, self.limits, self.unit = rows, end, limits, unit
        totals = [format_bytes(unit * sum(row.values())) for row in rows.values()]
        lines = [line for name in rows for line in name.split("\n")]
        left = max(text_width(line, TEXT) for line in lines) + 12
        right = max(text_width(total, TEXT, "bold") for total in totals) + 12
        self.length = WIDTH - left - right
        self.parts = colours(dict.fromkeys(part for row in rows.values() for part in row))
        self.labels = {name: self._labels(row) for name, row in rows.items()}
        labelled = {part for labels in self.labels.values() for part in labels}
        least = VISIBLE / self.length * end
        drawn = {part for row in rows.values() for part, size in row.items() if size >= least}
        self.legend = self._in_lines([p for p in self.parts if p in drawn - labelled])
        self.gpu_rows = self._gpu_rows()
        above = 4 + LABEL_ROW * (1 + max(self.gpu_rows.values(), default=-1))
        below = AXIS + LABEL_ROW * len(self.legend)
        bars = ROW * len(rows)
        heading = (TITLE_LINE + 4) * len(wrap(title, line_length(WIDTH / POINTS)))
        height = heading + above + bars + below
        self.figure = Figure(figsize=(WIDTH / POINTS, height / POINTS))
        add_title(self.figure, title)
        place = (left / WIDTH, below / height, self.length / WIDTH, bars / height)
        self.axes = self.figure.add_axes(place)

    def _labels(self, row: Mapping[str, float]) -> dict[str, tuple[float, str]]:
        """Return the (x, text) of the label of each part that has room for it in its bar."""
        labels, start = {}, 0.0
        for part, size in row.items():
            # The dashed lines divide a part into pieces. The label is in the widest piece.
            cuts = [start, *(x for x in self.limits if start < x < start + size), start + size]
            left, right = max(pairwise(cuts), key=lambda piece: piece[1] - piece[0])
            room = (right - left) / self.end * self.length - 4
            short = format_bytes(size * self.unit, digits=1)
            # The size of a bar's only part is already to the right of the bar.
            both = f"{part}\n{short}" if len(row) > 1 else part
            for text in (both, part, part.replace(" ", "\n")):
                if max(text_width(line, NOTE) for line in text.split("\n")) <= room:
                    labels[part] = ((left + right) / 2, text)
                    break
            start += size
        return labels

    def _in_lines(self, parts: Sequence[str]) -> list[list[str]]:
        lines: list[list[str]] = []
        room = 0.0
        for part in parts:
            width = text_width(part, NOTE) + 26
            if width > room:
                lines.append([])
                room = WIDTH - 10
            lines[-1].append(part)
            room -= width
        return lines

    def _gpu_rows(self) -> dict[float, int]:
        """Return the row of each GPU's label, from 0 for the lowest, so that no labels overlap."""
        # For each row of labels, the end of its last label in points.
        free: list[float] = []
        rows = {}
        for x, label in self.limits.items():
            left, right = self._gpu_label(x, label)
            row = next((n for n, start in enumerate(free) if start <= left), len(free))
            free[row : row + 1] = [right + 8]
            rows[x] = row
        return rows

    def _gpu_label(self, x: float, label: str) -> tuple[float, float]:
        """Return the left and right end of a GPU's label, which is centred at x if possible."""
        half, middle = text_width(label, NOTE) / 2 + 2, x / self.end * self.length
        middle = min(max(middle, half), self.length - half)
        return middle - half, middle + half

    def draw(self) -> None:
        axes = self.axes
        names = list(self.rows)
        for row, (name, parts) in enumerate(self.rows.items()):
            start = 0.0
            for part, size in parts.items():
                style: Style = {"color": self.parts[part], "edgecolor": PAPER, "linewidth": 0.6}
                axes.barh(row, size, 0.74, left=start, **style)
                start += size
            for part, (x, text) in self.labels[name].items():
                colour = text_on(self.parts[part])
                style = {"ha": "center", "va": "center", "fontsize": NOTE, "color": colour}
                axes.text(x, row, text, **style, zorder=5)
            style = {"va": "center", "weight": "bold", "fontsize": TEXT}
            style |= {"xycoords": ("axes fraction", "data")}
            note(axes, format_bytes(self.unit * start), (1, row), (8, 0), **style)
        name_rows(axes, names, fontsize=TEXT)
        axes.set(xlim=(0, self.end), ylim=(len(names) - 0.5, -0.5))
        axes.set_xlabel(UNITS[self.unit], fontsize=TEXT)
        hide_frame(axes)
        axes.spines["left"].set_visible(False)
        self._draw_limits(axes)
        self._draw_legend(axes)

    def _draw_limits(self, axes: Axes) -> None:
        for x, label in self.limits.items():
            height = LABEL_ROW * self.gpu_rows[x]
            middle = sum(self._gpu_label(x, label)) / 2
            style: Style = {"color": INK, "linewidth": 1.1, "linestyle": (0, (4, 2)), "zorder": 4}
            top = 1 + (height + 2) / (ROW * len(self.rows))
            axes.plot(
                [x, x], [0, top], transform=axes.get_xaxis_transform(), clip_on=False, **style
            )
            place: Style = {"ha": "center", "va": "bottom", "fontsize": NOTE}
            place |= {"xycoords": ("axes points", "axes fraction")}
            note(axes, label, (middle, 1), (0, height + 4), **place)

    def _draw_legend(self, axes: Axes) -> None:
        for n, line in enumerate(self.legend):
            x, y = 6 - axes.get_position().x0 * WIDTH, -AXIS - LABEL_ROW * n + 2
            for part in line:
                place: Style = {"xycoords": "axes points", "annotation_clip": False}
                style: Style = {"color": self.parts[part], "fontsize": 11, "va": "center"}
                axes.annotate("■", (x, y), **style, **place)
                axes.annotate(part, (x + 13, y), va="center", fontsize=NOTE, **place)
                x += text_width(part, NOTE) + 26


def prediction_errors(rows: Mapping[str, tuple[float, float]], title: str = "") -> Picture:
    """Draw the error of each prediction of memory in percent, and mark the largest error.

    Args:
        rows: name of the run → (measured memory, predicted memory), in bytes.
    """
    percent = {name: 100 * (p - m) / m for name, (m, p) in rows.items()}
    worst = max(percent, key=lambda name: abs(percent[name]))
    figure, axes = one_panel(height=1 + 0.23 * len(rows), title=title)
    chosen = [RED if name == worst else BLUE for name in percent]
    axes.barh(range(len(percent)), list(percent.values()), 0.7, color=chosen)
    axes.axvline(0, color=INK, linewidth=1)
    # The text is on the other side of the zero line than the bar, so that it always has room.
    side = -1 if percent[worst] >= 0 else 1
    place: Style = {"ha": "left" if side > 0 else "right", "va": "center", "weight": "bold"}
    point = (0, list(percent).index(worst))
    note(axes, f"worst: {percent[worst]:+.2f}%", point, (5 * side, 0), **place)
    name_rows(axes, list(percent))
    axes.set(xlabel="error of the prediction (%)", ylim=(len(percent) - 0.4, -0.6))
    # The axis extends equally far to both sides, so that errors of both signs can be compared.
    reach = 1.25 * abs(percent[worst]) or 1
    axes.set_xlim(-reach, reach)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=GREY, alpha=0.3)
    measured = [size for size, _ in rows.values()]
    listed = ", ".join(f"{name} {error:+.2f}%" for name, error in percent.items())
    return Picture(
        figure,
        f"Errors of predictions of {format_bytes(min(measured))} to {format_bytes(max(measured))}: "
        f"{listed}. The largest is {percent[worst]:+.2f}%, {worst}.",
    )
