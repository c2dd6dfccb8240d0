"""Run each lecture from the first cell to the last in JupyterLab, Notebook 7 and Voila.

The test runs a lecture with the menu, as a reader does; Voila runs a lecture automatically. Then
axe checks the outputs of the lecture.
"""

import pytest

from tests.browser import FRONT_ENDS, Explorer, OpenNotebook, Server
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


# Each case is a front end and a lecture. The full tier has only the first lecture.
CASES = [
    pytest.param(
        *(kind, path),
        id=f"{kind}-{path.stem[:2]}",
        marks=pytest.mark.full if path == LECTURES[0] else pytest.mark.slow,
    )
    for kind in FRONT_ENDS
    for path in LECTURES
]


@pytest.mark.parametrize(("kind", "lecture"), CASES)
def test_a_lecture_runs_and_has_accessible_outputs_and_usable_controls(
    browser, tmp_path, kind, lecture
):
    text = lecture.read_text(encoding="utf-8")
    name = [name for name in FIRST if f"{name}()" in text]
    with Server(tmp_path, [lecture], FRONT_ENDS[kind]) as server:
        source = browser.new_page(viewport=WINDOW), server, lecture.name
        opened = Explorer(*source, *name, HOUR) if name else OpenNotebook(*source, HOUR)
        if not opened.front_end.runs_on_load:
            opened.run_all(HOUR)
        assert opened.problem(lecture) is None
        check_accessibility(opened)
        check_controls(opened, lecture)
        assert not opened.errors
        opened.page.close()


def check_accessibility(opened):
    """Pictures have texts and tables have headers. Voila has no dark theme."""
    outputs = opened.page.locator(OUTPUTS)
    labels = "pictures => pictures.map(picture => picture.getAttribute('aria-label'))"
    texts = outputs.locator("svg[role=img]").evaluate_all(labels)
    texts += outputs.locator("img").evaluate_all("images => images.map(image => image.alt)")
    assert all(len(text) > 20 for text in texts)
    for table in outputs.locator("table").all():
        assert table.locator("th").count() > 0
    for theme in ("",) if opened.front_end.runs_on_load else ("Dark", "Light"):
        if theme:
            opened.show(theme)
        assert unknown(opened, opened.violations(OUTPUTS)) == {}


def check_controls(opened, lecture):
    """Some lectures have an explorer."""
    if isinstance(opened, Explorer):
        actions, number = MOVES[opened.name]
        before = opened.expect(FIRST[opened.name])
        for label, value in actions.items():
            opened.use(label, value)
        assert number in opened.expect(number)[2] and opened.shown()[0] != before[0]
        opened.photograph(f"{opened.front_end.name} {lecture.stem} used")


def unknown(opened, violations):
    """Return the violations that are not known, as a dict from rules to selectors of elements."""
    fits = "([element, known]) => document.querySelector(element)?.matches(known)"
    new = {
        rule: [e for e in elements if not opened.page.evaluate(fits, [e, KNOWN.get(rule, "none")])]
        for rule, elements in violations.items()
    }
    return {rule: elements for rule, elements in new.items() if elements}
