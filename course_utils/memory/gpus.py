"""List the memory of several GPUs, and compute how much of this memory tensors can use."""

from __future__ import annotations

from course_utils.units import GiB
from course_utils.validation import positive

# The memory of each GPU in bytes, as PyTorch reports it in out-of-memory errors. PyTorch reports
# less than the advertised memory. The reported memory differs by up to 0.2 GiB between drivers, so
# the table contains the smallest number that was reported.
GPUS = {
    "T4": int(14.56 * GiB),
    "RTX 4090": int(23.64 * GiB),
    "A100-40": int(39.39 * GiB),
    "A100-80": int(79.15 * GiB),
    "H100": int(79.10 * GiB),
}
# The CUDA context and the driver need about this many bytes of a GPU's memory.
RESERVE = GiB // 2


def usable_bytes(gpu: str | int) -> int:
    """Return the bytes of a GPU that tensors can use: all its memory except `RESERVE` for CUDA.

    Args:
        gpu: A name from `GPUS`, or the memory of a GPU in bytes.

    Raises:
        ValueError: The name is unknown, or the number of bytes is not a whole number of at least 1.
    """
    if isinstance(gpu, str) and gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; choose one of {', '.join(GPUS)}, or give its bytes")
    size = GPUS[gpu] if isinstance(gpu, str) else positive("the bytes of a GPU", gpu)
    return max(0, size - RESERVE)
