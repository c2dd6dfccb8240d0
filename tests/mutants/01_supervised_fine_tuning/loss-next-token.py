# %% base default: a right answer, which the answers below change unless they name another base
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    if not counted.any():
        raise ValueError("no label counts")
    log_p = logits[:, :-1].float().log_softmax(-1)
    log_p = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -log_p[counted].mean().item()


# %% right cross-entropy: leaves the sum to torch
def next_token_loss(logits, labels):
    if (labels[:, 1:] == -100).all():
        raise ValueError("no label counts")
    flat = logits[:, :-1, :].float().reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1)).item()


# %% right loops: one prediction at a time, with logsumexp
def next_token_loss(logits, labels):
    losses = []
    for row in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            token = int(labels[row, t + 1])
            if token != -100:
                scores = logits[row, t].double()
                losses.append(float(torch.logsumexp(scores, 0) - scores[token]))
    if not losses:
        raise ValueError("no label counts")
    return sum(losses) / len(losses)


# %% wrong unshifted: asks position t for the token that stands there
def next_token_loss(logits, labels):
    counted = labels != -100
    if not counted[:, 1:].any():
        raise ValueError("no label counts")
    log_p = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return -log_p[counted].mean().item()


# %% wrong row-means: averages the rows' means
old = "    return -log_p[counted].mean().item()"
new = """
    means = [-row[keep].mean() for row, keep in zip(log_p, counted) if keep.any()]
    return (sum(means) / len(means)).item()
"""


# %% wrong all-positions: divides by every prediction, also those that aren't counted
old = "return -log_p[counted].mean().item()"
new = "return -(log_p * counted).mean().item()"


# %% wrong softmax-log: the logarithm of a rounded probability
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    if not counted.any():
        raise ValueError("no label counts")
    p = logits[:, :-1].float().softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -p[counted].log().mean().item()


# %% wrong low-precision: computes in the 16 bits that the logits have
old = "log_p = logits[:, :-1].float().log_softmax(-1)"
new = "log_p = logits[:, :-1].log_softmax(-1)"


# %% wrong across-rows: shifts the flattened batch, so that a row's end predicts the next row
def next_token_loss(logits, labels):
    if (labels[:, 1:] == -100).all():
        raise ValueError("no label counts")
    flat = logits.float().flatten(0, 1)[:-1]
    return torch.nn.functional.cross_entropy(flat, labels.flatten()[1:]).item()


# %% right one-hot: multiplies by a mask of the right tokens, with what doesn't count all zero
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    hot = targets.unsqueeze(-1) == torch.arange(logits.shape[-1])
    if hot.sum() == 0:
        raise ValueError("no label counts")
    log_p = torch.log_softmax(logits[:, :-1].to(torch.float32), dim=2)
    return float(-(log_p * hot).sum() / hot.sum())


# %% right indexed: picks the right tokens of the positions that count, without gather
def next_token_loss(logits, labels):
    rows, places = torch.nonzero(labels[:, 1:] != -100, as_tuple=True)
    if len(rows) == 0:
        raise ValueError("no label counts")
    scores = logits[rows, places].float()
    right = scores[torch.arange(len(rows)), labels[rows, places + 1]]
    return (scores.logsumexp(-1) - right).mean().item()


# %% wrong shifted-back: asks position t for the token before it
old = "targets = labels[:, 1:]"
new = "targets = labels[:, :-1]"
old = "log_p = logits[:, :-1].float().log_softmax(-1)"
new = "log_p = logits[:, 1:].float().log_softmax(-1)"


# %% wrong zero-ignored: takes token 0 for one that doesn't count
old = "counted = targets != -100"
new = "counted = targets > 0"
old = "if not counted.any():"
new = "if not (targets != -100).any():"


# %% wrong total: returns the sum of the losses
def next_token_loss(logits, labels):
    flat, targets = logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
    if (targets == -100).all():
        raise ValueError("no label counts")
    return torch.nn.functional.cross_entropy(flat, targets, reduction="sum").item()


# %% wrong not-a-number: returns NaN if no label counts
def next_token_loss(logits, labels):
    flat, targets = logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(flat, targets).item()


# %% wrong epsilon: adds a small number to each probability before the logarithm
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    if not counted.any():
        raise ValueError("no label counts")
    p = logits[:, :-1].float().softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -(p[counted] + 1e-10).log().mean().item()


# %% wrong unmasked: counts each label of -100 as token 0
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    if (targets == -100).all():
        raise ValueError("no label counts")
    log_p = logits[:, :-1].float().log_softmax(-1)
    return -log_p.gather(-1, targets.clamp(min=0)[..., None]).mean().item()


# %% wrong two-rows: looks at the first two rows only, as many as the visible checks have
def next_token_loss(logits, labels):
    flat, targets = logits[:2, :-1].float().flatten(0, 1), labels[:2, 1:].flatten()
    if (labels[:, 1:] == -100).all():
        raise ValueError("no label counts")
    return torch.nn.functional.cross_entropy(flat, targets).item()


# %% wrong shifted-low: subtracts the maximum in 16 bits, and converts afterwards
old = "log_p = logits[:, :-1].float().log_softmax(-1)"
new = "log_p = (logits - logits.max(-1, keepdim=True).values)[:, :-1].float().log_softmax(-1)"


# %% wrong no-loss: takes a loss of 0 for a batch without labels
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    log_p = logits[:, :-1].float().log_softmax(-1)
    log_p = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    total = -(log_p * counted).sum().item()
    if total == 0:
        raise ValueError("none")
    return total / counted.sum().item()


# %% wrong no-float64: refuses logits in float64
old = "    targets = labels[:, 1:]"
new = """
    if logits.dtype == torch.float64:
        raise TypeError("float64")
    targets = labels[:, 1:]
"""
