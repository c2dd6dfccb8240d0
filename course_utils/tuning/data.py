"""Read a user's own examples from a JSONL file, check them, and hold some of them out.

A line of the file is a JSON object with a prompt and its answer. The module `forms` lists the keys
that are recognized. A problem that would spoil the training is an error. All errors of a file are
in one exception, with their line numbers. What is only worth a look is a note.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.news import Message
from course_utils.tuning.forms import (
    FORMS,
    Form,
    common_errors,
    forms_of,
    json_type,
    listed,
)
from course_utils.tuning.notes import (
    about_examples,
    about_keys,
    about_repeats,
    about_space,
    about_split,
)
from course_utils.validation import CourseError, first_line, positive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils import sft

# With fewer different prompts, held-out rows would say nothing about the model.
FEWEST_PROMPTS = 10
# More held-out rows would make the measurement slow, and hardly more precise.
FEWEST_HELD_OUT, MOST_HELD_OUT = 5, 200
NAME_KEYS = "name the keys of prompt and answer with --prompt and --answer (prompt=, answer=)"
UTF_16 = "is encoded as UTF-16: save it as UTF-8"
# The first bytes of files that are no UTF-8 text, and what to do with such a file.
OTHER_FILES = {
    b"\x1f\x8b": "is compressed with gzip: decompress it first, for example with gunzip",
    b"PK\x03\x04": "is a ZIP archive or an office document: extract or export its data first",
    b"PAR1": "is a Parquet file: convert it to JSONL first",
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
}
# Lines of Python that convert a file. Quotation marks are single, because a shell gets the line in
# double ones.
FROM_LIST = (
    "import json; open(NEW, 'w').writelines(json.dumps(row) + '\\n' "
    "for row in json.load(open(OLD, encoding='utf-8-sig')))"
)
FROM_CSV = (
    "import pandas; pandas.read_csv(OLD, sep=MARK, dtype=str, keep_default_na=False)"
    ".to_json(NEW, orient='records', lines=True)"
)


class DataError(CourseError, ValueError):
    """Raised if data can't be used. The message lists up to 20 errors with their line numbers."""


@dataclass(frozen=True)
class OwnData:
    """The conversations of a user's file. Each ends with the assistant's answer.

    Attributes:
        name: the name of the file, such as "my.jsonl".
        train: the conversations for training, in the order of the file.
        held_out: the conversations for measurements, in an order that doesn't depend on the file.
            So the first few of them are a random sample.
        train_lines: the line number of each conversation in `train`.
        held_out_lines: the line number of each conversation in `held_out`.
        notes: warnings in whole sentences, each with a count and the first line numbers.
    """

    name: str
    train: list[list[Message]]
    held_out: list[list[Message]]
    train_lines: list[int]
    held_out_lines: list[int]
    notes: tuple[str, ...] = ()


def read_data(
    path: str | Path,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    held_out: float = 0.1,
) -> OwnData:
    r"""Read a UTF-8 file with one JSON object in each line, and check it.

    All lines must have the same form. These forms are recognized:

        {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
        {"prompt": "…", "answer": "…"}        or "completion" or "response" instead of "answer"
        {"question": "…", "answer": "…"}
        {"instruction": "…", "input": "…", "output": "…"}    the input may be missing or empty
        {"input": "…", "output": "…"}         or "ideal" instead of "output"
        {"section": "…", "story": "…", "headline": "…"}      as the course's own news briefs

    A prompt is text, or a list of messages of which the last one is the user's. An answer is text,
    or a list of exactly one text. White space around an answer is removed. The input of an
    instruction is appended to the instruction after a blank line. Of several equal examples, only
    the first is used.

    A line may also have an "id" and a "split". Rows whose split is "validation" or "test" are held
    out. If there are none, a share of the rows is held out: those whose prompts have the smallest
    sha256 hashes. So the choice is the same each time, and all rows with the same prompt are on the
    same side. At least 5 and at most 200 rows are held out. If the splits hold out more rows, only
    200 of them are used.

    Args:
        path: the path of the file.
        prompt: the key of the prompt, if the keys are not recognized. Then all other keys except
            "split" are ignored.
        answer: the key of the answer. Both keys must be named, or none.
        held_out: the share of the rows that is held out, above 0 and at most 0.5.

    Returns:
        The conversations.

    Raises:
        DataError: the data can't be used. The message lists up to 20 errors with their line
            numbers.
        ValueError: `held_out` is outside its range.
    """
    if not 0 < held_out <= 0.5:
        raise ValueError(f"held_out must be above 0 and at most 0.5, got {held_out}")
    if (prompt is None) != (answer is None) or (prompt is not None and prompt == answer):
        raise DataError(f"{NAME_KEYS}: two different keys, or none")
    path = Path(path)
    records, errors = _parse(_read(path))
    form, wrong = _find_form(records, prompt, answer)
    errors += wrong
    conversations, wrong = _conversations(records, form) if form else ({}, [])
    untrimmed = _trim_answers(conversations)
    _raise_errors([*errors, *wrong], path.name)
    assert form, "a file without a form has errors"
    texts = {line: json.dumps(messages) for line, messages in conversations.items()}
    repeated = [line for line, _ in _duplicates(texts, "example")]
    for line in repeated:
        del conversations[line]
    hashes = {
        line: sha256(json.dumps(messages[:-1]).encode()).hexdigest()
        for line, messages in conversations.items()
    }
    held = _held_by_split(records, form) or _hold_out(hashes, held_out)
    _check_counts(hashes, held, path.name)
    chosen = set(held)
    train = [line for line in conversations if line not in chosen]
    notes = [
        *([] if prompt else about_keys(records, form)),
        *about_space(untrimmed),
        *about_repeats(repeated),
        *about_examples(conversations),
        *about_split(conversations, train, held, MOST_HELD_OUT),
    ]
    held = sorted(held, key=hashes.__getitem__)[:MOST_HELD_OUT]
    return OwnData(
        name=path.name,
        train=[conversations[line] for line in train],
        held_out=[conversations[line] for line in held],
        train_lines=train,
        held_out_lines=held,
        notes=tuple(notes),
    )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the tokenizer end answers as its chat template does, so that the model learns to stop.

    In some families, such as Gemma and Phi-3, the chat template ends an assistant's message with
    another token than the end token of the tokenizer. That token then becomes the end token.

    Raises:
        CourseError: the tokenizer has no chat template, or the chat template ends an assistant's
            message with text instead of a special token.
    """
    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, which turns a conversation into text: choose a "
            'model for chats, whose name often ends with "Instruct" or "it"'
        )
    answer = "Yes"
    chat = [{"role": "user", "content": "Ready?"}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    rest = text.rpartition(answer)[2].lstrip()
    end = tokenizer(rest, add_special_tokens=False)["input_ids"][:1]
    if end == [tokenizer.eos_token_id]:
        return
    added = tokenizer.added_tokens_decoder
    if not end or end[0] not in added or not added[end[0]].special:
        raise CourseError(
            "the chat template doesn't end an assistant's message with a special token, so the "
            "model would never learn to stop: choose another model"
        )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end[0])


def check_lengths(
    data: OwnData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[sft.Features], list[sft.Features]]:
    """Tokenize all conversations, and check that each fits into the maximum length.

    Args:
        data: the conversations.
        tokenizer: a tokenizer after `prepare_tokenizer`.
        max_length: the maximum number of tokens of a prompt and its answer.

    Returns:
        The features of `data.train` and of `data.held_out`, as `sft.encode` makes them.

    Raises:
        ValueError: `max_length` is not a whole number of at least 1.
        DataError: examples are longer, an answer contains the end token, or the chat template
            doesn't accept a conversation. The message lists the lines.
    """
    # Exercise 01 asks for functions of sft, so this module must be importable without it.
    from course_utils import sft

    positive("max_length", max_length)
    errors: list[tuple[int, str]] = []
    encoded: tuple[list[sft.Features], list[sft.Features]] = ([], [])
    longest = 0
    rows = (data.train, data.train_lines), (data.held_out, data.held_out_lines)
    for features, (conversations, lines) in zip(encoded, rows, strict=True):
        for line, messages in zip(lines, conversations, strict=True):
            try:
                row = sft.encode(messages, tokenizer, max_length=sys.maxsize)
            # A chat template is a program, which may raise any error.
            except Exception as error:
                errors.append((line, f"the model's chat template fails: {first_line(error)}"))
                continue
            features.append(row)
            longest = max(longest, len(row["input_ids"]))
            errors += [(line, e) for e in _token_errors(row, tokenizer, max_length)]
    advice = (
        f"Shorten or remove the long examples, or raise the maximum length to {longest:,} tokens."
    )
    _raise_errors(errors, data.name, advice if longest > max_length else "")
    return encoded


def _token_errors(
    features: sft.Features, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[str]:
    """Return the errors that appear only when a conversation is tokenized."""
    from course_utils.sft import IGNORE

    prompt = features["labels"].count(IGNORE)
    answer = features["labels"][prompt:]
    errors = []
    if prompt >= max_length:
        errors.append(
            f"the prompt has {prompt:,} tokens, so the maximum of {max_length:,} leaves no room "
            "for the answer"
        )
    elif prompt + len(answer) > max_length:
        errors.append(
            f"prompt ({prompt:,} tokens) and answer ({len(answer):,} tokens) need "
            f"{prompt + len(answer):,} tokens, but the maximum is {max_length:,}"
        )
    if tokenizer.eos_token_id in answer[:-1]:
        errors.append(
            f"the answer contains the end token {tokenizer.eos_token}, which is added to each "
            "answer automatically: remove it"
        )
    return errors


# -- reading a file ----------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    """Return the content of a file without a byte order mark, if it looks like JSONL."""
    if path.is_dir():
        raise DataError(f"{path} is a folder: name the JSONL file in it")
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    for start, problem in OTHER_FILES.items():
        if raw.startswith(start):
            raise DataError(f"{path.name} {problem}")
    # Without a byte order mark, UTF-16 can be recognized by the zero in each character of English.
    if b"\0" in raw[:4]:
        raise DataError(f"{path.name} {UTF_16}")
    if not raw.strip():
        problem = "has only blank lines" if raw else "is empty"
        raise DataError(f"{path.name} has no examples: it {problem}")
    first, *others = raw.strip().split(b"\n", 1)
    _check_format(first.decode("utf-8", "replace").strip(), path, only=not others)
    return raw


def _check_format(line: str, path: Path, only: bool) -> None:
    """Raise DataError if a file's first line, or only line, is JSON or CSV instead of JSONL."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if line.startswith("[") and (value is None or (only and value)):
        raise DataError(
            f"{path.name} is a JSON list, but each line must be one JSON object.\n"
            f"{_command('converts the list', FROM_LIST, path)}"
        )
    if line == "{":
        raise DataError(
            f"{path.name} has JSON objects of several lines: write each object into one line"
        )
    mark = max(",;\t", key=line.count)
    if value is None and mark in line and not line.startswith("{"):
        raise DataError(
            f"{path.name} looks like a CSV file, but each line must be one JSON object.\n"
            f"{_command('converts a CSV file', FROM_CSV.replace('MARK', repr(mark)), path)}"
        )


def _command(effect: str, code: str, path: Path) -> str:
    """Return the advice to run a Python command that converts a file into a new file."""
    new = path.with_suffix(".jsonl")
    if new.exists():
        new = path.with_name(f"{path.stem}-new.jsonl")
    code = code.replace("OLD", repr(str(path))).replace("NEW", repr(str(new)))
    return f'This command {effect}:\n  python -c "{code}"'


def _parse(raw: bytes) -> tuple[dict[int, dict], list[tuple[int, str]]]:
    """Return the JSON object of each line that isn't blank, by line number, and the errors.

    Lines end with LF or CRLF.
    """
    records, errors = {}, []
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            text = line.decode("utf-8").strip()
            value = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            errors.append((number, f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8"))
        except json.JSONDecodeError as error:
            errors.append((number, f"not JSON: {error.msg} at character {error.pos + 1}"))
        # Python limits the number of digits of a number, and the depth of nested brackets.
        except (ValueError, RecursionError) as error:
            errors.append((number, f"not JSON that Python can read: {first_line(error)}"))
        else:
            if isinstance(value, dict):
                records[number] = value
            elif text:
                errors.append((number, f"must be a JSON object, got {json_type(value)}"))
    return records, errors


def _raise_errors(
    errors: Sequence[tuple[int, str]], source: str, advice: str = "", limit: int = 20
) -> None:
    if not errors:
        return
    lines = [f"  line {line}: {error}" for line, error in sorted(errors)[:limit]]
    if len(errors) > limit:
        lines.append(f"  and {len(errors) - limit:,} more")
    count = "1 error" if len(errors) == 1 else f"{len(errors):,} errors"
    raise DataError("\n".join([f"{count} in {source}:", *lines, *filter(None, [advice])]))


# -- the form of the examples ------------------------------------------------------------------


def _find_form(
    records: Mapping[int, Mapping], prompt: str | None, answer: str | None
) -> tuple[Form | None, list[tuple[int, str]]]:
    """Return the form of the first line that has one, and the errors of the file's form.

    The form is None if no line has a known form, or not the keys that the user names.
    """
    if prompt is not None and answer is not None:
        form = Form((prompt, answer))
        if any(form.fits(record) for record in records.values()):
            return form, []
        problem, found = f"but no line has {form}", {}
    else:
        found = {line: forms for line, record in records.items() if (forms := forms_of(record))}
        known = "; ".join(map(str, FORMS))
        problem = f"but this is no known form: {NAME_KEYS}. Known forms: {known}"
    if not found:
        return None, [
            (line, f"has {f'the keys {listed(record)}' if record else 'no key'}, {problem}")
            for line, record in list(records.items())[:1]
        ]
    first, forms = next(iter(found.items()))
    if len(forms) > 1:
        choices = ", or ".join(map(str, forms))
        return None, [(first, f"can be read in several ways, as {choices}: {NAME_KEYS}")]
    differ = [(line, others[0]) for line, others in found.items() if forms[0] not in others]
    return forms[0], [
        (line, f"has {other}, but line {first} has {forms[0]}: all lines must have the same form")
        for line, other in differ[:1]
    ]


def _conversations(
    records: Mapping[int, Mapping], form: Form
) -> tuple[dict[int, list[Message]], list[tuple[int, str]]]:
    """Return the conversation of each line without errors, and the errors of the other lines."""
    conversations, errors = {}, []
    for line, record in records.items():
        # Of the lines that have another form, `_find_form` reports the first one.
        if not form.fits(record) and form in FORMS and forms_of(record):
            continue
        if wrong := form.errors(record) + common_errors(record, form):
            errors += [(line, error) for error in wrong]
        else:
            conversations[line] = form.conversation(record)
    if "id" in form.common:
        ids = {line: record["id"] for line, record in records.items() if "id" in record}
        errors += _duplicates(ids, "id")
    if "split" in form.common:
        errors += _split_errors(records)
    return conversations, errors


def _trim_answers(conversations: Mapping[int, list[Message]]) -> list[int]:
    """Remove white space around each answer, and return the lines whose answers had some."""
    changed = []
    for line, messages in conversations.items():
        answer = messages[-1]["content"]
        if answer != answer.strip():
            messages[-1]["content"] = answer.strip()
            changed.append(line)
    return changed


def _duplicates(values: Mapping[int, Any], kind: str) -> list[tuple[int, str]]:
    """Return an error for each line whose value equals the value of an earlier line."""
    first: dict[object, int] = {}
    errors = []
    for line, value in values.items():
        if isinstance(value, str | int | float) and first.setdefault(value, line) != line:
            errors.append((line, f"same {kind} as line {first[value]}"))
    return errors


# -- held-out rows -----------------------------------------------------------------------------


def _split_errors(records: Mapping[int, Mapping]) -> list[tuple[int, str]]:
    """Return the errors of the splits.

    The splits are correct if no line has a split, or if every line has a split and at least one of
    the splits is "train".
    """
    unnamed = [line for line, record in records.items() if "split" not in record]
    if len(unnamed) == len(records):
        return []
    if not unnamed and all(record["split"] != "train" for record in records.values()):
        return [(min(records), 'no line has the split "train"')]
    return [(line, "has no split, but other lines have one") for line in unnamed]


def _held_by_split(records: Mapping[int, Mapping], form: Form) -> list[int]:
    if "split" not in form.common:
        return []
    return [line for line, record in records.items() if record.get("split", "train") != "train"]


def _hold_out(hashes: Mapping[int, str], share: float) -> list[int]:
    """Return the lines that are held out: those whose prompts have the smallest hashes.

    All lines with the same prompt are on the same side. A prompt that more than half of the lines
    have, or more lines than can be held out, is for training.
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


def _check_counts(hashes: Mapping[int, str], held: Sequence[int], name: str) -> None:
    """Raise DataError if there are too few prompts or too few held-out rows."""
    prompts = len(set(hashes.values()))
    if prompts < FEWEST_PROMPTS:
        raise DataError(
            f"{name} has only {prompts} different prompt{'s' * (prompts > 1)}, but at least "
            f"{FEWEST_PROMPTS} are needed: fewer held-out rows could not show anything"
        )
    if len(held) < FEWEST_HELD_OUT:
        raise DataError(
            f"{name} has only {len(held)} rows that can be held out, but at least "
            f"{FEWEST_HELD_OUT} are needed"
        )
