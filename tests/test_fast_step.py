"""The fast step computes what the plain one does: each part beside the library's, then whole runs.

In float32 the two may differ by rounding alone, far below the 1e-3 that a loss may be off.
"""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_utils import news
from course_utils.models import linear4bit_layers, load_base, tiny_base
from course_utils.sft import IGNORE, collate, encode_all, pack
from course_utils.training import Recipe, answer_loss, attach_adapters, fast_step, finetune, loop
from course_utils.training.fast_step import (
    cross_entropy,
    fast_path,
    lora_linear,
    packed_attention,
    supports_fast_path,
)
from tests.conftest import make_model, random_examples

RECIPE = Recipe(rank=4, micro_batch_size=4, learning_rate=1e-2, max_steps=20)
STEPS = 20  # that the losses of both ways are compared over
TOLERANCE = 1e-3  # relative; the target that the course sets itself


def rows(count=12):
    return random_examples(count, seed=3)


def tuned(recipe=RECIPE, seed=0):
    """A tiny NF4 model with adapters whose B is not zero, so that every part has a gradient."""
    model = attach_adapters(tiny_base(), recipe)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model.train()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours, theirs, tolerance=1e-5):
    """Within this share of the largest value, for a sum that cancels is not exact in itself."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


# -- the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_equals_torchs(monkeypatch, chunk, dtype):
    monkeypatch.setattr(fast_step, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 50, generator=generator)).to(dtype).requires_grad_()
    targets = torch.tensor([3, IGNORE, 0, 49, 7, IGNORE, 12])
    theirs = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")
    (expected,) = torch.autograd.grad(theirs * 0.25, logits)
    ours = cross_entropy(logits, targets)
    (found,) = torch.autograd.grad(ours * 0.25, logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, expected)
    assert found.dtype == dtype and found[1].eq(0).all()


def test_cross_entropy_refuses_a_second_backward_pass():
    logits = torch.zeros(2, 5, requires_grad=True)
    loss = cross_entropy(logits * 1, torch.tensor([3, 0]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("shape", [(6, 64), (2, 3, 64)])
def test_lora_linear_equals_pefts_layer_and_its_gradients(shape):
    model = tuned(replace(RECIPE, alpha=24))
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


def test_lora_linear_computes_in_the_bases_dtype_and_answers_in_its_inputs():
    adapted = tuned()
    layer = adapted.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    x = torch.randn(5, 64)
    exact = lora_linear(layer, x)
    layer.base_layer.compute_dtype = torch.bfloat16
    rough = lora_linear(layer, x)
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    assert_close(rough, exact, 0.02)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
def test_packed_attention_equals_torchs_attention_of_each_sequence_alone(heads):
    generator = torch.Generator().manual_seed(0)
    lengths, filling = [5, 33, 1, 12], 3
    total = sum(lengths) + filling
    query, key, value = (
        torch.randn(1, n, total, 16, generator=generator).requires_grad_()
        for n in (heads[0], heads[1], heads[1])
    )
    weights = torch.randn(1, total, heads[0], 16, generator=generator)
    weights[:, -filling:] = 0  # nothing is learned from what fills the row up
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
    assert_close(ours[:, :-filling], theirs)
    wanted = [query, key, value]
    for found, expected in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights[:, :-filling]).sum(), wanted),
        strict=True,
    ):
        assert_close(found, expected)


def test_packed_attention_asks_for_lengths():
    x = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match=r"needs `lengths`: make the batch by sft\.pack"):
        packed_attention(None, x, x, x, None, 1.0)


# -- a whole model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [1, 64])
@pytest.mark.parametrize("within", [True, False], ids=["fast", "transformers-own"])
def test_packed_rows_have_the_loss_and_gradients_of_padded_ones(multiple, within):
    model, features = tuned(), rows(6)
    answer_loss(model, collate(features, 0)).backward()
    expected = gradients(model)
    model.zero_grad()
    batch = pack(features, 0, multiple)
    with fast_path(model) if within else torch.enable_grad():
        loss = answer_loss(model, batch)
        loss.backward()
    torch.testing.assert_close(loss, answer_loss(model, collate(features, 0)), rtol=1e-5, atol=0)
    assert set(gradients(model)) == set(expected)
    for name, gradient in gradients(model).items():
        assert_close(gradient, expected[name], 2e-5)


def history(tokenizer, folder, recipe=RECIPE, **options):
    model = attach_adapters(tiny_base(), recipe)
    return finetune(model, tokenizer, rows(), recipe=recipe, output_dir=folder, **options)


@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_checkpointing": False}, {"micro_batch_size": 2, "accumulation": 2}],
    ids=["checkpointing", "no-checkpointing", "accumulation"],
)
def test_losses_of_twenty_steps_are_those_of_the_plain_loop(tokenizer, tmp_path, changes):
    recipe = replace(RECIPE, **changes)
    plain, fast = (
        history(tokenizer, tmp_path, replace(recipe, fast=fast), validation=rows(3)).table()
        for fast in (False, True)
    )
    assert len(fast) == STEPS and fast["loss"].iloc[-1] < 0.8 * fast["loss"].iloc[0]
    for column in ("loss", "grad_norm"):
        assert (fast[column] / plain[column] - 1).abs().max() < TOLERANCE / 10
    assert fast["tokens"].equals(plain["tokens"])
    assert fast["validation_loss"].iloc[-1] == pytest.approx(plain["validation_loss"].iloc[-1])


def test_it_is_the_default_where_it_is_supported(tokenizer, tmp_path, monkeypatch):
    used, recipe = [], replace(RECIPE, max_steps=2)
    monkeypatch.setattr(loop, "fast_path", lambda m: used.append(1) or fast_path(m))
    history(tokenizer, tmp_path, recipe)
    assert used == [1, 1]
    history(tokenizer, tmp_path, replace(recipe, fast=False))
    history(tokenizer, tmp_path, replace(recipe, compute_dtype=torch.float32))
    assert used == [1, 1]


def test_where_it_is_not_supported_it_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="fast=True needs a Llama with LoRA on NF4 layers"):
        finetune(make_model(), tokenizer, rows(), output_dir=tmp_path, recipe=Recipe(fast=True))


def test_what_the_fast_path_supports():
    assert supports_fast_path(tuned())
    assert not supports_fast_path(tiny_base())  # no adapters
    assert not supports_fast_path(attach_adapters(make_model(), RECIPE))  # not quantized
    assert not supports_fast_path(attach_adapters(tiny_base(), replace(RECIPE, dropout=0.1)))
    half, other = tuned(), tuned()
    for layer in half.modules():
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype = torch.float16
    other.config.model_type = "mistral"
    assert not supports_fast_path(half) and not supports_fast_path(other)


def test_adapters_that_are_off_or_of_another_kind_are_not_supported():
    from peft import LoraConfig, get_peft_model

    model = tuned()
    with model.disable_adapter():
        assert not supports_fast_path(model)
    assert supports_fast_path(model)
    for options in ({"use_dora": True}, {"lora_bias": True}):
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)
        assert not supports_fast_path(get_peft_model(tiny_base(), config))


def test_the_model_is_as_before_afterwards_also_after_an_error():
    model, ids = tuned().eval(), torch.tensor([list(range(3, 20))])
    before, implementation = model(ids).logits, model.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"), fast_path(model):
        assert model.config._attn_implementation != implementation
        raise RuntimeError("stop")
    assert model.config._attn_implementation == implementation
    assert torch.equal(model(ids).logits, before)
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_a_second_adapter_trains_fast_too(tokenizer, tmp_path):
    model = tuned()
    attach_adapters(model, RECIPE, name="second")
    first = {n: p.detach().clone() for n, p in model.named_parameters() if ".default." in n}
    options = {"recipe": replace(RECIPE, fast=True), "output_dir": tmp_path}
    run = finetune(model, tokenizer, rows(), **options)
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in first.items())


# -- the real model --------------------------------------------------------------------------------


def real_losses(folder, fast, exact):
    """Losses of lecture 07's first steps; exact: all in float32."""
    dtype = torch.float32 if exact else torch.bfloat16
    model, tokenizer = load_base("smollm2-135m", quantization="nf4", compute_dtype=dtype)
    for parameter in model.parameters():
        if exact and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    for layer in linear4bit_layers(model).values() if exact else ():
        layer.weight.quant_state.dtype = torch.float32  # else peft's backward has W in bfloat16
    stories = news.load_news()["train"]
    train = encode_all([news.tuned_messages(story) for story in stories], tokenizer)
    recipe = Recipe(max_steps=STEPS, fast=fast)
    model = attach_adapters(model, recipe)
    run = finetune(model, tokenizer, train, recipe=recipe, output_dir=folder)
    return torch.tensor([record["loss"] for record in run.history])


@pytest.mark.slow
def test_losses_of_lecture_07_are_those_of_the_plain_loop(tmp_path):
    plain, fast = (real_losses(tmp_path, fast, exact=True) for fast in (False, True))
    assert (fast / plain - 1).abs().max() < TOLERANCE
    rough, ours = (real_losses(tmp_path, fast, exact=False) for fast in (False, True))
    # bfloat16 keeps 8 bits of a number: both ways lie off float32's losses, ours no further
    assert (ours / plain - 1).norm() < 1.5 * (rough / plain - 1).norm()
