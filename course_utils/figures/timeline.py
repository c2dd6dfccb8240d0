"""Draw the memory of a simulated training run over time, with the limit of the GPU (lecture 06).

`TimelineView.of` chooses the moments to show and their positions, and `memory_timeline` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from course_utils.figures.base import HALO, Picture, Style, add_title, hide_frame, legend_beside
from course_utils.palette import INK, OPTIMIZER, PAPER, RED
from course_utils.timeline import TimelineView
from course_utils.units import GB

if TYPE_CHECKING:
    from course_utils import paging
    from course_utils.paging import Event

# The legend names an area only if the area reaches this share of the budget at some moment. An area
# that never reaches this share is too thin to be seen.
NAMED_AREA = 0.005
# If memory runs out to the right of this share of the axis, the text about the failure is to the
# left of the failed moment.
RIGHT_PART = 0.6
# If a picture shows several steps, these signs mark the phases of each step on the x-axis.
SIGNS = {"forward": "", "loss": "①", "backward": "②", "update": "③"}
# Half-transparent paper.
PALE = to_rgba(PAPER, 0.5)
# The maximum height of the bar of a failed request, as a multiple of the budget.
HIGHEST_REQUEST = 2


def memory_timeline(run: paging.Run, steps: Sequence[int] = (), title: str = "") -> Picture:
    """Draw the memory on the GPU at each moment of a run as stacked areas, in GB.

    A dashed line marks the limit of the GPU. The x axis has the phases of each step. The loss and
    the update are drawn wider than a layer. The y axis begins at the multiple of 5 GB below the
    weights.
    If memory runs out, a pale bar with a cross shows how much memory that moment needs on the GPU,
    up to twice the budget. If the run has pages, a second panel shows the pages in CPU memory. The
    legend leaves out areas that never reach 0.5% of the budget.

    Args:
        run: the run, as `paging.simulate` returns it.
        steps: the numbers of the steps to show, where 1 is the first step. By default all steps are
            shown.
        title: a sentence that says what the picture shows.

    Raises:
        ValueError: the run ended before one of the steps began.
    """
    view = TimelineView.of(run, steps)
    heights = [4, 1] if view.has_pages else [4]
    figure = Figure(figsize=(8, 4.6 if view.has_pages else 3.8), layout="constrained")
    add_title(figure, title)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    panels = list(grid[:, 0])
    _draw_areas(panels[0], view)
    _draw_budget(panels[0], view)
    if view.has_pages:
        _draw_cpu_pages(panels[1], view)
    _draw_steps(panels, view)
    hide_frame(*panels)
    return Picture(figure, view.alt)


def _draw_areas(axes: Axes, view: TimelineView) -> None:
    below = [0.0] * len(view.moments)
    for area in view.areas():
        top = [a + b / GB for a, b in zip(below, area.sizes, strict=True)]
        label = area.label if max(area.sizes) >= NAMED_AREA * view.run.budget else None
        style: Style = {"hatch": area.hatch, "label": label, "baseline": below}
        _stairs(axes, top, view.edges, color=area.color, **style)
        below = top
    handles, labels = axes.get_legend_handles_labels()
    legend_beside(axes, handles[::-1], labels[::-1])


def _stairs(
    axes: Axes, top: Sequence[float], edges: Sequence[float], *, color: str, **style: Any
) -> None:
    axes.stairs(top, edges, fill=True, facecolor=color, edgecolor=PAPER, linewidth=0, **style)


def _draw_budget(axes: Axes, view: TimelineView) -> None:
    """Draw the limit of the GPU, and the failed request if memory ran out."""
    budget, failed = view.run.budget / GB, view.failed
    text_is_left = view.edges[-1] > RIGHT_PART * view.width
    axes.axhline(budget, color=INK, linestyle="--")
    text: Style = {"textcoords": "offset points", "zorder": 6, **HALO}
    place: Style = {"xy": (0, budget), "xytext": (4, 2), "va": "bottom"}
    if failed and not text_is_left:
        # The text about the failure needs the left end of the axis.
        place = {"xy": (1, budget), "xytext": (-4, -3), "ha": "right", "va": "top"}
    label = f"{view.run.gpu}: {budget:.2f} GB"
    axes.annotate(label, xycoords=("axes fraction", "data"), **place, **text)
    highest = budget
    if failed:
        highest = _draw_failure(axes, view, failed, text_is_left, text)
    start = view.start / GB
    axes.set_ylim(start, start + max(1, (1.22 if failed else 1.15) * (highest - start)))
    axes.set_ylabel(f"on the GPU (GB; axis from {start:g})" if start else "on the GPU (GB)")


def _draw_failure(
    axes: Axes, view: TimelineView, failed: Event, text_is_left: bool, text: Style
) -> float:
    """Draw the failed request, and return the height of its text on the y axis, in GB."""
    budget, requested = view.run.budget / GB, failed.total / GB
    start, end = view.edges[-2:]
    height = min(requested, HIGHEST_REQUEST * budget)
    # The areas behind the bar stay visible.
    axes.bar(start, requested, end - start, align="edge", facecolor=PALE, edgecolor=INK)
    cross: Style = {"color": RED, "markersize": 13, "mec": INK, "zorder": 6, "clip_on": False}
    axes.plot((start + end) / 2, height, "X", **cross)
    text_height = max(height, 1.03 * budget)
    place: Style = {"xy": (end, text_height), "xytext": (11, -3), "va": "bottom"}
    if text_is_left:
        place |= {"xy": (start, text_height), "xytext": (-11, -3), "ha": "right"}
    message = f"out of memory: {failed.name},\n{requested:.2f} GB needed"
    axes.annotate(message, weight="bold", **place, **text)
    return text_height


def _draw_cpu_pages(axes: Axes, view: TimelineView) -> None:
    pages = [moment.cpu / GB for moment in view.moments]
    _stairs(axes, pages, view.edges, color=OPTIMIZER, hatch="////")
    axes.set(ylabel="in CPU\nmemory (GB)", ylim=(0, 1.15 * max(0.5, *pages)))


def _draw_steps(panels: Sequence[Axes], view: TimelineView) -> None:
    """Separate the steps by lines and label them, and mark the phases of each step."""
    for axes in panels:
        for n in range(1, len(view.steps)):
            axes.axvline(n * view.step_width, color="0.5", linewidth=0.8)
        axes.tick_params(axis="x", which="both", length=0)
    bottom, labels = panels[-1], view.step_labels()
    names, places = zip(*view.phases(), strict=True)
    if len(view.steps) == 1:
        bottom.set_xlabel(next(iter(labels)).replace("\n", ", "))
        bottom.set_xticks(places, names)
    else:
        signs = [SIGNS[name] for name in names]
        bottom.set_xticks(places, signs, minor=True)
        bottom.tick_params(axis="x", which="major", pad=17)
        bottom.set_xticks(list(labels.values()), list(labels))
        bottom.set_xlabel("in each step: forward  →  ① loss  →  ② backward  →  ③ update")
    bottom.set_xlim(0, view.width)
