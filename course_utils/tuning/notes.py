"""Write notes on what is unusual in a user's data, but doesn't prevent the training.

Each function that looks for something unusual returns a list of notes, which is empty if there is
nothing unusual. A note is one or two sentences. If a note is about certain lines of the file, it
says how many lines these are, and gives the first five line numbers. The functions get
conversations as a mapping from the line number of each conversation to its messages.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from course_utils.news import Message
from course_utils.tuning.forms import Form, ignored_keys, listed

Conversations = Mapping[int, Sequence[Message]]

# Answers with fewer words than this are often labels or numbers, which end without punctuation. So
# these answers are not checked for a missing end mark.
FEWEST_WORDS = 5
# If fewer answers than this are checked, a missing end mark is not reported, because so few answers
# don't show how answers usually end.
FEWEST_ANSWERS = 10
# If at least this share of the checked answers lack the usual end mark, this is not reported,
# because the answers are then probably complete without the mark.
LARGEST_MINORITY = 0.2
# If a file has fewer training examples than this, a note warns about it.
FEW_EXAMPLES = 100
# The mark that ends a sentence, such as a full stop, may be followed by quotation marks, brackets
# or Markdown.
SENTENCE_END = re.compile("[.!?…。！？][\"'”’»)\\]}*_`]*$")  # noqa: RUF001 -- full-width marks


def lines_text(lines: Collection[int], limit: int = 5) -> str:
    """Return line numbers as text for a message, such as "lines 3, 4 and 5".

    If there are more than `limit` lines, the others are only counted: "… and 3 more".
    """
    first = [str(line) for line in sorted(lines)[:limit]]
    if len(lines) > limit:
        first.append(f"{len(lines) - limit:,} more")
    *others, last = first
    return f"lines {', '.join(others)} and {last}" if others else f"line {last}"


def about_examples(conversations: Conversations) -> list[str]:
    """Return notes about contradictory answers, cut-off answers and a very common answer."""
    return [
        *_different_answers(conversations),
        *_cut_answers(conversations),
        *_one_answer(conversations),
    ]


def about_space(lines: Collection[int]) -> list[str]:
    """Return a note that white space was removed from the answers in these lines."""
    if not lines:
        return []
    answers = "1 answer begins" if len(lines) == 1 else f"{len(lines):,} answers begin"
    ends = "ends" if len(lines) == 1 else "end"
    return [f"{answers} or {ends} with white space, which was removed ({lines_text(lines)})."]


def about_repeats(lines: Collection[int]) -> list[str]:
    """Return a note that these lines are left out, because they repeat earlier examples."""
    if not lines:
        return []
    repeats = "1 row repeats" if len(lines) == 1 else f"{len(lines):,} rows repeat"
    out = "is" if len(lines) == 1 else "are"
    return [f"{repeats} an earlier example and {out} left out ({lines_text(lines)})."]


def about_keys(records: Mapping[int, Mapping], form: Form) -> list[str]:
    """Return a note that lists the keys in a file that are not used."""
    keys: dict[str, None] = {}
    lines = []
    for line, record in records.items():
        if ignored := ignored_keys(record, form):
            keys.update(dict.fromkeys(ignored))
            lines.append(line)
    if not keys:
        return []
    what = "The key %s is" if len(keys) == 1 else "The keys %s are"
    where = "1 line" if len(lines) == 1 else f"{len(lines):,} lines"
    return [f"{what % listed(keys)} ignored in {where} ({lines_text(lines)})."]


def about_split(
    conversations: Conversations, train: Sequence[int], held: Sequence[int], most: int
) -> list[str]:
    """Return notes about the rows for training and the held-out rows.

    A note is returned if there are few training rows, if held-out rows have the same prompts as
    training rows, or if not all the held-out rows are used.

    Args:
        conversations: all conversations.
        train: the line numbers of the training rows.
        held: the line numbers of the held-out rows.
        most: the maximum number of held-out rows that are used.
    """
    notes = []
    if len(train) < FEW_EXAMPLES:
        notes.append(
            f"Only {len(train)} examples are left for training. Models learn more reliably from at "
            f"least {FEW_EXAMPLES}."
        )
    learned = {_prompt(conversations[line]) for line in train}
    if both := [line for line in held if _prompt(conversations[line]) in learned]:
        rows = "1 held-out row has a prompt"
        if len(both) > 1:
            rows = f"{len(both):,} held-out rows have prompts"
        notes.append(
            f"{rows} that training rows have, too ({lines_text(both)}). The model may remember the "
            "answers instead of finding them."
        )
    if len(held) > most:
        notes.append(
            f"The splits hold out {len(held):,} rows. Only {most} of them are used: those whose "
            "prompts have the smallest hashes."
        )
    return notes


def _prompt(messages: Sequence[Message]) -> tuple:
    return tuple((message["role"], message["content"]) for message in messages[:-1])


def _different_answers(conversations: Conversations) -> list[str]:
    """Return a note about prompts that occur in several rows with different answers."""
    by_prompt = defaultdict(list)
    for line, messages in conversations.items():
        by_prompt[_prompt(messages)].append(line)
    repeated = [lines for lines in by_prompt.values() if len(lines) > 1]
    if not repeated:
        return []
    prompts = "1 prompt has" if len(repeated) == 1 else f"{len(repeated):,} prompts have"
    lines = [line for group in repeated for line in group]
    return [
        f"{prompts} different answers ({lines_text(lines)}). A model that always gives the same "
        "answer to a prompt can't be right in all of these lines."
    ]


def _ending(answer: str) -> str:
    """Return the mark with which an answer ends.

    The result is "." for every mark that ends a sentence, such as "?" or a full stop before a
    closing quotation mark. The result is "" if the last character is a letter or a digit.
    Otherwise, the result is the last character, such as "}".
    """
    # An answer in JSON ends with } or ], even if a sentence ends just before this bracket.
    if answer[-1] not in "}]" and SENTENCE_END.search(answer):
        return "."
    return "" if answer[-1].isalnum() else answer[-1]


def _cut_answers(conversations: Conversations) -> list[str]:
    """Return a note about answers that lack the punctuation mark at the end of most other answers.

    Such answers may be cut off.
    """
    answers = {line: messages[-1]["content"] for line, messages in conversations.items()}
    endings = {n: _ending(a) for n, a in answers.items() if len(a.split()) >= FEWEST_WORDS}
    if len(endings) < FEWEST_ANSWERS:
        return []
    usual = Counter(endings.values()).most_common(1)[0][0]
    cut = [
        line
        for line, ending in endings.items()
        if ending != usual and not (usual == "." and SENTENCE_END.search(answers[line]))
    ]
    if not usual or not cut or len(cut) >= LARGEST_MINORITY * len(endings):
        return []
    mark = "the end mark of a sentence" if usual == "." else usual
    lack = "1 answer does" if len(cut) == 1 else f"{len(cut):,} answers do"
    return [
        f"{lack} not end with {mark} ({lines_text(cut)}), unlike the other "
        f"{len(endings) - len(cut):,} answers of at least {FEWEST_WORDS} words. Check whether text "
        "is cut off."
    ]


def _one_answer(conversations: Conversations) -> list[str]:
    """Return a note about an answer that occurs in more than half of the rows."""
    answers = {line: messages[-1]["content"] for line, messages in conversations.items()}
    answer, count = Counter(answers.values()).most_common(1)[0]
    if count * 2 <= len(answers):
        return []
    lines = [line for line, other in answers.items() if other == answer]
    return [
        f"{count:,} of {len(answers):,} rows have the answer {_short(answer)!r} "
        f"({lines_text(lines)}). A model that always gives this answer is right in "
        f"{count / len(answers):.0%} of the rows."
    ]


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
