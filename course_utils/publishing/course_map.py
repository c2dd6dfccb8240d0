"""The table of the lectures that README, the website's first page and lecture 00 show.

Each row is taken from the first cell of a lecture, so nobody edits a page when a lecture is added:
`course notebooks fix` renews the tables, and `course notebooks check` finds old ones.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from course_utils.notebooks import lectures, load
from course_utils.validation import CourseError

# What the first cell of every lecture says, in lines of the form "- **Slides:** Introduction".
OPENING = {
    "Slides": "Introduction",
    "Question": "What does it take to fine-tune a model?",
    "You will be able to": "count the bytes of a model",
    "Takes": "2 minutes on CPU, 1.2 GB of memory",
}
PAGES = ("README.md", "docs/index.md")
COLUMNS = ("lecture", "slides", "question", "time on CPU")
TABLE = re.compile(r"^\| lecture \|.*(?:\n\|.*)*", re.MULTILINE)


def opening(cells: list[dict[str, Any]]) -> dict[str, str]:
    """The title of a lecture, and what its first cell says after each label of `OPENING`.

    Returns:
        "title" and the labels → text; "" for what the cell does not say.
    """
    text = cells[0]["source"] if cells and cells[0].get("cell_type") == "markdown" else ""
    patterns = {"title": r"\A# (\S.*)$"}
    patterns |= {label: rf"^- \*\*{label}:\*\* (\S.*)$" for label in OPENING}
    matches = {name: re.search(pattern, text, re.M) for name, pattern in patterns.items()}
    return {name: match[1] if match else "" for name, match in matches.items()}


def course_map(folder: Path, start: Path, columns: tuple[str, ...] = COLUMNS) -> str:
    """A Markdown table of all lectures.

    Args:
        folder: the course's folder, which holds `lectures/`.
        start: the folder of the page that shows the table; links lead from there.
        columns: some of `COLUMNS`.
    """
    rows = [columns, ("---",) * len(columns)]
    for path in lectures(folder):
        with contextlib.suppress(CourseError):
            row = _row(path, start)
            rows.append(tuple(row[column] for column in columns))
    ruler = "|".join(rows[1])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{ruler}|", *lines[2:]])


def _row(lecture: Path, start: Path) -> dict[str, str]:
    said = opening(load(lecture)["cells"])
    link = Path(os.path.relpath(lecture, start)).as_posix()
    return {
        "lecture": f"[{said['title']}]({link})",
        "slides": said["Slides"],
        "question": said["Question"],
        "time on CPU": said["Takes"].partition(" on CPU")[0],
    }


def renewed(text: str, folder: Path, start: Path) -> str:
    """A page's text with its table of the lectures renewed, or with a table added at its end.

    Raises:
        CourseError: the table has a column that `COLUMNS` does not have.
    """
    if not (old := TABLE.search(text)):
        return f"{text}\n\n{course_map(folder, start)}"
    columns = tuple(cell.strip() for cell in old[0].splitlines()[0].strip("|").split("|"))
    if unknown := set(columns) - set(COLUMNS):
        raise CourseError(
            f"a table of the lectures has the column {unknown.pop()!r}; "
            f"allowed are {', '.join(COLUMNS)}"
        )
    return text[: old.start()] + course_map(folder, start, columns) + text[old.end() :]


def renewed_pages(folder: Path) -> dict[Path, str]:
    """Those of `PAGES` whose table is out of date, with the text that each should have."""
    paths = [folder / page for page in PAGES if (folder / page).is_file()]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    new = {path: renewed(text, folder, path.parent) for path, text in texts.items()}
    return {path: text for path, text in new.items() if text != texts[path]}
