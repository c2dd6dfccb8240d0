"""Choose the device, number format and seed, and measure the machine's memory and cores.

Heavy libraries are not imported at the top, so this module can be imported without them. Sizes are
in bytes (B).
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import random
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from course_utils.machine import cgroups
from course_utils.machine.validation import whole_number

if TYPE_CHECKING:
    import torch


# The time within which the Hugging Face hub must answer, in seconds.
HUB_TIMEOUT = 10.0

# When bitsandbytes is imported on a CPU with AVX512-BF16, it logs that an optional package with
# faster kernels is missing. The course never needs this package, so the message is hidden.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "kernels-community" not in record.getMessage()
)


# --- device and number format ---------------------------------------------------------------------


def device() -> torch.device:
    """Return the device the course computes on: "cuda" if PyTorch sees a GPU, else "cpu"."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def known_device(where: torch.device | str | None = None) -> torch.device:
    """Return the device `where`, by default `device()`: only "cpu" and CUDA are allowed."""
    import torch

    allowed = f'device must be "cpu" or a CUDA device, got "{where}"'
    try:
        chosen = torch.device(where) if where is not None else device()
    except (RuntimeError, TypeError) as error:
        raise ValueError(allowed) from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(allowed)
    return chosen


def check_available(device: torch.device) -> None:
    """Raise a ValueError if a device is a CUDA device and PyTorch sees none."""
    import torch

    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError('PyTorch sees no CUDA device here: use device="cpu"')


def compute_dtype(device: torch.device | str | None = None) -> torch.dtype:
    """Choose the number format for matrix products on a device, by default `device()`.

    On a GPU with compute capability 8.0 (Ampere) or higher, the format is bfloat16, on an older
    GPU, such as a T4, float16. On a CPU it is bfloat16 if the CPU has instructions for it, else
    float32. `torch.cuda.is_bf16_supported()` also returns True on a GPU that emulates bfloat16.
    """
    import torch

    gpu = _gpu(device)
    capability = torch.cuda.get_device_capability(gpu) if gpu is not None else None
    name, _ = dtype_and_reason(capability, cpu_has_bf16())
    return getattr(torch, name)


def dtype_and_reason(capability: tuple[int, int] | None, cpu_bf16: bool) -> tuple[str, str]:
    """Return the name of the dtype for matrix products, and the reason in words.

    The compute capability is the GPU's, such as (7, 5), or None for a CPU.
    """
    if capability is not None:
        version = "{}.{}".format(*capability)
        if capability >= (8, 0):
            return "bfloat16", f"compute capability {version} has native bfloat16"
        return "float16", f"compute capability {version} has no native bfloat16"
    if cpu_bf16:
        return "bfloat16", "this CPU has bfloat16 instructions"
    return "float32", "this CPU has no bfloat16 instructions"


def cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 natively (AVX512-BF16, AMX, or Arm's BF16)."""
    return bool(cpu_features() & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the names of the CPU's instruction sets, from the file `cpuinfo` or from PyTorch."""
    if cpuinfo.exists():
        lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
        return frozenset(lines[0].split()) if lines else frozenset()
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):
        return frozenset()
    return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)


def _gpu(where: torch.device | str | None) -> torch.device | None:
    """Return the device `where`, by default `device()`, if it is a CUDA device, else None."""
    import torch

    chosen = torch.device(where) if where is not None else device()
    return chosen if chosen.type == "cuda" else None


# --- cache and random numbers ---------------------------------------------------------------------


def cache_dir() -> Path:
    """Return the folder for downloaded models: $QLORA_COURSE_CACHE or the user's cache folder."""
    if chosen := os.environ.get("QLORA_COURSE_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("qlora-course", appauthor=False))


def seed_everything(seed: int) -> None:
    """Seed the random number generators of Python, NumPy and PyTorch (on all devices)."""
    seed = whole_number("seed", seed, least=0, most=2**32 - 1)
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# --- memory and cores -----------------------------------------------------------------------------


def current_memory(device: torch.device | str | None = None) -> int:
    """Return the memory that this process uses now on a device, by default `device()`, in bytes.

    On a CPU this is its resident memory, on a GPU the memory that PyTorch has allocated.
    """
    if (gpu := _gpu(device)) is not None:
        import torch

        return torch.cuda.memory_allocated(gpu)
    import psutil

    return psutil.Process().memory_info().rss


def peak_memory(device: torch.device | str | None = None) -> int:
    """Return the maximum of `current_memory` since the process began, in bytes (B)."""
    if (gpu := _gpu(device)) is not None:
        import torch

        return torch.cuda.max_memory_allocated(gpu)
    return process_peak(os.getpid())


def process_peak(pid: int) -> int:
    """Return the maximum resident memory of a process since it started its program, in bytes (B).

    On Linux, getrusage also counts the memory of the parent process, so VmHWM is read. macOS
    reports only the peak of the calling process, and of any other the memory in use now.
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


# Objects that keep memory only because reusing it is faster than allocating it again. Their method
# `clear` frees this memory.
clearable: WeakSet[Any] = WeakSet()


def clear_buffers() -> None:
    """Free the memory of all `clearable` objects."""
    for buffers in clearable:
        buffers.clear()


def release_memory(*, collect: bool = True) -> None:
    """Free unreachable objects, `clearable` memory and PyTorch's CUDA cache, and trim the heap.

    While a model trains, call it only between two training steps, and from the thread that trains.
    The search for unreachable objects takes 0.3 s in a notebook with a model; collect=False leaves
    it out.
    """
    if collect:
        gc.collect()
    clear_buffers()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Return the memory of freed tensors, which glibc keeps, to the system.

    With another C library the function does nothing. Freed tensors leave gaps of many sizes into
    which the next tensors don't fit. A call takes about 10 ms.
    """
    if sys.platform == "linux":
        # musl, the C library of Alpine Linux, has no such function.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def limit_kernel_caches() -> None:
    """Limit PyTorch's two caches of compiled matrix products on a CPU, each of up to 1,024 entries.

    oneDNN, PyTorch's library for matrix products, compiles a kernel of about 1 MB for each new
    shape. The environment variable ONEDNN_PRIMITIVE_CACHE_CAPACITY limits its cache to 64 kernels.
    Fewer are not enough: with 32 kernels, training took 1.15 times as long. The other cache, in
    ideep, makes nothing in the course faster, so LRU_CACHE_CAPACITY limits it to one object.
    Without limits, the two caches would need 0.3 GB in lecture 07, whose batches have many lengths.

    A variable that is set already isn't changed. PyTorch reads the variables once, so call the
    function before the first matrix product of the process.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")


def available_memory(root: Path = cgroups.ROOT) -> int:
    """Return the memory that a new program can use without swapping and without being killed.

    This is the minimum of the machine's free memory and the memory that each enclosing cgroup still
    allows. File caches that the kernel can drop count as free.
    """
    import psutil

    return min([psutil.virtual_memory().available, *cgroups.memory_left(root)])


def free_memory(device: torch.device | str | None = None) -> int:
    """Return the memory that this process can still allocate on a device, by default `device()`.

    On a CPU this is `available_memory`. On a GPU it is the free memory of the GPU and the memory
    that PyTorch has reserved but doesn't use.
    """
    if (gpu := _gpu(device)) is None:
        return available_memory()
    import torch

    unused = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return torch.cuda.mem_get_info(gpu)[0] + unused


def core_ids() -> Collection[int]:
    """Return the numbers of the CPU cores on which this process may run (its affinity)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else range(os.cpu_count() or 1)


def usable_cores(root: Path = cgroups.ROOT) -> int:
    """Return the number of CPU cores that this process may use: its affinity and CPU quotas."""
    quotas = [max(1, round(quota)) for quota in cgroups.cpu_quotas(root)]
    return min([len(core_ids()), *quotas])
