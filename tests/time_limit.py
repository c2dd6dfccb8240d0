"""Stop a test that would run forever, for example because an algorithm needs quadratic time."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Fail if the `with` block takes longer; the limit must be far above the usual time.

    Windows has no alarms, so there the block may run forever.
    """
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        # pytest.fail raises no Exception, so the code under test does not catch it.
        pytest.fail(f"the test was stopped after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
