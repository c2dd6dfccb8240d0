"""Paged optimizer states: a GPU with a budget, and pages that move to CPU memory and back.

            GPU, a budget in bytes                      CPU memory
    ┌──────────────────┬──────────────────┐  evict   ┌─────────────┐
    │ what can't move: │ pages of         │ ───────► │ the other   │
    │ weights … spikes │ optimizer states │ ◄─────── │ pages       │
    └──────────────────┴──────────────────┘  touch   └─────────────┘

Optimizer states are needed at the update only. In unified memory they lie in pages; when the rest
of a step needs their room, the least recently used pages go to CPU memory, and they come back when
the update touches them. `simulate` plays a run with the bytes of `memory.timeline`; numbers only,
no GPU.

What is simplified: freed memory counts as free at once, where PyTorch's caching allocator keeps it
for itself (pages then can't have it back until `torch.cuda.empty_cache`); a move costs its bytes
over the nominal bandwidth, and nothing else happens meanwhile.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), sections 1 and 3; bitsandbytes,
optim/optimizer.py: `Optimizer8bit.get_state_buffer` pages tensors of at least 100,000 elements.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from course_utils.memory import (
    OPTIMIZERS,
    UPDATE,
    Estimate,
    Moment,
    estimate,
    paged_bytes,
    state_bytes,
    timeline,
    trainable_tensors,
    usable_bytes,
)
from course_utils.shapes import positive
from course_utils.units import MiB

__all__ = [
    "PAGE",
    "PAGES",
    "PCIE3_X16",
    "Event",
    "OutOfMemory",
    "Run",
    "StateTensor",
    "UnifiedMemory",
    "paged_tensors",
    "simulate",
]

PAGE = 2 * MiB  # the largest piece that CUDA's unified memory moves at once
PCIE3_X16 = 16 * 8e9 * 128 / 130 / 8  # B/s each way, nominal: 16 lanes, 8 GT/s, 128b/130b; a T4's
PAGES = "pages"  # of optimizer states, beside the groups of `memory.GROUPS`


# --- which states page ----------------------------------------------------------------------------


@dataclass(frozen=True)
class StateTensor:
    """A kind of trainable tensor and the states that an optimizer keeps of it.

    elements: of one tensor; count: how many tensors the model has of this kind. size: bytes (B) of
    all their states; paged: those of them that may move to CPU memory.
    """

    name: str
    elements: int
    count: int
    size: int
    paged: int


def paged_tensors(model: Any, method: str, **options: Any) -> list[StateTensor]:
    """The optimizer states of each kind of trainable tensor, and which of them bitsandbytes pages.

    model, method, options: as in `memory.estimate`; optimizer is "paged_adamw" unless told. What is
    paged adds up to the estimate's `paged`. Adapters of rank 8 on LLaMA-7B never page: the largest
    has 88,064 elements.
    Raises ValueError as `estimate` does, and for more than one GPU.
    """
    found = _estimate(model, method, options)
    run, states = found.settings, OPTIMIZERS[found.settings.optimizer].states
    return [
        StateTensor(
            tensor.name,
            tensor.numbers,
            tensor.times,
            states * tensor.times * state_bytes(tensor.numbers, run),
            states * tensor.times * paged_bytes(tensor.numbers, run),
        )
        for tensor in trainable_tensors(found.shape, run)
    ]


def _estimate(model: Any, method: str, options: Mapping[str, Any]) -> Estimate:
    found = estimate(model, method, **{"optimizer": "paged_adamw"} | dict(options))
    if found.settings.gpus > 1:
        raise ValueError(f"paging is worked out for one GPU, not for {found.settings.gpus}")
    return found


def _paged_states(found: Estimate) -> Iterator[int]:
    """Bytes of each paged state, in the order in which the update comes to them."""
    shape, run = found.shape, found.settings
    for in_layers, kinds in groupby(trainable_tensors(shape, run), lambda kind: kind.in_layers):
        group, rounds = list(kinds), shape.layers if in_layers else 1
        for kind in group * rounds:
            if size := paged_bytes(kind.numbers, run):
                yield from [size] * (OPTIMIZERS[run.optimizer].states * kind.times // rounds)


# --- the pager ------------------------------------------------------------------------------------


class OutOfMemory(Exception):
    """The GPU has too little even with all pages in CPU memory. asked: bytes (B) it should hold."""

    def __init__(self, asked: int, budget: int):
        super().__init__(f"out of memory: {asked:,} B are asked for, the budget is {budget:,} B")
        self.asked = asked


@dataclass
class Page:
    """size: bytes. value: stands for all that is on the page; a lost or stale page would show."""

    size: int
    value: float = 0.0


@dataclass
class UnifiedMemory:
    """A GPU of `budget` bytes whose pages may move to CPU memory, of which there is enough.

    fixed: bytes on the GPU that can't move. on_gpu: number → page, the least recently used first.
    in_cpu: the others. moved_in, moved_out: bytes moved to the GPU and away from it so far.
    Raises ValueError for a budget below 0 or a page size below 1.
    """

    budget: int
    page_size: int = PAGE
    fixed: int = 0
    moved_in: int = 0
    moved_out: int = 0
    on_gpu: OrderedDict[int, Page] = field(default_factory=OrderedDict)
    in_cpu: dict[int, Page] = field(default_factory=dict)
    paged: int = 0  # bytes of the pages on the GPU

    def __post_init__(self) -> None:
        positive("page_size", self.page_size)
        if self.budget < 0:
            raise ValueError(f"budget must be at least 0 B, got {self.budget}")

    def __len__(self) -> int:
        """How many pages there are, wherever they are."""
        return len(self.on_gpu) + len(self.in_cpu)

    @property
    def used(self) -> int:
        """Bytes taken on the GPU."""
        return self.fixed + self.paged

    @property
    def away(self) -> int:
        """Bytes of the pages in CPU memory: what went there and did not come back."""
        return self.moved_out - self.moved_in

    def hold(self, fixed: int) -> None:
        """From now on what can't move takes `fixed` bytes; raises OutOfMemory if it can't."""
        self.make_room(fixed - self.fixed)
        self.fixed = fixed

    def allocate(self, size: int) -> list[int]:
        """Pages for a new tensor, filled with zeros on the GPU; returns their numbers."""
        numbers = []
        for start in range(0, size, self.page_size):
            numbers.append(len(self))
            self.place(len(self), Page(min(self.page_size, size - start)))
        return numbers

    def touch(self, number: int) -> Page:
        """The page, on the GPU and now the most recently used; raises OutOfMemory if it can't."""
        if number in self.on_gpu:
            self.on_gpu.move_to_end(number)
        else:
            self.place(number, self.in_cpu[number])
            self.moved_in += self.in_cpu.pop(number).size
        return self.on_gpu[number]

    def place(self, number: int, page: Page) -> None:
        """Put a page on the GPU that is not there."""
        self.make_room(page.size)
        self.on_gpu[number] = page
        self.paged += page.size

    def make_room(self, size: int) -> None:
        """Evict pages until `size` more bytes fit."""
        while self.used + size > self.budget:
            if not self.on_gpu:
                raise OutOfMemory(self.used + size, self.budget)
            self.evict(self.victim())

    def victim(self) -> int:
        """Which page has to go: the one that was not used for the longest time."""
        return next(iter(self.on_gpu))

    def evict(self, number: int) -> None:
        """Move a page to CPU memory."""
        page = self.in_cpu[number] = self.on_gpu.pop(number)
        self.paged -= page.size
        self.moved_out += page.size

    def values(self) -> tuple[float, ...]:
        """What is on each page, by number, wherever it is."""
        pages = self.in_cpu | self.on_gpu
        return tuple(pages[number].value for number in sorted(pages))


# --- a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One moment of a run. Bytes (B) throughout.

    gpu: group → bytes on the GPU, `memory.GROUPS` and PAGES; "optimizer" are states that can't
    move. cpu: pages in CPU memory. moved_in, moved_out: pages moved since the moment before.
    """

    step: int
    name: str
    gpu: Mapping[str, int]
    cpu: int
    moved_in: int
    moved_out: int

    @property
    def total(self) -> int:
        """Bytes on the GPU."""
        return sum(self.gpu.values())


@dataclass(frozen=True)
class Run:
    """What happened: events in order, and the one at which memory ran out, None if it didn't.

    lengths: tokens of a text in each step. moments: of one step. budget: bytes of the GPU for
    tensors. out_of_memory: what was asked for, with all pages in CPU memory; it is not among the
    events. state: what is on each page at the end. bandwidth: B/s.
    """

    model: str
    method: str
    gpu: str
    lengths: tuple[int, ...]
    moments: int
    budget: int
    bandwidth: float
    events: tuple[Event, ...]
    out_of_memory: Event | None
    state: tuple[float, ...]

    @property
    def moved(self) -> int:
        """Bytes moved between GPU and CPU memory, both ways together."""
        return sum(event.moved_in + event.moved_out for event in self.events)

    @property
    def seconds(self) -> float:
        """Time of the moves at the nominal bandwidth, one after the other."""
        return self.moved / self.bandwidth

    @property
    def peak(self) -> int:
        """The most bytes on the GPU."""
        return max((event.total for event in self.events), default=0)


def simulate(
    model: Any,
    method: str,
    *,
    gpu: str | int,
    lengths: Sequence[int],
    bandwidth: float = PCIE3_X16,
    page_size: int = PAGE,
    **options: Any,
) -> Run:
    """A training run of one step for each length, on a GPU whose optimizer states may be paged.

    model, method, options: as in `memory.estimate`. optimizer: "paged_adamw" unless told; paging is
        on with those whose name says so, such as "paged_adamw8bit", and off with "adamw8bit".
    gpu: a name of `memory.GPUS` or a card's bytes, CUDA's own included. lengths: tokens of a text,
        the sequence_length of each step. bandwidth: in B/s. page_size: in B.
    The run stops where memory runs out: where what can't move alone is more than the GPU has, or
    leaves no room for a single page at the update.
    Raises ValueError for options that can't be right, no lengths, and more than one GPU.
    """
    lengths = tuple(positive("a length", length) for length in lengths)
    if not lengths or "sequence_length" in options:
        raise ValueError("lengths gives the sequence_length of each step, and of at least one")
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be above 0 B/s, got {bandwidth!r}")
    options = {"optimizer": "paged_adamw"} | options
    found = _estimate(model, method, options | {"sequence_length": max(lengths)})
    memory = UnifiedMemory(usable_bytes(gpu), page_size)
    steps = _steps(found, lengths, options)
    events, failed = [], None
    for step, moment in ((n, moment) for n, all_of in enumerate(steps, 1) for moment in all_of):
        before = memory.moved_in, memory.moved_out
        try:
            memory.hold(moment.total - moment.paged)
            if moment.name == UPDATE:
                _update(memory, found, step)
        except OutOfMemory as error:
            lacking = error.asked - (moment.total - moment.paged)
            failed = _event(step, moment, memory, lacking, before)
            break
        events.append(_event(step, moment, memory, memory.paged, before))
    where = gpu if isinstance(gpu, str) else "the GPU"
    head = (found.shape.name, method, where, lengths, len(steps[0]), memory.budget, bandwidth)
    return Run(*head, tuple(events), failed, memory.values())


def _steps(
    found: Estimate, lengths: Sequence[int], options: Mapping[str, Any]
) -> list[tuple[Moment, ...]]:
    return [
        timeline(
            found.shape,
            found.settings.method,
            first_step=n == 0,
            **options | {"sequence_length": length},
        )
        for n, length in enumerate(lengths)
    ]


def _update(memory: UnifiedMemory, found: Estimate, step: int) -> None:
    """Tensor by tensor, as bitsandbytes does it; the first update makes the states."""
    if step == 1:
        pages = (page for size in _paged_states(found) for page in memory.allocate(size))
    else:
        pages = iter(range(len(memory)))
    for number in pages:
        page = memory.touch(number)
        page.value = 0.9 * page.value + 0.1 * step * (number + 1)  # a moment, in miniature


def _event(
    step: int, moment: Moment, memory: UnifiedMemory, pages: int, before: tuple[int, int]
) -> Event:
    gpu = moment.groups | {PAGES: pages}
    gpu["optimizer"] -= moment.paged
    moved = memory.moved_in - before[0], memory.moved_out - before[1]
    return Event(step, moment.name, gpu, memory.away, *moved)
