"""Define one line of the arithmetic: a number of bytes, with its formula and source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of the arithmetic: the bytes of a kind of tensor or buffer.

    Attributes:
        part: The part of the total that the line belongs to, such as "weights".
        what: The tensor or buffer that needs the bytes, such as "causal mask".
        size: Number of bytes (B), negative if the line is a subtraction.
        formula: The formula for the number of bytes, as text.
        source: The code or the paper that the formula follows.
    """

    part: str
    what: str
    size: int
    formula: str
    source: str


def total_bytes(lines: Iterable[Line]) -> int:
    """Return the total bytes of the given lines."""
    return sum(line.size for line in lines)
