"""Define `MemoryTerm`, one term of the sum that estimates the memory of a training step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryTerm:
    """One term of an estimate's sum: the bytes of one kind of tensor or buffer.

    Attributes:
        part: The part of the total that the term belongs to, such as "weights".
        name: The tensor or buffer that needs the bytes, such as "causal mask".
        size: Number of bytes (B), negative if the bytes are subtracted from the sum.
        formula: The formula for the number of bytes, as text.
        source: The code or the paper that the formula follows.
    """

    part: str
    name: str
    size: int
    formula: str
    source: str


def total_bytes(terms: Iterable[MemoryTerm]) -> int:
    """Return the sum of the bytes of all terms."""
    return sum(term.size for term in terms)
