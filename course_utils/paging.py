"""Paged optimizer states: a GPU with a budget, and pages that move to CPU memory and back.

            GPU, a budget in bytes                      CPU memory
    ┌──────────────────┬──────────────────┐  evict   ┌─────────────┐
    │ what can't move: │ pages of         │ ───────► │ the other   │
    │ weights … spikes │ optimizer states │ ◄─────── │ pages       │
    └──────────────────┴──────────────────┘  touch   └─────────────┘

Only the update needs the optimizer states. Unified memory stores them in pages. When the rest of a
step needs their place on the GPU, the least recently used pages move to CPU memory, and they move
back when the update touches them. `simulate` computes a run from the bytes of `memory.timeline`,
with numbers only and without a GPU.

The simulation is simpler than a GPU in two ways. Freed memory is free at once, whereas PyTorch's
caching allocator keeps it (pages then can't use it until `torch.cuda.empty_cache`). The time of a
move is its bytes divided by the nominal bandwidth, and nothing else happens in the meantime.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), sections 1 and 3; bitsandbytes,
optim/optimizer.py: `Optimizer8bit.get_state_buffer` pages tensors of at least 100,000 elements.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from course_utils.units import MiB
from course_utils.validation import positive

if TYPE_CHECKING:
    from course_utils.memory import Moment, Plan

# Functions import `course_utils.memory` when they run, so that this module can be imported while an
# assignment withholds the calculator.

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

# The largest piece that CUDA's unified memory moves at once.
PAGE = 2 * MiB
# The group of paged optimizer states, beside the groups of `memory.GROUPS`.
PAGES = "pages"

# The PCIe generation of each of `memory.GPUS`, with 16 lanes (NVIDIA's data sheets).
PCIE = {"T4": 3, "RTX 4090": 4, "A100-40": 4, "A100-80": 4, "H100": 5}


def pcie_x16(generation: int) -> float:
    """Return the nominal bandwidth of 16 lanes of PCIe in each direction, in B/s.

    A lane of PCIe 3 transfers 8 GT/s, and each later generation twice as many; 128 of 130 bits are
    data (PCI-SIG, PCI Express base specification).

    Args:
        generation: 3, 4 or 5.

    Raises:
        ValueError: It is another generation.
    """
    if generation not in (3, 4, 5):
        raise ValueError(f"the generation of PCIe must be 3, 4 or 5, got {generation!r}")
    return 16 * 8e9 * 2 ** (generation - 3) * 128 / 130 / 8


# --- which states page ----------------------------------------------------------------------------


@dataclass(frozen=True)
class StateTensor:
    """A kind of trainable tensor, and the states that an optimizer keeps of it.

    Attributes:
        name: What these tensors are, such as "q_proj.lora_A".
        elements: Numbers in one of them.
        count: How many tensors of this kind the model has.
        size: Bytes (B) of the states of all of them.
        paged: Bytes of these states that may move to CPU memory.
    """

    name: str
    elements: int
    count: int
    size: int
    paged: int


def paged_tensors(model: Any, method: str, **options: Any) -> list[StateTensor]:
    """List the optimizer states of each kind of trainable tensor, and which of them page.

    The sum of their `paged` is the estimate's `paged`. Adapters of rank 8 on LLaMA-7B never page:
    the largest has 88,064 elements, and bitsandbytes pages from 100,000 on.

    Args:
        model: As in `memory.estimate`.
        method: As in `memory.estimate`.
        options: As in `memory.estimate`; `optimizer` defaults to "paged_adamw".

    Raises:
        ValueError: As in `memory.estimate`, and for more than one GPU.
    """
    from course_utils import memory

    plan = _plan(model, method, options)
    settings, states = plan.settings, memory.OPTIMIZERS[plan.settings.optimizer].states
    return [
        StateTensor(
            tensor.name,
            tensor.elements,
            tensor.count,
            size=states * tensor.count * memory.state_bytes(tensor.elements, settings),
            paged=states * tensor.count * memory.paged_bytes(tensor.elements, settings),
        )
        for tensor in plan.trainable
    ]


def _plan(model: Any, method: str, options: Mapping[str, Any]) -> Plan:
    from course_utils.memory import Plan

    plan = Plan.of(model, method, {"optimizer": "paged_adamw", **options})
    if plan.settings.gpus > 1:
        raise ValueError(f"paging is worked out for one GPU, not for {plan.settings.gpus}")
    return plan


def _paged_states(plan: Plan) -> Iterator[int]:
    """Yield the bytes of each paged state, in the order in which the update touches them."""
    from course_utils import memory

    states = memory.OPTIMIZERS[plan.settings.optimizer].states
    for in_layers, kinds in groupby(plan.trainable, lambda kind: kind.in_layers):
        group, rounds = list(kinds), plan.shape.layers if in_layers else 1
        for kind in group * rounds:
            if size := memory.paged_bytes(kind.elements, plan.settings):
                yield from [size] * (states * kind.count // rounds)


# --- the pager ------------------------------------------------------------------------------------


class OutOfMemory(Exception):
    """The GPU has too little memory even with all pages in CPU memory.

    All pages are in CPU memory then, with their contents; what can't move is unchanged.

    Attributes:
        asked: Bytes (B) that the GPU would have to hold.
    """

    def __init__(self, asked: int, budget: int):
        super().__init__(f"out of memory: {asked:,} B are asked for, the budget is {budget:,} B")
        self.asked = asked


@dataclass
class Page:
    """A page of optimizer states.

    Attributes:
        size: Its bytes.
        value: One number in place of the page's contents, so that a lost or stale page shows.
    """

    size: int
    value: float = 0.0


@dataclass
class UnifiedMemory:
    """A GPU of `budget` bytes whose pages may move to CPU memory, which has room for all of them.

    To change the rule of eviction, write a subclass with its own `victim`.

    Attributes:
        budget: Bytes (B) of the GPU.
        page_size: Bytes of a page.
        fixed: Bytes on the GPU that can't move.
        moved_in: Bytes moved to the GPU so far.
        moved_out: Bytes moved away from the GPU so far.
        on_gpu: Number → page, the least recently used first.
        in_cpu: Number → page, for the pages in CPU memory.
        paged: Bytes of the pages on the GPU.

    Raises:
        ValueError: The bytes are not a whole number of at least 0, or the page size is below 1.
    """

    budget: int
    page_size: int = PAGE
    fixed: int = 0
    moved_in: int = 0
    moved_out: int = 0
    on_gpu: OrderedDict[int, Page] = field(default_factory=OrderedDict)
    in_cpu: dict[int, Page] = field(default_factory=dict)
    paged: int = 0

    def __post_init__(self) -> None:
        positive("page_size", self.page_size)
        _whole("budget", self.budget)

    def __len__(self) -> int:
        """How many pages there are, wherever they are."""
        return len(self.on_gpu) + len(self.in_cpu)

    @property
    def used(self) -> int:
        """Bytes in use on the GPU."""
        return self.fixed + self.paged

    @property
    def away(self) -> int:
        """Bytes of the pages in CPU memory: they moved out and have not moved back in."""
        return self.moved_out - self.moved_in

    def hold(self, fixed: int) -> None:
        """Set the bytes that can't move, and evict pages until there is room for them.

        Raises:
            OutOfMemory: There are too many even with all pages in CPU memory.
        """
        _whole("fixed", fixed)
        self.make_room(fixed - self.fixed)
        self.fixed = fixed

    def allocate(self, size: int) -> list[int]:
        """Make pages for a new tensor, filled with zeros, on the GPU.

        Returns:
            The numbers of the pages.

        Raises:
            OutOfMemory: Not even one of them fits beside what can't move; no page is made then.
        """
        numbers = []
        for start in range(0, _whole("size", size), self.page_size):
            numbers.append(len(self))
            self.place(len(self), Page(min(self.page_size, size - start)))
        return numbers

    def touch(self, number: int) -> Page:
        """Return a page, on the GPU and now the most recently used one.

        Raises:
            OutOfMemory: The page doesn't fit the GPU beside what can't move.
            ValueError: No page has this number.
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
        """Put a page that is not on the GPU there."""
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
        """Choose the page to evict: the least recently used one."""
        return next(iter(self.on_gpu))

    def evict(self, number: int) -> None:
        """Move a page to CPU memory."""
        page = self.in_cpu[number] = self.on_gpu.pop(number)
        self.paged -= page.size
        self.moved_out += page.size

    def values(self) -> tuple[float, ...]:
        """Return the contents of each page by number, wherever the page is."""
        pages = self.in_cpu | self.on_gpu
        return tuple(pages[number].value for number in sorted(pages))


def _whole(name: str, size: Any) -> int:
    """Return `size` if it is a whole number of bytes; else raise ValueError with its name."""
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 0:
        raise ValueError(f"{name} must be a whole number of at least 0 B, got {size!r}")
    return int(size)


# --- a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One moment of a run, in bytes (B).

    Attributes:
        step: Number of the step, from 1 on.
        name: The moment, such as "the loss".
        gpu: Group → bytes on the GPU, with the groups of `memory.GROUPS` and PAGES. The group
            "optimizer" has only the states that can't move.
        cpu: Bytes of the pages in CPU memory.
        moved_in: Bytes of pages moved to the GPU since the moment before.
        moved_out: Bytes of pages moved away from the GPU since then.
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
    """What happened in a simulated run.

    Attributes:
        model: Name of the model.
        method: How it was fine-tuned.
        gpu: Name of the GPU.
        lengths: Tokens of a text in each step.
        moments_per_step: Number of moments in each step.
        budget: Bytes of the GPU for tensors.
        bandwidth: Of the bus between GPU and CPU memory, in B/s.
        events: The moments in order, until the run ended.
        out_of_memory: The moment at which memory ran out, with what was asked for and all pages in
            CPU memory; None if it didn't run out. It is not among the events.
        state: The contents of each page at the end.
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
        """Bytes moved both ways in each step that began."""
        moved: Counter[int] = Counter()
        for event in self.events:
            moved[event.step] += event.moved_in + event.moved_out
        return tuple(moved.values())

    @property
    def seconds(self) -> float:
        """Time of the moves at the nominal bandwidth, one after another, in seconds."""
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
    """Simulate a run of one step for each length, on a GPU whose optimizer states may page.

    The run stops where memory runs out: where what can't move alone exceeds the GPU, or leaves no
    room for a single page at the update. With accumulation each step here is one micro-batch and an
    update, whereas a real run updates only once in so many micro-batches.

    Args:
        model: As in `memory.estimate`.
        method: As in `memory.estimate`.
        gpu: A name of `memory.GPUS`, or the card's bytes, with those that CUDA needs.
        lengths: Tokens of a text, the sequence_length of each step.
        bandwidth: In B/s; by default that of the named GPU's bus (see `PCIE`), or of PCIe 3 if
            `gpu` is a number of bytes.
        page_size: In B.
        pager: The rule of eviction, `UnifiedMemory` or a subclass.
        options: As in `memory.estimate`; `optimizer` defaults to "paged_adamw". States page if its
            name starts with "paged".

    Raises:
        ValueError: An option can't be right, there are no lengths, or there is more than one GPU.
    """
    from course_utils import memory

    unified = pager(memory.usable_bytes(gpu), page_size)
    if not isinstance(lengths, Iterable) or not lengths or "sequence_length" in options:
        raise ValueError("lengths gives the sequence_length of each step, and of at least one")
    lengths = tuple(positive("a length", length) for length in lengths)
    where = gpu if isinstance(gpu, str) else "the GPU"
    if bandwidth is None:
        bandwidth = pcie_x16(PCIE.get(where, 3))
    if not isinstance(bandwidth, Real) or not bandwidth > 0:
        raise ValueError(f"bandwidth must be a number above 0 B/s, got {bandwidth!r}")
    plan = _plan(model, method, options | {"sequence_length": max(lengths)})
    steps = [_moments(plan, length, first_step=n == 0) for n, length in enumerate(lengths)]
    events, out_of_memory = _play(steps, plan, unified)
    return Run(
        model=plan.shape.name,
        method=method,
        gpu=where,
        lengths=lengths,
        moments_per_step=len(steps[0]),
        budget=unified.budget,
        bandwidth=bandwidth,
        events=tuple(events),
        out_of_memory=out_of_memory,
        state=unified.values(),
    )


def _play(
    steps: Sequence[Sequence[Moment]], plan: Plan, unified: UnifiedMemory
) -> tuple[list[Event], Event | None]:
    """Go through the moments until the end, or until memory runs out."""
    from course_utils.memory import UPDATE

    events: list[Event] = []
    for step, moments in enumerate(steps, 1):
        for moment in moments:
            before = unified.moved_in, unified.moved_out
            try:
                unified.hold(moment.fixed)
                if moment.name == UPDATE:
                    _update(unified, plan, step)
            except OutOfMemory as error:
                return events, _event(step, moment, unified, error.asked - moment.fixed, before)
            events.append(_event(step, moment, unified, unified.paged, before))
    return events, None


def longest_text(
    gpu: str | int, model: Any, method: str, *, page_size: int = PAGE, **options: Any
) -> int:
    """Find the most tokens that a text may have without memory running out in `simulate`.

    What can't move has to fit at every moment, and at the update one page beside it.

    Args:
        gpu: As in `simulate`.
        model: As in `simulate`.
        method: As in `simulate`.
        page_size: As in `simulate`.
        options: As in `simulate`.

    Returns:
        The number of tokens, 0 if not even one fits.

    Raises:
        ValueError: As in `simulate`.
    """
    from course_utils import memory

    budget = memory.usable_bytes(gpu)
    plan = _plan(model, method, options | {"sequence_length": 1})
    page = min(positive("page_size", page_size), max(_paged_states(plan), default=0))

    def fits(tokens: int) -> bool:
        fixed = [moment.fixed for moment in _moments(plan, tokens)]
        # The last moment is the update.
        return max(*fixed, fixed[-1] + page) <= budget

    return memory.largest_number(fits, plan.shape.positions or memory.MOST)


def _moments(plan: Plan, length: int, first_step: bool = False) -> tuple[Moment, ...]:
    """List the moments of a step on texts of `length` tokens."""
    from course_utils.memory import timeline

    settings = asdict(replace(plan.settings, sequence_length=length))
    return timeline(plan.shape, first_step=first_step, **settings)


def _update(unified: UnifiedMemory, plan: Plan, step: int) -> None:
    """Update tensor by tensor, as bitsandbytes does; the first update makes the states."""
    numbers: Iterable[int] = range(len(unified))
    if step == 1:
        numbers = (page for size in _paged_states(plan) for page in unified.allocate(size))
    for number in numbers:
        page = unified.touch(number)
        # A moving average, like Adam's moments.
        page.value = 0.9 * page.value + 0.1 * step * (number + 1)


def _event(
    step: int, moment: Moment, unified: UnifiedMemory, pages: int, before: tuple[int, int]
) -> Event:
    gpu = moment.groups | {PAGES: pages}
    gpu["optimizer"] -= moment.paged
    moved = unified.moved_in - before[0], unified.moved_out - before[1]
    return Event(step, moment.name, gpu, unified.away, *moved)
