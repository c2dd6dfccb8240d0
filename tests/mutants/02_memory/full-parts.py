# %% base default: a right answer, which the answers below change unless they name another base
def full_finetuning_bytes(parameters, recipe):
    sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}
    sizes |= {"bf16": (2, 2, 0, 2, 2), "qlora-paper": (2, 2, 0, 4, 4)}
    if recipe not in sizes:
        raise ValueError(recipe)
    names = ("weights", "gradients", "master copy", "m", "v")
    return {name: parameters * size for name, size in zip(names, sizes[recipe])}


# %% right branches: builds the parts by if
def full_finetuning_bytes(parameters: int, recipe: str) -> dict[str, int]:
    if recipe not in ("mixed", "fp32", "autocast", "bf16", "qlora-paper"):
        raise ValueError(recipe)
    narrow = recipe in ("mixed", "bf16", "qlora-paper")
    weight = 2 if narrow else 4
    moment = 2 if recipe == "bf16" else 4
    master = 4 if recipe == "mixed" else 0
    return {
        "v": moment * parameters,
        "m": moment * parameters,
        "master copy": master * parameters,
        "gradients": weight * parameters,
        "weights": weight * parameters,
    }


# %% right match: one pattern a recipe
def full_finetuning_bytes(parameters, recipe):
    match recipe:
        case "mixed":
            each = [2, 2, 4, 4, 4]
        case "fp32" | "autocast":
            each = [4, 4, 0, 4, 4]
        case "bf16":
            each = [2, 2, 0, 2, 2]
        case "qlora-paper":
            each = [2, 2, 0, 4, 4]
        case _:
            raise ValueError(f"no recipe {recipe}")
    w, g, copy, m, v = (parameters * size for size in each)
    return dict(weights=w, gradients=g, m=m, v=v) | {"master copy": copy}


# %% wrong two-of-six: takes the 12 bytes for Adam's two moments
old = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'
new = 'sizes = {"mixed": (2, 2, 0, 6, 6), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'


# %% wrong no-master: forgets the master copy
old = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'
new = 'sizes = {"mixed": (2, 2, 0, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'


# %% wrong always-master: a master copy in the paper's recipe too
old = 'sizes |= {"bf16": (2, 2, 0, 2, 2), "qlora-paper": (2, 2, 0, 4, 4)}'
new = 'sizes |= {"bf16": (2, 2, 0, 2, 2), "qlora-paper": (2, 2, 4, 4, 4)}'


# %% wrong wide-moments: moments in float32, also beside bfloat16 weights
old = 'sizes |= {"bf16": (2, 2, 0, 2, 2), "qlora-paper": (2, 2, 0, 4, 4)}'
new = 'sizes |= {"bf16": (2, 2, 0, 4, 4), "qlora-paper": (2, 2, 0, 4, 4)}'


# %% wrong copies-float32: 20 bytes in float32
old = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'
new = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 4, 4, 4), "autocast": (4, 4, 0, 4, 4)}'


# %% wrong narrow-autocast: 16-bit gradients under autocast, which only hidden checks catch
old = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'
new = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 2, 0, 4, 4)}'


# %% right bits: multiplies bits and divides by 8 at the end
def full_finetuning_bytes(parameters, recipe):
    bits = {
        "mixed": {"weights": 16, "gradients": 16, "master copy": 32, "m": 32, "v": 32},
        "fp32": {"weights": 32, "gradients": 32, "m": 32, "v": 32},
        "bf16": {"weights": 16, "gradients": 16, "m": 16, "v": 16},
        "qlora-paper": {"weights": 16, "gradients": 16, "m": 32, "v": 32},
    }
    bits["autocast"] = bits["fp32"]
    if recipe not in bits:
        raise ValueError(recipe)
    return {"master copy": 0} | {p: parameters * b // 8 for p, b in bits[recipe].items()}


# %% wrong no-zeros: leaves out the parts that a recipe doesn't have
old = "return {name: parameters * size for name, size in zip(names, sizes[recipe])}"
new = "return {name: parameters * size for name, size in zip(names, sizes[recipe]) if size}"


# %% wrong guesses: takes the slide's recipe for a name that it doesn't know
def full_finetuning_bytes(parameters, recipe):
    sizes = {"fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}
    sizes |= {"bf16": (2, 2, 0, 2, 2), "qlora-paper": (2, 2, 0, 4, 4)}
    names = ("weights", "gradients", "master copy", "m", "v")
    each = sizes.get(recipe, (2, 2, 4, 4, 4))
    return {name: parameters * size for name, size in zip(names, each)}


# %% wrong wide-gradients: gradients in float32 beside 16-bit weights
old = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'
new = 'sizes = {"mixed": (2, 4, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'
old = 'sizes |= {"bf16": (2, 2, 0, 2, 2), "qlora-paper": (2, 2, 0, 4, 4)}'
new = 'sizes |= {"bf16": (2, 2, 0, 2, 2), "qlora-paper": (2, 4, 0, 4, 4)}'


# %% wrong visible-recipes: knows the recipes of the visible checks only
old = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4), "autocast": (4, 4, 0, 4, 4)}'
new = 'sizes = {"mixed": (2, 2, 4, 4, 4), "fp32": (4, 4, 0, 4, 4)}'


# %% wrong beginnings: accepts names that begin with a recipe's name
old = "    if recipe not in sizes:"
new = """
    recipe = next((r for r in sizes if recipe.startswith(r)), recipe)
    if recipe not in sizes:
"""
