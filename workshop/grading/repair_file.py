"""Repair a student's notebook with the command `course repair`."""

from __future__ import annotations

import re
from pathlib import Path

from course_utils.machine import files, notebooks
from course_utils.machine.validation import CourseError
from workshop.grading.repair import Repaired, repair


def repair_file(path: Path, release: Path) -> tuple[Path, Repaired]:
    """Write a repaired copy of a notebook into the same folder; return its path and the repairs.

    Raises:
        CourseError: The file can't be read or repaired, a repair is uncertain, or a file with the
            copy's name exists. In these cases, nothing is written.
    """
    target = path.with_name(f"{path.stem}-repaired.ipynb")
    if target.exists():
        raise CourseError(f"{target} already exists: rename or delete it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} can't be read: {error.strerror}") from None
    repaired = repair(data, notebooks.load(release))
    if repaired.doubts:
        raise CourseError(
            f"{path.name} was not repaired, because it is uncertain how: "
            f"{'; '.join(repaired.doubts)} (put each answer into one cell, which begins with the "
            "comment of the exercise, such as `# grade_id: NAME`)"
        )
    files.write_text(target, notebooks.dump(repaired.notebook))
    return target, repaired


def find_release(path: Path, assignment: str | None = None, folder: Path | None = None) -> Path:
    """Return the released notebook of the assignment that a file belongs to.

    Args:
        assignment: The assignment's number or name, such as "03" or "03_lora"; default: the name
            that the file's name contains, as in "student01_03_lora (1).ipynb".
    """
    folder = (folder or notebooks.course_folder()) / "exercises"
    releases = sorted(folder.glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))
    named = [p for p in releases if re.search(rf"(?<![^\W_]){p.stem}(?!\w)", path.stem)]
    if assignment is None and not named:
        raise CourseError(f"name the assignment of {path.name}, such as --assignment 03")
    return (
        named[0]
        if named and not assignment
        else notebooks.chosen(releases, assignment or "", "assignment", folder)[0]
    )
