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
import itertools
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_atomically
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


@dataclass(frozen=True)
class Row:
    """One attack and its results with both graders; `record` is the attack's record in `run`."""

    attack: corpus.Attack
    stock: stock.Result
    record: Record | None
    run: course_grade.Run

    @property
    def points(self) -> float:
        """Return the points from `course grade`."""
        return course_grade.points(self.record) if self.record else 0

    @property
    def cells(self) -> tuple[str, str]:
        """Return the results of stock nbgrader and of `course grade` in words."""
        return _stock_words(self.attack, self.stock), _course_grade_words(self)


# --- grading --------------------------------------------------------------------------------------


def run_stock(attacks: list[corpus.Attack], jobs: int, again: bool) -> dict[str, stock.Result]:
    """Grade attacks with stock nbgrader, each in a separate container, `jobs` at a time."""
    saved: dict[str, dict[str, Any]] = {}
    if RESULTS.is_file() and not again:
        saved = json.loads(RESULTS.read_text(encoding="utf-8"))
    secrets = canaries.canaries()
    keys = {attack.name: _key(attack) for attack in attacks}
    todo = [attack for attack in attacks if keys[attack.name] not in saved]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        os.chmod(folder, 0o755)
        prepared = stock.template(Path(folder), secrets) if todo else Path(folder)
        runs = {pool.submit(stock.attack, a.name, prepared, secrets): a for a in todo}
        for number, done in enumerate(as_completed(runs), 1):
            attack, result = runs[done], done.result()
            saved[keys[attack.name]] = asdict(result)
            write_atomically(RESULTS, json.dumps(saved, indent=1).encode())
            words = _stock_words(attack, result)
            print(f"{number}/{len(todo)} {attack.name}: {words}", flush=True)
    return {name: stock.Result(**saved[key]) for name, key in keys.items()}


def _key(attack: corpus.Attack) -> str:
    """Return the attack's name and a digest of everything that its result depends on."""
    text = repr(attack) + corpus.TOOLS.read_text(encoding="utf-8")
    return f"{attack.name} {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"


def run_course_grade(attacks: list[corpus.Attack]) -> dict[str, course_grade.Run]:
    """Grade attacks with `course grade`, and return one run for each assignment, by its name."""
    folder = Path(tempfile.mkdtemp())
    try:
        return {
            name: course_grade.run([a for a in attacks if a.assignment == name], folder / name)
            for name in sorted({attack.assignment for attack in attacks})
        }
    finally:
        # Some folders are nested too deeply for Python to delete them.
        subprocess.run(["rm", "-rf", folder], check=True)


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


def summary(rows: list[Row], runs: list[course_grade.Run]) -> str:
    """Return the lines of the table of counts."""
    hostile = [row for row in rows if not row.attack.least]
    honest = [row for row in rows if row.attack.least]
    others = [course_grade.points(record) for run in runs for record in run.honest]
    harmed = len(corpus.HONEST) * len(runs) - others.count(corpus.HONEST_POINTS)
    counts = {
        f"gained points ({len(hostile)} attacks)": (
            sum((row.stock.points or 0) > row.attack.most for row in hostile),
            sum(row.points > row.attack.most for row in hostile),
        ),
        f"lost points ({len(honest)} honest accidents)": (
            sum((row.stock.points or 0) < row.attack.least for row in honest),
            sum(row.points < row.attack.least for row in honest),
        ),
        "changed the points of other students, or prevented their grading": (
            sum(not row.stock.unharmed for row in rows),
            harmed,
        ),
        f"kept the run from ending within {stock.BATCH_TIMEOUT} s": (
            sum(not row.stock.ended for row in rows),
            0,
        ),
        "read data of other users": (
            sum(bool(row.stock.stolen) for row in rows),
            sum(bool(canaries.seen(r.secrets, text)) for r in runs for text in r.outputs.values()),
        ),
        "left files or processes behind, or reached a service": (
            sum(bool(r.stock.escapes or r.stock.survivors or r.stock.reached) for r in rows),
            sum(len(run.escapes) + len(run.survivors) + len(run.reached) for run in runs),
        ),
        "ran a script in the feedback page": (
            sum(bool(row.stock.active) for row in rows),
            sum(bool(elements) for run in runs for elements in run.active.values()),
        ),
    }
    return "\n".join(f"| {what} | {first} | {second} |" for what, (first, second) in counts.items())


def by_kind(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows by the title of their kind."""
    return {
        title: list(some)
        for title, some in itertools.groupby(rows, lambda row: corpus.title(row.attack))
    }


def kinds(rows: list[Row]) -> str:
    """Return a Markdown table of how many submissions of each kind got past each grader."""
    lines = ["| kind | submissions | stock nbgrader | `course grade` |", "|---|--:|--:|--:|"]
    for title, some in by_kind(rows).items():
        # What should not have happened is bold.
        past = [sum("**" in row.cells[grader] for row in some) for grader in (0, 1)]
        lines.append(f"| {title} | {len(some)} | {past[0]} | {past[1]} |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """Return a Markdown table for each kind of attack."""
    lines = []
    for title, some in by_kind(rows).items():
        lines += [f"\n## {title}\n", "| attack | tries | stock nbgrader | `course grade` |"]
        lines.append("|---|---|---|---|")
        for row in some:
            cells = (row.attack.name, _plain(row.attack.tries), *row.cells)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(rows: list[Row], runs: list[course_grade.Run]) -> str:
    """Return the text of docs/hostile.md."""
    return PAGE.format(
        count=len(rows),
        attacks=sum(not row.attack.least for row in rows),
        honest=sum(bool(row.attack.least) for row in rows),
        version=version("nbgrader"),
        date=date.today().isoformat(),
        machine=machine(),
        summary=summary(rows, runs),
        seconds=sum(run.seconds for run in runs),
        memory=max(run.memory for run in runs) / 1e6,
        kinds=kinds(rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="a text in the names of the attacks to grade")
    parser.add_argument("--jobs", type=int, default=2, help="the number of containers at a time")
    parser.add_argument("--again", action="store_true", help="discard saved results of nbgrader")
    options = parser.parse_args()
    if reason := container.missing():
        parser.exit(2, f"stock nbgrader can't be run here: {reason}\n")
    attacks = corpus.attacks(options.only)
    results = run_stock(attacks, options.jobs, options.again)
    by_assignment = run_course_grade(attacks)
    runs = list(by_assignment.values())
    rows = []
    for attack in attacks:
        run = by_assignment[attack.assignment]
        record = run.records.get(course_grade.student(attack))
        rows.append(Row(attack, results[attack.name], record, run))
    if options.only:
        print(f"{summary(rows, runs)}\n{table(rows)}")
    else:
        REPORT.write_text(page(rows, runs), encoding="utf-8")
        TABLE.write_text(table(rows), encoding="utf-8")
    failed = any(course_grade.problems(row.attack, row.record, row.run) for row in rows)
    sys.exit(failed or any(run.escapes or run.survivors for run in runs))


if __name__ == "__main__":
    main()
