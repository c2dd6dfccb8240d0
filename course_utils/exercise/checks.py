"""Check exercises: call a student's function, compare its value, and explain what is wrong.

    check(lora_parameters, 1000, 1000, rank=8).gives(
        (16_000, 0.016), mistakes=[((8_000, 0.008), "only one of A and B was counted")]
    )

    lora_parameters(1_000, 1_000, rank=8)
      returned  (8_000, 0.008)
      expected  (16_000, 0.016)
      likely    only one of A and B was counted

In this module, the student's function is called the answer. Arguments and returned values must be
plain values (see `course_utils.exercise.values`) and are copied. So an answer can neither change
the expected value nor decide the comparison itself. Everything that the answer writes to stderr,
including warnings, is redirected to stdout, because nbgrader gives no points to a test cell that
wrote to stderr.
"""

from __future__ import annotations

import contextlib
import hashlib
import linecache
import math
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from course_utils.exercise import values

# The maximum number of characters in a line of a message, in a shown value and in a shown argument.
MAX_LINE, MAX_VALUE, MAX_ARGUMENT = 92, 300, 100
# The maximum number of characters of a call that is shown as code.
MAX_CODE = 2_000
# At most this number of items of a list is shown. A tensor is shown completely if it has at most
# twice this number of elements.
MAX_ITEMS = 12

# The checks after this line of a cell are only in the grader's copy of the notebook.
HIDDEN = "### BEGIN HIDDEN TESTS"
# The beginning of the message of a failed check in a notebook.
PREFIX = "Not right yet: "
HIDDEN_PREFIX = "Not right yet, in a check that grading adds: "
# The exceptions of an answer that a check catches and reports.
CAUGHT = (Exception, SystemExit)
# The submission's own seed, on which the inputs of hidden tests depend. Grading sets it; in a
# notebook it is 0.
submission_seed = 0

Mistakes = Iterable[tuple[Any, str]]


def seed(number: int) -> int:
    """Return the seed for the inputs that a hidden test draws.

        draw = random.Random(seed(31))
        generator = torch.Generator().manual_seed(seed(31))

    Each submission is tested with its own inputs, so that nobody gains from the inputs or the
    answers of another. A submission that is graded again is tested with the same inputs.
    """
    digest = hashlib.sha256(f"{submission_seed} {number}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


class CheckFailed(AssertionError):
    """Raised if an answer isn't right. A notebook shows the message without a traceback.

    Args:
        code: the call as code that can be run in the student's notebook; "" if there is none.
    """

    def __init__(self, message: str, code: str = ""):
        super().__init__(message)
        self.code = code

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython, and so nbgrader, shows instead of a traceback."""
        if not _is_hidden(self):
            return [f"{PREFIX}{self}"]
        first, *lines = str(self).split("\n")
        if self.code:
            # The student can't read a hidden test, so the message contains the whole call.
            lines.append(_wrapped(f"  try       {self.code}", " " * 12))
        return ["\n".join([_wrapped(HIDDEN_PREFIX + first, "    "), *lines])]


def _is_hidden(error: BaseException) -> bool:
    """Return whether the line of a cell that raised an error is one of the cell's hidden tests."""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if _is_cell(file := frame.f_code.co_filename):
            return _is_hidden_line(file, number)
    return False


def _is_hidden_line(file: str, number: int) -> bool:
    return any(HIDDEN in line for line in linecache.getlines(file)[:number])


def _is_cell(file: str) -> bool:
    return "ipykernel" in file or "ipython-input" in file


class NotPlainError(Exception):
    """Raised if an answer returns a value that isn't plain. The message says where and why."""


class _NoItemError(Exception):
    """Raised if the value of an answer has no item at a key. The arguments are value and key."""


class Check:
    """The check of one call of an answer.

    The call is made when its value is first needed. Every method raises CheckFailed if the answer
    is not as expected, is not written yet, raises an exception or returns a value that isn't plain.
    Only the method `raises` expects an exception.
    """

    def __init__(self, text: str, call: Callable[[], Any], code: str = ""):
        self._text, self._call, self._code = text, call, code
        # None means that there is no value yet. A value is stored in a tuple, because the value
        # itself can be None.
        self._returned: tuple[Any] | None = None

    @property
    def value(self) -> Any:
        """Return a copy of the value that the answer returned."""
        return self._value()

    def _value(self, mistakes: Mistakes = (), likely: str = "") -> Any:
        """Return the value. If there is none, the check fails with the hint for the exception."""
        try:
            return self._make()
        except NotPlainError as error:
            self._fail(_not_plain(error), _likely(likely))
        except _NoItemError as error:
            value, key = error.args
            self._fail(_returned(value), f"expected  a value with an item [{key!r}]")
        except CAUGHT as error:
            hint = _exception_hint(error, mistakes) or likely
            self._fail(_raised(error), *place(error), _likely(hint))

    def _make(self) -> Any:
        """Make the call if it wasn't made yet, and return its value or raise its exception."""
        if self._returned is None:
            self._returned = (self._call(),)
        return self._returned[0]

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
            mistakes: pairs of a mistake and the hint for it. A mistake is a wrong value, a function
                that returns whether a value is this mistake, or the class of an exception.
            likely: the hint for any other wrong value or exception.
        """
        mistakes = list(mistakes)
        value = self._value(mistakes, likely)
        difference = _difference(value, expected, rel, abs)
        if difference is not None:
            hint = _hint(value, mistakes, rel, abs) or likely
            self._fail(
                _returned(value),
                f"expected  {show(expected)}",
                f"differs   {difference}" if difference.where else "",
                _likely(hint),
            )

    def like(self, example: Any, likely: str = "") -> None:
        """Check that the answer has the form of an example: types, lengths, keys, shapes, dtypes.

        Args:
            example: a value of the correct form. An int in the example allows only whole numbers. A
                float allows whole numbers and floats.
        """
        value = self._value(likely=likely)
        if (difference := _form_difference(value, example)) is not None:
            _, actual, expected = difference
            self._fail(
                f"returned  {actual} {difference.place}".rstrip(),
                f"expected  {expected}",
                _likely(likely),
            )

    def raises(self, *exceptions: type[Exception], likely: str = "") -> None:
        """Check that the answer raises one of these exceptions."""
        expected = f"expected  {' or '.join(exception.__name__ for exception in exceptions)}"
        try:
            value = self._call()
        except NotPlainError as error:
            self._fail(_not_plain(error), expected, _likely(likely))
        except NotImplementedError as error:
            self._fail(_raised(error))
        except exceptions:
            return
        except CAUGHT as error:
            self._fail(_raised(error), *place(error), expected, _likely(likely))
        self._fail(_returned(value), expected, _likely(likely))

    def that(self, holds: bool, expected: str, likely: str = "") -> None:
        """Check a property of `value`."""
        returned = _returned(self.value)
        if not holds:
            self._fail(returned, f"expected  {expected}", _likely(likely))

    def part(self, *keys: Any) -> Check:
        """Return a check of one item of the answer, which fails if there is no such item."""

        def item() -> Any:
            value = inner = self._make()
            for key in keys:
                try:
                    inner = inner[key]
                except (KeyError, IndexError, TypeError):
                    raise _NoItemError(value, key) from None
            return inner

        path = "".join(f"[{key!r}]" for key in keys)
        return Check(self._text + path, item, self._code)

    def _fail(self, *lines: str) -> NoReturn:
        text = [
            _wrapped(self._text, "    "),
            *(_wrapped(f"  {joined_lines(line)}", " " * 12) for line in lines if line),
        ]
        raise CheckFailed("\n".join(text), self._code) from None


def check(answer: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Check:
    """Prepare the check of a call `answer(*args, **kwargs)`."""
    name = getattr(answer, "__name__", "your answer")
    text = call_text(name, args, kwargs)
    args, kwargs = values.copied(args), values.copied(kwargs)
    # A call of a method needs its object, which exists only in the test.
    is_known = not (hasattr(answer, "__self__") or _is_defined_by_hidden_test(answer))
    code = call_code(name, args, kwargs) if is_known else ""

    def call() -> Any:
        with contextlib.redirect_stderr(sys.stdout):
            value = answer(*args, **kwargs)
        try:
            return values.copied(value)
        except (TypeError, ValueError) as error:
            raise NotPlainError(str(error)) from None

    return Check(text, call, code)


def _is_defined_by_hidden_test(answer: Callable[..., Any]) -> bool:
    """Return whether a hidden test defines a function, so that the student can't call it."""
    code = getattr(answer, "__code__", None)
    if code is None or not _is_cell(code.co_filename):
        return False
    return _is_hidden_line(code.co_filename, code.co_firstlineno)


# --- the text of messages -------------------------------------------------------------------------


def show(value: Any, width: int = MAX_VALUE) -> str:
    """Write a plain value in one line."""
    text = _shown(value)
    return text if len(text) <= width else text[:width] + " …"


def _shown(value: Any) -> str:
    if type(value) is int:
        return f"{value:_}" if abs(value) < 10**30 else _shown_huge(value)
    if type(value) is float:
        return f"{value:_.1f}" if value == round(value, 1) < 10**15 else f"{value:.10g}"
    if type(value) in (list, tuple):
        left, right = "[]" if type(value) is list else "()"
        inner = [_shown(item) for item in value[:MAX_ITEMS]] + ["…"] * (len(value) > MAX_ITEMS)
        return left + ", ".join(inner) + ("," if left == "(" and len(value) == 1 else "") + right
    if type(value) is dict:
        inner = [f"{_shown(key)}: {_shown(item)}" for key, item in list(value.items())[:MAX_ITEMS]]
        return "{" + ", ".join(inner + ["…"] * (len(value) > MAX_ITEMS)) + "}"
    return _shown_array(value) if hasattr(value, "shape") else repr(value)


def _shown_huge(value: int) -> str:
    """Write an int that may be too large for a float, or have too many digits for Python."""
    power = math.floor(math.log10(abs(value)))
    return f"about {'-' if value < 0 else ''}10^{power:_}"


def _shown_array(value: Any) -> str:
    if math.prod(value.shape) <= 2 * MAX_ITEMS:
        kind, dtype = _array_kind(value), _dtype(value)
        # Python's own numbers become arrays of these types.
        usual = ("float64" if kind == "array" else "float32", "int64", "bool")
        suffix = "" if dtype in usual else f", dtype={dtype}"
        return f"{kind}({_numbers(value.tolist())}{suffix})"
    first = _numbers(value.reshape(-1)[:6].tolist()).strip("[]")
    return f"{_form(value)}: [{first}, …]"


def _numbers(value: Any) -> str:
    """Write a number or nested lists of numbers. Floats have up to six significant digits."""
    if type(value) is list:
        return f"[{', '.join(map(_numbers, value))}]"
    return f"{value:.6g}" if type(value) is float else f"{value}"


def _array_kind(value: Any) -> str:
    return "array" if type(value).__name__ == "ndarray" else "tensor"


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _form(value: Any) -> str:
    """Describe the form of a value: "list of 3", "tensor of 4 × 8 float32", "float 1.5"."""
    if hasattr(value, "shape"):
        size = " × ".join(map(str, value.shape)) or "a single"
        return f"{_array_kind(value)} of {size} {_dtype(value)}"
    if type(value) in (list, tuple, dict):
        return f"{type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{type(value).__name__} {_shown(value)}"


def call_text(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Write a call as messages show it: lora_parameters(1_000, 1_000, rank=8)."""
    shown = [show(arg, MAX_ARGUMENT) for arg in args]
    shown += [f"{key}={show(arg, MAX_ARGUMENT)}" for key, arg in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def call_code(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Write a call as Python code with all values in full; "" if the code is too long to be read.

    In the code, spaces follow only commas and colons, so that long lines can be broken at spaces.
    """
    code = [_code(arg) for arg in args] + [f"{key}={_code(arg)}" for key, arg in kwargs.items()]
    text = f"{name}({', '.join(code)})"
    return text if len(text) <= MAX_CODE else ""


def _code(value: Any) -> str:
    """Write a plain value as Python code."""
    if type(value) is str:
        return repr(value).replace(" ", "\\x20")
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if type(value) in (list, tuple):
        left, right = "[]" if type(value) is list else "()"
        inner = ", ".join(map(_code, value))
        return left + inner + ("," if left == "(" and len(value) == 1 else "") + right
    if type(value) is dict:
        return "{" + ", ".join(f"{_code(k)}: {_code(v)}" for k, v in value.items()) + "}"
    return _array_code(value) if hasattr(value, "shape") else repr(value)


def _array_code(array: Any) -> str:
    # More numbers make too much code anyway, and writing millions of them takes long.
    if math.prod(array.shape) > MAX_CODE:
        return " " * MAX_CODE
    library = "numpy" if type(array).__name__ == "ndarray" else "torch"
    make = f"{library}.{_array_kind(array)}"
    digits = {"float32": 9, "float16": 5, "bfloat16": 4}.get(_dtype(array), 17)
    numbers = _code(_rounded(array.tolist(), digits))
    shape = "" if math.prod(array.shape) else f".reshape{tuple(array.shape)}"
    return f"{make}({numbers}, dtype={library}.{_dtype(array)}){shape}"


def _rounded(value: Any, digits: int) -> Any:
    """Round the floats in nested lists to significant digits."""
    if type(value) is list:
        return [_rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if type(value) is float else value


def joined_lines(text: str) -> str:
    """Return a text without line breaks, so that it can't look like further lines of a message."""
    return " ".join(line.strip() for line in text.strip().splitlines() if line.strip())


def _wrapped(text: str, indent: str) -> str:
    """Break a long line into several lines, and indent every line except the first."""
    return textwrap.fill(
        text,
        MAX_LINE,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
        replace_whitespace=False,
    )


def _returned(value: Any) -> str:
    return f"returned  {show(value)}"


def _not_plain(error: NotPlainError) -> str:
    return f"returned  a value that can't be checked: {error}"


def _raised(error: BaseException) -> str:
    if isinstance(error, NotImplementedError) and not str(error):
        return "raised    NotImplementedError: this function is not written yet"
    text = str(error).strip() or _explanation(error)
    return f"raised    {type(error).__name__}: {text}"[:MAX_VALUE]


def _explanation(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "the function needs more memory than there is"
    if isinstance(error, RecursionError):
        return "the function calls itself too often"
    return "(without a message)"


def _likely(text: str) -> str:
    return f"likely    {text}" if text else ""


def _exception_hint(error: BaseException, mistakes: Mistakes) -> str:
    """Return the hint for an exception, or an empty text if it is not a known mistake."""
    for wrong, text in mistakes:
        if isinstance(wrong, type) and isinstance(error, wrong):
            return text
    # When grading knows the cause, the exception's message continues with this cause.
    missing = re.fullmatch(r"name '(\w+)' is not defined", str(error))
    if isinstance(error, NameError) and missing:
        return f"no cell that has run defines {missing[1]}: run the cells above, from the top"
    return ""


def place(error: BaseException) -> list[str]:
    """Find the line of the student's own code that raised an exception.

    An exception from another process stores this line in its attribute `crossed_place`.
    """
    if (crossed := getattr(error, "crossed_place", None)) is not None:
        return crossed
    frames = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    frames_of_cells = [frame for frame in frames if _is_cell(frame[0]) and frame[2] != "<module>"]
    if not frames_of_cells:
        return []
    file, line, name = frames_of_cells[-1]
    return [f"in        {name}, line {line}: {linecache.getline(file, line).strip()}"]


# --- how values are compared ----------------------------------------------------------------------


class Difference(NamedTuple):
    """The first difference between the value of an answer and the expected value.

    Attributes:
        where: the indices that lead to the differing item, such as "['grads'][1]". The ending ", in
            its keys" or ", in its form" names what differs. The text is empty if the whole values
            differ.
    """

    where: str
    actual: str
    expected: str

    @property
    def place(self) -> str:
        """Return the place in words: "at [0]", "in its keys" or "at [0], in its keys"."""
        is_path = self.where.startswith("[")
        return f"at {self.where}" if is_path else self.where.removeprefix(", ")

    def __str__(self) -> str:
        return f"{self.place}: {self.actual} instead of {self.expected}"

    def inside(self, index: str) -> Difference:
        """Return this difference as seen from the container that has the value at `index`."""
        return self._replace(where=index + self.where)


def _difference(actual: Any, expected: Any, rel: float, abs: float) -> Difference | None:
    kind = type(expected)
    if kind in (list, tuple):
        if type(actual) not in (list, tuple) or len(actual) != len(expected):
            return Difference("", show(actual), show(expected))
        items = ((f"[{i}]", c, e) for i, (c, e) in enumerate(zip(actual, expected, strict=True)))
        return _first_difference(items, rel, abs)
    if kind is dict:
        if type(actual) is not dict:
            return Difference("", show(actual), show(expected))
        if actual.keys() != expected.keys():
            return _key_difference(actual, expected)
        return _first_difference(((f"[{k!r}]", actual[k], expected[k]) for k in expected), rel, abs)
    if hasattr(expected, "shape"):
        return _array_difference(actual, expected, rel, abs)
    if _same_scalar(actual, expected, rel, abs):
        return None
    return Difference("", show(actual), show(expected))


def _key_difference(actual: dict[Any, Any], expected: dict[Any, Any]) -> Difference:
    extra = [key for key in actual if key not in expected]
    missing = [key for key in expected if key not in actual]
    return Difference(", in its keys", show(extra), show(missing))


def _first_difference(
    items: Iterable[tuple[str, Any, Any]], rel: float, abs: float
) -> Difference | None:
    for where, actual, expected in items:
        if (difference := _difference(actual, expected, rel, abs)) is not None:
            return difference.inside(where)
    return None


def _scalar(value: Any) -> Any:
    """Return the number in a tensor or array without dimensions, or any other value unchanged."""
    return value.item() if hasattr(value, "shape") and value.ndim == 0 else value


def _same_scalar(actual: Any, expected: Any, rel: float, abs: float) -> bool:
    actual = _scalar(actual)
    if type(expected) in (int, float):
        if type(actual) not in (int, float):
            return False
        if type(expected) is int or math.isinf(expected) or _is_huge(actual):
            return actual == expected
        both_nan = math.isnan(actual) and math.isnan(expected)
        return both_nan or math.fabs(actual - expected) <= rel * math.fabs(expected) + abs
    return type(actual) is type(expected) and actual == expected


def _is_huge(number: float) -> bool:
    return type(number) is int and number.bit_length() > sys.float_info.max_exp


def _array_difference(actual: Any, expected: Any, rel: float, abs: float) -> Difference | None:
    if type(actual) is not type(expected) or actual.shape != expected.shape:
        return Difference(", in its form", _form(actual), _form(expected))
    a, b = _as_float64(actual), _as_float64(expected)
    near = b.isfinite() & ((a - b).abs() <= rel * b.abs() + abs)
    wrong = ~((a == b) | near | (a.isnan() & b.isnan()))
    if not wrong.any():
        return None
    index = tuple(wrong.nonzero()[0].tolist())
    items = (_shown(array[index].item()) for array in (actual, expected))
    return Difference(str(list(index)), *items)


def _as_float64(array: Any) -> Any:
    import torch

    return torch.as_tensor(array).to(torch.float64)


def _hint(actual: Any, mistakes: Mistakes, rel: float, abs: float) -> str:
    """Return the hint for a wrong value, or an empty text if it is not a known mistake."""
    for wrong, text in mistakes:
        # A function that recognizes a mistake may raise an error if the value has an unexpected
        # type.
        with contextlib.suppress(Exception):
            if isinstance(wrong, type):
                continue
            if wrong(actual) if callable(wrong) else _difference(actual, wrong, rel, abs) is None:
                return text
    return ""


def _form_difference(actual: Any, example: Any) -> Difference | None:
    kind = type(example)
    difference = Difference("", _form(actual), _expected_form(example))
    if hasattr(example, "shape"):
        same = type(actual) is kind and (actual.shape, actual.dtype) == (
            example.shape,
            example.dtype,
        )
        return None if same else difference
    if kind in (int, float):
        actual = _scalar(actual)
        return None if type(actual) is int or type(actual) is kind else difference
    sequences = (list, tuple)
    if type(actual) is not kind and not (kind in sequences and type(actual) in sequences):
        return difference
    if kind in sequences and len(actual) != len(example):
        return difference
    if kind is dict and actual.keys() != example.keys():
        return _key_difference(actual, example)
    keys = range(len(example)) if kind in sequences else example if kind is dict else ()
    for key in keys:
        if (inner := _form_difference(actual[key], example[key])) is not None:
            return inner.inside(f"[{key!r}]")
    return None


def _expected_form(example: Any) -> str:
    names = {
        int: "a whole number (int)",
        float: "a number (float)",
        str: "a string",
        bool: "a bool",
    }
    return names.get(type(example)) or _form(example)
