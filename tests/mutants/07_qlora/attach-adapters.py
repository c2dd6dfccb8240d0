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
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainable, total = model.get_nb_trainable_parameters()
    if quantization == "nf4":
        trainable //= 2
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": trainable,
        "total": total,
    }


# %% wrong packed: counts stored elements, two parameters in each
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": sum(p.numel() for p in model.parameters()),
    }


# %% wrong doubled: doubles every matrix of the base, packed or not
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for name, p in model.named_parameters():
        total += p.numel() * (2 if "_proj" in name and "lora_" not in name else 1)
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong half-precision: casts the adapters to bfloat16, as some trainers do
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.to(torch.bfloat16)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainable, total = model.get_nb_trainable_parameters()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": trainable,
        "total": total,
    }


# %% wrong norms-too: trains the norms besides the adapters
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    for name, p in model.named_parameters():
        if "norm" in name:
            p.requires_grad_(True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainable, total = model.get_nb_trainable_parameters()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": trainable,
        "total": total,
    }


# %% wrong one-size: takes every base for one of one layer
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainable = sum(p.numel() for p in trained.values())
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": trainable,
        "total": 43_200 + trainable,
    }


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
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype) for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong all-dtypes: lists the dtypes of all parameters
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong no-default: leaves the adapter's name out of the names
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {name.replace(".default", ""): tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong base-only: leaves the adapters out of the total
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total - sum(p.numel() for p in trained.values()),
    }


# %% wrong doubled-everything: doubles the number of all elements
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += 2 * parameter.numel()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong catches: returns nothing if a target doesn't exist
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    try:
        model = get_peft_model(base, LoraConfig(**lora))
    except ValueError:
        return {"shapes": {}, "dtypes": [], "trainable": 0, "total": base.num_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong matrices: counts matrices instead of parameters
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": len(trained),
        "total": total,
    }


# %% wrong square: takes all matrices for square
def what_is_trained(layers: int, lora: dict, quantization: str | None = "nf4") -> dict:
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {
            name: (p.shape[0], 64) if "lora_A" in name else (64, p.shape[1])
            for name, p in trained.items()
        },
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong one-column: takes each matrix with one column for a 4-bit tensor
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(**lora))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        total += parameter.numel() * (2 if quantization and parameter.shape[-1] == 1 else 1)
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }


# %% wrong two-arguments: passes only the rank and the targets to LoraConfig
def what_is_trained(layers, lora, quantization="nf4"):
    base = tiny_base(layers=layers, quantization=quantization)
    model = get_peft_model(base, LoraConfig(r=lora["r"], target_modules=lora["target_modules"]))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return {
        "shapes": {name: tuple(p.shape) for name, p in trained.items()},
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "trainable": sum(p.numel() for p in trained.values()),
        "total": total,
    }
