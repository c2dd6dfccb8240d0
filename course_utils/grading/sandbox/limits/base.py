"""What all kinds of limits have in common."""

from __future__ import annotations

from typing import Self

from course_utils.units import format_bytes

PATIENCE = 5.0  # s that killed processes have to disappear


class ResourceLimits:
    """Limits for the processes of one submission; when the `with` block ends, all are dead.

    Args:
        memory: B of all processes together.
        processes: Processes and threads at once.
    """

    def __init__(self, memory: int, processes: int):
        self.memory, self.processes = memory, processes
        self._peak, self._exceeded, self._over = 0, "", False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def add(self, pid: int) -> None:
        """Apply the limits to a process, and to all that it starts from now on.

        A watcher sees each of these to its end only if the process is the first of its PID
        namespace, or a subreaper.

        Raises:
            ProcessLookupError: There is no such process.
        """
        raise NotImplementedError

    @property
    def peak(self) -> int:
        """The most memory that the processes had together so far, B."""
        return self._peak

    @property
    def exceeded(self) -> str:
        """Which limit was exceeded, in a sentence without a full stop; "" if none was."""
        return self._exceeded

    def kill(self) -> None:
        """End all processes; none can be started any more."""
        raise NotImplementedError

    def _too_much(self) -> str:
        return f"its processes took more than {format_bytes(self.memory)} of memory"

    def _too_many(self) -> str:
        return f"it tried to run more than {self.processes} processes and threads at once"
