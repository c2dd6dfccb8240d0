"""The trials of `evidence` on the tiny Llama of `course_utils.variants`.

Each question changes one setting. With each value of the setting, all learning rates are tried with
all seeds, and the best learning rate has the lowest mean loss on the validation headlines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace

import torch

from course_utils.variants import (
    BATCH,
    FORMATS,
    LENGTH,
    PRETRAINING_STEPS,
    STEPS,
    VARIANTS,
    Trial,
    run,
)

SEEDS = (0, 1, 2, 3, 4)
RATES = tuple(1e-3 * 2**n for n in range(6))
# Full fine-tuning and the variants that start or train with larger updates need lower rates.
LOWER_RATES = tuple(2.5e-4 * 2**n for n in range(6))
LOWER = ("full", "PiSSA", "LoRA+", "rsLoRA")
# With this rank, adapters on q and v have as many parameters as adapters of rank 8 on all layers.
RANK_OF_TWO = 34
SETTINGS = (
    *(Trial(way) for way in ("full", "lora", *FORMATS)),
    *(Trial(rank=rank) for rank in (1, 2, 4, 16, 32, 64)),
    *(Trial(alpha=alpha) for alpha in (4, 8, 32, 64)),
    Trial(targets="q and v", rank=RANK_OF_TWO),
    *(Trial(way) for way in VARIANTS),
    # At rank 8, rsLoRA is LoRA with another alpha. It is meant for high ranks.
    Trial("rsLoRA", rank=64),
)
# What all trials have in common.
COMMON = {"pretraining_steps": PRETRAINING_STEPS, "steps": STEPS, "batch": BATCH, "length": LENGTH}
RESULTS = ("trained", "validation", "target", "source")
COLUMNS = (*(field.name for field in fields(Trial)), *RESULTS)


def trials() -> Iterator[Trial]:
    """Yield all trials of the plan."""
    for setting in SETTINGS:
        for rate in LOWER_RATES if setting.way in LOWER else RATES:
            yield from (replace(setting, learning_rate=rate, seed=seed) for seed in SEEDS)


def missing(rows: Sequence[str]) -> list[Trial]:
    """Return the trials without a saved row."""
    done = {row.rsplit(",", len(RESULTS))[0] for row in rows}
    return [trial for trial in trials() if key(trial) not in done]


def key(trial: Trial) -> str:
    """Return the settings of a trial as they are saved, separated by commas."""
    return ",".join(map(str, asdict(trial).values()))


def measure(trial: Trial) -> str:
    """Run a trial with one thread, and return its settings and results as a line of CSV."""
    torch.set_num_threads(1)
    results = run(trial)
    values = (f"{results[name]:.5f}" for name in RESULTS[1:])
    return ",".join([key(trial), str(results["trained"]), *values])
