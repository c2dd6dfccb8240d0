"""Run the first process in a sandbox: a server that imports libraries once and then forks.

    python -m workshop.grading.sandbox.forkserver 3        3 is the socket to the grader

On request, the server forks a student process or a test process. The new process gets its own
namespaces. It receives and answers messages over a socket that came with the grader's request. The
server itself only forks and ends processes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from course_utils.exercise import values
from workshop.grading.sandbox import namespaces, processes, rlimits, seccomp
from workshop.grading.sandbox.messages import Channel
from workshop.grading.sandbox.shell import Shell

ROLES = {"student": processes.StudentProcess, "test": processes.TestProcess}
# Cells that define a function, display a result, contain a syntax error and raise an exception.
TRIAL_CELLS = (
    "import math\ndef f(x: int):\n    return x",
    "f([1.5, {'a': math.pi}])",
    "f(",
    "1 / 0",
)
# Maximum size of a request from the grader, in bytes (B).
MAX_REQUEST = 200_000


def main(control_descriptor: str) -> None:
    """Import the libraries, then handle the grader's requests until the grader ends."""
    control = socket.socket(fileno=int(control_descriptor))
    namespaces.set_subreaper()
    request, _ = _receive(control)
    # During imports, the garbage collector would run often and free little memory.
    gc.disable()
    _warm_up(request["imports"])
    gc.collect()
    # The forked processes share all objects that exist now. Exclude these objects from garbage
    # collection. Otherwise the collector would write to their memory, and each process would need
    # its own copy of that memory.
    gc.freeze()
    gc.enable()
    _reply(control, ready=True)
    while True:
        request, descriptor = _receive(control)
        if "role" in request:
            _reply(control, pid=_fork(descriptor, request, control))
        else:
            _reply(control, status=_end(request["end"]))


def _warm_up(imports: str) -> None:
    """Run import statements and some trial cells, so that forked processes start quickly.

    A statement that fails is skipped. The trial cells are needed because IPython imports modules
    and creates objects only when they are first used.
    """
    for line in imports.splitlines():
        with contextlib.suppress(Exception):
            exec(line, {})
    if "torch" in sys.modules:
        values.decode(values.encode(sys.modules["torch"].ones(1)))
    streams = sys.stdout, sys.stderr
    shell = Shell(lambda *_, **__: None)
    for cell in TRIAL_CELLS:
        shell.run(cell)
    # Remove the names, inputs and outputs of the trial cells, and reset the count of cells.
    shell.shell.reset(new_session=True)
    # multiprocessing needs the name __spec__, but `reset` has removed it.
    shell.namespace["__spec__"] = None
    for name in ("last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    sys.stdout, sys.stderr = streams


def _fork(descriptor: int, request: dict[str, Any], control: socket.socket) -> int:
    """Fork a student or test process; return its pid in this namespace, or 0 if forking failed."""
    reading, writing = os.pipe()
    # The server must stay in its own namespaces. So an intermediate process enters new namespaces,
    # forks the process that serves the role, and ends.
    intermediate = os.fork()
    if intermediate == 0:
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
            _serve(descriptor, request)
    os.close(writing)
    os.close(descriptor)
    os.waitpid(intermediate, 0)
    with os.fdopen(reading, "rb") as stream:
        return int(stream.read() or 0)


def _serve(descriptor: int, request: dict[str, Any]) -> None:
    """Limit this process; then answer messages as a student or test process."""
    # Leave the server's process group. Otherwise a submission could send a signal to the whole
    # group: the server and all other submissions.
    os.setsid()
    connection = socket.socket(fileno=os.dup2(descriptor, 3))
    connection.set_inheritable(False)
    os.closerange(4, 4096)
    os.mkdir("/tmp/work")
    os.chdir("/tmp/work")
    rlimits.limit_process(request["memory"], request["processes"])
    namespaces.drop_privileges()
    seccomp.install_filter()
    # Send one byte. With this byte, the kernel tells the grader this process's pid on the machine.
    connection.send(b"!")
    null = os.open(os.devnull, os.O_RDWR)
    for standard_stream in (0, 1, 2):
        os.dup2(null, standard_stream)
    os.close(null)
    ROLES[request["role"]](Channel(connection)).serve()


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """End the process at the end of the `with` block; after an error, print the traceback first."""
    try:
        yield
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)


def _end(pid: int) -> int:
    """Kill a process and its namespace; return its exit status, or minus the signal's number."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _receive(control: socket.socket) -> tuple[dict[str, Any], int]:
    """Return a request from the grader and the file descriptor that came with the request.

    Without a descriptor, -1 is returned. If the grader has ended, this process ends.
    """
    data, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST, 1)
    if not data:
        os._exit(0)
    return json.loads(data), (descriptors or [-1])[0]


def _reply(control: socket.socket, **fields: Any) -> None:
    control.send(json.dumps(fields).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
