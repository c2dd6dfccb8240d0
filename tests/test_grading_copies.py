"""Test structure, copies and answers: what counts as alike, and which students are named."""

import ast
import functools
import json
import random
import re

import pytest

from tests import mutation
from tests.time_limit import time_limit
from workshop.grading import answers, classroom, copies, report
from workshop.grading.assignments import read
from workshop.grading.copies import compare
from workshop.grading.records import GRADED, UNGRADABLE, Record
from workshop.grading.structure import Structures


@functools.cache
def released(name):
    return read(mutation.ROOT / "exercises" / name / f"{name}.ipynb")


LORA = released("03_lora")
CODE = [task.id for task in LORA.tasks if not task.by_hand]
(TEXT,) = [task.id for task in LORA.tasks if task.by_hand]


# --- parts of answers -----------------------------------------------------------------------------


def parts(first, second, kind="code"):
    """Return the parts of two answers."""
    structures = Structures()
    read = structures.of_code if kind == "code" else structures.of_text
    return read(first).keys(), read(second).keys()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("total = x.sum() + y.sum()", "s = x.sum() + y.sum()  # the sum"),
        (
            "def f(a, b):\n    return a.b / len(b)",
            "def g(n, m):\n    'Doc.'\n    return n.b / len(m)",
        ),
        ("def f(a: int) -> int:\n    return a + 2 * a", "def f(a):\n    return a + 2 * a"),
        ("a = f(1, 2)\nb = g(3, 4)", "b = g(3, 4)\na = f(1, 2)"),
        (
            "def f():\n    return 1 - x\ndef g():\n    pass",
            "def g():\n    pass\ndef f():\n    return 1 - x",
        ),
        ("y = 3 * x[0] + 4 * x[1]", "y = x[1] * 4 + x[0] * 3"),
        ("x += 2 * y", "x = x + 2 * y"),
        ("x: int = 2 * y + z", "x = 2 * y + z"),
        ("ok = a[0] > b[0]", "ok = b[0] < a[0]"),
        ("ok = a[0] == b[1]", "ok = b[1] == a[0]"),
        ("ok = not a[0] > b[0]", "ok = a[0] <= b[0]"),
        ("ok = not a in b or c", "ok = c or a not in b"),
        ("m = x.abs().max(dim=1)", "m = torch.max(torch.abs(x), dim=1)"),
        ("n = f(x, b=1, a=2)", "n = f(x, a=2, b=1)"),
        ("n = 1_000 * x + 0x10", "n = 1000.0 * x + 16"),
        (
            "if x < 1:\n    raise ValueError('too small')",
            "if y < 1:\n    raise ValueError(f'got {y}')",
        ),
        ("assert x < 1, 'x'", "assert x < 1"),
    ],
)
def test_what_is_easily_changed_does_not_change_the_parts(first, second):
    names = "a = b = c = m = n = ok = s = total = x = y = z = 0\n"
    one, other = parts(names + first, names + second)
    assert one and one == other


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("y = x[0] - x[1]", "y = x[1] - x[0]"),
        ("y = x[0] // 2 + 1", "y = x[0] // 2 + 3"),
        ("ok = x[0] < 1", "ok = x[0] <= 1"),
        ("y = x.amax(dim=1)", "y = x.amin(dim=1)"),
        ("y = f('nf4', x)", "y = f('fp4', x)"),
        ("y = f(x, True)", "y = f(x, 1)"),
        ("y = x.weight + 1", "y = x.bias + 1"),
        ("raise ValueError(1, 2, 3)", "raise TypeError(1, 2, 3)"),
    ],
)
def test_other_computations_have_other_parts(first, second):
    one, other = parts("x = 0\n" + first, "x = 0\n" + second)
    assert not one & other or one != other


@pytest.mark.parametrize(
    "source",
    [
        *("x = = a b c d", "%timeit f(1, 2, 3, 4)", "a b c d\0e", "x = '\ud800' a b c d"),
        *("(" * 10_000 + "a b c d", "a b c d" + "[" * 10_000, "x = " + "-" * 9_000 + "a b c d"),
    ],
)
def test_what_is_not_python_is_compared_by_words(source):
    structures = Structures()
    assert structures.of_code(source) == structures.of_text(source)


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "not " * 2_400 + "1",
        "x = a" + ".b" * 4_900,
        "if x: pass\n" + "elif x: pass\n" * 700,
        '"\\d"\n' * 2_000,
        "1" * 9_999,
    ],
)
def test_hostile_answers_cost_little(source):
    assert len(source) <= answers.MAX_ANSWER
    with time_limit(20):
        Structures().of_code(source)
        answers.numbered(source, "")


# --- the class ------------------------------------------------------------------------------------


def program(draw, statements=8):
    """Return a random function, as unlike others as answers to a task of some length."""
    lines = []
    for n in range(1, statements + 1):
        name, one, other = draw.choice("fghkpq"), draw.randrange(n), draw.randrange(n)
        operator = draw.choice(["-", "/", "@", "%", "+"])
        lines.append(f"    x{n} = {name}(x{one} {operator} {draw.randint(3, 9)}, x{other})")
    return "def answer(x0):\n" + "\n".join(lines) + f"\n    return x{statements}\n"


def independent(size, seed=0):
    """Return the answers of a class in which each student works alone."""
    draw = random.Random(seed)
    return {f"s{n:02}": {task: program(draw) for task in CODE} for n in range(1, size + 1)}


def renamed(source):
    """Return a program without comments, and with another name for each variable."""
    tree = ast.parse(source)
    variables = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = {node.id for node in variables if isinstance(node.ctx, ast.Store)}
    for node in variables:
        node.id = f"my_{node.id}" if node.id in stored else node.id
    return ast.unparse(tree)


def copy(answers):
    """Return a student's programs with other names."""
    return {task: renamed(source) for task, source in answers.items() if task in CODE}


def names(comparison):
    return [pair.students for pair in comparison.pairs]


@pytest.mark.parametrize("size", [7, 8, 12, 30])
def test_two_copies_are_named_and_nobody_else(size):
    found = independent(size)
    assert names(compare(LORA, found)) == []
    found["s05"] = copy(found["s03"])
    comparison = compare(LORA, found)
    assert (comparison.students, comparison.large_enough) == (size, True)
    assert names(comparison) == [("s03", "s05")]
    (pair,) = comparison.pairs
    assert [alike.task.id for alike in pair.tasks] == CODE
    assert all(alike.overlap == pytest.approx(1) and alike.usual < 0.3 for alike in pair.tasks)
    assert pair.expected <= copies.MAX_EXPECTED


@pytest.mark.parametrize("size", range(7))
def test_a_class_can_be_too_small(size):
    found = independent(size)
    if size > 1:
        found["s02"] = found["s01"]
    comparison = compare(LORA, found)
    assert comparison == copies.Comparison(size, large_enough=False, pairs=())


def test_one_alike_answer_is_no_evidence():
    found = independent(30)
    found["s05"][CODE[4]] = found["s03"][CODE[4]]
    assert names(compare(LORA, found)) == []


def test_answers_that_many_students_have_are_no_evidence():
    found = independent(30)
    usual = {task: program(random.Random(99)) for task in CODE}
    found |= {f"s{n:02}": copy(usual) for n in range(1, 11)}
    assert names(compare(LORA, found)) == []


def test_students_without_answers_are_not_compared():
    found = independent(12) | {"empty": {}, "none": {}}
    found |= {"s07": {CODE[0]: "pass"}, "s08": {CODE[0]: "pass"}}
    comparison = compare(LORA, found)
    assert (comparison.students, comparison.pairs) == (12, ())


def test_a_copied_text_counts():
    draw, words = random.Random(3), [f"word{n}" for n in range(300)]
    found = independent(8)
    for student in found.values():
        student[TEXT] = " ".join(draw.choices(words, k=60))
    copied = copy(found["s03"]) | {CODE[0]: "x = 1", TEXT: found["s05"][TEXT]}
    assert names(compare(LORA, found | {"s05": copied})) == []
    copied[TEXT] = "By the way: " + found["s03"][TEXT].replace("word7", "word8").upper()
    (pair,) = compare(LORA, found | {"s05": copied}).pairs
    assert pair.students == ("s03", "s05") and pair.tasks[-1].task.id == TEXT


# --- the course's own answers ---------------------------------------------------------------------


@functools.cache
def choices(name):
    """Return the right and the wrong answers in tests/mutants to each task."""
    found = {}
    for task in mutation.code_tasks(released(name)):
        mutants = mutation.mutants(name, task.id)
        found[task.id] = [[m.source for m in mutants if m.kind == k] for k in ("right", "wrong")]
    return found


def of_the_course(name, size, seed):
    """Return a class whose students draw answers to the course's own tasks, right or wrong."""
    draw, found = random.Random(seed), {}
    for n in range(size):
        skill = draw.betavariate(2, 2)
        found[f"s{n:02}"] = {
            task: draw.choice(right if draw.random() < skill else wrong)
            for task, (right, wrong) in choices(name).items()
        }
    return found


@pytest.mark.full
@pytest.mark.parametrize("name", ["04_nf4", "06_paged_optimizers"])
def test_nobody_who_works_alone_is_named(name):
    """Answers of students who work alone are often equal, because the tasks are short."""
    for seed in range(4):
        assert names(compare(released(name), of_the_course(name, 30, seed))) == []


# --- reading the answers --------------------------------------------------------------------------


def autograded(folder, student, sources):
    """Write the graded notebook of a student with these answers."""
    notebook = json.loads((mutation.ROOT / "exercises/03_lora/03_lora.ipynb").read_text())
    for cell in notebook["cells"]:
        cell["source"] = sources.get(cell["id"], cell["source"])
    path = folder / "autograded" / student / "03_lora" / "03_lora.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(notebook))
    return path


def test_only_answers_that_the_student_wrote_are_read(tmp_path):
    (first, second, third, *_), stubs = CODE, {t.id: t.answer["source"] for t in LORA.tasks}
    written = {first: ["def f():\n", "    pass"], second: stubs[second] + "\n\n", TEXT: "Because."}
    autograded(tmp_path, "a", written | {third: "x" * (answers.MAX_ANSWER + 1)})
    assert answers.read_answers(tmp_path, LORA, ["a", "missing"]) == {
        "a": {first: "def f():\n    pass", TEXT: "Because."},
        "missing": {},
    }


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"cells": [1]}', '{"cells": [{}]}', "[" * 10**5]
)
def test_a_damaged_notebook_has_no_answers(tmp_path, content):
    autograded(tmp_path, "a", {}).write_text(content)
    assert answers.read_answers(tmp_path, LORA, ["a"]) == {"a": {}}


# --- in the report --------------------------------------------------------------------------------


def section(tmp_path, comparison):
    """Return the part of the report's page about answers that are alike."""
    path = tmp_path / "report.html"
    report.write_report(path, LORA, [], comparison=comparison)
    found = re.search("<h2>Answers that are alike</h2>.*?</section>", path.read_text(), re.DOTALL)
    return found[0] if found else ""


def test_the_report_shows_both_answers_and_accuses_nobody(tmp_path):
    found = independent(12)
    found["s05"] = copy(found["s03"])
    text = section(tmp_path, compare(LORA, found))
    assert "more alike than chance would explain. Read both before you draw a conclusion." in text
    assert "s03 and s05: alike in 6 of 7 tasks" in text
    assert "3.1 One adapter beside one matrix: 100% alike" in text
    assert text.count("<pre>") == 12 and "<mark>" in text
    assert not re.search("cheat|plagiar|guilty|stole", text)


def test_answers_and_names_in_the_report_are_escaped(tmp_path):
    found = independent(12)
    harmful = "# <script>hacked = 1</script></pre></details><h2>0</h2>\x1b[2J\u202e"
    found["<b>\x1b"] = {task: f"{harmful}\n{source}" for task, source in found["s03"].items()}
    text = section(tmp_path, compare(LORA, found))
    assert "&lt;b&gt;\\x1b" in text and "&lt;script&gt;" in text
    assert not re.search("<script|<b>|</pre></details><h2>|[\x1b\u202e]", text)


def test_grading_compares_the_answers_of_all_gradable_students(tmp_path):
    """The answers come from autograded/, also for students who were graded in an earlier run."""
    for kind in ("exercises", "solutions"):
        (tmp_path / kind).symlink_to(mutation.ROOT / kind)
    found = independent(12)
    found["s05"] = copy(found["s03"])
    records = []
    for student, sources in found.items():
        autograded(tmp_path, student, sources)
        records.append(Record("03_lora", student, GRADED))
    autograded(tmp_path, "s13", found["s03"])
    records.append(Record("03_lora", "s13", UNGRADABLE, ("the file is empty",)))
    result = classroom.Result(
        read(tmp_path / "solutions/03_lora/03_lora.ipynb"), records, [], graded=0
    )
    summary = classroom.write_results(tmp_path, result)
    page = (tmp_path / "grading/03_lora/report.html").read_text()
    assert "s03 and s05: alike in 6 of 7 tasks" in page and "answers of 12 students" in page
    assert "questions for talks: grading/03_lora/talk.html" in summary
    assert "pairs of students with answers that are alike: 1" in summary
    talk = (tmp_path / "grading/03_lora/talk.html").read_text()
    assert "s05</h2>" in talk and "s13</h2>" not in talk
