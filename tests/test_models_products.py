"""Test that 16-bit weights are multiplied in float32 on a CPU without bfloat16 instructions."""

import copy

import pytest
import torch

from course_utils import decoding, models, runtime
from course_utils.models.llama import base_layer, dense_weight, linears, product_dtype
from course_utils.models.products import Float32Linear
from course_utils.training import Recipe, attach_adapters, by_hand
from tests.conftest import make_model

pytestmark = pytest.mark.usefixtures("frozen_imports")

IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def no_bf16(monkeypatch):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: False)


def rounded_pair():
    """Return a model with bfloat16 weights, finished, and the same weights in float32."""
    model = make_model().bfloat16().eval()
    wide = copy.deepcopy(model).float()
    models.finish_loading(model)
    return model, wide


def test_outputs_equal_those_of_float32_weights_with_the_same_values(no_bf16):
    model, wide = rounded_pair()
    logits = model(IDS).logits
    assert logits.dtype == torch.float32
    assert (logits - wide(IDS).logits).abs().max() < 1e-6
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_gradients_of_adapters_equal_those_on_float32_weights(no_bf16):
    model, wide = (attach_adapters(base, Recipe(rank=4)).train() for base in rounded_pair())
    # peft rounds the initial A to the dtype of the weights.
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wide.load_state_dict(adapters, strict=False)
    for each in (model, wide):
        each(IDS, labels=IDS).loss.backward()
    expected = dict(wide.named_parameters())
    for name, parameter in adapters.items():
        assert torch.allclose(parameter.grad, expected[name].grad, atol=1e-7)
    assert any(parameter.grad.abs().max() > 0.01 for parameter in adapters.values())


def test_gradients_of_the_weights_themselves_are_computed(no_bf16):
    model, wide = (each.train() for each in rounded_pair())
    for each in (model, wide):
        each(IDS, labels=IDS).loss.backward()
    expected = dict(wide.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad.float(), expected[name].grad, rtol=0.02, atol=1e-3)


def test_the_backward_pass_keeps_no_float32_copy_of_a_frozen_weight(no_bf16):
    layer = Float32Linear(64, 48, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    saved = []
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        layer(x).sum().backward()
    assert all(tensor.dtype == torch.bfloat16 for tensor in saved)
    assert torch.allclose(x.grad, layer.weight.float().sum(0).expand(3, -1))


@pytest.mark.parametrize("has", [True, False])
def test_load_base_changes_the_layers_only_without_bf16_instructions(has, tiny_base, monkeypatch):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has)
    model, _ = models.load_base(path=tiny_base, device="cpu")
    assert isinstance(model.lm_head, Float32Linear) is not has
    dtype = torch.bfloat16 if has else torch.float32
    assert {product_dtype(layer) for layer in linears(model)} == {dtype}
    assert dense_weight(base_layer(model.lm_head), dtype).dtype == dtype


def test_float32_and_4_bit_weights_are_left_alone(no_bf16):
    for model in (make_model(), models.tiny_base()):
        models.finish_loading(model)
        assert not any(isinstance(module, Float32Linear) for module in model.modules())


def test_the_course_computes_such_a_model_by_hand(no_bf16):
    model, _ = rounded_pair()
    assert decoding.supports(model)
    adapted = attach_adapters(model, Recipe(rank=4))
    assert by_hand.supports(adapted) and by_hand.dtype_of(adapted) == torch.float32
