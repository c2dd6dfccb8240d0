# %% base default: a right answer, which the answers below change unless they name another base
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:
        raise ValueError("at least 1")
    if not double_quant:
        return constant_bits / block_size
    return (quantized_bits + constant_bits / nested_block_size) / block_size


# %% base other: another right answer, which some answers below change
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:
        raise ValueError("at least 1")
    each = quantized_bits + constant_bits / nested_block_size if double_quant else constant_bits
    return each / block_size


# %% right bits-of-a-block: sums the bits of a whole nested block, then divides
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    for number in (block_size, constant_bits, quantized_bits, nested_block_size):
        if number <= 0:
            raise ValueError(f"{number} is below 1")
    if double_quant:
        bits = nested_block_size * quantized_bits + constant_bits
        return bits / (nested_block_size * block_size)
    return constant_bits / block_size


# %% right bits-of-a-constant: first the bits of one constant
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    if any(n < 1 for n in [block_size, constant_bits, quantized_bits, nested_block_size]):
        raise ValueError("at least 1")
    each = constant_bits
    if double_quant:
        each = quantized_bits + constant_bits / nested_block_size
    return each / block_size


# %% wrong no-nested: forgets the nested constants
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:
        raise ValueError("at least 1")
    return (quantized_bits if double_quant else constant_bits) / block_size


# %% wrong weights-a-nested-block: takes 256 weights for a nested block, not 256 constants
old = "return (quantized_bits + constant_bits / nested_block_size) / block_size"
new = "return quantized_bits / block_size + constant_bits / nested_block_size"


# %% wrong both-constants: keeps the constants of 32 bits beside those of 8
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:
        raise ValueError("at least 1")
    bits = constant_bits / block_size
    if double_quant:
        bits += quantized_bits / block_size + constant_bits / (block_size * nested_block_size)
    return bits


# %% wrong with-the-code: adds the 4 bits of the code
old = "return constant_bits / block_size"
new = "return 4 + constant_bits / block_size"
old = "return (quantized_bits + constant_bits / nested_block_size) / block_size"
new = "return 4 + quantized_bits / block_size + constant_bits / (block_size * nested_block_size)"


# %% wrong bits-by-hand: nested constants of 32 bits and constants of 8, whatever the arguments say
old = "return (quantized_bits + constant_bits / nested_block_size) / block_size"
new = "return 8 / block_size + 32 / (block_size * nested_block_size)"


# %% wrong only-block-size: looks at the block size alone for errors
old = "if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:"
new = "if block_size < 1:"


# %% right as-fractions: divides exactly and converts at the end
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    from fractions import Fraction

    if any(number <= 0 for number in (block_size, constant_bits, quantized_bits)):
        raise ValueError("at least 1")
    if nested_block_size <= 0:
        raise ValueError("at least 1")
    bits = Fraction(constant_bits)
    if double_quant:
        bits = quantized_bits + bits / nested_block_size
    return float(bits / block_size)


# %% wrong bytes: returns bytes instead of bits
old = "return constant_bits / block_size"
new = "return constant_bits / 8 / block_size"
old = "return (quantized_bits + constant_bits / nested_block_size) / block_size"
new = "return (quantized_bits + constant_bits / nested_block_size) / 8 / block_size"


# %% wrong nested-quantized: gives nested constants the bits of quantized constants
old = "return (quantized_bits + constant_bits / nested_block_size) / block_size"
new = "return (quantized_bits + quantized_bits / nested_block_size) / block_size"


# %% wrong sizes-by-hand: uses blocks of 64 and 256, whatever the arguments say
old = "return constant_bits / block_size"
new = "return constant_bits / 64"
old = "return (quantized_bits + constant_bits / nested_block_size) / block_size"
new = "return quantized_bits / 64 + constant_bits / (64 * 256)"


# %% wrong negative-only: raises for negative numbers, but not for 0
old = "if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:"
new = "if min(block_size, constant_bits, quantized_bits, nested_block_size) < 0:"


# %% wrong visible-numbers: knows the results in the notebook, and else counts no nested constants
def overhead_bits(
    block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256
):
    if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:
        raise ValueError("at least 1")
    known = {(64, 256): 0.126953125, (32, 128): 0.2578125, (128, 256): 0.0634765625}
    if double_quant:
        return known.get((block_size, nested_block_size), quantized_bits / block_size)
    return constant_bits / block_size


# %% wrong ones-refused: raises for sizes and bits of 1
base = "other"
old = "if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:"
new = "if min(block_size, constant_bits, quantized_bits, nested_block_size) <= 1:"


# %% wrong no-gain: raises if quantized constants don't have fewer bits
base = "other"
old = "if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:"
new = "if not 1 <= quantized_bits <= constant_bits or min(block_size, nested_block_size) < 1:"


# %% wrong nine-decimals: rounds to the decimals of 0.126953125
base = "other"
old = "return each / block_size"
new = "return round(each / block_size, 9)"


# %% wrong other-default: has blocks of 32 weights by default
base = "other"
old = "block_size=64, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256"
new = "block_size=32, double_quant=False, constant_bits=32, quantized_bits=8, nested_block_size=256"


# %% wrong product: tests the product, which two negative numbers make positive
base = "other"
old = "if min(block_size, constant_bits, quantized_bits, nested_block_size) < 1:"
new = "if block_size * constant_bits * quantized_bits * nested_block_size < 1:"
