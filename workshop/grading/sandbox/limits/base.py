"""Define the base class of all kinds of limits."""

from __future__ import annotations

from typing import Self

from course_utils.machine.units import format_bytes

# Maximum time to wait until killed processes have ended, in seconds.
KILL_TIMEOUT = 5.0


class ResourceLimits:
    """Limits for the processes of one submission, as a context manager.

    At the end of the `with` block, all processes of the submission are killed.

    Args:
        memory: Maximum memory of all processes together, in bytes (B).
        processes: Maximum number of processes and threads at the same time.
    """

    def __init__(self, memory: int, processes: int):
        self.memory, self.processes = memory, processes
        self._peak, self._exceeded, self._ended = 0, "", False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def add(self, pid: int) -> None:
        """Apply the limits to a process, and to all processes that it starts from now on.

        `PollingLimits` finds all of these processes only if the added process is the first of its
        PID namespace or a subreaper. Otherwise, a process whose parent has ended is no longer a
        descendant of the added process.
        """
        raise NotImplementedError

    @property
    def peak(self) -> int:
        """Return the peak memory of all processes together so far, in bytes (B)."""
        return self._peak

    @property
    def exceeded(self) -> str:
        """Return which limit was exceeded, as a sentence without a full stop; "" if none was."""
        return self._exceeded

    def kill(self) -> None:
        """Kill all processes, and prevent them from starting new ones."""
        raise NotImplementedError

    def _memory_text(self) -> str:
        return f"its processes used more than {format_bytes(self.memory)} of memory"

    def _processes_text(self) -> str:
        return f"it tried to run more than {self.processes} processes and threads at once"
