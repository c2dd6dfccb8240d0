"""Run a notebook in a student's process and a judge's process, and collect the cells' outputs.

The student's cells run in the student's process, and test cells run in the judge's process. The two
processes exchange only calls and plain values. Only the judge's outputs decide about points.
Outputs of the student's process are shown, but have no effect on points.
"""

from __future__ import annotations

import base64
import contextlib
import time
from typing import Any, NamedTuple

from course_utils.grading.intake import isolated
from course_utils.grading.intake.repair import Ungradable
from course_utils.grading.sandbox.messages import Gone, Message
from course_utils.grading.sandbox.server import Sandboxed, Server
from course_utils.grading.sandbox.shell import MIMES, SHORT, TEXT, clean, utf8
from course_utils.grading.spec import MAX_NOTEBOOK, Files, GradingSpec, Submission
from course_utils.units import format_bytes

# Maximum number of student's processes that are started for one submission.
TRIES = 4
# Maximum time for reading a notebook or for sending a file to a process, in seconds.
READING = 60
# Seconds that a process has to react to an interrupt.
PATIENCE = 2
# Maximum number of outputs that are kept for one cell.
OUTPUTS = 200
# Maximum size of the outputs that are kept, for one cell and for a notebook, in bytes (B).
ROOM, ALL = 12_000_000, 30_000_000
# Maximum number of lines that are kept of a traceback.
LINES = 500
# If the outputs exceed a cell's limit by more than this number of bytes (B), the process is ended.
FLOOD = 200_000_000

Output = dict[str, Any]
Notebook = dict[str, Any]


class Servers(NamedTuple):
    """The warm servers for an assignment, which fork students' processes and judges' processes.

    Attributes:
        student: The server that forks students' processes.
        judge: The server that forks judges' processes.
    """

    student: Server
    judge: Server


class Referee:
    """Runs one notebook in a student's process and a judge's process.

    Args:
        servers: The servers that fork the two processes.
        spec: What the notebook is graded with.
        submission: The submission. The student's process gets the submission's files and the
            assignment's files.
        core: The number of the core on which both processes run; default: any core.

    Attributes:
        incidents: Events of the run that a person should know about, one line each.
        memory: Peak memory of the student's process and its child processes together, in bytes (B).
            If the process was restarted, this is the maximum over all student's processes.
    """

    def __init__(
        self, servers: Servers, spec: GradingSpec, submission: Submission, core: int | None = None
    ):
        self._servers, self._spec, self._submission = servers, spec, submission
        self._limits, self._core = spec.limits, core
        self._student: Sandboxed | None = None
        self._judge: Sandboxed | None = None
        # The sources of the cells that have run in the student's process. If this process ends, a
        # new process runs these cells again, so that their definitions exist again.
        self._ran: list[str] = []
        self._tries = self._number = self.memory = 0
        self._ends = time.monotonic() + spec.limits.notebook
        self._room = ALL
        self.incidents: list[str] = []

    def __enter__(self) -> Referee:
        return self

    def __exit__(self, *_: Any) -> None:
        self._end_student()
        self._end_judge()

    # --- cells ------------------------------------------------------------------------------------

    def repair(self, data: bytes, release: bytes) -> Notebook:
        """Repair a submitted notebook, and return the notebook with notes about the repair.

        Args:
            data: The bytes of the submitted notebook.
            release: The released notebook, as JSON.

        Returns:
            A dictionary with the keys "notebook", "notes" and "doubts"; see `intake.repair`.

        Raises:
            Ungradable: The notebook can't be read or repaired; the text says why.
        """
        if len(data) > MAX_NOTEBOOK:
            raise Ungradable(f"the file has {format_bytes(len(data), digits=0)}: clear its outputs")
        try:
            channel, ends = self._judging().channel, self._deadline(READING)
            request = isolated.request(data, release)
            channel.send("compute", request, ends, n=0, function=isolated.FUNCTION)
            answer = channel.receive(ends)
        except (TimeoutError, Gone):
            self._end_judge()
            raise Ungradable("the file takes too much time or memory to read") from None
        return isolated.result(answer.body)

    def run(self, source: str, what: str = "a cell") -> list[Output]:
        """Run a cell in the student's process, and return the cell's outputs.

        Args:
            source: The cell's source.
            what: The cell's name in `incidents`.

        Returns:
            The cell's outputs in the notebook format.
        """
        outputs = self._outputs()
        try:
            self._request("run", utf8(source), {}, outputs, self._limits.cell)
            self._ran.append(source)
        except _Stopped as error:
            self.incidents.append(f"{what}: {error}")
            outputs.append(_error("Stopped", str(error)))
        self._room -= outputs.taken
        return outputs

    def check(self, source: str, what: str = "a check") -> list[Output]:
        """Run a test cell in the judge's process, and return the cell's outputs.

        Args:
            source: The cell's source.
            what: The cell's name in `incidents`.

        Returns:
            The cell's outputs in the notebook format. One of the outputs is an error unless the
            check passed. The outputs include what the student's code printed and displayed during
            the check, but no errors that the student's process sent.
        """
        outputs, verdict = self._outputs(), _Outputs(ROOM)
        try:
            channel, ends = self._judging().channel, self._deadline(self._limits.cell)
            self._number += 1
            channel.send("check", utf8(source), ends, n=self._number, **vars(self._spec.names))
            while (message := channel.receive(ends)).kind != "done":
                if message.kind == "call":
                    reply, body, fields = self._call(message, outputs, what, ends)
                    channel.send(reply, body, ends, **fields)
                else:
                    verdict.take(message)
            if not (message["ok"] or any(o["output_type"] == "error" for o in verdict)):
                verdict.append(_error("CheckStopped", "the check was not finished"))
        except (TimeoutError, Gone) as error:
            self._end_judge()
            late = isinstance(error, TimeoutError)
            text = self._too_long(self._limits.cell) if late else "the check could not be finished"
            self.incidents.append(f"{what}: {text}")
            verdict.append(_error("CellTimeoutError" if late else "CheckStopped", text))
        self._room -= outputs.taken
        return [*outputs, *verdict]

    def _call(
        self, call: Message, outputs: _Outputs, what: str, ends: float
    ) -> tuple[str, bytes, dict[str, Any]]:
        """Make a call in the student's process; return the kind, body and fields of the reply."""
        shown = _Outputs(outputs.room)
        seconds = min(self._limits.call, max(0.1, ends - time.monotonic() - PATIENCE - 1))
        try:
            message = self._request("call", call.body, call.fields, shown, seconds)
        except _Stopped as error:
            self.incidents.append(f"{what}: {error}")
            return "raised", b"", _refusal(str(error))
        finally:
            outputs.add(shown)
        return message.kind, message.body, _reply_fields(message)

    # --- the student's process --------------------------------------------------------------------

    def _request(
        self, kind: str, body: bytes, fields: dict[str, Any], outputs: _Outputs, seconds: float
    ) -> Message:
        """Send a request to the student's process, wait for the answer, and return the answer.

        When the time is up, the process is interrupted. If the process still doesn't answer, it is
        ended.

        Args:
            kind: The kind of request: "run" or "call".
            body: The body of the request.
            fields: The other fields of the request.
            outputs: The list to which outputs of the process are added.
            seconds: How many seconds the process has until it is interrupted.

        Raises:
            _Stopped: The process gave no answer within the time.
        """
        process = self._running()
        self._number += 1
        asked, ends = {**fields, "n": self._number}, self._deadline(seconds)
        answers = _Interrupting(process, ends)
        try:
            process.channel.send(kind, body, ends, **asked)
            while not _answers(message := answers.receive(), kind, asked):
                outputs.take(message)
                if outputs.room < -FLOOD:
                    self._end_student()
                    raise _Stopped("it put out too much; it had to be ended")
        except TimeoutError:
            self._end_student()
            raise _Stopped(f"{self._too_long(seconds)}; it had to be ended") from None
        except Gone:
            raise _Stopped(f"the process ended: {self._end_student() or 'it exited'}") from None
        if answers.interrupted:
            raise _Stopped(self._too_long(seconds))
        return message

    def _running(self) -> Sandboxed:
        """Return the student's process.

        If the last process has ended, start a new one and run all previous cells again in the new
        process.

        Raises:
            _Stopped: `TRIES` processes have ended already.
        """
        if self._student is None:
            if self._tries == TRIES:
                raise _Stopped(f"its process has ended {TRIES} times, no further one is started")
            self._tries += 1
            files = self._submission.files | self._spec.files
            self._student = self._start(self._servers.student, "student", files)
            replayed, self._ran = self._ran, []
            for source in replayed:
                # A cell that succeeded in the last process may fail now. Run the next cells anyway.
                with contextlib.suppress(_Stopped):
                    self._request("run", utf8(source), {}, _Outputs(0), self._limits.cell)
                    self._ran.append(source)
        return self._student or self._running()

    def _judging(self) -> Sandboxed:
        """Return the judge's process; start a new process if the last one has ended."""
        if self._judge is None:
            self._judge = self._start(self._servers.judge, "judge", self._spec.files)
        return self._judge

    def _start(self, server: Server, role: str, files: Files) -> Sandboxed:
        process = server.start(role, self._limits, self._core)
        for path, data in files.items():
            process.channel.send("file", data, self._deadline(READING), path=path)
        return process

    def _end_student(self) -> str:
        """End the student's process. If it had already been killed, return the reason, else "".

        The reason is a sentence without a full stop. The reason is empty if the process was still
        running, if it had exited by itself, or if the reason is unknown.
        """
        process, self._student = self._student, None
        if process is None:
            return ""
        reason = process.end()
        self.memory = max(self.memory, process.limits.peak)
        return reason

    def _end_judge(self) -> None:
        process, self._judge = self._judge, None
        if process is not None:
            process.end()

    def _outputs(self) -> _Outputs:
        return _Outputs(min(ROOM, self._room))

    def _deadline(self, seconds: float) -> float:
        return min(time.monotonic() + seconds, self._ends)

    def _too_long(self, seconds: float) -> str:
        if time.monotonic() >= self._ends:
            return f"the notebook took more than {self._limits.notebook:g} s"
        return f"no answer within {seconds:.3g} s"


class _Stopped(Exception):
    """Raised if the student's process gave no answer; the message says why."""


class _Interrupting:
    """Receives messages from a process, and interrupts the process at a deadline.

    After the interrupt, the process has `PATIENCE` more seconds to answer.
    """

    def __init__(self, process: Sandboxed, deadline: float):
        self._process, self._deadline = process, deadline
        self.interrupted = False

    def receive(self) -> Message:
        """Return the next message.

        Raises:
            TimeoutError: No message came, even after the interrupt.
        """
        try:
            return self._process.channel.receive(self._deadline)
        except TimeoutError:
            if self.interrupted:
                raise
        self.interrupted, self._deadline = True, time.monotonic() + PATIENCE
        self._process.interrupt()
        return self.receive()


def _answers(message: Message, kind: str, asked: dict[str, Any]) -> bool:
    """Return whether a message has the number of a request and a kind that answers the request.

    Args:
        message: The message that was received.
        kind: The kind of the request: "run" or "call".
        asked: The fields of the request.
    """
    if message.fields.get("n") != asked["n"]:
        return False
    if kind == "run":
        return message.kind == "done"
    return message.kind in ("raised", *(("object",) if asked["keep"] else ("value", "unplain")))


def _refusal(text: str) -> dict[str, Any]:
    return {"ename": "Stopped", "evalue": text, "kinds": ["Exception"], "place": []}


def _reply_fields(message: Message) -> dict[str, Any]:
    """Return the fields of the reply to the judge, with the types that the judge expects."""
    if message.kind != "raised":
        return {"n": message.fields["n"]}
    kinds, place = message.fields.get("kinds"), message.fields.get("place")
    return {
        "ename": clean(message.fields.get("ename")),
        "evalue": clean(message.fields.get("evalue")),
        "kinds": [clean(kind) for kind in kinds][:20] if isinstance(kinds, list) else [],
        "place": [clean(line) for line in place][:3] if isinstance(place, list) else [],
    }


# --- outputs in the notebook format ---------------------------------------------------------------


class _Outputs(list[Output]):
    """The outputs of a cell.

    Attributes:
        room: How many more bytes (B) of outputs are allowed; negative if the limit was exceeded.
        taken: Size of the outputs that were kept, in bytes (B).
    """

    def __init__(self, room: int):
        super().__init__()
        self.room, self.taken = room, 0

    def take(self, message: Message) -> None:
        """Append the message's output, unless the cell's limit for outputs is exceeded."""
        size = len(message.body) + SHORT
        self.room -= size
        if self.room > 0 and len(self) < OUTPUTS and (output := _output(message)):
            self.append(output)
            self.taken += size

    def add(self, others: _Outputs) -> None:
        """Append the outputs of a call, without errors and in forms that can't affect points."""
        self += [_harmless(output) for output in others if output["output_type"] != "error"]
        self.room, self.taken = others.room, self.taken + others.taken


def _output(message: Message) -> Output | None:
    if message.kind == "stream":
        name = "stderr" if message.fields.get("name") == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": message.text}
    if message.kind in ("display", "result"):
        shown = {"output_type": "display_data", "data": _bundle(message), "metadata": {}}
        result = {"output_type": "execute_result", "execution_count": None}
        return shown if message.kind == "display" else {**shown, **result}
    if message.kind == "error":
        name, text = (clean(message.fields.get(key)) for key in ("ename", "evalue"))
        return _error(name, text, message.text[:TEXT].split("\n")[:LINES])
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
