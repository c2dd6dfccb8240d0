"""Read the folder of a submission: the notebook, whatever its file name, and the other files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from course_utils.machine.validation import CourseError
from workshop.grading import safe_files
from workshop.grading.spec import MAX_NOTEBOOK, NOTEBOOK, Submission, is_notebook

# Maximum size of all files except the notebook together, in bytes (B).
MAX_SIZE = 50_000_000
# Maximum number of files that are read, of nested folders, and of notes.
MAX_FILES, MAX_DEPTH, MAX_NOTES = 1_000, 20, 20
# Maximum length of a student's name in nbgrader's database, in characters.
MAX_NAME = 128
# The file with the time at which the submission was handed in.
TIMESTAMP = "timestamp.txt"
# The file with the secret that a student needs to find the feedback.
SECRET = "submission_secret.txt"
# Files of nbgrader's exchange, which are not copied into the sandbox.
EXCHANGE = (TIMESTAMP, SECRET)
# The file in which the collection notes what it left out; each line is a reason why a person
# is needed.
LEFT_OUT = "left-out.txt"
# In submitted/, the folder with notes on files that belong to no student.
NOBODY = "(no student)"
# Maximum number of characters of an exchange file; further characters are dropped.
MAX_EXCHANGE = 1_000
# What a student can do if the notebook is too large.
CLEAR = "; clear all outputs, save the notebook, and hand it in again"
# Maximum length of an exception's message, in characters.
MAX_MESSAGE = 300
# Endings of a notebook's name that browsers and learning management systems may leave.
OTHER_ENDINGS = (".txt", ".json", "")


def read(folder: Path, name: str) -> Submission:
    """Read submitted/STUDENT/NAME, the folder of one submission.

    Links are not followed, and only regular files are opened. No content of the folder raises an
    error. Instead, the `problem` of the returned submission says why the folder can't be read.
    """
    student = folder.parent.name
    try:
        problem = _name_problem(student) or _folder_problem(folder)
        return Submission(student, None, problem=problem) if problem else _read_folder(folder, name)
    except MemoryError:
        raise
    except Exception as error:
        reason = describe(error, folder.parent.parent.parent)
        return Submission(student, None, problem=f"the submission can't be read: {reason}")


def _folder_problem(folder: Path) -> str:
    """Return why a submission can't be read; "" if its folder can be searched for a notebook.

    Neither the submission's folder nor the student's folder may be a link.
    """
    for path in (folder.parent, folder):
        kind = safe_files.kind(path)
        if kind == "a link":
            return "the folder is a link, and links are not followed"
        if kind != "a folder":
            shown = safe_files.escape_unprintable("/".join(path.parts[-2:]))
            return f"{shown} is {kind}, not a folder that contains a notebook"
    return ""


def _read_folder(folder: Path, name: str) -> Submission:
    """Read the notebook of a folder, whatever its file name, and the folder's other files."""
    student, expected = folder.parent.name, f"{name}.ipynb"
    paths, notes = list_files(folder, {expected, *EXCHANGE, LEFT_OUT})
    likely = _notebook(folder, paths, name)
    files: dict[str, bytes] = {}
    free = MAX_SIZE
    for path in paths:
        max_size = MAX_NOTEBOOK if path == likely else free
        try:
            files[path] = safe_files.read_bytes(folder / path, max_size)
        except OSError as error:
            remedy = CLEAR if path == likely and error.errno == errno.EFBIG else ""
            notes.append(f"{quoted(path)} was left out: {error.strerror}{remedy}")
        else:
            free -= 0 if path == likely else len(files[path])
    notebook = files.pop(likely, None)
    exchange = {
        n: files.pop(n)[:MAX_EXCHANGE].decode("utf-8", "replace") for n in EXCHANGE if n in files
    }
    doubts = files.pop(LEFT_OUT, b"").decode("utf-8", "replace").splitlines()[:MAX_NOTES]
    if notebook is None:
        others = ", ".join(map(repr, sorted(files)[:5])) or "nothing"
        problems = [f"there is no {expected}: {others} was handed in", *doubts, *notes[:3]]
        problem = "; ".join(doubts if student == NOBODY else problems)
        return Submission(student, None, exchange=exchange, problem=problem)
    if likely != expected:
        notes.append(f"the notebook's file name was {likely!r}")
    kept = tuple(notes[:MAX_NOTES])
    return Submission(student, notebook, files, exchange, kept, tuple(doubts), path=likely)


def list_files(folder: Path, first: set[str]) -> tuple[list[str], list[str]]:
    """Return the relative paths of all files in a folder, and notes on files that were left out."""
    paths: list[str] = []
    notes: list[str] = []
    entries, folders = 0, [("", 0)]
    while folders and entries < MAX_FILES:
        parent, depth = folders.pop()
        try:
            names = sorted(os.listdir(folder / parent), key=lambda name: (name not in first, name))
        except OSError as error:
            if not parent:
                raise
            notes.append(f"{quoted(parent)} was left out: {error.strerror}")
            continue
        if len(names) > MAX_FILES:
            notes.append(f"only the first {MAX_FILES:,} of {len(names):,} files were read")
        for name in names[:MAX_FILES]:
            entries += 1
            path = os.path.join(parent, name)
            if not os.path.isdir(folder / path) or os.path.islink(folder / path):
                paths.append(path)
            elif path in first:
                notes.append(f"{quoted(path)} was left out: it is a folder")
            elif depth < MAX_DEPTH:
                folders.append((path, depth + 1))
            else:
                notes.append(f"{quoted(path)} was left out: it is {depth} folders deep")
    if folders:
        notes.append(f"further folders were left out: there are more than {MAX_FILES:,} files")
    return paths, notes


def _notebook(folder: Path, paths: list[str], name: str) -> str:
    """Return the path of the assignment's notebook; "" if no notebook or several fit.

    The file with exactly the expected name is chosen. Otherwise these kinds of files are tried in
    turn: a notebook whose name contains the assignment's name, any notebook, a file with the
    assignment's name and another ending, and a notebook in a subfolder. The first kind that exists
    decides: if exactly one file is of this kind, it is chosen. Upper and lower case are not
    distinguished.
    """
    names = (name.casefold(), f"{name}{NOTEBOOK}".casefold())
    unlikely = {f"{each}{ending}" for each in names for ending in OTHER_ENDINGS}
    likely = [
        path
        for path in paths
        if is_notebook(path) or path.casefold() in unlikely
        if "/" not in path or not any(part.startswith(".") for part in path.split("/"))
        if safe_files.kind(folder / path) == "a file"
    ]
    if f"{name}{NOTEBOOK}" in likely:
        return f"{name}{NOTEBOOK}"
    likely = [path for path in likely if "/" not in path] or likely
    notebooks = [path for path in likely if is_notebook(path)]
    named = [path for path in notebooks if names[0] in path.casefold()]
    fitting = named or notebooks or likely
    return fitting[0] if len(fitting) == 1 else ""


def quoted(name: str) -> str:
    """Return a file's name in quotes, without unprintable characters."""
    return repr(name.encode("utf-8", "replace").decode()[:100])


def _name_problem(student: str) -> str:
    """Return why the gradebook can't store a student's name; "" if it can."""
    try:
        student.encode()
    except UnicodeEncodeError:
        return "the name of the folder isn't valid UTF-8: rename the folder"
    if len(student) > MAX_NAME:
        return f"the name is longer than {MAX_NAME} characters: rename the folder"
    return ""


def in_gradebook(submitted: Path, student: str) -> bool:
    """Return whether the gradebook should contain a student.

    The gradebook should contain every student who has a folder and whose name the gradebook can
    store. For a file in place of a folder, and for the folder `NOBODY`, only a record is written,
    which reports what was found. The name is not added to the gradebook, because nbgrader would
    treat it as a student forever.
    """
    is_student = student != NOBODY and not _name_problem(student)
    return is_student and os.path.isdir(submitted / student)


def describe(error: BaseException, folder: Path) -> str:
    """Return an exception's message as one line, with paths relative to the course's `folder`."""
    if isinstance(error, OSError) and error.strerror:
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        path = safe_files.escape_unprintable(path.removeprefix(f"{folder}{os.sep}"))
        return f"{path}: {error.strerror}" if path else error.strerror
    line = safe_files.escape_unprintable(str(error).strip().partition("\n")[0][:MAX_MESSAGE])
    return line if line and isinstance(error, CourseError) else f"{type(error).__name__}: {line}"
