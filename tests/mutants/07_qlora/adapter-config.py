# %% right as-float: leaves α a float, and checks one after the other
def adapter_arguments(rank, scale):
    if rank <= 0:
        raise ValueError("rank")
    if scale <= 0:
        raise ValueError("scale")
    alpha = rank * scale
    return dict(task_type="CAUSAL_LM", target_modules="all-linear", lora_alpha=alpha, r=rank)


# %% right from-config: fills a LoraConfig and reads it out
def adapter_arguments(rank, scale):
    if min(rank, scale) <= 0:
        raise ValueError(f"{rank}, {scale}")
    config = LoraConfig(
        r=rank,
        lora_alpha=round(rank * scale),
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return {name: getattr(config, name) for name in ("r", "lora_alpha", "target_modules")} | {
        "task_type": str(config.task_type.value)
        if hasattr(config.task_type, "value")
        else config.task_type
    }


# %% wrong alpha-is-scale: takes α for the factor itself
def adapter_arguments(rank, scale):
    if rank < 1 or scale <= 0:
        raise ValueError(f"{rank}, {scale}")
    return {
        "r": rank,
        "lora_alpha": scale,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }


# %% wrong twice-rank: the usual α = 2r, whatever the scale
def adapter_arguments(rank, scale):
    if rank < 1 or scale <= 0:
        raise ValueError(f"{rank}, {scale}")
    return {
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }


# %% wrong root: α/√r, as in rank-stabilized LoRA
def adapter_arguments(rank, scale):
    if rank < 1 or scale <= 0:
        raise ValueError(f"{rank}, {scale}")
    return {
        "r": rank,
        "lora_alpha": scale * rank**0.5,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }


# %% wrong attention: adapters on queries and values alone
def adapter_arguments(rank, scale):
    if rank < 1 or scale <= 0:
        raise ValueError(f"{rank}, {scale}")
    return {
        "r": rank,
        "lora_alpha": int(scale * rank),
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }


# %% wrong unchecked: takes any rank and scale
def adapter_arguments(rank, scale):
    return {
        "r": rank,
        "lora_alpha": int(scale * rank),
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }


# %% wrong only-zero: raises for a rank of 0, not for one below
def adapter_arguments(rank, scale):
    if rank == 0 or scale <= 0:
        raise ValueError(f"{rank}, {scale}")
    return {
        "r": rank,
        "lora_alpha": int(scale * rank),
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }
