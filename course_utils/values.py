"""Plain values: what a graded answer may take and return, and their safe way into bytes and back.

None, bool, int, float, str, list, tuple, dict, NumPy arrays and PyTorch tensors. Nothing else
crosses: an object brings its own `__eq__` and could claim to equal whatever is expected. The bytes
are JSON for the form of a value and safetensors for its arrays; nothing is ever unpickled.

    (3, {"A": tensor})   ─►   {"tuple": [3, {"dict": [["A", {"tensor": 0}]]}]}   and   safetensors
"""

from __future__ import annotations

import collections
import json
import sys
from typing import Any

MAX_DEPTH = 20  # of containers in containers
MAX_PARTS = 1_000_000  # single values, all containers together
MAX_BYTES = 64_000_000  # of arrays, tensors and text together

SCALARS = (type(None), bool, int, float, str)
DICTS = (dict, collections.OrderedDict, collections.defaultdict)
ALLOWED = "None, bool, int, float, str, list, tuple, dict, NumPy arrays and tensors"


def encode(value: Any) -> bytes:
    """A plain value as bytes.

    Types are compared exactly: a subclass, which could bring behaviour with it, is refused. Scalars
    of NumPy become Python's, `torch.Size` a tuple, parameters and tensors with gradients plain
    tensors on the CPU, an OrderedDict (what `state_dict` returns) a dict.

    Raises TypeError for a value that isn't plain, and says where it stands; ValueError for one that
    is too deep, refers to itself, or is too large.
    """
    writer = _Writer()
    tree = json.dumps(writer.tree(value, "the value", 0)).encode()
    return b"".join(
        len(part).to_bytes(8, "little") + part
        for part in (tree, _save("numpy", writer.array), _save("torch", writer.tensor))
    )


def decode(data: bytes) -> Any:
    """The value that `encode` turned into these bytes; ValueError if they are something else."""
    try:
        tree, arrays, tensors = _parts(data)
        stores = {"array": _load("numpy", arrays), "tensor": _load("torch", tensors)}
        return _read(json.loads(tree), stores)
    except Exception as fault:  # whatever JSON and safetensors say of bytes that aren't theirs
        raise ValueError(f"these bytes hold no plain value: {fault}") from None


def copied(value: Any) -> Any:
    """An independent copy of a plain value, by way of its bytes; raises what `encode` does."""
    return decode(encode(value))


# --- from a value to bytes ------------------------------------------------------------------------


class _Writer:
    """Turns one value into a tree for JSON, and sets its arrays and tensors aside."""

    def __init__(self) -> None:
        self.array: dict[str, Any] = {}
        self.tensor: dict[str, Any] = {}
        self.parts = self.bytes = 0

    def tree(self, value: Any, where: str, depth: int) -> Any:
        """What JSON keeps of the value that stands at `where`."""
        self._count(parts=1)
        if depth > MAX_DEPTH:
            raise ValueError(f"the value is nested more than {MAX_DEPTH} deep, or holds itself")
        kind = type(value)
        if kind in SCALARS:
            self._count(size=len(value) if kind is str else 0)
            return value
        if kind in (list, tuple):
            inner = [self.tree(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
            return {kind.__name__: inner}
        if kind in DICTS:
            return {"dict": [self._item(k, v, where, depth + 1) for k, v in value.items()]}
        return self._numerical(value, where, depth)

    def _item(self, key: Any, value: Any, where: str, depth: int) -> list[Any]:
        key_tree = self.tree(key, f"a key of {where}", depth)
        return [key_tree, self.tree(value, f"{where}[{key!r}]", depth)]

    def _numerical(self, value: Any, where: str, depth: int) -> Any:
        """What only NumPy and PyTorch can have made; neither is imported to find that out."""
        kind, numpy, torch = type(value), sys.modules.get("numpy"), sys.modules.get("torch")
        if numpy and kind is numpy.ndarray and value.dtype.kind in "biuf" and value.dtype.isnative:
            self._count(size=value.nbytes)
            return _aside("array", self.array, numpy.array(value, order="C"))
        if numpy and kind in numpy.sctypeDict.values() and type(value.item()) in SCALARS:
            return self.tree(value.item(), where, depth)
        if torch and kind is torch.Size:
            return self.tree(tuple(value), where, depth)
        if torch and kind in (torch.Tensor, torch.nn.Parameter):
            if value.layout is not torch.strided or value.is_quantized or value.is_meta:
                raise TypeError(f"{where} is not an ordinary, dense tensor")
            self._count(size=value.nbytes)
            return _aside("tensor", self.tensor, value.detach().cpu().clone().contiguous())
        raise TypeError(f"{where} is of type {kind.__name__}; {ALLOWED} are allowed")

    def _count(self, parts: int = 0, size: int = 0) -> None:
        self.parts, self.bytes = self.parts + parts, self.bytes + size
        if self.parts > MAX_PARTS or self.bytes > MAX_BYTES:
            raise ValueError(
                f"the value is too large: {MAX_PARTS:,} parts and {MAX_BYTES // 10**6} MB are the "
                "most that is allowed"
            )


def _aside(kind: str, store: dict[str, Any], array: Any) -> dict[str, int]:
    """Put an array into its store; returns the tree's reference to it."""
    store[str(len(store))] = array
    return {kind: len(store) - 1}


def _save(library: str, arrays: dict[str, Any]) -> bytes:
    """Arrays as safetensors; nothing at all where there are none, so that nothing is imported."""
    return _safetensors(library).save(arrays) if arrays else b""


# --- and back -------------------------------------------------------------------------------------


def _parts(data: bytes) -> list[bytes]:
    """The three parts, each of which is preceded by its length."""
    found = []
    while data:
        end = 8 + int.from_bytes(data[:8], "little")
        if len(data) < end:
            raise ValueError("they end too early")
        found.append(data[8:end])
        data = data[end:]
    return found


def _load(library: str, data: bytes) -> dict[str, Any]:
    return _safetensors(library).load(data) if data else {}


def _safetensors(library: str) -> Any:
    import importlib

    return importlib.import_module(f"safetensors.{library}")


def _read(tree: Any, stores: dict[str, dict[str, Any]]) -> Any:
    """The value of a tree; arrays and tensors come from their stores."""
    if not isinstance(tree, dict):
        return tree
    ((kind, inner),) = tree.items()
    if kind in stores:
        return stores[kind][str(inner)]
    if kind == "dict":
        return {_read(key, stores): _read(value, stores) for key, value in inner}
    return {"list": list, "tuple": tuple}[kind](_read(value, stores) for value in inner)
