"""Limits without control groups: one thread looks at the processes of all submissions, and kills.

Source: Linux's Documentation, filesystems/proc.rst.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Self

from course_utils.grading.sandbox.limits import proc
from course_utils.grading.sandbox.limits.base import PATIENCE, ResourceLimits

INTERVAL = 0.1  # s between two looks at the processes
EXACT = 10  # looks; at each 10th, memory is measured to the page


class PollingLimits(ResourceLimits):
    """Limits that a thread enforces, by measuring the processes ten times a second.

    How much memory was taken since `add` can't be read off, because a process shares pages with a
    warm server and with its own forks. Two lower bounds can be measured: the pages that belong to
    one process alone; and all pages, each divided among the processes that share it, minus what was
    there at `add`. The larger of the two counts. For one process it is exact. For several processes
    it may be too small by what was there at `add`.

    Two kinds of memory are not seen: files of a tmpfs, which the size of the tmpfs limits, and
    memory that no process has open.
    """

    def __init__(self, memory: int, processes: int):
        super().__init__(memory, processes)
        self._lock = threading.RLock()
        self._members: dict[int, int] = {}  # start by pid
        self._inherited = 0  # B
        self._looks = 0

    def __enter__(self) -> Self:
        _watcher.watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        _watcher.leave(self)

    def add(self, pid: int) -> None:
        with self._lock:
            started = proc.started(pid)
            if started is None:
                raise ProcessLookupError(f"there is no process {pid}")
            _, status = proc.living(pid)
            self._inherited += proc.resident(status)
            self._members[pid] = started

    @property
    def peak(self) -> int:
        with self._lock:
            self._looks = 0
            self.look()
            return self._peak

    def look(self) -> None:
        """Measure the processes, and kill them if a limit was exceeded."""
        with self._lock:
            if self._over:
                return
            grown, threads = self._measure()
            # A process that is about to run another program counts twice for a moment.
            if grown > self.memory:
                time.sleep(0.02)
                grown = min(grown, self._measure()[0])
            self._looks += 1
            self._peak = max(self._peak, grown)
            if grown > self.memory:
                self._exceeded = self._too_much()
            elif threads > self.processes:
                self._exceeded = self._too_many()
            if self._exceeded:
                self.kill()

    def kill(self) -> None:
        with self._lock:
            self._over = True
            deadline = time.monotonic() + PATIENCE
            stopped: set[int] = set()
            while time.monotonic() < deadline - 1 and (new := self._find().keys() - stopped):
                # A process that is stopped can't start another one.
                for pid in new:
                    proc.send_signal(pid, signal.SIGSTOP)
                stopped |= new
                time.sleep(0.005)
            while (members := self._find()) and time.monotonic() < deadline:
                for pid in members:
                    proc.send_signal(pid, signal.SIGKILL)
                time.sleep(0.005)

    def _measure(self) -> tuple[int, int]:
        """Memory taken since `add`, B, and the number of threads.

        The exact measurement takes milliseconds, so it is left out where a quick upper bound is
        small enough.
        """
        living = [proc.living(pid) for pid in self._find()]
        files = proc.memory_files(folder for folder, _ in living)
        most = sum(proc.resident(status) for _, status in living) + files
        exact = most > self.memory or self._looks % EXACT == 0
        threads = sum(status.get("Threads", 0) for _, status in living)
        return self._grown(living, files) if exact else 0, threads

    def _grown(self, living: list[tuple[str, dict[str, int]]], files: int) -> int:
        private = shared_out = mapped = 0
        for folder, status in living:
            rollup = proc.numbers(f"{folder}/smaps_rollup")
            if "Pss" in rollup:
                private += rollup["Private_Dirty"]
                shared_out += rollup["Pss"] - rollup.get("Pss_File", 0) + rollup.get("SwapPss", 0)
                mapped += rollup.get("Pss_Shmem", 0)
            else:  # the file can't be read, or the process is gone
                shared_out += proc.resident(status)
        return max(private, shared_out - self._inherited) + max(0, files - mapped)

    def _find(self) -> dict[int, int]:
        """The members that live, with all that they have started."""
        known = {pid: start for pid, start in self._members.items() if proc.started(pid) == start}
        new = list(known)
        while new:
            for child in proc.children(new.pop()):
                if child not in known and (start := proc.started(child)) is not None:
                    known[child] = start
                    new.append(child)
        self._members = known
        return known


class Watcher:
    """The thread that enforces all `PollingLimits`; it lives as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[PollingLimits] = set()
        self._thread: threading.Thread | None = None

    def watch(self, limits: PollingLimits) -> None:
        """Enforce these limits from now on."""
        with self._lock:
            self._watched.add(limits)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
                self._thread.start()

    def leave(self, limits: PollingLimits) -> None:
        """Stop enforcing these limits."""
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
                with contextlib.suppress(OSError, ValueError):  # a process has ended meanwhile
                    limits.look()
            time.sleep(INTERVAL)


_watcher = Watcher()
if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_watcher.__init__)
