"""Replace modules in a ZIP archive by their bytecode, which Python loads sooner than their sources.

compile_python.mjs runs this file in Pyodide, whose bytecode differs from that of other Pythons.
"""

from __future__ import annotations

import io
import marshal
import zipfile
from collections.abc import Container
from importlib.util import MAGIC_NUMBER


def with_bytecode(archive: bytes, modules: Container[str] | None = None) -> bytes:
    """Return a ZIP archive with the bytecode of modules instead of their sources.

    Docstrings and assertions are left out.

    Args:
        archive: The archive with the sources.
        modules: The paths in the archive of the modules to compile; None compiles all modules. All
            other files stay as they are.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            is_module = entry.filename.endswith(".py")
            if is_module and (modules is None or entry.filename in modules):
                code = compile(content, entry.filename, "exec", dont_inherit=True, optimize=2)
                # The 12 bytes are flags and the source's time and size, which are not needed.
                content = MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
                entry.filename += "c"
            new.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return stream.getvalue()
