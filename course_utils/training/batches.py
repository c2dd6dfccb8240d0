"""Which examples are read together, in which order, by which process."""

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
    """The micro-batches that one of several processes reads.

    Every process gets the same number of micro-batches, because all processes must take part in
    each exchange of gradients. An epoch reads every example exactly once. Here are the examples of
    two processes that read two at a time, without shuffling:

                        process 0         process 1
        7 examples      0 1 | 4 5         2 3 | 6
        5 examples      0 1 | 4           2 3 | (one token without loss)

    Attributes:
        examples: Tokenized conversations (`sft.encode_all`).
        collate: Makes one batch of a few examples.
        size: Examples in a micro-batch.
        accelerator: Knows the number of processes, this process's place and its device.
        seed: Each epoch shuffles the examples by seed + epoch. None keeps their order.
    """

    examples: Sequence[Features]
    collate: Collator
    size: int
    accelerator: Accelerator
    seed: int | None = None

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the micro-batches of an epoch from micro-batch `start` on, on this device."""
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
