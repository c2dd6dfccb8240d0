"""Run a notebook top to bottom in a fresh kernel, and keep what it put out."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
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

from course_utils.files import write_text
from course_utils.notebooks import KERNEL, dump, load_node
from course_utils.publishing.html import WIDGET_VIEW, to_html, with_moved_links
from course_utils.runtime import process_peak
from course_utils.validation import CourseError


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
    write_text(page.with_suffix(".ipynb"), dump(notebook))
    html_text = to_html(notebook, title=_title(notebook, path.stem))
    write_text(page, with_moved_links(html_text, path.parent, page.parent))
    seconds = time.monotonic() - started
    return Execution(path, page, seconds, peak, tuple(_summaries(notebook)), error)


def _read(path: Path) -> Any:
    try:
        return load_node(path)
    except ImportError as missing:
        raise _needs_jupyter(missing) from None


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
