"""Test the news data set, the check of house style, the prompts, and the loading of own data."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter

import pytest

from course_utils import news
from course_utils.news import DataError

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


def write(path, *records, newline="\n"):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


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


def test_stories_are_plain_text_of_40_to_90_words(examples):
    for row in examples:
        words = row["story"].split()
        assert 40 <= len(words) <= 90, row["id"]
        assert row["story"].isascii() and row["story"] == " ".join(words), row["id"]


def test_no_story_reveals_its_section_by_its_name(examples):
    """The name of the section may occur in a few stories, but not in most of them."""
    for section in news.SECTIONS:
        stories = [row["story"].lower() for row in examples if row["section"] == section]
        assert sum(section in story for story in stories) <= 6, section


def test_reference_headlines_are_in_house_style(examples):
    errors = {r["id"]: news.house_style_errors(r["headline"], r["story"]) for r in examples}
    assert {key: found for key, found in errors.items() if found} == {}


def near_duplicates(texts, threshold):
    """Return the pairs of texts whose word 3-grams have at least this Jaccard similarity."""
    grams = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)})
    pairs = itertools.combinations(range(len(texts)), 2)
    return [
        (i, j) for i, j in pairs if len(grams[i] & grams[j]) >= threshold * len(grams[i] | grams[j])
    ]


@pytest.mark.full
def test_no_two_stories_are_near_duplicates(examples):
    """Different stories have a similarity below 0.05. An edited copy has more than 0.5."""
    stories = [row["story"] for row in examples]
    edited = stories[7].split()
    edited[4] = edited[20] = "otherwise"
    stories.append(" ".join(edited))
    assert near_duplicates(stories, 0.1) == near_duplicates(stories, 0.5) == [(7, 480)]


# -- house style


@pytest.mark.parametrize(
    "headline",
    [
        "Teachers in Halvik vote to end strike",
        "Halvik's teachers put five-week strike to vote",
        # Lake is also a common noun, and Ned ends in -ed.
        "Lake League's Ned Orlo hails teachers",
        # "Cut" is the same in both tenses; "need" and "speed" are nouns in -ed.
        "Strikers cut need for speed at Halvik",
        "5 teachers from Halvik go on strike",
    ],
)
def test_headlines_in_house_style_have_no_errors(headline):
    assert news.house_style_errors(headline, STORY) == []


@pytest.mark.parametrize(
    ("headline", "error"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("Teachers in Halvik", "3 words"),
        ("Teachers in Halvik vote to end their very long strike", "10 words"),
        ("Teachers in Halvik vote on strike.", "ends with '.'"),
        ("Will teachers in Halvik end strike?", "ends with '?'"),
        ("Teachers in Halvik vote:", "ends with ':'"),
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
def test_a_headline_that_breaks_one_rule_has_one_error(headline, error):
    errors = news.house_style_errors(headline, STORY)
    assert errors == [] if error is None else len(errors) == 1 and error in errors[0]


def test_a_word_at_the_start_of_a_sentence_is_no_name_if_it_also_occurs_without_a_capital():
    story = "Strike looms in Halvik. The strike may last."
    assert news.house_style_errors("Halvik braces for Strike today", story)


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


def test_the_answer_is_one_json_object():
    example = {"section": "sport", "headline": 'Zoë\'s "Owls" win', "story": STORY}
    assert json.loads(news.answer(example)) == {"section": "sport", "headline": 'Zoë\'s "Owls" win'}
    assert "Zoë" in news.answer(example)


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
    (instruction,) = {
        turn["content"]
        for turn in news.messages(examples[0], instruction_in="system")
        if turn["role"] == "system"
    }
    roles_with_instruction = {"system": ["system"], "user": 3 * ["user"]}
    roles_with_instruction["both"] = ["system", *roles_with_instruction["user"]]
    for place in news.INSTRUCTION_PLACES:
        turns = news.messages(examples[0], examples[1:3], instruction_in=place)
        told = [turn["role"] for turn in turns if turn["content"].startswith(instruction)]
        assert told == roles_with_instruction[place]
        assert turns[-1]["content"].endswith(examples[0]["story"])


def test_an_instruction_in_another_place_raises_an_error(examples):
    with pytest.raises(ValueError, match="one of system, user, both, got 'assistant'"):
        news.messages(examples[0], instruction_in="assistant")


def test_an_example_among_its_own_shots_raises_an_error(examples):
    with pytest.raises(ValueError, match="one of its own shots"):
        news.messages(examples[0], shots=[examples[1], examples[0]])


def test_the_tuned_prompt_is_shorter_and_may_end_with_the_answer(examples):
    prompt, answered = (news.tuned_messages(examples[0], answered=a) for a in (False, True))
    assert prompt == answered[:-1] and prompt[-1]["role"] == "user"
    assert answered[-1] == {"role": "assistant", "content": news.answer(examples[0])}
    tuned, zero_shot = (
        sum(len(message["content"].split()) for message in messages)
        for messages in (prompt, news.messages(examples[0]))
    )
    assert tuned < zero_shot / 1.5


# -- own data


def record(**changes):
    good = {
        "id": "sport-001",
        "split": "train",
        "section": "sport",
        "story": STORY,
        "headline": "Teachers in Halvik vote",
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def test_the_errors_of_all_lines_are_in_one_exception(tmp_path):
    bad = [record(id="a", story=""), record(id="b"), record(id="c", headline=" ", split="y")]
    with pytest.raises(DataError) as error:
        news.load_jsonl(write(tmp_path / "own.jsonl", *bad))
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()] == [
        "3 errors in own.jsonl",
        "line 1",
        "line 3",
        "line 3",
    ]


def test_only_the_first_20_errors_are_listed(tmp_path):
    with pytest.raises(DataError, match=r"30 errors in own\.jsonl:(?s:.*)and 10 more"):
        news.load_jsonl(write(tmp_path / "own.jsonl", *[[]] * 30))


PAIRS = [{"prompt": f"question {n}", "answer": f"answer {n}"} for n in range(20)]


def test_a_prompt_and_an_answer_become_messages(tmp_path):
    own = news.load_jsonl(write(tmp_path / "own.jsonl", *PAIRS))
    assert {split: len(rows) for split, rows in own.items()} == {"train": 18, "validation": 2}
    assert own["train"].column_names == ["id", "messages"]
    row = own["train"][0]
    n = int(row["id"].removeprefix("line-")) - 1
    assert row["messages"] == [
        {"role": "user", "content": f"question {n}"},
        {"role": "assistant", "content": f"answer {n}"},
    ]


def test_messages_are_not_changed(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    own = news.load_jsonl(
        write(tmp_path / "own.jsonl", {"messages": messages, "id": "a"}), validation_share=0
    )
    assert own["train"].to_list() == [{"id": "a", "messages": messages}]


def test_news_records_become_the_tuned_messages(tmp_path):
    other = record(id="b", split="test", headline="Halvik awaits teachers vote")
    own = news.load_jsonl(write(tmp_path / "own.jsonl", record(), other))
    assert own["train"][0]["messages"] == news.tuned_messages(record())
    assert own["test"]["id"] == ["b"]


def test_the_split_is_independent_of_the_order_and_separates_no_equal_prompts(tmp_path):
    twice = [*PAIRS, *({**pair, "answer": "another"} for pair in PAIRS)]
    splits = []
    for records in (twice, twice[::-1]):
        own = news.load_jsonl(write(tmp_path / "own.jsonl", *records), validation_share=0.3)
        prompts = {s: {m[0]["content"] for m in own[s]["messages"]} for s in own}
        assert not prompts["train"] & prompts["validation"]
        splits.append(prompts)
    assert splits[0] == splits[1] and len(splits[0]["validation"]) == 6


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 1), (9, 1)])
def test_of_two_or_more_prompts_at_least_one_is_for_validation(tmp_path, count, held_out):
    own = news.load_jsonl(write(tmp_path / "own.jsonl", *PAIRS[:count]))
    assert len(own.get("validation", [])) == held_out and len(own["train"]) == count - held_out


@pytest.mark.parametrize("count", [1, 2, 4])
def test_at_least_one_prompt_is_for_training(tmp_path, count):
    own = news.load_jsonl(write(tmp_path / "own.jsonl", *PAIRS[:count]), validation_share=0.9)
    assert len(own["train"]) == 1


def test_files_may_have_a_byte_order_mark_crlf_and_blank_lines(tmp_path):
    path = write(
        tmp_path / "own.jsonl", "\ufeff" + json.dumps(PAIRS[0]), "", "  ", PAIRS[1], newline="\r\n"
    )
    own = news.load_jsonl(path, validation_share=0)
    assert own["train"]["id"] == ["line-1", "line-4"]


def test_a_unicode_line_separator_does_not_end_a_line(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b", "answer": "c"}, ensure_ascii=False), "utf-8")
    assert news.load_jsonl(path)["train"][0]["messages"][0]["content"] == "a\u2028b"


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"prompt": "x", "answer": " "}, "'answer' is empty"),
        ({"prompt": "x\ud83d", "answer": "y"}, "'prompt' contains half of a character"),
        ({"prompt": "x", "answer": "y", "id": "\ud83d"}, "'id' contains half of a character"),
        ({"prompt": "x"}, "no 'answer'"),
        ({"prompt": 3, "answer": "y"}, "'prompt' must be text, got int"),
        ({"question": "x", "answer": "y"}, "needs messages, or prompt and answer, or section and"),
        ({}, "but has no key"),
        (
            {"prompt": "x", "answer": "y", "extra": 1},
            "unknown key 'extra': the keys must be prompt, answer, id",
        ),
        ({"prompt": "x", "answer": "y", "split": "dev"}, "split 'dev' must be one of train"),
        ({"prompt": "x", "answer": "y", "id": 3}, "'id' must be text"),
        ({"messages": [[], {"role": "assistant", "content": "y"}]}, "message 1: not a JSON object"),
        (record(headline=None), "no 'headline'"),
        ({"prompt": "x", "answer": "y", "split": "train"}, None),
        ({"messages": "hello"}, "'messages' must be a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "'messages' must be a list of at least"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "y"}]}, "message 1: no"),
        (
            {"messages": [{"role": "bot", "content": "x"}, {"role": "user", "content": "y"}]},
            "message 1: role 'bot' must be one of system, user, assistant",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
            "last message must be the assistant's",
        ),
        ([1, 2], "not a JSON object"),
        ('{"prompt": "x", ', "not JSON: Expecting"),
        ('{"prompt": ' + 5000 * "1" + "}", "not JSON that Python can read: Exceeds the limit"),
        (100_000 * "[", "not JSON that Python can read: maximum recursion depth"),
        (PAIRS[0], "same example as line 1"),
    ],
)
def test_an_error_in_own_data_is_reported_with_its_line(tmp_path, bad, error):
    path = write(tmp_path / "own.jsonl", PAIRS[0], "", bad)
    with pytest.raises(DataError) as raised:
        news.load_jsonl(path)
    line = "line 1: has no split, but other lines have one" if error is None else "line 3: "
    assert str(raised.value).startswith(f"1 error in own.jsonl:\n  {line}")
    assert (error or "") in str(raised.value)


def test_data_whose_splits_do_not_include_train_raises_an_error(tmp_path):
    path = write(tmp_path / "own.jsonl", *({**pair, "split": "test"} for pair in PAIRS))
    with pytest.raises(DataError, match='no line has the split "train"'):
        news.load_jsonl(path)


def test_a_line_that_is_not_utf_8_raises_an_error(tmp_path):
    path = tmp_path / "own.jsonl"
    text = json.dumps({"prompt": "café", "answer": "y"}, ensure_ascii=False)
    path.write_bytes(json.dumps(PAIRS[0]).encode() + b"\n" + text.encode("latin-1"))
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        news.load_jsonl(path)


def test_a_file_without_examples_raises_an_error(tmp_path):
    (tmp_path / "own.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"own\.jsonl has no examples"):
        news.load_jsonl(tmp_path / "own.jsonl")


def test_a_missing_file_raises_an_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        news.load_jsonl(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("share", [-0.1, 1, 2])
def test_a_validation_share_outside_its_range_raises_an_error(tmp_path, share):
    with pytest.raises(ValueError, match="validation_share must be at least 0 and below 1"):
        news.load_jsonl(write(tmp_path / "own.jsonl", *PAIRS), validation_share=share)
