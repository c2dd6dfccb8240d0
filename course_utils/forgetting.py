"""Measure what a fine-tuned model has forgotten: answers to general questions, before and after.

    load_questions -> conversations -> evaluation.generate -> score -> evaluation.comparison_table
                                                         └──> loss_on

The questions have short answers that a program can check. All of them were written for this course;
data/DATASHEET.md describes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from statistics import fmean
from typing import TYPE_CHECKING

from course_utils import sft
from course_utils.machine.validation import one_answer_each
from course_utils.training import token_losses

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedTokenizerBase

    from course_utils.evaluation import Model
    from course_utils.news import Message


def load_questions() -> list[dict]:
    """Load the 40 general questions: capitals, numbers, opposites, facts and instructions.

    Returns:
        Dicts with id, question and answers. Each of the answers is a right answer.
    """
    return _records("general_questions.jsonl")


def load_texts() -> list[dict]:
    """Load the 48 general texts: explanations, stories, dialogues, instructions, letters, code."""
    return _records("general_texts.jsonl")


def _records(name: str) -> list[dict]:
    path = files("course_utils") / "data" / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def conversations(
    questions: Sequence[Mapping], answers: Sequence[str] | None = None
) -> list[list[Message]]:
    """Make a conversation of each question, with the answer of a model if it is given."""
    asked = [[{"role": "user", "content": q["question"]}] for q in questions]
    if answers is None:
        return asked
    one_answer_each(answers, questions, "question")
    return [
        [*chat, {"role": "assistant", "content": answer}]
        for chat, answer in zip(asked, answers, strict=True)
    ]


def score(answers: Sequence[str], questions: Sequence[Mapping]) -> DataFrame:
    """Score each answer to a general question.

    An answer is right if it contains one of the right answers as whole words, in upper or lower
    case: "It is Paris." is right, and so is "Paris" inside other text or JSON. So `right` measures
    what the model knows, and `news_json` measures how it answers.

    Returns:
        A table with a row for each answer and the columns right and news_json, which are 0 or 1.
        news_json is 1 if the answer begins like the answer to a news story, with {"section".
    """
    import pandas as pd

    one_answer_each(answers, questions, "question")
    right = [
        float(_is_right(answer, question["answers"]))
        for answer, question in zip(answers, questions, strict=True)
    ]
    news_json = [float(answer.startswith('{"section"')) for answer in answers]
    return pd.DataFrame({"right": right, "news_json": news_json})


def _is_right(answer: str, accepted: Sequence[str]) -> bool:
    if isinstance(accepted, str) or not all(accepted):
        raise ValueError(f"right answers must be a list of texts, got {accepted!r}")
    # The character before and after must not be a letter or a digit. A right answer may itself
    # begin or end with another character, as C++ does, so \b would not do.
    return any(
        re.search(rf"(?<![^\W_]){re.escape(text)}(?![^\W_])", answer, re.IGNORECASE)
        for text in accepted
    )


def loss_on(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Mapping],
    answers: Sequence[str],
) -> float:
    """Return the model's mean loss on given answers to the questions, in nats per answer token.

    If the answers are those of the model before it was fine-tuned, the loss says how far its way of
    answering has moved. The end token doesn't count, because an answer may have been cut off at
    `max_new_tokens`: a model rarely ends there, so this single token would have a large loss.
    """
    rows = sft.encode_all(conversations(questions, answers), tokenizer)
    losses = token_losses(model, rows, tokenizer, batch_size=8)
    return fmean(loss for answer in losses for loss in answer[:-1])


def text_loss(model: Model, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Mapping]) -> float:
    """Return the model's mean loss on texts, in nats per token.

    The texts are not conversations, and every token but the first of each text counts. So the loss
    says how well the model still continues general text.
    """
    ids = [tokenizer(text["text"], add_special_tokens=False)["input_ids"] for text in texts]
    rows = [{"input_ids": each, "labels": [sft.IGNORE, *each[1:]]} for each in ids]
    losses = token_losses(model, rows, tokenizer, batch_size=8)
    return fmean(loss for text in losses for loss in text)
