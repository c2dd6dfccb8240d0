"""Limit the memory of a submission without a control group: a thread measures its processes.

Source: Linux's Documentation, filesystems/proc.rst.
"""

from __future__ import annotations

import contextlib
import glob
import re
import threading
import time
from pathlib import Path

import psutil

from course_utils.machine.units import format_bytes

# Seconds between two measurements.
INTERVAL = 0.1
# An exact measurement takes milliseconds, so it is made only every 10th time, and whenever the
# memory may exceed the limit.
EXACT = 10


class WatchedLimit:
    """A memory limit that a thread enforces; see `limits.enforce`.

    Linux doesn't report how much memory the processes have allocated since their start, because a
    process shares pages with a warm server and with its own forks. Two lower bounds can be
    measured: the memory of all pages that only one process uses, and the memory of all pages minus
    the memory at the start, where each page is divided among the processes that share it. The
    larger one is compared with the limit. For one process, it is exact. For several processes, it
    may be too small, by up to the memory that the first process had at its start.

    Not measured are files in a tmpfs, whose size is limited, buffers in the kernel, and shared
    memory that a process has filled and then unmapped in part. `sandbox.seccomp` refuses the calls
    that create shared memory without mapping it.

    Attributes:
        exceeded: Why the processes were killed, as a sentence without a full stop; "" if they
            weren't.
        peak: The peak of the measurements, in bytes (B).
    """

    def __init__(self, pid: int, memory: int):
        self._first, self._memory = psutil.Process(pid), memory
        self._inherited = _resident(pid)
        self.exceeded, self.peak = "", 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop measuring the processes."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        count = 0
        while self._first.is_running() and not self.exceeded:
            most = sum(map(_resident, _processes(self._first.pid)))
            if most > self._memory or count % EXACT == 0:
                self._check()
            if self._closed.wait(INTERVAL):
                return
            count += 1

    def _check(self) -> None:
        """Measure the memory exactly; if it exceeds the limit, kill the processes."""
        grown = self._grown()
        if grown > self._memory:
            # For a moment, a process that starts another program is counted twice.
            time.sleep(0.02)
            grown = min(grown, self._grown())
        self.peak = max(self.peak, grown)
        if grown > self._memory:
            self.exceeded = f"its processes used more than {format_bytes(self._memory)} of memory"
            with contextlib.suppress(psutil.NoSuchProcess):
                # With the first process of a PID namespace, the kernel kills all others.
                self._first.kill()

    def _grown(self) -> int:
        """Return the larger lower bound of the memory allocated since the start, in bytes (B)."""
        private = proportional = 0
        for pid in _processes(self._first.pid):
            if rollup := _sizes(pid, "smaps_rollup"):
                private += rollup["Private_Dirty"]
                proportional += rollup["Pss"] - rollup.get("Pss_File", 0) + rollup.get("SwapPss", 0)
            # A process can make this file unreadable for all users but root.
            else:
                proportional += _resident(pid)
        return max(private, proportional - self._inherited)


def _processes(pid: int) -> list[int]:
    """Return the pids of a process and its descendants."""
    # psutil would read the status of all processes of the machine, ten times a second.
    found = [pid]
    for each in found:
        for path in glob.glob(f"/proc/{each}/task/*/children"):
            with contextlib.suppress(OSError):
                found += map(int, Path(path).read_text().split())
    return found


def _resident(pid: int) -> int:
    """Return the memory of a process that no file on a disk backs, in bytes (B).

    Pages that the process shares with other processes are included.
    """
    sizes = _sizes(pid, "status")
    return sum(sizes.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


def _sizes(pid: int, name: str) -> dict[str, int]:
    """Return the sizes in a file of /proc by name, in bytes (B); none if the process has ended.

    A thread that has ended reports no size, even if it is the first one and others still run. So
    the file of the first thread that reports one is used.
    """
    for path in glob.glob(f"/proc/{pid}/task/*/{name}"):
        with contextlib.suppress(OSError):
            sizes = re.findall(r"^(\w+):\s+(\d+) kB$", Path(path).read_text(), re.MULTILINE)
            if sizes:
                return {key: 1024 * int(number) for key, number in sizes}
    return {}
