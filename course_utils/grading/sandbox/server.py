"""Sandboxes: warm servers in bubblewrap, and the processes that they fork.

worker ──► bwrap: system and libraries read-only, no network, none of the course's files
             └─ server: has imported torch, transformers … once   (`sandbox.inside`)
                  ├─ process of one submission: namespaces, /tmp and limits of its own
                  └─ process of another
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

from course_utils.grading.sandbox import bubblewrap, limits
from course_utils.grading.sandbox.bubblewrap import SandboxError
from course_utils.grading.sandbox.limits import Limits
from course_utils.grading.sandbox.messages import Channel
from course_utils.grading.sandbox.package import copied_package

START = 300  # seconds until a server must be ready


class Server:
    """A sandbox with a warm server in it, which forks processes that have its imports.

    Servers end with the thread that started them.

    Args:
        imports: Import statements, one a line, that are carried out once for all of its processes.
        withheld: Modules of the course that can't be imported.
        warm: Whether processes are forked; otherwise each gets a sandbox of its own, which takes
            seconds.

    Raises:
        SandboxError: The sandbox can't be started.
    """

    def __init__(self, imports: str = "", withheld: tuple[str, ...] = (), warm: bool = True):
        self._imports = imports
        self._folder = tempfile.TemporaryDirectory(prefix="grading-")
        os.chmod(self._folder.name, 0o711)
        self._package = copied_package(Path(self._folder.name), withheld)
        self._bubble: BubbleProcess | None = BubbleProcess(imports, self._package)
        self.fork_error = self._bubble.fork_error  # why processes can't be forked, or ""
        self.warm = warm and not self.fork_error

    def start(self, role: str, allowed: Limits, core: int | None = None) -> Sandboxed:
        """Start a process.

        Args:
            role: "student" or "judge".
            allowed: What the process and all that it starts may use.
            core: The only core that it may run on; default: any.
        """
        if self.warm and self._bubble:
            return Sandboxed(self._bubble, role, allowed, core)
        bubble, self._bubble = self._bubble, None
        bubble = bubble or BubbleProcess(self._imports, self._package)
        return Sandboxed(bubble, role, allowed, core, forked=False)

    @property
    def alive(self) -> bool:
        """Whether it can start processes."""
        return self._bubble is None or self._bubble.alive

    def close(self) -> None:
        """End the server and all of its processes."""
        if self._bubble:
            self._bubble.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class BubbleProcess:
    """One bubblewrap that runs `sandbox.inside`, and the socket over which it takes requests."""

    def __init__(self, imports: str, package: Path):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._lock = threading.Lock()  # one request at a time
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        module = "course_utils.grading.sandbox.inside"
        program = [bubblewrap.python(), "-m", module, str(theirs.fileno())]
        self._program = subprocess.Popen(
            [*bubblewrap.command(package), *program],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the worker
        )
        theirs.close()
        self._control.settimeout(START)
        self.fork_error: str = self.ask(imports=imports)["namespaces"]

    def ask(self, given: socket.socket | None = None, **request: Any) -> dict[str, Any]:
        """Send a request, with a socket if the server is to have one; returns its answer."""
        data = json.dumps(request).encode()
        try:
            with self._lock:
                socket.send_fds(self._control, [data], [given.fileno()] if given else [])
                answer = self._control.recv(1 << 16)
        except OSError:
            answer = b""
        if not answer:
            raise SandboxError(f"the sandbox doesn't work here: {self._last_line()}")
        return json.loads(answer)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._program.poll() is None

    def close(self) -> None:
        """End it, and with it all processes inside."""
        self._control.close()
        self._program.kill()
        self._program.wait()
        self._log.close()

    def _last_line(self) -> str:
        """The last line that it wrote before it ended: what went wrong."""
        if self._log.closed:
            return "it was ended"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(5)
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


class Sandboxed:
    """A process in a sandbox: the channel to it, and the means to stop it.

    The process waits for its first message.

    Args:
        bubble: The sandbox.
        role: "student" or "judge".
        allowed: What the process and all that it starts may use.
        core: The only core that it may run on; default: any.
        forked: Whether the server forks the process; otherwise the server itself becomes it.

    Attributes:
        channel: The connection to the process.
        limits: What it and its children use together.
    """

    def __init__(
        self,
        bubble: BubbleProcess,
        role: str,
        allowed: Limits,
        core: int | None = None,
        *,
        forked: bool = True,
    ):
        self._bubble, self._forked = bubble, forked
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.channel = Channel(ours)
        with theirs:
            self._pid = bubble.ask(
                theirs,
                do="fork" if forked else "serve",
                role=role,
                memory=allowed.memory,
                processes=allowed.processes,
                files=allowed.files,
                seconds=int(allowed.notebook),
            )["pid"]
        self._outside = _sender(ours)
        self.limits = limits.enforce(allowed.memory, allowed.processes)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.limits)
            self.limits.add(self._outside)
            if core is not None:
                os.sched_setaffinity(self._outside, {core})
            stack.pop_all()  # no error: the limits are enforced until `end`

    def interrupt(self) -> None:
        """Interrupt what it does, as Jupyter's button does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._outside, signal.SIGINT)

    def end(self) -> str:
        """End it and all that it started; returns how it had ended, if it had: "" or a sentence."""
        self.channel.close()
        status = 0
        try:
            if self._forked:
                status = self._bubble.ask(do="end", pid=self._pid)["status"]
            else:
                self._bubble.close()
        finally:
            exceeded = self.limits.exceeded
            self.limits.__exit__(None, None, None)
        if exceeded:
            return exceeded
        return f"it was ended by signal {-status}" if status < 0 and status != -9 else ""


def _sender(connection: socket.socket) -> int:
    """The process, as this machine numbers it, that sent the first byte over a connection."""
    space = socket.CMSG_SPACE(struct.calcsize("3i"))
    connection.settimeout(START)
    data, extra, _, _ = connection.recvmsg(1, space)
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    for level, kind, found in extra if data else ():
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return struct.unpack("3i", found)[0]
    raise SandboxError("a process in the sandbox ended before it began")


_submissions: Counter[int] = Counter()  # by the core that they are graded on
_choosing = threading.Lock()


@contextlib.contextmanager
def reserved_core() -> Iterator[int]:
    """Reserve the core on which fewest submissions are graded, for one more.

    A submission that takes all the processor time it can get then slows down only itself.
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
    """Why no sandbox can be made on this machine; "" if one can."""
    try:
        Server().close()
    except SandboxError as error:
        return str(error)
    return ""
