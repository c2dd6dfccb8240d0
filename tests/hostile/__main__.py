"""The whole corpus, on stock nbgrader and on `course grade`; writes docs/hostile.md.

    python -m tests.hostile                     what hasn't been run yet, on both sides
    python -m tests.hostile --only bomb_        those whose name holds a text; prints the table
    python -m tests.hostile --again --jobs 2    everything, anew

Results lie in build/hostile/, so that a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from tests.hostile import box, canaries, corpus, stock
from tests.mutation import ROOT

RESULTS = ROOT / "build" / "hostile"


def run_stock(attacks: list[corpus.Attack], jobs: int, again: bool) -> dict[str, stock.Result]:
    """Every attack on stock nbgrader, each in a container of its own, `jobs` at a time."""
    kept = Kept(RESULTS / "stock.json", again)
    secrets = canaries.canaries()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        os.chmod(folder, 0o755)
        prepared = stock.template(Path(folder), secrets)
        todo = [attack for attack in attacks if not kept.has(attack)]
        runs = {pool.submit(stock.attack, a.name, prepared, secrets): a for a in todo}
        for number, done in enumerate(as_completed(runs), 1):
            attack, result = runs[done], done.result()
            kept.keep(attack, asdict(result))
            print(f"{number}/{len(todo)} {attack.name}: {words(result)}", flush=True)
    return {attack.name: stock.Result.of(kept.get(attack)) for attack in attacks}


class Kept:
    """Results of earlier runs, by name and text of the attack."""

    def __init__(self, path: Path, again: bool):
        self._path = path
        self._found = {}
        if path.is_file() and not again:
            self._found = json.loads(path.read_text(encoding="utf-8"))

    def has(self, attack: corpus.Attack) -> bool:
        return self._key(attack) in self._found

    def get(self, attack: corpus.Attack) -> dict:
        return self._found[self._key(attack)]

    def keep(self, attack: corpus.Attack, result: dict) -> None:
        self._found[self._key(attack)] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._found, indent=1), encoding="utf-8")
        part.replace(self._path)

    @staticmethod
    def _key(attack: corpus.Attack) -> str:
        text = (corpus.FOLDER / f"{attack.name}.py").read_bytes()
        return f"{attack.name} {hashlib.sha256(text).hexdigest()[:16]}"


# --- in words -------------------------------------------------------------------------------------


def words(result: stock.Result) -> str:
    """What became of an attack on stock nbgrader, in few words."""
    said = ["not graded" if result.points is None else f"{result.points:g} points"]
    if not result.ended:
        said.append(f"the batch didn't end in {stock.LIMIT} s")
    if missing := sum(points is None for points in result.others):
        said.append(f"{missing} of the 2 others not graded")
    if any(p not in (None, corpus.HONEST_POINTS) for p in result.others):
        said.append("points of others changed")
    for verb, found in (
        ("read", result.stolen),
        ("changed or left", result.escapes),
        ("still running", result.survivors),
        ("reached", result.reached),
        ("acts in the page", result.active),
    ):
        if found:
            said.append(f"{verb}: {', '.join(found[:4])}{' …' if len(found) > 4 else ''}")
    return "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="attacks whose name holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="containers at a time")
    parser.add_argument("--again", action="store_true", help="run what has been run before, too")
    options = parser.parse_args()
    if fault := box.missing():
        parser.exit(2, f"stock nbgrader can't be shown here: {fault}\n")
    run_stock(corpus.attacks(options.only), options.jobs, options.again)


if __name__ == "__main__":
    main()
