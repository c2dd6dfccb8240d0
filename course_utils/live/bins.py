"""Show which numbers share a code: the levels, the bins and the errors of number formats.

`course_utils.quantization` computes the same values, but needs PyTorch.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any

from course_utils.live.controls import Control
from course_utils.live.markup import figure, percent, svg, table, text
from course_utils.palette import BLUE, SKY

FORMATS = {
    "nf": "NormalFloat",
    "int": "int: equal steps",
    "fp4": "FP4, bitsandbytes",
    "ocp": "FP4, OCP (E2M1)",
}
# The positive values of the two kinds of 4-bit floating-point numbers.
FP4 = {"fp4": (0.0625, 2, 3, 4, 6, 8, 12), "ocp": (0.5, 1, 1.5, 2, 3, 4, 6)}
DISTRIBUTIONS = {
    "normal": "normal, like most weights",
    "uniform": "uniform",
    "heavy tails": "heavy tails (Student's t)",
}
# The number of random numbers that are drawn from a distribution and quantized.
SAMPLE_SIZE = 2**13
# The size of the picture in CSS pixels.
WIDTH, HEIGHT = 640, 150

CONTROLS = {
    "form": Control("Format", "nf", FORMATS),
    "other": Control("Compare with", "int", FORMATS),
    "bits": Control("Bits", 4, least=2, most=8, help="FP4 always has 4 bits."),
    "block_size": Control("Numbers in a block", 64, {2**n: f"{2**n:,}" for n in range(4, 13)}),
    "distribution": Control("Numbers", "normal", DISTRIBUTIONS),
}


def levels(form: str, bits: int) -> list[float]:
    """Return the levels of a format, ascending in [-1, 1].

    Args:
        form: A key of FORMATS. The two FP4 formats always have 4 bits.
        bits: Number of bits of a code.
    """
    if form in FP4:
        positive = [value / FP4[form][-1] for value in FP4[form]]
    elif form == "int":
        most = 2 ** (bits - 1) - 1
        positive = [n / most for n in range(1, most + 1)]
    else:
        return _normal_float(2**bits)
    return [*(-level for level in reversed(positive)), 0.0, *positive]


def _normal_float(count: int) -> list[float]:
    """Return the levels of NormalFloat: quantiles of N(0, 1), divided by the largest quantile.

    See `quantization.normal_float` for the choice of the quantiles.
    """
    delta = 1 - (1 / (2 * (count - 1)) + 1 / (2 * count)) / 2

    def one_side(steps: int) -> list[float]:
        shares = (0.5 + (delta - 0.5) * n / steps for n in range(1, steps + 1))
        return [NormalDist().inv_cdf(share) for share in shares]

    above, below = one_side(count // 2), one_side(count // 2 - 1)
    quantiles = [*(-level for level in reversed(below)), 0.0, *above]
    return [level / above[-1] for level in quantiles]


@lru_cache(maxsize=len(DISTRIBUTIONS))
def sample(distribution: str) -> tuple[float, ...]:
    """Return SAMPLE_SIZE random numbers; every call returns the same numbers."""
    generator = random.Random(0)
    if distribution == "uniform":
        return tuple(generator.uniform(-1, 1) for _ in range(SAMPLE_SIZE))
    if distribution == "normal":
        return tuple(generator.gauss(0, 1) for _ in range(SAMPLE_SIZE))
    # Student's t distribution with 4 degrees of freedom. A gamma variable with shape 2 and scale 2
    # has the chi-squared distribution with 4 degrees of freedom.
    return tuple(
        generator.gauss(0, 1) / math.sqrt(generator.gammavariate(2, 2) / 4)
        for _ in range(SAMPLE_SIZE)
    )


@dataclass(frozen=True)
class Result:
    """Numbers after quantization in a format.

    Attributes:
        levels: The levels of the format.
        share: For each level, the share of the numbers that get its code.
        error: The sum of the squared errors, divided by the sum of the squared numbers.
    """

    levels: Sequence[float]
    share: Sequence[float]
    error: float

    @property
    def edges(self) -> list[float]:
        """The edges of the bins of all levels in [-1, 1]."""
        return [-1.0, *((a + b) / 2 for a, b in pairwise(self.levels)), 1.0]

    @property
    def entropy(self) -> float:
        """The entropy of the codes, in bits."""
        return -sum(p * math.log2(p) for p in self.share if p)


@lru_cache(maxsize=64)
def quantized(form: str, bits: int, block_size: int, distribution: str) -> Result:
    """Quantize the sample of a distribution. Each block is divided by its absmax."""
    book = levels(form, bits)
    borders = [(a + b) / 2 for a, b in pairwise(book)]
    x = sample(distribution)
    counts, error = [0] * len(book), 0.0
    for start in range(0, SAMPLE_SIZE, block_size):
        block = x[start : start + block_size]
        absmax = max(map(abs, block))
        for number in block:
            code = bisect_left(borders, number / absmax)
            counts[code] += 1
            error += (book[code] * absmax - number) ** 2
    share = [count / SAMPLE_SIZE for count in counts]
    return Result(book, share, error / sum(number**2 for number in x))


def answer(values: Mapping[str, Any]) -> str:
    """Return the answer as HTML: both errors, pictures of the bins, and tables of all numbers.

    Args:
        values: The value of each control in CONTROLS.
    """
    setting = values["bits"], values["block_size"], values["distribution"]
    form, other = values["form"], values["other"]
    first, second = quantized(form, *setting), quantized(other, *setting)
    bits = {name: 4 if name in FP4 else values["bits"] for name in (form, other)}
    verdict = (
        f'<p class="live-verdict" data-say><strong>{text(FORMATS[form])} has a squared error of '
        f"{percent(first.error)}.</strong> {text(FORMATS[other])} has {percent(second.error)}, for "
        f"the same {SAMPLE_SIZE:,} numbers in blocks of {values['block_size']:,}.</p>"
    )
    pictures = "".join(
        _picture(f"{FORMATS[name]}, {bits[name]} bits", result)
        for name, result in {form: first, other: second}.items()
    )
    head = ("result", *(f"{FORMATS[name]}, {bits[name]} bits" for name in (form, other)))
    columns = _column(first, bits[form]), _column(second, bits[other])
    rows = zip(NAMES, *columns, strict=True)
    codes = (
        f"<details><summary>Every code of {text(FORMATS[form])}</summary>{_codes(first)}</details>"
    )
    return verdict + pictures + table(head, rows) + codes


NAMES = (
    "squared error",
    "bits per number",
    "levels",
    "width of the bins",
    "use of a code",
    "entropy",
)


def _column(result: Result, bits: int) -> tuple[str, ...]:
    """Return the numbers of a result as texts, in the order of NAMES."""
    widths = [b - a for a, b in pairwise(result.edges)]
    return (
        f"{result.error:.3%}",
        f"{bits}",
        f"{len(result.levels)} of {2**bits} codes",
        f"{min(widths):.4f} to {max(widths):.4f}",
        f"{min(result.share):.1%} to {max(result.share):.1%}",
        f"{result.entropy:.3f} of {bits} bits",
    )


def _codes(result: Result) -> str:
    rows = (
        (f"{code}", f"{level:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{share:.2%}")
        for code, (level, (low, high), share) in enumerate(
            zip(result.levels, pairwise(result.edges), result.share, strict=True)
        )
    )
    return table(("code", "level", "bin", "share of the numbers"), rows)


def _picture(title: str, result: Result) -> str:
    """Return a chart with a bar for each code. Its height shows the share of numbers in the bin."""
    highest = max(result.share)
    bins = zip(pairwise(result.edges), result.share, strict=True)
    bars = "".join(
        _bar(low, high, share / highest, SKY if n % 2 else BLUE)
        for n, ((low, high), share) in enumerate(bins)
    )
    ticks = "".join(f"M{_x(level):.2f} {HEIGHT}v9" for level in result.levels)
    ends = "".join(
        f'<text x="{x}" y="{HEIGHT + 24}" text-anchor="{side}">{words}</text>'
        for x, side, words in ((0, "start", "−1"), (WIDTH / 2, "middle", "0"), (WIDTH, "end", "1"))
    )
    body = svg(WIDTH, HEIGHT + 28, f'{bars}<path class="line" d="{ticks}"/>{ends}')
    alt = (
        f"{title}: {len(result.levels)} bins between -1 and 1. The codes have from "
        f"{min(result.share):.1%} to {highest:.1%} of the numbers."
    )
    return figure(alt, f"<p>{text(title)}: share of the numbers in each bin</p>{body}", "bins")


def _x(number: float) -> float:
    """Return the x coordinate of a number from -1 to 1."""
    return WIDTH * (number + 1) / 2


def _bar(low: float, high: float, tall: float, colour: str) -> str:
    """Return a bar from `low` to `high`; `tall` is its height as a share of the chart's height."""
    x, wide, y = _x(low), _x(high) - _x(low), HEIGHT * (1 - tall)
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{HEIGHT - y:.2f}" '
        f'fill="{colour}"/>'
    )
