"""Keep libraries from writing warnings and progress bars to the screen for a while."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silence(library: str) -> Iterator[None]:
    """Hide a library's warnings for a while. Its errors are still shown.

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
    """Hide the warnings and progress bars of transformers for a while."""
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
    """Show the progress bars of the Hugging Face hub, or hide them for a while."""
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
def without_tqdm(module: Any) -> Iterator[None]:
    """Replace a module's `tqdm` for a while, if the module has no option to hide its bar."""
    bar, module.tqdm = module.tqdm, lambda items, **_: items
    try:
        yield
    finally:
        module.tqdm = bar


def someone_watches() -> bool:
    """Whether a progress bar is seen: in a terminal or a notebook, but not in a log file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
