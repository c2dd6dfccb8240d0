"""Lectures as slides: reveal.js decks in one folder, which need nothing but a browser.

Cells carry `slideshow` metadata, as Jupyter defines it: a `slide` begins a topic, a `subslide` goes
on with it on a new screen, a `fragment` on the same one; `skip` leaves a cell out, `notes` shows it
to the speaker alone. What a cell put out appears after its code, at the next press of a key: on the
same screen where both fit, else on the next.
"""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from course_utils.files import write_text
from course_utils.notebooks import load_node
from course_utils.publishing.addresses import with_badges
from course_utils.publishing.executed import executed
from course_utils.publishing.html import freeze_widgets
from course_utils.publishing.mathml import to_mathml
from course_utils.validation import CourseError

SIZE = (1280, 720)  # of a slide, in pixels before reveal.js scales it to the screen
LINES = 23  # of code and plain output that fit on a slide below its title
COLUMNS = 100  # characters in such a line; longer ones are wrapped
LARGE = (16, 79)  # lines and columns that fit where the type is larger
TEXT = 50  # characters of running text that are as high as a line of code
ROW = 80  # characters of a row of a table that are one line more
# Of what HTML holds: a picture, a row of a table, of controls, of text.
HEIGHTS = {"<img": 20, "<tr": 2, "flex-direction:row": 2, "<br": 2}  # in such lines
REVEAL = ("LICENSE", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js")


def build(folder: Path, output: Path, only: str | None = None, *, run: bool = True) -> list[Path]:
    """Write the lectures in `folder`, or the one `only` names, as decks; returns their pages.

    run: execute them first, else take their last run, as `executed` does. `output` gets NAME.html
    for each deck, an index.html of all decks there, and the folder reveal with reveal.js.
    Raises CourseError as `executed` does, where a package is missing, and for a broken formula.
    """
    reveal = _reveal_folder()
    notebooks = executed(folder, only, run=run)
    for name in REVEAL:
        write_text(output / "reveal" / name, (reveal / name).read_text(encoding="utf-8"))
    pages = [_write_deck(path, output) for path in notebooks]
    write_text(output / "index.html", _index(output))
    return pages


def _reveal_folder() -> Path:
    """Where reveal.js lies in the package that carries it; no code of that package is run."""
    found = {name: find_spec(name) for name in ("nbconvert", "latex2mathml", "sphinx_revealjs")}
    if missing := [name for name, spec in found.items() if spec is None]:
        raise CourseError(f"{missing[0]} is missing: run `make slides`, which installs it")
    return Path(found["sphinx_revealjs"].origin).parent / "_static" / "revealjs"


def _write_deck(path: Path, output: Path) -> Path:
    page = output / f"{path.stem}.html"
    try:
        write_text(page, to_deck(load_node(path)))
    except ValueError as fault:  # a formula that can't be shown, or no cell that is
        raise CourseError(f"{path.stem} can't be made into slides: {fault}") from fault
    return page


def _index(output: Path) -> str:
    """A page that lists the decks in `output` by their titles."""
    items = []
    for page in sorted(output.glob("[0-9][0-9]_*.html")):
        title = re.search(r"<title>(.*)</title>", page.read_text(encoding="utf-8"))[1]
        items.append(f'<li><a href="{page.name}">{title}</a></li>')
    return _data("slides-index.html").replace("DECKS", "\n".join(items))


def _data(name: str) -> str:
    return (files("course_utils") / "data" / name).read_text(encoding="utf-8")


# --- one deck -------------------------------------------------------------------------------------


def to_deck(notebook: Any) -> str:
    """An executed notebook as the page of a deck, with its pictures; reveal.js lies beside it."""
    from jinja2 import DictLoader
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    notebook = laid_out(freeze_widgets(notebook))
    exporter = SlidesExporter(
        extra_loaders=[DictLoader({"slides.html.j2": _data("slides.html.j2")})],
        template_file="slides.html.j2",
        filters={"markdown2html": _markdown},
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        config=Config(CSSHTMLHeaderPreprocessor={"style": "xcode"}),
    )
    title = html.escape(next(_headings(notebook.cells), "Slides"), quote=False)
    own = {"title": title, "style": _data("slides.css"), "width": SIZE[0], "height": SIZE[1]}
    page, _ = exporter.from_notebook_node(notebook, resources={"deck": own})
    return page


def _markdown(source: str) -> str:
    """Markdown as HTML: formulas are elements; links to files of the course are plain text."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return to_mathml(body)

        def block_math(self, body: str) -> str:
            return to_mathml(body, display=True)

        def link(self, text: str, url: str, title: str | None = None) -> str:
            return super().link(text, url, title) if "://" in url else text

    renderer = Renderer(escape=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)


# --- what stands on a slide -----------------------------------------------------------------------


def laid_out(notebook: Any) -> Any:
    """A copy with the cells as they are shown: without what is skipped or went to stderr.

    Outputs that don't fit below their code become cells of their own, each a subslide. Notes come
    before the fragments of their screen, so they are not part of one. The first cell of a screen
    says in its metadata what is written above it (`topic`: the heading of the slide, where it has
    none itself), and whether its type can be `large`.
    """
    notebook = copy.deepcopy(notebook)
    notebook.cells[0].source = with_badges(notebook.cells[0].source, "")
    shown = [cell for cell in notebook.cells if _kind(cell) != "skip"]
    notebook.cells = [part for cell in shown for part in _parts(cell)]
    screens, topic = _screens(notebook.cells), ""
    for screen in screens:
        screen[1:] = sorted(screen[1:], key=lambda cell: _kind(cell) != "notes")
        headings = list(_headings(screen))
        if screen[0].cell_type == "code" or not screen[0].source.startswith("#"):
            screen[0].metadata["topic"] = topic
        screen[0].metadata["large"] = _can_be_large(screen)
        topic = headings[-1] if headings else topic
    notebook.cells = [cell for screen in screens for cell in screen]
    return notebook


def _screens(cells: list[Any]) -> list[list[Any]]:
    """The cells that stand on one screen each."""
    screens: list[list[Any]] = []
    for cell in cells:
        if not screens or _kind(cell) in ("slide", "subslide"):
            screens.append([])
        screens[-1].append(cell)
    return screens


def _kind(cell: Any) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def _headings(cells: list[Any]) -> Iterator[str]:
    for cell in cells:
        if cell.cell_type == "markdown":
            yield from re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)


def _parts(cell: Any) -> Iterator[Any]:
    """The cell, or its code and its outputs apart where they don't fit together."""
    if cell.cell_type == "code":
        shown = [output for output in cell.outputs if output.get("name") != "stderr"]
        cell.outputs = [part for output in shown for part in _tables(output)]
    if cell.cell_type != "code" or not cell.outputs or _height(cell) <= LINES:
        yield cell
        return
    for number, outputs in enumerate([[], *_screenfuls(cell.outputs)]):
        part = copy.deepcopy(cell)
        part.outputs = outputs
        if number:
            part.id, part.source = f"{cell.id}-outputs-{number}", ""
            part.metadata["slideshow"] = {"slide_type": "subslide"}
        yield part


def _tables(output: Any) -> Iterator[Any]:
    """An output, or each of the tables that it consists of."""
    page = output.get("data", {}).get("text/html", "")
    tables = re.split(r"(?<=</table>)\s*(?=<table)", page) if page.startswith("<table") else [page]
    for table in tables:
        part = copy.deepcopy(output)
        if len(tables) > 1:
            part.data = {"text/html": table}
        yield part


def _screenfuls(outputs: list[Any]) -> list[list[Any]]:
    screens: list[list[Any]] = []
    room = 0
    for output in outputs:
        if not screens or _output_height(output) > room:
            screens.append([])
            room = LINES
        screens[-1].append(output)
        room -= _output_height(output)
    return screens


def _height(cell: Any) -> int:
    """How many lines of code a cell is as high as, about, with its outputs."""
    if cell.cell_type != "code":
        return sum(1 + len(line) // TEXT for line in cell.source.splitlines())
    return len(cell.source.splitlines()) + sum(map(_output_height, cell.outputs))


def _output_height(output: Any) -> int:
    page = output.get("data", {}).get("text/html", "")
    rows = [re.sub("<[^>]*>", "", row) for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL)]
    lines = sum(height * page.count(part) for part, height in HEIGHTS.items())
    lines += sum(len(row) // ROW for row in rows)
    return lines + sum(1 + (len(line) - 1) // COLUMNS for line in _text(output).splitlines())


def _text(output: Any) -> str:
    """What an output shows as plain text; "" where it shows something better."""
    data = output.get("data", {})
    return output.get("text", "") or (data.get("text/plain", "") if len(data) == 1 else "")


def _can_be_large(screen: list[Any]) -> bool:
    """Whether code and plain outputs of a screen have room in larger type."""
    code = [cell for cell in screen if cell.cell_type == "code"]
    texts = [text for cell in code for text in (cell.source, *map(_text, cell.outputs))]
    columns = max((len(line) for text in texts for line in text.splitlines()), default=0)
    return sum(map(_height, screen)) <= LARGE[0] and columns <= LARGE[1]
