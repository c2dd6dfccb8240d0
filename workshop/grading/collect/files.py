"""Write one student's files into a folder, and note what was left out.

    archives.py, from a learning management system  ─┐
                                                     ├─►  store  ─►  STUDENT/03_lora/03_lora.ipynb
    exchange.py, from nbgrader's exchange           ─┘                          …/left-out.txt

Students choose the names, the contents and the number of the files. A file that can't be collected
is left out, and all other files are collected. Each line of left-out.txt is a reason why the
submission needs a person.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from workshop.grading.read import ENDING, EXCHANGE, LEFT_OUT, MAX_FILES, MAX_NOTES, MAX_SIZE, quoted
from workshop.grading.safe_files import escape_unprintable
from workshop.grading.spec import MAX_NOTEBOOK, is_notebook

# Maximum size of everything that one student hands in, in bytes (B).
MAX_BYTES = MAX_NOTEBOOK + MAX_SIZE
# Maximum length of a file name and of a path, in bytes (B).
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1_000
# Matches a student's name. nbgrader uses the name in paths and in glob patterns.
STUDENT = r"\w[^/\\*?\[\]{}<>|:\"]*?"
# Files that nbgrader or the course writes, and settings files, which Jupyter would execute.
RESERVED = (*EXCHANGE, LEFT_OUT, "nbgrader_config.*", "jupyter_config.*")
# Categories of Unicode: control characters, invisible characters and line separators.
UNREADABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Matches an absolute path, and a path with an empty part or with a part such as "." or "..".
OUTSIDE = r"^[A-Za-z]:|(^|/)\.{0,2}(/|$)"
TOO_LARGE = f"more than {MAX_BYTES / 1e6:.0f} MB were handed in"
TOO_MANY = f"more than {MAX_FILES:,} files were handed in"

# A file's path in the submission, and a function that returns the file's content. The function's
# argument is the maximum size in bytes (B). If the file is larger or can't be read, the function
# raises an exception.
File = tuple[str, Callable[[int], bytes]]


class Refused(Exception):
    """Raised for a file that must not be collected; the message says why."""


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that reads untrusted data.

    Raises:
        Refused: The function raised an exception. Malicious files cause exceptions of many kinds.
    """
    try:
        return function(*arguments)
    except (MemoryError, Refused):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"it can't be read ({error})"
        raise Refused(escape_unprintable(reason[:200])) from None


def store(folder: Path, assignment: str, files: Iterable[File], notes: list[str]) -> None:
    """Write a student's files, and write into left-out.txt why files were left out."""
    names: dict[str, str] = {}
    free = MAX_BYTES
    # Write notebooks first. Otherwise, the other files could reach the maximum number or size of
    # files before the notebooks are written.
    for name, read in sorted(files, key=lambda file: not is_notebook(file[0])):
        if len(names) == MAX_FILES:
            notes.append(f"all further files were left out: {TOO_MANY}")
            break
        # Some file systems don't distinguish upper and lower case, or different encodings of the
        # same letter. So two names that differ only in this way count as the same name.
        key = unicodedata.normalize("NFC", name).casefold()
        try:
            if problem := name_problem(name) or "another file has this name" * (key in names):
                raise Refused(problem)
            data = attempt(read, free)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            free -= len(data)
        except (Refused, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            notes.append(f"{quoted(name)} was left out: {getattr(error, 'strerror', error)}")
        names.setdefault(key, name)
    _name_notebook(folder, assignment, names.values())
    note(folder, notes)


def _name_notebook(folder: Path, assignment: str, names: Iterable[str]) -> None:
    """Rename the assignment's notebook to ASSIGNMENT.ipynb, if only one file can be this notebook.

    Browsers, Colab and students change the name, for example to "Copy of 03_lora.ipynb".
    `nbgrader autograde` finds only files whose names end in .ipynb.
    """
    name = re.escape(assignment)
    likely = rf"[^/]*{name}[^/]*\.ipynb|{name}{ENDING}"
    found = [each for each in names if re.fullmatch(likely, each, re.IGNORECASE)]
    target = folder / f"{assignment}.ipynb"
    if len(found) == 1 and (folder / found[0]).is_file() and not target.exists():
        (folder / found[0]).rename(target)


def note(folder: Path, lines: Iterable[str]) -> None:
    """Add lines to left-out.txt in a folder. The file may have at most `MAX_NOTES` lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LEFT_OUT
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    notes = list(dict.fromkeys([*old, *lines]))
    if len(notes) > MAX_NOTES:
        further = len(notes) - MAX_NOTES + 1
        notes[-further:] = [f"{further} further files were left out"]
    if notes:
        path.write_text("".join(f"{line}\n" for line in notes), encoding="utf-8")


def is_student(name: str) -> bool:
    """Return whether this text is allowed as a student's name."""
    return bool(re.fullmatch(STUDENT, name)) and not name_problem(name)


def name_problem(name: str) -> str:
    """Return why a file with this path must not be written; "" if the path is allowed."""
    parts = name.split("/")
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    categories = {unicodedata.category(character) for character in name}
    problems = {
        "its name contains control characters": not categories.isdisjoint(UNREADABLE),
        "its name contains a backslash": "\\" in name,
        "its path is not inside the student's folder": re.search(OUTSIDE, name),
        "its name is too long": max(sizes) > MAX_NAME_BYTES or sum(sizes) > MAX_PATH_BYTES,
        "its name is reserved": any(fnmatch(parts[-1].lower(), each) for each in RESERVED),
    }
    return first(problems)


def first(problems: Mapping[str, object]) -> str:
    """Return the first key whose value is true; "" if no value is true."""
    return next((problem for problem, exists in problems.items() if exists), "")
