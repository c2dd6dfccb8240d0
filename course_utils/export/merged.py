"""Merge saved adapters into the weights of their base model, and save the result as a new model.

Both functions also work for models that don't fit into memory, because they never load the whole
model. The new weights are written into files of at most 400 MB each, and only the weights of one
file are in memory at a time. A single weight of more than 400 MB gets a larger file of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.export.merging import BASES, DTYPES
from course_utils.export.saved import SavedAdapters, read_adapters
from course_utils.machine import threads
from course_utils.machine.files import written_aside
from course_utils.machine.validation import CourseError, one_of
from course_utils.models import dequantized, stored_weights
from course_utils.models.fetch import check_model_files
from course_utils.models.supported import check_config

# The files in a model's folder besides its weights: the config, the tokenizer, the chat template
# and perhaps a licence.
OTHER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
# The maximum size of a new file in bytes. The weights of a file are collected in memory before the
# file is written, so this size also limits the memory that is needed.
SHARD_BYTES = 400_000_000


# The arguments after the asterisk are options: they have defaults, and can be given only by name.
@torch.no_grad()
@threads.sharing_cores()
def save_merged(  # noqa: PLR0913
    adapters: str | Path,
    folder: str | Path,
    *,
    into: str = "dequantized",
    stored_as: str = "bfloat16",
    base: str | Path | None = None,
    double_quant: bool = True,
) -> Path:
    """Merge saved adapters into their base model, and save the result as an ordinary model.

    The saved weights are those that `merge` would return with the same options. `merge` needs the
    whole base model in memory. `save_merged` needs only one weight of the base model and one file
    of the new model in memory at a time.

    Args:
        into: the weights to which the update of the adapters is added. "dequantized" means the
            weights on which QLoRA has trained the adapters: the weights of the base model after NF4
            has rounded them. "original" means the weights in the files of the base model.
        base: the base model, as in `SavedAdapters.base_folder`; by default, the model that
            adapter_config.json names.
    """
    one_of("into", into, BASES)
    saved = read_adapters(adapters)
    source = saved.base_folder(base)
    weights = _base_weights(source, into, double_quant)
    return _save(_with_updates(weights, saved, source), source, Path(folder), stored_as)


@torch.no_grad()
@threads.sharing_cores()
def save_dequantized(
    base: str | Path,
    folder: str | Path,
    *,
    stored_as: str = "bfloat16",
    double_quant: bool = True,
) -> Path:
    """Round a base model's weights to NF4, as QLoRA does, and save them as an ordinary model.

    Programs that don't know NF4, such as llama.cpp, need these weights in a file, because QLoRA
    trains adapters on them. With the original weights, the adapters would give other answers.
    """
    source = Path(base).expanduser()
    check_model_files(source)
    weights = _base_weights(source, "dequantized", double_quant)
    return _save(weights, source, Path(folder), stored_as)


# --- weights --------------------------------------------------------------------------------------


def _base_weights(source: Path, into: str, double_quant: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the value of each tensor of a base model.

    If `into` is "original", the values are those in the files. If it is "dequantized", all tensors
    are rounded to bfloat16, and the weights of all linear layers except the output head to NF4, as
    `load_base` does on devices with bfloat16.
    """
    check_config(source, None)
    if into == "original":
        yield from stored_weights(path=source)
        return
    quantized = _linear_layers(source)
    for key, weight in stored_weights(path=source):
        weight = weight.to(torch.bfloat16)
        layer = key.removesuffix(".weight")
        yield key, _nf4(weight, double_quant) if layer in quantized else weight


def _with_updates(
    weights: Iterable[tuple[str, Tensor]], saved: SavedAdapters, source: Path
) -> Iterator[tuple[str, Tensor]]:
    """Yield the given weights, with the updates of the adapters added to them in float32."""
    foreign = f"the adapters in {saved.folder} don't belong to the model in {source}"
    left = set(saved.layers)
    for key, weight in weights:
        layer = key.removesuffix(".weight")
        if layer in saved.layers:
            left.remove(layer)
            update = saved.update(layer)
            if update.shape != weight.shape:
                raise CourseError(
                    f"{foreign}: the update of {layer} has the shape {tuple(update.shape)}, but "
                    f"the weight has {tuple(weight.shape)}"
                )
            weight = weight.float() + update
        yield key, weight
    if left:
        raise CourseError(f"{foreign}, which has no weight for {min(left)}")


def _nf4(weight: Tensor, double_quant: bool) -> Tensor:
    """Round a weight to NF4, and return the rounded weight in float32."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=double_quant)
    return dequantized(packed, state, torch.float32)


def _linear_layers(folder: Path) -> set[str]:
    """Return the names of all linear layers of a model except its output head.

    `load_base` quantizes exactly these layers. The function builds the model on the device "meta",
    where tensors need no memory.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    return {name for name, module in linear if module is not head}


# --- files ----------------------------------------------------------------------------------------


def _save(
    weights: Iterable[tuple[str, Tensor]], source: Path, folder: Path, stored_as: str
) -> Path:
    """Round weights to a dtype, and save them with the config and the tokenizer of a base model."""
    dtype = DTYPES[one_of("stored_as", stored_as, DTYPES)]
    with written_aside(folder) as new:
        new.mkdir()
        _save_shards(_rounded(weights, dtype), new)
        _copy_other_files(source, new, stored_as)
    return folder


def _rounded(
    weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for key, weight in weights:
        stored = weight.to(dtype)
        if not stored.isfinite().all():
            raise CourseError(f"{key} has values that {dtype} can't store: use bfloat16")
        yield key, stored


def _save_shards(weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Save weights as one safetensors file, or as several files of limited size with an index."""
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    shard: dict[str, Tensor] = {}

    def save() -> None:
        save_file(shard, folder / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    total = 0
    for key, weight in weights:
        total += weight.nbytes
        if shard and sum(w.nbytes for w in shard.values()) + weight.nbytes > SHARD_BYTES:
            save()
        shard[key] = weight
    save()
    if len(shards) == 1:
        (folder / "0.safetensors").rename(folder / "model.safetensors")
        return
    place: dict[str, str] = {}
    for number, keys in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"{number}.safetensors").rename(folder / name)
        place |= dict.fromkeys(keys, name)
    index = {"metadata": {"total_size": total}, "weight_map": place}
    text = json.dumps(index, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _copy_other_files(source: Path, folder: Path, stored_as: str) -> None:
    """Copy a model's config, tokenizer and licence, and set the new dtype in the copied config."""
    for pattern in OTHER_FILES:
        for file in source.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = stored_as
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
