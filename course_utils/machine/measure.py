"""Measure the bytes of tensors while a model runs, to check predictions of `course_utils.memory`.

PyTorch counts the peak memory of tensors only on a GPU. On a CPU, `TensorMeter` watches every
operation and counts the storages that are not freed yet. A storage is the block of memory that
contains the numbers of a tensor.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMeter(TorchDispatchMode):
    """Counts the bytes of all tensors that are created while the meter is active and not yet freed.

    A storage is counted once, even if several tensors are views of it. Memory that a kernel
    allocates for itself during one operation is not counted.

    Attributes:
        now: bytes (B) of the tensors that are not freed yet.
        peak: the largest value of `now` so far.
        trace: the value of `now` after each operation.
        phases: name → the part of `trace` since `begin(name)`. Operations before the first phase
            belong to no phase.
        peaks: name of a phase → the bytes in memory at the phase's peak, as a dict: name of the
            phase that created the tensors → their bytes.

    Example:
        >>> with TensorMeter() as meter:
        ...     x = torch.ones(1000)
        ...     y = (x + 1).sum()
        >>> meter.peak
        8004
    """

    def __init__(self, counted: Callable[[int], int] = int) -> None:
        """Create a meter.

        Args:
            counted: takes the bytes of a storage, and returns how many bytes are counted for it.
        """
        super().__init__()
        self._counted = counted
        self.now = self.peak = 0
        self.trace: list[int] = []
        self.phases: dict[str, list[int]] = {}
        self.peaks: dict[str, dict[str, int]] = {}
        self._phase, self._most = "", -1
        self._alive: dict[int, tuple[int, str]] = {}
        self._made: Counter[str] = Counter()

    def begin(self, phase: str) -> None:
        """Begin a phase: from now on, `phases[phase]` grows with `trace`."""
        self.phases.setdefault(phase, [])
        self._phase, self._most = phase, sum(self.peaks.get(phase, {}).values()) or -1
        self._look()

    def count_as(self, kind: str, tensor: Tensor) -> None:
        """In `peaks`, count a tensor under the name `kind`, not under the name of a phase."""
        for key in storages(tensor):
            if key in self._alive:
                size, made = self._alive[key]
                self._alive[key] = size, kind
                self._made[made] -= size
                self._made[kind] += size

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.prim.device.default:  # Fake tensors call it often.
            return result
        # Views and in-place results share a storage that existed before the operation. A constant
        # such as torch.tensor([1]) also exists before its operation, but wasn't counted yet.
        is_constant = operation is torch.ops.aten.lift_fresh.default
        inputs = set() if is_constant else set(storages((args, kwargs)))
        for key, storage in storages(result).items():
            if key not in inputs and key not in self._alive:
                size = self._counted(storage.nbytes())
                self._alive[key] = size, self._phase
                self._made[self._phase] += size
                self.now += size
                weakref.finalize(storage, self._drop, key)
        self.peak = max(self.peak, self.now)
        self.trace.append(self.now)
        if self.phases:
            self.phases[self._phase].append(self.now)
            self._look()
        return result

    def _look(self) -> None:
        if self.now > self._most:
            self._most = self.now
            self.peaks[self._phase] = {name: size for name, size in self._made.items() if size}

    def _drop(self, key: int) -> None:
        size, made = self._alive.pop(key)
        self._made[made] -= size
        self.now -= size


def storages(values: Any) -> dict[int, torch.UntypedStorage]:
    """Return the storages of all tensors in nested containers as a dict: address → storage."""
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage._cdata: storage for storage in storages}


@dataclass
class Saved:
    """The bytes and the number of the tensors that autograd has stored for the backward pass."""

    size: int = 0
    tensors: int = 0


@contextmanager
def saved_for_backward(model: nn.Module) -> Iterator[Saved]:
    """Count the tensors that forward passes of a model store for the backward pass.

    Yields a `Saved` whose numbers grow during the forward pass. The model's weights and buffers are
    not counted, and a tensor with several views is counted once.
    """
    weights = [*model.parameters(), *model.buffers()]
    seen = {tensor.untyped_storage().data_ptr() for tensor in weights}
    # The list `keep` prevents the storages from being freed, so that no address is used twice.
    saved = Saved()
    keep: list[torch.UntypedStorage] = []

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


@contextmanager
def backward_marked(
    meter: TensorMeter, head: nn.Module | None, layers: Iterable[nn.Module]
) -> Iterator[None]:
    """Begin phases of a meter while a language model runs a forward and a backward pass.

    If an output layer `head` is given, the phase "loss" begins when its forward pass begins. In the
    backward pass, "backward of layer n" begins as soon as the gradient of the output of layer n
    exists, where n counts `layers` from 1. The caller begins all other phases, such as "forward".
    """

    def mark(name: str) -> Callable[..., None]:
        return lambda *_: meter.begin(name)

    def mark_backward(name: str) -> Callable[..., None]:
        def with_output(layer: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            tensor = output[0] if isinstance(output, tuple) else output
            if tensor.requires_grad:
                tensor.register_hook(mark(name))

        return with_output

    hooks = [head.register_forward_pre_hook(mark("loss"))] if head else []
    for n, layer in enumerate(layers, 1):
        hooks.append(layer.register_forward_hook(mark_backward(f"backward of layer {n}")))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def gradient_bytes(model: nn.Module) -> int:
    """Return the size of the current gradients of a model's parameters, in bytes (B)."""
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the size of an optimizer's states, in bytes (B); a shared tensor is counted once.

    Tensors without dimensions, such as Adam's step counter, are not counted.
    """
    tensors = tree_leaves([list(state.values()) for state in optimizer.state.values()])
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.ndim
    }
    return sum(storages.values())
