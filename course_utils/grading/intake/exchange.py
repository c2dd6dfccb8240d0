"""Collect submissions from nbgrader's exchange, to which students can write.

nbgrader_config.py names `SafeCollect` as nbgrader's plugin, so `nbgrader collect` and formgrader's
button *Collect* use it. In the exchange, each folder inbound/STUDENT+03_lora+TIME+RANDOM is one
submission. Only its regular files that belong to the same account as the folder are collected. No
link is followed, and whatever is left out becomes a reason why the submission needs a person.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import os
import re
import secrets
import shutil
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import parse_utc

from course_utils.grading import safe_files
from course_utils.grading.intake.collected import STUDENT, Collected
from course_utils.grading.intake.submissions import (
    LEFT_OUT,
    MAX_DEPTH,
    MAX_EXCHANGE,
    NOBODY,
    SECRET,
    TIMESTAMP,
    quoted,
)

# A time zone: a name such as UTC or Europe/Rome, or an offset in seconds such as +3600.
ZONE = re.compile(r"[A-Za-z][\w+-]*(/[\w+-]+)*|[+-]?\d+", re.ASCII)
# How an entry of the exchange can be used, the best first.
OWN, FOREIGN, UNUSABLE = range(3)


def parse_time(text: str) -> datetime | None:
    """Return a submission's time as nbgrader expects it; None if the text isn't valid.

    A student may have written the text. dateutil accepts a path as the name of a time zone and
    would open the file at this path. For that reason only names and offsets are allowed.
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

    def init_src(self) -> None:
        """Find the entries of the exchange, and choose one for each student."""
        self._notes: dict[str, list[str]] = defaultdict(list)
        super().init_src()

    def _path_to_record(self, path: str) -> dict[str, Any]:
        """Return an entry's student, file name and time, how it can be used, and why not better."""
        name = os.path.basename(path)
        student, _, time, *_ = [*name.rsplit("+", 3), "", ""]
        timestamp, kind = parse_time(time), safe_files.kind(path)
        use, why = UNUSABLE, ""
        if not re.fullmatch(STUDENT, student):
            student, why = NOBODY, "no student can have this name"
        elif kind != "a folder":
            why = f"it is {kind}"
        elif timestamp is None:
            why = "its time can't be read"
        elif self.check_owner and (owner := _owner(path)) != student:
            use, why = FOREIGN, f"the account {quoted(owner)} handed it in"
        else:
            use = OWN
        timestamp = timestamp or datetime.min
        about = {"username": student, "filename": name, "timestamp": timestamp}
        return {**about, "use": use, "why": why}

    def _sort_by_timestamp(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the entries of a student that can be used best, the newest first.

        Other entries are noted: somebody may have made them in the student's name.
        """
        best = min(record["use"] for record in records)
        for record in records:
            if record["use"] in (FOREIGN, UNUSABLE):
                shown = quoted("+".join(record["filename"].split("+")[:3]))
                is_used = record["use"] == best == FOREIGN
                what = "may be another student's" if is_used else "was left out"
                self._notes[record["username"]].append(f"{shown} {what}: {record['why']}")
        return super()._sort_by_timestamp([r for r in records if r["use"] == best])

    def copy_files(self) -> None:
        """Copy the chosen entries into submitted/, and note what is left out."""
        course = self.coursedir
        for record in self.src_records:
            student, notes = record["username"], self._notes[record["username"]]
            names = (course.submitted_directory, student, course.assignment_id)
            folder = Path(course.format_path(*names))
            if folder.is_dir() and not self._is_newer(record, folder):
                self.log.info("Already collected: %s", student)
                notes = [*dict.fromkeys([*_lines(folder / LEFT_OUT), *notes])]
                Collected(folder, notes).finish()
                continue
            self.log.info("Collecting: %s", student)
            shutil.rmtree(folder, ignore_errors=True)
            collected = Collected(folder, notes)
            if record["use"] != UNUSABLE:
                time = record["timestamp"].strftime("%Y-%m-%d %H:%M:%S.%f UTC")
                collected.write(TIMESTAMP, time.encode())
                self._copy(os.path.join(self.inbound_path, record["filename"]), collected)
            collected.finish()

    def _is_newer(self, record: dict[str, Any], folder: Path) -> bool:
        """Return whether an entry replaces what was collected before, as nbgrader decides it."""
        old, new = parse_time("".join(_lines(folder / TIMESTAMP))), record["timestamp"]
        is_update = self.update and (old is None or new > old)
        return is_update or (self.before_duedate and old != new)

    def _copy(self, source: str, collected: Collected) -> None:
        """Copy the regular files of an entry that belong to the entry's account."""
        owner = os.lstat(source).st_uid
        # nbgrader stops handing out feedback at the first submission without a secret.
        secret = secrets.token_hex(64).encode()
        ignored = re.compile("|".join(map(fnmatch.translate, self.coursedir.ignore)))

        def leave_out(error: OSError) -> None:
            collected.leave_out(os.path.basename(error.filename), error.strerror)

        # fwalk never follows a link, even if a folder becomes a link meanwhile.
        for folder, folders, names, descriptor in os.fwalk(source, onerror=leave_out):
            names += [n for n in folders if os.path.islink(os.path.join(folder, n))]
            folders[:] = [n for n in folders if not ignored.match(n)]
            if folder.count("/") - source.count("/") == MAX_DEPTH and folders:
                collected.leave_out(folders[0], f"it is {MAX_DEPTH} folders deep")
                folders.clear()
            for name in sorted(name for name in names if not ignored.match(name)):
                path = os.path.relpath(os.path.join(folder, name), source)
                read = functools.partial(
                    safe_files.read_bytes, name, folder=descriptor, owner=owner
                )
                if path == SECRET:
                    with contextlib.suppress(OSError):
                        secret = read(MAX_EXCHANGE)
                elif path != TIMESTAMP:
                    collected.add(path, read)
        collected.write(SECRET, secret)


def _owner(path: str) -> str:
    """Return the name of the account that owns a folder."""
    try:
        return Path(path).owner()
    except KeyError:
        return "without a name"


def _lines(path: Path) -> list[str]:
    """Return the lines of a file that was collected; an empty list if there is no such file."""
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
