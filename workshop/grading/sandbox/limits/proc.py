"""Read information about processes from Linux's /proc file system.

Source: Linux's Documentation, filesystems/proc.rst.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path


def read_text(path: Path) -> str:
    """Return a file's text; "" if the file can't be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process, if the process still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def identity(pid: int) -> tuple[int, int, int]:
    """Return three numbers that together identify a process of this PID namespace.

    Returns:
        The inode number of the PID namespace, the pid, and the start time (see `start_time`), which
        is 0 if the process has ended.
    """
    return os.stat("/proc/self/ns/pid").st_ino, pid, start_time(pid) or 0


def start_time(pid: int) -> int | None:
    """Return when a process was started; None if the process has ended.

    The start time is in clock ticks since the machine was started. A zombie counts as ended if it
    has only one thread. Linux also reports a process as a zombie if only its first thread has ended
    and other threads are still running; that process has not ended.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    state, threads, start = fields[0], int(fields[17]), int(fields[19])
    return None if state in b"ZX" and threads < 2 else start


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    texts = (read_text(Path(task, "children")) for task in _tasks(pid))
    return [int(word) for text in texts for word in text.split()]


def running_status(pid: int) -> tuple[str, dict[str, int]]:
    """Return a folder in /proc and the status of a process.

    If the process's first thread has ended, the folder and the status are those of another thread,
    because an ended thread no longer reports the process's memory. The status is empty if no thread
    reports any memory.
    """
    for folder in (f"/proc/{pid}", *_tasks(pid)):
        if "RssAnon" in (values := status(folder)):
            return folder, values
    return f"/proc/{pid}", {}


def status(folder: str) -> dict[str, int]:
    """Return the numbers in a process's status file by name, with sizes in bytes (B)."""
    return numbers(f"{folder}/status")


def resident(status: dict[str, int]) -> int:
    """Return the memory of a process that no file on a disk backs, in bytes (B).

    Pages that the process shares with other processes because of a fork are included.
    """
    return sum(status.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


def numbers(path: str) -> dict[str, int]:
    """Return the numbers in a file of /proc by name, with sizes in bytes (B).

    The file consists of lines such as `VmData: 488 kB` or `Threads: 1`.
    """
    lines = re.findall(r"^(\w+):\s+(\d+)( kB)?$", read_text(Path(path)), re.MULTILINE)
    return {name: int(number) * (1024 if unit else 1) for name, number, unit in lines}


def memory_files(folders: Iterable[str]) -> int:
    """Return the total size of the memory files that processes have open, in bytes (B).

    A memory file is a file that memfd_create(2) has created. A file that several processes have
    open counts once.

    Args:
        folders: The processes' folders in /proc.
    """
    sizes = {}
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(f"{folder}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path).startswith("/memfd:"):
                        state = os.stat(entry.path)
                        sizes[state.st_dev, state.st_ino] = 512 * state.st_blocks
    return sum(sizes.values())


def _tasks(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/task/{name}" for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
