"""environment: the table for several kinds of machines, and the facts that it shows."""

import re
import sys
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from course_utils import bootstrap
from course_utils.machine import environment, runtime
from course_utils.machine.environment import Gpu, Machine, check_environment

GOOD_LIBRARIES = environment.MINIMUM_VERSIONS | {"torchao": None}
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


def problems(machine):
    return {what: row.state for what, row in rows(machine).items() if row.state != "ok"}


# --- the table, for each machine ---


@pytest.mark.parametrize(
    ("facts", "accelerator", "dtype"),
    [
        ({"gpu": T4}, "Tesla T4", "float16: compute capability 7.5 has no native bfloat16"),
        ({"gpu": A100}, "42.3 GB", "bfloat16: compute capability 8.0 has native bfloat16"),
        ({"cpu_bf16": True}, "none: the course computes on the CPU", "bfloat16: this CPU has "),
        ({"cpu_bf16": False}, "none: the course computes on the CPU", "float32: this CPU has "),
    ],
)
def test_rows_of_gpus_and_cpus(facts, accelerator, dtype):
    table = rows(replace(LAPTOP, nvidia_driver="gpu" in facts, **facts))
    assert accelerator in table["accelerator"].found
    assert table["compute dtype"].found.startswith(dtype)


def test_colab_without_a_gpu_and_without_the_model():
    colab = replace(LAPTOP, place="Google Colab", model=None)
    assert problems(colab) == {"base model": "warn"}
    table = rows(colab)
    assert table["base model"].remedy.startswith("A lecture will fetch it when needed")
    assert "menu Runtime, Change runtime type" in table["accelerator"].found
    assert table["cache"].found == "cache can be written, and is kept until this session ends"


def installed(**versions):
    return {"libraries": GOOD_LIBRARIES | versions}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        (installed(torchao="0.10.0", ipywidgets="7.7.1"), {"torchao": "fail"}),
        (installed(torchao="0.16.0"), {}),
        (installed(torchao="0.10.0", peft=None), {"peft": "fail"}),
        (installed(bitsandbytes="0.42.0"), {"bitsandbytes": "fail"}),
        (installed(ipywidgets=None), {"ipywidgets": "warn"}),
        ({"torch_error": "libgomp.so.1: cannot open"}, {"torch": "fail"}),
        ({"nvidia_driver": True}, {"accelerator": "warn"}),
        ({"python": (3, 10, 9)}, {"Python": "fail"}),
        ({"python": (3, 11, 0)}, {}),
        ({"python": (3, 14, 0)}, {"Python": "warn"}),
        ({"memory": 1_200_000_000}, {"memory available": "fail"}),
        ({"memory": 1_400_000_000}, {"memory available": "warn"}),
        ({"memory": 1_500_000_000}, {}),
        # With a GPU, lecture 07 needs more memory of the computer, too.
        ({"memory": 1_800_000_000, "gpu": A100}, {"memory available": "warn"}),
        ({"memory": 1_900_000_000, "gpu": A100}, {}),
        ({"memory": None, "cores": None, "disk": None}, {}),
        ({"cores": 1, "threads": 16}, {"cores": "warn"}),
        ({"model": None}, {"base model": "warn"}),
        ({"cache_error": "Read-only"}, {"cache": "warn"}),
        ({"cache_error": "Read-only", "model": None}, {"cache": "fail", "base model": "warn"}),
        ({"disk": 500_000_000}, {}),
        ({"disk": 500_000_000, "model": None}, {"disk free": "fail", "base model": "warn"}),
    ],
)
def test_a_problem_is_found_and_its_remedy_is_a_sentence_with_a_command(changes, expected):
    machine = replace(LAPTOP, **changes)
    assert problems(machine) == expected
    assert check_environment(machine).ok is ("fail" not in expected.values())
    for row in rows(machine).values():
        pattern = "" if row.state == "ok" else r".*`[^`]+`.*\."
        assert re.fullmatch(pattern, row.remedy), f"{row.what}: {row.remedy!r}"


def test_minimum_versions_agree_with_pyproject():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    required = dict(line.split(">=") for line in project["dependencies"])
    assert {
        name: required[name] for name in environment.MINIMUM_VERSIONS
    } == environment.MINIMUM_VERSIONS
    low, high = re.findall(r"3\.(\d+)", project["requires-python"])
    supported = environment.OLDEST_PYTHON, environment.NEWEST_PYTHON
    assert ((3, int(low)), (3, int(high) - 1)) == supported
    limits = bootstrap.OLDEST_PYTHON, bootstrap.FIRST_UNTESTED_PYTHON
    assert ((3, int(low)), (3, int(high))) == limits


# --- the facts ---


def test_probe_of_this_machine():
    machine = environment.probe()
    assert machine.python == sys.version_info[:3]
    assert machine.libraries["torch"] == torch.__version__
    assert machine.threads == torch.get_num_threads()
    assert machine.cores >= 1
    assert machine.memory > 0 and machine.disk > 0


def test_check_raises_no_error_on_a_broken_machine(monkeypatch):
    def broken(*_):
        raise OSError("no")

    for name in ("cache_dir", "cpu_has_bf16", "usable_cores", "available_memory"):
        monkeypatch.setattr(runtime, name, broken)
    monkeypatch.setattr(environment, "fetched_model", broken)
    # From here on, importing torch fails.
    monkeypatch.setitem(sys.modules, "torch", None)
    table = {row.what: row for row in check_environment().rows}
    assert table["cores"].found == table["memory available"].found == "unknown"
    assert table["torch"].state == "fail"
    assert table["cache"].state == "fail"


def test_folder_that_cannot_be_written_is_found(monkeypatch, tmp_path):
    assert environment._write_error(tmp_path / "new" / "cache") is None
    (tmp_path / "file").write_text("")
    assert environment._write_error(tmp_path / "file" / "cache") is not None

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert environment._write_error(tmp_path) == "Read-only file system"


def test_fetched_model_is_found_in_both_caches(monkeypatch, tmp_path):
    cache, hub = tmp_path / "cache", tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    assert environment.fetched_model(cache) is None
    # A model that is being converted is in a folder with another name.
    incomplete, ready = (cache / "models" / n for n in (".smollm2-135m-x1/model", "smollm2-135m"))
    snapshot = hub / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / "1"
    for folder, found in ((incomplete, None), (snapshot, snapshot), (ready, ready)):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert environment.fetched_model(cache) == found


def test_colab_and_binder_are_recognized(monkeypatch):
    for name in ("COLAB_RELEASE_TAG", "BINDER_REPO_URL", "BINDER_LAUNCH_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("BINDER_SERVICE_HOST", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    assert not environment.in_colab()
    monkeypatch.setenv("BINDER_REPO_URL", "repository")
    assert environment.probe().place == "Binder"
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert environment.in_colab() and environment.probe().place == "Google Colab"
