"""Draw the bits of a number in the floating-point formats of training (lecture 00)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from course_utils.figures.base import Picture
from course_utils.figures.canvas import NOTE, Canvas
from course_utils.palette import CONSTANTS, GREY, WEIGHTS


class NumberFormat(NamedTuple):
    """A floating-point format of IEEE 754, or a prefix of float32 such as bfloat16.

    Attributes:
        name: the name of the format.
        exponent: the number of bits of the exponent.
        mantissa: the number of bits of the mantissa.
        stored: NumPy's type of the numbers whose first bits are the format's bits.
    """

    name: str
    exponent: int
    mantissa: int
    stored: type[np.floating] = np.float32

    @property
    def unused(self) -> int:
        """The number of bits of `stored` that are not bits of the format."""
        return 8 * np.dtype(self.stored).itemsize - 1 - self.exponent - self.mantissa

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return self.value("0" + "1" * (self.exponent - 1) + "0" + "1" * self.mantissa)

    @property
    def smallest(self) -> float:
        """The smallest positive number with full precision (the smallest normal number)."""
        return self.value("0" * self.exponent + "1" + "0" * self.mantissa)

    def bits(self, value: float) -> str:
        """Return the bits of the number of this format that is nearest to `value`.

        Of two numbers that are equally near, the number whose last bit is 0 is chosen. Numbers
        beyond the largest number become infinite.
        """
        with np.errstate(over="ignore"):
            number = self.stored(value)
        code = int.from_bytes(number.tobytes(), "little")
        if unused := self.unused:
            # This sum carries into the bits that are kept if the others are more than half of the
            # last kept bit, or exactly half of it and it is 1.
            code += 2 ** (unused - 1) - 1 + (code >> unused) % 2
        return f"{code >> unused:0{1 + self.exponent + self.mantissa}b}"

    def value(self, bits: str) -> float:
        """Return the number that has these bits."""
        code = int(bits, 2) << self.unused
        size = np.dtype(self.stored).itemsize
        return float(np.frombuffer(code.to_bytes(size, "little"), self.stored)[0])


FORMATS = (
    NumberFormat("float32", 8, 23),
    NumberFormat("bfloat16", 8, 7),
    NumberFormat("float16", 5, 10, np.float16),
)
# The colours of the sign, the exponent and the mantissa. The exponent scales the mantissa, as the
# constants of quantized weights scale the codes.
SIGN, EXPONENT, MANTISSA = GREY, CONSTANTS, WEIGHTS


def number_formats(value: float, title: str = "") -> Picture:
    """Draw the bits of a number in float32, bfloat16 and float16, and the number that is stored.

    Args:
        value: the number.
    """
    canvas = Canvas(504, 208, title)
    side, left = 13.3, 72.0
    descriptions = []
    legend = {"sign": SIGN, "exponent: how large": EXPONENT, "mantissa: which digits": MANTISSA}
    canvas.legend((left, 4), legend, 9, NOTE)
    for n, form in enumerate(FORMATS):
        y = 26.0 + 62 * n
        bits = form.bits(value)
        stored = form.value(bits)
        canvas.text((2, y + side / 2 + 2), form.name, weight="bold", ha="left")
        for k, bit in enumerate(bits):
            colour = SIGN if not k else EXPONENT if k <= form.exponent else MANTISSA
            canvas.box(
                (left + k * side, y), (side - 1.3, 17), bit, face=colour, edge="none", text_size=8.5
            )
        shown = f"stores {_in_powers(stored, 10)}"
        if np.isfinite(stored) and value and stored != value:
            shown += f", relative error {_in_powers(abs(stored / value - 1), 2)}"
        canvas.text((left, y + 27), shown, ha="left", weight="bold")
        extent = f"range {_in_powers(form.smallest)} to {_in_powers(form.largest)}"
        sizes = f"exponent {form.exponent} bits, mantissa {form.mantissa} bits; {extent}"
        canvas.text((left, y + 42), sizes, size=NOTE, ha="left")
        sign, exponent, mantissa = bits[0], bits[1 : 1 + form.exponent], bits[1 + form.exponent :]
        descriptions.append(
            f"{form.name}: sign {sign}, exponent {exponent}, mantissa {mantissa}, {shown}; {extent}"
        )
    return canvas.picture(f"The bits of {value:,.10g}. {'. '.join(descriptions)}.")


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
