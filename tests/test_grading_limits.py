"""Limits on memory, processes and files, tested with submissions that exceed them."""

import os
import shutil
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from course_utils.machine.cgroups import memberships
from tests.sandboxes import QUICK, needed, printed, session, text_of
from tests.waiting import wait_until
from workshop.grading.sandbox import limits
from workshop.grading.sandbox.limits import cgroups
from workshop.grading.sandbox.server import Server

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the limits need Linux"),
    pytest.mark.xdist_group("sandbox"),
]
MB = 10**6
SMALL = replace(QUICK, memory=200 * MB)
EXCEEDED = "its processes used more than 200.00 MB of memory"
HEAD = """
import ctypes, mmap, os, sys, threading, time
def fill(size, memory=None):
    "Write to each page of some memory."
    memory = memory or bytearray(size)
    for start in range(0, size, 4096):
        memory[start] = 1
    return memory
MB = 10**6
"""


@pytest.fixture(params=["watcher", "cgroup"])
def kind(request, monkeypatch):
    """Each kind of limit that works on this machine."""
    if request.param == "watcher":
        monkeypatch.setattr(cgroups, "parent", lambda: None)
    elif not cgroups.parent():
        pytest.skip("no control group can be created on this machine")


BOMBS = {
    "several processes": """
        for _ in range(4):
            if not os.fork():
                kept = fill(75 * MB)
                time.sleep(60)
        """,
    "shared memory after a fork": """
        shared = mmap.mmap(-1, 300 * MB)
        os.fork()
        kept = fill(300 * MB, shared)
        """,
    "a grandchild whose parent has ended": """
        if not os.fork():
            if not os.fork():
                time.sleep(0.5)
                kept = fill(300 * MB, mmap.mmap(-1, 300 * MB))
                time.sleep(60)
            os._exit(0)
        """,
    "a process whose first thread has ended": """
        def later():
            time.sleep(0.3)
            kept.append(fill(300 * MB, mmap.mmap(-1, 300 * MB)))
            time.sleep(60)
        kept = []
        threading.Thread(target=later).start()
        ctypes.CDLL(None).pthread_exit(None)
        """,
    "a process that hides its use of memory from other users": """
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        kept = fill(300 * MB, mmap.mmap(-1, 300 * MB))
        """,
}


@needed
@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(name, marks=() if name == "several processes" else pytest.mark.full)
        for name in BOMBS
    ],
)
def test_a_submission_that_exceeds_the_memory_limit_is_killed(kind, bomb):
    with session(limits=SMALL) as running:
        running.run(HEAD + textwrap.dedent(BOMBS[bomb]) + "\ntime.sleep(60)")
        assert running.incidents == [f"a cell: the process ended: {EXCEEDED}"]
        assert running.memory > 190 * MB


@needed
@pytest.mark.full
def test_memory_of_the_warm_server_and_shared_pages_count_as_little_as_they_should(kind):
    """Pages of the server count if a process writes to them, and pages of a fork count once."""
    steps = {
        "sum(sys.warm[::4096])": (0, 40),
        "kept = fill(50 * MB)": (45, 90),
        "fill(70 * MB, sys.warm)": (115, 160),
        # The watcher may measure too little here, as its docstring says.
        "for _ in range(3):\n    if not os.fork():\n        time.sleep(60)": (0, 160),
    }
    code = HEAD
    with Server("import sys; sys.warm = bytearray(b'x' * 150_000_000)") as server:
        for step, (least, most) in steps.items():
            code += step + "\n"
            process = server.start("student", SMALL)
            process.channel.send("run", f"{code}time.sleep(1.5)".encode(), n=0)
            assert process.channel.receive().kind == "done"
            if not cgroups.parent():  # On a busy machine, the watcher needs more time.
                wait_until(lambda limits=process.limits, least=least: limits.peak > least * MB)
            assert process.end() == "" and least * MB < process.limits.peak < most * MB, step


@needed
def test_memory_that_nobody_has_mapped_cannot_be_created():
    """The watcher couldn't see it."""
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.shmget(0, 4096, 0o1600), os.strerror(ctypes.get_errno()))
        print(libc.memfd_create(b"bomb", 0), os.strerror(ctypes.get_errno()))
        """
    assert printed(textwrap.dedent(code)) == 2 * "-1 Function not implemented\n"


@needed
def test_limits_of_a_process_are_set_and_can_not_be_raised():
    code = """
        import resource
        for name in ("NOFILE", "NPROC", "FSIZE", "SIGPENDING", "CORE", "MSGQUEUE", "MEMLOCK"):
            kind = getattr(resource, f"RLIMIT_{name}")
            soft, hard = resource.getrlimit(kind)
            try:
                resource.setrlimit(kind, (hard + 1, hard + 1))
            except ValueError:
                print(name, soft if soft == hard else (soft, hard))
        with open("large", "wb") as stream:
            stream.truncate(600_000_001)
        """
    lines = printed(textwrap.dedent(code)).splitlines()
    expected = ["NOFILE 512", "NPROC 40", "FSIZE 600000000", "SIGPENDING 1000", "CORE 0"]
    assert lines[:7] == [*expected, "MSGQUEUE 0", "MEMLOCK 0"]
    assert "File too large" in lines[-1]


@needed
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_the_size_of_files_is_limited(folder):
    code = f"with open('{folder}/big', 'wb') as f:\n    for _ in range(99): f.write(bytes({MB}))"
    assert "No space left" in printed(code)


@needed
@pytest.mark.parametrize(
    "start",
    ["os.fork() or time.sleep(60)", "threading.Thread(target=time.sleep, args=(60,)).start()"],
)
def test_the_number_of_processes_and_threads_is_limited(start):
    with session() as running:
        running.run(f"{HEAD}started = 0\nwhile True:\n    {start}\n    started += 1")
        assert 5 < int(text_of(running.run("print(started)"))) < QUICK.processes


# --- control groups: a normal folder replaces the file system, which not every machine has --------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder that looks like the file system of cgroup v2; return a group with processes."""
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "KILL_TIMEOUT", 0.1)
    own = tmp_path / "user.slice" / "user.service" / "run.scope"
    own.mkdir(parents=True)
    for folder in own.parents:
        (folder / "cgroup.controllers").write_text("cpu memory")
        (folder / "cgroup.subtree_control").write_text("cpu")
        if folder == tmp_path:
            return own


def joined(path):
    return lambda: memberships(f"9:pids:/box\n0::{path}\n")


def test_the_nearest_group_that_works_is_the_parent(tree, monkeypatch):
    tried = []
    monkeypatch.setattr(cgroups, "_works", lambda folder: tried.append(folder))
    for path in ("/user.slice/user.service/run.scope", "/"):
        monkeypatch.setattr(cgroups, "memberships", joined(path))
        assert cgroups.parent.__wrapped__() is None
    top = tree.parents[2]
    assert tried == [tree.parent, tree.parents[1], top, top]


def test_a_folder_in_which_no_process_can_be_killed_does_not_work(tree, monkeypatch):
    assert not cgroups._works(tree.parent)
    (tree.parent / "cgroup.controllers").write_text("cpu")
    assert not cgroups._works(tree.parent)
    monkeypatch.setattr(cgroups, "memberships", joined("/user.slice/user.service/run.scope"))
    monkeypatch.setattr(cgroups, "parent", cgroups.parent.__wrapped__)
    assert isinstance(limits.enforce(os.getpid(), 10**15), limits.WatchedLimit)


def test_the_files_of_cgroup_v2_are_written_and_read(tree, monkeypatch):
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)
    (tree / "memory.swap.max").write_text("max")
    events = "low 0\nhigh 0\nmax 3\noom {}\noom_kill {}\noom_group_kill 0\n"
    for oom, kills, reason in (
        (0, 0, ""),
        (0, 1, "the machine ran out of memory"),
        (1, 1, EXCEEDED),
    ):
        limit = limits.CgroupLimit(os.getpid(), SMALL.memory, tree)
        names = ("memory.max", "memory.oom.group", "cgroup.procs")
        texts = [(limit.folder / name).read_text() for name in names]
        assert texts == ["200000000", "1", str(os.getpid())]
        (limit.folder / "memory.events").write_text(events.format(oom, kills))
        (limit.folder / "memory.peak").write_text("5000\n")
        limit.close()
        assert (limit.exceeded, limit.peak) == (reason, 5000)
        assert not limit.folder.exists()


def test_only_groups_of_workers_that_have_ended_are_removed(tree):
    ended, running = (tree / f"{cgroups.PREFIX}-{pid}-x" for pid in (2**30, os.getpid()))
    ended.mkdir()
    running.mkdir()
    cgroups._remove_empty(tree)
    assert running.exists() and not ended.exists()
