"""Load a base model in 16 bits or NF4, and keep bitsandbytes from repacking weights on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn

from course_utils.machine import runtime, threads
from course_utils.machine.validation import CourseError, first_line, one_of
from course_utils.models.fetch import (
    SMALL_MODEL,
    check_model_files,
    fetch_base,
    is_model,
    weight_files,
)
from course_utils.models.menu import check_fits
from course_utils.models.products import multiply_in_float32
from course_utils.models.silence import silence_transformers
from course_utils.models.supported import (
    QUANTIZATIONS,
    check_complete,
    check_config,
    check_quantized,
    check_shapes,
)

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The errors that transformers raises for damaged or contradictory files.
BROKEN = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError),
    *(SafetensorError, StrictDataclassError),
)


# Each argument is an option that a student may need. Only the name may be given by position.
@threads.sharing_cores()
def load_base(  # noqa: PLR0913
    name: str = SMALL_MODEL,
    *,
    quantization: str | None = None,
    double_quant: bool = True,
    compute_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    path: str | Path | None = None,
    source: str = "auto",
    check_memory: bool = True,
) -> tuple[Any, Any]:
    """Load a base model, in 16 bits or with its linear layers in NF4, and the model's tokenizer.

    Weights that are not quantized are float16 if the compute dtype is float16, else bfloat16. With
    NF4, the embedding and the normalization layers are not quantized.

    Args:
        compute_dtype: dtype of the matrix products with NF4 weights: float32, bfloat16 or float16,
            by default `runtime.compute_dtype(device)`.
        check_memory: whether a model that won't fit into the free memory is refused before it is
            downloaded (see `check_fits`). A model that is given by its path is never refused for
            this reason, and neither is the small model, which every machine can train.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = runtime.known_device(device)
    runtime.check_available(device)
    one_of("quantization", quantization, QUANTIZATIONS)
    if compute_dtype is not None:
        one_of("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    compute_dtype = compute_dtype or runtime.compute_dtype(device)
    if path is None and check_memory:
        check_fits(name, device, quantization=quantization)
    folder = Path(path).expanduser() if path is not None else fetch_base(name, source)
    check_config(folder, quantization)
    _check_files(folder)
    options: dict[str, Any] = {"trust_remote_code": False, "output_loading_info": True}
    options["dtype"] = torch.float16 if compute_dtype == torch.float16 else torch.bfloat16
    if quantization == "nf4":
        options["quantization_config"] = nf4_config(compute_dtype, double_quant)
    # Without a device map, transformers would put 4-bit weights on a GPU if the machine has one.
    if device.type == "cuda" or quantization:
        options["device_map"] = {"": device}
    try:
        with silence_transformers():
            model, info = AutoModelForCausalLM.from_pretrained(folder, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except BROKEN as error:
        raise CourseError(f"the model in {folder} can't be loaded: {_reason(error)}") from error
    check_complete(folder, info["missing_keys"])
    if quantization == "nf4":
        check_shapes(linear4bit_layers(model))
        check_quantized(model)
    finish_loading(model)
    return model.eval(), tokenizer


def _check_files(folder: Path) -> None:
    """Raise a CourseError that says which files of a model a folder lacks, or has instead."""
    if (folder / "adapter_config.json").is_file() and not is_model(folder):
        raise CourseError(
            f"no model in {folder}, but adapters: load their base model, and then the adapters "
            "with load_adapters"
        )
    check_model_files(folder)


def _reason(error: BaseException) -> str:
    """Return in words why transformers can't load a model."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights don't have the shapes that its config.json states"
    if isinstance(error, KeyError):
        return f"one of its JSON files has no entry or an unknown entry {error}"
    if isinstance(error, StrictDataclassError) and error.__cause__:
        error = error.__cause__
    return first_line(error)


def finish_loading(model: nn.Module) -> None:
    """Prepare a model that transformers has just loaded, as `load_base` does.

    Limit oneDNN's cache of kernels, remove the files with 16-bit weights from memory if the model
    has 4-bit weights, and call `make_safe_to_evaluate` and, where the CPU needs it,
    `multiply_in_float32`. Call it before the model computes anything.
    """
    runtime.limit_kernel_caches()
    if (model.device.type, model.dtype) == ("cpu", torch.bfloat16) and not runtime.cpu_has_bf16():
        multiply_in_float32(model)
    if linear4bit_layers(model):
        _copy_mapped_weights(model)
    make_safe_to_evaluate(model)
    runtime.trim_heap()


def _copy_mapped_weights(model: nn.Module) -> None:
    """Copy each weight whose memory is still a part of the memory-mapped file of its model.

    Without the copies, the complete file remains in memory in addition to the 4-bit weights.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and getattr(parameter, "quant_state", None) is None:
            parameter.data = parameter.data.clone()


def nf4_config(compute_dtype: torch.dtype, double_quant: bool = True) -> BitsAndBytesConfig:
    """Return the options with which transformers loads a model in NF4 (QLoRA, section 3)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def linear4bit_layers(model: nn.Module) -> dict[str, Linear4bit]:
    """Find the 4-bit linear layers of a model."""
    from bitsandbytes.nn import Linear4bit

    return {name: m for name, m in model.named_modules() if isinstance(m, Linear4bit)}


def dequantized(packed: torch.Tensor, state: QuantState, dtype: torch.dtype) -> torch.Tensor:
    """Dequantize a 4-bit weight directly to a dtype.

    bitsandbytes' own function returns the dtype that the weight had before it was quantized. This
    dtype is often bfloat16, in which level · constant would be rounded.
    """
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(state)
    state.dtype = dtype
    return dequantize_4bit(packed, state)


def make_safe_to_evaluate(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking the 4-bit weights of a model on CPUs with AVX512-BF16.

    On such a CPU a forward pass in eval mode repacks the weights of each layer in place. Repacked
    weights have no double quantization, and they can't be dequantized. If the model is then
    trained, no gradient flows through these weights, and only a warning says so.
    """
    for layer in linear4bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = False


def stored_weights(
    name: str = "smollm2-135m", part: str = "", path: str | Path | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Read the tensors of a model's files one at a time, without loading the model.

    Args:
        part: a text such as "proj.weight". Only tensors with this text in their name are read. By
            default all tensors are read.
    """
    folder = Path(path) if path is not None else fetch_base(name)
    matched = False
    for file in sorted(weight_files(folder)):
        with safe_open(folder / file, framework="pt") as stored:
            # The opened file is not a dict: it can list its keys, but not iterate over them.
            keys = [key for key in stored.keys() if part in key]  # noqa: SIM118
        for key in keys:
            matched = True
            # The file is mapped into memory. The pages that were read stay there until the file is
            # closed, so it is opened anew for each tensor.
            with safe_open(folder / file, framework="pt") as stored:
                tensor = stored.get_tensor(key).clone()
            yield key, tensor
    if not matched:
        raise ValueError(f"no tensor of {path or name} has {part!r} in its name")
