# %% base other: another right answer, which some answers below change
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainable, total = model.get_nb_trainable_parameters()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": trainable,
        "total": total,
    }


# %% right peft-counts: lets peft count, which knows of packed weights
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    shapes, dtypes = {}, set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shapes[name] = list(parameter.shape)
            dtypes.add(str(parameter.dtype).split(".")[1])
    trainable, total = model.get_nb_trainable_parameters()
    return {"shapes": shapes, "dtypes": sorted(dtypes), "trainable": trainable, "total": total}


# %% right base-first: counts the base before the adapters are on it, prepared as peft suggests
def what_is_trained(layers, lora, quantization="nf4"):
    from peft import prepare_model_for_kbit_training

    model = tiny_base(layers=layers, quantization=quantization)
    before = model.num_parameters()
    model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(**lora))
    trained = [(n, p) for n, p in model.named_parameters() if "lora_" in n and p.requires_grad]
    count = 0
    for _, parameter in trained:
        count += parameter.nelement()
    return {
        "total": before + count,
        "trainable": count,
        "dtypes": sorted({str(p.dtype)[6:] for _, p in trained}),
        "shapes": {n: p.shape for n, p in trained},
    }


# %% wrong halved: halves the trainable count because the base has 4 bits
base = "other"
old = "    return {"
new = """
    if quantization == "nf4":
        trainable //= 2
    return {
"""


# %% wrong packed: counts stored elements, two parameters in each
base = "other"
old = "    trainable, total = model.get_nb_trainable_parameters()"
new = ""
old = '"trainable": trainable,'
new = '"trainable": sum(p.numel() for p in trained.values()),'
old = '"total": total,'
new = '"total": sum(p.numel() for p in model.parameters()),'


# %% wrong doubled: doubles every matrix of the base, packed or not
base = "other"
old = "    trainable, total = model.get_nb_trainable_parameters()"
new = """
    total = 0
    for name, p in model.named_parameters():
        total += p.numel() * (2 if "_proj" in name and "lora_" not in name else 1)
"""
old = '"trainable": trainable,'
new = '"trainable": sum(p.numel() for p in trained.values()),'


# %% wrong half-precision: casts the adapters to bfloat16, as some trainers do
base = "other"
old = "    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}"
new = """
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.to(torch.bfloat16)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
"""


# %% wrong norms-too: trains the norms besides the adapters
base = "other"
old = "    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}"
new = """
    for name, p in model.named_parameters():
        if "norm" in name:
            p.requires_grad_(True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
"""


# %% wrong one-size: takes every base for one of one layer
base = "other"
old = "trainable, total = model.get_nb_trainable_parameters()"
new = "trainable = sum(p.numel() for p in trained.values())"
old = '"total": total,'
new = '"total": 43_200 + trainable,'


# %% right prod: multiplies the sides of shapes, and looks for adapters by their names
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    import math

    total = 0
    for parameter in model.parameters():
        if hasattr(parameter, "quant_state"):
            total += math.prod(parameter.quant_state.shape)
        else:
            total += math.prod(parameter.shape)
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong torch-names: writes torch.float32
old = '"dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),'
new = '"dtypes": sorted({str(p.dtype) for p in trained.values()}),'


# %% wrong all-dtypes: lists the dtypes of all parameters
old = '"dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),'
new = '"dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}),'


# %% wrong no-default: leaves the adapter's name out of the names
old = '"shapes": {name: tuple(p.shape) for name, p in trained.items()},'
new = '"shapes": {name.replace(".default", ""): tuple(p.shape) for name, p in trained.items()},'


# %% wrong base-only: leaves the adapters out of the total
old = '"total": total,'
new = '"total": total - sum(p.numel() for p in trained.values()),'


# %% wrong doubled-everything: doubles the number of all elements
old = "total += parameter.numel() if state is None else state.shape.numel()"
new = "total += 2 * parameter.numel()"


# %% wrong catches: returns nothing if a target doesn't exist
old = "    model = get_peft_model(base, LoraConfig(**lora))"
new = """
    try:
        model = get_peft_model(base, LoraConfig(**lora))
    except ValueError:
        return {"shapes": {}, "dtypes": [], "trainable": 0, "total": base.num_parameters()}
"""


# %% wrong matrices: counts matrices instead of parameters
old = '"trainable": sum(p.numel() for p in trained.values()),'
new = '"trainable": len(trained),'


# %% wrong square: takes all matrices for square
old = '        "shapes": {name: tuple(p.shape) for name, p in trained.items()},'
new = """
        "shapes": {
            name: (p.shape[0], 64) if "lora_A" in name else (64, p.shape[1])
            for name, p in trained.items()
        },
"""


# %% wrong one-column: takes each matrix with one column for a 4-bit tensor
old = """
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
"""
new = "        total += parameter.numel() * (2 if quantization and parameter.shape[-1] == 1 else 1)"


# %% wrong two-arguments: passes only the rank and the targets to LoraConfig
old = "model = get_peft_model(base, LoraConfig(**lora))"
new = 'model = get_peft_model(base, LoraConfig(r=lora["r"], target_modules=lora["target_modules"]))'
