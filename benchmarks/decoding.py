"""Answering 96 prompts with a 4-bit model on this machine: in batches, and one by one.

    python -m benchmarks.decoding             measure, write results/decoding.json and the texts
    python -m benchmarks.decoding --texts     write the texts again from decoding.json

SmolLM2-135M in NF4, greedy, up to 40 new tokens, the prompts of lecture 07. Each way answers the
same stories in a process of its own; they take turns, some stories each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from bitsandbytes.functional import has_avx512bf16

from benchmarks.reports import RESULTS, asked_for, between_marks, measured_here, publish
from benchmarks.turns import PAGE, WORKER, Turn, beside_the_course, made_by, take_turns, work
from course_utils import evaluation, news
from course_utils.models import linear4bit_layers, load_base

JSON = RESULTS / "decoding.json"
ROUNDS, WARM_UP = 4, 1
STORIES = 8  # a turn
TARGET = 3  # times the answers/s of `generate`, one prompt at a time
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

    repacking: as bitsandbytes does it by itself on CPUs with AVX512-BF16, for speed; training after
    it has no gradient through the base any more.
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


def measured() -> dict:
    """The whole report: each way's pieces and peak, machine and date."""
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


def made(report: dict) -> str:
    """How and where it was measured."""
    what = f"{report['stories']} answers a turn, {report['rounds']} turns each"
    return made_by(report, "decoding", what)


def page(report: dict) -> str:
    """The report as Markdown."""
    return f"# Answering with a 4-bit model on a CPU\n\n{table(report)}\n\n{made(report)}\n"


def quoted(text: str, report: dict) -> str:
    """The page of the docs with this report's table between its marks."""
    text = between_marks(text, "decoding", table(report))
    return between_marks(text, "decoding made", made(report))


def main() -> None:
    if WORKER in sys.argv:
        work(WAYS[sys.argv[-1]])
        return
    publish(asked_for(__doc__, measured, JSON), JSON, page, {PAGE: quoted})


if __name__ == "__main__":
    main()
