"""List GPUs with their memory, bus and speed, and compute how much memory tensors can use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from course_utils.machine.units import MB, GiB, MiB
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

    @classmethod
    def of(cls, gpu: str | int) -> GPU:
        """Return a GPU, given its name, its size with a unit, or its bytes.

        The names are in `GPUS` and `MORE_GPUS`; case, spaces, "NVIDIA" and "RTX" don't matter.
        "12 GiB" is exact. "12 GB" is the advertised size, and counts as 12 × `ADVERTISED_GB`.
        """
        if not isinstance(gpu, str):
            known = gpu if isinstance(gpu, GPU) else cls(positive("the bytes of a GPU", gpu))
        elif size := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)\s*(gb|gib|mib)", gpu.strip().lower()):
            known = cls(int(float(size[1]) * _UNITS[size[2]]))
        else:
            known = _named(gpu)
        if known < MB:
            raise ValueError(
                f'{gpu!r} is too little memory for a GPU; write its unit, as in "12 GB"'
            )
        return known


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
# The bytes that count for each advertised GB. A vendor's GB is a GiB. PyTorch reports only 91% of
# it on a T4, because error correction needs memory there, and 98% on the other GPUs in `GPUS`.
ADVERTISED_GB = 0.91 * GiB
# Other GPUs, by their advertised GB. Their bus and speed are not listed.
MORE_GPUS = {
    name: GPU(int(advertised * ADVERTISED_GB))
    for name, advertised in {
        "RTX 4060": 8,
        "RTX 3060": 12,
        "RTX 4080": 16,
        "V100": 16,
        "RTX 3090": 24,
        "A10G": 24,
        "L4": 24,
        "RTX 5090": 32,
        "A6000": 48,
        "L40S": 48,
        "RTX PRO 6000": 96,
        "H200": 141,
    }.items()
}
_UNITS = {"gb": ADVERTISED_GB, "gib": GiB, "mib": MiB}
# The CUDA context and the driver need about this many bytes of a GPU's memory.
RESERVE = GiB // 2


def usable_bytes(gpu: str | int) -> int:
    """Return the bytes of a GPU that tensors can use: all its memory except `RESERVE` for CUDA.

    `gpu` is a name, a size such as "12 GB", or the GPU's memory in bytes, as in `GPU.of`.
    """
    return max(0, GPU.of(gpu) - RESERVE)


def _named(name: str) -> GPU:
    """Return a GPU by its name. "A100" is ambiguous: the names of two GPUs begin with it."""
    table = GPUS | MORE_GPUS
    key = _plain(name)
    found = [other for other in table if key in (_plain(other), _plain(other.partition("-")[0]))]
    if len(found) == 1:
        return table[found[0]]
    choices = " or ".join(found) if found else f"one of {', '.join(table)}"
    problem = "ambiguous" if found else "unknown"
    raise ValueError(f'{problem} GPU {name!r}; choose {choices}, or write its size, as in "12 GB"')


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|rtx|[\s-]|gb$", "", name.lower())


# The bytes that tensors can use on each GPU, from the smallest GPU to the largest.
USABLE = {name: usable_bytes(name) for name in sorted(GPUS | MORE_GPUS, key=usable_bytes)}
