"""One line of the arithmetic: so many bytes, with the formula and its source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of the arithmetic.

    Attributes:
        part: The part of the total that the line belongs to, such as "weights".
        what: What takes the bytes, such as "causal mask".
        size: Bytes (B); negative where the line subtracts something.
        formula: How the bytes were computed, as text.
        source: The code or the paper that the formula follows.
    """

    part: str
    what: str
    size: int
    formula: str
    source: str


def total_bytes(lines: Iterable[Line]) -> int:
    """Sum the bytes of some lines."""
    return sum(line.size for line in lines)
