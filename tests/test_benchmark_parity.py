"""Test how the benchmark of exports continues, begins again, and compares with its reference."""

import json
import math
from itertools import islice

import pytest
import torch

from benchmarks import parity
from benchmarks.runner import RESULTS
from course_utils import news

REFERENCE = torch.tensor([0.5, 0.25, 0.25])


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """Keep all files in a temporary folder, and return a function that makes a form."""
    monkeypatch.setattr(parity, "DATA", tmp_path / "parity.json")
    for name in ("REFERENCE_ANSWERS", "REFERENCE_PROBABILITIES"):
        monkeypatch.setattr(parity, name, tmp_path / name)
    monkeypatch.setattr(parity, "beginning", lambda: [7])

    def make(answer, found=REFERENCE):
        return parity.Subject(
            answers=lambda chats: [answer] * len(chats),
            probabilities=lambda _: found,
            token_ids=lambda chat: [len(str(chat))],
            files=[],
            load_seconds=0.0,
            close=lambda: None,
        )

    return make


@pytest.fixture
def measure(subject, monkeypatch):
    """A function that measures one form and one mistake, and the names of what it measured."""
    measured = []

    def form(name):
        return lambda: measured.append(name) or subject(name)

    monkeypatch.setattr(parity, "trained", lambda adapters: adapters)
    monkeypatch.setattr(parity, "forms", lambda _: {"right": form("right")})
    monkeypatch.setattr(parity, "mistakes", lambda _: {"wrong": form("wrong")})

    def run(stop_after=2):
        measured.clear()
        for report in islice(parity.measure(RESULTS), stop_after):
            parity.DATA.write_text(json.dumps(report))
        return list(measured)

    return run


def test_an_interrupted_benchmark_continues_and_a_complete_one_begins_again(measure):
    assert measure(stop_after=1) == ["right"]
    assert measure() == ["wrong"]
    assert measure() == ["right", "wrong"]


def test_without_the_answers_of_the_reference_everything_is_measured(measure):
    assert measure(stop_after=1) == ["right"]
    parity.REFERENCE_ANSWERS.unlink()
    assert measure() == ["right", "wrong"]


def test_forms_are_compared_with_the_first_one(subject):
    story = news.load_news()["test"][0]
    right = json.dumps({"section": story["section"], "headline": story["headline"]})
    first = parity.measured(subject(right))
    assert first["equal_answers"] == 96 and set(first["divergences"]) == {0.0}
    assert sum(first["scores"]["section_right"]) == 12

    other = parity.measured(subject("no JSON", torch.tensor([0.25, 0.5, 0.25])))
    assert other["equal_answers"] == 0 and other["equal_prompts"] == 96
    assert other["divergences"] == pytest.approx([0.25 * math.log(2)] * 24, abs=1e-6)
    assert sum(other["scores"]["valid_json"]) == 0
