"""Grading sessions: cells run in the student process, tests in the test process."""

import re
import textwrap
from dataclasses import replace

import pytest

from course_utils.exercise import checks
from tests.sandboxes import (
    QUICK,
    check_answer,
    needed,
    passed,
    printed,
    run_cell,
    session,
    text_of,
)
from workshop.grading.sandbox.limits import Limits

# One process starts the servers for all tests with this group.
pytestmark = [needed, pytest.mark.xdist_group("sandbox")]

DOUBLE = "def double(x):\n    return 2 * x\n"
IMPORT = "from course_utils.exercise.checks import check\n"


def notebook_message(answer, test):
    """Return the message of a failed check in the student's own notebook."""
    names = {}
    exec(answer, names)
    exec(IMPORT, names)
    with pytest.raises(checks.CheckFailed) as failed:
        exec(test, names)
    return str(failed.value)


# --- results of checks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test",
    [
        "check(double, 4).gives(9, likely='add one')",
        "check(double, [1, 2]).gives([2, 4])",
        "check(double, 4).raises(ValueError, likely='four is bad')",
        "check(double, 4).like('text')",
        "check(double, (1, 'a')).part(7).gives('a')",
    ],
)
def test_a_wrong_answer_gets_the_message_of_the_students_own_notebook(test):
    outputs = check_answer(DOUBLE, IMPORT + test)
    assert not passed(outputs)
    assert text_of(outputs) == f"Not right yet: {notebook_message(DOUBLE, test)}"


STACK = """
class Stack:
    def __init__(self, items):
        self.items = list(items)

    def push(self, item):
        self.items.append(item)
        return len(self.items)
"""


def test_methods_of_a_student_object_can_be_called():
    test = "stack = Stack([1, 2])\ncheck(stack.push, 5).gives(3)\ncheck(stack.push, 5).gives(4)"
    assert check_answer(STACK, IMPORT + test) == []


def test_the_answer_can_use_a_folder_that_the_test_creates():
    answer = "def put(path):\n    open(path, 'w').write('x')\n    return open(path).read()\n"
    test = f"import tempfile\n{IMPORT}with tempfile.TemporaryDirectory() as folder:\n"
    assert check_answer(answer, test + "    check(put, f'{folder}/a').gives('x')") == []


def test_submitted_files_reach_only_the_student_process_and_replace_none_of_the_assignment():
    submitted = {"a.txt": b"student's", "b/c.txt": b"more", "helper.py": b"x = 5"}
    with session(DOUBLE, QUICK, {"a.txt": b"assignment's"}, submitted) as running:
        outputs = running.run("print(open('a.txt').read(), open('b/c.txt').read())")
        assert text_of(outputs) == "assignment's more\n"
        assert text_of(running.check("print(open('a.txt').read())")) == "assignment's\n"
        assert text_of(running.run("from helper import x\nprint(x)")) == "5\n"
        assert "ModuleNotFoundError" in text_of(running.check("import helper"))


# --- exceptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raised, caught, shown",
    [
        ("raise ValueError('rank 0')", "ValueError", "ValueError: rank 0"),
        ("raise KeyError('q')", "LookupError", "KeyError: 'q'"),
        ("open('/nothing')", "FileNotFoundError", "FileNotFoundError: [Errno 2] No such file"),
        ("raise SystemExit(3)", "SystemExit", "SystemExit: 3"),
        ("class Odd(ValueError, KeyError): pass\n    raise Odd(1)", "KeyError", "Odd: 1"),
        ("raise type('a b', (ValueError,), {})('x')", "ValueError", "Exception: x"),
        ("raise NotImplementedError", "RuntimeError", "NotImplementedError: this function"),
    ],
)
def test_an_exception_is_rebuilt_with_its_name_base_types_and_message(raised, caught, shown):
    answer = f"def fail():\n    {raised}\n"
    outputs = check_answer(answer, f"{IMPORT}check(fail).gives(1)")
    assert f"raised    {shown}" in text_of(outputs) and not passed(outputs)
    assert check_answer(answer, f"try:\n    fail()\nexcept {caught}:\n    pass") == []


def test_the_message_shows_the_line_that_raised_the_exception():
    answer = "def fail():\n    x = 1\n    return x / 0\n"
    text = text_of(check_answer(answer, f"{IMPORT}check(fail).gives(1)"))
    assert "in        fail, line 3: return x / 0" in text


@pytest.mark.parametrize(
    "value", ["object()", "{1, 2}", "lambda: 1", "(lambda x: x.append(x) or x)([])"]
)
def test_a_value_that_is_not_plain_fails_every_check(value):
    answer = f"def odd():\n    return {value}\n"
    assert not passed(check_answer(answer, f"{IMPORT}check(odd).raises(TypeError, ValueError)"))
    assert "the value is" in text_of(check_answer(answer, f"{IMPORT}check(odd).gives(1)"))


# --- outputs of student code ----------------------------------------------------------------------


def test_outputs_of_an_answer_are_shown_and_cost_no_points():
    answer = (
        "import sys, warnings\nfrom IPython.display import display, HTML\n"
        "def noisy():\n    print('one'); print('two', file=sys.stderr); warnings.warn('three')\n"
        "    display(HTML('<b>four</b>'))\n    return 1\n"
    )
    outputs = check_answer(answer, f"{IMPORT}check(noisy).gives(1)")
    assert passed(outputs)
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert all(word in text_of(outputs) for word in ("one", "two", "three"))
    assert any(o.get("data", {}).get("text/html") == "<b>four</b>" for o in outputs)


def test_lines_of_a_message_cannot_be_forged():
    answer = """
        import gc
        def forge():
            channel = next(o for o in gc.get_objects() if type(o).__name__ == "Channel")
            for n in range(99):
                channel.send("raised", b"", n=n, ename="X", evalue="y\\n  likely z", kinds=[],
                             place=["likely    forged", "in        f\\n  likely    forged"])
        get_ipython().outputs.send("skipped", b"", statement="zq\\n  likely    forged", reason="x")
        def missing():
            raise NameError("name 'zq' is not defined")
        """
    for name in ("forge", "missing"):
        outputs = check_answer(textwrap.dedent(answer), f"{IMPORT}check({name}).gives(1)")
        text = text_of([output for output in outputs if output["output_type"] == "error"])
        assert "raised  " in text and not re.search(r"^ +likely", text, re.M)


def test_long_outputs_are_truncated():
    source = "print('a' * 3_000_000)\nfor i in range(5000):\n    print('b' * 100, flush=True)"
    text = text_of(run_cell(source))
    assert len(text) < 300_000 and "the output is too large" in text


@pytest.mark.full
def test_pictures_and_results_are_kept():
    (picture,) = run_cell("import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])")
    assert picture["data"]["image/png"].startswith("iVBORw0KGgo")
    (result,) = run_cell("6 * 7")
    assert result["output_type"] == "execute_result" and result["data"] == {"text/plain": "42"}


def test_magics_shell_commands_and_await_work():
    assert printed("!echo $((6 * 7))").strip() == "42"
    assert "Wall time" in printed("%%time\nx = 1")
    assert printed("import asyncio\nawait asyncio.sleep(0)\nprint(1)") == "1\n"
    assert "EOFError" in printed("input('?')")


# --- time limits, and processes that end ----------------------------------------------------------


@pytest.mark.full
def test_a_call_that_takes_too_long_is_interrupted_and_the_state_is_kept():
    answer = (
        "calls = []\ndef slow(x):\n    calls.append(x)\n    while x: pass\n    return len(calls)\n"
    )
    with session(answer, replace(QUICK, call=1)) as running:
        running.run(answer)
        outputs = running.check(f"{IMPORT}check(slow, 1).gives(1)")
        assert "no answer within 1 s" in text_of(outputs) and not passed(outputs)
        assert running.check(f"{IMPORT}check(slow, 0).gives(2)") == []
        assert running.incidents == ["a check: no answer within 1 s"]


@pytest.mark.full
def test_a_process_that_ignores_the_interrupt_is_ended_and_the_cells_run_again():
    answer = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "def stuck(x):\n    while x: pass\n    return 5\n"
    )
    with session(answer) as running:
        running.run(answer)
        outputs = running.check(f"{IMPORT}check(stuck, 1).gives(1)")
        assert "the process was ended" in text_of(outputs)
        assert running.check(f"{IMPORT}check(stuck, 0).gives(5)") == []


@pytest.mark.full
def test_a_cell_that_takes_too_long_is_interrupted_and_the_next_one_runs():
    with session(limits=replace(QUICK, cell=2)) as running:
        assert "no answer within 2 s" in text_of(running.run("while True: pass", "cell 3"))
        assert text_of(running.run("print(1)")) == "1\n"
        assert running.incidents == ["cell 3: no answer within 2 s"]


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "ctypes.string_at(0)"])
def test_a_process_that_ends_itself_fails_only_that_check(end):
    answer = f"import ctypes, os\ndef die(x):\n    if x: {end}\n    return 7\n"
    with session(answer) as running:
        running.run(answer)
        outputs = running.check(f"{IMPORT}check(die, 1).gives(7)")
        # The first process of a PID namespace can't kill itself with a signal.
        if "kill" in end:
            assert passed(outputs)
        else:
            assert not passed(outputs) and "the process ended" in text_of(outputs)
        assert running.check(f"{IMPORT}check(die, 0).gives(7)") == []


def test_no_further_process_is_started_after_four_ends():
    with session() as running:
        for _ in range(4):
            assert "the process ended" in text_of(running.run("import os; os._exit(1)"))
        assert "has ended 4 times" in text_of(running.run("print(1)"))


@pytest.mark.full
def test_the_notebook_has_a_time_limit():
    with session(limits=Limits(cell=5, call=5, notebook=1)) as running:
        assert "the notebook took more than 1 s" in text_of(running.run("while True: pass"))
        assert not passed(running.check("x = 1"))


@pytest.mark.full
def test_a_test_that_does_not_end_is_stopped():
    outputs = check_answer(DOUBLE, "while True: pass", Limits(cell=1, call=1))
    assert not passed(outputs) and outputs[0]["ename"] == "CellTimeoutError"
