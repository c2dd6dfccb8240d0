"""Test how a user's own file is read, checked, held out in part, and tokenized."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from course_utils import news, sft
from course_utils.tuning.data import (
    DataError,
    check_lengths,
    prepare_tokenizer,
    read_data,
)
from course_utils.validation import CourseError
from tests import bad_files
from tests.conftest import make_tokenizer

PAIRS = [{"prompt": f"question {n}", "answer": f"answer {n}"} for n in range(20)]
PAIRS_AS_MESSAGES = [
    {
        "messages": [
            {"role": "user", "content": pair["prompt"]},
            {"role": "assistant", "content": pair["answer"]},
        ]
    }
    for pair in PAIRS
]
NEWS = {
    "section": "sport",
    "story": "Teachers in Halvik vote on Friday.",
    "headline": "Teachers in Halvik vote",
}
COMMANDS = "name the keys of prompt and answer with --prompt and --answer (prompt=, answer=)"


def write(path, *records, newline="\n"):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


@pytest.fixture
def own(tmp_path):
    """A function that writes records to own.jsonl and returns the path."""
    return lambda *records, **options: write(tmp_path / "own.jsonl", *records, **options)


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


# -- forms


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": chat("Q", "b")}, chat("Q", "b")),
        ({"messages": chat("Q", "b", "c", "d", system="s")}, chat("Q", "b", "c", "d", system="s")),
        ({"prompt": "Q", "answer": "b"}, chat("Q", "b")),
        ({"prompt": "Q", "completion": "b"}, chat("Q", "b")),
        ({"prompt": "Q", "response": "b"}, chat("Q", "b")),
        ({"question": "Q", "answer": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "output": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "input": "", "output": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "input": None, "output": "b"}, chat("Q", "b")),
        ({"instruction": "Q", "input": "i", "output": "b"}, chat("Q\n\ni", "b")),
        ({"input": "Q", "output": "b"}, chat("Q", "b")),
        ({"input": "Q", "ideal": "b"}, chat("Q", "b")),
        ({"input": "Q", "ideal": ["b"]}, chat("Q", "b")),
        ({"input": chat("Q", system="s"), "ideal": ["b"]}, chat("Q", "b", system="s")),
        ({"input": chat("Q", "b", "c"), "ideal": "d"}, chat("Q", "b", "c", "d")),
        (NEWS, news.tuned_messages(NEWS)),
    ],
)
def test_each_form_is_recognized(own, record, expected):
    def numbered(value, n):
        """The record with a number after the text of the last message before the answer."""
        return json.loads(json.dumps(value).replace('"Q', f'"Q{n}').replace("Friday", f"day {n}"))

    data = read_data(own(*(numbered(record, n) for n in range(12))))
    assert by_line(data) == {n + 1: numbered(expected, n) for n in range(12)}
    assert data.name == "own.jsonl"


def test_lines_may_have_a_system_message_or_none(own):
    records = [{"messages": chat(f"q{n}", "a", system="s" * (n % 2))} for n in range(12)]
    assert len(by_line(read_data(own(*records)))) == 12


def test_a_conversation_may_begin_with_the_assistant(own):
    begun = [{"role": "assistant", "content": "Hi"}, *chat("x", "y")]
    assert by_line(read_data(own(*PAIRS_AS_MESSAGES, {"messages": begun})))[21] == begun


def test_keys_that_are_named_are_used_and_the_others_are_ignored(own):
    records = [
        {"query": f"q{n}", "gold": [f"g{n}"], "prompt": 3, "answer": None, "id": None}
        for n in range(12)
    ]
    data = read_data(own(*records), prompt="query", answer="gold")
    assert by_line(data) == {n + 1: chat(f"q{n}", f"g{n}") for n in range(12)}
    assert not any("ignored" in note for note in data.notes)


def test_keys_that_are_named_replace_the_form_that_would_be_recognized(own):
    records = [{"instruction": f"q{n}", "input": "i", "output": f"a{n}"} for n in range(12)]
    data = read_data(own(*records), prompt="instruction", answer="output")
    assert by_line(data)[1] == chat("q0", "a0")


@pytest.mark.parametrize("keys", [{"prompt": "a"}, {"answer": "a"}, {"prompt": "a", "answer": "a"}])
def test_both_keys_must_be_named_and_differ(own, keys):
    assert error_of(own(*PAIRS), **keys) == f"{COMMANDS}: two different keys, or none"


def test_ids_may_be_numbers(own):
    assert len(by_line(read_data(own(*({**pair, "id": n} for n, pair in enumerate(PAIRS)))))) == 20


# -- errors in a line


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"prompt": "x"}, "no 'answer'"),
        ({"answer": "x"}, "no 'prompt'"),
        ({"prompt": "x", "answer": " "}, "'answer' is empty"),
        ({"prompt": "x", "answer": 3}, "'answer' must be text, got a number"),
        ({"prompt": "x", "answer": None}, "'answer' must be text, got null"),
        ({"prompt": "x", "answer": True}, "'answer' must be text, got true"),
        ({"prompt": "x", "answer": {}}, "'answer' must be text, got an object"),
        ({"prompt": "x", "answer": []}, "'answer' is empty"),
        ({"prompt": "x", "answer": [["y"]]}, "'answer' must be text, got a list"),
        (
            {"prompt": "x", "answer": ["y", "z"]},
            "'answer' has 2 texts, but a model can learn only one: keep one",
        ),
        ({"prompt": "", "answer": "y"}, "'prompt' is empty"),
        ({"prompt": [], "answer": "y"}, "'prompt' is empty"),
        (
            {"prompt": 3.5, "answer": "y"},
            "'prompt' must be text or a list of messages, got a number",
        ),
        (
            {"prompt": chat("x", "y"), "answer": "z"},
            "the last message of 'prompt' must be the user's",
        ),
        (
            {"prompt": ["x"], "answer": "y"},
            "message 1: must be a JSON object with 'role' and 'content', got text",
        ),
        (
            {"prompt": "x\ud83d", "answer": "y"},
            "'prompt' contains half of a character: 'x\\ud83d'",
        ),
        (
            {"prompt": "x", "answer": "y", "id": "\ud83d"},
            "'id' contains half of a character: '\\ud83d'",
        ),
        ({"prompt": "x", "answer": "y", "id": " "}, "'id' is empty"),
        ({"prompt": "x", "answer": "y", "id": []}, "'id' must be text or a number, got a list"),
        ({"prompt": "x", "answer": "y", "id": True}, "'id' must be text or a number, got true"),
        ({"prompt": "x", "answer": "y", "id": 7}, "same id as line 1"),
        (
            {"prompt": "x", "answer": "y", "split": "dev"},
            "the split 'dev' must be one of train, validation, test",
        ),
        ([1, 2], "must be a JSON object, got a list"),
        ("null", "must be a JSON object, got null"),
        ('"x"', "must be a JSON object, got text"),
        ('{"prompt": "x", ', "not JSON: Expecting property name enclosed in double quotes"),
        ('{"prompt": ' + 5000 * "1" + "}", "not JSON that Python can read: Exceeds the limit"),
        (100_000 * "[", "not JSON that Python can read: maximum recursion depth"),
        (
            {"input": "x", "ideal": "y"},
            "has 'input' and 'ideal', but line 1 has 'prompt' and 'answer': all lines must have "
            "the same form",
        ),
    ],
)
def test_an_error_is_reported_with_its_line(own, bad, error):
    if isinstance(bad, dict) and "split" in bad:
        pairs = [{**pair, "split": "train"} for pair in PAIRS[1:]]
        first = {**PAIRS[0], "split": "train"}
    else:
        pairs, first = PAIRS[1:], {**PAIRS[0], "id": 7}
    message = error_of(own(first, *pairs, "", bad))
    assert message.startswith(f"1 error in own.jsonl:\n  line 22: {error}")


@pytest.mark.parametrize(
    ("turns", "error"),
    [
        ("hello", "'messages' must be a list with a user's message and an assistant's message"),
        (chat("x"), "'messages' must be a list with a user's message and an assistant's message"),
        (
            [[], {"role": "assistant", "content": "y"}],
            "message 1: must be a JSON object with 'role' and 'content', got a list",
        ),
        ([{"role": "user"}, {"role": "assistant", "content": "y"}], "message 1: no 'content'"),
        (
            [{"role": "user", "content": [{"type": "text"}]}, *chat("y")],
            "message 1: 'content' must be text, got a list",
        ),
        (
            [{"role": "bot", "content": "x"}, {"role": "user", "content": "y"}],
            "message 1: the role 'bot' must be one of system, user, assistant",
        ),
        (
            chat("x", "y", "z"),
            "the last message must be the assistant's, because it is the answer to learn",
        ),
        (
            [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}],
            "the message before the assistant's last message must be the user's",
        ),
    ],
)
def test_an_error_in_messages_is_reported(own, turns, error):
    good = [{"messages": chat(f"q{n}", "a")} for n in range(12)]
    message = error_of(own(*good, {"messages": turns}))
    assert message == f"1 error in own.jsonl:\n  line 13: {error}"


@pytest.mark.parametrize(
    ("record", "bad", "error"),
    [
        (NEWS, {"headline": " "}, "'headline' is empty"),
        ({"instruction": "a", "output": "b"}, {"instruction": ["x"]}, "'instruction' must be text"),
        ({"instruction": "a", "output": "b"}, {"input": 3}, "'input' must be text, got a number"),
        ({"input": "a", "ideal": "b"}, {"ideal": ["x", "y"]}, "'ideal' has 2 texts, but a model"),
    ],
)
def test_an_error_in_another_form_is_reported(own, record, bad, error):
    message = error_of(own(record, {**record, **bad}))
    assert message.startswith(f"1 error in own.jsonl:\n  line 2: {error}")


def test_the_errors_of_all_lines_are_in_one_exception_in_order(own):
    bad = ["{", {"prompt": "", "answer": ""}, 3, PAIRS[0], {**PAIRS[1], "split": "x"}]
    message = error_of(own(PAIRS[0], *bad))
    assert [line.partition(", ")[0] for line in message.splitlines()] == [
        "8 errors in own.jsonl:",
        "  line 1: has no split",
        "  line 2: not JSON: Expecting property name enclosed in double quotes at character 2",
        "  line 3: 'answer' is empty",
        "  line 3: 'prompt' is empty",
        "  line 3: has no split",
        "  line 4: must be a JSON object",
        "  line 5: has no split",
        "  line 6: the split 'x' must be one of train",
    ]


def test_only_the_first_20_errors_are_listed(own):
    message = error_of(own(PAIRS[0], *[[]] * 1030))
    assert message.startswith("1,030 errors in own.jsonl:\n  line 2: must be a JSON object")
    assert message.endswith("\n  line 21: must be a JSON object, got a list\n  and 1,010 more")


def test_the_first_line_of_another_form_is_named_once(own):
    others = [{"input": f"q{n}", "output": "a"} for n in range(9)]
    assert error_of(own(*PAIRS, *others)).count("line 21: has 'input' and 'output'") == 1


def test_an_instruction_with_an_input_differs_from_an_input(own):
    alpaca = {"instruction": "a", "input": "b", "output": "c"}
    assert error_of(own({"input": "x", "output": "y"}, alpaca)).endswith(
        "line 2: has 'instruction' and 'output', but line 1 has 'input' and 'output': all lines "
        "must have the same form"
    )


def test_unknown_keys_raise_an_error_that_lists_the_known_ones(own):
    record = {"query": "x", "gold": "y"}
    assert error_of(own(record, record)) == (
        "1 error in own.jsonl:\n  line 1: has the keys 'query' and 'gold', but this is no known "
        f"form: {COMMANDS}. Known forms: 'messages'; 'prompt' and 'answer'; 'prompt' and "
        "'completion'; 'prompt' and 'response'; 'question' and 'answer'; 'instruction' and "
        "'output'; 'input' and 'output'; 'input' and 'ideal'; 'section', 'story' and 'headline'"
    )
    assert "line 1: has no key, but this is no known form" in error_of(own({}))
    many = error_of(own({f"k{n}": 1 for n in range(1010)}))
    assert "'k6', 'k7' and 1,002 more, but this is" in many


def test_named_keys_that_no_line_has_raise_an_error(own):
    assert error_of(own(*PAIRS), prompt="prompts", answer="gold") == (
        "1 error in own.jsonl:\n  line 1: has the keys 'prompt' and 'answer', but no line has "
        "'prompts' and 'gold'"
    )
    message = error_of(own(*PAIRS, {"prompt": "x"}), prompt="prompt", answer="answer")
    assert message == "1 error in own.jsonl:\n  line 21: no 'answer'"


def test_keys_that_fit_several_forms_raise_an_error(own):
    assert error_of(own({"prompt": "x", "answer": "y", "response": "z"})) == (
        "1 error in own.jsonl:\n  line 1: can be read in several ways, as 'prompt' and 'answer', "
        f"or 'prompt' and 'response': {COMMANDS}"
    )


# -- errors of the whole file


def test_a_line_that_is_not_utf_8_raises_an_error(tmp_path):
    text = json.dumps({"prompt": "café", "answer": "y"}, ensure_ascii=False)
    path = tmp_path / "own.jsonl"
    path.write_bytes(json.dumps(PAIRS[0]).encode() + b"\n" + text.encode("latin-1"))
    assert error_of(path) == (
        "1 error in own.jsonl:\n  line 2: not UTF-8 (byte 16): save the file as UTF-8"
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "own.jsonl has no examples: it is empty"),
        (b"\xef\xbb\xbf", "own.jsonl has no examples: it is empty"),
        (b"\n \r\n", "own.jsonl has no examples: it has only blank lines"),
        (
            gzip.compress(b"{}", mtime=0),
            "own.jsonl is compressed with gzip: decompress it first, for example with gunzip",
        ),
        (
            b"PK\x03\x04",
            "own.jsonl is a ZIP archive or an office document: extract or export its data first",
        ),
        (b"PAR1", "own.jsonl is a Parquet file: convert it to JSONL first"),
        ("{}".encode("utf-16"), "own.jsonl is encoded as UTF-16: save it as UTF-8"),
        ("{}".encode("utf-16-be"), "own.jsonl is encoded as UTF-16: save it as UTF-8"),
        ("{}".encode("utf-16-le"), "own.jsonl is encoded as UTF-16: save it as UTF-8"),
        (
            b'{\n  "prompt": "x",\n  "answer": "y"\n}\n',
            "own.jsonl has JSON objects that extend over several lines: write each object on one "
            "line",
        ),
    ],
)
def test_a_file_that_is_not_jsonl_raises_an_error(tmp_path, content, error):
    (tmp_path / "own.jsonl").write_bytes(content)
    assert error_of(tmp_path / "own.jsonl") == error


def test_a_missing_file_and_a_folder_raise_an_error(tmp_path, monkeypatch):
    missing = tmp_path / "nowhere.jsonl"
    assert error_of(missing) == f"there is no file {missing}"
    assert error_of(tmp_path) == f"{tmp_path} is a folder: name the JSONL file in it"

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    assert error_of(missing) == f"{missing} can't be read: Permission denied"


def run_advice(message):
    """Run the command at the end of an error message, as a shell would."""
    code = message.splitlines()[-1].removeprefix('  python -c "').removesuffix('"')
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("indent", [None, 2])
def test_the_error_for_a_json_list_names_a_command_that_converts_the_list(tmp_path, indent):
    path = tmp_path / "own.json"
    rows = [*PAIRS, {"prompt": "é", "answer": "ü"}]
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), "utf-8")
    message = error_of(path)
    assert message.startswith(
        "own.json is a JSON list, but each line must be one JSON object.\n"
        'This command converts the list:\n  python -c "import json; '
    )
    run_advice(message)
    assert by_line(read_data(tmp_path / "own.jsonl"))[21] == chat("é", "ü")


@pytest.mark.parametrize(
    ("mark", "name"), [(",", "own.csv"), ("\t", "own.tsv"), (";", "own.jsonl")]
)
def test_the_error_for_a_table_names_a_command_that_converts_the_table(tmp_path, mark, name):
    path = tmp_path / name
    rows = [f"{n}{mark}NA" for n in range(12)]
    path.write_text("\n".join([f"prompt{mark}answer", *rows]), "utf-8")
    message = error_of(path)
    assert message.startswith(
        f"{name} looks like a CSV file, but each line must be one JSON object.\n"
        "This command converts a CSV file:\n"
    )
    run_advice(message)
    new = "own-new.jsonl" if name == "own.jsonl" else "own.jsonl"
    assert by_line(read_data(tmp_path / new))[1] == chat("0", "NA")


def test_the_command_does_not_overwrite_a_file_of_the_same_name(own, tmp_path):
    own(*PAIRS)
    (tmp_path / "own.json").write_text(json.dumps(PAIRS))
    message = error_of(tmp_path / "own.json")
    assert "own-new.jsonl" in message and "own.jsonl" not in message


def test_equal_examples_are_left_out_with_a_note(own):
    spaced = {**PAIRS[4], "answer": " answer 4\n"}
    data = read_data(own(*PAIRS, PAIRS[3], spaced))
    assert list(by_line(data)) == list(range(1, 21))
    note = "2 rows repeat an earlier example and are left out (lines 21 and 22)."
    assert note in data.notes
    once = read_data(own(*PAIRS, PAIRS[3])).notes
    assert "1 row repeats an earlier example and is left out (line 21)." in once


def test_files_may_have_a_byte_order_mark_crlf_and_blank_lines(own):
    first = "\ufeff" + json.dumps(PAIRS[0])
    data = read_data(own(first, "", "  ", *PAIRS[1:], newline="\r\n"))
    assert list(by_line(data)) == [1, *range(4, 23)]
    assert by_line(data)[1] == chat("question 0", "answer 0")


def test_a_unicode_line_separator_does_not_end_a_line(own):
    line = json.dumps({"prompt": "a\u2028b", "answer": "c"}, ensure_ascii=False)
    assert by_line(read_data(own(*PAIRS, line)))[21] == chat("a\u2028b", "c")


@pytest.mark.parametrize("count", [1, 9])
def test_fewer_than_10_different_prompts_are_refused(own, count):
    prompts = "1 different prompt" if count == 1 else "9 different prompts"
    again = {**PAIRS[0], "answer": "another"}
    assert error_of(own(*PAIRS[:count], again)) == (
        f"own.jsonl has only {prompts}, but at least 10 are needed: fewer held-out rows could "
        "not show anything"
    )


# -- held-out rows


@pytest.mark.parametrize(
    ("count", "share", "held"), [(10, 0.1, 5), (100, 0.1, 10), (10, 0.5, 5), (3000, 0.1, 100)]
)
def test_a_share_of_5_to_100_rows_is_held_out(own, count, share, held):
    records = [{"prompt": f"q{n}", "answer": f"a{n}"} for n in range(count)]
    data = read_data(own(*records), held_out=share)
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


def test_a_prompt_of_most_rows_is_for_training(own):
    often = [{"prompt": "q", "answer": f"a{n}"} for n in range(30)]
    data = read_data(own(*PAIRS, *often), held_out=0.5)
    assert {m[0]["content"] for m in data.held_out} == {pair["prompt"] for pair in PAIRS}


def test_rows_of_prompts_with_very_many_answers_cannot_be_held_out(own):
    records = [{"prompt": f"q{n % 10}", "answer": f"a{n}"} for n in range(2010)]
    assert error_of(own(*records)) == (
        "own.jsonl has only 0 rows that can be held out, but at least 5 are needed"
    )


def with_splits(*splits):
    pairs = [{"prompt": f"question {n}", "answer": f"answer {n}"} for n in range(len(splits))]
    return [{**pair, "split": split} for pair, split in zip(pairs, splits, strict=True)]


def test_rows_for_validation_and_test_are_held_out(own):
    data = read_data(own(*with_splits("validation", *["train"] * 20, *["test"] * 5)))
    assert sorted(data.held_out_lines) == [1, *range(22, 27)]
    assert data.train_lines == list(range(2, 22))


def test_rows_that_are_all_for_training_are_held_out_by_hash(own):
    data = read_data(own(*with_splits(*["train"] * 20)))
    assert data.held_out == read_data(own(*PAIRS)).held_out


def test_a_split_counts_even_if_the_keys_are_named(own):
    records = [
        {"q": r["prompt"], "a": r["answer"], "split": r["split"]}
        for r in with_splits(*["test"] * 5, *["train"] * 15)
    ]
    data = read_data(own(*records), prompt="q", answer="a")
    assert sorted(data.held_out_lines) == [1, 2, 3, 4, 5]


def test_a_split_can_be_the_answer(own):
    records = [{"q": f"q{n}", "split": f"word {n}"} for n in range(20)]
    data = read_data(own(*records), prompt="q", answer="split")
    assert by_line(data)[1] == chat("q0", "word 0")


def test_errors_of_splits(own):
    assert error_of(own(*with_splits(*["test"] * 12))) == (
        '1 error in own.jsonl:\n  line 1: no line has the split "train"'
    )
    assert error_of(own(*PAIRS[:2], *with_splits(*["train"] * 12)[2:])) == (
        "2 errors in own.jsonl:\n  line 1: has no split, but other lines have one\n"
        "  line 2: has no split, but other lines have one"
    )
    assert error_of(own(*with_splits(*["test"] * 4, *["train"] * 12))) == (
        "own.jsonl has only 4 rows that can be held out, but at least 5 are needed"
    )


@pytest.mark.parametrize("share", [-0.1, 0, 0.6, 1])
def test_a_share_outside_its_range_raises_an_error(own, share):
    with pytest.raises(ValueError, match=r"held_out must be above 0 and at most 0\.5, got"):
        read_data(own(*PAIRS), held_out=share)


# -- notes


def many(count=200, **changes):
    return [{"prompt": f"question {n}", "answer": f"answer {n}"} | changes for n in range(count)]


def test_good_data_has_no_notes(own):
    assert read_data(own(*many())).notes == ()


def test_few_training_examples_are_noted(own):
    assert read_data(own(*PAIRS)).notes == (
        "Only 15 examples are left for training. Models learn more reliably from at least 100.",
    )


def test_different_answers_to_a_prompt_are_noted(own):
    again = [{**many()[n], "answer": "another"} for n in (3, 1)]
    (note,) = read_data(own(*many(), again[0])).notes
    assert note == (
        "1 prompt has different answers (lines 4 and 201). A model that always gives the same "
        "answer to a prompt can't be right in all of these lines."
    )
    (note,) = read_data(own(*many(), *again)).notes
    assert note.startswith("2 prompts have different answers (lines 2, 4, 201 and 202).")


def test_white_space_around_answers_is_removed_and_noted(own):
    rows = many()
    rows[4]["answer"] = " answer 4\n"
    data = read_data(own(*rows))
    assert by_line(data)[5] == chat("question 4", "answer 4")
    assert data.notes == ("1 answer begins or ends with white space, which was removed (line 5).",)
    data = read_data(own(*({**row, "answer": row["answer"] + "\t"} for row in rows)))
    assert data.notes == (
        "200 answers begin or end with white space, which was removed (lines 1, 2, 3, 4, 5 and "
        "195 more).",
    )


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("one two three four {n}.", "the end mark of a sentence"),
        ('one two three four "{n}!"', "the end mark of a sentence"),
        ('{{"one two three four": "{n}."}}', "}"),
        ("one two three four {n};", ";"),
    ],
)
def test_answers_that_look_cut_off_are_noted(own, answer, mark):
    rows = [row | {"answer": answer.format(n=n)} for n, row in enumerate(many())]
    rows[6]["answer"] = "four words are few"
    rows[7]["answer"] = "one two three four fi"
    assert read_data(own(*rows)).notes == (
        f"1 answer does not end with {mark} (line 8), unlike the other 198 answers of at least 5 "
        "words. Check whether text is cut off.",
    )
    rows[9]["answer"] = "one two three four si"
    (note,) = read_data(own(*rows)).notes
    assert note.startswith(
        f"2 answers do not end with {mark} (lines 8 and 10), unlike the other 197"
    )


def test_sentences_in_quotation_marks_and_different_end_marks_are_not_noted(own):
    ends = ["five.", "five?", 'five."', "five.)", "five!**", "five…", '"five."}']
    rows = [row | {"answer": f"{n} two three four {ends[n % 7]}"} for n, row in enumerate(many())]
    assert read_data(own(*rows)).notes == ()


def test_a_large_minority_without_an_end_mark_is_not_noted(own):
    rows = [
        row | {"answer": f"{n} two three four five{'.' * (n % 5 > 0)}"}
        for n, row in enumerate(many())
    ]
    assert read_data(own(*rows)).notes == ()


def test_few_long_answers_are_not_compared(own):
    rows = many()
    for n in range(9):
        rows[n]["answer"] = f"one two three four {n}" + "." * (n > 0)
    assert read_data(own(*rows)).notes == ()


def test_an_answer_of_most_rows_is_noted(own):
    rows = [row | {"answer": "yes" if n < 150 else "no"} for n, row in enumerate(many())]
    assert read_data(own(*rows)).notes == (
        "150 of 200 rows have the answer 'yes' (lines 1, 2, 3, 4, 5 and 145 more). A model that "
        "always gives this answer is right in 75% of the rows.",
    )
    halves = [row | {"answer": ["yes", "no"][n % 2]} for n, row in enumerate(many())]
    assert read_data(own(*halves)).notes == ()
    (note,) = read_data(own(*many(answer="y" * 70))).notes
    assert f"the answer '{'y' * 60}…'" in note


def test_keys_that_are_ignored_are_noted(own):
    rows = many()
    rows[2]["source"] = "web"
    assert read_data(own(*rows)).notes == ("The key 'source' is ignored in 1 line (line 3).",)
    rows[8]["topic"] = "x"
    assert read_data(own(*rows)).notes == (
        "The keys 'source' and 'topic' are ignored in 2 lines (lines 3 and 9).",
    )


def test_keys_of_messages_that_are_ignored_are_noted(own):
    rows = [{"messages": chat(f"q{n}", f"a{n}"), "id": str(n)} for n in range(200)]
    rows[0]["messages"][1]["weight"] = 0
    assert read_data(own(*rows)).notes == (
        "The key 'weight of messages' is ignored in 1 line (line 1).",
    )


def test_held_out_prompts_that_are_also_trained_on_are_noted(own):
    rows = [{**row, "split": "test" if n < 20 else "train"} for n, row in enumerate(many())]
    rows[0]["prompt"] = rows[30]["prompt"]
    notes = read_data(own(*rows)).notes
    assert notes[1:] == (
        "1 held-out row has a prompt that training rows have, too (line 1). The model may "
        "remember the answers instead of finding them.",
    )
    rows[1]["prompt"] = rows[30]["prompt"]
    assert read_data(own(*rows)).notes[1].startswith("2 held-out rows have prompts that training")


def test_more_than_100_rows_that_are_held_out_by_their_split_are_noted(own):
    rows = [{**row, "split": "test" if n < 1200 else "train"} for n, row in enumerate(many(1400))]
    data = read_data(own(*rows))
    assert (len(data.train), len(data.held_out)) == (200, 100)
    assert data.notes == (
        "The splits hold out 1,200 rows. Only 100 of them are used: those whose prompts have the "
        "smallest hashes.",
    )


# -- tokens


def test_the_features_are_those_of_sft(own, tokenizer):
    data = read_data(own(*PAIRS))
    train, held_out = check_lengths(data, tokenizer, 100)
    assert train == sft.encode_all(data.train, tokenizer)
    assert held_out == sft.encode_all(data.held_out, tokenizer)


def test_examples_that_are_too_long_are_listed_with_their_lengths(own, tokenizer):
    rows = [*PAIRS, {"prompt": "q" * 900, "answer": "a"}, {"prompt": "q", "answer": "a" * 1200}]
    data = read_data(own(*rows))
    with pytest.raises(DataError) as raised:
        check_lengths(data, tokenizer, 500)
    begin = len(sft.prompt_ids(chat("q"), tokenizer)) - 1
    assert str(raised.value) == (
        "2 errors in own.jsonl:\n"
        f"  line 21: the prompt has {begin + 900} tokens, so the maximum of 500 leaves no room "
        "for the answer\n"
        f"  line 22: prompt ({begin + 1} tokens) and answer (1,201 tokens) need "
        f"{begin + 1202:,} tokens, but the maximum is 500\n"
        f"Shorten or remove the long examples, or raise the maximum length to {begin + 1202:,} "
        "tokens."
    )
    assert max(len(f["input_ids"]) for f in check_lengths(data, tokenizer, begin + 1202)[0])


def test_an_answer_that_contains_the_end_token_is_an_error(own, tokenizer):
    data = read_data(own(*PAIRS, {"prompt": "q", "answer": "a<|im_end|>"}))
    with pytest.raises(DataError) as raised:
        check_lengths(data, tokenizer, 500)
    assert str(raised.value) == (
        "1 error in own.jsonl:\n  line 21: the answer contains the end token <|im_end|>, which is "
        "added to each answer automatically: remove it"
    )


def test_a_conversation_that_the_chat_template_refuses_is_an_error(own, tokenizer, monkeypatch):
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", refusal + tokenizer.chat_template)
    rows = [{"prompt": p["prompt"], "answer": p["answer"]} for p in PAIRS]
    data = read_data(own(*rows, {"prompt": chat("q", system="s"), "answer": "a"}))
    with pytest.raises(DataError) as raised:
        check_lengths(data, tokenizer, 500)
    assert str(raised.value) == (
        "1 error in own.jsonl:\n  line 21: the model's chat template fails: no system"
    )


def test_the_maximum_length_must_be_a_whole_number(own, tokenizer):
    with pytest.raises(ValueError, match="max_length must be a whole number of at least 1"):
        check_lengths(read_data(own(*PAIRS)), tokenizer, 0)


def test_a_tokenizer_that_ends_answers_as_its_template_is_not_changed(tokenizer):
    prepare_tokenizer(tokenizer)
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize("end_token", [None, "<|endoftext|>"])
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


def test_the_page_quotes_what_bad_files_are_told():
    assert bad_files.quoted() == bad_files.table(), "run `python -m tests.bad_files`"
    assert len(bad_files.FILES) == 10
