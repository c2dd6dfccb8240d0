"""Measure the deck's claim: are LoRA and QLoRA as good as full fine-tuning?

    course bench evidence                        all results that are not in the report yet
    course bench evidence --only nf4 --seed 0    repeat one saved run, and compare the results
    course bench evidence --parts speed          the speed of each way, on an idle machine

SmolLM2-135M is trained on the news briefs of lecture 07 in several ways, on all 336 stories, and
with QLoRA also on fewer stories. `evidence.plan` lists the runs and says how learning rates are
chosen. After training, each model answers the 96 test stories. Three more results show what it
forgot: its loss on general texts, its loss on the answers that the untrained model gave to general
questions, and how many of these questions it answers correctly. A tiny Llama whose weights never
were quantized repeats the comparison, and compares ranks and variants of LoRA (`evidence.tiny`).

Each result is saved when it is finished, in course_utils/data/evidence.json, which lecture 08
reads. An interrupted benchmark continues with the first result that is missing. Each run has one
thread, so its results don't depend on the number of cores.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unittest.mock import patch

import torch

from course_utils.evidence import ALL, best_rate, mean_losses
from course_utils.machine.validation import CourseError
from workshop.benchmarks.evidence import smollm2, speed, tables, tiny
from workshop.benchmarks.evidence.plan import WAYS, Cell, Run, missing
from workshop.benchmarks.runner import ROOT, Benchmark, Report, load_report, measured_here

DATA = ROOT / "course_utils" / "data" / "evidence.json"
PARTS = ("smollm2", "tiny", "speed")
SETTINGS = {"smollm2": smollm2.SETTINGS, "tiny": tiny.COMMON}
# A report without results. Trials are lines of CSV, below a line with the names.
EMPTY: Report = {"settings": SETTINGS, "chat": None, "runs": [], "trials": [",".join(tiny.COLUMNS)]}
# The report is saved after this many trials on the tiny Llama, which take a few seconds each.
TRIALS = 20
# How far the results of a repeated run may be from the saved results: on a processor that rounds
# differently, training ends with slightly other weights. Losses are in nats per token, and the
# others are shares of the test stories.
TOLERANCES = {"validation": 0.05, "test": 0.05, "section_right": 0.1, "house_style": 0.15}


def measure(parts: Sequence[str], only: str | None, seed: int) -> Iterator[Report]:
    """Yield the report after each result; with `only`, repeat one saved run and yield nothing.

    Raises:
        CourseError: the saved results were measured with other settings, or a run failed.
    """
    report = load_report(DATA, EMPTY)
    if only:
        repeat(report, only, seed)
        return
    if report["settings"] != SETTINGS:
        raise CourseError(
            f"the results in {DATA} were measured with other settings: {report['settings']} "
            f"instead of {SETTINGS}. Move the file, and all results are measured again."
        )
    if "smollm2" in parts:
        while cells := missing(report["runs"]):
            print(cells[0], flush=True)
            run = run_cell(cells[0], report["chat"])
            # The first run answers the general questions, and all others need its answers.
            chat = run.pop("chat_answers", report["chat"])
            report = report | {"chat": chat, "runs": [*report["runs"], run]}
            yield report
    if "tiny" in parts:
        while trials := tiny.missing(report["trials"]):
            print(f"tiny Llama: {len(trials)} trials", flush=True)
            rows = [*report["trials"], *map(tiny.measure, trials[:TRIALS])]
            report = report | {"trials": rows}
            yield report | {"trials_made": measured_here()}
    if "speed" in parts:
        yield report | {"speed": speed.measure()}


def run_cell(cell: Cell, chat: Sequence[str] | None) -> Run:
    """Run a cell in a process of its own, with one thread.

    Raises:
        CourseError: the run failed.
    """
    process = ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,))
    with patch.dict(os.environ, OMP_NUM_THREADS="1"), process:
        try:
            return process.submit(smollm2.measure, cell, chat).result()
        except Exception as error:
            raise CourseError(f"the run {cell} failed: {error}") from error


# --- one run again --------------------------------------------------------------------------------


def repeat(report: Report, way: str, seed: int) -> None:
    """Repeat the run of a way and a seed at its best learning rate, and print both results.

    Raises:
        CourseError: there is no such run with results, or they differ by more than TOLERANCES.
    """
    means = mean_losses(report["runs"], way)
    cells = [Cell(way, ALL, best_rate(report["runs"], way), seed)] if means else []
    saved = [run for cell in cells for run in report["runs"] if cell.of(run)]
    if not saved or saved[0]["validation"] is None:
        raise CourseError(f"there is no saved run of {way} with seed {seed} that has finished")
    print(f"repeating {cells[0]}", flush=True)
    again = run_cell(cells[0], report["chat"])
    if again["validation"] is None:
        raise CourseError(f"the repeated run stopped: {again['stopped']}")
    print(f"saved:    {saved[0]['machine']}\nrepeated: {again['machine']}")
    apart = []
    for name, tolerance in TOLERANCES.items():
        old, new = value(saved[0], name), value(again, name)
        print(f"{name:14} saved {old:.4f}, repeated {new:.4f}, tolerance {tolerance}")
        if abs(new - old) > tolerance:
            apart.append(name)
    if apart:
        raise CourseError(f"outside the tolerance: {', '.join(apart)}")


def value(run: Run, name: str) -> float:
    """Return a loss, or the share of test stories, of a saved run."""
    saved = run[name]
    return saved.count("1") / len(saved) if isinstance(saved, str) else saved


# --- the benchmark --------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the runs."""
    words = "what to measure; by default runs on SmolLM2 and trials on the tiny Llama"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:2], help=words)
    parser.add_argument("--only", choices=list(WAYS), help="repeat the saved run of this way")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the run to repeat")


BENCHMARK = Benchmark(
    measure,
    {
        "ways": tables.ways,
        "stories": tables.stories,
        "tiny": tables.tiny,
        "speed": tables.speed,
    },
    conditions=tables.conditions,
    add_options=add_options,
    data=DATA,
)
