"""Hide the warnings and progress bars of libraries inside a with block."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silence(library: str) -> Iterator[None]:
    """Hide Python's warnings and a library's log messages, except errors, in the with block.

    Args:
        library: the name of the library's logger, such as "transformers".
    """
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Hide the warnings and progress bars of transformers inside the with block."""
    from transformers.utils.logging import (
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with silence("transformers"):
            yield
    finally:
        if bars:
            enable_progress_bar()


@contextmanager
def hide_tqdm(module: Any) -> Iterator[None]:
    """Hide the progress bar of a module that has no option to hide it, inside the with block.

    The module's `tqdm` is replaced by a function that draws nothing.
    """
    tqdm, module.tqdm = module.tqdm, lambda items, **_: items
    try:
        yield
    finally:
        module.tqdm = tqdm
