"""Test the news data set, the check of house style, and the prompts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

from course_utils import news

STORY = (
    "Teachers in Halvik vote on Friday, said Ned Orlo of the Lake League. The strike is in its "
    "fifth week, and the lake is frozen."
)


@pytest.fixture(scope="module")
def data():
    return news.load_news()


@pytest.fixture(scope="module")
def examples(data):
    return [row for split in data.values() for row in split]


# -- the data set


def test_each_split_has_equally_many_stories_of_each_section(data):
    assert list(data) == ["train", "validation", "test"]
    for split, each in {"train": 42, "validation": 6, "test": 12}.items():
        assert Counter(data[split]["section"]) == dict.fromkeys(news.SECTIONS, each)
        assert data[split].column_names == ["id", "section", "story", "headline"]


def test_no_story_or_headline_occurs_twice(examples):
    for column in ("id", "story", "headline"):
        assert len({row[column] for row in examples}) == 480


def test_no_story_changes_its_split(data):
    """Results of runs with different splits can't be compared."""
    splits = sorted(f"{name} {split}" for split in data for name in data[split]["id"])
    digest = hashlib.sha256("\n".join(splits).encode()).hexdigest()
    assert digest == "0a191422a86f1f0cf2c329dc965b4ce31941dde55fd832e093c1ec2f78f06ba9"


def test_reference_headlines_are_in_house_style(examples):
    errors = {r["id"]: news.house_style_errors(r["headline"], r["story"]) for r in examples}
    assert {key: found for key, found in errors.items() if found} == {}


# -- house style


@pytest.mark.parametrize(
    ("headline", "error"),
    [
        ("Teachers in Halvik vote to end strike", None),
        ("Halvik's teachers put five-week strike to vote", None),
        # Lake is also a common noun, and Ned ends in -ed.
        ("Lake League's Ned Orlo hails teachers", None),
        # "Cut" is the same in both tenses; "need" and "speed" are nouns in -ed.
        ("Strikers cut need for speed at Halvik", None),
        ("5 teachers from Halvik go on strike", None),
        ("", "empty"),
        ("Teachers in Halvik", "3 words"),
        ("Teachers in Halvik vote to end their very long strike", "10 words"),
        ("Teachers in Halvik vote on strike.", "ends with '.'"),
        ("Will teachers in Halvik end strike?", "ends with '?'"),
        ('Teachers in "Halvik" vote on strike', "double quotes"),
        ("Teachers in “Halvik” vote on strike", "double quotes"),
        (
            "teachers in Halvik vote on strike",
            "starts with neither a capital nor a number: teachers",
        ),
        ("<4 to 9 words, present tense>", "starts with neither a capital nor a number: <4"),
        ("Teachers in Halvik vote on Strike", "not a name in the story: Strike"),
        ("Teachers in Oslo vote on strike", "not a name in the story: Oslo"),
        # A word with a capital at the start of the story may be a name.
        ("Halvik sees Teachers vote on strike", None),
        ("Teachers in Halvik ended strike", "past form or word in -ed: ended"),
        ("Long-delayed vote in Halvik nears", "past form or word in -ed: Long-delayed"),
        ("Teachers in Halvik won pay dispute", "past form or word in -ed: won"),
        ("Strike in Halvik was long", "past form or word in -ed: was"),
    ],
)
def test_a_headline_in_house_style_has_no_error_and_a_broken_rule_is_one_error(headline, error):
    errors = news.house_style_errors(headline, STORY)
    assert errors == [] if error is None else len(errors) == 1 and error in errors[0]


def test_each_error_is_listed_under_its_rule():
    """The headline is too short, has a wrong first letter, a wrong capital and a past form."""
    length, case, tense, marks = news.errors_by_rule("teachers Won a", STORY).values()
    assert [len(errors) for errors in (length, case, tense, marks)] == [1, 2, 1, 0]
    assert news.house_style_errors("teachers Won a", STORY) == [*length, *case, *tense]
    long = news.errors_by_rule('Teachers in Halvik vote on "strike"!', STORY)
    assert [len(errors) for errors in long.values()] == [0, 0, 0, 2]
    empty = news.errors_by_rule(" ", STORY)
    assert tuple(empty) == news.HOUSE_RULES
    assert list(empty.values()) == [["the headline is empty"], [], [], []]


# -- prompts


def test_the_zero_shot_prompt_contains_sections_house_style_and_keys_but_no_answer(examples):
    turns = news.messages(examples[0])
    text = "\n".join(turn["content"] for turn in turns)
    assert turns[-1]["role"] == "user" and examples[0]["story"] in turns[-1]["content"]
    assert all(
        part in text for part in (*news.SECTIONS, news.HOUSE_STYLE, '"section"', '"headline"')
    )
    assert examples[0]["headline"] not in text


def test_each_shot_is_a_user_message_and_an_assistant_message(examples):
    turns = news.messages(examples[0], shots=examples[1:4])
    turns = [turn for turn in turns if turn["role"] != "system"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3 + ["user"]
    assert [turns[k]["content"] for k in (1, 3, 5)] == [news.answer(e) for e in examples[1:4]]
    assert all(examples[k + 1]["story"] in turns[2 * k]["content"] for k in range(3))


def test_the_instruction_is_in_the_system_message_or_in_each_user_message(examples):
    instruction = news.messages(examples[0], instruction_in="system")[0]["content"]
    roles_with_instruction = {"system": ["system"], "user": 3 * ["user"]}
    roles_with_instruction["both"] = ["system", *roles_with_instruction["user"]]
    for place in news.INSTRUCTION_PLACES:
        turns = news.messages(examples[0], examples[1:3], instruction_in=place)
        told = [turn["role"] for turn in turns if turn["content"].startswith(instruction)]
        assert told == roles_with_instruction[place]
        assert turns[-1]["content"].endswith(examples[0]["story"])
    with pytest.raises(ValueError, match="one of system, user, both, got 'assistant'"):
        news.messages(examples[0], instruction_in="assistant")
    with pytest.raises(ValueError, match="one of its own shots"):
        news.messages(examples[0], shots=[examples[1], examples[0]])


def test_the_tuned_prompt_is_shorter_and_may_end_with_the_answer(examples):
    prompt, answered = (news.tuned_messages(examples[0], answered=a) for a in (False, True))
    assert prompt == answered[:-1] and prompt[-1]["role"] == "user"
    assert answered[-1] == {"role": "assistant", "content": news.answer(examples[0])}
    assert json.loads(news.answer(examples[0])) == {
        key: examples[0][key] for key in ("section", "headline")
    }
    tuned, zero_shot = (
        sum(len(message["content"].split()) for message in messages)
        for messages in (prompt, news.messages(examples[0]))
    )
    assert tuned < zero_shot / 1.5
