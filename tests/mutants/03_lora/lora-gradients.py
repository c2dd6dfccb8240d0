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
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    x, weight, A, B = (t.clone().requires_grad_() for t in (x, weight, A, B))
    y = x @ weight + alpha / A.shape[1] * (x @ A @ B)
    ((y - target) ** 2).mean().backward()
    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}


# %% wrong zeros-for-w: gives zeros for W, where there is no gradient at all
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
    y = x @ weight + alpha / A.shape[1] * (x @ A @ B)
    ((y - target) ** 2).mean().backward()
    return {"x": x.grad, "W": torch.zeros_like(weight), "A": A.grad, "B": B.grad}


# %% wrong cut: freezes W with no_grad, which cuts the way of the gradient to x
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
    with torch.no_grad():
        base = x @ weight
    y = base + alpha / A.shape[1] * (x @ A @ B)
    ((y - target) ** 2).mean().backward()
    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}


# %% wrong no-scale: leaves out α/r
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
    y = x @ weight + x @ A @ B
    ((y - target) ** 2).mean().backward()
    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}


# %% wrong sum: takes the sum of the squares for their mean
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
    y = x @ weight + alpha / A.shape[1] * (x @ A @ B)
    ((y - target) ** 2).sum().backward()
    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}


# %% wrong whole-scale: divides α by r without a remainder
def lora_gradients(
    x: Tensor, target: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float
) -> dict[str, Tensor | None]:
    x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
    y = x @ weight + alpha // A.shape[1] * (x @ A @ B)
    ((y - target) ** 2).mean().backward()
    return {"x": x.grad, "W": weight.grad, "A": A.grad, "B": B.grad}
