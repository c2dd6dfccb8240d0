"""Write numbers of bytes in GB (10^9 bytes) or GiB (2^30 bytes), always with the unit.

7e9 parameters in float32 need 28 GB, which is 26.08 GiB. "28 GiB" would be wrong.
"""

from __future__ import annotations

# This module contains no conversion between units, because exercise 02 asks for such a conversion
# and students can always read this module.
MB, GB = 10**6, 10**9
MiB, GiB = 2**20, 2**30


def format_bytes(count: float, *, binary: bool = False, digits: int = 2) -> str:
    """Write a number of bytes in the largest unit in which the number is at least 1.

    Args:
        binary: False counts in B, kB, MB, GB and TB (powers of 1000); True counts in B, KiB, MiB,
            GiB and TiB (powers of 1024).
        digits: the number of digits after the decimal point, which a number in B doesn't have.

    Example:
        >>> format_bytes(28e9), format_bytes(28e9, binary=True), format_bytes(28e9, digits=0)
        ('28.00 GB', '26.08 GiB', '28 GB')
    """
    base = 1024 if binary else 1000
    units = ("B", "KiB", "MiB", "GiB", "TiB") if binary else ("B", "kB", "MB", "GB", "TB")
    value, unit = float(count), 0
    while abs(value) >= base and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    return f"{value:,.{digits if unit else 0}f} {units[unit]}"


def counted(number: int, one: str, several: str = "") -> str:
    """Write a number with its noun: `one`, or `several`, which is by default `one` with an s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
