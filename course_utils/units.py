"""Bytes in words: GB (10^9) and GiB (2^30), always labelled, never mixed.

7e9 parameters in float32 are 28 GB and 26.08 GiB. Both are right; "28 GiB" is not.
"""

from __future__ import annotations

MB, GB = 10**6, 10**9
MiB, GiB = 2**20, 2**30


def format_bytes(count: float, *, binary: bool = False) -> str:
    """Write a number of bytes in the largest unit that keeps it at 1 or above.

    count: bytes (B), may be negative for a difference.
    binary: False counts in B, kB, MB, GB, TB (powers of 1000); True in B, KiB … TiB (powers of
        1024).

    >>> format_bytes(28e9), format_bytes(28e9, binary=True)
    ('28.00 GB', '26.08 GiB')
    """
    base = 1024 if binary else 1000
    units = ("B", "KiB", "MiB", "GiB", "TiB") if binary else ("B", "kB", "MB", "GB", "TB")
    value, unit = float(count), 0
    while abs(value) >= base and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    return f"{value:,.0f} B" if unit == 0 else f"{value:,.2f} {units[unit]}"
