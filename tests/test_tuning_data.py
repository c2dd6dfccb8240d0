"""Test how a user's own file is read, checked, held out in part, and tokenized."""

from __future__ import annotations

import json

import datasets
import pytest

from course_utils import sft
from course_utils.machine.validation import CourseError
from course_utils.tuning.base import prepare_tokenizer
from course_utils.tuning.data import check_lengths, is_short, read_data
from course_utils.tuning.rows import DataError
from tests.conftest import make_tokenizer


def pairs(count=20, **changes):
    return [{"prompt": f"question {n}", "answer": f"answer {n}"} | changes for n in range(count)]


PAIRS = pairs()
SHARE_GPT = [
    {"role": "developer", "content": "s"},
    {"from": "human", "value": "Q"},
    {"from": "gpt", "value": "b"},
]
COMMANDS = "name the keys of prompt and answer with --prompt and --answer (prompt=, answer=)"


@pytest.fixture
def own(tmp_path):
    """A function that writes records to own.jsonl and returns the path."""

    def write(*records, newline="\n"):
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path = tmp_path / "own.jsonl"
        path.write_bytes((newline.join(lines) + newline).encode())
        return path

    return write


def error_of(path, **options):
    with pytest.raises(DataError) as raised:
        read_data(path, **options)
    return str(raised.value)


def by_line(data):
    lines = data.train_lines + data.held_out_lines
    return dict(sorted(zip(lines, data.train + data.held_out, strict=True)))


def chat(*contents, system=None):
    turns = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return turns + [{"role": roles[n % 2], "content": c} for n, c in enumerate(contents)]


# -- keys


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": chat("Q", "b")}, chat("Q", "b")),
        ({"messages": chat("Q", "b", "c", "d", system="s")}, chat("Q", "b", "c", "d", system="s")),
        ({"messages": chat("Q", "b", "c", "d")[1:]}, None),
        ({"conversations": chat("Q", "b")}, chat("Q", "b")),
        ({"conversations": SHARE_GPT}, chat("Q", "b", system="s")),
        ({"prompt": "Q", "response": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "response": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "context": "c", "response": "b"}, chat("Q\n\nc", "b")),
        ({"prompt": "Q", "answer": "b"}, chat("Q", "b")),
        ({"prompt": "Q", "completion": "b"}, chat("Q", "b")),
        ({"prompt": chat("Q", system="s"), "completion": chat("", "b")[1:]}, None),
        ({"question": "Q", "answer": ["b"]}, chat("Q", "b")),
        ({"instruction": "Q", "output": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "input": "", "output": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "input": None, "output": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "input": "i", "output": "b"}, chat("Q\n\ni", "b")),
    ],
)
def test_keys_are_recognized(own, record, expected):
    if expected is None:  # The messages of all values, one after another.
        expected = [turn for turns in record.values() for turn in turns]

    def numbered(value, n):
        return json.loads(json.dumps(value).replace('"Q', f'"Q{n}').replace('"b"', f'"b{n}"'))

    data = read_data(own(*(numbered(record, n) for n in range(12))))
    assert by_line(data) == {n + 1: numbered(expected, n) for n in range(12)}
    assert data.name == "own.jsonl" and not any("ignored" in note for note in data.notes)


def test_keys_that_are_named_are_used_and_the_others_are_noted(own):
    records = [{"query": f"q{n}", "gold": f"g{n}", "prompt": 3, "answer": None} for n in range(12)]
    data = read_data(own(*records), prompt="query", answer="gold")
    assert by_line(data) == {n + 1: chat(f"q{n}", f"g{n}") for n in range(12)}
    assert "These keys are ignored: 'prompt'." in data.notes


@pytest.mark.parametrize("keys", [{"prompt": "a"}, {"answer": "a"}, {"prompt": "a", "answer": "a"}])
def test_both_keys_must_be_named_and_differ(own, keys):
    assert error_of(own(*PAIRS), **keys) == f"{COMMANDS}: two different keys, or none"


@pytest.mark.parametrize(
    ("record", "keys"),
    [
        ({"query": "x", "gold": "y"}, "'query', 'gold'"),
        ({"prompt": "x", "answer": "y", "completion": "z"}, "'prompt', 'answer', 'completion'"),
        ({}, "no keys"),
        ({f"k{n}": 1 for n in range(1010)}, "'k0', 'k1', 'k2', 'k3', 'k4', 'k5', 'k6', 'k7' and"),
    ],
)
def test_unknown_and_ambiguous_keys_raise_one_error_that_lists_the_known_ones(own, record, keys):
    message = error_of(own(record, record))
    assert message.startswith(f"1 error in own.jsonl:\n  line 1: has {keys}")
    assert message.endswith(
        "must have exactly one of these sets of keys: 'messages'; 'conversations'; 'prompt', "
        "'answer'; 'prompt', 'completion'; 'prompt', 'response'; 'question', 'answer'; "
        "'instruction', 'output'; 'instruction', 'response'. To use other keys, "
        f"{COMMANDS}"
    )


# -- errors


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"prompt": "x"}, "no 'answer', only 'prompt'"),
        ({"input": "x", "output": "y"}, "no 'prompt', 'answer', only 'input', 'output'"),
        ({"prompt": "x", "answer": " "}, "'answer' is empty"),
        ({"prompt": "x", "answer": None}, "'answer' must be text or a list of messages, got null"),
        ({"prompt": [], "answer": "y"}, "'prompt' must be text or a list of messages, got []"),
        (
            {"prompt": ["x", "z"], "answer": "y"},
            "message 1 must be a JSON object with 'content' and",
        ),
        ({"prompt": chat("x", "y"), "answer": "z"}, "the last two messages must be the user's"),
        ([1, 2], "must be a JSON object, got [1, 2]"),
        ('{"prompt": "x", }', "not JSON that Python can read: "),
        ({"answer": "x", "rejected": "y", "images": [1]}, "has 'rejected', 'images': preferences,"),
        ('{"prompt": ' + 5000 * "1" + "}", "not JSON that Python can read: Exceeds the limit"),
        (100_000 * "[", "not JSON that Python can read: maximum recursion depth"),
    ],
)
def test_an_error_is_reported_with_its_line(own, bad, error):
    assert error_of(own(*PAIRS, "", bad)).startswith(f"1 error in own.jsonl:\n  line 22: {error}")


@pytest.mark.parametrize(
    ("turns", "error"),
    [
        ("hello", "the last two messages must be the user's prompt and the assistant's answer"),
        (chat("x", "y", "z"), "the last two messages must be the user's prompt"),
        ([[], *chat("", "y")[1:]], "message 1 must be a JSON object with 'content' and a 'role'"),
        ([{"role": "bot", "content": "x"}], "message 1 must be a JSON object with 'content'"),
        ([{"role": "user"}, *chat("x", "y")], "the 'content' of message 1 must be text, got null"),
        (chat("x", [{"type": "text"}]), "the 'content' of message 2 must be text, got [{"),
        (chat(" ", "y"), "the 'content' of message 1 is empty"),
        (
            [*chat("x", "y"), {"role": "tool", "content": "z"}],
            "has 'tool': preferences, tool calls",
        ),
    ],
)
def test_an_error_in_messages_is_reported(own, turns, error):
    good = [{"messages": chat(f"q{n}", "a")} for n in range(12)]
    message = error_of(own(*good, {"messages": turns}))
    assert message.startswith(f"1 error in own.jsonl:\n  line 13: {error}")


def test_each_kind_of_error_is_listed_once_with_its_first_lines(own):
    answers = [{"prompt": "a", "answer": value} for value in ("", 3, 4, "")]
    message = error_of(own(PAIRS[0], *answers, "{", *[[]] * 1030))
    assert message.splitlines() == [
        "1,035 errors in own.jsonl:",
        "  2 rows (lines 2, 5): 'answer' is empty",
        "  2 rows (lines 3, 4), for example line 3: 'answer' must be text or a list of messages, "
        "got 3",
        "  line 6: not JSON that Python can read: Expecting property name enclosed in double "
        "quotes: column 2 (char 1)",
        "  1,030 rows (lines 7, 8, 9, 10, 11 and 1,025 more): must be a JSON object, got []",
    ]


@pytest.mark.parametrize("bad", ['{"a": "b",}', "{'a': 1}", "{“a”: 1}", '[{"a": 1},\n]'])
def test_an_error_in_json_says_which_quotes_and_commas_are_wrong(own, bad):
    assert "JSON has straight double quotes and no comma before } or ]" in error_of(own(bad))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "own.jsonl can't be read: "),
        (b"\xef\xbb\xbf\n \r\n", "own.jsonl has no rows"),
        ('{}\n{"é": 1}'.encode("latin-1"), "own.jsonl is not UTF-8 text in line 2: save it as"),
        (b"\x1f\x8b\x08", "own.jsonl is not UTF-8 text in line 1: save it as JSONL or CSV in UTF"),
        (b"[\n1,\n2 3]", "1 error in own.jsonl:\n  line 3: not JSON that Python can read: Exp"),
        (b'[{"prompt": "x", "answer": "y"}, 3]', "1 error in own.jsonl:\n  row 2: must be a JSON"),
        (b'{\n"prompt": "x"\n}', "3 errors in own.jsonl:\n  line 1: not JSON"),
    ],
)
def test_a_file_that_is_not_jsonl_raises_an_error(tmp_path, content, error):
    if content is not None:
        (tmp_path / "own.jsonl").write_bytes(content)
    assert error_of(tmp_path / "own.jsonl").removeprefix(f"{tmp_path}/").startswith(error)


def test_files_may_have_a_byte_order_mark_crlf_and_blank_lines(own):
    first = "\ufeff" + json.dumps(PAIRS[0])
    # A Unicode line separator does not end a line.
    last = json.dumps({"prompt": "a\u2028b", "answer": "c"}, ensure_ascii=False)
    data = read_data(own(first, "", "  ", *PAIRS[1:], last, newline="\r\n"))
    assert list(by_line(data)) == [1, *range(4, 24)]
    assert by_line(data)[23] == chat("a\u2028b", "c")
    assert by_line(data)[1] == chat("question 0", "answer 0")


@pytest.mark.parametrize(("name", "separator"), [("own.CSV", ","), ("own.tsv", "\t")])
def test_a_table_is_read_without_changes(tmp_path, name, separator):
    path = tmp_path / name
    rows = [[str(n), f'"What, {n}?"', f'"Two\nlines ""{n}"""'] for n in range(11)]
    table = [["nr", "question", "answer"], *rows, ["11", "NA", "007"]]
    path.write_text("".join(separator.join(row) + "\r\n" for row in table), "utf-8-sig")
    data = read_data(path)
    assert by_line(data)[3] == chat("What, 0?", 'Two\nlines "0"')
    assert list(by_line(data).values())[-1] == chat("NA", "007")
    assert "These keys are ignored: 'nr'." in data.notes


def test_lists_parquet_files_and_data_sets_on_the_hub_are_read_by_row(tmp_path, monkeypatch):
    rows = [*PAIRS, PAIRS[7]]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "own.parquet")
    (tmp_path / "own.json").write_text(json.dumps(rows, indent=1))
    read = [read_data(tmp_path / name) for name in ("own.parquet", "own.json")]
    parts = datasets.DatasetDict(train=table.select(range(10)), test=table.select(range(10, 21)))
    monkeypatch.setattr(datasets, "load_dataset", {"me/own-2.5": parts}.__getitem__)
    read.append(read_data("me/own-2.5"))
    for data in read:
        assert by_line(data) == {n + 1: chat(f"question {n}", f"answer {n}") for n in range(20)}
        assert "Rows that repeat an earlier row are left out (row 21)." in data.notes
    assert read[-1].name == "me/own-2.5" and sorted(read[-1].held_out_lines) == [*range(11, 21)]
    assert error_of("me/other").startswith("me/other can't be read as a file or as a data set on")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("a,b,c", "line 2: has more cells than the first row"),
        ("a", "line 2: 'answer' must be text or a list of messages, got null"),
        ("a,", "line 2: 'answer' is empty"),
        ('a,"b', "line 2: not CSV: unexpected end of data"),
    ],
)
def test_errors_in_a_table_are_reported(tmp_path, row, error):
    (tmp_path / "own.csv").write_text(f"prompt,answer\n{row}\n")
    assert error in error_of(tmp_path / "own.csv")


# -- held-out rows


@pytest.mark.parametrize(
    ("count", "share", "held"), [(10, 0.1, 5), (100, 0.1, 10), (10, 0.5, 5), (3000, 0.1, 100)]
)
def test_a_share_of_5_to_100_rows_is_held_out(own, count, share, held):
    data = read_data(own(*pairs(count)), held_out=share)
    assert (len(data.train), len(data.held_out)) == (count - held, held)
    assert data.train_lines == sorted(data.train_lines)


def test_the_choice_is_independent_of_the_order_and_separates_no_equal_prompts(own):
    twice = [*PAIRS, *({**pair, "answer": "another"} for pair in PAIRS)]
    choices = []
    for records in (twice, twice[::-1]):
        data = read_data(own(*records), held_out=0.3)
        held = [messages[0]["content"] for messages in data.held_out]
        assert len(held) == 12 and not set(held) & {m[0]["content"] for m in data.train}
        choices.append(held)
    assert choices[0] == choices[1]
    assert held[::2] == held[1::2], "rows with the same prompt follow each other"


def with_splits(*splits):
    rows = zip(pairs(len(splits)), splits, strict=True)
    return [{**pair, "split": split} for pair, split in rows]


def test_rows_for_validation_and_test_are_held_out(own):
    splits = with_splits("validation", *["train"] * 20, *["test"] * 5)
    data = read_data(own(*splits, splits[-1]))
    assert sorted(data.held_out_lines) == [1, *range(22, 27)]
    assert data.train_lines == list(range(2, 22))
    renamed = [{"q": r["prompt"], "a": r["answer"], "split": r["split"]} for r in splits]
    again = read_data(own(*renamed), prompt="q", answer="a")
    assert again.held_out == data.held_out


@pytest.mark.parametrize(
    ("records", "error"),
    [
        (
            [*PAIRS[:2], *with_splits(*["train"] * 12)[2:]],
            "2 rows (lines 1, 2): 'split' must be train, validation or test in all rows or in "
            "none, got None",
        ),
        (with_splits(*["train"] * 12, "dev"), "line 13: 'split' must be train, validation or test"),
        (with_splits(*["test"] * 12), "0 rows for training and 12 rows that can be held out"),
        (with_splits(*["test"] * 4, *["train"] * 12), "12 rows for training and 4 rows that can"),
        ([*PAIRS[:9], {**PAIRS[0], "answer": "another"}], "own.jsonl has 9 different prompts"),
        ([{"prompt": f"q{n % 10}", "answer": f"a{n}"} for n in range(2010)], "and 0 rows that can"),
    ],
)
def test_rows_that_cannot_be_divided_are_refused(own, records, error):
    assert error in error_of(own(*records))


@pytest.mark.parametrize("share", [-0.1, 0, 0.6, 1])
def test_a_share_outside_its_range_raises_an_error(own, share):
    with pytest.raises(ValueError, match=r"held_out must be above 0 and at most 0\.5, got"):
        read_data(own(*PAIRS), held_out=share)


# -- notes


def test_good_data_has_no_notes(own):
    assert read_data(own(*pairs(200, id=3))).notes == ()


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({1: {"prompt": "question 2"}}, "Rows have the same prompt, but different answers (lines"),
        ({4: {"answer": " a\n"}}, "White space around answers was removed (line 5)."),
        ({4: {"source": "web"}, 9: {"b": 1}}, "These keys are ignored: 'source', 'b'."),
        (
            {n: pairs()[0] for n in range(1, 8)},
            "Rows that repeat an earlier row are left out (lines 2, 3, 4, 5, 6 and 2 more).",
        ),
    ],
)
def test_what_is_unusual_is_noted(own, changes, note):
    rows = [row | changes.get(n, {}) for n, row in enumerate(pairs(200))]
    (found,) = read_data(own(*rows)).notes
    assert found.startswith(note)


def test_few_rows_and_prompts_on_both_sides_are_noted(own):
    rows = with_splits(*["test"] * 20, *["train"] * 50)
    rows[0]["prompt"] = rows[30]["prompt"]
    notes = read_data(own(*rows)).notes
    assert any(note.startswith("Held-out rows have a prompt that training") for note in notes)
    assert any(note.startswith("Only 50 examples are left for training.") for note in notes)
    many = read_data(own(*with_splits(*["test"] * 1200, *["train"] * 200)))
    assert (len(many.train), len(many.held_out)) == (200, 100)
    assert many.notes == ("Only 100 of 1,200 held-out rows are used.",)


# -- tokens


def test_the_features_are_those_of_sft(own, tokenizer):
    data = read_data(own(*PAIRS))
    train, held_out = check_lengths(data, tokenizer, 100)
    assert train == sft.encode_all(data.train, tokenizer)
    assert held_out == sft.encode_all(data.held_out, tokenizer)


def test_all_answers_of_messages_are_trained_and_the_last_answer_is_measured(own, tokenizer):
    rows = [{"messages": chat(f"q{n}", " a", "b", "c")} for n in range(12)]
    data = read_data(own(*rows))
    assert data.turns == "all" and "all of the assistant's answers" in data.graded
    assert "White space around answers was removed (lines 1, 2, 3, 4, 5 and 7 more)." in data.notes
    train, held_out = check_lengths(data, tokenizer, 100)
    assert train == sft.encode_all(data.train, tokenizer, turns="all") and len(train) == 7
    assert {len(sft.graded_runs(row)) for row in train} == {2}
    assert held_out == sft.encode_all(data.held_out, tokenizer)
    # Of a prompt's messages, none is an answer to learn.
    data = read_data(own(*({"prompt": m["messages"][:3], "answer": "c"} for m in rows)))
    assert data.turns == "last" and "each row's answer" in data.graded
    assert by_line(data)[1] == chat("q0", " a", "b", "c")
    assert {len(sft.graded_runs(row)) for row in check_lengths(data, tokenizer, 100)[0]} == {1}


def test_an_earlier_answer_must_be_readable_too(own, tokenizer):
    rows = [{"messages": chat(f"q{n}", "a", "b", "c"), "split": "train"} for n in range(12)]
    held_out = [{"messages": chat(f"r{n}", "a"), "split": "test"} for n in range(5)]
    rows[2]["messages"][1]["content"] = "a<|im_end|>"
    with pytest.raises(
        DataError, match=r"1 error in .*\n  line 3: an answer contains the end token"
    ):
        check_lengths(read_data(own(*rows, *held_out)), tokenizer, 100)
    drops = make_tokenizer()
    drops.chat_template = drops.chat_template.replace("m['content']", "m['content'].lstrip('<')")
    rows[2]["messages"][1]["content"] = "<a"
    with pytest.raises(DataError, match=r"1 error in .*\n  line 3: can't be .* rewrites earlier"):
        check_lengths(read_data(own(*rows, *held_out)), drops, 100)


def test_held_out_prompts_that_an_earlier_answer_belongs_to_are_noted(own):
    rows = [{"messages": chat(f"q{n}", "a", "b", "c"), "split": "train"} for n in range(120)]
    held_out = [{"messages": chat(f"r{n}", "a"), "split": "test"} for n in range(5)]
    assert read_data(own(*rows, *held_out)).notes == ()
    held_out[0]["messages"][0]["content"] = "q7"
    (note,) = read_data(own(*rows, *held_out)).notes
    assert note.startswith("Held-out rows have a prompt that training rows have, too (line 121).")


def test_examples_that_are_too_long_are_listed_with_their_lengths(own, tokenizer):
    rows = [*PAIRS, {"prompt": "q" * 900, "answer": "a"}, {"prompt": "q", "answer": "a" * 1200}]
    data = read_data(own(*rows))
    with pytest.raises(DataError) as raised:
        check_lengths(data, tokenizer, 500)
    begin = len(sft.prompt_ids(chat("q"), tokenizer)) - 1
    assert str(raised.value) == (
        "2 errors in own.jsonl:\n"
        f"  2 rows (lines 21, 22), for example line 21: {begin + 902} tokens, of which "
        f"{begin + 900} belong to prompts, are too long\n"
        f"The maximum length is 500 tokens, and the longest example has {begin + 1202:,}: shorten "
        "the long examples, leave them out with --skip-long (skip_long=True), or raise the maximum "
        "with --max-length (max_length=)."
    )
    assert max(len(f["input_ids"]) for f in check_lengths(data, tokenizer, begin + 1202)[0])


def test_examples_that_are_too_long_can_be_left_out(own, tokenizer):
    rows = [*PAIRS, {"prompt": "q" * 900, "answer": "a"}, {"prompt": "x\ud83d", "answer": "a"}]
    path = own(*rows)
    data = read_data(path, fits=lambda row: is_short(row, tokenizer, 500))
    assert list(by_line(data)) == [*range(1, 21), 22]
    assert "Rows that are too long are left out (line 21)." in data.notes
    with pytest.raises(DataError, match=r"^1 error in own.jsonl:\n  line 22: can't be tokenized"):
        check_lengths(data, tokenizer, 500)


def test_rows_that_the_tokenizer_cannot_treat_are_errors(own, monkeypatch):
    tokenizer = make_tokenizer()
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", refusal + tokenizer.chat_template)
    bad = [
        {"prompt": chat("q", system="s"), "answer": "a"},
        {"prompt": "x\ud83d", "answer": "a"},
        {"prompt": "q", "answer": "a<|im_end|>"},
    ]
    with pytest.raises(DataError) as raised:
        check_lengths(read_data(own(*PAIRS, *bad)), tokenizer, 500)
    first, *lines = str(raised.value).splitlines()
    assert first == "3 errors in own.jsonl:"
    assert lines[0] == "  line 21: can't be tokenized for this model: no system"
    assert lines[1].startswith("  line 22: can't be tokenized for this model: ")
    assert lines[2].startswith("  line 23: an answer contains the end token <|im_end|>")


@pytest.mark.parametrize("end_token", [None, "<|endoftext|>", "<|im_end|>"])
def test_the_token_that_ends_messages_in_the_template_becomes_the_end_token(end_token):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = end_token
    prepare_tokenizer(tokenizer)
    assert sft.answer_ids("Yes", tokenizer)[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (None, "the tokenizer has no chat template, so it can't turn a conversation into text"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "would never learn to stop"),
        ("{% for m in messages %}{{ m.content }} END{% endfor %}", "would never learn to stop"),
    ],
)
def test_a_tokenizer_that_cannot_end_answers_is_refused(template, error):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(CourseError, match=error):
        prepare_tokenizer(tokenizer)
