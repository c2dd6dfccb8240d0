"""Bounds on memory and processes, with real processes that take too much."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from course_utils.cgroups import memberships
from course_utils.grading.sandbox import limits
from course_utils.grading.sandbox.limits import cgroups, proc, rlimits, watcher

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds are for Linux")
MB = 10**6
CGROUPS = Path("/sys/fs/cgroup")
# What a member runs before its own code: it waits until it has limits, then has 10 s.
START = """
import ctypes, mmap, os, signal, sys, threading, time
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
libc = ctypes.CDLL(None, use_errno=True)
MB = 10**6
def fill(memory):  # whole pages, each written
    view = memoryview(memory)
    for at in range(0, len(view), 4096):
        view[at] = 1
def say(text):
    print(text, flush=True)
def hear():
    return sys.stdin.readline().strip()
"""
# A process that takes a user, a user namespace and a PID namespace of its own, where it is first.
ALONE = """
import resource
from course_utils.grading.sandbox import limits, namespaces
if os.getuid() == 0:
    os.setgroups([]), os.setgid(54321), os.setuid(54321)
namespaces.libc.prctl(4, 1, 0, 0, 0)  # its files in /proc are its own again
namespaces.unshare_namespaces()
resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))
if pid := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
libc.prctl(1, 9, 0, 0, 0)  # dies with its parent
"""


def kinds():
    """The kinds of limits on this machine."""
    best = cgroups.best_place() if sys.platform == "linux" else None
    return ["watched", "grouped"] if best else ["watched"]


@pytest.fixture(params=kinds())
def make(request):
    """Makes limits of either kind, and sees that they leave nothing behind."""
    made = {"watched": limits.PollingLimits, "grouped": limits.enforce}[request.param]
    yield made
    assert folders_of(os.getpid()) == []


def folders_of(pid):
    """The folders that a process's limits have in the cgroup file systems."""
    names = (Path(top, name) for top, inner, _ in os.walk(CGROUPS) for name in inner)
    return [
        p for p in names if p.name.startswith(cgroups.PREFIX) and p.name.split("-")[3] == f"{pid}"
    ]


@contextlib.contextmanager
def member(source, before=""):
    """A process that runs `source` when it is sent a line."""
    text = START + before + "hear()\n" + textwrap.dedent(source)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    process = subprocess.Popen([sys.executable, "-c", text], **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def go(process, word=""):
    process.stdin.write(word + "\n")
    process.stdin.flush()


def heard(process):
    """The line that a member says next."""
    assert select.select([process.stdout], [], [], 30)[0], "it says nothing"
    return process.stdout.readline().strip()


def until(condition, seconds=30):
    """Wait until something is so; returns whether it came to be."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


BOMBS = {
    "bytearray": "fill(kept := bytearray(300 * MB))",
    "in steps": "kept = [bytearray(b'1') * MB for _ in range(300)]",
    "shared mapping": "fill(kept := mmap.mmap(-1, 300 * MB))",
    "memory file": """
        file = os.memfd_create("bomb")
        for _ in range(300):
            os.write(file, bytes(MB))
        """,
    "memory file, written before it is mapped": """
        file = os.memfd_create("bomb")
        os.truncate(file, 300 * MB)
        fill(kept := mmap.mmap(file, 300 * MB))
        """,
    "several processes": """
        for _ in range(4):
            if not os.fork():
                fill(kept := bytearray(75 * MB))
                time.sleep(60)
        """,
    "shared by a fork": """
        fill(kept := bytearray(300 * MB))
        os.fork(), os.fork()
        """,
    "a grandchild whose parent has ended": """
        libc.prctl(36, 1, 0, 0, 0)  # orphans become its children
        if not os.fork():
            if not os.fork():
                time.sleep(0.5)
                fill(kept := bytearray(300 * MB))
                time.sleep(60)
            os._exit(0)
        """,
    "a thread, after the first one has ended": """
        def bomb():
            time.sleep(0.5)
            fill(bytearray(300 * MB))
            time.sleep(60)
        threading.Thread(target=bomb).start()
        libc.pthread_exit(None)
        """,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_memory_bomb_is_ended(make, bomb):
    with member(textwrap.dedent(BOMBS[bomb]) + "\ntime.sleep(60)") as process:
        with make(100 * MB, 50) as enforced:
            enforced.add(process.pid)
            go(process)
            assert until(lambda: enforced.exceeded)
            assert enforced.exceeded == "its processes took more than 100.00 MB of memory"
            assert enforced.peak > 90 * MB
        assert process.wait(5) == -signal.SIGKILL
        assert enforced.exceeded and enforced.peak > 90 * MB


NEAR = {
    "bytearray": "fill(kept := bytearray(80 * MB))",
    "memory file": """
        file = os.memfd_create("large")
        os.truncate(file, 80 * MB)
        fill(kept := mmap.mmap(file, 80 * MB))
        """,
}


@pytest.mark.parametrize("near", NEAR)
def test_a_process_near_its_bound_goes_on(make, near):
    source = textwrap.dedent(NEAR[near]) + "\nsay('done'); hear(); say('still here')"
    with member(source) as process, make(100 * MB, 50) as enforced:
        enforced.add(process.pid)
        go(process)
        assert heard(process) == "done"
        time.sleep(3 * watcher.INTERVAL)
        assert 79 * MB < enforced.peak < 100 * MB
        go(process)
        assert heard(process) == "still here"
        assert process.wait(5) == 0 and enforced.exceeded == ""


# A warm server of 200 MB, which forks once it has heard a line, and says the pid.
SERVER = """
warm = bytearray(200 * MB)
fill(warm)
if pid := os.fork():
    say(pid)
    time.sleep(60)
"""


@contextlib.contextmanager
def forked(source):
    with member(source, before=SERVER) as process:
        try:
            yield process, (pid := int(heard(process)))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_what_a_warm_server_has_counts_when_it_is_written_to(make):
    source = """
        sum(warm[::4096])
        fill(kept := bytearray(50 * MB))
        say("read")
        hear()
        fill(warm)
        say("written")
        time.sleep(60)
        """
    with forked(source) as (process, pid), make(100 * MB, 50) as enforced:
        enforced.add(pid)
        go(process)
        assert heard(process) == "read"
        time.sleep(3 * watcher.INTERVAL)
        assert 45 * MB < enforced.peak < 75 * MB and enforced.exceeded == ""
        go(process)
        assert until(lambda: enforced.exceeded)
        assert process.poll() is None  # the server


def test_pages_that_processes_share_count_once(make):
    source = """
        fill(kept := bytearray(60 * MB))
        for _ in range(3):
            if not os.fork():
                time.sleep(60)
        say("forked")
        time.sleep(60)
        """
    with forked(source) as (process, pid), make(100 * MB, 50) as enforced:
        enforced.add(pid)
        go(process)
        assert heard(process) == "forked"
        time.sleep(4 * watcher.INTERVAL)
        assert enforced.exceeded == "" and enforced.peak < 90 * MB


FORK_BOMB = """
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""
THREADS = """
for _ in range(100):
    threading.Thread(target=time.sleep, args=(60,)).start()
"""


@pytest.mark.parametrize("bomb", [FORK_BOMB, THREADS], ids=["fork", "threads"])
def test_too_many_processes(make, bomb):
    with member(bomb, before=ALONE) as process:
        with make(500 * MB, 20) as enforced:
            enforced.add(process.pid)
            inside = proc.children(process.pid) or until(lambda: proc.children(process.pid))
            assert inside
            (first,) = proc.children(process.pid)
            enforced.add(first)
            go(process)
            assert until(lambda: enforced.exceeded)
            assert enforced.exceeded == "it tried to run more than 20 processes and threads at once"
            enforced.kill()
            assert until(lambda: proc.started(first) is None)
        assert process.wait(5) != 0


def test_kill_ends_all_and_only_members(make):
    source = """
        libc.prctl(36, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pids = []
        for _ in range(3):
            reading, writing = os.pipe()
            if not os.fork():
                os.setsid()
                if pid := os.fork():
                    os.write(writing, str(pid).encode())
                    os._exit(0)
                time.sleep(60)
            pids.append(os.read(reading, 20).decode())
        say(" ".join(pids))
        time.sleep(60)
        """
    with member(source) as process, member("time.sleep(60)") as other:
        go(other)
        with make(200 * MB, 50) as enforced:
            enforced.add(process.pid)
            go(process)
            daemons = [int(word) for word in heard(process).split()]
            time.sleep(2 * watcher.INTERVAL)
            enforced.kill()
            assert process.wait(5) == -signal.SIGKILL
            assert len(daemons) == 3 and not any(map(proc.started, daemons))
            assert enforced.exceeded == ""
        assert other.poll() is None


def test_a_process_that_has_ended_cannot_be_added(make):
    ended = subprocess.Popen(["true"])
    ended.wait()
    with make(MB, 5) as enforced, pytest.raises(ProcessLookupError):
        enforced.add(ended.pid)


def test_an_error_inside_ends_the_members(make):
    with member("time.sleep(60)") as process:
        with pytest.raises(KeyError), make(100 * MB, 5) as enforced:
            enforced.add(process.pid)
            raise KeyError
        assert process.wait(5) == -signal.SIGKILL


def test_one_thread_watches_and_ends():
    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "watcher"]

    with limits.PollingLimits(MB, 5), limits.PollingLimits(MB, 5):
        assert len(threads()) == 1
    assert until(lambda: not threads())


def test_what_cannot_be_read_counts_whole(monkeypatch):
    numbers = proc.numbers
    monkeypatch.setattr(proc, "numbers", lambda p: {} if p.endswith("rollup") else numbers(p))
    source = "fill(kept := bytearray(150 * MB)); time.sleep(60)"
    with member(source) as process, limits.PollingLimits(100 * MB, 5) as enforced:
        enforced.add(process.pid)
        go(process)
        assert until(lambda: enforced.exceeded)


def test_memory_that_was_counted_twice_for_a_moment_ends_nothing(monkeypatch):
    """Until it runs another program, a forked process may have its parent's very memory."""
    measured = iter([(150 * MB, 2), (80 * MB, 1)])
    enforced = limits.PollingLimits(100 * MB, 5)
    monkeypatch.setattr(enforced, "_measure", lambda: next(measured))
    enforced.look()
    assert (enforced.exceeded, enforced._peak) == ("", 80 * MB)


grouped = pytest.mark.skipif("grouped" not in kinds(), reason="no control groups to be had here")


@grouped
def test_files_in_memory_are_charged(tmp_path):
    path = Path("/dev/shm") / f"{cgroups.PREFIX}-{os.getpid()}"
    source = f"""
        with open({str(path)!r}, "wb") as stream:
            for _ in range(200):
                stream.write(bytes(MB))
        """
    try:
        with member(source) as process, limits.enforce(100 * MB, 5) as enforced:
            enforced.add(process.pid)
            go(process)
            assert process.wait(10) == -signal.SIGKILL
            assert enforced.exceeded == "its processes took more than 100.00 MB of memory"
    finally:
        path.unlink(missing_ok=True)


# A worker that is killed while it enforces limits on a member.
WORKER = """
import os, signal, subprocess
from course_utils.grading.sandbox import limits
child = subprocess.Popen(["sleep", "60"])
with limits.enforce(10**8, 5) as enforced:
    enforced.add(child.pid)
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@grouped
def test_the_next_worker_removes_what_a_killed_one_left():
    killed = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    child = int(killed.stdout.readline())
    assert killed.wait(10) == -signal.SIGKILL
    try:
        assert folders_of(killed.pid) and proc.started(child)
        with member("time.sleep(60)") as process, limits.enforce(100 * MB, 5) as enforced:
            enforced.add(process.pid)
            probe = "from course_utils.grading.sandbox import limits; limits.available()"
            subprocess.run([sys.executable, "-c", probe], check=True, timeout=30)
            assert folders_of(killed.pid) == [] and proc.started(child) is None
            assert len(folders_of(os.getpid())) == len(enforced.folders)  # a living worker's stay
            assert process.poll() is None
    finally:
        killed.stdout.close()
        cgroups.end_members(folders_of(killed.pid))
        cgroups.remove(folders_of(killed.pid))


def test_a_folder_of_another_pid_namespace_is_not_stale():
    namespace, pid, start = proc.identity(os.getpid())
    assert not cgroups.is_stale(f"{cgroups.PREFIX}-{namespace}-{pid}-{start}-0")
    assert cgroups.is_stale(f"{cgroups.PREFIX}-{namespace}-{pid}-{start + 1}-0")
    assert not cgroups.is_stale(f"{cgroups.PREFIX}-{namespace + 1}-{pid}-{start + 1}-0")
    assert not cgroups.is_stale("user.slice")


MOUNTS = """\
30 23 0:26 {root} {top} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 / {top}/memory rw - cgroup cgroup rw,memory
32 23 0:28 /box {top}/pids rw - cgroup cgroup rw,pids
33 23 0:29 / /proc rw - proc proc rw
"""


def test_places_for_control_groups(tmp_path):
    own = tmp_path / "user.slice" / "user.service" / "run.scope"
    own.mkdir(parents=True)
    (tmp_path / "memory" / "group").mkdir(parents=True)
    (tmp_path / "pids" / "inner").mkdir(parents=True)
    groups = "9:pids:/box/inner\n4:memory:/group\n0::/user.slice/user.service/run.scope\n"
    found = cgroups.places(memberships(groups), MOUNTS.format(root="/", top=tmp_path))
    nearest = [own.parent, own.parent.parent, tmp_path]
    assert found[:3] == [cgroups.Place("cgroup v2", path, path) for path in nearest]
    legacy = cgroups.Place("cgroup v1", tmp_path / "memory" / "group", tmp_path / "pids" / "inner")
    assert found[3:] == [legacy]
    at_top = cgroups.places(memberships("0::/\n"), MOUNTS.format(root="/", top=tmp_path))
    assert at_top == [cgroups.Place("cgroup v2", tmp_path, tmp_path)]
    outside = cgroups.places(memberships("0::/../..\n"), MOUNTS.format(root="/", top=tmp_path))
    assert outside == at_top
    assert cgroups.places(memberships("0::/\n"), "") == cgroups.places([], "") == []


def test_files_of_cgroup_v2(tmp_path, monkeypatch):
    """What is written into and read from a cgroup v2, with a folder that stands for one."""
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)
    mkdir = Path.mkdir

    def filled(folder):
        mkdir(folder)
        for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max"):
            (folder / name).write_text("max")

    monkeypatch.setattr(Path, "mkdir", filled)
    (tmp_path / "cgroup.subtree_control").write_text("cpu")
    with limits.CgroupLimits(
        100 * MB, 7, cgroups.Place("cgroup v2", tmp_path, tmp_path)
    ) as enforced:
        (folder,) = enforced.folders
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids"
        names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
        texts = [(folder / name).read_text() for name in names]
        assert texts == ["100000000", "0", "1", "7"]
        enforced.add(os.getpid())
        assert (folder / "cgroup.procs").read_text() == str(os.getpid())
        (folder / "cgroup.procs").write_text("")
        (folder / "memory.peak").write_text("5000\n")
        assert (enforced.peak, enforced.exceeded) == (5000, "")
        (folder / "pids.events").write_text("max 2\n")
        assert enforced.exceeded == "it tried to run more than 7 processes and threads at once"
        (folder / "memory.events").write_text("low 0\nmax 3\noom 0\noom_kill 1\n")
        assert enforced.exceeded == "the machine ran out of memory while it ran"
        (folder / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 1\n")
        (folder / "cgroup.kill").write_text("")
        enforced.kill()
        assert (folder / "cgroup.kill").read_text() == "1"
    assert not folder.exists()
    assert enforced.exceeded == "its processes took more than 100.00 MB of memory"
    assert enforced.peak == 5000


def test_without_control_groups_processes_are_watched(monkeypatch):
    def none(*_):
        raise PermissionError

    monkeypatch.setattr(limits.CgroupLimits, "__enter__", none)
    cgroups.best_place.cache_clear()
    try:
        assert isinstance(limits.enforce(MB, 5), limits.PollingLimits)
        assert limits.available() == (limits.WATCHER, limits.BETTER)
    finally:
        cgroups.best_place.cache_clear()


@grouped
def test_available_says_which_control_groups():
    kind, better = limits.available()
    assert kind in ("control groups (cgroup v1)", "control groups (cgroup v2)") and better == ""


def run(source, before=""):
    with member(source, before) as process:
        go(process)
        out = process.stdout.read()
        return process.wait(20), out


def test_bounds_of_one_process():
    source = """
        import resource
        from course_utils.grading.sandbox import limits
        kept = bytearray(100 * MB)
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
        limits.limit_process(50 * MB, 20, 30)
        limits.limit_process(10**12, 10**6, 10**6)  # never raised again
        fill(more := bytearray(30 * MB))
        for take in (bytearray, lambda size: open("/dev/null").read() + "x" * size):
            try:
                take(60 * MB)
            except MemoryError:
                say("no memory")
        say(resource.getrlimit(resource.RLIMIT_NOFILE))
        for kind in ("FSIZE", "CORE", "MSGQUEUE", "MEMLOCK"):
            say(resource.getrlimit(getattr(resource, f"RLIMIT_{kind}")))
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        say(30 <= soft <= 33 and hard == soft + 1)
        """
    status, out = run(source)
    size = f"({50 * MB}, {50 * MB})"
    nothing = "(0, 0)"
    expected = ["no memory", "no memory", "(300, 300)", size, nothing, nothing, nothing, "True"]
    assert (status, out.splitlines()) == (0, expected)


def test_files_and_time_are_bounded(tmp_path):
    source = f"""
        from course_utils.grading.sandbox import limits
        limits.limit_process(50 * MB, 20, 1)
        with open({str(tmp_path / "large")!r}, "wb") as stream:
            try:
                os.truncate(stream.fileno(), 51 * MB)
            except OSError as fault:
                say(fault.strerror)
        while True:
            pass
        """
    assert run(source) == (-signal.SIGXCPU, "File too large\n")


@pytest.mark.skipif(
    sys.platform != "linux" or rlimits.kernel_version() < (5, 14),
    reason="counted per user, not namespace",
)
def test_processes_are_bounded_in_a_user_namespace():
    source = """
        from course_utils.grading.sandbox import limits
        limits.limit_process(500 * MB, 10, 30)
        started = 0
        try:
            for _ in range(30):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                started += 1
        except RuntimeError:
            say(started)
        os._exit(0)
        """
    status, out = run(source, before=ALONE)
    assert status == 0 and 5 <= int(out) <= 10
