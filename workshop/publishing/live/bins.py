"""Show which numbers share a code: the levels, the bins and the errors of two number formats."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from course_utils.formats import FOUR_BITS, NAMES, Rounding, levels_of, rounded
from course_utils.notebook.controls import Control, same
from course_utils.palette import BLUE, SKY
from workshop.publishing.live.markup import figure, table, text

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
    "form": Control("Format", "nf", NAMES),
    "other": Control("Compare with", "int", NAMES),
    "bits": Control("Bits", 4, least=2, most=8, help="FP4 always has 4 bits."),
    "block_size": Control("Numbers in a block", 64, same(2**n for n in range(4, 13))),
    "distribution": Control("Numbers", "normal", DISTRIBUTIONS),
}


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


@lru_cache(maxsize=64)
def quantized(form: str, bits: int, block_size: int, distribution: str) -> Rounding:
    """Return the sample of a distribution, rounded to the levels of a format."""
    return rounded(sample(distribution), levels_of(form, bits), block_size)


def answer(values: Mapping[str, Any]) -> str:
    """Return the answer as HTML: both errors, pictures of the bins, and tables of all numbers."""
    setting = values["bits"], values["block_size"], values["distribution"]
    forms = values["form"], values["other"]
    first, second = (quantized(form, *setting) for form in forms)
    bits = [4 if form in FOUR_BITS else values["bits"] for form in forms]
    names = [f"{NAMES[form]}, {n} bits" for form, n in zip(forms, bits, strict=True)]
    verdict = (
        f'<p class="live-verdict" data-say><strong>{text(NAMES[forms[0]])} has a squared error of '
        f"{first.error:.2%}.</strong> {text(NAMES[forms[1]])} has {second.error:.2%}, for the same "
        f"{SAMPLE_SIZE:,} numbers in blocks of {values['block_size']:,}.</p>"
    )
    pictures = _picture(names[0], first) + _picture(names[1], second)
    lines, others = first.lines(bits[0]), second.lines(bits[1])
    results = table(("result", *names), ((name, lines[name], others[name]) for name in lines))
    title = text(f"Every code of {NAMES[forms[0]]}")
    return (
        f"{verdict}{pictures}{results}<details><summary>{title}</summary>{_codes(first)}</details>"
    )


def _codes(found: Rounding) -> str:
    rows = (
        (f"{code}", f"{level:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{share:.2%}")
        for code, (level, (low, high), share) in enumerate(
            zip(found.levels, pairwise(found.edges), found.share, strict=True)
        )
    )
    return table(("code", "level", "bin", "share of the numbers"), rows)


def _picture(title: str, found: Rounding) -> str:
    """Return a chart with a bar for each code. Its height shows the share of numbers in the bin."""
    share = found.share
    highest = max(share)
    shapes = []
    for n, ((low, high), part) in enumerate(zip(pairwise(found.edges), share, strict=True)):
        tall = HEIGHT * part / highest
        shapes.append(
            f'<rect x="{_x(low):.2f}" y="{HEIGHT - tall:.2f}" width="{_x(high) - _x(low):.2f}" '
            f'height="{tall:.2f}" fill="{SKY if n % 2 else BLUE}"/>'
        )
    ticks = "".join(f"M{_x(level):.2f} {HEIGHT}v9" for level in found.levels)
    shapes.append(f'<path class="line" d="{ticks}"/>')
    for x, side, words in ((0, "start", "−1"), (WIDTH / 2, "middle", "0"), (WIDTH, "end", "1")):
        shapes.append(f'<text x="{x}" y="{HEIGHT + 24}" text-anchor="{side}">{words}</text>')
    drawing = (
        f'<svg aria-hidden="true" viewBox="0 0 {WIDTH} {HEIGHT + 28}" '
        f'style="max-width:{WIDTH}px" xmlns="http://www.w3.org/2000/svg">{"".join(shapes)}</svg>'
    )
    alt = (
        f"{title}: {len(found.levels)} bins between -1 and 1. The codes have from "
        f"{min(share):.1%} to {highest:.1%} of the numbers."
    )
    return figure(alt, f"<p>{text(title)}: share of the numbers in each bin</p>{drawing}", "bins")


def _x(number: float) -> float:
    """Return the x coordinate of a number from -1 to 1."""
    return WIDTH * (number + 1) / 2
