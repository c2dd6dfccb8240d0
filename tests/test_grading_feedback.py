"""Test the pages of students' notebooks: no student's script runs, and hidden tests stay hidden.

Each attack is tried in Chromium. It must succeed on formgrader's page with nbgrader's default
settings, and fail on formgrader's and feedback's pages with the course's settings.
"""

import copy
import json
import re
import shutil
import time
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

import nbgrader.server_extensions.formgrader.handlers as formgrader
from nbconvert.exporters import HTMLExporter
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from tests import sums
from tests.browser import PICTURES
from workshop.grading.feedback import harmless
from workshop.grading.release import settings

pytestmark = pytest.mark.xdist_group("feedback")

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
            cell.metadata.nbgrader |= {"score": 1, "points": 2, "comment": f"**Good.** {IMG}"}
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
        resources = {"nbgrader": {"notebook": "x", "late_penalty": 0}}
    notebook = nbformat.from_dict(
        {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
    )
    return exporter.from_notebook_node(notebook, resources)[0]


def as_answer(cell):
    """Return a cell as an answer, which feedback shows."""
    return cell | graded(solution=True)


class Visit:
    """A page in a browser without a network.

    Attributes:
        attacks: the numbers of the attacks that ran code or opened an address.
    """

    def __init__(self, browser, html, expected=frozenset()):
        """Open the page, and wait until the expected attacks have succeeded."""
        self.html, self.attacks = html, set()
        self.page = browser.new_page(viewport={"width": 1000, "height": 800})
        self.page.expose_function("hacked", lambda number: self.attacks.add(number))
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


@pytest.mark.full
def test_attacks_succeed_only_with_nbgraders_default_settings(browser):
    cells = [armed(cell, number) for number, cell in enumerate(ATTACKS.values())]
    student = armed(f"'\">{IMG}", len(ATTACKS) - 1)
    harmful = {number for number, name in enumerate(ATTACKS) if name not in INERT}
    default = Visit(browser, page(cells, "formgrader", DEFAULT, student), harmful)
    assert default.attacks == harmful
    assert Visit(browser, page(cells, "formgrader", COURSE, student)).attacks == set()
    answers = page([as_answer(cell) for cell in cells], "feedback")
    assert Visit(browser, answers).attacks == set()


@pytest.mark.full
@pytest.mark.parametrize("kind", ["formgrader", "feedback"])
def test_the_policy_stops_attacks_that_were_not_removed(browser, kind):
    names = ("script", "event of a picture", "linked style sheet", "picture", "frame")
    attack = armed("".join(HTML[name] for name in names), 1)
    whole = page([as_answer(text("REPLACED"))], kind)
    assert "REPLACED" in whole
    assert Visit(browser, whole.replace("REPLACED", attack)).attacks == set()
    bare = re.sub("<meta [^>]*Security-Policy[^>]*>", "", whole)
    assert Visit(browser, bare.replace("REPLACED", attack), {1}).attacks == {1}


# --- the page of an honest notebook ---------------------------------------------------------------


@pytest.mark.full
def test_formgrader_shows_texts_and_pictures_and_reveals_the_students_name(browser):
    table = {"text/html": "<table>…</table>", "text/plain": "   a  b\n0  1  2"}
    cells = [
        text("# LoRA\n\n<details><summary>Hint</summary>\n\n**Bold** and `code`\n</details>"),
        text(
            "![curve](attachment:a)", attachments={"a": {"image/png": DOT}}, **graded(solution=True)
        ),
        code("frame", [{"output_type": "display_data", "data": table, "metadata": {}}]),
        code(
            "x", [{"output_type": "error", "ename": "E", "evalue": "", "traceback": ["\x1b[31mE"]}]
        ),
        output({"image/png": DOT}),
        output({"application/json": {}}),
    ]
    visit = Visit(browser, page(cells, "formgrader"))
    shown = visit.page.locator("body")
    assert "0  1  2" in shown.inner_text() and "not shown: application/json" in shown.inner_text()
    assert "<table>" not in shown.inner_text()
    assert visit.page.evaluate("[...document.images].map(image => image.naturalWidth)") == [1, 1]
    assert visit.page.locator("summary").count() == visit.page.locator(".ansi-red-fg").count() == 1
    assert not visit.page.get_by_text("student01").is_visible()
    visit.page.locator(".glyphicon-eye-open").click()
    assert visit.page.get_by_text("student01").is_visible()
    PICTURES.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=PICTURES / "formgrader-page.png", full_page=True)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        # Formgrader's script reads these classes and ids.
        ("<p class='score tabbable' id='why'>a</p>", "<p>a</p>"),
        ("<input class=score><form action=x>a</form>", "<p></p>a<p></p>"),
        ("[a](/formgrader?path=x) <a href=/x>b</a>", "<p>a b</p>"),
        ("[a](https://b.c/d?e&f) <https://b.c>", "<p>a (https://b.c/d?e&amp;f) https://b.c</p>"),
        ("![a](https://b.c/d.png)", "<p>(a picture that is not shown: a)</p>"),
        ("<img src='/formgrader?path=x' alt='a'>", '<img alt="a">'),
        ("<b style='position: fixed'>a</b>", "<p><b>a</b></p>"),
        ("a `x < y`", "<p>a <code>x &lt; y</code></p>"),
        ("$\\href{javascript:a}{b}$", "<p>$\\\u200bhref{javascript:a}{b}$</p>"),
        ("<script>a</script>b", "b"),
    ],
)
def test_markdown_becomes_harmless_html(source, shown):
    assert harmless.markdown({}, source).strip() == shown.strip()


def test_a_long_text_is_shown_unchanged():
    assert harmless.markdown({}, "*<b>*" * 3_000) == f"<pre>{'*&lt;b&gt;*' * 3_000}</pre>"


def test_an_attached_picture_is_shown_once():
    cell = {"attachments": {"a": {"image/png": DOT * 1_000}}}
    source = "[a]: attachment:a\n\n" + "![a][a] " * 900
    assert len(harmless.markdown({"cell": cell}, source)) < 200_000


def test_a_long_output_is_cut():
    cell = nbformat.from_dict(
        code("", [{"output_type": "stream", "name": "stdout", "text": "a" * 300_000}])
    )
    safe, _ = harmless.Harmless().preprocess(nbformat.from_dict({"cells": [cell]}), {})
    assert safe.cells[0].outputs[0].text == "a" * 100_000 + "\n… (300,000 characters)"


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Object of type <Submitted")
def test_feedback_has_only_the_page_and_the_files_of_the_exchange(tmp_path):
    folder = sums.course(tmp_path / "course")
    with sums.gradebook(folder) as gradebook:
        gradebook.add_student("student01")
        gradebook.add_submission(sums.NAME, "student01")
    autograded = folder / "autograded" / "student01" / sums.NAME
    shutil.copytree(folder / "exercises" / sums.NAME, autograded)
    exchange = {"timestamp.txt": "2026-09-01 12:00:00 UTC", "submission_secret.txt": "0123"}
    for name, content in exchange.items():
        (autograded / name).write_text(content)
    coursedir = CourseDirectory(config=settings(folder), assignment_id=sums.NAME, root=str(folder))
    GenerateFeedback(coursedir=coursedir, config=settings(folder)).start()
    feedback = folder / "feedback" / "student01" / sums.NAME
    files = {path.name: path.read_text("utf-8") for path in feedback.iterdir()}
    assert "your results" in files.pop(f"{sums.NAME}.html")
    assert files == exchange


def test_a_picture_that_colab_wrote_into_a_text_is_shown_with_the_text_below_it():
    data = 50_000 * "QUJD"
    source = f"![a.png](data:image/png;base64,{data})\n![b](data:image/svg+xml;base64,QUJD)\nBelow."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)])
    safe, _ = harmless.Harmless().preprocess(notebook, {})
    assert safe.cells[0].source.startswith("![a.png](attachment:picture-1)\n")
    assert safe.cells[0].source.endswith("\nBelow.")
    assert safe.cells[0].attachments == {"picture-1": {"image/png": data}}
    page = harmless.markdown({"cell": safe.cells[0]}, safe.cells[0].source)
    assert f"data:image/png;base64,{data}" in page and "svg" not in page
