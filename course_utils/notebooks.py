"""Notebooks as files: where the course's are, how one is read, written and compared.

A notebook in git holds no outputs; its JSON is written the way Jupyter writes it, so that a diff
shows only edits. `publishing.execute` runs notebooks, `publishing.notebook_check` says what must
not be committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from course_utils.validation import CourseError

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
FOLDERS = ("lectures", "solutions", "exercises")


def course_folder(start: Path | None = None) -> Path:
    """The folder that holds `lectures/`: around `start` (default: here), else around the package.

    Raises CourseError where the course was installed without its notebooks.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if (folder / "lectures").is_dir() and (folder / "course_utils").is_dir():
            return folder
    raise CourseError(f"{start} is not in a course folder: change into the one with lectures/.")


def lectures(folder: Path, only: str | None = None) -> list[Path]:
    """The lectures in order, or the one that `only` names: "07", "7", its file name or its stem.

    Raises CourseError for a lecture that is not there, and names those that are.
    """
    found = sorted((folder / "lectures").glob("[0-9][0-9]_*.ipynb"))
    if only is None:
        return found
    name = Path(only).name.removesuffix(".ipynb")
    number = name.zfill(2)
    chosen = [path for path in found if path.stem == name or path.stem[:2] == number]
    if not chosen:
        have = ", ".join(path.stem for path in found) or "none at all"
        raise CourseError(f"there is no lecture {only}; choose one of: {have}")
    return chosen


def all_notebooks(folder: Path) -> list[Path]:
    """Every notebook of the course that git holds."""
    found = (path for name in FOLDERS for path in (folder / name).rglob("*.ipynb"))
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def load(path: Path) -> dict[str, Any]:
    """A notebook as it is in its file, but for sources, which are text.

    Raises CourseError if the file is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]
        return {**notebook, "cells": cells, "metadata": dict(notebook["metadata"])}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise CourseError(f"{path} is not a notebook: {fault}") from fault


def dump(notebook: dict[str, Any]) -> str:
    """The JSON text that Jupyter writes for this notebook: sorted keys, one source line a line."""
    notebook = json.loads(json.dumps(notebook))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell.get("source", "")).splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def __getattr__(name: str) -> Any:
    """Exercise 07 imports `execute` from here; it lives in `publishing.execute`."""
    if name == "execute":
        from course_utils.publishing.execute import execute

        return execute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
