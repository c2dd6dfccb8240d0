"""Compare full fine-tuning with LoRA on a pretrained model: what is learned, what is forgotten.

SmolLM2-135M-Instruct is fine-tuned on the news briefs of lecture 07 (one pass, 8 stories per step),
in float32 weights with bfloat16 autocast. Only the ways "rank 1" to "rank 32" train as lecture
07 does, with bfloat16 weights and without autograd. Each way of training first tries several
learning rates with seed 0. While the best rate is the lowest or the highest that was tried, the
next rate beyond it is tried, too. Then each way of training is repeated with seeds 1 and 2 at all
its rates (each rank only at its two best rates). The best rate has the lowest median loss on the
validation split. Two losses are reported, in nats per token:

- target: the answers to the test split, which the model should have learned.
- source: general answers that the base model itself wrote, sampled at temperature 1. Its rise
  above the base model's own loss estimates the Kullback-Leibler divergence from the base model to
  the tuned model, which is how much the model has changed on everything else.

Each run is saved when it is finished, in course_utils/data/lora_against_full.json, which lectures
03 and 07 read. An interrupted benchmark continues with the first run that is missing.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from course_utils import evaluation, news, sft
from course_utils.machine import runtime
from course_utils.models import load_base
from course_utils.training import (
    Recipe,
    TrainingError,
    answer_loss,
    attach_adapters,
    count_answer_tokens,
    finetune,
    trainable_parameters,
)
from workshop.benchmarks.runner import ROOT, Benchmark, Report, load_report, measured_here

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DATA = ROOT / "course_utils" / "data" / "lora_against_full.json"
MODEL = "smollm2-135m"
SEEDS = (0, 1, 2)
# The factor between neighbouring learning rates.
RATE_STEP = 2
# Length of a sampled general answer in tokens, and number of examples in a batch of an evaluation.
ANSWER_TOKENS, BATCH = 48, 8

Run = dict[str, Any]


class Way(NamedTuple):
    """A way of training.

    Attributes:
        targets: the layers that get adapters; None if all weights are trained.
        rank: the rank of the adapters.
        alpha: the numerator of the adapters' scale alpha / rank.
        rates: the learning rates that are tried first, in ascending order.
        fast: whether the weights are bfloat16 and trained with `by_hand`.
        finalists: how many of the best rates run with all seeds; None for all of them.
    """

    targets: str | tuple[str, ...] | None
    rank: int
    alpha: int
    rates: tuple[float, ...]
    fast: bool = False
    finalists: int | None = None


FULL_RATES, RATES = (5e-5, 1e-4, 2e-4, 4e-4), (1e-3, 2e-3, 4e-3, 8e-3)


# At rank 42, adapters on q_proj and v_proj have nearly as many parameters (99%) as adapters of rank
# 8 on all linear layers.
WAYS = {
    "full": Way(None, 1, 2, FULL_RATES),
    "LoRA, all linear": Way("all-linear", 8, 16, RATES),
    "LoRA, q and v": Way(("q_proj", "v_proj"), 42, 84, RATES),
    **{f"rank {r}": Way("all-linear", r, 16, RATES, fast=True, finalists=2) for r in (1, 2, 8, 32)},
}

QUESTIONS = (
    *("What is the capital of France?", "Give me one tip for sleeping well."),
    *("Write a sentence about the sea.", "How many legs do two spiders have?"),
    *("Why is the sky blue?", "What do bees make?", "How do I boil an egg?"),
    *("Explain what gravity is.", "What is a good name for a cat?", "Who wrote Hamlet?"),
    *("What is 12 times 11?", "How can I learn to swim?", "Describe a forest in winter."),
    *("What is the difference between a frog and a toad?", "What is photosynthesis?"),
    *("Write a short poem about rain.", "How does a bicycle stay upright?"),
    *("What should I pack for a week in the mountains?", "What is a prime number?"),
    *("Tell me a joke.", "Why do leaves change colour?", "What is the largest planet?"),
    *("How do vaccines work?", "Give me a recipe for pancakes.", "What is inflation?"),
    *("Translate 'good morning' into Spanish.", "How far away is the moon?"),
    *("What makes a good friend?", "How do I remove a coffee stain?", "What is a noun?"),
    *("Who invented the telephone?", "What are the primary colours?"),
    *("Write an email that asks for a day off.", "Why do we dream?", "What is a volcano?"),
    *("How do I change a flat tyre?", "What is the boiling point of water?"),
    *("Name three musical instruments.", "What is a computer program?", "How old is the Earth?"),
)


# --- one run --------------------------------------------------------------------------------------


@torch.no_grad()
def loss(model: PreTrainedModel, examples: Sequence[sft.Features], tokenizer: Any) -> float:
    """Return the mean loss of the answers in nats per token, computed in float32."""
    collate = sft.collator(tokenizer)
    batches = [collate(examples[i : i + BATCH]) for i in range(0, len(examples), BATCH)]
    with evaluation.evaluating(model):
        total = sum(answer_loss(model, batch).item() for batch in batches)
    return total / count_answer_tokens(batches).item()


def general_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[sft.Features]:
    """Return general questions with answers that the model samples at temperature 1."""
    torch.manual_seed(0)
    examples = []
    for question in QUESTIONS:
        prompt = sft.prompt_ids([{"role": "user", "content": question}], tokenizer)
        sampled = model.generate(
            torch.tensor([prompt]), max_new_tokens=ANSWER_TOKENS, do_sample=True, top_k=0, top_p=1.0
        )[0].tolist()
        labels = [sft.IGNORE] * len(prompt) + sampled[len(prompt) :]
        examples.append({"input_ids": sampled, "labels": labels})
    return examples


class Losses:
    """The examples on which every run is measured, and the base model's own losses on them."""

    def __init__(self) -> None:
        base, self.tokenizer = load_base(MODEL, device="cpu")
        base = base.float()
        data = news.load_news()
        self.train, validation, test = (
            sft.encode_all([news.tuned_messages(story) for story in data[split]], self.tokenizer)
            for split in ("train", "validation", "test")
        )
        source = general_answers(base, self.tokenizer)
        self.examples = {"validation": validation, "target": test, "source": source}
        self.base = self.of(base)

    def of(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the three losses of a model in nats per token."""
        return {name: loss(model, rows, self.tokenizer) for name, rows in self.examples.items()}


def measure_run(name: str, learning_rate: float, seed: int, losses: Losses) -> Run:
    """Train a fresh model, and return the settings and the results of the run."""
    way = WAYS[name]
    recipe = Recipe(
        rank=way.rank,
        alpha=way.alpha,
        targets=way.targets or "all-linear",
        learning_rate=learning_rate,
        seed=seed,
        compute_dtype=None if way.fast else torch.bfloat16,
        fast=way.fast,
    )
    model, tokenizer = load_base(MODEL, device="cpu")
    if not way.fast:
        model = model.float()
    if way.targets:
        model = attach_adapters(model, recipe)
    settings = {
        "way": name,
        "rank": way.rank if way.targets else None,
        "trained": sum(p.numel() for p in trainable_parameters(model).values()),
        "learning_rate": learning_rate,
        "seed": seed,
    }
    begun = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            finetune(model, tokenizer, losses.train, recipe=recipe, output_dir=folder)
    except TrainingError as error:
        return settings | dict.fromkeys(losses.base) | {"stopped": str(error)}
    seconds = time.perf_counter() - begun
    return settings | losses.of(model.float()) | {"seconds": seconds}


# --- all runs -------------------------------------------------------------------------------------


def missing(runs: Sequence[Run]) -> list[tuple[str, float, int]]:
    """Return (way, learning rate, seed) of missing runs: first those that find the best rates."""
    first = [
        (name, rate, SEEDS[0])
        for name, way in WAYS.items()
        for rate in untried(way.rates, tried(runs, name))
    ]
    return first or [
        (name, rate, seed)
        for seed in SEEDS[1:]
        for name in WAYS
        for rate in finalists(runs, name)
        if rate not in tried(runs, name, seed)
    ]


def finalists(runs: Sequence[Run], name: str) -> list[float]:
    """Return the learning rates that are tried with all seeds for a way of training, best first."""
    results = tried(runs, name)
    return sorted(results, key=results.__getitem__)[: WAYS[name].finalists]


def tried(runs: Sequence[Run], name: str, seed: int = SEEDS[0]) -> dict[float, float]:
    """Return the validation loss for each learning rate that a way has tried with a seed.

    The loss of a run that stopped, because its loss was not finite, counts as infinite.
    """
    return {
        run["learning_rate"]: math.inf if run["validation"] is None else run["validation"]
        for run in runs
        if run["way"] == name and run["seed"] == seed
    }


def untried(rates: Sequence[float], results: dict[float, float]) -> list[float]:
    """Return the learning rates that are still to be tried, given the loss of those tried."""
    if missing := [rate for rate in rates if rate not in results]:
        return missing
    best, lowest, highest = min(results, key=results.__getitem__), min(results), max(results)
    if best == highest:
        return [highest * RATE_STEP]
    return [lowest / RATE_STEP] if best == lowest else []


def measure() -> Iterator[Report]:
    """Yield the report after each run."""
    runs = load_report(DATA, {"runs": []})["runs"]
    losses = Losses()
    while todo := missing(runs):
        name, rate, seed = todo[0]
        print(f"{name}, learning rate {rate:g}, seed {seed}", flush=True)
        runs.append(measure_run(name, rate, seed, losses))
        runtime.release_memory()
        yield {**measured_here(), "base": losses.base, "runs": runs}


BENCHMARK = Benchmark(measure, {}, data=DATA)
