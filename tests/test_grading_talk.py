"""Test talk: which questions are asked about an answer, and the page with the questions."""

import re

import pytest

from tests import mutation
from tests.time_limit import time_limit
from workshop.grading import talk
from workshop.grading.assignments import read, sources
from workshop.grading.records import GRADED, Record


def released(name):
    return read(mutation.ROOT / "exercises" / name / f"{name}.ipynb")


NF4 = released("04_nf4")
TASKS = {task.id: task for task in NF4.tasks}
TEXT = "nf4-optimal"
RECORD = Record("04_nf4", "s01", GRADED)


def asked(source, task="nf4-pack", record=RECORD):
    """Return all questions about one answer, by kind."""
    return {q.kind: q for q in talk._candidates(TASKS[task], source, record)}


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (
            "y = [s for s in b if b[s] <= t]",
            "boundary",
            "`b[s] <= t`. What would change if `<=` were `<`",
        ),
        ("y = x < 1", "limit", "`x < 1`. What would change if `<` were `<=`"),
        (
            "if x % 2:\n    raise ValueError('odd')",
            "guard",
            "Give a call for which `x % 2` is true.",
        ),
        ("y = a / m.where(m > 0, 1)[:, None]", "divisor", "and not by `m` alone"),
        ("y = a / b.max()", "divisor", "You divide by `b.max()`. For which input is this 0"),
        ("y = math.ceil(n / 64)", "rounding", "`math.ceil(n / 64)` is rounded up"),
        (
            "y = codes[1::2]",
            "slice",
            "`codes[1::2]`: Which elements are these if `codes` has five?",
        ),
        ("y = x.amax(dim=1, keepdim=True)", "shape", "What would change without `keepdim=True`?"),
        ("y = c.get('head_dim', 64)", "default", "when is `64` used? Is it also used if"),
        ("while f(n + 1) < m:\n    n += 1", "end", "the loop `while f(n + 1) < m` ends?"),
        ("y = [a for a in x if a.grad]", "filter", "Only elements with `a.grad` are used"),
        ("with torch.no_grad():\n    y = 1", "without", "without `with torch.no_grad()`?"),
        ("y = sorted(x)[0]", "sorted", "if `sorted(x)` were `x` alone?"),
        ("y = 4 + 32 / size", "number", "Why 32 in `32 / size`?"),
        (
            "for name, x in m.items():\n    f(x)",
            "loop",
            "over `m.items()` run, and what is `(name, x)`",
        ),
    ],
)
def test_questions_quote_the_code_they_are_about(source, kind, words):
    question = asked(f"\n{source}")[kind]
    assert words in question.text
    assert question.line == 2


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("y = x / 2", "divisor"),
        ("y = Path(folder) / name", "divisor"),
        ("y = base / 'file.txt' / name", "divisor"),
        ("y = 0 < x < 1", "boundary"),
        ("raise ValueError(f'{x / y}: {x[1:]}')", "divisor"),
        ("def f(x: a[1:]) -> b[1:]:\n    return x", "slice"),
        ("y = x[:]", "slice"),
        ("y = (a + b).long_name_of_a_method(c)[1:]", "slice"),
        ("x[1:] = 0", "slice"),
        ("y = x + 1", "number"),
        ("y = a if b or c else d", "default"),
        ("y = " + "a_long_name + " * 10 + "b < limit_of_all_these_values", "boundary"),
        ("if x:\n    return 1", "guard"),
        ("def f(:", "limit"),
    ],
)
def test_a_question_that_would_make_no_sense_is_not_asked(source, kind):
    assert kind not in asked(source)


@pytest.mark.parametrize("path", sources(mutation.ROOT), ids=lambda path: path.stem)
def test_the_solution_of_each_assignment_has_questions(path):
    answers = {task.id: task.answer["source"] for task in read(path).tasks}
    assert len(talk.questions(released(path.stem), answers, RECORD)) >= 3


def page(tmp_path, answers, records=(RECORD,), first=()):
    path = tmp_path / "talk.html"
    talk.write_page(path, NF4, answers, records, dict(first))
    return path.read_text(encoding="utf-8")


def test_the_page_has_the_questions_and_the_answers_of_each_student(tmp_path):
    records = [RECORD, Record("04_nf4", "s02", GRADED)]
    text = page(tmp_path, {"s01": {"nf4-pack": "# mine\ny = a / b < c\n"}}, records)
    assert "<strong>4.4, line 2.</strong> You divide by <code>b</code>." in text
    assert '<span class="number">  2</span> y = a / b &lt; c' in text
    assert text.count("<section") == 2 and "There is no question" in text.partition("s02</h2>")[2]


HARMFUL = "<script>hacked = 1</script></pre></li><h2>0</h2>"


def test_texts_of_students_are_escaped_on_the_page(tmp_path):
    record = Record(
        *("04_nf4", f"<b>\x1b{HARMFUL}", GRADED),
        messages={task.checks[0]["id"]: HARMFUL for task in NF4.tasks if task.checks},
    )
    source = f"y = x / f('{HARMFUL}')  # {HARMFUL}\x1b[2J\u202e\nz = a[f(`{HARMFUL}`):]"
    answers = {
        "nf4-pack": source,
        "nf4-blocks": source.splitlines()[0],
        TEXT: f"1 {HARMFUL} 2 3 4 5",
    }
    text = page(tmp_path, {record.student: answers}, [record])
    assert "&lt;script&gt;hacked" in text
    assert not re.search("<script|<b>|</pre></li>|<h2>0|[\x1b\u202e]", text)


def test_hostile_answers_are_no_problem(tmp_path):
    sources = ["x = " + "a / " * 2_400 + "b", "x = " + "a[b:" * 90 + "]" * 90, "(" * 10_000, "\0"]
    sources += [f"x = a / 0x{'f' * 5_000}", f"if a < 0x{'f' * 5_000}: pass"]
    sources += ["x = " + "-(-a // " * 60 + "b" + ")" * 60, "if a < b: pass\n" * 600]
    with time_limit(60):
        for source in sources:
            page(tmp_path, {"s01": {"nf4-pack": source}})


@pytest.mark.full
def test_the_page_runs_no_script_and_fits_the_window(browser, tmp_path):
    source = "y = a / b\nz = c[1:]\n"
    answers = {f"s{n:02}": dict.fromkeys(TASKS, source) for n in range(1, 5)}
    answers["s01"]["nf4-pack"] += f"# {HARMFUL} " + "x" * 500
    page(tmp_path, answers, [Record("04_nf4", student, GRADED) for student in answers])
    path = tmp_path / "talk.html"
    for width in (360, 1280):
        with browser.new_context(viewport={"width": width, "height": 800}) as context:
            tab, requests, messages = context.new_page(), [], []
            tab.on("request", lambda request, urls=requests: urls.append(request.url))
            tab.on("console", lambda message, texts=messages: texts.append(message.text))
            tab.goto(path.as_uri())
            assert tab.evaluate("window.hacked") is None
            assert requests == [path.as_uri()] and messages == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
