"""Tests of how an estimate is shown: the groups of `Estimate.groups` and the table."""

import pytest

from course_utils.memory import GROUPS, WORK, estimate

CASES = [
    ("llama-7b", "full", {}),
    ("llama-7b", "lora", {"attention": "eager", "sequence_length": 4096}),
    ("llama-7b", "qlora", {"sequence_length": 128}),
    ("qwen2.5-7b", "qlora", {"gradient_checkpointing": False, "double_quant": True}),
    ("smollm2-135m", "full", {"sharding": "fsdp", "gpus": 4}),
    ("gpt2", "full", {"optimizer": "adamw_foreach", "device": "cpu"}),
]


@pytest.mark.parametrize("model, method, options", CASES)
def test_groups_add_up_to_the_total_and_none_is_negative(model, method, options):
    e = estimate(model, method, **options)
    assert tuple(e.groups) == GROUPS
    assert sum(e.groups.values()) == e.total and min(e.groups.values()) >= 0
    assert e.groups["weights"] == e.weights and e.groups["optimizer"] == e.optimizer


def test_logits_and_a_layers_backward_pass_have_groups():
    loss = estimate("llama-7b", "lora", sequence_length=4096)
    assert loss.peak == "the loss"
    tokens = 4096 * loss.shape.vocab
    # These are the logits and two gradients.
    assert loss.groups["logits and loss"] == tokens * (2 + 4 + 4)
    backward = estimate("llama-7b", "qlora", sequence_length=128, upcast=False)
    assert "backward" in backward.peak
    assert backward.groups[WORK] == backward.at_peak[WORK] > 0
    workspaces = estimate("llama-7b").at_peak["cuBLAS workspaces"]
    assert estimate("llama-7b").groups["CUDA and the rest"] >= workspaces > 0


def test_the_table_shows_gb_and_gib_of_every_part_in_memory():
    lines = estimate("7b").table().splitlines()
    assert lines[0] == "7b, full: at the update"
    assert [line.split() for line in lines[1:]] == [
        ["weights", "14.00", "GB", "13.04", "GiB"],
        ["gradients", "14.00", "GB", "13.04", "GiB"],
        ["optimizer", "84.00", "GB", "78.23", "GiB"],
        ["total", "112.00", "GB", "104.31", "GiB"],
    ]
