"""Check arguments, and raise errors that state what is wrong and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from numbers import Integral
from typing import Any, TypeVar

Value = TypeVar("Value")


class CourseError(Exception):
    """An error that the user can fix. The message says what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's class if the message is empty."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def positive(name: str, value: Any) -> int:
    """Return an argument as an int, or raise ValueError if it isn't a whole number above 0."""
    return whole_number(name, value, least=1)


def whole_number(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """Return an argument as an int, or raise ValueError if it isn't a whole number in the range."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {allowed}, got {value!r}")
    return int(value)


def one_of(name: str, value: Value, allowed: Iterable[Value]) -> Value:
    """Return an argument, or raise a ValueError that lists the allowed values."""
    choices = list(allowed)
    if value not in choices:
        *others, last = map(repr, choices)
        listed = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} must be {listed}, got {value!r}")
    return value


def one_answer_each(answers: Sized, asked: Sized, kind: str) -> None:
    """Raise ValueError unless there are as many answers as there were things asked, and any.

    Args:
        asked: what was asked, such as a list of questions.
        kind: the word for one of them, such as "question".
    """
    if len(answers) != len(asked) or not len(answers):
        raise ValueError(
            f"there must be one answer for each {kind}, and at least one {kind}: got "
            f"{len(answers)} answers for {len(asked)} {kind}s"
        )


def names_of(argument: str, value: Any) -> tuple[str, ...]:
    """Return the name of a layer, or several such names, as a tuple; else raise ValueError."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{argument} must be a name of a layer or a list of names, got {value!r}")
    return tuple(names)
