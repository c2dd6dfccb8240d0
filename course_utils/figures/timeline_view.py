"""Prepare a picture of a simulated training run: the moments to show, their positions and areas.

`figures.memory_timeline` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from course_utils.machine.units import format_bytes
from course_utils.memory import LOGITS, REST, WORK
from course_utils.paging import KEPT, PAGES
from course_utils.palette import QUANTITIES

if TYPE_CHECKING:
    from course_utils import paging
    from course_utils.paging import Event

# The loss, the update and a failed moment have the same width. This width is the number of moments
# in a step divided by WIDE_MOMENTS, but at least 1. All other moments have width 1.
WIDE_MOMENTS = 12


class Area(NamedTuple):
    """One of the stacked areas, with its size in bytes (B) at each moment."""

    label: str
    color: str
    hatch: str
    sizes: list[int]


@dataclass(frozen=True)
class TimelineView:
    """The content of a picture of a run, and the positions on its x axis.

    The unit of `edges` and `step_width` is the width of one layer's forward or backward pass.

    Attributes:
        run: the run, as `paging.simulate` returns it.
        steps: the numbers of the steps that are shown, from 1, in ascending order.
        moments: the events of these steps, and last the failure if memory ran out in one of them.
        edges: moment n extends from edges[n] to edges[n + 1] on the x axis.
    """

    run: paging.Run
    steps: tuple[int, ...]
    moments: tuple[Event, ...]
    edges: tuple[int, ...]
    step_width: int

    @classmethod
    def of(cls, run: paging.Run, steps: Sequence[int] = ()) -> TimelineView:
        """Return the view of some steps of a run, or of all, including steps that never began."""
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
        widths = [wide if m.kind in ("loss", "update") or m is failed else 1 for m in moments]
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
        return any(event.gpu[PAGES] for event in self.run.events)

    def areas(self) -> list[Area]:
        """Return the areas from bottom to top, without areas that are empty at every moment."""
        styles = (
            ("weights", "weights", "", ["weights"]),
            ("states that can't move", "optimizer", "", ["optimizer"]),
            ("pages of states", "optimizer", "////", [PAGES]),
            ("adapters and gradients", "adapters", "", ["adapters", "gradients"]),
            ("activations and logits", "activations", "", ["activations", LOGITS, WORK, REST]),
            (KEPT, "CUDA and the rest", "....", [KEPT]),
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
        """Return the name of each phase that a step reached and the x of its middle, left to right.

        The moments between two layers belong to the phase "backward".
        """
        places: dict[tuple[int, str], list[int]] = {}
        for n, moment in enumerate(self.moments):
            phase = "backward" if moment.kind == "between" else moment.kind
            places.setdefault((moment.step, phase), []).append(n)
        return [
            (phase, (self.edges[numbers[0]] + self.edges[numbers[-1] + 1]) / 2)
            for (_, phase), numbers in places.items()
        ]

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
