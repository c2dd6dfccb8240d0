"""Limit the memory that all processes of one submission use together.

    limit = limits.enforce(pid, 2 * GB)         # before the process runs any code of a student
    ...
    limit.close()                               # when the process has ended
    limit.exceeded                              # why the process was killed; "" if it wasn't killed
    limit.peak                                  # peak memory in bytes (B)

    cgroups    the kernel enforces the limit, if a control group (cgroup v2) can be created
    watcher    otherwise, a thread measures the processes, and kills them if they exceed the limit

A control group counts a page of memory if one of its processes is the first to access this page.
Such pages may be private memory, shared memory, or files in a tmpfs. Pages that a process has
inherited from a warm server and only reads are counted neither by the group nor by the thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from workshop.grading.sandbox.limits import cgroups
from workshop.grading.sandbox.limits.cgroups import CgroupLimit
from workshop.grading.sandbox.limits.watcher import WatchedLimit


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


def enforce(pid: int, memory: int) -> CgroupLimit | WatchedLimit:
    """Limit the memory of a process and of all processes that it starts from now on, together.

    Args:
        pid: The pid of the first process in a PID namespace. If this process is killed, all other
            processes in the namespace end.
        memory: Maximum memory in bytes (B).
    """
    parent = cgroups.parent()
    return CgroupLimit(pid, memory, parent) if parent else WatchedLimit(pid, memory)
