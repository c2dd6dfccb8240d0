"""Start sandboxes: warm servers in bubblewrap, which fork a process for each submission.

worker ──► bwrap: system and libraries read-only, no network, none of the course's files
             └─ server: has imported torch, transformers … once   (`sandbox.forkserver`)
                  ├─ process of one submission: namespaces, /tmp and limits of its own
                  └─ process of another submission
"""

from __future__ import annotations

import contextlib
import functools
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
from workshop.grading.sandbox.bubblewrap import SandboxError
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
        warm: Whether the server forks processes. If not, each process gets a separate sandbox,
            which needs seconds to start.

    Attributes:
        fork_error: Why the server can't fork processes; "" if it can.
    """

    def __init__(
        self,
        imports: str = "",
        withheld: tuple[str, ...] = (),
        private: tuple[str, ...] = (),
        warm: bool = True,
    ):
        self._imports, self._private = imports, private
        self._folder = tempfile.TemporaryDirectory(prefix="grading-")
        os.chmod(self._folder.name, 0o711)
        self._package = Path(self._folder.name)
        copy_package(self._package, withheld)
        self._bubblewrap: BubblewrapProcess | None = self._new_process()
        self.fork_error = self._bubblewrap.fork_error
        self.warm = warm and not self.fork_error

    def start(self, role: str, allowed: Limits, core: int | None = None) -> SandboxProcess:
        """Start and return a process in a sandbox."""
        if self.warm and self._bubblewrap:
            return SandboxProcess(self._bubblewrap, role, allowed, core)
        process, self._bubblewrap = self._bubblewrap, None
        process = process or self._new_process()
        return SandboxProcess(process, role, allowed, core, forked=False)

    def _new_process(self) -> BubblewrapProcess:
        return BubblewrapProcess(self._imports, self._package, self._private)

    @property
    def alive(self) -> bool:
        """Return whether the server can start processes."""
        return self._bubblewrap is None or self._bubblewrap.alive

    def close(self) -> None:
        """End the server and all of its processes, and delete its copy of course_utils."""
        if self._bubblewrap:
            self._bubblewrap.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class BubblewrapProcess:
    """A bubblewrap process that runs `sandbox.forkserver`, and the socket for requests to it."""

    def __init__(self, imports: str, package: Path, private: tuple[str, ...]):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        # This lock allows one request at a time.
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        module = "workshop.grading.sandbox.forkserver"
        program = [bubblewrap.python(), "-m", module, str(theirs.fileno())]
        self._program = subprocess.Popen(
            [*bubblewrap.command(package, private), *program],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # In a separate session, bubblewrap doesn't receive Ctrl-C. Only the worker receives it.
            start_new_session=True,
        )
        theirs.close()
        self._control.settimeout(ANSWER_TIMEOUT)
        try:
            self.fork_error: str = self.ask(imports=imports)["namespaces"]
        except SandboxError:
            self.close()
            raise

    def ask(self, passed: socket.socket | None = None, **request: Any) -> dict[str, Any]:
        """Send a request to the server, and return the server's answer."""
        data = json.dumps(request).encode()
        try:
            with self._lock:
                socket.send_fds(self._control, [data], [passed.fileno()] if passed else [])
                answer = self._control.recv(1 << 16)
        except OSError:
            answer = b""
        if not answer:
            raise SandboxError(f"the sandbox doesn't work here: {self._last_line()}")
        return json.loads(answer)

    @property
    def alive(self) -> bool:
        """Return whether bubblewrap is still running."""
        return self._program.poll() is None

    def close(self) -> None:
        """End bubblewrap and all processes in the sandbox."""
        self._control.close()
        self._program.kill()
        self._program.wait()
        self._log.close()

    def _last_line(self) -> str:
        """Return the last line that the program wrote, which usually says why it ended."""
        if self._log.closed:
            return "its server was closed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(5)
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "bubblewrap printed no message"


class SandboxProcess:
    """A process in a sandbox, which can be interrupted and ended.

    After its start, the process waits for the first message on its channel.

    Args:
        allowed: The limits for the process and all processes that it starts, together.
        core: The number of the only core on which the process may run; default: any core.
        forked: Whether the server forks the process. If not, the server itself becomes the process.

    Attributes:
        pid: The process's pid on this machine.
    """

    def __init__(
        self,
        sandbox: BubblewrapProcess,
        role: str,
        allowed: Limits,
        core: int | None = None,
        *,
        forked: bool = True,
    ):
        self._sandbox, self._forked = sandbox, forked
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.channel = Channel(ours)
        with theirs:
            self._pid_in_sandbox = sandbox.ask(
                theirs,
                do="fork" if forked else "serve",
                role=role,
                memory=allowed.memory,
                processes=allowed.processes,
                files=allowed.files,
                seconds=int(allowed.notebook),
            )["pid"]
        self.pid = _sender_pid(ours)
        self.limits = limits.enforce(allowed.memory, allowed.processes)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.limits)
            self.limits.add(self.pid)
            if core is not None:
                os.sched_setaffinity(self.pid, {core})
            # No error was raised, so keep the limits until `end` is called.
            stack.pop_all()

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
            if self._forked:
                status = self._sandbox.ask(do="end", pid=self._pid_in_sandbox)["status"]
            else:
                self._sandbox.close()
        finally:
            exceeded = self.limits.exceeded
            self.limits.__exit__(None, None, None)
        if exceeded:
            return exceeded
        return f"it was ended by signal {-status}" if status < 0 and status != -9 else ""


def _sender_pid(connection: socket.socket) -> int:
    """Receive the first byte from a connection, and return the sender's pid on this machine."""
    space = socket.CMSG_SPACE(struct.calcsize("3i"))
    connection.settimeout(ANSWER_TIMEOUT)
    data, extra, _, _ = connection.recvmsg(1, space)
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    for level, kind, credentials in extra if data else ():
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return struct.unpack("3i", credentials)[0]
    raise SandboxError("a process in the sandbox ended while it was starting")


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


@functools.cache
def unavailable_reason() -> str:
    """Return why no sandbox can be started on this machine; "" if one can be started."""
    try:
        Server().close()
    except SandboxError as error:
        return str(error)
    return ""
