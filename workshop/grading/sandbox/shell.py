"""Run the cells of a notebook in this process with IPython, and send their outputs.

No Jupyter kernel is needed, because a kernel also runs cells with IPython's shell. Each output
becomes a message of one of five kinds:

    stream   text that was printed                       name: stdout or stderr
    display  what a cell displays, in several forms      mimes: {"text/plain": size in B, …}
    result   the value of a cell's last line             mimes
    error    an exception: its text as the notebook shows it     ename, evalue
    skipped  a statement without which the cell goes on          statement, reason
"""

from __future__ import annotations

import ast
import base64
import io
import re
import sys
from collections.abc import Callable
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

MIMES = ("text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg")
# Maximum size of the text that a cell may print, and of everything that it may display, in bytes
# (B). Further outputs are dropped.
MAX_TEXT, MAX_DISPLAY = 200_000, 8_000_000
# The note in the output of a cell after a skipped statement.
SKIPPED = b"[grading goes on without this statement]\n"
# Errors that a statement may raise if a module, a file, the network, a person at the keyboard, or a
# line magic is missing.
MISSING = (ImportError, OSError, EOFError, UsageError)
# The note at the end of an output that is too large.
TOO_LARGE = b"\n[the output is too large: the rest is not kept]\n"
# Maximum number of characters of a name or of an exception's message.
MAX_CHARACTERS = 2_000

# A function that is called as emit(kind, body, **fields).
Emit = Callable[..., None]


class Outputs:
    """Sends a cell's outputs, up to `MAX_TEXT` of text and `MAX_DISPLAY` of displayed objects.

    If a limit is reached, a note is sent, and all further outputs are dropped. So a notebook stays
    small even if a student prints too much. The session has its own limits, because a student's
    code can send messages without this class.
    """

    def __init__(self, emit: Emit):
        self._emit = emit
        self.start()

    def start(self) -> None:
        """Reset the sizes that are still allowed, for a new cell."""
        self._left = {MAX_TEXT: MAX_TEXT, MAX_DISPLAY: MAX_DISPLAY}

    def send(self, kind: str, body: bytes, **fields: Any) -> None:
        """Send one output, unless the cell's limit is exceeded."""
        limit = MAX_DISPLAY if "mimes" in fields else MAX_TEXT
        left = self._left[limit]
        self._left[limit] -= len(body)
        if len(body) <= left:
            self._emit(kind, body, **fields)
        elif left >= 0:
            shown = body[:left] if kind == "stream" else b""
            self._emit("stream", shown + TOO_LARGE, name="stdout")
            self._left[limit] = -1


class _Stream(io.BufferedIOBase):
    """The binary stream of sys.stdout or sys.stderr, which sends all bytes as outputs."""

    def __init__(self, outputs: Outputs, name: str):
        self._outputs, self.name = outputs, name

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        # IPython writes an empty text after each result. No message is needed for an empty text.
        if data:
            self._outputs.send("stream", bytes(data), name=self.name)
        return len(data)


class _Result(DisplayHook):
    def write_output_prompt(self) -> None:
        pass

    # IPython passes the metadata as the second argument, which isn't needed here.
    def write_format_data(self, format_dict: dict[str, Any], *_: Any) -> None:
        _show(self.shell.outputs, "result", format_dict)


class _Display(DisplayPublisher):
    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        _show(self.shell.outputs, "display", data)

    def clear_output(self, wait: bool = False) -> None:
        pass


class _IPython(InteractiveShell):
    """An IPython shell that sends its outputs to the grader instead of printing them."""

    displayhook_class = Type(_Result)
    display_pub_class = Type(_Display)
    outputs: Outputs
    # All words in the skipped statements, because each word may be a name that a statement would
    # have defined; None if no statement may be skipped.
    missing: set[str] | None = None

    async def run_ast_nodes(
        self,
        nodelist: list[ast.stmt],
        cell_name: str,
        interactivity: str = "last_expr",
        compiler: Any = compile,
        result: Any = None,
    ) -> bool:
        for node in nodelist:
            is_last = node is nodelist[-1]
            mode = interactivity if is_last else "none"
            if await super().run_ast_nodes([node], cell_name, mode, compiler, result):
                error = result.error_in_exec
                if not self._can_skip(node, error, is_last):
                    return True
                fields = exception_fields(type(error), error)
                reason = f"{fields['ename']}: {fields['evalue']}"
                text = _statement_text(node)
                self.outputs.send("skipped", SKIPPED, statement=text, reason=reason)
                result.error_in_exec = None
        return False

    def _can_skip(self, node: ast.stmt, error: BaseException | None, is_last: bool) -> bool:
        """Return whether a statement that raised an error is skipped, so that the cell continues.

        A statement is skipped if it is an import, or if it needs something that is missing on this
        machine. A cell's last statement is skipped only if it is an import.
        """
        if self.missing is None or not isinstance(error, Exception):
            return False
        if not isinstance(node, ast.Import | ast.ImportFrom):
            # Skip the statement if a skipped statement would have defined the missing name. A
            # skipped `from module import *` may have defined any name.
            names = {error.name, "*"} if isinstance(error, NameError) else set()
            if is_last or not (isinstance(error, MISSING) or names & self.missing):
                return False
        self.missing.update(re.findall(r"\w+|(?<=import )\*", ast.unparse(node)))
        return True

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        sys.stdout.flush()
        body = utf8("\n".join(map(str, stb)))[:MAX_TEXT]
        self.outputs.send("error", body, **exception_fields(etype, evalue))

    def show_usage_error(self, exc: BaseException) -> None:
        """Show the error of a line magic like any other error, instead of printing it."""
        self._showtraceback(type(exc), exc, [f"UsageError: {exc}"])

    def enable_gui(self, gui: Any = None) -> None:
        """Do nothing. `%matplotlib` calls this method, which is not needed to show pictures."""


class Shell:
    """An IPython shell with the namespace of one notebook.

    A process can have only one IPython shell, so create only one `Shell` at a time in a process.
    """

    def __init__(self, emit: Emit):
        settings = Config()
        settings.HistoryManager.enabled = False
        # A Jupyter notebook uses the same colors.
        settings.InteractiveShell.colors = "Neutral"
        self.shell = _IPython.instance(config=settings)
        self.outputs = self.shell.outputs = Outputs(emit)
        self.shell.missing = None
        self.namespace: dict[str, Any] = self.shell.user_ns
        for name in ("stdout", "stderr"):
            stream = io.TextIOWrapper(_Stream(self.outputs, name), "utf-8", "replace")
            setattr(sys, name, stream)

    def skip_what_is_missing(self) -> None:
        """From now on, skip statements that need something that is missing on this machine.

        For example, a module, a file, the network or a person at the keyboard may be missing.
        """
        self.shell.missing = set()

    def run(self, source: str) -> bool:
        """Run one cell, and return whether the cell ended without an error."""
        self.outputs.start()
        try:
            return self.shell.run_cell(source, store_history=True).success
        finally:
            self.flush()

    def flush(self) -> None:
        """Send all printed text that was not yet sent."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


def _statement_text(node: ast.stmt) -> str:
    """Return the first line of a statement. A line magic is shown as the student wrote it."""
    match node:
        case ast.Expr(ast.Call(ast.Attribute(attr="run_line_magic"), args)):
            return "%" + " ".join(str(arg.value) for arg in args if isinstance(arg, ast.Constant))
    lines = ast.unparse(node).split("\n")
    return clean(next(line for line in lines if not line.startswith("@")))


def _show(outputs: Outputs, kind: str, data: dict[str, Any]) -> None:
    """Send the forms of a displayed object whose MIME types are in `MIMES`."""
    sys.stdout.flush()
    forms = {mime: _bytes(mime, data[mime]) for mime in MIMES if mime in data}
    sizes = {mime: len(form) for mime, form in forms.items()}
    outputs.send(kind, b"".join(forms.values()), mimes=sizes)


def _bytes(mime: str, content: Any) -> bytes:
    if isinstance(content, str):
        return base64.b64decode(content) if mime.startswith("image/") else utf8(content)
    return bytes(content)


def exception_fields(kind: type[BaseException], error: BaseException) -> dict[str, str]:
    """Return the name and the message of an exception, as the fields "ename" and "evalue"."""
    try:
        text = str(error)
    except Exception:
        text = "(its message can't be shown)"
    return {"ename": clean(kind.__name__), "evalue": clean(text)}


def clean(text: Any, size: int = MAX_CHARACTERS) -> str:
    """Return the first characters of a text, with question marks in place of lone surrogates."""
    return utf8(str(text)[:size]).decode()


def utf8(text: str) -> bytes:
    """Return the text as UTF-8, with question marks in place of lone surrogates."""
    return text.encode("utf-8", "replace")
