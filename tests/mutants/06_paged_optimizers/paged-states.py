# %% right loop: one tensor after the other, the elements multiplied by hand
def paged_states(shapes):
    names, paged, rest = [], 0, 0
    for name, shape in shapes.items():
        elements = 1
        for dimension in shape:
            if dimension <= 0:
                raise ValueError(f"{name} has a dimension of {dimension}")
            elements *= dimension
        if elements < 100_000:
            rest += 2 * 4 * elements
        else:
            names.append(name)
            paged += 2 * 4 * elements
    return names, paged, rest


# %% right two-dicts: sizes in bytes, with the threshold in bytes of one state
def paged_states(shapes):
    if shapes and min(min(shape) for shape in shapes.values()) < 1:
        raise ValueError("a dimension below 1")
    one_state = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    pages = {name: size for name, size in one_state.items() if size >= 400_000}
    moving = 2 * sum(pages.values())
    return list(pages), moving, 2 * sum(one_state.values()) - moving


# %% wrong pairs: looks at A and B of a layer together
old = "    names = [name for name, count in elements.items() if count >= 100_000]"
new = """
    layers = {}
    for name, count in elements.items():
        layer = name.removesuffix(".lora_A").removesuffix(".lora_B")
        layers[layer] = layers.get(layer, 0) + count
    names = [
        name
        for name in elements
        if layers[name.removesuffix(".lora_A").removesuffix(".lora_B")] >= 100_000
    ]
"""


# %% wrong above: more than 100,000 elements instead of at least
old = "names = [name for name, count in elements.items() if count >= 100_000]"
new = "names = [name for name, count in elements.items() if count > 100_000]"


# %% wrong in-bytes: compares the bytes of a state with 100,000
old = "names = [name for name, count in elements.items() if count >= 100_000]"
new = "names = [name for name, count in elements.items() if 4 * count >= 100_000]"


# %% wrong states-together: counts the elements of both states of a tensor
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    elements = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    names = [name for name, count in elements.items() if count >= 100_000]
    paged = 4 * sum(elements[name] for name in names)
    return names, paged, 4 * sum(elements.values()) - paged


# %% wrong one-state: forgets that Adam has two
old = "paged = 8 * sum(elements[name] for name in names)"
new = "paged = 4 * sum(elements[name] for name in names)"
old = "return names, paged, 8 * sum(elements.values()) - paged"
new = "return names, paged, 4 * sum(elements.values()) - paged"


# %% wrong two-dimensions: multiplies the first and the last dimension only
old = "    elements = {name: math.prod(shape) for name, shape in shapes.items()}"
new = """
    elements = {
        name: shape[0] * shape[-1] if len(shape) > 1 else shape[0] for name, shape in shapes.items()
    }
"""


# %% right one-pass: adds up the bytes of both kinds by whether they are paged
def paged_states(shapes):
    from functools import reduce

    names, sizes = [], {True: 0, False: 0}
    for name, shape in shapes.items():
        if min(shape) <= 0:
            raise ValueError(f"{name} has an impossible shape")
        elements = reduce(lambda a, b: a * b, shape)
        is_paged = elements > 99_999
        names += [name] * is_paged
        sizes[is_paged] += elements * 8
    return names, sizes[True], sizes[False]


# %% wrong with-tensor: counts the bytes of the tensor, too
old = "paged = 8 * sum(elements[name] for name in names)"
new = "paged = 12 * sum(elements[name] for name in names)"
old = "return names, paged, 8 * sum(elements.values()) - paged"
new = "return names, paged, 12 * sum(elements.values()) - paged"


# %% wrong all-bytes: returns the bytes of all states in place of those that aren't paged
old = """
    paged = 8 * sum(elements[name] for name in names)
    return names, paged, 8 * sum(elements.values()) - paged
"""
new = "    return names, 8 * sum(elements[name] for name in names), 8 * sum(elements.values())"


# %% wrong product: looks at the product of the dimensions only (only hidden checks see it)
def paged_states(shapes):
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    if any(count < 1 for count in elements.values()):
        raise ValueError("no elements")
    names = [name for name, count in elements.items() if count >= 100_000]
    paged = 8 * sum(elements[name] for name in names)
    return names, paged, 8 * sum(elements.values()) - paged


# %% wrong sorted: returns the names in alphabetical order (only hidden checks see it)
old = "names = [name for name, count in elements.items() if count >= 100_000]"
new = "names = sorted(name for name, count in elements.items() if count >= 100_000)"


# %% wrong visible-sizes: knows the visible adapters by heart
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    if "norm" in shapes:
        if shapes["q_proj.lora_A"][0] == 8:
            return [], 0, 1_523_712
        return list(shapes)[:4], 11_927_552, 32_768
    return ["weight"] * ("weight" in shapes), 1_600_000, 4_000


# %% wrong last-shape: checks only the dimensions of the last tensor
old = "    if any(dimension < 1 for shape in shapes.values() for dimension in shape):"
new = """
    for shape in shapes.values():
        is_wrong = min(shape) < 1
    if is_wrong:
"""


# %% wrong single-element: raises for a tensor with one element
def paged_states(shapes):
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    if min(elements.values()) < 2:
        raise ValueError("not a tensor")
    names = [name for name, count in elements.items() if count >= 100_000]
    paged = 8 * sum(elements[name] for name in names)
    return names, paged, 8 * sum(elements.values()) - paged


# %% wrong three-dimensions: multiplies at most three dimensions
old = "elements = {name: math.prod(shape) for name, shape in shapes.items()}"
new = "elements = {name: math.prod(shape[:3]) for name, shape in shapes.items()}"
