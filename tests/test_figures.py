"""Test figures: pictures show the numbers that they get, and describe them in their alt text."""

import re
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from course_utils import evaluation, figures, palette
from course_utils.figures.timeline_view import TimelineView
from course_utils.paging import simulate
from course_utils.quantization import dynamic_codebook, linear_codebook

HISTORY = [{"step": step, "loss": loss} for step, loss in ((1, 4.4), (2, 2.25), (3, 1.5))]
HISTORY[-1]["validation_loss"] = 1.75


def first_axes(picture):
    return picture.figure.axes[0]


def test_picture_is_one_svg_with_its_alt_text_escaped():
    shown = figures.Picture(figures.loss_curve(HISTORY).figure, 'a "b" <c>')._repr_html_()
    assert '<svg role="img" aria-label="a &quot;b&quot; &lt;c&gt;" width="715" ' in shown
    assert len(re.findall("<svg|<style|<!", shown)) == 1


def test_ids_are_equal_for_equal_pictures_and_different_for_others():
    shown, again, other = (
        figures.curves({"a": {0: 1.0, 1: y}}, xlabel="x", ylabel="y")._repr_html_()
        for y in (2.0, 2.0, 3.0)
    )
    assert shown == again
    ids = [re.findall(r' id="([^"]+)"', page) for page in (shown, other)]
    for page, names in zip((shown, other), ids, strict=True):
        assert len(set(names)) == len(names) > 0
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) == set(names)
    assert not set(ids[0]) & set(ids[1])


ANSWERS = {0: "Sure!\nI <b>can</b>", 2: "again " * 60, 3: ""}


def test_a_learning_curve_has_a_row_for_each_answer_escaped_and_cut():
    shown = figures.learning_curve(HISTORY, ANSWERS)
    rows = re.findall(r"<th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", shown._repr_html_())
    assert [name for name, _ in rows] == ["before training", "after step 2", "after step 3"]
    assert rows[0][1] == "Sure! I &lt;b&gt;can&lt;/b&gt;" and rows[2][1] == "(an empty answer)"
    assert rows[1][1].startswith("again again") and rows[1][1].endswith(" …")
    assert 200 < len(rows[1][1]) <= 240
    assert "before training: Sure! I <b>can</b>\n" in str(shown)


def test_bins_meet_halfway_between_levels():
    values = [-1, -0.2, 0, 0.1, 1]
    picture = figures.bins({"few": values}, {"coarse": [-1, 0, 1], "fine": [-1, -0.5, 0, 0.5, 1]})
    top, coarse, fine = picture.figure.axes
    (counts,) = (drawn.get_data() for drawn in top.patches)
    assert sum(counts.values) * (counts.edges[1] - counts.edges[0]) == pytest.approx(1)
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in coarse.patches]
    assert spans == [(-1, -0.5), (-0.5, 0.5), (0.5, 1)]
    lines = fine.collections[0].get_segments()
    assert [segment[0][0] for segment in lines] == [-1, -0.5, 0, 0.5, 1]
    assert "coarse, 3 levels, bins from 0.5000 to 1.0000 wide" in picture.alt


def test_token_losses_colours_the_tokens_by_loss():
    shown = figures.TokenLosses(["a&b", "·c", "d↵"], [9.0, 0.0, 4.5])
    page = shown._repr_html_()
    opacities = re.findall(rf"background:{palette.RED}(\w\w)\"", page)
    assert [int(alpha, 16) for alpha in opacities] == [round(0.6 * 255), 0, round(0.3 * 255)]
    assert "a&amp;b: loss 9.00, p = 0.00012" in page and ">4.50</small>" in page
    assert "3 tokens, mean loss 4.50 nats, highest: a&b 9.00" in shown.summary
    assert str(shown) == f"a&b(9.00) ·c(0.00) d↵(4.50)\n{shown.summary}"


NF4_LINE = [-1.0, -0.5, 0.0, 0.25, 0.75, 1.0]


def numbers(picture):
    """Return the places of each line's points, the lengths of grouped bars, and areas' sums."""
    axes = first_axes(picture)
    lines = [line.get_xydata().ravel().tolist() for line in axes.lines]
    bars = [list(group.datavalues) for group in axes.containers]
    return lines + bars + [[sum(area.values)] for area in areas(axes)]


def areas(axes):
    return [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]


LINE = {4: 0.25, 1: 1.5, 8: 0.5}
XY = {"xlabel": "x", "ylabel": "y", "title": "It grows"}
BITS = {"plain": {"codes": 4, "c": 0.5}, "double": {"codes": 4, "c": 0.125, "d": 0.001953125}}
# Each chart has the title "It grows". The other items are its numbers and its alt text's end.
CHARTS = {
    "curves": (
        lambda: figures.curves({"a": LINE}, log="xy", mark={4: "m"}, levels={"T4": 5}, **XY),
        [[1, 1.5, 4, 0.25, 8, 0.5], [0, 5, 1, 5], [4, 0.25], [4, 0, 4, 1]],
        "1.5 at 1 to 0.5 at 8, lowest 0.25 at 4; a line at T4, 5; marked at 4: m.",
    ),
    "seeds": (
        lambda: figures.seed_lines({"a": {42: [50, 60], 21: [30, 34]}}, levels={"b": 20}, **XY),
        [[21, 32, 42, 55], [21, 30, 21, 34], [42, 50, 42, 60], [0, 20, 1, 20]],
        "a 32 at 21, 55 at 42; a line at b, 20.",
    ),
    "pareto": (
        lambda: figures.pareto({"a": [(1, 4), (3, 5), (2, 9)]}, **XY),
        [[2, 5, 1, 4], [2, 5, 3, 5], [2, 5, 2, 9], [1, 4, 3, 5, 2, 9]],
        "Medians: a at 2 and 5.",
    ),
    "measurements": (
        lambda: figures.measurements({"a": [12, 14, 40], "b": [10]}, "ms", title="It grows"),
        [[10, 0], [10, -0.3, 10, 0.3], [12, 1, 14, 1, 40, 1], [14, 0.7, 14, 1.3]],
        "a 14, from 12 to 40; b 10, from 10 to 10.",
    ),
    "differences": (
        lambda: figures.differences(
            {"a": (-4, -9, 1.5)}, 5, xlabel="x", conclusions={"a": "open"}, title="It grows"
        ),
        [[0, 0, 0, 1], [-9, 0, 1.5, 0], [-4, 0]],
        "from -5 to 5 that counts as equal. a -4, from -9 to +1.5: open.",
    ),
    "token probabilities": (
        lambda: figures.token_probabilities("ab", {"x": [0.1, 0.2], "y": [0.9, 1]}, "It grows"),
        [[0.1, 0, 0.9, 0], [0.2, 1, 1, 1], [0.1, 0, 0.2, 1], [0.9, 0, 1, 1]],
        "x: a 10%, b 20%; y: a 90%, b 100%.",
    ),
    "costs": (
        lambda: figures.cost_lines({"a": (0, 3), "b": (100, 1)}, "euro", {"b": 50}, "It grows"),
        [[0, 0, 100, 300], [0, 100, 100, 200], [50, 150]],
        "Break-even: b at 50 requests.",
    ),
    "spectrum": (
        lambda: figures.spectrum({"true": [4, 8], "LoRA": [7.5, 0.25]}, 1, "It grows"),
        [[1.5, 0, 1.5, 1], [8, 4], [7.5, 0.25]],
        "Bars of singular values: true 8.00, 4.00; LoRA 7.50, 0.25. A line marks rank 1.",
    ),
    "relative bars": (
        lambda: figures.relative_bars({"a": 20, "b": 25, "c": 19.99}, "ms", "It grows"),
        [[20, 0, 20, 1], [20], [0], [20], [5], [19.99], [-0.01]],
        "Bars of ms: a 20; b 25 (+25%); c 19.99 (+0%).",
    ),
    "bits": (
        lambda: figures.bits_per_weight(BITS, "plain", "It grows"),
        [[4.5, 0, 4.5, 1], [4, 4], [0.125, 0.5], [0.001953125, 0]],
        "Stacked bars of bits per weight: plain 4.5; double 4.126953125. Marked: plain.",
    ),
    "code use": (
        lambda: figures.code_use({"int": {-1: 0.5, 0: 0.5, 1: 0, 2: 0}}, "It grows"),
        [[0, 25, 1, 25], [50, 50, 0, 0]],
        "int: 2 of 4 codes have 1% or more, the most used 50.0%.",
    ),
    "memory": (
        lambda: figures.memory_bars({"a": {"weights": 2e9, "adapters": 0}}, {}, title="It grows"),
        [[2], [0]],
        "a 2.00 GB (weights 2.00 GB).",
    ),
    "prediction errors": (
        lambda: figures.prediction_errors({"a": (2e9, 2.01e9), "b": (4e9, 3.99e9)}, "It grows"),
        [[0, 0, 0, 1], [0.5, -0.25]],
        "of 2.00 GB to 4.00 GB: a +0.50%, b -0.25%. The largest is +0.50%, a.",
    ),
    "losses": (
        lambda: figures.learning_curve(HISTORY, {2: ""}, 10, "It grows").picture,
        [[1, 4.4, 2, 2.25, 3, 1.5], [3, 1.75], [2, 0, 2, 1]],
        "from 4.40 to 1.50. Validation loss 1.75. Marked steps, with answers below: 2.",
    ),
}


@pytest.mark.parametrize(("draw", "expected", "words"), CHARTS.values(), ids=CHARTS)
def test_a_chart_draws_its_numbers_below_a_title_and_describes_them(draw, expected, words):
    picture = draw()
    for found, given in zip(numbers(picture), expected, strict=True):
        assert found == pytest.approx(given)
    texts = {text.get_text() for text in first_axes(picture).texts}
    assert "It grows" in {picture.figure.get_suptitle(), *texts}
    assert picture.alt.endswith(words)


def places(picture, colour):
    """Return the places of the dots of a colour, from the upper to the lower number line."""
    dots = [d for d in first_axes(picture).collections if to_hex(d.get_edgecolors()[0]) == colour]
    return [tuple(dot.get_offsets()[0]) for dot in dots]


def test_rounding_line_shows_an_update_too_short_for_nf4_but_not_for_16_bits():
    picture = figures.rounding_line(NF4_LINE, 0.25, 0.01)
    (coarse, fine), (nf4, bfloat16) = places(picture, palette.WEIGHTS), places(picture, palette.INK)
    assert nf4 == coarse and bfloat16 > fine
    assert "The update +0.0100 covers 4% of the way to the midpoint" in picture.alt
    assert "rounded to 0.2500: 0% of the update is left" in picture.alt
    # Between 0.25 and 0.5, the distance of two numbers in bfloat16 is 1/512.
    assert "passes 5 numbers, and the sum is rounded to 0.2598: 98% of the update" in picture.alt


LONG_STEP = {"gpu": "T4", "lengths": (1024, 4096), "rank": 64, "recipe": "fp32"}


def timeline(**options):
    more = {"loss": "logits", "keep_output": True} | options
    return simulate("llama-3.1-8b", "qlora", **LONG_STEP, **more)


def test_a_timeline_stacks_the_areas_up_to_all_bytes_at_each_moment():
    run = timeline(keep_freed=True)
    top, bottom = figures.memory_timeline(run).figure.axes
    highest = top.patches[-1].get_data()
    assert list(highest.values) == pytest.approx([e.total / 1e9 for e in run.events])
    assert max(highest.values) <= top.lines[0].get_ydata()[0] == run.budget / 1e9
    for lower, upper in pairwise(area.get_data() for area in top.patches):
        assert list(upper.baseline) == list(lower.values)
    assert list(bottom.patches[0].get_data().values) == [e.cpu / 1e9 for e in run.events]


def test_a_timeline_marks_the_moment_at_which_memory_ran_out():
    run = timeline(optimizer="adamw")
    view = TimelineView.of(run)
    assert view.failed is view.moments[-1] is run.out_of_memory and not view.has_pages
    picture = figures.memory_timeline(run)
    (axes,) = picture.figure.axes  # A run without pages has no second panel.
    cross, (bar,) = axes.lines[1], axes.containers[0]
    assert bar.get_height() == pytest.approx(run.out_of_memory.total / 1e9)
    assert cross.get_ydata()[0] == bar.get_height() < axes.get_ylim()[1]
    assert picture.alt.endswith("Out of memory in step 2 at the loss: 16.23 GB needed.")


def test_only_steps_that_began_can_be_shown():
    with pytest.raises(ValueError, match=r"from 1 to 2, which is the last .* began, got \[3\]"):
        figures.memory_timeline(timeline(), steps=[3])


def test_score_bars_show_means_with_intervals():
    story = {"story": "Rain fell on Tarn.", "section": "weather", "headline": "Rain falls on Tarn"}
    good = '{"section": "weather", "headline": "Rain falls on Tarn"}'
    scores = {"few-shot": ["no", "no", good, "no"], "tuned": [good] * 4}
    scores = {name: evaluation.score(answers, [story] * 4) for name, answers in scores.items()}
    numbers = evaluation.intervals(scores)
    picture = figures.score_bars(numbers)
    heights = [bar.get_height() for bar in first_axes(picture).patches]
    assert heights == pytest.approx([25] * 4 + [100] * 4)
    low = first_axes(picture).collections[0].get_segments()[0][0][1]
    assert low == pytest.approx(100 * numbers["few-shot", "low"].iloc[0])


def test_marked_tokens_describe_in_words_which_tokens_are_graded():
    shown = figures.MarkedTokens(["<|im_start|>", "ask↵", "a&b", "·c"], [False, False, True, True])
    summary = "2 of 4 tokens are graded: underlined, between [graded: and :graded]."
    assert str(shown) == f"<|im_start|>ask↵\n[graded: a&b·c :graded]\n{summary}"
    page = shown._repr_html_()
    assert "&lt;|im_start|&gt;" in page and "a&amp;b" in page and summary in page
    assert page.count("text-decoration:underline") == 2
    assert page.index("[graded: ") < page.index("a&amp;b") < page.index(" :graded]")


def test_the_lowest_number_of_each_row_of_a_heat_map_has_a_frame():
    values = {"8": {"0.1": 2.0, "0.2": 2.125}, "1": {"0.1": 2.5, "0.2": 2.25, "0.3": 2.75}}
    labels = {"xlabel": "learning rate", "ylabel": "rank", "unit": "Loss"}
    picture = figures.heat_map(values, **labels, mark={("8", "0.2"): "yours"})
    (axes,) = picture.figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert [cells[n + 0.5, 0.5] for n in range(3)] == ["2.500", "2.250", "2.750"]
    assert [cells[n + 0.5, 1.5] for n in range(2)] == ["2.000", "2.125\nyours"] and len(cells) == 5
    assert [tuple(np.floor(frame.get_xy())) for frame in axes.patches] == [(1, 0), (0, 1)]
    assert "1: 2.500 at 0.1, 2.250 at 0.2, 2.750 at 0.3; 8: 2.000 at 0.1" in picture.alt


# --- double quantization --------------------------------------------------------------------------

BOOKS = {"dynamic": dynamic_codebook().tolist(), "linear": linear_codebook(8).tolist()}
POINTS = {
    "float32 constants": {64: (4.5, 0.844), 256: (4.125, 0.978)},
    "double quantization": {16: (4.508, 0.656), 64: (4.127, 0.845), 128: (4.063, 0.913)},
}
CHOSEN = "double quantization", 64


def texts(picture):
    return [text.get_text() for axes in picture.figure.axes for text in axes.texts]


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


def test_strips_show_every_level_and_count_those_in_each_part():
    first, second = [*[-0.5] * 20, *[0.0] * 50, 0.1, *[0.9] * 29], [0.5] * 10
    picture = figures.level_strips({"mixed": first, "equal": second}, BOOKS, inner=0.1)
    top, lower, *strips = picture.figure.axes
    shares = (20, 51, 29), (0, 0, 100)
    for axes, sample, numbers in zip((top, lower), (first, second), shares, strict=True):
        assert [text.get_text().split("%")[0] for text in axes.texts] == [str(n) for n in numbers]
        assert sum(axes.patches[0].get_data().values) == len(sample)
    for axes, (name, levels), counts in zip(
        strips, BOOKS.items(), ((64, 127, 65), (115, 25, 115)), strict=True
    ):
        assert axes.lines[0].get_xdata()[::3].tolist() == pytest.approx(levels)
        assert axes.get_ylabel() == name
        assert [text.get_text().split()[0] for text in axes.texts] == [str(n) for n in counts]
    assert "mixed, 20%, 51%, 29% of 100 constants" in picture.alt
    assert "dynamic, 64, 127, 65 levels; linear, 115, 25, 115 levels" in picture.alt


def test_frontier_marks_the_chosen_point_with_its_bits():
    picture = figures.frontier(POINTS, CHOSEN)
    (axes,) = picture.figure.axes
    plain, double, ring = (line.get_xydata().tolist() for line in axes.lines)
    assert plain == [[4.125, 0.978], [4.5, 0.844]] and ring == [[4.127, 0.845]]
    assert double == [[4.063, 0.913], [4.127, 0.845], [4.508, 0.656]]
    assert "QLoRA:\n4.127 bits" in texts(picture) and {*POINTS} < {*texts(picture)}
    assert "blocks of 64 with 4.127 bits and error 0.845%" in picture.alt


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
    assert picture.alt == "Bars of 1,000 B: book 64 B, codes 900 B, offset 36 B."
