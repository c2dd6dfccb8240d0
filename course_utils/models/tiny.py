"""Make tiny random models and adapters for exercises and tests, and compute their losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from course_utils.machine.validation import one_of
from course_utils.models.load import make_safe_to_evaluate, nf4_config
from course_utils.models.silence import silence_transformers
from course_utils.models.supported import QUANTIZATIONS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# The formats to which `tiny_rounded` rounds: the data type of the 4-bit codes, and whether the
# constants of the blocks are quantized, too; None for float32, which rounds nothing.
TINY_FORMATS = {
    "NF4 with double quantization": ("nf4", True),
    "NF4 without double quantization": ("nf4", False),
    "FP4 with double quantization": ("fp4", True),
    "FP4 without double quantization": ("fp4", False),
    "float32": None,
}


def tiny_base(
    seed: int = 0, *, quantization: str | None = "nf4", layers: int = 2
) -> LlamaForCausalLM:
    """Make a tiny Llama with random weights, quantized in the same way as the base model.

    The hidden states have width 64. Each layer has 4 query heads of width 16, which share 2
    key-value heads, and an MLP of width 128. The vocabulary has 96 tokens, and the output head
    shares its weights with the embedding. The model has 6,208 parameters outside its layers and
    36,992 in each layer. The 7 matrices of a layer have 36,864 parameters, and each of their rows
    consists of complete blocks of 64.

    Weights that are not quantized are float32. Matrix products with NF4 weights are also computed
    in float32. So two correct ways to compute a gradient differ only by the rounding of float32.
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
        # The weights are larger than with transformers' default of 0.02, so that adapters can
        # change the logits.
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
                # Without this map, the 4-bit weights would be on a GPU if the machine has one.
                device_map={"": "cpu"},
            )
        make_safe_to_evaluate(model)
        # If the name stayed "None", peft would ask the hub for a repository of this name.
        model.name_or_path = ""
    return model.eval()


def tiny_rounded(seed: int, name: str) -> LlamaForCausalLM:
    """Make `tiny_base` in float32, with its linear layers rounded to one of TINY_FORMATS."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    one_of("name", name, tuple(TINY_FORMATS))
    model = tiny_base(seed, quantization=None)
    if quantization := TINY_FORMATS[name]:
        kind, double = quantization
        for parameter in (p for n, p in model.named_parameters() if "_proj" in n):
            codes = quantize_4bit(parameter.data, quant_type=kind, compress_statistics=double)
            parameter.data = dequantize_4bit(*codes)
    return model


def tiny_losses(
    seed: int, input_ids: torch.Tensor, labels: torch.Tensor
) -> dict[str, dict[int, float]]:
    """Compute the mean loss of `tiny_base` in each format, also with wrongly shifted labels.

    Args:
        input_ids: token ids of shape (batch, length), int64.

    Returns:
        The loss in nats per token that has a loss, by the format, which is a key of TINY_FORMATS,
        and by the shift, which is the number of tokens by which a position predicts ahead. The
        right shift is 1. The others are 0 and 2: each position predicts its own token, or the token
        after the next one.
    """
    losses: dict[str, dict[int, float]] = {}
    for name in TINY_FORMATS:
        logits = tiny_rounded(seed, name)(input_ids).logits.detach().transpose(1, 2)
        losses[name] = {
            shift: torch.nn.functional.cross_entropy(
                logits[..., : input_ids.shape[1] - shift], labels[:, shift:]
            ).item()
            for shift in (1, 0, 2)
        }
    return losses


def tiny_adapters(
    seed: int = 0,
    *,
    rank: int = 4,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    layers: int = 2,
    trained: bool = True,
) -> dict[str, torch.Tensor]:
    """Make random LoRA adapters for `tiny_base`.

    Args:
        trained: whether B is random, as in adapters that have been trained. Otherwise B is zero.

    Returns:
        A dict from peft's parameter names to the float32 matrices A (r, in) and B (out, r).
    """
    generator = torch.Generator().manual_seed(seed)
    adapters = {}
    for name, layer in tiny_base(quantization=None, layers=layers).named_modules():
        if name.rpartition(".")[2] in targets:
            shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
            for matrix, shape in shapes.items():
                key = f"base_model.model.{name}.lora_{matrix}.default.weight"
                values = torch.randn(shape, generator=generator) / 8
                adapters[key] = values if trained or matrix == "A" else torch.zeros(shape)
    return adapters
