"""Workers take turns, report their pieces, and are gone in the end."""

import time
from contextlib import contextmanager

import psutil
import pytest

from benchmarks import turns
from course_utils.runtime import usable_cores


def test_each_way_has_its_turn_in_each_round_and_warm_up_does_not_count():
    done = turns.take_turns("tests.turning", ["one", "other"], rounds=3, warm_up=2)
    assert list(done) == ["one", "other"]
    for result in done.values():
        assert [piece["number"] for piece in result["pieces"]] == [2, 3, 4]
        assert all(0 < piece["seconds"] < 60 for piece in result["pieces"])
        assert 5e6 < result["peak"] < 5e9


def test_only_one_works_at_a_time(monkeypatch):
    order = []
    turn = turns._Worker.turn
    monkeypatch.setattr(turns._Worker, "turn", lambda self: order.append(self.way) or turn(self))
    turns.take_turns("tests.turning", ["one", "other"], rounds=2, warm_up=0)
    assert order == ["one", "other", "one", "other"]


def test_a_worker_has_all_cores_unless_told_otherwise():
    """The others rest while it works, so it must not make room for what it sees of their turns."""
    options = {"rounds": 1, "warm_up": 0}
    done = turns.take_turns("tests.turning", ["tells"], **options)
    assert done["tells"]["pieces"][0]["threads"] == str(usable_cores())
    told = turns.take_turns(
        "tests.turning", ["tells"], variables=lambda way: {"OMP_NUM_THREADS": way}, **options
    )
    assert told["tells"]["pieces"][0]["threads"] == "tells"


def test_each_round_has_its_surroundings_and_each_turn_its_rest():
    events = []

    @contextmanager
    def around(number):
        events.append(number)
        yield
        events.append("end")

    begun = time.perf_counter()
    turns.take_turns("tests.turning", ["one"], rounds=2, warm_up=1, around=around, pause=0.2)
    assert events == [-1, "end", 0, "end", 1, "end"]
    assert time.perf_counter() - begun > 0.6


def test_a_worker_that_fails_says_why_and_none_is_left_behind():
    with pytest.raises(RuntimeError, match=r"(?s)the way 'fails' has failed:.*no more coffee"):
        turns.take_turns("tests.turning", ["one", "fails"], rounds=1, warm_up=0)
    assert not [c for c in psutil.Process().children() if "tests.turning" in c.cmdline()]


def test_ratios_are_taken_round_by_round():
    ours, theirs = [{"seconds": 1}, {"seconds": 2}], [{"seconds": 3}, {"seconds": 8}]
    assert turns.ratios(ours, theirs, lambda piece: 1 / piece["seconds"]) == [3, 4]


def test_numbers_in_words():
    assert turns.in_words([3, 1, 2]) == "2 (1–3)"
    assert turns.in_words(iter([0.251, 0.25, 0.3]), 2) == "0.25 (0.25–0.30)"
