"""Check exercises: call a student's function, compare its value, and explain what is wrong.

    check(lora_parameters, 1000, 1000, rank=8).gives(
        (16_000, 0.016), mistakes=[((8_000, 0.008), "only one of A and B was counted")]
    )

    lora_parameters(1_000, 1_000, rank=8)
      came      (8_000, 0.008)
      expected  (16_000, 0.016)
      likely    only one of A and B was counted

The student's function is called the answer. Arguments and returned values are plain values
(`course_utils.values`) and are copied. So an answer can neither change the expected value nor
decide the comparison itself. Everything that the answer writes to stderr, including warnings, is
redirected to stdout, because nbgrader gives no points to a test cell that wrote to stderr.
"""

from __future__ import annotations

import contextlib
import linecache
import math
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from course_utils import values

# The maximum number of characters in a line of a message, in a shown value and in a shown argument.
LINE, WIDTH, ARGUMENT = 92, 300, 100
# The maximum number of items of a list that are shown. A tensor is shown completely if it has at
# most 2 · FEW numbers.
FEW = 12

# The checks after this line of a cell are only in the grader's copy of the notebook.
HIDDEN = "### BEGIN HIDDEN TESTS"
# The beginning of the message of a failed check in a notebook.
PREFIX = "Not right yet: "
HIDDEN_PREFIX = "Not right yet, in a check that grading adds: "
# The exceptions of an answer that a check catches and reports.
FAULTS = (Exception, SystemExit)

Mistakes = Iterable[tuple[Any, str]]


class CheckFailed(AssertionError):
    """Raised if an answer isn't right yet. A notebook shows the message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython, and so nbgrader, shows instead of a traceback."""
        return [f"{HIDDEN_PREFIX if _is_hidden(self) else PREFIX}{self}"]


def _is_hidden(failed: BaseException) -> bool:
    """Return whether the line that failed is one of the hidden tests of its cell."""
    frames = traceback.walk_tb(failed.__traceback__)
    cell = next(
        ((f, line) for frame, line in frames if _is_cell(f := frame.f_code.co_filename)), ()
    )
    lines = linecache.getlines(cell[0])[: cell[1]] if cell else []
    return any(line.startswith(HIDDEN) for line in lines)


def _is_cell(file: str) -> bool:
    return "ipykernel" in file or "ipython-input" in file


class Unplain(Exception):
    """Raised if an answer returns a value that isn't plain. The message says where and why."""


class Check:
    """The check of one call of an answer.

    The call is made when its value is first needed. A method raises CheckFailed if the answer is
    not as expected, raises an exception, is not written yet, or returns a value that isn't plain.
    Only the method `raises` accepts an exception.

    Args:
        text: the call as messages show it.
        call: a function that makes the call and returns a plain value.
    """

    def __init__(self, text: str, call: Callable[[], Any]):
        self._text, self._call = text, call
        self._came: tuple[Any] | None = None

    @property
    def value(self) -> Any:
        """Return a copy of the value that the answer returned."""
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
        """Check that the answer is `expected`.

        Floats and tensors may differ by `rel * |expected| + abs`. A list equals a tuple with the
        same items, and a tensor without dimensions counts as a number.

        Args:
            expected: the correct value.
            mistakes: pairs of a mistake and the hint for it. A mistake is a wrong value, or a
                function that returns whether a value is this mistake.
            likely: the hint for any other wrong value.
            rel: the relative tolerance.
            abs: the absolute tolerance.

        Raises:
            CheckFailed: the answer is not `expected`.
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
        """Check that the answer has the form of an example: types, lengths, keys, shapes, dtypes.

        Args:
            example: a value of the correct form. An int in the example allows only whole numbers. A
                float allows whole numbers and floats.

        Raises:
            CheckFailed: the form of the answer differs from the form of the example.
        """
        if (fault := _unlike(self.value, example)) is not None:
            where, came, wanted = fault
            at = f" at {where.lstrip(', ')}" if where else ""
            self._fail(f"came      {came}{at}", f"expected  {wanted}")

    def raises(self, *exceptions: type[Exception], saying: str = "", likely: str = "") -> None:
        """Check that the answer raises an exception.

        Args:
            exceptions: the classes of exceptions that are allowed.
            saying: a text that the exception's message must contain, in upper or lower case.
            likely: the hint if the answer does not raise such an exception.

        Raises:
            CheckFailed: the answer raises no such exception.
        """
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
        """Check a property of `value`.

        Args:
            holds: whether the value has the property.
            expected: the property in words.
            likely: the hint if the value does not have the property.

        Raises:
            CheckFailed: the value does not have the property.
        """
        came = show(self.value)
        if not holds:
            self._fail(f"came      {came}", f"expected  {expected}", _likely(likely))

    def part(self, *keys: Any) -> Check:
        """Return a check of one item of the answer.

        Args:
            keys: the keys or indices that lead to the item.

        Returns:
            A check of this item.

        Raises:
            CheckFailed: there is no such item.
        """
        inner = self.value
        text = self._text
        for key in keys:
            text += f"[{key!r}]"
            try:
                inner = inner[key]
            except (KeyError, IndexError, TypeError):
                self._fail(f"came      {show(self.value)}", f"expected  something at [{key!r}]")
        return Check(text, lambda: inner)

    def _fail(self, *lines: str) -> NoReturn:
        text = [
            _wrapped(self._text, "    "),
            *(_wrapped(f"  {line}", " " * 12) for line in lines if line),
        ]
        raise CheckFailed("\n".join(text)) from None


def check(answer: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Check:
    """Prepare the check of a call `answer(*args, **kwargs)`.

    Args:
        answer: the student's function.
        args: the positional arguments of the call, which must be plain values.
        kwargs: the keyword arguments of the call, which must be plain values.

    Returns:
        A check of the value that the call returns.

    Raises:
        TypeError: an argument isn't a plain value.
    """
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
    """Write a plain value in one line.

    Args:
        value: the value. The digits of its numbers are in groups of three: 16_000.
        width: the maximum number of characters. A longer text is cut.

    Returns:
        The text.
    """
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
    """Write a number or nested lists of numbers. Floats have up to six significant digits."""
    if type(value) is list:
        return f"[{', '.join(map(_numbers, value))}]"
    return f"{value:.6g}" if type(value) is float else f"{value}"


def _kind(value: Any) -> str:
    return "array" if type(value).__name__ == "ndarray" else "tensor"


def _form(value: Any) -> str:
    """Describe the form of a value: "list of 3", "tensor of 4 × 8 float32", "float 1.5"."""
    if hasattr(value, "shape"):
        size = " × ".join(map(str, value.shape)) or "a single"
        return f"{_kind(value)} of {size} {str(value.dtype).removeprefix('torch.')}"
    if type(value) in (list, tuple, dict):
        return f"{type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{type(value).__name__} {_shown(value)}"


def call_text(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Write a call as messages show it: lora_parameters(1_000, 1_000, rank=8)."""
    shown = [show(arg, ARGUMENT) for arg in args]
    shown += [f"{key}={show(arg, ARGUMENT)}" for key, arg in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _wrapped(text: str, indent: str) -> str:
    """Break a long line into several lines, and indent every line except the first."""
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
    """Find the line of the student's own code that raised an exception.

    An exception from another process stores this line in its attribute `crossed_place`.

    Args:
        fault: the exception.

    Returns:
        A list with one line for the message, or an empty list if no code in a cell raised the
        exception.
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

# The place where two values differ, the answer's value there, and the expected value there.
Difference = tuple[str, str, str]


def _difference(came: Any, expected: Any, rel: float, abs: float) -> Difference | None:
    """Return the first difference between two plain values, or None if they are equal."""
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
    """Return the keys that are only in the first dict, as text."""
    return show([key for key in these if key not in those])


def _first_difference(pairs: Iterable[tuple[str, Any, Any]], rel: float, abs: float):
    for where, came, expected in pairs:
        if (inner := _difference(came, expected, rel, abs)) is not None:
            return where + inner[0], *inner[1:]
    return None


def _single(value: Any) -> Any:
    """Return the number in a tensor or array without dimensions, or any other value unchanged."""
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
    """Return the hint for a wrong value, or an empty text if it is not a known mistake."""
    for wrong, text in mistakes:
        # A function that recognizes a mistake may raise an error if the value has an unexpected
        # type.
        with contextlib.suppress(Exception):
            if wrong(came) if callable(wrong) else _difference(came, wrong, rel, abs) is None:
                return text
    return ""


def _unlike(came: Any, example: Any) -> Difference | None:
    """Return the first place where the forms of a value and an example differ, or None."""
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
