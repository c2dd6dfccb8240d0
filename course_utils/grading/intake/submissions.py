"""Read a submission: the notebook, whatever its file name, and the other files in the folder."""

from __future__ import annotations

import os
from pathlib import Path

from course_utils.grading import safe_files
from course_utils.grading.spec import MAX_NOTEBOOK, Submission
from course_utils.validation import CourseError

# Maximum size of all files except the notebook together, in bytes (B).
SIZE = 50_000_000
# Maximum number of files that are read, of nested folders, and of notes.
ENTRIES, DEPTH, NOTES = 1_000, 20, 20
# Maximum length of a student's name in nbgrader's database, in characters.
STUDENT = 128
# The file with the time at which the submission was handed in.
TIME = "timestamp.txt"
# Files of nbgrader's exchange, which are not copied into the sandbox.
EXCHANGE = (TIME, "submission_secret.txt")
# Maximum size of a file of the exchange, in bytes (B).
SMALL = 1_000
# Maximum length of an exception's message, in characters.
LINE = 300


def read(folder: Path, name: str) -> Submission:
    """Read submitted/STUDENT/NAME, the folder of one submission.

    Links are not followed, and only regular files are opened. No content of the folder raises an
    error. Instead, the `problem` of the returned submission says why the folder can't be read.

    Args:
        folder: The submission's folder.
        name: The assignment's name.
    """
    student = folder.parent.name
    try:
        fault = name_fault(student) or _place_fault(folder)
        return Submission(student, None, problem=fault) if fault else _read_folder(folder, name)
    except MemoryError:
        raise
    except Exception as fault:
        why = words(fault, folder.parent.parent.parent)
        return Submission(student, None, problem=f"the submission can't be read: {why}")


def _place_fault(folder: Path) -> str:
    """Return why a submission can't be read; "" if its folder can be searched for a notebook.

    Neither the submission's folder nor the student's folder may be a link.
    """
    for place in (folder.parent, folder):
        what = safe_files.kind(place)
        if what == "a link":
            return "the folder is a link, which is not followed"
        if what != "a folder":
            where = safe_files.escape_unprintable("/".join(place.parts[-2:]))
            return f"{where} is {what}, not a folder that holds a notebook"
    return ""


def _read_folder(folder: Path, name: str) -> Submission:
    """Read the notebook of a folder, whatever its file name, and the folder's other files."""
    student, wanted = folder.parent.name, f"{name}.ipynb"
    paths, notes = _listed(folder, {wanted, *EXCHANGE})
    likely = _notebook(folder, paths, name)
    found: dict[str, bytes] = {}
    room = SIZE
    for path in paths:
        try:
            found[path] = safe_files.read_bytes(
                folder / path, MAX_NOTEBOOK if path == likely else room
            )
            room -= 0 if path == likely else len(found[path])
        except OSError as fault:
            notes.append(f"{_readable(path)} was left out: {fault.strerror}")
    notebook = found.pop(likely, None)
    if notebook is None:
        given = ", ".join(map(repr, sorted(found)[:5])) or "nothing"
        fault = "; ".join([f"there is no {wanted}: {given} was handed in", *notes[:3]])
        return Submission(student, None, problem=fault)
    if likely != wanted:
        notes.append(f"the notebook was called {likely!r}")
    exchange = {n: found.pop(n)[:SMALL].decode("utf-8", "replace") for n in EXCHANGE if n in found}
    return Submission(student, notebook, found, exchange, tuple(notes[:NOTES]))


def _listed(folder: Path, first: set[str]) -> tuple[list[str], list[str]]:
    """Return the relative paths of all files in a folder, and notes on files that were left out.

    Args:
        folder: The folder.
        first: Names that are listed first, so that they aren't left out of a folder with too many
            files.
    """
    paths: list[str] = []
    notes: list[str] = []
    entries, folders = 0, [("", 0)]
    while folders and entries < ENTRIES:
        place, depth = folders.pop()
        try:
            names = sorted(os.listdir(folder / place), key=lambda name: (name not in first, name))
        except OSError as fault:
            if not place:
                raise
            notes.append(f"{_readable(place)} was left out: {fault.strerror}")
            continue
        if len(names) > ENTRIES:
            notes.append(f"of {len(names):,} files, only the first {ENTRIES:,} were looked at")
        for name in names[:ENTRIES]:
            entries += 1
            path = os.path.join(place, name)
            if not os.path.isdir(folder / path) or os.path.islink(folder / path):
                paths.append(path)
            elif path in first:
                notes.append(f"{_readable(path)} was left out: it is a folder")
            elif depth < DEPTH:
                folders.append((path, depth + 1))
            else:
                notes.append(f"{_readable(path)} was left out: it is {depth} folders deep")
    if folders:
        notes.append(f"further folders were left out: there are more than {ENTRIES:,} files")
    return paths, notes


def _notebook(folder: Path, paths: list[str], name: str) -> str:
    """Return the path of the assignment's notebook; "" if no notebook or several fit.

    If no file has exactly the expected name, the only notebook whose name contains the assignment's
    name is chosen. If no name contains the assignment's name, the only notebook is chosen.
    """
    notebooks = [path for path in paths if path.endswith(".ipynb") and "/" not in path]
    files = [path for path in notebooks if safe_files.kind(folder / path) == "a file"]
    if f"{name}.ipynb" in files:
        return f"{name}.ipynb"
    likely = [path for path in files if name in path] or files
    return likely[0] if len(likely) == 1 else ""


def _readable(name: str) -> str:
    return repr(name.encode("utf-8", "replace").decode()[:100])


def name_fault(student: str) -> str:
    """Return why the gradebook can't store a student's name; "" if it can."""
    try:
        student.encode()
    except UnicodeEncodeError:
        return "the name of the folder isn't UTF-8: rename it"
    return f"the name is longer than {STUDENT} characters" if len(student) > STUDENT else ""


def in_gradebook(submitted: Path, student: str) -> bool:
    """Return whether the gradebook should contain a student.

    The gradebook should contain every student who has a folder and whose name it can store. A stray
    file in place of a student's folder gets a record, so that no submission is overlooked. The file
    isn't added to the gradebook, because nbgrader would keep it as a student forever.

    Args:
        submitted: The folder of all students.
        student: A name in this folder.
    """
    return not name_fault(student) and os.path.isdir(submitted / student)


def words(fault: BaseException, folder: Path) -> str:
    """Return an exception's message as one line, with paths relative to the course's `folder`."""
    if isinstance(fault, OSError) and fault.strerror:
        where = os.fsdecode(fault.filename) if isinstance(fault.filename, str | bytes) else ""
        where = safe_files.escape_unprintable(where.removeprefix(f"{folder}{os.sep}"))
        return f"{where}: {fault.strerror}" if where else fault.strerror
    line = safe_files.escape_unprintable(str(fault).strip().partition("\n")[0][:LINE])
    return line if line and isinstance(fault, CourseError) else f"{type(fault).__name__}: {line}"
