"""Find the notebooks of the course, read a notebook, and format a notebook as JSON.

Notebooks in git contain no outputs, and their JSON is formatted as Jupyter formats it. So a diff
shows only what somebody edited. `execution` runs notebooks, and `publishing.notebook_check` finds
content that must not be committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from course_utils.machine.validation import CourseError

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
# The type of an output that is a widget, and the key of the course's own metadata.
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = "qlora_course"
FOLDERS = ("lectures", "solutions", "exercises")
# Maximum run time of a lecture's cell, in seconds.
CELL_TIMEOUT = 1800


def course_folder(start: Path | None = None) -> Path:
    """Return the course folder, which contains the folders `lectures` and `exercises`.

    Args:
        start: the folder where the search begins; default: the working folder. The search continues
            with the parents of this folder and ends with the folder that contains this package.

    Raises:
        CourseError: none of these folders is the course folder. This happens if pip installed the
            course, and `course start` was not run or made another folder.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if (folder / "lectures").is_dir() and _is_course(folder):
            return folder
    raise CourseError(
        f"{start} is not in a course folder: change to the folder that contains lectures/, or make "
        "one with `course start FOLDER`"
    )


def _is_course(folder: Path) -> bool:
    # One of both is enough: `course start` makes no package, and some tests make no exercises.
    return (folder / "exercises").is_dir() or (folder / "course_utils").is_dir()


def lectures(folder: Path, only: str | None = None) -> list[Path]:
    """Return the notebook files of the lectures, in order.

    Args:
        only: return only the lecture with this number ("07" or "7"), file name or stem.

    Raises:
        CourseError: there is no such lecture; the message lists the lectures that exist.
    """
    paths = sorted((folder / "lectures").glob("[0-9][0-9]_*.ipynb"))
    return paths if only is None else chosen(paths, only, "lecture", folder / "lectures")


def chosen(paths: list[Path], only: str, kind: str, folder: Path) -> list[Path]:
    """Return the notebooks with this number ("07" or "7"), file name or stem.

    Args:
        kind: what a notebook is called in the error message, such as "lecture".
        folder: the folder that the error message names if it has no notebooks.

    Raises:
        CourseError: there is no such notebook; the message lists the notebooks that exist.
    """
    name = Path(only).name.removesuffix(".ipynb")
    found = [path for path in paths if path.stem == name or path.stem[:2] == name.zfill(2)]
    if not found:
        names = ", ".join(path.stem for path in paths)
        remedy = f"choose one of: {names}" if names else f"{folder} has no {kind}s"
        raise CourseError(f"there is no {kind} {only}; {remedy}")
    return found


def all_notebooks(folder: Path) -> list[Path]:
    """Return all notebooks in `lectures/`, `solutions/` and `exercises/`, without checkpoints."""
    paths = (path for name in FOLDERS for path in (folder / name).rglob("*.ipynb"))
    return sorted(path for path in paths if ".ipynb_checkpoints" not in path.parts)


def load(path: Path) -> dict[str, Any]:
    """Return the JSON of a notebook, in which the source of each cell is one string.

    Raises:
        CourseError: the file can't be read, or it is not a notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]
        return {**notebook, "cells": cells, "metadata": dict(notebook["metadata"])}
    except OSError as error:
        raise CourseError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is not a notebook: {error}") from error


def load_node(path: Path) -> Any:
    """Return a notebook as nbformat's `NotebookNode`, with each text as one string.

    In the file, a cell's source or an output's text may be a list of lines, which are joined here.

    Raises:
        CourseError: the file can't be read, or it is not a notebook.
        ImportError: nbformat is missing.
    """
    import nbformat
    from nbformat.v4.rwbase import rejoin_lines

    return rejoin_lines(nbformat.from_dict(load(path)))


def dump(notebook: dict[str, Any]) -> str:
    """Return a notebook's JSON in Jupyter's format: sorted keys, and sources as lists of lines."""
    notebook = json.loads(json.dumps(notebook))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell.get("source", "")).splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
