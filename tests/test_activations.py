"""Tests of activations against published formulas and the real model; see also test_memory."""

import pytest
import torch

from course_utils.machine.measure import saved_for_backward
from course_utils.memory import ModelShape, Plan, Settings, estimate
from course_utils.memory.activations import layer_backward, layer_saved, saved_terms
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


def test_a_layer_saves_the_bytes_of_korthikanti_et_al():
    """Section 4: 34 sbh per layer with fused attention, of which 2 sbh are two dropout masks.

    The paper's model has 16 bits, LayerNorm, an MLP of width 4h, and no grouped-query attention.
    """
    names = {"family": "gpt2", "norm": "layer", "gated": False, "vocab": 50000}
    sizes = {"layers": 1, "hidden": 2048, "intermediate": 8192, "heads": 16, "kv_heads": 16}
    shape = ModelShape("paper", head_dim=128, **names, **sizes)
    # The paper doesn't count the statistics of the two norms and of attention.
    statistics = 2 * 8 + 4 * 16
    assert per_token(shape, method="full", recipe="bf16") - statistics == (34 - 2) * 2048


def test_eager_attention_stores_every_score():
    """Korthikanti et al. 2022: 5 as²b in 16 bits, of which 2 as²b belong to dropout.

    transformers saves the softmax in 32 bits, and its 16-bit copy.
    """
    long, short = (
        per_token(LLAMA, method="full", recipe="bf16", attention="eager", sequence_length=s)
        for s in (2048, 1024)
    )
    assert long - short == 1024 * LLAMA.heads * (4 + 2)


def test_checkpointing_stores_one_input_per_layer():
    plan = Plan(LLAMA, Settings(method="lora", batch_size=2, recipe="fp32"))
    sizes = {term.name: term.size for term in saved_terms(plan)}
    assert sizes["inputs of layers"] == 32 * 2048 * 4096 * 2
    assert not any("queries" in name for name in sizes)


def test_eager_attention_dominates_a_layers_backward_pass_at_4096_tokens():
    options = {"method": "qlora", "recipe": "fp32"}
    runs = [Settings(sequence_length=4096, attention=a, **options) for a in ("sdpa", "eager")]
    sdpa, eager = (sum(term.size for term in layer_backward(Plan(LLAMA, run))) for run in runs)
    scores = 4096 * 4096 * LLAMA.heads * 4
    assert sdpa < scores and eager > 4 * scores


@pytest.mark.full
def test_the_activations_of_the_real_model_are_predicted():
    """The model is in NF4 with adapters of rank 8 on all linear layers, as in lecture 07."""
    model, _ = load_base(
        "smollm2-135m", quantization="nf4", compute_dtype=torch.bfloat16, device="cpu"
    )
    model = attach_adapters(model, Recipe()).train()
    options = {"rank": 8, "targets": "all-linear", "upcast": False, "compute_dtype": "bfloat16"}
    options |= {"gradient_checkpointing": False, "device": "cpu"}
    for length in (64, 256):
        ids = torch.arange(length)[None] + 1000
        with saved_for_backward(model) as saved:
            model(input_ids=ids, labels=ids, use_cache=False)
        e = estimate("smollm2-135m", "qlora", sequence_length=length, **options)
        assert e.activations == pytest.approx(saved.size, rel=1e-4)


# The activations in MiB were measured with peft's upcast, 512 tokens and rank 8.
@pytest.mark.parametrize(("checkpointing", "measured"), [(False, 685.2), (True, 130.9)])
def test_activations_after_the_upcast_are_predicted(checkpointing, measured):
    options = {"rank": 8, "targets": "all-linear", "sequence_length": 512, "device": "cpu"}
    e = estimate("smollm2-135m", "qlora", gradient_checkpointing=checkpointing, **options)
    assert e.activations / 2**20 == pytest.approx(measured, rel=0.001)
