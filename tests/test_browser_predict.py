"""Answer predictions in JupyterLab, Notebook 7 and Voila, as a student does.

The tests write screenshots to build/browser, in light and in dark.
"""

import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[lab,test]'")
pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")

from playwright.sync_api import expect

from tests.browser import FRONT_ENDS, PICTURES, TIERS, OpenNotebook, Server, write_notebook

pytestmark = pytest.mark.xdist_group("browser-predict")

LONG = "all 15: every level is used, whatever the largest of all the weights in the array may be"
CELLS = [
    "from course_utils.notebook.predict import answer, predict, reveal, tally",
    f"""predict("levels", "How many of the 15 levels do the other weights share?",
    ["{LONG}", "about 7", "3 or fewer"])""",
    'predict("size", "How much memory do 7 billion parameters need in `bfloat16`?", unit="GB")',
    """reveal("levels", "3 or fewer", {"about 7": "The outlier sets the scale."})
answer("They share 3 of the $2^4 - 1$ levels. The outlier sets the scale.")""",
    'reveal("size", 14)',
    'tally("03")',
]
# The size of the window in pixels.
WINDOW = {"width": 1280, "height": 1600}
OUTPUTS = ".jp-OutputArea-output"
LATE = "2.0 times too high, entered too late"


@pytest.fixture(scope="module", params=TIERS)
def server(request, tmp_path_factory):
    """Start a front end with a notebook for each test."""
    hidden = {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
    folder = tmp_path_factory.mktemp("notebooks")
    names = ("mouse.ipynb", "keyboard.ipynb")
    paths = [write_notebook(folder / name, "Predictions", CELLS, **hidden) for name in names]
    with Server(tmp_path_factory.mktemp("server"), paths, FRONT_ENDS[request.param]) as server:
        yield server


def opened(browser, server, name):
    """Open a notebook and run all of its cells, without any guess."""
    notebook = OpenNotebook(browser.new_page(viewport=WINDOW), server, f"{name}.ipynb")
    if not notebook.front_end.runs_on_load:
        notebook.run_all(300)
    return notebook


def photograph(notebook, name, selector=".jp-Notebook"):
    area = notebook.page.locator(selector).first
    area.screenshot(path=PICTURES / f"{notebook.front_end.name}-predict-{name}.png")


def test_guesses_are_compared_and_kept(browser, server):
    notebook = opened(browser, server, "mouse")
    page, shown = notebook.page, notebook.page.locator(OUTPUTS)
    status = page.get_by_role("status")
    expect(shown.get_by_role("radio", checked=True)).to_have_count(0)
    expect(status.filter(has_text="You didn't enter a guess.")).to_have_count(2)
    expect(shown.get_by_text("You didn't enter any guesses this time.")).to_be_visible()
    expect(shown.locator("strong", has_text="Answer. They share 3 of the")).to_be_visible()
    photograph(notebook, "empty")

    shown.get_by_text("about 7", exact=True).click()
    expect(
        status.filter(has_text="You chose 'about 7'. The answer is '3 or fewer'.")
    ).to_be_visible()
    field = shown.get_by_label("Your guess in GB:", exact=True)
    field.fill("about <b>28</b>")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(
        "Please type one number in GB, such as 14.7 or 1,000 or 1e9. No guess has been recorded."
    )
    photograph(notebook, "message")
    field.fill("28 GB")
    # The guess is recorded when the field loses the focus.
    field.blur()
    expect(status.filter(has_text="your guess was 2.0 times too high")).to_be_visible()
    row = shown.get_by_role("row").filter(has_text="28 GB")
    expect(row.get_by_role("cell")).to_have_text(["28 GB", "14 GB", LATE])
    photograph(notebook, "laptop")
    assert not notebook.errors
    assert_accessible(notebook)
    page.close()


def assert_accessible(notebook):
    """Check the outputs with axe in light and in dark; Voila has no dark theme."""
    assert notebook.violations(OUTPUTS) == {}
    if not notebook.front_end.runs_on_load:
        notebook.choose("Settings", "Theme", "JupyterLab Dark")
        body = notebook.page.locator("body")
        expect(body).to_have_attribute("data-jp-theme-light", "false")
        assert notebook.violations(OUTPUTS) == {}
        photograph(notebook, "dark")


def test_guesses_can_be_entered_with_the_keyboard_alone(browser, server):
    notebook = opened(browser, server, "keyboard")
    page, shown = notebook.page, notebook.page.locator(OUTPUTS)
    shown.get_by_role("radio").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    chosen = shown.get_by_role("radio", name="about 7")
    expect(chosen).to_be_checked()
    expect(page.get_by_role("status").filter(has_text="You chose 'about 7'.")).to_be_visible()
    field = shown.get_by_label("Your guess in GB:", exact=True)
    for _ in range(20):
        page.keyboard.press("Tab")
        if field.evaluate("field => field === document.activeElement"):
            break
    page.keyboard.type("14.0")
    page.keyboard.press("Enter")
    expect(page.get_by_text("your guess was exactly right.")).to_be_visible()
    expect(field).to_be_focused()
    assert not notebook.errors
    page.close()
