"""Quantize numbers to 4 bits: linear quantization, NF4, blocks, and double quantization.

    weights   0.03 -0.20 0.11 … | 0.05 0.01 -0.09 …       blocks of 64
    absmax    0.20              | 0.09                     one constant c for each block
    w / c     0.15 -1.00 0.55 … | 0.56 0.11 -1.00 …       in [-1, 1]
    code      9 0 13 …          | 13 8 0 …                 index of the nearest of 16 levels: 4 bits
    stored    1001 0000 | 1101 …                           two codes in a byte, and c

To dequantize a code, look up its level and multiply: level[code] · c. The choice of the levels
decides how large the error is. The levels of int4 are equally spaced. The levels of NF4 are dense
near zero, where a normal distribution has most of its numbers.

Double quantization also quantizes the constants: it subtracts their mean and stores each difference
in 8 bits, with one float32 constant for each block of 256 differences. MXFP4 and NVFP4, which GPUs
can multiply without dequantizing, round each constant to 8 bits by itself.

On a CPU, this module and bitsandbytes compute bit-identical codes and constants.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), section 3; 8-bit optimizers (Dettmers
et al. 2022, arXiv 2110.02861), section 1.3, for the dynamic map; Lloyd 1982 and Max 1960 for the
levels with the least squared error; OCP Microscaling Formats (MX) specification 1.0 (2023) for
E2M1 and MXFP4; NVIDIA, "Introducing NVFP4" (2025), for NVFP4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import formats
from course_utils.formats import E2M1, NF4, TINY
from course_utils.machine.validation import one_of, positive, whole_number

# The largest finite number in E4M3, the 8-bit format of NVFP4's scales.
E4M3_MAX = 448.0
# The numbers of elements in a block of MXFP4 and NVFP4.
MXFP4_BLOCK, NVFP4_BLOCK = 32, 16
# The number of block constants that share one float32 constant in double quantization.
NESTED_BLOCK = 256
# The number of elements that are processed at a time. This many elements fit into a core's cache.
CHUNK = 2**17
# The maximum number of rounds of Lloyd's iteration, which usually needs about 100 rounds.
MAX_ROUNDS = 10_000
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


# --- levels: the values of the codes --------------------------------------------------------------


def nf4_codebook() -> Tensor:
    """Return the 16 levels of 4-bit NormalFloat, in ascending order from -1 to 1.

    The levels are quantiles of a normal distribution, chosen so that zero is exact: 7 negative
    levels, 0 and 8 positive levels (QLoRA, section 3). The function returns the published table.
    `normal_float(4)` computes the levels from the quantiles.

        -1          -0.5           0           0.5           1
        |      |    |   |  | | | | | | | | |  |   |     |      |   dense where weights are dense

    Returns:
        float32 tensor of shape (16,).
    """
    return torch.tensor(NF4)


def normal_float(bits: int) -> Tensor:
    """Derive the levels of a NormalFloat from the quantiles of N(0, 1).

    The positive levels are the quantiles of 2^(bits-1) equally spaced probabilities from δ down to
    ½, where ½ itself is excluded. The negative levels are the negated quantiles of 2^(bits-1) - 1
    probabilities that are chosen in the same way. Zero is the level between the negative and the
    positive levels. All levels are divided by the largest level.

    δ is the mean of 1 - 1/(2n) for n = 2^bits and for n = 2^bits - 1. For 4 bits the two values are
    31/32 and 29/30, so δ is 929/960, as in bitsandbytes' create_normal_map.

    Args:
        bits: the number of bits of a code, from 2 to 8.

    Returns:
        float32 tensor of shape (2^bits,), ascending, in [-1, 1].
    """
    return torch.tensor(formats.normal_float(_checked_bits(bits)))


def normal_float_quantiles(bits: int) -> Tensor:
    """Return the levels of a NormalFloat before they are divided by the largest level.

    Args:
        bits: the number of bits of a code, from 2 to 8.

    Returns:
        float64 tensor of shape (2^bits,), ascending, in standard deviations of N(0, 1). For 4 bits
        the quantiles extend from -1.848 to 1.848.
    """
    return torch.tensor(formats.normal_float_quantiles(_checked_bits(bits)), dtype=torch.float64)


def linear_codebook(bits: int = 4) -> Tensor:
    """Return equally spaced levels, symmetric about zero: -7/7 … 7/7 for 4 bits.

    One of the 2^bits codes is not used, so that zero is exact and there are as many negative as
    positive levels.
    """
    return torch.tensor(formats.linear(_checked_bits(bits)))


def fp4_codebook(kind: str = "bitsandbytes") -> Tensor:
    """Return the 15 distinct values of a 4-bit floating-point number, divided by the largest value.

    Args:
        kind: "ocp" is the E2M1 format of the Open Compute Project (MX specification 1.0, section
            5.3.3) with one sign bit, two exponent bits and one mantissa bit. "bitsandbytes" is the
            FP4 format of the library bitsandbytes. The smallest positive level is 1/12 for "ocp"
            and 1/192 for "bitsandbytes".
    """
    return torch.tensor(formats.fp4(one_of("kind", kind, formats.FP4)))


def dynamic_codebook() -> Tensor:
    """Return the 256 levels of the 8-bit dynamic map, in ascending order and within (-1, 1].

    The levels cover seven decades from 10^-7 to 1, and each decade has twice as many levels as the
    decade below it. In effect each code is a floating-point number. Larger numbers have fewer
    exponent bits and more mantissa bits (8-bit optimizers, section 1.3, after Dettmers 2015, arXiv
    1511.04561).
    """
    levels = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        levels += [means, -means]
    return torch.cat(levels).sort().values


def lloyd_max_codebook(x: Tensor, bits: int = 4, block_size: int = 64) -> Tensor:
    """Find the levels with the smallest squared error for a tensor that is quantized in blocks.

    Lloyd's iteration moves each level to the mean of the numbers that are nearest to it, until no
    level moves: a local minimum of the error. It starts with levels whose density is the cube root
    of a normal density (Panter and Dite 1951). A number in a block with absmax c has the weight c².
    In general neither zero nor ±1 is a level.

    Returns:
        float32 tensor of shape (2^bits,), ascending, in [-1, 1].
    """
    flat = _as_row(x, block_size).float()
    levels = 2 ** _checked_bits(bits)
    if flat.numel() < levels:
        raise ValueError(f"{levels} levels need at least as many numbers, got {flat.numel()}")
    blocks, absmax = _in_blocks(flat, block_size)
    _check_finite(absmax, x)
    values, order = _scaled(blocks, absmax).flatten()[: flat.numel()].double().sort()
    weights = absmax.double().square().repeat_interleave(block_size)[: flat.numel()][order]
    # Entry n of `mass` is the total weight of the n smallest values. Entry n of `moment` is the
    # weighted sum of these n values.
    zero = torch.zeros(1, dtype=torch.float64)
    mass = torch.cat([zero, weights.cumsum(0)])
    moment = torch.cat([zero, (weights * values).cumsum(0)])
    # The cube root of a normal density is a normal density that is √3 times as wide.
    wide = 3**0.5 * values.std().clamp(min=1e-3)
    end = torch.special.ndtr(1 / wide).item()
    shares = torch.linspace(1 - end, end, levels, dtype=torch.float64)
    new = (wide * torch.special.ndtri(shares)).clamp(-1, 1)
    for _ in range(MAX_ROUNDS):
        old = new
        cuts = torch.searchsorted(values, midpoints(old))
        cuts = torch.cat([cuts.new_zeros(1), cuts, cuts.new_full((1,), flat.numel())])
        share = mass[cuts].diff()
        new = torch.where(share > 0, moment[cuts].diff() / share.clamp(min=1e-300), old)
        if torch.equal(old, new):
            break
    return new.float()


def midpoints(codebook: Tensor) -> Tensor:
    """Return the midpoints of neighbouring levels, which are the borders between their bins.

    Returns:
        The mean of each pair of neighbouring levels, of shape (levels - 1,).
    """
    return (codebook[:-1] + codebook[1:]) / 2


def bin_edges(codebook: Tensor) -> Tensor:
    """Return the edges of the bins of all levels in [-1, 1].

    Returns:
        A tensor of shape (levels + 1,) with -1, the midpoints of the levels, and 1.
    """
    ends = codebook.new_ones(1)
    return torch.cat([-ends, midpoints(codebook), ends])


# --- blocks ---------------------------------------------------------------------------------------


class Quantized(nn.Module):
    """A quantized tensor: its codes and constants, and a method to dequantize it.

    As an nn.Module, it moves between devices and is saved together with its layer. `.half()` does
    not change its dtypes. Shape, dtype and block size are not in the state dict, so load a saved
    state into a layer that has the same ones.

    Attributes:
        packed: the codes, uint8. A byte contains two codes of up to 4 bits, the first in its high
            bits, or one code of 5 to 8 bits.
        constants: the absmax of each block, float32 (blocks,). With double quantization, the
            constants minus their mean, as a `Quantized`. In MXFP4 and NVFP4, the scale of each
            block, float8 (blocks,).
        offset: with double quantization the mean of the constants, a float32 scalar; otherwise
            None.
        tensor_scale: in NVFP4 the factor of all scales, a float32 scalar; otherwise None.
        zero_point: the index of the level whose code is 0.
    """

    # The arguments are the attributes of the class.
    def __init__(  # noqa: PLR0913
        self,
        packed: Tensor,
        constants: Tensor | Quantized,
        codebook: Tensor,
        *,
        shape: torch.Size,
        dtype: torch.dtype,
        block_size: int,
        offset: Tensor | None = None,
        tensor_scale: Tensor | None = None,
        zero_point: int = 0,
    ) -> None:
        super().__init__()
        self.packed, self.codebook = nn.Buffer(packed), nn.Buffer(codebook)
        self.constants = constants if isinstance(constants, Quantized) else nn.Buffer(constants)
        self.offset = None if offset is None else nn.Buffer(offset)
        self.tensor_scale = None if tensor_scale is None else nn.Buffer(tensor_scale)
        self.shape, self.dtype, self.block_size = shape, dtype, block_size
        self.zero_point = zero_point

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantized:
        return super()._apply(lambda tensor: tensor.to(move(tensor).device), recurse)

    @property
    def absmax(self) -> Tensor:
        """Return the constants of the blocks, by which levels are multiplied: float32 (blocks,)."""
        if isinstance(self.constants, Quantized):
            assert self.offset is not None
            return self.constants.dequantize() + self.offset
        constants = self.constants.float()
        return constants if self.tensor_scale is None else constants * self.tensor_scale

    @property
    def codes(self) -> Tensor:
        """Return the code of each number as int16: 0 … 15 in NF4, -7 … 7 in int4.

        In MXFP4 and NVFP4, a code consists of the 4 bits of a number in E2M1.
        """
        packed: Tensor = self.packed
        if _codes_per_byte(self.codebook) == 2:
            packed = torch.stack([packed >> 4, packed & 15], dim=-1)
        codes = packed.flatten()[: self.shape.numel()].to(torch.int16)
        return codes.view(self.shape) - self.zero_point

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Compute level[code] · absmax in float32, and round the product to the result's dtype."""
        count, size, per_byte = self.shape.numel(), self.block_size, _codes_per_byte(self.codebook)
        table, absmax = self._levels_of_bytes(), self.absmax
        out = torch.empty(count, dtype=dtype or self.dtype, device=self.packed.device)
        for start, stop in _chunks(count, size):
            stored = self.packed[start // per_byte : -(-stop // per_byte)]
            blocks = _padded(F.embedding(stored.int(), table).flatten()[: stop - start], size)
            blocks = blocks * absmax[start // size : -(-stop // size), None]
            out[start:stop] = blocks.flatten()[: stop - start]
        return out.view(self.shape)

    def _levels_of_bytes(self) -> Tensor:
        """Return the levels of each byte: (levels, 1), or (256, 2) if a byte contains two codes."""
        if _codes_per_byte(self.codebook) == 1:
            return self.codebook[:, None]
        levels = F.pad(self.codebook, (0, 16 - len(self.codebook)))
        return torch.cartesian_prod(levels, levels)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the sizes of "codes", "constants" and "code books" with the offset, in bytes."""
        sizes = {
            "codes": self.packed.nbytes,
            "constants": self.constants.nbytes,
            "code books": self.codebook.nbytes,
        }
        if isinstance(self.constants, Quantized):
            assert self.offset is not None
            nested = self.constants.sizes
            sizes["constants"] = nested["codes"] + nested["constants"]
            sizes["code books"] += nested["code books"] + self.offset.nbytes
        if self.tensor_scale is not None:
            sizes["constants"] += self.tensor_scale.nbytes
        return sizes

    @property
    def nbytes(self) -> int:
        """Return the size of all stored tensors together, in bytes (B)."""
        return sum(self.sizes.values())

    def extra_repr(self) -> str:
        """Return shape, block size and whether the constants are quantized, for `repr`."""
        doubly = self.offset is not None
        return f"{tuple(self.shape)}, block_size={self.block_size}, double_quant={doubly}"


def quantize(
    x: Tensor, codebook: Tensor, block_size: int | None = 64, double_quant: bool = False
) -> Quantized:
    """Represent each number by the nearest level of a code book times the absmax of its block.

    A number exactly between two levels gets the lower level. Autograd does not track the
    quantization.

    Args:
        x: float32, float16 or bfloat16 tensor of any shape. It is divided into blocks row by row,
            and the last block may be shorter.
        codebook: 2 to 256 ascending levels in [-1, 1]. With up to 16 levels, two codes share a
            byte.
        block_size: the number of elements that share a constant, which must be even, or None for
            one constant for the whole tensor.
    """
    codebook = codebook.detach().float()
    # Both comparisons are False for NaN.
    ascending = (codebook.diff() > 0).all() and codebook.abs().max() <= 1
    if not 2 <= len(codebook) <= 256 or not ascending:
        raise ValueError("codebook must have from 2 to 256 levels in [-1, 1], in ascending order")
    borders = midpoints(codebook).to(x.device)

    def encode(scaled: Tensor) -> Tensor:
        return torch.bucketize(scaled, borders, out_int32=True)

    return _quantize(x, _Code(codebook, encode), block_size, double_quant)


def quantize_nf4(x: Tensor, block_size: int | None = 64, double_quant: bool = False) -> Quantized:
    """Quantize a tensor to 4-bit NormalFloat.

    On a CPU with AVX512, bitsandbytes 0.50 dequantizes a matrix wrongly if its rows end within a
    block, unless the matrix is passed as a single row.
    """
    return quantize(x, nf4_codebook(), block_size, double_quant)


def quantize_linear(
    x: Tensor, bits: int = 4, block_size: int | None = None, double_quant: bool = False
) -> Quantized:
    """Quantize a tensor to whole numbers: code = round(x / absmax · 7) for 4 bits.

    The codes of 4 bits are -7 … 7. A number halfway between two codes gets the even code.

    Args:
        block_size: the number of elements that share a constant, by default all elements.
    """
    codebook = linear_codebook(bits)
    most = len(codebook) // 2

    def encode(scaled: Tensor) -> Tensor:
        return (scaled * most).round() + most

    return _quantize(x, _Code(codebook, encode, zero_point=most), block_size, double_quant)


def quantize_mxfp4(x: Tensor) -> Quantized:
    """Quantize a tensor to MXFP4: numbers in E2M1, and a power of two as the scale of each block.

    The scale is 2^(e - 2), where 2^e is the largest power of two that does not exceed the absmax of
    the block. Numbers above 6 times the scale become 6 times the scale, the largest number of E2M1.
    A scale is stored as its exponent in 8 bits (E8M0), so a number needs 4 + 8/32 = 4.25 bits.

    Source: OCP Microscaling Formats (MX) specification 1.0, sections 5.2 and 6.3.

    Returns:
        The quantized tensor. Its `constants` have the dtype float8_e8m0fnu.
    """
    blocks, absmax = _float_blocks(x, MXFP4_BLOCK)
    # frexp returns absmax = m · 2^n with m from 0.5 up to 1, so e is n - 1, without rounding.
    scales = torch.ldexp(torch.ones_like(absmax), absmax.frexp().exponent - 3)
    # E8M0 has no zero: smaller scales become its smallest number, 2^-127.
    return _in_e2m1(x, blocks, scales.to(torch.float8_e8m0fnu))


def quantize_nvfp4(x: Tensor) -> Quantized:
    """Quantize a tensor to NVFP4: numbers in E2M1, and an 8-bit float as the scale of each block.

    The scale of a block would ideally be absmax / 6, because 6 is the largest number of E2M1. One
    float32 scale for the whole tensor divides these scales so that the largest of them becomes
    448, the largest number of E4M3. Then each scale is rounded to E4M3. So a number needs 4 + 8/16
    = 4.5 bits.

    Source: NVIDIA, "Introducing NVFP4 for Efficient and Accurate Low-Precision Inference" (2025).

    Returns:
        The quantized tensor. Its `constants` have the dtype float8_e4m3fn.
    """
    blocks, absmax = _float_blocks(x, NVFP4_BLOCK)
    largest = absmax.max() if absmax.numel() else absmax.new_zeros(())
    tensor_scale = (largest / (E4M3_MAX * E2M1[-1])).clamp(min=TINY)
    scales = (absmax / E2M1[-1] / tensor_scale).to(torch.float8_e4m3fn)
    return _in_e2m1(x, blocks, scales, tensor_scale)


def _float_blocks(x: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    blocks, absmax = _in_blocks(_as_row(x, block_size).float(), block_size)
    _check_finite(absmax, x)
    return blocks, absmax


def _in_e2m1(
    x: Tensor, blocks: Tensor, scales: Tensor, tensor_scale: Tensor | None = None
) -> Quantized:
    """Divide blocks by their scales, and round to the nearest number of E2M1.

    A number halfway between two neighbours gets the one whose mantissa bit is 0, as in IEEE 754.
    """
    levels = torch.tensor(E2M1, device=x.device)
    borders = midpoints(levels)
    # bucketize would give a number at a border the lower level. Above these borders is an even one.
    borders[1::2] = borders[1::2].nextafter(levels[0])
    divisors = scales.float() if tensor_scale is None else scales.float() * tensor_scale
    # A block whose scale was rounded to 0 has only zeros.
    scaled = blocks / divisors.where(divisors > 0, torch.inf)[:, None]
    codes = torch.bucketize(scaled.abs(), borders) + 8 * (scaled < 0)  # 8 is the bit of the sign
    return Quantized(
        _packed(codes.to(torch.uint8).flatten(), x.numel(), 2),
        scales,
        torch.cat([levels, -levels]),
        shape=x.shape,
        dtype=x.dtype,
        block_size=blocks.shape[1],
        tensor_scale=tensor_scale,
    )


class _Code(NamedTuple):
    """A code for the numbers in [-1, 1]."""

    codebook: Tensor
    encode: Callable[[Tensor], Tensor]
    zero_point: int = 0


def _quantize(x: Tensor, code: _Code, block_size: int | None, double_quant: bool) -> Quantized:
    size = max(2, x.numel() + x.numel() % 2) if block_size is None else block_size
    flat, packed, constants = _as_row(x, size), [], []
    for start, stop in _chunks(flat.numel(), size):
        blocks, absmax = _in_blocks(flat[start:stop].float(), size)
        scaled = _scaled(blocks, absmax)
        # bitsandbytes multiplies complete blocks by 1 / absmax, which rounds twice. But it divides
        # an incomplete last block by absmax, which rounds once.
        if (stop - start) % size:
            absmax[-1].clamp_(min=TINY)
            scaled[-1] = blocks[-1] / absmax[-1]
        codes = code.encode(scaled).to(torch.uint8).flatten()
        packed.append(_packed(codes, stop - start, _codes_per_byte(code.codebook)))
        constants.append(absmax)
    absmax = torch.cat(constants)
    _check_finite(absmax, x)
    stored, offset = _quantize_constants(absmax) if double_quant else (absmax, None)
    return Quantized(
        torch.cat(packed),
        stored,
        code.codebook.to(x.device),
        shape=x.shape,
        dtype=x.dtype,
        block_size=size,
        offset=offset,
        zero_point=code.zero_point,
    )


def _quantize_constants(absmax: Tensor) -> tuple[Quantized, Tensor]:
    """Subtract the mean from the constants, and quantize the differences to 8 bits.

    On a CPU bitsandbytes looks up each code in a table with 65,536 entries for [-1, 1], so this
    function rounds to the same entries.
    """
    offset = absmax.mean() if absmax.numel() else absmax.new_zeros(())
    if not offset.isfinite():
        raise ValueError("x is too large: the mean of its constants exceeds the range of float32")
    codebook, last = dynamic_codebook().to(absmax.device), 2**16 - 1
    blocks, largest = _in_blocks(absmax - offset, NESTED_BLOCK)
    # The reciprocal is infinite if the largest value of a block is zero or tiny.
    scaled = (blocks * (1 / largest)[:, None]).clamp(-1, 1)
    entry = ((scaled + 1) * 0.5 * last + 0.5).int()
    codes = torch.bucketize(-1 + 2 * entry / last, midpoints(codebook))
    # In a block of zeros every code is dequantized to 0. As in bitsandbytes, code 0 is stored.
    codes[largest == 0] = 0
    codes = codes.flatten()[: absmax.numel()].to(torch.uint8)
    quantized = Quantized(
        codes,
        largest,
        codebook,
        shape=absmax.shape,
        dtype=torch.float32,
        block_size=NESTED_BLOCK,
    )
    return quantized, offset


def _as_row(x: Tensor, block_size: int) -> Tensor:
    """Return x as a row without gradients; raise ValueError if x can't be quantized."""
    if x.dtype not in DTYPES:
        raise ValueError(f"x must be float32, float16 or bfloat16, got {x.dtype}")
    if positive("block_size", block_size) % 2:
        raise ValueError(f"block_size must be even, so that blocks fill bytes; got {block_size}")
    return x.detach().reshape(-1)


def _check_finite(absmax: Tensor, x: Tensor) -> None:
    """Raise ValueError if x contains NaN or infinity.

    It is enough to check the constants, because NaN or infinity in a block makes the absmax of this
    block NaN or infinite.
    """
    if not absmax.isfinite().all():
        wrong = (~x.isfinite()).sum()
        raise ValueError(f"x must be finite, but {wrong:,} of its {x.numel():,} numbers are not")


def _checked_bits(bits: int) -> int:
    return whole_number("bits", bits, least=2, most=8)


def _codes_per_byte(codebook: Tensor) -> int:
    return 2 if len(codebook) <= 16 else 1


def _packed(codes: Tensor, count: int, per_byte: int) -> Tensor:
    """Pack the first `count` codes into bytes.

    If two codes share a byte and `count` is odd, the last byte also contains the next code.
    """
    if per_byte == 1:
        return codes[:count]
    codes = codes[: count + count % 2]
    return codes[::2] << 4 | codes[1::2]


def _chunks(count: int, block_size: int) -> list[tuple[int, int]]:
    """Return the start and stop of chunks of complete blocks, of about CHUNK numbers each."""
    step = block_size * max(1, CHUNK // block_size)
    return [(start, min(start + step, count)) for start in range(0, max(count, 1), step)]


def _padded(flat: Tensor, block_size: int) -> Tensor:
    """Reshape (n,) to (blocks, block_size), with zeros after the last number."""
    missing = -flat.numel() % block_size
    return (F.pad(flat, (0, missing)) if missing else flat).view(-1, block_size)


def _in_blocks(flat: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return the blocks of a row, (blocks, block_size), and the absmax of each block, (blocks,)."""
    blocks = _padded(flat, block_size)
    return blocks, blocks.abs().amax(dim=1)


def _scaled(blocks: Tensor, absmax: Tensor) -> Tensor:
    """Return the blocks divided by their absmax, so that all numbers are in [-1, 1]."""
    return blocks * (1 / absmax.clamp(min=TINY))[:, None]


# --- the bits of the constants --------------------------------------------------------------------


def overhead_bits(
    block_size: int = 64,
    double_quant: bool = False,
    constant_bits: int = 32,
    nested_bits: int = 8,
    nested_block_size: int = NESTED_BLOCK,
) -> float:
    """Compute the number of bits that the constants of the blocks add to each number.

    With 64 numbers in a block, a float32 constant adds 32/64 = 0.5 bits. With double quantization
    the constants add 8/64 + 32/(64 · 256) = 0.126953125 bits (QLoRA, section 3). The code books and
    the offset are not counted, because their size does not grow with the tensor.
    """
    positive("block_size", block_size)
    positive("nested_block_size", nested_block_size)
    if not double_quant:
        return constant_bits / block_size
    return nested_bits / block_size + constant_bits / (block_size * nested_block_size)


# --- a layer of QLoRA's base ----------------------------------------------------------------------


class FrozenProduct(torch.autograd.Function):
    """Compute x Wᵀ + bias with a quantized W that gets no gradient.

    Each pass dequantizes W and frees it, so that autograd keeps no 16-bit W. The backward pass
    first rounds W to the dtype that W had before it was quantized, as bitsandbytes does.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Quantized, bias: Tensor | None) -> Tensor:
        """Multiply with the dequantized weight: (…, d_in) → (…, d_out)."""
        ctx.weight = weight
        return F.linear(x, weight.dequantize(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Compute the gradient of x: (…, d_out) → (…, d_in)."""
        return gradient @ ctx.weight.dequantize().to(gradient.dtype), None, None


class NF4Linear(nn.Module):
    """A frozen linear layer that stores its weights in NF4 and dequantizes them on demand.

    Outputs and gradients equal the results of bitsandbytes' Linear4bit (QLoRA, equation 5).

    Args:
        compute_dtype: dtype of the matrix products, by default the dtype of x.
    """

    def __init__(
        self,
        linear: nn.Linear,
        block_size: int = 64,
        double_quant: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
            raise ValueError(f"linear must be an unquantized nn.Linear, got {linear}")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = quantize_nf4(linear.weight, block_size, double_quant)
        self.bias = None if linear.bias is None else nn.Buffer(linear.bias.detach().clone())
        self.compute_dtype = compute_dtype

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the dequantized weight: (…, d_in) → (…, d_out), in the dtype of x."""
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return FrozenProduct.apply(x.to(dtype), self.weight, bias).to(x.dtype)
