"""What Linux tells about processes in /proc.

Source: Linux's Documentation, filesystems/proc.rst.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path


def content(path: Path) -> str:
    """A file's text; "" if it can't be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process, if the process still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def identity(pid: int) -> tuple[int, int, int]:
    """PID namespace, pid and start of a process in this process's PID namespace."""
    return os.stat("/proc/self/ns/pid").st_ino, pid, started(pid) or 0


def started(pid: int) -> int | None:
    """When a process was started, in ticks since the machine was; None if it has ended.

    A process whose first thread has ended is called a zombie too, while other threads go on.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    state, threads, start = fields[0], int(fields[17]), int(fields[19])
    return None if state in b"ZX" and threads < 2 else start


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    texts = (content(Path(task, "children")) for task in _tasks(pid))
    return [int(word) for text in texts for word in text.split()]


def living(pid: int) -> tuple[str, dict[str, int]]:
    """Folder and status of a process, seen from a thread that still has its memory."""
    for folder in (f"/proc/{pid}", *_tasks(pid)):
        if "RssAnon" in (found := status(folder)):
            return folder, found
    return f"/proc/{pid}", {}


def status(folder: str) -> dict[str, int]:
    """The numbers in a process's status; sizes in B."""
    return numbers(f"{folder}/status")


def resident(status: dict[str, int]) -> int:
    """Memory of a process that no file on a disk backs, pages shared by a fork included, B."""
    return sum(status.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


def numbers(path: str) -> dict[str, int]:
    """Lines such as `VmData: 488 kB` or `Threads: 1` of a file in /proc; sizes in B."""
    found = re.findall(r"^(\w+):\s+(\d+)( kB)?$", content(Path(path)), re.MULTILINE)
    return {name: int(number) * (1024 if unit else 1) for name, number, unit in found}


def memory_files(folders: Iterable[str]) -> int:
    """The size of the files that processes made by memfd_create(2) and have open, B.

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
    """The folder of each thread of a process."""
    try:
        return [f"/proc/{pid}/task/{name}" for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
