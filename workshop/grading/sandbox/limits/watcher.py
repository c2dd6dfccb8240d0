"""Limit submissions without control groups: a thread measures processes and kills them if needed.

Source: Linux's Documentation, filesystems/proc.rst.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Self

from workshop.grading.sandbox.limits import proc
from workshop.grading.sandbox.limits.base import KILL_TIMEOUT, ResourceLimits

# Seconds between two measurements of the processes.
INTERVAL = 0.1
# Every 10th measurement determines the memory exactly, to the page.
EXACT_INTERVAL = 10


class PollingLimits(ResourceLimits):
    """Limits that a thread enforces, by measuring the processes ten times a second.

    Linux doesn't report how much memory the processes have allocated since `add`, because a process
    shares pages with a warm server and with its own forks. Two lower bounds can be measured. The
    first is the memory of all pages that only one process uses. The second is the memory of all
    pages minus the memory at `add`, where each page is divided among the processes that share it.
    The larger of the two bounds is compared with the limit. For one process, the larger bound is
    exact. For several processes, the larger bound may be too small, by up to the memory that the
    processes had when they were added.

    Two kinds of memory are not measured. The first is files in a tmpfs, which are limited by the
    size of the tmpfs. The second is shared memory that no process has open or mapped.
    """

    def __init__(self, memory: int, processes: int):
        super().__init__(memory, processes)
        self._lock = threading.RLock()
        # The start time of each member process, by pid.
        self._members: dict[int, int] = {}
        # The memory that the members had when they were added, in bytes (B).
        self._inherited = 0
        self._measurements = 0

    def __enter__(self) -> Self:
        _watcher.watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        _watcher.unwatch(self)

    def add(self, pid: int) -> None:
        """Measure a process and its descendants from now on; see `ResourceLimits.add`."""
        with self._lock:
            start = proc.start_time(pid)
            if start is None:
                raise ProcessLookupError(f"there is no process {pid}")
            _, status = proc.running_status(pid)
            self._inherited += proc.resident(status)
            self._members[pid] = start

    @property
    def peak(self) -> int:
        """Measure the memory exactly, and return the peak of all measurements, in bytes (B)."""
        with self._lock:
            self._measurements = 0
            self.enforce()
            return self._peak

    def enforce(self) -> None:
        """Measure the processes, and kill them if they exceed a limit."""
        with self._lock:
            if self._ended:
                return
            grown, threads = self._measure()
            # For a moment, a process that starts another program is counted twice. So wait, and
            # measure again.
            if grown > self.memory:
                time.sleep(0.02)
                grown = min(grown, self._measure()[0])
            self._measurements += 1
            self._peak = max(self._peak, grown)
            if grown > self.memory:
                self._exceeded = self._memory_text()
            elif threads > self.processes:
                self._exceeded = self._processes_text()
            if self._exceeded:
                self.kill()

    def kill(self) -> None:
        """Stop all processes first, so that none can start another one, and then kill them."""
        with self._lock:
            self._ended = True
            deadline = time.monotonic() + KILL_TIMEOUT
            stopped: set[int] = set()
            while time.monotonic() < deadline - 1 and (new := self._find().keys() - stopped):
                for pid in new:
                    proc.send_signal(pid, signal.SIGSTOP)
                stopped |= new
                time.sleep(0.005)
            while (members := self._find()) and time.monotonic() < deadline:
                for pid in members:
                    proc.send_signal(pid, signal.SIGKILL)
                time.sleep(0.005)

    def _measure(self) -> tuple[int, int]:
        """Return the memory allocated since `add`, in bytes (B), and the number of threads.

        The exact measurement of the memory needs milliseconds. If a quick upper bound is below the
        limit, the memory is measured only every 10th time (`EXACT_INTERVAL`) and otherwise returned
        as 0.
        """
        statuses = [proc.running_status(pid) for pid in self._find()]
        files = proc.memory_files(folder for folder, _ in statuses)
        most = sum(proc.resident(status) for _, status in statuses) + files
        exact = most > self.memory or self._measurements % EXACT_INTERVAL == 0
        threads = sum(status.get("Threads", 0) for _, status in statuses)
        return self._grown(statuses, files) if exact else 0, threads

    def _grown(self, statuses: list[tuple[str, dict[str, int]]], files: int) -> int:
        """Return the larger lower bound of the memory allocated since `add`, in bytes (B)."""
        private = proportional = mapped = 0
        for folder, status in statuses:
            rollup = proc.numbers(f"{folder}/smaps_rollup")
            if "Pss" in rollup:
                private += rollup["Private_Dirty"]
                proportional += rollup["Pss"] - rollup.get("Pss_File", 0) + rollup.get("SwapPss", 0)
                mapped += rollup.get("Pss_Shmem", 0)
            # The file can't be read, or the process has ended.
            else:
                proportional += proc.resident(status)
        return max(private, proportional - self._inherited) + max(0, files - mapped)

    def _find(self) -> dict[int, int]:
        """Return the start times of the running members and of their descendants, by pid."""
        known = {
            pid: start for pid, start in self._members.items() if proc.start_time(pid) == start
        }
        new = list(known)
        while new:
            for child in proc.children(new.pop()):
                if child not in known and (start := proc.start_time(child)) is not None:
                    known[child] = start
                    new.append(child)
        self._members = known
        return known


class Watcher:
    """A thread that enforces all `PollingLimits`; it runs while any limits are being watched."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all limits and the thread, because a forked process doesn't have the thread."""
        self._lock = threading.Lock()
        self._watched: set[PollingLimits] = set()
        self._thread: threading.Thread | None = None

    def watch(self, limits: PollingLimits) -> None:
        """Enforce the limits of one submission from now on."""
        with self._lock:
            self._watched.add(limits)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
                self._thread.start()

    def unwatch(self, limits: PollingLimits) -> None:
        """Stop enforcing the limits of one submission."""
        with self._lock:
            self._watched.discard(limits)

    def _run(self) -> None:
        while True:
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._thread = None
                    return
            for limits in watched:
                # If a process ends during the measurement, reading its files fails.
                with contextlib.suppress(OSError, ValueError):
                    limits.enforce()
            time.sleep(INTERVAL)


_watcher = Watcher()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watcher.reset)
