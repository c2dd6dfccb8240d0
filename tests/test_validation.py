"""Test validation and units: errors state what is allowed, and numbers of bytes have units."""

import doctest

import numpy as np
import pytest

from course_utils.machine import units
from course_utils.machine.units import format_bytes
from course_utils.machine.validation import first_line, names_of, one_of, positive, whole_number


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_become_ints(value):
    assert type(positive("rank", value)) is int and positive("rank", value) == value
    assert whole_number("rank", value, least=1, most=7) == value


@pytest.mark.parametrize("value", [0, -1, 2.0, "8", None, True])
def test_other_values_than_positive_whole_numbers_raise_an_error(value):
    with pytest.raises(ValueError, match=r"^rank must be a whole number of at least 1, got "):
        positive("rank", value)


@pytest.mark.parametrize("value", [1, 9])
def test_the_error_names_both_ends_of_the_range(value):
    with pytest.raises(ValueError, match=f"^bits must be a whole number from 2 to 8, got {value}$"):
        whole_number("bits", value, least=2, most=8)


@pytest.mark.parametrize(
    ("allowed", "listed"),
    [
        (("hub", "pypi", "auto"), "'hub', 'pypi' or 'auto'"),
        ({"ocp": 1, "fp4": 2}, "'ocp' or 'fp4'"),
        ([None], "None"),
    ],
)
def test_the_error_lists_the_allowed_values(allowed, listed):
    for value in allowed:
        assert one_of("kind", value, allowed) is value
    with pytest.raises(ValueError, match=f"^kind must be {listed}, got 'other'$"):
        one_of("kind", "other", allowed)


def test_names_become_a_tuple():
    assert names_of("targets", "q_proj") == ("q_proj",)
    assert names_of("targets", ["q_proj", "v_proj"]) == ("q_proj", "v_proj")
    for bad in (None, 3, ["q_proj", 3]):
        with pytest.raises(ValueError, match=r"^targets must be a name of a layer or a list of"):
            names_of("targets", bad)


def test_first_line_of_a_message_or_the_class_of_the_error():
    assert first_line(OSError("\n no space left \nmore")) == "no space left "
    assert first_line(RuntimeError()) == "RuntimeError"


def test_numbers_of_bytes_are_written_with_their_unit():
    assert doctest.testmod(units).failed == 0
    assert format_bytes(999) == "999 B" and format_bytes(1000) == "1.00 kB"
    assert format_bytes(-1536, binary=True, digits=1) == "-1.5 KiB"
    assert format_bytes(5e15, digits=0) == "5,000 TB"
