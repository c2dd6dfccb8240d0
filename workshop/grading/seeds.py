"""Choose the seed on which the inputs of a submission's hidden tests depend.

Each attempt of each student has its own seed. So it doesn't help a student to know the inputs of an
earlier attempt or of another student. The seed is computed from the class's key, the student's name
and the files that were handed in. The key is a file of random bytes that no student can read.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from course_utils.machine.validation import CourseError
from workshop.grading import safe_files
from workshop.grading.records import Record
from workshop.grading.spec import Submission

# The file with the class's key in the folder grading/, and its size in bytes (B).
KEY, KEY_SIZE = "inputs.key", 32


def class_key(folder: Path) -> bytes:
    """Return the class's key, which the first call creates."""
    try:
        path = safe_files.make_folders(folder / "grading") / KEY
        if not path.exists():
            # Another run may create the key at the same time. An existing file is never replaced.
            with tempfile.NamedTemporaryFile(dir=path.parent) as file:
                file.write(secrets.token_bytes(KEY_SIZE))
                file.flush()
                with contextlib.suppress(FileExistsError):
                    os.link(file.name, path)
        key = safe_files.read_bytes(path, KEY_SIZE)
    except OSError as error:
        raise CourseError(f"grading/{KEY} can't be read or created: {error.strerror}") from error
    if len(key) < KEY_SIZE:
        raise CourseError(
            f"grading/{KEY} has {len(key)} B instead of {KEY_SIZE} B: delete it, and the next run "
            "creates a new one"
        )
    return key


def seed(key: bytes, assignment: str, submission: Submission, before: Record | None) -> int:
    """Return the seed for the inputs of a submission's hidden tests.

    If the same files were graded before, the seed is the seed in the record `before`. So the inputs
    stay the same even if the class's key was lost.
    """
    if before and before.attempt == submission.attempt:
        return before.seed
    text = "\n".join((assignment, submission.student, submission.attempt))
    digest = hmac.digest(key, text.encode("utf-8", "replace"), "sha256")
    return int.from_bytes(digest[:6], "big")
