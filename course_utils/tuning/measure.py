"""Measure a model on the held-out rows of a user's data, before and after training.

Some modules are imported inside functions. These modules are not available while an assignment
about them is graded, but this module must still be importable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils import evaluation

if TYPE_CHECKING:
    from course_utils.sft import Features, Message
    from course_utils.significance import Interval


class Metric(NamedTuple):
    """A property of an answer that is measured on each held-out row.

    Attributes:
        is_share: True if a row can only have the value 1 (right) or 0 (wrong), so that the mean
            over all rows is the share of the rows with a right answer.
    """

    label: str
    meaning: str
    is_share: bool
    form: str


METRICS = {
    "loss": Metric(
        "loss (nats per token)",
        "How surprised the model is by the right answer: the mean of −ln p over the tokens of this "
        "answer, where p is the probability that the model gives to a token. Lower is better.",
        False,
        ".3f",
    ),
    "exact": Metric(
        "exact match",
        "Share of the rows whose generated answer equals the answer in the file, if white space "
        "before and after the answers is ignored.",
        True,
        ".0%",
    ),
    "rouge_l": Metric(
        "ROUGE-L",
        "How similar the generated answer is to the answer in the file, from 0 (no word in common) "
        "to 1 (the same words in the same order).",
        False,
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

    def mean(self, metric: str) -> Interval:
        """Return the mean of a metric with its 95% interval.

        The interval of a share is Wilson's interval. For all other metrics, it is a bootstrap
        interval.
        """
        from course_utils.significance import bootstrap, wilson

        values = self.scores[metric]
        return wilson(sum(values), len(values)) if METRICS[metric].is_share else bootstrap(values)


class Change(NamedTuple):
    """The change of a metric between two measurements on the same rows."""

    difference: Interval
    p: float


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


def changes(before: Measured, after: Measured) -> dict[str, Change]:
    """Compare two measurements on the same rows, metric by metric.

    The comparison is paired: it uses the difference on each row. The p-value is computed with
    McNemar's test if the metric is a share, and with a sign-flip test for all other metrics.
    """
    from course_utils.significance import bootstrap, mcnemar, sign_flip

    found = {}
    for name, metric in METRICS.items():
        pairs = zip(before.scores[name], after.scores[name], strict=True)
        differences = [b - a for a, b in pairs]
        if metric.is_share:
            p = mcnemar(sum(d > 0 for d in differences), sum(d < 0 for d in differences))
        else:
            p = sign_flip(differences)
        found[name] = Change(bootstrap(differences), p)
    return found
