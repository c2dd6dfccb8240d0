"""Compare prompting and fine-tuning on the news task of lecture 07, over several seeds.

    python -m workshop.benchmarks quality --seeds 0 1 2

First the base model answers the validation split, with the instruction in different messages. Then
the base model (with several prompts), a classifier without a language model, and the fine-tuned
models answer the whole test split. The report contains all scores of each answer, seconds,
tokens/s, peak memory, versions and the machine. The tables show means with 95% intervals, and
paired comparisons of the fine-tuned models with the prompts.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from course_utils import evaluation, news, ngrams, sft
from course_utils.machine import runtime
from course_utils.machine.units import format_bytes
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters, finetune
from workshop.benchmarks import runner
from workshop.benchmarks.runner import Benchmark, Report, measured_here

if TYPE_CHECKING:
    from datasets import DatasetDict
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LECTURE = "3-shot (lecture 07)"
BASES = {"NF4": "nf4", "16 bits": None}


def places(validation: list[dict]) -> dict[str, dict]:
    """Return the scores of the untrained models with the instruction in different messages."""
    results = {}
    for base, quantization in BASES.items():
        model, tokenizer = load_base("smollm2-135m", quantization=quantization)
        for name, shots in {"zero-shot": (), "3-shot": news.shots()}.items():
            for place in news.INSTRUCTION_PLACES:
                prompts = [news.messages(s, shots, instruction_in=place) for s in validation]
                results[f"{name}, {place}, {base}"] = answering(
                    model, tokenizer, prompts, validation
                )
    return results


def prompting(test: list[dict]) -> dict[str, dict]:
    """Return the scores of the untrained NF4 model with 0, 3, 4 and 8 worked examples.

    The worked examples are the shortest training stories of some sections, one story per section.
    The prompt with three examples is the prompt of lecture 07. The model with 16-bit weights
    answers this prompt, too.
    """
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    ways: dict[str, Sequence[dict[str, str]]] = {
        "zero-shot": (),
        LECTURE: news.shots(),
        "4-shot": news.shots(("weather", "politics", "science", "sport")),
        "8-shot": news.shots(news.SECTIONS),
    }
    prompts = {name: [news.messages(s, shots) for s in test] for name, shots in ways.items()}
    results = {name: answering(model, tokenizer, chats, test) for name, chats in prompts.items()}
    model, tokenizer = load_base("smollm2-135m", quantization=None)
    return results | {"3-shot, 16 bits": answering(model, tokenizer, prompts[LECTURE], test)}


def without_model(data: DatasetDict) -> dict:
    """Return the scores of the classifier that counts character n-grams."""
    test = list(data["test"])
    sections = ngrams.predict_sections(data["train"], test)
    return {"scores": evaluation.score_sections(sections, test).to_dict("list")}


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
    """Return the scores of each answer by metric, the prompt tokens, and the seconds."""
    begun = time.perf_counter()
    answers = evaluation.generate(model, tokenizer, conversations)
    seconds = time.perf_counter() - begun
    return {
        "scores": evaluation.score(answers, test).to_dict("list"),
        "prompt tokens": evaluation.mean_prompt_tokens(conversations, tokenizer),
        "answering seconds": seconds,
    }


def table(results: dict[str, dict]) -> str:
    """Return a Markdown table with a row for each way of asking and a column for each metric."""
    rows = []
    for name, result in results.items():
        summary = evaluation.summary(pd.DataFrame(result["scores"]))
        cells = (str(summary.get(metric, "")) for metric in evaluation.METRICS)
        tokens = f"{result['prompt tokens']:.0f}" if "prompt tokens" in result else ""
        rows.append((name, *cells, tokens))
    return runner.table(("", *evaluation.METRICS.values(), "prompt tokens"), rows)


def comparisons(results: dict[str, dict]) -> str:
    """Return a Markdown table that compares each tuned model with each other way of asking."""
    metrics = ("section_right", "house_style")
    scores = {name: pd.DataFrame(result["scores"]) for name, result in results.items()}
    tuned = [name for name in results if "losses" in results[name]]
    rows = []
    for name, other in itertools.product(tuned, [n for n in results if n not in tuned]):
        compared = evaluation.compare(scores[other], scores[name])
        cells = (str(compared.get(metric, "")) for metric in metrics)
        rows.append((f"{name}, against {other}", *cells))
    return runner.table(("", *(evaluation.METRICS[metric] for metric in metrics)), rows)


def measure(seeds: list[int]) -> Iterator[Report]:
    """Yield the results of the instruction's places, of prompts, and of fine-tuning by seed."""
    data = news.load_news()
    test = list(data["test"])
    report = {**measured_here(), "stories": len(test), "places": places(list(data["validation"]))}
    results = prompting(test) | {"character n-grams": without_model(data)}
    results |= {f"tuned, seed {seed}": tuning(data, test, seed) for seed in seeds}
    yield report | {"peak memory": runtime.peak_memory(), "results": results}


def conditions(report: Report) -> str:
    """Return a sentence on the stories, the speed of training, and the memory."""
    tuned = [result for result in report["results"].values() if "losses" in result]
    speeds = [result["training tokens/s"] for result in tuned]
    return (
        f"{report['stories']} test stories; cells are means with 95% intervals. Training ran at "
        f"{min(speeds):.0f} to {max(speeds):.0f} tokens/s; the memory of the process peaked at "
        f"{format_bytes(report['peak memory'])}."
    )


BENCHMARK = Benchmark(
    measure,
    {
        "table": lambda report: table(report["results"]),
        "comparisons": lambda report: comparisons(report["results"]),
        "places": lambda report: table(report["places"]),
    },
    conditions=conditions,
    add_options=lambda parser: parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2]
    ),
)
