"""Get the executed lectures for the site and the slides: run them now, or use their last run.

`course run` stores each executed lecture in build/lectures. The last run of a lecture can be used
if the code cells of the lecture have not changed since then. Texts and the metadata of cells may
have changed, because they are copied from the lecture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from course_utils.machine.execution import execute
from course_utils.machine.files import write_text
from course_utils.machine.notebooks import CELL_TIMEOUT, dump, lectures, load
from course_utils.machine.validation import CourseError


def executed(folder: Path, only: str | None = None, *, run: bool = True) -> list[Path]:
    """Return the executed notebooks of the lectures, in order.

    Args:
        folder: the course folder; its subfolder build/lectures contains the executed notebooks.
        only: return only the lecture with this number or name.
        run: whether to execute each lecture now, or to use its last run.

    Raises:
        CourseError: there are no lectures, a cell fails, or the last run of a lecture is missing,
            failed or had different code.
    """
    paths = lectures(folder, only)
    if not paths:
        raise CourseError(f"there are no lectures in {folder / 'lectures'}")
    output = folder / "build" / "lectures"
    return [_run(path, output) if run else _last_run(path, output) for path in paths]


def _run(path: Path, output: Path) -> Path:
    execution = execute(path, output, timeout=CELL_TIMEOUT)
    if execution.error:
        raise CourseError(f"{path.stem} failed in {execution.error}")
    return execution.executed


def _last_run(path: Path, output: Path) -> Path:
    """Update the texts of a lecture's executed notebook in `output`, and return its path."""
    target = output / path.name
    remedy = f"run `course run --only {path.stem[:2]}`"
    if not target.is_file():
        raise CourseError(f"{path.stem} has not been executed: {remedy}")
    lecture, last = load(path), load(target)
    if reason := _why_unusable(lecture, last):
        raise CourseError(f"the last run of {path.stem} can't be used, because {reason}: {remedy}")
    write_text(target, dump(_renewed(lecture, last)))
    return target


def _code(notebook: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}


def _why_unusable(lecture: dict[str, Any], last: dict[str, Any]) -> str | None:
    """Return why the last run of a lecture can't be used; None if it can be used.

    The code of the set-up cells may differ, because a set-up cell does nothing outside Colab.
    """
    now, then = _code(lecture), _code(last)
    if list(now) != list(then):
        return "the code cells have other ids now"
    for name, cell in now.items():
        if name != "setup" and cell["source"] != then[name]["source"]:
            return f"the code of cell {name} has changed"
    for name, cell in then.items():
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return f"it failed in cell {name}"
        if cell["source"].strip() and cell["execution_count"] is None:
            return f"it ended before cell {name}"
    return None


def _renewed(lecture: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """Return the lecture with the outputs, execution counts and widgets of its last run."""
    for name, cell in _code(lecture).items():
        cell |= {key: _code(last)[name][key] for key in ("outputs", "execution_count")}
    return lecture | {"metadata": last["metadata"] | lecture["metadata"]}
