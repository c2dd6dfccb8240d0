"""Limit the memory of a submission with a thread that measures its processes.

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
# A precise measurement takes milliseconds. So most measurements are quick estimates. A precise
# measurement is made only once in this many seconds, and whenever an estimate exceeds the limit.
EXACT = 1.0


class WatchedLimit:
    """A memory limit that a thread enforces; see `limits.enforce`.

    Linux doesn't report how much memory processes have allocated since their start, because they
    share pages with a warm server and with each other. So two lower bounds of this memory are
    measured, and the larger bound is compared with the limit. The first bound counts only pages
    that a single process uses. The second bound divides each page among the processes that share
    it, and subtracts the memory at the start. If the submission has only one process, the larger
    bound is exact. If it has several, the bound may be too small, by at most the memory that the
    first process had at its start.

    Three kinds of memory are not measured: files in a tmpfs, whose size is limited; the kernel's
    buffers; and shared memory that a process has filled and then partly unmapped.

    Attributes:
        exceeded: Why the processes were killed, as a sentence without a full stop; "" if they were
            not killed.
        peak: The largest measured memory, in bytes (B).
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
        due = 0.0
        while self._first.is_running() and not self.exceeded:
            most = sum(map(_resident, _processes(self._first.pid)))
            if most > self._memory or time.monotonic() >= due:
                due = time.monotonic() + EXACT
                self._check()
            if self._closed.wait(INTERVAL):
                return

    def _check(self) -> None:
        """Measure the memory precisely, and kill the processes if they exceed the memory limit."""
        grown = self._grown()
        if grown > self._memory:
            # A process that starts another program is counted twice for a moment. So measure again.
            time.sleep(0.02)
            grown = min(grown, self._grown())
        self.peak = max(self.peak, grown)
        if grown > self._memory:
            self.exceeded = f"its processes used more than {format_bytes(self._memory)} of memory"
            with contextlib.suppress(psutil.NoSuchProcess):
                # If the first process of a PID namespace ends, the kernel kills all other processes
                # of this namespace.
                self._first.kill()

    def _grown(self) -> int:
        """Return the larger of the two lower bounds that the class describes, in bytes (B)."""
        private = proportional = 0
        for pid in _processes(self._first.pid):
            if rollup := _sizes(pid, "smaps_rollup"):
                private += rollup["Private_Dirty"]
                proportional += rollup["Pss"] - rollup.get("Pss_File", 0) + rollup.get("SwapPss", 0)
            # A process can make the file smaps_rollup unreadable for all users except root. So
            # the file status is used then, which stays readable.
            else:
                proportional += _resident(pid)
        return max(private, proportional - self._inherited)


def _processes(pid: int) -> list[int]:
    """Return the pids of a process and its descendants."""
    # psutil's function is slower, because it reads the status of all processes on the machine.
    found = [pid]
    for each in found:
        for path in glob.glob(f"/proc/{each}/task/*/children"):
            with contextlib.suppress(OSError):
                found += map(int, Path(path).read_text().split())
    return found


def _resident(pid: int) -> int:
    """Return how much of a process's memory is not backed by a file on disk, in bytes (B).

    Pages that the process shares with other processes are included.
    """
    sizes = _sizes(pid, "status")
    return sum(sizes.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


def _sizes(pid: int, name: str) -> dict[str, int]:
    """Return the sizes in a file of /proc, in bytes (B), by name.

    A thread that has ended reports no sizes, even if other threads of its process still run. So the
    file of the first thread that reports sizes is used.
    """
    for path in glob.glob(f"/proc/{pid}/task/*/{name}"):
        with contextlib.suppress(OSError):
            sizes = re.findall(r"^(\w+):\s+(\d+) kB$", Path(path).read_text(), re.MULTILINE)
            if sizes:
                return {key: 1024 * int(number) for key, number in sizes}
    return {}
