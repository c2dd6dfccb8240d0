"""Read the rows of a user's file or data set as conversations, and list all errors by line.

{"question": "2 + 2?", "answer": "4"}
    -> [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]

The library `datasets` reads Parquet files and data sets on the hub. It doesn't read JSONL and CSV
files here, because it guesses their types: it would turn the answer "007" of a CSV file into 7.0,
and the answer "2024-01-02" of a JSONL file into a datetime.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.machine.validation import CourseError, first_line
from course_utils.models.fetch import is_repository
from course_utils.news import Message
from course_utils.sft import Turns

# The keys that are recognized: that of a conversation, or those of a prompt and its answer.
FORMS = (
    ("messages",),
    ("conversations",),
    ("prompt", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
)
# In Alpaca's and Dolly's rows, the text of another key belongs to the instruction.
INPUTS = {"output": "input", "response": "context"}
# The course's names of the roles in OpenAI's messages and in ShareGPT's conversations.
ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
ROLES |= {"developer": "system", "human": "user", "gpt": "assistant"}
# Keys and roles of data that this training can't use.
UNFIT = ("chosen", "rejected", "tools", "tool_calls", "function_call", "tool", "image", "images")
NAME_KEYS = "name the keys of prompt and answer with --prompt and --answer (prompt=, answer=)"
# Errors that differ only in these parts are of the same kind.
DETAILS = re.compile(r"\d[\d,]*|, (got|only) .*")

Row = Mapping[str, Any]
Errors = list[tuple[int, str]]


class DataError(CourseError, ValueError):
    """Raised if a user's data can't be used for training."""


@dataclass(frozen=True)
class Source:
    """A file or a data set. Numbers stand for its rows.

    Attributes:
        unit: what is numbered: each "line" of a file, or each "row".
    """

    name: str
    unit: str

    def places(self, numbers: Collection[int]) -> str:
        """Return a text that lists the first five of these lines or rows."""
        first = ", ".join(map(str, sorted(numbers)[:5]))
        more = f" and {len(numbers) - 5:,} more" if len(numbers) > 5 else ""
        return f"{self.unit}{'s' * (len(numbers) > 1)} {first}{more}"

    def note(self, what: str, numbers: Collection[int], effect: str = "") -> list[str]:
        """Return a note about these lines or rows, or no note if there are none."""
        return [f"{what} ({self.places(numbers)}). {effect}".strip()] if numbers else []

    def refuse(self, errors: Errors, advice: str = "") -> None:
        """Raise DataError if there are errors. Its message lists each kind of error once."""
        kinds: dict[str, dict[int, str]] = defaultdict(dict)
        for number, error in sorted(errors):
            kinds[DETAILS.sub("", error)][number] = error
        lines = [f"{len(errors):,} error{'s' * (len(errors) > 1)} in {self.name}:"]
        for found in kinds.values():
            (number, error), place = next(iter(found.items())), self.places(found)
            if len(found) > 1:
                place = f"{len(found):,} rows ({place})"
            if len(set(found.values())) > 1:
                place += f", for example {self.unit} {number}"
            lines.append(f"  {place}: {error}")
        if errors:
            raise DataError("\n".join([*lines, *filter(None, [advice])]))


Rows = tuple[Source, dict[int, Row], Errors]


def read_rows(
    path: Path, prompt: str | None = None, answer: str | None = None
) -> tuple[Source, dict[int, list[Message]], dict[int, Any], list[str], Turns]:
    """Read a file or a data set, and turn each of its rows into a conversation.

    Args:
        path: a file, or "owner/name" for a data set on the hub. A file's name ends with .csv, .tsv
            or .parquet, or the file contains JSON: one object per line, or one list of objects.
        prompt: the key of the prompt, and `answer` that of the answer. By default, the first row
            must have the keys of exactly one of FORMS.

    Returns:
        The source, the conversations by number, the values of the key "split" by number, unless it
        is the prompt's or the answer's key, a note if there are keys that are ignored, and which
        turns are graded: all of them if one key contains the whole conversation.
    """
    named = tuple(key for key in (prompt, answer) if key is not None)
    if len(set(named)) == 1:
        raise DataError(f"{NAME_KEYS}: two different keys, or none")
    source, rows, errors = _read(path)
    if not rows and not errors:
        raise DataError(f"{source.name} has no rows")
    keys: tuple[str, ...] = named
    conversations = {}
    for number, row in rows.items():
        try:
            if not isinstance(row, dict):
                raise DataError(f"must be a JSON object, got {_short(row)}")
            if not named:
                _check_fit(key for key in row if row[key])
            keys = keys or _find_keys(row)
            conversations[number] = _conversation(row, keys)
        except DataError as error:
            errors.append((number, str(error)))
            if not keys and isinstance(row, dict):
                break  # Without keys, all other rows would have the same error.
    source.refuse(errors)
    splits = {} if "split" in keys else {number: row.get("split") for number, row in rows.items()}
    ignored = dict.fromkeys(key for row in rows.values() for key in _ignored_keys(row, keys))
    notes = [f"These keys are ignored: {', '.join(map(repr, ignored))}."] if ignored else []
    return source, conversations, splits, notes, "all" if len(keys) == 1 else "last"


def _input_key(keys: tuple[str, ...]) -> str:
    return INPUTS.get(keys[-1], "") if keys[0] == "instruction" else ""


def _ignored_keys(row: Row, keys: tuple[str, ...]) -> list[str]:
    used = {*keys, _input_key(keys), "id", "split"}
    ignored = {key: value for key, value in row.items() if key not in used}
    for turn in (turn for key in keys for turn in row[key] if isinstance(turn, dict)):
        known = ("role", "content", "from", "value")
        ignored |= {f"{key} of messages": turn[key] for key in turn if key not in known}
    return [key for key, value in ignored.items() if value is not None]


# -- from a file to rows -----------------------------------------------------------------------


def _read(path: Path) -> Rows:
    kind, name = path.suffix.lower(), path.as_posix()
    if kind == ".parquet":
        return _read_set(path.name, "parquet", data_files=str(path), streaming=True)
    of_text = (".jsonl", ".json", ".csv", ".tsv")
    if kind not in of_text and not path.exists() and is_repository(name):
        return _read_set(name, name)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name} is not UTF-8 text in line {line}: save it as JSONL or CSV in UTF-8, and "
            "decompress it first if it is compressed"
        ) from error
    if kind in (".csv", ".tsv"):
        return _table_rows(path.name, text, "\t" if kind == ".tsv" else ",")
    return _json_rows(path.name, text)


def _read_set(name: str, *arguments: str, **options: Any) -> Rows:
    """Read a data set with `datasets`. The name of a row's part is its split, if it has none."""
    from datasets import load_dataset

    try:
        parts = load_dataset(*arguments, **options).items()
        rows = [{"split": split, **row} for split, part in parts for row in part]
    except Exception as error:  # Each format and the hub have errors of their own.
        problem = f"{name} can't be read as a file or as a data set on the hub"
        raise DataError(f"{problem}: {first_line(error.__cause__ or error)}") from error
    return Source(name, "row"), dict(enumerate(rows, 1)), []


def _json_rows(name: str, text: str) -> Rows:
    is_list = text.lstrip().startswith("[")
    rows: dict[int, Any] = {}
    errors: Errors = []
    # Only "\n" ends a line: a text may contain other characters that Python counts as line ends.
    for number, part in enumerate([text] if is_list else text.split("\n"), 1):
        try:
            rows |= {number: json.loads(part)} if part.strip() else {}
        # Python limits the number of digits of an integer, and the depth of nested brackets.
        except (ValueError, RecursionError) as error:
            problem = re.sub(r"line \d+ ", "", first_line(error))
            at = getattr(error, "pos", len(part))
            if part[at : at + 1] in [*"'“”„}]"]:
                problem += ". JSON has straight double quotes and no comma before } or ]"
            line = number - 1 + getattr(error, "lineno", 1)
            errors.append((line, f"not JSON that Python can read: {problem}"))
    if is_list and rows:
        rows = dict(enumerate(rows[1], 1))
    return Source(name, "row" if is_list and rows else "line"), rows, errors


def _table_rows(name: str, text: str, delimiter: str) -> Rows:
    """Read a table. The line number of a row is the number of its last line."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    source = Source(name, "line")
    try:
        return source, dict((reader.line_num, row) for row in reader), []
    except csv.Error as error:
        return source, {}, [(reader.reader.line_num, f"not CSV: {error}")]


# -- from a row to a conversation --------------------------------------------------------------


def _check_fit(names: Iterable[str]) -> None:
    if unfit := [name for name in names if name in UNFIT]:
        raise DataError(
            f"has {_listed(unfit)}: preferences, tool calls and images can't be used, but only "
            "conversations of text with one right answer to each prompt"
        )


def _find_keys(row: Row) -> tuple[str, ...]:
    found = [form for form in FORMS if all(key in row for key in form)]
    if len(found) != 1:
        known = "; ".join(map(_listed, FORMS))
        raise DataError(
            f"has {_listed(row)}, but must have exactly one of these sets of keys: {known}. To "
            f"use other keys, {NAME_KEYS}"
        )
    return found[0]


def _conversation(row: Row, keys: tuple[str, ...]) -> list[Message]:
    """Turn a row into messages, the last of which is the answer."""
    if None in row:  # The key of cells for which the first row of a table has no key.
        raise DataError("has more cells than the first row: put texts with commas in quotes")
    if missing := [key for key in keys if key not in row]:
        raise DataError(f"no {_listed(missing)}, only {_listed(row)}")
    values = [row[key] for key in keys]
    # An input that is missing, empty or null means that the instruction needs none.
    if row.get(extra := _input_key(keys)):
        values[0] = "\n\n".join(_text(row[key], repr(key)) for key in (keys[0], extra))
    turns = []
    for key, value, role in zip(keys, values, ("user", "assistant"), strict=False):
        turns += _turns(value, key, role)
    if [turn["role"] for turn in turns[-2:]] != ["user", "assistant"]:
        raise DataError(
            "the last two messages must be the user's prompt and the assistant's answer, which is "
            "the answer to learn"
        )
    return turns


def _turns(value: Any, key: str, role: str) -> list[Message]:
    """Return the messages in a value: one text, also alone in a list, or a list of messages."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return [{"role": role, "content": _text(value, repr(key))}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{key!r} must be text or a list of messages, got {_short(value)}")
    turns = []
    for number, turn in enumerate(value, 1):
        name = str((turn.get("role") or turn.get("from")) if isinstance(turn, dict) else None)
        _check_fit([name, *(key for key in turn if isinstance(turn, dict) and turn[key])])
        if name not in ROLES:
            raise DataError(
                f"message {number} must be a JSON object with 'content' and a 'role', which is "
                f"one of {', '.join(ROLES)}, got {_short(turn)}"
            )
        text = _text(turn.get("content", turn.get("value")), f"the 'content' of message {number}")
        turns.append({"role": ROLES[name], "content": text})
    return turns


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} must be text, got {_short(value)}")
    if not value.strip():
        raise DataError(f"{name} is empty")
    return value


def _listed(keys: Sequence[str] | Row, most: int = 8) -> str:
    names = [f"{key!r:.60}" for key in keys][:most]
    more = f" and {len(keys) - most:,} more" if len(keys) > most else ""
    return f"{', '.join(names)}{more}" or "no keys"


def _short(value: Any) -> str:
    return f"{json.dumps(value, ensure_ascii=False, default=str):.60}"
