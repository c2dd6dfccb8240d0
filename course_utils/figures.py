"""Pictures of the lectures: pure functions from numbers to a `Picture`, a figure with its alt text.

Colours are Okabe and Ito's, told apart by colour-blind readers; bars also differ by label and
order, so that a greyscale print says the same. No pyplot state: nothing to close, no backend.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from matplotlib.figure import Figure

from course_utils.units import format_bytes

BLACK, ORANGE, SKY, GREEN, BLUE, RED = (
    *("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00"),
)
SERIES = (SKY, ORANGE, BLUE, GREEN, RED, BLACK)


@dataclass(frozen=True)
class Picture:
    """A figure that a screen reader can read: shown as `<img alt=…>`, kept by every front end."""

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


def _axes(width: float = 7.5, height: float = 3.2):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def loss_curve(history: Sequence[Mapping[str, float]], steps: int | None = None) -> Picture:
    """Loss of each step of a run so far, with the validation losses where they were measured.

    history: `Run.history`; may be empty before the first step. steps: where the run will end.
    """
    figure, axes = _axes()
    axes.set(xlabel="optimizer step", ylabel="loss per answer token (nats)")
    axes.set_xlim(0, steps or max(len(history), 2))
    axes.plot(
        [r["step"] for r in history], [r["loss"] for r in history], color=BLUE, label="training"
    )
    held_out = [(r["step"], r["validation_loss"]) for r in history if "validation_loss" in r]
    if held_out:
        at = zip(*held_out, strict=True)
        axes.plot(*at, "D", color=ORANGE, label="validation", clip_on=False)
    if not history:
        return Picture(figure, "An empty plot of loss over steps: training has not begun.")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    first, last = history[0]["loss"], history[-1]["loss"]
    alt = f"Training loss over {len(history)} steps, from {first:.2f} to {last:.2f}."
    return Picture(figure, alt + (f" Validation loss {held_out[-1][1]:.2f}." if held_out else ""))


def stacked_bytes(
    columns: Mapping[str, Mapping[str, float]], line: tuple[str, float] | None = None
):
    """Horizontal stacked bars of bytes: {"full": {"weights": B, …}, "QLoRA": {…}}, in GB.

    line: a label and a number of bytes to mark, such as ("T4", 16e9). Returns a Picture.
    """
    figure, axes = _axes(height=1.2 + 0.55 * len(columns))
    parts = list(dict.fromkeys(part for column in columns.values() for part in column))
    names = list(columns)[::-1]  # the first one on top
    left = dict.fromkeys(names, 0.0)
    for part, colour in zip(parts, SERIES, strict=False):
        sizes = {name: columns[name].get(part, 0) / 1e9 for name in names}
        axes.barh(
            names,
            sizes.values(),
            left=list(left.values()),
            color=colour,
            label=part,
            edgecolor="white",
        )
        left = {name: left[name] + sizes[name] for name in names}
    for name, total in left.items():
        axes.annotate(f" {format_bytes(total * 1e9)}", (total, name), va="center")
    if line:
        axes.axvline(line[1] / 1e9, color=BLACK, linestyle="--")
        axes.annotate(
            f" {line[0]}", (line[1] / 1e9, 1), xycoords=("data", "axes fraction"), va="top"
        )
    axes.set(xlabel="GB (10⁹ bytes)", xlim=(0, 1.18 * max(left.values())))
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1))
    totals = ", ".join(f"{name} {format_bytes(left[name] * 1e9)}" for name in columns)
    return Picture(figure, f"Stacked bars of memory by part: {totals}.")


def score_bars(numbers) -> Picture:
    """Bars with 95% intervals: one group a metric, one bar a way of asking.

    numbers: from `evaluation.intervals`; a row a metric, columns (name, mean or low or high).
    """
    figure, axes = _axes()
    names = list(dict.fromkeys(name for name, _ in numbers.columns))
    width = 0.8 / len(names)
    sayings = []
    for n, (name, colour) in enumerate(zip(names, SERIES, strict=False)):
        means = 100 * numbers[name, "mean"]
        spread = [means - 100 * numbers[name, "low"], 100 * numbers[name, "high"] - means]
        at = [row + (n - (len(names) - 1) / 2) * width for row in range(len(means))]
        axes.bar(at, means, 0.94 * width, color=colour, label=name)
        axes.errorbar(at, means, yerr=spread, fmt="none", ecolor=BLACK, capsize=3, linewidth=1)
        said = ", ".join(f"{metric} {value:.0f}%" for metric, value in means.items())
        sayings.append(f"{name}: {said}")
    axes.set_xticks(range(len(numbers)), numbers.index)
    axes.set(ylabel="% of test stories", ylim=(0, 105))
    axes.legend(frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    return Picture(figure, "Bars with 95% intervals. " + "; ".join(sayings) + ".")
