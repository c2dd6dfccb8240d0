"""Choose the seed on which the inputs of a submission's hidden tests depend.

Each attempt of each student has its own seed, so it is useless to know the inputs of another one.
The seed is computed from the class's key, which is a file of random bytes that no student can read,
from the student's name and from the files that were handed in. So `course grade` and nbgrader's own
autograding test a submission with the same inputs, however often it is graded.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import replace
from pathlib import Path

from course_utils.machine.files import write_atomically
from course_utils.machine.validation import CourseError
from workshop.grading import records, safe_files
from workshop.grading.spec import Submission

# The file with the class's key in the folder grading/, and its size in bytes (B).
KEY, KEY_SIZE = "inputs.key", 32


def class_key(folder: Path) -> bytes:
    """Return the class's key, which the first call creates."""
    try:
        path = safe_files.make_folders(folder / "grading") / KEY
        if not path.exists():
            write_atomically(path, secrets.token_bytes(KEY_SIZE), 0o600)
        key = safe_files.read_bytes(path, KEY_SIZE)
    except OSError as error:
        raise CourseError(f"grading/{KEY} can't be read or created: {error.strerror}") from error
    if len(key) < KEY_SIZE:
        raise CourseError(
            f"grading/{KEY} has {len(key)} B instead of {KEY_SIZE} B: delete it, and the next run "
            "creates a new one"
        )
    return key


def with_seed(submission: Submission, folder: Path, name: str) -> Submission:
    """Return the submission with the seed for the inputs of its hidden tests.

    If the same files were graded before, the seed comes from its record. So the inputs stay the
    same even if the class's key was lost.
    """
    before = records.read_one(folder / "grading" / name, submission.student)
    if before and before.attempt == submission.attempt:
        return replace(submission, seed=before.seed)
    text = "\n".join((name, submission.student, submission.attempt))
    digest = hmac.digest(class_key(folder), text.encode("utf-8", "replace"), "sha256")
    return replace(submission, seed=int.from_bytes(digest[:6], "big"))
