"""Draw the measured memory of a training step over its phases (lecture 06).

The phases are those of `measure.backward_marked`, and "update".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
from matplotlib.axes import Axes

from course_utils.figures.base import HALO, Picture, label_ends, note, one_panel, with_strokes
from course_utils.machine.units import MB, format_bytes
from course_utils.palette import GREY

# The phases of a step, and the width of each phase in the picture. In all steps, the same phase is
# at the same place, however many operations it has.
WIDTHS = {"forward": 1.2, "loss": 0.5, "backward": 2.0, "update": 0.6}
# The largest number of points of a phase that are drawn. A picture can't show more.
MOST_POINTS = 1200


def step_phases(steps: Mapping[str, Mapping[str, Sequence[float]]], title: str = "") -> Picture:
    """Draw the memory over one training step as a line, with the phases of the step on the x axis.

    Each phase has the same place for all lines, although the number of operations in a phase
    differs. The value at each line's highest point is written next to the point.

    Args:
        steps: name of the line → name of the phase → bytes after each operation of the phase. The
            phases of the backward pass are drawn as one phase.
    """
    figure, axes = one_panel(height=3.2, title=title)
    edges = dict(zip(WIDTHS, accumulate(WIDTHS.values(), initial=0), strict=False))
    layers, descriptions, ends = 0, [], {}
    for name, phases, (colour, dash, _) in with_strokes(steps):
        layers = sum("backward" in phase for phase in phases)
        xs, ys, where = [], [], []
        for kind, width in WIDTHS.items():
            sizes = [size for phase, part in phases.items() if kind in phase for size in part]
            sizes = _thinned(sizes)
            xs += [edges[kind] + width * (n + 0.5) / len(sizes) for n in range(len(sizes))]
            ys += [size / MB for size in sizes]
            where += [kind] * len(sizes)
        axes.plot(xs, ys, color=colour, linestyle=dash, linewidth=1.3)
        top = int(np.argmax(ys))
        label, place = format_bytes(ys[top] * MB, digits=1), (xs[top], ys[top])
        note(axes, label, place, (7, 3), va="top", weight="bold", **HALO)
        ends[name] = ys[-1], colour
        descriptions.append(f"{name}: highest in the phase {where[top]}, {label}")
    labels = {"backward": f"backward,\n{layers} layers"}
    mark_phases(axes, {labels.get(kind, kind): width for kind, width in WIDTHS.items()})
    axes.set(ylabel="tensors of the step (MB)", ylim=(0, 1.1 * axes.get_ylim()[1]))
    label_ends(axes, ends)
    alt = f"Lines of memory over the phases {', '.join(WIDTHS)} of a training step. "
    return Picture(figure, alt + "; ".join(descriptions) + ".")


def _thinned(sizes: Sequence[float]) -> list[float]:
    """Return at most MOST_POINTS sizes: the highest one of each group of neighbours."""
    group = -(-len(sizes) // MOST_POINTS)
    return [max(sizes[n : n + group]) for n in range(0, len(sizes), group)]


def mark_phases(axes: Axes, widths: Mapping[str, float]) -> None:
    """Write the phases' names below the x axis, with lines between the phases."""
    edges = list(accumulate(widths.values(), initial=0))
    for edge in edges[1:-1]:
        axes.axvline(edge, color=GREY, linewidth=0.8, zorder=0)
    axes.set_xticks([(left + right) / 2 for left, right in pairwise(edges)], list(widths))
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(0, edges[-1])
