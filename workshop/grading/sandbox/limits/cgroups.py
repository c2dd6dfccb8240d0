"""Limit the memory of a submission with a control group of the Linux kernel (cgroup v2).

If the processes of the group together exceed the limit, the kernel kills all of them.

Source: Linux's Documentation, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from course_utils.machine.cgroups import ROOT, memberships
from course_utils.machine.units import format_bytes

# A group's folder is named PREFIX-PID-RANDOM, with the pid of the grader that created it.
PREFIX = "qlora-grading"
# Maximum time until the kernel has ended all processes of a group, in seconds.
KILL_TIMEOUT = 5.0


class CgroupLimit:
    """A memory limit that a control group enforces; see `limits.enforce`.

    Attributes:
        exceeded: After `close`: why the kernel killed the processes, as a sentence without a full
            stop; "" if the kernel didn't kill them.
        peak: After `close`: the peak memory of the group, in bytes (B).
    """

    def __init__(self, pid: int, memory: int, parent: Path):
        self._memory, self.exceeded, self.peak = memory, "", 0
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir=parent))
        try:
            self._write("memory.max", memory)
            # Without swap, the kernel doesn't create this file.
            if (self.folder / "memory.swap.max").exists():
                self._write("memory.swap.max", 0)
            self._write("memory.oom.group", 1)
            self._write("cgroup.procs", pid)
        except OSError:
            self.folder.rmdir()
            raise

    def close(self) -> None:
        """Kill the processes that are still running, and remove the group."""
        with contextlib.suppress(OSError):
            self._write("cgroup.kill", 1)
        words = (self.folder / "memory.events").read_text().split()
        events = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        if events.get("oom_kill"):
            self.exceeded = "the machine ran out of memory"
            if events["oom"]:
                text = format_bytes(self._memory)
                self.exceeded = f"its processes used more than {text} of memory"
        # Kernels before 5.19 don't have this file.
        if (peak := self.folder / "memory.peak").exists():
            self.peak = int(peak.read_text())
        deadline = time.monotonic() + KILL_TIMEOUT
        while self.folder.exists() and time.monotonic() < deadline:
            # The group can be removed only after its last process has ended.
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            time.sleep(0.005)

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))


@functools.cache
def parent() -> Path | None:
    """Return the folder of a group that can contain new groups; None if there is no such group.

    A group that contains processes can't contain groups with a memory limit. So the groups around
    this process's group are searched for such a parent, from the innermost to the outermost.
    """
    for path in (path for controllers, path in memberships() if "" in controllers):
        own = ROOT / path.lstrip("/")
        around = [folder for folder in own.parents if folder.is_relative_to(ROOT)]
        return next(filter(_works, around or [ROOT]), None)
    return None


def _works(parent: Path) -> bool:
    """Return whether a new group inside `parent` can limit memory and kill a process."""
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        if "memory" not in (parent / "cgroup.controllers").read_text().split():
            return False
        if "memory" not in (parent / "cgroup.subtree_control").read_text().split():
            (parent / "cgroup.subtree_control").write_text("+memory")
        _remove_empty(parent)
        CgroupLimit(sleeper.pid, 1_000_000_000, parent).close()
        return sleeper.wait(KILL_TIMEOUT) == -signal.SIGKILL
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        sleeper.kill()
        sleeper.wait()


def _remove_empty(parent: Path) -> None:
    """Remove the groups of graders that have ended without removing their groups."""
    for folder in parent.glob(f"{PREFIX}-*-*"):
        if not psutil.pid_exists(int(folder.name.split("-")[2])):
            with contextlib.suppress(OSError):
                folder.rmdir()
