"""grading.feedback: nothing of a student's acts in formgrader or feedback; hidden tests stay hidden.

Each attack on a page is tried in Chromium twice: on the page that nbgrader makes by its own
settings, where it has to act, and on ours.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

import nbgrader.server_extensions.formgrader.handlers as formgrader
from nbconvert.exporters import HTMLExporter
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from playwright.sync_api import sync_playwright
from traitlets.config import Config

from course_utils.grading import feedback
from course_utils.grading.release import settings
from tests.browser import PICTURES, chromium

ROOT = Path(__file__).resolve().parents[1]
SITE = "http://course.test"  # where the pages are, in the browser
ELSEWHERE = "https://elsewhere.test"  # where nothing of them may lead without a click
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)

# --- attacks: HACK is JavaScript that tells of itself, AWAY an address that shouldn't be asked -----

HTML = {
    "script": "<script>HACK</script>",
    "event of a picture": "<img src=x onerror='HACK'>",
    "event of svg": "<svg onload='HACK'></svg>",
    "frame": "<iframe srcdoc='<script>parent.HACK</script>'></iframe>",
    "link to code": "<a href='javascript:HACK'>a</a>",
    "link to code, disguised": "<a href='java&#10;script&colon;HACK'>a</a>",
    "event of details": "<details open ontoggle='HACK'>d</details>",
    "event of a focus": "<input autofocus onfocus='HACK'>",
    "event of a marquee": "<marquee onstart='HACK'>m</marquee>",
    "other page": "<meta http-equiv=refresh content='0;url=AWAY'>",
    "styles of another site": "<style>@import url(AWAY);</style>",
    "sheet of another site": "<link rel=stylesheet href=AWAY>",
    "object": "<object data=AWAY></object>",
    "film": "<video poster=AWAY></video>",
    "picture of another site": "<img src=AWAY>",
    "pictures of another site": "<img srcset='AWAY 1x'>",
    "background": "<p style='background: url(AWAY)'>b</p>",
    "settings by a picture": f"<img src='{SITE}/formgrader?path=AWAY'>",
    "other base": "<base href='AWAY/'><img src=relative>",
    "broken out of math": (
        "<math><mtext><table><mglyph><style><!--</style>"
        "<img title='--&gt;&lt;img src=1 onerror=HACK&gt;'>"
    ),
    "broken out of noscript": "<noscript><p title='</noscript><img src=x onerror=HACK>'></noscript>",
    "broken out of a comment": "<!--><img src=x onerror='HACK'>-->",
    "second reading": "<noscript><style></noscript><img src=x onerror='HACK'></style></noscript>",
}


def shown(data, **metadata):
    """A code cell that displayed something."""
    output = {"output_type": "display_data", "data": data, "metadata": metadata}
    return code("show()", outputs=[output])


def code(source, outputs=(), **changes):
    made = {"cell_type": "code", "metadata": {}, "source": source, "execution_count": 1}
    return made | {"outputs": list(outputs)} | changes


def text(source, kind="markdown", **changes):
    return {"cell_type": kind, "metadata": {}, "source": source} | changes


def graded(**about):
    """The metadata of nbgrader's answer cells."""
    about = {"grade_id": "a", "grade": True, "points": 1, "solution": True, "locked": False} | about
    return {"metadata": {"nbgrader": {"schema_version": 3, "task": False, **about}}}


IMG = "<img src=x onerror='HACK'>"
ATTACKS = {f"output, {name}": shown({"text/html": html}) for name, html in HTML.items()}
ATTACKS |= {f"text, {name}": text(f"A text\n\n{html}") for name, html in HTML.items()}
ATTACKS |= {
    "output, markdown": shown({"text/markdown": IMG}),
    "output, javascript": shown({"application/javascript": "HACK"}),
    "output, frame of its own": shown(
        {"text/html": "<img src=AWAY>"}, **{"text/html": {"isolated": True}}
    ),
    "output, width": shown(
        {"image/png": DOT}, **{"image/png": {"width": "1 onload='HACK'", "height": 1}}
    ),
    "output, file name": shown({"image/png": DOT}, filenames={"image/png": "AWAY"}),
    "text, link to code in markdown": text("[a](javascript:HACK)"),
    "text, picture in markdown": text("![a](AWAY)"),
    "text, heading": text(f"# Heading {IMG}"),
    "raw cell": text(IMG, "raw", metadata={"raw_mimetype": "text/html"}),
    "grade id": text("answer", **graded(grade_id=f"b'\">{IMG}")),
}


def armed(cell, number):
    """A cell whose attack tells of itself by a number."""
    made = json.dumps(cell).replace("HACK", f"hacked({number})")
    return json.loads(made.replace("AWAY", f"{ELSEWHERE}/{number}"))


NOTEBOOK = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}}


def marked(notebook, resources):
    """What nbgrader's GetGrades adds, without a gradebook."""
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader |= {"score": 1, "points": 2, "comment": "**Good.**"}
    return notebook, resources


def page(cells, place, config):
    """The page that nbgrader makes of some cells, by settings, in "formgrader" or as "feedback"."""
    if place == "formgrader":
        own = {"template_name": "formgrade", "extra_template_basedirs": [formgrader.template_path]}
        exporter = HTMLExporter(config=Config(config | {"HTMLExporter": {**config.get("HTMLExporter", {}), **own}}))
        names = ("assignment_id", "notebook_id", "submission_id", "student", "last_name")
        resources = dict.fromkeys(names, "x") | {"base_url": "", "index": 0, "total": 1}
    else:
        converter = GenerateFeedback(coursedir=CourseDirectory(), config=config)
        exporter = converter.exporter_class(parent=converter, config=converter.config)
        for step in converter.preprocessors:
            exporter.register_preprocessor(marked if "GetGrades" in str(step) else step)
        resources = {"nbgrader": {"notebook": "x", "score": 1, "max_score": 2, "late_penalty": 0}}
    notebook = nbformat.from_dict(NOTEBOOK | {"cells": cells})
    return exporter.from_notebook_node(notebook, resources)[0]
