"""runtime: device and number format, memory and cores, seeds."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from course_utils.machine import cgroups, runtime

# --- device and dtype ---


@pytest.mark.parametrize(
    ("capability", "has_bf16", "dtype"),
    [
        ((7, 5), True, torch.float16),
        ((8, 0), False, torch.bfloat16),
        ((9, 0), False, torch.bfloat16),
        (None, True, torch.bfloat16),
        (None, False, torch.float32),
    ],
)
def test_compute_dtype_on_gpus_and_cpus(monkeypatch, capability, has_bf16, dtype):
    name = "cuda" if capability else "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name == "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    # PyTorch returns True even for GPUs that emulate bfloat16.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has_bf16)
    assert runtime.device() == torch.device(name)
    assert runtime.compute_dtype() is runtime.compute_dtype(name) is dtype


@pytest.mark.parametrize(
    "line, has",
    [
        ("flags\t\t: fpu avx2 avx512f", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("Features\t: fp asimd svebf16x", False),
        ("no such line", False),
    ],
)
def test_cpu_features_are_read_from_proc_cpuinfo(monkeypatch, tmp_path, line, has):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nbogomips : 1\n")
    found = runtime.cpu_features(cpuinfo)
    monkeypatch.setattr(runtime, "cpu_features", lambda: found)
    assert runtime.cpu_has_bf16() == has


def test_equal_seeds_give_equal_numbers():
    def draw():
        runtime.seed_everything(3)
        return torch.rand(2).tolist(), np.random.rand(2).tolist()

    assert draw() == draw()
    for bad in (-1, 2**32, 1.5, "0"):
        with pytest.raises(ValueError, match="seed must be a whole number from 0 to 4294967295"):
            runtime.seed_everything(bad)


def test_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path))
    assert runtime.cache_dir() == tmp_path
    monkeypatch.setenv("QLORA_COURSE_CACHE", "~/models")
    assert runtime.cache_dir() == Path.home() / "models"
    monkeypatch.delenv("QLORA_COURSE_CACHE")
    assert "qlora-course" in runtime.cache_dir().parts


# --- memory and cores ---


def test_current_and_peak_memory_of_this_process():
    # This memory is mapped directly, because the heap may keep freed memory.
    block = mmap.mmap(-1, 60_000_000)
    np.frombuffer(block, dtype=np.uint8)[:] = 1
    used = runtime.current_memory("cpu")
    assert used > len(block)
    block.close()
    assert runtime.peak_memory("cpu") >= used - 1_000_000
    assert runtime.current_memory("cpu") < used - 50_000_000


def number_from(code, *arguments, **options):
    """Return the number that a new Python prints."""
    return int(subprocess.check_output([sys.executable, "-c", code, *arguments], **options))


def test_peak_of_a_child_process_is_not_inherited():
    block = np.ones(300_000_000, dtype=np.uint8)
    code = "import os; from course_utils.machine import runtime; "
    code += "print(runtime.process_peak(os.getpid()))"
    assert 5_000_000 < number_from(code) < block.nbytes


USED_AFTER_FREEING = """
import sys
import numpy as np
import psutil
from course_utils.machine import runtime
memory = psutil.Process().memory_info
# When this array is freed, glibc begins to keep freed blocks of up to this size in its heap.
np.ones(30_000_000, dtype=np.uint8)
before = memory().rss
blocks = [np.ones(n, dtype=np.uint8) for _ in range(40) for n in (5_000_000, 100_000)]
# The small arrays that remain keep the heap from shrinking.
del blocks[::2]
if sys.argv[1:]:
    runtime.trim_heap()
print(memory().rss - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="the C library is not glibc",
)
def test_trim_heap_returns_freed_memory_to_the_system():
    assert number_from(USED_AFTER_FREEING) > 150_000_000
    assert number_from(USED_AFTER_FREEING, "trim") < 30_000_000


KERNELS = """
import sys
import torch
from course_utils.machine import runtime

if "limit" in sys.argv:
    runtime.limit_kernel_caches()
weight = torch.ones(512, 512, dtype=torch.bfloat16)
with torch.inference_mode():
    torch.ones(2, 512, dtype=torch.bfloat16) @ weight
    before = runtime.current_memory()
    for rows in range(300, 500):
        torch.ones(rows, 512, dtype=torch.bfloat16) @ weight
runtime.trim_heap()
print(runtime.current_memory() - before)
"""


@pytest.mark.full
@pytest.mark.skipif(
    sys.platform != "linux" or not runtime.cpu_has_bf16(),
    reason="only PyTorch on Linux compiles products in bfloat16, and only for such a CPU",
)
def test_kernels_for_many_shapes_need_little_memory_if_their_caches_are_limited():
    def growth(*arguments):
        variables = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
        environment = {k: v for k, v in os.environ.items() if k not in variables}
        return number_from(KERNELS, *arguments, env=environment)

    assert growth() > 80_000_000
    assert growth("limit") < 40_000_000


def cgroup(tmp_path, monkeypatch, membership, files):
    """Write files like those in /sys/fs/cgroup, and replace /proc/self/cgroup by `membership`."""
    for name, text in (files | {"own": membership}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    return tmp_path


BINDER_V2 = {
    "memory.max": "2147483648\n",
    "memory.current": "900000000\n",
    "memory.stat": "anon 500000000\ninactive_file 300000000\nactive_file 1\n",
    "cpu.max": "100000 100000\n",
}


NESTED = {"pod/box/memory.max": "max\n", "pod/box/memory.current": "5\n"}
NESTED |= {"pod/memory.max": "1000\n", "pod/memory.current": "400\n"}
VERSION_1 = {
    "memory/memory.limit_in_bytes": "1000",
    "memory/memory.usage_in_bytes": "800",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 30\n",
    "cpu/cpu.cfs_quota_us": "100000",
    "cpu/cpu.cfs_period_us": "100000",
}
MEMBER = "4:memory:/docker/1234\n3:cpuset:/\n2:cpu,cpuacct:/docker/1234\n"


@pytest.mark.parametrize(
    ("membership", "files", "free", "cores"),
    [
        ("0::/\n", BINDER_V2, 2_147_483_648 - 900_000_000 + 300_000_000, 1),
        ("0::/pod/box\n", NESTED, 600, None),
        (MEMBER, VERSION_1, 1000 - 800 + 30, 1),
    ],
    ids=["binder", "enclosing", "version 1"],
)
def test_limits_of_cgroups_are_counted(tmp_path, monkeypatch, membership, files, free, cores):
    root = cgroup(tmp_path, monkeypatch, membership, files)
    assert runtime.available_memory(root) == free
    assert cores is None or runtime.usable_cores(root) == cores


def test_cgroup_without_a_limit(tmp_path, monkeypatch):
    files = {"memory.max": "max\n", "memory.current": "5\n", "cpu.max": "max 100000\n"}
    root = cgroup(tmp_path, monkeypatch, "0::/\n", files)
    assert runtime.available_memory(root) > 10_000_000
    if hasattr(os, "sched_getaffinity"):
        assert runtime.usable_cores(root) == len(os.sched_getaffinity(0))
