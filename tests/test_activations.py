"""Tests of activations against published formulas; see also test_memory."""

from dataclasses import replace

from course_utils.memory import ModelShape, Plan, Settings
from course_utils.memory.activations import layers_saved

LLAMA = ModelShape.preset("llama-7b")


def per_token(shape, **options):
    options = {"sequence_length": 512, "compute_dtype": "bfloat16", "recipe": "fp32"} | options
    run = Settings(targets="all-linear", rank=8, gradient_checkpointing=False, **options)
    one, two = (layers_saved(Plan(replace(shape, layers=2), run), layers) for layers in (1, 2))
    return (two - one) / run.tokens


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
