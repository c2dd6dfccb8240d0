"""Draw the memory of a training step or of a simulated run over time (lectures 02 and 06)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from course_utils.figures.base import (
    HALO,
    Picture,
    Style,
    add_title,
    hide_frame,
    label_ends,
    note,
    one_panel,
    with_strokes,
)
from course_utils.figures.charts import log_scale
from course_utils.figures.steps import mark_phases
from course_utils.figures.timeline_view import Area, TimelineView
from course_utils.machine.units import GB
from course_utils.memory import GROUPS
from course_utils.palette import INK, OPTIMIZER, PAPER, RED

if TYPE_CHECKING:
    from course_utils import paging
    from course_utils.memory import StepPhase
    from course_utils.paging import Event

# The legend names an area only if the area reaches this share of the budget at some moment. An area
# that never reaches this share is too thin to be seen.
NAMED_AREA = 0.005
# If memory runs out to the right of this share of the axis, the text about the failure is to the
# left of the failed moment.
RIGHT_PART = 0.6
# If a picture shows several steps, these signs mark the phases of each step on the x-axis.
SIGNS = {"forward": "", "loss": "①", "backward": "②", "update": "③"}
# The parts of memory that are always there.
PERMANENT = {"weights", "adapters", "optimizer"}
# Half-transparent paper.
PALE = to_rgba(PAPER, 0.5)
# The maximum height of the bar of a failed request, as a multiple of the budget.
HIGHEST_REQUEST = 2


# --- one step ---


def step_timeline(ways: Mapping[str, Sequence[StepPhase]], title: str = "") -> Picture:
    """Draw the memory that a training step adds, as a line over time for each way of training.

    Weights, adapters and optimizer states are in memory throughout the step, so they are left out.
    The memory at each line's highest point is written next to the point. The scale is logarithmic.

    Args:
        ways: name of the way → all phases of the step, as `memory.timeline` returns them.
    """
    figure, axes = one_panel(height=3.2, title=title)
    descriptions, ends, phases = [], {}, []
    for name, every, (colour, dash, _) in with_strokes(ways):
        # Between the backward passes of two layers, memory is lower: the line would be jagged.
        phases = [phase for phase in every if phase.kind != "between"]
        added = [part for part in GROUPS if part not in PERMANENT]
        sizes = [sum(phase.groups[part] for part in added) / GB for phase in phases]
        places = [n + 0.5 for n in range(len(sizes))]
        axes.plot(places, sizes, color=colour, linestyle=dash, linewidth=2)
        top = max(range(len(sizes)), key=sizes.__getitem__)
        axes.plot(places[top], sizes[top], "o", color=colour)
        words = f"{sizes[top]:.2f} GB"
        note(axes, words, (places[top], sizes[top]), (-4, 6), ha="right", weight="bold", **HALO)
        ends[name] = sizes[-1], colour
        descriptions.append(f"{name}, highest at {phases[top].name}, {words}")
    mark_phases(axes, Counter(phase.kind for phase in phases))
    axes.set_ylabel("memory that the step adds\n(GB, log scale)")
    log_scale(axes, "y", ())
    axes.set_ylim(top=2 * axes.get_ylim()[1])
    label_ends(axes, ends)
    alt = "Lines of the memory that a training step adds, over its phases: "
    return Picture(figure, alt + "; ".join(descriptions) + ".")


def _stack(axes: Axes, areas: Sequence[Area], edges: Sequence[float]) -> dict[str, Any]:
    """Draw each area on top of the areas below, and return what was drawn, by its label."""
    drawn: dict[str, Any] = {}
    below = [0.0] * (len(edges) - 1)
    for area in areas:
        top = [low + size / GB for low, size in zip(below, area.sizes, strict=True)]
        style: Style = {"facecolor": area.color, "edgecolor": PAPER, "hatch": area.hatch}
        style |= {"linewidth": 0, "fill": True, "baseline": below}
        drawn[area.label] = axes.stairs(top, edges, **style)
        below = top
    return drawn


# --- a run ---


def memory_timeline(run: paging.Run, steps: Sequence[int] = (), title: str = "") -> Picture:
    """Draw the memory on the GPU at each moment of a run as stacked areas, in GB.

    A dashed line marks the limit of the GPU. The x axis has the phases of each step. The loss and
    the update are drawn wider than a layer. If memory runs out, a pale bar with a cross shows how
    much memory that moment needs on the GPU, up to twice the budget. If the run has pages, a second
    panel shows the pages in CPU memory. The legend leaves out areas that never reach 0.5% of the
    budget.

    Args:
        run: the run, as `paging.simulate` returns it.
        steps: the numbers of the steps to show, where 1 is the first step. By default all steps are
            shown.
    """
    view = TimelineView.of(run, steps)
    heights = [4, 1] if view.has_pages else [4]
    figure = Figure(figsize=(8, 4.6 if view.has_pages else 3.8), layout="constrained")
    add_title(figure, title)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    panels = list(grid[:, 0])
    areas = view.areas()
    drawn = _stack(panels[0], areas, view.edges)
    least = NAMED_AREA * view.run.budget
    names = [area.label for area in areas[::-1] if max(area.sizes) >= least]
    beside: Style = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
    panels[0].legend([drawn[name] for name in names], names, **beside)
    _draw_budget(panels[0], view)
    if view.has_pages:
        pages = [moment.cpu for moment in view.moments]
        _stack(panels[1], [Area("", OPTIMIZER, "////", pages)], view.edges)
        high = 1.15 * max(0.5, max(pages) / GB)
        panels[1].set(ylabel="CPU (GB)", ylim=(0, high))
    _draw_steps(panels, view)
    hide_frame(*panels)
    return Picture(figure, view.alt)


def _draw_budget(axes: Axes, view: TimelineView) -> None:
    """Draw the limit of the GPU, and the failed request if memory ran out."""
    budget, failed = view.run.budget / GB, view.failed
    text_is_left = view.edges[-1] > RIGHT_PART * view.width
    axes.axhline(budget, color=INK, linestyle="--")
    text: Style = {"zorder": 6, **HALO}
    place: Style = {"at": (0, budget), "offset": (4, 2), "va": "bottom"}
    if failed and not text_is_left:
        # The text about the failure needs the left end of the axis.
        place = {"at": (1, budget), "offset": (-4, -3), "ha": "right", "va": "top"}
    label = f"{view.run.gpu}: {budget:.2f} GB"
    note(axes, label, xycoords=("axes fraction", "data"), **place, **text)
    highest = budget
    if failed:
        highest = _draw_failure(axes, view, failed, text_is_left, text)
    axes.set_ylim(0, max(1, (1.22 if failed else 1.15) * highest))
    axes.set_ylabel("GPU (GB)")


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
    place: Style = {"at": (end, text_height), "offset": (11, -3), "va": "bottom"}
    if text_is_left:
        place |= {"at": (start, text_height), "offset": (-11, -3), "ha": "right"}
    message = f"out of memory: {failed.name},\n{requested:.2f} GB needed"
    note(axes, message, weight="bold", **place, **text)
    return text_height


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
