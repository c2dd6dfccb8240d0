"""Copy the lectures, the exercises and their settings to a folder of the student's own.

A wheel of the course contains these files in `course_utils/material`, so `pip install` and `course
start` are enough to begin. In a clone, the same files are in the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from course_utils.machine.files import write_atomically
from course_utils.machine.notebooks import dump, load
from course_utils.machine.validation import CourseError

# The files that a student needs besides the package, relative to the repository or to
# course_utils/material. pyproject.toml puts the same files into the wheel.
PATTERNS = (
    "lectures/[0-9][0-9]_*.ipynb",
    "lectures/finetune_plain.py",
    "exercises/README.md",
    "exercises/[0-9][0-9]_*/*",
    # Lectures link to these pages.
    "docs/export-and-serve.md",
    "docs/glossary.md",
    "docs/your-own-data.md",
    # JupyterLab's Validate button and Assignment List need these files.
    "nbgrader_config.py",
    "my_assignments/nbgrader_config.py",
)

# A link to a file of the package. Such files are not copied, so only the link's text is kept.
LINK = re.compile(r"\[([^\[\]]*)\]\((?:\.\./)+(?:course_utils|workshop)/[^)]*\)")


def material() -> Path:
    """Return the folder with the course's lectures and exercises.

    Raises:
        CourseError: the installation has no lectures, and is not a clone of the course.
    """
    root = Path(__file__).resolve().parents[1]
    for folder in (root / "course_utils" / "material", root):
        if any(folder.glob(PATTERNS[0])):
            return folder
    raise CourseError("this installation of the course has no lectures: install it again with pip")


def files_of(folder: Path) -> Iterator[str]:
    """Yield the relative paths of the files in `folder` that a student needs."""
    for pattern in PATTERNS:
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            # Jupyter and other programs write hidden files and folders.
            if path.is_file() and not re.search(r"(^|/)\.", name):
                yield name


def content(path: Path) -> bytes:
    """Return a file of the course as `start` copies it: without links to files of the package."""
    if path.suffix != ".ipynb":
        return path.read_bytes()
    notebook = load(path)
    cells = [cell | {"source": LINK.sub(r"\1", cell["source"])} for cell in notebook["cells"]]
    if cells == notebook["cells"]:
        return path.read_bytes()
    return dump(notebook | {"cells": cells}).encode()


def start(target: Path) -> tuple[list[str], list[str]]:
    """Copy the students' files to a new or existing folder, without changing existing files.

    Returns:
        The relative paths of the files that were written, and those of existing files that differ
        from the course's files.

    Raises:
        CourseError: the folder is the course's own, or can't be written.
    """
    source = material()
    if target.resolve() == source:
        raise CourseError(f"{target} is the course's own folder: name another folder")
    written, kept = [], []
    try:
        for name in files_of(source):
            path = target / name
            if not path.exists():
                write_atomically(path, content(source / name))
                written.append(name)
            elif path.read_bytes() != content(source / name):
                kept.append(name)
    except OSError as error:
        raise CourseError(f"{target} can't be written: {error.strerror or error}") from None
    return written, kept
