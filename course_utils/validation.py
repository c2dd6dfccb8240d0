"""Checks of arguments: each raises one ValueError that says what was wrong and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any


class CourseError(Exception):
    """Something that a user can mend. The message says what is wrong and what to do."""


def positive(name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number of at least 1; else ValueError naming it."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def names_of(argument: str, value: Any) -> tuple[str, ...]:
    """One name, or several, as a tuple; else ValueError naming the argument."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{argument} must be a name of a layer or a list of names, got {value!r}")
    return tuple(names)
