"""Make the tables of lectures and the README's badges.

Each row of a table is made from a lecture: from its first cell, and from its study time. Below a
table with study times, a paragraph states their sum. `course notebooks fix` renews the tables and
the badges of the first lecture, and `course notebooks check` finds pages that are out of date.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_text
from course_utils.machine.notebooks import lectures, load
from course_utils.machine.validation import CourseError
from workshop.publishing import addresses
from workshop.publishing.lecture import StudyTime, opening, study_time

README = "README.md"
PAGES = (README, "docs/index.md")
COLUMNS = ("lecture", "slides", "question", "study time")
TABLE = re.compile(
    r"^\| lecture \|.*(?:\n\|.*)*(?:\n\nTogether, the lectures take .*(?:\n.+)*)?", re.MULTILINE
)


def course_map(folder: Path, start: Path, columns: tuple[str, ...] = COLUMNS) -> str:
    """Return a Markdown table of all lectures and, below it, the sum of the study times.

    Links are relative to `start`, the folder of the page that shows the table.
    """
    rows, times = [columns], []
    for path in lectures(folder):
        with contextlib.suppress(CourseError):
            cells = load(path)["cells"]
            row = _row(path, cells, start)
            rows.append(tuple(row[column] for column in columns))
            times.append(study_time(cells))
    header, *body = [f"| {' | '.join(row)} |" for row in rows]
    table = "\n".join([header, f"|{'---|' * len(columns)}", *body])
    return f"{table}\n\n{_sum(times)}" if "study time" in columns else table


def _sum(times: list[StudyTime]) -> str:
    """Return a paragraph that states the study time of all lectures, and of all core paths."""
    whole, core = sum(time.whole for time in times), sum(time.core for time in times)
    paragraph = f"Together, the lectures take {whole / 60:.1f} hours."
    if core == whole:
        return paragraph
    return (
        f"{paragraph} Their *core*, without the *Going deeper*\n"
        f"sections, which you can skip, takes {core / 60:.1f} hours."
    )


def _row(lecture: Path, cells: list[dict[str, Any]], start: Path) -> dict[str, str]:
    header = opening(cells)
    link = Path(os.path.relpath(lecture, start)).as_posix()
    return {
        "lecture": f"[{header['title']}]({link})",
        "slides": header["Slides"],
        "question": header["Question"],
        "study time": study_time(cells).short(),
    }


def renewed(text: str, folder: Path, start: Path) -> str:
    """Return a page's text with a renewed table of lectures, if it has a table.

    Raises:
        CourseError: the table has a column that `COLUMNS` does not have.
    """
    if not (old := TABLE.search(text)):
        return text
    columns = tuple(cell.strip() for cell in old[0].splitlines()[0].strip("|").split("|"))
    if unknown := set(columns) - set(COLUMNS):
        raise CourseError(
            f"a table of lectures can't have the column {unknown.pop()!r}; "
            f"allowed are {', '.join(COLUMNS)}"
        )
    return text[: old.start()] + course_map(folder, start, columns) + text[old.end() :]


def renewed_pages(folder: Path) -> dict[Path, str]:
    """Return the new text of each of `PAGES` that is out of date, by the page's path."""
    pages = {}
    for path in (folder / page for page in PAGES if (folder / page).is_file()):
        text = path.read_text(encoding="utf-8")
        new = renewed(text, folder, path.parent)
        for first in lectures(folder)[:1] if path.name == README else ():
            new = addresses.with_badges(new, addresses.badges(first, addresses.read(folder)))
        if new != text:
            pages[path] = new
    return pages


def fix_pages(folder: Path) -> list[Path]:
    """Write the new texts of pages that are out of date, and return the paths of these pages."""
    pages = renewed_pages(folder)
    for path, text in pages.items():
        write_text(path, text)
    return list(pages)
