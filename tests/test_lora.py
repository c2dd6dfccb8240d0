"""LoRA of the course against peft, against its definition, and on 4-bit weights."""

import copy
import math

import pytest
import torch
from torch import nn

from course_utils import lora
from course_utils.lora import LoRALinear, add_lora, break_even_rank, count_trainable
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters, trainable_parameters
from tests.conftest import make_model

CLOSE = {"rtol": 0, "atol": 1e-5}


def layer(d_in=6, d_out=4, rank=2, alpha=None, bias=True, **place):
    """A LoRALinear in the middle of training: nothing in it is zero."""
    torch.manual_seed(0)
    made = LoRALinear(nn.Linear(d_in, d_out, bias=bias, **place), rank, alpha)
    nn.init.normal_(made.B)
    return made


def nf4(d_in, d_out):
    """A 4-bit layer on the CPU and a float32 one with exactly its weights."""
    import bitsandbytes as bnb

    plain = nn.Linear(d_in, d_out, bias=False)
    packed = bnb.nn.Linear4bit(d_in, d_out, bias=False, quant_type="nf4", compute_dtype=torch.float)
    packed.support_avx512bf16_for_cpu = False
    packed.load_state_dict(plain.state_dict())
    packed.to("cpu")
    state = packed.weight.quant_state
    plain.weight.data = bnb.functional.dequantize_4bit(packed.weight.data, state)
    return packed, plain


def with_peft(model, targets="all-linear", seed=1):
    """A peft model whose B is as after some training, and the same model with our layers in it."""
    from peft.tuners.lora import LoraLayer

    ours = copy.deepcopy(model)
    theirs = attach_adapters(model, Recipe(rank=4, alpha=12, targets=targets))
    torch.manual_seed(seed)
    layers = {n: m for n, m in theirs.base_model.model.named_modules() if isinstance(m, LoraLayer)}
    for name, theirs_of in layers.items():
        nn.init.normal_(theirs_of.lora_B["default"].weight, std=0.05)
        ours.set_submodule(name, LoRALinear.from_peft(copy.deepcopy(theirs_of)))
    return theirs, ours, layers


# --- arithmetic -----------------------------------------------------------------------------------


def test_the_slides_matrix():
    count = lora.count_lora_parameters(1000, 1000, rank=8)
    assert count == 16_000 and count / 1000**2 == 0.016
    made = LoRALinear(nn.Linear(1000, 1000, bias=False), rank=8)
    assert count_trainable(made) == (16_000, 1_016_000)
    assert made.A.shape == (1000, 8) and made.B.shape == (8, 1000)


def test_break_even_rank():
    assert break_even_rank(1000, 1000) == 500.0
    assert break_even_rank(576, 1536) == pytest.approx(418.909, abs=1e-3)
    for d_in, d_out in ((576, 192), (7, 3), (1, 1)):
        even = break_even_rank(d_in, d_out)
        below, above = math.ceil(even) - 1, math.floor(even) + 1
        if below:
            assert lora.count_lora_parameters(d_in, d_out, below) < d_in * d_out
        assert lora.count_lora_parameters(d_in, d_out, above) > d_in * d_out
    for sizes, message in (((0, 5), "d_in must be .* at least 1, got 0"), ((5, "a"), "d_out")):
        with pytest.raises(ValueError, match=message):
            break_even_rank(*sizes)


# --- the layer ------------------------------------------------------------------------------------


def test_the_output_is_the_definition():
    made, x = layer(alpha=6), torch.randn(3, 5, 6)
    # W' = W + α/r A B, for vectors in rows.
    weight = made.base.weight.T + 6 / 2 * made.A @ made.B
    torch.testing.assert_close(made(x), x @ weight + made.base.bias)
    torch.testing.assert_close(made.delta(), 3 * made.A @ made.B)


def test_without_alpha_there_is_no_scale():
    made = layer()
    assert made.scale == 1
    torch.testing.assert_close(made.delta(), made.A @ made.B)


def test_training_starts_from_the_base_model():
    base, x = nn.Linear(20, 10), torch.randn(3, 20)
    made = LoRALinear(base, rank=4, alpha=8)
    assert not made.delta().any() and made.A.all()
    assert torch.equal(made(x), base(x))
    assert made.A.abs().max() <= 1 / math.sqrt(20)


def test_only_a_and_b_get_gradients():
    made = layer()
    made(torch.randn(3, 6)).square().sum().backward()
    assert list(trainable_parameters(made)) == ["A", "B"]
    assert made.A.grad.any() and made.B.grad.any()
    assert made.base.weight.grad is None and made.base.bias.grad is None


def test_merged_equals_unmerged_and_comes_back():
    made, x = layer(64, 48, rank=8, alpha=16), torch.randn(10, 64)
    old, apart = made.base.weight.clone(), made(x)
    made.merge()
    # The second call changes nothing.
    made.merge()
    torch.testing.assert_close(made(x), apart, **CLOSE)
    assert made.merged and not torch.equal(made.base.weight, old)
    torch.testing.assert_close(made.base.weight.T, old.T + made.delta())
    made.unmerge()
    made.unmerge()
    torch.testing.assert_close(made.base.weight, old, rtol=0, atol=1e-6)
    torch.testing.assert_close(made(x), apart, **CLOSE)
    assert not made.merged


def test_a_bfloat16_base_keeps_its_dtype_and_float32_adapters():
    made = layer(64, 48, rank=8, dtype=torch.bfloat16)
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    assert made.A.dtype == made.B.dtype == made.delta().dtype == torch.float32
    apart = made(x)
    assert apart.dtype == torch.bfloat16
    exact = x.float() @ (made.base.weight.float().T + made.delta()) + made.base.bias.float()
    assert (apart - exact).abs().max() <= 2**-7 * exact.abs().max()
    apart.float().sum().backward()
    assert made.A.grad.dtype == torch.float32
    old = made.base.weight.clone()
    made.merge()
    assert made.base.weight.dtype == torch.bfloat16
    assert (made(x) - exact).abs().max() <= 2**-6 * exact.abs().max()
    made.unmerge()
    scale = (old.float().abs() + made.delta().T.abs()).max()
    assert (made.base.weight - old).abs().max() <= 2**-7 * scale


@pytest.mark.parametrize("rank", [0, -1, 5, 2.0, "8", None, True])
def test_bad_rank(rank):
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to 4, got"):
        LoRALinear(nn.Linear(6, 4), rank)


@pytest.mark.parametrize("alpha", [0, -1, math.nan, "2"])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="alpha must be a number above 0"):
        LoRALinear(nn.Linear(6, 4), 2, alpha)


@pytest.mark.parametrize("base", [nn.Embedding(6, 4), nn.Identity(), None])
def test_bad_base(base):
    with pytest.raises(ValueError, match="must be a linear layer, got"):
        LoRALinear(base, 2)


# --- peft -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_equal_to_peft_in_outputs_and_gradients(targets):
    theirs, ours, layers = with_peft(make_model(), targets)
    tokens = torch.randint(3, 259, (2, 12), generator=torch.Generator().manual_seed(2))
    outputs = [model(input_ids=tokens, labels=tokens) for model in (theirs, ours)]
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits, **CLOSE)
    for output in outputs:
        output.loss.backward()
    assert len(layers) == (14 if targets == "all-linear" else 4)
    for name, of_theirs in layers.items():
        of_ours = ours.get_submodule(name)
        for matrix, in_peft in (("A", of_theirs.lora_A), ("B", of_theirs.lora_B)):
            gradient = in_peft["default"].weight.grad.T
            assert gradient.abs().max() > 1e-4, "nothing to compare"
            torch.testing.assert_close(getattr(of_ours, matrix).grad, gradient, **CLOSE)
        delta = of_theirs.get_delta_weight("default")
        torch.testing.assert_close(of_ours.delta().T, delta, **CLOSE)


def test_add_lora_takes_the_same_layers_as_peft_and_starts_alike():
    theirs, _, layers = with_peft(make_model())
    ours = add_lora(make_model(), rank=4, alpha=12)
    assert {n for n, m in ours.named_modules() if isinstance(m, LoRALinear)} == set(layers)
    assert count_trainable(ours) == theirs.get_nb_trainable_parameters()
    assert all(".A" in name or ".B" in name for name in trainable_parameters(ours))


def test_each_matrix_is_the_transpose_of_pefts():
    _, ours, layers = with_peft(make_model())
    name, of_theirs = next(iter(layers.items()))
    of_ours = ours.get_submodule(name)
    assert torch.equal(of_ours.A.T, of_theirs.lora_A["default"].weight)
    assert torch.equal(of_ours.B.T, of_theirs.lora_B["default"].weight)
    assert of_ours.A.shape == (64, 4) and of_ours.B.shape == (4, 64)


def test_an_adapter_that_peft_does_not_have():
    _, _, layers = with_peft(make_model())
    of_theirs = next(iter(layers.values()))
    with pytest.raises(ValueError, match=r"no LoRA adapter 'other'; it has \['default'\]"):
        LoRALinear.from_peft(of_theirs, "other")
    with pytest.raises(ValueError, match="no LoRA adapter 'default'"):
        LoRALinear.from_peft(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "message"), [({"use_dora": True}, "DoRA"), ({"lora_bias": True}, "a bias of B")]
)
def test_what_is_more_than_lora_in_peft_is_refused(options, message):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["0"], **options)
    model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), config)
    with pytest.raises(ValueError, match=message):
        LoRALinear.from_peft(model.base_model.model[0])


def test_a_merged_layer_of_peft_is_refused():
    _, _, layers = with_peft(make_model())
    of_theirs = next(iter(layers.values()))
    of_theirs.merge()
    with pytest.raises(ValueError, match="unmerge it first"):
        LoRALinear.from_peft(of_theirs)


def test_the_scale_of_peft_is_taken_over():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=12, use_rslora=True, target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(6, 5)), config)
    of_theirs = model.base_model.model[0]
    nn.init.normal_(of_theirs.lora_B["default"].weight)
    x = torch.randn(3, 6)
    expected = of_theirs(x)
    ours = LoRALinear.from_peft(of_theirs)
    # Rank-stabilized LoRA scales by α/√r.
    assert ours.scale == 6
    torch.testing.assert_close(ours(x), expected, **CLOSE)


def test_a_trained_peft_model_merges_to_the_same_weights():
    theirs, ours, layers = with_peft(make_model())
    for name in layers:
        ours.get_submodule(name).merge()
    merged = theirs.merge_and_unload()
    for name in layers:
        expected = merged.get_submodule(name).weight
        torch.testing.assert_close(ours.get_submodule(name).base.weight, expected, **CLOSE)


# --- a whole model --------------------------------------------------------------------------------


def test_add_lora_by_names():
    model = add_lora(make_model(), rank=2, targets=("q_proj", "v_proj"))
    # 2 layers, rank 2, and the widths of q_proj and v_proj.
    assert count_trainable(model)[0] == 2 * 2 * ((64 + 64) + (64 + 32))
    one = add_lora(make_model(), rank=2, targets="q_proj")
    assert count_trainable(one)[0] == 2 * 2 * (64 + 64)


@pytest.mark.parametrize(
    ("rank", "options", "message"),
    [
        (2, {"targets": ("q_proj", "c_attn")}, r"out of \['down_proj', .*'v_proj'\], got"),
        (2, {"targets": "all_linear"}, "got 'all_linear'"),
        (2, {"targets": ()}, r"got \(\)"),
        (2, {"targets": None}, "targets must be a name of a layer or a list of names, got None"),
        # k_proj is 64 × 32.
        (40, {}, "rank must be a whole number from 1 to 32, got 40"),
        (2, {"alpha": -1}, "alpha must be a number above 0"),
    ],
)
def test_what_cannot_be_done_leaves_the_model_alone(rank, options, message):
    model = make_model()
    before = count_trainable(model)
    with pytest.raises(ValueError, match=message):
        add_lora(model, rank, **options)
    assert count_trainable(model) == before
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


def test_adapters_are_not_put_on_twice_nor_on_nothing():
    model = add_lora(make_model(), rank=2)
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(model, rank=2)
    norms = nn.Sequential(nn.LayerNorm(4))
    with pytest.raises(ValueError, match="names of linear layers out of"):
        # GPT-2 is such a model: its matrices are not nn.Linear.
        add_lora(norms, rank=2)
    assert count_trainable(norms) == (8, 8)


def test_tied_weights_count_once():
    model = make_model()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    total = sum(tensor.numel() for tensor in {id(p): p for p in model.parameters()}.values())
    assert count_trainable(model) == (total, total)
    untied = count_trainable(make_model(tie_word_embeddings=False))[1]
    assert untied == total + 259 * 64


# --- four bits ------------------------------------------------------------------------------------


def test_on_nf4_gradients_equal_those_through_the_dequantized_weights():
    pairs = [nf4(64, 128), nf4(128, 64)]
    packed, plain = (
        nn.Sequential(*(LoRALinear(copy.deepcopy(pair[i]), 4, 8) for pair in pairs)) for i in (0, 1)
    )
    with torch.no_grad():
        for of_packed, of_plain in zip(packed, plain, strict=True):
            nn.init.normal_(of_packed.B, std=0.1)
            of_plain.A.copy_(of_packed.A)
            of_plain.B.copy_(of_packed.B)
    x = torch.randn(7, 64)
    for model in (packed, plain):
        model(x).square().mean().backward()
    torch.testing.assert_close(packed(x), plain(x), **CLOSE)
    for of_packed, of_plain in zip(packed, plain, strict=True):
        for ours, exact in ((of_packed.A, of_plain.A), (of_packed.B, of_plain.B)):
            assert exact.grad.abs().max() > 1e-3, "nothing to compare"
            torch.testing.assert_close(ours.grad, exact.grad, **CLOSE)
        assert of_packed.base.weight.grad is None


def test_merging_into_4_bits_is_refused():
    packed, _ = nf4(64, 64)
    made = LoRALinear(packed, 4)
    codes = packed.weight.data.clone()
    for change in (made.merge, made.unmerge):
        with pytest.raises(ValueError, match="quantized.*Keep the adapter apart, or dequantize"):
            change()
    assert torch.equal(packed.weight.data, codes) and not made.merged


def test_4_bit_weights_count_by_their_real_shape():
    packed, plain = nf4(64, 96)
    # A count of the stored elements sees half of the weights.
    assert packed.weight.numel() == 64 * 96 // 2
    assert count_trainable(LoRALinear(packed, 4)) == (640, 64 * 96 + 640)
    assert count_trainable(LoRALinear(plain, 4)) == (640, 64 * 96 + 640)


def test_the_real_model_in_nf4():
    """FACTS: 134,515,008 parameters; r = 8 on all linear layers trains 2,442,240 of them."""
    from course_utils.memory import ModelShape

    model, _ = load_base("smollm2-135m", quantization="nf4", device="cpu")
    assert count_trainable(model)[1] == 134_515_008 == ModelShape.preset("smollm2-135m").parameters
    add_lora(model, rank=8)
    trainable, total = count_trainable(model)
    assert (trainable, total) == (2_442_240, 134_515_008 + 2_442_240)
    assert trainable == ModelShape.preset("smollm2-135m").adapter_parameters(8, "all-linear")
    stored = sum(p.numel() for p in model.parameters())
    assert stored < 0.62 * total, "peers that count stored elements see about half the base"
