"""Report on a class: an HTML page, a table for a learning management system (LMS), and changes.

Every text of a record may come from a student. Therefore control characters are removed, long texts
are shortened, and the template report.html.j2 escapes every value. Missing points stay missing;
they are never replaced by 0.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from course_utils.machine.files import write_atomically
from course_utils.machine.units import MB, format_bytes
from workshop.grading import assignments
from workshop.grading.answers import numbered
from workshop.grading.assignments import Assignment, Task
from workshop.grading.pages import MAX_LINE, one_line, page_template, plain
from workshop.grading.records import (
    PERSON,
    STATES,
    UNGRADABLE,
    Points,
    Record,
)
from workshop.grading.safe_files import escape_unprintable

if TYPE_CHECKING:
    from workshop.grading.copies import Comparison, Pair

# Maximum number of reasons that are shown for one student.
MAX_REASONS = 5
# Maximum length of one value on the page or in the table, in characters.
MAX_VALUE = (MAX_REASONS + 1) * (MAX_LINE + 4)
# Maximum number of groups that are shown for a cell's messages, for repairs and for incidents.
MAX_GROUPS = 8
# Number of slowest submissions that are shown.
SLOWEST = 5
# Maximum number of bars in the histogram of points.
MAX_BARS = 31
# Maximum number of pairs with answers that are alike.
MAX_PAIRS = 20
# Smallest value in the histograms of seconds and MB.
MIN_VALUE = 1e-6

# Groups of records by a text that they share, the largest group first.
Groups = list[tuple[str, list[Record]]]


# --- points ---------------------------------------------------------------------------------------


def merged(records: Iterable[Record], scores: Mapping[str, Points]) -> list[Record]:
    """Return the records with the gradebook's current points, including points given by hand."""
    return [record.with_points(scores.get(record.student, {})) for record in records]


@dataclass(frozen=True)
class Change:
    """A difference in a submission's points or state between two gradings.

    Attributes:
        what: the id of a graded cell, or "state".
        before: the earlier points or state; None if they are unknown.
        after: the points or state now; None if they are unknown.
    """

    student: str
    what: str
    before: float | str | None
    after: float | str | None


def changes(previous: Iterable[Record], records: Iterable[Record]) -> list[Change]:
    """Return the differences in points and states between two gradings, sorted by student."""
    earlier = {record.student: record for record in previous}
    differences = []
    for now in sorted(records, key=_sort_key):
        if (before := earlier.get(now.student)) is None:
            continue
        old, new = _points(before), _points(now)
        pairs: list[tuple[str, float | str | None, float | str | None]]
        pairs = [("state", before.state, now.state)]
        pairs += [(cell, old.get(cell), new.get(cell)) for cell in dict.fromkeys([*old, *new])]
        differences += [Change(now.student, *pair) for pair in pairs if pair[1] != pair[2]]
    return differences


def _sort_key(record: Record) -> tuple[str, str]:
    """Return a sort key that sorts students naturally: b after A, student10 after student9."""
    padded = re.sub(r"\d+", lambda digits: digits[0].zfill(20), record.student.casefold())
    return padded, record.student


def _points(record: Record) -> Points:
    return {} if record.state == UNGRADABLE else record.points


def _max_points(task: Task) -> dict[str, float]:
    return {cell["id"]: assignments.points(cell) for cell in task.graded}


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum of the values; None if any value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _task_points(record: Record, task: Task) -> float | None:
    """Return a submission's points for a task; None if the points of any cell are missing."""
    return _total([_points(record).get(cell) for cell in _max_points(task)])


def total(record: Record, assignment: Assignment, *, bonus: bool = False) -> float | None:
    """Return a submission's points, or its bonus points; None if points are missing."""
    return _total([_task_points(record, t) for t in assignment.tasks if t.bonus is bonus])


def _points_so_far(record: Record, assignment: Assignment) -> float | None:
    """Return the sum of all known points without bonus points; None if no points are known."""
    tasks = [task for task in assignment.tasks if not task.bonus]
    cells = [cell for task in tasks for cell in _max_points(task)]
    known = [value for cell in cells if (value := _points(record).get(cell)) is not None]
    return sum(known) if known else None


def _prepared(assignment: Assignment, records: Iterable[Record]) -> list[Record]:
    r"""Return the records sorted by student, with names that can be printed.

    Unprintable characters in students' names are replaced by escape sequences, such as `\x1b`. In
    other texts, these characters are removed. In names they are escaped, because two names without
    these characters could look the same.
    """
    records = sorted(records, key=_sort_key)
    if others := {record.assignment for record in records} - {assignment.name}:
        raise ValueError(
            f"the report of {assignment.name} must not contain a record of {min(others)}"
        )
    return [replace(record, student=escape_unprintable(record.student)) for record in records]


# --- reasons and numbers in texts -----------------------------------------------------------------

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[_,]\d+)*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")


def _reasons(reasons: Sequence[str]) -> str:
    lines = [one_line(reason) for reason in reasons[:MAX_REASONS]]
    more = len(reasons) - MAX_REASONS
    return "; ".join(lines + [f"and {more} more"] * (more > 0)) or "no reason is recorded"


def _without_numbers(text: str) -> str:
    """Return a text as one line, with "…" in place of each number."""
    return NUMBER.sub("…", one_line(text))


# --- the table ------------------------------------------------------------------------------------

# The positions at which a spreadsheet would find a formula: at the start of a cell, or after a
# semicolon, because semicolons separate cells in countries whose decimal separator is the comma.
# Spaces and tabs may precede the formula.
FORMULA = re.compile(r"((?:^|;)\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")


def write_csv(path: Path, assignment: Assignment, records: Iterable[Record]) -> None:
    """Write a row for each student, with state, reasons, points, and a column for each task.

    If any points of a task are missing, the task's points and their sum are empty, because an LMS
    would treat a partial sum as the final result. Bonus points have a sum of their own. The file is
    UTF-8 with a byte order mark, which Excel needs to read UTF-8 correctly. Lines end with CRLF, as
    RFC 4180 demands. If a spreadsheet would interpret a text as a formula, the text is preceded by
    an apostrophe.
    """
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    header = ["student", "state", "reasons", "points", "max points"]
    header += ["bonus points"] if assignment.bonus_points else []
    rows.writerow([*header, *(task.id for task in assignment.tasks)])
    for record in _prepared(assignment, records):
        points = [_task_points(record, task) for task in assignment.tasks]
        texts = [record.student, record.state, _reasons(record.reasons) if record.reasons else ""]
        numbers = [total(record, assignment), assignment.points]
        numbers += [total(record, assignment, bonus=True)] if assignment.bonus_points else []
        rows.writerow([*map(_cell, texts), *map(number_text, [*numbers, *points])])
    write_atomically(path, table.getvalue().encode("utf-8-sig"), alone=True)


def _cell(text: str) -> str:
    return safe_cell(one_line(text, MAX_VALUE))


def safe_cell(text: str) -> str:
    """Return the text of a cell that no spreadsheet interprets as a formula."""
    return text if NUMBER.fullmatch(text.strip()) else FORMULA.sub(r"\1'", text)


def number_text(value: float | None) -> str:
    """Return points as text; "" if they are unknown."""
    return "" if value is None else f"{round(value, 4):.10g}"


# --- the page -------------------------------------------------------------------------------------


def write_report(
    path: Path,
    assignment: Assignment,
    records: Iterable[Record],
    previous: Iterable[Record] = (),
    comparison: Comparison | None = None,
) -> None:
    """Write the class report, which names students and their mistakes, as one HTML file.

    The report is for the instructor only.

    Args:
        comparison: the answers of the class, compared with each other; if given, the page shows the
            answers that are alike.
    """
    records, previous = _prepared(assignment, records), _prepared(assignment, previous)
    page = page_template("report.html.j2", MAX_VALUE).render(
        _content(assignment, records, previous), comparison=comparison and _alike(comparison)
    )
    write_atomically(path, page.encode(), alone=True)


def _content(
    assignment: Assignment, records: Sequence[Record], previous: Sequence[Record]
) -> dict[str, Any]:
    """Return all values that the page shows, by their names in the template."""
    counts = Counter(record.state for record in records)
    gradable = [record for record in records if record.state != UNGRADABLE]
    ungradable = [record for record in records if record.state == UNGRADABLE]
    doubts, waiting = _needing_a_person([r for r in records if r.state == PERSON])
    return {
        "assignment": assignment,
        "records": records,
        "states": {state: counts[state] for state in STATES},
        "gradable": len(gradable),
        "titles": defaultdict(
            str, {c: _title(t) for t in assignment.tasks for c in _max_points(t)}
        ),
        "ungradable": [(record.student, _reasons(record.reasons)) for record in ungradable],
        "doubts": doubts,
        "waiting": waiting,
        "changed": _changed(previous, records) if previous else None,
        "points": _points_histogram(assignment, gradable),
        "tasks": [_task_row(task, gradable) for task in assignment.tasks if gradable],
        "failing": _failing(assignment, gradable),
        "notes": {
            "Repairs before grading": _notes((record, record.repairs) for record in records),
            "Incidents during grading": _notes((record, record.incidents) for record in records),
        },
        "costs": _costs(records) if records else None,
    }


def _title(task: Task) -> str:
    return f"{task.number} {task.title}{' (bonus)' * task.bonus}"


def _needing_a_person(records: Sequence[Record]) -> tuple[list[tuple[str, str]], Groups]:
    """Return the doubts by student, and the records that wait for points by hand, by cell."""
    rows = [(record.student, _reasons(record.doubts)) for record in records if record.doubts]
    return rows, _groups((cell, record) for record in records for cell in record.waiting)


def _changed(previous: Sequence[Record], records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return each student whose points or state changed between two gradings, and the changes."""
    rows: dict[str, list[str]] = defaultdict(list)
    for change in changes(previous, records):
        before, after = _change_value(change.before), _change_value(change.after)
        rows[change.student].append(f"{change.what}: {before} → {after}")
    return [(student, "; ".join(lines)) for student, lines in rows.items()]


def _change_value(value: float | str | None) -> str:
    return value if isinstance(value, str) else number_text(value) or "none"


def _task_row(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    """Return the class's results in a task: title, median, and shares of students by points."""
    points = [_task_points(record, task) for record in records]
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


# --- histograms -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Histogram:
    """A histogram: how many students have each value of a quantity.

    Attributes:
        bars: for each bar its label, the number of students whose value is final, and the number
            of students who may still get more points.
        left_out: the number of students without a value.
    """

    axis: str
    bars: list[tuple[str, int, int]]
    alt: str
    left_out: int = 0

    @property
    def most(self) -> int:
        """The number of students in the highest bar."""
        return max(final + waiting for _, final, waiting in self.bars)


def _points_histogram(assignment: Assignment, records: Sequence[Record]) -> Histogram | None:
    """Return the histogram of points; None if no points are known."""
    known = [(r, points) for r in records if (points := _points_so_far(r, assignment)) is not None]
    if not known or not assignment.points:
        return None
    step = max(1, _round_up(assignment.points / (MAX_BARS - 1)))
    last = math.floor(assignment.points / step)
    final, waiting = [0] * (last + 1), [0] * (last + 1)
    for record, points in known:
        place = min(max(math.floor(points / step + 1e-9), 0), last)
        (waiting if record.state == PERSON else final)[place] += 1
    labels = [number_text(place * step) for place in range(last + 1)]
    bars = list(zip(labels, final, waiting, strict=True))
    listed = ", ".join(f"{f + w} at {label}" for label, f, w in bars if f + w)
    axis = "points" if step == 1 else f"points, in steps of {number_text(step)}"
    alt = f"Histogram of {axis}, from 0 to {assignment.points}. Students: {listed}."
    if sum(waiting):
        alt += f" For {sum(waiting):,} of them, a person still has to give points."
    return Histogram(axis, bars, alt, len(records) - len(known))


def _spread(values: Iterable[float], axis: str) -> Histogram | None:
    """Return the histogram of a quantity; None if the quantity was not measured.

    The bars end at 1, 2, 5, 10, 20, 50, and so on, because values may differ by orders of
    magnitude. Values below MIN_VALUE are not counted.
    """
    values = [value for value in values if value >= MIN_VALUE]
    if not values:
        return None
    edges = [_round_up(min(values))]
    while edges[-1] < max(values):
        edges.append(_round_up(1.01 * edges[-1]))
    counts = Counter(next(edge for edge in edges if value <= edge) for value in values)
    listed = ", ".join(f"{counts[edge]} up to {edge:,.6g}" for edge in edges if counts[edge])
    bars = [(f"≤ {edge:,.6g}", counts[edge], 0) for edge in edges]
    return Histogram(axis, bars, f"Histogram of {axis}. Students: {listed}.")


def _round_up(value: float) -> float:
    """Return the smallest of the numbers … 1, 2, 5, 10, 20, 50 … that is at least `value` (> 0)."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= 0.999999 * value)


# --- what submissions have in common --------------------------------------------------------------


@dataclass(frozen=True)
class LargestGroups:
    """The largest groups of records.

    Attributes:
        left_out: the number of groups that are left out.
        students: the number of students in the groups that are left out.
    """

    groups: Groups
    left_out: int
    students: int


def _groups(pairs: Iterable[tuple[str, Record]]) -> Groups:
    """Return the records grouped by the text that they share, the largest group first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for shared, record in pairs:
        groups[shared].append(record)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def _largest(pairs: Iterable[tuple[str, Record]]) -> LargestGroups:
    groups = _groups(pairs)
    rest = groups[MAX_GROUPS:]
    students = {record.student for _, group in rest for record in group}
    return LargestGroups(groups[:MAX_GROUPS], len(rest), len(students))


def _failing(assignment: Assignment, records: Sequence[Record]) -> list[tuple[str, list[Any]]]:
    """Return the students who lost points, grouped by task, cell and mistake."""
    tasks = []
    for task in assignment.tasks:
        cells = []
        for cell, maximum in () if task.by_hand else _max_points(task).items():
            points = [(record, _points(record).get(cell)) for record in records]
            lost = [record for record, value in points if value is not None and value < maximum]
            groups = _largest((_mistake(record.messages.get(cell, "")), record) for record in lost)
            cells += [{"id": cell, "lost": len(lost), "largest": groups}] if lost else []
        tasks += [(_title(task), cells)] if cells else []
    return tasks


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


def _notes(notes: Iterable[tuple[Record, Sequence[str]]]) -> LargestGroups:
    """Return the largest groups of submissions whose lines differ only in numbers."""
    return _largest(
        (line, record)
        for record, lines in notes
        for line in sorted({*map(_without_numbers, lines)})
    )


# --- answers that are alike -----------------------------------------------------------------------


def _alike(comparison: Comparison) -> dict[str, Any]:
    """Return the answers that are alike, by their names in the template."""
    return {
        "students": comparison.students,
        "large_enough": comparison.large_enough,
        "pairs": [_pair(pair) for pair in comparison.pairs[:MAX_PAIRS]],
        "left_out": len(comparison.pairs[MAX_PAIRS:]),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    names = [escape_unprintable(student) for student in pair.students]
    return {
        "students": names,
        "tasks": [
            {
                "title": _title(alike.task),
                "overlap": _share(round(1000 * alike.overlap), 1000),
                "usual": f"{alike.usual:.0%}",
                "answers": [
                    (name, numbered(source, alike.task.answer["source"]), lines)
                    for name, source, lines in zip(names, alike.sources, alike.lines, strict=True)
                ],
            }
            for alike in pair.tasks
        ],
    }


# --- time and memory ------------------------------------------------------------------------------


def _costs(records: Sequence[Record]) -> dict[str, Any]:
    seconds, memory = [r.seconds for r in records], [r.memory for r in records if r.memory]
    slowest = sorted(records, key=lambda record: (-record.seconds, *_sort_key(record)))[:SLOWEST]
    return {
        "total": _time(sum(seconds)),
        "median": _time(median(seconds)),
        "memory": memory and [format_bytes(median(memory)), format_bytes(max(memory))],
        "histograms": [
            _spread(seconds, "seconds per submission"),
            _spread([size / MB for size in memory], "MB per submission"),
        ],
        "slowest": [
            (r.student, r.state, _time(r.seconds), format_bytes(r.memory) if r.memory else "–")
            for r in slowest
        ],
    }


def _time(seconds: float) -> str:
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
