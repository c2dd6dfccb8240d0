"""Simulate paged optimizer states, which move between a GPU and CPU memory.

            GPU, a budget in bytes                      CPU memory
    ┌──────────────────┬──────────────────┐  evict   ┌─────────────┐
    │ what can't move: │ pages of         │ ───────► │ the other   │
    │ weights … spikes │ optimizer states │ ◄─────── │ pages       │
    └──────────────────┴──────────────────┘  touch   └─────────────┘

Only the update needs the optimizer states. When other tensors need the memory, the least recently
used pages move to CPU memory; a page moves back when the update reads or writes it.

The simulation is simpler than a GPU. CUDA's driver evicts the block that became resident first,
because it doesn't see which memory a kernel reads (NVIDIA/open-gpu-kernel-modules, uvm_pmm_gpu.c).
bitsandbytes prefetches each state before its update (`prefetch_state`). Here, a move's time is its
bytes divided by the nominal bandwidth; page faults take no time.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), sections 1 and 3; bitsandbytes,
optim/optimizer.py: `Optimizer8bit.get_state_buffer` pages tensors of at least 100,000 elements.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from numbers import Real
from typing import TYPE_CHECKING, Any

from course_utils import memory
from course_utils.machine.units import MiB
from course_utils.machine.validation import positive, whole_number
from course_utils.memory import DTYPE_BYTES, GPU, Plan, timeline
from course_utils.memory.step import Step

if TYPE_CHECKING:
    from course_utils.memory import StepPhase
    from course_utils.memory.step import PhaseKind

# The bytes that CUDA's driver evicts together, here called a page. The CPU's pages have 4 KiB.
PAGE = 2 * MiB
# Two groups that `memory.GROUPS` does not contain: paged optimizer states, and freed memory that
# PyTorch's allocator keeps.
PAGES, KEPT = "pages", "freed, but kept"


def pcie_x16(generation: int) -> float:
    """Return the nominal bandwidth of 16 lanes of PCIe 3, 4 or 5 in each direction, in B/s.

    A lane of PCIe 3 transfers 8 · 10⁹ bits per second, and each later generation twice as many. Of
    every 130 bits, 128 are data (PCI-SIG, PCI Express base specification).
    """
    if generation not in (3, 4, 5):
        raise ValueError(f"the generation of PCIe must be 3, 4 or 5, got {generation!r}")
    return 16 * 8e9 * 2 ** (generation - 3) * 128 / 130 / 8


def arithmetic_seconds(gpu: str, model: Any, method: str, **options: Any) -> float:
    """Return the least time that a GPU needs for the matrix products of a training step, in s.

    A pass through the model needs 2 operations for each parameter and token (Kaplan et al. 2020,
    arXiv 2001.08361, section 2.1). A step consists of the forward pass, its recomputation if
    gradient checkpointing is on, and the pass that computes the gradients of all inputs. If the
    weights are trained, another pass computes the gradients of the weights. The result is a lower
    bound: the GPU of `memory.GPUS` reaches its nominal speed, and nothing else takes time. The
    other arguments are those of `memory.estimate`.
    """
    known = GPU.of(gpu)
    plan = Plan.of(model, method, options)
    settings = plan.settings
    each = DTYPE_BYTES[settings.compute_dtype]
    if settings.trains_weights:
        each = settings.precision.value
    if each not in known.flops:
        raise ValueError(
            f"the speed of {gpu} with numbers of {each} B is unknown: add it to the table GPUS in "
            "course_utils/memory/gpus.py"
        )
    passes = 2 + bool(settings.gradient_checkpointing) + settings.trains_weights
    return 2 * passes * plan.shape.parameters * settings.tokens / known.flops[each]


# --- the optimizer states that may move to CPU memory ---------------------------------------------


@dataclass(frozen=True)
class StateTensor:
    """A kind of trainable tensor, as in `memory.Trainable`, with its optimizer states in bytes.

    Attributes:
        size: Bytes (B) of the optimizer states of all tensors of this kind.
        paged: Bytes of these states that may move to CPU memory.
    """

    name: str
    elements: int
    count: int
    size: int
    paged: int


def paged_tensors(model: Any, method: str, **options: Any) -> list[StateTensor]:
    """Return the optimizer states of each kind of trainable tensor, and their paged bytes.

    The sum of `paged` equals the `paged` of `memory.estimate`, which has the same arguments;
    `optimizer` defaults to "paged_adamw". For example, the states of adapters of rank 8 on LLaMA-7B
    never move: the largest tensor has 88,064 elements, and bitsandbytes pages only tensors of at
    least 100,000.
    """
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
    plan = Plan.of(model, method, {"optimizer": "paged_adamw", **options})
    if plan.settings.gpus > 1:
        raise ValueError(f"paging is simulated for one GPU only, got gpus={plan.settings.gpus}")
    return plan


def _paged_states(plan: Plan) -> Iterator[int]:
    """Yield the bytes of each paged state, in the order in which the update changes the states."""
    states = memory.OPTIMIZERS[plan.settings.optimizer].states
    for in_layers, kinds in groupby(plan.trainable, lambda kind: kind.in_layers):
        group, repeats = list(kinds), plan.shape.layers if in_layers else 1
        for kind in group * repeats:
            if size := memory.paged_bytes(kind.elements, plan.settings):
                yield from [size] * (states * kind.count // repeats)


# --- the pager ------------------------------------------------------------------------------------


class OutOfMemory(Exception):
    """The GPU has too little memory for `needed` bytes, even with all pages in CPU memory.

    All pages are then in CPU memory with their contents, and the bytes that can't move are as
    before.
    """

    def __init__(self, needed: int, budget: int):
        super().__init__(f"out of memory: {needed:,} B are needed, but the budget is {budget:,} B")
        self.needed = needed


@dataclass
class Page:
    """A page of optimizer states: its size in bytes, and a number in place of its contents."""

    size: int
    value: float = 0.0


@dataclass
class UnifiedMemory:
    """A GPU with `budget` bytes of memory, and pages that may move to CPU memory.

    CPU memory has room for all pages. To change which page is evicted, write a subclass with
    another `victim` method.

    Attributes:
        budget: Memory of the GPU in bytes (B).
        page_size: Size of a page in bytes. The last page of a tensor may be smaller.
        fixed: Bytes on the GPU that can't move.
        moved_in: Total bytes moved to the GPU so far, and `moved_out` from it.
        on_gpu: The pages on the GPU by their numbers, the least recently used page first.
        in_cpu: The pages in CPU memory by their numbers.
        paged: Total bytes of the pages on the GPU.
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
        whole_number("budget", self.budget, least=0)

    def __len__(self) -> int:
        return len(self.on_gpu) + len(self.in_cpu)

    @property
    def used(self) -> int:
        """The bytes in use on the GPU."""
        return self.fixed + self.paged

    @property
    def bytes_in_cpu(self) -> int:
        """The bytes of the pages in CPU memory, which have not moved back to the GPU."""
        return self.moved_out - self.moved_in

    def hold(self, fixed: int) -> None:
        """Set how many bytes can't move; evict pages until they fit, or raise `OutOfMemory`."""
        whole_number("fixed", fixed, least=0)
        self.make_room(fixed - self.fixed)
        self.fixed = fixed

    def allocate(self, size: int) -> list[int]:
        """Create the pages of a new tensor on the GPU, filled with zeros; return their numbers.

        If not even one page fits, no page is created, and `OutOfMemory` is raised.
        """
        numbers = []
        for start in range(0, whole_number("size", size, least=0), self.page_size):
            numbers.append(len(self))
            self.place(len(self), Page(min(self.page_size, size - start)))
        return numbers

    def touch(self, number: int) -> Page:
        """Return a page, moved to the GPU if necessary, and mark it as most recently used.

        `OutOfMemory` is raised if it doesn't fit beside the bytes that can't move.
        """
        if number in self.on_gpu:
            self.on_gpu.move_to_end(number)
        elif number not in self.in_cpu:
            raise ValueError(
                f"no page has the number {number!r}; there are {len(self):,} pages, numbered from 0"
            )
        else:
            self.place(number, self.in_cpu[number])
            self.moved_in += self.in_cpu.pop(number).size
        return self.on_gpu[number]

    def place(self, number: int, page: Page) -> None:
        """Place a new or returning page on the GPU, and evict other pages if necessary."""
        self.make_room(page.size)
        self.on_gpu[number] = page
        self.paged += page.size

    def make_room(self, size: int) -> None:
        """Evict pages until `size` more bytes fit the GPU."""
        while self.used + size > self.budget:
            if not self.on_gpu:
                raise OutOfMemory(self.used + size, self.budget)
            self.evict(self.victim())

    def victim(self) -> int:
        """Return the number of the page to evict, which is the least recently used page."""
        return next(iter(self.on_gpu))

    def evict(self, number: int) -> None:
        """Move a page to CPU memory."""
        page = self.in_cpu[number] = self.on_gpu.pop(number)
        self.paged -= page.size
        self.moved_out += page.size

    def values(self) -> tuple[float, ...]:
        """Return the contents of all pages in the order of their numbers."""
        pages = self.in_cpu | self.on_gpu
        return tuple(pages[number].value for number in sorted(pages))


# --- a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """The memory in use in one phase of a run, in bytes (B).

    Attributes:
        step: Number of the step, from 1.
        kind: Kind of the phase, and `name` its words, as in `memory.StepPhase`.
        gpu: Bytes on the GPU for each group of `memory.GROUPS`, and for PAGES and KEPT. The group
            "optimizer" contains only the states that can't move.
        cpu: Bytes of the pages in CPU memory.
        moved_in: Bytes of pages moved to the GPU since the previous phase, `moved_out` from it.
    """

    step: int
    kind: PhaseKind
    name: str
    gpu: Mapping[str, int]
    cpu: int
    moved_in: int
    moved_out: int

    @property
    def total(self) -> int:
        """The total bytes on the GPU."""
        return sum(self.gpu.values())


@dataclass(frozen=True)
class Run:
    """The result of a simulated run.

    Attributes:
        lengths: Number of tokens per text in each step.
        budget: Bytes of the GPU that tensors can use.
        bandwidth: Bandwidth of the bus between GPU and CPU memory, in B/s.
        events: The phases of the run in order. A run that runs out of memory ends early.
        out_of_memory: The phase in which memory ran out, which is not in `events`, or None. Its
            bytes on the GPU are those that the run requested, and all pages are in CPU memory.
        state: The contents of each page at the end of the run.
    """

    model: str
    method: str
    gpu: str
    lengths: tuple[int, ...]
    phases_per_step: int
    budget: int
    bandwidth: float
    events: tuple[Event, ...]
    out_of_memory: Event | None
    state: tuple[float, ...]

    @property
    def moved(self) -> int:
        """The total bytes moved between GPU and CPU memory, in both directions together."""
        return sum(self.moved_by_step)

    @property
    def moved_by_step(self) -> tuple[int, ...]:
        """The bytes moved in both directions together, for each step that has an event."""
        moved: Counter[int] = Counter()
        for event in self.events:
            moved[event.step] += event.moved_in + event.moved_out
        return tuple(moved.values())

    @property
    def seconds_by_step(self) -> tuple[float, ...]:
        """The time of the moves in seconds, at the nominal bandwidth, for each step with an event.

        Within a phase, the bus moves bytes in both directions at the same time.
        """
        seconds: Counter[int] = Counter()
        for event in self.events:
            seconds[event.step] += max(event.moved_in, event.moved_out)
        return tuple(size / self.bandwidth for size in seconds.values())

    @property
    def seconds(self) -> float:
        """The total time of all moves, in seconds."""
        return sum(self.seconds_by_step)

    @property
    def peak(self) -> int:
        """The maximum number of bytes on the GPU over all phases in `events`."""
        return max((event.total for event in self.events), default=0)


# The lectures give these arguments as keyword arguments.
def simulate(  # noqa: PLR0913
    model: Any,
    method: str,
    *,
    gpu: str | int,
    lengths: Sequence[int],
    bandwidth: float | None = None,
    page_size: int = PAGE,
    pager: type[UnifiedMemory] = UnifiedMemory,
    keep_freed: bool = False,
    **options: Any,
) -> Run:
    """Return a simulated run on one GPU, with one training step for each length.

    Paged optimizer states may move to CPU memory and back. Memory runs out, and the run stops, when
    the bytes that can't move exceed the memory of the GPU, or leave no room for a single page at
    the update. With accumulation, each simulated step has one micro-batch and one update, whereas a
    real run updates only once per `accumulation` micro-batches.

    Args:
        gpu: A name from `memory.GPUS`, or the memory of a GPU in bytes, including the bytes that
            CUDA needs.
        lengths: The sequence_length of each step, in tokens.
        bandwidth: Bandwidth of the bus in B/s, by default that of the GPU's bus, or of PCIe 3 if
            `gpu` is a number of bytes.
        page_size: Size of a page in bytes.
        pager: The class that decides which pages are evicted, `UnifiedMemory` or a subclass.
        keep_freed: Whether the memory of freed tensors stays reserved until the end of the run, as
            by PyTorch's caching allocator. By default, pages can use freed memory at once, which is
            an idealization. Gaps between tensors, which reserve even more, are left out.
        options: As in `memory.estimate`; `optimizer` defaults to "paged_adamw". Optimizer states
            may move only if the name of the optimizer starts with "paged".
    """
    unified = pager(memory.usable_bytes(gpu), page_size)
    tokens = tuple(lengths) if isinstance(lengths, Iterable) else ()
    if not tokens or "sequence_length" in options:
        raise ValueError(
            "lengths must list the sequence_length of each step, for at least one step"
        )
    lengths = tuple(positive("a length", length) for length in tokens)
    gpu_name = gpu if isinstance(gpu, str) else "the GPU"
    if bandwidth is None:
        bandwidth = pcie_x16(_pcie(gpu))
    if not isinstance(bandwidth, Real) or not bandwidth > 0:
        raise ValueError(f"bandwidth must be a number above 0 B/s, got {bandwidth!r}")
    plan = _plan(model, method, options | {"sequence_length": max(lengths)})
    steps = [_phases(plan, length, first_step=n == 0) for n, length in enumerate(lengths)]
    events, out_of_memory = _run_steps(steps, plan, unified, keep_freed)
    return Run(
        model=plan.shape.name,
        method=method,
        gpu=gpu_name,
        lengths=lengths,
        phases_per_step=len(steps[0]),
        budget=unified.budget,
        bandwidth=bandwidth,
        events=tuple(events),
        out_of_memory=out_of_memory,
        state=unified.values(),
    )


def _pcie(gpu: str | int) -> int:
    """Return the generation of a GPU's bus, which is 3 for a GPU given by its bytes."""
    generation = GPU.of(gpu).pcie if isinstance(gpu, str) else 3
    if generation is None:
        raise ValueError(
            f"the PCIe generation of {gpu} is unknown: pass the bandwidth, or add the generation "
            "to the table GPUS in course_utils/memory/gpus.py"
        )
    return generation


def _run_steps(
    steps: Sequence[Sequence[StepPhase]], plan: Plan, unified: UnifiedMemory, keep_freed: bool
) -> tuple[list[Event], Event | None]:
    """Return the events of a run, and the phase in which memory ran out, or None."""
    events: list[Event] = []
    reserved = 0
    for step, phases in enumerate(steps, 1):
        for phase in phases:
            before = unified.moved_in, unified.moved_out
            reserved = max(phase.fixed, reserved if keep_freed else 0)
            try:
                unified.hold(reserved)
                if phase.kind == "update":
                    _update(unified, plan, step)
            except OutOfMemory as error:
                sizes = {PAGES: error.needed - reserved, KEPT: reserved - phase.fixed}
                return events, _event(step, phase, unified, sizes, before)
            sizes = {PAGES: unified.paged, KEPT: reserved - phase.fixed}
            events.append(_event(step, phase, unified, sizes, before))
    return events, None


def longest_text(
    gpu: str | int, model: Any, method: str, *, page_size: int = PAGE, **options: Any
) -> int:
    """Return the maximum number of tokens per text for which `simulate` has enough memory, or 0.

    Optimizer states are counted in every step, although they don't exist before the first update,
    so the very first step could process longer texts. It is assumed that pages can use freed memory
    immediately. The arguments are those of `simulate`.
    """
    budget = memory.usable_bytes(gpu)
    plan = _plan(model, method, options | {"sequence_length": 1})
    page = min(positive("page_size", page_size), max(_paged_states(plan), default=0))

    def fits(tokens: int) -> bool:
        settings = replace(plan.settings, sequence_length=tokens)
        fixed = [phase.fixed for phase in Step(replace(plan, settings=settings)).candidates()]
        # The last phase is the update.
        return max(*fixed, fixed[-1] + page) <= budget

    longest = plan.shape.longest(plan.settings.attention)
    return memory.largest_number(fits, longest or memory.SEARCH_LIMIT)


def _phases(plan: Plan, length: int, first_step: bool = False) -> tuple[StepPhase, ...]:
    settings = asdict(replace(plan.settings, sequence_length=length))
    return timeline(plan.shape, first_step=first_step, **settings)


def _update(unified: UnifiedMemory, plan: Plan, step: int) -> None:
    """Update all pages, tensor by tensor as in bitsandbytes; the first update creates the pages."""
    numbers: Iterable[int] = range(len(unified))
    if step == 1:
        numbers = (page for size in _paged_states(plan) for page in unified.allocate(size))
    for number in numbers:
        page = unified.touch(number)
        # The contents are a moving average, like Adam's moments.
        page.value = 0.9 * page.value + 0.1 * step * (number + 1)


def _event(
    step: int,
    phase: StepPhase,
    unified: UnifiedMemory,
    sizes: Mapping[str, int],
    before: tuple[int, int],
) -> Event:
    gpu = {**phase.groups, **sizes}
    gpu["optimizer"] -= phase.paged
    moved = unified.moved_in - before[0], unified.moved_out - before[1]
    return Event(step, phase.kind, phase.name, gpu, unified.bytes_in_cpu, *moved)
