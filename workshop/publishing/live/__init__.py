"""Answer the questions of the website's tools. Only Python's standard library is needed.

    controls ──► `values_of`(controls, texts) ──► `answer`(values) ──► HTML

The website runs this package in the reader's browser, with Pyodide. So its modules import only the
standard library, and those modules of the course that need nothing else. While the website is
built, the same functions write the first answers into the pages. So a page shows an answer before
Python has loaded, and even if Python can't be loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from course_utils.notebook.controls import Control, values_of
from workshop.publishing.live import bins, fit
from workshop.publishing.live.markup import alert


@dataclass(frozen=True)
class Tool:
    """A tool of the website: its controls, and a function from their values to HTML."""

    controls: Mapping[str, Control]
    answer: Callable[[Mapping[str, Any]], str]


TOOLS = {
    "fit": Tool(fit.CONTROLS, fit.answer),
    "bins": Tool(bins.CONTROLS, bins.answer),
}


def answer(name: str, texts: str | Mapping[str, str]) -> str:
    """Return a tool's answer as HTML, or a message if a value is not allowed.

    `texts` has the text of each control, as a mapping or as JSON. A missing text stands for the
    control's initial value.
    """
    tool = TOOLS[name]
    given = json.loads(texts) if isinstance(texts, str) else texts
    try:
        return tool.answer(values_of(tool.controls, given))
    except ValueError as error:
        return alert(error)
