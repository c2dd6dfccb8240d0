"""Every process reads equally many micro-batches, and each example once in an epoch."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import RandomSampler

from course_utils.sft import IGNORE
from course_utils.training.batches import Batches

NUMBERS = list(range(3, 16))


def of_process(index, processes, examples, size, seed=None):
    """Batches of examples that are one token each, whose id tells which example it is."""
    place = SimpleNamespace(
        num_processes=processes, process_index=index, device=torch.device("cpu")
    )
    rows = [{"input_ids": [n], "labels": [n]} for n in NUMBERS[:examples]]

    def collate(rows):
        return {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "labels")}

    return Batches(rows, collate, size, place, seed)


def ids(batches):
    """The examples in these batches. The token that only keeps a process in step is not one."""
    return [batch["input_ids"][batch["labels"] != IGNORE].tolist() for batch in batches]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("examples", [1, 5, 7, 12])
def test_an_epoch_reads_each_example_once_in_equally_many_batches(processes, examples):
    read = [ids(of_process(i, processes, examples, 2, seed=0).epoch(3)) for i in range(processes)]
    assert len({len(batches) for batches in read}) == 1
    assert sorted(chain(*chain(*read))) == NUMBERS[:examples]


def test_processes_together_read_what_one_reads_with_larger_batches():
    one = ids(of_process(0, 1, 13, 6, seed=4).epoch())
    three = [ids(of_process(i, 3, 13, 2, seed=4).epoch()) for i in range(3)]
    assert one == [list(chain(*parts)) for parts in zip(*three, strict=True)]


def test_an_epoch_can_be_entered_anywhere():
    batches = of_process(1, 2, 13, 2, seed=1)
    assert ids(batches.epoch(2, start=2)) == ids(batches.epoch(2))[2:]


def test_the_order_is_torchs_of_seed_and_epoch():
    batches = of_process(0, 1, 13, 1, seed=10)
    torchs = list(RandomSampler(NUMBERS, generator=torch.Generator().manual_seed(15)))
    assert list(chain(*ids(batches.epoch(5)))) == [NUMBERS[i] for i in torchs]


def test_without_a_seed_the_examples_keep_their_order():
    assert list(chain(*ids(of_process(0, 1, 13, 4).epoch(7)))) == NUMBERS
