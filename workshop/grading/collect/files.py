"""Write one student's files into a folder, and note what was left out.

    collect.archives, from a learning management system  ─┐
                                                         ├─►  Collected  ─►  STUDENT/03_lora/…
    collect.exchange, from nbgrader's exchange           ─┘                   …/left-out.txt

A student decides the names, the contents and the number of the files. A file that can't be
collected is left out, with a line in left-out.txt, and all other files are collected. Each line is
a reason why the submission needs a person (`read`), so no problem is hidden in a log.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from workshop.grading import safe_files
from workshop.grading.read import (
    EXCHANGE,
    LEFT_OUT,
    MAX_FILES,
    MAX_NOTES,
    MAX_SIZE,
    quoted,
)
from workshop.grading.spec import MAX_NOTEBOOK

# Maximum size of everything that one student hands in, in bytes (B).
MAX_BYTES = MAX_NOTEBOOK + MAX_SIZE
# Maximum length of a file name and of a path, in bytes (B).
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1_000
# A pattern for the names of students. nbgrader uses the names in paths, and also as glob patterns.
STUDENT = r"\w[^/\\*?\[\]{}<>|:\"]*?"
# Files that nbgrader or the course writes itself, and settings, which Jupyter would execute.
RESERVED = (*EXCHANGE, LEFT_OUT, "nbgrader_config.*", "jupyter_config.*")
# Categories of Unicode: control characters, invisible characters and line separators.
UNREADABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")

# Maximum length of a library's message that is quoted, in characters.
MAX_REASON = 200

RESERVED_NAME = "its name is reserved"
TOO_LARGE = f"more than {MAX_BYTES / 1e6:.0f} MB were handed in"
TOO_MANY = f"more than {MAX_FILES:,} files were handed in"


class Refused(Exception):
    """Raised for a file that must not be collected; the message says why."""


class Collected:
    """The files that one student handed in.

    Args:
        folder: The folder into which the files are written.

    Attributes:
        left_out: Lines about what was left out.
        free: How many bytes (B) may still be written.
    """

    def __init__(self, folder: Path, left_out: Iterable[str] = ()):
        self.folder, self.left_out = folder, list(left_out)
        self.free = MAX_BYTES
        self._written: dict[str, bytes] = {}

    def add(self, name: str, read: Callable[[int], bytes], problem: str = "") -> None:
        """Write a file, or note why it is left out. An equal file may be added again.

        `read` returns the beginning of the file, at most the given number of bytes (B). `problem`
        is the reason why the file must be left out.
        """
        if is_junk(name):
            return
        reserved = any(fnmatch.fnmatch(name.casefold().split("/")[-1], each) for each in RESERVED)
        problem = problem or name_problem(name) or RESERVED_NAME * reserved
        if len(self._written) == MAX_FILES:
            problem = problem or TOO_MANY
        try:
            self.write(name, content(read, self.free, problem))
        except Refused as error:
            self.leave_out(name, str(error))

    def write(self, name: str, data: bytes) -> None:
        """Write a file whose name was checked.

        Raises:
            Refused: A different file, or a folder, has the same name.
        """
        # Some file systems don't distinguish upper and lower case, or different encodings of the
        # same letter.
        key = unicodedata.normalize("NFC", name).casefold()
        if self._written.setdefault(key, data) != data:
            raise Refused("only the newest file of this name is collected")
        target = self.folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise Refused("a file and a folder have the same name") from None
        self.free -= len(data)

    def leave_out(self, name: str, reason: str) -> None:
        """Note that a file is left out, and why."""
        self.left_out.append(f"{quoted(name)} was left out: {reason}")

    def finish(self) -> None:
        """Write left-out.txt if anything was left out, or if nothing was handed in."""
        if not self._written and not self.folder.is_dir():
            self.left_out = self.left_out or ["the submission is empty"]
        if self.left_out:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LEFT_OUT).write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """Return the content of left-out.txt, with at most `MAX_NOTES` lines."""
        lines, more = self.left_out[: MAX_NOTES - 1], self.left_out[MAX_NOTES - 1 :]
        last = more if len(more) < 2 else [f"{len(more)} further files were left out"]
        return "".join(f"{line}\n" for line in [*lines, *last])


def content(read: Callable[[int], bytes], limit: int, problem: str = "") -> bytes:
    """Return the content of an untrusted file, at most `limit` bytes (B).

    Raises:
        Refused: `problem` isn't empty, or the file is too large or can't be read.
    """
    if problem:
        raise Refused(problem)
    with untrusted():
        data = read(limit + 1)
    if len(data) > limit:
        raise Refused(TOO_LARGE)
    return data


@contextlib.contextmanager
def untrusted() -> Iterator[None]:
    """Replace any exception with Refused: crafted files cause many kinds of exceptions."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"it can't be read ({error})"
        raise Refused(safe_files.escape_unprintable(reason)[:MAX_REASON]) from None


def is_junk(name: str) -> bool:
    """Return whether a file was added by macOS, which writes such files into many archives."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store"


def name_problem(name: str) -> str:
    """Return why a path must not be written; "" if it may."""
    parts = name.split("/")
    if any(unicodedata.category(character) in UNREADABLE for character in name):
        return "its name contains control characters"
    if "\\" in name:
        return "its name contains a backslash"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "its name is an absolute path"
    if not {"", ".", ".."}.isdisjoint(parts):
        return "its path points outside the student's folder, or isn't a valid path"
    longest = max(len(part.encode()) for part in parts)
    if len(name.encode()) > MAX_PATH_BYTES or longest > MAX_NAME_BYTES:
        return "its name is too long"
    return ""
