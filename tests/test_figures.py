import re

import pytest

from course_utils import evaluation, figures

HISTORY = [
    {"step": 1, "loss": 4.4},
    {"step": 2, "loss": 2.25},
    {"step": 3, "loss": 1.5, "validation_loss": 1.75},
]


def axes_of(picture):
    return picture.figure.axes[0]


def test_picture_is_an_image_with_its_alt_text_escaped():
    picture = figures.Picture(figures.loss_curve(HISTORY).figure, 'a "b" <c>')
    shown = picture._repr_html_()
    assert re.match(r'<img alt="a &quot;b&quot; &lt;c&gt;" src="data:image/png;base64,iVBOR', shown)
    assert str(picture) == 'a "b" <c>'


def test_loss_curve_draws_every_step_and_the_validation_losses():
    picture = figures.loss_curve(HISTORY, steps=10)
    training, validation = axes_of(picture).lines
    assert list(training.get_ydata()) == [4.4, 2.25, 1.5]
    assert list(validation.get_xdata()) == [3] and list(validation.get_ydata()) == [1.75]
    assert axes_of(picture).get_xlim() == (0, 10) and axes_of(picture).get_ylim()[0] == 0
    assert picture.alt == ("Training loss over 3 steps, from 4.40 to 1.50. Validation loss 1.75.")


def test_loss_curve_before_the_first_step():
    assert "has not begun" in figures.loss_curve([], 10).alt


def test_stacked_bytes_add_up_and_stand_in_the_order_given():
    ways = {
        "full": {"weights": 2e9, "optimizer": 12e9},
        "QLoRA": {"weights": 0.5e9, "adapters": 1e9},
    }
    picture = figures.stacked_bytes(ways, line=("T4", 16e9))
    right = {}
    for bar in axes_of(picture).patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        right[row] = max(right.get(row, 0), bar.get_x() + bar.get_width())
    assert right == {0: 1.5, 1: 14.0}  # GB; the first way on top
    assert picture.alt == (
        "Stacked bars of memory: full 14.00 GB (weights 2.00 GB, optimizer 12.00 GB); "
        "QLoRA 1.50 GB (weights 500.00 MB, adapters 1.00 GB)."
    )
    assert [line.get_xdata()[0] for line in axes_of(picture).lines] == [16.0]


def test_score_bars_show_means_with_their_intervals():
    story = {"story": "Rain fell on Tarn.", "section": "weather", "headline": "Rain falls on Tarn"}
    good = '{"section": "weather", "headline": "Rain falls on Tarn"}'
    scores = {
        "few-shot": evaluation.score(["no", "no", good, "no"], [story] * 4),
        "tuned": evaluation.score([good] * 4, [story] * 4),
    }
    numbers = evaluation.intervals(scores)
    picture = figures.score_bars(numbers)
    heights = [bar.get_height() for bar in axes_of(picture).patches]
    assert heights == pytest.approx([25] * 4 + [100] * 4)
    assert "few-shot: valid JSON 25%" in picture.alt and "tuned: valid JSON 100%" in picture.alt
    low = axes_of(picture).collections[0].get_segments()[0][0][1]
    assert low == pytest.approx(100 * numbers["few-shot", "low"].iloc[0])


def test_lora_parameters_meet_full_fine_tuning_at_the_break_even_rank():
    picture = figures.lora_parameters(per_rank=2000, full=1_000_000, rank=8)
    line, full, even, chosen = axes_of(picture).lines
    assert [y / x for x, y in zip(*line.get_data(), strict=True)] == [2000, 2000]
    assert list(full.get_ydata()) == [1_000_000] * 2
    assert (even.get_xdata()[0], even.get_ydata()[0]) == (500, 1_000_000)
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (8, 16_000)
    assert axes_of(picture).get_xscale() == axes_of(picture).get_yscale() == "log"
    assert picture.alt == (
        "Trainable parameters over the rank, on log scales: LoRA of rank 8 trains 16,000, "
        "full fine-tuning 1,000,000; they are equal at rank 500.0."
    )


def test_curves_are_drawn_in_order_of_x_and_told_in_numbers():
    series = {"held out": {4: 0.25, 1: 1.5, 8: 0.5}, "training": {1: 1.0, 8: 0.125}}
    picture = figures.curves(series, xlabel="rank", ylabel="loss", log="xy")
    first, second = axes_of(picture).lines
    assert list(first.get_xdata()) == [1, 4, 8] and list(first.get_ydata()) == [1.5, 0.25, 0.5]
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()
    assert axes_of(picture).get_xscale() == axes_of(picture).get_yscale() == "log"
    assert list(axes_of(picture).get_xticks()) == [1, 4, 8]
    assert picture.alt == (
        "Lines of loss over rank: held out from 1.5 at 1 to 0.5 at 8, lowest 0.25 at 4; "
        "training from 1 at 1 to 0.125 at 8, lowest 0.125 at 8."
    )


def test_curves_without_log_and_with_many_points():
    picture = figures.curves({"a": dict.fromkeys(range(21), 2.0)}, xlabel="step", ylabel="loss")
    assert axes_of(picture).get_xscale() == axes_of(picture).get_yscale() == "linear"
    assert axes_of(picture).lines[0].get_marker() == "None"


@pytest.mark.parametrize("number", [0, 6])
def test_curves_that_can_not_be_told_apart_are_refused(number):
    series = {str(n): {1: 1.0} for n in range(number)}
    with pytest.raises(ValueError, match=f"from 1 to 5 series can be told apart, got {number}"):
        figures.curves(series, xlabel="x", ylabel="y")


def test_spectrum_shows_the_largest_values_in_descending_order():
    picture = figures.spectrum({"true": [0.0, 4.0, 8.0], "LoRA": [7.5, 0.0, 0.25]}, shown=2)
    assert [bar.get_height() for bar in axes_of(picture).patches] == [8, 4, 7.5, 0.25]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes_of(picture).patches]
    assert centres == pytest.approx([0.8, 1.8, 1.2, 2.2])
    assert picture.alt == "Bars of singular values: true 8.00, 4.00; LoRA 7.50, 0.25."


@pytest.mark.parametrize("zero", [True, False])
def test_measurements_show_every_value_and_the_median(zero):
    picture = figures.measurements({"apart": [12, 14, 40], "merged": [10, 10]}, "ms", zero=zero)
    dots = [line for line in axes_of(picture).lines if line.get_marker() == "o"]
    medians = [line for line in axes_of(picture).lines if line.get_marker() != "o"]
    assert [list(line.get_xdata()) for line in dots] == [[10, 10], [12, 14, 40]]
    assert [list(line.get_xdata()) for line in medians] == [[10, 10], [14, 14]]
    names = [label.get_text() for label in axes_of(picture).get_yticklabels()]
    assert names == ["merged", "apart"]  # from below: the first one on top
    assert (axes_of(picture).get_xlim()[0] == 0) == zero
    assert picture.alt == (
        "Dots of ms, with medians: apart 14, from 12 to 40; merged 10, from 10 to 10."
    )


def test_next_tokens_has_a_panel_a_prompt_with_the_likeliest_token_on_top():
    prompts = {"The cost is $5 or $": [("·6", 0.75), ("·7", 0.2)], "Once": [("·upon", 0.5)]}
    picture = figures.next_tokens(prompts)
    left, right = picture.figure.axes
    assert [bar.get_width() for bar in left.patches] == [0.75, 0.2]
    assert left.yaxis_inverted() and [t.get_text() for t in left.get_yticklabels()] == ["·6", "·7"]
    assert [bar.get_width() for bar in right.patches] == [0.5]
    assert "after “Once”: ·upon 50%" in picture.alt and "·6 75%, ·7 20%" in picture.alt
    texts = [left.title, *left.get_yticklabels()]
    assert not any(text.get_parse_math() for text in texts)  # a $ is no mathematics


def test_token_losses_tell_graded_tokens_by_hatch_as_well_as_colour():
    picture = figures.token_losses([4.0, 2.0, 1.0], [False, False, True])
    bars = {bar.get_height(): bar.get_hatch() for bar in axes_of(picture).patches}
    assert bars[4.0] and bars[2.0] and not bars[1.0]
    assert "2 tokens prompt: not graded, mean 3.00 nats; 1 tokens graded, mean 1.00" in picture.alt


def test_token_losses_writes_the_tokens_below():
    picture = figures.token_losses([1.0, 2.0], [True, True], ["·a", "$b$"])
    assert [t.get_text() for t in axes_of(picture).get_xticklabels()] == ["·a", "$b$"]
    assert "prompt" not in picture.alt


@pytest.mark.parametrize("bad", [([1.0], [True, False]), ([1.0], [True], ["a", "b"]), ([], [])])
def test_token_losses_refuses_what_does_not_match(bad):
    with pytest.raises(ValueError, match="every loss needs its mark"):
        figures.token_losses(*bad)


def test_token_probabilities_stand_side_by_side():
    picture = figures.token_probabilities(["a", "b"], {"before": [0.1, 0.2], "after": [0.9, 1.0]})
    bars = sorted(axes_of(picture).patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == [0.1, 0.9, 0.2, 1.0]
    assert "before: a 10%, b 20%; after: a 90%, b 100%" in picture.alt


def test_cost_lines_mark_where_they_meet():
    ways = {"prompted": (0.0, 3.0), "tuned": (100.0, 1.0)}
    picture = figures.cost_lines(ways, "euro", {"tuned": 50})
    prompted, tuned, mark = axes_of(picture).lines
    assert prompted.get_ydata()[0] == 3.0 and tuned.get_ydata()[0] == 101.0
    assert prompted.get_linestyle() != tuned.get_linestyle()
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (50, 150)
    assert "tuned 100 once and 1 a request" in picture.alt
    assert picture.alt.endswith("Break-even: tuned at 50 requests.")


def test_marked_tokens_say_in_words_which_carry_loss():
    shown = figures.MarkedTokens(["<|im_start|>", "ask↵", "a&b", "·c"], [False, False, True, True])
    said = "2 of 4 tokens carry loss: underlined, between [loss: and :loss]."
    assert str(shown) == f"<|im_start|>ask↵\n[loss: a&b·c :loss]\n{said}"
    page = shown._repr_html_()
    assert "&lt;|im_start|&gt;" in page and "a&amp;b" in page and said in page
    assert page.count("text-decoration:underline") == 2
    assert page.index("[loss: ") < page.index("a&amp;b") < page.index(" :loss]")


def test_marked_tokens_need_a_mark_each():
    with pytest.raises(ValueError, match="got 2 and 1"):
        figures.MarkedTokens(["a", "b"], [True])


# --- memory ---------------------------------------------------------------------------------------


def bars_of(picture):
    """Row from below → [(left, width), …] of its bars, in GB."""
    rows = {}
    for bar in axes_of(picture).patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        rows.setdefault(row, []).append((bar.get_x(), bar.get_width()))
    return rows


def drawn_boxes(picture):
    """Labels of a drawn picture: text → its box in pixels."""
    picture._repr_html_()
    return {text.get_text(): text.get_window_extent() for text in axes_of(picture).texts}


GROUPS = {f"part {n}": (n + 1) * 1e9 for n in range(8)}  # as many as the calculator has: 36 GB
CARDS = {"T4": 15.3e9, "RTX 4090": 24.8e9, "A100-40": 41.9e9, "A100-80": 84.4e9, "H100": 84.3e9}


def test_memory_bars_show_every_group_in_a_colour_of_its_own():
    picture = figures.memory_bars({"one": GROUPS}, {})
    (bars,) = bars_of(picture).values()
    assert bars == [(sum(range(1, n + 1)), n + 1) for n in range(8)]
    colours = {bar.get_facecolor() for bar in axes_of(picture).patches}
    assert len(colours) == 8
    assert [text.get_text() for text in axes_of(picture).get_legend().get_texts()] == list(GROUPS)
    assert picture.alt.startswith("Stacked bars of memory: one 36.00 GB (part 0 1.00 GB, part 1")


def test_memory_bars_leave_zeros_out_of_the_alt_text_and_keep_the_order_given():
    picture = figures.memory_bars({"a": {"weights": 2e9, "adapters": 0}, "b": {"weights": 1e9}}, {})
    assert bars_of(picture) == {1: [(0, 2), (2, 0)], 0: [(0, 1), (1, 0)]}
    assert picture.alt == (
        "Stacked bars of memory: a 2.00 GB (weights 2.00 GB); b 1.00 GB (weights 1.00 GB)."
    )


def test_gpu_lines_stand_where_gpus_end_and_those_beyond_the_axis_are_left_out():
    picture = figures.memory_bars({"one": GROUPS}, CARDS)
    assert [line.get_xdata()[0] for line in axes_of(picture).lines] == [15.3, 24.8, 41.9]
    assert picture.alt.endswith("T4 at 15.30 GB, RTX 4090 at 24.80 GB, A100-40 at 41.90 GB.")
    assert "GPU" not in figures.memory_bars({"one": {"weights": 1e9}}, CARDS).alt


def test_the_axis_reaches_the_gpu_asked_for():
    picture = figures.memory_bars({"one": {"weights": 1e9}}, CARDS, reach=CARDS["RTX 4090"])
    assert [line.get_xdata()[0] for line in axes_of(picture).lines] == [15.3, 24.8]
    assert axes_of(picture).get_xlim()[1] > 24.8


@pytest.mark.parametrize("total", [20e9, 36e9, 71.3e9, 72e9, 100e9, 200e9, 400e9, 1e12, 3e12])
def test_labels_of_gpu_lines_never_collide_nor_leave_the_picture(total):
    picture = figures.memory_bars({"full fine-tuning": {"weights": total}}, CARDS)
    boxes = list(drawn_boxes(picture).values())
    for n, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= picture.figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[n + 1 :])


def test_lines_that_nearly_coincide_share_a_label():
    assert "H100, A100-80" in drawn_boxes(figures.memory_bars({"one": {"weights": 90e9}}, CARDS))


def test_predictions_stand_over_measurements_with_their_errors():
    rows = {"a": (2e9, 2.01e9), "b": (4e9, 3.99e9)}
    picture = figures.predictions(rows)
    plane, errors = picture.figure.axes
    assert plane.lines[1].get_xydata().tolist() == [[2, 2.01], [4, 3.99]]
    assert [bar.get_width() for bar in errors.patches] == pytest.approx([-0.25, 0.5])
    assert [label.get_text() for label in errors.get_yticklabels()] == ["b", "a"]  # a on top
    assert picture.alt == (
        "Dots of predicted over measured memory, from 2.00 GB to 4.00 GB; "
        "errors of the predictions: a +0.50%, b -0.25%."
    )


def test_large_errors_of_predictions_are_not_cut_off():
    errors = figures.predictions({"a": (1e9, 1.1e9), "b": (1e9, 1e9)}).figure.axes[1]
    assert errors.get_xlim()[1] >= 10
    small = figures.predictions({"a": (1e9, 1.001e9)}).figure.axes[1]
    assert small.get_xlim() == (-1, 1)  # a small error looks small
