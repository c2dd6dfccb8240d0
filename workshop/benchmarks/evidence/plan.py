"""The plan of `evidence`: which runs there are, and which learning rate each comparison uses.

A run is a `Cell`. All cells that answer one question together are a `Group`: one way of training on
one number of stories, with several learning rates and several seeds. The learning rate of a group
is chosen on the validation split:

1. All rates are tried with seed 0. While the best rate is the lowest or the highest that was tried,
   the next rate beyond it is tried, too. With fewer stories, only three rates are tried.
2. The best rates, called finalists, train with seeds 1 and 2. Each way of the claim has two
   finalists, and all other groups have one.
3. The finalist with the lowest mean validation loss trains with all other seeds.

The test split is never used for a choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from course_utils.evidence import ALL, RATE_SEEDS, best_rate, mean_losses, validation_losses
from workshop.benchmarks.lora_against_full import untried

Run = dict[str, Any]

# The number of steps of each run: one pass over all stories, or several passes over fewer stories.
STEPS = 42
RANK = 8


@dataclass(frozen=True)
class Cell:
    """One run of the plan.

    Attributes:
        way: a key of WAYS.
        stories: the number of training stories; 0 for a model that is not trained, but prompted.
        learning_rate: the peak learning rate; None without training.
        seed: the seed of the adapters, of the stories' choice and of their order; None without
            training.
    """

    way: str
    stories: int
    learning_rate: float | None = None
    seed: int | None = None

    def of(self, run: Mapping[str, Any]) -> bool:
        """Return whether a saved run is a run of this cell."""
        return all(run[name] == value for name, value in asdict(self).items())

    def __str__(self) -> str:
        if not self.stories:
            return f"{self.way}, not trained"
        return (
            f"{self.way}, {self.stories} stories, learning rate {self.learning_rate:g}, "
            f"seed {self.seed}"
        )


@dataclass(frozen=True)
class Way:
    """How a way of training stores the weights, and which learning rates it tries.

    Attributes:
        base: the format of the weights: "float32", "bfloat16", "nf4", "fp4" or "int4".
        double_quant: whether the constants of the blocks are quantized, too.
        rounded: whether the trained weights are rounded to bfloat16 before they are evaluated.
        rates: the learning rates that are tried first, in ascending order.
    """

    base: str
    double_quant: bool = False
    rounded: bool = False
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)

    @property
    def adapters(self) -> bool:
        """Whether adapters are trained. Otherwise all weights are trained."""
        return self.base != "float32"


FULL_RATES = (5e-5, 1e-4, 2e-4, 4e-4)
WAYS = {
    "full": Way("float32", rates=FULL_RATES),
    "full-16": Way("float32", rounded=True, rates=FULL_RATES),
    "lora": Way("bfloat16"),
    "nf4-dq": Way("nf4", double_quant=True),
    "nf4": Way("nf4"),
    "fp4": Way("fp4"),
    "int4": Way("int4"),
}


@dataclass(frozen=True)
class Group:
    """The runs of one way on one number of stories.

    Attributes:
        seeds: the seeds that train with the chosen rate; at least RATE_SEEDS.
        finalists: how many of the rates are tried with all of RATE_SEEDS.
        rates: the learning rates that are tried; by default those of the way, and the next rate
            beyond the best while the best is the lowest or the highest.
    """

    way: str
    stories: int
    seeds: tuple[int, ...] = RATE_SEEDS
    finalists: int = 1
    rates: tuple[float, ...] = ()

    def missing(self, runs: Sequence[Run]) -> list[Cell]:
        """Return the missing cells that the plan already determines.

        Args:
            runs: the saved runs, of all groups.
        """
        first, *_ = RATE_SEEDS
        losses = validation_losses(runs, self.way, self.stories)
        tried = {rate: by_seed[first] for rate, by_seed in losses.items() if first in by_seed}
        if self.rates:
            rates = [rate for rate in self.rates if rate not in tried]
        else:
            rates = untried(WAYS[self.way].rates, tried)
        if rates:
            return [self.cell(rate, first) for rate in rates]
        by_loss = sorted(tried, key=tried.__getitem__)
        finalists = [rate for rate in by_loss if math.isfinite(tried[rate])][: self.finalists]
        if cells := self._new(runs, finalists, RATE_SEEDS):
            return cells
        means = mean_losses(runs, self.way, self.stories)
        finished = any(map(math.isfinite, means.values()))
        best = [best_rate(runs, self.way, self.stories)] if finished else []
        return self._new(runs, best, self.seeds)

    def _new(self, runs: Sequence[Run], rates: Sequence[float], seeds: Sequence[int]) -> list[Cell]:
        """Return the cells of these rates and seeds that have no run."""
        cells = [self.cell(rate, seed) for rate in rates for seed in seeds]
        return [cell for cell in cells if not any(map(cell.of, runs))]

    def cell(self, rate: float, seed: int) -> Cell:
        """Return the cell of this group with a learning rate and a seed."""
        return Cell(self.way, self.stories, rate, seed)


# The claim names the first three ways, so they have five seeds and two finalists.
CLAIM = tuple(Group(way, ALL, (0, 1, 2, 3, 4), finalists=2) for way in ("full", "nf4-dq", "lora"))
FORMATS = tuple(Group(way, ALL) for way in ("full-16", "nf4", "fp4", "int4"))
STORIES = tuple(Group("nf4-dq", stories, rates=(1e-3, 2e-3, 4e-3)) for stories in (168, 84, 42, 21))
GROUPS = (*CLAIM, *FORMATS, *STORIES)
# The first of these runs answers the general questions, and its answers are given to all others.
UNTRAINED = tuple(Cell(way, 0) for way in ("lora", "nf4-dq", "nf4", "fp4", "int4"))


def missing(runs: Sequence[Run]) -> list[Cell]:
    """Return the cells that can run now, in the order of their importance."""
    untrained = [cell for cell in UNTRAINED if not any(map(cell.of, runs))]
    return untrained + [cell for group in GROUPS for cell in group.missing(runs)]
