"""Measure how fast a 4-bit model answers prompts in batches, and one prompt at a time.

SmolLM2-135M in NF4 answers the prompts of lecture 07 with greedy decoding and up to 40 new tokens.
Each way of generating runs in its own process. The processes take turns. In each turn, one process
answers STORIES stories in a batch, or ALONE stories one by one.

The course answers in batches in two ways. `course_utils.decoding` dequantizes each weight once.
Models that `course_utils.decoding` doesn't support take the general path: transformers' `generate`,
which dequantizes all weights again for each new token of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import torch
from bitsandbytes.functional import has_avx512bf16

from course_utils import decoding, evaluation, news
from course_utils.models import linear4bit_layers, load_base
from workshop.benchmarks.runner import Benchmark, Report, measured_here
from workshop.benchmarks.turns import Turn, Way, compare_with_course, conditions, take_turns

ROUNDS, WARM_UP = 4, 1
# The number of stories that a way answers in one turn: STORIES if it answers them in a batch, and
# ALONE if it answers them one by one.
STORIES, ALONE = 24, 8
NEW_TOKENS = 40
PROMPTS: dict[str, Callable[[], Sequence[dict[str, str]]]] = {
    "few-shot": news.shots,
    "zero-shot": tuple,
}

Chats = list[list[dict[str, str]]]


# --- the ways -------------------------------------------------------------------------------------


def answer_in_turns(
    turn: Turn, kind: str, answer: Callable[[Chats], list[str]], stories: int
) -> None:
    """Answer the next prompts of lecture 07 in each turn; after the last story, begin again.

    `kind` is a key of PROMPTS.
    """
    shots = PROMPTS[kind]()
    chats = [news.messages(story, shots) for story in news.load_news()["test"]]
    turn.begin()
    while True:
        for first in range(0, len(chats), stories):
            answers = answer(chats[first : first + stories])
            turn.end(answers=len(answers))
            turn.begin()


def course(turn: Turn, kind: str, general: bool = False) -> None:
    """Answer in batches with `evaluation.generate`; general: as for a model on a GPU."""
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")

    def answer(chats: Chats) -> list[str]:
        return evaluation.generate(
            model, tokenizer, chats, max_new_tokens=NEW_TOKENS, batch_size=STORIES, progress=False
        )

    with patch.object(decoding, "supports", lambda _: False) if general else nullcontext():
        answer_in_turns(turn, kind, answer, STORIES)


def one_by_one(turn: Turn, kind: str, repacking: bool) -> None:
    """Answer one prompt at a time with transformers' `generate`.

    With `repacking`, bitsandbytes repacks the weights, which is its default on CPUs with
    AVX512-BF16. Repacked weights make evaluation faster, but no gradient can flow through the base
    model in training.
    """
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    for layer in linear4bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = repacking and has_avx512bf16()
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "use_cache": True}

    @torch.no_grad()
    def answer(chats: Chats) -> list[str]:
        texts = []
        for chat in chats:
            prompt = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            ids = model.generate(**prompt, pad_token_id=tokenizer.pad_token_id, **options)
            new = ids[0, prompt["input_ids"].shape[1] :]
            texts.append(tokenizer.decode(new, skip_special_tokens=True))
        return texts

    answer_in_turns(turn, kind, answer, ALONE)


_NAMED: dict[str, Callable[..., None]] = {
    "course": course,
    "course, general path": partial(course, general=True),
    "generate, one by one": partial(one_by_one, repacking=False),
    "generate, one by one, repacked": partial(one_by_one, repacking=True),
}
WAYS: dict[str, Way] = {
    f"{name}, {kind}": partial(way, kind=kind) for kind in PROMPTS for name, way in _NAMED.items()
}


# --- the report -----------------------------------------------------------------------------------


def measure() -> Iterator[Report]:
    """Yield the measured pieces of work and the peak memory of each way."""
    yield {
        **measured_here(),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "stories": STORIES,
        "alone": ALONE,
        "ways": take_turns(WAYS, ROUNDS, WARM_UP),
    }


def rate(piece: dict) -> float:
    """Return the answers/s of a piece of work."""
    return piece["answers"] / piece["seconds"]


BENCHMARK = Benchmark(
    measure,
    {"table": lambda report: compare_with_course(report["ways"], "answers/s", rate, digits=2)},
    conditions=lambda report: conditions(
        report,
        f"{report['rounds']} turns for each method. In a turn, a method answered "
        f"{report['stories']} prompts in one batch, or {report['alone']} prompts one by one",
    ),
)
