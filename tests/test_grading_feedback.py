"""Test results.feedback: no student's script runs in a page, and hidden tests stay hidden.

Each attack is tried in Chromium on two pages. It must succeed on a page with nbgrader's default
settings, and fail on a page with the course's settings.
"""

import copy
import json
import linecache
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import settings as property_test
from hypothesis import strategies as st

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

import nbgrader.server_extensions.formgrader.handlers as formgrader
from nbconvert.exporters import HTMLExporter
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from course_utils.exercise.checks import CheckFailed
from tests import sums
from workshop.grading.feedback import harmless
from workshop.grading.release import settings

pytestmark = [
    # SQLAlchemy warns about objects that nbgrader will add later.
    pytest.mark.filterwarnings("ignore:Object of type <Submitted"),
    pytest.mark.xdist_group("feedback"),
]

ROOT = Path(__file__).resolve().parents[1]
# The address of the pages in the browser.
SITE = "http://course.test"
# An address that no page may open without a click.
ELSEWHERE = "https://elsewhere.test"
# A picture with one pixel.
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)

# --- attacks --------------------------------------------------------------------------------------

# HACK stands for JavaScript that reports the attack, and AWAY for an address elsewhere.

HTML = {
    "script": "<script>HACK</script>",
    "event of a picture": "<img src=x onerror='HACK'>",
    "event of svg": "<svg onload='HACK'></svg>",
    "frame": "<iframe srcdoc='<script>HACK</script>'></iframe>",
    "JavaScript link": "<a href='javascript:HACK'>a</a>",
    "encoded JavaScript link": "<a href='java&#10;script&colon;HACK'>a</a>",
    "event of details": "<details open ontoggle='HACK'>d</details>",
    "event of an animation": (
        "<style>@keyframes x{}</style><b style='animation:x' onanimationstart='HACK'>b</b>"
    ),
    "imported style sheet": "<style>@import url(AWAY);</style>",
    "linked style sheet": "<link rel=stylesheet href=AWAY>",
    "object": "<object data=AWAY></object>",
    "video": "<video poster=AWAY></video>",
    "picture": "<img src=AWAY>",
    "source set": "<img srcset='AWAY 1x'>",
    "background": "<p style='background: url(AWAY)'>b</p>",
    "address of formgrader": f"<img src='{SITE}/formgrader?path=AWAY'>",
    "escape from a comment": "<!--><img src=x onerror='HACK'>-->",
    "parsed twice": "<noscript><style></noscript><img src=x onerror='HACK'></style></noscript>",
    "escape from math": (
        "<math><mtext><table><mglyph><style><!--</style>"
        "<img title='--&gt;&lt;img src=1 onerror=HACK&gt;'></table></mtext></math>"
    ),
    "escape from an attribute": (
        "<noscript><p title='</noscript><img src=x onerror=HACK>'></noscript>"
    ),
}


def code(source, outputs=(), **changes):
    cell = {"cell_type": "code", "metadata": {}, "source": source, "execution_count": 1}
    return cell | {"outputs": list(outputs)} | changes


def output(data, **metadata):
    """Return a code cell with an output."""
    return code("", [{"output_type": "display_data", "data": data, "metadata": metadata}])


def text(source, kind="markdown", **changes):
    return {"cell_type": kind, "metadata": {}, "source": source} | changes


def graded(**changes):
    """Return the metadata of one of nbgrader's test cells, with changes."""
    data = {"grade_id": "a", "grade": True, "points": 1, "solution": False, "locked": True}
    return {"metadata": {"nbgrader": {"schema_version": 3, "task": False, **data, **changes}}}


IMG = "<img src=x onerror='HACK'>"
ATTACKS = {f"output, {name}": output({"text/html": markup}) for name, markup in HTML.items()}
ATTACKS |= {f"text, {name}": text(f"A text\n\n{markup}") for name, markup in HTML.items()}
ATTACKS |= {
    "output, markdown": output({"text/markdown": IMG}),
    "output, javascript": output({"application/javascript": "HACK"}),
    "output, isolated": output(
        {"text/html": "<img src=AWAY>"}, **{"text/html": {"isolated": True}}
    ),
    "output, width": output({"image/png": DOT}, width="1 onload=HACK"),
    "output, file name": output({"image/png": DOT}, filenames={"image/png": "AWAY"}),
    "text, JavaScript link": text("[a](javascript:HACK)"),
    "text, picture": text("![a](AWAY)"),
    "text, heading": text(f"# Heading {IMG}"),
    "text, redirection": text("<meta http-equiv=refresh content='0;url=AWAY'>"),
    "raw cell": text(IMG, "raw", metadata={"raw_mimetype": "text/html"}),
    "attachment": text("![a](attachment:a)", attachments={"a": {"image/svg+xml": f"'\">{IMG}"}}),
    "grade id": text("answer", **graded(grade_id=f"b'\">{IMG}", solution=True)),
    "name of a student": text("The name is in the title and in formgrader's menu."),
}
# These attacks fail even with nbgrader's default settings, or in this browser.
INERT = {
    *(f"{place}, {name}" for place in ("output", "text") for name in list(HTML)[-2:]),
    "raw cell",
    "attachment",
}
# With nbgrader's default settings, these attacks succeed only in formgrader.
ONLY_IN_FORMGRADER = {"output, javascript", "name of a student"}


def armed(cell, number):
    """Return a cell whose attack reports its number."""
    attack = json.dumps(cell).replace("HACK", f"hacked({number})")
    return json.loads(attack.replace("AWAY", f"{ELSEWHERE}/{number}"))


# --- nbgrader's pages -----------------------------------------------------------------------------

DEFAULT, COURSE = Config(), settings(ROOT)


def add_grades(notebook, resources):
    """Add grades as nbgrader's GetGrades does, without a gradebook."""
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader |= {"score": 1, "points": 2, "comment": "**Good.**"}
    return notebook, resources


def page(cells, kind, config=COURSE, student="student01"):
    """Return nbgrader's page of some cells; the kind is "formgrader" or "feedback"."""
    config = copy.deepcopy(config)
    if kind == "formgrader":
        config.HTMLExporter.template_name = "formgrade"
        config.HTMLExporter.extra_template_basedirs = [formgrader.template_path]
        exporter = HTMLExporter(config=config)
        names = ("assignment_id", "notebook_id", "submission_id")
        resources = dict.fromkeys(names, "x") | {"base_url": "", "index": 0, "total": 1}
        resources |= {"student": student, "last_name": None, "notebook_path": student}
    else:
        converter = GenerateFeedback(coursedir=CourseDirectory(), config=config)
        exporter = converter.exporter_class(parent=converter, config=converter.config)
        for step in converter.preprocessors:
            exporter.register_preprocessor(add_grades if "GetGrades" in str(step) else step)
        resources = {"nbgrader": {"notebook": "x", "score": 1, "max_score": 2, "late_penalty": 0}}
    notebook = nbformat.from_dict(
        {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
    )
    return exporter.from_notebook_node(notebook, resources)[0]


class Visit:
    """A page in a browser without a network.

    Attributes:
        attacks: the numbers of the attacks that ran code or opened an address.
        messages: the messages in the browser's console.
    """

    def __init__(self, browser, html, expected=frozenset()):
        """Open the page, and wait until the expected attacks have succeeded."""
        self.html, self.attacks, self.messages = html, set(), []
        self.page = browser.new_page(viewport={"width": 1000, "height": 800})
        self.page.expose_function("hacked", lambda number: self.attacks.add(number))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.route("**/*", self.answer)
        self.page.goto(f"{SITE}/page")
        for link in self.page.locator("a").all():
            if link.evaluate("link => link.protocol") == "javascript:":
                link.evaluate("link => link.click()")
        deadline = time.monotonic() + 60
        while not expected <= self.attacks and time.monotonic() < deadline:
            self.page.wait_for_timeout(100)
        self.page.wait_for_timeout(500)

    def answer(self, route):
        """Answer a request as a server would that has only formgrader's files."""
        address = route.request.url
        if attack := re.search(f"{ELSEWHERE}/(\\d+)", address):
            self.attacks.add(int(attack[1]))
        if address == f"{SITE}/page":
            route.fulfill(body=self.html, content_type="text/html")
        elif address.startswith(f"{SITE}/formgrader/static/"):
            route.fulfill(path=address.replace(f"{SITE}/formgrader/static", formgrader.static_path))
        elif address.startswith(f"{SITE}/formgrader/api/"):
            route.fulfill(body="[]", content_type="application/json")
        elif route.request.is_navigation_request():
            # The browser stays on the page.
            route.fulfill(status=204)
        else:
            route.abort()


@pytest.fixture(scope="module")
def successes(browser):
    """The names of the attacks that succeeded, by the kind of page and the settings."""
    cells = [armed(cell, number) for number, cell in enumerate(ATTACKS.values())]
    student = armed(f"'\">{IMG}", len(ATTACKS) - 1)
    names = list(ATTACKS)
    successes = {}
    for kind, fail in (("formgrader", INERT), ("feedback", INERT | ONLY_IN_FORMGRADER)):
        expected = {number for number, name in enumerate(names) if name not in fail}
        default = Visit(browser, page(cells, kind, DEFAULT, student), expected)
        safe = Visit(browser, page(cells, kind, COURSE, student))
        successes[kind, "default"] = {names[number] for number in default.attacks}
        successes[kind, "course"] = {names[number] for number in safe.attacks}
    return successes


@pytest.mark.full
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_succeeds_only_with_nbgraders_default_settings(successes, attack):
    pages = [page for page, attacks in successes.items() if attack in attacks]
    assert not [page for page in pages if page[1] == "course"]
    assert pages or attack in INERT, "the attack fails with nbgrader's default settings, too"


@pytest.mark.full
@pytest.mark.parametrize("kind", ["formgrader", "feedback"])
def test_the_policy_stops_attacks_that_were_not_removed(browser, kind):
    names = ("script", "event of a picture", "linked style sheet", "picture", "frame")
    attack = armed("".join(HTML[name] for name in names), 1)
    whole = page([text("REPLACED")], kind)
    assert "REPLACED" in whole
    assert Visit(browser, whole.replace("REPLACED", attack)).attacks == set()
    bare = re.sub("<meta [^>]*Security-Policy[^>]*>", "", whole)
    assert Visit(browser, bare.replace("REPLACED", attack), {1}).attacks == {1}


# --- the page of an honest notebook ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("markup", "cleaned"),
    [
        # Formgrader's script reads these classes and ids.
        ("<p class='score tabbable' id='why'>a</p>", "<p>a</p>"),
        ("<input class=score><form action=x>a</form>", "a"),
        ("<a href='/formgrader?path=x'>a</a>", "<a>a</a>"),
        ("<a href='http://localhost:8888/formgrader?path=x'>a</a>", "<a>a</a>"),
        ("<a href='http://127.0.0.1/x'>a</a><a href='//x.y'>b</a>", "<a>a</a><a>b</a>"),
        ("<a href='http://0x7f.1/'>a</a><a href='http://x.y@localhost/'>b</a>", "<a>a</a><a>b</a>"),
        ("<img src='data:image/svg+xml;base64,AAAA'>", "(a picture that is not shown)"),
        (
            '<svg role="img" aria-label="a &lt; b" width="9"><path/></svg>c',
            "<p>(A picture: a &lt; b)</p>c",
        ),
        ('<svg role="img" aria-label="<script>" x><svg>a</svg>', "a"),
        ("<b style='position: fixed; color: red'>a</b>", '<b style="color:red">a</b>'),
        ("<b style='color: url(x)'>a</b>", "<b>a</b>"),
        (
            "<a href='https://a.bc/d' title=t>a</a>",
            '<a rel="noopener noreferrer" target="_blank" href="https://a.bc/d">a</a>',
        ),
        ("<a alt='x href=y onclick=hack '>a</a>", "<a>a</a>"),
        ("<img alt='x src=y onerror=hack '>", "(a picture that is not shown)"),
        (
            "<b title='<img '>a</b> <img alt='>'>",
            '<b title="\u2039img ">a</b> (a picture that is not shown)',
        ),
        ("<td>a", "a"),
        ("a <b>b", "a <b>b</b>"),
        ("&#92;hr&#101;f &lt;i&gt; &amp;lt; a < b", "\\\u200bhref &lt;i&gt; &amp;lt; a &lt; b"),
    ],
)
def test_clean_removes_active_tags_and_attributes(markup, cleaned):
    assert harmless.clean({}, markup) == cleaned


DIFFERENT = [f"<b a{number}>" for number in range(9_000)]


@pytest.mark.parametrize(
    "markup",
    [
        # Cleaning this text would need 43 s and 280 MB.
        "".join(f"{tag}<p>" for tag in DIFFERENT),
        "<p " + " ".join(f"data:image/png;base64,{number}" for number in range(99_000)) + ">",
        "<br>" * 20_000,
        "&" * 200_000,
    ],
)
def test_markup_that_is_slow_to_clean_is_shown_as_text(markup):
    assert harmless.clean({}, markup).startswith("<pre>")


TEXTS = """\
alt=|title=| href=| src=| onclick=hack |<|>|/|=|"|'| |&|&lt;|&#60;|&quot;|<!--|-->|<a |<b |<p>|\
</p>|<td>|<table>|<svg>|<math>|<mtext>|<img |</b>|<script>|</script>|<style>|</style>|<title>|\
<textarea>|<noscript>|<![CDATA[|<iframe |<form |<object |<template>|<select>|\
<annotation-xml encoding=text/html>|src=x |href=x |onerror=|onload=hack |style=|srcset=x |\
class=score |id=x |javascript:hack|url(x)|color:red;|position:fixed;|data:text/html,x|\
https://a.bc/d|\\href{x}|title='</b><img src=x onerror=hack>'"""
PARTS = TEXTS.split("|")
PARTS += ["\n", "\0", "\ud800", f"src='data:image/png;base64,{DOT}' "]
NAMES = ("alt", "title", "href", "src", "style", "class", "onclick", "width", "srcset")
VALUE = st.lists(st.sampled_from([" href=y", " src=y", " onclick=hack ", *PARTS]), max_size=3)
ATTRIBUTE = st.builds(
    "{0}={2}{1}{2} ".format, st.sampled_from(NAMES), VALUE.map("".join), st.sampled_from("'\"")
)
ELEMENT = st.builds(
    "<{} {}>".format,
    st.sampled_from(("a", "b", "img", "svg", "td")),
    st.lists(ATTRIBUTE, min_size=1, max_size=2).map("".join),
)
MARKUP = st.lists(st.sampled_from(PARTS) | st.text(max_size=3) | ELEMENT | ELEMENT, max_size=8)


class Parts(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


@property_test(max_examples=60, deadline=None)
@given(markup=MARKUP.map("".join))
def test_clean_leaves_only_harmless_tags_and_attributes_of_random_markup(markup):
    for context in ({}, {"resources": {"submission_id": "x"}}):
        cleaned = harmless.clean(context, markup)
        assert "\\href" not in cleaned and "<!" not in cleaned
        for tag, attributes in Parts(cleaned).tags:
            assert tag in harmless.TAGS
            allowed = harmless.TEXT_ATTRIBUTES | harmless.NUMBER_ATTRIBUTES | {"class", "style"}
            allowed |= {"a": {"href", "rel", "target"}, "img": {"src"}}.get(tag, set())
            assert attributes.keys() <= allowed
            assert "href" not in attributes or (
                not context and harmless.LINK.fullmatch(attributes["href"])
            )
            assert tag != "img" or harmless.PICTURE_DATA.fullmatch(attributes["src"])
            assert not re.search(r"url|position|\\", attributes.get("style", ""), re.I)
            assert set(attributes.get("class", "").split()) <= harmless.CLASSES


def test_a_notebook_with_odd_values_becomes_a_valid_notebook():
    odd = [None, 1, "x", [], {}, ["a", 1], {"a": None}, "ÿ" * 200_000]
    cells = [code(value, [{"output_type": value}], metadata={"nbgrader": value}) for value in odd]
    for kind in ("stream", "error", "display_data", "execute_result"):
        fields = ("text", "data", "name", "ename", "traceback", "metadata")
        outputs = [{"output_type": kind} | dict.fromkeys(fields, value) for value in odd]
        outputs += [
            {"output_type": kind, "data": {mime: value}}
            for value in odd
            for mime in harmless.SHOWN_TYPES
        ]
        cells.append(code("a", [*outputs, *odd], execution_count="<b>", id="<b>"))
    cells += [{"cell_type": kind, "attachments": odd} for kind in ("markdown", "raw", "?", None)]
    notebook = nbformat.from_dict({"cells": cells, "metadata": {}})
    safe, _ = harmless.Harmless().preprocess(notebook, {})
    nbformat.validate(safe)
    outputs = [output for cell in safe.cells for output in cell.get("outputs", [])]
    assert max(len(str(output)) for output in outputs) < 110_000


# --- hidden tests ---------------------------------------------------------------------------------

TEST = """\
from course_utils.exercise.checks import check

check(add, [3, 4], start=1).gives(8)
### BEGIN HIDDEN TESTS
numbers = [1000, 2]
check(add, numbers).gives(1002, likely="one number was left out")
check(add, []).raises(ValueError)
### END HIDDEN TESTS
"""


def failed(source, **names):
    """Return the error of a test cell as a kernel does, for answers that fail a check."""
    file = f"ipykernel_{hash(source)}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        exec(compile(source, file, "exec"), names)
    except Exception as error:
        if isinstance(error, CheckFailed):
            lines = error._render_traceback_()
        else:
            lines = ["Traceback", *source.splitlines(), f"{type(error).__name__}: {error}"]
        return {
            "output_type": "error",
            "ename": type(error).__name__,
            "evalue": str(error),
            "traceback": lines,
        }
    raise AssertionError("no check failed")


def shown(source, error, unmarked=False):
    """Return the source of a test cell and its outputs as feedback shows them."""
    if unmarked:
        first = error["traceback"][0]
        error["traceback"] = [first.replace(harmless.HIDDEN_PREFIX, harmless.PREFIX)]
    printed = {"output_type": "stream", "name": "stdout", "text": "add was called with 1002\n"}
    cell = nbformat.from_dict(code(source, [printed, error], **graded()))
    notebook = nbformat.from_dict({"cells": [cell], "metadata": {}})
    safe, _ = harmless.SafeFeedback().preprocess(notebook, {"metadata": {}})
    outputs = safe.cells[0].outputs
    return safe.cells[0].source, "".join(line for o in outputs for line in o.traceback)


def add(numbers, start=0):
    return sum(numbers[:1] if len(numbers) == 1 else numbers) + start


VISIBLE = """\
Not right yet: add([3, 4], start=1)
  returned  7
  expected  8"""
HIDDEN = """\
Not right yet, in a check that grading adds: add([1_000, 2])
  returned  2
  expected  (not shown: a check that grading adds)
  likely    one number was left out
  try       add([1000, 2])"""


@pytest.mark.parametrize("unmarked", [False, True])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda numbers, start=0: sum(numbers), VISIBLE),
        (lambda numbers, start=0: 8 if start else 2, HIDDEN),
    ],
)
def test_a_hidden_check_shows_the_result_but_not_the_expected_value(answer, message, unmarked):
    answer.__name__ = "add"
    source, text = shown(TEST, failed(TEST, add=answer), unmarked)
    assert text == message
    assert source.split("\n")[-2:] == [harmless.HIDDEN_CODE, ""]
    assert "1002" not in source + text


def test_a_hidden_check_does_not_show_the_expected_error():
    _, text = shown(TEST, failed(TEST, add=add))
    assert "ValueError" not in text and "empty" not in text
    assert text.startswith(harmless.HIDDEN_PREFIX + "add([])") and "returned  0" in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a", "a"),
        (
            "a\n  ### BEGIN HIDDEN TESTS\n  b\n  ### END HIDDEN TESTS\nc",
            f"a\n  {harmless.HIDDEN_CODE}\nc",
        ),
        ("### BEGIN HIDDEN TESTS\nb", harmless.HIDDEN_CODE),
        ("#x### BEGIN HIDDEN TESTS\nb\n### END HIDDEN TESTS", harmless.HIDDEN_CODE),
    ],
)
def test_a_region_of_hidden_tests_becomes_one_comment(source, expected):
    assert harmless.without_hidden(source) == expected


# --- files ----------------------------------------------------------------------------------------


# nbgrader creates a secret like this for each submission.
SECRET = "0123456789abcdef" * 8


@pytest.fixture(scope="module")
def course_with_submission(tmp_path_factory):
    """A course with a submission in its gradebook."""
    folder = sums.course(tmp_path_factory.mktemp("feedback") / "course")
    with sums.gradebook(folder) as gradebook:
        gradebook.add_student("student01")
        gradebook.add_submission(sums.NAME, "student01")
    return folder


@pytest.fixture
def graded_course(course_with_submission, tmp_path):
    """A copy of the course with an autograded notebook, other files, and a link to a secret."""
    folder = tmp_path / "course"
    shutil.copytree(course_with_submission, folder)
    autograded = folder / "autograded" / "student01" / sums.NAME
    shutil.copytree(folder / "solutions" / sums.NAME, autograded)
    (tmp_path / "secret").write_text("secret")
    (autograded / "link.txt").symlink_to(tmp_path / "secret")
    (autograded / "page.html").write_text("<script>1</script>")
    (autograded / "more").mkdir()
    (autograded / "more" / "data.csv").write_text("1")
    (autograded / "timestamp.txt").write_text("2026-09-01 12:00:00 UTC\n")
    (autograded / "submission_secret.txt").write_text(SECRET)
    return folder


def generate_feedback(folder):
    """Generate feedback; return the texts of the student's files by relative path."""
    config = settings(folder)
    coursedir = CourseDirectory(config=config, assignment_id=sums.NAME, root=str(folder))
    GenerateFeedback(coursedir=coursedir, config=config).start()
    target = folder / "feedback" / "student01" / sums.NAME
    files = (path for path in target.rglob("*") if path.is_file())
    return {path.relative_to(target).as_posix(): path.read_text("utf-8") for path in files}


@pytest.mark.full
def test_feedback_has_only_the_page_and_the_files_of_the_exchange(graded_course):
    files = generate_feedback(graded_course)
    page = files.pop(f"{sums.NAME}.html")
    assert files == {"timestamp.txt": "2026-09-01 12:00:00", "submission_secret.txt": SECRET}
    assert "HIDDEN TESTS" not in page and "your results" in page


@pytest.mark.full
@pytest.mark.parametrize("content", ["<script>", "9" * 300, None])
def test_invalid_files_of_the_exchange_are_left_out(graded_course, tmp_path, content):
    (tmp_path / "another").write_text(SECRET)
    for name in ("timestamp.txt", "submission_secret.txt"):
        path = graded_course / "autograded/student01" / sums.NAME / name
        path.unlink()
        if content is None:
            path.symlink_to(tmp_path / "another")
        else:
            path.write_text(content)
    assert set(generate_feedback(graded_course)) == {f"{sums.NAME}.html"}
