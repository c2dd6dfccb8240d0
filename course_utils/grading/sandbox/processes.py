"""What a process in the sandbox does: run a student's cells, or the tests.

    judge                                            student
    check(lora_parameters, 1000, 1000, rank=8)
      lora_parameters is a Proxy ──► call, arguments ──►  calls the student's function
      compares with 16,000       ◄── value or error  ◄──  result as plain values

Messages pass through the referee outside (`course_utils.grading.referee`), which alone decides how
long each may take. The judge never gets an object of the student's, only values of exact, plain
types. The student's process never gets a test.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils import checks, values
from course_utils.grading.sandbox.messages import Channel, Gone, Message
from course_utils.grading.sandbox.shell import Shell, clean, described, utf8

FROM_WORKER = 400_000_000  # B of a message from the worker, which is trusted


class Process:
    """Answers messages, one after another, until the other end is closed.

    Every message carries a number `n`, and so does the answer to it. This lets the receiver discard
    late replies from forks or threads.
    """

    def __init__(self, channel: Channel):
        self.channel = channel
        self._shielded = 1  # no interrupt between messages or while one is sent
        self._interrupted = False
        signal.signal(signal.SIGINT, self._on_interrupt)
        self.shell = Shell(self.emit)

    def serve(self) -> None:
        """Answer messages until there are no more."""
        while True:
            try:
                message = self.channel.receive(limit=FROM_WORKER)
                getattr(self, f"on_{message.kind}")(message)
            except Gone:
                return

    def emit(self, kind: str, body: bytes = b"", **fields: Any) -> None:
        """Send a message, whole even if an interrupt comes."""
        with self._shield():
            self.channel.send(kind, body, **fields)

    def on_file(self, message: Message) -> None:
        """Put a file into the working folder."""
        path = Path(message["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(message.body)

    def on_run(self, message: Message) -> None:
        """Run a cell; its outputs come before the answer, "done"."""
        ok = False
        with contextlib.suppress(KeyboardInterrupt), self._interruptible():
            ok = self.shell.run(message.text)
        self.emit("done", n=message["n"], ok=ok)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._shielded -= 1
        try:
            yield
        finally:
            self._shielded += 1
            self._interrupted = False

    @contextlib.contextmanager
    def _shield(self) -> Iterator[None]:
        self._shielded += 1
        try:
            yield
        finally:
            self._shielded -= 1
            if self._interrupted and not self._shielded:
                self._interrupted = False
                raise KeyboardInterrupt

    def _on_interrupt(self, *_: Any) -> None:
        if self._shielded:
            self._interrupted = True
        else:
            raise KeyboardInterrupt


class Student(Process):
    """Runs a student's cells and calls the student's functions."""

    def __init__(self, channel: Channel):
        super().__init__(channel)
        # A module that was handed in with the notebook can be imported.
        sys.path.insert(0, os.getcwd())
        self.objects: dict[int, Any] = {}  # made for the judge, by the number of the call

    def on_call(self, message: Message) -> None:
        """Call a function, a class or a method; the answer is its value or its exception."""
        reply, body, fields = "raised", b"", {}
        self.shell.outputs.start()
        try:
            with self._interruptible():
                # The test has made these folders for the answer to use.
                for folder in message["folders"]:
                    os.makedirs(folder, exist_ok=True)
                with contextlib.redirect_stderr(sys.stdout):
                    reply, body = self._call(message)
        except BaseException as error:
            fields = _fields(error)
        self.shell.flush()
        self.emit(reply, body, n=message["n"], **fields)

    def _call(self, message: Message) -> tuple[str, bytes]:
        if message["object"]:
            target = self.objects[message["object"]]
        elif message["name"] in self.shell.namespace:
            target = self.shell.namespace[message["name"]]
        else:
            raise NameError(f"name {message['name']!r} is not defined")
        for name in message["path"]:
            target = getattr(target, name)
        args, kwargs = values.decode(message.body)
        result = target(*args, **kwargs)
        if message["keep"]:
            self.objects[message["n"]] = result
            return "object", b""
        try:
            return "value", values.encode(result)
        except (TypeError, ValueError) as error:
            return "unplain", utf8(clean(error))


def _fields(error: BaseException) -> dict[str, Any]:
    """What the judge learns of a student's exception: its name, message, kinds and place."""
    try:
        place = [clean(line) for line in checks.place(error)]
    except Exception:
        place = []
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return {**described(type(error), error), "kinds": kinds[:20], "place": place}


class Judge(Process):
    """Runs the instructor's test cells."""

    def on_check(self, message: Message) -> None:
        """Run a test cell in which names of answers, functions and classes, are proxies."""
        for name in (*message["functions"], *message["classes"]):
            self.shell.namespace[name] = Proxy(self, name, makes=name in message["classes"])
        self.on_run(message)

    def on_compute(self, message: Message) -> None:
        """Call a function of the grader's from bytes to bytes; the answer is what it returns.

        It is for work on what a student handed in, which may be made to fill the memory of whoever
        reads it.
        """
        function = pkgutil.resolve_name(message["function"])
        self.emit("computed", function(message.body), n=message["n"])

    def ask(self, proxy: Proxy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call in the student's process; returns its value or raises its exception."""
        body = values.encode((args, kwargs))
        self.emit("call", body, **proxy.address, keep=proxy.makes, folders=_folders())
        reply = self.channel.receive()
        if reply.kind == "value":
            try:
                return values.decode(reply.body)
            except ValueError as error:
                raise checks.Unplain(str(error)) from None
        if reply.kind == "object":
            return Proxy(self, proxy.name, number=reply["n"])
        if reply.kind == "unplain":
            raise checks.Unplain(reply.text)
        raise rebuilt(reply)


class Proxy:
    """A student's function, class or object: calling it, or a method, asks the student's process.

    Args:
        judge: The process that asks.
        name: A name that the student has defined.
        path: The attributes that lead from the name to a method.
        number: The call that made the object; 0 for a function or class.
        makes: Whether its calls make objects, whose methods are then called, instead of values.
    """

    def __init__(
        self,
        judge: Judge,
        name: str,
        path: tuple[str, ...] = (),
        number: int = 0,
        makes: bool = False,
    ):
        self.judge, self.name, self.makes = judge, name, makes
        self.address = {"name": name, "path": path, "object": number}
        self.__name__ = (name, *path)[-1]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.judge.ask(self, args, kwargs)

    def __getattr__(self, name: str) -> Proxy:
        if name.startswith("__"):
            raise AttributeError(name)
        address = self.address
        return Proxy(self.judge, self.name, (*address["path"], name), address["object"])


def rebuilt(reply: Message) -> Exception:
    """An exception with the name and message of the student's, caught by the same `except`.

    Its type is made here and derived from Python's own exceptions, so it has no code of the
    student's.
    """
    name = str(reply["ename"])
    name = name if name.isidentifier() else "Exception"
    found = [getattr(builtins, str(kind), None) for kind in reply["kinds"]]
    kinds = [k for k in found if isinstance(k, type) and issubclass(k, (Exception, SystemExit))]
    direct = [k for k in kinds if not any(k in other.__mro__[1:] for other in kinds)]
    members = {
        "__init__": lambda self: None,
        "__str__": lambda self, text=str(reply["evalue"]): text,
        "crossed_place": [str(line) for line in reply["place"]],
    }
    for bases in (tuple(direct), tuple(direct[:1]), (Exception,)):
        # Two exceptions with different layouts have no common subclass.
        with contextlib.suppress(TypeError):
            return type(name, bases or (Exception,), members)()
    raise AssertionError("Exception can always be derived from")


def _folders() -> list[str]:
    """Folders for temporary files that the test cell has made and a call may name."""
    import tempfile

    top = tempfile.gettempdir()
    return [entry.path for entry in os.scandir(top) if entry.is_dir()][:100]
