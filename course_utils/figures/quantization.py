"""Draw the levels, bins and codes of quantization, and their bits (lectures 04 and 05)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.ticker import MultipleLocator

from course_utils.figures.base import (
    HALO,
    HATCHES,
    Picture,
    Style,
    legend_above,
    note,
    one_panel,
    panel_above_strips,
    panels_in_a_row,
)
from course_utils.palette import BLUE, GREY, INK, PAPER, SERIES, WEIGHTS, colours


def bins(
    samples: Mapping[str, Sequence[float]],
    codebooks: Mapping[str, Sequence[float]],
    title: str = "",
) -> Picture:
    """Draw histograms of scaled weights above the bins and levels of each code book.

    The first sample is a grey area, and the others are lines. A number is rounded to the level of
    its bin. Two neighbouring bins meet halfway between their levels. The bins are alternately light
    and dark, and each level is a vertical line.

    Args:
        samples: name of the sample → weights divided by the absmax of their block, in [-1, 1]. The
            names are shown if there are several samples.
        codebooks: name of the code book → its levels in ascending order.
    """
    import torch

    from course_utils.quantization import bin_edges

    top, strips = panel_above_strips(list(codebooks), title)
    for n, (name, values) in enumerate(samples.items()):
        counts, edges = np.histogram(values, bins=100, range=(-1, 1), density=True)
        style: Style = {"color": SERIES[n - 1], "linewidth": 1.5} if n else {"color": GREY}
        top.stairs(counts, edges, fill=not n, label=name, **style)
    top.set(ylabel="density", xlim=(-1, 1))
    if len(samples) > 1:
        top.legend(frameon=False, loc="upper right")
    descriptions = []
    for axes, (name, levels) in zip(strips, codebooks.items(), strict=True):
        between = bin_edges(torch.as_tensor(levels, dtype=torch.float64)).tolist()
        for n, (left, right) in enumerate(pairwise(between)):
            axes.axvspan(left, right, color=WEIGHTS, alpha=(0.2, 0.5)[n % 2], linewidth=0)
        axes.vlines(levels, 0.15, 0.85, color=INK, linewidth=2)
        widths = np.diff(between)
        extent = f"bins from {min(widths):.4f} to {max(widths):.4f} wide"
        descriptions.append(f"{name}, {len(levels)} levels, {extent}")
    strips[-1].set_xlabel("weight / absmax of its block; a line is a level, a shade is its bin")
    alt = f"Histogram of scaled weights ({', '.join(samples)}) over bins: "
    alt += "; ".join(descriptions) + "."
    return Picture(top.figure, alt)


def code_use(shares: Mapping[str, Mapping[int, float]], title: str = "") -> Picture:
    """Draw how many percent of the numbers have each code, in a panel for each format.

    All panels have the same scale, and the percentage of the most used code is written above its
    bar. A dashed line marks the percentage that each code would have if all were equally frequent.

    Args:
        shares: name of the format → each code, in ascending order → share of the numbers that have
            this code, from 0 to 1.
    """
    figure, panels = panels_in_a_row(len(shares), title=title, sharey=True)
    descriptions = []
    for axes, (name, by_code) in zip(panels, shares.items(), strict=True):
        percent = {code: 100 * float(share) for code, share in by_code.items()}
        even = 100 / len(percent)
        axes.bar(list(percent), list(percent.values()), color=BLUE)
        axes.axhline(even, color=INK, linestyle="--", linewidth=1)
        axes.set(xlabel="code")
        axes.set_title(name, fontsize="medium")
        axes.xaxis.set_major_locator(MultipleLocator(7 if min(percent) < 0 else 5))
        most = max(percent, key=percent.__getitem__)
        note(axes, f"{percent[most]:.1f}%", (most, percent[most]), (0, 2), ha="center")
        used = sum(share >= 1 for share in percent.values())
        descriptions.append(
            f"{name}: {used} of {len(percent)} codes have 1% or more, "
            f"the most used {percent[most]:.1f}%"
        )
    panels[0].set_ylabel("% of the numbers")
    # Room for the percentage above the highest bar.
    panels[0].margins(y=0.12)
    # The label is above the line at the right end of the last panel, where bars are low.
    place: Style = {"xycoords": ("axes fraction", "data"), "ha": "right", **HALO}
    note(axes, "even use", (1, even), (0, 3), **place)
    alt = "Bars of how often each code is used. " + "; ".join(descriptions) + "."
    return Picture(figure, alt)


def bits_per_weight(
    rows: Mapping[str, Mapping[str, float]], chosen: str, title: str = ""
) -> Picture:
    """Draw the bits that a weight needs as stacked bars, with the sum of the parts beside each bar.

    Args:
        rows: name of the bar → name of the part → bits, such as {"64": {"codes": 4, "constants":
            0.5}}. A bar has up to four parts.
        chosen: the name of the bar that is marked with bold text and a dashed line.
    """
    figure, axes = one_panel(height=1.2 + 0.36 * len(rows), title=title)
    chosen_colours = colours(part for row in rows.values() for part in row)
    ends = dict.fromkeys(list(rows)[::-1], 0.0)
    for (part, colour), hatch in zip(chosen_colours.items(), HATCHES, strict=False):
        sizes = [rows[name].get(part, 0) for name in ends]
        style: Style = {"color": colour, "hatch": hatch, "edgecolor": PAPER, "linewidth": 0}
        axes.barh(list(ends), sizes, left=list(ends.values()), label=part, **style)
        ends = {name: end + size for (name, end), size in zip(ends.items(), sizes, strict=True)}
    for name, end in ends.items():
        terms = " + ".join(map(_decimal, rows[name].values()))
        text = _decimal(end) + (f" = {terms}" if len(rows[name]) > 1 else "")
        style = {"va": "center", "weight": "bold" if name == chosen else "normal"}
        axes.annotate(f"  {text}", (1, name), xycoords=("axes fraction", "data"), **style)
    axes.axvline(ends[chosen], color=INK, linestyle="--", linewidth=1)
    axes.get_yticklabels()[list(ends).index(chosen)].set_fontweight("bold")
    axes.set(xlabel="bits per weight", xlim=(0, max(ends.values())))
    legend_above(axes, columns=4, middle=0.45)
    sums = "; ".join(f"{name} {ends[name]:.10g}" for name in rows)
    return Picture(figure, f"Stacked bars of bits per weight: {sums}. Marked: {chosen}.")


def _decimal(bits: float) -> str:
    """Write a number without exponent and trailing zeros: 0.000031 rather than 3.1e-05."""
    return f"{bits:.6f}".rstrip("0").rstrip(".")
