"""Compare LoRALinear with peft and with its definition, also on 4-bit weights."""

import copy
import math

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn

from course_utils import lora
from course_utils.lora import (
    LoRALinear,
    break_even_rank,
    subspace_similarity,
)
from course_utils.training import Recipe, attach_adapters
from tests.conftest import make_model, randomize_adapters
from tests.test_quantization import both_layers

CLOSE = {"rtol": 0, "atol": 1e-5}


def layer(d_in=6, d_out=4, rank=2, alpha=None, bias=True, **place):
    """Return a LoRALinear whose A and B are not zero, as after some training."""
    torch.manual_seed(0)
    made = LoRALinear(nn.Linear(d_in, d_out, bias=bias, **place), rank, alpha)
    nn.init.normal_(made.B)
    return made


def nf4(d_in, d_out):
    """Return a 4-bit layer on the CPU, and a float32 layer with the same dequantized weights."""
    plain = nn.Linear(d_in, d_out, bias=False)
    _, packed = both_layers(plain, double_quant=True, compute_dtype=torch.float32)
    plain.weight.data = dequantize_4bit(packed.weight.data, packed.weight.quant_state)
    return packed, plain


def with_peft(model, targets="all-linear"):
    """Return a peft model with trained adapters, a copy with LoRALinear, and peft's layers."""
    from peft.tuners.lora import LoraLayer

    ours = copy.deepcopy(model)
    theirs = attach_adapters(model, Recipe(rank=4, alpha=12, targets=targets))
    randomize_adapters(theirs, 0.05)
    layers = {n: m for n, m in theirs.base_model.model.named_modules() if isinstance(m, LoraLayer)}
    for name, peft_layer in layers.items():
        ours.set_submodule(name, LoRALinear.from_peft(copy.deepcopy(peft_layer)))
    return theirs, ours, layers


# --- arithmetic -----------------------------------------------------------------------------------


def test_the_break_even_rank_separates_fewer_from_more_parameters():
    assert break_even_rank(1000, 1000) == 500.0
    assert break_even_rank(576, 1536) == pytest.approx(418.909, abs=1e-3)
    for d_in, d_out in ((576, 192), (7, 3), (1, 1)):
        even = break_even_rank(d_in, d_out)
        below, above = math.ceil(even) - 1, math.floor(even) + 1
        if below:
            assert lora.count_lora_parameters(d_in, d_out, below) < d_in * d_out
        assert lora.count_lora_parameters(d_in, d_out, above) > d_in * d_out


# --- the layer ------------------------------------------------------------------------------------


def test_the_output_follows_the_definition():
    made, x = layer(alpha=6), torch.randn(3, 5, 6)
    # In the notation for row vectors, W' = W + α/r A B.
    weight = made.base.weight.T + 6 / 2 * made.A @ made.B
    torch.testing.assert_close(made(x), x @ weight + made.base.bias)
    torch.testing.assert_close(made.delta(), 3 * made.A @ made.B)


def test_the_initial_update_is_zero():
    base, x = nn.Linear(20, 10), torch.randn(3, 20)
    made = LoRALinear(base, rank=4, alpha=8)
    assert not made.delta().any() and made.A.all()
    assert torch.equal(made(x), base(x))
    assert made.A.abs().max() <= 1 / math.sqrt(20)


def test_merge_keeps_the_output_and_unmerge_restores_the_weights():
    made, x = layer(64, 48, rank=8, alpha=16), torch.randn(10, 64)
    old, unmerged = made.base.weight.clone(), made(x)
    made.merge()
    # The second call changes nothing.
    made.merge()
    torch.testing.assert_close(made(x), unmerged, **CLOSE)
    assert made.merged and not torch.equal(made.base.weight, old)
    torch.testing.assert_close(made.base.weight.T, old.T + made.delta())
    made.unmerge()
    made.unmerge()
    torch.testing.assert_close(made.base.weight, old, rtol=0, atol=1e-6)
    torch.testing.assert_close(made(x), unmerged, **CLOSE)
    assert not made.merged


def test_a_bfloat16_base_keeps_its_dtype_and_the_adapters_are_float32():
    made = layer(64, 48, rank=8, dtype=torch.bfloat16)
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    assert made.A.dtype == made.B.dtype == made.delta().dtype == torch.float32
    unmerged = made(x)
    assert unmerged.dtype == torch.bfloat16
    exact = x.float() @ (made.base.weight.float().T + made.delta()) + made.base.bias.float()
    assert (unmerged - exact).abs().max() <= 2**-7 * exact.abs().max()
    unmerged.float().sum().backward()
    assert made.A.grad.dtype == torch.float32
    old = made.base.weight.clone()
    made.merge()
    assert made.base.weight.dtype == torch.bfloat16
    assert (made(x) - exact).abs().max() <= 2**-6 * exact.abs().max()
    made.unmerge()
    scale = (old.float().abs() + made.delta().T.abs()).max()
    assert (made.base.weight - old).abs().max() <= 2**-7 * scale


# --- peft -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_outputs_and_gradients_equal_those_of_peft(targets):
    theirs, ours, layers = with_peft(make_model(), targets)
    tokens = torch.randint(3, 259, (2, 12), generator=torch.Generator().manual_seed(2))
    outputs = [model(input_ids=tokens, labels=tokens) for model in (theirs, ours)]
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits, **CLOSE)
    for output in outputs:
        output.loss.backward()
    assert len(layers) == (14 if targets == "all-linear" else 4)
    for name, peft_layer in layers.items():
        our_layer = ours.get_submodule(name)
        for matrix, of_peft in (("A", peft_layer.lora_A), ("B", peft_layer.lora_B)):
            gradient = of_peft["default"].weight.grad.T
            # If the gradients were all tiny, the comparison would always succeed.
            assert gradient.abs().max() > 1e-4
            torch.testing.assert_close(getattr(our_layer, matrix).grad, gradient, **CLOSE)
        delta = peft_layer.get_delta_weight("default")
        torch.testing.assert_close(our_layer.delta().T, delta, **CLOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "uses DoRA"),
        ({"lora_bias": True}, "a bias of B"),
        ({}, r"call unmerge\(\) first"),
    ],
)
def test_from_peft_rejects_dora_a_bias_of_b_and_merged_layers(options, message):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["0"], **options)
    model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), config)
    if not options:
        model.base_model.model[0].merge()
    with pytest.raises(ValueError, match=message):
        LoRALinear.from_peft(model.base_model.model[0])


def test_from_peft_keeps_the_scale_of_the_layer():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=12, use_rslora=True, target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(6, 5)), config)
    peft_layer = model.base_model.model[0]
    nn.init.normal_(peft_layer.lora_B["default"].weight)
    x = torch.randn(3, 6)
    expected = peft_layer(x)
    ours = LoRALinear.from_peft(peft_layer)
    # Rank-stabilized LoRA scales by α/√r.
    assert ours.scale == 6
    torch.testing.assert_close(ours(x), expected, **CLOSE)


def test_merged_weights_equal_those_of_peft():
    theirs, ours, layers = with_peft(make_model())
    for name in layers:
        ours.get_submodule(name).merge()
    merged = theirs.merge_and_unload()
    for name in layers:
        expected = merged.get_submodule(name).weight
        torch.testing.assert_close(ours.get_submodule(name).base.weight, expected, **CLOSE)


# --- four bits ------------------------------------------------------------------------------------


def test_gradients_on_an_nf4_base_equal_those_on_its_dequantized_weights():
    packed, plain = (LoRALinear(base, 4, 8) for base in nf4(64, 128))
    nn.init.normal_(packed.B, std=0.1)
    plain.A.data, plain.B.data = packed.A.data, packed.B.data
    results = []
    for made in (packed, plain):
        x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        y = made(x)
        y.square().mean().backward()
        results.append((y, x.grad, made.A.grad, made.B.grad))
    for ours, exact in zip(*results, strict=True):
        # If the gradients were all tiny, the comparison would always succeed.
        assert exact.abs().max() > 1e-3
        torch.testing.assert_close(ours, exact, **CLOSE)
    assert packed.base.weight.grad is None


def test_merging_into_4_bit_weights_raises_an_error():
    packed, _ = nf4(64, 64)
    made = LoRALinear(packed, 4)
    codes = packed.weight.data.clone()
    for change in (made.merge, made.unmerge):
        with pytest.raises(
            ValueError, match=r"is quantized.*keep the adapter unmerged, or dequantize"
        ):
            change()
    assert torch.equal(packed.weight.data, codes) and not made.merged


# --- the directions of two adapters ---------------------------------------------------------------


def directions(*columns, width=12):
    """Return a matrix A whose main directions are axes, from the strongest to the weakest."""
    A = torch.zeros(len(columns), width)
    for row, column in enumerate(columns):
        A[row, column] = len(columns) - row
    return A


@pytest.mark.parametrize(
    ("i", "j", "expected"), [(1, 1, 0), (1, 2, 1), (2, 1, 1), (2, 2, 1), (3, 3, 2 / 3), (2, 3, 1)]
)
def test_the_similarity_is_the_share_of_common_directions(i, j, expected):
    one, other = directions(0, 1, 2), directions(1, 0, 5)
    assert subspace_similarity(one, other, i, j) == pytest.approx(expected)


def test_the_similarity_depends_on_the_directions_only():
    torch.manual_seed(0)
    A, other = torch.randn(8, 40), torch.randn(20, 40)
    mixed = torch.randn(8, 8) @ A
    assert subspace_similarity(A, mixed, 8, 8) == pytest.approx(1, abs=1e-6)
    assert subspace_similarity(A, 3 * other, 5, 20) == pytest.approx(
        subspace_similarity(other, A, 20, 5)
    )
    assert subspace_similarity(A.half(), A, 4, 8) == pytest.approx(1, abs=1e-3)


def similarity_to_ones(shape, i, j):
    return lambda: subspace_similarity(directions(0, 1, 2), torch.ones(shape), i, j)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (lambda rank=rank: layer(rank=rank), "rank must be a whole number from 1 to 4, got")
            for rank in (0, 5, 2.0)
        ),
        *(
            (lambda alpha=alpha: layer(alpha=alpha), "alpha must be a number above 0")
            for alpha in (0, math.nan, "2")
        ),
        (lambda: break_even_rank(0, 5), "d_in must be .* at least 1, got 0"),
        (lambda: break_even_rank(5, "a"), "d_out"),
        (similarity_to_ones((4, 13), 1, 1), "same number of inputs"),
        (similarity_to_ones((12,), 1, 1), "same number of inputs"),
        (similarity_to_ones((4, 12), 4, 4), "i must be at most the rank 3, got 4"),
        (similarity_to_ones((4, 12), 3, 5), "j must be at most the rank 4, got 5"),
        (similarity_to_ones((4, 12), 0, 1), "i must be"),
    ],
)
def test_arguments_that_are_not_allowed_raise_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
