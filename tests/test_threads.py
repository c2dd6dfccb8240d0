"""threads: while the course works, PyTorch's number of threads adapts to the free cores."""

import pytest
import torch

from course_utils import evaluation, export, parity
from course_utils.machine import threads
from course_utils.machine.threads import Sample, adapt, one_thread, sharing_cores, threads_for
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters, finetune, token_losses
from tests.conftest import make_model, random_examples


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
    assert threads.used_by_others(before, Sample(12.0, 103.0, 41.0)) == 1.0
    assert threads.used_by_others(before, Sample(12.0, 104.0, 44.0)) == 0.0
    # The two clocks differ slightly, so this process may seem to use more than all together.
    assert threads.used_by_others(before, Sample(12.0, 103.99, 44.0)) == 0.0


def test_total_cpu_time_of_a_sample_includes_this_process():
    before = threads.sample()
    while (now := threads.sample()).own - before.own < 0.3:
        sum(range(100_000))
    assert now.total - before.total > 0.25


class Machine:
    """A fictitious machine with four cores, of which other programs keep `others` busy."""

    cores, others, moment, used = 4, 0.0, 0.0, 0.0

    def work(self, seconds=threads.SHORTEST):
        self.moment += seconds
        self.used += seconds * self.others

    def sample(self):
        return Sample(self.moment, self.used, 0.0)

    def number(self):
        """Return the number of threads after some work."""
        self.work()
        adapt()
        return torch.get_num_threads()


@pytest.fixture
def machine(monkeypatch):
    """Imitate a machine, in which no variable sets the number of threads, and PyTorch uses four."""
    imitated = Machine()
    monkeypatch.setattr(threads, "_free", threads._Free())
    monkeypatch.setattr(threads, "sample", imitated.sample)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "core_ids", lambda: range(imitated.cores))
    monkeypatch.setattr(threads.time, "monotonic", lambda: imitated.moment)
    monkeypatch.setattr(threads.time, "sleep", imitated.work)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield imitated
    torch.set_num_threads(before)


@pytest.mark.parametrize(("others", "expected"), [(0.0, 4), (1.0, 3), (2.6, 1), (9.0, 1)])
def test_block_begins_with_the_number_of_free_cores(machine, others, expected):
    machine.others = others
    with sharing_cores():
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 4


def test_number_follows_the_other_programs_until_the_block_ends(machine):
    with sharing_cores():
        for machine.others, expected in ((2.0, 2), (0.0, 4), (1.0, 3)):
            assert machine.number() == expected
        with sharing_cores():
            assert machine.number() == 3
        machine.others = 0.0
        assert machine.number() == 4
        machine.others = 3.0
        assert machine.number() == 1
    assert torch.get_num_threads() == 4
    assert machine.number() == 4, "outside a block, the number doesn't change"


def test_number_after_an_error_is_the_number_before(machine):
    machine.others = 2.0
    with pytest.raises(ZeroDivisionError), sharing_cores():
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4


def test_number_that_the_user_has_set_is_the_maximum(machine):
    torch.set_num_threads(2)
    with sharing_cores():
        assert machine.number() == 2
        machine.others = 3.0
        assert machine.number() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_number_set_by_a_variable_is_kept(machine, monkeypatch, name):
    monkeypatch.setenv(name, "4")
    machine.others = 3.0
    with sharing_cores():
        assert machine.number() == 4


def test_system_that_does_not_measure_cpu_time_keeps_the_number(machine, monkeypatch):
    def sample():
        raise FileNotFoundError("/proc/stat")

    monkeypatch.setattr(threads, "sample", sample)
    with sharing_cores():
        assert machine.number() == 4


def test_one_thread_interrupts_a_block(machine):
    machine.others = 1.0
    with sharing_cores():
        with one_thread():
            with sharing_cores(), one_thread():
                assert machine.number() == 1
            assert machine.number() == 1
        assert machine.number() == 3
    assert torch.get_num_threads() == 4


LONG_WORK = (
    *(load_base, token_losses, parity.of_model(torch.nn.Module())),
    *(export.merge, export.update_left, export.save_merged, export.save_dequantized),
)


@pytest.mark.parametrize("work", LONG_WORK)
def test_other_long_work_shares_the_cores(machine, monkeypatch, work):
    """An unknown argument raises an error inside the block."""
    seen = []
    monkeypatch.setattr(threads, "adapt", lambda: seen.append(threads._block.most))
    with pytest.raises(TypeError, match="wrong"):
        work(wrong=True)
    assert seen == [4]


@pytest.mark.full
@pytest.mark.parametrize("fast", [None, False])
def test_training_and_answering_adapt(machine, monkeypatch, tokenizer, tmp_path, fast):
    seen = []
    monkeypatch.setattr(threads, "adapt", lambda: seen.append(threads._block.most))
    recipe = Recipe(max_steps=2, micro_batch_size=2, fast=fast)
    model = attach_adapters(make_model(), recipe)
    finetune(model, tokenizer, random_examples(4, 0), recipe=recipe, output_dir=tmp_path)
    assert len(seen) >= 3 and set(seen) == {4}
    seen.clear()
    evaluation.generate(model, tokenizer, [[{"role": "user", "content": "Hi"}]], progress=False)
    assert len(seen) >= 2 and set(seen) == {4}
