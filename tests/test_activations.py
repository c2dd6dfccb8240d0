"""activations: formulas against published ones; the bytes of real steps are in test_memory."""

import pytest
import torch

from course_utils.measure import saved_for_backward
from course_utils.memory import (
    ModelShape,
    Plan,
    Settings,
    estimate,
    layer_backward,
    layer_saved,
    saved_lines,
)
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters

LLAMA = ModelShape.preset("llama-7b")
GROUPED = ModelShape.preset("llama-3.1-8b")


def per_token(shape, **options):
    options = {"sequence_length": 512, "compute_dtype": "bfloat16", "recipe": "fp32"} | options
    run = Settings(targets="all-linear", rank=8, gradient_checkpointing=False, **options)
    return layer_saved(Plan(shape, run)) / run.tokens


@pytest.mark.parametrize("shape", [LLAMA, GROUPED, ModelShape.preset("smollm2-1.7b")])
def test_bytes_per_token_and_layer_have_their_closed_form(shape):
    h, n, wide = shape.hidden, shape.heads, shape.intermediate
    key = shape.kv_heads * shape.head_dim
    full = 20 * h + 4 * n + 8 * wide + 4 * key + 8
    lora = 36 * h + 4 * n + 10 * wide + 4 * key + 8 + 28 * 8
    qlora = 24 * h + 4 * n + 16 * wide + 8 * key + 8 + 28 * 8
    assert per_token(shape, method="full", recipe="bf16") == full
    assert per_token(shape, method="lora") == lora
    assert per_token(shape, method="qlora") == qlora


def test_korthikantis_34_bytes():
    """34 sbh a layer with fused attention (section 4), of which two dropout masks take 2 sbh.

    Their model: 16 bits, LayerNorm, a plain MLP four times as wide, as many heads for keys.
    """
    names = {"family": "starcoder2", "norm": "layer", "gated": False, "vocab": 50000}
    sizes = {"layers": 1, "hidden": 2048, "intermediate": 8192, "heads": 16, "kv_heads": 16}
    shape = ModelShape("theirs", head_dim=128, **names, **sizes)
    statistics = 2 * 8 + 4 * 16  # of two norms and of attention, which they leave out
    assert per_token(shape, method="full", recipe="bf16") - statistics == (34 - 2) * 2048


def test_full_fine_tuning_saves_less_than_lora():
    """Adapters read float32 copies of inputs, which full fine-tuning in 16 bits does not make."""
    assert per_token(LLAMA, method="full", recipe="bf16") < per_token(LLAMA, method="lora")


def test_eager_attention_stores_every_score():
    """Korthikanti et al. 2022: the term with s² is 5 as²b in 16 bits; without dropout 3 remain."""
    long, short = (
        per_token(LLAMA, method="full", recipe="bf16", attention="eager", sequence_length=s)
        for s in (2048, 1024)
    )
    assert long - short == 1024 * LLAMA.heads * 6  # 4 B of softmax, 2 B of its copy


def test_fewer_targets_save_less():
    run = {"method": "lora", "gradient_checkpointing": False, "recipe": "fp32"}
    sizes = [
        layer_saved(Plan(LLAMA, Settings(targets=targets, **run)))
        for targets in (("v_proj",), ("q_proj", "v_proj"), "all-linear")
    ]
    assert sizes == sorted(set(sizes))


def test_checkpointing_stores_one_input_a_layer():
    plan = Plan(LLAMA, Settings(method="lora", batch_size=2, recipe="fp32"))
    lines = {line.what: line.size for line in saved_lines(plan)}
    assert lines["inputs of layers"] == 32 * 2048 * 4096 * 2
    assert not any("queries" in what for what in lines)


def test_a_layers_backward_is_widest_in_the_mlp_or_in_eager_attention():
    options = {"method": "qlora", "recipe": "fp32"}
    runs = [Settings(sequence_length=4096, attention=a, **options) for a in ("sdpa", "eager")]
    sdpa, eager = (sum(line.size for line in layer_backward(Plan(LLAMA, run))) for run in runs)
    scores = 4096 * 4096 * LLAMA.heads * 4
    assert sdpa < scores and eager > 4 * scores


@pytest.fixture(scope="module")
def smollm2():
    """The real model in NF4 with rank 8 on all linear layers, as lecture 07 trains it."""
    options = {"quantization": "nf4", "compute_dtype": torch.bfloat16, "device": "cpu"}
    model, _ = load_base("smollm2-135m", **options)
    return attach_adapters(model, Recipe()).train()


@pytest.mark.parametrize("length", [64, 256])
def test_what_the_real_model_saves_is_predicted(smollm2, length):
    ids = torch.arange(length)[None] + 1000
    with saved_for_backward(smollm2) as saved:
        smollm2(input_ids=ids, labels=ids, use_cache=False)
    options = {"rank": 8, "targets": "all-linear", "sequence_length": length, "upcast": False}
    options |= {"gradient_checkpointing": False, "compute_dtype": "bfloat16", "device": "cpu"}
    predicted = estimate("smollm2-135m", "qlora", **options).activations
    assert predicted == pytest.approx(saved.size, rel=1e-4)


@pytest.mark.parametrize(
    ("checkpointing", "measured"),
    [(False, 685.2), (True, 130.9)],  # MiB, measured with peft's upcast, 512 tokens, rank 8
)
def test_smollm2_after_the_upcast(checkpointing, measured):
    options = {"rank": 8, "targets": "all-linear", "sequence_length": 512, "device": "cpu"}
    e = estimate("smollm2-135m", "qlora", gradient_checkpointing=checkpointing, **options)
    assert e.activations / 2**20 == pytest.approx(measured, rel=0.001)
