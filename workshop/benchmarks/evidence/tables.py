"""The tables of `evidence`, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from course_utils.evidence import BOUNDS, LABELS, Evidence, best_trials, parse
from course_utils.significance import conclusion, difference
from course_utils.variants import Trial
from workshop.benchmarks.evidence.plan import CLAIM, FORMATS, STORIES, Group, missing
from workshop.benchmarks.runner import Report, table

# The scores in the tables, and the columns of `results`.
SCORES = ("section_right", "house_style")
HEAD = ("learning rate", "test loss", "section right", "house style")


def ways(report: Report) -> str | None:
    """Return a table with the results of each way, and its differences to full fine-tuning."""
    if missing(report["runs"]):
        return None
    evidence = parse(report)
    against = ("against full: test loss", "section right", "house style")
    rows = [
        [
            LABELS[group.way],
            *results(evidence, group),
            *(against_full(evidence, group.way, metric) for metric in ("test_losses", *SCORES)),
        ]
        for group in (*CLAIM, *FORMATS)
    ]
    return table(("", *HEAD, *against), rows)


def results(evidence: Evidence, group: Group) -> list[str]:
    """Return the learning rate of a group, its test loss, and its scores."""
    runs = evidence.tuned(group.way, group.stories)
    scores = (percent(evidence.scores(group.way, name, group.stories)) for name in SCORES)
    return [f"{runs['learning_rate'].iloc[0]:g}", spread(runs["test"]), *scores]


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
    if missing(report["runs"]):
        return None
    evidence, groups = parse(report), (*reversed(STORIES), CLAIM[1])
    rows = [[str(group.stories), *results(evidence, group)] for group in groups]
    return table(("stories", *HEAD), rows)


def tiny(report: Report) -> str | None:
    """Return a table with the ways and variants that were tried on the tiny Llama at rank 8."""
    if len(report["trials"]) < 2:
        return None
    best = best_trials(parse(report).trials)
    usual = Trial()
    best = best[(best["rank"] == usual.rank) & (best["alpha"] == usual.alpha)]
    rows = [
        [
            LABELS.get(way, way),
            f"{trials['learning_rate'].iloc[0]:g}",
            spread(trials["target"]),
            spread(trials["source"]),
        ]
        for way, trials in best.groupby("way", sort=False)
    ]
    return table(("way", "learning rate", "loss on headlines", "loss on stories"), rows)


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
        f"Losses are in nats per token (tiny Llama: per byte). Values are means over seeds, with "
        f"the lowest and the highest seed in brackets; differences have 95% intervals over stories "
        f"and seeds. The tables are based on {len(report['runs'])} runs and {trials} trials, from "
        f"{dates[0]} to {dates[-1]} on {'; '.join(machines)}."
    )
