"""Lectures with their outputs, as the site and the slides need them: run now, or as they ran last.

`course run` leaves each executed lecture in build/lectures. A run is still good while its code is
that of the lecture: texts and the metadata of cells are no part of it, and are renewed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from course_utils.files import write_text
from course_utils.notebooks import dump, lectures, load
from course_utils.publishing.execute import execute
from course_utils.validation import CourseError

TIMEOUT = 1800  # seconds for one cell, as for `course run`


def executed(folder: Path, only: str | None = None, *, run: bool = True) -> list[Path]:
    """The executed notebooks in `folder`/build/lectures, in order: of all lectures, or of `only`.

    run: execute each now, with a bar on stderr; else take what the last run left, with the texts
    and the cells' metadata that the lectures have now. Raises CourseError if there are no lectures,
    if a cell fails, or if the last run is missing, failed, or was of other code.
    """
    paths = lectures(folder, only)
    if not paths:
        raise CourseError(f"there are no lectures in {folder / 'lectures'}")
    output = folder / "build" / "lectures"
    return [_run(path, output) if run else _last_run(path, output) for path in paths]


def _run(path: Path, output: Path) -> Path:
    execution = execute(path, output, timeout=TIMEOUT)
    if execution.error:
        raise CourseError(f"{path.stem} failed in {execution.error}")
    return execution.page.with_suffix(".ipynb")


def _last_run(path: Path, output: Path) -> Path:
    """The executed notebook that lies in `output`, with what isn't code as in the lecture now."""
    target = output / path.name
    remedy = f"run `course run --only {path.stem[:2]}`"
    if not target.is_file():
        raise CourseError(f"{path.stem} has not been executed: {remedy}")
    lecture, last = load(path), load(target)
    if fault := _fault(lecture, last):
        raise CourseError(f"{path.stem}: {fault}: {remedy}")
    write_text(target, dump(_renewed(lecture, last)))
    return target


def _code(notebook: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The code cells by their ids."""
    return {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}


def _fault(lecture: dict[str, Any], last: dict[str, Any]) -> str | None:
    """Why a run's outputs can't be those of the lecture; None if they can.

    The set-up cell is not compared: it does nothing where lectures are executed for others.
    """
    now, then = _code(lecture), _code(last)
    if list(now) != list(then):
        return "its cells are not those of its last run"
    for name, cell in now.items():
        if name != "setup" and cell["source"] != then[name]["source"]:
            return f"the code of cell {name} has changed since its last run"
    for name, cell in then.items():
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return f"its last run failed in cell {name}"
        if cell["source"].strip() and cell["execution_count"] is None:
            return f"its last run ended before cell {name}"
    return None


def _renewed(lecture: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """The lecture with the outputs, the counts and the widgets of its last run."""
    for name, cell in _code(lecture).items():
        cell |= {key: _code(last)[name][key] for key in ("outputs", "execution_count")}
    return lecture | {"metadata": last["metadata"] | lecture["metadata"]}
