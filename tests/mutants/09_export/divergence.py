# %% right torch-kl-div: uses the functions of PyTorch
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError(f"{p.shape} and {q.shape}")
    for rows in (p, q):
        if not (rows >= 0).all() or ((rows.double().sum(-1) - 1).abs() > 1e-3).any():
            raise ValueError("these are no probabilities")
    p, q = p.double(), torch.maximum(q.double(), torch.tensor(1e-12, dtype=torch.float64))
    found = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(dim=-1)
    return torch.maximum(found, torch.zeros_like(found))


def parity(reference, other):
    p, q = reference.double().log_softmax(1), other.double().log_softmax(1)
    found = torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)
    same = [int(a.argmax()) == int(b.argmax()) for a, b in zip(reference, other, strict=True)]
    return max(0.0, float(found)), sum(same) / len(same)


# %% right where: subtracts logarithms, and leaves out terms with p = 0
def kl_divergence(p, q):
    if tuple(p.shape) != tuple(q.shape):
        raise ValueError("p and q belong together")
    p, q = p.to(torch.float64), q.to(torch.float64)
    sums = torch.stack([p.sum(-1), q.sum(-1)])
    if min(p.min(), q.min()) < 0 or not torch.all((sums - 1).abs() <= 1e-3):
        raise ValueError("each row must have the sum 1")
    q = torch.where(q < 1e-12, 1e-12, q)
    term = torch.where(p > 0, p * (p.clamp_min(1e-300).log() - q.log()), 0.0)
    return term.sum(-1).clip(min=0)


def parity(reference, other):
    logs = [logits.double() - logits.double().logsumexp(-1, True) for logits in (reference, other)]
    rows = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    same = (reference.max(-1).indices == other.max(-1).indices).float()
    return rows.mean().item(), same.mean().item()


# %% right entropy: subtracts the entropy of p from the cross-entropy, with NumPy
def kl_divergence(p, q):
    p, q = (np.asarray(rows.tolist(), dtype=np.float64) for rows in (p, q))
    if p.shape != q.shape:
        raise ValueError("shape")
    if (p < 0).any() or (q < 0).any():
        raise ValueError("negative")
    if max(abs(p.sum(-1) - 1).max(), abs(q.sum(-1) - 1).max()) > 0.001:
        raise ValueError("sum")
    cross = -(p * np.log(np.maximum(q, 1e-12))).sum(-1)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
    return torch.tensor(np.maximum(cross - entropy, 0.0))


def parity(reference, other):
    p, q = torch.softmax(reference.double(), -1), torch.softmax(other.double(), -1)
    same = (reference.argmax(1) == other.argmax(1)).tolist()
    return float(np.mean(kl_divergence(p, q).tolist())), same.count(True) / len(same)


# %% wrong reversed: exchanges the two distributions
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(q, q / p.clamp_min(1e-12)).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong symmetric: returns the mean of both directions
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return (torch.special.xlogy(p, p / q) + torch.special.xlogy(q, q / p.clamp_min(1e-12))).sum(
        -1
    ).clamp_min(0) / 2


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong jensen-shannon: returns the Jensen–Shannon divergence
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    m = (p + q) / 2
    return (torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)).sum(-1) / 2


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong bits: uses the logarithm to base 2
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0) / math.log(2)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong mean-of-vocabulary: returns the mean over the vocabulary
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).mean(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong cross-entropy: forgets the entropy of p
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return -(p * q.log()).sum(-1)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong absolute: adds absolute values
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).abs().sum(-1)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong negative-sign: has the wrong sign
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return -torch.special.xlogy(p, p / q).sum(-1)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong nan: multiplies 0 by the logarithm of 0
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return (p * (p / q).log()).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong infinite: divides by probabilities of 0
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong ignored-zeros: ignores tokens to which q gives 0
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    terms = torch.where(q > 0, torch.special.xlogy(p, p / q.clamp_min(1e-12)), 0.0)
    return terms.sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong one-number: returns the mean of all rows
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).mean()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong float32: returns float32
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).float()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong logits-accepted: doesn't check that rows are distributions
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.dim() < 1:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong only-q-checked: checks only the rows of q
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (q,):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong negative-accepted: accepts negative probabilities
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong any-shape: doesn't compare the shapes
def kl_divergence(p, q):
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong exact-sum: demands that each sum is exactly 1
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 1e-9:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong mean-first: averages the probabilities before the logarithm
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p.mean(0), q.mean(0)).item(), same.double().mean().item()


# %% wrong sum-of-prompts: returns the sum over the prompts
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).sum().item(), same.double().mean().item()


# %% wrong largest: returns the largest divergence
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).max().item(), same.double().mean().item()


# %% wrong softmax-of-columns: applies softmax to the prompts
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(0).T, other.double().softmax(0).T
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong number-equal: returns the number of equal tokens
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().sum().item()


# %% wrong share-different: returns the share of different tokens
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) != other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong epsilon-added: adds 1e-12 to each probability
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q + 1e-12
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong only-zeros: replaces only probabilities of exactly 0
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = torch.where(q == 0, 1e-12, q)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong negative-sums: returns negative sums
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).double()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong absolute-sums: returns the absolute values of negative sums
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).abs().double()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong float32-inside: computes in float32 and converts the result
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.float(), q.float()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()


def parity(reference, other):
    p, q = reference.float().softmax(-1), other.float().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong tolerance: accepts sums that differ from 1 by 0.005
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.005:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong total: checks only the mean sum of all rows
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1).mean() - 1).abs() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong terms-clamped: replaces negative terms by 0
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).clamp_min(0).sum(-1).double()


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong float64-late: computes the softmax in float32
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0).double()


def parity(reference, other):
    p, q = reference.softmax(-1), other.softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.float().mean().item()


# %% wrong rescaled: rescales each row so that its sum is exactly 1
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    p, q = (rows / rows.sum(-1, keepdim=True) for rows in (p, q))
    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong larger-tolerance: accepts sums from 0.99 to 1.0015
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or rows.sum(-1).min() < 0.99 or rows.sum(-1).max() > 1.0015:
            raise ValueError("not a distribution")
    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong mean-of-sums: checks only the mean difference of the sums from 1
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().mean() > 0.001:
            raise ValueError("not a distribution")
    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong slightly-negative: accepts numbers a little below 0
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < -1e-6 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong any-order: compares only the numbers of elements
def kl_divergence(p, q):
    if p.numel() != q.numel():
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().softmax(-1), other.double().softmax(-1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


# %% wrong one-prompt: fails if there is only one prompt
def kl_divergence(p, q):
    if p.shape != q.shape:
        raise ValueError("different shapes")
    p, q = p.double(), q.double()
    for rows in (p, q):
        if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:
            raise ValueError("not a distribution")
    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)


def parity(reference, other):
    p, q = reference.double().squeeze().softmax(1), other.double().squeeze().softmax(1)
    same = reference.argmax(-1) == other.argmax(-1)
    return kl_divergence(p, q).mean().item(), same.double().mean().item()
