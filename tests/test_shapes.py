"""Tests of `memory.shapes` against the model classes of transformers, and of bad configs."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from course_utils.memory import FAMILIES, PRESETS, ModelShape, estimate, largest
from course_utils.memory.families import ACTIVATIONS, TRACED
from tests import steps
from tests.hub import Hub
from tests.steps import SIZES, SPECIAL

CONFIGS = steps.CONFIGS | {
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "qwen3-default-head": ("qwen3", {"attention_bias": True}),
    "smollm3-biases": ("smollm3", SPECIAL | {"attention_bias": True, "mlp_bias": True}),
    "gemma3-biases": ("gemma3_text", {"attention_bias": True}),
}


def config_of(name):
    return steps.config_of(name, CONFIGS)


def on_meta(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def as_transformers(preset):
    config = dict(PRESETS[preset])
    return AutoConfig.for_model(config.pop("model_type"), **config)


# --- counts ---


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_linear_layers_equal_those_of_the_real_class(name):
    config = config_of(name)
    model, shape = on_meta(config), ModelShape.from_config(config.to_dict())
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    real = {}
    for path, module in model.model.layers[0].named_modules():
        if isinstance(module, torch.nn.Linear):
            short = path.split(".")[-1]
            real[short] = (module.in_features, module.out_features)
            assert (module.bias is not None) == (short in shape.biases), path
    assert shape.linear_layers() == real


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_config_without_optional_fields_has_the_defaults_of_the_real_class(kind):
    sizes = SIZES | {"num_attention_heads": 64, "hidden_size": 128, "num_hidden_layers": 30}
    del sizes["num_key_value_heads"]
    sizes |= SPECIAL if kind == "smollm3" else {}
    config = AutoConfig.for_model(kind, **sizes)
    shape = ModelShape.from_config({"model_type": kind, **sizes})
    assert shape.kv_heads == config.num_key_value_heads
    assert shape.parameters == sum(p.numel() for p in on_meta(config).parameters())
    assert (getattr(config, "hidden_activation", None) or config.hidden_act) in ACTIVATIONS
    # The real class also has a window if no layer slides.
    if shape.window:
        assert shape.window == config.sliding_window


# --- sliding windows ---

QWEN_WINDOW = {"use_sliding_window": True, "max_window_layers": 2}
EVERY_SECOND = ["sliding_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("kind", "fields", "sliding"),
    [
        ("llama", {"sliding_window": 7}, ()),
        ("mistral", {}, (0, 1, 2)),
        ("mistral", {"sliding_window": None}, ()),
        ("qwen2", {"sliding_window": 7}, ()),
        ("qwen2", QWEN_WINDOW, (2,)),
        ("qwen3", QWEN_WINDOW | {"max_window_layers": 0}, (0, 1, 2)),
        ("qwen3", QWEN_WINDOW | {"sliding_window": 7, "layer_types": EVERY_SECOND}, (0, 2)),
        ("smollm3", SPECIAL | {"sliding_window": 7}, ()),
        ("gemma3_text", {}, (0, 1, 2)),
        ("gemma3_text", {"sliding_window": 7, "sliding_window_pattern": 2}, (0, 2)),
        ("gemma3_text", {"layer_types": EVERY_SECOND}, (0, 2)),
    ],
)
def test_the_layers_with_a_sliding_window_are_those_of_the_real_class(kind, fields, sliding):
    config = AutoConfig.for_model(kind, **SIZES | fields)
    shape = ModelShape.from_config({"model_type": kind, **SIZES, **fields})
    assert shape.sliding == frozenset(sliding)
    assert shape.window == (config.sliding_window if sliding else 0)
    types = getattr(config, "layer_types", None)
    if types is not None and kind not in ("llama", "mistral"):
        real = {i for i, name in enumerate(types) if name == "sliding_attention"}
        assert shape.sliding == real
    # The same config after a round trip through a file, which contains every field.
    assert ModelShape.from_config(config.to_dict(), name=shape.name) == shape


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_parameters_of_the_real_class(preset):
    real = sum(p.numel() for p in on_meta(as_transformers(preset)).parameters())
    assert ModelShape.preset(preset).parameters == real


# --- LoRA ---


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        *((name, "all-linear") for name in CONFIGS),
        *((name, ["q_proj", "v_proj"]) for name in ("ungrouped", "qwen3")),
    ],
)
def test_adapter_parameters_equal_those_of_peft(name, targets):
    from peft import LoraConfig, get_peft_model

    config = config_of(name)
    shape = ModelShape.from_config(config.to_dict())

    lora = LoraConfig(r=3, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.adapter_parameters(3, targets) == trainable


# --- reading configs ---


def test_a_config_is_read_from_dict_file_and_folder(tmp_path):
    config = config_of("qwen2")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    from_dict = ModelShape.from_config(config.to_dict(), name="x")
    assert ModelShape.from_config(file, name="x") == from_dict
    assert ModelShape.from_config(str(tmp_path), name="x") == from_dict


def test_a_config_is_read_from_the_hub_and_later_from_the_cache(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(PRESETS["smollm2-135m"]), encoding="utf-8")
    name = "HuggingFaceTB/SmolLM2-135M"
    with Hub({name: tmp_path, "closed/model": 401}) as hub:
        hub.be_used(monkeypatch, tmp_path / "cache")
        assert ModelShape.from_config(name).parameters == 134_515_008
        for missing in ("closed/model", "nobody/nothing"):
            message = f"^the config of {missing} can't be read from the hub: .*$"
            with pytest.raises(ValueError, match=message):
                ModelShape.from_config(missing)
    # The hub is gone, so the config must come from the cache.
    shape = ModelShape.from_config(name)
    assert (shape.name, shape.parameters) == (name, 134_515_008)
    with pytest.raises(ValueError, match=r"^the config of a/b can't be read from the hub: .*$"):
        ModelShape.from_config("a/b")


SMOLLM2 = ModelShape.preset("smollm2-135m")
LLAMA, GEMMA3 = PRESETS["smollm2-135m"], PRESETS["gemma-3-270m"]
# The fields of google/gemma-3-4b-it's config that its text part depends on.
GEMMA3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"model_type": "siglip_vision_model"},
}


def test_of_a_model_that_reads_images_only_the_text_part_is_described():
    config = AutoConfig.for_model(**GEMMA3_4B)
    shape = ModelShape.from_config(GEMMA3_4B)
    text = on_meta(config.text_config)
    assert shape.parameters == sum(p.numel() for p in text.parameters()) == 3_880_263_168
    assert shape.name == "gemma3 (text only)" and shape.gemma
    assert shape.context == config.text_config.max_position_embeddings
    # The same config after a round trip through a file, which contains every field.
    assert ModelShape.from_config(config.to_dict()) == shape


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 64, "head_dim": 48}),
        ("mixtral", {"num_local_experts": 4, "tie_word_embeddings": True}),
        ("gpt_oss", {"num_local_experts": 4}),
        ("olmoe", {"num_experts": 4, "attention_bias": True} | SPECIAL),
    ],
)
def test_the_error_for_a_mixture_of_experts_gives_the_parameters_of_the_real_class(kind, fields):
    config = AutoConfig.for_model(kind, **SIZES | fields)
    real = sum(p.numel() for p in on_meta(config).parameters())
    for values in (config.to_dict(), {"model_type": kind, **SIZES, **fields}):
        with pytest.raises(ValueError, match=f"its {real:,} parameters .* in 16 bits; {TRACED}$"):
            ModelShape.from_config(values)


def test_a_folder_with_an_adapter_only_is_named_as_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(ValueError, match="is an adapter, not a model"):
        ModelShape.from_config(tmp_path)


def test_a_sequence_is_at_most_as_long_as_the_config_allows():
    shape = ModelShape.from_config(LLAMA | {"max_position_embeddings": 2048})
    assert largest("sequence_length", "H100", shape) == shape.longest("sdpa") == 2048
    message = "the config of llama allows 2,048 positions, so sequence_length .* got 2,049"
    with pytest.raises(ValueError, match=message):
        estimate(shape, sequence_length=2049)
    windowed = ModelShape.from_config(GEMMA3_4B)
    assert (windowed.longest("sdpa"), windowed.longest("eager")) == (1023, 131_072)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "deepseek_v3", "n_routed_experts": 8}, f"experts; only .*ed; {TRACED}$"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder–decoder"),
        (
            {"model_type": "mamba", "hidden_size": 8},
            f"'mamba'; the formulas know only llama.*; {TRACED}$",
        ),
        (
            {"peft_type": "LORA", "base_model_name_or_path": "owner/base"},
            "is an adapter, not a model; use the config of its base model owner/base$",
        ),
        (LLAMA | {"quantization_config": {"bits": 4}}, "use the config of the original model"),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, "has no 'vocab_size'"),
        (
            LLAMA | {"num_hidden_layers": 0},
            "config of llama: num_hidden_layers must be a whole number from 1 to 1000, got 0",
        ),
        (LLAMA | {"num_key_value_heads": 4}, "^llama: 9 heads can't share 4 key and value heads"),
        (LLAMA | {"add_cross_attention": True}, "llama is an encoder–decoder"),
        (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, "predict the next token"),
        (LLAMA | {"hidden_act": "relu"}, "the activation 'relu' is not supported; supported are"),
        (LLAMA | {"attention_dropout": 2}, "attention_dropout must be a number from 0 to 1, got 2"),
        (GEMMA3 | {"hidden_activation": None}, "the activation None is not supported"),
        (LLAMA | {"hidden_size": "576"}, "hidden_size must be a whole number .* got '576'"),
        (LLAMA | {"tie_word_embeddings": "false"}, "must be true or false, got 'false'"),
        (LLAMA | {"model_type": ["llama"]}, r"model_type \['llama'\]; .* know only llama"),
        ({"text_config": {"model_type": "qwen3_5_text"}}, "'qwen3_5_text'; .* know only llama"),
        (GEMMA3_4B | {"quantization_config": {}, "is_encoder_decoder": True}, "encoder–decoder"),
        (GEMMA3_4B | {"architectures": ["Gemma3Model"]}, "gemma3 is a Gemma3Model; only"),
        (GEMMA3 | {"final_logit_softcapping": 30.0}, "final_logit_softcapping must be null: a cap"),
        (GEMMA3 | {"use_bidirectional_attention": True}, "also attends to later tokens"),
        (GEMMA3 | {"layer_types": "sliding"}, "layer_types must be a list of strings"),
        (GEMMA3 | {"layer_types": ["full_attention"]}, "18 entries, one for each layer, got 1"),
        (GEMMA3 | {"sliding_window": 0}, "sliding_window must be a whole number of at least 1"),
        (PRESETS["smollm3-3b"] | {"use_sliding_window": True}, "use_sliding_window must be false"),
        (7e9, "a model must be a preset's name, a config .* got 7000000000.0"),
        ("x" * 5000, "^x{300} can't be read"),
        ("no/such/place/config.json", "no config at 'no/such/place/config.json'"),
    ],
)
def test_an_unsupported_config_raises_a_value_error(config, message):
    with pytest.raises(ValueError, match=message):
        ModelShape.from_config(config)


@pytest.mark.parametrize("text", ["{", "[1]", "", "[" * 100_000])
def test_a_file_without_a_json_object_raises_a_value_error(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json"):
        ModelShape.from_config(file)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (lambda n=n: ModelShape.generic(n), "whole number of at least 1")
            for n in (0, 1.5, "7e9", float("nan"))
        ),
        (lambda: ModelShape.generic(7e9).adapter_parameters(8), "adapters depend on its layers"),
        (lambda: SMOLLM2.adapter_parameters(8, ["c_proj"]), "has no linear layer"),
        (lambda: SMOLLM2.adapter_parameters(8, ()), "targets must name at least one layer"),
        (lambda: SMOLLM2.adapter_parameters(8, [["q_proj"]]), "targets must be a name"),
        (lambda: ModelShape("mine"), "layers of mine must be a whole number of at least 1"),
        (lambda: replace(SMOLLM2, kv_heads=4), "9 heads can't share 4"),
    ],
)
def test_a_number_or_a_layer_that_is_not_allowed_raises_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
