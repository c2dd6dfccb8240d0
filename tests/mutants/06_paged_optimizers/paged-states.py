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
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    layers = {}
    for name, count in elements.items():
        layer = name.removesuffix(".lora_A").removesuffix(".lora_B")
        layers[layer] = layers.get(layer, 0) + count
    names = [
        name
        for name in elements
        if layers[name.removesuffix(".lora_A").removesuffix(".lora_B")] >= 100_000
    ]
    paged = 8 * sum(elements[name] for name in names)
    return names, paged, 8 * sum(elements.values()) - paged


# %% wrong above: more than 100,000 elements instead of at least
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    names = [name for name, count in elements.items() if count > 100_000]
    paged = 8 * sum(elements[name] for name in names)
    return names, paged, 8 * sum(elements.values()) - paged


# %% wrong in-bytes: compares the bytes of a state with 100,000
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    names = [name for name, count in elements.items() if 4 * count >= 100_000]
    paged = 8 * sum(elements[name] for name in names)
    return names, paged, 8 * sum(elements.values()) - paged


# %% wrong states-together: counts the elements of both states of a tensor
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    elements = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    names = [name for name, count in elements.items() if count >= 100_000]
    paged = 4 * sum(elements[name] for name in names)
    return names, paged, 4 * sum(elements.values()) - paged


# %% wrong one-state: forgets that Adam has two
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    names = [name for name, count in elements.items() if count >= 100_000]
    paged = 4 * sum(elements[name] for name in names)
    return names, paged, 4 * sum(elements.values()) - paged


# %% wrong two-dimensions: multiplies the first and the last dimension only
def paged_states(shapes):
    if any(dimension < 1 for shape in shapes.values() for dimension in shape):
        raise ValueError("a dimension below 1")
    elements = {
        name: shape[0] * shape[-1] if len(shape) > 1 else shape[0] for name, shape in shapes.items()
    }
    names = [name for name, count in elements.items() if count >= 100_000]
    paged = 8 * sum(elements[name] for name in names)
    return names, paged, 8 * sum(elements.values()) - paged
