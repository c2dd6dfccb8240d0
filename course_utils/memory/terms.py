"""Define `MemoryTerm`, one term of the sum that estimates the memory of a training step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "transient")
LOGITS, WORK, REST = "logits and loss", "a layer's backward pass", "CUDA and the rest"
# The groups into which figures and tables divide the memory at the peak.
GROUPS = (*PARTS[:-1], LOGITS, WORK, REST)


@dataclass(frozen=True)
class MemoryTerm:
    """One term of an estimate's sum: the bytes of one kind of tensor or buffer.

    Attributes:
        part: The part of the total that the term belongs to, such as "weights".
        name: The tensor or buffer that needs the bytes, such as "causal mask".
        size: Number of bytes (B), negative if the bytes are subtracted from the sum.
        formula: The formula for the number of bytes, as text.
        source: The code or the paper that the formula follows.
        group: The group of `GROUPS` that contains the bytes. The default is the part, or REST for
            the part "transient".
    """

    part: str
    name: str
    size: int
    formula: str
    source: str
    group: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            group = REST if self.part == "transient" else self.part
            object.__setattr__(self, "group", group)

    def __neg__(self) -> MemoryTerm:
        """Return the term that subtracts these bytes."""
        return replace(self, name=f"less: {self.name}", size=-self.size)


def product(
    part: str, name: str, source: str, *factors: int | tuple[int, str], group: str = ""
) -> MemoryTerm:
    """Return a term whose number of bytes is a product.

    Each factor is a number, or a number with the text that stands for it in the term's formula.
    """
    pairs = [each if isinstance(each, tuple) else (each, f"{each:,}") for each in factors]
    formula = " × ".join(text for _, text in pairs)
    return MemoryTerm(part, name, prod(number for number, _ in pairs), formula, source, group)


def of(number: int, unit: str) -> tuple[int, str]:
    """Return a factor with a unit, such as "2,048 tokens"."""
    return number, f"{number:,} {unit}"


def added(*numbers: int) -> tuple[int, str]:
    """Return a factor that is a sum, such as "(4,096 + 1,024)"."""
    return sum(numbers), f"({' + '.join(f'{number:,}' for number in numbers)})"


def total_bytes(terms: Iterable[MemoryTerm]) -> int:
    """Return the sum of the bytes of all terms."""
    return sum(term.size for term in terms)


def grouped(terms: Iterable[MemoryTerm]) -> dict[str, int]:
    """Return the total bytes of the terms in each group of `GROUPS`, 0 for an empty group."""
    sizes = dict.fromkeys(GROUPS, 0)
    for term in terms:
        sizes[term.group] += term.size
    return sizes
