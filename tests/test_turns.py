"""turns: workers take turns, report their pieces of work, and end."""

import os
from contextlib import contextmanager

import psutil
import pytest

from course_utils.machine.runtime import usable_cores
from workshop.benchmarks import turns


def counts(turn):
    for number in range(100):
        turn.begin()
        turn.end(number=number, threads=os.environ["OMP_NUM_THREADS"])


def fails(turn):
    turn.begin()
    raise ValueError("no more coffee")


@pytest.mark.full
def test_each_way_has_a_turn_in_each_round_and_warm_up_is_not_counted():
    events = []

    @contextmanager
    def around(number):
        events.append(number)
        yield
        events.append("end")

    ways = {"one": counts, "other": counts}
    done = turns.take_turns(ways, 2, warm_up=1, around=around)
    assert events == [number for n in (-1, 0, 1) for number in 2 * [n, "end"]]
    assert list(done) == ["one", "other"]
    for result in done.values():
        assert [piece["number"] for piece in result["pieces"]] == [1, 2]
        assert all(piece["seconds"] > 0 for piece in result["pieces"])
        # The other workers wait meanwhile, so a worker must not regard their cores as busy.
        assert result["pieces"][0]["threads"] == str(usable_cores())
        assert 5e6 < result["peak"] < 5e9


def lacks(turn):
    turn.begin()
    raise ModuleNotFoundError("No module named 'trl'", name="trl")


@pytest.mark.full
def test_a_package_that_a_worker_lacks_is_named(capfd):
    with pytest.raises(ModuleNotFoundError) as caught:
        turns.take_turns({"lacks": lacks}, 1, 0)
    assert caught.value.name == "trl" and "Traceback" not in capfd.readouterr().err


@pytest.mark.full
def test_failed_worker_is_reported_and_no_process_remains(capfd):
    before = psutil.Process().children()
    ways = {"one": counts, "fails": fails}
    with pytest.raises(RuntimeError, match="the way 'fails' has failed"):
        turns.take_turns(ways, 1, 0, variables=lambda way: {"OMP_NUM_THREADS": f"{way}!"})
    assert "no more coffee" in capfd.readouterr().err
    # Python's own process for shared resources continues to run.
    left = [c for c in psutil.Process().children() if c not in before]
    assert not [c for c in left if "resource_tracker" not in " ".join(c.cmdline())]


def test_ratios_are_computed_for_each_round():
    ours, theirs = [{"seconds": 1}, {"seconds": 2}], [{"seconds": 3}, {"seconds": 8}]
    assert turns.ratios(ours, theirs, lambda piece: 1 / piece["seconds"]) == [3, 4]
