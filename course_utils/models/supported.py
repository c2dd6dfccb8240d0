"""Refuse the models that the course can't treat correctly, each with the reason.

`check_config` reads only config.json, so it can refuse a model before any weights are read.
`check_complete`, `check_shapes` and `check_quantized` look at the weights of a loaded model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from course_utils.machine.validation import CourseError

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit
    from transformers import PreTrainedModel

# The names that the configs of transformers give to the number of experts.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# The endings of transformers' class names for models that predict the next token.
CAUSAL = ("ForCausalLM", "LMHeadModel")
# The least share of the parameters in the layers that must have 4 bits. Some models have a few
# small tensors that are no linear layers, such as the convolutions of Mamba.
QUANTIZED_SHARE = 0.95
QUANTIZATIONS = (None, "nf4")


def check_config(folder: Path, quantization: str | None) -> None:
    """Raise an error if the course can't treat the model in a folder correctly."""
    if reason := _refusal(folder, quantization):
        raise CourseError(f"the model in {folder} can't be used: {reason}")


def _refusal(folder: Path, quantization: str | None) -> str | None:
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs and not any(folder.glob("*.safetensors")):
        return (
            f"its weights are in the GGUF file {ggufs[0]}, which other programs read; use the "
            "original model, whose weights are safetensors files"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # `load_base` reports a missing or damaged file.
        return None
    if not isinstance(config, dict):
        return "its config.json doesn't contain a JSON object"
    return _not_readable(config) or _not_causal(config) or _experts(config, quantization)


def _not_readable(config: Mapping[str, Any]) -> str | None:
    """Return why the weights can't be read as 16-bit numbers by transformers, or None."""
    from transformers import CONFIG_MAPPING

    if stored := config.get("quantization_config"):
        method = "an unknown method"
        if isinstance(stored, Mapping):
            method = stored.get("quant_method", method)
        return (
            f"it is already quantized ({method}), but the course quantizes 16-bit weights itself; "
            "use the original model"
        )
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return None
    if config.get("auto_map"):
        return (
            f"transformers can load its model_type {kind!r} only with code from the model's folder "
            "(trust_remote_code), and the course doesn't run such code"
        )
    return f"this version of transformers doesn't know its model_type {kind!r}"


def _not_causal(config: Mapping[str, Any]) -> str | None:
    """Return why a model isn't a decoder that predicts the next token of a text, or None."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind, classes = config["model_type"], config.get("architectures") or ()
    classes = classes if isinstance(classes, str) else ", ".join(classes)
    of = f" ({classes})" if classes else ""
    if config.get("is_encoder_decoder"):
        return f"it is an encoder-decoder{of}, but the course trains decoder-only models"
    if config.get("vision_config"):
        return f"it also reads images{of}, but the course trains models that read only text"
    if classes and not classes.endswith(CAUSAL):
        return (
            f"it is a {classes}, but the course trains models that predict the next token, whose "
            f"class names end with {' or '.join(CAUSAL)}"
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"models of its model_type {kind!r} don't predict the next token of a text"
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        return f"it is an encoder{of}, which also sees the tokens that it would have to predict"
    return None


def _experts(config: Mapping[str, Any], quantization: str | None) -> str | None:
    """Return why a mixture of experts can't be loaded in 4 bits, or None."""
    count = next(_expert_counts(config), None)
    if quantization is None or count is None or config.get("is_moe") is False:
        return None
    return (
        f"it is a mixture of {count} experts, and bitsandbytes would leave the experts, which have "
        "most of the parameters, in 16 bits; use a dense model, or quantization=None"
    )


def _expert_counts(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield each number of experts above 1 in a config and in the configs inside it."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _expert_counts(value)
        elif key in EXPERTS and isinstance(value, int) and value > 1:
            yield value


def check_complete(folder: Path, missing: Iterable[str]) -> None:
    """Raise a CourseError if a model's files lack weights, which then have random values."""
    if names := sorted(missing):
        raise CourseError(
            f"the model in {folder} can't be used: its files lack {len(names)} of the weights that "
            f"its config.json asks for, such as {names[0]}"
        )


def check_shapes(layers: Mapping[str, Linear4bit]) -> None:
    """Raise a CourseError if the 4-bit weight of a layer has another shape than the layer."""
    for name, layer in layers.items():
        state, shape = layer.weight.quant_state, (layer.out_features, layer.in_features)
        if state is not None and tuple(state.shape) != shape:
            raise CourseError(
                f"the weight of {name} has the shape {tuple(state.shape)}, but according to "
                f"config.json it is {shape}"
            )


def check_quantized(model: PreTrainedModel) -> None:
    """Raise an error unless nearly all parameters in a model's layers have 4 bits.

    Embeddings and the output head are left out of the count, as QLoRA does not quantize them.
    Tensors with one dimension, which are biases and the scales of normalization layers, are left
    out, too.
    """
    quantized, others = 0, dict[str, int]()
    for name, parameter in _layer_parameters(model):
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            quantized += state.shape.numel()
        elif parameter.ndim > 1:
            others[name] = parameter.numel()
    total = quantized + sum(others.values())
    if quantized < QUANTIZED_SHARE * total or not quantized:
        largest = max(others, key=others.__getitem__, default="none")
        raise CourseError(
            f"only {quantized / max(total, 1):.0%} of the parameters in the layers of this "
            f"{type(model).__name__} could be quantized to 4 bits; the largest tensor that was not "
            f"is {largest} with {others.get(largest, 0):,} parameters. Use another model, or "
            "quantization=None"
        )


def _layer_parameters(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a model, except for those of embeddings and of the output head."""
    head = model.get_output_embeddings()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Embedding) or module is head:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{prefix}.{name}", parameter
