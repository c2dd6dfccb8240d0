"""Draw the pictures of the lectures as `Picture` objects: figures with alt text.

The functions are pure: they turn numbers into a picture and change nothing else. There is one
module for each topic, and every public name can be imported from this package. The colours are from
`course_utils.palette`, so colour-blind readers can tell them apart. Bars and lines also differ in
label, order, hatch or dash, so a greyscale print can be read, too. The argument `title` of a
function is a sentence that says what the picture shows.
"""

from __future__ import annotations

from course_utils.figures.base import Picture
from course_utils.figures.charts import curves, measurements, pareto, relative_bars
from course_utils.figures.diagrams import (
    course_map,
    inside_model,
    qlora_layer,
    shift_by_one,
    transformer_block,
    you_are_here,
)
from course_utils.figures.double_quantization import (
    byte_layout,
    constant_tree,
    frontier,
    level_strips,
)
from course_utils.figures.evidence import differences, experiment, heat_map, seed_lines
from course_utils.figures.export import rotary_rows, ways_out
from course_utils.figures.formats import number_formats
from course_utils.figures.lora import lora_rectangles, low_rank, spectrum
from course_utils.figures.memory import memory_bars, prediction_errors
from course_utils.figures.merging import rounding_line
from course_utils.figures.nf4 import block_steps, layer_passes, number_lines, quantile_levels
from course_utils.figures.pages import PageFrame, page_frames, page_rounds
from course_utils.figures.quantization import bins, bits_per_weight, code_use
from course_utils.figures.steps import step_phases
from course_utils.figures.timeline import memory_timeline, step_timeline
from course_utils.figures.tokens import MarkedTokens, TokenLosses, next_tokens, token_probabilities
from course_utils.figures.training import (
    LearningCurve,
    cost_lines,
    learning_curve,
    loss_curve,
    score_bars,
)
