"""Create the `Accelerator` of a run, and prepare a 4-bit model that FSDP shards over GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from course_utils.machine import runtime
from course_utils.models import linear4bit_layers

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin
    from peft import PeftModel


def make_accelerator(model: nn.Module, compute_dtype: torch.dtype | None = None) -> Accelerator:
    """Return an Accelerator whose autocast computes in `compute_dtype`.

    float32 turns autocast off, and `default_dtype` is the default. In float16, a gradient scaler
    multiplies the loss so that small gradients don't become zero. With FSDP, the model is changed
    by `prepare_for_fsdp`.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = next(model.parameters()).device
    compute_dtype = compute_dtype or default_dtype(model)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}[compute_dtype]
    # An earlier run may have used another precision, so accelerate's shared state is reset. With
    # FSDP this state is not reset, because it can't be created twice.
    if not fsdp_wanted():
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu" and not fsdp_wanted(), mixed_precision=precision
    )
    # On a CPU, accelerate ignores float16 without a warning. PyTorch can compute in float16 there.
    if precision == "fp16" and device.type == "cpu":
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu")
    if is_sharded(accelerator):
        prepare_for_fsdp(accelerator.state.fsdp_plugin, model)
    return accelerator


def default_dtype(model: nn.Module) -> torch.dtype:
    """Return the compute dtype of the 4-bit layers, or of the model's device if it has none."""
    of_layers = (getattr(module, "compute_dtype", None) for module in model.modules())
    device = next(model.parameters()).device
    return next(filter(None, of_layers), None) or runtime.compute_dtype(device)


def fsdp_wanted() -> bool:
    """Return whether `accelerate launch` was configured to use FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def processes_wanted() -> int:
    """Return the number of processes that `accelerate launch` or `torchrun` has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether FSDP is used, so that each process stores only a part of the model."""
    return accelerator.distributed_type == "FSDP"


def prepare_for_fsdp(plugin: FullyShardedDataParallelPlugin, model: PeftModel) -> None:
    """Change a 4-bit model with adapters so that FSDP can shard it (see peft's guide to FSDP).

    FSDP shards only floating-point tensors. All tensors of a unit, which is a group of modules that
    FSDP shards together, must have the same dtype. So the bytes of the 4-bit codes are
    reinterpreted as numbers of the embedding's dtype, as with transformers' option
    bnb_4bit_quant_storage. FSDP's mixed precision would cast these numbers and so change the codes.
    Therefore autocast is used instead. The trainable adapters become units that are separate
    from the frozen weights.
    """
    from peft.utils.other import fsdp_auto_wrap_policy

    if not hasattr(model, "peft_config"):
        raise ValueError("FSDP can train only adapters here: call attach_adapters first")
    base = model.get_base_model()
    storage = base.get_input_embeddings().weight.dtype
    for layer in linear4bit_layers(model).values():
        layer.weight.data = layer.weight.data.flatten().view(storage)[:, None]
        layer.quant_storage = layer.weight.quant_storage = storage
    # The base model is still on the CPU, and FSDP moves each unit to its GPU. So the device map of
    # the model no longer applies.
    vars(base).pop("hf_device_map", None)
    plugin.auto_wrap_policy = fsdp_auto_wrap_policy(model)
    plugin.mixed_precision_policy = None


def gather_weights(accelerator: Accelerator) -> dict[str, Tensor] | None:
    """In the main process, return all weights that FSDP sharded. Without FSDP, return None."""
    if not is_sharded(accelerator):
        return None
    return accelerator.get_state_dict(accelerator._models[0])


def save_gathered(model: PeftModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Write the active adapter in peft's format; peft 0.21 finds none in a model FSDP wraps."""
    adapter = model.active_adapter
    folder = folder if adapter == "default" else folder / adapter
    model.peft_config[adapter].save_pretrained(str(folder))
    names = [name for name in weights if f".{adapter}." in name]
    tensors = {n.replace(f".{adapter}.", "."): weights[n].contiguous() for n in names}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
