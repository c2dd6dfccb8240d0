"""List GPUs with their memory, bus and speed, and compute how much memory tensors can use."""

from __future__ import annotations

from collections.abc import Mapping

from course_utils.machine.units import GiB
from course_utils.machine.validation import positive


class GPU(int):
    """A GPU, which is a number: the bytes of its memory.

    Attributes:
        pcie: The generation of its PCIe bus, which has 16 lanes; None if unknown.
        flops: The nominal operations per second of its matrix products: number of bytes of the
            factors → operations. A format is left out if its speed is unknown.
    """

    pcie: int | None
    flops: Mapping[int, float]

    def __new__(
        cls, memory: int, pcie: int | None = None, flops: Mapping[int, float] | None = None
    ) -> GPU:
        """Return a GPU with `memory` bytes."""
        gpu = super().__new__(cls, memory)
        gpu.pcie, gpu.flops = pcie, flops or {}
        return gpu


# The memory is what PyTorch reports in out-of-memory errors, which is less than the advertised
# memory. It differs by up to 0.2 GiB between drivers, so the table contains the smallest number
# that was reported. The generation of PCIe and the speed are those of NVIDIA's data sheets, without
# sparsity. 16-bit products are summed in float32. The H100 is the SXM version. To add a GPU, add
# a line: every calculation, figure and tool reads this table.
GPUS = {
    "T4": GPU(int(14.56 * GiB), pcie=3, flops={2: 65e12, 4: 8.1e12}),
    "RTX 4090": GPU(int(23.64 * GiB), pcie=4, flops={2: 165.2e12, 4: 82.6e12}),
    "A100-40": GPU(int(39.39 * GiB), pcie=4, flops={2: 312e12, 4: 19.5e12}),
    "A100-80": GPU(int(79.15 * GiB), pcie=4, flops={2: 312e12, 4: 19.5e12}),
    "H100": GPU(int(79.10 * GiB), pcie=5, flops={2: 989e12, 4: 67e12}),
}
# The CUDA context and the driver need about this many bytes of a GPU's memory.
RESERVE = GiB // 2


def usable_bytes(gpu: str | int) -> int:
    """Return the bytes of a GPU that tensors can use: all its memory except `RESERVE` for CUDA.

    `gpu` is a name from `GPUS`, or the memory of a GPU in bytes.
    """
    if isinstance(gpu, str) and gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; choose one of {', '.join(GPUS)}, or give its bytes")
    size = GPUS[gpu] if isinstance(gpu, str) else positive("the bytes of a GPU", gpu)
    return max(0, size - RESERVE)
