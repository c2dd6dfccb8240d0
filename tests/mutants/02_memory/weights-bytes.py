# %% base default: a right answer, which the answers below change unless they name another base
def weight_bytes(parameters, dtype):
    bits = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}
    bits |= {"float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8, "uint8": 8}
    bits |= {"int4": 4, "fp4": 4, "nf4": 4}
    if dtype not in bits:
        raise ValueError(dtype)
    return (parameters * bits[dtype] + 7) // 8


# %% right table: bits by name in one dict
BITS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "int8": 8,
    "uint8": 8,
    "int4": 4,
    "fp4": 4,
    "nf4": 4,
}


def weight_bytes(parameters: int, dtype: str) -> int:
    if dtype not in BITS:
        raise ValueError(dtype)
    return math.ceil(parameters * BITS[dtype] / 8)


# %% right branches: bytes by chains of if, packing by hand
def weight_bytes(parameters, dtype):
    if dtype in ("int4", "nf4", "fp4"):
        whole, left = divmod(parameters, 2)
        return whole + left
    if dtype in ("int8", "uint8") or dtype in ("float8_e4m3fn", "float8_e5m2"):
        return parameters
    if dtype in ("bfloat16", "float16"):
        return parameters * 2
    if dtype == "float32":
        return parameters * 4
    if dtype == "float64":
        return parameters * 8
    raise ValueError("I don't know " + dtype)


# %% wrong unpacked: a byte for each 4-bit number
def weight_bytes(parameters, dtype):
    size = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
    size |= {"float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1, "uint8": 1}
    size |= {"int4": 1, "fp4": 1, "nf4": 1}
    if dtype not in size:
        raise ValueError(dtype)
    return parameters * size[dtype]


# %% wrong rounds-down: forgets the number that is left over
old = "return (parameters * bits[dtype] + 7) // 8"
new = "return parameters * bits[dtype] // 8"


# %% wrong half-bytes: returns 500.5 bytes
def weight_bytes(parameters, dtype):
    size = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
    size |= {"float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1, "uint8": 1}
    size |= {"int4": 0.5, "fp4": 0.5, "nf4": 0.5}
    if dtype not in size:
        raise ValueError(dtype)
    return parameters * size[dtype]


# %% wrong bits: doesn't divide by 8
old = "return (parameters * bits[dtype] + 7) // 8"
new = "return parameters * bits[dtype]"


# %% wrong guesses: takes 4 bytes for a name that it doesn't know
def weight_bytes(parameters, dtype):
    bits = {"float64": 64, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8}
    bits |= {"int8": 8, "uint8": 8, "int4": 4, "fp4": 4, "nf4": 4}
    return math.ceil(parameters * bits.get(dtype, 32) / 8)


# %% wrong only-nf4: packs nf4 alone, so that only hidden checks catch it
def weight_bytes(parameters, dtype):
    size = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
    size |= {"float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1, "uint8": 1, "int4": 1, "fp4": 1}
    if dtype == "nf4":
        return math.ceil(parameters / 2)
    if dtype not in size:
        raise ValueError(dtype)
    return parameters * size[dtype]


# %% right digits: reads the bits from the name, after it has compared the name with the list
def weight_bytes(parameters, dtype):
    import re

    names = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int8 uint8 int4 fp4 nf4"
    if dtype not in names.split():
        raise ValueError("unknown format")
    bits = int(re.search(r"\d+", dtype)[0])
    return parameters // 2 + parameters % 2 if bits == 4 else parameters * (bits // 8)


# %% wrong any-digits: reads the bits from any name
def weight_bytes(parameters, dtype):
    import re

    found = re.search(r"\d+", dtype)
    if not found or int(found[0]) not in (4, 8, 16, 32, 64):
        raise ValueError("unknown format")
    return math.ceil(parameters * int(found[0]) / 8)


# %% wrong any-case: accepts capital letters
def weight_bytes(parameters, dtype):
    bits = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "nf4": 4, "fp4": 4}
    bits |= {"float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8, "uint8": 8, "int4": 4}
    if dtype.lower() not in bits:
        raise ValueError(dtype)
    return -(-parameters * bits[dtype.lower()] // 8)


# %% wrong one-more: adds a byte also if no weight is left over
def weight_bytes(parameters, dtype):
    bits = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "nf4": 4, "fp4": 4}
    bits |= {"float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8, "uint8": 8, "int4": 4}
    if dtype not in bits:
        raise ValueError(dtype)
    if bits[dtype] == 4:
        return parameters // 2 + 1
    return parameters * bits[dtype] // 8


# %% wrong key-error: leaves the error to the dict
def weight_bytes(parameters, dtype):
    bits = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "nf4": 4, "fp4": 4}
    bits |= {"float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8, "uint8": 8, "int4": 4}
    return -(-parameters * bits[dtype] // 8)


# %% wrong more-formats: knows formats that aren't in the list
def weight_bytes(parameters, dtype):
    bits = {f"{kind}{n}": n for kind in ("float", "int") for n in (16, 32, 64)}
    bits |= {"bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8, "uint8": 8}
    bits |= {"int4": 4, "fp4": 4, "nf4": 4}
    if dtype not in bits:
        raise ValueError(dtype)
    return -(-parameters * bits[dtype] // 8)


# %% wrong nothing-first: returns 0 bytes for 0 weights before it looks at the name
def weight_bytes(parameters, dtype):
    bits = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "nf4": 4, "fp4": 4}
    bits |= {"float8_e4m3fn": 8, "float8_e5m2": 8, "int8": 8, "uint8": 8, "int4": 4}
    if not parameters:
        return 0
    if dtype not in bits:
        raise ValueError(dtype)
    return -(-parameters * bits[dtype] // 8)
