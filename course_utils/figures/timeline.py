"""Draw the memory of a training step or of a simulated run over time (lectures 02 and 06)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from course_utils.figures.base import (
    HALO,
    POINTS,
    Picture,
    Style,
    add_title,
    apart,
    hide_frame,
    note,
    panels_in_a_row,
)
from course_utils.figures.canvas import NOTE, TEXT
from course_utils.figures.timeline_view import Area, TimelineView
from course_utils.machine.units import GB, format_bytes
from course_utils.memory import GROUPS
from course_utils.palette import INK, OPTIMIZER, PAPER, RED, colours

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
# Half-transparent paper.
PALE = to_rgba(PAPER, 0.5)
# The maximum height of the bar of a failed request, as a multiple of the budget.
HIGHEST_REQUEST = 2


# --- one step ---


def step_timeline(
    ways: Mapping[str, Sequence[StepPhase]],
    gpu: tuple[str, float],
    title: str = "",
) -> Picture:
    """Draw the memory over one training step, side by side for several ways of training.

    The parts are stacked areas in the colours of `palette`. Three numbers mark the moments at which
    memory can peak: 1 the loss, 2 the largest backward pass of a layer, 3 the update. The number
    of the highest moment is in a filled circle. Each panel has a scale of its own.

    Args:
        ways: name of the way → all phases of the step, as `memory.timeline` returns them.
        gpu: the name of a GPU and the number of bytes that tensors may use on it, for a dashed
            line. A panel has no line if the line would be far above its areas.
    """
    figure, panels = panels_in_a_row(len(ways), 3.6, title, 504 / POINTS)
    parts = colours(GROUPS)
    descriptions = []
    handles: dict[str, Any] = {}
    for axes, (name, every) in zip(panels, ways.items(), strict=True):
        phases = _drawn_phases(every)
        wide = max(1, len(phases) // 8)
        widths = (wide if phase.kind in ("loss", "update") else 1 for phase in phases)
        edges = list(accumulate(widths, initial=0))
        areas = [
            Area(part, colour, "", [phase.groups[part] for phase in phases])
            for part, colour in parts.items()
        ]
        handles |= _stack(axes, [area for area in areas if any(area.sizes)], edges)
        axes.set(xlim=(0, edges[-1]), ylim=(0, 1.25 * max(p.total for p in phases) / GB), xticks=[])
        axes.set_xlabel("forward  →  ① loss  →\n② backward  →  ③ update", fontsize=NOTE)
        peak, words = _mark_moments(axes, phases, edges)
        axes.set_title(f"{name}: {peak}", fontsize=TEXT, fontweight="bold", loc="left")
        descriptions.append(f"{name}: {words}")
        _draw_gpu(axes, *gpu)
    panels[0].set_ylabel("memory (GB)", fontsize=TEXT)
    names = [part for part in parts if part in handles][::-1]
    style: Style = {"frameon": False, "fontsize": NOTE, "handlelength": 1, "handleheight": 1}
    shown = [handles[part] for part in names]
    figure.legend(shown, names, loc="outside lower center", ncols=4, **style)
    alt = f"Areas of memory over a training step, with its moments. {'; '.join(descriptions)}."
    return Picture(figure, f"{alt} A line marks {gpu[0]} at {format_bytes(gpu[1])}.")


def _drawn_phases(phases: Sequence[StepPhase]) -> list[StepPhase]:
    """Return the phases that are drawn: the moments at which memory can peak, and 30 others.

    The moments between the backward passes of two layers are left out. Memory is lower for these
    moments, so that they would be drawn as stripes.
    """
    layers = [phase for phase in phases if phase.kind != "between"]
    peaks = _moments(layers).values()
    step = 1 + len(layers) // 30
    return [phase for n, phase in enumerate(layers) if n % step == 0 or n in peaks]


def _moments(phases: Sequence[StepPhase]) -> dict[str, int]:
    """Return where the loss, the largest backward pass and the update are in a list of phases."""
    places = {}
    for kind in ("loss", "backward", "update"):
        numbers = (n for n, phase in enumerate(phases) if phase.kind == kind)
        places[kind] = max(numbers, key=lambda n: phases[n].total)
    return places


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


def _mark_moments(
    axes: Axes, phases: Sequence[StepPhase], edges: Sequence[float]
) -> tuple[str, str]:
    """Mark the loss, the largest backward pass and the update.

    Returns:
        The memory at the highest of the three moments, and all three moments in words.
    """
    sizes = [phase.total for phase in phases]
    moments = _moments(phases)
    peak = max(moments, key=lambda name: sizes[moments[name]])
    middles = {name: (edges[n] + edges[n + 1]) / 2 for name, n in moments.items()}
    height = 1.16 * max(sizes) / GB
    places = apart({name: x / edges[-1] for name, x in middles.items()}, 0.13)
    # Spreading must not move a number beyond the end of the axis.
    excess = max(0.0, max(places.values()) - 0.95)
    for number, (name, x) in enumerate(middles.items(), 1):
        face, colour = (INK, PAPER) if name == peak else (PAPER, INK)
        place = (places[name] - excess) * edges[-1]
        axes.plot([x, place], [sizes[moments[name]] / GB, height], color=INK, linewidth=0.8)
        style: Style = {"markersize": 14, "mfc": face, "mec": INK, "clip_on": False}
        axes.plot(place, height, "o", **style)
        style = {"color": colour, "fontsize": NOTE, "weight": "bold", "zorder": 5}
        axes.text(place, height, str(number), ha="center", va="center_baseline", **style)
    listed = [f"{name} {format_bytes(sizes[n])}" for name, n in moments.items()]
    highest = format_bytes(sizes[moments[peak]], digits=1)
    return highest, f"{', '.join(listed)}, highest at the {peak}"


def _draw_gpu(axes: Axes, name: str, limit: float) -> None:
    """Draw a line at the memory limit of a GPU, unless it is far above the areas."""
    top = axes.get_ylim()[1]
    if limit / GB > 1.5 * top:
        return
    axes.set_ylim(0, max(top, 1.1 * limit / GB))
    axes.axhline(limit / GB, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.annotate(f" {name}", (0, limit / GB), va="bottom", fontsize=NOTE, **HALO)


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
