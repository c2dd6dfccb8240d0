"""Test that merges are exact where they can be, equal peft's merges, and keep what they say."""

import copy
import warnings

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model

from course_utils.export import NumberLine, merge, number_line, update_left
from course_utils.machine.validation import CourseError
from course_utils.models import (
    dequantized,
    linear4bit_layers,
    load_base,
    nf4_config,
    stored_weights,
    tiny_base,
)
from course_utils.training import Recipe, attach_adapters, load_adapters, strength
from tests.conftest import randomize_adapters

GATE = "model.layers.1.mlp.gate_proj"
PROBE = torch.arange(3, 43).view(2, 20)
RECIPE = Recipe(rank=4, alpha=8)


def tuned(base, recipe=RECIPE, size=0.1):
    """Return a model with adapters whose B is not zero."""
    return randomize_adapters(attach_adapters(base, recipe).eval(), size)


@pytest.fixture
def model():
    return tuned(tiny_base())


@pytest.fixture(scope="module")
def peft_merges():
    """Return the tiny model merged by peft: into 4 bits, and into the dequantized weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns that merging into 4 bits rounds
        four_bit = tuned(tiny_base()).merge_and_unload()
        dequantized = tuned(tiny_base().dequantize()).merge_and_unload()
    return {"nf4": four_bit, "float32": dequantized}


@torch.no_grad()
def logits(model, ids=PROBE):
    return model(ids).logits.float()


def weights(model):
    """Return the stored tensors of every linear layer, including constants of 4-bit weights."""
    return {name: t for name, t in model.state_dict().items() if "proj" in name}


def values(model):
    """Return the dequantized weights of every 4-bit layer."""
    found = {name: layer.weight for name, layer in linear4bit_layers(model).items()}
    return {n: dequantized(w.data, w.quant_state, torch.float32) for n, w in found.items()}


def assert_equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


# -- merge -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_as", ["nf4", "float32"])
def test_a_merge_into_the_dequantized_weights_equals_pefts_bit_for_bit(
    model, peft_merges, stored_as
):
    merged = merge(model, "dequantized", stored_as)
    assert_equal(weights(merged), weights(peft_merges[stored_as]))
    assert torch.equal(logits(merged), logits(peft_merges[stored_as]))


def with_a_bias():
    model = tuned(tiny_base())
    layer = model.get_base_model().get_submodule(GATE).base_layer
    layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features), requires_grad=False)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: tuned(tiny_base()),
        # The 4-bit layers without adapters are dequantized, too.
        lambda: tuned(tiny_base(), Recipe(rank=4, targets=("q_proj",))),
        with_a_bias,
    ],
)
def test_a_float32_merge_computes_the_same_as_the_adapters(make):
    model = make()
    expected = logits(model)
    merged = merge(model, stored_as="float32")
    assert not linear4bit_layers(merged)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stored_as", ["bfloat16", "float16"])
def test_a_16_bit_merge_rounds_the_exact_sum_once(stored_as):
    exact = weights(merge(tuned(tiny_base()), stored_as="float32"))
    merged = merge(tuned(tiny_base()), stored_as=stored_as)
    dtype = getattr(torch, stored_as)
    assert_equal(weights(merged), {name: w.to(dtype) for name, w in exact.items()})
    assert {p.dtype for p in merged.parameters()} == {dtype}


def test_a_merged_model_is_an_ordinary_model(model, tmp_path):
    expected = logits(merged := merge(model, stored_as="float32"))
    assert not linear4bit_layers(merged)
    assert not any(p.requires_grad for p in merged.parameters())
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(type(merged).from_pretrained(tmp_path)), expected)
    # transformers refuses to convert models that it treats as quantized.
    assert merged.to(torch.bfloat16).dtype == torch.bfloat16


def test_the_active_adapter_is_merged_with_its_current_strength(model):
    attach_adapters(model, RECIPE, name="second")
    model.set_adapter("default")
    with strength(model, 0.5):
        expected = logits(model)
        merged = merge(model, stored_as="float32")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


# -- the original weights --------------------------------------------------------------------------


@pytest.fixture
def saved(tiny_base, tmp_path):
    """Return the folder of a tiny model, and the folder of adapters for it."""
    base, _ = load_base(path=tiny_base, quantization="nf4", device="cpu")
    tuned(base).save_pretrained(tmp_path / "adapters")
    return tiny_base, tmp_path / "adapters"


def loaded(saved, quantization="nf4"):
    base, _ = load_base(path=saved[0], quantization=quantization, device="cpu")
    return load_adapters(base, saved[1])


@pytest.mark.parametrize("stored_as", ["bfloat16", "float32"])
def test_a_merge_into_the_original_weights_equals_pefts(saved, stored_as):
    theirs = loaded(saved, None)
    # `load_base` rounds to 16 bits, but the files have 32 bits.
    for name, weight in stored_weights(path=saved[0], part="proj.weight"):
        layer = theirs.get_base_model().get_submodule(name.removesuffix(".weight"))
        layer.base_layer.weight.data = weight
    expected = weights(theirs.merge_and_unload())
    dtype = getattr(torch, stored_as)
    merged = merge(loaded(saved), "original", stored_as)
    assert_equal(weights(merged), {name: w.to(dtype) for name, w in expected.items()})


@pytest.mark.parametrize("into", ["dequantized", "original"])
def test_merging_into_nf4_equals_merging_and_quantizing_again(saved, tmp_path, into):
    merged = merge(loaded(saved), into, "float32")
    merged.save_pretrained(tmp_path / "merged")
    again = type(merged).from_pretrained(
        tmp_path / "merged",
        dtype=torch.float32,
        quantization_config=nf4_config(torch.float32),
        device_map={"": "cpu"},
    )
    assert_equal(values(merge(loaded(saved), into, "nf4")), values(again))


def test_the_files_of_the_base_model_are_needed_only_for_the_original_weights(model, saved):
    with pytest.raises(CourseError, match="no original weights in the folder ''"):
        merge(model, "original")
    other = loaded(saved)
    other.get_base_model().model.layers.append(torch.nn.Module())
    other.get_base_model().model.layers[2].extra_proj = Linear4bit(64, 64)
    with pytest.raises(CourseError, match=r"have no weights for \['model.layers.2.extra_proj'\]"):
        update_left(other, "original", "bfloat16")


# -- the share of the update that is left ----------------------------------------------------------


def test_nothing_of_a_small_update_is_left_in_4_bits_and_all_of_it_in_32():
    small = tuned(tiny_base(), size=1e-4)
    assert abs(update_left(small, stored_as="nf4")) < 0.05
    assert update_left(small, stored_as="float32") == pytest.approx(1, abs=1e-3)


def test_most_of_an_update_is_left_if_the_original_weights_are_quantized_again(saved):
    model = loaded(saved)
    left = {into: update_left(model, into, "nf4") for into in ("dequantized", "original")}
    assert left["original"] == pytest.approx(1, abs=0.1)
    assert left["dequantized"] < left["original"]


def gate_after_merge(model, stored_as):
    """Return the gate's weights as float32 after a merge of a copy of the model."""
    merged = merge(copy.deepcopy(model), stored_as=stored_as)
    return values(merged)[GATE] if stored_as == "nf4" else merged.get_submodule(GATE).weight.float()


@pytest.mark.parametrize("stored_as", ["nf4", "bfloat16"])
def test_update_left_measures_what_merge_does(model, stored_as):
    change = gate_after_merge(model, stored_as)
    change -= gate_after_merge(tuned(tiny_base(), size=0.0), stored_as)
    update = number_line(model, GATE).update
    expected = ((change * update).sum() / (update * update).sum()).item()
    left = update_left(model, stored_as=stored_as, layer=GATE)
    assert left == pytest.approx(expected, rel=1e-4)
    assert left != pytest.approx(update_left(model, stored_as=stored_as), rel=1e-4)


# -- the number line -------------------------------------------------------------------------------


def test_a_number_line_has_the_weights_of_the_layer_and_the_update(model):
    line = number_line(model, GATE)
    layer = model.get_base_model().get_submodule(GATE)
    packed = layer.base_layer.weight
    expected = dequantized(packed.data, packed.quant_state, torch.float32)
    assert torch.equal(line.levels[line.codes] * line.constants, expected)
    assert torch.equal(line.update, layer.get_delta_weight("default"))


LEVELS = torch.linspace(-1, 1, 16)  # the distance to a midpoint is 1/15


def made_line(codes, update, constant=2.0):
    codes, update = torch.tensor([codes]), torch.tensor([update])
    return NumberLine(LEVELS, torch.full(codes.shape, constant), codes, update)


def test_the_reach_is_measured_to_the_midpoint_in_the_direction_of_the_update():
    uneven = LEVELS.clone()
    uneven[4] = LEVELS[3] + 0.1
    line = made_line([3, 3, 5, 0, 15, 0, 7], [0.05, -0.05, -0.05, -1.0, 1.0, 2 / 15, 0.0])
    below, above = (uneven[3] - uneven[2]).item(), 0.1
    down = (uneven[5] - uneven[4]).item()
    expected = [0.05 / above, 0.05 / below, 0.05 / down, 0, 0, 1, 0]
    reach = NumberLine(uneven, line.constants, line.codes, line.update).reach()
    torch.testing.assert_close(reach, torch.tensor([expected]))


# -- bad input -------------------------------------------------------------------------------------


def only_q(*more):
    """Return a model with adapters on q_proj, and perhaps on more layers."""
    with warnings.catch_warnings(action="ignore"):
        return tuned(tiny_base(), Recipe(rank=4, targets=("q_proj", *more)))


def merged_already():
    model = tuned(tiny_base())
    with warnings.catch_warnings(action="ignore"):
        model.merge_adapter()
    return model


def dora():
    return get_peft_model(tiny_base(), LoraConfig(use_dora=True, target_modules=["q_proj"]))


SHARED = "the embedding of this model is also its output head"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: merge(m, into="nf4"), "into must be 'dequantized' or 'original', got 'nf4'"),
        (lambda m: update_left(m, stored_as="int4"), "stored_as must be 'nf4', 'bfloat16', 'float"),
        (lambda m: merge(tiny_base()), "must be a PeftModel with adapters, got LlamaForCausalLM"),
        (lambda m: merge(tuned(tiny_base(quantization=None))), "base model has no 4-bit layers"),
        (lambda m: number_line(m, "lm_head"), "'lm_head'; the name of the first one is 'model"),
        (lambda m: number_line(only_q(), GATE), f"the layer '{GATE}' has no adapters"),
        (lambda m: merge(merged_already()), "the adapters are merged already"),
        (lambda m: merge(dora()), "the adapters use DoRA or a bias"),
        # peft would add their update to the embedding and to the output head.
        (lambda m: merge(only_q("lm_head")), SHARED),
        (lambda m: merge(only_q("embed_tokens")), SHARED),
    ],
)
def test_what_cannot_be_merged_raises_an_error(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)
