"""Count the bytes of a loaded model, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def model_bytes(model: nn.Module) -> int:
    """Count the bytes of all tensors that a model stores.

    The tensors are the model's weights and buffers, and the constants, codebooks and means of
    its 4-bit weights. The method `get_memory_footprint` of transformers would leave out the
    quantization constants. A tensor that is used in several places, such as tied embeddings, is
    counted once.
    """
    return sum(row["bytes"] for row in byte_table(model))


def byte_table(model: nn.Module) -> list[dict[str, Any]]:
    """List the bytes of a model by kind of tensor.

    Returns:
        One row for each kind of tensor. The keys of a row are "part" (the kind), "tensors" (the
        number of tensors), "elements" (the total number of their elements) and "bytes" (their total
        size in bytes).
    """
    rows: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    for kind, tensor in _tensors_by_kind(model):
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        row = rows.setdefault(kind, {"part": kind, "tensors": 0, "elements": 0, "bytes": 0})
        row["tensors"] += 1
        row["elements"] += tensor.numel()
        row["bytes"] += tensor.nbytes
    return list(rows.values())


def _tensors_by_kind(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the kind of each tensor and the tensor, including the constants of 4-bit weights."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield "4-bit codes, two in a byte", parameter
            yield from _constants(state)
        elif "lora_" in name:
            yield f"adapters, {_dtype_name(parameter)}", parameter
        else:
            yield f"weights not quantized, {_dtype_name(parameter)}", parameter
    for _, buffer in model.named_buffers():
        yield "buffers", buffer


def _constants(state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the constants, codebooks and means of one NF4 weight (bitsandbytes' QuantState)."""
    if state.nested:
        yield "constants, 8-bit", state.absmax
        yield "nested constants, float32", state.state2.absmax
        yield "codebooks and means", state.state2.code
        yield "codebooks and means", state.offset
    else:
        yield "constants, float32", state.absmax
    yield "codebooks and means", state.code


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
