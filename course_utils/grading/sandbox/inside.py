"""The first process in a sandbox: imports what the course needs once, then forks.

    python -m course_utils.grading.sandbox.inside 3            the socket to the worker

On request it forks a process, which takes namespaces of its own and serves a role, the student's or
the judge's, over the socket that came with the request. This server never runs a student's code. It
only forks processes and ends them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from course_utils import values
from course_utils.grading.sandbox import namespaces, processes, seccomp
from course_utils.grading.sandbox.limits import rlimits
from course_utils.grading.sandbox.messages import Channel
from course_utils.grading.sandbox.shell import Shell

ROLES = {"student": processes.Student, "judge": processes.Judge}
TRIALS = ("import math\ndef f(x: int):\n    return x", "f([1.5, {'a': math.pi}])", "f(", "1 / 0")
MESSAGE = 200_000  # B of a request, at most; it is the worker's


def main(descriptor: str) -> None:
    """Warm up, then do what the worker asks for until it is gone."""
    control = socket.socket(fileno=int(descriptor))
    namespaces.set_subreaper()
    settings, _ = _receive(control)
    # During imports, the collector would run all the time and find little.
    gc.disable()
    _warm_up(settings["imports"])
    gc.collect()
    # What exists now is shared with the forked processes: the collector must not write to it.
    gc.freeze()
    gc.enable()
    _reply(control, namespaces=_try_namespaces())
    while True:
        request, given = _receive(control)
        if request["do"] == "fork":
            _reply(control, pid=_fork(given, request, control))
        # For where a process can't have namespaces of its own: this server becomes the process.
        elif request["do"] == "serve":
            _reply(control, pid=os.getpid())
            _serve(given, request)
        elif request["do"] == "end":
            with contextlib.suppress(ProcessLookupError):
                os.kill(request["pid"], signal.SIGKILL)
            _reply(control, status=_wait(request["pid"]))


def _warm_up(imports: str) -> None:
    """Carry out import statements, one after the other, and use what processes will use.

    A statement that fails is left out. Cells of every kind are run once, because IPython imports
    modules and makes objects when they are first needed.
    """
    for line in imports.splitlines():
        with contextlib.suppress(Exception):
            exec(line, {})
    if "torch" in sys.modules:
        values.decode(values.encode(sys.modules["torch"].ones(1)))
    streams = sys.stdout, sys.stderr
    shell = Shell(lambda *_, **__: None)
    for cell in TRIALS:
        shell.run(cell)
    shell.shell.reset(new_session=True)  # names, inputs, outputs, the count of cells
    for name in ("last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    sys.stdout, sys.stderr = streams


def _fork(given: int, request: dict[str, Any], control: socket.socket) -> int:
    """Fork a process that serves a role over the descriptor `given`; returns its pid."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        with _ending():
            control.close()
            os.close(reading)
            namespaces.unshare_namespaces()
            pid = os.fork()
            if pid:
                os.write(writing, str(pid).encode())
                os._exit(0)
            os.close(writing)
            namespaces.mount_private(request["files"])
            _serve(given, request)
    os.close(writing)
    os.close(given)
    os.waitpid(between, 0)
    with os.fdopen(reading, "rb") as stream:
        return int(stream.read() or 0)


def _serve(given: int, request: dict[str, Any]) -> None:
    """Be the process of a role, limited in what it may use; doesn't return."""
    with _ending():
        # A signal to the server's process group would reach the server and all submissions.
        os.setsid()
        connection = socket.socket(fileno=os.dup2(given, 3))
        connection.set_inheritable(False)
        os.closerange(4, 4096)
        os.makedirs("/tmp/work", exist_ok=True)
        os.chdir("/tmp/work")
        # The worker learns from the first byte which process this is, as the machine numbers it.
        connection.send(b"!")
        rlimits.limit_process(request["memory"], request["processes"], request["seconds"])
        namespaces.drop_privileges()
        seccomp.restrict()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.close(nothing)
        ROLES[request["role"]](Channel(connection)).serve()


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """End the process whatever happens, with a trace of what went wrong."""
    try:
        yield
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)


def _try_namespaces() -> str:
    """Whether a process can have namespaces of its own: "", or why not."""
    reading, writing = os.pipe()
    if (between := os.fork()) == 0:
        try:
            namespaces.unshare_namespaces()
            if (pid := os.fork()) == 0:
                namespaces.mount_private(1_000_000)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        except BaseException as error:
            os.write(writing, str(error).encode())
            os._exit(1)
    os.close(writing)
    status = _wait(between)
    with os.fdopen(reading, "rb") as stream:
        return stream.read().decode() or ("" if status == 0 else "its files can't be separated")


def _wait(pid: int) -> int:
    """How a process ended: its exit status, or the signal that ended it as a negative number."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


def _receive(control: socket.socket) -> tuple[dict[str, Any], int]:
    """A request, and the descriptor that came with it (-1 if none did); ends without a worker."""
    data, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 1)
    if not data:
        os._exit(0)
    return json.loads(data), (descriptors or [-1])[0]


def _reply(control: socket.socket, **fields: Any) -> None:
    control.send(json.dumps(fields).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
