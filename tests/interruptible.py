"""Start Python code that heeds Ctrl+C, also if the tests themselves run in the background."""

from __future__ import annotations

import sys

# A process in the background ignores SIGINT, and its child processes inherit this setting.
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COURSE = "from workshop.cli import main; main()"


def python(code: str, *arguments: str) -> list[str]:
    """Return the command that runs Python code with arguments and can be stopped with SIGINT."""
    return [sys.executable, "-c", f"{HEED}\n{code}", *arguments]
