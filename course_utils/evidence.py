"""Read the measurements of lecture 08: is QLoRA as good as full fine-tuning?

    make bench ARGS=evidence ──> data/evidence.json ──> load() ──┬─> tuned, scores    SmolLM2
                                                                 └─> best_trials      tiny Llama

A run fine-tunes SmolLM2-135M on the news briefs. A trial fine-tunes the tiny Llama of `variants`.
Both are saved with their settings, so every table and picture can be computed again from the raw
results. Learning rates are chosen on the validation split only.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from course_utils import news
from course_utils.machine.validation import one_of

# The ways of training, with the labels of tables and pictures.
LABELS = {
    "full": "full fine-tuning",
    "full-16": "full fine-tuning, saved in 16 bits",
    "lora": "LoRA, 16 bits",
    "nf4-dq": "QLoRA, NF4 + DQ",
    "nf4": "QLoRA, NF4",
    "fp4": "QLoRA, FP4",
    "int4": "QLoRA, int4",
}
# The number of training stories with which each run makes one pass.
ALL = 336
# The learning rate is chosen by the mean validation loss over these seeds.
RATE_SEEDS = (0, 1, 2)
# Two ways count as equally good if the 95% interval of their difference lies within these bounds:
# 5 percentage points of the test stories, and 0.05 nats per token of the test loss. Both are small
# beside what training gains: about 60 points of section right over the best prompt, and 1.8 nats
# over the untrained model. The bounds were chosen before the first run.
BOUNDS = {"section_right": 0.05, "house_style": 0.05, "test_losses": 0.05}
# The results of each test story: one digit per story, or one number per story.
DIGITS = ("valid_json", "section_right", "house_style")
NUMBERS = ("rouge_l", "test_losses")
COLUMNS = (
    *("way", "stories", "learning_rate", "seed", "validation", "test", "text", "chat"),
    *(*DIGITS, *NUMBERS, "questions_right", "news_json"),
)


@dataclass(frozen=True)
class Evidence:
    """All saved measurements.

    Attributes:
        runs: a table with a row for each run on SmolLM2, with its `way`, number of `stories`,
            `learning_rate` and `seed`. `stories` is 0 if the model was not trained; the way then
            says how its weights are stored, and "lora" stands for 16 bits. Losses are in nats per
            token: `validation` and `test` of the right answers, `text` of general texts, and
            `chat` of the untrained model's answers to general questions. The columns of DIGITS and
            NUMBERS are arrays with a number for each of the 96 test stories. `questions_right` and
            `news_json` are arrays for the 40 general questions (`forgetting.score`). `trained` is
            the number of trained parameters, `losses` the loss of each step, and `tokens` the
            number of tokens in the training. `seconds` depends on what else the machine did, so
            `speed` compares the ways. A run that `stopped` has no results.
        trials: a table with a row for each trial on the tiny Llama, with the settings of `Trial`
            and the results of `variants.run`.
        speed: a table with a row for each way of `benchmarks.evidence.speed`: the speeds of its
            rounds in tokens/s, and the peak memory of its process in bytes (B).
    """

    runs: DataFrame
    trials: DataFrame
    speed: DataFrame
    chat: list[str]

    def tuned(self, way: str, stories: int = ALL) -> DataFrame:
        """Return the runs of all seeds at the best learning rate, sorted by seed."""
        one_of("way", way, tuple(LABELS))
        rate = best_rate(self.runs.to_dict("records"), way, stories)
        same = (self.runs["way"] == way) & (self.runs["stories"] == stories)
        return self.runs[same & (self.runs["learning_rate"] == rate)].sort_values("seed")

    def scores(self, way: str, metric: str, stories: int = ALL) -> np.ndarray:
        """Return the results of each test story with each seed, of shape (seeds, 96).

        Args:
            metric: "valid_json", "section_right" or "house_style", which are 0 or 1, "rouge_l",
                from 0 to 1, or "test_losses", in nats per token.
        """
        one_of("metric", metric, (*DIGITS, *NUMBERS))
        tuned = self.tuned(way, stories)
        if stopped := tuned.loc[tuned["validation"].isna(), "seed"].astype(int).to_list():
            raise ValueError(f"{way!r} has no scores: its training stopped with seeds {stopped}")
        return np.stack(list(tuned[metric]))

    def untrained(self, way: str) -> Series:
        """Return the results of the base model, which answers the few-shot prompt of lecture 07."""
        one_of("way", way, [name for name in LABELS if not name.startswith("full")])
        return self.runs[(self.runs["way"] == way) & (self.runs["stories"] == 0)].iloc[0]


def load() -> Evidence:
    """Load all saved measurements."""
    path = files("course_utils") / "data" / "evidence.json"
    return parse(json.loads(path.read_text(encoding="utf-8")))


def parse(report: Mapping[str, Any]) -> Evidence:
    """Return the measurements of a report of `benchmarks.evidence`."""
    runs = pd.DataFrame(report["runs"], columns=None if report["runs"] else list(COLUMNS))
    # A run that stopped, because its loss was not finite, has no results.
    for name in (*DIGITS, "questions_right", "news_json"):
        runs[name] = runs[name].dropna().map(lambda digits: np.array(list(digits), dtype=float))
    for name in NUMBERS:
        runs[name] = runs[name].dropna().map(lambda text: np.array(text.split(), dtype=float))
    trials = pd.read_csv(io.StringIO("\n".join(report["trials"])))
    speed = pd.DataFrame.from_dict(report.get("speed", {}).get("ways", {}), orient="index")
    names = (name.split(", ") for name in speed.index)  # such as "lora, by hand"
    speed.index = [", ".join([LABELS[way], *addition]) for way, *addition in names]
    return Evidence(runs, trials, speed, report["chat"])


def chosen_stories(count: int, seed: int) -> list[dict[str, str]]:
    """Return the training stories of a run: equally many of each section, or one more of some.

    With the same seed, a smaller number of stories is a part of a larger number.
    """
    stories = news.load_news()["train"].to_list()
    if not 1 <= count <= len(stories):
        raise ValueError(f"count must be from 1 to {len(stories)}, got {count!r}")
    if count == len(stories):
        return stories
    random = Random(seed)
    random.shuffle(stories)
    by_section = [[s for s in stories if s["section"] == name] for name in news.SECTIONS]
    random.shuffle(by_section)
    return [story for row in zip(*by_section, strict=True) for story in row][:count]


def validation_losses(
    runs: Iterable[Mapping[str, Any]], way: str, stories: int = ALL
) -> dict[float, dict[int, float]]:
    """Return the validation loss for each learning rate and each seed of a way.

    The loss of a run that stopped, because its loss was not finite, counts as infinite.
    """
    losses: dict[float, dict[int, float]] = {}
    for run in runs:
        if (run["way"], run["stories"]) == (way, stories):
            loss = run["validation"]
            # A table contains NaN where a report contains None.
            finite = loss is not None and not math.isnan(loss)
            losses.setdefault(run["learning_rate"], {})[int(run["seed"])] = (
                loss if finite else math.inf
            )
    return losses


def mean_losses(
    runs: Iterable[Mapping[str, Any]], way: str, stories: int = ALL
) -> dict[float, float]:
    """Return the mean validation loss over RATE_SEEDS for each learning rate that has all of them.

    All rates are tried with the first seed, and only the best of them with the others.
    """
    return {
        rate: fmean(by_seed[seed] for seed in RATE_SEEDS)
        for rate, by_seed in validation_losses(runs, way, stories).items()
        if by_seed.keys() >= set(RATE_SEEDS)
    }


def best_rate(runs: Iterable[Mapping[str, Any]], way: str, stories: int = ALL) -> float:
    """Return the learning rate with the lowest mean validation loss over the first three seeds."""
    means = mean_losses(runs, way, stories)
    if not any(map(math.isfinite, means.values())):
        raise ValueError(
            f"{way!r} with {stories} stories has no learning rate with which the seeds "
            f"{', '.join(map(str, RATE_SEEDS))} have finished"
        )
    return min(means, key=means.__getitem__)


SETTINGS = ["way", "rank", "alpha", "targets"]


def best_trials(trials: DataFrame) -> DataFrame:
    """Return the trials of all seeds at the best learning rate of each setting.

    The best learning rate has the lowest mean validation loss over the seeds. A trial whose loss
    was not finite has an infinite loss. Learning rates without all seeds are left out.
    """
    keys = [*SETTINGS, "learning_rate"]
    finite = trials.assign(validation=trials["validation"].fillna(math.inf))
    losses = finite.groupby(keys, sort=False)["validation"].agg(["mean", "count"]).reset_index()
    complete = losses[losses["count"] == trials["seed"].nunique()]
    best = complete.loc[complete.groupby(SETTINGS, sort=False)["mean"].idxmin(), keys]
    return best.merge(trials, on=keys)
