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
old = "update = alpha / lora_A.shape[0] * lora_B @ lora_A"
new = "update = lora_B @ lora_A"


# %% wrong to-weight: relative to the merged weight
old = "size = update.double().norm()"
new = "size = merged.norm()"


# %% wrong update-alone: quantizes the update and adds it to the weight
old = 'codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")'
new = 'codes, state = quantize_4bit(update, blocksize=64, quant_type="nf4")'
old = 'stored["nf4"] = dequantize_4bit(codes, state)'
new = 'stored["nf4"] = weight + dequantize_4bit(codes, state)'


# %% wrong adds-in-16: computes the sum in 16 bits
old = """
    stored = {name: merged.to(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
"""
new = """
    stored = {}
    for name in ("float32", "bfloat16", "float16"):
        dtype = getattr(torch, name)
        low = alpha / lora_A.shape[0] * (lora_B.to(dtype) @ lora_A.to(dtype))
        stored[name] = weight.to(dtype) + low
"""


# %% wrong zero-b: looks for an update of zero in B alone
old = "update = alpha / lora_A.shape[0] * lora_B @ lora_A"
new = "if not lora_B.any():"
old = "    if not update.any():"
new = '        raise ValueError("the update is zero")'
old = '        raise ValueError("the update is zero")'
new = "    update = alpha / lora_A.shape[0] * lora_B @ lora_A"


# %% wrong silent: divides by zero where there is no update
old = """
    if not update.any():
        raise ValueError("the update is zero")
"""
new = ""


# %% right by-rows: multiplies by α/r last, and divides sums of squares
base = "solution"
old = "update = alpha / lora_A.shape[0] * lora_B @ lora_A"
new = "update = (lora_B.double() @ lora_A.double()) * (alpha / len(lora_A))"
old = """
    return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}
"""
new = """
    return {
        name: float(((t.double() - merged).pow(2).sum() / size**2).sqrt())
        for name, t in stored.items()
    }
"""


# %% wrong fp4: takes the default type of quantize_4bit
base = "solution"
old = 'codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")'
new = "codes, state = quantize_4bit(merged.float(), blocksize=64)"


# %% wrong double-quantized: quantizes the constants, too
base = "solution"
old = '    codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")'
new = """
    codes, state = quantize_4bit(
        merged.float(), blocksize=64, quant_type="nf4", compress_statistics=True
    )
"""


# %% wrong one-constant: takes blocks of 1024
base = "solution"
old = 'codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")'
new = 'codes, state = quantize_4bit(merged.float(), blocksize=1024, quant_type="nf4")'


# %% wrong no-rank: multiplies by α instead of α/r
base = "solution"
old = "update = alpha / lora_A.shape[0] * lora_B @ lora_A"
new = "update = alpha * lora_B @ lora_A"


# %% wrong weight-alone: quantizes the weights without the update
base = "solution"
old = 'codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")'
new = 'codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")'


# %% wrong kept-separate: adds the update to the quantized weights
base = "solution"
old = 'codes, state = quantize_4bit(merged.float(), blocksize=64, quant_type="nf4")'
new = 'codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")'
old = 'stored["nf4"] = dequantize_4bit(codes, state)'
new = 'stored["nf4"] = dequantize_4bit(codes, state) + update'


# %% wrong tiny-is-zero: takes a tiny update for zero
base = "solution"
old = "if not update.any():"
new = "if torch.allclose(update, torch.zeros_like(update), atol=1e-5):"


# %% wrong tensors: returns tensors of float64 with a dimension
base = "solution"
old = "return {name: ((t.double() - merged).norm() / size).item() for name, t in stored.items()}"
new = "return {name: ((t.double() - merged).norm() / size)[None] for name, t in stored.items()}"


# %% wrong close-to-zero: takes an update that is close to zero for zero
old = "if not update.any():"
new = "if torch.allclose(update, torch.zeros_like(update)):"


# %% wrong sum: takes an update whose numbers add up to zero for zero
old = "if not update.any():"
new = "if update.sum() == 0:"
