"""Measure a model on the held-out rows of a user's data, before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils import evaluation

if TYPE_CHECKING:
    from pandas import DataFrame

    from course_utils.sft import Features, Message
    from course_utils.significance import Interval


class Metric(NamedTuple):
    """A property of an answer that is measured on each held-out row."""

    label: str
    meaning: str
    form: str


METRICS = {
    "loss": Metric(
        "loss (nats per token)",
        "How surprised the model is by the right answer: the mean of −ln p over the tokens of this "
        "answer, where p is the probability that the model gives to a token. Lower is better.",
        ".3f",
    ),
    "exact": Metric(
        "exact match",
        "Share of the rows whose generated answer equals the answer in the file, if white space "
        "before and after the answers is ignored.",
        ".0%",
    ),
    "rouge_l": Metric(
        "ROUGE-L",
        "How similar the generated answer is to the answer in the file, from 0 (no word in common) "
        "to 1 (the same words in the same order).",
        ".2f",
    ),
}


@dataclass(frozen=True)
class Measured:
    """A model's answers to the held-out rows, and the value of each metric on each row.

    Attributes:
        scores: a dict from each key of METRICS to a list with one number for each row.
    """

    answers: list[str]
    scores: dict[str, list[float]]

    def table(self) -> DataFrame:
        """Return the scores as a table, which `evaluation.compare` can compare with another."""
        import pandas as pd

        return pd.DataFrame(self.scores)

    def mean(self, metric: str) -> Interval:
        """Return the mean of a metric with its 95% interval."""
        return evaluation.summary(self.table()[[metric]])[metric]


def measure(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    features: Sequence[Features],
    max_new_tokens: int,
) -> Measured:
    """Let a model answer the held-out rows, and compute all metrics on each row."""
    from course_utils.training.watch import token_losses

    prompts = [chat[:-1] for chat in conversations]
    right = [chat[-1]["content"] for chat in conversations]
    answers = evaluation.generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
    losses = token_losses(model, features, tokenizer)
    pairs = list(zip(answers, right, strict=True))
    return Measured(
        answers,
        {
            "loss": [sum(row) / len(row) for row in losses],
            "exact": [float(answer.strip() == r.strip()) for answer, r in pairs],
            "rouge_l": [evaluation.rouge_l(answer, r) for answer, r in pairs],
        },
    )
