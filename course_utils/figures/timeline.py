"""Draw the memory of a simulated training run over time, with the limit of the GPU (lecture 06).

`TimelineView.of` chooses the moments to show and their positions. `memory_timeline` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from course_utils.figures.base import HALO, Picture, Style, add_title, hide_frame, legend_beside
from course_utils.palette import INK, OPTIMIZER, PAPER, QUANTITIES, RED
from course_utils.units import GB, format_bytes

if TYPE_CHECKING:
    from course_utils import paging
    from course_utils.paging import Event

# The loss, the update and a failed moment have the same width. This width is the number of moments
# in a step divided by WIDE_MOMENTS, but at least 1. All other moments have width 1.
WIDE_MOMENTS = 12
# The legend names an area only if the area reaches this share of the budget at some moment. An area
# that never reaches this share is too thin to be seen.
NAMED_AREA = 0.005
# If memory runs out to the right of this share of the axis, the text about the failure is to the
# left of the failed moment.
RIGHT_PART = 0.6
# The phases of a step, and the signs of three of them on the axis of several steps. Each name is a
# part of the names of the moments in this phase.
PHASES = {"forward": "", "loss": "①", "backward": "②", "update": "③"}
# Half-transparent paper.
PALE = to_rgba(PAPER, 0.5)
# The maximum height of the bar of a failed request, as a multiple of the budget.
HIGHEST_REQUEST = 2


class Area(NamedTuple):
    """One of the stacked areas, with its size in bytes (B) at each moment."""

    label: str
    color: str
    hatch: str
    sizes: list[int]


@dataclass(frozen=True)
class TimelineView:
    """The content of a picture of a run, and the positions on its x axis.

    The class itself draws nothing. The unit of `edges` and `step_width` is the width of one layer's
    forward or backward pass.

    Attributes:
        run: the run, as `paging.simulate` returns it.
        steps: the numbers of the steps that are shown, in ascending order. The run's first step is
            1.
        moments: the events of these steps. If memory ran out in one of these steps, this failure is
            the last moment.
        edges: moment n extends from edges[n] to edges[n + 1] on the x axis.
        step_width: the width of a complete step.
    """

    run: paging.Run
    steps: tuple[int, ...]
    moments: tuple[Event, ...]
    edges: tuple[int, ...]
    step_width: int

    @classmethod
    def of(cls, run: paging.Run, steps: Sequence[int] = ()) -> TimelineView:
        """Return the view of some steps of a run.

        If `steps` is empty, the view shows all steps of the run, including steps that never began.

        Raises:
            ValueError: the run ended before one of the steps began.
        """
        from course_utils.memory import LOSS, UPDATE

        failed = run.out_of_memory
        moments = (*run.events, failed) if failed else run.events
        last = moments[-1].step
        if not set(steps) <= set(range(1, last + 1)):
            raise ValueError(
                f"steps must be from 1 to {last}, which is the last step that began, got {steps}"
            )
        shown = tuple(sorted(set(steps))) or tuple(range(1, len(run.lengths) + 1))
        moments = tuple(moment for moment in moments if moment.step in shown)
        wide = max(1, run.phases_per_step // WIDE_MOMENTS)
        widths = [wide if m.name in (LOSS, UPDATE) or m is failed else 1 for m in moments]
        edges = tuple(accumulate(widths, initial=0))
        return cls(run, shown, moments, edges, step_width=run.phases_per_step - 2 + 2 * wide)

    @property
    def width(self) -> int:
        """Return the width of all shown steps together."""
        return self.step_width * len(self.steps)

    @property
    def failed(self) -> Event | None:
        """Return the moment at which memory ran out, or None if no such moment is shown."""
        failed = self.run.out_of_memory
        return failed if failed in self.moments else None

    @property
    def events(self) -> tuple[Event, ...]:
        """Return the shown moments at which memory was sufficient."""
        return self.moments[:-1] if self.failed else self.moments

    @property
    def has_pages(self) -> bool:
        """Return whether the run has pages on the GPU at any moment, shown or not."""
        from course_utils.paging import PAGES

        return any(event.gpu[PAGES] for event in self.run.events)

    def areas(self) -> list[Area]:
        """Return the areas from bottom to top, without areas that are empty at every moment."""
        from course_utils.memory import LOGITS, REST, WORK
        from course_utils.paging import PAGES

        styles = (
            ("weights", "weights", "", ["weights"]),
            ("states that can't move", "optimizer", "", ["optimizer"]),
            ("pages of states", "optimizer", "////", [PAGES]),
            ("adapters", "adapters", "", ["adapters"]),
            ("gradients", "gradients", "", ["gradients"]),
            ("activations", "activations", "", ["activations"]),
            ("logits and the rest", LOGITS, "", [LOGITS, REST]),
            ("a layer's backward pass", WORK, "", [WORK]),
        )
        areas = [
            Area(
                label,
                QUANTITIES[quantity],
                hatch,
                [sum(m.gpu[g] for g in groups) for m in self.moments],
            )
            for label, quantity, hatch, groups in styles
        ]
        return [area for area in areas if any(area.sizes)]

    def step_labels(self) -> dict[str, float]:
        """Return a dict from each step's label (name and length) to the x of its middle."""
        names = (f"step {n}\n{self.run.lengths[n - 1]:,} tokens" for n in self.steps)
        return {name: (n + 0.5) * self.step_width for n, name in enumerate(names)}

    def phases(self) -> list[tuple[str, float]]:
        """Return each phase of each step with the x of its middle, from left to right.

        The phases are those of PHASES. Phases that a step never reached are left out.
        """
        places: dict[tuple[int, str], list[int]] = {}
        for n, moment in enumerate(self.moments):
            phase = next(name for name in PHASES if name in moment.name)
            places.setdefault((moment.step, phase), []).append(n)
        return [
            (phase, (self.edges[numbers[0]] + self.edges[numbers[-1] + 1]) / 2)
            for (_, phase), numbers in places.items()
        ]

    @property
    def start(self) -> int:
        """Return the bytes at which the y axis begins: a multiple of 5 GB, below the weights.

        The weights need the same memory at each moment. If most of them are left out, the rest of
        the memory can be drawn larger.
        """
        weights = min(moment.gpu["weights"] for moment in self.moments)
        start = int(0.95 * weights // (5 * GB) * 5 * GB)
        return start if start < self.run.budget / 2 or self.failed is None else 0

    @property
    def alt(self) -> str:
        """Return a description of the picture in words."""
        run, failed = self.run, self.failed
        tokens = ", ".join(f"{run.lengths[n - 1]:,}" for n in self.steps)
        peak = max((event.total for event in self.events), default=0)
        alt = (
            f"Areas of memory over the moments of {run.model}, steps of {tokens} tokens, "
            f"up to {format_bytes(peak)} under a line at {format_bytes(run.budget)}, the end of "
            f"{run.gpu}."
        )
        if failed:
            size = format_bytes(failed.total)
            alt += f" Out of memory in step {failed.step} at {failed.name}: {size} needed."
        if most := max((event.cpu for event in self.events), default=0):
            moved = format_bytes(sum(event.moved_in + event.moved_out for event in self.events))
            alt += f" Up to {format_bytes(most)} of pages in CPU memory, {moved} moved."
        return alt


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
        signs = [PHASES[name] for name in names]
        bottom.set_xticks(places, signs, minor=True)
        bottom.tick_params(axis="x", which="major", pad=17)
        bottom.set_xticks(list(labels.values()), list(labels))
        bottom.set_xlabel("in each step: forward  →  ① loss  →  ② backward  →  ③ update")
    bottom.set_xlim(0, view.width)
