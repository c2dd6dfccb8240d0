"""Hide the warnings and progress bars of libraries inside a with block."""

from __future__ import annotations

import logging
import sys
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
def hub_progress_bars(shown: bool) -> Iterator[None]:
    """Hide the progress bars of the Hugging Face hub in the with block, unless `shown` is true."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    hide = not shown and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


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


def progress_bars_are_visible() -> bool:
    """Return whether output goes to a terminal or a notebook, where users see progress bars."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
