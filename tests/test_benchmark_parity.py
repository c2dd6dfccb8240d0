"""Test how the benchmark of exports compares forms with its reference."""

import json
import math

import pytest
import torch

from course_utils import news
from workshop.benchmarks import parity


def subject(answer, probabilities):
    return parity.Subject(
        answers=lambda chats: [answer] * len(chats),
        probabilities=lambda *_: torch.tensor([probabilities]),
        token_ids=lambda chat: [len(str(chat))],
        files=[],
    )


def test_forms_are_compared_with_the_first_one(monkeypatch):
    monkeypatch.setattr(parity, "right_answers", lambda: [[2]] * 24)
    monkeypatch.setattr(parity, "trained", lambda adapters: adapters)
    monkeypatch.setattr(parity, "measured_here", lambda *_: {})
    story = news.load_news()["test"][0]
    right = json.dumps({"section": story["section"], "headline": story["headline"]})
    forms = {"right": lambda: subject(right, [0.5, 0.25, 0.25])}
    mistakes = {"wrong": lambda: subject("no JSON", [0.25, 0.5, 0.25])}
    monkeypatch.setattr(parity, "forms", lambda _: forms)
    monkeypatch.setattr(parity, "mistakes", lambda _: mistakes)
    *_, report = parity.measure(parity.FOLDER)

    first, other = report["forms"]["right"], report["mistakes"]["wrong"]
    assert first["equal_answers"] == 96 and set(first["divergences"]) == {0.0}
    assert sum(first["scores"]["section_right"]) == 12
    assert other["equal_answers"] == 0 and other["equal_prompts"] == 96
    assert other["divergences"] == pytest.approx([0.25 * math.log(2)] * 24, abs=1e-6)
    assert sum(other["scores"]["valid_json"]) == 0
    assert set(first["stop"]) == {0.25}
