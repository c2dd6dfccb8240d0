"""Run a notebook in a fresh kernel, and store it with its outputs."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_text
from course_utils.machine.notebooks import KERNEL, WIDGET_VIEW, dump, load_node
from course_utils.machine.runtime import process_peak
from course_utils.machine.validation import CourseError

# The time between two measurements of memory, in seconds.
INTERVAL = 0.5


@dataclass(frozen=True)
class Execution:
    """The result of running one notebook.

    Attributes:
        seconds: wall time in seconds, including the start of the kernel.
        peak_memory: maximum memory of the kernel and its child processes, in bytes.
        summaries: the text outputs of the cells tagged "summary".
        error: the cell that failed and the reason, such as the end of its traceback; None if no
            cell failed.
    """

    notebook: Path
    executed: Path
    seconds: float
    peak_memory: int
    summaries: tuple[str, ...] = ()
    error: str | None = None


def execute(
    path: Path | str,
    output_dir: Path | str = "build/lectures",
    *,
    timeout: int | None = None,
) -> Execution:
    """Run a notebook from top to bottom in a fresh kernel, and write it with its outputs.

    The kernel's working folder is the folder of the notebook. The notebook file is not changed. If
    a cell fails, the run ends, and the outputs up to this cell are written. A progress bar on
    stderr advances with each cell.

    Args:
        timeout: maximum run time of a cell, in seconds; None sets no limit.

    Raises:
        CourseError: the notebook can't be read, `output_dir` is the folder of the notebook, or
            Jupyter's packages are missing.
    """
    path = Path(path)
    target = Path(output_dir) / path.name
    if target.parent.resolve() == path.parent.resolve():
        raise CourseError(f"{target.parent} contains the notebook itself: choose another folder")
    try:
        notebook = load_node(path)
    except ImportError as missing:
        raise _needs_jupyter(missing) from None
    started = time.monotonic()
    with _bar(path, notebook) as bar:
        error, peak = _run(notebook, path.parent, timeout, bar)
    write_text(target, dump(notebook))
    seconds = time.monotonic() - started
    return Execution(path, target, seconds, peak, tuple(_summaries(notebook)), error)


def _needs_jupyter(missing: ImportError) -> CourseError:
    return CourseError(f"{missing.name} is missing: run `pip install nbclient nbconvert ipykernel`")


def _bar(path: Path, notebook: Any) -> Any:
    from tqdm import tqdm

    cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    layout = "{desc} {percentage:3.0f}% |{bar}| {n}/{total} cells, {elapsed}{postfix}"
    return tqdm(total=cells, desc=path.stem, bar_format=layout)


def _run(notebook: Any, folder: Path, timeout: int | None, bar: Any) -> tuple[str | None, int]:
    """Execute a notebook in place; return its error, or None, and the peak memory in bytes."""
    try:
        from jupyter_client.kernelspec import NoSuchKernel
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError as missing:
        raise _needs_jupyter(missing) from None
    run = _Run(bar)
    run.client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        on_cell_start=run.start_cell,
        on_cell_executed=run.end_cell,
    )
    error = None
    try:
        run.execute()
    except CellExecutionError:
        error = f"cell {run.cell.id}\n{_last_lines(run.cell)}"
    except CellTimeoutError:
        error = f"cell {run.cell.id}: it was still running after {timeout} seconds"
    except DeadKernelError:
        error = f"cell {run.cell.id}: the kernel died, probably because memory ran out"
    except RuntimeError as reason:
        error = f"the start of the kernel: {reason}"
    except NoSuchKernel:
        raise CourseError("there is no Python kernel: run `pip install ipykernel`") from None
    return error, run.kernel_peak + run.children_peak


class _Run:
    """A run of a notebook, which advances the progress bar and measures memory.

    The operating system records the peak memory of the kernel and of each child process. But the
    record of a child process is lost when the child process ends. So the unshared memory of all
    child processes is measured twice a second, and the maximum is added to the kernel's peak.
    """

    def __init__(self, bar: Any):
        self.bar = bar
        self.client: Any = None
        self.cell: Any = None
        self.kernel_peak = self.children_peak = 0

    def execute(self) -> None:
        """Execute the notebook in another thread, so that Ctrl-C leaves nbclient's loop alone.

        On Ctrl-C, the kernel is killed, so that the thread ends and cleans up. Then
        KeyboardInterrupt is raised again.
        """
        environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        # The debugger would write warnings.
        environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        with ThreadPoolExecutor(max_workers=1) as pool:
            run = pool.submit(asyncio.run, self.client.async_execute(env=environment))
            try:
                while wait([run], timeout=INTERVAL).not_done:
                    self.measure()
                    if sys.stderr.isatty():
                        # The bar shows the elapsed time, so the bar is redrawn during a long cell.
                        self.bar.refresh()
                run.result()
            except KeyboardInterrupt:
                self.kill_kernel()
                raise
            finally:
                # If the kernel did not start, nbclient does not remove this exit handler, which
                # would then fail when Python exits.
                atexit.unregister(self.client._cleanup_kernel)

    def measure(self) -> None:
        import psutil

        with contextlib.suppress(psutil.Error, OSError):
            self.kernel_peak = max(self.kernel_peak, process_peak(self.kernel.pid))
            children = self.kernel.children(recursive=True)
            unshared = sum(child.memory_full_info().uss for child in children)
            self.children_peak = max(self.children_peak, unshared)

    def kill_kernel(self) -> None:
        import psutil

        with contextlib.suppress(psutil.Error):
            for process in (*self.kernel.children(recursive=True), self.kernel):
                process.kill()

    @property
    def kernel(self) -> Any:
        """Return the kernel's process, or raise psutil.NoSuchProcess if it is not running."""
        import psutil

        pid = getattr(getattr(self.client.km, "provisioner", None), "pid", None)
        if pid is None:
            raise psutil.NoSuchProcess(-1)
        return psutil.Process(pid)

    def start_cell(self, cell: Any, **_: object) -> None:
        self.cell = cell
        self.bar.set_postfix_str(cell.id)

    def end_cell(self, **_: object) -> None:
        """Advance the bar, and measure the memory before the kernel can be shut down."""
        self.measure()
        self.bar.update()


def _last_lines(cell: Any, count: int = 8) -> str:
    """Return the end of a failed cell's traceback, without colours and rulers."""
    errors = [output for output in cell.outputs if output.output_type == "error"]
    lines = [line for error in errors for line in error.traceback]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))
    return "\n".join([line for line in plain.splitlines() if line.strip("- ")][-count:])


def _summaries(notebook: Any) -> Iterator[str]:
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
