"""Test values: plain values are restored from bytes unchanged, and other values raise errors."""

import collections

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.exercise import values

KEYS = st.none() | st.booleans() | st.integers() | st.text()
PLAIN = st.recursive(
    KEYS | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner)
    ),
    max_leaves=30,
)


@pytest.mark.full
@given(PLAIN)
def test_copies_of_plain_values_have_the_same_representation(value):
    assert repr(values.copied(value)) == repr(value)


DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_copies_of_tensors_have_the_same_shape_dtype_and_bits(dtype, shape):
    tensor = (100 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    back = values.copied([tensor])[0]
    assert (back.shape, back.dtype) == (tensor.shape, dtype) and torch.equal(back, tensor)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "int64", "float16", "float32", "float64"]
)
def test_copies_of_arrays_have_the_same_shape_dtype_and_bits(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    for variant in (array, array.T, array[::2], np.array(3, dtype)):
        back = values.copied({"x": variant})["x"]
        assert type(back) is np.ndarray and back.dtype == variant.dtype
        assert back.shape == variant.shape and (back == variant).all()


def test_parameters_and_library_types_become_plain_values():
    layer = torch.nn.Linear(3, 2)
    back = values.copied(layer.state_dict())
    assert type(back) is dict and not back["weight"].requires_grad
    (parameter,) = values.copied([layer.weight])
    assert type(parameter) is torch.Tensor and torch.equal(parameter, layer.weight)
    assert values.copied(layer.weight.shape) == (2, 3)
    counted = values.copied(collections.defaultdict(int, {"a": np.int64(3), "b": np.float32(0.5)}))
    assert repr(counted) == repr({"a": 3, "b": 0.5})


def test_a_copy_shares_nothing():
    tensor, array, inner = torch.zeros(3), np.zeros(3), [1]
    back = values.copied((tensor, array, inner))
    tensor += 1
    array += 1
    inner.append(2)
    assert not back[0].any() and not back[1].any() and back[2] == [1]


def test_a_slice_is_encoded_without_the_rest_of_its_storage():
    assert len(values.encode(torch.zeros(10**6)[:3])) < 1000


class EqualsEverything(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class TensorSubclass(torch.Tensor):
    pass


NOT_PLAIN = {
    "subclass of int": EqualsEverything(3),
    "subclass of tensor": torch.zeros(2).as_subclass(TensorSubclass),
    "subclass of dict": type("Odd", (dict,), {})(),
    "set": {1},
    "bytes": b"x",
    "complex": 1j,
    "dtype": torch.float16,
    "function": len,
    "object array": np.array([EqualsEverything(3)], dtype=object),
    "string array": np.array(["x"]),
    "date": np.datetime64("2020-01-01"),
    "foreign byte order": np.arange(3).astype(">i4"),
    "sparse tensor": torch.eye(2).to_sparse(),
    "tensor without numbers": torch.zeros(2, device="meta"),
    "generator": (n for n in range(3)),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_other_values_raise_an_error_that_names_their_place(kind):
    with pytest.raises(TypeError, match=r"the value\[1\]\['loss'\] is "):
        values.encode([0, {"loss": NOT_PLAIN[kind]}])


def test_keys_must_be_plain_values():
    with pytest.raises(TypeError, match="a key of the value is of type EqualsEverything"):
        values.encode({EqualsEverything(3): 1})


@pytest.mark.full
def test_values_that_are_too_large_raise_an_error():
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested more than 20 deep, or contains itself"):
        values.encode(endless)
    row = [0] * 1001
    with pytest.raises(ValueError, match=r"at most 1,000,000 items and 64 MB are allowed"):
        values.encode([row] * 1001)
    big = torch.zeros(1, dtype=torch.uint8).expand(values.MAX_BYTES // 2 + 1)
    with pytest.raises(ValueError, match="too large"):
        values.encode([big, big])


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, b"\5" + b"\0" * 7 + b"x", values.encode([1])[:-9]]
)
def test_invalid_bytes_raise_an_error(data):
    with pytest.raises(ValueError, match="are not a plain value"):
        values.decode(data)


def test_changed_bytes_are_a_plain_value_or_raise_value_error():
    data = values.encode({"a": (1, torch.zeros(2))})
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            values.encode(values.decode(changed))
        except ValueError as error:
            assert "are not a plain value" in str(error)
