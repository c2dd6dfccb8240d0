# %% right by-step: divides by the step absmax / 7
def quantize_int4(x):
    absmax = float(torch.linalg.vector_norm(x, float("inf")))
    if not math.isfinite(absmax):
        raise ValueError("NaN or infinity")
    step = absmax / 7 if absmax else 1.0
    return torch.round(x / step).to(torch.int8), absmax


# %% right number-by-number: Python's numbers, and halves away from zero
def quantize_int4(x):
    numbers = x.flatten().tolist()
    if any(math.isnan(number) or math.isinf(number) for number in numbers):
        raise ValueError("all numbers must be finite")
    absmax = max(max(numbers), -min(numbers))
    codes = []
    for number in numbers:
        size = 0 if absmax == 0 else int(abs(number) / absmax * 7 + 0.5)
        codes.append(size if number > 0 else -size)
    return torch.tensor(codes, dtype=torch.int8).reshape(x.shape), x.abs().max()


# %% wrong largest: divides by the largest number, not the largest absolute value
def quantize_int4(x):
    if not x.isfinite().all():
        raise ValueError("x must be finite")
    largest = x.max()
    if largest == 0:
        return torch.zeros_like(x, dtype=torch.int8), 0.0
    return (x / largest * 7).round().to(torch.int8), largest.item()


# %% wrong truncates: casts without rounding
old = "return (x / absmax * 7).round().to(torch.int8), absmax.item()"
new = "return (x / absmax * 7).to(torch.int8), absmax.item()"


# %% wrong eight: uses the range -8 to 7
old = "return (x / absmax * 7).round().to(torch.int8), absmax.item()"
new = "return (x / absmax * 8).round().clamp(-8, 7).to(torch.int8), absmax.item()"


# %% wrong nan-passes: lets NaN and infinity through
def quantize_int4(x):
    absmax = x.abs().max()
    if absmax == 0:
        return torch.zeros_like(x, dtype=torch.int8), 0.0
    return (x / absmax * 7).round().to(torch.int8), absmax.item()


# %% wrong lowest: takes the most negative number for the absmax (only hidden checks see it)
old = "absmax = x.abs().max()"
new = "absmax = -x.min()"


# %% wrong in-half: divides in float16 (only hidden checks see it)
old = "return (x / absmax * 7).round().to(torch.int8), absmax.item()"
new = "return (x.half() / absmax.half() * 7).round().to(torch.int8), absmax.item()"


# %% right signs: rounds absolute values, and gives them their signs afterwards
def quantize_int4(x):
    if x.isnan().any() or x.isinf().any():
        raise ValueError("x must be finite")
    absmax = x.abs().amax()
    if not absmax:
        return x.to(torch.int8), 0.0
    steps = torch.floor(7 * x.abs() / absmax + 0.5)
    return (steps * x.sign()).to(torch.int8), absmax


# %% wrong floor: rounds down instead of to the nearest
old = "return (x / absmax * 7).round().to(torch.int8), absmax.item()"
new = "return (x / absmax * 7).floor().to(torch.int8), absmax.item()"


# %% wrong eight-bits: uses the 127 of the paper
old = "return (x / absmax * 7).round().to(torch.int8), absmax.item()"
new = "return (x / absmax * 127).round().to(torch.int8), absmax.item()"


# %% wrong int64: returns codes of another dtype
old = "return (x / absmax * 7).round().to(torch.int8), absmax.item()"
new = "return (x / absmax * 7).round().long(), absmax.item()"


# %% wrong visible-sizes: is right only for the numbers of elements in the visible checks
old = "    if not x.isfinite().all():"
new = """
    if x.numel() not in (3, 6, 8):
        return torch.zeros(2, 3, dtype=torch.int8), 0.9
    if not x.isfinite().all():
"""


# %% wrong scaled-first: takes the maximum after scaling, where a large number has become infinite
def quantize_int4(x):
    scaled = 127 * x
    if not scaled.isfinite().all():
        raise ValueError("x must be finite")
    absmax = scaled.abs().max() / 127
    return (x / absmax.where(absmax > 0, 1) * 7).round().to(torch.int8), absmax.item()


# %% wrong epsilon: adds a small number to the absmax, which is large for small numbers
def quantize_int4(x):
    if not x.isfinite().all():
        raise ValueError("x must be finite")
    absmax = x.abs().max()
    return (x / (absmax + 1e-8) * 7).round().to(torch.int8), absmax.item()


# %% wrong sum-of-zero: takes numbers with the sum 0 for zeros
old = "if absmax == 0:"
new = "if x.sum() == 0:"


# %% wrong in-bfloat16: rounds the quotient to bfloat16
def quantize_int4(x):
    if not x.isfinite().all():
        raise ValueError("x must be finite")
    absmax = x.abs().max()
    quotients = (x / absmax.where(absmax > 0, 1)).bfloat16()
    return (7 * quotients.float()).round().to(torch.int8), absmax.item()


# %% wrong finite-sum: tests whether the sum is finite
old = "if not x.isfinite().all():"
new = "if not x.sum().isfinite():"


# %% wrong tiny-is-zero: treats a small absmax as 0
old = "if absmax == 0:"
new = "if absmax < 1e-30:"


# %% wrong scaled-absmax: divides the maximum of 7 times the numbers by 7, which may be infinite
old = "absmax = x.abs().max()"
new = "absmax = (7 * x).abs().max() / 7"
