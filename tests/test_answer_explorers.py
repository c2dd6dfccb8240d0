"""Test the explorers of lecture 07 with a tiny model, and use their controls as a browser does."""

import html
import re
import threading

import pytest

from course_utils import evaluation, news
from course_utils.notebook.explorers import (
    MAX_STORY,
    answer_cards,
    story_explorer,
    strength_explorer,
    strength_table,
    verdict,
)
from course_utils.training import Recipe, attach_adapters
from tests.conftest import make_model

pytestmark = pytest.mark.usefixtures("frozen_imports")

STORY = "Rain fell on Tarn."
GOOD = '{"section": "weather", "headline": "Rain falls on Tarn"}'
BAD = '{"section": "wet", "headline": "It Rained."}'
CHAT = "It is <b>raining</b> & pouring"


def shown(box):
    """Return the text that an explorer shows."""
    return html.unescape(re.sub(r"<[^>]*>", " ", box.children[-1].value))


def press(box):
    (button,) = box.children[-2].children
    button.click()


@pytest.fixture
def model():
    return attach_adapters(make_model(max_position_embeddings=4096), Recipe())


@pytest.fixture
def generate(monkeypatch):
    """Replace the model's answers, and return a list of (adapter is on, prompt)."""
    calls = []

    def answer(model, tokenizer, conversations, **_):
        layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        calls.append((not layer.disable_adapters, conversations[0]))
        return [GOOD if calls[-1][0] else CHAT]

    monkeypatch.setattr(evaluation, "generate", answer)
    return calls


# -- the verdict -----------------------------------------------------------------------------------


def test_the_verdict_names_each_error_of_an_answer():
    found = verdict(BAD, STORY)
    assert found["section"] == "✗ “wet” is no section"
    assert set(verdict(CHAT, STORY)) == {"form"}
    errors = news.house_style_errors("It Rained.", STORY)
    assert len(errors) == 4 and found["house style"] == f"✗ {'; '.join(errors)}"


def test_answers_are_escaped():
    marked = '{"section": "<i>", "headline": "<u>Rain</u> falls on Tarn again"}'
    for picture in (
        answer_cards({"<s>": marked, "b": CHAT}, STORY),
        strength_table({0: marked, 1: CHAT}, 1, STORY),
    ):
        assert not re.search("<(b>raining|i>|u>|s>)", picture._repr_html_())
        assert html.escape(CHAT) in picture._repr_html_()


# -- your own story --------------------------------------------------------------------------------


def test_both_answers_to_the_first_story_are_shown(model, tokenizer, generate):
    text = shown(story_explorer(model, tokenizer, STORY))
    assert [on for on, _ in generate] == [False, True]
    example = {"story": STORY}
    few_shot, short = (
        news.messages(example, news.shots()),
        news.tuned_messages(example, answered=False),
    )
    assert [prompt for _, prompt in generate] == [few_shot, short]
    assert text.index(CHAT) < text.index(GOOD) and "✓ weather" in text
    for name, prompt in {"few-shot": few_shot, "tuned": short}.items():
        tokens = evaluation.mean_prompt_tokens([prompt], tokenizer)
        assert re.search(rf"{name} +{tokens:,.0f} prompt tokens, \d+\.\d s", text)


def test_a_new_story_is_answered_once(model, tokenizer, generate):
    box = story_explorer(model, tokenizer, STORY)
    (field,) = box.children[0].children
    assert not field.continuous_update, "the models would answer at each letter"
    # The message about a press may arrive before or after the message about the new story.
    press(box)
    field.value = "  A goal. "
    press(box)
    assert [prompt[-1]["content"] for _, prompt in generate[2:]] == ["A goal.", "A goal."]
    before = box.children[-1].value
    press(box)
    assert len(generate) == 4 and box.children[-1].value == before


def test_a_press_in_another_thread_does_not_answer_again(model, tokenizer, generate, monkeypatch):
    """JupyterLab lets the kernel handle the change of a field and a press in two threads."""
    box = story_explorer(model, tokenizer, STORY)
    other, answer = threading.Thread(target=press, args=[box]), evaluation.generate

    def answer_while_pressed(*values, **options):
        if not other.ident:
            other.start()
            # The other thread must not answer within this time, nor after it.
            other.join(0.1)
        return answer(*values, **options)

    monkeypatch.setattr(evaluation, "generate", answer_while_pressed)
    box.children[0].children[0].value = "A goal."
    other.join()
    assert len(generate) == 4 and GOOD in shown(box)


@pytest.mark.parametrize(
    ("story", "message"),
    [
        (" \n ", "Please enter a story: a few sentences of news."),
        ("x" * (MAX_STORY + 1), f"The story has {MAX_STORY + 1} tokens, but at most {MAX_STORY}"),
        (news.shots()[0]["story"], "one of its own shots"),
    ],
    ids=["blank", "long", "shot"],
)
def test_a_story_that_is_not_allowed_shows_a_sentence(model, tokenizer, generate, story, message):
    box = story_explorer(model, tokenizer, STORY)
    box.children[0].children[0].value = story
    press(box)
    assert message in shown(box) and 'role="alert"' in box.children[-1].value
    assert len(generate) == 2
    box.children[0].children[0].value = STORY
    press(box)
    assert len(generate) == 4 and GOOD in shown(box)


def test_a_model_without_its_adapters_shows_a_sentence(model, tokenizer, generate):
    box = story_explorer(model, tokenizer, STORY)
    model.unload()
    box.children[0].children[0].value = "A goal."
    press(box)
    assert "The adapters were removed from this model" in shown(box)


def test_an_error_shows_the_last_answers_again(model, tokenizer, generate, monkeypatch):
    box = story_explorer(model, tokenizer, STORY)
    before = box.children[-1].value
    answer = evaluation.generate

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        box.children[0].children[0].value = "A goal."
    assert box.children[-1].value == before
    monkeypatch.setattr(evaluation, "generate", answer)
    press(box)
    assert len(generate) == 4 and "are answering" not in shown(box)


# -- the strength of the adapter -------------------------------------------------------------------


def test_strengths_are_answered_once_and_shown_in_order():
    asked = []

    def answer_at(strength):
        asked.append(strength)
        return CHAT if strength < 0.75 else GOOD if strength <= 1 else BAD

    box = strength_explorer(answer_at, STORY)
    slider = box.children[0].children[0]
    assert asked == [0, 0.5, 1] and slider.value == 1
    text = " ".join(shown(box).split())
    assert f"0 {CHAT} ✗ not one JSON object 0.5 {CHAT}" in text and f"▶ 1 {GOOD} ✓ valid" in text
    assert "strength 1 form" in text and "✓ weather" in text
    for slider.value in (1.25, 0.25, 1.25, 0.25):
        pass
    assert asked == [0, 0.5, 1, 1.25, 0.25]
    rows = re.findall(r"<th scope=[^>]*>(▶ )?([\d.]+)</th>", box.children[-1].value)
    assert rows == [("", "0"), ("▶ ", "0.25"), ("", "0.5"), ("", "1"), ("", "1.25")]
    assert "It Rained." in shown(box)
