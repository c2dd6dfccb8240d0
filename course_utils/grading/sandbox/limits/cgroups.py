"""Limits by control groups: the kernel counts, refuses processes, and ends who takes too much.

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

from course_utils.cgroups import memberships
from course_utils.grading.sandbox.limits import proc
from course_utils.grading.sandbox.limits.base import PATIENCE, ResourceLimits

PREFIX = "qlora-grading"
COUNTER = itertools.count()
CONTROLLERS = ("memory", "pids")


class Place(NamedTuple):
    """Folders of the cgroup file system in which groups of our own can be made.

    Attributes:
        version: "cgroup v1" has a tree for each controller, "cgroup v2" one for all.
        memory: The parent of groups that limit memory.
        pids: The parent of groups that limit the number of processes.
    """

    version: str
    memory: Path
    pids: Path


class CgroupLimits(ResourceLimits):
    """Limits by a control group, whose folder is made at a place and removed at the end.

    The folder's name says whose it is, so that `remove_stale` finds those of workers that were
    killed: PREFIX, PID namespace, pid, start of the process, number.
    """

    def __init__(self, memory: int, processes: int, place: Place):
        super().__init__(memory, processes)
        name = "-".join(map(str, (PREFIX, *proc.identity(os.getpid()), next(COUNTER))))
        self.place = place
        self._memory, self._pids = place.memory / name, place.pids / name
        self.folders = tuple(dict.fromkeys((self._memory, self._pids)))

    def __enter__(self) -> Self:
        try:
            if self.place.version == "cgroup v2":
                self._enable()
            for folder in self.folders:
                folder.mkdir()
            for file, text in self._settings():
                if file.exists():  # without swap, some aren't there
                    file.write_text(text)
        except OSError:
            remove(self.folders)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        remove(self.folders)

    def add(self, pid: int) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    @property
    def peak(self) -> int:
        if not self._over:
            names = ("memory.peak", "memory.current", "memory.max_usage_in_bytes")
            counts = (proc.content(self._memory / name) for name in names)
            self._peak = max(self._peak, *(int(count or 0) for count in counts))
        return self._peak

    @property
    def exceeded(self) -> str:
        if not self._over:
            self._exceeded = self._reason()
        return self._exceeded

    def kill(self) -> None:
        if not self._over:
            self._peak, self._exceeded, self._over = self.peak, self.exceeded, True
        end_members(self.folders)

    def _enable(self) -> None:
        control = self.place.memory / "cgroup.subtree_control"
        if not set(CONTROLLERS) <= set(control.read_text().split()):
            control.write_text(" ".join(f"+{name}" for name in CONTROLLERS))

    def _settings(self) -> list[tuple[Path, str]]:
        """Files and what is written into them; the limit is on memory and swap together."""
        if self.place.version == "cgroup v2":
            first = {"memory.max": self.memory, "memory.swap.max": 0, "memory.oom.group": 1}
        else:
            names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            first = dict.fromkeys(names, self.memory)
        settings = [(self._memory / name, str(value)) for name, value in first.items()]
        return [*settings, (self._pids / "pids.max", str(self.processes))]

    def _reason(self) -> str:
        if self.place.version == "cgroup v2":
            events = _counts(self._memory / "memory.events")
            reached = events.get("oom", 0) > 0
        else:
            events = _counts(self._memory / "memory.oom_control")
            reached = self.peak > 0.95 * self.memory  # failcnt stays 0 in some kernels
        if events.get("oom_kill", 0):
            return self._too_much() if reached else "the machine ran out of memory while it ran"
        return self._too_many() if _counts(self._pids / "pids.events").get("max", 0) else ""


def end_members(folders: Iterable[Path]) -> None:
    """Kill all processes in control groups and wait until they are gone, 5 s at most."""
    for folder, (name, text) in itertools.product(
        folders, (("pids.max", "0"), ("cgroup.kill", "1"))
    ):
        with contextlib.suppress(OSError):
            if (path := folder / name).exists():
                path.write_text(text)
    deadline = time.monotonic() + PATIENCE
    while (members := _members(folders)) and time.monotonic() < deadline:
        for pid in members:
            proc.send_signal(pid, signal.SIGKILL)
        time.sleep(0.005)


def remove(folders: Iterable[Path]) -> None:
    """Remove the folders of control groups that are empty or about to be, within 5 s."""
    deadline = time.monotonic() + PATIENCE
    for folder in folders:
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)


def remove_stale(mounts: Iterable[str]) -> None:
    """End what dead workers have left in cgroup file systems, and remove their folders."""
    folders = (Path(top, n) for mount in mounts for top, names, _ in os.walk(mount) for n in names)
    stale = [folder for folder in folders if is_stale(folder.name)]
    end_members(stale)
    remove(stale)


def is_stale(name: str) -> bool:
    """Whether a folder belongs to a worker of this PID namespace that has ended."""
    owner = re.fullmatch(rf"{PREFIX}-(\d+)-(\d+)-(\d+)-\d+", name)
    if owner is None or int(owner[1]) != proc.identity(os.getpid())[0]:
        return False
    return proc.started(int(owner[2])) != int(owner[3])


def places(groups: str, mounts: str) -> list[Place]:
    """Where control groups might be made, the best place first.

    In cgroup v2 a group that has processes can't have groups with controllers, so the places are
    the parents of our own group, the nearest first. In cgroup v1 the place is our own group.

    Args:
        groups: The text of /proc/self/cgroup.
        mounts: The text of /proc/self/mountinfo.
    """
    own = {}  # folder and mount point, by controller; "" stands for cgroup v2
    for group in memberships(groups):
        for root, mount, controllers in _mounts(mounts):
            for name in controllers & group.controllers:
                inner = group.path.removeprefix(root.rstrip("/")).lstrip("/")
                folder = Path(mount, inner)
                inside = ".." not in folder.parts and folder.is_dir()
                own[name] = (folder if inside else Path(mount), Path(mount))
    found = []
    if "" in own:
        folder, mount = own[""]
        parents = [p for p in folder.parents if p.is_relative_to(mount)] or [mount]
        found += [Place("cgroup v2", parent, parent) for parent in parents]
    if set(CONTROLLERS) <= own.keys():
        found.append(Place("cgroup v1", own["memory"][0], own["pids"][0]))
    return found


def _mounts(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """Root, mount point and controllers of each cgroup file system."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, mount = left.split()[3:5]
            yield root, mount, set(options.split(",")) if kind == "cgroup" else {""}


@functools.cache
def best_place() -> Place | None:
    """A place where control groups work, found by trying; None if there is none.

    What dead workers have left is removed on the way.
    """
    try:
        groups = Path("/proc/self/cgroup").read_text()
        mounts = Path("/proc/self/mountinfo").read_text()
        remove_stale(mount for _, mount, _ in _mounts(mounts))
        return next((place for place in places(groups, mounts) if _works(place)), None)
    except (OSError, ValueError):
        return None


def _works(place: Place) -> bool:
    """Whether a process can be put into a group there, and be ended."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        child = subprocess.Popen(["sleep", "60"])
        try:
            with CgroupLimits(1_000_000_000, 8, place) as trial:
                trial.add(child.pid)
                added = all(_members([folder]) == {child.pid} for folder in trial.folders)
            return child.wait(PATIENCE) == -signal.SIGKILL and added
        finally:
            child.kill()
            child.wait()
    return False


def _members(folders: Iterable[Path]) -> set[int]:
    """Processes in control groups; 0 stands for one that can't be seen from here."""
    texts = (proc.content(folder / "cgroup.procs") for folder in folders)
    return {int(word) for text in texts for word in text.split()} - {0}


def _counts(path: Path) -> dict[str, int]:
    words = proc.content(path).split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))
