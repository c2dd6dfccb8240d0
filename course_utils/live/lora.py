"""Show how few parameters LoRA trains, with the matrices of a layer as rectangles to scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course_utils.live.controls import Control
from course_utils.live.markup import figure, numbers, percent, svg, text
from course_utils.memory import ModelShape
from course_utils.palette import ADAPTERS, WEIGHTS
from course_utils.units import format_bytes
from course_utils.validation import check_number

CUSTOM = "one shape: d_in × d_out"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_MODELS = (
    *("smollm2-135m", "smollm2-1.7b", "qwen2.5-7b", "llama-7b", "mistral-7b", "llama-3.1-8b"),
    *("llama-13b", "llama-33b", "llama-65b"),
)
# The largest width and number of layers that a reader may choose for a custom shape.
MAX_WIDTH, MAX_LAYERS = 1_000_000, 1000
# Bytes per trainable parameter. Weight, gradient and optimizer need 4 + 4 + 8 bytes for adapters,
# and 2 + 2 + 12 bytes for full fine-tuning in mixed precision.
BYTES = 16
# The width of the picture of one matrix in CSS pixels, and the least thickness that can be seen.
SIDE, THINNEST = 160, 1.5

CONTROLS = {
    "model": Control("Model", CUSTOM, {name: name for name in (CUSTOM, *LORA_MODELS)}),
    "d_in": Control("d_in", 1000, most=MAX_WIDTH, only_if=("model", (CUSTOM,))),
    "d_out": Control("d_out", 1000, most=MAX_WIDTH, only_if=("model", (CUSTOM,))),
    "layers": Control("Layers", 1, most=MAX_LAYERS, only_if=("model", (CUSTOM,))),
    "rank": Control("Rank r", 8, most=MAX_WIDTH),
} | {name: Control(name, name == "q_proj") for name in MODULES}


@dataclass(frozen=True)
class LoraChoices:
    """The values that a reader chooses.

    Attributes:
        model: CUSTOM for a shape that the reader chooses, or one of LORA_MODELS.
        d_in: Input width of each ticked module, used only if `model` is CUSTOM.
        d_out: Output width of each ticked module, used only if `model` is CUSTOM.
        layers: Number of layers that get adapters.
        rank: Rank of the adapters.
        q_proj: Whether the module q_proj gets an adapter. Each other module in MODULES has a field
            with the same meaning.

    Raises:
        ValueError: A value is out of range, or no module is ticked.
    """

    model: str
    d_in: int
    d_out: int
    layers: int
    rank: int
    q_proj: bool = False
    k_proj: bool = False
    v_proj: bool = False
    o_proj: bool = False
    gate_proj: bool = False
    up_proj: bool = False
    down_proj: bool = False

    def __post_init__(self) -> None:
        if not any(getattr(self, name) for name in MODULES):
            raise ValueError("Tick at least one module: LoRA trains only the adapters.")
        if self.model == CUSTOM:
            check_number("d_in", self.d_in, MAX_WIDTH)
            check_number("d_out", self.d_out, MAX_WIDTH)
        check_number("layers", self.layers, self.shape.layers if self.shape else MAX_LAYERS)
        check_number("rank r", self.rank, min(map(min, self.matrices.values())))

    @property
    def shape(self) -> ModelShape | None:
        """The shape of the model, None if `model` is CUSTOM."""
        return None if self.model == CUSTOM else ModelShape.preset(self.model)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer that get adapters: ticked module → (d_in, d_out)."""
        custom = dict.fromkeys(MODULES, (self.d_in, self.d_out))
        widths = self.shape.linear_layers() if self.shape else custom
        return {name: widths[name] for name in MODULES if getattr(self, name)}

    @property
    def trained(self) -> int:
        """The number of parameters in all adapters: r × (d_in + d_out) for each matrix."""
        return self.layers * sum(self.rank * (i + o) for i, o in self.matrices.values())

    @property
    def full(self) -> int:
        """The number of parameters in the matrices themselves: d_in × d_out for each matrix."""
        return self.layers * sum(i * o for i, o in self.matrices.values())

    def lines(self) -> dict[str, str]:
        """Return a dict with the results for these choices: the name of each result → its text."""
        trained, full = self.trained, self.full
        adapters = self.layers * len(self.matrices)
        lines = {
            "adapters": f"{adapters:,}, in {self.layers:,} layer{'s' * (self.layers > 1)}",
            "LoRA trains": f"{trained:,} parameters",
            "full fine-tuning of the same matrices": f"{full:,} parameters",
            "ratio": f"{trained / full:.2%}",
            "break-even rank": f"{self.rank * full / trained:,.1f}",
            f"LoRA with Adam, {BYTES} B each": format_bytes(BYTES * trained),
            f"full with Adam, {BYTES} B each": format_bytes(BYTES * full),
            "file of the adapters, float32": format_bytes(4 * trained),
        }
        if self.shape:
            whole = self.shape.parameters
            lines["share of the whole model"] = f"{trained / whole:.2%} of {whole:,} parameters"
        return lines


def answer(values: Mapping[str, Any]) -> str:
    """Return the answer as HTML: the number of parameters, the rectangles and a table.

    Args:
        values: The value of each control in CONTROLS.

    Raises:
        ValueError: A value is out of range, or no module is ticked.
    """
    if values["model"] != CUSTOM:
        values = {**values, "layers": ModelShape.preset(values["model"]).layers}
    choices = LoraChoices(**values)
    words = (
        f"With rank {choices.rank:,}, it trains {choices.trained:,} parameters instead of "
        f"{choices.full:,}, because A and B have r · (d_in + d_out) numbers for each matrix of "
        "d_in · d_out."
    )
    share = percent(choices.trained / choices.full)
    return (
        f'<p class="live-verdict" data-say><strong>LoRA trains {share} of the parameters.</strong>'
        f" {text(words)}</p>{_rectangles(choices)}{numbers(choices.lines())}"
    )


def _rectangles(choices: LoraChoices) -> str:
    """Return a picture of each matrix shape, with the names of the modules that have this shape."""
    names: dict[tuple[int, int], list[str]] = {}
    for name, shape in choices.matrices.items():
        names.setdefault(shape, []).append(name)
    scale = SIDE / max(max(shape) for shape in names)
    drawn = "".join(
        f"<div>{_adapted(*shape, choices.rank, scale)}<span>{text(', '.join(modules))}<br>"
        f"{shape[0]:,} × {shape[1]:,}</span></div>"
        for shape, modules in names.items()
    )
    shapes = "; ".join(f"{', '.join(n)} {i:,} × {o:,}" for (i, o), n in names.items())
    alt = (
        f"Rectangles to scale: {shapes}, each with A, d_in × {choices.rank:,}, to its left and B, "
        f"{choices.rank:,} × d_out, above it."
    )
    return figure(alt, drawn, "rectangles")


def _adapted(d_in: int, d_out: int, rank: int, scale: float) -> str:
    """Return a drawing of W with A to its left and B above it.

    A rectangle that would be too thin to be seen is drawn THINNEST pixels thick.
    """
    high, wide = max(d_in * scale, THINNEST), max(d_out * scale, THINNEST)
    thick, gap = max(rank * scale, THINNEST), 4
    at = thick + gap
    body = "".join(
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" fill="{colour}"/>'
        for x, y, w, h, colour in (
            (at, at, wide, high, WEIGHTS),
            (0, at, thick, high, ADAPTERS),
            (at, 0, wide, thick, ADAPTERS),
        )
    )
    return svg(at + wide, at + high, body)
