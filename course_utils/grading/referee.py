"""Runs a notebook with the student's process and the judge's, and collects the cells' outputs.

The student's cells run in the student's process, test cells in the judge's. Only calls and plain
values go between the two. Only the judge's outputs decide about points. Whatever else a student's
process sends is shown, but has no effect on points.
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

TRIES = 4  # processes that are started for one submission, at most
READING = 60  # seconds to read a notebook
PATIENCE = 2  # seconds that a process has to react to an interrupt
OUTPUTS = 200  # of a cell, at most
ROOM, ALL = 12_000_000, 30_000_000  # B of outputs that are kept, of a cell and of a notebook
LINES = 500  # of a traceback that are kept
FLOOD = 200_000_000  # B of outputs at which the process is ended

Output = dict[str, Any]
Notebook = dict[str, Any]


class Servers(NamedTuple):
    """The warm servers for an assignment, which fork students' processes and judges'."""

    student: Server
    judge: Server


class Referee:
    """Runs one notebook, with a student's process and a judge's.

    Args:
        servers: Where the two processes are started.
        spec: What the notebook is graded with.
        submission: Whose files the student's process has, besides those of the assignment.
        core: The core that both processes run on; default: any.

    Attributes:
        incidents: What a person should know about the run, one line each.
        memory: The most that the student's processes took together, B.
    """

    def __init__(
        self, servers: Servers, spec: GradingSpec, submission: Submission, core: int | None = None
    ):
        self._servers, self._spec, self._submission = servers, spec, submission
        self._limits, self._core = spec.limits, core
        self._student: Sandboxed | None = None
        self._judge: Sandboxed | None = None
        self._ran: list[str] = []  # sources of the cells, to be run again in a new process
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
        """The notebook in what a student handed in, with "notes" and "doubts" (`intake.repair`).

        Args:
            data: What was handed in.
            release: The released notebook, as JSON.

        Raises:
            Ungradable: There is no notebook; the text says why.
        """
        if len(data) > MAX_NOTEBOOK:
            raise Ungradable(f"the file has {len(data) / 1e6:.0f} MB: clear its outputs")
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
        """Run a cell of the student's.

        Args:
            source: The cell's source.
            what: The cell's name in `incidents`.

        Returns:
            Its outputs, as a notebook has them.
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
        """Run a test cell in the judge's process.

        Args:
            source: The cell's source.
            what: The cell's name in `incidents`.

        Returns:
            Its outputs, with an error among them unless the check passed. They include what the
            student's code printed and displayed meanwhile, and nothing else that it sent.
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
        """Make a call in the student's process; returns the kind, body and fields of the reply."""
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
        """Ask the student's process for something and wait for its answer.

        The process is interrupted once the time is up, and ended if that doesn't help. Raises
        _Stopped if it gave no answer.
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
        """The student's process; a new one, in which all cells ran again, if the last has ended."""
        if self._student is None:
            if self._tries == TRIES:
                raise _Stopped(f"its process has ended {TRIES} times, no further one is started")
            self._tries += 1
            files = self._submission.files | self._spec.files
            self._student = self._start(self._servers.student, "student", files)
            replayed, self._ran = self._ran, []
            for source in replayed:
                # A cell that ran before may fail now; the others are run all the same.
                with contextlib.suppress(_Stopped):
                    self._request("run", utf8(source), {}, _Outputs(0), self._limits.cell)
                    self._ran.append(source)
        return self._student or self._running()

    def _judging(self) -> Sandboxed:
        """The judge's process; a new one if the last has ended."""
        if self._judge is None:
            self._judge = self._start(self._servers.judge, "judge", self._spec.files)
        return self._judge

    def _start(self, server: Server, role: str, files: Files) -> Sandboxed:
        process = server.start(role, self._limits, self._core)
        for path, data in files.items():
            process.channel.send("file", data, self._deadline(READING), path=path)
        return process

    def _end_student(self) -> str:
        """End the student's process; returns how it had ended, if it had: "" or a sentence."""
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
    """The student's process gave no answer; the text says why."""


class _Interrupting:
    """Receives from a process; at a deadline, interrupts it and waits `PATIENCE` seconds more."""

    def __init__(self, process: Sandboxed, deadline: float):
        self._process, self._deadline = process, deadline
        self.interrupted = False

    def receive(self) -> Message:
        """The next message; raises TimeoutError if there is none even after the interrupt."""
        try:
            return self._process.channel.receive(self._deadline)
        except TimeoutError:
            if self.interrupted:
                raise
        self.interrupted, self._deadline = True, time.monotonic() + PATIENCE
        self._process.interrupt()
        return self.receive()


def _answers(message: Message, kind: str, asked: dict[str, Any]) -> bool:
    """Whether a message is an answer to what was asked, and of a kind that answers it."""
    if message.fields.get("n") != asked["n"]:
        return False
    if kind == "run":
        return message.kind == "done"
    return message.kind in ("raised", *(("object",) if asked["keep"] else ("value", "unplain")))


def _refusal(text: str) -> dict[str, Any]:
    return {"ename": "Stopped", "evalue": text, "kinds": ["Exception"], "place": []}


def _reply_fields(message: Message) -> dict[str, Any]:
    """What the judge gets besides the value, each field of the type that it expects."""
    if message.kind != "raised":
        return {"n": message.fields["n"]}
    kinds, place = message.fields.get("kinds"), message.fields.get("place")
    return {
        "ename": clean(message.fields.get("ename")),
        "evalue": clean(message.fields.get("evalue")),
        "kinds": [clean(kind) for kind in kinds][:20] if isinstance(kinds, list) else [],
        "place": [clean(line) for line in place][:3] if isinstance(place, list) else [],
    }


# --- outputs, as a notebook has them --------------------------------------------------------------


class _Outputs(list[Output]):
    """The outputs of a cell.

    Attributes:
        room: B that are left for further outputs.
        taken: B that are kept.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room, self.taken = room, 0

    def take(self, message: Message) -> None:
        """Append the message's output unless the cell's output budget is used up."""
        size = len(message.body) + SHORT
        self.room -= size
        if self.room > 0 and len(self) < OUTPUTS and (output := _output(message)):
            self.append(output)
            self.taken += size

    def add(self, others: _Outputs) -> None:
        """Append what was put out during a call, as outputs that nbgrader takes for no verdict."""
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
    """The forms of something displayed, by MIME type: text, and pictures in base64."""
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
    """An output that nbgrader doesn't take for a verdict: no stderr, no value of a last line."""
    if output["output_type"] == "stream":
        return {**output, "name": "stdout"}
    return {"output_type": "display_data", "data": output["data"], "metadata": {}}
