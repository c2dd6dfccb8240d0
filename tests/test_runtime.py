"""runtime: one stand-in for each machine the course meets, and the probes behind it."""

import ctypes
import mmap
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_utils import runtime
from course_utils.runtime import Gpu, Machine, check_environment

GOOD_LIBRARIES = {name: floor for name, floor in runtime.FLOORS.items()} | {"torchao": None}
LAPTOP = Machine(
    python=(3, 12, 4),
    libraries=GOOD_LIBRARIES,
    cpu_bf16=True,
    cores=8,
    threads=8,
    memory=12_000_000_000,
    disk=50_000_000_000,
    cache=Path("cache"),
    model=Path("cache/models/smollm2-135m"),
)
T4 = Gpu("Tesla T4", (7, 5), 15_828_320_256)
A100 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 42_298_834_944)


def rows(machine):
    return {row.what: row for row in check_environment(machine).rows}


def faults(machine):
    return {what: row.state for what, row in rows(machine).items() if row.state != "ok"}


# --- the table, for each machine ---


def test_a_good_laptop_has_no_fault():
    table = check_environment(LAPTOP)
    assert table.ok
    assert [row for row in table.rows if row.state != "ok" or row.remedy] == []
    assert table.verdict == "The course runs here."


@pytest.mark.parametrize(
    "gpu, dtype, reason",
    [
        (T4, "float16", "compute capability 7.5 has no native bfloat16"),
        (A100, "bfloat16", "compute capability 8.0 has native bfloat16"),
    ],
)
def test_gpu(gpu, dtype, reason):
    table = rows(replace(LAPTOP, gpu=gpu, nvidia_driver=True))
    assert gpu.name in table["accelerator"].found
    assert f"{gpu.memory / 1e9:.1f} GB" in table["accelerator"].found
    assert table["compute dtype"].found == f"{dtype}: {reason}"


@pytest.mark.parametrize("has, dtype", [(True, "bfloat16"), (False, "float32")])
def test_cpu(has, dtype):
    table = rows(replace(LAPTOP, cpu_bf16=has))
    assert table["compute dtype"].found.startswith(f"{dtype}: this CPU has ")
    assert table["accelerator"].found == "none: the course computes on the CPU"


def test_colab_with_its_old_torchao():
    colab = replace(
        LAPTOP,
        python=(3, 13, 1),
        libraries=GOOD_LIBRARIES | {"torchao": "0.10.0", "ipywidgets": "7.7.1"},
        gpu=T4,
        place="Google Colab",
    )
    assert faults(colab) == {"torchao": "fail"}
    assert "`pip uninstall -y torchao`" in rows(colab)["torchao"].remedy
    assert rows(colab)["Python"].found == "3.13.1 on Google Colab"


def test_colab_without_a_gpu_and_without_the_model():
    colab = replace(LAPTOP, place="Google Colab", model=None)
    assert faults(colab) == {"base model": "warn"}
    table = rows(colab)
    assert table["base model"].remedy.startswith("Go on: a lecture fetches it when it needs it.")
    assert "menu Runtime, Change runtime type" in table["accelerator"].found
    assert table["cache"].found == "cache can be written, and is kept until this session ends"


def test_folders_at_home_are_named_without_the_users_name(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    at_home = replace(LAPTOP, cache=Path("/home/ada/cache"), model=Path("/home/ada/cache/model"))
    assert rows(at_home)["cache"].found == f"{Path('~/cache')} can be written"
    assert rows(at_home)["base model"].found == f"fetched: {Path('~/cache/model')}"
    elsewhere = replace(LAPTOP, cache=Path("/srv/cache"))
    assert rows(elsewhere)["cache"].found == f"{Path('/srv/cache')} can be written"


@pytest.mark.parametrize("version, bad", [("0.15.9", True), ("0.16.0", False), ("0.17.1", False)])
def test_torchao_floor(version, bad):
    machine = replace(LAPTOP, libraries=GOOD_LIBRARIES | {"torchao": version})
    assert ("torchao" in faults(machine)) == bad


def test_torchao_matters_only_beside_peft():
    libraries = GOOD_LIBRARIES | {"torchao": "0.10.0", "peft": None}
    assert "torchao" not in rows(replace(LAPTOP, libraries=libraries))


def test_missing_bitsandbytes():
    machine = replace(LAPTOP, libraries=GOOD_LIBRARIES | {"bitsandbytes": None})
    assert faults(machine) == {"bitsandbytes": "fail"}
    assert not check_environment(machine).ok
    assert rows(machine)["bitsandbytes"].remedy == 'Run `pip install "bitsandbytes>=0.50"`.'


def test_ancient_bitsandbytes():
    machine = replace(LAPTOP, libraries=GOOD_LIBRARIES | {"bitsandbytes": "0.42.0"})
    assert rows(machine)["bitsandbytes"].found == "0.42.0 is too old"
    assert "no wheel fits" in rows(machine)["bitsandbytes"].remedy


def test_missing_ipywidgets_does_not_stop_the_course():
    machine = replace(LAPTOP, libraries=GOOD_LIBRARIES | {"ipywidgets": None})
    assert faults(machine) == {"ipywidgets": "warn"}
    assert check_environment(machine).ok


def test_torch_that_cannot_be_imported():
    machine = replace(LAPTOP, torch_fault="libgomp.so.1: cannot open shared object file")
    assert faults(machine) == {"torch": "fail"}
    assert "libgomp" in rows(machine)["torch"].found


def test_driver_without_a_torch_that_sees_the_gpu():
    machine = replace(LAPTOP, nvidia_driver=True)
    assert faults(machine) == {"accelerator": "warn"}


@pytest.mark.parametrize(
    "python, state", [((3, 10, 9), "fail"), ((3, 11, 0), None), ((3, 14, 0), "warn")]
)
def test_python(python, state):
    assert faults(replace(LAPTOP, python=python)) == ({"Python": state} if state else {})


@pytest.mark.parametrize(
    "memory, state",
    [(1_100_000_000, "fail"), (1_500_000_000, "warn"), (1_600_000_000, None), (None, None)],
)
def test_memory(memory, state):
    found = faults(replace(LAPTOP, memory=memory))
    assert found == ({"memory available": state} if state else {})


def test_binder_threads():
    binder = replace(LAPTOP, place="Binder", cores=1, threads=16)
    assert faults(binder) == {"cores": "warn"}
    assert rows(binder)["cores"].found == "1 core, 16 threads"
    assert " OMP_NUM_THREADS=1`" in rows(binder)["cores"].remedy


@pytest.mark.parametrize(("variable", "expected"), [("", 1), ("2", 2)])
def test_threads_that_the_course_will_lower_are_no_fault(monkeypatch, variable, expected):
    """In a container with a quota PyTorch has a thread for each core of the host."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(runtime, "usable_cores", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert runtime.probe().threads == expected


def test_cache_that_cannot_be_written():
    machine = replace(LAPTOP, cache_fault="Read-only file system")
    assert faults(machine) == {"cache": "warn"}, "with the model there, reading is enough"
    assert faults(replace(machine, model=None)) == {"cache": "fail", "base model": "warn"}


def test_full_disk_stops_only_the_fetch():
    machine = replace(LAPTOP, disk=500_000_000)
    assert faults(machine) == {}
    assert faults(replace(machine, model=None)) == {"disk free": "fail", "base model": "warn"}


def test_each_fault_has_one_remedy_with_a_command():
    worst = Machine(
        python=(3, 10, 0),
        libraries=dict.fromkeys(runtime.FLOORS) | {"torchao": "0.10.0", "peft": "0.1"},
        nvidia_driver=True,
        cores=1,
        threads=8,
        memory=1,
        disk=1,
        cache=Path("cache"),
        cache_fault="Permission denied",
    )
    bad = [row for row in check_environment(worst).rows if row.state != "ok"]
    assert len(bad) == 15
    for row in bad:
        assert re.search(r"`[^`]+`", row.remedy), f"{row.what}: no command in {row.remedy!r}"
        assert row.remedy.endswith("."), row.remedy


def test_the_table_as_text_and_as_html():
    machine = replace(LAPTOP, libraries=GOOD_LIBRARIES | {"peft": None}, model=None)
    table = check_environment(machine)
    text = str(table)
    assert re.search(r"^fail  peft +missing$", text, re.MULTILINE)
    assert '      remedy: Run `pip install "peft>=0.20"`.' in text
    assert text.isascii(), "a Windows terminal may not print more than ASCII"
    assert text.endswith("1 line marked fail, with a remedy.")
    page = table._repr_html_()
    assert "<b>fail</b>" in page and "<b>warn</b>" in page
    assert "peft&gt;=0.20" in page and "peft>=" not in page


def test_long_remedies_stay_within_a_terminal():
    machine = replace(LAPTOP, memory=1, disk=1, model=None, cache_fault="Permission denied")
    assert max(map(len, str(check_environment(machine)).splitlines())) <= 100


def test_floors_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    required = dict(line.split(">=") for line in project["dependencies"])
    assert {name: required[name] for name in runtime.FLOORS} == runtime.FLOORS
    low, high = re.findall(r"3\.(\d+)", project["requires-python"])
    assert ((3, int(low)), (3, int(high) - 1)) == (runtime.PYTHON_FLOOR, runtime.PYTHON_CEILING)


# --- the probes ---


def test_probe_of_this_machine():
    machine = runtime.probe()
    assert machine.python == sys.version_info[:3]
    assert machine.libraries["torch"] == torch.__version__
    assert machine.threads in (torch.get_num_threads(), machine.cores)
    assert machine.cores >= 1
    assert machine.memory > 0 and machine.disk > 0


def test_the_check_survives_a_machine_where_nothing_works(monkeypatch):
    def broken(*_):
        raise OSError("no")

    for name in ("cache_dir", "cpu_has_bf16", "usable_cores", "available_memory", "fetched_model"):
        monkeypatch.setattr(runtime, name, broken)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing torch now fails
    table = {row.what: row for row in check_environment().rows}
    assert table["cores"].found == table["memory available"].found == "unknown"
    assert table["torch"].state == "fail"
    assert table["cache"].state == "fail"


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path))
    assert runtime.cache_dir() == tmp_path
    monkeypatch.setenv("QLORA_COURSE_CACHE", "~/models")
    assert runtime.cache_dir() == Path.home() / "models"
    monkeypatch.delenv("QLORA_COURSE_CACHE")
    assert "qlora-course" in runtime.cache_dir().parts


def test_write_fault(monkeypatch, tmp_path):
    assert runtime._write_fault(tmp_path / "new" / "cache") is None
    (tmp_path / "file").write_text("")
    assert runtime._write_fault(tmp_path / "file" / "cache") is not None

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert runtime._write_fault(tmp_path) == "Read-only file system"


def test_fetched_model(monkeypatch, tmp_path):
    cache, hub = tmp_path / "cache", tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    assert runtime.fetched_model(cache) is None
    half = cache / "models" / ".smollm2-135m-x1" / "model"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    assert runtime.fetched_model(cache) is None, "a half-made model has no final name yet"
    snapshot = hub / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert runtime.fetched_model(cache) == snapshot
    ready = cache / "models" / "smollm2-135m"
    ready.mkdir()
    (ready / "config.json").write_text("{}")
    assert runtime.fetched_model(cache) == ready


def test_places(monkeypatch):
    for name in ("COLAB_RELEASE_TAG", "BINDER_REPO_URL", "BINDER_LAUNCH_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("BINDER_SERVICE_HOST", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    assert not runtime.in_colab() and not runtime.on_binder()
    monkeypatch.setenv("BINDER_REPO_URL", "repository")
    assert runtime.on_binder() and runtime.probe().place == "Binder"
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert runtime.in_colab() and runtime.probe().place == "Google Colab"


def test_versions_imports_nothing():
    code = (
        "import sys; from course_utils import runtime; found = runtime.versions(); "
        "assert found['transformers'] and found['torch'], found; "
        "print([n for n in ('torch', 'transformers', 'numpy', 'psutil') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- device and dtype ---


@pytest.mark.parametrize(
    "capability, dtype",
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_compute_dtype_on_gpus(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # as it claims
    assert runtime.device() == torch.device("cuda")
    assert runtime.compute_dtype() is dtype
    assert runtime.compute_dtype("cuda:0") is dtype


@pytest.mark.parametrize("has, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_compute_dtype_on_cpus(monkeypatch, has, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has)
    assert runtime.device() == torch.device("cpu")
    assert runtime.compute_dtype() is dtype
    assert runtime.compute_dtype("cpu") is dtype


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
def test_cpu_features_from_linux(monkeypatch, tmp_path, line, has):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nbogomips : 1\n")
    found = runtime.cpu_features(cpuinfo)
    monkeypatch.setattr(runtime, "cpu_features", lambda: found)
    assert runtime.cpu_has_bf16() == has


def test_cpu_features_elsewhere_come_from_torch(monkeypatch, tmp_path):
    capabilities = {"neon": True, "bf16": True, "sve": False, "l1d_cache_size": 1}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert runtime.cpu_features(tmp_path / "none") == {"neon", "bf16"}
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert runtime.cpu_features(tmp_path / "none") == frozenset()


def test_gpu_memory_is_torchs_own_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 7_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5_000)
    assert runtime.peak_memory("cuda") == 7_000
    assert runtime.current_memory("cuda") == 5_000


def test_seed_everything():
    def draw():
        runtime.seed_everything(3)
        return torch.rand(2).tolist(), np.random.rand(2).tolist()

    assert draw() == draw()
    for bad in (-1, 2**32, 1.5, "0"):
        with pytest.raises(ValueError, match="from 0 to 4294967295"):
            runtime.seed_everything(bad)


# --- memory and cores ---


def test_process_memory():
    block = mmap.mmap(-1, 60_000_000)  # the system's own: the heap may keep what is freed
    np.frombuffer(block, dtype=np.uint8)[:] = 1
    held = runtime.current_memory("cpu")
    assert held > len(block)
    block.close()
    assert runtime.peak_memory("cpu") >= held - 1_000_000
    assert runtime.current_memory("cpu") < held - 50_000_000


def test_peak_of_a_child_is_its_own():
    block = np.ones(300_000_000, dtype=np.uint8)  # a child must not inherit this peak
    code = (
        "import os; from course_utils.runtime import process_peak; print(process_peak(os.getpid()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(done.stdout) < block.nbytes


HELD_AFTER_FREEING = """
import sys
import numpy as np
from course_utils import runtime
np.ones(30_000_000, dtype=np.uint8)  # once freed, glibc reuses what is up to that large
before = runtime.current_memory("cpu")
blocks = [np.ones(n, dtype=np.uint8) for _ in range(40) for n in (5_000_000, 100_000)]
del blocks[::2]  # the small ones keep the heap from shrinking
if sys.argv[1:]:
    runtime.trim_heap()
print(runtime.current_memory("cpu") - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="not glibc's heap",
)
def test_trimming_gives_freed_memory_back():
    def held(*arguments):
        command = [sys.executable, "-c", HELD_AFTER_FREEING, *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert held() > 150_000_000
    assert held("trim") < 30_000_000


def test_few_kernels_are_kept_unless_something_else_is_set(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    runtime.keep_few_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    runtime.keep_few_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


def cgroup(tmp_path, monkeypatch, membership, files):
    """A stand-in for /sys/fs/cgroup, with this process in `membership`."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    real, own = Path.read_text, Path("/proc/self/cgroup")
    monkeypatch.setattr(
        Path, "read_text", lambda p, *a, **k: membership if p == own else real(p, *a, **k)
    )
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda p, **k: p == own or exists(p, **k))
    return tmp_path


BINDER_V2 = {
    "memory.max": "2147483648\n",
    "memory.current": "900000000\n",
    "memory.stat": "anon 500000000\ninactive_file 300000000\nactive_file 1\n",
    "cpu.max": "100000 100000\n",
}


def test_binder_with_2_gib(tmp_path, monkeypatch):
    root = cgroup(tmp_path, monkeypatch, "0::/\n", BINDER_V2)
    free = 2_147_483_648 - 900_000_000 + 300_000_000
    assert runtime.available_memory(root) == free
    assert runtime.usable_cores(root) == 1
    assert faults(replace(LAPTOP, memory=free)) == {"memory available": "warn"}


def test_a_limit_of_an_enclosing_cgroup_counts(tmp_path, monkeypatch):
    inner = {"pod/box/memory.max": "max\n", "pod/box/memory.current": "5\n"}
    outer = {"pod/memory.max": "1000\n", "pod/memory.current": "400\n"}
    root = cgroup(tmp_path, monkeypatch, "0::/pod/box\n", inner | outer)
    assert runtime.available_memory(root) == 600


def test_cgroups_of_version_1(tmp_path, monkeypatch):
    files = {
        "memory/memory.limit_in_bytes": "1000",
        "memory/memory.usage_in_bytes": "800",
        "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 30\n",
        "cpu/cpu.cfs_quota_us": "150000",
        "cpu/cpu.cfs_period_us": "100000",
    }
    member = "4:memory:/docker/1234\n3:cpuset:/\n2:cpu,cpuacct:/docker/1234\n"
    root = cgroup(tmp_path, monkeypatch, member, files)
    assert runtime.available_memory(root) == 1000 - 800 + 30
    assert runtime.usable_cores(root) <= 2


def test_no_limit(tmp_path, monkeypatch):
    files = {"memory.max": "max\n", "memory.current": "5\n", "cpu.max": "max 100000\n"}
    root = cgroup(tmp_path, monkeypatch, "0::/\n", files)
    assert runtime.available_memory(root) > 10_000_000
    if hasattr(os, "sched_getaffinity"):
        assert runtime.usable_cores(root) == len(os.sched_getaffinity(0))
