"""Read a user's own examples, check them, and hold some of them out.

A problem that would spoil the training is an error. A smaller problem is reported as a note, which
doesn't stop the training.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import sft
from course_utils.machine.validation import first_line, positive
from course_utils.news import Message
from course_utils.tuning.rows import DataError, Errors, Source, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")
# With fewer different prompts than this, there would be too few held-out rows to measure a model.
FEWEST_PROMPTS = 10
# At least 5 rows are held out, and at most 100, because the model must answer all of them twice.
FEWEST_HELD_OUT, MOST_HELD_OUT = 5, 100
# A note warns about fewer training rows than this.
FEW_ROWS = 100
GRADED = {
    "last": "each row's answer and its end token.",
    "all": "all of the assistant's answers in a row, each with its end token. In held-out rows, "
    "only the last answer is measured.",
}


@dataclass(frozen=True)
class OwnData(Source):
    """The conversations of a user's data, divided into rows for training and held-out rows.

    Attributes:
        turns: the answers that are graded in rows for training. In held-out rows, only the last
            answer is measured.
        held_out: the conversations for measurements. They are sorted by the hashes of their
            prompts, so the first few of them are a random sample.
    """

    train: list[list[Message]]
    held_out: list[list[Message]]
    train_lines: list[int]
    held_out_lines: list[int]
    notes: tuple[str, ...] = ()
    turns: sft.Turns = "last"

    @property
    def graded(self) -> str:
        """Return a text that says which tokens are graded in training."""
        return f"The training loss counts {GRADED[self.turns]}"


def read_data(
    path: str | Path,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    held_out: float = 0.1,
    fits: Callable[[list[Message]], bool] | None = None,
) -> OwnData:
    """Read prompts and answers, check them, and hold some rows out.

    docs/your-own-data.md lists the formats and their keys. White space around a graded answer is
    removed. If several rows are identical, only the first of them is used.

    Rows with the "split" "validation" or "test" are held out. If no row has a split, the function
    holds out the share `held_out` of the rows, but at least 5 and at most 100: the rows whose
    prompts have the smallest SHA-256 hashes. So the choice is the same each time, and rows with
    the same prompt are either all held out or all used for training.

    Args:
        path: a file, or "owner/name" for a data set on the hub.
        held_out: the share of the rows that is held out, above 0 and at most 0.5.
        fits: tells which conversations are short enough. Others are left out, with a note.
    """
    if not 0 < held_out <= 0.5:
        raise ValueError(f"held_out must be above 0 and at most 0.5, got {held_out}")
    source, conversations, splits, notes, turns = read_rows(Path(path), prompt, answer)
    notes = _clean(source, conversations, turns) + notes
    too_long = [line for line, row in conversations.items() if fits and not fits(row)]
    for line in too_long:
        del conversations[line]
    notes += source.note("Rows that are too long are left out", too_long)
    hashes = {line: _hash(messages[:-1]) for line, messages in conversations.items()}
    chosen = set(_held_by_split(splits, source) or _hold_out(hashes, held_out))
    train = [line for line in conversations if line not in chosen]
    held = sorted((line for line in conversations if line in chosen), key=hashes.__getitem__)
    prompts = len(set(hashes.values()))
    if prompts < FEWEST_PROMPTS or min(len(train), len(held)) < FEWEST_HELD_OUT:
        raise DataError(
            f"{source.name} has {prompts} different prompts, {len(train)} rows for training and "
            f"{len(held)} rows that can be held out, but at least {FEWEST_PROMPTS} different "
            f"prompts and {FEWEST_HELD_OUT} rows of both kinds are needed"
        )
    rows = [conversations[line] for line in train]
    learned = {_hash(row[:k]) for row in rows for k in sft.graded_messages(row, turns)}
    used = held[:MOST_HELD_OUT]
    return OwnData(
        **vars(source),
        train=rows,
        held_out=[conversations[line] for line in used],
        train_lines=train,
        held_out_lines=used,
        notes=(*notes, *_notes(source, hashes, train, held, learned)),
        turns=turns,
    )


def is_short(row: list[Message], tokenizer: PreTrainedTokenizerBase, max_length: int) -> bool:
    """Return whether a conversation has at most max_length tokens, or can't be tokenized."""
    try:
        return len(sft.encode(row, tokenizer, max_length=sys.maxsize)["labels"]) <= max_length
    except Exception:  # `check_lengths` reports it.
        return True


def check_lengths(
    data: OwnData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[sft.Features], list[sft.Features]]:
    """Tokenize all conversations, and check that none of them has too many tokens.

    Raises:
        DataError: a conversation has too many tokens, an answer contains the end token, or the
            tokenizer or its chat template fails on a conversation. The message lists these lines.
    """
    positive("max_length", max_length)
    errors: Errors = []
    features: list[sft.Features] = []
    longest = 0
    lines, conversations = data.train_lines + data.held_out_lines, data.train + data.held_out
    graded: list[sft.Turns] = [data.turns] * len(data.train) + ["last"] * len(data.held_out)
    for line, messages, turns in zip(lines, conversations, graded, strict=True):
        try:
            row = sft.encode(messages, tokenizer, max_length=sys.maxsize, turns=turns)
        # A chat template is a program, which may raise any error. And JSON can contain half of a
        # character, such as "\ud83d", which tokenizers refuse.
        except Exception as error:
            errors.append((line, f"can't be tokenized for this model: {first_line(error)}"))
            continue
        features.append(row)
        ungraded, length = row["labels"].count(sft.IGNORE), len(row["labels"])
        longest = max(longest, length)
        if length > max_length:
            problem = f"{length:,} tokens, of which {ungraded:,} belong to prompts, are too long"
            errors.append((line, problem))
        if any(tokenizer.eos_token_id in run[:-1] for run in sft.graded_runs(row)):
            problem = f"an answer contains the end token {tokenizer.eos_token}"
            errors.append((line, f"{problem}, which is added to each answer: remove it"))
    advice = (
        f"The maximum length is {max_length:,} tokens, and the longest example has {longest:,}: "
        "shorten the long examples, leave them out with --skip-long (skip_long=True), or raise the "
        "maximum with --max-length (max_length=)."
    )
    data.refuse(errors, advice if longest > max_length else "")
    return features[: len(data.train)], features[len(data.train) :]


# -- held-out rows -----------------------------------------------------------------------------


def _held_by_split(splits: Mapping[int, str | None], source: Source) -> list[int]:
    """Return the lines that are not for training, or no lines if the file has no splits."""
    if not any(splits.values()):
        return []
    wrong = {line: split for line, split in splits.items() if split not in SPLITS}
    allowed = f"'split' must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]} in all rows or in none"
    source.refuse([(line, f"{allowed}, got {split!r:.60}") for line, split in wrong.items()])
    return [line for line, split in splits.items() if split != "train"]


def _hold_out(hashes: Mapping[int, str], share: float) -> list[int]:
    """Choose the lines to hold out: those whose prompts have the smallest hashes.

    Lines with the same prompt are either all held out or all used for training. Lines are also used
    for training if holding them out would raise the number of held-out lines above MOST_HELD_OUT or
    above half of all lines.
    """
    lines = defaultdict(list)
    for line, prompt in hashes.items():
        lines[prompt].append(line)
    wanted = min(max(round(share * len(hashes)), FEWEST_HELD_OUT), MOST_HELD_OUT)
    most = min(len(hashes) // 2, MOST_HELD_OUT)
    held: list[int] = []
    for prompt in sorted(lines):
        if len(held) < wanted and len(held) + len(lines[prompt]) <= most:
            held += lines[prompt]
    return held


def _hash(prompt: Sequence[Message]) -> str:
    return sha256(json.dumps(prompt).encode()).hexdigest()


# -- notes on what is unusual, but doesn't prevent the training ----------------------------------


def _clean(source: Source, conversations: dict[int, list[Message]], turns: sft.Turns) -> list[str]:
    """Strip white space from the answers, remove repeated rows, and return notes about both."""
    trimmed, repeated, seen = set(), [], set()
    for line, messages in list(conversations.items()):
        for k in sft.graded_messages(messages, turns):
            answer = messages[k]["content"]
            messages[k]["content"] = answer.strip()
            if answer != answer.strip():
                trimmed.add(line)
        text = json.dumps(messages)
        if text in seen:
            repeated.append(line)
            del conversations[line]
        seen.add(text)
    return [
        *source.note("White space around answers was removed", trimmed),
        *source.note("Rows that repeat an earlier row are left out", repeated),
    ]


def _notes(
    source: Source, hashes: dict[int, str], train: list[int], held: list[int], learned: Set[str]
) -> list[str]:
    """Return notes about contradictory answers, few rows, and held-out rows."""
    prompts = Counter(hashes.values())
    notes = source.note(
        "Rows have the same prompt, but different answers",
        [line for line, prompt in hashes.items() if prompts[prompt] > 1],
        "A model that always gives the same answer to a prompt can't be right in all of them.",
    ) + source.note(
        "Held-out rows have a prompt that training rows have, too",
        [line for line in held if hashes[line] in learned],
        "The model may remember the answers instead of finding them.",
    )
    if len(train) < FEW_ROWS:
        notes.append(
            f"Only {len(train)} examples are left for training. Models learn more reliably from at "
            f"least {FEW_ROWS}."
        )
    if len(held) > MOST_HELD_OUT:
        notes.append(f"Only {MOST_HELD_OUT} of {len(held):,} held-out rows are used.")
    return notes
