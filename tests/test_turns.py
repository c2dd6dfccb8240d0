"""turns: workers take turns, report their pieces of work, and end."""

from contextlib import contextmanager
from time import perf_counter
from types import SimpleNamespace

import psutil
import pytest

from course_utils.machine.runtime import usable_cores
from workshop.benchmarks import turns


def test_each_way_has_a_turn_in_each_round_and_warm_up_is_not_counted():
    done = turns.take_turns("tests.turning", ["one", "other"], turns.Schedule(3, warm_up=2))
    assert list(done) == ["one", "other"]
    for result in done.values():
        assert [piece["number"] for piece in result["pieces"]] == [2, 3, 4]
        assert all(piece["seconds"] > 0 for piece in result["pieces"])
        assert 5e6 < result["peak"] < 5e9


def test_a_way_may_measure_the_duration_of_its_turns_itself():
    done = turns.take_turns("tests.turning", ["own"], turns.Schedule(2, warm_up=0))
    assert [piece["seconds"] for piece in done["own"]["pieces"]] == [0.125, 0.125]


def test_only_one_worker_works_at_a_time(monkeypatch):
    order = []
    turn = turns._Worker.turn
    monkeypatch.setattr(turns._Worker, "turn", lambda self: order.append(self.way) or turn(self))
    turns.take_turns("tests.turning", ["one", "other"], turns.Schedule(2, warm_up=0))
    assert order == ["one", "other", "one", "other"]


def test_worker_has_a_thread_for_each_core_by_default():
    """The other workers wait meanwhile, so it must not regard their cores as busy."""
    once = turns.Schedule(1, warm_up=0)
    result = turns.take_turns("tests.turning", ["threads"], once)["threads"]
    assert result["pieces"][0]["threads"] == str(usable_cores())
    result = turns.take_turns(
        "tests.turning", ["threads"], once, variables=lambda way: {"OMP_NUM_THREADS": f"{way}!"}
    )["threads"]
    assert result["pieces"][0]["threads"] == "threads!"


def test_each_round_runs_in_its_context_and_each_turn_after_its_pause(monkeypatch):
    events = []

    @contextmanager
    def around(number):
        events.append(number)
        yield
        events.append("end")

    # Background threads of this process use the module time, so it can't be patched itself.
    monkeypatch.setattr(
        turns, "time", SimpleNamespace(sleep=events.append, perf_counter=perf_counter)
    )
    schedule = turns.Schedule(2, warm_up=1, around=around, pause=1.5)
    turns.take_turns("tests.turning", ["one"], schedule)
    assert events == [-1, 1.5, "end", 0, 1.5, "end", 1, 1.5, "end"]


def test_failed_worker_is_reported_and_no_process_remains():
    with pytest.raises(RuntimeError, match=r"(?s)the way 'fails' has failed:.*no more coffee"):
        turns.take_turns("tests.turning", ["one", "fails"], turns.Schedule(1, warm_up=0))
    assert not [c for c in psutil.Process().children() if "tests.turning" in c.cmdline()]


def test_ratios_are_computed_for_each_round():
    ours, theirs = [{"seconds": 1}, {"seconds": 2}], [{"seconds": 3}, {"seconds": 8}]
    assert turns.ratios(ours, theirs, lambda piece: 1 / piece["seconds"]) == [3, 4]
