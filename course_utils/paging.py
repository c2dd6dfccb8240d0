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

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from numbers import Integral, Real
from typing import Any

from course_utils.memory import (
    MOST,
    OPTIMIZERS,
    UPDATE,
    Estimate,
    Moment,
    estimate,
    largest_number,
    paged_bytes,
    state_bytes,
    timeline,
    trainable_tensors,
    usable_bytes,
)
from course_utils.units import MiB
from course_utils.validation import positive

__all__ = [
    "PAGE",
    "PAGES",
    "PCIE",
    "Event",
    "OutOfMemory",
    "Page",
    "Run",
    "StateTensor",
    "UnifiedMemory",
    "longest_text",
    "paged_tensors",
    "pcie_x16",
    "simulate",
]

PAGE = 2 * MiB  # the largest piece that CUDA's unified memory moves at once
PAGES = "pages"  # of optimizer states, beside the groups of `memory.GROUPS`

# The generation of PCIe of each of `memory.GPUS`, 16 lanes wide (NVIDIA's data sheets).
PCIE = {"T4": 3, "RTX 4090": 4, "A100-40": 4, "A100-80": 4, "H100": 5}


def pcie_x16(generation: int) -> float:
    """B/s that 16 lanes of PCIe 3, 4 or 5 carry each way, nominally.

    8 GT/s a lane, twice as many with each generation, of which 128 bits in 130 are data (PCI-SIG,
    PCI Express base specification). Raises ValueError for another generation.
    """
    if generation not in (3, 4, 5):
        raise ValueError(f"the generation of PCIe must be 3, 4 or 5, got {generation!r}")
    return 16 * 8e9 * 2 ** (generation - 3) * 128 / 130 / 8


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
            tensor.elements,
            tensor.count,
            states * tensor.count * state_bytes(tensor.elements, run),
            states * tensor.count * paged_bytes(tensor.elements, run),
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
            if size := paged_bytes(kind.elements, run):
                yield from [size] * (OPTIMIZERS[run.optimizer].states * kind.count // rounds)


# --- the pager ------------------------------------------------------------------------------------


class OutOfMemory(Exception):
    """The GPU has too little even with all pages in CPU memory. asked: bytes (B) it should hold.

    The pages are in CPU memory then, with what was on them; what can't move is as it was before.
    """

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
    Another rule of eviction is a subclass with its own `victim`.
    Raises ValueError for bytes that are no whole number or below 0, and a page size below 1.
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
        _whole("budget", self.budget)

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
        _whole("fixed", fixed)
        self.make_room(fixed - self.fixed)
        self.fixed = fixed

    def allocate(self, size: int) -> list[int]:
        """Pages for a new tensor, filled with zeros on the GPU; returns their numbers.

        Raises OutOfMemory if not even one of them fits beside what can't move; none is made then.
        """
        numbers = []
        for start in range(0, _whole("size", size), self.page_size):
            numbers.append(len(self))
            self.place(len(self), Page(min(self.page_size, size - start)))
        return numbers

    def touch(self, number: int) -> Page:
        """The page, on the GPU and now the most recently used; raises OutOfMemory if it can't.

        Raises ValueError for a number that no page has.
        """
        if number in self.on_gpu:
            self.on_gpu.move_to_end(number)
        elif number not in self.in_cpu:
            raise ValueError(f"there is no page {number!r}, only {len(self):,}, from 0 on")
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


def _whole(name: str, size: Any) -> int:
    """`size` if it is a whole number of bytes; else ValueError naming it."""
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 0:
        raise ValueError(f"{name} must be a whole number of at least 0 B, got {size!r}")
    return int(size)


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

    lengths: tokens of a text in each step. moments_per_step: how many there are. budget: bytes of
    the GPU for tensors. out_of_memory: what was asked for, with all pages in CPU memory; it is not
    among the events. state: what is on each page at the end. bandwidth: B/s.
    """

    model: str
    method: str
    gpu: str
    lengths: tuple[int, ...]
    moments_per_step: int
    budget: int
    bandwidth: float
    events: tuple[Event, ...]
    out_of_memory: Event | None
    state: tuple[float, ...]

    @property
    def moved(self) -> int:
        """Bytes moved between GPU and CPU memory, both ways together."""
        return sum(self.moved_by_step)

    @property
    def moved_by_step(self) -> tuple[int, ...]:
        """The same for each step that began."""
        moved = Counter()
        for event in self.events:
            moved[event.step] += event.moved_in + event.moved_out
        return tuple(moved.values())

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
    bandwidth: float | None = None,
    page_size: int = PAGE,
    pager: type[UnifiedMemory] = UnifiedMemory,
    **options: Any,
) -> Run:
    """A training run of one step for each length, on a GPU whose optimizer states may be paged.

    model, method, options: as in `memory.estimate`. optimizer: "paged_adamw" unless told; paging is
        on with those whose name says so, such as "paged_adamw8bit", and off with "adamw8bit".
    gpu: a name of `memory.GPUS` or a card's bytes, CUDA's own included. lengths: tokens of a text,
        the sequence_length of each step. With accumulation a step here is one micro-batch and an
        update, which a real run has only once in so many micro-batches.
    bandwidth: in B/s; unless told that of the GPU's own bus (`PCIE`), of PCIe 3 for plain bytes.
    page_size: in B. pager: the rule of eviction, `UnifiedMemory` or a subclass.
    The run stops where memory runs out: where what can't move alone is more than the GPU has, or
    leaves no room for a single page at the update.
    Raises ValueError for options that can't be right, no lengths, and more than one GPU.
    """
    memory = pager(usable_bytes(gpu), page_size)
    if not isinstance(lengths, Iterable) or not lengths or "sequence_length" in options:
        raise ValueError("lengths gives the sequence_length of each step, and of at least one")
    lengths = tuple(positive("a length", length) for length in lengths)
    if bandwidth is None:
        bandwidth = pcie_x16(PCIE.get(gpu, 3))
    if not isinstance(bandwidth, Real) or not bandwidth > 0:
        raise ValueError(f"bandwidth must be a number above 0 B/s, got {bandwidth!r}")
    found = _estimate(model, method, options | {"sequence_length": max(lengths)})
    steps = [_moments(found, length, first_step=n == 0) for n, length in enumerate(lengths)]
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


def longest_text(
    gpu: str | int, model: Any, method: str, *, page_size: int = PAGE, **options: Any
) -> int:
    """The most tokens a text may have for `simulate` to go on; 0 if not even one fits.

    gpu, model, method, page_size, options: as in `simulate`.
    What can't move has to fit at every moment, and at the update one page beside it.
    Raises ValueError as `simulate` does.
    """
    room = usable_bytes(gpu)
    found = _estimate(model, method, options | {"sequence_length": 1})
    page = min(positive("page_size", page_size), max(_paged_states(found), default=0))

    def fits(tokens: int) -> bool:
        fixed = [moment.total - moment.paged for moment in _moments(found, tokens)]
        return max(*fixed, fixed[-1] + page) <= room  # the update is the last

    return largest_number(fits, found.shape.positions or MOST)


def _moments(found: Estimate, length: int, first_step: bool = False) -> tuple[Moment, ...]:
    """A step of the estimate's settings on texts of `length` tokens."""
    settings = asdict(replace(found.settings, sequence_length=length))
    return timeline(found.shape, first_step=first_step, **settings)


def _update(memory: UnifiedMemory, found: Estimate, step: int) -> None:
    """Tensor by tensor, as bitsandbytes does it; the first update makes the states."""
    if step == 1:
        pages = (page for size in _paged_states(found) for page in memory.allocate(size))
    else:
        pages = range(len(memory))
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
