"""Measure what batch size and capacity do to LoRA, and whether replay prevents forgetting.

    python -m workshop.benchmarks.evidence.claims batch capacity replay

Each result is saved when it is finished, in course_utils/data/claims.json, which lecture 08 reads.
An interrupted benchmark continues with the first result that is missing.

- batch: the tiny Llama reads the same number of windows of the training headlines, in batches of
  several sizes.
- capacity: the tiny Llama trains for equally many steps on fewer or more headlines.
- replay: SmolLM2 trains with QLoRA on all stories, and also on the answers that the untrained model
  gave to the REPLAYED general questions. The other 20 questions test it. The runs without replay
  are those of evidence.json.

On the tiny Llama, all learning rates are tried with seed 0. While the best rate is the lowest or
the highest that was tried, the next rate beyond it is tried, too. The rate with the lowest loss
then trains with the other seeds: with the lowest validation loss, or in part capacity, where the
question is how much a model can store, with the lowest training loss.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any
from zlib import crc32

import torch

from course_utils import forgetting, sft, variants
from course_utils.evidence import ALL, chosen_stories
from course_utils.machine import files
from course_utils.variants import Trial
from workshop.benchmarks.evidence import smollm2
from workshop.benchmarks.evidence.plan import WAYS, Cell
from workshop.benchmarks.lora_against_full import untried
from workshop.benchmarks.runner import ROOT, load_report, measured_here

DATA = ROOT / "course_utils" / "data" / "claims.json"
EVIDENCE = ROOT / "course_utils" / "data" / "evidence.json"
SEEDS = (0, 1, 2)
WINDOWS, STEPS = 3072, 300
RATES = {"full": (5e-4, 1e-3, 2e-3, 4e-3), "lora": tuple(2.5e-4 * 2**n for n in range(7))}
# The loss that chooses the learning rate.
METRICS = {"batch": "validation", "capacity": "train"}
LORA = {"batch": (8, 64), "capacity": (1, 4, 16, 64)}
REPLAY = Cell("nf4-dq", ALL, 4e-3)
# The questions in the order of a fixed hash: the first half is replayed, and the others are asked.
BY_HASH = sorted(forgetting.load_questions(), key=lambda q: crc32(q["id"].encode()))
REPLAYED = [question["id"] for question in BY_HASH[: len(BY_HASH) // 2]]

Run = dict[str, Any]


def settings(part: str) -> Iterator[Run]:
    """Yield what the runs of a part on the tiny Llama compare."""
    sizes = [(ALL, batch) for batch in (4, 16, 64, 256)]
    if part == "capacity":
        sizes = [(headlines, variants.BATCH) for headlines in (21, 84, 336)]
    for headlines, batch in sizes:
        steps = STEPS if part == "capacity" else WINDOWS // batch
        common = {"part": part, "headlines": headlines, "batch": batch, "steps": steps}
        yield common | {"way": "full", "rank": 0}
        yield from (common | {"way": "lora", "rank": rank} for rank in LORA[part])


def missing(part: str, runs: Sequence[Run]) -> list[Run]:
    """Return the runs on the tiny Llama that the plan already determines and that aren't saved."""
    todo = []
    for setting in settings(part):
        saved = [run for run in runs if setting.items() <= run.items()]
        tried = {run["learning_rate"]: run[METRICS[part]] for run in saved if run["seed"] == 0}
        rates = untried(RATES[setting["way"]], tried)
        seeds = SEEDS[:1] if rates else SEEDS
        rates = rates or [min(tried, key=tried.__getitem__)]
        todo += [setting | {"learning_rate": r, "seed": s} for r in rates for s in seeds]
    return [run for run in todo if not any(run.items() <= old.items() for old in runs)]


def tiny(run: Run) -> Run:
    """Train the tiny Llama, and return the run with its losses in nats per byte."""
    trial = Trial(run["way"], run["learning_rate"], run["rank"] or 1, seed=run["seed"])
    model = variants.prepare(trial)
    headlines = [story["headline"] for story in chosen_stories(run["headlines"], run["seed"])]
    text = torch.tensor(list("\n".join(headlines).encode()))
    optimizer = variants.make_optimizer(model, trial)
    variants.train(model, text, optimizer, run["steps"], run["seed"], run["batch"])
    losses = {"train": variants.loss_on(model, text), **variants.losses(model)}
    return run | {name: round(loss, 5) for name, loss in losses.items()}


@cache
def untrained_answers() -> list[str]:
    """Return the untrained model's answers to all general questions."""
    return load_report(EVIDENCE)["chat"]


def replay(run: Run) -> Run:
    """Train SmolLM2 with replay, and return the run with its results."""
    cell = replace(REPLAY, seed=run["seed"])
    model, tokenizer = smollm2.load(WAYS[cell.way])
    pairs = zip(forgetting.load_questions(), untrained_answers(), strict=True)
    replayed = [pair for pair in pairs if pair[0]["id"] in REPLAYED]
    rows = sft.encode_all(forgetting.conversations(*zip(*replayed, strict=True)), tokenizer)
    for row in rows:
        # An answer may have been cut off, so the model doesn't learn to end there.
        row["labels"][-1] = sft.IGNORE
    # One replayed answer a step, on average: the rows of all steps are shuffled together.
    more = [rows[k % len(rows)] for k in range(smollm2.STEPS)]
    model, trained = smollm2.train(model, tokenizer, cell, more)
    results = smollm2.evaluate(model, tokenizer, cell, untrained_answers())
    return {**run, **measured_here(), **trained, **results}


def main(parts: Sequence[str]) -> None:
    """Measure the missing results of some parts, and save each."""
    torch.set_num_threads(1)
    while True:
        report = load_report(DATA, {"replayed": REPLAYED, "tiny": [], "replay": []})
        todo = [run for part in parts if part in METRICS for run in missing(part, report["tiny"])]
        kind, measure = "tiny", tiny
        if not todo and "replay" in parts:
            done = {run["seed"] for run in report["replay"]}
            todo = [{"seed": seed} for seed in SEEDS if seed not in done]
            kind, measure = "replay", replay
        if not todo:
            return
        print(len(todo), todo[0], flush=True)
        run = measure(todo[0])
        # Another process may have saved its results in the meantime.
        report = load_report(DATA, report)
        report = report | {kind: [*report[kind], run]}
        files.write_text(DATA, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
