"""Test grading with a Dask cluster, whose workers are separate processes."""

import os
import shutil
import signal
import sys
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest

from course_utils.machine.validation import CourseError
from tests import sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, WRONG
from tests.waiting import wait_until
from workshop.grading import classroom, cluster, seeds
from workshop.grading.records import GRADED, PERSON, UNGRADABLE

distributed = pytest.importorskip("distributed")
pytestmark = [needed, pytest.mark.full, pytest.mark.xdist_group("cluster")]

WORKERS = 2


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Yield a client of a cluster of two workers, which run in another folder than the course."""
    folder = tmp_path / "workers"
    folder.mkdir()
    monkeypatch.chdir(folder)
    settings = {"n_workers": WORKERS, "threads_per_worker": 1, "local_directory": str(folder)}
    with (
        # Dask leaves the variables of its workers, such as MALLOC_TRIM_THRESHOLD_, in this process.
        patch.dict(os.environ),
        distributed.LocalCluster(**settings, dashboard_address=":0") as local_cluster,
        distributed.Client(local_cluster, set_as_default=False) as client,
    ):
        yield client


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


def use_another_version(code_hash):
    cluster.code_hash = lambda: code_hash


def without_costs(record):
    """Return the fields of a record without the time and memory that grading needed."""
    return {**vars(record), "seconds": None, "memory": None}


def test_a_cluster_gives_the_same_results_as_this_machine(client, tmp_path):
    """One worker is killed. No worker reads the course's folder, and all sandboxes end."""
    course = sums.course(tmp_path / "course")
    for n in range(4):
        sums.hand_in(course, f"right{n}", RIGHT)
        sums.hand_in(course, f"wrong{n}", WRONG)
    sums.hand_in(course, "untouched")
    sums.hand_in(course, "broken").write_text('{"cells": [', encoding="utf-8")
    # With the same key, a submission has the same hidden inputs in both courses.
    seeds.class_key(course)
    other = Path(shutil.copytree(course, tmp_path / "other"))
    client.run(record_accesses, str(course))
    pids = client.run(os.getpid)
    sandboxes = []

    def kill_a_worker(record, done, total):
        if done == 2:
            started = [psutil.Process(pid).children(recursive=True) for pid in pids.values()]
            sandboxes.extend(p for each in started for p in each if p.name() == "bwrap")
            os.kill(next(iter(pids.values())), signal.SIGKILL)

    address = client.scheduler.address
    far = classroom.grade(course, NAME, limits=QUICK, scheduler=address, progress=kill_a_worker)
    near = classroom.grade(other, NAME, limits=QUICK, workers=WORKERS)
    assert list(map(without_costs, far.records)) == list(map(without_costs, near.records))
    assert {record.state for record in far.records} == {GRADED, PERSON, UNGRADABLE}
    assert sums.grades(course) == sums.grades(other)
    assert sandboxes and wait_until(lambda: not any(child.is_running() for child in sandboxes))
    survivor = list(pids)[1]
    assert client.run(accesses, workers=[survivor])[survivor] == []
    client.run(os.listdir, str(course), workers=[survivor])
    assert client.run(accesses, workers=[survivor])[survivor] == [("os.listdir", str(course))]
    # A worker that would grade with other code is refused before it gets a submission.
    client.run(use_another_version, "older", workers=[survivor])
    with pytest.raises(CourseError, match="can't grade: it has another version of the course"):
        classroom.grade(course, NAME, limits=QUICK, scheduler=address, again=True)


def test_a_scheduler_that_does_not_answer_and_missing_dask_are_errors(tmp_path, monkeypatch):
    course = sums.course(tmp_path / "course")
    sums.hand_in(course, "one")
    monkeypatch.setattr(cluster, "TIMEOUT", 2)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "tls://127.0.0.1:9"):
        with pytest.raises(CourseError, match=f"no Dask scheduler answers at {address}"):
            classroom.grade(course, NAME, scheduler=address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CourseError, match="needs Dask: run `pip install distributed`"):
        classroom.grade(course, NAME, scheduler="tcp://127.0.0.1:9")
