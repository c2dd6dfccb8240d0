"""Give PyTorch as many threads as there are cores that no other program keeps busy.

PyTorch splits each operation among threads, one for each core, and waits until the last thread has
finished. When another program keeps a core busy, one of these threads shares that core with the
program. The other threads wait for this thread, thousands of times a second. On two cores, while
another program kept one core busy, training reached 10% of its full speed with two threads, and 60%
with a single thread (measured in docs/performance.md, section "Beside a busy program").

    other programs keep busy      threads, on 2 cores      threads, on 8 cores
    no core                       2                        8
    1 core                        1                        7
    3 cores                       1                        5

`import course_utils` starts a background thread that measures the busy cores four times a second.
The background thread changes nothing if the user has chosen the number of threads, with the
variable OMP_NUM_THREADS or MKL_NUM_THREADS, or by calling `torch.set_num_threads`. The
maximum number of threads is PyTorch's default, or a number that the user has set before the import.

Set the number of threads yourself if two runs have to agree to the last bit. The number of threads
decides in which order the numbers of a sum are added, and so how the sum is rounded. To make a
single result reproducible, use `one_thread`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

# The environment variables that set the number of threads.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# The seconds between two samples, and the number of samples that are averaged.
INTERVAL, AVERAGED = 0.25, 4
# psutil's names for the kinds of time in which a core is not idle.
BUSY = ("user", "nice", "system", "irq", "softirq")
# The share of a core that other programs may use before PyTorch gets one thread fewer.
TOLERATED = 0.4


class Sample(NamedTuple):
    """The CPU time that programs have used up to a moment, in seconds.

    Attributes:
        moment: the moment, in seconds of `time.monotonic`.
        total: CPU time of all programs together.
        own: CPU time of this process.
    """

    moment: float
    total: float
    own: float


def share_cores() -> threading.Thread | None:
    """Start to adapt the number of PyTorch's threads to the number of free cores.

    Returns:
        The background thread that adapts this number. None if an environment variable in VARIABLES
        is set, or if the thread can't be started.
    """
    if set_by_variable():
        return None
    # An error means that this system can't start another thread.
    with suppress(RuntimeError, MemoryError):
        _running.append(_Sharing())
        _running[-1].start()
        return _running[-1]
    return None


# This list keeps the thread objects in memory, because Python may still call their method `_change`
# after a thread has ended.
_running: list[_Sharing] = []


def set_by_variable() -> bool:
    """Return whether an environment variable in VARIABLES sets the number of threads."""
    return any(os.environ.get(name) for name in VARIABLES)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread in the with block, so that busy cores don't change the bits of a result."""
    import torch

    # This line is executed before the number of threads is read, so that `share_cores` can't change
    # the number in between.
    _fixed.append(True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
        _fixed.pop()


# The list has one item for each active `one_thread` block.
_fixed: list[bool] = []


def threads_for(cores: int, others: float) -> int:
    """Compute the number of threads to use.

    Args:
        cores: the number of cores.
        others: the average number of cores that other programs keep busy.

    Returns:
        The number of threads, at least 1.
    """
    return max(1, cores - int(others + 1 - TOLERATED))


def used_by_others(before: Sample, now: Sample) -> float:
    """Return the average number of cores that other programs kept busy between two samples."""
    total, own = now.total - before.total, now.own - before.own
    return max(0.0, total - own) / (now.moment - before.moment)


def sample() -> Sample:
    """Measure the CPU time that programs have used on the cores that this process may use."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    busy = sum(getattr(times[core], kind, 0.0) for core in _cores() for kind in BUSY)
    return Sample(time.monotonic(), busy, time.process_time())


def _imported(name: str) -> bool:
    """Return whether the import of a module is complete."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _cores() -> Collection[int]:
    """Return the IDs of the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else range(os.cpu_count() or 1)


class _Sharing(threading.Thread):
    """A background thread that adapts the number of PyTorch's threads to the free cores."""

    def __init__(self) -> None:
        super().__init__(name="share-cores", daemon=True)
        # The default number of threads, and the number that was set last. 0 means that the number
        # is unknown. Only `_change` can read these numbers, because it runs in the main thread.
        self._default = self._current = 0
        self._wanted = 0
        self._chosen = False
        # OpenMP stores the number separately for each Python thread, so the main thread has to set
        # its own number. Python calls `_change` in the main thread, between two instructions.
        self._in_main_thread = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._change)

    def run(self) -> None:
        """Adapt the number of threads after PyTorch is imported, until the user sets the number."""
        while not _imported("torch"):
            time.sleep(INTERVAL)
        self._record_user_calls(sys.modules["torch"])
        # An error means that this system doesn't measure CPU time.
        with suppress(ImportError, LookupError, OSError):
            self._watch()

    def _record_user_calls(self, torch: Any) -> None:
        """Replace `torch.set_num_threads` by a function that also records the user's call.

        A comparison of numbers would miss a user who chooses the current number.
        """
        self._set = original = torch.set_num_threads

        @functools.wraps(original)
        def set_num_threads(number: int) -> None:
            original(number)
            self._chosen = self._chosen or not _fixed

        torch.set_num_threads = set_num_threads

    def _watch(self) -> None:
        from course_utils.runtime import usable_cores

        allowed, samples = usable_cores(), deque([sample()], maxlen=AVERAGED + 1)
        while not self._chosen:
            time.sleep(INTERVAL)
            samples.append(sample())
            free = threads_for(len(_cores()), used_by_others(samples[0], samples[-1]))
            # A container may allow fewer cores than are free on its host.
            wanted = min(allowed, free)
            if wanted != self._wanted:
                self._wanted = wanted
                ctypes.pythonapi.Py_AddPendingCall(self._in_main_thread, None)

    def _change(self, _: object) -> int:
        """Set the number of threads, unless the user has set the number."""
        if _fixed or not self._wanted:
            # If `_wanted` is 0, the next sample schedules this call again.
            self._wanted = 0
            return 0
        found = sys.modules["torch"].get_num_threads()
        self._default = self._default or found
        if found != (self._current or self._default) or found > len(_cores()):
            self._chosen = True
        if not self._chosen:
            self._current = min(self._wanted, self._default)
            self._set(self._current)
        return 0
