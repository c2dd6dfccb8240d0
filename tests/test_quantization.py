"""Compare quantization with bitsandbytes bit for bit, and with the numbers of slides and papers."""

import copy
import math
import weakref
from statistics import NormalDist

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes import functional as bnb_functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils import quantization
from course_utils.memory import nf4_bytes
from course_utils.memory.settings import BLOCK_SIZES
from course_utils.quantization import (
    NF4Linear,
    Quantized,
    bin_edges,
    dynamic_codebook,
    fp4_codebook,
    linear_codebook,
    lloyd_max_codebook,
    midpoints,
    nf4_codebook,
    normal_float,
    normal_float_quantiles,
    overhead_bits,
    quantize,
    quantize_linear,
    quantize_mxfp4,
    quantize_nf4,
    quantize_nvfp4,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CODEBOOKS = {
    "nf4": nf4_codebook(),
    "fp4": fp4_codebook(),
    "ocp": fp4_codebook("ocp"),
    "int4": linear_codebook(4),
}


@pytest.fixture(autouse=True)
def eager():
    """Keep bitsandbytes from compiling one of its functions for each new shape."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- bit-identical to bitsandbytes ----------------------------------------------------------------


@st.composite
def tensors(draw):
    """Draw tensors of many shapes, scales and dtypes, some with heavy tails, zeros or outliers."""
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    shape[-1] = draw(st.integers(1, 20_000 // max(1, math.prod(shape[:-1]))))
    x = normal(*shape, seed=draw(st.integers(0, 2**32)))
    x = draw(st.sampled_from([lambda x: x, lambda x: x**3, torch.sign, lambda x: x.relu()]))(x)
    x = x * 10.0 ** draw(st.integers(-30, 30))
    for place in draw(st.lists(st.integers(0, x.numel() - 1), max_size=3)):
        x.view(-1)[place] *= draw(st.sampled_from([0, 10, 1000]))
    if draw(st.integers(0, 9)) == 0:
        # The tensor is then constant, and not contiguous.
        x = x.flatten()[0].expand(shape)
    dtype = draw(st.sampled_from(DTYPES))
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def assert_same_as_bitsandbytes(x, block_size, double_quant):
    """Assert that everything stored and the dequantized tensor are equal.

    bitsandbytes gets the tensor as a single row, because of its error with other shapes.
    """
    row = x.reshape(-1)
    options = {"quant_type": "nf4", "blocksize": block_size, "compress_statistics": double_quant}
    packed, state = bnb_functional.quantize_4bit(row, **options)
    ours = quantize_nf4(x, block_size, double_quant)
    assert torch.equal(ours.packed, packed.view(-1))
    assert torch.equal(ours.codebook, state.code)
    if double_quant:
        assert torch.equal(ours.constants.packed, state.absmax)
        assert torch.equal(ours.constants.constants, state.state2.absmax)
        assert torch.equal(ours.constants.codebook, state.state2.code)
        assert torch.equal(ours.offset, state.offset)
    else:
        assert torch.equal(ours.constants, state.absmax)
    back = bnb_functional.dequantize_4bit(packed, state)
    assert ours.dequantize().dtype == x.dtype and ours.dequantize().shape == x.shape
    assert torch.equal(ours.dequantize().view(-1), back.view(-1))


@pytest.mark.parametrize("count", [50, pytest.param(400, marks=pytest.mark.full)])
def test_random_tensors_are_bit_identical_to_bitsandbytes(count):
    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(x=tensors(), block_size=st.sampled_from(BLOCK_SIZES), double_quant=st.booleans())
    def check(x, block_size, double_quant):
        assert_same_as_bitsandbytes(x, block_size, double_quant)

    check()


@pytest.mark.parametrize("constants", [60, pytest.param(400, marks=pytest.mark.full)])
@pytest.mark.parametrize("size", [64, 63])
def test_numbers_near_the_borders_are_rounded_as_in_bitsandbytes(size, constants):
    """Each block has a constant c and a number at, just below or just above a border times c."""
    constant = torch.rand(constants, generator=torch.Generator().manual_seed(0)) + 0.5
    border = midpoints(nf4_codebook())[torch.arange(constants) % 15] * constant
    for near in (border, border.nextafter(constant), border.nextafter(-constant)):
        for pair in torch.stack([constant, near], dim=1):
            x = torch.zeros(size)
            x[:2] = pair
            assert_same_as_bitsandbytes(x, 64, double_quant=False)


def test_the_smallest_constants_are_bit_identical_to_bitsandbytes():
    """The incomplete last block of zeros has the constant 1e-38."""
    assert_same_as_bitsandbytes(torch.zeros(32 * 256 + 1), 32, double_quant=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("count", [quantization.CHUNK, 3 * quantization.CHUNK + 77])
def test_tensors_of_several_chunks_are_bit_identical_to_bitsandbytes(count, double_quant, dtype):
    assert_same_as_bitsandbytes(normal(count).to(dtype), 64, double_quant)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fp4_is_bit_identical_to_bitsandbytes(dtype):
    x = normal(64, 64).to(dtype)
    packed, state = bnb_functional.quantize_4bit(x, quant_type="fp4")
    ours = quantize(x, fp4_codebook()).dequantize()
    assert torch.equal(ours, bnb_functional.dequantize_4bit(packed, state))


# --- levels ---------------------------------------------------------------------------------------


def test_nf4_has_the_levels_of_bitsandbytes_7_negative_zero_and_8_positive():
    assert torch.equal(nf4_codebook(), bnb_functional.get_4bit_type("nf4", device="cpu"))
    signs = nf4_codebook().sign()
    assert [(signs == sign).sum().item() for sign in (-1, 0, 1)] == [7, 1, 8]


def test_the_quantiles_give_the_levels_of_nf4_up_to_rounding():
    assert (normal_float(4) - nf4_codebook()).abs().max() < 1e-6


def test_the_quantiles_of_nf4_divide_each_half_into_slices_of_equal_probability():
    quantiles = normal_float_quantiles(4).tolist()
    assert quantiles[7] == 0 and quantiles[-1] == -quantiles[0] == pytest.approx(1.848, abs=5e-4)
    slices = torch.tensor([NormalDist().cdf(q) for q in quantiles], dtype=torch.float64).diff()
    delta = (29 / 30 + 31 / 32) / 2
    assert slices[:7].tolist() == pytest.approx([(delta - 0.5) / 7] * 7)
    assert slices[7:].tolist() == pytest.approx([(delta - 0.5) / 8] * 8)


@pytest.mark.parametrize("bits", range(2, 9))
def test_normal_float_of_any_number_of_bits_contains_zero_and_both_ends(bits):
    levels = normal_float(bits)
    assert len(levels) == 2**bits and (levels.diff() > 0).all()
    assert levels[0] == -1 and levels[-1] == 1 and levels[2 ** (bits - 1) - 1] == 0


def test_the_bins_of_nf4_are_narrow_near_zero():
    widths = bin_edges(nf4_codebook()).diff()
    inside = widths[1:-1]
    assert inside.min() == pytest.approx(0.0805, abs=1e-4) and widths.argmin() == 8
    assert inside.max() == pytest.approx(0.2375, abs=1e-4) and widths.argmax() == 1
    assert widths.sum() == pytest.approx(2)


def test_fp4_codebook_has_the_values_of_both_formats():
    ocp = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6
    assert torch.equal(fp4_codebook("ocp")[7:], ocp)
    assert torch.equal(fp4_codebook(), bnb_functional.get_4bit_type("fp4", device="cpu").unique())


def test_the_dynamic_codebook_equals_that_of_bitsandbytes():
    assert torch.equal(dynamic_codebook(), bnb_functional.create_dynamic_map())


def test_lloyd_max_levels_are_the_means_of_their_bins():
    x = normal(2**15)
    levels = lloyd_max_codebook(x, block_size=64)
    q = quantize(x, levels)
    weights = q.absmax.repeat_interleave(64).square()
    scaled = x / q.absmax.repeat_interleave(64)
    for code, level in enumerate(levels):
        own = q.codes == code
        mean = (weights * scaled)[own].sum() / weights[own].sum()
        assert mean.item() == pytest.approx(level.item(), abs=1e-5)


@pytest.fixture(scope="module")
def errors():
    """Return the mean squared errors on N(0, 1) in blocks of 64, by the name of the code book."""
    x = normal(2**21)
    books = CODEBOOKS | {"lloyd-max": lloyd_max_codebook(normal(2**20, seed=1))}
    tensors = {name: quantize(x, levels) for name, levels in books.items()}
    tensors["nf4+dq"] = quantize_nf4(x, double_quant=True)
    return {name: (q.dequantize() - x).square().mean().item() for name, q in tensors.items()}


def test_the_errors_on_normal_numbers_are_those_of_the_course(errors):
    measured = {"nf4": 0.00846, "nf4+dq": 0.00847, "lloyd-max": 0.00764}
    measured |= {"ocp": 0.0112, "int4": 0.0116, "fp4": 0.0149}
    for name, error in measured.items():
        assert errors[name] == pytest.approx(error, rel=0.005), name
    assert errors["nf4"] / errors["int4"] == pytest.approx(0.73, abs=0.01)
    assert 1 - errors["lloyd-max"] / errors["nf4"] == pytest.approx(0.096, abs=0.005)
    assert 1 < errors["nf4+dq"] / errors["nf4"] < 1.001


def test_the_codes_of_nf4_are_used_unevenly():
    share = quantize_nf4(normal(2**20)).codes.int().bincount() / 2**20
    assert share.min() == pytest.approx(0.017, abs=0.001)
    assert share.max() == pytest.approx(0.092, abs=0.001)
    assert -(share * share.log2()).sum() == pytest.approx(3.885, abs=0.005)


# --- MXFP4 and NVFP4 ------------------------------------------------------------------------------

MICROSCALED = {"MXFP4": quantize_mxfp4, "NVFP4": quantize_nvfp4}


def e2m1(code):
    """Return the number that the bits of a code mean: sign, two exponent bits, one mantissa bit."""
    exponent, mantissa = code >> 1 & 3, code & 1
    size = 2 ** (exponent - 1) * (1 + mantissa / 2) if exponent else mantissa / 2
    return -size if code >> 3 else size


def nearest_e2m1(x):
    """Return the code of the nearest number in E2M1, and of two equally near ones an even code."""
    code = min(range(8), key=lambda code: (abs(abs(x) - e2m1(code)), code & 1))
    return code + 8 * (x < 0)


@pytest.mark.parametrize("power", [-20, 0, 20])
def test_the_scales_of_mxfp4_are_the_powers_of_two_of_the_specification(power):
    x = normal(200, 32) * 2.0**power
    # The float32 numbers around a power of two, for which a logarithm may be rounded.
    x[:3, 0] = torch.tensor([2.0**power]).nextafter(torch.tensor([0.0, 2.0**power, 9e9]))
    x[:3, 1:] = 0
    q = quantize_mxfp4(x)
    expected = [math.frexp(c)[1] - 1 - 2 for c in x.abs().amax(1).tolist()]
    assert [math.log2(scale) for scale in q.constants.tolist()] == expected
    assert (q.constants.view(torch.uint8).int() - 127).tolist() == expected


def test_the_scales_of_nvfp4_are_the_nearest_numbers_of_e4m3():
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).tolist()
    x = normal(400, 16) * (10.0 ** torch.linspace(-4, 0, 400))[:, None]
    q = quantize_nvfp4(x)
    absmax = x.abs().amax(1)
    assert q.tensor_scale == absmax.max() / (448 * 6) and q.constants.float().max() == 448
    ideals = (absmax / 6 / q.tensor_scale).tolist()
    for scale, ideal in zip(q.constants.tolist(), ideals, strict=True):
        assert abs(scale - ideal) <= min(abs(number - ideal) for number in numbers) + 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MICROSCALED)
def test_each_number_gets_the_nearest_number_of_e2m1(name, dtype):
    x = normal(7, 160).to(dtype)
    q = MICROSCALED[name](x)
    scales = q.absmax.repeat_interleave(q.block_size)
    codes = [nearest_e2m1(number) for number in (x.float().flatten() / scales).tolist()]
    assert set(codes) == set(range(16))
    assert q.codes.flatten().tolist() == codes
    expected = torch.tensor([e2m1(code) for code in codes]) * scales
    assert q.dequantize().dtype == dtype
    assert torch.equal(q.dequantize().flatten(), expected.to(dtype))


@pytest.mark.parametrize("name, bits", [("MXFP4", 4.25), ("NVFP4", 4.5 + 32 / 2**20)])
def test_the_scales_need_8_bits_for_each_block(name, bits):
    sizes = MICROSCALED[name](normal(2**20)).sizes
    assert 8 * (sizes["codes"] + sizes["constants"]) / 2**20 == bits


@pytest.mark.parametrize("name, error", [("MXFP4", 0.01324), ("NVFP4", 0.00904)])
def test_the_errors_of_formats_with_8_bit_scales_on_normal_numbers(name, error):
    """The rounding of scales costs MXFP4 30% of the error with exact scales, and NVFP4 2%."""
    x = normal(2**20, seed=1)
    q = MICROSCALED[name](x)
    exact = quantize(x, fp4_codebook("ocp"), q.block_size)
    measured, ideal = ((t.dequantize() - x).square().mean().item() for t in (q, exact))
    assert measured == pytest.approx(error, rel=0.005)
    assert measured / ideal == pytest.approx({"MXFP4": 1.3, "NVFP4": 1.02}[name], abs=0.01)


# --- linear ---------------------------------------------------------------------------------------


def test_quantize_linear_follows_the_formula_of_the_slides():
    x = torch.tensor([0.1, -0.7, 0.35, 0.0, 0.29, -0.31, 0.64, 0.7])
    q = quantize_linear(x)
    assert q.block_size == x.numel()
    assert q.codes.tolist() == [1, -7, 4, 0, 3, -3, 6, 7] == (x / 0.7 * 7).round().int().tolist()
    assert q.absmax.tolist() == pytest.approx([0.7])
    assert q.dequantize() == pytest.approx(q.codes / 7 * 0.7)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_error_of_quantize_linear_is_at_most_half_a_step(bits):
    x = normal(1000)
    q = quantize_linear(x, bits=bits, block_size=50)
    most = 2 ** (bits - 1) - 1
    assert q.codes.abs().max() == most
    error = (q.dequantize() - x).view(20, 50).abs()
    assert (error <= q.absmax[:, None] / most / 2 * 1.0001).all()


# --- stored bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("count", [1, 65, 64 * 256 + 1, 70_000])
def test_the_stored_bytes_equal_those_of_the_memory_calculator(count, block_size, double_quant):
    """The random tensors above show that bitsandbytes stores the same tensors."""
    q = quantize_nf4(normal(count), block_size, double_quant)
    assert q.sizes == nf4_bytes(count, block_size, double_quant)
    assert q.nbytes == sum(buffer.nbytes for buffer in q.buffers()) == sum(q.sizes.values())


def test_overhead_bits_has_the_values_of_the_paper():
    assert overhead_bits(64) == 0.5
    assert overhead_bits(64, double_quant=True) == 0.126953125
    assert overhead_bits(64) - overhead_bits(64, True) == pytest.approx(0.373047, abs=1e-6)
    assert overhead_bits(32, constant_bits=16) == 0.5
    assert overhead_bits(64, True, nested_bits=16, nested_block_size=32) == 0.25 + 32 / 2048


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", CODEBOOKS.values(), ids=CODEBOOKS)
def test_each_number_gets_the_nearest_level(codebook):
    x = normal(640)
    scaled = (x.view(10, 64) / x.view(10, 64).abs().amax(1, keepdim=True)).view(-1, 1)
    distance = (scaled - codebook).abs()
    own = distance.gather(1, quantize(x, codebook).codes.long().view(-1, 1))
    assert (own.squeeze() <= distance.amin(1) + 1e-6).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 70])
def test_numbers_that_are_not_finite_raise_an_error(bad, place):
    x = normal(3, 30)
    x.view(-1)[place] = bad
    for function in (quantize_nf4, quantize_linear, lloyd_max_codebook):
        with pytest.raises(ValueError, match="x must be finite, but 1 of its 90 numbers are not"):
            function(x)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: quantize_nf4(x.double()), "float32, float16 or bfloat16, got torch.float64"),
        (lambda x: quantize_nf4(x, block_size=0), "block_size must be"),
        (lambda x: quantize_nf4(x, block_size=63), "block_size must be even"),
        (lambda x: quantize_linear(x, bits=1), "bits must be a whole number from 2 to 8, got 1"),
        (lambda x: normal_float(0), "bits must be"),
        (lambda x: quantize(x, torch.linspace(-1, 1, 257)), "from 2 to 256 levels"),
        (lambda x: quantize(x, torch.tensor([1.0])), "from 2 to 256 levels"),
        (lambda x: quantize(x, torch.tensor([1.0, -1.0])), "in ascending order"),
        (lambda x: quantize(x, torch.tensor([-1.0, math.nan, 1])), "in ascending order"),
        (lambda x: quantize(x, torch.linspace(-2, 2, 16)), r"levels in \[-1, 1\]"),
        (lambda x: quantize_nf4(x.clamp(-3, 3) * 1e38, double_quant=True), "x is too large"),
        (lambda x: quantize_mxfp4(x.double()), "x must be float32, float16 or bfloat16"),
        (
            lambda x: quantize_nvfp4(x / 0),
            "x must be finite, but 2,000 of its 2,000 numbers are not",
        ),
        (lambda x: fp4_codebook("e3m0"), "kind must be 'ocp' or 'bitsandbytes', got 'e3m0'"),
        (lambda x: lloyd_max_codebook(x[:15]), "16 levels need at least as many numbers, got 15"),
    ],
)
def test_arguments_that_are_not_allowed_raise_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(2000))


ALL = MICROSCALED | {
    "NF4": quantize_nf4,
    "NF4 with double quantization": lambda x: quantize_nf4(x, double_quant=True),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("x", [torch.zeros(0), torch.zeros(3, 0), torch.full((5,), 1e-45)], ids=str)
def test_empty_and_tiny_tensors_can_be_quantized(name, x):
    q = ALL[name](x)
    assert q.dequantize().shape == q.codes.shape == x.shape
    assert q.dequantize().abs().max() < 1e-38 if x.numel() else q.sizes["codes"] == 0
    assert q.absmax.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_quantized_tensor_is_unchanged_by_copies_casts_and_saving(name, tmp_path):
    x = normal(5, 130)
    q, other = ALL[name](x), ALL[name](2 * x)
    torch.save(q.state_dict(), tmp_path / "q.pt")
    other.load_state_dict(torch.load(tmp_path / "q.pt"))
    for same in (copy.deepcopy(q), copy.deepcopy(q).half(), copy.deepcopy(q).double(), other):
        assert torch.equal(same.dequantize(), q.dequantize())
        assert same.nbytes == q.nbytes
    assert "(5, 130), block_size=" in repr(q)
    assert {buffer.device.type for buffer in q.to("meta").buffers()} == {"meta"}


# --- the layer ------------------------------------------------------------------------------------


def both_layers(linear, double_quant, compute_dtype):
    theirs = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=compute_dtype,
        compress_statistics=double_quant,
        quant_type="nf4",
    )
    theirs.load_state_dict(linear.state_dict())
    if linear.weight.dtype != torch.float32:
        theirs.weight.data = linear.weight.data
    theirs.requires_grad_(False).to("cpu")
    if theirs.weight.quant_state is None:
        theirs.weight = theirs.weight._quantize("cpu")
    theirs.support_avx512bf16_for_cpu = False
    return NF4Linear(linear, 64, double_quant, compute_dtype), theirs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("stored", DTYPES, ids=str)
@pytest.mark.parametrize("given", DTYPES, ids=str)
def test_the_layer_is_bit_identical_to_that_of_bitsandbytes(
    given, stored, compute_dtype, double_quant, bias
):
    """Outputs and gradients are equal."""
    torch.manual_seed(0)
    linear = nn.Linear(128, 192, bias=bias).to(stored)
    x = normal(5, 7, 128).to(given)
    results = []
    for layer in both_layers(linear, double_quant, compute_dtype):
        own = x.clone().requires_grad_()
        y = layer(own)
        y.backward(normal(5, 7, 192, seed=2).to(y.dtype))
        results.append((y.detach(), own.grad))
    (ours, gradient), (theirs, their_gradient) = results
    assert ours.dtype == given and torch.equal(ours, theirs)
    assert gradient.dtype == given and torch.equal(gradient, their_gradient)


def test_each_pass_frees_the_dequantized_weight(monkeypatch):
    layer, x = NF4Linear(nn.Linear(64, 64)), normal(2, 64).requires_grad_()
    dequantize, results = Quantized.dequantize, []

    def record_result(self, dtype=None):
        result = dequantize(self, dtype)
        if self is layer.weight:
            results.append(weakref.ref(result))
        return result

    monkeypatch.setattr(Quantized, "dequantize", record_result)
    y = layer(x)
    assert len(results) == 1 and results[0]() is None
    y.sum().backward()
    assert len(results) == 2 and results[1]() is None


def test_the_layer_copies_the_weights_and_uses_double_quantization_by_default():
    linear = nn.Linear(64, 64)
    layer, x = NF4Linear(linear), normal(2, 64)
    before = layer(x)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    assert torch.equal(layer(x), before)
    assert layer.weight.sizes == nf4_bytes(64 * 64, 64, double_quant=True)


def test_the_layer_rejects_layers_that_are_not_linear_or_already_quantized():
    for layer in (nn.Conv1d(1, 1, 1), both_layers(nn.Linear(64, 64), True, None)[1]):
        with pytest.raises(ValueError, match=r"linear must be an unquantized nn\.Linear"):
            NF4Linear(layer)
