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
    assert picture.alt == "Stacked bars of memory by part: full 14.00 GB, QLoRA 1.50 GB."
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
