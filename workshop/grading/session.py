"""Run a notebook in a student process and a test process, and collect the cells' outputs.

The student's cells run in the student process, and test cells run in the test process. The two
processes exchange only calls and plain values. Only the outputs of the test process decide about
points. The outputs of the student process are shown, but have no effect on points.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from course_utils.exercise.checks import joined_lines
from workshop.grading.failures import Failures
from workshop.grading.repair import Repaired, Ungradable, request, result
from workshop.grading.sandbox.bubblewrap import NoSandbox, SandboxError
from workshop.grading.sandbox.messages import ChannelError, Message
from workshop.grading.sandbox.server import SandboxProcess, Server
from workshop.grading.sandbox.shell import MAX_CHARACTERS, MAX_TEXT, MIMES, clean, utf8
from workshop.grading.spec import MAX_NOTEBOOK, Files, GradingSpec, Submission

# Maximum number of student processes that are started for one submission.
MAX_STARTS = 4
# Maximum time for reading a notebook or for sending a file to a process, in seconds.
READ_TIMEOUT = 60
# Seconds that a process has to react to an interrupt.
INTERRUPT_TIMEOUT = 2
# Maximum number of outputs that are kept for one cell.
MAX_OUTPUTS = 200
# Maximum size of the outputs that are kept, for one cell and for a notebook, in bytes (B).
CELL_OUTPUT, NOTEBOOK_OUTPUT = 12_000_000, 30_000_000
# Maximum number of lines that are kept of a traceback.
MAX_LINES = 500
# If the outputs exceed a cell's limit by more than this number of bytes (B), the process is ended.
MAX_EXCESS = 200_000_000
# Maximum number of skipped statements that are kept, and of characters of such a statement.
MAX_SKIPPED, MAX_STATEMENT = 20, 120

Output = dict[str, Any]


class Servers:
    """The warm servers of an assignment, which fork student processes and test processes.

    The two servers start at the same time, each in its own thread. When such a thread ends, Linux
    also ends the sandbox that it started, so the threads run until `close`.
    """

    def __init__(self, spec: GradingSpec):
        self._arguments = {
            "student": (spec.imports.get("student", ""), spec.withheld, spec.folders),
            "test": (spec.imports.get("test", ""), (), spec.folders),
        }
        self._threads = ThreadPoolExecutor(2, "sandboxes")
        self._lock = threading.Lock()
        self._servers: dict[str, Future[Server]] = {}

    def start(self) -> None:
        """Start the servers in the background."""
        for role in self._arguments:
            self._running(role)

    def get(self, role: str) -> Server:
        """Return the server for "student" or "test" processes; start it if necessary.

        Raises:
            NoSandbox: No sandbox can be created.
        """
        try:
            return self._running(role).result()
        except SandboxError as error:
            raise NoSandbox(str(error)) from None

    def _running(self, role: str) -> Future[Server]:
        """Return the server for a role, and start the server again if it has ended."""
        with self._lock:
            server = self._servers.get(role)
            if server is None or (server.done() and not _is_alive(server)):
                if server is not None:
                    _close(server)
                server = self._threads.submit(Server, *self._arguments[role])
                self._servers[role] = server
            return server

    def close(self) -> None:
        """End both servers and all their processes, also if a server is still starting."""
        with self._lock:
            for server in self._servers.values():
                _close(server)
            self._servers.clear()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _is_alive(server: Future[Server]) -> bool:
    return not server.exception() and server.result().alive


def _close(server: Future[Server]) -> None:
    if not server.exception():
        server.result().close()


class GradingSession:
    """Runs one notebook in a student process and a test process.

    Args:
        submission: The submission. The student process gets the submission's files and the
            assignment's files.
        core: The number of the core on which both processes run; default: any core.

    Attributes:
        incidents: Events of the run that a person should know about, one line each.
        failures: What failed so far; for a NameError, checks report its cause.
        memory: Peak memory of the student process and its child processes together, in bytes (B).
            If the process was restarted, this is the maximum over all student processes.
    """

    def __init__(
        self, servers: Servers, spec: GradingSpec, submission: Submission, core: int | None = None
    ):
        self._servers, self._spec, self._submission = servers, spec, submission
        self._limits, self._core = spec.limits, core
        self._student: SandboxProcess | None = None
        self._test: SandboxProcess | None = None
        # The sources of the cells that have run in the student process. If this process ends, a new
        # process runs these cells again, so that their definitions exist again.
        self._finished_cells: list[str] = []
        self._starts = self._request_number = self.memory = 0
        self._notebook_deadline = time.monotonic() + spec.limits.notebook
        self._allowed_output = NOTEBOOK_OUTPUT
        self.incidents: list[str] = []
        self.failures = Failures()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._end_student()
        self._end_test()

    # --- cells ------------------------------------------------------------------------------------

    def repair(self) -> Repaired:
        """Repair the submitted notebook in the sandbox.

        Raises:
            Ungradable: The notebook can't be read or repaired; the message says why.
        """
        try:
            channel, deadline = self._test_process().channel, self._deadline(READ_TIMEOUT)
            sent = request(self._submission.notebook or b"", self._spec.release)
            channel.send("compute", sent, deadline, n=0, function="workshop.grading.repair:run")
            answer = channel.receive(deadline, MAX_NOTEBOOK)
            if answer.kind != "computed":
                raise ChannelError(f"expected the notebook, but got {answer.kind}")
        except (TimeoutError, ChannelError):
            self._end_test()
            raise Ungradable("the file takes too much time or memory to read") from None
        return result(answer.body)

    def run(self, source: str, what: str = "a cell") -> list[Output]:
        """Run a cell in the student process, and return the cell's outputs."""
        outputs = self._outputs()
        try:
            self._request("run", utf8(source), {}, outputs, self._limits.cell)
            self._finished_cells.append(source)
        except _Stopped as error:
            self.incidents.append(f"{what}: {error}")
            outputs.append(_error("Stopped", str(error)))
        self._allowed_output -= outputs.size
        self.failures.add(source, outputs, outputs.skipped)
        # A test may import a module that is withheld from the student's process.
        if what not in self._spec.tests and len(self.failures.skipped) <= MAX_SKIPPED:
            self.incidents += [
                f"{what}: grading went on without `{statement}`, which failed: {reason}"
                for statement, reason in outputs.skipped
            ]
        return outputs

    def check(self, source: str, what: str = "a check") -> list[Output]:
        """Run a test cell in the test process, and return the cell's outputs.

        Returns:
            The cell's outputs in the notebook format. One of the outputs is an error unless the
            check passed. The outputs include what the student's code printed and displayed during
            the check, but no errors that the student process sent.
        """
        student_outputs, outputs = self._outputs(), _Outputs(CELL_OUTPUT)
        try:
            channel, deadline = self._test_process().channel, self._deadline(self._limits.cell)
            self._request_number += 1
            fields = {"n": self._request_number, "seed": self._submission.seed}
            channel.send("check", utf8(source), deadline, **fields, **vars(self._spec.names))
            while (message := channel.receive(deadline)).kind != "done":
                if message.kind == "call":
                    reply, body, fields = self._call(message, student_outputs, what, deadline)
                    channel.send(reply, body, deadline, **fields)
                else:
                    outputs.add_message(message)
            if not (message["ok"] or any(o["output_type"] == "error" for o in outputs)):
                outputs.append(_error("CheckStopped", "the check was not finished"))
        except (TimeoutError, ChannelError) as error:
            self._end_test()
            name, text = "CheckStopped", "the check could not be finished"
            if isinstance(error, TimeoutError):
                name, text = "CellTimeoutError", self._timeout_text(self._limits.cell)
            self.incidents.append(f"{what}: {text}")
            outputs.append(_error(name, text))
        self._allowed_output -= student_outputs.size
        return [*student_outputs, *outputs]

    def _call(
        self, call: Message, outputs: _Outputs, what: str, deadline: float
    ) -> tuple[str, bytes, dict[str, Any]]:
        """Make a call in the student process; return the kind, body and fields of the reply."""
        call_outputs = _Outputs(outputs.allowed)
        # The student process must answer soon enough for the test cell to end before its deadline.
        left = deadline - time.monotonic() - INTERRUPT_TIMEOUT - 1
        seconds = min(self._limits.call, max(0.1, left))
        try:
            message = self._request("call", call.body, call.fields, call_outputs, seconds)
        except _Stopped as error:
            self.incidents.append(f"{what}: {error}")
            fields = {"ename": "Stopped", "evalue": str(error), "kinds": ["Exception"], "place": []}
            return "raised", b"", fields
        finally:
            outputs.add_call(call_outputs)
        if message.kind != "raised":
            return message.kind, message.body, {"n": message.fields["n"]}
        raised = _exception_fields(message)
        if raised["ename"] == "NameError":
            raised["evalue"] = self.failures.explain(raised["evalue"])
        return "raised", b"", raised

    # --- the processes ----------------------------------------------------------------------------

    def _request(
        self, kind: str, body: bytes, fields: dict[str, Any], outputs: _Outputs, seconds: float
    ) -> Message:
        """Send a request to the student process, and return its response.

        Outputs that arrive before the response are added to `outputs`. If no response arrives
        within `seconds` seconds, the process is interrupted, and ended if it still doesn't respond.
        """
        interrupted = False
        try:
            process = self._student_process()
            self._request_number += 1
            request, deadline = {**fields, "n": self._request_number}, self._deadline(seconds)
            process.channel.send(kind, body, deadline, **request)
            while True:
                try:
                    message = process.channel.receive(deadline)
                except TimeoutError:
                    if interrupted:
                        raise
                    interrupted, deadline = True, time.monotonic() + INTERRUPT_TIMEOUT
                    process.interrupt()
                    continue
                if _is_answer(message, kind, request):
                    break
                outputs.add_message(message)
                if outputs.allowed < -MAX_EXCESS:
                    self._end_student()
                    raise _Stopped("the outputs were too large; the process was ended")
        except TimeoutError:
            self._end_student()
            raise _Stopped(f"{self._timeout_text(seconds)}; the process was ended") from None
        except ChannelError:
            reason = self._end_student() or "it exited"
            raise _Stopped(f"the process ended: {reason}") from None
        if interrupted:
            raise _Stopped(self._timeout_text(seconds))
        return message

    def _student_process(self) -> SandboxProcess:
        """Return the student process.

        If the last process has ended, start a new one and run all previous cells again in the new
        process.
        """
        while self._student is None:
            if self._starts == MAX_STARTS:
                raise _Stopped(f"the process has ended {MAX_STARTS} times and isn't started again")
            self._starts += 1
            self._student = self._start("student", self._submission.files | self._spec.files)
            cells, self._finished_cells = self._finished_cells, []
            for source in cells:
                # A cell that succeeded in the previous process may fail in the new process, and may
                # even end the new process. Run the next cells anyway.
                with contextlib.suppress(_Stopped):
                    self._request("run", utf8(source), {}, _Outputs(0), self._limits.cell)
                    self._finished_cells.append(source)
        return self._student

    def _test_process(self) -> SandboxProcess:
        """Return the test process; start a new process if the last one has ended."""
        if self._test is None:
            self._test = self._start("test", self._spec.files)
        return self._test

    def _start(self, role: str, files: Files) -> SandboxProcess:
        process = self._servers.get(role).start(role, self._limits, self._core)
        try:
            for path, data in files.items():
                process.channel.send("file", data, self._deadline(READ_TIMEOUT), path=path)
        except (TimeoutError, ChannelError):
            process.end()
            raise
        return process

    def _end_student(self) -> str:
        """End the student process. If it had already been killed, return the reason, else ""."""
        process, self._student = self._student, None
        if process is None:
            return ""
        reason = process.end()
        self.memory = max(self.memory, process.limits.peak)
        return reason

    def _end_test(self) -> None:
        process, self._test = self._test, None
        if process is not None:
            process.end()

    def _outputs(self) -> _Outputs:
        return _Outputs(min(CELL_OUTPUT, self._allowed_output))

    def _deadline(self, seconds: float) -> float:
        return min(time.monotonic() + seconds, self._notebook_deadline)

    def _timeout_text(self, seconds: float) -> str:
        if time.monotonic() >= self._notebook_deadline:
            return f"the notebook took more than {self._limits.notebook:g} s"
        return f"no answer within {seconds:.3g} s"


class _Stopped(Exception):
    """Raised if the student process gave no answer; the message says why."""


def _is_answer(message: Message, kind: str, request: dict[str, Any]) -> bool:
    """Return whether a message has the number of a request and a kind that answers the request."""
    if message.fields.get("n") != request["n"]:
        return False
    if kind == "run":
        return message.kind == "done"
    return message.kind in ("raised", *(("object",) if request["keep"] else ("value", "unplain")))


def _exception_fields(message: Message) -> dict[str, Any]:
    """Check and return the fields that describe an exception that the student's code raised."""
    kinds, place = message.fields.get("kinds"), message.fields.get("place")
    places = [joined_lines(clean(line)) for line in place[:3]] if isinstance(place, list) else []
    return {
        "ename": clean(message.fields.get("ename")),
        "evalue": clean(message.fields.get("evalue")),
        "kinds": [clean(kind) for kind in kinds][:20] if isinstance(kinds, list) else [],
        # The only line of a check's message that comes from the student process as it is.
        "place": [line for line in places if line.startswith("in  ")][:1],
    }


# --- outputs in the notebook format ---------------------------------------------------------------


class _Outputs(list[Output]):
    """The outputs of a cell.

    Attributes:
        allowed: How many more bytes (B) of outputs are allowed; negative if the limit was exceeded.
        size: Size of the outputs that were kept, in bytes (B).
        skipped: The statements that were skipped because a module, a file or a name was missing,
            with the reasons.
    """

    def __init__(self, allowed: int):
        super().__init__()
        self.allowed, self.size = allowed, 0
        self.skipped: list[tuple[str, str]] = []

    def add_message(self, message: Message) -> None:
        """Append the message's output, unless the cell's limit for outputs is exceeded."""
        size = len(message.body) + MAX_CHARACTERS
        self.allowed -= size
        if self.allowed > 0 and len(self) < MAX_OUTPUTS and (output := _output(message)):
            self.append(output)
            self.size += size
        if message.kind == "skipped" and len(self.skipped) < MAX_SKIPPED:
            statement, reason = message.fields.get("statement"), message.fields.get("reason")
            statement, reason = clean(statement, MAX_STATEMENT), clean(reason, MAX_STATEMENT)
            self.skipped.append((joined_lines(statement), joined_lines(reason)))

    def add_call(self, outputs: _Outputs) -> None:
        """Append the outputs of a call, without errors and in forms that can't affect points."""
        self += [_harmless(output) for output in outputs if output["output_type"] != "error"]
        self.allowed, self.size = outputs.allowed, self.size + outputs.size


def _output(message: Message) -> Output | None:
    """Return the output that a message contains; None if the message has an unknown kind."""
    if message.kind in ("stream", "skipped"):
        name = "stderr" if message.fields.get("name") == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": message.text}
    if message.kind in ("display", "result"):
        display = {"output_type": "display_data", "data": _bundle(message), "metadata": {}}
        result = {"output_type": "execute_result", "execution_count": None}
        return display if message.kind == "display" else {**display, **result}
    if message.kind == "error":
        name, text = (clean(message.fields.get(key)) for key in ("ename", "evalue"))
        return _error(name, text, message.text[:MAX_TEXT].split("\n")[:MAX_LINES])
    return None


def _bundle(message: Message) -> dict[str, str]:
    """Return the forms of a displayed object by MIME type: text as it is, pictures in base64."""
    data, start = {}, 0
    sizes = message.fields.get("mimes")
    for mime, size in sizes.items() if isinstance(sizes, dict) else ():
        if mime not in MIMES or not isinstance(size, int) or size < 0:
            continue
        part, start = message.body[start : start + size], start + size
        picture = mime.startswith("image/")
        data[mime] = base64.b64encode(part).decode() if picture else part.decode("utf-8", "replace")
    return data


def _error(name: str, text: str, traceback: list[str] | None = None) -> Output:
    lines = traceback or [f"{name}: {text}"]
    return {"output_type": "error", "ename": name, "evalue": text, "traceback": lines}


def _harmless(output: Output) -> Output:
    """Return an output that nbgrader can't mistake for a check's result.

    Text on stderr becomes text on stdout, and the value of a last line becomes displayed data.
    """
    if output["output_type"] == "stream":
        return {**output, "name": "stdout"}
    return {"output_type": "display_data", "data": output["data"], "metadata": {}}
