"""Load the course's news briefs, turn them into prompts, and check the headlines' house style.

An example is a short story with its section and a headline. The task is to write both as JSON:

    "The letters arrived before breakfast. Tile maker …"
        -> {"section": "business", "headline": "Tile maker axes 620 jobs as kilns go cold"}

All text is synthetic and invented; data/DATASHEET.md describes how the text was made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import DatasetDict

SECTIONS = (
    "politics",
    "business",
    "technology",
    "science",
    "health",
    "sport",
    "culture",
    "weather",
)
SPLITS = ("train", "validation", "test")
TUNED_INSTRUCTION = "Section and headline (4 to 9 words, present tense) of the story, as JSON."
# The messages of a prompt that may contain the full instruction.
INSTRUCTION_PLACES = ("system", "user", "both")
# The JSON schema of a correct answer. llama.cpp can make a model write nothing else.
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {
        "section": {"enum": list(SECTIONS)},
        "headline": {"type": "string", "maxLength": 100},
    },
    "required": ["section", "headline"],
    "additionalProperties": False,
}
# The sections of the worked examples in a few-shot prompt, one example for each section.
SHOT_SECTIONS = ("health", "technology", "culture")

# The minimum and the maximum length of a headline, in words.
SHORTEST_HEADLINE, LONGEST_HEADLINE = 4, 9
HOUSE_RULES = (
    f"{SHORTEST_HEADLINE} to {LONGEST_HEADLINE} words",
    "sentence case (a capital only for the first word and for names)",
    "present tense and active voice (no past forms, no words in -ed)",
    "no full stop or other end mark, no double quotes",
)
HOUSE_STYLE = "; ".join(HOUSE_RULES)

Message = dict[str, str]


# -- the house style ---------------------------------------------------------------------------

IRREGULAR_PAST = frozenset(
    re.findall(
        r"\w+",
        """
        arose ate awoke beaten became been began begun bent bit bitten blew blown bore born bought
        bound broke broken brought built came caught chose chosen clung crept dealt did done drank
        drawn drew driven drove drunk dug eaten fallen fed fell felt fled flew flown forgot
        forgotten fought found froze frozen gave given gone got grew ground grown had heard held
        hid hidden hung kept knelt knew known laid led left lent lit lost made meant met mown
        overcame overtook paid proven ran rang ridden risen rode rose rung said sang sank sat saw
        seen sent sewn shaken shook shot shown shrank shrunk slept slid sold sought sown spent
        spoke spoken spun stole stolen stood struck stuck stung sung sunk swam swept swollen swore
        sworn swum swung taken taught thought threw thrown told took tore torn undid undone
        unwound was went wept were withdrawn withdrew withheld woke woken won wore worn wound wove
        woven written wrote
        """,
    )
)
ED_NOUNS = frozenset(
    re.findall(
        r"\w+",
        """
        bed bleed breed creed deed embed exceed feed greed heed hundred kindred need proceed red
        reed seed shed sled speed succeed weed
        """,
    )
)


def errors_by_rule(headline: str, story: str) -> dict[str, list[str]]:
    """Check a headline against each rule of the house style.

    The checks are heuristics. A past form is a word in a list of irregular past forms, or another
    word that ends in -ed, except words such as "bed". The word need not be a verb, so "stolen
    portrait" breaks the rule. "Cut", "hit" and "set" do not break the rule, because their past form
    is the same as the present. A word with a capital counts as a name if the story contains the
    word with a capital inside a sentence. If the story contains the word with a capital only at the
    start of a sentence, the word counts as a name unless it also occurs without a capital.

    Returns:
        A dict from each of `HOUSE_RULES` to one text for each error; the list is empty if the
        headline follows the rule. An empty headline breaks only the rule about its length.
    """
    words = headline.split()
    if not words:
        return {rule: [] for rule in HOUSE_RULES} | {HOUSE_RULES[0]: ["the headline is empty"]}
    errors = (
        _length_errors(words),
        _capital_errors(words, story),
        _tense_errors(words, story),
        _mark_errors(headline),
    )
    return dict(zip(HOUSE_RULES, errors, strict=True))


def house_style_errors(headline: str, story: str) -> list[str]:
    """List the errors of `errors_by_rule`; the list is empty if the headline is in house style."""
    return [error for errors in errors_by_rule(headline, story).values() for error in errors]


def _length_errors(words: Sequence[str]) -> list[str]:
    if SHORTEST_HEADLINE <= len(words) <= LONGEST_HEADLINE:
        return []
    return [f"{len(words)} words instead of {SHORTEST_HEADLINE} to {LONGEST_HEADLINE}"]


def _mark_errors(headline: str) -> list[str]:
    errors = []
    if headline.rstrip()[-1] in ".!?,;:…":
        errors.append(f"ends with {headline.rstrip()[-1]!r}")
    if re.search('["“”]', headline):
        errors.append("double quotes")
    return errors


def _capital_errors(words: Sequence[str], story: str) -> list[str]:
    errors = []
    if not words[0][0].isupper() and not words[0][0].isdigit():
        errors.append(f"starts with neither a capital nor a number: {words[0]}")
    names = _names(story)
    wrong = [w for w in words[1:] if _bare(w)[:1].isupper() and _bare(w) not in names]
    if wrong:
        errors.append(f"a capital, but not a name in the story: {', '.join(wrong)}")
    return errors


def _tense_errors(words: Sequence[str], story: str) -> list[str]:
    names = _names(story)
    errors = []
    for word in words:
        # A name such as Ned is not a past form.
        if _bare(word) in names:
            continue
        errors += [
            f"past form or word in -ed: {word}"
            for part in _bare(word).lower().split("-")
            if part in IRREGULAR_PAST or (part.endswith("ed") and part not in ED_NOUNS)
        ]
    return errors


def _names(story: str) -> set[str]:
    """Return the names in a story: words, and parts of compounds, that begin with a capital."""
    inside: set[str] = set()
    opening: set[str] = set()
    plain: set[str] = set()
    starts = True
    for word in story.split():
        for part in {_bare(word), *_bare(word).split("-")}:
            capital = part[:1].isupper()
            (plain if not capital else opening if starts else inside).add(part)
        starts = word.rstrip("\"'”’)")[-1:] in (".", "!", "?", ":")
    return inside | {word for word in opening if word.lower() not in plain}


def _bare(word: str) -> str:
    """Return a word without the punctuation around it and without a possessive 's."""
    return re.sub(r"['’]s?$", "", re.sub(r"^\W+|[^\w'’]+$", "", word)).rstrip("'’")


# -- the task, as chat messages ----------------------------------------------------------------


def answer(example: Mapping[str, str]) -> str:
    """Write the correct answer to an example as the model should write it."""
    return json.dumps(
        {"section": example["section"], "headline": example["headline"]}, ensure_ascii=False
    )


def messages(
    example: Mapping[str, str],
    shots: Sequence[Mapping[str, str]] = (),
    *,
    instruction_in: str = "system",
) -> list[Message]:
    """Make a conversation that asks a model without fine-tuning for a section and a headline.

    The instruction states the task, the form of the answer, all sections and the house style. Each
    shot adds a user message with its story and an assistant message with its answer. The last
    message is the user's and contains the story of the example.

    Args:
        instruction_in: "system" puts the instruction into a system message, "user" puts it before
            the story in each user message, and "both" does both. The default had the best results
            on the validation split (data/DATASHEET.md).
    """
    if instruction_in not in INSTRUCTION_PLACES:
        raise ValueError(
            f"instruction_in must be one of {', '.join(INSTRUCTION_PLACES)}, got {instruction_in!r}"
        )
    if any(shot["story"] == example["story"] for shot in shots):
        raise ValueError("the example is one of its own shots: choose other shots")
    instruction = (
        "You are a news editor. For each story, pick its section and write a headline.\n"
        f"Sections: {', '.join(SECTIONS)}.\n"
        f"House style of the headline: {HOUSE_STYLE}.\n"
        "Answer with one JSON object and nothing else: "
        '{"section": "...", "headline": "..."}'
    )
    opening = "" if instruction_in == "system" else f"{instruction}\n\nStory: "
    turns = [] if instruction_in == "user" else [{"role": "system", "content": instruction}]
    for shot in shots:
        turns.append({"role": "user", "content": opening + shot["story"]})
        turns.append({"role": "assistant", "content": answer(shot)})
    return [*turns, {"role": "user", "content": opening + example["story"]}]


def shots(sections: Sequence[str] = SHOT_SECTIONS) -> list[dict[str, str]]:
    """Choose worked examples for few-shot prompting: the shortest training story of each section.

    With the NF4 model, the default sections had the best average result of all choices that were
    tried, on stories outside the test split (data/DATASHEET.md). `workshop/benchmarks/quality.py`
    compares the default sections with other sections.
    """
    train = load_news()["train"].to_list()
    by_section = ([e for e in train if e["section"] == section] for section in sections)
    return [min(examples, key=lambda e: len(e["story"].split())) for examples in by_section]


def tuned_messages(example: Mapping[str, str], *, answered: bool = True) -> list[Message]:
    """Make the short conversation that a model is fine-tuned on and later prompted with.

    The model learns most of the rules from the training examples, so the prompt need not repeat the
    rules. The model answers a short prompt faster than a long one.
    """
    prompt = [
        {"role": "system", "content": TUNED_INSTRUCTION},
        {"role": "user", "content": example["story"]},
    ]
    return [*prompt, {"role": "assistant", "content": answer(example)}] if answered else prompt


# -- loading -----------------------------------------------------------------------------------


def load_news() -> DatasetDict:
    """Load the course's news briefs: 480 stories, 60 in each of the 8 sections.

    Returns:
        The splits "train", "validation" and "test" with 42, 6 and 12 stories of each section. The
        columns are id, section, story and headline.
    """
    with (files("course_utils") / "data" / "news_briefs.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    columns = ("id", "section", "story", "headline")
    return _by_split((r["split"], {c: r[c] for c in columns}) for r in records)


def _by_split(rows: Iterable[tuple[str, dict]]) -> DatasetDict:
    from datasets import Dataset, DatasetDict

    groups: dict[str, list[dict]] = {}
    for split, row in rows:
        groups.setdefault(split, []).append(row)
    return DatasetDict({s: Dataset.from_list(groups[s]) for s in SPLITS if s in groups})
