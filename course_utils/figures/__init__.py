"""Draw the pictures of the lectures as `Picture` objects: figures with alt text.

The functions are pure: they turn numbers into a picture and change nothing else. There is one
module for each topic, and every public name can be imported from this package. The colours are from
`course_utils.palette`, so colour-blind readers can tell them apart. Bars and lines also differ in
label, order, hatch or dash, so a greyscale print can be read, too.
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
