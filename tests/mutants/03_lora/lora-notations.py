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
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    return {
        "slides_A": lora_a.T,
        "slides_B": lora_b.T,
        "paper_A": lora_a,
        "paper_B": lora_b,
    }


# %% wrong crossed: takes the paper's first factor, B, for the slides' first factor, A
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    rank = lora_a.shape[0]
    return {
        "slides_A": lora_b,
        "slides_B": lora_alpha / rank * lora_a,
        "paper_A": lora_a,
        "paper_B": lora_b,
    }


# %% wrong not-transposed: takes the slides' matrices as peft keeps them
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    rank = lora_a.shape[0]
    return {
        "slides_A": lora_a,
        "slides_B": lora_alpha / rank * lora_b,
        "paper_A": lora_a,
        "paper_B": lora_b,
    }


# %% wrong paper-scaled: puts the scale into the paper's B as well
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    rank = lora_a.shape[0]
    return {
        "slides_A": lora_a.T,
        "slides_B": lora_alpha / rank * lora_b.T,
        "paper_A": lora_a,
        "paper_B": lora_alpha / rank * lora_b,
    }


# %% wrong reshaped: reshapes where it should transpose
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    rank = lora_a.shape[0]
    return {
        "slides_A": lora_a.reshape(-1, rank),
        "slides_B": lora_alpha / rank * lora_b.reshape(rank, -1),
        "paper_A": lora_a,
        "paper_B": lora_b,
    }


# %% wrong whole-scale: divides α by r without a remainder
def from_peft(lora_a: Tensor, lora_b: Tensor, lora_alpha: float) -> dict[str, Tensor]:
    rank = lora_a.shape[0]
    return {
        "slides_A": lora_a.T,
        "slides_B": lora_alpha // rank * lora_b.T,
        "paper_A": lora_a,
        "paper_B": lora_b,
    }
