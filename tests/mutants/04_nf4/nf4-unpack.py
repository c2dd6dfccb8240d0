# %% right quotient: quotient and remainder of 16, blocks filled up and cut
def dequantize_blocks(packed, absmax, codebook, block_size, shape, dtype):
    n = 1
    for size in shape:
        n *= size
    if packed.numel() != (n + 1) // 2:
        raise ValueError("wrong number of bytes")
    if absmax.numel() != (n + block_size - 1) // block_size:
        raise ValueError("wrong number of constants")
    codes = torch.zeros(2 * len(packed), dtype=torch.long)
    codes[0::2] = packed.long() // 16
    codes[1::2] = packed.long() % 16
    row = codebook[codes[:n]]
    padded = F.pad(row, (0, len(absmax) * block_size - n)).view(len(absmax), block_size)
    row = (padded * absmax[:, None]).flatten()[:n]
    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return row.reshape(tuple(shape)).to(kinds[dtype])


# %% right number-by-number: a loop in float64, rounded once
def dequantize_blocks(packed, absmax, codebook, block_size, shape, dtype):
    count = torch.Size(shape).numel()
    if len(packed) != -(-count // 2) or len(absmax) != -(-count // block_size):
        raise ValueError("lengths don't match the shape")
    stored, constants, levels = packed.tolist(), absmax.tolist(), codebook.tolist()
    numbers = []
    for place in range(count):
        byte = stored[place // 2]
        code = byte & 0x0F if place % 2 else byte >> 4
        numbers.append(levels[code] * constants[place // block_size])
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape).to(getattr(torch, dtype))


# %% wrong low-first: takes the low four bits first
old = "codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count].long()"
new = "codes = torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count].long()"


# %% wrong no-constant: returns levels without the absmax of their blocks
old = """
    constants = absmax.repeat_interleave(block_size)[:count]
    return (codebook[codes] * constants).view(shape).to(getattr(torch, dtype))
"""
new = "    return codebook[codes].view(shape).to(getattr(torch, dtype))"


# %% wrong takes-turns: repeats the row of constants instead of each of them
old = "constants = absmax.repeat_interleave(block_size)[:count]"
new = "constants = absmax.repeat(block_size)[:count]"


# %% wrong float32-only: forgets the dtype
old = "return (codebook[codes] * constants).view(shape).to(getattr(torch, dtype))"
new = "return (codebook[codes] * constants).view(shape)"


# %% wrong spare-bytes: cuts bytes that are too many (only hidden checks see it)
old = "if len(packed) != math.ceil(count / 2) or len(absmax) != math.ceil(count / block_size):"
new = "if 2 * len(packed) < count or len(absmax) != math.ceil(count / block_size):"


# %% wrong in-half: multiplies in the dtype asked for (only hidden checks see it)
def dequantize_blocks(packed, absmax, codebook, block_size, shape, dtype):
    count = math.prod(shape)
    if len(packed) != math.ceil(count / 2) or len(absmax) != math.ceil(count / block_size):
        raise ValueError("lengths don't match the shape")
    kind = getattr(torch, dtype)
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count].long()
    constants = absmax.to(kind).repeat_interleave(block_size)[:count]
    return (codebook.to(kind)[codes] * constants).view(shape)


# %% right blocks: one block after the other, with the levels of all 256 bytes in a table
def dequantize_blocks(packed, absmax, codebook, block_size, shape, dtype):
    n = math.prod(shape)
    blocks = -(-n // block_size)
    if packed.shape != (-(-n // 2),) or absmax.shape != (blocks,):
        raise ValueError("lengths don't match the shape")
    levels = F.pad(codebook, (0, 16 - len(codebook)))
    row = torch.cartesian_prod(levels, levels)[packed.int()].flatten()[:n]
    pieces = [piece * c for piece, c in zip(row.split(block_size), absmax)]
    return torch.cat(pieces).to(getattr(torch, dtype)).reshape(shape)


# %% wrong whole-blocks: expects whole blocks
old = "constants = absmax.repeat_interleave(block_size)[:count]"
new = "blocks = codebook[codes].view(-1, block_size) * absmax[:, None]"
old = "return (codebook[codes] * constants).view(shape).to(getattr(torch, dtype))"
new = "return blocks.view(shape).to(getattr(torch, dtype))"


# %% wrong mask: uses codes of dtype uint8 as an index
old = "codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count].long()"
new = "codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count]"


# %% wrong divides: divides by the constants
old = "return (codebook[codes] * constants).view(shape).to(getattr(torch, dtype))"
new = "return (codebook[codes] / constants).view(shape).to(getattr(torch, dtype))"


# %% wrong any-length: doesn't compare the lengths with the shape
def dequantize_blocks(packed, absmax, codebook, block_size, shape, dtype):
    count = math.prod(shape)
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count].long()
    constants = absmax.repeat_interleave(block_size)[:count]
    if len(codes) < count or len(constants) < count:
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    return (codebook[codes] * constants).view(shape).to(getattr(torch, dtype))


# %% wrong visible-sizes: is right only for up to 8 numbers in blocks of 4
old = "    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count].long()"
new = """
    if count > 8 or block_size != 4:
        return torch.zeros(2, 4, dtype=getattr(torch, dtype))
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count].long()
"""


# %% wrong small-blocks: refuses more than 64 numbers in a block
def dequantize_blocks(packed, absmax, codebook, block_size, shape, dtype):
    n = math.prod(shape)
    if len(packed) != -(-n // 2) or len(absmax) != -(-n // block_size) or block_size > 64:
        raise ValueError("wrong length")
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:n].long()
    constants = absmax.repeat_interleave(block_size)[:n]
    return (codebook[codes] * constants).view(shape).to(getattr(torch, dtype))


# %% wrong no-small-constant: replaces small constants
def dequantize_blocks(packed, absmax, codebook, block_size, shape, dtype):
    n = math.prod(shape)
    if len(packed) != -(-n // 2) or len(absmax) != -(-n // block_size):
        raise ValueError("wrong length")
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:n].long()
    constants = absmax.clamp(min=1e-8).repeat_interleave(block_size)[:n]
    return (codebook[codes] * constants).view(shape).to(getattr(torch, dtype))


# %% wrong spare-code: looks up the four bits that belong to no number
old = "codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count].long()"
new = "levels = codebook[torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()][:count]"
old = "(codebook[codes] * constants)"
new = "(levels * constants)"


# %% wrong zero-constant: treats a constant of 0 as 1
old = "constants = absmax.repeat_interleave(block_size)[:count]"
new = "constants = absmax.where(absmax > 0, 1).repeat_interleave(block_size)[:count]"
