# %% right by-hand: cross entropy, autograd.grad and Adam's formula, no optimizer
def training_step(seed, lora, adapters, input_ids, labels, learning_rate):
    targets = labels[:, 1:]
    keep = targets != -100
    if keep.sum() == 0:
        raise ValueError("nothing to learn")
    model = get_peft_model(tiny_base(seed), LoraConfig(**lora))
    trained = dict((n, p) for n, p in model.named_parameters() if n in adapters)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(adapters[name])

    def batch_loss():
        log_p = model(input_ids=input_ids).logits[:, :-1].log_softmax(-1)
        return -log_p[keep].gather(1, targets[keep][:, None]).mean()

    loss = batch_loss()
    gradients = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
    with torch.no_grad():
        for name, parameter in trained.items():
            g = gradients[name]
            m, v = 0.1 * g / (1 - 0.9), 0.001 * g**2 / (1 - 0.999)
            parameter -= learning_rate * m / (v.sqrt() + 1e-8)
        after = batch_loss()
    new = {name: p.detach().clone() for name, p in trained.items()}
    return {
        "loss": loss.item(),
        "gradients": gradients,
        "adapters": new,
        "loss_after": after.item(),
    }


# %% right library: prepared for k-bit training, in train mode, with checkpointing
def training_step(seed, lora, adapters, input_ids, labels, learning_rate):
    from peft import prepare_model_for_kbit_training, set_peft_model_state_dict

    if (labels[:, 1:] == -100).all():
        raise ValueError("no token carries loss")
    model = prepare_model_for_kbit_training(tiny_base(seed))
    model = get_peft_model(model, LoraConfig(**lora)).train()
    renamed = {name.replace(".default", ""): value for name, value in adapters.items()}
    set_peft_model_state_dict(model, renamed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    loss = model(input_ids, labels=labels).loss
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    optimizer.zero_grad()
    return {
        "loss": loss.item(),
        "gradients": gradients,
        "adapters": {n: p for n, p in model.named_parameters() if p.requires_grad},
        "loss_after": model(input_ids, labels=labels).loss.item(),
    }


# %% wrong decay: leaves torch's default weight decay on
old = "optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)"
new = "optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate)"


# %% wrong shifted-twice: shifts the labels before the model shifts them again
old = "    loss = model(input_ids=input_ids, labels=labels).loss"
new = """
    batch = {"input_ids": input_ids[:, :-1], "labels": labels[:, 1:]}
    loss = model(**batch).loss
"""
old = "loss_after = model(input_ids=input_ids, labels=labels).loss"
new = "loss_after = model(**batch).loss"


# %% wrong fresh: trains the adapters that peft draws, not the given ones
old = "    model.load_state_dict(adapters, strict=False)"
new = ""


# %% wrong every-row: raises as soon as one row of the batch carries no loss
old = "if not (labels[:, 1:] != -100).any():"
new = "if not (labels[:, 1:] != -100).any(dim=1).all():"


# %% wrong norms-too: moves the base's norms in the same step, and doesn't tell
old = "    optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)"
new = """
    norms = [p.requires_grad_(True) for name, p in model.named_parameters() if "norm" in name]
    parameters = [*trained.values(), *norms]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
"""


# %% wrong clipped: clips the gradients before it returns them
old = "    optimizer.step()"
new = """
    torch.nn.utils.clip_grad_norm_(trained.values(), 0.3)
    optimizer.step()
"""


# %% right clones: copies the gradients, and removes them before the next pass
old = """
    loss.backward()
    optimizer.step()
"""
new = """
    optimizer.zero_grad()
    loss.backward()
    gradients = {name: p.grad.detach().clone() for name, p in trained.items()}
    optimizer.step()
    optimizer.zero_grad()
"""
old = '"gradients": {name: p.grad for name, p in trained.items()},'
new = '"gradients": gradients,'


# %% right cross-entropy: computes the loss itself, in eval mode
old = "    loss = model(input_ids=input_ids, labels=labels).loss"
new = """
    def batch_loss():
        logits = model.eval()(input_ids=input_ids).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())

    loss = batch_loss()
"""
old = "loss_after = model(input_ids=input_ids, labels=labels).loss"
new = "loss_after = batch_loss()"


# %% wrong zero-grad: removes the gradients before it reads them
old = "    optimizer.step()"
new = """
    optimizer.step()
    optimizer.zero_grad()
"""


# %% wrong zeroed: sets the gradients to zero before it reads them
old = "    optimizer.step()"
new = """
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
"""


# %% wrong row-mean: averages the losses of rows
old = "    loss = model(input_ids=input_ids, labels=labels).loss"
new = """
    def batch_loss():
        logits = model(input_ids=input_ids).logits[:, :-1]
        rows = zip(logits, labels[:, 1:], strict=True)
        means = [torch.nn.functional.cross_entropy(a, b) for a, b in rows if (b != -100).any()]
        return torch.stack(means).mean()

    loss = batch_loss()
"""
old = "loss_after = model(input_ids=input_ids, labels=labels).loss"
new = "loss_after = batch_loss()"


# %% wrong summed: adds the losses of tokens up
old = "    loss = model(input_ids=input_ids, labels=labels).loss"
new = """
    def batch_loss():
        logits = model(input_ids=input_ids).logits[:, :-1]
        wanted = labels[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum")

    loss = batch_loss()
"""
old = "loss_after = model(input_ids=input_ids, labels=labels).loss"
new = "loss_after = batch_loss()"


# %% wrong all-tokens: divides by the number of all tokens
old = "    loss = model(input_ids=input_ids, labels=labels).loss"
new = """
    def batch_loss():
        logits = model(input_ids=input_ids).logits[:, :-1]
        wanted = labels[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted, reduction="sum"
        ) / len(wanted)

    loss = batch_loss()
"""
old = "loss_after = model(input_ids=input_ids, labels=labels).loss"
new = "loss_after = batch_loss()"


# %% wrong unshifted: compares each output with the token at the same position
old = "    loss = model(input_ids=input_ids, labels=labels).loss"
new = """
    def batch_loss():
        logits = model(input_ids=input_ids).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    loss = batch_loss()
"""
old = "loss_after = model(input_ids=input_ids, labels=labels).loss"
new = "loss_after = batch_loss()"


# %% wrong unmasked: counts all tokens
old = "loss = model(input_ids=input_ids, labels=labels).loss"
new = "loss = model(input_ids=input_ids, labels=input_ids).loss"
old = "loss_after = model(input_ids=input_ids, labels=labels).loss"
new = "loss_after = model(input_ids=input_ids, labels=input_ids).loss"


# %% wrong first-tokens: doesn't notice that only first tokens have labels
old = "if not (labels[:, 1:] != -100).any():"
new = "if not (labels != -100).any():"


# %% wrong unchecked: returns NaN if no token counts
old = """
    if not (labels[:, 1:] != -100).any():
        raise ValueError("no token counts")
"""
new = ""


# %% wrong sgd: takes a step of plain gradient descent
old = "optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)"
new = "optimizer = torch.optim.SGD(trained.values(), lr=learning_rate)"


# %% wrong fixed-rate: takes the learning rate of the lecture
old = "optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)"
new = "optimizer = torch.optim.AdamW(trained.values(), lr=4e-3, weight_decay=0.0)"


# %% wrong too-early: computes the second loss before the step
old = "    optimizer.step()"
new = ""
old = "    return {"
new = """
    optimizer.step()
    return {
"""


# %% wrong twice: computes the gradients twice, which adds them up
old = "    loss.backward()"
new = """
    loss.backward(retain_graph=True)
    loss.backward()
"""


# %% wrong other-base: starts from the base of seed 0
old = "model = get_peft_model(tiny_base(seed), LoraConfig(**lora))"
new = "model = get_peft_model(tiny_base(0), LoraConfig(**lora))"


# %% wrong padding: takes token 0 for padding
def training_step(seed, lora, adapters, input_ids, labels, learning_rate):
    if not (labels[:, 1:] != -100).any():
        raise ValueError("no token counts")
    labels = torch.where(labels == 0, -100, labels)
    model = get_peft_model(tiny_base(seed), LoraConfig(**lora))
    model.load_state_dict(adapters, strict=False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=learning_rate, weight_decay=0.0)

    loss = model(input_ids=input_ids, labels=labels).loss
    loss.backward()
    optimizer.step()

    with torch.no_grad():
        loss_after = model(input_ids=input_ids, labels=labels).loss
    return {
        "loss": loss.item(),
        "gradients": {name: p.grad for name, p in trained.items()},
        "adapters": {name: p.detach() for name, p in trained.items()},
        "loss_after": loss_after.item(),
    }


# %% wrong rounded: rounds the losses to three decimals
old = '"loss": loss.item(),'
new = '"loss": round(loss.item(), 3),'
old = '"loss_after": loss_after.item(),'
new = '"loss_after": round(loss_after.item(), 3),'


# %% wrong half-gradients: rounds the gradients to float16
old = '"gradients": {name: p.grad for name, p in trained.items()},'
new = '"gradients": {name: p.grad.half().float() for name, p in trained.items()},'


# %% wrong three-arguments: passes only three of the arguments to LoraConfig
old = "    model = get_peft_model(tiny_base(seed), LoraConfig(**lora))"
new = """
    lora = {name: lora[name] for name in ("r", "lora_alpha", "target_modules")}
    model = get_peft_model(tiny_base(seed), LoraConfig(**lora))
"""
