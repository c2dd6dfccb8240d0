"""threads: PyTorch's number of threads adapts to the free cores, unless the user sets a number."""

import os
import subprocess
import sys
import textwrap

import pytest

from course_utils import threads
from course_utils.threads import Sample, threads_for, used_by_others

# A module that imitates torch. Like OpenMP, it stores the number separately for each thread.
IMITATION = """
import importlib.machinery, sys, threading, types

torch, local = types.ModuleType("torch"), threading.local()
torch.__spec__ = importlib.machinery.ModuleSpec("torch", None)
torch.get_num_threads = lambda: getattr(local, "number", 4)
torch.set_num_threads = lambda number: setattr(local, "number", number)
sys.modules["torch"] = torch
"""
# The beginning of a script: a process on four cores, beside fictitious programs that keep as many
# cores busy as the first argument says.
START = """
import os, sys, time

variables = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
# While this variable is set, the import starts no background thread.
os.environ["OMP_NUM_THREADS"] = "4"
from course_utils import runtime, threads
os.environ |= variables

others = float(sys.argv[1])
used = 0.0

def sample():
    global used
    used += others * threads.INTERVAL
    now = threads.Sample(sample.count * threads.INTERVAL, used, 0.0)
    sample.count += 1
    return now

sample.count = 0
threads.sample, threads.INTERVAL = sample, 0.01
runtime.usable_cores = lambda: 4
threads._cores = lambda: range(4)

def settles_at(number):
    "Wait until PyTorch has this number of threads, and return whether it keeps the number."
    for _ in range(6_000):
        time.sleep(0.01)
        if torch.get_num_threads() == number:
            break
    count = sample.count
    while sharing.is_alive() and sample.count < count + 20:
        time.sleep(0.01)
    return torch.get_num_threads() == number

import torch
# On four cores, this number is the default. The test may run on another machine.
torch.set_num_threads(4)
sharing = threads.share_cores()
"""


def run(source, others=0.0, torch="imitated", **variables):
    """Run a script after START, and return the words that it prints.

    Args:
        source: the script.
        others: the number of cores that other programs keep busy.
        torch: "imitated", or "real" to import PyTorch, which takes seconds.
        variables: environment variables.
    """
    chosen = dict.fromkeys(threads.VARIABLES, "") | variables
    script = (IMITATION if torch == "imitated" else "") + START + textwrap.dedent(source)
    done = subprocess.run(
        [sys.executable, "-c", script, str(others)],
        env=os.environ | chosen,
        capture_output=True,
        text=True,
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
def test_there_is_one_thread_fewer_for_each_busy_core(cores, others, expected):
    assert threads_for(cores, others) == expected


def test_cpu_time_of_others_excludes_this_process():
    before = Sample(moment=10.0, total=100.0, own=40.0)
    assert used_by_others(before, Sample(12.0, 103.0, 41.0)) == 1.0
    assert used_by_others(before, Sample(12.0, 104.0, 44.0)) == 0.0
    # The two clocks differ slightly, so this process may seem to use more than all together.
    assert used_by_others(before, Sample(12.0, 103.99, 44.0)) == 0.0


def test_total_cpu_time_of_a_sample_includes_this_process():
    before = threads.sample()
    while (now := threads.sample()).own - before.own < 0.3:
        sum(range(100_000))
    assert now.total - before.total > 0.25


@pytest.mark.parametrize(("others", "expected"), [(0.0, 4), (1.0, 3), (2.6, 1), (9.0, 1)])
def test_main_thread_gets_the_number_of_free_cores(others, expected):
    assert run(f"print(settles_at({expected}))", others) == ["True"]


def test_number_of_pytorchs_threads_adapts():
    assert run("print(settles_at(3))", others=1.0, torch="real") == ["True"]


def test_number_grows_again_when_other_programs_end():
    source = "print(settles_at(2))\nothers = 0.0\nprint(settles_at(4))"
    assert run(source, others=2.0) == ["True", "True"]


@pytest.mark.parametrize("number", [1, 3, 4, 9])
def test_number_set_by_the_program_is_kept(number):
    early = f"torch.set_num_threads({number})\nprint(settles_at({number}), sharing.is_alive())"
    assert run(early, others=0.0)[0] == "True"
    late = f"print(settles_at(3))\ntorch.set_num_threads({number})\nothers = 2.0\n"
    assert run(f"{late}print(settles_at({number}))", others=1.0) == ["True", "True"]


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_number_set_by_a_variable_is_kept(name):
    assert run("print(sharing, torch.get_num_threads())", others=3.0, **{name: "4"}) == [
        "None",
        "4",
    ]


# The third pause ends the method `run`, which would otherwise wait for torch forever.
WITHOUT_TORCH = """
import sys
from course_utils import threads

pauses = []

def sleep(seconds):
    pauses.append(seconds)
    if len(pauses) == 3:
        raise InterruptedError

threads.time.sleep = sleep
try:
    threads._Sharing().run()
except InterruptedError:
    print(pauses, "psutil" in sys.modules)
"""


def test_nothing_is_measured_before_torch_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{3 * [threads.INTERVAL]} False\n", "")


def test_system_that_does_not_measure_cpu_time_changes_nothing():
    source = """
        def sample():
            raise FileNotFoundError("/proc/stat")
        threads.sample = sample
        other = threads.share_cores()
        other.join()
        print(other.is_alive(), other._chosen, other._wanted)
        """
    assert run(source) == ["False", "False", "0"]


def test_cpu_quota_of_a_container_limits_the_number():
    source = """
        threads._cores = lambda: range(64)
        print(settles_at(4))
        others = 62.0
        print(settles_at(2))
        """
    assert run(source, others=10.0) == ["True", "True"]


def test_number_adapts_again_after_one_thread():
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


@pytest.mark.full
def test_results_are_correct_while_the_number_changes():
    source = """
        a = torch.arange(360_000, dtype=torch.float32).reshape(600, 600) % 7
        expected = (a.double() @ a.double()).float()
        seen, wrong, turn = set(), 0, 0
        while turn < 400 or len(seen) < 2 and turn < 40_000:
            others = float(turn // 20 % 4)
            turn += 1
            wrong += not torch.equal(a @ a, expected)
            seen.add(torch.get_num_threads())
            time.sleep(0.002)
        print(wrong, len(seen) > 1)
        """
    assert run(source, torch="real") == ["0", "True"]
