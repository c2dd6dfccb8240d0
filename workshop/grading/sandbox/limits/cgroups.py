"""Limit submissions with control groups of the Linux kernel.

The kernel counts the memory and the processes of a group. If the group has the maximum number of
processes, the kernel refuses to start another process. If the group exceeds the memory limit, the
kernel kills processes of the group.

Source: Linux's Documentation, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; the manual page
cgroups(7).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from course_utils.machine.cgroups import Membership, memberships
from workshop.grading.sandbox.limits import proc
from workshop.grading.sandbox.limits.base import KILL_TIMEOUT, ResourceLimits

PREFIX = "qlora-grading"
_counter = itertools.count()
CONTROLLERS = ("memory", "pids")


class ParentGroups(NamedTuple):
    """The control groups in which new groups can be created, as folders of the cgroup file system.

    Attributes:
        version: "cgroup v1", which has a separate tree for each controller, or "cgroup v2", which
            has one tree for all controllers.
    """

    version: str
    memory: Path
    pids: Path


class CgroupLimits(ResourceLimits):
    """Limits that a control group enforces.

    The group's folder is created at the beginning of the `with` block and removed at its end. The
    folder's name consists of PREFIX, the worker's PID namespace, pid and start time, and a counter.
    From the name, `remove_stale` recognizes the folders of workers that were killed.
    """

    def __init__(self, memory: int, processes: int, parents: ParentGroups):
        super().__init__(memory, processes)
        name = "-".join(map(str, (PREFIX, *proc.identity(os.getpid()), next(_counter))))
        self.parents = parents
        self._memory, self._pids = parents.memory / name, parents.pids / name
        self.folders = tuple(dict.fromkeys((self._memory, self._pids)))

    def __enter__(self) -> Self:
        try:
            if self.parents.version == "cgroup v2":
                self._enable()
            for folder in self.folders:
                folder.mkdir()
            for file, text in self._settings():
                # Without swap, the kernel doesn't create the files for swap.
                if file.exists():
                    file.write_text(text)
        except OSError:
            remove(self.folders)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        remove(self.folders)

    def add(self, pid: int) -> None:
        """Move a process to the group, to which its later child processes will also belong."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    @property
    def peak(self) -> int:
        """Return the peak memory that the kernel has counted for the group, in bytes (B)."""
        if not self._ended:
            names = ("memory.peak", "memory.current", "memory.max_usage_in_bytes")
            counts = (proc.read_text(self._memory / name) for name in names)
            self._peak = max(self._peak, *(int(count or 0) for count in counts))
        return self._peak

    @property
    def exceeded(self) -> str:
        """Return which limit the kernel had to enforce; see `ResourceLimits.exceeded`."""
        if not self._ended:
            self._exceeded = self._reason()
        return self._exceeded

    def kill(self) -> None:
        """Kill all processes of the group."""
        if not self._ended:
            self._peak, self._exceeded, self._ended = self.peak, self.exceeded, True
        end_members(self.folders)

    def _enable(self) -> None:
        control = self.parents.memory / "cgroup.subtree_control"
        if not set(CONTROLLERS) <= set(control.read_text().split()):
            control.write_text(" ".join(f"+{name}" for name in CONTROLLERS))

    def _settings(self) -> list[tuple[Path, str]]:
        """Return the settings files of the group, each with the text to write into the file.

        The memory limit applies to memory and swap together.
        """
        if self.parents.version == "cgroup v2":
            first = {"memory.max": self.memory, "memory.swap.max": 0, "memory.oom.group": 1}
        else:
            names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            first = dict.fromkeys(names, self.memory)
        settings = [(self._memory / name, str(value)) for name, value in first.items()]
        return [*settings, (self._pids / "pids.max", str(self.processes))]

    def _reason(self) -> str:
        if self.parents.version == "cgroup v2":
            events = _counts(self._memory / "memory.events")
            reached = events.get("oom", 0) > 0
        else:
            events = _counts(self._memory / "memory.oom_control")
            # In some kernels, the counter failcnt stays 0, so the peak is compared with the limit.
            reached = self.peak > 0.95 * self.memory
        if events.get("oom_kill", 0):
            return self._memory_text() if reached else "the machine ran out of memory"
        return self._processes_text() if _counts(self._pids / "pids.events").get("max", 0) else ""


def end_members(folders: Iterable[Path]) -> None:
    """Kill all processes in control groups, and wait at most 5 s until the processes have ended."""
    for folder, (name, text) in itertools.product(
        folders, (("pids.max", "0"), ("cgroup.kill", "1"))
    ):
        with contextlib.suppress(OSError):
            if (path := folder / name).exists():
                path.write_text(text)
    deadline = time.monotonic() + KILL_TIMEOUT
    while (members := _members(folders)) and time.monotonic() < deadline:
        for pid in members:
            proc.send_signal(pid, signal.SIGKILL)
        time.sleep(0.005)


def remove(folders: Iterable[Path]) -> None:
    """Remove the folders of control groups.

    A group can be removed only when none of its processes is left, so the removal is tried again
    for at most 5 s. Groups that still have processes then are not removed.
    """
    deadline = time.monotonic() + KILL_TIMEOUT
    for folder in folders:
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)


def remove_stale(mounts: Iterable[str]) -> None:
    """Kill processes and remove control groups that ended workers have left behind."""
    folders = (Path(top, n) for mount in mounts for top, names, _ in os.walk(mount) for n in names)
    stale = [folder for folder in folders if is_stale(folder.name)]
    end_members(stale)
    remove(stale)


def is_stale(name: str) -> bool:
    """Return whether a folder belongs to an ended worker of this PID namespace."""
    owner = re.fullmatch(rf"{PREFIX}-(\d+)-(\d+)-(\d+)-\d+", name)
    if owner is None or int(owner[1]) != proc.identity(os.getpid())[0]:
        return False
    return proc.start_time(int(owner[2])) != int(owner[3])


def candidate_parents(groups: Iterable[Membership], mounts: str) -> list[ParentGroups]:
    """Return the control groups in which groups might be created, the best ones first.

    In cgroup v2, a group that contains processes can't have child groups with controllers.
    Therefore the candidates are the ancestors of this process's group, the nearest first. In
    cgroup v1, the candidate is this process's group.
    """
    # The folder and the mount point of this process's group, by controller. The controller "" means
    # cgroup v2.
    own: dict[str, tuple[Path, Path]] = {}
    for group in groups:
        for root, mount, controllers in _mounts(mounts):
            for name in controllers & group.controllers:
                inner = group.path.removeprefix(root.rstrip("/")).lstrip("/")
                folder = Path(mount, inner)
                inside = ".." not in folder.parts and folder.is_dir()
                own[name] = (folder if inside else Path(mount), Path(mount))
    candidates = []
    if "" in own:
        folder, top = own[""]
        ancestors = [path for path in folder.parents if path.is_relative_to(top)] or [top]
        candidates += [ParentGroups("cgroup v2", path, path) for path in ancestors]
    if set(CONTROLLERS) <= own.keys():
        candidates.append(ParentGroups("cgroup v1", own["memory"][0], own["pids"][0]))
    return candidates


def _mounts(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield the root, the mount point and the controllers of each cgroup file system."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, mount = left.split()[3:5]
            yield root, mount, set(options.split(",")) if kind == "cgroup" else {""}


@functools.cache
def best_parent() -> ParentGroups | None:
    """Try all candidates, and return the first that works; None if none of them works.

    Before that, groups that ended workers have left behind are removed.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
        remove_stale(mount for _, mount, _ in _mounts(mounts))
        return next(filter(_works, candidate_parents(memberships(), mounts)), None)
    except (OSError, ValueError):
        return None


def _works(parents: ParentGroups) -> bool:
    """Return whether a group can be created in these groups, and its processes can be killed."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        child = subprocess.Popen(["sleep", "60"])
        try:
            with CgroupLimits(1_000_000_000, 8, parents) as trial:
                trial.add(child.pid)
                added = all(_members([folder]) == {child.pid} for folder in trial.folders)
            return child.wait(KILL_TIMEOUT) == -signal.SIGKILL and added
        finally:
            child.kill()
            child.wait()
    return False


def _members(folders: Iterable[Path]) -> set[int]:
    """Return the pids of the processes in control groups.

    The kernel writes 0 for a process outside of this PID namespace; those processes are left out.
    """
    texts = (proc.read_text(folder / "cgroup.procs") for folder in folders)
    return {int(word) for text in texts for word in text.split()} - {0}


def _counts(path: Path) -> dict[str, int]:
    words = proc.read_text(path).split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))
