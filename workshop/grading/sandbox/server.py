"""Start sandboxes: warm servers in bubblewrap, which fork a process for each submission.

grader ──► bwrap: system and libraries read-only, no network, none of the course's files
             └─ server: has imported torch, transformers … once   (`sandbox.forkserver`)
                  ├─ process of one submission: namespaces, /tmp and limits of its own
                  └─ process of another submission
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from workshop.grading.sandbox import bubblewrap, limits
from workshop.grading.sandbox.bubblewrap import ONLY_SYSTEM, Folders, SandboxError
from workshop.grading.sandbox.limits import Limits
from workshop.grading.sandbox.messages import Channel
from workshop.grading.sandbox.package import copy_package

# Maximum time until a server is ready, and until it answers a request, in seconds.
ANSWER_TIMEOUT = 300


class Server:
    """A sandbox with a warm server, which forks processes that inherit its imports.

    A server ends when the thread that started it ends.

    Args:
        imports: Import statements, one per line, that the server runs once for all of its
            processes.
        withheld: The names of the modules of course_utils that no process in the sandbox can use.

    Raises:
        SandboxError: The sandbox can't be started, or can't separate its processes.
    """

    def __init__(
        self, imports: str = "", withheld: tuple[str, ...] = (), folders: Folders = ONLY_SYSTEM
    ):
        # This lock allows one request at a time.
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="grading-"))
            os.chmod(folder, 0o711)
            self._package = Path(folder)
            command = bubblewrap.command(self._package, folders)
            copy_package(self._package, withheld)
            self._log = stack.enter_context(tempfile.TemporaryFile())
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(self._control).settimeout(ANSWER_TIMEOUT)
            module = "workshop.grading.sandbox.forkserver"
            with theirs:
                program = [bubblewrap.python(), "-m", module, str(theirs.fileno())]
                self._program = subprocess.Popen(
                    [*command, *program],
                    pass_fds=[theirs.fileno()],
                    env=bubblewrap.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    # In a separate session, bubblewrap doesn't receive Ctrl-C.
                    start_new_session=True,
                )
            stack.callback(self._program.wait)
            stack.callback(self._program.kill)
            self.ask(imports=imports)
            # Test whether processes can be separated from each other, before a submission is run.
            self.start("student", Limits()).end()
            self._stack = stack.pop_all()

    def start(self, role: str, allowed: Limits, core: int | None = None) -> SandboxProcess:
        """Start and return a process in the sandbox."""
        return SandboxProcess(self, role, allowed, core)

    def ask(self, passed: socket.socket | None = None, **request: Any) -> dict[str, Any]:
        """Send a request to `sandbox.forkserver`, and return the answer."""
        data = json.dumps(request).encode()
        try:
            with self._lock:
                socket.send_fds(self._control, [data], [passed.fileno()] if passed else [])
                answer = self._control.recv(1 << 16)
        except OSError:
            answer = b""
        if not answer:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._program.wait(5)
            raise SandboxError(f"the sandbox doesn't work here: {self.last_line()}")
        return json.loads(answer)

    def last_line(self) -> str:
        """Return the last line that the sandbox wrote, which usually says why it failed."""
        if self._log.closed:
            return "its server was closed"
        # pread doesn't change the file position at which the sandbox continues to write.
        lines = os.pread(self._log.fileno(), 1 << 20, 0).decode("utf-8", "replace").split("\n")
        lines = [line for line in lines if line.strip()]
        return lines[-1] if lines else "bubblewrap printed no message"

    @property
    def alive(self) -> bool:
        """Return whether bubblewrap is still running."""
        return self._program.poll() is None

    def close(self) -> None:
        """End the server and all of its processes, and delete its copy of course_utils."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class SandboxProcess:
    """A process in a sandbox, which can be interrupted and ended.

    After its start, the process waits for the first message on its channel.

    Args:
        allowed: The limits for the process and all processes that it starts, together.
        core: The number of the only core on which the process may run; default: any core.

    Attributes:
        pid: The process's pid on this machine.
        limits: The memory limit of the process. After `end`, `limits.peak` is the peak memory.
    """

    def __init__(self, server: Server, role: str, allowed: Limits, core: int | None = None):
        self._server = server
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.channel = Channel(ours)
        with theirs:
            self._pid_in_sandbox = server.ask(
                theirs,
                role=role,
                memory=allowed.memory,
                processes=allowed.processes,
                files=allowed.files,
            )["pid"]
        if not (pid := _sender_pid(ours)):
            raise SandboxError(
                "the processes in a sandbox can't be separated here (docs/grading.md, section "
                f"Containers): {server.last_line()}"
            )
        self.pid = pid
        if core is not None:
            os.sched_setaffinity(pid, {core})
        self.limits = limits.enforce(pid, allowed.memory)

    def interrupt(self) -> None:
        """Interrupt the code that the process is running, like Jupyter's interrupt button."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)

    def end(self) -> str:
        """End the process and its children. If it had already been killed, return the reason.

        The reason is a sentence without a full stop. The reason is empty if the process was still
        running, if it had exited by itself, or if the reason is unknown.
        """
        self.channel.close()
        status = 0
        try:
            status = self._server.ask(end=self._pid_in_sandbox)["status"]
        finally:
            self.limits.close()
        killed = f"it was ended by signal {-status}" if status < 0 and status != -9 else ""
        return self.limits.exceeded or killed


def _sender_pid(connection: socket.socket) -> int:
    """Receive a byte; return the sender's pid on this machine, or 0 if the sender has ended."""
    space = socket.CMSG_SPACE(struct.calcsize("3i"))
    connection.settimeout(ANSWER_TIMEOUT)
    data, extra, _, _ = connection.recvmsg(1, space)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    return struct.unpack("3i", extra[0][2])[0] if data else 0


# The number of submissions that are being graded on each core.
_submissions: Counter[int] = Counter()
_choosing = threading.Lock()


@contextlib.contextmanager
def reserved_core() -> Iterator[int]:
    """Reserve a core for one submission during the `with` block, and yield the core's number.

    The core is the one on which the fewest submissions are being graded. A submission that uses a
    lot of processor time then slows down only submissions on the same core.
    """
    with _choosing:
        core = min(sorted(os.sched_getaffinity(0)), key=_submissions.__getitem__)
        _submissions[core] += 1
    try:
        yield core
    finally:
        with _choosing:
            _submissions[core] -= 1
