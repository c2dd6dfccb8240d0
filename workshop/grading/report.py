"""Write the report about a class, which is an HTML page for the instructor.

Every text of a record may come from a student. Therefore control characters are removed, long texts
are shortened, and the template report.html.j2 escapes every value. Missing points stay missing;
they are never replaced by 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from course_utils.machine.files import write_atomically
from course_utils.machine.units import format_bytes
from workshop.grading.assignments import Assignment, Task, points
from workshop.grading.lms import number_text, total
from workshop.grading.pages import MAX_LINE, one_line, page_template, plain
from workshop.grading.records import PERSON, STATES, UNGRADABLE, Record
from workshop.grading.safe_files import escape_unprintable

# Maximum number of reasons that are shown for one student.
MAX_REASONS = 5
# Maximum length of one value on the page, in characters.
MAX_VALUE = (MAX_REASONS + 1) * (MAX_LINE + 4)
# Maximum number of groups that are shown for a cell's messages, for repairs and for incidents.
MAX_GROUPS = 8
# Maximum number of bars in the histogram of points.
MAX_BARS = 31

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[_,]\d+)*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")

# Each text with the records that contain it. The text with the most records is first.
Groups = list[tuple[str, list[Record]]]


def changes(previous: Iterable[Record], records: Iterable[Record]) -> dict[str, list[str]]:
    """Return each student's changes between two gradings, such as "state: graded → ungradable".

    An ungradable submission counts as one without points, even if the gradebook has earlier points.
    """
    earlier = {record.student: record for record in previous}
    differences: dict[str, list[str]] = {}
    for now in sorted(records, key=_sort_key):
        if before := earlier.get(now.student):
            old, new = (
                {"state": r.state, **({} if r.problem else r.points)} for r in (before, now)
            )
            lines = [
                f"{what}: {_value(old.get(what))} → {_value(new.get(what))}"
                for what in old | new
                if old.get(what) != new.get(what)
            ]
            differences |= {now.student: lines} if lines else {}
    return differences


def _value(value: float | str | None) -> str:
    return value if isinstance(value, str) else number_text(value) or "none"


def _sort_key(record: Record) -> tuple[str, str]:
    """Return a sort key that sorts students naturally: b after A, student10 after student9."""
    padded = re.sub(r"\d+", lambda digits: digits[0].zfill(20), record.student.casefold())
    return padded, record.student


def write_report(
    path: Path, assignment: Assignment, records: Iterable[Record], previous: Iterable[Record] = ()
) -> None:
    """Write the class report. It contains students' names, so it is only for the instructor."""
    records, previous = _prepared(records), _prepared(previous)
    alike, compared = path.parent / "compare" / "index.html", ""
    if alike.exists():
        compared = f"{datetime.fromtimestamp(alike.stat().st_mtime):%d %B %Y, %H:%M}"
    content = _content(assignment, records, previous, compared)
    page = page_template("report.html.j2", MAX_VALUE).render(content)
    write_atomically(path, page.encode(), alone=True)


def _prepared(records: Iterable[Record]) -> list[Record]:
    r"""Return the records sorted by student, with names that can be printed.

    Unprintable characters in students' names are replaced by escape sequences, such as `\x1b`. In
    other texts, these characters are removed. If they were removed from names, two different names
    could look the same.
    """
    ordered = sorted(records, key=_sort_key)
    return [replace(record, student=escape_unprintable(record.student)) for record in ordered]


def _content(
    assignment: Assignment, records: list[Record], previous: list[Record], compared: str
) -> dict[str, Any]:
    """Return all values that the page shows, by their names in the template."""
    counts = Counter(record.state for record in records)
    gradable = [record for record in records if record.state != UNGRADABLE]
    waiting = _groups((cell, record) for record in gradable for cell in record.waiting)
    changed = changes(previous, records).items()
    return {
        "assignment": assignment,
        "max_groups": MAX_GROUPS,
        "records": records,
        "states": {state: counts[state] for state in STATES},
        "gradable": len(gradable),
        "titles": {cell["id"]: _title(task) for task in assignment.tasks for cell in task.graded},
        "ungradable": [(r.student, one_line(r.problem)) for r in records if r.problem],
        "doubts": [(r.student, _reasons(r.doubts)) for r in gradable if r.doubts],
        "waiting": waiting,
        "changed": [(student, "; ".join(lines)) for student, lines in changed],
        "points": _histogram(assignment, gradable),
        "tasks": [_task_row(task, gradable) for task in assignment.tasks if gradable],
        "failing": _failing(assignment, gradable),
        "notes": {
            "Repairs before grading": _notes((record, record.repairs) for record in records),
            "Incidents during grading": _notes((record, record.incidents) for record in records),
        },
        "costs": _costs(records) if records else "",
        "compared": compared,
    }


def _title(task: Task) -> str:
    return f"{task.number} {task.title}{' (bonus)' * task.bonus}"


def _reasons(reasons: Sequence[str]) -> str:
    lines = [one_line(reason) for reason in reasons[:MAX_REASONS]]
    more = len(reasons) - MAX_REASONS
    return "; ".join(lines + [f"and {more} more"] * (more > 0))


def _task_row(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    """Return the class's results in a task: title, median, and shares of students by points."""
    points = [total(record, [task]) for record in records]
    known = [value for value in points if value is not None]
    counts = {"full": 0, "some": 0, "none": 0, "missing": len(points) - len(known)}
    for value in known:
        counts["full" if value >= task.points else "some" if value > 0 else "none"] += 1
    shares = {look: _share(number, len(points)) for look, number in counts.items()}
    return {
        "title": _title(task),
        "median": f"{number_text(median(known)) if known else '–'} of {task.points}",
        "shares": shares,
        "widths": {look: 100 * number / len(points) for look, number in counts.items()},
        "alt": f"Students by points: {', '.join(map(' '.join, shares.items()))}",
    }


def _share(part: int, whole: int) -> str:
    """Return a share in percent: "0%" only if `part` is 0, and "100%" only if it is `whole`."""
    percent = f"{part / whole:.0%}"
    if percent == "0%" and part:
        return "<1%"
    return ">99%" if percent == "100%" and part < whole else percent


def _histogram(assignment: Assignment, records: Sequence[Record]) -> dict[str, Any]:
    """Return a histogram of the students' points.

    Each bar has a label, the number of students whose points are final, and the number of students
    who may still get more points.
    """
    cells = [cell["id"] for task in assignment.tasks if not task.bonus for cell in task.graded]
    step = math.ceil((assignment.points + 1) / MAX_BARS)
    bars = [[0, 0] for _ in range(assignment.points // step + 1)]
    for record in records:
        points = [value for cell in cells if (value := record.points.get(cell)) is not None]
        if points:
            place = min(max(int(sum(points) // step), 0), len(bars) - 1)
            bars[place][record.state == PERSON] += 1
    labels = [f"{number * step}" for number in range(len(bars))]
    listed = [f"{sum(bar)} at {label}" for label, bar in zip(labels, bars, strict=True) if any(bar)]
    axis = "points" if step == 1 else f"points, in steps of {step}"
    waiting = sum(bar[1] for bar in bars)
    return {
        "bars": [(label, *bar) for label, bar in zip(labels, bars, strict=True)],
        "most": max(map(sum, bars)),
        "axis": axis,
        "alt": f"Students by {axis}: {', '.join(listed)}. {waiting} of them wait for points.",
        "left_out": len(records) - sum(map(sum, bars)),
    }


# --- what submissions have in common --------------------------------------------------------------


def _groups(pairs: Iterable[tuple[str, Record]]) -> Groups:
    """Return the records grouped by the text that they share, the largest group first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for shared, record in pairs:
        groups[shared].append(record)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def _failing(assignment: Assignment, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the cells for which students lost points, with the students grouped by mistake."""
    cells = []
    for task in assignment.tasks:
        for cell in () if task.by_hand else task.graded:
            name, maximum = cell["id"], points(cell)
            lost = [
                r for r in records if (value := r.points.get(name)) is not None and value < maximum
            ]
            groups = _groups((_mistake(record.messages.get(name, "")), record) for record in lost)
            cells += [
                {"id": name, "task": _title(task), "lost": len(lost), "groups": groups}
            ] * bool(lost)
    return cells


def _mistake(message: str) -> str:
    """Return a text that all messages about the same mistake share.

    The text is the likely reason if the message has one, otherwise the exception, otherwise the
    call. Numbers in the exception and in the call are removed, because they differ between answers.
    """
    text = plain(message)
    likely, raised = (
        re.findall(rf"^ {{1,4}}{label} +(.+(?:\n {{12}}.+)*)", text, re.M)
        for label in ("likely", "raised")
    )
    if likely:
        return one_line(likely[-1])
    call = re.sub(r"\ANot right yet[^:\n]*: ", "", text.strip()).partition("\n")[0]
    return _without_numbers(raised[0] if raised else call) or "no message"


def _without_numbers(text: str) -> str:
    """Return a text as one line, with "…" in place of each number."""
    return NUMBER.sub("…", one_line(text))


def _notes(notes: Iterable[tuple[Record, Sequence[str]]]) -> Groups:
    """Group submissions by their lines; lines that differ only in numbers form one group."""
    return _groups(
        (line, record)
        for record, lines in notes
        for line in sorted({*map(_without_numbers, lines)})
    )


def _costs(records: Sequence[Record]) -> str:
    seconds, memory = [r.seconds for r in records], [r.memory for r in records]
    slowest = max(records, key=lambda record: record.seconds)
    return (
        f"Grading needed {_time(sum(seconds))} in total, {_time(median(seconds))} per submission "
        f"(median), and at most {_time(slowest.seconds)} ({slowest.student}) and "
        f"{format_bytes(max(memory), digits=0)}."
    )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{seconds:.1f} s"
