"""Devices and processes: the `Accelerator` of a run, and a model that FSDP shards over GPUs.

See docs/bigger-machines.md. The loop in `loop` is the same for one process and for many.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from course_utils import runtime
from course_utils.models import linear4bit_layers


def make_accelerator(model, compute_dtype: torch.dtype | None = None):
    """An Accelerator whose autocast computes in this dtype.

    Args:
        model: The model to train. FSDP needs it changed, which happens here.
        compute_dtype: float32 means no autocast. Default: the compute dtype of the 4-bit layers, or
            `runtime.compute_dtype()` of the model's device.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = next(model.parameters()).device
    if compute_dtype is None:
        layers = (m.compute_dtype for m in model.modules() if hasattr(m, "compute_dtype"))
        compute_dtype = next(layers, None) or runtime.compute_dtype(device)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}[compute_dtype]
    # An earlier run may have used another precision, but the state of FSDP can't be made twice.
    if not fsdp_wanted():
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu" and not fsdp_wanted(), mixed_precision=precision
    )
    if sharded(accelerator):
        make_ready_for_fsdp(accelerator.state.fsdp_plugin, model)
    return accelerator


def fsdp_wanted() -> bool:
    """Whether `accelerate launch` was configured to use FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def sharded(accelerator) -> bool:
    """Whether each process holds only a part of the model (FSDP)."""
    return accelerator.distributed_type == "FSDP"


def make_ready_for_fsdp(plugin, model) -> None:
    """Change a 4-bit model with adapters into one that FSDP can shard (peft's guide to FSDP).

    FSDP shards floating-point numbers only, and each unit must have one dtype. So the 4-bit codes
    are viewed as numbers of the base's other dtype, as bnb_4bit_quant_storage does. Casting would
    change the codes; for that reason autocast does the mixed precision, and FSDP's own is off. The
    adapters, which are trained, become units of their own.

    Raises:
        ValueError: The model has no adapters.
    """
    from peft.utils.other import fsdp_auto_wrap_policy

    if not hasattr(model, "peft_config"):
        raise ValueError("FSDP can train only adapters here: call attach_adapters first")
    base = model.get_base_model()
    storage = base.get_input_embeddings().weight.dtype
    for layer in linear4bit_layers(model).values():
        layer.weight.data = layer.weight.data.flatten().view(storage)[:, None]
        layer.quant_storage = layer.weight.quant_storage = storage
    # The base is still on the CPU: FSDP moves each unit to its GPU.
    vars(base).pop("hf_device_map", None)
    plugin.auto_wrap_policy = fsdp_auto_wrap_policy(model)
    plugin.mixed_precision_policy = None


def gathered(accelerator) -> dict[str, Tensor] | None:
    """All weights that FSDP spread over the processes, in the main process; None without FSDP."""
    if not sharded(accelerator):
        return None
    return accelerator.get_state_dict(accelerator._models[0])


def save_gathered(model, weights: dict[str, Tensor], folder: Path) -> None:
    """Write adapters as peft does. peft 0.21 itself finds none in a model that FSDP wraps."""
    adapter = model.active_adapter
    folder = folder if adapter == "default" else folder / adapter
    model.peft_config[adapter].save_pretrained(str(folder))
    names = [name for name in weights if f".{adapter}." in name]
    tensors = {n.replace(f".{adapter}.", "."): weights[n].contiguous() for n in names}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
