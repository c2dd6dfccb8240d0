"""Answering 96 prompts with a 4-bit model on this machine: in batches, and one by one.

SmolLM2-135M in NF4, greedy, up to 40 new tokens, the prompts of lecture 07. Each way answers the
same stories in a process of its own; they take turns, some stories each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from bitsandbytes.functional import has_avx512bf16

from benchmarks.runner import Benchmark, Report, Save, measured_here
from benchmarks.turns import Turn, beside_the_course, conditions, slower_than, take_turns
from course_utils import evaluation, news
from course_utils.models import linear4bit_layers, load_base

ROUNDS, WARM_UP = 4, 1
STORIES = 8  # a turn
TARGET = 3  # times the answers/s of `generate`, one prompt at a time
TARGET_REPACKED = 2  # times those of `generate` with weights that can't be trained any more
NEW_TOKENS = 40
PROMPTS = {"few-shot": news.shots, "zero-shot": tuple}


# --- the ways -------------------------------------------------------------------------------------


def conversations(kind: str) -> list[list[dict[str, str]]]:
    """Prompts of lecture 07 for all test stories."""
    shots = PROMPTS[kind]()
    return [news.messages(story, shots) for story in news.load_news()["test"]]


def by_turns(turn: Turn, kind: str, answer: Callable) -> None:
    """Answer some prompts each turn, from the first story again after the last."""
    chats = conversations(kind)
    turn.begin()
    while True:
        for first in range(0, len(chats), STORIES):
            given = answer(chats[first : first + STORIES])
            turn.end(answers=len(given))
            turn.begin()


def course(turn: Turn, kind: str) -> None:
    """`evaluation.generate`: batches, and what prompts share is read once."""
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    options = {"max_new_tokens": NEW_TOKENS, "progress": False}
    by_turns(turn, kind, lambda chats: evaluation.generate(model, tokenizer, chats, **options))


def one_by_one(turn: Turn, kind: str, repacking: bool) -> None:
    """transformers' `generate`, a prompt at a time.

    Args:
        turn: this worker's turns.
        kind: a key of PROMPTS.
        repacking: whether bitsandbytes repacks the weights, as it does by itself on CPUs with
            AVX512-BF16. Evaluation is faster then, but training gets no gradient through the base.
    """
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    for layer in linear4bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = repacking and has_avx512bf16()
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "use_cache": True}

    @torch.no_grad()
    def answer(chats):
        texts = []
        for chat in chats:
            asked = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            ids = model.generate(**asked, pad_token_id=tokenizer.pad_token_id, **options)
            new = ids[0, asked["input_ids"].shape[1] :]
            texts.append(tokenizer.decode(new, skip_special_tokens=True))
        return texts

    by_turns(turn, kind, answer)


WAYS = {
    f"{name}, {kind}": partial(way, kind=kind)
    for kind in PROMPTS
    for name, way in {
        "course": course,
        "generate, one by one": partial(one_by_one, repacking=False),
        "generate, one by one, repacked": partial(one_by_one, repacking=True),
    }.items()
}


# --- the report -----------------------------------------------------------------------------------


def way(name: str) -> Callable[[Turn], None]:
    """The work of a worker process."""
    return WAYS[name]


def measure(save: Save) -> Report:
    """Each way's pieces and peak."""
    return {
        **measured_here(),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "stories": STORIES,
        "ways": take_turns("benchmarks.decoding", WAYS, ROUNDS, WARM_UP),
    }


def rate(piece: dict) -> float:
    """Answers/s."""
    return piece["answers"] / piece["seconds"]


def table(report: dict) -> str:
    """The ways beside each other."""
    return beside_the_course(report["ways"], "answers/s", rate, digits=2)


def problems(report: Report) -> list[str]:
    """Prompts for which the course misses its target."""
    repacked = "generate, one by one, repacked"
    return [
        *slower_than(report, TARGET, rate, ("generate, one by one",)),
        *slower_than(report, TARGET_REPACKED, rate, (repacked,)),
    ]


BENCHMARK = Benchmark(
    measure,
    {"table": table},
    conditions=lambda report: conditions(
        report, f"{report['stories']} answers a turn, {report['rounds']} turns each"
    ),
    problems=problems,
)
