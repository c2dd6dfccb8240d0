"""Badges in README.md and in the notebooks, and addresses in set-up cells: all from one place.

That place is pyproject.toml (see `addresses`). Lectures and assignments have a line of badges below
their title; README.md has one between two markers, for the first lecture:

    <!-- badges: begin -->
    <!-- badges: end -->
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from course_utils import files, notebooks
from course_utils.publishing import addresses, notebook_check
from course_utils.publishing.addresses import PROJECT, Addresses
from course_utils.validation import CourseError

README = "README.md"
BEGIN, END = "<!-- badges: begin -->", "<!-- badges: end -->"


def renew(folder: Path, published: Addresses | None = None) -> list[Path]:
    """Bring all badges and set-up cells of a course up to date; returns the files that changed.

    published: new addresses, which pyproject.toml gets as well; default: those that it holds. All
    is read before anything is written, and if one file can't be written, the others are put back.
    Raises CourseError then, and for a notebook or a pyproject.toml that can't be read.
    """
    known = addresses.read(folder)
    wanted = known if published is None else published
    texts = _texts(folder, wanted)
    if wanted != known:
        texts[folder / PROJECT] = addresses.written(folder, wanted)
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


def differences(folder: Path) -> list[Path]:
    """The files whose badges or set-up cells are not what pyproject.toml gives; none is good."""
    return list(_changed(_texts(folder, addresses.read(folder))))


def _texts(folder: Path, published: Addresses) -> dict[Path, str]:
    """What README.md and the notebooks of a course should say."""
    texts = {folder / README: _readme(folder, published)} if (folder / README).exists() else {}
    for path in notebooks.all_notebooks(folder):
        texts[path] = notebook_check.published_at(path, published)
    return texts


def _changed(texts: dict[Path, str]) -> dict[Path, str]:
    """Those texts that differ from what is in their files."""
    return {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}


def _readme(folder: Path, published: Addresses) -> str:
    """The text of README.md with badges between its markers; without markers it is as it was."""
    text = (folder / README).read_text(encoding="utf-8")
    lines = [addresses.badges(path, published) for path in notebooks.lectures(folder)[:1]]
    row = "\n".join([BEGIN, *filter(None, lines), END])
    return re.sub(f"{BEGIN}.*?{END}", lambda _: row, text, count=1, flags=re.DOTALL)
