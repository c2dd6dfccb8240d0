"""Limit the memory and the number of processes of one submission, for all its processes together.

    with limits.enforce(memory=2 * GB, processes=64) as enforced:
        enforced.add(pid)                       # before it runs any code of a student
        ...
        enforced.exceeded, enforced.peak        # "" or the limit that was exceeded; bytes

    rlimits    limits that a process sets for itself before it runs a student's code
    cgroups    limits that the kernel enforces for a group of processes
    watcher    without control groups: limits that a thread enforces by measuring the processes

A control group counts every memory page that one of its processes is the first to access. The page
may be private or belong to shared memory, a memory file or a tmpfs. A control group doesn't count
pages that a process has inherited from a warm server and only reads. All limits need Linux.
"""

from __future__ import annotations

from dataclasses import dataclass

from workshop.grading.sandbox.limits import cgroups
from workshop.grading.sandbox.limits.base import ResourceLimits
from workshop.grading.sandbox.limits.cgroups import CgroupLimits
from workshop.grading.sandbox.limits.rlimits import limit_process
from workshop.grading.sandbox.limits.watcher import PollingLimits

__all__ = [
    "CgroupLimits",
    "Limits",
    "PollingLimits",
    "ResourceLimits",
    "available",
    "enforce",
    "limit_process",
]

CONTROL_GROUPS, WATCHER = "control groups", "a thread that measures the processes every 0.1 s"
BETTER = (
    "control groups limit memory exactly: run the command as"
    " `systemd-run --user --scope -p Delegate=yes course …`, or where /sys/fs/cgroup is writable"
)


@dataclass(frozen=True)
class Limits:
    """The resources that one submission may use.

    Attributes:
        memory: Maximum memory of all processes together, in bytes (B). The memory that they
            inherited from the warm server isn't counted.
        files: Maximum size of all files in /tmp together, in bytes (B).
        processes: Maximum number of processes and threads at the same time.
        cell: Maximum time for one cell, in seconds.
        call: Maximum time for one call that a check makes, in seconds.
        notebook: Maximum time for the complete notebook, in seconds.
    """

    memory: int = 2_000_000_000
    files: int = 500_000_000
    processes: int = 128
    cell: float = 60
    call: float = 30
    notebook: float = 900


def enforce(memory: int, processes: int) -> ResourceLimits:
    """Return limits for one submission, of the best kind that this machine allows."""
    parent = cgroups.best_parent()
    return CgroupLimits(memory, processes, parent) if parent else PollingLimits(memory, processes)


def available() -> tuple[str, str]:
    """Return the kind of limits on this machine, and how to get a better kind.

    The second text is "" if there is no better kind.
    """
    parent = cgroups.best_parent()
    return (f"{CONTROL_GROUPS} ({parent.version})", "") if parent else (WATCHER, BETTER)
