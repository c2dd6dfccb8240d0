"""Draw what rounding does to an update that is merged into a weight (lecture 07)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from course_utils.figures.base import Picture
from course_utils.figures.canvas import NOTE, Canvas
from course_utils.palette import ADAPTERS, CONSTANTS, GREY, INK, WEIGHTS

# The width of the picture, and the left and right end of its number lines, in points.
WIDTH, LEFT, RIGHT = 468, 22, 446


class _Line(NamedTuple):
    """A part of a number line: the numbers of a format, what is rounded, and the result."""

    numbers: Sequence[float]
    window: tuple[float, float]
    weight: float
    total: float

    def x(self, number: float) -> float:
        """Return where a number is on the canvas, in points."""
        low, high = self.window
        return LEFT + (number - low) / (high - low) * (RIGHT - LEFT)

    def nearest(self, number: float) -> float:
        return min(self.numbers, key=lambda other: abs(other - number))

    def left(self) -> float:
        """Return the share of the update that rounding leaves."""
        # Adding 0.0 turns -0.0 into 0.0.
        return (self.nearest(self.total) - self.weight) / (self.total - self.weight) + 0.0


def rounding_line(
    levels: Sequence[float], weight: float, update: float, title: str = ""
) -> Picture:
    """Draw the update of a weight on the number line of NF4, and magnified on bfloat16's.

        NF4       |         :     ●→   :       |      the update ends before a midpoint (:)
        bfloat16  |   |   |   ●———————→   |   |       magnified, it passes several numbers

    The weight is exactly on a level, as all weights of a dequantized model are. NF4 rounds every
    sum in the coloured area back to the weight. A ring marks the number to which weight + update is
    rounded.

    Args:
        levels: the levels of NF4 times the constant of the weight's block, in ascending order.
        weight: one of the levels, but neither zero nor the first or last level.
        update: what is added to the weight: not zero, and at most half as large as the weight.
    """
    inner = [level for level in levels[1:-1] if level != 0]
    if weight not in inner:
        raise ValueError(f"weight must be one of the inner levels {inner}, got {weight}")
    if not 0 < abs(update) <= abs(weight) / 2:
        raise ValueError(
            f"update must be at most half as large as the weight {weight}, but not 0: got {update}"
        )
    total, place = weight + update, levels.index(weight)
    margin = 0.1 * (levels[place + 1] - levels[place - 1])
    around = levels[place - 1] - margin, levels[place + 1] + margin
    coarse = _Line(levels, around, weight, total)
    fine = _magnified(weight, total)
    close = fine.window

    canvas = Canvas(WIDTH, 208, title)
    middles = [coarse.x((weight + levels[place + side]) / 2) for side in (-1, 1)]
    canvas.rectangle((middles[0], 42), (middles[1] - middles[0], 24), CONSTANTS, alpha=0.4)
    for middle in middles:
        canvas.line([(middle, 38), (middle, 70)], dashed=True)
        canvas.text((middle, 80), "midpoint", size=NOTE)
    for level in levels[place - 1 : place + 2]:
        canvas.text((coarse.x(level), 80), _signed(level), size=NOTE)
    for end, corner in zip(close, (LEFT, RIGHT), strict=True):
        canvas.line([(coarse.x(end), 88), (corner, 148)], GREY, 0.8)
    _draw(canvas, 54, coarse)
    _draw(canvas, 160, fine)
    zoom = (around[1] - around[0]) / (close[1] - close[0])
    _caption(canvas, 8, "NF4", coarse)
    _caption(canvas, 192, f"bfloat16, magnified {zoom:.0f} times", fine)
    neighbour = levels[place + (1 if update > 0 else -1)]
    return canvas.picture(_described(coarse, neighbour, fine))


def _magnified(weight: float, total: float) -> _Line:
    """Return the part of bfloat16's line around an update, with the nearest number."""
    import torch

    nearest = torch.tensor(total).bfloat16().item()
    low, high = min(weight, total, nearest), max(weight, total, nearest)
    window = low - 0.6 * (high - low), high + 0.6 * (high - low)
    # The window doesn't contain zero, so the numbers in it have consecutive bits.
    first, last = sorted(torch.tensor(window).bfloat16().view(torch.int16).tolist())
    numbers = torch.arange(first, last + 1, dtype=torch.int16).view(torch.bfloat16)
    return _Line(numbers.tolist(), window, weight, total)


def _draw(canvas: Canvas, y: float, line: _Line) -> None:
    """Draw a number line at the height y, with the update as an arrow above it."""
    canvas.line([(LEFT - 20, y), (RIGHT + 20, y)], GREY)
    for number in line.numbers:
        if line.window[0] <= number <= line.window[1]:
            canvas.line([(line.x(number), y - 7), (line.x(number), y + 7)])
    start, end, result = (line.x(n) for n in (line.weight, line.total, line.nearest(line.total)))
    canvas.axes.scatter([start], [y], s=45, color=WEIGHTS, zorder=3)
    canvas.axes.scatter([result], [y], s=120, facecolors="none", edgecolors=INK, zorder=3)
    canvas.arrow([(start, y - 14), (end, y - 14)], ADAPTERS, width=2)
    canvas.text(((start + end) / 2, y - 24), f"update {_signed(line.total - line.weight, '+')}")


def _caption(canvas: Canvas, y: float, heading: str, line: _Line) -> None:
    canvas.text((2, y), heading, weight="bold", ha="left")
    result = f"rounded to {_signed(line.nearest(line.total))}: {line.left():.0%} of the update left"
    canvas.text((WIDTH - 2, y), result, ha="right")


def _signed(number: float, plus: str = "") -> str:
    """Write a number with four decimals and a minus sign that is as long as a plus sign."""
    return f"{number:{plus}.4f}".replace("-", "−")


def _described(coarse: _Line, neighbour: float, fine: _Line) -> str:
    weight, update = coarse.weight, coarse.total - coarse.weight
    reach = abs(update) / (abs(neighbour - weight) / 2)
    passed = sum(min(weight, fine.total) < n < max(weight, fine.total) for n in fine.numbers)
    return (
        f"Two number lines. In NF4 the weight {_signed(weight)} is on a level, and the next level "
        f"in the direction of the update is {_signed(neighbour)}. The update "
        f"{_signed(update, '+')} covers {reach:.0%} of the way to the midpoint, so the sum is "
        f"rounded to {_signed(coarse.nearest(coarse.total))}: {coarse.left():.0%} of the update is "
        f"left. In bfloat16 the update passes {passed} numbers, and the sum is rounded to "
        f"{_signed(fine.nearest(fine.total))}: {fine.left():.0%} of the update is left."
    )
