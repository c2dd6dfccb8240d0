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
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    if not counted.any():
        raise ValueError("no label counts")
    log_p = logits[:, :-1].float().log_softmax(-1)
    log_p = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    means = [-row[keep].mean() for row, keep in zip(log_p, counted) if keep.any()]
    return (sum(means) / len(means)).item()


# %% wrong all-positions: divides by every prediction, also those that aren't counted
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    if not counted.any():
        raise ValueError("no label counts")
    log_p = logits[:, :-1].float().log_softmax(-1)
    log_p = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -(log_p * counted).mean().item()


# %% wrong softmax-log: the logarithm of a rounded probability
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    if not counted.any():
        raise ValueError("no label counts")
    p = logits[:, :-1].float().softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -p[counted].log().mean().item()


# %% wrong low-precision: computes in the 16 bits that the logits have
def next_token_loss(logits, labels):
    targets = labels[:, 1:]
    counted = targets != -100
    if not counted.any():
        raise ValueError("no label counts")
    log_p = logits[:, :-1].log_softmax(-1)
    log_p = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -log_p[counted].mean().item()


# %% wrong across-rows: shifts the flattened batch, so that a row's end predicts the next row
def next_token_loss(logits, labels):
    if (labels[:, 1:] == -100).all():
        raise ValueError("no label counts")
    flat = logits.float().flatten(0, 1)[:-1]
    return torch.nn.functional.cross_entropy(flat, labels.flatten()[1:]).item()
