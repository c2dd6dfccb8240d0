"""Pictures of the lectures: pure functions from numbers to a `Picture`, a figure with alt text.

One module for each topic; every public name can be imported from here. Colours are those of
`course_utils.palette`, which colour-blind readers can tell apart. Bars and lines also differ by
label, order, hatch or dash, so that a greyscale print shows the same.
"""

from __future__ import annotations

from course_utils.figures.base import Picture
from course_utils.figures.charts import curves, histograms, measurements
from course_utils.figures.lora import lora_parameters, spectrum
from course_utils.figures.memory import memory_bars, predictions, stacked_bytes
from course_utils.figures.quantization import (
    bins,
    bits_per_weight,
    byte_layout,
    code_use,
    frontier,
    normal_quantiles,
)
from course_utils.figures.timeline import TimelineView, memory_timeline
from course_utils.figures.tokens import (
    MarkedTokens,
    next_tokens,
    token_losses,
    token_probabilities,
)
from course_utils.figures.training import cost_lines, loss_curve, score_bars

__all__ = [
    "MarkedTokens",
    "Picture",
    "TimelineView",
    "bins",
    "bits_per_weight",
    "byte_layout",
    "code_use",
    "cost_lines",
    "curves",
    "frontier",
    "histograms",
    "lora_parameters",
    "loss_curve",
    "measurements",
    "memory_bars",
    "memory_timeline",
    "next_tokens",
    "normal_quantiles",
    "predictions",
    "score_bars",
    "spectrum",
    "stacked_bytes",
    "token_losses",
    "token_probabilities",
]
