# %% right whole-blocks: fills the blocks where it can, and uses other ranges
def separating_input(fault, bits, block_size):
    top = 2**bits - 1
    block = torch.full((block_size,), 5.0)
    block[0] = -5
    if fault == "padding":
        return torch.tensor([-7.0, -6.5, -7.0])
    if fault == "absmax":
        return block.clamp(min=2)
    if fault == "global":
        return torch.cat([block, torch.tensor([3.0, -3.0])])
    if fault == "rows":
        return block[: block_size // 2 * 2].view(2, -1)[:, : max(1, block_size // 2 - 1)]
    share = 0.6 / top if fault == "truncation" else 1 - 0.7 / top
    block[1] = 10 * share - 5
    return block


# %% right search: tries random tensors with an implementation of each fault
def implementation(x, bits, block_size, fault):
    rows = x.tolist() if fault == "rows" and x.ndim == 2 else [x.flatten().tolist()]
    found, every = [], x.flatten().tolist()
    for block in (row[n : n + block_size] for row in rows for n in range(0, len(row), block_size)):
        known = every if fault == "global" else list(block)
        if fault == "padding" and len(block) < block_size:
            known = [*known, 0.0]
        low = -max(map(abs, known)) if fault == "absmax" else min(known)
        steps, width = 2**bits - (fault != "steps"), max(known) - low or 1
        rounded = math.floor if fault == "truncation" else round
        codes = [min(rounded(steps * (number - low) / width), 2**bits - 1) for number in block]
        found.append((codes, low, max(known)))
    return found


def separating_input(fault, bits, block_size):
    faults = ("padding", "absmax", "global", "rows", "truncation", "steps")
    draw = torch.Generator().manual_seed(0)
    while True:
        ends = torch.randint(-2, 3, (2,), generator=draw)
        kind = torch.randint(3, (1,), generator=draw).item()
        x = ends[torch.randint(2, (block_size + 2,), generator=draw)].float()
        if kind == 0:
            x = x[:2].view(2, 1)
        if kind == 1:
            x = torch.cat([x[:2], ends.min() + torch.rand(1, generator=draw) * ends.diff().abs()])
        if kind == 2 and fault == "global":
            x[-2:] = x[-2:] * 2
        right = implementation(x, bits, block_size, "")
        wrong = [f for f in faults if implementation(x, bits, block_size, f) != right]
        if wrong == [fault]:
            return x


# %% wrong constants: ignores the number of bits and the block size
def separating_input(fault, bits, block_size):
    return {
        "padding": torch.tensor([-2.0, -1.0]),
        "absmax": torch.tensor([0.0, 1.0]),
        "global": torch.tensor([-1.0, *[1.0] * 31, -2.0, 2.0]),
        "rows": torch.tensor([[-1.0], [1.0]]),
        "truncation": torch.tensor([-1.0, -0.92, 1.0]),
        "steps": torch.tensor([-1.0, 1 - 1.4 / 15, 1.0]),
    }[fault]


# %% wrong random: hopes that random numbers find every fault
def separating_input(fault, bits, block_size):
    numbers = torch.randn(block_size // 2 * 2 + 2, generator=torch.Generator().manual_seed(0))
    return numbers.view(2, -1) if fault == "rows" else numbers


# %% wrong several: finds each fault, but other faults change the result, too
def separating_input(fault, bits, block_size):
    step = 1 / (2**bits - 1)
    inputs = {
        "padding": [1.0, 2.0],
        "absmax": [1.0, 2.0],
        "global": [*[0.0] * (block_size - 1), 1.0, 0.0, 2.0],
        "rows": [[1.0], [2.0]],
        "truncation": [0.0, 0.6 * step, 1.0],
        "steps": [0.0, 1 - 0.55 * step, 1.0],
    }
    return torch.tensor(inputs[fault])


# %% wrong long: uses more numbers than are allowed
old = '"global": [-1.0] + [1.0] * (block_size - 1) + [-2.0, 2.0],'
new = '"global": [-1.0, 1.0] * block_size + [-2.0, 2.0] * block_size,'


# %% wrong float64: returns tensors of another dtype
old = "return torch.tensor(inputs[fault])"
new = "return torch.tensor(inputs[fault], dtype=torch.float64)"


# %% wrong infinite: uses infinity to change as much as possible
def separating_input(fault, bits, block_size):
    if fault == "rows":
        return torch.tensor([[float("-inf")], [float("inf")]])
    return torch.tensor([float("inf")] * block_size + [1.0, 2.0])


# %% wrong visible-sizes: is right only for 4 bits and blocks of 32
def separating_input(fault, bits, block_size):
    step = 2 / 15
    inputs = {
        "padding": [-2.0, -1.0],
        "absmax": [0.0, 1.0],
        "global": [-1.0] + [1.0] * 31 + [-2.0, 2.0],
        "rows": [[-1.0], [1.0]],
        "truncation": [-1.0, 0.6 * step - 1, 1.0],
        "steps": [-1.0, 1 - 0.7 * step, 1.0],
    }
    return torch.tensor(inputs[fault] if (bits, block_size) == (4, 32) else [0.0])


# %% wrong not-the-largest: fails for the largest block size
def separating_input(fault, bits, block_size):
    step = 2 / (2**bits - 1)
    return torch.tensor(
        {
            "padding": [-2.0, -1.0] if block_size < 64 else [-1.0, 1.0],
            "absmax": [0.0, 1.0],
            "global": [-1.0] + [1.0] * (block_size - 1) + [-2.0, 2.0],
            "rows": [[-1.0], [1.0]],
            "truncation": [-1.0, 0.6 * step - 1, 1.0],
            "steps": [-1.0, 1 - 0.7 * step, 1.0],
        }[fault]
    )
