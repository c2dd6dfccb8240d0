"""News briefs: the course's own instruction data, its house style, its prompts and its checks.

One example is a short story with its section and a headline; the task is to write both as JSON:

    "The letters arrived before breakfast. Tile maker …"
        -> {"section": "business", "headline": "Tile maker axes 620 jobs as kilns go cold"}

All text is synthetic and all of it is invented; data/DATASHEET.md says how it was made.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.validation import CourseError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

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
SHOT_SECTIONS = ("health", "technology", "culture")  # of the worked examples

SHORTEST_HEADLINE, LONGEST_HEADLINE = 4, 9  # words
HOUSE_STYLE = (
    f"{SHORTEST_HEADLINE} to {LONGEST_HEADLINE} words; "
    "sentence case (a capital only for the first word and for names); "
    "present tense and active voice (no past forms, no words in -ed); "
    "no full stop or other end mark, no double quotes"
)

Message = dict[str, str]


class DataError(CourseError, ValueError):
    """Data that can't be used; the message lists every fault with its line."""


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


def house_style_faults(headline: str, story: str) -> list[str]:
    """What keeps a headline from house style, in words; an empty list means that nothing does.

    The rules are heuristics. They know a list of irregular past forms and take any other word in
    -ed for one, as a verb or not ("stolen portrait" is out); "cut", "hit" and "set", alike in both
    tenses, pass. A capital marks a name if the story has the word with a capital inside a sentence,
    or at the start of one and never without.
    """
    words = headline.split()
    if not words:
        return ["the headline is empty"]
    return [
        *_length_faults(words),
        *_mark_faults(headline),
        *_capital_faults(words, story),
        *_tense_faults(words, story),
    ]


def _length_faults(words: Sequence[str]) -> list[str]:
    if SHORTEST_HEADLINE <= len(words) <= LONGEST_HEADLINE:
        return []
    return [f"{len(words)} words instead of {SHORTEST_HEADLINE} to {LONGEST_HEADLINE}"]


def _mark_faults(headline: str) -> list[str]:
    faults = []
    if headline.rstrip()[-1] in ".!?,;:…":
        faults.append(f"ends with {headline.rstrip()[-1]!r}")
    if re.search('["“”]', headline):
        faults.append("double quotes")
    return faults


def _capital_faults(words: Sequence[str], story: str) -> list[str]:
    faults = []
    if not words[0][0].isupper() and not words[0][0].isdigit():
        faults.append(f"starts with neither a capital nor a number: {words[0]}")
    names = _names(story)
    shouted = [w for w in words[1:] if _bare(w)[:1].isupper() and _bare(w) not in names]
    return faults + [f"a capital, but not a name in the story: {word}" for word in shouted]


def _tense_faults(words: Sequence[str], story: str) -> list[str]:
    names = _names(story)
    faults = []
    for word in words:
        if _bare(word) in names:
            continue  # a person may be called Ned
        for part in _bare(word).lower().split("-"):
            if part in IRREGULAR_PAST or (part.endswith("ed") and part not in ED_NOUNS):
                faults.append(f"past form or word in -ed: {word}")
    return faults


def _names(story: str) -> set[str]:
    """The story's words, and parts of compounds, that have a capital for what they name."""
    inside, opening, plain = set(), set(), set()
    starts = True
    for word in story.split():
        for part in {_bare(word), *_bare(word).split("-")}:
            capital = part[:1].isupper()
            (plain if not capital else opening if starts else inside).add(part)
        starts = word.rstrip("\"'”’)")[-1:] in (".", "!", "?", ":")
    return inside | {word for word in opening if word.lower() not in plain}


def _bare(word: str) -> str:
    """The word without marks around it and without a possessive 's."""
    return re.sub(r"['’]s?$", "", re.sub(r"^\W+|[^\w'’]+$", "", word)).rstrip("'’")


# -- the task, as chat messages ----------------------------------------------------------------


def answer(example: Mapping[str, str]) -> str:
    """The right answer to an example, as the model should write it: one JSON object."""
    return json.dumps(
        {"section": example["section"], "headline": example["headline"]}, ensure_ascii=False
    )


def messages(example: Mapping[str, str], shots: Sequence[Mapping[str, str]] = ()) -> list[Message]:
    """A conversation that asks for an example's section and headline, for a model not yet tuned.

    It states the task, the form of the answer, all sections and the house style. Each of `shots`
    (examples with their answers) becomes a turn of its own before the question: none is zero-shot
    prompting, a few are few-shot. The last message is the user's.
    Raises ValueError if a shot gives the answer to the question away.
    """
    if any(shot["story"] == example["story"] for shot in shots):
        raise ValueError("an example may not be among its own shots")
    instruction = (
        "You are a news editor. For each story, pick its section and write a headline.\n"
        f"Sections: {', '.join(SECTIONS)}.\n"
        f"House style of the headline: {HOUSE_STYLE}.\n"
        "Answer with one JSON object and nothing else: "
        '{"section": "...", "headline": "..."}'
    )
    turns = [{"role": "system", "content": instruction}]
    for shot in shots:
        turns.append({"role": "user", "content": shot["story"]})
        turns.append({"role": "assistant", "content": answer(shot)})
    return [*turns, {"role": "user", "content": example["story"]}]


def shots(sections: Sequence[str] = SHOT_SECTIONS) -> list[dict[str, str]]:
    """Worked examples for few-shot prompting: the shortest training story of each section named.

    Of the choices tried with the NF4 model on other stories than the test's, these did best on
    average (data/DATASHEET.md); `benchmarks/quality.py` measures others beside them.
    """
    train = load_news()["train"].to_list()
    by_section = ([e for e in train if e["section"] == section] for section in sections)
    return [min(examples, key=lambda e: len(e["story"].split())) for examples in by_section]


def tuned_messages(example: Mapping[str, str], *, answered: bool = True) -> list[Message]:
    """The short conversation that the model is tuned on, and asked with afterwards.

    answered: with the right answer as the assistant's message, for training; without it, to ask.
    Most rules are in the training examples, so the prompt need not repeat them: it costs less.
    """
    asked = [
        {"role": "system", "content": TUNED_INSTRUCTION},
        {"role": "user", "content": example["story"]},
    ]
    return [*asked, {"role": "assistant", "content": answer(example)}] if answered else asked


# -- checks ------------------------------------------------------------------------------------


def validate(records: Iterable[object], *, first_line: int = 1) -> None:
    """Check news records: the right keys, sections and splits, no empty text, ids that differ.

    A record is {"id", "split", "section", "story", "headline"}, all text.
    Raises DataError that lists every fault with its line (the first record's is `first_line`).
    """
    lines = {line: record for line, record in enumerate(records, first_line)}
    faults = [(n, fault) for n, record in lines.items() for fault in _news_faults(record)]
    faults += _repeats({n: r.get("id") for n, r in lines.items() if isinstance(r, dict)}, "id")
    _raise_faults(faults, "news data")


def _news_faults(record: object) -> list[str]:
    wanted = ("id", "split", "section", "story", "headline")
    faults = _text_faults(record, wanted)
    if faults:
        return faults
    if extra := sorted(set(record) - set(wanted)):
        faults.append(f"unknown key {extra[0]!r}; allowed are {', '.join(wanted)}")
    for key, allowed in (("section", SECTIONS), ("split", SPLITS)):
        if record[key] not in allowed:
            faults.append(f"{key} {record[key]!r} is none of {', '.join(allowed)}")
    return faults


def _text_faults(record: object, keys: Iterable[str]) -> list[str]:
    """Faults of a record that must have these keys with text in each."""
    if not isinstance(record, dict):
        return [f"not a JSON object: {record!r:.60}"]
    faults = []
    for key in keys:
        if key not in record:
            faults.append(f"no {key!r}")
        elif not isinstance(record[key], str):
            faults.append(f"{key!r} must be text, got {type(record[key]).__name__}")
        elif not record[key].strip():
            faults.append(f"{key!r} is empty")
    return faults


def _repeats(values: Mapping[int, object], what: str) -> list[tuple[int, str]]:
    """A fault for each line whose value stands on an earlier line already."""
    first: dict[object, int] = {}
    faults = []
    for line, value in values.items():
        if isinstance(value, str) and first.setdefault(value, line) != line:
            faults.append((line, f"same {what} as line {first[value]}"))
    return faults


def _raise_faults(faults: Sequence[tuple[int, str]], source: str, limit: int = 20) -> None:
    if not faults:
        return
    lines = [f"  line {line}: {fault}" for line, fault in sorted(faults)[:limit]]
    if len(faults) > limit:
        lines.append(f"  and {len(faults) - limit} more")
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    raise DataError("\n".join([f"{count} in {source}:", *lines]))


def near_duplicates(texts: Sequence[str], threshold: float = 0.2) -> list[tuple[int, int, float]]:
    """Pairs of texts that share much of their wording.

    The measure is Jaccard similarity of word 3-grams: shared 3-grams / all 3-grams of the two.
    Two stories on different events stay below 0.05; a lightly edited copy exceeds 0.5.

    Returns (i, j, similarity) with i < j, for each pair of at least `threshold`, likest first.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    grams = [_three_grams(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for j, own in enumerate(grams):
        for gram in own:
            for i in holders[gram]:
                shared[i, j] += 1
            holders[gram].append(j)
    pairs = [(i, j, n / (len(grams[i]) + len(grams[j]) - n)) for (i, j), n in shared.items()]
    return sorted((p for p in pairs if p[2] >= threshold), key=lambda p: (-p[2], p[:2]))


def _three_grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


# -- loading -----------------------------------------------------------------------------------


def load_news() -> DatasetDict:
    """The course's news briefs: 480 stories, each section's 60 split into 42, 6 and 12.

    Returns train, validation and test, each with columns id, section, story, headline.
    """
    source = files("course_utils") / "data" / "news_briefs.jsonl"
    records = [record for _, record in _parse(source.read_bytes(), source.name)]
    validate(records)
    columns = ("id", "section", "story", "headline")
    return _by_split((r["split"], {c: r[c] for c in columns}) for r in records)


def load_jsonl(path: str | Path, *, validation_share: float = 0.1) -> DatasetDict:
    """Your own instruction data: a UTF-8 file with one JSON object a line, in any of three forms.

        {"prompt": "…", "answer": "…"}
        {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
        {"section": "…", "story": "…", "headline": "…"}        as the course's own news briefs

    Each may name its "split" (train, validation or test) and its "id". Where no line names a split,
    `validation_share` of the prompts are held out: those with the smallest sha256, so that the
    choice is the same each time, and a prompt that occurs twice never stands on both sides.
    `near_duplicates` finds prompts that are alike but not equal.

    Returns a DatasetDict with columns id and messages; `sft.encode_all(data["train"]["messages"],
    tokenizer)` makes it ready for training.
    Raises DataError that lists every fault with its line; FileNotFoundError for no such file.
    """
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share must be at least 0, below 1, got {validation_share}")
    path = Path(path)
    lines = dict(_parse(path.read_bytes(), path.name))
    if not lines:
        raise DataError(f"{path.name} holds no examples")
    faults = [(line, fault) for line, record in lines.items() for fault in _own_faults(record)]
    _raise_faults(faults, path.name)
    talks = {line: _conversation(record) for line, record in lines.items()}
    ids = {line: record.get("id", f"line-{line}") for line, record in lines.items()}
    faults = _repeats(ids, "id") + _repeats({n: json.dumps(t) for n, t in talks.items()}, "example")
    faults += _split_faults(lines)
    _raise_faults(faults, path.name)
    splits = {line: record.get("split") for line, record in lines.items()}
    if None in splits.values():
        splits = _hold_out(talks, validation_share)
    return _by_split((splits[n], {"id": ids[n], "messages": talks[n]}) for n in lines)


def _parse(raw: bytes, name: str) -> list[tuple[int, object]]:
    """(line number, parsed JSON) of each line that isn't blank; LF or CRLF, with or without BOM."""
    lines, faults = [], []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode("utf-8").strip()
            if text:
                lines.append((number, json.loads(text)))
        except UnicodeDecodeError as error:
            faults.append((number, f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8"))
        except json.JSONDecodeError as error:
            faults.append((number, f"not JSON: {error.msg} at character {error.pos + 1}"))
    _raise_faults(faults, name)
    return lines


_FORMS = {  # the key that tells the form: all keys that it needs
    "messages": ("messages",),
    "prompt": ("prompt", "answer"),
    "story": ("section", "story", "headline"),
}


def _own_faults(record: object) -> list[str]:
    """Faults of one line of a reader's own file."""
    if not isinstance(record, dict):
        return [f"not a JSON object: {record!r:.60}"]
    form = next((keys for key, keys in _FORMS.items() if key in record), None)
    if form is None:
        needs = " or ".join("+".join(keys) for keys in _FORMS.values())
        return [f"needs {needs}; has {', '.join(sorted(record)) or 'no key'}"]
    faults = _text_faults(record, [key for key in form if key != "messages"])
    if "messages" in form:
        faults = _message_faults(record["messages"])
    if extra := sorted(set(record) - {*form, "id", "split"}):
        faults.append(f"unknown key {extra[0]!r} beside {', '.join(form)}")
    if not isinstance(record.get("id", ""), str):
        faults.append("'id' must be text")
    if record.get("split", "train") not in SPLITS:
        faults.append(f"split {record['split']!r} is none of {', '.join(SPLITS)}")
    return faults


def _message_faults(turns: object) -> list[str]:
    if not isinstance(turns, list) or len(turns) < 2:
        return ["'messages' must be a list of at least a user's and an assistant's message"]
    faults = []
    for number, turn in enumerate(turns, 1):
        wrong = _text_faults(turn, ("role", "content"))
        if not wrong and turn["role"] not in ("system", "user", "assistant"):
            wrong = [f"role {turn['role']!r} is none of system, user, assistant"]
        faults += [f"message {number}: {fault}" for fault in wrong]
    if not faults and turns[-1]["role"] != "assistant":
        faults.append("the last message must be the assistant's: it is the answer to learn")
    return faults


def _conversation(record: Mapping) -> list[Message]:
    if "messages" in record:
        return [{"role": m["role"], "content": m["content"]} for m in record["messages"]]
    if "prompt" in record:
        return [
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": record["answer"]},
        ]
    return tuned_messages(record)


def _split_faults(lines: Mapping[int, Mapping]) -> list[tuple[int, str]]:
    """Either every line names its split, and some are for training, or none does."""
    unnamed = [line for line, record in lines.items() if "split" not in record]
    if len(unnamed) == len(lines):
        return []
    if not unnamed and all(record["split"] != "train" for record in lines.values()):
        return [(min(lines), "no line's split is train")]
    return [(line, "names no split, but other lines do") for line in unnamed]


def _hold_out(talks: Mapping[int, list[Message]], share: float) -> dict[int, str]:
    """The split of each line: the prompts with the smallest hashes are for validation."""
    prompts = {n: sha256(json.dumps(talk[:-1]).encode()).hexdigest() for n, talk in talks.items()}
    ranked = sorted(set(prompts.values()))
    least = min(1, len(ranked) - 1) if share else 0
    held_out = set(ranked[: max(round(share * len(ranked)), least)])
    return {n: "validation" if prompt in held_out else "train" for n, prompt in prompts.items()}


def _by_split(rows: Iterable[tuple[str, dict]]) -> DatasetDict:
    from datasets import Dataset, DatasetDict

    groups: dict[str, list[dict]] = {}
    for split, row in rows:
        groups.setdefault(split, []).append(row)
    return DatasetDict({s: Dataset.from_list(groups[s]) for s in SPLITS if s in groups})


AG_NEWS = "fancyzhx/ag_news"


def load_ag_news(split: str = "train") -> Dataset:
    """AG News from the Hugging Face hub: real headlines and leads in four sections, a second set.

    split: "train" (120,000) or "test" (7,600). Columns: text, label (World, Sports, Business,
    Sci/Tech).
    Licence: its card on the hub says "unknown". The collection it was drawn from is offered for
    research and other non-commercial use, and the articles are their publishers'. So the course
    ships none of it; whether your use is allowed is for you to find out.

    Raises CourseError where the hub can't be reached and the set isn't in its cache.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    from datasets import load_dataset

    try:
        return load_dataset(AG_NEWS, split=split)
    except (OSError, ValueError) as error:  # datasets: ConnectionError, DatasetNotFoundError, …
        raise CourseError(
            f"AG News ({AG_NEWS}) needs the Hugging Face hub or its cache, and neither has it here "
            f"({type(error).__name__}). The course's own news briefs need no network: load_news()."
        ) from error
