"""Measure start-up times: the import, the command line, a lecture's first picture, `make lab`.

Run the benchmark with `.venv`'s Python. The course is set up first. Then each round measures every
start once, so that a busy machine slows down all starts alike. The first round fills the disk
cache and isn't counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.provisioning import LocalProvisioner

from benchmarks.runner import Benchmark, Report, measured_here
from course_utils import notebooks
from course_utils.validation import CourseError
from tests.machine import free_port

ROOT = Path(__file__).resolve().parents[1]
LECTURE = ROOT / "lectures" / "02_memory_calculator.ipynb"
ROUNDS = 9
# Maximum time of each start, in seconds.
TIMEOUT = 120
IMPORT = "`import course_utils`, without the time to start Python itself"
# Maximum median time of each start, in seconds.
TARGETS = {
    IMPORT: 0.1,
    "`course --help`": 0.3,
    "first picture of lecture 02, from the start of the kernel": 2.0,
    "`make lab`, until the server answers": 5.0,
}
BARE, IMPORTED = "`python -c pass`", '`python -c "import course_utils"`'

# Elapsed time and processor time (user and system), in seconds.
Cost = tuple[float, float]


# --- what is measured -----------------------------------------------------------------------------


def command(*words: str) -> Cost:
    """Run a command and return its cost.

    Raises:
        CourseError: the command failed; the message contains the end of its stderr.
    """
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(words, cwd=LECTURE.parent, capture_output=True, text=True)
    seconds, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise CourseError(f"`{' '.join(words)}` failed: {done.stderr[-500:]}")
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


def first_picture(notebook: Path) -> Cost:
    """Return the cost from the start of a kernel to the first picture of a notebook.

    The cells are executed in order, up to the first cell that shows a picture.

    Raises:
        CourseError: a cell fails, or no cell shows a picture.
    """
    cells = notebooks.load(notebook)["cells"]
    sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    begun = time.perf_counter()
    with kernel(notebook.parent) as (client, process):
        for source in sources:
            if (arrived := picture_time(client, source)) is not None:
                return arrived - begun, processor_seconds([process])
    raise CourseError(f"no cell of {notebook.name} shows a picture")


@contextmanager
def kernel(folder: Path) -> Iterator[tuple[BlockingKernelClient, psutil.Process]]:
    """Start a kernel of this Python in a folder, and yield its client and its process.

    The kernel is yielded when it answers, and stopped at the end. jupyter_client waits about 0.2 s
    longer than necessary, so a measured start includes about 0.2 s of waiting.
    """
    manager = KernelManager(kernel_name="python3")
    # What the kernel prints to its terminal is discarded.
    manager.start_kernel(cwd=str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=TIMEOUT)
        provisioner = manager.provisioner
        assert isinstance(provisioner, LocalProvisioner)
        yield client, psutil.Process(provisioner.pid)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def picture_time(client: BlockingKernelClient, source: str) -> float | None:
    """Execute a cell; return the time at which its first picture arrived, or None.

    Raises:
        CourseError: the cell fails.
    """
    arrived: list[float] = []

    def note_picture(message: dict[str, Any]) -> None:
        if not arrived and is_picture(message["content"].get("data", {})):
            arrived.append(time.perf_counter())

    reply = client.execute_interactive(source, output_hook=note_picture, timeout=TIMEOUT)["content"]
    if reply["status"] != "ok":
        raise CourseError(f"a cell failed: {reply.get('ename')}: {reply.get('evalue')}\n{source}")
    return arrived[0] if arrived else None


def is_picture(data: dict[str, str]) -> bool:
    """Return whether an output's data, by MIME type, contain an image or HTML with an image."""
    page = data.get("text/html", "")
    return "<img" in page or "<svg" in page or any(kind.startswith("image/") for kind in data)


def lab() -> Cost:
    """Return the cost from the start of `make lab` until its server answers over HTTP.

    The server is stopped afterwards.

    Raises:
        CourseError: `make lab` ended before the server answered, or the server did not answer
            within TIMEOUT.
    """
    port = free_port()
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
    begun = time.perf_counter()
    with make("lab", f"ARGS={' '.join(options)}") as process:
        while not responds(f"http://127.0.0.1:{port}/api"):
            if process.poll() is not None or time.perf_counter() > begun + TIMEOUT:
                raise CourseError("`make lab` starts no server: run `make lab` to see its messages")
            time.sleep(0.01)
        return time.perf_counter() - begun, processor_seconds(process_tree(process.pid))


@contextmanager
def make(*words: str) -> Iterator[subprocess.Popen]:
    """Run `make` with these arguments in its own session, and end all of its processes afterwards.

    The youngest process is the server. The server is terminated first, because the other processes
    end when the server has ended.
    """
    process = subprocess.Popen(
        ["make", *words],
        cwd=ROOT,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        started = process_tree(process.pid)
        for child in sorted(started, key=lambda child: (child.create_time(), child.pid))[-1:]:
            child.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        for left in started:
            # The process may have ended already.
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and all of its descendants that are still running."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def processor_seconds(processes: list[psutil.Process]) -> float:
    """Return the user and system time of processes and their ended children, in seconds."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def responds(address: str) -> bool:
    """Return whether a server answers at an address with the HTTP status 200."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as reply:
            return reply.status == 200
    except urllib.error.URLError:
        return False


# --- the report -----------------------------------------------------------------------------------


def one_round() -> dict[str, Cost]:
    """Measure each start once, and return the costs by name."""
    course = str(Path(sysconfig.get_path("scripts")) / "course")
    _, helped, picture, served = TARGETS
    return {
        BARE: command(sys.executable, "-c", "pass"),
        IMPORTED: command(sys.executable, "-c", "import course_utils"),
        helped: command(course, "--help"),
        picture: first_picture(LECTURE),
        served: lab(),
    }


def with_difference(costs: dict[str, Cost]) -> dict[str, Cost]:
    """Return a round's costs, and the cost of the import without the start of Python."""
    beyond = [full - bare for full, bare in zip(costs[IMPORTED], costs[BARE], strict=True)]
    return {**costs, IMPORT: (beyond[0], beyond[1])}


def measure() -> Iterator[Report]:
    """Set the course up and yield the times of all rounds in seconds."""
    command("make", "-C", str(ROOT), "setup")
    yield measured_here() | in_rounds(one_round, ROUNDS)


def in_rounds(once: Callable[[], dict[str, Cost]], rounds: int) -> Report:
    """Return the times of `rounds` rounds in seconds, after a warm-up round."""
    all_rounds = [with_difference(once()) for _ in range(rounds + 1)][1:]
    return {
        "rounds": rounds,
        "seconds": {name: [costs[name][0] for costs in all_rounds] for name in all_rounds[0]},
        "processor": {name: [costs[name][1] for costs in all_rounds] for name in all_rounds[0]},
    }


def problems(report: Report) -> list[str]:
    """Return the starts whose median time exceeds the target, one sentence each."""
    return [
        f"{name}: {median(report['seconds'][name]):.3f} s, later than {target:g} s"
        for name, target in TARGETS.items()
        if median(report["seconds"][name]) > target
    ]


def table(report: Report) -> str:
    """Return a table with a row for each start."""
    heads = "target (s) | median (s) | fastest to slowest (s) | processor time (s)"
    lines = [f"| | {heads} |", "|---|---:|---:|---:|---:|"]
    for name in (BARE, IMPORTED, *TARGETS):
        times = report["seconds"][name]
        target = f"{TARGETS[name]:g}" if name in TARGETS else ""
        spread = f"{min(times):.3f} to {max(times):.3f}"
        processor = f"{median(report['processor'][name]):.3f}"
        lines.append(f"| {name} | {target} | {median(times):.3f} | {spread} | {processor} |")
    return "\n".join(lines)


BENCHMARK = Benchmark(
    measure,
    {"table": table},
    conditions=lambda report: (
        f"{report['rounds']} rounds, after a warm-up round that isn't counted."
    ),
    problems=problems,
)
