"""Grade the corpus with stock nbgrader and with `course grade`; write docs/hostile.md and a table.

    python -m tests.hostile                  grade all submissions
    python -m tests.hostile --only bomb_     grade those whose names contain a text; print a table
    python -m tests.hostile --again          discard the saved results of stock nbgrader first

The results of stock nbgrader are saved in build/hostile/, so that an interrupted run continues
where it ended. Stock nbgrader needs about 40 minutes on two cores, `course grade` a few minutes.
The table of all submissions is written to build/hostile/all.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tests.hostile import canaries, container, corpus, course_grade, stock
from tests.machine import machine
from tests.mutation import ROOT
from workshop.grading.records import Record

RESULTS = ROOT / "build" / "hostile" / "stock.json"
REPORT = ROOT / "docs" / "hostile.md"
TABLE = RESULTS.with_name("all.md")
PAGE = """\
# Hostile submissions, graded

This page is for instructors who want to know how safe grading is. We graded the {count} submissions
in `tests/hostile/submissions/` with two graders: stock nbgrader {version} with its default
settings, and `course grade`. {attacks} of the submissions attack the grader. The other {honest} are
honest accidents, such as a deleted test cell. Stock nbgrader graded each submission in a separate
container, between the submissions of two honest students.

A submission gains points if it gets more points than its honest answers deserve. The numbers were
measured by `python -m tests.hostile` on {date}: {machine}.

| what a submission did | with stock nbgrader | with `course grade` |
|---|--:|--:|
{summary}

`course grade` needed {seconds:.0f} s in total for all submissions. The grading process itself,
without the sandboxes, needed at most {memory:.0f} MB of memory. With `course grade`, no submission
left a file outside its sandbox, left a process running, or reached a network service.

## By kind

The last two columns count the submissions that a grader handled wrongly: those that gained or lost
points, harmed other students, read files of other users, left something behind, or did not end in
time. `python -m tests.hostile --only bomb_` grades the submissions whose names contain `bomb_`, and
prints each result.

{kinds}
"""
KINDS = {
    "value": "Forged values",
    "calls": "Answers that detect that they are tested",
    "patch": "Patched modules and built-ins",
    "shell": "IPython and the kernel",
    "frames": "Frames, objects and sources",
    "read": "Reading data of other users",
    "withheld": "Importing withheld answers",
    "protocol": "Forging the grader's messages",
    "process": "Processes and signals",
    "neighbour": "Neighbours in the same server",
    "bomb": "Exhausting time, memory, disk or output",
    "network": "The network",
    "write": "Writing data of other users",
    "file": "Unusual files and folders",
    "student": "Unusual names of students",
    "notebook": "Broken notebooks",
    "metadata": "Forged metadata",
    "page": "Scripts in feedback pages",
    "honest": "Honest accidents",
}


@dataclass(frozen=True)
class Row:
    """One attack and its results with both graders; `record` is the attack's record in `run`."""

    attack: corpus.Attack
    stock: stock.Result
    record: Record | None
    run: course_grade.Run

    @property
    def cells(self) -> tuple[str, str]:
        """Return the results of stock nbgrader and of `course grade` in words."""
        return _stock_words(self.attack, self.stock), _course_grade_words(self)


# --- grading --------------------------------------------------------------------------------------


def run_stock(attacks: list[corpus.Attack], jobs: int, again: bool) -> dict[str, stock.Result]:
    """Grade attacks with stock nbgrader, each in a separate container, `jobs` at a time."""
    saved = SavedResults(RESULTS, again)
    secrets = canaries.canaries()
    todo = [attack for attack in attacks if attack not in saved]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        os.chmod(folder, 0o755)
        prepared = stock.template(Path(folder), secrets) if todo else Path(folder)
        runs = {pool.submit(stock.attack, a.name, prepared, secrets): a for a in todo}
        for number, done in enumerate(as_completed(runs), 1):
            attack, result = runs[done], done.result()
            saved.add(attack, result)
            words = _stock_words(attack, result)
            print(f"{number}/{len(todo)} {attack.name}: {words}", flush=True)
    return {attack.name: saved[attack] for attack in attacks}


def run_course_grade(attacks: list[corpus.Attack]) -> dict[str, course_grade.Run]:
    """Grade attacks with `course grade`, and return one run for each assignment, by its name."""
    grouped: dict[str, list[corpus.Attack]] = {}
    for attack in attacks:
        grouped.setdefault(attack.assignment, []).append(attack)
    folder = Path(tempfile.mkdtemp())
    try:
        return {name: course_grade.run(some, folder / name) for name, some in grouped.items()}
    finally:
        # Some folders are nested too deeply for Python to delete them.
        subprocess.run(["rm", "-rf", folder], check=True)


class SavedResults:
    """The results of stock nbgrader in earlier runs, by the name and the text of the attack."""

    def __init__(self, path: Path, again: bool):
        self._path: Path = path
        self._results: dict[str, dict[str, Any]] = {}
        if path.is_file() and not again:
            self._results = json.loads(path.read_text(encoding="utf-8"))

    def __contains__(self, attack: corpus.Attack) -> bool:
        return _key(attack) in self._results

    def __getitem__(self, attack: corpus.Attack) -> stock.Result:
        return stock.Result.of(self._results[_key(attack)])

    def add(self, attack: corpus.Attack, result: stock.Result) -> None:
        """Add a result, and save all results."""
        self._results[_key(attack)] = asdict(result)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._results, indent=1), encoding="utf-8")
        part.replace(self._path)


def _key(attack: corpus.Attack) -> str:
    text = (corpus.FOLDER / f"{attack.name}.py").read_bytes()
    return f"{attack.name} {hashlib.sha256(text).hexdigest()[:16]}"


# --- in words -------------------------------------------------------------------------------------


def _stock_words(attack: corpus.Attack, result: stock.Result) -> str:
    words = [_points(attack, result.points)]
    if not result.ended:
        words.append(f"**did not end within {stock.BATCH_TIMEOUT} s**")
    if missing := sum(points is None for points in result.others):
        words.append(f"**{missing} of the 2 others not graded**")
    if any(p not in (None, corpus.HONEST_POINTS) for p in result.others):
        words.append("**points of others changed**")
    for verb, names in (
        ("read", result.stolen),
        ("changed or left", result.escapes),
        ("still running", [line.split()[-1] for line in result.survivors[:1]]),
        ("reached", result.reached),
        ("active in the page", [f"`{name}`" for name in result.active]),
    ):
        if names:
            words.append(f"**{verb}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}**")
    return "; ".join(words)


def _course_grade_words(row: Row) -> str:
    record = row.record
    if record is None:
        return "**no record**"
    words = [_points(row.attack, course_grade.points(record)), course_grade.state(record)]
    messages = (*record.reasons, *record.incidents, *record.repairs)
    words += [_plain(text) for text in messages if text != course_grade.BY_HAND][:1]
    problems = course_grade.problems(row.attack, record, row.run)
    return "; ".join([*words, *(f"**{_plain(text)}**" for text in problems)])


def _points(attack: corpus.Attack, points: float | None) -> str:
    if points is None:
        return "**not graded**" if attack.least else "not graded"
    worth = f"{points:g} point{'s' * (points != 1)}"
    if attack.least:
        worth = f"{worth} of {attack.least:g}"
    return worth if attack.least <= points <= attack.most else f"**{worth}**"


def _plain(text: str) -> str:
    """Return a text of a record in a form that a Markdown table shows as plain text."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:160]).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|$~" else c for c in text)


# --- the report -----------------------------------------------------------------------------------


def summary(rows: list[Row]) -> str:
    """Return the lines of the table of counts."""
    hostile = [row for row in rows if not row.attack.least]
    honest = [row for row in rows if row.attack.least]
    counts = {
        f"gained points ({len(hostile)} attacks)": (
            sum((row.stock.points or 0) > row.attack.most for row in hostile),
            sum(bool(r.record) and course_grade.points(r.record) > r.attack.most for r in hostile),
        ),
        f"lost points ({len(honest)} honest accidents)": (
            sum((row.stock.points or 0) < row.attack.least for row in honest),
            sum(not r.record or course_grade.points(r.record) < r.attack.least for r in honest),
        ),
        "changed the points of other students, or prevented their grading": (
            sum(not row.stock.unharmed for row in rows),
            _harmed(rows),
        ),
        f"kept the run from ending within {stock.BATCH_TIMEOUT} s": (
            sum(not row.stock.ended for row in rows),
            0,
        ),
        "read data of other users": (
            sum(bool(row.stock.stolen) for row in rows),
            sum(bool(row.record and _stolen(row)) for row in rows),
        ),
        "left files or processes behind, or reached a service": (
            sum(bool(r.stock.escapes or r.stock.survivors or r.stock.reached) for r in rows),
            sum(len(r.escapes) + len(r.survivors) + len(r.reached) for r in _runs(rows)),
        ),
        "ran a script in the feedback page": (
            sum(bool(row.stock.active) for row in rows),
            sum(bool(row.run.active.get(course_grade.student(row.attack))) for row in rows),
        ),
    }
    return "\n".join(f"| {what} | {first} | {second} |" for what, (first, second) in counts.items())


def _runs(rows: list[Row]) -> list[course_grade.Run]:
    return list({id(row.run): row.run for row in rows}.values())


def _stolen(row: Row) -> list[str]:
    return canaries.seen(row.run.secrets, row.run.outputs[course_grade.student(row.attack)])


def _harmed(rows: list[Row]) -> int:
    """Return how many honest students did not get exactly their points."""
    right = [
        r
        for run in _runs(rows)
        for r in run.honest
        if course_grade.points(r) == corpus.HONEST_POINTS
    ]
    return len(corpus.HONEST) * len(_runs(rows)) - len(right)


def by_kind(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows by the title of their kind, without kinds that have no rows."""
    kinds = {
        title: [row for row in rows if row.attack.name.split("_")[0] == kind]
        for kind, title in KINDS.items()
    }
    return {title: some for title, some in kinds.items() if some}


def kinds(rows: list[Row]) -> str:
    """Return a Markdown table of how many submissions of each kind got past each grader."""
    lines = ["| kind | submissions | stock nbgrader | `course grade` |", "|---|--:|--:|--:|"]
    for title, some in by_kind(rows).items():
        # What should not have happened is bold.
        past = [
            sum("**" in cell for cell in cells)
            for cells in zip(*(r.cells for r in some), strict=True)
        ]
        lines.append(f"| {title} | {len(some)} | {' | '.join(map(str, past))} |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """Return a Markdown table for each kind of attack."""
    parts = []
    for title, some in by_kind(rows).items():
        lines = ["| attack | tries | stock nbgrader | `course grade` |", "|---|---|---|---|"]
        lines += [
            f"| {r.attack.name} | {_plain(r.attack.tries)} | {' | '.join(r.cells)} |" for r in some
        ]
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def page(rows: list[Row]) -> str:
    """Return the text of docs/hostile.md."""
    from importlib.metadata import version

    return PAGE.format(
        count=len(rows),
        attacks=sum(not row.attack.least for row in rows),
        honest=sum(bool(row.attack.least) for row in rows),
        version=version("nbgrader"),
        date=date.today().isoformat(),
        machine=machine(),
        summary=summary(rows),
        seconds=sum(run.seconds for run in _runs(rows)),
        memory=max(run.memory for run in _runs(rows)) / 1e6,
        kinds=kinds(rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", default="", help="grade only attacks whose names contain this text"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="number of containers that run at the same time"
    )
    parser.add_argument(
        "--again", action="store_true", help="discard the saved results of stock nbgrader"
    )
    options = parser.parse_args()
    if reason := container.missing():
        parser.exit(2, f"stock nbgrader can't be run here: {reason}\n")
    attacks = corpus.attacks(options.only)
    results = run_stock(attacks, options.jobs, options.again)
    runs = run_course_grade(attacks)
    rows = []
    for attack in attacks:
        run = runs[attack.assignment]
        record = run.records.get(course_grade.student(attack))
        rows.append(Row(attack, results[attack.name], record, run))
    if options.only:
        print(f"{summary(rows)}\n\n{table(rows)}")
    else:
        REPORT.write_text(page(rows), encoding="utf-8")
        TABLE.write_text(table(rows), encoding="utf-8")
    failed = any(course_grade.problems(row.attack, row.record, row.run) for row in rows)
    sys.exit(failed or any(run.escapes or run.survivors for run in runs.values()))


if __name__ == "__main__":
    main()
