# %% base default: a right answer, which the answers below change unless they name another base
def count_parameters(config):
    if config["model_type"] not in ("llama", "mistral"):
        raise ValueError(config["model_type"])
    h, n, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    d = config.get("head_dim") or h // heads
    kv = config.get("num_key_value_heads") or heads
    tables = 1 if config.get("tie_word_embeddings") else 2
    return {
        "embeddings": tables * h * config["vocab_size"],
        "linear": n * (2 * h * d * (heads + kv) + 3 * h * config["intermediate_size"]),
        "norms": (2 * n + 1) * h,
    }


# %% right layer-by-layer: adds up matrices as a model has them
def count_parameters(config: dict) -> dict[str, int]:
    if config["model_type"] != "llama" and config["model_type"] != "mistral":
        raise ValueError("only Llama and Mistral")
    h, inner, heads = (
        config["hidden_size"],
        config["intermediate_size"],
        config["num_attention_heads"],
    )
    kv = config.get("num_key_value_heads")
    if kv is None:
        kv = heads
    d = config.get("head_dim")
    if d is None:
        d = h // heads
    linear, norms = 0, h
    for _ in range(config["num_hidden_layers"]):
        matrices = [(h, heads * d), (h, kv * d), (h, kv * d), (heads * d, h)]
        matrices += [(h, inner), (h, inner), (inner, h)]
        linear += sum(a * b for a, b in matrices)
        norms += 2 * h
    embeddings = config["vocab_size"] * h
    if not config.get("tie_word_embeddings", False):
        embeddings *= 2
    return {"embeddings": embeddings, "linear": linear, "norms": norms}


# %% right defaults: fills the config up first, then one formula
def count_parameters(config):
    known = {key: value for key, value in config.items() if value is not None}
    c = {"num_key_value_heads": known["num_attention_heads"], "tie_word_embeddings": False}
    c["head_dim"] = known["hidden_size"] / known["num_attention_heads"]
    c |= known
    if c["model_type"] not in {"llama", "mistral"}:
        raise ValueError(f"not a Llama: {c['model_type']}")
    h, d, n = c["hidden_size"], int(c["head_dim"]), c["num_hidden_layers"]
    per_layer = h * (
        2 * d * (c["num_attention_heads"] + c["num_key_value_heads"]) + 3 * c["intermediate_size"]
    )
    return {
        "linear": n * per_layer,
        "norms": h + 2 * h * n,
        "embeddings": h * c["vocab_size"] * (2 - int(c["tie_word_embeddings"])),
    }


# %% wrong all-heads: keys and values as wide as queries
def count_parameters(config):
    if config["model_type"] not in ("llama", "mistral"):
        raise ValueError(config["model_type"])
    h, n = config["hidden_size"], config["num_hidden_layers"]
    d = config.get("head_dim") or h // config["num_attention_heads"]
    wide = config["num_attention_heads"] * d
    tables = 1 if config.get("tie_word_embeddings") else 2
    return {
        "embeddings": tables * h * config["vocab_size"],
        "linear": n * (4 * h * wide + 3 * h * config["intermediate_size"]),
        "norms": (2 * n + 1) * h,
    }


# %% wrong never-tied: counts the output layer although it is the embedding
old = '    tables = 1 if config.get("tie_word_embeddings") else 2'
new = ""
old = '"embeddings": tables * h * config["vocab_size"],'
new = '"embeddings": 2 * h * config["vocab_size"],'


# %% wrong two-matrices: an MLP without a gate, as in GPT-2
old = '"linear": n * (2 * h * d * (heads + kv) + 3 * h * config["intermediate_size"]),'
new = '"linear": n * (2 * h * d * (heads + kv) + 2 * h * config["intermediate_size"]),'


# %% wrong no-last-norm: forgets the norm after the last layer
old = '"norms": (2 * n + 1) * h,'
new = '"norms": 2 * n * h,'


# %% wrong own-head-dim: takes hidden_size / heads though head_dim is stated
old = 'd = config.get("head_dim") or h // heads'
new = "d = h // heads"


# %% wrong null-fields: a default only for what is missing; only hidden checks catch it
old = 'd = config.get("head_dim") or h // heads'
new = 'd = config.get("head_dim", h // heads)'
old = 'kv = config.get("num_key_value_heads") or heads'
new = 'kv = config.get("num_key_value_heads", heads)'


# %% right merged: fills in each missing field by itself
def count_parameters(config):
    if config["model_type"] not in ("mistral", "llama"):
        raise ValueError("another family")
    c = dict(config)
    if c.get("num_key_value_heads") is None:
        c["num_key_value_heads"] = c["num_attention_heads"]
    if c.get("head_dim") is None:
        c["head_dim"] = c["hidden_size"] // c["num_attention_heads"]
    q, k = (c[f"num_{kind}_heads"] * c["head_dim"] for kind in ("attention", "key_value"))
    hidden, layers = c["hidden_size"], c["num_hidden_layers"]
    sizes = [hidden * q, hidden * k, hidden * k, q * hidden] + 3 * [hidden * c["intermediate_size"]]
    table = c["vocab_size"] * hidden
    return {
        "embeddings": table + (0 if c.get("tie_word_embeddings") else table),
        "linear": sum(sizes) * layers,
        "norms": hidden + layers * (hidden + hidden),
    }


# %% wrong needs-all: expects all three optional fields
old = """
    d = config.get("head_dim") or h // heads
    kv = config.get("num_key_value_heads") or heads
    tables = 1 if config.get("tie_word_embeddings") else 2
"""
new = """
    d, kv = config.get("head_dim") or h // heads, config["num_key_value_heads"]
    tables = 1 if config["tie_word_embeddings"] else 2
"""


# %% wrong floats: divides with / and so counts in floats
old = 'd = config.get("head_dim") or h // heads'
new = 'd = config.get("head_dim") or h / heads'


# %% wrong any-family: counts every family as if it were Llama
old = """
    if config["model_type"] not in ("llama", "mistral"):
        raise ValueError(config["model_type"])
"""
new = ""


# %% wrong square-output: an output of attention that goes from hidden_size to hidden_size
old = "    return {"
new = """
    attention = h * heads * d + 2 * h * kv * d + h * h
    return {
"""
old = '"linear": n * (2 * h * d * (heads + kv) + 3 * h * config["intermediate_size"]),'
new = '"linear": n * (attention + 3 * h * config["intermediate_size"]),'


# %% wrong one-layer: counts the linear layers of one transformer layer
old = '"linear": n * (2 * h * d * (heads + kv) + 3 * h * config["intermediate_size"]),'
new = '"linear": 2 * h * d * (heads + kv) + 3 * h * config["intermediate_size"],'


# %% wrong tied-by-default: takes a missing tie_word_embeddings for true
old = 'tables = 1 if config.get("tie_word_embeddings") else 2'
new = 'tables = 1 if config.get("tie_word_embeddings", True) else 2'


# %% wrong any-mistral: accepts every family with mistral in its name
old = 'if config["model_type"] not in ("llama", "mistral"):'
new = 'if config["model_type"] != "llama" and "mistral" not in config["model_type"]:'


# %% wrong only-multiples: refuses a hidden_size that isn't a multiple of the heads
old = '    d = config.get("head_dim") or h // heads'
new = """
    if h % heads:
        raise ValueError("not divisible")
    d = config.get("head_dim") or h // heads
"""


# %% wrong mistral-eight: has 8 key-value heads for None in a Mistral model
old = 'kv = config.get("num_key_value_heads") or heads'
new = 'kv = config.get("num_key_value_heads") or (heads if config["model_type"] == "llama" else 8)'


# %% wrong mistral-required: expects a number of key-value heads in a Mistral model
old = '    kv = config.get("num_key_value_heads") or heads'
new = """
    kv = config.get("num_key_value_heads")
    if config["model_type"] == "llama":
        kv = kv or heads
"""
