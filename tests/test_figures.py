"""Test figures: pictures show the numbers that they get, and describe them in their alt text."""

import re
import subprocess
import sys
import warnings
from itertools import pairwise
from statistics import NormalDist

import pandas
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from course_utils import evaluation, figures, memory, palette
from course_utils.figures import base, merging
from course_utils.paging import simulate
from course_utils.palette import INK, WEIGHTS
from course_utils.timeline import TimelineView
from tests.pictures import measured, problems

HISTORY = [
    {"step": 1, "loss": 4.4},
    {"step": 2, "loss": 2.25},
    {"step": 3, "loss": 1.5, "validation_loss": 1.75},
]


def first_axes(picture):
    return picture.figure.axes[0]


def test_figures_can_be_imported_while_modules_with_answers_are_withheld():
    withheld = ("memory", "paging", "quantization", "lora", "sft", "training")
    names = [f"course_utils.{name}" for name in withheld]
    code = f"import sys; sys.modules.update(dict.fromkeys({names}))\n"
    code += "from course_utils import figures; print(figures.loss_curve([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "has not begun" in done.stdout, done.stderr


def test_there_may_be_more_series_than_line_styles():
    lines = {str(n): {1: 1.0, 2: float(n)} for n in range(7)}
    assert len(first_axes(figures.curves(lines, xlabel="x", ylabel="y")).lines) == 7
    numbers = {name: [1.0, 2.0] for name in "abcdefghij"}
    assert len(first_axes(figures.spectrum(numbers)).patches) == 20
    assert (
        len(first_axes(figures.bits_per_weight({"row": dict.fromkeys("abcdef", 1.0)})).patches) == 6
    )


def test_picture_is_one_svg_with_its_alt_text_escaped():
    picture = figures.Picture(figures.loss_curve(HISTORY).figure, 'a "b" <c>')
    shown = picture._repr_html_()
    assert '<svg role="img" aria-label="a &quot;b&quot; &lt;c&gt;" width="715" ' in shown
    assert len(re.findall("<svg|<style|<!", shown)) == 1
    assert str(picture) == 'a "b" <c>'


def test_ink_and_paper_of_a_picture_are_those_of_the_page():
    panel, axes = base.one_panel()
    axes.barh(["a"], [1], color=palette.PAPER, edgecolor=palette.INK, hatch="////")
    axes.text(0, 0, "b", color=palette.LIGHT_TEXT, **base.HALO)
    shown = base.inline_svg(panel, "a")
    assert palette.INK not in shown and palette.PAPER not in shown
    assert palette.LIGHT_TEXT in shown
    assert "stroke:var(--paper)" in shown and "stroke:currentColor" in shown


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


def test_loss_curve_draws_every_step_and_the_validation_losses():
    picture = figures.loss_curve(HISTORY, steps=10)
    training, validation = first_axes(picture).lines
    assert list(training.get_ydata()) == [4.4, 2.25, 1.5]
    assert list(validation.get_xdata()) == [3] and list(validation.get_ydata()) == [1.75]
    assert first_axes(picture).get_xlim() == (0, 10) and first_axes(picture).get_ylim()[0] == 0
    assert picture.alt == ("Training loss over 3 steps, from 4.40 to 1.50. Validation loss 1.75.")


def test_loss_curve_before_the_first_step():
    assert "has not begun" in figures.loss_curve([], 10).alt


ANSWERS = {0: "Sure!\nI <b>can</b>", 2: "again " * 60, 3: ""}


def test_a_learning_curve_marks_the_steps_of_the_answers():
    shown = figures.learning_curve(HISTORY, ANSWERS, 10)
    axes = first_axes(shown.picture)
    assert [text.get_text() for text in axes.texts] == ["0", "2", "3"]
    marks = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert marks == [3, 0, 2, 3], "the validation loss, and a line for each answer"
    assert figures.loss_curve(HISTORY, 10).alt in shown.picture.alt
    assert "with answers below: 0, 2, 3" in shown.picture.alt


def test_a_learning_curve_has_a_row_for_each_answer_escaped_and_cut():
    shown = figures.learning_curve(HISTORY, ANSWERS)
    rows = re.findall(r"<th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", shown._repr_html_())
    assert [name for name, _ in rows] == ["before training", "after step 2", "after step 3"]
    assert rows[0][1] == "Sure! I &lt;b&gt;can&lt;/b&gt;" and rows[2][1] == "(an empty answer)"
    assert rows[1][1].startswith("again again") and rows[1][1].endswith(" …")
    assert 200 < len(rows[1][1]) <= 240
    assert "before training: Sure! I <b>can</b>\n" in str(shown)


def test_a_learning_curve_before_the_first_step_shows_the_first_answer():
    shown = figures.learning_curve([], {0: "Sure!"}, 10)
    assert "has not begun" in shown.picture.alt and "before training: Sure!" in str(shown)


def test_score_bars_write_each_score_also_of_a_bar_without_height():
    story = {"story": "Rain fell on Tarn.", "section": "weather", "headline": "Rain falls on Tarn"}
    scores = {"zero-shot": evaluation.score(["no"] * 4, [story] * 4)}
    picture = figures.score_bars(evaluation.intervals(scores))
    texts = [text.get_text() for text in first_axes(picture).texts]
    assert texts == ["0%"] * 4
    labels = [label.get_text() for label in first_axes(picture).get_xticklabels()]
    assert [label.split("\n")[1] for label in labels] == ["(% of stories)"] * 3 + ["(mean F1)"]


def test_score_bars_show_means_with_intervals():
    story = {"story": "Rain fell on Tarn.", "section": "weather", "headline": "Rain falls on Tarn"}
    good = '{"section": "weather", "headline": "Rain falls on Tarn"}'
    scores = {
        "few-shot": evaluation.score(["no", "no", good, "no"], [story] * 4),
        "tuned": evaluation.score([good] * 4, [story] * 4),
    }
    numbers = evaluation.intervals(scores)
    picture = figures.score_bars(numbers)
    heights = [bar.get_height() for bar in first_axes(picture).patches]
    assert heights == pytest.approx([25] * 4 + [100] * 4)
    assert "few-shot: valid JSON 25%" in picture.alt and "tuned: valid JSON 100%" in picture.alt
    low = first_axes(picture).collections[0].get_segments()[0][0][1]
    assert low == pytest.approx(100 * numbers["few-shot", "low"].iloc[0])


def test_bins_meet_halfway_between_levels():
    values = [-1, -0.2, 0, 0.1, 1]
    books = {"coarse": [-1, 0, 1], "fine": [-1, -0.5, 0, 0.5, 1]}
    picture = figures.bins({"few": values, "none below zero": [0, 0.5]}, books)
    top, coarse, fine = picture.figure.axes
    few, others = (drawn.get_data() for drawn in top.patches)
    for counts in (few, others):
        assert sum(counts.values) * (counts.edges[1] - counts.edges[0]) == pytest.approx(1)
    assert few.values[0] > 0 == others.values[0]
    assert [text.get_text() for text in top.get_legend().texts] == ["few", "none below zero"]
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in coarse.patches]
    assert spans == [(-1, -0.5), (-0.5, 0.5), (0.5, 1)]
    shades = [bar.get_facecolor() for bar in fine.patches]
    assert len(shades) == 5 and all(a != b for a, b in pairwise(shades))
    lines = fine.collections[0].get_segments()
    assert [segment[0][0] for segment in lines] == [-1, -0.5, 0, 0.5, 1]
    assert picture.alt == (
        "Histogram of scaled weights (few, none below zero) over bins: "
        "coarse, 3 levels, bins from 0.5000 to 1.0000 wide; "
        "fine, 5 levels, bins from 0.2500 to 0.5000 wide."
    )


def test_bins_accepts_levels_in_a_tensor_without_a_warning():
    levels = torch.tensor([-1.0, 0.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = figures.bins({"one": [0.5]}, {"coarse": levels})
    assert picture.alt.endswith("coarse, 3 levels, bins from 0.5000 to 1.0000 wide.")


@pytest.mark.parametrize("one_scale", [True, False])
def test_code_use_shows_every_code_and_a_line_at_even_use(one_scale):
    shares = {"int": {-1: 0.5, 0: 0.5, 1: 0}, "nf": dict.fromkeys(range(4), 0.25)}
    picture = figures.code_use(shares, one_scale=one_scale)
    left, right = picture.figure.axes
    assert [bar.get_height() for bar in left.patches] == [50, 50, 0]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in left.patches]
    assert middles == pytest.approx([-1, 0, 1])
    assert left.lines[0].get_ydata()[0] == pytest.approx(100 / 3)
    assert right.lines[0].get_ydata()[0] == 25
    assert (left.get_ylim() == right.get_ylim()) == one_scale
    assert "int: 2 of 3 codes have 1% or more, the most used 50.0%" in picture.alt


def test_only_normal_numbers_follow_the_diagonal_of_normal_quantiles():
    normal = [NormalDist(5, 2).inv_cdf((n + 0.5) / 20_000) for n in range(20_000)]
    uniform = [n / 20_000 for n in range(20_000)]
    picture = figures.normal_quantiles({"normal sample": normal, "uniform": uniform})
    diagonal, one, other = first_axes(picture).lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert list(one.get_ydata()) == pytest.approx(list(one.get_xdata()), abs=0.02)
    assert max(other.get_ydata()) == pytest.approx(3**0.5, abs=0.01)
    assert max(one.get_xdata()) < 3.5, "quantiles need 10 numbers beyond them"
    assert "uniform reaches -1.7 and 1.7 at ±3.3" in picture.alt


def test_normal_quantiles_needs_1000_numbers():
    with pytest.raises(ValueError, match="at least 1,000 numbers, got 999"):
        figures.normal_quantiles({"few": range(999)})


def test_curves_sorts_points_by_x_and_describes_the_lines():
    series = {"held out": {4: 0.25, 1: 1.5, 8: 0.5}, "training": {1: 1.0, 8: 0.125}}
    picture = figures.curves(series, xlabel="rank", ylabel="loss", log="xy")
    first, second = first_axes(picture).lines
    assert list(first.get_xdata()) == [1, 4, 8] and list(first.get_ydata()) == [1.5, 0.25, 0.5]
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()
    assert first_axes(picture).get_xscale() == first_axes(picture).get_yscale() == "log"
    assert list(first_axes(picture).get_xticks()) == [1, 4, 8]
    assert picture.alt == (
        "Lines of loss over rank: held out from 1.5 at 1 to 0.5 at 8, lowest 0.25 at 4; "
        "training from 1 at 1 to 0.125 at 8, lowest 0.125 at 8."
    )


def test_a_line_of_a_chart_is_named_at_its_end():
    lines = {"low": {1: 0.0, 2: 1.0}, "high": {1: 0.0, 2: 9.0}, "as high": {1: 5.0, 2: 9.1}}
    picture = figures.curves(lines, xlabel="x", ylabel="y")
    boxes = text_boxes(picture)
    axes = first_axes(picture)
    assert boxes["low"].y1 < boxes["high"].y0 and boxes["high"].y1 <= boxes["as high"].y0
    end = axes.transData.transform((2, 1.0))[1]
    assert boxes["low"].y0 < end < boxes["low"].y1
    assert all(axes.get_window_extent().x1 < box.x0 for box in boxes.values())


def test_a_line_that_has_the_name_of_a_quantity_has_its_colour():
    points = {1: 2.0, 2: 4.0}
    names = ["some", "gradients", "weights"]
    picture = figures.curves(dict.fromkeys(names, points), xlabel="x", ylabel="y")
    drawn = [line.get_color() for line in first_axes(picture).lines]
    assert drawn[1:] == [palette.GRADIENTS, palette.WEIGHTS]


def test_curves_marks_what_the_text_speaks_of():
    points = {1: 2.0, 2: 4.0, 4: 8.0}
    levels = {"T4": 5.0, "the claim": (6.0, 7.0)}
    picture = figures.curves(
        {"a": points}, xlabel="x", ylabel="y", mark={2: "here"}, levels=levels, title="It grows"
    )
    axes = first_axes(picture)
    level, mark, ring = axes.lines[1:]
    assert list(level.get_ydata()) == [5, 5] and list(mark.get_xdata()) == [2, 2]
    assert ring.get_xydata().tolist() == [[2, 4]]
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (6, 1)
    assert {"here", "T4", "the claim"} <= {text.get_text() for text in axes.texts}
    assert picture.figure.get_suptitle() == "It grows"
    assert picture.alt.endswith(
        "; a line at T4, 5; a line at the claim, 6 to 7; marked at 2: here."
    )


@pytest.mark.parametrize("lowest, exponents", [(2e-5, range(-4, 0)), (0.002, None)])
def test_small_numbers_on_a_log_scale_have_powers_of_ten_as_ticks(lowest, exponents):
    picture = figures.curves({"a": {1: 0.3, 2: lowest}}, xlabel="x", ylabel="y", log="y")
    measured(picture)
    axes = first_axes(picture)
    shown = [
        label.get_text()
        for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if lowest <= tick <= 0.3
    ]
    powers = [rf"$\mathdefault{{10^{{{n}}}}}$" for n in exponents or ()]
    assert shown == (powers or ["0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2"])


def test_relative_bars_show_by_how_much_a_value_differs_from_the_first():
    values = {"merged": 20.0, "apart": 25.0, "less": 19.0, "nearly": 19.99}
    picture = figures.relative_bars(values, "ms")
    texts = {text.get_text() for text in first_axes(picture).texts}
    assert {"20", "25", "+25%", "19", "-5%", "+0%"} <= texts
    bars = "merged 20; apart 25 (+25%); less 19 (-5%); nearly 19.99 (+0%)"
    assert picture.alt == f"Bars of ms: {bars}."


def test_pareto_draws_every_run_and_names_the_ways_at_their_medians():
    runs = {"full": [(1.0, 4.0), (3.0, 5.0), (2.0, 9.0)], "LoRA": [(0.5, 8.0)]}
    picture = figures.pareto(runs, xlabel="source", ylabel="target")
    axes = first_axes(picture)
    dots = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() != "None"]
    assert dots == [[[1, 4], [3, 5], [2, 9]], [[0.5, 8]]]
    assert {text.get_text(): text.xy for text in axes.texts} == {"full": (2, 5), "LoRA": (0.5, 8)}
    assert "full at 2 and 5, 3 runs; LoRA at 0.5 and 8, 1 runs" in picture.alt


def test_pareto_names_a_way_at_the_end_of_its_path():
    paths = {"full": [(1.0, 4.0), (2.0, 3.0)]}
    picture = figures.pareto({"full": [(1.0, 4.0)]}, xlabel="x", ylabel="y", paths=paths)
    assert [[1, 4], [2, 3]] in [line.get_xydata().tolist() for line in first_axes(picture).lines]
    assert {text.get_text(): text.xy for text in first_axes(picture).texts} == {"full": (2, 3)}
    assert "full at 1 and 4, 1 runs, with a line through 1 and 4, 2 and 3." in picture.alt


def test_the_names_of_ways_in_a_pareto_picture_do_not_overlap():
    runs = {name: [(1, 2)] for name in ("full", "LoRA, all linear", "LoRA, q and v")}
    runs["far"] = [(3, 4)]
    boxes = list(text_boxes(figures.pareto(runs, xlabel="x", ylabel="y")).values())
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_curves_with_many_points_have_no_markers():
    picture = figures.curves({"a": dict.fromkeys(range(21), 2.0)}, xlabel="step", ylabel="loss")
    assert first_axes(picture).get_xscale() == first_axes(picture).get_yscale() == "linear"
    assert first_axes(picture).lines[0].get_marker() == "None"


def test_spectrum_shows_the_largest_values_in_descending_order():
    picture = figures.spectrum({"true": [0.0, 4.0, 8.0], "LoRA": [7.5, 0.0, 0.25]}, shown=2)
    assert [bar.get_height() for bar in first_axes(picture).patches] == [8, 4, 7.5, 0.25]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in first_axes(picture).patches]
    assert centres == pytest.approx([0.8, 1.8, 1.2, 2.2])
    assert picture.alt == "Bars of singular values: true 8.00, 4.00; LoRA 7.50, 0.25."


@pytest.mark.parametrize("zero", [True, False])
def test_measurements_show_every_value_and_the_median(zero):
    picture = figures.measurements({"apart": [12, 14, 40], "merged": [10, 10]}, "ms", zero=zero)
    dots = [line for line in first_axes(picture).lines if line.get_marker() == "o"]
    medians = [line for line in first_axes(picture).lines if line.get_marker() != "o"]
    assert {text.get_text() for text in first_axes(picture).texts} == {"14", "10"}
    assert [list(line.get_xdata()) for line in dots] == [[10, 10], [12, 14, 40]]
    assert [list(line.get_xdata()) for line in medians] == [[10, 10], [14, 14]]
    names = [label.get_text() for label in first_axes(picture).get_yticklabels()]
    # From the bottom to the top: the first row is on top.
    assert names == ["merged", "apart"]
    assert (first_axes(picture).get_xlim()[0] == 0) == zero
    assert picture.alt == (
        "Dots of ms, with medians: apart 14, from 12 to 40; merged 10, from 10 to 10."
    )


def test_measurements_on_a_log_scale():
    axes = first_axes(figures.measurements({"apart": [0.1, 1, 10]}, "kurtosis", log=True))
    assert axes.get_xscale() == "log" and axes.get_xlim()[0] > 0


def test_next_tokens_has_a_panel_for_each_prompt_with_the_likeliest_token_on_top():
    prompts = {"The cost is $5 or $": [("·6", 0.75), ("·7", 0.2)], "Once": [("·upon", 0.5)]}
    picture = figures.next_tokens(prompts)
    left, right = picture.figure.axes
    assert [bar.get_width() for bar in left.patches] == [0.75, 0.2]
    assert left.yaxis_inverted() and [t.get_text() for t in left.get_yticklabels()] == ["·6", "·7"]
    assert [bar.get_width() for bar in right.patches] == [0.5]
    assert "after “Once”: ·upon 50%" in picture.alt and "·6 75%, ·7 20%" in picture.alt
    texts = [left._left_title, *left.get_yticklabels()]
    # A $ must not begin a formula.
    assert not any(text.get_parse_math() for text in texts)


def test_token_probabilities_have_a_row_for_each_token():
    picture = figures.token_probabilities(["a", "b"], {"before": [0.1, 0.2], "after": [0.9, 1.0]})
    *ranges, before, after = first_axes(picture).lines
    assert [list(line.get_xdata()) for line in ranges] == [[0.1, 0.9], [0.2, 1.0]]
    assert before.get_xydata().tolist() == [[0.1, 0], [0.2, 1]]
    assert after.get_xydata().tolist() == [[0.9, 0], [1.0, 1]]
    assert before.get_markerfacecolor() != after.get_markerfacecolor()
    assert first_axes(picture).yaxis_inverted(), "the first token is on top"
    assert "before: a 10%, b 20%; after: a 90%, b 100%" in picture.alt


def test_many_token_probabilities_are_drawn_in_two_panels():
    texts = [f"t{n}" for n in range(17)]
    picture = figures.token_probabilities(texts, {"before": [0.1] * 17, "after": [0.9] * 17})
    left, right = (
        [label.get_text() for label in axes.get_yticklabels()] for axes in picture.figure.axes
    )
    assert (left, right) == (texts[:9], texts[9:])
    heights = {axes.get_ylim() for axes in picture.figure.axes}
    assert heights == {(8.5, -0.5)}, "both panels have rows of the same height"


def test_cost_lines_shades_between_the_lines_that_meet():
    ways = {"a": (0.0, 3.0), "b": (9.0, 1.0), "c": (500.0, 10.0)}
    axes = first_axes(figures.cost_lines(ways, "euro", {"a": 4.5}))
    (area,) = (shape for shape in axes.collections if isinstance(shape, PolyCollection))
    corners = area.get_paths()[0].vertices.tolist()
    assert [9, 27] in corners and [9, 18] in corners


def test_cost_lines_marks_the_break_even_point():
    ways = {"prompted": (0.0, 3.0), "tuned": (100.0, 1.0)}
    picture = figures.cost_lines(ways, "euro", {"tuned": 50})
    prompted, tuned, mark = first_axes(picture).lines
    assert prompted.get_xydata().tolist() == [[0, 0], [100, 300]]
    assert tuned.get_xydata().tolist() == [[0, 100], [100, 200]]
    (saved,) = first_axes(picture).collections
    corners = {tuple(corner) for corner in saved.get_paths()[0].vertices.tolist()}
    assert corners == {(50, 150), (100, 200), (100, 300)}
    assert prompted.get_linestyle() != tuned.get_linestyle()
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (50, 150)
    assert "tuned: 100 once, plus 1 for each request" in picture.alt
    assert picture.alt.endswith("Break-even: tuned at 50 requests.")


def test_marked_tokens_describe_in_words_which_tokens_are_graded():
    shown = figures.MarkedTokens(["<|im_start|>", "ask↵", "a&b", "·c"], [False, False, True, True])
    summary = "2 of 4 tokens are graded: underlined, between [graded: and :graded]."
    assert str(shown) == f"<|im_start|>ask↵\n[graded: a&b·c :graded]\n{summary}"
    page = shown._repr_html_()
    assert "&lt;|im_start|&gt;" in page and "a&amp;b" in page and summary in page
    assert page.count("text-decoration:underline") == 2
    assert page.index("[graded: ") < page.index("a&amp;b") < page.index(" :graded]")


LOSSES = figures.TokenLosses(["a&b", "·c", "d↵"], [9.0, 0.5, 2.5], [False, True, True])


def test_token_losses_colours_the_graded_tokens_by_loss():
    page = LOSSES._repr_html_()
    opacities = [
        int(alpha, 16) for alpha in re.findall(rf"background:{palette.RED}(\w\w)[\";]", page)
    ]
    assert opacities == [round(0.6 * 255 * 0.2), round(0.6 * 255)]
    assert page.count("border-style:dashed") == 1
    assert "a&amp;b: loss 9.00, p = 0.00012" in page and ">2.50</small>" in page
    assert LOSSES.summary in page
    assert LOSSES.summary == (
        "2 graded tokens, mean loss 1.50 nats, highest: d↵ 2.50, ·c 0.50; "
        "1 more are not graded (dashed)."
    )
    assert figures.TokenLosses(["a", "b"], [1.0, 3.0]).summary.startswith(
        "2 tokens, mean loss 2.00 "
    )
    assert str(LOSSES) == f"a&b(9.00) ·c(0.50) d↵(2.50)\n{LOSSES.summary}"


def test_losses_of_many_tokens_are_not_written():
    assert "<small" not in figures.TokenLosses(["a"] * 41, [1.0] * 41)._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [1.0, 2.0]), "got 1, 2 and 1 items"),
        ((["a"], [1.0], [True, True]), "got 1, 1 and 2 items"),
        ((["a"], [1.0], [False]), "at least one token must be graded"),
    ],
)
def test_token_losses_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        figures.TokenLosses(*arguments)


def test_marked_tokens_needs_a_mark_for_each_token():
    with pytest.raises(ValueError, match="got 2 and 1 items"):
        figures.MarkedTokens(["a", "b"], [True])


LONG = {f"a long name of a bar {n}": (n + 1) * 1e9 for n in range(9)}
SCORES = pandas.DataFrame(
    {
        (name, part): [1.0, 0.86, 0.66, 0.3]
        for name in ("zero-shot", "few-shot", "tuned")
        for part in ("mean", "low", "high")
    },
    index=list(evaluation.METRICS.values()),
)
NF4_LINE = [-1.0, -0.5, 0.0, 0.25, 0.75, 1.0]
CHARTS = {
    "curves": lambda: figures.curves(
        {"a": {1: 1.0, 9: 2.0}, "b": {1: 3.0, 9: 2.1}},
        **{"xlabel": "x", "ylabel": "y", "title": "long " * 20, "levels": {"T4": 2.05}},
        mark={9: "the text is here"},
    ),
    "histograms": lambda: figures.histograms({"a": [1, 2, 5], "b": [0, 3]}, ["x", "y"], title="t"),
    "measurements": lambda: figures.measurements({"a": [1, 2, 5], "b": [2.5]}, "ms", title="t"),
    "relative": lambda: figures.relative_bars({"merged": 10.0, "a longer name": 25.0}, "ms"),
    "pareto": lambda: figures.pareto({"full": [(1, 2), (3, 1)]}, xlabel="x", ylabel="y", title="t"),
    "bars": lambda: figures.memory_bars({"full": LONG, "b": {"weights": 3e9}}, CARDS, title="t"),
    "prediction_errors": lambda: figures.prediction_errors(
        {name: (1e9, 1.0005e9) for name in LONG}, title="t"
    ),
    "tokens": lambda: figures.next_tokens(
        {"A prompt of words " * 3: [("·a", 0.97)], "b": [("·c", 0.1)]}
    ),
    "slopes in two panels": lambda: figures.token_probabilities(
        list("abcdefghijklmnopqr"), {"before": [0.1] * 18, "after": [0.9] * 18}, title="t"
    ),
    "slopes": lambda: figures.token_probabilities(list("abcdefghij"), {"before": [0.1] * 10}),
    "cost": lambda: figures.cost_lines({"a": (0.0, 3.0), "b": (9.0, 1.0)}, "euro", {"a": 4.5}),
    "spectrum": lambda: figures.spectrum({"a": range(9)}, rank=3, title="t"),
    "bins": lambda: figures.bins(
        {"a": [0.1, 0.5], "b": [0.2]}, {"int4": [n / 7 for n in range(-7, 8)]}
    ),
    "code use": lambda: figures.code_use(
        {"a": {0: 0.5, 1: 0.5}, "b": dict.fromkeys(range(-7, 8), 0.1)}
    ),
    "bits": lambda: figures.bits_per_weight({"a": {"codes": 4, "constants": 0.5}}, "a"),
    "loss": lambda: figures.loss_curve(HISTORY),
    "learning": lambda: figures.learning_curve(HISTORY, ANSWERS, 42, "t").picture,
    "scores": lambda: figures.score_bars(SCORES, title="t"),
    "rounding": lambda: figures.rounding_line(NF4_LINE, 0.25, 0.01, title="long " * 20),
    "rounding to the left": lambda: figures.rounding_line(NF4_LINE, -0.5, 0.2, "float16"),
    "reach": lambda: figures.update_reach([0.01, 0.2, 3.0], title="t"),
    "differences": lambda: figures.differences(
        {"a long name of a row": (-1.0, -30.0, 20.0), "b": (0.0, -1.0, 2.0)},
        5,
        xlabel="x",
        conclusions={"a long name of a row": "different", "b": "equal"},
        title="long " * 20,
    ),
    "seeds": lambda: figures.seed_lines(
        {"a": {1: [1.0, 2.0], 2: [3.0]}}, xlabel="x", ylabel="y", levels={"b": 1.5}, title="t"
    ),
    "heat map": lambda: figures.heat_map(
        {str(2**n): {f"{m / 1e3:g}": float(m) for m in range(1, 8)} for n in range(7)},
        xlabel="x",
        ylabel="y",
        unit="z",
        mark={("8", "0.002"): "yours"},
        title="t",
    ),
}


@pytest.mark.parametrize("draw", CHARTS.values(), ids=CHARTS)
def test_texts_of_charts_are_inside_the_picture_and_large_enough_on_a_slide(draw):
    assert problems(draw()) == []


# --- merging --------------------------------------------------------------------------------------


def places(picture, colour):
    """Return the places of the dots of a colour, from the upper to the lower number line."""
    dots = [d for d in first_axes(picture).collections if to_hex(d.get_edgecolors()[0]) == colour]
    return [tuple(dot.get_offsets()[0]) for dot in dots]


def test_rounding_line_shows_an_update_too_short_for_nf4_but_not_for_16_bits():
    picture = figures.rounding_line(NF4_LINE, 0.25, 0.01)
    (coarse, fine), (nf4, bfloat16) = places(picture, WEIGHTS), places(picture, INK)
    assert nf4 == coarse and bfloat16 > fine
    assert "The update +0.0100 covers 4% of the way to the midpoint" in picture.alt
    assert "rounded to 0.2500: 0% of the update is left" in picture.alt
    # Between 0.25 and 0.5, the distance of two numbers in bfloat16 is 1/512.
    assert "passes 5 numbers, and the sum is rounded to 0.2598: 98% of the update" in picture.alt


def test_rounding_line_shows_an_update_that_crosses_the_midpoint():
    picture = figures.rounding_line(NF4_LINE, -0.5, 0.249)
    assert "rounded to −0.5000: 0% of the update is left" in picture.alt
    picture = figures.rounding_line(NF4_LINE, -0.5, 0.25)
    assert "covers 100% of the way" in picture.alt
    picture = figures.rounding_line([-1.0, -0.5, -0.2, 0.0, 1.0], -0.5, 0.2, "float16")
    (coarse, _), (nf4, _) = places(picture, WEIGHTS), places(picture, INK)
    assert nf4 > coarse
    assert "rounded to −0.2000: 150% of the update is left. In float16" in picture.alt


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
@pytest.mark.parametrize("window", [(0.24, 0.26), (-1.1, -0.9), (3.0, 5.0)])
def test_the_numbers_on_a_line_are_all_numbers_of_the_format(window, dtype, torch_dtype):
    low, high = window
    numbers = sorted(merging._floats(low, high, merging.SIGNIFICANT[dtype]))
    expected = torch.linspace(low, high, 10**5, dtype=torch.float64).to(torch_dtype).unique()
    expected = [n for n in expected.double().tolist() if low <= n <= high]
    assert numbers == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("share", [1e-4, 1e-3, 4e-3, 0.02, 0.49])
@pytest.mark.parametrize("level", [0.1125, -0.2346, 0.4523])
def test_rounding_line_rounds_an_update_of_any_size_as_torch_does(level, share, dtype):
    levels, update = [-1.0, -0.2346, 0.0, 0.1125, 0.4523, 1.0], abs(level) * share
    picture = figures.rounding_line(levels, level, update, dtype)
    rounded = torch.tensor(level + update, dtype=torch.float64).to(getattr(torch, dtype)).item()
    left = (rounded - level) / update + 0.0
    wanted = f"rounded to {rounded:.4f}: {left:.0%} of the update left".replace("-", "−")
    assert wanted in [t.get_text().replace("-", "−") for t in picture.figure.axes[0].texts]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NF4_LINE, 0.3, 0.01), "weight must be one of the inner levels"),
        ((NF4_LINE, 0.0, 0.01), "weight must be one of the inner levels"),
        ((NF4_LINE, 1.0, 0.01), "weight must be one of the inner levels"),
        ((NF4_LINE, 0.25, 0.0), "at most half as large as the weight 0.25, but not 0: got 0.0"),
        ((NF4_LINE, 0.25, -0.2), "at most half as large as the weight 0.25"),
        ((NF4_LINE, 0.25, 0.01, "nf4"), "dtype must be 'bfloat16' or 'float16', got 'nf4'"),
    ],
)
def test_rounding_line_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        figures.rounding_line(*arguments)


def test_update_reach_shows_how_many_updates_reach_beyond_the_midpoint():
    picture = figures.update_reach([[0.0, 0.01], [0.02, 0.2], [0.3, 30.0]])
    below, beyond = (patch.get_data().values for patch in first_axes(picture).patches)
    assert below.sum() == pytest.approx(100 * 4 / 6)
    assert beyond.sum() == pytest.approx(100 / 6)
    assert "16.67% reach\nbeyond" in {text.get_text() for text in first_axes(picture).texts}.pop()
    assert "for 6 weights: the median is 0.110, and 16.67% are beyond 1" in picture.alt


# --- memory ---------------------------------------------------------------------------------------


def bars_of(picture):
    """Return a dict from each row, as a place on the y axis, to [(left, width), …]."""
    rows = {}
    for bar in first_axes(picture).patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        rows.setdefault(row, []).append((bar.get_x(), bar.get_width()))
    return rows


def text_boxes(picture):
    """Draw a picture, and return a dict from each text to its bounding box in pixels."""
    picture.figure.draw_without_rendering()
    return {text.get_text(): text.get_window_extent() for text in first_axes(picture).texts}


# The calculator has eight groups, too. Together these groups have 36 GB.
GROUPS = {name: (n + 1) * 1e9 for n, name in enumerate(memory.GROUPS)}
CARDS = {"T4": 15.3e9, "RTX 4090": 24.8e9, "A100-40": 41.9e9, "A100-80": 84.4e9, "H100": 84.3e9}


def test_memory_bars_draws_each_group_in_the_colour_of_the_quantity():
    picture = figures.memory_bars({"one": GROUPS}, {})
    (bars,) = bars_of(picture).values()
    assert bars == [(sum(range(1, n + 1)), n + 1) for n in range(8)]
    drawn = [to_hex(bar.get_facecolor()) for bar in first_axes(picture).patches]
    assert len(set(drawn)) == 8
    assert drawn[:4] == [palette.WEIGHTS, palette.ADAPTERS, palette.GRADIENTS, palette.OPTIMIZER]
    assert picture.alt.startswith("Stacked bars of memory: one 36.00 GB (weights 1.00 GB, adapters")


def test_every_part_of_a_memory_bar_is_named_once_in_the_bar_or_in_the_legend():
    texts = list(text_boxes(figures.memory_bars({"one": GROUPS}, CARDS)))
    named = " ".join(texts).replace("\n", " ")
    assert all(named.count(name) == 1 for name in GROUPS), named


def test_memory_bars_shows_the_totals_and_leaves_empty_groups_out_of_the_alt_text():
    columns = {"a": {"weights": 2e9, "adapters": 0}, "b": {"weights": 1.5e9}}
    picture = figures.memory_bars(columns, {})
    assert bars_of(picture) == {0: [(0, 2), (2, 0)], 1: [(0, 1.5)]}
    assert first_axes(picture).yaxis_inverted(), "the first bar is on top"
    assert {"2.00 GB", "1.50 GB"} <= set(text_boxes(picture))
    assert picture.alt == (
        "Stacked bars of memory: a 2.00 GB (weights 2.00 GB); b 1.50 GB (weights 1.50 GB)."
    )


def test_the_legend_of_memory_bars_leaves_out_parts_too_narrow_to_be_visible():
    parts = {"weights": 10e9, "adapters": 100e6, "logits and loss": 10e6}
    picture = figures.memory_bars({"one": parts})
    assert "adapters" in text_boxes(picture) and "logits and loss" not in text_boxes(picture)
    assert "logits and loss 10.00 MB" in picture.alt


def test_memory_bars_marks_the_limits_of_gpus_within_the_axis():
    picture = figures.memory_bars({"one": GROUPS}, CARDS)
    assert [line.get_xdata()[0] for line in first_axes(picture).lines] == [15.3, 24.8]
    assert picture.alt.endswith("T4 at 15.30 GB, RTX 4090 at 24.80 GB.")
    assert "GPU" not in figures.memory_bars({"one": {"weights": 1e9}}, CARDS).alt


def test_memory_bars_are_higher_by_the_lines_of_their_title():
    def height(title):
        return figures.memory_bars({"one": GROUPS}, CARDS, title=title).figure.get_figheight()

    longest = "a" * base.line_length(7)
    one, two = height(longest), height(f"{longest} a")
    assert height("short") == one
    assert two - one == pytest.approx(one - height(""))


def test_the_axis_of_memory_bars_extends_to_reach():
    picture = figures.memory_bars({"one": {"weights": 1e9}}, CARDS, reach=CARDS["RTX 4090"])
    assert [line.get_xdata()[0] for line in first_axes(picture).lines] == [15.3, 24.8]
    assert first_axes(picture).get_xlim()[1] > 24.8


@pytest.mark.parametrize(("size", "width", "unit"), [(30e6, 0.03, "GB"), (9e6, 9, "MB")])
def test_the_axis_of_memory_bars_is_in_mb_if_a_model_is_tiny(size, width, unit):
    picture = figures.memory_bars({"one": {"weights": size}})
    assert bars_of(picture) == {0: [(0, pytest.approx(width))]}
    assert first_axes(picture).get_xlabel().startswith(unit)
    assert f"{size / 1e6:.2f} MB" in text_boxes(picture)


@pytest.mark.parametrize("total", [15.4e9, 20e9, 36e9, 72e9, 100e9, 400e9, 3e12])
def test_texts_of_memory_bars_neither_overlap_nor_leave_the_picture(total):
    picture = figures.memory_bars({"full fine-tuning": {"weights": total}, "b": GROUPS}, CARDS)
    boxes = list(text_boxes(picture).values())
    for n, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= picture.figure.bbox.x1
        assert box.y0 >= 0 and box.y1 <= picture.figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[n + 1 :])


@pytest.mark.parametrize("total", [15.4e9, 20e9, 36e9, 72e9, 100e9])
def test_no_text_of_memory_bars_is_on_the_line_of_a_gpu(total):
    picture = figures.memory_bars({"full": {"weights": total}, "b": GROUPS}, CARDS)
    boxes = text_boxes(picture).values()
    lines = [line.get_window_extent() for line in first_axes(picture).lines]
    assert lines and not [box for box in boxes for line in lines if box.overlaps(line)]


def test_gpu_lines_that_nearly_coincide_share_a_label():
    assert "H100, A100-80" in text_boxes(figures.memory_bars({"one": {"weights": 90e9}}, CARDS))


def test_prediction_errors_are_bars_and_the_largest_is_named():
    rows = {"a": (2e9, 2.01e9), "b": (4e9, 3.99e9)}
    picture = figures.prediction_errors(rows)
    axes = first_axes(picture)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.5, -0.25])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted() and [text.get_text() for text in axes.texts] == ["worst: +0.50%"]
    assert picture.alt == (
        "Errors of predictions of 2.00 GB to 4.00 GB: a +0.50%, b -0.25%. The largest is +0.50%, a."
    )


@pytest.mark.parametrize(("guess", "reach"), [(1.1e9, 12.5), (0.999e9, 0.125), (1e9, 1)])
def test_the_axis_of_errors_extends_equally_far_to_both_sides(guess, reach):
    axes = first_axes(figures.prediction_errors({"a": (1e9, guess), "b": (1e9, 1e9)}))
    assert axes.get_xlim() == pytest.approx((-reach, reach))


# --- timeline of memory ---------------------------------------------------------------------------

LONG_STEP = {"gpu": "T4", "lengths": (1024, 4096), "rank": 64, "targets": "all-linear"}


def timeline(**options):
    return simulate("llama-3.1-8b", "qlora", **LONG_STEP | {"double_quant": True} | options)


def areas(axes):
    return [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]


def test_a_view_has_the_moments_of_its_steps_and_their_positions():
    run = timeline(lengths=(1024, 512, 2048))
    view = TimelineView.of(run, steps=[3, 1])
    moments = run.phases_per_step
    wide = moments // 12
    assert view.steps == (1, 3) and view.failed is None and view.has_pages
    assert view.moments == view.events == tuple(e for e in run.events if e.step != 2)
    widths = [right - left for left, right in pairwise(view.edges)]
    assert {m.name: w for m, w in zip(view.moments, widths, strict=True) if w == wide} == {
        "the loss": wide,
        "the update": wide,
    }
    assert set(widths) == {1, wide} and wide > 1
    assert view.edges[-1] == view.width == 2 * (moments - 2 + 2 * wide)
    half = view.step_width / 2
    assert view.step_labels() == {
        "step 1\n1,024 tokens": half,
        "step 3\n2,048 tokens": 3 * half,
    }


def test_the_areas_of_a_view_add_up_to_all_bytes_on_the_gpu():
    view = TimelineView.of(timeline(upcast=False))
    totals = [sum(sizes) for sizes in zip(*(area.sizes for area in view.areas()), strict=True)]
    assert totals == [moment.total for moment in view.moments]


def test_a_view_ends_with_the_moment_at_which_memory_ran_out():
    run = timeline(upcast=False, optimizer="adamw")
    view = TimelineView.of(run)
    assert view.failed is view.moments[-1] is run.out_of_memory
    assert view.events == run.events and not view.has_pages
    assert view.steps == (1, 2) and view.edges[-1] < view.width
    first = TimelineView.of(run, steps=[1])
    assert first.failed is None and first.moments == first.events


def test_the_phases_of_each_step_are_in_order():
    view = TimelineView.of(timeline(upcast=False))
    names, middles = zip(*view.phases(), strict=True)
    assert names == 2 * ("forward", "loss", "backward", "update")
    assert list(middles) == sorted(middles)
    wide = view.run.phases_per_step // 12
    assert [middles[3], middles[7]] == [view.step_width - wide / 2, view.width - wide / 2]
    loss = [n for n, moment in enumerate(view.moments) if moment.name == "the loss"]
    assert [middles[1], middles[5]] == [view.edges[n] + wide / 2 for n in loss]


def test_the_phases_of_several_steps_are_signs_below_the_axis():
    run = timeline(upcast=False, optimizer="adamw")
    axes = figures.memory_timeline(run).figure.axes[-1]
    signs = [label.get_text() for label in axes.get_xticklabels(minor=True)]
    assert signs == ["", "①", "②", "③", "", "①"], "step 2 ends at the loss"
    assert "① loss  →  ② backward  →  ③ update" in axes.get_xlabel()


@pytest.mark.parametrize(("gpu", "start"), [("T4", 5), (10**9, 0)])
def test_the_axis_of_a_timeline_begins_below_the_weights(gpu, start):
    run = timeline(gpu=gpu, upcast=False)
    axes = figures.memory_timeline(run).figure.axes[0]
    assert axes.get_ylim()[0] == start and run.budget / 1e9 < axes.get_ylim()[1]
    assert (f"axis from {start}" in axes.get_ylabel()) == (start > 0)


def test_a_timeline_stacks_the_areas_up_to_all_bytes_at_each_moment():
    run = timeline(upcast=False)
    top, bottom = figures.memory_timeline(run).figure.axes
    highest = top.patches[-1].get_data()
    assert list(highest.values) == pytest.approx([e.total / 1e9 for e in run.events])
    assert not top.containers, "only a failure is drawn as a bar"
    assert max(highest.values) <= top.lines[0].get_ydata()[0] == run.budget / 1e9
    below = [area.get_data() for area in top.patches]
    for lower, upper in pairwise(below):
        assert list(upper.baseline) == list(lower.values)
    assert list(bottom.patches[0].get_data().values) == [e.cpu / 1e9 for e in run.events]
    looks = {(area.get_facecolor(), area.get_hatch()) for area in top.patches}
    assert len(looks) == len(top.patches)
    assert [text.get_text() for text in bottom.get_xticklabels()] == [
        "step 1\n1,024 tokens",
        "step 2\n4,096 tokens",
    ]


def test_the_alt_text_of_a_timeline_describes_the_pages():
    run = timeline(upcast=False)
    assert figures.memory_timeline(run).alt == (
        "Areas of memory over the moments of llama-3.1-8b, steps of 1,024, 4,096 tokens, up to "
        "15.10 GB under a line at 15.10 GB, the end of T4. Up to 1.13 GB of pages in CPU memory, "
        "2.27 GB moved."
    )


def test_a_timeline_marks_the_moment_at_which_memory_ran_out():
    run = timeline(upcast=False, optimizer="adamw")
    picture = figures.memory_timeline(run)
    # A run without pages has no second panel.
    (axes,) = picture.figure.axes
    cross, highest, (bar,) = axes.lines[1], areas(axes)[-1], axes.containers[0]
    start, end = highest.edges[-2:]
    assert highest.values[-1] == bar.get_height() == pytest.approx(run.out_of_memory.total / 1e9)
    assert (bar.get_x(), bar.get_width()) == (start, end - start)
    assert highest.values[-1] > run.budget / 1e9 >= max(highest.values[:-1])
    assert cross.get_marker() == "X" and start < cross.get_xdata()[0] < end
    assert cross.get_ydata()[0] == bar.get_height() < axes.get_ylim()[1]
    assert "out of memory: the loss,\n16.23 GB needed" in {t.get_text() for t in axes.texts}
    assert picture.alt.endswith("Out of memory in step 2 at the loss: 16.23 GB needed.")


def test_a_timeline_of_one_step_labels_the_phases():
    run = timeline(upcast=False)
    bottom = figures.memory_timeline(run, steps=[2]).figure.axes[-1]
    ticks = [text.get_text() for text in bottom.get_xticklabels()]
    assert ticks == ["forward", "loss", "backward", "update"]
    assert bottom.get_xlabel() == "step 2, 4,096 tokens"
    cut = timeline(upcast=False, optimizer="adamw")
    ticks = figures.memory_timeline(cut, steps=[2]).figure.axes[-1].get_xticklabels()
    assert [text.get_text() for text in ticks] == ["forward", "loss"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("gpu", "end"), [(10**9, "463.13 MB"), (10**8, "0 B")])
def test_a_timeline_of_a_run_that_never_began(gpu, end):
    picture = figures.memory_timeline(timeline(gpu=gpu))
    (axes,) = picture.figure.axes
    assert {len(area.values) for area in areas(axes)} == {1} and axes.get_ylim()[1] >= 1
    assert f"up to 0 B under a line at {end}, the end of the GPU. Out of memory" in picture.alt
    picture._repr_html_()


def test_a_timeline_shows_each_step_once_and_in_order():
    run = timeline(lengths=(1024, 512, 2048))
    bottom = figures.memory_timeline(run, steps=[3, 1, 3]).figure.axes[-1]
    ticks = [text.get_text() for text in bottom.get_xticklabels()]
    assert ticks == ["step 1\n1,024 tokens", "step 3\n2,048 tokens"]
    (area,) = areas(bottom)
    shown = [e for e in run.events if e.step != 2]
    assert list(area.values) == [e.cpu / 1e9 for e in shown]


def test_steps_that_never_began_raise_an_error():
    with pytest.raises(ValueError, match=r"from 1 to 2, which is the last .* began, got \[3\]"):
        figures.memory_timeline(timeline(), steps=[3])
    cut = timeline(lengths=(1024, 4096, 1024), optimizer="adamw")
    assert cut.out_of_memory.step == 2
    with pytest.raises(ValueError, match=r"from 1 to 2, which is the last .* got \[2, 3\]"):
        figures.memory_timeline(cut, steps=[2, 3])


def test_the_legend_leaves_out_areas_that_are_too_thin():
    run = timeline(upcast=False)
    top = figures.memory_timeline(run).figure.axes[0]
    named = [text.get_text() for text in top.get_legend().get_texts()]
    areas = TimelineView.of(run).areas()
    thick = [area.label for area in areas if max(area.sizes) >= 0.005 * run.budget]
    assert named == thick[::-1] and len(thick) < len(areas)
    assert 0 < max(event.gpu["optimizer"] for event in run.events) < 0.005 * run.budget


# --- a measured step ------------------------------------------------------------------------------

MEASURED = {
    "forward": [1e6, 2e6],
    "loss": [5e6, 9e6, 4e6],
    "backward of layer 2": [4e6, 6e6, 3e6, 1e6],
    "backward of layer 1": [3e6, 8e6],
    "update": [2e6],
}


def test_a_phase_has_the_same_place_in_each_step():
    longer = MEASURED | {"forward": [1e6] * 50, "backward of layer 1": [3e6] * 70}
    axes = first_axes(figures.step_phases({"short": MEASURED, "long": longer}))
    lines = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) > 2]
    assert [len(line) for line in lines] == [12, 128]
    top = [next(x for x, y in line if y == 9) for line in lines]
    assert top[0] == top[1], "the loss is at the same place"
    left, loss, backward, update = axes.get_xticks()
    assert left < loss == top[0] < backward < update
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["forward", "loss", "backward,\n2 layers", "update"]


def test_the_highest_point_of_each_measured_step_is_written():
    other = MEASURED | {"loss": [5e6]}
    picture = figures.step_phases({"a": MEASURED, "b": other}, title="It peaks")
    assert {"9.0 MB", "8.0 MB"} <= {text.get_text() for text in first_axes(picture).texts}
    assert picture.alt == (
        "Lines of memory over the phases forward, loss, backward, update of a training step. "
        "a: highest in the phase loss, 9.0 MB; b: highest in the phase backward, 8.0 MB."
    )
    assert problems(picture) == []


def test_a_phase_with_many_operations_keeps_its_highest_points():
    sizes = [1e6] * 10_001
    sizes[5_000] = 7e6
    picture = figures.step_phases({"a": MEASURED | {"forward": sizes, "loss": [1e6]}})
    line = first_axes(picture).lines[0].get_ydata()
    assert max(line) == 8 and 7 in line and len(line) < 1300


def test_predicted_spikes_are_drawn_over_the_measured_layers():
    backward = {name: sizes for name, sizes in MEASURED.items() if "backward" in name}
    picture = figures.layer_spikes(backward, [5.9e6, 8.1e6], title="They meet")
    axes = first_axes(picture)
    measured, *predicted = [line for line in axes.lines if line.get_color() != palette.GREY]
    assert list(measured.get_ydata()) == [4, 6, 3, 1, 3, 8]
    assert [list(line.get_ydata()) for line in predicted] == [[5.9, 5.9], [8.1, 8.1]]
    for n, line in enumerate(predicted):
        assert n < min(line.get_xdata()) < max(line.get_xdata()) < n + 1
    assert [t.get_text() for t in axes.get_xticklabels()] == ["layer 2", "layer 1"]
    assert picture.alt == (
        "Memory in the backward pass, with its highest points: backward of layer 2 6.00 MB "
        "measured, 5.90 MB predicted; backward of layer 1 8.00 MB measured, 8.10 MB predicted."
    )
    assert problems(picture) == []
    (last,) = first_axes(figures.layer_spikes(backward, [5.9e6, 8.1e6], last=1)).get_xticklabels()
    assert last.get_text() == "layer 1"


def test_each_measured_layer_needs_a_prediction():
    with pytest.raises(ValueError, match="there are 1 phases, but 2 predictions"):
        figures.layer_spikes({"backward of layer 1": [1.0]}, [1, 2])


# --- double quantization --------------------------------------------------------------------------

BITS = {
    "plain": {"codes": 4, "constants": 0.5},
    "double": {"codes": 4, "constants": 0.125, "their constants": 0.001953125},
}


def test_bits_per_weight_stacks_the_parts_and_shows_their_sum():
    picture = figures.bits_per_weight(BITS)
    assert bars_of(picture) == {
        1: [(0, 4), (4, 0.5), (4.5, 0)],
        0: [(0, 4), (4, 0.125), (4.125, 0.001953125)],
    }
    texts = [text.get_text().strip() for text in first_axes(picture).texts]
    assert set(texts) == {"4.5 = 4 + 0.5", "4.126953 = 4 + 0.125 + 0.001953"}
    assert picture.alt == "Stacked bars of bits per weight: plain 4.5; double 4.126953125."
    assert len({bar.get_hatch() for bar in first_axes(picture).patches}) == 3


def test_bits_per_weight_marks_the_chosen_row():
    picture = figures.bits_per_weight(BITS, chosen="double")
    (line,) = first_axes(picture).lines
    assert line.get_xdata()[0] == 4.126953125
    bold = [t.get_text() for t in first_axes(picture).get_yticklabels() if t.get_weight() == "bold"]
    assert bold == ["double"] and picture.alt.endswith("4.126953125. Marked: double.")


def test_bits_are_written_without_exponents():
    picture = figures.bits_per_weight({"a": {"codes": 4, "constants": 2**-14}})
    (text,) = first_axes(picture).texts
    assert text.get_text().strip() == "4.000061 = 4 + 0.000061"


def test_a_row_with_one_part_shows_no_sum():
    picture = figures.bits_per_weight({"plain": {"constants": 0.5}})
    assert [text.get_text().strip() for text in first_axes(picture).texts] == ["0.5"]


def test_sums_are_written_to_the_right_of_the_axes():
    picture = figures.bits_per_weight(BITS)
    axes = first_axes(picture)
    # Drawing determines the layout.
    picture.figure.draw_without_rendering()
    end = axes.get_window_extent().x1
    whole = picture.figure.bbox.x1
    for text in axes.texts:
        box = text.get_window_extent()
        assert end <= box.x0 < box.x1 <= whole


def test_histograms_have_a_panel_for_each_sample():
    samples = {"as they are": [1, 2, 3], "less 2": [-1, 0, 1]}
    picture = figures.histograms(samples, ["absmax", "absmax − 2"])
    left, right = picture.figure.axes
    assert [sum(axes.patches[0].get_data().values) for axes in (left, right)] == [3, 3]
    assert [axes.get_title() for axes in (left, right)] == ["as they are", "less 2"]
    assert [axes.lines[0].get_xdata()[0] for axes in (left, right)] == [0, 0]
    assert [axes.get_xlabel() for axes in (left, right)] == ["absmax", "absmax − 2"]
    assert left.get_yscale() == "linear"
    assert picture.alt == (
        "Histograms. as they are, absmax: from 1 to 3, 0% of them below zero; "
        "less 2, absmax − 2: from -1 to 1, 33% of them below zero."
    )


def test_a_count_of_one_is_visible_on_a_log_scale():
    picture = figures.histograms({"a": [*[1.0] * 5000, 9.0]}, ["x"], log=True)
    axes = first_axes(picture)
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 1
    assert axes.patches[0].get_data().values[-1] == 1
    assert axes.yaxis.get_major_formatter()(1000, 0) == "1,000"
    assert axes.get_ylabel() == "how many (log scale)"


def test_guesses_are_drawn_beside_the_answers():
    rows = [
        figures.GuessRow("load", "2.7 times too high", ratio=2.7),
        figures.GuessRow("levels", "wrong: about 7", is_right=False),
        figures.GuessRow("share", "right: $2 and $3", is_right=True),
        figures.GuessRow("far", "a million times too low", ratio=1e-6),
    ]
    picture = figures.guesses_and_answers(rows)
    axes = first_axes(picture)
    dots = {tuple(line.get_ydata()): line for line in axes.lines if line.get_marker() == "o"}
    assert dots[4,].get_xdata()[0] == 2.7
    # A guess that is too far off is drawn at the end of the axis.
    assert dots[1,].get_xdata()[0] == 1e-4 >= axes.get_xlim()[0]
    marks = {line.get_ydata()[0]: line.get_marker() for line in axes.lines if len(line.get_ydata())}
    assert (marks[3], marks[2]) == ("X", "o")
    assert {text.get_text() for text in axes.texts} == {row.text for row in rows}
    assert axes.get_xscale() == "log"
    assert picture.alt == (
        "Your guesses compared with the answers. load: 2.7 times too high; levels: wrong: about 7; "
        "share: right: $2 and $3; far: a million times too low."
    )
    picture._repr_html_()


@pytest.mark.parametrize("reach", [1.0, 2, 7, 40, 400, 4_000, 40_000])
def test_texts_and_ticks_of_guesses_do_not_overlap(reach):
    rows = [figures.GuessRow("a", f"{reach:,} times too high", reach)]
    rows.append(figures.GuessRow("b", f"{reach:,} times too low", 1 / reach))
    picture = figures.guesses_and_answers(rows)
    axes = first_axes(picture)
    picture.figure.draw_without_rendering()
    labels = [label.get_window_extent() for label in axes.get_xticklabels()]
    labels.sort(key=lambda box: box.x0)
    assert len(labels) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(labels))
    texts = [text.get_window_extent() for text in axes.texts]
    assert all(text.x0 >= 0 and text.x1 <= picture.figure.bbox.x1 for text in texts)


def test_choices_alone_need_no_axis():
    picture = figures.guesses_and_answers([figures.GuessRow("a", "right: x", is_right=True)])
    assert len(first_axes(picture).get_xticks()) == 0


def test_the_guesses_of_a_class_are_a_histogram_on_a_log_scale():
    picture = figures.guess_histogram([4.0, 14, 14, 28, 1e9], 5.12, "$x")
    axes = first_axes(picture)
    assert axes.get_xscale() == "log"
    assert sum(bar.get_height() for bar in axes.patches) == 5
    assert axes.lines[0].get_xdata()[0] == 5.12
    assert axes.get_xlabel() == "guess in $x (guesses beyond the scale are counted at its ends)"
    assert picture.alt == (
        "Histogram of 5 guesses: 1 from 2 to 5, 2 from 10 to 20, 1 from 20 to 50, "
        "1 from 50,000 to 100,000. The answer is 5.12 $x."
    )
    picture._repr_html_()


@pytest.mark.parametrize("truth", [None, 0.0, -3.0, 5.0, 1e-30, 1e30])
@pytest.mark.parametrize("guesses", [[0.0], [5.0], [1e30, -1e30, 1e-30], [-1.0, 3.0, 3.0]])
def test_every_guess_is_counted_in_the_histogram(guesses, truth):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = figures.guess_histogram(guesses, truth)
    assert sum(bar.get_height() for bar in first_axes(picture).patches) == len(guesses)
    assert ("The answer is" in picture.alt) == (truth is not None)


# --- lecture 08 -----------------------------------------------------------------------------------


def test_the_experiment_names_all_splits_and_their_jobs():
    splits = {"train": 336, "validation": 48, "test": 96}
    picture = figures.experiment(splits, rates=4, seeds=5)
    written = " ".join(text.get_text() for text in first_axes(picture).texts)
    assert all(f"{name}" in written and str(count) in written for name, count in splits.items())
    assert "choose the learning rate" in written and "5 seeds" in written
    assert "336 train, 48 validation, 96 test" in picture.alt and "4 learning rates" in picture.alt


def test_differences_show_intervals_in_the_band_of_equality():
    rows = {"LoRA": (-1.0, -3.0, 1.0), "QLoRA": (-4.0, -9.0, 1.5)}
    words = {"LoRA": "equal", "QLoRA": "open"}
    picture = figures.differences(rows, 5, xlabel="points", conclusions=words)
    axes = first_axes(picture)
    lines = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert [list(x) for x in lines if list(x) != [0, 0]] == [[-3, 1], [-9, 1.5]]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"] == [
        [-1],
        [-4],
    ]
    (band,) = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == (-5, 5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["LoRA", "QLoRA"]
    assert axes.yaxis_inverted()
    assert "LoRA -1, from -3 to +1: equal; QLoRA -4, from -9 to +1.5: open." in picture.alt
    assert "from -5 to 5 that counts as equal" in picture.alt


def test_seed_lines_go_through_the_means_and_show_every_seed():
    series = {"QLoRA": {42: [50.0, 60.0], 21: [30.0, 34.0]}}
    options = {"xlabel": "stories", "ylabel": "right (%)", "log": "x", "levels": {"prompt": 20.0}}
    picture = figures.seed_lines(series, **options)
    axes = first_axes(picture)
    line, *dots = (line for line in axes.lines if line.get_marker() != "None")
    assert line.get_xydata().tolist() == [[21, 32], [42, 55]]
    assert [dot.get_xydata().tolist() for dot in dots] == [
        [[21, 30], [21, 34]],
        [[42, 50], [42, 60]],
    ]
    assert axes.get_xscale() == "log"
    assert "QLoRA 32 at 21, 55 at 42; a line at prompt, 20." in picture.alt


@pytest.mark.parametrize(("lower", "best"), [(True, ["0.2", "0.1"]), (False, ["0.1", "0.2"])])
def test_the_best_cell_of_each_row_of_a_heat_map_has_a_frame(lower, best):
    values = {"1": {"0.1": 2.5, "0.2": 2.25}, "8": {"0.1": 2.0, "0.2": 2.125}}
    labels = {"xlabel": "learning rate", "ylabel": "rank", "unit": "Loss"}
    picture = figures.heat_map(
        values, **labels, lower_is_better=lower, mark={("8", "0.1"): "yours"}
    )
    axes = first_axes(picture)
    texts = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert {"2.500", "2.250", "2.000\nyours", "2.125"} < set(texts)
    frames = [p.get_extents().x0 for p in axes.patches if to_hex(p.get_edgecolor()) == palette.RED]
    columns = {name: min(abs(texts[name] - x) for x in frames) for name in ("0.1", "0.2")}
    assert len(frames) == 2 and set(columns) == set(best)
    assert "Loss, by rank and learning rate. 1: 2.500 at 0.1, 2.250 at 0.2;" in picture.alt


def test_a_heat_map_sorts_rows_and_columns_that_are_numbers():
    labels = {"xlabel": "x", "ylabel": "y", "unit": "Loss"}
    rows = {"8": {"0.002": 1.0, "0.01": 1.5}, "16": {"0.002": 1.0}, "4": {"0.003": 2.0}}
    axes = first_axes(figures.heat_map(rows, **labels))
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["0.002"][0] < places["0.003"][0] < places["0.01"][0]
    heights = [axes.transData.transform(places[name])[1] for name in ("4", "8", "16")]
    assert heights == sorted(heights, reverse=True)


def test_one_bad_cell_of_a_heat_map_leaves_the_other_cells_their_shades():
    labels = {"xlabel": "x", "ylabel": "y", "unit": "Loss"}
    row = {str(n): 1.0 + n for n in range(11)}
    shades = []
    for bad in (12.0, 1000.0):
        axes = first_axes(figures.heat_map({"1": row | {"bad": bad}}, **labels))
        shades.append(sorted(round(p.get_alpha(), 3) for p in axes.patches if p.get_alpha()))
    assert shades[0] == shades[1] and len(set(shades[0])) > 5


def test_a_heat_map_may_lack_cells_and_may_have_equal_numbers():
    labels = {"xlabel": "x", "ylabel": "y", "unit": "Loss"}
    picture = figures.heat_map({"1": {"a": 1.0}, "2": {"b": 1.0}}, **labels)
    written = [text.get_text() for text in first_axes(picture).texts]
    assert written.count("1.000") == 2 and {"a", "b", "1", "2"} < set(written)
