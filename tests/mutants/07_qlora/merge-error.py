# %% right course-codec: quantizes with the course's own NF4, works in double precision
def merge_errors(weight, lora_A, lora_B, alpha):
    from course_utils.quantization import quantize_nf4

    rank = lora_A.size(0)
    update = torch.einsum("or,ri->oi", lora_B.double(), lora_A.double()) * (alpha / rank)
    length = update.square().sum().sqrt()
    if length == 0:
        raise ValueError("no update")
    exact = weight.double() + update

    def error(stored):
        return float((stored.double() - exact).square().sum().sqrt() / length)

    return {
        "float32": error(exact.float()),
        "bfloat16": error(exact.bfloat16()),
        "float16": error(exact.half()),
        "nf4": error(quantize_nf4(exact.float(), block_size=64, double_quant=False).dequantize()),
    }


# %% right single-precision: takes float32's sum as exact
def merge_errors(weight, lora_A, lora_B, alpha):
    update = lora_B @ (lora_A * alpha) / len(lora_A)
    if torch.count_nonzero(update) == 0:
        raise ValueError("no update")
    merged = weight + update
    errors = {}
    for name in ["float32", "bfloat16", "float16", "nf4"]:
        if name == "nf4":
            back = dequantize_4bit(*quantize_4bit(merged, blocksize=64, quant_type="nf4"))
        else:
            back = merged.to(getattr(torch, name)).float()
        errors[name] = (torch.linalg.norm(back - merged) / torch.linalg.norm(update)).item()
    return errors


# %% wrong no-scale: forgets α/r
def merge_errors(weight, lora_A, lora_B, alpha):
    update = lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong to-weight: relative to the merged weight
def merge_errors(weight, lora_A, lora_B, alpha):
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = merged.norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong update-alone: quantizes the update and adds it to the weight
def merge_errors(weight, lora_A, lora_B, alpha):
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(update, blocksize=64, quant_type="nf4")
    stored["nf4"] = weight + dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong adds-in-16: computes the sum in 16 bits
def merge_errors(weight, lora_A, lora_B, alpha):
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {}
    for name in ("float32", "bfloat16", "float16"):
        dtype = getattr(torch, name)
        low = alpha / lora_A.shape[0] * (lora_B.to(dtype) @ lora_A.to(dtype))
        stored[name] = weight.to(dtype) + low
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong zero-b: looks for an update of zero in B alone
def merge_errors(weight, lora_A, lora_B, alpha):
    if not lora_B.any():
        raise ValueError("the update is zero")
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong silent: divides by zero where there is no update
def merge_errors(weight, lora_A, lora_B, alpha):
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% right by-rows: multiplies by α/r last, and divides sums of squares
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = (lora_B.double() @ lora_A.double()) * (alpha / len(lora_A))
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {
        name: float(((t.double() - merged).pow(2).sum() / size**2).sqrt())
        for name, t in stored.items()
    }


# %% wrong fp4: takes the default type of quantize_4bit
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64)
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong double-quantized: quantizes the constants, too
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(
        merged.float(), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong one-constant: takes blocks of 1024
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=1024, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong no-rank: multiplies by α instead of α/r
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong weight-alone: quantizes the weights without the update
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong kept-separate: adds the update to the quantized weights
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state) + update
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong tiny-is-zero: takes a tiny update for zero
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if torch.allclose(update, torch.zeros_like(update), atol=1e-5):
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong tensors: returns tensors of float64 with a dimension
def merge_errors(
    weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float
) -> dict[str, float]:
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if not update.any():
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size)[None] for name, t in stored.items()}


# %% wrong close-to-zero: takes an update that is close to zero for zero
def merge_errors(weight, lora_A, lora_B, alpha):
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if torch.allclose(update, torch.zeros_like(update)):
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}


# %% wrong sum: takes an update whose numbers add up to zero for zero
def merge_errors(weight, lora_A, lora_B, alpha):
    update = alpha / lora_A.shape[0] * lora_B @ lora_A
    if update.sum() == 0:
        raise ValueError("the update is zero")
    merged = weight.double() + update.double()
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")
    stored["nf4"] = dequantize_4bit(codes, state)
    size = update.double().norm()
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}
