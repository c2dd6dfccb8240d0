"""The whole corpus on stock nbgrader and on `course grade`; writes docs/hostile.md and a table.

    python -m tests.hostile                  what stock nbgrader hasn't been shown yet, then ours
    python -m tests.hostile --only bomb_     attacks whose name holds a text; prints the table
    python -m tests.hostile --again          stock nbgrader is shown everything anew

What stock nbgrader did is saved in build/hostile/, so that a run that was cut off goes on. It takes
about 40 minutes on two cores, `course grade` a few. The table of all submissions is written to
build/hostile/all.md.
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

from course_utils.grading.results.records import Record
from tests.hostile import box, canaries, corpus, ours, stock
from tests.machine import machine
from tests.mutation import ROOT

RESULTS = ROOT / "build" / "hostile" / "stock.json"
REPORT = ROOT / "docs" / "hostile.md"
TABLE = RESULTS.with_name("all.md")
PAGE = """\
# Hostile submissions, graded

This page is for instructors who want to know how safe grading is. It compares two graders, stock
nbgrader {version} and `course grade`, on {count} submissions. A grader should give each submission
exactly the points that it deserves. {attacks} submissions attack the grader, and {honest} are
honest accidents. Their notebooks are in `tests/hostile/submissions/`. Stock nbgrader graded each
submission between the submissions of two honest students, in a separate container. `course grade`
graded all submissions in one run, together with those of honest students.

The next table counts how many submissions did harm. A submission gains points if it gets more
points than its honest part deserves. The numbers were measured by `python -m tests.hostile` on
{date}: {machine}.

| what a submission did | with stock nbgrader | with `course grade` |
|---|--:|--:|
{summary}

`course grade` needed {seconds:.0f} s for all submissions. The grading process itself used at most
{memory:.0f} MB of memory; submissions used memory only in sandboxes. No submission left a file
outside its sandbox, no process of a submission survived, and no submission reached a service that
was listening.

## By kind

The table shows how many submissions of each kind got past each grader. A submission got past a
grader if it gained or lost points, harmed other students, read files of other users, left something
behind or did not end. The notebook of a submission shows what it tries. `python -m tests.hostile
--only bomb_` prints a table of all submissions whose name contains `bomb_`, with the result of
each.

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
    """One attack and what became of it on both sides; `run` is the one that holds `record`."""

    attack: corpus.Attack
    stock: stock.Result
    record: Record | None
    run: ours.Run

    @property
    def cells(self) -> tuple[str, str]:
        """Both sides in words."""
        return _stock_words(self.attack, self.stock), _our_words(self)


# --- both sides -----------------------------------------------------------------------------------


def run_stock(attacks: list[corpus.Attack], jobs: int, again: bool) -> dict[str, stock.Result]:
    """Every attack on stock nbgrader, each in a container of its own, `jobs` at a time."""
    kept = Kept(RESULTS, again)
    secrets = canaries.canaries()
    todo = [attack for attack in attacks if attack not in kept]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        os.chmod(folder, 0o755)
        prepared = stock.template(Path(folder), secrets) if todo else Path(folder)
        runs = {pool.submit(stock.attack, a.name, prepared, secrets): a for a in todo}
        for number, done in enumerate(as_completed(runs), 1):
            attack, result = runs[done], done.result()
            kept.keep(attack, result)
            words = _stock_words(attack, result)
            print(f"{number}/{len(todo)} {attack.name}: {words}", flush=True)
    return {attack.name: kept[attack] for attack in attacks}


def run_ours(attacks: list[corpus.Attack]) -> dict[str, ours.Run]:
    """Every attack on `course grade`: one run for each assignment, by its name."""
    grouped: dict[str, list[corpus.Attack]] = {}
    for attack in attacks:
        grouped.setdefault(attack.assignment, []).append(attack)
    folder = Path(tempfile.mkdtemp())
    try:
        return {name: ours.run(some, folder / name) for name, some in grouped.items()}
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)  # it has folders too deep for Python


class Kept:
    """What stock nbgrader did in earlier runs, by name and text of the attack."""

    def __init__(self, path: Path, again: bool):
        self._path, self._found = path, {}
        if path.is_file() and not again:
            self._found = json.loads(path.read_text(encoding="utf-8"))

    def __contains__(self, attack: corpus.Attack) -> bool:
        return _key(attack) in self._found

    def __getitem__(self, attack: corpus.Attack) -> stock.Result:
        return stock.Result.of(self._found[_key(attack)])

    def keep(self, attack: corpus.Attack, result: stock.Result) -> None:
        """Add a result, and write all of them."""
        self._found[_key(attack)] = asdict(result)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._found, indent=1), encoding="utf-8")
        part.replace(self._path)


def _key(attack: corpus.Attack) -> str:
    text = (corpus.FOLDER / f"{attack.name}.py").read_bytes()
    return f"{attack.name} {hashlib.sha256(text).hexdigest()[:16]}"


# --- in words -------------------------------------------------------------------------------------


def _stock_words(attack: corpus.Attack, result: stock.Result) -> str:
    said = [_points(attack, result.points)]
    if not result.ended:
        said.append(f"**not over after {stock.LIMIT} s**")
    if missing := sum(points is None for points in result.others):
        said.append(f"**{missing} of the 2 others not graded**")
    if any(p not in (None, corpus.HONEST_POINTS) for p in result.others):
        said.append("**points of others changed**")
    for verb, found in (
        ("read", result.stolen),
        ("changed or left", result.escapes),
        ("still running", [line.split()[-1] for line in result.survivors[:1]]),
        ("reached", result.reached),
        ("acts in the page", [f"`{name}`" for name in result.active]),
    ):
        if found:
            said.append(f"**{verb}: {', '.join(found[:4])}{' …' if len(found) > 4 else ''}**")
    return "; ".join(said)


def _our_words(row: Row) -> str:
    record = row.record
    if record is None:
        return "**no record**"
    said = [_points(row.attack, ours.points(record)), ours.state(record)]
    told = (*record.reasons, *record.incidents, *record.repairs)
    said += [_plain(text) for text in told if text != ours.BY_HAND][:1]
    wrong = ours.complaints(row.attack, record, row.run)
    return "; ".join([*said, *(f"**{_plain(text)}**" for text in wrong)])


def _points(attack: corpus.Attack, points: float | None) -> str:
    if points is None:
        return "**not graded**" if attack.least else "not graded"
    worth = f"{points:g} point{'s' * (points != 1)}"
    if attack.least:
        worth = f"{worth} of {attack.least:g}"
    return worth if attack.least <= points <= attack.most else f"**{worth}**"


def _plain(text: str) -> str:
    """A text from a record, as the cell of a table in Markdown shows it."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:160]).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|$~" else c for c in text)


# --- the report -----------------------------------------------------------------------------------


def summary(rows: list[Row]) -> str:
    """The lines of the table that counts."""
    hostile = [row for row in rows if not row.attack.least]
    honest = [row for row in rows if row.attack.least]
    counts = {
        f"gained points ({len(hostile)} attacks)": (
            sum((row.stock.points or 0) > row.attack.most for row in hostile),
            sum(bool(r.record) and ours.points(r.record) > r.attack.most for r in hostile),
        ),
        f"lost points ({len(honest)} honest accidents)": (
            sum((row.stock.points or 0) < row.attack.least for row in honest),
            sum(not r.record or ours.points(r.record) < r.attack.least for r in honest),
        ),
        "changed the points of other students, or prevented their grading": (
            sum(not row.stock.unharmed for row in rows),
            _harmed(rows),
        ),
        f"kept the run from ending within {stock.LIMIT} s": (
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
            sum(bool(row.run.active.get(ours.student(row.attack))) for row in rows),
        ),
    }
    return "\n".join(f"| {what} | {theirs} | {our} |" for what, (theirs, our) in counts.items())


def _runs(rows: list[Row]) -> list[ours.Run]:
    return list({id(row.run): row.run for row in rows}.values())


def _stolen(row: Row) -> list[str]:
    return canaries.seen(row.run.secrets, row.run.loot[ours.student(row.attack)])


def _harmed(rows: list[Row]) -> int:
    """Honest students beside the attacks who didn't get their points."""
    right = [r for run in _runs(rows) for r in run.honest if ours.points(r) == corpus.HONEST_POINTS]
    return len(corpus.HONEST) * len(_runs(rows)) - len(right)


def by_kind(rows: list[Row]) -> dict[str, list[Row]]:
    """Title of each kind of attack → its rows, without kinds that have none."""
    found = {
        title: [row for row in rows if row.attack.name.split("_")[0] == kind]
        for kind, title in KINDS.items()
    }
    return {title: some for title, some in found.items() if some}


def kinds(rows: list[Row]) -> str:
    """A markdown table: how many submissions of each kind got past each grader."""
    lines = ["| kind | submissions | stock nbgrader | `course grade` |", "|---|--:|--:|--:|"]
    for title, some in by_kind(rows).items():
        # A cell has in bold what should not have happened.
        past = [
            sum("**" in cell for cell in cells)
            for cells in zip(*(r.cells for r in some), strict=True)
        ]
        lines.append(f"| {title} | {len(some)} | {' | '.join(map(str, past))} |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """A markdown table for each kind of attack."""
    parts = []
    for title, some in by_kind(rows).items():
        lines = ["| attack | tries | stock nbgrader | `course grade` |", "|---|---|---|---|"]
        lines += [
            f"| {r.attack.name} | {_plain(r.attack.tries)} | {' | '.join(r.cells)} |" for r in some
        ]
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def page(rows: list[Row]) -> str:
    """The text of docs/hostile.md."""
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
    parser.add_argument("--only", default="", help="attacks whose name holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="containers at a time")
    parser.add_argument("--again", action="store_true", help="show stock nbgrader all of them anew")
    options = parser.parse_args()
    if fault := box.missing():
        parser.exit(2, f"stock nbgrader can't be shown here: {fault}\n")
    attacks = corpus.attacks(options.only)
    theirs, runs = run_stock(attacks, options.jobs, options.again), run_ours(attacks)
    rows = []
    for attack in attacks:
        run = runs[attack.assignment]
        record = run.records.get(ours.student(attack))
        rows.append(Row(attack, theirs[attack.name], record, run))
    if options.only:
        print(f"{summary(rows)}\n\n{table(rows)}")
    else:
        REPORT.write_text(page(rows), encoding="utf-8")
        TABLE.write_text(table(rows), encoding="utf-8")
    faults = [fault for row in rows for fault in ours.complaints(row.attack, row.record, row.run)]
    faults += [fault for run in runs.values() for fault in (*run.escapes, *run.survivors)]
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
