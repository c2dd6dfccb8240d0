# %% base default: a right answer, which the answers below change unless they name another base
def adapter_gguf(layers, alpha, heads, kv_heads):
    names = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapters.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for layer, (A, B) in layers.items():
            kind = layer.rpartition(".")[2]
            if kind not in names:
                raise ValueError(layer)
            if len(A) != B.shape[1]:
                raise ValueError(layer)
            if kind in ("q_proj", "k_proj"):
                count = heads if kind == "q_proj" else kv_heads
                B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)
            name = f"blk.{layer.split('.')[2]}.{names[kind]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% right name-map: takes llama.cpp's names from the package gguf
def adapter_gguf(layers, alpha, heads, kv_heads):
    import gguf

    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 100)
    count = {"q_proj": heads, "k_proj": kv_heads}
    with tempfile.TemporaryDirectory() as folder:
        writer = GGUFWriter(f"{folder}/a.gguf", "llama")
        writer.add_type("adapter")
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
        for layer, (A, B) in layers.items():
            name = table.get_name(layer)
            if name is None or ".layers." not in layer or A.shape[0] != B.shape[1]:
                raise ValueError(layer)
            if kind := count.get(layer.rpartition(".")[2]):
                d = len(B) // kind
                order = np.arange(d).reshape(2, -1).T.flatten()
                B = torch.cat([head[order] for head in B.chunk(kind)])
            writer.add_tensor(f"{name}.weight.lora_a", A.to(torch.float32).numpy())
            writer.add_tensor(f"{name}.weight.lora_b", B.to(torch.float32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.frombuffer(Path(f"{folder}/a.gguf").read_bytes(), dtype=np.uint8)


# %% right extra-fields: writes B first, and a name and a description of the file
def adapter_gguf(layers, alpha, heads, kv_heads):
    short = {"o_proj": "attn_output"} | {f"{k}_proj": f"attn_{k}" for k in "qkv"}
    short |= {f"{k}_proj": f"ffn_{k}" for k in ("gate", "up", "down")}
    tensors = {}
    for layer, (A, B) in sorted(layers.items()):
        parts = layer.split(".")
        if parts[-1] not in short:
            raise ValueError(f"unknown layer {parts[-1]}")
        if B.shape[-1] != A.shape[0]:
            raise ValueError("different ranks")
        for kind, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if parts[-1] == kind:
                one = B.unflatten(0, (count, -1))
                half = one.shape[1] // 2
                B = torch.stack([one[:, :half], one[:, half:]], dim=2).reshape(B.shape)
        name = f"blk.{int(parts[-3])}.{short[parts[-1]]}.weight"
        tensors[f"{name}.lora_b"], tensors[f"{name}.lora_a"] = B, A
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tuned.gguf")
        writer = GGUFWriter(str(file), arch="llama")
        writer.add_name("tuned")
        writer.add_description("adapters of a course")
        writer.add_float32("adapter.lora.alpha", alpha)
        writer.add_string("adapter.type", "lora")
        writer.add_string("general.type", "adapter")
        for name, matrix in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(matrix.float().numpy()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.array(bytearray(file.read_bytes()), dtype=np.uint8)


# %% right helper: has a function for the new order
def adapter_gguf(layers, alpha, heads, kv_heads):
    names = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    }

    def reordered(rows, count):
        halves = rows.reshape(count, 2, -1, rows.shape[1])
        return halves.swapaxes(1, 2).reshape(rows.shape)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapters.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for layer, (A, B) in layers.items():
            projection = layer.split(".")[-1]
            if projection not in names or len(A) != B.shape[1]:
                raise ValueError(f"the layer {layer} can't be written")
            if projection == "q_proj":
                B = reordered(B, heads)
            if projection == "k_proj":
                B = reordered(B, kv_heads)
            name = f"blk.{layer.split('.')[2]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong a-reordered: reorders the rows of A instead of those of B
base = "helper"
old = "B = reordered(B, heads)"
new = "A = reordered(A, heads) if len(A) % (2 * heads) == 0 else A"
old = "B = reordered(B, kv_heads)"
new = "A = reordered(A, kv_heads) if len(A) % (2 * kv_heads) == 0 else A"


# %% wrong heads-of-q: reorders k with the heads of q
base = "helper"
old = "B = reordered(B, kv_heads)"
new = "B = reordered(B, heads)"


# %% wrong heads-exchanged: exchanges the numbers of heads of q and k
base = "helper"
old = "B = reordered(B, heads)"
new = "B = reordered(B, kv_heads)"
old = "B = reordered(B, kv_heads)"
new = "B = reordered(B, heads)"


# %% wrong no-order: keeps Hugging Face's order
base = "helper"
old = "B = reordered(B, heads)"
new = "pass"
old = "B = reordered(B, kv_heads)"
new = "pass"


# %% wrong only-q: reorders q and forgets k
base = "helper"
old = "B = reordered(B, kv_heads)"
new = "pass"


# %% wrong v-too: reorders v, too
base = "helper"
old = 'if projection == "k_proj":'
new = 'if projection in ("k_proj", "v_proj"):'


# %% wrong no-alpha: doesn't write α
base = "helper"
old = '        writer.add_float32("adapter.lora.alpha", alpha)'
new = ""


# %% wrong alpha-over-r: writes α/r in place of α
base = "helper"
old = '        writer.add_float32("adapter.lora.alpha", alpha)'
new = """
        rank = len(next(iter(layers.values()))[0])
        writer.add_float32("adapter.lora.alpha", alpha / rank)
"""


# %% wrong alpha-as-text: writes α as a whole number
base = "helper"
old = 'writer.add_float32("adapter.lora.alpha", alpha)'
new = 'writer.add_uint32("adapter.lora.alpha", round(alpha))'


# %% wrong alpha-as-float64: writes α as a float64
base = "helper"
old = 'writer.add_float32("adapter.lora.alpha", alpha)'
new = 'writer.add_float64("adapter.lora.alpha", alpha)'


# %% wrong scaled-twice: multiplies B by α/r, although llama.cpp does so, too
base = "helper"
old = 'writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_b", (alpha / len(A) * B.float()).contiguous().numpy())'


# %% wrong exchanged: exchanges lora_a and lora_b
base = "helper"
old = 'writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_b", A.float().contiguous().numpy())'
old = 'writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_a", B.float().contiguous().numpy())'


# %% wrong transposed: transposes both matrices
base = "helper"
old = 'writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_a", A.float().T.contiguous().numpy())'
old = 'writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_b", B.float().T.contiguous().numpy())'


# %% wrong no-weight: leaves .weight out of the names
base = "helper"
old = "blk.{layer.split('.')[2]}.{names[projection]}.weight"
new = "blk.{layer.split('.')[2]}.{names[projection]}"


# %% wrong first-digit: takes only the first digit of the layer's number
base = "helper"
old = "blk.{layer.split('.')[2]}.{names[projection]}.weight"
new = "blk.{layer.split('.')[2][0]}.{names[projection]}.weight"


# %% wrong hugging-face-names: keeps Hugging Face's names
base = "helper"
old = "blk.{layer.split('.')[2]}.{names[projection]}.weight"
new = "blk.{layer.split('.')[2]}.{projection}.weight"


# %% wrong no-type: doesn't say that the file contains adapters
base = "helper"
old = '        writer.add_string("general.type", "adapter")'
new = ""


# %% wrong no-lora: doesn't say that the adapters are LoRA
base = "helper"
old = '        writer.add_string("adapter.type", "lora")'
new = ""


# %% wrong type-model: says that the file contains a model
base = "helper"
old = 'writer.add_string("general.type", "adapter")'
new = 'writer.add_string("general.type", "model")'


# %% wrong skips-unknown: leaves out layers that are not in the table
base = "helper"
old = "            if projection not in names or len(A) != B.shape[1]:"
new = """
            if projection not in names:
                continue
            if len(A) != B.shape[1]:
"""


# %% wrong any-rank: doesn't compare the ranks of A and B
base = "helper"
old = "if projection not in names or len(A) != B.shape[1]:"
new = "if projection not in names:"


# %% wrong float16: writes float16
base = "helper"
old = 'writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_a", A.half().contiguous().numpy())'
old = 'writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_b", B.half().contiguous().numpy())'


# %% wrong no-bfloat16: fails for bfloat16
base = "helper"
old = 'writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_a", A.contiguous().numpy())'
old = 'writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_b", B.contiguous().numpy())'


# %% wrong not-closed: reads the file before it was written
base = "helper"
old = "        writer.write_tensors_to_file()"
new = """
        data = np.fromfile(file, dtype=np.uint8)
        writer.write_tensors_to_file()
"""
old = "return np.fromfile(file, dtype=np.uint8)"
new = "return data"


# %% wrong eight-rows: assumes that each head has 8 rows, as in the drawing
old = "B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)"
new = "B = B.reshape(-1, 8, B.shape[1])[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(B.shape)"


# %% wrong half-heads: assumes that k has half as many heads as q
old = "                B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)"
new = """
                count = heads if kind == "q_proj" else heads // 2
                B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)
"""


# %% wrong rounded-alpha: rounds α to a whole number
old = 'writer.add_float32("adapter.lora.alpha", alpha)'
new = 'writer.add_float32("adapter.lora.alpha", float(round(alpha)))'


# %% wrong int-alpha: cuts off the decimals of α
old = 'writer.add_float32("adapter.lora.alpha", alpha)'
new = 'writer.add_float32("adapter.lora.alpha", int(alpha))'


# %% wrong through-bfloat16: rounds the matrices to bfloat16 first
old = 'writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_a", A.bfloat16().float().contiguous().numpy())'
old = 'writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_b", B.bfloat16().float().contiguous().numpy())'


# %% wrong through-float16: rounds the matrices to float16 first
old = 'writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_a", A.half().float().contiguous().numpy())'
old = 'writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())'
new = 'writer.add_tensor(f"{name}.lora_b", B.half().float().contiguous().numpy())'


# %% wrong ranks-of-qk: doesn't compare the ranks of A and B of q and k
old = "if len(A) != B.shape[1]:"
new = 'if len(A) != B.shape[1] and kind[0] not in "qk":'


# %% wrong first-layer: compares the ranks of the first layer only
old = "if len(A) != B.shape[1]:"
new = "if len(A) != B.shape[1] and layer == next(iter(layers)):"


# %% wrong rank-one: squeezes matrices of rank 1
old = 'lora_a", A.float().contiguous().numpy())'
new = 'lora_a", A.float().squeeze().contiguous().numpy())'
old = 'lora_b", B.float().contiguous().numpy())'
new = 'lora_b", B.float().squeeze().contiguous().numpy())'
