"""Grade on several machines: the workers of a Dask cluster grade the submissions.

    here, with the course's folder                    worker, with bubblewrap and this course
      spec, submission   ──►  scheduler  ──►            autograde.grade
      gradebook, records ◄──             ◄──  record and notebook

A worker can read neither the course's folder nor its gradebook. Each Dask task contains a
submission and the assignment's GradingSpec, each about 65 kB. A worker needs no other data, so
workers may join or fail at any time. If a worker fails, another worker grades its submissions.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path
from typing import TYPE_CHECKING

import course_utils
import workshop
from course_utils.machine.validation import CourseError
from workshop.grading import autograde
from workshop.grading.sandbox import server

if TYPE_CHECKING:
    from distributed import Client

# Seconds to wait for the scheduler's answer, and for the end of another run.
TIMEOUT = 60
# The name of a lock that allows one run at a time, because a worker has the sandboxes of only one
# assignment.
LOCK = "course grade"
INSTALL = "grading on a cluster needs Dask: run `pip install distributed`"
CONTINUE = "all results so far are saved; run the same command again to continue"


@contextlib.contextmanager
def connected(address: str) -> Iterator[tuple[Executor, int]]:
    """Yield an executor for a cluster's workers, and how many submissions they grade at a time.

    Raises:
        CourseError: Dask is missing, no scheduler answers, another run uses the cluster, no worker
            has joined, a worker can't grade, or the connection is lost.
    """
    with _client(address) as client, _locked(client):
        workers = client.nthreads()
        if not workers:
            raise CourseError(f"no worker has joined the scheduler at {address}")
        _check_workers(client)
        executor = client.get_executor(pure=False)
        try:
            yield executor, sum(workers.values())
        except CancelledError:
            raise CourseError(f"the connection to {address} was lost; {CONTINUE}") from None
        finally:
            # Otherwise a task could start a sandbox after `close_servers`.
            executor.shutdown(wait=False)
            if client.status == "running":
                client.run(autograde.close_servers, on_error="ignore")


def _client(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError:
        raise CourseError(INSTALL) from None
    try:
        return Client(address, timeout=TIMEOUT)
    # Dask raises a TypeError if a TLS certificate is missing.
    except (OSError, ValueError, TypeError) as error:
        raise CourseError(f"no Dask scheduler answers at {address}: {error}") from None


@contextlib.contextmanager
def _locked(client: Client) -> Iterator[None]:
    """Hold a lock, so that no other run can use the cluster at the same time.

    If a run is killed, the cluster stays locked for another 30 seconds.
    """
    from distributed import Lock

    lock = Lock(LOCK)
    if not lock.acquire(timeout=TIMEOUT):
        raise CourseError("another run is using this cluster: wait until that run has finished")
    try:
        yield
    finally:
        if client.status == "running":
            lock.release()


def _check_workers(client: Client) -> None:
    """Raise CourseError if a worker can't grade, because all submissions sent to it would fail."""
    for worker, reason in client.run(_unavailable_reason, code_hash(), on_error="return").items():
        if reason:
            raise CourseError(f"the worker at {worker} can't grade: {reason}")


def _unavailable_reason(expected_hash: str) -> str:
    """Return why this worker can't grade for a run with this hash of the code; "" if it can."""
    if code_hash() != expected_hash:
        return (
            "it has another version of the course: install the version of the machine that runs "
            "`course grade`, and restart the worker"
        )
    return server.unavailable_reason()


@functools.cache
def code_hash() -> str:
    """Return a hash of the course's code, computed when this process first needed the hash."""
    packages = (Path(package.__file__ or "").parent for package in (course_utils, workshop))
    paths = sorted(path for package in packages for path in package.rglob("*.py"))
    hashes = [hashlib.sha256(path.read_bytes()) for path in paths]
    return hashlib.sha256(b"".join(each.digest() for each in hashes)).hexdigest()
