"""Tiny random models and adapters for exercises and tests, made in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from course_utils.models.load import QUANTIZATIONS, make_safe_to_evaluate, nf4_config
from course_utils.models.silence import silence_transformers
from course_utils.validation import one_of

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def tiny_base(
    seed: int = 0, *, quantization: str | None = "nf4", layers: int = 2
) -> LlamaForCausalLM:
    """Make a random Llama that is quantized in the same way as the base model.

    Its width is 64, with 4 query heads of width 16 that share 2 key-value heads, an MLP of width
    128 and 96 tokens; the output head is the embedding. It has 6,208 parameters and 36,992 more
    for each layer, 36,864 of them in the layer's 7 matrices, whose rows are whole blocks of 64.
    What is not quantized is float32, and so are NF4's products. So two correct ways to compute a
    gradient differ by the rounding of float32 alone.

    Args:
        seed: seed of the weights. PyTorch's own random numbers are not affected.
        quantization: "nf4" with double quantization, or None for float32 weights.
        layers: number of layers.

    Returns:
        The model on the CPU, in eval mode and safe to evaluate.

    Raises:
        ValueError: another quantization was asked for.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    one_of("quantization", quantization, QUANTIZATIONS)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        # Large enough that adapters can change the logits.
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    if quantization == "nf4":
        with silence_transformers():
            model = LlamaForCausalLM.from_pretrained(
                None,
                config=config,
                state_dict=model.state_dict(),
                dtype=torch.float32,
                quantization_config=nf4_config(torch.float32),
                # Without this, the 4-bit weights would be on a GPU if there is one.
                device_map={"": "cpu"},
            )
        make_safe_to_evaluate(model)
        # Otherwise peft would ask the hub for a repository of the name "None".
        model.name_or_path = ""
    return model.eval()


def tiny_adapters(
    seed: int = 0, *, rank: int = 4, targets: Sequence[str] = ("q_proj", "v_proj"), layers: int = 2
) -> dict[str, torch.Tensor]:
    """Make random LoRA adapters for `tiny_base`, as if they were trained: neither A nor B is zero.

    Args:
        seed: seed of the adapters.
        rank: rank r of the adapters.
        targets: names of the linear layers with adapters, such as "q_proj".
        layers: number of layers of the base.

    Returns:
        The adapters by the names that peft gives its parameters: A (r, in) and B (out, r), float32.
    """
    generator = torch.Generator().manual_seed(seed)
    adapters = {}
    for name, layer in tiny_base(quantization=None, layers=layers).named_modules():
        if name.rpartition(".")[2] in targets:
            shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
            for matrix, shape in shapes.items():
                key = f"base_model.model.{name}.lora_{matrix}.default.weight"
                adapters[key] = torch.randn(shape, generator=generator) / 8
    return adapters
