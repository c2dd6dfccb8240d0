"""Convert plain values to bytes and back safely. Graded answers accept and return plain values.

A plain value is None, a bool, int, float, str, list, tuple, dict, NumPy array or PyTorch tensor.
Other objects are refused, because an object can define its own `__eq__` and claim to equal any
expected value. The bytes contain the structure of a value as JSON and its arrays as safetensors, so
nothing is ever unpickled.

    (3, {"A": tensor})   ─►   {"tuple": [3, {"dict": [["A", {"tensor": 0}]]}]}   and   safetensors
"""

from __future__ import annotations

import collections
import json
import sys
from typing import Any

# The maximum depth of nested containers.
MAX_DEPTH = 20
# The maximum number of single values and containers together in one plain value.
MAX_PARTS = 1_000_000
# The maximum size of all arrays, tensors and texts together, in bytes (B). Each character of a text
# counts as one byte.
MAX_BYTES = 64_000_000

# The maximum number of bits of an int: 4,000 digits. Python refuses to write ints with more than
# 4,300 digits as text.
MAX_BITS = 13_288

SCALARS = (type(None), bool, int, float, str)
DICTS = (dict, collections.OrderedDict, collections.defaultdict)
ALLOWED = "None, bool, int, float, str, list, tuple, dict, NumPy arrays and tensors"


def encode(value: Any) -> bytes:
    """Convert a plain value to bytes.

    Objects of subclasses are refused, because a subclass could change the behaviour of its base
    class. A few types are converted: NumPy scalars to Python scalars, `torch.Size` to a tuple, an
    OrderedDict (which `state_dict` returns) to a dict, and parameters and tensors with gradients to
    plain tensors on the CPU.

    Raises:
        TypeError: the value, or a part of it, is not plain; the message says which part.
        ValueError: the value is nested too deeply, contains itself, or is too large.
    """
    writer = _Writer()
    tree = json.dumps(writer.tree(value, "the value", 0)).encode()
    return b"".join(
        len(part).to_bytes(8, "little") + part
        for part in (tree, _save("numpy", writer.array), _save("torch", writer.tensor))
    )


def decode(data: bytes) -> Any:
    """Convert bytes back to the value that `encode` converted."""
    try:
        tree, arrays, tensors = _parts(data)
        stores = {"array": _load("numpy", arrays), "tensor": _load("torch", tensors)}
        return _read(json.loads(tree), stores)
    # JSON and safetensors raise errors of many kinds for bytes that they did not write.
    except Exception as error:
        raise ValueError(f"these bytes are not a plain value: {error}") from None


def copied(value: Any) -> Any:
    """Return an independent copy of a plain value, made with `encode` and `decode`."""
    return decode(encode(value))


# --- from a value to bytes ------------------------------------------------------------------------


class _Writer:
    """Converts one value to a tree for JSON, and collects its arrays and tensors."""

    def __init__(self) -> None:
        self.array: dict[str, Any] = {}
        self.tensor: dict[str, Any] = {}
        self.parts = self.bytes = 0

    def tree(self, value: Any, where: str, depth: int) -> Any:
        """Return the tree of a value.

        `where` is the name of the value in error messages, for example "the value[1]".
        """
        self._count(parts=1)
        if depth > MAX_DEPTH:
            raise ValueError(f"the value is nested more than {MAX_DEPTH} deep, or contains itself")
        kind = type(value)
        if kind is int and value.bit_length() > MAX_BITS:
            raise ValueError(f"{where} is a whole number with more than 4,000 digits")
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
        """Return the tree of a value of NumPy or PyTorch, without importing either library."""
        kind, numpy, torch = type(value), sys.modules.get("numpy"), sys.modules.get("torch")
        if numpy and kind is numpy.ndarray and value.dtype.kind in "biuf" and value.dtype.isnative:
            self._count(size=value.nbytes)
            return _put("array", self.array, numpy.array(value, order="C"))
        if numpy and kind in numpy.sctypeDict.values() and type(value.item()) in SCALARS:
            return self.tree(value.item(), where, depth)
        if torch and kind is torch.Size:
            return self.tree(tuple(value), where, depth)
        if torch and kind in (torch.Tensor, torch.nn.Parameter):
            if value.layout is not torch.strided or value.is_quantized or value.is_meta:
                raise TypeError(f"{where} is not an ordinary, dense tensor")
            self._count(size=value.nbytes)
            return _put("tensor", self.tensor, value.detach().cpu().clone().contiguous())
        raise TypeError(f"{where} is of type {kind.__name__}; {ALLOWED} are allowed")

    def _count(self, parts: int = 0, size: int = 0) -> None:
        self.parts, self.bytes = self.parts + parts, self.bytes + size
        if self.parts > MAX_PARTS or self.bytes > MAX_BYTES:
            raise ValueError(
                f"the value is too large: at most {MAX_PARTS:,} items and {MAX_BYTES // 10**6} MB "
                "are allowed"
            )


def _put(kind: str, store: dict[str, Any], array: Any) -> dict[str, int]:
    """Add an array to a store, and return the node of the tree that refers to it."""
    store[str(len(store))] = array
    return {kind: len(store) - 1}


def _save(library: str, arrays: dict[str, Any]) -> bytes:
    """Return arrays as safetensors. Without arrays, return no bytes and import no library."""
    return _safetensors(library).save(arrays) if arrays else b""


# --- from bytes to a value ------------------------------------------------------------------------


def _parts(data: bytes) -> list[bytes]:
    """Split the bytes into the tree, the arrays and the tensors.

    The 8 bytes before each part contain the length of the part.
    """
    parts = []
    while data:
        end = 8 + int.from_bytes(data[:8], "little")
        if len(data) < end:
            raise ValueError("the end is missing")
        parts.append(data[8:end])
        data = data[end:]
    return parts


def _load(library: str, data: bytes) -> dict[str, Any]:
    return _safetensors(library).load(data) if data else {}


def _safetensors(library: str) -> Any:
    import importlib

    return importlib.import_module(f"safetensors.{library}")


def _read(tree: Any, stores: dict[str, dict[str, Any]]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, inner),) = tree.items()
    if kind in stores:
        return stores[kind][str(inner)]
    if kind == "dict":
        return {_read(key, stores): _read(value, stores) for key, value in inner}
    return {"list": list, "tuple": tuple}[kind](_read(value, stores) for value in inner)
