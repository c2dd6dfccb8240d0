"""Recognize the form of the examples in a user's file, and turn each example into a conversation.

    {"question": "2 + 2?", "answer": "4"}
        -> [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]

`FORMS` lists the forms that are recognized by their keys. If a file has other keys, the user names
the keys of the prompt and the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course_utils.news import Message, tuned_messages

ROLES = ("system", "user", "assistant")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Form:
    """The keys under which an example contains its prompt and its answer.

    Attributes:
        keys: the keys that each example must have. If there are two keys, the first is the key of
            the prompt, and the second is the key of the answer.
        optional: further keys that an example may have.
    """

    keys: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return listed(self.keys)

    @property
    def common(self) -> tuple[str, ...]:
        """Those of the keys "id" and "split" that have their usual meaning in this form."""
        # If the user has named the keys, "id" can mean anything, so it is ignored. But "split" is
        # used in any form, so that no model is trained on a test split.
        names = ("id", "split") if self in FORMS else ("split",)
        return tuple(name for name in names if name not in self.keys)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Return whether an example has all the keys that this form needs."""
        return all(key in record for key in self.keys)

    def errors(self, record: Mapping[str, Any]) -> list[str]:
        """Return the errors in the prompt and the answer of an example."""
        if missing := [f"no {key!r}" for key in self.keys if key not in record]:
            return missing
        if self == MESSAGES:
            return _conversation_errors(record["messages"])
        if self == NEWS:
            return _texts_errors(record, self.keys)
        prompt, answer = self.keys
        if self == ALPACA:
            errors = _texts_errors(record, [prompt])
            # If an instruction needs no input, the input may be missing, empty or null.
            if record.get("input"):
                errors += _texts_errors(record, ["input"])
        else:
            errors = _prompt_errors(record[prompt], prompt)
        return errors + _answer_errors(record[answer], answer)

    def conversation(self, record: Mapping[str, Any]) -> list[Message]:
        """Convert an example without errors into messages. The last message is the answer."""
        if self == MESSAGES:
            return _turns(record["messages"])
        if self == NEWS:
            return tuned_messages(record)
        prompt, answer = (record[key] for key in self.keys)
        if self == ALPACA and record.get("input"):
            prompt = f"{prompt}\n\n{record['input']}"
        question = [_turn("user", prompt)] if isinstance(prompt, str) else _turns(prompt)
        return [*question, _turn("assistant", answer if isinstance(answer, str) else answer[0])]


MESSAGES = Form(("messages",))
NEWS = Form(("section", "story", "headline"))
ALPACA = Form(("instruction", "output"), ("input",))
FORMS = (
    MESSAGES,
    Form(("prompt", "answer")),
    Form(("prompt", "completion")),
    Form(("prompt", "response")),
    Form(("question", "answer")),
    ALPACA,
    Form(("input", "output")),
    Form(("input", "ideal")),
    NEWS,
)


def forms_of(record: Mapping[str, Any]) -> list[Form]:
    """Return the forms whose keys an example has: several forms if the keys are ambiguous."""
    if MESSAGES.fits(record):
        return [MESSAGES]
    found = [form for form in FORMS if form.fits(record)]
    # The input of an instruction is only a part of its prompt, so the form with the keys "input"
    # and "output" is not meant.
    return [f for f in found if not (ALPACA in found and f.keys == ("input", "output"))]


def ignored_keys(record: Mapping[str, Any], form: Form) -> list[str]:
    """Return the keys of an example and of its messages that are not used."""
    ignored = [k for k in record if k not in (*form.keys, *form.optional, *form.common)]
    for value in map(record.get, form.keys):
        if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
            others = (key for turn in value for key in turn if key not in ("role", "content"))
            ignored += [f"{key} of messages" for key in dict.fromkeys(others)]
    return ignored


def common_errors(record: Mapping[str, Any], form: Form) -> list[str]:
    """Return the errors in the id and the split of an example."""
    errors = []
    name = record.get("id", 0)
    if "id" in form.common and (isinstance(name, bool) or not isinstance(name, int | float)):
        errors += _text_errors(name, "'id'", "text or a number")
    if "split" in form.common and record.get("split", "train") not in SPLITS:
        errors.append(f"the split {record['split']!r:.60} must be one of {', '.join(SPLITS)}")
    return errors


def listed(keys: Iterable[str], limit: int = 8) -> str:
    """Return a list of keys as text for an error message, such as "'a', 'b' and 'c'".

    If there are more than `limit` keys, the others are only counted: "… and 3 more".
    """
    names = [f"{key!r:.60}" for key in keys]
    if len(names) > limit:
        names[limit:] = [f"{len(names) - limit:,} more"]
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def json_type(value: object) -> str:
    """Return the type of a JSON value in words, such as "a list", or "true" or "false"."""
    if isinstance(value, bool):
        return str(value).lower()
    names = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), "a number")


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _turns(messages: Sequence[Mapping[str, str]]) -> list[Message]:
    return [_turn(message["role"], message["content"]) for message in messages]


def _conversation_errors(turns: object) -> list[str]:
    """Return the errors in the value of "messages", which must end with the assistant's answer."""
    if not isinstance(turns, list) or len(turns) < 2:
        return ["'messages' must be a list with a user's message and an assistant's message"]
    errors = _turns_errors(turns)
    if not errors and turns[-1]["role"] != "assistant":
        errors.append("the last message must be the assistant's, because it is the answer to learn")
    elif not errors and turns[-2]["role"] != "user":
        errors.append("the message before the assistant's last message must be the user's")
    return errors


def _prompt_errors(prompt: object, key: str) -> list[str]:
    """Return the errors in a prompt, which must be a string or a list of messages."""
    if not isinstance(prompt, list):
        return _text_errors(prompt, repr(key), "text or a list of messages")
    if not prompt:
        return [f"{key!r} is empty"]
    errors = _turns_errors(prompt)
    if not errors and prompt[-1]["role"] != "user":
        errors.append(f"the last message of {key!r} must be the user's")
    return errors


def _answer_errors(answer: object, key: str) -> list[str]:
    """Return the errors in an answer, which must be a string or a list of one string."""
    if isinstance(answer, list):
        if len(answer) > 1:
            return [f"{key!r} has {len(answer)} texts, but a model can learn only one: keep one"]
        if not answer:
            return [f"{key!r} is empty"]
        answer = answer[0]
    return _text_errors(answer, repr(key))


def _turns_errors(turns: Iterable[object]) -> list[str]:
    """Return the errors in a list of messages. Each error begins with the message's number."""
    errors = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            wrong = [f"must be a JSON object with 'role' and 'content', got {json_type(turn)}"]
        else:
            wrong = _texts_errors(turn, ("role", "content"))
            if not wrong and turn["role"] not in ROLES:
                wrong = [f"the role {turn['role']!r:.60} must be one of {', '.join(ROLES)}"]
        errors += [f"message {number}: {error}" for error in wrong]
    return errors


def _texts_errors(record: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return the errors in a record, which must have a non-empty string under each key."""
    errors = []
    for key in keys:
        errors += _text_errors(record[key], repr(key)) if key in record else [f"no {key!r}"]
    return errors


def _text_errors(value: object, name: str, allowed: str = "text") -> list[str]:
    """Return the errors in a value, which must be a non-empty string."""
    if not isinstance(value, str):
        return [f"{name} must be {allowed}, got {json_type(value)}"]
    if not value.strip():
        return [f"{name} is empty"]
    # JSON can contain half of a surrogate pair, such as "\ud83d". Such a half is not a character,
    # and no tokenizer accepts it.
    if re.search("[\ud800-\udfff]", value):
        return [f"{name} contains half of a character: {value!a:.60}"]
    return []
