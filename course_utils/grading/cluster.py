"""Grading on several machines: submissions go to the workers of a Dask cluster.

    here, with the course's folder                    worker, with bubblewrap and this course
      spec, submission   ──►  scheduler  ──►            marking.mark
      gradebook, records ◄──             ◄──  record and notebook

A worker sees neither the course's folder nor its gradebook. Each task contains a submission and the
assignment's GradingSpec, each some 65 kB. So a worker may join or die at any time: another worker
marks what it had.
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
from course_utils.grading import marking
from course_utils.grading.sandbox import server
from course_utils.validation import CourseError

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 60  # seconds for the scheduler to answer, and for another run to end
LOCK = "course grade"  # one run at a time: a worker has the sandboxes of one assignment
INSTALL = "grading on a cluster needs Dask: run `pip install distributed`"
AGAIN = "what was graded is kept: the same command goes on from there"


@contextlib.contextmanager
def connected(address: str) -> Iterator[tuple[Executor, int]]:
    """A cluster's workers as an executor, and how many submissions they grade at a time.

    Args:
        address: The scheduler's address, such as tcp://10.0.0.1:8786.

    Raises:
        CourseError: Dask is missing, nobody answers, another run uses the cluster, no worker has
            joined, a worker can't grade, or the connection is lost.
    """
    with _client(address) as client, _alone(client):
        workers = client.nthreads()
        if not workers:
            raise CourseError(f"no worker has joined the scheduler at {address}")
        _check(client)
        executor = client.get_executor(pure=False)
        try:
            yield executor, sum(workers.values())
        except CancelledError:
            raise CourseError(f"the connection to {address} was lost; {AGAIN}") from None
        finally:
            executor.shutdown(wait=False)  # so that nothing starts a sandbox again
            if client.status == "running":
                client.run(marking.close_servers, on_error="ignore")


def _client(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError:
        raise CourseError(INSTALL) from None
    try:
        return Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TypeError) as error:  # TypeError: a certificate is missing
        raise CourseError(f"no Dask scheduler answers at {address}: {error}") from None


@contextlib.contextmanager
def _alone(client: Client) -> Iterator[None]:
    """Keep other runs away. A run that was killed does so for half a minute longer."""
    from distributed import Lock

    lock = Lock(LOCK)
    if not lock.acquire(timeout=PATIENCE):
        raise CourseError("another run grades on this cluster: wait for its end")
    try:
        yield
    finally:
        if client.status == "running":
            lock.release()


def _check(client: Client) -> None:
    """Raise CourseError if a worker can't grade: it would spoil each submission that it gets."""
    for worker, reason in client.run(_why_not, code(), on_error="return").items():
        if reason:
            raise CourseError(f"the worker at {worker} can't grade: {reason}")


def _why_not(wanted: str) -> str:
    """Why this process can't grade for a run whose code has the hash `wanted`; "" if it can."""
    if code() != wanted:
        return "it has another version of the course: install the same, and start the worker again"
    return server.unavailable_reason()


@functools.cache
def code() -> str:
    """A hash of the course's package, as it was when this process first asked."""
    package = Path(course_utils.__file__).parent
    hashes = [hashlib.sha256(path.read_bytes()) for path in sorted(package.rglob("*.py"))]
    return hashlib.sha256(b"".join(each.digest() for each in hashes)).hexdigest()
