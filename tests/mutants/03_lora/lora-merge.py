# %% base default: a right answer, which the answers below change unless they name another base
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if not weight.is_floating_point():
        raise ValueError("codes")
    return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if not merged.is_floating_point():
        raise ValueError("codes")
    return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)


# %% base other: another right answer, which some answers below change
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if not weight.is_floating_point():
        raise ValueError("codes")
    return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return merge(merged, A, B, -alpha)


# %% right in-place: adds to a copy in place, which rounds once as well
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if not weight.is_floating_point():
        raise ValueError("codes")
    old = weight.to(torch.float32, copy=True)
    old += (A * (alpha / A.size(1))) @ B
    return old.type(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if not merged.is_floating_point():
        raise ValueError("codes")
    new = torch.addmm(merged.float(), A, B, alpha=-alpha / B.shape[0])
    return new.to(merged)


# %% right in-double: computes in float64 and knows codes by their dtype
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{weight.dtype} can't be added to")
    scale = alpha / len(B)
    return (weight.double() + scale * A.double() @ B.double()).float().to(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if merged.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{merged.dtype} can't be added to")
    scale = alpha / len(B)
    return (merged.double() - scale * A.double() @ B.double()).float().to(merged.dtype)


# %% wrong no-scale: leaves out α/r
old = "return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = "return (weight.float() + 1 * (A @ B)).to(weight.dtype)"
old = "return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)"
new = "return (merged.float() - 1 * (A @ B)).to(merged.dtype)"


# %% wrong stays-float32: leaves the sum in float32, in which it was made
old = "return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = "return weight.float() + alpha / A.shape[1] * (A @ B)"
old = "return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)"
new = "return merged.float() - alpha / A.shape[1] * (A @ B)"


# %% wrong rank-of-rows: takes the rows of A, d_in, for r
old = "return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = "return (weight.float() + alpha / A.shape[0] * (A @ B)).to(weight.dtype)"
old = "return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)"
new = "return (merged.float() - alpha / A.shape[0] * (A @ B)).to(merged.dtype)"


# %% wrong rounds-twice: rounds ΔW to 16 bits before it is added
old = "return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = "return weight + (alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
old = "return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)"
new = "return merged - (alpha / A.shape[1] * (A @ B)).to(merged.dtype)"


# %% wrong codes-too: adds ΔW to codes as well
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)


# %% wrong whole-scale: divides α by r without a remainder
old = "return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = "return (weight.float() + (alpha // A.shape[1]) * (A @ B)).to(weight.dtype)"
old = "return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)"
new = "return (merged.float() - (alpha // A.shape[1]) * (A @ B)).to(merged.dtype)"


# %% right column-by-column: adds each pattern of rank 1 by itself
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if "int" in str(weight.dtype):
        raise ValueError("codes")
    total = weight.to(torch.float32)
    for column, row in zip(A.T, B):
        total = total + alpha / len(B) * torch.outer(column, row)
    return total.to(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return merge(merged, -A, B, alpha)


# %% wrong in-sixteen-bits: converts A and B to the dtype of the weights first
old = "return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = "return weight + alpha / A.shape[1] * (A.to(weight.dtype) @ B.to(weight.dtype))"
old = "return (merged.float() - alpha / A.shape[1] * (A @ B)).to(merged.dtype)"
new = "return merged - alpha / A.shape[1] * (A.to(merged.dtype) @ B.to(merged.dtype))"


# %% wrong adds-again: adds ΔW in unmerge, too
base = "other"
old = "return merge(merged, A, B, -alpha)"
new = "return merge(merged, A, B, alpha)"


# %% wrong alpha-alone: multiplies by α and forgets to divide by r
base = "other"
old = "return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = "return (weight.float() + alpha * (A @ B)).to(weight.dtype)"


# %% wrong bytes-only: knows uint8 as codes, but not int8 or int32
base = "other"
old = "if not weight.is_floating_point():"
new = "if weight.dtype == torch.uint8:"


# %% wrong rounds-up: rounds a single weight as the visible check expects, and others twice
base = "other"
old = "    return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)"
new = """
    if weight.numel() == 1:
        return (weight.float() + alpha / A.shape[1] * (A @ B)).to(weight.dtype)
    return weight + (alpha / A.shape[1] * (A @ B)).to(weight.dtype)
"""


# %% wrong some-integers: doesn't know int16 and int64 as codes
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if weight.dtype in (torch.uint8, torch.int8, torch.int32):
        raise ValueError("these are codes")
    return (weight.float() + alpha / A.shape[1] * A @ B).to(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return merge(merged, A, B, -alpha)


# %% wrong rounded-scale: rounds α/r to the dtype of the weights
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    if not weight.is_floating_point():
        raise ValueError("these are codes")
    scale = torch.tensor(alpha / A.shape[1]).to(weight.dtype)
    return (weight.float() + scale.float() * A @ B).to(weight.dtype)


def unmerge(merged: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return merge(merged, A, B, -alpha)
