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
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_atomically
from tests.hostile import canaries, container, corpus, course_grade, stock
from tests.machine import machine
from tests.mutation import ROOT

RESULTS = ROOT / "build" / "hostile" / "stock.json"
REPORT = ROOT / "docs" / "hostile.md"
TABLE = RESULTS.with_name("all.md")
PAGE = """\
# Hostile submissions, graded

This page is for instructors who want to know how safe grading is. We graded {count} submissions
with two graders: stock nbgrader with its default settings, and `course grade`. {attacks} of the
submissions attack the grader. The other {honest} are honest accidents, such as a deleted test cell.
Stock nbgrader graded each submission in a separate container, between the submissions of two honest
students.

A submission gains points if it gets more points than its honest answers deserve. The numbers were
measured by `python -m tests.hostile` on {date}, with nbgrader {version}: {machine}.

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

| kind | submissions | stock nbgrader | `course grade` |
|---|--:|--:|--:|
{kinds}
"""


# What a submission must not do to a grader: the conditions, by their words in the report.
HARMS: dict[str, Callable[[corpus.Attack, stock.Result], bool]] = {
    "gained points": lambda a, result: not a.least and (result.points or 0) > a.most,
    "lost points": lambda a, result: (result.points or 0) < a.least,
    "changed the points of other students, or prevented their grading": (
        lambda _, result: set(result.others) != {corpus.HONEST_POINTS}
    ),
    f"kept the run from ending within {stock.BATCH_TIMEOUT} s": lambda _, result: not result.ended,
    "read data of other users": lambda _, result: bool(result.stolen),
    "left files or processes behind, or reached a service": (
        lambda _, result: bool(result.escapes or result.survivors or result.reached)
    ),
    "ran a script or showed hidden inputs in the feedback page": (
        lambda _, result: bool(result.active)
    ),
}


@dataclass(frozen=True)
class Row:
    """One attack and its results with stock nbgrader and with `course grade`."""

    attack: corpus.Attack
    results: tuple[stock.Result, stock.Result]

    @property
    def harms(self) -> list[list[str]]:
        """Return what the attack did to each grader."""
        return [[w for w, holds in HARMS.items() if holds(self.attack, r)] for r in self.results]

    @property
    def cells(self) -> list[str]:
        """Return the cells of the attack's row in a Markdown table."""
        cells = [self.attack.name, _plain(self.attack.tries)]
        for result, harms in zip(self.results, self.harms, strict=True):
            points = "not graded" if result.points is None else f"{result.points:g} points"
            details = (*result.stolen, *result.escapes, *result.survivors, *result.reached)
            words = [f"**{text}**" for text in harms] + [*map(_plain, details[:4])]
            cells.append("; ".join([points, *words]))
        return cells


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
            print(f"{number}/{len(todo)} {attack.name}: {result.points} points", flush=True)
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


def result_of(attack: corpus.Attack, run: course_grade.Run) -> stock.Result:
    """Return the result of `course grade`. Escapes of one attack count for the whole run."""
    student = course_grade.student(attack)
    record = run.records.get(student)
    return stock.Result(
        points=course_grade.points(record) if record else None,
        others=[course_grade.points(record) for record in run.honest],
        ended=True,
        stolen=canaries.seen(run.secrets, run.outputs.get(student, "")),
        escapes=run.escapes,
        survivors=run.survivors,
        reached=sorted(run.reached),
        active=run.active.get(student, ()),
    )


# --- the report -----------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Return a text of a submission in a form that a Markdown table shows as plain text."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:160]).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|$~" else c for c in text)


def by_kind(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows by the title of their kind."""
    kinds = itertools.groupby(rows, lambda row: corpus.title(row.attack))
    return {title: list(some) for title, some in kinds}


def summary(rows: list[Row]) -> str:
    """Return the lines of the table of counts."""
    counts = [Counter(chain.from_iterable(r.harms[grader] for r in rows)) for grader in (0, 1)]
    return "\n".join(f"| {text} | {counts[0][text]} | {counts[1][text]} |" for text in HARMS)


def kinds(rows: list[Row]) -> str:
    """Return the lines of the table of how many submissions of each kind harmed each grader."""
    lines = []
    for title, some in by_kind(rows).items():
        harmful = [sum(bool(row.harms[grader]) for row in some) for grader in (0, 1)]
        lines.append(f"| {title} | {len(some)} | {harmful[0]} | {harmful[1]} |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """Return a Markdown table for each kind of attack."""
    lines = []
    for title, some in by_kind(rows).items():
        lines += [f"\n## {title}\n", "| attack | tries | stock nbgrader | `course grade` |"]
        lines += ["|---|---|---|---|", *(f"| {' | '.join(row.cells)} |" for row in some)]
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
        summary=summary(rows),
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
    runs = run_course_grade(attacks)
    rows = [Row(a, (results[a.name], result_of(a, runs[a.assignment]))) for a in attacks]
    if options.only:
        print(f"{summary(rows)}\n{table(rows)}")
    else:
        REPORT.write_text(page(rows, list(runs.values())), encoding="utf-8")
        TABLE.write_text(table(rows), encoding="utf-8")
    sys.exit(any(row.harms[1] for row in rows))


if __name__ == "__main__":
    main()
