"""How an estimate is shown: its groups add up, and its table says GB and GiB."""

import pytest

from course_utils.memory import GROUPS, RECIPES, ModelShape, estimate

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


def test_what_comes_and_goes_has_a_group():
    loss = estimate("llama-7b", "lora", sequence_length=4096)
    assert loss.peak == "the loss"
    tokens = 4096 * loss.shape.vocab
    assert loss.groups["logits and loss"] == tokens * (2 + 4 + 4)  # logits and two gradients
    backward = estimate("llama-7b", "qlora", sequence_length=128, upcast=False)
    assert "backward" in backward.peak
    assert backward.groups["a layer at work"] == backward.at_peak["a layer at work"] > 0
    workspaces = estimate("llama-7b").at_peak["cuBLAS workspaces"]
    assert estimate("llama-7b").groups["CUDA and the rest"] >= workspaces > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_bare_number_of_parameters_has_weights_gradients_and_states_only(recipe):
    groups = estimate(ModelShape.generic(7e9), recipe=recipe).groups
    shown = {name for name, size in groups.items() if size}
    assert shown == {"weights", "gradients", "optimizer"}


def test_the_table_says_gb_and_gib_of_all_that_is_there():
    lines = estimate("7b").table().splitlines()
    assert lines[0] == "7b, full: at the update"
    assert [line.split() for line in lines[1:]] == [
        ["weights", "14.00", "GB", "13.04", "GiB"],
        ["gradients", "14.00", "GB", "13.04", "GiB"],
        ["optimizer", "84.00", "GB", "78.23", "GiB"],
        ["total", "112.00", "GB", "104.31", "GiB"],
    ]
