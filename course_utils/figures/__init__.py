"""Pictures of the lectures: pure functions from numbers to a `Picture`, a figure with its alt text.

Colours are Okabe and Ito's, told apart by colour-blind readers; bars also differ by label and
order, so that a greyscale print says the same. No pyplot state: nothing to close, no backend.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, groupby, pairwise
from statistics import NormalDist, median
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from course_utils.memory import LOGITS, LOSS, REST, UPDATE, WORK
from course_utils.paging import PAGES, Event, Run
from course_utils.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SERIES, SKY, YELLOW
from course_utils.units import format_bytes

STROKES = (  # colour, dash and marker of lines
    *((ORANGE, "-", "o"), (SKY, "--", "s"), (BLUE, "-.", "D"), (GREEN, ":", "^"), (RED, "-", "v")),
)
HATCHES = ("", "////", "....", "xxxx")  # tell the parts of a bar apart in greyscale


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


def _panels(count: int, **shared):
    """Axes beside each other."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, **shared)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _stacked(axes, rows: Mapping[str, Mapping[str, float]], looks: Iterable[Mapping]) -> dict:
    """Bars of parts end to end, a row each, the first row on top; returns where each row ends."""
    parts = dict.fromkeys(part for row in rows.values() for part in row)
    names = list(rows)[::-1]
    ends = dict.fromkeys(names, 0.0)
    for part, look in zip(parts, looks, strict=False):
        sizes = [rows[name].get(part, 0) for name in names]
        axes.barh(names, sizes, left=list(ends.values()), label=part, edgecolor="white", **look)
        ends = {name: ends[name] + size for name, size in zip(names, sizes, strict=True)}
    return ends


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
    rows = {
        name: {part: size / 1e9 for part, size in column.items()}
        for name, column in columns.items()
    }
    ends = _stacked(axes, rows, [{"color": colour} for colour in SERIES])
    for name, total in ends.items():
        axes.annotate(f" {format_bytes(total * 1e9)}", (total, name), va="center")
    if line:
        axes.axvline(line[1] / 1e9, color=BLACK, linestyle="--")
        axes.annotate(
            f" {line[0]}", (line[1] / 1e9, 1), xycoords=("data", "axes fraction"), va="top"
        )
    axes.set(xlabel="GB (10⁹ bytes)", xlim=(0, 1.18 * max(ends.values())))
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1))
    sayings = []
    for name, column in columns.items():
        said = ", ".join(f"{part} {format_bytes(size)}" for part, size in column.items() if size)
        sayings.append(f"{name} {format_bytes(sum(column.values()))} ({said})")
    return Picture(figure, f"Stacked bars of memory: {'; '.join(sayings)}.")


def memory_bars(
    columns: Mapping[str, Mapping[str, float]], gpus: Mapping[str, float], reach: float = 0
) -> Picture:
    """`stacked_bytes` with a dashed line where each GPU ends, its name below the bars.

    gpus: name → bytes that tensors may take there. Lines beyond the axis are left out, which shows
    the longest bar with its total, and `reach` bytes at least.
    """
    bars = stacked_bytes(columns)
    figure, axes = bars.figure, bars.figure.axes[0]
    end = max(axes.get_xlim()[1], 1.1 * reach / 1e9)
    at = {name: size / 1e9 for name, size in gpus.items() if size / 1e9 <= end}
    names: dict[float, list[str]] = {}  # lines that nearly coincide share a label
    for name, x in sorted(at.items(), key=lambda item: item[1]):
        near = [line for line in names if x - line < 0.01 * end]
        names.setdefault(near[0] if near else x, []).append(name)
    halo = {"path_effects": [withStroke(linewidth=3, foreground="white")], "zorder": 5}
    for total in axes.texts:  # words stay legible where a line crosses them
        total.set(**halo)
    for bar in axes.patches:
        bar.set_linewidth(0.5)
    free: list[float] = []  # where each row of labels is free, as a share of the axis
    for x, label in names.items():
        text = ", ".join(label)
        wide = 0.03 + 0.012 * len(text)
        left = x / end - (wide if x / end + wide > 1 else 0)
        row = next((n for n, used in enumerate(free) if used <= left), len(free))
        free[row : row + 1] = [left + wide]
        axes.axvline(x, color=BLACK, linestyle="--", linewidth=1)
        gap, side = (-4, "right") if left < x / end else (4, "left")
        style = {"va": "center", "fontsize": "small"} | halo
        spot = {"xytext": (gap, 0), "textcoords": "offset points", "ha": side}
        axes.annotate(text, (x, -0.65 - 0.4 * row), **spot, **style)
    axes.set(xlim=(0, end), ylim=(-0.5 - 0.4 * len(free), len(columns) - 0.5))
    figure.set_figheight(1.4 + 0.55 * len(columns) + 0.22 * len(free))
    lines = ", ".join(f"{name} at {format_bytes(x * 1e9)}" for name, x in at.items())
    return Picture(figure, bars.alt + (f" Lines where GPUs end: {lines}." if lines else ""))


# Areas of a timeline, from below: the groups of `paging.Event.gpu` in it, colour and hatch.
AREAS = {
    "weights": (("weights",), SKY, ""),
    "states that can't move": (("optimizer",), PURPLE, "...."),
    "pages of states": ((PAGES,), ORANGE, "////"),
    "adapters, gradients": (("adapters", "gradients"), GREEN, "||||"),
    "saved activations": (("activations",), BLUE, ""),
    "logits and the rest": ((LOGITS, REST), "#999999", "xxxx"),
    "a layer at work": ((WORK,), YELLOW, ""),
}


def memory_timeline(run: Run, steps: Sequence[int] = ()) -> Picture:
    """What is on the GPU at every moment of a run, as areas under the budget, in GB.

    run: from `paging.simulate`. steps: those to show, the first being 1; default: all. Loss and
    update are drawn wider than a layer. Where memory runs out a paler bar shows what was asked for,
    up to twice the budget, under a cross. Pages in CPU memory stand in a panel below, if the run
    has pages. The legend leaves out what never reaches 0.5% of the budget.
    Raises ValueError for steps that never began.
    """
    failed = run.out_of_memory
    moments = [*run.events, failed] if failed else run.events
    begun = moments[-1].step
    if not set(steps) <= set(range(1, begun + 1)):
        raise ValueError(f"steps must be from 1 to {begun}, the last that began; got {steps}")
    steps = sorted(set(steps)) or range(1, len(run.lengths) + 1)
    moments = [moment for moment in moments if moment.step in steps]
    failed = failed if failed in moments else None
    events = moments[:-1] if failed else moments
    wide = max(1, run.moments_per_step // 12)
    widths = [wide if m.name in (LOSS, UPDATE) or m is failed else 1 for m in moments]
    edges = [0, *accumulate(widths)]
    one = run.moments_per_step - 2 + 2 * wide  # a step
    has_pages = any(event.gpu[PAGES] for event in run.events)
    figure = Figure(figsize=(9, 4.6 if has_pages else 3.8), layout="constrained")
    heights = [4, 1] if has_pages else [4]
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    top, bottom = panels[0, 0], panels[-1, 0]
    _areas(top, moments, edges, 0.005 * run.budget)
    _budget(top, run, failed, edges[-2:], right=edges[-1] > 0.6 * one * len(steps))
    if has_pages:
        away = [moment.cpu / 1e9 for moment in moments]
        _stairs(bottom, away, edges, color=ORANGE, hatch="////")
        bottom.set(ylabel="in CPU\nmemory (GB)", ylim=(0, 1.15 * max(0.5, *away)))
    for axes in panels[:, 0]:
        axes.spines[["top", "right"]].set_visible(False)
        for n in range(1, len(steps)):
            axes.axvline(n * one, color="0.5", linewidth=0.8)
    names = [f"step {n}\n{run.lengths[n - 1]:,} tokens" for n in steps]
    at = [(n + 0.5) * one for n in range(len(steps))]
    if len(steps) == 1:
        bottom.set_xlabel(names[0].replace("\n", ", "))
        names, at = _phases(moments, edges)
    bottom.set_xticks(at, names)
    bottom.tick_params(axis="x", length=0)
    bottom.set_xlim(0, one * len(steps))
    return Picture(figure, _told(run, steps, events, failed))


def _areas(axes, moments: Sequence[Event], edges: Sequence[float], named: float) -> None:
    """Areas on each other; those that reach `named` bytes stand in the legend."""
    below = [0.0] * len(moments)
    for name, (groups, colour, hatch) in AREAS.items():
        sizes = [sum(moment.gpu[group] for group in groups) / 1e9 for moment in moments]
        if any(sizes):
            top = [a + b for a, b in zip(below, sizes, strict=True)]
            label = name if max(sizes) >= named / 1e9 else None
            _stairs(axes, top, edges, baseline=below, color=colour, hatch=hatch, label=label)
            below = top
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(handles[::-1], labels[::-1], frameon=False, **place)


def _stairs(axes, top, edges, *, color: str, **look) -> None:
    axes.stairs(top, edges, fill=True, facecolor=color, edgecolor="white", linewidth=0, **look)


def _phases(moments: Sequence[Event], edges: Sequence[float]) -> tuple[list[str], list[float]]:
    """Forward, loss, backward, update, as far as a step came; and the middle of each."""
    names = ("forward", "loss", "backward", "update")
    of = [next(name for name in names if name in moment.name) for moment in moments]
    middles = {}
    for name in dict.fromkeys(of):
        first, count = of.index(name), of.count(name)
        middles[name] = (edges[first] + edges[first + count]) / 2
    return list(middles), list(middles.values())


def _budget(axes, run: Run, failed: Event | None, last: Sequence[float], right: bool) -> None:
    """The line that may not be crossed, and the moment, between `last`, at which it was."""
    budget = run.budget / 1e9
    axes.axhline(budget, color=BLACK, linestyle="--")
    style = {"textcoords": "offset points", "va": "bottom", "zorder": 6}
    style |= {"path_effects": [withStroke(linewidth=3, foreground="white")]}
    left = {"xy": (0, budget), "xytext": (4, 2)}
    far = {"xy": (1, budget), "xytext": (-4, -3), "ha": "right", "va": "top"}
    place = far if failed and not right else left  # not where the words will stand
    place["xycoords"] = ("axes fraction", "data")
    axes.annotate(f"{run.gpu}: {budget:.2f} GB", **style | place)
    most = 1.15 * budget
    if failed:
        start, end = last
        height = min(failed.total / 1e9, 2 * budget)
        pale = {"facecolor": (1, 1, 1, 0.5), "edgecolor": BLACK}  # a veil over the areas
        axes.bar(start, failed.total / 1e9, end - start, align="edge", **pale)
        middle = (start + end) / 2
        axes.plot(middle, height, "X", color=RED, markersize=13, mec=BLACK, zorder=6, clip_on=False)
        words = f"out of memory: {failed.name},\n{failed.total / 1e9:.2f} GB asked for"
        side = {"xytext": (-11, -3), "ha": "right"} if right else {"xytext": (11, -3)}
        clear = max(height, 1.03 * budget)  # of the line
        axes.annotate(words, (start if right else end, clear), weight="bold", **style, **side)
        most = 1.22 * clear
    axes.set(ylabel="on the GPU (GB)", ylim=(0, max(1, most)))


def _told(run: Run, steps: Sequence[int], events: Sequence[Event], failed: Event | None) -> str:
    tokens = ", ".join(f"{run.lengths[n - 1]:,}" for n in steps)
    peak = max((event.total for event in events), default=0)
    alt = (
        f"Areas of memory over the moments of {run.model}, steps of {tokens} tokens, "
        f"up to {format_bytes(peak)} under a line at {format_bytes(run.budget)}, the end of "
        f"{run.gpu}."
    )
    if failed:
        asked = format_bytes(failed.total)
        alt += f" Out of memory in step {failed.step} at {failed.name}: {asked} asked for."
    if away := max((event.cpu for event in events), default=0):
        moved = sum(event.moved_in + event.moved_out for event in events)
        alt += f" Up to {format_bytes(away)} of pages in CPU memory, {format_bytes(moved)} moved."
    return alt


def predictions(rows: Mapping[str, tuple[float, float]]) -> Picture:
    """Predicted over measured bytes beside the diagonal, and each row's error in percent.

    rows: name → (measured, predicted), in bytes.
    """
    figure = Figure(figsize=(9, 1.5 + 0.24 * len(rows)), layout="constrained")
    plane, errors = figure.subplots(1, 2)
    measured, predicted = zip(*rows.values(), strict=True)
    most = 1.08 * max(*measured, *predicted) / 1e9
    plane.plot([0, most], [0, most], color=BLACK, linewidth=1, linestyle="--", label="equal")
    at = [[size / 1e9 for size in sizes] for sizes in (measured, predicted)]
    plane.plot(*at, "o", color=BLUE, alpha=0.6, markersize=8, label="a run")
    plane.set(xlabel="measured (GB)", ylabel="predicted (GB)", xlim=(0, most), ylim=(0, most))
    plane.legend(frameon=False)
    percent = {name: 100 * (p - m) / m for name, (m, p) in rows.items()}
    errors.barh(list(percent)[::-1], list(percent.values())[::-1], color=ORANGE)
    errors.axvline(0, color=BLACK, linewidth=1)
    errors.set_xlabel("error of the prediction (%)")
    if max(map(abs, percent.values())) <= 1:
        errors.set_xlim(-1, 1)
    for axes in (plane, errors):
        axes.spines[["top", "right"]].set_visible(False)
    said = ", ".join(f"{name} {error:+.2f}%" for name, error in percent.items())
    return Picture(
        figure,
        f"Dots of predicted over measured memory, from {format_bytes(min(measured))} to "
        f"{format_bytes(max(measured))}; errors of the predictions: {said}.",
    )


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


def lora_parameters(per_rank: int, full: int, rank: int) -> Picture:
    """Trainable parameters over the rank, both on log scales: LoRA against full fine-tuning.

    per_rank: what adapters of rank 1 hold, the sum of d_in + d_out over all adapted matrices.
    full: what the matrices hold, the sum of d_in · d_out. Marks the rank chosen, and the break-even
    rank full / per_rank, where adapters hold as many parameters as the matrices.
    """
    even = full / per_rank
    figure, axes = _axes()
    ranks = [1, max(2 * even, rank)]
    axes.loglog(ranks, [per_rank * r for r in ranks], color=BLUE, label="LoRA")
    axes.axhline(full, color=ORANGE, linestyle="--", label="full fine-tuning")
    axes.plot(even, full, "s", color=BLACK, label=f"break-even: rank {even:,.0f}")
    axes.plot(rank, rank * per_rank, "o", color=BLUE, markersize=9, label=f"rank {rank:,}")
    axes.set(xlabel="rank r", ylabel="trainable parameters")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    alt = (
        f"Trainable parameters over the rank, on log scales: LoRA of rank {rank:,} trains "
        f"{rank * per_rank:,}, full fine-tuning {full:,}; they are equal at rank {even:,.1f}."
    )
    return Picture(figure, alt)


def curves(
    series: Mapping[str, Mapping[float, float]], *, xlabel: str, ylabel: str, log: str = ""
) -> Picture:
    """A line for each series {x: y}, told apart by colour, dash and (up to 20 points) marker.

    log: the axes with a log scale: "", "x", "y" or "xy"; up to 10 values of x are marked there.
    Raises ValueError for more series than can be told apart.
    """
    if not 1 <= len(series) <= len(STROKES):
        raise ValueError(f"from 1 to {len(STROKES)} series can be told apart, got {len(series)}")
    figure, axes = _axes()
    sayings = []
    for (name, points), (colour, dash, mark) in zip(series.items(), STROKES, strict=False):
        style = {"color": colour, "linestyle": dash, "marker": mark if len(points) <= 20 else None}
        axes.plot(*zip(*sorted(points.items()), strict=True), **style, label=name)
        first, last = min(points), max(points)
        low = min(points, key=points.get)
        sayings.append(
            f"{name} from {points[first]:.3g} at {first:g} to {points[last]:.3g} at {last:g}, "
            f"lowest {points[low]:.3g} at {low:g}"
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    found = sorted({x for points in series.values() for x in points})
    for axis in log:
        axes.set(**{f"{axis}scale": "log"})
        ticks = getattr(axes, f"{axis}axis")
        own = axis == "x" and len(found) <= 10  # few enough to be named
        ticks.set_major_locator(FixedLocator(found) if own else LogLocator(subs=(1, 2, 5)))
        ticks.set_major_formatter("{x:g}")  # 0.5, not 5 × 10⁻¹
        ticks.set_minor_locator(NullLocator())
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(figure, f"Lines of {ylabel} over {xlabel}: " + "; ".join(sayings) + ".")


def spectrum(singular_values: Mapping[str, Sequence[float]], shown: int = 10) -> Picture:
    """The largest singular values of some matrices, side by side, in descending order."""
    figure, axes = _axes()
    width = 0.8 / len(singular_values)
    sayings = []
    for n, ((name, values), colour) in enumerate(
        zip(singular_values.items(), SERIES, strict=False)
    ):
        largest = sorted(map(float, values), reverse=True)[:shown]
        at = [i + 1 + (n - (len(singular_values) - 1) / 2) * width for i in range(len(largest))]
        axes.bar(at, largest, 0.94 * width, color=colour, label=name)
        sayings.append(f"{name} " + ", ".join(f"{value:.2f}" for value in largest))
    axes.set(xlabel="singular value, by size", ylabel="value")
    axes.set_xticks(range(1, shown + 1))
    axes.legend(frameon=False)
    return Picture(figure, "Bars of singular values: " + "; ".join(sayings) + ".")


def bins(values: Sequence[float], codebooks: Mapping[str, Sequence[float]]) -> Picture:
    """Numbers in [-1, 1] as a histogram, and below it the bins of each code book with its levels.

    values: scaled numbers, weights over their block's absmax. codebooks: name → ascending levels. A
    number gets the level of its bin; bins meet halfway between levels. They are told apart by
    light and dark, the levels by a line each.
    """
    import torch

    from course_utils.quantization import bin_edges

    rows = len(codebooks)
    figure = Figure(figsize=(9, 2.2 + 0.75 * rows), layout="constrained")
    heights = [2.2] + [0.6] * rows
    top, *strips = figure.subplots(1 + rows, 1, sharex=True, height_ratios=heights)
    top.hist(values, bins=100, range=(-1, 1), density=True, color="0.6")
    top.set(ylabel="density", xlim=(-1, 1))
    top.spines[["top", "right"]].set_visible(False)
    sayings = []
    for axes, (name, levels) in zip(strips, codebooks.items(), strict=True):
        edges = bin_edges(torch.as_tensor(levels, dtype=torch.float64)).tolist()
        for n, (left, right) in enumerate(pairwise(edges)):
            axes.axvspan(left, right, color=("#bcdff1", "#4f9fc9")[n % 2], linewidth=0)
        axes.vlines(levels, 0.15, 0.85, color=BLACK, linewidth=2)
        axes.set(ylim=(0, 1), yticks=[])
        axes.set_ylabel(fill(name, 17), rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
        widths = [right - left for left, right in pairwise(edges)]
        said = f"{len(levels)} levels, bins from {min(widths):.4f} to {max(widths):.4f} wide"
        sayings.append(f"{name}, {said}")
    strips[-1].set_xlabel("weight / absmax of its block; a line is a level, a shade is its bin")
    return Picture(figure, "Histogram of scaled weights over bins: " + "; ".join(sayings) + ".")


def code_use(shares: Mapping[str, Sequence[float]]) -> Picture:
    """How often each code is used, in percent: a panel for each way, and a line at even use.

    shares: name → the share of numbers with the first, second, … code, from 0 to 1.
    """
    figure, panels = _panels(len(shares), sharey=True)
    sayings = []
    for axes, (name, own) in zip(panels, shares.items(), strict=True):
        percent = [100 * float(share) for share in own]
        axes.bar(range(len(percent)), percent, color=BLUE)
        axes.axhline(100 / len(percent), color=BLACK, linestyle="--", linewidth=1)
        axes.set(xlabel="code, lowest level first", title=name)
        used = sum(share >= 1 for share in percent)
        said = f"{used} of {len(percent)} codes have 1% or more, the most used {max(percent):.1f}%"
        sayings.append(f"{name}: {said}")
    panels[0].set_ylabel("% of the numbers")
    panels[-1].annotate(
        "even use ",
        (1, 100 / len(percent)),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
    )
    return Picture(figure, "Bars of how often each code is used. " + "; ".join(sayings) + ".")


def normal_quantiles(samples: Mapping[str, Sequence[float]], most: float = 4) -> Picture:
    """Quantiles of samples, in their own standard deviations, over those of a normal distribution.

    On the diagonal a sample is normal; a line that is steeper at its ends has heavier tails.
    samples: name → at least 1,000 numbers. most: the quantiles shown, in standard deviations, as
    far as the sample is large enough for them.
    Raises ValueError for smaller samples and for more than can be told apart.
    """
    if not 1 <= len(samples) <= len(STROKES) or min(map(len, samples.values())) < 1000:
        raise ValueError(f"from 1 to {len(STROKES)} samples of at least 1,000 numbers can be shown")
    figure, axes = _axes(6.5, 4)
    axes.plot([-most, most], [-most, most], color=BLACK, linewidth=1, label="normal")
    sayings = []
    for (name, sample), (colour, dash, mark) in zip(samples.items(), STROKES, strict=False):
        ordered = np.sort(np.asarray(sample, dtype=float))
        ordered = (ordered - ordered.mean()) / ordered.std()
        far = min(most, NormalDist().inv_cdf(1 - 10 / len(ordered)))
        at = np.linspace(-far, far, 33)
        own = np.quantile(ordered, [NormalDist().cdf(z) for z in at])
        style = {"color": colour, "linestyle": dash, "marker": mark, "markersize": 4}
        axes.plot(at, own, **style, label=name)
        sayings.append(f"{name} reaches {own[0]:.1f} and {own[-1]:.1f} at ±{far:.1f}")
    axes.set(xlabel="quantile of a normal distribution (σ)", ylabel="quantile of the sample (σ)")
    axes.legend(frameon=False)
    return Picture(figure, "Quantiles of samples over normal ones: " + "; ".join(sayings) + ".")


def bits_per_weight(rows: Mapping[str, Mapping[str, float]], chosen: str | None = None) -> Picture:
    """Stacked bars of the bits a weight takes: {"64": {"codes": 4, "constants": 0.5}, …}.

    Beside each bar stand its parts and their sum. chosen: a row to mark, in bold and by a line.
    Raises ValueError for more parts than can be told apart.
    """
    parts = dict.fromkeys(part for row in rows.values() for part in row)
    if not 1 <= len(parts) <= len(HATCHES):
        raise ValueError(f"from 1 to {len(HATCHES)} parts can be told apart, got {len(parts)}")
    figure, axes = _axes(height=1.2 + 0.36 * len(rows))
    looks = zip((SKY, ORANGE, RED, YELLOW), HATCHES, strict=True)
    styles = [{"color": colour, "hatch": hatch, "linewidth": 0} for colour, hatch in looks]
    ends = _stacked(axes, rows, styles)
    sayings = []

    def written(bits: float) -> str:  # 0.000031, not 3.1 × 10⁻⁵
        return f"{bits:.6f}".rstrip("0").rstrip(".")

    for name, end in ends.items():
        terms = " + ".join(map(written, rows[name].values()))
        said = written(end) + (f" = {terms}" if len(rows[name]) > 1 else "")
        style = {"va": "center", "weight": "bold" if name == chosen else "normal"}
        axes.annotate(f"  {said}", (1, name), xycoords=("axes fraction", "data"), **style)
        sayings.insert(0, f"{name} {end:.10g}")
    if chosen is not None:
        axes.axvline(ends[chosen], color=BLACK, linestyle="--", linewidth=1)
        axes.get_yticklabels()[list(ends).index(chosen)].set_weight("bold")
    axes.set(xlabel="bits per weight", xlim=(0, max(ends.values())))
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1))
    marked = "" if chosen is None else f" Marked: {chosen}."
    return Picture(figure, f"Stacked bars of bits per weight: {'; '.join(sayings)}.{marked}")


def frontier(
    points: Mapping[str, Mapping[str, tuple[float, float]]],
    best: Collection[tuple[str, str]],
    floor: float = 4,
) -> Picture:
    """Error over bits per weight, both on log scales; the points that none other beats are filled.

    points: series → label → (bits, error). best: (series, label) of the points to fill.
    floor: bits of the codes; the scale is that of what lies above them. The series of smaller error
    have their labels below, the others above.
    Raises ValueError for more series than can be told apart.
    """
    if not 1 <= len(points) <= len(STROKES):
        raise ValueError(f"from 1 to {len(STROKES)} series can be told apart, got {len(points)}")
    figure, axes = _axes(9, 4)
    by_error = sorted(points, key=lambda name: min(error for _, error in points[name].values()))
    lower = by_error[: (len(points) + 1) // 2]
    for (name, own), (colour, dash, mark) in zip(points.items(), STROKES, strict=False):
        bits, errors = zip(*own.values(), strict=True)
        above = [b - floor for b in bits]
        axes.plot(above, errors, dash, color=colour, linewidth=1)
        fills = [colour if (name, label) in best else "white" for label in own]
        axes.scatter(above, errors, c=fills, marker=mark, edgecolors=colour, s=55, zorder=3)
        axes.plot([], [], dash, color=colour, marker=mark, label=name)
        for label, x, y in zip(own, above, errors, strict=True):
            spot = {"xytext": (-4, -5), "ha": "right", "va": "top"}
            if name not in lower:
                spot = {"xytext": (4, 4), "ha": "left", "va": "bottom"}
            axes.annotate(label, (x, y), textcoords="offset points", fontsize="x-small", **spot)
    axes.set(xscale="log", yscale="log", ylabel="squared error / squared weights")
    axes.margins(y=0.1)  # room for labels
    axes.set_xlabel(f"bits per weight (log scale of what is above {floor:g})")
    axes.xaxis.set_major_locator(LogLocator(base=4, numticks=20))
    axes.xaxis.set_major_formatter(lambda x, _: f"{floor + x:.5g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, loc="upper right", title="filled: not beaten")
    sayings = []
    for name, label in sorted(best, key=lambda key: points[key[0]][key[1]]):
        bits, error = points[name][label]
        sayings.append(f"{name} at {label} with {bits:.4g} bits and error {error:.3g}")
    count = sum(map(len, points.values()))
    alt = f"{count} points of error over bits per weight; not beaten: {'; '.join(sayings)}."
    return Picture(figure, alt)


def histograms(
    samples: Mapping[str, Sequence[float]], xlabels: Sequence[str], log: bool = False
) -> Picture:
    """A histogram of each sample in a panel of its own, with a dashed line at zero.

    xlabels: what the numbers of each sample are. log: whether counts have a log scale, on which a
    single number can be seen beside thousands.
    Raises ValueError if a sample has no label, or a label no sample.
    """
    if len(samples) != len(xlabels):
        raise ValueError(f"{len(samples)} samples need as many xlabels, got {len(xlabels)}")
    figure, panels = _panels(len(samples))
    sayings = []
    for axes, (name, sample), xlabel in zip(panels, samples.items(), xlabels, strict=True):
        values = np.asarray(sample, dtype=float)
        axes.hist(values, bins=80, color=BLUE, log=log)
        axes.axvline(0, color=BLACK, linestyle="--", linewidth=1)
        axes.set(title=name, xlabel=xlabel)
        if log:
            axes.set_ylim(bottom=0.5)  # so that a bar of one stands above the axis
            axes.yaxis.set_major_formatter("{x:,.0f}")
        below = (values < 0).mean()
        said = f"from {values.min():.3g} to {values.max():.3g}, {below:.0%} of them below zero"
        sayings.append(f"{name}, {xlabel}: {said}")
    panels[0].set_ylabel("how many (log scale)" if log else "how many")
    return Picture(figure, f"Histograms. {'; '.join(sayings)}.")


def byte_layout(fields: Mapping[str, int]) -> Picture:
    """A tensor's fields as one bar of bytes, and below it all but the largest, magnified.

    fields: name → bytes, of at least two.
    """
    figure, axes = _axes(9, 3.4)
    largest = max(fields, key=fields.get)
    small = {name: size for name, size in fields.items() if name != largest}
    whole, rest = sum(fields.values()), sum(small.values())
    looks = dict(zip(fields, zip(SERIES, HATCHES * 2, strict=True), strict=False))
    for row, (names, total) in {1: ([largest, *small], whole), 0: (list(small), rest)}.items():
        left = 0.0
        for name in names:
            colour, hatch = looks[name]
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
            label = None if row == 0 else f"{name}: {fields[name]:,} B"
            axes.barh(row, fields[name] / total, 0.5, left=left, label=label, **style)
            left += fields[name] / total
    for above, below in ((1 - rest / whole, 0), (1, 1)):  # what the lower bar magnifies
        axes.plot([above, below], [0.75, 0.25], color=BLACK, linestyle=":", linewidth=1)
    axes.set_yticks([1, 0], [f"all, {whole:,} B", f"the rest, {rest:,} B\n× {whole / rest:.0f}"])
    axes.set(xlim=(0, 1), ylim=(-0.3, 1.3), xticks=[])
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.45, 1))
    said = ", ".join(f"{name} {size:,} B" for name, size in fields.items())
    return Picture(figure, f"Bars of {whole:,} B: {said}.")


def measurements(
    samples: Mapping[str, Sequence[float]], xlabel: str, zero: bool = True, log: bool = False
) -> Picture:
    """Every measurement as a dot, a row for each thing measured, with a bar at its median.

    zero: whether the axis begins at zero, so that lengths can be compared as ratios. log: whether
    it has a log scale, which has no zero.
    """
    figure, axes = _axes(height=1 + 0.6 * len(samples))
    names = list(samples)[::-1]  # the first one on top
    sayings = []
    for row, name in enumerate(names):
        values = list(samples[name])
        axes.plot(values, [row] * len(values), "o", color=BLUE, alpha=0.5)
        axes.plot([median(values)] * 2, [row - 0.3, row + 0.3], color=RED, linewidth=2)
        said = f"{name} {median(values):.4g}, from {min(values):.4g} to {max(values):.4g}"
        sayings.insert(0, said)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=xlabel, ylim=(-0.5, len(names) - 0.5))
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    elif zero:
        axes.set_xlim(left=0)
    return Picture(figure, f"Dots of {xlabel}, with medians: " + "; ".join(sayings) + ".")


def next_tokens(prompts: Mapping[str, Sequence[tuple[str, float]]]) -> Picture:
    """Bars of the likeliest next tokens, one panel a prompt.

    prompts: {"The capital of France is": [("·Paris", 0.77), …], …}, likeliest first, probabilities
        from 0 to 1.
    """
    figure, panels = _panels(len(prompts))
    sayings = []
    for axes, (prompt, likeliest) in zip(panels, prompts.items(), strict=True):
        texts, shares = zip(*likeliest, strict=True)
        axes.barh(range(len(texts)), shares, color=BLUE)
        axes.set_yticks(range(len(texts)), texts, family="monospace", parse_math=False)
        axes.invert_yaxis()
        for row, share in enumerate(shares):
            axes.annotate(f" {share:.0%}", (share, row), va="center")
        axes.set(xlim=(0, 1), xlabel="probability")
        axes.set_title(prompt, wrap=True, fontsize="medium", parse_math=False)
        said = ", ".join(f"{text} {share:.0%}" for text, share in likeliest)
        sayings.append(f"after “{prompt}”: {said}")
    return Picture(figure, "Bars of the likeliest next tokens, " + "; ".join(sayings) + ".")


def token_losses(
    losses: Sequence[float], graded: Sequence[bool], texts: Sequence[str] | None = None
) -> Picture:
    """A bar for the loss of each token, in nats; graded ones filled, the others hatched.

    graded: whether a token's loss counts. texts: of the tokens, to write below a few bars.
    Raises ValueError if a loss, mark or text has no counterpart, or if there is none.
    """
    lengths = {len(losses), len(graded), len(losses if texts is None else texts)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"every loss needs its mark and text, got lengths {sorted(lengths)}")
    figure, axes = _axes()
    sayings = []
    looks = {
        "prompt: not graded": (False, {"color": "white", "edgecolor": "gray", "hatch": "////"}),
        "graded": (True, {"color": BLUE}),
    }
    for label, (kind, look) in looks.items():
        at = [n for n, mark in enumerate(graded) if bool(mark) is kind]
        if at:
            own = [float(losses[n]) for n in at]
            mean = sum(own) / len(own)
            axes.bar(at, own, 0.9, label=f"{label}, mean {mean:.2f}", **look)
            sayings.append(f"{len(at)} tokens {label}, mean {mean:.2f} nats")
    if texts is not None:
        axes.set_xticks(range(len(texts)), texts, family="monospace", parse_math=False)
    axes.set(xlabel="token", ylabel="loss = −log p (nats)")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return Picture(figure, "Bars of loss, token by token: " + "; ".join(sayings) + ".")


def token_probabilities(texts: Sequence[str], series: Mapping[str, Sequence[float]]) -> Picture:
    """Bars of the probability of some tokens, side by side: {"before": […], "after": […]}."""
    figure, axes = _axes()
    width = 0.8 / len(series)
    sayings = []
    for n, ((name, shares), colour) in enumerate(zip(series.items(), SERIES, strict=False)):
        at = [row + (n - (len(series) - 1) / 2) * width for row in range(len(texts))]
        axes.bar(at, shares, 0.94 * width, color=colour, label=name)
        said = ", ".join(f"{t} {p:.0%}" for t, p in zip(texts, shares, strict=True))
        sayings.append(f"{name}: {said}")
    axes.set_xticks(range(len(texts)), texts, family="monospace", parse_math=False, rotation=30)
    axes.set(ylim=(0, 1), ylabel="probability", xlabel="token of the right answer")
    axes.legend(frameon=False, ncols=len(series), loc="lower center", bbox_to_anchor=(0.5, 1))
    return Picture(figure, "Bars of probability, token by token. " + "; ".join(sayings) + ".")


def cost_lines(
    ways: Mapping[str, tuple[float, float]], unit: str, break_even: Mapping[str, float]
) -> Picture:
    """Total cost over the number of requests, both on log scales, for several ways of serving.

    ways: {"tuned": (cost paid once, cost of one request), …}, in `unit`.
    break_even: {name of a way: requests at which its line meets another's}, marked by a dot.
    """
    figure, axes = _axes(height=3.6)
    requests = [10 ** (n / 20) for n in range(101)]  # 1 to 100,000
    for (name, (once, each)), (colour, dash, _) in zip(ways.items(), STROKES, strict=False):
        axes.plot(requests, [once + each * n for n in requests], dash, color=colour, label=name)
    sayings = []
    for name, count in break_even.items():
        once, each = ways[name]
        axes.plot(count, once + each * count, "o", color=BLACK)
        axes.annotate(
            f"{count:,.0f} requests",
            (count, once + each * count),
            xytext=(8, -14),
            textcoords="offset points",
        )
        sayings.append(f"{name} at {count:,.0f} requests")
    axes.set(xscale="log", yscale="log", xlabel="requests", ylabel=unit)
    axes.legend(frameon=False, loc="upper left")
    costs = ", ".join(
        f"{name} {once:,.3g} once and {each:,.3g} a request" for name, (once, each) in ways.items()
    )
    alt = f"Lines of {unit} over requests: {costs}."
    return Picture(figure, alt + (f" Break-even: {', '.join(sayings)}." if sayings else ""))


@dataclass(frozen=True)
class MarkedTokens:
    """Tokens in boxes; those that carry loss are told by colour, by underline and in words.

    texts: from `sft.token_texts`; a line ends after each ↵. graded: one mark a token.
    """

    texts: Sequence[str]
    graded: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.graded):
            raise ValueError(
                f"every token needs its mark, got {len(self.texts)} and {len(self.graded)}"
            )

    def _write(self, box: Callable[[str, bool], str], sign: Callable[[str], str]) -> str:
        """The tokens, each by `box`, with a `sign` where a run of graded ones begins and ends."""
        parts = []
        for graded, run in groupby(zip(self.graded, self.texts, strict=True), lambda p: p[0]):
            inside = "".join(box(text, graded) for _, text in run)
            parts.append(sign("[loss: ") + inside + sign(" :loss]") if graded else inside)
        said = f"{sum(self.graded)} of {len(self.texts)} tokens carry loss"
        return "".join(parts) + sign(f"\n{said}: underlined, between [loss: and :loss].")

    def __str__(self) -> str:
        return self._write(lambda text, _: text.replace("↵", "↵\n"), str)

    def _repr_html_(self) -> str:
        looks = {
            False: "color:#444;background:#eee",
            True: "color:#003a5d;background:#cfe6f7;font-weight:bold;text-decoration:underline",
        }

        def box(text: str, graded: bool) -> str:
            look = f"display:inline-block;border:1px solid white;{looks[bool(graded)]}"
            return f'<span style="{look}">{html.escape(text)}</span>' + "<br>" * text.count("↵")

        def sign(words: str) -> str:
            return f"<strong>{words}</strong>".replace("\n", "<br>")

        return f'<div style="font-family:monospace;line-height:1.7">{self._write(box, sign)}</div>'
