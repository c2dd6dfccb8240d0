"""Send and receive messages between the processes that grade a submission.

A message has a kind, a few short fields and a body of bytes. It is sent in this form:

    4 bytes: length of the head │ 8 bytes: length of the body │ head: JSON │ body

The content of a message is never evaluated or unpickled. The receiver limits the size of a message,
so that the sender, which may be a student process, can't fill the receiver's memory.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Maximum size of a message's head, in bytes (B).
MAX_HEAD = 64_000
# Maximum size of a message's body, in bytes (B). `exercise.values` allows values up to 64 MB.
MAX_BODY = 70_000_000


class ChannelError(Exception):
    """Raised if the other process has ended, closed the connection, or sent an invalid message."""


@dataclass(frozen=True)
class Message:
    """A message that was received."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def text(self) -> str:
        """Return the body as text, in which bytes that aren't UTF-8 are replaced by `�`."""
        return self.body.decode("utf-8", "replace")


class Channel:
    """One end of a connection between two processes.

    A `deadline` is a time of the clock `time.monotonic`; None means that there is no deadline.
    """

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.fileno = connection.fileno
        self.close = connection.close

    def send(
        self, kind: str, body: bytes = b"", deadline: float | None = None, **fields: Any
    ) -> None:
        """Send one message.

        Raises:
            ChannelError: The connection is closed.
            TimeoutError: The deadline has passed.
        """
        head = json.dumps({"kind": kind, **fields}).encode()
        sizes = len(head).to_bytes(4, "big") + len(body).to_bytes(8, "big")
        with self._until(deadline):
            self.connection.sendall(sizes + head + body)

    def receive(self, deadline: float | None = None, limit: int = MAX_BODY) -> Message:
        """Receive and return the next message. Its body may have at most `limit` bytes (B).

        Raises:
            ChannelError: The connection is closed, or the message is too large or malformed.
            TimeoutError: The deadline has passed.
        """
        sizes = self._read(12, deadline)
        head, body = int.from_bytes(sizes[:4], "big"), int.from_bytes(sizes[4:], "big")
        if head > MAX_HEAD or body > limit:
            raise ChannelError("a message is too large")
        try:
            fields = json.loads(self._read(head, deadline))
            return Message(str(fields.pop("kind")), fields, self._read(body, deadline))
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise ChannelError(f"a message is malformed: {error}") from None

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            with self._until(deadline):
                part = self.connection.recv(min(size - len(data), 1 << 20))
            if not part:
                raise ChannelError("the connection was closed")
            data += part
        return bytes(data)

    @contextlib.contextmanager
    def _until(self, deadline: float | None) -> Iterator[None]:
        """Raise TimeoutError if the `with` block isn't finished at the deadline."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("the time is up")
        try:
            self.connection.settimeout(left)
            yield
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelError(str(error)) from None
