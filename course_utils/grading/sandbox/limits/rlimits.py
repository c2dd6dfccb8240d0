"""Limits that a process sets for itself, and that all processes it starts inherit.

Source: Linux's manual page getrlimit(2).
"""

from __future__ import annotations

import math
import platform
import re
import time

from course_utils.grading.sandbox.limits import proc

FILES = 512  # open files of one process
SIGNALS = 1_000  # pending signals per submission; the limit for all together is about 100,000


def limit_process(memory: int, processes: int, seconds: int) -> None:
    """Limit this process and those that it starts, each by itself, for good.

    Args:
        memory: B of private memory that it may take beyond what it has now, and B of one file.
        processes: Processes and threads of its user in its user namespace.
        seconds: CPU time from now.
    """
    import resource

    held = proc.status("/proc/self").get("VmData", 0)
    spent = math.ceil(time.process_time())
    _lower(resource.RLIMIT_DATA, held + memory)
    _lower(resource.RLIMIT_FSIZE, memory)
    _lower(resource.RLIMIT_NOFILE, FILES)
    _lower(resource.RLIMIT_SIGPENDING, SIGNALS)
    # At the soft limit the process gets a signal, at the hard limit it ends.
    _lower(resource.RLIMIT_CPU, spent + seconds, spent + seconds + 1)
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK):
        _lower(nothing, 0)
    # Older kernels also count what the user runs outside of the namespace.
    if kernel_version() >= (5, 14):
        _lower(resource.RLIMIT_NPROC, processes)


def kernel_version() -> tuple[int, ...]:
    """The kernel's major and minor version."""
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    import resource

    def least(new: int, old: int) -> int:
        return new if old == resource.RLIM_INFINITY else min(new, old)

    old_soft, old_hard = resource.getrlimit(kind)
    hard = least(soft if hard is None else hard, old_hard)
    resource.setrlimit(kind, (min(least(soft, old_soft), hard), hard))
