"""Answer predictions in JupyterLab, Notebook 7 and Voila, as a student does.

The tests write screenshots to build/browser, in light and in dark.
"""

import pytest

from tests.browser import TIERS, copies, expect, opened_copy

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
OUTPUTS = ".jp-OutputArea-output"
LATE = "2.0 times too high, entered too late"


@pytest.fixture(scope="module", params=TIERS)
def server(request, tmp_path_factory):
    hidden = {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
    with copies(request, tmp_path_factory.mktemp("copies"), CELLS, **hidden) as server:
        yield server


@pytest.fixture
def notebook(browser, server, request):
    """Run all cells of a notebook without any guess."""
    yield from opened_copy(browser, server, request)


def test_guesses_are_compared_and_kept(notebook):
    page, shown = notebook.page, notebook.page.locator(OUTPUTS)
    status = page.get_by_role("status")
    expect(shown.get_by_role("radio", checked=True)).to_have_count(0)
    expect(status.filter(has_text="You didn't enter a guess.")).to_have_count(2)
    expect(shown.get_by_text("You didn't enter any guesses this time.")).to_be_visible()
    expect(shown.locator("strong", has_text="Answer. They share 3 of the")).to_be_visible()
    notebook.photograph("predict-empty")

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
    notebook.photograph("predict-message")
    field.fill("28 GB")
    # The guess is recorded when the field loses the focus.
    field.blur()
    expect(status.filter(has_text="your guess was 2.0 times too high")).to_be_visible()
    row = shown.get_by_role("row").filter(has_text="28 GB")
    expect(row.get_by_role("cell")).to_have_text(["28 GB", "14 GB", LATE])
    notebook.photograph("predict-laptop")
    assert notebook.violations(OUTPUTS) == {}
    if not notebook.front_end.runs_on_load:
        notebook.show("Dark")
        notebook.photograph("predict-dark")
        assert notebook.violations(OUTPUTS) == {}


def test_guesses_can_be_entered_with_the_keyboard_alone(notebook):
    page, shown = notebook.page, notebook.page.locator(OUTPUTS)
    shown.get_by_role("radio").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    chosen = shown.get_by_role("radio", name="about 7")
    expect(chosen).to_be_checked()
    expect(page.get_by_role("status").filter(has_text="You chose 'about 7'.")).to_be_visible()
    field = shown.get_by_label("Your guess in GB:", exact=True)
    notebook.tab_to(field)
    page.keyboard.type("14.0")
    page.keyboard.press("Enter")
    expect(page.get_by_text("your guess was exactly right.")).to_be_visible()
    expect(field).to_be_focused()
