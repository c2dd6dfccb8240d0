"""Notebook files: find the course's notebooks, read one, write one.

Notebooks in git hold no outputs, and their JSON has the layout that Jupyter gives it, so a diff
shows only what somebody edited. `publishing.execute` runs notebooks, and
`publishing.notebook_check` finds what must not be committed.
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
    """Find the folder that holds `lectures/` and `course_utils/`.

    Args:
        start: where the search begins, going upwards; default: the working folder. If nothing is
            found, the search goes on from the folder of this package.

    Raises:
        CourseError: there is none, because the course was installed without its notebooks.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if (folder / "lectures").is_dir() and (folder / "course_utils").is_dir():
            return folder
    raise CourseError(f"{start} is not in a course folder: change into the one with lectures/.")


def lectures(folder: Path, only: str | None = None) -> list[Path]:
    """List the lectures of the course in `folder`, in order.

    Args:
        folder: the course folder.
        only: return just this lecture, named by its number ("07" or "7"), file name or stem.

    Raises:
        CourseError: there is no such lecture; the message lists the lectures that exist.
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
    """List the notebooks in `lectures/`, `solutions/` and `exercises/`, without checkpoints."""
    found = (path for name in FOLDERS for path in (folder / name).rglob("*.ipynb"))
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def load(path: Path) -> dict[str, Any]:
    """Read a notebook's JSON, with the source of each cell joined to one string.

    Raises:
        CourseError: the file can't be read, or it is not a notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]
        return {**notebook, "cells": cells, "metadata": dict(notebook["metadata"])}
    except OSError as fault:
        raise CourseError(f"{path} can't be read: {fault.strerror}") from fault
    except (ValueError, KeyError, TypeError) as fault:
        raise CourseError(f"{path} is not a notebook: {fault}") from fault


def load_node(path: Path) -> Any:
    """Read a notebook as a `NotebookNode` of nbformat, with the texts of its outputs joined, too.

    Raises:
        CourseError: as `load` does.
        ImportError: nbformat is missing.
    """
    import nbformat
    from nbformat.v4.rwbase import rejoin_lines

    return rejoin_lines(nbformat.from_dict(load(path)))


def dump(notebook: dict[str, Any]) -> str:
    """Format a notebook as Jupyter does: sorted keys, and sources as lists of lines."""
    notebook = json.loads(json.dumps(notebook))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell.get("source", "")).splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def __getattr__(name: str) -> Any:
    """Return `publishing.execute.execute`, which exercise 07 imports from this module."""
    if name == "execute":
        from course_utils.publishing.execute import execute

        return execute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
