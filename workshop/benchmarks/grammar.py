"""Compare two ways to get answers in JSON: a grammar and fine-tuning, separately and together.

    course bench grammar [--adapters FOLDER]

llama.cpp answers the 96 test stories six times. The untuned model gets a zero-shot prompt and a
3-shot prompt, and the tuned model gets its short prompt. Each of these three prompts is measured
once without and once with a grammar. llama.cpp makes the grammar from a JSON schema. With the
grammar, it chooses only tokens that continue a valid answer.

The benchmark uses the GGUF files of `course bench parity`. The tuned model is the merged model,
which runs without adapters. If a model has no adapters, llama.cpp reads the shared prefix of all
prompts only once. So the times of the tuned model can be compared with those of the untuned model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from course_utils import news
from course_utils.serving import Engine
from workshop.benchmarks import parity
from workshop.benchmarks.runner import ROOT, Benchmark, Report, measured_here

DATA = ROOT / "course_utils" / "data" / "grammar.json"
# The maximum length of an answer in tokens. The untuned model writes JSON with line breaks and
# indentation, so its answers need more tokens than the answers of the tuned model.
NEW_TOKENS = 120


def ways(adapters: Path) -> dict[str, tuple[Path, list[Any]]]:
    """Return a dict from the name of each way to the GGUF file of its model and its conversations.

    A way is a model with a kind of prompt, such as "3-shot".
    """
    stories = parity.stories()
    untuned = parity.base_gguf(adapters, "original", parity.FORMAT)
    return {
        "zero-shot": (untuned, [news.messages(story) for story in stories]),
        "3-shot": (untuned, [news.messages(story, news.shots()) for story in stories]),
        "tuned": (parity.merged_gguf(adapters, parity.FORMAT), parity.chats()),
    }


def measure(adapters: Path) -> Iterator[Report]:
    """Measure each way without and with the grammar; yield the report after each measurement."""
    report: Report = {"ways": {}}
    for name, (model, chats) in ways(parity.trained(adapters)).items():
        with Engine(model) as engine:
            for schema in (None, news.ANSWER_SCHEMA):
                way = f"{name} + grammar" if schema else name
                print(way, flush=True)
                report["ways"][way] = asked(engine, chats, schema)
                yield report | measured_here("xllamacpp")


def asked(engine: Engine, chats: list[Any], schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a model's answers, the seconds for all of them, and the mean tokens of a prompt.

    `schema` is the JSON schema of the grammar, or None for answers without a grammar.
    """
    tokens = [len(engine.token_ids(engine.prompt(chat))) for chat in chats]
    started = time.perf_counter()
    answers = engine.answers(chats, max_new_tokens=NEW_TOKENS, schema=schema)
    seconds = time.perf_counter() - started
    return {"answers": answers, "seconds": seconds, "prompt_tokens": sum(tokens) / len(tokens)}


BENCHMARK = Benchmark(measure, {}, add_options=parity.add_options, data=DATA)
