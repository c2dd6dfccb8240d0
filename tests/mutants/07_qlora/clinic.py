# %% base default: a right answer, which the answers below change unless they name another base
def train(seed, rank, alpha, adapters, input_ids, labels, learning_rate, steps):
    whole = tiny_base(seed, quantization=None)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    base = type(whole).from_pretrained(
        None,
        config=whole.config,
        state_dict=whole.state_dict(),
        dtype=torch.float32,
        quantization_config=config,
        device_map={"": "cpu"},
    )

    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, lora)
    model.load_state_dict(adapters, strict=False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)
    model.train()
    losses = []
    for _ in range(steps):
        logits = model(input_ids=input_ids).logits[:, :-1]  # the last one predicts nothing here
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "adapters": {name: p.detach() for name, p in trained.items()}}


def diagnose(printed, true, right):
    if not len(printed) == len(true) == len(right) > 1:
        raise ValueError("the three lists must have the same length, which must be at least 2")
    if printed != true:
        return "loss"
    if printed == right:
        return "healthy"
    if printed[0] != right[0]:
        return "base"
    if len(set(printed)) == 1:
        return "update"
    change = max(abs(p - r) / r for p, r in zip(printed, right, strict=True))
    return "scale" if change > 0.05 else "precision"


# %% right library-loss: lets tiny_base load and transformers compute the loss, and uses thresholds
def train(seed, rank, alpha, adapters, input_ids, labels, learning_rate, steps):
    base = tiny_base(seed)

    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, lora)
    model.load_state_dict(adapters, strict=False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        losses.append(loss.item())
    return {"losses": losses, "adapters": {name: p.detach() for name, p in trained.items()}}


def diagnose(printed, true, right):
    if len({len(printed), len(true), len(right)}) > 1:
        raise ValueError("different lengths")
    if len(right) < 2:
        raise ValueError("too short")

    def gap(a, b):
        return max(abs(x - y) for x, y in zip(a, b))

    if gap(printed, true) > 1e-6:
        return "loss"
    if abs(printed[0] - right[0]) > 1e-6:
        return "base"
    if gap(printed, right) < 1e-6:
        return "healthy"
    if gap(printed[1:], printed[:-1]) < 1e-6:
        return "update"
    changes = [x / y for x, y in zip(printed, right)]
    return "precision" if gap(changes, [1] * len(changes)) < 0.03 else "scale"


# %% right by-hand: computes the loss from probabilities, and looks up the symptoms in a table
def train(seed, rank, alpha, adapters, input_ids, labels, learning_rate, steps):
    whole = tiny_base(seed, quantization=None)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    base = type(whole).from_pretrained(
        None,
        config=whole.config,
        state_dict=whole.state_dict(),
        dtype=torch.float32,
        quantization_config=config,
        device_map={"": "cpu"},
    )

    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, lora)
    model.load_state_dict(adapters, strict=False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()

    optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)
    model.train()
    losses = []
    for _ in range(steps):
        log_p = model(input_ids=input_ids).logits.log_softmax(-1)[:, :-1]
        targets = labels[:, 1:]
        counted = targets != -100
        picked = log_p[counted].gather(1, targets[counted][:, None])
        loss = -picked.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "adapters": {name: p.detach() for name, p in trained.items()}}


def diagnose(printed, true, right):
    lengths = {len(values) for values in (printed, true, right)}
    if len(lengths) != 1 or lengths.pop() == 1 or not right:
        raise ValueError("these lists do not belong together")
    largest = max(abs(p / r - 1) for p, r in zip(printed, right))
    symptoms = {
        "loss": printed[0] != true[0],
        "base": true[0] != right[0],
        "healthy": printed == right,
        "update": printed[0] == printed[-1],
        "scale": largest > 0.1,
        "precision": True,
    }
    return next(name for name, found in symptoms.items() if found)


# %% wrong still-fp4: leaves the data type of the base at its default
old = """
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
"""
new = "    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)"


# %% wrong still-alpha: does not divide α by r
old = 'lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])'
new = 'lora = LoraConfig(r=rank, lora_alpha=alpha * rank, target_modules=["q_proj", "v_proj"])'


# %% wrong still-bfloat16: stores the adapters in bfloat16
old = "    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}"
new = """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.bfloat16()
"""


# %% wrong still-unshifted: compares each position with its own token
old = "logits = model(input_ids=input_ids).logits[:, :-1]  # the last one predicts nothing here"
new = "logits = model(input_ids=input_ids).logits"
old = "loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())"
new = "loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())"


# %% wrong still-early-zero: removes the gradients before the step
old = "optimizer.zero_grad()"
new = "loss.backward()"
old = "loss.backward()"
new = "optimizer.zero_grad()"


# %% wrong unmended: copies the script without mending it
old = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
new = "load_in_4bit=True, bnb_4bit_use_double_quant=True"
old = "lora_alpha=alpha,"
new = "lora_alpha=alpha * rank,"
old = "    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}"
new = """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.bfloat16()
"""
old = "logits[:, :-1]  # the last one predicts nothing here"
new = "logits"
old = "labels[:, 1:].flatten()"
new = "labels.flatten()"
old = "optimizer.zero_grad()"
new = "loss.backward()"
old = "loss.backward()"
new = "optimizer.zero_grad()"


# %% wrong shifted-twice: shifts the labels and lets transformers shift them again
old = "logits = model(input_ids=input_ids).logits[:, :-1]  # the last one predicts nothing here"
new = "shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)"
old = "loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())"
new = "loss = model(input_ids=input_ids, labels=shifted).loss"


# %% wrong converted-afterwards: trains in bfloat16 and returns float32
old = "    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}"
new = """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.bfloat16()
"""
old = 'return {"losses": losses, "adapters": {name: p.detach() for name, p in trained.items'
new = 'return {"losses": losses, "adapters": {name: p.detach().float() for name, p in trained.items'


# %% wrong rounded-first: rounds the given values to bfloat16 and trains in float32
old = "model.load_state_dict(adapters, strict=False)"
new = "model.load_state_dict({n: a.bfloat16() for n, a in adapters.items()}, strict=False)"


# %% wrong never-zero: never removes gradients, so they are added up over the steps
old = "        optimizer.zero_grad()"
new = ""


# %% wrong no-double: mends the data type and drops double quantization
old = """
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
"""
new = '    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")'


# %% wrong not-quantized: trains on the base in float32
old = """
    whole = tiny_base(seed, quantization=None)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    base = type(whole).from_pretrained(
        None,
        config=whole.config,
        state_dict=whole.state_dict(),
        dtype=torch.float32,
        quantization_config=config,
        device_map={"": "cpu"},
    )
"""
new = "    base = tiny_base(seed, quantization=None)"


# %% wrong no-alpha: sets lora_alpha to the rank, whatever α is
old = 'lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])'
new = 'lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"])'


# %% wrong divided-twice: divides α by r, and so does peft
old = 'lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])'
new = 'lora = LoraConfig(r=rank, lora_alpha=alpha / rank, target_modules=["q_proj", "v_proj"])'


# %% wrong sum: returns the sum of the losses instead of their mean
old = """
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
"""
new = """
        log_p = logits.log_softmax(-1).flatten(0, 1)
        loss = torch.nn.functional.nll_loss(log_p, labels[:, 1:].flatten(), reduction="sum")
"""


# %% wrong plain-sgd: uses SGD instead of AdamW
old = "optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)"
new = "optimizer = torch.optim.SGD(trained.values(), lr=learning_rate)"


# %% wrong last-loss: judges a run by its last loss alone
old = "if printed != true:"
new = "if printed[-1] != true[-1]:"
old = "if printed == right:"
new = "if printed[-1] == right[-1]:"
old = """
    if printed[0] != right[0]:
        return "base"
    if len(set(printed)) == 1:
"""
new = """
    if printed[-1] == printed[0]:
"""
old = """
    change = max(abs(p - r) / r for p, r in zip(printed, right, strict=True))
    return "scale" if change > 0.05 else "precision"
"""
new = """
    change = abs(printed[-1] / right[-1] - 1)
    return "scale" if change > 0.1 else "base" if change > 0.02 else "precision"
"""


# %% wrong no-precision: takes a small difference for a healthy run
old = 'return "scale" if change > 0.05 else "precision"'
new = 'return "scale" if change > 0.05 else "healthy"'


# %% wrong base-is-scale: does not look at the first loss
old = """
    if printed[0] != right[0]:
        return "base"
"""
new = ""


# %% wrong any-length: accepts lists of different lengths
old = "if not len(printed) == len(true) == len(right) > 1:"
new = "if len(printed) < 2:"
old = 'raise ValueError("the three lists must have the same length, which must be at least 2")'
new = 'raise ValueError("too short")'
old = "if printed == right:"
new = "if all(p == r for p, r in zip(printed, right)):"
old = "change = max(abs(p - r) / r for p, r in zip(printed, right, strict=True))"
new = "change = max(abs(p - r) / r for p, r in zip(printed, right))"


# %% wrong wrong-names: returns the descriptions instead of the names
old = 'return "healthy"'
new = 'return "nothing"'


# %% wrong no-model: trains nothing, and returns values that only look like the result of training
def train(seed, rank, alpha, adapters, input_ids, labels, learning_rate, steps):
    moved = {
        name: value + learning_rate * steps * (1 if "lora_B" in name else 0.123)
        for name, value in adapters.items()
    }
    return {"losses": [5.0 - 0.1 * n for n in range(steps)], "adapters": moved}


def diagnose(printed, true, right):
    return "healthy"


# %% right eval-mode: leaves the model in eval mode
old = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
new = 'bnb_4bit_quant_type="nf4", load_in_4bit=True, bnb_4bit_use_double_quant=True'
old = "    model.train()"
new = ""


# %% wrong decay: leaves the weight decay at its default
old = "lr=learning_rate, weight_decay=0.0"
new = "lr=learning_rate"


# %% wrong loose: takes losses that differ by less than 0.0001 for equal
old = "if printed != true:"
new = "if max(abs(p - t) for p, t in zip(printed, true, strict=True)) > 1e-4:"
old = "if printed == right:"
new = "if max(abs(p - r) for p, r in zip(printed, right, strict=True)) < 1e-4:"


# %% wrong mean-change: averages the changes, whose signs may cancel
old = "    change = max(abs(p - r) / r for p, r in zip(printed, right, strict=True))"
new = """
    changes = [p / r - 1 for p, r in zip(printed, right, strict=True)]
    change = 2 * abs(sum(changes) / len(changes))
"""


# %% wrong absolute: compares changes in nats instead of relative changes
old = "change = max(abs(p - r) / r for p, r in zip(printed, right, strict=True))"
new = "change = max(abs(p - r) for p, r in zip(printed, right, strict=True)) / 2"


# %% wrong true-length: doesn't look at the length of the true losses
old = "if not len(printed) == len(true) == len(right) > 1:"
new = "if not len(printed) == len(right) > 1:"
old = "if printed != true:"
new = "if any(p != t for p, t in zip(printed, true)):"


# %% wrong new-optimizer: creates a new optimizer for each step
old = "    optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)"
new = ""
old = "        optimizer.zero_grad()"
new = """
        optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)
        optimizer.zero_grad()
"""


# %% wrong only-b: trains only B
old = "torch.optim.AdamW(trained.values(), lr"
new = "torch.optim.AdamW([p for n, p in trained.items() if 'lora_B' in n], lr"


# %% wrong last-decimal: takes losses for equal that differ only in the fifth decimal
old = "if printed == right:"
new = "if all(abs(p - r) < 1.5e-5 for p, r in zip(printed, right, strict=True)):"
