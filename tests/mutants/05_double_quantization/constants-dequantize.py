# %% base default: a right answer, which the answers below change unless they name another base
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):
        raise ValueError("one nested constant a block")
    scale = nested.repeat_interleave(block_size)[: len(codes)]
    return codebook[codes.long()] * scale + offset


# %% right block-by-block: splits the codes and joins the blocks
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1:
        raise ValueError("block_size")
    blocks = codes.split(block_size)
    if len(blocks) != len(nested):
        raise ValueError("nested")
    back = [codebook[block.int()] * scale for block, scale in zip(blocks, nested, strict=True)]
    return torch.cat(back) + offset


# %% right index-of-the-block: each code finds its nested constant by division
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size <= 0 or len(nested) != -(-len(codes) // block_size):
        raise ValueError("one nested constant a block")
    block = torch.arange(len(codes)) // block_size
    return torch.addcmul(
        torch.full((len(codes),), float(offset)), codebook[codes.long()], nested[block]
    )


# %% wrong no-offset: forgets the offset
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):
        raise ValueError("one nested constant a block")
    return codebook[codes.long()] * nested.repeat_interleave(block_size)[: len(codes)]


# %% wrong offset-first: adds the offset before it multiplies
old = "return codebook[codes.long()] * scale + offset"
new = "return (codebook[codes.long()] + offset) * scale"


# %% wrong alternating: repeats all nested constants in turn
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):
        raise ValueError("one nested constant a block")
    return codebook[codes.long()] * nested.repeat(block_size)[: len(codes)] + offset


# %% wrong mask: indexes with uint8, which PyTorch takes for a mask
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):
        raise ValueError("one nested constant a block")
    return codebook[codes] * nested.repeat_interleave(block_size)[: len(codes)] + offset


# %% wrong whole-blocks: takes only whole blocks
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):
        raise ValueError("one nested constant a block")
    whole = len(codes) // block_size
    blocks = codebook[codes[: whole * block_size].long()].view(whole, block_size)
    return (blocks * nested[:whole, None]).flatten() + offset


# %% wrong enough: lets spare nested constants pass
old = "if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):"
new = "if block_size < 1 or len(nested) * block_size < len(codes):"


# %% right padded: fills the last block up and multiplies row by row
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1:
        raise ValueError("block_size")
    padded = F.pad(codes, (0, -len(codes) % block_size)).view(-1, block_size)
    if len(padded) != len(nested):
        raise ValueError("nested")
    restored = codebook.take(padded.long()) * nested.unsqueeze(1) + offset
    return restored.flatten()[: len(codes)]


# %% wrong view: can only handle whole blocks
old = "scale = nested.repeat_interleave(block_size)[: len(codes)]"
new = "levels = codebook[codes.long()].view(-1, block_size)"
old = "return codebook[codes.long()] * scale + offset"
new = "return (levels * nested[:, None]).flatten() + offset"


# %% wrong one-for-all: multiplies everything by the first nested constant
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):
        raise ValueError("one nested constant a block")
    return codebook[codes.long()] * nested[0] + offset


# %% wrong divides: divides by the nested constants
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):
        raise ValueError("one nested constant a block")
    return codebook[codes.long()] / nested.repeat_interleave(block_size)[: len(codes)] + offset


# %% wrong subtracts: subtracts the offset
old = "return codebook[codes.long()] * scale + offset"
new = "return codebook[codes.long()] * scale - offset"


# %% wrong double-precision: returns float64
old = "scale = nested.repeat_interleave(block_size)[: len(codes)]"
new = "scale = nested.double().repeat_interleave(block_size)[: len(codes)]"


# %% wrong no-errors: never raises an error
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    block = torch.arange(len(codes)) // max(block_size, 1)
    return codebook[codes.long()] * nested[block.clamp(max=len(nested) - 1)] + offset


# %% wrong guarded: never multiplies by less than 0.01
old = "scale = nested.repeat_interleave(block_size)[: len(codes)]"
new = "scale = nested.clamp(min=0.01).repeat_interleave(block_size)[: len(codes)]"


# %% wrong zero-refused: raises for a nested constant of 0
old = "block_size < 1 or len(nested) != math.ceil(len(codes) / block_size):"
new = "block_size < 1 or len(nested) != math.ceil(len(codes) / block_size) or (nested <= 0).any():"


# %% wrong bfloat16: converts the nested constants to bfloat16
old = "scale = nested.repeat_interleave(block_size)[: len(codes)]"
new = "scale = nested.bfloat16().float().repeat_interleave(block_size)[: len(codes)]"


# %% wrong one-per-code: accepts a nested constant for each code
def dequantize_constants(codes, nested, offset, codebook, block_size=256):
    if block_size < 1:
        raise ValueError("block_size")
    if len(nested) != len(codes):
        if len(nested) != math.ceil(len(codes) / block_size):
            raise ValueError("one nested constant a block")
        nested = nested.repeat_interleave(block_size)[: len(codes)]
    return codebook[codes.long()] * nested + offset
