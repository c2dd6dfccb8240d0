"""Test grading with a Dask cluster, whose workers are separate processes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest

from course_utils.grading import autograde, classroom, cluster, seeds
from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE
from course_utils.grading.sandbox import server
from course_utils.validation import CourseError
from tests import sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, ROOT, WRONG
from tests.waiting import wait_until

distributed = pytest.importorskip("distributed")
pytestmark = [needed, pytest.mark.full, pytest.mark.xdist_group("cluster")]

SLOW = {**RIGHT, "sum-all": f"import time\ntime.sleep(0.5)\n{RIGHT['sum-all']}"}
WORKERS = 2


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Return a course without submissions."""
    return sums.course(tmp_path_factory.mktemp("released") / "course")


@pytest.fixture
def course(released, tmp_path):
    return Path(shutil.copytree(released, tmp_path / "course"))


@pytest.fixture(scope="module")
def worker_folder(tmp_path_factory):
    """Return the folder in which workers run."""
    return tmp_path_factory.mktemp("worker_folder")


@pytest.fixture(scope="module")
def running(worker_folder):
    """Yield a client of a cluster of two workers with one thread each."""
    here = Path.cwd()
    os.chdir(worker_folder)
    settings = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True}
    settings |= {"dashboard_address": ":0", "local_directory": str(worker_folder)}
    with (
        # Dask leaves the variables of its workers, such as MALLOC_TRIM_THRESHOLD_, in this process.
        patch.dict(os.environ),
        distributed.LocalCluster(**settings) as local_cluster,
        distributed.Client(local_cluster, set_as_default=False) as client,
    ):
        os.chdir(here)
        yield client


@pytest.fixture
def client(running):
    """Return the client after both workers have joined."""
    running.wait_for_workers(WORKERS, timeout=60)
    return running


def address(client):
    return client.scheduler.address


def hand_in(course, number, answers=SLOW):
    for n in range(number):
        sums.hand_in(course, f"s{n:02}", answers)


def grade(course, **options):
    return classroom.grade(course, NAME, limits=QUICK, **options)


def without_costs(record):
    """Return the fields of a record without the time and memory that grading needed."""
    return {**vars(record), "seconds": None, "memory": None}


def sandboxes(pids):
    """Return the processes of the sandboxes that these workers have started."""
    found = []
    for pid in pids:
        for child in psutil.Process(pid).children(recursive=True):
            # The child may have ended after it was listed.
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child] if child.name() == "bwrap" else []
    return found


# --- what workers do ------------------------------------------------------------------------------


def record_accesses(folder):
    """Record in sys.accesses which paths in a folder this process opens or lists from now on."""
    sys.accesses = []

    def record(event, arguments):
        path = arguments[0] if arguments else None
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(folder):
            sys.accesses.append((event, os.fsdecode(path)))

    sys.addaudithook(record)


def accesses():
    return sys.accesses


def test_a_cluster_gives_the_same_results_as_this_machine(client, course):
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
    # With the same key, a submission has the same hidden inputs in both courses.
    seeds.class_key(course)
    other = Path(shutil.copytree(course, course.parent / "other"))
    client.run(record_accesses, str(course))
    steps = []
    far = grade(course, scheduler=address(client), progress=lambda *step: steps.append(step[1:]))
    near = grade(other, workers=WORKERS)
    assert [without_costs(record) for record in far.records] == [
        without_costs(record) for record in near.records
    ]
    assert sums.grades(course) == sums.grades(other)
    assert {r.state for r in far.records} == {GRADED, PERSON, UNGRADABLE}
    assert steps == [(n, 13) for n in range(1, 14)]
    for path in course.glob("autograded/*/*/*.ipynb"):
        assert path.read_bytes() == (other / path.relative_to(course)).read_bytes()
    # No worker has accessed the course's folder. An access would have been recorded.
    assert set(map(str, client.run(accesses).values())) == {"[]"}
    client.run(os.listdir, str(course))
    assert set(map(str, client.run(accesses).values())) == {str([("os.listdir", str(course))])}


def test_sandboxes_end_with_the_run(client, course):
    hand_in(course, 3)
    pids = client.run(os.getpid).values()
    during = []
    grade(
        course, scheduler=address(client), progress=lambda *_: during.append(len(sandboxes(pids)))
    )
    assert max(during) >= 2 and wait_until(lambda: not sandboxes(pids))


def test_after_ctrl_c_sandboxes_end_and_results_are_kept(client, course):
    hand_in(course, 6)
    pids = client.run(os.getpid).values()

    def interrupt(record, done, total):
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        grade(course, scheduler=address(client), progress=interrupt)
    assert wait_until(lambda: not any(client.processing().values()))
    assert wait_until(lambda: not sandboxes(pids))
    assert grade(course, scheduler=address(client)).graded == 4


def test_submissions_of_a_killed_worker_are_graded_by_another_worker(client, course):
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
    assert orphans and wait_until(lambda: not any(process.is_running() for process in orphans))


def start_servers(spec):
    """Start this process's sandboxes from a thread that then ends; return the thread's id."""
    distributed.secede()
    autograde.servers(spec)
    return threading.get_native_id()


def servers_alive():
    return [each.result().alive for pair in autograde._servers.values() for each in pair]


def test_sandboxes_outlive_the_thread_that_requested_them(client, course):
    """Linux ends a sandbox with the thread that started it, and Dask's threads end at any time."""
    spec = autograde.grading_spec(course, NAME, QUICK)
    worker, pid = next(iter(client.run(os.getpid).items()))
    thread = client.submit(start_servers, spec, workers=[worker], pure=False).result()
    assert wait_until(lambda: not os.path.exists(f"/proc/{pid}/task/{thread}"))
    assert client.run(servers_alive, workers=[worker])[worker] == [True, True]
    client.run(autograde.close_servers)


# --- clusters that can't grade --------------------------------------------------------------------


@pytest.fixture
def short_timeout(monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 2)


def test_a_scheduler_that_does_not_answer_is_an_error(course, short_timeout):
    hand_in(course, 1)
    with pytest.raises(CourseError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        grade(course, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(CourseError, match="no Dask scheduler answers at nonsense"):
        grade(course, scheduler="nonsense://x")
    with pytest.raises(CourseError, match=r"tls://127\.0\.0\.1:9: TLS expects a `ssl_context`"):
        grade(course, scheduler="tls://127.0.0.1:9")


def test_the_error_without_dask_names_the_package(course, monkeypatch):
    hand_in(course, 1)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CourseError, match="needs Dask: run `pip install distributed`"):
        grade(course, scheduler="tcp://127.0.0.1:9")


def test_a_cluster_without_workers_is_an_error(course):
    hand_in(course, 1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(CourseError, match="no worker has joined"),
    ):
        grade(course, scheduler=empty.scheduler_address)


def change(code_hash=None, path=None):
    """Give this process another version of the course, or another PATH."""
    cluster.code_hash = (lambda: code_hash) if code_hash else cluster.code_hash
    os.environ["PATH"] = os.environ["PATH"] if path is None else path
    server.unavailable_reason.cache_clear()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"code_hash": "older"}, "can't grade: it has another version of the course: install"),
        ({"path": ""}, "can't grade: there is no bubblewrap: install bubblewrap"),
    ],
)
def test_a_worker_that_can_t_grade_ends_the_run_at_its_start(client, course, changes, reason):
    hand_in(course, 1)
    worker = list(client.nthreads())[1:]
    client.run(change, **changes, workers=worker)
    try:
        with pytest.raises(CourseError, match=reason):
            grade(course, scheduler=address(client))
    finally:
        client.run(change, cluster.code_hash(), os.environ["PATH"], workers=worker)
    assert not (course / "grading").exists()
    assert grade(course, scheduler=address(client)).graded == 1


def test_a_cluster_can_have_only_one_run_at_a_time(client, course, short_timeout):
    hand_in(course, 1)
    with client.as_current():
        lock = distributed.Lock(cluster.LOCK)
        lock.acquire()
        with pytest.raises(CourseError, match="another run is using this cluster"):
            grade(course, scheduler=address(client))
        lock.release()
    assert grade(course, scheduler=address(client)).graded == 1


# --- a cluster that is started by its commands ----------------------------------------------------


@pytest.fixture
def commands(worker_folder, tmp_path):
    """Yield the processes `dask scheduler` and `dask worker`, and the scheduler's address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__DASHBOARD__LINK": ""}
    processes = []

    def start(*arguments):
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(command, cwd=worker_folder, env=environment, **quiet))

    try:
        file = tmp_path / "scheduler.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        start("worker", "--scheduler-file", str(file), "--nthreads", "2", "--no-nanny")
        assert wait_until(file.exists)
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        yield processes, address
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run_and_another_run_continues(commands, course, short_timeout):
    (scheduler, worker), address = commands
    hand_in(course, 6)

    def kill(record, done, total):
        if done == 2:
            scheduler.kill()

    with pytest.raises(CourseError, match=r"the connection to .* was lost; all results so far"):
        grade(course, scheduler=address, progress=kill)
    # The worker ends without a scheduler, and its sandboxes end with the worker.
    assert worker.wait(60) is not None
    again = grade(course, workers=2)
    assert 0 < again.graded <= 4 and [r.state for r in again.records] == [PERSON] * 6
