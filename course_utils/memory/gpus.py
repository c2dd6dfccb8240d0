"""GPUs by name, and how much of their memory tensors can use."""

from __future__ import annotations

from course_utils.units import GiB
from course_utils.validation import positive

# Bytes of a card as PyTorch states them in its out-of-memory errors, which is less than the number
# on the box. Where drivers differ, by up to 0.2 GiB, this is the smallest.
GPUS = {
    "T4": int(14.56 * GiB),
    "RTX 4090": int(23.64 * GiB),
    "A100-40": int(39.39 * GiB),
    "A100-80": int(79.15 * GiB),
    "H100": int(79.10 * GiB),
}
# About so many bytes of a card go to the CUDA context and the driver.
RESERVE = GiB // 2


def usable_bytes(gpu: str | int) -> int:
    """Return the bytes of a GPU left for tensors: what PyTorch reports, less what CUDA needs.

    Args:
        gpu: A name of `GPUS`, or the card's bytes.

    Raises:
        ValueError: The name is unknown, or the bytes are not a whole number of at least 1.
    """
    if isinstance(gpu, str) and gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; choose one of {', '.join(GPUS)}, or give its bytes")
    size = GPUS[gpu] if isinstance(gpu, str) else positive("the bytes of a GPU", gpu)
    return max(0, size - RESERVE)
