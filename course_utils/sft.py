"""Prepare data for supervised fine-tuning: chat template, loss on answers only, padding.

A conversation becomes two rows of equal length. The model reads the first row, and the loss is
computed on the second row:

    input_ids   <|im_start|>user … story … <|im_start|>assistant   {"section": … }  <|im_end|>
    labels      -100 -100 -100 -100  …  -100 -100 -100 -100 -100   {"section": … }  <|im_end|>
                └───────────── prompt: no loss ─────────────────┘ └── answer and end: loss ──┘

Padding is masked by its position, never by its token, because SmolLM2 pads with `<|im_end|>`, the
token that also ends an answer. A mask by token would exclude this end token from the loss, and the
model would never learn to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# torch.nn.functional.cross_entropy ignores labels of this value.
IGNORE = -100

Message = Mapping[str, str]
Turns = Literal["last", "all"]
Features = dict[str, list[int]]


def prompt_ids(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of a conversation up to the beginning of the assistant's answer."""
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(ids["input_ids"])


def answer_ids(answer: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of the answer and of the end token that the model must also learn."""
    return tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


def graded_messages(messages: Sequence[Message], turns: Turns) -> list[int]:
    """Return the indices of the answers that are graded. The first message is never an answer."""
    answers = [k for k in range(1, len(messages)) if messages[k]["role"] == "assistant"]
    return answers if turns == "all" else answers[-1:]


def graded_runs(row: Features) -> list[list[int]]:
    """Return a row's sequences of graded tokens: its answers, each with its end token."""
    runs = groupby(row["labels"], IGNORE.__ne__)
    return [list(run) for is_graded, run in runs if is_graded]


def token_texts(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the text of each token for display, with · for a space and ↵ for a line break.

    A token that contains only some bytes of a character is shown as �.
    """
    return [tokenizer.decode([i]).replace(" ", "·").replace("\n", "↵") for i in ids]


def encode(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 1024,
    turns: Turns = "last",
) -> Features:
    """Tokenize one conversation for training, with loss only on answers and their end tokens.

    The end token is the tokenizer's eos_token. Some chat templates end an answer with another
    token; `tuning.base.prepare_tokenizer` makes this token the eos_token.

    Args:
        turns: "last" grades only the assistant's last message, and "all" grades all of its
            messages after the first message of the conversation. The loss of "all" is the sum of
            the losses that "last" gives for the conversation cut after each of these answers.

    Returns:
        {"input_ids": […], "labels": […]} of equal length; the other labels are -100.
    """
    if turns not in ("last", "all"):
        raise ValueError(f'turns must be "last" or "all", got {turns!r}')
    if not messages or messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise ValueError("the last message must be the assistant's: it is the answer to a prompt")
    answer = messages[-1]["content"]
    if not answer.strip():
        raise ValueError("the assistant's answer is empty: there is nothing to learn from it")
    prompt, target = prompt_ids(messages[:-1], tokenizer), answer_ids(answer, tokenizer)
    if len(prompt) + len(target) > max_length:
        raise ValueError(
            f"prompt ({len(prompt)} tokens) and answer ({len(target)} tokens) together exceed "
            f"max_length={max_length}: raise max_length"
        )
    ids, labels = prompt + target, [IGNORE] * len(prompt) + target
    for k in graded_messages(messages, turns)[:-1]:
        earlier = encode(messages[: k + 1], tokenizer, max_length=max_length)
        start, end = earlier["labels"].count(IGNORE), len(earlier["labels"])
        if ids[:end] != earlier["input_ids"]:
            raise ValueError(
                "the chat template rewrites earlier turns (it may remove thoughts or white space), "
                f"or doesn't end message {k + 1} with {tokenizer.eos_token}: set the eos_token, or "
                "make a row for each answer, with all messages before it as its prompt"
            )
        labels[start:end] = ids[start:end]
    return {"input_ids": ids, "labels": labels}


def encode_all(
    conversations: Iterable[Sequence[Message]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 1024,
    turns: Turns = "last",
) -> list[Features]:
    """Apply `encode` to many conversations.

    An error message contains the number of the faulty conversation, counted from 0.
    """
    features = []
    for number, messages in enumerate(conversations):
        try:
            features.append(encode(messages, tokenizer, max_length=max_length, turns=turns))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"conversation {number}: {error}") from error
    return features


def collate(
    features: Sequence[Features], pad_token_id: int, multiple: int = 1
) -> dict[str, Tensor]:
    """Pad a batch on the left to the length of its longest row.

    This length is rounded up to a multiple of `multiple`.

        pad pad prompt prompt answer end
        prompt prompt prompt answer answer end

    All answers end at the right edge, so a loss on answers needs only the last few columns.

    Returns:
        input_ids, attention_mask and labels, each a (batch, width) int64 tensor. At the positions
        of padding, the mask is 0 and the labels are -100.
    """
    if not features:
        raise ValueError("a batch needs at least one example")
    longest = max(len(f["input_ids"]) for f in features)
    shape = (len(features), math.ceil(longest / multiple) * multiple)
    batch = {
        "input_ids": torch.full(shape, pad_token_id),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORE),
    }
    for row, feature in enumerate(features):
        start = shape[1] - len(feature["input_ids"])
        batch["input_ids"][row, start:] = torch.tensor(feature["input_ids"])
        batch["attention_mask"][row, start:] = 1
        batch["labels"][row, start:] = torch.tensor(feature["labels"])
    return batch


def shared_prefix(rows: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which all rows begin, at least one fewer than any row has.

    A single row shares no tokens with others, so its result is empty.
    """
    if len(rows) < 2:
        return []
    # What the first and the last row in sorted order have in common, all rows have in common.
    first, last = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    pairs = zip(first[:limit], last, strict=False)
    return first[: next((n for n, (a, b) in enumerate(pairs) if a != b), limit)]


def pack(features: Sequence[Features], pad_token_id: int, multiple: int = 1) -> dict[str, Tensor]:
    """Put a batch into one row, in which the tokens that all examples begin with are there once.

        examples            system user answer end       system user user answer answer end
        input_ids           system │ user   answer │ user user   answer answer │ pad
        labels         -    -        answer end      -    answer answer end      -
        position_ids        0        1      2        1    2      3      4        5
        lengths             3, 5
        shared              1

    The last token of an example is only a label, because no token after it is predicted. A token
    may attend only to the shared prefix and to tokens of the same example. The prefix ends before
    the first token that predicts an answer token. Padding follows only the last example, so
    that the number of tokens is a multiple of `multiple`.

    Returns:
        Tensors in int64: input_ids and position_ids, (1, tokens); labels, (1, tokens + 1), where
        labels[0, t + 1] is what token t predicts; lengths, (batch,), the number of tokens of each
        example with the prefix; and shared, a scalar, the number of tokens of the prefix.
    """
    if not features:
        raise ValueError("a batch needs at least one example")
    rows = [feature["input_ids"][:-1] for feature in features]
    labels = [feature["labels"][1:] for feature in features]  # of the tokens after those in `rows`
    graded = (i for row in labels for i, label in enumerate(row) if label != IGNORE)
    ids = shared_prefix(rows)[: min(graded, default=None)]
    shared = len(ids)
    for row in rows:
        ids += row[shared:]
    filling = -len(ids) % multiple
    targets = [IGNORE] * (1 + shared) + [label for row in labels for label in row[shared:]]
    lengths = list(map(len, rows))
    ends = (*lengths[:-1], lengths[-1] + filling)
    ranges = [torch.arange(shared), *(torch.arange(shared, end) for end in ends)]
    return {
        "input_ids": torch.tensor([ids + [pad_token_id] * filling]),
        "position_ids": torch.cat(ranges)[None],
        "labels": torch.tensor([targets + [IGNORE] * filling]),
        "lengths": torch.tensor(lengths),
        "shared": torch.tensor(shared),
    }


@dataclass(frozen=True)
class Collator:
    """A callable that applies `collate` or `pack` with the padding token of one tokenizer.

    Lengths are rounded up to a multiple of 32: on a CPU, oneDNN builds and stores a kernel of about
    1 MB for every new shape, and on a GPU, tensor cores are fastest at multiples of 8.
    """

    pad_token_id: int
    packed: bool = False

    def __call__(self, features: Sequence[Features]) -> dict[str, Tensor]:
        """Combine a few examples into one batch, as `pack` or `collate` does."""
        return (pack if self.packed else collate)(features, self.pad_token_id, multiple=32)


def collator(tokenizer: PreTrainedTokenizerBase, packed: bool = False) -> Collator:
    """Return the collator for a tokenizer."""
    pad = tokenizer.pad_token_id
    return Collator(tokenizer.eos_token_id if pad is None else pad, packed)
