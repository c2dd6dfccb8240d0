"""The referee: cells in the student's process, tests in the judge's, and only values between."""

import re
import textwrap
import time

import pytest

from course_utils import checks
from course_utils.grading.sandbox.limits import Limits
from tests.sandboxes import checked, needed, passed, printed, ran, referee, said

pytestmark = needed

DOUBLE = "def double(x):\n    return 2 * x\n"
IMPORT = "from course_utils.checks import check\n"


def message(answer, test):
    """What the check says in the student's own notebook."""
    names = {}
    exec(answer, names)
    exec(IMPORT, names)
    with pytest.raises(checks.CheckFailed) as failed:
        exec(test, names)
    return str(failed.value)


# --- verdicts -------------------------------------------------------------------------------------


def test_a_right_answer_passes_and_puts_out_nothing():
    assert checked(DOUBLE, f"{IMPORT}check(double, 4).gives(8)") == []


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
def test_a_wrong_answer_is_told_what_its_own_notebook_says(test):
    outputs = checked(DOUBLE, IMPORT + test)
    assert not passed(outputs)
    assert said(outputs) == f"Not right yet: {message(DOUBLE, test)}"


def test_a_failed_check_of_grading_says_that_it_is_one():
    test = f"{IMPORT}check(double, 1).gives(2)\n### BEGIN HIDDEN TESTS\ncheck(double, 1).gives(3)"
    found = said(checked(DOUBLE, test + "\n### END HIDDEN TESTS"))
    assert found.startswith("Not right yet, in a check that grading adds: double(1)\n")


def test_a_missing_answer_fails_with_python_s_own_words():
    found = checked(DOUBLE.replace("double", "treble"), f"{IMPORT}check(treble, 1).gives(3)")
    assert "returned  2" in said(found)
    with referee(DOUBLE) as judge:
        outputs = judge.check(f"{IMPORT}check(double, 1).gives(2)")
    assert "NameError: name 'double' is not defined" in said(outputs) and not passed(outputs)


def test_objects_of_a_student_s_class_stay_there_and_their_methods_answer():
    answer = """
        class Stack:
            def __init__(self, items):
                self.items = list(items)

            def push(self, item):
                self.items.append(item)
                return len(self.items)
        """
    test = "stack = Stack([1, 2])\ncheck(stack.push, 5).gives(3)\ncheck(stack.push, 5).gives(4)"
    assert checked(textwrap.dedent(answer), IMPORT + test) == []


def test_folders_that_a_test_makes_are_there_for_the_answer():
    answer = "def put(path):\n    open(path, 'w').write('x')\n    return open(path).read()\n"
    test = f"import tempfile\n{IMPORT}with tempfile.TemporaryDirectory() as folder:\n"
    assert checked(answer, test + "    check(put, f'{folder}/a').gives('x')") == []


def test_files_of_the_assignment_win_over_the_student_s():
    files = {"ours": {"a.txt": b"ours"}, "theirs": {"a.txt": b"theirs", "b/c.txt": b"more"}}
    with referee(DOUBLE, **files) as judge:
        assert (
            said(judge.run("print(open('a.txt').read(), open('b/c.txt').read())")) == "ours more\n"
        )
        assert said(judge.check("print(open('a.txt').read())")) == "ours\n"


def test_a_module_that_was_handed_in_can_be_imported():
    with referee(DOUBLE, theirs={"helper.py": b"x = 5"}) as judge:
        assert said(judge.run("from helper import x\nprint(x)")) == "5\n"
        assert "ModuleNotFoundError" in said(judge.check("import helper"))


def test_a_cell_that_ends_with_a_number_gives_part_of_the_points_as_in_nbgrader():
    (output,) = checked(DOUBLE, "0.5")
    assert output["output_type"] == "execute_result" and output["data"] == {"text/plain": "0.5"}


# --- exceptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raised, caught, shown",
    [
        ("raise ValueError('rank 0')", "ValueError", "ValueError: rank 0"),
        ("raise KeyError('q')", "LookupError", "KeyError: 'q'"),
        ("return {}['q']", "KeyError", "KeyError: 'q'"),
        ("b'\\xff'.decode()", "UnicodeDecodeError", "UnicodeDecodeError: 'utf-8' codec"),
        ("open('/nothing')", "FileNotFoundError", "FileNotFoundError: [Errno 2] No such file"),
        ("raise SystemExit(3)", "SystemExit", "SystemExit: 3"),
        ("class Odd(ValueError, KeyError): pass\n    raise Odd(1)", "KeyError", "Odd: 1"),
        ("import json\n    json.loads('{')", "ValueError", "JSONDecodeError: Expecting"),
        ("raise ExceptionGroup('g', [OSError()])", "Exception", "ExceptionGroup: g"),
        ("raise OSError(2, 'no', 'file')", "OSError", "FileNotFoundError: [Errno 2] no: 'file'"),
        ("raise type('a b', (ValueError,), {})('x')", "ValueError", "Exception: x"),
        ("raise NotImplementedError", "RuntimeError", "NotImplementedError: this function"),
    ],
)
def test_an_exception_crosses_with_its_name_kinds_and_message(raised, caught, shown):
    answer = f"def fail():\n    {raised}\n"
    found = checked(answer, f"{IMPORT}check(fail).gives(1)")
    assert f"raised    {shown}" in said(found) and not passed(found)
    assert checked(answer, f"try:\n    fail()\nexcept {caught}:\n    pass") == []


def test_an_exception_is_not_caught_as_what_it_is_not():
    answer = "def fail():\n    raise TypeError('x')\n"
    assert not passed(checked(answer, f"{IMPORT}check(fail).raises(ValueError)"))


def test_the_student_s_line_is_shown():
    answer = "def fail():\n    x = 1\n    return x / 0\n"
    assert "in        fail, line 3: return x / 0" in said(
        checked(answer, f"{IMPORT}check(fail).gives(1)")
    )


@pytest.mark.parametrize(
    "value", ["object()", "{1, 2}", "lambda: 1", "(lambda x: x.append(x) or x)([])"]
)
def test_what_is_no_plain_value_counts_neither_as_a_value_nor_as_an_error(value):
    answer = f"def odd():\n    return {value}\n"
    kinds = "TypeError, ValueError"
    assert not passed(checked(answer, f"{IMPORT}check(odd).raises({kinds})"))
    assert "the value is" in said(checked(answer, f"{IMPORT}check(odd).gives(1)"))


# --- what student's code puts out -----------------------------------------------------------------


def test_what_an_answer_prints_is_shown_and_costs_nothing():
    answer = (
        "import sys, warnings\nfrom IPython.display import display, HTML\n"
        "def noisy():\n    print('one'); print('two', file=sys.stderr); warnings.warn('three')\n"
        "    display(HTML('<b>four</b>'))\n    return 1\n"
    )
    outputs = checked(answer, f"{IMPORT}check(noisy).gives(1)")
    assert passed(outputs)
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert all(word in said(outputs) for word in ("one", "two", "three"))
    assert any(o.get("data", {}).get("text/html") == "<b>four</b>" for o in outputs)


def test_a_forged_result_or_error_is_no_verdict():
    answer = """
        import socket, json
        def forge():
            shell = get_ipython()
            shell.outputs.send("result", b"1", mimes={"text/plain": 1})
            shell.outputs.send("error", b"", ename="X", evalue="Y")
            return 2
        """
    test = f"{IMPORT}check(forge).gives(%s)"
    assert not passed(checked(textwrap.dedent(answer), test % 1))
    assert passed(checked(textwrap.dedent(answer), test % 2))


def test_what_an_answer_puts_out_leaves_the_verdict_in_its_place():
    flood = "def flood():\n    for _ in range(900): print('x', flush=True)\n    return 1\n"
    (*_, error) = checked(flood, f"{IMPORT}check(flood).gives(2)")
    assert error["ename"] == "CheckFailed" and "returned  1" in said([error])
    (*_, part) = checked(flood, f"{IMPORT}check(flood).gives(1)\n0.5")
    assert part["output_type"] == "execute_result" and part["data"] == {"text/plain": "0.5"}


def test_long_outputs_are_cut():
    outputs = ran("print('a' * 3_000_000)\nfor i in range(5000):\n    print('b' * 100, flush=True)")
    assert len(said(outputs)) < 300_000 and "more was put out" in said(outputs)


def test_a_notebook_keeps_so_much_and_no_more():
    show = "from IPython.display import display\n"
    show += "for _ in range(9): display({'image/png': 'AAAA' * 100_000}, raw=True)"
    with referee(limits=Limits(cell=30)) as judge:
        sizes = [len(str(judge.run(show))) for _ in range(20)]
    assert 0 < sum(sizes) < 50_000_000 and sizes[0] > 3_000_000 and sizes[-1] == 2


def test_a_forged_traceback_is_cut():
    forge = "get_ipython().outputs._emit('error', b'\\n' * 5_000_000, ename='E', evalue='x')"
    (output,) = ran(forge)
    assert output["ename"] == "E" and len(output["traceback"]) <= 500


def test_text_that_has_no_utf8_is_shown_all_the_same():
    answer = "def odd():\n    raise ValueError('\\ud800')\n"
    said(checked(answer, f"{IMPORT}check(odd).gives(1)")).encode()
    assert printed("print('\\ud800')") == "?\n"


def test_pictures_and_results_are_kept():
    plot = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])"
    (picture,) = ran(plot)
    assert picture["output_type"] == "display_data"
    assert picture["data"]["image/png"].startswith("iVBORw0KGgo")
    (result,) = ran("6 * 7")
    assert result["output_type"] == "execute_result" and result["data"] == {"text/plain": "42"}


def test_magics_shell_commands_and_await_work():
    assert printed("!echo $((6 * 7))").strip() == "42"
    assert "Wall time" in printed("%%time\nx = 1")
    assert printed("import asyncio\nawait asyncio.sleep(0)\nprint(1)") == "1\n"
    assert "EOFError" in printed("input('?')")


# --- time, and processes that end -----------------------------------------------------------------


def test_a_call_that_takes_too_long_is_interrupted_and_the_state_stays():
    answer = (
        "seen = []\ndef slow(x):\n    seen.append(x)\n    while x: pass\n    return len(seen)\n"
    )
    with referee(answer) as judge:
        judge.run(answer)
        late = judge.check(f"{IMPORT}check(slow, 1).gives(1)")
        assert "no answer within 2 s" in said(late) and not passed(late)
        assert judge.check(f"{IMPORT}check(slow, 0).gives(2)") == []
        assert judge.incidents == ["a check: no answer within 2 s"]


def test_one_that_ignores_the_interrupt_is_ended_and_the_cells_run_again():
    answer = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "def stuck(x):\n    while x: pass\n    return 5\n"
    )
    with referee(answer) as judge:
        judge.run(answer)
        assert "it had to be ended" in said(judge.check(f"{IMPORT}check(stuck, 1).gives(1)"))
        assert judge.check(f"{IMPORT}check(stuck, 0).gives(5)") == []


def test_a_cell_that_takes_too_long_is_told_so_and_the_next_one_runs():
    with referee() as judge:
        assert "no answer within 6 s" in said(judge.run("while True: pass", "cell 3"))
        assert said(judge.run("print(1)")) == "1\n"
        assert judge.incidents == ["cell 3: no answer within 6 s"]


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "ctypes.string_at(0)"])
def test_a_process_that_ends_itself_costs_that_cell_alone(end):
    answer = f"import ctypes, os\ndef die(x):\n    if x: {end}\n    return 7\n"
    with referee(answer) as judge:
        judge.run(answer)
        dead = judge.check(f"{IMPORT}check(die, 1).gives(7)")
        if "kill" in end:  # the first process of a namespace can't be killed from inside
            assert passed(dead)
        else:
            assert not passed(dead) and "the process ended" in said(dead)
        assert judge.check(f"{IMPORT}check(die, 0).gives(7)") == []


def test_a_cell_that_can_t_run_again_is_left_out_and_the_others_do():
    soon = time.time() + 2
    with referee() as judge:
        judge.run("x = 5")
        judge.run(f"import os, time\nif time.time() > {soon}: os._exit(1)")
        judge.run("y = 6")
        time.sleep(2)
        judge.run("os._exit(1)")
        assert said(judge.run("print(x, y)")) == "5 6\n"


def test_after_some_ends_no_new_process_is_started():
    with referee() as judge:
        for _ in range(4):
            assert "the process ended" in said(judge.run("import os; os._exit(1)"))
        assert "has ended 4 times" in said(judge.run("print(1)"))


def test_the_whole_notebook_has_a_limit():
    with referee(limits=Limits(cell=5, call=5, notebook=2)) as judge:
        assert "the notebook took more than 2 s" in said(judge.run("while True: pass"))
        assert not passed(judge.check("x = 1"))


def test_a_test_that_hangs_is_ended():
    outputs = checked(DOUBLE, "while True: pass", Limits(cell=1, call=1))
    assert not passed(outputs) and outputs[0]["ename"] == "CellTimeoutError"


def test_a_test_that_hangs_in_a_student_s_value_is_ended():
    answer = "def big():\n    return 10 ** 4000\n"
    test = f"{IMPORT}x = check(big).value\nx ** x"
    assert not passed(checked(answer, test, Limits(cell=2, call=1)))


def test_memory_is_bounded_and_the_reason_is_told():
    with referee() as judge:
        outputs = judge.run("x = bytearray(2_000_000_000)")
        assert "MemoryError" in said(outputs) or "memory" in judge.incidents[0]


def test_late_answers_of_a_forked_copy_are_not_taken_for_later_ones():
    answer = """
        import os, time
        def fork(x):
            if os.fork() == 0:
                time.sleep(0.3)
                return 99
            return x
        """
    test = f"import time\n{IMPORT}check(fork, 1).gives(1)\ntime.sleep(0.5)\ncheck(fork, 2).gives(2)"
    found = checked(textwrap.dedent(answer), test)
    assert passed(found) or re.search("returned +99", said(found)) is None
