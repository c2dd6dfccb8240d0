"""Test how the examples are divided into micro-batches."""

from itertools import chain

import pytest
import torch
from torch.utils.data import RandomSampler

from course_utils.training.batches import Batches

NUMBERS = list(range(3, 16))


def batches_of(examples, size, seed=None):
    """Return batches of examples that have one token, the number of the example."""

    def collate(rows):
        return {"input_ids": torch.tensor([row["input_ids"] for row in rows])}

    rows = [{"input_ids": [n], "labels": [n]} for n in NUMBERS[:examples]]
    return Batches(rows, collate, size, torch.device("cpu"), seed)


def ids(batches):
    return [batch["input_ids"].flatten().tolist() for batch in batches]


@pytest.mark.parametrize("examples", [1, 5, 7, 12])
def test_each_example_is_read_once_in_batches_of_the_given_size(examples):
    read = ids(batches_of(examples, 2, seed=0).epoch(3))
    assert sorted(chain(*read)) == NUMBERS[:examples]
    assert all(len(batch) == 2 for batch in read[:-1])


def test_an_epoch_can_start_at_a_later_batch():
    batches = batches_of(13, 2, seed=1)
    assert ids(batches.epoch(2, start=2)) == ids(batches.epoch(2))[2:]


def test_the_order_equals_that_of_torchs_sampler():
    batches = batches_of(13, 1, seed=10)
    order = RandomSampler(NUMBERS, generator=torch.Generator().manual_seed(10 + 5))
    assert list(chain(*ids(batches.epoch(5)))) == [NUMBERS[i] for i in order]


def test_without_a_seed_the_examples_keep_their_order():
    assert list(chain(*ids(batches_of(13, 4).epoch(7)))) == NUMBERS
