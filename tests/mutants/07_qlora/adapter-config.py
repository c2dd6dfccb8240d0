# %% base default: a right answer, which the answers below change unless they name another base
def adapter_arguments(rank, scale):
    if rank < 1 or scale <= 0:
        raise ValueError(f"{rank}, {scale}")
    return {
        "r": rank,
        "lora_alpha": round(scale * rank),
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }


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
old = '"lora_alpha": round(scale * rank),'
new = '"lora_alpha": scale,'


# %% wrong twice-rank: the usual α = 2r, whatever the scale
old = '"lora_alpha": round(scale * rank),'
new = '"lora_alpha": 2 * rank,'


# %% wrong root: α/√r, as in rank-stabilized LoRA
old = '"lora_alpha": round(scale * rank),'
new = '"lora_alpha": scale * rank**0.5,'


# %% wrong attention: adapters on queries and values alone
old = '"target_modules": "all-linear",'
new = '"target_modules": ["q_proj", "v_proj"],'


# %% wrong unchecked: takes any rank and scale
old = """
    if rank < 1 or scale <= 0:
        raise ValueError(f"{rank}, {scale}")
"""
new = ""


# %% wrong only-zero: raises for a rank of 0, not for one below
old = "if rank < 1 or scale <= 0:"
new = "if rank == 0 or scale <= 0:"


# %% wrong whole-alpha: cuts α down to an int, which may be too small by 1
base = "solution"
old = '"lora_alpha": round(scale * rank),'
new = '"lora_alpha": int(scale * rank),'


# %% wrong names: names the seven linear layers of a Llama
base = "solution"
old = '        "target_modules": "all-linear",'
new = """
        "target_modules": [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
"""


# %% wrong inverse: divides the rank by the scale
base = "solution"
old = '"lora_alpha": round(scale * rank),'
new = '"lora_alpha": rank / scale,'


# %% wrong other-task: takes the model for an encoder and a decoder
base = "solution"
old = '"task_type": "CAUSAL_LM",'
new = '"task_type": "SEQ_2_SEQ_LM",'


# %% wrong task-type: returns a member of peft.TaskType instead of a string
def adapter_arguments(rank: int, scale: float) -> dict:
    from peft import TaskType

    if rank < 1 or not scale > 0:
        raise ValueError(f"rank and scale must be above 0, got {rank} and {scale}")
    return {
        "r": rank,
        "lora_alpha": round(scale * rank),
        "target_modules": "all-linear",
        "task_type": TaskType.CAUSAL_LM,
    }


# %% wrong negative-scale: refuses a scale of 0, but not one below
base = "solution"
old = "if rank < 1 or not scale > 0:"
new = "if rank < 1 or scale == 0:"


# %% wrong visible: knows the visible checks' α, and otherwise takes the usual 2r
base = "solution"
old = '"lora_alpha": round(scale * rank),'
new = '"lora_alpha": {(8, 2.0): 16, (64, 0.25): 16, (3, 5.0): 15}.get((rank, scale), 2 * rank),'


# %% wrong large-rank: refuses ranks above 256
old = "if rank < 1 or scale <= 0:"
new = "if not 1 <= rank <= 256 or not scale > 0:"


# %% wrong large-scale: refuses scales above 100
base = "solution"
old = "not scale > 0"
new = "not 0 < scale <= 100"
