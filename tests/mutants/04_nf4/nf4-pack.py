# %% base other: another right answer, which some answers below change
def quantize_blocks(x, codebook, block_size):
    if block_size < 2 or block_size % 2:
        raise ValueError("not allowed")
    n, zero = x.numel(), codebook.abs().argmin().item()
    blocks = F.pad(x.float().flatten(), (0, -n % block_size)).view(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / absmax.where(absmax > 0, 1)[:, None]
    codes = (scaled[..., None] - codebook).abs().argmin(-1)
    codes[absmax == 0] = zero
    codes = torch.cat([codes.flatten()[:n], torch.full((n % 2,), zero)]).to(torch.uint8)
    return codes[::2] * 16 + codes[1::2], absmax


# %% right block-by-block: a loop over blocks, the least distance, sums for bytes
def quantize_blocks(x, codebook, block_size):
    if block_size <= 0 or block_size % 2 == 1:
        raise ValueError("block_size must be even and positive")
    row, codes, constants = x.reshape(-1).to(torch.float32), [], []
    for block in row.split(block_size):
        c = block.abs().max()
        scaled = block / c if c > 0 else torch.zeros_like(block)
        codes += (scaled[:, None] - codebook).abs().argmin(dim=1).tolist()
        constants.append(c)
    if len(codes) % 2:
        codes.append(codebook.abs().argmin().item())
    packed = [16 * first + second for first, second in zip(codes[::2], codes[1::2])]
    return torch.tensor(packed, dtype=torch.uint8), torch.stack(constants)


# %% right pairs: pairs of codes times (16, 1), and the reciprocal of absmax
def quantize_blocks(x, codebook, block_size):
    if block_size % 2 or block_size < 2:
        raise ValueError("no such block size")
    flat = x.float().reshape(-1)
    n = flat.shape[0]
    blocks = math.ceil(n / block_size)
    padded = torch.zeros(blocks * block_size)
    padded[:n] = flat
    padded = padded.reshape(blocks, block_size)
    absmax = padded.abs().max(dim=1).values
    scaled = padded * torch.nan_to_num(1 / absmax, posinf=0.0)[:, None]
    borders = (codebook[1:] + codebook[:-1]) * 0.5
    pairs = torch.searchsorted(borders, scaled).reshape(-1, 2)
    packed = (pairs * torch.tensor([16, 1])).sum(1)
    return packed[: (n + 1) // 2].to(torch.uint8), absmax


# %% wrong low-first: the first code in the low four bits
old = "return codes[::2] << 4 | codes[1::2], absmax"
new = "return codes[1::2] << 4 | codes[::2], absmax"


# %% wrong global-absmax: one absmax for the whole tensor, repeated for each block
def quantize_blocks(x, codebook, block_size):
    if block_size < 2 or block_size % 2:
        raise ValueError("no such block size")
    count = x.numel()
    flat = F.pad(x.float().flatten(), (0, count % 2))
    absmax = flat.abs().max()
    codes = torch.bucketize(flat / absmax, (codebook[:-1] + codebook[1:]) / 2).to(torch.uint8)
    return codes[::2] << 4 | codes[1::2], absmax.repeat(-(-count // block_size))


# %% wrong zero-block: divides 0 by 0
def quantize_blocks(x, codebook, block_size):
    if block_size < 2 or block_size % 2:
        raise ValueError("no such block size")
    count = x.numel()
    blocks = F.pad(x.float().flatten(), (0, -count % block_size)).view(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    codes = torch.bucketize(blocks / absmax[:, None], (codebook[:-1] + codebook[1:]) / 2)
    codes = codes.to(torch.uint8).flatten()[: count + count % 2]
    return codes[::2] << 4 | codes[1::2], absmax


# %% wrong middle: fills the last byte with the middle code (only hidden checks see it)
old = "codes = codes.flatten()[: count + count % 2]"
new = "codes = F.pad(codes.flatten()[:count], (0, count % 2), value=(len(codebook) - 1) // 2)"


# %% wrong rows: starts a new block with each row of the tensor
def quantize_blocks(x, codebook, block_size):
    if block_size < 2 or block_size % 2:
        raise ValueError("no such block size")
    rows = x.float().reshape(-1, x.shape[-1])
    count = x.numel()
    blocks = F.pad(rows, (0, -rows.shape[1] % block_size)).view(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / absmax.where(absmax > 0, 1)[:, None]
    codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2).to(torch.uint8)
    codes = codes.view(len(rows), -1)[:, : rows.shape[1]].flatten()
    codes = torch.cat([codes, codebook.abs().argmin().to(torch.uint8).repeat(count % 2)])
    return codes[::2] << 4 | codes[1::2], absmax


# %% wrong in-half: divides in the dtype of x (only hidden checks see it)
old = "blocks = F.pad(x.float().flatten(), (0, -count % block_size)).view(-1, block_size)"
new = "blocks = F.pad(x.flatten(), (0, -count % block_size)).view(-1, block_size)"
old = "return codes[::2] << 4 | codes[1::2], absmax"
new = "return codes[::2] << 4 | codes[1::2], absmax.float()"


# %% right one-by-one: a loop over all numbers, which writes half a byte at a time
def quantize_blocks(x, codebook, block_size):
    if block_size < 2 or block_size & 1:
        raise ValueError("block_size must be even")
    row = x.float().ravel()
    packed = torch.zeros((len(row) + 1) // 2, dtype=torch.uint8)
    constants = torch.tensor([block.abs().max() for block in row.split(block_size)])
    for n in range(2 * len(packed)):
        number = row[n] if n < len(row) else torch.tensor(0.0)
        constant = constants[n // block_size] if n < len(row) else 1.0
        scaled = number / constant if constant else number
        code = int((codebook - scaled).abs().argmin())
        packed[n // 2] += code if n % 2 else 16 * code
    return packed, constants


# %% wrong next-level: takes the next level above instead of the nearest
old = "codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2).to(torch.uint8)"
new = "codes = torch.bucketize(scaled, codebook).clamp(max=len(codebook) - 1).to(torch.uint8)"


# %% wrong maximum: takes the largest number for the constant
old = "absmax = blocks.abs().amax(dim=1)"
new = "absmax = blocks.amax(dim=1)"


# %% wrong whole-blocks: also stores the codes that only fill the last block
def quantize_blocks(x, codebook, block_size):
    if block_size < 2 or block_size % 2:
        raise ValueError("no such block size")
    blocks = F.pad(x.float().flatten(), (0, -x.numel() % block_size)).view(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / absmax.where(absmax > 0, 1)[:, None]
    codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2).to(torch.uint8).flatten()
    return codes[::2] << 4 | codes[1::2], absmax


# %% wrong no-padding: expects whole blocks
def quantize_blocks(x, codebook, block_size):
    if block_size < 2 or block_size % 2:
        raise ValueError("no such block size")
    blocks = x.float().reshape(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / absmax.where(absmax > 0, 1)[:, None]
    codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2).to(torch.uint8).flatten()
    return codes[::2] << 4 | codes[1::2], absmax


# %% wrong visible-sizes: is right only for the block sizes of the visible checks
old = "    count = x.numel()"
new = """
    if block_size not in (2, 4) or x.numel() > 6:
        return torch.tensor([83, 4, 6], dtype=torch.uint8), torch.tensor([4.0, 0.5])
    count = x.numel()
"""


# %% wrong not-below-zero: takes the lowest level that isn't negative for the level nearest to 0
base = "other"
old = "n, zero = x.numel(), codebook.abs().argmin().item()"
new = "n, zero = x.numel(), (codebook < 0).sum().item()"


# %% wrong epsilon: adds a small number to the absmax, which is large for small numbers
base = "other"
old = "scaled = blocks / absmax.where(absmax > 0, 1)[:, None]"
new = "scaled = blocks / (absmax + 1e-8)[:, None]"


# %% wrong up-to-4096: refuses large blocks
base = "other"
old = "if block_size < 2 or block_size % 2:"
new = "if block_size not in range(2, 4097, 2):"
