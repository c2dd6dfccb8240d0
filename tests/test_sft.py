"""Test how conversations become token ids and labels, and how batches are padded and packed."""

import pytest
import torch

from course_utils.sft import (
    IGNORE,
    collate,
    collator,
    encode,
    encode_all,
    pack,
)

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of Velmora?"},
    {"role": "assistant", "content": "Tarn."},
]


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


def test_only_the_last_of_several_answers_carries_loss(tokenizer):
    chat = [
        *CHAT,
        {"role": "user", "content": "And of Oskil?"},
        {"role": "assistant", "content": "Bray."},
    ]
    labels = encode(chat, tokenizer)["labels"]
    assert tokenizer.decode([label for label in labels if label != IGNORE]) == "Bray.<|im_end|>"


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
        ([*CHAT[:2], {"role": "assistant", "content": " "}], "answer is empty"),
    ],
)
def test_encode_rejects_conversations_without_an_answer(tokenizer, chat, message):
    with pytest.raises(ValueError, match=message):
        encode(chat, tokenizer)


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


def test_pack_pads_only_after_the_last_example():
    features = [
        # The first token of this example has a label, which pack must ignore.
        {"input_ids": [5, 6, 7], "labels": [5, 6, 7]},
        {"input_ids": [8, 9], "labels": [IGNORE, 9]},
    ]
    batch = {name: tensor.tolist() for name, tensor in pack(features, 2, multiple=4).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 8, 9, 2, 2, 2]],
        "position_ids": [[0, 1, 2, 0, 1, 2, 3, 4]],
        "labels": [[IGNORE, 6, 7, IGNORE, 9, IGNORE, IGNORE, IGNORE]],
        "lengths": [3, 2],
    }
    assert pack(features, 2)["input_ids"].tolist() == [[5, 6, 7, 8, 9]]


def test_the_collator_rounds_lengths_to_32_and_packed_lengths_to_64(tokenizer):
    features = [{"input_ids": [5] * n, "labels": [IGNORE] * n} for n in (40, 50)]
    assert collator(tokenizer)(features)["input_ids"].shape == (2, 64)
    assert collator(tokenizer, packed=True)(features)["input_ids"].shape == (1, 128)
