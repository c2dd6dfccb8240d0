"""Limits on memory and processes, tested with real processes that exceed them."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from course_utils.machine.cgroups import memberships
from tests.waiting import wait_until
from workshop.grading.sandbox import limits
from workshop.grading.sandbox.limits import cgroups, proc, rlimits, watcher
from workshop.grading.sandbox.limits.cgroups import ParentGroups

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits need Linux")
MB = 10**6
CGROUPS = Path("/sys/fs/cgroup")
# The code that a member runs before its own code.
START = """
import ctypes, mmap, os, signal, sys, threading, time
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
libc = ctypes.CDLL(None, use_errno=True)
MB = 10**6
def fill(memory):
    "Write to each page of the memory."
    view = memoryview(memory)
    for start in range(0, len(view), 4096):
        view[start] = 1
def report(text):
    print(text, flush=True)
def wait_for_line():
    return sys.stdin.readline().strip()
"""
# The code of a process that gets its own user namespace and is the first of its own PID namespace.
OWN_NAMESPACES = """
import resource
from workshop.grading.sandbox import limits, namespaces
if os.getuid() == 0:
    os.setgroups([]), os.setgid(54321), os.setuid(54321)
# PR_SET_DUMPABLE: after the change of the user, the process may write to its files in /proc again.
namespaces.libc.prctl(4, 1, 0, 0, 0)
namespaces.unshare_namespaces()
resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))
if pid := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
# PR_SET_PDEATHSIG: the process is killed when its parent ends.
libc.prctl(1, 9, 0, 0, 0)
"""


def kinds():
    """Return the kinds of limits that work on this machine."""
    parents = cgroups.best_parent() if sys.platform == "linux" else None
    return ["polling", "cgroup"] if parents else ["polling"]


@pytest.fixture(params=kinds())
def make(request):
    """Return a function that creates limits; after the test, no control group may be left."""
    yield {"polling": limits.PollingLimits, "cgroup": limits.enforce}[request.param]
    assert folders_of(os.getpid()) == []


def folders_of(pid):
    """Return the folders of the control groups that a process has created for limits."""
    folders = (Path(top, name) for top, names, _ in os.walk(CGROUPS) for name in names)
    groups = (folder for folder in folders if folder.name.startswith(cgroups.PREFIX))
    return [folder for folder in groups if folder.name.split("-")[3] == str(pid)]


@contextlib.contextmanager
def member(source, before=""):
    """Start a process that runs `before`, waits for a line, and then runs `source`."""
    text = START + before + "wait_for_line()\n" + textwrap.dedent(source)
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


def send_line(process):
    process.stdin.write("\n")
    process.stdin.flush()


def next_line(process):
    """Return the next line that a member prints."""
    assert select.select([process.stdout], [], [], 60)[0], "the process printed nothing"
    return process.stdout.readline().strip()


FULL = [pytest.mark.full]
BOMBS = {
    "bytearray": "fill(kept := bytearray(300 * MB))",
    "memory file": """
        file = os.memfd_create("bomb")
        for _ in range(300):
            os.write(file, bytes(MB))
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
        # PR_SET_CHILD_SUBREAPER: orphaned descendants become its children.
        libc.prctl(36, 1, 0, 0, 0)
        if not os.fork():
            if not os.fork():
                time.sleep(0.5)
                fill(kept := bytearray(300 * MB))
                time.sleep(60)
            os._exit(0)
        """,
}


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(name, marks=[] if name in ("bytearray", "several processes") else FULL)
        for name in BOMBS
    ],
)
def test_a_process_that_exceeds_the_memory_limit_is_killed(make, bomb):
    with member(textwrap.dedent(BOMBS[bomb]) + "\ntime.sleep(60)") as process:
        with make(100 * MB, 50) as enforced:
            enforced.add(process.pid)
            send_line(process)
            assert wait_until(lambda: enforced.exceeded)
            assert enforced.exceeded == "its processes used more than 100.00 MB of memory"
            assert enforced.peak > 90 * MB
        assert process.wait(5) == -signal.SIGKILL
        assert enforced.exceeded and enforced.peak > 90 * MB


def test_a_process_just_below_the_memory_limit_continues(make):
    source = "fill(kept := bytearray(80 * MB)); report('done'); wait_for_line(); report('running')"
    with member(source) as process, make(100 * MB, 50) as enforced:
        enforced.add(process.pid)
        send_line(process)
        assert next_line(process) == "done"
        time.sleep(3 * watcher.INTERVAL)
        assert 79 * MB < enforced.peak < 100 * MB
        send_line(process)
        assert next_line(process) == "running"
        assert process.wait(5) == 0 and enforced.exceeded == ""


# The code of a warm server of 200 MB that forks a process, and prints the pid.
SERVER = """
warm = bytearray(200 * MB)
fill(warm)
if pid := os.fork():
    report(pid)
    time.sleep(60)
"""


@contextlib.contextmanager
def forked(source):
    """Start a warm server that forks a process; yield the server and the pid of the fork.

    The fork waits for a line, and then runs `source`.
    """
    with member(source, before=SERVER) as process:
        try:
            yield process, (pid := int(next_line(process)))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_memory_of_the_warm_server_counts_only_after_a_process_writes_to_it(make):
    source = """
        sum(warm[::4096])
        fill(kept := bytearray(50 * MB))
        report("read")
        wait_for_line()
        fill(warm)
        report("written")
        time.sleep(60)
        """
    with forked(source) as (process, pid), make(100 * MB, 50) as enforced:
        enforced.add(pid)
        send_line(process)
        assert next_line(process) == "read"
        time.sleep(3 * watcher.INTERVAL)
        assert 45 * MB < enforced.peak < 75 * MB and enforced.exceeded == ""
        send_line(process)
        assert wait_until(lambda: enforced.exceeded)
        # The server itself is still running.
        assert process.poll() is None


@pytest.mark.full
def test_pages_that_forked_processes_share_count_once(make):
    source = """
        fill(kept := bytearray(60 * MB))
        for _ in range(3):
            if not os.fork():
                time.sleep(60)
        report("forked")
        time.sleep(60)
        """
    with forked(source) as (process, pid), make(100 * MB, 50) as enforced:
        enforced.add(pid)
        send_line(process)
        assert next_line(process) == "forked"
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
def test_a_submission_with_too_many_processes_or_threads_is_stopped(make, bomb):
    with member(bomb, before=OWN_NAMESPACES) as process:
        with make(500 * MB, 20) as enforced:
            enforced.add(process.pid)
            assert wait_until(lambda: proc.children(process.pid))
            (first,) = proc.children(process.pid)
            enforced.add(first)
            send_line(process)
            assert wait_until(lambda: enforced.exceeded)
            assert enforced.exceeded == "it tried to run more than 20 processes and threads at once"
            enforced.kill()
            assert wait_until(lambda: proc.start_time(first) is None)
        assert process.wait(5) != 0


def test_kill_ends_all_members_and_no_other_process(make):
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
        report(" ".join(pids))
        time.sleep(60)
        """
    with member(source) as process, member("time.sleep(60)") as other:
        send_line(other)
        with make(200 * MB, 50) as enforced:
            enforced.add(process.pid)
            send_line(process)
            daemons = [int(word) for word in next_line(process).split()]
            time.sleep(2 * watcher.INTERVAL)
            enforced.kill()
            assert process.wait(5) == -signal.SIGKILL
            assert len(daemons) == 3 and not any(map(proc.start_time, daemons))
            assert enforced.exceeded == ""
        assert other.poll() is None


needs_cgroups = pytest.mark.skipif("cgroup" not in kinds(), reason="no control groups work here")


@needs_cgroups
def test_files_in_a_tmpfs_count_as_memory(tmp_path):
    path = Path("/dev/shm") / f"{cgroups.PREFIX}-{os.getpid()}"
    source = f"""
        with open({str(path)!r}, "wb") as stream:
            for _ in range(200):
                stream.write(bytes(MB))
        """
    try:
        with member(source) as process, limits.enforce(100 * MB, 5) as enforced:
            enforced.add(process.pid)
            send_line(process)
            assert process.wait(10) == -signal.SIGKILL
            assert enforced.exceeded == "its processes used more than 100.00 MB of memory"
    finally:
        path.unlink(missing_ok=True)


# A worker that is killed while it enforces limits on a member.
WORKER = """
import os, signal, subprocess
from workshop.grading.sandbox import limits
child = subprocess.Popen(["sleep", "60"])
with limits.enforce(10**8, 5) as enforced:
    enforced.add(child.pid)
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_cgroups
def test_the_next_worker_removes_the_groups_of_a_killed_worker():
    killed = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    child = int(killed.stdout.readline())
    assert killed.wait(10) == -signal.SIGKILL
    try:
        assert folders_of(killed.pid) and proc.start_time(child)
        with member("time.sleep(60)") as process, limits.enforce(100 * MB, 5) as enforced:
            enforced.add(process.pid)
            probe = "from workshop.grading.sandbox import limits; limits.available()"
            subprocess.run([sys.executable, "-c", probe], check=True, timeout=30)
            assert folders_of(killed.pid) == [] and proc.start_time(child) is None
            # The groups of a running worker stay.
            assert len(folders_of(os.getpid())) == len(enforced.folders)
            assert process.poll() is None
    finally:
        killed.stdout.close()
        cgroups.end_members(folders_of(killed.pid))
        cgroups.remove(folders_of(killed.pid))


MOUNTS = """\
30 23 0:26 {root} {top} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 / {top}/memory rw - cgroup cgroup rw,memory
32 23 0:28 /box {top}/pids rw - cgroup cgroup rw,pids
33 23 0:29 / /proc rw - proc proc rw
"""


def test_candidate_parents_of_new_groups(tmp_path):
    own = tmp_path / "user.slice" / "user.service" / "run.scope"
    own.mkdir(parents=True)
    (tmp_path / "memory" / "group").mkdir(parents=True)
    (tmp_path / "pids" / "inner").mkdir(parents=True)
    groups = "9:pids:/box/inner\n4:memory:/group\n0::/user.slice/user.service/run.scope\n"
    mounts = MOUNTS.format(root="/", top=tmp_path)
    candidates = cgroups.candidate_parents(memberships(groups), mounts)
    nearest = [own.parent, own.parent.parent, tmp_path]
    assert candidates[:3] == [ParentGroups("cgroup v2", path, path) for path in nearest]
    legacy = ParentGroups("cgroup v1", tmp_path / "memory" / "group", tmp_path / "pids" / "inner")
    assert candidates[3:] == [legacy]
    for path in ("/", "/../.."):
        at_top = cgroups.candidate_parents(memberships(f"0::{path}\n"), mounts)
        assert at_top == [ParentGroups("cgroup v2", tmp_path, tmp_path)]
    assert cgroups.candidate_parents(memberships("0::/\n"), "") == []
    assert cgroups.candidate_parents([], "") == []


def test_the_files_of_cgroup_v2_are_written_and_read(tmp_path, monkeypatch):
    """A normal folder replaces the cgroup file system, which not every machine has."""
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)
    mkdir = Path.mkdir

    def filled(folder):
        mkdir(folder)
        for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max"):
            (folder / name).write_text("max")

    monkeypatch.setattr(Path, "mkdir", filled)
    (tmp_path / "cgroup.subtree_control").write_text("cpu")
    with limits.CgroupLimits(
        100 * MB, 7, ParentGroups("cgroup v2", tmp_path, tmp_path)
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
        assert enforced.exceeded == "the machine ran out of memory"
        (folder / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 1\n")
        (folder / "cgroup.kill").write_text("")
        enforced.kill()
        assert (folder / "cgroup.kill").read_text() == "1"
    assert not folder.exists()
    assert enforced.exceeded == "its processes used more than 100.00 MB of memory"
    assert enforced.peak == 5000


def test_without_control_groups_a_thread_polls(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(limits.CgroupLimits, "__enter__", refuse)
    cgroups.best_parent.cache_clear()
    try:
        assert isinstance(limits.enforce(MB, 5), limits.PollingLimits)
        assert limits.available() == (limits.WATCHER, limits.BETTER)
    finally:
        cgroups.best_parent.cache_clear()


def run(source, before=""):
    with member(source, before) as process:
        send_line(process)
        out = process.stdout.read()
        return process.wait(20), out


@pytest.mark.full
def test_limits_of_one_process_can_only_be_lowered():
    source = """
        import resource
        from workshop.grading.sandbox import limits
        kept = bytearray(100 * MB)
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
        limits.limit_process(50 * MB, 20, 30)
        limits.limit_process(10**12, 10**6, 10**6)
        fill(more := bytearray(30 * MB))
        for allocate in (bytearray, lambda size: open("/dev/null").read() + "x" * size):
            try:
                allocate(60 * MB)
            except MemoryError:
                report("no memory")
        report(resource.getrlimit(resource.RLIMIT_NOFILE))
        for kind in ("FSIZE", "CORE", "MSGQUEUE", "MEMLOCK"):
            report(resource.getrlimit(getattr(resource, f"RLIMIT_{kind}")))
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        report(30 <= soft <= 33 and hard == soft + 1)
        """
    status, out = run(source)
    size = f"({50 * MB}, {50 * MB})"
    nothing = "(0, 0)"
    expected = ["no memory", "no memory", "(300, 300)", size, nothing, nothing, nothing, "True"]
    assert (status, out.splitlines()) == (0, expected)


@pytest.mark.full
def test_file_size_and_cpu_time_are_limited(tmp_path):
    source = f"""
        from workshop.grading.sandbox import limits
        limits.limit_process(50 * MB, 20, 1)
        with open({str(tmp_path / "large")!r}, "wb") as stream:
            try:
                os.truncate(stream.fileno(), 51 * MB)
            except OSError as error:
                report(error.strerror)
        while True:
            pass
        """
    assert run(source) == (-signal.SIGXCPU, "File too large\n")


@pytest.mark.skipif(
    sys.platform != "linux" or rlimits.kernel_version() < (5, 14),
    reason="older kernels count the user's processes in all namespaces",
)
def test_the_number_of_processes_is_limited_in_a_user_namespace():
    source = """
        from workshop.grading.sandbox import limits
        limits.limit_process(500 * MB, 10, 30)
        started = 0
        try:
            for _ in range(30):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                started += 1
        except RuntimeError:
            report(started)
        os._exit(0)
        """
    status, out = run(source, before=OWN_NAMESPACES)
    assert status == 0 and 5 <= int(out) <= 10
