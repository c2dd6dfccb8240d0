"""Each lecture from its first cell to its last in JupyterLab and Notebook 7, and in Voila.

It is run by the menu, as a reader does it; in Voila it runs by itself. Afterwards axe looks at what
the lecture shows and at the front end around it, whose own faults, and those of other libraries,
stand in axe_known.json: rule → a selector of the elements that break it. It may only get shorter.
"""

import json
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from playwright.sync_api import expect

from course_utils import notebooks
from tests.browser import FRONT_ENDS, Explorer, Opened, Server
from tests.test_browser import FIRST, MOVES

ROOT = Path(__file__).resolve().parents[1]
LECTURES = notebooks.lectures(ROOT)
KNOWN = json.loads((ROOT / "tests/axe_known.json").read_text())
WINDOW = {"width": 1280, "height": 1500}  # pixels
HOUR = 3600  # s: lecture 07 takes minutes, on a busy machine many
OUTPUTS = ".jp-OutputArea-output"


def has_explorer(lecture):
    text = lecture.read_text(encoding="utf-8")
    return any(f"{name}()" in text for name in FIRST)


# Front end, lecture. Lists of cases begin alike: so pytest opens each once, for all of its tests.
QUICK = [("jupyterlab", "00"), ("notebook7", "00")]
WITH_CONTROLS = [path.stem[:2] for path in LECTURES if has_explorer(path)]
WITHOUT = [path.stem[:2] for path in LECTURES if path.stem[:2] not in ("00", *WITH_CONTROLS)]
CONTROLS = [*QUICK, ("voila", "00")]
CONTROLS += [(kind, number) for kind in FRONT_ENDS for number in WITH_CONTROLS]
CASES = [*CONTROLS, *((kind, number) for kind in FRONT_ENDS for number in WITHOUT)]
OTHERS = {"02": "pandas", "00": "ipywidgets"}  # whose known faults a lecture shows


@pytest.fixture(scope="module")
def whole(request, browser, tmp_path_factory):
    """Front end, lecture, what is open there once all cells have run; closed before the next."""
    kind, number = request.param
    (lecture,) = [path for path in LECTURES if path.stem.startswith(number)]
    text = lecture.read_text(encoding="utf-8")
    name = [name for name in FIRST if f"{name}()" in text]
    with Server(tmp_path_factory.mktemp(kind), [lecture], FRONT_ENDS[kind]) as server:
        page = browser.new_page(viewport=WINDOW)
        where = page, server, lecture.name
        opened = Explorer(*where, *name, HOUR) if name else Opened(*where, HOUR)
        if not opened.front_end.runs_itself:
            opened.run_all(HOUR)
        yield kind, lecture, opened
        page.close()


def each(cases):
    marked = [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in cases]
    return pytest.mark.parametrize("whole", marked, indirect=True, ids="-".join)


@each(CASES)
def test_a_lecture_runs_from_its_first_cell_to_its_last(whole):
    _, lecture, opened = whole
    assert opened.what_is_wrong(lecture) is None


@each(CASES)
def test_nobody_is_kept_out_of_what_a_lecture_shows(whole):
    """Every picture has a text, every table has headers; light and, but in Voila, dark."""
    kind, _, opened = whole
    outputs = opened.page.locator(OUTPUTS)
    texts = outputs.locator("img").evaluate_all("images => images.map(image => image.alt)")
    assert all(len(text) > 20 for text in texts)
    for table in outputs.locator("table").all():
        assert table.locator("th").count() > 0
    known = KNOWN["pandas"] | KNOWN["ipywidgets"]
    if kind != "voila":
        opened.choose("Settings", "Theme", "JupyterLab Dark")
        expect(opened.page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
        assert unknown(opened, opened.violations(OUTPUTS), known) == {}
        opened.choose("Settings", "Theme", "JupyterLab Light")
        expect(opened.page.locator("body")).to_have_attribute("data-jp-theme-light", "true")
    assert unknown(opened, opened.violations(OUTPUTS), known) == {}


@each([*QUICK, *((kind, "02") for kind in FRONT_ENDS)])
def test_known_faults_are_all_there_is_and_still_there(whole):
    """What is mended has to go out of the list."""
    kind, lecture, opened = whole
    around = opened.violations({"exclude": [[OUTPUTS]]})
    assert unknown(opened, around, KNOWN[kind]) == {}
    assert set(around) == set(KNOWN[kind])
    assert set(opened.violations(OUTPUTS)) == set(KNOWN[OTHERS[lecture.stem[:2]]])


@each(CONTROLS)
def test_controls_can_be_used_when_all_has_run(whole):
    kind, lecture, opened = whole
    if isinstance(opened, Explorer):
        name, actions, number = next(move for move in MOVES if move[0] == opened.name)
        before = opened.expect(FIRST[name])
        for label, value in actions.items():
            opened.use(label, value)
        assert number in opened.expect(number)[2] and opened.shown()[0] != before[0]
        assert opened.line_spacing() < 1.5
        opened.photograph(f"{opened.front_end.name} {lecture.stem} used")
    else:
        move_the_slider(opened)
    assert not opened.faults


def move_the_slider(opened):
    """That of lecture 00, by a key that moves it in every front end, and its menu by mouse."""
    output = opened.page.locator(OUTPUTS).filter(has=opened.page.get_by_role("slider"))
    expect(output).to_contain_text("7 billion parameters × 32 bits = 28.00 GB")
    slider = output.get_by_role("slider")
    slider.focus()
    opened.page.keyboard.press("PageUp")
    expect(output).to_contain_text("12 billion parameters × 32 bits = 48.00 GB")
    output.get_by_label("bits", exact=True).select_option("4")
    expect(output).to_contain_text("12 billion parameters × 4 bits = 6.00 GB")


def unknown(opened, violations, known):
    """Those violations, rule → selectors of elements, that aren't known.

    known: rule → a selector that fits every element which breaks it.
    """
    fits = "([element, known]) => document.querySelector(element)?.matches(known)"
    new = {
        rule: [e for e in elements if not opened.page.evaluate(fits, [e, known.get(rule, "none")])]
        for rule, elements in violations.items()
    }
    return {rule: elements for rule, elements in new.items() if elements}
