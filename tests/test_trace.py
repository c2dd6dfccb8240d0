"""Tests of `memory.trace`: traced steps against steps measured on a CPU, and its errors."""

import json
from itertools import product

import pytest

from course_utils.memory import Settings, estimate, timeline
from course_utils.memory.trace import (
    Blocks,
    _blocks,
    _empty,
    _kind,
    _traced,
    layers_of,
    trace,
    trace_step,
)
from tests.steps import make_model, measure_step, small_config

# Multi-head latent attention and state spaces: their sizes must fit to each other.
LATENT = {"num_key_value_heads": 4, "head_dim": 8}
STATES = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
STATES |= {"mamba_chunk_size": 32}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
LINEAR |= {"linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}
CONV = {"layer_types": ["conv", "full_attention"]}
# Adapters on all linear layers fail: two routers return tuples, and peft refuses mamba2's out_proj.
SOME = {"llama4_text": ("q_proj", "up_proj"), "mamba2": ("in_proj",), "phimoe": ("q_proj",)}
# Families that transformers computes with "eager" attention only.
EAGER = ("bloom", "gemma2", "gpt_neo", "gpt_oss", "mamba2", "mpt")
# Families with other sizes than those of `small_config`.
FAMILIES = {
    "apertus": {},
    "arcee": {},
    "bamba": STATES | {"attn_layer_indices": [1]},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 8},
    "cohere": {},
    "cohere2": {},
    "deepseek_v2": LATENT | {"num_experts_per_tok": 2},
    "deepseek_v3": LATENT,
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {},
    "falcon": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "gpt2": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 64},
    "gpt_neox": {},
    "gpt_oss": {},
    "gptj": {"rotary_dim": 8},
    "granite": {},
    "granitemoe": {},
    "helium": {},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2": CONV,
    "lfm2_moe": CONV,
    "llama": {},
    "llama4_text": {},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "chunk_size": 32},
    "minimax": {},
    "ministral3": {},
    "mistral": {},
    "mixtral": {},
    "mpt": {},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmoe": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_moe": {},
    "qwen3_next": LINEAR,
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}
# One family of each sort is measured in every run of the tests: (family, method).
FEW = {("mistral", "full"), ("gemma3_text", "lora"), ("gpt2", "qlora"), ("falcon", "qlora")}
FEW |= {("mixtral", "lora"), ("deepseek_v3", "full")}
METHODS = ("full", "lora", "qlora")


def all_cases():
    """Return the cases, marked so that the full run has each family once, and each method."""
    cases = []
    for n, (family, method) in enumerate(product(FAMILIES, METHODS)):
        for stored, length in product((False, True), (24, 80)):
            marks = ()
            chosen = (stored, length) == (bool(n % 2), (24, 80)[n // 2 % 2])
            if (family, method) not in FEW or not chosen:
                turn = METHODS[n // 3 % 3] == method
                marks = pytest.mark.full if chosen and turn else pytest.mark.slow
            name = f"{family}-{method}-{'stored' if stored else 'checkpointing'}-{length}"
            cases.append(pytest.param(family, method, stored, length, marks=marks, id=name))
    return cases


def options_of(family, method):
    """Return explicit options: the step that `measure_step` measures."""
    options = {"trainer": None, "loss": "logits", "device": "cpu", "batch_size": 2}
    options |= {"recipe": "bf16" if method == "full" else "fp32"}
    options["attention"] = "eager" if family in EAGER else "sdpa"
    return options | {"targets": SOME.get(family, "all-linear")}


@pytest.mark.parametrize(("family", "method", "stored", "length"), all_cases())
def test_a_traced_step_equals_a_measured_one(family, method, stored, length, tmp_path):
    config = small_config(family, **FAMILIES[family])
    options = options_of(family, method) | {"sequence_length": length}
    traced = trace(config.to_dict(), method, gradient_checkpointing=not stored, **options)
    measured = measure_step(
        make_model(config, traced.settings, tmp_path / "model"), traced.settings
    )
    permanent = ("weights", "adapters", "gradients", "optimizer")
    assert {part: traced.parts[part] for part in permanent} == {p: measured[p] for p in permanent}
    measured_total = sum(measured[p] for p in ("weights", "adapters", "optimizer", "peak"))
    assert traced.total == measured_total


# --- deep models ---

SLIDING = ["sliding_attention", "full_attention"]
DEEP = {
    "llama": ({"num_hidden_layers": 9}, Blocks(9, 1, 1)),
    "cohere2": ({"num_hidden_layers": 13, "layer_types": (SLIDING * 7)[:13]}, Blocks(13, 2, 2)),
    "deepseek_v3": (LATENT | {"num_hidden_layers": 10}, Blocks(10, 2, 1)),
    "gpt2": ({"n_layer": 9}, Blocks(9, 1, 1)),
}


# With autocast, the loss needs more memory in its backward pass if the model has few layers, and in
# its forward pass if the model has many.
WAYS = {method: {"gradient_checkpointing": method == "qlora"} for method in METHODS}
WAYS["full-autocast"] = {"recipe": "autocast", "sequence_length": 120}


@pytest.mark.parametrize(
    ("family", "way"),
    [
        pytest.param(family, way, marks=pytest.mark.full)
        for family, way in product(DEEP, WAYS)
        # transformers can't compute these experts under autocast on a CPU.
        if (family, way) != ("deepseek_v3", "full-autocast")
    ],
)
def test_a_few_layers_tell_what_all_layers_need(family, way, monkeypatch):
    changes, blocks = DEEP[family]
    config, method = small_config(family, **changes), way.removesuffix("-autocast")
    options = options_of(family, method) | {"sequence_length": 24} | WAYS[way]
    settings = Settings.of(method, options)
    assert _blocks([_kind(layer) for layer in layers_of(_empty(config))]) == blocks
    few = trace_step(config, settings)
    monkeypatch.setattr("course_utils.memory.trace._blocks", lambda _: None)
    assert few == trace_step(config, settings)


# --- errors ---

LLAMA = small_config("llama").to_dict()
WRONG = {
    "no number": (
        {k: v for k, v in LLAMA.items() if k != "hidden_size"},
        "the config of llama has no 'hidden_size'",
    ),
    "a text as a number": (
        LLAMA | {"hidden_size": "64"},
        "config of llama is wrong: .*expected int",
    ),
    "heads of no size": (
        LLAMA | {"hidden_size": 66, "head_dim": None},
        "config of llama is wrong: .*66.*4",
    ),
    "groups of no size": (
        LLAMA | {"num_key_value_heads": 3},
        "must be a multiple of num_key_value_heads .3",
    ),
    "an unknown family": (LLAMA | {"model_type": "llamma"}, "doesn't know the model_type 'llamma'"),
    "no family": ({"hidden_size": 64}, "doesn't know the model_type None"),
    "own code": (
        LLAMA | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
        "'own'; code from a repository is never run",
    ),
    "an encoder": ({"model_type": "bert"}, "bert, which doesn't predict the next token"),
    "an encoder with a decoder": ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is an enc"),
    "adapters": ({"peft_type": "LORA", "base_model_name_or_path": "a/b"}, "is an adapter.* a/b"),
    "a long text": (LLAMA | {"max_position_embeddings": 20}, "at most 20, got 24"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_model_that_cannot_be_traced_gets_one_clear_error(wrong):
    config, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message) as caught:
        trace(config, "lora", sequence_length=24, device="cpu")
    assert "\n" not in str(caught.value)


def test_by_default_a_text_is_not_longer_than_the_model_allows():
    found = trace(LLAMA | {"max_position_embeddings": 20}, "lora", device="cpu")
    assert found.settings.sequence_length == 20


def test_a_config_file_of_adapters_is_refused(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
    with pytest.raises(ValueError, match="is an adapter, not a model"):
        trace(path)


def test_the_phases_of_a_trace_can_be_drawn_as_those_of_the_formula():
    options = {"sequence_length": 64, "device": "cpu"}
    *_, phases = _traced(LLAMA, "qlora", options)
    names = timeline(LLAMA, "qlora", **options)
    drawn, expected = (
        [phase.name for phase in each if phase.kind in ("loss", "backward", "update")]
        for each in (phases, names)
    )
    assert drawn == expected
    assert max(p.total for p in phases) == estimate(LLAMA, "qlora", **options).total
