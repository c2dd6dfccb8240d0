"""Test the pictures of double quantization: each shows the numbers that it gets."""

import pytest
from matplotlib.patches import Rectangle

from course_utils import figures
from course_utils.quantization import dynamic_codebook, linear_codebook

BOOKS = {"dynamic": dynamic_codebook().tolist(), "linear": linear_codebook(8).tolist()}
POINTS = {
    "float32 constants": {64: (4.5, 0.844), 256: (4.125, 0.978)},
    "double quantization": {16: (4.508, 0.656), 64: (4.127, 0.845), 128: (4.063, 0.913)},
}
CHOSEN = "double quantization", 64


def texts(picture):
    return [text.get_text() for axes in picture.figure.axes for text in axes.texts]


# --- the tree -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block_size", "nested_block_size", "code_bytes"), [(64, 256, "32"), (4096, 64, "2,048")]
)
def test_the_tree_shows_the_bytes_of_each_node(block_size, nested_block_size, code_bytes):
    picture = figures.constant_tree(block_size, nested_block_size)
    stored = (
        "4 B for the whole matrix",
        f"4 B for {nested_block_size} constants",
        f"1 B for {block_size:,} weights",
        f"{code_bytes} B for {block_size:,} weights",
    )
    for text in stored:
        assert text in texts(picture) and text in picture.alt


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((63, 256), "block_size must be even, so that blocks fill bytes; got 63"),
        ((0, 256), "block_size must be"),
        ((64, 2), "nested_block_size must be a whole number of at least 3"),
    ],
)
def test_the_tree_needs_sizes_that_it_can_draw(sizes, message):
    with pytest.raises(ValueError, match=message):
        figures.constant_tree(*sizes)


# --- levels ---------------------------------------------------------------------------------------


def test_strips_show_every_level_and_count_those_in_each_part():
    values = [*[-0.5] * 20, *[0.0] * 50, 0.1, *[0.9] * 29]
    picture = figures.level_strips(values, BOOKS, inner=0.1)
    top, *strips = picture.figure.axes
    assert [text.get_text() for text in top.texts] == [
        *("20% of the constants", "51%", "29% of the constants")
    ]
    assert sum(top.patches[0].get_data().values) == len(values)
    for axes, (name, levels), counts in zip(
        strips, BOOKS.items(), ((64, 127, 65), (115, 25, 115)), strict=True
    ):
        assert axes.lines[0].get_xdata()[::3].tolist() == pytest.approx(levels)
        assert axes.get_ylabel() == name
        assert [text.get_text().split()[0] for text in axes.texts] == [str(n) for n in counts]
    assert picture.alt == (
        "Histogram of 100 scaled constants above the levels of codebooks. Below -0.1, from there "
        "to 0.1, and above are 20%, 51% and 29% of the constants; dynamic has 64, 127 and 65 "
        "levels; linear has 115, 25 and 115 levels."
    )


# --- the frontier ---------------------------------------------------------------------------------


def test_frontier_marks_the_chosen_point_with_its_bits():
    picture = figures.frontier(POINTS, CHOSEN)
    (axes,) = picture.figure.axes
    plain, double, ring = (line.get_xydata().tolist() for line in axes.lines)
    assert plain == [[4.125, 0.978], [4.5, 0.844]] and ring == [[4.127, 0.845]]
    assert double == [[4.063, 0.913], [4.127, 0.845], [4.508, 0.656]]
    assert axes.get_xscale() == axes.get_yscale() == "linear"
    drawn = texts(picture)
    assert "QLoRA:\n4.127 bits" in drawn and {*POINTS} < {*drawn}
    assert (drawn.count("64"), drawn.count("256")) == (2, 1)
    assert picture.alt == (
        "Dots of squared error over bits per weight; smaller is better. float32 constants: blocks "
        "of 64 with 4.5 bits and error 0.844%, blocks of 256 with 4.125 bits and error 0.978%; "
        "double quantization: blocks of 16 with 4.508 bits and error 0.656%, blocks of 64 with "
        "4.127 bits and error 0.845%, blocks of 128 with 4.063 bits and error 0.913%. Marked: "
        "double quantization, blocks of 64."
    )


# --- bytes ----------------------------------------------------------------------------------------


def is_bar(patch):
    return isinstance(patch, Rectangle) and patch.get_width() > 0


def test_byte_layout_magnifies_all_fields_except_the_largest():
    picture = figures.byte_layout({"book": 64, "codes": 900, "offset": 36})
    (axes,) = picture.figure.axes
    bars = [(patch.get_y(), patch.get_width()) for patch in axes.patches if is_bar(patch)]
    upper, lower = bars[:3], bars[3:]
    assert {y for y, _ in upper} != {y for y, _ in lower}
    assert [width / 536 for _, width in upper] == pytest.approx([0.9, 0.064, 0.036])
    assert [width / 536 for _, width in lower] == pytest.approx([0.64, 0.36])
    # Two dashed lines connect the magnified part of the upper bar with the ends of the lower bar.
    ends = [list(line.get_xdata()) for line in axes.lines if line.is_dashed()]
    assert ends == [pytest.approx([2 + 0.9 * 536, 2]), pytest.approx([538, 538])]
    assert "all: 1,000 B" in texts(picture)
    assert "all but the largest, 10 times as wide: 100 B" in texts(picture)
    assert picture.alt == "Bars of 1,000 B: book 64 B, codes 900 B, offset 36 B."


@pytest.mark.parametrize("fields", [{"codes": 5, "rest": 0}, {"codes": 5}])
def test_byte_layout_needs_two_fields_with_bytes(fields):
    with pytest.raises(ValueError, match="at least two fields must have bytes, got"):
        figures.byte_layout(fields)
