"""Divide the examples into micro-batches, which one or more processes read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.sft import IGNORE, Collator, Features

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Batches:
    """The micro-batches that one process reads.

    Every process gets the same number of micro-batches, because all processes must participate in
    each exchange of gradients. In an epoch, every example is read exactly once. If no examples
    remain for a process, this process reads a micro-batch of one token without loss. The picture
    shows which examples two processes read without shuffling, if a micro-batch has two examples:

                        process 0         process 1
        7 examples      0 1 | 4 5         2 3 | 6
        5 examples      0 1 | 4           2 3 | (one token without loss)

    Attributes:
        size: Number of examples in a micro-batch.
        seed: Each epoch shuffles the examples with the random seed `seed` + number of the epoch.
            With None, the order of the examples does not change.
    """

    examples: Sequence[Features]
    collate: Collator
    size: int
    accelerator: Accelerator
    seed: int | None = None

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield this process's micro-batches of epoch `number`, beginning with micro-batch `start`.

        Epochs and micro-batches are counted from 0. The tensors are on the process's device.
        """
        order = self._order(number)
        together = self.size * self.accelerator.num_processes
        for group in range(start, math.ceil(len(order) / together)):
            first = group * together + self.accelerator.process_index * self.size
            rows = [self.examples[i] for i in order[first : first + self.size].tolist()]
            batch = self.collate(rows or [{"input_ids": [0], "labels": [IGNORE]}])
            yield {name: t.to(self.accelerator.device) for name, t in batch.items()}

    def _order(self, epoch: int) -> Tensor:
        if self.seed is None:
            return torch.arange(len(self.examples))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(len(self.examples), generator=generator)
