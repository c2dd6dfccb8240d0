"""Test predictions, whose controls a test changes as a browser does."""

import re
import subprocess
import sys
from html import unescape

import ipywidgets as widgets
import pytest

from course_utils.exercise.checks import check
from course_utils.notebook import predict
from course_utils.notebook.predict import answer, reveal, tally, your_turn

QUESTION = "How many of the 15 levels do the others share?"
CHOICES = ["all 15", "about 7", "3 or fewer"]
WHY = {
    "all 15": "The outlier decides the scale.",
    "about 7": "The bins are wider than you think.",
}


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Return a list to which each display adds its data, in a new kernel."""
    displayed = []
    monkeypatch.setattr(predict, "display", lambda data, raw, metadata=None: displayed.append(data))
    monkeypatch.setattr(predict, "_predictions", {})
    monkeypatch.setattr(predict, "_tallies", {})
    return displayed


def widget_of(data):
    """Return the widget that a front end shows for displayed data."""
    reference = f"IPY_MODEL_{data[predict.WIDGET_VIEW]['model_id']}"
    return widgets.widget_serialization["from_json"](reference, None)


def ask(key="levels", question=QUESTION, choices=CHOICES, **options):
    """Show a question and return its control."""
    predict.predict(key, question, choices, **options)
    return predict._predictions[key].control


def text_of(widget):
    """Return the text of a widget and the widgets in it, and its HTML."""
    if isinstance(widget, widgets.VBox):
        return " ".join(map(text_of, widget.children))
    value = re.sub("<style>.*?</style>", "", getattr(widget, "value", "") or "", flags=re.S)
    return unescape(re.sub("<[^>]*>", "", value)).strip() if type(widget) is widgets.HTML else ""


# --- the question ---


def test_a_guess_is_recorded_as_soon_as_it_is_chosen_and_kept_if_the_cell_runs_again(shown):
    control = ask()
    control.value = "about 7"
    assert predict._predictions["levels"].guess.guess == "about 7"
    text = text_of(widget_of(shown[0]))
    assert text == f"Predict. {QUESTION}  Your recorded guess is 'about 7'."
    assert ask() is control and control.value == "about 7"


@pytest.mark.parametrize(
    "change",
    [{"question": "Another?"}, {"choices": CHOICES[:2]}, {"unit": "B"}, {"choices": None}],
)
def test_another_question_with_the_same_key_is_a_new_question(change):
    ask().value = "about 7"
    control = ask(**change)
    assert not control.value
    assert predict._predictions["levels"].guess.guess is None


def test_a_text_that_is_no_number_gets_one_sentence_and_loses_nothing(shown):
    control = ask("size", "How large?", None, unit="GB")
    control.value = "14"
    control.value = "a <lot>"
    prediction = predict._predictions["size"]
    assert prediction.guess.guess == 14 and control.value == "a <lot>"
    assert text_of(widget_of(shown[0])).endswith(
        "Please type one number in GB, such as 14.7 or 1,000 or 1e9. Your recorded guess is 14 GB."
    )
    assert 'role="alert"' in prediction.box.children[-1].value
    control.value = "15"
    assert prediction.guess.guess == 15 and 'role="status"' in prediction.box.children[-1].value
    control.value = ""
    assert prediction.guess.guess is None


def test_texts_of_authors_are_escaped(shown):
    ask("a", "Is `x < 1` & <b>?", ["<i>", "no"])
    reveal("a", "no", {"<i>": "<u> & so"})
    for data in shown:
        assert not re.search("<[biu]>(?!Predict|The)", data["text/html"])
    assert "<code>x &lt; 1</code> &amp; &lt;b&gt;" in shown[0]["text/html"]
    assert "<code>x &lt; 1</code> &amp; &lt;b&gt;" in widget_of(shown[0]).children[0].value
    ask("b", "How many?", None, unit="<u>").value = "many"
    assert "<b>Please type one number in &lt;u&gt;," in widget_of(shown[2]).children[2].value


# --- the answer ---


def test_a_wrong_choice_is_explained_and_a_right_one_is_right(shown):
    control = ask()
    control.value = "about 7"
    reveal("levels", "3 or fewer", WHY)
    box = widget_of(shown[1])
    assert text_of(box).startswith(
        "You chose 'about 7'. The answer is '3 or fewer'. The bins are wider than you think."
    )
    assert 'role="status"' in box.children[0].value
    control.value = "3 or fewer"
    assert text_of(box).startswith("Right: the answer is '3 or fewer'.")


def test_a_guess_that_is_entered_later_appears_at_once(shown):
    control = ask()
    reveal("levels", "3 or fewer", WHY)
    box = widget_of(shown[1])
    assert text_of(box).startswith("The answer is '3 or fewer'. You didn't enter a guess.")
    control.value = "all 15"
    assert text_of(box) == (
        "You chose 'all 15'. The answer is '3 or fewer'. The outlier decides the scale."
    )
    assert predict._predictions["levels"].guess.late


def test_the_guess_before_the_answer_counts(shown):
    control = ask()
    control.value = "all 15"
    reveal("levels", "3 or fewer", WHY)
    control.value = "3 or fewer"
    assert text_of(widget_of(shown[1])).endswith(
        "Only the guess that you entered before you saw the answer counts."
    )
    reveal("levels", "3 or fewer", WHY)
    guess = predict._predictions["levels"].guess
    assert (guess.guess, guess.is_right, guess.late) == ("all 15", False, False)


def test_the_guess_before_the_answer_still_counts_if_the_field_is_cleared(shown):
    control = ask("size", "How large?", None, unit="GB")
    control.value = "14"
    reveal("size", 14)
    control.value = ""
    assert "Your recorded guess is 14 GB." in text_of(widget_of(shown[0]))
    said = "You guessed 14 GB. The answer is 14 GB: your guess was exactly right."
    assert text_of(widget_of(shown[1])) == said


def test_an_answer_without_a_question_is_shown(shown):
    reveal("levels", 5.12)
    reveal("other", "3 or fewer", {"no such": "choice"})
    for output, said in zip(shown, ("5.12", "3 or fewer"), strict=True):
        text = f"The answer is {said}. It can't be compared with your guess, because the cell"
        assert text_of(widget_of(output)).startswith(text)


def test_an_answer_that_does_not_fit_is_a_mistake_of_the_author():
    ask()
    ask("size", "How large?", None)
    for key, value, why, message in (
        ("levels", "4 or fewer", None, "must be one of its choices"),
        ("levels", "3 or fewer", {"about 8": "No."}, r"may name only choices .* got 'about 8'"),
        ("size", 1, {"x": "No."}, r"may name only choices .* got 'x'"),
        ("unknown", float("nan"), None, "'unknown' must be a finite number"),
        ("levels", "3 or fewer", "No.", "must be a mapping from choices to sentences"),
    ):
        with pytest.raises(ValueError, match=message):
            reveal(key, value, why)


# --- without a kernel ---


def test_a_question_without_a_kernel_has_its_choices(shown):
    ask()
    ask("size", "How large?", None, unit="GB")
    first, second = (data["text/html"] for data in shown)
    assert re.findall("<li>(.*?)</li>", first) == CHOICES and '<ol type="A"' in first
    assert "<strong>Predict.</strong> How large?" in second and "a number in GB" in second
    assert [data["text/plain"] for data in shown] == [QUESTION, "How large?"]


def test_an_answer_without_a_kernel_is_folded_with_all_reasons(shown):
    ask()
    reveal("levels", "3 or fewer", WHY)
    page = shown[1]["text/html"]
    assert re.fullmatch("<div.*?><details><summary>.*</summary>.*</details></div>", page)
    for text in ("The answer is &#x27;3 or fewer&#x27;.", *WHY.values()):
        assert text in page


def test_colab_gets_only_the_widget(shown, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    ask()
    assert set(shown[0]) == {"text/plain", predict.WIDGET_VIEW}


# --- the sentence with the answer ---


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("It needs 5.12 GB.", "**Answer. It needs 5.12 GB.**"),
        ("Is it? No. Never.", "**Answer. Is it?** No. Never."),
        ("It is $r (d + k). x$ here. So.", "**Answer. It is $r (d + k). x$ here.** So."),
        ("Call `a. b()` now!\n\n- More.", "**Answer. Call `a. b()` now!**\n\n- More."),
        ("No sentence", "**Answer.** No sentence"),
        ("It is 5 vs. 3, i.e. Fig. 1. So.", "**Answer. It is 5 vs. 3, i.e. Fig. 1.** So."),
        ("These are two\n\n- One.\n- Two.", "**Answer.** These are two\n\n- One.\n- Two."),
        ("Some are **bold**. Not all.", "**Answer.** Some are **bold**. Not all."),
    ],
)
def test_the_first_sentence_of_an_answer_is_bold(shown, text, markdown):
    assert answer(text) is None
    assert shown[0] == {"text/markdown": markdown, "text/plain": f"Answer. {text}"}


# --- the end of a lecture ---


def rows(box):
    """Return the cells of each row of a tally's table, without its head."""
    table = re.findall("<tr><th scope=.row.>(.*?)</tr>", box.children[0].value)
    return [re.split("</th><td>|</td><td>", row.removesuffix("</td>")) for row in table]


def test_a_tally_compares_all_guesses_and_changes_with_them(shown):
    control = ask()
    ask("size", "How large?", None, unit="GB").value = "10"
    control.value = "all 15"
    reveal("levels", "3 or fewer")
    tally("03")
    box = widget_of(shown[-1])
    said = "You predicted 2 of 2 results. Your choice was wrong."
    assert text_of(box).startswith(said)
    assert rows(box) == [["levels", "all 15", "3 or fewer", "✗ wrong"]]
    reveal("size", 5)
    tally("03")
    assert rows(box)[1] == ["size", "10 GB", "5 GB", "2.0 times too high"]


def test_a_tally_marks_a_late_guess(shown):
    control = ask()
    reveal("levels", "about 7")
    tally("03")
    control.value = "about 7"
    assert "1 guess does not count" in text_of(widget_of(shown[-1]))
    assert rows(widget_of(shown[-1]))[0][3] == "✓ right, entered too late"


# --- imports ---


def test_matplotlib_and_torch_are_not_needed_to_ask():
    code = "import sys; import course_utils.notebook.predict; "
    code += "print({'torch', 'matplotlib'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_your_turn_shows_whether_the_lines_are_right_and_never_raises(shown):
    def pack():
        raise NotImplementedError

    for answered in (pack, lambda: 1):
        with your_turn():
            check(answered).gives(1)
    missing, right = shown
    assert missing["text/markdown"].startswith("**Not right yet.**\n\n```text\npack()\n")
    assert right["text/markdown"].startswith("**Right.**")
