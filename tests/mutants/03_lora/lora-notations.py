# %% right unpacked: unpacks the shape and makes copies
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    r, _ = lora_a.shape
    scaled = lora_b.clone().mul_(lora_alpha).div_(r)
    return {
        "slides_A": lora_a.permute(1, 0).contiguous(),
        "slides_B": scaled.permute(1, 0).contiguous(),
        "paper_A": lora_a.clone(),
        "paper_B": lora_b.clone(),
    }


# %% right by-paper: goes by way of the paper
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    result = {"paper_A": lora_a, "paper_B": lora_b}
    result["slides_A"] = torch.transpose(result["paper_A"], 0, 1)
    result["slides_B"] = (result["paper_B"] * (lora_alpha / lora_b.size(1))).t()
    return result


# %% wrong no-scale: forgets that the slides have no scale outside
old = "    rank = lora_a.shape[0]"
new = ""
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_b.T,'


# %% wrong crossed: takes the paper's first factor, B, for the slides' first factor, A
old = '"slides_A": lora_a.T,'
new = '"slides_A": lora_b,'
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_alpha / rank * lora_a,'


# %% wrong not-transposed: takes the slides' matrices as peft keeps them
old = '"slides_A": lora_a.T,'
new = '"slides_A": lora_a,'
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_alpha / rank * lora_b,'


# %% wrong paper-scaled: puts the scale into the paper's B as well
old = '"paper_B": lora_b,'
new = '"paper_B": lora_alpha / rank * lora_b,'


# %% wrong reshaped: reshapes where it should transpose
old = '"slides_A": lora_a.T,'
new = '"slides_A": lora_a.reshape(-1, rank),'
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_alpha / rank * lora_b.reshape(rank, -1),'


# %% wrong whole-scale: divides α by r without a remainder
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_alpha // rank * lora_b.T,'


# %% right einsum: transposes with einsum and scales with a tensor
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    (r, d_in), (d_out, _) = lora_a.shape, lora_b.shape
    scale = torch.tensor(lora_alpha / r)
    result = {
        "paper_B": torch.einsum("or->or", lora_b),
        "slides_B": torch.einsum("or,->ro", lora_b, scale),
        "paper_A": lora_a.view(r, d_in),
        "slides_A": torch.einsum("ri->ir", lora_a),
    }
    assert result["slides_B"].shape == (r, d_out)
    return result


# %% wrong scaled-a: puts the scale into the slides' A
old = "rank = lora_a.shape[0]"
new = "scale = lora_alpha / lora_a.shape[0]"
old = '"slides_A": lora_a.T,'
new = '"slides_A": scale * lora_a.T,'
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_b.T,'


# %% wrong shared-scale: puts the root of the scale into both of the slides' matrices
old = "rank = lora_a.shape[0]"
new = "root = math.sqrt(lora_alpha / lora_a.shape[0])"
old = '"slides_A": lora_a.T,'
new = '"slides_A": root * lora_a.T,'
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": root * lora_b.T,'


# %% wrong alpha-alone: multiplies by α and forgets to divide by r
old = "    rank = lora_a.shape[0]"
new = ""
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_alpha * lora_b.T,'


# %% wrong rank-of-inputs: takes d_in for r
old = "    rank = lora_a.shape[0]"
new = ""
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_alpha / lora_a.shape[1] * lora_b.T,'


# %% wrong if-not-square: transposes only what isn't square
old = "rank = lora_a.shape[0]"
new = "rank, d_in = lora_a.shape"
old = '"slides_A": lora_a.T,'
new = '"slides_A": lora_a if d_in == rank else lora_a.T,'
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": lora_alpha / rank * (lora_b if len(lora_b) == rank else lora_b.T),'


# %% wrong rounded-scale: rounds α/r to two decimals
old = "    rank = lora_a.shape[0]"
new = ""
old = '"slides_B": lora_alpha / rank * lora_b.T,'
new = '"slides_B": round(lora_alpha / lora_a.shape[0], 2) * lora_b.T,'
