"""Read the rows of a user's JSONL or CSV file as conversations, and list all errors by line.

{"question": "2 + 2?", "answer": "4"}
    -> [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from course_utils.machine.validation import CourseError, first_line
from course_utils.news import Message
from course_utils.sft import Turns

INSTRUCTION = ("instruction", "output")
# The keys that are recognized. If there are two, they are the keys of the prompt and the answer.
PAIRS = (("prompt", "answer"), ("prompt", "completion"), ("question", "answer"), INSTRUCTION)
FORMS = (("messages",), *PAIRS)
ROLES = ("system", "user", "assistant")
NAME_KEYS = "name the keys of prompt and answer with --prompt and --answer (prompt=, answer=)"
# A message lists at most this many errors.
MOST_ERRORS = 20
# The key of cells for which the first row of a CSV file has no key.
EXTRA_CELLS = "(more cells than the first row)"

Row = Mapping[str, Any]
Errors = list[tuple[int, str]]


class DataError(CourseError, ValueError):
    """Raised if a user's data can't be used for training."""


def read_rows(
    path: Path, prompt: str | None = None, answer: str | None = None
) -> tuple[dict[int, list[Message]], dict[int, Any], list[str], Turns]:
    """Read a file, and turn each of its rows into a conversation.

    Args:
        path: a UTF-8 file with one JSON object per line, or, if its name ends with ".csv", a
            table whose first row contains the keys.
        prompt: the key of the prompt, and `answer` that of the answer. By default, the first row
            must have the keys of exactly one of FORMS.

    Returns:
        The conversations by line number, the values of the key "split" by line number, unless it
        is the prompt's or the answer's key, a note if there are keys that are ignored, and which
        turns are graded: all of them if one key contains the whole conversation.
    """
    named = tuple(key for key in (prompt, answer) if key is not None)
    if len(set(named)) == 1:
        raise DataError(f"{NAME_KEYS}: two different keys, or none")
    text = _read(path)
    rows, errors = _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text)
    if not rows and not errors:
        raise DataError(f"{path.name} has no rows")
    keys: Sequence[str] = named
    conversations = {}
    for line, row in rows.items():
        try:
            keys = keys or _find_keys(row)
            conversations[line] = _conversation(row, keys)
        except DataError as error:
            errors.append((line, str(error)))
        if not keys:
            break  # Without keys, all other rows would have the same error.
    raise_errors(errors, path.name)
    splits = {} if "split" in keys else {line: row.get("split") for line, row in rows.items()}
    ignored = dict.fromkeys(key for row in rows.values() for key in _ignored_keys(row, keys))
    note = f"These keys are ignored: {', '.join(map(repr, ignored))}."
    turns: Turns = "all" if len(keys) == 1 else "last"
    return conversations, splits, [note] if ignored and not named else [], turns


def raise_errors(errors: Errors, source: str, advice: str = "") -> None:
    """Raise DataError if there are errors. The message lists the first errors, then the advice."""
    if not errors:
        return
    lines = [f"  line {line}: {error}" for line, error in sorted(errors)[:MOST_ERRORS]]
    if len(errors) > MOST_ERRORS:
        lines.append(f"  and {len(errors) - MOST_ERRORS:,} more")
    count = "1 error" if len(errors) == 1 else f"{len(errors):,} errors"
    raise DataError("\n".join([f"{count} in {source}:", *lines, *filter(None, [advice])]))


def _ignored_keys(row: Row, keys: Sequence[str]) -> list[str]:
    used = (*keys, "id", "split", *(["input"] if keys == INSTRUCTION else []))
    turns = [turn for key in keys if isinstance(row[key], list) for turn in row[key]]
    of_turns = [f"{key} of messages" for turn in turns for key in turn]
    known = ("role of messages", "content of messages")
    return [key for key in (*row, *of_turns) if key not in (*used, *known)]


# -- from a file to rows -----------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name} is not UTF-8 text in line {line}: save it as JSONL or CSV in UTF-8, and "
            "decompress it first if it is compressed"
        ) from error


def _json_rows(text: str) -> tuple[dict[int, Row], Errors]:
    rows: dict[int, Row] = {}
    errors: Errors = []
    if text.lstrip().startswith("["):
        return {}, [(1, "begins a JSON list: write each object of the list on a line of its own")]
    # Only "\n" ends a line: a text may contain other characters that Python counts as line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        # Python limits the number of digits of an integer, and the depth of nested brackets.
        except (ValueError, RecursionError) as error:
            # The number of the line is in the list of errors already.
            problem = first_line(error).replace("line 1 ", "")
            errors.append((number, f"not JSON that Python can read: {problem}"))
        else:
            if isinstance(row, dict):
                rows[number] = row
            else:
                errors.append((number, f"must be a JSON object, got {_short(row)}"))
    return rows, errors


def _csv_rows(text: str) -> tuple[dict[int, Row], Errors]:
    """Read a table. The line number of a row is the number of its last line."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey=EXTRA_CELLS, strict=True)
    try:
        return dict((reader.line_num, row) for row in reader), []
    except csv.Error as error:
        return {}, [(reader.reader.line_num, f"not CSV: {error}")]


# -- from a row to a conversation --------------------------------------------------------------


def _find_keys(row: Row) -> Sequence[str]:
    found = [form for form in FORMS if all(key in row for key in form)]
    if len(found) != 1:
        known = "; ".join(map(_listed, FORMS))
        raise DataError(
            f"has {_listed(row)}, but must have exactly one of these sets of keys: {known}. To "
            f"use other keys, {NAME_KEYS}"
        )
    return found[0]


def _conversation(row: Row, keys: Sequence[str]) -> list[Message]:
    """Turn a row into messages, the last of which is the answer."""
    if EXTRA_CELLS in row:
        raise DataError("has more cells than the first row: put texts with commas in quotes")
    if missing := [key for key in keys if key not in row]:
        raise DataError(f"no {_listed(missing)}, only {_listed(row)}")
    values = [row[key] for key in keys]
    # An input that is missing, empty or null means that the instruction needs none.
    if keys == INSTRUCTION and row.get("input"):
        values[0] = "\n\n".join(_text(row[key], repr(key)) for key in ("instruction", "input"))
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
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise DataError(
                f"message {number} must be a JSON object with 'content' and a 'role', which is "
                f"one of {', '.join(ROLES)}, got {_short(turn)}"
            )
        _text(turn.get("content"), f"the 'content' of message {number}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


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
    return f"{json.dumps(value, ensure_ascii=False):.60}"
