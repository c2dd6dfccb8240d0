"""Notebooks as source and as pages: execute a lecture, keep what git holds clean.

    python -m course_utils.notebooks check        say what must not be committed
    python -m course_utils.notebooks fix          strip what can be stripped

A notebook in git holds no outputs, no execution counts and no state of widgets; its cells have
names for ids; its JSON is written the way Jupyter writes it, so that a diff shows only edits.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import copy
import html
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import addresses
from course_utils.addresses import TAG, Addresses, badges, is_lecture, with_badges
from course_utils.runtime import CourseError, process_peak

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
MAX_LINES = 15  # of a code cell in a lecture
FOLDERS = ("lectures", "solutions", "exercises")
NOTEBOOK_METADATA = {"kernelspec", "language_info", "title", "authors", "qlora_course"}
CELL_METADATA = {
    "tags",
    "slideshow",
    "nbgrader",
    "editable",
    "deletable",
    "jupyter",
    "raw_mimetype",
}

# What the first cell of every lecture says, in lines of the form "- **Slides:** Introduction".
OPENING = {
    "Slides": "Introduction",
    "Question": "What does it take to fine-tune a model?",
    "You will be able to": "count the bytes of a model",
    "Takes": "2 minutes on CPU, 1.2 GB of memory",
}
MAP_CELL = "course-map"  # a cell of this name holds the table of the lectures

# The first code cell of every lecture and assignment, at the release this package is. pip must not
# change the four packages under a running kernel; peft refuses the torchao of Colab.
SETUP = """\
# Does nothing on your own computer. On Colab it installs the course, at a release.
import os
import subprocess
import sys
from importlib import import_module, metadata, util

if "google.colab" in sys.modules and not util.find_spec("course_utils"):
{address}
    held = [f"{{n}}=={{metadata.version(n)}}" for n in ("ipython", "ipywidgets", "numpy", "torch")]
    for step in (["uninstall", "-y", "torchao"], ["install", f"git+{{address}}@{tag}", *held]):
        pip = subprocess.run([sys.executable, "-m", "pip", "-q", *step], capture_output=True)
        if pip.returncode:
            raise RuntimeError(f"`pip {{step[0]}}` failed.\\n{{pip.stderr.decode()[-2000:]}}")
    display(import_module("course_utils.runtime").check_environment())\
"""
ASK = """\
    if not (address := os.environ.get("COURSE_REPOSITORY")):
        raise RuntimeError("Run `%env COURSE_REPOSITORY=<git address of the course>` first.")\
"""
KNOW = """\
    address = "{address}"
    address = os.environ.get("COURSE_REPOSITORY") or address  # another one, if you name it\
"""


def setup_cell(address: str = "") -> str:
    """The set-up cell that installs from a repository, or that asks for its address."""
    return SETUP.format(address=KNOW.format(address=address) if address else ASK, tag=TAG)


SETUP_CELL = setup_cell()  # of a course that is published nowhere


# --- where the notebooks are ----------------------------------------------------------------------


def course_folder(start: Path | None = None) -> Path:
    """The folder that holds `lectures/`: around `start` (default: here), else around the package.

    Raises CourseError where the course was installed without its notebooks.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if (folder / "lectures").is_dir() and (folder / "course_utils").is_dir():
            return folder
    raise CourseError(f"{start} is not in a course folder: change into the one with lectures/.")


def lectures(folder: Path, only: str | None = None) -> list[Path]:
    """The lectures in order, or the one that `only` names: "07", "7", its file name or its stem.

    Raises CourseError for a lecture that is not there, and names those that are.
    """
    found = sorted((folder / "lectures").glob("[0-9][0-9]_*.ipynb"))
    if only is None:
        return found
    name = Path(only).name.removesuffix(".ipynb")
    number = name.zfill(2)
    chosen = [path for path in found if path.stem == name or path.stem[:2] == number]
    if not chosen:
        have = ", ".join(path.stem for path in found) or "none at all"
        raise CourseError(f"there is no lecture {only}; choose one of: {have}")
    return chosen


# --- execution ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Execution:
    """One executed notebook.

    page: the HTML with outputs; beside it lies the executed notebook. seconds: wall time with the
    kernel's start. peak_memory: bytes, of the kernel (and of its child processes, where it has
    any). summaries: the text of the cells tagged "summary". error: the cell that failed and the end
    of its traceback, None if none did.
    """

    notebook: Path
    page: Path
    seconds: float
    peak_memory: int
    summaries: tuple[str, ...] = ()
    error: str | None = None


def execute(
    path: Path | str,
    output_dir: Path | str = "build/lectures",
    *,
    timeout: int | None = None,
    progress: bool = True,
) -> Execution:
    """Run a notebook top to bottom in a fresh kernel, in its own folder; write it with its outputs.

    Into `output_dir` go the executed notebook, under its own name, and the same as HTML. timeout:
    seconds for one cell, None for no limit. progress: a bar on stderr, one step a cell. The
    notebook file is not changed. A cell that fails ends the run; both are still written.
    Raises CourseError if the notebook can't be read, if it lies in `output_dir`, or if Jupyter's
    packages are missing.
    """
    path = Path(path)
    page = Path(output_dir) / f"{path.stem}.html"
    if page.parent.resolve() == path.parent.resolve():
        raise CourseError(f"{page.parent} holds the notebook itself: choose another folder")
    notebook = _read(path)
    started = time.monotonic()
    error, peak = _run(notebook, path.parent, timeout, _bar(path, notebook, progress))
    write_aside(page.with_suffix(".ipynb"), dump(notebook))
    html_text = to_html(notebook, title=_title(notebook, path.stem))
    write_aside(page, _with_moved_links(html_text, path.parent, page.parent))
    seconds = time.monotonic() - started
    return Execution(path, page, seconds, peak, tuple(_summaries(notebook)), error)


def _read(path: Path) -> Any:
    try:
        import nbformat
    except ImportError as missing:
        raise _needs_jupyter(missing) from None
    try:
        return nbformat.read(path, as_version=4)
    except OSError as fault:
        raise CourseError(f"{path} can't be read: {fault.strerror}") from fault
    except Exception as fault:  # nbformat has several ways to say that a file is no notebook
        raise CourseError(f"{path} is not a notebook: {fault}") from fault


def _needs_jupyter(missing: ImportError) -> CourseError:
    return CourseError(f"{missing.name} is missing: run `pip install nbclient nbconvert ipykernel`")


def _run(notebook: Any, folder: Path, timeout: int | None, bar: Any) -> tuple[str | None, int]:
    """Execute in place; returns the error, if any, and the peak memory in bytes."""
    try:
        from jupyter_client.kernelspec import NoSuchKernel
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError as missing:
        raise _needs_jupyter(missing) from None
    watch = _Watch(bar)
    watch.client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        on_cell_start=watch.cell_starts,
        on_cell_executed=watch.cell_ends,
    )
    with watch:
        try:
            _execute_until_interrupted(watch)
            error = None
        except CellExecutionError:
            error = f"cell {watch.cell.id}\n{_last_lines(watch.cell)}"
        except CellTimeoutError:
            error = f"cell {watch.cell.id}: still running after {timeout} seconds"
        except DeadKernelError:
            error = f"cell {watch.cell.id}: the kernel died, as it does when memory runs out"
        except RuntimeError as fault:
            error = f"no cell, for the kernel did not start: {fault}"
        except NoSuchKernel:
            raise CourseError("there is no Python kernel: run `pip install ipykernel`") from None
    return error, watch.peak


def _execute_until_interrupted(watch: _Watch) -> None:
    """Execute in a thread of its own, so that Ctrl-C reaches us and not nbclient's event loop.

    On Ctrl-C the kernel is killed, the thread sees that and cleans up, and KeyboardInterrupt goes
    on its way.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        run = pool.submit(asyncio.run, watch.client.async_execute(env=_kernel_environment()))
        try:
            run.result()
        except KeyboardInterrupt:
            watch.kill_kernel()
            raise
        finally:  # nbclient leaves this behind where the kernel did not start, and it fails then
            atexit.unregister(watch.client._cleanup_kernel)


def _kernel_environment() -> dict[str, str]:
    """As a notebook's kernel has it: inline figures, and no debugger warnings on stderr."""
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return kept | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _last_lines(cell: Any, count: int = 8) -> str:
    """The end of a failed cell's traceback, without colours and rulers."""
    errors = [output for output in cell.outputs if output.output_type == "error"]
    lines = [line for error in errors for line in error.traceback]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))
    return "\n".join([line for line in plain.splitlines() if line.strip("- ")][-count:])


def _bar(path: Path, notebook: Any, progress: bool) -> Any:
    from tqdm import tqdm

    cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    shape = "{desc} {percentage:3.0f}% |{bar}| {n}/{total} cells, {elapsed}{postfix}"
    return tqdm(total=cells, desc=path.stem, bar_format=shape, disable=not progress)


class _Watch(threading.Thread):
    """Looks on while a notebook runs: moves the bar, and follows the memory of the kernel.

    The kernel's peak is the system's own record. Child processes have none that outlives them, so
    what they hold for themselves is sampled twice a second and its maximum added.
    """

    def __init__(self, bar: Any, interval: float = 0.5):
        super().__init__(daemon=True)
        self.bar, self.interval = bar, interval
        self.client: Any = None
        self.cell: Any = None
        self.kernel_peak = self.children_peak = 0
        self.over = threading.Event()

    @property
    def peak(self) -> int:
        """Bytes the kernel and its children held at most."""
        return self.kernel_peak + self.children_peak

    def __enter__(self) -> _Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
        self.bar.close()

    def run(self) -> None:
        while not self.over.wait(self.interval):
            self.look()
            if sys.stderr.isatty():
                self.bar.refresh()  # the clock goes on in a long cell

    def look(self) -> None:
        """Read the memory now; a kernel that is not there yet, or gone, has none."""
        import psutil

        try:
            self.kernel_peak = max(self.kernel_peak, process_peak(self.kernel.pid))
            children = self.kernel.children(recursive=True)
            own = sum(child.memory_full_info().uss for child in children)
            self.children_peak = max(self.children_peak, own)
        except (psutil.Error, OSError):
            return

    def kill_kernel(self) -> None:
        """End the kernel and its child processes now."""
        import psutil

        with contextlib.suppress(psutil.Error):
            for process in (*self.kernel.children(recursive=True), self.kernel):
                process.kill()

    @property
    def kernel(self) -> Any:
        """The kernel's process; raises psutil.NoSuchProcess before it starts and after it ends."""
        import psutil

        pid = getattr(getattr(self.client.km, "provisioner", None), "pid", None)
        if pid is None:
            raise psutil.NoSuchProcess(-1)
        return psutil.Process(pid)

    def cell_starts(self, cell: Any, **_: object) -> None:
        """Note which cell is at work."""
        self.cell = cell
        self.bar.set_postfix_str(cell.id)

    def cell_ends(self, cell: Any, **_: object) -> None:
        """Take one step on the bar, and read the memory before the kernel can be shut down."""
        self.look()
        self.bar.update()


def _title(notebook: Any, otherwise: str) -> str:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1] if heading else otherwise


def _summaries(notebook: Any) -> Iterator[str]:
    """The plain text that each cell tagged "summary" put out."""
    for cell in notebook.cells:
        if "summary" in cell.metadata.get("tags", []) and cell.cell_type == "code":
            texts = [_plain_text(output) for output in cell.outputs]
            yield "\n".join(text.rstrip() for text in texts if text.strip())


def _plain_text(output: Any) -> str:
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    data = output.get("data", {})
    pictures = any(kind.startswith("image/") or kind == WIDGET_VIEW for kind in data)
    return "" if pictures else data.get("text/plain", "")


# --- pages ----------------------------------------------------------------------------------------

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

# nbconvert's page, without the scripts that hold up its text until a far server answers: no
# RequireJS and no Mermaid, and MathJax (a reader without network sees the TeX) only afterwards.
PAGE_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{% from 'mathjax.html.j2' import mathjax with context %}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
{{ mathjax(resources.mathjax_url) | replace('<script src', '<script async src') }}
{%- endblock -%}
"""


def to_html(notebook: Any, title: str) -> str:
    """An executed notebook as one self-contained page, which reads without any network.

    Pictures are inside the page, widgets are shown as they stood at the end of the run, and links
    to notebooks of the same folder lead to their pages.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"page.html.j2": PAGE_TEMPLATE})],
        template_file="page.html.j2",
        embed_images=True,
    )
    resources = {"metadata": {"name": title}}
    page, _ = exporter.from_notebook_node(freeze_widgets(notebook), resources=resources)
    return re.sub(r'(href="[^":/]*)\.ipynb(["#])', r"\1.html\2", page)


def _with_moved_links(page: str, source: Path, target: Path) -> str:
    """A page for the folder `target`, whose links out of the notebook's folder are still right."""

    def moved(link: re.Match[str]) -> str:
        way = os.path.relpath(source.resolve() / link[1], target.resolve())
        return f'href="{Path(way).as_posix()}'

    return re.sub(r'href="(\.\./[^":#]*)', moved, page)


def freeze_widgets(notebook: Any) -> Any:
    """A copy of the notebook in which each widget is HTML that shows its last state."""
    notebook = copy.deepcopy(notebook)
    widgets = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        view = output.get("data", {}).pop(WIDGET_VIEW, None)
        if view is not None:
            output.data["text/html"] = _frozen(widgets, view["model_id"])
    return notebook


def _frozen(widgets: dict[str, Any], model_id: str) -> str:
    model = widgets.get(model_id.removeprefix("IPY_MODEL_"))
    if model is None:
        return ""
    state, kind = model["state"], model["model_name"]
    if "children" in state:
        inside = "".join(_frozen(widgets, child) for child in state["children"])
        across = "row" if kind == "HBoxModel" else "column"
        return f'<div style="display:flex; flex-direction:{across}; gap:0.5em">{inside}</div>'
    if kind.startswith("HTML"):
        return f"<div>{state.get('description', '')}{state.get('value', '')}</div>"
    words = [state.get("description", ""), _shown_value(state)]
    return f"<div>{html.escape(' '.join(word for word in words if word))}</div>"


def _shown_value(state: dict[str, Any]) -> str:
    """What a control shows: the chosen option's label, or the value."""
    if "_options_labels" in state:
        index = state.get("index")
        return "" if index is None else str(state["_options_labels"][index])
    if state.get("bar_style") is not None and "max" in state:  # a progress bar
        return f"{state['value']:g} of {state['max']:g}"
    return str(state.get("value", ""))


def write_aside(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a half."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(aside, path)
    except OSError as fault:
        raise CourseError(f"{path} can't be written: {fault.strerror}") from fault


# --- what git holds -------------------------------------------------------------------------------


def check(path: Path | str) -> list[str]:
    """What must not be committed in a notebook: one line a fault, with the cell's id; none is good.

    A notebook in a folder named lectures is also held to the form of a lecture. Raises CourseError
    if the course's pyproject.toml holds no addresses, but something else in their place.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        notebook = json.loads(text)
        cells = notebook["cells"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        return [f"is not a notebook: {fault}"]
    faults = [*_format_faults(notebook), *_id_faults(cells)]
    for number, cell in enumerate(cells):
        name = f"cell {cell.get('id', number)}"
        faults += [f"{name}: {fault}" for fault in _cell_faults(cell)]
    if _is_of_the_course(path):
        faults += _address_faults(cells, path, addresses.read(_course_of(path)))
    if is_lecture(path):
        faults += _lecture_faults(path, cells)
    if not faults and text != dump(notebook):
        faults = ["is not written the way Jupyter writes notebooks: run fix"]
    return faults


def _format_faults(notebook: dict[str, Any]) -> Iterator[str]:
    from nbformat.validator import iter_validate

    version = (notebook.get("nbformat"), notebook.get("nbformat_minor"))
    if version != (4, 5):
        yield "nbformat {}.{}: it must be 4.5, which has cell ids".format(*version)
    else:
        for fault in iter_validate(notebook):
            yield f"breaks the notebook format: {fault.message.splitlines()[0]}"
    metadata = notebook.get("metadata", {})
    if metadata.get("kernelspec", {}).get("name") != KERNEL["name"]:
        yield f"the kernel must be {KERNEL['name']}"
    if "widgets" in metadata:
        yield "holds the state of widgets"
    noise = sorted(set(metadata) - NOTEBOOK_METADATA - {"widgets"})
    noise += ["language_info"] if metadata.get("language_info", LANGUAGE) != LANGUAGE else []
    if noise:
        yield f"metadata that says nothing about the notebook: {', '.join(noise)}"


def _id_faults(cells: list[dict[str, Any]]) -> Iterator[str]:
    seen = set()
    for number, cell in enumerate(cells):
        name = cell.get("id", "")
        if not re.fullmatch(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", name):
            yield f"cell number {number}: the id {name!r} is not a name such as memory-7b-full"
        elif re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", name):
            yield f"cell number {number}: the id {name!r} is random; give it a name"
        elif name in seen:
            yield f"cell number {number}: the id {name!r} stands twice"
        seen.add(name)


def _cell_faults(cell: dict[str, Any]) -> Iterator[str]:
    if cell.get("outputs"):
        yield "holds outputs"
    if cell.get("execution_count") is not None:
        yield "holds an execution count"
    if noise := sorted(set(cell.get("metadata", {})) - CELL_METADATA):
        yield f"metadata that says nothing about the cell: {', '.join(noise)}"


def _is_of_the_course(path: Path) -> bool:
    """True for lectures, and for assignments, each of which lies in a folder of its own."""
    return is_lecture(path) or path.resolve().parents[1].name in ("solutions", "exercises")


def _course_of(path: Path) -> Path:
    """The folder that holds lectures/ or exercises/."""
    return path.resolve().parents[1 if is_lecture(path) else 2]


def _address_faults(cells: list[dict[str, Any]], path: Path, published: Addresses) -> Iterator[str]:
    """Cells that hold an address: the set-up cell, and the badges below the title."""
    code = [cell for cell in cells if cell.get("cell_type") == "code"]
    wanted = setup_cell(published.of(path))
    if not code or code[0].get("id") != "setup" or _source(code[0]) != wanted:
        yield "the first code cell must be the set-up cell, with the id setup: run fix"
    for cell in cells[:1]:
        if _source(cell) != with_badges(_source(cell), badges(path, published)):
            yield f"cell {cell.get('id')}: the badges are not those of pyproject.toml: run fix"


def _lecture_faults(path: Path, cells: list[dict[str, Any]]) -> Iterator[str]:
    found = _opening(cells)
    if not found["title"]:
        yield "the first cell must open with a title: # 07 Fine-tuning with QLoRA"
    for label, example in OPENING.items():
        if not found[label]:
            yield f"the first cell must have a line such as: - **{label}:** {example}"
    if found["Takes"] and not re.search(
        r"\d+ minutes? on CPU, \d.* [GM]B of memory", found["Takes"]
    ):
        yield f"what a lecture takes is told as: - **Takes:** {OPENING['Takes']}"
    for cell in (cell for cell in cells if cell.get("cell_type") == "code"):
        if (lines := len(_source(cell).splitlines())) > MAX_LINES:
            yield f"cell {cell.get('id')}: {lines} lines; {MAX_LINES} are the most that read well"
    for cell in cells:
        if cell.get("id") == MAP_CELL and _source(cell) != _with_map(_source(cell), path.parent):
            yield f"cell {MAP_CELL}: the table is not that of the lectures here: run fix"


def _opening(cells: list[dict[str, Any]]) -> dict[str, str]:
    """The title of a lecture and what its first cell says after each label; "" where it doesn't."""
    text = _source(cells[0]) if cells and cells[0].get("cell_type") == "markdown" else ""
    patterns = {"title": r"\A# (\S.*)$"}
    patterns |= {label: rf"^- \*\*{label}:\*\* (\S.*)$" for label in OPENING}
    matches = {name: re.search(pattern, text, re.M) for name, pattern in patterns.items()}
    return {name: match[1] if match else "" for name, match in matches.items()}


def course_map(folder: Path) -> str:
    """A markdown table of the lectures in `folder`, from what each says in its first cell."""
    rows = ["| lecture | slides | question | time on CPU |", "|---|---|---|---|"]
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            said = _opening(json.loads(path.read_text(encoding="utf-8"))["cells"])
            time_needed = said["Takes"].partition(" on CPU")[0]
            title = f"[{said['title']}]({path.name})"
            rows.append(f"| {title} | {said['Slides']} | {said['Question']} | {time_needed} |")
    return "\n".join(rows)


def _with_map(source: str, folder: Path) -> str:
    """The text of a cell with its table replaced by the map of the lectures, or with one added."""
    table = course_map(folder)
    if re.search(r"^\|", source, re.M):
        return re.sub(r"(?:^\|.*\n)*^\|.*$", lambda _: table, source, count=1, flags=re.M)
    return f"{source}\n\n{table}"


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell.get("source", ""))


def fix(path: Path | str) -> bool:
    """Strip from a notebook what git must not hold; returns whether the file changed.

    Names of cells and their length are left to people. Raises CourseError if it is no notebook.
    """
    path = Path(path)
    text, notebook = _loaded(path)
    cells = notebook["cells"]
    _strip(notebook)
    if _is_of_the_course(path):
        _put_addresses(cells, path, addresses.read(_course_of(path)))
    if is_lecture(path):
        for cell in (cell for cell in cells if cell.get("id") == MAP_CELL):
            cell["source"] = _with_map(_source(cell), path.parent)
    clean = dump(notebook)
    if clean != text:
        write_aside(path, clean)
    return clean != text


def _strip(notebook: dict[str, Any]) -> None:
    metadata = notebook.get("metadata", {})
    kept = {name: value for name, value in metadata.items() if name in NOTEBOOK_METADATA}
    notebook["metadata"] = kept | {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    if notebook.get("nbformat") == 4:
        notebook["nbformat_minor"] = 5
    for cell in notebook["cells"]:
        metadata = cell.get("metadata", {})
        cell["metadata"] = {key: metadata[key] for key in metadata if key in CELL_METADATA}
        if cell.get("cell_type") == "code":
            cell["outputs"], cell["execution_count"] = [], None


def published_at(path: Path, published: Addresses) -> str:
    """The text of a notebook of the course with these addresses; all else is as it was.

    Raises CourseError if it is no notebook.
    """
    _, notebook = _loaded(path)
    _put_addresses(notebook["cells"], path, published)
    return dump(notebook)


def _loaded(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a notebook, and what it says."""
    try:
        text = path.read_text(encoding="utf-8")
        notebook = json.loads(text)
        notebook["cells"] = list(notebook["cells"])
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise CourseError(f"{path} is not a notebook: {fault}") from fault
    return text, notebook


def _put_addresses(cells: list[dict[str, Any]], path: Path, published: Addresses) -> None:
    """Renew the badges, and the set-up cell, or add it below the opening."""
    for cell in cells[:1]:
        cell["source"] = with_badges(_source(cell), badges(path, published))
    setup = setup_cell(published.of(path))
    for cell in cells:
        if cell.get("id") == "setup":
            cell["source"] = setup
            return
    new = {"cell_type": "code", "execution_count": None, "id": "setup", "metadata": {}}
    cells.insert(1, new | {"outputs": [], "source": setup})


def load(path: Path) -> dict[str, Any]:
    """A notebook as it is in its file, but for sources, which are text.

    Raises CourseError if the file is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]
        return {**notebook, "cells": cells, "metadata": dict(notebook["metadata"])}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise CourseError(f"{path} is not a notebook: {fault}") from fault


def dump(notebook: dict[str, Any]) -> str:
    """The JSON text that Jupyter writes for this notebook: sorted keys, one source line a line."""
    notebook = json.loads(json.dumps(notebook))
    for cell in notebook["cells"]:
        cell["source"] = _source(cell).splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


# --- python -m course_utils.notebooks -------------------------------------------------------------


def all_notebooks(folder: Path) -> list[Path]:
    """Every notebook of the course that git holds."""
    found = (path for name in FOLDERS for path in (folder / name).rglob("*.ipynb"))
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def main(arguments: list[str] | None = None) -> int:
    """`check` or `fix` the given notebooks, or all; exit status 1 on faults that stay."""
    parser = argparse.ArgumentParser(prog="python -m course_utils.notebooks")
    parser.add_argument("action", choices=("check", "fix"))
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; default: all of the course")
    options = parser.parse_args(arguments)
    try:
        paths = options.paths or all_notebooks(course_folder())
        return _fix_all(paths) if options.action == "fix" else _check_all(paths)
    except CourseError as fault:
        print(fault, file=sys.stderr)
        return 1


def _fix_all(paths: list[Path]) -> int:
    for path in paths:
        if fix(path):
            print(f"{path}: cleaned")
    return _check_all(paths)


def _check_all(paths: list[Path]) -> int:
    faults = [f"{path}: {fault}" for path in paths for fault in check(path)]
    print("\n".join(faults) if faults else f"{len(paths)} notebooks are clean")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
