"""Test how the examples are divided into micro-batches for one or more processes."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import RandomSampler

from course_utils.sft import IGNORE
from course_utils.training.batches import Batches

NUMBERS = list(range(3, 16))


def batches_of(index, processes, examples, size, seed=None):
    """Return the batches of one process. Each example has one token, the number of the example."""
    accelerator = SimpleNamespace(
        num_processes=processes, process_index=index, device=torch.device("cpu")
    )
    rows = [{"input_ids": [n], "labels": [n]} for n in NUMBERS[:examples]]

    def collate(rows):
        return {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "labels")}

    return Batches(rows, collate, size, accelerator, seed)


def ids(batches):
    """Return the examples in each batch, without the tokens that carry no loss."""
    return [batch["input_ids"][batch["labels"] != IGNORE].tolist() for batch in batches]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("examples", [1, 5, 7, 12])
def test_each_example_is_read_once_and_all_processes_read_as_many_batches(processes, examples):
    read = [ids(batches_of(i, processes, examples, 2, seed=0).epoch(3)) for i in range(processes)]
    assert len({len(batches) for batches in read}) == 1
    assert sorted(chain(*chain(*read))) == NUMBERS[:examples]


def test_several_processes_read_the_same_examples_as_one_process_with_larger_batches():
    one = ids(batches_of(0, 1, 13, 6, seed=4).epoch())
    three = [ids(batches_of(i, 3, 13, 2, seed=4).epoch()) for i in range(3)]
    assert one == [list(chain(*parts)) for parts in zip(*three, strict=True)]


def test_an_epoch_can_start_at_a_later_batch():
    batches = batches_of(1, 2, 13, 2, seed=1)
    assert ids(batches.epoch(2, start=2)) == ids(batches.epoch(2))[2:]


def test_the_order_equals_that_of_torchs_sampler():
    batches = batches_of(0, 1, 13, 1, seed=10)
    order = RandomSampler(NUMBERS, generator=torch.Generator().manual_seed(10 + 5))
    assert list(chain(*ids(batches.epoch(5)))) == [NUMBERS[i] for i in order]


def test_without_a_seed_the_examples_keep_their_order():
    assert list(chain(*ids(batches_of(0, 1, 13, 4).epoch(7)))) == NUMBERS
