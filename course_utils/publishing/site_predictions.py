"""Let readers of the website answer predictions without a kernel.

`predict`, `reveal` and `tally` describe each question and answer in the metadata of their outputs.
`interactive` turns these outputs into forms. docs/_static/reader.mjs keeps the guesses in the
reader's browser and compares them with the answers. If JavaScript is off, a page still shows the
questions, and a click on a line below each question opens its answer.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from course_utils.guesses import Question, as_html, comparison
from course_utils.notebooks import METADATA
from course_utils.validation import CourseError

# The fields of the metadata that `predict` and `reveal` write.
FIELDS = {
    "predict": {"key", "question", "choices", "numbers", "unit"},
    "reveal": {"key", "answer", "truth", "right", "why"},
}


def interactive(notebook: Any, lecture: str) -> None:
    """Turn the predictions in a notebook's outputs into forms that need no kernel.

    Args:
        notebook: the executed notebook, which is changed.
        lecture: the name of the notebook. The browser keeps the reader's guesses under this name.

    Raises:
        CourseError: an earlier version of the course made the outputs.
    """
    questions: dict[str, Question] = {}
    for output in (each for cell in notebook.cells for each in cell.get("outputs", [])):
        form = output.get("metadata", {}).get(METADATA, {})
        if any(not FIELDS[kind] <= form[kind].keys() for kind in FIELDS.keys() & form.keys()):
            raise CourseError(
                f"the last run of {lecture} can't be used, because an earlier version of the "
                f"course made it: run `course run --only {lecture[:2]}`"
            )
        if asked := form.get("predict"):
            question = questions[asked["key"]] = _question(asked)
            output.data["text/html"] = _form(question, lecture)
        elif (answered := form.get("reveal")) and answered["key"] in questions:
            page = output.data["text/html"]
            question = questions[answered["key"]]
            output.data["text/html"] = _comparison(question, answered, page, lecture)
        elif "tally" in form:
            output.data["text/html"] = _tally(lecture, len(questions))


def _question(asked: Mapping[str, Any]) -> Question:
    choices, numbers = tuple(asked["choices"]), tuple(map(float, asked["numbers"]))
    return Question(asked["key"], asked["question"], choices, numbers, asked["unit"])


def _form(question: Question, lecture: str) -> str:
    key = f"{lecture}/{question.key}"
    choices = "".join(
        f'<label><input type="radio" name="guess" value="{html.escape(choice)}"> '
        f"<span>{as_html(choice)}</span></label>"
        for choice in question.choices
    )
    unit = f" in {as_html(question.unit)}" if question.unit else ""
    field = f'<label>Your guess{unit}: <input type="text" name="guess" autocomplete="off"></label>'
    return (
        f'<form class="reader-prediction" data-predict="{key}" '
        f'data-unit="{html.escape(question.unit)}"><fieldset><legend><strong>Predict.</strong> '
        f"{as_html(question.text)}</legend>{choices or field}</fieldset>"
        '<p role="status"></p></form>'
    )


def _comparison(question: Question, answered: Mapping[str, Any], page: str, lecture: str) -> str:
    """Return the HTML of an answer. A click opens the answer.

    The attribute `data-words` contains the text for each choice that a reader may have made.
    """
    truth = answered["truth"]
    words = {
        choice: comparison(question, choice, truth, answered["why"]) for choice in question.choices
    }
    data = {
        "data-reveal": f"{lecture}/{question.key}",
        "data-answer": answered["answer"],
        "data-truth": json.dumps(truth),
        "data-right": answered["right"] or "",
        "data-unit": question.unit,
        "data-words": json.dumps(words, ensure_ascii=False),
    }
    attributes = " ".join(f'{name}="{html.escape(text)}"' for name, text in data.items())
    return f'<div class="reader-prediction" {attributes}><p role="status"></p>{page}</div>'


def _tally(lecture: str, count: int) -> str:
    return (
        f'<div class="reader-prediction" data-tally="{lecture}" data-count="{count}">'
        f"<p>This lecture asks for {count} predictions.</p></div>"
    )
