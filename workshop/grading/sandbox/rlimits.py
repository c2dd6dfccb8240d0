"""Limit the resources of this process and of all processes that it starts.

Source: Linux's manual page getrlimit(2).
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

# Maximum number of open files of one process.
MAX_FILES = 512
# Maximum number of pending signals for one submission. The system allows about 100,000 pending
# signals for all submissions together.
MAX_SIGNALS = 1_000


def limit_process(memory: int, processes: int) -> None:
    """Limit this process and all processes that it starts, permanently.

    Args:
        memory: How much private memory each process may use in addition to this process's present
            private memory, in bytes (B). This is also the maximum size of a file.
        processes: Maximum number of processes and threads that the user may have in the process's
            user namespace.
    """
    # The module resource doesn't exist on Windows. Importing it here rather than at the top of the
    # file keeps `course check --grading` usable on Windows.
    import resource

    status = Path("/proc/self/status").read_text()
    data = 1024 * int(re.search(r"VmData:\s+(\d+)", status)[1])  # type: ignore[index]
    limits = {
        resource.RLIMIT_DATA: data + memory,
        resource.RLIMIT_FSIZE: memory,
        resource.RLIMIT_NOFILE: MAX_FILES,
        resource.RLIMIT_SIGPENDING: MAX_SIGNALS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if counts_per_namespace():
        limits[resource.RLIMIT_NPROC] = processes
    for kind, limit in limits.items():
        _, old = resource.getrlimit(kind)
        lower = limit if old == resource.RLIM_INFINITY else min(limit, old)
        resource.setrlimit(kind, (lower, lower))


def counts_per_namespace() -> bool:
    """Return whether the kernel counts a user's processes in each user namespace separately.

    Kernels before Linux 5.14 count all of the user's processes together.
    """
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (5, 14)
