"""Show when memory runs out in four training steps, and whether paged states prevent that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course_utils import memory, paging
from course_utils.live.controls import Control
from course_utils.live.markup import figure, legend, numbers, svg, text, with_article
from course_utils.live.steps import (
    MAX_RANK,
    MAX_SEQUENCES,
    MAX_TOKENS,
    METHODS,
    StepChoices,
)
from course_utils.paging import Run
from course_utils.palette import RED
from course_utils.timeline import TimelineView
from course_utils.units import GB, format_bytes
from course_utils.validation import check_number

STATES = {"adamw": "32-bit Adam", "adamw8bit": "8-bit Adam"}
PAGING = "paged states"
# The size of the picture in CSS pixels: its width, the heights of the two panels, and the gap
# between them. LINE is the share of the upper panel below the limit of the GPU or below the request
# that failed.
WIDTH, HEIGHT, LOW, GAP, LINE = 720, 220, 40, 22, 0.88
PAGES_COLOUR = "#8fd3c0"

CONTROLS = {
    "model": Control("Model", "llama-3.1-8b", {name: name for name in memory.PRESETS}),
    "method": Control("Method", "qlora", METHODS),
    "optimizer": Control("Optimizer", "adamw", STATES),
    "gpu": Control("GPU", "T4", {name: name for name in memory.GPUS}),
    "batch_size": Control("Texts in a batch", 1, most=MAX_SEQUENCES),
    "sequence_length": Control("Tokens in a text", 1024, most=MAX_TOKENS),
    "longest": Control("Tokens in step 3", 4096, most=MAX_TOKENS),
    "rank": Control("Rank r", 64, most=MAX_RANK, only_if=("method", ("lora", "qlora"))),
    "gradient_checkpointing": Control("Gradient checkpointing", True),
    "paged": Control("Paged states", True),
}


@dataclass(frozen=True, kw_only=True)
class PagingChoices(StepChoices):
    """The values that a reader chooses for a run of four steps.

    Full fine-tuning uses the recipe "fp32". The field `optimizer` is a key of STATES.

    Attributes:
        longest: Number of tokens per text in step 3. Steps 1, 2 and 4 use `sequence_length`.
        paged: Whether optimizer states may move to CPU memory in the run that is shown.
    """

    longest: int
    paged: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("long: tokens", self.longest, MAX_TOKENS)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens per text in each of the four steps."""
        return (self.sequence_length, self.sequence_length, self.longest, self.sequence_length)

    def options(self, paged: bool) -> dict[str, Any]:
        """Return the options of `paging.simulate` for these choices, with or without paging."""
        return self.method_options | {
            "optimizer": f"paged_{self.optimizer}" if paged else self.optimizer,
            "batch_size": self.batch_size,
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    def runs(self) -> dict[bool, Run]:
        """Return a dict with two simulated runs: True → with paging, False → without paging.

        Raises:
            ValueError: A text is longer than the model's table of positions.
        """
        return {
            paged: paging.simulate(
                self.model, self.method, gpu=self.gpu, lengths=self.lengths, **self.options(paged)
            )
            for paged in (True, False)
        }

    def lines(self, runs: Mapping[bool, Run]) -> dict[str, str]:
        """Return a dict with the results of both runs: the name of each result → its text."""
        model, method, gpu, paged = self.model, self.method, self.gpu, self.paged
        fits = {
            p: paging.longest_text(gpu, model, method, **self.options(p)) for p in (True, False)
        }
        tensors = paging.paged_tensors(model, method, **self.options(paged=True))
        pages = format_bytes(sum(tensor.paged for tensor in tensors))
        states = format_bytes(sum(tensor.size for tensor in tensors))
        count = sum(tensor.count for tensor in tensors)
        paging_count = sum(tensor.count for tensor in tensors if tensor.paged)
        labels = {True: "paging on", False: "paging off"}
        shown = runs[paged]
        large = f"those of at least {memory.SMALLEST_PAGED:,} elements"
        bus = f"PCIe {paging.PCIE[gpu]}.0 ×16, nominally {format_bytes(shown.bandwidth)}/s"
        return {
            f"{labels[paged]} (shown)": outcome(shown),
            labels[not paged]: outcome(runs[not paged]),
            f"memory of {gpu}": format_bytes(shown.budget),
            "bus": bus,
            "optimizer states": f"{states}, of which {pages} can page",
            "tensors that page": f"{paging_count:,} of {count:,}, {large}",
            "longest text": f"{_tokens(fits[False])}, with paging {_tokens(fits[True])}",
        }


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count else "none"


def outcome(run: Run) -> str:
    """Return a phrase about the memory that a run needed and the bytes that it moved."""
    if failed := run.out_of_memory:
        return f"out of memory in step {failed.step}: {format_bytes(failed.total)} needed"
    if run.moved:
        return f"runs; {format_bytes(run.moved)} moved in {run.seconds:.2f} s"
    return f"runs, up to {format_bytes(run.peak)}; nothing moves"


def answer(values: Mapping[str, Any]) -> str:
    """Return the answer as HTML: what happens, the memory over time, and a table.

    Args:
        values: The value of each control in CONTROLS.

    Raises:
        ValueError: A value is out of range, or a text is longer than the model's table of
            positions.
    """
    choices = PagingChoices(**values)
    runs = choices.runs()
    return _verdict(choices, runs) + _picture(runs[choices.paged]) + numbers(choices.lines(runs))


def _verdict(choices: PagingChoices, runs: Mapping[bool, Run]) -> str:
    shown, other = runs[choices.paged], runs[not choices.paged]
    first = "Memory runs out" if shown.out_of_memory else "All four steps run"
    way = {True: "With paged states", False: "Without paged states"}
    return (
        f'<p class="live-verdict" data-say><strong>{first} on {with_article(shown.gpu)}.</strong> '
        f"{way[choices.paged]}: {text(outcome(shown))}. "
        f"{way[not choices.paged]}: {text(outcome(other))}.</p>"
    )


def _picture(run: Run) -> str:
    """Return a picture of the memory at each moment of a run, and of the pages in CPU memory."""
    view = TimelineView.of(run)
    failed, start = view.failed, view.start
    highest = min(failed.total, 2 * run.budget) if failed else run.budget
    on_gpu = _Panel(view, 0, HEIGHT, (start, start + (highest - start) / LINE))
    # Pages have a lighter colour than the states that can't move.
    colours = {a.label: PAGES_COLOUR if a.hatch else a.color for a in view.areas()}
    shapes, top = [], [0] * len(view.moments)
    for area in view.areas():
        top = [a + b for a, b in zip(top, area.sizes, strict=True)]
        shapes.append(on_gpu.area(top, colours[area.label]))
    # Each area is drawn down to the axis, so the lower areas must be drawn later.
    shapes = [*reversed(shapes), on_gpu.limit()]
    if failed:
        shapes.append(on_gpu.failure(min(failed.total, highest)))
    height = HEIGHT
    if view.has_pages:
        height += LOW + GAP
        pages = [moment.cpu for moment in view.moments]
        low = _Panel(view, HEIGHT + GAP, LOW, (0, max(GB / 2, *pages)))
        shapes.append(low.area(pages, PAGES_COLOUR))
        shapes.append(_words(0, HEIGHT + GAP - 4, "pages in CPU memory"))
    for n, name in enumerate(view.step_labels()):
        at = WIDTH * n / len(view.steps)
        shapes.append(f'<path class="line" d="M{at:.1f} 0V{height}"/>')
        for line, words in enumerate(name.split("\n")):
            shapes.append(_words(at + 4, height + 18 + 21 * line, words))
    axis = "GB on the GPU" + (f", from {start / GB:g} GB upwards" if start else "")
    drawing = svg(WIDTH, height + 45, "".join(shapes))
    return figure(view.alt, f"<p>{axis}</p>{drawing}{legend(colours)}", "timeline")


def _words(x: float, y: float, words: str, side: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{side}">{text(words)}</text>'


@dataclass(frozen=True)
class _Panel:
    """A part of the picture with its own axis.

    Attributes:
        view: The moments and their positions.
        top: The y coordinate of the upper edge.
        height: The height of the panel.
        sizes: The bytes at the lower and the upper edge.
    """

    view: TimelineView
    top: float
    height: float
    sizes: tuple[float, float]

    def x(self, at: float) -> float:
        """Return the x coordinate of a position on the view's axis."""
        return WIDTH * at / self.view.width

    def y(self, size: float) -> float:
        """Return the y coordinate of a number of bytes. Numbers below the axis are drawn on it."""
        low, high = self.sizes
        return self.top + self.height * (1 - max(0, size - low) / (high - low))

    def area(self, top: Sequence[float], colour: str) -> str:
        """Return the filled area under the curve of bytes over time."""
        bottom = self.top + self.height
        ends = map(self.x, self.view.edges[1:])
        outline = "".join(f"V{self.y(y):.1f}H{x:.1f}" for x, y in zip(ends, top, strict=True))
        return f'<path d="M0 {bottom:g}{outline}V{bottom:g}Z" fill="{colour}"/>'

    def limit(self) -> str:
        """Return a dashed line at the limit of the GPU, with the limit in words."""
        run = self.view.run
        y = self.y(run.budget)
        words = _words(WIDTH - 4, y - 5, f"{run.gpu}: {format_bytes(run.budget)}", "end")
        return f'<path class="limit" d="M0 {y:.1f}H{WIDTH}"/>{words}'

    def failure(self, size: float) -> str:
        """Return a frame around the moment at which memory ran out."""
        left, right = map(self.x, self.view.edges[-2:])
        y = self.y(size)
        return (
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" '
            f'height="{self.top + self.height - y:.1f}" fill="none" stroke="{RED}" '
            'stroke-width="2.5"/>'
        )
