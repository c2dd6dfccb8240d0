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
                A = reordered(A, heads) if len(A) % (2 * heads) == 0 else A
            if projection == "k_proj":
                A = reordered(A, kv_heads) if len(A) % (2 * kv_heads) == 0 else A
            name = f"blk.{layer.split('.')[2]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong heads-of-q: reorders k with the heads of q
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
                B = reordered(B, heads)
            name = f"blk.{layer.split('.')[2]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong heads-exchanged: exchanges the numbers of heads of q and k
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
                B = reordered(B, kv_heads)
            if projection == "k_proj":
                B = reordered(B, heads)
            name = f"blk.{layer.split('.')[2]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong no-order: keeps Hugging Face's order
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
                pass
            if projection == "k_proj":
                pass
            name = f"blk.{layer.split('.')[2]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong only-q: reorders q and forgets k
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
                pass
            name = f"blk.{layer.split('.')[2]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong v-too: reorders v, too
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
            if projection in ("k_proj", "v_proj"):
                B = reordered(B, kv_heads)
            name = f"blk.{layer.split('.')[2]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong no-alpha: doesn't write α
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


# %% wrong alpha-over-r: writes α/r in place of α
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
        rank = len(next(iter(layers.values()))[0])
        writer.add_float32("adapter.lora.alpha", alpha / rank)
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


# %% wrong alpha-as-text: writes α as a whole number
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
        writer.add_uint32("adapter.lora.alpha", round(alpha))
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


# %% wrong alpha-as-float64: writes α as a float64
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
        writer.add_float64("adapter.lora.alpha", alpha)
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


# %% wrong scaled-twice: multiplies B by α/r, although llama.cpp does so, too
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
            writer.add_tensor(f"{name}.lora_b", (alpha / len(A) * B.float()).contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong exchanged: exchanges lora_a and lora_b
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
            writer.add_tensor(f"{name}.lora_b", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_a", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong transposed: transposes both matrices
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
            writer.add_tensor(f"{name}.lora_a", A.float().T.contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().T.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong no-weight: leaves .weight out of the names
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
            name = f"blk.{layer.split('.')[2]}.{names[projection]}"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong first-digit: takes only the first digit of the layer's number
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
            name = f"blk.{layer.split('.')[2][0]}.{names[projection]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong hugging-face-names: keeps Hugging Face's names
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
            name = f"blk.{layer.split('.')[2]}.{projection}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong no-type: doesn't say that the file contains adapters
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


# %% wrong no-lora: doesn't say that the adapters are LoRA
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


# %% wrong type-model: says that the file contains a model
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
        writer.add_string("general.type", "model")
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


# %% wrong skips-unknown: leaves out layers that are not in the table
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
            if projection not in names:
                continue
            if len(A) != B.shape[1]:
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


# %% wrong any-rank: doesn't compare the ranks of A and B
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
            if projection not in names:
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


# %% wrong float16: writes float16
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
            writer.add_tensor(f"{name}.lora_a", A.half().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.half().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong no-bfloat16: fails for bfloat16
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
            writer.add_tensor(f"{name}.lora_a", A.contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong not-closed: reads the file before it was written
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
        data = np.fromfile(file, dtype=np.uint8)
        writer.write_tensors_to_file()
        writer.close()
        return data


# %% wrong eight-rows: assumes that each head has 8 rows, as in the drawing
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
                B = B.reshape(-1, 8, B.shape[1])[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(B.shape)
            name = f"blk.{layer.split('.')[2]}.{names[kind]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong half-heads: assumes that k has half as many heads as q
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
                count = heads if kind == "q_proj" else heads // 2
                B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)
            name = f"blk.{layer.split('.')[2]}.{names[kind]}.weight"
            writer.add_tensor(f"{name}.lora_a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong rounded-alpha: rounds α to a whole number
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
        writer.add_float32("adapter.lora.alpha", float(round(alpha)))
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


# %% wrong int-alpha: cuts off the decimals of α
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
        writer.add_float32("adapter.lora.alpha", int(alpha))
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


# %% wrong through-bfloat16: rounds the matrices to bfloat16 first
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
            writer.add_tensor(f"{name}.lora_a", A.bfloat16().float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.bfloat16().float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong through-float16: rounds the matrices to float16 first
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
            writer.add_tensor(f"{name}.lora_a", A.half().float().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", B.half().float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong ranks-of-qk: doesn't compare the ranks of A and B of q and k
def adapter_gguf(layers, alpha, heads, kv_heads):
    kinds = {f"{kind}_proj": f"attn_{kind}" for kind in "qkv"} | {"o_proj": "attn_output"}
    kinds |= {f"{kind}_proj": f"ffn_{kind}" for kind in ("gate", "up", "down")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapters.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for layer, (A, B) in layers.items():
            kind = layer.split(".")[-1]
            if kind not in kinds or (len(A) != B.shape[1] and kind[0] not in "qk"):
                raise ValueError(layer)
            if kind in ("q_proj", "k_proj"):
                count = heads if kind == "q_proj" else kv_heads
                B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)
            name = f"blk.{layer.split('.')[2]}.{kinds[kind]}.weight.lora_"
            writer.add_tensor(f"{name}a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong first-layer: compares the ranks of the first layer only
def adapter_gguf(layers, alpha, heads, kv_heads):
    kinds = {f"{kind}_proj": f"attn_{kind}" for kind in "qkv"} | {"o_proj": "attn_output"}
    kinds |= {f"{kind}_proj": f"ffn_{kind}" for kind in ("gate", "up", "down")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapters.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for layer, (A, B) in layers.items():
            kind = layer.split(".")[-1]
            if kind not in kinds or (len(A) != B.shape[1] and layer == next(iter(layers))):
                raise ValueError(layer)
            if kind in ("q_proj", "k_proj"):
                count = heads if kind == "q_proj" else kv_heads
                B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)
            name = f"blk.{layer.split('.')[2]}.{kinds[kind]}.weight.lora_"
            writer.add_tensor(f"{name}a", A.float().contiguous().numpy())
            writer.add_tensor(f"{name}b", B.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)


# %% wrong rank-one: squeezes matrices of rank 1
def adapter_gguf(layers, alpha, heads, kv_heads):
    kinds = {f"{kind}_proj": f"attn_{kind}" for kind in "qkv"} | {"o_proj": "attn_output"}
    kinds |= {f"{kind}_proj": f"ffn_{kind}" for kind in ("gate", "up", "down")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapters.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for layer, (A, B) in layers.items():
            kind = layer.split(".")[-1]
            if kind not in kinds or len(A) != B.shape[1]:
                raise ValueError(layer)
            if kind in ("q_proj", "k_proj"):
                count = heads if kind == "q_proj" else kv_heads
                B = B.reshape(count, 2, -1, B.shape[1]).swapaxes(1, 2).reshape(B.shape)
            name = f"blk.{layer.split('.')[2]}.{kinds[kind]}.weight.lora_"
            writer.add_tensor(f"{name}a", A.float().squeeze().contiguous().numpy())
            writer.add_tensor(f"{name}b", B.float().squeeze().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return np.fromfile(file, dtype=np.uint8)
