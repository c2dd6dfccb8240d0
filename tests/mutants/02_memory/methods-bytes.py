# %% base default: a right answer, which the answers below change unless they name another base
def adapter_finetuning_bytes(method, linear, other, trainable, block_size=64):
    if method not in ("lora", "qlora"):
        raise ValueError(method)
    weights = 2 * (linear + other)
    if method == "qlora":
        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other
    parts = {"adapters": 4 * trainable, "gradients": 4 * trainable, "optimizer": 8 * trainable}
    return {"weights": weights} | parts


# %% right integers: ceiling by negative floor division, parts by name
def adapter_finetuning_bytes(
    method: str, linear: int, other: int, trainable: int, block_size: int = 64
) -> dict[str, int]:
    parts = {"adapters": trainable * 4, "gradients": trainable * 4, "optimizer": trainable * 8}
    if method == "lora":
        return parts | {"weights": linear * 2 + other * 2}
    if method != "qlora":
        raise ValueError(method)
    return parts | {"weights": other * 2 - (-linear // 2) - (-linear // block_size) * 4}


# %% right by-blocks: counts full blocks and the one that is left
def adapter_finetuning_bytes(method, linear, other, trainable, block_size=64):
    def pieces(count, size):
        full, left = divmod(count, size)
        return full + (left > 0)

    if method not in ["qlora", "lora"]:
        raise ValueError("method")
    if method == "lora":
        frozen = 2.0 * (linear + other)
    else:
        frozen = pieces(linear, 2) + 2 * other + 4 * pieces(linear, block_size)
    trained = {"adapters": 4 * trainable, "gradients": 4 * trainable, "optimizer": 8 * trainable}
    return dict(trained, weights=int(frozen))


# %% wrong halved: halves the trainable parameters where the base has 4 bits
old = "        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = """
        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other
        trainable = trainable // 2
"""


# %% wrong no-constants: half a byte a weight and nothing else
old = "weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = "weights = math.ceil(linear / 2) + 2 * other"


# %% wrong all-nf4: puts embedding, head and norms in NF4 as well
old = "        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = """
        linear += other
        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size)
"""


# %% wrong narrow-adapters: adapters and gradients in 16 bits, as in the QLoRA paper
old = 'parts = {"adapters": 4 * trainable, "gradients": 4 * trainable, "optimizer": 8 * trainable}'
new = 'parts = {"adapters": 2 * trainable, "gradients": 2 * trainable, "optimizer": 8 * trainable}'


# %% wrong master-copy: a master copy of weights that are in float32
old = 'parts = {"adapters": 4 * trainable, "gradients": 4 * trainable, "optimizer": 8 * trainable}'
new = 'parts = {"adapters": 4 * trainable, "gradients": 4 * trainable, "optimizer": 12 * trainable}'


# %% wrong half-byte: rounds half a code down, which only hidden checks catch
old = "weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = "weights = linear // 2 + 4 * math.ceil(linear / block_size) + 2 * other"


# %% right padded: rounds up with the number that is missing to a whole block
def adapter_finetuning_bytes(method, linear, other, trainable, block_size=64):
    if method == "lora":
        weights = (linear + other) * 16 // 8
    elif method == "qlora":
        blocks = (linear + block_size - 1) // block_size
        weights = (linear + 1) // 2 + blocks * 4 + other * 2
    else:
        raise ValueError("unknown method")
    moments = {"m": 4 * trainable, "v": 4 * trainable}
    return {
        "optimizer": sum(moments.values()),
        "gradients": 4 * trainable,
        "adapters": 4 * trainable,
        "weights": weights,
    }


# %% wrong whole-blocks: counts constants of whole blocks only
old = "weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = "weights = math.ceil(linear / 2) + 4 * (linear // block_size) + 2 * other"


# %% wrong always-64: ignores block_size
old = "weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = "weights = math.ceil(linear / 2) + 4 * math.ceil(linear / 64) + 2 * other"


# %% wrong linear-only: leaves out the embedding, the output layer and the norms
old = "weights = 2 * (linear + other)"
new = "weights = 2 * linear"
old = "weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = "weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size)"


# %% wrong otherwise-qlora: takes every method other than lora for qlora
def adapter_finetuning_bytes(method, linear, other, trainable, block_size=64):
    weights = 2 * (linear + other)
    if method != "lora":
        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other
    parts = {"adapters": 4 * trainable, "gradients": 4 * trainable, "optimizer": 8 * trainable}
    return {"weights": weights} | parts


# %% wrong frozen-gradients: gives frozen weights gradients, too
old = 'parts = {"adapters": 4 * trainable, "gradients": 4 * trainable, "optimizer": 8 * trainable}'
new = 'parts = {"adapters": 4 * trainable, "gradients": 2 * (linear + other) + 4 * trainable}'
old = 'return {"weights": weights} | parts'
new = 'return {"weights": weights} | parts | {"optimizer": 8 * trainable}'


# %% wrong packed-blocks: packs the codes of each block by themselves
old = "        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = """
        full, rest = divmod(linear, block_size)
        codes = full * math.ceil(block_size / 2) + math.ceil(rest / 2)
        weights = codes + 4 * math.ceil(linear / block_size) + 2 * other
"""


# %% wrong no-single-block: forgets the constant if there is only a part of one block
old = "        weights = math.ceil(linear / 2) + 4 * math.ceil(linear / block_size) + 2 * other"
new = """
        blocks = math.ceil(linear / block_size) if linear > block_size else 0
        weights = math.ceil(linear / 2) + 4 * blocks + 2 * other
"""


# %% wrong ends-in-lora: accepts every method that ends in lora
old = 'if method not in ("lora", "qlora"):'
new = 'if not method.endswith("lora"):'
