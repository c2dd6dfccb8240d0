"""Limits on what one submission may use: memory and processes, all of its processes together.

    with limits.enforce(memory=2 * GB, processes=64) as enforced:
        enforced.add(pid)                       # before it runs any code of a student
        ...
        enforced.exceeded, enforced.peak        # "" or why it was ended; bytes

    rlimits    what a process does about itself, before it runs code of a student
    cgroups    the kernel counts the pages and processes of a group, and ends who takes too much
    watcher    where control groups are not available: a thread that looks at the processes

Control groups count every page that a process is the first to touch, whether the page belongs to
the process alone, to shared memory, to a memory file or to a tmpfs. They do not count pages that a
process has inherited from a warm server and only reads. All of this needs Linux.
"""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.grading.sandbox.limits import cgroups
from course_utils.grading.sandbox.limits.base import ResourceLimits
from course_utils.grading.sandbox.limits.cgroups import CgroupLimits
from course_utils.grading.sandbox.limits.rlimits import limit_process
from course_utils.grading.sandbox.limits.watcher import PollingLimits

__all__ = [
    "CgroupLimits",
    "Limits",
    "PollingLimits",
    "ResourceLimits",
    "available",
    "enforce",
    "limit_process",
]

CONTROL_GROUPS, WATCHER = "control groups", "a thread that looks at the processes every 0.1 s"
BETTER = (
    "control groups bound memory to the byte: run the command as"
    " `systemd-run --user --scope -p Delegate=yes course …`, or where /sys/fs/cgroup is writable"
)


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        memory: B of all its processes together, beyond what its server has.
        files: B of files in its /tmp.
        processes: Processes and threads at once.
        cell: Seconds for one cell.
        call: Seconds for one call that a check makes.
        notebook: Seconds for the whole notebook.
    """

    memory: int = 2_000_000_000
    files: int = 500_000_000
    processes: int = 128
    cell: float = 60
    call: float = 30
    notebook: float = 900


def enforce(memory: int, processes: int) -> ResourceLimits:
    """Limits for one submission, of the best kind that this machine allows; a context manager.

    Args:
        memory: B of all its processes together.
        processes: Processes and threads at once.
    """
    best = cgroups.best_place()
    return CgroupLimits(memory, processes, best) if best else PollingLimits(memory, processes)


def available() -> tuple[str, str]:
    """The kind of limits on this machine, and how to get a better kind ("" if there is none)."""
    best = cgroups.best_place()
    return (f"{CONTROL_GROUPS} ({best.version})", "") if best else (WATCHER, BETTER)
