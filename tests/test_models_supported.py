"""Test which models `load_base` refuses, and that it quantizes dense models of many families."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from course_utils.machine.validation import CourseError
from course_utils.models import linear4bit_layers, load_base
from tests import conftest

SIZES = conftest.SIZES | {"head_dim": 16, "max_position_embeddings": 128}
EXPERTS = {"moe_intermediate_size": 64, "num_experts_per_tok": 2}


@pytest.fixture
def saved(tmp_path, tiny_base):
    """Return a function that saves a tiny random model with a tokenizer, and returns the folder."""

    def save(model_class, config, **changes):
        torch.manual_seed(0)
        model_class(config).save_pretrained(tmp_path)
        for file in tiny_base.glob("tokenizer*"):
            shutil.copy(file, tmp_path)
        return edited(tmp_path, **changes)

    return save


@pytest.fixture
def tiny(tmp_path, tiny_base):
    """Return a copy of conftest's tiny Llama that a test may change."""
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def edited(folder, **changes):
    """Change entries of the config in a folder, and return the folder."""
    conftest.edit_json(folder / "config.json", **changes)
    return folder


def refused(folder, quantization="nf4"):
    """Return the message with which `load_base` refuses the model in a folder."""
    with pytest.raises(CourseError) as error:
        load_base(path=folder, quantization=quantization, device="cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def no_weights(monkeypatch):
    """Fail if a model's weights are read."""

    def fail(*_, **__):
        pytest.fail("the weights were read")

    monkeypatch.setattr(tf.AutoModelForCausalLM, "from_pretrained", fail)


# --- families that are supported ------------------------------------------------------------------


# tests/test_families.py has the families whose memory the calculator predicts.
@pytest.mark.parametrize("family", ["Gemma2", "Phi", "Starcoder2"])
def test_dense_models_of_other_families_are_quantized(saved, family):
    config = getattr(tf, f"{family}Config")(**SIZES)
    folder = saved(getattr(tf, f"{family}ForCausalLM"), config)
    model, _ = load_base(path=folder, quantization="nf4", device="cpu")
    assert len(linear4bit_layers(model)) >= 8
    assert model(torch.arange(5)[None]).logits.isfinite().all()


# --- models that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tf.Qwen3MoeConfig(num_experts=16), "it is a mixture of 16 experts, and bitsandbytes"),
        # Unless an encoder was trained as a decoder, each token sees the tokens after it.
        (tf.BertConfig(), "it is an encoder, which also sees the tokens"),
        (tf.BertConfig(architectures=["BertLMHeadModel"]), "it is an encoder (BertLMHeadModel),"),
        (tf.T5Config(architectures=["T5Model"]), "it is an encoder-decoder (T5Model)"),
        (tf.ViTConfig(architectures=["ViTModel"]), "it is a ViTModel"),
        (tf.LlavaConfig(architectures=["LlavaModel"]), "it also reads images (LlavaModel)"),
        # Configs name the number of experts differently.
        (tf.LlamaConfig(num_local_experts=8), "mixture of 8 experts"),
        (tf.LlamaConfig(n_routed_experts=64, n_shared_experts=1), "mixture of 64 experts"),
        (tf.LlamaConfig(ffn_config={"moe_num_experts": 16}), "mixture of 16 experts"),
        (tf.LlamaConfig(text_config={"num_experts": 4}), "mixture of 4 experts"),
    ],
)
def test_other_kinds_of_models_are_refused_before_their_weights_are_read(
    tiny, no_weights, config, message
):
    config.save_pretrained(tiny)
    assert message in refused(tiny)


def test_a_mixture_of_experts_can_be_loaded_in_16_bits(saved):
    config = tf.MixtralConfig(**SIZES, num_local_experts=4)
    folder = saved(tf.MixtralForCausalLM, config)
    assert load_base(path=folder, device="cpu")[0].dtype == torch.bfloat16
    assert "mixture of 4 experts" in refused(folder)


def test_parameters_that_stayed_in_16_bits_are_noticed_after_loading(saved, monkeypatch):
    """A config may name its experts in a way that the course doesn't know."""
    monkeypatch.setattr("course_utils.models.supported.EXPERTS", ())
    config = tf.Qwen3MoeConfig(**SIZES | EXPERTS, num_experts=16)
    message = refused(saved(tf.Qwen3MoeForCausalLM, config))
    # In each of the two layers, attention has 4 matrices, 2 · 64 · 64 + 2 · 64 · 32 = 12,288
    # parameters, the router has 16 · 64, and the experts have 3 · 16 · 64 · 64 = 196,608.
    share = 12_288 / (12_288 + 196_608 + 1_024)
    assert f"only {share:.0%} of the parameters" in message
    assert "experts.gate_up_proj with 131,072 parameters" in message


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_a_model_that_is_already_quantized_is_refused(tiny, no_weights, method, quantization):
    edited(tiny, quantization_config={"quant_method": method, "bits": 4})
    assert f"it is already quantized ({method})" in refused(tiny, quantization)


def test_a_model_that_needs_code_of_its_own_is_refused(tiny, no_weights):
    edited(tiny, model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})
    (tiny / "modeling_own.py").write_text("raise SystemExit('this code must not run')")
    assert "'own' only with code from the model's folder (trust_remote_code)" in refused(tiny)


def test_a_folder_with_only_a_gguf_file_is_refused(tmp_path):
    (tmp_path / "model.Q4_K_M.gguf").write_bytes(b"GGUF")
    assert "its weights are in the GGUF file model.Q4_K_M.gguf" in refused(tmp_path)


def test_code_of_a_tokenizer_does_not_run(tiny, monkeypatch):
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tiny / "tokenizer_config.json").write_text(json.dumps(own))
    (tiny / "own.py").write_text("raise SystemExit('this code must not run')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    assert "can't be loaded" in refused(tiny)


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("entries", [{}, {"num_hidden_layers": 3}])
def test_missing_weights_are_noticed(tiny, quantization, entries):
    """transformers fills missing weights with random numbers."""
    weights = load_file(tiny / "model.safetensors")
    if not entries:
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, tiny / "model.safetensors", {"format": "pt"})
    lacks = "lack 9 of the weights" if entries else "such as model.layers.1.mlp.up_proj.weight"
    assert lacks in refused(edited(tiny, **entries), quantization)


def test_weights_of_another_shape_are_noticed(tiny):
    edited(tiny, intermediate_size=96)
    assert "weights don't have the shapes that its config.json states" in refused(tiny, None)
    message = refused(tiny)
    assert "mlp.gate_proj has the shape (128, 64), but according to config.json it is (96, 64)" in (
        message
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"quantization_config": "gptq"}, "it is already quantized (an unknown method)"),
        ({"model_type": ["llama"]}, "doesn't know its model_type ['llama']"),
        ({"hidden_act": "nope"}, "unknown entry 'nope'"),
        ({"num_attention_heads": 7}, "can't be loaded"),
        ({"model_type": "own"}, "doesn't know its model_type 'own'"),
        ({"model_type": "vit", "architectures": None}, "'vit' don't predict the next token"),
    ],
)
def test_a_config_with_a_wrong_entry_is_refused(tiny, entries, message):
    assert message in refused(edited(tiny, **entries))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "[]", "doesn't contain a JSON object"),
        ("config.json", "{", "can't be loaded"),
        ("tokenizer.json", "{}", "can't be loaded"),
        ("tokenizer.json", "not json", "can't be loaded"),
    ],
)
def test_a_damaged_file_is_refused(tiny, file, text, message):
    (tiny / file).write_text(text)
    assert message in refused(tiny)
