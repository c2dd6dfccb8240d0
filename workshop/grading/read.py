"""Read the folder of a submission: the notebook, whatever its file name, and the other files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from course_utils.machine.validation import CourseError
from workshop.grading import safe_files
from workshop.grading.spec import MAX_NOTEBOOK, Files, Submission, is_notebook

# Maximum size of all files except the notebook together, in bytes (B).
MAX_SIZE = 50_000_000
# Maximum numbers: of files and folders that are read, of levels of nested folders, of lines in
# left-out.txt, and of file names in one sentence.
MAX_FILES, MAX_DEPTH, MAX_NOTES, MAX_NAMED = 1_000, 20, 20, 5
# Maximum length of a student's name in nbgrader's database, in characters.
MAX_NAME = 128
# The file with the time at which the submission was handed in.
TIMESTAMP = "timestamp.txt"
# The file with the secret that a student needs to find the feedback.
SECRET = "submission_secret.txt"
# Files of nbgrader's exchange, which are not copied into the sandbox.
EXCHANGE = (TIMESTAMP, SECRET)
# The file that lists what was not collected, and why. Each line is a reason why the submission
# needs a person.
LEFT_OUT = "left-out.txt"
# In submitted/, the folder with notes on files that belong to no student.
NOBODY = "(no student)"
# The endings of the names of files, other than notebooks, that may contain answers.
WRITTEN = (".py", ".txt", ".md", ".html", ".pdf", ".docx", ".odt", ".jpg", ".jpeg", ".png", ".heic")
# Matches what may follow the assignment's name in the name of its notebook. Browsers and learning
# management systems may add .txt or .json.
ENDING = r"(\.ipynb)?(\.txt|\.json)?"
# Matches the path of a hidden file, or of a file in a hidden folder such as .ipynb_checkpoints.
HIDDEN = re.compile(r"(^|/)\.")
# Maximum number of characters that are used of an exchange file and of an exception's message.
MAX_EXCHANGE, MAX_MESSAGE = 1_000, 300


def read(folder: Path, name: str) -> Submission:
    """Read submitted/STUDENT/NAME, the folder of one submission.

    Links are not followed, and only regular files are opened. If the folder can't be read, no error
    is raised, but the `problem` of the returned submission says why.
    """
    try:
        if problem := _name_problem(folder.parent.name):
            raise CourseError(problem)
        for path in (folder.parent, folder):
            if (kind := safe_files.kind(path)) != "a folder":
                shown = "/".join(path.parts[-2:])
                raise CourseError(f"{shown} is {kind}, not a folder that contains a notebook")
        return _read_folder(folder, name)
    except MemoryError:
        raise
    except Exception as error:
        reason = f"the submission can't be read: {describe(error, folder.parents[2])}"
        return Submission(folder.parent.name, None, problem=reason)


def _read_folder(folder: Path, name: str) -> Submission:
    """Read the notebook of a folder, whatever its file name, and the folder's other files."""
    student, expected, left = folder.parent.name, f"{name}.ipynb", MAX_SIZE
    paths, notes = list_files(folder, {expected, *EXCHANGE, LEFT_OUT})
    likely = _notebook([p for p in paths if safe_files.kind(folder / p) == "a file"], name)
    files: Files = {}
    for path in paths:
        try:
            max_size = MAX_NOTEBOOK if path == likely else left
            files[path] = safe_files.read_bytes(folder / path, max_size)
            left -= len(files[path]) if path != likely else 0
        except OSError as error:
            notes.append(f"{quoted(path)} was left out: {error.strerror}")
    notebook = files.pop(likely, None)
    known = {path: files.pop(path) for path in (*EXCHANGE, LEFT_OUT) if path in files}
    # If the notebook is in a subfolder, its code expects file names relative to this subfolder.
    around = os.path.join(os.path.dirname(likely), "")
    files |= {p.removeprefix(around): files.pop(p) for p in [*files] if p.startswith(around)}
    texts = {path: data[:MAX_EXCHANGE].decode("utf-8", "replace") for path, data in known.items()}
    doubts = tuple(texts.pop(LEFT_OUT, "").splitlines()[:MAX_NOTES])
    if notebook is None:
        found = ", ".join(map(quoted, sorted(files)[:MAX_NAMED])) or "nothing"
        problems = (f"there is no {expected}: {found} was handed in", *doubts, *notes[:MAX_NAMED])
        problem = "; ".join(doubts if student == NOBODY else problems)
        return Submission(student, None, exchange=texts, problem=problem)
    if likely != expected:
        notes.append(f"the notebook's file name was {quoted(likely)}")
    return Submission(student, notebook, files, texts, tuple(notes[-MAX_NOTES:]), doubts)


def list_files(folder: Path, first: set[str]) -> tuple[list[str], list[str]]:
    """Return the relative paths of the files in a folder, and one line for each omitted file."""
    paths: list[str] = []
    notes: list[str] = []
    folders = [""]
    # The loop appends the folders that it finds, and visits them later.
    for parent in folders:
        try:
            names = sorted(os.listdir(folder / parent), key=lambda name: (name not in first, name))
            for path in (os.path.join(parent, name) for name in names):
                kind = safe_files.kind(folder / path)
                if len(paths) + len(folders) > MAX_FILES:
                    return paths, [*notes, f"only {MAX_FILES:,} files and folders were read"]
                if kind != "a folder":
                    paths.append(path)
                elif path.count("/") < MAX_DEPTH:
                    folders.append(path)
                else:
                    notes.append(f"{quoted(path)} was left out: it is {MAX_DEPTH} folders deep")
        except OSError as error:
            if not parent:
                raise
            notes.append(f"{quoted(parent)} was left out: {error.strerror}")
    return paths, notes


def _notebook(paths: list[str], name: str) -> str:
    """Return the path of the assignment's notebook; "" if no file or several files fit.

    A file with exactly the expected name is chosen. Otherwise, files outside of subfolders are
    preferred, then files that end in .ipynb, and then files whose name contains the assignment's
    name.
    """
    named = re.compile(re.escape(name) + ENDING, re.I)
    likely = [p for p in paths if named.fullmatch(p) or (is_notebook(p) and not HIDDEN.search(p))]
    ranks = {p: ("/" in p, not is_notebook(p), not named.search(p)) for p in likely}
    best = [path for path in likely if ranks[path] == min(ranks.values())]
    best = [path for path in likely if path == f"{name}.ipynb"] or best
    return best[0] if len(best) == 1 else ""


def others(submission: Submission, known: Files) -> str:
    """Return the names of other files that may contain a student's answers; "" if none.

    Files of the release (`known`), hidden files and copies of the graded notebook don't count.
    """
    mine = {path for path, data in submission.files.items() if data != submission.notebook}
    visible = [path for path in sorted(mine - known.keys()) if not HIDDEN.search(path)]
    paths = [path for path in visible if is_notebook(path) or path.casefold().endswith(WRITTEN)]
    return ", ".join(map(quoted, paths[:MAX_NAMED]))


def quoted(name: str) -> str:
    """Return a file's name in quotes, without unprintable characters."""
    return repr(name.encode("utf-8", "replace").decode()[:100])


def _name_problem(student: str) -> str:
    """Return why the gradebook can't store a student's name; "" if it can."""
    if re.search(r"[\ud800-\udfff]", student):
        return "the name of the folder isn't valid UTF-8: rename the folder"
    return f"the name is longer than {MAX_NAME} characters" if len(student) > MAX_NAME else ""


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
