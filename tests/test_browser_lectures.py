"""Run each lecture from the first cell to the last in JupyterLab, Notebook 7 and Voila.

The test runs a lecture with the menu, as a reader does; Voila runs a lecture automatically. Then
axe checks the outputs of the lecture.
"""

import pytest

from tests.browser import FRONT_ENDS, Explorer, OpenNotebook, Server, expect
from tests.cells import LECTURES
from tests.test_browser import FIRST, MOVES

pytestmark = pytest.mark.xdist_group("browser-lectures")

# The known violations of ipywidgets and pandas: each rule, and a selector of the elements.
KNOWN = {
    "aria-input-field-name": ".noUi-handle",
    "empty-table-header": "table.dataframe th, table[id^=T_] th.blank",
}
# The size of the window in pixels.
WINDOW = {"width": 1280, "height": 1500}
# The time limit of a lecture in seconds. On a busy machine, lecture 07 takes many minutes.
HOUR = 3600
OUTPUTS = ".jp-OutputArea-output"


# Each case is a front end and a lecture.
CASES = [(kind, path.stem[:2]) for kind in FRONT_ENDS for path in LECTURES]
FULL = [(kind, "00") for kind in FRONT_ENDS]


@pytest.fixture(scope="module")
def opened_lecture(request, browser, tmp_path_factory):
    """Open a lecture in a front end and run all of its cells."""
    kind, number = request.param
    (lecture,) = [path for path in LECTURES if path.stem.startswith(number)]
    text = lecture.read_text(encoding="utf-8")
    name = [name for name in FIRST if f"{name}()" in text]
    with Server(tmp_path_factory.mktemp(kind), [lecture], FRONT_ENDS[kind]) as server:
        page = browser.new_page(viewport=WINDOW)
        source = page, server, lecture.name
        opened = Explorer(*source, *name, HOUR) if name else OpenNotebook(*source, HOUR)
        if not opened.front_end.runs_on_load:
            opened.run_all(HOUR)
        yield kind, lecture, opened
        page.close()


# All tests have the same list of parameters, so that pytest opens each lecture only once.
with_lectures = pytest.mark.parametrize(
    "opened_lecture",
    [
        pytest.param(case, marks=pytest.mark.full if case in FULL else pytest.mark.slow)
        for case in CASES
    ],
    indirect=True,
    ids="-".join,
)


@with_lectures
def test_all_cells_of_a_lecture_run(opened_lecture):
    _, lecture, opened = opened_lecture
    assert opened.problem(lecture) is None


@with_lectures
def test_the_outputs_of_a_lecture_are_accessible(opened_lecture):
    """Pictures have texts and tables have headers. Voila has no dark theme."""
    kind, _, opened = opened_lecture
    outputs = opened.page.locator(OUTPUTS)
    labels = "pictures => pictures.map(picture => picture.getAttribute('aria-label'))"
    texts = outputs.locator("svg[role=img]").evaluate_all(labels)
    texts += outputs.locator("img").evaluate_all("images => images.map(image => image.alt)")
    assert all(len(text) > 20 for text in texts)
    for table in outputs.locator("table").all():
        assert table.locator("th").count() > 0
    if kind != "voila":
        opened.show("Dark")
        assert unknown(opened, opened.violations(OUTPUTS)) == {}
        opened.show("Light")
    assert unknown(opened, opened.violations(OUTPUTS)) == {}


@with_lectures
def test_controls_can_be_used_after_the_run(opened_lecture):
    """Lecture 00 has a slider, and some lectures have an explorer."""
    _, lecture, opened = opened_lecture
    if isinstance(opened, Explorer):
        actions, number = MOVES[opened.name]
        before = opened.expect(FIRST[opened.name])
        for label, value in actions.items():
            opened.use(label, value)
        assert number in opened.expect(number)[2] and opened.shown()[0] != before[0]
        opened.photograph(f"{opened.front_end.name} {lecture.stem} used")
    elif lecture.stem.startswith("00"):
        move_the_slider(opened)
    assert not opened.errors


def move_the_slider(opened):
    """Move the slider of lecture 00 with a key."""
    output = opened.page.locator(OUTPUTS).filter(has=opened.page.get_by_role("slider"))
    expect(output).to_contain_text("7 billion × 32 bits = 28.00 GB")
    output.get_by_role("slider").focus()
    opened.page.keyboard.press("PageUp")
    expect(output).to_contain_text("12 billion × 4 bits = 6.00 GB")


def unknown(opened, violations):
    """Return the violations that are not known, as a dict from rules to selectors of elements."""
    fits = "([element, known]) => document.querySelector(element)?.matches(known)"
    new = {
        rule: [e for e in elements if not opened.page.evaluate(fits, [e, KNOWN.get(rule, "none")])]
        for rule, elements in violations.items()
    }
    return {rule: elements for rule, elements in new.items() if elements}
