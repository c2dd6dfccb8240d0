"""Collect submissions from nbgrader's exchange, a folder into which students can write.

nbgrader_config.py names `SafeCollect` as nbgrader's plugin, so `nbgrader collect` and formgrader's
button *Collect* use it. In the exchange, each folder inbound/STUDENT+03_lora+TIME+RANDOM is one
submission. The folder must belong to the student's account. Only regular files of the same account
are collected, and no link is followed. If a file is left out, the submission needs a person.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import secrets
import stat
from collections import defaultdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import parse_utc

from workshop.grading import read
from workshop.grading.collect.files import first, is_student, note, store
from workshop.grading.safe_files import KINDS, read_bytes

# A time zone: a name such as UTC or Europe/Rome, or an offset in seconds such as +3600.
ZONE = re.compile(r"[A-Za-z][\w+-]*(/[\w+-]+)*|[+-]?\d+", re.ASCII)


def parse_time(text: str) -> datetime | None:
    """Convert the time of a submission for nbgrader; return None if the text is not a valid time.

    A student may have written the text. If the time zone is a path, dateutil would open the file at
    this path. So a time zone must be a name or an offset.
    """
    date, _, zone = text.strip().rpartition(" ")
    if date.count(" ") == 1 and not ZONE.fullmatch(zone):
        return None
    try:
        return parse_utc(text.strip()) if text.strip() else None
    # dateutil raises more kinds of exceptions than its documentation lists.
    except Exception:
        return None


class SafeCollect(ExchangeCollect):
    """Collects the newest submission of each student from the exchange."""

    src_records: list[dict[str, Any]]

    def init_src(self) -> None:
        """Find the submissions in the exchange, and choose one submission of each student."""
        # The lines for left-out.txt, by student.
        self._notes: dict[str, list[str]] = defaultdict(list)
        super().init_src()

    def _path_to_record(self, path: str) -> dict[str, Any]:
        """Return the student and the time of a submission in the exchange.

        If the submission can't be collected, note the reason, and return the student "". So a bad
        submission never replaces a good submission of the same student.
        """
        name = os.path.basename(path)
        student, _, text, *_ = [*name.rsplit("+", 3), "", ""]
        time, status = parse_time(text), os.stat_result([0] * 10)
        # Reading the folder's status fails if the student has just deleted the folder.
        with contextlib.suppress(OSError):
            status = os.lstat(path)
        account, mode = _account(status.st_uid), stat.S_IFMT(status.st_mode)
        problem = first(
            {
                "no student can have this name": not is_student(student),
                f"it is {KINDS.get(mode, 'nothing')}, not a folder": mode != stat.S_IFDIR,
                "it can't be read": not os.access(path, os.R_OK | os.X_OK),
                "its time can't be read": not time,
                f"the account {account!r} handed it in": self.check_owner and account != student,
            }
        )
        student = student if is_student(student) else read.NOBODY
        if problem:
            self._notes[student].append(f"{read.quoted(name)} was left out: {problem}")
            student, time = "", datetime.min
        return {"username": student, "filename": name, "timestamp": time}

    def copy_files(self) -> None:
        """Copy the chosen submissions into submitted/, and write left-out.txt."""
        if not self.src_records:
            super().copy_files()
        for record in [record for record in self.src_records if record["username"]]:
            self.src_records = [record]
            try:
                super().copy_files()
            except OSError as error:
                line = f"{read.quoted(record['username'])} can't be collected: {error}"
                self._notes[read.NOBODY].append(line)
        for student, lines in self._notes.items():
            names = self.coursedir.submitted_directory, student, self.coursedir.assignment_id
            note(Path(self.coursedir.format_path(*names)), lines)

    def do_copy(self, src: str, dest: str, *_: Any) -> None:
        """Copy the files of a submission that belong to the same account as its folder."""
        source, folder, name = Path(src), Path(dest), self.coursedir.assignment_id
        owner = os.lstat(source).st_uid
        ignored = re.compile("|".join(map(fnmatch.translate, self.coursedir.ignore)))
        paths, notes = read.list_files(source, {f"{name}.ipynb", read.SECRET})
        paths = [path for path in paths if not any(map(ignored.match, path.split("/")))]
        reads = {path: partial(read_bytes, source / path, owner=owner) for path in paths}
        store(folder, name, [file for file in reads.items() if file[0] not in read.EXCHANGE], notes)
        # Without a secret in each submission, nbgrader can't hand out feedback to the class. So a
        # missing secret is replaced by a random one.
        secret = secrets.token_hex(64).encode()
        with contextlib.suppress(OSError):
            secret = read_bytes(source / read.SECRET, read.MAX_EXCHANGE, owner=owner)
        (folder / read.SECRET).write_bytes(secret)
        (folder / read.TIMESTAMP).write_text(f"{self.src_records[0]['timestamp']} UTC")


def _account(number: int) -> str:
    """Return the name of the account with this user id, or the id if there is no name."""
    # On Windows, the module pwd doesn't exist. nbgrader's exchange doesn't work there.
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
