"""Bytes of tensors, measured while a model runs: what `memory` predicts, counted for real.

On a GPU torch.cuda.max_memory_allocated says the peak. On a CPU nothing does: a process also holds
libraries, and memory that it has freed. So `TensorMeter` watches every operation of PyTorch and
keeps count of the storages that are alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMeter(TorchDispatchMode):
    """Counts the bytes (B) of tensors that are made while it is active, until they are freed.

    now: alive at this moment; peak: the most that were; trace: `now` after each operation. Each
    storage counts once, however many views it has. What a kernel allocates for itself inside one
    operation is not seen.

    >>> with TensorMeter() as meter:
    ...     x = torch.ones(1000)
    ...     y = (x + 1).sum()
    >>> meter.peak
    8000
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.trace: list[int] = []
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        given = set(_storages((args, kwargs)))  # views and in-place results are nothing new
        for key, storage in _storages(result).items():
            if key not in given and key not in self._alive:
                self._alive[key] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._drop, key)
        self.peak = max(self.peak, self.now)
        self.trace.append(self.now)
        return result

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def _storages(values: Any) -> dict[int, torch.UntypedStorage]:
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage._cdata: storage for storage in storages}


@dataclass
class Saved:
    """What autograd saved for the backward pass: bytes (B), and how many tensors."""

    size: int = 0
    tensors: int = 0


@contextmanager
def saved_for_backward(model: nn.Module) -> Iterator[Saved]:
    """Count what a forward pass of `model` saves, its own weights and buffers left out.

    Yields a `Saved` that fills as the pass goes. Source: torch.autograd.graph.saved_tensors_hooks.
    """
    own = [*model.parameters(), *model.buffers()]
    seen = {tensor.untyped_storage().data_ptr() for tensor in own}
    saved, keep = Saved(), []  # kept alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            keep.append(storage)
            saved.size += storage.nbytes()
            saved.tensors += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that parameters hold now."""
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimizer's states: tensors of more than one number, shared ones once."""
    tensors = tree_leaves([list(state.values()) for state in optimizer.state.values()])
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.numel() > 1
    }
    return sum(storages.values())
