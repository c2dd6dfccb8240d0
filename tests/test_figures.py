"""Test figures: pictures show the numbers that they get, and describe them in their alt text."""

import re
import subprocess
import sys
import warnings
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch

from course_utils import evaluation, figures
from course_utils.paging import simulate

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
    bars = {str(n): [float(n)] for n in range(10)}
    assert len(first_axes(figures.token_probabilities(["a"], bars)).patches) == 10
    assert (
        len(first_axes(figures.bits_per_weight({"row": dict.fromkeys("abcdef", 1.0)})).patches) == 6
    )


def test_picture_is_an_image_with_its_alt_text_escaped():
    picture = figures.Picture(figures.loss_curve(HISTORY).figure, 'a "b" <c>')
    shown = picture._repr_html_()
    assert re.match(r'<img alt="a &quot;b&quot; &lt;c&gt;" src="data:image/png;base64,iVBOR', shown)
    assert str(picture) == 'a "b" <c>'


def test_loss_curve_draws_every_step_and_the_validation_losses():
    picture = figures.loss_curve(HISTORY, steps=10)
    training, validation = first_axes(picture).lines
    assert list(training.get_ydata()) == [4.4, 2.25, 1.5]
    assert list(validation.get_xdata()) == [3] and list(validation.get_ydata()) == [1.75]
    assert first_axes(picture).get_xlim() == (0, 10) and first_axes(picture).get_ylim()[0] == 0
    assert picture.alt == ("Training loss over 3 steps, from 4.40 to 1.50. Validation loss 1.75.")


def test_loss_curve_before_the_first_step():
    assert "has not begun" in figures.loss_curve([], 10).alt


def test_stacked_bytes_draws_the_bars_in_order_with_their_totals():
    ways = {
        "full": {"weights": 2e9, "optimizer": 12e9},
        "QLoRA": {"weights": 0.5e9, "adapters": 1e9},
    }
    picture = figures.stacked_bytes(ways, line=("T4", 16e9))
    ends = {}
    for bar in first_axes(picture).patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends.get(row, 0), bar.get_x() + bar.get_width())
    # In GB, with the first bar on top.
    assert ends == {0: 1.5, 1: 14.0}
    assert picture.alt == (
        "Stacked bars of memory: full 14.00 GB (weights 2.00 GB, optimizer 12.00 GB); "
        "QLoRA 1.50 GB (weights 500.00 MB, adapters 1.00 GB)."
    )
    assert [line.get_xdata()[0] for line in first_axes(picture).lines] == [16.0]


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


def test_lora_parameters_marks_the_break_even_rank():
    picture = figures.lora_parameters(per_rank=2000, full=1_000_000, rank=8)
    line, full, even, chosen = first_axes(picture).lines
    assert [y / x for x, y in zip(*line.get_data(), strict=True)] == [2000, 2000]
    assert list(full.get_ydata()) == [1_000_000] * 2
    assert (even.get_xdata()[0], even.get_ydata()[0]) == (500, 1_000_000)
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (8, 16_000)
    assert first_axes(picture).get_xscale() == first_axes(picture).get_yscale() == "log"
    assert picture.alt == (
        "Trainable parameters over the rank, on log scales: LoRA of rank 8 trains 16,000, "
        "full fine-tuning 1,000,000; they are equal at rank 500.0."
    )


def test_bins_meet_halfway_between_levels():
    values = [-1, -0.2, 0, 0.1, 1]
    picture = figures.bins(values, {"coarse": [-1, 0, 1], "fine": [-1, -0.5, 0, 0.5, 1]})
    top, coarse, fine = picture.figure.axes
    assert sum(bar.get_height() * bar.get_width() for bar in top.patches) == pytest.approx(1)
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in coarse.patches]
    assert spans == [(-1, -0.5), (-0.5, 0.5), (0.5, 1)]
    shades = [bar.get_facecolor() for bar in fine.patches]
    assert len(shades) == 5 and all(a != b for a, b in pairwise(shades))
    lines = fine.collections[0].get_segments()
    assert [segment[0][0] for segment in lines] == [-1, -0.5, 0, 0.5, 1]
    assert picture.alt == (
        "Histogram of scaled weights over bins: coarse, 3 levels, bins from 0.5000 to 1.0000 wide; "
        "fine, 5 levels, bins from 0.2500 to 0.5000 wide."
    )


def test_bins_accepts_levels_in_a_tensor_without_a_warning():
    levels = torch.tensor([-1.0, 0.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = figures.bins([0.5], {"coarse": levels})
    assert picture.alt.endswith("coarse, 3 levels, bins from 0.5000 to 1.0000 wide.")


def test_code_use_shows_every_code_and_a_line_at_even_use():
    picture = figures.code_use({"int": [0.5, 0.5, 0], "nf": [0.25] * 4})
    left, right = picture.figure.axes
    assert [bar.get_height() for bar in left.patches] == [50, 50, 0]
    assert left.lines[0].get_ydata()[0] == pytest.approx(100 / 3)
    assert right.lines[0].get_ydata()[0] == 25
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
    texts = [left.title, *left.get_yticklabels()]
    # A $ must not begin a formula.
    assert not any(text.get_parse_math() for text in texts)


def test_token_losses_hatches_tokens_that_are_not_graded():
    picture = figures.token_losses([4.0, 2.0, 1.0], [False, False, True])
    bars = {bar.get_height(): bar.get_hatch() for bar in first_axes(picture).patches}
    assert bars[4.0] and bars[2.0] and not bars[1.0]
    assert "2 tokens prompt: not graded, mean 3.00 nats; 1 tokens graded, mean 1.00" in picture.alt


def test_token_losses_labels_the_bars_with_the_tokens():
    picture = figures.token_losses([1.0, 2.0], [True, True], ["·a", "$b$"])
    assert [t.get_text() for t in first_axes(picture).get_xticklabels()] == ["·a", "$b$"]
    assert "prompt" not in picture.alt


def test_token_probabilities_groups_the_bars_by_token():
    picture = figures.token_probabilities(["a", "b"], {"before": [0.1, 0.2], "after": [0.9, 1.0]})
    bars = sorted(first_axes(picture).patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == [0.1, 0.9, 0.2, 1.0]
    assert "before: a 10%, b 20%; after: a 90%, b 100%" in picture.alt


def test_cost_lines_marks_the_break_even_point():
    ways = {"prompted": (0.0, 3.0), "tuned": (100.0, 1.0)}
    picture = figures.cost_lines(ways, "euro", {"tuned": 50})
    prompted, tuned, mark = first_axes(picture).lines
    assert prompted.get_ydata()[0] == 3.0 and tuned.get_ydata()[0] == 101.0
    assert prompted.get_linestyle() != tuned.get_linestyle()
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (50, 150)
    assert "tuned: 100 once, plus 1 for each request" in picture.alt
    assert picture.alt.endswith("Break-even: tuned at 50 requests.")


def test_marked_tokens_describe_in_words_which_tokens_carry_loss():
    shown = figures.MarkedTokens(["<|im_start|>", "ask↵", "a&b", "·c"], [False, False, True, True])
    summary = "2 of 4 tokens carry loss: underlined, between [loss: and :loss]."
    assert str(shown) == f"<|im_start|>ask↵\n[loss: a&b·c :loss]\n{summary}"
    page = shown._repr_html_()
    assert "&lt;|im_start|&gt;" in page and "a&amp;b" in page and summary in page
    assert page.count("text-decoration:underline") == 2
    assert page.index("[loss: ") < page.index("a&amp;b") < page.index(" :loss]")


def test_marked_tokens_needs_a_mark_for_each_token():
    with pytest.raises(ValueError, match="got 2 and 1 items"):
        figures.MarkedTokens(["a", "b"], [True])


# --- memory ---------------------------------------------------------------------------------------


def bars_of(picture):
    """Return a dict from each row, where 0 is the bottom row, to [(left, width), …] in GB."""
    rows = {}
    for bar in first_axes(picture).patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        rows.setdefault(row, []).append((bar.get_x(), bar.get_width()))
    return rows


def text_boxes(picture):
    """Draw a picture, and return a dict from each text to its bounding box in pixels."""
    picture._repr_html_()
    return {text.get_text(): text.get_window_extent() for text in first_axes(picture).texts}


# The calculator has eight groups, too. Together these groups have 36 GB.
GROUPS = {f"part {n}": (n + 1) * 1e9 for n in range(8)}
CARDS = {"T4": 15.3e9, "RTX 4090": 24.8e9, "A100-40": 41.9e9, "A100-80": 84.4e9, "H100": 84.3e9}


def test_memory_bars_draws_each_group_in_another_colour():
    picture = figures.memory_bars({"one": GROUPS}, {})
    (bars,) = bars_of(picture).values()
    assert bars == [(sum(range(1, n + 1)), n + 1) for n in range(8)]
    colours = {bar.get_facecolor() for bar in first_axes(picture).patches}
    assert len(colours) == 8
    assert [text.get_text() for text in first_axes(picture).get_legend().get_texts()] == list(
        GROUPS
    )
    assert picture.alt.startswith("Stacked bars of memory: one 36.00 GB (part 0 1.00 GB, part 1")


def test_memory_bars_leaves_empty_groups_out_of_the_alt_text():
    picture = figures.memory_bars({"a": {"weights": 2e9, "adapters": 0}, "b": {"weights": 1e9}}, {})
    assert bars_of(picture) == {1: [(0, 2), (2, 0)], 0: [(0, 1), (1, 0)]}
    assert picture.alt == (
        "Stacked bars of memory: a 2.00 GB (weights 2.00 GB); b 1.00 GB (weights 1.00 GB)."
    )


def test_memory_bars_marks_the_limits_of_gpus_within_the_axis():
    picture = figures.memory_bars({"one": GROUPS}, CARDS)
    assert [line.get_xdata()[0] for line in first_axes(picture).lines] == [15.3, 24.8, 41.9]
    assert picture.alt.endswith("T4 at 15.30 GB, RTX 4090 at 24.80 GB, A100-40 at 41.90 GB.")
    assert "GPU" not in figures.memory_bars({"one": {"weights": 1e9}}, CARDS).alt


def test_the_axis_of_memory_bars_extends_to_reach():
    picture = figures.memory_bars({"one": {"weights": 1e9}}, CARDS, reach=CARDS["RTX 4090"])
    assert [line.get_xdata()[0] for line in first_axes(picture).lines] == [15.3, 24.8]
    assert first_axes(picture).get_xlim()[1] > 24.8


@pytest.mark.parametrize("total", [20e9, 36e9, 71.3e9, 72e9, 100e9, 200e9, 400e9, 1e12, 3e12])
def test_labels_of_gpu_lines_neither_overlap_nor_leave_the_picture(total):
    picture = figures.memory_bars({"full fine-tuning": {"weights": total}}, CARDS)
    boxes = list(text_boxes(picture).values())
    for n, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= picture.figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[n + 1 :])


def test_gpu_lines_that_nearly_coincide_share_a_label():
    assert "H100, A100-80" in text_boxes(figures.memory_bars({"one": {"weights": 90e9}}, CARDS))


def test_predictions_are_plotted_over_measurements_with_their_errors():
    rows = {"a": (2e9, 2.01e9), "b": (4e9, 3.99e9)}
    picture = figures.predictions(rows)
    plane, errors = picture.figure.axes
    assert plane.lines[1].get_xydata().tolist() == [[2, 2.01], [4, 3.99]]
    assert [bar.get_width() for bar in errors.patches] == pytest.approx([-0.25, 0.5])
    # The first run is on top.
    assert [label.get_text() for label in errors.get_yticklabels()] == ["b", "a"]
    assert picture.alt == (
        "Dots of predicted over measured memory, from 2.00 GB to 4.00 GB; "
        "errors of the predictions: a +0.50%, b -0.25%."
    )


def test_the_axis_of_errors_contains_large_errors_and_shows_small_ones_as_small():
    errors = figures.predictions({"a": (1e9, 1.1e9), "b": (1e9, 1e9)}).figure.axes[1]
    assert errors.get_xlim()[1] >= 10
    small = figures.predictions({"a": (1e9, 1.001e9)}).figure.axes[1]
    assert small.get_xlim() == (-1, 1)


# --- timeline of memory ---------------------------------------------------------------------------

LONG_STEP = {"gpu": "T4", "lengths": (1024, 4096), "rank": 64, "targets": "all-linear"}


def timeline(**options):
    return simulate("llama-3.1-8b", "qlora", **LONG_STEP | {"double_quant": True} | options)


def areas(axes):
    return [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]


def test_a_view_has_the_moments_of_its_steps_and_their_positions():
    run = timeline(lengths=(1024, 512, 2048))
    view = figures.TimelineView.of(run, steps=[3, 1])
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
    view = figures.TimelineView.of(timeline(upcast=False))
    totals = [sum(sizes) for sizes in zip(*(area.sizes for area in view.areas()), strict=True)]
    assert totals == [moment.total for moment in view.moments]


def test_a_view_ends_with_the_moment_at_which_memory_ran_out():
    run = timeline(upcast=False, optimizer="adamw")
    view = figures.TimelineView.of(run)
    assert view.failed is view.moments[-1] is run.out_of_memory
    assert view.events == run.events and not view.has_pages
    assert view.steps == (1, 2) and view.edges[-1] < view.width
    first = figures.TimelineView.of(run, steps=[1])
    assert first.failed is None and first.moments == first.events


def test_the_phase_labels_of_a_step_are_in_order():
    view = figures.TimelineView.of(timeline(upcast=False), steps=[2])
    middles = view.phase_labels()
    assert list(middles) == ["forward", "loss", "backward", "update"]
    assert list(middles.values()) == sorted(middles.values())
    assert middles["update"] == view.width - view.run.phases_per_step // 12 / 2


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
    assert "out of memory: the loss,\n16.23 GB asked for" in {t.get_text() for t in axes.texts}
    assert picture.alt.endswith("Out of memory in step 2 at the loss: 16.23 GB asked for.")


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
    areas = figures.TimelineView.of(run).areas()
    thick = [area.label for area in areas if max(area.sizes) >= 0.005 * run.budget]
    assert named == thick[::-1] and len(thick) < len(areas)
    assert 0 < max(event.gpu["optimizer"] for event in run.events) < 0.005 * run.budget


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


def test_frontier_fills_only_the_best_points():
    points = {"int4": {"64": (4.5, 0.012)}, "NF4": {"64": (4.5, 0.008), "256": (4.125, 0.01)}}
    best = [("NF4", "64"), ("NF4", "256")]
    picture = figures.frontier(points, best)
    int4, nf4 = first_axes(picture).collections
    assert nf4.get_offsets().tolist() == [[0.5, 0.008], [0.125, 0.01]]
    assert int4.get_facecolors().tolist() == [[1, 1, 1, 1]]
    assert all(face != [1, 1, 1, 1] for face in nf4.get_facecolors().tolist())
    assert [text.get_text() for text in first_axes(picture).texts] == ["64", "64", "256"]
    assert first_axes(picture).xaxis.get_major_formatter()(0.25, 0) == "4.25"
    assert picture.alt == (
        "3 points of error over bits per weight; not beaten: NF4 at 256 with 4.125 bits and "
        "error 0.01; NF4 at 64 with 4.5 bits and error 0.008."
    )


def test_frontier_puts_the_labels_of_the_lower_series_below_the_points():
    points = {name: {"64": (4.5, error)} for name, error in (("int4", 0.012), ("NF4", 0.008))}
    above, below = first_axes(figures.frontier(points, [])).texts
    assert [above.get_va(), above.get_ha()] == ["bottom", "left"]
    assert [below.get_va(), below.get_ha()] == ["top", "right"]


def test_histograms_have_a_panel_for_each_sample():
    samples = {"as they are": [1, 2, 3], "less 2": [-1, 0, 1]}
    picture = figures.histograms(samples, ["absmax", "absmax − 2"])
    left, right = picture.figure.axes
    assert [sum(bar.get_height() for bar in axes.patches) for axes in (left, right)] == [3, 3]
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
    assert axes.patches[-1].get_height() == 1
    assert axes.yaxis.get_major_formatter()(1000, 0) == "1,000"
    assert axes.get_ylabel() == "how many (log scale)"


def test_byte_layout_magnifies_all_fields_except_the_largest():
    picture = figures.byte_layout({"book": 64, "codes": 900, "offset": 36})
    upper, lower = ([width for _, width in bars_of(picture)[row]] for row in (1, 0))
    assert upper == pytest.approx([0.9, 0.064, 0.036])
    assert lower == pytest.approx([0.64, 0.36])
    legend = [text.get_text() for text in first_axes(picture).get_legend().get_texts()]
    assert legend == ["codes: 900 B", "book: 64 B", "offset: 36 B"]
    labels = [text.get_text() for text in first_axes(picture).get_yticklabels()]
    assert labels == ["all, 1,000 B", "the rest, 100 B\n× 10"]
    assert picture.alt == "Bars of 1,000 B: book 64 B, codes 900 B, offset 36 B."
