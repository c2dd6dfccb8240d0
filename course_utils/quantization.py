"""Numbers in 4 bits: linear absmax quantization, NF4, blocks, and double quantization.

    weights   0.03 -0.20 0.11 … | 0.05 0.01 -0.09 …       64 to a block
    absmax    0.20              | 0.09                     one constant c a block
    w / c     0.15 -1.00 0.55 … | 0.56 0.11 -1.00 …       in [-1, 1]
    code      9 0 13 …          | 13 8 0 …                 the nearest of 16 levels: 4 bits
    stored    1001 0000 | 1101 …                           two codes a byte, and c

Dequantizing looks the level up and multiplies: level[code] · c. The levels make the difference:
equally far from each other (int4), or dense where a normal distribution is (NF4). Double
quantization does it once more, to the constants: their mean is taken off, then 8 bits a constant
and a float32 constant a block of 256.

What is stored equals, bit for bit, what bitsandbytes stores on a CPU.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), section 3; 8-bit optimizers (Dettmers
et al. 2022, arXiv 2110.02861), section 1.3, for the dynamic map; Lloyd 1982 and Max 1960 for the
least squared error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.validation import positive

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)  # QLoRA, appendix E; as bitsandbytes has them
NESTED_BLOCK = 256  # constants to a block in double quantization
TINY = 1e-38  # what bitsandbytes divides by where all numbers of a block are smaller
AT_ONCE = 2**17  # numbers worked on at a time: they fit a core's cache
MOST_ROUNDS = 10_000  # of Lloyd's iteration; a hundred or so are enough
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


# --- levels: what a code can stand for ------------------------------------------------------------


def nf4_codebook() -> Tensor:
    """The 16 levels of 4-bit NormalFloat, ascending: float32 (16,), in [-1, 1].

    Quantiles of a normal distribution, taken so that zero is exact: 7 negative levels, 0, 8
    positive ones (QLoRA, section 3). The published table; `normal_float(4)` derives it.

        -1          -0.5           0           0.5           1
        |      |    |   |  | | | | | | | | |  |   |     |      |   dense where weights are
    """
    return torch.tensor(NF4)


def normal_float(bits: int) -> Tensor:
    """NormalFloat of `bits` bits from quantiles of N(0, 1): float32 (2^bits,), ascending.

    The outermost quantile δ lies halfway between those of an even and of an odd number of levels;
    2^(bits-1) quantiles from δ to ½ give the positive side, one fewer the negative side, and zero
    stands between them. Divided by the largest (bitsandbytes' create_normal_map, whose δ for 4
    bits is 929/960).
    Raises ValueError for bits outside 2 to 8.
    """
    levels = 2 ** _checked_bits(bits)
    delta = 1 - (1 / (2 * (levels - 1)) + 1 / (2 * levels)) / 2

    def quantiles(count: int) -> Tensor:
        shares = torch.linspace(delta, 0.5, count + 1, dtype=torch.float64)
        return torch.special.ndtri(shares[:-1])

    above, below = quantiles(levels // 2), quantiles(levels // 2 - 1)
    values = torch.cat([-below, torch.zeros(1), above.flip(0)])
    return (values / values.max()).float()


def linear_codebook(bits: int = 4) -> Tensor:
    """Equally spaced levels, symmetric about 0: float32 (2^bits - 1,), for 4 bits -7/7 … 7/7.

    One of the 2^bits codes stays unused, so that zero is exact and both sides are alike.
    Raises ValueError for bits outside 2 to 8.
    """
    most = 2 ** (_checked_bits(bits) - 1) - 1
    return torch.arange(-most, most + 1) / most


def fp4_codebook(kind: str = "bitsandbytes") -> Tensor:
    """The 15 different values of a 4-bit float, ascending, largest 1: float32 (15,).

    kind: "ocp", the E2M1 of the Open Compute Project (MX specification 1.0, section 5.3.3): sign,
        two bits of exponent, one of mantissa; or "bitsandbytes", its FP4, whose smallest value is
        much smaller. Raises ValueError for any other.
    """
    magnitudes = {
        "ocp": (0.5, 1, 1.5, 2, 3, 4, 6),
        "bitsandbytes": (0.0625, 2, 3, 4, 6, 8, 12),
    }
    if kind not in magnitudes:
        raise ValueError(f"kind must be one of {', '.join(magnitudes)}; got {kind!r}")
    values = torch.tensor(magnitudes[kind])
    values = values / values.max()
    return torch.cat([-values.flip(0), torch.zeros(1), values])


def dynamic_codebook() -> Tensor:
    """The 256 levels of the 8-bit dynamic map, ascending: float32 (256,), in (-1, 1].

    Seven decades from 10^-7 to 1, each with twice as many levels as the one below it: a float whose
    exponent takes the fewer bits, the larger the number (8-bit optimizers, section 1.3, after
    Dettmers 2015, arXiv 1511.04561).
    """
    levels = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        levels += [means, -means]
    return torch.cat(levels).sort().values


def lloyd_max_codebook(x: Tensor, bits: int = 4, block_size: int = 64) -> Tensor:
    """Levels of least squared error for x in blocks: float32 (2^bits,), ascending.

    Lloyd's iteration: each level moves to the mean of the numbers nearest to it, until none moves,
    which is a local minimum. It starts from levels as dense as the cube root of the numbers'
    density would be if they were normal (Panter and Dite 1951). A number of a block with absmax c
    counts c² times, since its error is multiplied by c. Neither zero nor ±1 is exact in general.

    x: numbers to fit, a sample of what will be quantized. Raises ValueError as `quantize` does, and
    for fewer numbers than levels.
    """
    flat = _checked(x, block_size).float()
    levels = 2 ** _checked_bits(bits)
    if flat.numel() < levels:
        raise ValueError(f"{levels} levels need at least as many numbers, got {flat.numel()}")
    blocks, absmax = _in_blocks(flat, block_size)
    _check_finite(absmax, x)
    values, order = _scaled(blocks, absmax).flatten()[: flat.numel()].double().sort()
    weights = absmax.double().square().repeat_interleave(block_size)[: flat.numel()][order]
    zero = torch.zeros(1, dtype=torch.float64)
    mass = torch.cat([zero, weights.cumsum(0)])  # of the first n numbers
    moment = torch.cat([zero, (weights * values).cumsum(0)])
    wide = 3**0.5 * values.std().clamp(min=1e-3)  # the cube root of a normal density is normal, too
    end = torch.special.ndtr(1 / wide).item()
    shares = torch.linspace(1 - end, end, levels, dtype=torch.float64)
    new = (wide * torch.special.ndtri(shares)).clamp(-1, 1)
    for _ in range(MOST_ROUNDS):
        old = new
        cuts = torch.searchsorted(values, midpoints(old))
        cuts = torch.cat([cuts.new_zeros(1), cuts, cuts.new_full((1,), flat.numel())])
        share = mass[cuts].diff()
        new = torch.where(share > 0, moment[cuts].diff() / share.clamp(min=1e-300), old)
        if torch.equal(old, new):
            break
    return new.float()


def midpoints(codebook: Tensor) -> Tensor:
    """Where the nearest level changes: halfway between neighbours, (levels - 1,)."""
    return (codebook[:-1] + codebook[1:]) / 2


def bin_edges(codebook: Tensor) -> Tensor:
    """The edges of all bins within [-1, 1]: -1, the midpoints, 1; (levels + 1,)."""
    ends = codebook.new_ones(1)
    return torch.cat([-ends, midpoints(codebook), ends])


# --- blocks ---------------------------------------------------------------------------------------


class Quantized(nn.Module):
    """A tensor in codes: what is stored of it, and the way back.

    packed: uint8, two codes a byte, the first in the high bits (one code a byte from 5 bits on).
    constants: the absmax of each block, float32 (blocks,), and 1e-38 for an unfinished block of
        zeros; or, doubly quantized, a `Quantized` of what is left of them after their mean `offset`
        is taken off.
    codebook: the levels, float32 (levels,). zero_point: the index that counts as code 0.
    shape, dtype: of the tensor that was quantized. block_size: numbers to a block.

    A module, so that it moves between devices and is saved with the layer it belongs to; shape,
    dtype and block size are not in its state, so load one into an equal layer. It keeps its dtypes
    whatever the model is cast to: `.half()` changes nothing.
    """

    def __init__(
        self,
        packed: Tensor,
        constants: Tensor | Quantized,
        codebook: Tensor,
        *,
        shape: torch.Size,
        dtype: torch.dtype,
        block_size: int,
        offset: Tensor | None = None,
        zero_point: int = 0,
    ) -> None:
        super().__init__()
        self.packed, self.codebook = nn.Buffer(packed), nn.Buffer(codebook)
        doubly = isinstance(constants, Quantized)
        self.constants = constants if doubly else nn.Buffer(constants)
        self.offset = nn.Buffer(offset) if doubly else None
        self.shape, self.dtype, self.block_size = shape, dtype, block_size
        self.zero_point = zero_point

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantized:
        return super()._apply(lambda tensor: tensor.to(move(tensor).device), recurse)

    @property
    def absmax(self) -> Tensor:
        """The constant of each block as it is used, float32 (blocks,)."""
        if self.offset is None:
            return self.constants
        return self.constants.dequantize() + self.offset

    @property
    def codes(self) -> Tensor:
        """The code of each number, int16, in the tensor's shape: NF4 0 … 15, int4 -7 … 7."""
        packed = self.packed
        if _codes_per_byte(self.codebook) == 2:
            packed = torch.stack([packed >> 4, packed & 15], dim=-1)
        codes = packed.flatten()[: self.shape.numel()].to(torch.int16)
        return codes.view(self.shape) - self.zero_point

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """level[code] · absmax, computed in float32 and rounded once, in the tensor's shape.

        dtype: of the result; default: that of the tensor that was quantized.
        """
        count, size, per_byte = self.shape.numel(), self.block_size, _codes_per_byte(self.codebook)
        table, absmax = self._levels_of_bytes(), self.absmax
        out = torch.empty(count, dtype=dtype or self.dtype, device=self.packed.device)
        for start, stop in _parts(count, size):
            stored = self.packed[start // per_byte : -(-stop // per_byte)]
            blocks = _padded(F.embedding(stored.int(), table).flatten()[: stop - start], size)
            blocks = blocks * absmax[start // size : -(-stop // size), None]
            out[start:stop] = blocks.flatten()[: stop - start]
        return out.view(self.shape)

    def _levels_of_bytes(self) -> Tensor:
        """The level or levels that each byte stands for: (levels, 1), or (256, 2) for pairs."""
        if _codes_per_byte(self.codebook) == 1:
            return self.codebook[:, None]
        levels = F.pad(self.codebook, (0, 16 - len(self.codebook)))
        return torch.cartesian_prod(levels, levels)

    @property
    def sizes(self) -> dict[str, int]:
        """What is stored, in bytes: codes, constants, and code books with the offset."""
        sizes = {
            "codes": self.packed.nbytes,
            "constants": self.constants.nbytes,
            "code books": self.codebook.nbytes,
        }
        if self.offset is not None:
            nested = self.constants.sizes
            sizes["constants"] = nested["codes"] + nested["constants"]
            sizes["code books"] += nested["code books"] + self.offset.nbytes
        return sizes

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        return sum(self.sizes.values())

    def extra_repr(self) -> str:
        doubly = self.offset is not None
        return f"{tuple(self.shape)}, block_size={self.block_size}, double_quant={doubly}"


def quantize(
    x: Tensor, codebook: Tensor, block_size: int | None = 64, double_quant: bool = False
) -> Quantized:
    """Each number as the nearest level of a code book, times its block's absmax.

    x: float32, float16 or bfloat16, of any shape, read row by row; the last block may be shorter.
    codebook: ascending levels in [-1, 1], from 2 to 256; up to 16, two codes share a byte.
    block_size: numbers that share a constant, an even number; None: one for the whole tensor.
    double_quant: whether the constants are quantized too.

    Exactly between two levels the lower one is taken. Nothing is remembered for autograd.
    Raises ValueError for another dtype, for NaN and infinity, and for a block size that can't be.
    """
    codebook = codebook.detach().float()
    ascending = (codebook.diff() > 0).all() and codebook.abs().max() <= 1  # NaN is neither
    if not 2 <= len(codebook) <= 256 or not ascending:
        raise ValueError("codebook must have from 2 to 256 levels in [-1, 1], in ascending order")
    borders = midpoints(codebook).to(x.device)

    def encode(scaled: Tensor) -> Tensor:
        return torch.bucketize(scaled, borders, out_int32=True)

    return _quantize(x, codebook, encode, block_size, double_quant)


def quantize_nf4(x: Tensor, block_size: int | None = 64, double_quant: bool = False) -> Quantized:
    """x in 4-bit NormalFloat; arguments and errors as of `quantize`.

    Codes, constants and values are bit-identical to those of bitsandbytes' quantize_4bit on a CPU.
    (bitsandbytes 0.50 decodes a matrix wrongly on a CPU with AVX512 if its rows end within a block.
    As one row, the same numbers come back right, and equal to these.)
    """
    return quantize(x, nf4_codebook(), block_size, double_quant)


def quantize_linear(
    x: Tensor, bits: int = 4, block_size: int | None = None, double_quant: bool = False
) -> Quantized:
    """x in whole numbers: code = round(x / absmax · 7) for 4 bits, from -7 to 7; ½ goes to even.

    bits: 2 to 8. block_size: as in `quantize`; the default is one constant for the whole tensor.
    Raises ValueError as `quantize` does.
    """
    codebook = linear_codebook(bits)
    most = len(codebook) // 2

    def encode(scaled: Tensor) -> Tensor:
        return (scaled * most).round() + most

    return _quantize(x, codebook, encode, block_size, double_quant, zero_point=most)


def _quantize(
    x: Tensor,
    codebook: Tensor,
    encode: Callable[[Tensor], Tensor],
    block_size: int | None,
    double_quant: bool,
    zero_point: int = 0,
) -> Quantized:
    size = max(2, x.numel() + x.numel() % 2) if block_size is None else block_size
    flat, packed, constants = _checked(x, size), [], []
    for start, stop in _parts(flat.numel(), size):
        blocks, absmax = _in_blocks(flat[start:stop].float(), size)
        scaled = _scaled(blocks, absmax)
        if (stop - start) % size:  # in an unfinished block bitsandbytes divides, which rounds once
            absmax[-1].clamp_(min=TINY)
            scaled[-1] = blocks[-1] / absmax[-1]
        codes = encode(scaled).to(torch.uint8).flatten()
        packed.append(_packed(codes, stop - start, _codes_per_byte(codebook)))
        constants.append(absmax)
    absmax = torch.cat(constants)
    _check_finite(absmax, x)
    stored, offset = _in_8_bits(absmax) if double_quant else (absmax, None)
    return Quantized(
        torch.cat(packed),
        stored,
        codebook.to(x.device),
        shape=x.shape,
        dtype=x.dtype,
        block_size=size,
        offset=offset,
        zero_point=zero_point,
    )


def _in_8_bits(absmax: Tensor) -> tuple[Quantized, Tensor]:
    """Double quantization: constants without their mean in 8 bits, and that mean.

    On a CPU bitsandbytes reads codes from a table of 65,536 places in [-1, 1]: so do we.
    """
    offset = absmax.mean() if absmax.numel() else absmax.new_zeros(())
    if not offset.isfinite():
        raise ValueError("x is too large: the mean of its constants is beyond float32")
    codebook, last = dynamic_codebook().to(absmax.device), 2**16 - 1
    blocks, largest = _in_blocks(absmax - offset, NESTED_BLOCK)
    scaled = (blocks * (1 / largest)[:, None]).clamp(-1, 1)  # the reciprocal can be infinite
    place = ((scaled + 1) * 0.5 * last + 0.5).int()
    codes = torch.bucketize(-1 + 2 * place / last, midpoints(codebook))
    codes[largest == 0] = 0  # as bitsandbytes has it: any code stands for 0 there
    codes = codes.flatten()[: absmax.numel()].to(torch.uint8)
    about = {"shape": absmax.shape, "dtype": torch.float32, "block_size": NESTED_BLOCK}
    return Quantized(codes, largest, codebook, **about), offset


def _checked(x: Tensor, block_size: int) -> Tensor:
    """x as one row, detached; ValueError for what can't be quantized."""
    if x.dtype not in FLOATS:
        raise ValueError(f"x must be float32, float16 or bfloat16, got {x.dtype}")
    if positive("block_size", block_size) % 2:
        raise ValueError(f"block_size must be even, so that blocks fill bytes; got {block_size}")
    return x.detach().reshape(-1)


def _check_finite(absmax: Tensor, x: Tensor) -> None:
    """Raise ValueError if x has NaN or infinity, which its constants then have too."""
    if not absmax.isfinite().all():
        wrong = (~x.isfinite()).sum()
        raise ValueError(f"x must be finite, but {wrong:,} of its {x.numel():,} numbers are not")


def _checked_bits(bits: int) -> int:
    if not 2 <= positive("bits", bits) <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits}")
    return bits


def _codes_per_byte(codebook: Tensor) -> int:
    return 2 if len(codebook) <= 16 else 1


def _packed(codes: Tensor, count: int, per_byte: int) -> Tensor:
    """The first `count` codes in bytes, two to a byte or one; an odd one shares with the next."""
    if per_byte == 1:
        return codes[:count]
    codes = codes[: count + count % 2]
    return codes[::2] << 4 | codes[1::2]


def _parts(count: int, block_size: int) -> list[tuple[int, int]]:
    """Whole blocks, about AT_ONCE numbers at a time: start and stop; one empty part for none."""
    step = block_size * max(1, AT_ONCE // block_size)
    return [(start, min(start + step, count)) for start in range(0, max(count, 1), step)]


def _padded(flat: Tensor, block_size: int) -> Tensor:
    """(n,) → (blocks, block_size), zeros after the last number."""
    missing = -flat.numel() % block_size
    return (F.pad(flat, (0, missing)) if missing else flat).view(-1, block_size)


def _in_blocks(flat: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Blocks (blocks, block_size) of a row, and their absmax (blocks,)."""
    blocks = _padded(flat, block_size)
    return blocks, blocks.abs().amax(dim=1)


def _scaled(blocks: Tensor, absmax: Tensor) -> Tensor:
    """Blocks divided by their absmax: in [-1, 1]."""
    return blocks * (1 / absmax.clamp(min=TINY))[:, None]


# --- what the constants cost ----------------------------------------------------------------------


def overhead_bits(
    block_size: int = 64,
    double_quant: bool = False,
    constant_bits: int = 32,
    nested_bits: int = 8,
    nested_block_size: int = NESTED_BLOCK,
) -> float:
    """Bits that the constants of blocks add to each number.

    One constant of `constant_bits` a block; with double quantization `nested_bits` a block, and one
    constant a block of blocks: 32/64 = 0.5, and 8/64 + 32/(64 · 256) = 0.126953125 (QLoRA, section
    3). Code books and the offset, a few for each tensor, are left out.
    Raises ValueError for a number below 1.
    """
    for name, value in {
        "block_size": block_size,
        "constant_bits": constant_bits,
        "nested_bits": nested_bits,
        "nested_block_size": nested_block_size,
    }.items():
        positive(name, value)
    if not double_quant:
        return constant_bits / block_size
    return nested_bits / block_size + constant_bits / (block_size * nested_block_size)


# --- a layer of QLoRA's base ----------------------------------------------------------------------


class FrozenProduct(torch.autograd.Function):
    """x Wᵀ + bias with W in codes: dequantized for each pass and thrown away after it.

    Only x gets a gradient. Autograd would have kept a 16-bit W from the forward pass for the
    backward pass; here the codes are decoded a second time instead, by way of the dtype that W had,
    as bitsandbytes does.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Quantized, bias: Tensor | None) -> Tensor:
        """(…, d_in) → (…, d_out)."""
        ctx.weight = weight
        return F.linear(x, weight.dequantize(x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(…, d_out) → (…, d_in)."""
        return gradient @ ctx.weight.dequantize().to(gradient.dtype), None, None


class NF4Linear(nn.Module):
    """A frozen linear layer whose weights are kept in NF4 and dequantized on demand.

    linear: the layer to quantize; its weights are read, not changed.
    block_size, double_quant: as in `quantize_nf4`.
    compute_dtype: what products are computed in; default: the dtype of x. The output has x's dtype.

    Outputs and gradients equal those of bitsandbytes' Linear4bit (QLoRA, equation 5).
    Raises ValueError for another kind of layer, and as `quantize` does.
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
        """(…, d_in) → (…, d_out)."""
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return FrozenProduct.apply(x.to(dtype), self.weight, bias).to(x.dtype)
