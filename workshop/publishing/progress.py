"""Show readers of the website a list of the lectures and exercises that they have done.

docs/_static/reader.mjs keeps the list in the reader's browser.
"""

from __future__ import annotations

import html
import re
from pathlib import Path, PurePath

from course_utils.machine.notebooks import lectures, load
from workshop.publishing.lecture import PREDICTION, opening, study_time

HEAD = ("done", "lecture or exercise", "predictions", "time")
BOX = '<input type="checkbox" data-done="{name}">'


def progress_list(folder: Path) -> str:
    """Return a table of all lectures and exercises as HTML, with a checkbox for each of them.

    The links are relative to the root of the site.
    """
    rows = "".join(map(_row, [*lectures(folder), *sorted(folder.glob("exercises/*/*.ipynb"))]))
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    return (
        '<p data-progress role="status">This list needs scripts, which your browser does not run.'
        f'</p><div class="reader-progress" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p><button type="button" data-forget>Forget my guesses and my progress</button></p>'
    )


def _row(path: Path) -> str:
    cells = load(path)["cells"]
    name, title = path.stem, html.escape(opening(cells)["title"])
    if path.parent.name == "lectures":
        place, time = f"lectures/{name}.html", study_time(cells).short()
        count = sum(bool(PREDICTION.search(cell["source"])) for cell in cells)
        predictions = f'<span data-guessed="{name}" data-count="{count}"></span>'
    else:
        found = re.search(r"^- \*\*Takes:\*\* (.*?)[;\n]", cells[0]["source"], re.M)
        place, time = f"exercises/{name}/{name}.html", found[1] if found else ""
        predictions = ""
    label = f'<span class="visually-hidden">{title} is done</span>'
    return (
        f"<tr><td><label>{BOX.format(name=key(path))}{label}</label></td>"
        f'<th scope="row"><a href="{place}">{title}</a></th>'
        f"<td>{predictions}</td><td>{html.escape(time)}</td></tr>"
    )


def key(path: PurePath) -> str:
    """Return the key under which the browser stores whether a lecture or an exercise is done."""
    return f"{'lecture' if path.parent.name == 'lectures' else 'exercise'}/{path.stem}"


def done_box(path: PurePath) -> str:
    """Return the HTML of the checkbox at the end of a notebook's page."""
    kind = key(path).partition("/")[0]
    box = BOX.format(name=key(path))
    return f'<p class="reader-done"><label>{box} I have done this {kind}.</label></p>'
