"""grading.feedback: nothing of a student's acts in a page; hidden tests stay hidden.

Each attack on a page is tried in Chromium twice: on the page that nbgrader makes by its own
settings, where it has to act, and on ours.
"""

import copy
import html
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
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from course_utils.checks import CheckFailed
from course_utils.grading.release import settings
from course_utils.grading.results import feedback
from tests.browser import PICTURES
from tests.classroom import ASSIGNMENT, course

pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted")  # nbgrader's own

ROOT = Path(__file__).resolve().parents[1]
SITE = "http://course.test"  # where the pages are, in the browser
ELSEWHERE = "https://elsewhere.test"  # where nothing of them may lead without a click
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)

# --- attacks: HACK is JavaScript that tells of itself, AWAY an address nobody should ask ----------

HTML = {
    "script": "<script>HACK</script>",
    "event of a picture": "<img src=x onerror='HACK'>",
    "event of svg": "<svg onload='HACK'></svg>",
    "frame": "<iframe srcdoc='<script>HACK</script>'></iframe>",
    "link to code": "<a href='javascript:HACK'>a</a>",
    "link to code, disguised": "<a href='java&#10;script&colon;HACK'>a</a>",
    "event of details": "<details open ontoggle='HACK'>d</details>",
    "event of an animation": (
        "<style>@keyframes x{}</style><b style='animation:x' onanimationstart='HACK'>b</b>"
    ),
    "styles of another site": "<style>@import url(AWAY);</style>",
    "sheet of another site": "<link rel=stylesheet href=AWAY>",
    "object": "<object data=AWAY></object>",
    "film": "<video poster=AWAY></video>",
    "picture of another site": "<img src=AWAY>",
    "pictures of another site": "<img srcset='AWAY 1x'>",
    "background": "<p style='background: url(AWAY)'>b</p>",
    "settings by a picture": f"<img src='{SITE}/formgrader?path=AWAY'>",
    "broken out of a comment": "<!--><img src=x onerror='HACK'>-->",
    "second reading": "<noscript><style></noscript><img src=x onerror='HACK'></style></noscript>",
    "broken out of math": (
        "<math><mtext><table><mglyph><style><!--</style>"
        "<img title='--&gt;&lt;img src=1 onerror=HACK&gt;'></table></mtext></math>"
    ),
    "broken out of an attribute": (
        "<noscript><p title='</noscript><img src=x onerror=HACK>'></noscript>"
    ),
}


def code(source, outputs=(), **changes):
    made = {"cell_type": "code", "metadata": {}, "source": source, "execution_count": 1}
    return made | {"outputs": list(outputs)} | changes


def shown(data, **metadata):
    """A code cell that displayed something."""
    return code("", [{"output_type": "display_data", "data": data, "metadata": metadata}])


def text(source, kind="markdown", **changes):
    return {"cell_type": kind, "metadata": {}, "source": source} | changes


def graded(**changes):
    """The metadata of nbgrader's test cells, with changes."""
    about = {"grade_id": "a", "grade": True, "points": 1, "solution": False, "locked": True}
    return {"metadata": {"nbgrader": {"schema_version": 3, "task": False, **about, **changes}}}


IMG = "<img src=x onerror='HACK'>"
ATTACKS = {f"output, {name}": shown({"text/html": markup}) for name, markup in HTML.items()}
ATTACKS |= {f"text, {name}": text(f"A text\n\n{markup}") for name, markup in HTML.items()}
ATTACKS |= {
    "output, markdown": shown({"text/markdown": IMG}),
    "output, javascript": shown({"application/javascript": "HACK"}),
    "output, frame of its own": shown(
        {"text/html": "<img src=AWAY>"}, **{"text/html": {"isolated": True}}
    ),
    "output, width": shown({"image/png": DOT}, width="1 onload=HACK"),
    "output, file name": shown({"image/png": DOT}, filenames={"image/png": "AWAY"}),
    "text, link to code": text("[a](javascript:HACK)"),
    "text, picture": text("![a](AWAY)"),
    "text, heading": text(f"# Heading {IMG}"),
    "text, other page": text("<meta http-equiv=refresh content='0;url=AWAY'>"),
    "raw cell": text(IMG, "raw", metadata={"raw_mimetype": "text/html"}),
    "attachment": text("![a](attachment:a)", attachments={"a": {"image/svg+xml": f"'\">{IMG}"}}),
    "grade id": text("answer", **graded(grade_id=f"b'\">{IMG}", solution=True)),
    "name of a student": text("in the address and in formgrader's menu"),
}
# By nbgrader's own settings, too, these act in neither page, or not in this browser.
INERT = {
    *(f"{place}, {name}" for place in ("output", "text") for name in list(HTML)[-2:]),
    "raw cell",
    "attachment",
}


def armed(cell, number):
    """A cell whose attack tells of itself by a number."""
    made = json.dumps(cell).replace("HACK", f"hacked({number})")
    return json.loads(made.replace("AWAY", f"{ELSEWHERE}/{number}"))


# --- pages, as nbgrader makes them ----------------------------------------------------------------

STOCK, OURS = Config(), settings(ROOT)


def marked(notebook, resources):
    """What nbgrader's GetGrades adds, without a gradebook."""
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader |= {"score": 1, "points": 2, "comment": "**Good.**"}
    return notebook, resources


def page(cells, place, config=OURS, student="student01"):
    """The page that nbgrader makes of some cells, by settings, in "formgrader" or as "feedback"."""
    config = copy.deepcopy(config)
    if place == "formgrader":
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
            exporter.register_preprocessor(marked if "GetGrades" in str(step) else step)
        resources = {"nbgrader": {"notebook": "x", "score": 1, "max_score": 2, "late_penalty": 0}}
    notebook = nbformat.from_dict(
        {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
    )
    return exporter.from_notebook_node(notebook, resources)[0]


class Visit:
    """A page in a browser without a network, what acted in it, and what it complained of.

    acted: numbers of attacks that ran code or asked for an address.
    """

    def __init__(self, browser, html):
        self.html, self.acted, self.faults = html, set(), []
        self.page = browser.new_page(viewport={"width": 1000, "height": 800})
        self.page.expose_function("hacked", lambda number: self.acted.add(number))
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.route("**/*", self.answer)
        self.page.goto(f"{SITE}/page")
        for link in self.page.locator("a").all():
            if link.evaluate("link => link.protocol") == "javascript:":
                link.evaluate("link => link.click()")
        self.page.wait_for_timeout(500)

    def answer(self, route):
        """Be the server: formgrader's own files, and nothing else."""
        address = route.request.url
        if attack := re.search(f"{ELSEWHERE}/(\\d+)", address):
            self.acted.add(int(attack[1]))
        if address == f"{SITE}/page":
            route.fulfill(body=self.html, content_type="text/html")
        elif address.startswith(f"{SITE}/formgrader/static/"):
            route.fulfill(path=address.replace(f"{SITE}/formgrader/static", formgrader.static_path))
        elif address.startswith(f"{SITE}/formgrader/api/"):
            route.fulfill(body="[]", content_type="application/json")
        elif route.request.is_navigation_request():
            route.fulfill(status=204)  # the page stays
        else:
            route.abort()


@pytest.fixture(scope="module")
def acted(browser):
    """The attacks that acted, by page and settings."""
    cells = [armed(cell, number) for number, cell in enumerate(ATTACKS.values())]
    student = armed(f"'\">{IMG}", len(ATTACKS) - 1)
    names = list(ATTACKS)
    return {
        (place, whose): {
            names[n] for n in Visit(browser, page(cells, place, config, student)).acted
        }
        for place in ("formgrader", "feedback")
        for whose, config in (("nbgrader", STOCK), ("ours", OURS))
    }


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_a_students_acts_in_a_page(acted, attack):
    places = [where for where, attacks in acted.items() if attack in attacks]
    assert not [where for where in places if where[1] == "ours"]
    assert places or attack in INERT, "it doesn't act on nbgrader's own page either"


@pytest.mark.parametrize("place", ["formgrader", "feedback"])
def test_the_policy_stops_what_the_cleaning_might_miss(browser, place):
    markup = "".join(
        HTML[name] for name in ("script", "event of a picture", "sheet of another site")
    )
    attack = armed(markup + HTML["picture of another site"] + HTML["frame"], 1)
    whole = page([text("REPLACED")], place)
    assert "REPLACED" in whole
    assert Visit(browser, whole.replace("REPLACED", attack)).acted == set()
    bare = re.sub("<meta [^>]*Security-Policy[^>]*>", "", whole)
    assert Visit(browser, bare.replace("REPLACED", attack)).acted == {1}


# --- what is left of an honest notebook -----------------------------------------------------------

TABLE = """
<div><style scoped>.dataframe tbody tr th { vertical-align: top; }</style>
<table border="1" class="dataframe"><thead><tr style="text-align: right;"><th></th><th>rank</th>
</tr></thead><tbody><tr><th>0</th><td>8</td></tr></tbody></table></div>"""
TEXT = """# LoRA

A rank $r$, with $a < b$, as [the paper](https://arxiv.org/abs/2106.09685) has it; `W + BA`.

```python
def f(x: int): ...
```

> a quote, a < b && c

| a | b |
|---|---|
| 1 | 2 |

![dot](attachment:dot.png) ![away](plot.png) <b style="color: red">red</b> $\\href{http://localhost}{x}$
"""
RAISED = ["\x1b[31mZeroDivisionError\x1b[39m: division by zero", "----> 1/0 <b>"]
ERROR = {"output_type": "error", "ename": "Z", "evalue": "", "traceback": RAISED}
HONEST = [
    text(TEXT, attachments={"dot.png": {"image/png": DOT}}),
    shown({"text/html": TABLE, "text/plain": "   rank"}),
    shown({"image/png": DOT, "text/plain": "<Figure>"}),
    shown(
        {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "Slider()"}
    ),
    code("1 / 0", [{"output_type": "stream", "name": "stdout", "text": "a <b>\n"}, ERROR]),
    text("as *it* is <b>", "raw"),
    text("No added latency.", **graded(grade_id="why", solution=True, locked=False)),
]


@pytest.mark.parametrize("place", ["formgrader", "feedback"])
def test_an_honest_notebook_looks_as_it_should(browser, place):
    visit = Visit(browser, page(HONEST, place))
    found = visit.page.locator("#notebook").first
    PICTURES.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=PICTURES / f"page-{place}.png", full_page=True)
    assert [cell.inner_text() for cell in found.locator(".dataframe th, .dataframe td").all()] == [
        "",
        "rank",
        "0",
        "8",
    ]
    sizes = "pictures => pictures.map(picture => picture.naturalWidth)"
    assert found.locator("img").evaluate_all(sizes) == [1, 1]
    color = "part => getComputedStyle(part).color"
    assert found.locator(".ansi-red-fg").evaluate(color) == "rgb(178, 34, 34)"
    assert found.get_by_text("red", exact=True).evaluate(color) == "rgb(255, 0, 0)"
    assert found.locator(".highlight .k").first.inner_text() == "def"
    shown = found.inner_text()
    for part in (
        "A rank $r$, with $a < b$",
        "a quote, a < b && c",
        "(a picture that is not shown)",
        "Slider()",
        "(not shown: application/vnd.jupyter.widget-view+json)",
        "a <b>",
        "----> 1/0 <b>",
        "as *it* is <b>",
        "No added latency.",
    ):
        assert part in shown, part
    assert "\\href" not in shown  # of which MathJax would make a link
    link = found.get_by_text("the paper")
    address = {"formgrader": "title", "feedback": "href"}[place]
    assert link.get_attribute(address) == "https://arxiv.org/abs/2106.09685"
    assert (link.get_attribute("href") is None) == (place == "formgrader")
    assert not [fault for fault in visit.faults if "Content Security Policy" in fault]


def test_formgraders_own_buttons_work(browser):
    """Its menu's code runs under the policy, and its form finds the cells that a person grades."""
    visit = Visit(browser, page(HONEST, "formgrader", student="<student> 'one'"))
    shown = visit.page.locator(".name-shown").first
    assert not shown.is_visible()
    visit.page.locator(".glyphicon-eye-open").click()
    assert shown.inner_text() == "<student> 'one'"
    assert visit.page.locator("input#why, textarea#why-comment").count() == 2


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("<p class='score tabbable' id='why'>a</p>", "<p>a</p>"),  # formgrader's script reads them
        ("<input class=score><form action=x>a</form>", "a"),
        ("<a href='/formgrader?path=x'>a</a>", "<a>a</a>"),
        ("<a href='http://localhost:8888/formgrader?path=x'>a</a>", "<a>a</a>"),
        ("<a href='http://127.0.0.1/x'>a</a><a href='//x.y'>b</a>", "<a>a</a><a>b</a>"),
        ("<a href='http://0x7f.1/'>a</a><a href='http://x.y@localhost/'>b</a>", "<a>a</a><a>b</a>"),
        ("<img src='data:image/svg+xml;base64,AAAA'>", "(a picture that is not shown)"),
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
def test_cleaning_leaves_no_tag_or_attribute_that_does_something(given, kept):
    assert feedback.clean({}, given) == kept


OPEN = "".join(f"<{tag}>" * 3 for tag in ("b", "big", "code", "em", "font", "i", "s", "tt", "u"))
DIFFERENT = [f"<b a{number}>" for number in range(9_000)]
SOURCES = "".join(f'"src="data:image/png;base64,{number} ' for number in range(12_000))


@pytest.mark.parametrize(
    "slow",
    [
        "<p " + "a " * 9_000 + ">",
        "<p " + " ".join(map(chr, range(0x1000, 0xC000))) + ">",
        "<p x=data:image/png;base64, " + "a " * 9_000 + ">",
        f"<p {SOURCES}>",
        "<div>" * 9_000,
        "<b>" * 9_000,
        "<ul><li>" * 5_000,
        "<b>" + "<div>" * 4_000 + "</b>" * 5_000,
        OPEN + "".join(DIFFERENT[: feedback.MAX_REPEATED]) + "<p>" * 9_000,
        OPEN + "".join(DIFFERENT[: feedback.MAX_REPEATED]) + "<table>" + "x<tr>" * 4_500,
        "".join(f"<a a{number}><p>" for number in range(5_000)),
        "".join(f"<a a{number}><object>" for number in range(5_000)),
    ],
)
def test_cleaning_is_quick(slow):
    started = time.process_time()
    assert not feedback.clean({}, slow).startswith("<pre>")
    assert time.process_time() - started < 3  # 0.6 s at most on a quiet machine


@pytest.mark.parametrize(
    "slow",
    [
        "".join(f"{tag}<p>" for tag in DIFFERENT),  # as HTML: 43 s, 280 MB
        "<p " + " ".join(f"data:image/png;base64,{number}" for number in range(99_000)) + ">",
        "<br>" * 20_000,
        "&" * 200_000,
    ],
)
def test_what_would_take_long_to_clean_is_shown_as_text(slow):
    started = time.process_time()
    assert feedback.clean({}, slow).startswith("<pre>")
    assert time.process_time() - started < 1


PARTS = [
    *("alt=", "title=", " href=", " src=", " onclick=hack "),
    *("<", ">", "/", "=", '"', "'", " ", "\n", "&", "&lt;", "&#60;", "&quot;", "<!--", "-->", "\0"),
    *(
        "<a ",
        "<b ",
        "<p>",
        "</p>",
        "<td>",
        "<table>",
        "<svg>",
        "<math>",
        "<mtext>",
        "<img ",
        "</b>",
    ),
    *(
        "<script>",
        "</script>",
        "<style>",
        "</style>",
        "<title>",
        "<textarea>",
        "<noscript>",
        "<![CDATA[",
    ),
    *(
        "<iframe ",
        "<form ",
        "<object ",
        "<template>",
        "<select>",
        "<annotation-xml encoding=text/html>",
    ),
    *(
        "src=x ",
        "href=x ",
        "onerror=",
        "onload=hack ",
        "style=",
        "srcset=x ",
        "class=score ",
        "id=x ",
    ),
    *(
        "javascript:hack",
        "url(x)",
        "color:red;",
        "position:fixed;",
        "data:text/html,x",
        "https://a.bc/d",
    ),
    *(
        f"src='data:image/png;base64,{DOT}' ",
        "title='</b><img src=x onerror=hack>'",
        "\\href{x}",
        "\ud800",
    ),
]


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
    """The tags of a page, each with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@property_test(max_examples=400, deadline=None)
@given(markup=MARKUP.map("".join))
def test_of_any_text_only_harmless_tags_and_attributes_are_left(markup):
    for context in ({}, {"resources": {"submission_id": "x"}}):
        cleaned = feedback.clean(context, markup)
        assert "\\href" not in cleaned and "<!" not in cleaned
        for tag, attributes in Parts(cleaned).found:
            assert tag in feedback.TAGS
            allowed = feedback.PLAIN | feedback.NUMBERS | {"class", "style"}
            allowed |= {"a": {"href", "rel", "target"}, "img": {"src"}}.get(tag, set())
            assert attributes.keys() <= allowed
            assert "href" not in attributes or (
                not context and feedback.LINK.fullmatch(attributes["href"])
            )
            assert tag != "img" or feedback.DATA.fullmatch(attributes["src"])
            assert not re.search(r"url|position|\\", attributes.get("style", ""), re.I)
            assert set(attributes.get("class", "").split()) <= feedback.CLASSES


def test_a_long_text_and_one_with_a_missing_picture_stand_as_they_are():
    for source in ("*a* <b>" * 9_000, "*a* <b> ![a](attachment:gone.png)"):
        assert feedback.markdown({"cell": {}}, source) == f"<pre>{html.escape(source)}</pre>"


def test_a_notebook_of_anything_becomes_one_of_texts():
    """Whatever stands in the places of texts and lists, nothing raises, and the page is a page."""
    odd = [None, 1, "x", [], {}, ["a", 1], {"a": None}, "ÿ" * 200_000]
    cells = [code(value, [{"output_type": value}], metadata={"nbgrader": value}) for value in odd]
    for kind in ("stream", "error", "display_data", "execute_result"):
        fields = ("text", "data", "name", "ename", "traceback", "metadata")
        outputs = [{"output_type": kind} | dict.fromkeys(fields, value) for value in odd]
        outputs += [
            {"output_type": kind, "data": {mime: value}} for value in odd for mime in feedback.SHOWN
        ]
        cells.append(code("a", [*outputs, *odd], execution_count="<b>", id="<b>"))
    cells += [{"cell_type": kind, "attachments": odd} for kind in ("markdown", "raw", "?", None)]
    step = feedback.Harmless()
    made, _ = step.preprocess(nbformat.from_dict({"cells": cells, "metadata": {}}), {})
    nbformat.validate(made)
    assert (
        max(len(str(output)) for cell in made.cells for output in cell.get("outputs", [])) < 110_000
    )


# --- hidden tests ---------------------------------------------------------------------------------

TEST = """\
from course_utils.checks import check

check(add, [3, 4], start=1).gives(8)
### BEGIN HIDDEN TESTS
numbers = [1000, 2]
check(add, numbers).gives(1002, likely="one number was left out")
check(add, []).raises(ValueError, saying="empty")
### END HIDDEN TESTS
"""


def failed(source, **names):
    """The output of a test cell as a kernel has it, for answers that fail a check."""
    file = f"ipykernel_{hash(source)}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        exec(compile(source, file, "exec"), names)
    except Exception as fault:
        if isinstance(fault, CheckFailed):
            lines = fault._render_traceback_()
        else:
            lines = ["Traceback", *source.splitlines(), f"{type(fault).__name__}: {fault}"]
        return {
            "output_type": "error",
            "ename": type(fault).__name__,
            "evalue": str(fault),
            "traceback": lines,
        }
    raise AssertionError("it didn't fail")


def told(source, error, unmarked=False):
    """What feedback shows of a test cell: its source, and its outputs as text."""
    if unmarked:
        error["traceback"] = [
            error["traceback"][0].replace(feedback.HIDDEN_PREFIX, feedback.PREFIX)
        ]
    printed = {"output_type": "stream", "name": "stdout", "text": "add was called with 1002\n"}
    cell = nbformat.from_dict(code(source, [printed, error], **graded()))
    notebook = nbformat.from_dict({"cells": [cell], "metadata": {}})
    made, _ = feedback.SafeFeedback().preprocess(notebook, {"metadata": {}})
    return made.cells[0].source, "".join(
        line for o in made.cells[0].outputs for line in o.traceback
    )


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
  likely    one number was left out"""


@pytest.mark.parametrize("unmarked", [False, True])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda numbers, start=0: sum(numbers), VISIBLE),
        (lambda numbers, start=0: 8 if start else 2, HIDDEN),
    ],
)
def test_a_hidden_check_tells_what_came_and_not_what_was_expected(answer, message, unmarked):
    answer.__name__ = "add"
    source, said = told(TEST, failed(TEST, add=answer), unmarked)
    assert said == message
    assert source.split("\n")[-2:] == [feedback.HIDDEN_CODE, ""]
    assert "1002" not in source + said


def test_of_an_expected_error_nothing_is_told_either():
    _, said = told(TEST, failed(TEST, add=add))
    assert "ValueError" not in said and "empty" not in said
    assert said.startswith(feedback.HIDDEN_PREFIX + "add([])") and "returned  0" in said


def test_long_values_that_were_expected_are_left_out_to_the_last_line():
    source = TEST.replace("1002", "[[1002] * 12] * 12")
    error = failed(source, add=lambda numbers, start=0: 8 if start else [[1] * 12] * 12)
    assert error["evalue"].count("1_002") > 20 and error["evalue"].count("\n") > 5
    _, said = told(source, error)
    assert "1_002" not in said and "differs" not in said and said.count("returned ") == 1


def test_another_error_is_shown_without_the_lines_around_it():
    source, said = told(TEST, failed(TEST))
    assert said == "NameError: name 'add' is not defined"


def test_a_check_with_values_from_elsewhere_counts_as_visible_if_it_is_not_marked():
    source = "n = 5\ncheck(add, n).gives(1)\n### BEGIN HIDDEN TESTS\n### END HIDDEN TESTS"
    message = "Not right yet: add(5)\n  returned  2\n  expected  1"
    error = {"output_type": "error", "ename": "CheckFailed", "evalue": "", "traceback": [message]}
    assert told(source, error)[1] == message


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("a", "a"),
        (
            "a\n  ### BEGIN HIDDEN TESTS\n  b\n  ### END HIDDEN TESTS\nc",
            f"a\n  {feedback.HIDDEN_CODE}\nc",
        ),
        ("### BEGIN HIDDEN TESTS\nb", feedback.HIDDEN_CODE),
        ("#x### BEGIN HIDDEN TESTS\nb\n### END HIDDEN TESTS", feedback.HIDDEN_CODE),
    ],
)
def test_regions_of_hidden_tests_become_one_comment(source, shown):
    assert feedback.without_hidden(source) == shown


# --- files ----------------------------------------------------------------------------------------


SECRET = "0123456789abcdef" * 8  # as nbgrader makes one for each submission


@pytest.fixture(scope="module")
def marked_course(tmp_path_factory):
    """A course with a submission in its gradebook, which takes nbgrader seconds to make."""
    folder = course(tmp_path_factory.mktemp("course"))
    config = settings(folder)
    coursedir = CourseDirectory(config=config, assignment_id=ASSIGNMENT)
    GenerateAssignment(coursedir=coursedir, config=config).start()
    with Gradebook(coursedir.db_url) as gradebook:
        gradebook.add_student("student01")
        gradebook.add_submission(ASSIGNMENT, "student01")
    return folder


@pytest.fixture
def graded_course(marked_course, tmp_path):
    """A copy of it with an autograded notebook, beside which lie files, and a link to a secret."""
    folder = tmp_path / "course"
    shutil.copytree(marked_course, folder)
    autograded = folder / "autograded" / "student01" / ASSIGNMENT
    shutil.copytree(folder / "solutions" / ASSIGNMENT, autograded)
    (tmp_path / "secret").write_text("secret")
    (autograded / "link.txt").symlink_to(tmp_path / "secret")
    (autograded / "page.html").write_text("<script>1</script>")
    (autograded / "more").mkdir()
    (autograded / "more" / "data.csv").write_text("1")
    (autograded / "timestamp.txt").write_text("2026-09-01 12:00:00 UTC\n")
    (autograded / "submission_secret.txt").write_text(SECRET)
    return folder


def give_back(folder, config):
    """Generate feedback; returns the files of the student, by name."""
    coursedir = CourseDirectory(config=config, assignment_id=ASSIGNMENT, root=str(folder))
    GenerateFeedback(coursedir=coursedir, config=config).start()
    place = folder / "feedback" / "student01" / ASSIGNMENT
    files = (path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): path.read_text("utf-8") for path in files}


def test_only_the_page_and_nbgraders_notes_go_to_the_student(graded_course):
    found = give_back(graded_course, settings(graded_course))
    page = found.pop(f"{ASSIGNMENT}.html")
    assert found == {"timestamp.txt": "2026-09-01 12:00:00", "submission_secret.txt": SECRET}
    assert feedback.HIDDEN_CODE in page and "HIDDEN TESTS" not in page


def test_nbgrader_itself_gives_back_what_links_lead_to_and_hidden_tests(graded_course):
    found = give_back(graded_course, STOCK)
    assert found["link.txt"] == "secret" and {"page.html", "more/data.csv"} <= set(found)
    assert "BEGIN HIDDEN TESTS" in found[f"{ASSIGNMENT}.html"]


@pytest.mark.parametrize("note", ["<script>", "2026-99-99", "9" * 300, "", None])
def test_notes_that_are_none_are_not_given_back(graded_course, tmp_path, note):
    (tmp_path / "another").write_text(SECRET)
    for name in ("timestamp.txt", "submission_secret.txt"):
        path = graded_course / "autograded/student01" / ASSIGNMENT / name
        path.unlink()
        if note is None:
            path.symlink_to(tmp_path / "another")
        else:
            path.write_text(note)
    assert set(give_back(graded_course, settings(graded_course))) == {f"{ASSIGNMENT}.html"}
