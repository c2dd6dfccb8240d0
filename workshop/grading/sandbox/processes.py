"""Run a student's cells, or an assignment's tests, in a process in the sandbox.

    test process                                     student process
    check(lora_parameters, 1000, 1000, rank=8)
      lora_parameters is a Proxy ──► call, arguments ──►  calls the student's function
      compares with 16,000       ◄── value or error  ◄──  result as plain values

All messages pass through a session outside of the sandbox (`workshop.grading.session`). Only
the session decides how long each call may last. The test process never receives a student's object.
It receives only values of plain types, such as list, and never values of their subclasses. The
student process never receives a test.
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

from course_utils.exercise import checks, values
from workshop.grading.sandbox.messages import Channel, ChannelError, Message
from workshop.grading.sandbox.shell import Shell, clean, exception_fields, utf8

# Maximum size of a message's body from the grader, in bytes (B). The limit is high, because the
# grader is trusted.
MAX_REQUEST = 400_000_000


class RoleProcess:
    """Answers messages in order, until the other end of the channel is closed.

    The subclasses are the roles that a process can have: `StudentProcess` and `TestProcess`.

    Each request has a number `n`, and its answer has the same number. So the receiver can discard
    answers that come too late, for example from a fork or a thread of the student's code.
    """

    def __init__(self, channel: Channel):
        self.channel = channel
        # While this number is positive, an interrupt doesn't raise KeyboardInterrupt immediately.
        # The number is positive between requests and while a message is being sent.
        self._shielded = 1
        self._interrupted = False
        signal.signal(signal.SIGINT, self._on_interrupt)
        self.shell = Shell(self.emit)

    def serve(self) -> None:
        """Answer messages until the other end of the channel is closed."""
        while True:
            try:
                message = self.channel.receive(limit=MAX_REQUEST)
                getattr(self, f"on_{message.kind}")(message)
            except ChannelError:
                return

    def emit(self, kind: str, body: bytes = b"", **fields: Any) -> None:
        """Send a message completely, even if an interrupt arrives meanwhile."""
        with self._shield():
            self.channel.send(kind, body, **fields)

    def on_file(self, message: Message) -> None:
        """Write the file in a message to the working folder."""
        path = Path(message["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(message.body)

    def on_run(self, message: Message) -> None:
        """Run a cell, send its outputs, and then send the answer "done"."""
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


class StudentProcess(RoleProcess):
    """Runs a student's cells and calls the student's functions."""

    def __init__(self, channel: Channel):
        super().__init__(channel)
        # The student may have used a module or a file that is missing here, perhaps without need.
        self.shell.skip_what_is_missing()
        # Allow imports of modules that were submitted with the notebook.
        sys.path.insert(0, os.getcwd())
        # The objects that the test's calls have created, by the number of the call.
        self.objects: dict[int, Any] = {}

    def on_call(self, message: Message) -> None:
        """Call a function, a class or a method, and answer with its value or its exception."""
        reply, body, fields = "raised", b"", {}
        self.shell.outputs.start()
        try:
            with self._interruptible():
                # The test has created these folders in the test process. Create them here too, so
                # that the student's function can use them.
                for folder in message["folders"]:
                    os.makedirs(folder, exist_ok=True)
                with contextlib.redirect_stderr(sys.stdout):
                    reply, body = self._call(message)
        except BaseException as error:
            fields = _raised_fields(error)
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


def _raised_fields(error: BaseException) -> dict[str, Any]:
    """Return the description of a student's exception that the test process receives."""
    try:
        place = [clean(line) for line in checks.place(error)]
    except Exception:
        place = []
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return {**exception_fields(type(error), error), "kinds": kinds[:20], "place": place}


class TestProcess(RoleProcess):
    """Runs the instructor's test cells."""

    def on_check(self, message: Message) -> None:
        """Run a test cell in which the student's functions and classes are proxies.

        The inputs of hidden tests depend on the seed in the message.
        """
        checks.submission_seed = message["seed"]
        for name in (*message["functions"], *message["classes"]):
            self.shell.namespace[name] = Proxy(self, name, makes=name in message["classes"])
        self.on_run(message)

    def on_compute(self, message: Message) -> None:
        """Call one of the grader's own functions, and answer with its result.

        The function's argument and its result are bytes. The function runs here rather than in the
        grader because it reads data from a student. Such data may exhaust the memory of the process
        that reads them.
        """
        function = pkgutil.resolve_name(message["function"])
        self.emit("computed", function(message.body), n=message["n"])

    def ask(self, proxy: Proxy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call in the student process, and return the call's value or raise its exception.

        Raises:
            NotPlainError: The value is not of a plain type.
            Exception: The student's code raised an exception, which is rebuilt here.
        """
        body = values.encode((args, kwargs))
        self.emit(
            "call",
            body,
            name=proxy._name,
            path=proxy._path,
            object=proxy._number,
            keep=proxy._makes,
            folders=_folders(),
        )
        reply = self.channel.receive()
        if reply.kind == "value":
            try:
                return values.decode(reply.body)
            except ValueError as error:
                raise checks.NotPlainError(str(error)) from None
        if reply.kind == "object":
            return Proxy(self, proxy._name, number=reply["n"])
        if reply.kind == "unplain":
            raise checks.NotPlainError(reply.text)
        raise rebuilt(reply)


class Proxy:
    """Represents a student's function, class or object in the test process.

    Calling the proxy or one of its methods makes the call in the student process.

    Args:
        path: The attributes that lead from the object to a method.
        number: The number of the call that created the object; 0 for a function or class.
        makes: Whether a call creates an object and returns a proxy for it, as a class does. If not,
            a call returns a value.
    """

    def __init__(
        self,
        process: TestProcess,
        name: str,
        path: tuple[str, ...] = (),
        number: int = 0,
        makes: bool = False,
    ):
        # All names begin with an underscore, so that a student's method may have any other name.
        self._process, self._name, self._path = process, name, path
        self._number, self._makes = number, makes
        self.__name__ = (name, *path)[-1]
        if path:
            # Like a bound method, whose call can't be shown without its object.
            self.__self__ = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, class or method in the student process; see `TestProcess.ask`."""
        return self._process.ask(self, args, kwargs)

    def __getattr__(self, name: str) -> Proxy:
        if name.startswith("__"):
            raise AttributeError(name)
        return Proxy(self._process, self._name, (*self._path, name), self._number)


def rebuilt(reply: Message) -> Exception:
    """Return an exception with the name and the message of the student's exception.

    The returned exception has the built-in base types of the student's exception, so the same
    `except` clauses catch the returned exception. Its type is created here, so the type contains
    none of the student's code.
    """
    name = str(reply["ename"])
    name = name if name.isidentifier() else "Exception"
    text = str(reply["evalue"])
    named = [getattr(builtins, str(kind), None) for kind in reply["kinds"]]
    kinds = [k for k in named if isinstance(k, type) and issubclass(k, (Exception, SystemExit))]
    direct = [k for k in kinds if not any(k in other.__mro__[1:] for other in kinds)]
    members = {
        "__init__": lambda _: None,
        "__str__": lambda _: text,
        "crossed_place": [str(line) for line in reply["place"]],
    }
    for bases in (tuple(direct), tuple(direct[:1]), (Exception,)):
        # Some pairs of built-in exceptions can't have a common subclass, because their layouts in
        # memory differ. Then creating the type raises a TypeError, and the next bases are tried.
        with contextlib.suppress(TypeError):
            return type(name, bases or (Exception,), members)()
    raise AssertionError("a class can always be derived from Exception")


def _folders() -> list[str]:
    """Return the paths of temporary folders that the test cell has created, at most 100.

    The arguments of a call may contain these paths.
    """
    import tempfile

    top = tempfile.gettempdir()
    return [entry.path for entry in os.scandir(top) if entry.is_dir()][:100]
