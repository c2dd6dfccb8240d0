"""Checks of the exercises: call an answer, compare what came, say what is wrong in four lines.

    check(lora_parameters, 1000, 1000, rank=8).gives(
        (16_000, 0.016), mistakes=[((8_000, 0.008), "only one of A and B was counted")]
    )

    lora_parameters(1_000, 1_000, rank=8)
      came      (8_000, 0.008)
      expected  (16_000, 0.016)
      likely    only one of A and B was counted

Arguments and answers cross as plain values (`course_utils.values`), copied on the way: an answer
can neither change what it is compared with nor compare itself. What it prints to stderr, warnings
too, goes to stdout: nbgrader gives no point to a test cell that wrote to stderr.
"""

from __future__ import annotations

import contextlib
import linecache
import math
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from course_utils import values

LINE = 92  # characters of a line of a message
WIDTH = 300  # characters of a value that are shown
ARGUMENT = 100  # characters of an argument that are shown
FEW = 12  # items of a list or numbers of a tensor that are shown

HIDDEN = "### BEGIN HIDDEN TESTS"  # the line from which on a cell's checks are grading's own
PREFIX = "Not right yet: "  # of the message of a failed check, in a notebook
HIDDEN_PREFIX = "Not right yet, in a check that grading adds: "
FAULTS = (Exception, SystemExit)  # that end an answer, and not the notebook

Mistakes = Iterable[tuple[Any, str]]


class CheckFailed(AssertionError):
    """An answer that isn't right yet. In a notebook it shows its text and no traceback."""

    def _render_traceback_(self) -> list[str]:  # asked for by IPython, and so by nbgrader
        return [f"{HIDDEN_PREFIX if _is_hidden(self) else PREFIX}{self}"]


def _is_hidden(failed: BaseException) -> bool:
    """Whether the line of the cell that failed stands among its hidden tests."""
    frames = traceback.walk_tb(failed.__traceback__)
    cell = next(
        ((f, line) for frame, line in frames if _is_cell(f := frame.f_code.co_filename)), ()
    )
    lines = linecache.getlines(cell[0])[: cell[1]] if cell else []
    return any(line.startswith(HIDDEN) for line in lines)


def _is_cell(file: str) -> bool:
    return "ipykernel" in file or "ipython-input" in file


class Unplain(Exception):
    """What an answer returned is no plain value; the text says where and why."""


class Check:
    """One call of an answer, made when its result is first asked for, and what is expected of it.

    text: the call as it is shown. call: makes it and returns a plain value.
    value: what came, a plain copy. Every method raises CheckFailed where the answer raised, hasn't
    been written yet, or returned something that isn't a plain value.
    """

    def __init__(self, text: str, call: Callable[[], Any]):
        self._text, self._call = text, call
        self._came: tuple[Any] | None = None

    @property
    def value(self) -> Any:
        """What the answer returned."""
        if self._came is None:
            try:
                self._came = (self._call(),)
            except Unplain as fault:
                self._fail(f"came      {fault}")
            except FAULTS as fault:
                self._fail(f"raised    {_one_line(fault)}", *place(fault))
        return self._came[0]

    def gives(
        self,
        expected: Any,
        *,
        mistakes: Mistakes = (),
        likely: str = "",
        rel: float = 1e-6,
        abs: float = 1e-9,
    ) -> None:
        """The answer must be `expected`; floats and tensors within rel × |expected| + abs.

        mistakes: pairs of a wrong value, or a function that recognizes one, and what is then said.
        likely: what is said of any other wrong value. A list may stand for a tuple, and a tensor of
        one number for a float.
        """
        difference = _difference(self.value, expected, rel, abs)
        if difference is not None:
            where, came, wanted = difference
            at = f"differs   at {where.lstrip(', ')}: {came} instead of {wanted}" if where else ""
            reason = _reason(self.value, mistakes, rel, abs) or likely
            self._fail(
                f"came      {show(self.value)}", f"expected  {show(expected)}", at, _likely(reason)
            )

    def like(self, example: Any) -> None:
        """The answer must have the form of `example`: types, lengths, keys, shapes and dtypes.

        An int asks for a whole number, a float for any number.
        """
        if (fault := _unlike(self.value, example)) is not None:
            where, came, wanted = fault
            at = f" at {where.lstrip(', ')}" if where else ""
            self._fail(f"came      {came}{at}", f"expected  {wanted}")

    def raises(self, *exceptions: type[Exception], saying: str = "", likely: str = "") -> None:
        """The answer must raise one of these; its message must contain `saying`, in any case."""
        names = " or ".join(exception.__name__ for exception in exceptions)
        expected = f"expected  {names}" + (f" with {saying!r} in its message" if saying else "")
        try:
            came = self._call()
        except Unplain as fault:
            self._fail(f"came      {fault}", expected, _likely(likely))
        except NotImplementedError as fault:
            self._fail(f"raised    {_one_line(fault)}")
        except exceptions as fault:
            if saying.lower() not in str(fault).lower():
                self._fail(f"raised    {_one_line(fault)}", expected, _likely(likely))
        except FAULTS as fault:
            self._fail(f"raised    {_one_line(fault)}", *place(fault), expected, _likely(likely))
        else:
            self._fail(f"came      {show(came)}", expected, _likely(likely))

    def that(self, holds: bool, expected: str, likely: str = "") -> None:
        """Something must hold of `value`; `expected` says it in words."""
        came = show(self.value)
        if not holds:
            self._fail(f"came      {came}", f"expected  {expected}", _likely(likely))

    def part(self, *keys: Any) -> Check:
        """One item of the answer, by keys or indices, to be checked by itself."""
        inner = self.value
        text = self._text
        for key in keys:
            text += f"[{key!r}]"
            try:
                inner = inner[key]
            except (KeyError, IndexError, TypeError):
                self._fail(f"came      {show(self.value)}", f"expected  something at [{key!r}]")
        return Check(text, lambda: inner)

    def _fail(self, *lines: str) -> None:
        text = [
            _wrapped(self._text, "    "),
            *(_wrapped(f"  {line}", " " * 12) for line in lines if line),
        ]
        raise CheckFailed("\n".join(text)) from None


def check(answer: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Check:
    """The call `answer(*args, **kwargs)`, ready to be checked. Arguments must be plain values."""
    text = call_text(getattr(answer, "__name__", "your answer"), args, kwargs)
    args, kwargs = values.copied(args), values.copied(kwargs)

    def call() -> Any:
        with contextlib.redirect_stderr(sys.stdout):
            came = answer(*args, **kwargs)
        try:
            return values.copied(came)
        except (TypeError, ValueError) as fault:
            raise Unplain(str(fault)) from None

    return Check(text, call)


# --- how values are shown -------------------------------------------------------------------------


def show(value: Any, width: int = WIDTH) -> str:
    """A plain value in one line: digits in groups of three (16_000), long values shortened."""
    text = _shown(value)
    return text if len(text) <= width else text[:width] + " …"


def _shown(value: Any) -> str:
    if type(value) is int:
        return f"{value:_}" if abs(value) < 10**30 else f"{value:.6e}"
    if type(value) is float:
        return f"{value:_.1f}" if value == round(value, 1) < 10**15 else f"{value:.10g}"
    if type(value) in (list, tuple):
        left, right = "[]" if type(value) is list else "()"
        inner = [_shown(item) for item in value[:FEW]] + ["…"] * (len(value) > FEW)
        return left + ", ".join(inner) + ("," if left == "(" and len(value) == 1 else "") + right
    if type(value) is dict:
        inner = [f"{_shown(key)}: {_shown(item)}" for key, item in list(value.items())[:FEW]]
        return "{" + ", ".join(inner + ["…"] * (len(value) > FEW)) + "}"
    return _shown_array(value) if hasattr(value, "shape") else repr(value)


def _shown_array(value: Any) -> str:
    if math.prod(value.shape) <= 2 * FEW:
        return f"{_kind(value)}({_numbers(value.tolist())})"
    first = _numbers(value.reshape(-1)[:6].tolist()).strip("[]")
    return f"{_form(value)}: [{first}, …]"


def _numbers(value: Any) -> str:
    """A number, or lists of them in any depth; floats with six digits."""
    if type(value) is list:
        return f"[{', '.join(map(_numbers, value))}]"
    return f"{value:.6g}" if type(value) is float else f"{value}"


def _kind(value: Any) -> str:
    return "array" if type(value).__name__ == "ndarray" else "tensor"


def _form(value: Any) -> str:
    """The form of a value in words: "a float", "a tensor of 4 × 8 float32"."""
    if hasattr(value, "shape"):
        size = " × ".join(map(str, value.shape)) or "a single"
        return f"{_kind(value)} of {size} {str(value.dtype).removeprefix('torch.')}"
    if type(value) in (list, tuple, dict):
        return f"{type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{type(value).__name__} {_shown(value)}"


def call_text(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """How a call is shown: lora_parameters(1_000, 1_000, rank=8)."""
    shown = [show(arg, ARGUMENT) for arg in args]
    shown += [f"{key}={show(arg, ARGUMENT)}" for key, arg in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _wrapped(text: str, indent: str) -> str:
    """A long line as several, of which all but the first are indented."""
    return textwrap.fill(
        text, LINE, subsequent_indent=indent, break_on_hyphens=False, replace_whitespace=False
    )


def _likely(text: str) -> str:
    return f"likely    {text}" if text else ""


def _one_line(fault: BaseException) -> str:
    if isinstance(fault, NotImplementedError) and not str(fault):
        return "NotImplementedError: nothing is written here yet"
    return f"{type(fault).__name__}: {str(fault).strip()}"[:WIDTH]


def place(fault: BaseException) -> list[str]:
    """The student's own line that raised, if there is one.

    An exception that crossed from another process brings it along as `crossed_place`.
    """
    if (crossed := getattr(fault, "crossed_place", None)) is not None:
        return crossed
    frames = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(fault.__traceback__)
    ]
    own = [frame for frame in frames if _is_cell(frame[0]) and frame[2] != "<module>"]
    if not own:
        return []
    file, line, name = own[-1]
    return [f"in        {name}, line {line}: {linecache.getline(file, line).strip()}"]


# --- how values are compared ----------------------------------------------------------------------

Difference = tuple[str, str, str]  # where, what came there, what was expected there


def _difference(came: Any, expected: Any, rel: float, abs: float) -> Difference | None:
    """The first difference between two plain values; None if they are equal."""
    kind = type(expected)
    if kind in (list, tuple):
        if type(came) not in (list, tuple) or len(came) != len(expected):
            return "", show(came), show(expected)
        pairs = ((f"[{i}]", c, e) for i, (c, e) in enumerate(zip(came, expected, strict=True)))
        return _first_difference(pairs, rel, abs)
    if kind is dict:
        if type(came) is not dict:
            return "", show(came), show(expected)
        if came.keys() != expected.keys():
            return ", keys", _only_in(came, expected), _only_in(expected, came)
        return _first_difference(((f"[{k!r}]", came[k], expected[k]) for k in expected), rel, abs)
    if hasattr(expected, "shape"):
        return _array_difference(came, expected, rel, abs)
    return None if _same_scalar(came, expected, rel, abs) else ("", show(came), show(expected))


def _only_in(these: dict[Any, Any], those: dict[Any, Any]) -> str:
    """The keys that one dict has and the other doesn't."""
    return show([key for key in these if key not in those])


def _first_difference(pairs: Iterable[tuple[str, Any, Any]], rel: float, abs: float):
    for where, came, expected in pairs:
        if (inner := _difference(came, expected, rel, abs)) is not None:
            return where + inner[0], *inner[1:]
    return None


def _single(value: Any) -> Any:
    """The number in a tensor or array of one, without dimensions; else the value itself."""
    return value.item() if hasattr(value, "shape") and value.ndim == 0 else value


def _same_scalar(came: Any, expected: Any, rel: float, abs: float) -> bool:
    came = _single(came)
    if type(expected) in (int, float):
        if type(came) not in (int, float):
            return False
        if type(expected) is int or math.isinf(expected):
            return came == expected
        both_nan = math.isnan(came) and math.isnan(expected)
        return both_nan or math.fabs(came - expected) <= rel * math.fabs(expected) + abs
    return type(came) is type(expected) and came == expected


def _array_difference(came: Any, expected: Any, rel: float, abs: float) -> Difference | None:
    if type(came) is not type(expected) or came.shape != expected.shape:
        return ", form", _form(came), _form(expected)
    a, b = _as_float64(came), _as_float64(expected)
    near = b.isfinite() & ((a - b).abs() <= rel * b.abs() + abs)
    wrong = ~((a == b) | near | (a.isnan() & b.isnan()))
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    return str(list(place)), _shown(came[place].item()), _shown(expected[place].item())


def _as_float64(array: Any) -> Any:
    import torch

    return torch.as_tensor(array).to(torch.float64)


def _reason(came: Any, mistakes: Mistakes, rel: float, abs: float) -> str:
    """What is said of this wrong value; "" where it is none of the known ones."""
    for wrong, text in mistakes:
        with contextlib.suppress(Exception):  # a function may not expect a value of this kind
            if wrong(came) if callable(wrong) else _difference(came, wrong, rel, abs) is None:
                return text
    return ""


def _unlike(came: Any, example: Any) -> Difference | None:
    """Where the form of a value differs from that of an example; None if it doesn't."""
    kind, fault = type(example), ("", _form(came), _form_asked(example))
    if hasattr(example, "shape"):
        same = type(came) is kind and (came.shape, came.dtype) == (example.shape, example.dtype)
        return None if same else fault
    if kind in (int, float):
        came = _single(came)
        return None if type(came) is int or type(came) is kind else fault
    sequences = (list, tuple)
    if type(came) is not kind and not (kind in sequences and type(came) in sequences):
        return fault
    if kind in sequences and len(came) != len(example):
        return fault
    if kind is dict and came.keys() != example.keys():
        return ", keys", _only_in(came, example), _only_in(example, came)
    keys = range(len(example)) if kind in sequences else example if kind is dict else ()
    for key in keys:
        if (inner := _unlike(came[key], example[key])) is not None:
            return f"[{key!r}]{inner[0]}", *inner[1:]
    return None


def _form_asked(example: Any) -> str:
    words = {
        int: "a whole number (int)",
        float: "a number (float)",
        str: "a string",
        bool: "a bool",
    }
    return words.get(type(example)) or _form(example)
