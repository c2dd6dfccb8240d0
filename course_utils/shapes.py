"""Provide `course_utils.memory` under its former name, which older notebooks import."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    from course_utils import memory

    return getattr(memory, name)
