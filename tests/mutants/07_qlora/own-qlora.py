# %% right functional: measures distances to the levels, and merges each update into its weight
NF4 = torch.tensor(
    [-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0]
    + [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
)


def quantize_blocks(weight):
    flat = weight.flatten()
    if len(flat) % 64 != 0:
        raise ValueError("incomplete blocks")
    constants = torch.stack([block.abs().max() for block in flat.split(64)])
    scaled = flat / constants.clamp(min=1e-30).repeat_interleave(64)
    nearest = (scaled[:, None] - NF4).abs().argmin(dim=1)
    high, low = nearest.view(-1, 2).unbind(dim=1)
    return (high * 16 + low).byte(), constants


def qlora_linear(x, codes, constants, lora_A=None, lora_B=None, alpha=1.0):
    weight = torch.empty(2 * len(codes))
    weight[0::2], weight[1::2] = NF4[(codes // 16).int()], NF4[(codes % 16).int()]
    weight = (weight * constants.repeat_interleave(64)).view(-1, x.shape[-1])
    if lora_A is not None:
        weight = weight + alpha / lora_A.shape[0] * lora_B @ lora_A
    return torch.nn.functional.linear(x, weight)


def own_qlora(seed, adapters, alpha, input_ids, labels):
    model = tiny_base(seed, quantization=None)
    layers = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layers[f"base_model.model.{name}."] = layer
    trained = {name: a.clone().requires_grad_() for name, a in adapters.items()}
    for name in trained:
        if name.partition("lora_")[0] not in layers:
            raise ValueError(f"no layer for {name}")

    for name, layer in layers.items():
        a = trained.get(f"{name}lora_A.default.weight")
        b = trained.get(f"{name}lora_B.default.weight")
        codes, constants = quantize_blocks(layer.weight.detach())
        del layer.weight

        def forward(x, codes=codes, constants=constants, a=a, b=b):
            return qlora_linear(x, codes, constants, a, b, alpha)

        layer.forward = forward
    logits = model(input_ids).logits
    targets = labels[:, 1:]
    counted = targets != -100
    loss = torch.nn.functional.cross_entropy(logits[:, :-1][counted], targets[counted])
    found = torch.autograd.grad(loss, list(trained.values()))
    return {"loss": loss.item(), "logits": logits, "gradients": dict(zip(trained, found))}


# %% right lookup: replaces layers through their parents, and dequantizes with gather
NF4 = torch.tensor(
    [-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0]
    + [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
)


def quantize_blocks(weight):
    if weight.numel() % 64:
        raise ValueError(f"{weight.numel()} weights are not complete blocks of 64")
    blocks = weight.reshape(-1, 64)
    constants = blocks.abs().amax(dim=1)
    scaled = blocks / constants.where(constants > 0, 1)[:, None]
    codes = torch.bucketize(scaled, (NF4[:-1] + NF4[1:]) / 2).flatten().to(torch.uint8)
    return codes[::2] * 16 + codes[1::2], constants


def qlora_linear(x, codes, constants, lora_A=None, lora_B=None, alpha=1.0):
    nibbles = torch.cat([codes[:, None] >> 4, codes[:, None] & 0x0F], dim=1)
    nibbles = nibbles.view(-1).to(torch.int64)
    weight = NF4.gather(0, nibbles).unflatten(0, (-1, 64)).mul(constants.unsqueeze(1))
    out = torch.einsum("...i,oi->...o", x, weight.reshape(-1, x.size(-1)))
    if lora_A is not None and lora_B is not None:
        hidden = torch.einsum("...i,ri->...r", x, lora_A)
        out = out + torch.einsum("...r,or->...o", hidden, lora_B) * (alpha / lora_A.size(0))
    return out


class Layer(torch.nn.Module):
    def __init__(self, weight, pair, alpha):
        super().__init__()
        codes, constants = quantize_blocks(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("constants", constants)
        self.pair, self.alpha = torch.nn.ParameterDict(pair), alpha

    def forward(self, x):
        pair = self.pair if len(self.pair) else {"A": None, "B": None}
        return qlora_linear(x, self.codes, self.constants, pair["A"], pair["B"], self.alpha)


def own_qlora(seed, adapters, alpha, input_ids, labels):
    model = tiny_base(seed, quantization=None)
    for parameter in model.parameters():
        parameter.requires_grad = False
    left = dict(adapters)
    for block_number, block in enumerate(model.model.layers):
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    where = "self_attn" if part is block.self_attn else "mlp"
                    key = f"base_model.model.model.layers.{block_number}.{where}.{name}.lora_"
                    pair = {c: left.pop(f"{key}{c}.default.weight", None) for c in "AB"}
                    pair = {c: torch.nn.Parameter(a) for c, a in pair.items() if a is not None}
                    setattr(part, name, Layer(layer.weight, pair, alpha))
    if left:
        raise ValueError(f"{len(left)} adapters belong to no layer")
    out = model(input_ids=input_ids, labels=labels)
    out.loss.backward()
    gradients = {}
    for name in adapters:
        layer, letter = name.removeprefix("base_model.model.").split(".lora_")
        gradients[name] = model.get_submodule(layer).pair[letter[0]].grad
    return {"loss": float(out.loss), "logits": out.logits.detach(), "gradients": gradients}


# %% wrong low-first: stores the first code of a pair in the lower four bits
old = "return codes[::2] * 16 + codes[1::2], constants"
new = "return codes[::2] + codes[1::2] * 16, constants"
old = "pairs = torch.stack([codes >> 4, codes & 15], dim=1)  # (out · in / 2, 2)"
new = "pairs = torch.stack([codes & 15, codes >> 4], dim=1)  # (out · in / 2, 2)"


# %% wrong scale-alpha: multiplies the update by α instead of α/r
old = "return y + alpha / len(lora_A) * (x @ lora_A.T @ lora_B.T)"
new = "return y + alpha * (x @ lora_A.T @ lora_B.T)"


# %% wrong no-scale: leaves the scale out
old = "return y + alpha / len(lora_A) * (x @ lora_A.T @ lora_B.T)"
new = "return y + x @ lora_A.T @ lora_B.T"


# %% wrong zeros: divides a block of zeros by zero
old = "scaled = blocks / constants.where(constants > 0, 1)[:, None]"
new = "scaled = blocks / constants[:, None]"


# %% wrong signed-constant: takes the largest number of a block, not the largest absolute value
old = "constants = blocks.abs().amax(dim=1)"
new = "constants = blocks.amax(dim=1)"


# %% wrong row-constant: uses one constant for each row
old = "constants = blocks.abs().amax(dim=1)"
new = "constants = weight.abs().amax(dim=1).repeat_interleave(weight.shape[1] // 64)"


# %% wrong floor-level: takes the next lower level instead of the nearest
old = "codes = torch.bucketize(scaled, (NF4[:-1] + NF4[1:]) / 2).flatten().to(torch.uint8)"
new = "codes = torch.bucketize(scaled, NF4[1:], right=True).flatten().to(torch.uint8)"


# %% wrong any-length: drops what is left after the last complete block
old = """
    if weight.numel() % 64:
        raise ValueError(f"{weight.numel()} weights are not complete blocks of 64")
    blocks = weight.reshape(-1, 64)
"""
new = "    blocks = weight.flatten()[: weight.numel() // 64 * 64].reshape(-1, 64)"


# %% wrong unpacked: returns a byte for each code
old = "return codes[::2] * 16 + codes[1::2], constants"
new = "return codes, constants"
old = "pairs = torch.stack([codes >> 4, codes & 15], dim=1)  # (out · in / 2, 2)"
new = "pairs = codes"


# %% wrong adapted-only: quantizes only the layers that have an adapter
old = "            model.set_submodule(name, own)"
new = """
            if names[0] in trained:
                model.set_submodule(name, own)
"""


# %% wrong quantized-head: quantizes the output head as well
old = 'if name.endswith("_proj"):'
new = 'if name.endswith("_proj") or name == "lm_head":'


# %% wrong unknown-adapter: ignores adapters that belong to no layer
old = """
    if unused:
        raise ValueError(f"the model has no layer for {', '.join(sorted(unused))}")
"""
new = ""


# %% wrong shifted-twice: shifts the labels before the model shifts them again
old = "    output = model(input_ids=input_ids, labels=labels)"
new = """
    labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    output = model(input_ids=input_ids, labels=labels)
"""


# %% wrong no-quantization: trains beside the weights in float32
old = "self.codes, self.constants = quantize_blocks(weight)"
new = "self.weight = weight"
old = """
            return qlora_linear(x, self.codes, self.constants, self.lora_A, self.lora_B, alpha)
"""
new = """
            y = x @ self.weight.T
            if self.lora_A is None:
                return y
            return y + alpha / len(self.lora_A) * (x @ self.lora_A.T @ self.lora_B.T)
"""


# %% wrong detached: computes the update without gradients for the layers below
old = "return y + alpha / len(lora_A) * (x @ lora_A.T @ lora_B.T)"
new = "return y + alpha / len(lora_A) * (x.detach() @ lora_A.T @ lora_B.T)"


# %% wrong dequantized-once: detaches the output of W x, so that gradients stop at it
old = "y = x @ weight.reshape(-1, x.shape[-1]).T"
new = "y = (x @ weight.reshape(-1, x.shape[-1]).T).detach()"


# %% wrong norms: returns the norms of the gradients
old = '"gradients": {name: parameter.grad for name, parameter in trained.items()},'
new = '"gradients": {name: parameter.grad.norm() for name, parameter in trained.items()},'


# %% wrong backward-twice: adds up the gradients of two backward passes
old = "    output.loss.backward()"
new = """
    output.loss.backward(retain_graph=True)
    output.loss.backward()
"""


# %% wrong int4-levels: uses 16 levels at equal distances
old = "    return codes[::2] * 16 + codes[1::2], constants"
new = """
    return codes[::2] * 16 + codes[1::2], constants


NF4 = torch.linspace(-1, 1, 16)
"""


# %% wrong half-constants: stores the constants in float16
old = "constants = blocks.abs().amax(dim=1)"
new = "constants = blocks.abs().amax(dim=1).half().float()"


# %% wrong layer-numbers: looks only at the numbers of the layers
old = "    if unused:"
new = """
    unused = {name for name in adapters if int(name.split(".")[4]) > 1}
    if unused:
"""


# %% wrong clamped-constants: divides by at least 1e-6
old = "scaled = blocks / constants.where(constants > 0, 1)[:, None]"
new = "scaled = blocks / constants.clamp(min=1e-6)[:, None]"
