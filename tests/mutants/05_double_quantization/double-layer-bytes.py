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
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    n = d_in * d_out
    blocks = n // block_size
    parts = {
        "codes": n // 2,
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * (blocks // nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong row-by-row: begins a new block with each row
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = d_out * math.ceil(d_in / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong a-code-a-byte: doesn't pack the codes
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": d_in * d_out,
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong error-if-it-counts: accepts any nested_block_size without double quantization
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size) < 1 or (double_quant and nested_block_size < 1):
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong no-offset: forgets the offset
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong odd-down: rounds blocks up, but an odd code away
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": d_in * d_out // 2,
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


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
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(d_in * d_out / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong nested-byte: stores a nested constant in one byte
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong one-more: adds 1 where it should round up
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = d_in * d_out // block_size + 1
    parts = {
        "codes": (d_in * d_out + 1) // 2,
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong always-nested: counts nested constants without double quantization, too
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size),
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong total-of-three: leaves the offset out of the total
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
    return parts | {"total": parts["codes"] + parts["constants"] + parts["nested"]}


# %% wrong nested-down: rounds nested blocks down
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * (blocks // nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong sizes-by-hand: uses blocks of 64 and 256, whatever the arguments say
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1:
        raise ValueError("at least 1")
    blocks = math.ceil(d_in * d_out / 64)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / 256) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong blocks-of-two: raises for nested blocks of one constant
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size) < 1 or nested_block_size < 2:
        raise ValueError("too small")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}


# %% wrong blocks-to-4096: has an upper limit for blocks, as bitsandbytes has
def double_layer_bytes(d_in, d_out, double_quant=True, block_size=64, nested_block_size=256):
    if min(d_in, d_out, block_size, nested_block_size) < 1 or block_size > 4096:
        raise ValueError("a size isn't supported")
    blocks = math.ceil(d_in * d_out / block_size)
    parts = {
        "codes": math.ceil(d_in * d_out / 2),
        "constants": blocks if double_quant else 4 * blocks,
        "nested": 4 * math.ceil(blocks / nested_block_size) if double_quant else 0,
        "offset": 4 if double_quant else 0,
    }
    return parts | {"total": sum(parts.values())}
