"""Test checks: correct answers pass silently, wrong ones fail with a useful message."""

import collections
import linecache
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.exercise import checks, values
from course_utils.exercise.checks import CheckFailed, check, show
from tests.test_values import EqualsEverything


def message_of(call):
    """Return the message of a check that must fail."""
    with pytest.raises(CheckFailed) as failure:
        call()
    return str(failure.value)


def echo(value):
    return value


# --- gives ---


def parameters(d_in, d_out, rank):
    return rank * d_in, rank / d_out


def test_the_message_shows_the_call_both_values_and_the_likely_mistake():
    message = message_of(
        lambda: check(parameters, 1000, 1000, rank=8).gives(
            (16_000, 0.016),
            mistakes=[((1, 1), "no"), (lambda v: v[0] == 8_000, "only one of A and B was counted")],
        )
    )
    assert message.splitlines() == [
        "parameters(1_000, 1_000, rank=8)",
        "  returned  (8_000, 0.008)",
        "  expected  (16_000, 0.016)",
        "  differs   at [0]: 8_000 instead of 16_000",
        "  likely    only one of A and B was counted",
    ]


def test_the_hint_depends_on_the_wrong_value():
    answer = check(echo, 5)
    for value, hint in ((5, "known"), (4, "other")):
        message = message_of(
            lambda v=value: answer.gives(6, mistakes=[(v, "known")], likely="other")
        )
        assert f"likely    {hint}" in message
    for mistakes in ((), [(lambda v: v["loss"] > 1, "x")]):
        assert "likely" not in message_of(lambda m=mistakes: answer.gives(6, mistakes=m))


EQUAL = [
    (1, 1),
    (28e9, 28_000_000_000),
    (0.1 + 0.2, 0.3),
    (math.nan, math.nan),
    (-math.inf, -math.inf),
    ("fp16", "fp16"),
    (None, None),
    ([1, 2], (1, 2)),
    ((1, [2.0]), [1, (2,)]),
    ({"a": 1, "b": [0.5]}, {"b": [0.5 + 1e-12], "a": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (np.float32(0.5), 0.5),
    (np.arange(3), np.arange(3)),
    (torch.tensor(0.5), 0.5),
    (torch.tensor(3), 3),
    (torch.tensor([1.0, math.nan, math.inf]), torch.tensor([1.0, math.nan, math.inf])),
    (torch.ones(2, 3).bfloat16(), torch.ones(2, 3)),
    (torch.ones(2, 3).half() / 3, torch.ones(2, 3).half() / 3),
    (torch.arange(6, dtype=torch.uint8).view(2, 3), torch.arange(6, dtype=torch.uint8).view(2, 3)),
    (torch.zeros(0, 3), torch.zeros(0, 3)),
    (np.zeros((0, 2)), np.zeros((0, 2))),
    (np.array([[1.5, 2.0]]), np.array([[1.5, 2.0]])),
    ((1, 1e-30, "a b", None, True, {"x": [1e-30]}), (1, 1e-30, "a b", None, True, {"x": [1e-30]})),
]


@pytest.mark.parametrize(("actual", "expected"), EQUAL, ids=str)
def test_equal_values_pass_without_output(actual, expected, capfd):
    assert check(echo, actual).gives(expected) is None
    assert capfd.readouterr() == ("", "")


DIFFERENT = [
    (1, 2),
    (1, 1.001),
    (True, 1),
    (1.0, True),
    ("1", 1),
    (None, 0),
    ([], None),
    ([1, 2], [1, 2, 3]),
    ([1, 2], [2, 1]),
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1}, {"a": 2}),
    ([("a", 1)], {"a": 1}),
    (math.nan, 1.0),
    (math.inf, 1.0),
    (math.inf, -math.inf),
    (torch.ones(2), torch.ones(2, 1)),
    (torch.ones(2), [1.0, 1.0]),
    (np.ones(2), torch.ones(2)),
    (torch.ones(2), torch.tensor([1.0, 1.1])),
    (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 1.0])),
    (torch.tensor([math.inf]), torch.tensor([1.0])),
    (torch.tensor([math.inf]), torch.tensor([-math.inf])),
    (torch.ones(1), 1.0),
]


@pytest.mark.parametrize("pair", DIFFERENT, ids=str)
@pytest.mark.parametrize("order", [1, -1])
def test_different_values_fail(pair, order):
    actual, expected = pair[::order]
    message = message_of(lambda: check(echo, actual).gives(expected))
    assert "returned" in message and "expected" in message


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(0, 0.1),
    st.floats(0, 1),
    st.floats(-3, 3),
)
def test_the_tolerance_is_relative_to_the_expected_value(expected, rel, absolute, shift):
    allowed = rel * abs(expected) + absolute
    actual = expected + shift * allowed
    if abs(abs(actual - expected) - allowed) <= 1e-9 * (1 + abs(expected)):
        # Exactly at the tolerance, rounding errors decide.
        return
    in_tensors = [torch.tensor([number], dtype=torch.float64) for number in (actual, expected)]
    for a, b in ((actual, expected), in_tensors):
        if abs(actual - expected) <= allowed:
            check(echo, a).gives(b, rel=rel, abs=absolute)
        else:
            message_of(lambda a=a, b=b: check(echo, a).gives(b, rel=rel, abs=absolute))


def test_the_message_names_the_place_of_the_first_difference():
    actual = {"grads": [torch.zeros(2, 3), torch.eye(2)]}
    expected = {"grads": [torch.zeros(2, 3), torch.ones(2, 2)]}
    message = message_of(lambda: check(echo, actual).gives(expected))
    assert "differs   at ['grads'][1][0, 1]: 0.0 instead of 1.0" in message
    labels = torch.tensor([2, -100])
    message = message_of(lambda: check(echo, labels).gives(torch.tensor([2, 2])))
    assert "differs   at [1]: -100 instead of 2" in message
    message = message_of(lambda: check(echo, torch.zeros(2)).gives(torch.zeros(2, 2)))
    assert "in its form: tensor of 2 float32 instead of tensor of 2 × 2 float32" in message


# --- like, raises, that, part ---


ALIKE = [
    (3, 0),
    (3, 0.0),
    (3.5, 0.0),
    (torch.tensor(3.5), 0.0),
    ("x", ""),
    (True, False),
    ([1, 2.0], (0, 0.0)),
    ({"a": [1]}, {"a": [0]}),
    (torch.ones(2, 3).half(), torch.zeros(2, 3, dtype=torch.float16)),
    (np.ones(2), np.zeros(2)),
]
UNLIKE = [
    (3.0, 0, "a whole number (int)"),
    (True, 0, "a whole number (int)"),
    (True, 0.0, "a number (float)"),
    (1, False, "a bool"),
    (1, "", "a string"),
    (None, 0, "a whole number (int)"),
    ((1,), (0, 0), "tuple of 2"),
    ((1, "x"), (0, 0.0), "a number (float)"),
    ([[1.5]], [[0]], "float 1.5 at [0][0]"),
    ({"a": 1}, {"b": 0}, "returned  ['a'] in its keys\n  expected  ['b']"),
    ({"a": 1.5}, {"a": 0}, "float 1.5 at ['a']"),
    (torch.ones(3, 2), torch.ones(2, 3), "tensor of 2 × 3 float32"),
    (torch.ones(2).double(), torch.ones(2), "tensor of 2 float64"),
    (np.ones(2), torch.ones(2), "array of 2 float64"),
    ([1.0], torch.ones(1), "list of 1"),
    (torch.ones(1), [0.0], "tensor of 1 float32"),
]


@pytest.mark.parametrize(("actual", "example"), ALIKE, ids=str)
def test_a_value_of_the_correct_form_passes(actual, example):
    assert check(echo, actual).like(example) is None


@pytest.mark.parametrize(("actual", "example", "message"), UNLIKE, ids=str)
def test_the_message_describes_a_wrong_form(actual, example, message):
    assert message in message_of(lambda: check(echo, actual).like(example))


def reject(value):
    raise ValueError(f"rank must be at least 1, got {value}")


def test_raises_accepts_only_the_expected_exception():
    assert check(reject, 0).raises(ValueError) is None
    assert check(reject, 0).raises(TypeError, ValueError) is None
    message = message_of(lambda: check(echo, 0).raises(ValueError, KeyError, likely="why"))
    assert message.splitlines()[1:] == [
        "  returned  0",
        "  expected  ValueError or KeyError",
        "  likely    why",
    ]
    assert "raised    ValueError" in message_of(lambda: check(reject, 0).raises(TypeError))


def stub():
    raise NotImplementedError()


@pytest.mark.parametrize(
    "method",
    [
        lambda c: c.value,
        lambda c: c.gives(1),
        lambda c: c.like(1),
        lambda c: c.part("x").value,
        lambda c: c.that(True, "anything"),
        # NotImplementedError is a RuntimeError.
        lambda c: c.raises(RuntimeError),
        lambda c: c.raises(NotImplementedError),
    ],
)
def test_a_stub_fails_every_check(method):
    assert "NotImplementedError: this function is not written yet" in message_of(
        lambda: method(check(stub))
    )


def test_a_property_of_the_value_can_be_checked():
    answer = check(echo, [3, 1])
    assert answer.that(len(answer.value) == 2, "two items") is None
    message = message_of(
        lambda: answer.that(answer.value == [1, 3], "ascending order", likely="unsorted")
    )
    assert message.splitlines()[1:] == [
        "  returned  [3, 1]",
        "  expected  ascending order",
        "  likely    unsorted",
    ]


def test_an_item_of_the_value_can_be_checked():
    answer = check(echo, {"loss": 2.0, "steps": [1, 2]})
    answer.part("loss").gives(2.0)
    answer.part("steps", 1).gives(2)
    message = message_of(lambda: answer.part("steps", 0).gives(5))
    assert message.startswith("echo({'loss': 2.0, 'steps': [1, 2]})['steps'][0]\n  returned  1")
    assert "expected  a value with an item ['grad']" in message_of(
        lambda: answer.part("grad").value
    )
    assert "expected  a value with an item [7]" in message_of(lambda: answer.part("steps", 7).value)


# --- what an answer cannot influence ---


def test_an_answer_cannot_compare_itself():
    message = message_of(lambda: check(lambda: EqualsEverything(3)).gives(4))
    assert "of type EqualsEverything" in message and "are allowed" in message


def test_an_answer_cannot_change_the_arguments_of_the_check():
    argument = torch.zeros(3)

    def change_in_place(x):
        x += 1
        return x

    check(change_in_place, argument).gives(torch.ones(3))
    assert not argument.any()


def test_an_answer_is_called_once():
    calls = []
    answer = check(lambda: calls.append(1) or len(calls))
    answer.gives(1)
    answer.like(0)
    assert answer.value == 1


def test_an_argument_may_have_any_name():
    def named(answer, self=0):
        return answer + self

    check(named, answer=1, self=2).gives(3)


def test_arguments_must_be_plain():
    with pytest.raises(TypeError, match="type function"):
        check(echo, echo)


def test_the_stderr_of_an_answer_is_redirected(capfd):
    def noisy():
        print("oops", file=sys.stderr)
        return 1

    check(noisy).gives(1)
    assert capfd.readouterr().err == ""


def test_an_answer_that_exits_fails_and_ctrl_c_is_passed_on():
    assert "raised    SystemExit" in message_of(lambda: check(sys.exit).gives(1))
    assert "raised    SystemExit" in message_of(lambda: check(sys.exit).raises(ValueError))
    with pytest.raises(KeyboardInterrupt):
        check(lambda: (_ for _ in ()).throw(KeyboardInterrupt())).gives(1)


# --- how values are shown ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7_000_000_000, "7_000_000_000"),
        (0.016, "0.016"),
        (28e9, "28_000_000_000.0"),
        (1e-7, "1e-07"),
        (math.nan, "nan"),
        ((1,), "(1,)"),
        ([], "[]"),
        ("a b", "'a b'"),
        (list(range(99)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …]"),
        ({"a": (1, 2.0)}, "{'a': (1, 2.0)}"),
        (torch.tensor([1.0, 2.5]), "tensor([1, 2.5])"),
        (torch.tensor(2), "tensor(2)"),
        (torch.tensor(2.5), "tensor(2.5)"),
        (torch.tensor([[1, -100], [2, 3]]), "tensor([[1, -100], [2, 3]])"),
        (torch.zeros(0), "tensor([])"),
        (torch.zeros(9, 9), "tensor of 9 × 9 float32: [0, 0, 0, 0, 0, 0, …]"),
        (np.zeros(2), "array([0, 0])"),
    ],
)
def test_values_are_shown_in_one_line(value, text):
    assert show(value) == text


NOTEBOOK_ERROR = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
shell.run_cell("from course_utils.exercise.checks import check\\ndef half(x):\\n    return x / 0")
shell.run_cell("check(half, 3).gives(1.5)")
shell.run_cell("import warnings; check(lambda: warnings.warn('old')).gives(None)")
"""


def test_a_notebook_shows_the_message_without_a_traceback():
    done = subprocess.run([sys.executable, "-c", NOTEBOOK_ERROR], capture_output=True, text=True)
    assert done.stdout.splitlines()[:3] == [
        "Not right yet: half(3)",
        "  raised    ZeroDivisionError: division by zero",
        "  in        half, line 3: return x / 0",
    ]
    assert "UserWarning: old" in done.stdout and not done.stderr


# --- messages that could be riddles ---


def raising(error):
    """Return a function that raises an error."""

    def answer(*_):
        raise error

    return answer


@pytest.mark.parametrize("expected", [5, 1.5, math.inf, 10**20])
def test_a_huge_whole_number_is_an_ordinary_wrong_answer(expected):
    assert "returned  about 10^400" in message_of(lambda: check(echo, 10**400).gives(expected))


def test_line_breaks_of_an_answer_add_no_lines_to_a_message():
    """The report counts the mistakes that the lines "likely" name."""
    forged = "x\n  likely    the check is wrong"
    strange = type(forged, (), {})
    answers = (raising(ValueError(forged)), lambda: strange(), lambda: forged, lambda: {forged: 1})
    for answer in answers:
        message = message_of(lambda answer=answer: check(answer).gives(1))
        assert not re.search(r"^ +likely", message, re.M)


def test_a_missing_name_tells_where_to_look():
    message = message_of(lambda: check(lambda: NF4 + 1).gives(1))  # noqa: F821
    assert "no cell that has run defines NF4: run the cells above, from the top" in message.replace(
        "\n            ", " "
    )


def test_an_exception_can_be_a_known_mistake():
    answer = check(raising(RuntimeError("shape")), 1)
    known = [(ValueError, "no"), (RuntimeError, "pad the last block")]
    for each in (answer, answer.part("x")):
        message = message_of(lambda each=each: each.gives(1, mistakes=known))
        assert "likely    pad the last block" in message
    assert "likely    other" in message_of(lambda: answer.gives(1, likely="other"))
    assert "likely    other" in message_of(lambda: answer.like(1, likely="other"))
    # The class of an exception is no mistake of a value.
    assert "likely" not in message_of(lambda: check(echo, 2).gives(1, mistakes=known))


HIDDEN_CELL = """\
from course_utils.exercise.checks import check
def visible(x): return answer(x)
check(visible, 1).gives(1)
### BEGIN HIDDEN TESTS
def hidden(x): return answer(x)
check({call}).gives(0)
### END HIDDEN TESTS
"""


@pytest.mark.parametrize("comment", ["", "# "])
@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("answer, 3", "answer(3)"),
        ("visible, [1.5, 2], x='a b'", "visible([1.5, 2], x='a\\x20b')"),
        ("hidden, 3", ""),
        ("answer, list(range(2000))", ""),
    ],
)
def test_a_failed_hidden_check_shows_the_call_as_code(call, code, comment):
    def answer(x, **_):
        return x

    source = HIDDEN_CELL.replace("### BEGIN", f"{comment}### BEGIN").format(call=call)
    source = source.replace("def visible(x)", "def visible(x, **_)")
    file = f"ipykernel_{abs(hash(source))}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    with pytest.raises(CheckFailed) as failure:
        exec(compile(source, file, "exec"), {"answer": answer})
    (text,) = failure.value._render_traceback_()
    assert text.startswith("Not right yet, in a check that grading adds: ")
    assert max(map(len, text.splitlines())) <= 92
    assert text.partition("\n  try       ")[2] == code


@pytest.mark.parametrize("value", [value for value, _ in EQUAL], ids=str)
def test_code_of_a_call_makes_the_same_values(value):
    value = values.copied(value)
    code = checks.call_code("echo", (value,), {"key": value})
    made = eval(code, {"echo": lambda *args, **kwargs: (args[0], kwargs["key"])} | NAMES)
    for each in made:
        check(echo, each).like(value)
        check(echo, each).gives(value, rel=0, abs=0)


NAMES = {"torch": torch, "numpy": np}
