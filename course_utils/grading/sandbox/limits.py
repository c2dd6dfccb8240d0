"""What a submission may take: memory and number of processes, all of its processes together.

    with limits.cage(memory=2 * GB, processes=64) as cage:
        cage.add(pid)                     # before it runs any code of a student
        ...
        cage.exceeded, cage.peak          # "" or why it was ended; bytes

The kernel's control groups count every page that a process is the first to touch, in memory of its
own, in shared memory, in memory files and in tmpfs, and no page that it has from a warm server and
only reads. Where they aren't to be had, a thread watches the processes. `bound` is what a process
does about itself. All of it is for Linux.

Source: Linux's Documentation, admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and filesystems/
proc.rst; the manual pages getrlimit(2) and cgroups(7).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.1  # s between two looks at watched processes
EXACT = 10  # looks; at each 10th, memory is measured to the page
PATIENCE = 5.0  # s that killed processes have to disappear
FILES = 512  # open files of one process
SIGNALS = 1_000  # pending signals per submission; the limit for all together is about 100,000
PREFIX = "qlora-grading"
COUNTER = itertools.count()
CONTROLLERS = ("memory", "pids")
CONTROL_GROUPS, WATCHER = "control groups", "a thread that looks at the processes every 0.1 s"
BETTER = (
    "control groups bound memory to the byte: run the command as"
    " `systemd-run --user --scope -p Delegate=yes course …`, or where /sys/fs/cgroup is writable"
)


def cage(memory: int, processes: int) -> Cage:
    """Bounds for one submission, of the best kind that this machine allows; a context manager.

    memory: B, of all its processes together. processes: and their threads, at once.
    """
    best = _best()
    return Grouped(memory, processes, best) if best else Watched(memory, processes)


def available() -> tuple[str, str]:
    """The kind of cage on this machine in words, and what to do for a better one ("": nothing)."""
    best = _best()
    return (f"{CONTROL_GROUPS} ({best.version})", "") if best else (WATCHER, BETTER)


def bound(memory: int, processes: int, seconds: int) -> None:
    """Bound this process and those it starts, each by itself, for good.

    memory: B of private memory, and of a file, that it may take beyond what it has now.
    processes: and threads, of its user in its user namespace. seconds: of CPU time from now.
    """
    import resource

    held = _status("/proc/self").get("VmData", 0)
    spent = math.ceil(time.process_time())
    _lower(resource.RLIMIT_DATA, held + memory)
    _lower(resource.RLIMIT_FSIZE, memory)
    _lower(resource.RLIMIT_NOFILE, FILES)
    _lower(resource.RLIMIT_SIGPENDING, SIGNALS)
    _lower(resource.RLIMIT_CPU, spent + seconds, spent + seconds + 1)  # a signal, then the end
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK):
        _lower(nothing, 0)
    if _kernel() >= (5, 14):  # before, it counted what the user runs elsewhere as well
        _lower(resource.RLIMIT_NPROC, processes)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    import resource

    def least(new: int, old: int) -> int:
        return new if old == resource.RLIM_INFINITY else min(new, old)

    old_soft, old_hard = resource.getrlimit(kind)
    hard = least(soft if hard is None else hard, old_hard)
    resource.setrlimit(kind, (min(least(soft, old_soft), hard), hard))


def _kernel() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


class Cage:
    """Bounds for the processes of one submission; at its end all of them are dead.

    memory: B, together. processes: and threads, together, at once.
    """

    def __init__(self, memory: int, processes: int):
        self.memory, self.processes = memory, processes
        self._peak, self._exceeded, self._over = 0, "", False

    def __enter__(self) -> Cage:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def add(self, pid: int) -> None:
        """Put a process in, and with it all that it starts from now on.

        To see each of these to its end, a watcher needs the process to be the first of its PID
        namespace, or a subreaper. Raises ProcessLookupError where there is none.
        """
        raise NotImplementedError

    @property
    def peak(self) -> int:
        """The most memory that the processes had together so far, B."""
        return self._peak

    @property
    def exceeded(self) -> str:
        """What went past a bound, in a sentence without a full stop; "" while nothing did."""
        return self._exceeded

    def kill(self) -> None:
        """End all processes in it; none can be started any more."""
        raise NotImplementedError

    def _too_much(self) -> str:
        from course_utils.units import format_bytes  # here: an assignment may withhold it

        return f"its processes took more than {format_bytes(self.memory)} of memory"

    def _too_many(self) -> str:
        return f"it tried to run more than {self.processes} processes and threads at once"


# -- Control groups ------------------------------------------------------------------------------


class Place(NamedTuple):
    """Folders of the cgroup file system in which a cage's own folders can be made.

    version: "cgroup v1" has a tree for each controller, "cgroup v2" one for all.
    """

    version: str
    memory: Path
    pids: Path


class Grouped(Cage):
    """A cage of control groups: the kernel counts, refuses processes, and ends who takes too much.

    The folder's name says whose it is, so that `remove_stale` finds those of workers that were
    killed: PREFIX, PID namespace, pid, start of the process, number.
    """

    def __init__(self, memory: int, processes: int, place: Place):
        super().__init__(memory, processes)
        name = "-".join(map(str, (PREFIX, *_identity(os.getpid()), next(COUNTER))))
        self.place = place
        self._memory, self._pids = place.memory / name, place.pids / name
        self.folders = tuple(dict.fromkeys((self._memory, self._pids)))

    def __enter__(self) -> Grouped:
        try:
            if self.place.version == "cgroup v2":
                self._enable()
            for folder in self.folders:
                folder.mkdir()
            for file, text in self._settings():
                if file.exists():  # without swap, some aren't there
                    file.write_text(text)
        except OSError:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._remove()

    def add(self, pid: int) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    @property
    def peak(self) -> int:
        if not self._over:
            names = ("memory.peak", "memory.current", "memory.max_usage_in_bytes")
            counts = (_content(self._memory / name) for name in names)
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
        """Files and what is written into them; memory and swap together have the bound."""
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
            reached = events.get("oom", 0)
        else:
            events = _counts(self._memory / "memory.oom_control")
            reached = self.peak > 0.95 * self.memory  # failcnt stays 0 in some kernels
        if events.get("oom_kill", 0):
            return self._too_much() if reached else "the machine ran out of memory while it ran"
        return self._too_many() if _counts(self._pids / "pids.events").get("max", 0) else ""

    def _remove(self) -> None:
        remove(self.folders)


def end_members(folders: Iterable[Path]) -> None:
    """Kill all processes in control groups and wait until they are gone, 5 s at most."""
    for file, text in itertools.product(folders, (("pids.max", "0"), ("cgroup.kill", "1"))):
        with contextlib.suppress(OSError):
            if (path := file / text[0]).exists():
                path.write_text(text[1])
    deadline = time.monotonic() + PATIENCE
    while (members := _members(folders)) and time.monotonic() < deadline:
        for pid in members:
            _signal(pid, signal.SIGKILL)
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
    """End what workers that are dead have left in cgroup file systems, and remove it."""
    folders = (Path(top, n) for mount in mounts for top, names, _ in os.walk(mount) for n in names)
    stale = [folder for folder in folders if _is_stale(folder.name)]
    end_members(stale)
    remove(stale)


def _is_stale(name: str) -> bool:
    """Whether a folder is that of a worker of this PID namespace, which has ended."""
    owner = re.fullmatch(rf"{PREFIX}-(\d+)-(\d+)-(\d+)-\d+", name)
    if owner is None or int(owner[1]) != _identity(os.getpid())[0]:
        return False
    return _started(int(owner[2])) != int(owner[3])


def places(groups: str, mounts: str) -> list[Place]:
    """Where cages might be made, the best first, from /proc/self/cgroup and /proc/self/mountinfo.

    In cgroup v2 a group that has processes can't have groups with controllers: so our own group's
    parents are taken, the nearest first. In cgroup v1 it is our own group.
    """
    own = {}  # folder and mount point, by controller; "" stands for cgroup v2
    paths = [line.split(":", 2)[1:] for line in groups.splitlines()]
    for names, path in paths:
        for root, mount, controllers in _mounts(mounts):
            for name in controllers & set(names.split(",")):
                inner = path.removeprefix(root.rstrip("/")).lstrip("/")
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
def _best() -> Place | None:
    """A place where cages work, found by trying; what dead workers left is removed on the way."""
    try:
        groups = Path("/proc/self/cgroup").read_text()
        mounts = Path("/proc/self/mountinfo").read_text()
        remove_stale(mount for _, mount, _ in _mounts(mounts))
        return next((place for place in places(groups, mounts) if _works(place)), None)
    except (OSError, ValueError):
        return None


def _works(place: Place) -> bool:
    """Whether a process can be caged there, and ended."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        child = subprocess.Popen(["sleep", "60"])
        try:
            with Grouped(1_000_000_000, 8, place) as trial:
                trial.add(child.pid)
                caged = all(_members([folder]) == {child.pid} for folder in trial.folders)
            return child.wait(PATIENCE) == -signal.SIGKILL and caged
        finally:
            child.kill()
            child.wait()
    return False


def _members(folders: Iterable[Path]) -> set[int]:
    """Processes in control groups; 0 stands for one that can't be seen from here."""
    texts = (_content(folder / "cgroup.procs") for folder in folders)
    return {int(word) for text in texts for word in text.split()} - {0}


def _counts(path: Path) -> dict[str, int]:
    words = _content(path).split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _content(path: Path) -> str:
    """A file's text; "" where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


# -- Watched processes ---------------------------------------------------------------------------


class Watched(Cage):
    """A cage without control groups: one thread looks at the processes of all cages, and kills.

    What has grown since `add` can't be read off, as pages of a warm server and of a process that
    forks are shared. Two numbers are never too large: pages that one process alone has, and all
    pages, each shared out among those who have it, less what was there at `add`. The larger counts.
    For one process it is exact; for several it may be too small by what was there at `add`.

    Not seen: files of a tmpfs, which its own size bounds, and memory that no process has open.
    """

    def __init__(self, memory: int, processes: int):
        super().__init__(memory, processes)
        self._lock = threading.RLock()
        self._members: dict[int, int] = {}  # start by pid
        self._inherited = 0  # B
        self._looks = 0

    def __enter__(self) -> Watched:
        _watcher.watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        _watcher.leave(self)

    def add(self, pid: int) -> None:
        with self._lock:
            started = _started(pid)
            if started is None:
                raise ProcessLookupError(f"there is no process {pid}")
            _, status = _living(pid)
            self._inherited += _resident(status)
            self._members[pid] = started

    @property
    def peak(self) -> int:
        with self._lock:
            self._looks = 0
            self.look()
            return self._peak

    def look(self) -> None:
        """Measure, and kill if a bound was passed."""
        with self._lock:
            if self._over:
                return
            grown, threads = self._measure()
            if grown > self.memory:  # a process that is about to run another counts twice
                time.sleep(0.02)
                grown = min(grown, self._measure()[0])
            self._looks += 1
            self._peak = max(self._peak, grown)
            if grown > self.memory:
                self._exceeded = self._too_much()
            elif threads > self.processes:
                self._exceeded = self._too_many()
            if self._exceeded:
                self.kill()

    def kill(self) -> None:
        with self._lock:
            self._over = True
            deadline = time.monotonic() + PATIENCE
            stopped: set[int] = set()
            while time.monotonic() < deadline - 1 and (new := self._find().keys() - stopped):
                for pid in new:  # who is stopped starts no other
                    _signal(pid, signal.SIGSTOP)
                stopped |= new
                time.sleep(0.005)
            while (members := self._find()) and time.monotonic() < deadline:
                for pid in members:
                    _signal(pid, signal.SIGKILL)
                time.sleep(0.005)

    def _measure(self) -> tuple[int, int]:
        """Memory taken since `add`, B, and the number of threads.

        The exact way takes milliseconds, so it is left out where a quick upper bound will do.
        """
        living = [_living(pid) for pid in self._find()]
        files = _memory_files(folder for folder, _ in living)
        most = sum(_resident(status) for _, status in living) + files
        exact = most > self.memory or self._looks % EXACT == 0
        threads = sum(status.get("Threads", 0) for _, status in living)
        return self._grown(living, files) if exact else 0, threads

    def _grown(self, living: list[tuple[str, dict[str, int]]], files: int) -> int:
        private = shared_out = mapped = 0
        for folder, status in living:
            rollup = _fields(f"{folder}/smaps_rollup")
            if "Pss" in rollup:
                private += rollup["Private_Dirty"]
                shared_out += rollup["Pss"] - rollup.get("Pss_File", 0) + rollup.get("SwapPss", 0)
                mapped += rollup.get("Pss_Shmem", 0)
            else:  # not to be read, or the process is gone
                shared_out += _resident(status)
        return max(private, shared_out - self._inherited) + max(0, files - mapped)

    def _find(self) -> dict[int, int]:
        """The members that live, with all that they have started."""
        known = {pid: start for pid, start in self._members.items() if _started(pid) == start}
        new = list(known)
        while new:
            for child in _children(new.pop()):
                if child not in known and (start := _started(child)) is not None:
                    known[child] = start
                    new.append(child)
        self._members = known
        return known


class Watcher:
    """The thread that looks at all watched cages; it lives as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cages: set[Watched] = set()
        self._thread: threading.Thread | None = None

    def watch(self, cage: Watched) -> None:
        """Look at a cage from now on."""
        with self._lock:
            self._cages.add(cage)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cages", daemon=True)
                self._thread.start()

    def leave(self, cage: Watched) -> None:
        """Look at a cage no more."""
        with self._lock:
            self._cages.discard(cage)

    def _run(self) -> None:
        while True:
            with self._lock:
                cages = list(self._cages)
                if not cages:
                    self._thread = None
                    return
            for cage in cages:
                with contextlib.suppress(OSError, ValueError):  # a process has ended meanwhile
                    cage.look()
            time.sleep(INTERVAL)


_watcher = Watcher()
if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_watcher.__init__)


def _identity(pid: int) -> tuple[int, int, int]:
    """PID namespace, pid and start of a process of ours."""
    return os.stat("/proc/self/ns/pid").st_ino, pid, _started(pid) or 0


def _started(pid: int) -> int | None:
    """When a process was started, in ticks since the machine was; None if it has ended.

    A process whose first thread has ended is called a zombie too, while others go on.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    state, threads, start = fields[0], int(fields[17]), int(fields[19])
    return None if state in b"ZX" and threads < 2 else start


def _children(pid: int) -> list[int]:
    return [int(word) for task in _tasks(pid) for word in _content(Path(task, "children")).split()]


def _tasks(pid: int) -> list[str]:
    """The folder of each thread of a process."""
    try:
        return [f"/proc/{pid}/task/{name}" for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _living(pid: int) -> tuple[str, dict[str, int]]:
    """Folder and status of a process, seen from a thread that still has its memory."""
    for folder in (f"/proc/{pid}", *_tasks(pid)):
        if "RssAnon" in (status := _status(folder)):
            return folder, status
    return f"/proc/{pid}", {}


def _status(folder: str) -> dict[str, int]:
    return _fields(f"{folder}/status")


def _resident(status: dict[str, int]) -> int:
    """Memory of a process that no file on a disk stands for, pages shared by a fork included, B."""
    return sum(status.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


def _fields(path: str) -> dict[str, int]:
    """Lines such as `VmData: 488 kB` or `Threads: 1` of a file in /proc; sizes in B."""
    found = re.findall(r"^(\w+):\s+(\d+)( kB)?$", _content(Path(path)), re.MULTILINE)
    return {name: int(number) * (1024 if unit else 1) for name, number, unit in found}


def _memory_files(folders: Iterable[str]) -> int:
    """The size of the files that processes made by memfd_create(2) and have open, B.

    folders: of the processes in /proc.
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


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
