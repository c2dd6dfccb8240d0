"""Test that 16-bit weights are multiplied in float32 on a CPU without bfloat16 instructions."""

import copy

import pytest
import torch

from course_utils import decoding, models
from course_utils.machine import runtime
from course_utils.machine.measure import saved_for_backward
from course_utils.models import products
from course_utils.models.llama import base_layer, dense_weight, linears, product_dtype
from course_utils.models.products import Float32Linear
from course_utils.training import Recipe, attach_adapters, by_hand
from tests.conftest import make_model

pytestmark = pytest.mark.usefixtures("frozen_imports")

IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def no_bf16(monkeypatch):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: False)


def pair(**changes):
    """Return a bfloat16 model that multiplies in float32, and one that multiplies in bfloat16."""
    model = make_model(**changes).bfloat16().eval()
    native = copy.deepcopy(model)
    models.finish_loading(model)
    return model, native


def close(ours, expected):
    """Return whether two tensors agree up to 3% of the largest value: bfloat16 rounds that much."""
    assert ours.dtype == expected.dtype
    return (ours - expected).abs().max() <= 0.03 * expected.abs().max()


@pytest.mark.parametrize(("bias", "adapters"), [(False, False), (False, True), (True, False)])
def test_outputs_and_gradients_are_those_of_bfloat16(no_bf16, bias, adapters):
    found = []
    for each in pair(attention_bias=bias):
        assert {p.dtype for p in each.parameters()} == {torch.bfloat16}
        if adapters:
            each = attach_adapters(each, Recipe(rank=4))
        output = each.train()(IDS, labels=IDS)
        output.loss.backward()
        gradients = {n: p.grad for n, p in each.named_parameters() if p.grad is not None}
        found.append(gradients | {"logits": output.logits})
    ours, expected = found
    assert ours["logits"].dtype == torch.bfloat16
    assert ours.keys() == expected.keys() and len(ours) > 5
    assert all(close(ours[name], expected[name]) for name in ours)


@pytest.mark.parametrize("chunk", [1, 640 * 7, 2**20])
def test_products_are_rounded_once(chunk, monkeypatch):
    monkeypatch.setattr(products, "CHUNK", chunk)
    layer = Float32Linear(640, 48, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(3, 640, dtype=torch.bfloat16, requires_grad=True)
    y = layer(x)
    # Adding the same terms in another order may round a few results differently.
    expected = x.float() @ layer.weight.float().T
    assert y.equal(expected.bfloat16()) or (y - expected).abs().max() < 0.005 * expected.abs().max()
    y.sum().backward()
    assert torch.allclose(
        x.grad.float(), layer.weight.float().sum(0).expand(3, -1), rtol=0.01, atol=1e-3
    )


@pytest.mark.parametrize("trained", [False, True])
def test_as_many_bytes_are_kept_for_the_backward_pass(no_bf16, trained):
    kept = []
    for each in pair():
        for parameter in each.parameters():
            parameter.requires_grad_(trained)
        if not trained:
            each = attach_adapters(each, Recipe(rank=4))
        with saved_for_backward(each) as saved:
            each.train()(IDS, labels=IDS)
        kept.append(saved.size)
    assert kept[0] == kept[1]


@pytest.mark.parametrize("has", [True, False])
def test_load_base_changes_the_layers_only_without_bf16_instructions(has, tiny_base, monkeypatch):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has)
    model, _ = models.load_base(path=tiny_base, device="cpu")
    assert isinstance(model.lm_head, Float32Linear) is not has
    dtype = torch.bfloat16 if has else torch.float32
    assert {product_dtype(layer) for layer in linears(model)} == {dtype}
    assert dense_weight(base_layer(model.lm_head), dtype).dtype == dtype


def test_the_course_computes_such_a_model_by_hand(no_bf16):
    model, _ = pair()
    assert decoding.supports(model)
    adapted = attach_adapters(model, Recipe(rank=4))
    assert by_hand.supports(adapted) and by_hand.dtype_of(adapted) == torch.float32
