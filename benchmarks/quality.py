"""Compare prompting and fine-tuning on the news task of lecture 07, over several seeds.

    python -m benchmarks quality --seeds 0 1 2

The base model (with several prompts) and the fine-tuned models answer the whole test split. The
report contains the scores with 95% intervals, seconds, tokens/s, peak memory, versions and the
machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.runner import Benchmark, Report, measured_here
from course_utils import evaluation, news, runtime, sft
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters, finetune
from course_utils.units import format_bytes

if TYPE_CHECKING:
    from datasets import DatasetDict
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LECTURE = "3-shot (lecture 07)"
# Minimum share of answers that are valid JSON after training.
VALID = 0.95


def prompting(test: list[dict]) -> dict[str, dict]:
    """Return the scores of the untrained NF4 model with 0, 3, 4 and 8 worked examples.

    The worked examples are the shortest training stories of some sections, one story per section.
    The prompt with three examples is the prompt of lecture 07.
    """
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    ways: dict[str, Sequence[dict[str, str]]] = {
        "zero-shot": (),
        LECTURE: news.shots(),
        "4-shot": news.shots(("weather", "politics", "science", "sport")),
        "8-shot": news.shots(news.SECTIONS),
    }
    return {
        name: answering(model, tokenizer, [news.messages(story, shots) for story in test], test)
        for name, shots in ways.items()
    }


def tuning(data: DatasetDict, test: list[dict], seed: int) -> dict:
    """Train a fresh model with one seed; return its scores and the measurements of the training."""
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    recipe = Recipe(seed=seed)
    model = attach_adapters(model, recipe)
    train, validation = (
        sft.encode_all([news.tuned_messages(story) for story in data[split]], tokenizer)
        for split in ("train", "validation")
    )
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(model, tokenizer, train, validation, recipe=recipe, output_dir=folder)
    seconds = time.perf_counter() - begun
    prompts = [news.tuned_messages(story, answered=False) for story in test]
    return answering(model, tokenizer, prompts, test) | {
        "training seconds": seconds,
        "training tokens/s": sum(r["tokens"] for r in run.history) / seconds,
        "validation loss": run.history[-1]["validation_loss"],
        "losses": [r["loss"] for r in run.history],
    }


def answering(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    test: list[dict],
) -> dict:
    """Return the scores (mean, low, high) by metric, the prompt tokens, and the seconds."""
    begun = time.perf_counter()
    answers = evaluation.generate(model, tokenizer, conversations)
    seconds = time.perf_counter() - begun
    scores = evaluation.summary(evaluation.score(answers, test))
    return {
        "scores": {name: tuple(map(float, interval)) for name, interval in scores.items()},
        "prompt tokens": evaluation.mean_prompt_tokens(conversations, tokenizer),
        "answering seconds": seconds,
    }


def table(results: dict[str, dict]) -> str:
    """Return a Markdown table with a row for each way of asking and a column for each metric."""
    labels = list(evaluation.METRICS.values())
    lines = ["| | " + " | ".join(labels) + " | prompt tokens |", "|---" * (len(labels) + 2) + "|"]
    for name, result in results.items():
        cells = [str(evaluation.Interval(*result["scores"][m])) for m in evaluation.METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} | {result['prompt tokens']:.0f} |")
    return "\n".join(lines)


def measure(seeds: list[int]) -> Iterator[Report]:
    """Yield the results of each prompt and of fine-tuning with each seed."""
    data = news.load_news()
    test = list(data["test"])
    results = prompting(test)
    results |= {f"tuned, seed {seed}": tuning(data, test, seed) for seed in seeds}
    yield {
        **measured_here(),
        "stories": len(test),
        "peak memory": runtime.peak_memory(),
        "results": results,
    }


def conditions(report: Report) -> str:
    """Return a sentence on the stories, the speed of training, and the memory."""
    tuned = [result for result in report["results"].values() if "losses" in result]
    speeds = [result["training tokens/s"] for result in tuned]
    return (
        f"{report['stories']} test stories; cells are means with 95% intervals. Training ran at "
        f"{min(speeds):.0f} to {max(speeds):.0f} tokens/s; the memory of the process peaked at "
        f"{format_bytes(report['peak memory'])}."
    )


def problems(report: Report) -> list[str]:
    """Return the seeds whose training misses a target, one sentence for each missed target."""
    scores = {
        name: {metric: evaluation.Interval(*values) for metric, values in r["scores"].items()}
        for name, r in report["results"].items()
    }
    tuned = {name for name, result in report["results"].items() if "losses" in result}
    found = []
    for name in sorted(tuned):
        if scores[name]["valid_json"].mean < VALID:
            found.append(f"{name}: less than {VALID:.0%} valid JSON")
        for prompt in scores.keys() - tuned:
            if not evaluation.beyond(
                scores[name]["section_right"], scores[prompt]["section_right"]
            ):
                found.append(f"{name}: sections are not better than {prompt} beyond chance")
            if scores[name]["house_style"].mean <= scores[prompt]["house_style"].mean:
                found.append(f"{name}: house style is no better than {prompt}")
        if not evaluation.beyond(scores[name]["house_style"], scores[LECTURE]["house_style"]):
            found.append(f"{name}: house style is not better than {LECTURE} beyond chance")
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the seeds."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])


BENCHMARK = Benchmark(
    measure,
    {"table": lambda report: table(report["results"])},
    conditions=conditions,
    problems=problems,
    add_options=add_options,
)
