"""Ask students for a prediction before a result, and compare it with the result afterwards.

    predict("peak", "How much memory …?", unit="GB")     the question, and a field for a guess
    reveal("peak", measured)                             the guess beside the answer
    answer(f"The peak is {measured:.1f} GB. …")          the answer as a bold sentence
    tally("02")                                          all guesses of a lecture, at its end

    with your_turn():                                    whether the student's lines are right
        check(pack, [1, 2]).gives([18])

Students may leave out any guess and any task, so "Run All" always works. A guess is recorded as
soon as it is entered. If the guess is already compared with the answer, the
comparison changes, too. Running a cell again keeps the guess. Guesses are only in the memory of the
kernel.

The controls need a kernel. So each output has a second form, as HTML, which pages and slides show:
the question with its choices, and the answer behind a line to click. The website and the slides
also read the metadata of an output: the website makes a form from it that needs no kernel, and
slides give the speaker the right answer beside the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from course_utils.exercise.checks import CheckFailed
from course_utils.machine.environment import in_colab
from course_utils.machine.notebooks import METADATA, WIDGET_VIEW
from course_utils.notebook.guesses import (
    SENTENCE_END,
    Guess,
    Question,
    Reveal,
    as_float,
    as_html,
    check_name,
    checked_number,
    comparison,
    summary,
    with_unit,
    written,
)

# A frame around a prediction, and labels of choices that may need several lines.
FRAME = "border-left: 4px solid #0072b2; margin: 4px 0; padding: 2px 0 2px 12px"
STYLE = f"<style>.course-prediction {{ {FRAME} }}"
STYLE += """
.course-prediction .widget-html-content { line-height: 1.45; }
.course-prediction p { margin: 0; }
.course-prediction .widget-radio { width: auto; }
.course-prediction .widget-radio-box label { align-items: baseline; display: flex; height: auto;
  line-height: 1.45; margin-bottom: 4px; }
.course-prediction :is(th, td) { line-height: 1.3; padding: 4px 12px 4px 0; text-align: left;
  vertical-align: top; }
.course-prediction .widget-radio-box input { flex: none; float: none; height: auto; order: -1; }
</style>"""


class Prediction:
    """A question with its controls, the student's guess and, later, the answer.

    `box` is what `predict` shows, and `comparison` is what `reveal` shows.
    """

    def __init__(self, question: Question):
        self.question = question
        self._guess: str | float | None = None
        # The guess when the answer was first shown. Later changes don't count.
        self._first: str | float | None = None
        self._truth: str | float | None = None
        self._why: Mapping[str, str] = {}
        self.control: Any
        if question.choices:
            self.control = widgets.RadioButtons(
                options=list(question.choices), value=None, layout={"width": "auto"}
            )
        else:
            self.control = widgets.Text(
                description=f"Your guess in {question.unit}:" if question.unit else "Your guess:",
                continuous_update=False,
                style={"description_width": "initial"},
            )
        self.control.observe(self._read_control, names="value")
        self._status, self.comparison = widgets.HTML(), widgets.HTML()
        head = f"<b>Predict.</b> {as_html(question.question)}"
        self.box = _framed(widgets.HTML(f"{STYLE}<div>{head}</div>"), self.control, self._status)

    @property
    def guess(self) -> Guess:
        """The guess that counts, and whether it was entered after the answer was shown."""
        late = self._truth is not None and self._first is None and self._guess is not None
        counted = self._guess if self._first is None else self._first
        return Guess(self.question, counted, self._truth, late)

    @property
    def _shown(self) -> str | float | None:
        """The guess that is compared: the last one, or the one that counts if it was removed."""
        return self.guess.guess if self._guess is None else self._guess

    def _read_control(self, _: Any) -> None:
        value = self.control.value
        try:
            self._guess = value if self.question.choices else self.question.parsed(value)
        except ValueError as error:
            problem = f"<b>{as_html(str(error))}</b>"
            self._status.value = f'<p role="alert">{problem} {as_html(self._recorded())}</p>'
            return
        self._status.value = f'<p role="status">{as_html(self._recorded())}</p>'
        self._compare()
        for shown in _tallies.values():
            _show_guesses(shown)

    def _recorded(self) -> str:
        if self._shown is None:
            return "No guess has been recorded."
        return f"Your recorded guess is {written(self._shown, self.question.unit)}."

    def show_answer(self, truth: str | float, why: Mapping[str, str]) -> None:
        """Compare the guess with the answer, now and after each change of the guess."""
        if self._truth is None:
            self._first = self._guess
        self._truth, self._why = truth, why
        self._compare()

    def _compare(self) -> None:
        if self._truth is None:
            return
        first, rest = comparison(self.question, self._shown, self._truth, self._why)
        if self._first is not None and self._first != self._shown:
            rest += " Only the guess that you entered before you saw the answer counts."
        words = f"<b>{as_html(first)}</b> {as_html(rest)}"
        self.comparison.value = f'{STYLE}<div role="status">{words}</div>'


# The predictions and tallies of this kernel, by key and by lecture.
_predictions: dict[str, Prediction] = {}
_tallies: dict[str, widgets.HTML] = {}


def predict(
    key: str,
    question: str,
    choices: Iterable[str] | Mapping[str, float] | None = None,
    *,
    unit: str = "",
) -> None:
    """Show a question before a result, with choices or a field for a number.

    Args:
        key: a short name, by which `reveal` finds the question: letters, digits, "_" and "-".
        question: the question as plain text, with `code` in backticks.
        choices: 2 to 10 choices. With strings, the answer will be one of them. With a mapping from
            strings to numbers, the answer will be a number, and the choice with the nearest number
            is right. Without choices, the guess is a number.
        unit: the unit of the number, such as "GB" or "%".
    """
    asked = Question.of(key, question, choices, unit)
    if key not in _predictions or _predictions[key].question != asked:
        _predictions.pop(key, None)
        _predictions[key] = Prediction(asked)
    _show(_predictions[key].box, _question_page(asked), question, predict=asdict(asked))


def reveal(key: str, value: str | float, why: Mapping[str, str] | None = None) -> None:
    """Show the answer to a question of `predict` beside the student's guess.

    Args:
        value: the right choice or, if the choices have numbers or there are none, the number.
        why: what somebody who chose a wrong choice overlooked: one sentence for each such choice.
    """
    if not isinstance(why or {}, Mapping):
        raise ValueError(f"`why` must be a mapping from choices to sentences, got {why!r:.60}")
    why = dict(why or {})
    if key not in _predictions:
        shown = value if isinstance(value, str) else with_unit(checked_number(key, value))
        text = f"The answer is {shown}. It can't be compared with your guess, because the cell"
        text += " with the question was not run."
        box = _framed(widgets.HTML(f'{STYLE}<div role="status">{as_html(text)}</div>'))
        _show(box, f"<p>{as_html(text)}</p>", text)
        return
    prediction = _predictions[key]
    question = prediction.question
    if unknown := [choice for choice in why if choice not in question.choices]:
        raise ValueError(
            f"`why` may name only choices of the prediction {key!r}, {list(question.choices)}, "
            f"got {unknown[0]!r}"
        )
    truth = question.checked_truth(value)
    prediction.show_answer(truth, why)
    form = Reveal.of(question, truth, why)
    _show(_framed(prediction.comparison), _answer_page(form), form.answer, reveal=asdict(form))


def answer(text: str) -> None:
    """Show the answer to a section's question as Markdown, with its first sentence in bold.

    The text may contain formulas. Its first sentence states the answer with its number.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the answer must be a text of one or more sentences, got {text!r:.60}")
    # The first sentence ends before the first empty line.
    sentence = re.match(rf"(?:`[^`]*`|\$[^$]*\$|(?!\n\n)[^`$])*?{SENTENCE_END}", text)
    bold = sentence[0] if sentence and "**" not in sentence[0] else ""
    first = f"**Answer. {bold}**" if bold else "**Answer.** "
    display({"text/markdown": first + text[len(bold) :], "text/plain": f"Answer. {text}"}, raw=True)


@contextmanager
def your_turn() -> Iterator[None]:
    """Show whether all checks in the with block pass, or the message of the first that fails."""
    text = "**Right.** Your lines pass all checks."
    try:
        yield
    except CheckFailed as failed:
        text = f"**Not right yet.**\n\n```text\n{failed}\n```"
    display({"text/markdown": text, "text/plain": text}, raw=True)


# --- the end of a lecture -------------------------------------------------------------------------


NO_GUESSES = (
    "You didn't enter any guesses this time. Try it: go back to a question, enter what you expect, "
    "and compare it with the answer. You remember a result better if you have predicted it."
)


def _show_guesses(shown: widgets.HTML) -> None:
    """Write all guesses as they are now into the output of a tally."""
    guesses = [prediction.guess for prediction in _predictions.values()]
    made = [guess for guess in guesses if guess.guess is not None]
    words = summary(guesses) if made else NO_GUESSES
    shown.value = f'{STYLE}<div role="status">{as_html(words)}</div>{_table(made)}'


def _table(guesses: Iterable[Guess]) -> str:
    """Return the guesses whose answers are known as a table in HTML; "" if there are none."""
    names = ("prediction", "your guess", "the answer", "result")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = ""
    for guess in guesses:
        if (truth := guess.truth) is None:
            continue
        question, mine = guess.question, guess.guess
        texts = (
            mine if isinstance(mine, str) else with_unit(as_float(mine), question.unit),
            question.right_choice(truth) or with_unit(as_float(truth), question.unit),
            guess.judged(),
        )
        cells = "".join(f"<td>{as_html(text)}</td>" for text in texts)
        rows += f'<tr><th scope="row">{question.key}</th>{cells}</tr>'
    return f"<table><tr>{head}</tr>{rows}</table>" if rows else ""


def tally(lecture: str) -> None:
    """Show all guesses of a lecture, such as "03", beside the answers."""
    check_name("the name of a lecture", lecture)
    shown = _tallies.setdefault(lecture, widgets.HTML())
    _show_guesses(shown)
    text = "When you run this notebook, this cell compares your predictions with the answers."
    _show(_framed(shown), f"<p>{text}</p>", text, tally=lecture)


# --- HTML -----------------------------------------------------------------------------------------


def _framed(*parts: widgets.Widget) -> widgets.VBox:
    box = widgets.VBox(list(parts))
    box.add_class("course-prediction")
    return box


def _show(box: widgets.Widget, page: str, text: str, **metadata: Any) -> None:
    """Display a box, with HTML and text for readers without a kernel."""
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    forms = {"text/plain": text, WIDGET_VIEW: view}
    # It is not known which of the two forms Colab prefers, and Colab stores the state of widgets.
    if not in_colab():
        forms["text/html"] = f'<div class="prediction" style="{FRAME}">{page}</div>'
    display(forms, raw=True, metadata={METADATA: metadata})


def _question_page(question: Question) -> str:
    items = "".join(f"<li>{as_html(choice)}</li>" for choice in question.choices)
    unit = f" in {as_html(question.unit)}" if question.unit else ""
    form = f'<ol type="A" style="list-style-type: upper-alpha">{items}</ol>'
    form = form if items else f"<p>Your guess: a number{unit}.</p>"
    head = f"<p><strong>Predict.</strong> {as_html(question.question)}</p>"
    return head + form


def _answer_page(form: Reveal) -> str:
    items = "".join(
        f"<li>Not {as_html(written(choice))}: {as_html(reason)}</li>"
        for choice, reason in form.why.items()
    )
    more = f"<ul>{items}</ul>" if items else ""
    body = f"<p>{as_html(form.answer)}</p>{more}"
    return f"<details><summary>Compare your guess with the answer</summary>{body}</details>"
