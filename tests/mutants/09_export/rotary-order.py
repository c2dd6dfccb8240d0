# %% base default: a right answer, which the answers below change unless they name another base
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


# %% right index: selects rows by their positions
def _positions(count, heads, back):
    if heads < 1 or count == 0 or count % (2 * heads) != 0:
        raise ValueError("these heads don't fit")
    d = count // heads
    one = [i // 2 + (i % 2) * (d // 2) for i in range(d)]
    if back:
        one = sorted(range(d), key=lambda i: one[i])
    return [head * d + i for head in range(heads) for i in one]


def interleave(rows, heads):
    return rows[_positions(len(rows), heads, False)]


def separate(rows, heads):
    return rows[_positions(len(rows), heads, True)]


# %% right stack: stacks the halves of all heads
def interleave(rows, heads):
    if heads <= 0 or rows.shape[0] % heads or (rows.shape[0] // heads) % 2:
        raise ValueError(f"{heads} heads")
    d = rows.shape[0] // heads
    one = rows.unflatten(0, (heads, d))
    return torch.stack([one[:, : d // 2], one[:, d // 2 :]], dim=2).reshape(rows.shape)


def separate(rows, heads):
    if heads <= 0 or rows.shape[0] % heads or (rows.shape[0] // heads) % 2:
        raise ValueError(f"{heads} heads")
    one = rows.unflatten(0, (heads, rows.shape[0] // heads))
    return torch.cat([one[:, 0::2], one[:, 1::2]], dim=1).reshape(rows.shape)


# %% right loop: copies row after row
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("wrong number of heads")
    result, d = rows.clone(), len(rows) // heads
    for start in range(0, len(rows), d):
        for i in range(d // 2):
            result[start + 2 * i] = rows[start + i]
            result[start + 2 * i + 1] = rows[start + d // 2 + i]
    return result


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("wrong number of heads")
    result, d = rows.clone(), len(rows) // heads
    for start in range(0, len(rows), d):
        for i in range(d // 2):
            result[start + i] = rows[start + 2 * i]
            result[start + d // 2 + i] = rows[start + 2 * i + 1]
    return result


# %% wrong exchanged: exchanges the two directions
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


# %% wrong one-head: treats all rows as one head
old = "return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows.reshape(2, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)"
old = "return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows.reshape(-1, 2, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)"


# %% wrong unchanged: only checks the heads
old = "return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows"
old = "return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows"


# %% wrong second-first: puts the row of the second half first
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:]).flip(1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:]).flip(2)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


# %% wrong columns: reorders the last dimension
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    halves = rows.reshape(*rows.shape[:-1], heads, 2, -1)
    return halves.swapaxes(-1, -2).reshape(rows.shape)


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    pairs = rows.reshape(*rows.shape[:-1], heads, -1, 2)
    return pairs.swapaxes(-1, -2).reshape(rows.shape)


# %% wrong heads-exchanged: exchanges heads with the rows of a head
old = "return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows.reshape(heads, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)"
old = "return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows.reshape(-1, heads, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)"


# %% wrong same-both-ways: uses the same function for the way back
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    return interleave(rows, heads)


# %% wrong no-bias: fails for a bias, which has one dimension
old = "return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)"
old = "return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)"
new = "return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)"


# %% wrong float: converts the rows to float32
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    halves = rows.float().reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    pairs = rows.float().reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


# %% wrong no-error: doesn't check the number of heads
def interleave(rows, heads):
    d = len(rows) // max(heads, 1)
    order = [half + i for i in range(d // 2) for half in (0, d // 2)]
    return rows[[h * d + p for h in range(heads) for p in order]]


def separate(rows, heads):
    d = len(rows) // max(heads, 1)
    order = [*range(0, d, 2), *range(1, d, 2)]
    return rows[[h * d + p for h in range(heads) for p in order]]


# %% wrong odd-width: accepts heads with an odd number of rows
def interleave(rows, heads):
    if heads < 1 or len(rows) % heads:
        raise ValueError("heads")
    d = len(rows) // heads
    order = [half + i for i in range((d + 1) // 2) for half in (0, (d + 1) // 2) if half + i < d]
    return rows[[h * d + p for h in range(heads) for p in order]]


def separate(rows, heads):
    if heads < 1 or len(rows) % heads:
        raise ValueError("heads")
    d = len(rows) // heads
    order = [*range(0, d, 2), *range(1, d, 2)]
    return rows[[h * d + p for h in range(heads) for p in order]]


# %% wrong last-width: is right only for one or two dimensions
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    width = rows.shape[-1] if rows.dim() > 1 else 1
    return rows.reshape(heads, 2, -1, width).swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("heads")
    width = rows.shape[-1] if rows.dim() > 1 else 1
    return rows.reshape(heads, -1, 2, width).swapaxes(1, 2).reshape(rows.shape)


# %% right argsort: sorts the rows by position
def interleave(rows, heads):
    if heads < 1 or rows.shape[0] % heads or rows.shape[0] // heads % 2:
        raise ValueError("heads")
    d = rows.shape[0] // heads
    i = torch.arange(rows.shape[0])
    head, inside = i // d, i % d
    return rows[torch.argsort(head * d + 2 * (inside % (d // 2)) + inside // (d // 2))]


def separate(rows, heads):
    if heads < 1 or rows.shape[0] % heads or rows.shape[0] // heads % 2:
        raise ValueError("heads")
    d = rows.shape[0] // heads
    i = torch.arange(rows.shape[0])
    head, inside = i // d, i % d
    return rows[torch.argsort(head * d + inside // 2 + (inside % 2) * (d // 2))]


# %% wrong through-float32: computes in float32 and converts the result
def interleave(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("no even heads")
    halves = rows.float().reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape).to(rows.dtype)


def separate(rows, heads):
    if heads < 1 or len(rows) % (2 * heads):
        raise ValueError("no even heads")
    pairs = rows.float().reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape).to(rows.dtype)


# %% wrong three-dimensions: refuses rows with four dimensions
def interleave(rows, heads):
    if rows.dim() > 3 or heads < 1 or len(rows) % (2 * heads):
        raise ValueError("no even heads")
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    if rows.dim() > 3 or heads < 1 or len(rows) % (2 * heads):
        raise ValueError("no even heads")
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
