"""Write HTML pages for the instructor from texts that students may have written.

Control characters are removed from a text, long texts are shortened, and the templates escape every
value.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from course_utils import palette

# Maximum length of a line of text, in characters.
MAX_LINE = 200
# Maximum length of a message, in characters and in lines.
MAX_TEXT, MAX_LINES = 1_500, 20

# Escape sequences of terminals, and then invisible characters and characters that change the
# direction of writing.
ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -~]?")
UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)


def plain(text: str) -> str:
    """Return a text without control characters, cut to a length that is enough for a message."""
    return UNSEEN.sub("", ANSI.sub("", text[: 4 * MAX_TEXT]))


def one_line(text: str, max_length: int = MAX_LINE) -> str:
    """Return a text as one line, cut to `max_length` characters."""
    line = " ".join(plain(text).split())
    return line if len(line) <= max_length else line[:max_length] + " …"


def block(text: str) -> str:
    """Return a text with its line breaks, cut to MAX_LINES lines and MAX_TEXT characters."""
    lines = [line.expandtabs(4).rstrip() for line in plain(text).strip().splitlines()]
    whole = "\n".join(lines[:MAX_LINES])
    is_cut = len(lines) > MAX_LINES or len(whole) > MAX_TEXT
    return whole[:MAX_TEXT] + (" …" if is_cut else "")


@functools.cache
def page_template(name: str, max_value: int) -> Template:
    """Return a template of this folder, which cuts each value to one line and escapes it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: (
            value if isinstance(value, Markup) else one_line(str(value), max_value)
        ),
    )
    environment.filters["block"] = lambda text: escape(block(text))
    environment.globals["palette"] = palette
    return environment.get_template(name)
