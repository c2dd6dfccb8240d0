"""Let readers of the website answer predictions without a kernel.

`predict`, `reveal` and `tally` describe each question and answer in the metadata of their outputs.
`interactive` turns these outputs into forms. docs/_static/reader.mjs keeps the guesses in the
reader's browser, and shows a guess beside the answer; the words about each choice are written here.
If JavaScript is off, a page still shows the questions, and a click on a line below each question
opens its answer.
"""

from __future__ import annotations

import html
import json
from typing import Any

from course_utils.machine.notebooks import METADATA
from course_utils.machine.validation import CourseError
from course_utils.notebook.guesses import Question, Reveal, as_html, comparison


def interactive(notebook: Any, lecture: str) -> None:
    """Turn the predictions in a notebook's outputs into forms that need no kernel.

    The browser keeps the reader's guesses under the name of the lecture.
    """
    questions: dict[str, Question] = {}
    for output in (each for cell in notebook.cells for each in cell.get("outputs", [])):
        form = output.get("metadata", {}).get(METADATA, {})
        try:
            question = Question.read(form["predict"]) if "predict" in form else None
            answer = Reveal(**form["reveal"]) if "reveal" in form else None
        except (KeyError, TypeError):
            raise CourseError(
                f"the last run of {lecture} can't be used, because an earlier version of the "
                f"course made it: run `course run --only {lecture[:2]}`"
            ) from None
        if question:
            questions[question.key] = question
            output.data["text/html"] = _form(question, lecture)
        elif answer and answer.key in questions:
            page = output.data["text/html"]
            output.data["text/html"] = _comparison(questions[answer.key], answer, page, lecture)
        elif "tally" in form:
            output.data["text/html"] = (
                f'<div class="reader-prediction" data-tally="{len(questions)}">'
                f"<p>This lecture asks for {len(questions)} predictions.</p></div>"
            )


def _form(question: Question, lecture: str) -> str:
    choices = "".join(
        f'<label><input type="radio" name="guess" value="{html.escape(choice)}"> '
        f"<span>{as_html(choice)}</span></label>"
        for choice in question.choices
    )
    unit = f" in {as_html(question.unit)}" if question.unit else ""
    field = (
        f'<label>Your guess{unit}: <input type="text" name="guess" autocomplete="off" '
        'maxlength="40"></label>'
    )
    return (
        f'<form class="reader-prediction" data-predict="{lecture}/{question.key}"><fieldset>'
        f"<legend><strong>Predict.</strong> {as_html(question.question)}</legend>"
        f'{choices or field}</fieldset><p role="status"></p></form>'
    )


def _comparison(question: Question, answer: Reveal, page: str, lecture: str) -> str:
    """Return the HTML of an answer, which a click opens, with the words about each guess.

    The attribute `data-words` has the words about each choice. A number that a reader has typed is
    shown beside the answer, without a judgement.
    """
    words = {
        choice: comparison(question, choice, answer.truth, answer.why)
        for choice in question.choices
    }
    data = {
        "data-reveal": f"{lecture}/{question.key}",
        "data-words": json.dumps(words, ensure_ascii=False),
        "data-answer": answer.answer,
        "data-right": answer.right or "",
    }
    attributes = " ".join(f'{name}="{html.escape(text)}"' for name, text in data.items())
    return f'<div class="reader-prediction" {attributes}><p role="status"></p>{page}</div>'
