"""Replace modules in a ZIP archive by their bytecode, which Python loads faster.

compile_python.mjs runs this file in Pyodide, because each version of Python has its own bytecode.
"""

from __future__ import annotations

import io
import marshal
import zipfile
from collections.abc import Container
from importlib.util import MAGIC_NUMBER

# Pyodide's own modules and those that Python loads by the name of an encoding are always kept.
KEPT = ("_pyodide/", "encodings/", "pyodide/")


def with_bytecode(archive: bytes, modules: Container[str] | None = None) -> bytes:
    """Return a ZIP archive with the bytecode of modules instead of their sources.

    Docstrings and assertions are left out.

    Args:
        modules: The paths in the archive of the modules that are needed. Files in the folders of
            KEPT stay as they are, and all other files are left out. None compiles all modules.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if modules is None or entry.filename in modules:
                code = compile(content, entry.filename, "exec", dont_inherit=True, optimize=2)
                # The 12 bytes are flags and the source's time and size, which are not needed.
                content = MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
                entry.filename += "c"
            elif not entry.filename.startswith(KEPT):
                continue
            new.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return stream.getvalue()
