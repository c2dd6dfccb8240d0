"""Test diagrams: they show the numbers that they get, to scale, and describe all their content."""

import math
import re
from statistics import NormalDist

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.image import AxesImage
from matplotlib.patches import FancyBboxPatch, Rectangle

from course_utils import figures, memory, palette
from course_utils.figures.formats import stored_bits
from course_utils.formats import E2M1
from course_utils.quantization import normal_float, quantize_nf4
from tests.cells import LECTURES

SMOL = memory.ModelShape.preset("smollm2-135m")
WAYS = {
    name: memory.timeline("smollm2-135m", method, sequence_length=256)
    for name, method in (("full", "full"), ("QLoRA", "qlora"))
}
# A matrix of rank 3 whose singular values are 4, 2 and 1.
DELTA = np.zeros((6, 9))
DELTA[range(3), range(3)] = 4.0, -2.0, 1.0
# A block of 64 weights whose absmax is at place 40.
BLOCK = [math.sin(n + 0.5) for n in range(64)]
BLOCK[40] = -2.0

FRAMES = [
    figures.PageFrame("before", {"weights": 50}, {2: 10, 0: 10, 1: 5}, {}),
    figures.PageFrame("spike", {"weights": 50, "activations": 40}, {2: 10}, {0: 10, 1: 5}),
    figures.PageFrame("update", {"weights": 50, "gradients": 20}, {2: 10, 0: 10}, {1: 5}),
]

ROWS = {"Hugging Face": range(8), "llama.cpp": [0, 4, 1, 5, 2, 6, 3, 7]}


def texts(picture):
    (axes,) = picture.figure.axes
    return [text.get_text() for text in axes.texts if text.get_text()]


def rectangles(picture, colour):
    """Return the (width, height) of each rectangle of a colour, in points."""
    (axes,) = picture.figure.axes
    shapes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [
        (shape.get_width(), shape.get_height())
        for shape in shapes
        if to_hex(shape.get_facecolor()) == colour and shape.get_width() > 0
    ]


# --- NF4 ------------------------------------------------------------------------------------------


def test_slices_of_the_bell_curve_meet_at_the_levels():
    bits = 4
    picture = figures.quantile_levels()
    (axes,) = picture.figure.axes
    slices = [shape for shape in axes.collections if isinstance(shape, PolyCollection)]
    edges = [shape.get_paths()[0].get_extents() for shape in slices]
    assert len(slices) == 2**bits + 1
    assert [edge.x1 for edge in edges[:-1]] == pytest.approx([edge.x0 for edge in edges[1:]])
    # Divided by the largest cut, the cuts are the levels.
    cuts = np.array([edge.x1 for edge in edges[:-1]])
    zero = cuts[2 ** (bits - 1) - 1]
    levels = normal_float(bits).tolist()
    assert ((cuts - zero) / (cuts[-1] - zero)).tolist() == pytest.approx(levels, abs=1e-4)
    # On each side of zero, a normally distributed number is equally likely in each slice.
    areas = np.diff(list(map(NormalDist().cdf, cuts)))
    below = 2 ** (bits - 1) - 1
    for side in (areas[:below], areas[below:]):
        assert side == pytest.approx([side[0]] * len(side), rel=0.01)
    counts = [text for text in texts(picture) if "slices" in text]
    assert counts[0].startswith(f"{below} slices") and counts[1].startswith(f"{below + 1} slices")
    assert {str(code) for code in range(2**bits)} <= set(texts(picture))


@pytest.mark.parametrize(
    "place, pair", [(40, (40, 41)), (41, (40, 41)), (63, (62, 63)), (2, (62, 63))]
)
def test_the_picture_of_a_block_shows_what_is_stored(place, pair):
    block = [math.sin(n + 0.5) for n in range(64)]
    block[place] = -2.0
    picture = figures.block_steps(block)
    stored = quantize_nf4(torch.tensor(block))
    shown = [0, 1, 2, 3, *pair]
    written = texts(picture)
    for n in shown:
        assert f"{block[n]:.2f}".replace("-", "−") in written
        assert f"code {stored.codes[n]}" in picture.alt
    nibbles = [text for text in written if re.fullmatch("[01]{4}", text)]
    assert nibbles == [f"{stored.codes[n]:04b}" for n in shown]
    assert {"32 bytes of codes", "absmax 2.0000: 4 bytes", "in bfloat16: 128 bytes"} <= set(written)


# --- a transformer block and LoRA's matrices ------------------------------------------------------


def test_the_layers_of_a_block_are_to_scale():
    picture = figures.transformer_block(SMOL, rank=64)
    weights = rectangles(picture, palette.WEIGHTS)[1:]  # the first one is in the legend
    assert len(weights) == 7
    for (width, height), (d_in, d_out) in zip(weights, SMOL.linear_layers().values(), strict=True):
        assert width / height == pytest.approx(d_out / d_in)
        assert height / weights[0][1] == pytest.approx(d_in / 576)
    adapters = rectangles(picture, palette.ADAPTERS)[1:]
    assert adapters[0] == pytest.approx((64 / 576 * weights[0][1], weights[0][1]))
    assert len(adapters) == 14
    for name, (d_in, d_out) in SMOL.linear_layers().items():
        assert name in texts(picture) and f"{d_in:,} × {d_out:,}" in texts(picture)
        assert f"{name} {d_in:,} × {d_out:,}" in picture.alt


@pytest.mark.parametrize("rank", [1, 64, 500])
def test_rectangles_have_the_sizes_of_the_matrices(rank):
    picture = figures.lora_rectangles({"W": (1000, 500)}, rank, layers=2)
    (wide, high), _ = rectangles(picture, palette.WEIGHTS)  # the last one is in the legend
    assert wide / high == pytest.approx(0.5)
    a, b, _ = rectangles(picture, palette.ADAPTERS)
    thick = max(rank * high / 1000, 2)
    assert a == pytest.approx((thick, high)) and b == pytest.approx((wide, thick))
    trained, full = 2 * rank * 1500, 2 * 500_000
    assert {f"{trained:,}", f"{full:,}"} <= set(texts(picture))
    assert picture.alt.endswith(
        f"A and B have {trained:,} parameters, {trained / full:.2%} of the {full:,} in W."
    )


# --- low rank -------------------------------------------------------------------------------------


def test_the_errors_of_low_rank_are_those_of_eckart_and_young():
    picture = figures.low_rank(DELTA, (1, 2, 3))
    # The singular values that are left out, of √(16 + 4 + 1).
    errors = [np.sqrt(rest / 21) for rest in (5, 1, 0)]
    for rank, error in zip((1, 2, 3), errors, strict=True):
        assert f"rank {rank} with error {error:.1%}" in picture.alt
        assert f"error {error:.0%}" in texts(picture)
    images = [image.get_array() for image in picture.figure.findobj(AxesImage)]
    assert [image.shape[:2] for image in images] == [
        *((6, 9), (6, 9), (6, 1), (1, 9), (6, 9), (6, 2), (2, 9), (6, 9), (6, 3), (3, 9))
    ]
    # With all three ranks, the product is the matrix itself.
    assert np.abs(images[7].astype(float) - images[0].astype(float)).max() <= 1


# --- number formats -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value", "bits", "stored"),
    [
        (torch.float32, -1.0, "1" + "01111111" + 23 * "0", -1.0),
        (torch.bfloat16, 1 / 3, "0" + "01111101" + "0101011", 0.333984375),
        (torch.bfloat16, 3.4e38, "0" + "11111111" + "0000000", math.inf),
        (torch.float16, 65519.9, "0" + "11110" + "1111111111", 65504.0),
        (torch.float16, 6e-8, "0" + "00000" + "0000000001", 2.0**-24),
    ],
)
def test_bits_are_those_of_the_nearest_number(dtype, value, bits, stored):
    assert stored_bits(value, dtype) == (bits, stored)


# --- shift by one, the step, maps -----------------------------------------------------------------


def test_each_prediction_is_compared_with_the_next_label_that_counts():
    picture = figures.shift_by_one(["The", "b", "c", "d"], [False, False, True, True])
    assert texts(picture).count("−100") == 2
    # Each of the three predictions is drawn as five bars of probability.
    assert len(rectangles(picture, palette.ACTIVATIONS)) == 3 * 5 and "unused" in texts(picture)
    assert "after “The” is not graded; the prediction after “b” is compared with “c”" in picture.alt
    assert "The prediction after the last token, “d”, has no label." in picture.alt
    (axes,) = picture.figure.axes
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == 12


def test_a_step_shows_the_highest_memory_that_it_adds():
    picture = figures.step_timeline(WAYS)
    (axes,) = picture.figure.axes
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    assert names == ["forward", "loss", "backward", "update"]
    lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
    for line, (name, phases) in zip(lines, WAYS.items(), strict=True):
        always = sum(phases[0].groups[part] for part in ("weights", "adapters", "optimizer"))
        peak = max(phases, key=lambda phase: phase.total)
        assert max(line.get_ydata()) == pytest.approx((peak.total - always) / 1e9)
        added = f"{(peak.total - always) / 1e9:.2f} GB"
        assert f"{name}, highest at {peak.name}, {added}" in picture.alt and added in texts(picture)


def test_in_attention_each_token_sees_itself_and_earlier_tokens():
    picture = figures.inside_model(SMOL, ["The", "sun", "is"], "·hot")
    lines = [
        line for line in picture.figure.axes[0].lines if line.get_color() == palette.ACTIVATIONS
    ]
    pairs = [tuple(line.get_xdata()) for line in lines]
    assert len(pairs) == 1 + 2 + 3 and all(start <= end for start, end in pairs)
    assert {"30 blocks like this one", "·hot"} <= set(texts(picture))
    assert "49,152 logits" in picture.alt and picture.alt.endswith("token is ·hot.")


def test_the_map_of_the_course_shows_each_lecture():
    picture = figures.course_map()
    names = {text[:2] for text in texts(picture) if text[:2].isdigit()}
    assert names == {path.name[:2] for path in LECTURES}
    assert all(name in picture.alt for name in names)


# --- all pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "alt"),
    [
        (lambda: figures.number_formats(0.1), "mantissa 1001101, stores 0.1000976562"),
        (lambda: figures.qlora_layer("A title"), "The data flow of a linear layer of QLoRA"),
        (lambda: figures.layer_passes("A title"), "W gets no gradient."),
        (lambda: figures.number_lines({"three": [-1, 0, 1], "E2M1": E2M1}), "E2M1: 0, 0.5, 1, 1.5"),
        (lambda: figures.rotary_rows(ROWS), "0, 4, 1, 5, 2, 6, 3, 7"),
        (lambda: figures.page_frames(FRAMES, 100), "Pages 0, 1 have moved to CPU memory."),
        (lambda: figures.page_rounds([0, 0, 1], 2, 3), "page 1 leaves; page 0 is used; page 1"),
    ],
)
def test_the_alt_text_of_a_picture_contains_its_numbers(draw, alt):
    assert alt in str(draw())


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.block_steps([1.0] * 7), "even number of at least 8 weights, got 7"),
        (lambda: figures.block_steps([0.0] * 64), "a weight that is not zero"),
        (lambda: figures.transformer_block(memory.ModelShape.preset("7b")), "must have the lay"),
        (lambda: figures.transformer_block(SMOL, 0), "must be from 1 to 138, .*, got 0"),
        (lambda: figures.transformer_block(SMOL, 139), "must be from 1 to 138, .*, got 139"),
        (lambda: figures.lora_rectangles({"W": (8, 8)}, 0), "rank, layers and .* at least 1"),
        (lambda: figures.lora_rectangles({}, 8), "from one to seven layers, got 0"),
        (lambda: figures.low_rank(np.zeros(4), (1,)), r"a matrix, got an array of shape \(4,\)"),
        (lambda: figures.low_rank(np.zeros((2, 2)), (1,)), "finite numbers, and one other than 0"),
        (lambda: figures.low_rank(DELTA, (7,)), r"from 1 to 6, got \(7,\)"),
        (lambda: figures.low_rank(DELTA, ()), "from one to four ranks"),
        (lambda: figures.shift_by_one(["a", "b"]), "from three to nine tokens, got 2"),
        (lambda: figures.shift_by_one(list("abc"), [True]), "graded must have 3 items"),
        (lambda: figures.you_are_here(["a", "b"], "c"), "here must be one of a, b, got c"),
        (lambda: figures.page_frames(FRAMES, 99), "spike: 100 B on a GPU with 99 B"),
        (lambda: figures.page_frames(FRAMES[1:], 100), "first frame, all pages must be on the GPU"),
    ],
)
def test_an_argument_that_is_not_allowed_raises_a_value_error(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
