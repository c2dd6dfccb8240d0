# %% base default: a right answer, which the answers below change unless they name another base
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
    y = x @ weight + alpha / A.shape[1] * (x @ A @ B)
    ((y - target) ** 2).mean().backward()
    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}


# %% right by-hand: works the derivatives out by hand
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    scale = alpha / B.shape[0]
    delta = scale * A @ B
    of_y = 2 * (x @ (weight + delta) - target) / target.numel()
    return {
        "A": scale * (x.T @ (of_y @ B.T)),
        "B": scale * ((x @ A).T @ of_y),
        "W": None,
        "x": of_y @ (weight + delta).T,
    }


# %% right as-module: uses a frozen linear layer, mse_loss and autograd.grad
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    base = torch.nn.Linear(*weight.shape, bias=False).requires_grad_(False)
    base.weight.copy_(weight.T)
    tensors = [torch.nn.Parameter(t) for t in (x, A, B)]
    x, A, B = tensors
    loss = torch.nn.functional.mse_loss(base(x) + (x @ A) @ B * (alpha / A.size(1)), target)
    found = torch.autograd.grad(loss, tensors)
    return {"W": base.weight.grad} | dict(zip("xAB", found, strict=True))


# %% wrong trains-w: lets W have a gradient too
old = "x, A, B = (t.clone().requires_grad_() for t in (x, A, B))"
new = "x, weight, A, B = (t.clone().requires_grad_() for t in (x, weight, A, B))"


# %% wrong zeros-for-w: gives zeros for W, where there is no gradient at all
old = 'return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}'
new = 'return {"x": x.grad, "W": torch.zeros_like(weight), "A": A.grad, "B": B.grad}'


# %% wrong cut: freezes W with no_grad, which cuts the way of the gradient to x
old = "    y = x @ weight + alpha / A.shape[1] * (x @ A @ B)"
new = """
    with torch.no_grad():
        base = x @ weight
    y = base + alpha / A.shape[1] * (x @ A @ B)
"""


# %% wrong no-scale: leaves out α/r
old = "y = x @ weight + alpha / A.shape[1] * (x @ A @ B)"
new = "y = x @ weight + x @ A @ B"


# %% wrong sum: takes the sum of the squares for their mean
old = "((y - target) ** 2).mean().backward()"
new = "((y - target) ** 2).sum().backward()"


# %% wrong whole-scale: divides α by r without a remainder
old = "y = x @ weight + alpha / A.shape[1] * (x @ A @ B)"
new = "y = x @ weight + alpha // A.shape[1] * (x @ A @ B)"


# %% right functional: differentiates a function with torch.autograd.functional
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    def loss(x, A, B):
        difference = x @ weight + x @ A @ B * alpha / len(B) - target
        return difference.pow(2).sum() / difference.numel()

    of_x, of_a, of_b = torch.autograd.functional.jacobian(loss, (x, A, B))
    return {"x": of_x, "A": of_a, "B": of_b, "W": None}


# %% wrong over-rows: takes the mean over the rows and the sum over the columns
old = "((y - target) ** 2).mean().backward()"
new = "((y - target) ** 2).sum(dim=1).mean().backward()"


# %% wrong half: has a factor ½ in the loss
old = "((y - target) ** 2).mean().backward()"
new = "(0.5 * (y - target) ** 2).mean().backward()"


# %% wrong adapters-only: computes no gradient for x
old = "x, A, B = (t.clone().requires_grad_() for t in (x, A, B))"
new = "A, B = (t.clone().requires_grad_() for t in (A, B))"


# %% wrong detached: cuts the gradient's path through the adapter to x
old = "y = x @ weight + alpha / A.shape[1] * (x @ A @ B)"
new = "y = x @ weight + alpha / A.shape[1] * (x.detach() @ A @ B)"


# %% wrong rank-of-rows: takes the rows of A, d_in, for r
old = "y = x @ weight + alpha / A.shape[1] * (x @ A @ B)"
new = "y = x @ weight + alpha / A.shape[0] * (x @ A @ B)"


# %% wrong b-stays: takes the zero gradient of A for that of B while B is zero
old = '    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}'
new = """
    of_b = B.grad if B.any() else torch.zeros_like(B)
    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": of_b}
"""


# %% wrong smaller-dimension: takes the smaller dimension of A for r
def lora_gradients(x, target, weight, A, B, alpha):
    x, A, B = (tensor.clone().requires_grad_() for tensor in (x, A, B))
    y = x @ weight + alpha / min(A.shape) * (x @ A @ B)
    (y - target).square().mean().backward()
    return {"x": x.grad, "W": None, "A": A.grad, "B": B.grad}


# %% wrong rounded-scale: rounds α/r to one decimal
def lora_gradients(x, target, weight, A, B, alpha):
    x, A, B = (tensor.clone().requires_grad_() for tensor in (x, A, B))
    y = x @ weight + round(alpha / A.shape[1], 1) * (x @ A @ B)
    (y - target).square().mean().backward()
    return {"x": x.grad, "W": None, "A": A.grad, "B": B.grad}


# %% wrong half-weight: multiplies by W in bfloat16
old = "y = x @ weight + alpha / A.shape[1] * (x @ A @ B)"
new = "y = x @ weight.bfloat16().float() + alpha / A.shape[1] * (x @ A @ B)"
