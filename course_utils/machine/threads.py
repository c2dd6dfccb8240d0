"""Give PyTorch as many threads as there are cores that no other program keeps busy.

PyTorch splits each operation among threads, one for each core, and waits until the last thread has
finished. When another program keeps a core busy, the thread on this core is slow, and the other
threads wait for it, thousands of times a second. Linux may even put two threads onto one core,
where the waiting thread slows down the other. On two cores beside such a program, training reached
10% of its full speed with two threads, and 60% with one (docs/performance.md).

    other programs keep busy      threads, on 2 cores      threads, on 8 cores
    no core                       2                        8
    1 core                        1                        7
    3 cores                       1                        5

Loading, training, answering, comparing and merging run in a `sharing_cores` block. Training and
answering call `adapt` between parts of their work, in the thread that computes. At most twice a
second, `adapt` measures the busy cores and sets the number of threads. The number never exceeds the
number at the start of the block, and is not changed at all if OMP_NUM_THREADS or MKL_NUM_THREADS is
set.

The number of threads decides in which order the numbers of a sum are added, and so how the sum is
rounded. If two runs have to agree to the last bit, set one of these variables, or use `one_thread`.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from course_utils.machine.runtime import core_ids, usable_cores

# The environment variables that set the number of threads.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# The busy cores are averaged over the time since the last measurement, in seconds. After a longer
# time than LONGEST, such as a pause between two cells of a notebook, they are measured for NEW.
SHORTEST, LONGEST, NEW = 0.5, 2.0, 0.1
# psutil's names for the kinds of time in which a core is not idle.
BUSY = ("user", "nice", "system", "irq", "softirq")
# The share of a core that other programs may use before PyTorch gets one thread fewer.
TOLERATED = 0.4


class Sample(NamedTuple):
    """The CPU time of all programs and of this process up to a moment, all in seconds."""

    moment: float
    total: float
    own: float


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Let `adapt` set the number of PyTorch's threads in the with block, and then restore it."""
    import torch

    if _block.most or any(os.environ.get(name) for name in VARIABLES):
        yield
        return
    before = _block.most = torch.get_num_threads()
    try:
        adapt()
        yield
    finally:
        torch.set_num_threads(before)
        _block.most = 0


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread in the with block, so that busy cores don't change the bits of a result."""
    import torch

    before, most = torch.get_num_threads(), _block.most
    _block.most = 0
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
        _block.most = most


def adapt() -> None:
    """In a `sharing_cores` block, set the number of threads to the number of free cores."""
    if _block.most <= 1:
        return
    try:
        number = min(_block.most, _free.cores())
    except (ImportError, LookupError, OSError):
        # This system doesn't measure CPU time.
        _block.most = 0
        return
    torch = sys.modules["torch"]
    if number != torch.get_num_threads():
        torch.set_num_threads(number)


def threads_for(cores: int, others: float) -> int:
    """Return the number of threads, at least 1, if other programs keep `others` cores busy."""
    return max(1, cores - int(others + 1 - TOLERATED))


def used_by_others(before: Sample, now: Sample) -> float:
    """Return the average number of cores that other programs kept busy between two samples."""
    total, own = now.total - before.total, now.own - before.own
    return max(0.0, total - own) / (now.moment - before.moment)


def sample() -> Sample:
    """Measure the CPU time that programs have used on the cores that this process may use."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    busy = sum(getattr(times[core], kind, 0.0) for core in core_ids() for kind in BUSY)
    return Sample(time.monotonic(), busy, time.process_time())


class _Block(threading.local):
    """The `sharing_cores` block of a Python thread, because OpenMP counts for each thread, too."""

    # The maximum number of PyTorch's threads in the block; 0 outside a block.
    most = 0


class _Free:
    """The number of cores that no other program keeps busy."""

    last: Sample | None = None
    number = 1

    def cores(self) -> int:
        """Return this number. It is measured again if the last measurement is old enough."""
        age = time.monotonic() - self.last.moment if self.last else math.inf
        if age >= SHORTEST:
            if self.last is None or age > LONGEST:
                self.last = sample()
                time.sleep(NEW)
            before, self.last = self.last, sample()
            free = threads_for(len(core_ids()), used_by_others(before, self.last))
            # A container may allow fewer cores than are free on its host.
            self.number = min(usable_cores(), free)
        return self.number


_block, _free = _Block(), _Free()
