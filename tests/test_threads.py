"""PyTorch gets as many threads as others leave cores, unless somebody has chosen a number."""

import os
import subprocess
import sys
import textwrap

import pytest

from course_utils import threads
from course_utils.threads import Sample, threads_for, used_by_others

# A process on four cores, beside others of which it is told how many cores they keep busy.
START = """
import os, sys, time

variables = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
# The import then starts no thread yet.
os.environ["OMP_NUM_THREADS"] = "4"
from course_utils import runtime, threads
os.environ |= variables

others = float(sys.argv[1])
used = 0.0

def sample():
    global used
    used += others * threads.INTERVAL
    now = threads.Sample(sample.looks * threads.INTERVAL, used, 0.0)
    sample.looks += 1
    return now

sample.looks = 0
threads.sample, threads.INTERVAL = sample, 0.01
runtime.usable_cores = lambda: 4
threads._cores = lambda: range(4)

def settles_at(number):
    "Whether PyTorch has this number of threads soon, and keeps it."
    for _ in range(1_000):
        time.sleep(0.01)
        if torch.get_num_threads() == number:
            break
    looks = sample.looks
    while sharing.is_alive() and sample.looks < looks + 20:
        time.sleep(0.01)
    return torch.get_num_threads() == number

import torch
# This is the default on four cores. The test may run on another machine.
torch.set_num_threads(4)
sharing = threads.share_cores()
"""


def run(source, others=0.0, **variables):
    """What a script prints that begins with START."""
    chosen = dict.fromkeys(threads.VARIABLES, "") | variables
    script = START + textwrap.dedent(source)
    done = subprocess.run(
        [sys.executable, "-c", script, str(others)],
        env=os.environ | chosen,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("cores", "others", "expected"),
    [
        *((2, 0.0, 2), (2, 0.3, 2), (2, 0.7, 1), (2, 1.0, 1), (2, 1.3, 1), (2, 2.0, 1)),
        *((8, 0.0, 8), (8, 1.0, 7), (8, 3.0, 5), (8, 3.3, 5), (8, 8.0, 1)),
        *((1, 0.0, 1), (1, 1.0, 1), (2, 5.0, 1)),
    ],
)
def test_a_thread_makes_room_for_each_busy_core(cores, others, expected):
    assert threads_for(cores, others) == expected


def test_what_others_use_is_what_this_process_does_not():
    before = Sample(moment=10.0, total=100.0, own=40.0)
    assert used_by_others(before, Sample(12.0, 103.0, 41.0)) == 1.0
    assert used_by_others(before, Sample(12.0, 104.0, 44.0)) == 0.0
    # The two clocks tick apart: own may be ahead.
    assert used_by_others(before, Sample(12.0, 103.99, 44.0)) == 0.0


def test_a_sample_counts_this_process_among_everybody():
    before = threads.sample()
    while (now := threads.sample()).own - before.own < 0.3:
        sum(range(100_000))
    assert now.total - before.total > 0.25
    assert now.moment - before.moment < 60


@pytest.mark.parametrize(("others", "expected"), [(0.0, 4), (1.0, 3), (2.6, 1), (9.0, 1)])
def test_the_main_thread_gets_the_number_that_fits(others, expected):
    assert run(f"print(settles_at({expected}))", others) == ["True"]


def test_the_number_grows_again_when_others_have_ended():
    source = "print(settles_at(2))\nothers = 0.0\nprint(settles_at(4))"
    assert run(source, others=2.0) == ["True", "True"]


@pytest.mark.parametrize("number", [1, 3, 4, 9])
def test_a_number_set_in_the_program_stays(number):
    early = f"torch.set_num_threads({number})\nprint(settles_at({number}), sharing.is_alive())"
    assert run(early, others=0.0)[0] == "True"
    late = f"print(settles_at(3))\ntorch.set_num_threads({number})\nothers = 2.0\n"
    assert run(f"{late}print(settles_at({number}))", others=1.0) == ["True", "True"]


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_a_number_chosen_by_a_variable_stays(name):
    assert run("print(sharing, torch.get_num_threads())", others=3.0, **{name: "4"}) == [
        "None",
        "4",
    ]


def test_a_process_without_torch_has_nothing_to_do():
    source = "import sys, time, course_utils; time.sleep(0.4); print('psutil' in sys.modules)"
    free = os.environ | dict.fromkeys(threads.VARIABLES, "")
    done = subprocess.run([sys.executable, "-c", source], env=free, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_system_that_doesn_t_tell_what_is_used_changes_nothing():
    source = """
        def sample():
            raise FileNotFoundError("/proc/stat")
        threads.sample = sample
        other = threads.share_cores()
        other.join(20)
        print(other.is_alive(), other._chosen, other._wanted)
        """
    assert run(source) == ["False", "False", "0"]


def test_a_container_may_allow_less_than_its_host_has_free():
    source = """
        threads._cores = lambda: range(64)
        print(settles_at(4))
        others = 62.0
        print(settles_at(2))
        """
    assert run(source, others=10.0) == ["True", "True"]


def test_one_thread_is_no_choice_and_the_number_adapts_afterwards():
    source = """
        print(settles_at(3))
        with threads.one_thread():
            print(torch.get_num_threads())
            others = 2.0
            print(settles_at(1), sharing.is_alive())
            with threads.one_thread():
                pass
            print(torch.get_num_threads())
        print(settles_at(2), sharing.is_alive())
        """
    assert run(source, others=1.0) == ["True", "1", "True", "True", "1", "True", "True"]


def test_results_are_right_while_the_number_changes():
    source = """
        a = torch.arange(360_000, dtype=torch.float32).reshape(600, 600) % 7
        expected = (a.double() @ a.double()).float()
        seen, wrong = set(), 0
        for turn in range(400):
            others = float(turn // 20 % 4)
            wrong += not torch.equal(a @ a, expected)
            seen.add(torch.get_num_threads())
            time.sleep(0.002)
        print(wrong, len(seen) > 1)
        """
    assert run(source) == ["0", "True"]
