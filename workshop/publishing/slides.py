"""Turn lectures into slides: reveal.js decks that need only a browser.

The `slideshow` metadata of a cell, which Jupyter defines, determines the cell's place in the deck.
A `slide` begins a topic, a `subslide` continues the topic on a new screen, and a `fragment`
continues the topic on the same screen. A cell marked `skip` is left out, and `notes` are shown only
to the speaker. A key press shows the outputs of a cell after its code, on the next screen if they
don't fit. A question of `predict` gets a screen of its own, and a note for the speaker with the
right answer.
"""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_text
from course_utils.machine.notebooks import METADATA, load_node
from course_utils.machine.validation import CourseError
from course_utils.notebook.guesses import LETTERS, as_html, written
from workshop.publishing.addresses import with_badges
from workshop.publishing.executed import executed
from workshop.publishing.html import freeze_widgets
from workshop.publishing.lecture import deeper, without_hidden_sources
from workshop.publishing.mathml import markdown_to_html

# Width and height of a slide in pixels, before reveal.js scales the slide to the screen.
SIZE = (1280, 720)
# Number of lines of code and plain output that fit on a slide below its title.
LINES = 23
# Number of lines and columns of code that fit on a slide in the larger type.
LARGE = (16, 79)
# The heights of a picture and of a table row, in lines of code.
HEIGHTS = {"<img": 20, '<svg role="img"': 20, "<tr": 2}
# The files of reveal.js that a deck needs.
REVEAL = ("LICENSE", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js")


def build(folder: Path, output: Path, only: str | None = None, *, run: bool = True) -> list[Path]:
    """Write lectures as decks, and return the paths of the decks' HTML pages.

    The folder `output` gets a page for each deck, an index.html with links to all its decks, and
    reveal.js in the subfolder reveal/.

    Raises:
        CourseError: a lecture can't be executed, has no usable last run or shows no cells, or a
            package is missing.
    """
    reveal = _reveal_folder()
    notebooks = executed(folder, only, run=run)
    for name in REVEAL:
        write_text(output / "reveal" / name, (reveal / name).read_text(encoding="utf-8"))
    pages = [_write_deck(path, output) for path in notebooks]
    write_text(output / "index.html", _index(output))
    return pages


def _reveal_folder() -> Path:
    """Return the folder of reveal.js in the package sphinx_revealjs, which is not imported."""
    spec = find_spec("sphinx_revealjs")
    # An uninstalled package may leave an empty folder, which has a spec without an origin.
    if spec is None or spec.origin is None:
        raise CourseError("sphinx_revealjs is missing: run `make slides`, which installs it")
    return Path(spec.origin).parent / "_static" / "revealjs"


def _write_deck(path: Path, output: Path) -> Path:
    page = output / f"{path.stem}.html"
    try:
        write_text(page, to_deck(load_node(path)))
    # A notebook without shown cells raises ValueError.
    except ValueError as error:
        raise CourseError(f"{path.stem} can't be converted to slides: {error}") from error
    return page


def _index(output: Path) -> str:
    """Return a page that lists the decks in `output` by their titles."""
    items = []
    for page in sorted(output.glob("[0-9][0-9]_*.html")):
        match = re.search(r"<title>(.*)</title>", page.read_text(encoding="utf-8"))
        title = match[1] if match else page.stem
        items.append(f'<li><a href="{page.name}">{title}</a></li>')
    return _data("slides-index.html").replace("DECKS", "\n".join(items))


def _data(name: str) -> str:
    return (files("workshop.publishing") / "data" / name).read_text(encoding="utf-8")


# --- one deck -------------------------------------------------------------------------------------


def to_deck(notebook: Any) -> str:
    """Return an executed notebook as the HTML page of a deck, which contains its pictures."""
    from jinja2 import DictLoader
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    notebook = laid_out(freeze_widgets(notebook))
    exporter = SlidesExporter(
        extra_loaders=[DictLoader({"slides.html.j2": _data("slides.html.j2")})],
        template_file="slides.html.j2",
        filters={"markdown2html": partial(markdown_to_html, local_links=False)},
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        config=Config(CSSHTMLHeaderPreprocessor={"style": "xcode"}),
    )
    title = html.escape(next(_headings(notebook.cells), "Slides"), quote=False)
    deck = {"title": title, "style": _data("slides.css"), "width": SIZE[0], "height": SIZE[1]}
    page, _ = exporter.from_notebook_node(notebook, resources={"deck": deck})
    return page


# --- the screens of a deck ------------------------------------------------------------------------


def laid_out(notebook: Any) -> Any:
    """Return a copy of a notebook in which the cells are arranged as a deck shows them.

    Skipped cells, outputs on stderr and hidden sources are left out. The *Going deeper* sections
    are moved to the end of the deck, so that a talk can end before them. Outputs that don't fit
    below their code become cells of their own, which are subslides. A note with the right answer
    follows the question of a prediction. Notes are moved before the fragments of their screen, so
    that the notes are not part of a fragment.

    The metadata of the first cell of a screen gets two entries. `topic` is the heading for a screen
    that does not begin with a heading. `large` is True if the content of the screen fits in the
    larger type.
    """
    from nbformat import from_dict

    notebook = copy.deepcopy(notebook)
    notebook.cells[0].source = with_badges(notebook.cells[0].source, "")
    # The core path is first, because False is sorted before True.
    order = sorted(zip(deeper(notebook.cells), range(len(notebook.cells)), strict=True))
    cells = [notebook.cells[number] for _, number in order]
    shown = [_without_stderr(cell) for cell in cells if _slide_type(cell) != "skip"]
    shown = [from_dict(cell) for cell in without_hidden_sources(shown)]
    notebook.cells = [part for cell in _polls(shown) for part in _split(cell)]
    screens, topic = _screens(notebook.cells), ""
    for screen in screens:
        screen[1:] = sorted(screen[1:], key=lambda cell: _slide_type(cell) != "notes")
        headings = list(_headings(screen))
        if screen[0].cell_type == "code" or not screen[0].source.startswith("#"):
            screen[0].metadata["topic"] = topic
        screen[0].metadata["large"] = _can_be_large(screen)
        topic = headings[-1] if headings else topic
    notebook.cells = [cell for screen in screens for cell in screen]
    return notebook


def _polls(cells: list[Any]) -> Iterator[Any]:
    """Yield the cells, with a note for the speaker after each question of `predict`."""
    from nbformat.v4 import new_markdown_cell

    asked, answers = (
        {form["key"]: form for cell in cells for form, _ in _forms(cell, name)}
        for name in ("predict", "reveal")
    )
    for cell in cells:
        for form, output in _forms(cell, "reveal"):
            answer = as_html(_answer(form, asked.get(form["key"])))
            output.data["text/html"] = f'<p class="revealed">{answer}</p>'
            _begin_at_least(cell, "fragment")
        yield cell
        for form, _ in _forms(cell, "predict"):
            _begin_at_least(cell, "subslide")
            note = {"slideshow": {"slide_type": "notes"}}
            text = _poll(form, answers.get(form["key"]))
            yield new_markdown_cell(text, id=f"{cell.id}-poll", metadata=note)


def _forms(cell: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """Yield each output of `predict` or `reveal` in a cell, after what its metadata contain."""
    for output in cell.get("outputs", []):
        if form := output.get("metadata", {}).get(METADATA, {}).get(name):
            yield form, output


def _begin_at_least(cell: Any, kind: str) -> None:
    if _slide_type(cell) not in ("slide", "subslide"):
        cell.metadata["slideshow"] = {"slide_type": kind}


def _poll(question: Any, answer: Any) -> str:
    """Return the speaker's note about a question: the choices, the answer and the reasons.

    The note is HTML, because all texts of a question are plain text and not Markdown.
    """
    lettered = list(zip(LETTERS, question["choices"], strict=False))
    unit = f" in {question['unit']}" if question["unit"] else ""
    choices = " · ".join(f"{letter}: {choice}" for letter, choice in lettered)
    lines = [f"Poll: {question['question']}", choices or f"The guess is a number{unit}."]
    if answer:
        lines.append(_answer(answer, question))
        why = ((letter, answer["why"].get(choice)) for letter, choice in lettered)
        lines += [f"{letter}: {reason}" for letter, reason in why if reason]
    return "\n\n".join(f"<p>{as_html(line)}</p>" for line in lines)


def _answer(form: Any, question: Any) -> str:
    """Return the sentence with the answer, with the letter of the right choice."""
    right = form["right"]
    if right is None or question is None:
        return form["answer"]
    letter = LETTERS[question["choices"].index(right)]
    return form["answer"].replace(written(right), f"{letter} ({written(right)})")


def _screens(cells: list[Any]) -> list[list[Any]]:
    screens: list[list[Any]] = []
    for cell in cells:
        if not screens or _slide_type(cell) in ("slide", "subslide"):
            screens.append([])
        screens[-1].append(cell)
    return screens


def _slide_type(cell: Any) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def _headings(cells: list[Any]) -> Iterator[str]:
    for cell in cells:
        if cell.cell_type == "markdown":
            yield from re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)


def _without_stderr(cell: Any) -> Any:
    if cell.cell_type == "code":
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return cell


def _split(cell: Any) -> Iterator[Any]:
    """Yield the cell, or its code and its outputs separately if they don't fit on one screen."""
    code = cell.source.splitlines() if cell.cell_type == "code" else []
    outputs = cell.get("outputs", [])
    if not code or not outputs or len(code) + sum(map(_height, outputs)) <= LINES:
        yield cell
        return
    for number, part_of_outputs in enumerate([[], *_screenfuls(outputs)]):
        part = copy.deepcopy(cell)
        part.outputs = part_of_outputs
        if number:
            part.id, part.source = f"{cell.id}-outputs-{number}", ""
            part.metadata["slideshow"] = {"slide_type": "subslide"}
        yield part


def _screenfuls(outputs: list[Any]) -> list[list[Any]]:
    """Distribute outputs over as few screens as possible, in order."""
    screens: list[list[Any]] = []
    for output in outputs:
        if not screens or sum(map(_height, [*screens[-1], output])) > LINES:
            screens.append([])
        screens[-1].append(output)
    return screens


def _height(output: Any) -> int:
    """Return an estimate of the height of an output, in lines of code."""
    page = output.get("data", {}).get("text/html", "")
    pictures_and_rows = sum(height * page.count(part) for part, height in HEIGHTS.items())
    return pictures_and_rows + len(_text(output).splitlines())


def _text(output: Any) -> str:
    """Return the plain text of an output; "" if the output also has another form, such as HTML."""
    data = output.get("data", {})
    return output.get("text", "") or (data.get("text/plain", "") if len(data) == 1 else "")


def _can_be_large(screen: list[Any]) -> bool:
    """Return whether the code, the texts and the outputs of a screen fit in the larger type."""
    outputs = [output for cell in screen for output in cell.get("outputs", [])]
    texts = [cell.source for cell in screen] + [_text(output) for output in outputs]
    height = sum(len(cell.source.splitlines()) for cell in screen) + sum(map(_height, outputs))
    columns = max(len(line) for text in texts for line in [*text.splitlines(), ""])
    return height <= LARGE[0] and columns <= LARGE[1]
