"""The news data set, its house style, its prompts, and the checks on a reader's own data."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from importlib import resources

import pytest

from course_utils import news
from course_utils.news import DataError
from course_utils.validation import CourseError

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


def test_sections_are_balanced_in_every_split(data):
    assert list(data) == ["train", "validation", "test"]
    for split, each in {"train": 42, "validation": 6, "test": 12}.items():
        assert Counter(data[split]["section"]) == dict.fromkeys(news.SECTIONS, each)
        assert data[split].column_names == ["id", "section", "story", "headline"]


def test_every_record_of_the_file_has_text_for_the_same_keys():
    lines = (resources.files("course_utils") / "data" / "news_briefs.jsonl").read_text("utf-8")
    records = [json.loads(line) for line in lines.strip().split("\n")]
    keys = {"id", "split", "section", "story", "headline"}
    assert len(records) == 480 and all(set(each) == keys for each in records)
    assert all(type(text) is str and text.strip() for each in records for text in each.values())


def test_ids_stories_and_headlines_are_unique(examples):
    for column in ("id", "story", "headline"):
        assert len({row[column] for row in examples}) == 480


def test_ids_name_the_section(examples):
    assert all(row["id"].rpartition("-")[0] == row["section"] for row in examples)


def test_splits_are_fixed(data):
    """A story that changed sides would spoil every comparison with earlier results."""
    sides = sorted(f"{i} {split}" for split in data for i in data[split]["id"])
    digest = hashlib.sha256("\n".join(sides).encode()).hexdigest()
    assert digest == "0a191422a86f1f0cf2c329dc965b4ce31941dde55fd832e093c1ec2f78f06ba9"


def test_stories_are_plain_text_of_40_to_90_words(examples):
    for row in examples:
        assert 40 <= len(row["story"].split()) <= 90, row["id"]
        assert row["story"].isascii() and row["story"] == " ".join(row["story"].split()), row["id"]


def test_reference_headlines_are_in_house_style(examples):
    faults = {r["id"]: news.house_style_faults(r["headline"], r["story"]) for r in examples}
    assert {key: found for key, found in faults.items() if found} == {}


def test_no_story_gives_its_section_away_by_name_in_every_case(examples):
    """The word for the section may occur, but can't be the key to it."""
    for section in news.SECTIONS:
        own = [row["story"].lower() for row in examples if row["section"] == section]
        assert sum(section in story for story in own) <= 6, section


def test_stories_begin_in_different_ways(examples):
    openings = Counter(" ".join(row["story"].split()[:3]).lower() for row in examples)
    assert openings.most_common(1)[0][1] <= 2
    assert Counter(row["story"].split()[0] for row in examples).most_common(1)[0][1] <= 24


def near_duplicates(texts, threshold):
    """Pairs of texts whose word 3-grams have at least this Jaccard similarity."""
    grams = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)})
    pairs = itertools.combinations(range(len(texts)), 2)
    return [
        (i, j) for i, j in pairs if len(grams[i] & grams[j]) >= threshold * len(grams[i] | grams[j])
    ]


def test_no_near_duplicates_within_or_across_splits(examples):
    """Stories about different events have a similarity below 0.05, an edited copy above 0.5."""
    stories = [row["story"] for row in examples]
    planted = stories[7].split()
    planted[4] = planted[20] = "otherwise"
    stories.append(" ".join(planted))
    assert near_duplicates(stories, 0.1) == near_duplicates(stories, 0.5) == [(7, 480)]


def test_loading_twice_gives_the_same(data):
    again = news.load_news()
    assert all(data[split].to_list() == again[split].to_list() for split in data)


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
def test_good_headlines_pass(headline):
    assert news.house_style_faults(headline, STORY) == []


@pytest.mark.parametrize(
    ("headline", "fault"),
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
def test_each_rule_finds_its_fault(headline, fault):
    found = news.house_style_faults(headline, STORY)
    assert found == [] if fault is None else len(found) == 1 and fault in found[0]


def test_capitals_only_at_a_sentence_start_are_no_names_if_the_word_is_common():
    story = "Strike looms in Halvik. The strike may last."
    assert news.house_style_faults("Halvik braces for Strike today", story)


def test_all_faults_are_listed():
    """The headline is too short, has a wrong first letter, a wrong capital and a past form."""
    assert len(news.house_style_faults("teachers Won a", STORY)) == 4


def test_the_prompt_states_the_numbers_that_are_checked():
    assert f"{news.SHORTEST_HEADLINE} to {news.LONGEST_HEADLINE} words" in news.HOUSE_STYLE


# -- prompts


def test_the_answer_is_one_json_object():
    example = {"section": "sport", "headline": 'Zoë\'s "Owls" win', "story": STORY}
    assert json.loads(news.answer(example)) == {"section": "sport", "headline": 'Zoë\'s "Owls" win'}
    assert "Zoë" in news.answer(example)


def test_zero_shot_prompt_states_task_schema_sections_and_style(examples):
    turns = news.messages(examples[0])
    text = "\n".join(turn["content"] for turn in turns)
    assert turns[-1]["role"] == "user" and examples[0]["story"] in turns[-1]["content"]
    assert all(
        part in text for part in (*news.SECTIONS, news.HOUSE_STYLE, '"section"', '"headline"')
    )
    assert examples[0]["headline"] not in text


def test_each_shot_is_a_turn_of_its_own(examples):
    turns = news.messages(examples[0], shots=examples[1:4])
    talk = [turn for turn in turns if turn["role"] != "system"]
    assert [turn["role"] for turn in talk] == ["user", "assistant"] * 3 + ["user"]
    assert [talk[k]["content"] for k in (1, 3, 5)] == [news.answer(e) for e in examples[1:4]]
    assert all(examples[k + 1]["story"] in talk[2 * k]["content"] for k in range(3))


def test_an_example_can_not_be_its_own_shot(examples):
    with pytest.raises(ValueError, match="own shots"):
        news.messages(examples[0], shots=[examples[1], examples[0]])


def test_the_tuned_prompt_is_short_and_ends_with_the_answer(examples):
    asked, answered = (news.tuned_messages(examples[0], answered=a) for a in (False, True))
    assert asked == answered[:-1] and asked[-1]["role"] == "user"
    assert answered[-1] == {"role": "assistant", "content": news.answer(examples[0])}
    words = [sum(len(m["content"].split()) for m in t) for t in (asked, news.messages(examples[0]))]
    assert words[0] < words[1] / 1.5


# -- a reader's own data


def record(**changes):
    good = {
        "id": "sport-001",
        "split": "train",
        "section": "sport",
        "story": STORY,
        "headline": "Teachers in Halvik vote",
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def test_all_errors_are_gathered_in_one_exception(tmp_path):
    bad = [record(id="a", story=""), record(id="b"), record(id="c", headline=" ", split="y")]
    with pytest.raises(DataError) as error:
        news.load_jsonl(write(tmp_path / "own.jsonl", *bad))
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()] == [
        "3 errors in own.jsonl",
        "line 1",
        "line 3",
        "line 3",
    ]


def test_many_errors_are_counted_not_listed(tmp_path):
    with pytest.raises(DataError, match="30 errors in own.jsonl:(?s:.*)and 10 more"):
        news.load_jsonl(write(tmp_path / "own.jsonl", *[[]] * 30))


def test_a_data_error_is_both_the_courses_and_a_value_error():
    assert issubclass(DataError, CourseError) and issubclass(DataError, ValueError)


PAIRS = [{"prompt": f"question {n}", "answer": f"answer {n}"} for n in range(20)]


def test_prompt_and_answer_become_messages(tmp_path):
    own = news.load_jsonl(write(tmp_path / "own.jsonl", *PAIRS))
    assert {split: len(rows) for split, rows in own.items()} == {"train": 18, "validation": 2}
    assert own["train"].column_names == ["id", "messages"]
    row = own["train"][0]
    n = int(row["id"].removeprefix("line-")) - 1
    assert row["messages"] == [
        {"role": "user", "content": f"question {n}"},
        {"role": "assistant", "content": f"answer {n}"},
    ]


def test_messages_are_kept_as_they_are(tmp_path):
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    own = news.load_jsonl(
        write(tmp_path / "own.jsonl", {"messages": talk, "id": "a"}), validation_share=0
    )
    assert own["train"].to_list() == [{"id": "a", "messages": talk}]


def test_news_records_get_the_tuned_prompt(tmp_path):
    other = record(id="b", split="test", headline="Halvik awaits teachers vote")
    own = news.load_jsonl(write(tmp_path / "own.jsonl", record(), other))
    assert own["train"][0]["messages"] == news.tuned_messages(record())
    assert own["test"]["id"] == ["b"]


def test_the_split_does_not_depend_on_order_and_keeps_equal_prompts_together(tmp_path):
    twice = [*PAIRS, *({**pair, "answer": "another"} for pair in PAIRS)]
    sides = []
    for records in (twice, twice[::-1]):
        own = news.load_jsonl(write(tmp_path / "own.jsonl", *records), validation_share=0.3)
        prompts = {s: {m[0]["content"] for m in own[s]["messages"]} for s in own}
        assert not prompts["train"] & prompts["validation"]
        sides.append(prompts)
    assert sides[0] == sides[1] and len(sides[0]["validation"]) == 6


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 1), (9, 1)])
def test_small_files_hold_out_one_prompt_where_they_can(tmp_path, count, held_out):
    own = news.load_jsonl(write(tmp_path / "own.jsonl", *PAIRS[:count]))
    assert len(own.get("validation", [])) == held_out and len(own["train"]) == count - held_out


def test_windows_files_and_blank_lines_are_read(tmp_path):
    path = write(
        tmp_path / "own.jsonl", "\ufeff" + json.dumps(PAIRS[0]), "", "  ", PAIRS[1], newline="\r\n"
    )
    own = news.load_jsonl(path, validation_share=0)
    assert own["train"]["id"] == ["line-1", "line-4"]


def test_a_line_separator_inside_text_does_not_end_a_line(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b", "answer": "c"}, ensure_ascii=False), "utf-8")
    assert news.load_jsonl(path)["train"][0]["messages"][0]["content"] == "a\u2028b"


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ({"prompt": "x", "answer": " "}, "'answer' is empty"),
        ({"prompt": "x"}, "no 'answer'"),
        ({"prompt": 3, "answer": "y"}, "'prompt' must be text, got int"),
        ({"question": "x", "answer": "y"}, "needs messages or prompt+answer or section+story"),
        ({}, "has no key"),
        ({"prompt": "x", "answer": "y", "extra": 1}, "unknown key 'extra'"),
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
        ('{"prompt": "x", ', "not JSON"),
        (PAIRS[0], "same example as line 1"),
    ],
)
def test_errors_in_own_data_have_their_line(tmp_path, bad, fault):
    path = write(tmp_path / "own.jsonl", PAIRS[0], "", bad)
    with pytest.raises(DataError) as error:
        news.load_jsonl(path)
    line = "line 1: has no split, but other lines have one" if fault is None else "line 3: "
    assert str(error.value).startswith(f"1 error in own.jsonl:\n  {line}")
    assert (fault or "") in str(error.value)


def test_named_splits_must_include_train(tmp_path):
    path = write(tmp_path / "own.jsonl", *({**pair, "split": "test"} for pair in PAIRS))
    with pytest.raises(DataError, match="no line's split is train"):
        news.load_jsonl(path)


def test_a_file_in_another_encoding_is_named_with_the_line(tmp_path):
    path = tmp_path / "own.jsonl"
    text = json.dumps({"prompt": "café", "answer": "y"}, ensure_ascii=False)
    path.write_bytes(json.dumps(PAIRS[0]).encode() + b"\n" + text.encode("latin-1"))
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        news.load_jsonl(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "own.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"own\.jsonl has no examples"):
        news.load_jsonl(tmp_path / "own.jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        news.load_jsonl(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("share", [-0.1, 1, 2])
def test_a_share_must_leave_something_to_train_on(tmp_path, share):
    with pytest.raises(ValueError, match="validation_share"):
        news.load_jsonl(write(tmp_path / "own.jsonl", *PAIRS), validation_share=share)
