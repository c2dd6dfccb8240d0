"""Read a user's own examples from a JSONL file, check them, and hold some of them out.

Each line of the file is a JSON object with a prompt and its answer. The module `forms` lists the
keys that are recognized. A problem that would spoil the training is an error. If there are errors,
one exception lists the first 20 of them with their line numbers. A smaller problem is reported as a
note, which doesn't stop the training.
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

# With fewer different prompts than this, there would be too few held-out rows to measure a model.
FEWEST_PROMPTS = 10
# At least 5 rows are held out, and at most 100, because the model must answer all of them twice.
FEWEST_HELD_OUT, MOST_HELD_OUT = 5, 100
NAME_KEYS = "name the keys of prompt and answer with --prompt and --answer (prompt=, answer=)"
UTF_16 = "is encoded as UTF-16: save it as UTF-8"
# The first bytes of files that are not UTF-8 text. The message says what such a file is, and what
# to do with it.
OTHER_FILES = {
    b"\x1f\x8b": "is compressed with gzip: decompress it first, for example with gunzip",
    b"PK\x03\x04": "is a ZIP archive or an office document: extract or export its data first",
    b"PAR1": "is a Parquet file: convert it to JSONL first",
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
}
# These lines of Python convert a file to JSONL. They contain only single quotation marks, because
# the shell command that the user gets puts double quotation marks around them.
FROM_LIST = (
    "import json; open(NEW, 'w').writelines(json.dumps(row) + '\\n' "
    "for row in json.load(open(OLD, encoding='utf-8-sig')))"
)
FROM_CSV = (
    "import pandas; pandas.read_csv(OLD, sep=MARK, dtype=str, keep_default_na=False)"
    ".to_json(NEW, orient='records', lines=True)"
)


class DataError(CourseError, ValueError):
    """Raised if a user's data can't be used for training.

    If rows have errors, the message lists the first 20 errors with their line numbers.
    """


@dataclass(frozen=True)
class OwnData:
    """The conversations of a user's file, divided into rows for training and held-out rows.

    The last message of each conversation is the assistant's answer.

    Attributes:
        name: the name of the file, such as "my.jsonl".
        train: the conversations for training, in the order of the file.
        held_out: the conversations for measurements. They are sorted by the hashes of their
            prompts, so the first few of them are a random sample.
        train_lines: the line number of each conversation in `train`.
        held_out_lines: the line number of each conversation in `held_out`.
        notes: warnings about the file, in whole sentences.
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
    r"""Read a JSONL file with prompts and answers, check it, and hold some of its rows out.

    The file must be UTF-8 text with one JSON object in each line. All lines must have the same
    form. These forms are recognized:

        {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
        {"prompt": "…", "answer": "…"}        or "completion" or "response" instead of "answer"
        {"question": "…", "answer": "…"}
        {"instruction": "…", "input": "…", "output": "…"}    the input may be missing or empty
        {"input": "…", "output": "…"}         or "ideal" instead of "output"
        {"section": "…", "story": "…", "headline": "…"}      the form of the course's news briefs

    A prompt is a string, or a list of messages that ends with a message of the user. An answer is a
    string, or a list that contains exactly one string. White space at the beginning and the end of
    an answer is removed. If an instruction has an input, the prompt is the instruction, a blank
    line and the input. If several examples are identical, only the first of them is used.

    A line may also have the keys "id" and "split". Rows whose split is "validation" or "test" are
    held out. If more than 100 rows have such a split, only 100 of them are used. If no row has such
    a split, the function holds out the share `held_out` of the rows, but at least 5 and at most 100
    rows. These are the rows whose prompts have the smallest SHA-256 hashes. So the choice is the
    same each time, and rows with the same prompt are either all held out or all used for training.

    Args:
        path: the path of the file.
        prompt: the key of the prompt, for a file whose keys are not recognized. All keys are then
            ignored except for the keys of the prompt and the answer, and "split".
        answer: the key of the answer. It must be given if `prompt` is given, and only then.
        held_out: the share of the rows that is held out, above 0 and at most 0.5.

    Returns:
        The conversations for training and for measurements, and notes on the file.

    Raises:
        DataError: the data can't be used. If rows have errors, the message lists the first 20
            errors with their line numbers.
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
    """Set the tokenizer's end token to the token with which its chat template ends an answer.

    During training, each answer is followed by the end token, so the model learns to stop. In some
    families, such as Gemma and Phi-3, the chat template ends an answer with a token that is not the
    tokenizer's end token. The model must then learn to write the token of the chat template, so
    the function makes this token the end token.

    Args:
        tokenizer: the tokenizer, which the function may change.

    Raises:
        CourseError: the tokenizer has no chat template, or the chat template ends an answer with
            text instead of a special token.
    """
    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, so it can't turn a conversation into text: choose "
            'a chat model, whose name often ends with "Instruct" or "it"'
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
    """Tokenize all conversations, and check that none of them has too many tokens.

    Args:
        data: the conversations.
        tokenizer: the tokenizer of the model, after a call of `prepare_tokenizer`.
        max_length: the maximum number of tokens of a prompt and its answer together.

    Returns:
        Two lists, which contain the tokenized conversations of `data.train` and of `data.held_out`
        in the form that `sft.encode` returns.

    Raises:
        ValueError: `max_length` is not a whole number of at least 1.
        DataError: a conversation has too many tokens, an answer contains the end token, or the chat
            template fails on a conversation. The message lists these lines.
    """
    # While exercise 01 is graded, sft is not available, because it contains solutions. But this
    # module must still be importable.
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
    """Return a tokenized conversation's errors: too many tokens, or an end token in the answer."""
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
    """Read a file as bytes, and remove the byte order mark (BOM) if the file begins with one.

    Raises:
        DataError: the file can't be read, has no examples, or is not in JSONL format.
    """
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
    # UTF-16 without a byte order mark is recognized by its zero bytes: it stores each English
    # letter as two bytes, and one of these is zero.
    if b"\0" in raw[:4]:
        raise DataError(f"{path.name} {UTF_16}")
    if not raw.strip():
        problem = "has only blank lines" if raw else "is empty"
        raise DataError(f"{path.name} has no examples: it {problem}")
    first, *others = raw.strip().split(b"\n", 1)
    _check_format(first.decode("utf-8", "replace").strip(), path, only=not others)
    return raw


def _check_format(line: str, path: Path, only: bool) -> None:
    """Raise DataError if the first line shows that a file is JSON or CSV instead of JSONL.

    Args:
        line: the first line of the file.
        path: the path of the file.
        only: whether the file has no other lines.
    """
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
            f"{path.name} has JSON objects that extend over several lines: write each object on "
            "one line"
        )
    mark = max(",;\t", key=line.count)
    if value is None and mark in line and not line.startswith("{"):
        raise DataError(
            f"{path.name} looks like a CSV file, but each line must be one JSON object.\n"
            f"{_command('converts a CSV file', FROM_CSV.replace('MARK', repr(mark)), path)}"
        )


def _command(effect: str, code: str, path: Path) -> str:
    """Return a sentence with a shell command that converts a file into a new JSONL file.

    Args:
        effect: what the command does, such as "converts the list".
        code: the Python code, in which OLD and NEW represent the paths of the two files.
        path: the path of the old file.
    """
    new = path.with_suffix(".jsonl")
    if new.exists():
        new = path.with_name(f"{path.stem}-new.jsonl")
    code = code.replace("OLD", repr(str(path))).replace("NEW", repr(str(new)))
    return f'This command {effect}:\n  python -c "{code}"'


def _parse(raw: bytes) -> tuple[dict[int, dict], list[tuple[int, str]]]:
    """Parse the lines of a file that are not blank.

    Lines end with LF or CRLF.

    Returns:
        A dict from line numbers to JSON objects, and a list of errors with their line numbers.
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
        # Python limits the number of digits of an integer, and the depth of nested brackets.
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
    """Raise DataError if there are errors. The message lists the first errors, then the advice."""
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
    """Find the form of a file: the form of the first line whose keys are recognized.

    Args:
        records: a mapping from line numbers to JSON objects.
        prompt: the key of the prompt, or None if the user has named no keys.
        answer: the key of the answer, or None if the user has named no keys.

    Returns:
        The form, and a list of errors with their line numbers. The form is None in two cases: no
        line has the keys of a known form (or the keys that the user has named), or the first line
        with such keys fits several forms.
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
    """Convert each line without errors into a conversation.

    Returns:
        A dict from line numbers to conversations, and a list of errors with their line numbers.
    """
    conversations, errors = {}, []
    for line, record in records.items():
        # `_find_form` reports the first line that has another form. All such lines are left out
        # here.
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
    """Strip white space from the ends of answers, and return the changed answers' line numbers."""
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
    """Return the errors in the fields "split", which decide which rows are held out.

    There is no error if no line has a split. There is also no error if every line has a split and
    at least one of the splits is "train".
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
    """Choose the lines to hold out: those whose prompts have the smallest hashes.

    Lines with the same prompt are either all held out or all used for training. Lines are also used
    for training if holding them out would raise the number of held-out lines above MOST_HELD_OUT or
    above half of all lines.

    Args:
        hashes: a mapping from each line number to the hash of the line's prompt.
        share: the share of the lines that is held out.
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
    """Raise DataError if a file has too few different prompts or too few held-out rows."""
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
