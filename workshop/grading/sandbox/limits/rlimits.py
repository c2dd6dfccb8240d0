"""Set limits for the current process; all processes that it starts inherit the limits.

Source: Linux's manual page getrlimit(2).
"""

from __future__ import annotations

import math
import platform
import re
import time

from workshop.grading.sandbox.limits import proc

# Maximum number of open files of one process.
MAX_FILES = 512
# Maximum number of pending signals for one submission. The system allows about 100,000 for all
# submissions together.
MAX_SIGNALS = 1_000


def limit_process(memory: int, processes: int, seconds: int) -> None:
    """Limit this process and all processes that it starts, permanently.

    The limits on memory, files and CPU time apply to each process separately.

    Args:
        memory: Maximum private memory of a process, in addition to the private memory that this
            process has now, in bytes (B). This is also the maximum size of a single file.
        processes: Maximum number of processes and threads that the user may have in the process's
            user namespace.
        seconds: Maximum CPU time from now on, in seconds.
    """
    import resource

    current = proc.status("/proc/self").get("VmData", 0)
    spent = math.ceil(time.process_time())
    _lower(resource.RLIMIT_DATA, current + memory)
    _lower(resource.RLIMIT_FSIZE, memory)
    _lower(resource.RLIMIT_NOFILE, MAX_FILES)
    _lower(resource.RLIMIT_SIGPENDING, MAX_SIGNALS)
    # At the soft limit, the kernel sends the process a signal. At the hard limit, the kernel kills
    # the process.
    _lower(resource.RLIMIT_CPU, spent + seconds, spent + seconds + 1)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK):
        _lower(kind, 0)
    # Kernels before 5.14 also count processes that the user runs outside of the namespace.
    if kernel_version() >= (5, 14):
        _lower(resource.RLIMIT_NPROC, processes)


def kernel_version() -> tuple[int, ...]:
    """Return the kernel's major and minor version, such as (5, 14)."""
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    import resource

    def least(new: int, old: int) -> int:
        return new if old == resource.RLIM_INFINITY else min(new, old)

    old_soft, old_hard = resource.getrlimit(kind)
    hard = least(soft if hard is None else hard, old_hard)
    resource.setrlimit(kind, (min(least(soft, old_soft), hard), hard))
