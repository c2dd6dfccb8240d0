# %% base default: a right answer, which the answers below change unless they name another base
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
    return kl_divergence(p, q).mean().item(), same.double().mean().item()


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
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(q, q / p.clamp_min(1e-12)).sum(-1).clamp_min(0)"


# %% wrong symmetric: returns the mean of both directions
old = "    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = """
    return (torch.special.xlogy(p, p / q) + torch.special.xlogy(q, q / p.clamp_min(1e-12))).sum(
        -1
    ).clamp_min(0) / 2
"""


# %% wrong jensen-shannon: returns the Jensen–Shannon divergence
old = "    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = """
    m = (p + q) / 2
    return (torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)).sum(-1) / 2
"""


# %% wrong bits: uses the logarithm to base 2
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0) / math.log(2)"


# %% wrong mean-of-vocabulary: returns the mean over the vocabulary
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).mean(-1).clamp_min(0)"


# %% wrong cross-entropy: forgets the entropy of p
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return -(p * q.log()).sum(-1)"


# %% wrong absolute: adds absolute values
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).abs().sum(-1)"


# %% wrong negative-sign: has the wrong sign
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return -torch.special.xlogy(p, p / q).sum(-1)"


# %% wrong nan: multiplies 0 by the logarithm of 0
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return (p * (p / q).log()).sum(-1).clamp_min(0)"


# %% wrong infinite: divides by probabilities of 0
old = "    q = q.clamp_min(1e-12)"
new = ""


# %% wrong ignored-zeros: ignores tokens to which q gives 0
old = "q = q.clamp_min(1e-12)"
new = "terms = torch.where(q > 0, torch.special.xlogy(p, p / q.clamp_min(1e-12)), 0.0)"
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return terms.sum(-1).clamp_min(0)"


# %% wrong one-number: returns the mean of all rows
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).mean()"


# %% wrong float32: returns float32
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).float()"


# %% wrong logits-accepted: doesn't check that rows are distributions
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if rows.dim() < 1:"


# %% wrong only-q-checked: checks only the rows of q
old = "for rows in (p, q):"
new = "for rows in (q,):"


# %% wrong negative-accepted: accepts negative probabilities
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if (rows.sum(-1) - 1).abs().max() > 0.001:"


# %% wrong any-shape: doesn't compare the shapes
old = """
    if p.shape != q.shape:
        raise ValueError("different shapes")
"""
new = ""


# %% wrong exact-sum: demands that each sum is exactly 1
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 1e-9:"


# %% wrong mean-first: averages the probabilities before the logarithm
old = "return kl_divergence(p, q).mean().item(), same.double().mean().item()"
new = "return kl_divergence(p.mean(0), q.mean(0)).item(), same.double().mean().item()"


# %% wrong sum-of-prompts: returns the sum over the prompts
old = "return kl_divergence(p, q).mean().item(), same.double().mean().item()"
new = "return kl_divergence(p, q).sum().item(), same.double().mean().item()"


# %% wrong largest: returns the largest divergence
old = "return kl_divergence(p, q).mean().item(), same.double().mean().item()"
new = "return kl_divergence(p, q).max().item(), same.double().mean().item()"


# %% wrong softmax-of-columns: applies softmax to the prompts
old = "p, q = reference.double().softmax(-1), other.double().softmax(-1)"
new = "p, q = reference.double().softmax(0).T, other.double().softmax(0).T"


# %% wrong number-equal: returns the number of equal tokens
old = "return kl_divergence(p, q).mean().item(), same.double().mean().item()"
new = "return kl_divergence(p, q).mean().item(), same.double().sum().item()"


# %% wrong share-different: returns the share of different tokens
old = "same = reference.argmax(-1) == other.argmax(-1)"
new = "same = reference.argmax(-1) != other.argmax(-1)"


# %% wrong epsilon-added: adds 1e-12 to each probability
old = "q = q.clamp_min(1e-12)"
new = "q = q + 1e-12"
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()"


# %% wrong only-zeros: replaces only probabilities of exactly 0
old = "q = q.clamp_min(1e-12)"
new = "q = torch.where(q == 0, 1e-12, q)"
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()"


# %% wrong negative-sums: returns negative sums
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).double()"


# %% wrong absolute-sums: returns the absolute values of negative sums
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).abs().double()"


# %% wrong float32-inside: computes in float32 and converts the result
old = "p, q = p.double(), q.double()"
new = "p, q = p.float(), q.float()"
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()"
old = "p, q = reference.double().softmax(-1), other.double().softmax(-1)"
new = "p, q = reference.float().softmax(-1), other.float().softmax(-1)"


# %% wrong tolerance: accepts sums that differ from 1 by 0.005
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.005:"
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()"


# %% wrong total: checks only the mean sum of all rows
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if rows.min() < 0 or (rows.sum(-1).mean() - 1).abs() > 0.001:"
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0).double()"


# %% wrong terms-clamped: replaces negative terms by 0
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q).clamp_min(0).sum(-1).double()"


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
old = "q = q.clamp_min(1e-12)"
new = "p, q = (rows / rows.sum(-1, keepdim=True) for rows in (p, q))"
old = "return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)"
new = "return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)"


# %% wrong larger-tolerance: accepts sums from 0.99 to 1.0015
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if rows.min() < 0 or rows.sum(-1).min() < 0.99 or rows.sum(-1).max() > 1.0015:"
old = """
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)
"""
new = "    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)"


# %% wrong mean-of-sums: checks only the mean difference of the sums from 1
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().mean() > 0.001:"
old = """
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)
"""
new = "    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)"


# %% wrong slightly-negative: accepts numbers a little below 0
old = "if rows.min() < 0 or (rows.sum(-1) - 1).abs().max() > 0.001:"
new = "if rows.min() < -1e-6 or (rows.sum(-1) - 1).abs().max() > 0.001:"
old = """
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)
"""
new = "    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)"


# %% wrong any-order: compares only the numbers of elements
old = "if p.shape != q.shape:"
new = "if p.numel() != q.numel():"
old = """
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)
"""
new = "    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)"


# %% wrong one-prompt: fails if there is only one prompt
old = """
    q = q.clamp_min(1e-12)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)
"""
new = "    return torch.special.xlogy(p, p / q.clamp_min(1e-12)).sum(-1).clamp_min(0)"
old = "p, q = reference.double().softmax(-1), other.double().softmax(-1)"
new = "p, q = reference.double().squeeze().softmax(1), other.double().squeeze().softmax(1)"
