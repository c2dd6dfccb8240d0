"""Test the levels and the rounding without PyTorch against those of `course_utils.quantization`."""

import pytest
import torch

from course_utils import formats, quantization


def test_the_levels_are_those_of_the_tensors_to_the_last_bit():
    for bits in range(2, 9):
        for form, book in {
            "nf": quantization.normal_float(bits),
            "int": quantization.linear_codebook(bits),
            "fp4": quantization.fp4_codebook(),
            "ocp": quantization.fp4_codebook("ocp"),
        }.items():
            assert torch.equal(torch.tensor(formats.levels_of(form, bits)), book)
    assert formats.normal_float(4) == pytest.approx(formats.NF4, abs=1e-6)


@pytest.mark.parametrize("block_size", [16, 64, 4096])
@pytest.mark.parametrize("form", formats.NAMES)
def test_codes_constants_and_errors_are_those_of_the_tensors(form, block_size):
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    levels = formats.levels_of(form, 4)
    found = formats.rounded(x.tolist(), levels, block_size)
    q = quantization.quantize(x, torch.tensor(levels), block_size)
    assert torch.equal(q.absmax, torch.tensor(found.absmax))
    # Codes in the middle between two levels may differ, because floats here have 64 bits.
    codes = q.codes.int() - q.codes.int().min()
    assert (codes != torch.tensor(found.codes)).sum() <= 3
    error = (q.dequantize() - x).square().sum() / x.square().sum()
    assert found.error == pytest.approx(error.item(), rel=1e-3)


def test_one_outlier_decides_the_levels_of_its_block():
    found = formats.rounded([0.1, -0.2, 0.3, 7.0], formats.linear(4), 4)
    assert found.absmax == [7.0] and found.codes == [7, 7, 7, 14]
    assert found.restored == [0, 0, 0, 7] and found.share[7] == 0.75
    assert found.error == pytest.approx((0.01 + 0.04 + 0.09) / (0.14 + 49))
    alone = formats.rounded([0.1, -0.2, 0.3, 7.0], formats.linear(4), 1)
    assert alone.error == 0 and alone.codes == [14, 0, 14, 14]
