"""Test that the fast training step gives the same results as the plain step, up to rounding.

Each function is compared with the function of torch or peft that it replaces. Then complete
training runs are compared.
"""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_utils import news
from course_utils.models import linear4bit_layers, load_base, tiny_base
from course_utils.sft import IGNORE, collate, encode_all, pack
from course_utils.training import (
    Recipe,
    answer_loss,
    attach_adapters,
    fast_step,
    finetune,
    loop,
    strength,
)
from course_utils.training.fast_step import (
    cross_entropy,
    fast_path,
    lora_linear,
    packed_attention,
    supports_fast_path,
)
from tests.conftest import make_model, random_examples

pytestmark = pytest.mark.usefixtures("frozen_imports")

RECIPE = Recipe(rank=4, micro_batch_size=4, learning_rate=1e-2, max_steps=20)
# The number of steps whose losses are compared.
STEPS = 20
# The relative difference of two losses that the course allows.
TOLERANCE = 1e-3


def examples(count=12):
    return random_examples(count, seed=3)


def adapted_model(recipe=RECIPE, seed=0):
    """Return a tiny NF4 model with adapters whose B is not zero, so A has a gradient, too."""
    model = attach_adapters(tiny_base(), recipe)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model.train()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours, theirs, tolerance=1e-5):
    """Assert that no difference exceeds `tolerance` times the largest absolute value."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


# -- the functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_equals_that_of_torch(monkeypatch, chunk, dtype):
    monkeypatch.setattr(fast_step, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 50, generator=generator)).to(dtype).requires_grad_()
    targets = torch.tensor([3, IGNORE, 0, 49, 7, IGNORE, 12])
    theirs = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")
    (expected,) = torch.autograd.grad(theirs * 0.25, logits)
    ours = cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad(ours * 0.25, logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, expected)
    assert gradient.dtype == dtype and gradient[1].eq(0).all()


def test_cross_entropy_raises_an_error_in_a_second_backward_pass():
    logits = torch.zeros(2, 5, requires_grad=True)
    loss = cross_entropy(logits * 1, torch.tensor([3, 0]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("shape", [(6, 64), (2, 3, 64)])
def test_lora_linear_and_its_gradients_equal_those_of_pefts_layer(shape):
    model = adapted_model(replace(RECIPE, alpha=24))
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.gate_proj")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.randn(*shape[:-1], 128, generator=torch.Generator().manual_seed(2))
    wanted = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    for ours, theirs in zip(
        torch.autograd.grad((lora_linear(layer, x) * weights).sum(), wanted),
        torch.autograd.grad((layer(x) * weights).sum(), wanted),
        strict=True,
    ):
        assert_close(ours, theirs)
    assert_close(lora_linear(layer, x), layer(x))


def test_lora_linear_computes_in_the_compute_dtype_and_returns_the_dtype_of_its_input():
    model = adapted_model()
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    x = torch.randn(5, 64)
    exact = lora_linear(layer, x)
    layer.base_layer.compute_dtype = torch.bfloat16
    rounded = lora_linear(layer, x)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert_close(rounded, exact, 0.02)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
def test_packed_attention_equals_torchs_attention_within_each_sequence(heads):
    generator = torch.Generator().manual_seed(0)
    lengths, padding = [5, 33, 1, 12], 3
    total = sum(lengths) + padding
    query, key, value = (
        torch.randn(1, n, total, 16, generator=generator).requires_grad_()
        for n in (heads[0], heads[1], heads[1])
    )
    weights = torch.randn(1, total, heads[0], 16, generator=generator)
    # The padding at the end has no loss.
    weights[:, -padding:] = 0
    ours, _ = packed_attention(None, query, key, value, None, 0.25, lengths=torch.tensor(lengths))
    ends = torch.tensor(lengths).cumsum(0).tolist()
    theirs = torch.cat(
        [
            F.scaled_dot_product_attention(
                *(x[:, :, end - length : end] for x in (query, key, value)),
                is_causal=True,
                scale=0.25,
                enable_gqa=True,
            )
            for length, end in zip(lengths, ends, strict=True)
        ],
        dim=2,
    ).transpose(1, 2)
    assert_close(ours[:, :-padding], theirs)
    wanted = [query, key, value]
    for gradient, expected in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights[:, :-padding]).sum(), wanted),
        strict=True,
    ):
        assert_close(gradient, expected)


def test_packed_attention_without_lengths_raises_an_error():
    x = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match=r"needs `lengths`: make the batch with sft\.pack"):
        packed_attention(None, x, x, x, None, 1.0)


@pytest.mark.parametrize("factor", [0, 0.5])
def test_the_fast_path_computes_with_the_strength_of_the_adapters(factor):
    model = adapted_model().eval()
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.gate_proj")
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), strength(model, factor):
        ours = lora_linear(layer, x)
        assert_close(ours, layer(x))
    if factor == 0:
        assert torch.equal(ours, layer.base_layer(x))


# -- a model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [1, 64])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "transformers"])
def test_a_packed_batch_has_the_same_loss_and_gradients_as_a_padded_batch(multiple, fast):
    model, features = adapted_model(), examples(6)
    answer_loss(model, collate(features, 0)).backward()
    expected = gradients(model)
    model.zero_grad()
    batch = pack(features, 0, multiple)
    with fast_path(model) if fast else torch.enable_grad():
        loss = answer_loss(model, batch)
        loss.backward()
    torch.testing.assert_close(loss, answer_loss(model, collate(features, 0)), rtol=1e-5, atol=0)
    assert set(gradients(model)) == set(expected)
    for name, gradient in gradients(model).items():
        assert_close(gradient, expected[name], 2e-5)


def train(tokenizer, folder, recipe=RECIPE, **options):
    model = attach_adapters(tiny_base(), recipe)
    return finetune(model, tokenizer, examples(), recipe=recipe, output_dir=folder, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"gradient_checkpointing": False}, marks=pytest.mark.full),
        pytest.param({"micro_batch_size": 2, "accumulation": 2}, marks=pytest.mark.full),
    ],
    ids=["checkpointing", "no-checkpointing", "accumulation"],
)
def test_twenty_fast_steps_have_the_same_losses_as_twenty_plain_steps(tokenizer, tmp_path, changes):
    recipe = replace(RECIPE, **changes)
    plain, fast = (
        train(tokenizer, tmp_path, replace(recipe, fast=fast), validation=examples(3)).table()
        for fast in (False, True)
    )
    assert len(fast) == STEPS and fast["loss"].iloc[-1] < 0.8 * fast["loss"].iloc[0]
    for column in ("loss", "grad_norm"):
        assert (fast[column] / plain[column] - 1).abs().max() < TOLERANCE / 10
    assert fast["tokens"].equals(plain["tokens"])
    assert fast["validation_loss"].iloc[-1] == pytest.approx(plain["validation_loss"].iloc[-1])


def test_the_fast_path_is_the_default_for_supported_models(tokenizer, tmp_path, monkeypatch):
    calls, recipe = [], replace(RECIPE, max_steps=2)
    monkeypatch.setattr(loop, "fast_path", lambda m: calls.append(1) or fast_path(m))
    train(tokenizer, tmp_path, recipe)
    assert calls == [1, 1]
    train(tokenizer, tmp_path, replace(recipe, fast=False))
    train(tokenizer, tmp_path, replace(recipe, compute_dtype=torch.float32))
    assert calls == [1, 1]


def test_fast_true_raises_an_error_for_unsupported_models(tokenizer, tmp_path):
    recipe = Recipe(fast=True)
    with pytest.raises(ValueError, match="fast=True needs a Llama model on a CPU, with LoRA"):
        finetune(make_model(), tokenizer, examples(), output_dir=tmp_path, recipe=recipe)


def test_the_fast_path_supports_only_4_bit_llamas_with_plain_lora():
    assert supports_fast_path(adapted_model())
    without_adapters, without_quantization = tiny_base(), attach_adapters(make_model(), RECIPE)
    assert not supports_fast_path(without_adapters)
    assert not supports_fast_path(without_quantization)
    assert not supports_fast_path(attach_adapters(tiny_base(), replace(RECIPE, dropout=0.1)))
    float16, mistral = adapted_model(), adapted_model()
    for layer in float16.modules():
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype = torch.float16
    mistral.config.model_type = "mistral"
    assert not supports_fast_path(float16) and not supports_fast_path(mistral)


def test_the_fast_path_does_not_support_disabled_adapters_dora_or_a_bias_of_b():
    from peft import LoraConfig, get_peft_model

    model = adapted_model()
    with model.disable_adapter():
        assert not supports_fast_path(model)
    assert supports_fast_path(model)
    for options in ({"use_dora": True}, {"lora_bias": True}):
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)
        assert not supports_fast_path(get_peft_model(tiny_base(), config))


def test_an_error_inside_fast_path_restores_the_model():
    model, ids = adapted_model().eval(), torch.tensor([list(range(3, 20))])
    before, implementation = model(ids).logits, model.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"), fast_path(model):
        assert model.config._attn_implementation != implementation
        raise RuntimeError("stop")
    assert model.config._attn_implementation == implementation
    assert torch.equal(model(ids).logits, before)
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_the_fast_path_trains_a_second_adapter(tokenizer, tmp_path):
    model = adapted_model()
    attach_adapters(model, RECIPE, name="second")
    first = {n: p.detach().clone() for n, p in model.named_parameters() if ".default." in n}
    options = {"recipe": replace(RECIPE, fast=True), "output_dir": tmp_path}
    run = finetune(model, tokenizer, examples(), **options)
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in first.items())


# -- the real model --------------------------------------------------------------------------------


def lecture_losses(folder, fast, dtype):
    """Return the losses of lecture 07's first steps, with all computations in `dtype`."""
    exact = dtype == torch.float32
    model, tokenizer = load_base("smollm2-135m", quantization="nf4", compute_dtype=dtype)
    for parameter in model.parameters():
        if exact and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    for layer in linear4bit_layers(model).values() if exact else ():
        # Otherwise the backward pass of peft would dequantize the weights to bfloat16.
        layer.weight.quant_state.dtype = torch.float32
    stories = news.load_news()["train"]
    train = encode_all([news.tuned_messages(story) for story in stories], tokenizer)
    recipe = Recipe(max_steps=STEPS, fast=fast)
    model = attach_adapters(model, recipe)
    run = finetune(model, tokenizer, train, recipe=recipe, output_dir=folder)
    return torch.tensor([record["loss"] for record in run.history])


@pytest.mark.slow
def test_the_fast_step_has_the_same_losses_as_the_plain_step_in_lecture_07(tmp_path):
    plain, fast = (lecture_losses(tmp_path, fast, torch.float32) for fast in (False, True))
    assert (fast / plain - 1).abs().max() < TOLERANCE
    # In bfloat16, both steps round differently from float32. The fast step is not less accurate.
    plain16, fast16 = (lecture_losses(tmp_path, fast, torch.bfloat16) for fast in (False, True))
    assert (fast16 / plain - 1).norm() < 1.5 * (plain16 / plain - 1).norm()
