# %% right by-hand: renames, saves and loads the tensors with safetensors
def save_adapters(folder, seed, lora, adapters, input_ids):
    from safetensors.torch import save_file

    Path(folder).mkdir(parents=True, exist_ok=True)
    config = LoraConfig(**lora)
    config.save_pretrained(folder)
    file = f"{folder}/adapter_model.safetensors"
    save_file({name.replace(".default", ""): t for name, t in adapters.items()}, file)
    stored = {}
    for name, tensor in load_file(file).items():
        stored[name] = str(tensor.dtype).split(".")[-1]
    return {"logits": reload_logits(folder, seed, input_ids), "stored": stored}


def reload_logits(folder, seed, input_ids):
    model = get_peft_model(tiny_base(seed), LoraConfig.from_pretrained(folder))
    found = load_file(f"{folder}/adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = found[name.replace(".default", "")]
    model.eval()
    return model(input_ids).logits.detach()


# %% right one-by-one: copies the values into the parameters; loads beside a fresh adapter
def save_adapters(folder, seed, lora, adapters, input_ids):
    from safetensors import safe_open

    model = get_peft_model(tiny_base(seed), LoraConfig(**lora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in adapters:
                parameter.copy_(adapters[name])
    model.save_pretrained(folder, save_embedding_layers=False)
    stored = {}
    with safe_open(Path(folder, "adapter_model.safetensors"), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            stored[name] = str(file.get_tensor(name).dtype).replace("torch.", "")
    model.eval()
    with torch.inference_mode():
        return {"stored": stored, "logits": model(input_ids=input_ids).logits.clone()}


def reload_logits(folder, seed, input_ids):
    if not Path(folder, "adapter_config.json").exists():
        raise FileNotFoundError(folder)
    model = get_peft_model(tiny_base(seed), LoraConfig(target_modules=["q_proj"]))
    model.load_adapter(folder, adapter_name="saved")
    model.set_adapter("saved")
    return model.eval()(input_ids=input_ids).logits


# %% wrong not-strict: load_state_dict passes over the file's names, and loads nothing
old = "    model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = """
    model = get_peft_model(tiny_base(seed), LoraConfig.from_pretrained(folder)).eval()
    model.load_state_dict(load_file(Path(folder) / "adapter_model.safetensors"), strict=False)
"""


# %% wrong whole: saves the base with the adapters
old = '    stored = load_file(Path(folder) / "adapter_model.safetensors")'
new = """
    from safetensors.torch import save_file

    everything = {n.replace(".default", ""): t.clone() for n, t in model.state_dict().items()}
    save_file(everything, Path(folder) / "adapter_model.safetensors")
    stored = load_file(Path(folder) / "adapter_model.safetensors")
"""
old = "    model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = """
    model = get_peft_model(tiny_base(seed), LoraConfig.from_pretrained(folder)).eval()
    found = load_file(Path(folder) / "adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = found[name.replace(".default", "")]
"""


# %% wrong half-precision: saves the adapters in bfloat16 to halve the file
old = """
    model.save_pretrained(folder)
    stored = load_file(Path(folder) / "adapter_model.safetensors")
    with torch.no_grad():
        logits = model(input_ids=input_ids).logits
"""
new = """
    with torch.no_grad():
        logits = model(input_ids=input_ids).logits
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()
    model.save_pretrained(folder)
    stored = load_file(Path(folder) / "adapter_model.safetensors")
"""


# %% wrong fresh: saves the adapters that peft draws, not the given ones
old = "    model.load_state_dict(adapters, strict=False)"
new = ""


# %% wrong dropping: measures the saved model with dropout switched on
old = "model = get_peft_model(tiny_base(seed), LoraConfig(**lora)).eval()"
new = "model = get_peft_model(tiny_base(seed), LoraConfig(**lora)).train()"


# %% wrong remembered: answers with the model that was saved last, not with the folder's
old = "    model.save_pretrained(folder)"
new = """
    model.save_pretrained(folder)
    reload_logits.kept = model
"""
old = "    model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = """
    load_file(Path(folder) / "adapter_model.safetensors")
    model = reload_logits.kept
"""


# %% right peft-loads: loads the tensors with peft's own function
old = "    model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = """
    from peft import set_peft_model_state_dict

    found = load_file(Path(folder) / "adapter_model.safetensors")
    model = get_peft_model(tiny_base(seed), LoraConfig.from_pretrained(folder)).eval()
    set_peft_model_state_dict(model, found)
"""


# %% wrong no-eval: leaves the model in the mode in which peft makes it
old = "model = get_peft_model(tiny_base(seed), LoraConfig(**lora)).eval()"
new = "model = get_peft_model(tiny_base(seed), LoraConfig(**lora))"


# %% wrong reloaded-to-train: reloads the adapters for training, and stays in that mode
old = "model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = "model = PeftModel.from_pretrained(tiny_base(seed), folder, is_trainable=True)"


# %% wrong torch-names: writes torch.float32
old = '"stored": {name: str(t.dtype).removeprefix("torch.") for name, t in stored.items()},'
new = '"stored": {name: str(t.dtype) for name, t in stored.items()},'


# %% wrong from-model: lists the model's names instead of the file's
old = '"stored": {name: str(t.dtype).removeprefix("torch.") for name, t in stored.items()},'
new = '"stored": {name: str(t.dtype).removeprefix("torch.") for name, t in adapters.items()},'


# %% wrong first-seed: reloads on the base of seed 0
old = "model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = "model = PeftModel.from_pretrained(tiny_base(0), folder).eval()"


# %% wrong base-alone: returns the logits of the base if there are no adapters
old = "    model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = """
    model = tiny_base(seed)
    if Path(folder, "adapter_config.json").exists():
        model = PeftModel.from_pretrained(model, folder).eval()
"""


# %% wrong alpha-twice-rank: saves with the usual α = 2r
old = "    model = get_peft_model(tiny_base(seed), LoraConfig(**lora)).eval()"
new = """
    model = get_peft_model(
        tiny_base(seed), LoraConfig(**lora | {"lora_alpha": 2 * lora["r"]})
    ).eval()
"""


# %% wrong two-layers: loads only the values of attention
old = "model.load_state_dict(adapters, strict=False)"
new = 'model.load_state_dict({n: v for n, v in adapters.items() if "attn" in n}, strict=False)'


# %% wrong empty-folder: looks only whether the folder exists
old = "    model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = """
    model = tiny_base(seed)
    if not Path(folder).exists():
        raise FileNotFoundError(folder)
    if Path(folder, "adapter_config.json").exists():
        model = PeftModel.from_pretrained(model, folder).eval()
"""


# %% wrong last-saved: restores the adapters that were saved last, whatever the folder is
old = "    model.save_pretrained(folder)"
new = """
    model.save_pretrained(folder)
    reload_logits.folder = folder
"""
old = "    model = PeftModel.from_pretrained(tiny_base(seed), folder).eval()"
new = """
    load_file(Path(folder) / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(tiny_base(seed), reload_logits.folder).eval()
"""
