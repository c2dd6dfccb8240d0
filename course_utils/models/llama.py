"""Which models the course computes by hand on a CPU: Llamas with plain LoRA or no adapter.

`training.by_hand` and `decoding` compute such models with PyTorch alone, without the forward passes
of transformers and peft. Every other model is computed by transformers and peft.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from course_utils.models.load import dequantized
from course_utils.models.products import Float32Linear

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import LlamaForCausalLM, PreTrainedModel

# The names of the linear layers in transformers.
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
DTYPES = (torch.float32, torch.bfloat16)


class Adapter(NamedTuple):
    """The matrices A, (r, in), and B, (out, r), of an adapter, and its scale s = α/r."""

    A: Tensor
    B: Tensor
    scale: float


def base_llama(model: PreTrainedModel | PeftModel) -> LlamaForCausalLM | None:
    """Return the Llama in a model, or None if the course can't compute the model by hand.

    The Llama must be on the CPU, and have SiLU, no biases, and rotary embeddings whose angles don't
    depend on the length of the input. SmolLM2 is such a Llama.
    """
    from transformers import LlamaForCausalLM

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, LlamaForCausalLM) or base.device.type != "cpu":
        return None
    config, rotary = base.config, base.model.rotary_emb
    standard = (
        config.hidden_act == "silu"
        and rotary.attention_scaling == 1
        and rotary.rope_type not in ("dynamic", "longrope")
        # Modules that are trained as a whole or have an adapter have other types.
        and type(base.model.embed_tokens) is nn.Embedding
        and type(base.lm_head) in (nn.Linear, Float32Linear)
        and all(base_layer(layer).bias is None for layer in (base.lm_head, *linears(base)))
    )
    return base if standard else None


def linears(base: LlamaForCausalLM) -> Iterator[Any]:
    """Yield the seven linear layers of each layer of a Llama, with their adapters."""
    for layer in base.model.layers:
        yield from (getattr(layer.self_attn, name) for name in ATTENTION)
        yield from (getattr(layer.mlp, name) for name in MLP)


def base_layer(layer: Any) -> Any:
    """Return the layer without the adapter that peft has added to it, if there is one."""
    return getattr(layer, "base_layer", layer)


def four_bit_state(layer: Any) -> Any:
    """Return the state with which the weight of a 4-bit layer is dequantized, or None."""
    return getattr(layer.weight, "quant_state", None)


def product_dtype(layer: Any) -> Any:
    """Return the dtype in which a linear layer computes, or None if it can't be used by hand."""
    if state := four_bit_state(layer):
        repacked = getattr(state, "packing_format_for_cpu", False)
        return None if repacked else layer.compute_dtype
    # Libraries for other formats keep the class of the layer and replace the class of its weight.
    if type(layer.weight) is not nn.Parameter:
        return None
    if type(layer) is Float32Linear:
        return torch.float32
    return layer.weight.dtype if type(layer) is nn.Linear else None


def dense_weight(layer: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight W of a linear layer, (out, in), dequantized and converted to `dtype`."""
    state = four_bit_state(layer)
    return dequantized(layer.weight.data, state, dtype) if state else layer.weight.data.to(dtype)


def adapter_of(layer: Any) -> Adapter:
    """Return the active adapter of a layer, or an empty adapter of rank 0 if it has none."""
    if not hasattr(layer, "lora_A"):
        return Adapter(torch.empty(0, layer.in_features), torch.empty(layer.out_features, 0), 0.0)
    (name,) = layer.active_adapters
    return Adapter(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])


def has_plain_adapters(layers: Iterable[Any]) -> bool:
    """Return whether each layer has no adapter, or one active adapter that is plain LoRA.

    Plain LoRA computes y = x Wᵀ + s (x Aᵀ) Bᵀ. DoRA and other variants compute something else.
    Adapters that are merged or disabled don't count as plain.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    return all(_is_plain(layer) for layer in layers if isinstance(layer, BaseTunerLayer))


def _is_plain(layer: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    if not isinstance(layer, LoraLayer) or layer.disable_adapters or layer.merged:
        return False
    names = layer.active_adapters
    return (
        len(names) == 1
        and names[0] in layer.lora_A
        and layer.lora_B[names[0]].bias is None
        and names[0] not in layer.lora_variant
    )
