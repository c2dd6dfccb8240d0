"""What fine-tuning is worth on the news task, over several seeds: lecture 07 without the lecture.

    python benchmarks/quality.py --seeds 0 1 2     measure, write results/quality.json and the texts
    python benchmarks/quality.py --texts           write the texts again from quality.json

Prompting and tuning on the whole test split, with 95% intervals, seconds, tokens/s, peak memory,
versions and machine. The texts are results/quality.md and the table in README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # also when run as a script

from benchmarks.reports import (
    RESULTS,
    between_marks,
    load_report,
    measured_here,
    publish,
    save_report,
)
from course_utils import evaluation, news, runtime, sft
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters, finetune
from course_utils.units import format_bytes

JSON = RESULTS / "quality.json"
README = Path(__file__).parents[1] / "README.md"


def prompting(test: list[dict]) -> dict[str, dict]:
    """Scores of the untrained NF4 model: no worked example, lecture 07's three, four others, eight.

    The shots are the shortest training story of each section named.
    """
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    ways = {
        "zero-shot": (),
        "3-shot (lecture 07)": news.shots(),
        "4-shot": news.shots(("weather", "politics", "science", "sport")),
        "8-shot": news.shots(news.SECTIONS),
    }
    return {
        name: measure(model, tokenizer, [news.messages(story, given) for story in test], test)
        for name, given in ways.items()
    }


def tuning(data, test: list[dict], seed: int) -> dict:
    """Train with one seed on a fresh model and measure; adds the run's own numbers."""
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
    asked = [news.tuned_messages(story, answered=False) for story in test]
    return measure(model, tokenizer, asked, test) | {
        "training seconds": seconds,
        "training tokens/s": sum(r["tokens"] for r in run.history) / seconds,
        "validation loss": run.history[-1]["validation_loss"],
        "losses": [r["loss"] for r in run.history],
    }


def measure(model, tokenizer, conversations, test) -> dict:
    """Scores (mean, low, high) of each metric, and the seconds it took to answer."""
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
    """The results as Markdown: a row a way of asking, a column a metric."""
    labels = list(evaluation.METRICS.values())
    lines = ["| | " + " | ".join(labels) + " | prompt tokens |", "|---" * (len(labels) + 2) + "|"]
    for name, result in results.items():
        cells = [str(evaluation.Interval(*result["scores"][m])) for m in evaluation.METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} | {result['prompt tokens']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--texts", action="store_true")
    arguments = parser.parse_args()
    if not arguments.texts:
        save_report(measured(arguments.seeds), JSON)
    publish(load_report(JSON), JSON, page, {README: quoted})


def measured(seeds: list[int]) -> dict:
    """The whole report: results of each way, machine and date."""
    data = news.load_news()
    test = list(data["test"])
    results = prompting(test)
    results |= {f"tuned, seed {seed}": tuning(data, test, seed) for seed in seeds}
    return {
        **measured_here(),
        "stories": len(test),
        "peak memory": runtime.peak_memory(),
        "results": results,
    }


def page(report: dict) -> str:
    """The report as Markdown."""
    tuned = {name: r for name, r in report["results"].items() if "losses" in r}
    speeds = [r["training tokens/s"] for r in tuned.values()]
    return f"""# Prompting against tuning on the news task

{table(report["results"])}

{report["stories"]} test stories; cells are means with 95% intervals. Made by
`python benchmarks/quality.py` on {report["date"]}: {report["machine"]}.
Training ran at {min(speeds):.0f} to {max(speeds):.0f} tokens/s; the process peaked at
{format_bytes(report["peak memory"])}.
"""


def quoted(readme: str, report: dict) -> str:
    """The README with the table of this report between its marks."""
    return between_marks(readme, "quality", table(report["results"]))


if __name__ == "__main__":
    main()
