"""Test how conversations become token ids and labels, and how batches are padded and packed."""

import pytest
import torch

from course_utils.sft import (
    IGNORE,
    collate,
    collator,
    encode,
    encode_all,
    graded_runs,
    pack,
)
from course_utils.training.step import count_tokens
from course_utils.tuning.base import prepare_tokenizer
from tests.conftest import CHAT_TEMPLATE, make_tokenizer, token_losses

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of Velmora?"},
    {"role": "assistant", "content": "Tarn."},
]
TWO_TURNS = [
    *CHAT,
    {"role": "user", "content": "And of Oskil?"},
    {"role": "assistant", "content": "Bray."},
]
# Templates as models have them: with marks around answers, with an end token that is not the
# tokenizer's, with a generation prompt that earlier turns lack, and one that trims answers.
MARKED = CHAT_TEMPLATE.replace(
    "{{ m['content'] }}<|im_end|>",
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}",
)
OTHER_END = CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>")
THINKS = CHAT_TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n\n</think>\n\n{%")
DROPS_THOUGHTS = CHAT_TEMPLATE.replace("m['content']", "m['content'].split('</think>')[-1]")
TRIMS = CHAT_TEMPLATE.replace("m['content']", "m['content'] | trim")


def test_only_the_answer_and_the_end_token_carry_loss(tokenizer):
    features = encode(CHAT, tokenizer)
    learned = [label for label in features["labels"] if label != IGNORE]
    assert tokenizer.decode(learned) == "Tarn.<|im_end|>"
    assert learned[-1] == tokenizer.eos_token_id
    prompt = len(features["labels"]) - len(learned)
    assert features["labels"][:prompt] == [IGNORE] * prompt
    assert features["input_ids"][prompt:] == learned


def test_the_ids_equal_the_beginning_of_the_rendered_chat_template(tokenizer):
    rendered = tokenizer.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    ids = encode(CHAT, tokenizer)["input_ids"]
    assert ids == rendered[: len(ids)]
    # In the template, only a line break follows the end token.
    assert tokenizer.decode(rendered[len(ids) :]) == "\n"


def with_template(template):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    tokenizer.chat_template = template
    return tokenizer


def graded(tokenizer, chat, turns):
    return [tokenizer.decode(run) for run in graded_runs(encode(chat, tokenizer, turns=turns))]


def test_the_last_answer_or_all_answers_carry_loss(tokenizer):
    assert graded(tokenizer, TWO_TURNS, "last") == ["Bray.<|im_end|>"]
    assert graded(tokenizer, TWO_TURNS, "all") == ["Tarn.<|im_end|>", "Bray.<|im_end|>"]
    last, every = (encode(TWO_TURNS, tokenizer, turns=turns) for turns in ("last", "all"))
    assert last["input_ids"] == every["input_ids"]
    assert encode_all([TWO_TURNS], tokenizer, turns="all") == [every]
    assert encode(CHAT, tokenizer, turns="all") == encode(CHAT, tokenizer)
    # An answer may also follow an answer or a system message. The first message answers nothing.
    greeting, hello = {"role": "assistant", "content": "Hi."}, [{"role": "user", "content": "Hi"}]
    assert graded(tokenizer, [greeting, *CHAT], "all") == ["Tarn.<|im_end|>"]
    chat = [CHAT[0], greeting, *hello, greeting, *CHAT[:1], greeting]
    assert graded(tokenizer, chat, "all") == 3 * ["Hi.<|im_end|>"]


def test_the_loss_of_all_answers_is_the_sum_of_their_losses(tokenizer, model):
    first, second = (encode(chat, tokenizer) for chat in (CHAT, TWO_TURNS))
    alone = torch.cat([token_losses(model, first), token_losses(model, second)])
    losses = token_losses(model, encode(TWO_TURNS, tokenizer, turns="all"))
    torch.testing.assert_close(losses, alone)


def test_the_answers_are_those_that_a_template_marks():
    tokenizer = with_template(MARKED)
    marks = tokenizer.apply_chat_template(TWO_TURNS, return_assistant_tokens_mask=True)
    row = encode(TWO_TURNS, tokenizer, turns="all")
    is_graded = [int(label != IGNORE) for label in row["labels"]]
    assert is_graded == marks["assistant_masks"][: len(is_graded)] and 1 in is_graded
    # Without marks, transformers marks nothing.
    plain = make_tokenizer().apply_chat_template(TWO_TURNS, return_assistant_tokens_mask=True)
    assert not any(plain["assistant_masks"])


def test_the_end_token_must_be_the_templates():
    tokenizer = with_template(OTHER_END)
    with pytest.raises(
        ValueError, match=r"doesn't end message 3 with <\|im_end\|>: set the eos_token"
    ):
        encode(TWO_TURNS, tokenizer, turns="all")
    prepare_tokenizer(tokenizer)
    assert graded(tokenizer, TWO_TURNS, "all") == ["Tarn.<|endoftext|>", "Bray.<|endoftext|>"]


@pytest.mark.parametrize(
    ("template", "answer"),
    [(THINKS, "Tarn."), (DROPS_THOUGHTS, "<think>Hm.</think>Tarn."), (TRIMS, " Tarn.")],
)
def test_a_template_that_rewrites_earlier_turns_is_refused(template, answer):
    chat = [*CHAT[:2], {"role": "assistant", "content": answer}, *TWO_TURNS[3:]]
    tokenizer = with_template(template)
    with pytest.raises(ValueError, match=r"the chat template rewrites earlier turns .* message 3"):
        encode(chat, tokenizer, turns="all")
    assert graded(tokenizer, chat, "last") == ["Bray.<|im_end|>"]
    # What the template doesn't change can be graded.
    if template != THINKS:
        assert len(graded(tokenizer, TWO_TURNS, "all")) == 2


def test_a_conversation_that_is_too_long_raises_an_error_with_its_lengths(tokenizer):
    with pytest.raises(
        ValueError,
        match=r"prompt \(\d+ tokens\) and answer \(6 tokens\).*max_length=40: raise max_length",
    ):
        encode(CHAT, tokenizer, max_length=40)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (CHAT[:2], "last message must be the assistant's"),
        ([], "last message must be the assistant's"),
        (CHAT[2:], "last message must be the assistant's: it is the answer to a prompt"),
        ([*CHAT[:2], {"role": "assistant", "content": " "}], "answer is empty"),
        ([*CHAT[:2], {"role": "assistant", "content": ""}, *CHAT[1:]], "answer is empty"),
    ],
)
def test_encode_rejects_conversations_without_an_answer(tokenizer, chat, message):
    with pytest.raises(ValueError, match=message):
        encode(chat, tokenizer, turns="all")


def test_turns_must_be_last_or_all(tokenizer):
    with pytest.raises(ValueError, match='turns must be "last" or "all", got \'first\''):
        encode(CHAT, tokenizer, turns="first")


def test_errors_of_encode_all_contain_the_number_of_the_conversation(tokenizer):
    assert len(encode_all([CHAT, CHAT], tokenizer)) == 2
    with pytest.raises(ValueError, match="conversation 1: the last message"):
        encode_all([CHAT, CHAT[:1]], tokenizer)
    with pytest.raises(ValueError, match="conversation 0: 'role'"):
        encode_all([[{"content": "no role"}]], tokenizer)


def test_collate_masks_padding_but_not_the_end_token(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    longer = [*CHAT[:2], {"role": "assistant", "content": "Tarn, on the river Olse."}]
    features = encode_all([CHAT, longer], tokenizer)
    batch = collate(features, tokenizer.pad_token_id)
    length, width = len(features[0]["input_ids"]), len(features[1]["input_ids"])
    assert (
        batch["input_ids"].shape
        == batch["labels"].shape
        == batch["attention_mask"].shape
        == (2, width)
    )
    assert (batch["labels"][:, -1] == tokenizer.eos_token_id).all()
    assert (batch["labels"][0, : width - length] == IGNORE).all()
    assert batch["attention_mask"][0].tolist() == [0] * (width - length) + [1] * length
    assert batch["attention_mask"].sum(dim=1).tolist() == [length, width]
    assert {t.dtype for t in batch.values()} == {torch.int64}


def test_collate_rounds_the_width_up_to_a_multiple(tokenizer):
    features = encode_all([CHAT], tokenizer)
    for multiple in (1, 8, 32):
        width = collate(features, 0, multiple)["input_ids"].shape[1]
        assert width % multiple == 0 and 0 <= width - len(features[0]["input_ids"]) < multiple


@pytest.mark.parametrize("make", [collate, pack])
def test_an_empty_batch_raises_an_error(make):
    with pytest.raises(ValueError, match="at least one example"):
        make([], 0)


def packed(features, *arguments):
    return {name: tensor.tolist() for name, tensor in pack(features, *arguments).items()}


def test_pack_pads_only_after_the_last_example():
    features = [
        # No token predicts the first token of this example, so pack must ignore its label.
        {"input_ids": [5, 6, 7], "labels": [5, 6, 7]},
        {"input_ids": [8, 9], "labels": [IGNORE, 9]},
    ]
    assert packed(features, 2, 4) == {
        "input_ids": [[5, 6, 8, 2]],
        "position_ids": [[0, 1, 0, 1]],
        "labels": [[IGNORE, 6, 7, 9, IGNORE]],
        "lengths": [2, 1],
        "shared": 0,
    }
    assert packed(features, 2)["input_ids"] == [[5, 6, 8]]
    assert count_tokens(pack(features, 2, 4)) == count_tokens(collate(features, 2)) == 5


@pytest.mark.parametrize(
    ("first_graded", "shared"), [(5, 3), (4, 3), (3, 2), (2, 1), (1, 0)], ids=str
)
def test_pack_stores_the_shared_prefix_once_up_to_the_first_graded_token(first_graded, shared):
    rows = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 11, 12]]
    labels = [[IGNORE] * first_graded + row[first_graded:] for row in rows]
    features = [{"input_ids": r, "labels": x} for r, x in zip(rows, labels, strict=True)]
    assert packed(features, 2) == {
        "input_ids": [[*rows[0][:shared], *rows[0][shared:-1], *rows[1][shared:-1]]],
        "position_ids": [[*range(5), *range(shared, 4)]],
        "labels": [[IGNORE] * (shared + 1) + labels[0][shared + 1 :] + labels[1][shared + 1 :]],
        "lengths": [5, 4],
        "shared": shared,
    }


def test_equal_examples_share_all_tokens_before_the_one_that_predicts_the_answer():
    row = {"input_ids": [5, 6, 7, 8], "labels": [IGNORE, IGNORE, IGNORE, 8]}
    batch = packed([row] * 3, 2)
    assert (batch["shared"], batch["input_ids"]) == (2, [[5, 6, 7, 7, 7]])
    assert batch["labels"] == [[IGNORE] * 3 + [8] * 3]
    assert packed([row], 2)["shared"] == 0


def test_the_collator_rounds_lengths_to_32(tokenizer):
    features = [{"input_ids": [n] * n, "labels": [IGNORE] * n} for n in (40, 50)]
    assert collator(tokenizer)(features)["input_ids"].shape == (2, 64)
    assert collator(tokenizer, packed=True)(features)["input_ids"].shape == (1, 96)
