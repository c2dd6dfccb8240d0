"""Use the explorers of lecture 07 in JupyterLab, Notebook 7 and Voila, as a student does.

The model is tiny, and its answers are prepared: they count the stories, and need half a second. The
tests write screenshots to build/browser, in light and in dark.
"""

from pathlib import Path

import pytest

from tests.browser import TIERS, copies, expect, opened_copy

pytestmark = pytest.mark.xdist_group("browser-answers")

MODEL = f"""
import json
import sys
import time
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from course_utils import evaluation, news
from course_utils.notebook import explorers
from course_utils.training import Recipe, attach_adapters
from tests.conftest import make_model, make_tokenizer

model, tokenizer = attach_adapters(make_model(), Recipe()), make_tokenizer()
story = news.load_news()["test"][0]["story"]
count = 0

def prepared(model, tokenizer, conversations, **options):
    global count
    count += 1
    time.sleep(0.5)
    if count % 2:
        return ["I am <b>happy</b> to help with the news! " * 4]
    headline = f"Story {{count // 2}} wins in Tarn, mayor says"
    return [json.dumps({{"section": "sport", "headline": headline}})]

def answer_at(strength):
    time.sleep(0.5)
    headline = {{"section": "sport", "headline": f"Strength is {{strength}} today"}}
    return json.dumps(headline) if strength > 0.6 else "Sure! Here is <i>a headline</i>. " * 5

evaluation.generate = prepared
"""
CELLS = [
    MODEL,
    "explorers.story_explorer(model, tokenizer, story)",
    "explorers.strength_explorer(answer_at, story)",
]
OUTPUTS = ".jp-OutputArea-output"
# The handle of a slider of ipywidgets has no name; see KNOWN in test_browser_lectures.py.
NO_HANDLE = {"include": [[OUTPUTS]], "exclude": [[".noUi-handle"]]}
# A story with keys that are shortcuts of JupyterLab.
STORY = "add b: dd cuts x, zz"


@pytest.fixture(scope="module", params=TIERS)
def server(request, tmp_path_factory):
    with copies(request, tmp_path_factory.mktemp("copies"), CELLS) as server:
        yield server


@pytest.fixture
def opened(browser, server, request):
    yield from opened_copy(browser, server, request)


def outputs(notebook):
    """Return the outputs with the story explorer and with the strength explorer."""
    shown = notebook.page.locator(OUTPUTS)
    story = shown.filter(has=notebook.page.get_by_role("button", name="Ask both models"))
    return story, shown.filter(has=notebook.page.get_by_role("slider"))


def test_a_story_and_a_strength_are_answered(opened):
    page, (story, strength) = opened.page, outputs(opened)
    expect(story.get_by_text("Story 1 wins in Tarn")).to_be_visible()
    expect(story.get_by_text("✗ not one JSON object with section and headline")).to_be_visible()
    opened.photograph("answers-first")

    field = story.get_by_label("story", exact=True)
    write(page, field, "A <b>goal</b> was scored in Tarn.")
    button = story.get_by_role("button", name="Ask both models")
    button.dblclick()
    waiting = story.get_by_role("status").filter(has_text="Both models are answering.")
    expect(waiting).to_be_visible()
    opened.photograph("answers-waiting")
    expect(story.get_by_text("Story 2 wins in Tarn")).to_be_visible()
    expect(waiting).to_have_count(0)
    assert story.locator("i, b b").count() == 0

    write(page, field, "")
    button.click()
    expect(story.get_by_role("alert")).to_have_text(
        "Please enter a story: a few sentences of news."
    )
    write(page, field, "Rain in Tarn.")
    button.click()
    # The second click of the double click was ignored.
    expect(story.get_by_text("Story 3 wins in Tarn")).to_be_visible()

    expect(strength.get_by_role("row")).to_have_count(4)
    type_strength(page, strength, "1.25")
    expect(strength.get_by_role("row")).to_have_count(5)
    expect(strength.get_by_text("Strength is 1.25 today")).to_be_visible()
    opened.photograph("answers-laptop")
    assert opened.violations(NO_HANDLE) == {}
    if not opened.front_end.runs_on_load:
        opened.show("Dark")
        opened.photograph("answers-dark")
        assert opened.violations(NO_HANDLE) == {}


@pytest.mark.slow
def test_everything_can_be_done_with_the_keyboard_alone(opened):
    page, (story, strength) = opened.page, outputs(opened)
    cells = page.locator(".jp-Notebook-cell").count()
    field = story.get_by_label("story", exact=True)
    opened.tab_to(field)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(STORY)
    page.keyboard.press("Enter")
    page.keyboard.type("j")
    expect(field).to_have_value(f"{STORY}\nj")
    assert page.locator(".jp-Notebook-cell").count() == cells
    page.keyboard.press("Tab")
    button = story.get_by_role("button", name="Ask both models")
    expect(button).to_be_focused()
    page.keyboard.press("Space")
    expect(story.get_by_text("Story 2 wins in Tarn")).to_be_visible()
    expect(button).to_be_focused()
    opened.tab_to(strength.get_by_role("slider"))
    # In Notebook 7, the arrow keys don't move a slider.
    page.keyboard.press("PageUp")
    expect(strength.get_by_text("Strength is 1.5 today")).to_be_visible()
    opened.tab_to(strength.locator(".widget-readout"))
    type_strength(page, strength, "0.75")
    expect(strength.get_by_text("Strength is 0.75 today")).to_be_visible()
    assert "▶ 0.75" in (strength.text_content() or "")


def type_strength(page, strength, value):
    """Replace the number beside the slider with the keyboard."""
    strength.locator(".widget-readout").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(value)
    page.keyboard.press("Enter")


def write(page, field, text):
    """Replace the text in a field with the keyboard."""
    field.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.press("Delete")
    page.keyboard.type(text)
