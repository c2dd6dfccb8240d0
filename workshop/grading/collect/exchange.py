"""Collect submissions from nbgrader's exchange, to which students can write.

nbgrader_config.py names `SafeCollect` as nbgrader's plugin, so `nbgrader collect` and formgrader's
button *Collect* use it. In the exchange, each folder inbound/STUDENT+03_lora+TIME+RANDOM is one
submission. Only its regular files that belong to the same account as the folder are collected. No
link is followed. Whatever is left out is noted as a reason why the submission needs a person.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import os
import re
import secrets
import shutil
import stat
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import parse_utc

from workshop.grading import safe_files
from workshop.grading.collect.files import STUDENT, Collected, Refused
from workshop.grading.read import (
    LEFT_OUT,
    MAX_DEPTH,
    MAX_EXCHANGE,
    NOBODY,
    SECRET,
    TIMESTAMP,
    quoted,
)
from workshop.grading.spec import is_notebook

# A time zone: a name such as UTC or Europe/Rome, or an offset in seconds such as +3600.
ZONE = re.compile(r"[A-Za-z][\w+-]*(/[\w+-]+)*|[+-]?\d+", re.ASCII)
# The errors that a full disk causes; they concern all students.
FULL = (errno.ENOSPC, errno.EDQUOT)
# Three kinds of entries of the exchange, from best to worst: those of the student's account, those
# of another account, and those that can't be read.
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
        """Return an entry's student, file name, time and kind, and the reason for its kind."""
        name = os.path.basename(path)
        student, _, time, *_ = [*name.rsplit("+", 3), "", ""]
        record: dict[str, Any] = {"username": student, "filename": name, "why": ""}
        record |= {"timestamp": parse_time(time), "uid": None, "use": UNUSABLE}
        try:
            status = os.lstat(path)
        except OSError as error:
            return record | {"timestamp": datetime.min, "why": str(error.strerror)}
        kind = safe_files.KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        owner = _account(status.st_uid)
        if not re.fullmatch(STUDENT, student):
            record |= {"username": NOBODY, "why": "no student can have this name"}
        elif kind != "a folder":
            record["why"] = f"it is {kind}"
        elif record["timestamp"] is None:
            record["why"] = "its time can't be read"
        elif self.check_owner and owner != student:
            record |= {"use": FOREIGN, "why": f"the account {quoted(owner)} handed it in"}
        else:
            record["use"] = OWN
        return record | {"timestamp": record["timestamp"] or datetime.min, "uid": status.st_uid}

    def _sort_by_timestamp(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one student's entries of the best kind, the newest first.

        The kinds are `OWN`, `FOREIGN` and `UNUSABLE`. Entries of a worse kind are noted, because
        somebody may have made them in the student's name.
        """
        best = min(record["use"] for record in records)
        for record in records:
            if record["use"] > best or record["use"] == UNUSABLE:
                self._note(record, "was left out")
        return super()._sort_by_timestamp([r for r in records if r["use"] == best])

    def _note(self, record: dict[str, Any], what: str) -> None:
        shown = quoted("+".join(record["filename"].split("+")[:3]))
        self._notes[record["username"]].append(f"{shown} {what}: {record['why']}")

    def copy_files(self) -> None:
        """Copy the chosen entries into submitted/, and note what is left out."""
        for record in self.src_records:
            try:
                self._collect(record)
            except (Refused, OSError) as error:
                if getattr(error, "errno", None) in FULL:
                    raise
                self.log.error("%s can't be collected: %s", record["username"], error)

    def _collect(self, record: dict[str, Any]) -> None:
        """Copy an entry; only a newer one from the student's account may replace a submission."""
        course, student = self.coursedir, record["username"]
        names = (course.submitted_directory, student, course.assignment_id)
        folder = Path(course.format_path(*names))
        notes, is_newer = self._notes[student], self._is_newer(record, folder)
        is_collected = folder.is_dir() and os.listdir(folder) != [LEFT_OUT]
        if is_collected and not (is_newer and record["use"] == OWN):
            if is_newer and record["use"] == FOREIGN:
                self._note(record, "was left out")
            self.log.info("Already collected: %s", student)
            Collected(folder, dict.fromkeys([*_lines(folder / LEFT_OUT), *notes])).finish()
            return
        self.log.info("Collecting: %s", student)
        shutil.rmtree(folder, ignore_errors=True)
        if record["use"] == FOREIGN:
            self._note(record, "may be another student's")
        collected = Collected(folder, notes)
        if record["use"] != UNUSABLE:
            time = record["timestamp"].strftime("%Y-%m-%d %H:%M:%S.%f UTC")
            collected.write(TIMESTAMP, time.encode())
            self._copy(
                os.path.join(self.inbound_path, record["filename"]), record["uid"], collected
            )
        collected.finish()

    def _is_newer(self, record: dict[str, Any], folder: Path) -> bool:
        """Return whether nbgrader's rules let an entry replace what was collected before."""
        old, new = parse_time("".join(_lines(folder / TIMESTAMP))), record["timestamp"]
        is_update = self.update and (old is None or new > old)
        return is_update or (self.before_duedate and old != new)

    def _copy(self, source: str, owner: int, collected: Collected) -> None:
        """Copy those regular files of an entry that belong to the entry's account."""
        # nbgrader stops handing out feedback at the first submission without a secret.
        secret = secrets.token_hex(64).encode()
        ignored = re.compile("|".join(map(fnmatch.translate, self.coursedir.ignore)))

        def leave_out(error: OSError) -> None:
            if error.errno in FULL:
                raise error
            collected.leave_out(os.path.basename(str(error.filename)), str(error.strerror))

        try:
            # fwalk never follows a link, even if a folder is replaced by a link meanwhile.
            for folder, folders, names, descriptor in os.fwalk(source, onerror=leave_out):
                names += [n for n in folders if os.path.islink(os.path.join(folder, n))]
                folders[:] = [n for n in folders if not ignored.match(n)]
                if folder.count("/") - source.count("/") == MAX_DEPTH and folders:
                    deep = f"folders may be nested at most {MAX_DEPTH} levels deep"
                    collected.leave_out(folders[0], deep)
                    folders.clear()
                kept = [name for name in names if not ignored.match(name)]
                # Notebooks come first: too many other files must not push them out.
                for name in sorted(kept, key=lambda name: (not is_notebook(name), name)):
                    path = os.path.relpath(os.path.join(folder, name), source)
                    read = functools.partial(
                        safe_files.read_bytes, name, folder=descriptor, owner=owner
                    )
                    if path == SECRET:
                        with contextlib.suppress(OSError):
                            secret = read(MAX_EXCHANGE)
                    elif path != TIMESTAMP:
                        collected.add(path, read)
        except OSError as error:
            leave_out(error)
        collected.write(SECRET, secret)


def _account(number: int) -> str:
    """Return the name of the account with this user id."""
    # On Windows, the module pwd doesn't exist. nbgrader's exchange doesn't work there.
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
