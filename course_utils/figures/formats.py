"""Draw the bits of a number in the floating-point formats of training (lecture 00)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from course_utils.figures.base import Picture
from course_utils.figures.canvas import NOTE, Canvas
from course_utils.palette import CONSTANTS, GREY, WEIGHTS

if TYPE_CHECKING:
    import torch

# The number of bits of the exponent of each format, by PyTorch's name of the format.
EXPONENT_BITS = {"float32": 8, "bfloat16": 8, "float16": 5}
# The colours of the sign, the exponent and the mantissa. The exponent scales the mantissa, as the
# constants of quantized weights scale the codes.
SIGN, EXPONENT, MANTISSA = GREY, CONSTANTS, WEIGHTS


def number_formats(value: float, title: str = "") -> Picture:
    """Draw the bits of a number in float32, bfloat16 and float16, and the number that is stored.

    Args:
        value: the number.
    """
    import torch

    canvas = Canvas(504, 208, title)
    side, left = 13.3, 72.0
    descriptions = []
    legend = {"sign": SIGN, "exponent: how large": EXPONENT, "mantissa: which digits": MANTISSA}
    canvas.legend((left, 4), legend, 9, NOTE)
    for n, (name, exponent) in enumerate(EXPONENT_BITS.items()):
        y = 26.0 + 62 * n
        dtype = getattr(torch, name)
        bits, stored = stored_bits(value, dtype)
        canvas.text((2, y + side / 2 + 2), name, weight="bold", ha="left")
        for k, bit in enumerate(bits):
            colour = SIGN if not k else EXPONENT if k <= exponent else MANTISSA
            canvas.box(
                (left + k * side, y), (side - 1.3, 17), bit, face=colour, edge="none", text_size=8.5
            )
        shown = f"stores {_in_powers(stored, 10)}"
        if math.isfinite(stored) and value and stored != value:
            shown += f", relative error {_in_powers(abs(stored / value - 1), 2)}"
        canvas.text((left, y + 27), shown, ha="left", weight="bold")
        limits = torch.finfo(dtype)
        extent = f"range {_in_powers(limits.smallest_normal)} to {_in_powers(limits.max)}"
        mantissa = len(bits) - 1 - exponent
        sizes = f"exponent {exponent} bits, mantissa {mantissa} bits; {extent}"
        canvas.text((left, y + 42), sizes, size=NOTE, ha="left")
        descriptions.append(
            f"{name}: sign {bits[0]}, exponent {bits[1 : 1 + exponent]}, mantissa "
            f"{bits[1 + exponent :]}, {shown}; {extent}"
        )
    return canvas.picture(f"The bits of {value:,.10g}. {'. '.join(descriptions)}.")


def stored_bits(value: float, dtype: torch.dtype) -> tuple[str, float]:
    """Return the bits with which PyTorch stores `value` in a format, and the stored number.

    Both 16-bit formats are rounded from float32, as a weight is.
    """
    import torch

    stored = torch.tensor(value, dtype=torch.float32).to(dtype)
    width = 8 * dtype.itemsize
    whole = stored.view(torch.int32 if width == 32 else torch.int16).item()
    return f"{whole % 2**width:0{width}b}", stored.item()


def _in_powers(number: float, digits: int = 2) -> str:
    """Write a number with `digits` digits, and with a power of ten if it is extreme."""
    plain = f"{number:,.{digits}g}"
    if "e" not in plain:
        return plain
    if abs(number) >= 1 and abs(number) < 1e6:
        return f"{number:,.0f}"
    factor, power = plain.split("e")
    exponent = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{factor} × 10{exponent}"
