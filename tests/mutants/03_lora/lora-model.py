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
old = 'targets = set(last_parts) - {"lm_head"}'
new = "targets = set(last_parts)"


# %% wrong halved: halves the count because the base is kept in 4 bits
old = "return sum(rank * (d_in + d_out) for d_in, d_out in chosen)"
new = "return sum(rank * (d_in + d_out) for d_in, d_out in chosen) // 2"


# %% wrong one-block: keeps one layer of each name, so counts one block
old = """
    chosen = [
        shape for last, shape in zip(last_parts, layers.values(), strict=True) if last in targets
    ]
"""
new = """
    shapes = dict(zip(last_parts, layers.values(), strict=True))
    chosen = [shapes[target] for target in set(targets)]
"""


# %% wrong unknown-ignored: passes over targets that are not there
old = """
    if missing := set(targets) - set(last_parts):
        raise ValueError(f"no layer is called {sorted(missing)}")
"""
new = ""


# %% wrong any-found: raises only if none of the targets is there
old = "if missing := set(targets) - set(last_parts):"
new = "if (missing := set(targets)) and not missing & set(last_parts):"


# %% wrong suffix: takes kv_proj for v_proj, since it ends alike
old = "if missing := set(targets) - set(last_parts):"
new = "if missing := [t for t in targets if not any(n.endswith(t) for n in layers)]:"
old = """
    chosen = [
        shape for last, shape in zip(last_parts, layers.values(), strict=True) if last in targets
    ]
"""
new = "    chosen = [shape for name, shape in layers.items() if name.endswith(tuple(targets))]"


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
old = "if missing := set(targets) - set(last_parts):"
new = "if missing := [t for t in targets if not any(t in name for name in layers)]:"
old = 'targets = set(last_parts) - {"lm_head"}'
new = 'targets = [name for name in layers if name != "lm_head"]'
old = """
    chosen = [
        shape for last, shape in zip(last_parts, layers.values(), strict=True) if last in targets
    ]
"""
new = "    chosen = [s for name, s in layers.items() if any(target in name for target in targets)]"


# %% wrong never-head: leaves lm_head out even if the list contains it
old = "if last in targets"
new = 'if last in set(targets) - {"lm_head"}'


# %% wrong needs-head: removes lm_head from a model that has none
old = '    last_parts = [name.split(".")[-1] for name in layers]'
new = """
    if targets == "all-linear":
        layers = dict(layers)
        layers.pop("lm_head")
    last_parts = [name.split(".")[-1] for name in layers]
"""


# %% wrong only-a: counts A and forgets B
old = "return sum(rank * (d_in + d_out) for d_in, d_out in chosen)"
new = "return sum(rank * d_in for d_in, d_out in chosen)"


# %% wrong any-rank: accepts a rank below 1
old = """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
"""
new = ""


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
old = """
    chosen = [
        shape for last, shape in zip(last_parts, layers.values(), strict=True) if last in targets
    ]
"""
new = """
    chosen = [
        shape
        for target in targets
        for last, shape in zip(last_parts, layers.values(), strict=True)
        if last == target
    ]
"""


# %% wrong nothing-chosen: raises for an empty list
old = "if missing := set(targets) - set(last_parts):"
new = "if not targets or (missing := set(targets) - set(last_parts)):"
old = 'f"no layer is called {sorted(missing)}"'
new = 'f"no layer is called {targets}"'


# %% wrong rank-by-default: tests the rank only for all-linear
old = "if rank < 1:"
new = 'if rank < 1 and targets == "all-linear":'


# %% wrong seven-names: knows only the layers of Llama by name
old = 'targets = set(last_parts) - {"lm_head"}'
new = 'targets = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}'
old = "if missing := set(targets) - set(last_parts):"
new = "elif missing := set(targets) - set(last_parts):"


# %% wrong found-by-ending: accepts a target that is only the end of a last part
old = "if missing := set(targets) - set(last_parts):"
new = "if missing := [t for t in targets if not any(n.endswith(t) for n in layers)]:"


# %% wrong high-rank: refuses a rank above 256
old = "if rank < 1:"
new = "if not 1 <= rank <= 256:"


# %% wrong dotted-target: accepts a target that is the end of a name after a dot, as peft does
base = "by-target"
old = 'found = [shape for name, shape in layers.items() if name.split(".")[-1] == target]'
new = 'found = [shape for name, shape in layers.items() if f".{name}".endswith(f".{target}")]'


# %% wrong all-in-list: takes the list ["all-linear"] for the text "all-linear"
old = 'if targets == "all-linear":'
new = 'if "all-linear" in targets:'


# %% wrong lower-case: compares names in lower case
old = "set(targets) - set(last_parts):"
new = "{target.lower() for target in targets} - set(last_parts):"


# %% wrong head-anywhere: leaves out a layer inside of lm_head
base = "by-target"
old = 'if not f".{n}".endswith(".lm_head"))'
new = 'if "lm_head" not in n.split("."))'


# %% wrong rank-of-matrix: refuses a rank above the smaller dimension of a layer
old = "if rank < 1:"
new = "if not 1 <= rank <= min(map(min, layers.values())):"
