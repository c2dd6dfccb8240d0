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
import functools
import io
import sys
from collections.abc import Callable
from typing import Any

MIMES = ("text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg")
# Maximum size of the text that a cell may print, and of everything that it may display, in bytes
# (B). Further outputs are dropped.
MAX_TEXT, MAX_DISPLAY = 200_000, 8_000_000
# The note in the output of a cell after a skipped statement.
SKIPPED = b"[grading goes on without this statement]\n"
# Errors of a statement that may need a module, a file, the network, or a person at the keyboard.
MISSING = (ImportError, OSError, EOFError)
# The note at the end of an output that is too large.
TOO_LARGE = b"\n[the output is too large: the rest is not kept]\n"
# Maximum number of characters of a name or of an exception's message.
MAX_CHARACTERS = 2_000

# A function that is called as emit(kind, body, **fields).
Emit = Callable[..., None]


class Outputs:
    """Sends a cell's outputs up to a limit.

    Printed text and displayed objects have separate limits (`MAX_TEXT`, `MAX_DISPLAY`). When a
    limit is exceeded, a note about it is sent once, and the further outputs are dropped.
    """

    def __init__(self, emit: Emit):
        self._emit = emit
        self.start()

    def start(self) -> None:
        """Reset the sizes that are still allowed, for a new cell."""
        self._left = {"text": MAX_TEXT, "display": MAX_DISPLAY}

    def send(self, kind: str, body: bytes, **fields: Any) -> None:
        """Send one output, unless the cell's limit is exceeded."""
        limit = "display" if "mimes" in fields else "text"
        left = self._left[limit]
        self._left[limit] -= len(body)
        if len(body) <= left:
            self._emit(kind, body, **fields)
        elif left >= 0:
            if kind == "stream":
                self._emit(kind, body[:left], **fields)
            self._emit("stream", TOO_LARGE, name="stdout")
            self._left[limit] = -1


class _Stream(io.TextIOBase):
    """A stream that replaces sys.stdout or sys.stderr, and sends the printed text as outputs."""

    encoding, errors = "utf-8", "replace"

    def __init__(self, outputs: Outputs, name: str):
        self._outputs, self.name = outputs, name
        self._parts: list[str] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._parts.append(text)
        self._size += len(text)
        if self._size > 8_000:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._parts, self._size = "".join(self._parts), [], 0
        if text:
            self._outputs.send("stream", utf8(text), name=self.name)


class Skipping:
    """Decides after which errors a cell goes on, and knows the names that are missing since then.

    A statement may fail only because something of the student's machine is missing here: a module,
    a file, the network, a person at the keyboard, or the window of a line magic.
    """

    def __init__(self) -> None:
        self._missing: set[str] = set()

    def allows(self, node: ast.stmt, error: BaseException | None, is_last: bool) -> bool:
        """Return whether the cell goes on after a statement that raised an error.

        The statement may be an import or a line magic, it may raise one of the errors in `MISSING`,
        or it may need a name that a skipped statement would have defined.

        Args:
            error: The exception; None if the statement could not be compiled.
            is_last: Whether the statement is the last one of the cell. Then it must be an import.
        """
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        # After a failed `from module import *`, any name may be missing.
        needs_name = isinstance(error, NameError) and bool({error.name, "*"} & self._missing)
        is_missing = needs_name or isinstance(error, MISSING) or bool(_magic(node))
        if not isinstance(error, Exception) or not (is_import or (is_missing and not is_last)):
            return False
        self._missing |= _bound_names(node)
        return True


def _magic(node: ast.stmt) -> str:
    """Return the line magic of a statement, such as "%matplotlib inline"; "" if there is none."""
    match node:
        case ast.Expr(ast.Call(ast.Attribute(attr="run_line_magic"), args)):
            return "%" + " ".join(str(arg.value) for arg in args if isinstance(arg, ast.Constant))
    return ""


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement of a cell would define."""
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _skipped_fields(node: ast.stmt, error: Exception) -> dict[str, str]:
    """Return the first line of a statement and its exception, as fields of a message."""
    text = _magic(node) or ast.unparse(node)
    lines = [line for line in text.split("\n") if not line.startswith("@")]
    fields = exception_fields(type(error), error)
    return {"statement": clean(lines[0]), "reason": f"{fields['ename']}: {fields['evalue']}"}


class Shell:
    """An IPython shell with the namespace of one notebook.

    A process can have only one IPython shell, so create only one `Shell` at a time in a process.
    """

    def __init__(self, emit: Emit):
        self.outputs = Outputs(emit)
        self.shell = ipython()
        self.shell.outputs = self.outputs
        self.shell.skipping = None
        self.namespace: dict[str, Any] = self.shell.user_ns
        sys.stdout = _Stream(self.outputs, "stdout")
        sys.stderr = _Stream(self.outputs, "stderr")

    def skip_what_is_missing(self) -> None:
        """From now on, go on with a cell after a statement that needs what is missing here."""
        self.shell.skipping = Skipping()

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


@functools.cache
def ipython() -> Any:
    """Return this process's IPython shell, which sends outputs instead of printing them."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    class Result(DisplayHook):
        def write_output_prompt(self) -> None:
            pass

        # IPython passes the metadata as the second argument.
        def write_format_data(self, format_dict: dict[str, Any], *_: Any) -> None:
            sys.stdout.flush()
            _show(self.shell.outputs, "result", format_dict)

    class Display(DisplayPublisher):
        def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
            sys.stdout.flush()
            _show(self.shell.outputs, "display", data)

        def clear_output(self, wait: bool = False) -> None:
            pass

    class Notebook(InteractiveShell):
        displayhook_class = Type(Result)
        display_pub_class = Type(Display)
        outputs: Outputs
        skipping: Skipping | None = None
        enable_gui = _enable_gui
        show_usage_error = _show_usage_error

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
                    error, skipping = result.error_in_exec, self.skipping
                    if not (skipping and skipping.allows(node, error, is_last)):
                        return True
                    self.outputs.send("skipped", SKIPPED, **_skipped_fields(node, error))
                    result.error_in_exec = None
            return False

        def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
            sys.stdout.flush()
            body = utf8("\n".join(map(str, stb)))[:MAX_TEXT]
            self.outputs.send("error", body, **exception_fields(etype, evalue))

    settings = Config()
    settings.HistoryManager.enabled = False
    # A Jupyter notebook uses the same colors.
    settings.InteractiveShell.colors = "Neutral"
    return Notebook.instance(config=settings)


def _enable_gui(*_: Any) -> None:
    """Do nothing: IPython calls this method for %matplotlib, but pictures are shown without it."""


def _show_usage_error(shell: Any, error: BaseException) -> None:
    """Show the error of a line magic like any other error, instead of printing it."""
    shell._showtraceback(type(error), error, [f"UsageError: {error}"])


def _show(outputs: Outputs, kind: str, data: dict[str, Any]) -> None:
    """Send the forms of a displayed object whose MIME types are in `MIMES`."""
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
    """Return the first `size` characters of a text.

    Characters that UTF-8 can't encode become question marks.
    """
    return utf8(str(text)[:size]).decode()


def utf8(text: str) -> bytes:
    """Return the text as UTF-8.

    Lone surrogates, which have no UTF-8 encoding, become question marks.
    """
    return text.encode("utf-8", "replace")
