"""Renew badges, the addresses in set-up cells, and the files that are made from CITATION.cff.

Badges and set-up cells use the addresses in pyproject.toml (see `addresses`). Lectures and
assignments have a line of badges below their title. README.md has the badges of the first lecture
between two markers:

    <!-- badges: begin -->
    <!-- badges: end -->
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from course_utils import files, notebooks
from course_utils.publishing import addresses, metadata, notebook_check
from course_utils.publishing.addresses import PROJECT, Addresses
from course_utils.validation import CourseError

README = "README.md"
BEGIN, END = "<!-- badges: begin -->", "<!-- badges: end -->"


def renew(folder: Path, published: Addresses | None = None) -> list[Path]:
    """Bring all badges, set-up cells and files made from CITATION.cff up to date.

    If a file can't be written, all files get their previous text again.

    Args:
        folder: the course folder.
        published: new addresses, which are written to pyproject.toml; default: the addresses that
            pyproject.toml contains.

    Returns:
        The files that changed.

    Raises:
        CourseError: a file can't be read or written, or pyproject.toml is not valid.
    """
    known = addresses.read(folder)
    wanted = known if published is None else published
    texts = _texts(folder, wanted)
    if wanted != known:
        texts[folder / PROJECT] = addresses.updated_project(folder, wanted)
    changed = _changed(texts)
    before = {path: path.read_text(encoding="utf-8") for path in changed}
    try:
        for path, text in changed.items():
            files.write_text(path, text)
    except CourseError:
        for path, text in before.items():
            with contextlib.suppress(CourseError):
                files.write_text(path, text)
        raise
    return list(changed)


def outdated(folder: Path) -> list[Path]:
    """Return the files that don't agree with CITATION.cff or the addresses in pyproject.toml."""
    return list(_changed(_texts(folder, addresses.read(folder))))


def _texts(folder: Path, published: Addresses) -> dict[Path, str]:
    """Return the texts that the files of a course should have, by path."""
    texts = {folder / README: _readme(folder, published)} if (folder / README).exists() else {}
    for path in notebooks.all_notebooks(folder):
        texts[path] = notebook_check.published_at(path, published)
    return texts | metadata.citation_files(folder, published)


def _changed(texts: dict[Path, str]) -> dict[Path, str]:
    """Return the texts that differ from the current contents of their files, by path."""
    return {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}


def _readme(folder: Path, published: Addresses) -> str:
    """Return the text of README.md with new badges between its markers, if it has markers."""
    text = (folder / README).read_text(encoding="utf-8")
    lines = [addresses.badges(path, published) for path in notebooks.lectures(folder)[:1]]
    row = "\n".join([BEGIN, *filter(None, lines), END])
    return re.sub(f"{BEGIN}.*?{END}", lambda _: row, text, count=1, flags=re.DOTALL)
