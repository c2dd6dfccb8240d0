"""Messages between the processes that grade a submission.

A message has a kind, a few short fields and a body of bytes, over a socket:

    4 bytes: length of the head │ 8 bytes: length of the body │ head: JSON │ body

Nothing in a message is ever evaluated or unpickled. The receiver limits the size of a message, so
that the process at the other end, which may be a student's, can't fill the receiver's memory.
"""

from __future__ import annotations

import json
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any

HEAD = 64_000  # B of a head, at most
BODY = 70_000_000  # B of a body, at most; `course_utils.values` allows 64 MB of a value


class Gone(Exception):
    """The process at the other end has ended, or sends what is no message."""


@dataclass(frozen=True)
class Message:
    """What was received."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def text(self) -> str:
        """The body as text; bytes that aren't UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")


class Channel:
    """One end of a connection between two processes."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.fileno = connection.fileno
        self.close = connection.close

    def send(
        self, kind: str, body: bytes = b"", deadline: float | None = None, **fields: Any
    ) -> None:
        """Send one message.

        Args:
            kind: What the message is about.
            body: Its bytes.
            deadline: On `time.monotonic`'s clock; default: none.
            fields: What else it says, as JSON can.

        Raises:
            Gone: The other end is closed.
            TimeoutError: The deadline has passed.
        """
        head = json.dumps({"kind": kind, **fields}).encode()
        data = memoryview(len(head).to_bytes(4, "big") + len(body).to_bytes(8, "big") + head + body)
        while data:
            self._wait(select.POLLOUT, deadline)
            try:
                data = data[self.connection.send(data, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Gone(str(error)) from None

    def receive(self, deadline: float | None = None, limit: int = BODY) -> Message:
        """The next message.

        Args:
            deadline: On `time.monotonic`'s clock; default: none.
            limit: B of a body, at most.

        Raises:
            Gone: There will be no further message, or the message is too large or malformed.
            TimeoutError: The deadline has passed.
        """
        sizes = self._read(12, deadline)
        head, body = int.from_bytes(sizes[:4], "big"), int.from_bytes(sizes[4:], "big")
        if head > HEAD or body > limit:
            raise Gone("a message is too large")
        try:
            fields = json.loads(self._read(head, deadline))
            return Message(str(fields.pop("kind")), fields, self._read(body, deadline))
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise Gone(f"a message is malformed: {error}") from None

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(select.POLLIN, deadline)
            try:
                part = self.connection.recv(min(size - len(data), 1 << 20), socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Gone(str(error)) from None
            if not part:
                raise Gone("the connection was closed")
            data += part
        return bytes(data)

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self.connection, event)
        left = None if deadline is None else (deadline - time.monotonic()) * 1000
        if left is None:
            poll.poll()
        elif left <= 0 or not poll.poll(left):
            raise TimeoutError("the time is up")


def pair() -> tuple[Channel, socket.socket]:
    """A channel, and the socket of its other end to be handed to another process."""
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs
