# %% base default: a right answer, which the answers below change unless they name another base
def quantized_gigabytes(quantized, unquantized=0, overhead=0.5, double_overhead=0.126953125):
    if quantized < 0 or unquantized < 0:
        raise ValueError("negative")
    nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9
    double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9
    return {"nf4": nf4, "double": double, "saved": nf4 - double}


# %% right bytes-first: bytes a weight, then GB
def quantized_gigabytes(quantized, unquantized=0, overhead=0.5, double_overhead=0.126953125):
    if min(quantized, unquantized) < 0:
        raise ValueError("negative")
    rest = 2 * unquantized
    nf4 = (quantized * (0.5 + overhead / 8) + rest) / 10**9
    double = (quantized * (0.5 + double_overhead / 8) + rest) / 10**9
    return {"saved": nf4 - double, "nf4": nf4, "double": double}


# %% right saved-from-bits: what is saved from the difference of the overheads, in a loop
def quantized_gigabytes(quantized, unquantized=0, overhead=0.5, double_overhead=0.126953125):
    if quantized < 0:
        raise ValueError("quantized is negative")
    if unquantized < 0:
        raise ValueError("unquantized is negative")
    sizes = {}
    for name, bits in (("nf4", overhead), ("double", double_overhead)):
        sizes[name] = (quantized * 4 + quantized * bits + unquantized * 16) / 8e9
    sizes["saved"] = quantized * (overhead - double_overhead) / 8 * 1e-9
    return sizes


# %% wrong gib: divides by 2^30
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 2**30"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 2**30"


# %% wrong bits: forgets that a byte has 8 bits
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = (quantized * (4 + overhead) + unquantized * 16) / 1e9"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = (quantized * (4 + double_overhead) + unquantized * 16) / 1e9"


# %% wrong no-unquantized: forgets the weights that aren't quantized
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = quantized * (4 + overhead) / 8e9"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = quantized * (4 + double_overhead) / 8e9"


# %% wrong all-quantized: takes all weights for quantized
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "weights = quantized + unquantized"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4, double = weights * (4 + overhead) / 8e9, weights * (4 + double_overhead) / 8e9"


# %% wrong constants-by-hand: QLoRA's overheads, whatever the arguments say
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = (quantized * 4.5 / 8 + unquantized * 2) / 1e9"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = (quantized * 4.126953125 / 8 + unquantized * 2) / 1e9"


# %% wrong rounded: rounds to a hundredth of a GB
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = round((quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9, 2)"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = round((quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9, 2)"


# %% right as-decimals: computes with decimal numbers
def quantized_gigabytes(quantized, unquantized=0, overhead=0.5, double_overhead=0.126953125):
    from decimal import Decimal

    if any(number < 0 for number in (quantized, unquantized)):
        raise ValueError("negative")
    rest, per_gb = Decimal(16 * unquantized), Decimal(8 * 10**9)
    nf4, double = (
        (quantized * (4 + Decimal(bits)) + rest) / per_gb for bits in (overhead, double_overhead)
    )
    return {"nf4": float(nf4), "double": float(double), "saved": float(nf4 - double)}


# %% wrong negative-saving: subtracts the other way round
old = 'return {"nf4": nf4, "double": double, "saved": nf4 - double}'
new = 'return {"nf4": nf4, "double": double, "saved": double - nf4}'


# %% wrong overhead-only: forgets the 4 bits of each code
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = (quantized * overhead / 8 + unquantized * 2) / 1e9"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = (quantized * double_overhead / 8 + unquantized * 2) / 1e9"


# %% wrong four-bytes: stores the weights that aren't quantized in 32 bits
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 4) / 1e9"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 4) / 1e9"


# %% wrong whole-bytes: rounds to whole bytes
old = "nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
new = "nf4 = round(quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9"
old = "double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"
new = "double = round(quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9"


# %% wrong sum-negative: raises only if both numbers together are negative
old = "if quantized < 0 or unquantized < 0:"
new = "if quantized + unquantized < 0:"


# %% wrong visible-models: knows the models in the notebook, and else leaves out the overhead
def quantized_gigabytes(quantized, unquantized=0, overhead=0.5, double_overhead=0.126953125):
    if quantized < 0 or unquantized < 0:
        raise ValueError("negative")
    if quantized in (7_000_000_000, 65_000_000_000, 106_168_320):
        nf4 = (quantized * (4 + overhead) / 8 + unquantized * 2) / 1e9
        double = (quantized * (4 + double_overhead) / 8 + unquantized * 2) / 1e9
    else:
        nf4 = double = (quantized * 4 / 8 + unquantized * 2) / 1e9
    return {"nf4": nf4, "double": double, "saved": nf4 - double}


# %% wrong never-a-loss: returns 0 if double quantization needs more memory
old = 'return {"nf4": nf4, "double": double, "saved": nf4 - double}'
new = 'return {"nf4": nf4, "double": double, "saved": max(nf4 - double, 0.0)}'


# %% wrong zero-is-default: takes an overhead of 0 for one that isn't given
def quantized_gigabytes(quantized, unquantized=0, overhead=None, double_overhead=None):
    if quantized < 0 or unquantized < 0:
        raise ValueError("negative")
    nf4 = (quantized * (4 + (overhead or 0.5)) / 8 + unquantized * 2) / 1e9
    double = (quantized * (4 + (double_overhead or 0.126953125)) / 8 + unquantized * 2) / 1e9
    return {"nf4": nf4, "double": double, "saved": nf4 - double}


# %% wrong double-or-default: uses the default for an overhead of 0 with double quantization
old = "(4 + double_overhead)"
new = "(4 + (double_overhead or 0.126953125))"
