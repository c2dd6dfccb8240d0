"""Build the website of a small course and of this course, once for all tests of the site.

The fixtures `small_site` and `course_site` in conftest.py call `build_small` and `build_course`.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from course_utils.machine import notebooks
from course_utils.machine.notebooks import METADATA
from course_utils.notebook import predict
from tests.cells import code_cell, notebook, printed, shown, text_cell, write_notebook
from workshop.publishing import claims, website
from workshop.publishing import html as html_pages
from workshop.publishing.lecture import is_hidden

ROOT = Path(__file__).resolve().parents[1]
LECTURES = notebooks.lectures(ROOT)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
URLS = '[project]\nname = "course"\n\n[project.urls]\n'
REPOSITORY = 'Repository = "https://github.com/example/course"\n'
STUDENTS = 'Students = "https://github.com/example/students"\n'


# --- a course of one lecture and one exercise -----------------------------------------------------

SLIDER = {"model_name": "IntSliderModel", "state": {"description": "rank", "value": 8}}
WIDGETS = {html_pages.WIDGET_STATE: {"state": {"slider": SLIDER}}}
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://a.test)"
)
PICTURE = f'<img alt="two lines" src="data:image/png;base64,{PNG}">'
LECTURE = [
    text_cell(
        "opening",
        f"# 01 Sums\n\n{BADGE}\n\nIts [exercise](../exercises/01_sums/01_sums.ipynb).\n\n"
        "- **Question:** How many?\n",
    ),
    code_cell("setup", "import the_setup", tags=["hide-input"]),
    text_cell("formula", "So $\\alpha / r$ is a formula.\n\n$$c = \\frac{1}{2}$$"),
    code_cell("sum", "6 * 7", printed("it is\n42\n"), shown(text_plain="42 in all")),
    code_cell("picture", "draw()", shown(text_html=PICTURE)),
    code_cell("table", "of.style", shown(text_html='<table id="T_1a2b3"><td>7</td></table>')),
    code_cell("slider", "slide()", shown(**{html_pages.WIDGET_VIEW: {"model_id": "slider"}})),
    code_cell(
        "answer",
        "secret_answer()",
        shown(text_markdown="**Answer.** It is $6 \\times 7$.", text_plain="<Markdown>"),
        tags=["hide-input"],
    ),
    code_cell("check", "assert secret", tags=["hide-input"]),
    text_cell("more", "## Going deeper: Is it prime?\n\n[A word](../docs/glossary.md#KV-cache)."),
    code_cell("divisors", "find_divisors()", printed("2, 3, 7\n")),
    text_cell("end", "## What you have seen"),
]
CHECK = {"grade": True, "grade_id": "sum-check", "points": 1}
EXERCISE = [
    text_cell(
        "opening",
        "# Exercise 01: Sums\n\nTo its [lecture](../../lectures/01_sums.ipynb).\n\n"
        "- **Takes:** 5 minutes\n",
    ),
    code_cell("setup", "import the_setup", tags=["hide-input"]),
    code_cell("sum", "def add(a, b):\n    raise NotImplementedError()"),
    code_cell("sum-check", "assert add(1, 2) == 3", nbgrader=CHECK),
]
GUIDE = """\
# Guide

[The sum](../lectures/01_sums.ipynb#sum), [its code](../course_utils/memory/__init__.py),
[a result](speed.md#fast), [the exercises](../exercises/README.md),
[below](#more), [away](https://example.org), [Makefile](../Makefile).

## More

`a_name.that_is(much="too long", for_one_line=None).on_a_phone_however_it_may_be_held_and_turned()`

![a dot](images/dot.png) [cache](glossary.md#KV-cache)
"""
INDEX = """\
# The course

```{toctree}
guide
glossary
progress
api
lectures/01_sums
exercises/index
exercises/01_sums/01_sums
speed
```
"""
GLOSSARY = """\
# Glossary

## Terms

### KV cache

A store, of [01](../lectures/01_sums.ipynb#sum).
"""
PAGES = {
    "docs/index.md": INDEX,
    "docs/guide.md": GUIDE,
    "docs/glossary.md": GLOSSARY,
    "docs/api.md": "# API\n\n```{toctree}\napi/memory\napi/machine.files\n```\n",
    "exercises/README.md": "# Exercises\n\n[Sums](01_sums/01_sums.ipynb)\n",
    "docs/progress.md": "# Your progress\n\n```{progress}\n```\n",
    "docs/speed.md": "# Speed\n\n## Fast\n\n100 a second.\n",
    "Makefile": "all:\n",
    "course_utils/memory/__init__.py": "",
    "course_utils/machine/files.py": "",
}


CHOICES = ["all 15", "about 7", "3 & fewer"]
WHY = {"about 7": "Half would be too easy.", "all 15": "Some are never used."}


def displayed(call: Callable[..., None], *arguments: Any, **options: Any) -> nbformat.NotebookNode:
    """Call a function of `predict`, and return the output that an executed notebook contains."""
    outputs: list[dict[str, Any]] = []

    def record(data: dict, *, metadata: dict | None = None, **_: Any) -> None:
        outputs.append({"output_type": "display_data", "data": data, "metadata": metadata or {}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "display", record)
        call(*arguments, **options)
    return nbformat.from_dict(json.loads(json.dumps(outputs[0])))


def predictions() -> list[dict[str, Any]]:
    """Return the outputs of predictions, as `predict`, `reveal` and `tally` display them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_predictions", {})
        return [
            displayed(predict.predict, "levels", "How many `levels` are <used>?", CHOICES),
            displayed(predict.reveal, "levels", "3 & fewer", WHY),
            displayed(predict.predict, "peak", "How much memory?", unit="GB"),
            displayed(predict.reveal, "peak", 5.12),
            displayed(predict.predict, "share", "What share?", {"a third": 33, "2%": 2}, unit="%"),
            displayed(predict.reveal, "share", 1.6),
            displayed(predict.tally, "01"),
        ]


def make_course(folder: Path, urls: str = "", *cells: dict[str, Any]) -> Path:
    """Write a small course, and return its executed lecture, which ends with `cells`."""
    for path, text in PAGES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    (folder / "pyproject.toml").write_text(urls, encoding="utf-8")
    (folder / "docs" / "images").mkdir()
    (folder / "docs" / "images" / "dot.png").write_bytes(base64.b64decode(PNG))
    shutil.copy(ROOT / "docs" / "conf.py", folder / "docs")
    shutil.copytree(ROOT / "docs" / "_static", folder / "docs" / "_static")
    write_notebook(folder / "exercises" / "01_sums" / "01_sums.ipynb", notebook(*EXERCISE))
    lecture = [*LECTURE, *cells]
    bare = [{**cell, "outputs": []} if "outputs" in cell else cell for cell in lecture]
    write_notebook(folder / "lectures" / "01_sums.ipynb", notebook(*bare))
    last_run = folder / "build" / "lectures" / "01_sums.ipynb"
    return write_notebook(last_run, notebook(*lecture, widgets=WIDGETS))


def build_small(folder: Path) -> Path:
    """Build the site of a small course with three predictions, and return the site's folder."""
    cells = []
    for n, output in enumerate(predictions()):
        source = f"predict({n})" if "predict" in output["metadata"][METADATA] else "reveal()"
        cells.append(code_cell(f"cell-{n}", source, output, tags=["hide-input"]))
    last_run = make_course(folder, URLS + REPOSITORY + STUDENTS, *cells)
    (folder / "site").mkdir()
    # These files are from an earlier build of the site.
    for name in ("objects.inv", "old.html"):
        (folder / "site" / name).touch()
    website.build(folder, [last_run], folder / "site")
    return folder / "site"


# --- the course itself ----------------------------------------------------------------------------

WIDE = 'style="max-width: max(100%, 480px)" width="600" viewBox="0 0 9 9"'
DRAWN = f'<svg role="img" aria-label="Before and after" {WIDE}></svg>'


def build_course(folder: Path) -> Path:
    """Build the course's own site from lectures whose only outputs are the quoted texts.

    Hidden cells get an output, because a page leaves them out without one.
    """
    quoted = claims.evidence(ROOT)
    for path in LECTURES:
        content = json.loads(path.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            if is_hidden(cell):
                cell["outputs"].append(printed("An output."))
            for claim in quoted:
                if (claim.lecture, claim.cell) == (path.stem, cell["id"]):
                    cell["outputs"].append(printed(" ".join([*claim.quotes, ""])))
            if cell["id"] == "after-picture":
                # The home page shows this picture.
                cell["outputs"].append(shown(text_html=DRAWN))
        write_notebook(folder / path.name, notebook(*content["cells"]))
    for name in ("docs", "lectures", "exercises", "workshop", "course_utils", "solutions"):
        (folder / name).symlink_to(ROOT / name)
    for path in (path for path in ROOT.iterdir() if path.is_file()):
        (folder / path.name).symlink_to(path)
    website.build(folder, sorted(folder.glob("*_*.ipynb")), folder / "site")
    return folder / "site"
