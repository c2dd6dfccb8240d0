"""Measure a model on held-out rows of a user's data, and compare it before and after training.

Some modules are imported only where they are needed, because they are not available while an
assignment about them is graded.
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
    """A number that is measured on each held-out row.

    Attributes:
        label: its name for readers.
        meaning: a sentence that explains it.
        is_share: whether each row is right or wrong, so that the mean is a share of the rows.
        form: the format of a mean, such as ".2f".
    """

    label: str
    meaning: str
    is_share: bool
    form: str


METRICS = {
    "loss": Metric(
        "loss (nats per token)",
        "How surprised the model is by the right answer: the mean of −ln p over its tokens. Lower "
        "is better.",
        False,
        ".3f",
    ),
    "exact": Metric(
        "answers equal",
        "Share of the rows whose generated answer equals the answer in the file, apart from white "
        "space at its ends.",
        True,
        ".0%",
    ),
    "rouge_l": Metric(
        "ROUGE-L",
        "How much of the words of the two answers agree in their order, from 0 to 1.",
        False,
        ".2f",
    ),
}


@dataclass(frozen=True)
class Measured:
    """Results on the held-out rows.

    Attributes:
        answers: the generated answers.
        scores: by the key of METRICS, one number for each row.
    """

    answers: list[str]
    scores: dict[str, list[float]]

    def mean(self, metric: str) -> Interval:
        """Return the mean of a metric with its 95% interval."""
        from course_utils.significance import bootstrap, wilson

        values = self.scores[metric]
        return wilson(sum(values), len(values)) if METRICS[metric].is_share else bootstrap(values)


class Change(NamedTuple):
    """How a metric has changed on the same rows.

    Attributes:
        difference: mean of the differences, with its paired 95% interval.
        p: the probability that chance alone makes a difference that is at least as large.
    """

    difference: Interval
    p: float


def measure(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    features: Sequence[Features],
    max_new_tokens: int,
) -> Measured:
    """Generate the answer to each held-out row, and score it.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        conversations: the held-out rows; the last message of each is the right answer.
        features: the tokenized rows, as `sft.encode` returns them.
        max_new_tokens: maximum length of an answer, in tokens.
    """
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
    """Compare two results on the same rows, metric by metric.

    The comparison is paired. The p-value is from McNemar's test for shares, and from a sign-flip
    test for other metrics.
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
