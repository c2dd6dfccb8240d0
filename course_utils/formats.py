"""Compute the levels of number formats, and round numbers to them, without PyTorch.

    numbers, levels, block size ──► `rounded` ──► `Rounding`: codes, constants, error, use of codes

`course_utils.quantization` uses the same levels for tensors. This module needs only Python's
standard library, so it also runs in the browser of a reader of the website.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

# The levels of NF4 (QLoRA, appendix E), with as many digits as in bitsandbytes.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# The absolute values of E2M1, in the order of their bits: two exponent bits and one mantissa bit.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# The positive values of the two kinds of 4-bit floating-point numbers.
FP4 = {"ocp": E2M1[1:], "bitsandbytes": (0.0625, 2, 3, 4, 6, 8, 12)}
# The smallest number by which bitsandbytes divides a block, even if the block has only zeros.
TINY = 1e-38


def normal_float_quantiles(bits: int) -> list[float]:
    """Return the quantiles of N(0, 1) from which `normal_float` is made, in standard deviations.

    The positive ones are the quantiles of 2^(bits-1) equally spaced probabilities from δ down to ½,
    where ½ itself is excluded. The negative ones are made in the same way from one probability
    less, and zero is between them. δ is the mean of 1 - 1/(2n) for n = 2^bits and n = 2^bits - 1:
    for 4 bits 929/960, as in bitsandbytes' create_normal_map.
    """
    count = 2**bits
    delta = 1 - (1 / (2 * (count - 1)) + 1 / (2 * count)) / 2

    def one_side(steps: int) -> list[float]:
        shares = (0.5 + (delta - 0.5) * n / steps for n in range(1, steps + 1))
        return [NormalDist().inv_cdf(share) for share in shares]

    below, above = one_side(count // 2 - 1), one_side(count // 2)
    return [*(-quantile for quantile in reversed(below)), 0.0, *above]


def normal_float(bits: int) -> list[float]:
    """Return the 2^bits levels of a NormalFloat: its quantiles, divided by the largest one."""
    quantiles = normal_float_quantiles(bits)
    return [quantile / quantiles[-1] for quantile in quantiles]


def linear(bits: int) -> list[float]:
    """Return 2^bits - 1 equally spaced levels, so that zero is one of them: -7/7 … 7/7."""
    most = 2 ** (bits - 1) - 1
    return [n / most for n in range(-most, most + 1)]


def fp4(kind: str) -> list[float]:
    """Return the 15 distinct values of a kind of FP4, divided by the largest one."""
    positive = [value / FP4[kind][-1] for value in FP4[kind]]
    return [*(-value for value in reversed(positive)), 0.0, *positive]


# --- rounding -------------------------------------------------------------------------------------

NAMES = {
    "int": "int: equal steps",
    "nf": "NormalFloat",
    "fp4": "FP4, bitsandbytes",
    "ocp": "FP4, OCP (E2M1)",
}
# These formats always have 4 bits.
FOUR_BITS = ("fp4", "ocp")


def levels_of(form: str, bits: int) -> list[float]:
    """Return the levels of a format in NAMES, ascending in [-1, 1]."""
    match form:
        case "int":
            return linear(bits)
        case "nf":
            return normal_float(bits)
        case _:
            return fp4("bitsandbytes" if form == "fp4" else form)


@dataclass(frozen=True)
class Rounding:
    """Numbers that were rounded to the levels of a format, in blocks.

    Attributes:
        numbers: The numbers before rounding.
        levels: The levels, ascending in [-1, 1].
        block_size: The number of numbers that share a constant.
        absmax: The constant of each block: the largest absolute value of its numbers.
        codes: For each number, the index of the level that is nearest to number / absmax.
    """

    numbers: Sequence[float]
    levels: Sequence[float]
    block_size: int
    absmax: Sequence[float]
    codes: Sequence[int]

    @property
    def scaled(self) -> list[float]:
        """Each number divided by the constant of its block, in [-1, 1]."""
        return [x / self.absmax[n // self.block_size] for n, x in enumerate(self.numbers)]

    @property
    def restored(self) -> list[float]:
        """Each number after rounding: level · absmax."""
        size = self.block_size
        return [self.levels[c] * self.absmax[n // size] for n, c in enumerate(self.codes)]

    @property
    def error(self) -> float:
        """The sum of the squared errors, divided by the sum of the squared numbers."""
        pairs = zip(self.numbers, self.restored, strict=True)
        return sum((x - y) ** 2 for x, y in pairs) / max(sum(x**2 for x in self.numbers), TINY)

    @property
    def edges(self) -> list[float]:
        """The edges of the bins of all levels in [-1, 1]."""
        return [-1.0, *midpoints(self.levels), 1.0]

    @property
    def share(self) -> list[float]:
        """For each level, the share of the numbers that have its code."""
        counts = Counter(self.codes)
        return [counts[code] / len(self.codes) for code in range(len(self.levels))]

    def lines(self, bits: int) -> dict[str, str]:
        """Return the results for a format of so many bits: the name of each result → its text."""
        widths = [b - a for a, b in pairwise(self.edges)]
        share, count = self.share, len(self.numbers)
        mean = sum(self.numbers) / count
        deviation = math.sqrt(sum((x - mean) ** 2 for x in self.numbers) / (count - 1))
        absmax = sum(self.absmax) / len(self.absmax)
        constants = 32 / self.block_size
        return {
            "squared error": f"{self.error:.3%} of the squared numbers",
            "bits per number": f"{bits} + {constants:g} = {bits + constants:g}",
            "levels": f"{len(self.levels)} of {2**bits} codes",
            "bins": f"from {min(widths):.4f} to {max(widths):.4f} wide",
            "use of each code": f"from {min(share):.1%} to {max(share):.1%} of the numbers",
            "even use": f"{1 / len(self.levels):.1%}",
            "entropy": f"{-sum(p * math.log2(p) for p in share if p):.3f} of {bits} bits",
            "mean absmax": f"{absmax / deviation:.2f} standard deviations",
        }


def midpoints(levels: Sequence[float]) -> list[float]:
    """Return the midpoints of neighbouring levels, which are the borders between their bins."""
    return [(a + b) / 2 for a, b in pairwise(levels)]


def rounded(numbers: Sequence[float], levels: Sequence[float], block_size: int) -> Rounding:
    """Round two or more numbers to ascending levels in [-1, 1], block by block.

    The last block may be shorter than the others.
    """
    borders = midpoints(levels)
    blocks = [numbers[n : n + block_size] for n in range(0, len(numbers), block_size)]
    absmax = [max(TINY, max(map(abs, block))) for block in blocks]
    pairs = zip(blocks, absmax, strict=True)
    codes = [bisect_left(borders, x / constant) for block, constant in pairs for x in block]
    return Rounding(numbers, levels, block_size, absmax, codes)
