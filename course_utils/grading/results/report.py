"""What an instructor is told of a class: a page, a table for an LMS, records brought up to date.

    write_report(path, assignment, records)     one HTML file: no script, nothing from elsewhere
    write_csv(path, assignment, records)        a row a student
    merged(records, scores)                     with the points that people gave since
    changes(previous, records)                  what another grading changed

Every text of a record may come from a student: control characters are removed, long texts are cut,
and `_tag` escapes whatever isn't `Html`. Points that are missing are missing here, never 0.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from course_utils.grading.assignments import Assignment, Task, grading
from course_utils.grading.results.records import (
    GRADED,
    PERSON,
    STATES,
    UNGRADABLE,
    Record,
    by_hand,
    visible,
    write_atomically,
)
from course_utils.units import MB, format_bytes

LINE = 200  # characters of a line of text
TEXT, LINES = 1_500, 20  # characters and lines of a message
REASONS = 5  # of one student
MOST = (REASONS + 1) * (LINE + 4)  # characters of all that stands in one place
GROUPS = 8  # of the messages of one cell, of repairs, of incidents
SLOWEST = 5  # submissions
BARS = 31  # of the histogram of points, at most
WIDTH, HEIGHT, LETTER = 420, 190, 14  # of a picture, in units that are 0.8 pixels on a phone

Points = Mapping[str, float | None]  # by the id of a graded cell
Groups = list[tuple[str, list[Record]]]  # what records have in common, the largest group first


# --- points ---------------------------------------------------------------------------------------


def merged(records: Iterable[Record], scores: Mapping[str, Points]) -> list[Record]:
    """Records with the gradebook's current points, as people enter them after autograding.

    scores: by student and graded cell; None for a cell that still waits for a person's points. A
    submission that needed a person for such points alone is graded once all are there. One that is
    ungradable stays as it is: the gradebook may hold points of what was handed in before.
    """
    return [_with(record, scores.get(record.student, {})) for record in records]


def _with(record: Record, scores: Points) -> Record:
    if record.state == UNGRADABLE:
        return record
    points = {**record.points, **scores}
    known = {by_hand(cell) for cell in points}
    reasons = [reason for reason in record.reasons if reason not in known]
    reasons += [by_hand(cell) for cell, value in points.items() if value is None]
    settled = GRADED if record.reasons else record.state
    state = PERSON if reasons else settled
    return replace(record, points=points, reasons=tuple(reasons), state=state)


@dataclass(frozen=True)
class Change:
    """What a submission had before it was graded again, and has now; None where nothing is known.

    what: the id of a graded cell, or "state".
    """

    student: str
    what: str
    before: float | str | None
    after: float | str | None


def changes(previous: Iterable[Record], records: Iterable[Record]) -> list[Change]:
    """The points and states that two gradings of the same students differ in, by student."""
    earlier = {record.student: record for record in previous}
    found = []
    for now in sorted(records, key=_name):
        if (before := earlier.get(now.student)) is None:
            continue
        if before.state != now.state:
            found.append(Change(now.student, "state", before.state, now.state))
        old, new = _points(before), _points(now)
        for cell in dict.fromkeys([*old, *new]):
            if old.get(cell) != new.get(cell):
                found.append(Change(now.student, cell, old.get(cell), new.get(cell)))
    return found


def _name(record: Record) -> tuple[str, str]:
    """Sorts students as people do: b after A, student10 after student9."""
    padded = re.sub(r"\d+", lambda digits: digits[0].zfill(20), record.student.casefold())
    return padded, record.student


def _points(record: Record) -> Points:
    return {} if record.state == UNGRADABLE else record.points


def _full(task: Task) -> dict[str, float]:
    """The points that each graded cell of a task can give."""
    return {cell["id"]: grading(cell)["points"] for cell in task.graded}


def _of_task(record: Record, task: Task) -> float | None:
    """A submission's points of a task; None where any of them is missing."""
    values = [_points(record).get(cell) for cell in _full(task)]
    return None if None in values else sum(values)


def _so_far(record: Record, assignment: Assignment) -> float | None:
    """The points that are known; None where none are."""
    cells = [cell for task in assignment.tasks for cell in _full(task)]
    known = [value for cell in cells if (value := _points(record).get(cell)) is not None]
    return sum(known) if known else None


def _current(assignment: Assignment, records: Iterable[Record]) -> list[Record]:
    """Records of this assignment by student, each with a reason for every cell without points.

    Unprintable characters in students' names are replaced by escape sequences, such as `\\x1b`. In
    other texts they are removed; if they were removed here too, two names could look the same.
    """
    records = sorted(merged(records, {}), key=_name)
    if wrong := [record for record in records if record.assignment != assignment.name]:
        raise ValueError(f"a record of {wrong[0].assignment} in a report of {assignment.name}")
    return [replace(record, student=visible(record.student)) for record in records]


# --- text that a student may have written ---------------------------------------------------------

# Escape sequences of terminals; then what isn't seen or turns the direction of a line.
ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -~]?")
UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[_,]\d+)*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")


def _plain(text: str) -> str:
    return UNSEEN.sub("", ANSI.sub("", text[: 4 * TEXT]))


def _line(text: str, most: int = LINE) -> str:
    """A text in one line."""
    line = " ".join(_plain(text).split())
    return line if len(line) <= most else line[:most] + " …"


def _block(text: str) -> str:
    """A text with its lines."""
    lines = [line.expandtabs(4).rstrip() for line in _plain(text).strip().splitlines()]
    block = "\n".join(lines[:LINES])
    return block[:TEXT] + (" …" if len(lines) > LINES or len(block) > TEXT else "")


def _reasons(reasons: Sequence[str]) -> str:
    lines = [_line(reason) for reason in reasons[:REASONS]]
    more = len(reasons) - REASONS
    return "; ".join(lines + [f"and {more} more"] * (more > 0)) or "no reason is recorded"


def _without_numbers(text: str) -> str:
    return NUMBER.sub("…", text)


# --- the table ------------------------------------------------------------------------------------

# Where a spreadsheet would read a formula: at the start of a cell, or after a semicolon, which
# separates cells where the comma is the decimal point.
FORMULA = re.compile(r"(^|;\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")


def write_csv(path: Path, assignment: Assignment, records: Iterable[Record]) -> None:
    """Write a row a student: state, reasons, points, and a column a task by the task's id.

    A task's points are empty where any of them is missing, and so is the sum then: an LMS would
    take a part for the whole. UTF-8 with a byte order mark, without which Excel misreads it;
    lines end as RFC 4180 says. A text that a spreadsheet would take for a formula gets an
    apostrophe in front. Raises ValueError for a record of another assignment.
    """
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    head = ["student", "state", "reasons", "points", "max points"]
    rows.writerow([*head, *(task.id for task in assignment.tasks)])
    for record in _current(assignment, records):
        points = [_of_task(record, task) for task in assignment.tasks]
        whole = None if None in points else sum(points)
        texts = [record.student, record.state, _reasons(record.reasons) if record.reasons else ""]
        numbers = [whole, assignment.points, *points]
        rows.writerow([*map(_cell, texts), *map(_number, numbers)])
    write_atomically(path, table.getvalue().encode("utf-8-sig"))


def _cell(text: str) -> str:
    return FORMULA.sub(r"\1'", _line(text, MOST))


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4):.10g}"


# --- HTML -----------------------------------------------------------------------------------------


class Html(str):
    """Text that is HTML already."""


def _escaped(text: str) -> Html:
    return Html(html.escape(text))


def _tag(name: str, *content: str, **attributes: object) -> Html:
    """An element. What isn't Html is put into one line and escaped; so are attributes."""
    inner = "".join(c if isinstance(c, Html) else _escaped(_line(c, MOST)) for c in content)
    names = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    shown = "".join(f' {key}="{_escaped(str(value))}"' for key, value in names.items())
    return Html(f"<{name}{shown}>{inner}</{name}>")


def _joined(parts: Iterable[Html]) -> Html:
    return Html("\n".join(parts))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *numbers: int) -> Html:
    """numbers: the columns that are aligned to the right."""

    def row(kind: str, cells: Sequence[str]) -> Html:
        looks = ({"class_": "number"} if place in numbers else {} for place in range(len(cells)))
        return _tag("tr", *(_tag(kind, c, **look) for c, look in zip(cells, looks, strict=True)))

    body = _joined(row("td", cells) for cells in rows)
    table = _tag("table", _tag("thead", row("th", head)), _tag("tbody", body))
    return _tag("div", table, class_="wide")


def _section(title: str, *content: Html, id: str = "") -> Html:
    return _tag("section", _tag("h2", title), _joined(content), **({"id": id} if id else {}))


def _details(summary: str, inner: Html) -> Html:
    return _tag("details", _tag("summary", summary), inner)


def _count(number: int, thing: str = "student") -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _share(part: int, whole: int) -> str:
    """A part in percent; 0% and 100% mean none and all."""
    percent = f"{part / whole:.0%}"
    if percent == "0%" and part:
        return "<1%"
    return ">99%" if percent == "100%" and part < whole else percent


def _bytes(size: int) -> str:
    return format_bytes(size) if size else "–"


def _time(seconds: float) -> str:
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


# --- pictures -------------------------------------------------------------------------------------


def _part(look: str, **place: object) -> Html:
    return _tag("rect", class_=look, **place)


def _shares(parts: Mapping[str, int]) -> Html:
    """A bar as wide as its column, of parts by their look."""
    whole, left, rects = sum(parts.values()), 0, []
    for look, count in parts.items():
        place = {"x": f"{100 * left / whole:.2f}%", "width": f"{100 * count / whole:.2f}%"}
        rects += [_part(look, height=14, **place)] if count else []
        left += count
    told = ", ".join(f"{look} {_share(count, whole)}" for look, count in parts.items())
    return _tag(
        "svg", *rects, class_="shares", role="img", aria_label=f"Students by points: {told}"
    )


def _bars(bars: Sequence[Sequence[int]], ticks: Mapping[float, str], axis: str, alt: str) -> Html:
    """Bars side by side, each of a full and a hatched part, in numbers of students.

    ticks: labels of the axis, by a place counted in bars. axis: what they are.
    """
    left, bottom, top = 40, HEIGHT - 2.8 * LETTER, 2 * LETTER
    wide = (WIDTH - left - 1.5 * LETTER) / len(bars)
    most = max(map(sum, bars))
    tall = (bottom - top) / most
    step = max(1, _round_up(most / 4))
    drawn = [_tag("text", "students", x=0, y=LETTER)]
    for count in range(0, most + 1, int(step)):
        y = f"{bottom - count * tall:.1f}"
        drawn.append(_tag("line", x1=left, x2=WIDTH, y1=y, y2=y, class_="grid"))
        drawn.append(_tag("text", f"{count:,}", x=left - 6, y=y, dy="0.35em", text_anchor="end"))
    for place, parts in enumerate(bars):
        base = bottom
        for look, count in zip(("full", "missing"), parts, strict=False):
            base -= count * tall
            size = {"width": f"{0.86 * wide:.1f}", "height": f"{count * tall:.1f}"}
            x = f"{left + (place + 0.07) * wide:.1f}"
            drawn += [_part(look, x=x, y=f"{base:.1f}", **size)] if count else []
    for place, label in ticks.items():
        at = {"x": f"{left + place * wide:.1f}", "y": f"{bottom + 1.2 * LETTER:.1f}"}
        drawn.append(_tag("text", label, **at, text_anchor="middle"))
    middle = (left + WIDTH) / 2
    drawn.append(_tag("text", axis, x=middle, y=HEIGHT - 4, text_anchor="middle"))
    box = f"0 0 {WIDTH} {HEIGHT}"
    return _tag("svg", *drawn, viewBox=box, class_="picture", role="img", aria_label=alt)


def _round_up(value: float) -> float:
    """The next of … 1, 2, 5, 10, 20, 50 … that isn't below a number above 0."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= 0.999999 * value)


def _points_picture(assignment: Assignment, records: Sequence[Record]) -> Html:
    """Students by their points; hatched where more may come."""
    known = [r for r in records if _so_far(r, assignment) is not None]
    if not known or not assignment.points:
        return _tag("p", "No points are known yet.")
    step = max(1, _round_up(assignment.points / (BARS - 1)))
    bars = [[0, 0] for _ in range(math.floor(assignment.points / step) + 1)]
    for record in known:
        place = math.floor(_so_far(record, assignment) / step + 1e-9)
        bars[min(max(place, 0), len(bars) - 1)][record.state == PERSON] += 1
    every = int(_round_up(len(bars) / 8))
    ticks = {place + 0.5: _number(place * step) for place in range(0, len(bars), every)}
    told = ", ".join(
        f"{sum(parts)} at {_number(place * step)}" for place, parts in enumerate(bars) if sum(parts)
    )
    axis = "points" if step == 1 else f"points, in steps of {_number(step)}"
    alt = f"Histogram of {axis}, from 0 to {assignment.points}. Students: {told}."
    if waiting := sum(part for _, part in bars):
        alt += f" {waiting:,} of them so far: a person is needed."
    legend = _legend(full="final", missing="so far: a person is needed")
    left_out = len(records) - len(known)
    note = f"{_count(left_out)} without any points yet: left out." if left_out else ""
    return _joined([_tag("p", legend, note), _bars(bars, ticks, axis, alt)])


def _spread_picture(values: Sequence[float], axis: str) -> Html:
    """Students by a quantity that may differ by orders of magnitude: bars from 1 to 2 to 5 to 10.

    values: those above 0 count.
    """
    values = [value for value in values if value > 0]
    if not values:
        return _tag("p", f"There are no {axis}.")
    edges = [_round_up(min(values))]
    while edges[-1] < max(values):
        edges.append(_round_up(1.01 * edges[-1]))
    counts = Counter(next(edge for edge in edges if value <= edge) for value in values)
    bars = [[counts[edge]] for edge in edges]
    below = 1 / _round_up(1.01 / edges[0])  # upside down, the series is the same
    ticks = {float(place): f"{edge:,.6g}" for place, edge in enumerate([below, *edges])}
    told = ", ".join(f"{counts[edge]} up to {edge:,.6g}" for edge in edges if counts[edge])
    return _bars(bars, ticks, axis, f"Histogram of {axis}. Students: {told}.")


def _legend(**looks: str) -> Html:
    def entry(look: str, words: str) -> Html:
        swatch = _tag("svg", _part(look, width=14, height=14), class_="swatch", aria_hidden="true")
        return _tag("span", swatch, words, class_="entry")

    return _joined(entry(look, words) for look, words in looks.items())


# --- the page -------------------------------------------------------------------------------------

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
"""
# A hatch differs from a plain part in greyscale too. SVG is printed with its colours.
HATCH = Html(
    '<svg width="0" height="0" aria-hidden="true"><pattern id="hatch" width="5" height="5" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path d="M0 0V5" '
    'stroke="currentColor" stroke-width="2"/></pattern></svg>'
)
STYLE = """
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 1rem/1.5 system-ui, sans-serif;
  background: var(--paper); color: var(--ink); overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; } h2 { margin: 2.5rem 0 .5rem; } h3 { margin: 1.5rem 0 .25rem; }
a { color: inherit; } p { margin: .5rem 0; } .note { color: var(--pale); }
ul.states { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
ul.states li { flex: 1 1 6rem; padding: .5rem 1rem; border: 1px solid var(--line);
  border-radius: .5rem; }
ul.states strong { display: block; font-size: 2rem; line-height: 1.2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; overflow-wrap: break-word; }
td:first-child, td:last-child:not(.number) { overflow-wrap: anywhere; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; } th { font-weight: 600; } :is(th, td):first-child { min-width: 6rem; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
pre { margin: .25rem 0 1rem; padding: .5rem .75rem; background: var(--shade); font-size: .85rem;
  white-space: pre-wrap; border-radius: .25rem; }
summary { cursor: pointer; padding: .2rem 0; }
.cell { margin: .75rem 0 .25rem; font-weight: 600; }
.entry { display: inline-block; margin-right: 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures > * { flex: 1 1 18rem; }
.picture { width: 100%; max-width: 32rem; } .picture text { fill: currentColor; font-size: 14px; }
.shares { display: block; width: 100%; min-width: 6rem; height: 14px; }
.swatch { width: 14px; height: 14px; margin-right: .4rem; vertical-align: -2px; }
rect { stroke: currentColor; } .grid { stroke: var(--line); }
.full { fill: var(--full); } .some { fill: var(--some); } .none { fill: none; }
.missing { fill: url(#hatch); }
@media screen and (max-width: 40rem) { /* a task above its numbers */
  ul.states { flex-direction: column; gap: .5rem; } ul.states li { flex: none; }
  ul.states strong { display: inline; margin-right: .75rem; }
  table { font-size: .9rem; } th, td { padding: .3rem .2rem; }
  .tasks tr { display: grid; grid-template-columns: 4fr 3fr 3fr 3fr 4fr; }
  .tasks tr > :first-child { grid-column: 1 / -1; border: 0; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  ul.states, tr, pre, .picture { break-inside: avoid; } h2, h3, summary { break-after: avoid; }
  details::details-content { content-visibility: visible; }
}
"""


def write_report(
    path: Path,
    assignment: Assignment,
    records: Iterable[Record],
    previous: Iterable[Record] = (),
) -> None:
    """Write the class report as one HTML file, for the instructor: it names students and mistakes.

    previous: the records of a grading before this one; the page then lists what changed. Raises
    ValueError for a record of another assignment.
    """
    records = _current(assignment, records)
    previous = _current(assignment, previous)
    able = [record for record in records if record.state != UNGRADABLE]
    title = f"{assignment.title} – class report"
    content = [
        HATCH,
        _tag("h1", title),
        _summary(assignment, records),
        *_attention(assignment, records),
        *_changed(previous, records),
        *_reached(assignment, able),
        *_failing(assignment, able),
        *_noted("Mended before grading", ((r, r.repairs) for r in records)),
        *_noted("What happened in runs", ((r, r.incidents) for r in records)),
        *_costs(records),
    ]
    head = _tag("title", title) + _tag("style", Html(_colours() + STYLE))
    page = f"{HEAD}{head}\n</head>\n<body>\n{_joined(content)}\n</body>\n</html>\n"
    write_atomically(path, page.encode())


def _colours() -> str:
    """Variables of the style sheet; the same colours as in the lectures' pictures."""
    from course_utils.palette import BLUE, ORANGE, SKY

    light = f"--paper: #fff; --ink: #1b1b1b; --pale: #5a5a5a; --full: {BLUE}; --some: {ORANGE};"
    dark = f"--paper: #161616; --ink: #e8e8e8; --pale: #adadad; --full: {SKY};"
    return (
        f"\n:root {{ {light} --line: #c8c8c8; --shade: #f3f3f3; }}\n"
        "@media screen and (prefers-color-scheme: dark) {\n"
        f":root {{ {dark} --line: #4a4a4a; --shade: #242424; }} }}"
    )


def _summary(assignment: Assignment, records: Sequence[Record]) -> Html:
    """How many there are of each state, as links to those that wait for somebody."""
    counts = Counter(record.state for record in records)

    def entry(state: str) -> Html:
        number = _tag("strong", f"{counts[state]:,}")
        linked = state != GRADED and counts[state]
        words = _tag("a", state, href=f"#{_anchor(state)}") if linked else state
        return _tag("li", number, words)

    told = f"{_count(len(records))}, {_count(assignment.points, 'point')}."
    keep = "For the instructor: this page names students and shows hidden checks."
    states = _tag("ul", *map(entry, STATES), class_="states")
    return _joined([_tag("p", told), _tag("p", keep, class_="note"), states])


def _anchor(state: str) -> str:
    return state.replace(" ", "-")


def _attention(assignment: Assignment, records: Sequence[Record]) -> Iterator[Html]:
    """Those that can't be graded and those that wait for a person, and why."""
    lost = [(record, record.reasons) for record in records if record.state == UNGRADABLE]
    waiting = [record for record in records if record.state == PERSON]
    if not records:
        yield _tag("p", "No submission has been graded yet.")
    elif not lost and not waiting:
        yield _tag("p", "Every submission is graded, and none waits for a person.")
    if lost:
        about = _tag("p", "They have no points, which is not the same as 0.", class_="note")
        yield _section("Ungradable", about, _why(lost), id=_anchor(UNGRADABLE))
    if waiting:
        yield _section("Needs a person", *_people(assignment, waiting), id=_anchor(PERSON))


def _people(assignment: Assignment, records: Sequence[Record]) -> Iterator[Html]:
    """Doubts by student, then points by hand by cell: these may be everybody's."""
    titles = {c: f"{task.number} {task.title}" for task in assignment.tasks for c in _full(task)}
    cells = {by_hand(cell): cell for record in records for cell in record.points}
    doubts = [(r, [line for line in r.reasons if line not in cells]) for r in records]
    if doubts := [(r, lines) for r, lines in doubts if lines or not r.reasons]:
        yield _why(doubts)
    waiting = _groups((cells[line], r) for r in records for line in r.reasons if line in cells)
    for cell, group in waiting:
        waits = "waits" if len(group) == 1 else "wait"
        about = f"a person's points: {titles.get(cell, '')} ({cell})"
        yield _details(f"{_count(len(group))} {waits} for {about}", _names(group))


def _why(rows: Iterable[tuple[Record, Sequence[str]]]) -> Html:
    return _table(["student", "why"], ([r.student, _reasons(lines)] for r, lines in rows))


def _changed(previous: Sequence[Record], records: Sequence[Record]) -> Iterator[Html]:
    """A row a student whose points or state another grading changed."""
    rows: dict[str, list[str]] = defaultdict(list)
    for change in changes(previous, records):
        rows[change.student].append(
            f"{change.what}: {_shown(change.before)} → {_shown(change.after)}"
        )
    if previous:
        about = f"{_count(len(rows))} with other points, or in another state, than before."
        table = _table(["student", "before → now"], ([s, "; ".join(c)] for s, c in rows.items()))
        yield _section("Changed by this grading", _tag("p", about), *([table] if rows else ()))


def _shown(value: float | str | None) -> str:
    return value if isinstance(value, str) else _number(value) or "none"


def _reached(assignment: Assignment, records: Sequence[Record]) -> Iterator[Html]:
    """The histogram of points, and how the class fared at each task."""
    if not records:
        return
    yield _section("Points", _points_picture(assignment, records))
    looks = {"full": "full points", "some": "some", "none": "none", "missing": "missing so far"}
    head = ["task", "median", "full", "some", "none", "missing"]
    rows = [_task_row(task, records) for task in assignment.tasks]
    table = _tag("div", _table(head, rows, *range(1, len(head))), class_="tasks")
    yield _section("Tasks", _tag("p", _legend(**looks)), table)


def _task_row(task: Task, records: Sequence[Record]) -> list[str]:
    points = [_of_task(record, task) for record in records]
    known = [value for value in points if value is not None]
    parts = {"full": 0, "some": 0, "none": 0, "missing": len(points) - len(known)}
    for value in known:
        parts["full" if value >= task.points else "some" if value > 0 else "none"] += 1
    title = _joined([_tag("span", f"{task.number} {task.title}"), _shares(parts)])
    middle = f"{_number(median(known)) if known else '–'} of {task.points}"
    return [title, middle, *(_share(n, len(points)) for n in parts.values())]


def _failing(assignment: Assignment, records: Sequence[Record]) -> Iterator[Html]:
    """What the checks said to those who lost points, by cell and by mistake."""
    found: list[Html] = []
    for task in assignment.tasks:
        cells = {} if task.by_hand else _full(task)
        said = [part for cell, full in cells.items() for part in _messages(cell, full, records)]
        if said:
            found += [_tag("h3", f"{task.number} {task.title}"), *said]
    if found:
        yield _section("Checks that failed, and why", *found)


def _messages(cell: str, full: float, records: Sequence[Record]) -> Iterator[Html]:
    """What one cell said, by mistake, with an example of each."""
    points = [(record, _points(record).get(cell)) for record in records]
    lost = [record for record, value in points if value is not None and value < full]
    if lost:
        told = f"{cell}: {_count(len(lost))} of {len(records):,} lost points"
        yield _tag("p", told, class_="cell")
    groups = _groups((_mistake(record.messages.get(cell, "")), record) for record in lost)
    for mistake, group in groups[:GROUPS]:
        example = _block(group[0].messages.get(cell, ""))
        inner = [_tag("p", f"For example {group[0].student}:", class_="note")]
        inner += [_tag("pre", _escaped(example))] if example else []
        yield _details(f"{len(group):,} × {mistake}", _joined(inner))
    yield from _rest(groups)


def _mistake(message: str) -> str:
    """What messages about one mistake share: its likely reason, else the exception, else the call.

    The last two without numbers, which differ from answer to answer.
    """
    text = _plain(message)
    said = {
        label: re.findall(rf"^ {{1,4}}{label} +(.+(?:\n {{12}}.+)*)", text, re.M)
        for label in ("likely", "raised")
    }
    if said["likely"]:
        return _line(said["likely"][-1])
    first = re.sub(r"\ANot right yet[^:\n]*: ", "", text.strip()).partition("\n")[0]
    return _without_numbers(_line(said["raised"][0] if said["raised"] else first)) or "no message"


def _noted(title: str, notes: Iterable[tuple[Record, Sequence[str]]]) -> Iterator[Html]:
    """Lines about submissions, by what they say but for numbers, with the students."""
    pairs = ((line, record) for record, lines in notes for line in sorted(set(map(_kind, lines))))
    if groups := _groups(pairs):
        lists = [
            _details(f"{len(group):,} × {line}", _names(group)) for line, group in groups[:GROUPS]
        ]
        yield _section(title, *lists, *_rest(groups))


def _kind(line: str) -> str:
    return _without_numbers(_line(line))


def _names(records: Iterable[Record]) -> Html:
    return _tag("p", _escaped(", ".join(_line(record.student) for record in records)))


def _groups(pairs: Iterable[tuple[str, Record]]) -> Groups:
    """Records by what they share."""
    found: dict[str, list[Record]] = defaultdict(list)
    for shared, record in pairs:
        found[shared].append(record)
    return sorted(found.items(), key=lambda group: (-len(group[1]), group[0]))


def _rest(groups: Groups) -> Iterator[Html]:
    """How much the page leaves out."""
    if rest := groups[GROUPS:]:
        students = len({record.student for _, group in rest for record in group})
        words = f"and {_count(len(rest), 'rarer one')}, of {_count(students)}"
        yield _tag("p", words, class_="note")


def _costs(records: Sequence[Record]) -> Iterator[Html]:
    """Time and memory that grading took."""
    if not records:
        return
    seconds, memory = [r.seconds for r in records], [r.memory for r in records if r.memory]
    told = f"{_time(sum(seconds))} of work in all, {_time(median(seconds))} in the median."
    if memory:
        middle, most = format_bytes(median(memory)), format_bytes(max(memory))
        told += f" Memory of a student's processes: {middle} in the median, {most} at most."
    slowest = sorted(records, key=lambda record: (-record.seconds, *_name(record)))[:SLOWEST]
    rows = ([r.student, r.state, _time(r.seconds), _bytes(r.memory)] for r in slowest)
    pictures = (
        _spread_picture(seconds, "seconds of a submission"),
        _spread_picture([size / MB for size in memory], "MB of a submission"),
    )
    yield _section(
        "Time and memory",
        _tag("p", told),
        _tag("div", *pictures, class_="pictures"),
        _tag("h3", "Slowest"),
        _table(["student", "state", "time", "memory"], rows, 2, 3),
    )
