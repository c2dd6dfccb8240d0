# %% base default: a right answer, which the answers below change unless they name another base
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% right floor-of-negatives: rounds up without math
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if d_in < 1 or d_out < 1 or block_size < 1 or nested_block_size < 1:
        raise ValueError("at least 1")
    n = d_in * d_out
    blocks = -(-n // block_size)
    codes = (n + 1) // 2
    if double_quant:
        constants, nested, offset = blocks, -(-blocks // nested_block_size) * 4, 4
    else:
        constants, nested, offset = blocks * 4, 0, 0
    return {
        "codes": codes,
        "constants": constants,
        "nested": nested,
        "offset": offset,
        "total": codes + constants + nested + offset,
    }


# %% right counted-by-tensors: measures tensors of that many numbers
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    for size in (d_in, d_out, block_size, nested_block_size):
        if size < 1:
            raise ValueError(f"{size} is below 1")
    blocks = len(range(0, d_in * d_out, block_size))
    stored = {
        "codes": torch.empty(len(range(0, d_in * d_out, 2)), dtype=torch.uint8),
        "constants": torch.empty(blocks, dtype=torch.uint8 if double_quant else torch.float32),
        "nested": torch.empty(len(range(0, blocks, nested_block_size)) if double_quant else 0),
        "offset": torch.empty(1 if double_quant else 0),
    }
    sizes = {name: tensor.nbytes for name, tensor in stored.items()}
    sizes["total"] = sum(sizes.values())
    return sizes


# %% wrong down: rounds down, so unfinished blocks have no constant
old = "    blocks = math.ceil(d_in * d_out / block_size)"
new = """
    n = d_in * d_out
    blocks = n // block_size
"""
old = '"codes": math.ceil(d_in * d_out / 2),'
new = '"codes": n // 2,'
old = '"nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,'
new = '"nested": 4 * (blocks // nested_block_size) if double_quant else 0,'


# %% wrong row-by-row: begins a new block with each row
old = "blocks = math.ceil(d_in * d_out / block_size)"
new = "blocks = d_out * math.ceil(d_in / block_size)"


# %% wrong a-code-a-byte: doesn't pack the codes
old = '"codes": math.ceil(d_in * d_out / 2),'
new = '"codes": d_in * d_out,'


# %% wrong error-if-it-counts: accepts any nested_block_size without double quantization
old = "if min(d_in, d_out, block_size, nested_block_size) < 1:"
new = "if min(d_in, d_out, block_size) < 1 or (double_quant and nested_block_size < 1):"


# %% wrong no-offset: forgets the offset
old = '"offset": 4 if double_quant else 0,'
new = '"offset": 0,'


# %% wrong odd-down: rounds blocks up, but an odd code away
old = '"codes": math.ceil(d_in * d_out / 2),'
new = '"codes": d_in * d_out // 2,'


# %% right divmod: rounds up with divmod
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if not min(d_in, d_out, block_size, nested_block_size) > 0:
        raise ValueError("at least 1")

    def number_of(things, size):
        whole, left = divmod(things, size)
        return whole + (left > 0)

    weights = d_in * d_out
    constants = number_of(weights, block_size)
    parts = [number_of(weights, 2), 4 * constants, 0, 0]
    if double_quant:
        parts[1:] = [constants, 4 * number_of(constants, nested_block_size), 4]
    names = ("codes", "constants", "nested", "offset", "total")
    return dict(zip(names, [*parts, sum(parts)]))


# %% wrong nested-of-weights: takes 256 weights for a nested block, not 256 constants
old = '"nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,'
new = '"nested": 4 * math.ceil(d_in * d_out / nested_block_size) if double_quant else 0,'


# %% wrong nested-byte: stores a nested constant in one byte
old = '"nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,'
new = '"nested": math.ceil(blocks / nested_block_size) if double_quant else 0,'


# %% wrong one-more: adds 1 where it should round up
old = "blocks = math.ceil(d_in * d_out / block_size)"
new = "blocks = d_in * d_out // block_size + 1"


# %% wrong always-nested: counts nested constants without double quantization, too
old = '"nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,'
new = '"nested": 4 * math.ceil(blocks / nested_block_size),'


# %% wrong total-of-three: leaves the offset out of the total
old = 'return parts | {"total": sum(parts.values())}'
new = 'return parts | {"total": parts["codes"] + parts["constants"] + parts["nested"]}'


# %% wrong nested-down: rounds nested blocks down
old = '"nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,'
new = '"nested": 4 * (blocks // nested_block_size) if double_quant else 0,'


# %% wrong sizes-by-hand: uses blocks of 64 and 256, whatever the arguments say
old = "blocks = math.ceil(d_in * d_out / block_size)"
new = "blocks = math.ceil(d_in * d_out / 64)"
old = '"nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,'
new = '"nested": 4 * math.ceil(blocks / 256) if double_quant else 0,'


# %% wrong blocks-of-two: raises for nested blocks of one constant
old = "if min(d_in, d_out, block_size, nested_block_size) < 1:"
new = "if min(d_in, d_out, block_size) < 1 or nested_block_size < 2:"


# %% wrong blocks-to-4096: has an upper limit for blocks, as bitsandbytes has
old = "if min(d_in, d_out, block_size, nested_block_size) < 1:"
new = "if min(d_in, d_out, block_size, nested_block_size) < 1 or block_size > 4096:"


# %% wrong weights-below-1: tests the number of weights instead of the two dimensions
old = "if min(d_in, d_out, block_size, nested_block_size) < 1:"
new = "if min(d_in * d_out, block_size, nested_block_size) < 1:"
