"""Watch a model learn: its answer to one story, and the loss of each kind of answer token.

An answer about a news story has four kinds of tokens:

    {"section": "business", "headline": "Tile maker axes 620 jobs as kilns go cold"}<|im_end|>
    └── frame ─┘└section─┘└── frame ──┘└────────────── headline ───────────────┘└─┘└─end token─┘

The answers and losses are computed between two training steps, in eval mode and without gradients,
so they change neither the weights nor the later losses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from course_utils import evaluation, figures
from course_utils.machine import runtime, threads
from course_utils.machine.validation import positive
from course_utils.sft import IGNORE, Features, Message, collator
from course_utils.training.by_hand import LlamaByHand, supports
from course_utils.training.step import answer_logits

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from course_utils.figures import LearningCurve

FRAME, SECTION, HEADLINE, END = KINDS = ("JSON frame", "section", "headline", "end token")
# The model answers after these steps, and before the first and after the last one.
ANSWER_AT = (3, 10)
# The value of "section" or "headline" in an answer.
VALUE = re.compile(r'"(section|headline)":\s*"((?:[^"\\]|\\.)*)')


def answer_token_kinds(row: Features, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the kind of each answer token of a result of `sft.encode`: one of `KINDS`.

    A token that contains characters of several kinds, such as a last letter with the quote after
    it, has the kind of the first value in it, because the model must know the value to predict such
    a token. A token that contains only some bytes of a character counts as this character.
    """
    ids = [label for label in row["labels"] if label != IGNORE]
    words = [i for i in ids if i != tokenizer.eos_token_id]
    # Where each token begins, and where the last token ends. An incomplete character is decoded as
    # �, and the next token begins before this character.
    texts = [tokenizer.decode(words[:n]) for n in range(len(words) + 1)]
    begins, ends = [len(text.rstrip("�")) for text in texts[:-1]], [len(text) for text in texts[1:]]
    values = {match[1]: match.span(2) for match in VALUE.finditer(texts[-1])}
    if set(values) != {SECTION, HEADLINE}:
        raise ValueError(
            f"the answer must be JSON with a section and a headline, got {texts[-1]!r:.80}"
        )
    spans = sorted(values.items(), key=lambda value: value[1])

    def kind(begin: int, end: int) -> str:
        inside = (name for name, (first, last) in spans if begin < last and end > first)
        return next(inside, FRAME)

    places = iter(zip(begins, ends, strict=True))
    return [END if i == tokenizer.eos_token_id else kind(*next(places)) for i in ids]


@torch.no_grad()
@threads.sharing_cores()
def token_losses(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[Features],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
) -> list[list[float]]:
    """Return the loss of each answer token of each row (`sft.encode`), in nats.

    The losses are computed in eval mode. Afterwards each module's previous mode is restored.
    """
    size, device = positive("batch_size", batch_size), model.get_input_embeddings().weight.device
    if not len(rows):
        raise ValueError("the loss needs at least one row")
    fast = supports(model)
    one = LlamaByHand(model).losses if fast else partial(_losses, model)
    collate = collator(tokenizer, packed=fast)
    losses: list[list[float]] = []
    runtime.release_memory(collect=False)  # in a training run, its buffers
    with evaluation.evaluating(model):
        for first in range(0, len(rows), size):
            threads.adapt()
            some = rows[first : first + size]
            batch = {name: tensor.to(device) for name, tensor in collate(some).items()}
            in_order = iter(one(batch).tolist())
            for row in some:
                answer_tokens = sum(label != IGNORE for label in row["labels"])
                losses.append(list(islice(in_order, answer_tokens)))
    runtime.release_memory(collect=False)
    return losses


def _losses(model: PreTrainedModel | PeftModel, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of each answer token of a batch in a tensor with one dimension."""
    logits, targets = answer_logits(model, batch)
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
    )
    return losses[targets.flatten() != IGNORE]


def loss_by_kind(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[Features],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
) -> dict[str, float]:
    """Return the mean loss of each kind of answer token, in nats per token of this kind."""
    kinds = [kind for row in rows for kind in answer_token_kinds(row, tokenizer)]
    losses = chain.from_iterable(token_losses(model, rows, tokenizer, batch_size))
    pairs = list(zip(kinds, losses, strict=True))
    return {kind: fmean(loss for k, loss in pairs if k == kind) for kind in KINDS if kind in kinds}


def growing_steps(last: int) -> list[int]:
    """Return steps from 1 to `last`, each half as large again: 1, 2, 3, 4, 6, 9, 14, …."""
    steps = [1]
    while steps[-1] < last:
        steps.append(min(last, max(steps[-1] + 1, round(1.5 * steps[-1]))))
    return steps


class Watch:
    """A function for `finetune`'s on_step that records what the model has learned so far.

        watch = Watch(model, tokenizer, conversation, validation[:12], steps=42)
        watch.show()
        finetune(model, tokenizer, train, on_step=watch)

    Attributes:
        history: One record for each step so far, as in `Run.history`.
        answers: Step → the model's answer to the conversation after this step.
        losses: Step → kind of answer token → loss in nats, as `loss_by_kind` returns it.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        conversation: Sequence[Message],
        rows: Sequence[Features] = (),
        *,
        steps: int,
    ):
        """Record the model before its first step, which has number 0.

        Args:
            conversation: Chat messages up to the user's question, which the model answers.
            rows: Results of `sft.encode` whose losses are measured.
            steps: Number of steps of the run, after which the model answers for the last time.
                Losses are measured when the model answers and after `growing_steps(steps)`.
        """
        self.model, self.tokenizer, self.conversation = model, tokenizer, conversation
        self.rows, self.steps = rows, steps
        self.answer_at = {0, *ANSWER_AT, steps}
        self.losses_at = {*self.answer_at, *growing_steps(steps)}
        self.history: list[dict] = []
        self.answers: dict[int, str] = {}
        self.losses: dict[int, dict[str, float]] = {}
        self._display: Any = None
        self._record(0)

    def __call__(self, history: list[dict]) -> None:
        """Record the model after a step. `finetune` calls this method with the history."""
        self.history = list(history)
        self._record(history[-1]["step"])

    def _record(self, step: int) -> None:
        if step in self.answer_at:
            (self.answers[step],) = evaluation.generate(
                self.model, self.tokenizer, [self.conversation], progress=False
            )
        if len(self.rows) and step in self.losses_at:
            self.losses[step] = loss_by_kind(self.model, self.rows, self.tokenizer)
        if self._display and step in self.losses_at:
            self._display.update(self.curve())

    def curve(self, title: str = "") -> LearningCurve:
        """Return the loss curve so far, with the answers so far below it."""
        return figures.learning_curve(self.history, dict(self.answers), self.steps, title)

    def show(self) -> None:
        """Display the curve and the answers, and renew them whenever something is recorded."""
        from IPython.display import display

        self._display = display(self.curve(), display_id=True)

    @property
    def curves(self) -> dict[str, dict[int, float]]:
        """The recorded losses as curves: kind of answer token → step → loss in nats."""
        kinds = dict.fromkeys(kind for losses in self.losses.values() for kind in losses)
        return {kind: {step: each[kind] for step, each in self.losses.items()} for kind in kinds}

    def learned_by(self, share: float = 0.9) -> dict[str, int]:
        """Return when each kind of token was learned: kind → number of a recorded step.

        After this step, and not after an earlier one, the loss had fallen by `share` of the way
        from its first value to its lowest value.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share!r}")
        found = {}
        for kind, curve in self.curves.items():
            first, lowest = next(iter(curve.values())), min(curve.values())
            # Rounding could make the goal for share 1 lower than the lowest loss.
            goal = max(lowest, first - share * (first - lowest))
            found[kind] = next(step for step, loss in curve.items() if loss <= goal)
        return found
