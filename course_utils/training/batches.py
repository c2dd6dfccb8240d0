"""Divide the examples into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.sft import Collator, Features


@dataclass(frozen=True)
class Batches:
    """Micro-batches of examples. In an epoch, every example is read exactly once.

    Attributes:
        size: Number of examples in a micro-batch.
        device: Where the tensors of a micro-batch are.
        seed: Each epoch shuffles the examples with the random seed `seed` + number of the epoch.
            With None, the order of the examples does not change.
    """

    examples: Sequence[Features]
    collate: Collator
    size: int
    device: torch.device
    seed: int | None = None

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the micro-batches of epoch `number`, beginning with micro-batch `start`.

        Epochs and micro-batches are counted from 0.
        """
        order = self._order(number)
        for first in range(start * self.size, len(order), self.size):
            batch = self.collate([self.examples[i] for i in order[first : first + self.size]])
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _order(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(len(self.examples)))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(len(self.examples), generator=generator).tolist()
