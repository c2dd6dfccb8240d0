# %% base default: a right answer, which the answers below change unless they name another base
def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):
    if block_size < 1 or (constants < 0).any():
        raise ValueError("bad input")
    offset = constants.mean().item() if subtract_mean else 0.0
    rest = constants - offset
    blocks = F.pad(rest, (0, -len(rest) % block_size)).view(-1, block_size)
    nested = blocks.abs().amax(dim=1)
    scaled = blocks / nested.clamp(min=1e-30)[:, None]
    codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2)
    return codes.flatten()[: len(rest)].to(torch.uint8), nested, offset


# %% right nearest-by-distance: compares each number with every level, block by block
def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):
    if block_size < 1 or constants.min() < 0:
        raise ValueError("bad input")
    offset = float(constants.mean()) if subtract_mean else 0
    codes, nested = [], []
    for block in (constants - offset).split(block_size):
        largest = block.abs().max()
        scaled = block / largest if largest > 0 else block
        codes.append((scaled[:, None] - codebook).abs().argmin(dim=1))
        nested.append(largest)
    return torch.cat(codes).to(torch.uint8), torch.stack(nested), offset


# %% right in-double: computes in float64, pads with the last number, divides zero by zero
def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):
    if block_size < 1:
        raise ValueError("block_size")
    if any(c < 0 for c in constants.tolist()):
        raise ValueError("negative")
    n, c = len(constants), constants.double()
    offset = c.mean() if subtract_mean else torch.tensor(0.0)
    rest = c - offset
    blocks = math.ceil(n / block_size)
    full = torch.cat([rest, rest[-1:].expand(blocks * block_size - n)]).view(blocks, block_size)
    nested = torch.maximum(full.max(1).values, -full.min(1).values)
    scaled = (full / nested.view(-1, 1)).view(-1)[:n]
    book = codebook.double()
    codes = torch.searchsorted((book[1:] + book[:-1]) / 2, scaled)
    return codes.byte(), nested.float(), offset.float()


# %% wrong no-mean: doesn't subtract the mean
def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):
    if block_size < 1 or (constants < 0).any():
        raise ValueError("bad input")
    blocks = F.pad(constants, (0, -len(constants) % block_size)).view(-1, block_size)
    nested = blocks.amax(dim=1)
    scaled = blocks / nested.clamp(min=1e-30)[:, None]
    codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2)
    return codes.flatten()[: len(constants)].to(torch.uint8), nested, 0.0


# %% wrong guarded: never divides by less than 0.01, though real constants are that small
old = "scaled = blocks / nested.clamp(min=1e-30)[:, None]"
new = "scaled = blocks / nested.clamp(min=0.01)[:, None]"


# %% wrong mean-a-block: subtracts the mean of each block
def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):
    if block_size < 1 or (constants < 0).any():
        raise ValueError("bad input")
    codes, nested = [], []
    for block in constants.split(block_size):
        rest = block - block.mean() if subtract_mean else block
        nested.append(rest.abs().max())
        scaled = rest / nested[-1].clamp(min=1e-30)
        codes.append(torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2))
    offset = constants.mean().item() if subtract_mean else 0.0
    return torch.cat(codes).to(torch.uint8), torch.stack(nested), offset


# %% wrong level-above: takes the levels themselves for borders
old = "scaled = blocks / nested.clamp(min=1e-30)[:, None]"
new = "codes = torch.bucketize(blocks / nested.clamp(min=1e-30)[:, None], codebook)"
old = "codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2)"
new = "codes = codes.clamp(max=len(codebook) - 1)"


# %% wrong padded-first: fills the last block with zeros before it subtracts the mean
old = "rest = constants - offset"
new = "padded = F.pad(constants, (0, -len(constants) % block_size))"
old = "blocks = F.pad(rest, (0, -len(rest) % block_size)).view(-1, block_size)"
new = "blocks = (padded - offset).view(-1, block_size)"
old = "return codes.flatten()[: len(rest)].to(torch.uint8), nested, offset"
new = "return codes.flatten()[: len(constants)].to(torch.uint8), nested, offset"


# %% wrong all-negative: lets a negative constant pass if another isn't
old = "if block_size < 1 or (constants < 0).any():"
new = "if block_size < 1 or (constants < 0).all():"


# %% right by-loops: goes through the constants one by one
def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):
    if block_size < 1 or any(constant < 0 for constant in constants.tolist()):
        raise ValueError("bad input")
    numbers, levels = constants.tolist(), codebook.tolist()
    offset = math.fsum(numbers) / len(numbers) if subtract_mean else 0
    rest, codes, nested = [number - offset for number in numbers], [], []
    for start in range(0, len(rest), block_size):
        block = rest[start : start + block_size]
        largest = max(map(abs, block))
        nested.append(largest)
        for number in block:
            scaled = number / largest if largest else 0
            codes.append(min(range(len(levels)), key=lambda i: abs(levels[i] - scaled)))
    return torch.tensor(codes, dtype=torch.uint8), torch.tensor(nested), offset


# %% wrong largest-value: takes the largest value of a block, not the largest absolute value
old = "nested = blocks.abs().amax(dim=1)"
new = "nested = blocks.amax(dim=1)"


# %% wrong level-below: takes the level below
old = "codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2)"
new = "codes = (torch.bucketize(scaled, codebook, right=True) - 1).clamp(min=0)"


# %% wrong equal-steps: rounds as if the levels were equally spaced
old = "codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2)"
new = "codes = ((scaled + 1) / 2 * (len(codebook) - 1)).round().clamp(0, 255)"


# %% wrong always-subtracts: ignores subtract_mean
old = "offset = constants.mean().item() if subtract_mean else 0.0"
new = "offset = constants.mean().item()"


# %% wrong wide-codes: returns the codes as int64
old = "return codes.flatten()[: len(rest)].to(torch.uint8), nested, offset"
new = "return codes.flatten()[: len(rest)], nested, offset"


# %% wrong reciprocal: returns 1 divided by the nested constants
old = "return codes.flatten()[: len(rest)].to(torch.uint8), nested, offset"
new = "return codes.flatten()[: len(rest)].to(torch.uint8), 1 / nested.clamp(min=1e-30), offset"


# %% wrong padding-stays: returns the codes of the zeros that fill the last block up
old = "return codes.flatten()[: len(rest)].to(torch.uint8), nested, offset"
new = "return codes.flatten().to(torch.uint8), nested, offset"


# %% wrong view: can only handle whole blocks
old = "blocks = F.pad(rest, (0, -len(rest) % block_size)).view(-1, block_size)"
new = "blocks = rest.view(-1, block_size)"


# %% wrong one-nested: scales all blocks with the same nested constant
old = "nested = blocks.abs().amax(dim=1)"
new = "nested = rest.abs().max().expand(len(blocks))"


# %% wrong mean-with-zeros: counts the zeros that fill the last block up in the mean
old = "    offset = constants.mean().item() if subtract_mean else 0.0"
new = """
    offset = (
        F.pad(constants, (0, -len(constants) % block_size)).mean().item() if subtract_mean else 0.0
    )
"""


# %% wrong float16: rounds the quotients to float16
old = "scaled = blocks / nested.clamp(min=1e-30)[:, None]"
new = "scaled = (blocks / nested.clamp(min=1e-30)[:, None]).half().float()"


# %% wrong blocks-of-two: raises for nested blocks of one constant
old = "if block_size < 1 or (constants < 0).any():"
new = "if block_size < 2 or (constants < 0).any():"


# %% wrong other-default: has nested blocks of 64 constants by default
old = "def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):"
new = "def quantize_constants(constants, codebook, block_size=64, subtract_mean=True):"


# %% wrong all-zero: handles zeros only if all numbers are 0
def quantize_constants(constants, codebook, block_size=256, subtract_mean=True):
    if block_size < 1 or (constants < 0).any():
        raise ValueError("bad input")
    offset = constants.mean().item() if subtract_mean else 0.0
    rest, codes, nested = (constants - offset).tolist(), [], []
    is_zero = not any(rest)
    for start in range(0, len(rest), block_size):
        block = rest[start : start + block_size]
        nested.append(max(map(abs, block)))
        scaled = block if is_zero else [number / nested[-1] for number in block]
        codes += [(codebook.double() - number).abs().argmin().item() for number in scaled]
    return torch.tensor(codes, dtype=torch.uint8), torch.tensor(nested), offset


# %% wrong plus-1e-8: adds a small number to each nested constant
old = "nested.clamp(min=1e-30)[:, None]"
new = "(nested + 1e-8)[:, None]"


# %% wrong negative-with-mean: accepts negative constants if the mean isn't subtracted
old = "if block_size < 1 or (constants < 0).any():"
new = "if block_size < 1 or subtract_mean and (constants < 0).any():"
