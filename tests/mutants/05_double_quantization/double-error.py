# %% right block-by-block: adds the squares of each block up
def double_error(weights, codes, codebook, exact, double, block_size=64):
    if len(weights) != len(codes):
        raise ValueError("weights and codes")
    if len(exact) != len(double):
        raise ValueError("constants")
    squares = [0.0, 0.0]
    for k, (w, code) in enumerate(zip(weights.split(block_size), codes.split(block_size))):
        level = codebook[code.int()]
        for way, constant in enumerate((exact[k], double[k])):
            squares[way] += ((level * constant - w) ** 2).sum().item()
    nf4, doubled = (total / len(weights) for total in squares)
    return {"nf4": nf4, "double": doubled, "rise": (doubled - nf4) / nf4}


# %% right by-mse-loss: PyTorch's loss, an index for the blocks, tensors of one number
def double_error(weights, codes, codebook, exact, double, block_size=64):
    if codes.shape != weights.shape or exact.shape != double.shape:
        raise ValueError("shapes")
    levels = codebook.gather(0, codes.long())
    block = torch.arange(len(weights)) // block_size
    errors = {
        "nf4": F.mse_loss(levels * exact[block], weights),
        "double": F.mse_loss(levels * double[block], weights),
    }
    errors["rise"] = errors["double"] / errors["nf4"] - 1
    return errors


# %% wrong against-nf4: measures against NF4's weights, not the original ones
def double_error(weights, codes, codebook, exact, double, block_size=64):
    if len(weights) != len(codes) or len(exact) != len(double):
        raise ValueError("lengths")
    levels = codebook[codes.long()]
    once = levels * exact.repeat_interleave(block_size)[: len(weights)]
    twice = levels * double.repeat_interleave(block_size)[: len(weights)]
    nf4 = (once - weights).square().mean().item()
    added = (twice - once).square().mean().item()
    return {"nf4": nf4, "double": added, "rise": added / nf4}


# %% wrong root: takes the root of the mean squared error
old = "return (codebook[codes.long()] * scale - weights).square().mean().item()"
new = "return (codebook[codes.long()] * scale - weights).square().mean().sqrt().item()"


# %% wrong per-cent: gives the rise in per cent
old = 'return {"nf4": nf4, "double": doubled, "rise": doubled / nf4 - 1}'
new = 'return {"nf4": nf4, "double": doubled, "rise": 100 * (doubled / nf4 - 1)}'


# %% wrong share-of-double: divides the difference by the larger error
old = 'return {"nf4": nf4, "double": doubled, "rise": doubled / nf4 - 1}'
new = 'return {"nf4": nf4, "double": doubled, "rise": (doubled - nf4) / doubled}'


# %% wrong alternating: gives the blocks' constants to the weights in turn
old = "scale = constants.repeat_interleave(block_size)[: len(weights)]"
new = "scale = constants.repeat(block_size)[: len(weights)]"


# %% wrong never-negative: takes the absolute value of the rise
old = 'return {"nf4": nf4, "double": doubled, "rise": doubled / nf4 - 1}'
new = 'return {"nf4": nf4, "double": doubled, "rise": abs(doubled - nf4) / nf4}'


# %% right padded: arranges blocks as rows, and divides by the number of weights
def double_error(weights, codes, codebook, exact, double, block_size=64):
    if len(weights) - len(codes) or len(exact) - len(double):
        raise ValueError("lengths")
    missing = -len(weights) % block_size
    levels = F.pad(codebook[codes.int()], (0, missing)).view(-1, block_size)
    original = F.pad(weights, (0, missing)).view(-1, block_size)
    nf4, doubled = (
        float((levels * c.unsqueeze(1) - original).pow(2).sum()) / len(weights)
        for c in (exact, double)
    )
    return {"rise": doubled / nf4 - 1.0, "nf4": nf4, "double": doubled}


# %% wrong sum: returns the sum of the squared errors
old = "return (codebook[codes.long()] * scale - weights).square().mean().item()"
new = "return (codebook[codes.long()] * scale - weights).square().sum().item()"


# %% wrong absolute: returns the mean absolute error
old = "return (codebook[codes.long()] * scale - weights).square().mean().item()"
new = "return (codebook[codes.long()] * scale - weights).abs().mean().item()"


# %% wrong ratio: returns the ratio of the errors as the rise
old = 'return {"nf4": nf4, "double": doubled, "rise": doubled / nf4 - 1}'
new = 'return {"nf4": nf4, "double": doubled, "rise": doubled / nf4}'


# %% wrong difference: returns the difference of the errors as the rise
old = 'return {"nf4": nf4, "double": doubled, "rise": doubled / nf4 - 1}'
new = 'return {"nf4": nf4, "double": doubled, "rise": doubled - nf4}'


# %% wrong first-constant: uses the first constant for all blocks
old = "scale = constants.repeat_interleave(block_size)[: len(weights)]"
new = "scale = constants[0]"


# %% wrong mask: looks up with uint8, which PyTorch takes for a mask
old = "return (codebook[codes.long()] * scale - weights).square().mean().item()"
new = "return (codebook[codes] * scale - weights).square().mean().item()"


# %% wrong blocks-of-64: ignores block_size
old = "scale = constants.repeat_interleave(block_size)[: len(weights)]"
new = "scale = constants.repeat_interleave(64)[: len(weights)]"


# %% wrong weights-only: compares the lengths of weights and codes, but not of the constants
old = "if len(weights) != len(codes) or len(exact) != len(double):"
new = "if len(weights) != len(codes):"


# %% wrong rounded: rounds the errors to six decimals
old = 'return {"nf4": nf4, "double": doubled, "rise": doubled / nf4 - 1}'
new = 'return {"nf4": round(nf4, 6), "double": round(doubled, 6), "rise": doubled / nf4 - 1}'


# %% wrong blocks-of-two: raises for blocks of one weight
old = "if len(weights) != len(codes) or len(exact) != len(double):"
new = "if len(weights) != len(codes) or len(exact) != len(double) or block_size < 2:"
