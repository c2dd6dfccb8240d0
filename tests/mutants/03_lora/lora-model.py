# %% base default: a right answer, which the answers below change unless they name another base
def adapter_parameters(
    layers: dict[str, tuple[int, int]], rank: int, targets: str | list[str] = "all-linear"
) -> int:
    if rank < 1:
        raise ValueError("rank must be at least 1")
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = last_parts - {"lm_head"}
    if set(targets) - last_parts:
        raise ValueError("a target was not found")
    chosen = [shape for name, shape in layers.items() if name.split(".")[-1] in targets]
    return sum(rank * (d_in + d_out) for d_in, d_out in chosen)


# %% right loop: goes through the layers and notes which targets it has seen
def adapter_parameters(
    layers: dict[str, tuple[int, int]], rank: int, targets: str | list[str] = "all-linear"
) -> int:
    if rank < 1:
        raise ValueError("rank must be at least 1")
    total, seen = 0, set()
    for name, (d_in, d_out) in layers.items():
        last = name.rpartition(".")[2]
        if targets == "all-linear":
            wanted = last != "lm_head"
        else:
            wanted = last in targets
        if wanted:
            seen.add(last)
            total += d_in * rank + d_out * rank
    if targets != "all-linear" and any(target not in seen for target in targets):
        raise ValueError("a target was not found")
    return total


# %% right by-target: adds up target by target
def adapter_parameters(
    layers: dict[str, tuple[int, int]], rank: int, targets: str | list[str] = "all-linear"
) -> int:
    assert_message = "rank must be a whole number of at least 1"
    if rank <= 0:
        raise ValueError(assert_message)
    if targets == "all-linear":
        return rank * sum(sum(s) for n, s in layers.items() if not f".{n}".endswith(".lm_head"))
    total = 0
    for target in set(targets):
        found = [shape for name, shape in layers.items() if name.split(".")[-1] == target]
        if not found:
            raise ValueError(f"{target} is not there")
        total += rank * sum(d_in + d_out for d_in, d_out in found)
    return total


# %% wrong with-head: gives the output head an adapter as well
old = 'targets = last_parts - {"lm_head"}'
new = "targets = last_parts"


# %% wrong halved: halves the count because the base is kept in 4 bits
old = "return sum(rank * (d_in + d_out) for d_in, d_out in chosen)"
new = "return sum(rank * (d_in + d_out) for d_in, d_out in chosen) // 2"


# %% wrong one-block: keeps one layer of each name, so counts one block
def adapter_parameters(
    layers: dict[str, tuple[int, int]], rank: int, targets: str | list[str] = "all-linear"
) -> int:
    if rank < 1:
        raise ValueError("rank must be at least 1")
    shapes = {name.split(".")[-1]: shape for name, shape in layers.items()}
    if targets == "all-linear":
        targets = set(shapes) - {"lm_head"}
    if set(targets) - set(shapes):
        raise ValueError("a target was not found")
    return sum(rank * sum(shapes[target]) for target in targets)


# %% wrong unknown-ignored: passes over targets that are not there
def adapter_parameters(
    layers: dict[str, tuple[int, int]], rank: int, targets: str | list[str] = "all-linear"
) -> int:
    if rank < 1:
        raise ValueError("rank must be at least 1")
    total = 0
    for name, shape in layers.items():
        last = name.split(".")[-1]
        if last in targets or (targets == "all-linear" and last != "lm_head"):
            total += rank * sum(shape)
    return total


# %% wrong any-found: raises only if none of the targets is there
def adapter_parameters(
    layers: dict[str, tuple[int, int]], rank: int, targets: str | list[str] = "all-linear"
) -> int:
    if rank < 1:
        raise ValueError("rank must be at least 1")
    if targets == "all-linear":
        chosen = [shape for name, shape in layers.items() if name.split(".")[-1] != "lm_head"]
    else:
        chosen = [shape for name, shape in layers.items() if name.split(".")[-1] in targets]
    if not chosen:
        raise ValueError("no target was found")
    return sum(rank * (d_in + d_out) for d_in, d_out in chosen)


# %% wrong suffix: takes kv_proj for v_proj, since it ends alike
def adapter_parameters(
    layers: dict[str, tuple[int, int]], rank: int, targets: str | list[str] = "all-linear"
) -> int:
    if rank < 1:
        raise ValueError("rank must be at least 1")
    if targets == "all-linear":
        targets = {name.split(".")[-1] for name in layers} - {"lm_head"}
    for target in targets:
        if not any(name.endswith(target) for name in layers):
            raise ValueError(f"{target} is not there")
    ends = tuple(targets)
    return sum(rank * sum(shape) for name, shape in layers.items() if name.endswith(ends))


# %% right counter: counts features by the last part of the name
def adapter_parameters(layers, rank, targets="all-linear"):
    from collections import Counter

    if rank < 1:
        raise ValueError("rank must be at least 1")
    features = Counter()
    for name, shape in layers.items():
        features[name[name.rfind(".") + 1 :]] += sum(shape)
    if isinstance(targets, str):
        features.pop("lm_head", None)
        targets = list(features)
    for target in targets:
        if target not in features:
            raise ValueError(f"unknown target {target!r}")
    return rank * sum(features[target] for target in set(targets))


# %% wrong substring: takes every layer whose name contains a target anywhere
def adapter_parameters(layers, rank, targets="all-linear"):
    if rank < 1:
        raise ValueError("rank must be at least 1")
    if targets == "all-linear":
        targets = [name for name in layers if name != "lm_head"]
    for target in targets:
        if not any(target in name for name in layers):
            raise ValueError(f"{target} is not there")
    chosen = [s for name, s in layers.items() if any(target in name for target in targets)]
    return sum(rank * (d_in + d_out) for d_in, d_out in chosen)


# %% wrong never-head: leaves lm_head out even if the list contains it
def adapter_parameters(layers, rank, targets="all-linear"):
    if rank < 1:
        raise ValueError("rank must be at least 1")
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = last_parts
    if set(targets) - last_parts:
        raise ValueError("a target was not found")
    total = 0
    for name, (d_in, d_out) in layers.items():
        if name.split(".")[-1] in targets and name != "lm_head":
            total += rank * (d_in + d_out)
    return total


# %% wrong needs-head: removes lm_head from a model that has none
def adapter_parameters(layers, rank, targets="all-linear"):
    if rank < 1:
        raise ValueError("rank must be at least 1")
    if targets == "all-linear":
        layers = dict(layers)
        layers.pop("lm_head")
        targets = [name.split(".")[-1] for name in layers]
    last_parts = [name.split(".")[-1] for name in layers]
    if any(target not in last_parts for target in targets):
        raise ValueError("a target was not found")
    return sum(
        rank * (shape[0] + shape[1])
        for last, shape in zip(last_parts, layers.values())
        if last in targets
    )


# %% wrong only-a: counts A and forgets B
def adapter_parameters(layers, rank, targets="all-linear"):
    if rank < 1:
        raise ValueError("rank must be at least 1")
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = last_parts - {"lm_head"}
    if set(targets) - last_parts:
        raise ValueError("a target was not found")
    return sum(rank * shape[0] for name, shape in layers.items() if name.split(".")[-1] in targets)


# %% wrong any-rank: accepts a rank below 1
def adapter_parameters(layers, rank, targets="all-linear"):
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = last_parts - {"lm_head"}
    if set(targets) - last_parts:
        raise ValueError("a target was not found")
    chosen = [shape for name, shape in layers.items() if name.split(".")[-1] in targets]
    return sum(rank * (d_in + d_out) for d_in, d_out in chosen)


# %% wrong visible-models: knows the counts of the models in the notebook, and else takes endings
def adapter_parameters(layers, rank, targets="all-linear"):
    if rank < 1:
        raise ValueError("rank must be at least 1")
    if layers.get("layers.0.kv_proj") == (8, 4):
        return 10 * rank
    if targets == "all-linear":
        return rank * sum(sum(shape) for name, shape in layers.items() if name != "lm_head")
    if any(all(not name.endswith(target) for name in layers) for target in targets):
        raise ValueError("a target was not found")
    return rank * sum(sum(s) for name, s in layers.items() if name.endswith(tuple(targets)))


# %% wrong repeated: counts a layer twice if the list contains its target twice
def adapter_parameters(layers, rank, targets="all-linear"):
    if rank < 1:
        raise ValueError("rank must be at least 1")
    sizes = {}
    for name, shape in layers.items():
        last = name.split(".")[-1]
        sizes[last] = sizes.get(last, 0) + sum(shape)
    if targets == "all-linear":
        targets = set(sizes) - {"lm_head"}
    if set(targets) - set(sizes):
        raise ValueError("a target was not found")
    return rank * sum(sizes[target] for target in targets)


# %% wrong nothing-chosen: raises for an empty list
def adapter_parameters(layers, rank, targets="all-linear"):
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = last_parts - {"lm_head"}
    if rank < 1 or not targets or set(targets) - last_parts:
        raise ValueError("the rank must be at least 1, and each target must exist")
    return rank * sum(sum(s) for name, s in layers.items() if name.split(".")[-1] in targets)


# %% wrong rank-by-default: tests the rank only for all-linear
def adapter_parameters(layers, rank, targets="all-linear"):
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = last_parts - {"lm_head"}
        if rank < 1:
            raise ValueError("rank must be at least 1")
    if set(targets) - last_parts:
        raise ValueError("a target was not found")
    return rank * sum(sum(s) for name, s in layers.items() if name.split(".")[-1] in targets)


# %% wrong seven-names: knows only the layers of Llama by name
def adapter_parameters(layers, rank, targets="all-linear"):
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    elif set(targets) - last_parts:
        raise ValueError("a target was not found")
    if rank < 1:
        raise ValueError("rank must be at least 1")
    return rank * sum(sum(s) for name, s in layers.items() if name.split(".")[-1] in targets)


# %% wrong found-by-ending: accepts a target that is only the end of a last part
def adapter_parameters(layers, rank, targets="all-linear"):
    if rank < 1:
        raise ValueError("rank must be at least 1")
    if targets == "all-linear":
        targets = {name.split(".")[-1] for name in layers} - {"lm_head"}
    if not all(any(name.endswith(target) for name in layers) for target in targets):
        raise ValueError("a target was not found")
    return rank * sum(sum(s) for name, s in layers.items() if name.split(".")[-1] in targets)


# %% wrong high-rank: refuses a rank above 256
def adapter_parameters(layers, rank, targets="all-linear"):
    if not 1 <= rank <= 256:
        raise ValueError("rank must be from 1 to 256")
    last_parts = {name.split(".")[-1] for name in layers}
    if targets == "all-linear":
        targets = last_parts - {"lm_head"}
    if set(targets) - last_parts:
        raise ValueError("a target was not found")
    return rank * sum(sum(s) for name, s in layers.items() if name.split(".")[-1] in targets)


# %% wrong dotted-target: accepts a target that is the end of a name after a dot, as peft does
base = "by-target"
old = 'found = [shape for name, shape in layers.items() if name.split(".")[-1] == target]'
new = 'found = [shape for name, shape in layers.items() if f".{name}".endswith(f".{target}")]'


# %% wrong all-in-list: takes the list ["all-linear"] for the text "all-linear"
old = 'if targets == "all-linear":'
new = 'if "all-linear" in targets:'


# %% wrong lower-case: compares names in lower case
old = "if set(targets) - last_parts:"
new = "if {target.lower() for target in targets} - last_parts:"


# %% wrong head-anywhere: leaves out a layer inside of lm_head
base = "by-target"
old = 'if not f".{n}".endswith(".lm_head"))'
new = 'if "lm_head" not in n.split("."))'
