"""Train QLoRA adapters of two ranks and two seeds, and save the matrices A of one layer.

    python -m workshop.benchmarks.evidence.subspaces

Lecture 08 and its assignment ask which directions adapters share (the LoRA paper, section 7.2).
Each matrix A has the shape (rank, 576). It is saved in float16 in course_utils/data, under a name
such as "rank 64, seed 1, q_proj".
"""

from __future__ import annotations

import tempfile

import torch
from safetensors.torch import save_file

from course_utils.evidence import ALL
from course_utils.training import Recipe, attach_adapters, finetune
from workshop.benchmarks.evidence.plan import WAYS
from workshop.benchmarks.evidence.smollm2 import encoded_stories, load
from workshop.benchmarks.runner import ROOT

DATA = ROOT / "course_utils" / "data" / "adapters.safetensors"
RUNS = ((8, 0), (64, 0), (64, 1))
ALPHA, LAYER, TARGETS = 16, 15, ("q_proj", "v_proj")


def matrices(rank: int, seed: int) -> dict[str, torch.Tensor]:
    """Train adapters on the news briefs, and return the matrices A of one layer by their names."""
    model, tokenizer = load(WAYS["nf4-dq"])
    recipe = Recipe(rank=rank, alpha=ALPHA, seed=seed, gradient_checkpointing=False)
    model = attach_adapters(model, recipe)
    rows = encoded_stories(tokenizer, ALL, seed)
    with tempfile.TemporaryDirectory() as folder:
        finetune(model, tokenizer, rows, recipe=recipe, output_dir=folder)
    attention = model.get_base_model().model.layers[LAYER].self_attn
    layers = {name: getattr(attention, name) for name in TARGETS}
    return {
        f"rank {rank}, seed {seed}, {name}": layer.lora_A["default"].weight.detach().half()
        for name, layer in layers.items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    saved = {key: A for run in RUNS for key, A in matrices(*run).items()}
    save_file(saved, DATA)
    print(f"{len(saved)} matrices are saved in {DATA}")
