"""Test slides: the screens of a deck, its HTML page, and whether each slide fits the screen."""

import re
from importlib.machinery import ModuleSpec

import nbformat
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.figures import Picture
from course_utils.machine.validation import CourseError
from course_utils.notebook import predict
from tests.cells import LECTURES
from tests.sites import displayed
from workshop.cli import main
from workshop.publishing import slides
from workshop.publishing.html import freeze_widgets

# The tests with a browser share one Chromium.
pytestmark = pytest.mark.xdist_group("browser-slides")


def text(source, kind="slide", name=None):
    metadata = {"slideshow": {"slide_type": kind}} if kind else {}
    return new_markdown_cell(source, id=name or kind, metadata=metadata)


def code(source, *outputs, kind="subslide", name="code", tags=()):
    metadata = {"slideshow": {"slide_type": kind}, "tags": list(tags)}
    return new_code_cell(source, id=name, metadata=metadata, outputs=list(outputs))


def printed(lines, name="stdout"):
    return new_output("stream", name=name, text=lines)


def result(page):
    return new_output("execute_result", {"text/html": page, "text/plain": "<Result>"})


def notebook(*cells):
    return new_notebook(cells=list(cells))


# A PNG of 1 × 1 pixel.
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5"
    "ErkJggg=="
)
PICTURE = f'<img alt="A dot" src="data:image/png;base64,{PIXEL}">'
FIGURE = Picture(Figure((6, 3)), "A figure")._repr_html_()


# --- the screens of a deck ---


def shown(*cells):
    """Return the slide type, source and number of outputs of each shown cell."""
    laid_out = slides.laid_out(notebook(text("# Title", name="title"), *cells)).cells[1:]
    return [
        (cell.metadata.slideshow["slide_type"], cell.source, len(cell.get("outputs", [])))
        for cell in laid_out
    ]


def test_skipped_cells_and_stderr_are_left_out():
    cells = [text("to read", "skip"), code("setup()", printed("x\n"), kind="skip", name="setup")]
    noisy = code("work()", printed("10%\n", "stderr"), printed("done\n"))
    assert shown(*cells, noisy) == [("subslide", "work()", 1)]


@pytest.mark.parametrize(
    ("lines", "output", "together"),
    [
        (3, result(PICTURE), True),
        (4, result(PICTURE), False),
        (3, result(FIGURE), True),
        (4, result(FIGURE), False),
        (15, printed("line\n" * 8), True),
        (15, printed("line\n" * 9), False),
        (15, result("<table>" + "<tr>" * 4), True),
        (15, result("<table>" + "<tr>" * 5), False),
        (30, printed("", "stderr"), True),
    ],
)
def test_outputs_that_do_not_fit_below_the_code_get_another_screen(lines, output, together):
    source = "\n".join(["step()"] * lines)
    outputs = 0 if output.get("name") == "stderr" else 1
    if together:
        assert shown(code(source, output)) == [("subslide", source, outputs)]
    else:
        assert shown(code(source, output)) == [("subslide", source, 0), ("subslide", "", outputs)]


HIDDEN = ("hide-input",)


def test_outputs_of_hidden_cells_have_the_place_of_their_cell():
    markdown = {"text/markdown": "**Answer.** It is $a_1$.", "text/plain": "<Markdown>"}
    answer = new_output("display_data", markdown)
    cells = [
        code("predict()", result("<p>Your prediction</p>"), name="guess", tags=HIDDEN),
        code("compute()", printed("6"), name="compute"),
        code("answer()", answer, kind="fragment", name="answer", tags=HIDDEN),
        code("assert True", kind="subslide", name="check", tags=HIDDEN),
        code("noise()", printed("10%", "stderr"), name="noise", tags=HIDDEN),
        text("Because.", "fragment"),
    ]
    assert shown(*cells) == [
        ("subslide", "", 1),
        ("subslide", "compute()", 1),
        ("fragment", "", 1),
        ("fragment", "Because.", 0),
    ]
    page = slides.to_deck(notebook(text("# Title", name="title"), *cells))
    assert "<strong>Answer.</strong> It is <math" in page and "assert True" not in page
    # The three fragments are the output of `compute`, the answer, and its reason.
    assert page.count('<div class="fragment">') == 3


def test_sections_that_go_deeper_follow_the_end_of_the_lecture():
    cells = [
        text("## One?", name="one"),
        text("## Going deeper: Two?", name="two"),
        code("deep()", name="deep"),
        text("## What you have seen", name="end"),
    ]
    assert [source for _, source, _ in shown(*cells)] == [
        *("## One?", "## What you have seen", "## Going deeper: Two?", "deep()"),
    ]


def test_outputs_too_high_for_one_screen_are_split_over_several():
    table = result("<table>" + 8 * "<tr></tr>" + "</table>")
    cells = slides.laid_out(
        notebook(text("# Title"), code("x", table, table, printed("end")))
    ).cells
    assert [cell.id for cell in cells[1:]] == ["code", "code-outputs-1", "code-outputs-2"]
    assert [cell.source for cell in cells[1:]] == ["x", "", ""]
    assert [len(cell.outputs) for cell in cells[1:]] == [0, 1, 2]


# --- predictions ---

CHOICES = ["all 15", "about 7", "`3` & fewer"]


@pytest.fixture
def predictions(monkeypatch):
    """Return a lecture with three predictions and their answers, whose code is hidden."""
    monkeypatch.setattr(predict, "_predictions", {})

    def cell(name, kind, call, *arguments, **options):
        return code("", displayed(call, *arguments, **options), kind=kind, name=name)

    why = {"`3` & fewer": "Not that few.", "all 15": "The outlier sets the scale."}
    numbers = {"a third": 33, "2%": 2}
    return notebook(
        text("# 01 Title", name="title"),
        text("## How many?", name="many"),
        cell("ask", "-", predict.predict, "levels", "How many < 15?", CHOICES),
        code("levels()", printed("7\n"), name="count"),
        cell("compare", "-", predict.reveal, "levels", "about 7", why),
        text("## How large?", name="large"),
        cell("size", "slide", predict.predict, "size", "How large?", unit="GB"),
        cell("share", "fragment", predict.predict, "share", "Which?", numbers, unit="%"),
        code("measure()", printed("14.2\n"), name="measure"),
        cell("size-is", "subslide", predict.reveal, "size", 14.2),
        cell("share-is", "fragment", predict.reveal, "share", 1.6),
        cell("skipped", "skip", predict.predict, "skipped", "Is this shown?", CHOICES),
    )


def test_a_question_begins_a_screen_and_its_answer_is_a_fragment(predictions):
    cells = slides.laid_out(freeze_widgets(predictions)).cells
    assert {cell.id: cell.metadata.slideshow["slide_type"] for cell in cells} == {
        **{"title": "slide", "many": "slide", "ask": "subslide", "ask-poll": "notes"},
        **{"count": "subslide", "compare": "fragment", "large": "slide", "size": "slide"},
        **{"size-poll": "notes", "share": "subslide", "share-poll": "notes"},
        **{"measure": "subslide", "size-is": "subslide", "share-is": "fragment"},
    }


def test_the_deck_shows_lettered_choices_and_the_letter_of_the_answer(predictions):
    page = slides.to_deck(predictions)
    assert re.search('<ol [^>]*type="A"', page) and "<li><code>3</code> &amp; fewer</li>" in page
    assert "<p class=\"revealed\">The answer is B ('about 7').</p>" in page
    assert "<details" not in page and "Is this shown?" not in page
    note = re.search('<aside class="notes">(.*?)</aside>', page, re.DOTALL)[1]
    assert "The answer is B" in note and "A: The outlier sets the scale." in note


def test_texts_of_a_question_are_plain_text_in_the_note_of_the_speaker(monkeypatch):
    monkeypatch.setattr(predict, "_predictions", {})
    texts = "Is $a < b$ or **c**?", ["$2", "$3 <b and y>", "*no* <script>alert()</script>"]
    asked = displayed(predict.predict, "key", *texts)
    page = slides.to_deck(notebook(text("# Title", name="title"), code("", asked, name="ask")))
    note = re.search('<aside class="notes">(.*?)</aside>', page, re.DOTALL)[1]
    assert "<p>Poll: Is $a &lt; b$ or **c**?</p>" in note
    assert "A: $2 · B: $3 &lt;b and y&gt; · C: *no* &lt;script&gt;alert()&lt;/script&gt;" in note


# --- the page of a deck ---

BADGES = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://x.org)"
)


def lecture():
    """Return a lecture with every kind of content that a slide can have."""
    rows = "".join(f"<tr><th>row {n}</th><td>{n} GB</td></tr>" for n in range(16))
    return notebook(
        text(f"# 01 Sums & products\n\n{BADGES}\n\n- **Question:** What is $a_1^2$?", name="title"),
        code("# Does nothing", kind="skip", name="setup"),
        text("## Why?\n\nSee [this](../x.ipynb#y), [more](https://example.org).", name="why"),
        code("print('a < b')", printed("a < b\n"), name="less"),
        text("Because `$HOME$`.\n\n$$\\frac{a}{b}$$", "fragment", name="because"),
        text("Say this, slowly.", "notes"),
        code("x = 1\n" * 15, result(PICTURE), name="picture"),
        code("x", result(f"<table><tbody>{rows}</tbody></table>"), name="table"),
        code("y = '" + "x" * 93 + "'\n" * 15, printed("z" * 300), name="wide"),
    )


def sections(page):
    return re.findall(r'<section id="([^"]+)">', page)


def test_a_deck_has_all_content_and_needs_no_network_and_no_other_files_than_reveal():
    page = slides.to_deck(lecture())
    assert "<title>01 Sums &amp; products</title>" in page
    addresses = re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page)
    assert addresses == [
        "reveal/dist/reveal.css",
        "https://example.org",
        "reveal/dist/reveal.js",
        "reveal/plugin/notes/notes.js",
    ]
    assert not re.search(r"@import|url\((?!data:)|//cdn|\brequire\(", page)
    assert "<p>See this, <a " in page, "links to files become text"
    # The formulas, the notes and the code.
    assert '<math display="inline" xmlns="http://www.w3.org/1998/Math/MathML">' in page
    assert '<math display="block" xmlns="http://www.w3.org/1998/Math/MathML">' in page
    assert "<code>$HOME$</code>" in page, "code is not a formula"
    assert '<aside class="notes">' in page
    assert "a &lt; b" in page
    assert "In\xa0[" not in page and "Out[" not in page


def test_the_command_writes_decks_reveal_and_an_index_to_a_folder(tmp_path, monkeypatch):
    content = notebook(text("# 01 Sums & products", name="title"), code("1 + 1"))
    content.cells[1].execution_count = 1
    for place in (tmp_path / "lectures", tmp_path / "build" / "lectures"):
        place.mkdir(parents=True)
        nbformat.write(content, place / "01_sums.ipynb")
    (tmp_path / "course_utils").mkdir()
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "there"
    output.mkdir()
    (output / "00_before.html").write_text("<title>00 Before</title>")
    done = CliRunner().invoke(main, ["slides", "--no-run", "--only", "1", "--output", str(output)])
    pages = [str(output / name) for name in ("01_sums.html", "index.html")]
    assert (done.exit_code, done.output.split()) == (0, pages)
    assert {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} == {
        *("00_before.html", "01_sums.html", "index.html"),
        *(f"reveal/{name}" for name in slides.REVEAL),
    }
    licence = (output / "reveal" / "LICENSE").read_text(encoding="utf-8")
    assert "Permission is hereby granted, free of charge" in licence
    index = (output / "index.html").read_text(encoding="utf-8")
    assert '<li><a href="00_before.html">00 Before</a></li>' in index
    assert '<li><a href="01_sums.html">01 Sums &amp; products</a></li>' in index
    done = CliRunner().invoke(main, ["slides", "--no-run"])
    assert (done.exit_code, (tmp_path / "build" / "slides" / "01_sums.html").is_file()) == (0, True)


@pytest.mark.parametrize("spec", [None, ModuleSpec("sphinx_revealjs", None)])
def test_a_missing_package_is_named_before_lectures_run(tmp_path, monkeypatch, spec):
    """A folder that an uninstalled package left behind has a spec without an origin."""
    monkeypatch.setattr(slides, "find_spec", lambda name: spec)
    with pytest.raises(CourseError, match=r"^sphinx_revealjs is missing: run `make slides`"):
        slides.build(tmp_path, tmp_path / "slides")


# --- in a browser ---


@pytest.fixture
def projector(browser):
    """Open a page of 1280 × 720 pixels. A request to a server and a console message are errors."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page, errors = context.new_page(), []
    # Pages may load only local files.
    context.on("request", lambda r: errors.append(r.url) if re.match("https?:", r.url) else None)
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


# For each slide with all its fragments, this function returns the slide's id and its problems.
MEASURE = """() => {
  const measure = (slide) => {
    const screen = slide.querySelector('.screen'), problems = [];
    const name = (e) => e.tagName.toLowerCase();
    if (screen.scrollHeight > screen.clientHeight)
      problems.push(`${screen.scrollHeight - screen.clientHeight} px too high`);
    for (const e of screen.querySelectorAll('*:not(.notes, .notes *, svg *)')) {
      const box = e.getBoundingClientRect();
      if (!box.width || !box.height) continue;
      if (box.left < 0 || box.right > 1280 || box.top < 0 || box.bottom > 720)
        problems.push(`${name(e)} leaves the screen`);
      const inline = getComputedStyle(e).display == 'inline';
      if (!inline && e.clientWidth && e.scrollWidth > e.clientWidth + 1)
        problems.push(`${name(e)} is ${e.scrollWidth - e.clientWidth} px too wide`);
    }
    return [slide.id, problems];
  };
  return Reveal.getSlides().map(slide => {
    const at = Reveal.getIndices(slide);
    Reveal.slide(at.h, at.v, 99);
    return measure(slide);
  });
}"""


def measure(page, address):
    """Return a dict from the id of each slide of the deck at an address to its problems."""
    page.goto(address)
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    assert page.evaluate("Reveal.getScale()") == 1
    return dict(page.evaluate(MEASURE))


def deck(folder, content, name="01_sums"):
    """Write a deck and reveal.js to a folder, and return the address of the deck."""
    (folder / "lectures").mkdir(exist_ok=True)
    for part in slides.REVEAL:
        place = folder / "reveal" / part
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((slides._reveal_folder() / part).read_bytes())
    (folder / f"{name}.html").write_text(slides.to_deck(content), encoding="utf-8")
    return (folder / f"{name}.html").as_uri()


@pytest.mark.full
def test_every_slide_fits_the_screen(projector, tmp_path):
    measured = measure(projector, deck(tmp_path, lecture()))
    assert len(measured) == 8 and not any(measured.values()), measured


@pytest.mark.full
def test_a_key_press_shows_outputs_after_code(projector, tmp_path):
    from playwright.sync_api import expect

    projector.goto(deck(tmp_path, lecture()) + "#/less")
    output = projector.locator("#less pre", has_text=re.compile(r"^a < b"))
    explanation = projector.locator("#less p", has_text="Because")
    for visible in ((False, False), (True, False), (True, True)):
        expect(output).to_be_visible(visible=visible[0])
        expect(explanation).to_be_visible(visible=visible[1])
        projector.keyboard.press("Space")
    expect(projector.locator("#picture")).to_be_visible()
    expect(projector.locator(".slide-number")).to_have_text(re.compile(r"^\s*4\s*/\s*8\s*$"))


@pytest.mark.full
def test_notes_are_shown_only_to_the_speaker(projector, tmp_path):
    projector.goto(deck(tmp_path, lecture()) + "#/less")
    projector.wait_for_function("window.Reveal && Reveal.isReady()")
    assert "slowly" not in projector.locator(".reveal").inner_text()
    with projector.context.expect_page() as opened:
        projector.keyboard.press("s")
    notes = opened.value.locator(".speaker-controls-notes .value")
    notes.get_by_text("Say this, slowly.").wait_for()


# The full tier has the longest lecture.
TIERS = [
    pytest.param(
        path,
        marks=pytest.mark.full if path.stem.startswith("07") else pytest.mark.slow,
        id=path.stem,
    )
    for path in LECTURES
]


@pytest.mark.parametrize("path", TIERS)
def test_text_and_code_of_the_lectures_fit(projector, tmp_path, path):
    """The lectures in git have no outputs."""
    content = nbformat.read(path, as_version=4)
    assert not any(measure(projector, deck(tmp_path, content, path.stem)).values())
