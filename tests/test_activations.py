"""Tests of activations against published formulas; see also test_memory."""

from dataclasses import replace

from course_utils.memory import ModelShape, Plan, Settings
from course_utils.memory.activations import layers_saved
from course_utils.memory.trace import trace

LLAMA = ModelShape.preset("llama-7b")


def per_token(shape, **options):
    options = {"sequence_length": 512, "compute_dtype": "bfloat16", "recipe": "fp32"} | options
    run = Settings(targets="all-linear", rank=8, gradient_checkpointing=False, **options)
    one, two = (layers_saved(Plan(replace(shape, layers=2), run), layers) for layers in (1, 2))
    return (two - one) / run.tokens


def test_a_traced_layer_saves_the_bytes_of_korthikanti_et_al():
    """Section 4: 34 sbh per layer with fused attention, of which 2 sbh are two dropout masks.

    The paper's model has 16 bits, LayerNorm, an MLP of width 4h, and no grouped-query attention.
    """
    sizes = {"vocab_size": 256, "n_embd": 2048, "n_head": 16, "n_positions": 512}
    config = sizes | {"model_type": "gpt2", "activation_function": "gelu"}
    config |= {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
    options = {"recipe": "bf16", "gradient_checkpointing": False, "sequence_length": 512}
    one, two = (trace(config | {"n_layer": n}, "full", **options).activations for n in (1, 2))
    # The paper doesn't count the statistics of the two norms and of attention.
    statistics = 2 * (2 + 2) + 4 * 16
    assert (two - one) / 512 - statistics == (34 - 2) * 2048


def test_eager_attention_stores_every_score():
    """Korthikanti et al. 2022: 5 as²b in 16 bits, of which 2 as²b belong to dropout.

    transformers saves the softmax in 32 bits, and its 16-bit copy.
    """
    long, short = (
        per_token(LLAMA, method="full", recipe="bf16", attention="eager", sequence_length=s)
        for s in (2048, 1024)
    )
    assert long - short == 1024 * LLAMA.heads * (4 + 2)
