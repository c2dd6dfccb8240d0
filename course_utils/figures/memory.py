"""Draw memory: its parts, the limits of GPUs, and predictions against measurements."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.figures.base import (
    HALO,
    Picture,
    Style,
    hide_frame,
    legend_above,
    one_panel,
    stacked_bars,
)
from course_utils.palette import BLACK, BLUE, ORANGE, SERIES
from course_utils.units import GB, format_bytes

# Two GPUs get a common dashed line and a common label if their limits differ by less than this
# share of the axis's length.
NEAR = 0.01
# The height of a row of labels below the bars, as a share of the height of a bar's row.
LABEL_ROW = 0.4


def stacked_bytes(
    columns: Mapping[str, Mapping[str, float]], line: tuple[str, float] | None = None
) -> Picture:
    """Draw memory in GB as horizontal stacked bars, with the total beside each bar.

    Args:
        columns: name of the bar → name of the part → size in bytes, such as {"full": {"weights":
            14e9}, "QLoRA": {"weights": 4e9}}. The first bar is on top.
        line: the label and the size in bytes at which a dashed line is drawn, such as ("T4", 16e9).
    """
    figure, axes = one_panel(height=1.2 + 0.55 * len(columns))
    rows = {
        name: {part: size / GB for part, size in column.items()} for name, column in columns.items()
    }
    ends = stacked_bars(axes, rows, [{"color": colour} for colour in SERIES])
    for name, total in ends.items():
        axes.annotate(f" {format_bytes(total * GB)}", (total, name), va="center")
    if line:
        label, size = line
        axes.axvline(size / GB, color=BLACK, linestyle="--")
        axes.annotate(f" {label}", (size / GB, 1), xycoords=("data", "axes fraction"), va="top")
    axes.set(xlabel="GB (10⁹ bytes)", xlim=(0, 1.18 * max(ends.values())))
    legend_above(axes, columns=4, middle=0.45)
    descriptions = []
    for name, column in columns.items():
        parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in column.items() if size)
        descriptions.append(f"{name} {format_bytes(sum(column.values()))} ({parts})")
    return Picture(figure, f"Stacked bars of memory: {'; '.join(descriptions)}.")


def memory_bars(
    columns: Mapping[str, Mapping[str, float]], gpus: Mapping[str, float], reach: float = 0
) -> Picture:
    """Draw the bars of `stacked_bytes`, and a labelled dashed line at each GPU's memory limit.

    The labels are below the bars. The axis is long enough for the longest bar and its total. A GPU
    whose limit is beyond the axis is left out.

    Args:
        columns: as in `stacked_bytes`.
        gpus: name of the GPU → number of bytes that tensors may use on this GPU.
        reach: the number of bytes up to which the axis must extend.
    """
    bars = stacked_bytes(columns)
    figure, axes = bars.figure, bars.figure.axes[0]
    end = max(axes.get_xlim()[1], 1.1 * reach / GB)
    shown = {name: size / GB for name, size in gpus.items() if size / GB <= end}
    for total in axes.texts:
        total.set(**HALO, zorder=5)
    for bar in axes.patches:
        bar.set_linewidth(0.5)
    label_rows = _mark_gpus(axes, shown, end)
    axes.set(xlim=(0, end), ylim=(-0.5 - LABEL_ROW * label_rows, len(columns) - 0.5))
    figure.set_figheight(1.4 + 0.55 * len(columns) + 0.22 * label_rows)
    if not shown:
        return bars
    lines = ", ".join(f"{name} at {format_bytes(x * GB)}" for name, x in shown.items())
    return Picture(figure, f"{bars.alt} Lines at the memory limits of GPUs: {lines}.")


def _mark_gpus(axes: Axes, gpus: Mapping[str, float], end: float) -> int:
    """Draw a labelled line at each x of `gpus` (GB), and return the number of rows of labels."""
    # For each row of labels, the end of its last label, as a share of the axis's length.
    free: list[float] = []
    for x, label in _joined(gpus, NEAR * end).items():
        width = 0.03 + 0.012 * len(label)
        left = x / end - (width if x / end + width > 1 else 0)
        row = next((n for n, start in enumerate(free) if start <= left), len(free))
        free[row : row + 1] = [left + width]
        axes.axvline(x, color=BLACK, linestyle="--", linewidth=1)
        gap, side = (-4, "right") if left < x / end else (4, "left")
        place: Style = {
            "xytext": (gap, 0),
            "textcoords": "offset points",
            "ha": side,
            "va": "center",
        }
        point = (x, -0.65 - LABEL_ROW * row)
        axes.annotate(label, point, **place, fontsize="small", **HALO, zorder=5)
    return len(free)


def _joined(gpus: Mapping[str, float], near: float) -> dict[float, str]:
    """Return a dict from the x of each line to the line's label, ordered from left to right.

    A GPU less than `near` to the right of another GPU's line shares this line and its label.
    """
    names: dict[float, list[str]] = {}
    for name, x in sorted(gpus.items(), key=lambda item: item[1]):
        line = next((line for line in names if x - line < near), x)
        names.setdefault(line, []).append(name)
    return {x: ", ".join(together) for x, together in names.items()}


def predictions(rows: Mapping[str, tuple[float, float]]) -> Picture:
    """Plot predicted against measured memory, and draw each prediction's error in percent.

    Args:
        rows: name of the run → (measured memory, predicted memory), in bytes.
    """
    figure = Figure(figsize=(9, 1.5 + 0.24 * len(rows)), layout="constrained")
    plane, errors = figure.subplots(1, 2)
    measured, predicted = zip(*rows.values(), strict=True)
    most = 1.08 * max(*measured, *predicted) / GB
    plane.plot([0, most], [0, most], color=BLACK, linewidth=1, linestyle="--", label="equal")
    points = [[size / GB for size in sizes] for sizes in (measured, predicted)]
    plane.plot(*points, "o", color=BLUE, alpha=0.6, markersize=8, label="a run")
    plane.set(xlabel="measured (GB)", ylabel="predicted (GB)", xlim=(0, most), ylim=(0, most))
    plane.legend(frameon=False)
    percent = {name: 100 * (p - m) / m for name, (m, p) in rows.items()}
    errors.barh(list(percent)[::-1], list(percent.values())[::-1], color=ORANGE)
    errors.axvline(0, color=BLACK, linewidth=1)
    errors.set_xlabel("error of the prediction (%)")
    # If all errors are below 1%, the axis extends from -1% to 1%, so that the errors look small.
    if max(map(abs, percent.values())) <= 1:
        errors.set_xlim(-1, 1)
    hide_frame(plane, errors)
    listed = ", ".join(f"{name} {error:+.2f}%" for name, error in percent.items())
    return Picture(
        figure,
        f"Dots of predicted over measured memory, from {format_bytes(min(measured))} to "
        f"{format_bytes(max(measured))}; errors of the predictions: {listed}.",
    )
