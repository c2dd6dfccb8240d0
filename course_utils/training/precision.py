"""Create the `Accelerator` of a run, which computes in the run's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from course_utils.machine import runtime

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(model: nn.Module, compute_dtype: torch.dtype | None = None) -> Accelerator:
    """Return an Accelerator whose autocast computes in `compute_dtype`.

    float32 turns autocast off, and `default_dtype` is the default. In float16, a gradient scaler
    multiplies the loss so that small gradients don't become zero.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = next(model.parameters()).device
    compute_dtype = compute_dtype or default_dtype(model)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}[compute_dtype]
    # An earlier run may have used another precision, so accelerate's shared state is reset.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise ValueError("the course trains in one process: start it without accelerate launch")
    # On a CPU, accelerate ignores float16 without a warning. PyTorch can compute in float16 there.
    if precision == "fp16" and device.type == "cpu":
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu")
    return accelerator


def default_dtype(model: nn.Module) -> torch.dtype:
    """Return the compute dtype of the 4-bit layers, or of the model's device if it has none."""
    of_layers = (getattr(module, "compute_dtype", None) for module in model.modules())
    device = next(model.parameters()).device
    return next(filter(None, of_layers), None) or runtime.compute_dtype(device)
