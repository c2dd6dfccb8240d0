"""A class graded by the workers of a Dask cluster, each a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from course_utils.grading import classroom, cluster, marking
from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE
from course_utils.grading.sandbox import server
from course_utils.validation import CourseError
from tests import sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, ROOT, WRONG

distributed = pytest.importorskip("distributed")
pytestmark = needed

SLOW = {**RIGHT, "sum-all": f"import time\ntime.sleep(0.5)\n{RIGHT['sum-all']}"}
WORKERS = 2


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The course before anything was handed in."""
    return sums.course(tmp_path_factory.mktemp("released") / "course")


@pytest.fixture
def course(released, tmp_path):
    return Path(shutil.copytree(released, tmp_path / "course"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The folder in which workers run."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def running(elsewhere):
    """A client of a cluster of two workers with one thread each."""
    here = Path.cwd()
    os.chdir(elsewhere)
    settings = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True}
    settings |= {"dashboard_address": ":0", "local_directory": str(elsewhere)}
    with (
        distributed.LocalCluster(**settings) as started,
        distributed.Client(started, set_as_default=False) as client,
    ):
        os.chdir(here)
        yield client


@pytest.fixture
def client(running):
    """The same, with both workers there."""
    running.wait_for_workers(WORKERS, timeout=60)
    return running


def address(client):
    return client.scheduler.address


def hand_in(course, number, answers=SLOW):
    for n in range(number):
        sums.hand_in(course, f"s{n:02}", answers)


def grade(course, **options):
    return classroom.grade(course, NAME, limits=QUICK, **options)


def seen(record):
    """What a record says, without what a run takes."""
    return {**vars(record), "seconds": None, "memory": None}


def sandboxes(pids):
    """Processes of sandboxes that these workers have started."""
    children = (psutil.Process(pid).children(recursive=True) for pid in pids)
    return [child for of_one in children for child in of_one if child.name() == "bwrap"]


# --- what workers do ------------------------------------------------------------------------------


def note_what_is_opened(folder):
    """From now on this process keeps, in sys.opened, what it opens or lists in a folder."""
    sys.opened = []

    def note(event, arguments):
        path = arguments[0] if arguments else None
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(folder):
            sys.opened.append((event, os.fsdecode(path)))

    sys.addaudithook(note)


def opened():
    return sys.opened


def test_a_class_is_graded_as_on_this_machine(client, course):
    for n in range(4):
        sums.hand_in(course, f"right{n}", RIGHT)
        sums.hand_in(course, f"wrong{n}", WRONG)
    for student in ("untouched", "asleep"):
        sums.hand_in(course, student)
    sums.hand_in(course, "asleep", {"sum-all": "while True: pass"})
    sums.hand_in(course, "broken").write_text('{"cells": [', encoding="utf-8")
    (sums.hand_in(course, "missing").parent / f"{NAME}.ipynb").unlink()
    data = sums.hand_in(course, "data", {**RIGHT, "imports": "text = open('my.csv').read()"})
    (data.parent / "my.csv").write_text("1,2", encoding="utf-8")
    other = Path(shutil.copytree(course, course.parent / "other"))
    client.run(note_what_is_opened, str(course))
    told = []
    far = grade(course, scheduler=address(client), progress=lambda *step: told.append(step[1:]))
    near = grade(other, workers=WORKERS)
    assert [seen(record) for record in far.records] == [seen(record) for record in near.records]
    assert sums.grades(course) == sums.grades(other)
    assert {r.state for r in far.records} == {GRADED, PERSON, UNGRADABLE}
    assert told == [(n, 13) for n in range(1, 14)]
    for path in course.glob("autograded/*/*/*.ipynb"):
        assert path.read_bytes() == (other / path.relative_to(course)).read_bytes()
    # No worker has looked into the course's folder; that one would have been caught.
    assert set(map(str, client.run(opened).values())) == {"[]"}
    client.run(os.listdir, str(course))
    assert set(map(str, client.run(opened).values())) == {str([("os.listdir", str(course))])}


def test_no_sandbox_is_left_after_a_run(client, course):
    hand_in(course, 3)
    pids = client.run(os.getpid).values()
    during = []
    grade(
        course, scheduler=address(client), progress=lambda *_: during.append(len(sandboxes(pids)))
    )
    assert max(during) >= 2 and sandboxes(pids) == []


def test_no_sandbox_is_left_after_ctrl_c_and_what_was_graded_stays(client, course):
    hand_in(course, 6)
    pids = client.run(os.getpid).values()

    def interrupt(record, done, total):
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        grade(course, scheduler=address(client), progress=interrupt)
    time.sleep(1)  # for what was in the queue to start, if it did
    assert sandboxes(pids) == []
    assert grade(course, scheduler=address(client)).graded == 4


def test_what_a_killed_worker_had_is_graded_by_another(client, course):
    hand_in(course, 8)
    before = client.run(os.getpid)
    victim = next(iter(before.values()))
    orphans = []

    def kill(record, done, total):
        if done == 2:
            orphans.extend(sandboxes([victim]))
            os.kill(victim, signal.SIGKILL)

    result = grade(course, scheduler=address(client), progress=kill)
    assert [record.state for record in result.records] == [PERSON] * 8
    assert all(sum(filter(None, record.points.values())) == 9 for record in result.records)
    assert orphans and not [process for process in orphans if process.is_running()]


def start_servers(spec):
    """Start this process's sandboxes, from a thread that then ends."""
    distributed.secede()
    marking.servers(spec)
    return threading.get_native_id()


def server_lives():
    return [each.alive for running in marking._servers.values() for each in running]


def test_sandboxes_outlive_the_thread_that_asked_for_them(client, course):
    """Linux ends them with the thread that started them, and Dask's threads come and go."""
    spec = marking.grading_spec(course, NAME, QUICK)
    worker, pid = next(iter(client.run(os.getpid).items()))
    thread = client.submit(start_servers, spec, workers=[worker], pure=False).result()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/task/{thread}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}/task/{thread}")
    assert client.run(server_lives, workers=[worker])[worker] == [True, True]
    client.run(marking.close_servers)


# --- clusters that can't grade --------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 2)


def test_without_a_scheduler_it_says_so(course, impatient):
    hand_in(course, 1)
    with pytest.raises(CourseError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        grade(course, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(CourseError, match="no Dask scheduler answers at nonsense"):
        grade(course, scheduler="nonsense://x")
    with pytest.raises(CourseError, match="tls://127.0.0.1:9: TLS expects a `ssl_context`"):
        grade(course, scheduler="tls://127.0.0.1:9")


def test_without_dask_it_says_what_to_install(course, monkeypatch):
    hand_in(course, 1)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CourseError, match="needs Dask: run `pip install distributed`"):
        grade(course, scheduler="tcp://127.0.0.1:9")


def test_without_a_worker_it_says_so(course):
    hand_in(course, 1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(CourseError, match="no worker has joined"),
    ):
        grade(course, scheduler=empty.scheduler_address)


def change(code=None, path=None):
    """Give this process another version of the course, or another PATH."""
    cluster.code = (lambda: code) if code else cluster.code
    os.environ["PATH"] = os.environ["PATH"] if path is None else path
    server.unavailable_reason.cache_clear()


@pytest.mark.parametrize(
    ("lack", "reason"),
    [
        ({"code": "older"}, "can't grade: it has another version of the course: install the same"),
        ({"path": ""}, "can't grade: there is no bubblewrap: install bubblewrap"),
    ],
)
def test_a_worker_that_would_spoil_the_grades_gets_none(client, course, lack, reason):
    hand_in(course, 1)
    worker = list(client.nthreads())[1:]
    client.run(change, **lack, workers=worker)
    try:
        with pytest.raises(CourseError, match=reason):
            grade(course, scheduler=address(client))
    finally:
        client.run(change, cluster.code(), os.environ["PATH"], workers=worker)
    assert not (course / "grading").exists()
    assert grade(course, scheduler=address(client)).graded == 1


@pytest.mark.slow
def test_two_runs_don_t_have_the_same_cluster_at_a_time(client, course, impatient):
    hand_in(course, 1)
    with client.as_current():
        lock = distributed.Lock(cluster.LOCK)
        lock.acquire()
        with pytest.raises(CourseError, match="another run grades on this cluster"):
            grade(course, scheduler=address(client))
        lock.release()
    assert grade(course, scheduler=address(client)).graded == 1


# --- as the documentation starts it ---------------------------------------------------------------


@pytest.fixture
def commands(elsewhere, tmp_path):
    """`dask scheduler` and `dask worker`, and the scheduler's address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__DASHBOARD__LINK": ""}
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, cwd=elsewhere, env=environment, **quiet))

    note = tmp_path / "scheduler.json"
    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(note))
    start("worker", "--scheduler-file", str(note), "--nthreads", "2", "--no-nanny")
    deadline = time.monotonic() + 60
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    found = json.loads(note.read_text(encoding="utf-8"))["address"]
    with distributed.Client(found, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    yield started, found
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run_and_it_goes_on_elsewhere(commands, course, impatient):
    (scheduler, worker), found = commands
    hand_in(course, 6)

    def kill(record, done, total):
        if done == 2:
            scheduler.kill()

    with pytest.raises(CourseError, match="the connection to .* was lost; what was graded is kept"):
        grade(course, scheduler=found, progress=kill)
    assert worker.wait(60) is not None  # and with it its sandboxes
    again = grade(course, workers=2)
    assert 0 < again.graded <= 4 and [r.state for r in again.records] == [PERSON] * 6
