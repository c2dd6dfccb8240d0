"""Gives PyTorch as many threads as there are cores that other programs leave free.

PyTorch splits each operation among threads, one for each core, and waits until the last thread is
done. When another program keeps a core busy, one of these threads has to share that core with it.
The other threads wait for that thread, thousands of times a second. So two threads on two cores
become many times slower than a single thread that has a core to itself.

    other programs keep busy      threads, on 2 cores      threads, on 8 cores
    no core                       2                        8
    1 core                        1                        7
    3 cores                       1                        5

`import course_utils` starts a thread that measures this four times a second. It changes nothing if
somebody has chosen the number of threads, with the variable OMP_NUM_THREADS or MKL_NUM_THREADS, or
by calling `torch.set_num_threads`. A number that was set before `import course_utils`, as well as
PyTorch's own default, is the most that is used.

Set the number of threads yourself if two runs have to agree to the last bit, because it decides in
which order a sum is added up, and so how the sum is rounded. To make a single result
reproducible, use `one_thread`.

docs/performance.md, section "Beside a busy program", has the measurements.
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
CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# The seconds between two samples, and how many samples are averaged.
INTERVAL, LOOKS = 0.25, 4
# psutil's names for the kinds of time in which a core is not idle.
BUSY = ("user", "nice", "system", "irq", "softirq")
# The share of a core that other programs may use before PyTorch gets one thread fewer.
SHARED = 0.4


class Sample(NamedTuple):
    """CPU time that programs have used up to a moment, in seconds.

    Attributes:
        moment: the moment, in seconds of `time.monotonic`.
        everybody: CPU time of all programs together.
        ours: CPU time of this program.
    """

    moment: float
    everybody: float
    ours: float


def share_cores() -> threading.Thread | None:
    """Start to adapt the number of PyTorch's threads to the number of free cores.

    Returns:
        The background thread that adapts it, or None if an environment variable in CHOICES is set.
    """
    if set_by_variable():
        return None
    # An error means that this system starts no more threads.
    with suppress(RuntimeError, MemoryError):
        _running.append(_Sharing())
        _running[-1].start()
        return _running[-1]
    return None


# Kept, because Python may call a method of it at any time.
_running: list[_Sharing] = []


def set_by_variable() -> bool:
    """Whether an environment variable in CHOICES sets the number of threads."""
    return any(os.environ.get(name) for name in CHOICES)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that equal inputs give equal bits on a busy machine too."""
    import torch

    # This comes before the number is read, so that nothing changes the number afterwards.
    _fixed.append(True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
        _fixed.pop()


# Has an item for each `one_thread` that is active.
_fixed: list[bool] = []


def threads_for(cores: int, others: float) -> int:
    """Work out the number of threads to use.

    Args:
        cores: the number of cores.
        others: how many of them other programs keep busy, on average.

    Returns:
        The number of threads, at least 1.
    """
    return max(1, cores - int(others + 1 - SHARED))


def used_by_others(before: Sample, now: Sample) -> float:
    """How many cores other programs kept busy between two samples, on average."""
    everybody, ours = now.everybody - before.everybody, now.ours - before.ours
    return max(0.0, everybody - ours) / (now.moment - before.moment)


def sample() -> Sample:
    """Measure the CPU time that programs have used on the cores that this process may use."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    busy = sum(getattr(times[core], kind, 0.0) for core in _cores() for kind in BUSY)
    return Sample(time.monotonic(), busy, time.process_time())


def _imported(name: str) -> bool:
    """Whether the import of a module is complete."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _cores() -> Collection[int]:
    """The IDs of the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else range(os.cpu_count() or 1)


class _Sharing(threading.Thread):
    """Measures how many cores other programs use, and adapts the number of PyTorch's threads."""

    def __init__(self) -> None:
        super().__init__(name="share-cores", daemon=True)
        # Unknown until the main thread has been asked.
        self._default = self._current = 0
        self._wanted = 0
        self._chosen = False
        # OpenMP keeps this number for each thread separately, so the main thread has to set its
        # own. Python calls `_change` in the main thread, between two instructions.
        self._in_main_thread = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._change)

    def run(self) -> None:
        """Wait for the import of PyTorch, then adapt its threads until somebody sets the number."""
        while not _imported("torch"):
            time.sleep(INTERVAL)
        self._notice_choices(sys.modules["torch"])
        # An error means that this system doesn't measure CPU time.
        with suppress(ImportError, LookupError, OSError):
            self._watch()

    def _notice_choices(self, torch: Any) -> None:
        """Replace `torch.set_num_threads` by a function that also notes that it was called.

        The number alone doesn't tell: somebody may choose the current number.
        """
        self._set = original = torch.set_num_threads

        @functools.wraps(original)
        def set_num_threads(number: int) -> None:
            original(number)
            self._chosen = self._chosen or not _fixed

        torch.set_num_threads = set_num_threads

    def _watch(self) -> None:
        from course_utils.runtime import usable_cores

        allowed, samples = usable_cores(), deque([sample()], maxlen=LOOKS + 1)
        while not self._chosen:
            time.sleep(INTERVAL)
            samples.append(sample())
            free = threads_for(len(_cores()), used_by_others(samples[0], samples[-1]))
            # A container may allow less than its host has free.
            wanted = min(allowed, free)
            if wanted != self._wanted:
                self._wanted = wanted
                ctypes.pythonapi.Py_AddPendingCall(self._in_main_thread, None)

    def _change(self, _: object) -> int:
        """Set the number of threads, unless somebody else has set one."""
        if _fixed or not self._wanted:
            # The next sample then schedules this call again.
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
