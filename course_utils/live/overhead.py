"""Show what the constants of quantization cost, with and without double quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course_utils.live.controls import Control
from course_utils.live.markup import figure, legend, numbers, stacked_bar, text
from course_utils.memory import PRESETS, ModelShape
from course_utils.palette import colours
from course_utils.units import format_bytes
from course_utils.validation import check_choice, check_number

# In these models, all weights count as quantized, as in the slides and the papers.
WEIGHT_COUNTS = {"7b": 7 * 10**9, "65b": 65 * 10**9}
CODE_BITS = 4
# The block sizes of bitsandbytes, and 16 for comparison.
SMALL_BLOCKS = tuple(2**n for n in range(4, 13))
MAX_CONSTANT_BITS, MAX_NESTED_BITS, MAX_NESTED_SIZE = 64, 16, 2**20

CONTROLS = {
    "model": Control("Model", "7b", {name: name for name in (*WEIGHT_COUNTS, *PRESETS)}),
    "block_size": Control("Weights in a block", 64, {n: f"{n:,}" for n in SMALL_BLOCKS}),
    "constant_bits": Control("Bits of a constant", 32, most=MAX_CONSTANT_BITS),
    "double_quant": Control("Double quantization", True),
    "nested_bits": Control(
        "Bits of a quantized constant",
        8,
        most=MAX_NESTED_BITS,
        only_if=("double_quant", (True,)),
    ),
    "nested_block_size": Control(
        "Constants in a block", 256, most=MAX_NESTED_SIZE, only_if=("double_quant", (True,))
    ),
}


@dataclass(frozen=True)
class OverheadChoices:
    """The values that a reader chooses.

    Attributes:
        model: A key of WEIGHT_COUNTS, or a name from `memory.PRESETS`. For a preset, only the
            weights of the linear layers count, because only these weights are quantized.
        block_size: One of SMALL_BLOCKS.
        constant_bits: Number of bits of a constant that is not quantized.
        nested_bits: Number of bits of a quantized constant; ignored without double quantization.
        nested_block_size: Number of constants in each block of double quantization; ignored without
            double quantization.
        double_quant: Whether the constants are quantized too.

    Raises:
        ValueError: A value is out of range.
    """

    model: str
    block_size: int
    constant_bits: int
    nested_bits: int
    nested_block_size: int
    double_quant: bool

    def __post_init__(self) -> None:
        check_choice("block size", self.block_size, SMALL_BLOCKS)
        check_number("absmax bits", self.constant_bits, MAX_CONSTANT_BITS)
        if self.double_quant:
            check_number("nested bits", self.nested_bits, MAX_NESTED_BITS)
            check_number("nested size", self.nested_block_size, MAX_NESTED_SIZE)

    @property
    def weights(self) -> int:
        """The number of quantized weights."""
        return WEIGHT_COUNTS.get(self.model) or ModelShape.preset(self.model).linear_parameters

    def bits(self, block_size: int) -> dict[str, float]:
        """Return the bits per weight of each part of the format, for blocks of `block_size`."""
        if not self.double_quant:
            return {"codes": CODE_BITS, "constants": self.constant_bits / block_size}
        return {
            "codes": CODE_BITS,
            "constants": self.nested_bits / block_size,
            "nested constants": self.constant_bits / (block_size * self.nested_block_size),
        }

    def lines(self) -> dict[str, str]:
        """Return a dict with the results for these choices: the name of each result → its text.

        The code books are not counted.
        """
        bits = self.bits(self.block_size)
        total = sum(bits.values())
        plain = CODE_BITS + self.constant_bits / self.block_size

        def bits_and_bytes(each: float) -> str:
            return f"{each:<12.10g} {format_bytes(self.weights * each / 8)}"

        return {
            "weights in 4 bits": f"{self.weights:,}",
            "bits per weight": f"{total:.10g}",
            **{name: bits_and_bytes(each) for name, each in bits.items()},
            "total": format_bytes(self.weights * total / 8),
            "without double quantization": bits_and_bytes(plain),
            "saved" if total <= plain else "costs": bits_and_bytes(abs(plain - total)),
        }


def answer(values: Mapping[str, Any]) -> str:
    """Return the answer as HTML: the bits per weight, a bar for each block size, and a table.

    Args:
        values: The value of each control in CONTROLS.

    Raises:
        ValueError: A value is out of range.
    """
    choices = OverheadChoices(**values)
    bits = choices.bits(choices.block_size)
    constants = sum(bits.values()) - CODE_BITS
    way = "With" if choices.double_quant else "Without"
    return (
        f'<p class="live-verdict" data-say><strong>The constants cost {constants:.4g} bits per '
        f"weight.</strong> {way} double quantization, each weight of {text(choices.model)} needs "
        f"{sum(bits.values()):.10g} bits, and the constants of the whole model need "
        f"{format_bytes(choices.weights * constants / 8)}.</p>"
        f"{_bars(choices)}{numbers(choices.lines())}"
    )


def _bars(choices: OverheadChoices) -> str:
    """Return bars of the bits per weight for all block sizes, drawn to the same scale."""
    rows = {size: choices.bits(size) for size in SMALL_BLOCKS}
    end = max(sum(bits.values()) for bits in rows.values())
    bars = "".join(
        f'<div class="live-row{" chosen" * (size == choices.block_size)}"><b>{size:,}</b>'
        f"{stacked_bar(bits, end)}<span>{sum(bits.values()):.4g}</span></div>"
        for size, bits in rows.items()
    )
    listed = "; ".join(f"{size:,}: {sum(bits.values()):.4g}" for size, bits in rows.items())
    title = "Bits per weight for each block size"
    named = legend(colours(rows[choices.block_size]))
    return figure(f"{title}: {listed}.", f"<p>{title}</p>{bars}{named}", "rows")
